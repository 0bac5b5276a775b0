"""A chapter whose kernel hangs is ended and started again; one that only waits is left alone."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import psutil
import pytest
from distributed import LocalCluster
from nbclient.exceptions import CellTimeoutError

from diffusegen_core import Run, kernels, notebooks, watchdog
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.parallel import fanout, progress, silence
from diffusegen_core.parallel.silence import Activity
from diffusegen_core.store import files

POSIX = pytest.mark.skipif(kernels.ASK is None, reason="there is no signal to ask a kernel with")
FIRST = """import os, pathlib, signal, threading
mark = pathlib.Path({mark!r})
first = not mark.exists()
mark.touch()"""
STOPPED = "if first:\n    os.kill(os.getpid(), signal.SIGSTOP)"
BLOCKED = "lock = threading.Lock()\nlock.acquire()\nlock.acquire()"
# The kernel does the cell's work and says that it is idle; that the cell is done is never heard.
LOST = """
session = get_ipython().kernel.session
send = session.send
if first:
    session.send = lambda stream, kind, *rest, **more: (
        session.msg(kind, *rest[:1]) if kind == "execute_reply" else send(stream, kind, *rest, **more))
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of minutes."""
    monkeypatch.setattr(silence, "SILENCE", 6.0)
    monkeypatch.setattr(silence, "LOOK", 0.3)
    monkeypatch.setattr(watchdog, "WRITING", 3.0)


@pytest.fixture
def execute(nano_params: params.Params, tmp_path: Path) -> Callable[..., Path]:
    """Executes a chapter of these cells in the run's folder."""
    def of(*sources: str) -> Path:
        cells = [nbformat.v4.new_code_cell("profile = ''\nchanges = None", metadata={"tags": ["parameters"]}),
                 nbformat.v4.new_code_cell(FIRST.format(mark=str(tmp_path / "mark"))),
                 *map(nbformat.v4.new_code_cell, sources)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "01_x.ipynb")
        return notebooks.execute(tmp_path / "01_x.ipynb", Run(nano_params))
    return of


def stacks(run: params.Params) -> str:
    return (run.folder / "notebooks" / "failed" / "01_x.stacks.txt").read_text()


# ---- kernels that hang

@POSIX
def test_a_kernel_that_is_stopped_is_told_and_its_chapter_made_by_the_second_try(
        execute: Callable[..., Path], nano_params: params.Params, impatient: None,
        capfd: pytest.CaptureFixture) -> None:
    page = execute("print('begun')", STOPPED, "print('made')")
    assert "made" in page.read_text()
    [line] = [one for one in capfd.readouterr().err.splitlines() if one.startswith("diffusegen: ")]
    assert line.startswith("diffusegen: 01_x: its process neither computed nor answered for ")
    assert line.endswith(f" ({nano_params.folder}/notebooks/failed/01_x.stacks.txt tells where). "
                         "It is started again.")
    assert "It gave no stacks; its process was stopped." in stacks(nano_params)
    failed = (nano_params.folder / "notebooks" / "failed" / "01_x.ipynb").read_text()
    assert "begun" in failed
    assert "made" not in failed.replace("print('made')", "")
    here = psutil.Process()
    assert not [one for one in here.children() if "ipykernel_launcher" in " ".join(one.cmdline())]


@POSIX
def test_a_chapter_that_hangs_twice_fails_in_one_line_and_both_its_stacks_are_kept(
        execute: Callable[..., Path], nano_params: params.Params, impatient: None) -> None:
    with pytest.raises(UserError, match=r"^01_x failed twice: its process neither computed nor answered for "
                                        r".*01_x\.stacks\.txt tells where\)\. Run the same command again "
                                        r"to continue\.$"):
        execute(BLOCKED)
    text = stacks(nano_params)
    assert text.count("The kernel, process ") == 2
    assert text.count("(most recent call first)") > 4  # all threads,
    assert "line 3 in <module>" in text  # and the line of the cell
    assert not list((nano_params.folder / "notebooks").glob("*.ipynb"))


@POSIX
def test_a_lost_reply_is_made_up_for_by_the_second_try(execute: Callable[..., Path],
                                                       nano_params: params.Params, impatient: None,
                                                       capfd: pytest.CaptureFixture) -> None:
    assert "made" in execute(LOST, "print('made')").read_text()
    assert "It is started again." in capfd.readouterr().err
    assert "select" in stacks(nano_params)  # where a kernel waits that has nothing to do


