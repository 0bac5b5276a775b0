"""The style of the book's figures, safe in print and for colour-blind readers; figures of chapters 1 to 4."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from PIL import Image

from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.style import Styled
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config.params import Params
from diffusegen_core.data import planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.pairsets import read_pair
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion.losses import weights

# Okabe and Ito's palette; line styles differ as well, so that nothing depends on colour alone.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
LINES = ["-", "--", "-.", ":"]
# A kind of pairs looks the same in every figure of every run; in the order of the pipeline.
LOOKS = {"Real": ("#000000", "o"), "GAN": ("#009E73", "P"), "Paste": ("#E69F00", "s"),
         "Paste-Poisson": ("#5D3A00", "D"), "inpainted": ("#0072B2", "^"), "styled": ("#D55E00", "v"),
         "Full, inpainted": ("#56B4E9", "<"), "Full, styled": ("#CC79A7", ">")}
STYLE: dict[str, Any] = {
    "figure.dpi": 110, "savefig.dpi": 160, "figure.constrained_layout.use": True,
    # As large as text beside them on a wide page, so that it can be read where a phone halves a figure.
    "font.size": 10.5, "axes.titlesize": 10.5, "axes.labelsize": 10.5, "legend.fontsize": 10.5,
    "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.prop_cycle": cycler(color=COLOURS), "image.interpolation": "nearest",
}
plt.style.use(STYLE)
WIDTH = 6.4  # inches; a page as narrow as a phone's shrinks a wider figure until its words are too small
MOST_ROWS = 12  # a figure of more clusters or models than this shows the first ones
BLOCKS, MOST_PAIRS = 4, 3  # sources in a figure at most, and synthetic pairs of each


def look(data_type: str) -> dict[str, Any]:
    """Colour, marker and line of a data type, by its name. What the filter keeps of a type has its colour, a
    hollow marker and a line of its own."""
    one = DataType.parse(data_type)
    kind = ("Full, " if one.full else "") + ("styled" if one.is_styled else "inpainted") \
        if one.is_painted else one.kind
    colour, marker = LOOKS[kind]
    style = {"color": colour, "marker": marker, "linestyle": LINES[list(LOOKS).index(kind) % len(LINES)]}
    return style | ({"markerfacecolor": "white", "linestyle": (0, (4, 1, 1, 1, 1, 1))}
                    if one.is_filtered else {})


def picture(ax: Axes, image: np.ndarray) -> None:
    """An image (C, S, S) uint8, without ticks: RGB in colours, others in grey."""
    _shown(ax, planes.rgb(image[None])[0].transpose(1, 2, 0))


def labels(ax: Axes, mask: np.ndarray) -> None:
    """A mask (M, S, S), from 0 to 1, without ticks: one class in white, several in CLASS_COLOURS."""
    if len(mask) == 1:
        _shown(ax, mask[0], cmap="gray", vmin=0, vmax=1)
    else:
        _shown(ax, planes.coloured(255 * mask[None])[0].transpose(1, 2, 0))


def pair(axes: Iterable[Axes], image: np.ndarray, mask: np.ndarray) -> None:
    """An image in the first axes, its mask in the second."""
    for ax, show, shown in zip(axes, (picture, labels), (image, mask), strict=True):
        show(ax, shown)


def outlines(ax: Axes, numbers: np.ndarray, classes: int, colour: str = "white", **style: Any) -> None:
    """The border of each class in a map of class numbers (S, S): a single class in `colour`, several each in
    its own. A class that fills the picture has none."""
    for number, mask in enumerate(planes.separate(numbers, classes), 1):
        if mask.any() and not mask.all():
            ax.contour(mask, [0.5], colors=colour if classes == 1 else class_colour(number), **style)


def class_colour(number: int) -> str:
    """The colour of a class, numbered from 1, as hex."""
    return to_hex(planes.CLASS_COLOURS[(number - 1) % len(planes.CLASS_COLOURS)] / 255)


def legend(figure: Figure, classes: Sequence[str]) -> None:
    """Which colour is which class, below the figure; nothing where there is one class."""
    if len(classes) > 1:
        patches = [Patch(color=class_colour(number), label=name) for number, name in enumerate(classes, 1)]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(classes), 6))


def _shown(ax: Axes, pixels: np.ndarray, **how: Any) -> None:
    ax.axis("on")  # a board starts with all axes off, for places without a picture
    ax.imshow(pixels, **how)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def board(rows: int, columns: int, width: float = WIDTH) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns square pictures."""
    side = width / columns
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    figure, axes = plt.subplots(rows, columns, figsize=(width, side * rows * 1.04), squeeze=False,
                                layout=layout)
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes


def beside(ax: Axes, kind: str) -> None:
    """Label a row of small pictures with its data type; a long name is wrapped, to be as high as the row."""
    ax.set_ylabel(textwrap.fill(kind, 14, break_long_words=False), fontsize=8)


def samples(pairs: Pairs, count: int = 7, classes: Sequence[str] = ()) -> Figure:
    """Figure 1: samples of the dataset, image above mask, spread over the whole set; `classes` as
    data.classes."""
    chosen = spread(len(pairs), count)
    figure, axes = board(2, len(chosen))
    for column, i in enumerate(chosen):
        pair(axes[:, column], pairs.images[i], pairs.masks[i])
    legend(figure, classes)
    return figure


def clusters(pairs: Pairs, result: Clusters, columns: int = 8) -> Figure:
    """Figure 3: images of one cluster in each row."""
    shown = range(min(result.k, MOST_ROWS))
    figure, axes = board(len(shown), columns)
    for k in shown:
        members = np.flatnonzero(result.labels == k)[:columns]
        for ax, i in zip(axes[k], members, strict=False):
            picture(ax, pairs.images[i])
        axes[k, 0].set_ylabel(f"{k}\nn = {result.sizes[k]}")
    return figure


def scan(result: Clusters) -> Figure:
    """Silhouette and inertia over K; the run's own K is marked."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.3))
    for ax, column, colour in zip(axes, ("silhouette", "inertia"), COLOURS, strict=False):
        ax.plot(result.scan["k"], result.scan[column], "o-", color=colour, markersize=4)
        ax.axvline(result.k, color="0.6", linewidth=1, linestyle=":")
        ax.set(xlabel="number of clusters K", ylabel=column)
        ax.xaxis.get_major_locator().set_params(integer=True)
    return figure


def losses(trained: Trained) -> Figure:
    """The training loss of every model over the images it has seen, smoothed over a fortieth of the run."""
    figure, ax = plt.subplots(figsize=(WIDTH, 2.8))
    for i, model in enumerate(trained.all[:MOST_ROWS]):
        _curve(ax, model.folder, model.images / max(model.steps, 1), model.name,
               COLOURS[i % len(COLOURS)], LINES[(i // len(COLOURS)) % len(LINES)])
    ax.set(xlabel="training images seen", ylabel="loss (smoothed)", yscale="log")
    if ax.lines:
        ax.legend(ncols=4)
    return figure


def _curve(ax: Axes, folder: Path, batch: float, label: str, colour: str, line: str) -> None:
    path = folder / "log.csv"
    if not path.exists():  # a checkpoint that was taken over has no curve
        return
    log = pd.read_csv(path)
    smooth = log["loss"].rolling(max(1, len(log) // 40), min_periods=1).mean()
    ax.plot(log["step"] * batch, smooth, label=label, color=colour, linestyle=line, linewidth=1.3)


def grids(trained: Trained) -> Figure:
    """The last sample grid of every model: images above, their masks below."""
    last = [(m.name, sorted((m.folder / "samples").glob("*.png"))[-1]) for m in trained.all[:MOST_ROWS]
            if list((m.folder / "samples").glob("*.png"))]
    if not last:
        return nothing("These models were taken over, not trained here: there are no sample grids.")
    pictures = [(name, np.asarray(Image.open(path))) for name, path in last]
    heights = [image.shape[0] / image.shape[1] for _, image in pictures]
    figure, axes = plt.subplots(len(last), 1, squeeze=False, height_ratios=heights,
                                figsize=(WIDTH, (WIDTH - 0.3) * sum(heights) + 0.06 * len(last)))
    for ax, (name, image) in zip(axes[:, 0], pictures, strict=True):
        picture(ax, image.transpose(2, 0, 1))
        ax.set_ylabel(name)
    return figure


def inpainting(pairs: Pairs, result: Inpainted, classes: Sequence[str] = ()) -> Figure:
    """Figure 5: the source pair in the first column of each block, its synthetic pairs in the next ones.

    The pairs are those of the cluster models.
    """
    one = next(iter(result.sets.values()))
    if one.manifest.empty:
        return nothing("No painted pair is left: left_out.csv of this data type says why.")
    figure, blocks = in_blocks(one.manifest, "synthetic")
    for name, synthetic, axes in blocks:
        i = pairs.names.index(name)
        columns = [(pairs.images[i], pairs.masks[i]), *(read_pair(one.folder, new) for new in synthetic)]
        for column, shown in zip(axes.T, columns, strict=False):
            pair(column, *shown)
    legend(figure, classes)
    return figure


def in_blocks(manifest: pd.DataFrame, title: str) -> tuple[Figure, list[tuple[str, list[str], np.ndarray]]]:
    """A figure with a block for each of up to BLOCKS sources, evenly spread, two blocks side by side; the
    `title` stands above each pair made of a source.

    For each block: the source's name, the names of its synthetic pairs (at most MOST_PAIRS), and the axes:
    two rows, with one column more than pairs.
    """
    names = list(dict.fromkeys(manifest["source"]))
    chosen = [names[i] for i in spread(len(names), BLOCKS)]
    abreast = min(2, len(chosen))
    width = 1 + min(MOST_PAIRS, int(manifest.groupby("source").size().max()))
    figure, axes = board(2 * -(-len(chosen) // abreast), abreast * width)
    blocks = []
    for n, name in enumerate(chosen):
        synthetic = manifest.loc[manifest["source"] == name, "name"].head(width - 1)
        top, left = 2 * (n // abreast), n % abreast * width
        blocks.append((name, list(synthetic), axes[top:top + 2, left:left + width]))
        for ax, heading in zip(axes[top, left:], ["source", *[title] * len(synthetic)], strict=False):
            ax.set_title(heading)
    return figure, blocks


def nothing(words: str) -> Figure:
    """A figure that says in words why there is none."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.6))
    ax.axis("off")
    ax.text(0.5, 0.5, words, ha="center", va="center")
    return figure


