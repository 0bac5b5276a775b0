"""The two pictures of the page about the method, drawn from the run's data: samples, and the scheme."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from diffusegen_core.chapters.style import GUIDED
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import planes, rasters
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.pairsets import KINDS, read_pair
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import JOINT, painted
from diffusegen_core.report import figures
from diffusegen_core.report.rule import NOT_MADE
from diffusegen_core.run import Run
from diffusegen_core.store import files, moves
from diffusegen_core.store.stamps import STAMP

STAGES = {"cluster": "a", "train": "b", "inpaint": "c", "style": "d"}
TESTS = "near real ones?\na copy?\ndoes it help?"
SCHEME, COLUMNS = (6.6, 4.92), 3  # size of the scheme in units of its axes, and boxes a row


def draw(run: Run) -> list[Path]:
    """Write samples.png and scheme.png into the figures folder of the run, which must not be a link."""
    moves.refuse_links(run.folder, ["figures"])
    pairs = run.pairs
    written: list[Path] = []
    for name, figure in (("samples", figures.samples(pairs, classes=run.params.data.classes)),
                         ("scheme", scheme(run, pairs))):
        path = run.folder / "figures" / f"{name}.png"
        written.append(files.write(path, figure.savefig))
        plt.close(figure)
    return written


def scheme(run: Run, pairs: Pairs) -> Figure:
    """Figure 2: the stages, each with a picture that this run made, or a word on why there is none.

    In two rows, so that its words are legible on a page as narrow as a phone's.
    """
    boxes: list[tuple[str, str, str, np.ndarray | None]] = [
        ("", f"{len(pairs)} pairs", "images and\ntheir masks",
         _montage([(pairs.images[i], pairs.masks[i]) for i in spread(len(pairs), 3)])),
        *((letter, name, text, _made(run, name)) for (name, letter), text in
          zip(STAGES.items(), _told(run.params), strict=True)),
        ("e", "test", "", None)]
    figure, ax = plt.subplots(figsize=(figures.WIDTH, SCHEME[1] / SCHEME[0] * figures.WIDTH), layout="none")
    ax.set(xlim=(0, SCHEME[0]), ylim=(SCHEME[1], 0), position=(0, 0, 1, 1))
    ax.axis("off")
    ax.grid(False)
    for number, (letter, name, text, image) in enumerate(boxes):
        row, column = divmod(number, COLUMNS)
        left, top = 0.36 + 2.2 * column, 0.06 + 2.44 * row
        ax.add_patch(FancyBboxPatch((left, top), 1.76, 2.26, linewidth=0.8, edgecolor="0.55",
                                    facecolor="0.975", boxstyle="round,pad=0.04,rounding_size=0.1"))
        title = f"$\\bf{{{letter}}}$  {name}" if letter else name
        ax.text(left + 0.88, top + 0.2, title, ha="center", va="center", fontsize=14.6)
        if image is None:
            empty = any((run.folder / name).glob(f"*/{STAMP}"))  # made, but without a picture to show
            words, colour = (("no picture" if empty else NOT_MADE, "0.45") if text else (TESTS, "black"))
            ax.text(left + 0.88, top + 1.1, words, ha="center", va="center", fontsize=12.1, color=colour,
                    linespacing=1.8)
        else:
            ax.imshow(image, extent=_fit(image, left + 0.06, top + 0.44, 1.64, 1.12), aspect="auto", zorder=3)
        ax.text(left + 0.88, top + 1.94, text, ha="center", va="center", fontsize=12.1, linespacing=1.2)
        if number:
            ax.add_patch(FancyArrowPatch((left - 0.36, top + 1.0), (left - 0.05, top + 1.0), arrowstyle="-|>",
                                         mutation_scale=12, color=figures.COLOURS[0]))
    return figure


def _told(p: Params) -> list[str]:
    """What happens in each of STAGES, in words."""
    one, channels = p.cluster.k == 1, Planes.of(p.data).all
    return ["all pairs\ntogether" if one else "similar pairs\ntogether",
            f"a {channels}-channel model\n{'of them all' if one else 'for each cluster'}",
            f"a new {p.data.object_name}\nand its mask" if p.inpaint.masks == JOINT else
            f"a new {p.data.object_name}\nfor a given mask",
            "guided towards\nthe real image" if p.style.method == GUIDED else
            "noised, denoised,\nwith its mask"]


def _made(run: Run, stage: str) -> np.ndarray | None:
    """A picture of what the run made in a stage, or None."""
    if stage == "cluster":
        return _clustered(run)
    if stage == "train":
        grids = sorted((run.folder / "train").glob("*/samples/*.png"))
        return _left_of(_read(grids[-1]), 3) if grids else None
    inpainted = painted(run.params.cluster.k, False, run.params.inpaint.masks)[0]
    folder = run.folder / (inpainted.styled if stage == "style" else inpainted).artifact
    names = sorted(set.intersection(*({f.stem for f in (folder / kind).glob("[!.]*")} for kind in KINDS)))
    return _montage([read_pair(folder, name) for name in names[:3]]) if names else None


def _read(path: Path) -> np.ndarray:
    """A picture file as (H, W, 3) uint8. UserError if it cannot be read: files that are only shown are not
    checked before."""
    try:
        return np.asarray(rasters.rgb(path))
    except Exception as error:  # decoders fail in many ways
        raise UserError(f"{path} cannot be read as a picture: {error}. Move it away.") from None


def _clustered(run: Run) -> np.ndarray | None:
    # Three members each of the first three clusters, one row per cluster.
    path = run.folder / "cluster" / "clusters.csv"
    if not path.is_file():
        return None
    pairs, frame = run.pairs, pd.read_csv(path, dtype={"name": str}, keep_default_na=False)
    index = {name: i for i, name in enumerate(pairs.names)}
    if not index.keys() >= set(frame["name"]):  # clusters of other data, which this run has not replaced yet
        return None
    rows = [[pairs.images[index[name]] for name in members["name"][:3]]
            for _, members in frame.groupby("cluster")]
    blank = np.full_like(pairs.images[0], 255)
    return _tiles([(row + [blank] * 3)[:3] for row in rows[:3]])


def _montage(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Images above their masks."""
    masks = [planes.coloured(255 * mask[None])[0] for _, mask in pairs]
    return _tiles([[image for image, _ in pairs], masks])


def _tiles(rows: list[list[np.ndarray]]) -> np.ndarray:
    def padded(image: np.ndarray) -> np.ndarray:
        edge = max(1, image.shape[-1] // 16)
        colours = planes.rgb(image.astype(np.uint8)[None])[0]
        return np.pad(colours, ((0, 0), (edge, edge), (edge, edge)), constant_values=249)

    lines = [np.concatenate([padded(i) for i in row], axis=2) for row in rows]
    return np.concatenate(lines, axis=1).transpose(1, 2, 0)


def _left_of(grid: np.ndarray, columns: int) -> np.ndarray:
    side = grid.shape[0] // 2  # a sample grid is one row of images over one of masks
    return grid[:, :side * columns]


def _fit(image: np.ndarray, left: float, bottom: float, width: float,
         height: float) -> tuple[float, float, float, float]:
    """The extent of a picture, centred in a box without distortion (axis units are equally long)."""
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = image.shape[1] * scale, image.shape[0] * scale
    x, y = left + (width - w) / 2, bottom + (height - h) / 2
    return (x, x + w, y + h, y)


