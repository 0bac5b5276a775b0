"""Lesion by lesion: how large it is, and whether it was detected; and images by the size of their lesions.

A lesion is a connected part of a true mask, over corners too. Seven in a hundred HyperKvasir images have more
than one, and there the Dice of the image says little of the small one.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

COLUMNS = ["image", "lesion", "area", "iou"]
# A lesion counts as detected from this IoU on. It is the usual value of object detection (PASCAL VOC), and
# from it on no prediction can count for two lesions; any overlap at all would let one that covers the whole
# image detect everything.
DETECTED = 0.5
SIZES = ["small", "medium", "large"]


def each(predicted: np.ndarray, masks: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A row of COLUMNS for each lesion of masks (N, S, S), predicted and true, of images of these names.

    `lesion` numbers those of an image from 1; `area` is a share of the image. `iou` is with all connected
    parts of the prediction that touch the lesion, together. An image without any lesion has no row.
    """
    rows = []
    for name, found, true in zip(names, predicted, masks, strict=True):
        rows += [(name, number, area, iou) for number, (area, iou) in enumerate(_of_image(found, true), 1)]
    return pd.DataFrame(rows, columns=COLUMNS)


def false_alarms(predicted: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """For each image of masks (N, S, S), predicted and true, how many connected parts of the prediction touch
    no lesion; (N,)."""
    counts = []
    for found, true in zip(predicted, masks, strict=True):
        count, parts = _parts(found)
        counts.append(count - 1 - len(set(np.unique(parts[true != 0])) - {0}))
    return np.array(counts, int)


def _of_image(predicted: np.ndarray, true: np.ndarray) -> list[tuple[float, float]]:
    (count, lesions), (parts, found) = map(_parts, (true, predicted))
    # Pixels by lesion and part of the prediction; 0 is the background of both.
    shared = np.bincount((lesions * parts + found).ravel(), minlength=count * parts).reshape(count, parts)
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
    """The areas that part a test set's own into thirds, small, medium and large; NaN where there is none.

    No fixed shares of an image part every test set into groups that are large enough to compare.
    """
    if not len(areas):
        return float("nan"), float("nan")
    low, high = np.quantile(np.asarray(areas, float), [1 / 3, 2 / 3])
    return float(low), float(high)


def sizes(areas: pd.Series, parting: tuple[float, float]) -> pd.Series:
    """Which of SIZES each area is; what lies on a bound is of the smaller ones."""
    return pd.Series(np.array(SIZES)[np.searchsorted(parting, areas.to_numpy(float))], index=areas.index)