def areas(result: Inpainted) -> Figure:
    """The area of each synthetic pair's mask against its source's, as shares of the image."""
    made = {name.name: one.manifest for name, one in result.sets.items() if len(one)}
    if not made:
        return nothing("There is no synthetic pair to measure.")
    figure, ax = plt.subplots(figsize=(WIDTH * 0.6, WIDTH * 0.5))
    for name, manifest in made.items():
        ax.plot(manifest["area_before"], manifest["area_after"], label=name, markersize=3.5, alpha=0.6,
                **look(name) | {"linestyle": ""})
    top = max(manifest[["area_before", "area_after"]].to_numpy().max() for manifest in made.values())
    ax.plot([0, top], [0, top], color="0.6", linewidth=1, linestyle=":")
    ax.set(xlabel="area of the source mask", ylabel="area of the new mask")
    figure.legend(loc="outside upper center", ncols=len(made))  # a mark inside would be one more pair
    return figure


def styling(pairs: Pairs, result: Styled) -> Figure:
    """Figure 6: a source in the first column of each block, then its inpainted images above the styled ones.

    The images are those of the cluster models.
    """
    data_type, one = next(iter(result.sets.items()))
    if one.manifest.empty:
        return nothing("No image was styled.")
    figure, blocks = in_blocks(one.manifest, "painted")
    for name, synthetic, axes in blocks:
        picture(axes[0, 0], pairs.images[pairs.names.index(name)])
        for column, new in zip(axes.T[1:], synthetic, strict=False):
            for ax, shown in zip(column, (result.origins[data_type], one), strict=True):
                picture(ax, read_pair(shown.folder, new)[0])
            column[1].set_title("styled")
    return figure


def guidance(p: Params, result: Styled) -> Figure:
    """The weighted losses over the steps and how far each pulls, means over the cluster models' images."""
    steps = next(iter(result.steps.values()))
    if steps.empty:
        return nothing("No image was guided.")
    means = steps.groupby("step").mean()
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    for i, (term, weight) in enumerate(weights(p.style, 0).items()):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "linewidth": 1.3}
        loss, pull = (means[column].abs().replace(0, np.nan) for column in (term, f"pull_{term}"))
        axes[0].plot(weight * loss, label=f"\u2212{term}" if term == "sem" else term, **style)
        axes[1].plot(pull, **style)
    axes[1].plot(means["noise"], color="0.6", linewidth=1, label="the step's noise")
    axes[1].plot(means["shift"], color="black", linewidth=2, label="the shift that was made")
    axes[0].set(xlabel="step", ylabel="weighted loss", yscale="log")
    axes[1].set(xlabel="step", ylabel="RMS over the image", yscale="log")
    figure.legend(loc="outside upper center", ncols=5)
    return figure


class Watch:
    """A live view for JupyterLab: the loss curve and the newest sample grid of the model in training.

    Pass it as `run.make("train", watch=figures.Watch())`; it is called with the model's name and the folder
    of its curve at every sample grid.
    """

    def __init__(self) -> None:
        self.handle: DisplayHandle | None = None

    def __call__(self, name: str, folder: Path) -> None:
        try:
            figure = progress(name, folder)
        except FileNotFoundError:  # the model was finished and moved into place meanwhile
            return
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        plt.close(figure)


def progress(name: str, folder: Path) -> Figure:
    """The loss curve of one model so far, beside its newest sample grid.

    Raises FileNotFoundError if the folder has no sample grid, for example because it was moved.
    """
    grids = sorted((folder / "samples").glob("*.png"))
    if not grids:
        raise FileNotFoundError(f"{folder} has no sample grid.")
    newest = np.asarray(Image.open(grids[-1]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.1), width_ratios=[1, 1.6])
    _curve(left, folder, 1, name, COLOURS[0], "-")
    left.set(xlabel="step", ylabel="loss", yscale="log", title=name)
    picture(right, newest.transpose(2, 0, 1))
    right.set_title(f"samples after {int(grids[-1].stem)} images")
    return figure
