"""Of several classes, the front page tells whether each is helped, over the images that show it."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_claims import results

from diffusegen_core.config import params
from diffusegen_core.data import dataset
from diffusegen_core.data.types import DataType
from diffusegen_core.exports import remarks
from diffusegen_core.report import byclass, detectable, limits, opening

IMAGES = 60
MEANS = {"Real/16/": 0.5, "Paste/16/3": 0.5, "2-Styled-Paint/16/3": 0.5}
LIVER, TUMOUR = (0.5, 0.6, 0.5), (0.5, 0.5, 0.4)  # of real pairs, pasted and painted ones
TWO = params.validate({"data": {"source": "slices", "count": None,
                                "labels": {"1": "liver", "2": "tumour_2"}}})


def run_of(p: params.Params, complete: bool = True) -> SimpleNamespace:
    """A run whose tumours are in every second test image; else all networks find none, which is 1."""
    images, rng = results(MEANS, "augment", tests=("HyperKvasir",), seeds=5), np.random.default_rng(1)
    kinds = list(dict.fromkeys(images["data_type"]))
    shown = images["image"].astype(int) % 2 == 0
    for column, means in (("dice_1", LIVER), ("dice_2", TUMOUR)):
        images[column] = images["data_type"].map(dict(zip(kinds, means, strict=True))) + rng.normal(
            0, 0.01, len(images))
    images.loc[~shown, "dice_2"] = 1.0
    masks = np.zeros((IMAGES, 2, 4, 4), np.uint8)
    masks[:, 0, 0], masks[::2, 1, 2] = 1, 1
    pairs = dataset.gather([str(i) for i in range(IMAGES)], np.zeros((IMAGES, 3, 4, 4), np.uint8), masks)
    # On images without a tumour, every network of the first three seeds sees one.
    distances = images.assign(false_alarms_1=(images["seed"] == 4).astype(int), false_alarms_2=np.where(
        ~shown & (images["seed"] < 3), 2, 0))
    runs = images.drop_duplicates(["data_type", "seed"]).assign(real_pairs=13)
    result = SimpleNamespace(images=images, runs=runs, complete=complete, groups_of=lambda test: None,
                             details=SimpleNamespace(distances=distances), tests=[
        SimpleNamespace(name="HyperKvasir", groups=None, pairs=pairs)])
    made = {"augment": result, "data": range(16)}
    return SimpleNamespace(params=p, finished=made.get)


def test_each_class_is_judged_over_the_images_that_show_it():
    table = byclass.table(run_of(TWO)).frame
    assert list(table.pop(byclass.ABSENT)) == ["", "90 of 150"], "30 images without it, and five repetitions"
    assert list(table.columns) == ["class", "test images", "Dice, real pairs alone",
                                   "pasted pairs (Paste)", "painted and styled pairs (2-Styled-Paint)"]
    caption = byclass.table(run_of(TWO)).caption
    assert "In the other sets, synthetic pairs replace about half of the real ones trained on." in caption
    assert list(table["class"]) == ["liver", "tumour_2"]
    assert list(table["test images"]) == ["60", "30"]
    liver, tumour = table.iloc[0], table.iloc[1]
    mean, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", liver.iloc[2]).groups())
    assert mean == pytest.approx(0.5, abs=0.01)
    assert 0.4 < low < mean < high < 0.6
    assert "Seen where there is none: how often" in caption
    assert "\\\\" not in byclass.table(run_of(TWO))._repr_markdown_(), "escaped once"
    assert liver.iloc[3].startswith("+0.10")
    assert liver.iloc[3].endswith(": supported for these pasted pairs"), "which no generator has made"
    assert liver.iloc[4].endswith((": undecided for these pairs", ": no practical effect for these pairs"))
    assert tumour.iloc[4].startswith("-0.10"), "not halved by images without a tumour"
    assert tumour.iloc[4].endswith(": refuted for these pairs")


@pytest.mark.parametrize(("p", "column", "called"), [
    (TWO, "dice_2", r"tumour\_2"), (params.validate({"data": {"object": "cyst"}}), "dice", "cyst")])
def test_a_class_that_only_some_repetitions_learned_is_told(p: params.Params, column: str, called: str):
    run = run_of(p)
    assert list(byclass.unlearned(run)) == []
    images = run.finished("augment").images
    images.loc[images["seed"].isin([0, 3]), column] = 0.02
    if column == "dice_2":
        images.loc[images["image"].astype(int) % 2 == 1, column] = 1.0  # none there, and none found
    told, = byclass.unlearned(run)
    assert told.startswith("In 2 of 5 repetitions of chapter 7, networks trained on 16 real pairs alone "
                           f"fail at {called} (a mean Dice below 0.1")
    images[column] = 0.02
    assert list(byclass.unlearned(run)) == [], "nobody learned it, as the table shows"
    assert list(byclass.unlearned(SimpleNamespace(params=p, finished=lambda name: None))) == []


def test_the_class_that_is_painted_has_advice_of_its_own():
    told = {}
    for classes in (["tumour_2"], ["liver", "tumour_2"], None):
        p = params.validate({**TWO.model_dump(), "inpaint": {"classes": classes, "within": None}})
        told[str(classes)] = list(byclass.painted(run_of(p)))
    [line] = told.pop("['tumour_2']")
    assert re.fullmatch(
        r"\*\*For tumour\\_2, which is what was painted, over the 30 test images that show it: train on the "
        r"real pairs alone; neither pasting nor painting was shown to help; painting did harm \(-0\.10\d .* "
        r"in tumour\\_2 Dice\)\.\*\*", line)
    assert list(told.values()) == [[], []], "the mean over all classes says it"
    assert list(byclass.painted(run_of(p, complete=False))) == []
    assert list(byclass.painted(SimpleNamespace(params=p, finished=lambda name: None))) == []


@pytest.mark.parametrize(("classes", "dice_2", "told"), [
    (None, 0.3, ("tumour_2", 0.3)), (["tumour_2"], 0.9, ("tumour_2", 0.9)), (None, 0.9, ("liver", 0.5))])
def test_networks_are_as_weak_as_in_the_painted_class_that_they_find_worst(
        classes: list[str] | None, dice_2: float, told: tuple[str, float]):
    p = params.validate({**TWO.model_dump(), "inpaint": {"classes": classes, "within": None}})
    result = run_of(p).finished("augment")
    is_real = result.images["data_type"] == "Real"
    shown = is_real & (result.images["image"].astype(int) % 2 == 0)
    result.images.loc[shown, "dice_2"] = dice_2
    name, dice = byclass.weakest(result, "HyperKvasir", 16, p)
    assert (name, round(dice, 1)) == told, "images without a tumour count for nothing"
    result.images["size"] = np.nan
    assert byclass.weakest(result, "HyperKvasir", float("nan"), p)[0] == name, "chapter 6 has no sizes"


@pytest.mark.parametrize("lacking", ["false_alarms_2", None])
def test_what_is_seen_where_there_is_none_has_no_column_if_that_is_not_known(lacking: str | None):
    run = run_of(TWO)
    details = run.finished("augment").details
    details.distances = details.distances.drop(columns=lacking) if lacking else details.distances[:0]
    table = byclass.table(run)
    assert byclass.ABSENT not in table.frame
    assert "Seen where" not in table.caption


def test_each_painted_class_has_a_gain_in_a_card_and_a_smallest_gain_that_can_be_told():
    p = params.validate({**TWO.model_dump(), "inpaint": {"classes": ["tumour_2"], "within": None}})
    run = run_of(p)
    chosen = SimpleNamespace(run=run)
    told, = remarks.by_class(chosen, DataType.parse("2-Styled-Paint"))
    assert re.fullmatch(r"-0\.10\d \S+ \S+ in tumour\\_2 Dice: refuted for these pairs "
                        r"\(over the 30 test images that show it\)", told)
    assert len(list(remarks.by_class(SimpleNamespace(run=run_of(TWO)), DataType.parse("Paste")))) == 2
    one = run_of(params.validate({}))
    assert list(remarks.by_class(SimpleNamespace(run=one), DataType.parse("Paste"))) == [], "the mean says it"
    assert list(remarks.by_class(SimpleNamespace(run=SimpleNamespace(
        params=p, finished=lambda name: None)), DataType.parse("Paste"))) == []
    result = run.finished("augment")
    result.images.loc[result.images["seed"] == 0, "dice_2"] -= 0.2 * (result.images["data_type"] != "Real")
    (called, images, own), = opening.tests(run).classes
    assert (called, images) == ("tumour_2", 30)
    assert own.gain > 4 * detectable.own(result).gain, "by the spread of the class, which is wider"
    mean, organ = [line for line in limits.of(p, tests=opening.tests(run)) if "from chance" in line]
    assert mean.startswith("Gains in mean Dice over 2 classes below about ")
    assert organ.startswith(fr"Gains in Dice of tumour\_2 below about {own.gain:.2f} cannot be told from "
                            "chance by the spread of this run's own results, with 30 test images that ")


def test_every_painted_type_that_was_tried_has_a_column():
    run = run_of(TWO)
    images = run.finished("augment").images
    unstyled = images[images["data_type"] == "2-Styled-Paint"].assign(data_type="2-Paint")
    run.finished("augment").images = pd.concat([images, unstyled])
    assert list(byclass.table(run).frame.columns)[4:] == [
        "pasted pairs (Paste)", "painted and styled pairs (2-Styled-Paint)", "painted pairs (2-Paint)"]


def test_there_is_no_such_table_of_one_class_nor_before_chapter_7_is_finished():
    assert byclass.table(run_of(params.validate({}))) is None
    assert byclass.table(run_of(TWO, complete=False)) is None
    assert byclass.table(SimpleNamespace(params=TWO, finished=lambda name: None)) is None
