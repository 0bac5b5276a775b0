"""Controls for the audit of copies: fillings that no model has memorised, and copies that it must find.

The first are lesions of another patient, blended into the filled region by Poisson cloning (Perez et al.
2003): like a painted lesion they continue the picture at the border of the region, but they are certainly
new. The second are what a training picture shows in that region, as it is or disguised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from diffusegen_core.config.sections import FULL_SIZE
from diffusegen_core.data import seamless

ZOOM = 1.1  # the magnification of a planted copy that is zoomed
ZOOMED = f"zoomed by {ZOOM - 1:.0%}"
# OpenCV erodes a mask three times before it clones, which at 64 px would leave the rim of the old lesion. So
# cloning is done at 256 px, and with a margin, because OpenCV refuses masks that reach the border.
MARGIN = 8

# How a planted copy differs from its training picture (C, S, S): each a map of pictures (..., S, S).
Disguise = Callable[[np.ndarray], np.ndarray]


def _zoomed(images: np.ndarray) -> np.ndarray:
    """Images (..., S, S) uint8, magnified by ZOOM around their middle."""
    side = images.shape[-1]
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), 0, ZOOM)
    flat = np.ascontiguousarray(images).reshape(-1, side, side)
    zoomed = [cv2.warpAffine(plane, matrix, (side, side), flags=cv2.INTER_LINEAR) for plane in flat]
    return np.stack(zoomed).reshape(images.shape)


DISGUISES: dict[str, Disguise] = {
    "exact": lambda images: images,
    "mirrored": lambda images: images[..., ::-1],
    "upside down": lambda images: images[..., ::-1, :],
    "rotated by 90°": lambda images: np.rot90(images, 1, (-2, -1)),
    "rotated by 180°": lambda images: np.rot90(images, 2, (-2, -1)),
    "rotated by 270°": lambda images: np.rot90(images, 3, (-2, -1)),
    ZOOMED: _zoomed,
}


@dataclass(frozen=True)
class Planted:
    """Images with a copy in each."""

    images: np.ndarray
    """(Q, C, S, S) uint8."""
    of: np.ndarray
    """(Q,) int, the index of the training picture that is copied."""


def blended(image: np.ndarray, region: np.ndarray, place: np.ndarray, donor: np.ndarray,
            lesion: np.ndarray) -> np.ndarray:
    """An image (C, S, S) uint8 whose region (S, S) is filled with a lesion of a donor (C, S, S) uint8.

    The box around the donor's `lesion` (S, S) is mapped to that around `place` (S, S), within the region;
    gradients are the donor's, the border is the image's. Neither mask may be empty. Outside the region
    nothing changes.
    """
    side = image.shape[-1]
    times = max(1, FULL_SIZE // side)
    large = np.stack([_framed(cv2.resize(plane, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC),
                              cv2.BORDER_REPLICATE) for plane in image], axis=2)
    inside = _framed(cv2.resize((region > 0).astype(np.uint8) * 255, None, fx=times, fy=times,
                                interpolation=cv2.INTER_NEAREST), cv2.BORDER_CONSTANT)
    moved = np.stack([cv2.warpAffine(plane, _to(place, lesion, times), large.shape[1::-1],
                                     flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                                     borderMode=cv2.BORDER_REPLICATE) for plane in donor], axis=2)
    left, top, width, height = cv2.boundingRect(inside)
    clone = seamless.cloned(moved, large, inside, (left + width // 2, top + height // 2))
    inner = clone[MARGIN:-MARGIN, MARGIN:-MARGIN].transpose(2, 0, 1)
    small = [cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA) for plane in inner]
    return np.where(region > 0, np.stack(small), image)


def plant(images: np.ndarray, filled: np.ndarray, training: np.ndarray, around: np.ndarray,
          sources: np.ndarray, disguise: Disguise) -> Planted:
    """Images (Q, C, S, S) uint8, with the region (Q, S, S) of each filled from a disguised training picture.

    Of training (N, C, S, S), with lesions `around` (N, S, S), it is the one whose disguised lesion matches
    the region best, since a memorised picture would have to look like a lesion there. If there are others, it
    is not the image's own source; `sources` (Q,) are -1 where unknown.
    """
    inside = (filled > 0).reshape(len(filled), -1).astype(np.float32)
    lesions = (disguise(np.ascontiguousarray(around > 0).astype(np.uint8)) > 0).reshape(len(around), -1)
    common = inside @ lesions.astype(np.float32).T
    union = inside.sum(axis=1)[:, None] + lesions.sum(axis=1)[None] - common
    cover = common / np.maximum(union, 1)
    known = np.flatnonzero(sources >= 0)
    if len(training) > 1:
        cover[known, sources[known]] = -1
    of = cover.argmax(axis=1)
    return Planted(np.where(filled[:, None] > 0, disguise(training[of]), images), of)


def _to(place: np.ndarray, lesion: np.ndarray, times: int) -> np.ndarray:
    """The map (2, 3) from pixels of the large framed picture, with `place`, to those of the donor's."""
    (left, top, width, height), (x, y, across, down) = (
        cv2.boundingRect((mask > 0).astype(np.uint8)) for mask in (place, lesion))
    rows = [(across / width, left, x), (down / height, top, y)]
    # The middle of pixel u of the large picture lies at (u - MARGIN + 0.5) / times in the small one.
    shift = [scale * ((0.5 - MARGIN) / times - first) + start - 0.5 for scale, first, start in rows]
    return np.array([[rows[0][0] / times, 0, shift[0]], [0, rows[1][0] / times, shift[1]]])


def _framed(pixels: np.ndarray, kind: int) -> np.ndarray:
    return cv2.copyMakeBorder(pixels, MARGIN, MARGIN, MARGIN, MARGIN, kind)

