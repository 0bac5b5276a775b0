"""Artifacts: what a run makes, each a folder with a stamp that says what decided its content.

An artifact is made in RUN/making/NAME/KEY, where KEY is a hash of its recipe: every parameter, seed and input
that decides the content. Once it is whole it moves to RUN/NAME, and a finished one that lay there moves to
RUN/aside/NAME/KEY, from where it is taken back when its recipe comes back. So nothing that was finished is
lost when something changes, and a new artifact is finished before the old one makes room for it.

Files that the program did not make stay where they are. Where one is in the way, it is set aside as well.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.text import duration
from diffusegen_core.store import files

log = logging.getLogger(__name__)

STAMP = "made.json"
MAKING, ASIDE = "making", "aside"  # folders of a run
STRANGERS = "strangers"  # in ASIDE/NAME: files that are not the program's
SHOWN = 5  # reasons of a log line
Recipe = dict[str, Any]
Stamp = dict[str, Any]


class NotMadeError(UserError):
    """Something was to be read that the run has not made, or not with these parameters."""


def key(recipe: Recipe) -> str:
    """A hash of what decides an artifact's content."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What differs between two recipes, as "name: old -> new", nested names joined by dots."""
    lines = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [f"{name}.{line}" for line in differences(a, b)]
        elif a != b:
            lines.append(f"{name}: {a} -> {b}")
    return lines


@dataclass(frozen=True)
class Artifact:
    """One thing that a run makes. A read-only one is looked at where it lies, and never made or moved."""

    run: Path
    """The run folder."""
    name: str
    """Its folder within the run, such as "train/cluster-00". No artifact lies within another."""
    recipe: Recipe
    """What decides its content, as JSON can hold it."""
    writable: bool = True
    again: bool = False
    """Whether one whose files were changed by hand is set aside and made again, rather than refused."""

    @property
    def folder(self) -> Path:
        """Where it lies once it is finished."""
        return self.run / self.name

    @property
    def key(self) -> str:
        return key(self.recipe)

    def file(self, name: str) -> Path:
        """A file of the finished artifact."""
        return self.folder / name

    def made(self) -> bool:
        """Whether it is finished and lies in place; one that was set aside is taken back first.

        Raises UserError where its files were changed by hand.
        """
        stamp = read_stamp(self.folder)
        if stamp and not self._differing(stamp):
            return self._untouched(stamp)
        return self.writable and self._taken_back()

    @property
    def stamp(self) -> Stamp:
        """The stamp of what lies in place. Raises NotMadeError unless it is this artifact, finished."""
        if not self.made():
            raise self._not_made()
        stamp = read_stamp(self.folder)
        assert stamp is not None, "made() has just read it"
        return stamp

    def hash_of(self, name: str) -> str:
        """The SHA-256 of one of its outputs, from the stamp."""
        return str(self.stamp["outputs"][name]["sha256"])

    def begin(self) -> Path:
        """The folder to make it in, with whatever an interrupted attempt has left there.

        Raises NotMadeError where nothing may be made, and UserError where the place is a symbolic link.
        """
        if not self.writable:
            raise self._not_made()
        for place in (self.folder, *self.folder.relative_to(self.run).parents):
            if (self.run / place).is_symlink():
                raise UserError(f"{self.run / place} is a symbolic link: what it leads to is not the run's. "
                                "Remove the link, or choose another run_dir.")
        making = self._making
        making.mkdir(parents=True, exist_ok=True)
        return making

    def finish(self, outputs: Sequence[Path], seconds: float, replace: bool = False, **facts: Any) -> Stamp:
        """Stamp what lies in `begin`'s folder and move it into place, after setting aside what lay there.

        `outputs` decide whether it holds; every other file there is recorded, and only shown. `facts` are
        worth keeping beside it, and JSON can hold them: `device` says what has computed, and without it the
        stamp names what `auto` means in this process. Where the same recipe has been finished meanwhile,
        that one stays, unless `replace` and its outputs are others.
        """
        making = self._making
        decisive = {path.relative_to(making).as_posix(): path for path in outputs}
        shown = {name: making / name for name in files.below(making)
                 if name not in decisive and name != STAMP and not Path(name).name.startswith(files.WRITING)}
        stamp = {
            "recipe": self.recipe,
            "outputs": {name: _described(path) for name, path in decisive.items()},
            "shown": {name: _described(path) for name, path in shown.items()},
            "seconds": round(seconds, 3), "versions": files.versions(), "device": devices.name(), **facts}
        files.write_json(making / STAMP, stamp)
        if not self._finished_elsewhere(stamp if replace else None):
            self._make_room(stamp)
            into_place(making, self.folder, self.run / ASIDE / self.name)
        return self.stamp

    def earlier(self) -> Iterator[Path]:
        """The folders of other finished versions of it, in place and set aside, to take up their parts."""
        aside = self.run / ASIDE / self.name
        for folder in (self.folder, *(sorted(aside.iterdir()) if aside.is_dir() else ())):
            if read_stamp(folder):
                yield folder

    @property
    def _making(self) -> Path:
        return self.run / MAKING / self.name / self.key

    def _differing(self, stamp: Stamp) -> list[str]:
        # Through JSON, so that tuples and lists compare equal.
        return differences(stamp["recipe"], json.loads(json.dumps(self.recipe)))

    def _untouched(self, stamp: Stamp) -> bool:
        """True, unless files were changed by hand: then they are refused, or set aside to be made again."""
        changed = altered(self.folder, stamp)
        if not changed:
            return True
        if self.again and self.writable:
            self._set_aside(stamp, "its files were changed by hand")
            return False
        raise UserError(
            f"{self.folder} was changed by hand: {some([' '.join(pair) for pair in changed.items()])}. Put "
            f"the files back, or have them made again by `--remake {self.name.split('/')[0]}`, which sets "
            "aside what is there now.")

    def _taken_back(self) -> bool:
        """Look for this artifact among what was set aside, or what a killed process had finished."""
        aside = self.run / ASIDE / self.name
        for folder in (self._making, *sorted(aside.glob(f"{self.key}*"))):
            stamp = read_stamp(folder)
            if stamp is None or self._differing(stamp) or altered(folder, stamp):
                continue
            self._make_room(stamp)
            into_place(folder, self.folder, aside)
            if folder != self._making:
                log.warning("%s: taken back from %s.", self.name, folder.relative_to(self.run))
            return True
        return False

    def _make_room(self, coming: Stamp) -> None:
        """Set aside a finished artifact that lies in place, and say what has changed."""
        stamp = read_stamp(self.folder)
        if stamp:
            changed = differences(stamp["recipe"], json.loads(json.dumps(coming["recipe"])))
            reasons = "; ".join(changed[:SHOWN]) + (" ..." if len(changed) > SHOWN else "")
            self._set_aside(stamp, reasons or "it was made again")

    def _set_aside(self, stamp: Stamp, reasons: str) -> None:
        """Move the finished artifact out of its place; files that are not its own stay."""
        target = _free(self.run / ASIDE / self.name / key(stamp["recipe"]))
        # The folder as a whole, so that a kill leaves it here or there.
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.folder, target)
        own = {*stamp["outputs"], *stamp.get("shown", {}), STAMP}
        for name in files.below(target):
            if name not in own:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(target / name, self.folder / name)
        files.without_empty(target)
        log.warning("%s no longer holds (%s). What was there, %s of work, is kept in %s and comes back with "
                    "its parameters.", self.name, reasons, duration(stamp["seconds"]),
                    target.relative_to(self.run))

    def _finished_elsewhere(self, same: Stamp | None) -> bool:
        """Whether another process has finished this meanwhile, because this one had stopped; with the outputs
        of the stamp `same`, if one is given."""
        stamp = read_stamp(self.folder)
        if stamp is None or self._differing(stamp) or altered(self.folder, stamp):
            return False
        return same is None or contents(stamp) == contents(same)

    def _not_made(self) -> NotMadeError:
        chapter, stamp = self.name.split("/")[0], read_stamp(self.folder)
        if stamp is None:
            reason = f"{self.run} has no finished {self.name}"
        else:
            changed = self._differing(stamp)
            reason = f"{self.folder} was made with other values ({some(changed, SHOWN)})"
        return NotMadeError(f"{reason}. Make it with run.make({chapter!r}), or on the command line with "
                            "`diffusegen run`.")


