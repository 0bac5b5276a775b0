"""The GAN of one image: its sides, its networks, its losses, and what it learns in a few steps."""

import pytest
import torch

from diffusegen_core.config.params import Gan
from diffusegen_core.data import dataset, phantom
from diffusegen_core.networks import singan
from diffusegen_core.networks.singan import Pyramid
from diffusegen_core.store import seeds

CPU = torch.device("cpu")
TINY = Gan(min_side=8, scale_factor=0.6, channels=8, layers=3, steps=20, lr=2e-3)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """A phantom (4, 20, 20)."""
    drawn, mask, _ = phantom.draw(0, 0, 20)
    return dataset.to_tensor(dataset.gather(["a"], drawn[None], mask[None]))[0]


@pytest.fixture(scope="module")
def pyramid(image: torch.Tensor) -> Pyramid:
    return singan.fit(image, TINY, 5, CPU)


def noise(*names: object) -> list[torch.Generator]:
    return [seeds.generator(0, name) for name in names]


def error(pyramid: Pyramid, image: torch.Tensor) -> float:
    """RMS error of the reconstruction."""
    learnt = singan.draw(pyramid, len(pyramid.scales), noise("any"))
    return float((learnt[0] - image).square().mean().sqrt())


@pytest.mark.parametrize(("size", "least", "factor", "expected"), [
    (32, 12, 0.6, [12, 20, 32]), (64, 12, 0.6, [12, 18, 28, 42, 64]), (20, 20, 0.6, [20]),
    (16, 4, 0.5, [4, 8, 16]), (250, 25, 0.75, [25, 32, 42, 54, 70, 90, 116, 150, 194, 250])])
def test_the_sides_go_down_to_the_least(size: int, least: int, factor: float, expected: list[int]) -> None:
    """The last are SinGAN's own, whose ten scales SinGAN-Seg's names count from 0 to 9."""
    assert singan.sides(size, Gan(min_side=least, scale_factor=factor)) == expected


def test_a_network_sees_two_pixels_a_layer(image: torch.Tensor) -> None:
    net = singan.network(4, 8, 1, 5, seeds.generator(0))
    scores = net(image[None])
    assert scores.shape == (1, 1, 10, 10)
    changed = image[None].clone()
    changed[..., 0, 0] += 1
    norms = [layer for layer in net if isinstance(layer, torch.nn.InstanceNorm2d)]
    assert len(norms) == 4
    for layer in norms:  # which sees the whole image
        layer.forward = lambda x: x
    assert ((net(changed) - net(image[None])).abs() > 1e-9).nonzero().tolist() == [[0, 0, 0, 0]]


def test_a_scale_without_an_effect_leaves_the_coarser_image(image: torch.Tensor) -> None:
    net = singan.network(4, 8, 4, 5, seeds.generator(0))
    for values in net[-1].parameters():
        torch.nn.init.zeros_(values)
    torch.testing.assert_close(singan.refine(net, torch.ones(1, 4, 20, 20), image[None]), image[None])


def test_the_critics_loss_by_hand() -> None:
    """For a critic that adds up three times the channels, D = 3 sum x, its gradient's norm is 3 sqrt(4)."""
    critic = torch.nn.Sequential(torch.nn.Conv2d(4, 1, 1, bias=False))
    torch.nn.init.constant_(critic[0].weight, 3)
    real, fake = torch.full((1, 4, 5, 5), 0.5), torch.full((1, 4, 5, 5), -0.25)
    loss = singan.critic_loss(critic, real, fake, 0.1, seeds.generator(0))
    assert float(loss.detach()) == pytest.approx(12 * (-0.25 - 0.5) + 0.1 * (6 - 1) ** 2, rel=1e-5)
    loss.backward()
    assert float(critic[0].weight.grad.abs().min()) > 0


def test_samples_are_whole_images_that_differ(pyramid: Pyramid, image: torch.Tensor) -> None:
    samples = singan.draw(pyramid, 0, noise(1, 2, 3))
    assert samples.shape == (3, 4, 20, 20)
    assert samples.isfinite().all()
    assert [scale.side for scale in pyramid.scales] == [8, 13, 20]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert float((samples[a] - samples[b]).abs().mean()) > 0.05
    assert float(samples.mean()) == pytest.approx(float(image.mean()), abs=0.15)


def test_a_sample_depends_on_its_own_noise(pyramid: Pyramid) -> None:
    together = singan.draw(pyramid, 0, noise(1, 2, 3))
    assert torch.equal(singan.draw(pyramid, 0, noise(2)), singan.draw(pyramid, 0, noise(2)))
    torch.testing.assert_close(singan.draw(pyramid, 0, noise(2)), together[1:2], rtol=0, atol=1e-4)


def test_a_later_start_keeps_more_of_the_image(pyramid: Pyramid) -> None:
    learnt = singan.draw(pyramid, 3, noise("any"))
    away = [float((singan.draw(pyramid, start, noise(1, 2, 3, 4)) - learnt).square().mean())
            for start in range(4)]
    assert away[0] > 2 * away[1] > 2 * away[2] > 0
    assert away[3] < 1e-9


def test_the_seed_alone_decides(image: torch.Tensor) -> None:
    few = TINY.model_copy(update={"steps": 2})
    torch.manual_seed(1)
    first = singan.draw(singan.fit(image, few, 5, CPU), 0, noise(1))
    torch.manual_seed(2)
    assert torch.equal(singan.draw(singan.fit(image, few, 5, CPU), 0, noise(1)), first)
    assert not torch.equal(singan.draw(singan.fit(image, few, 6, CPU), 0, noise(1)), first)


def test_the_reconstruction_is_learnt(pyramid: Pyramid, image: torch.Tensor) -> None:
    untrained = singan.fit(image, TINY.model_copy(update={"steps": 1, "lr": 1e-9}), 5, CPU)
    assert error(pyramid, image) < 0.6 * error(untrained, image)


def test_the_noise_is_a_share_of_what_was_not_learnt(pyramid: Pyramid, image: torch.Tensor) -> None:
    coarser = Pyramid(pyramid.scales[:2], pyramid.fixed, 4)
    learnt = singan.resized(singan.draw(coarser, 2, noise("any")), 20)
    assert pyramid.scales[0].noise == 1
    missed = float((learnt - image).square().mean().sqrt())
    assert pyramid.scales[2].noise == pytest.approx(0.1 * missed, rel=1e-4)


def test_networks_grow_after_four_scales_up_to_a_limit(image: torch.Tensor) -> None:
    many = Gan(min_side=7, scale_factor=0.93, channels=2, layers=3, steps=1)
    ticks = []
    pyramid = singan.fit(image, many, 0, CPU, ticks.append)
    widths = [scale.net[0].out_channels for scale in pyramid.scales]
    assert widths == [2] * 4 + [4] * 4 + [8] * (len(widths) - 8)
    assert len(widths) > 12
    assert sum(ticks) == len(widths)


def test_scales_have_networks_of_their_own(pyramid: Pyramid) -> None:
    first, second = (pyramid.scales[n].net[0].weight for n in (0, 1))
    assert first.shape == second.shape
    assert not torch.equal(first, second)
