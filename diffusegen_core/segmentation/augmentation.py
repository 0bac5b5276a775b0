"""Random augmentation of a segmentation network's training images, as in the paper, with albumentations."""

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from diffusegen_core.data import planes
from diffusegen_core.data.dataset import Pairs

if TYPE_CHECKING:
    from albumentations import Compose


def transforms(channels: int = planes.RGB, rotate: float = 0.0) -> "Compose":
    """The transforms that the paper names, with the values of its authors' code (dsaragih/divergent-nets).
    That code does not rotate; here images are rotated by up to `rotate` degrees either way.

    CLAHE applies to grey and RGB images only. Warnings of albumentations, as of wrong arguments, are errors.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it goes online on import
    import albumentations as A
    import cv2

    shift = (-0.1, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return A.Compose([
            A.HorizontalFlip(p=0.5),
            # Formerly ShiftScaleRotate.
            A.Affine(translate_percent={"x": shift, "y": shift}, scale=(0.5, 1.5), keep_ratio=True,
                     rotate=(-rotate, rotate), interpolation=cv2.INTER_LINEAR,
                     mask_interpolation=cv2.INTER_NEAREST, border_mode=cv2.BORDER_CONSTANT, fill=0,
                     fill_mask=0, p=1.0),
            A.OneOf([*([A.CLAHE(p=1.0)] if channels in (1, planes.RGB) else []),
                     # Formerly RandomBrightness.
                     A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.0, p=1.0),
                     A.RandomGamma(p=1.0)], p=0.9),
        ])


def drawn(train: Pairs, batch: np.ndarray, transform: "Compose | None",
          own: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, C, S, S) and maps of class numbers (B, S, S) of a batch, each augmented by its own seed."""
    numbers = planes.numbered(train.masks[batch])
    if transform is None:
        return train.images[batch], numbers
    images, masks = [], []
    for position, mask, seed in zip(batch, numbers, own, strict=True):
        transform.set_random_seed(seed)
        pixels = np.ascontiguousarray(train.images[position].transpose(1, 2, 0))
        changed = transform(image=pixels, mask=mask)
        images.append(changed["image"].reshape(pixels.shape).transpose(2, 0, 1))
        masks.append(changed["mask"])
    return np.stack(images), np.stack(masks)
