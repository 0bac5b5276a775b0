"""A run folder: marked as one, held by one process at a time, and never anybody else's folder."""

import contextlib
import fcntl
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from diffusegen_core import __version__
from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.store import files

log = logging.getLogger(__name__)

HOLDER = "DIFFUSEGEN_RUN"  # the environment variable that names the run folder that is held
LOCK = ".lock"
BEAT = 20.0  # seconds from one touch of a lock by its holder to the next
SILENT = 65.0  # after which an untouched one is nobody's
TRIES = 5  # at a lock that is no more the folder's
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
                return _first(f) or "a process"
    except (OSError, UnicodeDecodeError):  # it is not there, or not to be locked
        pass
    return None


def clear(folder: Path, starting: bool = False) -> None:
    """Remove what processes of a run that were killed had half written, and the signs that they wait for
    their items.

    What lies in a folder of such a name is the holder's, as the certificate that its workers show; only one
    that is `starting` removes that as well.
    """
    for name in files.below(folder):
        *parents, last = Path(name).parts
        within = any(part.startswith(files.WRITING) for part in parents)
        if last.startswith(files.WRITING) and (starting or not within):
            (folder / name).unlink(missing_ok=True)


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
    with _locked(folder) as f:
        _refuse_elsewhere(folder, f)
        own = (f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M')}\n"
               f"{_machine()}\n").encode()
        with contextlib.suppress(OSError):  # the disk may be full
            os.ftruncate(f.fileno(), 0)
            os.pwrite(f.fileno(), own, 0)
            os.fsync(f.fileno())  # so that other machines see it
        clear(folder, starting=True)
        over = threading.Event()
        beat = threading.Thread(target=_beat, args=(f.fileno(), own, over), daemon=True)
        try:
            beat.start()
            with environment({HOLDER: str(folder)}):
                yield
        finally:
            over.set()
            beat.join()
            with contextlib.suppress(OSError):
                if os.pread(f.fileno(), len(own) + 1, 0) == own:
                    os.ftruncate(f.fileno(), 0)


def _locked(folder: Path) -> TextIO:
    """The lock file of a run folder, which is made a run's, locked. UserError where it cannot be, or is by
    another process."""
    for _ in range(TRIES):
        claim(folder)
        try:
            # No link: what it leads to would be emptied, and a run's folder may be a stranger's.
            f = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+",
                          errors="replace")
        except OSError as error:
            raise UserError(f"{folder} cannot be the run folder: {error.strerror}.") from None
        try:
            _lock(f)
        except BlockingIOError:
            told = _first(f)
            f.close()
            raise UserError(f"Another run is at work in {folder}: {told or 'a process'}. Wait for it, or "
                            "choose another run_dir.") from None
        except OSError as error:
            f.close()
            raise UserError(f"{folder} cannot be locked: {error.strerror}. Choose a run_dir on a file system "
                            "that has locks (flock).") from None
        if is_run(folder) and _is_there(folder / LOCK, f):
            return f
        f.close()  # a run that was refused has taken its new folder's lock away meanwhile
        time.sleep(GLANCE)
    raise UserError(f"{folder} cannot be locked: its file system takes one file for several. Choose a "
                    "run_dir on another.")


def _first(f: TextIO) -> str:
    """The first line of a lock, which says who holds it."""
    f.seek(0)
    return f.readline().rstrip("\n")


def _is_there(path: Path, f: TextIO) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(f.fileno()))
    except OSError:
        return False


def _refuse_elsewhere(folder: Path, f: TextIO) -> None:
    """UserError where a process of another machine holds a run folder, though this one has got the lock: on
    some network file systems locks hold on one machine alone. A holder touches its lock every BEAT seconds;
    one that was killed does not."""
    told, machine = _first(f), f.readline().rstrip("\n")
    if not told or machine == _machine() or _age(folder, f) > SILENT:
        return
    before, end = _touched(f), time.monotonic() + SILENT
    log.warning("%s was held by %s. For at most %.0f s it is watched, whether that is still at work.", folder,
                told, SILENT)
    while time.monotonic() < end:
        time.sleep(1)
        if _touched(f) != before:
            raise UserError(f"Another run is at work in {folder}: {told}. Wait for it, or choose another "
                            "run_dir.")


def _machine() -> str:
    """What tells this machine, since it was started, from others: locks reach all its processes."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _touched(f: TextIO) -> int:
    """When an open file was touched; 0 where the file system does not say."""
    with contextlib.suppress(OSError):
        return os.fstat(f.fileno()).st_mtime_ns
    return 0


def _age(folder: Path, f: TextIO) -> float:
    """Seconds since a lock file was touched, by the clock of its file system; 0 where that cannot be told, as
    on a full disk."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(prefix=files.WRITING, dir=folder) as fresh:
        return (os.fstat(fresh.fileno()).st_mtime_ns - _touched(f)) / 1e9
    return 0.0


def _beat(lock: int, own: bytes, over: threading.Event) -> None:
    """Touch a lock again and again. Where it says that another process holds it, as it may where locks reach
    one machine alone and two begin at the same moment, or this one was stopped for long, this one ends."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            there = os.pread(lock, len(own) + 1, 0)
            if there and there != own:
                log.error("Another run has begun in this run's folder: %s. This one ends.",
                          there.partition(b"\n")[0].decode(errors="replace"))
                # What a script has started in the background ignores Ctrl-C.
                heeds = callable(signal.getsignal(signal.SIGINT))
                os.kill(os.getpid(), signal.SIGINT if heeds else signal.SIGTERM)
                return
            os.utime(lock)
