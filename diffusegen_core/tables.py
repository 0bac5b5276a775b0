"""Tables of the book: numbered and captioned there, plain HTML in JupyterLab."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from diffusegen_core import published, runs
from diffusegen_core.cluster import Clusters
from diffusegen_core.data import Pairs
from diffusegen_core.inpaint import Inpainted, network_calls, repaint_levels
from diffusegen_core.params import Model, Params
from diffusegen_core.train import Trained
from diffusegen_core.unet import UNet, parameter_count

# The paper's network (method.md 3).
PAPER = Model(base_channels=256, channel_mult=[1, 1, 2, 2, 4, 4], res_blocks=2, attention_resolutions=[16],
              head_channels=64)

Formats = Mapping[str, str]  # column -> format specification, such as ".3f"


@dataclass(frozen=True)
class Table:
    """A frame of ready-made text, with the label and caption that the book gives it."""

    frame: pd.DataFrame
    numeric: list[bool]
    name: str
    caption: str

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, border=0)

    # MyST's table directive; the book prefers this form over HTML.
    def _repr_markdown_(self) -> str:
        rows = [list(map(str, self.frame.columns)), ["---:" if n else ":---" for n in self.numeric]]
        rows += [[_cell(value) for value in row] for row in self.frame.itertuples(index=False)]
        body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        return f":::{{table}} {self.caption}\n:name: {self.name}\n\n{body}\n:::\n"


def show(frame: pd.DataFrame, name: str, caption: str, formats: Formats | None = None) -> Table:
    """A table labelled tab-`name`; the index becomes columns.

    Floats get three significant figures or `formats`.
    """
    flat = frame.reset_index() if frame.index.name or frame.index.nlevels > 1 else frame
    numeric = [pd.api.types.is_numeric_dtype(flat[column]) for column in flat.columns]
    text = pd.DataFrame({column: [_text(value, (formats or {}).get(column)) for value in flat[column]]
                         for column in flat.columns})
    return Table(text, numeric, f"tab-{name}", caption)


def facts(p: Params, name: str) -> Table:
    """What a page must state about its run: profile, data, seed, device, versions."""
    rows = {
        "profile": p.profile,
        "data": _data(p),
        "image size": f"{p.data.image_size} x {p.data.image_size} pixels",
        "seed": str(p.seed),
        "device": runs.device_name(p.device),
        "versions": ", ".join(f"{k} {v}" for k, v in runs.versions().items()),
    }
    frame = pd.DataFrame({"": rows.keys(), "this run": rows.values()})
    return show(frame, f"{name}-facts", "What this page was computed from.")


def line(p: Params) -> str:
    """The facts of a run in one line, for the foot of every page."""
    # A chapter's own time holds that of its features.
    made = [runs.read_json(path) or {} for path in sorted(p.folder.rglob(runs.STAMP))
            if path.parent.name != "features"]
    seconds = sum(stamp.get("seconds", 0.0) for stamp in made)
    return (f"This run: profile {p.profile}; {_data(p)}; seed {p.seed}; {runs.device_name(p.device)}; "
            f"diffusegen {runs.versions()['diffusegen']}, torch {runs.versions()['torch']}; wall time of all "
            f"chapters {duration(seconds)}.")


def took(seconds: float, folder: Path) -> Table:
    """The wall time of a chapter's work (over all the calls that it took), and where its artifacts lie."""
    frame = pd.DataFrame({"": ["wall time", "artifacts"], "this run": [duration(seconds), folder.name + "/"]})
    return show(frame, f"{folder.name}-took",
                "Wall time of this chapter's work, over all the calls that it took.")


def pairs(loaded: Pairs) -> Table:
    """What the pairs of the run are like."""
    area = loaded.masks.mean(axis=(1, 2, 3))
    rows = {"pairs": str(len(loaded)), "smallest polyp": f"{area.min():.2%} of the image",
            "median": f"{np.median(area):.2%}", "largest": f"{area.max():.2%}"}
    frame = pd.DataFrame({"": rows.keys(), "this run": rows.values()})
    return show(frame, "cluster-pairs", "The pairs and the area of their polyps, computed in this run.")


