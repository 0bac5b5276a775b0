"""Of several classes: whether pasted and painted pairs help each, advice for those that are painted, and
which ones only some repetitions have learned; below the front page's first sentence."""

from collections.abc import Iterator
from dataclasses import replace
from math import isnan

import pandas as pd

from diffusegen_core.config.params import Params
from diffusegen_core.config.text import counted
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.measures import intervals, overlap
from diffusegen_core.report import claims, recommendation
from diffusegen_core.report.comparisons import Comparison
from diffusegen_core.report.naming import mixing, named, sentence
from diffusegen_core.report.rule import LEARNED
from diffusegen_core.report.segment_tables import with_interval
from diffusegen_core.report.tables import Table, escaped, show
from diffusegen_core.run import Run
from diffusegen_core.segmentation import details
from diffusegen_core.segmentation.trials import Tested

ABSENT = "seen where there is none"


def table(run: Run, name: str = "front-classes") -> Table | None:
    """The gain in each class's Dice over real pairs alone, for the largest set of them; None with a single
    class, or where chapter 7 is not finished or compared nothing."""
    result, classes = run.finished("augment"), run.params.data.classes
    if result is None or len(classes) == 1 or not recommendation.comparable(result):
        return None
    size = int(result.images["size"].max())
    asked = recommendation.asked(result, size)
    tried = [one for one in (asked.pasting, asked.painting, *(each for _, each in asked.others)) if one]
    if not tried:
        return None
    rows = []
    for place, (called, column) in enumerate(zip(classes, overlap.of_classes(len(classes)), strict=True)):
        shown = showing(result, tried[0].test_set, place)
        rows.append({"class": called, "test images": str(shown["image"].nunique()),
                     "Dice, real pairs alone": _of_real(run, result, _alone(shown, size), column),
                     ABSENT: _seen(result, shown, tried[0].test_set, place, size),
                     **{named(DataType.parse(one.first.data_type)): _gain(run, result, shown, one, column)
                        for one in tried}})
    frame, absent = pd.DataFrame(rows), ""
    if (frame[ABSENT] == "").all():
        frame = frame.drop(columns=ABSENT)
    else:
        absent = (f" {sentence(ABSENT)}: how often networks trained on real pairs alone saw the class in "
                  "test images without it, every image counted once per repetition. The Dice of this "
                  "table leaves these images out; chapter 7 has the false alarms with each type of pairs.")
    return show(frame, name, (
        f"The Dice of each class with {size} real pairs alone, over the test images that show the class, and "
        f"the gain over it, with 95 % intervals. A class with a Dice near 0 was not learned at all.{absent} "
        f"In the other sets, {mixing(run.params.augment)}. The first sentence above is about the mean over "
        "the classes and over all images, where a class that is neither present nor predicted counts as 1."))


def painted(run: Run) -> Iterator[str]:
    """What to do for each class that is painted where others are left as they are, whose Dice says nothing of
    it: over the test images that show it, in the largest set of chapter 7."""
    result, p = run.finished("augment"), run.params
    some = set(p.inpaint.classes or p.data.classes)
    if result is None or some == set(p.data.classes) or not recommendation.comparable(result):
        return
    size = int(result.images["size"].max())
    tried = recommendation.asked(result, size)
    columns = overlap.of_classes(len(p.data.classes)) if tried.pasting or tried.painting else []
    for place, (called, column) in enumerate(zip(p.data.classes, columns, strict=False)):
        if called in some:
            shown = showing(result, claims.own_test(result.images), place)
            findings = recommendation.findings(result, size, p, shown, column)
            yield (f"**For {escaped(called)}, which is what was painted, over the {shown['image'].nunique()} "
                   f"test images that show it: {recommendation.advice(findings, p)}.**")


