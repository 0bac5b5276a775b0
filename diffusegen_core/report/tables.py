"""The form of the book's tables (numbered there, HTML in JupyterLab), and the tables of chapters 1 to 4."""

import contextlib
import html
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters import inpaint
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.tasks import origin
from diffusegen_core.chapters.trained import Trained, TrainedModel
from diffusegen_core.config import devices
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Inpaint, Model
from diffusegen_core.config.text import duration
from diffusegen_core.data import dataset, patients, planes, sidecars
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import JOINT
from diffusegen_core.diffusion.repaint import repaint_levels
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.parallel import fanout
from diffusegen_core.report import published
from diffusegen_core.run import GENERATED, Run
from diffusegen_core.store import files
from diffusegen_core.store.stamps import Stamp, cards, in_place, read_stamp

# The paper's network (method.md 3).
PAPER = Model(base_channels=256, channel_mult=[1, 1, 2, 2, 4, 4], res_blocks=2, attention_resolutions=[16],
              head_channels=64)

MARKUP = "\\|`*_{}[]$#~"  # characters that are markup in a cell or a caption
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

IN_WORDS = "pairs"  # the heading of a first column that names data types in words
QUESTION = "question"  # of one that asks
FOLDED, NOT_ASKED, NOTES = "The paper's values", "Not asked for in this run", "How to read this table"
Formats = Mapping[str, str]  # column -> format specification, such as ".3f"


@dataclass(frozen=True)
class Table:
    """A frame of formatted text, with its label and caption."""

    frame: pd.DataFrame
    numeric: list[bool]
    name: str
    caption: str
    folded: "Table | None" = None
    """A table below it that a click opens: the paper's values, where they do not compare."""
    others: "Table | None" = None
    """The same, with rows that this run was not asked for."""
    notes: tuple[str, ...] = ()
    """Sentences on how to read it, as MyST, in a list below it that a click opens."""

    def _repr_html_(self) -> str:
        caption, *notes = (re.sub(r"\\(\W|_)", r"\1", text)  # without MyST's escapes
                           for text in (self.caption, *self.notes))
        table = self.frame.to_html(index=False, border=0)
        table = table.replace(">", f'><caption style="text-align: left">{caption}</caption>', 1)
        folded = {title: one._repr_html_() for title, one in self._folds.items()}
        if notes:
            folded |= {NOTES: f"<ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>"}
        return table + "".join(f"<details><summary>{title}</summary>{inner}</details>"
                               for title, inner in folded.items())

    @property
    def _folds(self) -> dict[str, "Table"]:
        """The tables folded below it, by the title to click on."""
        return {title: one for title, one in ((NOT_ASKED, self.others), (FOLDED, self.folded)) if one}

    # MyST's table directive; the book prefers this form over HTML.
    def _repr_markdown_(self) -> str:
        folded = {title: one._own_markdown() for title, one in self._folds.items()}
        folded |= {NOTES: "".join(f"- {note}\n" for note in self.notes)} if self.notes else {}
        return self._own_markdown() + "".join(f"\n::::{{dropdown}} {title}\n{inner}::::\n"
                                              for title, inner in folded.items())

    def _own_markdown(self) -> str:
        rows = [[escaped(str(column)) for column in self.frame.columns],
                ["---:" if n else ":---" for n in self.numeric]]
        rows += [[escaped(value) for value in row] for row in self.frame.itertuples(index=False)]
        body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        # Classes for the stylesheet: a second column that must not break at hyphens, a first one of words
        # that may break, or names of files, which offer no place to break and so may break anywhere.
        kinds = ":class: kind-2\n" if list(self.frame.columns[1:2]) == ["data type"] else ""
        kinds = ":class: in-words\n" if list(self.frame.columns[:1]) in ([IN_WORDS], [QUESTION]) else kinds
        kinds = kinds or (":class: long-names\n" if "nearest training image" in self.frame else "")
        return f":::{{table}} {self.caption}\n:name: {self.name}\n{kinds}\n{body}\n:::\n"


