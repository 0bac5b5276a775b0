"""Pairs of a run as pictures: some drawn by its seed, and the first and the last by a measure."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusegen_core.chapters import members
from diffusegen_core.chapters.style import SDEDIT
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet, read_pair
from diffusegen_core.report.figures import board, class_colour, labels, legend, nothing, picture
from diffusegen_core.run import Run
from diffusegen_core.store import seeds

SHOWN, ENDS = 5, 5  # pairs of the strip, and of the best and the worst
ROWS = ("source", "new image", "with outline", "mask")
NONE = "There are no synthetic pairs to show."


class Measure(NamedTuple):
    """What pairs are ordered by: a column of a table of theirs."""

    column: str
    words: str
    higher_is_better: bool
    digits: str
    ends: tuple[str, str] = ("best", "worst")
    """What the first and the last pairs are called."""


# In order of preference: the first that is known is used.
MEASURES = (
    Measure("agreement", "Dice between the mask and what networks that never saw the source find there",
            True, ".2f"),
    Measure("mask_dice", "Dice between the mask and the one that the generator itself drew",
            True, ".2f"))
# What is no measure of good pairs: a filling that shows nothing at all has the smoothest border.
SEAMS = [Measure(column, "contrast at the border of the filled region, in grey levels", False, ".1f",
                 ("lowest", "highest")) for column in ("seam_before", "seam_after")]


class Ranking(NamedTuple):
    """Pairs in the order of a measure."""

    of: PairSet
    """Whose images are shown."""
    measure: Measure
    rows: pd.DataFrame
    """Rows of the manifest from the first pair to the last, with the values in a column `measure`."""

    @property
    def judges(self) -> bool:
        """Whether the measure says if a pair is good for its purpose."""
        return self.measure in MEASURES


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
    legend(figure, run.params.data.classes)
    return figure


def ranked(run: Run) -> Ranking | None:
    """The pairs by the first measure that says whether they are good to learn from: the agreement of the
    run's filter, or that of the generator with itself. Without either, by the contrast at the border of what
    was filled: before styling where SDEdit has repainted whole pictures, that border with them. None where
    nothing is known."""
    one = chosen(run)
    if one is None:
        return None
    judged = getattr(run.finished("filter"), "judged", {}).get(one.data_type)
    lists = [judged.kept.manifest, judged.kept.left_out] if judged else [one.manifest]
    before, after = SEAMS
    whole = one.data_type.is_styled and run.params.style.method == SDEDIT and not run.params.data.window
    seam, of = (before, run.styled.origins[one.data_type]) if whole else (after, one)
    for measure in (*MEASURES, seam):
        if (rows := ordered(pd.concat(lists), measure)) is not None:
            return Ranking(of if measure is seam else one, measure, rows)
    return None


def ordered(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame | None:
    """The rows of a manifest from the first pair to the last, with the values in a column `measure`; None
    where the measure is known of none."""
    if measure.column not in rows:
        return None
    known = rows.assign(measure=pd.to_numeric(rows[measure.column], errors="coerce")).dropna(subset="measure")
    return None if known.empty else known.sort_values("measure", ascending=not measure.higher_is_better,
                                                      kind="stable")


def extremes(run: Run) -> Figure:
    """The first pairs of `ranked` above the last ones: images with the outline of the mask and the value. If
    it is the contrast at the border of the filled region, the region is dashed."""
    ranking = ranked(run)
    if ranking is None:
        return nothing("There is no measure to order the pairs by: styling (chapter 4) computes one.")
    count = max(1, min(ENDS, len(ranking.rows) // 2))
    figure, axes = board(2, count)
    ends = ranking.rows.head(count), ranking.rows.tail(count)
    for line, name, these in zip(axes, ranking.measure.ends, ends, strict=True):
        for ax, row in zip(line, these.itertuples(), strict=False):
            image, mask = read_pair(ranking.of.folder, row.name)
            picture(ax, image)
            if not ranking.judges:
                outline(ax, _region(run, ranking.of, row.name)[None], linestyles="dashed")
            outline(ax, mask)
            ax.set_xlabel(f"{row.measure:{ranking.measure.digits}}", labelpad=2)
        line[0].set_ylabel(name)
    legend(figure, run.params.data.classes)
    return figure


def _region(run: Run, one: PairSet, name: str) -> np.ndarray:
    """Where a pair was filled, (S, S)."""
    row = one.manifest["name"].tolist().index(name)
    return members.of_set(run.pairs, one.data_type, one.folder, run.params.inpaint.dilate,
                          slice(row, row + 1)).regions[0]


def outline(ax: Axes, mask: np.ndarray, **style: Any) -> None:
    """The border of a mask (M, S, S), white on black, so that it shows on any colour and in print; with
    several classes, each in its colour on black."""
    for number, plane in enumerate(mask, 1):
        if plane.any() and not plane.all():
            own = "white" if len(mask) == 1 else class_colour(number)
            for colour, width in (("black", 2.4), (own, 1.1)):
                ax.contour(plane, [0.5], colors=colour, linewidths=width, **style)


def _source(pairs: Pairs, row: object) -> np.ndarray | None:
    """The picture that a pair was painted into; None if it is not one of the run's pairs."""
    name = getattr(row, "picture", "") or getattr(row, "source", "")
    return pairs.images[pairs.names.index(name)] if name in pairs.names else None
