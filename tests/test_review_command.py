"""`diffusegen review`: from a finished run to a form, and from its answers to Table B1."""

import json
from pathlib import Path

import pytest
from parameters import keep_params
from typer.testing import CliRunner, Result

from diffusegen_core import Run
from diffusegen_core.cli import app
from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files


def diffusegen(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def run(nano_run: Run) -> Path:
    """The folder of a finished run."""
    return nano_run.folder


def test_a_form_is_made_answered_and_scored(run: Path, tmp_path: Path) -> None:
    made = diffusegen("review", "make", run, "--per-type", 3)
    assert made.exit_code == 0, made.output
    form, key = run / "review" / "form.html", run / "review" / "key.json"
    assert str(form) in made.output
    assert "Send the reviewer the form alone" in made.output
    items = json.loads(key.read_text())
    types = sorted(item["type"] for item in items["items"].values())
    assert types == 3 * ["2-Diff"] + 3 * ["2-Styled-Diff"] + 3 * ["Real"]

    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"form": items["form"], "answers": {
        number: {"quality": "Good", "segmentation": "Poor",
                 "origin": "Real" if item["type"] == "Real" else "Fake"}
        for number, item in items["items"].items()}}))
    scored = diffusegen("review", "score", answers, key)
    assert scored.exit_code == 0, scored.output
    assert "Accuracy 100.0 % (9 of 9)" in scored.output
    assert "2-Styled-Diff" in scored.output


def test_the_files_go_where_they_are_asked_for(run: Path, tmp_path: Path) -> None:
    assert diffusegen("review", "make", run, "--per-type", 2, "--out", tmp_path / "kit").exit_code == 0
    assert {path.name for path in (tmp_path / "kit").iterdir()} == {"form.html", "key.json"}
    assert not (run / "review").exists()


def test_the_key_of_another_form_is_not_overwritten(run: Path) -> None:
    assert diffusegen("review", "make", run, "--per-type", 2).exit_code == 0
    assert diffusegen("review", "make", run, "--per-type", 2).exit_code == 0  # the same form
    before = (run / "review" / "key.json").read_text()
    result = diffusegen("review", "make", run, "--per-type", 3)
    assert isinstance(result.exception, UserError)
    assert "the key of another form" in str(result.exception)
    assert (run / "review" / "key.json").read_text() == before


@pytest.mark.parametrize(("name", "text"), [
    ("form.html", "mine"), ("key.json", "mine"), ("key.json", "[]"), ("key.json", '{"type": "account"}')])
def test_a_file_of_others_is_not_overwritten(run: Path, tmp_path: Path, name: str, text: str) -> None:
    place = files.write_text(tmp_path / "out" / name, text)
    result = diffusegen("review", "make", run, "--per-type", 2, "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError)
    assert f"{place} already exists" in str(result.exception)
    assert {path.read_text() for path in place.parent.iterdir()} == {text}


def test_a_form_whose_writing_was_interrupted_is_written_again(run: Path) -> None:
    assert diffusegen("review", "make", run, "--per-type", 2).exit_code == 0
    (run / "review" / "form.html").unlink()
    assert diffusegen("review", "make", run, "--per-type", 2).exit_code == 0
    assert (run / "review" / "form.html").is_file()


def test_a_review_writes_nothing_but_the_form_and_its_key(run: Path) -> None:
    before = {name: files.sha256(run / name) for name in files.below(run)}
    assert diffusegen("review", "make", run, "--per-type", 2).exit_code == 0
    after = {name: files.sha256(run / name) for name in files.below(run)}
    assert set(after) - set(before) == {"review/form.html", "review/key.json"}
    assert after | before == after


def test_pairs_of_other_parameters_are_refused(run: Path) -> None:
    keep_params(Run.open(run, {"style.max_shift": 0.7}))
    result = diffusegen("review", "make", run)
    assert isinstance(result.exception, UserError)
    assert "2-Styled-Diff was made with other values (style.max_shift: 0.3 -> 0.7)" in str(result.exception)


@pytest.mark.parametrize(("gone", "chapter"), [("inpaint", "inpaint"), ("style", "style")])
def test_a_run_without_its_pairs_is_told_so(run: Path, gone: str, chapter: str) -> None:
    (run / gone).rename(run / "elsewhere")
    result = diffusegen("review", "make", run)
    assert isinstance(result.exception, UserError)
    assert f"Make it with run.make('{chapter}')" in str(result.exception)


def test_a_folder_that_is_no_run_is_told_so(tmp_path: Path) -> None:
    result = diffusegen("review", "make", tmp_path)
    assert isinstance(result.exception, UserError)
    assert "is not a run" in str(result.exception)
