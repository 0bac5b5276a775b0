"""Whether synthetic pairs look like real ones, and what styling did to them, by a run's own measures."""

from collections.abc import Iterator, Sequence
from math import isnan

import pandas as pd
from IPython.display import Markdown

from diffusegen_core.chapters import augment
from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.measures.manifolds import COVERAGE, DENSITY, PRECISION
from diffusegen_core.report import claims, objects, recommendation, style_tables
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
KEPT = (" Pairs that are not styled keep their sources' surroundings, so this says little about what was put "
        "into them.")
PLAINLY = 0.1  # share of what held-out real pairs reach, below which pairs plainly do not look real


def lines(run: Run) -> Iterator[str]:
    """What chapters 5 and 6 say of how real the run's synthetic pairs look, as sentences in MyST, for the
    front page; none where they say nothing, or are not made."""
    result, found = run.finished("evaluate"), _found(run)
    if result is None:
        yield from (words for _, words in found)
        return
    yield from unlike(result)
    yield from others(result, found)
    for before, after, words in moved(result):
        yield f"{words} {_better(run, before, after)}.{_untried(run, before)}"


def _found(run: Run) -> list[tuple[DataType, str]]:
    """What speaks against what was painted and styled, by the measures of chapters 3 and 4."""
    return [*seams(run), *objects.found(run)]


def told(run: Run) -> Markdown | None:
    """Chapter 5: what its own figures say, with those of chapters 3 and 4, as a paragraph. A page says
    nothing of later chapters' results, which may change without it."""
    result = run.evaluated
    against = _paragraph([*unlike(result), *(f"{words} Whether networks learn more from them all the same, "
                                             "the first page says." for *_, words in moved(result))])
    text = "\n\n".join([*([against.data] if against else []), *others(result, _found(run))])
    return Markdown(text.replace("the figures of chapter 5", "the figures above")) if text else None


def styled(run: Run) -> Markdown | None:
    """Chapter 4: what its own measures say against styling, as a paragraph."""
    return _paragraph([words for _, words in seams(run)])


def unlike(result: Evaluated) -> Iterator[str]:
    """A sentence for each synthetic type whose density or coverage is below PLAINLY of what other real pairs
    reach, in as many images."""
    for kind, mine, real in _beside_real(result):
        if _plainly_unlike(mine, real):
            known = [name for name in MEANING if name in mine and name in real]
            figures = " and ".join(f"{MEANING[name]} ({name}) is {mine[name]:.2f}" for name in known)
            reached = " and ".join(f"{real[name]:.2f}" for name in known)
            yield (f"{sentence(escaped(named(kind)))} do not look like real ones by the figures of "
                   f"chapter 5: {figures}, where other real pairs reach {reached}.")


def others(result: Evaluated, found: Sequence[tuple[DataType, str]] = ()) -> Iterator[str]:
    """What the same figures and the Fréchet distance say of all synthetic types that are not `unlike` real
    ones, and how little that is; with what was `found` to speak against a type, in one judgement. What was
    found of other types follows. No figures where there are no other real pairs to compare with."""
    metric, every = result.metrics.frechet, list(_beside_real(result))
    rows = [one for one in every if not _plainly_unlike(*one[1:])]
    against = {kind for kind, _ in found}

    def figures(means: dict[str, float]) -> str:
        digits = {**dict.fromkeys(MEANING, ".2f"), metric: ".4g"}
        return ", ".join(f"{name} {number(means[name], digits[name])}" for name in digits if name in means)

    def listed(some: list[tuple[DataType, dict[str, float], dict[str, float]]]) -> str:
        *first, last = (escaped(named(kind, figures(mine))) for kind, mine, _ in some)
        return " and ".join(filter(None, [", ".join(first), last]))

    meaning = "; ".join(f"{name}: {words}" for name, words in MEANING.items())
    real = f"other real pairs: {escaped(figures(rows[0][2]))}" if rows else ""
    told = f"{real}{f'; {meaning}' if len(rows) == len(every) else ''}"
    if usual := [one for one in rows if one[0] not in against]:
        kept = any(kind.is_pasted or (kind.is_painted and not kind.is_styled) for kind, *_ in usual)
        yield (f"By the figures of chapter 5, {listed(usual)} are not plainly unlike real ones ({told})."
               f"{KEPT if kept else ''}")
        told = real
    if odd := [one for one in rows if one[0] in against]:
        yield " ".join([
            f"{sentence(listed(odd))} differ from real ones where they were painted, though not plainly as "
            f"whole pictures, by the figures of chapter 5 ({told}).",
            *(words for kind, words in found if kind in {one[0] for one in odd})])
    yield from (words for kind, words in found if kind not in {one[0] for one in rows})


def _beside_real(result: Evaluated) -> Iterator[tuple[DataType, dict[str, float], dict[str, float]]]:
    """The means of each synthetic type and of other real pairs, where both have density or coverage."""
    real = {name: value for name, value in _means(result, HELD_OUT).items() if name not in MEANING or value}
    for kind in result.types:
        mine = _means(result, kind)
        if kind != REAL and any(name in mine and name in real for name in MEANING):
            yield kind, mine, real


def _plainly_unlike(mine: dict[str, float], real: dict[str, float]) -> bool:
    return any(mine[name] < PLAINLY * real[name] for name in MEANING if name in mine and name in real)


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


def seams(run: Run) -> Iterator[tuple[DataType, str]]:
    """Each styled type whose borders of the filled region became clearly more visible than before, and than
    in the real sources at the same place, and a sentence on that."""
    result = run.finished("style")
    for kind, one in result.sets.items() if result else ():
        before, after = (one.manifest[f"seam_{when}"].mean() for when in ("before", "after"))
        if after > WORSE * before and not after <= WORSE * (real := style_tables.natural(run, one)):
            beside = "" if isnan(real) else f"; the real sources have {real:.1f} at the same place"
            yield kind, (f"Styling made the border of the filled region more visible in {kind}: the contrast "
                         f"there rose from {before:.1f} to {after:.1f} grey levels{beside}.")


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
        SUPPORTED: f"Yet networks that were trained on one kind alone learned more from {after} {told}",
        REFUTED: f"Networks that were trained on one kind alone learned less from {after}, too {told}, so "
                 f"the unstyled ones, {before}, are the better choice",
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
