"""Claims about segmentation, the paper's and a sceptic's, judged from a run's own results, never by hand.

A comparison is of two data types on one test set: the difference in polyp Dice, with its 95 % interval, over
the seeds and images that both have. Each comparison is judged for itself, as `RULE` says.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from math import isnan, nan

import pandas as pd

from diffusegen_core.data.types import DIFF, GAN, PAINT, PASTE, REAL, STYLED, STYLED_PAINT, DataType
from diffusegen_core.measures import intervals
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report import published
from diffusegen_core.run import Run
from diffusegen_core.segmentation.experiments import FIELDS, IMAGE

LEAST_IMAGES, LEAST_SEEDS = 20, 3
LEAST_GENERATORS = 3  # for a verdict on the method, and not on the pairs of one training alone
SMALLEST = 0.01  # the smallest difference in Dice that anybody would care for
LEARNED = 0.1  # a network below this mean Dice does not segment

SUPPORTED, NOT_SUPPORTED, TOO_LITTLE = "supported", "not supported", "too little data"
RULE = {
    SUPPORTED: "The 95 % interval of the difference in polyp Dice lies above 0.",
    NOT_SUPPORTED: f"Otherwise, it lies below {SMALLEST}, the smallest difference of interest: what was "
                   "claimed is absent, too small to matter, or the reverse.",
    TOO_LITTLE: f"It holds both 0 and {SMALLEST}; or there are fewer than {LEAST_IMAGES} test images or "
                f"{LEAST_SEEDS} seeds; or a data type or test set is absent; or neither network reaches a "
                f"mean Dice of {LEARNED}.",
}
SEVERAL = ("A claim is supported if all its comparisons are, not supported if any is not, and otherwise "
           "there is too little data. Intervals are not widened for the number of comparisons: the more "
           "there are, the harder it is to be supported, and the easier to be refuted by chance.")
SCOPE = (f"Where fewer than {LEAST_GENERATORS} generators have made the pairs, a verdict is for these pairs: "
         "another training of the generator might reverse it.")

SYNTHETIC = ("Trained entirely on the pipeline's synthetic pairs, segmentation is better than trained on the "
             "GAN's (abstract, section 3.3.1).")
STYLING = "Styling consistently improves segmentation trained on the synthetic pairs (section 3.3.1)."
TRANSFER = "The improvement over the GAN persists on different datasets (abstract)."
SMALL = ("Small sets of real pairs give better segmentation when synthetic pairs augment them than with "
         "standard augmentation alone (section 3.3.2).")
PASTING = ("Painted pairs give better segmentation than real lesions pasted into other pictures, the "
           "baseline that needs no model (not in the paper).")

PAPERS_OWN = "HyperKvasir"
TRANSFERS = ("CVC-ClinicDB", "PolypGen")
SMALL_SETS = {1: "B5", 2: "B6", 3: "B7"}  # r -> the paper's table
CHAPTERS = {"segment": 6, "augment": 7}
AMOUNTS = {"segment": "samples", "augment": "size"}  # by which a chapter's networks are compared
GIVEN_FOR = {DIFF: PAINT, STYLED: STYLED_PAINT}  # what stands for them where masks are given


@dataclass(frozen=True)
class Verdict:
    """One comparison and what it says of a claim. Numbers are NaN, and counts 0, where there are none."""

    claim: str
    comparison: str
    """As "20-Styled-Diff-3 against GAN-3"."""
    test_set: str
    published: float
    """The paper's difference in its column Dice Score, of 20 clusters where it has none of this run's."""
    dice: tuple[float, float] = (nan, nan)
    """Mean polyp Dice of the two, over what both have."""
    difference: float = nan
    low: float = nan
    high: float = nan
    images: int = 0
    seeds: int = 0
    generators: int = 0
    """Whose pairs the seeds took; 0 where none is known."""
    verdict: str = TOO_LITTLE
    reason: str = ""
    """A sentence."""
    chapter: str = "segment"
    """Whose networks are compared: a key of CHAPTERS."""


def of(run: Run) -> list[Verdict]:
    """The verdicts on a run, from what its chapters 6 and 7 have found so far; nothing is made."""
    grids = {chapter: run.finished(chapter) for chapter in CHAPTERS}
    unfinished = [chapter for chapter, grid in grids.items() if grid is None or not grid.complete]
    frames = [grid.images for grid in grids.values() if grid is not None and len(grid.images)]
    images = pd.concat(frames) if frames else pd.DataFrame(columns=[*FIELDS, *IMAGE])
    return judge(images, run.params.segment.resamples, run.params.seed, unfinished)


def judge(images: pd.DataFrame, resamples: int, seed: int, unfinished: Collection[str] = ()) -> list[Verdict]:
    """Every comparison behind the claims, from `Results.images` of chapters 6 and 7, joined or alone.

    The first three claims compare, in chapter 6, for every number of pairs a source that both data types
    have: on the run's own test set, on all that there are, on the transfer sets. The fourth compares, in
    chapter 7, the largest r with Real for each number of real pairs. The last compares, in both chapters and
    for each of these numbers, the best painted type with Paste. Where there is nothing to compare, one
    verdict says what is missing. `unfinished` names the chapters that have still to be run.
    """
    images = images.assign(kind=images["data_type"].map(published.kind))
    full, small = (images[images["chapter"] == chapter] for chapter in CHAPTERS)
    own, there = _own(images), set(full["test_set"])
    transfers = [name for name in TRANSFERS if name in there]
    asked = [(SYNTHETIC, GAN.name, [own]), (STYLING, DIFF, [own, *transfers]),
             (TRANSFER, GAN.name, TRANSFERS)]
    found = [verdict for claim, other, tests in asked for test_set in tests
             for verdict in _full(full, claim, other, test_set, resamples, seed)]
    found += _small(small, own, resamples, seed)
    found += _pasting(images, own, resamples, seed)
    for chapter in unfinished:
        found = [_unfinished(verdict, chapter, images) for verdict in found]
    return found


def scope(verdicts: Collection[Verdict]) -> str:
    """What follows the verdicts in words: of how much they are, where that is less than the method."""
    judged = [v for v in verdicts if v.verdict != TOO_LITTLE]
    return " for these pairs" if any(v.generators < LEAST_GENERATORS for v in judged) else ""


def overall(verdicts: list[Verdict]) -> dict[str, str]:
    """One verdict a claim: supported if every comparison supports it, not supported if any does not."""
    found = {}
    for claim in dict.fromkeys(v.claim for v in verdicts):
        several = {v.verdict for v in verdicts if v.claim == claim}
        found[claim] = next(v for v in (NOT_SUPPORTED, TOO_LITTLE, SUPPORTED) if v in several)
    return found


def _own(images: pd.DataFrame) -> str:
    """The test set of the training data's own kind, whatever this run calls it."""
    return next((name for name in images["test_set"].unique() if name not in TRANSFERS), PAPERS_OWN)


