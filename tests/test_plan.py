"""The plan of a run: its work is the counted one, its images those of the chapters, its times finite."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from made_up import changed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from typer.testing import CliRunner

from diffusegen_core import cli
from diffusegen_core.chapters import cluster, inpaint, paste
from diffusegen_core.chapters.costs import Backbone, Learner, Work
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.guided import GuidedStep, Judge, Targets, default_blocks
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import features, singan, vgg
from diffusegen_core.planning import flops, plan, probe
from diffusegen_core.segmentation.trainsets import Amount
from diffusegen_core.store import seeds

PROFILES = Path(__file__).parents[1] / "params"
CHAPTERS = ["1 cluster", "2 train", "3 inpaint", "4 style", "5 evaluate", "6 segment", "7 augment"]
ENCODER = 565.5e9  # FLOP of the paper net's input blocks


def profile(name: str, *changes: tuple[str, str]) -> Params:
    values = params.override(params.load(PROFILES / f"{name}.yaml"), [("device", "cpu"), *changes])
    return params.validate(values)


@pytest.fixture(scope="module")
def paper() -> tuple[Params, flops.Work, plan.Plan]:
    p = profile("paper", ("data.source", "absent"))
    work = flops.count(p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flops, "count", lambda same: work)
        return p, work, plan.make(p, 0)


def of(made: plan.Plan, work: str):
    row, = made.table[made.table["work"].str.startswith(work)].itertuples()
    return row


# ---- counted work

def test_the_papers_work_is_the_one_that_was_counted_before(paper):
    _, work, made = paper
    assert work.unet.parameters == 526_560_520
    assert work.unet.call == pytest.approx(2216e9, rel=0.001)
    clusters, full, pairs = of(made, "cluster models"), of(made, "full-set model"), of(made, "20-Diff")
    assert clusters.largest == pytest.approx(0.73e18, rel=0.03)
    assert clusters.flop == pytest.approx(20 * clusters.largest)
    assert full.flop == pytest.approx(1.33e18, rel=0.03)
    assert (pairs.items, pairs.images) == (1044, 1044 * 960)
    assert pairs.flop / pairs.items == pytest.approx(2.13e15, rel=0.03)
    styled = of(made, "20-Styled-Diff")
    assert styled.images == 1044 * 120
    # The 1.1 PFLOP of the budget hold the gradients of the weights, which are frozen here.
    of_weights = 120 * (work.unet.call + ENCODER)
    assert styled.flop / styled.items + of_weights == pytest.approx(1.1e15, rel=0.05)


def test_the_papers_models_take_the_disk_that_their_weights_do(paper):
    _, work, made = paper
    # Two sets of weights, and the two moments that a longer training goes on from.
    assert of(made, "cluster models").disk == 20 * 4 * 4 * work.unet.parameters
    assert of(made, "full-set model").temporary == 4 * 4 * work.unet.parameters
    assert made.table["temporary"].max() == of(made, "full-set model").temporary


def test_networks_that_are_kept_take_disk():
    found = [plan.make(profile("smoke", ("segment.keep_weights", keep)), 0).table
             for keep in ("true", "false")]
    kept, gone = (table[table["work"] == "segmentation networks"] for table in found)
    assert (kept["disk"] == kept["items"] * kept["temporary"] / 4).all()
    assert (gone["disk"] == 0).all()
    assert (gone["temporary"] == kept["temporary"] * 5 / 4).all(), "the weights are there until the tests end"


def test_half_the_images_are_half_the_work(paper):
    p, work, _ = paper
    t = p.train.model_copy(update={"images": 55_040, "full_images": None, "preview_every": 10**9})
    costs = {cost.work: cost for cost in plan.generation(p.model_copy(update={"train": t}), 348, work)}
    assert costs["cluster models"].images == 20 * 55_040
    assert costs["cluster models"].flop == 20 * 55_040 * work.unet.learn
    assert not any("ull" in title for title in costs)


class Counter(TorchDispatchMode):
    """Counts what FlopCounterMode counts, but does not look at modules, whose hooks bear no autograd.grad."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=found)
        return found


