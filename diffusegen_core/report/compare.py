"""Several runs in one: the command `diffusegen compare`, which reads finished results and makes nothing.

Runs of several cluster counts give the paper's Tables 3 and B2 to B7 all their rows, and one list of
verdicts. They must have the same data, test sets, seed and segmentation networks: only their synthetic pairs
differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from diffusegen_core.chapters.distances import MS_SSIM
from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.params import plain
from diffusegen_core.data.sequences import Grouped
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.measures import intervals
from diffusegen_core.report import claims, otherclaims, published, verdict_tables
from diffusegen_core.report.comparisons import PRINTED, SMALL_SETS
from diffusegen_core.report.paperclaims import Claim
from diffusegen_core.report.rule import Verdict
from diffusegen_core.report.segment_tables import effort, with_interval
from diffusegen_core.run import GRIDS, Run
from diffusegen_core.segmentation import segnet
from diffusegen_core.segmentation.experiments import FIELDS, IMAGE
from diffusegen_core.store import files

PER_SOURCE = ("B3", "B4")  # the tables by cluster count
RULES = ("alpha", "rule", "generator_sees")  # parameters by which chapter 7 makes its sets
SCORES = ["table", "n", "data_type", "r", "test_set", "metric", "value", "low", "high", "images", "seeds"]
IMAGES = ["table", "data_type", "metric", "set", "value"]


@dataclass(frozen=True)
class Joined:
    """Several runs side by side."""

    runs: list[Run]
    images: pd.DataFrame
    """`Results.images` of chapters 6 and 7; a data type that several runs have is taken from the first."""
    notes: list[str]
    """Sentences on what was left out, and what is not finished."""

    @property
    def groups(self) -> dict[str, Grouped | None]:
        """The images that belong together, by test set; all runs have the same test sets."""
        return {name: test.groups for name, test in self.runs[0].tests.items()}

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict on every comparison behind the claims, by claim."""
        first = self.runs[0].params
        judged = claims.judge(self.images, first.segment.resamples, first.seed, self.groups,
                             how=first.augment)
        others: dict[tuple[Claim, str], Verdict] = {}  # of the first run that has it
        for run in self.runs:
            for one in otherclaims.of(run):
                others.setdefault((one.claim, one.comparison), one)
        return claims.ordered([*judged, *others.values()])


def join(runs: Sequence[Run]) -> Joined:
    """Join the results of two or more runs. Raises UserError where two of them are the same or cannot be
    compared, or one has no networks."""
    if len({run.folder for run in runs}) < max(2, len(runs)):
        raise UserError("A comparison needs two or more runs, each named once.")
    for run in runs[1:]:
        if difference := _difference(runs[0], run):
            raise UserError(f"{runs[0].folder} and {run.folder} cannot be compared: they differ in "
                            f"{difference}.")
    images, notes, owners = [], [], dict[tuple[str, str], tuple[Run, set[str]]]()
    for run in runs:
        grids = {chapter: run.finished(chapter) for chapter in GRIDS}
        if not any(grid is not None and len(grid.images) for grid in grids.values()):
            raise UserError(f"{run.folder} has no networks of chapters 6 and 7: make them with "
                            f"`diffusegen run {run.folder / 'params.yaml'}`.")
        for chapter, grid in grids.items():
            if grid is None or not grid.complete:
                notes.append(f"Chapter {NUMBERS[chapter]} of {run.folder.name} is not finished.")
            if grid is None:
                continue
            for data_type, rows in grid.images.groupby("data_type", sort=False):
                names = set(grid.runs.loc[grid.runs["data_type"] == data_type, "name"])
                owner, theirs = owners.setdefault((chapter, str(data_type)), (run, names))
                if owner is run:
                    images.append(rows)
                elif not names <= theirs and not theirs <= names:
                    notes.append(_left_out(str(data_type), owner, run))
    joined = pd.concat(images, ignore_index=True) if images else pd.DataFrame(columns=[*FIELDS, *IMAGE])
    return Joined(list(runs), joined, list(dict.fromkeys(notes)))


