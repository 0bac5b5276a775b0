"""Artifacts: what a run makes, each a folder with a stamp that says what decided its content.

An artifact is made in RUN/making/NAME/KEY, where KEY is a hash of its recipe: every parameter, seed and input
that decides the content. Once it is whole it moves to RUN/NAME, and a finished one that lay there moves to
RUN/aside/NAME/KEY, from where it is taken back when its recipe comes back. So nothing that was finished is
lost when something changes, and a new artifact is finished before the old one makes room for it.

Files that the program did not make stay where they are; one that is in the way is set aside as well.
"""

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.text import duration
from diffusegen_core.store import files, lock, moves, stamps
from diffusegen_core.store.ownparams import PARAMS
from diffusegen_core.store.stamps import ASIDE, MAKING, STAMP, Stamp, altered, contents, described, read_stamp

log = logging.getLogger(__name__)

SHOWN = 5  # reasons listed in a message
LONG = 60  # longest value shown in full there, in characters
FEW = 3  # names listed one by one; more are counted
CHANGED = "-changed"  # suffix of the key where files were changed by hand before they were set aside
Recipe = dict[str, Any]
IN_A_SHELL = "DIFFUSEGEN_IN_A_SHELL"  # environment variable, set for notebooks that the command executes


class NotMadeError(UserError):
    """A result was asked for that the run has not made, or not with these parameters. The text says how to
    make it in Python, `in_a_shell` how to make it with the command. `differing` has the `differences` between
    the version in place and the one asked for; `set_aside` says whether that lies elsewhere in the run."""

    def __init__(self, text: str, shell: str = "", differing: Sequence[str] = (),
                 set_aside: bool = False) -> None:
        super().__init__(text)  # alone, so that it can be pickled
        self._shell, self.differing, self.set_aside = shell, tuple(differing), set_aside

    @property
    def in_a_shell(self) -> str:
        return self._shell or str(self)

    @classmethod
    def of(cls, reason: str, run: Path, chapter: str, how: str = "Make it with {}.",
           differing: Sequence[str] = (), set_aside: bool = False) -> "NotMadeError":
        """An error that gives the reason, then `how` with the call that makes a chapter, or the command."""
        command = f"`{_command(run)}`"
        in_python = command if IN_A_SHELL in os.environ else f"run.make({chapter!r})"
        text, shell = (f"{reason} {how.format(call)}" for call in (in_python, command))
        return cls(text, shell, differing, set_aside)


class OutdatedError(NotMadeError):
    """The result was made with other parameters, and no version with these ones exists."""


def _command(run: Path) -> str:
    """The command that makes what is missing in a run; for a run within others, that of the outermost."""
    path, here = lock.outermost(run) / PARAMS, Path.cwd()
    if not path.is_file():
        return "diffusegen run"
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.join(["diffusegen", "run", str(shown)])


def key(recipe: Recipe) -> str:
    """A hash of what decides an artifact's content."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


# Entries of recipes that are hashes, and what it means if one differs.
OF_DATA = {"input": "files of the data were added, removed or changed", "split": "other pairs are held out"}


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What differs between two recipes, as "name: old -> new", nested names joined by dots.

    More than a few names that only one of them has, such as pairs, are counted instead of listed.
    """
    lines = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            if len(a.keys() ^ b.keys()) > FEW:
                lines.append(f"{name}: {len(a.keys() - b.keys())} fewer, {len(b.keys() - a.keys())} more")
                a, b = ({key: one[key] for key in a.keys() & b.keys()} for one in (a, b))
            lines += [f"{name}.{line}" for line in differences(a, b)]
        elif a != b and name in OF_DATA and a and b:
            lines.append(f"{name}: {OF_DATA[name]}")
        elif a != b:
            lines.append(f"{name}: {_brief(a)} -> {_brief(b)}")
    return lines


def _spent(stamp: Stamp) -> list[str]:
    """The names of files to remove once a stamp is written: directly in its folder, and none of its outputs
    or shown files, whatever a stranger's stamp says."""
    told = stamp.get("spent")
    return [name for name in (told if isinstance(told, list) else ()) if files.plain(name)
            and name == Path(name).name != "" and name not in {*stamp["outputs"], *stamp["shown"]}]


def _brief(value: Any) -> str:
    """A value for a message; a long one, such as a hash, is cut to its beginning."""
    text = str(value)
    return text if len(text) <= LONG else f"{text[:12]}..."


