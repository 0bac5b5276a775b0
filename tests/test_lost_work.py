"""Nothing finished or foreign is lost, whatever a user changes, kills or is refused.

L1 to L12 and U3 to U9 are ways in which work was once lost, or a run went astray. Chapters run in this
process, as their notebooks run them, and by papermill where a case is about it.
"""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import psutil
import pytest
import tqdm
import yaml
from distributed import LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from diffusegen_core import Run, cli, notebooks
from diffusegen_core.chapters import gan, train
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.diffusion import checkpoints, training
from diffusegen_core.networks import features
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.report import book, front, opening, review
from diffusegen_core.store import files, lock
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import ASIDE, MAKING, STAMP, read_stamp


def call(*words: object) -> Result:
    """The command in this process; a UserError is the result's exception."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refusal(result: Result) -> str:
    """What the command refused, in its own words."""
    assert isinstance(result.exception, UserError), result.exception
    return str(result.exception)


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file in a folder, but for the lock."""
    return {name: files.sha256(folder / name) for name in files.below(folder) if name != lock.LOCK}


def kept(before: dict[str, str], folder: Path) -> None:
    """Every file of before is still somewhere in the folder, bit for bit, under its own name."""
    after: dict[str, set[str]] = {}
    for name, content in contents(folder).items():
        after.setdefault(content, set()).add(Path(name).name)
    for name, content in before.items():
        told = {"params.yaml", "run.json", "written.json"}  # rewritten by each run; of the first see below
        assert Path(name).name in told or content in after, f"{name} is lost"


