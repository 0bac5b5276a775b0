"""The tour: a reader moves a mask in a picture of the run, and sees what is painted there."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from IPython.display import Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from diffusegen_core.chapters.paint import Painted
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import masks, planes
from diffusegen_core.report import figures
from diffusegen_core.run import Run

SIZES = 0.5, 2.0  # limits of the factor by which a moved mask may be scaled
NEEDS_WIDGETS = ("The package ipywidgets is not installed, so there are no sliders here. Change the numbers "
                 "in the next cell instead.")


def moved(mask: np.ndarray, x: float, y: float, size: float = 1.0) -> np.ndarray:
    """A mask (H, W) of class numbers, `size` times as large in each direction, with its middle at `x`, `y`,
    fractions of the picture from 0 (left, top) to 1: (H, W) uint8. What lies outside is cut away."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return mask.astype(np.uint8)
    middle = (xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2
    shift = x * (mask.shape[1] - 1) - size * middle[0], y * (mask.shape[0] - 1) - size * middle[1]
    matrix, shape = np.array([[size, 0, shift[0]], [0, size, shift[1]]]), mask.shape[::-1]
    return masks.each_class(mask, lambda one: cv2.warpAffine(one, matrix, shape, flags=cv2.INTER_LINEAR))


def paint(run: Run, number: int = 0, x: float = 0.5, y: float = 0.5, size: float = 1.0,
          seed: int = 0) -> Figure:
    """A pair of the run, by its number, and what its models paint where its mask is moved to (see `moved`).

    What the mask marked before is painted over. UserError where the region leaves nothing to paint into.
    """
    if not 0 <= number < len(run.pairs):
        raise UserError(f"There is no pair {number}: this run has pairs 0 to {len(run.pairs) - 1}.")
    image, old = run.pairs.images[number], planes.numbered(run.pairs.masks[number])
    new = moved(old, x, y, size)
    one, = run.paint(image.transpose(1, 2, 0), new, seed=seed, old=old)
    return _row(run, [("a pair of this run", image, old), ("the mask, moved", image, new),
                      ("painted there", one.image.transpose(2, 0, 1), None),
                      ("with its outline", one.image.transpose(2, 0, 1), one.mask)])


def beside(run: Run, picture: np.ndarray, painted: Painted) -> Figure:
    """A picture (H, W, 3) uint8, what `run.paint` made of it, and the outline of its mask."""
    after = painted.image.transpose(2, 0, 1)
    return _row(run, [("your picture", picture.transpose(2, 0, 1), None), ("painted", after, None),
                      ("with its outline", after, painted.mask)])


def _row(run: Run, shown: Sequence[tuple[str, np.ndarray, np.ndarray | None]]) -> Figure:
    """Pictures (C, H, W) side by side, with the outlines of numbered masks (H, W)."""
    classes = run.params.data.classes
    figure, (row,) = figures.board(1, len(shown))
    for ax, (title, pixels, numbers) in zip(row, shown, strict=True):
        figures.picture(ax, pixels)
        if numbers is not None:
            figures.outlines(ax, numbers, len(classes))
        ax.set_title(title)
    figures.legend(figure, classes)
    return figure


def sliders(run: Run) -> Any:
    """Sliders that move the mask, and the picture that follows them: an ipywidgets box, or, without that
    package, a sentence."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return Markdown(NEEDS_WIDGETS)
    slider: Callable[..., Any] = widgets.FloatSlider
    share = {"min": 0.0, "max": 1.0, "step": 0.02, "continuous_update": False}
    controls = {
        "number": widgets.BoundedIntText(0, min=0, max=len(run.pairs) - 1, description="pair"),
        "x": slider(0.5, description="right", **share), "y": slider(0.5, description="down", **share),
        "size": slider(1.0, description="size", min=SIZES[0], max=SIZES[1], step=0.1,
                       continuous_update=False),
        "seed": widgets.BoundedIntText(0, min=0, max=9999, description="seed")}
    picture = widgets.interactive_output(lambda **values: _show(run, values), controls)
    return widgets.VBox([widgets.HBox([controls["number"], controls["seed"]]),
                         widgets.HBox([controls["x"], controls["y"], controls["size"]]), picture])


def _show(run: Run, values: dict[str, Any]) -> None:
    try:
        display(figure := paint(run, **values))
        plt.close(figure)  # or the cell would show it a second time
    except UserError as error:
        display(Markdown(str(error)))
