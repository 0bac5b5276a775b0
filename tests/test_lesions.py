"""Pasted lesions: pixels and mask move together, and nothing else of the picture changes."""

import cv2
import numpy as np
import pytest

from diffusegen_core.data import dataset, lesions, masks, phantom
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import PASTE, PASTED, POISSON, DataType

SIDE = 48
GREEN = (30, 220, 60)
types = pytest.mark.parametrize("data_type", PASTED, ids=str)


def disc(radius: float, x: float, y: float) -> np.ndarray:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    return (np.hypot(ys - y, xs - x) <= radius).astype(np.uint8)


def mucosa(seed: int = 0, frame: int | None = None) -> np.ndarray:
    """A reddish picture (3, S, S), or one in a round view within a frame of that grey."""
    image = np.clip(np.array([180, 110, 90])[:, None, None]
                    + np.random.default_rng(seed).normal(0, 5, (3, SIDE, SIDE)), 0, 255).astype(np.uint8)
    if frame is not None:
        image[:, disc(0.45 * SIDE, SIDE / 2, SIDE / 2) == 0] = frame
    return image


def pairs_of(*pairs: tuple[np.ndarray, np.ndarray]) -> Pairs:
    return dataset.gather([str(i) for i in range(len(pairs))], np.stack([image for image, _ in pairs]),
                          np.stack([mask[None] for _, mask in pairs]))


