"""Sets of synthetic pairs, made pair by pair: a dataset folder with a manifest, and a stored row per pair.

A row is written after its pair's files, so that a chapter that was interrupted makes only what is missing. A
pair that failed has a row as well, but no files: it is listed in left_out.csv, not in the manifest. A set
that is made with other parameters takes over the pairs of an earlier one that the change does not affect.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, planes
from diffusegen_core.data.types import DataType
from diffusegen_core.parallel import fanout
from diffusegen_core.store import files, lock
from diffusegen_core.store.artifacts import Artifact, Recipe, key
from diffusegen_core.store.stamps import GENERATORS, Stamp, read_stamp
from diffusegen_core.store.workspace import Workspace

KINDS = ("images", "masks")
CHOSEN = "classes"  # a key in the stamp of a set
Row = dict[str, Any]
# How SinGAN-Seg names its published pairs: source image, start scale, and sample from 0.
SINGAN_SEG = re.compile(r"chk_id_(\d+)_gen_scale_(\d+)_(\d+)(?:_img)?")
ORIGIN = ["name", "source", "source_cluster", "model", "sample", "seed"]  # the first columns of a manifest
# Further ones where masks are given: the picture painted into, whose mask it is, and how it was changed.
GIVEN = ["picture", "mask_of", "mask_change"]
# Further ones for pasted lesions: whose lesion it is, and how it was changed.
PASTED = ["lesion_of", "lesion_change"]
NO_MODEL = "none"  # in the column `model`, of pairs that no model made
DONORS = ("lesion_of", "mask_of")  # those of these columns that say whose


@dataclass(frozen=True)
class Job:
    """One synthetic pair to make, or to read."""

    index: int  # of the source in the run's pairs; for a pair that is read, its own in its folder
    name: str
    source: str  # "" where it is not known
    source_cluster: int  # -1 where no cluster is involved
    model: str
    sample: int  # 1 .. N
    seed: int  # -1 where it is not known
    picture: str = ""  # what it is painted into, a background or the source; "" where it is not given

    @property
    def origin(self) -> Row:
        """Its columns ORIGIN of a manifest, which do not depend on the outcome."""
        return {name: getattr(self, name) for name in ORIGIN}


@dataclass(frozen=True)
class PairSet:
    """A finished set of synthetic pairs."""

    data_type: DataType
    folder: Path
    """A dataset folder: images/, masks/, manifest.csv. A filtered set shares the folder of the set it was
    filtered from, whose manifest has more rows."""
    manifest: pd.DataFrame
    """One row per pair, with the columns ORIGIN first."""
    left_out: pd.DataFrame
    """The pairs that failed, or that the filter rejected, with the manifest's columns."""
    hashes: dict[str, str]
    """File name within the folder -> SHA-256; for a filtered set, of the files of its pairs only."""
    stamp: Stamp

    @property
    def seconds(self) -> float:
        return float(self.stamp["seconds"])

    def __len__(self) -> int:
        return len(self.manifest)

    def read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A pair as it was when the set was read: image (C, S, S) uint8, mask (M, S, S) in {0, 1}. Raises
        UserError if its files are others now, as when another command has made the set again."""
        try:
            pair = read_pair(self.folder, name)
            # After reading: a set is only ever replaced as a whole.
            same = all(files.sha256(self.folder / one) == self.hashes.get(one)
                       for one in names_of(self.hashes, name))
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(f"Pair {name} of {self.folder} is not the one that was made: another command has "
                            "made the set again meanwhile, or it was changed by hand. Run this command "
                            "again; `diffusegen run` with --remake makes again what was changed by hand.")
        return pair

    def load(self, names: Sequence[str] | None = None) -> dataset.Pairs:
        """The pairs of these names, in their order; None: all of the manifest."""
        return load(self.folder, list(self.manifest["name"]) if names is None else names,
                    may_overlap(self.folder))


@dataclass(frozen=True)
class PairSets:
    """A chapter's sets of synthetic pairs, by data type."""

    sets: dict[DataType, PairSet]

    @property
    def seconds(self) -> float:
        """The time that all of them took."""
        return sum(one.seconds for one in self.sets.values())

    def described(self, columns: Callable[[PairSet], Row]) -> pd.DataFrame:
        """One row per data type: its number of pairs, and what `columns` returns for its set."""
        return pd.DataFrame([{"data type": data_type.name, "pairs": len(one), **columns(one)}
                             for data_type, one in self.sets.items()]).set_index("data type")


