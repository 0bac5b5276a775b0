"""`diffusegen new`: a parameter file from a look at the data and at the device."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dask.system
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from diffusegen_core import cli, cli_new
from diffusegen_core.chapters import augment
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import checkup, dataset, patients, phantom
from diffusegen_core.data.reports import Pair, Report
from diffusegen_core.measures import power
from diffusegen_core.networks import weights
from diffusegen_core.newprofile import cautions, firstlook, fitting, grouping, guesses, ladder, lines, making
from diffusegen_core.newprofile.lines import Line
from diffusegen_core.newprofile.wish import Wish
from diffusegen_core.planning import plan, preflight
from diffusegen_core.planning.plan import Plan
from diffusegen_core.report import answer, rule
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[int]]:
    """A device on which a run takes so many minutes for each thousand pixels; the sizes that were probed."""
    def on(minutes: float) -> list[int]:
        probed: list[int] = []

        def make(p: Params, seconds: float) -> Plan:
            work = p.data.image_size**2 / 1000
            table = pd.DataFrame({"chapter": ["train"], "kind": ["training"], "flop": [work],
                                  "seconds": [60 * minutes * work], "items": 1,
                                  "images": 1, "disk": 0, "largest": 0.0, "temporary": 0})
            if seconds:
                probed.append(p.data.image_size)
            rates = pd.DataFrame({"kind": ["training"], "rate": [1 / (60 * minutes)]})
            return Plan(table, p.profile, 32, "", rates, "a device")
        monkeypatch.setattr(plan, "make", make)
        return probed
    return on


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_answered", lambda address, minute: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Forty pairs of ten patients, at 96 pixels."""
    for number in range(40):
        image, mask, _ = phantom.draw(3, number, 96)
        dataset.write_pair(tmp_path / "pairs", f"pat{number // 4:02d}_{number}", image, mask)
    return tmp_path / "pairs"


def test_the_file_is_one_that_run_takes_with_a_reason_for_each_choice(
        checkout, pairs, timed, offline, monkeypatch):
    timed(0.1)
    monkeypatch.setattr(dask.system, "CPU_COUNT", 3)
    result = call("new", pairs, "--minutes", "60")
    assert result.exit_code == 0, result.exception
    file = checkout / "params" / "mine.yaml"
    assert f"Written: {file}" in result.stdout
    assert re.search(r"Then:\n  diffusegen run params/mine\.yaml --to 3 .*\n  diffusegen run "
                     r"params/mine\.yaml .*\nThis machine has 3 cores: --workers N, up to 3, if .* "
                     r"at once, which is faster where there are several[.]\n$", result.stdout)
    assert "; class: lesion" in call("data", "check", pairs, "--all").stdout, "both call it the same"
    assert re.search(r"^Time, on a device: .*, of which 2 train ", result.stdout, re.MULTILINE)
    p = params.validate({**params.load(file), "profile": "mine"})
    assert p.data.source == str(pairs)
    assert (p.data.count, p.data.holdout, p.data.channels, p.data.object) == (None, 0.3, 3, "lesion")
    assert p.data.patients == guesses.NAMES[0]
    assert (p.inpaint.guidance_scale, p.style.guidance_scale) == (2.0, 1.5), "as in colour"
    assert (p.augment.rule, p.augment.alpha) == ("add", 1.0), "what is exported"
    assert preflight.problems(p) == []
    assert preflight.notes(p) == []
    assert dataset.expected(p.data)[0] == 28
    assert p.augment.rule == "add", "no real pair is given up for synthetic ones"
    assert p.segment.epoch_images, "and all networks have equal steps, however many pairs there are"
    text = file.read_text()
    assert re.search("^  rule: \"add\" +# keeps all real pairs", text, re.MULTILINE)
    assert "guessed from the images' names: 10 patients, 4 images each, such as pat00." in text
    assert "12 of 40 pairs, which nothing is trained on or painted from" in text
    for section in ("data", "cluster", "train", "inpaint", "segment"):
        part = text.split(f"\n{section}:\n")[1].split("\n\n")[0]
        assert part.count("# ") >= 3, section
    assert all(len(line) <= lines.WIDE + 2 for line in text.splitlines() if line.startswith("#"))


def test_u2_what_it_wrote_for_a_folder_of_ones_own_runs_from_the_first_chapter_to_the_last(
        checkout, pairs, timed, offline, nano_values, tmp_path):
    """With smaller networks than it chose, and fewer of them; counts, sets and weights stay its own."""
    timed(1.0)
    assert call("new", pairs, "--minutes", "3.5").exit_code == 0
    chosen = params.load(checkout / "params" / "mine.yaml")
    small = {"model": nano_values["model"], "train": {**nano_values["train"], "images": 8},
             "inpaint": {"jump_length": 2, "respacing": 4}, "style": {"respacing": 4, "skip": 1},
             "segment": {"decoder_channels": [8, 8, 8], "epochs": 1, "epoch_images": 4, "seeds": 1},
             "augment": {"seeds": 1}}
    run = Run(params.validate({**chosen, "run_dir": str(tmp_path / "run"), "profile": "mine", **{
        name: {**chosen.get(name, {}), **values} for name, values in small.items()}}))
    _, segment, augment = (run.make(chapter) for chapter in ("evaluate", "segment", "augment"))
    held_out = set(augment.images["image"])
    names = {pair.stem for pair in (pairs / "images").iterdir()}
    assert len(held_out) == 12
    assert held_out < names
    assert not {name.split("_")[0] for name in held_out} & {
        name.split("_")[0] for name in run.pairs.names}
    assert set(segment.runs["status"]) == set(augment.runs["status"]) == {"ok"}
    assert answer.questions(run)


