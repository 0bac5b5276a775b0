"""A soak: tiny runs of all chapters, disturbed at every write, must end as one that nothing disturbed.

    python benchmarks/soak.py FOLDER --hours 2          the same command goes on; --episodes N ends sooner

An episode is a run of its own. The command (or the chapters in one process, as a script runs them) is started
again and again; each time something goes wrong at a renaming that is drawn from those that a run makes, or
between two starts; `saboteur/sitecustomize.py` says how. Then nothing goes wrong, and the artifacts must be
those of the undisturbed run. Nothing that was finished in between and nothing of the user's may be gone, and
what was refused must have been told. FOLDER/episodes.jsonl keeps what was done; a summary goes to JSON.
"""

import argparse
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import soakrun
from common import ROOT, main, target
from soakrun import Place

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files

MODES = {"script": 6, "command": 3, "workers": 1}  # how a run is started, and how often in ten
FOREIGN = ("mine.txt", "train/notes.txt", "inpaint/2-Paint/images/mine.txt")  # the user's own files
CHANGES = (("seed", 1), ("train.images", 32), ("inpaint.samples", 2), ("style.skip", 2),
           ("segment.epochs", 1))
# What goes wrong, and how often in a hundred: at a write, or between two starts.
FAULTS = {"kill": 66, "stop": 5, "terminate": 5, "interrupt": 5, "full": 5, "clock": 3, "parameters": 4,
          "damage": 4, "data": 3}
BETWEEN = ("parameters", "damage", "data")


@dataclass
class Episode:
    """What was done to one run, and how it ended."""

    number: int
    mode: str
    struck: list[dict[str, Any]] = field(default_factory=list)
    """What went wrong, as the saboteur tells it."""
    wrong: list[str] = field(default_factory=list)
    """What should not be: differences, losses, tracebacks, hangs."""
    seconds: float = 0.0


def judged(place: Place, code: int | None, expected: bool, episode: Episode, what: str) -> None:
    """Note a hang, a traceback, or more than a line where the run was refused."""
    said = (place.folder / "said.txt").read_text(errors="replace")
    if code is None:
        episode.wrong.append(f"{what}: no end after {soakrun.LONGEST} s; it said: {said[-500:]}")
    elif "Traceback" in said:
        episode.wrong.append(f"{what}: a traceback: {said[said.index('Traceback'):][:1500]}")
    elif code > 0 and not any(line.strip() for line in said.splitlines()):
        episode.wrong.append(f"{what}: exit status {code}, and not a word")
    elif code and not expected:
        episode.wrong.append(f"{what}: exit status {code}; it said: {said[-500:]}")


@contextmanager
def altered(place: Place, rng: np.random.Generator) -> Iterator[str]:
    """While it lasts, a finished file is cut short or changed; what was done to which."""
    finished = [name for name in soakrun.made(place.run) if (place.run / name).is_file()]
    if not finished:
        yield "nothing: no file was finished"
        return
    path = place.run / finished[int(rng.integers(len(finished)))]
    content, status = path.read_bytes(), path.stat()
    spoiled = content[:len(content) // 2] if rng.random() < 0.5 else content[:-1] + bytes(
        [content[-1] ^ 0xFF]) if content else b"x"
    path.write_bytes(spoiled)
    yield str(path.relative_to(place.run))
    if path.is_file() and path.read_bytes() == spoiled:  # else the run has made it again, or set it aside
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def between(place: Place, episode: Episode, fault: str, rng: np.random.Generator, pause: float) -> None:
    """Start the run once under a fault that lasts as long, and judge what it said."""
    changes: list[str] = []
    if fault == "parameters":
        key, value = CHANGES[int(rng.integers(len(CHANGES)))]
        changes = ["-p", key, str(value)]
        aim(place, {"fault": "kill", "victim": "self", "when": "after",
                    "at": place.count() + int(rng.integers(5, 60))})
        code = soakrun.ended(place, soakrun.started(place, episode.mode, changes), pause)
        struck = f"{key} {value}"
    elif fault == "data":
        away = place.data.rename(place.folder / "elsewhere")
        code = soakrun.ended(place, soakrun.started(place, episode.mode, changes), pause)
        away.rename(place.data)
        struck = "the data folder"
    else:
        with altered(place, rng) as struck:
            code = soakrun.ended(place, soakrun.started(place, episode.mode, changes), pause)
    clear(place)
    episode.struck.append({"fault": fault, "path": struck, "code": code})
    judged(place, code, True, episode, f"{fault} ({struck})")


def aim(place: Place, told: dict[str, Any]) -> None:
    (place.signs / "aim.json").write_text(json.dumps(told))


def clear(place: Place) -> None:
    """No more faults."""
    for name in ("aim.json", "struck.json", "full", "clock"):
        (place.signs / name).unlink(missing_ok=True)


