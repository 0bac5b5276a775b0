"""The baselines without a model, beside what models painted: a table and a figure of chapter 3."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusegen_core.chapters import scenes
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.paste import Pasted
from diffusegen_core.data import planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.pairsets import PairSet, read_pair
from diffusegen_core.report.figures import BLOCKS, board, legend, nothing, pair
from diffusegen_core.report.tables import Table, escaped, show, without_idle
from diffusegen_core.run import Run

NONE = "inpaint.baselines is not set"
CAPTION = "Pairs of this run that no model painted."


def table(run: Run) -> Table:
    """One row per data type; where the run has none, one row that says so."""
    result, p = run.pasted, run.params
    if result is None:
        return show(pd.DataFrame([{"data type": "none", "why": NONE}]), "inpaint-pasted", CAPTION)
    frame, whose = without_idle(result.table), ""
    if which := scenes.chosen(p.inpaint, p.data):  # the area of all classes stays if one lies in another
        whose = f", of the masks of {escaped(' and '.join(p.inpaint.classes or ()))} alone"
        masks = planes.union(planes.only(run.pairs.masks, which))
        areas = dict(zip(run.pairs.names, masks.mean(axis=(1, 2)), strict=True))
        before = [one.manifest["source"].map(areas).mean() for one in result.sets.values()]
        frame = frame.drop(columns="mean area after").assign(**{"mean area before": before})
    elif len(p.data.classes) > 1:
        whose = ", of the masks of all classes together"
    return show(frame, "inpaint-pasted", f"{CAPTION} Areas are shares of the image{whose}.",
                {column: ".3f" for column in frame if "area" in column})


def figure(pairs: Pairs, painted: Inpainted, result: Pasted | None, classes: Sequence[str] = ()) -> Figure:
    """A few sources, two side by side, each with the first pair that every data type made of it, image above
    mask; blank where there is none. `classes` as data.classes."""
    if result is None:
        return nothing(f"There are no pasted pairs: {NONE}.")
    sets = [*result.sets.values(), *painted.sets.values()]
    sources = list(dict.fromkeys(name for one in sets for name in one.manifest["source"]))
    if not sources:
        return nothing("No picture shows a place to paste into.")
    chosen = [sources[i] for i in spread(len(sources), BLOCKS)]
    width, abreast = 1 + len(sets), min(2, len(chosen))
    drawn, axes = board(2 * -(-len(chosen) // abreast), abreast * width)
    for n, source in enumerate(chosen):
        top, left = 2 * (n // abreast), n % abreast * width
        i = pairs.names.index(source)
        shown = [(pairs.images[i], pairs.masks[i]), *(_first(one, source) for one in sets)]
        for column, of_set in zip(axes[top:top + 2, left:left + width].T, shown, strict=True):
            if of_set:
                pair(column, *of_set)
    for left in range(abreast):
        for ax, title in zip(axes[0, left * width:], ["source", *(one.data_type.name for one in sets)],
                             strict=False):
            ax.set_title(fill(title, 10, break_long_words=False))
    legend(drawn, classes)
    return drawn


def _first(one: PairSet, source: str) -> tuple[np.ndarray, ...]:
    """The first pair of a source, image and mask; () where there is none."""
    names = one.manifest.loc[one.manifest["source"] == source, "name"]
    return read_pair(one.folder, str(names.iloc[0])) if len(names) else ()
