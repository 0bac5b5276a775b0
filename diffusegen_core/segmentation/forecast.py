"""A grid before it runs: how much of it is finished, and how long the rest will take."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from diffusegen_core.config.text import counted, duration
from diffusegen_core.segmentation.experiments import (
    OK,
    TO_DO,
    TO_SCORE,
    Experiment,
    ExperimentCost,
    Place,
    equal,
    failed,
    left,
    places,
)
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

HEADINGS = {"data_type": "data type", "size": "real pairs", "samples": "pairs a source", "ratio": "r"}


def estimate(rest: float, cost: ExperimentCost, measured: Mapping[Experiment, float]) -> float | None:
    """Seconds of computation for the `rest`, in units of `cost`, from the measured seconds of finished
    experiments; None without any."""
    known = sum(map(cost, measured))
    return rest * sum(measured.values()) / known if known else None


def describe(ws: Workspace, title: str, grid: Mapping[Experiment, Recipe | None],
             cost: ExperimentCost = equal, trial: Callable[[], float] | None = None,
             unmeasured: Callable[[Place], Sequence[str]] | None = None) -> str:
    """A grid in words, with the time it will take. Nothing is made; only `trial` is run, and only if needed.

    A recipe is None where it cannot be known yet, so its experiment is still to do. `trial` measures the
    seconds of one unit of cost; it is called if no experiment is finished. `unmeasured` names the test sets
    on which a finished experiment still lacks details.
    """
    known = places(ws.read_only, {experiment: recipe for experiment, recipe in grid.items()
                                 if recipe is not None})
    status = {experiment: known[experiment].status if experiment in known else TO_DO for experiment in grid}
    # Not Place.seconds: time lost to failures does not predict the rest.
    measured = {experiment: float(known[experiment].network.stamp["seconds"])
                for experiment, text in status.items() if text == OK}
    lacking = {experiment for experiment in measured if unmeasured and unmeasured(known[experiment])}
    todo = {experiment: left(TO_SCORE if experiment in lacking else text, cost(experiment))
            for experiment, text in status.items() if text != OK or experiment in lacking}
    counts = {"finished": len(measured), "to score": sum(text == TO_SCORE for text in status.values())}
    counts["to do"] = len(grid) - sum(counts.values())
    again = f" ({count} failed before)" if (count := int(failed(pd.Series(status)).sum())) else ""
    shown = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word != "to score")
    more = f" {len(lacking)} of the finished ones lack some measures." if lacking else ""
    return "\n".join([f"{title}: {counted(len(grid), 'experiment')}, {shown}{again}.{more}",
                      _layout(grid, measured), _time(todo, cost, measured, trial)])


def _time(todo: dict[Experiment, float], cost: ExperimentCost, measured: dict[Experiment, float],
          trial: Callable[[], float] | None) -> str:
    if not todo:
        return "Nothing is left to do."
    rest = sum(todo.values())
    seconds, source = estimate(rest, cost, measured), counted(len(measured), "finished experiment")
    if seconds is None and trial:
        seconds, source = trial() * rest, "a short trial on this machine"
    if seconds is None:
        return "Estimated time: unknown until one is finished."
    return f"Estimated time: {duration(seconds)}, from {source}."


def _layout(grid: Iterable[Experiment], finished: Mapping[Experiment, float]) -> str:
    """A line for each kind of experiment, with its seeds and how many of them are finished."""
    frame = pd.DataFrame([{**experiment.row, "finished": experiment in finished} for experiment in grid])
    if frame.empty:
        return "The grid is empty."
    shown = [name for name in HEADINGS if frame[name].notna().any()]
    rows = []
    for values, group in frame.groupby(shown, sort=False, dropna=False):
        cells = ("" if pd.isna(v) else v if isinstance(v, str) else int(v) for v in values)
        rows.append({**dict(zip((HEADINGS[name] for name in shown), cells, strict=True)), "seeds": len(group),
                     "finished": int(group["finished"].sum())})
    return pd.DataFrame(rows).to_string(index=False)