def at_a_write(place: Place, episode: Episode, fault: str, rng: np.random.Generator, whole: int,
               pause: float) -> bool:
    """Start the run with a fault at one of the next writes; False where it was finished before that."""
    victims = {"script": ["self"], "command": ["self", "kernel", "command"],
               "workers": ["self", "kernel", "command", "worker"]}[episode.mode]
    victim = "command" if fault in ("terminate", "interrupt") else str(rng.choice(victims))
    aim(place, {"fault": fault, "victim": victim, "when": str(rng.choice(["before", "after"])),
                "at": place.count() + 1 + int(rng.integers(0, max(2, whole // 5))),
                "seconds": float(rng.choice([-1, 1]) * 86400 * rng.uniform(0.1, 400))})
    code = soakrun.ended(place, soakrun.started(place, episode.mode, []), pause)
    struck = files.read_json(place.signs / "struck.json")
    clear(place)
    if struck:
        episode.struck.append({name: told for name, told in struck.items() if name != "victims"})
    judged(place, code, bool(struck), episode, f"{fault} at {(struck or {}).get('path')}")
    return bool(struck)


def drawn(rng: np.random.Generator, often: dict[str, int]) -> str:
    """One of these, each as often as it says."""
    shares = np.array(list(often.values())) / sum(often.values())
    return str(rng.choice(list(often), p=shares))


def episode(number: int, place: Place, seed: int, whole: dict[str, str], writes: int) -> Episode:
    """One run, disturbed until it is whole."""
    rng = np.random.default_rng([seed, number])
    done = Episode(number, drawn(rng, MODES))
    began, finished = time.monotonic(), set[str]()
    foreign: dict[str, str] = {}
    for _ in range(40):
        fault = drawn(rng, FAULTS)
        pause = float(rng.choice([2, 10, 60], p=[0.6, 0.3, 0.1]))
        if fault in BETWEEN:
            between(place, done, fault, rng, pause)
        elif not at_a_write(place, done, fault, rng, writes, pause):
            break
        finished |= set(soakrun.made(place.run, aside=True).values())
        for name in FOREIGN:  # once there is a place for it
            if name not in foreign and (place.run / name).parent.is_dir():
                (place.run / name).write_text(f"the user's {name}")
                foreign[name] = files.sha256(place.run / name)
        if done.wrong:
            break
    code = soakrun.ended(place, soakrun.started(place, done.mode, []), 0)
    judged(place, code, False, done, "the last start")
    compare(place, whole, finished, foreign, done)
    done.seconds = time.monotonic() - began
    return done


def compare(place: Place, whole: dict[str, str], finished: set[str], foreign: dict[str, str],
            done: Episode) -> None:
    """Note what differs from the undisturbed run, and what is gone."""
    mine = soakrun.made(place.run)
    for name in sorted(whole.keys() | mine.keys()):
        if whole.get(name) != mine.get(name):
            done.wrong.append(f"different: {name}")
            break
    there = soakrun.really(place.run)
    if gone := finished - there:
        done.wrong.append(f"{len(gone)} finished files are gone")
    done.wrong += [f"gone: {name}" for name, sha256 in foreign.items() if sha256 not in there]


def undisturbed(folder: Path) -> tuple[dict[str, str], int, list[str]]:
    """What a run makes that nothing disturbs, its number of renamings, and what these wrote. Made once."""
    place, known = Place(folder / "whole"), folder / "whole.json"
    told = files.read_json(known)
    if not told or told["code"] != soakrun.code_hash():
        soakrun.prepared(place.folder)
        if (code := soakrun.ended(place, soakrun.started(place, "script", []), 0)) != 0:
            raise UserError(f"The undisturbed run ended with {code}: see {place.folder / 'said.txt'}.")
        told = {"code": soakrun.code_hash(), "made": soakrun.made(place.run), "writes": place.count()}
        files.write_json(known, told)
    return told["made"], told["writes"], sorted(told["made"])


def kind(path: str) -> str:
    """A path without its numbers and keys: one kind of write."""
    return re.sub(r"[0-9a-f]{12,}|\d+", "#", path)


def summary(lines: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of all episodes."""
    struck = [one for line in lines for one in line["struck"]]
    wrong = [(line, words) for line in lines for words in line["wrong"]]
    counts = Counter(one["fault"] for one in struck)
    return {
        "date": str(date.today()), "seed": options.seed, "episodes": len(lines),
        "hours": round(sum(line["seconds"] for line in lines) / 3600, 2),
        "modes": Counter(line["mode"] for line in lines),
        "kills": counts["kill"], "other faults": sum(counts.values()) - counts["kill"],
        "faults": counts, "victims": Counter(one["victim"] for one in struck if one["fault"] == "kill"),
        "chapters killed in": Counter(str(one["path"]).removeprefix("making/").split("/")[0]
                                      for one in struck if one["fault"] == "kill"),
        "kinds of writes hit": len({kind(str(one["path"])) for one in struck if one["fault"] == "kill"}),
        "wrong": len(wrong),
        "first wrong": None if not wrong else {"episode": wrong[0][0]["number"], "what": wrong[0][1]},
        "versions": files.versions()}


def work(arguments: list[str] | None = None) -> None:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("folder", type=Path, help="a folder of the soak's own, outside the checkout's files")
    found.add_argument("--hours", type=float, default=1.0)
    found.add_argument("--episodes", type=int, default=10**9, help="at most so many in all")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=target, default=str(ROOT / "benchmarks" / "results" / "soak.json"))
    options = found.parse_args(arguments)
    end = time.monotonic() + 3600 * options.hours
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    whole, writes, _ = undisturbed(folder)
    log = folder / "episodes.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while time.monotonic() < end and len(lines) < options.episodes:
        number = len(lines)
        place = soakrun.prepared(folder / f"episode-{number}")
        done = episode(number, place, options.seed, whole, writes)
        with log.open("a") as f:
            f.write(json.dumps(vars(done)) + "\n")
        lines.append(vars(done))
        files.write_json(options.out, summary(lines, options))
        if not done.wrong:  # else it is kept, to be looked at
            shutil.rmtree(place.folder)
        print(f"episode {number}, {done.mode}: {len(done.struck)} faults in {done.seconds:.0f} s; "
              f"{'; '.join(done.wrong)[:300] or 'as undisturbed'}", flush=True)


if __name__ == "__main__":
    main(work)
