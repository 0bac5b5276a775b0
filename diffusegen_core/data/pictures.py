"""Pictures that are not pairs: masks to paint by (inpaint.masks), and pictures without lesions to paint into
(inpaint.backgrounds). A folder holds nothing else; its pictures are stored in the run like pairs.

The run's own parameters say how pictures are read. Where images are RGB with one class and data.labels is not
set, a mask is what is above 127; where data.labels tells classes apart by file names, the numbers in a mask
are those of data.classes, from 1.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params, resolve
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import (
    dataset,
    fits,
    intensities,
    labels,
    layouts,
    pairing,
    rasters,
    reading,
    reports,
    sidecars,
    testsets,
)
from diffusegen_core.data.dataset import PAIRS, Pairs
from diffusegen_core.data.labels import Rule
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import JOINT, OWN, VARIED
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same files would give other pixels
MASKS, BACKGROUNDS = "masks", "backgrounds"  # parameters of `inpaint`, and artifacts beside its pairs


def folders(settings: Inpaint) -> dict[str, str]:
    """The folders to read, under MASKS and BACKGROUNDS, where the parameter names one."""
    named = {} if settings.masks in (JOINT, OWN, VARIED) else {MASKS: settings.masks}
    return named if settings.backgrounds is None else {**named, BACKGROUNDS: settings.backgrounds}


def load(ws: Workspace, name: str, source: str, size: int, data: Data = PLAIN) -> Pairs:
    """The pictures of a folder, squared at `size` pixels and stored as an artifact.

    `name` is BACKGROUNDS, for images with empty masks, or MASKS, for masks with black images. `data` are the
    run's parameters. Raises UserError for a picture that cannot be read, and for a mask that is empty or
    fills its picture.
    """
    how = sidecars.as_read(layouts.of_others(data, resolve(source)), ws.folder / "data" / PAIRS)
    place, asked = _place(name), {"version": VERSION, "image_size": size, **layouts.told_of(how)}
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
        read = _images(listed, size, how) if name == BACKGROUNDS else _masks(listed, size, how)
        called = [path.stem for path in listed.files]
        pairs = dataset.gather(called, np.stack([image for image, _, _ in read]),
                               np.stack([mask for _, mask, _ in read]), Planes.of(how).overlap)
        outputs = [dataset.write(folder, pairs)]
        if how.fit == "pad":
            outputs += sidecars.write_padded(folder, {
                one: shape for one, (_, _, shape) in zip(called, read, strict=True) if shape[0] != shape[1]})
        files.write_json(folder / dataset.SOURCE, hashes)
        artifact.finish(outputs, time.monotonic() - start, origin=source, pairs=len(pairs))
    return dataset.read(artifact.file(PAIRS))


def refuse_leaks(ws: Workspace, source: str | None, size: int, tests: Mapping[str, TestSet],
                 data: Data = PLAIN) -> None:
    """Raise UserError, naming pictures, where a background is a copy of a test image: networks are trained on
    what is painted into it."""
    if source is None:
        return
    pairs = load(ws, BACKGROUNDS, source, size, data)
    for test in tests.values():
        if test.pairs is not None and (copied := testsets.copies(pairs, test.pairs)):
            raise UserError(f"Parameters: inpaint.backgrounds: {len(copied)} of the {len(pairs)} pictures "
                            f"are images of the test set {test.name}: {testsets.listed(copied)}. Take them "
                            "out, or choose another test set.")


def check(p: Params) -> Iterator[str]:
    """What `load` would refuse, as far as a listing of the folders shows."""
    for name, source in folders(p.inpaint).items():
        if not dataset.remembered(p.folder / _place(name), source):
            yield from refusals([partial(_listed, source)], f"inpaint.{name}")


def _place(name: str) -> str:
    """The artifact's name, within chapter 3's folder: `--remake inpaint` makes it again."""
    return f"inpaint/{name}"


def _listed(source: str) -> reports.Report:
    """The unopened pictures of a folder; UserError where there are none, or one has an unusable name."""
    folder = resolve(source)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    paths = pairing.pictures(folder)
    if not paths:
        raise UserError(f"{folder} holds no pictures.")
    names(paths)
    return reports.Report(folder, "pictures", files=paths)


def names(paths: Sequence[Path]) -> list[str]:
    """The names of pictures; UserError where one cannot be used, or two are the same."""
    by_name: dict[str, Path] = {}
    for path in paths:
        if why := pairing.unusable(path.name):
            raise UserError(f"{printable(str(path))} has a name that cannot be used: {why}.")
        if other := by_name.get(path.stem):
            raise UserError(f"Two pictures are called {path.stem}, {other} and {path}. Rename one of them.")
        by_name[path.stem] = path
    return list(by_name)


Squared = tuple[np.ndarray, np.ndarray, tuple[int, int]]
"""An image (C, size, size) uint8, a mask (M, size, size) in {0, 1}, and their native height and width."""


def _images(listed: reports.Report, size: int, how: Data) -> list[Squared]:
    """Images, with empty masks."""
    if layouts.is_plain(how) and how.intensities == "full":
        shown = [np.asarray(rasters.opened(path)) for path in listed.files]
    else:
        shown = images_of(listed.files, how)
    nothing = (np.zeros((*image.shape[:2], len(how.classes)), np.uint8) for image in shown)
    return [(*fits.fitted(image, mask, size, how.fit), mask.shape[:2])
            for image, mask in zip(shown, nothing, strict=True)]


def images_of(paths: Sequence[Path], how: Data) -> list[np.ndarray]:
    """Images (H, W, C) uint8 of files, read like those of a run's pairs; percentiles are those of these files
    together. UserError for a file that cannot be read like that."""
    decoded, shown = [rasters.decoded(path) for path in paths], []
    try:
        scale = intensities.of_set(how, decoded)
    except ValueError as error:
        raise UserError(f"{paths[0].parent}: {error}.") from None
    for path, raster in zip(paths, decoded, strict=True):
        try:
            pixels = intensities.to_bytes(raster, scale)
        except ValueError as error:
            raise UserError(f"{path}: {error}.") from None
        image = reading.with_channels(pixels, how.channels)
        if image is None:
            raise UserError(f"{path} has {pixels.shape[2]} channels, but data.channels is {how.channels}.")
        shown.append(image)
    return shown


def _masks(listed: reports.Report, size: int, how: Data) -> list[Squared]:
    """Masks, with black images."""
    read = []
    for path in listed.files:
        mask = _classes(path, how)
        union = mask.any(axis=2)
        plain = layouts.is_plain(how)
        above = "no pixel is above 127" if plain else f"no pixel is of {', '.join(how.classes)}"
        if not union.any():
            raise UserError(f"{path} is an empty mask: {above}.")
        if union.all():
            every = "every pixel is above 127" if plain else "every pixel is of a class"
            raise UserError(f"{path} is a mask that fills its picture: {every}.")
        black = np.zeros((*union.shape, how.channels), np.uint8)
        read.append((*fits.fitted(black, mask, size, how.fit), mask.shape[:2]))
    return read


def _classes(path: Path, how: Data) -> np.ndarray:
    """The mask (H, W, M) in {0, 1} of a file."""
    if layouts.is_plain(how):
        return (np.asarray(rasters.opened(path)).max(axis=2) > 127).astype(np.uint8)[..., None]
    return mask_of(path, how)


def mask_of(path: Path, how: Data) -> np.ndarray:
    """The mask (H, W, M) in {0, 1} of a file by data.labels; where these go by file names, by the numbers of
    data.classes, from 1, or an array with a plane for each of several. UserError for a file that cannot be
    read, or has unmapped values."""
    raster = rasters.decoded(path)
    if how.label_kind == "name":
        planar = raster.format == "NumPy" and raster.values.shape[2] == len(how.classes) > 1
        numbers = {str(place + (not planar)): (place,) for place in range(len(how.classes))}
        rule = Rule(how.classes, "value", numbers, how.overlap)
    else:
        rule = labels.rule(how)
    mask, complaints = labels.read(rule, raster)
    wrong = [f"{problem}, {detail}" for problem, detail in complaints if problem != labels.EMPTY]
    if wrong:
        raise UserError(f"{path}: {wrong[0]}.")
    return mask
