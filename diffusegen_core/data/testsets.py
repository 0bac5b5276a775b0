"""The pairs that no network is trained on: held-out ones of the same kind, and transfer sets (paper 2.6)."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.params import Params, resolve
from diffusegen_core.config.sections import TESTS, Segment
from diffusegen_core.data import dataset, fits, layouts, patients, related, selection, sequences, sidecars
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.sequences import CVC, POLYPGEN, Grouped
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.workspace import Workspace

REST = "rest"
PHANTOM, KVASIR, HELD_OUT = "Phantom", "HyperKvasir", "Held out"
TRANSFER = {"cvc": CVC, "polypgen": POLYPGEN}  # the names of the other sets, by their parameters
KVASIR_NAME = re.compile(r"c[jk][a-z0-9]{23}")  # unique to an image, unlike names such as 001

# Images are compared as SIDE x SIDE grey means, by one minus their correlation. Re-encoded (JPEG 75 and 50),
# resized and brightened or darkened by a tenth, each of the 1000 HyperKvasir and 300 CVC-ClinicDB images is
# nearer to itself than 0.0021. Of HyperKvasir's own half million pairs of images, three are nearer than COPY,
# none between the paper's 348 and the rest (the nearest 0.04), and none with CVC-ClinicDB; of the latter's
# 44,850 pairs, frames of a few videos, eleven are.
SIDE, COPY = 16, 0.003
FLAT = 2.0  # standard deviation in grey levels; flatter images resemble nothing, but may be equal


@dataclass(frozen=True)
class TestSet:
    """A test set, or why there is none."""

    name: str
    pairs: Pairs | None
    """What was drawn, stored where a worker can read it; None where there is no such set."""
    note: str
    """What was drawn ("200 of 652"), or why there are no pairs."""
    same_source: bool = False
    """Whether it comes from the folder of the training pairs, under the same names."""
    layout: str = ""
    """The layout of the folder that it was drawn from, as in layouts.LAYOUTS; "" where it is unknown."""
    patients: Mapping[str, str] | None = None
    """The patient of each image, where data.patients gives it, or its sequence, where the layout does."""
    volumes: Mapping[str, str] | None = None
    """Image -> volume, for each that is a slice of one."""

    @cached_property
    def groups(self) -> Grouped | None:
        """Which images belong together, by patients, volumes, the layout or the set's name; else None."""
        names = self.pairs.names if self.pairs else []
        return (sequences.of_patients(self.patients or {}, names, self.layout)
                or sequences.of_volumes(self.volumes or {}, names)
                or sequences.of_layout(self.layout, names) or sequences.grouped(self.name, names))


def load(ws: Workspace, training: Pairs, data: Data, settings: Segment) -> dict[str, TestSet]:
    """The test sets of a run by name: the held-out one, CVC-ClinicDB, PolypGen; absent ones say why.

    From each, `test_count` pairs are drawn by the run's seed, in the set's own order. A folder is read as
    `dataset.load` reads one, `data.on_bad` included. All its pairs are stored as the artifact tests/NAME,
    those that were drawn as tests/NAME-drawn. `training` are the run's pairs, and `data` is where they come
    from. Raises UserError where a folder cannot be read, or is given twice.
    """
    refuse_twice(settings)
    source = _Source(ws, training, data, settings)
    sets = [_held_out(source), *(_folder(source, name, key) for key, name in TRANSFER.items())]
    return {test.name: test for test in sets}


def native_sizes(folder: Path, name: str) -> dict[str, tuple[int, int]]:
    """Height and width of the own files of each pair in a run folder's test set, by the pair's name."""
    return sidecars.native_sizes(folder / "tests" / name / dataset.PAIRS)


def held_out(ws: Workspace, training: Pairs, data: Data, settings: Segment) -> TestSet:
    """The held-out set alone, as `load` gives it."""
    return _held_out(_Source(ws, training, data, settings))


def check(p: Params, keys: Collection[str] = TESTS) -> Iterator[str]:
    """What `load` would refuse of the test sets that the parameters `keys` name, as far as a listing of their
    folders shows."""
    everything = p.data.model_copy(update={"subset": "all"})
    for key, folder in ((key, folder) for key, folder in folders(p.segment).items() if key in keys):
        # Which of the two names a held-out set gets depends on the training images.
        names = [TRANSFER[key]] if key in TRANSFER else [KVASIR, HELD_OUT]
        if not any(dataset.remembered(p.folder / "tests" / name, getattr(p.segment, key)) for name in names):
            yield from refusals([partial(dataset.refuse_unreadable, everything, str(folder))],
                                f"segment.{key}")
    yield from refusals([lambda: refuse_twice(p.segment, keys)])


