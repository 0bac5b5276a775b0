"""SDEdit of pairs: known masks, a start part of the way up, and the chapter that takes it for styling."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusegen_core.chapters import style
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import pairsets
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.sdedit import sdedit
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import vgg
from diffusegen_core.report import figures, style_tables
from diffusegen_core.run import Run
from diffusegen_core.segmentation.trainsets import Amount
from diffusegen_core.store import seeds

STYLED, SIDE, B = DataType("Styled-Diff", "2"), 16, 5


@pytest.fixture(scope="module")
def net() -> UNet:
    net = UNet(params.Model(channel_mult=[1, 1], attention_resolutions=[], head_channels=32), SIDE)
    g = seeds.generator(0, "weights")
    for weight in net.parameters():
        weight.data.add_(0.04 * torch.randn(weight.shape, generator=g))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs() -> torch.Tensor:
    x = torch.rand(B, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[:, 3] = -1
    for i in range(B):
        x[i, 3, 2 + i:9 + i, 3:7 + i] = 1
    return x


def edited(net: Callable, pairs: torch.Tensor, rows: list[int], first: int = 6) -> torch.Tensor:
    diffusion = Diffusion(net, process.schedule(params.Process(), 20), "v")
    own = [seeds.generator(0, "image", row) for row in rows]
    return sdedit(diffusion, pairs[rows], list(reversed(range(first + 1))), own)


def test_masks_come_back_exact_and_every_colour_is_the_models(net: UNet, pairs: torch.Tensor):
    x = edited(net, pairs, list(range(B)))
    assert torch.equal(x[:, 3], pairs[:, 3])
    assert float((x[:, :3] != pairs[:, :3]).float().mean()) > 0.99
    for rows in ([3], [4, 0, 2]):
        torch.testing.assert_close(edited(net, pairs, rows), x[rows], rtol=0, atol=1e-5)


def test_an_image_is_noised_to_the_first_level_and_comes_down_one_by_one(pairs: torch.Tensor):
    s = process.schedule(params.Process(), 20)
    seen = []

    def watching(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append((int(timestep[0]), x_t))
        return torch.zeros(len(x_t), 8, SIDE, SIDE)

    watching.planes = Planes()
    edited(watching, pairs, list(range(B)), first=6)
    assert [t for t, _ in seen] == [int(s.timestep[level]) for level in reversed(range(7))]
    for t, x_t in seen[:1]:
        alpha_bar = float(torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64)[:t + 1].prod())
        noise = (x_t - alpha_bar**0.5 * pairs) / (1 - alpha_bar) ** 0.5
        assert float(noise.mean()) == pytest.approx(0, abs=0.06)  # 5120 values: a standard error of 0.014
        assert float(noise.std()) == pytest.approx(1, abs=0.06)
    for (t, x_t), (_, below) in pairwise(seen):
        alpha_bar = float(torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64)[:t + 1].prod())
        known = (x_t[:, 3] - alpha_bar**0.5 * pairs[:, 3]) / (1 - alpha_bar) ** 0.5
        assert float(known.std()) == pytest.approx(1, abs=0.1), "the mask has the noise of its level"
        assert not torch.equal(x_t, below)


def test_the_lower_it_starts_the_closer_it_stays(net: UNet, pairs: torch.Tensor):
    apart = [float((edited(net, pairs, [0, 1], first)[:, :3] - pairs[:2, :3]).abs().mean())
             for first in (1, 6, 15)]
    assert apart == sorted(apart)
    assert apart[2] > 1.5 * apart[0]


# ---- chapter 4

@pytest.fixture(scope="module")
def run_of(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Params]:
    folder = tmp_path_factory.mktemp("sdedit") / "run"

    def made(**settings: object) -> Params:
        return params.validate({**nano_values, "run_dir": str(folder), "style": {
            "respacing": 5, "skip": 2, "backbone": "timm/test_resnet", "backbone_size": 32, "batch_size": 3,
            "method": "sdedit", **settings}})
    return made


def images(run: Run) -> dict[str, bytes]:
    one = run.make("style").sets[STYLED]
    return {path.name: path.read_bytes() for path in (one.folder / "images").iterdir()}


def test_the_chapter_keeps_the_masks_and_loads_no_vgg(run_of: Callable[..., Params],
                                                      monkeypatch: pytest.MonkeyPatch):
    def unwanted(*given: object) -> None:
        raise AssertionError("no loss looks through it")

    monkeypatch.setattr(vgg, "load", unwanted)
    run = Run(run_of())
    result = run.make("style")
    one, origin = result.sets[STYLED], run.inpainted.sets[STYLED.inpainted]
    assert len(one) == len(origin) > 0
    assert "mask_dice" not in one.manifest, "no mask was drawn"
    assert "mask Dice" not in style_tables.styled(run).frame
    for name in one.manifest["name"]:
        (image, mask), (before, kept) = (pairsets.read_pair(f, name) for f in (one.folder, origin.folder))
        assert np.array_equal(mask, kept)
        assert (image != before).mean() > 0.5
    assert result.steps[STYLED].empty
    assert list(result.steps[STYLED].columns) == list(style.COLUMNS)[1:]


def test_batches_change_nothing_and_weights_of_losses_are_not_asked_for(run_of: Callable[..., Params]):
    first = images(Run(run_of()))
    stamp = Run(run_of()).make("style").sets[STYLED].stamp
    for change in ({"batch_size": 1}, {"lambda_mse": 1.0}, {"vgg_weights": "pretrained"},
                   {"max_shift": None}):
        assert Run(run_of(**change)).make("style").sets[STYLED].stamp == stamp
    assert images(Run(run_of(skip=3))) != first
    assert images(Run(run_of(guidance_scale=1.0))) != first
    assert images(Run(run_of())) == first


def test_guided_pairs_are_known_by_what_they_were_before(run_of: Callable[..., Params]):
    guided = Run(run_of(method="guided")).make("style").sets[STYLED].stamp["recipe"]["style"]
    edited = Run(run_of()).make("style").sets[STYLED].stamp["recipe"]["style"]
    assert not {"method", "guidance_scale"} & set(guided)
    assert set(edited) == {"method", *style.OF_SDEDIT}


def test_the_table_says_what_sdedit_does_and_shows_no_loss(run_of: Callable[..., Params]):
    run = Run(run_of())
    run.make("style")
    shown = dict(style_tables.method(run.params, run.styled).frame.itertuples(index=False))
    p = run.params.style
    assert int(shown["steps taken"]) == p.respacing - p.skip
    assert int(shown["network calls an image"]) == 2 * (p.respacing - p.skip), "the mask guides each step"
    level = process.respaced(run.params.process.steps, p.respacing)[p.respacing - p.skip - 1]
    noise = 1 - process.schedule(run.params.process).alpha_bar[level].item()
    assert shown["noise at the first of them"] == f"{noise:.0%} of the variance"
    assert not set(style_tables.LOSSES) & set(shown)
    figure = figures.guidance(run.params, run.styled)
    assert "No image was guided." in [text.get_text() for ax in figure.axes for text in ax.texts]
    assert figures.styling(run.pairs, run.styled)


@pytest.mark.parametrize(("method", "kind", "flop", "calls"), [
    ("guided", "styling", 8 * 60.0, 8 * 3), ("sdedit", "sampling", 8 * 2 * 3 * 7.0, 8 * 2 * 3)])
def test_the_plan_counts_what_the_method_takes(run_of: Callable[..., Params], method: str, kind: str,
                                              flop: float, calls: int):
    work = SimpleNamespace(unet=SimpleNamespace(call=7.0), guided=[10.0, 20.0, 30.0], pair=4)
    cost, = style.costs(run_of(method=method).style, {STYLED: Amount(4, 2)}, SIDE, work)
    assert (cost.kind, cost.flop, cost.images) == (kind, flop, calls)


def test_a_pair_that_is_not_finite_is_left_out_with_its_reason(run_of: Callable[..., Params],
                                                               monkeypatch: pytest.MonkeyPatch):
    def spoiled(*given: Any, **settings: Any) -> torch.Tensor:
        x = sdedit(*given, **settings).clone()
        x[0, 1, 2, 3] = torch.nan
        return x

    monkeypatch.setattr(style, "sdedit", spoiled)
    one = Run(run_of(guidance_scale=3.0, batch_size=16)).make("style").sets[STYLED]
    models = one.left_out["model"]
    assert one.left_out["status"].unique().tolist() == ["stopped: not finite"]
    assert models.is_unique, "one of each batch, which has one model"
    assert len(one) + len(one.left_out) == len(Run(run_of()).inpainted.sets[STYLED.inpainted])
    assert set(one.manifest["status"]) == {"ok"}
