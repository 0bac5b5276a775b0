"""The book of a part of a run: it builds without the missing chapters, and fails on what is wrong."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from diffusegen_core import notebooks
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset
from diffusegen_core.data.pairsets import read_pair
from diffusegen_core.report import book, front, meantfor
from diffusegen_core.run import Run
from diffusegen_core.store import files, ownpages

TABLE = """:::{table} Sizes, computed in this run.
:name: tab-cluster-sizes

| cluster | pairs |
|---:|---:|
| 0 | 7 |
:::"""


def chapter(folder: Path, text: str) -> Path:
    """A run folder whose only executed chapter is the first one, with `text` on its page."""
    def cell(source: str, tag: str, **output: str | dict) -> nbformat.NotebookNode:
        found = [new_output("display_data", data=output)] if output else []
        return new_code_cell(source, metadata={"tags": [tag]}, outputs=found)

    cells = [
        new_markdown_cell(f"# Clustering\n\nSee {{numref}}`tab-cluster-sizes` and {{eq}}`eq-loss`. {text}"),
        cell("seed = 0", "parameters"),
        cell("# Parameters\nseed = 3", "injected-parameters"),
        cell("tables.clusters(clusters)", "sizes",
             **{"text/html": "<table></table>", "text/markdown": TABLE, "text/plain": "a table"}),
        cell("fetch()", "bar", **{book.WIDGET: {"model_id": "1", "version_major": 2, "version_minor": 0},
                                  "text/plain": "weights:   0%|"}),
    ]
    path = folder / "notebooks" / "01_cluster.ipynb"
    path.parent.mkdir(parents=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    box = {"model_name": "HBoxModel", "model_module": "@jupyter-widgets/controls",
           "model_module_version": "2.0.0", "state": {}}
    widgets = {"application/vnd.jupyter.widget-state+json": {
        "version_major": 2, "version_minor": 0, "state": {"1": box}}}
    values = {"profile": "nano", "seed": 3, "data": {"source": "/data_of/somebody/secret/pairs", "count": 7},
              "cluster": {"weights": "/data_of/somebody/nets.pth"}}
    nbformat.write(new_notebook(cells=cells, metadata={
        "kernelspec": kernel, "widgets": widgets, "diffusegen": {"params": values},
        "papermill": {"input_path": "/data_of/somebody/01_cluster.ipynb"}}), path)
    return folder


def test_a_builder_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "LONGEST", 0.01)
    with pytest.raises(UserError, match=r"Jupyter Book had not finished after 0\.01 seconds\."):
        book._render(tmp_path, True)


def test_a_part_of_a_run_becomes_a_book(tmp_path: Path) -> None:
    run = chapter(tmp_path, "Later: {doc}`Training <02_train>` and {numref}`fig-train-loss`.")
    index = book.build(run, footer="Profile nano & seed 3.", trust=True)
    assert index == run / "site" / "_build" / "html" / "index.html"
    assert (index.parent / "_static" / "mathjax" / "tex-svg.js").is_file()
    page = (index.parent / "01_cluster.html").read_text(encoding="utf-8")
    assert "Later: Training (not made yet) and chapter 2 (not made yet)." in page
    assert 'id="tab-cluster-sizes"' in page
    assert "Sizes, computed in this run." in page
    assert "Parameters of this run" in page
    assert 'seed</span> <span class="o">=</span> <span class="mi">0' not in page
    assert 'seed</span> <span class="o">=</span> <span class="mi">3' in page
    assert "Profile nano &amp; seed 3." in page
    assert "weights:" not in page
    assert "nets.pth" in page
    published = [path.read_bytes() for path in index.parent.rglob("*") if path.is_file()]
    assert not [content for content in published if b"data_of" in content], "no path of this machine"
    assert "<script src=\"http" not in page
    about = (index.parent / "about.html").read_text(encoding="utf-8")
    assert "Inpainting (not made yet)" in about
    assert "figures/" not in about
    assert re.search(r'href="01_cluster.html">\s*1 Clustering\s*<', about), "the menu numbers the chapters"


def test_the_pictures_show_no_image_whose_mask_was_not_written(nano_params: params.Params) -> None:
    run = Run(nano_params)
    pairs = run.make("data")
    folder = run.folder / "inpaint" / "2-Diff"
    for name in ("a_1", "b_1"):
        dataset.write_pair(folder, name, pairs.images[0], pairs.masks[0])
    (folder / "masks" / "a_1.png").unlink()
    shown = front._made(run, "inpaint")
    assert shown is not None
    assert shown.shape == front._montage([read_pair(folder, "b_1")]).shape
    (folder / "masks" / "b_1.png").unlink()
    front.draw(run)
    assert (run.folder / "figures" / "scheme.png").is_file()


def test_the_scheme_tells_of_given_masks_and_of_styling_without_losses(nano_params: params.Params) -> None:
    given = params.validate(params.merged(params.plain(nano_params), {
        "inpaint.masks": "own", "style.method": "sdedit"}))
    papers, ours = front._told(nano_params), front._told(given)
    assert len(papers) == len(ours) == len(front.STAGES)
    assert ("and its mask" in papers[2], "given mask" in ours[2]) == (True, True)
    assert ["guided" in told[3] for told in (papers, ours)] == [True, False]


def test_a_sample_grid_that_is_no_picture_is_named(nano_run: Run) -> None:
    grid = sorted((nano_run.folder / "train").glob("*/samples/*.png"))[-1]
    shown = front._made(nano_run, "train")
    assert shown is not None
    assert shown.shape[2] == 3
    grid.write_bytes(grid.read_bytes()[:60])
    with pytest.raises(UserError, match=f"{grid} cannot be read as a picture"):
        front.draw(nano_run)


def test_the_book_publishes_nothing_that_a_run_links_to(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("mine")
    figures, site = tmp_path / "run" / "figures", tmp_path / "site"
    figures.mkdir(parents=True)
    (figures / "own.png").write_bytes(b"")
    (figures / "file.png").symlink_to(tmp_path / "secret" / "key")
    (figures / "folder").symlink_to(tmp_path / "secret")
    os.mkfifo(figures / "pipe.png")
    book._lay_out(site, {}, figures, "")
    assert [path.name for path in (site / "figures").iterdir()] == ["own.png"]
    (tmp_path / "whole").symlink_to(tmp_path / "secret")
    book._lay_out(tmp_path / "other", {}, tmp_path / "whole", "")
    assert not (tmp_path / "other" / "figures").exists()


class Killed(BaseException):
    """Stands in for a kill: nothing after it is done."""


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in renders the book, and its pages are one empty file."""
    monkeypatch.setattr(book, "_render", lambda site, strict: files.write_text(
        site / "_build" / "html" / "index.html", ""))
    monkeypatch.setattr(book, "_add_mathjax", lambda pages: None)


