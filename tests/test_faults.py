"""Faults: kills, full disks, damaged files, changed inputs, a second run, a second writer, a wrong clock."""

import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tqdm

from diffusegen_core import cli
from diffusegen_core.chapters import train
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.planning import preflight
from diffusegen_core.run import Run
from diffusegen_core.segmentation import experiments, segnet
from diffusegen_core.store import artifacts, files, lock
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import ASIDE, MAKING, STAMP, read_stamp

Context = multiprocessing.context.BaseContext
CLOCKS = {"spent.json", "runs.csv", "generators.csv"}  # they hold seconds
PASSING = {lock.LOCK, "features"}  # no artifacts: a cache is filled in any order


def everything(values: dict) -> None:
    """All chapters; to be killed."""
    torch.set_num_threads(1)
    run = Run(params.validate(values))
    for chapter in ("evaluate", "segment", "augment"):
        run.make(chapter)


def count(folder: Path) -> int:
    """How many files there are."""
    return sum(path.is_file() for path in folder.rglob("*"))


def everything_until(values: dict, moment: int, when: str) -> None:
    """All chapters, killed once the run holds so many files: after a file is written, or amid that ("torn"),
    or after a folder was moved."""
    folder, real, real_rename = Path(values["run_dir"]), files.write, os.rename

    def die() -> None:
        if count(folder) >= moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(path: Path, save: Callable[[Path], object], *rest: object, **options: object) -> Path:
        def save_half(temporary: Path) -> None:
            save(temporary)
            if when == "torn" and count(folder) >= moment:
                halve(temporary)
                die()
        made = real(path, save_half, *rest, **options)
        if when == "written":
            die()
        return made

    def rename(*places: Path) -> None:
        real_rename(*places)
        if when == "moved":
            die()
    files.write, os.rename = write, rename
    everything(values)


