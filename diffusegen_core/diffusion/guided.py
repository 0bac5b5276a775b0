"""The guided loop: an image goes down the levels while the gradient of the losses pulls at it (paper A.3).

In each step the model predicts a clean image, the losses judge it, and the gradient of their sum, propagated
back through the network to x_t, is subtracted from the x_{t-1} that the step draws. So the image stays close
in content to the inpainted one, and comes close in style to the real source.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusegen_core.config.sections import FULL_SIZE, FULL_STEPS, Model, Style
from diffusegen_core.data.planes import RGB
from diffusegen_core.diffusion import losses
from diffusegen_core.diffusion.losses import limited, rms
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import at, denoised_once, levels_of
from diffusegen_core.diffusion.samplers import Generators, Tick
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import features, vgg
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import key

OK = "ok"
PULLS = [f"pull_{name}" for name in losses.TERMS]
# Measured in every step: the unweighted losses, their weighted sum, and the RMS of pulls, shift and noise.
MEASURED = [*losses.TERMS, "total", *PULLS, "shift", "noise"]
Record = dict[str, float | int]


# The networks are frozen, so one of each serves all batches of a process. `decided_by` is part of the cache
# key: it changes with the weights that are asked for, and with the content of their file.
@lru_cache(maxsize=1)
def _cls_net(decided_by: str, *wanted: Any) -> nn.Module:
    return features.load_cls(*wanted)


@lru_cache(maxsize=1)
def _vgg_net(decided_by: str, *wanted: Any) -> nn.Module:
    return vgg.load(*wanted)


@dataclass(frozen=True)
class Judge:
    """The networks that the losses use besides the model itself, and the losses' weights.

    The networks are frozen, differentiable and in eval mode.
    """

    cls_net: nn.Module
    vgg_net: nn.Module | None  # None where its loss has no weight
    settings: Style
    blocks: list[int]  # of the model's encoder, for ZeCon

    def cls(self, x: Tensor) -> Tensor:
        """[CLS], or what stands in for it, of images (B, C, H, W): (B, D), full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return self.cls_net(as_rgb(x) * 127.5 + 127.5).flatten(1)

    def maps(self, x: Tensor) -> list[Tensor]:
        """VGG's maps of images (B, C, H, W), full precision."""
        assert self.vgg_net is not None, "its loss has no weight"
        with torch.autocast(x.device.type, enabled=False):
            return self.vgg_net(as_rgb(x))

    def encoded(self, net: UNet, x: Tensor) -> list[Tensor]:
        """The model's own features of images and masks (B, C + M, H, W) at timestep 0, each (B, H*W, C)."""
        encoded = net.encode(x, torch.zeros(len(x), device=x.device), last=max(self.blocks))
        return [encoded[block].float().flatten(2).transpose(1, 2) for block in self.blocks]


