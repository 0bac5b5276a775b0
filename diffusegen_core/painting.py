"""The command `diffusegen paint`: pictures of one's own in, a dataset folder of painted ones out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffusegen_core.chapters.paint import Painted
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import plain
from diffusegen_core.data import dataset, layouts, pairsets
from diffusegen_core.data.masks import Like
from diffusegen_core.run import Run
from diffusegen_core.store import files, seeds

RECIPE = "painted.json"
MANIFEST = ["name", "picture", "model", "seed", "mask_of", "mask_change", "area"]


def paint(run: Run, paths: Sequence[Path], out: Path, count: int = 1, seed: int = 0,
          mask: Path | None = None, like: str | None = None, old: Path | None = None,
          remove: bool = False) -> pd.DataFrame:
    """Paint `count` pairs into each picture and write them to `out`, with a manifest: its rows.

    `out` is new, empty, or of the same call before, which goes on. Each pair depends on the seed, its
    picture's name and its number alone. UserError for whatever cannot be used, before anything is painted.
    """
    names = [path.stem for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Two pictures are called {printable(twice[0])}. Paint them into two folders.")
    if like:
        Like.parse(like)  # refused before anything is written
    lesion, gone = _mask(mask), _mask(old)
    pictures = {path.stem: np.asarray(layouts.opened(path)) for path in paths}
    _begin(out, {
        "pictures": {name: files.pixel_hash(image) for name, image in pictures.items()},
        "masks": [None if one is None else files.pixel_hash(one) for one in (lesion, gone)],
        "like": like, "remove": remove, "count": count, "seed": seed,
        "models": {model.name: model.sha256 for model in run.models.models}, "weights": run.models.weights,
        "pairs": run.pairs.digest, "inpaint": plain(run.params.inpaint), "versions": files.versions()})
    rows = []
    for name, image in tqdm(pictures.items(), desc="Painting", unit="picture", disable=None):
        painted = run.paint(image, lesion, count, seeds.derive(seed, "picture", name), like=like, old=gone,
                            remove=remove)
        for number, one in enumerate(painted, 1):
            dataset.write_pair(out, f"{name}_{number}", one.image.transpose(2, 0, 1), one.mask[None])
            rows.append(_row(name, number, one))
    table = pd.DataFrame(rows, columns=MANIFEST)
    files.write_text(out / "manifest.csv", table.to_csv(index=False))
    return table


def _mask(path: Path | None) -> np.ndarray | None:
    """A mask (H, W) in {0, 1} from a file: lesion above 127."""
    return None if path is None else (np.asarray(layouts.opened(path)).max(axis=2) > 127).astype(np.uint8)


def _begin(out: Path, recipe: dict[str, Any]) -> None:
    """UserError where the folder holds anything but what the same call made."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Name a folder with --out.")
    there = files.read_json(out / RECIPE)
    if there != recipe:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds other things, and nothing there is replaced. Name a new folder by "
                            "--out.")
        files.write_json(out / RECIPE, recipe)


def _row(name: str, number: int, one: Painted) -> pairsets.Row:
    return {"name": f"{name}_{number}", "picture": name, "model": one.model, "seed": one.seed,
            "mask_of": one.mask_of, "mask_change": one.mask_change, "area": round(float(one.mask.mean()), 6)}
