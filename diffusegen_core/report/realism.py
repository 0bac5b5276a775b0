"""Whether painted pairs look like real ones, and what styling did to them, by a run's own measures."""

from collections.abc import Iterator

import pandas as pd
from IPython.display import Markdown

from diffusegen_core.chapters import augment
from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.chapters.style import Styled
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.measures.manifolds import COVERAGE, DENSITY, PRECISION
from diffusegen_core.report import claims, recommendation
from diffusegen_core.report.comparisons import Comparison, Net
from diffusegen_core.report.naming import captioned, named, sentence
from diffusegen_core.report.paperclaims import STYLING
from diffusegen_core.report.rule import NO_EFFECT, REFUTED, SUPPORTED, TOO_LITTLE, Verdict
from diffusegen_core.report.segment_tables import with_interval
from diffusegen_core.report.tables import escaped, number
from diffusegen_core.run import Run

WORSE = 1.1  # times the value before styling: from here on a distance or a seam counts as larger
MEANING = {DENSITY: "how densely real pairs surround them",
           COVERAGE: "the share of real pairs that have one nearby"}
PLAINLY = 0.1  # share of what held-out real pairs reach, below which pairs plainly do not look real


def lines(run: Run) -> Iterator[str]:
    """What chapters 5 and 6 say against the run's painted pairs, as sentences in MyST, for the front page;
    none where they say nothing, or are not made."""
    if (result := run.finished("evaluate")) is not None:
        yield from unlike(result)
        for before, after, words in moved(result):
            yield f"{words} {_better(run, before, after)}.{_untried(run, before)}"


def told(result: Evaluated) -> Markdown | None:
    """Chapter 5: what its own figures say, as a paragraph. A page says nothing of later chapters' results,
    which may change without it."""
    return _paragraph([*unlike(result), *(f"{words} Whether networks learn more from them all the same, the "
                                          "first page says." for *_, words in moved(result))])


def styled(result: Styled) -> Markdown | None:
    """Chapter 4: what its own measures say against styling, as a paragraph."""
    return _paragraph(list(seams(result)))


def unlike(result: Evaluated) -> Iterator[str]:
    """A sentence for each painted type whose density or coverage is below PLAINLY of what other real pairs
    reach, in as many images."""
    real = _means(result, HELD_OUT)
    for kind in result.types:
        mine = _means(result, kind)
        known = [name for name in (DENSITY, COVERAGE) if real.get(name, 0) > 0 and name in mine]
        if kind.is_painted and any(mine[name] < PLAINLY * real[name] for name in known):
            figures = ", and ".join(f"{MEANING[name]} ({name}), {mine[name]:.2f} instead of {real[name]:.2f}"
                                    for name in known)
            yield (f"{sentence(escaped(named(kind)))} do not look like real ones by the figures of "
                   f"chapter 5: {figures}, which other real pairs reach.")


def moved(result: Evaluated) -> Iterator[tuple[DataType, DataType, str]]:
    """Each styled type that is farther from real pairs than before styling, after what it was before, and a
    sentence on that: by the Fréchet distance, and with no higher precision."""
    metric = result.metrics.frechet
    for after in (kind for kind in result.types if kind.is_styled):
        before = after.inpainted
        first, last = _means(result, before), _means(result, after)
        if metric not in first or metric not in last or last[metric] < WORSE * first[metric]:
            continue
        if (known := PRECISION in first and PRECISION in last) and last[PRECISION] > first[PRECISION]:
            continue
        precision = f"; precision {last[PRECISION]:.2f} instead of {first[PRECISION]:.2f}" if known else ""
        yield before, after, (f"{after} lies farther from real pairs than {before} ({escaped(metric)} "
                              f"{number(last[metric], '.4g')} instead of {number(first[metric], '.4g')}"
                              f"{precision}).")


def seams(result: Styled) -> Iterator[str]:
    """A sentence for each styled type whose borders of the filled region became clearly more visible."""
    for name, row in result.table.iterrows():
        if row["seam after"] > WORSE * row["seam before"]:
            yield (f"Styling made the border of the filled region more visible in {escaped(str(name))}: the "
                   f"contrast there rose from {row['seam before']:.1f} to {row['seam after']:.1f} grey "
                   "levels. Chapter 5 compares the pairs before and after styling.")


def _better(run: Run, before: DataType, after: DataType) -> str:
    """Which of the two to take, as far as is known: chapter 6 has the last word, as pairs that look less real
    may still be better to learn from."""
    if (learned := _learned(run, before, after)) is None:
        tested = run.finished("segment")
        why = ("has not compared" if tested is not None and tested.complete else "says once it is made")
        return f"Whether networks learn more from them than from {before}, chapter 6 {why}"
    numbers = with_interval(learned.difference, learned.low, learned.high, STYLING.digits)
    told = f"(chapter 6, styled minus unstyled: {escaped(numbers)} in {captioned(run.params)})"
    return {
        SUPPORTED: f"Yet networks that were trained on them alone learned more from them {told}",
        REFUTED: f"Networks that were trained on them alone learned less, too {told}, so the unstyled ones, "
                 f"{before}, are the better choice",
        NO_EFFECT: f"Networks learned the same from both {told}, so styling was not needed",
        TOO_LITTLE: "There is too little data to say from which of the two networks learn more",
    }.get(learned.verdict, f"From which of the two networks learn more is undecided {told}")


def _learned(run: Run, before: DataType, after: DataType) -> Verdict | None:
    """Chapter 6's verdict on networks trained on the styled pairs alone against those trained on the unstyled
    ones, with the most pairs per source that both have; None where these are not all trained."""
    tested = run.finished("segment")
    if tested is None or not recommendation.comparable(tested):
        return None
    counts = [set(tested.images.loc[tested.images["data_type"] == kind.name, "samples"].dropna())
              for kind in (before, after)]
    if not (shared := counts[0] & counts[1]):
        return None
    one, other = (Net("segment", kind.name, int(max(shared))) for kind in (after, before))
    asked = Comparison(STYLING, one, other, claims.own_test(tested.images))
    return recommendation.judged(tested, tested.images, asked, run.params)


def _untried(run: Run, before: DataType) -> str:
    """A sentence on how to try the unstyled pairs in chapter 7, where that tried only others; else ""."""
    result = run.finished("augment")
    tried = [] if result is None else [
        name for name in dict.fromkeys(result.runs["data_type"]) if name != REAL.name]
    if not tried or before.name in tried:
        return ""
    types = ", ".join([*(run.params.augment.types or [augment.USUAL]), augment.UNSTYLED])
    return f" Chapter 7 did not try {before}: `-p augment.types '[{types}]'` adds it."


def _means(result: Evaluated, kind: DataType) -> dict[str, float]:
    """The means over sets of every measure of a data type at equal numbers, by name."""
    mine: pd.DataFrame = result.equal[result.equal["data type"] == kind.name]
    return {str(name): float(value) for name, value in mine.groupby("metric")["value"].mean().items()}


def _paragraph(told: Iterator[str] | list[str]) -> Markdown | None:
    text = " ".join(told)
    return Markdown(f"**{text}**") if text else None
