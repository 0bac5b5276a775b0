"""Networks trained on small sets of real and made pairs, several side by side on one card.

A training in small steps leaves a card idle most of the time, waiting for the CPU: so several workers, each a
process, take the next task when they are free. They import what they need while the model is trained, and
use the card from their first task on.
"""

import multiprocessing
import os
import queue
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import stages
import torch
from realwork import PASTED, VARIED, Made

from diffusegen_core.chapters import augment
from diffusegen_core.config import devices, params
from diffusegen_core.config.environment import environment
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, types
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import DataType
from diffusegen_core.measures import overlap
from diffusegen_core.segmentation import segnet, trainsets
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.store import seeds

REAL = types.REAL.name
COMPARED = (VARIED, PASTED)  # with Real in the small sets
RATIO = 3  # made pairs that replace a real one
SEEDS = 12
ALONE_SEEDS = 3
AGREEMENT_IMAGES, ALONE_IMAGES = 128, 128  # images an epoch of networks with more pairs


@dataclass(frozen=True)
class Task:
    """One network to train: `agreement` (which then judges the made pairs), `small` or `alone`."""

    kind: str
    data_type: str = REAL
    size: int | None = None
    seed: int = 0

    @property
    def label(self) -> str:
        return f"{self.kind} {self.data_type} N{self.size or 'all'} seed{self.seed}"


def planned(p: Params, sets: dict[str, Made], tiny: bool) -> Iterator[Task]:
    """All tasks, the most valuable first."""
    yield Task("agreement")
    sizes, most = sorted(p.augment.sizes), 1 if tiny else SEEDS
    types = [REAL, *(name for name in COMPARED if name in sets)]
    few, many = sizes[:2], sizes[2:]
    yield from small(few, types, range(min(most, 4)))
    yield from (Task("alone", name) for name in [REAL, *sets])
    yield from small(few, types, range(4, min(most, 8)))
    yield from small(many, types, range(min(most, 3)))
    yield from (Task("alone", name, seed=seed) for seed in range(1, min(most, ALONE_SEEDS))
                for name in [REAL, *sets])
    yield from small(sizes, types, range(8, most))


def small(sizes: list[int], types: list[str], numbers: range) -> Iterator[Task]:
    for seed in numbers:
        for size in sizes:
            yield from (Task("small", name, size, seed) for name in types)


def store(path: Path, train: Pairs, test: Pairs, sources: int | None = None) -> None:
    """Write the real pairs for the workers; pairs are made from the first `sources` of them, or from all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{part}_{kind}": getattr(pairs, kind) for part, pairs in (("train", train), ("test", test))
              for kind in ("names", "images", "masks")}
    np.savez(path, sources=len(train) if sources is None else sources, **arrays)


class Bank:
    """All pairs as a worker reads them."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "real.npz", allow_pickle=False) as stored:
            self.train, self.test = (
                dataset.gather(stored[f"{part}_names"].tolist(), stored[f"{part}_images"],
                               stored[f"{part}_masks"]) for part in ("train", "test"))
            self.sources = self.train.take(range(int(stored["sources"])))
        self.made: dict[str, Pairs] = {}
        sets = {}
        for file in sorted(folder.glob("*.npz")):
            if file.stem in ("real", "samples"):
                continue
            with np.load(file, allow_pickle=False) as stored:
                sources = [self.train.names[i] for i in stored["sources"]]
                names = [f"{source}_{sample}" for source, sample in
                         zip(sources, stored["samples"], strict=True)]
                self.made[file.stem] = dataset.gather(names, stored["images"], stored["masks"][:, None])
                manifest = pd.DataFrame({"name": names, "source": sources, "sample": stored["samples"]})
            kind = DataType(file.stem)
            sets[kind] = PairSet(kind, folder, manifest, manifest[:0], {}, {})
        self.sets = trainsets.Sets(self.sources, sets, {}, folder / "real.npz")

    def pairs(self, data_type: str, choice: trainsets.Choice) -> Pairs:
        """The chosen pairs in memory."""
        taken = [self.train.named(choice.real)]
        if choice.synthetic:
            taken.append(self.made[data_type].named(choice.synthetic))
        return dataset.gather([name for part in taken for name in part.names],
                              *(np.concatenate([getattr(part, kind) for part in taken])
                                for kind in ("images", "masks")))


def done(task: Task, p: Params, bank: Bank, device: torch.device) -> dict[str, Any]:
    """Train a task's network; return its Dice on the test pairs, and for `agreement` on made pairs too."""
    began = time.monotonic()
    s = p.segment
    if task.kind != "small":
        images = AGREEMENT_IMAGES if task.kind == "agreement" else ALONE_IMAGES
        s = s.model_copy(update={"epoch_images": min(images, s.epoch_images * 2)})
    train, valid = chosen(task, p, bank)
    seed = seeds.derive(p.seed, "segmentation network", task.seed)
    with tempfile.TemporaryDirectory() as folder:
        fitted = segnet.fit(train, valid, s, seed, Path(folder), {}, device, task.label)
    scores = overlap.scores(segnet.predict(fitted.net, bank.test.images, s, device), bank.test.masks)
    found = {**vars(task), "dice": float(scores["dice"].mean()), "iou": float(scores["iou"].mean()),
             "train_pairs": len(train), "valid_pairs": len(valid), "best_epoch": fitted.best_epoch,
             "each": [round(float(value), 4) for value in scores["dice"]]}
    if task.kind == "agreement":
        found["agreement"] = {
            name: [round(float(v), 4) for v in overlap.scores(
                segnet.predict(fitted.net, made.images, s, device), made.masks)["dice"]]
            for name, made in bank.made.items()}
    return {**found, "seconds": round(time.monotonic() - began, 2)}