def aside(folder: Path, name: str) -> list[Path]:
    """The finished artifacts of a name that are set aside."""
    return sorted(path.parent for path in (folder / ASIDE / name).glob("*/made.json"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs a chapter in this process, as the chapter's first cells do; no book is built."""
    def execute(notebook: Path, run: Run) -> None:
        chapter = notebooks.chapter_of(notebook)
        if chapter != "summary":
            Run.from_notebook({"profile": params.relative(run.folder), "changes": {}}).make(chapter)
    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(front, "draw", lambda run: None)
    monkeypatch.setattr(book, "build", lambda folder, **more: folder / "site" / "index.html")


@pytest.fixture
def smoke(checkout: Path, finished: Path) -> Run:
    """The finished run of that profile, where its runs lie."""
    shutil.copytree(finished, checkout / "runs" / "smoke")
    return Run.open("runs/smoke")


def written(folder: Path, names: list[str]) -> dict[str, str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the user's {name}")
    return contents(folder)


# ---- L1: a folder of the user's

THEIRS = ["data/patients/img1.png", "train/cluster-00/thesis.tex", "site/index.html",
          "notebooks/02_train.ipynb", "params.yaml"]


@pytest.mark.parametrize("place", ["P", "~", "link", "P/data"])
def test_l1_a_run_is_never_made_in_a_folder_of_the_users(
        checkout: Path, command: None, monkeypatch: pytest.MonkeyPatch, place: str):
    before = written(checkout / "P", THEIRS)
    (checkout / "link").symlink_to(checkout / "P")
    monkeypatch.setenv("HOME", str(checkout / "P"))
    text = refusal(call("run", "smoke", "-p", "run_dir", place))
    assert "cannot be the run folder: it holds files that belong to no run" in text
    for act in (lambda: Run.create("smoke", folder=place), lambda: Run.from_notebook({"run_dir": place})):
        with pytest.raises(UserError, match="files that belong to no run"):
            act()
    assert contents(checkout / "P") == before
    assert not (checkout / "runs").exists()


@pytest.mark.parametrize("part", ["data", "train", "train/cluster-00", "inpaint"])
def test_l1_a_link_in_a_run_folder_leads_nothing_of_the_run_elsewhere(smoke: Run, checkout: Path, part: str):
    before = written(checkout / "theirs", THEIRS)
    shutil.rmtree(smoke.folder / part)
    (smoke.folder / part).symlink_to(checkout / "theirs")
    with pytest.raises(UserError, match="is a symbolic link"):
        Run.open(smoke.folder, {"train.lr": 0.5, "seed": 3}).make("inpaint")
    assert contents(checkout / "theirs") == before


def test_l1_files_of_others_in_a_run_folder_stay_where_they_are(smoke: Run):
    written(smoke.folder / "mine", ["a.txt"])
    written(smoke.folder / "data", ["notes.txt"])
    theirs = {name: files.sha256(smoke.folder / name) for name in ("mine/a.txt", "data/notes.txt")}
    for run in (Run.open(smoke.folder, {"seed": 3}), smoke):
        run.make("cluster")
        assert {name: files.sha256(smoke.folder / name) for name in theirs} == theirs


# ---- L2: inputs that are the run's own parts

@pytest.mark.parametrize("name", ["segment.cvc", "segment.held_out", "train.checkpoints", "data.source"])
@pytest.mark.parametrize("part", ["data", "train/cluster-00", "."])
def test_l2_an_input_in_the_run_folder_is_refused_by_name(smoke: Run, command: None, name: str, part: str):
    dataset.write_phantoms(smoke.folder / "data" / "pairs", 3, 16, 0)
    before = contents(smoke.folder)
    text = refusal(call("run", "smoke", "-p", name, smoke.folder / part))
    assert text.startswith(f"Parameters: {name}: ")
    assert "lies in the run folder" in text
    assert contents(smoke.folder) == before


# ---- L3: models from elsewhere

@pytest.mark.parametrize(("harm", "says"), [
    ("own", "lies in the run folder"), ("half", "model"), ("text", "model"), ("empty", "cluster-00"),
    ("absent", "nowhere")])
def test_l3_models_that_cannot_be_used_are_refused_before_anything_changes(
        smoke: Run, checkout: Path, command: None, harm: str, says: str):
    source = checkout / "models"
    if harm == "own":
        source = smoke.folder / "train"
    elif harm == "absent":
        source = checkout / "nowhere"
    elif harm == "empty":
        source.mkdir()
    else:
        shutil.copytree(smoke.folder / "train", source)
        for path in source.rglob("model.safetensors"):
            content = path.read_bytes()
            path.write_bytes(content[:len(content) // 2] if harm == "half" else b"no model")
    before = contents(smoke.folder)
    assert says in refusal(call("run", "smoke", "-p", "train.checkpoints", source, "--to", "train"))
    with pytest.raises(UserError, match=says):
        Run.open("runs/smoke", {"train.checkpoints": str(source)}).make("train")
    assert contents(smoke.folder) == before


# ---- L4: changed parameters

@pytest.mark.parametrize(("change", "chapter", "name"), [
    ({"train.lr": 0.002}, "train", "train/cluster-00"),
    ({"train.precision": "bf16", "train.images": 4}, "train", "train/cluster-00"),
    ({"train.images": 12}, "train", "train/cluster-00"),
    ({"seed": 3}, "cluster", "data"),
    ({"cluster.k": 3}, "cluster", "cluster"),
    ({"inpaint.respacing": 3}, "inpaint", "inpaint/2-Diff"),
    ({"inpaint.sources": 2}, "inpaint", "inpaint/2-Diff"),
    ({"style.skip": 2}, "style", "style/2-Styled-Diff"),
    ({"evaluate.backbone": "timm/test_nfnet", "evaluate.sets": 1}, "evaluate", "evaluate/Real"),
])
def test_l4_what_a_changed_parameter_replaces_is_set_aside_and_taken_back(
        nano_run: Run, caplog: pytest.LogCaptureFixture, change: dict, chapter: str, name: str):
    before = contents(nano_run.folder)
    Run.open(nano_run.folder, change).make(chapter)
    kept(before, nano_run.folder)
    [old] = aside(nano_run.folder, name)
    [line] = [line for line in caplog.messages if line.startswith(f"{name} is replaced")]
    key, value = next(iter(change.items()))
    assert key.split(".")[-1] in line or str(value) in line  # what has changed,
    assert " of work" in line  # what it took to make,
    assert str(old.relative_to(nano_run.folder)) in line  # and where it is
    nano_run.make(chapter)
    now = contents(nano_run.folder)
    assert {key: now.get(key) for key in before} == before
    assert any(line.startswith(f"{name}: taken back") for line in caplog.messages)


def test_l4_of_a_set_that_grows_only_the_new_pairs_are_made(nano_run: Run, monkeypatch: pytest.MonkeyPatch):
    before = contents(nano_run.folder / "inpaint")
    made: list[str] = []
    real = dataset.write_pair
    monkeypatch.setattr(dataset, "write_pair",
                        lambda folder, name, *pair: made.append(name) or real(folder, name, *pair))
    result = Run.open(nano_run.folder, {"inpaint.sources": 6}).make("inpaint")
    rows = [row for one in result.sets.values() for row in [*one.manifest["name"], *one.left_out["name"]]]
    assert sorted(rows) == [f"phantom_{n:05d}_1" for n in range(6)]
    assert {name[:13] for name in made} <= {"phantom_00004", "phantom_00005"}
    kept({f"inpaint/{name}": content for name, content in before.items()}, nano_run.folder)


# ---- L5: a training that fails

def test_l5_a_finished_model_stays_where_another_training_diverges(nano_run: Run):
    before = contents(nano_run.folder)
    with pytest.raises(UserError, match="diverged"):
        Run.open(nano_run.folder, {"train.lr": 1e30}).make("train")
    now = contents(nano_run.folder)
    assert {name: now.get(name) for name in before} == before
    assert {Path(name).parts[0] for name in now.keys() - before.keys()} <= {MAKING}
    assert [model.name for model in nano_run.models.models] == ["cluster-00", "cluster-01"]


# ---- L6: a notebook's default cell

def test_l6_a_notebooks_default_cell_keeps_the_parameters_of_the_run_that_is_there(smoke: Run):
    Run.from_notebook({"profile": "smoke", "changes": {"train.images": 48}}).make("train")
    before = contents(smoke.folder)
    Run.from_notebook({"profile": "smoke", "changes": {}}).make("inpaint")
    after = contents(smoke.folder)
    assert {name: after[name] for name in before if not name.startswith("inpaint/")} == {
        name: content for name, content in before.items() if not name.startswith("inpaint/")}
    kept(before, smoke.folder)
    assert params.load(smoke.folder / "params.yaml")["train"]["images"] == 48


def test_l6_a_profiles_name_alone_means_the_run_of_that_name(smoke: Run, checkout: Path):
    dataset.write_phantoms(checkout / "set", 8, 16, 1)
    (checkout / "mine.yaml").write_text((checkout / "params/smoke.yaml").read_text())
    mine = Run.create("mine.yaml", {"data": {"source": str(checkout / "set"), "count": None}})
    mine.make("cluster")
    before = contents(mine.folder)
    for place in ("params", "."):  # its file may lie where profiles do, or not
        shutil.copy(checkout / "params/smoke.yaml", checkout / place / "mine.yaml")
        Run.from_notebook({"profile": "mine"}).make("cluster")
        assert contents(mine.folder) == before
        (checkout / place / "mine.yaml").unlink()


# ---- L7: changed data

@pytest.fixture
def own(checkout: Path, finished: Path) -> Run:
    """A run of a folder of pairs, up to chapter 1; models of others, who had the same pairs, in models/."""
    dataset.write_phantoms(checkout / "set", 10, 16, 0)
    shutil.copytree(finished / "train", checkout / "models")
    changes = {"data": {"source": str(checkout / "set"), "count": None, "on_bad": "skip"}}
    run = Run.create("smoke", changes)
    run.make("cluster")
    return run


def test_l7_other_data_set_aside_what_was_made_of_the_first(own: Run, checkout: Path):
    before = contents(own.folder)
    dataset.write_phantoms(checkout / "other", 8, 16, 2)
    Run.open(own.folder, {"data.source": str(checkout / "other")}).make("cluster")
    kept(before, own.folder)
    assert len(aside(own.folder, "data")) == len(aside(own.folder, "cluster")) == 1
    image, mask = pairsets.read_pair(checkout / "set", "phantom_00000")
    more = dataset.write_pair(checkout / "set", "more", image[:, ::-1], mask[:, ::-1])
    assert len(own.make("data")) == 11
    kept(before, own.folder)
    assert len(aside(own.folder, "data")) == 2
    for path in more:
        path.unlink()
    own.make("cluster")
    now = contents(own.folder)
    assert {name: now.get(name) for name in before} == before


@pytest.mark.parametrize("on_bad", ["skip", "refuse"])
def test_l7_an_error_of_reading_is_no_change_of_the_data(
        own: Run, checkout: Path, monkeypatch: pytest.MonkeyPatch, on_bad: str):
    run = Run.open(own.folder, {"data.on_bad": on_bad})
    run.make("cluster")
    before = contents(run.folder)
    victim = checkout / "set" / "images" / "phantom_00003.png"
    os.utime(victim, (1, 1))
    real = files.sha256

    def failing(path: Path) -> str:
        if path == victim:
            raise OSError(5, "Input/output error")
        return real(path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256", failing)
        for act in (run.make, Run.open(run.folder).read):
            with pytest.raises(UserError, match=r"phantom_00003\.png cannot be read: Input/output error"):
                act("cluster")
    assert contents(run.folder) == before


def test_l7_a_damaged_image_under_refuse_is_refused_and_the_pairs_stay(own: Run, checkout: Path):
    run = Run.open(own.folder, {"data.on_bad": "refuse"})
    run.make("cluster")
    before = contents(run.folder)
    (checkout / "set" / "images" / "phantom_00003.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"phantom_00003\.png +unreadable"):
        run.make("cluster")
    assert contents(run.folder) == before


# ---- L8: files that are only shown

def test_l8_a_loss_curve_that_an_editor_saved_again_changes_nothing_and_is_told(smoke: Run):
    curve = smoke.folder / "train" / "cluster-00" / "log.csv"
    curve.write_bytes(curve.read_bytes().replace(b"\n", b"\r\n"))
    (smoke.folder / "train" / "cluster-01" / "samples").rename(smoke.folder / "train" / "cluster-01" / "old")
    before = contents(smoke.folder)
    smoke.make("inpaint")
    assert contents(smoke.folder) == before
    told = call("status", smoke.folder)
    assert told.exit_code == 0
    assert "train/cluster-00/log.csv is not the file that was written (it is only shown)" in told.stdout
    assert "train/cluster-01/samples/0000012.png is missing (it is only shown)" in told.stdout


# ---- L9: synthetic pairs that the user touches

@pytest.mark.parametrize("harm", ["edit", "delete"])
def test_l9_a_pair_that_the_user_changed_is_told_and_remade_only_on_request(
        smoke: Run, command: None, harm: str):
    folder = smoke.folder / "inpaint" / "2-Diff"
    pair = sorted((folder / "images").iterdir())[0]
    original = pair.read_bytes()
    (folder / "images" / "notes.txt").write_text("the user's")
    if harm == "edit":
        pair.write_bytes(b"the user's")
    else:
        pair.unlink()
    before = contents(smoke.folder)
    name = pair.relative_to(folder).as_posix()
    reason = "is not the file that was written" if harm == "edit" else "is missing"
    assert f"inpaint/2-Diff/{name} {reason}" in call("status", smoke.folder).stdout
    for act in (lambda: smoke.make("style"), lambda: Run.open(smoke.folder).evaluated):
        with pytest.raises(UserError, match=f"changed by hand: {name} {reason}.*--remake inpaint"):
            act()
    assert "--remake inpaint" in refusal(call("run", smoke.folder / "params.yaml", "--only", "style",
                                              "--no-book"))
    assert contents(smoke.folder) == before

    done = call("run", smoke.folder / "params.yaml", "--only", "style", "--no-book", "--remake", "inpaint")
    assert done.exit_code == 0, done.exception
    assert pair.read_bytes() == original
    assert (folder / "images" / "notes.txt").read_text() == "the user's"
    kept(before, smoke.folder)


def test_l9_only_the_named_chapter_is_remade(smoke: Run, command: None):
    for name in ("inpaint/2-Diff/manifest.csv", "cluster/clusters.csv"):
        (smoke.folder / name).write_text("the user's")
    before = contents(smoke.folder)
    words = ("run", smoke.folder / "params.yaml", "--only", "style", "--no-book", "--remake", "inpaint")
    assert "--remake cluster" in refusal(call(*words))
    assert contents(smoke.folder) == before
    done = call(*words, "--remake", "cluster")
    assert done.exit_code == 0, done.exception
    kept(before, smoke.folder)


# ---- L10: parameters that were edited

def test_l10_an_edited_run_is_refused_where_it_would_mix_and_what_differs_is_told(smoke: Run, command: None):
    path = smoke.folder / "params.yaml"
    values = params.load(path)
    values["train"]["lr"] = 0.5
    path.write_text(yaml.safe_dump(values))
    before = contents(smoke.folder)
    for words in (("review", "make", smoke.folder),
                  ("run", path, "--only", "inpaint", "--no-book"),
                  ("run", path, "--from", "style", "--no-book")):
        assert "train.lr: 0.001 -> 0.5" in refusal(call(*words))
        assert contents(smoke.folder) == before
    with pytest.raises(NotMadeError, match=r"train\.lr: 0\.001 -> 0\.5"):
        review.folders_of(Run.open(smoke.folder), smoke.folder.parent / "real")


def test_l10_a_chosen_chapter_takes_back_what_is_aside_and_makes_what_never_was(smoke: Run, command: None):
    before = contents(smoke.folder)
    assert call("run", "smoke", "-p", "train.lr", "0.002", "--only", "train", "--no-book").exit_code == 0
    assert call("run", "smoke", "--only", "inpaint", "--no-book").exit_code == 0
    now = contents(smoke.folder)
    assert {name: now.get(name) for name in before if name.startswith("train")} == {
        name: content for name, content in before.items() if name.startswith("train")}
    assert call("run", "smoke", "-p", "run_dir", "new", "--only", "cluster", "--no-book").exit_code == 0


# ---- L11: SIGTERM

@pytest.mark.parametrize(("number", "everybody"), [
    (signal.SIGTERM, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, True, marks=pytest.mark.slow)])
def test_l11_a_run_that_is_told_to_end_ends_with_one_line_and_goes_on(
        nano: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, everybody: bool):
    folder, profile = Path(nano["run_dir"]), tmp_path / "nano.yaml"
    profile.write_text(yaml.safe_dump({**nano, "train": {
        **nano["train"], "images": 10**6, "checkpoint_every": 10**6}}))
    path = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen(
            [sys.executable, "-m", "diffusegen_core", "run", str(profile), "--only", "train", "--no-book"],
            start_new_session=True, stdout=said, stderr=said,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        while not list(folder.glob(f"{MAKING}/train/*/*/samples/*2.png")) and run.poll() is None:
            time.sleep(0.05)
        # To this process alone, or, as a step of Slurm ends or a terminal closes, to its kernel as well.
        for one in (*(psutil.Process(run.pid).children(recursive=True) if everybody else ()), run):
            one.send_signal(number)
        if number == signal.SIGHUP:  # which comes twice
            run.send_signal(number)
        assert run.wait(timeout=60) == 128 + number
    text = (tmp_path / "said").read_text()
    assert text.endswith("diffusegen: terminated; run the same command again to continue.\n")
    assert "Traceback" not in text
    with pytest.raises(ProcessLookupError):  # its kernel has ended as well
        os.killpg(run.pid, 0)
    [place] = folder.glob(f"{MAKING}/train/*/*")
    # No checkpoint was due: this is the one of the end.
    reached = checkpoints.header(place / train.CHECKPOINT)["steps"]
    assert reached * nano["train"]["batch_size"] >= int(max((place / "samples").iterdir()).stem)
    steps: list[int] = []

    def stop(task: object, state: training.State, *rest: object) -> None:
        steps.append(state.step)
        raise KeyboardInterrupt
    monkeypatch.setattr(train, "optimize", stop)
    with pytest.raises(KeyboardInterrupt):
        Run.open(folder).make("train")
    assert steps == [reached]


# ---- L12: training longer

def test_l12_a_finished_model_is_trained_longer_from_where_it_was(
        nano_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps: list[int] = []
    real = train.optimize

    def counted(task: training.Training, state: training.State, *rest: Any) -> Any:
        steps.append(state.step)
        return real(task, state, *rest)
    monkeypatch.setattr(train, "optimize", counted)
    longer = Run.open(nano_run.folder, {"train.images": 40}).make("train")
    assert steps == [*range(6, 10), *range(6, 10)]  # of each model the steps that are new
    assert [model.images for model in longer.models] == [40, 40]
    for name in ("train", ASIDE):
        (nano_run.folder / name).rename(tmp_path / name)
    fresh = Run.open(nano_run.folder).make("train")  # from nothing, in one go
    assert [model.sha256 for model in fresh.models] == [model.sha256 for model in longer.models]


# ---- U3, U4, U6, U8, U9

def test_u3_a_copied_profile_never_runs_over_anothers_run(smoke: Run, checkout: Path, command: None):
    before = contents(smoke.folder)
    for told in ("profile: smoke\n", ""):
        (checkout / "mine.yaml").write_text(told + (checkout / "params/smoke.yaml").read_text())
        done = call("run", "mine.yaml", "-p", "cluster.k", "3", "--only", "cluster", "--no-book")
        assert done.exit_code == 0, done.exception
        Run.from_notebook({"profile": "mine.yaml", "changes": {"cluster.k": 2}}).make("cluster")
    assert contents(smoke.folder) == before
    assert len(Run.open("runs/mine").clusters.sizes) == 2


def test_u4_papermill_with_a_misspelt_section_is_refused_in_one_line(checkout: Path):
    cells = [nbformat.v4.new_code_cell('profile = "smoke"\nchanges = {}', metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("from diffusegen_core import Run\nrun = Run.from_notebook(globals())")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), checkout / "chapter.ipynb")
    done = subprocess.run([sys.executable, "-m", "papermill", "chapter.ipynb", "out.ipynb", "-k", "python3",
                           "-y", "{clusters: {k: 3}}"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == "UserError: Parameters: clusters: unknown key (did you mean cluster?)."
    assert not (checkout / "runs").exists()


def test_u6_a_run_that_was_copied_without_its_inputs_is_read_and_reviewed(
        own: Run, checkout: Path, command: None):
    clusters = {k: np.array([f"./x/phantom_{n:05d}.jpg" for n in range(k, 10, 2)], str) for k in range(2)}
    (checkout / "clusters_2.pkl").write_bytes(pickle.dumps(clusters, 4))
    Run.open(own.folder, {"train.checkpoints": str(checkout / "models"),
                          "cluster.file": str(checkout / "clusters_2.pkl")}).make("style")
    for name in ("set", "models", "clusters_2.pkl"):
        (checkout / name).rename(checkout / f"gone_{name}")
    moved = shutil.copytree(own.folder, checkout / "moved")
    before = contents(moved)
    run = Run.open(moved)
    assert (len(run.pairs), len(run.styled.sets)) == (10, 1)
    done = call("review", "make", moved, "--per-type", "1", "--out", checkout / "review")
    assert done.exit_code == 0, done.exception
    assert call("book", moved).exit_code == 0
    run.make("style")
    drawn = {f"figures/{name}.png" for name in (opening.STRIP, opening.ENDS)}  # the front page's
    assert {name: content for name, content in contents(moved).items() if name not in drawn} == before
    before = contents(moved)
    for change, says in (({"data.image_size": 8}, "is not there"), ({"cluster.k": 1}, "clusters_2"),
                         ({"train.sample_weights": "raw"}, "train.checkpoints"),
                         *(({key: str(checkout / "typo")}, "typo")  # stands for nothing that was read
                           for key in ("train.checkpoints", "cluster.file", "data.source"))):
        with pytest.raises(UserError, match=says):
            Run.open(moved, change).make("train")
        assert contents(moved) == before


def test_u8_a_relative_folder_means_the_same_in_every_command(checkout: Path, command: None,
                                                              monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(checkout / "work")
    for place, count in ((checkout / "work" / "mine", 4), (checkout / "theirs", 5)):
        dataset.write_phantoms(place, count, 16, 0)
        assert f"{count} pairs" in call("data", "check", place.name).stdout
        folder = checkout / f"of_{place.name}"
        done = call("run", "smoke", "-p", "data.source", place.name, "-p", "data.count", "null",
                    "-p", "run_dir", folder, "--only", "cluster", "--no-book")
        assert done.exit_code == 0, done.exception
        assert params.resolve(Run.open(folder).params.data.source) == place
        assert len(Run.open(folder).pairs) == count


def stepping(steps: int) -> None:
    """A work item whose bar tqdm's monitor looks after."""
    with progress.bar("steps", steps, "step") as bar:
        bar.miniters, bar.maxinterval, bar.last_print_t = 100, 0.0, 0.0
        end = time.monotonic() + 30
        while bar.miniters == 100 and time.monotonic() < end:
            time.sleep(0.01)
        assert bar.miniters == 1, "the monitor has not come by"
        bar.update(steps)


def test_u9_progress_of_workers_ends_in_no_traceback_of_a_monitor(monkeypatch: pytest.MonkeyPatch,
                                                                  capfd: pytest.CaptureFixture[str]):
    wrong: list[object] = []
    monkeypatch.setattr(threading, "excepthook", wrong.append)
    for kind in (tqdm.tqdm, progress._Told):
        monkeypatch.setattr(kind, "monitor_interval", 0.05)
        monkeypatch.setattr(kind, "monitor", None)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0",
                      resources={"device": 1}) as workers:
        monkeypatch.setenv(fanout.SCHEDULER, workers.scheduler_address)
        fanout.run(stepping, [fanout.Item(str(n), None, {"steps": 200}, cost=200) for n in range(2)], "Long")
    for kind in (tqdm.tqdm, progress._Told):
        if kind.monitor is not None:
            kind.monitor.exit()
    assert wrong == []
    assert "Traceback" not in capfd.readouterr().err


# ---- any sequence

class Killed(BaseException):
    """Stands in for a kill: nothing after it is done."""


def kill_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Let the process end after so many renamings and writings."""
    left = [count]
    for module, name in ((os, "rename"), (os, "replace"), (files, "write")):
        real = getattr(module, name)

        def counted(*arguments: Any, real: Any = real, **more: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **more)
        patch.setattr(module, name, counted)


CHANGES: list[dict[str, Any]] = [
    {}, {"seed": 1}, {"cluster.k": 1}, {"cluster.scan": []}, {"data.count": 6}, {"data.image_size": 8},
    {"gan.source": None}, {"gan.steps": 1}]
REFUSED: list[dict[str, Any]] = [
    {"cluster.k": 11}, {"cluster.weights": "no/such.file"}, {"data.names": ["nobody"]},
    {"data.source": "/nowhere"}, {"cluster.file": "/nowhere.pkl"}, {"train.image": 5}, {"seed": -1}]
Act = tuple[dict[str, Any], int | None]  # a change, and after how many writings the process is killed
ACTS = st.one_of(
    st.tuples(st.sampled_from(CHANGES), st.none() | st.integers(0, 25)),
    st.tuples(st.sampled_from(REFUSED), st.none()))


def drawn_at_once(jobs: list[pairsets.Job], keys: list[str], folder: Path, **rest: object) -> None:
    """Pairs as a GAN's work function leaves them, without a GAN."""
    for job, key in zip(jobs, keys, strict=True):
        pair = np.full((3, 16, 16), job.seed % 251, np.uint8), np.ones((1, 16, 16), np.uint8)
        pairsets.keep(folder, job.name, key, {**job.origin, "area": 1.0}, pair, 0.0)


def means(images: np.ndarray, *rest: object) -> np.ndarray:
    """Features that take no network."""
    return images.reshape(len(images), -1)[:, ::16].astype(np.float32)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTS, min_size=1, max_size=5))
def test_any_changes_refusals_and_kills_leave_every_finished_or_foreign_file(
        cheap: Path, tmp_path_factory: pytest.TempPathFactory, sequence: list[Act]):
    folder = tmp_path_factory.mktemp("any") / "run"
    shutil.copytree(cheap, folder)
    foreign = {files.sha256(files.write_text(folder / name, f"the user's {name}")): name
               for name in ("data/notes.txt", "cluster/sub/notes.txt", "mine.txt", "gan/GAN/images/x.txt")}
    for change, kill in sequence:
        finished = stamped(folder) | set(foreign)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gan, "make_source", drawn_at_once)
            patch.setattr(features, "extract", means)
            if kill is not None:
                kill_after(patch, kill)
            done = False
            with contextlib.suppress(Killed, UserError):
                for chapter in ("cluster", "gan"):
                    Run.open(folder, change).make(chapter)
                done = True
        assert finished <= set(contents(folder).values())
        if done:  # then what a kill had left aside is back as well
            assert {name: content for name, content in contents(folder).items() if content in foreign} == {
                name: content for content, name in foreign.items()}
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cheap(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cheap chapters of a finished run."""
    folder = tmp_path_factory.mktemp("cheap") / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("train", "inpaint", "style", "evaluate",
                                                                    "segment", "augment", "tests"))
    return folder


def stamped(folder: Path) -> set[str]:
    """The hashes of all files of finished artifacts, wherever in the run they lie."""
    hashes = set()
    for path in folder.rglob(STAMP):
        if stamp := read_stamp(path.parent):
            hashes |= {file["sha256"] for file in stamp["outputs"].values()}
    return hashes
