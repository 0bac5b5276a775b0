"""How many seeds a comparison needs: the power of the paired t-test, from the spread of their differences."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import chi2

GAIN = 0.05  # in Dice: the difference that is to be found
ALPHA, POWER = 0.05, 0.8  # two-sided; the chance to find it, where it is there
CAUTION = 0.8  # the true deviation lies below the cautious one with this probability
MOST = 1000
LEAST_IMAGES, LEAST_SEEDS = 20, 3  # of a verdict
# Deviations of the difference in Dice of two networks of chapter 7: of the means of seeds, and of images.
# From a run of kvasir_cpu (200 test images, five seeds, N = 16 and 32): 0.02 to 0.07, and 0.11 to 0.17.
OF_SEEDS, OF_IMAGES = 0.04, 0.14
STEPS = 2000  # of an integral


def deviation(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The standard deviation of the seeds' differences, and its upper limit with the probability CAUTION.

    Few seeds tell little of their own spread: of three the limit is more than twice the deviation. NaN where
    there are fewer than two.
    """
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan")
    value = float(np.std(differences, ddof=1))
    return value, value * float(np.sqrt((count - 1) / chi2.ppf(1 - CAUTION, count - 1)))


def visible(seeds: int, images: int) -> float:
    """The gain in Dice, about, that this many seeds and test images find with POWER, with the spread of
    networks as small as kvasir_cpu's."""
    error = np.sqrt(OF_SEEDS**2 / seeds + OF_IMAGES**2 / images)
    return float((ndtri(1 - ALPHA / 2) + ndtri(POWER)) * error)


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
    """The fewest seeds, at least two, with POWER to find a gain; None where more than MOST, or not known."""
    if not np.isfinite(spread):
        return None
    low, high = 1, MOST
    if power(high, gain, spread) < POWER:
        return None
    while high - low > 1:  # more seeds never have less power
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, gain, spread) >= POWER else (middle, high)
    return high