def test_a_guided_step_is_counted_as_it_is_done(nano_params: Params):
    # The patches that ZeCon compares with each other are not counted; with few of them that is little.
    p = changed(nano_params, style={"zecon_patches": 8})
    net = UNet(p.model, 16).eval().requires_grad_(False)
    cls_net = features.load_cls(p.style.backbone, "random", p.style.input_range, size=p.style.backbone_size)
    judge = Judge(cls_net, vgg.load(p.style.vgg, "random"), p.style, default_blocks(p.model))
    diffusion = Diffusion(net, process.schedule(p.process, p.style.respacing), p.process.objective)
    x = torch.zeros(1, 4, 16, 16)
    work = flops.count(p)
    with torch.no_grad(), Counter() as look:
        judge.cls(x[:, :3])
    assert len(work.guided) == 3
    for number, counted in enumerate(work.guided):
        step = GuidedStep(judge, Targets.of(judge, x, x[:, :3]), number)
        step.previous_cls = step.previous_cls + 1
        # torch has no formula for a processor's fused attention.
        with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
            step(diffusion, x, torch.ones(1, dtype=torch.long), [seeds.generator(0)])
        looks = 5 * look.total if number == 0 else 0
        assert counted == pytest.approx(counter.total + looks, rel=0.002), number


