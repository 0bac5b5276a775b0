"""A grid of independent experiments, run unattended: named, resumed, retried once, and read as one table.

Each experiment has its own folder, CHAPTER/LABEL-HASH, with the artifacts network, weights, and tests/NAME
for its scores on each test set: adding a test set neither trains a network nor repeats other scores.
An experiment that fails leaves a row that says so, and the grid goes on; the next call tries it again.
Folders of other grids or other parameters stay and are not read.
"""

import logging
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.data.types import DataType
from diffusegen_core.measures import overlap
from diffusegen_core.measures.intervals import GENERATOR
from diffusegen_core.parallel import fanout
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Artifact, Recipe, key
from diffusegen_core.store.stamps import LONGEST, STAMP, contents
from diffusegen_core.store.workspace import Workspace

log = logging.getLogger(__name__)

ATTEMPTS = 2
FAILED, TRACEBACK, RESULTS, SPENT = "failed.json", "traceback.txt", "results.csv", "spent.json"
RUNS = "runs.csv"
FIELDS = ["chapter", "data_type", "size", "samples", "ratio", "seed"]
IMAGE = ["test_set", "image", *overlap.COLUMNS]
OK, TO_DO, TO_SCORE = "ok", "to do", "to score"
FAILURE = "failed: "  # begins the status of an experiment that failed; the error follows
SCORING = 0.01  # share of an experiment's cost, roughly, that scoring a trained and kept network takes


@dataclass(frozen=True)
class Experiment:
    """One network to train and test. Fields that do not apply are None."""

    chapter: str
    """"segment" or "augment"."""
    data_type: DataType
    size: int | None = None
    """Real pairs in a small set: the N of chapter 7."""
    samples: int | None = None
    """Synthetic pairs per source: the N of chapter 6."""
    ratio: int | None = None
    """Synthetic pairs per real one: the r of chapter 7."""
    seed: int = 0
    """Number of the repetition, from 0."""
    generator: int | None = field(default=None, compare=False)
    """Number of the generator whose pairs it takes, from 0; None where no generator made them. The content of
    these pairs is in the recipe, so the number is not part of the identity."""

    @property
    def row(self) -> dict[str, str | int | None]:
        """The values of FIELDS, as in tables and recipes."""
        return {name: getattr(self, name) for name in FIELDS} | {"data_type": self.data_type.name}

    @property
    def label(self) -> str:
        """A readable name, unique in a chapter's grid: "20-Styled-Diff-3-seed0", "20-Diff-N16-r3-seed1"."""
        parts = (("", self.samples), ("N", self.size), ("r", self.ratio), ("seed", self.seed))
        return "-".join([self.data_type.name,
                         *(f"{word}{value}" for word, value in parts if value is not None)])

    def named(self, recipe: Recipe) -> str:
        """The name of its folder, such as "Real-N16-seed0-1a2b3c4d": the label, and a hash of the recipe
        without the test sets, which is all that decides the network."""
        return f"{self.label}-{key(_network(self, recipe))[:8]}"


