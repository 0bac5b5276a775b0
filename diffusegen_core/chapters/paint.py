"""Lesions in pictures of one's own, of any size: chapter 3's algorithm outside a run's pairs.

A picture is brought to the model's size and painted there. Then the painted region is laid back into it:
enlarged, and faded in from the region's border. Pixels outside the region stay as they are.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image

from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import FULL_SIZE, Inpaint
from diffusegen_core.data import dataset, masks, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.masks import Drawn, Like
from diffusegen_core.diffusion.repaint import repaint, repaint_levels
from diffusegen_core.diffusion.samplers import named
from diffusegen_core.store import seeds

FADE = 0.5  # of the width of the rim between mask and region: over so much the painted region fades in
FULL = 0.95  # of a picture: a region that covers more leaves nothing to paint into


@dataclass(frozen=True)
class Painted:
    """A picture that was painted into."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    mask: np.ndarray
    """(H, W) uint8 in {0, 1}, the new lesion; empty where one was removed."""
    region: np.ndarray
    """(H, W) bool: outside it, the picture is as it was."""
    model: str
    seed: int
    mask_of: str
    """The training pair whose mask was taken; "" where the mask was given."""
    mask_change: str
    """What was done to it."""


@dataclass(frozen=True)
class Wish:
    """Which lesion a picture is to have, and which is to go. Masks are (H, W), not 0 where a lesion is."""

    mask: np.ndarray | None = None
    """The new lesion; None: that of a training pair, changed."""
    like: Like | None = None
    """How large it is to be, and where, if no mask is given; None: as it comes, where tissue is seen."""
    old: np.ndarray | None = None
    """The lesion that the picture has, to be painted over."""
    remove: bool = False
    """No new lesion: what `mask` and `old` show is painted over."""


def paint(pairs: Pairs, models: Trained, settings: Inpaint, image: np.ndarray, wish: Wish, n: int = 1,
          seed: int = 0, device: str = "auto") -> list[Painted]:
    """`n` pictures from one, (H, W, 3) uint8. `pairs` are the models'; of K cluster models each result draws
    its own, as in chapter 3.

    Result i depends on `seed` and i alone. UserError for a picture or a mask that cannot be used.
    """
    _refuse_unusable(image, wish, n)
    where = devices.device(device)
    own = [seeds.derive(seed, "paint", number) for number in range(n)]
    chosen = [models.models[int(seeds.rng(one, "model").integers(len(models.models)))].name for one in own]
    results: dict[int, Painted] = {}
    for name in dict.fromkeys(chosen):
        diffusion = models.load(name, device, settings.precision).respaced(settings.respacing)
        numbers = [number for number, model in enumerate(chosen) if model == name]
        for first in range(0, len(numbers), settings.batch_size):
            batch = numbers[first:first + settings.batch_size]
            small = [_small(pairs, image, wish, own[number], settings) for number in batch]
            generators = [seeds.generator(own[number], "noise", device=where) for number in batch]
            x = repaint(diffusion, torch.stack([one.x for one in small]).to(where),
                        torch.stack([one.known for one in small]).to(where),
                        repaint_levels(settings.respacing, settings.jump_length, settings.resampling),
                        generators, named(settings.sampler))
            for number, one, sample in zip(batch, small, x.float().cpu().numpy(), strict=True):
                results[number] = _finished(image, wish, one, dataset.to_bytes(sample[:3]), name, own[number],
                                            settings)
    return [results[number] for number in range(n)]