def test_a_pyramid_is_counted_as_it_is_trained(nano_params: Params):
    settings = nano_params.gan
    with FlopCounterMode(display=False) as counter:
        pyramid = singan.fit(torch.zeros(4, 16, 16), settings, 0, torch.device("cpu"))
    work = flops.count(nano_params)
    assert work.pyramid == pytest.approx(counter.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as counter:
        singan.draw(pyramid, 0, [seeds.generator(0)])
    assert work.drawn == counter.get_total_flops()


# ---- images

def test_the_smoke_profiles_images_are_those_of_its_chapters():
    p = profile("smoke")
    made = plan.make(p, 0)
    assert (made.pairs, made.note) == (48, "phantoms")
    assert of(made, "features of images and masks").images == 2 * 48
    assert of(made, "cluster models").images == 2 * 3200
    # Four grids (at steps 100 to 400) of 8 images in 25 steps, for each of 2 models.
    assert of(made, "sample grids of the cluster models").images == 2 * 4 * 8 * 25
    assert (of(made, "2-Paint").items, of(made, "2-Paint").images) == (32, 32 * 2 * 25)
    assert (of(made, "2-Styled-Paint").items, of(made, "2-Styled-Paint").images) == (32, 32 * 15)
    assert of(made, "GAN").items == 16
    # Images: 48, five data types of 32, and 24 that are held out. Boxes: of the 48 in eight orientations, of
    # the 160, of as many fillings that no model knows (for the GAN the 24), and of seven planted copies each.
    images, boxes = 48 + 5 * 32 + 24, 8 * 48 + 5 * 32 + 4 * 32 + 24 + 5 * 7 * 32
    assert of(made, "features of images and objects").images == images + boxes
    # Two models denoise 24 of the 48 and the 24 at eight levels.
    assert of(made, "membership test").images == 2 * 8 * (24 + 24)
    segment, augment = (made.table[made.table["chapter"] == c].iloc[0] for c in ("segment", "augment"))
    # Real once, and five data types with N = 1 and 2; of 16 sources 3 choose the best epoch.
    assert (segment["items"], segment["images"]) == (11, 11 * (12 * 64 + 24) + 12 * (3 + 5 * 3 + 5 * 6))
    assert (augment["items"], augment["images"]) == (7, 7 * (12 * 64 + 12 * 3 + 24))
    assert [f"{i} {name}" for i, name in enumerate(made.chapters.index, 1)] == CHAPTERS
    assert made.chapters["flop"].sum() == made.table["flop"].sum() < 50e12
    assert made.chapters["disk"].sum() < 100e6


def test_small_sets_with_generators_of_their_own_are_runs_of_their_own():
    p = profile("smoke", ("augment.generator_sees", "subset"), ("augment.sizes", "[4, 8]"),
                ("augment.seeds", "2"))
    made = plan.make(p, 0)
    mine = made.table[made.table["work"].str.startswith("generators of small sets")].set_index("kind")
    # Of 4 pairs 1, and of 8 pairs 2, choose the best epoch, and are kept from the generator.
    known = 2 * (3 + 6)
    assert mine.loc["features", "images"] == 2 * known
    assert mine.loc["training", "images"] == 4 * 3200
    assert mine.loc["styling", "items"] == known * 2
    assert set(mine["chapter"]) == {"augment"}


def test_a_run_without_training_without_gan_has_neither():
    made = plan.make(profile("smoke", ("train.checkpoints", "there"), ("gan.source", "null")), 0)
    assert (of(made, "cluster models").images, of(made, "cluster models").flop) == (0, 0)
    assert of(made, "cluster models").disk > 0
    assert not made.table["work"].str.contains("GAN|grids").any()


# ---- how many pairs there are

@pytest.mark.parametrize(("changes", "count", "says"), [
    ([], 348, "of the paper's 348; "),
    ([("data.count", "30")], 30, "of the paper's 348; "),
    ([("data.subset", "all"), ("data.count", "30")], 30, "data.count; "),
])
def test_the_papers_pairs_are_counted_without_the_data(changes, count, says):
    found, note = plan.pairs(profile("paper", ("data.source", "absent"), *changes))
    assert found == count
    assert note.startswith(says)
    assert "not there yet" in note


def test_pairs_of_a_folder_are_counted(tmp_path: Path):
    dataset.write_phantoms(tmp_path / "pairs", 5, 16, 0)
    there = [("data.source", str(tmp_path / "pairs")), ("cluster.k", "2")]
    assert plan.pairs(profile("smoke", *there)) == (4, f"in {tmp_path / 'pairs'}, 1 more are held out")
    there.append(("data.holdout", "null"))
    assert plan.pairs(profile("smoke", *there)) == (5, f"in {tmp_path / 'pairs'}")
    assert plan.pairs(profile("smoke", *there, ("data.count", "4")))[0] == 4
    with pytest.raises(UserError, match=r"is one of the paper's 348, .* give -p data.subset all"):
        plan.pairs(profile("smoke", *there, ("data.subset", "paper348")))
    with pytest.raises(UserError, match=r"5 pairs are too few for cluster\.k 6"):
        plan.make(profile("smoke", *there, ("cluster.k", "6")), 0)


def test_an_absent_folder_of_unknown_size_is_said_in_words():
    with pytest.raises(UserError, match=r"absent is not there, .* or give data\.count"):
        plan.make(profile("smoke", ("data.source", "absent"), ("data.count", "null")), 0)


# ---- times

def test_a_probe_gives_each_kind_a_rate_and_each_row_a_time(nano_params: Params, monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 6)  # of a larger machine
    p = changed(nano_params, evaluate={"batch_size": 4})
    made = plan.make(p, 1)
    assert list(made.rates["kind"]) == list(probe.KINDS)
    assert (made.rates["repetitions"] >= 1).all()
    assert np.isfinite(made.rates["rate"]).all()
    assert np.isfinite(made.table["seconds"]).all()
    assert (made.table["seconds"] > 0).all()
    rates = made.rates.set_index("kind")["rate"]
    training = of(made, "cluster models")
    assert training.seconds == pytest.approx(training.flop / rates["training"])
    assert made.chapters["seconds"].sum() == pytest.approx(made.table["seconds"].sum())
    assert "Measured on" in made.text
    assert "Workers side by side (--workers): 6 (a core each;" in made.text
    assert not p.folder.exists()


def test_as_many_workers_fit_on_a_gpu_as_its_memory_holds_of_the_largest_work(monkeypatch):
    card = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    taken = pd.DataFrame({"kind": ["sampling", "training", "styling"], "memory": [5e9, 18e9, 25.4e9]})
    # Three would take 78 GB, more than 95 % of the card.
    assert probe.side_by_side(taken, torch.device("cuda")) == (
        2, "26.0 of 80.0 GB each, for styling, which takes the most; 5% are left free")
    taken.loc[1, "memory"] = np.nan
    assert probe.side_by_side(taken, torch.device("cuda")) == (
        0, "training alone takes more memory than there is")


def test_work_that_finds_too_little_memory_has_no_time_and_says_what_to_lower(
        nano_params: Params, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(GuidedStep, "__call__", too_much)
    monkeypatch.setattr(probe, "_most", lambda device: 2.5e9)
    made = plan.make(changed(nano_params, evaluate={"batch_size": 4}), 0.1)
    rates = made.rates.set_index("kind")
    assert list(rates.index[rates["rate"].isna()]) == ["styling"]
    assert rates.loc["styling", "how"] == (
        "out of memory: lower style.batch_size, or set style.checkpointing")
    assert list(made.chapters.index[made.chapters["seconds"].isna()]) == ["style"]
    lines = made.text.splitlines()
    assert next(line for line in lines if " 2-Styled-Diff" in line).count("unknown") == 2
    assert lines[0].startswith("In all: unknown; ")
    measured = lines[lines.index(f"Measured on {made.device}:"):]
    assert "memory" in measured[1].split()
    assert next(line for line in measured if "training" in line).split()[6:8] == ["2.50", "GB"]


@pytest.mark.parametrize("kind", probe.KINDS)
def test_what_a_kind_of_work_is_told_to_lower_is_a_parameter(kind: str):
    values = params.Params().model_dump()
    section, key = re.search(r"(\w+)\.(\w+)", probe.MEND[kind]).groups()
    assert key in values[section]


def test_a_network_too_large_for_a_processor_is_called_once_for_one_image(nano_params: Params, monkeypatch):
    work = flops.count(nano_params)
    monkeypatch.setattr(probe, "SHORT", work.unet.call / 4)
    calls = []
    monkeypatch.setattr(UNet, "forward", recorded(UNet.forward, calls))
    found = probe.rates(nano_params, work, ["training", "styling"], 0.001).set_index("kind")
    assert calls == [1]
    assert set(found.index) == {"sampling", "training", "styling"}
    assert (found["rate"] == found.loc["sampling", "rate"]).all()
    assert list(found.loc[["training", "styling"], "how"]) == [probe.AS_CALL] * 2
    assert found.loc["sampling", "how"] == ("timed from the first call, which is slower, took longer "
                                              "than its share of the time")


def recorded(forward, calls: list[int]):
    def call(net, x, t):
        calls.append(len(x))
        return forward(net, x, t)
    return call


@pytest.mark.slow
def test_of_a_long_pyramid_a_processor_fits_the_coarse_scales(nano_params: Params, monkeypatch):
    p = changed(nano_params, gan={"min_side": 7})
    work = flops.count(p)
    once = p.gan.model_copy(update={"steps": 1})
    sides = singan.sides(16, once)
    fitted = []
    monkeypatch.setattr(singan, "fit", lambda image, *rest: fitted.append(image.shape[-1]))
    for count in (0, 1, 2, len(sides)):
        monkeypatch.setattr(probe, "SHORT", sum(flops.by_scale(once, 16)[:count]) + 1)
        found = probe.rates(p, work, ["GAN"], 0.001).set_index("kind").loc["GAN"]
        side = sides[max(count - 1, 0)]
        assert set(fitted) == {side}
        assert found["flop"] == flops.fitting(once, side)
        assert found["how"].startswith(f"scales up to {side} pixels") == (side < 16)
        fitted.clear()


def test_what_a_processor_takes_long_for_it_does_once(nano_params: Params, monkeypatch):
    work, calls = flops.count(nano_params), []
    monkeypatch.setattr(UNet, "forward", recorded(UNet.forward, calls))
    assert probe.rates(nano_params, work, ["sampling"], 1e-6)["repetitions"].tolist() == [1]
    assert len(calls) == 1


@pytest.mark.usefixtures("bf16")
def test_sampling_and_styling_are_probed_as_their_chapters_do_them(nano_params: Params, monkeypatch):
    p = changed(nano_params, inpaint={"precision": "bf16"},
                style={"precision": "bf16", "checkpointing": True})
    work, seen = flops.count(p), []
    monkeypatch.setattr(UNet, "forward", noted(UNet.forward, seen))
    probe.rates(p, work, ["sampling", "styling"], 0.001)
    assert set(seen) == {(torch.bfloat16, False), (torch.bfloat16, True)}


def noted(forward, seen: list[tuple[torch.dtype, bool]]):
    def call(net, x, t):
        seen.append((net.input_blocks[0][0].weight.dtype, net.checkpointing))
        return forward(net, x, t)
    return call


def test_where_the_wanted_device_is_absent_the_plan_is_for_another():
    p = profile("smoke", ("device", "cuda:99"))
    found, device = plan.at_hand(p)
    assert (found.device, found.data) == ("auto", p.data)
    assert device.endswith("(cuda:99, which the parameters name, is unavailable)")
    assert plan.at_hand(found) == (found, devices.name("auto"))


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1, 3601])
def test_a_probe_without_an_end_is_refused(nano_params: Params, monkeypatch, seconds: float):
    monkeypatch.setattr(probe, "rates", None)  # it would not come back
    with pytest.raises(UserError, match=f"^--seconds {seconds:g}: the device can be probed for 0 to 3600"):
        plan.make(nano_params, seconds)