def make(workspace: Workspace, artifact: Artifact, title: str, jobs: Sequence[Job], batch_size: int,
         work: Callable[..., None], columns: list[str],
         extra: Callable[[Path, list[Row]], list[Path]] | None = None,
         facts: dict[str, Any] | None = None, **arguments: Any) -> None:
    """Make the pairs that are missing, in batches of one model each; then the manifest and the stamp.

    Besides what determines every pair, the artifact's recipe holds "models" and "jobs": by name, what
    determines the pairs of one model, and one pair alone. `work` is called with the batch's jobs, their keys,
    the folder and `arguments`, and calls `keep` for each. `columns` are the manifest's. `extra` may write
    further outputs from the rows.
    """
    folder = artifact.begin()
    keys, items = _keys(jobs, artifact.recipe), []
    _take_over(artifact, folder, keys)
    for model in artifact.recipe["models"]:
        mine = [job for job in jobs if job.model == model and not is_made(folder, job.name, keys[job.name])]
        for first in range(0, len(mine), batch_size):
            batch = mine[first:first + batch_size]
            which = f"{batch[0].name} to {batch[-1].name}"
            items.append(fanout.Item(which if model == NO_MODEL else f"{model}, {which}", workspace, {
                "jobs": batch, "keys": [keys[job.name] for job in batch], "folder": folder, **arguments}))
    fanout.run(work, items, f"{title}{workspace.whose}")
    rows = [_kept(folder, job.name) for job in jobs]
    others = extra(folder, rows) if extra else []
    _finish(artifact, folder, rows, columns, others, facts or {})


def painted_anew(chosen: planes.Chosen) -> dict[str, Any]:
    """What the stamp of a painted set records about the classes that were painted anew; {} for all."""
    return {} if chosen is None else {CHOSEN: list(chosen)}


def chosen(folder: Path) -> planes.Chosen:
    """The classes that were painted anew in a dataset folder, by its stamp; None: all."""
    told = (read_stamp(folder) or {}).get(CHOSEN)
    return None if told is None else tuple(told)


def read(artifact: Artifact, data_type: DataType) -> PairSet:
    """A finished set. Raises NotMadeError where it is not finished."""
    stamp = artifact.stamp
    hashes = {name: file["sha256"] for name, file in stamp["outputs"].items()}
    return PairSet(data_type, artifact.folder, manifest(artifact.folder), left_out(artifact.folder), hashes,
                   stamp)


def keep(folder: Path, name: str, key: str, row: Row, pair: tuple[np.ndarray, np.ndarray] | None,
         seconds: float, **facts: Any) -> None:
    """Write a pair, image (C, S, S) uint8 and mask (M, S, S) in {0, 1}, or None if it failed; then its row.

    A pair that another worker has finished meanwhile, because this one had stalled, is left as it is.
    """
    if is_made(folder, name, key):
        return
    written = dataset.write_pair(folder, name, *pair) if pair else ()
    files.write_json(_row(folder, name), {
        "key": key, "row": row, "sha256": [file.sha256 for file in written], "seconds": seconds, **facts})


def _finish(artifact: Artifact, folder: Path, rows: list[Row], columns: list[str], others: list[Path],
            facts: dict[str, Any]) -> None:
    """Write the manifest and the list of what was left out, and stamp the set."""
    tables = []
    for name, whole in (("manifest.csv", True), ("left_out.csv", False)):
        frame = pd.DataFrame([row["row"] for row in rows if bool(row["sha256"]) == whole], columns=columns)
        tables.append(files.write_text(folder / name, frame.to_csv(index=False)))
    pairs = [files.Written.of(file, content) for row in rows if row["sha256"]
             for file, content in zip(files_of(folder, row["row"]["name"]), row["sha256"], strict=True)]
    if devices := sorted({row["device"] for row in rows if "device" in row}):  # those of the workers
        facts = {"device": ", ".join(devices), **facts}
    artifact.finish([*tables, *others, *pairs], sum(row["seconds"] for row in rows), **facts)