def _full(images: pd.DataFrame, claim: str, other: str, test_set: str, resamples: int,
          seed: int) -> Iterator[Verdict]:
    """Styled-Diff-N against another kind, for every N that both have on the test set."""
    types, arms = zip(*(_arm(images, kind) for kind in (STYLED, other)), strict=True)
    here = [set(arm.loc[arm["test_set"] == test_set, "samples"]) for arm in arms]
    for n in sorted(here[0] & here[1]) or [max(images["samples"].dropna(), default=0)]:
        names = [f"{name}-{n}" if n else name for name in types]
        paper = [_published("2", f"{kind}-{n}", test_set) for kind in (STYLED, other)]
        asked = Verdict(claim, " against ".join(names), test_set, paper[0] - paper[1])
        yield _judged(asked, names, [arm[arm["samples"] == n] for arm in arms], images, resamples, seed)


def _small(images: pd.DataFrame, test_set: str, resamples: int, seed: int) -> Iterator[Verdict]:
    """Styled-Diff at the largest r against Real, for each number of real pairs."""
    if images.empty:
        yield Verdict(SMALL, f"{STYLED} against {REAL}", test_set, nan,
                      reason="The results have no small set.", chapter="augment")
    for size, rows in images.groupby("size"):
        (name, styled), (_, real) = (_arm(rows, kind) for kind in (STYLED, REAL.name))
        r = max(styled["ratio"], default=0)
        names = [f"{name} (r = {r})" if r else name, REAL.name]
        paper = [_published(SMALL_SETS.get(r), kind, test_set, size)
                 for kind in (name, f"20-{STYLED}", REAL.name)]
        gain = (paper[1] if isnan(paper[0]) else paper[0]) - paper[2]
        asked = Verdict(SMALL, f"{' against '.join(names)}, {size} real pairs", test_set, gain,
                        chapter="augment")
        yield _judged(asked, names, [styled[styled["ratio"] == r], real], rows, resamples, seed)


def _pasting(images: pd.DataFrame, test_set: str, resamples: int, seed: int) -> Iterator[Verdict]:
    """The best painted type against Paste, wherever both have the same numbers of pairs.

    That the test images choose the best one favours painting.
    """
    rows = images[images["test_set"] == test_set]
    painted = rows[rows["data_type"].map(lambda name: DataType.parse(name).is_painted).astype(bool)]
    pasted = rows[rows["data_type"] == PASTE.name]
    compared = False
    for chapter, numbers, rest, arms in _alike(painted, pasted):
        best, compared = str(arms[0].groupby("data_type")["dice"].mean().idxmax()), True
        names = [f"{name}{numbers}" for name in (best, PASTE.name)]
        asked = Verdict(PASTING, f"{' against '.join(names)}{rest}", test_set, nan, chapter=chapter)
        yield _judged(asked, names, [arms[0][arms[0]["data_type"] == best], arms[1]], images, resamples, seed)
    if not compared:
        absent = [name for name, arm in (("painted type", painted), (PASTE.name, pasted)) if arm.empty]
        yield Verdict(PASTING, f"painted pairs against {PASTE}", test_set, nan, reason=(
            f"The results have no {' and no '.join(absent) or 'numbers of pairs that both have'}."))


