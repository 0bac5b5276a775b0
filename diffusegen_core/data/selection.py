"""Which pairs of a folder a run uses, and in which cases it uses none of them."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import fits, reading
from diffusegen_core.data.reports import Problem, Report


class Used(NamedTuple):
    """The pairs of a folder that a run uses."""

    names: list[str]
    images: np.ndarray
    """(N, C, S, S) uint8."""
    masks: np.ndarray
    """(N, M, S, S) uint8 in {0, 1}."""
    sizes: list[tuple[int, int]]
    """Native height and width of each."""
    volumes: dict[str, str]
    """Name -> volume, for each that is a slice of one."""


def usable(settings: Data, report: Report, least: int, listed: Collection[str],
           held_out: Collection[str] = ()) -> Used:
    """Read and resize the wanted pairs; `listed` are the paper's names, `held_out` those that are not used.

    Raises UserError for any problem under `on_bad: refuse`, for one of the whole set always, and where no
    pair is left or data.names has an unknown one.
    """
    subset = settings.subset
    sound = []
    kept: list[tuple[str, np.ndarray, np.ndarray, tuple[int, int]]] = []
    for pair, image, mask in reading.read(report, settings, held_out=held_out):
        sound.append(pair)
        wanted = pair.name not in held_out and (
            subset == "all" or (pair.name in listed) == (subset == "paper348"))
        if wanted and len(kept) < (settings.count or len(report.pairs)):
            kept.append((pair.name, *fits.fitted(image, mask, settings.image_size, settings.fit),
                         mask.shape[:2]))
    report.pairs = sound
    if subset == "paper348":
        _note_missing(report, listed)
    if settings.on_bad == "refuse":
        require(report, least, len(kept))
        if report.problems:
            raise UserError(f"{report.brief()}\nCorrect the folder, or leave these out by data.on_bad: skip.")
    if shared := [one for one in report.problems if (one.file, one.problem) == (".", reading.DEPTH)]:
        raise UserError(f"{report.folder}: {shared[0].detail}.")
    if settings.names:
        refuse_unknown(settings.names, {name for name, *_ in kept}, held_out)
        kept = [pair for pair in kept if pair[0] in settings.names]
    if not kept:
        raise UserError(f"No pair is left for data.subset {subset}. {report.brief()}")
    names, images, masks, sizes = zip(*kept, strict=True)
    volumes = {pair.name: pair.volume for pair in sound if pair.volume and pair.name in names}
    return Used(list(names), np.stack(images), np.stack(masks), list(sizes), volumes)


def listed(settings: Data, report: Report, papers: Collection[str], held_out: Collection[str]) -> list[str]:
    """The names of the pairs that `usable` would want, as the folder is listed: unusable ones included."""
    papers = set(papers)
    named = [pair.name for pair in report.pairs if pair.name not in held_out and (
        settings.subset == "all" or (pair.name in papers) == (settings.subset == "paper348"))]
    return [name for name in named[:settings.count] if not settings.names or name in settings.names]


def require(report: Report, clusters: int, pairs: int) -> None:
    """Add a problem to the report where there are fewer usable pairs than clusters."""
    if pairs < clusters:
        report.problems.append(Problem(".", "too few pairs", f"{pairs} usable, at least {clusters} needed"))


def refuse_unknown(names: Sequence[str], known: Collection[str], held_out: Collection[str] = ()) -> None:
    """Raise UserError where data.names has a name that no pair has, or one that is held out."""
    if unknown := [name for name in names if name not in known]:
        if unknown[0] in held_out:
            raise UserError(f"Parameters: data.names: {unknown[0]} is held out by data.holdout. Leave it "
                            "out, or set data.holdout to null.")
        raise UserError(f"Parameters: data.names: there is no pair {unknown[0]}"
                        f"{f' (nor {len(unknown) - 1} more)' if len(unknown) > 1 else ''}.")


def _note_missing(report: Report, listed: Collection[str]) -> None:
    missing = sorted(set(listed) - {pair.name for pair in report.pairs})
    if missing:
        present = len(listed) - len(missing)
        detail = (f"{present} of the {len(listed)} are usable pairs here; the first that is not: "
                  f"{missing[0]}; for a folder of your own set data.subset: all")
        report.problems.append(Problem(".", "names of the paper missing", detail))
