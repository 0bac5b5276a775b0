"""The audit of copies: it finds planted ones, however they were disguised, and leaves new pictures alone."""

import io
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffusegen_core.config.params import Inpaint
from diffusegen_core.data import phantom, regions
from diffusegen_core.measures import copies
from diffusegen_core.networks import features

SIZE, COUNT = 64, 50
QUANTILE = 0.01
MIRRORED = copies.ORIENTATIONS.index("mirrored")


def draw(seed: int, count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Phantoms, and the regions that chapter 3 would fill."""
    drawn = [phantom.draw(seed, i, size) for i in range(count)]
    return (np.stack([image for image, _, _ in drawn]),
            np.stack([regions.dilated(mask[0], Inpaint().dilate) for _, mask, _ in drawn]))


@pytest.fixture(scope="module")
def training() -> tuple[np.ndarray, np.ndarray]:
    return draw(0, COUNT)


@pytest.fixture(scope="module")
def fresh() -> tuple[np.ndarray, np.ndarray]:
    """Phantoms that are not in the training set."""
    return draw(1, COUNT)


@pytest.fixture(scope="module")
def real(training: tuple) -> copies.Found:
    """The training images, each among the others."""
    images, regions = training
    return copies.in_pixels(images, regions, images, np.arange(COUNT))


@pytest.fixture(scope="module")
def threshold(real: copies.Found) -> float:
    return copies.threshold(real.score, QUANTILE)


def noisy_jpeg(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    file = io.BytesIO()
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy.transpose(1, 2, 0)).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


DISGUISES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identical": lambda image: image,
    "flipped": lambda image: image[..., ::-1],
    "brighter": lambda image: np.clip(image.astype(int) + 40, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "noisy JPEG": noisy_jpeg,
    "upside down": lambda image: image[:, ::-1],
    "rotated by 90°": lambda image: np.rot90(image, 1, (1, 2)),
    "rotated by 180°": lambda image: np.rot90(image, 2, (1, 2)),
    "rotated by 270°": lambda image: np.rot90(image, 3, (1, 2)),
    "all of it": lambda image: noisy_jpeg(np.clip(image[..., ::-1] * 0.8 + 20, 0, 255).astype(np.uint8)),
}


def paste(training: tuple, pictures: np.ndarray) -> np.ndarray:
    """Each training image with its region filled from the picture of its place in `pictures`."""
    images, regions = training
    return np.where(regions[:, None] > 0, pictures, images)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_planted_copy_is_found(training: tuple, threshold: float, disguise: str) -> None:
    images, regions = training
    originals = np.roll(np.arange(COUNT), 7)  # of another image than the one it is painted into
    found = copies.in_pixels(paste(training, np.stack([DISGUISES[disguise](images[i]) for i in originals])),
                             regions, images)
    assert (found.score < threshold).mean() >= 0.98  # in the smallest core, noise is much of what is left
    np.testing.assert_array_equal(found.index, originals)
    turned = {"flipped": "mirrored", "all of it": "mirrored"}.get(disguise, disguise)
    expected = copies.ORIENTATIONS.index(turned) if turned in copies.ORIENTATIONS else 0
    assert (found.orientation == expected).all()


def test_the_source_that_is_returned_is_found(training: tuple, threshold: float) -> None:
    images, regions = training
    found = copies.in_pixels(np.stack([noisy_jpeg(image) for image in images]), regions, images)
    assert (found.score < 0.75 * threshold).all()
    np.testing.assert_array_equal(found.index, np.arange(COUNT))


def test_fresh_phantoms_are_not_accused(training: tuple, fresh: tuple, real: copies.Found,
                                        threshold: float) -> None:
    images, regions = training
    whole = copies.in_pixels(*fresh, images)
    inpainted = copies.in_pixels(paste(training, fresh[0]), regions, images)
    for found in (whole, inpainted):
        assert (found.score < threshold).mean() <= 0.06
        assert found.score.min() > 0.6 * threshold
        assert np.median(found.score) == pytest.approx(np.median(real.score), rel=0.2)


def test_what_lies_outside_the_region_does_not_count(training: tuple, fresh: tuple) -> None:
    images, regions = training
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    inside = regions[:, None] > 0
    one, other = (copies.in_pixels(np.where(inside, fresh[0], around), regions, images)
                  for around in (images, noise))
    np.testing.assert_allclose(one.score, other.score, atol=1e-6)
    np.testing.assert_array_equal(one.index, other.index)


def test_larger_images_are_judged_as_their_small_versions() -> None:
    images, regions = draw(0, 14, 128)
    real = copies.in_pixels(images, regions, images, np.arange(14))
    copied = copies.in_pixels(images[..., ::-1], regions[..., ::-1], images)
    assert copied.score.max() < 0.01
    assert (copied.orientation == MIRRORED).all()
    assert real.score.min() > 0.1


def test_the_score_by_hand() -> None:
    training = np.tile([[0.0], [2], [4], [8]], (8, 1))  # four images, the same in every orientation
    found = copies.in_features(np.array([[1.0], [7.5], [np.nan]]), training)
    # Of 7.5: 0.5, then 3.5, 5.5 and 7.5.
    assert found.score[1] == pytest.approx(0.5 / np.mean([3.5, 5.5, 7.5]))
    assert found.index[1] == 3
    assert np.isnan(found.score[2])
    assert np.isnan(found.distance[2])
    without = copies.in_features(np.array([[8.0]]), training, np.array([3]))
    assert (without.index[0], without.distance[0]) == (2, 4)
    assert np.isnan(copies.in_features(np.array([[np.nan]]), training, np.array([0])).distance[0])


@pytest.mark.slow
def test_by_features_a_copy_is_found_wherever_it_is_put(training: tuple, fresh: tuple) -> None:
    """With random weights, which is the weaker case."""
    def look(images: np.ndarray, regions: np.ndarray) -> np.ndarray:
        return features.extract(copies.patches(images, regions), "resnet18", "random", "imagenet")

    images, regions = (part[:30] for part in training)
    rows = np.concatenate([look(copies.turned(images, way), copies.turned(regions, way)) for way in range(8)])
    real = copies.in_features(rows[:30], rows, np.arange(30))
    threshold = copies.threshold(real.score, QUANTILE)

    margin = np.ones((SIZE, SIZE), bool)
    margin[6:-6, 6:-6] = False
    inner = np.flatnonzero([not (region * margin).any() for region in regions])  # polyps with room to move
    assert len(inner) >= 10
    # Without its rim a polyp shows random weights little, and noise counts for more.
    for original, share in ((images, 1.0), (np.stack([noisy_jpeg(image) for image in images]), 0.7)):
        moved = [np.roll(part[inner], (5, -4), (-2, -1))[..., ::-1] for part in (original, regions)]
        found = copies.in_features(look(*moved), rows)
        assert (found.score < 0.9 * threshold).mean() >= share
        np.testing.assert_array_equal(found.index, inner)
        assert (found.orientation == MIRRORED).all()
    new = copies.in_features(look(*(part[:30] for part in fresh)), rows)
    assert (new.score < threshold).mean() <= 0.1
    assert np.median(new.score) > 1.5 * threshold


def test_an_image_without_a_region_is_not_judged(training: tuple) -> None:
    images, regions = training
    found = copies.in_pixels(images[:2], np.stack([regions[0], np.zeros_like(regions[1])]), images)
    assert np.isfinite(found.score).tolist() == [True, False]


def test_copies_among_real_images_are_copies_too(training: tuple) -> None:
    images, regions = training
    twins = np.concatenate([images, images[:1]])
    found = copies.in_pixels(images[:1], regions[:1], twins, np.array([0]))
    assert found.index[0] == COUNT
    assert found.score[0] == pytest.approx(0, abs=1e-4)


def test_patches_show_the_region_alone_whatever_its_light(training: tuple, fresh: tuple) -> None:
    images, regions = training
    inside = regions[:, None] > 0
    patches = copies.patches(images, regions)
    assert patches.shape == (COUNT, 3, copies.PATCH, copies.PATCH)
    np.testing.assert_array_equal(copies.patches(np.where(inside, images, fresh[0]), regions), patches)
    darker = copies.patches((images * 0.6).astype(np.uint8), regions)
    # Rounding to darker greys moves a patch by a few of them at most.
    assert np.abs(darker.astype(int) - patches).mean() < 2
    assert np.abs(patches[1:].astype(int) - patches[:-1]).mean() > 15


def test_a_region_of_one_pixel_stays_one_when_the_image_is_shrunk() -> None:
    images, regions = (part[:1] for part in draw(0, 1, 256))
    regions = np.zeros_like(regions)
    regions[0, 9, 41] = 1
    assert copies.patches(images, regions).shape == (1, 3, copies.PATCH, copies.PATCH)
    assert np.argwhere(copies._inside(regions[0])).tolist() == [[9 // 4, 41 // 4]]


def test_the_rim_of_a_region_does_not_count(training: tuple, fresh: tuple) -> None:
    """Where it continues the source, as a model makes it do, it is no copy of the source."""
    images, regions = training
    cores = np.stack([copies.core(region > 0) for region in regions])
    assert (cores <= (regions > 0)).all()
    one, other = (copies.in_pixels(np.where(cores[:, None], fresh[0], around), regions, images)
                  for around in (images, fresh[0]))
    np.testing.assert_array_equal(one.score, other.score)
    patches = (copies.patches(np.where(cores[:, None], fresh[0], around), regions)
               for around in (images, fresh[0]))
    np.testing.assert_array_equal(*patches)


@pytest.mark.parametrize(("side", "radius", "left"), [(64, 20, 18), (32, 10, 9), (64, 3, 1.5)])
def test_of_a_small_region_a_share_is_compared_all_the_same(side: int, radius: int, left: float) -> None:
    region = np.zeros((side, side), np.uint8)
    cv2.circle(region, (side // 2, side // 2), radius, 1, -1)
    core = copies.core(region > 0)
    assert np.sqrt(core.sum() / np.pi) == pytest.approx(left, abs=0.8)
    assert core.sum() >= copies.CORE * region.sum() * 0.9


def test_a_picture_that_is_filled_as_a_whole_has_no_rim() -> None:
    whole = np.ones((16, 16), bool)
    assert copies.core(whole).all()
    assert not copies.core(~whole).any()
    one = np.zeros((16, 16), bool)
    one[3, 4] = True
    np.testing.assert_array_equal(copies.core(one), one)


def test_orientations_are_what_they_are_called() -> None:
    image = np.arange(18).reshape(2, 3, 3)
    ways = dict(zip(copies.ORIENTATIONS, (copies.turned(image, way) for way in range(8)), strict=True))
    np.testing.assert_array_equal(ways[""], image)
    np.testing.assert_array_equal(ways["mirrored"], image[..., ::-1])
    np.testing.assert_array_equal(ways["upside down"], image[:, ::-1])
    np.testing.assert_array_equal(ways["rotated by 180°"], image[:, ::-1, ::-1])
    assert len({way.tobytes() for way in ways.values()}) == 8


def exchangeable(rng: np.random.Generator, count: int) -> pd.DataFrame:
    return pd.DataFrame(rng.normal(1, 0.1, (count, 2)), columns=["score", "feature_score"])


@pytest.mark.parametrize("count", [32, 48, 144])
def test_the_share_by_chance_is_that_of_new_images_with_no_copy_in_them(count: int) -> None:
    rng, names, shares = np.random.default_rng(0), [str(i) for i in range(count)], []
    for _ in range(100 if count < 100 else 50):
        new, null = exchangeable(rng, count), exchangeable(rng, count)
        shares.append(((copies.near(new, copies.Thresholds.of(null, QUANTILE)) != "").mean(),
                       copies.by_chance(null, QUANTILE, names)))
    (new, chance), error = np.mean(shares, axis=0), np.std(np.diff(shares), ddof=1) / np.sqrt(len(shares))
    expected = (1 + (count - 1) * QUANTILE) / (count + 1)  # of one criterion
    assert chance == pytest.approx(new, abs=3 * error)
    assert chance == pytest.approx(1 - (1 - expected)**2, rel=0.1)


def test_the_share_by_chance_leaves_out_a_whole_source() -> None:
    names = [str(number) for number in range(400)]
    scores = np.random.default_rng(0).uniform(0.5, 1, (400, 2))
    null = pd.DataFrame(scores, columns=["score", "feature_score"])
    assert copies.by_chance(null, 0.05, names) == pytest.approx(1 - 0.95**2, abs=0.03)
    assert np.isnan(copies.by_chance(null.head(3), 0.05, names[:3]))
    assert np.isnan(copies.by_chance(null, 0.05, ["one"] * 400))
    # The region of one source makes all its 40 scores low, alike but for little: among themselves two are.
    low = null.assign(feature_score=1.0)
    low.loc[:39, "score"] = np.linspace(0.4, 0.41, 40)
    assert copies.by_chance(low, 0.05, names) < 0.06
    assert copies.by_chance(low, 0.05, [str(number // 40) for number in range(400)]) >= 0.1


def test_near_copies_are_told_by_what_they_are_found() -> None:
    audit = pd.DataFrame({"score": [0.1, 0.5, 0.2, np.nan], "feature_score": [0.9, 0.1, 0.1, np.nan]})
    assert copies.near(audit, copies.Thresholds(0.3, 0.2)).tolist() == ["pixels", "features", "both", ""]


def test_the_summary_counts_what_is_below_the_thresholds() -> None:
    audit = pd.DataFrame({"score": [0.1, 0.5, 0.2, np.nan], "feature_score": [0.9, 0.1, 0.1, 0.9],
                          "own": [True, True, False, True]})
    assert copies.summary(audit, copies.Thresholds(0.3, 0.2)) == {
        "images": 4, "in pixels": 2, "in features": 2, "either": 3, "share": 0.75, "of their source": 1,
        "nearest to source": 0.75}


def test_real_images_that_are_copies_of_each_other_do_not_hide_other_copies(training: tuple) -> None:
    images, regions = training[0], training[1]
    alone = copies.in_pixels(images, regions, images, np.arange(len(images)))
    twins = images.copy()
    twins[1], twins[3] = images[0], images[2]
    regions = regions.copy()
    regions[1], regions[3] = regions[0], regions[2]
    among = copies.in_pixels(twins, regions, twins, np.arange(len(twins)))
    assert (among.score[:4] < 0.02).all()
    before, after = (copies.threshold(found.score, QUANTILE) for found in (alone, among))
    assert after > 0.8 * before
