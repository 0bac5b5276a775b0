"""The values of a mask, counted and worded for messages: numbers, colours as #rrggbb, planes of an array."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffusegen_core.config.data import KINDS
from diffusegen_core.data.pixels import Raster

SHOWN = 8  # values in a message


def counted(values: np.ndarray, most: int = 1 << 16) -> dict[str, int]:
    """How often each value of a mask occurs: indices, greys, or colours (..., 3) uint8 as #rrggbb; {} if
    there are more than `most`, and for colours of more bits, which no key of data.labels can name."""
    coloured = values.ndim == 3 and values.shape[2] == 3
    if coloured and values.dtype != np.uint8:
        return {}
    seen, counts = np.unique(coded(values) if coloured else values, return_counts=True)
    if len(seen) > most:
        return {}
    if coloured:
        return {f"#{code:06x}": int(count) for code, count in zip(seen.tolist(), counts, strict=True)}
    return {f"{value:g}": int(count) for value, count in zip(seen.tolist(), counts, strict=True)}


def native(raster: Raster) -> np.ndarray:
    """A mask's own values: a palette's indices, the grey (H, W), or the colours (H, W, 3)."""
    if raster.indices is not None:
        return raster.indices
    values = raster.values
    same = values.shape[2] == 1 or bool((values == values[..., :1]).all())
    return values[..., 0] if same else values


def listed(counts: Mapping[str, int]) -> str:
    """Values with counts, in words: "0 (400), 127 (20)"."""
    shown = ", ".join(f"{value} ({count})" for value, count in list(counts.items())[:SHOWN])
    return shown + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def suggested(values: Sequence[str], name: str) -> str:
    """The data.labels that would map these values, for a message. Values that are not whole numbers need a
    condition."""
    if any("." in value or "e" in value for value in values if not value.startswith("#")):
        lowest = min(number for value in values if (number := float(value)) > 0)
        return f'data.labels: {{">{lowest / 2:g}": {name}}}'
    return "data.labels: {" + ", ".join(f"{_quoted(value)}: {name if i == 0 else '...'}"
                                        for i, value in enumerate(values[:SHOWN])) + "}"


def _quoted(key: str) -> str:
    return key if KINDS["value"].fullmatch(key) else f'"{key}"'


def planes_of(raster: Raster) -> dict[str, int]:
    """The number of nonzero pixels in each plane, "plane 0" and so on, of an array that can only have a plane
    per class: one of 0 and 1, or of booleans; {} for anything else."""
    count = raster.values.shape[2]
    plain = raster.mode == "bool" or (raster.values.dtype.kind in "ui" and raster.values.max() == 1)
    if raster.format != "NumPy" or count < 2 or not plain:
        return {}
    return {f"plane {number}": int(np.count_nonzero(raster.values[..., number])) for number in range(count)}


def coded(values: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 as one number each, 0xrrggbb."""
    red, green, blue = (values[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue
