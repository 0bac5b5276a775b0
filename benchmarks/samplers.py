"""Quality against network calls, with a trained run: samplers of whole pairs, and RePaint schedules.

    python benchmarks/samplers.py runs/kvasir_cpu --images 48 --repeats 3 --json samplers.json

For every sampler and number of steps, and for every RePaint schedule, the run's own models make --repeats
sets of images, always from the same seeds. Each set is compared with all real images by chapter 5's
distances; "of boxes" compares the boxes around the filled regions. A Fréchet distance depends on the size of
the set: rows compare only at equal --images. The row "real" has as many real images, drawn anew for each set;
"the sources themselves" are those that RePaint fills, unchanged; `--parts sources` measures only these two.
Distances are medians over sets, and seconds over batches, with the least and the largest.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffusegen_core.chapters import inpaint
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import DIFF, DataType
from diffusegen_core.diffusion import samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import levels_of
from diffusegen_core.diffusion.repaint import repaint, repaint_levels
from diffusegen_core.measures import metrics
from diffusegen_core.run import Run
from diffusegen_core.store import files, seeds

STEPS = [10, 25, 50, 100]
SCHEDULES = [(200, 10, 5), (100, 10, 5), (50, 10, 3), (50, 10, 1)]  # respaced steps, jump length, resampling
PARTS = ["sources", "sampling", "inpainting"]
MOST = 100  # a schedule may have at most so many times the network calls of the whole process


@dataclass
class Bench:
    """A run's models and real pairs, and how much to measure."""

    run: Run
    images: int
    repeats: int
    batch: int

    @property
    def p(self) -> Params:
        return self.run.params

    @cached_property
    def device(self) -> torch.device:
        return devices.device(self.p.device)

    @property
    def pairs(self) -> Pairs:
        return self.run.pairs

    @cached_property
    def regions(self) -> np.ndarray:
        """The regions (N, S, S) that chapter 3 fills, one for each real pair."""
        return regions.all_dilated(self.pairs.masks, self.p.inpaint.dilate)

    @cached_property
    def models(self) -> dict[str, Diffusion]:
        """The cluster models, by name, as chapter 3 samples with them."""
        return {model.name: self.run.models.load(model.name, self.p.device, self.p.inpaint.precision)
                for model in self.run.models.models}

    @cached_property
    def real(self) -> np.ndarray:
        return self.features(self.pairs.images)

    @cached_property
    def real_boxes(self) -> np.ndarray:
        return self.features(boxes(self.pairs.images, self.regions))

    def features(self, images: np.ndarray) -> np.ndarray:
        return metrics.extract(images, self.p.evaluate, self.device, self.p.seed)


@dataclass
class Made:
    """The images of one way to make them, set by set, and the seconds per image of each batch."""

    sets: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def timed(work: Callable[[], Tensor]) -> tuple[np.ndarray, float]:
    """The result of a batch as (B, 4, S, S) float32, and the seconds it took, copying included."""
    began = time.perf_counter()
    x = work().float().cpu().numpy()
    return x, time.perf_counter() - began


