"""A diffusion model as one thing: what travels with it, and the beginner's way to sample and to fill."""

import numpy as np
import pytest
import torch

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Model, Process
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import process, samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds

SIDE = 16
SHORT = {"respacing": 6, "jump_length": 2, "resampling": 2}


@pytest.fixture(scope="module")
def diffusion() -> Diffusion:
    net = UNet(Model(channel_mult=[1, 1], attention_resolutions=[], head_channels=32), SIDE)
    g = seeds.generator(0, "weights")
    for weight in net.parameters():
        weight.data.add_(0.04 * torch.randn(weight.shape, generator=g))
    return Diffusion(net.eval().requires_grad_(False), process.schedule(Process(variance="learned")), "v")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def region() -> np.ndarray:
    region = np.zeros((SIDE, SIDE))
    region[3:9, 4:12] = 255
    return region


def same(a: dataset.Pairs, b: dataset.Pairs) -> bool:
    return np.array_equal(a.images, b.images) and np.array_equal(a.masks, b.masks)


@pytest.mark.parametrize("count", [1, 7, 200, 1000])
def test_a_respaced_model_has_the_schedule_of_its_process(diffusion: Diffusion, count: int):
    few, wanted = diffusion.respaced(count), process.schedule(Process(variance="learned"), count)
    for name, value in vars(wanted).items():
        found = getattr(few.schedule, name)
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, name
    assert few.net is diffusion.net


def test_what_travels_with_it(diffusion: Diffusion):
    assert (diffusion.image_size, diffusion.device) == (SIDE, torch.device("cpu"))
    t, x0 = torch.tensor([0, 999]), torch.randn(2, 4, SIDE, SIDE)
    x_t = diffusion.noised(x0, t, torch.randn_like(x0))
    free = diffusion.reverse(x_t, t, clip=False)
    assert torch.equal(diffusion.reverse(x_t, t).x0, free.x0.clamp(-1, 1))
    assert free.x0.abs().max() > 1
    unclipped = Diffusion(diffusion.net, diffusion.schedule, "v", clip=False)
    assert torch.equal(unclipped.reverse(x_t, t).x0, free.x0)


@pytest.mark.usefixtures("bf16")
def test_in_half_precision_the_network_is_called_under_autocast(diffusion: Diffusion):
    half = Diffusion(diffusion.net, diffusion.schedule, "v", precision="bf16")
    a, b = (model.sample(2, steps=5).images.astype(float) for model in (diffusion, half))
    assert 0 < np.abs(a - b).mean() < 20


# ---- whole pairs

@pytest.mark.usefixtures("image_by_image")
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_pair_depends_on_the_seed_and_its_number_alone(diffusion: Diffusion, sampler: str):
    five = diffusion.sample(5, seed=1, steps=4, sampler=sampler, batch_size=2)
    three = diffusion.sample(3, seed=1, steps=4, sampler=sampler)
    assert (five.images.shape, five.masks.shape) == ((5, 3, SIDE, SIDE), (5, 1, SIDE, SIDE))
    assert same(five.take([0, 1, 2]), three)
    assert not same(diffusion.sample(3, seed=2, steps=4, sampler=sampler), three)
    assert five.names == ["sample_0000", "sample_0001", "sample_0002", "sample_0003", "sample_0004"]
    assert set(np.unique(five.masks)) <= {0, 1}


@pytest.mark.parametrize(("asked", "says"), [
    ({"n": 0}, "must be 1 or more"), ({"n": 1, "batch_size": 0}, "must be 1 or more"),
    ({"n": 1, "steps": 0}, "1 to 1000"), ({"n": 1, "steps": 1001}, "1 to 1000"),
    ({"n": 1, "sampler": "euler"}, "There is no sampler euler. Samplers are ancestral, ddim, dpmpp")])
def test_what_cannot_be_sampled_is_refused_in_a_sentence(diffusion: Diffusion, asked: dict, says: str):
    with pytest.raises(UserError, match=says):
        diffusion.sample(**asked)


# ---- an image of one's own

@pytest.mark.usefixtures("image_by_image")
def test_outside_the_region_the_image_comes_back_byte_for_byte(diffusion: Diffusion, image: np.ndarray,
                                                               region: np.ndarray):
    filled = diffusion.fill(image, region, n=3, seed=4, **SHORT, batch_size=2)
    outside, given = region == 0, image.transpose(2, 0, 1)
    assert (filled.images[:, :, outside] == given[:, outside]).all()
    assert (filled.images[:, :, ~outside] != given[:, ~outside]).mean() > 0.9
    assert not filled.masks[:, 0, outside].any()
    assert len({picture.tobytes() for picture in filled.images}) == 3
    assert same(diffusion.fill(given, region > 0, n=1, seed=4, **SHORT), filled.take([0]))


def test_a_mask_that_is_given_is_the_mask_that_comes_back(diffusion: Diffusion, image: np.ndarray,
                                                          region: np.ndarray):
    lesion = np.zeros((SIDE, SIDE), bool)
    lesion[4:7, 5:9] = lesion[14, 14] = True
    filled = diffusion.fill(image, region, n=2, mask=lesion, **SHORT)
    assert (filled.masks[:, 0] == lesion).all()
    other = diffusion.fill(image, region, n=2, mask=np.zeros_like(lesion), **SHORT)
    assert not np.array_equal(other.images, filled.images), "the model paints what fits the mask"


def test_a_guidance_scale_counts_for_given_masks_alone(diffusion: Diffusion, image: np.ndarray,
                                                       region: np.ndarray):
    def filled(scale: float, mask: np.ndarray | None) -> dataset.Pairs:
        return diffusion.fill(image, region, n=2, mask=mask, guidance_scale=scale, **SHORT)

    lesion = region > 0
    assert not same(filled(3.0, lesion), filled(1.0, lesion))
    assert (filled(3.0, lesion).masks[:, 0] == lesion).all()
    with pytest.raises(UserError, match="give a mask with it"):
        filled(3.0, None)


@pytest.mark.parametrize(("change", "says"), [
    ({"image": np.zeros((8, 8, 3), np.uint8)}, r"must be \(16, 16, 3\) or \(3, 16, 16\), uint8"),
    ({"image": np.zeros((SIDE, SIDE, 3))}, "uint8; it is .*float64"),
    ({"image": np.zeros((SIDE, SIDE), np.uint8)}, "The image must be"),
    ({"region": np.zeros((8, 8))}, r"The region must be \(16, 16\)"),
    ({"mask": np.zeros((SIDE, SIDE, 3))}, r"The mask must be \(16, 16\)"),
    ({"respacing": 2000}, "1 to 1000"), ({"n": 0}, "must be 1 or more"),
    ({"jump_length": 6}, "jump_length 6 must be below the 6 respaced steps"),
    ({"jump_length": 0}, "jump_length must be 1 or more"), ({"resampling": 0}, "resampling must be"),
    ({"mask": np.ones((SIDE, SIDE)), "guidance_scale": 0.5}, "guidance_scale must be 1 or more")])
def test_what_cannot_be_filled_is_refused_in_a_sentence(diffusion: Diffusion, image: np.ndarray,
                                                        region: np.ndarray, change: dict, says: str):
    with pytest.raises(UserError, match=says):
        diffusion.fill(**{"image": image, "region": region, **SHORT, **change})
