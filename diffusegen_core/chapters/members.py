"""What chapter 5 and the filter judge: a data type's images, where they were filled, and their features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.config import devices
from diffusegen_core.config.sections import Evaluate
from diffusegen_core.data import dataset, pairsets, planes, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Chosen
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.measures import copies, metrics
from diffusegen_core.store.artifacts import Artifact
from diffusegen_core.store.workspace import Workspace

HELD_OUT = DataType("held-out Real")  # real pairs that no model saw, treated as a data type


@dataclass(frozen=True)
class Members:
    """Q pairs of a data type: what they show, and where they come from."""

    names: list[str]
    numbers: np.ndarray
    """(Q,) int, sample number of each pair, from 1."""
    sources: np.ndarray
    """(Q,) int, the index of its source among the real pairs; -1 where that is not known."""
    images: np.ndarray
    """(Q, C, S, S) uint8."""
    regions: np.ndarray
    """(Q, S, S), nonzero where the image was filled."""
    objects: np.ndarray
    """(Q, S, S), nonzero around the object, within the filled region."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> "Members":
        """The pairs at these positions."""
        return Members([self.names[i] for i in rows], self.numbers[rows], self.sources[rows],
                       self.images[rows], self.regions[rows], self.objects[rows])


@dataclass(frozen=True)
class Subject:
    """What a work item judges, and by which settings; it can be sent to a worker."""

    ws: Workspace
    data_type: DataType
    folder: Path | None
    """The dataset folder; None for Real and for the held-out pairs."""
    real: Path
    """The file of the real pairs."""
    held_out: Path | None
    """The file of real pairs that no model saw; None where there are none."""
    settings: Evaluate
    dilate: int
    """As inpaint.dilate."""
    artifact: Artifact


def members(subject: Subject, rows: slice = slice(None)) -> Members:
    """The pairs of a data type, or those of its rows."""
    pairs = dataset.read(subject.real)
    if subject.data_type == HELD_OUT:
        assert subject.held_out is not None, "nobody asks for pairs that are not there"
        held = dataset.read(subject.held_out)
        return _whole(held, np.full(len(held), -1), subject.dilate, rows)
    if subject.folder is None:
        return _whole(pairs, np.arange(len(pairs)), subject.dilate, rows)
    return of_set(pairs, subject.data_type, subject.folder, subject.dilate, rows)


def of_set(pairs: Pairs, data_type: DataType, folder: Path, dilate: int,
           rows: slice = slice(None)) -> Members:
    """The pairs in a dataset folder of a data type, or those of some rows of its manifest.

    `pairs` are the run's real ones, `dilate` is as inpaint.dilate.
    """
    manifest = pairsets.manifest(folder)[rows]
    index = {"": -1} | {name: i for i, name in enumerate(pairs.names)}
    sources = manifest["source"].map(index).to_numpy(dtype=int)
    numbers = manifest["sample"].to_numpy(dtype=int)
    if manifest.empty:
        nothing = planes.union(pairs.masks[:0])
        return Members([], numbers, sources, pairs.images[:0], nothing, nothing)
    made = pairsets.load(folder, manifest["name"].tolist())
    chosen = pairsets.chosen(folder)
    objects = regions.all_dilated(planes.only(made.masks, chosen), dilate)
    filled = _filled(data_type, dilate, pairs, sources, manifest, made, chosen)
    return Members(made.names, numbers, sources, made.images, filled, objects & filled)


def features(subject: Subject, images: np.ndarray, title: str) -> np.ndarray:
    """Features (N, D) of images (N, C, S, S) uint8, each computed once in a run."""
    return metrics.remembered(subject.ws.folder / "features", images, subject.settings,
                              devices.device(subject.ws.device), subject.ws.seed, title)


def object_features(subject: Subject, images: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Features (Q, D) of the boxes around regions (Q, S, S); NaN where a region is empty."""
    there = np.asarray(around.any(axis=(1, 2)))
    shown = np.where(there[:, None, None], around, 1)
    rows = features(subject, copies.patches(images, shown), "Features of objects")
    return np.where(there[:, None], rows, np.nan)


def turned_features(subject: Subject, images: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The same for images in all orientations, (8 Q, D), as the audit compares training images."""
    return np.concatenate([object_features(subject, *(np.ascontiguousarray(copies.turned(part, way))
                                                     for part in (images, around)))
                           for way in range(len(copies.ORIENTATIONS))])


def _whole(pairs: Pairs, sources: np.ndarray, dilate: int, rows: slice) -> Members:
    """Real pairs: all belong to set 1, and are compared in the region around their object."""
    around = regions.all_dilated(pairs.masks[rows], dilate)
    return Members(pairs.names[rows], np.ones(len(around), int), sources[rows], pairs.images[rows], around,
                   around)


def _filled(data_type: DataType, dilate: int, pairs: Pairs, sources: np.ndarray, manifest: pd.DataFrame,
            made: Pairs, chosen: Chosen) -> np.ndarray:
    """Where the images of a data type differ from their sources, and so are compared: (N, S, S)."""
    if data_type == GAN:  # which makes whole images
        return np.ones_like(planes.union(made.masks))
    if data_type.is_pasted:  # the source's lesion stays; blending changes the surroundings of the new one
        return planes.union(made.masks & (1 - pairs.masks[sources]))
    new = planes.only(made.masks, chosen) if data_type.given_masks else None
    return regions.filled(planes.only(_old(pairs, sources, manifest), chosen), new, dilate)


def _old(pairs: Pairs, sources: np.ndarray, manifest: pd.DataFrame) -> np.ndarray:
    """The masks (N, M, S, S) of the lesions that were painted over: a background has none."""
    own = manifest.get("picture", manifest["source"]) == manifest["source"]
    return pairs.masks[sources] * own.to_numpy(dtype=np.uint8)[:, None, None, None]
