"""To the square that models see, and back: padded, cropped or squeezed (data.fit)."""

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]


def fitted(image: np.ndarray, mask: np.ndarray, size: int, fit: str) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, C) uint8 and its mask (H, W, M) in {0, 1}, as (C, size, size) and (M, size, size).

    Images are resized with Lanczos, as the authors do; masks with antialiasing, and cut at one half. No
    class vanishes by that, however small.
    """
    image, mask = squared(image, fit), squared(mask, fit)
    return resized(image, (size, size)).transpose(2, 0, 1), shrunk(mask, (size, size)).transpose(2, 0, 1)


def restored(image: np.ndarray, mask: np.ndarray, shape: tuple[int, int], fit: str,
             around: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The way back: an image (C, S, S) uint8 and its mask (M, S, S) at the native size `shape`, (H, W).

    They come as (H, W, C) and (H, W, M). What a crop has cut off is taken from `around` (H, W, C), the native
    image, or is black; its mask is empty.
    """
    height, width = shape
    left, top, right, bottom = _box(height, width, fit)
    sides = (right - left, bottom - top)
    pixels = resized(np.ascontiguousarray(image.transpose(1, 2, 0)), sides)
    label = shrunk(np.ascontiguousarray(mask.transpose(1, 2, 0)), sides)
    whole = np.zeros((height, width, len(image)), np.uint8) if around is None else around.copy()
    label_whole = np.zeros((height, width, len(mask)), np.uint8)
    # A box may reach beyond the image (padding), or lie within it (a crop).
    inner = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    cut = (slice(inner[0].start - top, inner[0].stop - top),
           slice(inner[1].start - left, inner[1].stop - left))
    whole[inner], label_whole[inner] = pixels[cut], label[cut]
    return whole, label_whole


def resized(image: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """An image (H, W, C) uint8 at another width and height, by Lanczos."""
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(
            sides, Image.Resampling.LANCZOS))
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize(
        sides, Image.Resampling.LANCZOS)) for channel in np.moveaxis(image, 2, 0)], axis=2)


def shrunk(mask: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """A mask (H, W, M) in {0, 1} at another width and height. Classes that exclude each other still do."""
    covers = np.stack([_cover(layer, sides) for layer in np.moveaxis(mask, 2, 0)], axis=2)
    if mask.shape[2] == 1 or (mask.sum(axis=2, dtype=np.uint8) > 1).any():
        small = covers > 127
    else:  # the union is cut at one half, and the largest share has the pixel
        leading = covers.argmax(axis=2)[..., None] == np.arange(mask.shape[2])
        small = leading & (covers.sum(axis=2, dtype=np.float64) > 127)[..., None]
    for layer in range(mask.shape[2]):
        if mask[..., layer].any() and not small[..., layer].any():
            rescued = covers[..., layer] == covers[..., layer].max()
            small = small & ~rescued[..., None] if mask.shape[2] > 1 else small
            small[..., layer] = rescued
    return small.astype(np.uint8)


def _cover(layer: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(layer * np.uint8(255))
    cover = np.asarray(picture.resize(sides, Image.Resampling.BILINEAR))
    if layer.any() and not cover.any():  # so small that it rounds to nothing
        cover = np.asarray(picture.convert("F").resize(sides, Image.Resampling.BILINEAR))
    return cover


def _box(height: int, width: int, fit: str) -> Box:
    """Left, top, right and bottom, in the native image, of what becomes the square."""
    if fit == "squeeze":
        return 0, 0, width, height
    side = max(height, width) if fit == "pad" else min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def squared(part: np.ndarray, fit: str) -> np.ndarray:
    """The square of an image or mask (H, W, C) by `fit`: padded with 0, its middle, or (squeeze) as it is."""
    height, width = part.shape[:2]
    left, top, right, bottom = _box(height, width, fit)
    if fit == "crop":
        return part[top:bottom, left:right]
    return np.pad(part, ((-top, bottom - height), (-left, right - width), (0, 0))) \
        if fit == "pad" and height != width else part