def test_what_goes_wrong_between_kernel_and_client_is_tried_again_once(
        execute: Callable[..., Path], nano_params: params.Params, monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture) -> None:
    faults: list[Exception] = []
    sign = nano_params.folder / "augment" / f"{files.WRITING}sign"  # by which workers know of it

    def failing(source: str, target: str, *_: object, **__: object) -> None:
        shutil.copy(source, target)
        if faults:
            files.write_text(sign, "")
            raise faults.pop()
        assert not sign.exists()
    monkeypatch.setattr(papermill, "execute_notebook", failing)
    for fault, says in (
            (kernels.NotStartedError("Kernel didn't respond in 300 seconds"),
             "its process did not start: Kernel didn't respond in 300 seconds"),
            (kernels.NotStartedError("Kernel died before replying to kernel_info"),
             "its process did not start: Kernel"),
            (CellTimeoutError("Timeout waiting for IOPub output"),
             "its process has not sent all the output of a cell")):
        faults[:] = [fault]
        assert execute().is_file()
        assert f"01_x: {says}" in capfd.readouterr().err
        faults[:] = [fault, fault]
        with pytest.raises(UserError, match=f"^01_x failed twice: {says}"):
            execute()
    sign.unlink()
    faults[:] = [RuntimeError("Kernel d")]  # of something else
    with pytest.raises(RuntimeError, match="Kernel d"):
        execute()


