"""Torch datasets of pairs: of one data type, or of real and synthetic ones mixed anew for each epoch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusegen_core.config.errors import UserError
from diffusegen_core.data import pairsets, planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.trainsets import Choice

Transform = Callable[..., Mapping[str, Any]]
"""Called like albumentations', `transform(image=..., mask=...)`, with (S, S, C) uint8 and (S, S) uint8, or
(S, S, M) where classes overlap."""
Read = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""A pair by its name: image (C, S, S) uint8, mask (M, S, S) in {0, 1}."""


class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of one data type.

    An item is an image, (C, S, S) float32 in [0, 1], and its mask, (S, S) int64 of class numbers: 0 is
    background, 1 the first of `data.classes`, as torch's CrossEntropyLoss and most segmentation losses
    expect. Where classes may overlap (data.overlap) the mask is (M, S, S) int64 in {0, 1}, one plane per
    class, as for BCEWithLogitsLoss. A transform gets (S, S, C) uint8 and (S, S), or (S, S, M), uint8; images
    that it returns as uint8 are divided by 255, and floats, such as normalised ones, stay as they are.
    """

    def __init__(self, names: Sequence[str], read: Read, transform: Transform | None = None,
                 overlap: bool = False) -> None:
        self.names = list(names)
        """The names of the items, in order."""
        self._read, self._transform, self._overlap = read, transform, overlap

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.named(self.names[index])

    def named(self, name: str) -> tuple[Tensor, Tensor]:
        """The item with this name."""
        image, mask = self._read(name)
        pixels = image.transpose(1, 2, 0)
        label = np.ascontiguousarray(mask.transpose(1, 2, 0)) if self._overlap else planes.numbered(mask)
        if self._transform is not None:
            changed = self._transform(image=np.ascontiguousarray(pixels), mask=label)
            pixels, label = changed["image"], changed["mask"]
        # Like the array that went in, one that comes back has its planes last.
        moved = self._overlap and isinstance(label, np.ndarray)
        return _image(pixels), torch.as_tensor(label.transpose(2, 0, 1).copy() if moved else label).long()


class Mixed(Dataset[tuple[Tensor, Tensor]]):
    """Real pairs of which some are replaced by synthetic ones, as `trainsets.mixed` draws them.

    Items are like those of `Labelled`. What an epoch holds depends only on the seeds and its number, not on
    workers or the order of reading. `set_epoch` draws anew, also in persistent workers; it changes the number
    of items, so a DistributedSampler has to be created anew for each epoch.
    """

    def __init__(self, real: Labelled, made: Labelled, draw: Callable[[int], Choice]) -> None:
        self._real, self._made, self._draw = real, made, draw
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers see its changes
        self._drawn = 0, draw(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the pairs of this epoch, from 0. UserError if it is not a whole number."""
        refuse_no_number(epoch=epoch)
        self._epoch.fill_(epoch)

    @property
    def choice(self) -> Choice:
        """The names of the epoch's pairs: real ones, which come first among the items, and synthetic ones."""
        epoch = int(self._epoch)
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return self._drawn[1]

    def __len__(self) -> int:
        return len(self.choice)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        real, synthetic = self.choice.real, self.choice.synthetic
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in epoch {int(self._epoch)}")
        place = index % len(self)
        return (self._real.named(real[place]) if place < len(real) else
                self._made.named(synthetic[place - len(real)]))


def refuse_no_number(**values: object) -> None:
    """UserError for a value, given by its name, that is not a whole number."""
    for name, value in values.items():
        if not hasattr(value, "__index__"):
            raise UserError(f"{name} must be a whole number, not {value!r}.")


def of_pairs(pairs: Pairs, names: Sequence[str], transform: Transform | None = None) -> Labelled:
    """The pairs with these names, from memory."""
    places = {name: place for place, name in enumerate(pairs.names)}
    return Labelled(names, partial(_in_memory, pairs, places), transform, pairs.overlap)


def of_folder(folder: Path, names: Sequence[str], transform: Transform | None = None,
              overlap: bool = False) -> Labelled:
    """The pairs with these names, from a dataset folder; each is read when it is accessed."""
    return Labelled(names, partial(pairsets.read_pair, folder), transform, overlap)


def mix(real: Labelled, made: Labelled, of: Mapping[str, Sequence[str]], alpha: float, ratio: int, seed: int,
        number: int) -> Mixed:
    """Real pairs mixed with synthetic ones, as by `trainsets.mixed`; `of` has the names of the synthetic
    pairs by that of the real pair they were made of."""
    return Mixed(real, made, partial(_drawn, real.names, of, alpha, ratio, seed, number))


def _image(pixels: np.ndarray | Tensor) -> Tensor:
    """(C, S, S) float32 from an array (S, S, C) or (S, S), or from a tensor with its channels first."""
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def _in_memory(pairs: Pairs, places: Mapping[str, int], name: str) -> tuple[np.ndarray, np.ndarray]:
    return pairs.images[places[name]], pairs.masks[places[name]]


def _drawn(names: Sequence[str], of: Mapping[str, Sequence[str]], alpha: float, ratio: int, seed: int,
           number: int, epoch: int) -> Choice:
    return trainsets.mixed(names, of, alpha, ratio, seed, number, epoch=epoch)
