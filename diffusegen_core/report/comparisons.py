"""Which networks are compared for which claim, in a run's results and in the paper's own tables alike."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import nan
from typing import NamedTuple

import pandas as pd

from diffusegen_core.config.sections import Augment
from diffusegen_core.data.types import GAN, REAL, STYLED, STYLED_PAINT, DataType
from diffusegen_core.report import naming, paperclaims, published
from diffusegen_core.report.paperclaims import Claim

PAPERS_OWN = "HyperKvasir"
TRANSFERS = ("CVC-ClinicDB", "PolypGen")
SMALL_SETS = {1: "B5", 2: "B6", 3: "B7"}  # r -> the paper's table
# Real pairs in a small set: the most for which the paper claims a gain, and a gain on transfer sets only.
SMALL_UP_TO, LARGEST = 64, 128
PRINTED = {"dice": "Dice Score", "iou": "IoU"}  # a measure -> the paper's column


class Net(NamedTuple):
    """One kind of network, trained once per seed. Fields that do not apply are None, as in an Experiment."""

    chapter: str
    data_type: str
    samples: int | None = None
    size: int | None = None
    ratio: int | None = None

    @property
    def label(self) -> str:
        """As "20-Styled-Diff-3", or in a small set "20-Styled-Diff (r = 3)"."""
        if self.ratio is not None:
            return f"{self.data_type} (r = {self.ratio})"
        return self.data_type if self.samples is None else f"{self.data_type}-{self.samples}"


@dataclass(frozen=True)
class Comparison:
    """The first networks against the second, on a test set; or why there is nothing to compare."""

    claim: Claim
    first: Net
    second: Net
    test_set: str
    larger: tuple[Net, Net] | None = None
    """The same two with a larger small set; their difference is subtracted."""
    lacking: str = ""
    """Why there is nothing to compare, a sentence; "" where there is something."""

    @property
    def nets(self) -> tuple[Net, ...]:
        return (self.first, self.second, *(self.larger or ()))

    @property
    def text(self) -> str:
        if self.larger:
            return (f"gain of {self.first.label} over {self.second.label}, {self.first.size} against "
                    f"{self.larger[0].size} real pairs")
        size = "" if self.first.size is None else f", {self.first.size} real pairs"
        return f"{self.first.label} against {self.second.label}{size}"

    def in_words(self, how: Augment) -> str:
        """`text` for a reader who does not know the names: "training on 16 real pairs, with each of
        about half of them replaced by 3 pasted pairs (Paste), against the 16 alone"; `how` is the run's
        `augment`."""
        if self.larger or self.lacking:
            return self.text
        one, other = (DataType.parse(net.data_type) for net in (self.first, self.second))
        if self.first.size is None:
            return (f"training on {naming.named(one, _a_source(self.first))} alone against "
                    f"{naming.named(other, _a_source(self.second))}")
        against = (f"the {self.first.size} alone" if other == REAL else
                   f"the same with {naming.named(other)}")
        return f"training on {naming.mixed(self.first.size, one, self.first.ratio, how)}, against {against}"


def _a_source(net: Net) -> str:
    """How many pairs of each source a network had; "" for real ones."""
    return "" if net.samples is None else f"{net.samples} of each source"


def nets_of(images: pd.DataFrame) -> list[Net]:
    """All kinds of networks in the rows of `Results.images`, in order of appearance."""
    fields = images[list(Net._fields)].drop_duplicates()
    return [Net(row.chapter, row.data_type, *(None if pd.isna(n) else int(n) for n in row[2:]))
            for row in fields.itertuples(index=False, name="Row")]


def among(nets: Collection[Net], own: str, there: Collection[str]) -> Iterator[Comparison]:
    """Every comparison for the paper's claims and for `FILTERING`, by claim. `own` is the test set of the
    training data's kind, `there` are all existing test sets. A claim with nothing to compare gets one
    comparison, whose verdict says what is missing; but `FEWER` is asked only of several cluster counts, and
    `FILTERING` only of a run with a filter."""
    c, tests = paperclaims, [own, *(name for name in TRANSFERS if name in there)]
    types = styled(nets)
    full = [DataType(one.kind, "Full") for one in types[:1]]
    pairs: list[tuple[Claim, Iterable[tuple[DataType, DataType]], Sequence[str]]] = [
        (c.SYNTHETIC, [(one, GAN) for one in types], [own]),
        (c.TRANSFER, [(one, GAN) for one in types], TRANSFERS),
        (c.STYLING, [(one, one.inpainted) for one in types], tests),
        (c.STYLING_FULL, [(one, one.inpainted) for one in full], tests),
        (c.CLUSTERING, [(one, DataType(one.kind, "Full")) for one in types], tests),
        (c.FEWER, [(few, many) for both in (types, [one.inpainted for one in types])
                   for few, many in pairwise(both)], tests)]
    for claim, couples, where in pairs:
        for first, second in couples:
            yield from _alone(claim, nets, first, second, where)
    for one in types:
        yield from _growing(nets, one, tests)
    for claim, make in ((c.SMALL, _small), (c.FADES, _fading), (c.EKES, _eking), (c.PARTLY, _partly)):
        for one in types:
            yield from make(claim, nets, one.name, tests)
    yield from _filtering(nets, tests)


def styled(nets: Collection[Net]) -> list[DataType]:
    """The styled types of the cluster models, by cluster count: what corresponds to Styled-Diff."""
    painted = [DataType.parse(name) for name in {net.data_type for net in nets}]
    clusters = {(one.given_masks, int(one.models)) for one in painted if one.models.isdigit()}
    return [DataType(STYLED_PAINT if given else STYLED, str(k)) for given, k in sorted(clusters)] or [
        DataType(STYLED)]


def _alone(claim: Claim, nets: Collection[Net], first: DataType, second: DataType,
           tests: Sequence[str]) -> Iterator[Comparison]:
    """Chapter 6: two data types, at every number of pairs per source that both have; if there is none, at
    the largest number of any network."""
    counts: list[set[int | None]] = [
        {net.samples for net in nets if net.data_type == one.name and net.samples} for one in (first, second)]
    most = max((net.samples for net in nets if net.samples), default=0) or None
    # Say what is absent once, not for every test set.
    for test_set in tests if all(counts) else tests[:1]:
        for n in sorted(counts[0] & counts[1], key=lambda n: n or 0) or [most]:
            yield Comparison(claim, Net("segment", first.name, n), Net("segment", second.name, n), test_set)


def _growing(nets: Collection[Net], one: DataType, tests: Sequence[str]) -> Iterator[Comparison]:
    """A data type with more pairs per source against itself with fewer."""
    claim = paperclaims.GROWS
    counts = sorted({net.samples for net in nets if net.data_type == one.name and net.samples})
    if len(counts) < 2:
        yield _nothing(claim, f"more pairs of {one}", "fewer", tests[0],
                       f"The results have fewer than two numbers of pairs per source of {one}.")
    for test_set in tests:
        for fewer, more in pairwise(counts):
            yield Comparison(claim, Net("segment", one.name, more), Net("segment", one.name, fewer), test_set)


def _small(claim: Claim, nets: Collection[Net], name: str, tests: Sequence[str]) -> Iterator[Comparison]:
    """Against Real at the largest r, for each number of real pairs at which the paper claims a gain."""
    sizes = [size for size in _sizes(nets) if size <= SMALL_UP_TO]
    if not sizes:
        some = f" of at most {SMALL_UP_TO} real pairs" if _sizes(nets) else ""
        yield _nothing(claim, name, REAL.name, tests[0], f"The results have no small set{some}.")
    for size in sizes:
        yield _against_real(claim, name, size, max(_ratios(nets, name, size), default=None), tests[0])


def _fading(claim: Claim, nets: Collection[Net], name: str, tests: Sequence[str]) -> Iterator[Comparison]:
    """The gain in the smallest sets against that in the largest."""
    sizes = [size for size in _sizes(nets) if _ratios(nets, name, size)]
    shared = _ratios(nets, name, sizes[0]) & _ratios(nets, name, sizes[-1]) if len(sizes) > 1 else set()
    if not shared:
        yield _nothing(claim, name, REAL.name, tests[0],
                       f"The results have fewer than two sizes of small sets with {name} at the same r.")
        return
    for test_set in tests:
        small, large = (_against_real(claim, name, size, max(shared), test_set)
                        for size in (sizes[0], sizes[-1]))
        yield replace(small, larger=(large.first, large.second))


def _eking(claim: Claim, nets: Collection[Net], name: str, tests: Sequence[str]) -> Iterator[Comparison]:
    """Against Real in the paper's largest small set, on the transfer sets."""
    if LARGEST not in _sizes(nets) or len(tests) < 2:
        lacks = f"no small set of {LARGEST} real pairs" if len(tests) > 1 else "no transfer set"
        yield _nothing(claim, name, REAL.name, TRANSFERS[0], f"The results have {lacks}.")
        return
    for test_set in tests[1:]:
        yield _against_real(claim, name, LARGEST, max(_ratios(nets, name, LARGEST), default=None), test_set)


