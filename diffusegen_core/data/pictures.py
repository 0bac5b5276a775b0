"""Pictures that are no pairs: masks to paint by (inpaint.masks), and pictures without lesions to paint into
(inpaint.backgrounds). A folder holds nothing else; its pictures are kept in the run as pairs are."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from diffusegen_core.config.checks import refusals
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params, resolve
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, fits, pairing, rasters, reports, testsets
from diffusegen_core.data.dataset import PAIRS, Pairs
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import JOINT, OWN, VARIED
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same files would be read to other pixels
FIT = "squeeze"  # to the square, see `fits`
MASKS, BACKGROUNDS = "masks", "backgrounds"  # parameters of `inpaint`, and artifacts beside its pairs


def folders(settings: Inpaint) -> dict[str, str]:
    """The folders that are to be read: by MASKS and BACKGROUNDS, where the parameter names one."""
    named = {} if settings.masks in (JOINT, OWN, VARIED) else {MASKS: settings.masks}
    return named if settings.backgrounds is None else {**named, BACKGROUNDS: settings.backgrounds}


def load(ws: Workspace, name: str, source: str, size: int) -> Pairs:
    """The pictures of a folder at `size` pixels, squared as training images are, and kept as the artifact.

    `name` is BACKGROUNDS, images whose masks are empty; or MASKS, masks on black images. Raises UserError
    for a picture that cannot be read, and for a mask that is empty or fills its picture.
    """
    place, asked = _place(name), {"version": VERSION, "image_size": size}
    if stamp := dataset.remembered(ws.folder / place, source):
        artifact = ws.artifact(place, {**asked, "input": stamp["recipe"]["input"]})
        if artifact.made():
            return dataset.read(artifact.file(PAIRS))
    listed = _listed(source)
    before = files.read_json(ws.folder / place / dataset.SOURCE)
    hashes = listed.hashes(before if isinstance(before, dict) else {})
    artifact = ws.artifact(place, {**asked, "input": reports.identity(hashes)})
    if not artifact.made():
        folder, start = artifact.begin(), time.monotonic()
        read = [_read(path, name, size) for path in listed.files]
        pairs = dataset.gather([path.stem for path in listed.files], np.stack([image for image, _ in read]),
                               np.stack([mask for _, mask in read]))
        output = dataset.write(folder, pairs)
        files.write_json(folder / dataset.SOURCE, hashes)
        artifact.finish([output], time.monotonic() - start, origin=source, pairs=len(pairs))
    return dataset.read(artifact.file(PAIRS))


def refuse_leaks(ws: Workspace, source: str | None, size: int, tests: Mapping[str, TestSet]) -> None:
    """UserError, naming pictures, where one of the backgrounds is a copy of a test image: networks are
    trained on what is painted into it."""
    if source is None:
        return
    pairs = load(ws, BACKGROUNDS, source, size)
    for test in tests.values():
        if test.pairs is not None and (copied := testsets.copies(pairs, test.pairs)):
            raise UserError(f"Parameters: inpaint.backgrounds: {len(copied)} of the {len(pairs)} pictures "
                            f"are images of the test set {test.name}: {testsets.listed(copied)}. Take them "
                            "out, or choose another test set.")


def check(p: Params) -> Iterator[str]:
    """What `load` would refuse, as far as the listing of the folders tells."""
    for name, source in folders(p.inpaint).items():
        if not dataset.remembered(p.folder / _place(name), source):
            yield from refusals([partial(_listed, source)], f"inpaint.{name}")


def _place(name: str) -> str:
    """The artifact's, within chapter 3's folder: `--remake inpaint` makes it again."""
    return f"inpaint/{name}"


def _listed(source: str) -> reports.Report:
    """The pictures of a folder, unopened; UserError where there are none, or names that cannot be used."""
    folder = resolve(source)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    paths = pairing.pictures(folder)
    if not paths:
        raise UserError(f"{folder} holds no pictures.")
    names(paths)
    return reports.Report(folder, "pictures", files=paths)


def names(paths: Sequence[Path]) -> list[str]:
    """What pictures are called; UserError where a name cannot be used, or two have the same."""
    by_name: dict[str, Path] = {}
    for path in paths:
        if why := pairing.unusable(path.name):
            raise UserError(f"{printable(str(path))} has a name that cannot be used: {why}.")
        if other := by_name.get(path.stem):
            raise UserError(f"Two pictures are called {path.stem}, {other} and {path}. Rename one of them.")
        by_name[path.stem] = path
    return list(by_name)


def _read(path: Path, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (3, size, size) uint8 and the mask (1, size, size) in {0, 1} that a picture stands for."""
    pixels = np.asarray(rasters.opened(path))
    if name == BACKGROUNDS:
        return fits.fitted(pixels, np.zeros((*pixels.shape[:2], 1), np.uint8), size, FIT)
    lesion = pixels.max(axis=2) > 127
    if not lesion.any():
        raise UserError(f"{path} is an empty mask: no pixel is above 127.")
    if lesion.all():
        raise UserError(f"{path} is a mask that fills its picture: every pixel is above 127.")
    return fits.fitted(np.zeros_like(pixels), lesion[..., None].astype(np.uint8), size, FIT)
