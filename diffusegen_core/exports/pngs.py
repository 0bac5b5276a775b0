"""The pictures of an export: images as grey or RGB PNGs, masks as PNGs of class numbers."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusegen_core.exports.cases import Case, Chosen
from diffusegen_core.store import files

Places = Callable[[Case], tuple[Path, Path]]
"""Where the image and the mask of a pair go."""


def write(chosen: Chosen, places: Places, levels: int = 1) -> None:
    """Write every pair; a mask holds class numbers times `levels`. UserError where classes overlap."""
    for case in progress(chosen.cases):
        image, numbers = chosen.numbered(case)
        for path, pixels in zip(places(case), (image, numbers * levels), strict=True):
            write_picture(path, pixels)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (3, H, W), (1, H, W) or (H, W) uint8 as a PNG."""
    rows = pixels if pixels.ndim == 2 else pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    files.write(path, Image.fromarray(np.ascontiguousarray(rows, np.uint8)).save, hashed=False)


def progress(cases: list[Case]) -> Iterable[Case]:
    """The pairs, under a bar."""
    return tqdm(cases, desc="Exporting", unit="pair", leave=False, disable=None)
