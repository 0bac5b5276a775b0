"""A run folder: marked as one, held by one process at a time, and never anybody else's folder."""

import contextlib
import fcntl
import logging
import os
import pwd
import signal
import socket
import stat
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
BEAT = 20.0  # seconds between touches of a lock by its holder
SILENT = 65.0  # seconds after which an untouched lock counts as abandoned
TRIES = 5  # attempts, in case the lock file was removed before it was locked
GLANCE = 0.1  # seconds within which a process that only looks at a lock releases it
MARK = "run.json"  # the file that marks a run folder
GIVEN = "given"  # in the mark: true if the user had made the folder


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    mark = files.read_json(folder / MARK)
    return isinstance(mark, dict) and "diffusegen" in mark


def outermost(run: Path) -> Path:
    """The run that a run lies in, directly or within others; itself, if it lies in none."""
    return next((place for place in reversed(run.parents) if is_run(place)), run)


def refuse_foreign(folder: Path) -> None:
    """Raise UserError if a folder is not a run's and holds anything, is a file, or may be a stranger's."""
    if is_run(folder):
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} cannot be the run folder: it is a file.")
    _refuse_strangers(folder)
    present = sorted(path.name for path in (folder.iterdir() if folder.is_dir() else ())
                     # What a kill leaves before the mark is written.
                     if path.name != LOCK and not path.name.startswith(files.WRITING))
    if present:
        raise UserError(f"{folder} cannot be the run folder: it holds files that belong to no run "
                        f"({some(present)}). Choose another run_dir.")


def _refuse_strangers(folder: Path) -> None:
    """Raise UserError for another user's folder in which everybody can write: a stranger may have made it, to
    get hold of what a run puts there. A group's folder is not open to everybody, and this user's own run may
    go on."""
    owner = _other_owner(folder)
    if owner is None or not folder.stat().st_mode & stat.S_IWOTH:
        return
    with contextlib.suppress(OSError):
        if (folder / MARK).lstat().st_uid == os.geteuid():
            return
    raise UserError(f"{folder} cannot be the run folder: it belongs to {owner}, and everybody can write in "
                    f"it. Choose another run_dir or, if it was made for your group, let {owner} close it to "
                    "others (chmod o-w).")


def _other_owner(folder: Path) -> str | None:
    """The user whom a folder belongs to; None if that is this user or root, or if there is no folder."""
    if not folder.is_dir() or (owner := folder.stat().st_uid) in (os.geteuid(), 0):
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"


def refuse_nested(folder: Path) -> None:
    """Raise UserError if a new run's folder lies in a run, whose lock and searches would cover both."""
    for parent in folder.parents:
        if is_run(parent) and not is_run(folder):
            raise UserError(f"{folder} cannot be the run folder: it lies in the run {parent}. Choose another "
                            "run_dir.")


