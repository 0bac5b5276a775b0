"""Pairs with masks that are known beforehand, painted by the joint model of image and mask.

RePaint takes known pixels channel by channel. If the mask channel is known everywhere, but the colours only
outside a region, the model paints a lesion of the given outline; what was there before becomes mucosa.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.masks import field_of_view
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import repaint, repaint_levels
from diffusegen_core.store import seeds

SCALES = (0.8, 1.25)
TRIES = 60
LOST = 0.02  # the largest share of a mask's area outside the picture or the field of view
WIDEST = 0.6  # the largest share of the picture to paint


@dataclass(frozen=True)
class Placed:
    """A donor's mask, moved into a source."""

    donor: int
    matrix: np.ndarray
    """(2, 3), from the donor's pixels to the source's."""
    mask: np.ndarray
    """(S, S) in {0, 1}."""


def placed(pairs: Pairs, source: int, settings: Inpaint, *seed: object) -> Placed:
    """Another pair's mask, turned, mirrored and scaled, at a place within the source's field of view.

    Drawn again if too much of it would be lost or painted; after TRIES, the source's own mask, unmoved.
    """
    rng, view = seeds.rng(*seed), field_of_view(pairs.images[source])
    side = view.shape[-1]
    inside = np.argwhere(view)
    for _ in range(TRIES):
        donor = int(rng.integers(len(pairs)))
        if donor == source:
            continue
        centre = inside[rng.integers(len(inside))][::-1]
        matrix = moving(pairs.masks[donor, 0], centre, rng.uniform(0, 360), rng.uniform(*SCALES),
                        bool(rng.integers(2)))
        mask = warped(pairs.masks[donor, 0], matrix)
        wanted = pairs.masks[donor].sum() * abs(np.linalg.det(matrix[:, :2]))
        region = regions.dilated(mask, settings.dilate)
        region |= regions.dilated(pairs.masks[source, 0], settings.dilate)
        if (mask * view).sum() >= (1 - LOST) * wanted and mask.any() and region.sum() <= WIDEST * side**2:
            return Placed(donor, matrix, mask)
    return Placed(source, np.eye(2, 3), pairs.masks[source, 0])


def moving(mask: np.ndarray, centre: np.ndarray, angle: float, scale: float, mirrored: bool) -> np.ndarray:
    """The map (2, 3) that turns, scales and mirrors a mask about its middle and moves it to `centre`."""
    middle = np.argwhere(mask).mean(axis=0)[::-1]
    turn = math.radians(angle)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = linear @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return np.column_stack([linear, centre - linear @ middle])


def warped(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A mask (S, S) in {0, 1}, moved."""
    moved = cv2.warpAffine(mask.astype(np.float32), matrix, mask.shape[::-1], flags=cv2.INTER_LINEAR)
    return (moved > 0.5).astype(np.uint8)


def paint(diffusion: Diffusion, settings: Inpaint, images: np.ndarray, fill: np.ndarray, masks: np.ndarray,
          own: list[int]) -> np.ndarray:
    """Images (B, 3, S, S) uint8, repainted where `fill` (B, S, S) is 1, so that the lesions are `masks`.

    `own` has a seed for each image. Other pixels stay the same bytes.
    """
    known = np.repeat(1 - fill[:, None], 4, axis=1)
    known[:, 3] = 1
    x = repainted(diffusion, settings, images, masks, known, own)
    return np.where(fill[:, None] > 0, dataset.to_bytes(x[:, :3]), images)


def joint(diffusion: Diffusion, settings: Inpaint, images: np.ndarray, masks: np.ndarray,
          own: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Chapter 3's way: images and masks (B, S, S), each lesion painted together with its outline."""
    fill = regions.all_dilated(masks[:, None], settings.dilate)[:, None]
    x = repainted(diffusion, settings, images, masks, 1 - fill, own)
    made = np.where(fill > 0, dataset.to_bytes(x[:, :3]), images)
    return made, np.stack([regions.opened(sample, settings.opening) for sample in x[:, 3:]])


def repainted(diffusion: Diffusion, settings: Inpaint, images: np.ndarray, masks: np.ndarray,
              known: np.ndarray, own: list[int]) -> np.ndarray:
    """RePaint of images (B, 3, S, S) uint8 with masks (B, S, S) by the settings: (B, 4, S, S) in [-1, 1]."""
    pairs = dataset.gather([str(i) for i in range(len(images))], images, masks[:, None])
    levels = repaint_levels(settings.respacing, settings.jump_length, settings.resampling)
    generators = [seeds.generator(seed, "noise", device=diffusion.device) for seed in own]
    x = repaint(diffusion.respaced(settings.respacing), dataset.to_tensor(pairs).to(diffusion.device),
                torch.from_numpy(known).float().to(diffusion.device), levels, generators)
    return x.float().cpu().numpy()


def batched(count: int, size: int, work: Callable[[slice], None]) -> None:
    """Call `work` on slices of `size` until `count` are done."""
    for first in range(0, count, size):
        work(slice(first, min(first + size, count)))
