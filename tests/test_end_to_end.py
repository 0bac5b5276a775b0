"""The whole way of a user: one command runs every chapter through papermill and builds the book.

A browser opens it.
"""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from browser import Browser

from diffusegen_core import notebooks
from diffusegen_core.data import checkup, pairsets
from diffusegen_core.run import Run
from diffusegen_core.store import files, ownpages

DIFFUSEGEN = [sys.executable, "-c", "from diffusegen_core.cli import main; main()"]


def diffusegen(*arguments: object, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([*DIFFUSEGEN, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
                          timeout=600, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Path:
    """The folder of a finished run with its book, made by the command line."""
    folder = tmp_path_factory.mktemp("user")
    profile = folder / "nano.yaml"
    profile.write_text(yaml.safe_dump({**nano_values, "run_dir": str(folder / "run")}))
    done = diffusegen("run", profile, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder / "run/site/_build/html/index.html") in done.stdout
    return folder / "run"


def test_every_chapter_was_executed_without_warnings(run: Path) -> None:
    executed = sorted((run / "notebooks").glob("*.ipynb"))
    assert [path.name for path in executed] == [path.name for path in notebooks.every()]
    for path in executed:
        notebook = json.loads(path.read_text())
        assert notebook["metadata"]["diffusegen"]["params"]["train"]["images"] == 24, path
        cells = notebook["cells"]
        outputs = [o for cell in cells for o in cell.get("outputs", [])]
        assert not [o for o in outputs if o["output_type"] == "error"], path
        assert "Warning" not in "".join(line for o in outputs for line in o.get("text", [])), path
        assert any("injected-parameters" in cell["metadata"].get("tags", []) for cell in cells), path


def test_nothing_that_the_command_made_is_anybody_else_s_or_tells_how_to_reach_it(run: Path) -> None:
    """Nobody can enter the folder; pages and logs hold neither addresses of sockets nor keys."""
    assert sorted(path.name for path in run.parent.iterdir()) == ["nano.yaml", "run"]
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE(ownpages.key_file().stat().st_mode) == 0o600
    key = ownpages.key_file().read_bytes()
    for path in (run / name for name in files.below(run)):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path
        if path.suffix in (".ipynb", ".json", ".yaml", ".csv", ".html", ".md", ""):
            content = path.read_bytes()
            assert key not in content, path
            if "site" not in path.parts:  # whose pages give examples
                assert not re.search(rb"(tcp|tls|ipc|inproc)://|token=", content), path


def test_the_synthetic_pairs_are_a_dataset_that_the_checker_accepts(run: Path) -> None:
    folder = run / "inpaint" / "2-Diff"
    manifest, left_out = pairsets.manifest(folder), pairsets.left_out(folder)
    assert len(manifest) + len(left_out) == 4
    assert (left_out["area_after"] == 0).all()
    files = {path.stem for kind in pairsets.KINDS for path in (folder / kind).glob("*.png")}
    assert files == set(manifest["name"])
    assert len(manifest), "nothing was painted, so nothing is checked"
    report = checkup.check(folder)
    assert report.problems == []
    assert [pair.name for pair in report.pairs] == sorted(manifest["name"])


def test_the_styled_pairs_keep_the_masks_that_they_were_given(run: Path) -> None:
    before, after = run / "inpaint" / "2-Diff", run / "style" / "2-Styled-Diff"
    names = pairsets.manifest(after)["name"].tolist()
    assert names == pairsets.manifest(before)["name"].tolist()
    for name in names:
        assert (pairsets.read_pair(after, name)[1] == pairsets.read_pair(before, name)[1]).all()
        assert (pairsets.read_pair(after, name)[0] != pairsets.read_pair(before, name)[0]).any()


def test_every_data_type_is_judged_and_nothing_lacks_a_source(run: Path) -> None:
    types = ["Real", "GAN", "2-Diff", "2-Styled-Diff"]
    assert sorted(path.parent.name for path in (run / "evaluate").glob("*/made.json")) == sorted(
        [*types, "copies"])
    real = pd.read_csv(run / "evaluate" / "Real" / "values.csv").set_index(["metric", "set"])["value"]
    assert abs(real["FD-test_resnet (random weights)", 1]) < 1e-3
    audit = pd.concat(pd.read_csv(run / "evaluate" / name / "audit.csv") for name in types)
    assert audit["source"].notna().all()


def test_every_network_of_the_grids_has_a_result(run: Path) -> None:
    for chapter, data_types in (("segment", ["Real", "GAN", "2-Diff", "2-Styled-Diff"]),
                                ("augment", ["Real", "GAN", "2-Styled-Diff"])):
        networks = pd.read_csv(run / chapter / "runs.csv")
        assert networks["data_type"].tolist() == data_types
        results = pd.read_csv(run / chapter / "results.csv")
        finished = networks[networks["status"] == "ok"]
        assert len(results) == 4 * len(finished)  # test images each
        assert (results["dice"] >= results["iou"]).all()


def test_the_summary_gives_a_verdict_on_every_claim(run: Path) -> None:
    page = (run / "site/_build/html/08_summary.html").read_text(encoding="utf-8")
    for words in ("performed better than GAN", "consistent improvements", "persists on different",
                  "Small real sets augmented", "too little data", "own cells", "What do they cost?"):
        assert words in page


def test_the_grid_can_be_seen_before_it_is_run(run: Path) -> None:
    done = diffusegen("run", "params.yaml", "--dry-run", folder=run)
    assert done.returncode == 0, done.stderr
    for title, chapter in (("Synthetic data alone", "segment"), ("Small sets", "augment")):
        status = pd.read_csv(run / chapter / "runs.csv")["status"]
        assert f"{title}: {len(status)} experiments, {(status == 'ok').sum()} finished" in done.stdout


def test_a_second_run_finds_everything_made(run: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in run.rglob("made.json")}
    # Of the chapters, the one that needs all others but one; from within the folder, as well.
    done = diffusegen("run", "params.yaml", "--only", "augment", "--no-book", folder=run)
    assert done.returncode == 0, done.stderr
    assert " is replaced (" not in done.stderr
    pages = {path: path.stat().st_mtime_ns for path in (run / "notebooks").glob("*.ipynb")}
    whole = diffusegen("run", "params.yaml", "--to", "5", "--no-book", folder=run)
    assert whole.stderr.count(": up to date, ") == 5, whole.stderr
    assert pages == {path: path.stat().st_mtime_ns for path in (run / "notebooks").glob("*.ipynb")}
    again = Run.open(run)
    for chapter in ("evaluate", "segment"):
        again.make(chapter)
    assert made == {path: path.stat().st_mtime_ns for path in run.rglob("made.json")}
    assert not (run / "aside").exists()


def test_a_chapter_of_other_parameters_is_not_in_the_book(run: Path) -> None:
    this, other = Run.open(run), Run.open(run, {"train.lr": 0.5})
    assert [path.name for path in notebooks.executed(this)] == [path.name for path in notebooks.every()]
    assert [path.name for path in notebooks.executed(other)] == ["01_cluster.ipynb"]


def test_every_page_opens_offline_without_errors(run: Path) -> None:
    pages = sorted(p for p in (run / "site/_build/html").glob("*.html") if p.name not in ("genindex.html",))
    assert len(pages) >= 4 + len(notebooks.every())
    with Browser() as browser:
        for page in pages:
            wide, narrow = browser.open_page(page), browser.open_page(page, width=390)
            for report in (wide, narrow):
                assert report.console_errors == [], page.name
                assert report.outgoing_requests == [], page.name
                assert report.broken_images == [], page.name
            assert narrow.scroll_width <= 390, page.name
            assert not wide.cut_formulas + narrow.cut_formulas, page.name


def test_the_book_states_what_it_was_made_from(run: Path) -> None:
    page = (run / "site/_build/html/02_train.html").read_text(encoding="utf-8")
    for fact in ("nano", "10 phantoms", "torch 2.", "of work, workers", "526.56 M", "the paper"):
        assert fact in page


def test_a_notebook_runs_with_papermill_alone_and_without_warnings(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    done = subprocess.run([sys.executable, "-m", "papermill", notebooks.every()[0], out, "-k", "python3",
                           "-p", "profile", run], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unknown parameter" not in done.stderr
    assert "Warning" not in done.stderr  # Python's; the kernel's "WARNING | ... encryption" is not ours
    assert out.is_file()
