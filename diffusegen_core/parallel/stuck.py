"""A worker that has hung at an item ends itself, so that another one goes on with it.

Dask does not notice: its own threads still answer. So the thread that does the item is watched: while it
computes, reads or writes, or a process does that it has started, all is well. This goes by what Linux tells
of a thread; elsewhere nobody watches.
"""

import contextlib
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

SILENCE = 300.0  # seconds without computing that are taken for a hang
LOOK = 5.0  # seconds from one look to the next
LATE = 3  # times that: what a look comes later than this is the delay of the process that looks
SLEEP = 60.0  # seconds from one look to the next that only a machine that slept lets pass
SHARE = 1 / 300  # of a core, over that silence, that is computing; a kernel that idles uses a tenth at most
BYTES = 2**20  # read or written over that silence that are computing as well: files may be slow
# Functions of Linux in which one waits for a file system that is a program, as sshfs.
FILES = ("request_wait_answer", "fuse_")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Work:
    """What a thread and the processes that this one has started have done so far."""

    cpu: float  # seconds
    moved: int  # bytes
    held: bool  # by something that is no hang of its own, as a disk that is away

    def follows(self, before: "Work") -> bool:
        """Whether anything was done since an earlier look."""
        return (self.held or abs(self.cpu - before.cpu) >= SHARE * SILENCE  # less, where a process has ended
                or abs(self.moved - before.moved) >= BYTES)


@contextlib.contextmanager
def ended(what: str, stacks: Path | None) -> Iterator[None]:
    """While it lasts, this process is ended if the calling thread neither computes nor reads or writes for
    SILENCE; where it stood is then added to the file `stacks`."""
    thread = threading.get_native_id()
    over = threading.Event()
    if _work(thread) is None:
        yield
        return
    watcher = threading.Thread(target=_watch, args=(thread, what, stacks, over), daemon=True, name="stuck")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(thread: int, what: str, stacks: Path | None, over: threading.Event) -> None:
    before, quiet, looked = _work(thread), 0.0, time.monotonic()
    while not over.wait(LOOK):
        now = time.monotonic()
        passed, looked = now - looked, now
        work = _work(thread)
        if work is None or before is None or work.follows(before) or passed > SLEEP:
            before, quiet = work, 0.0
            continue
        quiet += min(passed, LATE * LOOK)
        if quiet >= SILENCE:
            log.error("%s has done nothing for %.0f s: this worker ends.", what, quiet)
            if stacks:
                tell(stacks, f"{what}, worker {os.getpid()}", own=True)
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process().children(recursive=True):
                    child.kill()
            os._exit(1)


def _work(thread: int) -> Work | None:
    """As far as it is known."""
    place = Path("/proc/self/task", str(thread))
    try:
        status = (place / "stat").read_text().rpartition(")")[2].split()
        told = dict(line.split(": ") for line in (place / "io").read_text().splitlines())
        cpu, moved = sum(map(int, status[11:13])) / TICKS, int(told["rchar"]) + int(told["wchar"])
    except (OSError, ValueError, LookupError):
        return None
    held = status[0] in ("D", "t") or waits_for_files(place)
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                held = held or child.status() == psutil.STATUS_DISK_SLEEP
    return Work(cpu, moved, held)


def waits_for_files(place: Path) -> bool:
    """Whether a process or thread, by its folder in /proc, waits for a file system that is a program."""
    try:
        return (place / "wchan").read_text().startswith(FILES)
    except OSError:
        return False


def tell(stacks: Path, text: str, own: bool = False) -> None:
    """Add to a file what was found, and when; and, where it is about this process, where its threads are. A
    link is not followed, and a disk that is full hinders nothing."""
    try:
        stacks.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(stacks, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with open(handle, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
            file.flush()
            if own:
                faulthandler.dump_traceback(file, all_threads=True)
    except OSError as error:
        log.warning("%s could not be written: %s", stacks, error.strerror or error)
