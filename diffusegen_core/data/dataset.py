"""The labelled pairs of a run, ready for every chapter: phantoms or the user's folder, at one size."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, resolve
from diffusegen_core.config.text import counted
from diffusegen_core.data import (
    decisive,
    layouts,
    patients,
    phantoms,
    planes,
    reports,
    selection,
    sidecars,
)
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.reports import Report
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Artifact, Recipe, key
from diffusegen_core.store.stamps import Stamp, read_stamp
from diffusegen_core.store.workspace import Workspace

PAIRS, SOURCE = "pairs.npz", "source.json"
OVERLAP = "overlap"  # key in PAIRS, present where classes may overlap
HELD = "held_out"  # a fact of the stamp: how many of the pairs that are held out are usable


@dataclass(frozen=True)
class Pairs:
    """Labelled images in memory."""

    names: list[str]
    """Unique, in the order of the folder."""
    images: np.ndarray
    """(N, C, S, S) uint8; three channels are RGB."""
    masks: np.ndarray
    """(N, M, S, S) uint8, 1 where a pixel is of the class."""
    digest: str
    """SHA-256 over names, images and masks."""
    overlap: bool = False
    """Whether a pixel may be of several classes."""
    file: Path | None = None
    """The file that holds exactly these, for another process to read; None where there is none."""
    padded: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Name -> native height and width, for pairs that lie between black bars (data.fit: pad)."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_size(self) -> int:
        """The side of an image, in pixels."""
        return int(self.images.shape[-1])

    @property
    def planes(self) -> Planes:
        """The channels of its images and the classes of its masks."""
        return Planes(self.images.shape[1], self.masks.shape[1], self.overlap)

    @property
    def stored(self) -> Path:
        """`file`. Raises ValueError for pairs that are not on disk."""
        if self.file is None:
            raise ValueError("these pairs are only in memory; other processes cannot read them")
        return self.file

    def take(self, indices: Sequence[int] | np.ndarray) -> "Pairs":
        """The pairs at these positions, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        taken = gather([self.names[i] for i in rows], self.images[rows], self.masks[rows], self.overlap)
        return replace(taken, padded={name: self.padded[name] for name in taken.names if name in self.padded})

    def named(self, names: Sequence[str]) -> "Pairs":
        """The pairs of these names, in this order."""
        place = {name: i for i, name in enumerate(self.names)}
        return self.take([place[name] for name in names])

    def grid(self) -> Image.Image:
        """A picture of them: the images in a row, and below each its mask."""
        return planes.grid(np.concatenate([self.images, 255 * self.masks], axis=1), self.planes.channels)

    def save(self, folder: str | Path) -> Path:
        """Write them into a dataset folder, `images/` and `masks/`, new or beside other pairs; returns it.

        Files are like those of a run's sets: PNG, masks of several classes with class numbers, and arrays for
        images of other than 1 or 3 channels. Raises UserError, before anything is written, where one exists.
        """
        place, channels = Path(folder), self.planes.channels
        for name in self.names:
            for file in (planes.image_file(place, name, channels), planes.mask_file(place, name)):
                if os.path.lexists(file):
                    raise UserError(f"{file} already exists, and is not overwritten. Name another folder.")
        for name, image, mask in zip(self.names, self.images, self.masks, strict=True):
            write_pair(place, name, image, mask)
        return place


def gather(names: list[str], images: np.ndarray, masks: np.ndarray, overlap: bool = False) -> Pairs:
    """Pairs from names, images (N, C, S, S) uint8 and masks (N, M, S, S) in {0, 1}, whose classes may
    `overlap`; computes the digest."""
    images, masks = np.ascontiguousarray(images, np.uint8), np.ascontiguousarray(masks, np.uint8)
    shapes = [images.shape, *([] if masks.shape[1] == 1 else [masks.shape]), *([OVERLAP] if overlap else [])]
    digest = hashlib.sha256(json.dumps([names, *shapes]).encode())
    digest.update(images.data)
    digest.update(masks.data)
    return Pairs(list(names), images, masks, digest.hexdigest(), overlap)


def to_tensor(pairs: Pairs) -> torch.Tensor:
    """(N, C + M, S, S) float32: images in [-1, 1], and masks as -1 or +1 (paper 2.3)."""
    images = torch.from_numpy(pairs.images).float() / 127.5 - 1
    return torch.cat([images, torch.from_numpy(pairs.masks).float() * 2 - 1], dim=1)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] as uint8, the inverse of to_tensor; values outside are clipped."""
    return np.clip(np.rint(image * 127.5 + 127.5), 0, 255).astype(np.uint8)


def write_pair(folder: Path, name: str, image: np.ndarray,
               mask: np.ndarray) -> tuple[files.Written, files.Written]:
    """Write image (C, S, S) uint8 and mask (M, S, S) in {0, 1}, as `planes` does; returns both paths."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not a plain file name")
    return (planes.write_image(planes.image_file(Path(folder), name, len(image)), image),
            planes.write_mask(planes.mask_file(Path(folder), name), mask))


