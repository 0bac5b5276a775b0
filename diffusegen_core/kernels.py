"""How a chapter's kernel is spoken to: through a folder that nobody else can open.

By default Jupyter's kernels listen on ports of the machine, which every user of it can reach, and which two
kernels that start at once may both choose. A socket in a folder has neither fault. One port is left, of
ipykernel's own, on which processes forked from the kernel send what they print; it takes text alone, with a
key.

In the folder the kernel also says which process it is, and writes its stacks there when it gets a signal:
see watchdog.
"""

import faulthandler
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq
from IPython import get_ipython
from traitlets.config import Config

from diffusegen_core.config.environment import environment
from diffusegen_core.parallel.pauses import outlive
from diffusegen_core.parallel.progress import KERNEL

STACKS = "stacks"  # the file that they are written to
PROCESS = "process"  # the file with the kernel's number
ASK = getattr(signal, "SIGUSR1", None)  # the signal at which it writes its stacks; None: there is none here
CLIENT = {"NotebookClient": {
    # At the first, else a chapter that is interrupted ends with a traceback of the kernel's own.
    # Modules that lie in the working directory, as in a folder that a stranger has packed, are nobody's.
    "extra_arguments": ["--IPKernelApp.log_level=CRITICAL", "--InteractiveShellApp.ignore_cwd=True",
                        "--IPKernelApp.exec_lines=__import__('diffusegen_core.kernels').kernels.answer()"],
    "iopub_timeout": 60}}  # seconds from a cell's result to its last output, which on a busy machine may lag
# Seconds in which an interrupted kernel may write what it has reached; after half of them it is told to end.
ENDING = {"shutdown_wait_time": 30.0}
START = 300  # seconds in which a kernel must have started
STARTING = "Kernel d"  # begins what its client says of one that did not: it "died" or "didn't respond"
PREFIX = "diffusegen-"  # of the folder's name
LONGEST = 90  # bytes of a socket's path; systems take a little more, of which the kernel adds "-1" and so on


@contextmanager
def private() -> Iterator[Path]:
    """A folder that nobody else can open, for as long as a kernel needs it; the environment tells it."""
    with (tempfile.TemporaryDirectory(prefix=PREFIX, dir=_short(), ignore_cleanup_errors=True) as folder,
          environment({KERNEL: folder})):  # the folder's mode is 0700
        yield Path(folder)


def _short() -> str | None:
    """A folder for temporary ones whose path leaves room for a socket's name; None where the usual one has to
    do."""
    spare = LONGEST - len(PREFIX) - len("/12345678/kernel")
    places = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")
    return next((place for place in places if os.path.isabs(place) and len(os.fsencode(place)) < spare
                 and os.access(place, os.W_OK | os.X_OK)), None)


def settings(folder: Path) -> Config:
    """The settings of a kernel that is spoken to through a private folder.

    Where there are no such sockets, or the folder has too long a path for them, it listens on the
    machine's own ports, encrypted if the library can do so.
    """
    place = folder / "kernel"
    if zmq.has("ipc") and os.name == "posix" and len(os.fsencode(place)) <= LONGEST:
        # What passes through the folder needs no encryption, of which a kernel would warn.
        return Config({"KernelManager": {**ENDING, "transport": "ipc", "ip": str(place),
                                         "transport_encryption": "disabled"}, **CLIENT})
    encryption = "auto" if zmq.has("curve") else "disabled"
    return Config({"KernelManager": {**ENDING, "transport_encryption": encryption}, **CLIENT})


def answer() -> None:
    """In the kernel, before its first cell: write the stacks of all threads whenever the signal comes, and
    print nothing of an interrupt.

    The interpreter's own handler writes them, even where a library never gives the interpreter back. Of an
    interruption no traceback is shown, for which there may be no time, and nobody who looks.
    """
    _draw_quietly()
    if folder := os.environ.get(KERNEL):
        if shell := get_ipython():
            shell.set_custom_exc((KeyboardInterrupt,), lambda *told, **how: None)
        try:
            _present(Path(folder))
        except OSError as error:  # a kernel that nobody can watch is worse than none
            os.write(2, f"diffusegen: {folder}: {error.strerror}\n".encode())
            os._exit(1)


def _present(folder: Path) -> None:
    """Say which process this is, answer the signal that asks for stacks, and outlive those that end all
    processes of a job or a terminal: the command, which gets them too, interrupts its kernel, and this one
    then keeps what it has reached."""
    if ASK is not None:
        stacks = (folder / STACKS).open("w", encoding="utf-8")
        faulthandler.register(ASK, stacks, all_threads=True, chain=False)
    (folder / PROCESS).write_text(f"{os.getpid()}\n", encoding="utf-8")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, outlive)


def _draw_quietly() -> None:
    """Ctrl-C reaches a kernel as well as the command that waits for it and ends. After a cell, when its
    figures are drawn, IPython would print a traceback of its own."""
    from matplotlib_inline import backend_inline  # by which it draws for this kernel from now on
    draw = backend_inline.flush_figures

    def quietly() -> None:
        with suppress(KeyboardInterrupt):
            draw()

    backend_inline.flush_figures = quietly
    if shell := get_ipython():
        after = shell.events.callbacks["post_execute"]
        after[:] = [quietly if one is draw else one for one in after]
