"""The key numbers of a run: a row per data type, with what chapters 5 to 7 found about it and its cost."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import pairwise
from math import isnan

import pandas as pd

from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.config.sections import Augment
from diffusegen_core.config.text import counted
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.measures import intervals
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report import cost, evaluate_tables, nearcopies
from diffusegen_core.report.naming import captioned, mixing, named, on_test, sentence
from diffusegen_core.report.segment_tables import with_interval
from diffusegen_core.report.tables import IN_WORDS, Table, escaped, number, show
from diffusegen_core.run import Run
from diffusegen_core.segmentation.trials import Tested

ALONE = "Dice, trained on them alone"
COPIES = "near-copies (by chance)"
MORE = "More-Real"  # not a data type: more real pairs instead of synthetic ones
NOT_TRIED = "not tried"
ANEW = ("Chapter 7 draws anew which real pairs are trained on and which choose the epoch, so its Dice for "
        "real pairs alone differs from that in the column before, even for the same pairs.")
Texts = dict[str, str]
"""The text of a column's cells, by data type."""


def table(run: Run, name: str = "summary-numbers") -> Table:
    """Dice alone and gain in small sets, both on the run's first test set, near-copies, distance and time;
    columns for which the run has nothing are left out."""
    columns: dict[str, Texts] = {}
    first = ""
    for chapter, make in (("segment", _alone), ("augment", _gains)):
        result = run.finished(chapter)
        if result is not None and len(result.images):
            first = first or str(result.images["test_set"].iloc[0])
            columns |= make(run, result)
    columns |= _evaluated(run)
    columns["time per pair"] = {one.data_type.name: cost.short(one.each) for one in cost.spent(run)
                                if not isnan(one.each)}
    untried = _untried(run, columns)
    frame = _frame(columns)
    tested = (f" Dice is {captioned(run.params)} on {escaped(on_test(first))}." if first else "")
    what = f"Key numbers of this run{'; Dice and differences with 95 % intervals' if first else ''}."
    return replace(show(frame, name, f"{what}{tested}"), notes=tuple(_notes(run, columns, untried)))


def _notes(run: Run, columns: dict[str, Texts], untried: str) -> Iterator[str]:
    """What the columns are that `table` has; `untried` is the sentence on pairs that have no gain."""
    if ALONE in columns:
        yield f"For networks trained on one kind of pairs alone, {_sources(run)}."
    if any(heading.startswith("gain") for heading in columns):
        yield ("A gain is the difference from training on that many real pairs alone, whose Dice is in the "
               f"first row. In the other sets, {mixing(run.params.augment)}{_largest(run)}.")
        yield from filter(None, [ANEW if ALONE in columns else "", untried])
    yield from _audited(run, list(columns.get(COPIES, {})))
    if any(heading.startswith("distance") for heading in columns):
        yield ("The distance from the training images (a Fréchet distance, from equally many images of each "
               "kind) is small where images look alike. Pairs that are not styled keep their surroundings, "
               "so theirs may be smaller than that of other real pairs.")


def _sources(run: Run) -> str:
    """Which the real pairs are where networks learn from one kind of pairs alone, to follow a comma."""
    pairs, chosen = run.finished("data"), run.params.inpaint.sources
    if pairs is not None and (chosen is None or chosen >= len(pairs)):
        return f"the real pairs are all {len(pairs)} that models and pasted objects draw on"
    return ("the real pairs are the sources that the others were painted or pasted into. Models and pasted "
            "objects draw on all pairs of the run, so they may do better than the sources")


def _largest(run: Run) -> str:
    """At which of several numbers of synthetic pairs for each real one the gains are; "" of one number."""
    result = run.finished("augment")
    several = result is not None and result.images["ratio"].nunique() > 1
    return "; at the largest number for each (r)" if several else ""


