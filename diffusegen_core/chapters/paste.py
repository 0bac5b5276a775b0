"""Baselines without a model, beside chapter 3's pairs: real lesions pasted into the same sources.

Each data type of types.PASTED has as many pairs as inpainting makes. The types share the drawn lesions, their
changes and places, so that they differ only in the blending. Lesions come from all pairs of the run, as does
what the diffusion models know. See data.lesions.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from diffusegen_core.chapters.costs import Cost, Work, without_network
from diffusegen_core.chapters.scenes import chosen, inside
from diffusegen_core.config import devices
from diffusegen_core.config.data import Data
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, lesions, masks, pairsets, patients, planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.pairsets import NO_MODEL, Job, PairSet, PairSets
from diffusegen_core.data.planes import Chosen
from diffusegen_core.data.types import DataType, pasted
from diffusegen_core.segmentation.trainsets import Supply
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other pairs
OVERLAPPING = 2  # of classes that may overlap, which pasted lesions once cut out
AREAS = ["area_before", "area_lesion", "area_after"]
MANIFEST = [*pairsets.ORIGIN, *pairsets.PASTED, *AREAS]


@dataclass(frozen=True)
class Pasted(PairSets):
    """The pairs with pasted lesions, by data type.

    In the manifests `lesion_of` is the pair that the lesion is from, and `lesion_change` how it was changed;
    the areas, shares of the image, are of the source's mask, of the pasted lesion, and of both together.
    """

    @property
    def table(self) -> pd.DataFrame:
        """One row per data type: pairs, their sources, pairs with no place for an object, and mean areas."""
        return self.described(lambda one: {
            "sources": one.manifest["source"].nunique(), "without a place": len(one.left_out),
            **{f"mean area {name}": one.manifest[column].mean()
               for name, column in zip(("before", "pasted", "after"), AREAS, strict=True)}})


def run(ws: Workspace, pairs: Pairs, settings: Inpaint, data: Data = PLAIN) -> Pasted | None:
    """Make every pair that is not there yet; None if inpaint.baselines asks for none. `data` names the
    classes that inpaint.classes chooses from."""
    which, within = chosen(settings, data), inside(settings, data)
    sets = {data_type: _set(ws, data_type, pairs, settings, which, within)
            for data_type in pasted(settings.baselines)}
    return Pasted(sets) if sets else None


def costs(supply: Supply, image_size: int, work: Work) -> Iterator[Cost]:
    """The chapter's work items, batches of pairs, which need no network."""
    for data_type, amount in supply.items():
        if data_type.is_pasted:
            pairs = amount.sources * amount.samples
            yield without_network("inpaint", f"{data_type}, no network", "sampling", pairs,
                                  pairs * work.pair * image_size**2)


def plan(seed: int, pairs: Pairs, settings: Inpaint) -> list[Job]:
    """Every pair of a data type. Pairs of the same name have the same seed in all types."""
    sources = patients.sources(pairs.names, pairs.file, settings.sources, settings.draw_sources)
    return [Job(index, f"{name}_{sample}", name, -1, NO_MODEL, sample,
                seeds.derive(seed, "paste", name, sample))
            for sample in range(1, settings.samples + 1)
            for index, name in ((index, pairs.names[index]) for index in sources)]


def _set(ws: Workspace, data_type: DataType, pairs: Pairs, settings: Inpaint, which: Chosen,
         within: int | None) -> PairSet:
    jobs = plan(ws.seed, pairs, settings)
    artifact = ws.artifact(data_type.artifact, {**_recipe(ws, data_type, pairs, jobs, settings),
                                                **pairsets.painted_anew(which)})
    if not artifact.made():
        pairsets.make(ws, artifact, f"Pasting {data_type}", jobs, settings.batch_size, make_batch, MANIFEST,
                      pairs=pairs.stored, data_type=data_type, which=which,
                      turn=settings.turn, within=within)
    return pairsets.read(artifact, data_type)


def _recipe(ws: Workspace, data_type: DataType, pairs: Pairs, jobs: list[Job], settings: Inpaint) -> Recipe:
    version = OVERLAPPING if pairs.overlap else VERSION
    return {"version": [version, lesions.VERSION, masks.VERSION], "pairs": pairs.digest, "seed": ws.seed,
            "jobs": {job.name: job.seed for job in jobs}, "models": {NO_MODEL: data_type.name},
            **({} if settings.turn == masks.ANY else {"turn": settings.turn}),
            **({} if settings.within is None else {"within": settings.within})}


def make_batch(jobs: list[Job], keys: list[str], folder: Path, pairs: Path, data_type: DataType,
               which: Chosen = None, turn: float = masks.ANY,
               within: int | None = None) -> None:
    """Paste a lesion into the source of each job, and write the pairs."""
    known = dataset.read(pairs)
    for job, key in zip(jobs, keys, strict=True):
        began = time.monotonic()
        lesion = lesions.cut(known, job.index, seeds.rng(job.seed, "lesion"), which, turn, within)
        image, mask = lesions.pasted(known, job.index, lesion, data_type)
        areas = planes.union(known.masks[job.index]), lesion.mask > 0, planes.union(mask)
        row = {**job.origin, "lesion_of": known.names[lesion.donor], "lesion_change": lesion.change,
               **{name: round(float(area.mean()), 6) for name, area in zip(AREAS, areas, strict=True)}}
        # A picture that is dark all over has no place for a lesion.
        pairsets.keep(folder, job.name, key, row, (image, mask) if lesion.mask.any() else None,
                      time.monotonic() - began, device=devices.name("cpu"))