def lacking(p: Params) -> str:
    """Why a run will have no held-out pairs, as far as a listing of its folder shows; "" where it will."""
    wanted, data = p.segment.held_out, p.data
    if wanted is None:
        return "segment.held_out is null"
    if wanted != REST or data.drawn or data.held_share:
        return ""
    folder = resolve(data.source)
    if not folder.is_dir():
        return ""  # not known yet
    report = layouts.scan(folder, data)
    told, held = patients.split(report, data, p.seed)
    used = set(selection.listed(data, report, dataset.paper_names(), held))
    seen = {told.get(name) for name in used} - {None}
    left = [pair for pair in report.pairs if pair.name not in used and told.get(pair.name) not in seen]
    if left:
        return ""
    if len(used) == len(report.pairs):
        return f"data.holdout is null, and all {len(report.pairs)} pairs are trained on"
    return "data.holdout is null, and all other pairs are of patients or sequences that are trained on"


def folders(settings: Segment) -> dict[str, Path]:
    """The folders to use as test sets, by the parameter that names each."""
    named = {key: getattr(settings, key) for key in TESTS}
    return {key: resolve(source) for key, source in named.items() if source not in (None, REST)}


def refuse_twice(settings: Segment, keys: Collection[str] = TESTS) -> None:
    """Raise UserError where two of the test sets that the parameters `keys` name are one folder."""
    known = [(key, folder) for key, folder in folders(settings).items() if key in keys]
    for (first, one), (second, other) in combinations(known, 2):
        if one == other:
            raise UserError(f"Parameters: segment.{second}: {other} is segment.{first} as well. Name "
                            "another, or null.")


def refuse_leaks(training: Pairs, data: Data, tests: Mapping[str, TestSet]) -> None:
    """Raise UserError, naming the images, where a test image is a training image, or is in two test sets.

    A training image is recognised by name or as a copy (see `copies`), an image of two test sets as a copy.
    Names count within one folder, and everywhere if they have HyperKvasir's unique form; where the paper's
    348 are trained on, each of these counts.
    """
    known = _known(training, data)
    drawn = [(test, test.pairs) for test in tests.values() if test.pairs is not None]
    for test, pairs in drawn:
        leaks = {name: "by name" for name in pairs.names
                 if name in known and (test.same_source or KVASIR_NAME.fullmatch(name))}
        leaks |= copies(pairs, training)
        if leaks:
            raise UserError(f"{len(leaks)} of the {len(pairs)} images of the test set {test.name} are "
                            f"training images: {listed(leaks)}. Choose another test set.")
    for (first, one), (second, other) in combinations(drawn, 2):
        if leaks := copies(other, one):
            raise UserError(f"{len(leaks)} of the {len(other)} images of the test set {second.name} "
                            f"are in the test set {first.name} as well: {listed(leaks)}. Choose another.")


def copies(pairs: Pairs, others: Pairs) -> dict[str, str]:
    """Which of `pairs` are copies of one of `others`, and how, in words: name -> "a copy of NAME".

    Copies have the same pixels, or were re-encoded, resized, made lighter or darker, or mirrored left to
    right. Both are at the run's size, and neither is empty; black bars around a picture are ignored.
    """
    same = dict(zip(map(files.pixel_hash, others.images), others.names, strict=True))
    ours, theirs = (looks([one if name not in some.padded else fits.content(one, some.padded[name])
                           for name, one in zip(some.names, some.images, strict=True)])
                    for some in (pairs, others))
    alike = np.stack([ours @ side.reshape(len(others), -1).T for side in
                      (theirs, theirs.reshape(-1, SIDE, SIDE)[..., ::-1])], axis=1)
    copied = {}
    for name, image, rows in zip(pairs.names, pairs.images, alike, strict=True):
        mirrored, nearest = np.unravel_index(rows.argmax(), rows.shape)
        if twin := same.get(files.pixel_hash(image)):
            copied[name] = f"the pixels of {twin}"
        elif rows.max() > 1 - COPY:
            copied[name] = f"a {'mirrored ' if mirrored else ''}copy of {others.names[nearest]}"
    return copied


def listed(copied: Mapping[str, str]) -> str:
    """The first few of what `copies` returned, and how many more."""
    return some([f"{name} ({how})" for name, how in copied.items()])


