"""Sets of synthetic pairs, made pair by pair: a dataset folder with a manifest, and a row kept for each pair.

A row is written after its pair's files, so an interrupted chapter makes only what is missing. A pair that
came to nothing has a row as well, but no files: it is listed in left_out.csv, not in the manifest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from diffusegen_core.store import runs
from diffusegen_core.data import dataset
from diffusegen_core.parallel import fanout

KINDS = ("images", "masks")
Row = dict[str, Any]
ORIGIN = ["name", "source", "source_cluster", "model", "sample", "seed"]  # of a manifest, the first columns


@dataclass(frozen=True)
class Job:
    """One synthetic pair to make, or to read."""

    index: int  # of the source in the run's pairs; of a pair that is read, in its folder
    name: str
    source: str  # "" where it is not known
    source_cluster: int  # -1 where no cluster has a part in it
    model: str
    sample: int  # 1 .. N
    seed: int  # -1 where it is not known

    @property
    def origin(self) -> Row:
        """What a manifest tells of it, whatever came of it: the columns ORIGIN."""
        return {name: getattr(self, name) for name in ORIGIN}


def complete(title: str, folder: Path, jobs: Sequence[Job], recipe: runs.Recipe, batch_size: int,
             work: Callable[..., None], **arguments: Any) -> list[Row]:
    """Make the pairs that are missing, in batches of one model each; the rows of all jobs, in their order.

    `recipe` holds, beside what decides every pair, "models" and "jobs": by name, what decides the pairs of
    one model, and one pair alone. `work` is called with the batch's jobs, their keys and the folder, and
    calls `keep` for each.
    """
    keys, items = _keys(jobs, recipe), []
    for model in recipe["models"]:
        mine = [job for job in jobs if job.model == model and not is_made(folder, job.name, keys[job.name])]
        for first in range(0, len(mine), batch_size):
            batch = mine[first:first + batch_size]
            items.append(fanout.Item(f"{model}, {batch[0].name} to {batch[-1].name}", {
                "jobs": batch, "keys": [keys[job.name] for job in batch], "folder": folder, **arguments}))
    fanout.run(work, items, title)
    rows = [runs.read_json(_row(folder, job.name)) for job in jobs]
    _remove_others(folder, {job.name: bool(row["sha256"]) for job, row in zip(jobs, rows, strict=True)})
    return rows


def keep(folder: Path, name: str, key: str, row: dict[str, Any], pair: tuple[np.ndarray, np.ndarray] | None,
         seconds: float, **facts: Any) -> None:
    """Write a pair, image (3, S, S) uint8 and mask (1, S, S) in {0, 1}, or None if failed; then its row.

    What another worker has finished meanwhile, because this one had stopped, is left as it is.
    """
    if is_made(folder, name, key):
        return
    files = dataset.write_pair(folder, name, *pair) if pair else ()
    runs.write_json(_row(folder, name), {
        "key": key, "row": row, "sha256": [file.sha256 for file in files], "seconds": seconds, **facts})


def finish(folder: Path, recipe: runs.Recipe, rows: list[Row], columns: list[str],
           others: Sequence[Path] = (), **facts: Any) -> dict[str, Any]:
    """Write the manifest, one row a pair, and stamp the folder with it, the pairs and `others`; the stamp."""
    tables = []
    for name, made in (("manifest.csv", True), ("left_out.csv", False)):
        frame = pd.DataFrame([row["row"] for row in rows if bool(row["sha256"]) == made], columns=columns)
        tables.append(runs.write_text(folder / name, frame.to_csv(index=False)))
    pairs = [runs.Written.of(file, made) for row in rows if row["sha256"]
             for file, made in zip(files_of(folder, row["row"]["name"]), row["sha256"], strict=True)]
    seconds = sum(row["seconds"] for row in rows)
    if devices := sorted({row["device"] for row in rows if "device" in row}):  # those of the workers
        facts = {"device": ", ".join(devices), **facts}
    return runs.finish(folder, recipe, [*tables, *others, *pairs], seconds, **facts)


def manifest(folder: Path) -> pd.DataFrame:
    """The manifest of a dataset folder: one row a pair."""
    return _table(folder / "manifest.csv")


def left_out(folder: Path) -> pd.DataFrame:
    """The pairs that came to nothing, with the manifest's columns."""
    return _table(folder / "left_out.csv")


def _table(path: Path) -> pd.DataFrame:
    # A source may be called NA, which is no missing value.
    return pd.read_csv(path, dtype={"source": str, "name": str}, keep_default_na=False)


def files_of(folder: Path, name: str) -> list[Path]:
    """Where a pair's image and mask lie."""
    return [folder / kind / f"{name}.png" for kind in KINDS]


def read_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A pair of a dataset folder: image (3, S, S) uint8, mask (1, S, S) in {0, 1}."""
    image, mask = files_of(folder, name)
    pixels = np.asarray(Image.open(image).convert("RGB")).transpose(2, 0, 1)
    return pixels, (np.asarray(Image.open(mask).convert("L"))[None] > 127).astype(np.uint8)


def load(folder: Path, names: Sequence[str]) -> dataset.Pairs:
    """Pairs of a dataset folder, by name and in that order."""
    images, masks = zip(*(read_pair(folder, name) for name in names), strict=True)
    return dataset.gather(list(names), np.stack(images), np.stack(masks))


def is_made(folder: Path, name: str, key: str) -> bool:
    """Whether a pair's row is current and its files, if it has any, are the ones that were written."""
    row = runs.read_json(_row(folder, name))
    if not isinstance(row, dict) or row.get("key") != key:
        return False
    files = files_of(folder, name) if row["sha256"] else []
    return all(f.is_file() for f in files) and [runs.sha256(f) for f in files] == row["sha256"]


def _row(folder: Path, name: str) -> Path:
    return folder.parent / "rows" / folder.name / f"{name}.json"


def _keys(jobs: Sequence[Job], recipe: runs.Recipe) -> dict[str, str]:
    # What decides one pair, whatever the others are.
    return {job.name: runs.key({**recipe, "jobs": recipe["jobs"][job.name],
                                "models": recipe["models"][job.model]})
            for job in jobs}


def _remove_others(folder: Path, has_files: dict[str, bool]) -> None:
    """Leave only rows of the jobs, and only files of the pairs that were made."""
    made = {name for name, has in has_files.items() if has}
    places = {folder.parent / "rows" / folder.name: set(has_files), **{folder / kind: made for kind in KINDS}}
    for place, wanted in places.items():
        for file in place.iterdir() if place.is_dir() else ():
            if file.stem not in wanted and not file.is_dir():  # a file manager's, or a notebook's
                file.unlink(missing_ok=True)
