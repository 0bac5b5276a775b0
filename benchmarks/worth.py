"""What synthetic pairs are worth: one table over ways to make them, from real pairs, with others held out.

    python benchmarks/worth.py --data KVASIR --weights MOBILENET --models FOLDER... --folder runs/worth

Each way is a run of the program with a finished model of all 348 training pairs, as `train.checkpoints`;
each of FOLDER... holds such a model, a generator. `Paste` needs none: it is the baseline. For every way and
generator: seconds a pair, masks that came out empty, the distance to held-out real images, the seam,
near-copies, agreement (Dice between a pair's mask and what a network trained on the 348 real pairs finds in
it), and the Dice on 200 held-out pairs of networks trained on the pairs alone and on small sets. The row Real
has the distance of other held-out images. What is there already is not made again: the same command resumes.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
import realpairs
import smallsets
import stages
import torch
from realwork import PASTED, Made, Work
from scipy.special import stdtrit
from smallsets import REAL, Task

from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Segment
from diffusegen_core.data import dataset, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.measures import copies, metrics, overlap
from diffusegen_core.run import Run
from diffusegen_core.segmentation import segnet
from diffusegen_core.store import files, seeds
from diffusegen_core.store.workspace import Workspace

SOURCES, SAMPLES, TEST, WATCH = 64, 3, 200, 348
# By the name of its row, what each way changes in the profile kvasir_cpu; `chapter` is the one that makes its
# pairs. The first way is also compared in small sets, if there is time.
STEPS_25 = {"inpaint.respacing": 25, "inpaint.jump_length": 5, "inpaint.resampling": 1}
GUIDED = {"inpaint.masks": "varied", "inpaint.guidance_scale": 2.0, "inpaint.seamless": False, **STEPS_25}
SEAMLESS = {**GUIDED, "inpaint.seamless": True}
SDEDIT = {"style.method": "sdedit", "style.guidance_scale": 1.5, "style.respacing": 25, "style.skip": 16,
          "chapter": "style"}
WITHOUT_STYLE = {"chapter": "inpaint"}
JOINT = {"inpaint.masks": "joint", "inpaint.guidance_scale": 1.0, "inpaint.seamless": False,
         "inpaint.respacing": 50, "inpaint.jump_length": 10, "inpaint.resampling": 3}
STYLED = {"style.method": "guided", "style.respacing": 50, "style.skip": 20, "style.semantic_steps": 5,
          "chapter": "style"}
WAYS: dict[str, dict[str, Any]] = {
    "varied guided, SDEdit": {**GUIDED, **SDEDIT},
    "varied guided": {**GUIDED, **WITHOUT_STYLE},
    "varied guided, seamless, SDEdit": {**SEAMLESS, **SDEDIT},
    "varied guided, seamless": {**SEAMLESS, **WITHOUT_STYLE},
    "varied guided, styled": {**GUIDED, **STYLED},
    "varied, SDEdit": {**GUIDED, "inpaint.guidance_scale": 1.0, **SDEDIT},
    "varied": {**GUIDED, "inpaint.guidance_scale": 1.0, **WITHOUT_STYLE},
    "varied, 130 calls": {**JOINT, "inpaint.masks": "varied", **WITHOUT_STYLE},
    "own guided, SDEdit": {**GUIDED, "inpaint.masks": "own", **SDEDIT},
    "own guided": {**GUIDED, "inpaint.masks": "own", **WITHOUT_STYLE},
    "joint": {**JOINT, **WITHOUT_STYLE},
    "joint, styled": {**JOINT, **STYLED},
}
SIZES, SMALL_SEEDS, ALONE_SEEDS = (16, 32), 9, 2
EQUAL, DRAWS = 100, 3  # images in a set that is measured, and sets
COLUMNS = ["seconds a pair", "empty masks", "KD", "seam", "source's", "near-copies", "agreement"]


@dataclass(frozen=True)
class Row:
    """A way with a generator; Paste has one row, without a generator."""

    way: str
    generator: Path | None

    @property
    def name(self) -> str:
        return f"{self.way}, {self.generator.name}" if self.generator else self.way


def rows(models: list[Path], ways: list[str]) -> list[Row]:
    """All rows: Paste, then way by way; the first way comes first, since it is compared in small sets."""
    return [Row(PASTED, None), *(Row(way, model) for way in ways for model in models)]


def pretrained(weights: Path) -> dict[str, str]:
    """The parameters that give every backbone and encoder of a run the weights of a file."""
    return {f"{part}.{key}": value for part in ("cluster", "style", "evaluate", "segment")
            for key, value in (("weights", str(weights)), ("input_range", "symmetric"))}


def run_of(asked: argparse.Namespace, row: Row) -> Run:
    """The run that makes a row's pairs. Rows that differ only in styling share it and its inpainted pairs."""
    changes = {key: value for key, value in WAYS[row.way].items() if key != "chapter"}
    inpainted = [f"{value:g}" if isinstance(value, float) else str(value)
                 for key, value in changes.items() if key.startswith("inpaint.")]
    vgg = {"style.vgg": "vgg19_normalised", "style.vgg_weights": str(asked.vgg)} if asked.vgg else {
        "style.lambda_vgg": 0.0}
    return Run.create("kvasir_cpu", {
        "data.source": str(asked.data), "cluster.k": 1, "cluster.scan": [1],
        **pretrained(asked.weights), **vgg,
        "train.checkpoints": str(row.generator), "inpaint.sources": asked.sources,
        "inpaint.samples": asked.samples, "segment.samples": [1], "augment.ratios": [1], **changes,
    }, folder=asked.folder / "runs" / "-".join([row.generator.name, *inpainted]))


