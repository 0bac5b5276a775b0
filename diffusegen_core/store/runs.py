"""Artifacts on disk: written atomically, stamped with what made them, skipped while current.

A finished artifact is a folder with a `made.json`, written last: its recipe (every parameter, seed and input
hash that decides the content), its output files with their hashes, and for the record the versions, the
device and the seconds. It is current while the recipe is the same and the files are those that were written.

Two processes may come to write one artifact: a worker that had stopped, was replaced, and goes on. A stamp
tells the files that its own writer wrote, so that a mixture of theirs is not current, and is made again.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PosixPath
from typing import Any

from diffusegen_core import __version__
from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError

log = logging.getLogger(__name__)

STAMP = "made.json"
HOLDER = "DIFFUSEGEN_RUN"  # the environment variable that names the run folder that is held
WRITING = ".writing-"  # how unfinished files are called
LOCK = ".lock"
SHOWN = 5  # reasons of a log line
Recipe = dict[str, Any]
_only_finished = ContextVar("only finished", default=False)


class NotMadeError(Exception):
    """Within `only_finished`: an artifact is not there, or is not what its recipe would make."""


class Written(PosixPath):
    """Where a file was written, with the hash of what was: by now another process may have replaced it."""

    sha256 = ""

    @classmethod
    def of(cls, path: Path, sha256: str) -> "Written":
        written = cls(path)
        written.sha256 = sha256
        return written


def write(path: Path, save: Callable[[Path], object], hashed: bool = True) -> Path:
    """Let `save` fill a temporary file beside `path`, then rename it there: the file is whole or absent.

    The path that is returned tells the hash (Written), unless not `hashed`, which is for what no stamp names.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, because libraries choose the file format by it.
        handle, name = tempfile.mkstemp(prefix=WRITING, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        save(temporary)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        made = Written.of(path, sha256(temporary)) if hashed else path
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return made


def write_text(path: Path, text: str) -> Path:
    return write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any | None:
    """The file's value, or None where it is absent or not JSON (half-written, or a stranger's)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def key(recipe: Recipe) -> str:
    """A hash of what decides an artifact's content."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What differs between two recipes, as "name: old -> new", nested names joined by dots."""
    found = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{name}.{line}" for line in differences(a, b)]
        elif a != b:
            found.append(f"{name}: {a} -> {b}")
    return found


def finish(folder: Path, recipe: Recipe, outputs: list[Path], seconds: float, **facts: Any) -> dict[str, Any]:
    """Stamp the finished artifact in `folder`, with `facts` worth keeping beside it, which JSON can hold.

    The fact `device` says what has computed; without it the stamp names what `auto` means in this process.
    """
    stamp = {
        "recipe": recipe,
        "outputs": {str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": getattr(path, "sha256", "") or sha256(path)} for path in outputs},
        "seconds": round(seconds, 3),
        "versions": versions(),
        "device": devices.name(),
        **facts,
    }
    write_json(folder / STAMP, stamp)
    return stamp


def current(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The stamp of the artifact in `folder`, if finished and still what `recipe` would make; else None.

    Why a finished one no longer holds is logged.
    """
    stamp = read_stamp(folder)
    reasons = [] if stamp is None else _reasons(folder, stamp, recipe)
    if stamp is not None and not reasons:
        return stamp
    if reasons:
        _tell(folder, "; ".join(reasons[:SHOWN]) + (" ..." if len(reasons) > SHOWN else ""))
    if not making():
        raise NotMadeError(folder)
    return None


@functools.lru_cache(maxsize=1000)
def _tell(folder: Path, reasons: str) -> None:
    """Log it once, however often it is asked."""
    log.warning("%s no longer holds: %s", folder, reasons)


@contextlib.contextmanager
def only_finished() -> Iterator[None]:
    """Within, a chapter reads what is current and makes nothing: `current` raises NotMadeError for None."""
    token = _only_finished.set(True)
    try:
        yield
    finally:
        _only_finished.reset(token)


def making() -> bool:
    """Whether what is not finished is made: not within `only_finished`."""
    return not _only_finished.get()


def stale(folder: Path, recipe: Recipe) -> list[str]:
    """Why a finished artifact in `folder` no longer holds, in readable lines; nothing where there is none."""
    stamp = read_stamp(folder)
    return [] if stamp is None else _reasons(folder, stamp, recipe)


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """What `finish` wrote into a folder, or None where nothing of its shape is there."""
    stamp = read_json(folder / STAMP)
    shape: dict[str, type | tuple[type, ...]] = {
        "recipe": dict, "outputs": dict, "seconds": (int, float), "device": str}
    whole = isinstance(stamp, dict) and all(isinstance(stamp.get(k), kind) for k, kind in shape.items())
    return stamp if whole else None


def stamped_hash(path: Path) -> str:
    """The hash of a file as its folder's stamp tells it, with which `current` has just compared the file."""
    stamp = read_stamp(path.parent)
    assert stamp is not None, "current() has just read it"
    return str(stamp["outputs"][path.name]["sha256"])


def _reasons(folder: Path, stamp: dict[str, Any], recipe: Recipe) -> list[str]:
    # Through JSON, so that tuples and lists compare equal.
    reasons = differences(stamp["recipe"], json.loads(json.dumps(recipe)))
    for name, made in stamp["outputs"].items():
        path = folder / name
        if not path.is_file():
            reasons.append(f"{name} is missing")
        elif not isinstance(made, dict) or path.stat().st_size != made.get("bytes") or (
                sha256(path) != made.get("sha256")):
            reasons.append(f"{name} is not the file that was written")
    return reasons


def versions() -> dict[str, str]:
    """The versions that a page states: of what computes its numbers, and of what makes the page."""
    found = {"diffusegen": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "segmentation-models-pytorch", "albumentations",
                 "clean-fid", "pytorch-msssim", "numpy", "scikit-learn", "papermill", "jupyter-book"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def duration(seconds: float) -> str:
    """Seconds in words: "41 s", "3 min 20 s", "2 h 5 min", "3 d 7 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours = minutes // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {rest} s"


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; a second holder is refused. The system frees it when the process ends, however.

    The holder starts by removing what a killed one had half written. The environment tells the processes that
    it starts, the chapters' kernels, that the folder is held for them.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # No link: what it leads to would be emptied, and a run's folder may be a stranger's.
        how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        f = os.fdopen(os.open(run_dir / LOCK, how, 0o666), "r+")
    except OSError as error:
        raise UserError(f"{run_dir} cannot be the run folder: {error.strerror}.") from None
    with f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            raise UserError(f"Another run is at work in {run_dir}: {f.read() or 'a process'}. Wait for it, "
                            "or choose another run_dir.") from None
        with contextlib.suppress(OSError):  # the disk may be full
            os.ftruncate(f.fileno(), 0)
            os.write(f.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        for leftover in run_dir.rglob(f"{WRITING}*"):
            if not leftover.is_dir():
                leftover.unlink(missing_ok=True)
        with environment({HOLDER: str(run_dir)}):
            yield


@contextlib.contextmanager
def environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables, None: leave it for now; at the end all of them are as they were before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def shadow(run_dir: Path) -> Iterator[Path]:
    """A temporary run folder that holds what `run_dir` does, by links; what is written there stays there."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "run"
        if run_dir.is_dir():
            # A run at work beside this one replaces files while they are linked.
            with contextlib.suppress(shutil.Error):
                shutil.copytree(run_dir, folder, copy_function=os.symlink,
                                ignore=shutil.ignore_patterns(f"{WRITING}*", LOCK))
        yield folder


def clear(folder: Path) -> None:
    """Remove an artifact that no longer holds."""
    shutil.rmtree(folder, ignore_errors=True)
