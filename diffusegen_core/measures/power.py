"""How many seeds or generators a comparison needs, and what gain a run can find.

The former is the power of the paired t-test, from the spread of the differences; the latter that of the
interval by which `report/rule.py` judges, which holds the chance of the test images as well.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from scipy.stats import chi2

GAIN = 0.05  # in Dice: the difference that is to be found
ALPHA, POWER = 0.05, 0.8  # two-sided; the chance to find it, where it is there
CAUTION = 0.8  # the true deviation lies below the cautious one with this probability
MOST = 1000
LEAST_IMAGES, LEAST_SEEDS = 20, 3  # of a verdict
# Deviations of the difference in Dice of two networks of chapter 7: of the means of seeds, and of images.
# From a run of kvasir_cpu (200 test images, five seeds, N = 16 and 32): 0.02 to 0.07, and 0.11 to 0.17.
OF_SEEDS, OF_IMAGES = 0.04, 0.14
# The same of the means of generators, of one or two seeds each: 0.04 to 0.10 in the run of kvasir_cpu with
# three generators (styled pairs, filtered or not, N = 16 and 32).
OF_GENERATORS = 0.07
STEPS, COARSE = 2000, 100  # of an integral; of a double one, in each direction
HALVINGS = 40


def deviation(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The standard deviation of the differences of seeds or generators, and its upper limit with the
    probability CAUTION.

    Few of them tell little of their own spread: of three the limit is more than twice the deviation. NaN
    where there are fewer than two.
    """
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan")
    value = float(np.std(differences, ddof=1))
    return value, value * float(np.sqrt((count - 1) / chi2.ppf(1 - CAUTION, count - 1)))


def visible(seeds: int, images: int, generators: int = 1) -> float:
    """The gain in Dice, about, that the verdict's interval finds with POWER, with the spread of networks as
    small as kvasir_cpu's; infinite with one seed, whose interval knows nothing of the chance of training.

    As in `intervals.of`, the means of several generators, among which the seeds are shared out, take the
    place of the seeds: with three of them the interval is wide, however many seeds there are.
    """
    several = min(seeds, generators) > 1
    count, spread = (min(seeds, generators), OF_GENERATORS) if several else (seeds, OF_SEEDS)
    if count < 2:
        return float("inf")
    of_images, of_training = OF_IMAGES / np.sqrt(images), spread / np.sqrt(count)
    limits = _half_widths(of_images, of_training, count - 1)
    error = float(np.hypot(of_images, of_training))

    def lacking(gain: float) -> float:
        return POWER - float(np.mean(ndtr((gain - limits) / error) + ndtr((-gain - limits) / error)))

    return float(brentq(lacking, 0.0, float(limits.max()) + 5 * error))


def _half_widths(of_images: float, of_training: float, free: int) -> np.ndarray:
    """Half the width of the verdict's interval, for COARSE equally likely estimates of `of_training`, the
    standard error from `free` + 1 seeds or generators; `of_images` is that of the mean over images.

    It is where the sum of a normal error and of Student's t, scaled by the estimate, has 1 - ALPHA / 2 of its
    probability below it; `intervals.of` draws that sum.
    """
    even = (np.arange(COARSE) + 0.5) / COARSE
    estimates = of_training * np.sqrt(chi2.ppf(even, free) / free)
    normal = of_images * ndtri(even)
    low = np.zeros(COARSE)
    high = ndtri(1 - ALPHA / 2) * of_images + stdtrit(free, 1 - ALPHA / 2) * estimates
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = stdtr(free, (middle[:, None] - normal) / estimates[:, None]).mean(axis=1)
        low, high = np.where(below < 1 - ALPHA / 2, (middle, high), (low, middle))
    return high


def power(seeds: int, gain: float, spread: float) -> float:
    """The chance that a two-sided paired t-test at ALPHA finds a gain, with differences of this deviation."""
    if spread == 0:
        return 1.0
    free, shift = seeds - 1, gain / spread * np.sqrt(seeds)
    # Over the deviation that the test estimates; SciPy's noncentral t fails where the shift is large.
    estimates = np.sqrt(chi2.ppf((np.arange(STEPS) + 0.5) / STEPS, free) / free)
    limits = stdtrit(free, 1 - ALPHA / 2) * estimates
    return float(np.mean(ndtr(shift - limits) + ndtr(-shift - limits)))


def seeds_needed(spread: float, gain: float = GAIN) -> int | None:
    """The fewest seeds, at least two, with POWER to find a gain; None where more than MOST, or not known.

    Of generators, where `spread` is the deviation of their means.
    """
    if not np.isfinite(spread):
        return None
    low, high = 1, MOST
    if power(high, gain, spread) < POWER:
        return None
    while high - low > 1:  # more seeds never have less power
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, gain, spread) >= POWER else (middle, high)
    return high
