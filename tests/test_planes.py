"""Channels and classes: how masks and maps of class numbers follow from each other, are shown and stored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, pairsets, planes
from diffusegen_core.data.planes import Planes

NUMBERS = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)


def noise(channels: int, classes: int, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(channels + classes)
    return (rng.integers(0, 256, (channels, side, side), np.uint8),
            planes.separate(rng.integers(0, classes + 1, (side, side)), classes))


def test_a_mask_of_exclusive_classes_is_a_map_of_their_numbers_and_back() -> None:
    masks = planes.separate(NUMBERS, 3)
    assert (masks.shape, masks.dtype) == ((3, 2, 3), np.uint8)
    assert masks.sum(axis=0).max() == 1
    assert np.array_equal(planes.numbered(masks), NUMBERS)
    assert np.array_equal(planes.union(masks), NUMBERS > 0)
    one = (NUMBERS == 1)[None].astype(np.uint8)
    assert np.array_equal(planes.numbered(one), one[0]), "of one class the map is the mask"


def test_the_highest_value_decides_and_none_above_the_level_is_background() -> None:
    values = np.array([[[0.2, -0.1, 0.5]], [[0.3, -0.2, 0.4]]])
    assert planes.decided(values).tolist() == [[2, 0, 1]]


def test_what_a_recipe_says_of_rgb_with_one_class_is_nothing() -> None:
    assert Planes.of(Data()).told == {}
    grey = Data(source="phantom-slices", channels=1, labels={"1": "a", "2": "b", "3": "a"})
    assert Planes.of(grey).told == {"channels": 1, "classes": 2}
    assert Planes.of(grey).all == 3


def test_networks_that_know_rgb_alone_see_grey_repeated_and_the_mean_of_other_channels() -> None:
    grey = np.full((1, 1, 2, 2), 7, np.uint8)
    assert np.array_equal(planes.rgb(grey), np.full((1, 3, 2, 2), 7))
    five = np.arange(5, dtype=np.uint8)[None, :, None, None].repeat(2, axis=2).repeat(2, axis=3)
    assert np.array_equal(planes.rgb(five), np.full((1, 3, 2, 2), 2))
    assert planes.rgb(five[:, :3]) is not None
    assert np.array_equal(planes.rgb(five[:, :3]), five[:, :3])


@pytest.mark.parametrize("how", [Image.Resampling.LANCZOS, Image.Resampling.BICUBIC])
def test_each_channel_is_resized_as_pillow_does_rgb(how: Image.Resampling) -> None:
    image = noise(3, 1, 40)[0]
    whole = np.asarray(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).resize((17, 23), how))
    assert np.array_equal(planes.resize(image, (17, 23), how), whole.transpose(2, 0, 1))


def shrunk(numbers: np.ndarray, size: int, classes: int) -> np.ndarray:
    return planes.numbered(planes.shrunk(planes.separate(numbers, classes), (size, size)))


def test_no_class_vanishes_when_a_map_shrinks_and_none_appears() -> None:
    numbers = np.zeros((64, 64), np.uint8)
    numbers[8:40, 8:40] = 1
    numbers[20, 20], numbers[50, 50] = 2, 3  # of one pixel, within another class and alone
    small = shrunk(numbers, 8, 4)
    assert sorted(np.unique(small)) == [0, 1, 2, 3]
    assert small[2, 2] == 2
    assert small[6, 6] == 3
    assert not shrunk(np.zeros((64, 64), np.uint8), 8, 3).any()


@pytest.mark.parametrize("size", [8, 3])
def test_small_classes_in_one_pixel_are_both_there(size: int) -> None:
    numbers = np.zeros((64, 64), np.uint8)
    numbers[20, 20], numbers[20, 21], numbers[21, 20] = 1, 2, 3
    assert np.unique(shrunk(numbers, size, 3)).tolist() == [0, 1, 2, 3]
    numbers[:] = np.maximum(numbers, 4 * (numbers == 0))  # within one that fills the rest
    assert np.unique(shrunk(numbers, size, 4)).tolist() == [1, 2, 3, 4]
    assert planes.shrunk(planes.separate(numbers, 4), (1, 1)).sum() == 1, "there is no room for more"


def test_where_three_classes_meet_no_hole_is_left() -> None:
    rows, columns = np.indices((90, 90))
    turn = np.arctan2(rows - 44.5, columns - 44.5)
    numbers = (np.digitize(turn, [-1.0, 1.1]) + 1).astype(np.uint8)
    for size in range(7, 40):
        assert shrunk(numbers, size, 3).min() == 1


def test_one_class_is_cut_at_half_and_what_overlaps_stays_so() -> None:
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 10:21, 10:21] = 1
    expected = np.asarray(Image.fromarray(mask[0] * 255).resize((10, 12), Image.Resampling.BILINEAR)) > 127
    assert np.array_equal(planes.shrunk(mask, (10, 12))[0], expected)
    both = np.concatenate([mask, mask])
    assert np.array_equal(planes.shrunk(both, (10, 12)), np.stack([expected, expected]))


def test_the_picture_of_pairs_shows_images_above_masks_in_the_colours_of_classes() -> None:
    image, mask = noise(1, 3)
    shown = np.asarray(planes.grid(np.concatenate([image, 255 * mask])[None], 1))
    assert shown.shape == (24, 12, 3)
    assert np.array_equal(shown[:12], image[0][..., None].repeat(3, axis=2))
    numbers = planes.numbered(mask)
    assert (shown[12:][numbers == 2] == planes.CLASS_COLOURS[1]).all()
    assert not shown[12:][numbers == 0].any()


# ---- files


@pytest.mark.parametrize("channels", [1, 3, 2, 5])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_pair_is_read_as_it_was_written(tmp_path: Path, channels: int, classes: int) -> None:
    image, mask = noise(channels, classes)
    written = dataset.write_pair(tmp_path, "a.b", image, mask)
    assert list(written) == pairsets.files_of(tmp_path, "a.b")
    again, mask_again = pairsets.read_pair(tmp_path, "a.b")
    assert np.array_equal(again, image)
    assert np.array_equal(mask_again, mask)
    loaded = pairsets.load(tmp_path, ["a.b"])
    assert loaded.planes == Planes(channels, classes)
    hashes = {file.relative_to(tmp_path).as_posix(): file.sha256 for file in written}
    assert pairsets.names_of(hashes, "a.b") == list(hashes)


def test_files_are_what_other_programs_read(tmp_path: Path) -> None:
    image, mask = noise(1, 3)
    picture, label = dataset.write_pair(tmp_path, "grey", image, mask)
    with Image.open(picture) as shown, Image.open(label) as numbers:
        assert (shown.mode, numbers.mode) == ("L", "L")
        assert np.array_equal(np.asarray(numbers), planes.numbered(mask)), "class numbers, 0 to M"
    _, label = dataset.write_pair(tmp_path, "one", image, mask[:1])
    with Image.open(label) as two_valued:
        assert set(np.unique(np.asarray(two_valued))) == {0, 255}
        assert two_valued.info == {}
    picture, _ = dataset.write_pair(tmp_path, "five", *noise(5, 1))
    assert picture.suffix == ".npy"
    assert np.load(picture, allow_pickle=False).shape == (5, 12, 12)


@pytest.mark.parametrize(("channels", "classes"), [(3, 1), (1, 3), (2, 1)])
def test_pairs_in_memory_are_shown_and_saved_and_nothing_is_written_over(
        tmp_path: Path, channels: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, channels, 8, 8), np.uint8)
    masks = planes.separate(rng.integers(0, classes + 1, (2, 8, 8), np.uint8), classes)
    pairs = dataset.gather(["a", "b"], images, masks)
    assert np.array_equal(np.asarray(pairs.grid()), np.asarray(planes.grid(
        np.concatenate([images, 255 * masks], axis=1), channels)))
    assert pairs.grid().size == (16, 16)
    folder = pairs.save(str(tmp_path / "new" / "saved"))
    again = pairsets.load(folder, ["a", "b"])
    assert again.digest == pairs.digest
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    more = dataset.gather(["c", "b"], images, masks)
    with pytest.raises(UserError, match=r"b\.(png|npy) already exists, and is not overwritten\. Name an"):
        more.save(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before, "and c is not written"
    more.take([0]).save(folder)
    assert pairsets.load(folder, ["a", "c"]).images.shape == images.shape


def test_a_digest_tells_classes_from_channels() -> None:
    values = np.zeros((1, 4, 8, 8), np.uint8)
    digests = {dataset.gather(["a"], values[:, :c], values[:, c:]).digest for c in (1, 2, 3)}
    assert len(digests) == 3