def gains(run: Run, result: Tested, name: str) -> Table:
    """Chapter 7's gains in Dice over real pairs alone, on its first test set, and nothing else."""
    test = escaped(on_test(str(result.images["test_set"].iloc[0])))
    return show(_frame(_gains(run, result)), name,
                f"Gains in {captioned(run.params)} over training on that many real pairs alone, whose Dice "
                f"is in the first row, with paired 95 % intervals, on {test}; "
                f"{mixing(run.params.augment)}.")


def _untried(run: Run, columns: dict[str, Texts]) -> str:
    """Fill the cells of gains of the types that chapter 7 was not asked for; the note on them, "" where there
    are none."""
    result, note = run.finished("augment"), ""
    for heading, texts in columns.items():
        if result is not None and heading.startswith("gain"):
            asked = {REAL.name, HELD_OUT.name, MORE, *result.runs["data_type"]}
            if others := {kind for column in columns.values() for kind in column}.difference(asked):
                texts |= dict.fromkeys(others, NOT_TRIED)
                note = f"Not tried: {_why(run.params.augment, others)}."
            if ALONE in columns and REAL.name in texts:
                texts[REAL.name] += ", trained anew"
    return note


def _why(how: Augment, untried: Collection[str]) -> str:
    """Why chapter 7 tried none of these pairs."""
    painted = {kind for kind in untried if DataType.parse(kind).is_painted}
    elsewhere = {kind for kind in painted if how.generator_sees == "subset"
                 and DataType.parse(kind).models != str(how.subset_clusters)}
    clusters = counted(how.subset_clusters, "cluster")
    reasons = {f"the generators of chapter 7 see only small sets, in {clusters} (`augment.subset_clusters`)":
               elsewhere,
               "chapter 7 was not asked for these pairs (`augment.types`)": set(untried) - elsewhere}
    return ", or ".join(reason for reason, kinds in reasons.items() if kinds)


def _frame(columns: dict[str, Texts]) -> pd.DataFrame:
    """A row per data type, in words, with its text of every column."""
    kinds = sorted(dict.fromkeys(kind for texts in columns.values() for kind in texts), key=_order)
    return pd.DataFrame([{IN_WORDS: _told(kind), **{heading: texts.get(kind, "")
                                                    for heading, texts in columns.items()}}
                         for kind in kinds], columns=[IN_WORDS, *columns])


def _audited(run: Run, kinds: Collection[str]) -> Iterator[str]:
    """What the shares of near-copies of these data types do not cover."""
    types, p = [DataType.parse(kind) for kind in kinds], run.params
    if kinds and p.generators > 1:
        yield f"Near-copies and distances are for the first of {p.generators} generators."
    if any(kind.is_pasted for kind in types):
        yield "Pasted objects are all copies: their row shows how many of them the audit finds."
    if nearcopies.hides_copies(p, types):
        yield f"{sentence(nearcopies.UNFOUND)}."


def glossary(numbers: Table) -> str:
    """What the data types of `table` are, one line each."""
    kinds = [told.rpartition(" (")[2].removesuffix(")") for told in numbers.frame[IN_WORDS]]
    others = {HELD_OUT.name: "real pairs that no part of the run has learned from",
              MORE: "what the next larger set of real pairs gains, without any synthetic ones"}
    return "\n".join(f"- **{escaped(name)}**: {others.get(name) or DataType.parse(name).described}."
                     for name in kinds)


def _told(name: str) -> str:
    """A data type in words, its name last."""
    others = {HELD_OUT.name: "real pairs that were held out", MORE: "more real pairs instead"}
    return f"{others[name]} ({name})" if name in others else named(DataType.parse(name))


def _order(name: str) -> tuple[bool, bool, bool, bool]:
    if name == HELD_OUT.name:  # not a data type, but what other real images score
        return False, True, False, False
    if name == MORE:
        return False, False, True, False
    one = DataType.parse(name)
    return one != REAL, one != REAL, one.is_painted, one.is_styled


