"""How far a predicted mask agrees with the true one, image by image (paper 2.6, method.md 7)."""

import numpy as np
import pandas as pd

from diffusegen_core.data import planes

COLUMNS = ["dice", "iou", "dice_both", "iou_both"]
THRESHOLD = 0.5
SMOOTHING = 1.0  # of the published evaluator's soft Dice


def scores(probabilities: np.ndarray, masks: np.ndarray, overlap: bool = False) -> pd.DataFrame:
    """One row of `columns` for each image: its prediction against its mask, independent of other images.

    `probabilities` (N, M + 1, S, S), background and classes, sum to one unless classes `overlap`; `masks`
    (N, M, S, S) are 1 where a pixel is of the class. `dice` and `iou` are of hard masks, averaged over the
    classes; `dice_1` and so on are those of single classes. Where both masks of a class are empty they are 1,
    where one is they are 0, and dice >= iou in every row.

    `iou_both` and `dice_both` are what the published evaluator (DivergentNets) prints for an image: hard IoU
    over the pixels of all channels at once, and one minus the soft Dice loss over them, which is computed
    from the probabilities; so `dice_both` may be below `iou_both`.
    """
    truth = np.concatenate([planes.union(masks)[:, None] == 0, masks != 0], axis=1)
    predicted = hard(probabilities, overlap)
    each = [_of_class(predicted[:, number], truth[:, number]) for number in range(1, truth.shape[1])]
    dice, iou = (np.mean(values, axis=0) for values in zip(*each, strict=True))
    hits, total = _counts(predicted, truth)  # the union is never empty: every pixel is of a class, or of none
    iou_both = hits / (total - hits)
    hits, total = _counts(probabilities, truth)
    dice_both = (2 * hits + SMOOTHING) / (total + SMOOTHING)
    table = pd.DataFrame({"dice": dice, "iou": iou, "dice_both": dice_both, "iou_both": iou_both})
    own = dict(zip(of_classes(len(each)), (values for values, _ in each), strict=False))
    return table.assign(**own)


def columns(classes: int) -> list[str]:
    """COLUMNS, and for several classes the Dice of each."""
    return [*COLUMNS, *of_classes(classes)]


def of_classes(classes: int) -> list[str]:
    """The columns of each class's Dice, `dice_1` to `dice_M`; none for a single class (it is `dice`)."""
    return [f"dice_{number}" for number in range(1, classes + 1)] if classes > 1 else []


def hard(probabilities: np.ndarray, overlap: bool = False) -> np.ndarray:
    """Hard masks from probabilities (N, M + 1, S, S), background and classes, bool of the same shape.

    With one class, each channel where its probability exceeds 0.5; with several, the likeliest channel, or if
    they `overlap` every class above 0.5, and background where there is none.
    """
    if overlap:
        each = probabilities[:, 1:] > THRESHOLD
        return np.concatenate([~each.any(axis=1, keepdims=True), each], axis=1)
    if probabilities.shape[1] == 2:
        return probabilities > THRESHOLD
    likeliest = probabilities.argmax(axis=1)
    return np.stack([likeliest == number for number in range(probabilities.shape[1])], axis=1)


def _of_class(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU (N,) of masks (N, S, S)."""
    hits, total = _counts(predicted, truth)
    # Two empty masks agree; total is 0 nowhere else.
    dice = np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))
    iou = np.where(total == 0, 1.0, hits / np.maximum(total - hits, 1))
    return dice, iou


def _counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the sum over the intersection, and the sum over both arrays; float64 (N,)."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (predicted, truth))
    return (a * b).sum(1), a.sum(1) + b.sum(1)