def _left_out(data_type: str, owner: Run, run: Run) -> str:
    """A note on a data type of `run` that is left out. UserError if it is that of a cluster count, for which
    a table has one row."""
    if DataType.parse(data_type).models.isdigit():
        raise UserError(f"{owner.folder} and {run.folder} cannot be compared: both have {data_type}, but "
                        "trained on different pairs.")
    return f"{data_type} is taken from {owner.folder.name}; that of {run.folder.name} differs: left out."


def _difference(first: Run, second: Run) -> str:
    """What differs between two runs that must not, in words; "" where nothing does."""
    if first.pairs.digest != second.pairs.digest:
        return "data (names, images or image size of the real pairs)"
    tests = [{name: test.pairs.digest for name, test in run.tests.items() if test.pairs is not None}
             for run in (first, second)]
    if tests[0] != tests[1]:
        names = sorted(name for name in {*tests[0], *tests[1]} if tests[0].get(name) != tests[1].get(name))
        return f"test sets ({some(names)})"
    if first.params.seed != second.params.seed:
        return f"seeds ({first.params.seed} and {second.params.seed})"
    for section, parts in (("segment", [segnet.decided_by(run.params.segment, 0, run.pairs.planes)
                                        for run in (first, second)]),
                           ("augment", [{name: value for name, value in plain(run.params.augment).items()
                                         if name in RULES} for run in (first, second)])):
        if keys := sorted(key for key in {*parts[0], *parts[1]} if parts[0].get(key) != parts[1].get(key)):
            return f"segmentation networks ({some([f'{section}.{key}' for key in keys])})"
    return ""


def scores(joined: Joined) -> dict[str, pd.DataFrame]:
    """Tables B3 to B7 in long form, columns SCORES, by name; Table 3 is B7. Tables without a row are left
    out. Small sets of an r that the paper lacks get a table named after it, such as "r = 4"."""
    rows = [row for measure, metric in PRINTED.items() for row in _means(joined, measure, metric)]
    frame = pd.DataFrame(rows, columns=SCORES)
    by = ["n", "r", "data_type", "test_set"]
    return {str(name): one.sort_values(by, key=_order, kind="stable").reset_index(drop=True)
            for name, one in frame.groupby("table", sort=True)}


def _means(joined: Joined, measure: str, metric: str) -> list[dict[str, object]]:
    p = joined.runs[0].params
    ratios = sorted(int(r) for r in joined.images["ratio"].dropna().unique())
    rows: list[dict[str, object]] = []
    for key, group in joined.images.groupby([*FIELDS[:-1], "test_set"], sort=False, dropna=False):
        chapter, name, size, samples, ratio, test_set = key
        known = joined.groups.get(str(test_set))
        mean = intervals.interval(group, measure, p.segment.resamples, p.seed, known.of if known else None)
        real = name == REAL.name
        if chapter == "segment":
            tables = [*PER_SOURCE] if real else _alone(DataType.parse(str(name)))
        else:
            tables = [SMALL_SETS.get(r, f"r = {r}") for r in (ratios if real else [int(ratio)])]
        rows += [{"table": table, "n": size if chapter == "augment" else samples, "data_type": name,
                  "r": pd.NA if chapter == "segment" or real else ratio, "test_set": test_set,
                  "metric": metric, "value": mean.mean, "low": mean.low, "high": mean.high,
                  "images": mean.images, "seeds": mean.seeds} for table in tables]
    return rows


def _alone(data_type: DataType) -> list[str]:
    """The table by cluster count that networks trained on a data type alone belong to, if any."""
    return [] if not data_type.models.isdigit() else ["B4" if data_type.is_styled else "B3"]


def _order(column: pd.Series) -> pd.Series:
    """The sort key of a column; data types: Real first, cluster counts in their order, the GAN last."""
    if column.name != "data_type":
        return column if column.name == "test_set" else column.fillna(0).astype(int)
    types = column.map(lambda name: DataType.parse(name))
    return types.map(lambda one: (one != REAL, one == GAN, int(one.models) if one.models.isdigit() else 99,
                                  one.is_filtered, one.kind))


