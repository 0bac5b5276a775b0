"""The soak's saboteur strikes at the write that it is told, and the soak sees what is different or gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import soak  # noqa: E402
import soakjudge  # noqa: E402
import soakrun  # noqa: E402

from diffusegen_core.config import params  # noqa: E402
from diffusegen_core.planning import preflight  # noqa: E402

WRITES = """
import sys, time
from pathlib import Path
from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files
try:
    for number in range(1, 6):
        files.write_text(Path(sys.argv[1]) / f"{number}.txt", "x")
        files.write_text(Path(sys.argv[1]).parent / "elsewhere.txt", "x")
except UserError as error:
    sys.exit(str(error))
print(time.time() > 4e9)
"""


@pytest.fixture
def place(tmp_path: Path) -> soakrun.Place:
    made = soakrun.Place(tmp_path)
    made.signs.mkdir()
    made.disk.mkdir()
    return made


def written(place: soakrun.Place) -> tuple[int, str, list[str]]:
    """Exit status, what was said, and what is there of five files."""
    paths = [str(ROOT / "benchmarks/saboteur"), str(ROOT)]
    done = subprocess.run([sys.executable, "-c", WRITES, str(place.run)], capture_output=True, text=True,
                          timeout=120,
                          env={**os.environ, "SOAK": str(place.signs), "SOAK_RUN": str(place.run),
                               "SOAK_DISK": str(place.disk) if place.disk.is_mount() else "",
                               "PYTHONPATH": os.pathsep.join(paths)})
    there = sorted(path.name for path in place.run.glob("[0-9].txt"))
    return done.returncode, done.stdout + done.stderr, there


@pytest.mark.parametrize(("when", "count"), [("before", 2), ("after", 3)])
def test_a_kill_hits_the_write_that_it_is_aimed_at(place: soakrun.Place, when: str, count: int):
    soak.aim(place, {"fault": "kill", "victim": "self", "when": when, "at": 3})
    code, _, there = written(place)
    assert (code, len(there), place.count()) == (-signal.SIGKILL, count, 3)
    struck = json.loads((place.signs / "struck.json").read_text())
    assert (struck["path"], struck["number"]) == ("3.txt", 3)
    soak.clear(place)
    assert written(place)[::2] == (0, [f"{number}.txt" for number in range(1, 6)])
    assert place.count() == 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
def test_a_small_disk_is_really_filled_and_cleared(tmp_path: Path):
    place = soakrun.prepared(tmp_path / "place")
    if not place.disk.is_mount():
        pytest.skip("no disk can be mounted here")
    soak.aim(place, {"fault": "full", "victim": "self", "when": "before", "at": 2, "room": 0})
    code, said, there = written(place)
    assert (code, there) == (1, ["1.txt", "2.txt"])  # the second was written already, and only renamed
    assert "No space left on device" in said
    soak.clear(place)
    assert written(place)[::2] == (0, [f"{number}.txt" for number in range(1, 6)])
    soakrun.keep(place)
    assert sorted(path.name for path in (place.folder / "kept/run").glob("[0-9].txt")) == [
        f"{number}.txt" for number in range(1, 6)]
    soakrun.remove(place)
    assert not place.folder.exists()


def test_a_full_disk_and_a_wrong_clock_last_until_they_are_cleared(place: soakrun.Place):
    soak.aim(place, {"fault": "full", "victim": "self", "when": "before", "at": 2})
    code, said, there = written(place)
    assert (code, there) == (1, ["1.txt"])
    assert "No space left on device" in said
    assert written(place)[0] == 1
    soak.clear(place)
    soak.aim(place, {"fault": "clock", "victim": "self", "when": "after", "at": place.count() + 1,
                     "seconds": 3e9})
    assert written(place)[:2] == (0, "True\n")
    soak.clear(place)
    assert written(place)[:2] == (0, "False\n")


def test_a_kill_may_follow_another_fault(place: soakrun.Place):
    soak.aim(place, {"fault": "clock", "victim": "self", "when": "before", "at": 2, "seconds": 3e9,
                     "then": {"fault": "kill", "after": 2}})
    code, _, there = written(place)
    assert (code, there) == (-signal.SIGKILL, ["1.txt", "2.txt", "3.txt"])
    struck = json.loads((place.signs / "struck.json").read_text())
    assert (struck["fault"], struck["path"]) == ("kill", "4.txt")
    assert (struck["first"]["fault"], struck["first"]["path"]) == ("clock", "2.txt")


@pytest.fixture
def copied(place: soakrun.Place, finished: Path) -> soakrun.Place:
    """A place with a finished run."""
    shutil.copytree(finished, place.run)
    return place


def seen(place: soakrun.Place, whole: dict[str, str],
         finished: dict[soakrun.Identity, str]) -> list[str]:
    """What is found wrong with a run, beside another's files and what was finished."""
    episode = soakjudge.Episode(0, "script")
    soakjudge.compare(place, whole, finished, {"mine.txt": "c"}, episode)
    assert episode.wrong.pop() == "gone: mine.txt"
    return episode.wrong


