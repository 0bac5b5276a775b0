"""Gives thousands of corrupted inputs to the command line: none may cause a traceback or a hang, take
unlimited memory, execute anything or write elsewhere.

Hypothesis generates the inputs and keeps those that fail, which are tried again first. Each runs in a forked
child with limits (see `fuzzcage`). The same command resumes where it was stopped; counts and the first
failures are written to the JSON file after each batch.
"""

import argparse
import base64
import hashlib
import json
import os
import shutil
import sys
import time
import unittest
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import fuzzcage
import fuzzheavy
import fuzzjudge
import fuzzruns
import hypothesis
import torch
from fuzzcage import Case, Outcome
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import Flaky, Unsatisfiable

from diffusegen_core.store import files

ROOT = Path(__file__).parents[1]
BATCH = 50
SHOWN = 1500  # the last 20 times as many characters of an output are kept
KEPT = 3  # cases kept of each fault


class Fault(Exception):
    """An input did what none may; each fault gets a subclass, so that hypothesis tells them apart."""


class Fuzz:
    """A campaign: its folder, what it has tried, and what it has found."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed, self.version = folder, seed, version()
        self.base, self.box = folder / "base", folder / "box" / str(os.getpid())
        self.base.mkdir(parents=True, exist_ok=True)
        self.box.parent.mkdir(exist_ok=True)
        fuzzruns.BASE = self.base
        self.database = DirectoryBasedExampleDatabase(folder / "examples")
        told = files.read_json(folder / "state.json")
        self.state: dict[str, Any] = told if isinstance(told, dict) else {
            "batches": {}, "tried": {}, "codes": {}, "faults": {}, "seconds": 0.0, "slowest": [0, ""],
            "largest": [0, ""],
            "replayed": {}}
        digests = folder / "tried.txt"
        self.seen = set(digests.read_text().split()) if digests.exists() else set()
        self.faults: dict[str, type[Fault]] = {}

    def attempt(self, case: Case, again: bool = False) -> Outcome | None:
        """Try a case, count it if new, and keep its faults; None for one tried before, unless `again`."""
        digest = case.digest[:24]
        if digest in self.seen and not again:
            return None
        start = time.monotonic()
        outcome = fuzzcage.tried(case, self.base, self.box)
        if digest not in self.seen:
            self.seen.add(digest)
            with (self.folder / "tried.txt").open("a") as f:
                f.write(f"{digest}\n")
            self._count(case, outcome, time.monotonic() - start)
        for fault in outcome.faults:
            self._keep(fault, case, digest, outcome)
        return outcome

    def _count(self, case: Case, outcome: Outcome, seconds: float) -> None:
        state, family = self.state, case.family
        state["tried"][family] = state["tried"].get(family, 0) + 1
        commits = state.setdefault("commits", {})
        commits[self.version] = commits.get(self.version, 0) + 1
        codes = state["codes"].setdefault(family, {})
        codes[str(outcome.code)] = codes.get(str(outcome.code), 0) + 1
        state["seconds"] += seconds
        words = " ".join(case.argv)[:120]
        state["slowest"] = max(state["slowest"], [round(outcome.seconds, 2), words])
        state["largest"] = max(state["largest"], [outcome.bytes >> 20, words])

    def _keep(self, fault: str, case: Case, digest: str, outcome: Outcome) -> None:
        name = f"{case.family}: {fault}"
        found = self.state["faults"].setdefault(name, {"count": 0, "digests": [], "commands": [],
                                                       "version": version()})
        found.pop("mended", None)
        if digest in found["digests"]:
            return
        found["count"] += 1
        if len(found["digests"]) < KEPT:
            found["digests"].append(digest)
            found["commands"].append(" ".join(case.argv)[:200])
            folder = self.folder / "failures" / hashlib.sha256(name.encode()).hexdigest()[:12]
            folder.mkdir(parents=True, exist_ok=True)
            content = {path: base64.b64encode(one).decode() if isinstance(one, bytes) else vars(one)
                       for path, one in case.files.items()}
            (folder / f"{digest}.json").write_text(json.dumps({
                "fault": name, "argv": case.argv, "family": case.family, "run": case.run,
                "restamped": case.restamped,
                "writes": case.writes, "files": content, "output": outcome.output[-20 * SHOWN:]}, indent=1))

    def batch(self, family: str, phases: tuple[Phase, ...], count: int, number: int = 0,
              done: Callable[[], bool] = lambda: False) -> None:
        """Let hypothesis try up to `count` cases of a family."""
        strategy, _ = fuzzruns.FAMILIES[family]
        raised: dict[str, str] = {}

        def test(case: Case) -> None:
            if done():
                return
            if case.digest in raised:  # hypothesis tries a failing case twice
                raise self._fault(raised[case.digest])
            known = set(self.state["faults"])
            outcome = self.attempt(case, phases == (Phase.reuse,))
            names = [f"{case.family}: {fault}" for fault in outcome.faults] if outcome else []
            # A known fault does not end a batch, or nothing would ever be tried beyond it.
            if new := [name for name in names if name not in known or phases == (Phase.reuse,)]:
                raised[case.digest] = new[0]
                raise self._fault(new[0])

        test.__qualname__ = f"fuzz_{family}"
        seed = int(hashlib.sha256(f"{self.seed} {family} {number}".encode()).hexdigest()[:8], 16)
        wanted = settings(max_examples=count, database=self.database, deadline=None, phases=phases,
                          derandomize=False,
                          suppress_health_check=list(HealthCheck), print_blob=False)
        try:
            with Quiet():
                hypothesis.seed(seed)(wanted(given(strategy)(test)))()
        # Faults are in the state already, and a replay may have no kept case to try; errors in the fuzz are
        # raised.
        except* (Fault, Flaky, Unsatisfiable, unittest.SkipTest):
            pass

    def _fault(self, text: str) -> Fault:
        kind = self.faults.setdefault(text, type(f"Fault_{len(self.faults)}", (Fault,), {}))
        return kind(text)

    def save(self) -> None:
        files.write_json(self.folder / "state.json", self.state)


class Quiet:
    """Silences what hypothesis prints of a failure: it is in the state already."""

    def __enter__(self) -> None:
        self.before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = open(os.devnull, "w")

    def __exit__(self, *error: object) -> None:
        sys.stdout.close()
        sys.stdout, sys.stderr = self.before


def version() -> str:
    """The commit under test, with a + if files differ from it."""
    from common import commit
    return commit()


def loaded() -> None:
    """Import what the commands import while they run, so that each child has it already."""
    import nibabel
    import pydicom.pixels.processing
    import pydicom.pixels.utils
    from pycocotools import mask

    from diffusegen_core import cli, notebooks, painting, run
    from diffusegen_core.data import checkup, fetch
    from diffusegen_core.exports import exporting
    from diffusegen_core.parallel import fanout, machines, slurm
    from diffusegen_core.planning import display, plan, preflight, status
    from diffusegen_core.report import book, compare, filtering, front, opening, review, tables
    assert all((nibabel, pydicom, mask, cli, notebooks, painting, run, checkup, fetch, exporting, fanout,
                machines, slurm, display, plan, preflight, status, book, compare, filtering, front, opening,
                review, tables))


def shares(cases: int, families: list[str]) -> dict[str, int]:
    """How many inputs to try of each family."""
    whole = sum(fuzzruns.FAMILIES[name][1] for name in families)
    return {name: round(cases * fuzzruns.FAMILIES[name][1] / whole) for name in families}


def go(fuzz: Fuzz, wanted: dict[str, int], end: float, told: Callable[[], None]) -> None:
    """Try what failed before, then batch by batch what is still wanted, the family furthest behind first."""
    def over() -> bool:
        return time.monotonic() > end

    def enough(family: str) -> bool:
        return over() or fuzz.state["tried"].get(family, 0) >= wanted[family]

    for family in wanted:
        fuzz.batch(family, (Phase.reuse,), 1000, done=over)
    idle: dict[str, int] = {}
    while not over():
        tried = fuzz.state["tried"]
        behind = {name: tried.get(name, 0) / most for name, most in wanted.items()
                  if tried.get(name, 0) < most and idle.get(name, 0) < 20}
        if not behind:
            return
        family = min(behind, key=lambda name: behind[name])
        before = tried.get(family, 0)
        number = fuzz.state["batches"][family] = fuzz.state["batches"].get(family, 0) + 1
        fuzz.batch(family, (Phase.generate,), BATCH, number, partial(enough, family))
        idle[family] = 0 if tried.get(family, 0) > before else idle.get(family, 0) + 1
        fuzz.save()
        told()


def summary(fuzz: Fuzz, wanted: dict[str, int]) -> dict[str, Any]:
    """The contents of the JSON file."""
    state = fuzz.state
    return {
        "date": date.today().isoformat(), "commit": version(), "seed": fuzz.seed,
        "inputs": sum(state["tried"].values()), "inputs by commit": state.get("commits", {}),
        "wanted": sum(wanted.values()), "families": {name: {
            "inputs": state["tried"].get(name, 0), "wanted": wanted.get(name, 0),
            "batches": state["batches"].get(name, 0),
            "exit codes": state["codes"].get(name, {})} for name in fuzzruns.FAMILIES},
        "limits": {"seconds": fuzzjudge.SECONDS, "GiB": fuzzjudge.BYTES / 2**30},
        "slowest (s)": state["slowest"], "largest (MiB)": state["largest"],
        "seconds": round(state["seconds"]),
        "faults": {name: {key: one[key] for key in ("count", "commands", "version")} | (
            {"mended": one["mended"]} if "mended" in one else {}) for name,
            one in sorted(state["faults"].items())},
        "versions": {**files.versions(), "hypothesis": hypothesis.__version__}}


def replay(fuzz: Fuzz) -> None:
    """Try the kept failures again as stored, whatever the strategies are now; note which are fixed."""
    still: dict[str, bool] = {}
    for path in sorted((fuzz.folder / "failures").glob("*/*.json")):
        told = json.loads(path.read_text())
        case = Case(told["family"], tuple(told["argv"]), {
            name: base64.b64decode(one) if isinstance(one, str) else fuzzcage.Special(**one)
            for name, one in told["files"].items()}, told["run"], tuple(told["restamped"]),
            tuple(told["writes"]))
        outcome = fuzzcage.tried(case, fuzz.base, fuzz.box)
        name = told["fault"]
        still[name] = still.get(name, False) or bool(outcome.faults)
        if outcome.faults:
            print(f"still: {name}\n  now: {outcome.faults}\n  diffusegen {' '.join(case.argv)[:150]}",
                  flush=True)
    for name in still.keys() & fuzz.state["faults"].keys():
        fuzz.state["faults"][name].pop("mended", None)
        if not still[name]:
            fuzz.state["faults"][name]["mended"] = version()
    fuzz.save()


def main() -> int:
    """The exit status: 1 if a fault is not fixed, or if inputs are missing though there was time for them."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--cases", type=int, default=5000, help="inputs, all calls together")
    found.add_argument("--minutes", type=float, default=1e9, help="for how long this call goes on at most")
    found.add_argument("--families", nargs="+", choices=list(fuzzruns.FAMILIES),
                       default=list(fuzzruns.FAMILIES))
    found.add_argument("--folder", type=Path, default=ROOT / ".fuzz",
                       help="what is kept: failures, what was tried, a run")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--replay", action="store_true", help="only try the kept failures again")
    found.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    options = found.parse_args()
    end = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    loaded()
    fuzz = Fuzz(options.folder.absolute(), options.seed)
    fuzzheavy.prepare(fuzz.base)
    wanted = shares(options.cases, options.families)

    def told() -> None:
        tried, faults = sum(fuzz.state["tried"].values()), fuzz.state["faults"]
        print(f"{tried} of {sum(wanted.values())} inputs, {len(faults)} kinds of faults", flush=True)
        files.write_json(options.json, summary(fuzz, wanted))

    try:
        if options.replay:
            replay(fuzz)
        else:
            go(fuzz, wanted, end, told)
    finally:
        fuzz.save()
        shutil.rmtree(fuzz.box, ignore_errors=True)
    told()
    for name, one in sorted(fuzz.state["faults"].items()):
        print(f"{one['count']:4} {name}{' (mended)' if 'mended' in one else ''}")
        print(f"     diffusegen {one['commands'][0][:150]}")
    tried = fuzz.state["tried"]
    lacking = [name for name, most in wanted.items() if tried.get(name, 0) < most]
    if lacking and not options.replay and time.monotonic() < end:
        print(f"no further inputs were found of {', '.join(lacking)}")
        return 1
    return int(any("mended" not in one for one in fuzz.state["faults"].values()))


if __name__ == "__main__":
    sys.exit(main())
