"""Figures of chapters 6 and 7, in the style of `figures`."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffusegen_core.config.params import Params
from diffusegen_core.data import planes
from diffusegen_core.data.types import REAL
from diffusegen_core.measures import calibration, intervals
from diffusegen_core.report.figures import (
    COLOURS,
    LINES,
    WIDTH,
    beside,
    board,
    legend,
    look,
    nothing,
    outlines,
    picture,
)
from diffusegen_core.report.naming import dice_of
from diffusegen_core.segmentation import details, trials
from diffusegen_core.segmentation.experiments import OK
from diffusegen_core.segmentation.trials import Tested


def alone(result: Tested, p: Params) -> Figure:
    """Dice of every data type and N with its interval, a panel for each test set; the dotted line is Real."""
    if result.images.empty:
        return nothing("No network was tested.")
    means = trials.summary(result, ["data_type", "samples"], "dice", p.segment.resamples, p.seed)
    names = list(dict.fromkeys(means["test_set"]))
    figure, axes = plt.subplots(1, len(names), squeeze=False, sharey=True,
                                figsize=(WIDTH, 0.9 + 0.24 * means.groupby("test_set").size().max()))
    for ax, name in zip(axes[0], names, strict=True):
        rows = means[means["test_set"] == name].iloc[::-1].reset_index(drop=True)
        for i, row in rows.iterrows():
            style = look(row["data_type"])
            ax.plot([row["low"], row["high"]], [i, i], color=style["color"], linewidth=1.3)
            ax.plot(row["mean"], i, markersize=4, **style)
        for real in rows.loc[rows["data_type"] == REAL.name, "mean"]:
            ax.axvline(real, color="0.6", linewidth=1, linestyle=":")
        ax.set(title=name, xlabel=dice_of(p), xlim=(0, 1))
        ax.set_yticks(rows.index, [row["data_type"] if pd.isna(row["samples"]) else
                                   f"{row['data_type']}-{row['samples']}" for _, row in rows.iterrows()])
    return figure


def gains(result: Tested, p: Params) -> Figure:
    """The gain in Dice over Real against n, with paired intervals: a panel for each test set."""
    images = result.images
    synthetic = images[images["data_type"] != REAL.name]
    if synthetic.empty or not (images["data_type"] == REAL.name).any():
        return nothing("There is nothing to compare with Real.")
    names = list(dict.fromkeys(images["test_set"]))
    figure, axes = plt.subplots(1, len(names), squeeze=False, sharey=True, figsize=(WIDTH, 3.0))
    kinds = list(synthetic.groupby(["data_type", "ratio"], sort=False).groups)
    ratios = sorted(synthetic["ratio"].unique())
    sizes = sorted(images["size"].unique())
    apart = min(0.1, 0.7 / len(kinds))  # intervals neither hide each other nor leave their size
    for ax, name in zip(axes[0], names, strict=True):
        here = images[images["test_set"] == name]
        for i, (data_type, ratio) in enumerate(kinds):
            gains = [(sizes.index(size), intervals.paired(
                rows[(rows["data_type"] == data_type) & (rows["ratio"] == ratio)],
                rows[rows["data_type"] == REAL.name], "dice", p.segment.resamples, p.seed,
                result.groups_of(str(name))))
                for size, rows in here.groupby("size")]
            x = np.array([place for place, _ in gains]) + (i - (len(kinds) - 1) / 2) * apart
            style = look(data_type)
            style |= {"linestyle": LINES[ratios.index(ratio) % len(LINES)]} if len(ratios) > 1 else {}
            ax.vlines(x, [gain.low for _, gain in gains], [gain.high for _, gain in gains], linewidth=1.3,
                      color=style["color"])
            ax.plot(x, [gain.mean for _, gain in gains], markersize=4, linewidth=1.3,
                    label=f"{data_type}, r = {ratio}", **style)
        ax.axhline(0, color="0.5", linewidth=1, linestyle=":")
        ax.set(title=name, xlabel="real pairs n", xlim=(-0.5, len(sizes) - 0.5))
        ax.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes[0, 0].set_ylabel(f"gain over Real in {dice_of(p)}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def examples(result: Tested, rows: int = 8, classes: Sequence[str] = ()) -> Figure:
    """Test images with the true outline, and below them what networks of a middling seed took for objects."""
    tests = [(test.name, test.pairs) for test in result.tests if test.pairs is not None]
    done = _typical(result, rows)
    if done.empty or not tests:
        return nothing("No network was tested.")
    figure, axes = board(len(done) + 1, trials.EXAMPLES * len(tests))
    for left, (test, pairs) in enumerate(tests):
        predicted = [trials.examples(result, name, test, pairs) for name in done["name"]]
        columns = axes.T[left * trials.EXAMPLES:]
        for column, image in zip(columns, predicted[0], strict=False):
            i = pairs.names.index(image)
            masks = [planes.numbered(pairs.masks[i]), *(masks.get(image) for masks in predicted)]
            for ax, mask in zip(column, masks, strict=True):
                if mask is not None:  # None: a network of older code kept those of other images
                    picture(ax, pairs.images[i])
                    outlines(ax, mask, pairs.planes.classes, linewidths=0.9)
        columns[0][0].set_title(test, loc="left")
    for ax, name in zip(axes[:, 0], ["true", *done["data_type"]], strict=True):
        beside(ax, name)
    legend(figure, classes)
    return figure


def worst(result: Tested, rows: int = 6, classes: Sequence[str] = ()) -> Figure:
    """For the networks of `examples`, the test images that each did worst on, from different sequences,
    centres or patients where these are known: the true outline, in white, and what it took for objects,
    dashed. With several classes, each outline is in the colour of its class."""
    tests = [(test.name, test.pairs) for test in result.tests if test.pairs is not None]
    done = [(kind, [details.worst(result.details, name, test, result.groups_of(test))
                    for test, _ in tests])
            for kind, name in _typical(result, rows)[["data_type", "name"]].itertuples(index=False)]
    done = [(kind, cases) for kind, cases in done if any(cases)]
    if not done:
        return nothing("The worst cases are not known for any network.")
    figure, axes = board(len(done), details.WORST * len(tests))
    for row, (kind, cases) in zip(axes, done, strict=True):
        for left, ((_, pairs), shown) in enumerate(zip(tests, cases, strict=True)):
            for ax, (name, dice, mask) in zip(row[left * details.WORST:], shown, strict=False):
                i = pairs.names.index(name)
                picture(ax, pairs.images[i])
                for numbers, colour, line in ((planes.numbered(pairs.masks[i]), "white", "solid"),
                                              (mask, COLOURS[5], "dashed")):
                    outlines(ax, numbers, pairs.planes.classes, colour, linewidths=0.9, linestyles=line)
                ax.set_xlabel(f"Dice {dice:.2f}", fontsize=8, labelpad=1)
        beside(row[0], kind)
    for ax, (test, _) in zip(axes[0, ::details.WORST], tests, strict=True):
        ax.set_title(test, loc="left")
    legend(figure, classes)
    return figure


def reliability(result: Tested, p: Params) -> Figure:
    """The share of pixels that are objects against the probability that networks give them, for each data
    type's networks with the most pairs, all seeds together: a panel for each test set."""
    known = result.details.calibration
    if known.empty:
        return nothing("The probabilities are not known for any network.")
    names = list(dict.fromkeys(known["test_set"]))
    figure, axes = plt.subplots(1, len(names), squeeze=False, sharey=True, figsize=(WIDTH, 2.9))
    for ax, name in zip(axes[0], names, strict=True):
        ax.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":")
        for kind, rows in known[known["test_set"] == name].groupby("data_type", sort=False):
            for field in ("size", "samples", "ratio"):
                rows = rows[rows[field].isna() | (rows[field] == rows[field].max())]
            curve = calibration.pooled(rows)
            ax.plot(curve["probability"], curve[calibration.SHARE], label=kind, markersize=3, linewidth=1.2,
                    **look(str(kind)))
        ax.set(title=name, xlabel=f"probability of {p.data.object_name}", xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].set_ylabel(f"share of {p.data.object_name}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _typical(result: Tested, rows: int) -> pd.DataFrame:
    """The rows of `runs` for one seed's networks with the most synthetic pairs, one per data type: the seed
    whose mean Dice is in the middle of those of all seeds, so that pictures are not of one that failed."""
    done = result.runs[result.runs["status"] == OK]
    if done.empty:
        return done
    kinds = done.groupby("seed")["data_type"].nunique()
    whole = sorted(kinds.index[kinds == kinds.max()])  # with networks of the most data types
    by_seed = result.images.groupby("seed")["dice"].mean().reindex(whole).sort_values()
    middle = done[done["seed"] == by_seed.index[len(by_seed) // 2]]
    ascending = middle.sort_values(["size", "samples", "ratio"], kind="stable")
    return ascending.groupby("data_type", sort=False).tail(1).sort_index().head(rows)