@pytest.mark.parametrize(("minutes", "side", "probed"), [
    (3.5, 32, [32, 32]), (4.2, 32, [32, 32, 48]), (6, 48, [32, 32, 48, 64]), (9, 64, [32, 32, 48, 64, 64])])
def test_the_largest_run_that_fits_the_time_is_chosen(checkout, pairs, timed, offline, minutes, side, probed):
    seen = timed(1.0)
    made = making.make(Wish(pairs, minutes))
    assert params.validate(lines.values({"": {}}) | params._parsed(made.text, "")).data.image_size == side
    assert seen[:len(probed)] == probed
    assert 256 not in seen
    assert any("It will not be done in" in line for line in made.limits) == (minutes < 4.1)


def test_time_that_is_left_goes_into_training_and_the_next_size_is_told(
        checkout, pairs, timed, offline, monkeypatch):
    timed(1.0)  # 48 px take 2.3 minutes, and 64 px 4.1
    monkeypatch.setattr(fitting, "GENERATORS", 1)
    made = making.make(Wish(pairs, 6.9))
    p = params.validate(params._parsed(made.text, ""))
    assert p.data.image_size == 48
    assert 1.25 * 6000 < p.train.images <= ladder.PASSES * 28
    assert p.train.images % 100 == 0
    assert made.best.larger.startswith(
        "The next larger run, with images of 64 px, networks of 64 channels, 3 new pairs from each, 60 "
        "epochs a network (as in params/kvasir_cpu.yaml), would take about "), "nothing that this run has too"
    assert made.best.larger.endswith("--minutes 10.")
    assert made.best.larger in making.text(made)
    assert "timed for a second or two, without --workers: programs that compute beside" in making.text(made)
    beside = replace(made.best, plan=replace(made.best.plan, busy="The load of this machine was 2.0."))
    told = list(cautions.cautions(made.params, made.data, beside, 60, True))
    assert "Its time is uncertain. The load of this machine was 2.0." in told
    assert making.make(Wish(pairs, 5.4)).best.rung.images in {rung.images for rung in ladder.LADDER}


@pytest.mark.parametrize(("device", "there", "said"), [
    ("cpu", (1, 4), ""), ("auto", (8, 1), ""), ("cuda:1", (8, 4), ""),
    ("cpu", (2, 4), "This machine has 2 cores: --workers N, up to 2, if the memory is enough, computes N i"),
    ("cuda", (8, 4), "This machine has 4 GPUs: --workers N, up to 4, computes N items (models, sets of p")])
def test_workers_are_proposed_where_there_is_something_to_divide(monkeypatch, device, there, said):
    monkeypatch.setattr(dask.system, "CPU_COUNT", there[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there[1])
    line = cli_new._workers(device)
    assert line.startswith(said)
    assert bool(line) == bool(said)


@pytest.mark.parametrize(("minutes", "given", "seeds"), [
    (18, {}, 3), (25, {}, 5), (40, {}, 8), (40, {"generators": 3}, 3), (40, {"segment": {"seeds": 3}}, 3),
    (40, {"segment": {"seeds": 1}, "augment": {"seeds": 1}}, 1)])
def test_time_that_is_left_in_the_end_goes_into_repetitions(monkeypatch, minutes, given, seeds):
    def sections(rung: ladder.Rung) -> dict:
        return {"": {"generators": Line(given.get("generators", 1))}, **{name: {"seeds": Line(
            given.get(name, {}).get("seeds", rung.seeds))} for name in ("segment", "augment")}}

    def made(p: Params, seconds: float) -> Plan:
        count = p.segment.seeds + p.augment.seeds
        table = pd.DataFrame({"kind": ["networks"], "flop": [float(count)], "seconds": [120.0 * count]})
        return Plan(table, "mine", 32, "", None, "a device")
    validated = lambda chosen: params.validate(lines.values(chosen))  # noqa: E731
    monkeypatch.setattr(plan, "make", made)
    rung = ladder.LADDER[1]
    best = fitting.Fit(rung, sections(rung), made(validated(sections(rung)), 0))
    p = validated(fitting._repeated(best, 60 * minutes, sections, validated).chosen)
    assert p.segment.seeds == seeds


def test_a_folder_without_a_layout_is_read_where_one_way_takes_every_picture(
        checkout, tmp_path, timed, offline):
    timed(0.1)
    folder = tmp_path / "us"
    folder.mkdir()
    for number in range(30):
        image, mask, _ = phantom.draw(3, number, 64)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"case{number:03d}.png")
        Image.fromarray(mask[0] * 255).save(folder / f"case{number:03d}_mask.png")
    result = call("new", folder)
    assert result.exit_code == 0, result.exception
    data = params.validate(params.load(checkout / "params" / "mine.yaml")).data
    assert (data.images, data.masks) == ("*", "*_mask")
    checked = call("data", "check", folder, "--patients", "each")
    assert checked.exit_code == 0
    assert "Read by --images '*' --masks '*_mask'" in checked.stdout
    assert "30 patients, 1 image each, such as case000.png, by data.patients" in checked.stdout
    Image.new("RGB", (64, 64)).save(folder / "legend.png")
    refused = call("new", folder, "--out", "params/other.yaml")
    assert refused.exit_code == 1
    assert "--images '*' --masks '*_mask'" in str(refused.exception)


