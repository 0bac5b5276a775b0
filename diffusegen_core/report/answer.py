"""What a run found: an answer to each question that a reader has, for the front page and chapter 8.

The sentences come from the verdicts of `claims` and from chapters 5 and 7; no results are made for them. A
question that the run cannot answer is left out, and `missing` says how to get an answer.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan

import pandas as pd
from IPython.display import Markdown
from scipy.special import ndtri

from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import counted, duration
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.measures import shares
from diffusegen_core.report import claims, cost, nearcopies, paperclaims, recommendation, rule, unfinished
from diffusegen_core.report.evaluate_tables import LARGER, differ
from diffusegen_core.report.naming import dice_of, in_sets, named, on_test
from diffusegen_core.report.paperclaims import Claim
from diffusegen_core.report.rule import (
    LEAST_IMAGES,
    NO_EFFECT,
    NOT_MADE,
    REFUTED,
    SMALLEST,
    SUPPORTED,
    TOO_LITTLE,
    UNDECIDED,
    WORST_FIRST,
    Verdict,
)
from diffusegen_core.report.segment_tables import WORDS, with_interval
from diffusegen_core.report.tables import QUESTION, Table, show, work
from diffusegen_core.report.unfinished import Progress
from diffusegen_core.run import Run

# What painted pairs are compared with, and the claims whose comparisons give the answer. The first two are
# answered by the largest small set, like the sentence above the answers: see `_by_size`.
ALONE, PASTING = "real pairs alone", "pasting"
ASKED: dict[str, tuple[Claim, ...]] = {
    ALONE: (paperclaims.SMALL,),
    PASTING: (paperclaims.PASTING,),
    "the GAN": (paperclaims.SYNTHETIC, paperclaims.TRANSFER, paperclaims.PARTLY),
}
PASTED = "Does pasting help?"
COPIES, MEMORY, COST = "Are they copies?", "Do the models remember?", "What do they cost?"
COST_ALONE = "What the pairs of this run cost."  # the caption where nothing else was answered
MORE, NO_MORE = "more than by chance", "no more than by chance"
REMEMBERED, FORGOTTEN = "a sign of memory", "hardly, if at all"
CANNOT_TELL = "this test cannot tell"
NO_MATTER = "no difference that matters"
ALONE_ON_THEM = "when training on such pairs alone, without any real ones"  # in chapter 6
LITTLE = 0.6  # an area under the ROC curve below this, and above the opposite, is hardly better than guessing


@dataclass(frozen=True)
class Answer:
    """One question with its answer."""

    question: str
    verdict: str
    """In a few words."""
    basis: str
    """What it rests on: numbers with their 95 % intervals, and the counts behind them."""

    @property
    def sentence(self) -> str:
        """As "Better than pasting, for these pairs: training on painted pairs ..."."""
        return f"{self.verdict[0].upper()}{self.verdict[1:]}: {self.basis}."


def questions(run: Run, verdicts: list[Verdict] | None = None) -> list[Answer]:
    """Every question that the run can answer, with its answer, first those on the real pairs
    alone, then the other ASKED, COPIES, MEMORY, COST.

    `verdicts` are those of `claims.of`; without them they are computed anew, which takes seconds.
    """
    told = claims.of(run) if verdicts is None else verdicts
    result, p, by_size = run.finished("evaluate"), run.params, _by_size(run)
    sized = {ALONE: [one.painting for one in by_size if one.painting],
             PASTING: [one.better for one in by_size if one.better]}
    alone, *others = (compared(other, [one for one in told if one.claim in asked], p, sized.get(other, []))
                      for other, asked in ASKED.items())
    further = [(f"And {named(kind)}?", compared(ALONE, [one], p)) for one_size in by_size[:1]
               for kind, one in one_size.others]
    pasted = PASTED, compared(ALONE, [], p, [one.pasting for one in by_size if one.pasting])
    answers = [alone, *(replace(one, question=asked) for asked, one in [*further, pasted] if one), *others,
               *([copied(result, p), remembered(result, p)] if result else []), spent(run)]
    return [one for one in answers if one]


def _by_size(run: Run) -> list[recommendation.Findings]:
    """Chapter 7's verdicts on painted and pasted pairs, of the largest set of real pairs first. The paper's
    claim stops at 64 real pairs; a reader's question does not."""
    result = run.finished("augment")
    if result is None or not recommendation.tested(result):
        return []
    sizes = sorted(map(int, result.images["size"].unique()), reverse=True)
    return [recommendation.findings(result, size, run.params) for size in sizes]


