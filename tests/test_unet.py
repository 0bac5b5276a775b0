"""The U-Net: its shapes, its size, its start, and what a timestep does to it."""

import pytest
import torch

from diffusegen_core.config.params import Model
from diffusegen_core.diffusion.unet import UNet, parameter_count, time_embedding
from diffusegen_core.report import tables
from diffusegen_core.store import seeds


def tiny(**changes: object) -> Model:
    return Model(**{"base_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [], **changes})


def stirred(net: UNet) -> UNet:
    """The net with every weight drawn anew, for the untrained one answers nothing but zero."""
    g = seeds.generator(0, "weights")
    for p in net.parameters():
        p.data.add_(0.05 * torch.randn(p.shape, generator=g))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize(("model", "size"), [
    (tiny(channel_mult=[1]), 8),
    (tiny(channel_mult=[1, 1, 2], res_blocks=2), 16),
    (tiny(attention_resolutions=[16, 8], head_channels=16), 16),
    (tiny(channel_mult=[2, 1], attention_resolutions=[8], head_channels=8), 16),
    (tiny(channel_mult=[1, 2, 3, 4], res_blocks=1, base_channels=64, head_channels=64), 24),
    (tiny(dropout=0.5), 8),
])
def test_any_shape_of_network_gives_eight_channels_of_zeros_before_training(model: Model, size: int):
    net = UNet(model, size)
    x = torch.randn(2, 4, size, size, generator=seeds.generator(0))
    output = net(x, torch.tensor([0.0, 999.0]))
    assert output.shape == (2, 8, size, size)
    assert (output == 0).all()
    features = net.encode(x, torch.zeros(2))
    levels = len(model.channel_mult)
    assert len(features) == 1 + levels * model.res_blocks + levels - 1
    side = size // 2 ** (levels - 1)
    assert features[-1].shape == (2, model.base_channels * model.channel_mult[-1], side, side)


def test_the_papers_network_has_526_56_million_parameters():
    with torch.device("meta"):
        assert round(parameter_count(UNet(tables.PAPER, 256)) / 1e6, 2) == 526.56


def test_attention_stands_where_it_is_asked_for_and_in_the_middle():
    def places(*sides: int) -> list[str]:
        net = UNet(tiny(channel_mult=[1, 1, 1], attention_resolutions=list(sides)), 16)
        return [name.removesuffix(".qkv") for name, _ in net.named_modules() if name.endswith("qkv")]
    assert places() == ["middle_block.1"]
    # Blocks: 0 stem, 1 at 16, 2 down, 3 at 8, 4 down, 5 at 4; out: 0 1 at 4, 2 3 at 8, 4 5 at 16.
    assert places(8) == ["input_blocks.3.1", "middle_block.1", "output_blocks.2.1", "output_blocks.3.1"]
    assert places(16) == ["input_blocks.1.1", "middle_block.1", "output_blocks.4.1", "output_blocks.5.1"]


def test_every_weight_learns_once_the_zeros_are_stirred():
    net = stirred(UNet(tiny(attention_resolutions=[8]), 8)).requires_grad_(True)
    x = torch.randn(2, 4, 8, 8, generator=seeds.generator(1))
    net(x, torch.tensor([3.0, 700.0])).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_images_of_a_batch_do_not_see_each_other():
    net = stirred(UNet(tiny(attention_resolutions=[8]), 8))
    x = torch.randn(3, 4, 8, 8, generator=seeds.generator(2))
    t = torch.tensor([0.0, 400.0, 999.0])
    alone = torch.cat([net(x[i:i + 1], t[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t), alone, rtol=1e-5, atol=1e-5)


def test_attention_is_softmax_of_scaled_dot_products_head_by_head():
    net = stirred(UNet(tiny(base_channels=64, channel_mult=[1], head_channels=16), 4))
    attention = net.middle_block[1]
    x = torch.randn(1, 64, 4, 4, generator=seeds.generator(3))
    qkv = attention.qkv(attention.norm(x).flatten(2))[0]
    heads = []
    for q, k, v in (qkv[48 * i:48 * i + 48].split(16) for i in range(4)):  # the outer split is the heads
        weights = ((q.T @ k) / 16**0.5).softmax(dim=1)
        heads.append(v @ weights.T)
    wanted = x + attention.proj_out(torch.cat(heads)[None]).view(1, 64, 4, 4)
    torch.testing.assert_close(attention(x), wanted, rtol=1e-5, atol=1e-5)


def test_time_embedding_is_cosines_then_sines_of_falling_frequency():
    found = time_embedding(torch.tensor([0.0, 250.0]), 4)
    angles = torch.tensor([250.0, 250.0 / 100])  # 10000 ** -0, 10000 ** -(1/2)
    wanted = torch.stack([torch.tensor([1.0, 1, 0, 0]), torch.cat([angles.cos(), angles.sin()])])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
