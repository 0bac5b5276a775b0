"""Several classes and other channels, part by part: what RGB with one class does, done for each."""

import numpy as np
import pytest
import torch

from diffusegen_core.config import params
from diffusegen_core.data import dataset, lesions, masks, planes, regions, seamless
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import PASTE, POISSON
from diffusegen_core.data.windows import Window
from diffusegen_core.diffusion import process, warps
from diffusegen_core.diffusion.guided import as_rgb
from diffusegen_core.diffusion.maskguidance import MaskGuidance, guided_call
from diffusegen_core.measures import boundaries, overlap
from diffusegen_core.planning import flops
from diffusegen_core.segmentation import augmentation, segnet, softdice, trials

SIDE = 32


def numbers() -> np.ndarray:
    """A large class with another within it, and a third apart from them."""
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    drawn[6:18, 6:18], drawn[10:14, 10:14], drawn[22:28, 20:27] = 1, 2, 3
    return drawn


def pairs(channels: int = 1, count: int = 3) -> dataset.Pairs:
    rng = np.random.default_rng(channels)
    images = rng.integers(60, 200, (count, channels, SIDE, SIDE), np.uint8)
    each = np.stack([np.roll(numbers(), 2 * i, axis=0) for i in range(count)])
    return dataset.gather([f"p{i}" for i in range(count)], images, planes.separate(each, 3))


# ---- masks, regions, windows


def test_the_region_is_the_union_of_old_and_new_classes() -> None:
    old = planes.separate(numbers(), 3)[None]
    new = np.roll(old, 3, axis=-1)
    expected = regions.dilated(planes.union(old[0] | new[0]), 20)
    assert np.array_equal(regions.filled(old, new, 20)[0], expected)
    assert set(np.unique(regions.dilated(numbers(), 1))) == {0, 1}


def test_what_a_model_draws_is_of_the_highest_class_alone() -> None:
    channels = np.full((2, 64, 64), -1, np.float32)
    channels[0, 10:40, 10:40], channels[1, 10:40, 30:60] = 0.4, 0.8
    drawn = regions.opened(channels, 1)
    assert (drawn[10:40, 10:30] == 1).all()
    assert (drawn[10:40, 30:60] == 2).all()
    assert np.count_nonzero(drawn) == 30 * 50


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_is_moved_with_all_its_classes(seed: int) -> None:
    view, rng = np.ones((64, 64), np.uint8), np.random.default_rng(seed)
    mask = np.zeros((64, 64), np.uint8)
    mask[:SIDE, :SIDE] = numbers()
    of_union = masks.varied((mask > 0).astype(np.uint8), view, np.random.default_rng(seed)).mask
    moved = masks.varied(mask, view, rng).mask
    assert set(np.unique(moved)) == {0, 1, 2, 3}
    # The same change as of one class: the border between classes may differ by a pixel.
    assert np.mean((moved > 0) != of_union) < 0.01
    areas = np.bincount(moved.ravel(), minlength=4)[1:] / np.bincount(mask.ravel(), minlength=4)[1:]
    assert (areas > 0.3).all()
    assert (areas < 2.5).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("data_type", [PASTE, POISSON])
def test_a_pasted_lesion_brings_its_classes_and_covers_those_below(channels: int, data_type) -> None:
    known = pairs(channels)
    lesion = lesions.cut(known, 0, np.random.default_rng(2))
    image, mask = lesions.pasted(known, 0, lesion, data_type)
    assert (image.shape, mask.shape) == ((channels, SIDE, SIDE), (3, SIDE, SIDE))
    assert mask.sum(axis=0).max() == 1
    where = lesion.mask > 0
    assert np.array_equal(planes.numbered(mask)[where], lesion.mask[where])
    assert np.array_equal(planes.numbered(mask)[~where], planes.numbered(known.masks[0])[~where])
    assert (image != known.images[0]).any()


def test_channels_are_cloned_one_by_one_as_three_are_together() -> None:
    slope = np.linspace(60, 180, 40)  # smooth, so that nothing is clipped
    down, right = np.meshgrid(slope, slope, indexing="ij")
    image = np.stack([down, right, 240 - down], axis=2).astype(np.uint8)
    picture = np.ascontiguousarray(image[::-1, :, ::-1])
    mask = np.zeros((40, 40), np.uint8)
    mask[12:28, 12:28] = 255
    whole = seamless.cloned(picture, image, mask, (20, 20))
    alone = seamless.cloned(picture[..., :1], image[..., :1], mask, (20, 20))
    assert alone.shape == (40, 40, 1)
    assert np.abs(alone[..., 0].astype(int) - whole[..., 0]).max() <= 1


