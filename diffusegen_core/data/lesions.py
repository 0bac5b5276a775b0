"""Real lesions pasted into other pictures: the plain baseline, for which no model is trained.

A lesion is cut out of one training pair with its mask. Both are changed by one affine map, like chapter 3's
varied masks but without bending (see `masks`), and placed where another picture shows tissue. That picture's
own lesion stays, so that the new mask is the union (Ghiasi et al. 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from diffusegen_core.data import masks, planes, seamless
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Chosen
from diffusegen_core.data.types import PASTE, POISSON, DataType

VERSION = 1  # raised when the same seed would give other pixels
# OpenCV erodes a mask three times before it clones, so the mask is first dilated as much, in a picture with a
# margin for that: masks that reach the border would be refused or cut.
ERODED = 3
MARGIN = ERODED + 2


@dataclass(frozen=True)
class Cut:
    """A lesion of another picture, moved to where it is to be pasted into one of S pixels a side."""

    donor: int
    """The index of the pair that it is from."""
    picture: np.ndarray
    """(S, S, C) uint8: the donor's picture, moved with the lesion; its border is repeated beyond."""
    mask: np.ndarray
    """(S, S), class numbers of the lesion; empty without a lesion, or without tissue to place it on."""
    change: str
    """What was done to the lesion, in words."""


Blend = Callable[[np.ndarray, Cut, np.ndarray], np.ndarray]


def having(pairs: Pairs, chosen: Chosen) -> list[int]:
    """The positions of the pairs that have a chosen class; all positions where none has, or all are chosen.
    """
    there = np.flatnonzero(planes.only(pairs.masks, chosen).any(axis=(1, 2, 3))).tolist()
    return there if chosen is not None and there else list(range(len(pairs)))


def healed(known: np.ndarray, chosen: Chosen, within: int) -> np.ndarray:
    """Masks (..., M, S, S) in which the class `within` is also where the chosen ones are."""
    whole = known.copy()
    whole[..., within, :, :] |= planes.union(planes.only(known, chosen))
    return whole


def room(image: np.ndarray, known: np.ndarray, within: int | None) -> np.ndarray:
    """Where a lesion may be placed in an image (C, S, S), (S, S) in {0, 1}: in the field of view and, of its
    masks `known` (M, S, S), in the class `within`."""
    view = masks.field_of_view(image)
    return view if within is None else view * known[within]


def cut(pairs: Pairs, source: int, rng: np.random.Generator, chosen: Chosen = None,
        turn: float = masks.ANY, within: int | None = None) -> Cut:
    """A lesion for the picture of the pair `source`: from another pair, or its own where there is no other.

    A donor's lesions stay together; only its chosen classes count. They are turned by at most `turn` degrees,
    and placed inside the class `within` or the chosen ones.
    """
    others = [i for i in having(pairs, chosen) if i != source] or [source]
    donor = others[rng.integers(len(others))]
    own = planes.numbered(planes.only(pairs.masks[donor], chosen))
    shown = own * masks.field_of_view(pairs.images[donor])
    lesion = shown if shown.any() else own  # nothing is cut out of the frame
    if not lesion.any():  # a donor without a chosen class, where no pair has one
        return Cut(donor, pairs.images[donor].transpose(1, 2, 0), lesion, "")
    there = pairs.masks[source] if within is None else healed(pairs.masks[source], chosen, within)
    moved = masks.moved(lesion, room(pairs.images[source], there, within), rng, turn)
    picture = [cv2.warpAffine(plane, moved.matrix, moved.mask.shape[::-1], flags=cv2.INTER_LINEAR,
                              borderMode=cv2.BORDER_REPLICATE) for plane in pairs.images[donor]]
    return Cut(donor, np.stack(picture, axis=2), moved.mask, moved.change)


def pasted(pairs: Pairs, source: int, lesion: Cut, data_type: DataType) -> tuple[np.ndarray, np.ndarray]:
    """The picture (C, S, S) uint8 of a pair with a lesion pasted in, and the mask (M, S, S) of both; where
    they meet, the pasted one covers the other, unless the classes may overlap."""
    image = pairs.images[source].transpose(1, 2, 0)
    blended = BLENDS[data_type](image, lesion, masks.field_of_view(pairs.images[source]))
    new = planes.separate(lesion.mask, pairs.planes.classes)
    return blended.transpose(2, 0, 1), planes.laid_over(pairs.masks[source], new, pairs.overlap)


def feathered(image: np.ndarray, lesion: Cut, view: np.ndarray) -> np.ndarray:
    """The lesion laid over an image (S, S, C), its border blended over about a pixel; the frame around the
    `view` (S, S) stays."""
    share = (cv2.GaussianBlur((lesion.mask > 0).astype(np.float32), (3, 3), 0) * view)[..., None]
    return np.rint(share * lesion.picture + (1 - share) * image).astype(np.uint8)


def cloned(image: np.ndarray, lesion: Cut, view: np.ndarray) -> np.ndarray:
    """The lesion's gradients cloned into an image (S, S, C), by OpenCV (Perez et al. 2003).

    Tissue in the box around the lesion may change with it; the frame around the `view` (S, S) stays.
    """
    def framed(pixels: np.ndarray, kind: int) -> np.ndarray:
        large = cv2.copyMakeBorder(pixels, MARGIN, MARGIN, MARGIN, MARGIN, kind)
        return large.reshape(*large.shape[:2], *pixels.shape[2:])  # OpenCV drops the axis of one channel

    if not lesion.mask.any():
        return image
    white = (lesion.mask > 0) * np.uint8(255)
    wide = cv2.dilate(framed(white, cv2.BORDER_CONSTANT), np.ones((3, 3), np.uint8), iterations=ERODED)
    left, top, width, height = cv2.boundingRect(wide)
    clone = seamless.cloned(framed(lesion.picture, cv2.BORDER_REPLICATE),
                            framed(np.ascontiguousarray(image), cv2.BORDER_REPLICATE), wide,
                            (left + width // 2, top + height // 2))
    inner = clone[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.where(view[..., None] > 0, inner, image)


BLENDS: dict[DataType, Blend] = {PASTE: feathered, POISSON: cloned}
