"""A grid of independent experiments, run unattended: named, resumed, retried once, and read as one table.

Each experiment has a folder of its own: a network, and below it a folder for its scores on each test set, all
stamped by themselves, so that another test set trains no network and scores no other set again. One that
fails leaves a row that says so, and the grid goes on; the next call tries it again. Folders of other grids or
other parameters stay and are not read.
"""

import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from diffusegen_core.measures import overlap
from diffusegen_core.parallel import fanout
from diffusegen_core.store import runs

ATTEMPTS = 2
FAILED, TRACEBACK, RESULTS, SPENT = "failed.json", "traceback.txt", "results.csv", "spent.json"
FIELDS = ["chapter", "data_type", "size", "samples", "ratio", "seed"]
IMAGE = ["test_set", "image", *overlap.COLUMNS]
OK, TO_DO, TO_SCORE = "ok", "to do", "to score"
SCORING = 0.01  # of an experiment's cost, where its network is trained and kept: about a hundredth
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
        """The name of its folder: the label and a hash of all that decides its network, which is everything
        but the test sets: "Real-N16-seed0-1a2b3c4d"."""
        return f"{self.label}-{runs.key(_network(self, recipe))[:8]}"


Grid = Mapping[Experiment, runs.Recipe]
"""What decides each experiment's results; under "tests", by test set, what decides the scores on this one
alone."""
Cost = Callable[[Experiment], float]


@dataclass(frozen=True)
class Place:
    """Where an experiment lies, and what of it is done."""

    experiment: Experiment
    recipe: runs.Recipe
    """As in a grid."""
    folder: Path
    """Its own."""

    @property
    def weights(self) -> Path:
        """The folder of the network's weights, where they are kept: results hold without them."""
        return self.folder / "weights"

    @property
    def network(self) -> dict[str, Any] | None:
        """The stamp of the trained network; None where there is none, or another."""
        return runs.current(self.folder, _network(self.experiment, self.recipe))

    def begin(self) -> None:
        """Forget an earlier network with its scores: another is going to be trained."""
        (self.folder / runs.STAMP).unlink(missing_ok=True)
        runs.clear(self.folder / "tests")
        runs.clear(self.weights)

    def trained(self, outputs: list[Path], seconds: float, facts: dict[str, Any]) -> None:
        """Stamp the network, with facts worth a column in `Results.runs`, which JSON can hold."""
        runs.finish(self.folder, _network(self.experiment, self.recipe), outputs, seconds, facts=facts)

    def keep(self, write: Callable[[Path], Path]) -> None:
        """Let `write` write the network's weights into a folder, and stamp it."""
        runs.finish(self.weights, _network(self.experiment, self.recipe), [write(self.weights)], 0)

    @property
    def kept(self) -> bool:
        """Whether the weights are there, whole, and of this network."""
        return runs.current(self.weights, _network(self.experiment, self.recipe)) is not None

    def test(self, name: str) -> Path:
        """The folder of the scores on a test set."""
        return self.folder / "tests" / name

    @property
    def untested(self) -> list[str]:
        """The test sets that the network has no scores on."""
        return [name for name, recipe in _tests(self.recipe).items()
                if runs.current(self.test(name), recipe) is None]

    def tested(self, name: str, images: pd.DataFrame, others: list[Path], seconds: float) -> None:
        """Write and stamp the scores on a test set: columns of IMAGE but the first, a row an image."""
        if images["image"].duplicated().any():
            raise ValueError(f"the results have an image of {name} twice")
        table = images.assign(test_set=name)[IMAGE].to_csv(index=False)
        runs.finish(self.test(name), _tests(self.recipe)[name],
                    [runs.write_text(self.test(name) / RESULTS, table), *others], seconds)

    @property
    def images(self) -> pd.DataFrame:
        """The scores of all test sets, columns IMAGE."""
        tables = [_table(self.test(name) / RESULTS) for name in _tests(self.recipe)]
        return pd.concat(tables) if tables else pd.DataFrame(columns=IMAGE)

    @property
    def status(self) -> str:
        """"ok", "to score", "to do", or "failed: ..."."""
        network, untested = self.network, self.untested
        if network and not untested:
            return OK
        failure = runs.read_json(self.folder / FAILED)
        if isinstance(failure, dict) and "error" in failure:
            return f"failed: {failure['error']}"
        return TO_SCORE if network and (self.weights / runs.STAMP).is_file() else TO_DO

    @property
    def seconds(self) -> float:
        """What was spent on it, failed attempts and training that was done again included; of an attempt
        that was killed what its last checkpoint knew, as far as that is more."""
        folders = self.folder, *map(self.test, _tests(self.recipe))
        return max(seconds_in(self.folder / SPENT), sum(seconds_in(f / runs.STAMP) for f in folders))


