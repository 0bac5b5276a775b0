"""One work item in several processes of this machine at once, each with a card, or a share of the processor.

The process that has the item starts the others, listens to them, and ends them all at the first error of one,
when one is killed, and when it ends itself, in whatever way. They meet through a file in a private folder and
speak over loopback. Only the first of them, of rank 0, writes files and reports progress.
"""

import contextlib
import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.parallel import progress

# By -c, so that no module is loaded twice. At a job's end Slurm sends SIGTERM to all its processes: these
# ignore it and end with their worker, which is replaced, so that the item does not fail.
PROGRAM = ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
           "from diffusegen_core.parallel import ranks; ranks.main()")
PATIENCE = timedelta(hours=1)  # how long one waits for another, which may be drawing sample grids
GRACE = 3.0  # seconds to collect the others' errors as well, of which the first is raised
LOOPBACK = ("lo", "lo0")  # as Linux and macOS call it
# What torch says, in whatever kind of error, when another process is gone.
LOST = re.compile(r"gloo|nccl|process ?group|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
Message = dict[str, Any]


@dataclass(frozen=True)
class Share:
    """One process's share of the work that `of` processes do together."""

    rank: int = 0
    of: int = 1

    @property
    def writes(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Which of `count` rows are its own; the processes' numbers of rows differ by at most one."""
        return slice(count * self.rank // self.of, count * (self.rank + 1) // self.of)


ALONE = Share()
REAPED = 30.0  # seconds within which a process that was killed is gone


def together(work: Callable[..., object], arguments: dict[str, Any], places: Sequence[str], title: str,
             total: float, unit: str) -> None:
    """Call work(share, place, **arguments) in a process for each place, such as "cuda:1" or "cpu"; return
    when the first process is done.

    torch.distributed is initialised in each. What the first one shows and logs is shown and logged here, its
    bar as one of `total` units. Raises the first error of any of them: a UserError as it was raised there,
    another as a RuntimeError with its message; UserError if one was killed.
    """
    processes: list[subprocess.Popen[bytes]] = []
    heard: SimpleQueue[tuple[int, Message | None]] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="diffusegen-", ignore_cleanup_errors=True) as folder:
        try:
            for rank, place in enumerate(places):
                processes.append(_started(len(places), Path(folder, str(rank))))
                told = pickle.dumps((work, arguments, Share(rank, len(places)), place, Path(folder, "store"),
                                     logging.getLogger().level))
                threading.Thread(target=_listen, daemon=True,
                                 args=(processes[rank], rank, pickle.dumps(told), heard)).start()
            failed = _follow(processes, heard, title, total, unit)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                _ended(process)
                with contextlib.suppress(OSError):  # it holds what the process never read
                    process.stdin.close() if process.stdin else None
        if failed:
            raise _cause(failed, places, title, Path(folder))


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """The exit status of a process that is ending; one that no signal can end counts as killed."""
    try:
        return process.wait(REAPED)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def _started(count: int, errors: Path) -> "subprocess.Popen[bytes]":
    """Start one of the processes, which waits to be told what to do. Ctrl-C and a closed terminal reach it
    only through this process."""
    loopback = [name for _, name in socket.if_nameindex() if name in LOOPBACK]
    threads = str(max(1, torch.get_num_threads() // count))
    environment = {**os.environ, **dict.fromkeys(devices.THREADS, threads),
                   **{f"{name}_SOCKET_IFNAME": loopback[0] for name in ("GLOO", "NCCL") if loopback},
                   "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with errors.open("wb") as file:
        return subprocess.Popen([sys.executable, "-P", "-c", PROGRAM], stdin=subprocess.PIPE, stderr=file,
                                stdout=subprocess.PIPE, env=environment, start_new_session=True)


def _listen(process: "subprocess.Popen[bytes]", rank: int, told: bytes,
            heard: "SimpleQueue[tuple[int, Message | None]]") -> None:
    """Tell a process what to do, and pass on its messages, then None at its end. Its stdin stays open."""
    assert process.stdin, "it is a pipe"
    assert process.stdout, "so is this"
    with contextlib.suppress(OSError):  # it has ended
        process.stdin.write(told)
        process.stdin.flush()
    with process.stdout as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # a line that was cut off
                heard.put((rank, json.loads(line)))
    heard.put((rank, None))


def _follow(processes: "list[subprocess.Popen[bytes]]", heard: "SimpleQueue[tuple[int, Message | None]]",
            title: str, total: float, unit: str) -> dict[int, Message]:
    """Show what the processes report until the first is done, and return {}; or their failures, by rank."""
    failed: dict[int, Message] = {}
    stop: float | None = None
    with _shown(title, total, unit) as show:
        while len(failed) < len(processes):
            try:
                rank, message = heard.get(timeout=None if stop is None else max(0.0, stop - time.monotonic()))
            except Empty:
                break
            if message is None:
                failed.setdefault(rank, {"code": _ended(processes[rank])})
            elif "error" in message:
                failed[rank] = message
            elif "done" not in message:
                show(message)
            elif rank == 0:
                return {}
            if failed and stop is None:
                stop = time.monotonic() + GRACE
    return failed


@contextlib.contextmanager
def _shown(title: str, total: float, unit: str) -> Iterator[Callable[[Message], None]]:
    """A function that shows in this process what the first one reports: its bar, log lines, things to see."""
    bars: list[tqdm] = []

    def show(message: Message) -> None:
        if "look" in message:
            name, folder = message["look"]
            progress.show(name, Path(folder))
        elif "log" in message:
            name, level, text = message["log"]
            logging.getLogger(name).log(level, "%s", text)
        else:
            done = message["share"] * total
            if not bars:
                bars.append(progress.bar(title, total, unit, message["began"] * total))
            bars[0].set_postfix_str(message["note"], refresh=False)
            bars[0].update(done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _cause(failed: dict[int, Message], places: Sequence[str], title: str, folder: Path) -> Exception:
    """The error that came first. Errors about lost processes rank last, since they follow from another
    failure; just before them rank processes that ended without a message."""
    def order(rank: int) -> tuple[int, float]:
        message = failed[rank]
        return (1, 0.0) if "code" in message else (2 if message["lost"] else 0, message["at"])

    rank = min(failed, key=order)
    message, who = failed[rank], f"process {rank + 1} of {len(places)} ({places[rank]})"
    if message.get("readable"):
        return UserError(message["error"])
    if "error" in message:
        error = RuntimeError(f"{title}, {who}: {message['kind']}: {message['error']}")
        error.add_note(message["trace"])
        return error
    if message["code"] == -signal.SIGKILL:
        return UserError(f"{title}: {who} was killed (SIGKILL), perhaps for lack of memory; the same command "
                         "goes on from the last checkpoint.")
    last = (folder / str(rank)).read_text(errors="replace").strip().rpartition("\n")[2]
    return RuntimeError(f"{title}, {who}: it ended with code {message['code']}. {last}".rstrip())


# ---- within one of the processes

def main() -> None:
    """Main function of each process: do what the starter's pipe asks for, and report how it went."""
    # Messages have the original stdout to themselves: what libraries print goes to stderr.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: Message) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        told = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_the_starter, daemon=True).start()
        work, arguments, share, place, store, level = pickle.loads(told)  # its imports take seconds
        if share.writes:
            progress.starter.set(send)
            logging.basicConfig(level=level, handlers=[_Sent(send)])
        _join(share, torch.device(place), store)
        work(share, place, **arguments)
    except BaseException as error:
        send({"error": str(error), "kind": type(error).__name__, "readable": isinstance(error, UserError),
              "lost": isinstance(error, RuntimeError) and bool(LOST.search(str(error))),
              "at": time.monotonic(), "trace": traceback.format_exc()})
        os._exit(1)  # at once: the others may never answer
    send({"done": True})
    if not share.writes:
        threading.Event().wait()  # the first may still be writing; all end with it
    os._exit(0)


def _end_with_the_starter() -> None:
    """End this process when its stdin is closed, which also happens when the starter has ended."""
    sys.stdin.buffer.read()
    os._exit(1)


def _join(share: Share, device: torch.device, store: Path) -> None:
    """Join the group of processes."""
    cards = device.type == "cuda"
    if cards:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cards and dist.is_nccl_available() else "gloo", timeout=PATIENCE,
                            init_method=f"file://{store}", rank=share.rank, world_size=share.of)


class _Sent(logging.Handler):
    """Sends log lines to the process that started this one, which shows them."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send({"log": [record.name, record.levelno, record.getMessage()]})