def donor(mask: np.ndarray, image: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A pair whose lesion is green."""
    image = mucosa(1) if image is None else image.copy()
    image[:, mask > 0] = np.array(GREEN)[:, None]
    return image, mask


def paste(pairs: Pairs, data_type: DataType, seed: int = 0,
          source: int = 0) -> tuple[np.ndarray, np.ndarray, lesions.Cut]:
    lesion = lesions.cut(pairs, source, np.random.default_rng(seed))
    return *lesions.pasted(pairs, source, lesion, data_type), lesion


def wider(mask: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=by)


def inner(mask: np.ndarray, by: int = 1) -> np.ndarray:
    """What lies so deep in a mask; beyond the picture it does not go on."""
    return cv2.erode(np.pad(mask, by), np.ones((3, 3), np.uint8), iterations=by)[by:-by, by:-by]


@types
@pytest.mark.parametrize("overlap", [False, True])
def test_a_pasted_lesion_covers_its_organ_only_where_classes_exclude_each_other(data_type: DataType,
                                                                                overlap: bool):
    organ, lesion = disc(20, 24, 24), disc(4, 24, 24)
    masks_of = np.stack([np.stack([organ, np.zeros_like(organ)]), np.stack([organ * overlap, lesion])])
    pairs = dataset.gather(["0", "1"], np.stack([mucosa(0), mucosa(1)]), masks_of, overlap)
    cut = lesions.cut(pairs, 0, np.random.default_rng(0), (1,))
    _, mask = lesions.pasted(pairs, 0, cut, data_type)
    assert mask[1].any()
    np.testing.assert_array_equal(mask[0], organ if overlap else organ * (1 - mask[1]))


@types
@pytest.mark.parametrize("seed", range(12))
def test_the_mask_is_of_both_lesions_and_far_from_the_new_one_the_picture_stays(data_type: DataType,
                                                                                seed: int):
    drawn = [phantom.draw(0, i, SIDE) for i in range(4)]
    pairs = pairs_of(*((image, mask[0]) for image, mask, _ in drawn))
    image, mask, lesion = paste(pairs, data_type, seed)
    assert (image.dtype, image.shape, mask.shape) == (np.uint8, (3, SIDE, SIDE), (1, SIDE, SIDE))
    assert np.array_equal(mask[0], lesion.mask | pairs.masks[0, 0])
    assert 0 < lesion.mask.sum() <= (pairs.masks[lesion.donor].sum() * masks.SCALE**2 + 20)
    box = np.zeros_like(lesion.mask)  # Poisson's blending goes on in the box around the lesion
    left, top, width, height = cv2.boundingRect(lesion.mask)
    box[top:top + height, left:left + width] = 1
    far = wider(lesion.mask if data_type == PASTE else box, 1 if data_type == PASTE else lesions.MARGIN) == 0
    assert np.array_equal(image[:, far], pairs.images[0][:, far])
    assert (image != pairs.images[0]).any(axis=0)[lesion.mask > 0].mean() > 0.8


@pytest.mark.parametrize("seed", range(12))
def test_pixels_and_mask_move_together_and_the_border_is_mixed_over_a_pixel(seed: int):
    shape = disc(8, 20, 20) | disc(4, 30, 14)
    pairs = pairs_of((mucosa(), disc(3, 40, 40)), donor(shape))
    image, _, lesion = paste(pairs, PASTE, seed)
    assert lesion.donor == 1
    near = np.abs(image.astype(int) - np.array(GREEN)[:, None, None]).max(axis=0) <= 2
    assert near[inner(lesion.mask, 2) > 0].all()
    assert not near[wider(lesion.mask, 1) == 0].any()
    rim = (lesion.mask > 0) & (inner(lesion.mask) == 0)
    strict = ~near & (image != pairs.images[0]).any(axis=0)
    assert strict[rim].mean() > 0.8, "the rim is neither of the two pictures"
    assert (image[1] > 220).sum() == 0, "no ringing"


def test_poissons_lesion_has_the_donors_detail_and_the_sources_colour():
    shape, stripes = disc(9, 24, 24), mucosa(1)
    stripes[0, 14:34] = np.where(np.arange(20) % 4 < 2, 60, 200)[:, None]
    pairs = pairs_of((np.full((3, SIDE, SIDE), 120, np.uint8), disc(2, 44, 44)), (stripes, shape))
    pasted, _, lesion = paste(pairs, PASTE, 3)
    cloned, _, _ = paste(pairs, POISSON, 3)
    within = inner(lesion.mask, 2) > 0
    steps = [np.diff(image[0].astype(float), axis=0)[within[:-1] & within[1:]] for image in (pasted, cloned)]
    assert np.corrcoef(*steps)[0, 1] > 0.95
    rim = wider(lesion.mask, 1) - lesion.mask > 0
    colours = [np.abs(image[:, part].astype(int) - 120).mean()
               for image, part in ((cloned, rim), (pasted, within))]
    assert colours[0] < 0.5 * colours[1]


@types
@pytest.mark.parametrize("name", ["at the border", "in a corner", "several", "specks", "one pixel", "huge",
                                  "everywhere"])
@pytest.mark.parametrize("frame", [None, 0, 20, 40])
def test_no_lesion_is_too_odd(data_type: DataType, name: str, frame: int | None):
    speck = np.zeros((SIDE, SIDE), np.uint8)
    speck[30, 17] = 1
    shapes = {"at the border": disc(9, 0, 20), "in a corner": disc(9, 47, 47), "one pixel": speck,
              "several": disc(4, 8, 8) | disc(4, 40, 8) | disc(6, 24, 40), "specks": speck | speck.T,
              "huge": disc(23, 24, 24), "everywhere": np.ones((SIDE, SIDE), np.uint8)}
    pairs = pairs_of((mucosa(0, frame), disc(3, 24, 34)), donor(shapes[name]))
    view = masks.field_of_view(pairs.images[0])
    assert (frame is None) == bool(view.all())
    for seed in range(6):
        image, mask, lesion = paste(pairs, data_type, seed)
        assert lesion.mask.any()
        assert not (lesion.mask & (1 - view)).any()
        assert np.array_equal(image[:, view == 0], pairs.images[0][:, view == 0]), "the frame stays"
        assert np.array_equal(mask[0], lesion.mask | pairs.masks[0, 0])
        green = image[1].astype(int) - image[0]
        changed = (green - (pairs.images[0][1].astype(int) - pairs.images[0][0]))[lesion.mask > 0]
        assert changed.max() > 10, "however small, it is seen"


@types
def test_a_single_pair_gets_its_own_lesion_again(data_type: DataType):
    pairs = pairs_of(donor(disc(5, 14, 14)))
    image, mask, lesion = paste(pairs, data_type)
    assert lesion.donor == 0
    assert mask.sum() > pairs.masks.sum()
    assert (image != pairs.images[0]).any()


def test_a_donor_is_any_other_pair():
    pairs = pairs_of(*[(mucosa(i), disc(4, 20, 20)) for i in range(4)])
    donors = {lesions.cut(pairs, 1, np.random.default_rng(seed)).donor for seed in range(40)}
    assert donors == {0, 2, 3}


@pytest.mark.parametrize("seed", range(8))
def test_nothing_of_the_donors_frame_is_pasted(seed: int):
    shape = disc(14, 40, 24)  # a third of it on the frame
    image = mucosa(1, frame=0)
    image[:, (shape & masks.field_of_view(image)) > 0] = np.array(GREEN)[:, None]
    pairs = pairs_of((mucosa(), disc(2, 4, 4)), (image, shape))
    pasted, _, lesion = paste(pairs, PASTE, seed)
    assert lesion.mask.sum() < 0.95 * shape.sum() * masks.SCALE**2
    assert (pasted[:, inner(lesion.mask) > 0].max(axis=0) > 60).all()


@types
def test_a_lesion_that_lies_on_the_frame_alone_is_taken_as_it_is(data_type: DataType):
    pairs = pairs_of((mucosa(), disc(2, 4, 4)), (mucosa(1, frame=0), disc(2, 1, 1)))
    assert paste(pairs, data_type)[2].mask.any()


@types
def test_a_dark_picture_has_no_place_and_stays(data_type: DataType):
    pairs = pairs_of((np.zeros((3, SIDE, SIDE), np.uint8), disc(3, 20, 20)), donor(disc(5, 14, 14)))
    image, mask, lesion = paste(pairs, data_type)
    assert not lesion.mask.any()
    assert not image.any()
    assert np.array_equal(mask, pairs.masks[0])