def clusters(result: Clusters) -> Table:
    """Cluster sizes, beside the published ones where this K has them."""
    sizes = sorted(result.sizes, reverse=True)
    frame = pd.DataFrame({"rank by size": range(1, result.k + 1), "pairs, this run": sizes})
    known = published.table("cluster_sizes").query("k == @result.k")["value"].astype(int)
    caption = f"Cluster sizes, computed in this run from the features of {_cell(result.backbone)}."
    if len(known):
        frame["pairs, published"] = sorted(known, reverse=True)
        caption += " Published: the authors' clusters of the 348 pairs with Inception-v3."
    return show(frame, "cluster-sizes", caption)


def network(p: Params) -> Table:
    """The network of this run beside the paper's."""
    with torch.device("meta"):
        ours, theirs = (parameter_count(UNet(m, s)) for m, s in ((p.model, p.data.image_size), (PAPER, 256)))
    rows = [("parameters", f"{ours / 1e6:.2f} M", f"{theirs / 1e6:.2f} M"),
            ("image size", str(p.data.image_size), "256"),
            ("base width", str(p.model.base_channels), str(PAPER.base_channels)),
            ("multipliers", " ".join(map(str, p.model.channel_mult)), " ".join(map(str, PAPER.channel_mult))),
            ("residual blocks a level", str(p.model.res_blocks), str(PAPER.res_blocks)),
            ("attention at", " ".join(map(str, p.model.attention_resolutions)) or "none", "16"),
            ("objective", p.process.objective, "eps"),
            ("variance of a reverse step", p.process.variance, "learned"),
            ("training images a cluster", f"{p.train.images:,}", "110,000"),
            ("batch", str(p.train.batch_size), "128"),
            ("learning rate", f"{p.train.lr:g}", "5e-05")]
    frame = pd.DataFrame(rows, columns=["", "this run", "the paper"])
    return show(frame, "train-network",
                "The network and its training in this run, and the paper's: as published, or where the paper "
                "is silent as in its authors' code. Parameters are counted from the sizes.")


def models(result: Trained) -> Table:
    """One row a model: pairs, images, loss, time."""
    return show(result.table, "train-models", "The models of this run.",
                {"final loss": ".4f", "minutes": ".2f", "images/s": ".1f", "images": ",d"})


def repaint(p: Params) -> Table:
    """The RePaint schedule of this run beside the paper's."""
    columns = {}
    for name, given in (("this run", (p.inpaint.respacing, p.inpaint.jump_length, p.inpaint.resampling)),
                        ("the paper", (200, 10, 5))):
        levels = repaint_levels(*given)
        columns[name] = [*map(str, given), f"{len(levels) - 1:,}", f"{network_calls(levels):,}"]
    frame = pd.DataFrame({"": ["respaced steps", "jump length", "resampling r", "transitions",
                               "network calls"], **columns})
    return show(frame, "inpaint-schedule", "The RePaint schedule of this run, and the paper's as published. "
                "Transitions and calls are counted from the first three rows.")


def inpainted(result: Inpainted) -> Table:
    """One row a data type."""
    return show(result.table, "inpaint-types", "Synthetic pairs of this run. Areas are shares of the image.",
                {"mean area before": ".3f", "mean area after": ".3f"})


def duration(seconds: float) -> str:
    """Seconds in words: "41 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _data(p: Params) -> str:
    count = f"the first {p.data.count}" if p.data.count else "all"
    if p.data.source == "phantom":
        return f"{p.data.count} phantoms (drawn by code, no patient's image)"
    # The folder's own name only: a page that is passed on should not carry a path of this machine.
    folder = p.data.source.rstrip("/").rsplit("/", 1)[-1]
    subset = {"all": "all pairs", "paper348": "the paper's 348 training pairs",
              "not348": "the pairs outside the paper's 348"}[p.data.subset]
    return f"{folder}: {subset}, {count} of them" if p.data.count else f"{folder}: {subset}"


def _text(value: object, spec: str | None) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else format(value, spec or ".3g")
    return format(value, spec) if spec else str(value)


# Names of files and folders come from strangers: nothing in a cell may become markup or end the cell.
def _cell(value: str) -> str:
    text = html.escape(" ".join(value.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\|`*_{}[]$#~" else c for c in text)
