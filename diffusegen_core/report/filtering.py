"""What the filter keeps and rejects: a table and a figure of chapter 5, and a text for a terminal."""

from collections.abc import Iterator
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusegen_core.chapters.sieve import Judged
from diffusegen_core.config.text import duration
from diffusegen_core.data import planes
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.pairsets import read_pair
from diffusegen_core.report.figures import WIDTH, nothing, outlines, picture
from diffusegen_core.report.tables import Table, show
from diffusegen_core.run import Run

NONE = "filter.folds is not set"
FOLDS = 3  # used where the command asks for a filter and the run has none
SHOWN = 6  # pairs in a row of the figure
LIMITS = {"agreement": "agreement at least", "seam": "seam at most", "copy": "copy score at least"}
AREAS = ("area_after", "area")  # the column with a mask's area, in manifests of chapters 3 and 4
FORMATS = {"mask, kept": ".3f", "mask, rejected": ".3f", "agreement at least": ".2f", "seam at most": ".1f",
           "copy score at least": ".2f"}


def frame(run: Run) -> pd.DataFrame:
    """A row per painted type and generator: how many pairs there are, were kept, were rejected, and failed
    each criterion; the median mask area of those kept and rejected, as a share of the image; the thresholds,
    NaN where a criterion is off. No rows without a filter."""
    rows = []
    for number in range(run.params.generators):
        for data_type, one in run.read("filter", number).judged.items():
            rows.append({**({"generator": number} if run.params.generators > 1 else {}),
                         "data type": data_type.name, "pairs": len(one.origin), "kept": len(one.kept),
                         "rejected": len(one.kept.left_out),
                         **{f"by {name}": count for name, count in one.counts.items()},
                         "mask, kept": _area(one.kept.manifest),
                         "mask, rejected": _area(one.kept.left_out),
                         **{heading: getattr(one.limits, name) for name, heading in LIMITS.items()}})
    return pd.DataFrame(rows)


def _area(manifest: pd.DataFrame) -> float:
    return float(manifest[next(column for column in AREAS if column in manifest)].median())


def table(run: Run) -> Table:
    """`frame` with a caption; without a filter, one row that says so."""
    rows = frame(run)
    if rows.empty:
        return show(pd.DataFrame([{"data type": "none", "why": NONE}]), "filter-types", "The filter of this "
                    "run.")
    every = [run.read("filter", number) for number in range(run.params.generators)]
    seconds = every[0].seconds + sum(one.seconds for other in every[1:] for one in other.judged.values())
    return show(rows, "filter-types", "What the filter of this run keeps and rejects, by criterion; a "
                "pair may fail several. Mask: the median area as a share of the image, which shows whether "
                "the filter prefers large lesions. Right: the thresholds. Agreement is Dice with networks "
                "that never saw the source; seams are in grey levels. Networks and scores took "
                f"{duration(seconds)}, workers added up.", FORMATS)


def text(run: Run) -> str:
    """`frame` as text for a terminal."""
    rows = frame(run)
    if rows.empty:
        return f"There is no filter: {NONE}."
    for name, digits in FORMATS.items():
        none = "" if name.startswith("mask") else "off"
        rows[name] = [none if pd.isna(value) else f"{value:{digits}}" for value in rows[name]]
    lines = [rows.to_string(index=False)]
    lines += [f"{row['data type']}: nothing is kept, so that chapters 6 and 7 have no networks of it."
              for row in rows.to_dict("records") if row["pairs"] and not row["kept"]]
    return "\n".join(lines)


def figure(run: Run) -> Figure:
    """Some pairs of the last painted type, from the first generator: kept ones, from the best agreement to
    the worst, above those rejected, with their reasons."""
    judged = list(run.filtered.judged.values())
    if not judged:
        return nothing(f"There is no filter: {NONE}.")
    rows = {"kept": list(_kept(judged[-1])), "rejected": list(_rejected(judged[-1]))}
    if not any(rows.values()):
        return nothing("There are no painted pairs.")
    drawn, axes = plt.subplots(2, SHOWN, figsize=(WIDTH, 3.3))
    for line, (word, shown) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.axis("off")
        for ax, (name, told) in zip(line, shown, strict=False):
            _draw(ax, *read_pair(judged[-1].origin.folder, name), told)
        if shown:
            line[0].set_ylabel(word)
        else:
            line[0].text(0, 0.5, f"none {word}", va="center")
    return drawn


def _draw(ax: Axes, image: np.ndarray, mask: np.ndarray, told: str) -> None:
    picture(ax, image)
    outlines(ax, planes.numbered(mask), len(mask), linewidths=0.9)
    ax.set_xlabel("\n".join(fill(part, 22) for part in told.split("; ")), fontsize=7, labelpad=2)


def _kept(one: Judged) -> Iterator[tuple[str, str]]:
    """Names of kept pairs, evenly spread in order of agreement, and a label for each."""
    rows = one.kept.manifest.sort_values("agreement", ascending=False, kind="stable")
    for i in spread(len(rows), SHOWN):
        row = rows.iloc[i]
        yield row["name"], (f"seam {row['seam']:.1f}" if pd.isna(row["agreement"]) else
                            f"agreement {row['agreement']:.2f}")


def _rejected(one: Judged) -> Iterator[tuple[str, str]]:
    """Names and reasons of rejected pairs: for each criterion in turn, the pair that fails it most."""
    rows = one.kept.left_out
    worst = {"agreement": rows.sort_values("agreement", kind="stable"),
             "seam": rows.sort_values("seam", ascending=False, kind="stable"),
             "copy": rows.sort_values("copy_score", kind="stable")}
    failed = [ordered[ordered["reason"].map(lambda told, word=name: any(
        part.startswith(word) for part in told.split("; "))).astype(bool)] for name, ordered in worst.items()]
    chosen: dict[str, str] = {}
    for place in range(max(map(len, failed), default=0)):
        for ordered in failed:
            if place < len(ordered) and len(chosen) < SHOWN:
                chosen.setdefault(ordered.iloc[place]["name"], ordered.iloc[place]["reason"])
    yield from chosen.items()
