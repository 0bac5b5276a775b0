"""Chapter 4: the inpainted images, guided back towards the real image that they came from (paper 2.4, A.3).

An inpainted pair is noised part of the way and denoised again by the model that painted it; in each step the
losses of `guidance` pull. The mask stays. As in chapter 3, a pair depends on its own seed alone.
"""

import time
from collections.abc import Callable
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
from diffusegen_core.config.sections import FULL_STEPS, Style
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.data.pairsets import Job
from diffusegen_core.diffusion import colour, guidance, process
from diffusegen_core.networks import features, vgg
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import runs, seeds

VERSION = 1  # raised when the same parameters would give other pairs
OK = "ok"
MANIFEST = [*pairsets.ORIGIN, "area", "mask_dice", "cls_before", "cls_after", "seam_before", "seam_after",
            "status"]
PULLS = [f"pull_{name}" for name in guidance.TERMS]
STEPS = ["name", "step", "level", *guidance.TERMS, "total", *PULLS, "shift", "noise"]
COLUMNS = {"name": str, **dict.fromkeys(STEPS[1:], float)}
Record = dict[str, float | int]


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
    net = inpaint.painter(p, jobs[0].model, p.style.precision)
    net.checkpointing = p.style.checkpointing
    judge = guidance.load(p, net, device)
    real = dataset.load(p).take([job.index for job in jobs])
    painted = pairsets.load(origin, [job.name for job in jobs])
    s = process.schedule(p.process, p.style.respacing).to(device)
    levels = list(reversed(range(p.style.respacing - p.style.skip)))
    generators = [seeds.generator(job.seed, "noise", device=device) for job in jobs]
    with (progress.bar(jobs[0].model, len(levels) * len(jobs), "step") as bar,
          devices.exact(), devices.autocast(device, p.style.precision)):
        x, records, status = guided(judge, s, dataset.to_tensor(painted).to(device),
                                    dataset.to_tensor(real)[:, :3].to(device), levels, generators,
                                    p.process.objective, bar.update)
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


# x_t -> x' ~ p(x_{t-1} | x_t), then x_{t-1} = x' - shift of the losses' gradient with respect to x_t (A.3)
def guided(judge: guidance.Judge, s: process.Schedule, inpainted: Tensor, source: Tensor, levels: list[int],
           generators: list[torch.Generator], objective: str,
           tick: Callable[[int], object] | None = None) -> tuple[Tensor, list[list[Record]], list[str]]:
    """Guide inpainted images (B, 4, H, W) towards their sources (B, 3, H, W), from the noisiest level down.

    Gives the images (B, 4, H, W), and for each the losses of its steps and its status. An image whose loss or
    gradient is not finite is stopped there: its status names the step and the loss, the others go on.
    """
    with torch.no_grad():
        targets = guidance.Targets(inpainted, source, judge.cls(source))
        cls = judge.cls(inpainted[:, :3])
    start = torch.full((len(inpainted),), levels[0], device=inpainted.device)
    x = process.noised(s, inpainted, start, seeds.normal_like(generators, inpainted))
    alive, tables = torch.ones_like(start, dtype=torch.bool), []
    for step, level in enumerate(levels):
        wanted = guidance.weights(judge.settings, step)
        x, cls, found = guided_step(judge, s, targets, x, level, cls, wanted, generators, objective)
        alive = alive & torch.stack(list(found.values())).isfinite().all(dim=0)
        x = torch.where(alive[:, None, None, None], x, torch.zeros_like(x))
        tables.append(found)  # read after the last step: reading waits for the device
        if tick:
            tick(len(x))
    return x, *told(tables, levels)


def told(tables: list[dict[str, Tensor]], levels: list[int]) -> tuple[list[list[Record]], list[str]]:
    """Each image's records and status, from the (B,) values of every step."""
    count = len(next(iter(tables[0].values())))
    records, status = [[] for _ in range(count)], [OK] * count
    for step, (found, level) in enumerate(zip(tables, levels, strict=True), 1):
        table = {name: column.tolist() for name, column in found.items()}
        for i, ended in enumerate(status):
            wrong = [name for name, column in table.items() if not np.isfinite(column[i])]
            if ended == OK and wrong:
                status[i] = f"stopped in step {step} of {len(levels)}: not finite: {', '.join(wrong)}"
            elif ended == OK:
                records[i].append({"step": step, "level": level,
                                   **{name: significant(column[i]) for name, column in table.items()}})
    return records, status