@dataclass(frozen=True)
class _Source:
    """What test sets are read from and drawn by."""

    ws: Workspace
    training: Pairs
    data: Data
    settings: Segment

    def read(self, name: str, source: str, count: int | None = None) -> Pairs:
        """All pairs of a source, the run's own included, as the artifact tests/NAME."""
        whole = {"source": source, "subset": "all", "count": count, "names": None, "holdout": None,
                 "patients": None}
        data = self.data if source == self.data.source else layouts.for_folder(self.data, resolve(source))
        # So that a value is the same grey as in the training images.
        data = sidecars.as_read(data, self.training.file)
        return dataset.load(self.ws, data.model_copy(update=whole), name=f"tests/{name}", parted=False)

    def drawn(self, name: str, pairs: Pairs, same_source: bool, whole: Pairs) -> TestSet:
        """A test set of `test_count` of the pairs, or of all if fewer; `whole` are all of their folder."""
        rng = seeds.rng(self.ws.seed, "test set", name)
        chosen = rng.choice(len(pairs), size=min(self.settings.test_count, len(pairs)), replace=False)
        return TestSet(name, self.kept(name, pairs.take(np.sort(chosen))), f"{len(chosen)} of {len(pairs)}",
                       same_source, related.layout_of(whole), volumes=sidecars.volumes(whole.file))

    def kept(self, name: str, pairs: Pairs) -> Pairs:
        return dataset.keep(self.ws, f"tests/{name}-drawn", pairs)


def _held_out(source: _Source) -> TestSet:
    wanted, data = source.settings.held_out, source.data
    if wanted == REST and data.drawn:
        first = data.count or 0
        phantoms = source.read(PHANTOM, data.source, first + source.settings.test_count)
        fresh = source.kept(PHANTOM, phantoms.take(range(first, len(phantoms))))
        return TestSet(PHANTOM, fresh, f"{len(fresh)} fresh ones", same_source=True)
    name = _kind(source.training, data)
    if wanted is None:
        return TestSet(name, None, "not given: segment.held_out")
    if wanted == REST:
        return _rest(source, name)
    same = not data.drawn and resolve(wanted) == resolve(data.source)
    return _folder(source, name if name == KVASIR else HELD_OUT, "held_out", same)


def _kind(training: Pairs, data: Data) -> str:
    """The name for a test set of the training pairs' kind."""
    if data.drawn:
        return PHANTOM
    if data.held_share:  # no test set of the paper's, whatever the pairs are
        return HELD_OUT
    ours = data.subset != "all" or set(training.names) & set(dataset.paper_names())
    return KVASIR if ours else HELD_OUT


def _rest(source: _Source, name: str) -> TestSet:
    """A set drawn from the pairs of data.source that are held out; where data.holdout is not in use, from
    those that are neither trained on nor, for paper348, the paper's.

    Left out is what shows the same as a training image, as frames of a video do, and what is of a patient,
    sequence or volume that other images in training are of.
    """
    whole, used = source.read(name, source.data.source), _known(source.training, source.data)
    told, held = patients.read(source.training.file)
    parts = told or sidecars.volumes(whole.file)  # which also has pairs that are not trained on
    seen = {parts.get(pair) for pair in used} - {None}
    rest = whole.take([i for i, pair in enumerate(whole.names) if pair not in used
                       and parts.get(pair) not in seen and (not source.data.held_share or pair in held)])
    twins = copies(rest, source.training) if len(rest) else {}
    rest = rest.take([i for i, pair in enumerate(rest.names) if pair not in twins]) if twins else rest
    if not len(rest):
        others = len(set(whole.names) - used)
        return TestSet(name, None, f"all {others} other pairs of data.source are of patients, sequences or "
                       "volumes that are trained on, or are copies of training pairs" if others else
                       "data.source has no pairs beside those that are trained on")
    drawn = replace(source.drawn(name, rest, True, whole), patients=told or None)
    return replace(drawn, note=f"{drawn.note}; {len(twins)} copies left out") if twins else drawn


def _known(training: Pairs, data: Data) -> set[str]:
    """The names of the run's training pairs, and under paper348 of all that the paper trained on."""
    return set(training.names) | (set(dataset.paper_names()) if data.subset == "paper348" else set())


def _folder(source: _Source, name: str, key: str, same_source: bool = False) -> TestSet:
    """A set drawn from the folder that the parameter segment.KEY names."""
    folder = getattr(source.settings, key)
    if folder is None:
        return TestSet(name, None, f"not given: segment.{key}")
    try:
        pairs = source.read(name, folder)
        return source.drawn(name, pairs, same_source, pairs)
    except NotMadeError:
        raise
    except UserError as error:
        raise UserError(f"Parameters: segment.{key}: {error}") from None


def looks(images: Iterable[np.ndarray]) -> np.ndarray:
    """What images (C, H, W) uint8 show: rows (N, SIDE ** 2) of length 1, or less if FLAT, to correlate."""
    rows = np.stack([cv2.resize(image.mean(axis=0, dtype=np.float32), (SIDE, SIDE),
                                interpolation=cv2.INTER_AREA).ravel() for image in images])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), FLAT * SIDE)
