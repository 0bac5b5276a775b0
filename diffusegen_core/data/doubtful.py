"""Signs of a wrong mask: it marks everything but the object, or is flipped against its image."""

import cv2
import numpy as np

# Shares above which a mask is probably inverted: of the picture, of its border, and of the picture if the
# mask has a hole (an inverted mask may leave out a black frame). One of Kvasir-SEG's 1000 masks exceeds them;
# of the same masks inverted, all but two do.
MOST, FRAME, HOLED = 0.8, 0.75, 0.5
CLEARER = 2.0  # a mask is probably flipped if flipping it gives so many times the contrast at its outline
MIRRORED = {"mirrored": (1, -1), "upside down": (-1, 1), "turned by 180 degrees": (-1, -1)}
SIDE = 128  # pixels at which outlines are compared


def inverted(union: np.ndarray) -> bool:
    """Whether a mask (H, W) probably marks everything but the object."""
    border = _border(union)
    if union.mean() > MOST or border.mean() > FRAME:
        return True
    count, numbers = cv2.connectedComponents((~union).astype(np.uint8))
    return union.mean() > HOLED and len(set(range(1, count)) - set(_border(numbers).tolist())) > 0


def _border(plane: np.ndarray) -> np.ndarray:
    return np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])


def flipped(pixels: np.ndarray, union: np.ndarray) -> str | None:
    """The flip by which a mask (H, W) would fit its image (H, W, C) far better, by outline contrast; or None.

    The contrast is the difference between the mean grey levels of a strip inside the outline and one outside.
    """
    grey = cv2.resize(pixels.mean(axis=2).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.resize(union.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    inner = small - cv2.erode(small, np.ones((7, 7), np.uint8), borderValue=1)
    outer = cv2.dilate(small, np.ones((7, 7), np.uint8)) - small
    if not inner.any() or not outer.any():
        return None

    def contrast(rows: int, columns: int) -> float:
        inside, outside = (grey[strip[::rows, ::columns] > 0].mean() for strip in (inner, outer))
        return abs(float(inside - outside))
    here = contrast(1, 1)
    best = max(MIRRORED, key=lambda way: contrast(*MIRRORED[way]))
    spread = float(grey.std())
    return best if contrast(*MIRRORED[best]) > max(CLEARER * here, spread) and here < spread / 2 else None
