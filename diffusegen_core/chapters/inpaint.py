"""Chapter 3: new polyps and their masks, painted into real images (RePaint; paper 2.4, A.2).

All four channels are known outside the source's mask, widened; inside, image and mask are generated together.
Every image has a seed and noise of its own: batch size, order, shards and interruptions do not change it.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters import cluster, train
from diffusegen_core.config import devices
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import FULL_SIZE, Inpaint
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.data.pairsets import Job
from diffusegen_core.diffusion import checkpoints, process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import runs, seeds

VERSION = 1  # raised when the same parameters would give other pairs
MANIFEST = [*pairsets.ORIGIN, "area_before", "area_after"]


@dataclass(frozen=True)
class Inpainted:
    """Dataset folders by data type ("20-Diff", "Full-Diff"), each with a manifest: a row a synthetic pair."""

    folders: dict[str, Path]
    manifests: dict[str, pd.DataFrame]
    seconds: float

    @property
    def table(self) -> pd.DataFrame:
        """A row a data type: pairs, sources, pairs left out for empty masks, areas (shares of the image)."""
        return pd.DataFrame([{
            "data type": name, "pairs": len(m), "sources": m["source"].nunique(),
            "models": m["model"].nunique(), "empty masks": len(pairsets.left_out(self.folders[name])),
            "mean area before": m["area_before"].mean(), "mean area after": m["area_after"].mean(),
        } for name, m in self.manifests.items()]).set_index("data type")


def ellipse(pixels_at_full_size: int, image_size: int) -> np.ndarray:
    """A morphology kernel given for 256 px, scaled to the image at hand."""
    side = max(1, round(pixels_at_full_size * image_size / FULL_SIZE))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def dilated(mask: np.ndarray, settings: Inpaint) -> np.ndarray:
    """The region to fill: the mask (S, S) in {0, 1}, widened so that no rim of the old polyp stays known."""
    return cv2.dilate(mask, ellipse(settings.dilate, mask.shape[-1]))


def refined(channel: np.ndarray, settings: Inpaint) -> np.ndarray:
    """The generated mask channel (S, S) in [-1, 1], opened against specks, cut at its mid-value: {0, 1}."""
    kernel = ellipse(settings.opening, channel.shape[-1])
    anchor = (len(kernel) - 1) // 2
    # Dilated by the mirrored kernel: OpenCV's own opening moves the mask by a pixel where the side is even,
    # and so out of the region.
    opened = cv2.dilate(cv2.erode(channel, kernel), kernel[::-1, ::-1].copy(), anchor=(anchor, anchor))
    return (opened > 0).astype(np.uint8)


def plan(p: Params, data_type: str, names: list[str], labels: list[int], k: int) -> list[Job]:
    """Every pair of a data type, its model drawn from its own seed: j ~ U{1..K}, or the source's cluster."""
    jobs = []
    for sample in range(1, p.inpaint.samples + 1):
        for index, name in list(enumerate(names))[:p.inpaint.sources]:
            seed = seeds.derive(p.seed, "inpaint", data_type, name, sample)
            j = int(seeds.rng(seed, "model").integers(k)) if p.inpaint.model_of == "any" else labels[index]
            model = train.FULL if data_type.startswith("Full") else f"cluster-{j:02d}"
            jobs.append(Job(index, f"{name}_{sample}", name, labels[index], model, sample, seed))
    return jobs


@fanout.alone
def run(p: Params) -> Inpainted:
    """Make every pair that is not there yet, and the dataset folders with their manifests."""
    clusters, trained, pairs = cluster.run(p), train.run(p), dataset.load(p)
    models = {m.name: m for m in trained.all}
    types = [f"{clusters.k}-Diff"] + (["Full-Diff"] if trained.full else [])
    folders, manifests, seconds = {}, {}, 0.0
    for data_type in types:
        jobs = plan(p, data_type, pairs.names, [int(label) for label in clusters.labels], clusters.k)
        folder = p.folder / "inpaint" / data_type
        recipe = {"version": VERSION, "pairs": pairs.digest, "seed": p.seed, "process": plain(p.process),
                  "weights": p.train.sample_weights, "inpaint": {
                      k: v for k, v in plain(p.inpaint).items()
                      if k not in ("samples", "sources", "model_of", "batch_size")},
                  "jobs": {job.name: job.model for job in jobs},
                  "models": {name: runs.stamped_hash(models[name].path)
                             for name in sorted({j.model for j in jobs})}}
        stamp = runs.current(folder, recipe) or make(p, data_type, jobs, recipe, folder)
        folders[data_type], seconds = folder, seconds + stamp["seconds"]
        manifests[data_type] = pairsets.manifest(folder)
    return Inpainted(folders, manifests, seconds)


def make(p: Params, data_type: str, jobs: list[Job], recipe: runs.Recipe, folder: Path) -> dict[str, Any]:
    """Make the missing pairs, then the manifest and the stamp."""
    rows = pairsets.complete(f"Inpainting {data_type}", folder, jobs, recipe, p.inpaint.batch_size,
                             make_batch, p=p)
    return pairsets.finish(folder, recipe, rows, MANIFEST)


def make_batch(p: Params, jobs: list[Job], keys: list[str], folder: Path) -> None:
    """Inpaint one batch with one model and write its pairs."""
    began = time.monotonic()
    device = devices.device(p.device)
    diffusion = painter(p, jobs[0].model, p.inpaint.precision).respaced(p.inpaint.respacing)
    levels = repaint_levels(p.inpaint.respacing, p.inpaint.jump_length, p.inpaint.resampling)
    pairs = dataset.load(p).take([job.index for job in jobs])
    regions = np.stack([dilated(mask[0], p.inpaint) for mask in pairs.masks])[:, None]
    known = torch.from_numpy(1 - regions).float().to(device)
    generators = [seeds.generator(job.seed, "noise", device=device) for job in jobs]
    with progress.bar(jobs[0].model, network_calls(levels) * len(jobs), "call") as bar:
        x = repaint(diffusion, dataset.to_tensor(pairs).to(device), known, levels, generators,
                    tick=bar.update)
    x = x.float().cpu().numpy()
    seconds = (time.monotonic() - began) / len(jobs)
    for job, key, sample, source, mask, region in zip(
            jobs, keys, x, pairs.images, pairs.masks, regions, strict=True):
        write_pair(job, key, sample, source, mask, region, p, folder, seconds)


def painter(p: Params, model: str, precision: str) -> Diffusion:
    """A finished model of chapter 2 by its name, on the run's device."""
    path, device = p.folder / "train" / model / train.WEIGHTS, devices.device(p.device)
    net = checkpoints.load_net(path, p, device).fixed(precision)
    return Diffusion(net, process.schedule(p.process).to(device), p.process.objective, precision=precision)


def write_pair(job: Job, key: str, sample: np.ndarray, source: np.ndarray, mask: np.ndarray,
               region: np.ndarray, p: Params, folder: Path, seconds: float) -> None:
    """One synthetic pair as 8-bit PNGs; outside the region the image's bytes are the source's own."""
    image = np.where(region > 0, dataset.to_bytes(sample[:3]), source)
    new_mask = refined(sample[3], p.inpaint)
    row = {**job.origin, "area_before": round(float(mask.mean()), 6),
           "area_after": round(float(new_mask.mean()), 6)}
    # Without a polyp there is nothing to learn from: such a pair has a row in left_out.csv, and no files.
    pairsets.keep(folder, job.name, key, row, (image, new_mask[None]) if new_mask.any() else None, seconds,
                  device=devices.name(p.device))
