"""New images from noise: by the reverse process itself, or along its ODE in fewer network calls.

Every sampler goes through all levels of the (respaced) schedule, one network call a level, keeps the x0 that
the network aims at within [-1, 1], and draws an image's noise from the image's own generator. Images are
(B, *shape). alpha_t and sigma_t stand for sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t); after the last level
comes the clean image, with alpha = 1 and sigma = 0.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffusegen_core.diffusion.process import Network, Schedule, at, denoised_once, reverse
from diffusegen_core.store import seeds

Generators = list[torch.Generator]


# x_{t-1} = mu + sigma eps, with the mean and the variance of p(x_{t-1} | x_t) (A2)
@torch.inference_mode()
def ancestral(net: Network, s: Schedule, shape: tuple[int, int, int], generators: Generators,
              objective: str) -> Tensor:
    """The reverse process step by step, each with noise of its own (Ho et al. 2020, algorithm 2)."""
    x = _noise(shape, generators)
    for t in _levels(s, x):
        x = denoised_once(reverse(net, s, x, t, objective), t, seeds.normal_like(generators, x))
    return x


# x_{t-1} = alpha_{t-1} x0 + sigma_{t-1} eps, with eps = (x_t - alpha_t x0) / sigma_t
@torch.inference_mode()
def ddim(net: Network, s: Schedule, shape: tuple[int, int, int], generators: Generators,
         objective: str) -> Tensor:
    """DDIM with eta = 0 (Song, Meng and Ermon 2021, equation 12): an Euler step of the ODE at each level."""
    x = _noise(shape, generators)
    for t in _levels(s, x):
        x0 = reverse(net, s, x, t, objective).x0
        eps = (x - at(s.alpha_bar.sqrt(), t) * x0) / at((1 - s.alpha_bar).sqrt(), t)
        x = at(s.alpha_bar_prev.sqrt(), t) * x0 + at((1 - s.alpha_bar_prev).sqrt(), t) * eps
    return x


# x_{t-1} = sigma_{t-1} / sigma_t x_t - alpha_{t-1} (exp(-h_t) - 1) D, D = x0_t + (x0_t - x0_{t+1}) / (2 r),
# with lambda = log(alpha / sigma), h_t = lambda_{t-1} - lambda_t and r = h_{t+1} / h_t
@torch.inference_mode()
def dpmpp(net: Network, s: Schedule, shape: tuple[int, int, int], generators: Generators,
          objective: str) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): two-step and second order, in x0 and lambda.

    D is x0_t at the first step, which has nothing to look back to, at the last, whose h is infinite, and at
    the one before: on a linear schedule its h is far larger than the h before it, and D would overshoot (the
    authors' code lowers the order at the end as well, `lower_order_final`).
    """
    log_snr = 0.5 * (s.alpha_bar / (1 - s.alpha_bar)).log()
    h = log_snr[:-1] - log_snr[1:]  # of levels 1 and up
    look_back = torch.zeros_like(s.alpha_bar)
    look_back[2:-1] = h[1:-1] / (2 * h[2:])
    shrink = ((1 - s.alpha_bar_prev) / (1 - s.alpha_bar)).sqrt()
    weight = s.alpha_bar_prev.sqrt() - s.alpha_bar.sqrt() * shrink  # holds where h is infinite as well
    x, before = _noise(shape, generators), None
    for t in _levels(s, x):
        x0 = reverse(net, s, x, t, objective).x0
        aim = x0 if before is None else x0 + at(look_back, t) * (x0 - before)
        x, before = at(shrink, t) * x + at(weight, t) * aim, x0
    return x


def _noise(shape: tuple[int, int, int], generators: Generators) -> Tensor:
    return seeds.normal_like(generators, torch.empty(len(generators), *shape, device=generators[0].device))


def _levels(s: Schedule, x: Tensor) -> Iterator[Tensor]:
    """Every level from the noisiest on, as the t (B,) of a batch."""
    for level in reversed(range(len(s))):
        yield torch.full((len(x),), level, device=x.device)


Sampler = Callable[[Network, Schedule, tuple[int, int, int], Generators, str], Tensor]
SAMPLERS: dict[str, Sampler] = {"ancestral": ancestral, "ddim": ddim, "dpmpp": dpmpp}
