"""Regions: what is filled, what a generated mask becomes, and the seam around it."""

import cv2
import numpy as np
import pytest

from diffusegen_core.data import regions


@pytest.mark.parametrize(("pixels", "size", "side"), [
    (20, 256, 20), (16, 256, 16), (20, 128, 10), (20, 64, 5), (16, 64, 4), (20, 32, 2), (16, 16, 1)])
def test_ellipses_scale_with_the_image(pixels: int, size: int, side: int):
    kernel = regions.ellipse(pixels, size)
    assert kernel.shape == (side, side)
    assert kernel.sum() == pytest.approx(np.pi / 4 * side**2, rel=0.25, abs=1)


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128, 256])
def test_the_region_holds_the_mask_and_a_rim_around_it(size: int):
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 2, size // 2), size // 5, 1, -1)
    mask[0, 0] = 1
    region = regions.dilated(mask, 20)
    assert set(np.unique(region)) == {0, 1}
    assert (region >= mask).all()
    rim = (region[size // 2].sum() - mask[size // 2].sum()) / 2
    assert rim == pytest.approx(20 * size / 256 / 2, abs=1)


@pytest.mark.parametrize("size", [32, 64, 100, 128, 256])
def test_opening_removes_specks_and_neither_adds_nor_moves(size: int):
    def opened(channel: np.ndarray) -> np.ndarray:
        return regions.opened(channel.astype(np.float32)[None], 16)
    specks, disk = np.full((size, size), -1.0), np.zeros((size, size), np.uint8)
    specks[4::8, 4::8] = 1  # one on the border may stay: what lies beyond it is not known
    cv2.circle(disk, (size // 2, size // 2), size // 4, 1, -1)
    specks[cv2.dilate(disk, np.ones((5, 5))) > 0] = -1  # nor one that touches the disk
    assert opened(specks).sum() == 0
    alone = opened(np.where(disk, 0.3, -0.2))
    assert (alone <= disk).all()
    assert alone.sum() > 0.95 * disk.sum()
    assert np.array_equal(opened(np.where(disk, 0.3, specks)), alone)

    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(size, size)), (0, 0), size / 20)
    once = opened(noise)
    assert (once <= (noise > 0)).all(), "an opening is never larger than what it is of"
    assert 0 < once.sum() < (noise > 0).sum()
    assert np.array_equal(opened(np.where(once, 1, -1)), once), "and a second one changes nothing"


def test_the_seam_is_the_step_at_the_border():
    region = np.zeros((8, 8), np.uint8)
    region[2:5, 3:7] = 1
    image = np.full((3, 8, 8), 100, np.uint8)
    assert regions.seam(image, region) == 0
    assert regions.seam(image + 40 * region, region) == pytest.approx(40)
    assert regions.seam(image + (40 * np.eye(8)).astype(np.uint8), np.zeros((8, 8), np.uint8)) == 0
    half = image.copy()
    half[:, 5:] += 80  # 4 of the 14 pairs across the border: those below it
    assert regions.seam(half, region) == pytest.approx(80 * 4 / 14)


def test_the_dice_score_of_two_masks():
    a, b = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert regions.mask_dice(a, b) == 1
    a[0, :2] = 1
    assert regions.mask_dice(a, b) == 0
    b[0, 1:4] = 1
    assert regions.mask_dice(a, b) == pytest.approx(2 / 5)


@pytest.mark.parametrize("dilate", [1, 20, 33, 150])
@pytest.mark.parametrize(("x", "y", "radius"), [(40, 30, 6), (0, 0, 9), (79, 59, 3), (40, 59, 0),
                                                (40, 30, 90), (-50, -50, 1)])
def test_a_region_is_the_dilation_of_the_whole_mask(dilate: int, x: int, y: int, radius: int):
    ys, xs = np.mgrid[:60, :80]
    mask = (np.hypot(ys - y, xs - x) <= radius).astype(np.uint8)
    assert np.array_equal(regions.dilated(mask, dilate), cv2.dilate(mask, regions.ellipse(dilate, 80)))


@pytest.mark.parametrize("dilate", [20, 33])
def test_a_picture_on_its_side_has_the_same_region_on_its_side(dilate: int):
    """A picture of 160 x 90 pixels, and the same of 90 x 160; and what it is in the square that pads it."""
    wide = np.zeros((90, 160), np.uint8)
    wide[30:50, 60:90] = 1
    high = np.ascontiguousarray(wide.T)
    left, top, width, height = cv2.boundingRect(regions.dilated(wide, dilate))
    assert cv2.boundingRect(regions.dilated(high, dilate)) == (top, left, height, width)
    padded = regions.dilated(np.pad(high, ((0, 0), (35, 35))), dilate)
    assert np.array_equal(regions.dilated(high, dilate), padded[:, 35:125])
    channels = np.where(high, 1.0, -1.0).astype(np.float32)[None]
    square = np.pad(channels, ((0, 0), (0, 0), (35, 35)), constant_values=-1)
    assert np.array_equal(regions.opened(channels, 50), regions.opened(square, 50)[:, 35:125])
    assert not regions.opened(channels, 50).any(), "the ellipse, of 31 pixels, does not fit into it"


def test_the_work_is_as_large_as_the_lesion_and_not_as_the_picture(monkeypatch: pytest.MonkeyPatch):
    seen, dilate = [], cv2.dilate
    monkeypatch.setattr(cv2, "dilate", lambda mask, kernel: seen.append(mask.shape) or dilate(mask, kernel))
    mask = np.zeros((400, 600), np.uint8)
    mask[200:210, 300:310] = 1
    assert regions.dilated(mask, 20).sum() > 40**2
    assert seen == [(10 + 2 * 47, 10 + 2 * 47)]