def show(frame: pd.DataFrame, name: str, caption: str, formats: Formats | None = None,
         folded: Table | None = None) -> Table:
    """A table labelled tab-`name`; a named index becomes columns.

    Values are formatted by `formats`, else floats to three significant figures. A column without any value
    is left out. `folded` is a table that stands below this one, closed.
    """
    flat = frame.reset_index() if frame.index.name or frame.index.nlevels > 1 else frame
    numeric = [pd.api.types.is_numeric_dtype(flat[column]) for column in flat.columns]
    text = pd.DataFrame({column: [_text(value, (formats or {}).get(column)) for value in flat[column]]
                         for column in flat.columns})
    kept = [not len(text) or bool((text[column] != "").any()) for column in text.columns]
    numeric = [is_number for is_number, keep in zip(numeric, kept, strict=True) if keep]
    return Table(text.loc[:, kept], numeric, f"tab-{name}", caption, folded)


def facts(run: Run, name: str) -> Table:
    """What a page must state about its run: profile, data, seed, device, versions."""
    p = run.params
    windows = (f"; the models see squares around what is painted at {p.model_size} x {p.model_size}"
               if p.data.window else "")
    rows = {
        "profile": p.profile,
        "data": data(p),
        "image size": f"{p.data.image_size} x {p.data.image_size} pixels{windows}",
        "seed": str(p.seed),
        "device": _devices(run),
        "versions": ", ".join(f"{k} {v}" for k, v in files.versions().items()),
    }
    frame = pd.DataFrame({"": rows.keys(), "this run": rows.values()})
    return show(frame, f"{name}-facts", "What this page was computed from.")


def _devices(run: Run) -> str:
    """The devices that made the run's results so far, on any machine; if there are none, those to be used."""
    if told := sorted({str(stamp["device"]) for stamp in _stamps(run)}):
        return _together(told)
    if not os.environ.get(fanout.SCHEDULER):
        with contextlib.suppress(UserError):  # a login node has no GPU
            return devices.name(run.params.device)
    return "dask workers"


def _stamps(run: Run) -> list[Stamp]:
    return [stamp for _, stamp in in_place(run.folder)]


def work(run: Run) -> tuple[float, str]:
    """The seconds that everything made in a run took, added up over workers and the GPUs of a model, and the
    devices that computed it, in words."""
    stamps = _stamps(run)
    told = _together({str(stamp["device"]) for stamp in stamps if stamp["seconds"]})
    return sum(stamp["seconds"] * cards(stamp) for stamp in stamps), told or _devices(run)


def _together(names: Collection[str]) -> str:
    """Names of devices, as `devices.name` gives them, each processor once: "AMD EPYC, 1 or 2 threads"."""
    counts: dict[str, set[int]] = {}
    for name in sorted(names):
        processor, _, threads = name.rpartition(", ")
        numbered = re.fullmatch(r"(\d+) threads?", threads)
        of = counts.setdefault(processor if numbered else name, set())
        of |= {int(numbered[1])} if numbered else set()
    for bare in [name for name in counts if name + devices.WITHOUT in counts]:  # work that asked for no bf16
        counts[bare + devices.WITHOUT] |= counts.pop(bare)
    return ", ".join(name if not of else f"{name}, {' or '.join(map(str, sorted(of)))} "
                     f"thread{'s' if max(of) > 1 else ''}" for name, of in counts.items())


def line(run: Run) -> str:
    """The facts of a run in one line, for the foot of every page."""
    p, (seconds, _) = run.params, work(run)
    return (f"This run: profile {p.profile}; {data(p)}; seed {p.seed}; {_devices(run)}; "
            f"diffusegen {files.versions()['diffusegen']}, torch {files.versions()['torch']}; all "
            f"chapters took {duration(seconds)} of work, workers and GPUs added up.")


def took(run: Run, name: str) -> Table:
    """The wall time of a chapter's work, added up over calls, workers and generators, and where its artifacts
    lie. `name` is the result's, which is also its folder's."""
    several = run.params.generators > 1 and name in GENERATED
    parts = [run.read(name, number) for number in range(run.params.generators if several else 1)]
    time = duration(sum(one.seconds for one in parts))
    where = f"{name}/{f' and generators/*/{name}/' if several else ''}"
    frame = pd.DataFrame({"": ["wall time", "artifacts"], "this run": [time, where]})
    every = f", and over all {len(parts)} generators" if several else ""
    return show(frame, f"{name}-took", "Wall time of this chapter's work, added up over the calls and "
                f"workers that it took{every}.")


