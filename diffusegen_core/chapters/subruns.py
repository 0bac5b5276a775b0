"""The runs within a run whose generators see only a small set: chapters 1 to 4, then the filter."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import pandas as pd

from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import experiments
from diffusegen_core.segmentation.trainsets import Sets
from diffusegen_core.store import files, moves, stamps
from diffusegen_core.store.workspace import Workspace

SMALL = "augment"  # the chapter of small sets
MADE = ("data", "cluster", "windows", "train", "inpaint", "paste", "style", "gan", "scorers", "filter")
GeneratorSets = Mapping[tuple[int, int], Sets | None]
"""By size and seed, the sets of the run whose generator saw only that small set; None if it failed, or is not
made yet."""


@dataclass(frozen=True)
class Subset:
    """A small set with a generator that sees nothing else."""

    size: int
    seed: int
    train: list[str]
    """The pairs that the generator sees, without those that choose the best epoch."""

    @property
    def folder(self) -> str:
        """Where the run of its generator lies, within the run."""
        return f"{SMALL}/generators/N{self.size}-seed{self.seed}"


class SubRun(Protocol):
    """The part of `Run` that is needed of such a run; it can be sent to a worker."""

    @property
    def folder(self) -> Path: ...

    def make(self, name: str, again: bool = False) -> Any: ...

    def offered(self) -> Sets | None: ...

    def finished(self, name: str) -> Any | None: ...


def generators(ws: Workspace, small: Sequence[Subset], within: Callable[[Subset], SubRun],
               devices: int = 1) -> GeneratorSets:
    """The pairs of each small set, which are made first if the workspace is writable. `within` gives its run,
    each of whose models is trained on so many devices. If the filter failed, or is not made yet, its pairs
    are those that the filter would have judged. Raises UserError if a run's folder is, or lies in, a symbolic
    link."""
    runs = {(one.size, one.seed): within(one) for one in small}
    if ws.writable:
        moves.refuse_links(ws.folder, [one.folder for one in small])
        fanout.run(generate, [fanout.Item(f"{size} pairs, seed {seed}", ws, {"run": run, "again": ws.again},
                                          devices=devices)
                              for (size, seed), run in runs.items()], "Generators that see a small set")
    return {which: run.offered() or run.finished("sets") for which, run in runs.items()}


def generate(run: SubRun, again: bool) -> None:
    """A work item: all that a small set's run makes; `again` as in `Run.make`."""
    def make() -> None:
        if again:
            for name in MADE:
                run.make(name, again=True)
        run.make("filter")
    attempt(run.folder, make)


def attempt(folder: Path, make: Callable[[], object]) -> None:
    """Let `make` make the chapters of a small set's run, which lies in the folder.

    A failure is recorded there; the experiments that need the pairs report it.
    """
    note, before, start = folder / experiments.TRACEBACK, _stamped(folder), perf_counter()
    note.unlink(missing_ok=True)
    try:
        make()
    except Exception:
        files.write_text(note, traceback.format_exc())
    if note.is_file() or _stamped(folder) != before:  # finding all of it finished is not counted
        experiments.spend(folder, perf_counter() - start)


def of_generators(ws: Workspace, small: Sequence[Subset], generators: GeneratorSets) -> pd.DataFrame:
    """A row per generator that sees only a small set: size, seed, status ("ok", "to do", "failed"), seconds.

    The seconds are of all its chapters, including failed attempts and those with other parameters. They are
    in no network's own seconds, since networks of several data types and r's are trained on its pairs.
    """
    rows = []
    for one in small:
        folder = ws.folder / one.folder
        failed, made = (folder / experiments.TRACEBACK).is_file(), generators.get((one.size, one.seed))
        rows.append({"size": one.size, "seed": one.seed,
                     "status": "failed" if failed else "to do" if made is None else "ok",
                     "seconds": max(experiments.seconds_in(folder / experiments.SPENT), _stamped(folder))})
    return pd.DataFrame(rows, columns=["size", "seed", "status", "seconds"])


def _stamped(folder: Path) -> float:
    """The seconds of everything that is finished and in place in a run."""
    return sum(float(stamp["seconds"]) for _, stamp in stamps.in_place(folder))
