"""Ending a worker that hangs at an item, so that another one goes on with it.

Dask does not notice, because its own threads still answer. So the thread that does the item is watched: while
it, or a process started by the worker, computes, reads or writes, all is well. This relies on /proc of Linux;
elsewhere nothing is watched.
"""

import contextlib
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from diffusegen_core.parallel import silence

log = logging.getLogger(__name__)

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@contextlib.contextmanager
def ended(what: str, stacks: Path | None) -> Iterator[None]:
    """While this lasts, end this process if the calling thread neither computes nor reads or writes for
    silence.SILENCE, after adding the stacks of its threads to the file `stacks`."""
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
    quiet = silence.Silence()
    while not over.wait(silence.LOOK):
        if (seconds := quiet.lasts(_work(thread))) >= silence.SILENCE:
            log.error("%s has done nothing for %.0f s: this worker ends.", what, seconds)
            if stacks:
                tell(stacks, f"{what}, worker {os.getpid()}", own=True)
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process().children(recursive=True):
                    child.kill()
            os._exit(1)


def _work(thread: int) -> silence.Activity | None:
    """What was done so far, or None if that is unknown."""
    place = Path("/proc/self/task", str(thread))
    try:
        status = (place / "stat").read_text().rpartition(")")[2].split()
        told = dict(line.split(": ") for line in (place / "io").read_text().splitlines())
        cpu, moved = sum(map(int, status[11:13])) / TICKS, int(told["rchar"]) + int(told["wchar"])
    except (OSError, ValueError, LookupError):
        return None
    held = status[0] in ("D", "t") or silence.waits_for_files(place)
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                held = held or child.status() == psutil.STATUS_DISK_SLEEP
    return silence.Activity(cpu, moved, held)


def tell(stacks: Path, text: str, own: bool = False) -> None:
    """Add the text and the time to a file; with `own`, the stacks of this process's threads as well. A link
    is not followed, and a failure to write is only logged."""
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
