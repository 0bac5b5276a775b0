"""What chapter 3 paints into, and by which masks.

The paper lets the model draw the mask, within the old lesion's region. Where the mask is given, its channel
is known everywhere, and the model paints the image alone: the old lesion's region is filled as well, with
what lies outside the new mask, so that any picture can get any lesion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusegen_core.chapters.spots import Spot
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, masks, pictures, planes, regions, windows
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.masks import Drawn
from diffusegen_core.data.pairsets import Job, Row
from diffusegen_core.data.types import JOINT, OWN, VARIED
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace


@dataclass(frozen=True)
class Scene:
    """A batch to paint: B pictures, where, and by which masks."""

    pictures: Pairs
    """With the masks of the lesions that they have."""
    masks: np.ndarray | None
    """(B, M, S, S) in {0, 1}, those of the new lesions; None where the model draws them."""
    region: np.ndarray
    """(B, S, S) in {0, 1}: where the pictures are painted anew."""
    rows: list[Row]
    """What a manifest tells of each, the columns pairsets.GIVEN; nothing where the model draws the masks."""

    @property
    def spots(self) -> list[Spot]:
        """What is to be painted into each picture."""
        new = [None] * len(self.pictures) if self.masks is None else list(planes.numbered(self.masks))
        return [Spot(image, old, mask) for image, old, mask in
                zip(self.pictures.images, planes.numbered(self.pictures.masks), new, strict=True)]

    @property
    def x(self) -> Tensor:
        """(B, C + M, S, S) in [-1, 1]: the pictures, with the new masks where they are given."""
        x = dataset.to_tensor(self.pictures)
        if self.masks is not None:
            x[:, self.pictures.planes.channels:] = torch.from_numpy(self.masks).float() * 2 - 1
        return x

    @property
    def known(self) -> Tensor:
        """1 where x is known, 0 where to fill: (B, 1, S, S), or (B, C + M, S, S) with all of the mask
        known."""
        known = torch.from_numpy(1 - self.region[:, None]).float()
        if self.masks is None:
            return known
        kind = self.pictures.planes
        return torch.cat([known.repeat(1, kind.channels, 1, 1),
                          torch.ones_like(known).repeat(1, kind.classes, 1, 1)], dim=1)


@dataclass(frozen=True)
class Scenes:
    """Where a run's scenes come from; workers read the files."""

    settings: Inpaint
    pairs: Path
    given: Path | None = None
    """The masks of a folder, where inpaint.masks names one."""
    backgrounds: Path | None = None
    window: float | None = None
    """As data.window."""

    @classmethod
    def of(cls, ws: Workspace, pairs: Pairs, settings: Inpaint, window: float | None = None) -> "Scenes":
        """UserError where a folder that the settings name cannot be read."""
        files = {name: pictures.load(ws, name, source, pairs.image_size).stored
                 for name, source in pictures.folders(settings).items()}
        return cls(settings, pairs.stored, files.get(pictures.MASKS), files.get(pictures.BACKGROUNDS), window)

    @property
    def guidance_scale(self) -> float:
        """How strongly images follow given masks; 1 where the model draws the masks."""
        return 1.0 if self.settings.masks == JOINT else self.settings.guidance_scale

    @property
    def recipe(self) -> Recipe:
        """What decides scenes beside the run's pairs: nothing where whole images have joint masks."""
        classes = dataset.read(self.pairs).planes.classes if self.window else 1
        squares = {"window": [self.window, windows.version(classes)]} if self.window else {}
        if self.settings.masks == JOINT:
            return squares
        guidance = {"guidance_scale": self.guidance_scale} if self.guidance_scale != 1 else {}
        return {**squares, **guidance,
                "masks": dataset.read(self.given).digest if self.given else self.settings.masks,
                "masks_version": masks.VERSION,
                "backgrounds": dataset.read(self.backgrounds).digest if self.backgrounds else None}

    @cached_property
    def names(self) -> list[str]:
        """Those of the backgrounds."""
        return dataset.read(self.backgrounds).names if self.backgrounds else []

    def pictures(self, jobs: Sequence[Job]) -> Pairs:
        """What the jobs paint into: each its background, or its source."""
        if self.backgrounds is None:
            return dataset.read(self.pairs).take([job.index for job in jobs])
        return dataset.read(self.backgrounds).named([job.picture for job in jobs])

    def scene(self, jobs: Sequence[Job]) -> Scene:
        """The scene of a batch: each job's depends on its own seed alone."""
        shown = self.pictures(jobs)
        if self.settings.masks == JOINT:
            region = regions.filled(shown.masks, None, self.settings.dilate)
            return Scene(shown, None, region, [{} for _ in jobs])
        drawn = [self._drawn(job, image) for job, image in zip(jobs, shown.images, strict=True)]
        new = planes.separate(np.stack([mask.mask for _, mask in drawn]), shown.planes.classes)
        rows: list[Row] = [{"picture": name, "mask_of": of, "mask_change": mask.change}
                           for name, (of, mask) in zip(shown.names, drawn, strict=True)]
        return Scene(shown, new, regions.filled(shown.masks, new, self.settings.dilate), rows)

    def _drawn(self, job: Job, image: np.ndarray) -> tuple[str, Drawn]:
        """A job's mask, and the name of what it was made of."""
        rng, pairs = seeds.rng(job.seed, "mask"), dataset.read(self.given or self.pairs)
        number = job.index if self.settings.masks == OWN else int(rng.integers(len(pairs)))
        name, mask = pairs.names[number], planes.numbered(pairs.masks[number])
        if self.settings.masks != VARIED:
            return name, Drawn(mask, "")
        return name, masks.varied(mask, masks.field_of_view(image), rng)
