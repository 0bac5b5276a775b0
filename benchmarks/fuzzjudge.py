"""How the fuzz judges what an input did: by its time, its memory, what it printed, and the files it left."""

import contextlib
import hashlib
import os
import re
import signal
import time
import unicodedata
from pathlib import Path
from typing import Any

SECONDS, BYTES = 30.0, 2 << 30  # the most an input may take
MOST = 20  # times SECONDS by the clock end an input, however long it has waited for a processor
CANARY = "pwned"  # the name of a file that planted payloads would write
# What libraries keep for themselves in the home folder and in that of temporary files.
CACHES = (".cache", ".config", ".local", ".ipython", ".jupyter", "torchinductor_", "dask-scratch-space")
OURS = re.compile(r'File "[^"]*(diffusegen_core/[^"]+)", line \d+, in (\S+)')
ERROR = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit|Bomb\w*|Group))\b", re.M)


def waited(child: int) -> tuple[int, float, bool]:
    """Wait for a child: its exit code (negative: a signal), its seconds, and whether it took too long."""
    start, pause, off, looked = time.monotonic(), 0.002, 0.0, 0.0
    delays: dict[int, float] = {}
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        if (now := time.monotonic()) - looked > 0.5:
            looked, off = now, _delayed(child, delays)
        if time.monotonic() - start - off > SECONDS or time.monotonic() - start > MOST * SECONDS:
            os.kill(child, signal.SIGABRT)  # faulthandler prints where it is
            time.sleep(0.5)
            _end(child)
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status), SECONDS, True
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    _end(child)  # processes it has started
    return code, max(0.0, time.monotonic() - start - off), False


def _delayed(child: int, delays: dict[int, float]) -> float:
    """The seconds that a child has waited for a processor: the longest wait of any process of its session.
    `delays` keeps them by process, ended ones included."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if os.getsid(int(path.name)) == child:
                delays[int(path.name)] = int((path / "schedstat").read_text().split()[1]) / 1e9
    return max(delays.values(), default=0.0)


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def judged(code: int, hung: bool, peak: int, text: str) -> list[str]:
    where = OURS.findall(text)
    place = f" in {where[-1][0]}:{where[-1][1]}" if where else ""
    if hung:
        first = OURS.findall(text[text.find("Fatal Python error"):])
        return [f"hang{f' in {first[0][0]}:{first[0][1]}' if first else ''}"]
    faults = []
    if "MemoryError" in text or "Unable to allocate" in text or "can't allocate memory" in text:
        faults.append(f"memory ran out{place}")
    elif "Traceback (most recent call last)" in text:
        error = ERROR.findall(text)
        faults.append(f"traceback {error[-1] if error else ''}{place}")
    elif code < 0:
        faults.append(f"crash by signal {-code}{place}")
    elif code not in (0, 1, 2):
        faults.append(f"exit code {code}")
    elif code == 2 and "diffusegen: " not in text and "Usage: " not in text:
        faults.append("a refusal that says nothing")
    if peak > BYTES:
        faults.append(f"memory of {peak / 2**30:.0f} GiB")
    if any(unicodedata.category(c) == "Cc" and c not in "\n\r\t" for c in text):
        faults.append("control characters on the terminal")
    return faults


def listing(box: Path) -> dict[str, tuple[Any, ...]]:
    """Every entry below a folder: what it is, and of a file its size and hash, or its time if it is large."""
    found: dict[str, tuple[Any, ...]] = {}
    for parent, folders, names in os.walk(os.fsencode(box)):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            told = os.fsdecode(os.path.relpath(path, os.fsencode(box)))
            if os.path.islink(path):
                found[told] = "link", os.readlink(path)
            elif os.path.isfile(path):
                small = status.st_size < 1 << 22
                found[told] = "file", status.st_size, _hash(path) if small else status.st_mtime_ns
            else:
                found[told] = ("other",)
    return found


def _hash(path: bytes) -> str:
    try:
        with open(path, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()
    except OSError:
        return "unreadable"


def strays(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]],
            writes: tuple[str, ...]) -> list[str]:
    """What was written, changed or removed where it must not be, and the canary anywhere."""
    faults = set()
    for name in {*before, *after}:
        if before.get(name) == after.get(name):
            continue
        parts = Path(name).parts
        if CANARY in parts and name in after:
            faults.add("executed: a planted payload")
            continue
        inside = Path(*parts[1:]).as_posix() if parts[0] == "work" and len(parts) > 1 else None
        if inside is not None and any(inside == one or inside.startswith(f"{one}/")
                                      or one.startswith(f"{inside}/")
                                      for one in writes):
            continue
        if parts[0] in ("home", "tmp") and len(parts) > 1 and parts[1].startswith(CACHES):
            continue
        what = "removed" if name not in after else "changed" if name in before else "written"
        faults.add(f"{what} outside: {parts[0]}" if inside is None else f"{what} outside: work")
    return sorted(faults)