def final(folder: Path, *parts: str) -> dict[str, object]:
    """What a run, or parts of it, has made: a hash of each file; of those that tell seconds, the rest."""
    found = {}
    for path in sorted(path for part in parts or [""] for path in (folder / part).rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or path.name in CLOCKS or PASSING & set(name.parts):
            continue
        if path.suffix == ".json":
            told = json.loads(path.read_text())
            found[str(name)] = {key: value for key, value in told.items() if key != "seconds"}
            if path.name == STAMP:
                found[str(name)] |= {"shown": sorted(told["shown"]), "outputs": {
                    output: made["sha256"] for output, made in told["outputs"].items()}}
        elif path.name in (train.OPTIMIZER, train.CHECKPOINT):
            content = path.read_bytes()
            end = 8 + int.from_bytes(content[:8], "little")
            told = json.loads(json.loads(content[8:end])["__metadata__"]["header"])
            found[str(name)] = {**told, "seconds": 0}, hashlib.sha256(content[end:]).hexdigest()
        else:
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def without_aside(found: dict[str, object]) -> dict[str, object]:
    return {name: told for name, told in found.items() if Path(name).parts[0] != ASIDE}


def unfinish(p: Params, name: str) -> Path:
    """Put an artifact back to where it was being made, as if it were not finished; that folder."""
    stamp = read_stamp(p.folder / name)
    folder = p.folder / MAKING / name / artifacts.key(stamp["recipe"])
    folder.parent.mkdir(parents=True)
    (p.folder / name).rename(folder)
    (folder / STAMP).unlink()
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads differ in their last bits
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nano_values(nano_values: dict) -> dict:
    """Styled one by one: the losses that are noted have other last figures in another batch. Networks of
    chapter 6 leave checkpoints."""
    return {**nano_values, "style": {**nano_values["style"], "batch_size": 1},
            "segment": {**nano_values["segment"], "checkpoint_every": 1}}


@pytest.fixture
def nano(nano_values: dict, tmp_path: Path) -> dict:
    return {**deepcopy(nano_values), "run_dir": str(tmp_path / "run")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nano_values: dict, killable: Context) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    child = killable.Process(target=everything, args=({**nano_values, "run_dir": str(folder)},))
    child.start()
    child.join(timeout=300)
    assert child.exitcode == 0
    return folder


@pytest.fixture
def copy(whole: Path, nano: dict) -> Params:
    """A finished run of the test's own."""
    shutil.copytree(whole, nano["run_dir"])
    return params.validate(nano)


# ---- kill -9

@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_same_artifacts(
        whole: Path, nano: dict, killable: Context):
    folder, chance = Path(nano["run_dir"]), random.Random(6)
    for moment, when in zip(sorted(chance.sample(range(3, count(whole)), 10)),
                            ["torn", "written", "moved"] * 3 + ["torn"], strict=True):
        child = killable.Process(target=everything_until, args=(nano, moment, when))
        child.start()
        child.join(timeout=300)
        assert child.exitcode == -signal.SIGKILL, "every kill must come in the middle"
    child = killable.Process(target=everything, args=(nano,))
    child.start()
    child.join(timeout=300)
    assert child.exitcode == 0
    assert final(folder) == final(whole)


@pytest.mark.slow
def test_the_command_goes_on_after_its_processes_were_killed(whole: Path, nano: dict, tmp_path: Path):
    folder = Path(nano["run_dir"])
    profile = tmp_path / "nano.yaml"
    profile.write_text(json.dumps(nano))  # which is YAML
    command = [sys.executable, "-c", "from diffusegen_core.cli import main; main()", "run", profile,
               "--only", "cluster", "--no-book"]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    killed = start()
    while not (folder / "data").is_dir() and killed.poll() is None:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert start().wait(timeout=300) == 0
    assert final(folder, "data", "cluster") == final(whole, "data", "cluster")
    assert (folder / "notebooks" / "01_cluster.ipynb").is_file()


def test_an_interrupted_run_ends_with_one_line(nano: dict, tmp_path: Path):
    profile, folder = tmp_path / "nano.yaml", Path(nano["run_dir"])
    profile.write_text(json.dumps({**nano, "train": {**nano["train"], "images": 10**6}}))
    # Tests that a shell runs in the background would hand down that interrupts are ignored.
    program = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
               "from diffusegen_core.cli import main; main()")
    command = [sys.executable, "-c", program, "run", str(profile), "--only", "train", "--no-book"]
    with (tmp_path / "said").open("w+") as said:
        run = subprocess.Popen(command, start_new_session=True, stdout=said, stderr=said)
        while not list(folder.glob(f"{MAKING}/train/*/*/log.csv")) and run.poll() is None:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        assert run.wait(timeout=60) == 130
    text = (tmp_path / "said").read_text()
    assert text.endswith("diffusegen: interrupted; run the same command again to continue.\n"), text
    assert "Traceback" not in text


# ---- a full disk

@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A small disk; a call gives its folder, with so many KiB of room beside what it holds."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(room: int) -> Path:
        mounted = folder.is_mount()
        used = shutil.disk_usage(folder).used // 1024 if mounted else 0
        options = f"{'remount,' * mounted}size={used + room}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted, which root may do: {done.stderr.strip()}")
        return folder
    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(whole: Path, nano: dict, disk: Callable):
    folder = disk(4) / "run"
    p, places = params.validate({**nano, "run_dir": str(folder)}), [""]

    def stopped(chapter: str, room: int) -> bool:
        disk(room)
        try:
            Run(p).make(chapter)
        except UserError as error:
            if not re.search(r"could not be written: .*No space", str(error)):
                raise
            place = str(error).removeprefix(f"{folder}/").removeprefix(f"{MAKING}/")
            places.append(re.split("[/ ]", place)[0])
            assert not list(folder.rglob(f"{files.WRITING}*"))
            return True
        return False
    for chapter in ("train", "inpaint", "style"):  # each may have left more room than it found
        room = 4  # KiB; a checkpoint has 5400, and the new one is written beside it
        while stopped(chapter, room):
            # What has made nothing yet leaves nothing, and begins with its first file again.
            room = 2 * room if places[-1] in places[:-1] else 4
            assert room < 50_000
    parts = ("data", "cluster", "train", "inpaint", "style")
    assert final(folder, *parts) == final(whole, *parts)
    assert set(parts) - {"cluster"} <= set(places)  # of which a few bytes find room where the data did


def fill(path: Path) -> Path:
    return files.write(path, lambda file: file.write_bytes(bytes(10**6)))


