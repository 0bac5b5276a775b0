"""Communication with a chapter's kernel, through a folder that nobody else can open.

By default Jupyter's kernels listen on ports of the machine, which all its users can reach, and which two
kernels that start at once may both choose. A socket in a folder has neither fault. One port of ipykernel's
own is left, to which processes forked from the kernel send what they print; it takes only text, with a key.

The kernel also writes its process id into the folder, and its stacks when it gets a signal: see watchdog.
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
from jupyter_client.asynchronous.client import AsyncKernelClient
from traitlets.config import Config

from diffusegen_core.config.environment import environment
from diffusegen_core.parallel.pauses import outlive
from diffusegen_core.parallel.progress import KERNEL

STACKS = "stacks"  # the file that the kernel's stacks are written to
PROCESS = "process"  # the file with the kernel's process id
ASK = getattr(signal, "SIGUSR1", None)  # the signal at which it writes its stacks; None: this system has none
CLIENT = {"NotebookClient": {
    # Without the log level, an interrupted chapter ends with a traceback of the kernel's own.
    # Modules in the working directory are not imported: it may be a folder that a stranger has packed.
    "extra_arguments": ["--IPKernelApp.log_level=CRITICAL", "--InteractiveShellApp.ignore_cwd=True",
                        "--IPKernelApp.exec_lines=__import__('diffusegen_core.kernels').kernels.answer()"],
    "iopub_timeout": 60}}  # seconds from a cell's result to its last output, which on a busy machine may lag
# Seconds in which an interrupted kernel may write what it has reached; after half of them it is told to end.
ENDING = {"shutdown_wait_time": 30.0}
START = 300  # seconds within which a kernel must have started
PREFIX = "diffusegen-"  # of the folder's name
LONGEST = 90  # most bytes of a socket's path; systems allow a few more, and the kernel appends "-1" and so on


class NotStartedError(RuntimeError):
    """A kernel died, or did not answer, before its first cell."""


class Client(AsyncKernelClient):
    """Jupyter's own, with an error of its own type for a kernel that did not start."""

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        try:
            await super().wait_for_ready(timeout)
        except RuntimeError as error:
            raise NotStartedError(str(error)) from None


@contextmanager
def private() -> Iterator[Path]:
    """A folder that nobody else can open, for as long as a kernel needs it; the environment names it."""
    with (tempfile.TemporaryDirectory(prefix=PREFIX, dir=_short(), ignore_cleanup_errors=True) as folder,
          environment({KERNEL: folder})):  # the folder's mode is 0700
        yield Path(folder)


def _short() -> str | None:
    """A parent of temporary folders whose path leaves room for a socket's name; None if the usual one has to
    do."""
    spare = LONGEST - len(PREFIX) - len("/12345678/kernel")
    places = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")
    return next((place for place in places if os.path.isabs(place) and len(os.fsencode(place)) < spare
                 and os.access(place, os.W_OK | os.X_OK)), None)


def settings(folder: Path) -> Config:
    """The settings of a kernel that is spoken to through a private folder.

    If the system has no such sockets, or the folder's path is too long for them, the kernel listens on the
    machine's ports, encrypted if the library can do so.
    """
    place = folder / "kernel"
    manager = {**ENDING, "client_factory": Client}
    if zmq.has("ipc") and os.name == "posix" and len(os.fsencode(place)) <= LONGEST:
        # What passes through the folder needs no encryption, and disabling it avoids a warning.
        return Config({"KernelManager": {**manager, "transport": "ipc", "ip": str(place),
                                         "transport_encryption": "disabled"}, **CLIENT})
    encryption = "auto" if zmq.has("curve") else "disabled"
    return Config({"KernelManager": {**manager, "transport_encryption": encryption}, **CLIENT})


def answer() -> None:
    """Prepare the kernel, before its first cell, to write the stacks of all threads whenever the signal
    comes, and to print nothing of an interrupt.

    The interpreter's own handler (faulthandler) writes them, even while a library does not release the GIL.
    An interruption shows no traceback: there may be no time for it, and nobody looks.
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
    """Write the process id, answer the signal that asks for stacks, and outlive the signals that end all
    processes of a job or a terminal: the command gets them too and interrupts this kernel, which then keeps
    what it has reached."""
    if ASK is not None:
        stacks = (folder / STACKS).open("w", encoding="utf-8")
        faulthandler.register(ASK, stacks, all_threads=True, chain=False)
    (folder / PROCESS).write_text(f"{os.getpid()}\n", encoding="utf-8")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, outlive)


def _draw_quietly() -> None:
    """Ignore Ctrl-C while the figures of a cell are drawn, where IPython would print a traceback of its own.
    It reaches the kernel as well as the command that waits for it, and the command ends."""
    from matplotlib_inline import backend_inline  # which, once imported, draws for this kernel
    draw = backend_inline.flush_figures

    def quietly() -> None:
        with suppress(KeyboardInterrupt):
            draw()

    backend_inline.flush_figures = quietly
    if shell := get_ipython():
        after = shell.events.callbacks["post_execute"]
        after[:] = [quietly if one is draw else one for one in after]
