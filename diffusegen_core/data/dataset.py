"""The labelled pairs of a run, ready for every chapter: phantoms or the user's folder, at one size."""

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from diffusegen_core.config import params
from diffusegen_core.parallel import progress
from diffusegen_core.store import runs
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import layouts, phantom
from diffusegen_core.data.layouts import Problem, Report
from diffusegen_core.parallel import fanout

REAL = "Real"  # the data type of the run's own pairs, beside those of synthetic ones
READER = 2  # raised when the same files would be read to other pixels


@dataclass(frozen=True)
class Pairs:
    """Labelled images in memory."""

    names: list[str]  # unique, in the order of the folder
    images: np.ndarray  # (N, 3, S, S) uint8, RGB
    masks: np.ndarray  # (N, 1, S, S) uint8, 1 where polyp
    digest: str  # sha256 over names, images and masks

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Pairs":
        """The pairs at these positions, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        return gather([self.names[i] for i in rows], self.images[rows], self.masks[rows])


def gather(names: list[str], images: np.ndarray, masks: np.ndarray) -> Pairs:
    """Pairs from names, images (N, 3, S, S) uint8 and masks (N, 1, S, S) in {0, 1}; computes the digest."""
    images, masks = np.ascontiguousarray(images, np.uint8), np.ascontiguousarray(masks, np.uint8)
    digest = hashlib.sha256(json.dumps([names, images.shape]).encode())
    digest.update(images)
    digest.update(masks)
    return Pairs(list(names), images, masks, digest.hexdigest())


def to_tensor(pairs: Pairs) -> torch.Tensor:
    """(N, 4, S, S) float32: RGB in [-1, 1], and the mask as -1 or +1 (paper 2.3)."""
    images = torch.from_numpy(pairs.images).float() / 127.5 - 1
    return torch.cat([images, torch.from_numpy(pairs.masks).float() * 2 - 1], dim=1)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] as uint8, the way back from to_tensor; what lies outside is clipped."""
    return np.clip(np.rint(image * 127.5 + 127.5), 0, 255).astype(np.uint8)


def grid(x: torch.Tensor) -> Image.Image:
    """A picture of pairs (N, 4, S, S) in [-1, 1]: the images above, their masks below."""
    pixels = to_bytes(x.float().cpu().numpy())
    rows = [pixels[:, :3], pixels[:, 3:].repeat(3, axis=1)]
    whole = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    return Image.fromarray(whole.transpose(1, 2, 0))


