"""Guidance towards a given mask: classifier-free guidance (Ho and Salimans 2022) by the mask channel.

A joint model of images and masks predicts an image with a given mask or, with the lesion left out of it, the
same image without that lesion. The prediction is extrapolated along the difference of the two, so that a
lesion stands out from its surroundings as clearly as the mask says. No model has to be trained for it. Other
classes are in both masks: if the second lacked the organ, that would be exaggerated like the lesion.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusegen_core.diffusion.process import Network, Schedule, at, call


@dataclass(frozen=True)
class MaskGuidance:
    """Which mask to follow, and how strongly."""

    mask: Tensor
    """(B, M, H, W) in [-1, 1], without noise, known everywhere."""
    scale: float
    """w, at least 1; 1 is the model's own prediction."""
    rest: Tensor
    """(B, M, H, W) in [-1, 1]: the mask without the lesion, -1 all over if it shows nothing else."""


# prediction = prediction(rest) + w (prediction(mask) - prediction(rest)); both from one x_t, except for the
# mask channels, which are sqrt(alpha_bar_t) m + sqrt(1 - alpha_bar_t) eps, with m = -1 where a class is not
def guided_call(net: Network, schedule: Schedule, x_t: Tensor, t: Tensor, guidance: MaskGuidance) -> Tensor:
    """The network's raw output (B, 2 (C + M), H, W), with the image's prediction guided.

    Takes two network calls. The prediction of the mask's channels and all variances are the network's own.
    """
    output, channels = call(net, schedule, x_t, t), x_t.shape[1] - guidance.mask.shape[1]
    bare = x_t.clone()
    bare[:, channels:] -= at(schedule.alpha_bar.sqrt(), t) * (guidance.mask - guidance.rest)
    without = call(net, schedule, bare, t)[:, :channels]
    guided = without + guidance.scale * (output[:, :channels] - without)
    return torch.cat([guided, output[:, channels:]], dim=1)
