"""The pixels of COCO's polygons and run lengths, by its own library, whose input is checked here."""

from collections.abc import Sequence
from typing import Any

import numpy as np

FAR = 16  # times the image's longer side: corners beyond that make the library run out of memory


def of_polygons(polygons: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """The union of polygons (x, y, x, y, ... each) as (H, W) in {0, 1}, without the half pixel of outline
    that Pillow would add. Raises ValueError for corners far outside the image."""
    from pycocotools import mask as coco  # here, so that runs without COCO files do not need it
    if any(abs(number) > FAR * max(width, height) for corners in polygons for number in corners):
        raise ValueError("a polygon with a corner far outside of its image")
    if not polygons:
        return np.zeros((height, width), np.uint8)
    parts = coco.frPyObjects([list(corners) for corners in polygons], height, width)
    return np.asarray(coco.decode(coco.merge(parts)), np.uint8)


def of_runs(runs: Any, width: int, height: int) -> np.ndarray:
    """What run lengths cover, compressed or not, as (H, W) in {0, 1}. Raises ValueError where they do not
    fit: the library would write as many pixels as they say, unchecked."""
    from pycocotools import mask as coco
    told = runs.get("size")
    if told != [height, width]:
        raise ValueError(f"run lengths (RLE) of a mask of {told}, and the image is {[height, width]}")
    counts = runs.get("counts")
    if isinstance(counts, list):
        plain = all(isinstance(one, int) and one >= 0 for one in counts)
        if not plain or sum(counts) != width * height:
            raise ValueError("run lengths (RLE) that do not add up to the image's pixels")
        runs = coco.frPyObjects(runs, height, width)
    elif not isinstance(counts, str) or not counts.isascii() or _total(counts) != width * height:
        raise ValueError("run lengths (RLE) that do not add up to the image's pixels")
    return np.asarray(coco.decode(runs), np.uint8)


def _total(text: str) -> int:
    """How many pixels compressed run lengths cover; -1 where the text is not valid.

    Each character has five bits of a count, and a sixth that says whether more follow; from the fourth on,
    each count is relative to the one two before it.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return -1 if shift or min(counts, default=0) < 0 else sum(counts)
