"""`diffusegen review`: from a finished run to a form, and from its answers to Table B1."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from diffusegen_core.cli import app
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.run import Run
from diffusegen_core.store.artifacts import NotMadeError


def diffusegen(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def styled(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its synthetic pairs."""
    folder = tmp_path_factory.mktemp("styled") / "run"
    values = {**nano_values, "run_dir": str(folder)}
    # A rate that leaves the models far from the zeros they start as, and an opening that loses no mask.
    values["train"] = {**values["train"], "lr": 0.01}
    values["inpaint"] = {**values["inpaint"], "sources": 6, "dilate": 60, "opening": 16}
    Run(params.validate(values)).make("style")
    return folder


@pytest.fixture
def run(styled: Path, tmp_path: Path) -> Path:
    """The folder of such a run of the test's own."""
    shutil.copytree(styled, tmp_path / "run")
    return tmp_path / "run"


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


def test_pairs_of_other_parameters_are_refused(run: Path) -> None:
    path = run / "params.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "style": {**values["style"], "max_shift": 0.7}}))
    result = diffusegen("review", "make", run)
    assert isinstance(result.exception, UserError)
    assert re.search(r"2-Styled-Diff was made with other values \(style\.max_shift: \S+ -> 0\.7\)",
                     str(result.exception))
    assert not (run / "review").exists()


@pytest.mark.parametrize("chapter", ["inpaint", "style"])
def test_a_run_without_its_pairs_is_told_so(run: Path, chapter: str) -> None:
    shutil.rmtree(run / chapter)
    result = diffusegen("review", "make", run)
    assert isinstance(result.exception, NotMadeError)
    assert f"has no finished {chapter}/2-" in str(result.exception)
    assert f"run.make('{chapter}')" in str(result.exception)


def test_a_folder_that_is_no_run_is_told_so(tmp_path: Path) -> None:
    result = diffusegen("review", "make", tmp_path)
    assert isinstance(result.exception, UserError)
    assert "is not a run" in str(result.exception)