def test_a_disk_that_is_full_for_a_worker_is_told_here(disk: Callable, monkeypatch: pytest.MonkeyPatch):
    from distributed import LocalCluster
    folder = disk(64)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0",
                      resources={"device": 1}) as workers:
        monkeypatch.setenv(fanout.SCHEDULER, workers.scheduler_address)
        items = [fanout.Item("big", None, {"path": folder / "big"})]
        with pytest.raises(UserError, match="big could not be written: No space left on device"):
            fanout.run(fill, items, "Filling")
        disk(2000)
        assert [path.stat().st_size for path in fanout.run(fill, items, "Filling")] == [10**6]


def test_a_network_for_whose_scores_there_is_no_room_is_tried_again(copy: Params, whole: Path,
                                                                   monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(next((copy.folder / "segment").glob("Real-*")))
    real = files.write

    def full(path: Path, save: Callable, *rest: object, **options: object) -> Path:
        if path.name == experiments.RESULTS and "tests" in path.parts:
            raise UserError(f"{path} could not be written: No space left on device.")
        return real(path, save, *rest, **options)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        told = Run(copy).make("segment").runs.set_index("data_type")["status"]
    assert "No space left on device" in told["Real"]
    assert told["2-Diff"] == "ok"
    Run(copy).make("segment")
    assert final(copy.folder) == final(whole)


@pytest.mark.parametrize(("resumes", "then"), [
    (False, "try again"), (True, "the same command goes on")])
def test_the_command_tells_of_a_full_disk_in_one_line(
        disk: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, resumes: bool,
        then: str):
    monkeypatch.setattr(cli, "_call", cli._Call(resumes=resumes))
    with pytest.raises(SystemExit) as stop, cli._readable_errors():
        (disk(16) / "notebook.ipynb").write_bytes(bytes(10**6))  # as papermill does
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"diffusegen: No space left on device: make room, and {then}.\n"
    with pytest.raises(PermissionError), cli._readable_errors():
        raise PermissionError(13, "Permission denied")


# ---- damage under what is finished

def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def first(p: Params, pattern: str) -> Path:
    return sorted(p.folder.glob(pattern))[0]


def doubled(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1].replace("_1,", "_9,", 1), ""]))


HARM = {  # by chapter: a file of it, what happens to it, and why it is refused
    "data": ("data/pairs.npz", halve, "pairs.npz is not the file that was written"),
    "cluster": ("cluster/clusters.csv", lambda path: path.unlink(), "clusters.csv is missing"),
    "train": ("train/cluster-01/model.safetensors", halve,
              "model.safetensors is not the file that was written"),
    "inpaint": ("inpaint/2-Diff/masks/*.png", lambda path: path.unlink(), ".png is missing"),
    "style": ("style/2-Styled-Diff/images/*.png", halve, ".png is not the file that was written"),
    "gan": ("gan/GAN/manifest.csv", doubled, "manifest.csv is not the file that was written"),
    "evaluate": ("evaluate/Real/audit.csv", halve, "audit.csv is not the file that was written"),
    "segment": ("segment/Real-*/tests/*/results.csv", halve, "results.csv is not the file that was written"),
    "augment": ("augment/Real-*/network/history.csv", lambda path: path.write_text(""),
                "history.csv is not the file that was written"),
}


def test_what_is_damaged_is_named_and_made_again_only_on_request(copy: Params, whole: Path):
    harmed = {}
    for chapter, (pattern, harm, _) in HARM.items():
        path = harmed[chapter] = first(copy, pattern)
        harm(path)
    before = final(copy.folder)
    told = Run(copy).changed_by_hand()
    for chapter, (_, _, reason) in HARM.items():
        with pytest.raises(UserError) as caught:  # that of the first chapter that was damaged
            Run(copy).make(chapter)
        assert f"--remake {chapter}" in str(caught.value)
        assert str(harmed[chapter].relative_to(copy.folder)) + " " + reason.partition(" ")[2] in told
        assert reason in str(caught.value)
        assert final(copy.folder) == before, "what is refused is left as it is"
        Run(copy).make(chapter, again=True)
        before = final(copy.folder)
    assert Run(copy).changed_by_hand(thorough=True) == []
    assert without_aside(before) == final(whole)
    aside = [Path(name).name for name in before if Path(name).parts[0] == ASIDE]
    for chapter in HARM:  # the damaged ones, but for those of which the file is gone
        assert harmed[chapter].name in aside or "missing" in HARM[chapter][2], chapter


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key"'])
def test_a_pairs_row_that_is_none_makes_nothing_finished(copy: Params, whole: Path, text: str):
    folder = unfinish(copy, "inpaint/2-Diff")
    sorted((folder / "rows").iterdir())[0].write_text(text)
    Run(copy).make("inpaint")
    assert final(copy.folder) == final(whole)