def read_stamp(folder: Path) -> Stamp | None:
    """What `finish` wrote into a folder, or None where nothing of its shape is there."""
    stamp = files.read_json(folder / STAMP)
    shape: dict[str, type | tuple[type, ...]] = {
        "recipe": dict, "outputs": dict, "shown": dict, "seconds": (int, float), "device": str}
    whole = isinstance(stamp, dict) and all(isinstance(stamp.get(k), kind) for k, kind in shape.items())
    return stamp if whole else None


def in_place(run: Path) -> Iterator[tuple[Path, Stamp]]:
    """The folder and the stamp of each finished artifact of a run, but for those that are set aside."""
    elsewhere = run / MAKING, run / ASIDE
    for path in sorted(run.rglob(STAMP)):
        stamp = read_stamp(path.parent)
        if stamp and not any(path.is_relative_to(folder) for folder in elsewhere):
            yield path.parent, stamp


def contents(stamp: Stamp) -> dict[str, str]:
    """The SHA-256 of each output of a stamp."""
    return {name: str(described["sha256"]) for name, described in stamp["outputs"].items()}


def altered(folder: Path, stamp: Stamp, part: str = "outputs", thorough: bool = False) -> dict[str, str]:
    """The files of a stamp that are missing or not what was written, and which of the two.

    A file of the recorded size and time is taken for what was written, unless `thorough`; of any other the
    hash decides. `part` is "outputs" or "shown".
    """
    reasons = {}
    for name, described in stamp[part].items():
        path = folder / name
        if not path.is_file():
            reasons[name] = "is missing"
        elif not _same(path, described, thorough):
            reasons[name] = "is not the file that was written"
    return reasons


def _same(path: Path, described: Any, thorough: bool) -> bool:
    if not isinstance(described, dict):
        return False
    status = path.stat()
    if status.st_size != described.get("bytes"):
        return False
    if not thorough and status.st_mtime_ns == described.get("mtime_ns"):
        return True
    computed = files.sha256(path) if thorough else files.remembered_sha256(path)
    return computed == described.get("sha256")


def _described(path: Path) -> dict[str, Any]:
    # A stamp tells the files that its own writer wrote: of two writers' mixture none is whole.
    known = path.sha256 if isinstance(path, files.Written) else ""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": known or files.sha256(path)}


def into_place(source: Path, folder: Path, aside: Path) -> None:
    """Move a finished folder into place, as a whole, so that a kill leaves it here or there.

    Others' files that lie there are parked in `aside` meanwhile; one that is in the way stays there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        parked = _free(aside / STRANGERS)
        parked.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, parked)
    os.rename(source, folder)
    for parked in sorted(aside.glob(f"{STRANGERS}*")):  # and what a killed process has left there
        for name in files.below(parked):
            if os.path.lexists(folder / name):
                log.warning("%s was in the way of the run's own; it is now %s.", folder / name, parked / name)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(parked / name, folder / name)
        files.without_empty(parked)
    with contextlib.suppress(OSError):  # others are still at work beside it
        os.removedirs(source.parent)


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    number, free = 2, path
    while os.path.lexists(free):
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free
