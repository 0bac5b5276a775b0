"""From a file's own values to the uint8 that models see: one rule for a whole set (data.intensities)."""

import math
from collections.abc import Iterable

import numpy as np

from diffusegen_core.config.data import Data
from diffusegen_core.data.pixels import Raster, scaled, span

VERSION = 2  # raised when `percentile` would give other pixels of the same files
PERCENTILES = 0.5, 99.5
SAMPLES = 4096  # pixels of an image, evenly spread over it, that the set's percentiles are taken from
DARK = 0.25  # a set of deep images that uses less of its depth than this is nearly black
DEPTHS = 8, 10, 12, 14  # bits that may be in use of 16


def black_and_white(raster: Raster, rule: str | tuple[float, float]) -> tuple[float, float]:
    """The values that become 0 and 255. `rule` is "full", "dicom", or the two values of the whole set.

    Raises ValueError, saying what to set, where the file does not define them.
    """
    if isinstance(rule, tuple):
        return rule
    if rule == "dicom":
        if raster.voi is None:
            raise ValueError(f"data.intensities: dicom needs a window, which this {raster.format} file "
                             "lacks; set [low, high]")
        return raster.voi
    if raster.full is not None:
        return raster.full
    low, high = span(raster.values)
    raise ValueError(f"values from {low:g} to {high:g} ({raster.depth}), and which of them are black and "
                     "white is unknown; set data.intensities [low, high] or percentile")


def to_bytes(raster: Raster, rule: str | tuple[float, float]) -> np.ndarray:
    """An image (H, W, C) uint8 by `black_and_white`; 8-bit pictures stay as they are where that gives 0 and
    255. Raises as it does."""
    low, high = black_and_white(raster, rule)
    as_it_is = not raster.is_deep and (low, high) == (0, 255)
    values = raster.values if as_it_is else scaled(raster.values, low, high)
    return 255 - values if raster.inverted else values


def of_set(settings: Data, images: Iterable[Raster]) -> str | tuple[float, float]:
    """The rule of a set: "full", "dicom", or black and white. The images are read for percentiles only.

    Raises ValueError where nearly all of their values are the same.
    """
    if isinstance(settings.intensities, list):
        return settings.intensities[0], settings.intensities[1]
    if settings.intensities != "percentile":
        return settings.intensities
    drawn = [sample(raster.values) for raster in images]
    if not drawn:
        return "full"
    low, high = np.percentile(np.concatenate(drawn), PERCENTILES).tolist()
    if low >= high:
        raise ValueError(f"data.intensities: percentile: nearly all values of the set are {low:g}; set "
                         "[low, high]")
    return low, high


def sample(values: np.ndarray) -> np.ndarray:
    """The values of about SAMPLES pixels of an image (H, W, C), from evenly spaced rows and columns; values
    that are not finite are left out."""
    height, width = values.shape[:2]
    apart = max(1, math.isqrt(height * width // SAMPLES))
    rows, columns = (slice(min(apart, side) // 2, None, min(apart, side)) for side in (height, width))
    drawn = values[rows, columns].astype(np.float64)
    return drawn[np.isfinite(drawn)]


def unused(span_of_set: tuple[float, float], full: tuple[float, float],
           files: str = "all files") -> str | None:
    """The complaint about deep images whose values use too little of `full`; None if all is well.

    `files` are those that `span_of_set` covers, in words.
    """
    low, high = span_of_set
    # Values from 0 on look black if the highest is low; where they may be negative, a narrow span looks grey.
    used = high - (low if full[0] < 0 else full[0])
    if used >= DARK * (full[1] - full[0]):
        return None
    bits = next((bits for bits in DEPTHS if low >= 0 and high < 2**bits < full[1]), None)
    window = f"[0, {2**bits - 1}]" if bits else "percentile, or [low, high]"
    return (f"the values of {files} lie between {low:g} and {high:g}, while they can hold {full[0]:g} to "
            f"{full[1]:g}, so the images show next to nothing; set data.intensities: {window}")
