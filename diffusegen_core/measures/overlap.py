"""How far a predicted mask agrees with the true one, image by image (paper 2.6, method.md 7)."""

import numpy as np
import pandas as pd

COLUMNS = ["dice", "iou", "dice_both", "iou_both"]
THRESHOLD = 0.5
SMOOTHING = 1.0  # of the published evaluator's soft Dice


def scores(probabilities: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """One row of COLUMNS for each image: its prediction against its mask, whatever the other images are.

    `probabilities` (N, 2, S, S), background and polyp, sum to one; `masks` (N, 1, S, S) are 1 where polyp.
    `dice` and `iou` are the polyp's, of hard masks: a pixel is polyp where its probability exceeds 0.5. Where
    both masks are empty they are 1, where one is they are 0, and dice >= iou on every row.

    `iou_both` and `dice_both` are what the published evaluator (DivergentNets) prints for an image: hard IoU
    over the pixels of both channels at once, and one minus the soft Dice loss over them, which is a figure of
    the probabilities; so `dice_both` may be below `iou_both`.
    """
    truth = np.concatenate([masks == 0, masks != 0], axis=1)
    predicted = probabilities > THRESHOLD
    hits, total = _counts(predicted[:, 1:], truth[:, 1:])
    # Two empty masks agree; total is 0 nowhere else.
    dice = np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))
    iou = np.where(total == 0, 1.0, hits / np.maximum(total - hits, 1))
    assert (dice >= iou).all(), "hard Dice below IoU"
    hits, total = _counts(predicted, truth)  # the union is never empty: every pixel is of one class
    iou_both = hits / (total - hits)
    hits, total = _counts(probabilities, truth)
    dice_both = (2 * hits + SMOOTHING) / (total + SMOOTHING)
    return pd.DataFrame({"dice": dice, "iou": iou, "dice_both": dice_both, "iou_both": iou_both})


def _counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the sum over the intersection, and the sum of both sums; float64 (N,)."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (predicted, truth))
    return (a * b).sum(1), a.sum(1) + b.sum(1)
