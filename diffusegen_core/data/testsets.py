"""The pairs that no network is trained on: held-out ones of the same kind, and transfer sets (paper 2.6)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations

import cv2
import numpy as np

from diffusegen_core.config import params
from diffusegen_core.store import seeds
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs

REST = "rest"
PHANTOM, KVASIR, HELD_OUT = "Phantom", "HyperKvasir", "Held out"
CVC, POLYPGEN = "CVC-ClinicDB", "PolypGen"
KVASIR_NAME = re.compile(r"c[jk][a-z0-9]{23}")  # unique to an image; names like 001 are everybody's

# Images are compared as SIDE x SIDE grey means, by one minus their correlation. Re-encoded (JPEG 75 and 50),
# resized and brightened or darkened by a tenth, each of the 1000 HyperKvasir and 300 CVC-ClinicDB images is
# nearer to itself than 0.0021. Of HyperKvasir's own half million couples three are nearer than COPY, none
# between the paper's 348 and the rest (the nearest 0.04), and none with CVC-ClinicDB; of the latter's 44,850
# couples, frames of a few videos, eleven.
SIDE, COPY = 16, 0.003
FLAT = 2.0  # grey levels of deviation; what is flatter resembles nothing, but may be equal


@dataclass(frozen=True)
class TestSet:
    """A test set, or why there is none."""

    name: str
    pairs: Pairs | None
    note: str  # what was drawn ("200 of 652"), or why there are no pairs
    same_source: bool = False  # whether it comes from the folder of the training pairs, under the same names


def load(p: Params) -> dict[str, TestSet]:
    """The test sets of a run by name: the held-out one, CVC-ClinicDB, PolypGen; absent ones say why.

    From each, `segment.test_count` pairs are drawn by the run's seed, in the set's own order. A folder is
    read as `dataset.load` reads one, `data.on_bad` included, and cached in the run's `tests` folder. UserError
    where a folder cannot be read, or is given twice.
    """
    refuse_twice(p)
    sets = [_held_out(p), _folder(p, CVC, "cvc"), _folder(p, POLYPGEN, "polypgen")]
    return {one.name: one for one in sets}


def refuse_twice(p: Params) -> None:
    """UserError where one folder is to be two test sets."""
    given = [(key, params.resolve(source)) for key in ("held_out", "cvc", "polypgen")
             if (source := getattr(p.segment, key)) not in (None, REST)]
    for (first, one), (second, other) in combinations(given, 2):
        if one == other:
            raise UserError(f"Parameters: segment.{second}: {other} is segment.{first} as well. Name "
                            "another, or null.")


def refuse_leaks(p: Params, tests: Mapping[str, TestSet]) -> None:
    """UserError, naming the images, where a test image is a training image, or is in two test sets.

    It is one by name, or as a copy (see `copies`). By name counts within one folder, and everywhere for names
    that HyperKvasir alone has; where the paper's 348 are trained on, each of them counts.
    """
    training, given = dataset.load(p), [test for test in tests.values() if test.pairs is not None]
    known = _known(p, training)
    for test in given:
        found = {name: "by name" for name in test.pairs.names
                 if name in known and (test.same_source or KVASIR_NAME.fullmatch(name))}
        found |= copies(test.pairs, training)
        if found:
            raise UserError(f"{len(found)} of the {len(test.pairs)} images of the test set {test.name} are "
                            f"training images: {listed(found)}. Choose another test set.")
    for first, second in combinations(given, 2):
        if found := copies(second.pairs, first.pairs):
            raise UserError(f"{len(found)} of the {len(second.pairs)} images of the test set {second.name} "
                            f"are in the test set {first.name} as well: {listed(found)}. Choose another.")


def copies(pairs: Pairs, others: Pairs) -> dict[str, str]:
    """Which of `pairs` are copies of one of `others`, and how, in words: name -> "a copy of NAME".

    Copies have the same pixels, or were re-encoded, resized, made lighter or darker, or mirrored left to
    right. Both are at the run's size, and neither is empty.
    """
    same = dict(zip(map(_hash, others.images), others.names, strict=True))
    ours, theirs = _looks(pairs.images), _looks(others.images)
    alike = np.stack([ours @ side.reshape(len(others), -1).T for side in
                      (theirs, theirs.reshape(-1, SIDE, SIDE)[..., ::-1])], axis=1)
    found = {}
    for name, image, rows in zip(pairs.names, pairs.images, alike, strict=True):
        mirrored, nearest = np.unravel_index(rows.argmax(), rows.shape)
        if twin := same.get(_hash(image)):
            found[name] = f"the pixels of {twin}"
        elif rows.max() > 1 - COPY:
            found[name] = f"a {'mirrored ' if mirrored else ''}copy of {others.names[nearest]}"
    return found


def listed(found: Mapping[str, str]) -> str:
    """The first few of what `copies` found, and how many more."""
    return some([f"{name} ({how})" for name, how in found.items()])


def _held_out(p: Params) -> TestSet:
    wanted = p.segment.held_out
    if wanted == REST and p.data.source == "phantom":
        first = p.data.count
        drawn = _read(p, PHANTOM, count=first + p.segment.test_count)
        fresh = drawn.take(range(first, len(drawn)))
        return TestSet(PHANTOM, fresh, f"{len(fresh)} fresh ones", same_source=True)
    name = _kind(p)
    if wanted is None:
        return TestSet(name, None, "not given: segment.held_out")
    if wanted == REST:
        return _rest(p, name)
    same = p.data.source != "phantom" and params.resolve(wanted) == params.resolve(p.data.source)
    return _folder(p, name if name == KVASIR else HELD_OUT, "held_out", same)


def _kind(p: Params) -> str:
    """What the training pairs are."""
    if p.data.source == "phantom":
        return PHANTOM
    ours = p.data.subset != "all" or set(dataset.load(p).names) & set(dataset.paper_names())
    return KVASIR if ours else HELD_OUT


def _rest(p: Params, name: str) -> TestSet:
    """Drawn from the pairs of data.source that are neither trained on nor, for paper348, the paper's.

    What shows the same as a training image, as frames of a video do, is left out.
    """
    whole = _read(p, name, source=p.data.source)
    training = dataset.load(p)
    used = _known(p, training)
    rest = whole.take([i for i, pair in enumerate(whole.names) if pair not in used])
    twins = copies(rest, training) if len(rest) else {}
    rest = rest.take([i for i, pair in enumerate(rest.names) if pair not in twins]) if twins else rest
    if not len(rest):
        return TestSet(name, None, "data.source has no pairs beside those that are trained on")
    drawn = _drawn(p, name, rest, same_source=True)
    return replace(drawn, note=f"{drawn.note}; {len(twins)} copies left out") if twins else drawn


def _known(p: Params, training: Pairs) -> set[str]:
    """The names of the run's training pairs, and under paper348 of all that the paper trained on."""
    return set(training.names) | (set(dataset.paper_names()) if p.data.subset == "paper348" else set())


