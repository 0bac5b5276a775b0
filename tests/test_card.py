"""The two commands for a borrowed GPU, rehearsed: to the end, cut off and continued, and what comes back."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pretended import pretended

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, phantom, regions
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.measures import metrics
from diffusegen_core.store import files

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import bench  # noqa: E402 - benchmarks is no package
import card  # noqa: E402
import common  # noqa: E402
import correctness  # noqa: E402
import figures  # noqa: E402
import pack  # noqa: E402
import painting  # noqa: E402
import realmeasures  # noqa: E402
import realmodel  # noqa: E402
import realpairs  # noqa: E402
import realrun  # noqa: E402
import realwork  # noqa: E402
import sampling_speed  # noqa: E402
import smallsets  # noqa: E402
import stages  # noqa: E402
import training_speed  # noqa: E402
import unpack  # noqa: E402
import ways  # noqa: E402

CPU = torch.device("cpu")
BACK = 8, 16 * 2**20, 60 * 2**20  # files that may come back, bytes of one, of all


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stages.Call:
    monkeypatch.delenv("CARD_BEGAN", raising=False)
    return stages.Call(stages.Clock(1000), stages.Record(tmp_path / "out" / "train.json", {}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder of phantoms in the place of Kvasir-SEG."""
    folder = tmp_path_factory.mktemp("card")
    for kind in ("images", "masks"):
        (folder / "kvasir" / kind).mkdir(parents=True)
    names = [f"phantom_{i:02d}" for i in range(24)]
    for i, name in enumerate(names):
        image, mask, _ = phantom.draw(0, i, 48)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / "kvasir" / "images" / f"{name}.jpg")
        Image.fromarray(mask[0] * 255).save(folder / "kvasir" / "masks" / f"{name}.jpg")
    split = {"train": names[:12], "test": names[12:18], "watch": names[18:]}
    (folder / "kvasir" / "split.json").write_text(json.dumps(split))
    return folder


# ---- the clock and the record


def test_a_stage_that_fails_is_recorded_and_the_next_goes_on(call: stages.Call):
    assert not call.stage("first", lambda: {}["absent"])
    assert call.stage("second", lambda: {"found": 1})
    assert not call.stage("third", lambda: {}, least=2000)
    kept = files.read_json(call.record.path)["stages"]
    assert kept["first"]["status"].startswith("failed: KeyError")
    assert kept["second"]["found"] == 1
    assert kept["third"]["status"].startswith("left out")


def test_a_further_call_does_what_is_not_done(call: stages.Call):
    call.stage("first", lambda: {"found": 1})
    again = stages.Call(stages.Clock(10), stages.Record(call.record.path, {"more": 2}))
    assert again.stage("first", lambda: pytest.fail("done before"))
    assert again.record.stages["first"]["found"] == 1


def test_the_clock_begins_with_the_shell(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages.time, "time", lambda: 1000.0)
    monkeypatch.setenv("CARD_BEGAN", "970")
    assert 29 < stages.Clock(100).spent < 31


# ---- what travels


def test_the_wheels_are_those_of_the_lock_with_their_hashes():
    wanted = pack.locked((common.ROOT / "requirements.lock").read_text(), pack.MISSING)
    assert wanted.count("==") >= len(pack.MISSING)
    assert all(f"{name}==" in wanted for name in pack.MISSING)
    assert wanted.count("--hash=sha256:") >= len(pack.MISSING)
    with pytest.raises(UserError, match="has no absent"):
        pack.locked("pydantic==1 \\\n    --hash=sha256:00\n", ("absent",))


def test_nothing_that_is_tested_on_is_trained_on():
    training = dataset.paper_names()
    names = sorted([*training, *(f"other_{i:03d}" for i in range(652))])
    split = pack.chosen(names, training)
    assert [len(split[part]) for part in ("train", "test", "watch")] == [348, 200, 100]
    assert len({name for part in split.values() for name in part}) == 648


def test_a_package_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pack, "fetch_wheels", lambda folder: None)
    monkeypatch.setattr(pack, "copy_pairs", lambda source, folder: None)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.pth").write_bytes(bytes(1000))
    assert pack.run(tmp_path, tmp_path / "weights", None, tmp_path / "home")["weights"] < 1
    monkeypatch.setattr(pack, "MOST", 100)
    with pytest.raises(UserError, match="The package has"):
        pack.run(tmp_path, tmp_path / "weights", None, tmp_path / "home")


# ---- figures


