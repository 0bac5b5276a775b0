"""The tables and figures of chapters 6 and 7 beyond Dice and IoU, of planted results."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import SIZE, values

from diffusegen_core.config import params
from diffusegen_core.data import dataset
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.measures import calibration, lesionwise, power
from diffusegen_core.report import detectable, figures, segment_details, segment_figures
from diffusegen_core.report.tables import Table
from diffusegen_core.segmentation import details
from diffusegen_core.segmentation.details import Details
from diffusegen_core.segmentation.experiments import FIELDS, IMAGE
from diffusegen_core.segmentation.trials import Tested

BY = ["data_type", "samples"]
SMALL = ["size", "data_type", "ratio"]
FRAMES = ["1", "2", "26", "27", "51", "52"]  # of three sequences
KINDS = [{"data_type": "Real"}, {"data_type": "2-Diff", "samples": 1}]
GRID = [{"data_type": "Real", "size": 4}, {"data_type": "2-Diff", "size": 4, "ratio": 1}]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(params=values(tmp_path))


def pairs(names: list[str]) -> dataset.Pairs:
    """Image i has a lesion of i + 1 rows."""
    masks = np.zeros((len(names), 1, SIZE, SIZE), np.uint8)
    for i in range(len(names)):
        masks[i, 0, :i + 1] = 1
    return dataset.gather(names, np.full((len(names), 3, SIZE, SIZE), 90, np.uint8), masks)


def planted(kinds: list[dict], tests: tuple[str, ...] = ("CVC-ClinicDB",), seeds: int = 2) -> Tested:
    """Dice is a tenth of the image's number, a bit more with a synthetic type, or with a later seed."""
    shown = {test: pairs(FRAMES if test == "CVC-ClinicDB" else list("abcdef")) for test in tests}
    rows = [{"chapter": "segment", "seed": seed, "test_set": test, "image": name, "iou": 0.1,
             "dice": 0.1 * i + 0.05 * (kind["data_type"] != "Real") * (1 + seed), "dice_both": 0.5,
             "iou_both": 0.5, "number": i, **kind}
            for kind, seed, test in product(kinds, range(seeds), tests)
            for i, name in enumerate(shown[test].names)]
    images = pd.DataFrame(rows, columns=[*FIELDS, *IMAGE, "number"])
    integers = dict.fromkeys(["size", "samples", "ratio"], "Int64")
    images = images.astype(integers)
    runs = images.drop_duplicates(FIELDS)[FIELDS].assign(status="ok", name=lambda t: t["data_type"])
    of_lesions = images.assign(lesion=1, area=(images["number"] + 1) / SIZE, iou=images["number"] / 5)
    bins = pd.DataFrame({"bin": [0, 9], "pixels": [3, 1], "probability": [0.1, 0.9],
                         calibration.SHARE: [0.0, 1.0]})
    keys = images[[*FIELDS, "test_set"]].drop_duplicates()
    known = Details(images.assign(hd95=images["number"].astype(float), nsd=0.25)[
        [*FIELDS, "test_set", "image", "hd95", "nsd"]].assign(false_alarms=images["number"] % 2),
        of_lesions[[*FIELDS, "test_set", *lesionwise.COLUMNS]],
        keys.merge(bins, how="cross")[[*FIELDS, "test_set", *calibration.COLUMNS]])
    return Tested(images[[*FIELDS, *IMAGE]], runs, [TestSet(test, one, "") for test, one in shown.items()],
                  "in words", Path(), known)


def cells(table: Table, data_type: str = "Real") -> dict[str, str]:
    assert table._repr_markdown_()
    assert table._repr_html_()
    row, = table.frame[table.frame["data type"] == data_type].to_dict("records")
    return row


def mean(text: str) -> float:
    return float(text.split(" ")[0])


