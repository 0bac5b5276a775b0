"""Artifacts, seeds and work items: atomic, honest about what made them, independent of the order."""

import json
import os
import pickle
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.parallel import fanout
from diffusegen_core.store import runs, seeds

RECIPE = {"seed": 0, "train": {"lr": 0.1, "mult": [1, 2]}, "data": "abc"}


# ---- writing

@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("not writable")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: Exception):
    path = runs.write_text(tmp_path / "a.txt", "old")

    def save(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        raise error
    wanted = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted, match=r"a\.txt could not be written: No space|not writable"):
        runs.write(path, save)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_whole_and_keeps_its_suffix(tmp_path: Path):
    path = tmp_path / "new" / "b.tar.gz"

    def save(temporary: Path) -> None:
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        temporary.write_text("whole")
    assert runs.write(path, save).read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, synced = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    runs.write_text(path, "whole")
    assert synced == [(5, False)]


def test_a_place_that_cannot_be_written_is_one_readable_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for act in (lambda: runs.write_text(tmp_path / "file" / "x.txt", ""),
                lambda: runs.lock(tmp_path / "file" / "run").__enter__()):
        with pytest.raises(UserError, match="file") as caught:
            act()
        assert "\n" not in str(caught.value)


# ---- stamps

@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    output = runs.write_text(folder / "sub" / "out.txt", "content")
    runs.finish(folder, RECIPE, [output], seconds=1.23456, pairs=7)
    return folder


def test_a_finished_artifact_is_current_and_keeps_its_facts(artifact: Path):
    stamp = runs.current(artifact, RECIPE)
    assert (stamp["seconds"], stamp["pairs"]) == (1.235, 7)
    assert runs.stale(artifact, RECIPE) == []
    tuples = {**RECIPE, "train": {"lr": 0.1, "mult": (1, 2)}}
    assert runs.current(artifact, tuples), "tuples are lists in JSON"


@pytest.mark.parametrize(("changed", "reasons"), [
    ({**RECIPE, "seed": 1}, ["seed: 0 -> 1"]),
    ({**RECIPE, "train": {"lr": 0.2, "mult": [1, 3]}},
     ["train.lr: 0.1 -> 0.2", "train.mult: [1, 2] -> [1, 3]"]),
    ({**RECIPE, "more": True}, ["more: None -> True"]),
    ({"seed": 0, "train": {"lr": 0.1, "mult": [1, 2]}}, ["data: abc -> None"]),
])
def test_another_recipe_is_stale_and_says_what_differs(artifact: Path, changed: dict, reasons: list[str]):
    assert runs.current(artifact, changed) is None
    assert runs.stale(artifact, changed) == reasons


@pytest.mark.parametrize(("harm", "reason"), [
    (lambda output: output.write_text("CONTENT"), "sub/out.txt is not the file that was written"),
    (lambda output: output.write_text("longer content"), "sub/out.txt is not the file that was written"),
    (lambda output: output.unlink(), "sub/out.txt is missing"),
])
def test_an_output_that_was_touched_is_noticed(artifact: Path, harm, reason: str):
    harm(artifact / "sub" / "out.txt")
    assert runs.current(artifact, RECIPE) is None
    assert runs.stale(artifact, RECIPE) == [reason]


def test_a_stamp_names_the_versions_of_all_that_computes_numbers(artifact: Path):
    found = runs.read_json(artifact / runs.STAMP)["versions"]
    for name in ("torch", "timm", "segmentation-models-pytorch", "albumentations", "clean-fid",
                 "pytorch-msssim"):
        assert found[name] == version(name)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"recipe": {}}', '{"outputs": {}}',
                                  '{"recipe": 1, "outputs": {}}', '{"recipe": {}, "outputs": []}',
                                  '{"recipe": {}, "outputs": {"weights.bin": 1}}', 50_000 * "["])
def test_a_stamp_that_is_none_makes_nothing_current(artifact: Path, text: str):
    (artifact / runs.STAMP).write_text(text)
    assert runs.current(artifact, RECIPE) is None


def test_no_artifact_is_neither_current_nor_stale(tmp_path: Path):
    assert runs.current(tmp_path / "absent", RECIPE) is None
    assert runs.stale(tmp_path / "absent", RECIPE) == []


def test_a_key_depends_on_the_content_and_not_on_its_order():
    turned = {"data": "abc", "train": {"mult": [1, 2], "lr": 0.1}, "seed": 0}
    assert runs.key(turned) == runs.key(RECIPE)
    changes = [{"seed": 1}, {"train": {"lr": 0.1, "mult": [2, 1]}}, {"data": None}]
    others = [{**RECIPE, **change} for change in changes]
    assert len({runs.key(r) for r in [RECIPE, *others]}) == 4


# ---- the lock

def hold(run_dir: Path, held) -> None:
    with runs.lock(run_dir):
        held.set()
        time.sleep(600)


def test_a_run_folder_has_one_holder_and_kill_9_frees_it(tmp_path: Path, killable):
    run_dir = tmp_path / "run"
    held = killable.Event()
    holder = killable.Process(target=hold, args=(run_dir, held))
    holder.start()
    try:
        assert held.wait(timeout=300)
        with pytest.raises(UserError, match="Another run is at work"), runs.lock(run_dir):
            pass
    finally:
        holder.kill()
        holder.join()
    half = run_dir / "train" / ".writing-x.safetensors"
    half.parent.mkdir()
    half.touch()
    with runs.lock(run_dir):
        assert not half.exists(), "what a killed run had half written goes"
    with runs.lock(run_dir):  # and it is given back at the end
        pass


