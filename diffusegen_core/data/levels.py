"""The levels of a mask: values and colours that lie flat in it, as classes do; blurred edges and the noise of
JPEG do not.

None of the 1000 masks of Kvasir-SEG, which are JPEG, has a level beside black and white by these rules.
"""

import cv2
import numpy as np

CALM = 16  # of 255: values of a window that differ by no more are one level
APART = 24  # of 255: levels that differ by no more are one, with JPEG's noise
LEAST = 40  # pixels in the middle of calm windows; fewer are no level
MOST = 16  # levels that are told
STRONG = 0.4  # of the brightest channel: the least difference to the darkest that is a colour
HUE = 128  # of 255: full colours that differ by more are of different hues
OTHERS = 0.2  # of the bright pixels; where fewer have another hue, they are edges


def flat(values: np.ndarray) -> list[float]:
    """The values of (H, W) that have a pixel whose eight neighbours are all of the same value, sorted."""
    picture = values.astype(np.float32)  # OpenCV compares no wide integers
    kernel = np.ones((3, 3), np.uint8)
    return np.unique(values[cv2.dilate(picture, kernel) == cv2.erode(picture, kernel)]).tolist()


def about(picture: np.ndarray) -> dict[tuple[int, ...], int]:
    """About what levels (H, W, C) uint8 has, the most frequent first: colour to pixels in calm surroundings,
    5 x 5 pixels."""
    kernel = np.ones((5, 5), np.uint8)
    spread = [cv2.dilate(channel, kernel) - cv2.erode(channel, kernel)
              for channel in np.moveaxis(np.ascontiguousarray(picture), 2, 0)]
    left, counts = _distinct(picture[np.max(spread, axis=0) <= CALM])
    levels: dict[tuple[int, ...], int] = {}
    while counts.sum() >= LEAST and len(levels) < MOST:
        middle = _most_frequent(left, counts, CALM)
        near = np.abs(left - middle).max(axis=1) <= APART
        if (count := int(counts[near].sum())) >= LEAST:
            levels[tuple(np.round(middle).astype(int).tolist())] = count
        left, counts = left[~near], counts[~near]
    return levels


def has_hues(picture: np.ndarray) -> bool:
    """Whether the bright pixels of (H, W, 3) uint8 are of several hues, however dark their edges are, and
    whatever colour JPEG took from them."""
    colours, counts = _distinct(picture[picture.max(axis=2) > 127])
    highest, lowest = colours.max(axis=1, initial=0), colours.min(axis=1, initial=255)
    strong = highest - lowest > STRONG * highest
    if counts[strong].sum() < LEAST:
        return False
    pure = (colours - lowest[:, None])[strong] / (highest - lowest)[strong, None]
    pure = np.round(pure * 255).astype(np.int64)
    others = np.abs(pure - _most_frequent(pure, counts[strong], 32)).max(axis=1) > HUE
    return bool(counts[strong][others].sum() > OTHERS * counts.sum())


def _distinct(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours (N, C) int64, C at most 3, of pixels (P, C) uint8, and how often each occurs: the pixels of
    a large picture would not fit into memory as numbers that can be reckoned with."""
    codes = np.zeros(len(pixels), np.int32)
    for channel in pixels.T:
        codes = codes << 8 | channel
    often = np.bincount(codes)
    found = np.flatnonzero(often)
    shifts = np.arange(pixels.shape[1])[::-1] * 8
    return found[:, None] >> shifts & 255, often[found]


def _most_frequent(colours: np.ndarray, counts: np.ndarray, step: int) -> np.ndarray:
    """The mean of the colours (N, C), each of which occurs so often, in the fullest cell of that side."""
    cells = np.zeros(len(colours), np.int64)
    for channel in colours.T:
        cells = cells * (256 // step) + channel // step
    places, cells = np.unique(cells, return_inverse=True)
    sums = np.zeros(len(places), np.int64)
    np.add.at(sums, cells, counts)
    here = cells == sums.argmax()
    return (colours[here] * counts[here, None]).sum(axis=0) / counts[here].sum()
