"""The rule behind every verdict: what an interval says about a claim, and what several comparisons say.

An effect that is too small to matter does not support a claim, wherever its interval lies: [0.001, 0.007] and
[-0.001, 0.007] get the same verdict. Failing to find an effect does not count against a claim: only an
interval below 0 does, or one so narrow that it leaves no effect that matters.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import isnan, nan

from diffusegen_core.measures import power
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report.paperclaims import Claim

LEAST_IMAGES, LEAST_SEEDS = power.LEAST_IMAGES, power.LEAST_SEEDS
LEAST_GENERATORS = 3  # for a verdict on the method, and not on the pairs of one training alone
SMALLEST = 0.01  # the smallest difference in Dice or IoU that matters in practice
LEARNED = 0.1  # a network below this mean Dice or IoU does not segment
NEITHER = "Neither network segments"

SUPPORTED, REFUTED, NO_EFFECT = "supported", "refuted", "no practical effect"
UNDECIDED, TOO_LITTLE = "undecided", "too little data"
NOT_MADE = "not made yet"  # no verdict: the chapter whose results are compared has still to be run
RULE = {
    TOO_LITTLE: f"There are fewer than {LEAST_IMAGES} test images or {LEAST_SEEDS} seeds; or a data type or "
                f"test set is absent; or all test images are of one sequence, centre or patient; or neither "
                f"network reaches a mean of {LEARNED}. Seeds at which neither does are left out if there are "
                "others.",
    NO_EFFECT: "Otherwise, the claim is that something helps, and the 95 % interval of the difference lies "
               f"wholly between -{SMALLEST} and +{SMALLEST}, whether or not it contains 0: any effect is too "
               "small to matter.",
    SUPPORTED: "Otherwise, the interval lies above 0.",
    REFUTED: "Otherwise, it lies below 0: the reverse of the claim.",
    UNDECIDED: "Otherwise: it contains both 0 and differences that matter.",
}
SEVERAL = ("A claim is refuted if one of its comparisons is, has no practical effect if one of them has "
           "none, and is supported if all are; otherwise some are not made yet, there is too little data, or "
           "it is undecided. "
           "Intervals are not widened for the number of comparisons: the more there are, the harder it is "
           "for a claim to be supported, and the easier to be refuted by chance.")
GROUPS = ("Frames of one sequence, and images of one centre or patient, are resampled together where a test "
          "set or data.patients says which they are, because they are alike.")
THESE_PAIRS = "for these pairs"
SCOPE = (f"Where fewer than {LEAST_GENERATORS} generators have made the pairs, a verdict is {THESE_PAIRS}: "
         "another training of the generator might reverse it.")
THESE_PASTED = "for these pasted pairs"
SCOPE_PASTED = ("Objects are pasted once for all repetitions, without a model: a verdict on pasted pairs is "
                f"{THESE_PASTED}, and other objects and places might reverse it.")
WORST_FIRST = (REFUTED, NO_EFFECT, NOT_MADE, TOO_LITTLE, UNDECIDED, SUPPORTED)


@dataclass(frozen=True)
class Verdict:
    """One comparison and what it says about a claim. Numbers are NaN, and counts 0, where there are none."""

    claim: Claim
    comparison: str
    """As "20-Styled-Diff-3 against GAN-3"."""
    test_set: str
    published: float = nan
    """The paper's own difference, NaN where it lacks exactly these data types and numbers of pairs."""
    means: tuple[float, float] = (nan, nan)
    """The mean measure of each of the two, over the seeds and images that both have."""
    difference: float = nan
    low: float = nan
    high: float = nan
    images: int = 0
    seeds: int = 0
    generators: int = 0
    """How many generators made the pairs that the seeds took; 0 where that is not known."""
    verdict: str = TOO_LITTLE
    reason: str = ""
    """A sentence."""
    chapter: str = "segment"
    """The chapter whose results are compared."""
    in_words: str = ""
    """The comparison for a reader who does not know the names of the data types; "" where there is none."""
    scope: str = ""
    """What the verdict is limited to, in words that follow it, as "for these pairs"; "" without a limit."""

    @property
    def words(self) -> str:
        """The verdict with what it is limited to."""
        return f"{self.verdict} {self.scope}".strip()


def decide(gain: Interval, best: float, helps: bool = True, failed: int = 0) -> tuple[str, str]:
    """The verdict by `RULE` and its reason, from a paired difference and the best mean of what was compared.
    `failed` more seeds, at which both networks fail, are in neither: they say nothing about the data.

    `helps`: whether the claim is that something helps, so that an effect too small to matter is NO_EFFECT.
    """
    if gain.images < LEAST_IMAGES:
        return TOO_LITTLE, f"Test images in common: {gain.images}, fewer than {LEAST_IMAGES}."
    if failed and gain.seeds < LEAST_SEEDS:
        return TOO_LITTLE, (f"{NEITHER} in {failed} of {gain.seeds + failed} repetitions, "
                            f"which leaves fewer than {LEAST_SEEDS}.")
    if gain.seeds < LEAST_SEEDS:
        return TOO_LITTLE, (f"Seeds in common: {gain.seeds}, fewer than {LEAST_SEEDS}: too few to tell an "
                            "effect of the data from chance in training.")
    if isnan(gain.low):
        return TOO_LITTLE, ("The test images are all of one sequence, centre or patient, which says "
                            "nothing about others.")
    if best < LEARNED:
        return TOO_LITTLE, f"{NEITHER}: the better mean is {best:.3f}."
    verdict, reason = _by_interval(gain, helps)
    left_out = (f" Left out: {failed} of {gain.seeds + failed} repetitions, in which neither network "
                "segments." if failed else "")
    return verdict, f"{reason}{left_out}"


def _by_interval(gain: Interval, helps: bool) -> tuple[str, str]:
    """The verdict on enough data, and its reason."""
    if helps and gain.low > -SMALLEST and gain.high < SMALLEST:
        return NO_EFFECT, f"The interval lies within {SMALLEST} of 0."
    if gain.low > 0:
        least = "" if gain.low >= SMALLEST or not helps else f" Whether it reaches {SMALLEST} is open."
        return SUPPORTED, f"The interval lies above 0.{least}"
    if gain.high < 0:
        return REFUTED, "The interval lies below 0: the reverse of the claim."
    if gain.high < SMALLEST and helps:
        return UNDECIDED, f"The interval contains 0; it excludes a gain of {SMALLEST} or more, not a loss."
    return UNDECIDED, "The interval contains both 0 and differences that matter."


def needs(one: Verdict) -> str:
    """What a verdict would need, where there was too little data."""
    if one.images < LEAST_IMAGES:
        return f"a verdict needs {LEAST_IMAGES} images"
    if one.seeds < LEAST_SEEDS:
        sound = " in which a network segments" if one.reason.startswith(NEITHER) else ""
        return f"a verdict needs {LEAST_SEEDS} repetitions ({one.chapter}.seeds){sound}"
    return ("the test images are of one sequence, centre or patient" if isnan(one.low)
            else "neither network segments")


def joined(verdicts: Collection[str]) -> str:
    """The verdict on a claim from those on its comparisons, as `SEVERAL` says."""
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), TOO_LITTLE)