Left = dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]]


@pytest.fixture(scope="module")
def left(whole: Path, nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """By chapter, the tensors and the header of the first checkpoint of its first training."""
    folder, found = tmp_path_factory.mktemp("left") / "run", {}
    shutil.copytree(whole, folder)
    real = checkpoints.save

    def noting(file: Path, tensors: dict, header: dict, hashed: bool = True) -> Path:
        if file.name == train.CHECKPOINT:
            found.setdefault(file.relative_to(folder).parts[1], (tensors, header))
        return real(file, tensors, header, hashed)
    for pattern in ("train/cluster-00", "segment/Real-*"):
        shutil.rmtree(next(folder.glob(pattern)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", noting)
        Run(params.validate({**nano_values, "run_dir": str(folder)})).make("segment")
    return found


@pytest.mark.parametrize("foreign", ["finished", "truncated", "other network", "no header", "text"])
@pytest.mark.parametrize("kind", ["train", "segment"])
def test_a_checkpoint_that_is_not_this_trainings_is_named_and_not_used(
        copy: Params, whole: Path, left: Left, caplog: pytest.LogCaptureFixture, kind: str, foreign: str):
    name = "train/cluster-00" if kind == "train" else (
        f"{first(copy, 'segment/Real-*').relative_to(copy.folder)}/network")
    folder = unfinish(copy, name)
    shutil.rmtree(folder)
    if kind == "segment":
        shutil.rmtree(copy.folder / name.removesuffix("/network") / "weights", ignore_errors=True)
    path, (tensors, header) = folder / train.CHECKPOINT, left[kind]
    folder.mkdir()
    if foreign == "finished":
        weights = {name: x for name, x in tensors.items() if name.startswith(("raw.", "ema.", "net."))}
        checkpoints.save(path, weights, header)
    elif foreign == "other network":
        checkpoints.save(path, {name: x[:1] if x.ndim else x for name, x in tensors.items()}, header)
    elif foreign == "text":
        path.write_text("a checkpoint")
    else:
        checkpoints.save(path, tensors, header if foreign == "truncated" else {})
        if foreign == "truncated":
            halve(path)
    Run(copy).make(kind)
    line = next(m for m in (record.getMessage() for record in caplog.records) if str(path) in m)
    assert "starts again" in line
    assert final(copy.folder) == final(whole)


# ---- changed parameters and inputs under what is finished

def swap(folder: Path, run: Run) -> None:
    """Another model under the name of the first."""
    shutil.copy(folder / "cluster-01.safetensors", folder / "cluster-00.safetensors")


def repaint(folder: Path, run: Run) -> None:
    """Another image under the name of the first."""
    image = np.ascontiguousarray(run.pairs.images[0][::-1])
    dataset.write_pair(folder, "phantom_00000", image, run.pairs.masks[0])


@pytest.mark.parametrize(("last", "key", "change", "told"), [
    ("inpaint", "train.checkpoints", swap,
     {"train/cluster-00": "released: ", "inpaint/2-Diff": "models.cluster-00: "}),
    ("inpaint", "data.source", repaint,
     {"data": "input: ", "cluster": "data: ", "inpaint/2-Diff": "pairs: "}),
    ("style", "inpaint.resampling", None,
     {"inpaint/2-Diff": "inpaint.resampling: 2 -> 1", "style/2-Styled-Diff": "jobs.phantom_0000"}),
])
def test_what_changes_under_a_finished_run_is_named_set_aside_and_not_mixed(
        whole: Path, nano: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture, last: str, key: str,
        change: Callable | None, told: dict[str, str]):
    folder = tmp_path / "input"
    if key == "train.checkpoints":
        folder.mkdir()
        for name in ("cluster-00", "cluster-01"):
            shutil.copy(whole / "train" / name / train.WEIGHTS, folder / f"{name}.safetensors")
    elif key == "data.source":
        dataset.write_phantoms(folder, 10, 32, 0)
    # What the change does not concern need not be made for this.
    same = {"train.checkpoints": ["data", "cluster"], "data.source": [],
            "inpaint.resampling": ["data", "cluster", "train"]}[key]

    def at(name: str, value: object) -> Run:
        place = tmp_path / name
        if not place.exists():
            place.mkdir()
            shutil.copy(whole / lock.MARK, place)
            for part in same:
                shutil.copytree(whole / part, place / part)
        return Run(params.validate(params.merged(nano, {"run_dir": str(place), key: value})))
    run = at("run", str(folder) if change else 2)
    run.make(last)
    before = {name: final(run.folder / name) for name in told}
    assert " is replaced (" not in caplog.text
    if change:
        change(folder, run)
    at("run", str(folder) if change else 1).make(last)
    at("fresh", str(folder) if change else 1).make(last)
    assert without_aside(final(run.folder)) == final(tmp_path / "fresh")
    lines = [record.getMessage().split(" is replaced ") for record in caplog.records]
    for name, reason in told.items():
        assert any(line[0] == name and reason in line[1] for line in lines), name
        [aside] = (run.folder / ASIDE / name).iterdir()
        assert final(aside) == before[name]


# ---- two runs in one folder

def occupy(folder: Path, held: Any) -> None:
    with lock.hold(folder):
        held.set()
        signal.pause()


@pytest.fixture
def occupied(nano: dict, killable: Context) -> Iterator[int]:
    """Another process holds the run folder, as `diffusegen run` does; its number."""
    held = killable.Event()
    holder = killable.Process(target=occupy, args=(Path(nano["run_dir"]), held))
    holder.start()
    try:
        assert held.wait(timeout=300)
        yield holder.pid
    finally:
        holder.kill()
        holder.join()


def test_a_chapter_by_hand_beside_a_run_is_refused_and_told_who_holds_the_folder(
        occupied: int, nano_params: Params, monkeypatch: pytest.MonkeyPatch):
    run = Run(nano_params)
    for chapter in ("data", "cluster", "train", "inpaint", "style", "gan", "evaluate", "segment", "augment"):
        with pytest.raises(UserError, match=f"Another run is at work in .*: process {occupied} on "):
            run.make(chapter)
    assert not (run.folder / "params.yaml").exists()
    with pytest.raises(NotMadeError):  # to read is allowed
        run.read("cluster")
    assert "Synthetic data alone: " in preflight.dry_run(run, ["segment"])
    # What the holder has started, as its chapters' kernels and their workers, goes on.
    monkeypatch.setenv(lock.HOLDER, str(run.folder))
    assert len(run.make("data")) == 10
    monkeypatch.setenv(lock.HOLDER, "/another/run")
    monkeypatch.setattr(progress, "worker", lambda: "a worker holds nothing")
    assert run.make("cluster").k == 2


def test_a_notebook_that_is_left_open_holds_nothing(nano_params: Params):
    run = Run(nano_params)
    run.make("cluster")
    with lock.hold(run.folder):
        assert os.environ[lock.HOLDER] == str(run.folder)
        assert run.make("cluster").k == 2  # and within a run, its chapters are no second one
        with lock.hold(run.folder / "augment" / "small"):
            pass
    assert lock.HOLDER not in os.environ


# ---- two writers of one artifact

@pytest.mark.parametrize("writers", ["1221", "1212"])
def test_what_two_writers_have_mixed_is_never_taken_for_whole(tmp_path: Path, writers: str):
    written: dict[str, list[Path]] = {writer: [] for writer in "12"}
    artifact = artifacts.Artifact(tmp_path, "mixed", {})
    for writer in writers:  # each writes a.txt first, and then b.txt
        path = artifact.begin() / "ab"[len(written[writer])]
        written[writer].append(files.write_text(path, f"by {writer}"))
    mixed = len({(artifact.begin() / name).read_text() for name in "ab"}) == 2
    assert mixed == (writers[-1] == "1")
    if mixed:
        with pytest.raises(UserError, match=r"[ab] is not the file that was written"):
            artifact.finish(written["1"], 0)
    else:
        artifact.finish(written["2"], 0)
        assert artifact.made()


def drawn(value: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((3, 8, 8), value, np.uint8), np.ones((1, 8, 8), np.uint8)


def test_a_pair_of_two_writers_is_made_again_and_a_finished_one_is_left(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch):
    real = dataset.write_pair

    def overtaken(folder: Path, name: str, *pair: np.ndarray) -> tuple[Path, ...]:
        files = real(folder, name, *pair)
        real(folder, name, *drawn(2))  # by the other, which was stopped between its files and its row
        return files
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_pair", overtaken)
        pairsets.keep(tmp_path / "set", "a", "key", {"name": "a"}, drawn(1), 0)
    assert not pairsets.is_made(tmp_path / "set", "a", "key")
    pairsets.keep(tmp_path / "set", "a", "key", {"name": "a"}, drawn(3), 0)
    pairsets.keep(tmp_path / "set", "a", "key", {"name": "a"}, drawn(4), 0)
    assert pairsets.is_made(tmp_path / "set", "a", "key")
    assert (pairsets.read_pair(tmp_path / "set", "a")[0] == 3).all()


def model(values: dict) -> None:
    torch.set_num_threads(1)
    run = Run(params.validate(values))
    p = run.params
    train.train_model(run.workspace, "cluster-00", run.pairs.stored, [0, 1, 2], p.train, p.model, p.process)


def test_a_worker_that_was_stopped_and_replaced_changes_nothing_when_it_goes_on(
        whole: Path, nano: dict, killable: Context):
    nano["train"] |= {"images": 160}
    run = Path(nano["run_dir"])
    shutil.copytree(whole / "data", run / "data")
    stopped, other = (killable.Process(target=model, args=(nano,)) for _ in range(2))
    stopped.start()
    try:
        while not list(run.glob(f"{MAKING}/train/cluster-00/*/{train.CHECKPOINT}")):
            assert stopped.exitcode is None, "it ended without a checkpoint"
            time.sleep(0.001)
        os.kill(stopped.pid, signal.SIGSTOP)
        other.start()
        other.join(timeout=300)
        assert other.exitcode == 0
        before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.rglob("*.*")}
    finally:
        if stopped.exitcode is None:
            os.kill(stopped.pid, signal.SIGCONT)
        stopped.join(timeout=300)
    assert stopped.exitcode == 0
    assert run / "train" / "cluster-00" / STAMP in before
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.rglob("*.*")} == before


def test_a_network_that_another_has_finished_meanwhile_is_left(copy: Params, whole: Path,
                                                               monkeypatch: pytest.MonkeyPatch):
    folder = first(copy, "segment/Real-*")
    shutil.rmtree(folder)
    real = segnet.fit

    def overtaken(*arguments: object) -> segnet.Fitted:
        with monkeypatch.context() as patch:
            patch.setattr(segnet, "fit", real)
            Run(copy).make("segment")
        before.update({path: path.stat().st_mtime_ns for path in folder.rglob("*.*")})
        return real(*arguments)
    before: dict[Path, int] = {}
    monkeypatch.setattr(segnet, "fit", overtaken)
    Run(copy).make("segment")
    before.pop(folder / experiments.SPENT)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")
                      if path.name != experiments.SPENT}
    assert final(copy.folder) == final(whole)


# ---- the clock

def test_a_clock_that_jumps_changes_nothing(copy: Params, whole: Path, nano: dict, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch):
    chance = random.Random(6)
    for module, name in ((time, "time"), (tqdm.std, "time")):
        monkeypatch.setattr(module, name, lambda: chance.uniform(0, 4e9))
    for path in copy.folder.rglob("*"):
        os.utime(path, ns=(chance.randrange(4 * 10**18),) * 2)
    before = {path: path.stat().st_mtime_ns for path in copy.folder.rglob(STAMP)}
    everything(nano)  # finds all of it made, however old or new it seems
    assert before == {path: path.stat().st_mtime_ns for path in copy.folder.rglob(STAMP)}

    nano["run_dir"] = str(tmp_path / "jumping")
    Run(params.validate(nano)).make("inpaint")
    parts = ("data", "cluster", "train", "inpaint")
    assert final(tmp_path / "jumping", *parts) == final(whole, *parts)
    for stamp in (tmp_path / "jumping").rglob(STAMP):
        assert 0 <= files.read_json(stamp)["seconds"] < 300
