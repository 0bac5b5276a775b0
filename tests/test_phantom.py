"""The procedural generator: repeatable, exact, varied."""

import time

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from diffusegen_core.data import phantom


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray, str]]:
    return [phantom.draw(0, index, 32) for index in range(200)]


@pytest.mark.parametrize("size", [8, 32, 64, 100, 256])
def test_shapes_and_values(size):
    image, mask, kind = phantom.draw(3, 4, size)
    assert (image.shape, image.dtype) == ((3, size, size), np.uint8)
    assert (mask.shape, mask.dtype) == ((1, size, size), np.uint8)
    assert set(np.unique(mask)) == {0, 1}
    assert kind.split()[0] in phantom.PALETTES
    assert kind.split()[1] in phantom.VIEWS


def test_small_phantoms_are_drawn_at_a_multiple_and_large_ones_at_384_or_more():
    assert {size: phantom.side_drawn(size) for size in (16, 32, 48, 128, 129, 256, 500)} == {
        16: 128, 32: 128, 48: 96, 128: 256, 129: 384, 256: 384, 500: 500}


def test_a_phantom_depends_on_seed_and_index_alone(drawn):
    np.testing.assert_array_equal(phantom.draw(0, 7, 32)[0], drawn[7][0])
    assert not np.array_equal(phantom.draw(1, 7, 32)[0], drawn[7][0])
    assert len({image.tobytes() for image, _, _ in drawn}) == len(drawn)


@pytest.mark.parametrize("index", range(4))
def test_it_is_the_same_scene_at_another_size(index):
    small, small_mask, kind = phantom.draw(0, index, 32)
    large, large_mask, large_kind = phantom.draw(0, index, 256)
    reduced = large.reshape(3, 32, 8, 32, 8).mean((2, 4))
    assert kind == large_kind
    assert np.abs(reduced - small).mean() < 8
    assert large_mask.mean() == pytest.approx(small_mask.mean(), abs=0.01)


def test_masks_are_polyps_of_sensible_size_inside_the_picture(drawn):
    areas = np.array([mask.mean() for _, mask, _ in drawn])
    assert areas.min() > 0
    assert 0.03 < np.median(areas) < 0.15
    assert areas.max() < 0.4
    for image, mask, _ in drawn:  # no polyp lies in the black surround
        assert image.max(axis=0)[mask[0] > 0].mean() > 40


def test_the_mask_is_exactly_what_was_painted(monkeypatch):
    for index in range(12):
        image, mask, _ = phantom.draw(0, index, 64)
        with monkeypatch.context() as patch:
            shown = phantom._paint

            def blue(rng, polyp, palette, light, colour, outlines, shown=shown):
                shown(rng, polyp, palette, light, colour, outlines)
                colour += outlines[..., None] * (np.float32([0, 0, 255]) - colour)

            patch.setattr(phantom, "_paint", blue)
            painted = phantom.draw(0, index, 64)[0].astype(int)
        changed = (painted[2] > 127) & (painted[0] < 127)
        assert (changed & (mask[0] == 0)).mean() < 0.01
        assert np.abs(painted - image).sum(axis=0)[mask[0] > 0].min() > 0


def test_kinds_are_many_and_can_be_told_apart(drawn):
    kinds = [kind for _, _, kind in drawn]
    assert len(set(kinds)) == len(phantom.PALETTES) * len(phantom.VIEWS)
    colours = np.array([image.reshape(3, -1).mean(axis=1) for image, _, _ in drawn])
    chroma = colours / colours.sum(axis=1, keepdims=True)
    found = KMeans(4, n_init=10, random_state=0).fit_predict(chroma / chroma.std(axis=0))
    assert adjusted_rand_score([kind.split()[0] for kind in kinds], found) > 0.6


def test_polyps_are_one_to_three_and_keep_apart():
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(300):
        found = phantom._polyps(rng, (0.0, 0.0))
        counts.append(len(found))
        for at, one in enumerate(found):
            assert all(np.hypot(*np.subtract(one.centre, other.centre)) > one.radius + other.radius
                       for other in found[:at])
    assert set(counts) == {1, 2, 3}
    assert 0.6 < counts.count(1) / 300 < 0.8


def test_it_is_quick():
    start = time.process_time()
    for index in range(20):
        phantom.draw(5, index, 32)
    assert (time.process_time() - start) / 20 < 0.05  # 6 ms on two quiet cores