def claim(folder: Path) -> None:
    """Make a new or empty folder a run's. Raises UserError as `refuse_foreign` does, if that fails, and for a
    run that a stranger may have prepared: it may be read, but nothing is written there."""
    refuse_foreign(folder)
    new = not is_run(folder)
    if new:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            given = folder.is_dir()
            # It will hold patients' images, so it is private, unless the user has made it with other modes.
            folder.mkdir(mode=files.PRIVATE_FOLDER, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be the run folder: {error.strerror}.") from None
    _refuse_strangers(folder)  # who may have made it just now
    if new:
        if owner := _other_owner(folder):
            log.warning("%s belongs to %s, who can read and change what the run puts there.", folder, owner)
        files.write_json(folder / MARK, {"diffusegen": __version__, GIVEN: given})


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """`hold` without the lock: the folder only becomes a run's."""
    claim(folder)
    yield


def _lock(file: TextIO) -> None:
    """Take the lock, or raise BlockingIOError after a second try: `holder` takes it only for a moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(GLANCE)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(folder: Path) -> str | None:
    """Who holds a run folder, in words: "process 7 on host, since 2026-11-28 22:10"; None if nobody does.

    Nothing is written, and nobody is kept out of the folder.
    """
    try:
        with os.fdopen(os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "r") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _first(f) or "a process"
    except (OSError, UnicodeDecodeError):  # it is absent, or cannot be locked
        pass
    return None


def clear(folder: Path, starting: bool = False) -> None:
    """Remove what killed processes of a run left half written, and the files by which they show that they
    wait for their items.

    Files in a folder with such a name belong to the holder, as its workers' certificate does; they are
    removed only when `starting`.
    """
    for name in files.below(folder):
        *parents, last = Path(name).parts
        within = any(part.startswith(files.WRITING) for part in parents)
        if last.startswith(files.WRITING) and (starting or not within):
            (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder, unless whoever started this process does; a second holder is refused.

    The system frees it when the process ends, in whatever way. The holder first removes what a killed one
    left half written. An environment variable tells the processes that it starts, the chapters' kernels, that
    the folder is held for them.
    """
    held = os.environ.get(HOLDER)
    if held is not None and Path(held) in (folder, *folder.parents):
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
    """Make a folder a run's and return its lock file, locked. Raises UserError if it cannot be locked, or
    another process holds it."""
    for _ in range(TRIES):
        claim(folder)
        try:
            # Follow no link: its target would be emptied, and the run folder may be a stranger's.
            f = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+",
                          errors="replace")
        except OSError as error:
            raise UserError(f"{folder} cannot be the run folder: {error.strerror}.") from None
        try:
            _lock(f)
        except BlockingIOError:
            told, dead = _first(f), _seems_dead(folder, f)
            f.close()
            if dead:
                raise UserError(f"{folder} is locked by {told}, which shows no sign of life. If that machine "
                                f"is down, remove {folder / LOCK}; else wait for it, or choose another "
                                "run_dir.") from None
            raise UserError(f"Another run is at work in {folder}: {told or 'a process'}. Wait for it, or "
                            "choose another run_dir.") from None
        except OSError as error:
            f.close()
            raise UserError(f"{folder} cannot be locked: {error.strerror}. Choose a run_dir on a file system "
                            "that has locks (flock).") from None
        if is_run(folder) and _is_there(folder / LOCK, f):
            return f
        f.close()  # a run that was refused has removed its new folder's lock meanwhile
        time.sleep(GLANCE)
    raise UserError(f"{folder} cannot be locked: its file system reports one file as several. Choose a "
                    "run_dir on another file system.")


def _first(f: TextIO) -> str:
    """The first line of a lock, which says who holds it."""
    f.seek(0)
    return f.readline().rstrip("\n")


def _is_there(path: Path, f: TextIO) -> bool:
    """Whether a path still leads to this open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(f.fileno()))
    except OSError:
        return False


def _refuse_elsewhere(folder: Path, f: TextIO) -> None:
    """Raise UserError if a process on another machine holds the run folder although this one got the lock: on
    some network file systems a lock applies to one machine only. A live holder touches its lock every BEAT
    seconds."""
    told, machine = _first(f), f.readline().rstrip("\n")
    if not told or machine == _machine() or _age(folder, f) > SILENT:
        return
    before, end = _touched(f), time.monotonic() + SILENT
    log.warning("%s was held by %s. Watching for up to %.0f s whether that is still at work.", folder, told,
                SILENT)
    while time.monotonic() < end:
        time.sleep(1)
        if _touched(f) != before:
            raise UserError(f"Another run is at work in {folder}: {told}. Wait for it, or choose another "
                            "run_dir.")


def _seems_dead(folder: Path, f: TextIO) -> bool:
    """Whether the holder of a lock is on another machine and has not touched it for long: some file servers
    keep the lock of a machine that has lost its power until it is back."""
    f.seek(0)
    _, machine = f.readline(), f.readline().rstrip("\n")
    return machine not in ("", _machine()) and _age(folder, f) > SILENT


def _machine() -> str:
    """An identifier of this machine since it was booted; locks apply among all its processes."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _touched(f: TextIO) -> int:
    """When an open file was last touched, in ns; 0 if the file system does not say."""
    with contextlib.suppress(OSError):
        return os.fstat(f.fileno()).st_mtime_ns
    return 0


def _age(folder: Path, f: TextIO) -> float:
    """Seconds since a lock file was touched, by the clock of its file system; 0 if that is unknown, as on a
    full disk."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(prefix=files.WRITING, dir=folder) as fresh:
        return (os.fstat(fresh.fileno()).st_mtime_ns - _touched(f)) / 1e9
    return 0.0


def _beat(lock: int, own: bytes, over: threading.Event) -> None:
    """Touch the lock every BEAT seconds, and interrupt this process if the lock names another holder, as may
    happen where locks apply to one machine only: two began at once, or this one was stopped for long."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            there = os.pread(lock, len(own) + 1, 0)
            if there and there != own:
                log.error("Another run has begun in this run's folder: %s. This one ends.",
                          there.partition(b"\n")[0].decode(errors="replace"))
                # A process that a script has started in the background ignores SIGINT.
                heeds = callable(signal.getsignal(signal.SIGINT))
                os.kill(os.getpid(), signal.SIGINT if heeds else signal.SIGTERM)
                return
            os.utime(lock)
