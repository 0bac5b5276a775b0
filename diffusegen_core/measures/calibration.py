"""Calibration of a network's probabilities: of the pixels to which it gives 0.8, are 80 % object?

Pixels fall into BINS bins of equal width by their probability of the object. The expected calibration error
is the mean distance of a bin's mean probability from its share of object pixels, weighted by the number of
pixels in the bin (Naeini et al. 2015). Most pixels are background of which every network is sure, so the
error is small for all: it serves to compare networks.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffusegen_core.store import seeds

SHARE = "share"  # of pixels that are object
COLUMNS = ["bin", "pixels", "probability", SHARE]
BINS = 10
PIXELS = 4096  # at most, per image: neighbours are much alike, and large images should not count more


def bins(probabilities: np.ndarray, masks: np.ndarray, names: Sequence[str], seed: int) -> pd.DataFrame:
    """One row of COLUMNS per bin: the number of its pixels, their mean probability and share of the object.

    `probabilities` (N, S, S) are of the object, from 0 to 1; `masks` (N, S, S) are nonzero on it. From larger
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
    """The expected calibration error, from 0 to 1, of one network's `bins`; NaN if they hold no pixels."""
    full = table[table["pixels"] > 0]
    distances = (full["probability"] - full[SHARE]).abs()
    return float((full["pixels"] * distances).sum() / full["pixels"].sum()) if len(full) else float("nan")


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The bins of several networks pooled, in the form of `bins` but without empty ones."""
    full = table[table["pixels"] > 0]
    weighted = full.assign(probability=full["probability"] * full["pixels"],
                           **{SHARE: full[SHARE] * full["pixels"]})
    sums = weighted.groupby("bin")[["pixels", "probability", SHARE]].sum()
    means = sums[["probability", SHARE]].div(sums["pixels"], axis=0)
    return sums.assign(**means).reset_index()
