"""The executed notebooks of a run: those in the making, those that a crash left, those made elsewhere."""

import shutil
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from test_cli import NAMES, call, write_notebook

from diffusegen_core import Run, cli, cli_params, cli_runs, notebooks
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.planning import probe
from diffusegen_core.report import book, front
from diffusegen_core.store import files, lock, ownpages
from diffusegen_core.store.stamps import ASIDE, STAMP


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chapters of which the command would have built a book."""
    shown: list[str] = []
    monkeypatch.setattr(front, "draw", lambda run: None)
    monkeypatch.setattr(book, "build", lambda folder, notebooks, **more: shown.extend(
        path.stem for path in notebooks) or folder / "index.html")
    return shown


def test_a_chapter_in_the_making_lies_in_running_and_a_failed_one_in_failed(
        nano_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chapter, place = tmp_path / f"{NAMES[0]}.ipynb", nano_params.folder / "notebooks"
    write_notebook(chapter, "1 + 1", "2 + 2")
    other = nbformat.read(chapter, as_version=4)
    other.cells[-1].metadata["tags"] = ["only:style.method=another"]
    nbformat.write(other, chapter)
    seen: list[list[str]] = []

    def executing(source: str, target: str, *_: object, **__: object) -> None:
        shutil.copy(source, target)
        seen.append(files.below(place))
    monkeypatch.setattr(papermill, "execute_notebook", executing)
    notebooks.execute(chapter, Run(nano_params))
    assert seen == [[f"running/{chapter.name}"]]
    assert files.below(place) == [chapter.name, ownpages.WRITTEN]
    done = nbformat.read(place / chapter.name, as_version=4)
    assert [cell.source for cell in done.cells[1:]] == ["1 + 1"], "the other cell is for other runs"

    def failing(source: str, target: str, *_: object, **__: object) -> None:
        shutil.copy(source, target)
        raise papermill.PapermillExecutionError(0, 1, "1 / 0", "ZeroDivisionError", "division by zero", [])
    monkeypatch.setattr(papermill, "execute_notebook", failing)
    with pytest.raises(UserError, match="ZeroDivisionError"):
        notebooks.execute(chapter, Run(nano_params))
    assert files.below(place) == [chapter.name, f"failed/{chapter.name}", ownpages.WRITTEN]


def left_over(path: Path, chapter: Path, ename: str | None = None, more: str | None = None) -> None:
    """What a crash leaves of a chapter: with an error, and another cell."""
    notebook = nbformat.read(chapter, as_version=4)
    if ename:
        notebook.cells[-1].outputs = [nbformat.v4.new_output("error", ename=ename, evalue="", traceback=[])]
    if more:
        notebook.cells.append(nbformat.v4.new_code_cell(more))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.mark.parametrize(("what", "kept"), [
    ({}, False), ({"ename": "KeyboardInterrupt"}, False), ({"ename": "ValueError"}, True),
    ({"more": "mine = 1"}, True)])
def test_what_a_crash_left_is_replaced_and_set_aside_if_anybody_may_want_it(
        nano_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: dict, kept: bool):
    monkeypatch.setattr(papermill, "execute_notebook",
                        lambda source, target, *_, **__: shutil.copy(source, target))
    chapter = tmp_path / f"{NAMES[0]}.ipynb"
    write_notebook(chapter, "1 + 1")
    running = nano_params.folder / "notebooks" / "running" / chapter.name
    left_over(running, chapter, **what)
    before = running.read_bytes()
    notebooks.execute(chapter, Run(nano_params))
    assert not running.exists()
    aside = [path.read_bytes() for path in (nano_params.folder / ASIDE).rglob("*.ipynb")]
    assert aside == ([before] if kept else [])


def test_what_lies_in_running_and_is_no_notebook_is_kept(nano_params: Params, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(papermill, "execute_notebook",
                        lambda source, target, *_, **__: shutil.copy(source, target))
    chapter = tmp_path / f"{NAMES[0]}.ipynb"
    write_notebook(chapter, "1 + 1")
    files.write_text(nano_params.folder / "notebooks" / "running" / chapter.name, "half")
    notebooks.execute(chapter, Run(nano_params))
    assert [path.read_text() for path in (nano_params.folder / ASIDE).rglob("*.ipynb")] == ["half"]


def test_a_chapter_that_papermill_made_elsewhere_is_in_the_book(
        nano: dict, tmp_path: Path, pages: list[str], monkeypatch: pytest.MonkeyPatch):
    profile = tmp_path / "nano.yaml"
    profile.write_text(yaml.safe_dump(nano))
    # What the cells of 01_cluster do after `papermill notebooks/01_cluster.ipynb out.ipynb -p profile FILE`.
    run = Run.from_notebook({"profile": str(profile), "changes": {}})
    run.make("cluster")
    assert [path.stem for path in notebooks.without_page(run)] == NAMES[:1]
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob(STAMP)}
    done = call("book", run.folder)
    assert done.exit_code == 0, done.exception
    assert f"{NAMES[0]}: made, but has no page in the run; its notebook is executed" in done.stderr
    assert pages == NAMES[:1]
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob(STAMP)} == before
    page = nbformat.read(run.folder / "notebooks" / f"{NAMES[0]}.ipynb", as_version=4)
    assert any(cell.get("outputs") for cell in page.cells)
    assert notebooks.without_page(run) == []


def test_a_whole_run_without_pages_gets_all_of_them_and_one_that_fails_is_left_out(
        nano_run: Run, pages: list[str], monkeypatch: pytest.MonkeyPatch):
    def execute(path: Path, run: Run) -> None:
        if path.stem == NAMES[3]:
            raise UserError("its data are gone.")
        told = {"params": notebooks._params(run.params)}
        notebook = nbformat.v4.new_notebook(metadata={notebooks.OWN: told})
        place = run.folder / "notebooks" / path.name
        place.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, place)
    monkeypatch.setattr(notebooks, "execute", execute)
    done = call("book", nano_run.folder)
    assert done.exit_code == 0, done.exception
    assert "It is not in the book: its data are gone." in done.stderr
    assert pages == [*NAMES[:3], *NAMES[4:]]
    assert [path.stem for path in notebooks.without_page(nano_run)] == [NAMES[3]]


def test_tracking_makes_no_page_another(nano_params: Params):
    page = nano_params.folder / "notebooks" / f"{NAMES[-1]}.ipynb"
    page.parent.mkdir(parents=True)
    told = notebooks._params(nano_params)
    nbformat.write(nbformat.v4.new_notebook(metadata={notebooks.OWN: {"params": told}}), page)
    other = Run(nano_params.model_copy(update={"tracking": "mlflow"}))
    assert notebooks.executed(other) == [page]


# ---- chapters that are up to date

@pytest.fixture
def paged(nano_run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, list[str]]:
    """A whole run with a page of every chapter, no network of which counts as failed, and a list of the
    chapters that are executed from then on."""
    done: list[str] = []

    def execute(source: str, target: str, *_: object, **__: object) -> None:
        done.append(Path(source).stem)
        shutil.copy(source, target)
    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.setattr(notebooks, "_any_failed", lambda grid: False)  # as two have
    for notebook in notebooks.every():
        notebooks.execute(notebook, nano_run)
    done.clear()
    return nano_run, done


def again(run: Run, *words: object) -> list[str]:
    """What the command says that is no line of a chapter that it executes."""
    result = call("run", run.folder / "params.yaml", "--no-book", *words)
    assert result.exit_code == 0, result.exception
    return [line for line in result.stderr.splitlines() if line.endswith(" of 8") and "up to date" in line]


def test_chapters_that_are_up_to_date_are_not_executed_again(paged: tuple[Run, list[str]]):
    run, done = paged
    before = {path: path.read_bytes() for path in (run.folder / "notebooks").glob("*.ipynb")}
    assert again(run) == [f"{name}: up to date, {number} of 8" for number, name in enumerate(NAMES, 1)]
    assert done == []
    again(run, "--only", "style")
    assert done == [NAMES[3]], "who names a chapter wants it"
    assert {path: path.read_bytes() for path in (run.folder / "notebooks").glob("*.ipynb")} == before


def test_a_parameter_of_a_later_chapter_executes_no_earlier_one(paged: tuple[Run, list[str]]):
    run, done = paged
    again(run, "-p", "augment.alpha", "0.7", "--to", "6")
    assert done == []
    assert not (run.folder / ASIDE / "notebooks").exists()
    told = [notebooks._told_params(run.folder / "notebooks" / f"{name}.ipynb") for name in NAMES]
    assert [one["augment"]["alpha"] for one in told] == [*[0.7] * 6, *[run.params.augment.alpha] * 2]
    assert all(ownpages.own(page, page.read_bytes()) for page in (run.folder / "notebooks").glob("*.ipynb"))


def test_what_a_page_shows_decides_whether_it_is_executed_again(paged: tuple[Run, list[str]],
                                                                monkeypatch: pytest.MonkeyPatch):
    run, done = paged
    pages = run.folder / "notebooks"
    stamp = next((run.folder / "style").rglob(STAMP))
    stamp.write_text(stamp.read_text().replace('"seconds": ', '"seconds": 1'))  # as if it was made again
    again(run)
    assert done == NAMES[3:], "what an earlier chapter shows is as it was"
    done.clear()
    (pages / f"{NAMES[1]}.ipynb").unlink()
    (pages / f"{NAMES[2]}.ipynb").write_text((pages / f"{NAMES[2]}.ipynb").read_text() + " ")
    again(run)
    assert done == NAMES[1:3], "one is gone, one was edited"
    done.clear()
    again(run, "-p", "segment.resamples", "333", "--to", "6")
    assert done == NAMES[5:6], "other intervals of the same results"
    done.clear()
    again(run, "-p", "data.object", "cyst", "--to", "2")
    assert done == NAMES[:2], "pages use another word"
    done.clear()
    monkeypatch.setattr(notebooks, "_program", lambda: "another")
    again(run)
    assert done == NAMES, "another program may show something else"


def test_the_filter_is_a_part_of_the_page_that_shows_it(paged: tuple[Run, list[str]]):
    run, _ = paged
    changed = run.params.filter.model_copy(update={"seam_quantile": 0.9})
    other = run.params.model_copy(update={"filter": changed})
    assert [path.stem for path in notebooks.executed(Run(other))] == NAMES[:4]


def test_what_is_to_do_is_no_chapter_that_is_left_alone(paged: tuple[Run, list[str]],
                                                        monkeypatch: pytest.MonkeyPatch):
    run, _ = paged
    assert notebooks.complete(run) == set(map(notebooks.chapter_of, notebooks.every()))
    assert notebooks.complete(Run(run.params.model_copy(update={"tracking": "mlflow"}))) == set()
    monkeypatch.undo()
    assert notebooks.complete(run) & {"segment", "augment"} == set(), "networks that failed are tried again"
    shutil.rmtree(run.folder / "style")
    assert notebooks.complete(run) == {"cluster", "train", "inpaint"}


# ---- what commands say at once

@pytest.mark.parametrize(("words", "says"), [
    (("run", "nano.yaml", "--dry-run"), "Looking at what is finished of nano.yaml; nothing is made ..."),
    (("plan", "nano.yaml"), "Counting the work of nano.yaml ..."),
    (("compare", "a", "b"), "Reading 2 runs ..."),
    (("paint", "a", "x.png"), "Painting into 1 picture with the models of a ..."),
    (("status", "a"), "Looking at a ..."),
])
def test_a_command_says_what_it_does_before_it_imports_what_takes_seconds(
        nano: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple, says: str):
    monkeypatch.setitem(sys.modules, "diffusegen_core.run", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano.yaml").write_text(yaml.safe_dump(nano))
    result = call(*words)
    assert result.exception
    assert result.stderr.splitlines()[0] == says


def test_a_plan_begins_with_its_total_and_ends_with_the_next_command(tmp_path: Path, nano: dict):
    profile = tmp_path / "nano.yaml"
    profile.write_text(yaml.safe_dump(nano))
    lines = call("plan", profile, "--seconds", "0", "-p", "train.images", "40").stdout.splitlines()
    assert lines[0].startswith("In all: time not measured; ")
    assert lines[1] == "nano: 10 pairs (phantoms)."
    assert lines[-1].startswith(f"Next: `diffusegen run {profile} -p train.images 40`; ")


def test_a_plan_of_a_run_that_is_there_tells_what_is_left(nano_run: Run, tmp_path: Path):
    profile, place = nano_run.folder / "params.yaml", nano_run.folder
    lines = call("plan", profile, "--seconds", "0").stdout.splitlines()
    assert lines[-1] == f"All of this is made in {place}. Next: `diffusegen book {place}` builds the book."
    (place / "style").rename(tmp_path / "style")
    *_, there, _, following = call("plan", profile, "--seconds", "0").stdout.splitlines()
    assert there.startswith(f"A part of this is made in {place}, and `diffusegen run` makes only the rest: ")
    assert following.startswith(f"Next: `diffusegen run {profile}`; ")


def test_a_plan_beside_the_run_that_is_being_made_measures_nothing(nano_run: Run, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch):
    """The device is the run's: a plan once said three times too much."""
    monkeypatch.setattr(probe, "rates", None)
    (nano_run.folder / "style").rename(tmp_path / "style")
    with lock.hold(nano_run.folder):
        result = call("plan", nano_run.folder / "params.yaml")
    assert result.exit_code == 0, result.exception
    assert "easuring" not in result.stderr
    assert result.stdout.splitlines()[-1].startswith("This run is in use by process ")
    assert result.stdout.splitlines()[-1].endswith(
        f": `diffusegen status {nano_run.folder}` tells what it is doing.")


@pytest.mark.parametrize(("words", "goes_on"), [
    (("run", "x.yaml"), True), (("run", "x.yaml", "--dry-run"), False), (("plan", "x.yaml"), False),
    (("compare", "a", "b"), False), (("paint", "a", "b.png"), True), (("status",), False)])
def test_only_what_keeps_something_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch, words: tuple,
                                                        goes_on: bool, nano: dict, tmp_path: Path,
                                                        capfd: pytest.CaptureFixture[str]):
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr(cli, "tell", interrupted)
    monkeypatch.setattr(cli_params, "tell", interrupted)
    monkeypatch.setattr(cli_runs, "tell", interrupted)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(nano))
    monkeypatch.setattr("sys.argv", ["diffusegen", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.INTERRUPTED
    then = "; run the same command again to continue" if goes_on else ""
    assert capfd.readouterr().err.endswith(f"diffusegen: interrupted{then}.\n")
