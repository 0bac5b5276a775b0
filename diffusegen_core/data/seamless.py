"""A painted region without a rim: its colours are shifted so that they meet the surroundings.

RePaint sees the surroundings as noisy pixels, and what it paints may be a little too dark or too red for
them: a step at the border. Poisson image editing (Perez et al. 2003) removes it. The difference at the border
is spread over the region by a membrane, the smoothest surface that has these values there; what was painted
keeps its gradients. A step from one class to another, as from an organ to what surrounds it, is to stay.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu

OUTSIDE, BEYOND = -1, -2  # of pixels without a number: known ones, and those beyond the image
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
HELD = 1e-6  # what pulls a part's shift to 0 if it borders on its own class nowhere


def filled(painted: np.ndarray, images: np.ndarray, regions: np.ndarray, matching: bool,
           numbers: Sequence[np.ndarray | None] | None = None) -> np.ndarray:
    """Images (B, C, H, W) uint8 with regions (B, H, W) as painted, shifted to fit in if `matching`; `numbers`
    as in `matched`, for each."""
    if not matching:
        return np.where(regions[:, None] > 0, painted, images)
    every = [None] * len(images) if numbers is None else numbers
    return np.stack([matched(*parts) for parts in zip(painted, images, regions, every, strict=True)])


# Delta m = 0 within the region; at its border m = surroundings - painted (Perez et al. 2003, eq. 5 and 6)
def matched(painted: np.ndarray, image: np.ndarray, region: np.ndarray,
            numbers: np.ndarray | None = None) -> np.ndarray:
    """A painted image (C, H, W) uint8 whose region (H, W), nonzero where it was filled, is shifted to meet
    `image`, (C, H, W) uint8, at its border; with class `numbers` (H, W), only where both sides are of one
    class. Outside the region it is `image`. Without a border nothing is shifted."""
    inside = region > 0
    result = np.where(inside, painted, image)
    neighbours, lacking, crossings = _around(inside, painted, image,
                                             np.zeros(inside.shape, int) if numbers is None else numbers)
    if not crossings.any():
        return result
    # Each pixel's shift is the mean of its neighbours' shifts and of the differences across the border.
    links = coo_array((np.ones(len(neighbours)), tuple(neighbours.T)), shape=(len(lacking), len(lacking)))
    count = np.bincount(neighbours[:, 0], minlength=len(lacking)) + crossings
    held = 0.0 if numbers is None else HELD
    shift = splu((diags_array(count + held) - links).tocsc()).solve(lacking)
    result[:, inside] = np.clip(np.rint(painted[:, inside] + shift.T), 0, 255).astype(np.uint8)
    return result


def _around(inside: np.ndarray, painted: np.ndarray, image: np.ndarray,
            numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the N pixels inside: the pairs of neighbours (P, 2), each both ways round; and for each pixel the
    sum (N, C) of the differences of its outside neighbours of the same class from what was painted, and their
    number (N,)."""
    (height, width), count = inside.shape, int(inside.sum())
    number = np.full(inside.shape, OUTSIDE)
    number[inside] = np.arange(count)
    framed, known = np.pad(number, 1, constant_values=BEYOND), np.pad(image, ((0, 0), (1, 1), (1, 1)))
    classes = np.pad(numbers, 1)
    neighbours, lacking, crossings = [], np.zeros((count, len(image))), np.zeros(count, int)
    for down, right in STEPS:
        shifted = slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width)
        other, difference = framed[shifted], known[(..., *shifted)].astype(float) - painted
        both, crosses = inside & (other >= 0), inside & (other == OUTSIDE) & (classes[shifted] == numbers)
        neighbours.append(np.stack([number[both], other[both]], axis=1))
        lacking[number[crosses]] += difference[:, crosses].T
        crossings[number[crosses]] += 1
    return np.concatenate(neighbours), lacking, crossings


def cloned(picture: np.ndarray, image: np.ndarray, mask: np.ndarray, middle: tuple[int, int]) -> np.ndarray:
    """OpenCV's Poisson cloning of a picture into an image, (H, W, C) uint8 each, around `middle`, where the
    mask (H, W) is not 0. OpenCV takes three channels only, each by itself: others are cloned one by one."""
    if image.shape[2] == 3:
        return cv2.seamlessClone(picture, image, mask, middle, cv2.NORMAL_CLONE)
    thrice = [[np.repeat(pixels[..., number:number + 1], 3, axis=2) for pixels in (picture, image)]
              for number in range(image.shape[2])]
    return np.stack([cv2.seamlessClone(one, other, mask, middle, cv2.NORMAL_CLONE)[..., 0]
                     for one, other in thrice], axis=2)