def pairs_of(asked: argparse.Namespace, w: Work, row: Row) -> dict[str, Any]:
    """Make a row's pairs and keep them for the workers."""
    made, seconds, empty = pasted(w) if row.generator is None else generated(asked, w, row)
    np.savez(w.folder / f"{row.name}.npz", **vars(made))
    return {"pairs": len(made.images), "empty masks": empty, "seconds a pair": round(seconds, 3),
            "mean area": float(made.masks.mean())}


def generated(asked: argparse.Namespace, w: Work, row: Row) -> tuple[Made, float, int]:
    run = run_of(asked, row)
    chapter = WAYS[row.way]["chapter"]
    one = next(iter(run.make(chapter).sets.values()))
    inpainted = next(iter(run.inpainted.sets.values()))
    manifest, pairs = one.manifest, one.load()
    index = {name: i for i, name in enumerate(w.train.names)}
    sources = manifest["source"].map(index).to_numpy()
    region = regions.filled(w.train.masks[sources], pairs.masks if one.data_type.given_masks else None,
                            run.params.inpaint.dilate)
    seconds = inpainted.seconds / len(inpainted) + (one.seconds / len(one) if chapter == "style" else 0.0)
    made = Made(pairs.images, pairs.masks[:, 0], region, sources, manifest["sample"].to_numpy(),
                np.full(len(one), -1))
    return made, seconds, len(inpainted.left_out)


def pasted(w: Work) -> tuple[Made, float, int]:
    """Real lesions of other pairs at other places: the baseline without a model."""
    began = time.monotonic()
    made = realpairs.paste(w)
    return made, (time.monotonic() - began) / len(made.images), len(realpairs.jobs(w)) - len(made.images)


def pairs_back(w: Work, row: Row) -> None:
    with np.load(w.folder / f"{row.name}.npz", allow_pickle=False) as stored:
        w.sets[row.name] = Made(**{key: stored[key] for key in stored.files})


@dataclass(frozen=True)
class Judges:
    """What every row is measured with: the same for all, so that rows can be added later."""

    copied: float
    """The score in pixels below which chapter 5's audit finds a near-copy: so it is for 1 % of real pairs."""
    net: torch.nn.Module
    """Trained on the 348 real pairs."""
    dice: float
    """The mean Dice of that network on the held-out pairs: the most that agreement can reach."""


def judges(w: Work) -> Judges:
    around = regions.all_dilated(w.train.masks, w.p.inpaint.dilate)
    real = copies.in_pixels(w.train.images, around, w.train.images, np.arange(len(w.train)))
    copied = copies.threshold(real.score, w.p.evaluate.copy_quantile)
    net = judge_of(w.train, w.p, w.folder, w.device)
    return Judges(copied, net, dice_of(net, w.test.images, w.test.masks, w.p.segment))