def _partly(claim: Claim, nets: Collection[Net], name: str, tests: Sequence[str]) -> Iterator[Comparison]:
    """Against the GAN at the largest r that both have, for each number of real pairs."""
    both = {size: _ratios(nets, name, size) & _ratios(nets, GAN.name, size) for size in _sizes(nets)}
    if not any(both.values()):
        yield _nothing(claim, name, GAN.name, tests[0],
                       f"The results have no small set with both {name} and {GAN}.")
    for test_set in tests:
        for size, ratios in both.items():
            if ratios:
                first, second = (Net("augment", one, None, size, max(ratios)) for one in (name, GAN.name))
                yield Comparison(claim, first, second, test_set)


def _filtering(nets: Collection[Net], tests: Sequence[str]) -> Iterator[Comparison]:
    """What the filter keeps of a type against all of it, at the same numbers of pairs, wherever both exist;
    in small sets at the largest r that both have."""
    both = [(net, plain) for net in nets if DataType.parse(net.data_type).is_filtered
            and (plain := net._replace(data_type=DataType.parse(net.data_type).unfiltered.name)) in nets]
    for net, plain in both:
        largest = max(other.ratio or 0 for other, _ in both
                      if other._replace(ratio=None) == net._replace(ratio=None))
        if (net.ratio or 0) == largest:
            yield from (Comparison(paperclaims.FILTERING, net, plain, test_set) for test_set in tests)


