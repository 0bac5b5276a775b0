"""The work of `diffusegen export`: a run's pairs for other programs, or its models; all or nothing."""

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config.errors import UserError
from diffusegen_core.data.planes import Planes
from diffusegen_core.exports import (
    cases,
    choosing,
    datacard,
    to_coco,
    to_folder,
    to_hf,
    to_models,
    to_monai,
    to_nnunet,
)
from diffusegen_core.exports.cases import ExportSet
from diffusegen_core.painting import refuse_place
from diffusegen_core.run import Run
from diffusegen_core.store import files, moves

log = logging.getLogger(__name__)

CARD, ORIGINS = "README.md", "origins.csv"
DEFAULT = Path("exports")  # where exports go by default: the checkout's .gitignore keeps it out of commits
NAMES = "-names.csv"  # suffix to the folder's name, of the file beside it that resolves numbers to names


@dataclass(frozen=True)
class Format:
    """An export format."""

    title: str
    write: Callable[[Path, ExportSet, str], str]
    """Writes the pairs into a folder, given its final name, and returns the card's text on the layout."""
    head: Callable[[ExportSet, str], str] = lambda chosen, called: ""
    """The head of the card."""
    any_channels: bool = False
    """Whether it can hold images with other than 1 or 3 channels."""
    splits: bool = True
    """Whether it separates training pairs from others."""
    by_class: Literal["always", "asked", "never"] = "never"
    """Whether each class gets a mask of its own, so that classes may overlap."""


FORMATS = {"nnunet": Format(to_nnunet.TITLE, to_nnunet.write, any_channels=True),
           "coco": Format(to_coco.TITLE, to_coco.write, by_class="always"),
           "hf": Format(to_hf.TITLE, to_hf.write, to_hf.head),
           "monai": Format(to_monai.TITLE, to_monai.write, any_channels=True, by_class="asked"),
           "folder": Format(to_folder.TITLE, to_folder.write, any_channels=True, splits=False,
                             by_class="asked")}


def export(run: Run, to: str, out: Path | None = None, types: Sequence[str] | None = None, real: bool = True,
           native: bool = False, generators: bool = False, by_class: bool = False,
           keep_names: bool = False, held_out: bool = False) -> tuple[Path, ExportSet]:
    """Write the finished pairs of a run in one of FORMATS; returns the new folder and what it holds.

    By default the folder is named after the run and the format, in DEFAULT. Pairs are numbered, and the file
    `names_of` the folder, readable by the user alone, has their names in the run; with `keep_names` they keep
    these names. `types`, `real`, `native`, `generators` and `held_out` are as in
    `choosing.choose`; `by_class` writes one plane per class, as is done anyway where classes may overlap.

    UserError where the format cannot hold such images, masks or held-out pairs, where the run lacks the
    pairs, and where the folder is not empty, lies in a run or among its data, has a file of names beside it,
    or is not named as nnU-Net requires.
    """
    name = run.folder.name
    place = out or DEFAULT / (to_nnunet.name(name, DEFAULT) if to == "nnunet" else f"{name}-{to}")
    refuse_place(run, place)
    _refuse_filled(place, to)  # before the run is read, which takes seconds
    _tell_of_leftovers(place)
    names = names_of(place)
    if not keep_names and names.exists():
        raise _taken(names)
    if to == "nnunet":
        to_nnunet.check(place)
    form = FORMATS[to]
    if held_out and not form.splits:
        raise UserError(f"{form.title[0].upper()}{form.title[1:]} has no splits, so held-out pairs would be "
                        "among the others. Choose another format with --to, or leave out --held-out.")
    planes = _by_class(run, form, by_class)
    chosen = replace(choosing.choose(run, types, real, native, generators, keep_names, held_out),
                     planes=planes)

    own: list[Path] = []  # the file of names, once it is this export's

    def fill(folder: Path) -> None:
        layout = form.write(folder, chosen, place.name)
        files.write_text(folder / ORIGINS, chosen.table.to_csv(index=False))
        files.write_text(folder / CARD, form.head(chosen, place.name)
                         + datacard.text(chosen, form.title, layout))
        if not chosen.names_kept:
            # Last, so that a kill while pairs are written leaves no names; but before the folder is in place,
            # so that there are never numbers without their names.
            _reserve(names)
            own.append(names)
            files.write_text(names, chosen.named.to_csv(index=False), files.PRIVATE)

    try:
        return files.write_folder(place, fill), chosen
    except BaseException:
        for path in own:
            path.unlink(missing_ok=True)
        raise


def _refuse_filled(place: Path, to: str = "") -> None:
    """Raise UserError, with a name that is free, if there is anything but an empty folder."""
    try:
        files.refuse_filled(place)
    except UserError:
        is_named = to == "nnunet" and to_nnunet.NAME.fullmatch(place.name)
        free = (to_nnunet.free_beside if is_named else moves.free)(place)
        raise UserError(f"{place} already exists, and nothing in it is replaced. Name another folder: "
                        f"--out {shlex.quote(str(free))}.") from None


def _reserve(names: Path) -> None:
    """Make a file that is not there yet. Raises UserError if it is, as when two exports began at once."""
    try:
        names.touch(files.PRIVATE, exist_ok=False)
    except FileExistsError:
        raise _taken(names) from None


def _taken(names: Path) -> UserError:
    return UserError(f"{names} already exists, and nothing in it is replaced. Move it away, or name another "
                     "folder by --out.")


def _tell_of_leftovers(place: Path) -> None:
    """Warn of the unfinished folders beside an export, which may be large."""
    for left in place.resolve().parent.glob(f"{files.WRITING}*/"):
        log.warning("%s is what an export that was killed has left, and can be removed, unless another "
                    "export is writing it now.", left)


def names_of(place: Path) -> Path:
    """The file beside an export that has the names of its pairs in the run."""
    whole = place if place.name not in ("", "..") else place.resolve()  # such as "."
    return whole.with_name(f"{whole.name}{NAMES}")


def models(run: Run, out: Path | None = None) -> tuple[Path, Trained]:
    """Write the finished models of a run and a card; returns the new folder and the models.

    UserError where the run has none, and where the folder is not empty or lies in a run or among its data.
    """
    place = out or DEFAULT / f"{run.folder.name}-models"
    refuse_place(run, place)
    _refuse_filled(place)
    _tell_of_leftovers(place)
    trained = run.models  # raises before anything is written
    return files.write_folder(place, lambda folder: to_models.write(run, folder)), trained


def _by_class(run: Run, form: Format, asked: bool) -> bool:
    """Whether masks are written as one plane per class. UserError where the format cannot hold the run's
    images or masks."""
    data = run.params.data
    others = ", ".join(name for name, one in FORMATS.items() if one.any_channels)
    if data.channels not in cases.CHANNELS and not form.any_channels:
        raise UserError(f"{form.title} holds pictures of 1 or 3 channels, but this run's images have "
                        f"{data.channels}. Choose another format with --to: {others}.")
    wanted = asked or Planes.of(data).overlap
    if wanted and form.by_class == "never":
        able = ", ".join(name for name, one in FORMATS.items() if one.by_class != "never")
        raise UserError(f"{form.title} holds one class per pixel, but overlapping classes need a mask for "
                        f"each class. Choose another format with --to: {able}.")
    return wanted and form.by_class == "asked"