def judge_of(train: Pairs, p: Params, folder: Path, device: torch.device) -> torch.nn.Module:
    """A network trained on the real training pairs (a fifth of them choose the epoch), kept in `folder`."""
    settings, weights = p.segment.model_copy(update={"epoch_images": 128}), folder / "judge.safetensors"
    if not weights.is_file():
        held = np.arange(len(train)) % 5 == 0
        fitted = segnet.fit(train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held)), settings,
                            seeds.derive(p.seed, "judge"), folder / "judge", {}, device, "judge")
        segnet.save(weights, fitted.net)
    return segnet.load(weights, settings, device)


def dice_of(net: torch.nn.Module, images: np.ndarray, masks: np.ndarray, settings: Segment) -> float:
    """The mean of `dice_each`."""
    return float(dice_each(net, images, masks, settings).mean())


def dice_each(net: torch.nn.Module, images: np.ndarray, masks: np.ndarray, settings: Segment) -> np.ndarray:
    """The Dice (N,) between what a network finds in images (N, 3, S, S) and their masks (N, 1, S, S)."""
    device = next(net.parameters()).device
    return overlap.scores(segnet.predict(net, images, settings, device), masks)["dice"].to_numpy()


def measured(w: Work, judge: Judges, name: str) -> dict[str, Any]:
    """The measures of a row's pairs."""
    made, rng = w.sets[name], seeds.rng(w.p.seed, "distances", name)
    real = features(w, w.test.images)
    equal = [rng.permutation(len(made.images))[:EQUAL] for _ in range(DRAWS)]
    contrast = [[regions.seam(image, region), regions.seam(source, region)] for image, source, region in
                zip(made.images, w.train.images[made.sources], made.regions, strict=True)]
    seam, before = np.mean(contrast, axis=0)
    nearest = copies.in_pixels(made.images, made.regions, w.train.images)
    return {"KD": float(np.mean([distance(w, made.images[draw], real) for draw in equal])),
            "seam": float(seam), "source's": float(before),
            "near-copies": float((nearest.score < judge.copied).mean()),
            "agreement": dice_of(judge.net, made.images, made.masks[:, None], w.p.segment)}


def floors(w: Work, judge: Judges) -> dict[str, Any]:
    """The KD of other held-out images in equal numbers, and the judge's agreement on held-out pairs."""
    rng, real = seeds.rng(w.p.seed, "floor"), features(w, w.test.images)
    draws = [rng.permutation(len(w.watch))[:EQUAL] for _ in range(DRAWS)]
    return {"KD": float(np.mean([distance(w, w.watch.images[draw], real) for draw in draws])),
            "agreement": judge.dice}


def features(w: Work, images: np.ndarray) -> np.ndarray:
    return metrics.remembered(w.folder / "features", images, w.p.evaluate, w.device, w.p.seed)


def distance(w: Work, images: np.ndarray, real: np.ndarray) -> float:
    """The kernel distance of chapter 5."""
    e = w.p.evaluate
    return float(metrics.kernel(features(w, images), real, w.p.seed, e.kernel_subsets, e.kernel_size))


def tasks(w: Work, rows: list[Row], ways: list[str]) -> Iterator[Task]:
    """The networks to train, the most valuable first; small sets compare Real, Paste and the first way."""
    yield from (Task("alone", name) for name in [REAL, *w.sets])
    compared = [REAL, *(row.name for row in rows if row.way in (PASTED, ways[0]))]
    for size, seed in itertools.product(SIZES, range(SMALL_SEEDS)):
        yield from (Task("small", name, size, seed) for name in compared)
    yield from (Task("alone", name, seed=seed) for seed in range(1, ALONE_SEEDS) for name in [REAL, *w.sets])


def table(record: stages.Record, rows: list[Row], ways: list[str]) -> pd.DataFrame:
    """One row for each way: means over generators and seeds, gains with the 95 % t interval over seeds."""
    made, networks = record.stages, pd.DataFrame(record.stages.get("networks", {}).get("rows", []))
    lines = []
    for way in [REAL, PASTED, *ways]:
        names = [REAL] if way == REAL else [row.name for row in rows if row.way == way]
        line: dict[str, Any] = {"way": way, "generators": len(names)}
        for key in COLUMNS:
            values = [stage[key] for name in names for stage in (made.get(name, {}), made.get(
                f"{name}, measured", {})) if key in stage]
            line[key] = np.mean(values) if values else np.nan
        lines.append(line | scored(networks, names))
    return pd.DataFrame(lines)


