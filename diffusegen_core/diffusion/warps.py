"""Geometric augmentation of training images, as a condition of the network (Karras et al. 2022, F.2).

A change is a vector of WIDTH numbers, all 0 where nothing is done; it alone decides what is done to image and
mask. The network gets it as a condition, zeros in sampling, so that samples look like unchanged images.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 9  # mirrored left to right, and upside down; size; turn (2); stretch (2); shift (2)
OCTAVE = 0.2 * math.log(2)  # size and stretch by a factor of 2^0.2 per unit, as in EDM
SHIFT = 0.125  # of the side, per unit


def draw(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Random changes of `count` images, (count, WIDTH), on the generator's device.

    Each of the six changes happens with `probability`, the two mirrorings with half of it. Size, stretch and
    shift are normal, the angle of a turn is uniform.
    """
    def happens(share: float) -> Tensor:
        return torch.rand(count, 1, generator=generator, device=generator.device) < share

    def normal(width: int) -> Tensor:
        return torch.randn(count, width, generator=generator, device=generator.device)

    angle = 2 * math.pi * torch.rand(count, 1, generator=generator, device=generator.device)
    mirrored = [happens(probability / 2).float() for _ in range(2)]
    size, turn, stretch, shift = (part * happens(probability) for part in (
        normal(1), torch.cat([angle.cos() - 1, angle.sin()], dim=1), normal(2), normal(2)))
    return torch.cat([*mirrored, size, turn, stretch, shift], dim=1)


def apply(x0: Tensor, change: Tensor, classes: int = 1) -> Tensor:
    """Images and masks x0 (B, C + M, S, S) in [-1, 1], both changed by `change` (B, WIDTH).

    M is `classes`. What moves in from outside is the image reflected at its border. Masks stay -1 or +1.
    Images that need no resampling, because they are unchanged or only mirrored, keep their values exactly.
    """
    for number, side in enumerate((-1, -2)):
        x0 = torch.where(_each(change[:, number] > 0), x0.flip(side), x0)
    grid = F.affine_grid(origins(change), list(x0.shape), align_corners=False)
    moved = F.grid_sample(x0, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    mask = torch.where(moved[:, -classes:] > 0, 1.0, -1.0)  # of exclusive classes, no two are above 0
    return torch.where(_each((change[:, 2:] != 0).any(dim=1)),
                       torch.cat([moved[:, :-classes], mask], dim=1), x0)


# new = R E old + shift, of positions in [-1, 1]; old = E^-1 R^T (new - shift)
# E = exp(k [[s + a, b], [b, s - a]]) = e^(ks) (cosh(kr) I + sinh(kr) / r [[a, b], [b, -a]]), r = |(a, b)|
def origins(change: Tensor) -> Tensor:
    """Where each position comes from, (B, 2, 3), as `affine_grid` takes it: size s, stretch (a, b), turn R.

    The image is stretched by 2^(0.2 r) along half the angle of (a, b), and squeezed by as much across it, so
    that every (a, b) is a different stretch.
    """
    size, stretch = change[:, 2], change[:, 5:7]
    cos, sin = change[:, 3] + 1, change[:, 4]
    r = stretch.norm(dim=1)
    a, b = (OCTAVE * r).sinh() * (stretch / r.clamp(min=1e-12)[:, None]).T
    even, scale = (OCTAVE * r).cosh(), (-OCTAVE * size).exp()
    inverse = scale * torch.stack([torch.stack([even - a, -b]), torch.stack([-b, even + a])])
    back = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])  # R^T
    linear = torch.einsum("ijn,jkn->nik", inverse, back)
    shift = 2 * SHIFT * change[:, 7:, None]
    return torch.cat([linear, -linear @ shift], dim=2)


def _each(chosen: Tensor) -> Tensor:
    """A choice per image (B,), shaped (B, 1, 1, 1)."""
    return chosen[:, None, None, None]