def test_a_window_keeps_classes_apart_and_is_laid_back_in_every_channel() -> None:
    known = pairs(channels=2)
    window = Window.around(planes.numbered(known.masks[0]), 1.3)
    image, cut = window.cut(known.images[0], planes.numbered(known.masks[0]), 16, known.planes.classes)
    assert (image.shape, set(np.unique(cut))) == ((2, 16, 16), {0, 1, 2, 3})
    region = (cut > 0).astype(np.uint8)
    result, alpha = window.laid_back(known.images[0], np.full_like(image, 255), region, 20)
    assert np.array_equal(result[:, alpha == 0], known.images[0][:, alpha == 0])
    assert (result[:, alpha == 1] == 255).all()


def test_the_field_of_view_of_a_grey_picture_takes_no_specks_for_text() -> None:
    image = np.full((1, 64, 64), 90, np.uint8)
    image[:, :, :6] = 0
    image[0, 30, 10:60:3] = 250
    view = masks.field_of_view(image)
    assert view[:, 8:].all()
    assert not view[:, :5].any()
    assert not masks.field_of_view(image.repeat(3, axis=0))[:, 8:].all(), "which in colours would be text"


# ---- diffusion


def test_any_class_counts_as_lesion() -> None:
    x0 = dataset.to_tensor(pairs())
    weights = process.lesion_map(x0, 3.0, classes=3)
    inside = torch.from_numpy(planes.union(pairs().masks)[:, None] > 0)
    assert weights.shape == (3, 1, SIDE, SIDE)
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert float(weights[inside].min() / weights[~inside].max()) == pytest.approx(4, rel=1e-5)


def test_changed_training_images_keep_classes_that_exclude_each_other() -> None:
    x0 = dataset.to_tensor(pairs())
    change = warps.draw(3, 0.9, torch.Generator().manual_seed(1))
    moved = warps.apply(x0, change, classes=3)
    assert set(moved[:, 1:].unique().tolist()) == {-1.0, 1.0}
    assert int((moved[:, 1:] > 0).sum(dim=1).max()) == 1
    assert (moved[:, 1:] != x0[:, 1:]).any()


def test_guidance_compares_with_a_mask_that_lacks_the_lesion_and_keeps_the_other_classes() -> None:
    schedule, seen = process.schedule(params.Process(), 10), []

    def net(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.cat([x, x], dim=1)

    x0 = dataset.to_tensor(pairs())
    t = torch.full((3,), 4)
    x_t = process.noised(schedule, x0, t, torch.zeros_like(x0))
    share, empty = float(schedule.alpha_bar[4].sqrt()), torch.full_like(x0[:, 1:], -1)
    kept = torch.cat([x0[:, 1:2], empty[:, 1:]], dim=1)
    for rest in (empty, kept):
        seen.clear()
        output = guided_call(net, schedule, x_t, t, MaskGuidance(x0[:, 1:], 2.0, rest))
        assert torch.allclose(seen[1][:, 1:], share * rest, atol=1e-6)
        assert torch.equal(seen[1][:, :1], x_t[:, :1])
        assert output.shape == (3, 8, SIDE, SIDE)


def test_backbones_see_grey_repeated() -> None:
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(as_rgb(grey), grey.repeat(1, 3, 1, 1))
    colours = torch.rand(2, 3, 4, 4)
    assert as_rgb(colours) is colours


# ---- segmentation


def test_dice_is_of_the_likeliest_class_and_the_mean_over_classes() -> None:
    truth = planes.separate(numbers(), 3)[None]
    perfect = np.concatenate([1 - planes.union(truth)[:, None], truth], axis=1).astype(np.float32)
    assert overlap.scores(perfect, truth)[overlap.columns(3)].iloc[0].tolist() == pytest.approx([1] * 7)
    swapped = perfect[:, [0, 1, 3, 2]]  # the second class for the third
    scores = overlap.scores(swapped, truth).iloc[0]
    assert scores[overlap.of_classes(3)].tolist() == [1, 0, 0]
    assert scores["dice"] == pytest.approx(1 / 3)
    unsure = np.full((1, 4, 2, 2), 0.2, np.float32)
    unsure[:, 2] = 0.4  # below one half, and yet the likeliest
    assert overlap.hard(unsure)[0, 2].all()


def test_outlines_are_the_mean_over_classes() -> None:
    truth = planes.separate(numbers(), 3)[None]
    found = truth.copy()
    found[:, 2] = np.roll(found[:, 2], 4, axis=-1)
    each = [boundaries.scores(found[:, i], truth[:, i]) for i in range(3)]
    whole = boundaries.scores(found, truth)
    assert np.allclose(whole, sum(each) / 3)
    assert whole["hd95"][0] == pytest.approx(4 / 3)


@pytest.mark.parametrize(("kind", "channels"), [
    (Planes(1, 1), [1]), (Planes(1, 3), [0, 1, 2, 3]), (Planes(1, 3, overlap=True), [0, 1, 2])])
def test_the_loss_is_the_mean_dice_of_the_classes_and_of_background_where_they_exclude_each_other(
        kind: Planes, channels: list[int]) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, kind.classes + (not kind.overlap), 8, 8)))
    truth = torch.from_numpy(rng.integers(0, kind.classes + 1, (2, 8, 8)))
    shares = logits.sigmoid() if kind.overlap else logits.softmax(1)
    masks = [truth == number + kind.overlap for number in range(shares.shape[1])]
    expected = [1 - (2 * (shares[:, i] * masks[i]).sum() + 1) / (shares[:, i].sum() + masks[i].sum() + 1)
                for i in channels]
    wanted = torch.stack(masks, 1).long() if kind.overlap else truth
    assert softdice.loss(kind)(logits, wanted) == pytest.approx(float(sum(expected)) / len(channels))


