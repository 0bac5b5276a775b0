"""How many seeds or generators a comparison needs, and what gain a run can detect.

Both follow from the power of the interval by which `report/rule.py` judges, which includes the randomness of
the test images. Without that, it is the paired t-test's.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from scipy.stats import chi2

from diffusegen_core.config.text import counted

GAIN = 0.05  # in Dice: the difference to be detected
ALPHA, POWER = 0.05, 0.8  # two-sided level; probability of detecting the gain where there is one
CAUTION = 0.8  # the true deviation lies below the cautious one with this probability
MOST = 1000
LEAST_IMAGES, LEAST_SEEDS = 20, 3  # for a verdict
FEW_GROUPS = 10  # patients or sequences of the test images, below which intervals are wide
# Deviations of the difference in Dice between two networks of chapter 7: of seeds' means, and of images.
# From a run of kvasir_cpu (200 test images, five seeds, N = 16 and 32): 0.02 to 0.07, and 0.11 to 0.17.
OF_SEEDS, OF_IMAGES = 0.04, 0.14
# The same of generators' means, over one or two seeds each: 0.04 to 0.10 in the run of kvasir_cpu with three
# generators (styled pairs, filtered or not, N = 16 and 32).
OF_GENERATORS = 0.07
COARSE, FINE = 50, 400  # points of a double integral
HALVINGS = 16


class Error(NamedTuple):
    """The error of a mean over test images that their choice makes."""

    error: float
    """Its standard error."""
    stretch: float = 1.0
    """How many times as wide the verdict's interval takes it to be: more than once where whole groups of
    images are resampled, and these are few."""


def deviation(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The standard deviation of the differences of seeds or generators, and a cautious upper limit for it.

    The true deviation lies below the limit with probability CAUTION. A few differences say little about their
    own spread: for three the limit is more than twice the deviation. NaN where there are fewer than two.
    """
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan")
    value = float(np.std(differences, ddof=1))
    return value, value * float(np.sqrt((count - 1) / chi2.ppf(1 - CAUTION, count - 1)))


def visible(seeds: int, images: int, generators: int = 1) -> float:
    """The approximate gain in Dice that the verdict's interval detects with probability POWER.

    The spread is that of networks as small as kvasir_cpu's. Infinite with one seed, whose interval does not
    include the randomness of training. As in `intervals.of`, the means of several generators, among which the
    seeds are divided, take the place of the seeds: with three of them the interval is wide, however many
    seeds there are.
    """
    return smallest(*_assumed(seeds, images, generators))


def _assumed(seeds: int, images: int, generators: int) -> tuple[Error, float, int]:
    """The error by so many test images, the spread of seeds or generators, and how many of these there are,
    by an earlier run."""
    several = min(seeds, generators) > 1
    count, spread = (min(seeds, generators), OF_GENERATORS) if several else (seeds, OF_SEEDS)
    return Error(OF_IMAGES / np.sqrt(images)), spread, count


def smallest(images: Error, spread: float, count: int) -> float:
    """The gain in Dice that the verdict's interval detects with probability POWER.

    `images` is the error from the choice of test images, `spread` the deviation of the means of seeds or
    generators, and `count` how many there are. Infinite with fewer than two.
    """
    if count < 2:
        return float("inf")
    limits, error = _limits(images, spread, count)
    if not error:
        return 0.0
    most = float(limits.max()) + 5 * error
    return float(brentq(lambda gain: _power(gain, limits, error) - POWER, 0.0, most))


def needed(images: Error, spread: float, gain: float = GAIN) -> int | None:
    """The fewest seeds, at least two, whose interval detects a gain with POWER, or generators, where `spread`
    is the deviation of their means; None if above MOST, or not known. `images` as in `smallest`."""
    if not np.isfinite(spread) or _power(gain, *_limits(images, spread, MOST)) < POWER:
        return None
    low, high = 1, MOST
    while high - low > 1:  # more seeds never have less power
        middle = (low + high) // 2
        enough = _power(gain, *_limits(images, spread, middle)) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def plan(images: Error, spread: float, gain: float = GAIN) -> tuple[float, int | None]:
    """How many times as many test images detect a gain, and with how many seeds or generators, as `needed`.

    1.0 where the present images can. Where no number of seeds makes up for their error, it is twice the least
    that could, were there seeds without end: that few would take far too many. Groups of images have to
    become as many times more.
    """
    limit = images.stretch * ndtri(1 - ALPHA / 2) + ndtri(POWER)
    times, count = 2 * (images.error * limit / gain) ** 2, needed(images, spread, gain)
    if count is not None or times <= 1:
        return 1.0, count
    return times, needed(Error(images.error / np.sqrt(times), images.stretch), spread, gain)


