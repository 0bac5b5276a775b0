"""What is finished stays: artifacts are made beside, moved into place, set aside and taken back."""

import contextlib
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import artifacts, files, stamps
from diffusegen_core.store.artifacts import Artifact, NotMadeError, OutdatedError
from diffusegen_core.store.stamps import ASIDE, MAKING
from diffusegen_core.store.workspace import Workspace

NAME = "train/cluster-00"


class Killed(BaseException):
    """Stands in for a kill: nothing after it is done."""


def make(folder: Path, value: int, name: str = NAME, **options: bool) -> Artifact:
    """An artifact whose content follows from `value`: made, unless it is there."""
    artifact = Artifact(folder, name, {"value": value}, **options)
    if not artifact.made():
        place = artifact.begin()
        files.write_text(place / "log.csv", f"loss,{value}\n")
        artifact.finish([files.write_text(place / "model.txt", f"model {value}")], 60.0)
    return artifact


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in files.below(folder)}


def test_what_is_spent_goes_only_once_the_stamp_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = Artifact(tmp_path, NAME, {"value": 1})
    place = artifact.begin()
    checkpoint = files.write_text(place / "checkpoint", "all of it")
    write = files.write_json

    def killed(path: Path, value: object) -> None:
        assert checkpoint.is_file(), "it is there for as long as nothing else is"
        raise Killed

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(Killed):
        artifact.finish([files.write_text(place / "model.txt", "model")], 1.0, spent=[checkpoint])
    assert checkpoint.is_file()
    monkeypatch.setattr(files, "write_json", write)
    stamp = artifact.finish([files.write_text(place / "model.txt", "model")], 1.0, spent=[checkpoint])
    assert not (artifact.folder / "checkpoint").exists()
    assert list(stamp["shown"]) == []


def test_what_is_spent_goes_though_a_kill_came_after_the_stamp(tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch):
    artifact = Artifact(tmp_path, NAME, {"value": 1})
    place = artifact.begin()
    checkpoint = files.write_text(place / "checkpoint", "all of it")

    def killed(path: Path, **how: bool) -> None:
        raise Killed
    model = files.write_text(place / "model.txt", "model")
    with monkeypatch.context() as patch:
        patch.setattr(type(checkpoint), "unlink", killed)
        with pytest.raises(Killed):
            artifact.finish([model], 1.0, spent=[checkpoint])
    assert checkpoint.is_file()
    again = Artifact(tmp_path, NAME, {"value": 1})
    assert again.made()
    assert contents(again.folder).keys() == {"model.txt", stamps.STAMP}


@pytest.mark.parametrize("told", [5, "model.txt", ["model.txt"], ["../letter"], ["link/letter"], [3, ""]])
def test_what_a_strangers_stamp_calls_spent_is_not_removed(tmp_path: Path, told: object):
    stamp = {"outputs": {"model.txt": {}}, "shown": {}, "spent": told}
    assert artifacts._spent(stamp) == []
    assert artifacts._spent({**stamp, "spent": ["checkpoint"]}) == ["checkpoint"]


def test_an_artifact_is_made_beside_its_place_and_moved_there_whole(tmp_path: Path):
    artifact = Artifact(tmp_path, NAME, {"value": 1})
    assert not artifact.made()
    folder = artifact.begin()
    assert folder.is_relative_to(tmp_path / MAKING)
    assert not artifact.folder.exists()
    artifact.finish([files.write_text(folder / "model.txt", "1")], 2.5, steps=3)
    assert artifact.made()
    assert artifact.stamp["seconds"] == 2.5
    assert artifact.stamp["steps"] == 3
    assert stamps.contents(artifact.stamp) == {"model.txt": files.sha256(artifact.file("model.txt"))}
    assert not (tmp_path / MAKING).exists()


RECIPE = {"seed": 0, "train": {"lr": 0.1, "mult": [1, 2]}, "data": "abc"}


def test_tuples_are_lists_in_a_recipe(tmp_path: Path):
    tuples = {**RECIPE, "train": {"lr": 0.1, "mult": (1, 2)}}
    for recipe in (RECIPE, tuples):
        artifact = Artifact(tmp_path, NAME, recipe)
        if not artifact.made():
            artifact.begin()
            artifact.finish([], 1.23456)
        assert artifact.stamp["seconds"] == 1.235
    assert not (tmp_path / ASIDE).exists()


def test_of_many_pairs_that_come_or_go_the_number_is_told():
    few, many = ({"jobs": {f"pair_{number}": number for number in range(count)}} for count in (3, 40))
    assert artifacts.differences(many, few) == ["jobs: 37 fewer, 0 more"]
    assert artifacts.differences(few, {"jobs": {**many["jobs"], "pair_1": 9}}) == [
        "jobs: 0 fewer, 37 more", "jobs.pair_1: 1 -> 9"]