def images(joined: Joined) -> pd.DataFrame:
    """Table B2 in long form, columns IMAGES: whole sets, as in the paper, and from each run the types of its
    own cluster count."""
    rows = []
    for run in joined.runs:
        result = run.finished("evaluate")
        if result is None:
            continue
        for row in result.values.itertuples(index=False):
            name, number, metric, value = row[:4]
            if DataType.parse(name).models.isdigit() and metric in (result.metrics.frechet, MS_SSIM):
                rows.append(dict(zip(IMAGES, ("B2", name, metric, number, value), strict=True)))
    return pd.DataFrame(rows, columns=IMAGES).drop_duplicates(IMAGES[:-1])


def text(joined: Joined) -> str:
    """Notes, tables and verdicts as text for a terminal."""
    parts = [f"Runs: {', '.join(run.folder.name for run in joined.runs)}. {effort(joined.runs[0].params)}",
             *joined.notes]
    if len(frame := images(joined)):
        wide = frame.assign(column=frame["metric"] + ", set " + frame["set"].astype(str),
                            text=frame["value"].map("{:.4g}".format))
        parts.append(_titled("B2", _wide(wide, ["data_type"])))
    for name, frame in scores(joined).items():
        wide = frame.assign(column=frame["test_set"] + " " + frame["metric"], text=[
            with_interval(row.value, row.low, row.high) for row in frame.itertuples()])
        wide["n"] = ["" if pd.isna(n) else str(int(n)) for n in wide["n"]]
        # N counts the pairs of each source, n the real pairs of a small set.
        letter = "N" if name in PER_SOURCE else "n"
        parts.append(_titled(name, _wide(wide, ["n", "data_type"]).rename(columns={"n": letter})))
    return "\n\n".join([*parts, _claims(joined.verdicts)])


def write(joined: Joined, out: Path) -> list[Path]:
    """Write the tables and the verdicts as CSV into a new or empty folder; UserError if it is neither."""
    files.refuse_filled(out)
    verdicts = joined.verdicts
    tables = {**{f"table_{name.replace(' ', '')}": frame for name, frame in scores(joined).items()},
              "table_B2": images(joined), "claims": pd.DataFrame(verdict_tables.summary(verdicts)),
              "comparisons": pd.DataFrame(verdict_tables.details(verdicts))}
    out.mkdir(parents=True, exist_ok=True)
    return [files.write_text(out / f"{name}.csv", frame.to_csv(index=False)) for name, frame in tables.items()
            if len(frame)]


def _titled(name: str, frame: pd.DataFrame) -> str:
    titles = {**published.TABLES, "B7": f"{published.TABLES['B7']}; also Table 3"}
    title = f"Table {name}: {titles[name]}" if name in titles else f"Small training sets, {name}"
    return f"{title}\n{frame.to_string(index=False)}"


def _wide(frame: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """A row for each key and a column for each value of `column`, both in order of appearance."""
    wide = frame.pivot(index=index, columns="column", values="text")
    keys = frame.drop_duplicates(index).set_index(index).index
    wide = wide.reindex(index=keys, columns=list(dict.fromkeys(frame["column"]))).fillna("")
    return wide.reset_index().rename(columns={"data_type": "data type"})


def _claims(verdicts: list[Verdict]) -> str:
    """The verdicts, each with the comparisons that it rests on."""
    details = verdict_tables.details(verdicts)
    lines = []
    for row in verdict_tables.summary(verdicts):
        cells = row["the paper's own cells"]
        lines.append(f"{row['']}. {row['claim']}: {row['verdict on this run']}"
                     f"{f'; in the paper: {cells}' if cells else ''}")
        lines += [f"   {one['compared']}, {one['test set']}: {one['difference, this run'] or 'no value'}"
                  f"{_published(one)}. {one['verdict']}" for one in details if one["claim"] == row[""]]
    return "\n".join(["Claims", *lines])


def _published(row: dict[str, object]) -> str:
    return f" (published {row['difference, published']})" if row["difference, published"] else ""