def test_dice_by_thirds_of_the_area_by_hand(run: SimpleNamespace) -> None:
    table = segment_details.by_size(run, planted(KINDS, ("CVC-ClinicDB", "Phantom")), BY, "x")
    rows = table.frame.set_index(["data type", "test set"])
    assert [mean(rows.loc[("Real", "Phantom"), size]) for size in lesionwise.SIZES] == [0.05, 0.25, 0.45]
    assert mean(rows.loc[("2-Diff", "CVC-ClinicDB"), "small"]) == pytest.approx(0.05 + 0.075)
    assert rows["N"].tolist() == ["", "", "1", "1"]
    assert "in CVC-ClinicDB up to 16.7 % of the image, up to 27.1 %, and more" in table.caption


def test_detection_counts_lesions_from_half_on(run: SimpleNamespace) -> None:
    result = planted(KINDS)  # IoU 0, 0.2, 0.4, 0.6, 0.8, 1
    row = cells(segment_details.detection(run, result, BY, "x"))
    assert [mean(row[size]) for size in lesionwise.SIZES] == [0, 0.5, 1]
    iou = result.details.lesions.assign(iou=0.5)
    row = cells(segment_details.detection(run, replace(result, details=replace(
        result.details, lesions=iou)), BY, "x"))
    assert [mean(row[size]) for size in lesionwise.SIZES] == [1, 1, 1]
    result = planted(KINDS, ("Phantom",))  # of which images count as independent
    assert segment_details.FLAT in segment_details.detection(run, result, BY, "x").caption
    lesions = result.details.lesions
    apart = lesions.assign(iou=lesions.groupby(["data_type", "image"], sort=False).ngroup() % 2)
    assert segment_details.FLAT not in segment_details.detection(run, replace(result, details=replace(
        result.details, lesions=apart)), BY, "x").caption


def test_false_alarms_stand_beside_what_was_detected(run: SimpleNamespace) -> None:
    result = planted(KINDS)
    table = segment_details.detection(run, result, BY, "x")
    assert mean(cells(table)["false alarms an image"]) == 0.5
    assert "touches no object" in table.caption
    older = result.details.distances.assign(false_alarms=float("nan"))
    table = segment_details.detection(run, replace(result, details=replace(
        result.details, distances=older)), BY, "x")
    assert "false alarms an image" not in cells(table)
    assert "touches no object" not in table.caption


def test_two_lesions_of_an_image_are_two(run: SimpleNamespace) -> None:
    result = planted(KINDS[:1], seeds=1)
    twice = pd.concat([result.details.lesions, result.details.lesions.assign(lesion=2, iou=0.0)])
    row = cells(segment_details.detection(run, replace(result, details=replace(
        result.details, lesions=twice)), BY, "x"))
    assert mean(row["large"]) == 0.5


def test_outlines_and_calibration(run: SimpleNamespace) -> None:
    row = cells(segment_details.outlines(run, planted(KINDS), BY, "x"))
    assert (mean(row["HD95, px"]), mean(row["surface distance"])) == (2.5, 0.25)
    assert row["calibration error"] == "0.1000"
    assert mean(row["one mask empty"]) == 0
    result = planted(KINDS)
    far = result.details.distances.assign(
        hd95=lambda table: np.where(table["image"] == FRAMES[0], SIZE * 2 ** 0.5 - 1e-4, 1.0))
    row = cells(segment_details.outlines(run, replace(result, details=replace(
        result.details, distances=far)), BY, "x"))
    assert mean(row["one mask empty"]) == pytest.approx(1 / 6, abs=1e-3)


@pytest.mark.parametrize(("kinds", "by"), [(KINDS, BY), (GRID, SMALL)])
def test_what_is_not_known_is_an_empty_cell_and_the_page_says_so(run: SimpleNamespace, kinds: list[dict],
                                                                 by: list[str]) -> None:
    result = planted(kinds)
    known = result.details
    without = replace(result, details=Details(*(table[table["data_type"] == "Real"] for table in (
        known.distances, known.lesions, known.calibration))))
    for page in (segment_details.outlines, segment_details.detection):
        assert "not known" not in page(run, result, by, "x").caption
        table = page(run, without, by, "x")
        assert "This is not known for 2 networks" in table.caption
        assert cells(table)["test set"] == "CVC-ClinicDB"
        assert set(list(cells(table, "2-Diff").values())[-3:]) == {""}
    old = replace(result, details=Details())
    assert "for 4 networks" in segment_details.detection(run, old, by, "x").caption
    assert mean(cells(segment_details.by_size(run, old, by, "x"))["small"]) == 0.05, "of the test set itself"