Work = Callable[..., None]


@dataclass(frozen=True)
class Results:
    """All that a grid has found."""

    images: pd.DataFrame
    """A row a test image and finished experiment, columns FIELDS and IMAGE; what does not apply is <NA>."""
    runs: pd.DataFrame
    """A row an experiment: its name, FIELDS, `status` (as Place.status), what its work told of itself, and
    the seconds that it took so far, failed attempts included. The traceback of a failure is traceback.txt in
    the folder of that name."""

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of `runs` that failed."""
        return self.runs[self.runs["status"].str.startswith("failed")]


def equal(experiment: Experiment) -> float:
    """The cost where experiments take about as long as each other."""
    return 1


def run(title: str, grid: Grid, work: Work, folder: Path, cost: Cost = equal, **arguments: Any) -> Results:
    """Do what is not finished of a grid, and write results.csv and runs.csv into `folder`.

    `work(place, **arguments)` trains a network unless its weights are kept, and tests it on `untested` sets,
    through the methods of its Place. A second attempt finds there what the first left.
    `cost` says how long an experiment takes beside others, in any unit: for the time left.
    """
    places = _places(grid, folder)
    items = [fanout.Item(e.label, {"work": work, "place": place, "arguments": arguments},
                         _left(status, cost(e)))
             for e, place in places.items() if (status := place.status) != OK]
    done = sum(map(cost, grid)) - sum(item.cost for item in items)
    fanout.run(attempt, items, title, done)
    results = read(grid, folder)
    for name, frame in ((RESULTS, results.images), ("runs.csv", results.runs)):
        runs.write_text(folder / name, frame.to_csv(index=False))
    return results


def attempt(work: Work, place: Place, arguments: dict[str, Any]) -> None:
    """Do one experiment, again if it fails; then record the failure. Interruptions are not failures."""
    for name in (FAILED, TRACEBACK):
        (place.folder / name).unlink(missing_ok=True)
    told = []
    for _ in range(ATTEMPTS):
        start = perf_counter()
        try:
            return work(place, **arguments)
        except Exception as error:
            told.append(traceback.format_exc())
            brief = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
        finally:
            spend(place.folder, perf_counter() - start)
    runs.write_text(place.folder / TRACEBACK, "\n".join(told))
    runs.write_json(place.folder / FAILED, {"error": brief, "traceback": TRACEBACK, "attempts": ATTEMPTS})


def spend(folder: Path, seconds: float) -> None:
    """Add to the seconds that were spent on a folder, whatever came of it."""
    total = seconds_in(folder / SPENT) + seconds
    runs.write_json(folder / SPENT, {"seconds": round(total, 3)})


def seconds_in(path: Path) -> float:
    """The seconds that a stamp or a SPENT file tells; none where it is absent, or no such file."""
    told = runs.read_json(path)
    seconds = told.get("seconds") if isinstance(told, dict) else None
    return seconds if isinstance(seconds, (int, float)) else 0.0


def read(grid: Grid, folder: Path) -> Results:
    """What a grid has found so far."""
    tables, rows = [], []
    for e, place in _places(grid, folder).items():
        row = {"name": place.folder.name, **asdict(e), "status": place.status, "seconds": place.seconds}
        if row["status"] == OK:
            row |= place.network["facts"]
            tables.append(place.images.assign(**asdict(e)))
        rows.append(row)
    empty = pd.DataFrame(columns=[*FIELDS, *IMAGE])
    images = pd.concat(tables, ignore_index=True)[list(empty)] if tables else empty
    told = pd.DataFrame(rows, columns=None if rows else ["name", *FIELDS, "status", "seconds"])
    return Results(images.astype(dict.fromkeys(["size", "samples", "ratio"], "Int64")),
                   told.astype(dict.fromkeys(_integers(rows), "Int64")))


def _integers(rows: list[dict[str, Any]]) -> list[str]:
    """Columns that hold integers alone, and are to stay so beside missing values."""
    return [name for name in dict.fromkeys(name for row in rows for name in row)
            if all(isinstance(row[name], int) for row in rows if row.get(name) is not None)]


def estimate(left: float, cost: Cost, measured: Mapping[Experiment, float]) -> float | None:
    """Seconds of computation for what is left, in units of `cost`, from the seconds of finished experiments;
    None without any."""
    known = sum(map(cost, measured))
    return left * sum(measured.values()) / known if known else None


def describe(title: str, grid: Mapping[Experiment, runs.Recipe | None], folder: Path, cost: Cost = equal,
             trial: Callable[[], float] | None = None) -> str:
    """A grid in words, with the time that it will take; nothing is run but `trial`, and this only at need.

    A recipe is None where it cannot be known yet: its experiment has still to be done. `trial` measures the
    seconds of one unit of cost; it is called where no experiment is finished.
    """
    places = _places({e: recipe for e, recipe in grid.items() if recipe is not None}, folder)
    status = {e: places[e].status if e in places else TO_DO for e in grid}
    # Not Place.seconds: what failed before is no measure of what is to come.
    measured = {e: places[e].network["seconds"] for e in grid if status[e] == OK}
    todo = {e: _left(status[e], cost(e)) for e in grid if status[e] != OK}
    counts = {"finished": len(measured), "to score": sum(text == TO_SCORE for text in status.values())}
    counts["to do"] = len(grid) - sum(counts.values())
    failed = sum(text.startswith("failed") for text in status.values())
    again = f" ({failed} failed before)" if failed else ""
    shown = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word != "to score")
    return "\n".join([f"{title}: {_many(len(grid), 'experiment')}, {shown}{again}.", _layout(grid, measured),
                      _time(todo, cost, measured, trial)])


def _time(todo: dict[Experiment, float], cost: Cost, measured: dict[Experiment, float],
          trial: Callable[[], float] | None) -> str:
    if not todo:
        return "Nothing is left to do."
    left = sum(todo.values())
    seconds, source = estimate(left, cost, measured), f"{_many(len(measured), 'finished experiment')}"
    if seconds is None and trial:
        seconds, source = trial() * left, "a short trial on this machine"
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


def _places(grid: Grid, folder: Path) -> dict[Experiment, Place]:
    return {e: Place(e, recipe, folder / e.named(recipe)) for e, recipe in grid.items()}


def _left(status: str, cost: float) -> float:
    """The cost of what is left of an experiment that is not finished."""
    return SCORING * cost if status == TO_SCORE else cost


def _network(experiment: Experiment, recipe: runs.Recipe) -> runs.Recipe:
    return {"experiment": asdict(experiment),
            **{name: value for name, value in recipe.items() if name != "tests"}}


def _tests(recipe: runs.Recipe) -> dict[str, runs.Recipe]:
    return recipe.get("tests", {})


def _table(path: Path) -> pd.DataFrame:
    # An image may be called NA, or 007.
    return pd.read_csv(path, dtype={"test_set": str, "image": str}, keep_default_na=False,
                       na_values={name: [""] for name in overlap.COLUMNS})
