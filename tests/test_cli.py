"""The command: what it understands, and how it says that something is wrong."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from diffusegen_core import Run, __version__, cli, notebooks
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, phantom
from diffusegen_core.networks import weights
from diffusegen_core.newprofile import firstlook
from diffusegen_core.parallel import fanout
from diffusegen_core.planning import preflight
from diffusegen_core.report import book, front
from diffusegen_core.store import files, lock, ownpages
from diffusegen_core.store.stamps import ASIDE, MAKING

NAMES = [path.stem for path in notebooks.every()]


def call(*words: object):
    """The command in this process; a UserError is the result's exception."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def profile(nano: dict, tmp_path: Path) -> Path:
    path = tmp_path / "nano.yaml"
    path.write_text(yaml.safe_dump(nano))
    return path


@pytest.fixture
def executed(monkeypatch) -> list[tuple]:
    """Chapters that the command would have executed, with their parameters, and books it would have built."""
    calls: list[tuple] = []
    monkeypatch.setattr(notebooks, "execute", lambda path, run: calls.append((path.stem, run.params)))
    monkeypatch.setattr(front, "draw", lambda run: None)
    monkeypatch.setattr(
        book, "build", lambda folder, **more: calls.append(("book", folder)) or folder / "index.html")
    return calls


# ---- run

def test_help_explains_run_and_its_options():
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", call("run", "--help").stdout).split())
    for words in ("--from", "--to", "--only", "--no-book", "-p KEY VALUE A parameter, such as"):
        assert words in text


@pytest.mark.parametrize(("where", "refused"), [
    ([], True), (["--dry-run"], False), (["--workers", "2"], True)])
def test_a_device_that_is_not_there_is_refused_at_once(where: list, refused: bool, profile: Path,
                                                       executed: list, monkeypatch):
    monkeypatch.setattr(preflight, "dry_run", lambda p, chosen: "dry")
    result = call("run", profile, "-p", "device", "cuda:77", *where)
    assert bool(result.exception) == refused
    assert ("cuda:77 is asked for" in str(result.exception)) == refused
    assert executed == []
    assert not params.validate(params.load(profile)).folder.exists()


def test_a_device_may_be_that_of_the_workers_alone(profile: Path, executed: list, monkeypatch):
    monkeypatch.setenv(fanout.SCHEDULER, "tcp://127.0.0.1:1")
    result = call("run", profile, "-p", "device", "cuda:77")
    assert result.exit_code == 0, result.exception
    assert [name for name, _ in executed] == [*NAMES, "book"]


def test_run_executes_every_chapter_under_the_lock_and_builds_the_book(
        profile: Path, executed: list, monkeypatch):
    def inside(chapter: Path, run: Run) -> None:
        with monkeypatch.context() as patch:
            patch.delenv(lock.HOLDER)
            with pytest.raises(UserError, match="Another run"), lock.hold(run.folder):
                pass
        executed.append((chapter.stem, run.params))
    monkeypatch.setattr(notebooks, "execute", inside)
    result = call("run", profile)
    assert result.exit_code == 0, result.exception
    p = params.validate(params.load(profile))
    assert executed == [*((name, p) for name in NAMES), ("book", p.folder)]
    assert f"The book: {p.folder / 'index.html'}" in result.stdout
    assert Run.open(p.folder).params == p
    assert "Next: " not in result.stdout
    part = call("run", profile, "--to", "3")
    again = f"diffusegen run {p.folder}/params.yaml"
    assert part.stdout.endswith(f"Next: `{again}` makes the rest, and keeps what is made.\n")


def test_overrides_take_a_key_and_a_value_and_may_be_repeated(profile: Path, executed: list, tmp_path: Path):
    folder = tmp_path / "a=b"
    dataset.write_phantoms(folder, 2, 16, 0)
    result = call("run", "-p", "train.images", "7000", profile, "-p", "data.source", folder, "--no-book",
                  "-p", "model.attention_resolutions", "[16]", "-p", "seed=3", "--to", "1")
    assert result.exit_code == 0, result.exception
    (name, p), = executed
    assert name == "01_cluster"
    assert (p.train.images, p.seed, p.data.source) == (7000, 3, str(folder))
    assert p.model.attention_resolutions == [16]


