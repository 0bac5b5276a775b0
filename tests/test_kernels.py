"""A chapter's kernel listens on no port, and its sockets lie where nobody else can open them."""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import pytest
import zmq

from diffusegen_core import kernels
from diffusegen_core.config.errors import UserError
from diffusegen_core.report import book
from diffusegen_core.store import files

ASKED = """
import json, psutil
from ipykernel.connect import get_connection_info
mine = psutil.Process()
ports = [one.laddr.port for one in mine.net_connections("inet") if one.status == psutil.CONN_LISTEN]
print(json.dumps({"ports": ports, "told": get_connection_info(unpack=True)["transport"],
                  "printing": [get_ipython().kernel.iopub_thread._pipe_port]}))
"""


DRAWN = """
import matplotlib.pyplot as plt
figure = plt.figure()
plt.plot([1, 2])
def interrupted(*args, **kwargs):
    print("drawing")
    raise KeyboardInterrupt
figure.canvas.print_figure = interrupted
"""


def execute(folder: Path, cell: str = ASKED) -> list[dict[str, Any]]:
    """The outputs of a cell, by default of what a kernel says of itself: how it is spoken to, its open ports,
    and that of ipykernel's for what forked processes print."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "in.ipynb")
    with kernels.private() as private:
        papermill.execute_notebook(str(folder / "in.ipynb"), str(folder / "out.ipynb"), kernel_name="python3",
                                   config=kernels.settings(private), progress_bar=False)
    return list(nbformat.read(folder / "out.ipynb", as_version=4).cells[-1].outputs)


def test_a_kernel_outlives_the_signals_that_end_a_job_and_what_it_starts_does_not(tmp_path: Path) -> None:
    cell = ("import os, signal, subprocess, time\n"
            "for one in (signal.SIGTERM, signal.SIGHUP):\n"
            "    os.kill(os.getpid(), one)\n"
            "    time.sleep(0.1)\n"
            "child = subprocess.Popen(['sleep', '60'])\n"
            "child.terminate()\n"
            "print(child.wait())")
    assert execute(tmp_path, cell)[0]["text"] == "-15\n"


def test_a_kernel_that_cannot_say_which_process_it_is_does_not_run(tmp_path: Path, monkeypatch) -> None:
    inside = kernels.private

    @contextlib.contextmanager
    def full() -> Iterator[Path]:
        with inside() as folder:
            (folder / kernels.PROCESS).mkdir()  # no file can be written there
            yield folder
            (folder / kernels.PROCESS).rmdir()

    monkeypatch.setattr(kernels, "private", full)
    with pytest.raises(kernels.NotStartedError, match="Kernel died"):
        execute(tmp_path, "1")


@pytest.mark.skipif(os.name != "posix" or not zmq.has("ipc"), reason="there are no such sockets here")
def test_no_port_leads_to_a_kernel_and_it_leaves_nothing(tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:  # a test's own folder has a long path
        monkeypatch.setattr(tempfile, "tempdir", short)
        told = json.loads(execute(tmp_path)[0].text)
        assert told["told"] == "ipc"
        assert set(told["ports"]) <= set(told["printing"])
        assert list(Path(short).iterdir()) == []


def test_an_interrupt_while_figures_are_drawn_prints_no_traceback(tmp_path: Path) -> None:
    shown = [one for one in execute(tmp_path, DRAWN) if one.output_type != "execute_result"]
    assert [(one.output_type, one.get("text")) for one in shown] == [("stream", "drawing\n")]


def test_its_sockets_lie_in_a_folder_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with kernels.private() as folder:
            assert Path(kernels.settings(folder).KernelManager.ip).parent == folder
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert folder.stat().st_uid == psutil.Process().uids().real
        assert not folder.exists()


def test_a_long_path_of_the_temporary_folder_is_gone_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    with kernels.private() as folder:
        assert folder.parent == Path("/tmp")
        assert kernels.settings(folder).KernelManager.transport == "ipc"


def test_a_module_beside_a_run_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in a folder that a stranger has packed, from which the command is started."""
    for name in ("numpy.py", "jupyter_book/__init__.py"):
        files.write_text(tmp_path / name, f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import numpy\nnumpy.__version__")])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with kernels.private() as private:
        papermill.execute_notebook(str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"),
                                   config=kernels.settings(private), kernel_name="python3",
                                   progress_bar=False)
    with pytest.raises(UserError):  # there is no site
        book._render(tmp_path / "site", strict=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ipc", [True, False])
def test_where_there_can_be_no_sockets_ports_are_encrypted(ipc: bool, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100 if ipc else "x")
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(zmq, "has", lambda what: ipc if what == "ipc" else True)
    if ipc:  # and no other folder has room either
        monkeypatch.setattr(kernels, "LONGEST", 20)
    with kernels.private() as private:
        config = kernels.settings(private)
        assert "transport" not in config.KernelManager
        assert config.KernelManager.transport_encryption == "auto"