def _folder(p: Params, name: str, key: str, same_source: bool = False) -> TestSet:
    """Drawn from the folder that the parameter segment.KEY names."""
    source = getattr(p.segment, key)
    if source is None:
        return TestSet(name, None, f"not given: segment.{key}")
    try:
        return _drawn(p, name, _read(p, name, source=source), same_source)
    except UserError as error:
        raise UserError(f"Parameters: segment.{key}: {error}") from None


def _drawn(p: Params, name: str, pairs: Pairs, same_source: bool) -> TestSet:
    rng = seeds.rng(p.seed, "test set", name)
    chosen = rng.choice(len(pairs), size=min(p.segment.test_count, len(pairs)), replace=False)
    return TestSet(name, pairs.take(np.sort(chosen)), f"{len(chosen)} of {len(pairs)}", same_source)


def _read(p: Params, name: str, source: str = "phantom", count: int | None = None) -> Pairs:
    """All pairs of a source, read and cached as those of a run of its own in `tests`."""
    changed = {"source": source, "subset": "all", "count": count, "names": None}
    return dataset.load(p.model_copy(update={
        "run_dir": str(p.folder / "tests" / name), "data": p.data.model_copy(update=changed),
        "cluster": p.cluster.model_copy(update={"k": 1})}))  # for a test, one pair is not too few


def _hash(image: np.ndarray) -> bytes:
    return sha256(np.ascontiguousarray(image)).digest()


def _looks(images: np.ndarray) -> np.ndarray:
    """What images (N, 3, S, S) uint8 show: rows (N, SIDE ** 2) of length 1, whose products correlate them."""
    rows = np.stack([cv2.resize(image.mean(axis=0, dtype=np.float32), (SIDE, SIDE),
                                interpolation=cv2.INTER_AREA).ravel() for image in images])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), FLAT * SIDE)
