"""Loaded by a soak into every process of a run, to make something go wrong at a chosen write.

Python imports this module by itself when its folder is on PYTHONPATH. Over all processes it counts renames
into the run's folder, by which all finished files and folders get there. The folder that SOAK names has
`count`, a byte for each rename so far; `writes`, their target paths; `aim.json`, what is to happen at which
rename, and what "then"; `struck.json`, what has happened, and what "first"; `full` and `clock`, while the
disk is full and the clock is wrong.
Where SOAK_DISK names a small disk of the run's own, that disk is really filled, by a file `filler`.
"""

import contextlib
import errno
import json
import os
import re
import signal
import time
from pathlib import Path

SOAK, RUN = Path(os.environ.get("SOAK", "/nonexistent")), os.path.abspath(os.environ.get("SOAK_RUN", ""))
DISK = os.environ.get("SOAK_DISK", "")
PASSING = ".diffusegen-writing"  # files that live as long as a command, such as its progress
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM,
           "interrupt": signal.SIGINT}
TELLS = {"kernel": "ipykernel", "worker": "spawn_main"}  # what a process's command line contains


def install() -> None:
    """Replace the system's functions by this module's, for as long as the process lives."""
    for name in ("rename", "replace"):
        setattr(os, name, watched(getattr(os, name)))
    opening, now, now_ns = os.open, time.time, time.time_ns

    def open_if_room(path, flags, *rest, **more):  # type: ignore[no-untyped-def]
        if flags & os.O_CREAT and (SOAK / "full").exists() and inside(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return opening(path, flags, *rest, **more)
    os.open = open_if_room
    time.time = lambda: now() + wrong()
    time.time_ns = lambda: now_ns() + int(1e9 * wrong())


def watched(real):  # type: ignore[no-untyped-def]
    """The same rename, but counted; before and after it something may happen."""
    def renamed(source, target, **more):  # type: ignore[no-untyped-def]
        if not inside(target) or os.path.basename(os.fspath(target)).startswith(PASSING):
            return real(source, target, **more)
        number = counted()
        if (SOAK / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        path = os.path.relpath(os.fspath(target), RUN)
        strike(number, "before", path)
        result = real(source, target, **more)
        appended("writes", f"{path}\n".encode())
        strike(number, "after", path)
        return result
    return renamed


def inside(path: object) -> bool:
    return isinstance(path, (str, os.PathLike)) and os.path.abspath(os.fspath(path)).startswith(RUN + os.sep)


def counted() -> int:
    """Count a rename; its number, from 1."""
    return appended("count", b".")


def appended(name: str, content: bytes) -> int:
    """Append to a file of SOAK, as all processes do; its length afterwards."""
    handle = os.open(SOAK / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, content)
        return os.lseek(handle, 0, os.SEEK_CUR)
    finally:
        os.close(handle)


def wrong() -> float:
    """By how many seconds the clock is wrong."""
    try:
        return float((SOAK / "clock").read_text())
    except (OSError, ValueError):
        return 0.0


def strike(number: int, when: str, path: str) -> None:
    """Strike if the aimed number is reached or the path is of the aimed kind; only one process does, once."""
    try:
        aim = json.loads((SOAK / "aim.json").read_text())
        aimed = number >= aim["at"] or re.fullmatch(aim.get("like") or "-", path)
        if not aimed or when != aim["when"]:
            return
        os.unlink(SOAK / "aim.json")
    except (OSError, ValueError):
        return
    victims = [os.getpid()] if aim["victim"] == "self" else those(aim["victim"])
    told = {**aim, "number": number, "path": path, "writer": os.getpid(), "victims": victims}
    if then := told.pop("then", None):
        (SOAK / "aim.json").write_text(json.dumps({**told, "like": "", "at": number + then["after"], **then}))
    with contextlib.suppress(OSError, ValueError):
        told["first"] = json.loads((SOAK / "struck.json").read_text())
    (SOAK / "struck.json").write_text(json.dumps(told))
    if aim["fault"] == "full" and DISK:
        fill(aim["room"])
        return
    if aim["fault"] == "full":
        (SOAK / "full").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    if aim["fault"] == "clock":
        (SOAK / "clock").write_text(str(aim["seconds"]))
        return
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[aim["fault"]])


def fill(room: int) -> None:
    """Fill the run's disk but for so many bytes."""
    path = Path(DISK, "filler")
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as f:
        while True:
            f.write(bytes(1 << 20))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    os.truncate(path, max(0, path.stat().st_size - room))


def those(victim: str) -> list[int]:
    """The process id of the command, or of its first kernel or worker; an empty list if there is none."""
    command = int((SOAK / "command").read_text())
    if victim == "command":
        return [command]
    for pid in sorted(below(command)):
        with contextlib.suppress(OSError):
            if TELLS[victim] in Path(f"/proc/{pid}/cmdline").read_text():
                return [pid]
    return []


def below(pid: int) -> list[int]:
    """The ids of all descendants of a process."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                found += [int(child), *below(int(child))]
    return found


if SOAK.is_dir():
    install()