# ---- the command

def test_the_command_shows_every_chapter_and_runs_nothing(nano: dict, tmp_path: Path):
    file = tmp_path / "nano.yaml"
    file.write_text(yaml.safe_dump(nano))
    result = CliRunner().invoke(cli.app, ["plan", str(file), "-p", "train.images", "40", "--seconds", "0"])
    assert result.exit_code == 0, result.exception
    assert all(chapter in result.stdout for chapter in CHAPTERS)
    for words in ("nano: 10 pairs (phantoms).", "largest item", "no time was measured", "Not counted:"):
        assert words in result.stdout
    assert "refuses" not in result.stdout
    assert " 80 " in next(line for line in result.stdout.splitlines() if "cluster models" in line)
    assert list(tmp_path.iterdir()) == [file]


def test_the_command_tells_what_a_run_would_miss(nano: dict, tmp_path: Path):
    file = tmp_path / "nano.yaml"
    file.write_text(yaml.safe_dump(nano))
    keys = ("gan.source", "train.checkpoints", "segment.cvc", "segment.polypgen", "cluster.file")
    asked = [word for key in keys for word in ("-p", key, f"/nowhere/{key}")]
    result = CliRunner().invoke(cli.app, ["plan", str(file), *asked, "--seconds", "0"])
    assert result.exit_code == 0, result.exception
    plain, notes = result.stdout.split("\nAs things are, `diffusegen run` refuses these parameters:\n")
    assert all(chapter in plain for chapter in CHAPTERS)
    lines = notes.split("\n\nNext: fix that, then ")[0].splitlines()
    assert len(lines) == len(keys)
    for key in keys:
        assert any(f"{key}: /nowhere/{key} " in line for line in lines), key