@pytest.mark.parametrize(("count", "patients", "held"), [
    (200, None, 40), (90, None, 22), (60, None, 21), (40, None, 12), (60, "each", 21)])
def test_as_many_pairs_are_held_out_as_a_verdict_needs(tmp_path, count, patients, held):
    pixels = np.zeros((3, 16, 16), np.uint8)
    for number in range(count):
        shade = np.random.default_rng(number).integers(0, 255, pixels.shape, np.uint8)
        dataset.write_pair(tmp_path / "pairs", f"image{number}", shade, np.eye(16, dtype=np.uint8)[None])
    seen = firstlook.look(tmp_path / "pairs", {}, patients, {"image_size": 16})
    assert len(seen.held) == held
    assert seen.pairs == count - held
    assert bool(seen.patients) == (patients == "each")
    [line] = [words for _, subject, words in seen.lines(16) if subject == "patients"]
    assert line.endswith(f"{held} of {count} pairs are held out{f', of {held} patients' if patients else ''}")
    assert firstlook.look(tmp_path / "pairs", {}, None, {"holdout": 0.1}).settings.holdout == 0.1


def test_a_class_that_some_pairs_lack_has_as_many_test_images_as_a_verdict_needs(tmp_path):
    """90 slices, of which 78 show a lesion, once got 24 test images, 18 of them with a lesion: no verdict."""
    for number in range(90):
        shade = np.random.default_rng(number).integers(0, 255, (1, 16, 16), np.uint8)
        masks = np.zeros((2, 16, 16), np.uint8)
        masks[0, 4:8, 4:8], masks[1, 9:12, 9:12] = 1, number % 7 > 1
        dataset.write_pair(tmp_path / "pairs", f"image{number}", shade, masks)
    given = {"image_size": 16, "labels": {"1": "organ", "2": "lesion"}, "channels": 1}
    seen = firstlook.look(tmp_path / "pairs", {}, None, given)
    assert seen.shown(16)["lesion"] >= 20
    less = firstlook.look(tmp_path / "pairs", {}, None, {**given, "holdout": seen.settings.holdout - 0.05})
    assert len(less.held) >= 20 > less.shown(16)["lesion"], "the least share that does"
    checked = call("data", "check", tmp_path / "pairs", *(
        word for name, value in [("labels", "{1: organ, 2: lesion}"), ("channels", "1")]
        for word in ("-p", f"data.{name}={value}"))).stdout
    assert f"`new` holds out {len(seen.held)}: enough for a verdict" in " ".join(checked.split())


def test_all_pairs_are_the_last_of_the_sets_where_all_are_painted_into():
    def sizes(rung: int, pairs: int) -> list[int]:
        return ladder.sections(ladder.LADDER[rung], pairs, 20, 1, pairs)["augment"]["sizes"].value
    assert [sizes(2, pairs) for pairs in (10, 16, 42, 48, 200)] == [[10], [16], [16, 42], [16, 48], [16]]
    assert [sizes(3, pairs) for pairs in (28, 96, 348)] == [[16, 28], [16, 96], [16, 32]]
    assert sizes(5, 60) == [16, 32, 60]


def test_images_are_never_made_larger_than_they_are(checkout, tmp_path, timed, offline):
    dataset.write_phantoms(tmp_path / "small", 30, 48, 0)
    seen = timed(1e-6)
    making.make(Wish(tmp_path / "small", 60))
    assert max(seen) == 48


