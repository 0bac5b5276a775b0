"""New images from noise: by the reverse process itself, or along its ODE in fewer network calls.

A sampler is one step: from x_t to x_{t-1}, with one call of the model. `sample` takes it at every level of
the (respaced) schedule; RePaint and the guided loop take the same steps. Each image's noise comes from its
own generator. alpha_t and sigma_t stand for sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t); after the last
level comes the clean image, with alpha = 1 and sigma = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusegen_core.config.errors import UserError
from diffusegen_core.diffusion.process import at, column, denoised_once, levels_of
from diffusegen_core.store import seeds

if TYPE_CHECKING:  # the model imports this module
    from diffusegen_core.diffusion.model import Diffusion

Generators = list[torch.Generator]
# Maps the model, x_t (B, C, H, W), its levels t (B,), a generator for each image, and the x0 that the step
# before predicted (None in the first step) to x_{t-1} and the x0 of this step, each (B, C, H, W).
Step = Callable[["Diffusion", Tensor, Tensor, Generators, Tensor | None], tuple[Tensor, Tensor]]
Tick = Callable[[int], object]  # called after every step down, with the number of images


# x_{t-1} = mu + sigma eps, with the mean and the variance of p(x_{t-1} | x_t) (A2)
def ancestral(diffusion: Diffusion, x_t: Tensor, t: Tensor, generators: Generators,
              before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The reverse process itself, each step with noise of its own (Ho et al. 2020, algorithm 2)."""
    reverse = diffusion.reverse(x_t, t)
    return denoised_once(reverse, t, seeds.normal_like(generators, x_t)), reverse.x0


# x_{t-1} = alpha_{t-1} x0 + sigma_{t-1} eps, with eps = (x_t - alpha_t x0) / sigma_t
def ddim(diffusion: Diffusion, x_t: Tensor, t: Tensor, generators: Generators,
         before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """DDIM with eta = 0 (Song, Meng and Ermon 2021, equation 12): an Euler step of the ODE."""
    schedule = diffusion.schedule
    x0 = diffusion.reverse(x_t, t).x0
    eps = (x_t - at(schedule.alpha_bar.sqrt(), t) * x0) / at((1 - schedule.alpha_bar).sqrt(), t)
    x = at(schedule.alpha_bar_prev.sqrt(), t) * x0 + at((1 - schedule.alpha_bar_prev).sqrt(), t) * eps
    return x, x0


# x_{t-1} = sigma_{t-1} / sigma_t x_t - alpha_{t-1} (exp(-h) - 1) D, D = x0 + (x0 - x0_before) / (2 r),
# with lambda = log(alpha / sigma), h = lambda_{t-1} - lambda_t, h_before of the step before, r = h_before / h
def dpmpp(diffusion: Diffusion, x_t: Tensor, t: Tensor, generators: Generators,
          before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): two-step and second order, in x0 and lambda.

    D is x0 in the first step, which has no earlier x0, in the last, whose h is infinite, and in the one
    before that: on a linear schedule its h is far larger than h_before, and D would overshoot (the authors'
    code also lowers the order at the end, `lower_order_final`).
    """
    schedule = diffusion.schedule
    x0 = diffusion.reverse(x_t, t).x0
    if before is None:
        aim = x0
    else:
        lam = 0.5 * (schedule.alpha_bar / (1 - schedule.alpha_bar)).log()  # half of the log SNR
        h, h_before = lam[t - 1] - lam[t], lam[t] - lam[t + 1]
        # Chosen on the device, because reading t here would wait for it; h is meaningless at level 0.
        aim = torch.where((t > 1)[:, None, None, None],
                          x0 + column(h / (2 * h_before)) * (x0 - before), x0)
    shrink = ((1 - schedule.alpha_bar_prev) / (1 - schedule.alpha_bar)).sqrt()
    weight = schedule.alpha_bar_prev.sqrt() - schedule.alpha_bar.sqrt() * shrink  # -alpha_{t-1} (exp(-h) - 1)
    return at(shrink, t) * x_t + at(weight, t) * aim, x0


SAMPLERS: dict[str, Step] = {"ancestral": ancestral, "ddim": ddim, "dpmpp": dpmpp}


def named(name: str) -> Step:
    """The sampler of this name. Raises UserError, listing the known names, where there is none."""
    if name not in SAMPLERS:
        raise UserError(f"There is no sampler {name}. Samplers are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


@torch.inference_mode()
def sample(diffusion: Diffusion, shape: tuple[int, int, int], generators: Generators,
           step: Step = ancestral, tick: Tick | None = None) -> Tensor:
    """Images (B, *shape), one for each generator, from pure noise down through every level."""
    noise = torch.empty(len(generators), *shape, device=generators[0].device)
    x, x0 = seeds.normal_like(generators, noise), None
    with diffusion.autocast():
        for level in reversed(range(len(diffusion.schedule))):
            x, x0 = step(diffusion, x, levels_of(level, x), generators, x0)
            if tick:
                tick(len(x))
    return x