def unlearned(run: Run) -> Iterator[str]:
    """A sentence for each class at which networks of some repetitions fail, and those of others do not: real
    pairs alone, the largest set of chapter 7. Nothing where that is not finished."""
    result, classes = run.finished("augment"), run.params.data.classes
    if result is None or not recommendation.comparable(result):
        return
    size = int(result.images["size"].max())
    test_set = result.images["test_set"].iloc[0]
    columns = overlap.of_classes(len(classes)) or ["dice"]
    names = classes if len(classes) > 1 else [run.params.data.object_name]
    for place, (called, column) in enumerate(zip(names, columns, strict=True)):
        alone = _alone(showing(result, test_set, place), size)
        by_seed = alone.groupby("seed")[column].mean()
        if 0 < (failed := int((by_seed < LEARNED).sum())) < len(by_seed):
            yield (f"In {failed} of {counted(len(by_seed), 'repetition')} of chapter 7, networks trained on "
                   f"{size} real pairs alone fail at {escaped(called)} (a mean Dice below {LEARNED} over the "
                   "test images that show it): they miss it, or see it where it is not, which chapter 7's "
                   "detected objects and false alarms tell apart. Means, gains and intervals mix these with "
                   "networks that do not fail: train longer (`segment.epochs`), or repeat more often "
                   "(`augment.seeds`).")


def _alone(shown: pd.DataFrame, size: int) -> pd.DataFrame:
    """The rows of networks that were trained on so many real pairs alone."""
    return shown[(shown["data_type"] == REAL.name) & (shown["size"] == size)]


def weakest(result: Tested, test_set: str, size: float, p: Params) -> tuple[str, float]:
    """The painted class that networks trained on `size` real pairs alone (NaN: of chapter 6) find worst, and
    its mean Dice over the test images that show it; NaN where none shows one."""
    real = result.images["data_type"] == REAL.name
    dice = {}
    for place, (called, column) in enumerate(zip(p.data.classes, overlap.of_classes(len(p.data.classes)),
                                                 strict=True)):
        if called in (p.inpaint.classes or p.data.classes):
            shown = showing(result, test_set, place)
            mine = shown[real.loc[shown.index] & ((shown["size"] == size) | isnan(size))]
            dice[called] = float(mine[column].mean())
    return min(dice.items(), key=lambda one: (isnan(one[1]), one[1]))


def each_painted(result: Tested, p: Params) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each class that is painted, of several: its name, the column of its Dice, and the rows of the run's own
    test images that show it."""
    columns = overlap.of_classes(len(p.data.classes))
    for place, (called, column) in enumerate(zip(p.data.classes, columns, strict=False)):
        if called in (p.inpaint.classes or p.data.classes):
            yield called, column, showing(result, claims.own_test(result.images), place)


def showing(result: Tested, test_set: str, place: int) -> pd.DataFrame:
    """The rows of a test set's images that have at least one pixel of a class, by its place."""
    pairs = next(test.pairs for test in result.tests if test.name == test_set)
    names = [] if pairs is None else [
        name for name, mask in zip(pairs.names, pairs.masks, strict=True) if mask[place].any()]
    return result.images[(result.images["test_set"] == test_set) & result.images["image"].isin(names)]


def _seen(result: Tested, shown: pd.DataFrame, test_set: str, place: int, size: int) -> str:
    """How often networks trained on so many real pairs alone saw a class in images that are not `shown`,
    those with it: "4 of 18"; "" where every image shows it, or that is not known."""
    distances = result.details.distances
    without = (distances["test_set"] == test_set) & ~distances["image"].isin(shown["image"])
    tests = _alone(distances[without], size)
    column = f"{details.FALSE_ALARMS}_{place + 1}"
    alarms = tests[column].dropna() if column in tests else tests["image"][:0]
    return f"{int((alarms > 0).sum())} of {len(alarms)}" if len(alarms) else ""


def _of_real(run: Run, result: Tested, alone: pd.DataFrame, column: str) -> str:
    """As "0.597 [0.482, 0.703]", over these rows; "" where there are none."""
    if alone.empty:
        return ""
    how = run.params.segment.resamples, run.params.seed, result.groups_of(str(alone["test_set"].iloc[0]))
    known = intervals.interval(alone, column, *how).within(0, 1)
    return with_interval(known.mean, known.low, known.high)


def _gain(run: Run, result: Tested, shown: pd.DataFrame, one: Comparison, column: str) -> str:
    """As "+0.021 [+0.003, +0.040]: supported for these pasted pairs"."""
    asked = replace(one, claim=replace(one.claim, measure=column))
    verdict = recommendation.judged(result, shown, asked, run.params)
    numbers = "" if pd.isna(verdict.difference) else (
        f"{with_interval(verdict.difference, verdict.low, verdict.high, one.claim.digits)}: ")
    return f"{numbers}{verdict.words}"