def test_sequences_have_intervals_of_their_own(run: SimpleNamespace) -> None:
    table = segment_details.by_sequence(run, planted(KINDS, ("CVC-ClinicDB", "Phantom")), BY, "x")
    assert table.frame["test set"].tolist() == ["CVC-ClinicDB"] * 2
    row = cells(table)
    assert row["groups"] == "3 sequences"
    images, groups = row["Dice, over images"], row["Dice, over groups"]
    assert mean(images) == mean(groups) == 0.25

    def width(text: str) -> float:
        low, high = map(float, text.partition("[")[2].strip("]").split(", "))
        return high - low
    assert width(groups) > 1.5 * width(images)


def test_gains_by_sequence_are_differences_from_real(run: SimpleNamespace) -> None:
    table = segment_details.gains_by_sequence(run, planted(GRID), "x")
    assert table.frame["data type"].tolist() == ["2-Diff"]
    assert mean(cells(table, "2-Diff")["gain over Real in Dice, over groups"]) == 0.075


@pytest.mark.parametrize("tests", [(), ("Phantom",)])
def test_where_no_names_tell_sequences_the_table_says_so(run: SimpleNamespace,
                                                         tests: tuple[str, ...]) -> None:
    for table in (segment_details.by_sequence(run, planted(KINDS, tests), BY, "x"),
                  segment_details.gains_by_sequence(run, planted(GRID, tests), "x")):
        assert table.frame.to_numpy().tolist() == [
            ["none", "no test set of this run names its sequences, centres or patients"]]


def test_the_seeds_that_a_gain_needs() -> None:
    row = cells(detectable.seeds_needed(planted(GRID, seeds=3), "x"), "2-Diff")
    assert row["seeds"] == "3"
    assert row["deviation"] == "0.0500"  # gains of 0.05, 0.10 and 0.15
    assert row["seeds needed"] == "10"
    assert int(row["seeds needed, cautiously"]) > 30
    one = cells(detectable.seeds_needed(planted(GRID, seeds=1), "x"), "2-Diff")
    assert one["seeds needed"] == one["seeds needed, cautiously"] == "not known", "by one seed"
    assert detectable.seeds_needed(planted(GRID[:1]), "x").frame.empty


