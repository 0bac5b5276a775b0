"""The command `diffusegen status`, and what it knows of a run that somebody else is making."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from parameters import keep_params
from test_cli import call

from diffusegen_core import Run
from diffusegen_core.chapters import standing
from diffusegen_core.config import params
from diffusegen_core.parallel import progress
from diffusegen_core.planning import display, remaining, status
from diffusegen_core.store import files, lock, ownparams
from diffusegen_core.store.stamps import MAKING


def told(run: Run, *words: object) -> list[str]:
    """What the command says of a run, which it does not change."""
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    result = call("status", run.folder, *words)
    assert result.exit_code == 0, result.exception
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
    assert f"Looking at {run.folder} ..." in result.stderr
    return result.stdout.splitlines()


def test_a_finished_run_has_a_line_for_each_result_and_the_next_command(nano_run: Run):
    lines = told(nano_run)
    assert [line[0] for line in lines[:-1]] == list("11233455667")
    assert [line[3:31].strip() for line in lines[:-1]] == [
        status.TITLES[name] for name in status.TITLES if name not in ("windows", "scorers", "filter")]
    for line in lines[:-1]:
        assert re.search(r" (made(; .* s of work)?|not asked for)$", line), line
    assert lines[-1] == f"Next: `diffusegen book {nano_run.folder}` builds the book."
    page = nano_run.folder / status.PAGE
    files.write_text(page, "")
    assert told(nano_run)[-1] == f"Next: open {page} in a browser."


def test_it_waits_for_no_library_of_networks_and_reads_no_finished_grid_twice(
        nano_run: Run, monkeypatch: pytest.MonkeyPatch):
    """Each of these takes seconds to import, and a status computes nothing."""
    heavy = {"torchvision", "timm", "segmentation_models_pytorch", "matplotlib", "torch.utils.flop_counter"}
    asked = ("import sys; from diffusegen_core.planning import status; from diffusegen_core.run import Run; "
             f"told = list(status.text(Run.open(sys.argv[1]), 'r')); print(*({heavy!r} & set(sys.modules))); "
             "print(*told, sep=chr(10))")
    done = subprocess.run([sys.executable, "-c", asked, str(nano_run.folder)], capture_output=True, text=True,
                          check=True)
    imported, *lines = done.stdout.splitlines()
    assert imported == ""
    assert len(lines) == 12
    reads = []
    monkeypatch.setattr(Run, "finished", lambda run, name: reads.append(name))
    told(nano_run)
    assert reads == []


def test_what_nobody_asked_for_is_not_to_be_made_before_anything_is_either(nano_values: dict, tmp_path: Path):
    values = {**nano_values, "run_dir": str(tmp_path / "run")}
    values["gan"], values["inpaint"] = {"source": None}, {**nano_values["inpaint"], "baselines": None}
    table = standing.table(params.validate(values), Run(params.validate(values)).read)
    assert set(table.loc[["gan", "paste"], "status"]) == {"none"}
    assert table.loc["inpaint", "status"] == "to make"


def test_what_is_stale_is_told_with_its_parameter_and_what_follows_from_it(nano_run: Run):
    keep_params(Run.open(nano_run.folder, {"train.lr": 0.5}))
    by_title = {line[3:31].strip(): line[32:] for line in told(nano_run)}
    assert by_title["diffusion models"] == "stale: train.lr: 0.001 -> 0.5"
    assert by_title["painted pairs"] == "stale, as the diffusion models are"
    assert by_title["pairs of the GAN"].startswith("made")


def test_what_is_set_aside_comes_back(nano_run: Run):
    Run.open(nano_run.folder, {"gan.steps": 1}).make("gan")
    keep_params(nano_run)
    lines = told(nano_run)
    [gan] = [line for line in lines if line[3:].startswith("pairs of the GAN")]
    assert gan.endswith("set aside; the run takes it back")
    assert any(line.startswith("Set aside or unfinished: ") for line in lines)


def test_what_a_run_is_making_is_not_told_as_unfinished(nano_run: Run):
    """As if something were lost."""
    begun = nano_run.folder / MAKING / "train" / "cluster-09" / ("0a" * 8)
    begun.mkdir(parents=True)
    (begun / "checkpoint.safetensors").write_text("half")
    assert any(line.startswith("Set aside or unfinished: 1 item") for line in told(nano_run))
    with lock.hold(nano_run.folder):
        assert not any("unfinished" in line or "aside" in line for line in told(nano_run))


def test_what_was_changed_by_hand_is_refused_and_the_rest_waits_for_it(nano_run: Run):
    (nano_run.folder / "cluster" / "clusters.csv").write_text("mine")
    lines = told(nano_run)
    assert any("clusters" in line and "refused: " in line for line in lines)
    assert any("diffusion models" in line and line.endswith("waits for the clusters") for line in lines)
    assert lines[-1].startswith("Next: correct what is refused, then `diffusegen run ")


def test_the_rest_has_a_time_by_what_is_made(nano_run: Run, tmp_path: Path):
    for chapter in ("style", "evaluate", "augment"):
        (nano_run.folder / chapter).rename(tmp_path / chapter)
    (nano_run.folder / "train" / "cluster-01").rename(tmp_path / "model")
    lines = told(Run.open(nano_run.folder))
    assert any("diffusion models" in line and line.endswith("to make: 1 of 2 are made") for line in lines)
    assert re.fullmatch(r"Left to make: about \d+ (s|min) if items run one after the other\.", lines[-2])
    again = f"diffusegen run {nano_run.folder}/params.yaml"
    assert lines[-1] == f"Next: `{again}` makes the rest, and keeps what is made."


def test_where_nothing_is_made_the_device_can_be_measured_and_that_is_remembered(
        nano_params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    run = Run(nano_params)
    lock.claim(run.folder)
    keep_params(run)
    assert f"`diffusegen status {run.folder} --seconds 20` measures" in told(run)[-2]
    table = remaining.counted(run)
    rates = status.pd.DataFrame({"kind": list(remaining.RELATIVE), "rate": table["flop"].sum() / 240.0})
    monkeypatch.setattr(status.probe, "rates", lambda p, work, kinds, seconds: rates)
    monkeypatch.setattr(status.probe, "busy", lambda device: "")
    assert told(run, "--seconds", 1)[-2] == "Left to make: about 4 min if items run one after the other."
    later = told(run)[-2]
    assert later.startswith("Left to make: about 4 min if items run one after the other. This is based on ")


def test_before_anything_is_finished_the_progress_of_the_first_chapter_tells_the_time_left(
        nano_run: Run, tmp_path: Path):
    fresh = Run(nano_run.params.model_copy(update={"run_dir": str(tmp_path / "fresh")}))
    files.write_text(fresh.folder / "notebooks" / "running" / "07_augment_small.ipynb", "")
    rest = remaining.Ahead({"train": 80.0, "segment": 15.0, "augment": 20.0}, None)
    level = {"title": "Networks", "share": 0.25, "elapsed": 100.0, "left": 300.0, "note": ""}
    assert status._by_progress(fresh, rest, [level]) == pytest.approx(300, abs=1)
    assert status._by_progress(fresh, rest, []) is None
    assert status._by_progress(nano_run, rest, [level]) is None, "no page is under way"


def test_a_run_at_work_tells_its_process_its_chapter_and_what_is_under_way(nano_run: Run, tmp_path: Path):
    shutil.rmtree(nano_run.folder / "augment")
    files.write_text(nano_run.folder / "notebooks" / "running" / "07_augment_small.ipynb", "")
    level = {"title": "Networks", "share": 0.4, "elapsed": 10.0, "left": 300.0, "note": ""}
    with lock.hold(nano_run.folder):
        files.write_json(nano_run.folder / progress.PLACE, {"levels": [level]})
        lines = told(nano_run)
    assert re.fullmatch(rf"Running: process {os.getpid()} on .*, since \d{{4}}-\d\d-\d\d \d\d:\d\d\. "
                        r"07_augment_small: Networks 40%, about 5 min left", lines[0])
    assert lines[-2].endswith("; Networks takes about 5 min of it.")
    assert lines[-1].startswith("Next: `diffusegen status ")
    for left, last, words, rest in ((720, "inpaint", "about 12 min. It ends with chapter 3.", True),
                                    (None, "summary", "not known yet. It ends with the last one.", False)):
        with lock.hold(nano_run.folder):
            assert not (nano_run.folder / display.SAID).exists(), "the next holder removes it"
            display.Display(nano_run, ["train", last])._leave_word(left)
            lines = told(nano_run)
        assert lines[-2] == f"Time left for the running command: {words}"
        assert lines[-1].endswith("params.yaml` makes the rest afterwards." if rest else "goes on by itself.")
    for other in ("mine", {"left": 1, "last": "train"}, {"left": "1 s", "last": "nothing"}):
        files.write_json(nano_run.folder / display.SAID, other)
        assert display.said(nano_run.folder) is None
    assert lock.holder(nano_run.folder) is None


def test_who_looks_at_a_lock_keeps_nobody_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert lock.holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path / "run"):
        pass
    with (tmp_path / "run" / lock.LOCK).open() as looking:
        lock.fcntl.flock(looking, lock.fcntl.LOCK_SH)
        monkeypatch.setattr(lock.time, "sleep", lambda _: looking.close())
        with lock.hold(tmp_path / "run"):
            assert looking.closed


def test_without_a_folder_the_runs_are_listed(checkout: Path, finished: Path):
    assert "There is no run in " in call("status").stdout
    (checkout / "runs").mkdir()
    shutil.copytree(finished, checkout / "runs" / "whole")
    other = Run.open(shutil.copytree(finished, checkout / "runs" / "b"), {"style.skip": 0})
    keep_params(other)
    (checkout / "runs" / "whole" / "augment" / "runs.csv").unlink()
    (checkout / "runs" / "whole" / "augment" / "results.csv").unlink()
    bad = shutil.copytree(finished, checkout / "runs" / "odd")
    (bad / ownparams.PARAMS).write_text(yaml.safe_dump({"no": "such key"}))
    (checkout / "runs" / "notes").mkdir()
    lines = call("status").stdout.splitlines()
    assert lines[0] == "runs/b      3 of 8 chapters made, 5 stale"
    assert lines[1].startswith("runs/odd    cannot be read: ")
    assert lines[2] == "runs/whole  6 of 8 chapters made"
