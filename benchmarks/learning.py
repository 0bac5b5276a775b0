"""Compares ways to train on the same number of images: one table, on real pairs.

    python benchmarks/learning.py --data KVASIR --weights MOBILENET --folder runs/learning

Each way is a run of `kvasir_cpu` that changes how its model learns; all see the same number of images. For
each: seconds; the error on held-out pairs, over the whole image and in the lesion; and agreement, the Dice
between the masks of painted pairs and what the judge of benchmarks/worth.py finds in them. What is there
already is not made again.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
import stages
import torch
import worth

from diffusegen_core.chapters import membership
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.run import Run
from diffusegen_core.store import files, seeds
from diffusegen_core.store.workspace import Workspace

IMAGES, HELD_OUT, SOURCES = 6000, 160, 32


def batches(size: int, lr: float, ema: float) -> dict[str, Any]:
    return {"train.batch_size": size, "train.lr": lr, "train.ema": ema}


SMALL = batches(2, 2e-4, 0.9998)
# By the name of its row, what each way changes in kvasir_cpu. Learning rates are the usual ones for the batch
# sizes: they grow roughly as the square root.
WAYS: dict[str, dict[str, Any]] = {
    "batch 2": SMALL, "batch 1": batches(1, 1e-4, 0.9999), "batch 4": batches(4, 3e-4, 0.9995),
    "batch 8": batches(8, 5e-4, 0.999), "batch 16": batches(16, 7e-4, 0.998),
    "batch 2, lesion weight 1": {**SMALL, "train.lesion_weight": 1.0},
    "batch 2, lesion weight 4": {**SMALL, "train.lesion_weight": 4.0},
    "batch 2, min-SNR 5": {**SMALL, "train.min_snr": 5.0},
    "batch 2, lr falls in the last third": {**SMALL, "train.lr_decay": 1 / 3},
    "batch 2, augmented": {**SMALL, "train.augment": 0.12},
    "batch 2, 4 clusters, a model each": {**SMALL, "cluster.k": 4},
    "batch 2, 4 clusters, one model": {**SMALL, "cluster.k": 4, "train.one_model": True},
}
COLUMNS = ["seconds", "error", "error in the lesion", "agreement"]
EACH, DIFFERENCE = "agreement of each", "difference in agreement"


def run_of(asked: argparse.Namespace, way: str) -> Run:
    """The run of a way; several models share the images among them."""
    changes = {"cluster.k": 1, **WAYS[way]}
    name = way.replace(", ", "-").replace(" ", "-")
    return Run.create("kvasir_cpu", {
        "data.source": str(asked.data), "cluster.scan": [changes["cluster.k"]],
        **worth.pretrained(asked.weights), "style.lambda_vgg": 0.0, "inpaint.baselines": None,
        "inpaint.sources": asked.sources, "inpaint.samples": 1, "segment.samples": [1], "augment.ratios": [1],
        "train.images": asked.images // changes["cluster.k"], "train.min_snr": None, **changes,
    }, folder=asked.folder / name)


def measured(asked: argparse.Namespace, judge: torch.nn.Module, held_out: Pairs, way: str) -> dict[str, Any]:
    """Train, paint, and measure both."""
    run = run_of(asked, way)
    run.make("inpaint")
    painted = next(iter(run.inpainted.sets.values())).load()
    agreements = worth.dice_each(judge, painted.images, painted.masks, run.params.segment)
    # With several models, each error of an image is the lowest among them.
    each = [errors(run.models.load(model.name, "cpu"), held_out, run.params.seed)
            for model in run.models.models]
    whole, inside = np.min([[one.mean(axis=(1, 2)), lesion.mean(axis=1)] for one, lesion in each], axis=0)
    return {"seconds": round(run.models.seconds, 1), "error": float(whole.mean()),
            "error in the lesion": float(inside.mean()), "agreement": float(agreements.mean()),
            EACH: dict(zip(painted.names, agreements.round(4).tolist(), strict=True))}


# error_t = mean (v - prediction(x_t))^2, over the image and over the lesion in it
def errors(diffusion: Diffusion, pairs: Pairs, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The errors of the colours for each pair, (N, LEVELS, 3), and those in its lesion, (N, LEVELS)."""
    steps = len(diffusion.schedule)
    t = torch.tensor([int((number + 0.5) / membership.LEVELS * steps) for number in range(membership.LEVELS)])
    whole, inside = [], []
    for name, x in zip(pairs.names, dataset.to_tensor(pairs), strict=True):
        x0 = x.expand(len(t), -1, -1, -1)
        own = [seeds.generator(seed, "learning", name, level) for level in range(len(t))]
        eps = seeds.normal_like(own, x0)
        with torch.inference_mode(), diffusion.autocast():
            told = diffusion.call(diffusion.noised(x0, t, eps), t)[:, :3]
        aim = process.velocity(diffusion.schedule, x0, t, eps)[:, :3]
        error = (told - aim).square()
        whole.append(error.mean(dim=(2, 3)).numpy())
        inside.append(error[:, :, x[3] > 0].mean(dim=(1, 2)).numpy())
    return np.stack(whole), np.stack(inside)


def table(record: stages.Record, ways: list[str]) -> pd.DataFrame:
    """One row per measured way, with its difference from the first way that has as many clusters."""
    rows = []
    for way in filter(record.done, ways):
        rows.append({"way": way, **{key: record.stages[way][key] for key in COLUMNS}, DIFFERENCE: ""})
        beside = next(other for other in WAYS if clusters(other) == clusters(way))
        if beside != way and record.done(beside):
            mine, theirs = (pd.Series(record.stages[name][EACH]) for name in (way, beside))
            rows[-1][DIFFERENCE] = f"{worth.gain(mine, theirs)} over {beside}"
    return pd.DataFrame(rows, columns=["way", *COLUMNS, DIFFERENCE])


def clusters(way: str) -> int:
    return WAYS[way].get("cluster.k", 1)


def run(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of Kvasir-SEG: images/, masks/")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2_imagenet.pth")
    parser.add_argument("--folder", type=Path, required=True, help="what the next call goes on from")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--images", type=common.positive, default=IMAGES)
    parser.add_argument("--sources", type=common.positive, default=SOURCES)
    parser.add_argument("--json", type=Path, default=common.ROOT / "benchmarks" / "results" / "learning.json")
    asked = parser.parse_args(given)
    facts = {"commit": common.commit(), "versions": files.versions(), "images": asked.images,
             "sources": asked.sources, "held out": HELD_OUT}
    call = stages.Call(stages.Clock(1e6), stages.Record(asked.json, facts))
    first = run_of(asked, asked.ways[0]).params
    ws = Workspace(asked.folder.resolve() / "real", first.seed, "cpu")
    train = dataset.load(ws, first.data, name="train")
    rest = dataset.load(ws, first.data.model_copy(update={"subset": "not348"}), name="rest")
    held_out = rest.take(np.sort(np.random.default_rng(first.seed).permutation(len(rest))[:HELD_OUT]))
    judge = worth.judge_of(train, first, asked.folder, torch.device("cpu"))
    for way in asked.ways:
        call.stage(way, partial(measured, asked, judge, held_out, way))
    print(table(call.record, asked.ways).round(4).to_string(index=False))


if __name__ == "__main__":
    common.main(run)
