"""Numerical equality before speed: each fast path against the plain fp32 one; and the benchmarks run."""

import argparse
import copy
import importlib.util
import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pretended import pretended
from torch import Tensor

from diffusegen_core.chapters import inpaint, style, tasks
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import process, training
from diffusegen_core.diffusion.guided import guided, load_judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import repaint, repaint_levels
from diffusegen_core.diffusion.unet import Attention, UNet
from diffusegen_core.store import seeds

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")
FP32, BF16 = 1e-5, 2e-2


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for other in ("common", "plain", "reference"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative in norm."""
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture
def p(nano: dict) -> Params:
    """A small network with attention in the encoder, the middle and the decoder."""
    nano["model"] = {**nano["model"], "channel_mult": [1, 2], "attention_resolutions": [8]}
    nano["train"] = {**nano["train"], "micro_batch": 2, "lr": 1e-4, "grad_clip": 1.0}
    return params.validate(nano)


def changed(p: Params, section: str, **changes: object) -> Params:
    return params.validate({**params.plain(p), section: {**params.plain(getattr(p, section)), **changes}})


def stirred(net: UNet) -> UNet:
    g = seeds.generator(0, "weights")
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=g))
    return net


def pixels(count: int, side: int = 16) -> Tensor:
    return torch.randint(256, (count, 4, side, side), dtype=torch.uint8, generator=seeds.generator(0, "x"))


def answer(net: UNet) -> tuple[Tensor, Tensor]:
    """What a network says to fixed images, and the gradient of its mean square by all weights."""
    x = pixels(3).float() / 127.5 - 1
    net.zero_grad()
    output = net(x, torch.tensor([0.0, 300.0, 999.0])).float()
    output.square().mean().backward()
    return output.detach(), torch.cat([weight.grad.flatten() for weight in net.parameters()])


def test_attention_by_the_fused_kernel_is_the_formula(p: Params, monkeypatch: pytest.MonkeyPatch):
    plain = benchmark("plain", monkeypatch)
    net = stirred(UNet(p.model, 16))
    slow = plain.made_plain(copy.deepcopy(net))
    assert sum(type(module) is plain.PlainAttention for module in slow.modules()) == 4
    assert sum(type(module) is Attention for module in net.modules()) == 4
    wanted = answer(slow)
    assert all(error(a, b) < FP32 for a, b in zip(answer(net), wanted, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(0 < error(a, b) < BF16 for a, b in zip(answer(net), wanted, strict=True))


def test_the_fused_kernel_is_the_one_that_runs(p: Params):
    with torch.profiler.profile() as profile:
        answer(stirred(UNet(p.model, 16)))
    names = {event.key for event in profile.key_averages()}
    assert any("flash_attention" in name for name in names)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients(p: Params, dropout: float):
    net = stirred(UNet(changed(p, "model", dropout=dropout).model, 16)).train()
    found = []
    for net.checkpointing in (False, True):
        torch.manual_seed(3)
        found.append(answer(net))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_checkpointing_keeps_less_for_the_gradient(p: Params):
    net, kept = stirred(UNet(p.model, 16)), []
    for net.checkpointing in (False, True):
        held: dict[int, int] = {}

        def keep(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = net(pixels(2).float(), torch.zeros(2))
        kept.append(sum(held.values()))
        del output
    assert kept[1] < kept[0] / 2


def test_compiled_steps_agree_and_keep_their_names(p: Params):
    net = stirred(UNet(changed(p, "model", channel_mult=[1], attention_resolutions=[]).model, 16))
    wanted, names = answer(net), list(net.state_dict())
    net.compile_blocks("aot_eager")  # captured and differentiated as for a GPU, without making kernels
    assert all(error(a, b) < FP32 for a, b in zip(answer(net), wanted, strict=True))
    assert list(net.state_dict()) == names


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_step_is_compiled_for_its_own_shapes(p: Params, checkpointing: bool):
    torch._dynamo.reset()
    net, shapes = stirred(UNet(p.model, 16)), []
    wanted = answer(net)

    def record(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        shapes.append([isinstance(x, (int, torch.SymInt)) or any(isinstance(side, torch.SymInt) for side in
                                                                 x.shape) for x in inputs])
        return graph

    net.checkpointing = checkpointing
    net.compile_blocks(record)
    found = answer(net)
    assert all(error(a, b) < FP32 for a, b in zip(found, wanted, strict=True))
    assert len(shapes) == len(net.input_blocks) + 1 + len(net.output_blocks)
    assert not any(any(symbolic) for symbolic in shapes)


@pytest.mark.slow
def test_steps_are_compiled_with_and_without_gradients_and_in_each_layout(p: Params):
    torch._dynamo.reset()
    graphs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = stirred(UNet(p.model, 16)).to(memory_format=layout)
        net.compile_blocks(lambda graph, _: graphs.append(graph) or graph)
        answer(net)
        with torch.no_grad():
            net(pixels(2).float(), torch.zeros(2))
    assert len(graphs) == 4 * (len(net.input_blocks) + 1 + len(net.output_blocks))


def test_the_encoder_stops_where_it_is_asked_to(p: Params):
    net = stirred(UNet(p.model, 16))
    x, t = pixels(2).float(), torch.zeros(2)
    whole, part = net.encode(x, t), net.encode(x, t, last=1)
    assert len(part) == 2 < len(whole)
    assert all(torch.equal(a, b) for a, b in zip(part, whole, strict=False))


def trained(module: ModuleType, p: Params, steps: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """History, weights and averaged weights of a few steps from stirred weights."""
    asked = training.Training("cluster-00", p.model, p.process, p.train, p.data.image_size, p.seed)
    s = process.schedule(p.process)
    state = module.start(asked, CPU)
    stirred(state.net), stirred(state.average)
    for _ in range(steps):
        module.optimize(asked, state, s, pixels(6))
    weights = (torch.nn.utils.parameters_to_vector(net.parameters()) for net in (state.net, state.average))
    return state.history.rows(), *(vector.detach() for vector in weights)


@pytest.mark.usefixtures("bf16")
def test_training_agrees_with_plain_training(p: Params, monkeypatch: pytest.MonkeyPatch):
    plain = benchmark("plain", monkeypatch)
    wanted = trained(plain, p)
    for found, bound in ((trained(training, p), FP32),
                         (trained(training, changed(p, "train", checkpointing=True)), FP32),
                         (trained(training, changed(p, "train", precision="bf16")), BF16)):
        assert [error(a, b) < bound for a, b in zip(found, wanted, strict=True)] == [True] * 3


def test_speed_is_no_part_of_a_recipe():
    assert {"compile", "checkpointing", "micro_batch"} <= set(tasks.IRRELEVANT)
    assert {"checkpointing", "batch_size"} <= set(style.IRRELEVANT)
    assert "batch_size" in inpaint.IRRELEVANT


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_rounded_once_style_to_the_same_bits(p: Params, checkpointing: bool):
    net = stirred(UNet(p.model, 16)).eval().requires_grad_(False)
    once = copy.deepcopy(net).cast_weights("bf16")
    once.checkpointing = checkpointing
    assert once.middle_block[1].qkv.weight.dtype == torch.bfloat16
    assert once.middle_block[1].norm.weight.dtype == torch.float32
    assert styled(p, net, "bf16").equal(styled(p, once, "bf16"))
    assert copy.deepcopy(net).cast_weights("fp32").out[2].weight.dtype == torch.float32


def styled(p: Params, net: UNet, precision: str) -> Tensor:
    x = pixels(4).float() / 127.5 - 1
    judge = load_judge(p.style, p.model, p.seed, CPU)
    generators = [seeds.generator(0, i) for i in range(2)]
    diffusion = Diffusion(net, process.schedule(p.process, 4), p.process.objective, precision=precision)
    return guided(diffusion, judge, x[:2], x[2:, :3], [2, 1, 0], generators)[0]


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("work", ["paint", "style"])
def test_a_batch_agrees_with_single_images_in_fp32(p: Params, work: str):
    net = stirred(UNet(p.model, 16)).eval().requires_grad_(False)
    x = pixels(8).float() / 127.5 - 1
    s = process.schedule(p.process, 6)

    def made(net: UNet, images: range, precision: str = "fp32") -> Tensor:
        chosen = x[images.start:images.stop]
        generators = [seeds.generator(0, i) for i in images]
        diffusion = Diffusion(net, s, p.process.objective, precision=precision)
        if work == "paint":
            return repaint(diffusion, chosen, torch.zeros_like(chosen[:, :1]), repaint_levels(6, 2, 2),
                           generators)
        sources = x[4 + images.start:4 + images.stop, :3]
        judge = load_judge(p.style, p.model, p.seed, CPU)
        return guided(diffusion, judge, chosen, sources, [2, 1, 0], generators)[0]

    singles = torch.cat([made(net, range(i, i + 1)) for i in range(4)])
    assert error(made(net, range(4)), singles) < FP32
    assert 0 < error(made(copy.deepcopy(net).cast_weights("bf16"), range(4), "bf16"), singles) < BF16


TINY = ["--device", "cpu", "--params", str(BENCHMARKS.parent / "params" / "smoke.yaml"), "--rounds", "1",
        "-p", "data.image_size", "16", "-p", "model.channel_mult", "[1]", "-p", "train.batch_size", "2",
        "-p", "model.attention_resolutions", "[16]"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments", "ways"), [
    ("train", ["--matmul", "64"], 3),
    ("train", ["--matmul", "64", "--ways", "bf16", "channels_last", "compiled_channels_last"], 3),
    ("inpaint", ["--batch", "2", "--respacing", "11", "--candidates", "channels_last"], 4),
    ("style", ["--batch", "2", "--steps", "1", "--candidates", "channels_last"], 4),
    ("memory", ["--micro-batch", "1", "--checkpointing"], 1),
])
def test_a_benchmark_writes_what_it_measured(name: str, arguments: list[str], ways: int, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    out = tmp_path / "new" / "out.json"
    monkeypatch.setattr(UNet, "compile_blocks", lambda net: None)  # which takes a minute here
    benchmark(name, monkeypatch).run([*TINY, *arguments, "--out", str(out)])
    found = json.loads(out.read_text())
    assert (found["benchmark"], found["rounds"], len(found["ways"])) == (name, 1, ways)
    assert found["device"] in capsys.readouterr().out
    assert params.validate(found["params"]).data.image_size == 16
    asked = {"train": {"matmul": 64, "reference": False}, "memory": {"micro_batch": 1, "checkpointing": True},
             "inpaint": {"batch": 2, "respacing": 11, "candidates": ["channels_last"], "reference": False},
             "style": {"batch": 2, "steps": 1, "candidates": ["channels_last"], "reference": False}}[name]
    assert found["options"].items() >= asked.items()
    assert len(found["options"].get("ways", found["ways"])) == ways
    assert {"torch", "python"} <= found["versions"].keys()
    for way in found["ways"]:
        assert way["slowest"] <= way["images_per_second"] <= way["fastest"]
        assert [seconds > 0 for seconds in way["seconds"]] == [True]
    base = found["ways"][0]
    assert base["ratio"] == 1
    assert found["ways"][-1]["ratio"] == pytest.approx(
        found["ways"][-1]["images_per_second"] / base["images_per_second"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [
    ("train", ["--matmul", "8", "--ways", "bf16", "channels_last"]),
    ("memory", ["--micro-batch", "1", "--checkpointing"])])
def test_a_benchmark_measures_on_the_device(name: str, arguments: list[str], tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch):
    run = benchmark(name, monkeypatch).run
    with pretended(monkeypatch) as gpu:
        found = run([*TINY, *arguments, "--device", "cuda", "--out", str(tmp_path / "out.json")])
    assert found["device"] == "pretended GPU"
    # Before and after what is timed: each way once to warm up and once in earnest, a product of matrices six
    # times.
    assert gpu.waits["synchronize"] == 4 * len(found["ways"]) + (12 if name == "train" else 0)


@pytest.mark.parametrize(("steps", "semantic"), [(1, 0), (6, 1), (15, 2)])
def test_few_guided_steps_have_each_loss_in_as_large_a_share_as_all(
        steps: int, semantic: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen, module = set(), benchmark("style", monkeypatch)
    monkeypatch.setattr(module, "guided", lambda diffusion, judge, x, source, levels, *_: seen.add(
        (judge.settings.semantic_steps, len(levels))) or (x,))
    module.run([*TINY, "--steps", str(steps), "--out", str(tmp_path / "out.json")])
    assert seen == {(semantic, steps)}


def test_candidates_compute_the_same(p: Params, monkeypatch: pytest.MonkeyPatch):
    common = benchmark("common", monkeypatch)
    torch.manual_seed(0)
    wanted = common.sampler(p, CPU, "fp32").net
    torch.manual_seed(0)
    found = common.sampler(p, CPU, "fp32", "channels_last").net
    x, t = pixels(2).float() / 127.5 - 1, torch.zeros(2)
    assert found.input_blocks[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert error(found(x, t), wanted(x, t)) < FP32
    compiled = []
    monkeypatch.setattr(UNet, "compile_blocks", lambda net: compiled.append(net))
    assert compiled == [common.sampler(p, CPU, "fp32", "compiled").net]
    both = common.sampler(p, CPU, "fp32", "compiled_channels_last").net
    assert compiled[1] is both
    assert both.input_blocks[0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_training_can_be_compiled_and_channels_last_at_once(p: Params, monkeypatch: pytest.MonkeyPatch):
    compiled, states, start = [], [], training.start
    monkeypatch.setattr(UNet, "compile_blocks", lambda net: compiled.append(net))
    monkeypatch.setattr(training, "start", lambda *given: states.append(start(*given)) or states[-1])
    way = benchmark("train", monkeypatch).way("compiled_channels_last", p, process.schedule(p.process),
                                              pixels(4))
    assert not states  # nothing lies on the device before its turn
    way.prepare()
    assert compiled == [states[0].net]
    for net in (states[0].net, states[0].average):
        assert net.input_blocks[0][0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "options", "complaint"), [
    ("train", ["--rounds", "0"], "argument --rounds: '0' is not an integer of 1 or more"),
    ("memory", ["--rounds", "-1"], "argument --rounds: '-1' is not"),
    ("train", ["--matmul", "-5"], "argument --matmul: '-5' is not"),
    ("train", ["--ways", "bf16", "bf16"], "argument --ways: a value is given twice"),
    ("style", ["--candidates", "compiled", "compiled"], "argument --candidates: a value is given twice"),
    ("inpaint", ["--batch", "-3"], "argument --batch: '-3' is not"),
    ("style", ["--batch", "0"], "argument --batch: '0' is not"),
    ("memory", ["--micro-batch", "0.5"], "argument --micro-batch: '0.5' is not"),
    ("inpaint", ["--respacing", "0"], "argument --respacing: '0' is not"),
    ("inpaint", ["--respacing", "5000"], "inpaint.respacing 5000 exceeds process.steps 1000."),
    ("inpaint", ["--respacing", "10"], "inpaint.jump_length 10 must be below inpaint.respacing 10,"),
    ("style", ["--steps", "-1"], "argument --steps: '-1' is not"),
    ("style", ["--steps", "16"], "Error: --steps 16 is more than the 15 guided steps."),
    ("style", ["-p", "style.weights", "pretrained"], "-p style.weights: this benchmark sets "),
    ("inpaint", ["-p", "inpaint", "{}"], "-p inpaint: this benchmark sets "),
    ("memory", ["-p", "train.batch_size", "4", "--batch", "2"], "-p train.batch_size: this benchmark sets "),
    ("train", ["-p", "device", "cuda"], "-p device: this benchmark sets device itself"),
    ("train", ["--device", "zzz"], "device: String should match pattern"),
    ("inpaint", ["--device", "mps"], "device: String should match pattern"),
    ("memory", ["--reference", "."], "unrecognized arguments: --reference"),
    ("fanout", ["--reference", "."], "unrecognized arguments: --reference"),
    ("fanout", ["--items", "0"], "argument --items: '0' is not"),
    ("fanout", ["--workers", "0"], "argument --workers: '0' is not"),
    ("fanout", ["--times", "0"], "argument --times: '0' is not"),
    ("fanout", ["--seconds", "nan"], "--seconds must be a number above 0"),
    ("fanout", ["--run", "/nowhere"], "Error: /nowhere is not a run yet"),
])
def test_an_option_that_no_benchmark_can_use_is_refused_in_a_sentence(
        name: str, options: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture):
    run = benchmark(name, monkeypatch).run
    with pytest.raises(SystemExit, match=r"^2$"):
        sys.modules["common"].main(run, [*TINY, "--out", str(tmp_path / "out.json"), *options])
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [".", "file/out.json", "a" * 300])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
        out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    (tmp_path / "file").touch()
    run = benchmark("train", monkeypatch).run
    monkeypatch.setattr(training, "start", lambda *_: pytest.fail("it began"))
    with pytest.raises(SystemExit, match=r"^2$"):
        run([*TINY, "--out", str(tmp_path / out)])
    assert "argument --out: " in (told := capsys.readouterr().err)
    assert "cannot be written" in told


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch):
    common = benchmark("common", monkeypatch)
    clock = iter([9, 9, 1, 4, 2, 8, 3, 6])  # two warm-ups, then three rounds of two ways
    monkeypatch.setattr(common, "seconds", lambda call, device: next(clock))
    (one, two), failed = common.measure([common.Way("a", 1, int), common.Way("b", 8, int)], 3, CPU)
    assert not failed
    assert (one["ratio"], two["ratio"]) == (1, 2)  # of 1 / (4 / 8), 2 / (8 / 8) and 3 / (6 / 8): the median
    assert (one["images_per_second"], one["slowest"], one["fastest"]) == (1 / 2, 1 / 3, 1)


@pytest.mark.parametrize(("error", "reason"), [
    (torch.OutOfMemoryError, "out of memory"),
    (torch._dynamo.exc.TorchDynamoException, "not compiled: TorchDynamoException")])
@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_way_that_fails_ends_alone_and_gives_back_its_memory(
        fails_at: int, error: type[Exception], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture):
    common = benchmark("common", monkeypatch)
    held, calls, freed = [], [], []

    def prepare() -> Callable:
        net = torch.nn.Linear(2, 2)
        net.cycle = [net]
        held.append(weakref.ref(net))
        if fails_at == 0:
            raise error

        def step() -> None:
            calls.append(net(torch.zeros(1, 2)))
            if len(calls) == fails_at:
                raise error

        return step

    large, small = common.Way("large", 1, prepare), common.Way(
        "small", 1, lambda: lambda: freed.append(held[0]() is None))
    rows, failed = common.measure([large, small], 2, CPU)
    assert ([row["way"] for row in rows], failed, len(calls)) == (["small"], {"large": reason}, fails_at)
    assert (rows[0]["ratio"], len(rows[0]["seconds"])) == (1, 2)
    assert freed == [fails_at < 2, True, True]
    options = argparse.Namespace(out=tmp_path / "out.json", rounds=2)
    found = common.report("any", options, params.validate({}), CPU, rows, failed)
    assert found["failed"] == failed
    assert f"large  {reason}" in capsys.readouterr().out


def test_too_little_memory_for_anything_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture):
    common = benchmark("common", monkeypatch)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    for work in (full, lambda _: common.measure([common.Way("alone", 1, full)], 1, CPU)):
        with pytest.raises(SystemExit, match=r"^2$"):
            common.main(work)
        assert "memory" in capsys.readouterr().err


def test_counted_work_is_the_papers(monkeypatch: pytest.MonkeyPatch):
    common = benchmark("common", monkeypatch)
    paper = params.validate(params.load(BENCHMARKS.parent / "params" / "paper.yaml"))
    assert round(common.forward_flop(paper) / 1e9) == 2216


def test_a_folder_that_is_no_checkout_of_the_authors_code_is_refused(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch):
    reference = benchmark("reference", monkeypatch)
    with pytest.raises(UserError, match=r"no checkout of dsaragih/diffuse-gen"):
        reference.load(tmp_path)
    package = tmp_path / "guided_diffusion" / "guided_diffusion"
    package.mkdir(parents=True)
    (tmp_path / "optimization").mkdir()
    for file in (*(package / f"{name}.py" for name in reference.WANTED), package / "__init__.py",
                 tmp_path / "optimization" / "losses.py"):
        file.write_text("import a_package_that_nobody_has\n")
    with pytest.raises(UserError, match=r"a_package_that_nobody_has.*Install what it needs"):
        reference.load(tmp_path)
