"""A run folder: known by its mark, held by one process at a time, and never anybody else's folder."""

import errno
import fcntl
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from diffusegen_core.config.errors import UserError
from diffusegen_core.run import Run
from diffusegen_core.store import files, lock


def hold(folder: Path, held: Any) -> None:
    with lock.hold(folder):
        held.set()
        time.sleep(600)


def test_the_outermost_of_runs_within_runs(tmp_path: Path):
    runs = tmp_path / "run", tmp_path / "run/augment/small/x", tmp_path / "run/augment/small/x/generators/01"
    for run in runs:
        lock.claim(run)
    assert [lock.outermost(run) for run in runs] == [runs[0]] * 3
    assert lock.outermost(tmp_path / "none") == tmp_path / "none"


def test_a_run_folder_has_one_holder_and_kill_9_frees_it(tmp_path: Path, killable):
    folder = tmp_path / "run"
    held = killable.Event()
    holder = killable.Process(target=hold, args=(folder, held))
    holder.start()
    try:
        assert held.wait(timeout=300)
        with pytest.raises(UserError, match=f"Another run is at work in .*: process {holder.pid} on "), \
                lock.hold(folder):
            pass
    finally:
        holder.kill()
        holder.join()
    half = folder / "train" / f"{files.WRITING}x.safetensors"
    half.parent.mkdir()
    half.touch()
    foreign = folder / "train" / ".writing-notes"
    foreign.touch()
    with lock.hold(folder):
        assert not half.exists(), "what a killed run had half written goes"
        assert foreign.exists(), "and what it has not written stays"
    with lock.hold(folder):  # and it is given back at the end
        pass


def test_where_locks_hold_on_one_machine_alone_another_ones_holder_is_noticed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENT", 30.0)
    folder = tmp_path / "run"
    with monkeypatch.context() as away:
        away.setattr(lock.socket, "gethostname", lambda: "another")
        away.setattr(lock, "_machine", lambda: "another")
        holder = lock.hold(folder)
        holder.__enter__()
    with monkeypatch.context() as blind:
        blind.setattr(lock.fcntl, "flock", lambda *_: None)  # which reaches no other machine
        blind.delenv(lock.HOLDER)  # of another process
        with pytest.raises(UserError, match=r"Another run is at work in .* on another, since "), \
                lock.hold(folder):
            pass
        assert "Watching for up to 30 s" in caplog.text
    holder.__exit__(None, None, None)
    monkeypatch.setattr(lock, "SILENT", 90.0)
    began = time.monotonic()
    with lock.hold(folder):  # who has ended as it should is not waited for
        assert time.monotonic() - began < 60


def test_a_holder_of_another_machine_that_was_killed_is_waited_for_and_replaced(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "SILENT", 1.5)
    lock.claim(tmp_path)
    told = tmp_path / lock.LOCK
    told.write_text("process 7 on another, since 2026-11-29 12:00")
    began = time.monotonic()
    with lock.hold(tmp_path):
        assert time.monotonic() - began >= 1
    assert told.read_text() == ""
    told.write_text("process 7 on another, since 2026-11-29 12:00")
    os.utime(told, (0, 0))
    monkeypatch.setattr(lock, "SILENT", 90.0)
    began = time.monotonic()
    with lock.hold(tmp_path):
        assert time.monotonic() - began < 60, "that was long ago"


@pytest.mark.parametrize(("machine", "silence", "says"), [
    ("another", 90, r" is locked by process 7 on another, since then, which .* remove .*/run/\.lock; "),
    ("another", 0, "Another run is at work in .*: process 7 on another, since then. Wait for it"),
    ("this", 90, "Another run is at work in "),  # which may have been stopped, but cannot be dead
])
def test_a_lock_that_a_dead_machine_has_left_at_the_file_server_is_told(tmp_path: Path, machine: str,
                                                                       silence: int, says: str):
    lock.claim(tmp_path / "run")
    path = tmp_path / "run" / lock.LOCK
    boot = lock._machine() if machine == "this" else machine
    path.write_text(f"process 7 on another, since then\n{boot}\n")
    os.utime(path, (time.time() - silence,) * 2)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=says), lock.hold(tmp_path / "run"):
            pass
    assert path.read_text().startswith("process 7"), "nobody else has removed it"
    path.unlink()
    with lock.hold(tmp_path / "run"):
        pass


