"""How many seeds or generators a comparison needs, and what gain a run can detect.

The former follows from the power of the paired t-test, given the spread of the differences; the latter from
that of the interval by which `report/rule.py` judges, which includes the randomness of the test images.
"""

from collections.abc import Sequence

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
# Deviations of the difference in Dice between two networks of chapter 7: of seeds' means, and of images.
# From a run of kvasir_cpu (200 test images, five seeds, N = 16 and 32): 0.02 to 0.07, and 0.11 to 0.17.
OF_SEEDS, OF_IMAGES = 0.04, 0.14
# The same of generators' means, over one or two seeds each: 0.04 to 0.10 in the run of kvasir_cpu with three
# generators (styled pairs, filtered or not, N = 16 and 32).
OF_GENERATORS = 0.07
STEPS, COARSE = 2000, 100  # points of an integral; of a double one, in each direction
HALVINGS = 40


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


def limit(seeds: int, images: int, generators: int, together: str = "") -> str:
    """The gain that a run of so many seeds and test images will not detect, a sentence; "" with one seed.

    `together`: what several of the images are of one of, as "patient"; "" where each is of another.
    """
    gain = visible(seeds, images, generators)
    if not np.isfinite(gain):
        return ""
    pairs_of = f" with the pairs of {counted(generators, 'generator')}" if generators > 1 else ""
    several = f" Several of these images are of one {together}, so the limit is higher." if together else ""
    return (f"Gains in Dice below about {gain:.2f} cannot be told from chance, with "
            f"{counted(images, 'test image')} and {counted(seeds, 'repetition')}{pairs_of}.{several}")


def generators_of(seeds: int, generators: int, sees: str) -> int:
    """How many generators made the pairs of so many seeds: where they see only a small set
    (augment.generator_sees: subset), each repetition has its own."""
    return seeds if sees == "subset" else min(seeds, generators)


def _half_widths(of_images: float, of_training: float, free: int) -> np.ndarray:
    """Half the width of the verdict's interval, for COARSE equally likely estimates of `of_training`.

    That is the standard error from `free` + 1 seeds or generators; `of_images` is that of the mean over
    images. Half the width is the 1 - ALPHA / 2 quantile of a normal error plus a Student's t error scaled by
    the estimate, the sum that `intervals.of` draws.
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
    """The probability that a two-sided paired t-test at ALPHA detects a gain; `spread` of the differences."""
    if spread == 0:
        return 1.0
    free, shift = seeds - 1, gain / spread * np.sqrt(seeds)
    # Integrated over the deviation that the test estimates: SciPy's noncentral t fails for large shifts.
    estimates = np.sqrt(chi2.ppf((np.arange(STEPS) + 0.5) / STEPS, free) / free)
    limits = stdtrit(free, 1 - ALPHA / 2) * estimates
    return float(np.mean(ndtr(shift - limits) + ndtr(-shift - limits)))


def seeds_needed(spread: float, gain: float = GAIN) -> int | None:
    """The fewest seeds, at least two, that detect a gain with POWER; None if above MOST, or not known.

    They are generators, where `spread` is the deviation of their means.
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
