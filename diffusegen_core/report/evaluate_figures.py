"""Figures of chapter 5, in the style of `figures`."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.chapters.membership import ERRORS
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import REAL
from diffusegen_core.measures import copies as audit
from diffusegen_core.measures import memory
from diffusegen_core.report.figures import COLOURS, LINES, WIDTH, look, nothing, picture


def copies(pairs: Pairs, result: Evaluated) -> Figure:
    """The likeliest copies above their nearest training images, in the same orientation, with filled regions
    outlined."""
    if result.closest.empty:
        return nothing("There is no synthetic image to look at.")
    rows = list(result.closest.itertuples())
    side = WIDTH / max(len(rows), 3)
    figure, axes = plt.subplots(2, len(rows), squeeze=False, figsize=(side * len(rows), 2 * side + 0.55))
    for column, row in zip(axes.T, rows, strict=True):
        data_type = result.audit.loc[row.Index, "data type"]
        image, region = result.picture(data_type, row.name)
        nearest = audit.turned(pairs.images[pairs.names.index(row.nearest)],
                               audit.ORIENTATIONS.index(row.orientation))
        origin = "its source" if row.own else "another image"
        titles = (f"{data_type}\nscore {row.score:.2f}",
                  f"{origin},\n{row.orientation}" if row.orientation else f"{origin}\n")
        for ax, shown, title in zip(column, (image, nearest), titles, strict=True):
            picture(ax, shown)
            ax.set_title(title, fontsize=7.5)
            if not region.all():
                ax.contour(region, [0.5], colors="white", linewidths=0.9)
    return figure


def copy_scores(result: Evaluated) -> Figure:
    """The share of images with at most a given score, in pixels and in features: a line for each data type,
    and a thin one of the same colour for images that no model can know."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.5), sharey=True)
    for ax, column, title in zip(axes, ("score", "feature_score"), ("in pixels", "in features"), strict=True):
        for name in (data_type.name for data_type in result.types):
            scores, null = (table.loc[table["data type"] == name, column].dropna()
                            for table in (result.audit, result.null))
            if len(scores):
                ax.ecdf(scores, label=name, linewidth=1.5, **look(name) | {"marker": ""})
            if len(null) and name != REAL.name:
                ax.ecdf(null, color=look(name)["color"], linewidth=0.7)
        ax.set(xlabel=f"score {title}", xlim=(0, None))
    axes[0].set(ylabel="share of images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def membership(result: Evaluated) -> Figure:
    """The ROC curve of the membership test, and the area under it at each noise level alone."""
    told = result.membership
    if told is None:
        return nothing("There is no membership test.")
    figure, (curves, levels) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    for i, group in enumerate(told.groups):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "linewidth": 1.5}
        curves.plot(*memory.curve(*told.error(group)), label=group, **style)
        areas = [memory.area(*told.error(group, [level])) for level in ERRORS[4:]]
        levels.plot(range(1, len(areas) + 1), areas, marker="o", markersize=4, **style)
    curves.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    levels.axhline(0.5, color="0.6", linewidth=1, linestyle=":")
    curves.set(xlabel="held-out pairs taken for training pairs", ylabel="training pairs recognised",
               xlim=(0, 1), ylim=(0, 1))
    levels.set(xlabel="noise level, the noisiest last", ylabel="area under the ROC curve", ylim=(0, 1))
    curves.legend(loc="lower right")
    return figure
