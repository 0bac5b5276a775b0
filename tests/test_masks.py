"""Masks for lesions to paint: where tissue is seen, and how a mask is changed and placed."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusegen_core.data import masks, phantom


def endoscopic(side: int = 128, text: bool = True) -> np.ndarray:
    """Mucosa in a round field of view, with two lines of text on it and one on the frame."""
    rng = np.random.default_rng(0)
    image = np.clip(np.array([180, 110, 90]) + rng.normal(0, 4, (side, side, 3)), 0, 255).astype(np.uint8)
    ys, xs = np.mgrid[:side, :side]
    image[np.hypot(ys - side / 2, xs - side / 2) > 0.46 * side] = rng.integers(0, 12)
    if text:
        for left, top in ((0.2, 0.5), (0.2, 0.58), (0.0, 0.04)):
            cv2.putText(image, "12:34:56", (round(left * side), round(top * side)), cv2.FONT_HERSHEY_SIMPLEX,
                        0.0022 * side, (235, 235, 235), 1, cv2.LINE_AA)
    return image.transpose(2, 0, 1)


def disc(side: int = 128, radius: float = 12, x: float = 30, y: float = 40) -> np.ndarray:
    ys, xs = np.mgrid[:side, :side]
    return (np.hypot(ys - y, xs - x) <= radius).astype(np.uint8)


def test_the_field_of_view_leaves_out_the_frame_and_text_and_nothing_else():
    plain, written = (masks.field_of_view(endoscopic(text=text)) for text in (False, True))
    inside = disc(128, 0.46 * 128, 64, 64)
    assert (plain != inside).mean() < 0.01
    light = (endoscopic().min(axis=0) > 200)
    assert light[:20].any()
    assert light[40:90].any()
    assert written[light].mean() < 0.1, "text is not tissue, on the frame or on the mucosa"
    assert (plain & ~written & 1).mean() < 0.06, "little besides the lines is left out"
    assert written.dtype == np.uint8
    assert set(np.unique(written)) == {0, 1}


def test_letters_that_took_on_colour_are_text_and_highlights_of_any_height_are_not():
    image, rng = endoscopic(256, text=False).transpose(1, 2, 0).copy(), np.random.default_rng(1)
    for _ in range(14):  # in a patch, as on a wet polyp
        x, y = map(int, rng.integers((150, 120), (200, 150)))
        axes = int(rng.integers(1, 4)), int(rng.integers(1, 6))
        cv2.ellipse(image, (x, y), axes, 0, 0, 360, (255, 255, 255), -1)
    blank = image.copy()
    cv2.putText(image, "12.03.1957", (40, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (250, 200, 160), 1)
    letters = (image != blank).any(axis=2)
    found, strict = (masks.text(image.transpose(2, 0, 1), tinged) for tinged in (True, False))
    assert found[letters].mean() > 0.85
    assert not strict[letters].any()
    assert found.sum() == pytest.approx(letters.any(axis=0).sum() * letters.any(axis=1).sum(), rel=0.3)


@pytest.mark.parametrize("grey", [0, 12, 22, 40])
def test_a_frame_may_be_grey_and_tissue_up_to_the_corners_has_none(grey: int):
    image = endoscopic(text=False)
    inside = disc(128, 0.46 * 128, 64, 64)
    image[:, inside == 0] = grey
    blurred = cv2.GaussianBlur(image.transpose(1, 2, 0), (3, 3), 0).transpose(2, 0, 1)  # as by resizing
    assert (masks.field_of_view(blurred) != inside).mean() < 0.03
    assert masks.field_of_view(np.full((3, 64, 64), 60, np.uint8)).all()


def test_a_dark_cavity_is_tissue_and_a_black_picture_shows_none():
    image = endoscopic(text=False)
    cavity = disc(128, 15, 64, 64) > 0
    image[:, cavity] = 3
    assert masks.field_of_view(image)[cavity].all()
    black = np.zeros((3, 32, 32), np.uint8)
    assert not masks.field_of_view(black).any()
    drawn = masks.varied(disc(32, 5, 10, 10), masks.field_of_view(black), np.random.default_rng(0))
    assert not drawn.mask.any()


@settings(max_examples=60)
@given(radius=st.floats(1, 60), x=st.floats(0, 127), y=st.floats(0, 127), seed=st.integers(0, 2**32))
def test_a_varied_mask_stays_in_the_field_of_view(radius: float, x: float, y: float, seed: int):
    view = masks.field_of_view(endoscopic())
    mask = disc(128, radius, x, y)
    mask[int(y), int(x)] = 1
    drawn = masks.varied(mask, view, np.random.default_rng(seed))
    assert drawn.mask.shape == mask.shape
    assert drawn.mask.any()
    assert not (drawn.mask & (1 - view)).any()


@pytest.mark.parametrize("seed", range(20))
def test_specks_and_the_smallest_sizes_leave_a_pixel(seed: int):
    specks, view = np.zeros((16, 16), np.uint8), np.ones((16, 16), np.uint8)
    specks[[3, 9], [3, 8]] = 1  # between them there is nothing
    assert masks.varied(specks, view, np.random.default_rng(seed)).mask.any()
    for area in (1e-300, 1e-7, 0.002):
        drawn = masks.alike(specks, masks.Like(area, 0.5, 0.5), view, np.random.default_rng(seed))
        assert 1 <= drawn.mask.sum() <= 4


def test_sizes_of_varied_masks_are_those_of_the_masks():
    view = np.ones((128, 128), np.uint8)
    before = [phantom.draw(0, number, 128)[1][0] for number in range(80)]
    after = [masks.varied(mask, view, np.random.default_rng(number)).mask
             for number, mask in enumerate(before)]
    ratios = np.array([b.sum() / a.sum() for a, b in zip(before, after, strict=True)])
    assert np.median(ratios) == pytest.approx(1, abs=0.12)
    assert ratios.min() > 0.5 * masks.SCALE**-2
    assert ratios.max() < 1.5 * masks.SCALE**2
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    sizes = [np.quantile([mask.sum() for mask in some], quantiles) for some in (before, after)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.25)


def test_masks_are_placed_all_over_the_view_and_vary_in_shape():
    view, mask = np.ones((64, 64), np.uint8), disc(64, 6, 8, 8)
    mask[8:10, 2:30] = 1  # a disc with a tail, so that a turn shows
    drawn = [masks.varied(mask, view, np.random.default_rng(seed)) for seed in range(60)]
    middles = np.array([np.argwhere(one.mask).mean(axis=0) for one in drawn])
    assert middles.min(axis=0).max() < 25
    assert middles.max(axis=0).min() > 38
    assert len({one.mask.tobytes() for one in drawn}) == len({one.change for one in drawn}) == 60


@pytest.mark.parametrize("turn", [0.0, 20.0])
def test_a_limit_keeps_masks_upright(turn: float):
    view, bar = np.ones((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    bar[30:34, 10:40] = 1
    for seed in range(30):
        for drawn in (masks.varied(bar, view, np.random.default_rng(seed), turn),
                      masks.moved(bar, view, np.random.default_rng(seed), turn),
                      masks.alike(bar, masks.Like(0.03, 0.5, 0.5), view, np.random.default_rng(seed), turn)):
            angle = float(re.search(r"turned by (-?\d+) degrees", drawn.change)[1])
            assert abs(angle) <= turn
            assert np.ptp(np.nonzero(drawn.mask)[1]) > np.ptp(np.nonzero(drawn.mask)[0])


def test_words_for_sizes_are_about_the_lesions_that_there_are():
    areas, square = np.linspace(0.01, 0.11, 11), (40, 40)
    of = {word: masks.Like.parse(f"{word},centre").within((20, 40), square, areas).area
          for word in masks.SIZES}
    assert of == pytest.approx({"small": 0.02, "medium": 0.06, "large": 0.1})
    assert masks.Like(0.1, 0.5, 0.5).within((20, 40), square, areas).area == pytest.approx(0.05)


def test_a_mask_depends_on_its_generator_alone():
    view, mask = masks.field_of_view(endoscopic()), disc()
    first, again, other = (masks.varied(mask, view, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.mask, again.mask)
    assert first.change == again.change
    assert not np.array_equal(first.mask, other.mask)


def test_a_mask_that_does_not_fit_is_cut_where_most_of_it_is_seen():
    view = np.zeros((64, 64), np.uint8)
    view[20:40, 10:50] = 1
    drawn = masks.varied(np.ones((64, 64), np.uint8), view, np.random.default_rng(0))
    assert drawn.mask.sum() > 0.9 * view.sum()
    assert not (drawn.mask & (1 - view)).any()


# ---- at a picture's own size

@pytest.mark.parametrize("radius", [6, 10, 14])
def test_an_enlarged_mask_has_a_smooth_outline_and_keeps_its_area(radius: int):
    mask, times = disc(64, radius, 30, 34), 10
    large = masks.enlarged(mask, (64 * times, 64 * times))
    assert large.mean() == pytest.approx(mask.mean(), rel=0.02)
    (outline, *others), _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    assert not others
    apart = np.hypot(*(outline[:, 0] - np.array([30.5, 34.5]) * times + 0.5).T)
    assert np.abs(apart - np.median(apart)).max() < 0.4 * times, "a step of its pixels is 0.5"


def test_an_enlarged_mask_loses_no_class_and_not_a_single_pixel():
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:24], mask[12, 12], mask[28, 3] = 1, 2, 3
    large = masks.enlarged(mask, (300, 280))
    assert large.shape == (280, 300)
    assert np.unique(large).tolist() == [0, 1, 2, 3]
    assert np.array_equal(masks.enlarged(mask, (32, 32)), mask)


def test_a_picture_without_colour_is_grey_whatever_its_channels():
    colours = endoscopic()
    assert not masks.is_grey(colours)
    assert masks.is_grey(colours[:1].repeat(3, axis=0))
