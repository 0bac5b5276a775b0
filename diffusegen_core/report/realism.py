"""Whether painted pairs look like real ones, and what styling did to them, by a run's own measures."""

from collections.abc import Iterator
from math import isnan

import pandas as pd
from IPython.display import Markdown

from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.chapters.style import Styled
from diffusegen_core.data.types import DataType
from diffusegen_core.measures.manifolds import COVERAGE, DENSITY, PRECISION
from diffusegen_core.report.naming import named, sentence
from diffusegen_core.report.rule import SMALLEST
from diffusegen_core.report.tables import escaped, number
from diffusegen_core.run import Run
from diffusegen_core.segmentation import experiments
from diffusegen_core.segmentation.trials import Tested

WORSE = 1.1  # times the value before styling: from here on a distance or a seam counts as larger
PLAINLY = 0.1  # share of what held-out real pairs reach, below which pairs plainly do not look real


def lines(run: Run) -> Iterator[str]:
    """What chapter 5's figures say against the run's painted pairs, as sentences in MyST, for the front page
    and chapter 5; none where they say nothing, or are not made."""
    if (result := run.finished("evaluate")) is not None:
        yield from unlike(result)
        yield from moved(result, run.finished("segment"))


def told(run: Run) -> Markdown | None:
    """`lines` as a paragraph of a page."""
    return _paragraph(lines(run))


def styled(run: Run) -> Markdown | None:
    """Chapter 4: what its own measures say against styling, and chapter 5's where that is made."""
    result = run.finished("evaluate")
    return _paragraph([*seams(run.styled), *(moved(result, run.finished("segment")) if result else ())])


def unlike(result: Evaluated) -> Iterator[str]:
    """A sentence for each painted type whose density or coverage is below PLAINLY of what other real pairs
    reach, in as many images."""
    real = _means(result, HELD_OUT)
    for kind in result.types:
        mine = _means(result, kind)
        known = [name for name in (DENSITY, COVERAGE) if real.get(name, 0) > 0 and name in mine]
        if kind.is_painted and any(mine[name] < PLAINLY * real[name] for name in known):
            figures = " and ".join(f"{name} {mine[name]:.2f} instead of {real[name]:.2f}" for name in known)
            yield (f"{sentence(escaped(named(kind)))} do not look like real ones by the figures of "
                   f"chapter 5: {figures}, which other real pairs reach.")


def moved(result: Evaluated, tested: Tested | None = None) -> Iterator[str]:
    """A sentence for each styled type that is farther from real pairs than before styling: by the Fréchet
    distance, and with no higher precision. `tested` is chapter 6's result, which has the last word: pairs
    that look less real may still be better to learn from."""
    metric = result.metrics.frechet
    for after in (kind for kind in result.types if kind.is_styled):
        before = after.inpainted
        first, last = _means(result, before), _means(result, after)
        if metric not in first or metric not in last or last[metric] < WORSE * first[metric]:
            continue
        if (known := PRECISION in first and PRECISION in last) and last[PRECISION] > first[PRECISION]:
            continue
        precision = f"; precision {last[PRECISION]:.2f} instead of {first[PRECISION]:.2f}" if known else ""
        yield (f"{after} lies farther from real pairs than {before} ({escaped(metric)} "
               f"{number(last[metric], '.4g')} instead of {number(first[metric], '.4g')}{precision}): "
               f"{_better(before, after, tested)}.")


def seams(result: Styled) -> Iterator[str]:
    """A sentence for each styled type whose borders of the filled region became clearly more visible."""
    for name, row in result.table.iterrows():
        if row["seam after"] > WORSE * row["seam before"]:
            yield (f"Styling made the border of the filled region more visible in {escaped(str(name))}: the "
                   f"contrast there rose from {row['seam before']:.1f} to {row['seam after']:.1f} grey "
                   "levels. Chapter 5 compares the pairs before and after styling.")


def _better(before: DataType, after: DataType, tested: Tested | None) -> str:
    """Which of the two to take, as far as is known."""
    dice = _dice(tested, before), _dice(tested, after)
    if any(map(isnan, dice)):
        return (f"unless chapter 6 shows that networks learn more from the styled ones, the unstyled ones, "
                f"{before}, are the better choice")
    numbers = f"Dice {dice[0]:.3f} before, {dice[1]:.3f} after"
    if dice[1] >= dice[0] + SMALLEST:
        return (f"yet networks that were trained on them alone reached a higher mean ({numbers}); chapter 8 "
                "says whether that may be chance")
    learned = "learned no more either" if dice[1] <= dice[0] else "hardly learned more"
    return (f"networks that were trained on them alone {learned} ({numbers}), so the unstyled ones, "
            f"{before}, are the better choice")


def _dice(tested: Tested | None, kind: DataType) -> float:
    """Chapter 6's mean Dice of networks trained on a type alone, at its largest number of pairs per source,
    on the first test set; NaN where there is none, or some of these networks are not trained yet."""
    if tested is None or not len(tested.images):
        return float("nan")
    own = tested.runs[tested.runs["data_type"] == kind.name]
    status = own.loc[own["samples"] == own["samples"].max(), "status"]
    if not ((status == experiments.OK) | experiments.failed(status)).all():
        return float("nan")
    images = tested.images[tested.images["test_set"] == tested.images["test_set"].iloc[0]]
    mine = images[images["data_type"] == kind.name]
    return float(mine.loc[mine["samples"] == mine["samples"].max(), "dice"].mean())


def _means(result: Evaluated, kind: DataType) -> dict[str, float]:
    """The means over sets of every measure of a data type at equal numbers, by name."""
    mine: pd.DataFrame = result.equal[result.equal["data type"] == kind.name]
    return {str(name): float(value) for name, value in mine.groupby("metric")["value"].mean().items()}


def _paragraph(told: Iterator[str] | list[str]) -> Markdown | None:
    text = " ".join(told)
    return Markdown(f"**{text}**") if text else None
