"""The pictures that chapter 3 paints into, and the masks that it paints by.

In the paper the model draws the mask, within the old lesion's region. If the mask is given, its channel is
known everywhere, and the model paints only the image. The old lesion's region is then filled as well, with
tissue where the new mask does not reach, so that any picture can get any lesion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusegen_core.chapters import spots
from diffusegen_core.chapters.spots import Spot
from diffusegen_core.config.data import Data
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, lesions, masks, pictures, planes, regions, windows
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.masks import Drawn
from diffusegen_core.data.pairsets import Job, Row
from diffusegen_core.data.planes import Chosen
from diffusegen_core.data.types import JOINT, OWN, VARIED
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

BARS = 2  # version of what is painted and styled between the bars of padded pictures
BESIDE = 2  # version of how masks guide, and of how colours are matched, where other classes stay


def chosen(settings: Inpaint, data: Data) -> Chosen:
    """The classes that inpaint.classes names, as indices into data.classes; None for all."""
    places = {data.classes.index(name) for name in settings.classes or data.classes}
    return None if len(places) == len(data.classes) else tuple(sorted(places))


def inside(settings: Inpaint, data: Data) -> int | None:
    """The index of the class that inpaint.within names; None for no limit."""
    return None if settings.within is None else data.classes.index(settings.within)


def bare(masks: Tensor, painted: Chosen, within: int | None) -> Tensor:
    """Masks (B, M, S, S) in [-1, 1] without the classes that are painted, in {-1, 1}: the class `within` is
    where these were."""
    whole = (masks > 0).cpu().numpy().astype(np.uint8)
    whole = whole if within is None else lesions.healed(whole, painted, within)
    return spots.signed(planes.without(whole, painted)).to(masks)


def with_chosen(pairs: Pairs, settings: Inpaint, data: Data) -> Pairs:
    """The pairs that new lesions' masks are drawn from, with only the classes that inpaint.classes names."""
    which = chosen(settings, data)
    if which is None:
        return pairs
    able = pairs.take(lesions.having(pairs, which))
    return dataset.gather(able.names, able.images, planes.only(able.masks, which), able.overlap)


@dataclass(frozen=True)
class Scene:
    """A batch to paint: B pictures, where to paint them, and by which masks."""

    pictures: Pairs
    """With the masks of the lesions that they already have."""
    masks: np.ndarray | None
    """(B, M, S, S) in {0, 1}, of the new lesions; None if the model draws them."""
    region: np.ndarray
    """(B, S, S) in {0, 1}: where the pictures are painted anew."""
    rows: list[Row]
    """The manifest's columns pairsets.GIVEN for each; empty if the model draws the masks."""
    chosen: Chosen = None
    """The classes that are painted anew; in the others, `masks` is as in the pictures."""

    def take(self, indices: Sequence[int]) -> "Scene":
        """Some of the batch."""
        return Scene(self.pictures.take(indices), None if self.masks is None else self.masks[indices],
                     self.region[indices], [self.rows[i] for i in indices], self.chosen)

    @property
    def possible(self) -> list[int]:
        """Which of the batch can become pairs: those whose given mask has an object."""
        if self.masks is None:
            return list(range(len(self.pictures)))
        return np.flatnonzero(planes.only(self.masks, self.chosen).any(axis=(1, 2, 3))).tolist()

    @property
    def spots(self) -> list[Spot]:
        """What is to be painted into each picture."""
        return spots.of(self.pictures, self.masks, self.chosen)

    @property
    def x(self) -> Tensor:
        """(B, C + M, S, S) in [-1, 1]: the pictures, with the new masks where they are given."""
        x = dataset.to_tensor(self.pictures)
        if self.masks is not None:
            x[:, self.pictures.planes.channels:] = spots.signed(self.masks)
        return x

    @property
    def rest(self) -> Tensor:
        """(B, M, S, S) in {-1, 1}: the masks without the lesions that are painted."""
        return spots.signed(planes.without(self.pictures.masks, self.chosen))

    @property
    def known(self) -> Tensor:
        """1 where x is known, 0 where to fill: (B, 1, S, S), or, if the model does not draw the masks of all
        classes, (B, C + M, S, S) with the other masks known everywhere."""
        known = torch.from_numpy(1 - self.region[:, None]).float()
        if self.masks is None and self.chosen is None:
            return known
        kind = self.pictures.planes
        drawn = (self.chosen or ()) if self.masks is None else ()  # classes whose masks the model draws
        whole = torch.ones_like(known)
        return torch.cat([known.repeat(1, kind.channels, 1, 1),
                          *(known if place in drawn else whole for place in range(kind.classes))], dim=1)


