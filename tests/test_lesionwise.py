"""Lesions: how large each is, whether it was detected, and the thirds of a test set."""

import numpy as np
import pandas as pd
import pytest

from diffusegen_core.measures import lesionwise


def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask (1, 10, 10) of boxes: top, left, height, width."""
    mask = np.zeros((1, 10, 10), np.uint8)
    for top, left, height, width in boxes:
        mask[0, top:top + height, left:left + width] = 1
    return mask


def found(predicted: np.ndarray, true: np.ndarray) -> list[tuple[float, float]]:
    table = lesionwise.each(predicted, true, ["a"])
    assert list(table) == lesionwise.COLUMNS
    return list(zip(table["area"], table["iou"].round(6), strict=True))


def test_a_small_lesion_beside_a_large_one_counts_for_itself():
    true = drawn((0, 0, 5, 5), (8, 8, 2, 2))
    assert found(drawn((0, 0, 5, 5)), true) == [(0.25, 1), (0.04, 0)]
    assert found(drawn((0, 0, 5, 4), (8, 8, 2, 1)), true) == [(0.25, 0.8), (0.04, 0.5)]
    assert lesionwise.each(true, true, ["a"])[["image", "lesion"]].to_numpy().tolist() == [["a", 1], ["a", 2]]


def test_what_touches_a_lesion_counts_against_it_whole():
    true = drawn((2, 2, 2, 2))
    assert found(np.ones_like(true), true) == [(0.04, 0.04)], "the whole image detects nothing"
    assert found(drawn((2, 2, 2, 1), (2, 3, 1, 6)), true) == [(0.04, round(3 / 9, 6))]
    assert found(drawn((2, 2, 2, 2), (8, 0, 2, 9)), true) == [(0.04, 1)], "what lies elsewhere does not"
    one_over_two = found(drawn((0, 0, 2, 10)), drawn((0, 0, 2, 4), (0, 6, 2, 4)))
    assert one_over_two == [(0.08, 0.4), (0.08, 0.4)]


def test_empty_masks_single_pixels_and_corners():
    empty, pixel = drawn(), drawn((4, 4, 1, 1))
    assert found(empty, empty) == found(pixel, empty) == []
    assert found(empty, pixel) == [(0.01, 0)]
    assert found(pixel, pixel) == [(0.01, 1)]
    assert found(empty, drawn((4, 4, 1, 1), (5, 5, 1, 1))) == [(0.02, 0)], "joined over a corner"


def test_parts_that_touch_no_lesion_are_false_alarms():
    true = drawn((2, 2, 2, 2), (8, 0, 1, 1))
    predicted = drawn((2, 3, 1, 4), (6, 6, 1, 1), (8, 8, 1, 1), (9, 9, 1, 1), (8, 0, 2, 1))
    pairs = [(predicted, true, 2), (true, true, 0), (predicted, drawn(), 4), (drawn(), true, 0)]
    shown, masks = (np.concatenate(each) for each in list(zip(*pairs, strict=True))[:2])
    assert lesionwise.false_alarms(shown, masks).tolist() == [count for *_, count in pairs]


def test_thirds_of_a_test_set():
    areas = pd.Series([0.01, 0.02, 0.10, 0.12, 0.30, 0.50, 0.4], index=list("abcdefg"))
    parting = lesionwise.bounds(areas)
    assert parting == pytest.approx((0.10, 0.30))
    assert lesionwise.sizes(areas, parting).to_dict() == {
        "a": "small", "b": "small", "c": "small", "d": "medium", "e": "medium", "f": "large", "g": "large"}
    assert lesionwise.sizes(pd.Series([0.2]), lesionwise.bounds([0.2])).tolist() == ["small"]
    assert np.isnan(lesionwise.bounds([])).all()
    assert lesionwise.sizes(pd.Series([], dtype=float), lesionwise.bounds([])).empty
