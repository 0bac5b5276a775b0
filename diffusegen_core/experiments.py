"""A grid of independent experiments, run unattended: named, resumed, retried once, and read as one table.

Each experiment has a folder of its own. One that fails leaves a row that says so, and the grid goes on; the
next call tries it again. Folders of other grids or other parameters stay and are not read.
"""

import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from diffusegen_core import fanout, runs

ATTEMPTS = 2
FAILED, TRACEBACK, RESULTS = "failed.json", "traceback.txt", "results.csv"
FIELDS = ["chapter", "data_type", "size", "samples", "ratio", "seed"]
MEASURES = ["dice", "iou", "dice_both", "iou_both"]
IMAGE = ["test_set", "image", *MEASURES]  # the columns that work returns
OK, TO_DO = "ok", "to do"
HEADINGS = {"data_type": "data type", "size": "real pairs", "samples": "pairs a source", "ratio": "r"}


@dataclass(frozen=True)
class Experiment:
    """One network to train and test. What does not apply is None."""

    chapter: str
    """"segment" or "augment"."""
    data_type: str
    size: int | None = None
    """Real pairs of a small set: the N of chapter 7."""
    samples: int | None = None
    """Synthetic pairs for each source: the N of chapter 6."""
    ratio: int | None = None
    """Synthetic pairs for a real one: the r of chapter 7."""
    seed: int = 0
    """Number of the repetition, from 0."""

    @property
    def label(self) -> str:
        """Readable, and unique in a chapter's grid: "20-Styled-Diff-3-seed0", "20-Diff-N16-r3-seed1"."""
        parts = (("", self.samples), ("N", self.size), ("r", self.ratio), ("seed", self.seed))
        return "-".join([self.data_type, *(f"{word}{value}" for word, value in parts if value is not None)])

    def named(self, recipe: runs.Recipe) -> str:
        """The name of its folder: the label and a hash of all that defines it, "Real-N16-seed0-1a2b3c4d"."""
        return f"{self.label}-{runs.key(_recipe(self, recipe))[:8]}"


Grid = Mapping[Experiment, runs.Recipe]
Work = Callable[..., tuple[pd.DataFrame, dict[str, Any]]]
Cost = Callable[[Experiment], float]


