"""The diffusion process: schedule, respacing, posterior, predictions, losses, steps both ways (paper A.1).

Levels are respaced indices 0 (least noise) to S-1. The network always sees the original timestep, as a float.
Everything is per image: t has shape (B,), images (B, C, H, W) in [-1, 1]. The first C channels of the
network's output are the prediction (eps or v), the other C interpolate the log-variance (Nichol and Dhariwal
2021, equation 15).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, repeat
from typing import Any

import torch
from torch import Tensor

from diffusegen_core.config.sections import Process

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """Every coefficient by level, shape (S,), float64."""

    timestep: Tensor  # the original timestep that the network sees
    beta: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor
    posterior_log_variance: Tensor  # of q(x_{t-1} | x_t, x0); level 0 repeats level 1, as it would be -inf
    top_log_variance: Tensor  # upper bound of the reverse step's: log beta if learned, else the posterior's
    reverse_variance: str = "posterior"  # process.variance

    def __len__(self) -> int:
        return len(self.beta)

    def to(self, device: torch.device | str) -> "Schedule":
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items()
                                 if isinstance(value, Tensor)}
        return replace(self, **moved)

    def respaced(self, count: int) -> "Schedule":
        """`count` of its levels, evenly spread: they keep their alpha_bar, from which beta follows."""
        kept = torch.tensor(respaced(len(self), count), device=self.alpha_bar.device)
        return _schedule(self.timestep[kept], self.alpha_bar[kept], self.reverse_variance)


def respaced(steps: int, count: int) -> list[int]:
    """`count` of the timesteps 0..steps-1, evenly spread, both ends kept; if only one, the noisiest.

    They are those of the public guided-diffusion code, which adds up the stride, rounding errors included.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"cannot take {count} of {steps} timesteps")
    if count == 1:
        return [steps - 1]
    return [round(place) for place in accumulate(repeat((steps - 1) / (count - 1), count - 1), initial=0.0)]


def schedule(process: Process, respacing: int | None = None) -> Schedule:
    """The linear schedule of all timesteps, or of `respacing` of them."""
    beta = torch.linspace(process.beta_start, process.beta_end, process.steps, dtype=torch.float64)
    whole = _schedule(torch.arange(process.steps), torch.cumprod(1 - beta, dim=0), process.variance)
    return whole if respacing is None else whole.respaced(respacing)


def _schedule(timestep: Tensor, alpha_bar: Tensor, reverse_variance: str) -> Schedule:
    """Every coefficient, from the alpha_bar of each level."""
    alpha_bar_prev = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
    beta = 1 - alpha_bar / alpha_bar_prev
    posterior_variance = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
    posterior_variance[0] = posterior_variance[1] if len(posterior_variance) > 1 else beta[0]
    top = beta if reverse_variance == "learned" else posterior_variance
    return Schedule(timestep, beta, alpha_bar, alpha_bar_prev, posterior_variance.log(), top.log(),
                    reverse_variance)


def at(coefficient: Tensor, t: Tensor) -> Tensor:
    """The coefficient at each image's level, shaped (B, 1, 1, 1), float32."""
    return column(coefficient[t])


def column(values: Tensor) -> Tensor:
    """One value per image (B,), shaped (B, 1, 1, 1) to multiply images by, float32."""
    return values.float()[:, None, None, None]


def levels_of(level: int, x: Tensor) -> Tensor:
    """The same level for every image of x (B, ...): its t (B,)."""
    return torch.full((len(x),), level, device=x.device)


