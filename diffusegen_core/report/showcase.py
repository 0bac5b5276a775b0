"""Pairs of a run as pictures: some drawn by its seed, and the best and the worst by a measure."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet, read_pair
from diffusegen_core.report.figures import board, class_colour, labels, nothing, picture
from diffusegen_core.run import Run
from diffusegen_core.store import seeds

SHOWN, ENDS = 5, 5  # pairs of the strip, and of the best and the worst
ROWS = ("source", "new image", "with outline", "mask")
NONE = "There are no synthetic pairs to show."


class Measure(NamedTuple):
    """What pairs are ordered by: a column of a manifest."""

    column: str
    words: str
    higher_is_better: bool
    digits: str


# In order of preference: the first that a manifest has is used.
MEASURES = (
    Measure("mask_dice", "Dice between the mask and the one that the generator itself drew",
            True, ".2f"),
    Measure("seam_after", "contrast at the border of the filled region, in grey levels", False, ".1f"),
)


def chosen(run: Run) -> PairSet | None:
    """The pairs that are shown: styled ones of the clusters' models, or inpainted ones where none is styled;
    None where the run has none."""
    for chapter in ("style", "inpaint"):
        result = run.finished(chapter)
        for one in result.sets.values() if result else ():
            if len(one):
                return one
    return None


def drawn(run: Run, one: PairSet) -> pd.DataFrame:
    """The rows of the manifest that the run's seed draws for the strip, in their order."""
    count = min(SHOWN, len(one))
    rng = seeds.rng(run.params.seed, "front page", one.data_type)
    return one.manifest.iloc[np.sort(rng.choice(len(one), count, replace=False))]


def strip(run: Run) -> Figure:
    """A column per pair: its source, the new image, the same with the mask's outline, and the mask."""
    one = chosen(run)
    if one is None:
        return nothing(NONE)
    rows = drawn(run, one)
    figure, axes = board(len(ROWS), len(rows))
    for column, row in zip(axes.T, rows.itertuples(), strict=True):
        image, mask = read_pair(one.folder, row.name)
        source = _source(run.pairs, row)
        for ax, shown in zip(column, (source, image, image), strict=False):
            if shown is not None:
                picture(ax, shown)
        outline(column[2], mask)
        labels(column[3], mask)
    for ax, name in zip(axes[:, 0], ROWS, strict=True):
        ax.axis("on")
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name)
    return figure


def ordered(one: PairSet) -> tuple[Measure, pd.DataFrame] | None:
    """The measure that the pairs have, and the manifest from the best pair to the worst, with the values in a
    column `measure`; None where no measure is known."""
    for measure in MEASURES:
        if measure.column in one.manifest:
            values = pd.to_numeric(one.manifest[measure.column], errors="coerce")
            rows = one.manifest.assign(measure=values).dropna(subset="measure")
            if len(rows):
                return measure, rows.sort_values("measure", ascending=not measure.higher_is_better,
                                                 kind="stable")
    return None


def extremes(run: Run) -> Figure:
    """The best pairs above the worst ones, images with the outline of the mask and the measure."""
    one = chosen(run)
    found = ordered(one) if one else None
    if one is None or found is None:
        return nothing("There is no measure to order the pairs by: styling (chapter 4) computes one.")
    measure, rows = found
    count = max(1, min(ENDS, len(rows) // 2))
    ends = {"best": rows.head(count), "worst": rows.tail(count)}
    figure, axes = board(len(ends), count)
    for line, (name, these) in zip(axes, ends.items(), strict=True):
        for ax, row in zip(line, these.itertuples(), strict=False):
            image, mask = read_pair(one.folder, row.name)
            picture(ax, image)
            outline(ax, mask)
            ax.set_xlabel(f"{row.measure:{measure.digits}}", labelpad=2)
        line[0].set_ylabel(name)
    return figure


def outline(ax: Axes, mask: np.ndarray) -> None:
    """The border of a mask (M, S, S), white on black, so that it shows on any colour and in print; with
    several classes, each in its colour on black."""
    for number, plane in enumerate(mask, 1):
        if plane.any() and not plane.all():
            own = "white" if len(mask) == 1 else class_colour(number)
            for colour, width in (("black", 2.4), (own, 1.1)):
                ax.contour(plane, [0.5], colors=colour, linewidths=width)


def _source(pairs: Pairs, row: object) -> np.ndarray | None:
    """The picture that a pair was painted into; None if it is not one of the run's pairs."""
    name = getattr(row, "picture", "") or getattr(row, "source", "")
    return pairs.images[pairs.names.index(name)] if name in pairs.names else None
