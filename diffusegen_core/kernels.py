"""How a chapter's kernel is spoken to: through sockets in a folder that nobody else can open.

By default Jupyter's kernels listen on ports of the machine, which every user of it can reach, and which two
kernels that start at once may both choose. A socket in a folder has neither fault. One port is left, of
ipykernel's own, on which processes forked from the kernel send what they print; it takes text alone, with a
key.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from traitlets.config import Config

# Else a chapter that is interrupted ends with a traceback of the kernel's own.
QUIET = {"NotebookClient": {"extra_arguments": ["--IPKernelApp.log_level=CRITICAL"]}}
LONGEST = 90  # bytes of a socket's path; systems take a little more, of which the kernel adds "-1" and so on


@contextmanager
def private() -> Iterator[Config]:
    """The settings of a kernel that nobody else can reach, for as long as it is needed.

    Where there are no such sockets, or every temporary folder has too long a path for them, it listens on the
    machine's own ports, encrypted if the library can do so.
    """
    with tempfile.TemporaryDirectory(prefix="diffusegen-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "kernel"  # the folder's mode is 0700
        if zmq.has("ipc") and os.name == "posix" and len(os.fsencode(place)) <= LONGEST:
            # What passes through the folder needs no encryption, of which a kernel would warn.
            yield Config({"KernelManager": {"transport": "ipc", "ip": str(place),
                                            "transport_encryption": "disabled"}, **QUIET})
        else:
            encryption = "auto" if zmq.has("curve") else "disabled"
            yield Config({"KernelManager": {"transport_encryption": encryption}, **QUIET})