@pytest.mark.parametrize(("words", "says"), [
    (("-p", "train.image", "5"), "train.image: unknown key (did you mean train.images?)"),
    (("-p", "train.images", "many"), "train.images: "),
    (("-p", "train.images"), "-p train.images: write -p KEY VALUE"),
    (("-p",), "write -p KEY VALUE"),
    (("-p", "seed", "-1"), "seed: "),
    (("--from", "9"), "There is no chapter 9. The chapters are 01_cluster, 02_train, 03_inpaint"),
    (("--from", "inpaint", "--to", "cluster"), "--from inpaint comes after --to cluster"),
    (("--only", "train", "--to", "3"), "--only cannot be combined with --from or --to"),
    (("-p", "segment.cvc", "/nowhere"), "segment.cvc: /nowhere is not a folder"),
    (("-p", "segment.types", "[20-Diff]", "--dry-run"), "segment.types: this run has no data type 20-Diff"),
])
def test_run_refuses_before_it_makes_anything(profile: Path, executed: list, words: tuple, says: str):
    result = call("run", profile, *words)
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)
    assert executed == []
    assert list(profile.parent.iterdir()) == [profile]


def test_a_dry_run_shows_the_chosen_grids_and_makes_nothing(profile: Path, executed: list, monkeypatch):
    monkeypatch.setattr(weights, "_ask", None)
    monkeypatch.setattr(weights, "_answered", lambda address, minute: True)
    pretrained = ("-p", "segment.encoder", "resnet18", "-p", "segment.weights", "pretrained")
    for words, titles in (((), (True, True)), (("--only", "7"), (False, True)),
                          (("--to", "6"), (True, False)), (("--only", "3"), (False, False))):
        result = call("run", profile, "--dry-run", *words, *pretrained)
        assert result.exit_code == 0, result.exception
        assert ("Synthetic data alone: " in result.stdout, "Small sets: " in result.stdout) == titles
        assert ("the chosen chapters train none" in result.stdout) == (not any(titles))
    assert list(profile.parent.iterdir()) == [profile]
    assert executed == []


def test_an_error_that_no_chosen_chapter_comes_to_does_not_stop_it(profile: Path, executed: list):
    assert call("run", profile, "-p", "segment.cvc", "/nowhere", "--to", "5", "--no-book").exit_code == 0
    assert [name for name, _ in executed] == NAMES[:5]


@pytest.mark.parametrize(("chosen", "wanted"), [
    ({}, NAMES),
    ({"first": "2"}, NAMES[1:]),
    ({"last": "train"}, NAMES[:2]),
    ({"first": "02", "last": "02_train"}, NAMES[1:2]),
    ({"only": ["inpaint", "1", "inpaint"]}, [NAMES[0], NAMES[2]]),
])
def test_chapters_are_chosen_by_number_or_name(chosen: dict, wanted: list[str]):
    assert [chapter.stem for chapter in notebooks.choose(**chosen)] == wanted


# ---- executing a chapter

