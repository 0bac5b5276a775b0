"""Scores by lesion: its size, and whether it was detected; and classes of lesion sizes.

A lesion is a connected part of a true mask, corners included. Seven in a hundred HyperKvasir images have more
than one, and there the Dice of the image says little about the small one.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

COLUMNS = ["image", "lesion", "area", "iou"]
# The IoU from which a lesion counts as detected. It is the usual value in object detection (PASCAL VOC), and
# from it on no prediction can count for two lesions. If any overlap counted, a prediction that covers the
# whole image would detect everything.
DETECTED = 0.5
SIZES = ["small", "medium", "large"]


def each(predicted: np.ndarray, masks: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A row of COLUMNS for each lesion of masks (N, S, S), predicted and true, of the images named.

    `lesion` counts from 1 in each image; `area` is a share of the image. `iou` is with the union of all
    connected parts of the prediction that overlap the lesion. An image without any lesion has no row.
    """
    rows = []
    for name, drawn, true in zip(names, predicted, masks, strict=True):
        rows += [(name, number, area, iou) for number, (area, iou) in enumerate(_of_image(drawn, true), 1)]
    return pd.DataFrame(rows, columns=COLUMNS)


def false_alarms(predicted: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How many connected parts of each prediction overlap no lesion, (N,), of masks (N, S, S)."""
    counts = []
    for drawn, true in zip(predicted, masks, strict=True):
        count, parts = _parts(drawn)
        counts.append(count - 1 - len(set(np.unique(parts[true != 0])) - {0}))
    return np.array(counts, int)


def _of_image(predicted: np.ndarray, true: np.ndarray) -> list[tuple[float, float]]:
    (count, lesions), (parts, pieces) = map(_parts, (true, predicted))
    # Counts of pixels by lesion and part of the prediction; 0 is the background of both.
    shared = np.bincount((lesions * parts + pieces).ravel(), minlength=count * parts).reshape(count, parts)
    areas, hits = shared.sum(axis=1)[1:], shared[1:, 1:]
    touching = (hits > 0) @ shared.sum(axis=0)[1:]
    common = hits.sum(axis=1)
    return list(zip((areas / true.size).tolist(), (common / (areas + touching - common)).tolist(),
                    strict=True))


def _parts(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """How many connected parts a mask has, the background included, and the number of each pixel's."""
    count, labels = cv2.connectedComponents((mask != 0).astype(np.uint8), connectivity=8)
    return count, labels


def bounds(areas: Sequence[float] | np.ndarray | pd.Series) -> tuple[float, float]:
    """The two areas that split those of a test set into thirds, small, medium, large; NaN if it has none.

    No fixed areas would split every test set into groups that are large enough to compare.
    """
    if not len(areas):
        return float("nan"), float("nan")
    low, high = np.quantile(np.asarray(areas, float), [1 / 3, 2 / 3])
    return float(low), float(high)


def sizes(areas: pd.Series, parting: tuple[float, float]) -> pd.Series:
    """Which of SIZES each area is; one on a bound belongs to the smaller size."""
    return pd.Series(np.array(SIZES)[np.searchsorted(parting, areas.to_numpy(float))], index=areas.index)
