"""Fitting images to the square that models see, and back: padded, cropped or squeezed (data.fit)."""

import math

import numpy as np
from PIL import Image

from diffusegen_core.data import planes

Box = tuple[int, int, int, int]


def fitted(image: np.ndarray, mask: np.ndarray, size: int, fit: str) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, C) uint8 and its mask (H, W, M) in {0, 1}, as (C, size, size) and (M, size, size).

    Images are resized with Lanczos, as the authors do; masks as `planes.shrunk` says.
    """
    image, mask = (squared(part, fit).transpose(2, 0, 1) for part in (image, mask))
    return planes.resize(image, (size, size), Image.Resampling.LANCZOS), planes.shrunk(mask, (size, size))


def restored(image: np.ndarray, mask: np.ndarray, shape: tuple[int, int],
             fit: str) -> tuple[np.ndarray, np.ndarray]:
    """The inverse: an image (C, S, S) uint8 and its mask (M, S, S) at the native size `shape`, (H, W).

    Returns (H, W, C) and (H, W, M). What a crop cut off is black, and the mask is empty there.
    """
    height, width = shape
    left, top, right, bottom = _box(height, width, fit)
    sides = (right - left, bottom - top)
    pixels = planes.resize(image, sides, Image.Resampling.LANCZOS).transpose(1, 2, 0)
    label = planes.shrunk(mask, sides).transpose(1, 2, 0)
    whole = np.zeros((height, width, len(image)), np.uint8)
    label_whole = np.zeros((height, width, len(mask)), np.uint8)
    # A box may reach beyond the image (padding), or lie within it (a crop).
    inner = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    cut = (slice(inner[0].start - top, inner[0].stop - top),
           slice(inner[1].start - left, inner[1].stop - left))
    whole[inner], label_whole[inner] = pixels[cut], label[cut]
    return whole, label_whole


def _box(height: int, width: int, fit: str) -> Box:
    """Left, top, right and bottom, in the native image, of what becomes the square."""
    if fit == "squeeze":
        return 0, 0, width, height
    side = max(height, width) if fit == "pad" else min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def squared(part: np.ndarray, fit: str) -> np.ndarray:
    """An image or mask (H, W, C) made square by `fit`: padded with 0, its middle, or (squeeze) as it is."""
    height, width = part.shape[:2]
    left, top, right, bottom = _box(height, width, fit)
    if fit == "crop":
        return part[top:bottom, left:right]
    return np.pad(part, ((-top, bottom - height), (-left, right - width), (0, 0))) \
        if fit == "pad" and height != width else part


def inner(shape: tuple[int, ...], fit: str) -> tuple[slice, slice]:
    """Rows and columns of a picture of native shape (H, W, ...) in its square, unless it is cropped."""
    height, width = shape[:2]
    left, top, _, _ = _box(height, width, fit)
    return slice(-top, height - top), slice(-left, width - left)


def content(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The part of a padded square (C, S, S) that lies wholly between its bars, for a picture of this native
    height and width."""
    rows, columns = _between(shape, image.shape[-1], 1.0)
    return image[..., rows, columns]


def shown(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same with the pixels that are bar for less than a half, as masks are resized (`planes.shrunk`)."""
    rows, columns = _between(shape, image.shape[-1], 0.5)
    return image[..., rows, columns]


def _between(shape: tuple[int, int], size: int, least: float) -> tuple[slice, slice]:
    """Rows and columns of a padded square of which at least this share is picture."""
    rows, columns = inner(shape, "pad")
    return _mostly(rows, size, max(shape), least), _mostly(columns, size, max(shape), least)


def _mostly(part: slice, size: int, side: int, least: float) -> slice:
    """The pixels of `size` of which at least this share lies in a part of `side`; the middle one of a
    sliver."""
    first = math.ceil(part.start * size / side - (1 - least))
    last = math.floor(part.stop * size / side + (1 - least))
    return slice(first, last) if first < last else slice(size // 2, size // 2 + 1)
