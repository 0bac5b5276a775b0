"""Moving finished folders as a whole, and files that the program did not make out of their way and back."""

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files
from diffusegen_core.store.lock import outermost
from diffusegen_core.store.stamps import STAMP, Stamp, read_stamp

log = logging.getLogger(__name__)

STRANGERS = "strangers"  # the folder in ASIDE/NAME for files that the program did not make


def link_on_the_way(run: Path, name: str) -> Path | None:
    """The symbolic link that a place within a run folder is, or lies in; None if there is none."""
    places = [run / name, *(run / name).parents]
    return next((place for place in places[:places.index(run)] if place.is_symlink()), None)


def refuse_links(run: Path, names: Iterable[str]) -> None:
    """Raise UserError if one of these places within a run folder is, or lies in, a symbolic link. For a run
    within another, the path down from the outermost run is checked as well."""
    outer = outermost(run)
    for name in names:
        if link := link_on_the_way(outer, str(run.relative_to(outer) / name)):
            raise UserError(f"{link} is a symbolic link: what it points to is not the run's. Remove the "
                            "link, or choose another run_dir.")


def into_place(source: Path, folder: Path, aside: Path) -> None:
    """Move a finished folder into place as a whole, so that a kill leaves it in one place or the other.

    Others' files that lie there are parked in `aside` meanwhile; those that are in the way stay parked.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        parked = free(aside / STRANGERS)
        parked.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, parked)
    os.rename(source, folder)
    for name, parked in put_back(folder, aside):
        log.warning("%s was in the run's way; it was moved to %s.", folder / name, parked / name)
    with contextlib.suppress(OSError):  # not empty: other artifacts are being made beside it
        os.removedirs(source.parent)


def put_back(folder: Path, aside: Path) -> list[tuple[str, Path]]:
    """Move others' files from `aside` back to where they were, including those that a killed process left.

    A file that is in the way of the artifact in `folder` stays; its name and its folder in `aside` are
    returned.
    """
    staying = []
    for parked in sorted(aside.glob("*")):
        if parked.is_symlink():  # its target was never part of the run
            continue
        stamp = read_stamp(parked)
        names = files.below(parked) if parked.name.startswith(STRANGERS) else (
            strangers(parked, stamp) if stamp else [])
        in_the_way = [name for name in names if os.path.lexists(folder / name)]
        move(parked, folder, [name for name in names if name not in in_the_way])
        staying += [(name, parked) for name in in_the_way]
    return staying


def strangers(folder: Path, stamp: Stamp) -> list[str]:
    """The files in an artifact's folder that are not its own."""
    own = {*stamp["outputs"], *stamp["shown"], STAMP}
    return [name for name in files.below(folder) if name not in own]


def move(source: Path, folder: Path, names: list[str]) -> None:
    """Move files from one folder into another; two processes may do so at once."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(source / name, folder / name)
    files.without_empty(source)


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    path = path.resolve() if path.name in ("", "..") else path  # such as ".", which has no name to add to
    number, candidate = 2, path
    while os.path.lexists(candidate):
        number, candidate = number + 1, path.with_name(f"{path.name}-{number}")
    return candidate