def test_too_few_test_images_cannot_be_made_up_for_by_seeds() -> None:
    result = planted(GRID, seeds=3, tests=("Phantom",))
    images = result.images.copy()
    images.loc[images["data_type"] == "2-Diff", "dice"] += 0.2 * (images["image"].map("abcdef".index) % 2)
    row = cells(detectable.seeds_needed(replace(result, images=images), "x"), "2-Diff")
    assert row["error by test images"] == f"{np.std([0, 0.2] * 3, ddof=1) / np.sqrt(6):.4f}"
    of_images = power.Error(np.std([0, 0.2] * 3, ddof=1) / np.sqrt(6))
    times, needed = power.plan(of_images, 0.05)
    assert row["seeds needed"] == f"{needed} with {np.ceil(6 * times):.0f} images"
    assert int(row["seeds needed, cautiously"].split(" with ")[0]) > needed
    own = detectable.own(replace(result, images=images))
    assert (own.repeats, own.times) == (3, pytest.approx(times)), "the first page says the same"
    assert f"{own.needed} with " in row["seeds needed, cautiously"]
    paired = {name: str(i // 2) for i, name in enumerate("abcdef")}
    together = SimpleNamespace(name="Phantom", groups=SimpleNamespace(of=paired), pairs=None)
    row = cells(detectable.seeds_needed(replace(result, images=images, tests=[together]), "x"), "2-Diff")
    assert row["error by test images"] == "0.0000", "the groups are alike"


def test_the_smallest_gain_is_that_of_the_comparison_that_the_advice_is_about() -> None:
    small = [{**one, "size": 2} for one in GRID]
    result = planted([*small, *GRID], seeds=3, tests=("HyperKvasir", "PolypGen"))
    images = result.images.copy()
    other = (images["size"] == 2) & (images["data_type"] == "2-Diff") & (images["seed"] == 2)
    images.loc[other, "dice"] += 0.3
    found = detectable.own(replace(result, images=images))
    assert found.gain == pytest.approx(power.smallest(power.Error(0.0), 0.05, 3)), "of 0.05, 0.10 and 0.15"
    assert detectable.own(planted(GRID, seeds=1)) is None
    assert detectable.own(planted(GRID[:1])) is None


def test_the_generators_that_a_gain_needs_where_several_made_the_pairs() -> None:
    result = planted([*GRID, {"data_type": "Paste", "size": 4, "ratio": 1}], seeds=5)
    by = {0: 0, 1: 1, 2: 2, 3: 1, 4: 0}
    painted = result.images["data_type"] == "2-Diff"
    images = result.images.assign(generator=result.images["seed"].map(by).where(painted).astype("Int64"))
    table = detectable.seeds_needed(replace(result, images=images), "x")
    # Gains of 0.05 to 0.25; the generators' means are 0.15, 0.15 and 0.15.
    assert table.frame.columns[-4:].tolist() == [
        "deviation", "error by test images", "needed", "needed, cautiously"]
    assert [cells(table, "2-Diff")[one] for one in ("seeds", "generators", "deviation", "needed")] == [
        "5", "3", "0.0000", "2 generators"]
    pasted = cells(table, "Paste")
    assert (pasted["seeds"], pasted["generators"], pasted["needed"]) == ("5", "", "22 seeds")
    assert "means of this run's generators" in table.caption
    images.loc[painted, "dice"] += images.loc[painted, "generator"].astype(float) * 0.06  # means 0.06 apart
    row = cells(detectable.seeds_needed(replace(result, images=images), "x"), "2-Diff")
    assert (row["deviation"], row["needed"]) == ("0.0600", "14 generators")
    assert int(row["needed, cautiously"].removesuffix(" generators")) > 40
    alone = detectable.seeds_needed(replace(result, images=images.assign(generator=0)), "x")
    assert alone.frame.columns[-1] == "seeds needed, cautiously", "one generator: of these pairs"


def test_of_nothing_the_tables_are_empty(run: SimpleNamespace) -> None:
    empty = planted([])
    for page in (segment_details.by_size, segment_details.detection, segment_details.outlines):
        assert page(run, empty, BY, "x").frame.empty
    for figure in (segment_figures.worst(empty), segment_figures.reliability(empty, run.params)):
        assert figure.axes[0].texts[0].get_text().endswith("not known for any network.")


# ---- figures


@pytest.mark.parametrize("numbers", [[1, 3], [3, 1]])
def test_pictures_are_of_the_networks_with_the_most_pairs_in_whatever_order(numbers: list[int]) -> None:
    kinds = [{"data_type": name, "size": 4, "ratio": number}
             for name in ("2-Styled-Diff", "2-Diff") for number in numbers]
    shown = segment_figures._typical(planted(kinds), 8)
    assert shown["data_type"].tolist() == ["2-Styled-Diff", "2-Diff"]
    assert shown["ratio"].tolist() == [3, 3]


@pytest.mark.parametrize(("seeds", "failed", "taken"), [
    (3, [0], 1), (3, [1], 0), (3, [2], 0), (2, [0], 1), (2, [1], 0), (4, [0, 1], 2),
    (4, [2, 3], 0), (1, [0], 0)])
def test_pictures_are_of_a_seed_in_the_middle(seeds: int, failed: list[int], taken: int) -> None:
    result = planted([{"data_type": name} for name in ("Real", "2-Diff")], seeds=seeds)
    images = result.images.copy()
    images.loc[images["seed"].isin(failed), "dice"] = 0.0
    shown = segment_figures._typical(replace(result, images=images), 8)
    assert shown["data_type"].tolist() == ["Real", "2-Diff"]
    assert set(shown["seed"]) == {taken}, "a later seed is a bit better"


def test_pictures_are_of_a_seed_that_has_all_data_types() -> None:
    result = planted([{"data_type": name} for name in ("Real", "2-Diff")], seeds=3)
    runs = result.runs.copy()
    runs.loc[(runs["seed"] == 1) & (runs["data_type"] == "2-Diff"), "status"] = "failed: why"
    shown = segment_figures._typical(replace(result, runs=runs), 8)
    assert shown["data_type"].tolist() == ["Real", "2-Diff"]
    assert set(shown["seed"]) == {2}


@pytest.mark.parametrize("shown", [["Real", "2-Diff", "2-Styled-Diff"], ["2-Styled-Diff", "Real"]])
def test_a_data_type_looks_the_same_whatever_else_the_networks_learned_from(run: SimpleNamespace,
                                                                            shown: list[str]) -> None:
    wanted = {(figures.look(name)["color"], figures.look(name)["marker"]) for name in shown}
    result = planted([{"data_type": name} for name in shown])
    small = planted([{"data_type": name, "size": 4, **({"ratio": ratio} if ratio else {})}
                     for name in shown for ratio in ((None,) if name == "Real" else (1, 2))])
    for figure, kinds in ((segment_figures.alone(result, run.params), wanted),
                          (segment_figures.reliability(result, run.params), wanted),
                          (segment_figures.gains(small, run.params), wanted - {("#000000", "o")})):
        marked = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
        assert {(line.get_color(), line.get_marker()) for line in marked} == kinds
    lines = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert lines["2-Styled-Diff, r = 1"] != lines["2-Styled-Diff, r = 2"]


def test_the_worst_cases_are_of_different_groups_as_far_as_there_are_any(tmp_path: Path) -> None:
    np.savez(tmp_path / "kept.npz", images=list("abcde"), dice=np.arange(5) / 10, masks=np.zeros((5, 2, 2)))
    known = details.Details(masks={("Real", "CVC-ClinicDB"): tmp_path / "kept.npz"})

    def names(groups: dict[str, str] | None) -> str:
        return "".join(name for name, _, _ in details.worst(known, "Real", "CVC-ClinicDB", groups))
    assert names(None) == "abc"
    assert names(dict(zip("abcde", "11122", strict=True))) == "abd"
    assert names(dict(zip("abcde", "11123", strict=True))) == "ade"
    assert names({"c": "1", "b": "1"}) == "abd"


def test_the_worst_cases_show_both_outlines(tmp_path: Path) -> None:
    result = planted(KINDS, ("CVC-ClinicDB", "Phantom"))
    masks = np.zeros((3, SIZE, SIZE), bool)
    masks[1, 3:9, 3:9] = True
    for test, names in (("CVC-ClinicDB", FRAMES), ("Phantom", list("abc"))):
        np.savez(tmp_path / f"{test}.npz", images=np.array(names[:3]), dice=[0.0, 0.1, 0.2], masks=masks)
    kept = {("Real", test): tmp_path / f"{test}.npz" for test in ("CVC-ClinicDB", "Phantom")}
    figure = segment_figures.worst(replace(result, details=replace(result.details, masks=kept)))
    assert len(figure.axes) == 2 * details.WORST, "of 2-Diff nothing is known"
    assert [ax.get_xlabel() for ax in figure.axes[:3]] == ["Dice 0.00", "Dice 0.10", "Dice 0.20"]
    assert [len(ax.collections) for ax in figure.axes] == [1, 2, 1] * 2
    assert figure.axes[0].get_ylabel() == "Real"
    assert [figure.axes[i].get_title(loc="left") for i in (0, 3)] == ["CVC-ClinicDB", "Phantom"]


def test_the_reliability_is_that_of_the_networks_with_most_pairs() -> None:
    result = planted([*KINDS, {"data_type": "2-Diff", "samples": 3}])
    bins = result.details.calibration
    bins.loc[(bins["samples"] == 3) & (bins["bin"] == 9), calibration.SHARE] = 0.5
    figure = segment_figures.reliability(result, params.validate({"data": {"object": "cyst"}}))
    assert [ax.get_title() for ax in figure.axes] == ["CVC-ClinicDB"]
    curves = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines[1:]}
    assert curves == {"Real": [0, 1], "2-Diff": [0, 0.5]}
    assert figure.axes[0].get_xlabel() == "probability of cyst"
