"""Ending a chapter whose kernel neither computes nor answers, after writing down its stacks.

Kernels hang, if seldom: a reply is lost, a lock is never released, a process is stopped. A kernel computes
as long as it or a process that it started uses a core or reads and writes files. It answers when the page of
its chapter grows, or when it says that it is alive, as it does at each step of a bar and while it waits for
workers. Time counts only if this process waits for the kernel and sees neither: not the sleep of a laptop,
not a terminal that was stopped, and little of a stall of the whole machine.
"""

import contextlib
import logging
import selectors
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from diffusegen_core.config.text import duration
from diffusegen_core.kernels import ASK, PROCESS, STACKS
from diffusegen_core.parallel import silence
from diffusegen_core.parallel.progress import ALIVE
from diffusegen_core.parallel.silence import Activity, Silence, waits_for_files
from diffusegen_core.parallel.stuck import tell

log = logging.getLogger(__name__)

WAKE = getattr(signal, "SIGUSR2", None)  # the signal that interrupts this process if it is the one that hangs
WRITING = 5.0  # seconds within which a kernel that can write its stacks has done so
# Such a process is held by something else, as an absent disk or a debugger, and cannot or must not be ended.
HELD = (psutil.STATUS_DISK_SLEEP, psutil.STATUS_TRACING_STOP)


class Hung(Exception):
    """A chapter did not end, through no fault of its own. The text is a clause about its process."""


@contextlib.contextmanager
def watch(kernel: Path, page: Path, stacks: Path) -> Iterator[None]:
    """Watch the kernel of a private folder, which writes a page, while this lasts.

    If it hangs, its stacks are added to the file `stacks`, and it is killed, so that whoever waits for it
    goes on; if this process hangs after its kernel has ended, it is interrupted. Raises Hung in both cases.
    """
    dog = _Watchdog(kernel, page, stacks)
    # Not SIGINT, which is ignored by what a script has started in the background.
    main = WAKE is not None and dog.waiting is threading.main_thread()
    before = signal.signal(WAKE, signal.default_int_handler) if WAKE is not None and main else None
    dog.start()
    try:
        yield
    except (RuntimeError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) == dog.interrupting and dog.reason:
            raise Hung(dog.reason) from None
        raise
    finally:
        dog.over.set()
        dog.join()
        if WAKE is not None and main:
            signal.signal(WAKE, signal.SIG_DFL if before is None else before)


class _Watchdog(threading.Thread):
    """Looks at the kernel that the thread creating this waits for."""

    def __init__(self, kernel: Path, page: Path, stacks: Path) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.kernel, self.stacks, self.says = kernel, stacks, [page, kernel / ALIVE]
        self.waiting = threading.current_thread()
        self.over = threading.Event()
        self.reason = ""  # why the kernel was killed, or this process interrupted
        self.interrupting = False

    def run(self) -> None:
        process: psutil.Process | None = None
        quiet = Silence()
        while not self.over.wait(silence.LOOK):
            process = process or _process(self.kernel)
            if process is None:  # it is starting, which has a time limit of its own
                continue
            seen = look(process, self.says)
            seconds = quiet.lasts(seen, excused=not (seen.gone or _awaits(self.waiting)))
            if seconds >= silence.SILENCE:
                self._end(process, seen.gone, duration(seconds))
                quiet = Silence()

    def _end(self, process: psutil.Process, gone: bool, seconds: str) -> None:
        """Write down the stacks of the kernel, or of this process if the kernel is gone, and end the wait."""
        if not gone:
            self.reason = f"neither computed nor answered for {seconds}"
            _keep_stacks(process, self.kernel / STACKS, self.stacks)
            _kill(process)
            return
        tell(self.stacks, "The kernel had ended; the command itself:", own=True)
        if WAKE is not None and self.waiting is threading.main_thread() and not self.over.is_set():
            self.reason, self.interrupting = f"had ended, which went unnoticed for {seconds}", True
            signal.pthread_kill(self.waiting.ident or 0, WAKE)


def look(process: psutil.Process, says: list[Path]) -> Activity:
    """The kernel as it is now; `says` are files that change when it says something."""
    cpu, moved, held = 0.0, 0, False
    try:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return Activity(gone=True)
        processes = [process, *process.children(recursive=True)]
    except psutil.Error:
        return Activity(gone=True)
    for one in processes:
        with contextlib.suppress(psutil.Error), one.oneshot():
            times = one.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            held = held or one.status() in HELD or waits_for_files(Path("/proc", str(one.pid)))
            if hasattr(one, "io_counters"):  # not on macOS
                io = one.io_counters()
                moved += getattr(io, "read_chars", io.read_bytes) + getattr(io, "write_chars", io.write_bytes)
    return Activity(cpu, moved, held, tuple(map(_time, says)))


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _process(kernel: Path) -> psutil.Process | None:
    """The kernel's process, once the kernel has written its id."""
    try:
        return psutil.Process(int((kernel / PROCESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, psutil.Error):
        return None


def _awaits(thread: threading.Thread) -> bool:
    """Whether a thread waits in its event loop. One that cannot print because the terminal is stopped does
    not; its kernel then has nothing to do for good reason."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_filename == selectors.__file__


def _kill(process: psutil.Process) -> None:
    """Kill a process and all that it has started."""
    ended = [process]
    with contextlib.suppress(psutil.Error):
        ended += process.children(recursive=True)
    for one in ended:
        with contextlib.suppress(psutil.Error):
            one.kill()


def _keep_stacks(process: psutil.Process, answer: Path, stacks: Path) -> None:
    """Ask a kernel for its stacks, which it writes into its private folder, and add them to `stacks`."""
    with contextlib.suppress(psutil.Error, OSError):
        status = process.status()
        text = _asked(process, answer) or f"It gave no stacks; its process was {status}.\n"
        tell(stacks, f"The kernel, process {process.pid}, {status}\n{text}")


def _asked(process: psutil.Process, answer: Path) -> str:
    """The stacks of all threads of a kernel; "" where it gives none."""
    if ASK is None or not answer.exists():
        return ""
    before = answer.stat().st_size
    process.send_signal(ASK)
    size, end = before, time.monotonic() + WRITING
    while time.monotonic() < end:
        time.sleep(min(0.2, WRITING / 5))
        size, last = answer.stat().st_size, size
        if before < size == last:  # all is written
            break
    return answer.read_bytes()[before:].decode("utf-8", "replace")