def as_rgb(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as RGB, (B, 3, H, W): unless C is 3, the mean of all channels, repeated.

    Like `planes.rgb`, but without rounding, and differentiable.
    """
    return x if x.shape[1] == RGB else x.mean(dim=1, keepdim=True).expand(-1, RGB, -1, -1)


def load_judge(settings: Style, model: Model, seed: int, device: torch.device) -> Judge:
    """The networks that chapter 4's parameters name. UserError for unavailable weights."""
    backbone = settings.backbone, settings.weights, settings.input_range
    maps = settings.vgg, settings.vgg_weights
    cls_net = _cls_net(key(features.recipe(*backbone, seed)), *backbone, device, seed, settings.backbone_size)
    vgg_net = _vgg_net(key(vgg.recipe(*maps, seed)), *maps, device, seed) if settings.lambda_vgg else None
    return Judge(cls_net, vgg_net, settings, settings.zecon_blocks or default_blocks(model))


def default_blocks(model: Model) -> list[int]:
    """The stem, and the last block of each of the first four levels: 0 2 5 8 11 in the paper's network."""
    each = model.res_blocks + 1
    return [0] + [level * each + model.res_blocks for level in range(min(4, len(model.channel_mult)))]


@dataclass(frozen=True)
class Targets:
    """What a batch is guided towards; the source's [CLS] is computed only once."""

    inpainted: Tensor  # (B, C + M, H, W)
    source: Tensor  # (B, C, H, W)
    source_cls: Tensor  # (B, D)
    pixels: Tensor  # (B, C, H, W), target of the pixel loss of style: in the paper, the source

    @property
    def channels(self) -> int:
        """C; the remaining channels of a pair are its mask."""
        return self.source.shape[1]

    @classmethod
    def of(cls, judge: Judge, inpainted: Tensor, source: Tensor, pixels: Tensor | None = None) -> "Targets":
        """The targets of a batch; `pixels` default to the source."""
        with torch.no_grad():
            return cls(inpainted, source, judge.cls(source), source if pixels is None else pixels)


@dataclass(frozen=True)
class LossInputs:
    """What the losses of one step see, images and masks (B, C + M, H, W)."""

    x0: Tensor  # the predicted clean image, not clipped
    mixed: Tensor  # x0 mixed with x_t
    reference: Tensor  # the inpainted image, likewise mixed with its own noised copy
    cls: Tensor  # [CLS] of the mix (B, D)


# x_t -> x' ~ p(x_{t-1} | x_t), then x_{t-1} = x' - shift of the losses' gradient with respect to x_t (A.3)
def guided(diffusion: Diffusion, judge: Judge, inpainted: Tensor, source: Tensor, levels: list[int],
           generators: Generators, tick: Tick | None = None,
           pixels: Tensor | None = None) -> tuple[Tensor, list[list[Record]], list[str]]:
    """Guide inpainted pairs (B, C + M, H, W) to their sources (B, C, H, W), from the noisiest level down.

    `pixels` (B, C, H, W) is the target of the pixel loss of style, by default the source.

    Returns the pairs (B, C + M, H, W), and for each its losses in every step and its status. An image whose
    loss or gradient is not finite is stopped there, and its status says in which step and by what; the others
    go on.
    """
    with diffusion.autocast():
        step = GuidedStep(judge, Targets.of(judge, inpainted, source, pixels))
        x = diffusion.noised(inpainted, levels_of(levels[0], inpainted),
                             seeds.normal_like(generators, inpainted))
        alive, x0 = torch.ones(len(x), dtype=torch.bool, device=x.device), None
        for level in levels:
            x, x0 = step(diffusion, x, levels_of(level, x), generators, x0)
            alive = alive & torch.stack(list(step.measured[-1].values())).isfinite().all(dim=0)
            x = torch.where(alive[:, None, None, None], x, torch.zeros_like(x))
            if tick:
                tick(len(x))
    return x, *read_records(step.measured, levels)  # read after the last step: reading waits for the device


class GuidedStep:
    """One step down under guidance: a `samplers.Step` that remembers what it saw and measured.

    The losses see the mix s x0_hat + (1 - s) x_t, s = sqrt(1 - alpha_bar_t), and the content to keep is mixed
    with a noised copy of itself in the same way, as in the authors' code. They see x0_hat unclipped; the step
    itself clips it where the model does (`Diffusion.clip`), which the authors' code never does.
    """

    def __init__(self, judge: Judge, targets: Targets, number: int = 0):
        """`number` of guided steps already taken; it decides whether the semantic divergence still counts."""
        self.judge, self.targets, self.number = judge, targets, number
        self.measured: list[dict[str, Tensor]] = []  # per step, those of MEASURED in use, each (B,)
        with torch.no_grad():
            self.previous_cls = judge.cls(targets.inpainted[:, :targets.channels])

    def __call__(self, diffusion: Diffusion, x_t: Tensor, t: Tensor, generators: Generators,
                 before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        wanted = losses.weights(self.judge.settings, self.number + len(self.measured))
        x = x_t.detach().requires_grad_()
        output = diffusion.call(x, t)
        x0 = diffusion.interpret(x, t, output, clip=False).x0
        share = at((1 - diffusion.schedule.alpha_bar).sqrt(), t)
        mixed = share * x0 + (1 - share) * x
        view = self._view(diffusion, x0, mixed, t, generators)
        values = self.values(diffusion.net, view, wanted, generators)
        gradients = pulls(values, wanted, view)
        with torch.no_grad():
            reverse = diffusion.interpret(x, t, output)
            x_next = denoised_once(reverse, t, seeds.normal_like(generators, x))
        shift = back(gradients, x0, mixed, x, reverse.log_variance, self.judge.settings)
        factor = strength(reverse.log_variance, self.judge.settings)
        self._remember(view, {
            **values, "total": total(values, wanted),
            **{f"pull_{name}": rms(factor * gradient) for name, gradient in gradients.items()},
            "shift": rms(shift), "noise": rms((reverse.log_variance / 2).exp())})
        return x_next - shift, reverse.x0

    def _view(self, diffusion: Diffusion, x0: Tensor, mixed: Tensor, t: Tensor,
              generators: Generators) -> LossInputs:
        """What the losses see, detached from the network; `back` propagates their gradient on to x_t."""
        share = at((1 - diffusion.schedule.alpha_bar).sqrt(), t)
        noised = diffusion.noised(self.targets.inpainted, t, seeds.normal_like(generators, x0))
        reference = share * self.targets.inpainted + (1 - share) * noised
        seen_x0, seen_mix = (image.detach().requires_grad_() for image in (x0, mixed))
        return LossInputs(seen_x0, seen_mix, reference, self.judge.cls(seen_mix[:, :self.targets.channels]))

    def values(self, net: UNet, view: LossInputs, wanted: dict[str, float],
               generators: Generators) -> dict[str, Tensor]:
        """The wanted losses, each (B,). Only ZeCon's encoder and the range loss see the mask."""
        judge, targets = self.judge, self.targets
        image, reference = (pair[:, :targets.channels] for pair in (view.mixed, view.reference))

        def zecon() -> Tensor:
            queries, keys = judge.encoded(net, view.mixed), judge.encoded(net, view.reference)
            places = losses.patches(generators, [key.shape[1] for key in keys], judge.settings.zecon_patches)
            return losses.zecon_loss(losses.chosen(queries, places), losses.chosen(keys, places),
                                     judge.settings.temperature)

        compute: dict[str, Callable[[], Tensor]] = {
            "zecon": zecon,
            "vgg": lambda: losses.vgg_loss(judge.maps(image), judge.maps(reference)),
            "mse": lambda: losses.mse_loss(image, reference),
            "sty": lambda: losses.sty_loss(view.cls, targets.source_cls),
            "l2": lambda: losses.l2_loss(image, targets.pixels),
            "sem": lambda: losses.sem_loss(view.cls, self.previous_cls),
            "rng": lambda: losses.rng_loss(view.x0),
        }
        return {name: compute[name]() for name in wanted}

    def _remember(self, view: LossInputs, measured: dict[str, Tensor]) -> None:
        self.previous_cls = view.cls.detach()
        self.measured.append({name: values.detach() for name, values in measured.items()})


def total(values: dict[str, Tensor], wanted: dict[str, float]) -> Tensor:
    """The weighted sum, (B,)."""
    first, *rest = (weight * values[name] for name, weight in wanted.items())
    return sum(rest, first)


def pulls(values: dict[str, Tensor], wanted: dict[str, float], view: LossInputs) -> dict[str, Tensor]:
    """The gradient of each weighted loss with respect to what it sees: the mix, or x0 for the range loss.

    The gradient of a mean over pixels grows as the image shrinks; it is rescaled to 256 px, the size that the
    weights are for.
    """
    scale = (view.mixed.shape[-1] / FULL_SIZE) ** 2
    return {name: scale * torch.autograd.grad(weight * values[name].sum(),
                                              view.x0 if name == "rng" else view.mixed,
                                              retain_graph=True)[0] for name, weight in wanted.items()}


# paper: x_{t-1} = x' - gradient (A.3); the authors' code: x_{t-1} = x' - variance * gradient
def strength(log_variance: Tensor, settings: Style) -> Tensor:
    """The factor of a gradient. The paper's 1 is for 200 steps; of fewer, each counts for several."""
    if settings.guidance == "variance":
        return log_variance.exp()
    return torch.full_like(log_variance, FULL_STEPS / settings.respacing)


def back(gradients: dict[str, Tensor], x0: Tensor, mixed: Tensor, x: Tensor, log_variance: Tensor,
         settings: Style) -> Tensor:
    """The shift (B, C + M, H, W) that a step subtracts: the `pulls` on x0 and the mix, propagated to x_t.

    Where `max_shift` is set, it limits the RMS of each loss's pull and of the shift, as a multiple of the
    step's noise: no loss drowns the others, and the next level gets an image about as noisy as it expects.
    """
    factor = strength(log_variance, settings)
    if settings.max_shift is not None:
        most = settings.max_shift * rms((log_variance / 2).exp())
        gradients = {name: limited(pull, most / rms(factor)) for name, pull in gradients.items()}
    on_x0 = gradients.get("rng", torch.zeros_like(x0))
    on_mixed = sum((pull for name, pull in gradients.items() if name != "rng"), torch.zeros_like(x0))
    gradient, = torch.autograd.grad([x0, mixed], x, [on_x0, on_mixed])
    shift = factor * gradient
    return shift if settings.max_shift is None else limited(shift, most)


def read_records(measured: list[dict[str, Tensor]],
                 levels: list[int]) -> tuple[list[list[Record]], list[str]]:
    """Each image's records and status, from every step's values (B,)."""
    count = len(next(iter(measured[0].values())))
    records: list[list[Record]] = [[] for _ in range(count)]
    status = [OK] * count
    for step, (values, level) in enumerate(zip(measured, levels, strict=True), 1):
        table = {name: column.tolist() for name, column in values.items()}
        for i, ended in enumerate(status):
            wrong = [name for name, column in table.items() if not np.isfinite(column[i])]
            if ended == OK and wrong:
                status[i] = f"stopped in step {step} of {len(levels)}: not finite: {', '.join(wrong)}"
            elif ended == OK:
                records[i].append({"step": step, "level": level,
                                   **{name: significant(column[i]) for name, column in table.items()}})
    return records, status


def significant(value: float) -> float:
    """The value rounded to six significant figures, for files."""
    return float(f"{value:.6g}")