def manifest(folder: Path) -> pd.DataFrame:
    """The manifest of a dataset folder: one row per pair."""
    return listed(folder / "manifest.csv")


def left_out(folder: Path) -> pd.DataFrame:
    """The pairs that failed, with the manifest's columns."""
    return listed(folder / "left_out.csv")


def listed(path: Path, texts: Sequence[str] = (), numbers: Sequence[str] = ()) -> pd.DataFrame:
    """A list of pairs. Further columns may hold `texts`, or `numbers` of which some are missing."""
    # A source may be called NA, which is no missing value, or 1, which is no number.
    kinds = dict.fromkeys(("source", "name", *GIVEN, *PASTED, *texts), str) | dict.fromkeys(numbers, float)
    return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={name: [""] for name in numbers})


def files_of(folder: Path, name: str) -> list[Path]:
    """Where a pair's image and mask lie."""
    array, picture = (folder / "images" / f"{name}{ending}" for ending in (planes.ARRAY, ".png"))
    return [array if array.is_file() else picture, planes.mask_file(folder, name)]


def names_of(hashes: Mapping[str, str], name: str) -> list[str]:
    """The names of a pair's image and mask among the hashes of a set."""
    image, mask = (f"{kind}/{name}.png" for kind in KINDS)
    array = f"images/{name}{planes.ARRAY}"
    return [array if array in hashes else image, mask]


def read_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A pair of a dataset folder: image (C, S, S) uint8, mask (M, S, S) in {0, 1}."""
    image, mask = files_of(folder, name)
    return planes.read_image(image), planes.read_mask(mask)


def load(folder: Path, names: Sequence[str], overlap: bool = False) -> dataset.Pairs:
    """Pairs of a dataset folder, by name and in that order. The files do not say whether classes may
    `overlap`."""
    images, masks = zip(*(read_pair(folder, name) for name in names), strict=True)
    return dataset.gather(list(names), np.stack(images), np.stack(masks), overlap)


def may_overlap(folder: Path) -> bool:
    """Whether the classes of a run's set may overlap, as those of the real pairs may. These lie in the same
    run or, for a set of a further generator, in the run around it."""
    for place in folder.parents:
        if (real := place / "data" / dataset.PAIRS).is_file():
            return dataset.read(real).overlap
        if lock.is_run(place) and place.parent.name != GENERATORS:
            break
    return False


def is_made(folder: Path, name: str, key: str) -> bool:
    """Whether a pair's row has this key and its files, if it has any, are the ones that were written."""
    row = files.read_json(_row(folder, name))
    if not isinstance(row, dict) or row.get("key") != key:
        return False
    pair = files_of(folder, name) if row["sha256"] else []
    return all(file.is_file() for file in pair) and [files.sha256(file) for file in pair] == row["sha256"]


def _row(folder: Path, name: str) -> Path:
    return folder / "rows" / f"{name}.json"


def _kept(folder: Path, name: str) -> Row:
    """The row that `keep` wrote for a pair that is made."""
    row = files.read_json(_row(folder, name))
    assert isinstance(row, dict), "a pair that is made has a row"
    return row


def _keys(jobs: Sequence[Job], recipe: Recipe) -> dict[str, str]:
    # What decides one pair, whatever the others are.
    return {job.name: key({**recipe, "jobs": recipe["jobs"][job.name],
                           "models": recipe["models"][job.model]})
            for job in jobs}


def _take_over(artifact: Artifact, folder: Path, keys: dict[str, str]) -> None:
    """Copy from earlier versions of the set what is the same in this one."""
    for earlier in artifact.earlier():
        for name, wanted in keys.items():
            if not _row(folder, name).is_file() and is_made(earlier, name, wanted):
                row = _kept(earlier, name)
                for old in files_of(earlier, name) if row["sha256"] else ():
                    files.write(folder / old.relative_to(earlier), partial(shutil.copyfile, old),
                                hashed=False)
                files.write_json(_row(folder, name), row)