def write_pair(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> tuple[runs.Written, ...]:
    """Write image (3, S, S) uint8 and mask (1, S, S) in {0, 1} as PNGs (masks hold 0 and 255); both paths."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not a plain file name")
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    label = Image.fromarray(mask[0].astype(np.uint8) * 255)
    return (runs.write(Path(folder) / "images" / f"{name}.png", picture.save),
            runs.write(Path(folder) / "masks" / f"{name}.png", label.save))


def write_phantoms(folder: Path, count: int, size: int, seed: int) -> None:
    """Draw phantoms into a dataset folder, which must be new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already. Phantoms go into a new or empty folder.")
    for index in _counter(range(count)):
        image, mask, _ = phantom.draw(seed, index, size)
        write_pair(folder, _phantom_name(index), image, mask)


def paper_names() -> list[str]:
    """The names of the paper's 348 training pairs (HyperKvasir)."""
    return Path(__file__).with_name("paper348.txt").read_text(encoding="utf-8").split()


def load(p: Params) -> Pairs:
    """The pairs of a run, resized once and cached in the run's `data` folder.

    Images are squashed to a square with Lanczos, as the authors do. A mask is thresholded at > 127 on its
    own pixels, resized with antialiasing, and thresholded again. `data.count` takes the first so many usable
    pairs, or all where there are fewer. Under `on_bad: skip` whatever was left out is listed in
    `data/left_out.csv`. Raises UserError with the table of problems where the folder has any under `refuse`,
    and where fewer pairs are left than clusters.
    """
    folder = p.folder / "data"
    if p.data.source == "phantom":
        report = None
        recipe = {"source": "phantom", "version": phantom.VERSION, "seed": p.seed, "count": p.data.count,
                  "image_size": p.data.image_size, **({"names": p.data.names} if p.data.names else {})}
    else:
        report = layouts.scan(input_folder(p))
        asked = {name: value for name, value in params.plain(p.data).items() if name != "names" or value}
        recipe = {**asked, "source": report.layout, "version": READER, "input": report.identity()}
    if runs.current(folder, recipe):
        pairs = _read(folder / "pairs.npz")
    else:
        with fanout.hold(p.folder):
            if not progress.worker():  # others may be reading; files are replaced whole
                runs.clear(folder)
            pairs = _make(p, report, folder, recipe)
    if len(pairs) < p.cluster.k:
        raise UserError(f"{p.data.source}: {len(pairs)} pairs are too few for cluster.k {p.cluster.k}.")
    return pairs


def _make(p: Params, report: Report | None, folder: Path, recipe: dict[str, Any]) -> Pairs:
    start, outputs, facts = time.monotonic(), [], {}
    if report is None:
        pairs = _draw(p)
    else:
        pairs = _from_folder(p, report)
        facts = {"layout": report.layout, "left_out": len(report.problems)}
        table = report.table()
        outputs.append(runs.write(folder / "left_out.csv", lambda path: table.to_csv(path, index=False)))
    outputs.append(runs.write(folder / "pairs.npz", lambda path: np.savez(
        path, names=np.array(pairs.names), images=pairs.images, masks=pairs.masks)))
    facts |= {"pairs": len(pairs), "digest": pairs.digest}
    runs.finish(folder, recipe, outputs, time.monotonic() - start, **facts)
    return pairs


def _read(path: Path) -> Pairs:
    with np.load(path, allow_pickle=False) as stored:
        return gather(stored["names"].tolist(), stored["images"], stored["masks"])


def _draw(p: Params) -> Pairs:
    wanted = {_phantom_name(index): index for index in range(p.data.count)}
    if p.data.names:
        _refuse_unknown(p.data.names, set(wanted))
        wanted = {name: index for name, index in wanted.items() if name in p.data.names}
    drawn = [phantom.draw(p.seed, index, p.data.image_size) for index in _counter(wanted.values())]
    return gather(list(wanted), np.stack([image for image, _, _ in drawn]),
                  np.stack([mask for _, mask, _ in drawn]))


def _refuse_unknown(names: list[str], known: set[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"Parameters: data.names: there is no pair {unknown[0]}"
                        f"{f' (nor {len(unknown) - 1} more)' if len(unknown) > 1 else ''}.")


def _counter(indices: Collection[int]) -> Iterable[int]:
    return tqdm(indices, desc="Drawing phantoms", unit="pair", leave=False, disable=None)


def _phantom_name(index: int) -> str:
    return f"phantom_{index:05d}"


def input_folder(p: Params) -> Path:
    """The folder that data.source names; UserError where it and the run folder lie in each other."""
    source = params.resolve(p.data.source)
    if source == p.folder or source in p.folder.parents:
        raise UserError(f"run_dir {p.folder} lies in data.source {source}, which is never written to. "
                        "Choose another run_dir.")
    if p.folder in source.parents:
        raise UserError(f"data.source {source} lies in run_dir {p.folder}, whose parts are replaced. "
                        "Choose another run_dir.")
    return source


def _from_folder(p: Params, report: Report) -> Pairs:
    """Read and resize the wanted pairs; raises UserError where a problem forbids it."""
    subset, listed = p.data.subset, set(paper_names())
    usable, kept = [], []
    for pair, image, mask in layouts.read(report):
        usable.append(pair)
        wanted = subset == "all" or (pair.name in listed) == (subset == "paper348")
        if wanted and len(kept) < (p.data.count or len(report.pairs)):
            kept.append((pair.name, *resized(image, mask, p.data.image_size)))
    report.pairs = usable
    if subset == "paper348":
        _note_missing(report, listed)
    if p.data.on_bad == "refuse":
        layouts.require(report, p.cluster.k, len(kept))
        if report.problems:
            raise UserError(f"{report.brief()}\nMend the folder, or leave these out by data.on_bad: skip.")
    if p.data.names:
        _refuse_unknown(p.data.names, {name for name, _, _ in kept})
        kept = [pair for pair in kept if pair[0] in p.data.names]
    if not kept:
        raise UserError(f"No pair is left for data.subset {subset}. {report.brief()}")
    names, images, masks = zip(*kept, strict=True)
    return gather(list(names), np.stack(images), np.stack(masks))


def _note_missing(report: Report, listed: set[str]) -> None:
    missing = sorted(listed - {pair.name for pair in report.pairs})
    if missing:
        found = len(listed) - len(missing)
        detail = f"{found} of the {len(listed)} are usable pairs here; the first that is not: {missing[0]}"
        report.problems.append(Problem(".", "names of the paper missing", detail))


def resized(image: Image.Image, mask: Image.Image, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (3, size, size) and its mask (1, size, size) in {0, 1}; no polyp vanishes, however small."""
    small = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    cover = np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR))
    if not cover.any():  # so small that it rounds to nothing
        cover = np.asarray(mask.convert("F").resize((size, size), Image.Resampling.BILINEAR))
    polyp = cover > 127 if cover.max() > 127 else cover == cover.max()
    return small.transpose(2, 0, 1), polyp[None].astype(np.uint8)