def table(run: Run, name: str = "summary-answers", verdicts: list[Verdict] | None = None) -> Table:
    """The questions and answers of a run."""
    answers = questions(run, verdicts)
    mixed = (in_sets(run.params.augment, run.params.segment.validation)
             if {better_than(ALONE), PASTED} & {one.question for one in answers} else "")
    missed = " ".join(missing(run, [one.question for one in answers]))
    rows = [(one.question, one.verdict, one.basis) for one in answers] or [
        ("All questions", NOT_MADE, "The run has made nothing yet that answers any.")]
    frame = pd.DataFrame(rows, columns=[QUESTION, "answer", "because"])
    return show(frame, name, " ".join(filter(None, [
        _about([one.question for one in answers]), mixed, missed])))


def _about(questions: Collection[str]) -> str:
    """What a table with answers to these questions holds, in a sentence."""
    if set(questions) == {COST}:
        return COST_ALONE
    compared = {PASTED, *map(better_than, ASKED)} & set(questions)
    return ("What this run found, computed from its results by the rule of chapter 8"
            f"{'; differences with paired 95 % intervals' if compared else ''}.")


def better_than(other: str) -> str:
    """The question whether painted pairs are better than something."""
    return f"Better than {other}?"


def compared(other: str, verdicts: list[Verdict], p: Params, sized: Sequence[Verdict] = ()) -> Answer | None:
    """The verdict on all comparisons with `other`, and the numbers of the first comparison that has it; None
    where nothing was compared. Names of measures follow the data in `p`, as in `naming.dice_of`.

    `sized`, from `_by_size`, replace the verdicts of chapter 7 in `verdicts`: the first, of the largest set,
    decides, and the others are listed beside it. None also where that first one has no result.
    """
    if sized and isnan(sized[0].difference):
        return None  # a smaller set does not answer for the largest
    if sized:
        verdicts = [*sized, *(one for one in verdicts if one.chapter != sized[0].chapter)]
    judged = [one for one in verdicts if not isnan(one.difference)]
    if not judged:
        return None
    told = [one.verdict for one in judged]
    verdict = told[0] if sized else rule.joined(set(told))
    first = next(one for one in judged if one.verdict == verdict)
    words = {SUPPORTED: f"better than {other}", REFUTED: f"worse than {other}", NO_EFFECT: NO_MATTER}
    part = "" if sized or len(set(told)) == 1 else f" in {told.count(verdict)} of {len(told)} comparisons"
    scope = f", {first.scope}" if first.scope else ""
    needs = f"; {rule.needs(first)}" if verdict == TOO_LITTLE else ""
    beside = judged[1:] if sized else [one for one in judged if one.verdict != verdict]
    return Answer(better_than(other), f"{words.get(verdict, verdict)}{part}{scope}",
                  f"{_in_numbers(first, p)}{needs}{_others(judged, first, beside, words, bool(sized))}"
                  f"{_lacking(len(verdicts) - len(judged))}")


def _in_numbers(one: Verdict, p: Params) -> str:
    """What was compared, the difference with its interval, measure and test set, and the counts behind it."""
    measure = dice_of(p, WORDS[one.claim.measure]) if one.claim.measure in WORDS else one.claim.measure
    numbers = with_interval(one.difference, one.low, one.high, one.claim.digits)
    return f"{one.in_words or one.comparison}: {numbers} in {measure} on {on_test(one.test_set)} ({_of(one)})"