def _alike(painted: pd.DataFrame, pasted: pd.DataFrame) -> Iterator[tuple[str, str, str, list[pd.DataFrame]]]:
    """What can be compared of two: the chapter, the numbers of pairs in words, for a name and after it, and
    the rows of both. Of a small set that is the largest r that both have."""
    for chapter, amount in AMOUNTS.items():
        arms = [arm[arm["chapter"] == chapter] for arm in (painted, pasted)]
        for n in sorted(set.intersection(*(set(arm[amount].dropna()) for arm in arms))):
            here = [arm[arm[amount] == n] for arm in arms]
            if chapter == "segment":
                yield chapter, f"-{n}", "", here
            elif ratios := set.intersection(*(set(arm["ratio"].dropna()) for arm in here)):
                r = max(ratios)
                yield chapter, f" (r = {r})", f", {n} real pairs", [arm[arm["ratio"] == r] for arm in here]


def _unfinished(verdict: Verdict, chapter: str, images: pd.DataFrame) -> Verdict:
    """The verdict, with what its reader is to do if it rests on a chapter that is not finished."""
    if chapter != verdict.chapter:
        return verdict
    if not (images["chapter"] == chapter).any():
        return replace(verdict, reason=f"Not there yet: run chapter {CHAPTERS[chapter]}.")
    return replace(verdict, reason=f"{verdict.reason} Some results are not there yet: run chapter "
                                   f"{CHAPTERS[chapter]}.")


def _judged(asked: Verdict, names: list[str], arms: list[pd.DataFrame], images: pd.DataFrame, resamples: int,
            seed: int) -> Verdict:
    """The verdict, with its numbers, on the first of two arms against the second."""
    arms = [arm[arm["test_set"] == asked.test_set] for arm in arms]
    first, second = arms
    if asked.test_set not in set(images["test_set"]):
        return replace(asked, reason=f"The results have no test set {asked.test_set}.")
    absent = [name for name, arm in zip(names, arms, strict=True) if arm.empty]
    if absent:
        return replace(asked, reason=f"The results have no {' and no '.join(absent)}.")
    common = first.merge(second, on=["seed", "image"])
    dice = float(common["dice_x"].mean()), float(common["dice_y"].mean())
    gain = intervals.paired(first, second, "dice", resamples, seed)
    verdict, reason = decide(gain, max(dice))
    return replace(asked, dice=dice, difference=gain.mean, low=gain.low, high=gain.high, images=gain.images,
                   seeds=gain.seeds, generators=gain.generators, verdict=verdict, reason=reason)


def decide(gain: Interval, best: float) -> tuple[str, str]:
    """The verdict by `RULE` and its reason, from a paired difference and the better mean Dice."""
    if gain.images < LEAST_IMAGES:
        return TOO_LITTLE, f"Test images in common: {gain.images}, fewer than {LEAST_IMAGES}."
    if gain.seeds < LEAST_SEEDS:
        return TOO_LITTLE, (f"Seeds in common: {gain.seeds}, fewer than {LEAST_SEEDS}: too few to tell the "
                            "chance of training from the data.")
    if best < LEARNED:
        return TOO_LITTLE, f"Neither network segments: the better mean Dice is {best:.3f}."
    if gain.low > 0:
        return SUPPORTED, "The interval lies above 0."
    if gain.high < 0:
        return NOT_SUPPORTED, "The interval lies below 0: the reverse of the claim."
    if gain.high < SMALLEST:
        return NOT_SUPPORTED, f"The interval lies below {SMALLEST}."
    return TOO_LITTLE, "The interval holds both 0 and differences that matter."


def _arm(images: pd.DataFrame, kind: str) -> tuple[str, pd.DataFrame]:
    """The data type of a kind that the run has, with its cluster count, and its rows: of a run whose masks
    were given, the Paint that stands for the paper's Diff."""
    rows = images[images["kind"].isin([kind, GIVEN_FOR.get(kind)])]
    name = kind if rows.empty else rows["data_type"].iloc[0]
    return name, rows[rows["data_type"] == name]


def _published(table: str | None, data_type: str, test_set: str, n: int | None = None) -> float:
    """The paper's Dice Score, NaN where it has none. Its own test set stands beside whatever ours is."""
    if table is None:
        return nan
    rows = published.table(table).query("data_type == @data_type and metric == 'Dice Score'")
    rows = rows[rows["test_set"] == (test_set if test_set in TRANSFERS else PAPERS_OWN)]
    rows = rows if n is None else rows[rows["n"] == n]
    return float(rows["value"].iloc[0]) if len(rows) else nan
