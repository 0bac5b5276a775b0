"""A soak: tiny runs of all chapters, disturbed at any of their writes, must end like an undisturbed one.

    python benchmarks/soak.py FOLDER --hours 2          the same command resumes; --episodes N ends sooner

An episode is a run of its own. The command (or all chapters in one process, as in a script) is started again
and again; each time something goes wrong, at a randomly drawn rename of a file into the run's folder (see
`saboteur/sitecustomize.py`) or between two starts. After a last start without faults the artifacts must be
those of an undisturbed run. Nothing that was finished in between and no file of the user's may be gone, and
every refusal must have been reported. FOLDER/episodes.jsonl has the episodes; a summary goes to JSON.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import soakrun
from common import ROOT, commit, main, target
from soakjudge import FOREIGN, Episode, ahead, compare, hits, judged, kills, kind, like, missed
from soakrun import Place

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files
from diffusegen_core.store.lock import MARK

SIXTY = {0: "workers", 1: "command", 31: "command"}  # how runs are started, of sixty; all others as scripts
STARTS = {"script": 60, "command": 12, "workers": 12}  # at most: commands need a minute for finished chapters
CHANGES = (("seed", 1), ("train.images", 32), ("inpaint.samples", 2), ("style.skip", 2),
           ("segment.epochs", 1))
# Seconds for which something is stopped, and how often in ten: moments, longer than a worker may be silent
# (180), longer than a chapter may be (420).
PAUSES = {2: 6, 30: 2, 180: 1, 420: 1}
ENDING = ("kill", "terminate", "interrupt", "full")  # faults after which a start may end without a result
SURVIVE = 0.3  # of the failed starts, processes that outlive the command are left to end by themselves
# What goes wrong, and how often in a hundred: at a write, or between two starts.
# In a script, which goes on after a stop or with a wrong clock, a kill follows these.
FAULTS = {"kill": 65, "stop": 2, "terminate": 6, "interrupt": 6, "full": 7, "clock": 2, "parameters": 4,
          "damage": 3, "data": 3, "second": 2}
BETWEEN = ("parameters", "damage", "data", "second")
NEAR = 20  # writes that a start may get ahead before something goes wrong: an episode has some 500
AIMED = 0.7  # of the faults at writes are aimed at a kind of write that no kill has hit, if one is near


@contextmanager
def altered(place: Place, rng: np.random.Generator, lost: set[str]) -> Iterator[str]:
    """Truncate or change a finished file for the duration; yields its path, or "". A file that the run has
    replaced or moved meanwhile is not restored; its hash goes to `lost`."""
    finished = [path for path in soakrun.stamped(place.run)
                if not soakrun.PASSING & set(path.relative_to(place.run).parts)]
    if not finished:
        yield ""
        return
    path = finished[int(rng.integers(len(finished)))]
    content, status = path.read_bytes(), path.stat()
    spoiled = content[:len(content) // 2] if rng.random() < 0.5 else content[:-1] + bytes(
        [content[-1] ^ 0xFF]) if content else b"x"
    path.write_bytes(spoiled)
    yield str(path.relative_to(place.run))
    if path.is_file() and path.read_bytes() == spoiled:  # else the run has made it again, or set it aside
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        lost.add(hashlib.sha256(content).hexdigest())


def between(place: Place, episode: Episode, fault: str, rng: np.random.Generator, lost: set[str]) -> None:
    """Start the run once with a fault that lasts until it ends, and judge how it ended."""
    changes: list[str] = []
    struck = ""
    if fault == "second":
        two_at_once(place, episode, rng)
        return
    if fault == "parameters":
        key, value = CHANGES[int(rng.integers(len(CHANGES)))]
        changes = ["-p", key, str(value)]
        aim(place, {"fault": "kill", "victim": "self", "when": "after",
                    "at": place.count() + int(rng.integers(5, 60))})
        code = soakrun.ended(place, soakrun.started(place, episode.mode, changes), 0)
        struck = f"{key} {value}"
        note_kill(place, episode)
    elif fault == "data":
        away = place.data.rename(place.folder / "elsewhere")
        # Where the data are not needed any more, the start would go on to the end.
        aim(place, {"fault": "kill", "victim": "self", "when": "after",
                    "at": place.count() + int(rng.integers(1, NEAR + 1))})
        code = soakrun.ended(place, soakrun.started(place, episode.mode, changes), 0)
        away.rename(place.data)
        struck = "the data folder"
        note_kill(place, episode)
    else:
        with altered(place, rng, lost) as struck:
            code = soakrun.ended(place, soakrun.started(place, episode.mode, changes), 0)
    clear(place)
    if struck:
        episode.struck.append({"fault": fault, "path": struck, "code": code})
    judged(place, code, True, episode, f"{fault} ({struck})")


def note_kill(place: Place, episode: Episode) -> None:
    if (killed := files.read_json(place.signs / "struck.json")) and killed["victims"]:
        episode.struck.append({**killed, "fault": "kill"})


def two_at_once(place: Place, episode: Episode, rng: np.random.Generator) -> None:
    """Stop the run at a write and start the command beside it, which must be refused. Then the first goes on,
    to be killed at a later write."""
    aim(place, {"fault": "stop", "victim": "self", "when": str(rng.choice(["before", "after"])),
                "at": place.count() + int(rng.integers(1, NEAR + 1)),
                "then": {"fault": "kill", "after": int(rng.integers(1, NEAR + 1))}})
    struck_at, since = place.signs / "struck.json", time.monotonic()
    first = soakrun.started(place, episode.mode, [])
    while first.poll() is None and not struck_at.exists() and time.monotonic() - since < soakrun.LONGEST:
        time.sleep(0.1)
    if first.poll() is None and struck_at.exists():
        second = soakrun.started(place, "command", [], second=True)
        with suppress(subprocess.TimeoutExpired):
            second.wait(soakrun.LONGEST)
        code = second.poll()
        judged(place, code, True, episode, "a second command", second=True)
        if code is not None and code <= 0:
            episode.wrong.append(f"a second command beside another was not refused: exit status {code}")
        episode.struck.append({"fault": "second", "path": "", "code": code})
    code = soakrun.ended(place, first, 0)
    struck = files.read_json(struck_at) or {}
    clear(place)
    if struck:
        episode.struck += [*([struck.pop("first")] if "first" in struck else []), struck]
    judged(place, code, True, episode, "a run beside which a second command was started")


def aim(place: Place, told: dict[str, Any]) -> None:
    (place.signs / "aim.json").write_text(json.dumps(told))


def clear(place: Place) -> None:
    """End all faults."""
    for name in ("aim.json", "struck.json", "full", "clock"):
        (place.signs / name).unlink(missing_ok=True)
    (place.disk / "filler").unlink(missing_ok=True)


def at_a_write(place: Place, episode: Episode, fault: str, rng: np.random.Generator, writes: list[str],
               missed: list[str]) -> bool:
    """Start the run with a fault at one of its next writes, or at the first of a kind that no kill has hit;
    False if the run finished before. `writes` are an undisturbed run's."""
    pause = float(drawn(rng, PAUSES))
    victims = {"script": ["self"], "command": ["self", "kernel", "command"],
               "workers": ["self", "kernel", "command", "worker"]}[episode.mode]
    victim = ("command" if fault in ("terminate", "interrupt") else "self" if fault in ("full", "clock")
              else str(rng.choice(victims)))
    hit_before = {kind(one["path"]) for one in episode.struck}
    near = [one for one in ahead(writes, place.writes())[:NEAR] if one in missed and one not in hit_before]
    aimed = bool(near) and rng.random() < AIMED
    aim(place, {"fault": fault, "victim": victim, "when": str(rng.choice(["before", "after"])),
                "at": place.count() + (6 * NEAR if aimed else int(rng.integers(1, NEAR + 1))),
                "like": like(str(rng.choice(near))) if aimed else "",
                "room": int(rng.choice([0, 1, 8, 64]) * 4096),
                "seconds": float(rng.choice([-1, 1]) * 86400 * rng.uniform(0.1, 400)),
                **({"then": {"fault": "kill", "after": int(rng.integers(1, NEAR + 1))}}
                   if episode.mode == "script" and fault in ("stop", "clock") else {})})
    code = soakrun.ended(place, soakrun.started(place, episode.mode, []), pause,
                         alone=rng.random() >= SURVIVE)
    struck = files.read_json(place.signs / "struck.json") or {}
    clear(place)
    hit = bool(struck) and bool(struck["victims"])
    if hit:
        episode.struck += [*([struck.pop("first")] if "first" in struck else []), struck]
    # Another worker takes over from a killed one, and whatever was stopped was resumed.
    ending = hit and struck["fault"] in ENDING and struck["victim"] != "worker"
    judged(place, code, ending, episode, f"{fault} at {struck.get('path')}")
    return bool(struck)


