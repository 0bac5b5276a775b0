"""Chapter 3: new objects and their masks, painted into real images (RePaint; paper 2.4, A.2).

All channels are known outside the source's dilated mask; inside, image and mask are generated together. With
several classes that mask is the union of all, or of those in inpaint.classes; the others stay as they are.
Beyond the paper, the masks can be given (inpaint.masks, see `scenes`): then only the image is generated.
Every image has a seed and noise of its own: batch size, order, shards and interruptions do not change it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.chapters import spots
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.costs import Cost, Work
from diffusegen_core.chapters.scenes import Scene, Scenes
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import (
    dataset,
    masks,
    pairsets,
    patients,
    pictures,
    planes,
    regions,
    seamless,
    windows,
)
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.pairsets import Job, PairSet, PairSets
from diffusegen_core.data.planes import Chosen
from diffusegen_core.data.types import FULL, JOINT, VARIED, DataType, cluster_model, painted
from diffusegen_core.diffusion import checkpoints, samplers
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels, to_array
from diffusegen_core.parallel import progress
from diffusegen_core.segmentation.trainsets import Supply
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other pairs
MANIFEST = [*pairsets.ORIGIN, "area_before", "area_after"]
# Parameters that decide which pairs are made, or change only rounding, but not what a pair is like. Masks and
# backgrounds, with what follows from them, are in `Scenes.recipe`, by their content.
IRRELEVANT = ("samples", "sources", "draw_sources", "model_of", "batch_size", "masks", "backgrounds",
              "guidance_scale", "baselines")


@dataclass(frozen=True)
class Inpainted(PairSets):
    """The synthetic pairs by data type: K-Diff, and Full-Diff where there is a model of the full set; with
    given masks K-Paint and Full-Paint."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per data type: pairs, their sources and models, pairs left out for lack of an object, and
        the masks' mean areas (shares of the image) before and after."""
        return self.described(lambda one: {
            "sources": one.manifest["source"].nunique(), "models": one.manifest["model"].nunique(),
            "without an object": len(one.left_out), "mean area before": one.manifest["area_before"].mean(),
            "mean area after": one.manifest["area_after"].mean()})


def run(ws: Workspace, pairs: Pairs, clusters: Clusters, models: Trained, settings: Inpaint,
        window: float | None = None, data: Data = PLAIN) -> Inpainted:
    """Make every pair that is not there yet, and the dataset folders with their manifests.

    `window` is data.window; `data`, the run's, says how folders of masks and backgrounds are read.
    """
    scenes = Scenes.of(ws, pairs, settings, window, data)
    return Inpainted({data_type: _set(ws, data_type, pairs, clusters, models, scenes)
                      for data_type in painted(clusters.k, models.full is not None, settings.masks)})


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    yield from refusals([lambda: samplers.named(p.inpaint.sampler)], "inpaint.sampler")
    yield from pictures.check(p)


def costs(settings: Inpaint, supply: Supply, image_size: int, work: Work) -> Iterator[Cost]:
    """The chapter's work items, batches of pairs."""
    each = calls(settings)
    for data_type, amount in supply.items():
        if data_type.is_painted and not data_type.is_styled:
            pairs = amount.sources * amount.samples
            yield Cost(chapter="inpaint", work=f"{data_type}, {each} calls each", kind="sampling",
                       items=pairs, images=pairs * each, flop=pairs * each * work.unet.call,
                       largest=min(pairs, settings.batch_size) * each * work.unet.call,
                       disk=pairs * work.pair * image_size**2)


def calls(settings: Inpaint) -> int:
    """Network calls for a pair: one for each step down, or two where images are guided by given masks."""
    steps = network_calls(repaint_levels(settings.respacing, settings.jump_length, settings.resampling))
    return steps if settings.masks == JOINT or settings.guidance_scale == 1 else 2 * steps


def _set(ws: Workspace, data_type: DataType, pairs: Pairs, clusters: Clusters, models: Trained,
         scenes: Scenes) -> PairSet:
    settings = scenes.settings
    jobs = plan(ws.seed, data_type, pairs, clusters, settings, scenes.names)
    artifact = ws.artifact(data_type.artifact, _recipe(ws, pairs, jobs, models, scenes))
    if not artifact.made():
        columns = [*MANIFEST, *(pairsets.GIVEN if data_type.given_masks else [])]
        pairsets.make(ws, artifact, f"Inpainting {data_type}", jobs, settings.batch_size, make_batch, columns,
                      facts=pairsets.painted_anew(scenes.chosen), ws=ws, scenes=scenes,
                      weights=models.weights,
                      models={name: models[name].path for name in artifact.recipe["models"]})
    return pairsets.read(artifact, data_type)


def plan(seed: int, data_type: DataType, pairs: Pairs, clusters: Clusters, settings: Inpaint,
         backgrounds: Sequence[str] = ()) -> list[Job]:
    """Every pair of a data type. Its own seed draws its model, j ~ U{1..K}, unless that is the full set's or
    the source's cluster's; and its background, if there are any."""
    jobs = []
    sources = patients.sources(pairs.names, pairs.file, settings.sources, settings.draw_sources)
    for sample in range(1, settings.samples + 1):
        for index, name in ((index, pairs.names[index]) for index in sources):
            own = seeds.derive(seed, "inpaint", data_type.name, name, sample)
            cluster = int(clusters.labels[index])
            j = int(seeds.rng(own, "model").integers(clusters.k)) if settings.model_of == "any" else cluster
            model = FULL if data_type.full else cluster_model(j)
            picture = seeds.rng(own, "background").choice(backgrounds) if backgrounds else ""
            jobs.append(Job(index, f"{name}_{sample}", name, cluster, model, sample, own, str(picture)))
    return jobs