def pairs(loaded: Pairs, kind: Data) -> Table:
    """How many pairs the run has, and the areas of their masks; `kind` is the run's `data`."""
    classes = kind.classes
    what = kind.object_name if len(classes) == 1 else "mask"
    area = planes.union(loaded.masks).mean(axis=(1, 2))
    rows = {"pairs": str(len(loaded)), f"smallest {what}": f"{area.min():.2%} of the image",
            "median": f"{np.median(area):.2%}", "largest": f"{area.max():.2%}"}
    if len(classes) > 1:
        rows |= {f"mean area of {name}": f"{loaded.masks[:, number].mean():.2%}, in "
                 f"{loaded.masks[:, number].any(axis=(1, 2)).mean():.0%} of the pairs"
                 for number, name in enumerate(classes)}
    frame = pd.DataFrame({"": rows.keys(), "this run": rows.values()})
    of = f"how much of an image is {escaped(what)}" if len(classes) == 1 else (
        "the area of their masks, of all classes together")
    return show(frame, "cluster-pairs", f"The pairs and {of}, computed in this run.")


def clusters(result: Clusters) -> Table:
    """Cluster sizes, beside the published ones where this K has them."""
    sizes = sorted(result.sizes, reverse=True)
    frame = pd.DataFrame({"rank by size": range(1, result.k + 1), "pairs, this run": sizes})
    known = published.table("cluster_sizes").query("k == @result.k")["value"].astype(int)
    theirs = show(pd.DataFrame({"rank by size": range(1, len(known) + 1),
                                "pairs, published": sorted(known, reverse=True)}),
                  "cluster-sizes-published", "The authors' clusters of the paper's 348 pairs with "
                  "Inception-v3, for the same K.")
    taken = (f"taken from {escaped(result.file)}" if result.file else
             f"computed in this run from the features of {escaped(result.backbone)}")
    caption = f"Cluster sizes, {taken}."
    compares = len(known) > 0 and sum(result.sizes) == known.sum()
    if compares:
        frame["pairs, published"] = sorted(known, reverse=True)
        caption += " Published: the authors' clusters of the 348 pairs with Inception-v3."
    return show(frame, "cluster-sizes", caption, folded=theirs if len(known) and not compares else None)


def network(p: Params) -> Table:
    """The network of this run beside the paper's."""
    with torch.device("meta"):
        ours, theirs = (parameter_count(UNet(m, s, planes=kind)) for m, s, kind in
                        ((p.model, p.model_size, Planes.of(p.data)), (PAPER, 256, Planes())))
    rows = [("parameters", f"{ours / 1e6:.2f} M", f"{theirs / 1e6:.2f} M"),
            ("image size", f"{p.model_size}{' (windows)' if p.data.window else ''}", "256"),
            ("base width", str(p.model.base_channels), str(PAPER.base_channels)),
            ("multipliers", " ".join(map(str, p.model.channel_mult)), " ".join(map(str, PAPER.channel_mult))),
            ("residual blocks a level", str(p.model.res_blocks), str(PAPER.res_blocks)),
            ("attention at", " ".join(map(str, p.model.attention_resolutions)) or "none", "16"),
            ("objective", p.process.objective, "eps"),
            ("variance of a reverse step", p.process.variance, "learned"),
            ("training images a cluster", f"{p.train.images:,}{origin(p.train)}", "110,000"),
            ("batch", str(p.train.batch_size), "1"),
            ("learning rate", f"{p.train.lr:g}", "5e-05")]
    frame = pd.DataFrame(rows, columns=["", "this run", "the paper"])
    return show(frame, "train-network",
                "The network and its training in this run, and the paper's: as published or, where the paper "
                "is silent, as in its authors' code. Parameters are counted from the sizes.")


def models(result: Trained) -> Table:
    """One row per model: pairs, images, losses, time."""
    frame = result.table
    place = frame.columns.get_loc("final loss")
    for name, values in zip(("half-way loss", "first loss"), zip(*map(_earlier, result.all), strict=True),
                            strict=True):
        frame.insert(place, name, values)
    return show(frame, "train-models", "The models of this run. Losses are means: of the first hundredth of "
                "the steps, of the tenth before half of them, and of the last tenth.", {
                    **{name: ".4f" for name in frame if str(name).endswith(" loss")},
                    "minutes": ".2f", "images/s": ".1f", "images": ",d"})


