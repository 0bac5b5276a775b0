"""The paper's claims about segmentation, judged from a run's own results, never by hand.

A comparison is of two data types on one test set: the difference in polyp Dice, with its 95 % interval, over
the seeds and images that both have. Each comparison is judged for itself, as `RULE` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isnan, nan

import pandas as pd

from diffusegen_core import augment, intervals, published, segment
from diffusegen_core.intervals import Interval
from diffusegen_core.params import Params

LEAST_IMAGES, LEAST_SEEDS = 20, 3
SMALLEST = 0.01  # the smallest difference in Dice that anybody would care for
LEARNED = 0.1  # a network below this mean Dice does not segment

SUPPORTED, NOT_SUPPORTED, TOO_LITTLE = "supported", "not supported", "too little data"
RULE = ("Supported: the 95 % interval of the difference in polyp Dice lies above 0. Not supported: "
        f"otherwise, it lies below {SMALLEST}, the smallest difference of interest, so that what was claimed "
        "is absent, too small to matter, or the reverse. Too little data: the interval holds both 0 and "
        f"{SMALLEST}; or there are fewer than {LEAST_IMAGES} test images or {LEAST_SEEDS} seeds; or a data "
        f"type or test set is absent; or neither network reaches a mean Dice of {LEARNED}.")

SYNTHETIC = ("Trained entirely on the pipeline's synthetic pairs, segmentation is better than trained on the "
             "GAN's (abstract, section 3.3.1).")
STYLING = "Styling consistently improves segmentation trained on the synthetic pairs (section 3.3.1)."
TRANSFER = "The improvement over the GAN persists on different datasets (abstract)."
SMALL = ("Small sets of real pairs give better segmentation when synthetic pairs augment them than with "
         "standard augmentation alone (section 3.3.2).")

REAL, GAN, DIFF, STYLED = "Real", "GAN", "Diff", "Styled-Diff"
PAPERS_OWN = "HyperKvasir"
TRANSFERS = ("CVC-ClinicDB", "PolypGen")
FIXED_R = {1: "B5", 2: "B6", 3: "B7"}  # r -> the paper's table of small sets


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
    verdict: str = TOO_LITTLE
    reason: str = ""
    """A sentence."""


def of(p: Params) -> list[Verdict]:
    """The verdicts on a run, from its chapters 6 and 7; whatever is not there yet is made first."""
    images = [segment.run(p).images, augment.run(p).images]
    return judge(pd.concat([frame for frame in images if len(frame)] or images), p.segment.resamples, p.seed)


def judge(images: pd.DataFrame, resamples: int, seed: int) -> list[Verdict]:
    """Every comparison behind the claims, from `Results.images` of chapters 6 and 7, joined or alone.

    The first three claims compare, in chapter 6, at the largest number of pairs a source that both data types
    have; the third has a verdict for each transfer test set. If chapter 7 has results, a fourth compares the
    largest r with Real for each number of real pairs.
    """
    images = images.assign(kind=images["data_type"].map(published.kind))
    full, small = (images[images["chapter"] == chapter] for chapter in ("segment", "augment"))
    own = _own(images)
    asked = [(SYNTHETIC, GAN, own), (STYLING, DIFF, own), *((TRANSFER, GAN, name) for name in TRANSFERS)]
    found = [_full(full, claim, other, test_set, resamples, seed) for claim, other, test_set in asked]
    return found + list(_small(small, own, resamples, seed))


def overall(verdicts: list[Verdict]) -> dict[str, str]:
    """One verdict a claim: supported if every comparison supports it, not supported if any does not."""
    found = {}
    for claim in dict.fromkeys(v.claim for v in verdicts):
        several = {v.verdict for v in verdicts if v.claim == claim}
        found[claim] = next(v for v in (NOT_SUPPORTED, TOO_LITTLE, SUPPORTED) if v in several)
    return found


def describe(verdicts: list[Verdict]) -> str:
    """The verdicts in plain text."""
    lines = []
    for claim, verdict in overall(verdicts).items():
        lines.append(f"{claim} {verdict.capitalize()}.")
        lines += [f"  {v.comparison} on {v.test_set}: {v.reason}" for v in verdicts if v.claim == claim]
    return "\n".join([*lines, RULE])


def _own(images: pd.DataFrame) -> str:
    """The test set of the training data's own kind, whatever this run calls it."""
    return next((name for name in images["test_set"].unique() if name not in TRANSFERS), PAPERS_OWN)