def write_notebook(path: Path, *sources: str) -> None:
    """A notebook with a parameters cell, and these cells."""
    cells = [nbformat.v4.new_code_cell("profile = ''\nchanges = None", metadata={"tags": ["parameters"]}),
             *map(nbformat.v4.new_code_cell, sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


@pytest.mark.parametrize(("source", "says"), [
    ("from diffusegen_core.config.errors import UserError\nraise UserError('Place the file by hand.')",
     "01_x: Place the file by hand."),
    ("from diffusegen_core.store.artifacts import OutdatedError\nraise OutdatedError('Make it again.')",
     "01_x: Make it again."),
    ("from pathlib import Path\nfrom diffusegen_core.store.artifacts import NotMadeError\n"
     "raise NotMadeError.of('It is not made.', Path('x'), 'train')",
     "01_x: It is not made. Make it with `diffusegen run`."),  # and not with run.make
    ("1 / 0", "01_x failed: ZeroDivisionError: division by zero The traceback is in "),
    ("import os\nos._exit(9)", "01_x failed: its process was killed"),
])
def test_a_chapter_that_fails_says_so_and_keeps_what_it_did(
        nano_params: params.Params, tmp_path: Path, capfd: pytest.CaptureFixture, source: str, says: str):
    chapter = tmp_path / "01_x.ipynb"
    write_notebook(chapter, "print('changes are', changes, 'of', profile)", source)
    with pytest.raises(UserError) as caught:
        notebooks.execute(chapter, Run(nano_params))
    assert str(caught.value).startswith(says)
    assert "without encryption" not in capfd.readouterr().err
    failed = nano_params.folder / "notebooks" / "failed" / "01_x.ipynb"
    assert f"changes are {{}} of {nano_params.folder}" in failed.read_text()
    assert not (nano_params.folder / "notebooks" / "01_x.ipynb").exists()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks are executed by copying them, without a kernel."""
    monkeypatch.setattr(papermill, "execute_notebook",
                        lambda source, target, *_, **__: shutil.copy(source, target))


def test_an_executed_chapter_replaces_its_own_page_and_sets_aside_what_was_edited_or_is_of_another_run(
        nano_params: params.Params, tmp_path: Path, at_once: None):
    chapter = tmp_path / f"{NAMES[0]}.ipynb"
    write_notebook(chapter, "1 + 1")
    page, aside = nano_params.folder / "notebooks" / chapter.name, nano_params.folder / ASIDE / "notebooks"
    run = Run(nano_params)
    assert notebooks.execute(chapter, run) == page
    first = page.read_bytes()
    notebooks.execute(chapter, run)
    assert page.read_bytes() == first
    assert not aside.exists()
    edited = first.replace(b"1 + 1", b"mine!")
    page.write_bytes(edited)
    notebooks.execute(chapter, run)
    assert (page.read_bytes(), [path.read_bytes() for path in aside.iterdir()]) == (first, [edited])
    notebooks.execute(chapter, Run(nano_params.model_copy(update={"seed": 1})))
    assert sorted(path.read_bytes() for path in aside.iterdir()) == sorted([first, edited])
    assert page.read_bytes() != first


@pytest.mark.parametrize("content", ["no notebook", '{"cells": [], "metadata": {}, "nbformat": 4}'])
def test_a_page_of_the_users_in_a_chapters_place_is_set_aside(nano_params: params.Params, tmp_path: Path,
                                                              at_once: None, content: str):
    chapter = tmp_path / f"{NAMES[0]}.ipynb"
    write_notebook(chapter, "1 + 1")
    page = nano_params.folder / "notebooks" / chapter.name
    page.parent.mkdir(parents=True)
    page.write_text(content)
    (page.parent / ownpages.WRITTEN).write_text("[]")
    notebooks.execute(chapter, Run(nano_params))
    assert [path.read_text() for path in (nano_params.folder / ASIDE).rglob("*.ipynb")] == [content]


def test_only_a_chapter_that_makes_something_is_made_again(profile: Path, executed: list, tmp_path: Path):
    for name in ("tarin", "summary"):
        result = call("run", profile, "--remake", name)
        assert f"--remake: there is no chapter {name}. There are data, cluster" in str(result.exception)
    typo = ("-p", "train.checkpoints", tmp_path)
    result = call("run", profile, "--only", "cluster", "--remake", "train", *typo)
    assert "train.checkpoints" in str(result.exception), "what it needs is checked as well"
    assert executed == []


# ---- status and clean

def test_status_tells_what_was_changed_by_hand(nano_run: Run):
    lines = call("status", nano_run.folder).stdout.splitlines()
    path = nano_run.folder / "train" / "cluster-00" / "model.safetensors"
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # so that only its hash tells
    assert call("status", nano_run.folder).stdout.splitlines() == lines
    told = "train/cluster-00/model.safetensors is not the file that was written"
    assert told in call("status", nano_run.folder, "--verify").stdout.splitlines()


def test_clean_lists_what_is_set_aside_and_removes_only_what_it_is_told_to(nano_run: Run):
    assert call("clean", nano_run.folder).stdout == "Nothing is set aside.\n"
    for change in ({"cluster.scan": []}, {"gan.steps": 1}):
        Run.open(nano_run.folder, change).make("gan")
        Run.open(nano_run.folder, change).make("cluster")
    files.write_text(nano_run.folder / MAKING / "train" / "cluster-00" / f"{0:016d}" / "log.csv", "half")
    pages = [files.write_text(nano_run.folder / ASIDE / "notebooks" / name, "{}")
             for name in ("01_cluster-a.ipynb", "02_train-b.ipynb")]
    mine = [nano_run.folder / ASIDE / "cluster" / "notes.txt", nano_run.folder / ASIDE / "mine.txt"]
    for path in mine:
        path.write_text("mine")
    before = {path: path.read_bytes() for path in nano_run.folder.rglob("*") if path.is_file()}
    listed = call("clean", nano_run.folder).stdout
    names = re.findall(r"(?:aside|making)/\S+", listed)
    assert {name.rpartition("/")[0] for name in names} == {
        "aside/cluster", "aside/gan/GAN", "making/train/cluster-00", "aside/notebooks",
        "aside/params"}
    assert re.search(r"s of work +aside/cluster/", listed)
    assert re.search(r"unfinished +making/train/cluster-00/0", listed)
    assert {path: path.read_bytes() for path in nano_run.folder.rglob("*") if path.is_file()} == before

    with pytest.raises(UserError, match="nothing set aside that is called cluster"):
        raise call("clean", nano_run.folder, "--remove", "cluster").exception or AssertionError
    [cluster] = [name for name in names if name.startswith("aside/cluster/")]
    done = call("clean", nano_run.folder, "--remove", cluster)
    assert done.exit_code == 0, done.exception
    assert cluster not in done.stdout.partition("\n")[2]
    assert not (nano_run.folder / cluster).exists()
    assert (nano_run.folder / "cluster").is_dir()
    assert call("clean", nano_run.folder, "--remove", "aside/notebooks/02_train-b.ipynb").exit_code == 0
    assert [page.exists() for page in pages] == [True, False]
    done = call("clean", nano_run.folder, "--remove", "all")
    assert done.stdout.endswith("Nothing is set aside.\n")
    assert sorted(path for path in (nano_run.folder / ASIDE).rglob("*") if path.is_file()) == sorted(mine)
    assert nano_run.status().loc["data", "status"] == "made"


# ---- book and data

def test_a_folder_that_is_no_run_has_no_book(tmp_path: Path):
    result = call("book", tmp_path)
    assert isinstance(result.exception, UserError)
    assert "is not a run" in str(result.exception)


def test_a_moved_run_keeps_its_book(profile: Path, executed: list, tmp_path: Path):
    call("run", profile, "--no-book")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert call("book", moved).exit_code == 0
    assert executed[-1] == ("book", moved)


def test_a_page_from_before_a_parameter_stays_in_the_book(nano_params: params.Params):
    given = params.plain(nano_params)
    page = nano_params.folder / "notebooks" / f"{NAMES[0]}.ipynb"
    page.parent.mkdir(parents=True)

    def found(values: object) -> list[Path]:
        nbformat.write(nbformat.v4.new_notebook(metadata={notebooks.OWN: {"params": values}}), page)
        return notebooks.executed(Run(nano_params))

    del given["cluster"]["file"]
    assert found(given) == [page]
    given["cluster"]["k"] += 1
    assert found(given) == found({}) == found({"no": "such key"}) == found([1]) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nbformat": 4}', 50_000 * "[",
                                  '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}'], ids=range(6))
def test_a_page_that_is_no_notebook_is_named(nano_params: params.Params, text: str):
    page = nano_params.folder / "notebooks" / f"{NAMES[0]}.ipynb"
    page.parent.mkdir(parents=True)
    page.write_text(text)
    with pytest.raises(UserError, match=f"{page} cannot be read as a notebook"):
        notebooks.executed(Run(nano_params))


def test_phantoms_pass_the_check_and_a_broken_folder_lists_every_problem(tmp_path: Path):
    folder = tmp_path / "pairs"
    drawn = call("data", "phantom", folder, "--count", 3, "--size", 16)
    assert drawn.exit_code == 0, drawn.exception
    good = call("data", "check", folder)
    assert (good.exit_code, "3 pairs" in good.stdout, "no problems" in good.stdout) == (0, True, True)
    assert "look  patients     unknown: if several images are of one patient, " in good.stdout
    assert "look  number       3 pairs, of which `new` holds out 1: too few for a verdict" in good.stdout

    first, second, third = sorted((folder / "masks").iterdir())
    first.unlink()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(second)
    third.write_text("no picture")
    bad = call("data", "check", folder, "--clusters", 2)
    assert bad.exit_code == 1
    assert all(path.stem in bad.stdout for path in (first, second, third)), bad.stdout


def test_a_check_guesses_patients_as_new_does_and_says_where_pairs_are_enough(tmp_path: Path):
    image, mask, _ = phantom.draw(0, 0, 16)
    for number in range(60):
        dataset.write_pair(tmp_path, f"pat{number // 6:02d}_{number}", image, mask)
    each = "10 patients, 6 images each, such as pat00, "
    for words, patients in (((), f"look  patients     {each}guessed from the images' names"),
                            (("--patients", "^(pat[0-9]+)"), f"ok    patients     {each}by data.patients")):
        told = call("data", "check", tmp_path, *words).stdout
        assert patients in told
        assert "look identical, 1620 of them of different patients" in told
        assert "look  number       60 pairs, of which `new` holds out 18: too few for a verdict" in told
    told = call("data", "check", tmp_path, "--patients", "each").stdout
    assert "ok    number       60 pairs, of which `new` holds out 21: enough for a verdict" in told


def test_a_check_guesses_classes_as_new_does(tmp_path: Path):
    for number in range(4):
        image, mask, _ = phantom.draw(0, number, 32)
        dataset.write_pair(tmp_path, f"x{number}", image, mask)
        values = np.zeros((32, 32), np.uint8)
        values[4:20, 4:20], values[8:12, 8:12] = 1, 3
        Image.fromarray(values).save(tmp_path / "masks" / f"x{number}.png")
    result = call("data", "check", tmp_path)
    assert result.exit_code == 0
    assert re.search(r"ok    mask values  0 .*; classes: class_1, class_3\n", result.stdout)
    assert ("look  labels       classes guessed from the values of the masks, as `new` does; give them "
            "names: -p data.labels '{1: NAME, 3: NAME}'") in result.stdout
    named = call("data", "check", tmp_path, "-p", "data.labels", "{1: liver, 3: cyst}")
    assert "classes: liver, cyst" in named.stdout
    assert "classes guessed" not in named.stdout
    called = call("data", "check", tmp_path, "-p", "data.object", "organ")
    assert called.exit_code == 0
    assert "classes: class_1, class_3" in called.stdout
    other = tmp_path.parent / "own.yaml"
    other.write_text("data: {object: cyst}\n")
    assert call("data", "check", tmp_path, "--profile", other).exit_code == 1, "as a run with it would refuse"


def test_a_check_and_new_hold_out_the_same_whole_patients(tmp_path: Path):
    image, mask, _ = phantom.draw(0, 0, 16)
    for number in range(30):
        dataset.write_pair(tmp_path, f"{'one' if number < 28 else 'two'}_{number:02d}", image, mask)
    told = call("data", "check", tmp_path, "--patients", "^(one|two)").stdout
    held = len(firstlook.look(tmp_path, {}, "^(one|two)", {}).held)
    assert held == 2
    assert ("look  number       30 pairs, of which `new` holds out 2: too few for a verdict, which needs 20 "
            "test images; no share up to 0.6 holds out so many, so let `new` test on another folder: -p "
            "segment.held_out DIR -p data.holdout null") in told
    for number in range(10):
        dataset.write_pair(tmp_path, f"three_{number:02d}", image, mask)
    told = call("data", "check", tmp_path).stdout
    assert ("`new` holds out 12: too few for a verdict, which needs 20 test images (with -p data.holdout "
            "0.49 `new` holds out enough, and 20 are left to train on)") in told
    told = call("data", "check", tmp_path, "-p", "data.holdout", "0.49").stdout
    assert "ok    number       40 pairs, of which `new` holds out 20: enough for a verdict" in told


def test_a_check_refuses_a_file_of_parameters_whose_section_is_a_value(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("data: pairs\n")
    result = call("data", "check", tmp_path, "--profile", tmp_path / "bad.yaml")
    assert isinstance(result.exception, UserError)
    assert "data is a section, not a value: it cannot be 'pairs'" in str(result.exception)


def test_a_run_never_replaces_the_data_that_lie_in_its_folder(profile: Path, executed: list, tmp_path: Path):
    folder = tmp_path / "run" / "data" / "pairs"
    call("data", "phantom", folder, "--count", 3, "--size", 16)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for run_dir in (tmp_path / "run", folder / "run"):
        result = call("run", profile, "-p", "data.source", folder, "-p", "run_dir", run_dir)
        assert "choose another run_dir" in str(result.exception).lower()
    assert executed == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before != {}


# ---- the process

@pytest.mark.parametrize(("words", "code", "says"), [
    (["version"], 0, __version__),
    (["run", "absent.yaml"], 2, "diffusegen: There is no parameter file absent.yaml, nor a profile of that "),
    (["run", "params.yaml", "-p", "cluster.k", "11"], 2,
     "diffusegen: Parameters: cluster.k 11 is more than the 10 pairs of data.count."),
    (["data", "check", "absent"], 2, "diffusegen: "),
    (["nonsense"], 2, "No such command"),
])
def test_the_command_answers_with_one_message_and_an_exit_code(
        nano: dict, tmp_path: Path, words: list[str], code: int, says: str):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(nano))
    path = os.pathsep.join(filter(None, [str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", "from diffusegen_core.cli import main; main()", *words]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
                          text=True)
    assert done.returncode == code
    assert says in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr
    if says.startswith("diffusegen: "):
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(("chapter", "age", "shared", "told"), [
    ("train", 1000, False, True), ("train", 0, False, False), ("train", 0, True, True),
    ("train", None, False, True), ("inpaint", 1000, True, False)])
def test_an_interruption_tells_how_far_back_a_training_goes(
        tmp_path: Path, nano_values: dict, monkeypatch: pytest.MonkeyPatch, chapter: str, age: int | None,
        shared: bool, told: bool) -> None:
    place = tmp_path / "run" / "making" / "train" / "cluster-00" / "key"
    place.mkdir(parents=True)
    if age is not None:
        (place / "checkpoint.safetensors").touch()
        os.utime(place / "checkpoint.safetensors", (time.time() - age,) * 2)
    run = Run(params.validate({**nano_values, "run_dir": str(tmp_path / "run")}))
    monkeypatch.setattr(cli, "_call", cli._Call())
    with pytest.raises(KeyboardInterrupt), cli._telling_how_far_back(run, chapter, shared):
        raise KeyboardInterrupt
    assert ("at most train.checkpoint_every = 2 steps back" in cli._call.behind) == told


def test_a_command_forgets_what_the_one_before_it_in_the_same_process_had_to_tell(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_call", cli._Call(resumes=True, behind=", of a run before"))
    assert call("version").exit_code == 0
    assert cli._call == cli._Call()
    call("paint", "--help")
    assert cli._call.resumes
