"""The levels of a mask: values and colours that form flat areas, as classes do and blurred edges and JPEG
noise do not.

By these rules, none of Kvasir-SEG's 1000 masks, which are JPEG, has a level beside black and white.
"""

import cv2
import numpy as np

CALM = 16  # of 255: a window whose values differ by no more is calm
APART = 24  # of 255: levels that differ by no more are the same, but for JPEG noise
LEAST = 40  # pixels at the centres of calm windows; fewer are no level
MOST = 16  # levels returned at most
STRONG = 0.4  # of the brightest channel: a larger difference to the darkest is a colour
HUE = 128  # of 255: full colours that differ by more are of different hues
OTHERS = 0.2  # of the bright pixels; where fewer have another hue, they are edges


def flat(values: np.ndarray) -> list[float]:
    """The values of (H, W) that some pixel shares with all of its eight neighbours, sorted."""
    picture = values.astype(np.float32)  # OpenCV does not compare wide integers
    kernel = np.ones((3, 3), np.uint8)
    return np.unique(values[cv2.dilate(picture, kernel) == cv2.erode(picture, kernel)]).tolist()


def about(picture: np.ndarray) -> dict[tuple[int, ...], int]:
    """The approximate levels of (H, W, C) uint8, the most frequent first: colour -> pixels at the centre of
    calm windows of 5 x 5 pixels."""
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
    """Whether the bright pixels of (H, W, 3) uint8 have several hues, however dark their edges are, and
    however much colour JPEG lost."""
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
    """The distinct colours (N, C) int64, C at most 3, of pixels (P, C) uint8, and how often each occurs: all
    pixels of a large picture would not fit into memory as int64."""
    codes = np.zeros(len(pixels), np.int32)
    for channel in pixels.T:
        codes = codes << 8 | channel
    often = np.bincount(codes)
    common = np.flatnonzero(often)
    shifts = np.arange(pixels.shape[1])[::-1] * 8
    return common[:, None] >> shifts & 255, often[common]


def _most_frequent(colours: np.ndarray, counts: np.ndarray, step: int) -> np.ndarray:
    """The mean colour in the fullest cell of side `step`, of colours (N, C) that occur `counts` times."""
    cells = np.zeros(len(colours), np.int64)
    for channel in colours.T:
        cells = cells * (256 // step) + channel // step
    places, cells = np.unique(cells, return_inverse=True)
    sums = np.zeros(len(places), np.int64)
    np.add.at(sums, cells, counts)
    here = cells == sums.argmax()
    return (colours[here] * counts[here, None]).sum(axis=0) / counts[here].sum()
