"""RePaint: its schedule, exact known pixels, given masks, and results that depend on their own seed only."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, regions
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels, to_array
from diffusegen_core.diffusion.samplers import SAMPLERS
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds

DILATE = 20


# ---- the schedule

@pytest.mark.parametrize(("count", "jump", "resampling", "transitions", "calls"), [
    (200, 10, 5, 1720, 960), (100, 10, 5, 820, 460), (50, 10, 3, 210, 130), (250, 10, 10, 4570, 2410),
    (25, 5, 2, 65, 45), (10, 3, 1, 10, 10), (2, 1, 4, 8, 5)])
def test_repaint_visits_as_many_levels_as_published(count, jump, resampling, transitions, calls):
    levels = repaint_levels(count, jump, resampling)
    assert len(levels) - 1 == transitions
    assert network_calls(levels) == calls
    assert (levels[0], levels[-1], max(levels), min(levels)) == (count - 1, -1, count - 1, -1)
    assert levels.index(-1) == len(levels) - 1
    steps = [after - before for before, after in pairwise(levels)]
    assert {abs(step) for step in steps} == {1}
    # Steps up come in whole jumps, resampling - 1 of them from each level where jumps start.
    starts = Counter(levels[i] for i, step in enumerate(steps) if step > 0 and (i == 0 or steps[i - 1] < 0))
    assert sum(step > 0 for step in steps) == jump * starts.total()
    assert set(starts.values()) <= {resampling - 1}
    assert sorted(starts) == ([] if resampling == 1 else list(range(0, count - jump, jump)))


def test_the_first_levels_of_a_small_schedule_by_hand():
    assert repaint_levels(5, 2, 2) == [4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]


@pytest.mark.parametrize(("count", "jump"), [(10, 10), (5, 10), (1, 1)])
def test_a_jump_that_no_level_has_room_for_is_refused_where_one_is_asked_for(count: int, jump: int):
    with pytest.raises(UserError, match=f"jump_length {jump} must be below the {count} respaced steps"):
        repaint_levels(count, jump, 2)
    assert repaint_levels(count, jump, 1) == list(range(count - 1, -2, -1))


# ---- one image at a time

@pytest.fixture(scope="module")
def net() -> UNet:
    """A small network with attention whose every weight is random: the untrained one would answer zero."""
    net = UNet(params.Model(channel_mult=[1, 1], attention_resolutions=[8], head_channels=16), 16)
    g = seeds.generator(0, "weights")
    for p in net.parameters():
        p.data.add_(0.04 * torch.randn(p.shape, generator=g))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs() -> dataset.Pairs:
    rng = np.random.default_rng(0)
    masks = np.zeros((7, 1, 16, 16), np.uint8)
    for i, mask in enumerate(masks):
        mask[0, 3 + i % 3:9 + i, 2 + i:11] = 1
    images = rng.integers(0, 256, (7, 3, 16, 16), dtype=np.uint8)
    return dataset.gather([f"p{i}" for i in range(7)], images, masks)


def painted(net: UNet, pairs: dataset.Pairs, rows: list[int], objective: str = "v") -> torch.Tensor:
    """The float result for some of the pairs, in one batch."""
    s = process.schedule(params.Process(objective=objective), 25)
    levels, some = repaint_levels(25, 5, 3), pairs.take(rows)
    known = torch.from_numpy(1 - regions.all_dilated(some.masks, DILATE)[:, None]).float()
    own = [seeds.generator(0, "image", row) for row in rows]
    return repaint(Diffusion(net, s, objective), dataset.to_tensor(some), known, levels, own)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_a_result_does_not_depend_on_batch_size_order_or_shard(net: UNet, pairs: dataset.Pairs,
                                                                objective: str):
    whole = painted(net, pairs, list(range(7)), objective)
    assert float(whole.std()) > 0.1
    for rows in ([3], [6, 2, 4], [5, 1, 0, 3, 6, 2, 4]):
        torch.testing.assert_close(painted(net, pairs, rows, objective), whole[rows], rtol=0, atol=1e-5)


def test_images_of_a_batch_get_noise_of_their_own(net: UNet, pairs: dataset.Pairs):
    same = pairs.take([0, 0])
    x = painted(net, dataset.gather(["a", "b"], same.images, same.masks), [0, 1])
    assert float((x[0] - x[1]).abs().max()) > 0.5


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_known_pixels_come_back_exact_in_all_four_channels(net: UNet, pairs: dataset.Pairs, objective: str):
    x, x0 = painted(net, pairs, list(range(7)), objective), dataset.to_tensor(pairs)
    known = torch.from_numpy(regions.all_dilated(pairs.masks, DILATE)) == 0
    for i in range(7):
        assert torch.equal(x[i][:, known[i]], x0[i][:, known[i]])
        assert not torch.equal(x[i][:, ~known[i]], x0[i][:, ~known[i]])
        assert (known[i].any(), (~known[i]).any()) == (True, True)


def test_the_known_part_reaches_the_network_noised_to_the_level_at_hand(pairs: dataset.Pairs):
    s = process.schedule(params.Process(), 50)
    x_known = dataset.to_tensor(pairs.take([0] * 7))
    seen = []

    def watching(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append((int(timestep[0]), x_t))
        return torch.zeros(len(x_t), 8, 16, 16)
    levels = repaint_levels(50, 10, 2)
    own = [seeds.generator(0, i) for i in range(7)]
    repaint(Diffusion(watching, s, "v"), x_known, torch.ones(7, 1, 16, 16), levels, own)
    assert [t for t, _ in seen] == [int(s.timestep[a]) for a, b in pairwise(levels) if b < a]
    for t, x_t in seen:
        alpha_bar = float(torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64)[:t + 1].prod())
        noise = (x_t - alpha_bar**0.5 * x_known) / (1 - alpha_bar) ** 0.5
        assert float(noise.mean()) == pytest.approx(0, abs=0.05)  # 7168 values: a standard error of 0.012
        assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_a_jump_back_keeps_the_variance_that_its_level_has(pairs: dataset.Pairs):
    """Where the network knows that the image is black, x follows q at every level, after any jump."""
    s = process.schedule(params.Process(), 50)
    alpha_bar = torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64).cumprod(0)
    seen = []

    def knowing(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        a = float(alpha_bar[int(timestep[0])])
        seen.append(float(((x_t + a**0.5) / (1 - a) ** 0.5).std()))  # x0 = -1
        eps = (x_t + a**0.5) / (1 - a) ** 0.5
        return torch.cat([eps, torch.full_like(eps, -1.0)], dim=1)  # the posterior's own variance
    own = [seeds.generator(1, i) for i in range(7)]
    x = repaint(Diffusion(knowing, s, "eps"), torch.ones(7, 4, 16, 16), torch.zeros(7, 1, 16, 16),
                repaint_levels(50, 10, 3), own)
    np.testing.assert_allclose(seen, 1, atol=0.05)
    torch.testing.assert_close(x, -torch.ones_like(x), atol=1e-3, rtol=0)


def test_a_channel_that_is_known_everywhere_comes_back_whole(net: UNet, pairs: dataset.Pairs):
    x0, diffusion = dataset.to_tensor(pairs), Diffusion(net, process.schedule(params.Process(), 12), "v")
    alike = torch.from_numpy(1 - regions.all_dilated(pairs.masks, DILATE)[:, None]).float()
    known, levels = alike.repeat(1, 4, 1, 1), repaint_levels(12, 3, 2)

    def painted(known: torch.Tensor) -> torch.Tensor:
        return repaint(diffusion, x0, known, levels, [seeds.generator(0, row) for row in range(7)])
    assert torch.equal(painted(known), painted(alike))
    known[:, 3] = 1
    x = painted(known)
    assert torch.equal(x[:, 3], x0[:, 3])
    assert torch.equal(x[known > 0], x0[known > 0])
    assert not torch.equal(x[:, :3], painted(alike)[:, :3]), "the image knows the mask"


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_fills(net: UNet, pairs: dataset.Pairs, name: str):
    """After a jump back up a step has no step before; each ends where the network is sure, at black."""
    seen, levels = [], repaint_levels(9, 2, 2)

    def black(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        a = float(process.schedule(params.Process()).alpha_bar[int(timestep[0])])
        return torch.cat([(x_t + a**0.5) / (1 - a) ** 0.5, torch.full_like(x_t, -1.0)], dim=1)

    def watched(diffusion, x_t, t, generators, before):
        seen.append(before is None)
        return SAMPLERS[name](diffusion, x_t, t, generators, before)
    x = repaint(Diffusion(black, process.schedule(params.Process(), 9), "eps"), torch.ones(2, 4, 16, 16),
                torch.zeros(2, 1, 16, 16), levels, [seeds.generator(0, row) for row in (0, 1)], watched)
    torch.testing.assert_close(x, -torch.ones_like(x), atol=1e-3, rtol=0)
    down = [i for i, (a, b) in enumerate(pairwise(levels)) if b < a]
    assert seen == [i == 0 or levels[i - 1] < levels[i] for i in down]


def test_values_that_are_not_finite_are_no_image(net: UNet, pairs: dataset.Pairs):
    class Burst(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 8, 16, 16), torch.nan)

    samples = painted(Burst(), pairs, [0])
    with pytest.raises(UserError, match="values that are not finite"):
        to_array(samples)
    assert to_array(torch.zeros(1, 4, 2, 2)).shape == (1, 4, 2, 2)
