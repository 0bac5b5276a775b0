"""One input of the fuzz in a cage: a forked child runs the command line's own `main` on it, with limits, and
is judged by what it leaves behind.

The parent has imported everything and computed nothing, so that a child starts at once and in a fresh state.
Memory is how far the peak resident set, of the child or of a process it started, rises above the child's at
its start; time leaves out waiting for a processor that others hold.
"""

import contextlib
import ctypes
import faulthandler
import gc
import hashlib
import importlib.util
import io
import os
import resource
import shutil
import signal
import socket
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzzjudge
import psutil

GUARD = 1 << 30  # bytes above the judged limit at which allocations fail, to protect the machine
DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG
PROGRAMS = {"sbatch", "squeue", "scancel"}  # that the command may start, besides its own Python
INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE")
# Audit events that change a file or folder without opening it.
CHANGING = {"os.remove", "os.rename", "os.link", "os.rmdir", "os.chmod", "os.chown", "os.truncate"}
UNSAFE = {"os", "posix", "nt", "subprocess", "builtins", "__builtin__", "shutil", "runpy", "webbrowser",
          "commands"}


@dataclass(frozen=True)
class Special:
    """What is put at a path instead of given bytes: a "link" to `text`, a "fifo", a "folder", a "sparse" file
    of `size` bytes, or "kept", the prepared file `text`."""

    kind: str
    text: str = ""
    size: int = 0


@dataclass(frozen=True)
class Case:
    """An input: the words of a command, and the files in its working folder."""

    family: str
    argv: tuple[str, ...]
    files: dict[str, bytes | Special] = field(default_factory=dict)
    run: bool = False
    """Whether a finished run lies at `run`."""
    restamped: tuple[str, ...] = ()
    """Files of the run whose stamps are rewritten to match them, as in a stranger's run."""
    writes: tuple[str, ...] = ()
    """What the command may write in its working folder."""

    @property
    def digest(self) -> str:
        told = repr((self.family, self.argv, sorted(self.files.items()), self.run, self.restamped))
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What came of an input. `faults` has a line for each fault, without details that vary between inputs."""

    faults: list[str]
    code: int
    seconds: float
    bytes: int
    output: str


def tried(case: Case, base: Path, box: Path) -> Outcome:
    """Run a case in the folder `box`, made anew; `base` has the run and the files of `Special("kept")`."""
    shutil.rmtree(box, ignore_errors=True)
    prepare(case, base, box)
    before = fuzzjudge.listing(box)
    output, measured, heard, modules = (box.parent / f"{box.name}.{name}"
                                        for name in ("output", "peak", "heard", "modules"))
    for path in (output, measured, heard, modules):
        path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _live(case, box, output, measured, heard, modules)
    code, seconds, hung = fuzzjudge.waited(child)
    _learn(modules)
    text = output.read_bytes().decode("utf-8", "replace") if output.exists() else ""
    peak = int(measured.read_text() or 0) if measured.exists() else 0
    faults = fuzzjudge.judged(code, hung, peak, text)
    faults += sorted(set(heard.read_text().splitlines())) if heard.exists() else []
    faults += fuzzjudge.strays(before, fuzzjudge.listing(box), case.writes)
    return Outcome(faults, code, seconds, peak, text)


def prepare(case: Case, base: Path, box: Path) -> None:
    """Make the folder of a case: `work`, where the command runs, `home`, `tmp` and somebody's letter."""
    for name in ("work", "home", "tmp", "precious"):
        (box / name).mkdir(parents=True)
    (box / "precious" / "letter").write_text("dear")
    (box / "work" / "notebooks").mkdir()
    (box / "work" / "_config.yml").touch()  # so that relative paths start here, as in a checkout
    if case.run:
        shutil.copytree(base / "run", box / "work" / "run", symlinks=True)
    for name, content in case.files.items():
        path = box / "work" / name
        with contextlib.suppress(OSError, ValueError):  # a name that the system refuses
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
    """Rewrite the stamp above a file of a run to match the file, as anyone who passes a run on could."""
    from diffusegen_core.store import files, stamps
    for folder in path.parents:
        stamp = files.read_json(folder / stamps.STAMP)
        if isinstance(stamp, dict) and path.is_file():
            name = path.relative_to(folder).as_posix()
            if name in stamp["outputs"]:
                stamp["outputs"][name] = stamps.described(path)
                (folder / stamps.STAMP).write_text(files.json.dumps(stamp))
            return


def _learn(modules: Path) -> None:
    """Import what a child has imported, to spare the next ones: torch's compiler alone takes seconds."""
    for name in modules.read_text().split() if modules.exists() else ():
        package = name.split(".")[0]
        try:
            spec = importlib.util.find_spec(package)
        except ValueError:  # a module that a library has made as it was imported
            continue
        if package in sys.stdlib_module_names or (spec and "site-packages" in str(spec.origin)):
            with contextlib.suppress(Exception):  # what a child could import may need its input
                importlib.import_module(name)


# ---- the child

def _live(case: Case, box: Path, output: Path, measured: Path, heard: Path, modules: Path) -> None:
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
        start, known = _memory("VmRSS"), set(sys.modules)
        limit = _memory("VmData") + fuzzjudge.BYTES + GUARD
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _listen(box, heard)
        code = _commanded(case.argv)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        measured.write_text(str(max(_memory("VmHWM") - start, children - start)))
        modules.write_text("\n".join(name for name in sys.modules if name not in known))
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
    nowhere = "http://127.0.0.1:9"  # nothing listens there: connections are refused at once
    os.environ.update(kept, HOME=str(box / "home"), TMPDIR=str(box / "tmp"), HTTP_PROXY=nowhere,
                      HTTPS_PROXY=nowhere,
                      http_proxy=nowhere, https_proxy=nowhere, TERM="dumb", COLUMNS="200")
    import tempfile
    tempfile.tempdir = None


def _memory(name: str) -> int:
    """A value of this process's status, in bytes."""
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(f"{name}:"))


def _full(path: str | bytes) -> str:
    return os.path.abspath(os.fsdecode(path))


def _listen(box: Path, heard: Path) -> None:
    """Note Python's audit events of programs, connections, unsafe classes and files written elsewhere."""
    notes = os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    home = os.fspath(box) + os.sep
    allowed = (home, os.fspath(box.parent), "/dev/", "/proc/self/")
    own = {sys.executable, os.path.realpath(sys.executable)}
    here = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}

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
        elif event in CHANGING:
            for path in arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]:
                if isinstance(path, str | bytes) and not _full(path).startswith(allowed):
                    note(f"{event} elsewhere: {Path(os.fsdecode(path)).name[:60]}")
        elif event == "socket.connect" and arguments[0].type == socket.SOCK_STREAM and isinstance(
                arguments[1], tuple) and arguments[1][0] not in {*here, "localhost"}:
            note("connected to another machine")  # datagrams do not count: Dask asks for its address by one

    sys.addaudithook(hook)
