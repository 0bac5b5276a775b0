"""What is set aside or unfinished in a run folder: listed with its size, and removed only on request."""

import re
from dataclasses import dataclass
from pathlib import Path

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files, lock
from diffusegen_core.store.moves import STRANGERS
from diffusegen_core.store.stamps import ASIDE, MAKING, STAMP, read_stamp

KEY = re.compile(r"[0-9a-f]{16}")  # the hash of a recipe


@dataclass(frozen=True)
class Kept:
    """An artifact that is not in place."""

    name: str
    """Its place within the run folder: "aside/train/cluster-00/1a2b3c"."""
    folder: str
    """The same, or, for a single file, the folder that holds it."""
    files: list[str]
    """Files in that folder: those that the program made, or all of them if the artifact is unfinished."""
    bytes: int
    seconds: float | None
    """How long it took to make; None if it is unfinished, 0.0 for a single file."""


def kept(run: Path) -> list[Kept]:
    """What is set aside or unfinished, including in the runs of small sets within this one.

    Files that the program did not make are left out beside a finished artifact, but not in an unfinished one.
    """
    items, single = [], []
    for root in _roots(run):
        for folder in _folders(root):
            stamp = read_stamp(folder)
            own = ([*stamp["outputs"], *stamp["shown"], STAMP] if stamp else
                   files.below(folder) if root.name == MAKING else [])
            own = [name for name in own if (folder / name).is_file()]
            if own:
                place = folder.relative_to(run).as_posix()
                items.append(Kept(place, place, own,
                                  sum((folder / name).stat().st_size for name in own),
                                  float(stamp["seconds"]) if stamp else None))
        if root.name == ASIDE:
            single += sorted(path for name, pattern in (("params", "*.yaml"), ("notebooks", "*.ipynb"))
                             if not (root / name).is_symlink() for path in (root / name).glob(pattern)
                             if path.is_file() and not path.is_symlink())
    return items + [Kept(file.relative_to(run).as_posix(), file.parent.relative_to(run).as_posix(),
                         [file.name], file.stat().st_size, 0.0) for file in single]


def remove(run: Path, names: list[str]) -> int:
    """Remove what is kept under these names ("all" means everything); return how many bytes that frees.

    Raises UserError for an unknown name. Files that the program did not make stay, except in an unfinished
    artifact.
    """
    everything = kept(run)
    chosen = [one for one in everything if "all" in names or one.name in names]
    if unknown := set(names) - {one.name for one in everything} - {"all"}:
        raise UserError(f"{run} has nothing set aside that is called {min(unknown)}; `diffusegen clean "
                        f"{run}` lists what there is.")
    for one in chosen:
        files.remove(run / one.folder, one.files)
    for root in _roots(run):
        files.without_empty(root)
    return sum(one.bytes for one in chosen)


def _roots(run: Path) -> list[Path]:
    """The "aside" and "making" folders of a run and of the runs within it; links are skipped."""
    runs = [run, *(mark.parent for mark in sorted(run.rglob(lock.MARK))
                   if mark.parent != run and lock.is_run(mark.parent))]
    return [one / root for root in (ASIDE, MAKING) for one in runs
            if (one / root).is_dir() and not (one / root).is_symlink()]


def _folders(root: Path) -> list[Path]:
    """The folders of artifacts below `root`: RUN/aside/NAME/KEY, where a NAME may have several parts."""
    stamped = [path.parent for path in root.rglob(STAMP)]
    unfinished = [path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()
                  and KEY.fullmatch(path.name) and STRANGERS not in path.parts]
    return sorted({*stamped, *unfinished})
