"""A run folder of what `train` brought back: weights, pairs, tables and a sheet of samples, nothing computed.

Of the model there are only the averaged weights, rounded to bf16 as they came back; it can be sampled and
adopted by a run (`train.checkpoints`), but not trained further.
"""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from diffusegen_core.config.errors import UserError
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.measures import intervals
from diffusegen_core.store import files

MODEL = "cluster-00.safetensors"  # as train.checkpoints looks for it, with cluster.k 1
SHEET = (3, 8)  # rows and columns of samples
RESAMPLES = 1000
KEPT = """What a run on a borrowed GPU brought back: nothing in this folder was computed here.

checkpoints/{model}   the model's averaged weights, rounded to bf16, without its optimizer
pairs/                the synthetic pairs by data type, images as JPEG, with their manifests
tables/               what was measured there, as CSV; train.json has all of it
sheet.png             whole samples with their masks, which show no real image
params.yaml           parameters of a run that adopts the model: give it data.source

The pairs show the surroundings of real images. Keep them as the real ones.
"""


def run(brought: Path, folder: Path) -> None:
    """Fill `folder`, new or empty. UserError if the record or a part of the weights is missing."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is there already. Name a new or empty folder.")
    record = files.read_json(brought / "train.json")
    if record is None:
        raise UserError(f"{brought} has no train.json: it is not what `train` brought back.")
    folder.mkdir(parents=True, exist_ok=True)
    join_weights(brought, folder / "checkpoints" / MODEL)
    for archive in sorted(brought.glob("*.tar")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "pairs", filter="data")
    for name, table in tables(record["stages"]).items():
        files.write_text(folder / "tables" / f"{name}.csv", table.to_csv(index=False))
    if (samples := folder / "pairs" / "samples").is_dir():
        sheet(samples, *SHEET).save(folder / "sheet.png", optimize=True)
    shutil.copy(brought / "train.json", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(adopting(record["facts"]["params"]), sort_keys=False))
    (folder / "README.txt").write_text(KEPT.format(model=MODEL))


def join_weights(brought: Path, path: Path) -> None:
    """Write the parts of the weights as one fp32 file that `checkpoints.load` reads."""
    parts = sorted(brought.glob("model-*of*.safetensors"))
    count = int(parts[0].stem.partition("of")[2]) if parts else 0
    if not parts or len(parts) != count:
        raise UserError(f"{brought} has {len(parts)} of {count or 'the'} parts of the weights.")
    tensors, header = {}, {}
    for part in parts:
        found, header = checkpoints.read(part)
        tensors |= {name: value.float() for name, value in found.items()}
    checkpoints.save(path, tensors, {**header, "rounded": "bf16, averaged weights alone"})


def adopting(values: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the model was trained with, for a run that takes it as it is."""
    train = {**values["train"], "checkpoints": "checkpoints", "full_images": None}
    data = {**values["data"], "source": "data/hyperkvasir", "subset": "paper348"}
    return {**values, "run_dir": None, "device": "auto", "train": train, "data": data}


def tables(stages: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """A table for each thing that was measured."""
    found = {}
    if "rows" in stages.get("training", {}):
        found["training"] = pd.DataFrame(stages["training"]["rows"], columns=stages["training"]["columns"])
    if "distances" in stages.get("distances", {}):
        found["distances"] = pd.DataFrame([
            {"pairs": name, "distance": metric, "median": float(np.median(values)), "least": min(values),
             "largest": max(values)}
            for name, row in stages["distances"]["distances"].items() for metric, values in row.items()])
    if "grey levels" in stages.get("seams", {}):
        found["seams"] = pd.DataFrame([{"pairs": name, **row}
                                       for name, row in stages["seams"]["grey levels"].items()])
    if rows := stages.get("networks", {}).get("rows"):
        columns = ["kind", "data_type", "size", "seed", "dice", "iou", "train_pairs", "valid_pairs",
                   "best_epoch", "seconds"]
        found["networks"] = pd.DataFrame(rows)[columns]
        found["small_sets"] = small_sets(rows)
        for row in rows:
            if "agreement" in row:
                found["agreement"] = agreement(row)
    return found


def small_sets(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean Dice of each kind, data type and size, and its gain over Real with the same seeds, with a 95 %
    interval over seeds and test images."""
    each = pd.DataFrame([{"kind": row["kind"], "data_type": row["data_type"], "size": row["size"],
                          "seed": row["seed"], "image": i, "dice": value}
                         for row in rows for i, value in enumerate(row["each"])])
    found = []
    for (kind, data_type, size), group in each.groupby(["kind", "data_type", "size"], dropna=False):
        real = each[(each["kind"] == kind) & (each["data_type"] == "Real")
                    & ((each["size"] == size) | (pd.isna(size) & each["size"].isna()))]
        common = set(group["seed"]) & set(real["seed"])
        line = {"kind": kind, "data_type": data_type, "size": size, "seeds": group["seed"].nunique(),
                "dice": group["dice"].mean()}
        if data_type != "Real" and common:
            a, b = (part[part["seed"].isin(common)] for part in (group, real))
            gain = intervals.paired(a, b, "dice", RESAMPLES, 0)
            line |= {"gain": gain.mean, "low": gain.low, "high": gain.high, "seeds of the gain": gain.seeds}
        found.append(line)
    return pd.DataFrame(found)


def agreement(row: dict[str, Any]) -> pd.DataFrame:
    """Dice between the pairs' masks and what a network trained on real pairs finds, by data type."""
    rows = {"held-out real": row["each"], **row["agreement"]}
    return pd.DataFrame([{"pairs": name, "count": len(values), "mean": float(np.mean(values)),
                          "median": float(np.median(values)),
                          "share below 0.5": float(np.mean(np.array(values) < 0.5))}
                         for name, values in rows.items()])


def sheet(samples: Path, rows: int, columns: int) -> Image.Image:
    """The first whole samples in rows, each above the row of its masks."""
    names = sorted(path.stem for path in (samples / "images").iterdir())[:rows * columns]
    lines = []
    for first in range(0, len(names), columns):
        for kind in ("images", "masks"):
            tiles = [np.asarray(Image.open(samples / kind / f"{name}.png").convert("RGB"))
                     for name in names[first:first + columns]]
            tiles += [np.full_like(tiles[0], 255)] * (columns - len(tiles))
            lines.append(np.concatenate(tiles, axis=1))
    return Image.fromarray(np.concatenate(lines))