def batches(b: Bench, model_of: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """A set's images in batches of one model each: the model and the images' indices."""
    for model in dict.fromkeys(model_of):
        places = np.flatnonzero(np.array(model_of) == model)
        for first in range(0, len(places), b.batch):
            yield model, places[first:first + b.batch]


def sampled(b: Bench, name: str, steps: int) -> Made:
    """Whole pairs from noise; every cluster model makes the same share of a set."""
    p, made, side = b.p, Made(), b.p.data.image_size
    models = list(b.models)
    for repeat in range(b.repeats):
        images = np.empty((b.images, 3, side, side), np.uint8)
        for model, places in batches(b, [models[i % len(models)] for i in range(b.images)]):
            own = [seeds.generator(p.seed, "samplers", repeat, i, device=b.device) for i in places]
            diffusion = b.models[model].respaced(steps)
            x, seconds = timed(lambda diffusion=diffusion, own=own: samplers.sample(
                diffusion, (4, side, side), own, samplers.SAMPLERS[name]))
            images[places] = dataset.to_bytes(x[:, :3])
            made.seconds.append(seconds / len(places))
        made.sets.append(images)
    return made


def inpainted(b: Bench, respacing: int, jump: int, resampling: int) -> tuple[Made, dict[str, Any]]:
    """Pairs as chapter 3 makes them, by another schedule, and what `filled` and empty masks show of them."""
    settings = b.p.inpaint.model_copy(update={"samples": b.repeats, "sources": b.images})
    levels = repaint_levels(respacing, jump, resampling)
    jobs = inpaint.plan(b.p.seed, DataType(DIFF, str(b.p.cluster.k)), b.pairs, b.run.clusters, settings)
    made, empty = Made(), []
    for sample in range(1, b.repeats + 1):
        mine = [job for job in jobs if job.sample == sample]
        images, masks = b.pairs.images[:len(mine)].copy(), np.empty_like(b.regions[:len(mine)])
        for model, places in batches(b, [job.model for job in mine]):
            region = b.regions[places][:, None]
            known = torch.from_numpy(1 - region).float().to(b.device)
            clean = dataset.to_tensor(b.pairs.take(places)).to(b.device)
            own = [seeds.generator(mine[i].seed, "noise", device=b.device) for i in places]
            diffusion = b.models[model].respaced(respacing)
            x, seconds = timed(lambda diffusion=diffusion, clean=clean, known=known, own=own: repaint(
                diffusion, clean, known, levels, own))
            images[places] = np.where(region > 0, dataset.to_bytes(x[:, :3]), images[places])
            masks[places] = [regions.opened(channel, settings.opening) for channel in x[:, 3:]]
            made.seconds.append(seconds / len(places))
        made.sets.append(images)
        empty.append(float(np.mean([not mask.any() for mask in masks])))
    return made, {**filled(b, made), "empty masks": float(np.mean(empty))}


def filled(b: Bench, made: Made) -> dict[str, Any]:
    """Sets of the first sources, measured where chapter 3 fills them: distances of boxes, border contrast."""
    filling, boxed, seams = b.regions[:b.images], [], []
    for images in made.sets:
        boxed.append(metrics.frechet(b.features(boxes(images, filling)), b.real_boxes))
        seams.append(float(np.mean([regions.seam(*both) for both in zip(images, filling, strict=True)])))
    return {f"{metrics.names(b.p.evaluate)[0]} of boxes": spread(boxed), "seam": spread(seams)}


def boxes(images: np.ndarray, filling: np.ndarray) -> np.ndarray:
    """The bounding boxes of regions (N, S, S), cut from images (N, 3, S, S) uint8 and resized to S x S."""
    side, resized = images.shape[-1], []
    for image, region in zip(images, filling, strict=True):
        x, y, width, height = cv2.boundingRect(region) if region.any() else (0, 0, side, side)
        cut = np.ascontiguousarray(image[:, y:y + height, x:x + width].transpose(1, 2, 0))
        resized.append(cv2.resize(cut, (side, side), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1))
    return np.stack(resized)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": min(values), "largest": max(values)}


def row(b: Bench, what: str, calls: int, made: Made, **more: Any) -> dict[str, Any]:
    """One row of the table: the distances of all sets to all real images."""
    e, rows = b.p.evaluate, [b.features(images) for images in made.sets]
    frechet, kernel = metrics.names(e)
    found = {"what": what, "network calls": calls,
             frechet: spread([metrics.frechet(one, b.real) for one in rows]),
             kernel: spread([metrics.kernel(one, b.real, b.p.seed, e.kernel_subsets, e.kernel_size)
                             for one in rows])}
    if made.seconds:
        found["seconds an image"] = spread(made.seconds)
    return found | more


def warm(b: Bench) -> None:
    """Call each model once, since the first calls of a process are slow."""
    x = torch.zeros(min(b.batch, b.images), 4, *[b.p.data.image_size] * 2, device=b.device)
    for diffusion in b.models.values():
        with torch.inference_mode(), diffusion.autocast():
            timed(lambda diffusion=diffusion: diffusion.call(x, levels_of(0, x)))


def rows_of(b: Bench, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every row, the quickest of each part first."""
    drawn = [seeds.rng(b.p.seed, "samplers", "real", repeat).permutation(len(b.pairs))[:b.images]
             for repeat in range(b.repeats)]
    yield row(b, "real", 0, Made([b.pairs.images[places] for places in drawn]))
    if "sources" in asked.parts:
        made = Made([b.pairs.images[:b.images]])
        yield row(b, "the sources themselves", 0, made, **filled(b, made))
    if asked.parts != ["sources"]:
        warm(b)
    if "sampling" in asked.parts:
        for count in sorted(asked.steps):
            for name in samplers.SAMPLERS:
                yield row(b, f"{name} {count}", count, sampled(b, name, count))
    if "inpainting" in asked.parts:
        for given in sorted(asked.schedules, key=lambda given: network_calls(*given)):
            made, more = inpainted(b, *given)
            yield row(b, "RePaint " + "/".join(map(str, given)), network_calls(*given), made, **more)


def shown(rows: list[dict[str, Any]]) -> str:
    """The rows as text: median [least, largest]."""
    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return f"{value['median']:.4g} [{value['least']:.4g}, {value['largest']:.4g}]"
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    frame = pd.DataFrame([{name: cell(value) for name, value in row.items()} for row in rows])
    return frame.fillna("").to_string(index=False)


def schedule(text: str) -> tuple[int, int, int]:
    """Parse a RePaint schedule such as 200/10/5; ValueError if it is none."""
    respacing, jump, resampling = map(int, text.split("/"))
    return respacing, jump, resampling


def opened(asked: argparse.Namespace) -> Run:
    """The run on the requested device. UserError for steps and schedules that its parameters refuse."""
    run = Run.open(asked.run.resolve(), {"device": asked.device} if asked.device else None)
    p, values = run.params, params.plain(run.params)
    if "sampling" in asked.parts and max(asked.steps) > p.process.steps:
        raise UserError(f"{max(asked.steps)} steps are more than the {p.process.steps} of the run's process.")
    for given in asked.schedules if "inpainting" in asked.parts else ():
        changed = dict(zip(("respacing", "jump_length", "resampling"), given, strict=True))
        params.validate({**values, "inpaint": values["inpaint"] | changed})
        if (calls := network_calls(*given)) > MOST * p.process.steps:
            raise UserError(f"--schedules {'/'.join(map(str, given))} has {calls} network calls an image, "
                            f"more than {MOST} times the {p.process.steps} steps of the run's process.")
    return run


def network_calls(respacing: int, jump: int, resampling: int) -> int:
    """Network calls for an image by this schedule, without walking through it."""
    return respacing + len(range(0, respacing - jump, jump)) * (resampling - 1) * jump


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run with trained cluster models")
    parser.add_argument("--images", type=common.positive, default=48, help="images a set, at least 3")
    parser.add_argument("--repeats", type=common.positive, default=3, help="sets, each with other seeds")
    parser.add_argument("--batch", type=common.positive,
                        help="images a network call; the run's inpaint.batch_size")
    parser.add_argument("--steps", type=common.positive, nargs="+", default=STEPS,
                        action=common.Different, help="of the samplers")
    parser.add_argument("--schedules", type=schedule, nargs="+", default=SCHEDULES,
                        action=common.Different, help="respacing/jump_length/resampling")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, action=common.Different,
                        help="default: all")
    parser.add_argument("--device", help="the run's, or another: cpu, cuda")
    parser.add_argument("--json", type=common.target, help="write the table there, after every row")
    asked = parser.parse_args(given)
    if asked.images < 3:
        parser.error("--images must be 3 or more")
    return asked


def main(given: list[str] | None = None) -> None:
    asked = arguments(given)
    run = opened(asked)
    p, labels = run.params, run.clusters.labels
    b = Bench(run, min(asked.images, len(run.pairs)), asked.repeats, asked.batch or p.inpaint.batch_size)
    models = {model.name: model.sha256 for model in run.models.models}
    facts = {"benchmark": "samplers", "commit": common.commit(), "device": devices.name(p.device),
             "versions": files.versions(), "profile": p.profile, "params": params.plain(p),
             "models": models, "clusters": np.bincount(labels).tolist(), "images": b.images,
             "repeats": b.repeats, "batch": b.batch, "precision": p.inpaint.precision,
             "weights": p.train.sample_weights, "backbone": metrics.backbone(p.evaluate)}
    print(*(f"{name}: {facts[name]}" for name in ("device", "commit", "images", "repeats", "backbone")),
          sep="\n", flush=True)
    rows = []
    for found in rows_of(b, asked):
        rows.append(found)
        print(f"{found['what']} is measured.", flush=True)
        if asked.json:
            files.write_json(asked.json.resolve(), {**facts, "rows": rows})
    print(shown(rows))


if __name__ == "__main__":
    common.main(main)