def _earlier(model: TrainedModel) -> tuple[float, float]:
    """The mean loss of the tenth of a model's steps before half of them, and of the first hundredth; NaN for
    a checkpoint that was taken over, which has no curve."""
    log = model.folder / "log.csv"
    loss = pd.read_csv(log)["loss"] if log.exists() else pd.Series(float("nan"), range(1))
    half, tenth = -(-len(loss) // 2), max(1, len(loss) // 10)
    return float(loss[half - tenth:half].mean()), float(loss[:max(1, len(loss) // 100)].mean())


def repaint(p: Params) -> Table:
    """The RePaint schedule of this run beside the paper's."""
    columns = {}
    papers = Inpaint(respacing=200, jump_length=10, resampling=5, masks=JOINT)
    for name, settings in (("this run", p.inpaint), ("the paper", papers)):
        given = settings.respacing, settings.jump_length, settings.resampling
        columns[name] = [*map(str, given), f"{len(repaint_levels(*given)) - 1:,}",
                         f"{inpaint.calls(settings):,}"]
    frame = pd.DataFrame({"": ["respaced steps", "jump length", "resampling U", "transitions",
                               "network calls"], **columns})
    return show(frame, "inpaint-schedule", "The RePaint schedule of this run, and the paper's as published. "
                "Transitions and calls are counted from the first three rows; a step down guided by given "
                "masks takes two calls.")


def inpainted(run: Run) -> Table:
    """One row per data type; the smallest mask is in pixels of the run's images."""
    p, result = run.params, run.inpainted
    least = [one.manifest["area_after"].min() * p.data.image_size**2 for one in result.sets.values()]
    of = (f", of the masks of {escaped(' and '.join(p.inpaint.classes))} alone" if p.inpaint.classes else
          ", of the masks of all classes together" if len(p.data.classes) > 1 else "")
    frame = without_idle(result.table).assign(**{"smallest mask after, px": least})
    return show(frame, "inpaint-types", f"Synthetic pairs of this run. Areas are shares of the image{of}.",
                {"mean area before": ".3f", "mean area after": ".3f", "smallest mask after, px": ".0f"})


def without_idle(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of a chapter's sets without the columns that say nothing: no pair was lost, one model."""
    quiet = {"models": 1, "without an object": 0, "without a place": 0}
    return frame.drop(columns=[name for name, usual in quiet.items()
                               if name in frame and (frame[name] == usual).all()])


def data(p: Params) -> str:
    """What the real pairs of a run are, in words."""
    count = f"the first {p.data.count}" if p.data.count else "all"
    if p.data.drawn:
        kind = p.data.source.removeprefix("phantom").removeprefix("-")
        return f"{p.data.count} phantoms ({f'{kind}, ' if kind else ''}drawn by code, no patient's image)"
    # The folder's own name only: a page that is passed on should not carry a path of this machine.
    folder = p.data.source.rstrip("/").rsplit("/", 1)[-1]
    subset = {"all": "all pairs", "paper348": "the paper's 348 training pairs",
              "not348": "the pairs outside the paper's 348"}[p.data.subset]
    used = f"{subset}, {count} of them" if p.data.count else subset
    stamp = read_stamp(p.folder / "data") or {}
    if held_out(p) and (trained := stamp.get("pairs")):
        usable = stamp.get(dataset.HELD)  # unknown in older runs
        used = (f"{trained} pairs to train on, others held out" if usable is None else
                f"{trained + usable} pairs, {trained} to train on, {usable} held out")
    return f"{folder}: {used}{sidecars.left_out(p.folder / 'data')}"


def held_out(p: Params) -> int:
    """How many real pairs of a run are held out; 0 where the data are not read yet."""
    return len(patients.read(p.folder / "data" / dataset.PAIRS)[1])


def _text(value: object, spec: str | None) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else number(value, spec or ".3g")
    return format(value, spec) if spec else str(value)


def number(value: float, spec: str) -> str:
    """A number as the paper prints it, with powers of ten unbroken: "3.8 · 10⁻⁵"."""
    mantissa, _, exponent = format(value, spec).partition("e")
    return f"{mantissa}\u00a0·\u00a010{str(int(exponent)).translate(RAISED)}" if exponent else mantissa


def escaped(value: str) -> str:
    """Text as MyST for a cell or a caption: names come from strangers, so nothing in them becomes markup."""
    text = html.escape(" ".join(value.split()), quote=False)
    return "".join(f"\\{c}" if c in MARKUP else c for c in text)


def unescaped(text: str) -> str:
    """The text that was `escaped`."""
    return html.unescape(re.sub(f"\\\\([{re.escape(MARKUP)}])", r"\1", text))
