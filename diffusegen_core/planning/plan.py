"""The cost of a run, before anything runs: FLOP, images, disk and time of each chapter.

The work is counted (see `flops`); the time is the work divided by the rate that a short probe of each kind of
work reaches on the device (see `probe`). Every number is for a run from scratch, with no pair left out.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pandas as pd

from diffusegen_core.chapters import (
    augment,
    cluster,
    evaluate,
    gan,
    inpaint,
    paste,
    scorers,
    segment,
    style,
    train,
)
from diffusegen_core.chapters.costs import Cost, Work
from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import duration, scaled, size
from diffusegen_core.data import dataset
from diffusegen_core.data.types import GAN, REAL
from diffusegen_core.planning import flops, pace, probe
from diffusegen_core.segmentation import trainsets

# How a plan counts the time of a training on several cards, in words.
AS_MANY = "Its time is that of one GPU divided by their number; waiting for each other is not counted."
ALL_AS_ONE = "On a processor these are processes that share its cores, so the time is that of one."
COLUMNS = [field.name for field in fields(Cost)]
SUMMED = ["items", "images", "flop", "disk"]
LONGEST = 3600  # seconds that a probe may take
NOTES = """\
Images are passes of one image through a network or, for a SinGAN, training steps. The largest item is what
one machine does in one piece: a model, a batch of images, a source, an experiment. Disk is an upper limit on
what is kept: pixels uncompressed, weights at 4 bytes. Work is convolutions and matrix products.
Not counted: reading and decoding, K-means, distances and the audit's correlations, norms and optimizers,
augmentation, tables, figures and the book, caches of test sets, pairs that will be left out, loading models
and writing checkpoints{checkpoints}."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    table: pd.DataFrame
    """One row per chapter and kind of work, columns COLUMNS (FLOP, bytes), and `seconds` if the device was
    probed, nan where the probe ran out of memory."""
    profile: str
    pairs: int
    note: str
    """How the number of pairs is known."""
    rates: pd.DataFrame | None
    """What the probe found, one row per kind, columns probe.COLUMNS; None if no probe was asked for."""
    device: str  # in words
    beside: tuple[int, str] | None = None
    """How many workers fit on the device at once, and why; None if not probed."""
    busy: str = ""
    """A sentence if other programs are computing on this machine; "" if not, or if that is unknown."""
    together: str = ALL_AS_ONE
    """How the time of work that several cards share is counted, in words."""

    @property
    def chapters(self) -> pd.DataFrame:
        """The sums of each chapter, and its largest item."""
        summed = [*SUMMED, *(["seconds"] if "seconds" in self.table else [])]
        return self.table.groupby("chapter", sort=False).agg(
            {**dict.fromkeys(summed, lambda column: column.sum(skipna=False)), "largest": "max",
             "temporary": "max"})

    @property
    def text(self) -> str:
        """The plan as text, for a terminal."""
        shown, total, cards = self.table, self.table[SUMMED].sum(), int(self.table["cards"].max())
        columns = {
            "chapter": [f"{NUMBERS[name]} {name}" for name in shown["chapter"]], "work": shown["work"],
            "items": shown["items"].map("{:,}".format), "images": shown["images"].map("{:,}".format),
            **({"GPUs": shown["cards"]} if cards > 1 else {}), "FLOP": shown["flop"].map(flop),
            "largest item": shown["largest"].map(flop), "disk": shown["disk"].map(size)}
        time = "time not measured"
        if self.rates is not None:
            whole = shown["seconds"].sum(skipna=False)
            time = _time(whole) if np.isnan(whole) else f"{_time(whole)} if items run one after the other"
            columns["time"] = shown["seconds"].map(_time)
            columns["of the largest"] = (shown["seconds"] * (shown["largest"] / shown["flop"]).fillna(0)
                                         ).map(_time)
        lines = [f"In all: {time}; {size(total['disk'])} on disk, and at most "
                 f"{size(self.table['temporary'].max())} more for checkpoints; {flop(total['flop'])}."]
        lines += [self.busy] if self.busy else []
        if cards > 1:
            lines += [f"{cards} GPUs train a model together (train.devices). {self.together}"]
        lines += [f"{self.profile}: {self.pairs} pairs ({self.note}).", "",
                  pd.DataFrame(columns).to_string(index=False), ""]
        if self.rates is not None:
            lines += [f"Measured on {self.device}:", _rates(self.rates), ""]
            if self.beside:
                lines += ["Workers side by side (--workers): {} ({}).".format(*self.beside), ""]
        else:
            lines += [f"The device is {self.device}; no time was measured.", ""]
        checkpoint = self.table.loc[self.table["kind"] == "training", "temporary"].max()
        written = f" ({size(checkpoint)} every train.checkpoint_every steps)" if checkpoint else ""
        return "\n".join([*lines, NOTES.format(checkpoints=written)])