@pytest.mark.parametrize(("changed", "lines"), [
    ({**RECIPE, "seed": 1}, ["seed: 0 -> 1"]),
    ({**RECIPE, "train": {"lr": 0.2, "mult": [1, 3]}},
     ["train.lr: 0.1 -> 0.2", "train.mult: [1, 2] -> [1, 3]"]),
    ({**RECIPE, "more": True}, ["more: None -> True"]),
    ({"seed": 0, "train": {"lr": 0.1, "mult": [1, 2]}}, ["data: abc -> None"]),
    (dict(reversed(RECIPE.items())), []),
])
def test_what_differs_between_two_recipes_is_told_and_decides_their_keys(changed: dict, lines: list[str]):
    assert artifacts.differences(RECIPE, changed) == lines
    assert (artifacts.key(RECIPE) == artifacts.key(changed)) == (not lines)


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", "null", "{}", '{"recipe": {}}', '{"outputs": {}}',
    '{"recipe": 1, "outputs": {}, "shown": {}, "seconds": 1, "device": "cpu"}',
    '{"recipe": {}, "outputs": [], "shown": {}, "seconds": 1, "device": "cpu"}',
    '{"recipe": {}, "outputs": {}, "shown": {}, "seconds": "1", "device": "cpu"}',
    '{"recipe": {}, "outputs": {"../x": {}}, "shown": {}, "seconds": 1, "device": "cpu"}',
    '{"recipe": {}, "outputs": {}, "shown": {"/x": {}}, "seconds": 1, "device": "cpu"}', 50_000 * "["])
def test_a_stamp_that_is_none_is_a_strangers_file(tmp_path: Path, text: str):
    files.write_text(tmp_path / NAME / stamps.STAMP, text)
    artifact = Artifact(tmp_path, NAME, {"value": 1})
    with pytest.raises(UserError, match=r"made\.json cannot be read.*--remake train"):
        artifact.made()
    assert make(tmp_path, 1, again=True).made()
    assert [path.read_text() for path in (tmp_path / ASIDE).rglob("made.json")] == [text]


@pytest.mark.parametrize("described", ["1", '{"bytes": 7}', '{"bytes": 7, "mtime_ns": 0, "sha256": "abc"}'])
def test_a_stamp_that_describes_an_output_wrongly_is_refused(tmp_path: Path, described: str):
    files.write_text(tmp_path / NAME / stamps.STAMP, '{"recipe": {"value": 1}, "outputs": {"model.txt": '
                     f'{described}}}, "shown": {{}}, "seconds": 1, "device": "cpu"}}')
    files.write_text(tmp_path / NAME / "model.txt", "model 1")
    with pytest.raises(UserError, match=r"model\.txt is not the file that was written"):
        Artifact(tmp_path, NAME, {"value": 1}).made()


def test_a_changed_recipe_sets_aside_and_a_restored_one_takes_back(tmp_path: Path,
                                                                   caplog: pytest.LogCaptureFixture):
    first = make(tmp_path, 1)
    before = contents(first.folder)
    second = make(tmp_path, 2)
    assert not Workspace(tmp_path).read_only.artifact(NAME, {"value": 1}).made()
    assert "value: 1 -> 2" in caplog.text
    assert "1 min 0 s of work" in caplog.text
    assert contents(tmp_path / ASIDE / NAME / first.key) == before
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert make(tmp_path, 1).made()
    assert "taken back" in caplog.text
    assert contents(first.folder) == before
    assert (tmp_path / ASIDE / NAME / second.key / "model.txt").read_text() == "model 2"


def test_a_read_only_artifact_is_never_made_nor_moved(tmp_path: Path):
    make(tmp_path, 1)
    make(tmp_path, 2)
    before = contents(tmp_path)
    reader = Workspace(tmp_path).read_only.artifact(NAME, {"value": 1})
    assert not reader.made()
    with pytest.raises(NotMadeError, match=r"was made with other values \(value: 2 -> 1\)"):
        _ = reader.stamp
    with pytest.raises(NotMadeError, match=r"run\.make\('train'\)"):
        reader.begin()
    assert contents(tmp_path) == before


def test_the_old_one_stays_until_the_new_one_is_finished(tmp_path: Path):
    first = make(tmp_path, 1)
    second = Artifact(tmp_path, NAME, {"value": 2})
    files.write_text(second.begin() / "checkpoint", "half")
    assert first.made()
    assert (Artifact(tmp_path, NAME, {"value": 2}).begin() / "checkpoint").read_text() == "half"


