"""The files of an export: images as grey or RGB PNGs, masks as PNGs of class numbers; what no PNG can hold,
as NumPy arrays with channels or classes first."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusegen_core.data import planes
from diffusegen_core.exports.cases import Case, ExportSet
from diffusegen_core.store import files

Places = Callable[[Case], tuple[Path, Path]]
"""The paths of a pair's image and mask."""


def write(chosen: ExportSet, places: Places, levels: int = 1) -> None:
    """Write every pair; class numbers in masks are multiplied by `levels`."""
    for case in progress(chosen.cases):
        image, label = chosen.written(case)
        for path, pixels in zip(places(case), (image, label if chosen.planes else label * levels),
                                strict=True):
            write_picture(path, pixels)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (3, H, W), (1, H, W) or (H, W) uint8 as a PNG, or any array if the path has an array's suffix."""
    if path.suffix == planes.ARRAY:
        files.write(path, lambda file: np.save(file, np.ascontiguousarray(pixels, np.uint8)), hashed=False)
        return
    rows = pixels if pixels.ndim == 2 else pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    files.write(path, Image.fromarray(np.ascontiguousarray(rows, np.uint8)).save, hashed=False)


def progress(cases: list[Case]) -> Iterable[Case]:
    """Iterate over the pairs with a progress bar."""
    return tqdm(cases, desc="Exporting", unit="pair", leave=False, disable=None)
