"""Tables of chapter 8: the rule, a verdict on each claim, and the comparisons behind it."""

from collections import Counter
from dataclasses import replace

import pandas as pd

from diffusegen_core.config.text import counted
from diffusegen_core.report import claims, comparisons, notasked, otherclaims, papers
from diffusegen_core.report.naming import captioned
from diffusegen_core.report.paperclaims import COMPUTE, NEARER, VARIED, Claim
from diffusegen_core.report.rule import (
    GROUPS,
    NOT_MADE,
    RULE,
    SCOPE,
    SCOPE_PASTED,
    SEVERAL,
    SMALLEST,
    THESE_PAIRS,
    THESE_PASTED,
    TOO_LITTLE,
    WORST_FIRST,
    Verdict,
)
from diffusegen_core.report.segment_tables import effort, unknown, with_interval
from diffusegen_core.report.tables import Table, show
from diffusegen_core.run import Run

CELLS = ("In how many cells of the paper's own tables the claim holds as printed, without intervals, out of "
         "those that it was made for.")
PLACES = {"segment": "(pairs alone)", "augment": "(small sets)"}
DETAILS = ["claim", "compared", "test set", "images", "seeds", "generators", "difference, this run",
           "difference, published", "verdict"]


def overall(run: Run, judged: list[Verdict]) -> Table:
    """One verdict per claim, what its comparisons say, and in how many cells the paper's own tables agree;
    folded below, the claims that the run was not asked to judge."""
    asked, others = notasked.split(run, judged)
    rows = pd.DataFrame(summary([*asked, *others]))
    count = len(claims.overall(asked))
    table = _beside_paper(run, rows.head(count), ["", "the paper's own cells"], "summary-verdicts",
                          "The claims, and what this run says of them.", CELLS,
                          f"{effort(run.params)} {unknown(run)}".strip())
    return replace(table, others=_not_asked(rows.tail(len(rows) - count), others)) if others else table


def _not_asked(rows: pd.DataFrame, others: list[Verdict]) -> Table:
    """The claims that a run was not asked to judge, from their rows of `summary`, and what asks for them."""
    frame = rows[["", "claim", "the paper's own cells"]]
    frame.insert(2, "what asks for it", [notasked.ASKED_BY[claim] for claim in claims.overall(others)])
    return show(frame, "summary-not-asked", "Claims that this run cannot judge, because its parameters do "
                f"not ask for what they compare, and the parameters that would. The paper's own "
                f"cells: {CELLS[0].lower()}{CELLS[1:]}")


def summary(judged: list[Verdict]) -> list[dict[str, str]]:
    """The rows of `overall`."""
    rows = []
    for number, (claim, verdict) in enumerate(claims.overall(judged).items(), 1):
        mine = [v for v in judged if v.claim == claim]
        scope = next((v.scope for v in mine if v.scope and verdict not in (TOO_LITTLE, NOT_MADE)), "")
        rows.append({"": str(number), "claim": claim.words,
                     "verdict on this run": f"{verdict} {scope}".strip(),
                     "comparisons": _counts(mine),
                     "differences, this run": _span(claim, [v.difference for v in mine]),
                     "the paper's own cells": _cells(claim)})
    return rows


def _counts(mine: list[Verdict]) -> str:
    """As "1 undecided (small sets), 1 refuted (pairs alone)": how often each verdict was given, and where the
    comparisons are of both chapters, in which."""
    places = PLACES if {v.chapter for v in mine} >= set(PLACES) else {}
    told = Counter((v.verdict, places.get(v.chapter, "")) for v in mine)
    return ", ".join(f"{told[verdict, place]} {verdict} {place}".strip() for verdict in reversed(WORST_FIRST)
                     for place in ["", *PLACES.values()] if told[verdict, place])