def test_a_network_that_calls_the_surroundings_a_lesion_is_pulled_back() -> None:
    """A walk's CT networks stayed there: without background in the loss the gradient was next to nothing."""
    truth = torch.zeros(1, 48, 48, dtype=torch.int64)
    truth[:, 20:22, 20:22] = 3
    logits = torch.zeros(1, 4, 48, 48)
    logits[:, 3] = 4  # all of the picture is called class 3
    logits.requires_grad_()
    softdice.loss(Planes(1, 3))(logits, truth).backward()
    assert float(logits.grad[:, 0].abs().sum()) > 0.004


def test_networks_of_exclusive_classes_know_that_their_loss_is_another() -> None:
    settings = params.Segment()
    assert "loss" not in segnet.decided_by(settings, 0, Planes(3, 1)), "networks of one class stay"
    assert "loss" not in segnet.decided_by(settings, 0, Planes(1, 2, overlap=True))
    assert "loss" in segnet.decided_by(settings, 0, Planes(1, 2))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_networks_learn_any_channels_and_classes(channels: int, tmp_path) -> None:
    settings = params.Segment(decoder_channels=[16, 8, 8], epochs=1, epoch_images=4, batch_size=2)
    known = trials.grey(4, SIDE, Planes(channels, 3))
    fitted = segnet.fit(known, known, settings, 0, tmp_path, {}, torch.device("cpu"), "any")
    probabilities = segnet.predict(fitted.net, known.images, settings, torch.device("cpu"))
    assert probabilities.shape == (4, 4, SIDE, SIDE)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    again = segnet.load(segnet.save(tmp_path / "net.safetensors", fitted.net), settings, torch.device("cpu"))
    assert np.array_equal(segnet.predict(again, known.images, settings, torch.device("cpu")), probabilities)


@pytest.mark.parametrize("channels", [1, 5])
def test_augmentation_keeps_shapes_and_class_numbers(channels: int) -> None:
    known = pairs(channels)
    images, drawn = augmentation.drawn(known, np.arange(3), augmentation.transforms(channels), [1, 2, 3])
    assert images.shape == known.images.shape
    assert images.dtype == np.uint8
    assert set(np.unique(drawn)) <= {0, 1, 2, 3}
    assert drawn.max() == 3


def test_the_plan_counts_networks_of_the_datas_channels(nano: dict) -> None:
    kinds = [{}, {"source": "phantom-slices", "channels": 1, "labels": {"1": "a", "2": "b", "3": "c"}},
             {"source": "phantom-ultrasound", "channels": 1}]
    counted = [flops.count(params.validate(params.merged(nano, {"data": kind}))) for kind in kinds]
    parameters = [work.unet.parameters for work in counted]
    assert parameters[0] == parameters[1] > parameters[2], "four channels, four, and two"
    assert counted[1].segment.parameters > counted[0].segment.parameters
    assert counted[2].pyramid < counted[0].pyramid
