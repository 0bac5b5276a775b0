"""The guided loop: a step by hand, images that do not depend on one another, and that styling styles."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusegen_core.chapters import style
from diffusegen_core.config import params
from diffusegen_core.config.params import Style
from diffusegen_core.data import dataset, phantom, regions
from diffusegen_core.diffusion import losses, process
from diffusegen_core.diffusion.guided import MEASURED, OK, GuidedStep, Judge, Record, Targets, guided
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import features, vgg, weights
from diffusegen_core.store import seeds

CPU = torch.device("cpu")
SIDE = 32
SMALL = {"respacing": 25, "skip": 10, "backbone": "timm/test_resnet", "backbone_size": 32,
         "zecon_patches": 64}


def tiny_net(side: int = 16) -> UNet:
    """A net whose every layer counts; a fresh one predicts nothing."""
    model = params.Model(channel_mult=[1, 1], attention_resolutions=[], head_channels=32)

    def make() -> UNet:
        net = UNet(model, side)
        for p in net.parameters():
            if p.dim() > 1 and not p.any():
                torch.nn.init.normal_(p, std=0.02)
        return net
    return weights.seeded(make, 0).eval().requires_grad_(False)


def tiny_judge(**settings: object) -> Judge:
    given = Style(**{**SMALL, **settings})
    cls_net = features.load_cls(given.backbone, "random", "imagenet", CPU, 0, given.backbone_size)
    return Judge(cls_net, vgg.load("vgg19", "random", CPU, 0), given, [0, 1, 3])


def generators(rows: list[int]) -> list[torch.Generator]:
    return [seeds.generator(0, "noise", row) for row in rows]


class Linear:
    """Predicts v = 0.3 x and a variance in the middle of its bounds: every step can be written down."""

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        return torch.cat([0.3 * x, torch.zeros_like(x)], dim=1)


@pytest.mark.parametrize("rule", ["paper", "variance"])
def test_a_guided_step_by_hand(rule: str) -> None:
    off = {f"lambda_{name}": 0.0 for name in losses.TERMS if name not in ("mse", "l2")}
    judge = tiny_judge(guidance=rule, max_shift=None, lambda_mse=1e5, lambda_l2=2e5, **off)
    s = process.schedule(params.Process(variance="learned"), 25)
    rng = np.random.default_rng(0)
    x, inpainted = (torch.from_numpy(rng.standard_normal((2, 4, 16, 16))).float() for _ in range(2))
    source = inpainted[:, :3].flip(0)
    step, level = GuidedStep(judge, Targets.of(judge, inpainted, source)), 12
    found_x, _ = step(Diffusion(Linear(), s, "v"), x, torch.full((2,), level), generators([0, 1]))
    found, = step.measured

    draws = generators([0, 1])
    noise, eps = seeds.normal_like(draws, x), seeds.normal_like(draws, x)
    ab, before, beta = (float(c[level]) for c in (s.alpha_bar, s.alpha_bar_prev, s.beta))
    to_x0 = ab**0.5 - 0.3 * (1 - ab) ** 0.5  # x0_hat = to_x0 * x
    part = (1 - ab) ** 0.5
    to_mix = part * to_x0 + 1 - part
    reference = part * inpainted + (1 - part) * (ab**0.5 * inpainted + (1 - ab) ** 0.5 * noise)
    of_reference, of_source = (to_mix * x[:, :3] - y[:, :3] for y in (reference, source))
    numbers = 3 * 16 * 16
    gradient = torch.zeros_like(x)
    gradient[:, :3] = to_mix * 2 / numbers * (1e5 * of_reference + 2e5 * of_source)
    log_variance = 0.5 * (np.log(beta) + np.log(beta * (1 - before) / (1 - ab)))
    mean = (before**0.5 * beta * (to_x0 * x).clamp(-1, 1) + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - ab)
    factor = 200 / 25 if rule == "paper" else np.exp(log_variance)
    expected = mean + np.exp(log_variance / 2) * eps - factor * (16 / 256) ** 2 * gradient

    torch.testing.assert_close(found["mse"], of_reference.square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(found["l2"], of_source.square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(found_x, expected, rtol=1e-4, atol=1e-4)
    assert (factor * (16 / 256) ** 2 * gradient).abs().max() > 0.01


def test_the_shift_stays_within_the_limit_and_no_loss_drowns_the_others() -> None:
    judge = tiny_judge(lambda_sty=1e9, max_shift=0.3)
    _, records, status = course(judge, [0, 1], scale=1.0)
    assert status == [OK] * 2
    for record in (r for rows in records for r in rows):
        assert record["pull_sty"] > 100 * record["noise"]
        assert record["shift"] <= 0.3 * record["noise"] * 1.001
    free = tiny_judge(max_shift=None)
    assert max(r["shift"] / r["noise"] for rows in course(free, [0, 1])[1] for r in rows) > 0.3


def course(judge: Judge, rows: list[int], scale: float = 1.0, spoilt: int | None = None
           ) -> tuple[Tensor, list[list[Record]], list[str]]:
    """Guide these of four fixed images through the levels."""
    rng = np.random.default_rng(1)
    inpainted = torch.from_numpy(rng.uniform(-1, 1, (4, 4, 16, 16))).float()[rows]
    source = torch.from_numpy(rng.uniform(-1, 1, (4, 3, 16, 16))).float()[rows] * scale
    if spoilt is not None:
        source[spoilt, 0, 0, 0] = torch.nan
    s = process.schedule(params.Process(), judge.settings.respacing)
    levels = list(reversed(range(judge.settings.respacing - judge.settings.skip)))
    return guided(Diffusion(tiny_net(), s, "v"), judge, inpainted, source, levels, generators(rows))


def test_an_images_result_depends_on_its_own_seed_alone() -> None:
    judge = tiny_judge(respacing=12, skip=5)
    whole, records, _ = course(judge, [0, 1, 2, 3])
    assert whole.abs().mean() > 0.1
    for rows in ([2], [3, 1, 0], [1, 2]):
        part, of_part, _ = course(judge, rows)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-5)
        for row, found in zip(rows, of_part, strict=True):
            assert [r["total"] for r in found] == pytest.approx([r["total"] for r in records[row]], rel=1e-4)


def test_an_image_that_is_not_finite_stops_alone() -> None:
    judge = tiny_judge(respacing=12, skip=5)
    whole, _, _ = course(judge, [0, 1, 2])
    x, records, status = course(judge, [0, 1, 2], spoilt=1)
    assert status[0] == status[2] == OK
    assert status[1].startswith("stopped in step 1 of 7: not finite: ")
    assert "l2" in status[1]
    assert [len(rows) for rows in records] == [7, 0, 7]
    torch.testing.assert_close(x[[0, 2]], whole[[0, 2]], rtol=0, atol=1e-5)
    assert torch.isfinite(x).all()


def test_a_record_holds_every_loss() -> None:
    judge = tiny_judge(respacing=12, skip=5, semantic_steps=2)
    _, records, _ = course(judge, [0])
    assert [r["step"] for r in records[0]] == list(range(1, 8))
    assert [r["level"] for r in records[0]] == list(reversed(range(7)))
    assert [("sem" in r) for r in records[0]] == [True, True] + [False] * 5
    for name in set(losses.TERMS) - {"sem"}:
        assert all(np.isfinite(r[name]) and np.isfinite(r[f"pull_{name}"]) for r in records[0])
    assert set(records[0][0]) == {"step", "level", *MEASURED}


class Gaussian:
    """The exact denoiser of the Gaussian of some images, as v: a model that was trained well, in no time."""

    def __init__(self, images: Tensor, encoder: UNet):
        rows = images.flatten(1).double()
        self.mean = rows.mean(dim=0)
        _, spread, self.axes = torch.linalg.svd(rows - self.mean, full_matrices=False)
        self.variance, self.rest = spread**2 / len(rows), 0.002
        self.encode = encoder.encode

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        ab = torch.cumprod(1 - beta, dim=0)[timestep.long()][:, None]
        off = x.flatten(1).double() - ab.sqrt() * self.mean
        along = off @ self.axes.T
        gain, rest = (ab.sqrt() * v / (ab * v + 1 - ab) for v in (self.variance + self.rest, self.rest))
        x0 = self.mean + rest * off + ((gain - rest) * along) @ self.axes
        v = (ab.sqrt() * x.flatten(1) - x0) / (1 - ab).sqrt()
        v = v.view(x.shape).float()
        return torch.cat([v, torch.zeros_like(v)], dim=1)


def test_styling_brings_phantoms_closer_to_their_sources_and_smooths_the_seam() -> None:
    images, masks = zip(*(phantom.draw(7, index, SIDE)[:2] for index in range(48)), strict=True)
    pairs = dataset.gather([f"p{i}" for i in range(48)], np.stack(images), np.stack(masks))
    net = Gaussian(dataset.to_tensor(pairs), tiny_net(SIDE))
    p = params.validate({"data": {"image_size": SIDE}, "style": SMALL})
    real = pairs.take(range(8))
    filled = regions.all_dilated(real.masks, p.inpaint.dilate)
    other = np.roll(pairs.images[:8], 3, axis=0)[:, ::-1]  # other images with red and blue swapped
    painted = dataset.gather(real.names, np.where(filled[:, None] > 0, other, real.images), real.masks)

    def styled(**settings: object) -> dict[str, np.ndarray]:
        judge = tiny_judge(**settings)
        s = process.schedule(p.process, judge.settings.respacing)
        x, _, status = guided(Diffusion(net, s, "v"), judge, dataset.to_tensor(painted),
                              dataset.to_tensor(real)[:, :3], list(reversed(range(15))),
                              generators(list(range(8))))
        assert status == [OK] * 8
        images = np.stack([style.finished(a[:3].numpy(), b, judge.settings)
                           for a, b in zip(x, real.images, strict=True)])
        found = {"mask_dice": style.mask_dice(x, painted.masks, p.inpaint.opening),
                 **style.measured(judge, images, painted, real, filled)}
        return {name: np.array(values) for name, values in found.items()}

    styled_by_all = styled()
    assert (styled_by_all["cls_after"] < 0.7 * styled_by_all["cls_before"]).all()
    assert (styled_by_all["seam_after"] < 0.8 * styled_by_all["seam_before"]).all()
    assert styled_by_all["mask_dice"].mean() > 0.7
    none = {f"lambda_{name}": 0.0 for name in losses.TERMS if name != "rng"}
    unguided = styled(**none)
    assert styled_by_all["cls_after"].mean() < 0.5 * unguided["cls_after"].mean()
    by_cls = styled(**{**none, "lambda_sty": 10000.0})  # the loss on [CLS] alone
    assert by_cls["cls_after"].mean() < 0.75 * unguided["cls_after"].mean()
