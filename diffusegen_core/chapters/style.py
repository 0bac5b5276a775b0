"""Chapter 4: the inpainted images, guided back towards the real image that they came from (paper 2.4, A.3).

An inpainted pair is noised part of the way and denoised again by the model that painted it; in each step the
losses of `diffusion.losses` pull. The mask stays. As in chapter 3, a pair depends on its own seed alone.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffusegen_core.chapters import inpaint
from diffusegen_core.config import devices
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Style
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.data.pairsets import Job
from diffusegen_core.diffusion import colour, losses
from diffusegen_core.diffusion.guided import MEASURED, OK, Judge, guided, load_judge, significant
from diffusegen_core.networks import features, vgg
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import runs, seeds

VERSION = 1  # raised when the same parameters would give other pairs
MANIFEST = [*pairsets.ORIGIN, "area", "mask_dice", "cls_before", "cls_after", "seam_before", "seam_after",
            "status"]
STEPS = ["name", "step", "level", *MEASURED]
COLUMNS = {"name": str, **dict.fromkeys(STEPS[1:], float)}


@dataclass(frozen=True)
class Styled:
    """Dataset folders by data type ("20-Styled-Diff"), their manifests, and the losses of every step.

    A manifest has one row a pair: Dice of its mask with what styling made of the mask channel; [CLS] distance
    to the source, and contrast at the border of the filled region, before and after. A pair that was stopped
    has no files, but a row in `left_out` whose `status` says why.
    """

    folders: dict[str, Path]
    origins: dict[str, Path]  # the inpainted pairs' folders
    manifests: dict[str, pd.DataFrame]
    left_out: dict[str, pd.DataFrame]
    steps: dict[str, pd.DataFrame]  # columns as STEPS; losses unweighted, the last three RMS over an image
    backbone: str  # in words
    vgg: str
    seconds: float

    @property
    def table(self) -> pd.DataFrame:
        """One row a data type; distances and contrasts are means over the pairs."""
        return pd.DataFrame([{
            "data type": name, "pairs": len(m), "stopped": len(self.left_out[name]),
            **{f"{measure} {when}": m[f"{column}_{when}"].mean() for measure, column in
               (("[CLS] distance", "cls"), ("seam", "seam")) for when in ("before", "after")},
            "mask Dice": m["mask_dice"].mean(),
        } for name, m in self.manifests.items()]).set_index("data type")


def of(inpainted: str) -> str:
    """The data type that styling makes of one: "20-Styled-Diff" of "20-Diff"."""
    return inpainted.replace("Diff", "Styled-Diff")


def plan(p: Params, data_type: str, inpainted: pd.DataFrame, names: list[str]) -> list[Job]:
    """Every inpainted pair of a manifest, to be styled by the model that painted it."""
    index = {name: i for i, name in enumerate(names)}
    return [Job(index[row.source], row.name, row.source, int(row.source_cluster), row.model, int(row.sample),
                seeds.derive(p.seed, "style", data_type, row.source, row.sample))
            for row in inpainted.itertuples(index=False)]


@fanout.alone
def run(p: Params) -> Styled:
    """Style every inpainted pair that is not styled yet; write the dataset folders with their manifests."""
    made, pairs = inpaint.run(p), dataset.load(p)
    folders, manifests, left_out, steps, seconds = {}, {}, {}, {}, 0.0
    origins = {of(name): folder for name, folder in made.folders.items()}
    for data_type, origin in origins.items():
        folder = p.folder / "style" / data_type
        jobs = plan(p, data_type, pairsets.manifest(origin), pairs.names)
        recipe = decided_by(p, jobs, pairs.digest, runs.read_json(origin / runs.STAMP))
        stamp = runs.current(folder, recipe) or make(p, data_type, jobs, recipe, folder, origin)
        folders[data_type], manifests[data_type] = folder, pairsets.manifest(folder)
        left_out[data_type] = pairsets.left_out(folder)
        steps[data_type] = pd.read_csv(folder / "steps.csv", dtype=COLUMNS).set_index("name")
        seconds += stamp["seconds"]
    return Styled(folders, origins, manifests, left_out, steps,
                  features.label(p.style.backbone, p.style.weights),
                  features.label(p.style.vgg, p.style.vgg_weights), seconds)


def decided_by(p: Params, jobs: list[Job], pairs: str, inpainted: dict[str, Any]) -> runs.Recipe:
    """The recipe of a styled set, from the digest of the real pairs and the stamp of the inpainted ones."""
    files = {name: file["sha256"] for name, file in inpainted["outputs"].items()}
    return {
        "version": VERSION, "pairs": pairs, "seed": p.seed, "process": plain(p.process),
        "weights": p.train.sample_weights,
        "ellipses": [p.inpaint.dilate, p.inpaint.opening],
        "style": {key: value for key, value in plain(p.style).items()
                  if key not in ("weights", "vgg_weights", "batch_size", "checkpointing")},
        "backbone": features.recipe(p.style.backbone, p.style.weights, p.style.input_range, p.seed),
        "vgg": vgg.recipe(p.style.vgg, p.style.vgg_weights, p.seed) if p.style.lambda_vgg else None,
        "jobs": {job.name: [job.model, *(files[f"{kind}/{job.name}.png"] for kind in pairsets.KINDS)]
                 for job in jobs},
        "models": {job.model: inpainted["recipe"]["models"][job.model] for job in jobs}}


def make(p: Params, data_type: str, jobs: list[Job], recipe: runs.Recipe, folder: Path,
         origin: Path) -> dict[str, Any]:
    """Style the missing pairs, then write the manifest, the losses of every step and the stamp."""
    rows = pairsets.complete(f"Styling {data_type}", folder, jobs, recipe, p.style.batch_size, make_batch,
                             p=p, origin=origin)
    records = [{"name": row["row"]["name"], **record} for row in rows for record in row["steps"]]
    frame = pd.DataFrame(records, columns=STEPS)
    steps = runs.write(folder / "steps.csv", lambda file: frame.to_csv(file, index=False))
    return pairsets.finish(folder, recipe, rows, MANIFEST, [steps])


def make_batch(p: Params, jobs: list[Job], keys: list[str], folder: Path, origin: Path) -> None:
    """Style one batch with one model and write its pairs."""
    began = time.monotonic()
    device = devices.device(p.device)
    diffusion = inpaint.painter(p, jobs[0].model, p.style.precision).respaced(p.style.respacing)
    diffusion.net.checkpointing = p.style.checkpointing
    judge = load_judge(p.style, p.model, p.seed, device)
    real = dataset.load(p).take([job.index for job in jobs])
    painted = pairsets.load(origin, [job.name for job in jobs])
    levels = list(reversed(range(p.style.respacing - p.style.skip)))
    generators = [seeds.generator(job.seed, "noise", device=device) for job in jobs]
    with progress.bar(jobs[0].model, len(levels) * len(jobs), "step") as bar:
        x, records, status = guided(diffusion, judge, dataset.to_tensor(painted).to(device),
                                    dataset.to_tensor(real)[:, :3].to(device), levels, generators, bar.update)
    styled = np.stack([finished(sample[:3], source, p.style)
                       for sample, source in zip(x.float().cpu().numpy(), real.images, strict=True)])
    measures = measured(judge, x, styled, painted, real, p)
    seconds = (time.monotonic() - began) / len(jobs)
    for i, (job, key) in enumerate(zip(jobs, keys, strict=True)):
        good = status[i] == OK
        mask = painted.masks[i]
        row = {**job.origin, "area": round(float(mask.mean()), 6),
               **{name: significant(column[i]) if good else None for name, column in measures.items()},
               "status": status[i]}
        pairsets.keep(folder, job.name, key, row, (styled[i], mask) if good else None, seconds,
                      steps=records[i], device=devices.name(p.device))


def finished(image: np.ndarray, source: np.ndarray, settings: Style) -> np.ndarray:
    """The styled image (3, S, S) as uint8, with the colours of its source (3, S, S) uint8 if asked."""
    image = image.clip(-1, 1)
    if settings.colour_transfer:
        image = colour.transfer(image, source / 127.5 - 1)
    return dataset.to_bytes(image)


@torch.no_grad()
def measured(judge: Judge, x: Tensor, styled: np.ndarray, painted: dataset.Pairs, real: dataset.Pairs,
             p: Params) -> dict[str, list[float]]:
    """The manifest's measures: x (B, 4, S, S) is as the last step left it, styled (B, 3, S, S) uint8."""
    def cls(images: np.ndarray) -> Tensor:
        return judge.cls(torch.from_numpy(images).float().to(x.device) / 127.5 - 1)

    regions = [inpaint.dilated(mask[0], p.inpaint) for mask in real.masks]
    drawn = [inpaint.refined(sample, p.inpaint) for sample in x[:, 3].float().cpu().numpy()]
    source = cls(real.images)
    return {
        "mask_dice": [dice(a, b[0]) for a, b in zip(drawn, painted.masks, strict=True)],
        "cls_before": losses.sty_loss(cls(painted.images), source).tolist(),
        "cls_after": losses.sty_loss(cls(styled), source).tolist(),
        "seam_before": [seam(a, b) for a, b in zip(painted.images, regions, strict=True)],
        "seam_after": [seam(a, b) for a, b in zip(styled, regions, strict=True)],
    }


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """The Dice score of two masks in {0, 1}; 1 where both are empty."""
    return 2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum())) if a.any() or b.any() else 1.0


def seam(image: np.ndarray, region: np.ndarray) -> float:
    """The contrast of an image (3, S, S) uint8 at the border of the region (S, S) that was filled.

    The mean absolute difference, in grey levels, between neighbours of which one lies inside; 0 where the
    region has no border.
    """
    image, region = image.astype(np.float64), region.astype(bool)
    steps = [np.abs(image[:, 1:] - image[:, :-1])[:, region[1:] != region[:-1]],
             np.abs(image[:, :, 1:] - image[:, :, :-1])[:, region[:, 1:] != region[:, :-1]]]
    found = np.concatenate(steps, axis=1)
    return float(found.mean()) if found.size else 0.0