@pytest.mark.parametrize("kept", ["site/notes.txt", "site/_build/html/notes.html"])
@pytest.mark.parametrize("count", range(6))
def test_after_a_kill_while_a_book_replaces_another_the_next_build_does(tmp_path: Path, rendered: None,
                                                                        kept: str, count: int) -> None:
    """The kill comes before that renaming of a folder, or that removal of one of the last files."""
    book.build(tmp_path, [])
    notes = files.write_text(tmp_path / kept, "mine")
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        kill_after(patch, count)
        book.build(tmp_path, [])
    index = book.build(tmp_path, [])
    assert index.is_file()
    assert notes.read_text() == "mine"
    assert files.below(tmp_path / "aside") == []


def test_a_book_is_no_more_open_than_the_umask_allows(tmp_path: Path, rendered: None,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MODE", 0o600)
    monkeypatch.setattr(files, "FOLDER", 0o700)
    picture = files.write_text(tmp_path / "figures" / "a" / "samples.png", "")
    picture.chmod(0o666)
    picture.parent.chmod(0o777)
    book.build(tmp_path, [])
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "site").rglob("*")
             if path.name not in (book.MARK, ownpages.WRITTEN)}  # `files` writes these as the umask is now
    assert modes == {0o600, 0o700}


def test_what_lies_beside_a_strangers_book_stays_aside(tmp_path: Path, rendered: None) -> None:
    files.write_json(tmp_path / "site" / book.MARK, ["index.html"])  # without this user's mark
    for name in ("index.html", "notes.html"):
        files.write_text(tmp_path / "site" / name, "theirs")
    book.build(tmp_path, [])
    assert files.below(tmp_path / "aside") == [f"{book.OTHERS}/notes.html"]
    assert not (tmp_path / "site" / "notes.html").exists()


