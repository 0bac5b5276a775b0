"""The soak's saboteur strikes at the write that it is told, and the soak sees what is different or gone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import soak  # noqa: E402
import soakrun  # noqa: E402

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
    return made


def written(place: soakrun.Place) -> tuple[int, str, list[str]]:
    """Exit status, what was said, and what is there of five files."""
    paths = [str(ROOT / "benchmarks/saboteur"), str(ROOT)]
    done = subprocess.run([sys.executable, "-c", WRITES, str(place.run)], capture_output=True, text=True,
                          timeout=120,
                          env={**os.environ, "SOAK": str(place.signs), "SOAK_RUN": str(place.run),
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


def test_what_is_different_or_gone_is_noted(place: soakrun.Place):
    place.run.mkdir()
    episode = soak.Episode(0, "script")
    soak.compare(place, {}, set(), {}, episode)
    assert episode.wrong == []
    soak.compare(place, {"train/full/model": "a"}, {"b"}, {"mine.txt": "c"}, episode)
    assert episode.wrong == ["different: train/full/model", "1 finished files are gone", "gone: mine.txt"]


@pytest.mark.parametrize(("said", "code", "expected", "noted"), [
    ("Error: the data are not there.", 1, True, ""), ("", 0, False, ""), ("", -9, True, ""),
    ("Error: the data are not there.", 1, False, "exit status 1"), ("", 1, True, "not a word"),
    ("Traceback (most recent call last):", 1, True, "a traceback"), ("working", None, True, "no end")])
def test_a_refusal_is_a_line_and_not_a_traceback(place: soakrun.Place, said: str, code: int | None,
                                                 expected: bool, noted: str):
    (place.folder / "said.txt").write_text(said)
    episode = soak.Episode(0, "script")
    soak.judged(place, code, expected, episode, "data")
    assert noted in "".join(episode.wrong)
    assert bool(noted) == bool(episode.wrong)