@dataclass(frozen=True)
class Results:
    """All that a grid has found."""

    images: pd.DataFrame
    """A row a test image and finished experiment, columns FIELDS and IMAGE; what does not apply is <NA>."""
    runs: pd.DataFrame
    """A row an experiment: its name, FIELDS, `status` ("ok", "to do" or "failed: ..."), what its work told of
    itself, seconds. The traceback of a failure is traceback.txt in the folder of that name."""

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of `runs` that failed."""
        return self.runs[self.runs["status"].str.startswith("failed")]


def equal(experiment: Experiment) -> float:
    """The cost where experiments take about as long as each other."""
    return 1


def run(title: str, grid: Grid, work: Work, folder: Path, cost: Cost = equal, **arguments: Any) -> Results:
    """Do what is not finished of a grid, and write results.csv and runs.csv into `folder`.

    `work(experiment, folder of its own, **arguments)` returns a frame with the columns IMAGE, a row a test
    image, and facts worth a column in `runs`, which JSON can hold; among them `seconds`, if work knows better
    than the clock, as after an interruption. A second attempt finds in the folder what the first left.
    `cost` says how long an experiment takes beside others, in any unit: for the time left.
    """
    places = {e: folder / e.named(recipe) for e, recipe in grid.items()}
    items = [fanout.Item(e.label, {"work": work, "experiment": e, "folder": places[e], "recipe": recipe,
                                   "arguments": arguments}, cost(e))
             for e, recipe in grid.items() if _stamp(places[e], e, recipe) is None]
    done = sum(map(cost, grid)) - sum(item.cost for item in items)
    fanout.run(attempt, items, title, done)
    results = read(grid, folder)
    for name, frame in ((RESULTS, results.images), ("runs.csv", results.runs)):
        runs.write_text(folder / name, frame.to_csv(index=False))
    return results


def attempt(work: Work, experiment: Experiment, folder: Path, recipe: runs.Recipe,
            arguments: dict[str, Any]) -> None:
    """Do one experiment, again if it fails; then record the failure. Interruptions are not failures."""
    for name in (FAILED, TRACEBACK):
        (folder / name).unlink(missing_ok=True)
    told = []
    for _ in range(ATTEMPTS):
        start = perf_counter()
        try:
            images, facts = work(experiment, folder, **arguments)
            table = runs.write_text(folder / RESULTS, _checked(images).to_csv(index=False))
            seconds = facts.pop("seconds", perf_counter() - start)
            runs.finish(folder, _recipe(experiment, recipe), [table], seconds, facts=facts)
            return
        except Exception as error:
            told.append(traceback.format_exc())
            brief = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
    runs.write_text(folder / TRACEBACK, "\n".join(told))
    runs.write_json(folder / FAILED, {"error": brief, "traceback": TRACEBACK, "attempts": ATTEMPTS})


def read(grid: Grid, folder: Path) -> Results:
    """What a grid has found so far."""
    tables, rows = [], []
    for e, recipe in grid.items():
        name = e.named(recipe)
        stamp, failure = _stamp(folder / name, e, recipe), runs.read_json(folder / name / FAILED)
        row = {"name": name, **asdict(e), "status": OK}
        if stamp is not None:
            row |= {**stamp["facts"], "seconds": stamp["seconds"]}
            tables.append(_table(folder / name / RESULTS).assign(**asdict(e)))
        else:
            row["status"] = f"failed: {failure['error']}" if failure else TO_DO
        rows.append(row)
    empty = pd.DataFrame(columns=[*FIELDS, *IMAGE])
    images = pd.concat(tables, ignore_index=True)[list(empty)] if tables else empty
    told = pd.DataFrame(rows, columns=None if rows else ["name", *FIELDS, "status"])
    return Results(images.astype(dict.fromkeys(["size", "samples", "ratio"], "Int64")),
                   told.astype(dict.fromkeys(_integers(rows), "Int64")))


def _integers(rows: list[dict[str, Any]]) -> list[str]:
    """Columns that hold integers alone, and are to stay so beside missing values."""
    return [name for name in dict.fromkeys(name for row in rows for name in row)
            if all(isinstance(row[name], int) for row in rows if row.get(name) is not None)]


def estimate(todo: Iterable[Experiment], cost: Cost, measured: Mapping[Experiment, float]) -> float | None:
    """Seconds of computation for `todo`, from the seconds of finished experiments; None without any."""
    known = sum(map(cost, measured))
    return sum(map(cost, todo)) * sum(measured.values()) / known if known else None


def describe(title: str, grid: Mapping[Experiment, runs.Recipe | None], folder: Path, cost: Cost = equal,
             trial: Callable[[], float] | None = None) -> str:
    """A grid in words, with the time that it will take; nothing is run but `trial`, and this only at need.

    A recipe is None where it cannot be known yet: its experiment has still to be done. `trial` measures the
    seconds of one unit of cost; it is called where no experiment is finished.
    """
    known = {e: recipe for e, recipe in grid.items() if recipe is not None}
    results = read(known, folder).runs
    status = dict(zip(known, results["status"], strict=True))
    measured = {e: s for e, s in zip(known, results.get("seconds", []), strict=False) if status[e] == OK}
    todo = [e for e in grid if e not in measured]
    failed = sum(text.startswith("failed") for text in status.values())
    again = f" ({failed} failed before)" if failed else ""
    head = f"{title}: {_many(len(grid), 'experiment')}, {len(measured)} finished, {len(todo)} to do{again}."
    return "\n".join([head, _layout(grid, measured), _time(todo, cost, measured, trial)])


def _time(todo: list[Experiment], cost: Cost, measured: dict[Experiment, float],
          trial: Callable[[], float] | None) -> str:
    if not todo:
        return "Nothing is left to do."
    seconds, source = estimate(todo, cost, measured), f"{_many(len(measured), 'finished experiment')}"
    if seconds is None and trial:
        seconds, source = trial() * sum(map(cost, todo)), "a short trial on this machine"
    if seconds is None:
        return "Estimated time: unknown until one is finished."
    return f"Estimated time: {runs.duration(seconds)}, from {source}."


def _layout(grid: Iterable[Experiment], finished: Mapping[Experiment, float]) -> str:
    """A line for each kind of experiment, with its seeds and how many of them are finished."""
    frame = pd.DataFrame([{**asdict(e), "finished": e in finished} for e in grid])
    if frame.empty:
        return "The grid is empty."
    shown = [name for name in HEADINGS if frame[name].notna().any()]
    rows = []
    for values, group in frame.groupby(shown, sort=False, dropna=False):
        cells = ("" if pd.isna(v) else v if isinstance(v, str) else int(v) for v in values)
        rows.append({**dict(zip(map(HEADINGS.get, shown), cells, strict=True)), "seeds": len(group),
                     "finished": int(group["finished"].sum())})
    return pd.DataFrame(rows).to_string(index=False)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _recipe(experiment: Experiment, recipe: runs.Recipe) -> runs.Recipe:
    return {"experiment": asdict(experiment), **recipe}


def _stamp(folder: Path, experiment: Experiment, recipe: runs.Recipe) -> dict[str, Any] | None:
    return runs.current(folder, _recipe(experiment, recipe))


def _checked(images: pd.DataFrame) -> pd.DataFrame:
    if images.duplicated(["test_set", "image"]).any():
        raise ValueError("the results have an image of a test set twice")
    return images[IMAGE]


def _table(path: Path) -> pd.DataFrame:
    # An image may be called NA, or 007.
    return pd.read_csv(path, dtype={"test_set": str, "image": str}, keep_default_na=False,
                       na_values={name: [""] for name in MEASURES})
