"""The figures of a card in one call: is it right there, and how fast is what, the most valuable first.

Every row stands in the JSON file as soon as it is measured, so that a call that is cut off loses one.
"""

import contextlib
import copy
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import common
import reference
import stages
import torch
import ways
from torch import Tensor, nn

from diffusegen_core.chapters import train
from diffusegen_core.config import devices, params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.diffusion.guided import guided, load_judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import Network
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels
from diffusegen_core.diffusion.training import State
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

RESPACING, JUMP_LENGTH, RESAMPLING = 11, 10, 5  # 51 network calls an image, as RePaint has them
GUIDED_STEPS = 6
PRECISIONS = ("fp32", "bf16")
RESUMED_STEPS = 8
TOGETHER = 4  # images, to compare with the same alone
MATMUL, COPY = 8192, 2**30  # side of the product; bytes of the copy
SMALL = "kvasir_cpu.yaml"  # whose network tells of correctness
TINY = {"data.image_size": 16, "model.base_channels": 32, "model.channel_mult": [1, 2], "model.res_blocks": 1,
        "model.attention_resolutions": [8], "model.head_channels": 32, "style.backbone": "timm/test_nfnet",
        "style.backbone_size": 32, "style.zecon_blocks": None, "style.respacing": 4, "style.skip": 2,
        "segment.decoder_channels": [8, 8, 8], "train.batch_size": 4, "train.micro_batch": None}


@dataclass(frozen=True)
class Bench:
    """What every stage needs."""

    call: stages.Call
    device: torch.device
    paper: Params
    """The paper's network, at 256 px."""
    small: Params
    """A network whose errors say as much, in a second."""
    one_gpu: Params
    rounds: int
    facts: dict[str, float]
    """Of the machine: `flop`, its bf16 rate; of the paper's network, `work`: operations of a call."""


def load(profile: str, device: str, tiny: bool, **changes: Any) -> Params:
    """A profile for this device, with random weights of networks that look, and tiny for a rehearsal."""
    own = {"device": device, "style.weights": "random", "style.vgg_weights": "random",
           **{name.replace("__", "."): value for name, value in changes.items()}, **(TINY if tiny else {})}
    values = params.load(common.ROOT / "params" / profile)
    return params.validate(params.merged(values, own))


def changed(p: Params, section: str, **changes: Any) -> Params:
    return p.model_copy(update={section: getattr(p, section).model_copy(update=changes)})


def made(call: stages.Call, device: torch.device, tiny: bool, rounds: int) -> Bench:
    name = str(device)
    paper = load("paper.yaml", name, tiny)
    return Bench(call, device, paper, load(SMALL, name, tiny, style__backbone="mobilenet_v2"),
                 load("one_gpu.yaml", name, tiny), rounds, {"work": common.forward_flop(paper)})


def run(call: stages.Call, device: torch.device, tiny: bool = False, rounds: int = 6,
        code: Path | None = None) -> None:
    """All stages, in the order of their worth, as far as there is time; `code` is the authors' checkout."""
    bench = made(call, device, tiny, rounds)
    call.stage("machine", partial(machine, bench, 256 if tiny else MATMUL, 2**20 if tiny else COPY))
    bench.facts["flop"] = call.record.stages.get("machine", {}).get("bf16_matmul_flop", float("nan"))
    call.stage("errors", partial(errors, bench))
    call.stage("training errors", partial(training_errors, bench))
    call.stage("independence of RePaint", partial(independence, bench, repainted))
    call.stage("independence of styling", partial(independence, bench, styled))
    call.stage("resume", partial(resume, bench))
    call.section("training", partial(training, bench, TRAINING))
    call.section("inpainting", partial(inpainting, bench))
    call.section("styling", partial(styling, bench))
    if code:
        call.section("authors' code", lambda: authors(bench, reference.load(code)))
    call.stage("where a step's time goes", partial(kernel_times, bench), least=20)
    call.section("more training", partial(training, bench, MORE))
    call.section("one_gpu", partial(profile_training, bench))
    if not tiny:
        call.stage("smoke of train", partial(smoke, bench), least=30)
        call.stage("compiled", partial(compiled, bench), least=45)


# ---- the machine


def machine(b: Bench, side: int, size: int) -> dict[str, Any]:
    """The device's name, the versions, and its two ceilings: a bf16 product and a copy."""
    rate = common.matmul_rate(b.device, side)
    block = torch.randint(256, (size,), dtype=torch.uint8, device=b.device)
    other = torch.empty_like(block)
    copied = min(common.seconds(lambda: other.copy_(block), b.device) for _ in range(6))
    found = {"device": devices.name(str(b.device)), "versions": files.versions(),
             "bf16_matmul_flop": rate, "copy_bytes_a_second": 2 * size / copied,
             "work_of_a_call_flop": b.facts["work"], "date": date.today().isoformat()}
    if b.device.type == "cuda":
        found |= {"cudnn": torch.backends.cudnn.version(), "cuda": torch.version.cuda,
                  "memory_gb": round(torch.cuda.get_device_properties(b.device).total_memory / 1e9, 1)}
    return found


# ---- correctness


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def answer(net: UNet, x: Tensor, t: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """What a network says, and the gradient of its mean square by all weights."""
    net.zero_grad()
    with devices.exact(), devices.autocast(x.device, precision):
        output = net(x, t)
    output.float().square().mean().backward()
    return output.float().detach(), torch.cat([w.grad.float().flatten() for w in net.parameters()])


def errors(b: Bench) -> dict[str, Any]:
    """Relative errors of output and gradient of each way against fp32 without TF32, of the small network; of
    the paper's, of the output."""
    base = ways.network(b.small, b.device)
    side = b.small.data.image_size
    g = seeds.generator(0, "errors", device=b.device)
    x = torch.randn(4, 4, side, side, generator=g, device=b.device)
    t = torch.tensor([0.0, 120.0, 500.0, 999.0], device=b.device)
    wanted, found = answer(copy.deepcopy(base), x, t, "fp32"), {}
    for layout, precision in (("plain", "fp32"), ("plain", "bf16"), ("channels_last", "bf16"),
                              *((("fused", "fp32"), ("fused", "bf16")) if kernels(b) else ())):
        got = answer(ways.laid_out(copy.deepcopy(base), layout), x, t, precision)
        found[f"{layout} {precision}"] = {"output": relative(got[0], wanted[0]),
                                          "gradient": relative(got[1], wanted[1])}
    return {"small network": found, "paper's network": paper_errors(b)}


def paper_errors(b: Bench) -> dict[str, float]:
    base = ways.network(b.paper, b.device).eval().requires_grad_(False)
    side = b.paper.data.image_size
    x = torch.randn(1, 4, side, side, generator=seeds.generator(0, "errors", device=b.device),
                    device=b.device)
    t, found = torch.tensor([500.0], device=b.device), {}

    def said(net: UNet, precision: str) -> Tensor:
        with torch.no_grad(), devices.exact(), devices.autocast(b.device, precision):
            return net(x, t).float()

    wanted = said(base, "fp32")
    found["plain bf16"] = relative(said(copy.deepcopy(base).fixed("bf16"), "bf16"), wanted)
    if kernels(b):
        found["fused fp32"] = relative(said(ways.laid_out(copy.deepcopy(base), "fused"), "fp32"), wanted)
        fast = ways.laid_out(copy.deepcopy(base).fixed("bf16"), "fused")
        found["fused bf16"] = relative(said(fast, "bf16"), wanted)
        with devices.autocast(b.device, "bf16"):
            graphed = ways.GraphedCall(fast, x, "bf16")
        found["fused bf16, graph, against the same without"] = relative(graphed(x, t).float(),
                                                                         said(fast, "bf16"))
    return found


def kernels(b: Bench) -> bool:
    """Whether the kernels of `fused` run here."""
    return b.device.type == "cuda" and not b.call.record.facts.get("pretended")


def training_errors(b: Bench) -> dict[str, Any]:
    """After four steps from the same weights: how far each way's weights are from eager fp32's, over how far
    those went."""
    p, found = changed(b.small, "train", lr=1e-4), {}
    base = ways.network(p, b.device)
    x = common.pixels(p, 16, b.device)
    start = nn.utils.parameters_to_vector(base.parameters()).detach().clone()

    def after(trainer: ways.Trainer) -> Tensor:
        for _ in range(4):
            trainer.step(x)
        state = trainer.state("master")
        return torch.cat([state[name].flatten() for name, _ in base.named_parameters()])

    exact = common.training_of(changed(p, "train", precision="fp32"))
    rounded = common.training_of(p)
    wanted = after(ways.Eager(exact, copy.deepcopy(base))) - start
    found["eager bf16"] = relative(after(ways.Eager(rounded, copy.deepcopy(base))) - start, wanted)
    if kernels(b):
        for name, made in (("fused", lambda: ways.Eager(rounded, copy.deepcopy(base), "fused")),
                           ("fused, fp32", lambda: ways.Eager(exact, copy.deepcopy(base), "fused")),
                           ("flat graph", lambda: ways.Flat(rounded, copy.deepcopy(base)))):
            found[name] = relative(after(made()) - start, wanted)
    return {"relative to eager fp32": found}


def own_noise(b: Bench, images: Iterable[int]) -> list[torch.Generator]:
    return [seeds.generator(0, "noise", i, device=b.device) for i in images]


def around(x: Tensor) -> Tensor:
    """What is known of images (B, 4, S, S) where the middle is to be filled, (B, 1, S, S)."""
    known, middle = torch.ones_like(x[:, :1]), slice(x.shape[2] // 4, 3 * x.shape[2] // 4)
    known[:, :, middle, middle] = 0
    return known


def repainted(b: Bench, diffusion: Diffusion, chosen: list[int]) -> Tensor:
    """Chapter 3 of some of the images."""
    x = common.pixels(b.small, 8, b.device)[chosen].float() / 127.5 - 1
    levels = repaint_levels(RESPACING, JUMP_LENGTH, 2)
    return repaint(diffusion.respaced(RESPACING), x, around(x), levels, own_noise(b, chosen)).clone()


def styled(b: Bench, diffusion: Diffusion, chosen: list[int]) -> Tensor:
    """Chapter 4 of some of the images."""
    p = b.small
    x = common.pixels(p, 16, b.device).float() / 127.5 - 1
    levels = list(reversed(range(min(8, p.style.respacing - p.style.skip))))
    judge = load_judge(p.style, p.model, p.seed, b.device)
    return guided(diffusion.respaced(p.style.respacing), judge, x[chosen], x[8:][chosen, :3], levels,
                  own_noise(b, chosen))[0].detach()


def independence(b: Bench, work: Callable[..., Tensor]) -> dict[str, Any]:
    """How far images made together are from the same made alone, again, and in another order."""
    found, everyone = {}, list(range(TOGETHER))
    cases = [("plain", precision) for precision in PRECISIONS]
    if kernels(b):
        cases.append(("fused", "bf16"))
    for layout, precision in cases:
        net = sampling(ways.network(b.small, b.device), layout, precision)
        diffusion = ways.diffusion(b.small, net, b.device, precision)
        together = work(b, diffusion, everyone)
        alone = torch.cat([work(b, diffusion, [i]) for i in everyone])
        again = work(b, diffusion, everyone)
        turned = work(b, diffusion, everyone[::-1]).flip(0)
        found[f"{layout} {precision}"] = {name: apart(together, other) for name, other in
                                          (("alone", alone), ("again", again), ("in another order", turned))}
    return {"apart": found}


def apart(a: Tensor, b: Tensor) -> dict[str, float]:
    """How far two sets of images in [-1, 1] are apart: at most, in the mean, and as bytes."""
    bytes_a, bytes_b = (dataset.to_bytes(x.float().cpu().numpy()) for x in (a, b))
    difference = (a.float() - b.float()).abs()
    return {"most": float(difference.max()), "mean": float(difference.mean()),
            "share of bytes that differ": float((bytes_a != bytes_b).mean()),
            "most in grey levels": int(abs(bytes_a.astype(int) - bytes_b.astype(int)).max())}


class Stopped(BaseException):
    """Stands in for a kill: no code of the package catches it."""


def resume(b: Bench) -> dict[str, Any]:
    """A few steps at once, the same again, and the same stopped after the checkpoint of the middle one."""
    p = changed(b.small, "train", batch_size=4, images=4 * RESUMED_STEPS, checkpoint_every=RESUMED_STEPS // 2,
                preview_every=1000, preview_images=1, preview_steps=2)
    rng = seeds.rng(0, "resume")
    side = p.data.image_size
    pairs = dataset.gather([str(i) for i in range(16)], rng.integers(256, size=(16, 3, side, side)),
                           rng.integers(2, size=(16, 1, side, side)))
    keep = train._keep

    def stopping(state: State, folder: Path, recipe: Recipe) -> None:
        keep(state, folder, recipe)
        if state.step == RESUMED_STEPS // 2:
            raise Stopped

    def fitted(folder: Path) -> Path:
        ws = Workspace(folder, p.seed, str(b.device))
        stored = dataset.keep(ws, "data", pairs).stored
        return train.train_model(ws, "resume", stored, list(range(len(pairs))), p.train, p.model,
                                 p.process).path

    def weights(folder: Path) -> Tensor:
        return torch.cat([value.flatten() for value in checkpoints.read(fitted(folder))[0].values()])

    with tempfile.TemporaryDirectory() as home:
        whole, again, stopped = (Path(home) / name for name in ("whole", "again", "stopped"))
        with mock.patch.object(train, "_keep", stopping), contextlib.suppress(Stopped):
            fitted(stopped)
        left = bool(list(stopped.rglob(train.CHECKPOINT)))
        first = weights(whole)
        return {"checkpoint left": left, "steps": RESUMED_STEPS,
                **{name: {"equal": torch.equal(first, other), "relative": relative(other, first)}
                   for name, other in (("again", weights(again)), ("stopped and resumed", weights(stopped)))}}


# ---- time


def timed(b: Bench, call: Callable[[], object], images: int, warm: Callable[[], object] | None = None,
          rounds: int | None = None) -> dict[str, Any]:
    """Seconds of a call after one to warm up, images a second, and the most memory, the weights included."""
    first = common.seconds(warm or call, b.device)
    if b.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(b.device)
    taken = [common.seconds(call, b.device) for _ in range(rounds or b.rounds)]
    found = {"images": images, "first_seconds": first, "seconds": taken,
             "images_per_second": images / statistics.median(taken), "slowest": images / max(taken),
             "fastest": images / min(taken)}
    if b.device.type == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated(b.device) / 1e9, 2)
        found["reserved_gb"] = round(torch.cuda.max_memory_reserved(b.device) / 1e9, 2)
    return found


BY_TRIAL = "cudnn by trial"
# What is measured, the most valuable first: batch, layout, kind of step.
TRAINING = [(1, "plain", "eager"), (1, "fused", "flat graph"), (8, "plain", "eager"),
            (8, "fused", "flat graph"), (1, "channels_last", "eager"), (1, "fused", "eager"),
            (8, "channels_last", "eager"), (8, "fused", "eager"), (4, "plain", "eager"),
            (4, "fused", "flat graph"), (1, "plain", "graph"), (1, "fused", "graph")]
MORE = [(1, "fused", "flat graph, " + BY_TRIAL), (8, "fused", "flat graph, " + BY_TRIAL),
        (16, "fused", "flat graph"), (1, "plain", "eager, again")]


def training(b: Bench, wanted: list[tuple[int, str, str]]) -> None:
    """A step of so many images with its optimizer, of the paper's network in bf16, each way."""
    base = None
    for batch, layout, kind in wanted:
        if layout == "fused" and not kernels(b):
            continue
        name = f"training, batch {batch}: {layout}, {kind}"
        if b.call.clock.left < 20 or b.call.record.done(name):
            continue
        if base is None:
            base = ways.network(b.paper, b.device)
        b.call.stage(name, partial(training_row, b, base, batch, layout, kind))


def training_row(b: Bench, base: UNet, batch: int, layout: str, kind: str) -> dict[str, Any]:
    p = changed(b.paper, "train", batch_size=batch, micro_batch=None, precision="bf16")
    x = common.pixels(p, 2 * batch, b.device)
    maker = {"eager": ways.Eager, "graph": ways.Graphed, "flat graph": ways.Flat}[kind.split(",")[0]]
    trial = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
    with trial if BY_TRIAL in kind else contextlib.nullcontext():
        trainer = maker(common.training_of(p), copy.deepcopy(base), layout)
        found = timed(b, lambda: trainer.step(x), batch)
    share = found["images_per_second"] * 3 * b.facts["work"] / b.facts["flop"]
    return {"batch": batch, "layout": layout, "kind": kind, **found, "share_of_matmul_rate": round(share, 4)}


def painted(b: Bench, diffusion: Diffusion, count: int, levels: list[int]) -> Tensor:
    """Chapter 3 of so many images."""
    x = common.pixels(b.paper, count, b.device).float() / 127.5 - 1
    return repaint(diffusion, x, around(x), levels, own_noise(b, range(count)))


# images together, layout, precision, graph, devices.exact()
SAMPLING = [(1, "plain", "bf16", False, True), (8, "plain", "bf16", False, True),
            (1, "fused", "bf16", True, True), (8, "fused", "bf16", True, True),
            (1, "plain", "fp32", False, True), (8, "fused", "bf16", False, True),
            (1, "fused", "bf16", False, True), (8, "channels_last", "bf16", False, True),
            (8, "plain", "bf16", False, False), (1, "plain", "fp32", False, False),
            (8, "fused", "bf16", False, False), (32, "fused", "bf16", False, True)]


def told(count: int, layout: str, precision: str, graph: bool, careful: bool) -> str:
    return ", ".join([f"{count} at a time", layout, precision, *(["graph"] if graph else []),
                      *([] if careful else ["without exact()"])])


def sampling(base: UNet, layout: str, precision: str) -> UNet:
    """A network to sample with, of the same weights."""
    return ways.laid_out(copy.deepcopy(base).eval().requires_grad_(False).fixed(precision), layout)


def inpainting(b: Bench) -> None:
    base = ways.network(b.paper, b.device)
    for case in SAMPLING:
        if (case[1] == "fused" and not kernels(b)) or b.call.clock.left < 25:
            continue
        b.call.stage(f"inpainting: {told(*case)}", partial(inpainting_row, b, base, *case))


def inpainting_row(b: Bench, base: UNet, count: int, layout: str, precision: str, graph: bool,
                   careful: bool) -> dict[str, Any]:
    net: Network = sampling(base, layout, precision)
    if graph:
        net = ways.GraphedCall(net, common.pixels(b.paper, count, b.device).float(), precision)
    diffusion = ways.diffusion(b.paper, net, b.device, precision, careful).respaced(RESPACING)
    levels = repaint_levels(RESPACING, JUMP_LENGTH, RESAMPLING)
    calls = network_calls(levels)
    found = timed(b, lambda: painted(b, diffusion, count, levels), count,
                  lambda: painted(b, diffusion, count, [2, 1, 0, -1]), rounds=2)
    share = found["images_per_second"] * calls * b.facts["work"] / b.facts["flop"]
    return {"layout": layout, "precision": precision, "graph": graph, "exact": careful, **found,
            "network_calls_an_image": calls, "share_of_matmul_rate": round(share, 4)}


STYLING = [(1, "plain", "bf16", False, True), (4, "plain", "bf16", False, True),
           (4, "fused", "bf16", False, True), (1, "fused", "bf16", False, True),
           (1, "plain", "fp32", False, True), (4, "channels_last", "bf16", False, True),
           (4, "plain", "bf16", False, False), (4, "fused", "bf16", False, False),
           (8, "fused", "bf16", False, True)]


def styling_params(b: Bench) -> tuple[Params, list[int]]:
    """Parameters, with semantic divergence in as large a share of the steps as in a whole styling."""
    p = b.paper
    levels = list(reversed(range(p.style.respacing - p.style.skip)))
    semantic = round(p.style.semantic_steps * GUIDED_STEPS / len(levels))
    return changed(p, "style", semantic_steps=semantic), levels[:GUIDED_STEPS]


def styling(b: Bench) -> None:
    base = ways.network(b.paper, b.device)
    for case in STYLING:
        if (case[1] == "fused" and not kernels(b)) or b.call.clock.left < 25:
            continue
        b.call.stage(f"styling: {told(*case)}", partial(styling_row, b, base, *case))


def styling_row(b: Bench, base: UNet, count: int, layout: str, precision: str, graph: bool,
                careful: bool) -> dict[str, Any]:
    p, levels = styling_params(b)
    judge = load_judge(p.style, p.model, p.seed, b.device)
    x = common.pixels(p, 2 * count, b.device).float() / 127.5 - 1
    net = sampling(base, layout, precision)
    diffusion = ways.diffusion(p, net, b.device, precision, careful).respaced(p.style.respacing)

    def work(levels: list[int]) -> None:
        guided(diffusion, judge, x[:count], x[count:, :3], levels, own_noise(b, range(count)))

    found = timed(b, lambda: work(levels), count, lambda: work(levels[:2]), rounds=3)
    return {"layout": layout, "precision": precision, "exact": careful, **found,
            "guided_steps_an_image": len(levels)}


# ---- the authors' code


def authors(b: Bench, code: reference.Code) -> None:
    """Their training at a batch of 1 and of 4, their inpainting and their styling, one image at a time."""
    def prepared(make: Callable[[], Callable[[], object]], rounds: int) -> dict[str, Any]:
        with torch.device(b.device):  # their networks are drawn there, which is quicker
            call = make()
        return timed(b, call, 1, rounds=rounds)

    def training(batch: int) -> dict[str, Any]:
        p = changed(b.paper, "train", batch_size=batch)
        x = common.pixels(p, 2 * batch, b.device)
        with torch.device(b.device):
            step = code.training(p, x)
        found = timed(b, step, batch, rounds=b.rounds)
        return {"batch": batch, **found, "share_of_matmul_rate": round(
            found["images_per_second"] * 3 * b.facts["work"] / b.facts["flop"], 4)}

    def inpainting() -> dict[str, Any]:
        x = common.pixels(b.paper, 1, b.device).float() / 127.5 - 1
        found = prepared(lambda: code.inpainting(b.paper, x, around(x), RESPACING), rounds=2)
        return {**found, "network_calls_an_image": 51}

    def styling() -> dict[str, Any]:
        p, levels = styling_params(b)
        x = common.pixels(p, 2, b.device).float() / 127.5 - 1
        judge = load_judge(p.style, p.model, p.seed, b.device)
        found = prepared(lambda: code.styling(p, judge, x[:1], x[1:, :3], len(levels)), rounds=3)
        return {**found, "guided_steps_an_image": len(levels)}

    for name, work in (("training, batch 1", partial(training, 1)), ("inpainting, one at a time", inpainting),
                       ("styling, one at a time", styling), ("training, batch 4", partial(training, 4))):
        b.call.stage(f"authors' code: {name}", work, least=20)


# ---- more


def profile_training(b: Bench) -> None:
    """The network of `one_gpu`, its batch: the package's step and the fastest one."""
    for layout, kind in (("plain", "eager"), ("fused", "flat graph")):
        if layout == "fused" and not kernels(b):
            continue
        b.call.stage(f"one_gpu, training: {layout}, {kind}", partial(profile_row, b, layout, kind), least=25)


def profile_row(b: Bench, layout: str, kind: str) -> dict[str, Any]:
    p = b.one_gpu
    x = common.pixels(p, 2 * p.train.batch_size, b.device)
    net = ways.network(p, b.device)
    trainer = (ways.Flat if kind == "flat graph" else ways.Eager)(common.training_of(p), net, layout)
    return {"batch": p.train.batch_size, "parameters": parameter_count(net),
            **timed(b, lambda: trainer.step(x), p.train.batch_size, rounds=b.rounds)}


def kernel_times(b: Bench) -> dict[str, Any]:
    """The kernels of the fastest step of one image, and of eight: how many there are, and the longest."""
    if not kernels(b):
        return {}
    base, found = ways.network(b.paper, b.device), {}
    for batch in (1, 8):
        p = changed(b.paper, "train", batch_size=batch, micro_batch=None, precision="bf16")
        x, trainer = common.pixels(p, 2 * batch, b.device), ways.Flat(common.training_of(p),
                                                                      copy.deepcopy(base))
        trainer.step(x)
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            trainer.step(x)
            torch.cuda.synchronize()
        events = [e for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
        events.sort(key=lambda e: e.self_device_time_total, reverse=True)
        found[f"batch {batch}"] = {
            "kernels": sum(e.count for e in events),
            "milliseconds": sum(e.self_device_time_total for e in events) / 1e3,
            "longest": [[e.key[:90], e.count, round(e.self_device_time_total / 1e3, 3)] for e in events[:40]]}
        del trainer
        stages.free()
    return found


def smoke(b: Bench) -> dict[str, Any]:
    """The other call, tiny: whether it goes through here."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, str(common.ROOT / "benchmarks" / "card.py"), "train", "--tiny", "--limit", "60",
             "--work", f"{home}/work", "--out", f"{home}/out"], capture_output=True, text=True,
            timeout=max(5.0, min(75.0, b.call.clock.left - 5)), env=own_clock())
        found = files.read_json(Path(home) / "out" / "train.json") or {}
        status = {name: stage.get("status") for name, stage in found.get("stages", {}).items()}
    return {"code": done.returncode, "output": (done.stdout + done.stderr)[-3000:], "stages": status}


def own_clock() -> dict[str, str]:
    """The environment of a process whose seconds begin with itself."""
    return {name: value for name, value in os.environ.items() if name != "CARD_BEGAN"}


def compiled(b: Bench) -> dict[str, Any]:
    """train.compile in a process of its own, which is ended where the compiler takes too long."""
    limit = max(10.0, b.call.clock.left - 8)
    try:
        done = subprocess.run([sys.executable, str(common.ROOT / "benchmarks" / "train.py"), "--ways",
                               "compiled_channels_last", "--rounds", "3", "-p", "train.batch_size", "4", "-p",
                               "train.micro_batch", "4", "--device", str(b.device), "--out",
                               str(b.call.record.path.with_name("compiled.json"))],
                              capture_output=True, text=True, timeout=limit, env=own_clock())
    except subprocess.TimeoutExpired:
        return {"found": f"not done after {limit:.0f} s"}
    return {"code": done.returncode, "output": (done.stdout + done.stderr)[-2000:],
            "found": files.read_json(b.call.record.path.with_name("compiled.json"))}
