"""Regions of an image: the part to fill, the mask that was drawn there, the seam around it.

A region is of all classes together: what is painted anew is the union of the old masks and the new.

Lengths are given in pixels of a 256 px image and scale with the longer side of a picture. Where pictures are
padded, that is the side of the square that models are trained on; where they are cropped or squeezed, the rim
is at least as wide as in a training picture. A picture on its side gets the same region, turned.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from diffusegen_core.config.sections import FULL_SIZE
from diffusegen_core.data import planes
from diffusegen_core.data.planes import Chosen


def ellipse(pixels_at_full_size: int, image_size: int) -> np.ndarray:
    """An elliptical morphology kernel whose side is given for 256 px, scaled to the image at hand."""
    side = max(1, round(pixels_at_full_size * image_size / FULL_SIZE))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def full_side(shape: Sequence[int]) -> int:
    """The side of a picture (..., H, W) that stands for the 256 pixels in which lengths are given."""
    return max(shape[-2:])


def dilated(mask: np.ndarray, dilate: int) -> np.ndarray:
    """The region to fill, (H, W) in {0, 1}: where a mask (H, W) is not 0, widened so that no rim of the old
    lesion stays known.

    `dilate` is the side of the ellipse, in pixels of a 256 px image.
    """
    mask = (mask > 0).astype(np.uint8)
    kernel, result = ellipse(dilate, full_side(mask.shape)), np.zeros_like(mask)
    left, top, width, height = cv2.boundingRect(mask)
    # Nothing changes further away, and the work grows with the fourth power of a picture's size.
    near = tuple(slice(max(0, first - len(kernel)), first + size + len(kernel))
                 for first, size in ((top, height), (left, width)))
    result[near] = cv2.dilate(mask[near], kernel)
    return result


def all_dilated(masks: np.ndarray, dilate: int) -> np.ndarray:
    """`dilated` for masks (N, M, H, W): (N, H, W)."""
    return np.stack([dilated(mask, dilate) for mask in planes.union(masks)])


def filled(before: np.ndarray, after: np.ndarray | None, dilate: int) -> np.ndarray:
    """The regions (N, H, W) that are painted anew, from masks (N, M, H, W): the old lesions, widened, and
    where the new masks are given, those as well."""
    return all_dilated(before if after is None else before | after, dilate)


def opened(channels: np.ndarray, opening: int, overlap: bool = False) -> np.ndarray:
    """The map of class numbers (H, W) of generated mask channels (M, H, W) in [-1, 1], opened to remove
    specks and cut at 0. Where several are above 0, the highest is the class; with `overlap`, all are.

    `opening` is the side of the ellipse, in pixels of a 256 px image.
    """
    kernel = ellipse(opening, full_side(channels.shape))
    anchor = (len(kernel) - 1) // 2
    # Dilated by the mirrored kernel: OpenCV's own opening moves the mask by a pixel where the side is even,
    # and so out of the region.
    smooth = [cv2.dilate(cv2.erode(channel, kernel), kernel[::-1, ::-1].copy(), anchor=(anchor, anchor))
              for channel in channels]
    return planes.decided(np.stack(smooth), overlap=overlap)


def drawn(channels: np.ndarray, rest: np.ndarray, opening: int, overlap: bool,
          chosen: Chosen = None) -> np.ndarray:
    """The map of class numbers (H, W) of generated mask channels (M, H, W) in [-1, 1]: the chosen classes as
    they were drawn, the others as they are in `rest` (M, H, W)."""
    if chosen is None:
        return opened(channels, opening, overlap)
    new = planes.separate(opened(channels[list(chosen)], opening, overlap), len(chosen))
    return planes.numbered(planes.laid_over(rest, planes.spread(new, chosen, len(channels)), overlap))


def seam(image: np.ndarray, region: np.ndarray) -> float:
    """The contrast of an image (C, S, S) uint8 at the border of the region (S, S) that was filled.

    The mean absolute difference, in grey levels, between neighbours on either side of the border; 0 where the
    region has none.
    """
    image, region = image.astype(np.float64), region.astype(bool)
    steps = [np.abs(image[:, 1:] - image[:, :-1])[:, region[1:] != region[:-1]],
             np.abs(image[:, :, 1:] - image[:, :, :-1])[:, region[:, 1:] != region[:, :-1]]]
    contrasts = np.concatenate(steps, axis=1)
    return float(contrasts.mean()) if contrasts.size else 0.0


def mask_dice(a: np.ndarray, b: np.ndarray) -> float:
    """The Dice score of two masks in {0, 1}, of classes (M, S, S) taken together; 1 where both are empty."""
    return 2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum())) if a.any() or b.any() else 1.0


def vanishing(mask: np.ndarray, side: int) -> int:
    """How many connected regions of a mask (H, W, M) are gone when it is resized to another side.

    A region is gone if none of its pixels lies in a pixel that its class has after `planes.shrunk`.
    """
    lost = 0
    for layer in np.moveaxis(mask, 2, 0):
        count, numbers = cv2.connectedComponents(np.ascontiguousarray(layer))
        if count == 1:
            continue
        small = planes.shrunk(layer[None], (side, side))[0]
        # The resized pixel that each pixel's centre lies in, whether the mask becomes smaller or larger.
        rows, columns = (((2 * np.arange(length) + 1) * side) // (2 * length) for length in layer.shape)
        kept = np.where(small[np.ix_(rows, columns)] > 0, numbers, 0)
        lost += count - len(np.union1d(np.unique(kept), [0]))
    return lost
