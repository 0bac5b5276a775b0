"""The algorithms of chapters 2 to 4 at work on one image, as figures of what the public functions return."""

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffusegen_core.chapters import inpaint, spots, style
from diffusegen_core.chapters.scenes import Scene, Scenes, bare, chosen, inside
from diffusegen_core.data import dataset, pairsets, planes, regions, windows
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.types import cluster_model, painted
from diffusegen_core.diffusion.guided import GuidedStep
from diffusegen_core.diffusion.losses import TERMS
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.samplers import Generators, Step, ancestral
from diffusegen_core.report.figures import COLOURS, board, labels, picture
from diffusegen_core.run import Run

COLUMNS = 8  # columns of a strip; more leave no room for words that can be read on a phone
STRIP = 6.4  # width of a strip, inches


def one(run: Run, number: int = 0) -> tuple[Pairs, Diffusion]:
    """A pair of the run, by its number (its first window, if windows are cut), and its cluster's model."""
    model = cluster_model(int(run.clusters.labels[number]))
    copies = len(run.windows) // len(run.pairs)
    return run.windows.take([copies * number]), run.models.load(model, run.params.device)


def to_paint(run: Run, number: int = 0) -> tuple[Tensor, Tensor, Diffusion]:
    """What chapter 3 starts from: a picture (1, C + M, S, S), with its new mask where masks are given; its
    known region (1 where known, else 0), (1, 1, S, S) or (1, C + M, S, S); and its model, with the run's
    precision and guidance. The run's sampler is `samplers.named(run.params.inpaint.sampler)`.

    `number` counts the pairs of the cluster models, in the order in which chapter 3 plans them. Raises
    NotMadeError where a folder of masks or pictures has not been read yet.
    """
    p, ws = run.params, run.workspace.read_only
    scenes = Scenes.of(ws, run.pairs, p.inpaint, p.data.window, p.data)
    data_type = painted(run.clusters.k, False, p.inpaint.masks)[0]
    job = inpaint.plan(p.seed, data_type, run.pairs, run.clusters, p.inpaint, scenes.names)[number]
    scene, diffusion = scenes.scene([job]), run.models.load(job.model, p.device, p.inpaint.precision)
    if window := p.data.window:
        parts = spots.windows(scene.pictures, scene.masks, window, p.inpaint, scenes.chosen)
        shown = windows.cut_all(scene.pictures, parts, diffusion.image_size)
        new = None if scene.masks is None else windows.cut_all(dataset.gather(
            shown.names, scene.pictures.images, scene.masks, shown.overlap), parts,
            diffusion.image_size).masks
        region = regions.filled(planes.only(shown.masks, scenes.chosen),
                                None if new is None else planes.only(new, scenes.chosen), p.inpaint.dilate)
        scene = Scene(shown, new, region, scene.rows, scenes.chosen)
    x, known = (tensor.to(diffusion.device) for tensor in (scene.x, scene.known))
    few = replace(diffusion, clip=p.inpaint.clip).respaced(p.inpaint.respacing)
    return x, known, few.towards(x[:, diffusion.planes.channels:], scenes.guidance_scale, scene.rest.to(x))


def to_style(run: Run, number: int = 0) -> tuple[Tensor, Tensor, Tensor, Diffusion]:
    """What chapter 4 starts from: an inpainted pair (1, C + M, S, S), its source (1, C, S, S), the pixels
    (1, C, S, S) that its pixel loss compares with, and its model, with the run's precision.

    `number` counts the inpainted pairs of the cluster models. If there are none, because the models drew no
    object, a real pair takes the place of the inpainted one.
    """
    p, (data_type, made) = run.params, next(iter(run.inpainted.sets.items()))
    if made.manifest.empty:
        source = run.pairs.take([number])
        pair, diffusion = source, one(run, number)[1]
    else:
        job = style.plan(p.seed, data_type.styled, made.manifest, run.pairs.names)[number]
        scenes = Scenes.of(run.workspace.read_only, run.pairs, p.inpaint, data=p.data)
        pair, source = pairsets.load(made.folder, [job.name]), scenes.pictures([job])
        diffusion = run.models.load(job.model, p.device)
    if window := p.data.window:
        given = pair.masks if data_type.given_masks else None
        parts = spots.windows(source, given, window, p.inpaint, chosen(p.inpaint, p.data))
        pair, source = (windows.cut_all(pairs, parts, diffusion.image_size) for pairs in (pair, source))
    x, real = (dataset.to_tensor(pairs).to(diffusion.device) for pairs in (pair, source))
    pixels = x if data_type.given_masks else real
    channels = diffusion.planes.channels
    as_run = replace(diffusion, clip=p.style.clip, precision=p.style.precision)
    return x, real[:, :channels], pixels[:, :channels], as_run.respaced(p.style.respacing)


def rest(run: Run, masks: Tensor) -> Tensor:
    """What chapter 4 compares masks (B, M, S, S) in [-1, 1] with: the same without the painted classes."""
    p = run.params
    return bare(masks, chosen(p.inpaint, p.data), inside(p.inpaint, p.data))


class Recorder:
    """A sampler's step that records the first image of every batch: `repaint(..., step=Recorder())`."""

    def __init__(self, step: Step = ancestral) -> None:
        self.step = step
        self.levels: list[int] = []
        self.images: list[Tensor] = []  # each (C + M, S, S)
        self.channels = planes.RGB

    def __call__(self, diffusion: Diffusion, x_t: Tensor, t: Tensor, generators: Generators,
                 before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.levels.append(int(t[0]))
        self.images.append(x_t[0].cpu())
        self.channels = diffusion.planes.channels
        return self.step(diffusion, x_t, t, generators, before)


def denoising(x_t: Tensor, t: Tensor, x0: Tensor, channels: int = planes.RGB) -> Figure:
    """Chapter 2: noised pairs (B, C + M, S, S) at levels t (B,), above the x0 that the network predicts for
    each."""
    figure, axes = board(4, len(x_t), STRIP)
    for column, noised, level, clean in zip(axes.T, x_t, t.tolist(), x0, strict=True):
        both(column[:2], noised, channels)
        both(column[2:], clean, channels)
        column[0].set_title(f"t = {level}")
    for ax, label in zip(axes[:, 0], ("$x_t$", "mask", r"$\hat x_0$", "mask"), strict=True):
        ax.set_ylabel(label)
    return figure


def strip(seen: Recorder, result: Tensor, levels: list[int]) -> Figure:
    """Chapter 3: evenly spaced images from the path through `levels`, and the result; below, the path."""
    shown = spread(len(seen.images), COLUMNS - 1)
    figure = plt.figure(figsize=(STRIP, 2 * STRIP / COLUMNS + 1.6))
    places = figure.add_gridspec(3, len(shown) + 1, height_ratios=[1, 1, 1.6])
    for column, number in enumerate([*shown, None]):
        axes = [figure.add_subplot(places[row, column]) for row in range(2)]
        both(axes, result[0] if number is None else seen.images[number], seen.channels)
        axes[0].set_title("result" if number is None else f"i = {seen.levels[number]}")
    ax = figure.add_subplot(places[2, :])
    down = [place for place, (level, after) in enumerate(pairwise(levels)) if after < level]
    ax.plot(levels, color=COLOURS[0], linewidth=1)
    ax.plot([down[number] for number in shown], [seen.levels[number] for number in shown], "o",
            color=COLOURS[1], markersize=4)
    ax.set(xlabel="transitions, down and up", ylabel="respaced step $i$")
    return figure


def restyled(before: Tensor, seen: Recorder, result: Tensor) -> Figure:
    """Chapter 4: an inpainted pair (1, C + M, S, S), evenly spaced images of its way through noise, and the
    result."""
    shown = spread(len(seen.images), COLUMNS - 2)
    figure, axes = board(2, len(shown) + 2, STRIP)
    steps = {f"i = {seen.levels[number]}": seen.images[number] for number in shown}
    columns = {"inpainted": before[0], **steps, "result": result[0]}
    for column, (title, x) in zip(axes.T, columns.items(), strict=True):
        both(column, x, seen.channels)
        column[0].set_title(title)
    return figure


def guided_step(step: GuidedStep, x_t: Tensor, x_next: Tensor) -> Figure:
    """Chapter 4: the image before and after a guided step, what guides it, and how far each loss pulls."""
    figure = plt.figure(figsize=(STRIP, 2.9))
    places = figure.add_gridspec(2, 4, width_ratios=[1, 1, 0.1, 2])
    pictures = {"real source": step.targets.source, "inpainted": step.targets.inpainted,
                "before: $x_t$": x_t, "after: $x_{t-1}$": x_next}
    for place, (title, image) in enumerate(pictures.items()):
        ax = figure.add_subplot(places[place // 2, place % 2])
        colours(ax, image[0], step.targets.channels)
        ax.set_title(title)
    measured = {name: float(values[0]) for name, values in step.measured[-1].items()}
    _bars(figure.add_subplot(places[:, 3]), measured)
    return figure


def _bars(ax: Axes, measured: dict[str, float]) -> None:
    """How far each loss pulls, beside the resulting shift and the noise of the step."""
    names = [name for name in TERMS if f"pull_{name}" in measured]
    labels = [*names, "shift", "noise"]
    values = [*(measured[f"pull_{name}"] for name in names), measured["shift"], measured["noise"]]
    ax.barh(labels, values, color=[COLOURS[0]] * len(names) + ["black", "0.6"])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="RMS over the image")


def both(axes: np.ndarray | list[Axes], x: Tensor, channels: int = planes.RGB) -> None:
    """A pair (C + M, S, S) in [-1, 1]: its image in the first axes, its mask in the second."""
    colours(axes[0], x, channels)
    mask = x[channels:].detach().float().cpu().numpy()
    labels(axes[1], (mask.clip(-1, 1) + 1) / 2)


def colours(ax: Axes, x: Tensor, channels: int = planes.RGB) -> None:
    """The image of a pair in [-1, 1]; values outside are clipped."""
    picture(ax, dataset.to_bytes(x[:channels].detach().float().cpu().numpy()))