def _full(images: pd.DataFrame, claim: str, other: str, test_set: str, resamples: int, seed: int) -> Verdict:
    """Styled-Diff-N against another kind: N is the largest that both have."""
    names, arms = zip(*(_arm(images, kind) for kind in (STYLED, other)), strict=True)
    both = set(arms[0]["samples"]) & set(arms[1]["samples"])
    n = max(both or images["samples"].dropna(), default=0)
    names = [f"{name}-{n}" if n else name for name in names]
    arms = [arm[arm["samples"] == n] for arm in arms]
    paper = [_published("2", f"{kind}-{n}", test_set) for kind in (STYLED, other)]
    asked = Verdict(claim, " against ".join(names), test_set, paper[0] - paper[1])
    return _judged(asked, names, arms, images, resamples, seed)


def _small(images: pd.DataFrame, test_set: str, resamples: int, seed: int) -> Iterator[Verdict]:
    """Styled-Diff at the largest r against Real, for each number of real pairs."""
    for size, rows in images.groupby("size"):
        (name, styled), (_, real) = (_arm(rows, kind) for kind in (STYLED, REAL))
        r = max(styled["ratio"], default=0)
        names = [f"{name} (r = {r})" if r else name, REAL]
        paper = [_published(FIXED_R.get(r), kind, test_set, size)
                 for kind in (name, f"20-{STYLED}", REAL)]
        gain = (paper[1] if isnan(paper[0]) else paper[0]) - paper[2]
        asked = Verdict(SMALL, f"{' against '.join(names)}, {size} real pairs", test_set, gain)
        yield _judged(asked, names, [styled[styled["ratio"] == r], real], rows, resamples, seed)


def _judged(asked: Verdict, names: list[str], arms: list[pd.DataFrame], images: pd.DataFrame, resamples: int,
            seed: int) -> Verdict:
    """The verdict, with its numbers, on the first of two arms against the second."""
    arms = [arm[arm["test_set"] == asked.test_set] for arm in arms]
    if asked.test_set not in set(images["test_set"]):
        return replace(asked, reason=f"The results have no test set {asked.test_set}.")
    absent = [name for name, arm in zip(names, arms, strict=True) if arm.empty]
    if absent:
        return replace(asked, reason=f"The results have no {' and no '.join(absent)}.")
    common = arms[0].merge(arms[1], on=["seed", "image"])
    dice = tuple(float(common[column].mean()) for column in ("dice_x", "dice_y"))
    gain = intervals.paired(*arms, "dice", resamples, seed)
    verdict, reason = decide(gain, max(dice))
    return replace(asked, dice=dice, difference=gain.mean, low=gain.low, high=gain.high, images=gain.images,
                   seeds=gain.seeds, verdict=verdict, reason=reason)


def decide(gain: Interval, best: float) -> tuple[str, str]:
    """The verdict by `RULE` and its reason, from a paired difference and the better mean Dice."""
    if gain.images < LEAST_IMAGES:
        return TOO_LITTLE, f"{gain.images} test images in common are fewer than {LEAST_IMAGES}."
    if gain.seeds < LEAST_SEEDS:
        return TOO_LITTLE, (f"{gain.seeds} seed in common is fewer than {LEAST_SEEDS}: nothing tells the "
                            "chance of training from the data.")
    if best < LEARNED:
        return TOO_LITTLE, f"Neither network segments: the better mean Dice is {best:.3f}."
    numbers = f"The difference is {gain.mean:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.low > 0:
        return SUPPORTED, f"{numbers}: above 0."
    if gain.high < 0:
        return NOT_SUPPORTED, f"{numbers}: below 0, the reverse of the claim."
    if gain.high < SMALLEST:
        return NOT_SUPPORTED, f"{numbers}: not as much as {SMALLEST}."
    return TOO_LITTLE, f"{numbers}: it holds both 0 and differences that matter."


def _arm(images: pd.DataFrame, kind: str) -> tuple[str, pd.DataFrame]:
    """The data type of a kind that the run has, with its cluster count, and its rows."""
    rows = images[images["kind"] == kind]
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
