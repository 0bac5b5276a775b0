"""The pairs that no network is trained on: held-out ones of the same kind, and transfer sets (paper 2.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from diffusegen_core import data, params, seeds
from diffusegen_core.data import Pairs
from diffusegen_core.errors import UserError
from diffusegen_core.params import Params

REST = "rest"
PHANTOM, KVASIR, HELD_OUT = "Phantom", "HyperKvasir", "Held out"
CVC, POLYPGEN = "CVC-ClinicDB", "PolypGen"


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
    read as `data.load` reads one, `data.on_bad` included, and cached in the run's `tests` folder. UserError
    where a folder cannot be read.
    """
    sets = [_held_out(p), _folder(p, CVC, "cvc"), _folder(p, POLYPGEN, "polypgen")]
    return {one.name: one for one in sets}


def refuse_leaks(tests: Mapping[str, TestSet], training: Pairs) -> None:
    """UserError, naming the images, where a test image has a training image's pixels or is one by name."""
    pixels = dict(zip(map(_hash, training.images), training.names, strict=True))
    names = set(training.names)
    for test in tests.values():
        if test.pairs is None:
            continue
        twins = [(name, pixels.get(_hash(image))) for name, image in
                 zip(test.pairs.names, test.pairs.images, strict=True)]
        leaks = [f"{name} ({'by name' if twin is None else f'the pixels of {twin}'})" for name, twin in twins
                 if twin is not None or (test.same_source and name in names)]
        if leaks:
            more = f" and {len(leaks) - 5} more" if len(leaks) > 5 else ""
            raise UserError(f"{len(leaks)} of the {len(test.pairs)} images of the test set {test.name} are "
                            f"training images: {', '.join(leaks[:5])}{more}. Choose another test set.")


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
    ours = p.data.subset != "all" or set(data.load(p).names) & set(data.paper_names())
    return KVASIR if ours else HELD_OUT


def _rest(p: Params, name: str) -> TestSet:
    """Drawn from the pairs of data.source that are neither trained on nor, for paper348, the paper's."""
    whole = _read(p, name, source=p.data.source)
    used = set(data.load(p).names) | (set(data.paper_names()) if p.data.subset == "paper348" else set())
    left = [i for i, pair in enumerate(whole.names) if pair not in used]
    if not left:
        return TestSet(name, None, "data.source has no pairs beside those that are trained on")
    return _drawn(p, name, whole.take(left), same_source=True)


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
    return data.load(p.model_copy(update={
        "run_dir": str(p.folder / "tests" / name), "data": p.data.model_copy(update=changed),
        "cluster": p.cluster.model_copy(update={"k": 1})}))  # for a test, one pair is not too few


def _hash(image: np.ndarray) -> bytes:
    return sha256(np.ascontiguousarray(image)).digest()
