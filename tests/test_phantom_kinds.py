"""Phantoms of other kinds: an ultrasound with one class, and slices with three."""

from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from diffusegen_core.config import params
from diffusegen_core.config.data import PHANTOMS, Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, masks, phantom_slices, phantom_ultrasound, phantoms

KINDS = [(phantom_ultrasound, 1), (phantom_slices, 3)]
SLICES = {"source": "phantom-slices", "channels": 1, "labels": {"1": "liver", "2": "kidney", "3": "tumour"}}


@pytest.mark.parametrize(("kind", "classes"), KINDS)
@pytest.mark.parametrize("size", [16, 100, 256])
def test_shapes_and_values(kind: ModuleType, classes: int, size: int) -> None:
    image, mask, _ = kind.draw(3, 4, size)
    assert (image.shape, image.dtype) == ((1, size, size), np.uint8)
    assert (mask.shape, mask.dtype) == ((classes, size, size), np.uint8)
    assert set(np.unique(mask)) == {0, 1}
    assert mask.sum(axis=0).max() == 1, "classes exclude each other"


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_a_phantom_depends_on_seed_and_index_alone(kind: ModuleType, classes: int) -> None:
    one, again, other, seed = (kind.draw(*which, 32)[0] for which in ((0, 7), (0, 7), (0, 8), (1, 7)))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, seed)


@pytest.mark.parametrize(("kind", "classes"), KINDS)
@pytest.mark.parametrize("index", range(3))
def test_it_is_the_same_scene_at_another_size(kind: ModuleType, classes: int, index: int) -> None:
    (small, small_mask, name), (large, large_mask, same) = (kind.draw(0, index, size) for size in (32, 256))
    assert name == same
    assert np.abs(large.reshape(1, 32, 8, 32, 8).mean((2, 4)) - small).mean() < 8
    assert np.allclose(large_mask.mean(axis=(1, 2)), small_mask.mean(axis=(1, 2)), atol=0.02)


def test_the_lesion_of_an_ultrasound_is_dark_and_what_lies_behind_it_lighter_than_beside() -> None:
    """Posterior enhancement, over pictures: single ones have layers that are lighter still."""
    darker, enhanced = [], []
    for index in range(24):
        image, mask, _ = phantom_ultrasound.draw(0, index, 128)
        grey, lesion = image[0].astype(float), mask[0] > 0
        assert 0.005 < lesion.mean() < 0.2
        rows, columns = np.nonzero(lesion)
        view = masks.field_of_view(image) > 0
        darker.append(grey[lesion].mean() < 0.8 * grey[view & ~lesion].mean())
        below = slice(rows.max() + 4, rows.max() + 20)
        width = max(4, np.ptp(columns) // 4)
        middle = int(columns.mean())
        behind = grey[below, middle - width:middle + width]
        beside = np.concatenate([grey[below, :middle - 3 * width], grey[below, middle + 3 * width:]], axis=1)
        if (beside > 20).any():
            enhanced.append(behind.mean() - beside[beside > 20].mean())
    assert all(darker)
    assert np.mean(enhanced) > 3


def test_speckle_is_rayleigh_distributed_with_mean_one() -> None:
    drawn = phantom_ultrasound._speckle(np.random.default_rng(0), (256, 256)).ravel()
    assert drawn.mean() == pytest.approx(1, abs=1e-3)
    # A grain is a few pixels wide: the samples are not independent, and the distance is what counts.
    assert stats.kstest(drawn, stats.rayleigh(scale=(2 / np.pi) ** 0.5).cdf).statistic < 0.02


def test_organs_differ_in_grey_and_most_livers_have_a_tumour() -> None:
    ill = 0
    for index in range(20):
        image, mask, name = phantom_slices.draw(0, index, 64)
        liver, kidney, tumour = mask > 0
        assert 0.03 < liver.mean() < 0.2
        assert kidney.any()
        assert tumour.any() == (name == "with tumour")
        if tumour.any():
            ill += 1
            assert image[0][tumour].mean() < image[0][liver].mean() - 10
    assert 10 <= ill < 20


# ---- as a source


def test_a_source_that_is_drawn_says_what_channels_and_classes_it_has() -> None:
    for source, told in (("phantom-slices", "has 3 classes and images of 1 channel: set data.channels 1"),
                         ("phantom-ultrasound", "has 1 class and images of 1 channel: set data.channels 1")):
        with pytest.raises(UserError, match=told) as caught:
            params.validate({"data": {"source": source}})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data\.source phantom has 1 class and images of 3 channels"):
        params.validate({"data": {"channels": 1}})
    assert len(params.validate({"data": SLICES}).data.classes) == 3


def test_pairs_of_every_kind_are_drawn_and_kept(tmp_path) -> None:
    assert set(phantoms.DRAWN) == set(PHANTOMS)
    from diffusegen_core.store.workspace import Workspace
    data = Data(**SLICES, count=3, image_size=16)
    pairs = dataset.load(Workspace(tmp_path / "run", 0, "cpu"), data)
    assert (pairs.images.shape, pairs.masks.shape) == ((3, 1, 16, 16), (3, 3, 16, 16))
    dataset.write_phantoms(tmp_path / "folder", 2, 16, 0, "phantom-ultrasound")
    assert len(list((tmp_path / "folder/images").glob("*.png"))) == 2


@pytest.mark.parametrize("labels", [{"3": "tumour", "1": "liver", "2": "kidney"},
                                    {"1": "liver", "2": "kidney", "4": "tumour"}])
def test_slices_are_drawn_in_one_order_of_classes(nano, labels):
    with pytest.raises(UserError, match=r"keys of data\.labels are 1, 2, 3, in this order"):
        params.validate(nano | {"data": {**SLICES, "count": 4, "labels": labels}})