def chosen(task: Task, p: Params, bank: Bank) -> tuple[Pairs, Pairs]:
    """The pairs to train on, and those that choose the best epoch."""
    if task.kind == "small":
        experiment = Experiment(augment.CHAPTER, DataType(task.data_type), size=task.size, seed=task.seed,
                                ratio=None if task.data_type == REAL else RATIO)
        train, valid = augment.chosen(p.seed, bank.sets, p.augment, p.segment, experiment)
        return bank.pairs(task.data_type, train), bank.pairs(REAL, valid)
    real = bank.train if task.kind == "agreement" else bank.sources
    pairs = real if task.data_type == REAL else bank.made[task.data_type]
    groups = (real.names if task.data_type == REAL
              else bank.sets.manifests[DataType(task.data_type)]["group"].tolist())
    _, held = trainsets.split(sorted(set(groups)), p.segment.validation, p.seed, "segment", "split",
                              task.seed)
    valid = [i for i, group in enumerate(groups) if group in set(held)]
    train = sorted(set(range(len(groups))).difference(valid))
    return pairs.take(train), pairs.take(valid)


def work(folder: Path, values: dict[str, Any], device: str, tasks: Any, results: Any) -> None:
    """A worker: imports, then waits for tasks and does them until there are no more."""
    import albumentations  # noqa: F401
    import cv2
    import segmentation_models_pytorch  # noqa: F401
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    p, bank = params.validate(values), None
    while (task := following(tasks)) is not None:
        try:
            bank = bank or Bank(folder)
            results.put(done(task, p, bank, torch.device(device)))
        except Exception:
            results.put({**vars(task), "failed": traceback.format_exc()[-1500:]})


def following(tasks: Any) -> Task | None:
    """The next task; None if there are no more, or if the parent process is gone."""
    parent = multiprocessing.parent_process()
    while True:
        try:
            return tasks.get(timeout=5)
        except queue.Empty:
            if parent is not None and not parent.is_alive():
                return None


def quiet(*given: Any) -> None:
    """`work` without progress bars, of which a dozen workers show too many."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    work(*given)


class Team:
    """Workers that wait for tasks; with a count of 0, this process does them when it gathers the results."""

    def __init__(self, folder: Path, p: Params, device: torch.device, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        made = context.Queue if count else queue.Queue
        self.tasks, self.results, self.missing, self.workers = made(), made(), 0, []
        self.given = (folder, params.plain(p), str(device), self.tasks, self.results)
        with environment(dict.fromkeys(devices.THREADS, "1")):
            for _ in range(count):
                self.workers.append(context.Process(target=quiet, args=self.given, daemon=True))
                self.workers[-1].start()

    def begin(self, tasks: list[Task], record: stages.Record) -> None:
        """Hand out the tasks that no earlier call has done."""
        known = {tuple(row[k] for k in ("kind", "data_type", "size", "seed"))
                 for row in record.stages.get("networks", {}).get("rows", [])}
        todo = [t for t in tasks if (t.kind, t.data_type, t.size, t.seed) not in known]
        self.missing = len(todo)
        for task in [*todo, *[None] * max(1, len(self.workers))]:
            self.tasks.put(task)

    def gather(self, call: stages.Call, reserve: float) -> None:
        """Keep each result as it comes, until all are there or the time is up."""
        if not self.workers:
            work(*self.given)
        began = call.clock.spent
        while self.missing and call.clock.left > reserve:
            alive = any(worker.is_alive() for worker in self.workers)
            try:
                row = self.results.get(timeout=max(0.1, min(2.0, call.clock.left - reserve)))
            except queue.Empty:
                if not alive:  # all had ended before this wait for a result
                    break
                continue
            self.missing -= 1
            self.keep(call, row, began)

    def keep(self, call: stages.Call, row: dict[str, Any], began: float) -> None:
        name = "failed networks" if "failed" in row else "networks"
        rows = [*call.record.stages.get(name, {}).get("rows", []), row]
        call.record.add(name, rows=rows, missing=self.missing, workers=len(self.workers),
                        status="ok" if not self.missing else "unfinished", began=round(began, 2),
                        took=round(call.clock.spent - began, 2))
        told = row.get("failed") or f"Dice {row['dice']:.3f} ({row['seconds']} s)"
        print(f"[{call.clock.spent:6.1f} s] {row['kind']} {row['data_type']} {row['size']} "
              f"seed {row['seed']}: {told}", flush=True)

    def end(self) -> None:
        """Terminate the workers, busy or not."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.join(timeout=5)
