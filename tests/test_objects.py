"""How new objects stand out from their surroundings, measured and told beside real ones."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffusegen_core.config import params
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import DataType
from diffusegen_core.measures import contrast
from diffusegen_core.report import objects

SIDE, BACKGROUND = 64, 100


def shown(levels: list[float], classes: int = 1, place: int = 0) -> Pairs:
    """A pair for each level: a square of that brightness on grey, of the class in that place."""
    images = np.full((len(levels), 3, SIDE, SIDE), BACKGROUND, np.uint8)
    masks = np.zeros((len(levels), classes, SIDE, SIDE), np.uint8)
    for image, level in zip(images, levels, strict=True):
        image[:, 24:36, 24:36] = level
    masks[:, place, 24:36, 24:36] = 1
    return dataset.gather([f"x{number}" for number in range(len(levels))], images, masks)


class Made:
    """A set of synthetic pairs with objects of these levels."""

    def __init__(self, name: str, levels: list[float], **how: int) -> None:
        self.data_type, self.pairs = DataType.parse(name), shown(levels, **how)
        self.manifest = pd.DataFrame({"name": self.pairs.names})

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, names: list[str]) -> Pairs:
        return self.pairs.take([self.pairs.names.index(name) for name in names])


def run_of(real: list[float], values: dict | None = None, **how: int) -> SimpleNamespace:
    return SimpleNamespace(pairs=shown(real, **how), params=params.validate(
        {"data": {"object": "cyst"}, "inpaint": {"guidance_scale": 2.0}} | (values or {})))


REAL = [60.0, 70.0, 64.0, 66.0] * 3
STRONG, USUAL, FAINT, LIGHT = [10.0] * 10, [64.0] * 10, [95.0] * 10, [140.0] * 10


def sets(**levels: list[float]) -> list[Made]:
    return [Made(name.replace("_", "-"), each) for name, each in levels.items()]


def test_brightness_and_contrast_are_of_the_object_and_its_rim_alone():
    pairs = shown([40, 160])
    pairs.images[:, :, :4] = 0  # far away
    table = contrast.of(pairs)
    assert table["brightness"].tolist() == [40, 160]
    assert table["contrast"].tolist() == [-60, 60]
    pairs.masks[0] = 0
    pairs.masks[1] = 1
    assert contrast.of(pairs).empty, "no object, and no surroundings"
    assert list(contrast.of(pairs).columns) == contrast.COLUMNS


def test_only_the_classes_that_are_painted_are_looked_at():
    pairs = shown([40.0], classes=2)
    assert len(contrast.of(pairs)) == len(contrast.of(pairs, (0,))) == 1
    assert contrast.of(pairs, (1,)).empty


@pytest.mark.parametrize(("levels", "words", "advice"), [
    (STRONG, "In painted pairs (1-Paint) the cyst stands out more than in real ones: on average it is 90 "
     "grey levels darker than its surroundings, and in real pairs 35 grey levels darker (SD 4).",
     " A smaller `inpaint.guidance_scale` (2 here) may mend that; 1 is none."),
    (FAINT, "stands out less than in real ones: on average it is 5 grey levels darker",
     " Longer training (`train.images`), or a larger `inpaint.guidance_scale`, may help."),
    (LIGHT, "stands out the other way: on average it is 40 grey levels brighter", "")])
def test_objects_that_stand_out_otherwise_are_told_with_what_may_help(
        levels: list[float], words: str, advice: str):
    run = run_of(REAL)
    (kind, line), = objects.differing(run.params, run.pairs, sets(**{"1_Paint": levels}))
    assert words in line
    assert line.partition("(SD 4).")[2].startswith(advice)
    assert bool(line.partition("(SD 4).")[2]) == bool(advice)
    assert objects.paragraph(run, sets(**{"1_Paint": levels})).data == line
    made = {"data": run.pairs, "inpaint": SimpleNamespace(sets={"x": sets(**{"1_Paint": levels})[0]})}
    assert objects.found(SimpleNamespace(params=run.params, finished=made.get)) == [(kind, line)]
    assert kind.name == "1-Paint"


def test_objects_like_real_ones_are_not_mentioned_and_few_say_nothing():
    run = run_of(REAL)
    assert objects.paragraph(run, sets(**{"1_Paint": USUAL, "Paste": USUAL})) is None
    for real, others in ((REAL, {"1_Paint": STRONG[:5]}), (REAL[:5], {"1_Paint": STRONG}), (REAL[:5], {}),
                         (REAL[:5], {"1_Paint": STRONG[:5]}), (REAL, {"1_Paint": []})):
        assert list(objects.differing(run.params, run_of(real).pairs, sets(**others))) == []
    for made in ({}, {"data": run.pairs}, {"inpaint": SimpleNamespace(sets={"x": sets(Paste=STRONG)[0]})}):
        assert objects.found(SimpleNamespace(params=run.params, finished=made.get)) == []


@pytest.mark.parametrize(("name", "values", "advice"), [
    ("1-Paint", {"inpaint": {"guidance_scale": 1.0}}, ""), ("Paste", {}, ""), ("1-Diff", {}, ""),
    ("1-Styled-Paint", {"style": {"method": "sdedit", "guidance_scale": 1.5}},
     " A smaller `inpaint.guidance_scale` (2 here) or `style.guidance_scale` (1.5 here) may mend that"),
    ("1-Paint", {"generators": 3}, " A smaller `inpaint.guidance_scale` (2 here) may mend that")])
def test_the_advice_names_what_has_made_the_pairs(name: str, values: dict, advice: str):
    run = run_of(REAL, values)
    (_, line), = objects.differing(run.params, run.pairs, [Made(name, STRONG)])
    assert line.partition("(SD 4).")[2].startswith(advice)
    assert bool(line.partition("(SD 4).")[2]) == bool(advice)
    first = " Synthetic pairs are of the first of 3 generators."
    assert objects.paragraph(run, [Made(name, STRONG)]).data.endswith(first) == ("generators" in values)
    made = {"data": run.pairs, "inpaint": SimpleNamespace(sets=dict(enumerate([Made(name, STRONG)] * 2)))}
    every = objects.found(SimpleNamespace(params=run.params, finished=made.get))
    assert [words.endswith(first) for _, words in every] == [False, "generators" in values], "once is enough"
    assert objects.table(run, [Made(name, STRONG)], "x").caption.endswith(first) == ("generators" in values)


def test_every_type_has_a_row_beside_the_real_pairs():
    table = objects.table(run_of(REAL), sets(**{"Paste": USUAL, "1_Paint": STRONG}), "objects")
    assert table.frame["data type"].tolist() == ["Real", "Paste", "1-Paint"]
    assert table.frame["contrast"].tolist() == ["-35.0 ± 3.8", "-36.0 ± 0.0", "-90.0 ± 0.0"]
    assert table.frame["pairs"].tolist() == ["12", "10", "10"]
    assert "How the cyst stands out" in table.caption
    assert table.caption.endswith("The masks of pasted pairs show the source's own objects, too.")
    assert "pasted" not in objects.table(run_of(REAL), sets(**{"1_Paint": STRONG}), "objects").caption


def test_several_painted_classes_are_named_together():
    values = {"data": {"source": "slices", "labels": {"1": "liver", "2": "cyst_2"}}}
    run = run_of(REAL, values, classes=2)
    (_, line), = objects.differing(run.params, run.pairs, [Made("1-Paint", STRONG, classes=2)])
    assert r"what is painted (liver, cyst\_2) stands out" in line
