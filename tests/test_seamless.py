"""What is painted meets its surroundings: no step at the border, its gradients kept, nothing else touched."""

import numpy as np
import pytest

from diffusegen_core.config import params
from diffusegen_core.data import regions, seamless

SIDE = 24


@pytest.fixture
def image() -> np.ndarray:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    return np.stack([100 + 2 * xs, 60 + ys + xs, 120 - ys]).astype(np.uint8)


@pytest.fixture
def region() -> np.ndarray:
    """Two parts, one of which reaches the border of the image."""
    region = np.zeros((SIDE, SIDE), np.uint8)
    region[6:18, 5:15] = region[0:5, 19:] = 1
    return region


def test_another_level_of_colour_is_taken_away(image: np.ndarray, region: np.ndarray):
    darker = np.where(region > 0, image - 30, image)
    assert regions.seam(darker, region) > 25
    matched = seamless.matched(darker, image, region)
    # Across the border the image's own slope is lost, and nothing more.
    assert np.abs(matched.astype(int) - image).max() <= 3
    assert regions.seam(matched, region) <= regions.seam(image, region)


def test_what_was_painted_keeps_its_gradients(image: np.ndarray, region: np.ndarray):
    lesion = np.zeros((SIDE, SIDE), np.uint8)
    lesion[9:14, 8:12] = 40
    clean = seamless.matched(image, image, region).astype(int)
    painted = seamless.matched(image + lesion, image, region).astype(int)
    assert np.abs(painted - clean - lesion).max() <= 1, "its border is as it was"


def test_outside_the_region_nothing_changes(image: np.ndarray, region: np.ndarray):
    rng = np.random.default_rng(0)
    painted = rng.integers(0, 256, image.shape, dtype=np.uint8)
    matched = seamless.matched(painted, image, region)
    assert matched.dtype == np.uint8
    assert np.array_equal(matched[:, region == 0], image[:, region == 0])
    assert not np.array_equal(matched[:, region > 0], painted[:, region > 0])
    everywhere, nowhere = np.ones_like(region), np.zeros_like(region)
    assert np.array_equal(seamless.matched(painted, image, everywhere), painted), "without a border, no shift"
    assert np.array_equal(seamless.matched(painted, image, nowhere), image)


def test_the_membrane_is_harmonic_and_keeps_to_the_range_of_its_border(image: np.ndarray):
    region = np.zeros((SIDE, SIDE), np.uint8)
    region[4:20, 4:20] = 1
    painted = np.full_like(image, 128)
    shift = seamless.matched(painted, image, region).astype(float) - painted
    middle, around = shift[:, 11, 11], shift[:, [10, 12, 11, 11], [11, 11, 10, 12]].sum(axis=1)
    assert np.abs(middle - around / 4).max() <= 1, "rounded to whole grey levels"
    lacking = (image.astype(float) - painted)[:, regions.dilated(region, 20) - region > 0]
    assert (shift[:, region > 0].max(axis=1) <= lacking.max(axis=1)).all()


def test_a_step_between_classes_is_no_step_of_colour(region: np.ndarray):
    """Where a region ends at an organ's edge, what lies beyond does not darken the organ."""
    organ = np.zeros((SIDE, SIDE), np.uint8)
    organ[:, :15] = 1
    image = np.repeat(np.where(organ > 0, 150, 60).astype(np.uint8)[None], 3, axis=0)
    darker = np.where(region > 0, image - 20, image)
    assert np.abs(seamless.matched(darker, image, region).astype(int) - image).max() > 20
    numbers = organ.copy()
    numbers[:5, 19:] = 2  # a part that borders on nothing of its class
    expected = np.where((region > 0) & (numbers == 2), darker, image)
    assert np.array_equal(seamless.matched(darker, image, region, numbers), expected)
    batch = seamless.filled(darker[None], image[None], region[None], True, [numbers])
    assert np.array_equal(batch[0], expected)


def test_a_batch_is_matched_one_by_one_or_not_at_all(image: np.ndarray, region: np.ndarray):
    painted = np.stack([image - 20, image + 20])
    both, own = np.stack([image, image]), np.stack([region, 1 - region])
    matched = seamless.filled(painted, both, own, True)
    assert np.array_equal(matched[1], seamless.matched(painted[1], image, own[1]))
    plain = seamless.filled(painted, both, own, False)
    assert np.array_equal(plain, np.where(own[:, None] > 0, painted, both))


def test_the_papers_profile_leaves_what_was_painted():
    assert not params.validate(params.load(params.profile_file("paper"))).inpaint.seamless