@pytest.mark.parametrize("harm", ["edit", "delete"])
def test_what_was_changed_by_hand_is_refused_and_made_again_only_on_request(tmp_path: Path, harm: str):
    artifact = make(tmp_path, 1)
    if harm == "edit":
        artifact.file("model.txt").write_text("mine")
    else:
        artifact.file("model.txt").unlink()
    with pytest.raises(UserError, match=r"changed by hand: model\.txt is .*--remake train"):
        make(tmp_path, 1)
    make(tmp_path, 1, again=True)
    assert artifact.file("model.txt").read_text() == "model 1"
    if harm == "edit":
        assert (tmp_path / ASIDE / NAME / f"{artifact.key}-changed" / "model.txt").read_text() == "mine"


def test_what_was_changed_by_hand_is_refused_when_its_parameters_come_back(
        tmp_path: Path, caplog: pytest.LogCaptureFixture):
    artifact = make(tmp_path, 1)
    artifact.file("model.txt").write_text("mine")
    make(tmp_path, 2)
    assert "is kept in aside/train/cluster-00" in caplog.text
    assert "was changed by hand: model.txt is not the file that was written" in caplog.text
    with pytest.raises(UserError, match=r"changed by hand: model\.txt is .*--remake train"):
        make(tmp_path, 1)
    assert make(tmp_path, 1, again=True).file("model.txt").read_text() == "model 1"
    assert (tmp_path / ASIDE / NAME / artifact.key / "model.txt").read_text() == "mine"


def test_what_was_changed_by_hand_twice_and_is_being_made_again_stays_aside(tmp_path: Path):
    artifact = make(tmp_path, 1)
    for text in ("mine", "mine too"):
        artifact.file("model.txt").write_text(text)
        make(tmp_path, 1, again=True)
    artifact.file("model.txt").write_text("and mine")
    assert not Artifact(tmp_path, NAME, {"value": 1}, again=True).made()  # and then it was killed
    assert make(tmp_path, 1).file("model.txt").read_text() == "model 1"
    assert sorted(path.read_text() for path in (tmp_path / ASIDE).rglob("model.txt")) == [
        "and mine", "mine", "mine too"]


def test_what_is_only_shown_does_not_decide(tmp_path: Path):
    artifact = make(tmp_path, 1)
    artifact.file("log.csv").write_text("loss,1\r\n")
    assert artifact.made()
    assert stamps.altered(artifact.folder, artifact.stamp, "shown") == {
        "log.csv": "is not the file that was written"}


def test_a_file_with_another_time_alone_is_hashed_and_holds(tmp_path: Path):
    artifact = make(tmp_path, 1)
    os.utime(artifact.file("model.txt"), (1, 1))
    assert artifact.made()


def test_a_look_reads_no_file_of_the_recorded_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = make(tmp_path, 1)

    def never(path: Path) -> str:
        raise AssertionError(f"{path} is hashed")
    monkeypatch.setattr(files, "sha256", never)
    assert artifact.made()
    with pytest.raises(AssertionError):
        stamps.altered(artifact.folder, artifact.stamp, thorough=True)


def test_files_of_others_stay_where_they_are(tmp_path: Path):
    artifact = make(tmp_path, 1)
    artifact.file("notes.txt").write_text("mine")
    make(tmp_path, 2)
    assert artifact.file("notes.txt").read_text() == "mine"
    make(tmp_path, 1)
    assert artifact.file("notes.txt").read_text() == "mine"


@pytest.mark.parametrize("target", ["folder", "folder/notes.txt", "nowhere"])
def test_links_of_others_stay_where_they_are(tmp_path: Path, target: str):
    files.write_text(tmp_path / "folder" / "notes.txt", "mine")
    run = tmp_path / "run"
    link = make(run, 1).file("link")
    link.symlink_to(tmp_path / target)
    for value in (2, 1):
        make(run, value)
        assert link.readlink() == tmp_path / target


