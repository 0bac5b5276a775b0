"""95 % intervals of a mean over test images and training seeds, and of the difference of two such means.

The test images are the same for every seed, so the values form a matrix of seeds by images. Images are
resampled with replacement. Seeds are few, and resampling them as well would never leave their range: on
simulated data (3 seeds, 200 images, deviations of 0.05 and 0.1) such intervals held the truth in 78 % of
cases, and these in 95 %. Instead, the randomness of training enters every resample as an error of the mean
over seeds, drawn from Student's t.

Images count as independent. For frames of one video these intervals are too narrow, so `of_groups` resamples
the videos instead: with 29 videos, or 6 hospitals, whose means deviate by 0.1 to 0.15, it held the truth in
92 to 96 % of simulated cases, and `of` in 53 to 78 %.

Randomness that all seeds share, such as the synthetic pairs of one trained generator, is in no interval.
Where seeds used the pairs of several generators, the generators' means are independent: they take the place
of the seeds, whose randomness they include (`benchmarks/chance.py` simulates both).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from diffusegen_core.store import seeds

TAILS = [2.5, 97.5]  # per cent
GENERATOR = "generator"  # the column


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, NaN where there are fewer than two images (the mean too, if none).

    With one seed the interval is over images alone, and says nothing about the randomness of training. With
    fewer than two generators it holds for these pairs, and says nothing about what others would make.
    """

    mean: float
    low: float
    high: float
    images: int
    seeds: int
    generators: int = 0
    """How many made the pairs that the seeds used; 0 where that is not known, or there were none."""

    def within(self, least: float, most: float) -> "Interval":
        """The same, clipped to the range of possible means, which it may exceed with few generators."""
        low, high = (float(np.clip(limit, least, most)) for limit in (self.low, self.high))
        return replace(self, low=low, high=high)


def interval(frame: pd.DataFrame, value: str, resamples: int, seed: int,
             groups: Mapping[str, str] | None = None) -> Interval:
    """The mean of column `value` over rows of one test set, with columns `seed` and `image`; see `matrix`.

    The optional column `generator` says whose pairs a seed used; `groups` as in `of_groups`.
    """
    return of_groups(matrix(frame, value), groups, resamples, seed, generators(frame))


def paired(a: pd.DataFrame, b: pd.DataFrame, value: str, resamples: int, seed: int,
           groups: Mapping[str, str] | None = None) -> Interval:
    """The mean difference, a minus b, over the seeds and images that both have; `groups` as in `of_groups`.

    The difficulty of an image and the real pairs that a seed drew affect both, so they cancel.
    """
    return of_groups(differences(a, b, value), groups, resamples, seed, generators(a, b))