@pytest.mark.slow
def test_the_figures_are_measured_on_a_pretended_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (sampling_speed, correctness):
        monkeypatch.setattr(module, "RESPACING", 3)
        monkeypatch.setattr(module, "JUMP_LENGTH", 1)
        monkeypatch.setattr(module, "RESAMPLING", 1)
    monkeypatch.setattr(sampling_speed, "SAMPLING", sampling_speed.SAMPLING[1:2])
    monkeypatch.setattr(sampling_speed, "STYLING", sampling_speed.STYLING[:1])
    monkeypatch.setattr(training_speed, "TRAINING",
                        [(8, "channels_last", "eager"), (1, "plain", "graph")])
    monkeypatch.setattr(training_speed, "MORE", [])
    monkeypatch.setattr(correctness, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(correctness, "TOGETHER", 2)
    monkeypatch.setattr(correctness, "styled", lambda b, diffusion, chosen: torch.zeros(len(chosen), 4, 8, 8))
    monkeypatch.setattr(correctness, "resume", lambda b: {})
    monkeypatch.setattr(ways, "captured", lambda work, device: work)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 1e9)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda *_: type("Card", (), {"total_memory": 8e10})())
    record = stages.Record(tmp_path / "figures.json", {"pretended": True})
    with pretended(monkeypatch):
        figures.run(stages.Call(stages.Clock(1000), record), torch.device("cuda"), tiny=True, rounds=1)
    found = files.read_json(tmp_path / "figures.json")["stages"]
    assert {stage["status"] for stage in found.values()} == {"ok"}
    apart = found["independence of RePaint"]["apart"]["plain fp32"]
    assert apart["again"]["most"] == 0
    assert apart["alone"]["most"] < 1e-4
    assert 0 < found["errors"]["small network"]["plain bf16"]["output"] < 0.05
    assert found["training, batch 8: channels_last, eager"]["images_per_second"] > 0


