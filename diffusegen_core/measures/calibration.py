"""Whether a network's probabilities are frequencies: of the pixels to which it gives 0.8, are 80 % object?

By the probability of the object, pixels fall into BINS of equal width. The expected calibration error is the
mean distance of a bin's mean probability from its share of the object, weighted by the bin's pixels (Naeini
et al. 2015). Most pixels are background that no network doubts, so the error is small for all: it serves to
compare networks.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffusegen_core.store import seeds

SHARE = "polyp"  # of whatever the object is: so the column is called in the files of finished runs
COLUMNS = ["bin", "pixels", "probability", SHARE]
BINS = 10
PIXELS = 4096  # of an image, at most: neighbours are much alike, and so each image counts the same


def bins(probabilities: np.ndarray, masks: np.ndarray, names: Sequence[str], seed: int) -> pd.DataFrame:
    """A row of COLUMNS for each of BINS: its pixels, their mean probability and their share of the object.

    `probabilities` (N, S, S) are of the object, from 0 to 1, and masks (N, S, S) not 0 where it is. Of larger
    images PIXELS are drawn, by the seed and the image's name: the same for every network. The means of an
    empty bin are NaN.
    """
    counts, sums, inside = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for name, of_image, mask in zip(names, probabilities, masks, strict=True):
        p, true = of_image.ravel().astype(float), mask.ravel() != 0
        if p.size > PIXELS:
            drawn = seeds.rng(seed, "calibration", name).choice(p.size, PIXELS, replace=False)
            p, true = p[drawn], true[drawn]
        which = np.minimum((p * BINS).astype(int), BINS - 1)
        for total, weights in ((counts, None), (sums, p), (inside, true)):
            total += np.bincount(which, weights, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = sums / counts, inside / counts
    return pd.DataFrame(dict(zip(COLUMNS, (range(BINS), counts.astype(int), *means), strict=True)))


def error(table: pd.DataFrame) -> float:
    """The expected calibration error, from 0 to 1, of one network's `bins`; NaN without any pixel."""
    full = table[table["pixels"] > 0]
    distances = (full["probability"] - full[SHARE]).abs()
    return float((full["pixels"] * distances).sum() / full["pixels"].sum()) if len(full) else float("nan")


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The bins of several networks together, as `bins`; without those that are empty."""
    full = table[table["pixels"] > 0]
    weighted = full.assign(probability=full["probability"] * full["pixels"],
                           **{SHARE: full[SHARE] * full["pixels"]})
    sums = weighted.groupby("bin")[["pixels", "probability", SHARE]].sum()
    means = sums[["probability", SHARE]].div(sums["pixels"], axis=0)
    return sums.assign(**means).reset_index()
