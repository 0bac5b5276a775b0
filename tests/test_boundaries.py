"""HD95 and normalised surface distance: by hand, by brute force, and where a mask is empty or a pixel."""

from time import perf_counter

import numpy as np
import pytest

from diffusegen_core.measures import boundaries


def mask(*pixels: tuple[int, int], side: int = 10) -> np.ndarray:
    drawn = np.zeros((1, side, side), np.uint8)
    for row, column in pixels:
        drawn[0, row, column] = 1
    return drawn


def square(top: int, left: int, size: int, side: int = 20) -> np.ndarray:
    drawn = np.zeros((1, side, side), np.uint8)
    drawn[0, top:top + size, left:left + size] = 1
    return drawn


def scored(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    row, = boundaries.scores(predicted, true).itertuples(index=False)
    return row.hd95, row.nsd


def test_the_outline_is_what_touches_the_outside_by_a_side():
    found = boundaries.edges(square(5, 5, 4))[0]
    assert found.sum() == 12
    assert not found[6:8, 6:8].any()
    ring = square(0, 0, 20)
    assert boundaries.edges(ring).sum() == 4 * 19, "beyond the image is outside"
    plus = mask((4, 5), (5, 4), (5, 5), (5, 6), (6, 5))
    assert boundaries.edges(plus).sum() == 4, "the middle touches it by corners alone"


def test_single_pixels_are_as_far_apart_as_they_are():
    assert scored(mask((2, 2)), mask((2, 2))) == (0, 1)
    assert scored(mask((2, 2)), mask((5, 6))) == (5, 0)
    assert scored(mask((2, 2)), mask((2, 3))) == (1, 1), "within the tolerance of a pixel"


def test_a_shifted_square_by_hand():
    """Moved by 2 to the right, outlines of 12 pixels: 2 of each are on the other, and 2 a pixel beside it."""
    hd95, nsd = scored(square(5, 5, 4), square(5, 7, 4))
    there = [2, 2, 2, 2] + [1, 1] + [1, 1] + [0] * 4
    assert hd95 == pytest.approx(np.percentile(there, 95))
    assert nsd == pytest.approx(8 / 12)


def test_the_far_twentieth_does_not_count_and_the_worse_side_does():
    true = square(4, 4, 11, side=40)
    stray = true.copy()
    stray[0, 39, 39] = 1  # 1 of 41 pixels of the outline
    assert scored(stray, true) == (0, pytest.approx(80 / 81))
    many = true.copy()
    many[0, 35, 20:30] = 1
    assert scored(many, true)[0] > 20
    assert scored(true, many)[0] == scored(many, true)[0]


def test_empty_masks_cost_what_they_should():
    empty = np.zeros((1, 10, 10), np.uint8)
    assert scored(empty, empty) == (0, 1)
    for pair in ((empty, mask((3, 3))), (mask((3, 3)), empty)):
        assert scored(*pair) == (pytest.approx(10 * 2 ** 0.5), 0)
    whole = np.ones((1, 10, 10), np.uint8)
    assert scored(whole, whole) == (0, 1)


def test_the_tolerance_grows_with_the_image():
    assert [boundaries.tolerance(side) for side in (16, 50, 64, 256)] == [1, 1, 1.28, 5.12]


def test_it_is_what_brute_force_gives_and_other_images_do_not_matter():
    rng = np.random.default_rng(0)
    predicted, true = (rng.random((30, 12, 12)) < rng.random((30, 1, 1)) for _ in range(2))
    found = boundaries.scores(predicted, true)
    for row, (a, b) in enumerate(zip(*map(boundaries.edges, (predicted, true)), strict=True)):
        a, b = np.argwhere(a), np.argwhere(b)
        apart = np.linalg.norm(a[:, None] - b[None], axis=2)
        there, back = apart.min(axis=1), apart.min(axis=0)
        assert found["hd95"][row] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
        within = (there <= 1).sum() + (back <= 1).sum()
        assert found["nsd"][row] == pytest.approx(within / (len(a) + len(b)))
    assert boundaries.scores(predicted[4:5], true[4:5]).iloc[0].tolist() == found.iloc[4].tolist()


def test_a_test_set_takes_less_than_seconds():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :256]

    def discs() -> np.ndarray:
        return np.stack([np.hypot(rows - rng.uniform(60, 190), columns - rng.uniform(60, 190))
                         < rng.uniform(8, 60) for _ in range(50)])
    predicted, true = discs(), discs()
    start = perf_counter()
    boundaries.scores(predicted, true)
    assert perf_counter() - start < 5, "a fortieth of it on an idle machine"
