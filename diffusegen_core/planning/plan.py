"""What a run will take, before anything runs: FLOP, images and disk of each chapter, and the time it takes.

The work is counted (see `flops`); the time is the work over the rate that a short probe of each kind of work
reaches on the device (see `probe`). Every number is for a run from nothing, in which no pair is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffusegen_core.chapters import augment, gan, segment, train
from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import repaint
from diffusegen_core.networks import singan
from diffusegen_core.planning import flops, probe
from diffusegen_core.segmentation import trainsets
from diffusegen_core.store import runs

COLUMNS = ["chapter", "work", "kind", "items", "images", "flop", "largest", "disk", "temporary"]
SUMMED = ["items", "images", "flop", "disk"]
FLOAT = 4  # bytes of a number
LONGEST = 3600  # seconds of a probe
NOTES = """\
Images are passes of one image through a network; of a SinGAN, steps of its networks. The largest item is
what one machine does in one piece: a model, a batch of images, a source, an experiment. Disk is at most what
is kept: pixels as if not compressed, weights at 4 bytes. Work is convolutions and matrix products.
Not counted: reading and decoding, K-means, distances and the audit's correlations, norms and optimizers,
augmentation, tables, figures and the book, caches of test sets; nor pairs that will be left out; nor loading
models and writing checkpoints{checkpoints}."""


@dataclass(frozen=True)
class Plan:
    """A run before it runs."""

    table: pd.DataFrame
    """A row a kind of work of a chapter, columns COLUMNS: FLOP, bytes; and `seconds` where it was probed, nan
    where the probe ran out of memory."""
    profile: str
    pairs: int
    note: str
    """Where the number of pairs comes from."""
    rates: pd.DataFrame | None
    """What the probe found, a row a kind, columns as probe.COLUMNS; None if none was asked for."""
    device: str  # in words
    beside: tuple[int, str] | None = None
    """How many workers fit on the device at once, and why; None if not probed."""

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
        shown, total = self.table, self.table[SUMMED].sum()
        columns = {
            "chapter": shown["chapter"], "work": shown["work"], "items": shown["items"].map("{:,}".format),
            "images": shown["images"].map("{:,}".format), "FLOP": shown["flop"].map(flop),
            "largest item": shown["largest"].map(flop), "disk": shown["disk"].map(size)}
        lines = [f"{self.profile}: {self.pairs} pairs ({self.note})."]
        if self.rates is not None:
            columns["time"] = shown["seconds"].map(_time)
            columns["of the largest"] = (shown["seconds"] * (shown["largest"] / shown["flop"]).fillna(0)
                                         ).map(_time)
        lines.append(pd.DataFrame(columns).to_string(index=False))
        time = "" if self.rates is None else f"; time: {_time(shown['seconds'].sum(skipna=False))}"
        lines.append(f"In all {flop(total['flop'])}, {size(total['disk'])} on disk and at most "
                     f"{size(self.table['temporary'].max())} of checkpoints beside it{time}.")
        lines.append("")
        if self.rates is not None:
            lines += [f"Measured on {self.device}:", _rates(self.rates), ""]
            if self.beside:
                lines += ["Workers side by side (--workers): {} ({}).".format(*self.beside), ""]
        else:
            lines += [f"The device is {self.device}; no time was measured (--seconds 0).", ""]
        checkpoint = self.table.loc[self.table["kind"] == "training", "temporary"].max()
        written = f" ({size(checkpoint)} every train.checkpoint_every steps)" if checkpoint else ""
        return "\n".join([*lines, NOTES.format(checkpoints=written)])


def make(p: Params, seconds: float = 20.0) -> Plan:
    """Count a run's work and, unless `seconds` is 0, probe the device for about so long.

    Raises UserError where the number of pairs cannot be known, a parameter names a network that there is not,
    or the probe would not end.
    """
    if not 0 <= seconds <= LONGEST:
        raise UserError(f"--seconds {seconds:g}: the device can be probed for 0 to {LONGEST} seconds.")
    count, note = pairs(p)
    if count < p.cluster.k:
        raise UserError(f"{p.data.source}: {count} pairs are too few for cluster.k {p.cluster.k}.")
    p, device = at_hand(p)
    work = flops.count(p)
    table = pd.DataFrame(rows(p, count, work), columns=COLUMNS)
    rates = beside = None
    if seconds:
        rates = probe.rates(p, work, [kind for kind in probe.KINDS if table.loc[
            table["kind"] == kind, "flop"].sum()], seconds)
        rate = table["kind"].map(rates.set_index("kind")["rate"])
        table["seconds"] = (table["flop"] / rate).where(table["flop"] > 0, 0.0)
        beside = probe.side_by_side(rates, devices.device(p.device))
    return Plan(table, p.profile, count, note, rates, device, beside)


def at_hand(p: Params) -> tuple[Params, str]:
    """The parameters with the device that is there, and its name: where the wanted one is not, another."""
    try:
        return p, devices.name(p.device)
    except UserError:
        other = p.model_copy(update={"device": "auto"})
        return other, f"{devices.name(other.device)} ({p.device}, which the parameters name, is not here)"


def pairs(p: Params) -> tuple[int, str]:
    """How many pairs a run will have, and how that is known. Images are not opened."""
    return dataset.expected(p.data)


def rows(p: Params, count: int, work: flops.Work) -> list[tuple]:
    """The work of a run of `count` pairs, as rows of COLUMNS."""
    found = [*generation(p, count, work), *_gan(p, count, work), _evaluation(p, count, work)]
    sources = _sources(p, count)
    of_synthetic = [(e, *segment.expected(p, e, count)) for e in segment.grid(p)]
    of_small = [(e, *augment.expected(p, e)) for e in augment.grid(p, sources)]
    found.append(_networks(p, work, "6 segment", of_synthetic))
    if p.augment.generator_sees == "subset":
        found += _small_generators(p, sources, work)
    return [*found, _networks(p, work, "7 augment", of_small)]


def generation(p: Params, count: int, work: flops.Work) -> Iterator[tuple]:
    """Chapters 1 to 4."""
    pixels = p.data.image_size ** 2
    yield ("1 cluster", "features of images and masks", "features", 1, 2 * count,
           2 * count * work.cluster.call, 2 * count * work.cluster.call,
           count * (4 * pixels + 2 * FLOAT * work.cluster.width), 0)
    yield from _training(p, work)
    pairs, batch = _sources(p, count) * p.inpaint.samples, p.inpaint.batch_size
    names = [f"{p.cluster.k}-{{}}", *(["Full-{}"] if p.train.full_images else [])]
    levels = repaint.repaint_levels(p.inpaint.respacing, p.inpaint.jump_length, p.inpaint.resampling)
    calls, steps, styled = repaint.network_calls(levels), len(work.guided), sum(work.guided)
    for name in names:
        yield ("3 inpaint", f"{name.format('Diff')}, {calls} calls each", "sampling", pairs, pairs * calls,
               pairs * calls * work.unet.call, min(pairs, batch) * calls * work.unet.call,
               pairs * 4 * pixels, 0)
    for name in names:
        yield ("4 style", f"{name.format('Styled-Diff')}, {steps} steps each", "styling", pairs,
               pairs * steps, pairs * styled, min(pairs, p.style.batch_size) * styled,
               pairs * 4 * pixels, 0)


def _training(p: Params, work: flops.Work) -> Iterator[tuple]:
    """Chapter 2: the models, and their sample grids, which belong to the same items."""
    t, pixels = p.train, p.data.image_size ** 2
    weights, trained = FLOAT * work.unet.parameters, t.checkpoints is None
    models = [("cluster models", p.cluster.k, t.images), ("full-set model", 1, t.full_images),
              ("base of the cluster models", 1, t.base_images if train.base_of(p) == train.BASE else None)]
    for title, count, images in models:
        if images and not trained:
            yield ("2 train", f"{title}, trained before", "training", count, 0, 0.0, 0.0,
                   count * 2 * weights, 0)
        elif images:
            steps = -(-images // t.batch_size)
            seen, grids = steps * t.batch_size, -(-steps // t.preview_every)
            # A checkpoint holds both sets of weights and the optimizer's two moments.
            yield ("2 train", title, "training", count, count * seen, count * seen * work.unet.learn,
                   seen * work.unet.learn, count * 2 * weights, 4 * weights)
            calls = grids * t.preview_images * t.preview_steps
            yield ("2 train", f"sample grids of the {title}", "sampling", count * grids, count * calls,
                   count * calls * work.unet.call, calls * work.unet.call,
                   count * grids * t.preview_images * 6 * pixels, 0)


def _gan(p: Params, count: int, work: flops.Work) -> Iterator[tuple]:
    """The baseline, which chapter 5 makes or reads."""
    if p.gan.source is None:
        return
    sources, samples, pixels = gan.sources(p, count), gan.samples(p), p.data.image_size ** 2
    made = work.pyramid + samples * work.drawn
    title = "GAN, a SinGAN of each source" if work.pyramid else "GAN, pairs that are read"
    steps = 2 * p.gan.steps * len(singan.sides(p.data.image_size, p.gan)) if work.pyramid else 0
    yield ("5 evaluate", title, "GAN", sources, sources * steps, sources * made, made,
           sources * samples * 4 * pixels, 0)


def _evaluation(p: Params, count: int, work: flops.Work) -> tuple:
    """Chapter 5: features of each image once, and of the box around each polyp."""
    synthetic = [(_sources(p, count), p.inpaint.samples)] * (2 * (1 + bool(p.train.full_images)))
    if p.gan.source:
        synthetic.append((gan.sources(p, count), gan.samples(p)))
    whole = count + sum(sources * min(samples, p.evaluate.sets) for sources, samples in synthetic)
    boxes = 2 * count + sum(sources * samples for sources, samples in synthetic)  # real ones mirrored, too
    images = whole + boxes
    largest = max(sources * (samples + min(samples, p.evaluate.sets)) for sources, samples in synthetic)
    return ("5 evaluate", "features of images and polyps", "judging", 1 + len(synthetic), images,
            images * work.judge.call, max(3 * count, largest) * work.judge.call,
            images * FLOAT * work.judge.width, 0)


def _networks(p: Params, work: flops.Work, chapter: str, grid: list[tuple]) -> tuple:
    """A grid of segmentation networks: passes to train, passes to choose the best epoch, and tests."""
    s = p.segment
    tests = s.test_count * sum(source is not None for source in (s.held_out, s.cvc, s.polypgen))
    images, each = 0, []
    for _, learn, valid in grid:
        learnt = s.epochs * max(2, s.epoch_images or len(learn))
        looked = s.epochs * len(valid) + tests
        images += learnt + looked
        each.append(learnt * work.segment.learn + looked * work.segment.call)
    weights = FLOAT * work.segment.parameters
    # A checkpoint holds the weights, the best ones and two moments.
    return (chapter, "segmentation networks", "segmentation", len(grid), images, sum(each),
            max(each, default=0.0), len(grid) * weights if s.keep_weights else 0, 4 * weights)


def _small_generators(p: Params, sources: int, work: flops.Work) -> list[tuple]:
    """Chapters 1 to 4 of every small set whose generator sees it alone, summed over the sets."""
    nameless = dataset.Pairs([str(i) for i in range(sources)], None, None, "")
    sets = trainsets.Sets(nameless, {}, {})
    small = [augment.own(p, sets, n, seed)
             for n in augment.sizes(p, sources) for seed in range(p.augment.seeds)]
    found = [row for mine in small for row in generation(mine, len(mine.data.names), work)]
    table = pd.DataFrame(found, columns=COLUMNS).assign(chapter="7 augment")
    table["work"] = "generators of small sets: " + table["work"]
    summed = {**dict.fromkeys(SUMMED, "sum"), "largest": "max", "temporary": "max"}
    grouped = table.groupby(["chapter", "work", "kind"], sort=False, as_index=False).agg(summed)
    return list(grouped[COLUMNS].itertuples(index=False, name=None))


def _sources(p: Params, count: int) -> int:
    return min(count, p.inpaint.sources or count)


def flop(value: float) -> str:
    """FLOP in words: "2.22 TFLOP"; "-" for none."""
    return _scaled(value, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"])


def size(value: float) -> str:
    """Bytes in words: "4.21 GB"; "-" for none."""
    return _scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"])


def _time(seconds: float) -> str:
    return "unknown" if np.isnan(seconds) else runs.duration(seconds)


def _scaled(value: float, units: list[str]) -> str:
    if not value or np.isnan(value):
        return "-"
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = f"{value:#.3g}".rstrip(".")
    return f"{digits} {units[power]}"


def _rates(rates: pd.DataFrame) -> str:
    shown = pd.DataFrame({
        "work": rates["kind"],
        "rate": ["-" if np.isnan(rate) else f"{flop(rate)}/s" for rate in rates["rate"]],
        "images": rates["images"], "repetitions": rates["repetitions"],
        "seconds": rates["seconds"].map("{:.2f}".format),
        **({"memory": rates["memory"].map(size)} if rates["memory"].notna().any() else {}),
        "how": rates["how"]})
    return shown.to_string(index=False)