def write_phantoms(folder: Path, count: int, size: int, seed: int, kind: str = "phantom") -> None:
    """Draw phantoms of a kind of DRAWN into a new or empty dataset folder; UserError if it is neither."""
    files.refuse_filled(folder)
    for index, (image, mask) in enumerate(phantoms.drawn(kind, range(count), size, seed)):
        write_pair(folder, phantoms.name(index), image, mask)


def paper_names() -> list[str]:
    """The names of the paper's 348 training pairs (HyperKvasir)."""
    return Path(__file__).with_name("paper348.txt").read_text(encoding="utf-8").split()


def load(ws: Workspace, settings: Data, least: int = 1, name: str = "data", parted: bool = True) -> Pairs:
    """The pairs that the settings ask for, resized once and stored as the artifact `name`.

    Images become squares (see `fits`) of data.channels channels, masks have a channel per class. `data.count`
    takes the first so many usable pairs, or all if there are fewer. Under `on_bad: skip`, what was left out
    is listed in left_out.csv. If `parted`, as all but test sets are, held-out pairs are left out, and known
    patients stored.

    Raises UserError with the table of problems where the folder has any under `refuse`, where a file cannot
    be read, and where fewer than `least` pairs are left.
    """
    pairs = _drawn(ws, settings, name) if settings.drawn else _read_folder(ws, settings, least, name, parted)
    if len(pairs) < least:
        raise UserError(f"{settings.source}: {len(pairs)} pairs are too few for cluster.k {least}.")
    return pairs


def keep(ws: Workspace, name: str, pairs: Pairs) -> Pairs:
    """Store pairs from memory as the artifact `name`, so that another process can read them."""
    artifact, start = ws.artifact(name, {"pairs": pairs.digest}), time.monotonic()
    if not artifact.made():
        folder = artifact.begin()
        written = [write(folder, pairs), *sidecars.write_padded(folder, pairs.padded)]
        artifact.finish(written, time.monotonic() - start, **_facts(pairs))
    return read(artifact.file(PAIRS))


def check(p: Params) -> Iterator[str]:
    """What `load` would refuse of a run's data, as far as a listing of the folder shows."""
    if not p.data.drawn and not remembered(p.folder / "data", p.data.source):
        wrong = list(refusals([lambda: refuse_unreadable(p.data, p.data.source)], "data.source"))
        yield from wrong or refusals([lambda: expected(p.data, p.seed)])


def remembered(place: Path, source: str) -> Stamp | None:
    """The stamp of pairs that were read from this source, where the source is gone, as in a copied run."""
    stamp = read_stamp(place)
    known = stamp and "input" in stamp["recipe"] and stamp.get("origin") == source
    return stamp if known and not resolve(source).exists() else None


def expected(settings: Data, seed: int = 0) -> tuple[int, str]:
    """How many pairs there will be, without those that the run's seed holds out, and how that is known.
    Images are not opened.

    Raises UserError where the folder cannot be listed, or is missing and the settings give no number.
    """
    if settings.drawn:
        return len(settings.names or range(settings.count or 0)), "phantoms"
    folder = resolve(settings.source)
    if folder.is_dir():
        report = layouts.scan(folder, settings)
        _, held = patients.split(report, settings, seed)
        used = selection.listed(settings, report, paper_names(), held)
        if report.pairs and not used and settings.subset == "paper348":
            raise UserError(f"None of the {len(report.pairs)} pairs in {folder} is one of the paper's 348, "
                            "which data.subset: paper348 asks for. For a folder of your own give -p "
                            "data.subset all, or let `diffusegen new` choose the parameters.")
        return len(used), f"in {folder}{f', {len(held)} more are held out' if held else ''}"
    if settings.names:
        return len(settings.names), f"data.names; {folder} is not there yet"
    if settings.subset == "paper348":
        return (min(len(paper_names()), settings.count or len(paper_names())),
                f"of the paper's {len(paper_names())}; {folder} is not there yet")
    if settings.count:
        return settings.count, f"data.count; {folder} is not there yet"
    raise UserError(f"Parameters: data.source: {folder} is not there, so the number of its pairs is "
                    "unknown. Name another folder, or give data.count.")


def expected_count(p: Params) -> int | None:
    """The number alone; None where it cannot be known."""
    try:
        return expected(p.data, p.seed)[0]
    except UserError:
        return None


def refuse_unreadable(settings: Data, source: str) -> None:
    """Raise UserError where a folder of pairs cannot be read, as far as its listing shows."""
    folder = resolve(source)
    report = layouts.scan(folder, settings if source == settings.source else
                          layouts.for_folder(settings, folder))
    if report.problems and settings.on_bad == "refuse":
        first = report.problems[0]
        raise UserError(f"{report.folder} has {counted(len(report.problems), 'problem')}, such as "
                        f"{first.file}: {first.problem}. `diffusegen data check` shows all; correct the "
                        "folder, or leave such pairs out by data.on_bad: skip.")
    if not report.pairs:
        raise UserError(f"{report.folder} holds no pairs.")
    listed = set(paper_names())
    if settings.subset == "paper348" and settings.on_bad == "refuse":
        missing = listed - {pair.name for pair in report.pairs}
        if missing:
            raise UserError(f"{report.folder} lacks {len(missing)} of the paper's 348 pairs, which "
                            "data.subset: paper348 asks for. For a folder of your own set data.subset: all.")