@POSIX
def test_where_the_command_itself_hangs_after_its_kernel_it_says_where_and_tries_again(
        execute: Callable[..., Path], nano_params: params.Params, impatient: None,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    real = papermill.execute_notebook

    def hanging(*arguments: object, **more: object) -> None:
        real(*arguments, **more)
        monkeypatch.setattr(papermill, "execute_notebook", real)
        time.sleep(600)
    monkeypatch.setattr(papermill, "execute_notebook", hanging)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        assert execute("print('made')").is_file()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "its process had ended, which went unnoticed for " in capfd.readouterr().err
    assert "in hanging" in stacks(nano_params)


def test_what_a_kernel_has_started_ends_with_it(tmp_path: Path) -> None:
    script = ("import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); "
              "print(); sys.stdout.flush(); import time; time.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"\n"
        process = psutil.Process(parent.pid)
        [child] = process.children()
        watchdog._kill(process)
        assert parent.wait(timeout=60) == -signal.SIGKILL
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # where nobody asks for it


def test_a_full_disk_does_not_keep_a_kernel_from_being_ended(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as kernel:
        (tmp_path / kernels.PROCESS).write_text(str(kernel.pid))
        dog = watchdog._Watchdog(tmp_path, tmp_path / "page", tmp_path / "file" / "stacks")
        dog._end(psutil.Process(kernel.pid), False, "5 min 0 s")
        assert kernel.wait(timeout=60) == -signal.SIGKILL
    assert "file/stacks could not be written: " in caplog.text


# ---- kernels that do not

WAITING = """import time
from diffusegen_core.parallel import fanout
if fanout.run(time.monotonic, [fanout.Item("a", None)], "Long"):
    print("done by" + " a worker")"""


def test_a_kernel_that_waits_for_a_worker_is_left_alone(
        execute: Callable[..., Path], nano_params: params.Params, impatient: None,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(Path.cwd())  # a worker changes it, and this one is here
    waited: list[float] = []
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
                      resources={"device": 1}, dashboard_address="127.0.0.1:0") as cluster:
        monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)

        def come() -> None:
            while not cluster.scheduler.tasks:
                time.sleep(0.1)
            began = time.monotonic()
            time.sleep(3 * silence.SILENCE)
            waited.append(time.monotonic() - began)
            cluster.scale(1)
        threading.Thread(target=come, daemon=True).start()
        page = execute(WAITING)
    assert waited[0] >= 18
    assert "done by a worker" in page.read_text()
    assert "It is started again" not in capfd.readouterr().err
    failed = nano_params.folder / "notebooks" / "failed"
    assert not failed.exists(), [path.read_text() for path in failed.iterdir()]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A private folder of a kernel, which is this process."""
    monkeypatch.setenv(progress.KERNEL, str(tmp_path))
    (tmp_path / kernels.PROCESS).write_text(str(os.getpid()))
    return tmp_path


def test_each_step_of_a_bar_and_each_look_at_workers_says_that_all_is_well(
        kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> Activity:
        return watchdog.look(psutil.Process(), [kernel / progress.ALIVE])
    before = said()
    with progress.bar("steps", 2, "step") as bar:
        bar.start_t -= 10
        bar.last_print_t -= 10
        bar.update()
    assert said().said != before.said
    before = said()
    os.utime(kernel / progress.ALIVE, ns=(0, 0))  # a clock that is put back is no silence
    assert Activity(said=said().said).follows(Activity(said=before.said))
    monkeypatch.delenv(progress.KERNEL)
    progress.alive()  # in JupyterLab nobody watches


def test_a_thread_that_cannot_print_does_not_wait_for_its_kernel() -> None:
    out, into = os.pipe()
    full = threading.Thread(target=os.write, args=(into, bytes(2**20)), daemon=True)  # as a stopped terminal
    with selectors.DefaultSelector() as selector, os.fdopen(out, "rb") as reader:
        waiting = threading.Thread(target=selector.select, args=(5,), daemon=True)
        for thread in (full, waiting):
            thread.start()
        time.sleep(1)
        seen = watchdog._awaits(full), watchdog._awaits(waiting)
        assert len(reader.read(2**20)) == 2**20
        full.join()
        waiting.join()
    os.close(into)
    assert seen == (False, True)


STILL = Activity(cpu=5.0, moved=100, said=(1, 2))


@pytest.mark.parametrize(("now", "lives"), [
    (STILL, False),
    (Activity(cpu=5.5, moved=200_000, said=(1, 2)), False),  # the threads of one that idles
    (Activity(cpu=6.1, moved=100, said=(1, 2)), True),
    (Activity(cpu=2.0, moved=100, said=(1, 2)), True),  # a process of it has ended
    (Activity(cpu=5.0, moved=2_000_000, said=(1, 2)), True),
    (Activity(cpu=5.0, moved=100, said=(1, 3)), True),
    (Activity(held=True, cpu=5.0, moved=100, said=(1, 2)), True),
    (Activity(gone=True), True),
])
def test_what_is_a_sign_of_life(now: Activity, lives: bool) -> None:
    assert now.follows(STILL) == lives


def hung_after(looks: list[tuple[float, Activity, bool]], monkeypatch: pytest.MonkeyPatch,
               kernel: Path) -> int | None:
    """After how many looks, each so many seconds after the one before, a kernel is taken to hang; it is seen
    like this, by a process that waits for it or does not."""
    clock, count, ended = [0.0], [0], []

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if count[0] == len(looks) or ended:
                return True
            clock[0] += looks[count[0]][0]
            count[0] += 1
            return False
    monkeypatch.setattr(silence, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(watchdog, "look", lambda *_: looks[count[0] - 1][1])
    monkeypatch.setattr(watchdog, "_awaits", lambda _: looks[count[0] - 1][2])
    dog = watchdog._Watchdog(kernel, kernel / "page", kernel / "stacks")
    monkeypatch.setattr(dog, "_end", lambda *_: ended.append(count[0]))
    dog.over = Over()
    dog.run()
    return ended[0] if ended else None


def test_only_time_that_passes_while_both_are_awake_counts(kernel: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def after(*looks: tuple[float, Activity, bool]) -> int | None:
        return hung_after(list(looks), monkeypatch, kernel)
    still, asleep = (5.0, STILL, True), (8 * 3600.0, STILL, True)
    assert after(*[still] * 100) == 61
    assert after(*[still] * 50, asleep, *[still] * 59) is None
    assert after(*[still] * 50, asleep, *[still] * 100) == 51 + 60
    assert after(*[(50.0, STILL, True)] * 100) == 1 + 20  # the machine stalls: 15 s of each count
    assert after(*[(5.0, STILL, False)] * 100) is None  # it cannot print, and asks the kernel for nothing
    assert after(*[(5.0, Activity(gone=True), False)] * 100) == 61
    computed = (5.0, Activity(cpu=99.0), True)
    assert after(*[still] * 60, computed, *[computed] * 59) is None
    (kernel / kernels.PROCESS).unlink()
    assert after(*[still] * 100) is None  # it is starting