Grid = Mapping[Experiment, Recipe]
"""What decides each experiment's results; under "tests", by test set, what decides only the scores on it."""
ExperimentCost = Callable[[Experiment], float]
Inputs = Callable[[Experiment], dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where an experiment lies, and how much of it is done."""

    workspace: Workspace
    experiment: Experiment
    recipe: Recipe
    """As in a grid."""

    @property
    def name(self) -> str:
        """The path of its folder within the run."""
        return f"{self.experiment.chapter}/{self.experiment.named(self.recipe)}"

    @property
    def folder(self) -> Path:
        """Its folder. Beside the artifacts it holds the seconds spent and the record of a failure."""
        return self.workspace.folder / self.name

    @property
    def network(self) -> Artifact:
        """The outputs of training, without the weights."""
        return self.workspace.artifact(f"{self.name}/network", _network(self.experiment, self.recipe))

    @property
    def weights(self) -> Path:
        """The folder of the network's weights, if they are kept: results are valid without them."""
        return self.folder / "weights"

    @property
    def kept(self) -> bool:
        """Whether the weights are there, intact, and belong to this network."""
        return self.network.made() and self._weights(contents(self.network.stamp)).made()

    def trained(self, outputs: list[Path], seconds: float, facts: dict[str, Any],
                save: Callable[[Path], Path], spent: Sequence[Path] = (), temporary: bool = False,
                precision: str = "fp32") -> None:
        """Finish the network, trained in `precision`, whose `outputs` lie in the folder of `network.begin()`.

        `facts` become columns of `Results.runs` and must be JSON-serialisable. `save` writes the weights into
        a folder; if `temporary`, their stamp says that they are only kept until the network is tested. Files
        in `spent` are deleted at the end. If an earlier training of the same recipe gave another network, as
        may happen on a GPU, that one is set aside and its scores no longer count.
        """
        identity = {path.relative_to(self.network.begin()).as_posix(): files.remembered_sha256(path)
                    for path in outputs}
        device = devices.name(self.workspace.device, precision)
        if not (weights := self._weights(identity)).made():  # else finished before a kill, unlike the network
            weights.finish([save(weights.begin())], 0, device=device, temporary=temporary)
        self.network.finish(outputs, seconds, replace=True, spent=spent, facts=facts, device=device)

    def test(self, name: str) -> Artifact:
        """The scores of the trained network on a test set."""
        return self._scores(name, contents(self.network.stamp))

    @property
    def untested(self) -> list[str]:
        """The test sets on which the network has no scores yet."""
        names, network = list(_tests(self.recipe)), self.network
        if not network.made():
            return names
        identity = contents(network.stamp)
        return [name for name in names if not self._scores(name, identity).made()]

    def tested(self, name: str, images: pd.DataFrame, others: list[Path], seconds: float) -> None:
        """Finish the scores on a test set: one row per image, columns IMAGE without the first, and those of
        classes.

        `others` are further outputs, which lie in the folder of `test(name).begin()`.
        """
        if images["image"].duplicated().any():
            raise ValueError(f"the results have an image of {name} twice")
        table = images.assign(test_set=name)[_with_classes(IMAGE, images)].to_csv(index=False)
        artifact = self.test(name)
        artifact.finish([files.write_text(artifact.begin() / RESULTS, table), *others], seconds,
                        device=devices.name(self.workspace.device))

    @property
    def images(self) -> pd.DataFrame:
        """A finished experiment's scores on all test sets, columns IMAGE and those of classes."""
        tables = [_table(self.folder / "tests" / name / RESULTS) for name in _tests(self.recipe)]
        return pd.concat(tables) if tables else pd.DataFrame(columns=IMAGE)

    @property
    def status(self) -> str:
        """"ok", "to score", "to do", or "failed: ..."."""
        if self.network.made() and not self.untested:
            return OK
        failure = files.read_json(self.folder / FAILED)
        if isinstance(failure, dict) and "error" in failure:
            return f"{FAILURE}{failure['error']}"
        return TO_SCORE if self.network.made() and (self.weights / STAMP).is_file() else TO_DO

    @property
    def seconds(self) -> float:
        """Seconds spent on it, failed attempts and repeated training included.

        Time of a killed attempt is known only from its last checkpoint, through the network's stamp; hence
        the larger of the two records.
        """
        folders = self.folder / "network", *(self.folder / "tests" / name for name in _tests(self.recipe))
        return max(seconds_in(self.folder / SPENT), sum(seconds_in(f / STAMP) for f in folders))

    def _scores(self, test: str, identity: dict[str, str]) -> Artifact:
        artifact = self.workspace.artifact(f"{self.name}/tests/{test}",
                                           {**_tests(self.recipe)[test], "network": identity})
        return replace(artifact, quiet=True)

    def _weights(self, identity: dict[str, str]) -> Artifact:
        return self.workspace.artifact(f"{self.name}/weights", {"network": identity})


ExperimentWork = Callable[..., None]


@dataclass(frozen=True)
class Results:
    """The results of a grid."""

    images: pd.DataFrame
    """One row per finished experiment and test image, columns FIELDS, IMAGE, GENERATOR, and `dice_1` to
    `dice_M` where there are several classes; what does not apply is <NA>."""
    runs: pd.DataFrame
    """One row per experiment: its name, FIELDS, GENERATOR, `status` (as Place.status), the facts of its
    training, and the seconds it has taken so far, failed attempts included. The traceback of a failure is
    traceback.txt in the folder of that name."""

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of `runs` that failed."""
        return self.runs[failed(self.runs["status"])]


def failed(status: pd.Series) -> pd.Series:
    """Whether each of these experiments failed, by its Place.status."""
    return status.astype(str).str.startswith(FAILURE)


def equal(experiment: Experiment) -> float:
    """The cost where all experiments take about equally long."""
    return 1


def nothing(experiment: Experiment) -> dict[str, Any]:
    """The inputs of work that needs none."""
    return {}


def run(ws: Workspace, chapter: str, title: str, grid: Grid, work: ExperimentWork,
        cost: ExperimentCost = equal, inputs: Inputs = nothing) -> Results:
    """Do the unfinished part of a chapter's grid, and write results.csv and runs.csv into its folder.

    `work(place, **inputs(experiment))` trains a network unless its weights are kept, and tests it on
    `untested` sets, through the methods of its Place. A second attempt takes up what the first left there.
    `cost` is an experiment's relative duration, in any unit, for the estimate of the time left.
    """
    known = places(ws, grid)
    items = [fanout.Item(experiment.label, ws,
                         {"work": work, "place": place, "arguments": inputs(experiment)},
                         left(status, cost(experiment)))
             for experiment, place in known.items() if (status := place.status) != OK]
    _tell_of_scores(item.arguments["place"] for item in items)
    fanout.run(attempt, items, title, sum(map(cost, grid)) - sum(item.cost for item in items))
    results = read(ws, grid)
    for name, frame in ((RESULTS, results.images), (RUNS, results.runs)):
        files.write_text(ws.folder / chapter / name, frame.to_csv(index=False))
    return results


def _tell_of_scores(places: Iterable[Place]) -> None:
    """Log one line for each test set whose scores will be set aside, however many networks have them."""
    outdated = Counter(name for place in places for name in place.untested
                       if (place.folder / "tests" / name / STAMP).is_file())
    for name, count in outdated.items():
        log.warning("The scores of %d networks on %s no longer hold, as its images or the networks have "
                    "changed. They are kept in aside/, and return if the change is undone.", count, name)


def attempt(work: ExperimentWork, place: Place, arguments: dict[str, Any]) -> None:
    """Do one experiment, retry it if it fails, and record a second failure. A UserError is recorded at once:
    the same refusal, or a training that diverges, would come again. Interruptions are no failures."""
    for name in (FAILED, TRACEBACK):
        (place.folder / name).unlink(missing_ok=True)
    told, brief, hopeless = list[str](), "", False
    while len(told) < ATTEMPTS and not hopeless:
        start = perf_counter()
        try:
            return work(place, **arguments)
        except Exception as error:
            told.append(traceback.format_exc())
            brief = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
            hopeless = isinstance(error, UserError)
        finally:
            spend(place.folder, perf_counter() - start)
    files.write_text(place.folder / TRACEBACK, "\n".join(told))
    files.write_json(place.folder / FAILED, {"error": brief, "traceback": TRACEBACK, "attempts": len(told)})


def spend(folder: Path, seconds: float) -> None:
    """Add to the seconds spent on an experiment's folder, whether or not the attempt succeeded."""
    total = seconds_in(folder / SPENT) + seconds
    files.write_json(folder / SPENT, {"seconds": round(total, 3)})


def seconds_in(path: Path) -> float:
    """The seconds recorded in a stamp or a SPENT file; 0 where it is absent or not such a file."""
    told = files.read_json(path)
    seconds = told.get("seconds") if isinstance(told, dict) else None
    return float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < LONGEST else 0.0


def read(ws: Workspace, grid: Grid) -> Results:
    """The results of a grid so far. Nothing is made."""
    tables, rows = [], []
    for experiment, place in places(ws.read_only, grid).items():
        row: dict[str, Any] = {"name": Path(place.name).name, **experiment.row,
                               GENERATOR: experiment.generator, "status": place.status,
                               "seconds": place.seconds}
        if row["status"] == OK:
            row |= place.network.stamp["facts"]
            tables.append(place.images.assign(**experiment.row, generator=experiment.generator))
        rows.append(row)
    empty = pd.DataFrame(columns=[*FIELDS, *IMAGE, GENERATOR])
    images = pd.concat(tables, ignore_index=True) if tables else empty
    images = images[_with_classes(list(empty), images)]
    told = pd.DataFrame(rows, columns=None if rows else ["name", *FIELDS, GENERATOR, "status", "seconds"])
    return Results(images.astype(dict.fromkeys(["size", "samples", "ratio", GENERATOR], "Int64")),
                   told.astype(dict.fromkeys(_integers(rows), "Int64")))


def _with_classes(columns: list[str], images: pd.DataFrame) -> list[str]:
    """The given columns, then those of classes that the images have."""
    return [*columns, *(name for name in images if name not in columns)]


def _integers(rows: list[dict[str, Any]]) -> list[str]:
    """The columns that hold only integers, which are to stay integers beside missing values."""
    return [name for name in dict.fromkeys(name for row in rows for name in row)
            if all(isinstance(row[name], int) for row in rows if row.get(name) is not None)]


def places(ws: Workspace, grid: Grid) -> dict[Experiment, Place]:
    """Where the experiments of a grid lie."""
    return {experiment: Place(ws, experiment, recipe) for experiment, recipe in grid.items()}


def left(status: str, cost: float) -> float:
    """The cost of the rest of an unfinished experiment."""
    return SCORING * cost if status == TO_SCORE else cost


def _network(experiment: Experiment, recipe: Recipe) -> Recipe:
    return {"experiment": experiment.row,
            **{name: value for name, value in recipe.items() if name != "tests"}}


def _tests(recipe: Recipe) -> dict[str, Recipe]:
    return recipe.get("tests", {})


def _table(path: Path) -> pd.DataFrame:
    # An image may be named NA, or 007.
    return pd.read_csv(path, dtype={"test_set": str, "image": str}, keep_default_na=False,
                       na_values={name: [""] for name in overlap.COLUMNS})