def test_of_two_that_begin_at_the_same_moment_on_two_machines_one_ends(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(lock, "BEAT", 0.05)

    def hold_on() -> None:
        with lock.hold(tmp_path / "run"):
            (tmp_path / "run" / lock.LOCK).write_text("process 7 on another, since then\nanother\n")
            time.sleep(30)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            hold_on()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Another run has begun in this run's folder: process 7 on another, since then." in caplog.text
    assert (tmp_path / "run" / lock.LOCK).read_text().startswith("process 7"), "which is still there"


def test_on_a_full_disk_a_lock_of_another_machine_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(**how: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    lock.claim(tmp_path)
    (tmp_path / lock.LOCK).write_text("process 7 on another, since then\nanother\n")
    monkeypatch.setattr(lock.tempfile, "NamedTemporaryFile", full)
    monkeypatch.setattr(lock, "SILENT", 1.0)
    with lock.hold(tmp_path):
        pass


def test_a_lock_that_says_what_nobody_wrote_is_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "SILENT", 0.2)
    lock.claim(tmp_path)
    (tmp_path / lock.LOCK).write_bytes(b"\xff\xfe, since when")
    with lock.hold(tmp_path):
        assert lock.holder(tmp_path).startswith(f"process {os.getpid()} on ")


def test_a_lock_whose_folder_was_given_up_meanwhile_is_taken_anew(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch):
    folder, taken = tmp_path / "run", []

    def take(f: Any) -> None:
        if not taken:  # a run that was refused has just left
            (folder / lock.LOCK).unlink()
            (folder / lock.MARK).unlink()
        taken.append(f)

    monkeypatch.setattr(lock, "_lock", take)
    with lock.hold(folder):
        assert len(taken) == 2
        assert lock.is_run(folder)
        assert os.path.samestat((folder / lock.LOCK).stat(), os.fstat(taken[1].fileno()))


def test_folders_that_vanish_meanwhile_are_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock.claim(tmp_path)
    for name in ("a", "b"):
        files.write_text(tmp_path / "making" / name / f"{files.WRITING}x", "")
    walk = os.walk

    def vanishing(folder: Path, **how: Any) -> Any:
        for place in walk(folder, **how):
            yield place
            if Path(place[0]) == tmp_path:
                shutil.rmtree(tmp_path / "making" / "b", ignore_errors=True)

    monkeypatch.setattr(files.os, "walk", vanishing)
    lock.clear(tmp_path)
    assert files.below(tmp_path) == [lock.MARK]


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.raises(UserError, match="cannot be locked: No locks available"), lock.hold(tmp_path / "run"):
        pass


def test_a_lock_that_is_a_link_empties_no_file(tmp_path: Path):
    letter = tmp_path / "letter"
    letter.write_text("dear")
    lock.claim(tmp_path / "run")
    (tmp_path / "run" / f"{files.WRITING}folder").mkdir()
    with lock.hold(tmp_path / "run"):  # what is no file of ours stays
        pass
    assert (tmp_path / "run" / f"{files.WRITING}folder").is_dir()
    (tmp_path / "run" / lock.LOCK).unlink()
    (tmp_path / "run" / lock.LOCK).symlink_to(letter)
    with pytest.raises(UserError, match="cannot be the run folder"), lock.hold(tmp_path / "run"):
        pass
    assert letter.read_text() == "dear"


def test_who_holds_a_run_holds_what_lies_in_it_and_the_processes_that_it_starts_know(tmp_path: Path):
    with lock.hold(tmp_path / "run"):
        assert os.environ[lock.HOLDER] == str(tmp_path / "run")
        with lock.hold(tmp_path / "run"), lock.hold(tmp_path / "run" / "augment" / "set-4"):
            assert lock.is_run(tmp_path / "run" / "augment" / "set-4")
        assert os.environ[lock.HOLDER] == str(tmp_path / "run")
    assert lock.HOLDER not in os.environ


def test_a_run_in_another_is_refused(tmp_path: Path):
    lock.claim(tmp_path / "run")
    with pytest.raises(UserError, match=r"it lies in the run .*run\. Choose another run_dir"):
        Run.create("smoke", folder=tmp_path / "run" / "augment" / "mine")
    with pytest.raises(UserError, match="run_dir"):
        Run.create("smoke", {"run_dir": ""})
    Run.create("smoke", folder=tmp_path / "run")


@pytest.mark.parametrize("folder", ["run", "new/deep/run"])
def test_a_new_or_empty_folder_becomes_a_runs(tmp_path: Path, folder: str):
    (tmp_path / "run").mkdir()
    assert not lock.is_run(tmp_path / folder)
    lock.claim(tmp_path / folder)
    assert lock.is_run(tmp_path / folder)
    files.write_text(tmp_path / folder / "notes.txt", "mine")
    lock.claim(tmp_path / folder)
    lock.refuse_foreign(tmp_path / folder)


@pytest.mark.parametrize(("name", "says"), [
    ("params.yaml", "it holds files that belong to no run (params.yaml). Choose another run_dir."),
    ("data/patients/img1.png", "it holds files that belong to no run (data). Choose another run_dir."),
    (".hidden", "it holds files that belong to no run (.hidden). Choose another run_dir."),
])
def test_a_folder_that_holds_others_files_is_refused_and_stays_as_it_is(tmp_path: Path, name: str, says: str):
    files.write_text(tmp_path / name, "mine")
    for act in (lock.refuse_foreign, lock.claim, lambda folder: lock.hold(folder).__enter__()):
        with pytest.raises(UserError) as caught:
            act(tmp_path)
        assert str(caught.value) == f"{tmp_path} cannot be the run folder: {says}"
    assert files.below(tmp_path) == [name]


@pytest.mark.parametrize("text", ["", "{}", "[]", '"diffusegen"', '{"other": 1}'])
def test_a_run_json_of_others_makes_no_run(tmp_path: Path, text: str):
    (tmp_path / lock.MARK).write_text(text)
    with pytest.raises(UserError, match="files that belong to no run"):
        lock.claim(tmp_path)
    assert (tmp_path / lock.MARK).read_text() == text


def test_a_file_is_no_run_folder(tmp_path: Path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="it is a file"):
        lock.claim(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def given_away(folder: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder another user's: root gives it away, and anybody else pretends to be another."""
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


@pytest.mark.parametrize("name", ["empty", "a run"])
def test_a_folder_that_a_stranger_has_opened_to_everybody_is_refused(tmp_path: Path, name: str,
                                                                     monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "run"
    if name == "a run":
        lock.claim(folder)
        if os.geteuid() == 0:
            os.chown(folder / lock.MARK, 12345, -1)
    given_away(folder, 0o777, monkeypatch)
    before = files.below(folder)
    acts = [lock.claim, lambda folder: lock.hold(folder).__enter__()]
    if name == "empty":
        acts.append(lock.refuse_foreign)
    else:
        lock.refuse_foreign(folder)  # it may be read
    for act in acts:
        with pytest.raises(UserError, match=r"run folder: it belongs to .*, and everybody can write in it\. "
                                            r"Choose another run_dir or, .*\(chmod o-w\)\.$"):
            act(folder)
    assert files.below(folder) == before


def test_a_folder_that_a_colleague_made_for_the_group_is_taken_and_its_owner_told(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "run"
    given_away(folder, 0o2770, monkeypatch)
    for _ in range(2):
        with lock.hold(folder):
            assert lock.is_run(folder)
    assert caplog.text.count(f"{folder} belongs to") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_run_of_ones_own_goes_on_in_a_folder_of_somebody_else(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch):
    lock.claim(tmp_path / "run")
    given_away(tmp_path / "run", 0o777, monkeypatch)
    with lock.hold(tmp_path / "run"):
        pass


def test_a_folder_that_was_being_claimed_when_the_process_was_killed_can_be_claimed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        """Stands in for a kill, which no `finally` hears of."""

    def killed(file: int) -> None:
        raise Killed
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            lock.claim(tmp_path / "run")
    assert [path.name.startswith(files.WRITING) for path in (tmp_path / "run").iterdir()] == [True]
    with lock.hold(tmp_path / "run"):
        assert {path.name for path in (tmp_path / "run").iterdir()} == {lock.MARK, lock.LOCK}