class Own(NamedTuple):
    """What a run's own spread says, or that of an earlier one in its place."""

    gain: float
    """The least gain that it detects with POWER."""
    repeats: int
    """How many seeds or generators the run has."""
    times: float
    """How many times as many test images a gain of GAIN takes."""
    needed: int | None
    """With how many seeds or generators, by a run's own spread cautiously; None for more than MOST."""


def limit(seeds: int, images: int, generators: int, together: str = "", own: Own | None = None,
          measure: str = "Dice", of: str = "") -> str:
    """The gain that a run of so many seeds and test images will not detect, and what a gain of GAIN would
    take, as sentences; "" with one seed.

    `together`: what several of the images are of one of, as "patient"; "" where each is of another. `own`,
    the run's own spread, knows of this; None before a run has any, whose place an earlier run's takes. The
    gain is in `measure`; `of` says which test images these are, as " that show it".
    """
    assumed, spread_of, count = _assumed(seeds, images, generators)
    told = own or Own(smallest(assumed, spread_of, count), count, *plan(assumed, spread_of))
    if not np.isfinite(told.gain):
        return ""
    pairs_of = f" with the pairs of {counted(generators, 'generator')}" if generators > 1 else ""
    spread = " by the spread of this run's own results" if own is not None else ""
    takes = _takes(told, images, of, "generator" if generators > 1 else "repetition",
                   "the spread of an earlier run" if own is None else "the cautious estimate of chapter 7")
    higher = f"the limit is higher{', and such a gain takes more' if takes else ''}"
    several = (f" Several of these images are of one {together}, so {higher}."
               if together and own is None else "")
    tests = f"{counted(images, 'test image')}{of}"
    return (f"Gains in {measure} below about {told.gain:.2f} cannot be told from chance{spread}, with "
            f"{tests} and {counted(seeds, 'repetition')}{pairs_of}.{takes}{several}")


def _takes(own: Own, images: int, of: str, unit: str, by: str) -> str:
    """What a gain of GAIN would take, `by` which estimate, and what of it is lacking, a sentence; "" where
    that is nothing. `of`: what test images are counted, as " that show it"."""
    more_of = own.needed is None or own.needed > own.repeats
    count = f"more than {MOST} {unit}s" if own.needed is None else f"{counted(own.needed, unit)}"
    least = f"{ceil(own.times * images)} test images{of}"
    if own.times <= 1:
        took = f"{count}: more than this run has; its test images are enough" if more_of else ""
    else:
        took = (f"more of both: {least} and {count}, for example" if more_of else
                f"{least}: more than this run has; its {unit}s are enough")
    return f" A gain of {GAIN:g} would take {took} (by {by})." if took else ""


def generators_of(seeds: int, generators: int, sees: str) -> int:
    """How many generators made the pairs of so many seeds: where they see only a small set
    (augment.generator_sees: subset), each repetition has its own."""
    return seeds if sees == "subset" else min(seeds, generators)


def _power(gain: float, limits: np.ndarray, error: float) -> float:
    """The probability that the interval of an estimate with this standard error, half as wide as one of
    `limits`, which are equally likely, excludes 0."""
    if not error:
        return 1.0
    return float(np.mean(ndtr((gain - limits) / error) + ndtr((-gain - limits) / error)))


def _limits(images: Error, spread: float, count: int) -> tuple[np.ndarray, float]:
    """`_half_widths` for so many seeds or generators, and the standard error of their mean."""
    of_training = spread / np.sqrt(count)
    return (_half_widths(images.error * images.stretch, of_training, count - 1),
            float(np.hypot(images.error, of_training)))


def _half_widths(of_images: float, of_training: float, free: int) -> np.ndarray:
    """Half the width of the verdict's interval, for COARSE equally likely estimates of `of_training`.

    That is the standard error from `free` + 1 seeds or generators; `of_images` is that of the mean over
    images. Half the width is the 1 - ALPHA / 2 quantile of a normal error plus a Student's t error scaled by
    the estimate, the sum that `intervals.of` draws. The narrower of the two is taken at equally likely
    values.
    """
    if not of_training:
        return np.full(COARSE, ndtri(1 - ALPHA / 2) * of_images)
    even = (np.arange(COARSE) + 0.5) / COARSE
    estimates = of_training * np.sqrt(chi2.ppf(even, free) / free)
    alone = stdtrit(free, 1 - ALPHA / 2) * estimates
    if not of_images:
        return np.asarray(alone)
    fine = (np.arange(FINE) + 0.5) / FINE
    low, high = alone, alone + ndtri(1 - ALPHA / 2) * of_images
    for _ in range(HALVINGS):
        middle = ((low + high) / 2)[:, None]
        if of_images > of_training:
            below = ndtr((middle - stdtrit(free, fine) * estimates[:, None]) / of_images).mean(axis=1)
        else:
            below = stdtr(free, (middle - of_images * ndtri(even)) / estimates[:, None]).mean(axis=1)
        low, high = np.where(below < 1 - ALPHA / 2, (middle[:, 0], high), (low, middle[:, 0]))
    return high