@lru_cache(maxsize=8)
def _read(path: Path, size: int, time_ns: int) -> Pairs:
    with np.load(path, allow_pickle=False) as stored:
        pairs = gather(stored["names"].tolist(), stored["images"], stored["masks"], OVERLAP in stored)
    return replace(pairs, file=path, padded=sidecars.padded(path))


def read(path: Path) -> Pairs:
    """The pairs in a file that `load` wrote; read once per process while the file stays the same."""
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns)


def _drawn(ws: Workspace, settings: Data, name: str) -> Pairs:
    recipe: Recipe = {"source": settings.source, "version": phantoms.DRAWN[settings.source].VERSION,
                      "seed": ws.seed, "count": settings.count, "image_size": settings.image_size}
    if settings.names:
        recipe["names"] = settings.names
    if Planes.of(settings).overlap:
        recipe[OVERLAP] = True
    artifact = ws.artifact(name, recipe)
    if not artifact.made():
        folder, start, pairs = artifact.begin(), time.monotonic(), _phantoms(settings, ws.seed)
        artifact.finish([write(folder, pairs)], time.monotonic() - start, **_facts(pairs))
    return read(artifact.file(PAIRS))


def _read_folder(ws: Workspace, settings: Data, least: int, name: str, parted: bool) -> Pairs:
    artifact, report, hashes, (told, held) = _from_source(ws, settings, name, parted)
    if not artifact.made():
        folder, start = artifact.begin(), time.monotonic()
        if report is None:
            raise UserError(f"data.source {resolve(settings.source)} is not there.")
        used = selection.usable(settings, report, least, paper_names(), held)
        pairs = gather(used.names, used.images, used.masks, Planes.of(settings).overlap)
        sizes = dict(zip(used.names, used.sizes, strict=True))
        outputs = [write(folder, pairs), *sidecars.write(folder, report.table().to_csv(index=False), sizes,
                                                         used.volumes)]
        if settings.fit == "pad":
            outputs += sidecars.write_padded(folder, {name: size for name, size in sizes.items()
                                                      if size[0] != size[1]})
        outputs += patients.write(folder, told, held)
        tested = len({pair.name for pair in report.pairs} & set(held))  # the usable ones
        files.write_json(folder / SOURCE, hashes)
        facts = {**_facts(pairs), "layout": report.layout, "origin": settings.source,
                 "left_out": len(report.problems), **({HELD: tested} if held else {})}
        if settings.intensities == "percentile":
            facts[sidecars.SCALE] = report.scale
        artifact.finish(outputs, time.monotonic() - start, **facts)
    return read(artifact.file(PAIRS))


def _from_source(ws: Workspace, settings: Data, name: str, parted: bool) -> tuple[
        Artifact, Report | None, dict[str, Any], tuple[dict[str, str], list[str]]]:
    """The artifact of a folder's pairs, the report of that folder, the hashes of its files, and their
    patients with the names that are held out.

    A file is hashed only where its size or time differs from what the artifact recorded. Where the folder is
    missing, what the artifact recorded is taken for granted (see `remembered`).
    """
    asked = decisive.asked(settings)
    if stamp := remembered(ws.folder / name, settings.source):
        known = {part: stamp["recipe"][part] for part in ("source", "input", "split", "deep", sidecars.SCALE)
                 if part in stamp["recipe"]}
        return ws.artifact(name, {**asked, **known}), None, {}, ({}, [])
    report = layouts.scan(resolve(settings.source), settings)
    before = files.read_json(ws.folder / name / SOURCE)
    hashes = report.hashes(before if isinstance(before, dict) else {})
    recipe = {**asked, "source": report.layout, "input": reports.identity(hashes)}
    if decisive.is_deep(report, hashes):
        recipe["deep"] = decisive.DEEP
    told, held = patients.split(report, settings, ws.seed) if parted else ({}, [])
    if told or held:
        recipe["split"] = key({"held_out": held, "patients": told})
    if held and settings.intensities == "percentile":
        recipe[sidecars.SCALE] = "of pairs that are not held out"  # older versions used all pairs
    return ws.artifact(name, recipe), report, hashes, (told, held)


def write(folder: Path, pairs: Pairs) -> Path:
    """Write the file that `read` reads."""
    arrays: dict[str, Any] = {"names": np.array(pairs.names), "images": pairs.images, "masks": pairs.masks}
    if pairs.overlap:
        arrays[OVERLAP] = True
    return files.write(folder / PAIRS, lambda path: np.savez(path, **arrays))


def _facts(pairs: Pairs) -> dict[str, Any]:
    return {"pairs": len(pairs), "digest": pairs.digest}


def _phantoms(settings: Data, seed: int) -> Pairs:
    wanted = phantoms.chosen(settings)
    images, masks = zip(*phantoms.drawn(settings.source, wanted.values(), settings.image_size, seed),
                        strict=True)
    return gather(list(wanted), np.stack(images), np.stack(masks), Planes.of(settings).overlap)