def test_what_is_different_or_gone_is_noted(copied: soakrun.Place):
    whole, finished = soakrun.made(copied.run), soakrun.finished(copied.run)
    assert len(whole) > 100
    assert (seen(copied, whole, finished), len(finished) > 50) == ([], True)
    model, log = (copied.run / "train" / "cluster-00" / name for name in ("model.safetensors", "log.csv"))
    for path in (model, log, copied.run / "segment" / "results.csv"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1", b"2"))
        name = str(path.relative_to(copied.run))
        assert f"different: {name} (there, and there undisturbed)" in seen(copied, whole, {}), name
        path.unlink()
        assert f"different: {name} (" in seen(copied, whole, {})[0]
        path.write_bytes(content)
    finished = soakrun.finished(copied.run)
    content = model.read_bytes()
    model.unlink()
    assert seen(copied, whole, finished)[1:] == ["1 finished files are gone; made again were []"]
    model.write_bytes(content)  # a file that is made again is not the one that was finished
    assert seen(copied, whole, finished) == [f"1 finished files are gone; made again were ['{model}']"]


def test_seconds_and_what_is_set_aside_are_no_difference(copied: soakrun.Place):
    whole = soakrun.made(copied.run)
    stamp = copied.run / "cluster" / "made.json"
    told = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**told, "seconds": told["seconds"] + 1}))
    table = copied.run / "segment" / "runs.csv"
    runs = pd.read_csv(table)
    runs.assign(seconds=runs["seconds"] + 1).to_csv(table, index=False)
    (copied.run / "aside" / "cluster").mkdir(parents=True)
    (copied.run / "aside" / "cluster" / "x.csv").touch()
    assert seen(copied, whole, {}) == []


def test_a_spoilt_file_is_put_right_unless_the_run_has_moved_it(copied: soakrun.Place):
    whole, lost = soakrun.made(copied.run), set[str]()
    with soak.altered(copied, np.random.default_rng(0), lost) as name:
        assert soakrun.made(copied.run)[name] == "is not as its stamp tells"
    assert copied.run.joinpath(name).is_file()
    assert (soakrun.made(copied.run), lost) == (whole, set())
    with soak.altered(copied, np.random.default_rng(0), lost) as name:
        (copied.run / name).rename(copied.folder / "moved")
    assert len(lost) == 1


@pytest.mark.parametrize("change", [(), *soak.CHANGES])
def test_its_run_is_one_that_would_begin_and_each_change_makes_another(tmp_path: Path, change: tuple):
    place = soakrun.prepared(tmp_path / "place")
    values = params.load(place.profile)
    whole = params.validate(values)
    changed = params.validate(params.merged(values, dict([change] if change else [])))
    assert preflight.problems(changed) == []
    assert (changed == whole) == (not change)
    soakrun.remove(place)


def test_kinds_of_writes_that_no_kill_has_hit_are_aimed_at(place: soakrun.Place):
    writes = ["1.txt", "train/cluster-00/log.csv", "0123456789abcdef/x.json"]
    lines = [{"struck": [{"fault": "kill", "path": "7.txt", "writer": 5, "victims": [5]},
                         {"fault": "kill", "path": "train/cluster-01/log.csv", "writer": 5, "victims": [4]},
                         {"fault": "full", "path": "1/x.json"}]}]
    assert soakjudge.missed(lines, writes) == ["#/x.json", "train/cluster-#/log.csv"]
    soak.aim(place, {"fault": "kill", "victim": "self", "when": "after", "at": 99,
                     "like": soakjudge.like(soakjudge.kind("4.txt"))})
    assert written(place) == (-signal.SIGKILL, "", ["1.txt"])
    assert place.writes() == ["1.txt"]


