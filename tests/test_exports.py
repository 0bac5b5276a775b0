"""A run's pairs for other programs: each format by its structure, and read back where its library is there.

CI has pycocotools alone, and skips what the others read back: MONAI (8 MB) is no dependency, and datasets
(172 MB) and nnunetv2 (427 MB, and it asks for an older timm) are too heavy. Put them on PYTHONPATH, and their
tests run.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import made_up
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from diffusegen_core import Run, cli, outlets
from diffusegen_core.cli_export import Target
from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import checkup, dataset, layouts, patients, phantom, planes, reading, sidecars
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.exports import cases, choosing, datacard, exporting, remarks, to_coco, to_nnunet
from diffusegen_core.exports.cases import HELD, TEST, TRAIN, VALID, ExportSet
from diffusegen_core.exports.exporting import FORMATS, export
from diffusegen_core.report import answer, byclass, recommendation
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

STYLED = DataType.parse("2-Styled-Diff")
OUT = {"nnunet": "Dataset501_Tiny"}


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Path:
    """The folder of a nano run up to chapter 5. Not to be changed: tests copy it."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    Run.create(folder=folder, changes=nano_values).make("evaluate")
    return folder


@pytest.fixture
def own(evaluated: Path, tmp_path: Path) -> Path:
    """The folder of such a run of the test's own."""
    shutil.copytree(evaluated, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(scope="session")
def exports(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """This run in every format, with two synthetic types; whose folders no test changes."""
    run, folder = Run.open(evaluated), tmp_path_factory.mktemp("exports")
    return {to: export(run, to, folder / OUT.get(to, to), ["2-Styled-Diff", "2-Diff"])[0] for to in FORMATS}


@pytest.fixture(scope="session")
def chosen(evaluated: Path) -> ExportSet:
    """What these hold."""
    return choosing.choose(Run.open(evaluated), ["2-Styled-Diff", "2-Diff"])


@pytest.fixture(scope="session")
def varied(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Run:
    """A nano run of five patients whose masks are those of other pairs, up to the filter."""
    folder = tmp_path_factory.mktemp("varied")
    for number in range(10):
        image, mask, _ = phantom.draw(7, number, 16)
        dataset.write_pair(folder / "set", f"P{number // 2}_{number}", image, mask)
    run = Run.create(folder=folder / "run", changes=params.merged(nano_values, {
        "data": {"source": str(folder / "set"), "count": None, "patients": r"^(P\d+)_"},
        "inpaint": {"masks": "varied", "samples": 3, "sources": None, "baselines": ["Paste"]},
        "gan": {"source": None}, "filter": {
            "folds": 2, "agreement_quantile": None, "seam_quantile": None, "copies": True}}))
    run.make("filter")
    return run


class Made:
    """Stands in for a run with six grey pairs of two classes."""

    def __init__(self, folder: Path, evaluated: Path) -> None:
        self.params = made_up.changed(Run.open(evaluated).params, data={
            "channels": 1, "labels": {"1": "liver", "2": "tumour"}})
        self.folder = folder
        rng = np.random.default_rng(0)
        masks = np.zeros((6, 2, 16, 16), np.uint8)
        masks[:, 0, 2:9, 2:9], masks[:, 1, 11:14, 3:6], masks[::2, 1, 11:14, 9:12] = 1, 1, 1
        self.pairs = dataset.gather([f"slice {i}" for i in range(6)],
                                    rng.integers(0, 256, (6, 1, 16, 16), np.uint8), masks)

    def finished(self, name: str) -> None:
        return None


@pytest.fixture(scope="session")
def grey(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Grey pairs with two classes in every format: real ones alone."""
    folder = tmp_path_factory.mktemp("grey")
    run = Made(folder / "run", evaluated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "refuse_place", lambda run, out: None)
        patch.setattr(outlets, "types", lambda run: {"Real": REAL})
        return {to: export(run, to, folder / OUT.get(to, to), ["Real"], keep_names=True)[0]
                for to in FORMATS}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def of_run(run: Run, case: cases.Case) -> tuple[np.ndarray, np.ndarray]:
    """Image (S, S, 3) and mask (S, S) in {0, 1} of a pair, from the run itself."""
    pairs = run.pairs if case.data_type == REAL else outlets.made(run, case.data_type).load()
    one = pairs.named([case.pair])
    return one.images[0].transpose(1, 2, 0), one.masks[0, 0]


# ---- what is exported


def test_real_and_synthetic_pairs_are_told_apart_and_twins_do_not_validate(chosen: ExportSet):
    table = chosen.table
    assert set(table["origin"]) == {"real", "synthetic"}
    assert (table["origin"] == "real").equals(table["data_type"] == "Real")
    assert table["case"].is_unique
    validating = set(table.loc[table["split"] == VALID, "source"])
    assert validating
    assert set(table.loc[table["split"] == VALID, "origin"]) == {"real"}
    assert not validating & set(table.loc[table["split"] == TRAIN, "source"])
    assert set(table.loc[table["split"] == HELD, "source"]) <= validating


def test_a_pair_that_shows_a_lesion_of_a_validating_pair_is_held_back():
    row = {"name": "a_1", "group": "a", "lesion_of": "b", "sample": 1}
    pasted = DataType("Paste")
    assert choosing._case(pasted, row, {"b"}, {}).split == HELD
    assert choosing._case(pasted, row, {"c"}, {}).split == TRAIN
    assert choosing._case(pasted, row, {"a"}, {}).split == HELD


def test_no_side_sees_a_mask_of_the_other_whatever_was_made_of_painted_pairs(varied: Run):
    kinds = ["2-Paint", "2-Styled-Paint", "2-Filtered-Styled-Paint", "Paste"]
    chosen, patient = choosing.choose(varied, kinds), dict.fromkeys([""], "") | patients.together(
        varied.pairs.file)
    painted = outlets.made(varied, DataType.parse("2-Paint")).manifest.set_index("name")["mask_of"]
    by_name = {case.case: case for case in chosen.cases}
    validating = {patient[case.source] for case in chosen.of(VALID)}
    assert validating
    assert {case.data_type.name for case in chosen.cases} == {"Real", *kinds}
    for case in chosen.cases:
        if case.data_type.is_painted:
            assert case.lesion_of == painted[case.pair]
        shown = {patient[case.source], patient[case.lesion_of]}
        assert (case.split == TRAIN) == (not shown & validating)
    crossed = 0
    for fold in chosen.folds():
        held = {patient[by_name[name].source] for name in fold["val"]}
        for name in fold["train"]:
            assert not held & {patient[by_name[name].source], patient[by_name[name].lesion_of]}
        crossed += sum(patient[case.source] not in held and patient[case.lesion_of] in held
                       for case in chosen.cases)
    assert crossed, "or the test shows nothing"
    table = chosen.table.set_index("case")
    assert (table["lesion_of"] != table["source"]).any()


@pytest.mark.parametrize("kind", ["2-Paint", "2-Styled-Paint", "2-Filtered-Styled-Paint", "Paste"])
def test_a_training_loop_of_some_real_pairs_sees_no_mask_of_the_others(varied: Run, kind: str):
    every = outlets.made(varied, DataType.parse(kind)).manifest
    of = outlets.shown(varied, DataType.parse(kind))
    train = varied.pairs.names[::2]
    wanted = {row.name for row in every.itertuples() if row.source in train and of[row.name] in train}
    assert 0 < len(wanted) < every["source"].isin(train).sum()
    assert set(varied.dataset(kind, names=train).names) == wanted
    assert set(varied.dataset(kind).names) == set(every["name"])
    mixed = varied.mixed(kind, alpha=1, ratio=3, names=train)
    assert set(mixed.choice.synthetic) == wanted


def test_by_default_it_is_what_the_run_is_made_for(evaluated: Path, own: Path):
    run = Run.open(evaluated)
    assert list(choosing.choose(run).sets) == [STYLED]
    assert choosing.others(choosing.choose(run)) == ["2-Diff"]
    assert not choosing.choose(run, real=False).real
    assert set(choosing.choose(run, real=False).table["split"]) == {TRAIN}
    shutil.rmtree(own / "style")
    assert list(choosing.choose(Run.open(own)).sets) == [STYLED.inpainted]


def test_near_copies_are_those_of_the_audit(evaluated: Path, chosen: ExportSet, own: Path):
    audit = Run.open(evaluated).evaluated.audit.set_index(["data type", "name"])["near_copy"]
    for case in chosen.cases:
        assert case.near_copy == (audit[case.data_type.name, case.pair] or "no")
    shutil.rmtree(own / "evaluate")
    without = choosing.choose(Run.open(own))
    assert set(without.table["near_copy"]) == {"not audited"}
    assert "chapter 5 makes it" in datacard.text(without, "", "")


@pytest.mark.parametrize(("words", "how"), [
    ("no data type 3-Diff; it has Real, GAN, 2-Diff", {"types": ["3-Diff"]}),
    ("GAN has no pairs: all 2 were left out", {"types": ["GAN"]}),
    ("Nothing is left to export", {"types": ["Real"], "real": False})])
def test_what_there_is_not_is_refused_in_a_line(words: str, how: dict, evaluated: Path, tmp_path: Path):
    with pytest.raises(UserError, match=words):
        export(Run.open(evaluated), "folder", tmp_path / "out", **how)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_pairs_is_told_which_chapter_makes_them(nano: dict, tmp_path: Path):
    run = Run.create(folder=nano["run_dir"], changes={"data": nano["data"]})
    run.make("data")
    with pytest.raises(UserError, match=r"Make it with run\.make\('(cluster|inpaint)'\)"):
        export(run, "coco", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (run.folder / "train").exists()


@pytest.mark.parametrize("to", ["nnunet", "coco", "hf", "monai"])
def test_held_out_pairs_are_a_side_of_their_own(to: str, evaluated: Path, tmp_path: Path):
    run = Run.open(evaluated)
    place, held = export(run, to, tmp_path / OUT.get(to, to), ["2-Diff"], held_out=True)
    test = next(iter(run.tests.values())).pairs
    mine = held.of(TEST)
    assert sorted(case.pair for case in mine) == sorted(test.names)
    assert {case.case.partition("__")[0] for case in mine} == {"Held-out"}
    assert not set(test.names) & {case.source for case in held.cases if case.split != TEST}
    listed = {"nnunet": lambda: [path.stem.removesuffix("_0000") for path in (place / "imagesTs").iterdir()],
              "coco": lambda: [Path(one["file_name"]).stem for one in json.loads(
                  (place / "annotations/instances_test.json").read_text())["images"]],
              "hf": lambda: [path.stem for path in (place / "test" / "images").iterdir()],
              "monai": lambda: [Path(one["image"]).stem for one in json.loads(
                  (place / "datalist.json").read_text())["test"]]}[to]()
    assert sorted(listed) == sorted(case.case for case in mine)
    for fold in held.folds():
        assert not {*fold["train"], *fold["val"]} & {case.case for case in mine}
    first = mine[0]
    image, mask = held.written(first)
    assert np.array_equal(image, test.named([first.pair]).images[0])
    assert np.array_equal(mask, planes.numbered(test.named([first.pair]).masks[0]))
    card = (place / "README.md").read_text()
    assert "`test` holds real pairs that no part of the run has seen" in " ".join(card.split())
    assert "Source of `test`" not in card, "it is the same as of the others"
    real = [case.split for case in held.cases if case.data_type == REAL]
    counts = len(real), real.count(TRAIN), real.count(VALID), 0, len(test)
    assert f"| Real | real pairs | {' | '.join(map(str, counts))} |" in card
    assert not any(name in told_of(place) for name in test.names)


def test_a_name_of_another_folder_is_another_image_and_a_held_out_mask_trains_nothing(
        evaluated: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run.open(evaluated)
    test, name = next(iter(run.tests.values())), run.pairs.names[0]
    alike = replace(test, pairs=replace(test.pairs, names=[name, *test.pairs.names[1:]]),
                    patients={name: "P1"}, same_source=False)
    monkeypatch.setattr(Run, "tests", {test.name: alike})
    monkeypatch.setattr(patients, "together", lambda file: {name: "P1"})
    chosen = choosing.choose(run, ["2-Diff"], held_out=True)
    mine, theirs = ([case for case in chosen.cases if case.pair == name and (case.split == TEST) is held]
                    for held in (False, True))
    rows = [chosen.row(case) for case in (*mine, *theirs)]
    assert len({row["source"] for row in rows}) == len({row["group"] for row in rows}) == 2
    assert np.array_equal(chosen.read(theirs[0])[0], test.pairs.images[0])
    assert f"- Source of `test`: {test.name}, {test.note}." in datacard.text(chosen, "", "")
    painted = outlets.made(run, DataType.parse("2-Diff")).manifest["name"]
    given = dict.fromkeys(painted, test.pairs.names[1])
    monkeypatch.setattr(Run, "tests", {test.name: replace(test, same_source=True)})
    monkeypatch.setattr(outlets, "shown", lambda run, kind, number: given)
    chosen = choosing.choose(run, ["2-Diff"], held_out=True)
    made = [case for case in chosen.cases if case.data_type != REAL]
    assert {case.split for case in made} == {HELD}
    listed = {name for fold in chosen.folds() for name in (*fold["train"], *fold["val"])}
    assert not listed & {case.case for case in made}


def test_the_card_tells_the_gain_of_each_exported_type(evaluated: Path, own: Path,
                                                       monkeypatch: pytest.MonkeyPatch):
    run = Run.open(evaluated)
    assert "nothing yet" in "\n".join(remarks.lines(choosing.choose(run, ["2-Diff"])))
    chosen = choosing.choose(run, ["2-Diff", "GAN"] if len(outlets.made(run, GAN)) else ["2-Diff"])
    assert "this run has not finished it" in datacard.text(chosen, "", "")
    finished = Run.finished
    monkeypatch.setattr(Run, "finished", lambda run, name, *more: SimpleNamespace(complete=True)
                        if name == "augment" else finished(run, name, *more))
    about = "2-Diff"
    monkeypatch.setattr(recommendation, "of", lambda run: "**Paste.**")
    monkeypatch.setattr(recommendation, "asked", lambda result, size: SimpleNamespace(
        pasting=None, painting=SimpleNamespace(first=SimpleNamespace(data_type=about))))
    monkeypatch.setattr(recommendation, "gain", lambda run, result, kind: (48, f"+0.1 of {kind}"))
    monkeypatch.setattr(byclass, "painted", lambda run: ["**The lesion: nothing.**"])
    card = datacard.text(chosen, "", "")
    assert "| 2-Diff | 48 | +0.1 of 2-Diff |" in card
    assert "What the run concludes: **Paste.** **The lesion: nothing.**" in card
    lines = list(remarks.lines(chosen))
    assert "What chapter 7 found: Paste. The lesion: nothing." in lines
    assert remarks.another(chosen) in lines, "what the card says of the mix, the command says as well"
    about = "2-Styled-Diff"
    assert "What the run concludes" not in datacard.text(chosen, "", ""), "it is about other pairs"
    told = "\n".join(remarks.lines(chosen))
    assert "What chapter 7 found: 2-Diff with 48 real pairs, +0.1 of 2-Diff" in told
    assert "in which synthetic pairs replace about half of the real ones trained on, and tested" in card
    mix = f"a different mix from those of chapter 7: all {len(run.pairs)} real pairs, and all synthetic ones"
    assert mix in card
    alone = datacard.text(choosing.choose(run, ["2-Diff"], real=False), "", "")
    assert "a different mix from those of chapter 7: no real pairs, and all synthetic ones" in alone
    like = made_up.changed(run.params, augment={"rule": "add", "alpha": 1.0})
    whole = len(run.pairs)
    monkeypatch.setattr(recommendation, "gain", lambda run, result, kind: (whole, "+0.1"))
    monkeypatch.setattr(run, "params", like)
    as_tried = datacard.text(choosing.choose(run, ["2-Diff"]), "", "")
    assert "different mix" not in as_tried
    assert "different mix" not in "\n".join(remarks.lines(choosing.choose(run, ["2-Diff"])))
    assert "synthetic pairs are added for all of the real ones trained on" in as_tried
    monkeypatch.setattr(recommendation, "gain", lambda run, result, kind: None)
    assert "has compared none of these pairs" in datacard.text(chosen, "", "")
    assert "What chapter 7 found: nothing about these pairs" in "\n".join(remarks.lines(chosen))


def test_held_out_pairs_are_refused_where_they_have_no_place(evaluated: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"A plain folder has no splits"):
        export(Run.open(evaluated), "folder", tmp_path / "out", held_out=True)
    with pytest.raises(UserError, match="has no native size"):
        export(Run.open(evaluated), "coco", tmp_path / "out", held_out=True, native=True)
    assert list(tmp_path.iterdir()) == []


def test_held_out_pairs_get_the_size_of_their_own_files(evaluated: Path, tmp_path: Path):
    shutil.copytree(evaluated, tmp_path / "run")
    run = Run(Run.open(evaluated).params.model_copy(update={"run_dir": str(tmp_path / "run")}))
    test = next(iter(run.tests.values()))
    for folder, names in ((run.folder / "data", run.pairs.names),
                          (run.folder / "tests" / test.name, test.pairs.names)):
        folder.mkdir(exist_ok=True)
        (folder / "sizes.json").write_text(json.dumps({name: [40, 50] for name in names}))
    chosen = choosing.choose(run, ["2-Diff"], native=True, held_out=True)
    held = chosen.of(TEST)[0]
    image, mask = chosen.read(held)
    assert (image.shape[1:], mask.shape[1:]) == ((40, 50), (40, 50))


# ---- names


def told_of(folder: Path) -> str:
    """Every name of a file below a folder, and every byte of those files."""
    return "\n".join(f"{name}\n{(folder / name).read_bytes().decode('latin-1')}"
                     for name in files.below(folder))


@pytest.mark.parametrize("to", FORMATS)
def test_no_export_holds_the_name_of_a_source(to: str, exports: dict[str, Path], chosen: ExportSet,
                                              evaluated: Path):
    names, told = Run.open(evaluated).pairs.names, told_of(exports[to])
    assert not [name for name in names if name in told]
    table = pd.read_csv(exporting.names_of(exports[to]))
    assert [*table["case"]] == [case.case for case in chosen.cases]
    assert set(table["source"]) <= set(names)
    assert exporting.names_of(exports[to]).parent == exports[to].parent
    assert exporting.names_of(exports[to]).stat().st_mode & 0o077 == 0
    assert all(re.search(rf"{case.kind}__\d{{4}}\b", told) for case in chosen.cases)


def test_a_gan_that_is_called_after_its_source_is_called_after_its_number(chosen: ExportSet):
    real = chosen.cases[0]
    made = replace(real, data_type=GAN, model=f"singan-{real.source}")
    assert chosen.row(made)["model"] == f"singan-{chosen.source(real.source)}"
    assert real.source not in chosen.row(made).values()


def test_numbers_tell_which_pairs_belong_together_and_not_the_order_of_names(chosen: ExportSet):
    table, told = chosen.table, chosen.named
    assert "pair" not in table
    for real, number in (("source", "source"), ("lesion_of", "lesion_of"), ("source", "group")):
        assert len(pd.Series([*zip(told[real], table[number], strict=True)]).unique()) == told[real].nunique()
        assert table[number].nunique() == told[real].nunique()
    real = told[(table["origin"] == "real").to_numpy()]
    assert [*real["source"]] != sorted(real["source"])
    first = table[table["origin"] == "real"]
    assert [*first["source"]] == [f"source-{number:04d}" for number in range(1, len(first) + 1)]


def test_pairs_of_a_patient_have_one_group(evaluated: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run.open(evaluated)
    of = {name: f"patient {number // 2}" for number, name in enumerate(run.pairs.names)}
    monkeypatch.setattr(cases.patients, "together", lambda stored: of)
    chosen = choosing.choose(run, ["2-Diff"])
    groups = chosen.table["group"].groupby(chosen.named["source"].map(of)).nunique()
    assert set(groups) == {1}
    assert chosen.table["group"].nunique() == len(set(of.values()))


def test_names_are_kept_where_that_is_asked_for(evaluated: Path, tmp_path: Path):
    place, kept = export(Run.open(evaluated), "hf", tmp_path / "out", ["2-Diff"], real=False, keep_names=True)
    assert {case.case for case in kept.cases} == {f"2-Diff__{case.pair}" for case in kept.cases}
    assert [*pd.read_csv(place / "origins.csv")["source"]] == [case.source for case in kept.cases]
    assert "Check that they name no patient" in (place / "README.md").read_text()
    assert not exporting.names_of(place).exists()


def test_a_table_of_names_is_never_overwritten_nor_left_alone(evaluated: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch):
    exporting.names_of(tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"out-names\.csv already exists"):
        export(Run.open(evaluated), "folder", tmp_path / "out")
    assert exporting.names_of(tmp_path / "out").read_text() == "mine"
    monkeypatch.setattr(datacard, "text", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(Run.open(evaluated), "folder", tmp_path / "other")
    assert files.below(tmp_path) == ["out-names.csv"]


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_set_that_is_made_again_meanwhile_is_not_mixed_with_what_was_chosen(own: Path, tmp_path: Path,
                                                                              kind: str):
    chosen = choosing.choose(Run.open(own), ["2-Styled-Diff"], real=False)
    first, *_, last = chosen.cases
    before = chosen.read(first)
    path, other = (own / "style" / "2-Styled-Diff" / kind / f"{case.pair}.png" for case in (first, last))
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=f"Pair {first.pair} of .* is not the one that was made: another"):
        chosen.read(first)
    path.unlink()
    with pytest.raises(UserError, match=f"Pair {first.pair} of .* is not the one that was made: another"):
        chosen.read(first)
    path.write_bytes(content)
    assert all(map(np.array_equal, chosen.read(first), before))


def test_of_two_exports_to_one_place_the_first_that_is_written_keeps_its_names(
        evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, form = Run.open(evaluated), FORMATS["folder"]
    first: list[str] = []

    def write(folder: Path, chosen: ExportSet, called: str) -> str:
        monkeypatch.setitem(FORMATS, "folder", form)
        export(run, "folder", tmp_path / "out", ["2-Diff"])
        first.append(exporting.names_of(tmp_path / "out").read_text())
        return form.write(folder, chosen, called)

    monkeypatch.setitem(FORMATS, "folder", replace(form, write=write))
    with pytest.raises(UserError, match=r"out-names\.csv already exists"):
        export(run, "folder", tmp_path / "out", ["2-Styled-Diff"])
    assert [exporting.names_of(tmp_path / "out").read_text()] == first
    assert (tmp_path / "out" / "README.md").is_file()


def test_an_export_that_was_killed_can_be_repeated_and_what_it_left_is_told(
        evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    run, form = Run.open(evaluated), FORMATS["folder"]

    class Killed(BaseException):
        """Stands in for a kill, after which nothing is removed."""

    def killed(*parts: object) -> str:
        raise Killed
    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, "folder", replace(form, write=killed))
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            export(run, "folder", tmp_path / "out", ["2-Diff"])
    [left] = tmp_path.iterdir()
    place, chosen = export(run, "folder", tmp_path / "out", ["2-Diff"])
    assert f"{left} is what an export that was killed has left, and can be removed" in caplog.text
    assert len(pd.read_csv(exporting.names_of(place))) == len(chosen.cases)


# ---- where it goes


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_nothing_is_overwritten(name: str, evaluated: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match="out already exists"):
        export(Run.open(evaluated), "folder", tmp_path / "out")
    assert files.below(tmp_path) == [f"out/{name}"]


def test_a_folder_in_a_run_is_refused(evaluated: Path):
    with pytest.raises(UserError, match="lies in the run"):
        export(Run.open(evaluated), "folder", evaluated / "export")


def test_an_export_that_fails_leaves_nothing(evaluated: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datacard, "text", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(Run.open(evaluated), "folder", tmp_path / "new" / "out")
    assert files.below(tmp_path) == []


def test_nnunet_asks_for_its_own_names(evaluated: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"DatasetXXX_Name, not mine: .*Dataset501_Mine"):
        export(Run.open(evaluated), "nnunet", tmp_path / "mine")
    assert to_nnunet.NAME.fullmatch(to_nnunet.name("my run.2", tmp_path))


def test_a_further_export_is_offered_a_name_that_is_free(evaluated: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = Run.open(evaluated)
    for name in ("Dataset501_other", "Dataset503_more", "Dataset502_run", "run-folder", "run-folder-2",
                 "run-models"):
        (tmp_path / "exports" / name).mkdir(parents=True)
    assert to_nnunet.name("run", Path("exports")) == "Dataset502_run", "this run has been exported there"
    assert to_nnunet.name("new", Path("exports")) == "Dataset504_new", "numbers are not given twice"
    for name in ("Dataset502_run", "run-folder", "run-models"):
        (tmp_path / "exports" / name / "mine").touch()
    for offered, again in (("Dataset504_run", lambda: export(run, "nnunet")),
                           ("run-folder-3", lambda: export(run, "folder")),
                           ("run-models-2", lambda: exporting.models(run))):
        with pytest.raises(UserError, match=f"nothing in it is replaced.*: --out exports/{offered}[.]$"):
            again()


def test_real_pairs_that_are_not_in_an_export_are_counted(own: Path, evaluated: Path,
                                                          monkeypatch: pytest.MonkeyPatch):
    every = choosing.choose(Run.open(evaluated), ["Real"])
    assert remarks.not_in_it(every) == ""
    run = Run.open(own)
    sidecars.write(own / "data", "file,problem,detail\na,small region,b\nc,small region,d\n", {}, {})
    patients.write(own / "data", {}, ["e", "f", "g"])
    told = "Real pairs that are not in it: held out for the run's own tests: 3; left out: 2 (small region)."
    chosen = choosing.choose(run, ["Real"])
    assert told in list(remarks.lines(chosen))
    assert told in datacard._types(chosen)
    assert "held out for" not in remarks.not_in_it(choosing.choose(run, ["Real"], held_out=True))
    assert remarks.not_in_it(choosing.choose(run, ["2-Diff"], real=False)) == ""


def test_the_command_writes_it_and_says_what_it_left(evaluated: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = "**On these data: pasting helps (2\\_3 &lt; 4).** So."
    monkeypatch.setattr(remarks, "_found", lambda chosen: found)
    assert set(Target) == {*FORMATS, Target.MODELS}
    words = ["export", str(evaluated), "--to", "coco"]
    result = CliRunner().invoke(cli.app, [*words, "--types", "Real, 2-Diff"])
    assert result.exit_code == 0, result.exception
    count = len(outlets.made(Run.open(evaluated), DataType.parse("2-Diff")))
    assert f"10 Real, {count} 2-Diff pairs: exports/run-coco" in result.stdout
    assert "Not exported: 2-Styled-Diff" in result.stdout
    assert "What chapter 7 found: On these data: pasting helps (2_3 < 4). So.\n" in result.stdout
    assert "Fill in the licence of the data: exports/run-coco/README.md" in result.stdout
    assert "names in the run are in exports/run-coco-names.csv; do not share that file." in result.stdout
    kept = CliRunner().invoke(cli.app, [*words, "--out", "kept", "--keep-names", "--held-out"])
    assert kept.stdout.startswith(f"10 Real, {count} 2-Styled-Diff, 4 held-out pairs: kept\n")
    assert "see that these name no patient" in kept.stdout
    assert (tmp_path / "exports" / "run-coco" / "annotations" / "instances_train.json").is_file()
    again = CliRunner().invoke(cli.app, words)
    assert "exports/run-coco already exists" in str(again.exception)


def test_the_command_refuses_types_that_name_none(tmp_path: Path):
    result = CliRunner().invoke(cli.app, ["export", str(tmp_path), "--to", "coco", "--types", ","])
    assert "--types ',' names no data type" in str(result.exception)


# ---- the card


@pytest.mark.parametrize("to", FORMATS)
def test_every_export_has_a_card_and_a_list_of_origins(to: str, exports: dict[str, Path], chosen: ExportSet):
    card = (exports[to] / "README.md").read_text()
    for words in ("TO BE FILLED IN", "Never for clinical use", "not anonymous",
                  "doi:10.1007/s11548-024-03213-z", "10 phantoms (drawn by code", "2-Styled-Diff", "torch 2.",
                  "respacing: 4", "cluster-01", "flagged by chance", "| 1 | polyp |",
                  f"Written for {FORMATS[to].title}"):
        assert words in card, words
    assert card.startswith("---\n") == (to == "hf")
    pd.testing.assert_frame_equal(pd.read_csv(exports[to] / "origins.csv"), chosen.table)


@pytest.mark.parametrize("to", FORMATS)
def test_a_card_of_synthetic_pairs_alone_speaks_of_no_others(to: str, evaluated: Path, tmp_path: Path):
    place, _ = export(Run.open(evaluated), to, tmp_path / OUT.get(to, to), ["2-Styled-Diff"], real=False)
    card = (place / "README.md").read_text()
    assert "# run: synthetic pairs\n" in card
    assert "*Splits*" not in card
    assert "real and synthetic pairs" not in told_of(place)


def test_a_card_of_real_pairs_alone_speaks_of_no_synthetic_ones(grey: dict[str, Path]):
    for place in grey.values():
        card = (place / "README.md").read_text()
        assert "Never for clinical use" in card
        assert "ynthetic" not in card.partition("## Limits and")[2].partition("## How to cite")[0]
    assert "They are not the splits below" in (grey["nnunet"] / "README.md").read_text()


def test_whose_files_are_larger_is_told_how_to_get_their_size(evaluated: Path,
                                                              monkeypatch: pytest.MonkeyPatch):
    run = Run.open(evaluated)
    chosen = choosing.choose(run, ["Real"])
    assert not any("--native" in line for line in remarks.lines(chosen)), "phantoms have no files"
    for side, told in ((run.params.data.image_size, False), (100, True)):
        monkeypatch.setattr(remarks.sidecars, "native_sizes", lambda stored, side=side: {"a": (side, 9)})
        assert any("--native" in line for line in remarks.lines(chosen)) == told


def test_git_ignores_what_commands_write_by_default():
    ignored = (Path(__file__).parents[1] / ".gitignore").read_text().split()
    assert {f"/{exporting.DEFAULT}/", f"*{exporting.NAMES}"} <= set(ignored)
    default = inspect.signature(cli.paint).parameters["out"].default
    assert f"/{default}/" in ignored


def test_a_card_says_what_the_models_remember(evaluated: Path, exports: dict[str, Path], own: Path,
                                              monkeypatch: pytest.MonkeyPatch):
    run = Run.open(evaluated)
    told = answer.remembered(run.evaluated, run.params)
    models, _ = exporting.models(run, own.parent / "models")
    for folder in (exports["hf"], models):
        assert (told.sentence if told else "Not known: chapter 5 made no membership test") in (
            folder / "README.md").read_text()
    figure = answer.Answer(answer.MEMORY, answer.REMEMBERED, "an area of 0.9")
    monkeypatch.setattr(answer, "remembered", lambda result, p: figure)
    assert figure.sentence in datacard.text(choosing.choose(run, ["2-Diff"], real=False), "", "")
    assert figure.sentence not in datacard.text(choosing.choose(run, ["Real"]), "", "")
    shutil.rmtree(own / "evaluate")
    assert "Not known: chapter 5 was not made" in datacard.text(choosing.choose(Run.open(own)), "", "")


def test_a_card_tells_no_path_of_this_machine(evaluated: Path):
    told = made_up.changed(Run.open(evaluated).params, data={
        "source": "/data_of/somebody/secret/pairs", "names": ["a", "b"]})
    text = str(datacard._told(told, [STYLED]))
    assert "pairs" in text
    assert "secret" not in text
    assert "2 of them" in text


# ---- each format, by its structure


def test_nnunet_has_cases_channels_labels_and_folds(exports: dict[str, Path], chosen: ExportSet,
                                                    evaluated: Path):
    folder = exports["nnunet"]
    told = json.loads((folder / "dataset.json").read_text())
    assert told["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert told["labels"] == {"background": 0, "polyp": 1}
    assert (told["numTraining"], told["file_ending"]) == (len(chosen.cases), ".png")
    assert "TO BE FILLED IN" in told["licence"]
    names = {case.case for case in chosen.cases}
    assert {path.name for path in (folder / "imagesTr").iterdir()} == {f"{name}_0000.png" for name in names}
    assert {path.name for path in (folder / "labelsTr").iterdir()} == {f"{name}.png" for name in names}
    run = Run.open(evaluated)
    for case in chosen.cases:
        image, mask = of_run(run, case)
        assert np.array_equal(pixels(folder / "imagesTr" / f"{case.case}_0000.png"), image)
        assert np.array_equal(pixels(folder / "labelsTr" / f"{case.case}.png"), mask)
    of = {case.case: case for case in chosen.cases}
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(
        name for name in names if of[name].data_type == REAL)
    for fold in folds:
        assert not {of[name].source for name in fold["val"]} & {of[name].source for name in fold["train"]}
    assert max(len(fold["train"]) for fold in folds) < len(names)


@pytest.mark.parametrize("mask", [[[1, 1], [1, 1]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 0], [1, 1]]])
def test_an_instance_is_exact_to_the_pixel(mask: list):
    from pycocotools import mask as library
    [one] = to_coco._annotations(7, np.array([mask], np.uint8))
    assert np.array_equal(library.decode(one["segmentation"]), mask)
    assert one["area"] == np.sum(mask)


def test_coco_has_an_instance_for_each_connected_part(grey: dict[str, Path]):
    documents = [json.loads(path.read_text()) for path in (grey["coco"] / "annotations").iterdir()]
    assert len(documents) == 2
    for told in documents:
        assert set(told) == {"info", "licenses", "categories", "images", "annotations"}
        assert [(one["id"], one["name"]) for one in told["categories"]] == [(1, "liver"), (2, "tumour")]
        for image in told["images"]:
            assert (grey["coco"] / "images" / image["file_name"]).is_file()
            mine = [one for one in told["annotations"] if one["image_id"] == image["id"]]
            two = int(image["source"].split()[1]) % 2 == 0
            assert [(one["category_id"], one["area"], one["bbox"]) for one in mine] == [
                (1, 49, [2, 2, 7, 7]), (2, 9, [3, 11, 3, 3]), *([(2, 9, [9, 11, 3, 3])] if two else [])]
    ids = [one["id"] for told in documents for one in told["annotations"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("fit", ["pad", "crop", "squeeze"])
def test_native_pairs_are_as_large_as_their_files_and_in_place(evaluated: Path, tmp_path: Path, fit: str,
                                                               monkeypatch: pytest.MonkeyPatch):
    shapes = {"a": (40, 80), "b": (90, 60), "c": (64, 64), "d": (70, 50)}
    for name, shape in shapes.items():
        mask = np.zeros(shape, np.uint8)
        mask[shape[0] // 2 - 8:shape[0] // 2 + 8, shape[1] // 2 - 6:shape[1] // 2 + 6] = 255
        for part, values in (("images", mask // 2 + 60), ("masks", mask)):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "set" / part / f"{name}.png")
    run = Made(tmp_path / "run", evaluated)
    run.params = made_up.changed(Run.open(evaluated).params, data={
        "source": str(tmp_path / "set"), "count": None, "image_size": 64, "channels": 1, "fit": fit})
    run.pairs = dataset.load(Workspace(tmp_path / "run", 0), run.params.data)
    monkeypatch.setattr(exporting, "refuse_place", lambda run, out: None)
    monkeypatch.setattr(outlets, "types", lambda run: {"Real": REAL})
    place, _ = export(run, "folder", tmp_path / "native", ["Real"], native=True, keep_names=True)
    for name, (height, width) in shapes.items():
        image, mask = (pixels(place / part / f"Real__{name}.png") for part in ("images", "masks"))
        own = pixels(tmp_path / "set" / "masks" / f"{name}.png")
        assert image.shape == mask.shape == (height, width)
        assert ((mask > 0) != (own > 0)).mean() < 0.02
        middle = image[height // 2, width // 2]
        assert abs(int(middle) - 187) < 6
    card = (place / "README.md").read_text()
    assert "each as large as the files of its real pair" in card
    assert ("black, and of no class" in card) == (fit == "crop")
    coco, _ = export(run, "coco", tmp_path / "coco", ["Real"], native=True, keep_names=True)
    document = json.loads((coco / "annotations/instances_train.json").read_text())
    for one in document["images"]:
        assert (one["height"], one["width"]) == shapes[one["source"]]


def test_phantoms_have_no_native_size(evaluated: Path, tmp_path: Path):
    told = CliRunner().invoke(cli.app, ["export", str(evaluated), "--to", "folder", "--native",
                                        "--out", str(tmp_path / "x")])
    assert told.exit_code != 0
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="has no native size: it is a phantom, from"):
        export(Run.open(evaluated), "folder", tmp_path / "x", native=True)


def overlapping(evaluated: Path, folder: Path, channels: int = 2) -> Made:
    """A run whose classes overlap, of arrays with other channels than pictures have."""
    run = Made(folder / "run", evaluated)
    run.params = made_up.changed(run.params, data={"channels": channels, "overlap": True})
    masks = run.pairs.masks.copy()
    masks[:, 1, 4:7, 4:7] = 1
    run.pairs = dataset.gather(run.pairs.names, run.pairs.images.repeat(channels, axis=1), masks, True)
    return run


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "refuse_place", lambda run, out: None)
    monkeypatch.setattr(outlets, "types", lambda run: {"Real": REAL})


@pytest.mark.parametrize("to", ["folder", "monai"])
def test_classes_that_overlap_and_other_channels_are_written_as_arrays(evaluated: Path, tmp_path: Path,
                                                                       anywhere: None, to: str):
    run = overlapping(evaluated, tmp_path)
    place, _ = export(run, to, tmp_path / to, ["Real"], keep_names=True)
    label = "labels" if to == "monai" else "masks"
    for name, image, mask in zip(run.pairs.names, run.pairs.images, run.pairs.masks, strict=True):
        assert np.array_equal(np.load(place / "images" / f"Real__{name}.npy"), image)
        assert np.array_equal(np.load(place / label / f"Real__{name}.npy"), mask)
    card = (place / "README.md").read_text()
    assert "| 0 | liver |" in card
    assert "2 channels" in card
    if to == "folder":
        labels = json.loads(re.search(r"data.labels '(.*?)' -p data.overlap true", card)[1])
        data = Data(source=str(place), channels=2, labels=labels, overlap=True)
        report = layouts.scan(place, data)
        read = {pair.name: mask for pair, _, mask in reading.read(report, data)}
        assert report.problems == []
        for name, mask in zip(run.pairs.names, run.pairs.masks, strict=True):
            assert np.array_equal(read[f"Real__{name}"].transpose(2, 0, 1), mask)
    else:
        told = json.loads((place / "datalist.json").read_text())
        assert told["labels"] == {"0": "liver", "1": "tumour"}
        assert told["training"][0]["label"].endswith(".npy")


def test_what_a_format_cannot_hold_is_refused_in_a_line(evaluated: Path, tmp_path: Path, anywhere: None):
    run = overlapping(evaluated, tmp_path)
    grey = overlapping(evaluated, tmp_path, channels=1)
    export(grey, "coco", tmp_path / "coco", ["Real"])
    pictures, single = "holds pictures of 1 or 3 channels, but", "holds one class per pixel, but overlapping"
    for one, to, says in ((run, "coco", f"COCO {pictures} this run's images have 2"),
                          (run, "hf", f"Hugging Face datasets {pictures}"),
                          (grey, "hf", f"Hugging Face datasets {single} classes"),
                          (run, "nnunet", f"nnU-Net v2 {single}")):
        with pytest.raises(UserError, match=says) as caught:
            export(one, to, tmp_path / OUT.get(to, "out"), ["Real"])
        assert "\n" not in str(caught.value)
        assert not (tmp_path / OUT.get(to, "out")).exists()


def test_nnunet_has_a_file_for_each_of_other_channels(evaluated: Path, tmp_path: Path, anywhere: None):
    run = overlapping(evaluated, tmp_path)
    run.params = made_up.changed(run.params, data={"overlap": False})
    masks = run.pairs.masks.copy()
    masks[:, 1] &= 1 - masks[:, 0]
    run.pairs = dataset.gather(run.pairs.names, run.pairs.images, masks)
    place, _ = export(run, "nnunet", tmp_path / OUT["nnunet"], ["Real"], keep_names=True)
    for number in range(2):
        shown = pixels(place / f"imagesTr/Real__slice 0_{number:04d}.png")
        assert np.array_equal(shown, run.pairs.images[0, number])
    told = json.loads((place / "dataset.json").read_text())
    assert told["channel_names"] == {"0": "channel 0", "1": "channel 1"}
    asked, _ = export(run, "folder", tmp_path / "planes", ["Real"], by_class=True, keep_names=True)
    assert np.array_equal(np.load(asked / "masks" / "Real__slice 0.npy"), masks[0])


def test_pairs_of_further_generators_are_told_apart(evaluated: Path, monkeypatch: pytest.MonkeyPatch):
    run, first = Run.open(evaluated), choosing.choose(Run.open(evaluated), ["2-Diff"])
    made = outlets.made
    monkeypatch.setattr(outlets, "made", lambda run, kind, generator=0: made(run, kind))
    run.params = run.params.model_copy(update={"generators": 2})
    every = choosing.choose(run, ["2-Diff"], generators=True)
    assert every.table["case"].is_unique
    more = every.table[every.table["generator"] == 1]
    assert set(more["data_type"]) == {"2-Diff"}
    assert len(every.cases) == len(first.cases) + len(more)
    assert set(more["near_copy"]) == {cases.NOT_AUDITED}
    assert all(name.startswith("2-Diff_generator-1__") for name in more["case"])
    last = every.cases[-1]
    [twin] = [case for case in first.cases if (case.pair, case.data_type) == (last.pair, last.data_type)]
    assert np.array_equal(every.read(last)[0], first.read(twin)[0])
    asked = choosing.choose(run, ["2-Diff"])
    assert asked.table["generator"].eq(0).all(), "unless they are asked for"
    first_alone = "Painted pairs are those of the first of 2 generators."
    for one, there in ((asked, True), (every, False), (choosing.choose(run, ["Real"]), False)):
        assert (first_alone in datacard.text(one, "a folder", "")) == there
        assert (f"{first_alone} --all-generators exports those of all." in list(remarks.lines(one))) == there
    assert "all 2 generators" in datacard.text(every, "a folder", "")


def test_hf_has_a_head_and_a_row_a_pair(exports: dict[str, Path], chosen: ExportSet):
    _, head, _ = (exports["hf"] / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "other"
    assert told["task_categories"] == ["image-segmentation"]
    splits = [one["split"] for one in told["configs"][0]["data_files"]]
    assert splits == [split for split in cases.SPLITS if chosen.of(split)]
    for split in splits:
        rows = [json.loads(line) for line in
                (exports["hf"] / split / "metadata.jsonl").read_text().splitlines()]
        assert [row["case"] for row in rows] == [case.case for case in chosen.of(split)]
        for row in rows:
            image, mask = (pixels(exports["hf"] / split / row[name]) for name in
                           ("file_name", "mask_file_name"))
            assert image.shape == (*mask.shape, 3)


def test_monai_has_lists_of_image_and_label(exports: dict[str, Path], chosen: ExportSet):
    told = json.loads((exports["monai"] / "datalist.json").read_text())
    assert told["labels"] == {"0": "background", "1": "polyp"}
    assert [len(told.get(name, ())) for name in ("training", "validation", "held_back")] == [
        len(chosen.of(split)) for split in cases.SPLITS]
    for one in told["training"] + told["validation"]:
        assert one["origin"] in ("real", "synthetic")
        assert set(np.unique(pixels(exports["monai"] / one["label"]))) <= {0, 1}
        assert pixels(exports["monai"] / one["image"]).shape == (16, 16, 3)


def test_a_folder_is_read_by_this_program(exports: dict[str, Path], chosen: ExportSet):
    report = checkup.check(exports["folder"])
    assert report.problems == []
    assert {pair.name for pair in report.pairs} == {case.case for case in chosen.cases}
    assert set(np.unique(pixels(next((exports["folder"] / "masks").iterdir())))) == {0, 255}


def test_grey_pairs_with_several_classes_have_one_channel_and_class_numbers(grey: dict[str, Path]):
    name = "Real__slice 0"
    masks = {"nnunet": f"labelsTr/{name}.png", "monai": f"labels/{name}.png", "folder": f"masks/{name}.png"}
    for to, mask in masks.items():
        image = mask.replace("labelsTr", "imagesTr").replace("labels/", "images/").replace("masks", "images")
        image = image.replace(".png", "_0000.png") if to == "nnunet" else image
        assert Image.open(grey[to] / image).mode == "L"
        assert np.unique(pixels(grey[to] / mask)).tolist() == [0, 1, 2]
    told = json.loads((grey["nnunet"] / "dataset.json").read_text())
    assert told["channel_names"] == {"0": "grey"}
    assert told["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert re.search(r"data.labels '\{\"1\": \"liver\", \"2\": \"tumour\"\}'",
                     (grey["folder"] / "README.md").read_text())


# ---- each format, by the library that it is for


def test_pycocotools_reads_it_back_to_the_pixel(exports: dict[str, Path], chosen: ExportSet, evaluated: Path):
    coco = pytest.importorskip("pycocotools.coco")
    run, of, seen = Run.open(evaluated), {case.case: case for case in chosen.cases}, set()
    for path in (exports["coco"] / "annotations").iterdir():
        read = coco.COCO(str(path))
        for number, image in read.imgs.items():
            case = of[image["file_name"].removesuffix(".png")]
            _, mask = of_run(run, case)
            parts = [read.annToMask(one) for one in read.loadAnns(read.getAnnIds(imgIds=number))]
            assert np.array_equal(np.sum(parts, axis=0), mask)
            assert [one["area"] for one in read.loadAnns(read.getAnnIds(imgIds=number))] == [
                part.sum() for part in parts]
            seen.add(case.case)
    assert seen == set(of)


@pytest.mark.parametrize("which", ["exports", "grey"])
def test_monai_reads_it_back(which: str, request: pytest.FixtureRequest):
    datalist = pytest.importorskip("monai.data.decathlon_datalist")
    from monai.transforms import LoadImaged
    folder = request.getfixturevalue(which)["monai"]
    load = LoadImaged(keys=["image", "label"], ensure_channel_first=True)
    for key in ("training", "validation"):
        for one in datalist.load_decathlon_datalist(str(folder / "datalist.json"), True, key):
            read = load(one)
            assert read["image"].shape == ((3 if which == "exports" else 1), 16, 16)
            assert read["label"].shape == (1, 16, 16)
            numbers = pixels(Path(one["label"]))
            assert np.array_equal(np.asarray(read["label"])[0].T, numbers)  # MONAI puts x first, of both
            assert (one["source"] in one["image"]) == (which == "grey")  # whose names are kept


def test_datasets_reads_it_back(exports: dict[str, Path], chosen: ExportSet, evaluated: Path, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset(str(exports["hf"]), cache_dir=str(tmp_path))
    assert set(read) == {split for split in cases.SPLITS if chosen.of(split)}
    run = Run.open(evaluated)
    for split, rows in read.items():
        assert [row["case"] for row in rows] == [case.case for case in chosen.of(split)]
        for row, case in zip(rows, chosen.of(split), strict=True):
            image, mask = of_run(run, case)
            assert np.array_equal(np.asarray(row["image"]), image)
            assert np.array_equal(np.asarray(row["mask"]), mask)
            assert (row["origin"], row["near_copy"]) == (case.origin, case.near_copy)
    by_name = datasets.load_dataset("imagefolder", data_dir=str(exports["hf"]), cache_dir=str(tmp_path))
    assert len(by_name["train"]) == len(chosen.of(TRAIN))


@pytest.mark.parametrize("which", ["exports", "grey"])
def test_nnunet_finds_nothing_wrong(which: str, request: pytest.FixtureRequest):
    pytest.importorskip("nnunetv2")
    folder = request.getfixturevalue(which)["nnunet"]
    code = ("from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity\n"
            f"if __name__ == '__main__': verify_dataset_integrity({str(folder)!r}, 1)")
    script = folder.parent / "verify.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify_dataset_integrity Done" in done.stdout
    assert "Error" not in done.stdout
    assert "NaturalImage2DIO" in done.stdout