def test_nothing_is_written_over_and_nothing_is_left_where_it_is_refused(checkout, pairs, timed, offline):
    timed(0.01)
    before = sorted(checkout.rglob("*"))
    for words, says in (
            (["--out", "params/smoke.yaml"], "smoke.yaml exists already and is not overwritten"),
            (["--minutes", "0.5"], "--minutes 0.5: a run takes from 1 to"),
            (["--images", "images/*"], "--images and --masks are given together"),
            (["--patients", "("], "is not a regular expression"),
            (["--patients", "^(Q)"], "finds no patient in"),
            (["--device", "cuda:77"], "cuda:77 is asked for"),
            (["--weights", "/no.pth"], "There is no weights file /no.pth"),
            (["-p", "data.imagesize", "3"], "imagesize: unknown key")):
        result = call("new", pairs, *words)
        assert isinstance(result.exception, UserError), words
        assert says in str(result.exception)
    Image.new("L", (96, 96)).save(next((pairs / "masks").iterdir()))
    result = call("new", pairs)
    assert "empty mask" in str(result.exception)
    assert "Correct the folder, or leave these out: -p data.on_bad skip." in str(result.exception)
    assert sorted(checkout.rglob("*")) == before


def test_a_run_of_the_name_is_not_taken_over(checkout, pairs, timed, offline):
    (checkout / "runs" / "mine").mkdir(parents=True)
    (checkout / "runs" / "mine" / "run.json").write_text('{"diffusegen": "0"}')
    assert "is a run already, called mine" in str(call("new", pairs).exception)


def test_what_is_given_goes_before_what_was_seen(checkout, pairs, timed, offline):
    timed(0.01)
    made = making.make(Wish(pairs, 60, patients=r"pat(\d\d)", changes={
        "cluster": {"k": 3}, "data": {"object": "polyp", "channels": 1}, "seed": 5}))
    p = params.validate(params._parsed(made.text, ""))
    assert (p.cluster.k, p.data.object, p.data.channels, p.data.patients, p.seed) == (
        3, "polyp", 1, r"pat(\d\d)", 5)
    assert "k: 3" in made.text
    assert "as given by -p" in made.text


def test_grey_images_and_masks_of_several_values_are_seen(checkout, tmp_path, timed, offline):
    dataset.write_phantoms(tmp_path / "slices", 20, 64, 0, "phantom-slices")
    timed(0.01)
    made = making.make(Wish(tmp_path / "slices", 60))
    p = params.validate(params._parsed(made.text, ""))
    assert (p.data.channels, p.data.labels) == (1, {"1": "class_1", "2": "class_2", "3": "class_3"})
    assert (p.inpaint.guidance_scale, p.style.guidance_scale) == (1.25, 1.25), "at 2, lesions are too dark"
    one = making.make(Wish(tmp_path / "slices", 60, changes={"inpaint": {"classes": ["class_3"]}}))
    beside = params.validate(params._parsed(one.text, ""))
    assert (beside.inpaint.guidance_scale, beside.style.guidance_scale) == (1, 1), "guidance is of it alone"
    assert p.data.patients is None
    assert any("of patients that were trained on" in line for line in made.limits)
    assert preflight.problems(p) == []


@pytest.mark.parametrize(("values", "labels"), [
    ((0, 255), None), ((0, 1), {"1": "lesion"}), ((0, 1, 2), {"1": "class_1", "2": "class_2"}),
    (tuple(range(40)), None), ((1, 2), None)])
def test_labels_are_told_by_few_values_above_a_background(values, labels):
    seen = checkup.Seen()
    seen.values.update(dict.fromkeys(map(str, values), 9))
    assert guesses.labels(seen, Report(Path(), "")) == labels


@pytest.mark.parametrize(("names", "pattern"), [
    ([f"P{n // 3}_{n}" for n in range(18)], guesses.NAMES[0]),
    ([f"img_patient-{n // 3}_{n}" for n in range(18)], guesses.NAMES[0]),
    ([f"{n // 3:03d}_{n}" for n in range(18)], guesses.NAMES[1]),
    ([f"phantom_{n:05d}" for n in range(18)], None), ([f"{n}" for n in range(18)], None),
    ([f"P{n}_1" for n in range(18)], None), ([f"benign ({n})" for n in range(18)], None),
    ([f"P{n % 2}_{n}" for n in range(18)], None)])
def test_patients_are_told_by_names_that_repeat(names, pattern):
    folder = Path("/data")
    report = Report(folder, "", [Pair(name, folder / "images" / f"{name}.png", folder) for name in names])
    assert guesses.patients(report) == pattern