def decisive(settings: Inpaint) -> Recipe:
    """The parameters that decide what a pair is like, as a recipe names them."""
    chosen = {key: value for key, value in plain(settings).items() if key not in IRRELEVANT}
    # Newer parameters are named only where they do something, so that older finished pairs still hold.
    usual = {"clip": True, "seamless": False, "classes": None, "turn": masks.ANY, "within": None}
    if settings.masks != VARIED:
        del chosen["turn"]  # no other masks are turned
    return {name: value for name, value in chosen.items() if name not in usual or value != usual[name]}


def _recipe(ws: Workspace, pairs: Pairs, jobs: list[Job], models: Trained, scenes: Scenes) -> Recipe:
    return {"version": VERSION, "pairs": pairs.digest, "seed": ws.seed, "weights": models.weights,
            "inpaint": {**decisive(scenes.settings), **scenes.recipe},
            "jobs": {job.name: job.model for job in jobs},
            "models": {name: models[name].sha256 for name in sorted({job.model for job in jobs})}}


def make_batch(ws: Workspace, jobs: list[Job], keys: list[str], folder: Path, scenes: Scenes,
               models: dict[str, Path], weights: str) -> None:
    """Inpaint one batch with one model and write its pairs."""
    began, scene = time.monotonic(), scenes.scene(jobs)
    able = scene.possible
    made = dict(zip(able, _painted(ws, [jobs[i] for i in able], scene.take(able), scenes,
                                   models[jobs[0].model], weights), strict=True))
    seconds = (time.monotonic() - began) / len(jobs)
    for i, (job, key) in enumerate(zip(jobs, keys, strict=True)):
        pair = made.get(i)
        after = _area(pair[1], scene.chosen) if pair else 0.0
        row = {**job.origin, "area_before": _area(scene.pictures.masks[i], scene.chosen), "area_after": after,
               **scene.rows[i]}
        # Without an object there is nothing to learn from: such a pair gets a row in left_out.csv, no files.
        has_object = pair is not None and planes.only(pair[1], scene.chosen).any()
        pairsets.keep(folder, job.name, key, row, pair if has_object else None, seconds,
                      device=devices.name(ws.device, scenes.settings.precision))


def _area(masks: np.ndarray, chosen: Chosen) -> float:
    """The share of an image that the chosen classes of its masks (M, S, S) cover."""
    return round(float(planes.union(planes.only(masks, chosen)).mean()), 6)


def _painted(ws: Workspace, jobs: list[Job], scene: Scene, scenes: Scenes, path: Path,
             weights: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (C, S, S) uint8 and masks (M, S, S) in {0, 1} of a scene, by the model of a file."""
    if not jobs:
        return []
    settings, device = scenes.settings, devices.device(ws.device)
    model = checkpoints.load(path, weights, device, settings.precision)
    diffusion = replace(model, clip=settings.clip).respaced(settings.respacing)
    levels = repaint_levels(settings.respacing, settings.jump_length, settings.resampling)
    generators = [seeds.generator(job.seed, "noise", device=device) for job in jobs]
    with progress.bar(jobs[0].model, network_calls(levels) * len(jobs), "call") as bar:
        if scenes.window:
            painted = spots.paint(diffusion, scene.spots, scenes.window, settings, generators, bar.update)
        else:
            x_known = scene.x.to(device)
            guided = diffusion.towards(scene.x[:, diffusion.planes.channels:], scenes.guidance_scale,
                                       scene.rest)
            x = repaint(guided, x_known, scene.known.to(device), levels, generators,
                        samplers.named(settings.sampler), bar.update)
            painted = _whole(scene, to_array(x), settings, diffusion.planes.overlap)
    images, numbers = (np.stack(parts) for parts in zip(*painted, strict=True))
    masks = planes.separate(numbers, diffusion.planes.classes)
    return list(zip(windows.bars_kept(images, scene.pictures), windows.bars_empty(masks, scene.pictures),
                    strict=True))


def _whole(scene: Scene, samples: np.ndarray, settings: Inpaint,
           overlap: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (C, S, S) uint8 and class numbers (S, S) from samples (B, C + M, S, S) of whole pictures."""
    channels = scene.pictures.planes.channels
    filled = seamless.filled(dataset.to_bytes(samples[:, :channels]), scene.pictures.images, scene.region,
                             settings.seamless, None if scene.masks is None or scene.chosen is None
                             else list(planes.numbered(scene.masks)))
    rest = planes.without(scene.pictures.masks, scene.chosen)
    drawn = ([regions.drawn(sample, stays, settings.opening, overlap, scene.chosen)
              for sample, stays in zip(samples[:, channels:], rest, strict=True)]
             if scene.masks is None else planes.numbered(scene.masks))
    return list(zip(filled, drawn, strict=True))
