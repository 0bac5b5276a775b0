"""Work items on workers: the overhead of an item, two workers against one, and a plan for 1 to 64 workers.

The plan is a simulation: it takes the seconds of each item of a finished run (--run DIR), deals the items out
to the workers, longest first, and starts a chapter when all items of the one before are done.
"""

import argparse
import heapq
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import common
import pandas as pd

from diffusegen_core.chapters import cluster, train
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.parallel import fanout, machines
from diffusegen_core.run import Run
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

WORKERS = [1, 2, 4, 8, 16, 32, 64]  # of the plan
MINUTE = 60.0
PARTS = ["overhead", "scaling", "plan"]


def run(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark with command-line arguments; return what it wrote."""
    parser = common.parser("fanout", __doc__.splitlines()[0], "smoke.yaml")
    parser.add_argument("--parts", nargs="+", choices=PARTS, action=common.Different,
                        help="default: all; the plan needs --run")
    parser.add_argument("--items", type=common.positive, default=20, help="that sleep, for the overhead")
    parser.add_argument("--seconds", type=float, default=0.2, help="for how long each sleeps")
    parser.add_argument("--workers", type=common.positive, nargs="+", default=[1, 2],
                        action=common.Different, help="of this machine")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run, whose times make the plan")
    parser.add_argument("--times", type=common.positive, default=1,
                        help="copies of each item of the run in the plan")
    options = parser.parse_args(arguments)
    parts = options.parts = options.parts or (PARTS if options.run else PARTS[:2])
    if "plan" in parts and not options.run:
        parser.error("the plan needs --run DIR")
    if not 0 < options.seconds < float("inf"):
        parser.error("--seconds must be a number above 0")
    if options.run and not any(sum(seconds) for _, seconds in
                               measured(Run.open(options.run.resolve()).folder)):
        raise UserError(f"{options.run} has no finished item, of which a plan could be made.")
    p, _ = common.setup(options)
    found = {"benchmark": "fanout", "date": date.today().isoformat(), "versions": files.versions(),
             "device": devices.name(options.device), "commit": common.commit(),
             "params": params.plain(p), "options": common.told(options), "rounds": options.rounds}
    print(f"fanout: {found['device']}; commit {found['commit']}; {found['date']}")
    for part in parts:
        found[part] = {"overhead": overhead, "scaling": scaling, "plan": plan}[part](options, p)
    common.write(options, found)
    return found


def overhead(options: argparse.Namespace, p: Params) -> list[dict[str, Any]]:
    """Seconds an item takes beyond its work, in this process and on workers, each after a warm-up."""
    items = [fanout.Item(f"item {i}", None, {"seconds": options.seconds}) for i in range(options.items)]
    rows = []
    for workers in [None, *options.workers]:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, machines.hold(Path(folder), workers=workers):
            start = time.perf_counter() - began
            fanout.run(common.doze, items[:2], "Warming up")
            least = -(-options.items // (workers or 1)) * options.seconds
            each = [(timed(lambda: fanout.run(common.doze, items, "Sleeping")) - least) / options.items
                    for _ in range(options.rounds)]
        typical = statistics.median(each)
        rows.append({"workers": workers or 0, "start_seconds": start, "seconds_an_item": typical,
                     "least": min(each), "most": max(each), "share_of_a_minute": typical / MINUTE})
    print(f"\nOverhead of {options.items} items that sleep {options.seconds} s, {options.rounds} times")
    shown(rows)
    return rows


def scaling(options: argparse.Namespace, p: Params) -> list[dict[str, Any]]:
    """Time the trainings of chapter 2 on different numbers of workers, which share the machine's cores."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for workers in options.workers:
            ws = Workspace(Path(folder) / str(workers), p.seed, p.device)
            pairs = dataset.load(ws, p.data, p.cluster.k)
            clusters = cluster.run(ws, pairs, p.cluster)
            work = partial(train.run, ws, pairs, clusters, p.train, p.model, p.process)
            with machines.hold(ws.folder, workers=workers):
                seconds = timed(work)
            rows.append({"workers": workers, "models": clusters.k + bool(p.train.full_images),
                         "seconds": seconds, "ratio": (rows[0]["seconds"] if rows else seconds) / seconds})
    print(f"\nTraining the models of {p.profile}, {p.train.images} images each")
    shown(rows)
    return rows


def plan(options: argparse.Namespace, p: Params) -> dict[str, Any]:
    """How long the items of a finished run would take on 1 to 64 workers."""
    folder = options.run.resolve()
    measured_on = sorted({files.read_json(stamp)["device"] for stamp in folder.glob("*/*/made.json")})
    barriers = [(chapter, seconds * options.times if len(seconds) > 1 else seconds)
                for chapter, seconds in measured(folder) if seconds]
    rows, alone = [], {}
    for workers in WORKERS:
        spans = {}
        for chapter, seconds in barriers:
            spans[chapter] = spans.get(chapter, 0.0) + makespan(seconds, workers)
        alone = alone or spans
        total = sum(spans.values())
        rows.append({"workers": workers, "seconds": total, "speed_up": sum(alone.values()) / total,
                     **{chapter: alone[chapter] / (workers * span) for chapter, span in spans.items()}})
    count = sum(len(seconds) for _, seconds in barriers)
    print(f"\nA simulation, not a measurement: {count} items, {options.times} of each of {folder.name}."
          f"\nTheir times were measured on {'; '.join(measured_on)}. Every worker is taken to be one."
          "\nPer chapter: the share of the workers' time that is work. Left out: figures, tables, the book,"
          "\nand the waits of a queue.")
    shown(rows)
    return {"run": Run.open(folder).params.profile, "simulated_from": measured_on, "times": options.times,
            "items": count, "rows": rows}


def measured(folder: Path) -> Iterator[tuple[str, list[float]]]:
    """The chapters of a finished run in order, with the seconds of items that may run side by side."""
    def stamps(pattern: str) -> list[float]:
        return [files.read_json(stamp)["seconds"] for stamp in sorted(folder.glob(pattern))]

    yield "cluster", [sum(stamps("data/made.json") + stamps("cluster/made.json"))]
    yield "train", stamps("train/*/made.json")
    for chapter in ("inpaint", "style", "gan"):
        for data_type in sorted(folder.glob(f"{chapter}/*/rows")):
            yield chapter, batches(data_type)
    yield "evaluate", stamps("evaluate/*/made.json")
    for table in ("segment/runs.csv", "augment/generators.csv", "augment/runs.csv"):
        if (folder / table).is_file():
            yield table.partition("/")[0], list(pd.read_csv(folder / table)["seconds"])


def batches(rows: Path) -> list[float]:
    """The seconds of each batch: the sum over its images, which share a model and the batch's mean."""
    kept = sorted((row["row"]["model"], row["seconds"]) for row in map(files.read_json, rows.glob("*.json")))
    return [sum(seconds for _, seconds in batch) for _, batch in itertools.groupby(kept)]


def makespan(seconds: list[float], workers: int) -> float:
    """When the last item is done, if each free worker takes the longest one left."""
    free = [0.0] * workers
    for item in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + item)
    return max(free)


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def shown(rows: list[dict[str, Any]]) -> None:
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    common.main(run)