def test_weights_of_a_file_are_used_where_they_fit_and_refused_where_they_do_not(tmp_path, monkeypatch):
    import torchvision
    monkeypatch.setattr(guesses, "BACKBONES", ("resnet18",))
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "own.pth")
    found = guesses.available(str(tmp_path / "own.pth"), (64, 32, 16))
    assert found.known
    assert found.sections["cluster"]["backbone"].value == "resnet18"
    assert found.sections["segment"]["weights"].value == str(tmp_path / "own.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    other = guesses.available(str(tmp_path / "own.pth"), (64, 32, 16), "symmetric").sections
    assert {other[name]["input_range"].value for name in ("cluster", "style", "evaluate", "segment")} == {
        "symmetric"}
    with pytest.raises(UserError, match=r"fit none of the backbones resnet18\. Leave it out"):
        guesses.available(str(tmp_path / "other.pth"), (64, 32, 16))


def test_the_number_of_clusters_follows_looks_and_sizes(tmp_path, monkeypatch):
    dataset.write_phantoms(tmp_path / "pairs", 60, 64, 0)
    settings = params.validate({"data": {"source": str(tmp_path / "pairs"), "count": None}}).data
    report = dataset.layouts.scan(tmp_path / "pairs", settings)
    network = params.validate({}).cluster

    def apart(pixels: np.ndarray, *arguments: object, seed: int) -> np.ndarray:
        return np.array([[0.0, i] if i % 3 else [99.0, i] for i in range(len(pixels))]) / [1, 100]
    monkeypatch.setattr(grouping.features, "extract", apart)
    found = grouping.by_looks(settings, report, [], network, 0)
    assert (found.k, found.smallest) == (2, 20)
    assert found.reason == (
        "silhouette by K, as chapter 1 plots it, and smallest cluster: 2: 1.00, 20 pairs. Above 2, clusters "
        "have fewer than 24 pairs")
    monkeypatch.setattr(grouping.features, "extract", lambda pixels, *rest, seed: np.random.default_rng(
        0).normal(size=(len(pixels), 64)))
    found = grouping.by_looks(settings, report, [], network, 0)
    assert found.k == 1
    assert "One model for all" in found.reason
    halves = np.random.default_rng(0).normal(size=(60, 8)) + [[2.0 * (i % 2)] + 7 * [0] for i in range(60)]
    monkeypatch.setattr(grouping.features, "extract", lambda pixels, *rest, seed: halves[:len(pixels)])
    vague = grouping.by_looks(settings, report, [], network, 0)
    assert vague.k == 1, "0.13 in a walk's CT slices: two models of half the pairs each"
    assert 0.1 < float(vague.reason.split("2: ")[1].split(",")[0]) < grouping.CLEAR
    assert grouping.by_number(40).k == 1
    assert grouping.by_number(200)[:2] == (2, 50)


def test_the_silhouette_that_new_tells_is_that_of_chapter_1(checkout, tmp_path):
    """At the run's size, of the pairs that it trains on: at another size it once was twice as large."""
    dataset.write_phantoms(tmp_path / "pairs", 60, 64, 0)
    for side in (32, 48):
        p = params.validate({"run_dir": str(tmp_path / f"run{side}"), "seed": 3, "device": "cpu",
                             "data": {"source": str(tmp_path / "pairs"), "count": None, "image_size": side,
                                      "holdout": 0.1},
                             "model": {"attention_resolutions": [side // 2]},
                             "cluster": {"k": 2, "scan": [2], "backbone": "resnet18", "weights": "random"}})
        report = dataset.layouts.scan(tmp_path / "pairs", p.data)
        run = Run(p)
        held = {pair.name for pair in report.pairs} - set(run.make("data").names)
        assert held
        chapters = run.make("cluster")
        found = grouping.by_looks(p.data, report, held, p.cluster, 3)
        told = f"smallest cluster: 2: {chapters.scan['silhouette'][0]:.2f}, {min(chapters.sizes)} pairs."
        assert told in found.reason


def test_small_lesions_are_left_out_if_they_are_few(checkout, tmp_path, timed, offline):
    timed(1.0)  # so that 32 px are chosen, where a dot is a single pixel
    for few in (True, False):
        for number in range(20):
            image, _, _ = phantom.draw(0, number, 64)
            mask, side = np.zeros((1, 64, 64), np.uint8), 2 if number < (1 if few else 8) else 20
            mask[:, 30:30 + side, 30:30 + side] = 1
            dataset.write_pair(tmp_path / "pairs", f"{number}", image, mask)
        made = making.make(Wish(tmp_path / "pairs", 1))
        data = params.validate(params._parsed(made.text, "")).data
        assert data.on_bad == ("skip" if few else "refuse")
        assert data.min_area == (pytest.approx(making.SMALL / 32**2, rel=0.01) if few else None)
        told = [line for line in made.limits if "miss the smallest lesions: 8 pairs" in line]
        assert bool(told) != few
    assert "-p data.window 2 -p data.window_size 32 helps the painting models alone" in told[0]
    assert "-p data.min_area 0.011719 -p data.on_bad skip leaves these out" in told[0]
    assert told[0].endswith(" trained on or painted from: 12 of 20 pairs are left.")
    comment = " ".join(made.text.replace("#", "").split())
    assert "trained on, and painted as small; 0.011719 with on_bad: skip" in comment
    closer = making.make(Wish(tmp_path / "pairs", 1, changes={"data": {"window": 2, "window_size": 32}}))
    assert any("that. data.window, as given, helps the painting models alone" in line
               for line in closer.limits)
    two = made.data.settings.model_copy(update={"labels": {1: "a", 2: "b"}})
    seen = replace(made.data, settings=two)
    seen.seen.seen.areas[:] = [(0.001, "0", 1), (0.5, "0", 0)]
    assert seen.small_ones(32) == "region of b"


def test_the_sets_fit_the_pairs_that_are_left(checkout, tmp_path, timed, offline):
    """Of pairs whose lesion is too small for the run's size, none counts."""
    timed(1.0)
    for number in range(40):
        image, _, _ = phantom.draw(0, number, 64)
        mask, side = np.zeros((1, 64, 64), np.uint8), 2 if number in (3, 7) else 20
        mask[:, 30:30 + side, 30:30 + side] = 1
        dataset.write_pair(tmp_path / "pairs", f"{number:02}", image, mask)
    made = making.make(Wish(tmp_path / "pairs", 1))
    assert sorted(made.data.left_out(32)) == ["03", "07"]
    kept = 40 - len({*made.data.held, "03", "07"})
    assert max(made.params.augment.sizes) <= made.params.inpaint.sources <= kept
    assert made.params.segment.test_count == len(set(made.data.held) - {"03", "07"})
    assert any("Left out: 2 pairs" in line and "(03, 07)" in line for line in made.limits)
    train, test = made.data.kept(32)
    told = f"{' '.join(made.text.replace('#', ' ').split())} {making.text(made)}"
    counts = set(re.findall(r"(\d+)(?: of \d+)? pairs(?! with)", told))
    assert counts == {"40", "80", *map(str, (train, test))}, "the folder, a bound of k, and two of the run"
    assert f"{train} pairs of pairs, and {test} to test on" in told
    assert told.count(f"{test} of 38 pairs") == 2, "in the file and in the terminal"


def test_another_folder_that_tests_is_asked_for_all_its_images(checkout, pairs, tmp_path, timed, offline):
    timed(0.1)
    dataset.write_phantoms(tmp_path / "others", 25, 64, 0)
    made = making.make(Wish(pairs, changes={"data": {"holdout": None},
                                            "segment": {"held_out": str(tmp_path / "others")}}))
    assert made.params.segment.test_count >= 25
    assert made.data.held == []
    assert not any("no verdict" in line or "no pairs are held out" in line for line in made.limits)


def test_what_is_held_out_is_what_a_run_holds_out(checkout, tmp_path, timed, offline):
    """Of the pairs as listed, of which some are unusable, by the run's seed."""
    timed(0.1)
    for number in range(40):
        image, mask, _ = phantom.draw(3, number, 64)
        dataset.write_pair(tmp_path / "pairs", f"{number:02d}", image, mask * (number % 5 > 0))
    made = making.make(Wish(tmp_path / "pairs", changes={"data": {"on_bad": "skip"}, "seed": 7}))
    run = Run(made.params)
    stored = run.make("data")
    assert len(stored) == made.data.pairs < 32
    assert set(stored.names).isdisjoint(made.data.held)
    assert len(made.data.held) == 32 - len(stored)
    assert max(made.params.augment.sizes) <= len(stored)


def test_the_test_images_that_show_each_class_are_counted(checkout, tmp_path, timed, offline):
    timed(0.01)
    for number in range(80):
        image, mask, _ = phantom.draw(3, number, 64)
        grey = 1 * (mask[0] > 0)
        grey[:8, :8] = 2 * (number % 4 == 0)
        dataset.write_pair(tmp_path / "pairs", f"{number:02d}", image, mask)
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "pairs" / "masks" / f"{number:02d}.png")
    made = making.make(Wish(tmp_path / "pairs", changes={"data": {"labels": {"1": "organ", "2": "stone"}}}))
    held = made.data.held
    stones = sum(int(name) % 4 == 0 for name in held)
    assert 0 < stones < power.LEAST_IMAGES <= len(held)
    assert (f"look  held out     of {len(held)} masks: organ in {len(held)}, stone in {stones}; a verdict on "
            "a class needs 20") in making.text(made)
    [line] = [one for one in made.limits if "on single classes" in one]
    assert line.startswith("There will be no verdict on single classes that fewer than 20 test images show: "
                           f"stone in {stones}. Test on another folder of labelled images: "), "60 % is few"
    half = making.make(Wish(tmp_path / "pairs", changes={
        "data": {"labels": {"1": "organ", "2": "stone"}, "holdout": 0.1}})).data
    assert half.enough(64)[0] < 0.6
    assert half.enough(64, each_class=True) is None


def test_look_alikes_of_guessed_patients_are_counted(pairs):
    image, mask, _ = phantom.draw(3, 0, 96)
    dataset.write_pair(pairs, "pat07_99", image, mask)
    seen = firstlook.look(pairs, {}, None, {})
    assert seen.guessed
    [line] = [words for _, subject, words in seen.lines(64) if subject == "copies"]
    assert line.endswith("identical, 1 of them of different patients: pat00_0 and pat07_99")


def test_the_share_that_is_enough_is_one_of_whole_patients(pairs):
    data = firstlook.look(pairs, {}, r"^(pat[0-9]+)_", {})
    share, left = data.enough(64)
    settings = data.settings.model_copy(update={"holdout": share})
    assert len(patients.split(data.listed, settings, 0)[1]) == 40 - left == 20


def test_with_time_to_spare_three_generators_are_trained(checkout, pairs, monkeypatch, offline):
    def make(p: Params, seconds: float) -> Plan:
        minutes = p.generators * p.data.image_size**2 / 1000
        return Plan(pd.DataFrame({
            "chapter": ["train"], "kind": ["training"], "flop": [minutes], "seconds": [60 * minutes],
            "items": 1, "images": 1, "disk": 0, "largest": 0.0, "temporary": 0}), p.profile, 32, "", None,
            "a device")
    monkeypatch.setattr(plan, "make", make)
    chosen = [making.make(Wish(pairs, minutes)).params for minutes in (6.9, 9.0, 16.0)]
    assert [(p.data.image_size, p.generators) for p in chosen] == [(48, 1), (64, 1), (64, 3)]


def test_all_pairs_are_painted_and_tried_where_there_is_time_and_unstyled_ones_are_too(
        checkout, pairs, monkeypatch, offline):
    def make(p: Params, seconds: float) -> Plan:
        minutes = 5.0 + (p.inpaint.sources > 12) + 4 * (p.generators - 1)
        return Plan(pd.DataFrame({
            "chapter": ["train"], "kind": ["training"], "flop": [minutes], "seconds": [60 * minutes],
            "items": 1, "images": 1, "disk": 0, "largest": 0.0, "temporary": 0}), p.profile, 32, "", None,
            "a device")
    monkeypatch.setattr(plan, "make", make)
    monkeypatch.setattr(making, "LADDER", (replace(ladder.LADDER[1], sources=12),))
    made = [making.make(Wish(pairs, minutes)).params for minutes in (8.5, 9.5, 17.5)]
    assert [(p.inpaint.sources, p.augment.sizes, p.generators) for p in made] == [
        (12, [12], 1), (27, [16, 27], 1), (27, [16, 27], 3)], "one has too small a lesion"
    k = made[0].cluster.k
    tried = augment.types(trainsets.expected(made[0]), made[0].augment)
    assert [kind.name for kind in tried] == ["Paste", f"{k}-Paint", f"{k}-Styled-Paint"]
    changes = {"augment": {"types": ["Paste"]}}
    assert making.make(Wish(pairs, 9.5, changes=changes)).params.augment.types == ["Paste"]


def test_repetitions_for_a_verdict_come_before_generators(checkout, pairs, monkeypatch, offline):
    def make(p: Params, seconds: float) -> Plan:
        minutes = p.generators * p.augment.seeds * (1 if p.data.image_size == 32 else 9)
        return Plan(pd.DataFrame({
            "chapter": ["train"], "kind": ["training"], "flop": [minutes], "seconds": [60 * minutes],
            "items": 1, "images": 1, "disk": 0, "largest": 0.0, "temporary": 0}), p.profile, 32, "", None,
            "a device")
    monkeypatch.setattr(plan, "make", make)
    monkeypatch.setattr(ladder, "LADDER", (ladder.LADDER[0], ladder.LADDER[2]))
    monkeypatch.setattr(making, "LADDER", ladder.LADDER)
    made = [making.make(Wish(pairs, minutes)) for minutes in (5.5, 6.5, 12.5)]
    assert [(one.params.augment.seeds, one.params.generators) for one in made] == [(1, 1), (3, 1), (3, 3)]
    assert ("With -p segment.seeds 3 -p augment.seeds 3 there can be one with enough test images, and the "
            "run takes about 6 min" in "\n".join(made[0].limits))


def test_every_size_of_run_is_possible_and_few_pairs_lessen_it():
    for rung in ladder.LADDER:
        for pairs, held, k in ((4, 1, 1), (32, 8, 1), (800, 200, 2)):
            made = ladder.sections(rung, pairs, held, k, max(1, pairs // (2 * k)))
            p = params.validate({"data": {"image_size": rung.side, "count": None, "source": "x"},
                                 "cluster": {"k": k}, **lines.values(made)})
            assert p.train.images <= ladder.PASSES * max(1, pairs // (2 * k))
            assert max(p.augment.sizes) <= p.inpaint.sources <= pairs
            assert p.segment.test_count == held
            assert ("small batches" in made["train"]["batch_size"].reason) == (rung.batch < 32)


@pytest.mark.parametrize(("k", "generators", "side", "given", "one"), [
    (2, 3, 64, {}, True), (1, 3, 64, {}, False), (2, 1, 64, {}, False), (2, 3, 128, {}, False),
    (2, 3, 64, {"base_images": 100}, False), (2, 3, 64, {"one_model": False}, False)])
def test_clusters_share_a_network_where_that_was_better_and_every_worker_has_one(k, generators, side, given,
                                                                                 one):
    rung = next(each for each in ladder.LADDER if each.side == side)
    made = ladder.sections(replace(rung, generators=generators), 800, 200, k, 200)
    chosen = making._together({**made, "cluster": {"k": Line(k)}, "data": {
        "image_size": Line(side), "count": Line(None), "source": Line("x")}, "train": {
        **made["train"], **{name: Line(value) for name, value in given.items()}}})
    assert params.validate(lines.values(chosen)).train.one_model == one


def test_the_gain_that_can_be_seen_shrinks_with_images_and_seeds():
    assert power.visible(5, 200) == pytest.approx(0.072, abs=0.001)
    assert power.visible(2, 8) > power.visible(3, 8) > power.visible(3, 20) > power.visible(5, 200)
    assert (rule.LEAST_IMAGES, rule.LEAST_SEEDS) == (power.LEAST_IMAGES, power.LEAST_SEEDS) == (20, 3)


@pytest.mark.parametrize(("seeds", "generators", "sees", "told"), [
    (3, 1, "all", "about 0.14 cannot be told from chance, with 36 test images and 3 repetitions. A gain of "
                  "0.05 would take more of both: 124 test images and 12 repetitions, for example (by the "
                  "spread of an earlier run). No mean"),
    (5, 3, "all", "about 0.23 cannot be told from chance, with 36 test images and 5 repetitions with the "
                  "pairs of 3 generators. A gain of 0.05 would take more of both: 124 test images and 33 ge"),
    (5, 1, "subset", "about 0.13 cannot be told from chance, with 36 test images and 5 repetitions with the "
                     "pairs of 5 generators. A gain of 0.05 would take more of both: 124 test images and 33"),
    (1, 1, "all", "")])
def test_the_limits_tell_the_gain_that_seeds_and_generators_can_find(seeds: int, generators: int, sees: str,
                                                                     told: str):
    p = params.validate({"generators": generators, "segment": {"seeds": seeds},
                         "augment": {"seeds": seeds, "generator_sees": sees}})
    data = SimpleNamespace(held=["a"], kept=lambda side: (100, 36), shown=lambda side: {},
                           patients={"a": "1"}, kind="patient")
    best = SimpleNamespace(rung=ladder.LADDER[0], repeated=float("nan"))
    found = [line for line in cautions._of_tests(p, data, best) if "Gains in Dice" in line]
    assert len(found) == bool(told)
    assert not told or told in found[0]


@pytest.mark.parametrize(("images", "seeds", "generators", "sees", "told"), [
    (30, 3, 1, "all", True), (30, 3, 2, "all", True), (30, 3, 3, "all", False), (30, 3, 1, "subset", False),
    (30, 1, 1, "all", False), (12, 3, 1, "all", False)])
def test_what_verdicts_rest_on_is_told_only_where_there_will_be_verdicts(
        images: int, seeds: int, generators: int, sees: str, told: bool):
    found = limits_of(images, generators=generators, segment={"seeds": seeds},
                      augment={"seeds": seeds, "generator_sees": sees})
    assert any("Verdicts will hold only for" in line for line in found) == told
    assert any("There will be no verdict:" in line for line in found) == (images < 20 or seeds < 3)


def limits_of(images: int, **sections: dict) -> list[str]:
    """The limits of a run with so many test images that concern these."""
    data = SimpleNamespace(held=["a"], kept=lambda side: (100, images), shown=lambda side: {},
                           enough=lambda side: None, patients={"a": "1"}, kind="patient")
    best = SimpleNamespace(rung=ladder.LADDER[0], repeated=float("nan"))
    return list(cautions._of_tests(params.validate(sections), data, best))


def test_repetitions_alone_make_no_verdict_where_test_images_lack():
    seeds = {"segment": {"seeds": 1}, "augment": {"seeds": 1}}
    few, = [line for line in limits_of(12, **seeds) if "repetitions, and there is time" in line]
    assert few.endswith("there can be one with enough test images.")
    enough, = [line for line in limits_of(30, **seeds) if "repetitions, and there is time" in line]
    assert enough.endswith("there can be one.")


def test_sizes_that_follow_the_pairs_are_not_called_none():
    assert not [line for line in limits_of(30, augment={"sizes": None}) if "tried beside" in line]
    assert [line for line in limits_of(30, augment={"sizes": [16]}) if "tried beside 16 of the 100" in line]


def test_a_run_that_does_not_fit_into_the_memory_is_refused(checkout, pairs, monkeypatch, offline):
    def make(p: Params, seconds: float) -> Plan:
        return Plan(pd.DataFrame({
            "chapter": ["train"], "kind": ["training"], "flop": [1.0], "seconds": [float("nan")],
            "items": 1, "images": 1, "disk": 0, "largest": 0.0, "temporary": 0}), p.profile, 32, "", None,
            "a device")
    monkeypatch.setattr(plan, "make", make)
    with pytest.raises(UserError, match="Even the smallest run, with images of 32 px, does not fit into the"):
        making.make(Wish(pairs, 60))


def test_a_line_is_yaml_whatever_its_value_and_reason():
    text = lines.text("head " * 60, {"": {"seed": Line(3)}, "data": {
        "source": Line("set #2: x", "why " * 40), "labels": Line({"1": "no"}), "lr": Line(1e-5),
        "a": Line(None)}})
    assert params._parsed(text, "") == {"seed": 3, "data": {
        "source": "set #2: x", "labels": {"1": "no"}, "lr": "1e-05", "a": None}}