def make(p: Params, seconds: float = 20.0) -> Plan:
    """Count a run's work and, unless `seconds` is 0, probe the device for about that long.

    Raises UserError where the number of pairs cannot be known or is less than cluster.k, a parameter names a
    network that does not exist, or `seconds` is not between 0 and LONGEST.
    """
    if not 0 <= seconds <= LONGEST:
        raise UserError(f"--seconds {seconds:g}: the device can be probed for 0 to {LONGEST} seconds.")
    count, note = pairs(p)
    if count < p.cluster.k:
        raise UserError(f"{p.data.source}: {count} pairs are too few for cluster.k {p.cluster.k}.")
    p, device = at_hand(p)
    work = flops.count(p)
    table = pd.DataFrame(map(asdict, rows(p, count, work)), columns=COLUMNS)
    rates = beside = None
    busy = probe.busy(devices.device(p.device)) if seconds else ""  # before the probe adds its own load
    if seconds:
        rates = probe.rates(p, work, [kind for kind in probe.KINDS if table.loc[
            table["kind"] == kind, "flop"].sum()], seconds)
        pace.remember(p, rates, bool(busy))
        rate = table["kind"].map(rates.set_index("kind")["rate"])
        at_once = table["cards"] if devices.on_cards(p.device) else 1
        table["seconds"] = (table["flop"] / rate / at_once).where(table["flop"] > 0, 0.0)
        beside = probe.side_by_side(rates, devices.device(p.device))
    together = AS_MANY if devices.on_cards(p.device) else ALL_AS_ONE
    return Plan(table, p.profile, count, note, rates, device, beside, busy, together)


def at_hand(p: Params) -> tuple[Params, str]:
    """The parameters and the device's name; with another device where theirs is not on this machine."""
    try:
        return p, devices.name(p.device, p.train.precision)
    except UserError:
        other = p.model_copy(update={"device": "auto"})
        there = devices.name(other.device, p.train.precision)
        return other, f"{there} ({p.device}, which the parameters name, is unavailable)"


def pairs(p: Params) -> tuple[int, str]:
    """How many pairs a run will have, and how that is known. No image is opened."""
    return dataset.expected(p.data, p.seed)


def rows(p: Params, count: int, work: Work) -> Iterator[Cost]:
    """The work of a run with `count` pairs."""
    supply = _supply(p, count)
    yield from generation(p, count, work)
    if GAN in supply:
        yield from gan.costs(p.gan, p.data.image_size, supply[GAN], work)
    models = p.cluster.k + (p.train.full_images is not None)
    held_out = p.segment.test_count if p.segment.held_out is not None else 0
    yield from evaluate.costs(p.evaluate, count, supply, work, held_out, models)
    chosen = trainsets.with_filtered(supply, p.filter)
    yield from segment.costs(p.segment, chosen, work)
    yield from _small_generators(p, supply[REAL].sources, work)
    yield from augment.costs(p.augment, p.segment, chosen, work)


def generation(p: Params, count: int, work: Work) -> Iterator[Cost]:
    """The work of chapters 1 to 4, and of the filter's networks."""
    supply, side = _supply(p, count), p.data.image_size
    yield from cluster.costs(count, side, work, len(p.data.classes))
    yield from _of_all(p, train.costs(p.train, p.cluster.k, side, work))
    yield from _of_all(p, inpaint.costs(p.inpaint, supply, side, work))
    yield from paste.costs(supply, side, work)
    yield from _of_all(p, style.costs(p.style, supply, side, work))
    yield from scorers.costs(count, p.filter, p.segment, work)


def _of_all(p: Params, costs: Iterator[Cost]) -> Iterator[Cost]:
    """The work of all generators of a run, from that of one."""
    for cost in costs:
        yield cost if p.generators == 1 else replace(
            cost, work=f"{cost.work}, {p.generators} generators",
            **{name: getattr(cost, name) * p.generators for name in SUMMED})


def _small_generators(p: Params, sources: int, work: Work) -> Iterator[Cost]:
    """Chapters 1 to 4 of the generators that each see only one small set, summed over the sets."""
    names = [str(i) for i in range(sources)]
    summed: dict[tuple[str, str], Cost] = {}
    for small in augment.subsets(p.seed, names, p.augment, p.segment):
        own = params.validate(params.merged(params.plain(p), augment.own(p.augment, small.train)))
        for cost in generation(own, len(small.train), work):
            before = summed.get((cost.work, cost.kind))
            summed[cost.work, cost.kind] = cost if before is None else _sum(before, cost)
    for cost in summed.values():
        yield replace(cost, chapter="augment", work=f"generators of small sets: {cost.work}")


def _sum(one: Cost, other: Cost) -> Cost:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in SUMMED},
                   largest=max(one.largest, other.largest), temporary=max(one.temporary, other.temporary))


def _supply(p: Params, count: int) -> trainsets.Supply:
    return trainsets.supply(count, p.cluster.k, p.train.full_images is not None, p.inpaint, p.gan)


def flop(value: float) -> str:
    """FLOP in words: "2.22 TFLOP"; "-" for none."""
    return scaled(value, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"])


def _time(seconds: float) -> str:
    return "unknown" if np.isnan(seconds) else duration(seconds)


def _rates(rates: pd.DataFrame) -> str:
    shown = pd.DataFrame({
        "work": rates["kind"],
        "rate": ["-" if np.isnan(rate) else f"{flop(rate)}/s" for rate in rates["rate"]],
        "images": rates["images"], "repetitions": rates["repetitions"],
        "seconds": rates["seconds"].map("{:.2f}".format),
        **({"memory": rates["memory"].map(size)} if rates["memory"].notna().any() else {}),
        "how": rates["how"]})
    return shown.to_string(index=False)