def kill_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Let the process end after so many renamings of folders and removals of what marks a book."""
    left = [count]
    for module, name in ((os, "rename"), (Path, "rename"), (Path, "unlink")):
        real = getattr(module, name)

        def counted(path: Path, *rest: Path, real: Callable = real, **more: bool) -> object:
            if Path(path).is_dir() or Path(path).name in (book.MARK, ownpages.WRITTEN):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
            return real(path, *rest, **more)
        patch.setattr(module, name, counted)


def test_a_reference_is_replaced_in_its_own_text_alone(tmp_path: Path) -> None:
    """Where one text ends in the middle of a reference and another one has its end, nothing is replaced."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": text} for text in (
        ["See {doc}`07_augment_small`,\n", "and {ref}`tab-augment-\n"], "a ` of its own",
        "{doc}`07_augment_small`")]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    book._lay_out(tmp_path / "site", {"01_cluster.ipynb": json.dumps(notebook)}, tmp_path / "none", "")
    made = json.loads((tmp_path / "site" / "01_cluster.ipynb").read_text())
    assert [cell["source"] for cell in made["cells"]] == [
        "See chapter 7 (not made yet),\nand {ref}`tab-augment-\n", "a ` of its own",
        "chapter 7 (not made yet)"]


def test_a_page_has_only_the_cells_that_are_for_its_run(tmp_path: Path) -> None:
    def cell(source: str, *tags: str, **more: list) -> dict:
        return {"cell_type": "markdown", "metadata": {"tags": list(tags)}, "source": source, **more}
    cells = [cell("all"), cell("losses", "only:style.method=guided"),
             cell("mask", "only:style.method=sdedit"),
             cell("filter", "unless:filter.folds=None"), cell("no filter", "only:filter.folds=None"),
             cell("told", "only:output", outputs=[{"output_type": "display_data"}]),
             cell("silent", "only:output", outputs=[]), cell("newer", "only:nothing.known=1")]
    notebook = {"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {
        "diffusegen": {"params": {"style": {"method": "sdedit"}, "filter": {"folds": None}}}}}
    book._lay_out(tmp_path / "site", {"01_cluster.ipynb": json.dumps(notebook)}, tmp_path / "none", "")
    made = json.loads((tmp_path / "site" / "01_cluster.ipynb").read_text())
    assert [one["source"] for one in made["cells"]] == ["all", "mask", "no filter", "told", "newer"]


@pytest.mark.parametrize(("value", "kept"), [
    (None, False), (0, False), ([], False), (3, True), (["Paste"], True)])
def test_a_value_that_is_empty_counts_as_none(value: object, kept: bool) -> None:
    cells = [{"metadata": {"tags": [f"{word}:filter.folds=None"]}} for word in ("unless", "only")]
    assert meantfor.meant(cells, {"filter": {"folds": value}}) == [cells[not kept]]


@pytest.mark.parametrize("path", notebooks.every(), ids=lambda path: path.stem)
def test_the_tags_of_a_chapter_name_parameters(path: Path) -> None:
    values = params.plain(params.Params())
    cells = nbformat.read(path, as_version=4).cells
    for tag in (tag for cell in cells for tag in cell.metadata.get("tags", [])):
        if tag.startswith(("only", "unless")) and tag != meantfor.SHOWN:
            section, name = meantfor.TAG.fullmatch(tag)[2].split(".")
            assert name in values[section], tag


def test_every_wrong_reference_stops_the_book(tmp_path: Path) -> None:
    wrong = ("{numref}`fig-cluster-nowhere` {doc}`09_nowhere` {eq}`eq-nowhere` {cite}`nobody1999` "
             "![](figures/nowhere.png)")
    with pytest.raises(UserError) as error:
        book.build(chapter(tmp_path, wrong), trust=True)
    for name in ("fig-cluster-nowhere", "09_nowhere", "eq-nowhere", "nobody1999", "nowhere.png"):
        assert name in str(error.value)