def _others(judged: Sequence[Verdict], first: Verdict, beside: Sequence[Verdict], words: dict[str, str],
            sized: bool) -> str:
    """How the other comparisons, those `beside`, came out, and the range of all differences. Where the
    networks of `judged` were trained in different ways, each says how; `sized` means that `first` is of the
    largest set of real pairs."""
    if len(judged) == 1:
        return ""
    span = _between([one.difference for one in judged if one.claim.measure == first.claim.measure],
                    first.claim.digits)
    several = len({one.chapter for one in judged}) > 1
    if len({one.verdict for one in judged}) == 1:
        every = "both" if len(judged) == 2 else f"all {len(judged)}"
        alone = sum(one.chapter == "segment" for one in judged)
        how = f", {alone} of them {ALONE_ON_THEM}" if several else ""
        return f"; the same verdict on {every} comparisons{how}{span}"
    small = "with fewer real pairs" if sized else "in small sets of real pairs"
    places = {"segment": ALONE_ON_THEM if several else "", "augment": small if several or sized else ""}
    told = Counter((one.verdict, places.get(one.chapter, "")) for one in beside)
    listed = ", ".join(f"{count} {words.get(verdict, verdict)} {place}".strip()
                       for (verdict, place), count in sorted(told.items(), key=lambda one: (
                           -WORST_FIRST.index(one[0][0]), one[0][1])))
    return f"; the other comparisons: {listed}{span}"


def _lacking(absent: int) -> str:
    return f"; {absent} more {'have' if absent > 1 else 'has'} no result" if absent else ""


def _of(one: Verdict) -> str:
    """What a comparison rests on: "36 test images, 3 repetitions, pairs of 1 generator"."""
    generators = f"pairs of {counted(one.generators, 'generator')}" if one.generators else ""
    return ", ".join(filter(None, [counted(one.images, "test image"), counted(one.seeds, "repetition"),
                                   generators]))


def _between(differences: list[float], digits: str) -> str:
    """As " (differences from -0.170 to +0.030)"; "" for fewer than two."""
    if len(differences) < 2:
        return ""
    return f" (differences from {min(differences):{digits}} to {max(differences):{digits}})"


def copied(result: Evaluated, p: Params) -> Answer | None:
    """The share of near-copies among painted pairs, beside the share flagged where no copy is possible, for
    the most suspect painted type: first one whose interval of the difference lies above 0, then the one with
    the larger difference, and of equal ones that with the larger share. An audit that does not find pasted
    objects either cannot clear painted ones. None where no painted pair was judged."""
    counts = {one: nearcopies.flagged(result.copies.loc[one.name]) for one in result.types if one.is_painted}
    judged = {one: told for one, told in counts.items() if told}
    if not judged:
        return None
    sources = result.audit.groupby("data type")["source"].nunique()
    apart = {one: shares.difference(hits, images, chance, null, images / sources[one.name], len(judged))
             for one, (hits, images, chance, null) in judged.items()}

    def suspect(one: DataType) -> tuple[bool, float, float]:
        hits, images, chance, null = judged[one]
        return apart[one][0] > 0, round(hits / images - chance / null, 9), hits / images

    kind = max(judged, key=suspect)
    low, high = apart[kind]
    hits, images, chance, null = judged[kind]
    verdict = (TOO_LITTLE if min(images, null) < LEAST_IMAGES else MORE if low > 0 else
               CANNOT_TELL if nearcopies.blind(result, p) else NO_MORE if high < SMALLEST else UNDECIDED)
    more = (f"; the most suspect of {len(judged)} painted types, so the interval is wider"
            if len(judged) > 1 else "")
    why = {UNDECIDED: "; the interval allows for chance alone, and for copies",
           CANNOT_TELL: "; the difference may be chance, as its interval does not lie above 0, but the audit "
                        "could not clear the pairs anyway, as it may miss their copies"}.get(verdict, "")
    return Answer(COPIES, verdict, (
        f"{hits} of {images} {named(kind)} are flagged as near-copies ({hits / images:.1%}), "
        f"and {chance} of {null} images filled with an object that no model has seen ({chance / null:.1%}): "
        f"a difference of {hits / images - chance / null:+.1%} [{low:+.1%}, {high:+.1%}] if the pairs of a "
        f"source count as one{more}{why}{of_first(p)}"
        f"{nearcopies.unfound(result, p, kind)}").replace("%", " %"))


