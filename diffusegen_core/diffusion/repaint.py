"""RePaint: the unknown part of an image is painted by a model that was trained on whole images.

Lugmayr et al. 2022; paper 2.4 and A.2. The image goes down through the levels of the respaced schedule as any
sample does, but before each step its known part is replaced by the given pixels, noised to the current level:
the network sees the given surroundings at every level, and paints what fits them. One pass down leaves seams,
since the known and the painted part meet anew in each step. So after every `jump_length` levels the image is
noised back up by as many and comes down again, `resampling` times in all (U in the paper).

All channels are treated alike: where image and mask are both unknown, both are painted, together. Where the
mask is given, its channel is `known` everywhere, and the image alone is painted to fit it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.possible import jumps_in_vain
from diffusegen_core.diffusion.process import levels_of
from diffusegen_core.diffusion.samplers import Generators, Step, Tick, ancestral
from diffusegen_core.store import seeds

if TYPE_CHECKING:  # the model imports this module
    from diffusegen_core.diffusion.model import Diffusion


# RePaint (Lugmayr et al. 2022, algorithm 1): down one level at a time; after every jump_length levels,
# resampling - 1 times, jump_length levels back up.
def repaint_levels(count: int, jump_length: int, resampling: int) -> list[int]:
    """The levels visited, from count - 1 to -1 (the clean image): neighbours in the list differ by one.

    Raises UserError where a jump takes all the levels or more, so that nothing would be resampled.
    """
    if jumps_in_vain(count, jump_length, resampling):
        raise UserError(f"jump_length {jump_length} must be below the {count} respaced steps, or nothing is "
                        "resampled. Take a shorter one, more steps, or resampling 1.")
    jumps = dict.fromkeys(range(0, count - jump_length, jump_length), resampling - 1)
    level, levels = count - 1, [count - 1]
    while level >= 0:
        level -= 1
        levels.append(level)
        if jumps.get(level, 0) > 0:
            jumps[level] -= 1
            for _ in range(jump_length):
                level += 1
                levels.append(level)
    return levels


def network_calls(levels: list[int]) -> int:
    """How many of the transitions are steps down, each a network call."""
    return sum(after < before for before, after in pairwise(levels))


# down: x_{t-1} ~ p(x_{t-1} | m q(x_t | x_known) + (1 - m) x_t), with m = 1 where known (A3)
# up:   x_t ~ q(x_t | x_{t-1})
@torch.inference_mode()
def repaint(diffusion: Diffusion, x_known: Tensor, known: Tensor, levels: list[int], generators: Generators,
            step: Step = ancestral, tick: Tick | None = None, start: Tensor | None = None) -> Tensor:
    """Fill what is not `known` in x_known (B, C, H, W), pixels in [-1, 1]; known pixels come back exact.

    `known` is 1 where known and 0 where to fill: (B, 1, H, W) for all channels alike, or (B, C, H, W).
    `levels` are those of `repaint_levels`; `start` is x_t (B, C, H, W) at the first, by default pure noise.
    Each image draws only from its own generator.
    """
    x, x0 = seeds.normal_like(generators, x_known) if start is None else start, None
    with diffusion.autocast():
        for level, following in pairwise(levels):
            eps = seeds.normal_like(generators, x)
            if following < level:
                t = levels_of(level, x)
                x = known * diffusion.noised(x_known, t, eps) + (1 - known) * x
                x, x0 = step(diffusion, x, t, generators, x0)
                if tick:
                    tick(len(x))
            else:
                x, x0 = diffusion.noised_once(x, levels_of(following, x), eps), None
    return torch.where(known > 0, x_known, x)


def to_array(x: Tensor) -> np.ndarray:
    """Samples (B, C, H, W) as a float32 array.

    UserError where a value is not finite: converted to bytes, it would pass for an image.
    """
    samples = x.float().cpu().numpy()
    if not np.isfinite(samples).all():
        raise UserError("The model gives values that are not finite. Use another precision, or train it "
                        "again with a smaller train.lr.")
    return samples
