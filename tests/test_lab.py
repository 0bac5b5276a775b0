"""`make lab`: copies of the chapters follow them until a reader changes them, and git sees nothing of it."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from nbformat.sign import NotebookNotary
from traitlets.config import Config

from diffusegen_core import lab

ROOT = Path(__file__).parents[1]
CHAPTER = "02_train.ipynb"
SECONDS = 60


@pytest.fixture(autouse=True)
def no_signatures_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the chapters and what their copies are made with."""
    for name in ("notebooks", "book"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".*"))
    return tmp_path


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def with_results(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook as JupyterLab has it after a run."""
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.11.7", "file_extension": ".py"}
    for count, cell in enumerate(notebook["cells"]):
        cell["metadata"] = {**cell["metadata"], "editable": True, "execution": {"iopub.execute_input": "now"}}
        if cell["cell_type"] == "code":
            output = {"output_type": "stream", "name": "stdout", "text": ["a result\n"]}
            cell.update(outputs=[output], execution_count=count)
    return notebook


def test_a_copy_that_was_only_run_keeps_its_results_until_its_chapter_changes(checkout: Path) -> None:
    assert list(lab.refresh(checkout)) == []
    place = checkout / "lab" / CHAPTER
    place.write_text(json.dumps(with_results(read(place))), encoding="utf-8")
    assert list(lab.refresh(checkout)) == []
    assert "a result" in place.read_text(encoding="utf-8")
    change(checkout / "notebooks" / CHAPTER, "## Training", "## Training, in other words")
    assert list(lab.refresh(checkout)) == []
    assert "in other words" in place.read_text(encoding="utf-8")
    assert list(lab.refresh(checkout)) == []


def test_a_copy_that_was_changed_is_kept_and_told_of_when_its_chapter_changes(checkout: Path) -> None:
    assert list(lab.refresh(checkout)) == []
    place = checkout / "lab" / CHAPTER
    change(place, 'profile = \\"smoke\\"', 'profile = \\"mine\\"')
    mine = place.read_bytes()
    assert list(lab.refresh(checkout)) == []
    change(checkout / "notebooks" / CHAPTER, "## Training", "## Training, in other words")
    [line] = lab.refresh(checkout)
    assert line.startswith(f"lab/{CHAPTER} holds your changes")
    assert place.read_bytes() == mine


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [], "metadata": {}}'])
def test_what_is_no_copy_is_kept(checkout: Path, text: str) -> None:
    place = checkout / "lab" / CHAPTER
    place.parent.mkdir()
    place.write_text(text)
    assert len(list(lab.refresh(checkout))) == 1
    assert place.read_text() == text


def test_a_copy_needs_no_other_page(checkout: Path) -> None:
    assert list(lab.refresh(checkout)) == []
    pages = [read(path) for path in sorted((checkout / "lab").glob("*.ipynb"))]
    text = "\n".join("".join(cell["source"]) for page in pages for cell in page["cells"]
                     if cell["cell_type"] == "markdown")
    assert lab.ROLE.search(text) is None
    assert "Saragih et al. (2024)" in text
    assert "[chapter 2](02_train.ipynb)" in text
    assert "*Figure.* Smoothed training loss of each model" in text


def test_a_copy_is_trusted(checkout: Path) -> None:
    assert list(lab.refresh(checkout)) == []
    for path in (checkout / "lab").glob("*.ipynb"):
        assert NotebookNotary().check_signature(nbformat.read(path, as_version=4))


def test_saving_a_chapter_itself_keeps_no_results(checkout: Path) -> None:
    """Only a change of its text makes a difference that git sees."""
    hook = next(flag.partition("=")[2] for flag in lab.FLAGS if "pre_save_hook" in flag)
    manager = LargeFileManager(root_dir=str(checkout),
                               config=Config({"ContentsManager": {"pre_save_hook": hook}}))
    for path in sorted((checkout / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.name}"
        before = path.read_bytes()
        model = manager.get(name)
        model["content"] = with_results(model["content"])
        manager.save(model, name)
        assert path.read_bytes() == before
    manager.save({"type": "notebook", "format": "json", "content": model["content"] | {"metadata": {}}},
                 "elsewhere.ipynb")
    assert read(checkout / "elsewhere.ipynb")["metadata"] == {}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The port of a JupyterLab that was started as `make lab` does, and its log."""
    log, token = tmp_path / "log", "token"
    command = [sys.executable, "-m", "diffusegen_core.lab", "--no-browser", "--allow-root",
               "--ServerApp.port=0", f"--IdentityProvider.token={token}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + SECONDS
        while not (address := re.search(r"http://127\.0\.0\.1:(\d+)/lab", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield address[1], log
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_lab_opens_at_the_checkout_without_a_warning(server: tuple[str, Path]) -> None:
    port, log = server
    headers = {"Authorization": "token token"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/contents", headers=headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        names = {entry["name"] for entry in json.load(answer)["content"]}
    assert {"lab", "notebooks", "params", "book"} <= names
    assert [line for line in log.read_text().splitlines() if line.startswith(("[W", "[E", "[C"))] == []
    assert "WARN" not in log.read_text()