def of_first(p: Params) -> str:
    """The end of a basis, which says that chapter 5 judges the first of several generators; "" for one."""
    return f"; for the first of {p.generators} generators" if p.generators > 1 else ""


def remembered(result: Evaluated, p: Params) -> Answer | None:
    """The membership test of the group of models with the largest area under the curve; None without a test.

    The largest of several areas may be large by chance, so its lower limit is moved out by Bonferroni's
    correction for a normal error. Where the groups of pairs `differ`, only a sign of memory counts.
    """
    if result.membership is None or result.membership.table.empty:
        return None
    rows = result.membership.table
    row = rows.loc[rows["area"].idxmax()]
    others = f"; the highest of {len(rows)} groups of models" if len(rows) > 1 else ""
    wider = ndtri(1 - 0.025 / len(rows)) / ndtri(0.975)
    low = row["area"] - wider * (row["area"] - row["low"])
    unlike = low <= 0.5 and differ(rows)
    verdict = (CANNOT_TELL if unlike else REMEMBERED if low > 0.5 else
               FORGOTTEN if row["low"] > 1 - LITTLE and row["high"] < LITTLE else UNDECIDED)
    lowest = rows.loc[rows["high"].idxmin()]
    least = ("" if lowest.name == row.name else f"for {lowest['models']} it is "
             f"{with_interval(lowest['area'], lowest['low'], lowest['high'])}, and ")
    why = f"; {least}{LARGER}" if unlike else ""
    warning = ("; read \"Sharing\" before you share models or pairs" if verdict in (REMEMBERED, CANNOT_TELL)
               else "")
    return Answer(MEMORY, verdict, (
        "the models' error tells training pairs from held-out ones with an area under the ROC curve of "
        f"{with_interval(row['area'], row['low'], row['high'])}, where 0.5 is chance "
        f"({row['training pairs']} training pairs, {row['held-out pairs']} held-out){others}{why}"
        f"{warning}{of_first(p)}"))


def spent(run: Run) -> Answer | None:
    """The seconds that a pair and the whole run took, and on which devices; None without a painted pair."""
    rows = [one for one in cost.spent(run) if one.pairs]
    painted = [one for one in rows if one.data_type.is_painted]
    if not painted:
        return None
    main = min(painted, key=lambda one: (one.data_type.full, not one.data_type.is_styled))
    each, trained = ((main.making / main.pairs, "") if isnan(main.each) else
                     (main.each, ", training included"))
    beside = "".join(f"; {named(one.data_type)}: {cost.short(one.each)}" for one in rows
                     if one.data_type.is_pasted or one.data_type == GAN)
    seconds, device = work(run)
    return Answer(COST, f"{cost.short(each)} per pair", (
        f"that is the mean of {main.pairs} {named(main.data_type)}{trained}{beside}; everything made "
        f"in this run took {duration(seconds)} of work, workers and GPUs added up, on {device}"))


def missing(run: Run, answered: list[str], progress: Progress | None = None) -> Iterator[str]:
    """How to get the answers that this run lacks: a sentence for each missing part."""
    yield from unfinished.told(run, progress or unfinished.of(run))
    if run.params.gan.source is None and better_than("the GAN") not in answered:
        yield "This run has no GAN; `gan.source` adds one."
    if not run.params.inpaint.baselines and better_than("pasting") not in answered:
        yield "This run has no pasted pairs; `inpaint.baselines` adds them."


def told(run: Run) -> Markdown | None:
    """What the run has not made yet, for the head of a page, so that a half-finished run is not taken for a
    finished one; None for a finished one."""
    lacking = " ".join(unfinished.told(run, unfinished.of(run)))
    return Markdown(f"**This run is not finished.** {lacking}") if lacking else None