def drawn(rng: np.random.Generator, often: dict[Any, int]) -> Any:
    """Draw one of the keys, weighted by the values."""
    shares = np.array(list(often.values())) / sum(often.values())
    return list(often)[int(rng.choice(len(often), p=shares))]


def mode_of(number: int) -> str:
    """How the runs of an episode are started: a "script", the "command", or the command with "workers"."""
    return SIXTY.get(number % 60, "script")


def episode(number: int, place: Place, seed: int, whole: dict[str, str], writes: list[str],
            missed: list[str]) -> Episode:
    """One run, disturbed until it is complete, or STARTS times. `writes` are an undisturbed run's, `missed`
    the kinds of them that no kill has hit so far."""
    rng = np.random.default_rng([seed, number])
    done = Episode(number, mode_of(number))
    began, finished, lost = time.monotonic(), dict[soakrun.Identity, str](), set[str]()
    foreign: dict[str, str] = {}
    for _ in range(STARTS[done.mode]):
        fault = drawn(rng, FAULTS)
        if fault == "damage" and not soakrun.finished(place.run):
            fault = "kill"
        if fault in BETWEEN:
            between(place, done, fault, rng, lost)
        elif not at_a_write(place, done, fault, rng, writes, missed):
            break
        finished |= soakrun.finished(place.run)
        for name in FOREIGN:  # once its folder exists, and the run's is known as one
            if name not in foreign and (place.run / name).parent.is_dir() and (place.run / MARK).is_file():
                (place.run / name).write_text(f"the user's {name}")
                foreign[name] = files.sha256(place.run / name)
        if done.wrong:
            break
    code = soakrun.ended(place, soakrun.started(place, done.mode, []), 0)
    judged(place, code, False, done, "the last start")
    soakrun.end_all(place)
    place.close()
    compare(place, whole, {one: sha256 for one, sha256 in finished.items() if sha256 not in lost}, foreign,
            done)
    done.seconds = time.monotonic() - began
    return done