def matrix(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Values (seeds x images) without gaps; ValueError where a seed has an image twice.

    Seeds without any value (their experiment failed) are left out, then images that some seed lacks.
    """
    return _whole(frame.pivot(index="seed", columns="image", values=value).astype(float))


def differences(a: pd.DataFrame, b: pd.DataFrame, value: str) -> pd.DataFrame:
    """a minus b (seeds x images), over the seeds and images that both have; see `matrix`."""
    return _whole(matrix(a, value) - matrix(b, value))


def generators(*frames: pd.DataFrame) -> dict[int, int]:
    """The generator whose pairs each seed used, by the column `generator` of the first frame that says."""
    known: dict[int, int] = {}
    for frame in frames:
        if GENERATOR in frame:
            told = frame.dropna(subset=[GENERATOR]).drop_duplicates("seed")
            known = {**dict(zip(told["seed"].astype(int), told[GENERATOR].astype(int), strict=True)), **known}
    return known


def independent(values: pd.DataFrame,
                generators: Mapping[int, int] | None = None) -> tuple[np.ndarray, int, int]:
    """The independent means over images in a matrix (seeds x images), and how many seeds and generators.

    The means are those of the generators if there are several, else of the seeds. The number of generators is
    0 where it is not known.
    """
    x, (_, repetitions, count) = _by_generator(values, generators)
    return x.mean(axis=1), repetitions, count


def of_images(values: pd.DataFrame, groups: Mapping[str, str] | None = None,
              generators: Mapping[int, int] | None = None) -> tuple[float, float]:
    """The standard error of the mean of a matrix (seeds x images) that the choice of images makes, or that of
    whole `groups` of them as in `of_groups`, and how often that interval stretches it; NaN with fewer than
    two."""
    x, _ = _by_generator(values, generators)
    each = x.mean(axis=0) if x.size else np.zeros(0)
    owners = [str(one) if groups is None else groups[str(one)] for one in values.columns[:each.size]]
    sums = pd.Series(each - each.mean() if each.size else [], dtype=float).groupby(owners).sum()
    count = len(sums)
    if count < 2:
        return float("nan"), float("nan")
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(each))
    return error, 1.0 if groups is None else _to_tails(count)


def means(a: pd.DataFrame, b: pd.DataFrame, value: str) -> tuple[float, float]:
    """The means of a and b over the seeds and images that both have; NaN where they have none in common.

    They are weighted as in `paired`, whose mean is their difference.
    """
    gain, owners = differences(a, b, value), generators(a, b)
    if not gain.size:
        return float("nan"), float("nan")
    first, second = (_by_generator(matrix(arm, value).loc[gain.index, gain.columns], owners)[0].mean()
                     for arm in (a, b))
    return float(first), float(second)


def better(a: pd.DataFrame, b: pd.DataFrame, value: str) -> pd.Series:
    """By seed, the larger of the means of a and b over the images that every seed of both has."""
    shared = differences(a, b, value)
    each = [matrix(arm, value).loc[shared.index, shared.columns].mean(axis=1) for arm in (a, b)]
    return each[0].where(each[0] > each[1], each[1])


def _whole(values: pd.DataFrame) -> pd.DataFrame:
    return values.dropna(how="all").dropna(axis="columns")


def of(values: pd.DataFrame, resamples: int, seed: int,
       generators: Mapping[int, int] | None = None) -> Interval:
    """The interval of the mean of a matrix (seeds x images) without gaps; the same for the same `seed`.

    `generators` says whose pairs each seed used; all generators count equally.
    """
    x, counts = _by_generator(values, generators)
    images = counts[0]
    if images < 2:
        mean = float(x.mean()) if images else float("nan")
        return Interval(mean, float("nan"), float("nan"), *counts)
    rng = seeds.rng(seed, "bootstrap")
    drawn = x.mean(axis=0)[rng.integers(images, size=(resamples, images))].mean(axis=1)
    low, high = np.percentile(drawn + _of_training(x, resamples, rng), TAILS)
    return Interval(float(x.mean()), float(low), float(high), *counts)


def of_groups(values: pd.DataFrame, groups: Mapping[str, str] | None, resamples: int, seed: int,
              generators: Mapping[int, int] | None = None) -> Interval:
    """As `of`, but whole groups of images are resampled, such as the frames of a video.

    `groups` names the group of each image; None: each is its own, as in `of`. The interval is NaN where
    there are fewer than two groups. A resample is the mean over all images of as many groups as there are,
    G. Groups are few, so the resamples' distances from the mean are stretched: by the root of G / (G - 1),
    and to the tails of Student's t.
    """
    if groups is None:
        return of(values, resamples, seed, generators)
    x, counts = _by_generator(values, generators)
    images = counts[0]
    mean = float(x.mean()) if images else float("nan")
    named = pd.Series(x.mean(axis=0) if images else [], dtype=float).groupby(
        [groups[str(image)] for image in values.columns] if images else [])
    sums, sizes, count = named.sum().to_numpy(), named.size().to_numpy(), named.ngroups
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), *counts)
    rng = seeds.rng(seed, "bootstrap of groups")
    rows = rng.integers(count, size=(resamples, count))
    stretched = np.sqrt(count / (count - 1)) * _to_tails(count)
    drawn = mean + stretched * (sums[rows].sum(axis=1) / sizes[rows].sum(axis=1) - mean)
    low, high = np.percentile(drawn + _of_training(x, resamples, rng), TAILS)
    return Interval(mean, float(low), float(high), *counts)


def _to_tails(groups: int) -> float:
    """How much wider the tails of Student's t for so many groups are than those of a normal error."""
    tail = 1 - TAILS[0] / 100
    return float(stdtrit(groups - 1, tail) / ndtri(tail))


def _by_generator(values: pd.DataFrame,
                  generators: Mapping[int, int] | None) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The independent rows by images, and how many images, seeds and generators there are.

    A row is the mean of a generator's seeds if there are several generators, else a seed.
    """
    repetitions, images = values.shape if values.size else (0, 0)
    owners = [(generators or {}).get(number) for number in values.index] if repetitions else []
    count = 0 if None in owners else len(set(owners))
    rows = values.groupby(np.array(owners)).mean() if count > 1 else values
    return rows.to_numpy(), (images, repetitions, count)


def _of_training(x: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray | float:
    """Errors of the mean over rows (seeds or generators) of x (rows x images), one for each resample.

    0 with one row.
    """
    repetitions = len(x)
    if repetitions < 2:
        return 0.0
    error = x.mean(axis=1).std(ddof=1) / np.sqrt(repetitions)
    # Evenly spaced in probability and shuffled, so that the far tails are not left to luck.
    even = stdtrit(repetitions - 1, (np.arange(resamples) + 0.5) / resamples)
    return error * rng.permutation(even)