def test_what_is_still_to_come_keeps_its_order():
    writes = ["a/1.txt", "table.csv", "b/1.txt", "table.csv", "c.txt"]
    assert soakjudge.ahead(writes, []) == ["a/#.txt", "table.csv", "b/#.txt", "table.csv", "c.txt"]
    assert soakjudge.ahead(writes, ["a/7.txt", "table.csv"]) == ["b/#.txt", "table.csv", "c.txt"]
    assert soakjudge.ahead(writes, ["table.csv"] * 9) == ["a/#.txt", "b/#.txt", "c.txt"]


@pytest.mark.parametrize(("name", "others"), [
    ("segment/Real-seed0-0123abcd/network/made.json", True),
    ("augment/Real-N4-seed0-0123abcd/spent.json", True),
    ("segment/Real-seed0-89abcdef/network/made.json", False), ("segment/results.csv", False),
    ("train/cluster-09/log.csv", False)])
def test_networks_that_other_parameters_have_asked_for_are_no_difference(name: str, others: bool):
    whole = ["segment/Real-seed0-89abcdef/spent.json", "segment/results.csv", "train/cluster-00/log.csv"]
    assert soakjudge.of_other_parameters(name, whole) == others


def test_what_a_command_leaves_is_seen_and_ended(place: soakrun.Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soakrun, "LINGER", 1)
    assert soakrun.lingering(place) == []
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, "SOAK": str(place.signs)},
                            start_new_session=True)
    (place.folder / "said.txt").write_text("all is made")
    episode = soakjudge.Episode(0, "script")
    soakjudge.judged(place, 0, False, episode, "the last start")
    assert "left ['sleep 60 ']" in episode.wrong[0]
    soakrun.end_all(place)
    assert left.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("status", [0, 1])
def test_what_outlives_a_command_is_killed_after_a_failure_alone(place: soakrun.Place, status: int):
    code = f"import subprocess, sys; subprocess.Popen(['sleep', '60']); sys.exit({status})"
    process = subprocess.Popen([sys.executable, "-c", code], text=True, start_new_session=True,
                               env={**os.environ, "SOAK": str(place.signs)})
    assert soakrun.ended(place, process, 0) == status
    end = time.monotonic() + 10
    while status and soakrun.processes(place) and time.monotonic() < end:
        time.sleep(0.1)
    assert list(soakrun.processes(place).values()) == ([] if status else ["sleep 60 "])
    soakrun.end_all(place)


def test_what_was_stopped_goes_on(place: soakrun.Place):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"], text=True)
    process.send_signal(signal.SIGSTOP)
    (place.signs / "struck.json").write_text(json.dumps({"fault": "stop", "victims": [process.pid]}))
    assert soakrun.ended(place, process, 0.2) == 0


@pytest.mark.parametrize(("said", "code", "expected", "noted"), [
    ("Error: the data are not there.", 1, True, ""), ("", 0, False, ""), ("", -9, True, ""),
    ("Error: the data are not there.", 1, False, "exit status 1"), ("", 1, True, "0 lines"),
    ("01_cluster: running, 1 of 8", 1, True, "0 lines"), ("Error: a\nError: b", 1, True, "2 lines"),
    ("diffusegen: 03 failed: KeyError. The traceback is in x.", 2, True, "the program's own"),
    ("Traceback (most recent call last):", 1, True, "a traceback"), ("", -11, True, "ended by signal 11"),
    ("working", None, True, "no end")])
def test_a_refusal_is_a_line_and_not_a_traceback(place: soakrun.Place, said: str, code: int | None,
                                                 expected: bool, noted: str):
    (place.folder / "said.txt").write_text(said)
    episode = soakjudge.Episode(0, "script")
    soakjudge.judged(place, code, expected, episode, "data")
    assert noted in "".join(episode.wrong)
    assert bool(noted) == bool(episode.wrong)