def scored(networks: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    """The Dice of networks trained on the pairs alone, and the gains in small sets."""
    if networks.empty:
        return {}
    line: dict[str, Any] = {}
    alone = networks[(networks["kind"] == "alone") & networks["data_type"].isin(names)]
    line["alone"] = alone["dice"].mean()
    small = networks[networks["kind"] == "small"]
    for size in SIZES:
        by_seed = small[small["size"] == size].pivot_table(index="seed", columns="data_type", values="dice")
        have = [name for name in names if name in by_seed]
        if names == [REAL] and REAL in by_seed:
            line[f"N={size}"] = f"{by_seed[REAL].mean():.3f}"
        elif have and REAL in by_seed:
            line[f"N={size}"] = gain(by_seed[have].mean(axis=1), by_seed[REAL])
            if PASTED in by_seed and names != [PASTED]:
                line[f"N={size}, over {PASTED}"] = gain(by_seed[have].mean(axis=1), by_seed[PASTED])
    return line


def gain(values: pd.Series, base: pd.Series) -> str:
    """The mean difference, half its interval, and the number of seeds."""
    apart = (values - base).dropna()
    return f"{apart.mean():+.3f} ± {t_half(apart):.3f} ({len(apart)})"


def t_half(values: pd.Series) -> float:
    """Half the 95 % t interval of a mean."""
    return float(stdtrit(len(values) - 1, 0.975) * values.std() / np.sqrt(len(values)))


def run(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of Kvasir-SEG: images/, masks/")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2_imagenet.pth")
    parser.add_argument("--vgg", type=Path, help="vgg19_normalised_to_conv3_1.pth; without it, no VGG loss")
    parser.add_argument("--models", type=Path, nargs="+", required=True,
                        help="folders with cluster-00.safetensors")
    parser.add_argument("--folder", type=Path, required=True, help="what the next call goes on from")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--sources", type=common.positive, default=SOURCES)
    parser.add_argument("--samples", type=common.positive, default=SAMPLES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1e6, help="seconds")
    parser.add_argument("--json", type=Path, default=common.ROOT / "benchmarks" / "results" / "worth.json")
    asked = parser.parse_args(given)
    facts = {"commit": common.commit(), "versions": files.versions(), "sources": asked.sources,
             "samples": asked.samples, "models": [model.name for model in asked.models]}
    call = stages.Call(stages.Clock(asked.limit), stages.Record(asked.json, facts))
    every = rows(asked.models, asked.ways)
    w = work(asked, call)
    team = smallsets.Team(w.folder, w.p, torch.device("cpu"), asked.workers)
    try:
        for row in every:
            if call.stage(row.name, partial(pairs_of, asked, w, row)):
                pairs_back(w, row)
        judge = judges(w)
        call.stage(f"{REAL}, measured", partial(floors, w, judge))
        for name in w.sets:
            call.stage(f"{name}, measured", partial(measured, w, judge, name))
        team.begin(list(tasks(w, every, asked.ways)), call.record)
        team.gather(call, reserve=5)
    finally:
        team.end()
    print(table(call.record, every, asked.ways).round(3).to_string(index=False))


def work(asked: argparse.Namespace, call: stages.Call) -> Work:
    """Load the real pairs, write them for the workers, and set the parameters of all networks."""
    p = run_of(asked, Row(asked.ways[0], asked.models[0])).params
    p = params.validate({**params.plain(p), "run_dir": str(asked.folder / "networks")})
    folder = p.folder
    folder.mkdir(parents=True, exist_ok=True)
    ws = Workspace(asked.folder.resolve() / "real", p.seed, "cpu")
    train = dataset.load(ws, p.data, name="train")
    rest = dataset.load(ws, p.data.model_copy(update={"subset": "not348"}), name="rest")
    order = np.random.default_rng(p.seed).permutation(len(rest))
    test, watch = (rest.take(np.sort(order[part])) for part in (slice(0, TEST), slice(TEST, TEST + WATCH)))
    smallsets.store(folder / "real.npz", train, test, asked.sources)
    return Work(call, torch.device("cpu"), p, asked.data, folder, folder, False, train, test, watch)


if __name__ == "__main__":
    common.main(run)