def test_writing_checkpoints_is_not_counted_and_that_is_said(paper):
    words = " ".join(paper[2].text.split())
    assert words.endswith("loading models and writing checkpoints "
                          "(8.42 GB every train.checkpoint_every steps).")
    adopted = plan.make(profile("smoke", ("train.checkpoints", "there")), 0).text
    assert adopted.endswith("writing checkpoints.")


@pytest.mark.parametrize(("value", "words"), [
    (0, "-"), (999, "999 FLOP"), (2.216e12, "2.22 TFLOP"), (999_600, "1.00 MFLOP"), (0.73e18, "730 PFLOP")])
def test_flop_in_words(value: float, words: str):
    assert plan.flop(value) == words


@pytest.mark.parametrize(("load", "told"), [(0.1, False), (40.0, True)])
def test_a_plan_says_that_the_machine_was_busy(monkeypatch: pytest.MonkeyPatch, load: float,
                                               told: bool) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert probe.busy(torch.device("cpu")).startswith("The load of this machine was 40.0") == told
    assert ("beside as much of that" in probe.busy(torch.device("cpu"))) == told, "no upper limits"
    assert probe.busy(torch.device("cuda")) == ""


@pytest.mark.parametrize(("kind", "pair"), [(Planes(), 4), (Planes(1, 1), 2), (Planes(5, 3), 6)])
def test_the_disk_of_pairs_counts_their_channels_and_classes(kind: Planes, pair: int) -> None:
    """A folder has a byte for each channel, and one for the class; the file of the run has all planes."""
    look, learn, side = Backbone(1.0, 7), Learner(1.0, 3.0, 100), 16
    work = Work(look, look, learn, [], 0.0, 0.0, learn, kind)
    supply = {DataType("Paint", "2"): Amount(4, 3), DataType("Paste"): Amount(4, 3)}
    settings = params.validate({}).inpaint
    found = [*inpaint.costs(settings, supply, side, work), *paste.costs(supply, side, work)]
    assert [cost.disk for cost in found] == [12 * pair * side**2] * 2
    [features_of] = cluster.costs(10, side, work, kind.classes)
    assert features_of.disk == 10 * (kind.all * side**2 + (1 + kind.classes) * 4 * 7)


def test_a_network_is_counted_once_a_process(nano_params: Params, monkeypatch: pytest.MonkeyPatch):
    first = flops.count(nano_params)
    monkeypatch.setattr(flops, "of", lambda call: pytest.fail("counted again"))
    longer = changed(nano_params, train={"images": 999}, cluster={"k": 1}, segment={"epochs": 77})
    assert flops.count(longer) == first
    monkeypatch.undo()
    other = flops.count(changed(nano_params, model={"base_channels": 64}))
    assert (other.unet.call > first.unet.call, other.segment) == (True, first.segment)


def test_groups_of_parameters_with_lists_are_known_again(nano_params: Params):
    same = params.validate(params.plain(nano_params))
    assert (hash(same.model), same.model) == (hash(nano_params.model), nano_params.model)
    assert hash(changed(nano_params, model={"channel_mult": [2]}).model) != hash(nano_params.model)
