"""One input of the fuzz in a cage: a forked child runs the command line's own `main` on it, with limits, and
is judged by what it leaves.

The parent has imported everything and computed nothing, so that a child starts at once and is as new. Memory
is what a child's resident set grows by at most above that of its parent; time is what the child could have
computed: the waiting for a processor that others hold is taken off.
"""

import contextlib
import ctypes
import faulthandler
import gc
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS, BYTES = 30.0, 2 << 30  # that an input may take
GUARD = 1 << 30  # bytes beyond these at which allocations fail, so that this machine lives on
DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG
CANARY = "pwned"  # the name of a file that planted payloads would write
PROGRAMS = {"sbatch", "squeue", "scancel"}  # that the command may start, beside its own Python
INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE")
# What libraries keep for themselves, in the home folder and that of temporary files.
CACHES = (".cache", ".config", ".local", ".ipython", ".jupyter", "torchinductor_")
UNSAFE = {"os", "posix", "nt", "subprocess", "builtins", "__builtin__", "shutil", "runpy", "webbrowser",
          "commands"}
OURS = re.compile(r'File "[^"]*(diffusegen_core/[^"]+)", line \d+, in (\S+)')
ERROR = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit|Bomb\w*|Group))\b", re.M)


@dataclass(frozen=True)
class Special:
    """What lies at a path that is no plain file: "link" to `text`, "fifo", "folder", "sparse" of `size`
    bytes, or "kept", a file `text` of the prepared ones."""

    kind: str
    text: str = ""
    size: int = 0


@dataclass(frozen=True)
class Case:
    """An input: the words of a command, and the files that it finds in its working folder."""

    family: str
    argv: tuple[str, ...]
    files: dict[str, bytes | Special] = field(default_factory=dict)
    run: bool = False
    """Whether a finished run lies at `run`."""
    restamped: tuple[str, ...] = ()
    """Of its files these are as its stamps say, as in a stranger's run."""
    writes: tuple[str, ...] = ()
    """What the command may write, in its working folder."""

    @property
    def digest(self) -> str:
        told = repr((self.family, self.argv, sorted(self.files.items()), self.run, self.restamped))
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What came of an input. `faults` has a line each, without what differs from input to input."""

    faults: list[str]
    code: int
    seconds: float
    bytes: int
    output: str


def tried(case: Case, base: Path, box: Path) -> Outcome:
    """Run a case in the folder `box`, made anew; `base` holds what `Special("kept")` and `run` name."""
    shutil.rmtree(box, ignore_errors=True)
    prepare(case, base, box)
    before = _listing(box)
    output, measured, heard = (box.parent / f"{box.name}.{name}" for name in ("output", "peak", "heard"))
    for path in (output, measured, heard):
        path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _live(case, box, output, measured, heard)
    code, seconds, hung = _waited(child)
    text = output.read_bytes().decode("utf-8", "replace") if output.exists() else ""
    peak = int(measured.read_text() or 0) if measured.exists() else 0
    faults = _judged(code, hung, peak, text)
    faults += sorted(set(heard.read_text().splitlines())) if heard.exists() else []
    faults += _strays(before, _listing(box), case.writes)
    return Outcome(faults, code, seconds, peak, text)


def prepare(case: Case, base: Path, box: Path) -> None:
    """The folder of a case: `work`, in which the command is given, `home`, `tmp` and somebody's letter."""
    for name in ("work", "home", "tmp", "precious"):
        (box / name).mkdir(parents=True)
    (box / "precious" / "letter").write_text("dear")
    (box / "work" / "notebooks").mkdir()
    (box / "work" / "_config.yml").touch()  # so that relative paths start here, as in a checkout
    if case.run:
        shutil.copytree(base / "run", box / "work" / "run", symlinks=True)
    for name, content in case.files.items():
        path = box / "work" / name
        with contextlib.suppress(OSError, ValueError):  # a name that the system does not take
            path.parent.mkdir(parents=True, exist_ok=True)
            _placed(path, content, base)
    for name in case.restamped:
        restamp(box / "work" / name)


def _placed(path: Path, content: bytes | Special, base: Path) -> None:
    if path.is_file() or path.is_symlink():
        path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content.kind == "link":
        path.symlink_to(content.text)
    elif content.kind == "fifo":
        os.mkfifo(path)
    elif content.kind == "folder":
        path.mkdir()
    elif content.kind == "sparse":
        path.touch()
        os.truncate(path, content.size)
    else:
        os.link(base / content.text, path)


