"""What the audit is judged by: new lesions that continue the picture, and copies that it has to find."""

import numpy as np
import pandas as pd
import pytest

from diffusegen_core.config.params import Inpaint
from diffusegen_core.data import phantom, regions
from diffusegen_core.measures import copies, planted
from diffusegen_core.measures.copies import Thresholds

SIZE, COUNT = 64, 30
ROWS = np.arange(COUNT)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Phantoms, and the regions that chapter 3 would fill."""
    drawn = [phantom.draw(seed, i, SIZE) for i in range(COUNT)]
    return (np.stack([image for image, _, _ in drawn]),
            np.stack([regions.dilated(mask[0], Inpaint().dilate) for _, mask, _ in drawn]))


@pytest.fixture(scope="module")
def training() -> tuple[np.ndarray, np.ndarray]:
    return draw(0)


@pytest.fixture(scope="module")
def blends(training: tuple) -> np.ndarray:
    """Each training picture with the lesion of a new one."""
    images, filled = training
    donors, lesions = draw(1)
    return np.stack([planted.blended(images[i], filled[i], filled[i], donors[i], lesions[i]) for i in ROWS])


def test_a_blended_lesion_continues_the_picture_and_changes_nothing_else(training: tuple,
                                                                         blends: np.ndarray) -> None:
    images, filled = training
    inside = np.broadcast_to(filled[:, None] > 0, images.shape)
    np.testing.assert_array_equal(blends[~inside], images[~inside])
    assert np.abs(blends[inside].astype(int) - images[inside]).mean() > 5
    donors, _ = draw(1)
    hard = np.where(inside, donors, images)
    seams = [np.mean([regions.seam(*pair) for pair in zip(those, filled, strict=True)])
             for those in (images, blends, hard)]
    assert seams[1] < 1.5 * seams[0] < seams[2]


def test_the_box_of_the_donors_lesion_comes_to_that_of_the_place() -> None:
    image, region = np.full((3, SIZE, SIZE), 90, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    place, lesion, donor = region.copy(), region.copy(), np.full((3, SIZE, SIZE), 120, np.uint8)
    region[8:48, 16:60], place[20:40, 30:50] = 1, 1
    lesion[12:52, 8:48] = 1
    donor[:, 12:52, 8:48] = 220
    blend = planted.blended(image, region, place, donor, lesion)[0].astype(int)
    across, down = np.diff(blend[30]), np.diff(blend[:, 40])
    edges = [across.argmax(), across.argmin(), down.argmax(), down.argmin()]
    assert np.abs(np.array(edges) - [29, 49, 19, 39]).max() <= 1


@pytest.mark.parametrize("box", [(slice(0, 64), slice(0, 20)), (slice(5, 6), slice(7, 8)),
                                 (slice(0, 64), slice(0, 64))])
def test_a_region_may_reach_the_border_or_be_a_pixel(training: tuple, box: tuple[slice, slice]) -> None:
    images, filled = training
    region = np.zeros((SIZE, SIZE), np.uint8)
    region[box] = 1
    blend = planted.blended(images[0], region, region, images[1], filled[1])
    np.testing.assert_array_equal(blend[:, region == 0], images[0][:, region == 0])


def test_planted_copies_are_found_and_new_lesions_are_not(training: tuple, blends: np.ndarray) -> None:
    images, filled = training
    plants = {name: planted.plant(images, filled, images, filled, ROWS, change)
              for name, change in planted.DISGUISES.items()}
    parts = [blends, *(plant.images for plant in plants.values())]
    found = copies.in_pixels(np.concatenate(parts), np.tile(filled, (len(parts), 1, 1)), images)
    scores = found.score.reshape(len(parts), COUNT)
    null = pd.DataFrame({"score": scores[0], "feature_score": 1.0})
    threshold = Thresholds.of(null, 0.01).pixels
    assert (scores[0] < threshold).mean() <= 0.05
    for row, (name, plant) in enumerate(plants.items(), 1):
        assert not (plant.of == ROWS).any(), "a copy of its own source is the easier case"
        if name.startswith("zoomed"):
            assert (scores[row] < threshold).mean() > 0.4
        else:
            assert (scores[row] < threshold).mean() >= 0.95
            same = found.index.reshape(len(parts), COUNT)[row] == plant.of
            assert same.mean() >= 0.95


def test_the_planted_picture_has_a_lesion_where_the_region_is() -> None:
    around = np.zeros((3, 8, 8), np.uint8)
    around[0, :4, :4], around[1, 4:, 4:], around[2, :3, 5:] = 1, 1, 1
    images = np.stack([np.full((3, 8, 8), value, np.uint8) for value in (10, 20, 30)])
    rotated = planted.plant(images[:1], around[:1], images, around, np.array([-1]),
                            planted.DISGUISES["rotated by 180°"])
    assert rotated.of.tolist() == [1]
    assert (rotated.images[0][:, around[0] > 0] == 20).all()
    assert (rotated.images[0][:, around[0] == 0] == 10).all()
    exact = planted.plant(images[:1], around[:1], images, around, np.array([0]), planted.DISGUISES["exact"])
    assert exact.of.tolist() != [0]