def test_a_training_that_is_stopped_ends_with_the_same_bits(call: stages.Call,
                                                            monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(correctness, "RESUMED_STEPS", 4)
    b = bench.made(call, CPU, tiny=True, rounds=1)
    found = correctness.resume(replace(b, small=common.changed(b.small, "train", precision="fp32")))
    assert found["checkpoint left"]
    assert found["again"]["equal"]
    assert found["stopped and resumed"] == {"equal": True, "relative": 0.0}


@pytest.mark.slow
def test_the_kernels_compute_what_the_layers_do():
    done = subprocess.run([sys.executable, "-c", KERNELS], env={
        **os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert max(found["output"], found["gradient"]) < 1e-5
    assert 0 < found["rounded"] < 4e-3  # what trains are the masters, and bf16 follows them
    assert max(found["weights"], found["average"]) < 1e-6


KERNELS = """
import copy, json, torch, flat, fused
import torch.nn.functional as F
from torch import nn
from diffusegen_core.diffusion import training
from diffusegen_core.diffusion.unet import UNet
torch.manual_seed(0)
def apart(a, b):
    return float((a - b).norm() / b.norm())
found = {"output": 0.0, "gradient": 0.0}
for channels, side, modulated, silu in ((96, 7, True, True), (64, 4, False, False)):
    norm = nn.GroupNorm(32, channels)
    for weight in norm.parameters():
        nn.init.normal_(weight, 0.5, 0.3)
    x = (1 + 2 * torch.randn(2, channels, side, side)).requires_grad_()
    tuned = [(0.3 * torch.randn(2, channels)).requires_grad_() for _ in range(2 * modulated)]
    h = norm(x)
    if modulated:
        h = h * (1 + tuned[0][:, :, None, None]) + tuned[1][:, :, None, None]
    wanted = F.silu(h) if silu else h
    got, grad = fused.normed(norm, x, silu, *tuned), torch.randn_like(x)
    into = [x, *norm.parameters(), *tuned]
    pairs = zip(torch.autograd.grad(got, into, grad), torch.autograd.grad(wanted, into, grad))
    found["output"] = max(found["output"], apart(got, wanted))
    found["gradient"] = max(found["gradient"], *(apart(a, b) for a, b in pairs))

class Small(nn.Sequential):
    fixed = UNet.fixed

net = Small(nn.Conv2d(4, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 4, 1)).to(memory_format=torch.channels_last)
slow, fast = copy.deepcopy(net), copy.deepcopy(net)
average = copy.deepcopy(net).requires_grad_(False)
optimizer = torch.optim.AdamW(slow.parameters(), lr=1e-3, weight_decay=0.01)
other = flat.FlatAdamW(fast, 1e-3, 0.01, clip=0.5)
state = training.State(slow, average, optimizer)
for step in range(3):
    for a, b in zip(slow.parameters(), fast.parameters()):
        b.grad.copy_(torch.randn_like(a))
        a.grad = b.grad.float().clone()
    torch.nn.utils.clip_grad_norm_(slow.parameters(), 0.5)
    optimizer.step()
    training.average_weights(state, 0.999)
    state.history.append(torch.zeros(4))
    other.step(0.999)
def joined(tensors):
    return torch.cat([tensors[name].detach().flatten() for name, _ in net.named_parameters()])
found["weights"] = apart(joined(other.state("master")), joined(dict(slow.named_parameters())))
found["average"] = apart(joined(other.state("average")), joined(dict(average.named_parameters())))
found["rounded"] = apart(joined(dict(fast.named_parameters())).float(), joined(other.state("master")))
print(json.dumps(found))
"""


# ---- painted pairs


def some_pairs(count: int = 6, side: int = 32) -> dataset.Pairs:
    drawn = [phantom.draw(0, i, side) for i in range(count)]
    return dataset.gather([str(i) for i in range(count)], np.stack([d[0] for d in drawn]),
                          np.stack([d[1] for d in drawn]))


def test_a_varied_mask_lies_within_the_field_of_view():
    pairs, settings = some_pairs(), params.validate({}).inpaint
    pairs.images[0, :, :, :12] = 0  # a black border
    view = painting.field_of_view(pairs.images[0])
    assert view[:, :10].sum() == 0 < view[:, 14:].sum()
    for sample in range(20):
        lesion = painting.placed(pairs, 0, settings, 0, "test", sample)
        assert lesion.mask.any()
        assert lesion.donor == 0 or (lesion.mask * view).sum() >= 0.9 * lesion.mask.sum()
        again = painting.placed(pairs, 0, settings, 0, "test", sample)
        assert (again.mask == lesion.mask).all()


def test_known_pixels_stay_and_masks_are_what_was_asked(call: stages.Call, home: Path, tmp_path: Path):
    p = realwork.parameters(home, tmp_path, CPU, tiny=True)
    pairs, diffusion = some_pairs(), ways.diffusion(p, UNet(p.model, 32).eval(), CPU, "fp32")
    new = pairs.masks[[1, 2], 0]
    filled = regions.filled(pairs.masks[[0, 3]], new[:, None], p.inpaint.dilate)
    made = painting.paint(diffusion, p.inpaint, pairs.images[[0, 3]], filled, new, [1, 2])
    outside = np.broadcast_to(filled[:, None] == 0, made.shape)
    assert (made[outside] == pairs.images[[0, 3]][outside]).all()
    assert (made != pairs.images[[0, 3]]).any()
    alone = painting.paint(diffusion, p.inpaint, pairs.images[[3]], filled[1:], new[1:], [2])
    assert np.abs(alone[0].astype(int) - made[1].astype(int)).max() <= 1


def test_pasted_pairs_are_the_programs(call: stages.Call, home: Path, tmp_path: Path):
    p = realwork.parameters(home, tmp_path, CPU, tiny=True)
    pairs = some_pairs()
    pairs.images[1] = 0  # a picture without a place for a lesion
    w = realwork.Work(call, CPU, p, home, tmp_path, tmp_path, True, train=pairs)
    made, jobs = realpairs.paste(w), realpairs.jobs(w)
    assert list(zip(made.sources, made.samples, strict=True)) == [job for job in jobs if job[0] != 1]
    for image, mask, source, region in zip(made.images, made.masks, made.sources, made.regions, strict=True):
        far = painting.cv2.dilate(region, np.ones((5, 5), np.uint8)) == 0
        assert (image[:, far] == pairs.images[source][:, far]).all()
        assert (mask == (region | pairs.masks[source, 0])).all()
        assert (image != pairs.images[source]).any()


def test_the_distance_without_a_root_is_clean_fids():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 24)), rng.normal(size=(50, 24)) + 0.2
    assert realmeasures.frechet_distance(a, b) == pytest.approx(metrics.frechet(a, b), rel=1e-6)


# ---- the run


class CutOffError(BaseException):
    """The call's end from outside."""


@pytest.mark.slow
def test_a_run_that_is_cut_off_goes_on_and_comes_back(call: stages.Call, home: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(realrun, "WORKERS", {True: 0})
    monkeypatch.setattr(realmodel, "TINY_STEPS", 6)
    monkeypatch.setattr(realmodel, "BURST", 2)
    monkeypatch.setattr(realmodel, "LOOK", 0.0)
    monkeypatch.setattr(realmodel, "KEEP", 0.0)
    work, out = tmp_path / "work", call.record.path.parent
    look, looks = realmodel.Watch.look, []

    def stopped(watch: realmodel.Watch, trainer: ways.Trainer) -> float:
        looks.append(trainer.number)
        if len(looks) == 2:
            raise CutOffError
        return look(watch, trainer)

    monkeypatch.setattr(realmodel.Watch, "look", stopped)
    with pytest.raises(CutOffError):
        realrun.run(call, CPU, home, work, out, tiny=True)
    assert checkpoints.header(work / realmodel.CHECKPOINT)["number"] == 4

    done = smallsets.done
    monkeypatch.setattr(smallsets, "done", lambda task, *rest: (
        cut_off() if task.kind == "alone" else done(task, *rest)))
    with pytest.raises(CutOffError):
        realrun.run(resumed(call), CPU, home, work, out, tiny=True)
    first = files.read_json(call.record.path)["stages"]
    assert first["training"]["steps"] == 6
    assert [row[0] for row in first["training"]["rows"]] == [2, 6]  # of step 4, the checkpoint alone was kept
    monkeypatch.setattr(smallsets, "done", done)
    realrun.run(resumed(call), CPU, home, work, out, tiny=True)
    found = files.read_json(call.record.path)["stages"]
    assert found["training"] == first["training"]
    assert {name: stage["status"] for name, stage in found.items()} == dict.fromkeys(found, "ok")
    assert {(row["kind"], row["data_type"]) for row in found["networks"]["rows"]} == {
        ("agreement", "Real"), *(("small", name) for name in ("Real", "Paint-varied", "Paste")),
        *(("alone", name) for name in ("Real", "Paint-varied", "Paint-own", "Paste", "1-Diff"))}
    sizes = [file.stat().st_size for file in out.iterdir()]
    assert len(sizes) <= BACK[0]
    assert max(sizes) <= BACK[1]
    comes_back(out, tmp_path / "run", home)


def cut_off() -> None:
    raise CutOffError


def resumed(call: stages.Call) -> stages.Call:
    return stages.Call(stages.Clock(1000), stages.Record(call.record.path, {}))


def comes_back(out: Path, folder: Path, home: Path) -> None:
    """What `unpack` makes of the files."""
    unpack.run(out, folder)
    p, model = params.validate(params.load(folder / "params.yaml")), folder / "checkpoints" / unpack.MODEL
    checkpoints.judge(model, p.model, p.process, p.data.image_size)  # a run can adopt it
    diffusion = checkpoints.load(model)
    assert all(torch.equal(w, w.bfloat16().float()) for w in diffusion.net.parameters())
    assert {path.name for path in (folder / "pairs").iterdir()} == {
        "samples", "1-Diff", "Paint-varied", "Paint-own"}
    manifest = pd.read_csv(folder / "pairs" / "Paint-varied" / "manifest.csv")
    assert len(manifest) == 18
    assert {path.stem for path in (folder / "tables").iterdir()} == {
        "training", "distances", "seams", "networks", "small_sets", "agreement"}
    assert (folder / "sheet.png").is_file()
    assert str(home) not in (out / "train.json").read_text()
    with pytest.raises(UserError, match="already exists"):
        unpack.run(out, folder)


def test_a_whole_model_fits_into_what_may_come_back(call: stages.Call, home: Path, tmp_path: Path):
    p = realwork.parameters(home, tmp_path, CPU, tiny=False)
    with torch.device("meta"):
        net = UNet(p.model, p.data.image_size)
    weights = {f"ema.{name}": torch.zeros(w.shape) for name, w in net.state_dict().items()}
    w = realwork.Work(call, CPU, p, home, tmp_path, tmp_path / "out", False)
    checkpoints.save(tmp_path / realmodel.AVERAGE, weights, {"configuration": {}, "seen": {}})
    realmodel.keep_weights(w)
    sizes = [file.stat().st_size for file in (tmp_path / "out").glob("model-*")]
    assert len(sizes) == 3
    assert max(sizes) <= 15 * 2**20
    assert sum(sizes) < 44 * 2**20


def test_a_missing_part_of_the_weights_is_named(tmp_path: Path):
    checkpoints.save(tmp_path / "model-1of3.safetensors", {"ema.a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="1 of 3 parts"):
        unpack.join_weights(tmp_path, tmp_path / "whole.safetensors")


def test_eager_training_goes_on_from_its_state(home: Path, tmp_path: Path):
    p = realwork.parameters(home, tmp_path, CPU, tiny=True)
    x = torch.randint(256, (8, 4, 32, 32), dtype=torch.uint8)
    net = ways.network(p, CPU)
    of = common.training_of(p)
    whole, first, second = (ways.Eager(of, copy.deepcopy(net)) for _ in range(3))
    for _ in range(4):
        whole.step(x)
    for _ in range(2):
        first.step(x)
    for kind in ways.KINDS:
        second.load(kind, first.state(kind))
    second.set_number(first.number)
    for _ in range(2):
        second.step(x)
    for kind in ways.KINDS:
        assert all(torch.equal(a, b) for a, b in
                   zip(whole.state(kind).values(), second.state(kind).values(), strict=True))


def test_the_command_refuses_what_it_cannot_use(tmp_path: Path):
    with pytest.raises(UserError, match=r"no train\.json"):
        card.run(["unpack", str(tmp_path), str(tmp_path / "run")])