@dataclass(frozen=True)
class Scenes:
    """Where a run's scenes come from; workers read the files."""

    settings: Inpaint
    pairs: Path
    given: Path | None = None
    """The masks of a folder, if inpaint.masks names one."""
    backgrounds: Path | None = None
    window: float | None = None
    """As data.window."""
    chosen: Chosen = None
    """The classes that inpaint.classes names."""
    within: int | None = None
    """The index of the class that inpaint.within names."""

    @classmethod
    def of(cls, ws: Workspace, pairs: Pairs, settings: Inpaint, window: float | None = None,
           data: Data = PLAIN) -> "Scenes":
        """The scenes of a run; `data` is the run's. UserError if a folder in the settings cannot be read."""
        files = {name: pictures.load(ws, name, source, pairs.image_size, data).stored
                 for name, source in pictures.folders(settings).items()}
        return cls(settings, pairs.stored, files.get(pictures.MASKS), files.get(pictures.BACKGROUNDS), window,
                   chosen(settings, data), inside(settings, data))

    @property
    def guidance_scale(self) -> float:
        """How strongly images follow given masks; 1 where the model draws the masks."""
        return 1.0 if self.settings.masks == JOINT else self.settings.guidance_scale

    @property
    def recipe(self) -> Recipe:
        """What decides scenes besides the run's pairs; empty for whole images, joint masks of all classes."""
        squares: Recipe = {}
        if self.window:
            version = windows.version(dataset.read(self.pairs).planes.classes)
            squares = {"window": [self.window, version]}
        if self.chosen is not None:
            squares = {**squares, "classes": list(self.chosen)}
        if dataset.read(self.backgrounds or self.pairs).padded:
            squares = {**squares, "bars": BARS}
        if self.settings.masks == JOINT:
            return squares
        guidance = {"guidance_scale": self.guidance_scale} if self.guidance_scale != 1 else {}
        return {**squares, **guidance, **self.beside(self.guidance_scale != 1 or self.settings.seamless),
                "masks": dataset.read(self.given).digest if self.given else self.settings.masks,
                "masks_version": masks.VERSION,
                "backgrounds": dataset.read(self.backgrounds).digest if self.backgrounds else None}

    def beside(self, matters: bool) -> Recipe:
        """What decides how lesions are painted beside classes that stay, if some do and it `matters`."""
        return {"beside": BESIDE} if matters and self.chosen is not None else {}

    @cached_property
    def names(self) -> list[str]:
        """The names of the backgrounds, if there are any."""
        return dataset.read(self.backgrounds).names if self.backgrounds else []

    def pictures(self, jobs: Sequence[Job]) -> Pairs:
        """The pictures that the jobs paint into: their backgrounds, or their sources."""
        if self.backgrounds is None:
            return dataset.read(self.pairs).take([job.index for job in jobs])
        return dataset.read(self.backgrounds).named([job.picture for job in jobs])

    def scene(self, jobs: Sequence[Job]) -> Scene:
        """The scene of a batch; each job's part depends on its own seed alone."""
        shown = self._healed(self.pictures(jobs))
        old = planes.only(shown.masks, self.chosen)
        if self.settings.masks == JOINT:
            region = regions.filled(old, None, self.settings.dilate)
            return Scene(shown, None, region, [{} for _ in jobs], self.chosen)
        drawn = [self._drawn(job, image, known) for job, image, known in
                 zip(jobs, shown.images, shown.masks, strict=True)]
        new = windows.bars_empty(
            planes.separate(np.stack([mask.mask for _, mask in drawn]), shown.planes.classes), shown)
        rows: list[Row] = [{"picture": name, "mask_of": of, "mask_change": mask.change}
                           for name, (of, mask) in zip(shown.names, drawn, strict=True)]
        region = regions.filled(old, new, self.settings.dilate)
        whole = planes.laid_over(planes.without(shown.masks, self.chosen), new, shown.overlap)
        return Scene(shown, whole, region, rows, self.chosen)

    def _healed(self, shown: Pairs) -> Pairs:
        """The pictures as they are without their old objects: with the class `within` in their place."""
        if self.within is None:
            return shown
        return replace(shown, masks=lesions.healed(shown.masks, self.chosen, self.within))

    def _drawn(self, job: Job, image: np.ndarray, known: np.ndarray) -> tuple[str, Drawn]:
        """A job's mask, and the name of its pair of origin. `known` (M, S, S) are its picture's masks."""
        rng, pairs = seeds.rng(job.seed, "mask"), dataset.read(self.given or self.pairs)
        able = lesions.having(pairs, self.chosen)
        number = job.index if self.settings.masks == OWN else able[int(rng.integers(len(able)))]
        name, mask = pairs.names[number], planes.numbered(planes.only(pairs.masks[number], self.chosen))
        if self.settings.masks != VARIED or not mask.any():
            return name, Drawn(mask, "")
        return name, masks.varied(mask, lesions.room(image, known, self.within), rng, self.settings.turn)