def guided_step(judge: guidance.Judge, s: process.Schedule, targets: guidance.Targets, x: Tensor, level: int,
                previous_cls: Tensor, wanted: dict[str, float], generators: list[torch.Generator],
                objective: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """One step down: the images, their [CLS], and (B,) each the wanted losses and what came of them.

    The losses see the mix s x0_hat + (1 - s) x_t, s = sqrt(1 - alpha_bar_t), and the content to keep is mixed
    with a noised copy of itself in the same way, as in the authors' code. They see x0_hat as predicted; the
    step itself clips it to [-1, 1], as chapter 3 does.
    """
    x = x.detach().requires_grad_()
    t = torch.full((len(x),), level, device=x.device)
    output = process.call(judge.net, s, x, t)
    x0 = process.interpret(s, x, t, output, objective, clip=False).x0
    part = process.at((1 - s.alpha_bar).sqrt(), t)
    mixed = part * x0 + (1 - part) * x
    noised = process.noised(s, targets.inpainted, t, seeds.normal_like(generators, x))
    reference = part * targets.inpainted + (1 - part) * noised

    seen_x0, seen = (image.detach().requires_grad_() for image in (x0, mixed))
    cls = judge.cls(seen[:, :3])
    found = guidance.values(judge, targets, wanted, seen_x0, seen, reference, cls, previous_cls, generators)
    pulls = guidance.pulls(found, wanted, seen_x0, seen)
    with torch.no_grad():
        r = process.interpret(s, x, t, output, objective)
        x_next = process.denoised_once(r, t, seeds.normal_like(generators, x))
    shift = back(pulls, x0, mixed, x, r.log_variance, judge.settings)
    found = {**found, "total": guidance.total(found, wanted),
             **{f"pull_{name}": guidance.rms(strength(r.log_variance, judge.settings) * pull)
                for name, pull in pulls.items()},
             "shift": guidance.rms(shift), "noise": guidance.rms((r.log_variance / 2).exp())}
    return x_next - shift, cls.detach(), {name: column.detach() for name, column in found.items()}


# paper: x_{t-1} = x' - gradient (A.3); the authors' code: x_{t-1} = x' - variance * gradient
def strength(log_variance: Tensor, settings: Style) -> Tensor:
    """What a gradient is multiplied by. The paper's 1 is for 200 steps; a longer step counts for several."""
    if settings.guidance == "variance":
        return log_variance.exp()
    return torch.full_like(log_variance, FULL_STEPS / settings.respacing)


def back(pulls: dict[str, Tensor], x0: Tensor, mixed: Tensor, x: Tensor, log_variance: Tensor,
         settings: Style) -> Tensor:
    """The shift (B, 4, H, W) that a step subtracts: the pulls on x0 and the mix, taken back to x_t.

    Where `max_shift` is set, neither one loss's pull nor the shift has a larger RMS than that many times the
    step's noise: no loss drowns the others, and the next level gets an image about as noisy as it expects.
    """
    factor = strength(log_variance, settings)
    if settings.max_shift is not None:
        most = settings.max_shift * guidance.rms((log_variance / 2).exp())
        pulls = {name: guidance.limited(pull, most / guidance.rms(factor)) for name, pull in pulls.items()}
    on_x0 = pulls.get("rng", torch.zeros_like(x0))
    on_mixed = sum((pull for name, pull in pulls.items() if name != "rng"), torch.zeros_like(x0))
    gradient, = torch.autograd.grad([x0, mixed], x, [on_x0, on_mixed])
    shift = factor * gradient
    return shift if settings.max_shift is None else guidance.limited(shift, most)


def finished(image: np.ndarray, source: np.ndarray, settings: Style) -> np.ndarray:
    """The styled image (3, S, S) as uint8, with the colours of its source (3, S, S) uint8 if asked."""
    image = image.clip(-1, 1)
    if settings.colour_transfer:
        image = colour.transfer(image, source / 127.5 - 1)
    return dataset.to_bytes(image)


@torch.no_grad()
def measured(judge: guidance.Judge, x: Tensor, styled: np.ndarray, painted: dataset.Pairs, real: dataset.Pairs,
             p: Params) -> dict[str, list[float]]:
    """The manifest's measures: x (B, 4, S, S) is as the last step left it, styled (B, 3, S, S) uint8."""
    def cls(images: np.ndarray) -> Tensor:
        return judge.cls(torch.from_numpy(images).float().to(x.device) / 127.5 - 1)

    regions = [inpaint.dilated(mask[0], p.inpaint) for mask in real.masks]
    drawn = [inpaint.refined(sample, p.inpaint) for sample in x[:, 3].float().cpu().numpy()]
    source = cls(real.images)
    return {
        "mask_dice": [dice(a, b[0]) for a, b in zip(drawn, painted.masks, strict=True)],
        "cls_before": guidance.sty_loss(cls(painted.images), source).tolist(),
        "cls_after": guidance.sty_loss(cls(styled), source).tolist(),
        "seam_before": [seam(a, b) for a, b in zip(painted.images, regions, strict=True)],
        "seam_after": [seam(a, b) for a, b in zip(styled, regions, strict=True)],
    }


def significant(value: float) -> float:
    """The value to six figures, for files."""
    return float(f"{value:.6g}")


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
