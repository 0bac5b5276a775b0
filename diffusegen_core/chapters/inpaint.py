"""Chapter 3: new polyps and their masks, painted into real images (RePaint; paper 2.4, A.2).

All four channels are known outside the source's mask, widened; inside, image and mask are generated together.
Every image has a seed and noise of its own: batch size, order, shards and interruptions do not change it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.costs import PAIR, Cost, Work
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, pairsets, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import Job, PairSet, PairSets
from diffusegen_core.data.types import DIFF, FULL, DataType, cluster_model, painted
from diffusegen_core.diffusion import checkpoints, samplers
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels
from diffusegen_core.parallel import progress
from diffusegen_core.segmentation.trainsets import Supply
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other pairs
MANIFEST = [*pairsets.ORIGIN, "area_before", "area_after"]
# Parameters that decide which pairs are made, or nothing but rounding, and not what a pair is like.
IRRELEVANT = ("samples", "sources", "model_of", "batch_size")


@dataclass(frozen=True)
class Inpainted(PairSets):
    """The synthetic pairs by data type: K-Diff, and Full-Diff where there is a model of the full set."""

    @property
    def table(self) -> pd.DataFrame:
        """A row a data type: pairs, their sources and models, pairs left out for empty masks, mean areas of
        the masks (shares of the image) before and after."""
        return self.described(lambda one: {
            "sources": one.manifest["source"].nunique(), "models": one.manifest["model"].nunique(),
            "empty masks": len(one.left_out), "mean area before": one.manifest["area_before"].mean(),
            "mean area after": one.manifest["area_after"].mean()})


def run(ws: Workspace, pairs: Pairs, clusters: Clusters, models: Trained, settings: Inpaint) -> Inpainted:
    """Make every pair that is not there yet, and the dataset folders with their manifests."""
    return Inpainted({data_type: _set(ws, data_type, pairs, clusters, models, settings)
                      for data_type in painted(clusters.k, models.full is not None)})


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as it can be told before."""
    yield from refusals([lambda: samplers.named(p.inpaint.sampler)], "inpaint.sampler")


def costs(settings: Inpaint, supply: Supply, image_size: int, work: Work) -> Iterator[Cost]:
    """The chapter's work items, batches of pairs."""
    calls = network_calls(repaint_levels(settings.respacing, settings.jump_length, settings.resampling))
    for data_type, amount in supply.items():
        if data_type.kind == DIFF:
            pairs = amount.sources * amount.samples
            yield Cost("3 inpaint", f"{data_type}, {calls} calls each", "sampling", pairs, pairs * calls,
                       pairs * calls * work.unet.call,
                       min(pairs, settings.batch_size) * calls * work.unet.call,
                       pairs * PAIR * image_size**2)


def _set(ws: Workspace, data_type: DataType, pairs: Pairs, clusters: Clusters, models: Trained,
         settings: Inpaint) -> PairSet:
    jobs = plan(ws.seed, data_type, pairs.names, clusters, settings)
    artifact = ws.artifact(data_type.artifact, _recipe(ws, pairs, jobs, models, settings))
    if not artifact.made():
        pairsets.make(artifact, f"Inpainting {data_type}", jobs, settings.batch_size, make_batch, MANIFEST,
                      ws=ws, pairs=pairs.stored, settings=settings, weights=models.weights,
                      models={name: models[name].path for name in artifact.recipe["models"]})
    return pairsets.read(artifact, data_type)


def plan(seed: int, data_type: DataType, names: list[str], clusters: Clusters,
         settings: Inpaint) -> list[Job]:
    """Every pair of a data type, its model drawn from its own seed: j ~ U{1..K}, or the source's cluster."""
    jobs = []
    for sample in range(1, settings.samples + 1):
        for index, name in list(enumerate(names))[:settings.sources]:
            own = seeds.derive(seed, "inpaint", data_type.name, name, sample)
            cluster = int(clusters.labels[index])
            j = int(seeds.rng(own, "model").integers(clusters.k)) if settings.model_of == "any" else cluster
            model = FULL if data_type.full else cluster_model(j)
            jobs.append(Job(index, f"{name}_{sample}", name, cluster, model, sample, own))
    return jobs


def _recipe(ws: Workspace, pairs: Pairs, jobs: list[Job], models: Trained, settings: Inpaint) -> Recipe:
    return {"version": VERSION, "pairs": pairs.digest, "seed": ws.seed, "weights": models.weights,
            "inpaint": {key: value for key, value in plain(settings).items() if key not in IRRELEVANT},
            "jobs": {job.name: job.model for job in jobs},
            "models": {name: models[name].sha256 for name in sorted({job.model for job in jobs})}}


def make_batch(ws: Workspace, jobs: list[Job], keys: list[str], folder: Path, pairs: Path,
               models: dict[str, Path], weights: str, settings: Inpaint) -> None:
    """Inpaint one batch with one model and write its pairs."""
    began = time.monotonic()
    device = devices.device(ws.device)
    diffusion = checkpoints.load(models[jobs[0].model], weights, device,
                                 settings.precision).respaced(settings.respacing)
    levels = repaint_levels(settings.respacing, settings.jump_length, settings.resampling)
    sources = dataset.read(pairs).take([job.index for job in jobs])
    filled = regions.all_dilated(sources.masks, settings.dilate)[:, None]
    known = torch.from_numpy(1 - filled).float().to(device)
    generators = [seeds.generator(job.seed, "noise", device=device) for job in jobs]
    with progress.bar(jobs[0].model, network_calls(levels) * len(jobs), "call") as bar:
        x = repaint(diffusion, dataset.to_tensor(sources).to(device), known, levels, generators,
                    samplers.named(settings.sampler), bar.update)
    samples = x.float().cpu().numpy()
    seconds = (time.monotonic() - began) / len(jobs)
    for i, (job, key) in enumerate(zip(jobs, keys, strict=True)):
        image = np.where(filled[i] > 0, dataset.to_bytes(samples[i, :3]), sources.images[i])
        mask = regions.opened(samples[i, 3], settings.opening)
        row = {**job.origin, "area_before": round(float(sources.masks[i].mean()), 6),
               "area_after": round(float(mask.mean()), 6)}
        # Without a polyp there is nothing to learn from: such a pair has a row in left_out.csv, and no files.
        pairsets.keep(folder, job.name, key, row, (image, mask[None]) if mask.any() else None, seconds,
                      device=devices.name(ws.device))