# x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps (A1)
def noised(schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t ~ q(x_t | x0), with the given standard normal eps."""
    return at(schedule.alpha_bar.sqrt(), t) * x0 + at((1 - schedule.alpha_bar).sqrt(), t) * eps


# x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps; the paper has a variance of beta_t (1 - beta_t), a typo
def noised_once(schedule: Schedule, x_prev: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t ~ q(x_t | x_{t-1}): one respaced step forward, to level t."""
    return at((1 - schedule.beta).sqrt(), t) * x_prev + at(schedule.beta.sqrt(), t) * eps


# v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x0 (Salimans and Ho 2022)
def velocity(schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The target of the `v` objective."""
    return at(schedule.alpha_bar.sqrt(), t) * eps - at((1 - schedule.alpha_bar).sqrt(), t) * x0


def predicted_x0(schedule: Schedule, x_t: Tensor, t: Tensor, prediction: Tensor, objective: str) -> Tensor:
    """x0 from the network's eps or v (Tweedie's formula)."""
    if objective == "v":
        return at(schedule.alpha_bar.sqrt(), t) * x_t - at((1 - schedule.alpha_bar).sqrt(), t) * prediction
    return at(schedule.alpha_bar.rsqrt(), t) * x_t - at((1 / schedule.alpha_bar - 1).sqrt(), t) * prediction


# mu = (sqrt(alpha_bar_prev) beta x0 + sqrt(alpha) (1 - alpha_bar_prev) x_t) / (1 - alpha_bar)
def posterior_mean(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x0) (Ho et al. 2020, equation 7)."""
    of_x0 = schedule.beta * schedule.alpha_bar_prev.sqrt() / (1 - schedule.alpha_bar)
    of_x_t = (1 - schedule.beta).sqrt() * (1 - schedule.alpha_bar_prev) / (1 - schedule.alpha_bar)
    return at(of_x0, t) * x0 + at(of_x_t, t) * x_t


@dataclass(frozen=True)
class Reverse:
    """p(x_{t-1} | x_t) and the predicted x0, each (B, C, H, W)."""

    mean: Tensor
    log_variance: Tensor
    x0: Tensor


def call(net: Network, schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """The network's raw output (B, 2C, H, W) at level t, float32."""
    return net(x_t, schedule.timestep[t].float()).float()


def interpret(schedule: Schedule, x_t: Tensor, t: Tensor, output: Tensor, objective: str,
              clip: bool = True) -> Reverse:
    """The reverse step that a raw output means; `clip` keeps x0 within [-1, 1]."""
    prediction, fraction = output.chunk(2, dim=1)
    x0 = predicted_x0(schedule, x_t, t, prediction, objective)
    if clip:
        x0 = x0.clamp(-1, 1)
    # log variance between its bounds: the posterior's (-1) and the schedule's upper one (+1)
    low, high = at(schedule.posterior_log_variance, t), at(schedule.top_log_variance, t)
    fraction = (fraction + 1) / 2
    log_variance = fraction * high + (1 - fraction) * low
    return Reverse(posterior_mean(schedule, x0, x_t, t), log_variance, x0)


# x_{t-1} = mu + sigma_t eps, without noise at level 0 (A2)
def denoised_once(r: Reverse, t: Tensor, eps: Tensor) -> Tensor:
    """x_{t-1} ~ p(x_{t-1} | x_t)."""
    return r.mean + (t > 0).float()[:, None, None, None] * (0.5 * r.log_variance).exp() * eps


# loss = lambda_t mean(W (y - prediction)^2) + L_t, y being eps or v
def losses(net: Network, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor, objective: str,
           lesion_weight: float = 0.0, min_snr: float | None = None, classes: int = 1) -> dict[str, Tensor]:
    """Per-image losses (B,): `mse` on eps or v, `vb` in bits per dimension for variance, `loss` the sum.

    Only in `loss`, `lesion_weight` weights the error by the map W of `lesion_map`, and `min_snr` the level by
    lambda_t of `level_weight`; `mse` stays comparable whatever the weighting. The last `classes` channels of
    x0 are the mask.
    """
    x_t = noised(schedule, x0, t, eps)
    output = call(net, schedule, x_t, t)
    prediction, fraction = output.chunk(2, dim=1)
    target = eps if objective == "eps" else velocity(schedule, x0, t, eps)
    error = (target - prediction) ** 2
    mse = _per_image(error)
    weighed = _per_image(lesion_map(x0, lesion_weight, classes) * error) if lesion_weight else mse
    if min_snr is not None:
        weighed = level_weight(schedule, t, min_snr, objective) * weighed
    # The variational term trains the variance alone, so the mean is detached (Nichol and Dhariwal 2021, 3.1).
    r = interpret(schedule, x_t, t, torch.cat([prediction.detach(), fraction], dim=1), objective, clip=False)
    vb = variational_bound(schedule, x0, x_t, t, r)
    return {"mse": mse, "vb": vb, "loss": weighed + vb}


# W = (1 + w m) / mean(1 + w m)
def lesion_map(x0: Tensor, weight: float, classes: int = 1) -> Tensor:
    """The weight of each pixel of x0 (B, C + M, H, W), (B, 1, H, W), with mean 1 in every image.

    m is 1 in the lesion, where the mask of any of the M classes is above 0, and 0 elsewhere: a pixel of the
    lesion counts 1 + w times as much as one outside. Where an image is all lesion, or has none, every weight
    is 1.
    """
    counts = 1 + weight * (x0[:, -classes:] > 0).any(dim=1, keepdim=True).float()
    return counts / counts.mean(dim=(1, 2, 3), keepdim=True)


# snr = alpha_bar / (1 - alpha_bar)
# lambda_t = min(snr, gamma) / snr for eps, min(snr, gamma) / (snr + 1) for v
def level_weight(schedule: Schedule, t: Tensor, gamma: float, objective: str) -> Tensor:
    """Min-SNR-gamma (Hang et al. 2023): the weight of each level of t (B,), (B,), float32.

    Both amount to a weight of min(snr, gamma) on the error of x0, converted to what the network predicts.
    """
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    return (snr.clamp(max=gamma) / (snr if objective == "eps" else snr + 1))[t].float()


# L_t = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)); L_0 = -log p(x0 | x_1)
def variational_bound(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, r: Reverse) -> Tensor:
    """The term of the variational bound at level t, (B,), bits per dimension."""
    true_mean = posterior_mean(schedule, x0, x_t, t)
    true_log_variance = at(schedule.posterior_log_variance, t)
    kl = 0.5 * (r.log_variance - true_log_variance - 1 + (true_log_variance - r.log_variance).exp()
                + (true_mean - r.mean) ** 2 * (-r.log_variance).exp())
    nll = -log_likelihood_of_bytes(x0, r.mean, (0.5 * r.log_variance).exp())
    return torch.where(t == 0, _per_image(nll), _per_image(kl)) / math.log(2)


def log_likelihood_of_bytes(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """log probability of 8-bit values, scaled to [-1, 1], under a Gaussian; outer bins reach to infinity."""
    above = _normal_cdf((x - mean + 1 / 255) / sigma)
    below = _normal_cdf((x - mean - 1 / 255) / sigma)
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return probability.clamp(min=1e-12).log()


# The tanh approximation of the normal distribution that released models were trained with.
def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _per_image(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1)