def test_a_lock_that_is_a_link_empties_no_file(tmp_path: Path):
    letter = tmp_path / "letter"
    letter.write_text("dear")
    (tmp_path / "run" / ".writing-folder").mkdir(parents=True)
    with runs.lock(tmp_path / "run"):  # what is no file of ours stays
        pass
    (tmp_path / "run" / runs.LOCK).unlink()
    (tmp_path / "run" / runs.LOCK).symlink_to(letter)
    with pytest.raises(UserError, match="cannot be the run folder"), runs.lock(tmp_path / "run"):
        pass
    assert letter.read_text() == "dear"


# ---- seeds

def test_seeds_differ_by_every_name_and_fit_63_bits():
    paths = [("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), (1, "a"), ("a", 1, 1)]
    found = {seeds.derive(s, *path) for s in (0, 1) for path in paths}
    assert len(found) == 2 * len(paths)
    assert all(0 <= value < 2**63 for value in found)
    assert seeds.derive(0, "a", 1) == seeds.derive(0, "a", "1")
    # The seeds of runs that were published must not change.
    assert seeds.derive(7, "inpaint", "20-Diff") == 7810904597906166595


def test_each_row_of_noise_comes_from_its_own_generator():
    def rows(*names: int) -> torch.Tensor:
        like = torch.empty(len(names), 3, 2, dtype=torch.half)
        return seeds.normal_like([seeds.generator(0, n) for n in names], like)
    alone = torch.cat([rows(n) for n in range(4)])
    assert torch.equal(rows(2, 0, 3), alone[[2, 0, 3]])
    assert rows(0).dtype == torch.float32
    assert len({tuple(row.flatten().tolist()) for row in alone}) == 4
    many = seeds.normal_like([seeds.generator(1)], torch.empty(1, 20_000))
    assert abs(float(many.mean())) < 0.03
    assert float(many.std()) == pytest.approx(1, abs=0.03)


def test_numpy_generators_are_named_as_well():
    draws = [seeds.rng(0, name).integers(2**40) for name in ("a", "b", "a")]
    assert draws[0] == draws[2] != draws[1]
    assert isinstance(seeds.rng(0), np.random.Generator)


# ---- work items

def test_items_run_in_their_order_and_results_come_in_it():
    seen = []

    def work(x: int) -> int:
        seen.append(x)
        return x * x
    items = [fanout.Item(str(i), {"x": i}) for i in (3, 1, 2)]
    assert fanout.run(work, items, "Squares") == [9, 1, 4]
    assert seen == [3, 1, 2]
    assert fanout.run(work, [], "Nothing") == []


def test_items_can_be_sent_to_another_process(nano_params):
    item = fanout.Item("a", {"p": nano_params, "indices": [1, 2], "folder": Path("x")})
    assert pickle.loads(pickle.dumps(item)) == item


def test_json_is_written_sorted_and_read_back(tmp_path: Path):
    path = runs.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    assert list(json.loads(path.read_text())) == ["a", "b"]
    assert runs.read_json(path) == {"b": 1, "a": [1.5, None]}
    assert runs.read_json(tmp_path / "absent.json") is None
    assert runs.read_json(path / "below") is None


def test_sampling_is_exact_with_the_usual_convolutions():
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    with devices.exact():
        cudnn = torch.backends.cudnn
        assert (cudnn.enabled, cudnn.deterministic) == (True, True)
        assert (cudnn.benchmark, cudnn.allow_tf32) == (False, False)
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before


def test_an_absent_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device: cuda:1 is asked for"):
        devices.device("cuda:1")


# ---- reading only

def test_only_finished_work_is_read_and_nothing_is_made(tmp_path: Path):
    runs.finish(tmp_path, RECIPE, [], 1.0)
    with runs.only_finished():
        assert runs.current(tmp_path, RECIPE)["recipe"] == RECIPE
        for folder, recipe in ((tmp_path, {**RECIPE, "seed": 1}), (tmp_path / "absent", RECIPE)):
            with pytest.raises(runs.NotMadeError):
                runs.current(folder, recipe)
        assert not runs.making()
    assert runs.making()
    assert runs.current(tmp_path / "absent", RECIPE) is None


def test_what_is_written_in_a_shadow_stays_there(tmp_path: Path):
    folder = tmp_path / "run"
    for name in ("data/pairs.npz", "data/made.json", "tests/CVC/made.json"):
        runs.write_text(folder / name, name)
    (folder / f"data/{runs.WRITING}half.json").write_text("{")
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    with runs.shadow(folder) as shadow:
        assert (shadow / "data/pairs.npz").read_text() == "data/pairs.npz"
        assert not list(shadow.rglob(f"{runs.WRITING}*"))
        runs.clear(shadow / "data")
        runs.write_text(shadow / "tests/CVC/made.json", "new")
        runs.write_text(shadow / "more.txt", "new")
    assert not shadow.exists()
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
    assert (folder / "tests/CVC/made.json").read_text() == "tests/CVC/made.json"


def test_a_run_that_is_not_there_has_an_empty_shadow(tmp_path: Path):
    with runs.shadow(tmp_path / "run") as shadow:
        assert not shadow.exists()
        runs.write_text(shadow / "data" / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []
