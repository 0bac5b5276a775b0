"""Correctness on a card: each way against fp32, images made together against the same made alone, and a
training that was stopped and resumed against one that was not."""

import contextlib
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import common
import torch
import ways
from bench import Bench, sampling
from torch import Tensor, nn

from diffusegen_core.chapters import train
from diffusegen_core.config import devices
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.diffusion.guided import guided, load_judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import repaint, repaint_levels
from diffusegen_core.diffusion.training import State
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

PRECISIONS = ("fp32", "bf16")
RESPACING, JUMP_LENGTH, RESAMPLING = 11, 10, 2
RESUMED_STEPS = 8
TOGETHER = 4  # images to make together, and alone to compare


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def answer(net: UNet, x: Tensor, t: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """A network's output, and the gradient of its mean square with respect to all weights."""
    net.zero_grad()
    with devices.exact(), devices.autocast(x.device, precision):
        output = net(x, t)
    output.float().square().mean().backward()
    return output.float().detach(), torch.cat([w.grad.float().flatten() for w in net.parameters()])


def errors(b: Bench) -> dict[str, Any]:
    """Relative errors of each way against fp32 without TF32: of output and gradient for the small network, of
    the output for the paper's."""
    base = ways.network(b.small, b.device)
    side = b.small.data.image_size
    g = seeds.generator(0, "errors", device=b.device)
    x = torch.randn(4, 4, side, side, generator=g, device=b.device)
    t = torch.tensor([0.0, 120.0, 500.0, 999.0], device=b.device)
    wanted, found = answer(copy.deepcopy(base), x, t, "fp32"), {}
    for layout, precision in (("plain", "fp32"), ("plain", "bf16"), ("channels_last", "bf16"),
                              *((("fused", "fp32"), ("fused", "bf16")) if b.kernels else ())):
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
    found["plain bf16"] = relative(said(copy.deepcopy(base).cast_weights("bf16"), "bf16"), wanted)
    if b.kernels:
        found["fused fp32"] = relative(said(ways.laid_out(copy.deepcopy(base), "fused"), "fp32"), wanted)
        fast = ways.laid_out(copy.deepcopy(base).cast_weights("bf16"), "fused")
        found["fused bf16"] = relative(said(fast, "bf16"), wanted)
        with devices.autocast(b.device, "bf16"):
            graphed = ways.GraphedCall(fast, x, "bf16")
        found["fused bf16, graph, against the same without"] = relative(graphed(x, t).float(),
                                                                         said(fast, "bf16"))
    return found


def training_errors(b: Bench) -> dict[str, Any]:
    """How far each way's weights are from eager fp32's after four steps from the same start, relative to how
    far those moved."""
    p, found = common.changed(b.small, "train", lr=1e-4), {}
    base = ways.network(p, b.device)
    x = common.pixels(p, 16, b.device)
    start = nn.utils.parameters_to_vector(base.parameters()).detach().clone()

    def after(trainer: ways.Trainer) -> Tensor:
        for _ in range(4):
            trainer.step(x)
        state = trainer.state("master")
        return torch.cat([state[name].flatten() for name, _ in base.named_parameters()])

    exact = common.training_of(common.changed(p, "train", precision="fp32"))
    rounded = common.training_of(p)
    wanted = after(ways.Eager(exact, copy.deepcopy(base))) - start
    found["eager bf16"] = relative(after(ways.Eager(rounded, copy.deepcopy(base))) - start, wanted)
    if b.kernels:
        for name, made in (("fused", lambda: ways.Eager(rounded, copy.deepcopy(base), "fused")),
                           ("fused, fp32", lambda: ways.Eager(exact, copy.deepcopy(base), "fused")),
                           ("flat graph", lambda: ways.Flat(rounded, copy.deepcopy(base)))):
            found[name] = relative(after(made()) - start, wanted)
    return {"relative to eager fp32": found}


def own_noise(b: Bench, images: list[int]) -> list[torch.Generator]:
    return [seeds.generator(0, "noise", i, device=b.device) for i in images]


def repainted(b: Bench, diffusion: Diffusion, chosen: list[int]) -> Tensor:
    """Some of the images, inpainted as in chapter 3."""
    x = common.images(b.small, 8, b.device)[chosen]
    levels = repaint_levels(RESPACING, JUMP_LENGTH, RESAMPLING)
    return repaint(diffusion.respaced(RESPACING), x, common.around_the_middle(x), levels,
                   own_noise(b, chosen)).clone()


def styled(b: Bench, diffusion: Diffusion, chosen: list[int]) -> Tensor:
    """Some of the images, styled as in chapter 4."""
    p = b.small
    x = common.images(p, 16, b.device)
    levels = list(reversed(range(min(8, p.style.respacing - p.style.skip))))
    judge = load_judge(p.style, p.model, p.seed, b.device)
    return guided(diffusion.respaced(p.style.respacing), judge, x[chosen], x[8:][chosen, :3], levels,
                  own_noise(b, chosen))[0].detach()


def independence(b: Bench, work: Callable[..., Tensor]) -> dict[str, Any]:
    """How far images made together differ from the same made alone, again, and in another order."""
    found, everyone = {}, list(range(TOGETHER))
    cases = [("plain", precision) for precision in PRECISIONS]
    if b.kernels:
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
    """A few steps in one go, the same again, and the same stopped at the middle checkpoint and resumed."""
    p = common.changed(b.small, "train", batch_size=4, images=4 * RESUMED_STEPS,
                       checkpoint_every=RESUMED_STEPS // 2, preview_every=1000, preview_images=1,
                       preview_steps=2)
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