def undisturbed(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What an undisturbed run makes, and the paths it renames into place, in order. Kept for the current
    code; made twice, since what differs between two such runs could not count as a finding."""
    place, known = Place(folder / "whole"), folder / "whole.json"
    told = files.read_json(known)
    if not told or told["code"] != soakrun.code_hash():
        made: dict[str, str] = {}
        for _ in range(2):
            soakrun.prepared(place.folder)
            if (code := soakrun.ended(place, soakrun.started(place, "script", []), 0)) != 0:
                raise UserError(f"The undisturbed run ended with {code}: see {place.said}.")
            if failed := soakrun.failed(place.run):
                raise UserError(f"The undisturbed run has failed at {', '.join(failed)}.")
            before, made = made, soakrun.made(place.run)
            place.close()
        if differing := [name for name in made if made[name] != before.get(name)]:
            raise UserError(f"Two undisturbed runs differ: {', '.join(differing[:9])}.")
        told = {"code": soakrun.code_hash(), "made": made, "writes": place.writes()}
        files.write_json(known, told)
    return told["made"], told["writes"]


def summary(every: list[dict[str, Any]], writes: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of all episodes of the current code; of earlier ones only their number."""
    now = soakrun.code_hash()
    lines = [line for line in every if line["code"] == now]
    struck = [one for line in lines for one in line["struck"]]
    wrong = [(line, words) for line in lines for words in line["wrong"]]
    counts = Counter(one["fault"] for one in struck)
    return {
        "date": str(date.today()), "commit": commit(), "seed": options.seed, "episodes": len(lines),
        "hours": round(sum(line["seconds"] for line in lines) / 3600, 2),
        "episodes of earlier code": len(every) - len(lines),
        "modes": Counter(line["mode"] for line in lines),
        "kills": counts["kill"], "of the writing process": len(hits(lines)),
        "damages noticed": sum(one["fault"] == "damage" and one["code"] != 0 for one in struck),
        "other faults": sum(counts.values()) - counts["kill"],
        "faults": counts, "victims": Counter(one["victim"] for one in kills(lines)),
        "chapters killed in": Counter(str(one["path"]).removeprefix("making/").split("/")[0]
                                      for one in kills(lines)),
        "kinds of writes": len({kind(path) for path in writes}), "never hit": missed(lines, writes),
        "wrong": len(wrong),
        "first wrong": None if not wrong else {"episode": wrong[0][0]["number"], "what": wrong[0][1]},
        "versions": files.versions()}


def work(arguments: list[str] | None = None) -> None:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("folder", type=Path, help="a folder of the soak's own, outside the checkout's files")
    found.add_argument("--hours", type=float, default=1.0)
    found.add_argument("--episodes", type=int, default=10_000, help="stop after this many in total")
    found.add_argument("--jobs", type=int, default=1, help="episodes at once")
    found.add_argument("--modes", nargs="+", choices=list(STARTS), default=list(STARTS),
                       help="only episodes of runs that are started so; default: all")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=target, default=str(ROOT / "benchmarks" / "results" / "soak.json"))
    options = found.parse_args(arguments)
    end = time.monotonic() + 3600 * options.hours
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    whole, writes = undisturbed(folder)
    log = folder / "episodes.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {line["number"] for line in lines}
    left = iter([number for number in range(options.episodes)
                 if number not in known and mode_of(number) in options.modes])

    def go_on() -> None:
        while time.monotonic() < end and (number := next(left, None)) is not None:
            place = soakrun.prepared(folder / f"episode-{number}")
            done = episode(number, place, options.seed, whole, writes, missed(lines, writes))
            with log.open("a") as f:
                f.write(json.dumps(vars(done)) + "\n")
            lines.append(vars(done))
            files.write_json(options.out, summary(lines, writes, options))
            (soakrun.keep if done.wrong else soakrun.remove)(place)
            print(f"episode {number}, {done.mode}: {len(done.struck)} faults in {done.seconds:.0f} s; "
                  f"{'; '.join(done.wrong)[:300] or 'as undisturbed'}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for each in [pool.submit(go_on) for _ in range(options.jobs)]:
            each.result()
    files.write_json(options.out, summary(lines, writes, options))  # if no episode was left, too


if __name__ == "__main__":
    # A shell has its background jobs ignore Ctrl-C, and with them all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(work)
