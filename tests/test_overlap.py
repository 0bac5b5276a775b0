"""Scores of masks: against scikit-learn's, against the published evaluator's, and where a mask is empty."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from diffusegen_core.measures import overlap


def predictions(n: int = 40, side: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities (N, 2, S, S) and masks (N, 1, S, S), from nearly empty to nearly full."""
    rng = np.random.default_rng(seed)
    polyp = np.clip(rng.random((n, side, side)) + np.linspace(-0.4, 0.4, n)[:, None, None], 0, 1)
    masks = rng.random((n, 1, side, side)) < rng.random((n, 1, 1, 1))
    return np.stack([1 - polyp, polyp], axis=1).astype(np.float32), masks.astype(np.uint8)


def hard(truth: list[int], found: list[int]) -> tuple[float, float]:
    """Dice and IoU of one image of a single row of pixels."""
    polyp = np.array(found, np.float32)[None, None]
    frame = overlap.scores(np.stack([1 - polyp, polyp], axis=1), np.array(truth)[None, None, None])
    return frame["dice"][0], frame["iou"][0]


def test_the_polyps_scores_are_those_of_scikit_learn():
    probabilities, masks = predictions()
    frame = overlap.scores(probabilities, masks)
    found = (probabilities[:, 1] > 0.5).reshape(len(masks), -1)
    for row, (a, b) in enumerate(zip(masks.reshape(len(masks), -1), found, strict=True)):
        assert frame["dice"][row] == pytest.approx(f1_score(a, b), abs=1e-12)
        assert frame["iou"][row] == pytest.approx(jaccard_score(a, b), abs=1e-12)
    assert list(frame.columns) == overlap.COLUMNS
    assert frame["iou"].nunique() > 30


@pytest.mark.filterwarnings("ignore:`smp.utils`")
def test_the_pair_of_both_channels_is_that_of_the_published_evaluator():
    from segmentation_models_pytorch.utils import losses, metrics

    probabilities, masks = predictions()
    frame = overlap.scores(probabilities, masks)
    truth = torch.from_numpy(np.concatenate([1 - masks, masks], axis=1)).double()
    found = torch.from_numpy(probabilities).double()
    for row in range(len(masks)):
        one = slice(row, row + 1)
        assert frame["iou_both"][row] == pytest.approx(
            float(metrics.IoU(threshold=0.5)(found[one], truth[one])), abs=1e-8)
        assert frame["dice_both"][row] == pytest.approx(
            1 - float(losses.DiceLoss()(found[one], truth[one])), abs=1e-12)


def test_a_right_but_timid_prediction_has_a_soft_dice_below_its_iou():
    _, masks = predictions(5)
    polyp = 0.3 + 0.4 * masks[:, 0]
    frame = overlap.scores(np.stack([1 - polyp, polyp], axis=1), masks)
    assert (frame[["dice", "iou", "iou_both"]] == 1).all(axis=None)
    assert frame["dice_both"].tolist() == pytest.approx([0.7] * 5, abs=0.01)


def test_empty_masks():
    assert hard([0, 0, 0, 0], [0, 0, 0, 0]) == (1, 1)
    assert hard([0, 0, 0, 0], [0, 1, 0, 0]) == (0, 0)
    assert hard([0, 1, 0, 0], [0, 0, 0, 0]) == (0, 0)
    assert hard([1, 1, 1, 1], [1, 1, 1, 1]) == (1, 1)
    assert hard([1, 1, 0, 0], [0, 0, 1, 1]) == (0, 0)
    assert hard([1, 1, 0, 0], [1, 0, 0, 0]) == pytest.approx((2 / 3, 1 / 2))


def test_half_is_no_polyp_and_other_images_do_not_matter():
    half = np.full((1, 2, 4, 4), 0.5, np.float32)
    assert overlap.scores(half, np.ones((1, 1, 4, 4)))["dice"][0] == 0
    probabilities, masks = predictions(6)
    whole = overlap.scores(probabilities, masks)
    alone = overlap.scores(probabilities[4:5], masks[4:5])
    assert whole.iloc[4].tolist() == alone.iloc[0].tolist()
    assert (whole["dice"] >= whole["iou"]).all()


def test_known_values_image_by_image():
    found = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], float).reshape(3, 2, 2)
    true = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]).reshape(3, 1, 2, 2)
    frame = overlap.scores(np.stack([1 - found, found], axis=1), true)
    assert frame["dice"].tolist() == pytest.approx([2 * 2 / 6, 2 * 1 / 5, 2 * 1 / 4])
    assert frame["iou"].tolist() == pytest.approx([2 / 4, 1 / 4, 1 / 3])
