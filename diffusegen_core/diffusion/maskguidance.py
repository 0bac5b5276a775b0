"""Given masks that the image follows: classifier-free guidance (Ho and Salimans 2022) by the mask channel.

A joint model of images and masks knows an image with a given mask, and the same image without any lesion: all
it takes is another mask channel. What it paints is moved on along the difference of the two, so that a lesion
differs from its surroundings as clearly as masks say. No model has to be trained for it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusegen_core.diffusion.process import Network, Schedule, at, call


@dataclass(frozen=True)
class MaskGuidance:
    """By which mask, and how far."""

    mask: Tensor
    """(B, M, H, W) in [-1, 1]: of x0, known throughout."""
    scale: float
    """w, 1 or more: 1 is what the model says by itself."""


# prediction = prediction(empty) + w (prediction(mask) - prediction(empty)); both are of one x_t, but for the
# mask channel, which is sqrt(alpha_bar_t) m + sqrt(1 - alpha_bar_t) eps, with m = -1 where there is no lesion
def guided_call(net: Network, schedule: Schedule, x_t: Tensor, t: Tensor, guidance: MaskGuidance) -> Tensor:
    """The network's raw output (B, 2 (C + M), H, W) with its prediction of the image guided: two network
    calls.

    The prediction of the mask's channels and all variances are the network's own.
    """
    output, channels = call(net, schedule, x_t, t), x_t.shape[1] - guidance.mask.shape[1]
    empty = x_t.clone()
    empty[:, channels:] -= at(schedule.alpha_bar.sqrt(), t) * (guidance.mask + 1)
    without = call(net, schedule, empty, t)[:, :channels]
    guided = without + guidance.scale * (output[:, :channels] - without)
    return torch.cat([guided, output[:, channels:]], dim=1)
