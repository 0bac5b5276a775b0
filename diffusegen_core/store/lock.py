"""A run folder: marked as one, held by one process at a time, and never anybody else's folder."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from diffusegen_core import __version__
from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.store import files

HOLDER = "DIFFUSEGEN_RUN"  # the environment variable that names the run folder that is held
LOCK = ".lock"
GLANCE = 0.1  # seconds after which who only looked at a lock has given it back
MARK = "run.json"  # by which a run folder is known


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    mark = files.read_json(folder / MARK)
    return isinstance(mark, dict) and "diffusegen" in mark


def refuse_foreign(folder: Path) -> None:
    """UserError where a folder is there and holds anything, but is no run's."""
    if is_run(folder):
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} cannot be the run folder: it is a file.")
    present = sorted(path.name for path in (folder.iterdir() if folder.is_dir() else ())
                     # What a kill leaves before there is the mark.
                     if path.name != LOCK and not path.name.startswith(files.WRITING))
    if present:
        raise UserError(f"{folder} cannot be the run folder: it holds files that are no run's "
                        f"({some(present)}). Choose another run_dir.")


def refuse_nested(folder: Path) -> None:
    """UserError where a folder lies in a run, whose lock and searches would take both for one."""
    for parent in folder.parents:
        if is_run(parent) and not is_run(folder):
            raise UserError(f"{folder} cannot be the run folder: it lies in the run {parent}. Choose another "
                            "run_dir.")


def claim(folder: Path) -> None:
    """Make a new or empty folder a run's. UserError as `refuse_foreign`, or where it cannot be made."""
    refuse_foreign(folder)
    if not is_run(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # It will hold patients' images: nobody else's, unless the user made the folder for others.
            folder.mkdir(mode=files.PRIVATE_FOLDER, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be the run folder: {error.strerror}.") from None
        files.write_json(folder / MARK, {"diffusegen": __version__})


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """`hold`, without holding: the folder becomes a run's, and that is all."""
    claim(folder)
    yield


def _lock(file: TextIO) -> None:
    """Take the lock, or BlockingIOError; who only looks (see `holder`) has it for a moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(GLANCE)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(folder: Path) -> str | None:
    """Who holds a run folder, in words: "process 7 on host, since 2026-11-28 22:10"; None where nobody does.

    Nothing is written, and nobody is kept from the folder.
    """
    try:
        with os.fdopen(os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "r") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return f.read() or "a process"
    except (OSError, UnicodeDecodeError):  # it is not there, or not to be locked
        pass
    return None


def clear(folder: Path, starting: bool = False) -> None:
    """Remove what processes of a run that were killed had half written, and the signs that they wait for
    their items.

    What lies in a folder of such a name is the holder's, as the certificate that its workers show; only one
    that is `starting` removes that as well.
    """
    for leftover in folder.rglob(f"{files.WRITING}*"):
        within = any(part.startswith(files.WRITING) for part in leftover.relative_to(folder).parts[:-1])
        if not leftover.is_dir() and (starting or not within):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder, unless whoever started this process does; a second holder is refused.

    The system frees it when the process ends, however. The holder starts by removing what a killed one had
    half written. The environment tells the processes that it starts, the chapters' kernels, that the folder
    is held for them.
    """
    holder = os.environ.get(HOLDER)
    if holder is not None and Path(holder) in (folder, *folder.parents):
        claim(folder)  # a run within the run, such as a small set's generator
        yield
        return
    claim(folder)
    try:
        # No link: what it leads to would be emptied, and a run's folder may be a stranger's.
        f = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    except OSError as error:
        raise UserError(f"{folder} cannot be the run folder: {error.strerror}.") from None
    with f:
        try:
            _lock(f)
        except BlockingIOError:
            f.seek(0)
            raise UserError(f"Another run is at work in {folder}: {f.read() or 'a process'}. Wait for it, "
                            "or choose another run_dir.") from None
        except OSError as error:
            raise UserError(f"{folder} cannot be locked: {error.strerror}. Choose a run_dir on a file system "
                            "that has locks (flock).") from None
        with contextlib.suppress(OSError):  # the disk may be full
            os.ftruncate(f.fileno(), 0)
            since = time.strftime("%Y-%m-%d %H:%M")
            os.write(f.fileno(), f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
        clear(folder, starting=True)
        with environment({HOLDER: str(folder)}):
            yield