def _alone(run: Run, result: Tested) -> dict[str, Texts]:
    """Dice of networks trained on one data type alone, at its largest number of pairs per source."""
    images = _first(result)
    texts = {}
    for kind, rows in images.groupby("data_type", sort=False):
        most = rows[rows["samples"].isna() | (rows["samples"] == rows["samples"].max())]
        values = intervals.matrix(most, "dice"), intervals.generators(most)
        texts[str(kind)] = _text(_interval(run, result, *values).within(0, 1), ".3f")
    return {ALONE: texts}


def _gains(run: Run, result: Tested) -> dict[str, Texts]:
    """The gain over Real of chapter 7, for each number of real pairs, at the largest r of the type; the Dice
    of Real alone, to which it adds; and the gain of more real pairs."""
    columns: dict[str, Texts] = {}
    by_size = dict(list(_first(result).groupby("size", sort=True)))
    more = {size: _more(run, result, (size, rows), another)
            for (size, rows), another in pairwise(by_size.items())}
    for size, rows in by_size.items():
        real = rows[rows["data_type"] == REAL.name]
        alone = intervals.matrix(real, "dice"), intervals.generators(real)
        texts = {REAL.name: f"{_text(_interval(run, result, *alone).within(0, 1), '.3f')} alone"}
        texts |= {MORE: more[size]} if more.get(size) else {}
        for kind, mine in rows[rows["data_type"] != REAL.name].groupby("data_type", sort=False):
            most = mine[mine["ratio"] == mine["ratio"].max()]
            gain = intervals.differences(most, real, "dice"), intervals.generators(most, real)
            texts[str(kind)] = _text(_interval(run, result, *gain), "+.3f")
        columns[f"gain over {size} real pairs"] = texts
    return columns


def _more(run: Run, result: Tested, one: tuple[int, pd.DataFrame], larger: tuple[int, pd.DataFrame]) -> str:
    """As "16 more: +0.043 [+0.010, +0.076]": what Real gains from one set to the next larger one, which holds
    the smaller; paired, as other gains are. "" where no seed has both."""
    real, more = (rows[rows["data_type"] == REAL.name] for _, rows in (one, larger))
    gain = intervals.differences(more, real, "dice")
    if not gain.size:
        return ""
    return f"{larger[0] - one[0]} more: {_text(_interval(run, result, gain, {}), '+.3f')}"


def _evaluated(run: Run) -> dict[str, Texts]:
    """The Fréchet distance at equal numbers and the shares of near-copies of chapter 5."""
    result = run.finished("evaluate")
    if result is None:
        return {}
    metric = result.metrics.frechet
    rows = evaluate_tables.not_negative(result.equal[result.equal["metric"] == metric], result)
    distances = {str(kind): number(mine["value"].mean(), ".4g")
                 for kind, mine in rows.groupby("data type", sort=False)}
    counts = {kind.name: nearcopies.flagged(result.copies.loc[kind.name])
              for kind in result.types if kind.is_painted or kind.is_pasted or kind == GAN}
    copies = {kind: f"{hits / of:.1%} ({null / of_null:.1%})".replace("%", " %")
              for kind, told in counts.items() if told for hits, of, null, of_null in [told]}
    return {COPIES: copies, f"distance from training images ({metric})": distances}


def _interval(run: Run, result: Tested, values: pd.DataFrame, generators: dict[int, int]) -> Interval:
    """The interval of values (seeds x images) on the first test set, as for verdicts: by whole groups of
    images."""
    groups = next(test.groups for test in result.tests if test.pairs is not None)
    return intervals.of_groups(values, groups.of if groups else None, run.params.segment.resamples,
                               run.params.seed, generators)


def _first(result: Tested) -> pd.DataFrame:
    """The rows of the first test set."""
    return result.images[result.images["test_set"] == result.images["test_set"].iloc[0]]


def _text(interval: Interval, digits: str) -> str:
    """A mean with its interval, whose limits are not separated by a line break."""
    return with_interval(interval.mean, interval.low, interval.high, digits).replace(", ", ",\u00a0")