def test_a_link_where_an_artifact_is_made_is_no_part_of_it(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    run = tmp_path / "run"
    (Artifact(run, NAME, {"value": 1}).begin() / "link").symlink_to(tmp_path / "folder")
    artifact = make(run, 1)
    assert "link" not in artifact.stamp["shown"]
    assert artifact.file("link").is_symlink()


@pytest.mark.parametrize("count", range(3, 9))
def test_files_of_others_that_a_kill_has_left_aside_are_put_back_at_the_next_look(
        tmp_path: Path, count: int):
    notes = make(tmp_path, 1).file("sub/notes.txt")
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        _kill_after(patch, count)
        make(tmp_path, 2)
    make(tmp_path, 2)
    assert notes.read_text() == "mine"
    assert (tmp_path / NAME / "model.txt").read_text() == "model 2"


def test_a_reader_is_told_where_lies_what_was_set_aside(tmp_path: Path):
    make(tmp_path, 1)
    make(tmp_path, 2)
    reader = Workspace(tmp_path).read_only
    first, third = (reader.artifact(NAME, {"value": value}) for value in (1, 3))
    with pytest.raises(NotMadeError, match=rf"value: 2 -> 1\)\. .* is in .*/{first.key}; .*back") as caught:
        _ = first.stamp
    assert (caught.value.differing, caught.value.set_aside) == (("value: 2 -> 1",), True)
    with pytest.raises(OutdatedError, match=r"value: 2 -> 3\)\. Make it") as caught:
        _ = third.stamp
    again = pickle.loads(pickle.dumps(caught.value))  # as from a worker
    assert (again.differing, again.set_aside) == (("value: 2 -> 3",), False)
    with pytest.raises(NotMadeError, match="has no finished other") as caught:
        _ = reader.artifact("other", {"value": 1}).stamp
    assert not isinstance(caught.value, OutdatedError)
    assert (caught.value.differing, caught.value.set_aside) == ((), False)


def test_a_strangers_file_that_is_in_the_way_is_set_aside(tmp_path: Path):
    place = tmp_path / NAME
    place.mkdir(parents=True)
    (place / "model.txt").write_text("a stranger's")
    artifact = make(tmp_path, 1)
    assert artifact.file("model.txt").read_text() == "model 1"
    assert [path.read_text() for path in (tmp_path / ASIDE).rglob("model.txt")] == ["a stranger's"]


@pytest.mark.parametrize("part", ["train", "train/cluster-00"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_anything_is_made(tmp_path: Path, part: str):
    files.write_text(tmp_path / part, "mine")
    with pytest.raises(UserError, match=f"^{tmp_path / part} is a file, where a folder"):
        make(tmp_path, 1)
    assert contents(tmp_path) == {part: "mine"}


@pytest.mark.parametrize("part", ["train", "train/cluster-00"])
def test_a_link_in_the_run_folder_is_refused(tmp_path: Path, part: str):
    data = tmp_path / "somebody" / "cluster-00"
    data.mkdir(parents=True)
    (data / "thesis.tex").write_text("text")
    run = tmp_path / "run"
    (run / part).parent.mkdir(parents=True, exist_ok=True)
    (run / part).symlink_to(data.parent if part == "train" else data)
    with pytest.raises(UserError, match="is a symbolic link"):
        make(run, 1)
    assert contents(tmp_path / "somebody") == {"cluster-00/thesis.tex": "text"}


@pytest.mark.parametrize("part", ["train", "train/cluster-00", "aside", "aside/train"])
def test_nothing_is_taken_back_through_a_link(tmp_path: Path, part: str):
    run = tmp_path / "run"
    make(run, 1)
    make(run, 2)
    (run / part).rename(tmp_path / "moved")
    (run / part).symlink_to(tmp_path / "moved")
    before = contents(tmp_path / "moved")
    with pytest.raises(UserError, match="is a symbolic link"):
        make(run, 1)
    assert contents(tmp_path / "moved") == before


def test_the_same_made_by_two_is_kept_once(tmp_path: Path):
    one, other = (Artifact(tmp_path, NAME, {"value": 1}) for _ in range(2))
    place = one.begin()
    one.finish([files.write_text(place / "model.txt", "model 1")], 1.0)
    place = other.begin()
    other.finish([files.write_text(place / "model.txt", "model 1")], 1.0)
    assert one.made()
    assert not (tmp_path / ASIDE).exists()
    assert not list((tmp_path / MAKING).rglob("*.*"))


# ---- any sequence of changes and kills

steps = st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 14)), min_size=1, max_size=8)


@settings(max_examples=60)
@given(steps)
def test_after_any_changes_and_kills_everything_finished_or_foreign_is_there_bit_for_bit(
        tmp_path_factory: pytest.TempPathFactory, sequence: list[tuple[int, int | None]]):
    run = tmp_path_factory.mktemp("run")
    (run / NAME).mkdir(parents=True)
    (run / NAME / "notes.txt").write_text("mine")
    finished: set[int] = set()
    for value, kill in sequence:
        with pytest.MonkeyPatch.context() as patch:
            if kill is not None:
                _kill_after(patch, kill)
            with contextlib.suppress(Killed):
                make(run, value)
        if kill is None:
            finished.add(value)
            assert (run / NAME / "model.txt").read_text() == f"model {value}"
        present = [path.read_text() for path in run.rglob("model.txt")]
        assert {f"model {one}" for one in finished} <= set(present)
        assert [path.read_text() for path in run.rglob("notes.txt")] == ["mine"]
    for value in sorted(finished):  # and each can be had back, without being made
        assert Artifact(run, NAME, {"value": value}).made()
    shutil.rmtree(run)


def _kill_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Let the process end after so many renamings and writings."""
    left = [count]
    for module, name in ((os, "rename"), (files, "write_json"), (files, "write_text")):
        real = getattr(module, name)

        def counted(*args: object, real: object = real) -> object:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args)  # type: ignore[operator]
        patch.setattr(module, name, counted)