def restamp(path: Path) -> None:
    """Make a file of a run what the stamp of its folder tells, as whoever passes a run on could."""
    from diffusegen_core.store import files, stamps
    for folder in path.parents:
        stamp = files.read_json(folder / stamps.STAMP)
        if isinstance(stamp, dict) and path.is_file():
            name = path.relative_to(folder).as_posix()
            if name in stamp["outputs"]:
                stamp["outputs"][name] = stamps.described(path)
                (folder / stamps.STAMP).write_text(files.json.dumps(stamp))
            return


# ---- the child

def _live(case: Case, box: Path, output: Path, measured: Path, heard: Path) -> None:
    """The child's whole life."""
    code = 70
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        into = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(into, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", 0, closefd=False), "utf-8",
                                                   "backslashreplace",
                                                   write_through=True) for n in (1, 2))
        faulthandler.enable(2)
        gc.callbacks.clear()  # hypothesis's
        _environment(box)
        os.chdir(box / "work")
        start = _memory("VmRSS")
        limit = _memory("VmData") + BYTES + GUARD
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _listen(box, heard)
        code = _commanded(case.argv)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        measured.write_text(str(max(_memory("VmHWM") - start, children - start)))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _commanded(argv: tuple[str, ...]) -> int:
    from diffusegen_core import cli
    sys.argv = ["diffusegen", *argv]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _environment(box: Path) -> None:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    os.environ.clear()
    nowhere = "http://127.0.0.1:9"  # nobody listens there: what asks the network is refused at once
    os.environ.update(kept, HOME=str(box / "home"), TMPDIR=str(box / "tmp"), HTTP_PROXY=nowhere,
                      HTTPS_PROXY=nowhere,
                      http_proxy=nowhere, https_proxy=nowhere, TERM="dumb", COLUMNS="200")
    import tempfile
    tempfile.tempdir = None


def _memory(name: str) -> int:
    """A line of this process's status, in bytes."""
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(f"{name}:"))


def _listen(box: Path, heard: Path) -> None:
    """Note what Python itself tells of programs, connections, strange classes and files written elsewhere."""
    notes = os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    home = os.fspath(box) + os.sep
    allowed = (home, os.fspath(box.parent), "/dev/", "/proc/self/")
    own = {sys.executable, os.path.realpath(sys.executable)}

    def note(text: str) -> None:
        os.write(notes, (" ".join(text.split())[:200] + "\n").encode("utf-8", "replace"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pty.spawn"):
            program = os.fsdecode(arguments[0] or "") if arguments[:1] != (None,) else str(arguments[1][0])
            if program not in own and os.path.basename(program) not in PROGRAMS:
                note(f"executed: {event} {os.path.basename(program)[:40]}")
        elif event == "pickle.find_class" and str(arguments[0]).split(".")[0] in UNSAFE:
            note(f"unpickled: {arguments[0]}.{arguments[1]}"[:80])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = arguments[0]
            if isinstance(path, str | bytes) and not os.path.realpath(os.fsdecode(path)).startswith(allowed):
                note(f"wrote elsewhere: {Path(os.fsdecode(path)).name.partition('-writing-')[0][:60]}")
        elif event == "socket.connect" and isinstance(arguments[1], tuple) and not str(
                arguments[1][0]).startswith(("127.", "::1", "localhost")):
            note("connected to another machine")

    sys.addaudithook(hook)


# ---- the judgement

def _waited(child: int) -> tuple[int, float, bool]:
    """The exit code of a child (negative: the signal), its seconds, and whether these were too many."""
    start, pause, waited = time.monotonic(), 0.002, 0.0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        with contextlib.suppress(OSError, ValueError, IndexError):
            waited = int(Path(f"/proc/{child}/schedstat").read_text().split()[1]) / 1e9
        if time.monotonic() - start - waited > SECONDS:
            os.kill(child, signal.SIGABRT)  # faulthandler tells where it is
            time.sleep(0.5)
            _end(child)
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status), SECONDS, True
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    _end(child)  # what it has started
    return code, max(0.0, time.monotonic() - start - waited), False


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _judged(code: int, hung: bool, peak: int, text: str) -> list[str]:
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


def _listing(box: Path) -> dict[str, tuple[Any, ...]]:
    """Every entry below a folder: what it is, and a file's size and hash."""
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


def _strays(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]],
            writes: tuple[str, ...]) -> list[str]:
    """What was written, changed or removed where it must not be, and the canary wherever it is."""
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