def rule() -> Table:
    """How a comparison is judged, and a claim from several."""
    rows = RULE | {NOT_MADE: "No verdict: the chapter whose results are compared has still to be run.",
                   "a claim with several comparisons": SEVERAL, "frames of a sequence": GROUPS,
                   "distances": otherclaims.TOLD, THESE_PAIRS: SCOPE,
                   THESE_PASTED: SCOPE_PASTED}
    return show(pd.DataFrame({"verdict": rows.keys(), "when": rows.values()}), "summary-rule",
                f"How a comparison of networks is judged: of the first {len(RULE)} rows, the verdicts, the "
                "first whose condition is met counts; the others say what is compared, and how. "
                f"Differences below {SMALLEST} in Dice or IoU count as too small to matter.")


def verdicts(run: Run, judged: list[Verdict]) -> Table:
    """The claims that the run was asked to judge, comparison by comparison."""
    judged, _ = notasked.split(run, judged)
    rows = pd.DataFrame(details(judged), columns=DETAILS)
    of = [amount(one) for one in judged]
    frame = rows.drop(columns=["images", "seeds", "generators"])
    frame.insert(frame.columns.get_loc("difference, this run") + 1, "of", of)
    return _beside_paper(run, frame, ["claim", "compared", "test set", "difference, published"],
                         "summary-claims", "Differences with paired 95 % intervals, over the images and "
                         "seeds that both have, computed in this run, in "
                         f"{captioned(run.params)} unless stated otherwise. Claims are numbered as "
                         "above.", "Differences in the paper's own tables, of the same cluster count "
                         "and numbers of pairs.")


def _beside_paper(run: Run, frame: pd.DataFrame, theirs: list[str], name: str, caption: str, published: str,
                  more: str = "") -> Table:
    """A table in which the last of the columns `theirs` has the paper's values. Where these do not compare
    with the run's, that column is folded below, with the others of `theirs` to name the rows."""
    reasons, column = papers.differences(run.params), theirs[-1]
    if not reasons or frame.empty:
        return show(frame, name, " ".join(filter(None, [
            caption, f"{column.capitalize()}: {published[0].lower()}{published[1:]}", more])))
    told = frame.loc[frame[column] != "", theirs]
    folded = show(told, f"{name}-published", f"{published} {papers.why_not(reasons)}") if len(told) else None
    return show(frame.drop(columns=column), name, f"{caption} {more}".strip(), folded=folded)


def amount(one: Verdict) -> str:
    """What a comparison rests on: "36 images, 3 seeds, 1 generator"; "" where there is none."""
    counts = [(one.images, "image"), (one.seeds, "seed"), (one.generators, "generator")]
    return ", ".join(counted(count, word) for count, word in counts if count)


def details(judged: list[Verdict]) -> list[dict[str, object]]:
    """The rows of `verdicts`."""
    numbers = {claim: str(number) for number, claim in enumerate(claims.overall(judged), 1)}
    return [{
        "claim": numbers[one.claim], "compared": _compared(one), "test set": one.test_set,
        "images": one.images, "seeds": one.seeds, "generators": str(one.generators or ""),
        "difference, this run": with_interval(one.difference, one.low, one.high, one.claim.digits),
        "difference, published": "" if pd.isna(one.published) else f"{one.published:+.4f}",
        "verdict": f"{one.words[0].upper()}{one.words[1:]}. {one.reason}"} for one in judged]


def _compared(one: Verdict) -> str:
    named = {"iou": ", IoU", "MS-SSIM": ", MS-SSIM", "s": ", seconds"}.get(one.claim.measure, "")
    return f"{one.comparison}{named}"


def _span(claim: Claim, differences: list[float]) -> str:
    """The range of the differences, from the smallest to the largest."""
    there = [value for value in differences if not pd.isna(value)]
    if not there:
        return ""
    low, high = (format(value, claim.digits) for value in (min(there), max(there)))
    unit = " s" if claim.measure == "s" else ""
    return f"{low}{unit}" if len(there) == 1 else f"{low} to {high}{unit}"


def _cells(claim: Claim) -> str:
    """"3 of 3": where the paper's own tables bear a claim out; "" where they have nothing on it."""
    if claim == COMPUTE:
        return "at most 16 h a model; nothing on the GAN"
    holds, of = otherclaims.of_paper(claim) if claim in (NEARER, VARIED) else comparisons.of_paper(claim)
    return f"{holds} of {of}" if of else ""