def _refuse_unusable(image: np.ndarray, wish: Wish, n: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"The picture must be (H, W, 3), uint8 RGB; it is {image.shape}, {image.dtype}.")
    for name, mask in (("mask", wish.mask), ("mask of the old lesion", wish.old)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise UserError(f"The {name} must be as large as the picture, {image.shape[1]} x "
                            f"{image.shape[0]} pixels; it is {' x '.join(map(str, mask.shape[::-1]))}.")
    given = [mask for mask in (wish.mask, wish.old) if mask is not None]
    if wish.remove and not any(mask.any() for mask in given):
        raise UserError("To remove a lesion, its mask is needed, and there is none or an empty one.")
    if not wish.remove and wish.mask is not None and not wish.mask.any():
        raise UserError("The mask is empty. To paint a lesion away, name its mask and ask for its removal.")
    if n < 1:
        raise UserError(f"At least one picture can be painted, not {n}.")


@dataclass(frozen=True)
class _Small:
    """A picture at the model's size S, as `repaint` takes it."""

    x: torch.Tensor  # (4, S, S) in [-1, 1], with the new mask
    known: torch.Tensor  # (4, S, S), 1 where known
    region: np.ndarray  # (S, S) in {0, 1}, to be painted
    drawn: Drawn  # the new mask
    mask_of: str


def _small(pairs: Pairs, image: np.ndarray, wish: Wish, seed: int, settings: Inpaint) -> _Small:
    side = pairs.image_size
    shown = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
    nothing = np.zeros((side, side), np.uint8)
    given, old = (nothing if mask is None or not mask.any() else _shrunk(mask, side)
                  for mask in (wish.mask, wish.old))
    name, new = "", Drawn(given, "")
    if wish.remove:
        new, old = Drawn(nothing, ""), old | given
    elif wish.mask is None:
        name, new = _drawn(pairs, shown.transpose(2, 0, 1), wish.like, seed)
    region = regions.dilated(new.mask | old, settings.dilate)
    if region.mean() > FULL:
        raise UserError(f"The region to paint covers {region.mean():.0%} of the picture: nothing is left to "
                        "paint into.")
    pair = dataset.gather(["given"], shown.transpose(2, 0, 1)[None], new.mask[None, None])
    known = torch.from_numpy(np.stack([*[1 - region] * 3, np.ones_like(region)])).float()
    return _Small(dataset.to_tensor(pair)[0], known, region, new, name)


def _shrunk(mask: np.ndarray, side: int) -> np.ndarray:
    grey = Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0)))
    return dataset.resized(grey.convert("RGB"), grey, side)[1][0]


def _drawn(pairs: Pairs, image: np.ndarray, like: Like | None, seed: int) -> tuple[str, Drawn]:
    """A training pair's mask, changed and placed, and the name of the pair."""
    rng, view = seeds.rng(seed, "mask"), masks.field_of_view(image)
    if not view.any():
        raise UserError("The picture shows no tissue: it is dark all over. Give a mask.")
    number = int(rng.integers(len(pairs)))
    mask = pairs.masks[number, 0]
    drawn = masks.varied(mask, view, rng) if like is None else masks.alike(mask, like, view, rng)
    if not drawn.mask.any():
        raise UserError("At that position the picture shows no tissue. Choose another, or give a mask.")
    return pairs.names[number], drawn


def _finished(image: np.ndarray, wish: Wish, small: _Small, painted: np.ndarray, model: str, seed: int,
              settings: Inpaint) -> Painted:
    """The picture with the painted region (3, S, S) uint8 laid back into it."""
    whole, alpha = laid_back(image, painted, small.region, settings.dilate)
    if wish.mask is not None and not wish.remove:
        mask = (wish.mask > 0).astype(np.uint8)
    else:
        enlarged = cv2.resize(small.drawn.mask.astype(np.float32), image.shape[1::-1])
        mask = (enlarged > 0.5).astype(np.uint8)
    return Painted(whole, mask, alpha > 0, model, seed, small.mask_of, small.drawn.change)


def laid_back(image: np.ndarray, painted: np.ndarray, region: np.ndarray,
              dilate: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) with a region that was painted at another size, and its share alpha (H, W) in it.

    `painted` (3, S, S) uint8, `region` (S, S) in {0, 1}, `dilate` as inpaint.dilate. alpha is 0 outside the
    region and rises to 1 within the rim around the lesion, which the dilation has added.
    """
    fade = max(1.0, FADE * dilate / 2 * len(region) / FULL_SIZE)
    depth = cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    size = image.shape[1::-1]
    alpha = cv2.resize(np.clip(depth / fade, 0, 1), size, interpolation=cv2.INTER_LINEAR)
    enlarged = Image.fromarray(np.ascontiguousarray(painted.transpose(1, 2, 0))).resize(
        size, Image.Resampling.BICUBIC)
    mixed = alpha[..., None] * np.asarray(enlarged, np.float32) + (1 - alpha[..., None]) * image
    return np.where(alpha[..., None] > 0, np.rint(mixed).astype(np.uint8), image), alpha