@dataclass(frozen=True)
class Artifact:
    """One thing that a run makes. A read-only one is only looked at in place, never made or moved."""

    run: Path
    """The run folder."""
    name: str
    """Its folder within the run, such as "train/cluster-00". No artifact lies within another."""
    recipe: Recipe
    """What decides its content, as values that JSON can hold."""
    writable: bool = True
    again: bool = False
    """Whether an artifact changed by hand is set aside and made again, rather than refused."""
    quiet: bool = False
    """Whether to log at INFO what is set aside, because the caller reports many artifacts in one line."""

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
        """Whether it is finished and in place; one that was set aside is taken back first.

        Raises UserError if its files were changed by hand.
        """
        stamp = read_stamp(self.folder)
        if stamp is None and self.file(STAMP).is_file() and not self.again:
            raise self._altered(self.folder, {STAMP: "cannot be read"})
        if stamp and not self._differing(stamp):
            if self.writable and not moves.link_on_the_way(self.run, f"{ASIDE}/{self.name}"):
                moves.put_back(self.folder, self._aside)
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

    def begin(self) -> Path:
        """The folder to make it in, with whatever an interrupted attempt has left there.

        Raises NotMadeError if the artifact is read-only, and UserError if its place is, or lies in, a
        symbolic link or a file.
        """
        if not self.writable:
            raise self._not_made()
        self._refuse_links()
        for place in (self.folder, *self.folder.parents):
            if place.is_file():
                raise UserError(f"{place} is a file, where a folder of the run belongs. Move it away.")
        making = self._making
        making.mkdir(parents=True, exist_ok=True)
        return making

    def finish(self, outputs: Sequence[Path], seconds: float, replace: bool = False,
               spent: Sequence[Path] = (), **facts: Any) -> Stamp:
        """Stamp what lies in `begin`'s folder and move it into place, after setting aside what lay there.

        `outputs` decide whether the artifact is intact; every other file is recorded as only shown, except
        `spent` ones, such as a checkpoint, which are removed once the stamp is written. `facts` are further
        entries of the stamp that JSON can hold; `device` names the hardware that computed, if that was not
        the processor of this process. If another process has finished the same recipe meanwhile, its version
        stays, unless `replace` is set and the outputs differ.
        """
        making = self._making
        decisive = {path.relative_to(making).as_posix(): path for path in outputs}
        shown = {name: making / name for name in files.below(making)
                 if name not in decisive and name != STAMP and not Path(name).name.startswith(files.WRITING)
                 and making / name not in spent and (making / name).is_file()}
        stamp = {
            "recipe": self.recipe,
            "outputs": {name: described(path) for name, path in decisive.items()},
            "shown": {name: described(path) for name, path in shown.items()},
            "seconds": round(seconds, 3), "versions": files.versions(), "device": devices.name("cpu"),
            **({"spent": [path.relative_to(making).as_posix() for path in spent]} if spent else {}), **facts}
        if mixed := altered(making, stamp):
            raise UserError(f"{making}: another process wrote there in the meantime: "
                            f"{some([' '.join(pair) for pair in mixed.items()])}. Run the same command to "
                            "make it again.")
        files.write_json(making / STAMP, stamp)
        for path in spent:
            path.unlink(missing_ok=True)
        if not self._finished_elsewhere(stamp if replace else None):
            self._make_room(stamp)
            moves.into_place(making, self.folder, self._aside)
        elif contents(self.stamp) == contents(stamp):  # an identical copy, not worth keeping
            for name in (*decisive, *shown, STAMP):
                (making / name).unlink(missing_ok=True)
            files.without_empty(making)
        return self.stamp

    def earlier(self) -> Iterator[Path]:
        """The folders of finished versions of it, in place and set aside, whose parts can be reused."""
        for folder in (self.folder, *(sorted(self._aside.iterdir()) if self._aside.is_dir() else ())):
            if read_stamp(folder):
                yield folder

    @property
    def _making(self) -> Path:
        return self.run / MAKING / self.name / self.key

    @property
    def _aside(self) -> Path:
        return self.run / ASIDE / self.name

    def _refuse_links(self) -> None:
        """Raise UserError if the artifact's place is, or lies in, a symbolic link."""
        moves.refuse_links(self.run, (self.name, f"{MAKING}/{self.name}", f"{ASIDE}/{self.name}"))

    def _differing(self, stamp: Stamp) -> list[str]:
        # Through JSON, so that tuples and lists compare equal.
        return differences(stamp["recipe"], json.loads(json.dumps(self.recipe)))

    def _untouched(self, stamp: Stamp) -> bool:
        """Whether no file was changed by hand; changed ones raise UserError, or are set aside if `again`."""
        changed = altered(self.folder, stamp)
        if not changed:
            return True
        if self.again and self.writable:
            self._set_aside(stamp, "it is made again", CHANGED)
            return False
        raise self._altered(self.folder, changed)

    def _altered(self, folder: Path, changed: dict[str, str]) -> UserError:
        return UserError(
            f"{folder} was changed by hand: {some([' '.join(pair) for pair in changed.items()])}. Put "
            "the files back, or have them made again by `diffusegen run` with `--remake "
            f"{self._chapter}`, which sets aside what is there now.")

    @property
    def _chapter(self) -> str:
        """The chapter that makes it: the outer run's chapter if this run lies within another, but for a
        further generator the generator's own."""
        return stamps.made_by(self.run.relative_to(lock.outermost(self.run)) / self.name)

    def _elsewhere(self) -> Path | None:
        """Where this artifact lies if not in place: set aside, or where a killed process had finished it.

        Raises UserError if it was changed by hand before or after it was set aside, unless `again`.
        """
        refused = None
        for folder in (self._making, *sorted(self._aside.glob(f"{self.key}*"))):
            stamp = read_stamp(folder)
            if stamp is None or self._differing(stamp) or CHANGED in folder.name:
                continue
            changed = altered(folder, stamp)
            if not changed:
                return folder
            if folder != self._making:
                refused = self._altered(folder, changed)
        if refused and not self.again:
            raise refused
        return None

    def _taken_back(self) -> bool:
        """Move it into place from elsewhere; whether there was one to move."""
        folder = self._elsewhere()
        stamp = folder and read_stamp(folder)
        if not folder or not stamp:
            return False
        self._refuse_links()
        self._make_room(stamp)
        if folder == self._making:  # a process was killed after the stamp, before it removed these
            for path in (folder / name for name in _spent(stamp)):
                if path.is_file():
                    path.unlink()
        moves.into_place(folder, self.folder, self._aside)
        if folder != self._making:
            self._tell("%s: taken back from %s.", self.name, folder.relative_to(self.run))
        return True

    def _make_room(self, coming: Stamp) -> None:
        """Set aside a finished artifact that lies in place, and log what has changed."""
        stamp = read_stamp(self.folder)
        if stamp:
            changed = differences(stamp["recipe"], json.loads(json.dumps(coming["recipe"])))
            reasons = "; ".join(changed[:SHOWN]) + (" ..." if len(changed) > SHOWN else "")
            self._set_aside(stamp, reasons or "it was made again")

    def _set_aside(self, stamp: Stamp, reasons: str, mark: str = "") -> None:
        """Move the finished artifact out of its place; files that are not its own stay."""
        target = moves.free(self._aside / f"{key(stamp['recipe'])}{mark}")
        changed = altered(self.folder, stamp)
        fate = ("was changed by hand: " + some([" ".join(pair) for pair in changed.items()]) if changed else
                "is taken back if its parameters are given again")
        # The folder is renamed as a whole, so that a kill leaves it in one place or the other.
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.folder, target)
        moves.move(target, self.folder, moves.strangers(target, stamp))
        self._tell("%s is replaced (%s). The old version, %s of work, is kept in %s and %s.", self.name,
                   reasons, duration(stamp["seconds"]), target.relative_to(self.run), fate)

    def _tell(self, text: str, *values: object) -> None:
        log.log(logging.INFO if self.quiet else logging.WARNING, text, *values)

    def _finished_elsewhere(self, same: Stamp | None) -> bool:
        """Whether another process has finished this while this one was stopped; and, if a stamp `same` is
        given, with the same outputs."""
        stamp = read_stamp(self.folder)
        if stamp is None or self._differing(stamp) or altered(self.folder, stamp):
            return False
        return same is None or contents(stamp) == contents(same)

    def _not_made(self) -> NotMadeError:
        stamp, elsewhere = read_stamp(self.folder), self._elsewhere()
        differing = self._differing(stamp) if stamp else []
        reason = (f"{self.folder} was made with other values ({some(differing, SHOWN)})" if stamp else
                  f"{self.run} has no finished {self.name}")
        if elsewhere:
            return NotMadeError.of(
                f"{reason}. The version asked for is in {elsewhere.relative_to(self.run)};", self.run,
                self._chapter, "{} takes it back.", differing, set_aside=True)
        kind = OutdatedError if stamp else NotMadeError
        return kind.of(f"{reason}.", self.run, self._chapter, differing=differing)