def _against_real(claim: Claim, name: str, size: int, r: int | None, test_set: str) -> Comparison:
    return Comparison(claim, Net("augment", name, None, size, r), Net("augment", REAL.name, None, size),
                      test_set)


def _nothing(claim: Claim, first: str, second: str, test_set: str, lacking: str) -> Comparison:
    return Comparison(claim, Net(claim.chapter, first), Net(claim.chapter, second), test_set, lacking=lacking)


def _sizes(nets: Collection[Net]) -> list[int]:
    return sorted({net.size for net in nets if net.size})


def _ratios(nets: Collection[Net], name: str, size: int) -> set[int]:
    return {net.ratio for net in nets if net.data_type == name and net.size == size and net.ratio}


# ---- the paper's own


def in_paper(one: Comparison) -> float:
    """The paper's own difference; NaN where it lacks exactly these data types and numbers. A run's own test
    set is matched with the paper's own, whatever its name."""
    test_set = one.test_set if one.test_set in TRANSFERS else PAPERS_OWN
    if one.lacking:
        return nan
    values = [_cells().get((net, test_set, PRINTED.get(one.claim.measure, "")), nan) for net in one.nets]
    return sum(sign * value for sign, value in zip((1, -1, -1, 1), values, strict=False))


def of_paper(claim: Claim) -> tuple[int, int]:
    """How many of the paper's own cells that a claim was made for bear it out, and how many there are."""
    values = [in_paper(one) for one in _paper_comparisons() if one.claim == claim
             and DataType.parse(one.first.data_type).models in (*map(str, claim.clusters), "Full")]
    return sum(value > 0 for value in values), len(values)


@cache
def _paper_comparisons() -> list[Comparison]:
    return list(among(list(dict.fromkeys(net for net, _, _ in _cells())), PAPERS_OWN, TRANSFERS))


@cache
def _cells() -> dict[tuple[Net, str, str], float]:
    """Every score of the paper's networks, by network, test set and column."""
    cells = {}
    for row in published.by_clusters("2").itertuples():
        name, _, n = str(row.data_type).rpartition("-")
        net = Net("segment", name, int(n)) if name else Net("segment", str(row.data_type))
        cells[net, str(row.test_set), str(row.metric)] = float(row.value)
    for r, table in SMALL_SETS.items():
        for row in published.table(table).itertuples():
            net = Net("augment", str(row.data_type), None, int(row.n),
                      None if row.data_type == REAL.name else r)
            cells[net, str(row.test_set), str(row.metric)] = float(row.value)
    return cells
