"""What a run's own measures say against its painted pairs: a rule, told on the front page and in chapters."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest
from test_claims import results

from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.config import params
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.report import realism

BEFORE, AFTER = DataType.parse("1-Paint"), DataType.parse("1-Styled-Paint")
ORDER = ["FD", "precision", "density", "coverage"]


def evaluated(before: list[float], after: list[float], real: list[float] | None = None) -> SimpleNamespace:
    """Chapter 5 with these means of ORDER over two sets of each data type."""
    told = {BEFORE: before, AFTER: after, **({HELD_OUT: real} if real else {})}
    rows = [{"data type": kind.name, "set": number, "metric": metric, "value": value * (1 + number / 10)}
            for kind, values in told.items() for metric, value in zip(ORDER, values, strict=True)
            for number in (-1, 1)]
    return SimpleNamespace(equal=pd.DataFrame(rows), types=[REAL, BEFORE, AFTER],
                           metrics=SimpleNamespace(frechet="FD"))


def run_of(result: SimpleNamespace, means: dict[str, float] | None = None, complete: bool = True,
           images: int = 60, noise: float = 0.02, tried: tuple[str, ...] = ()) -> SimpleNamespace:
    """A run with this result of chapter 5, planted means of chapter 6 as in `results`, and a chapter 7 that
    tried these types."""
    rows = results(means or {}, tests=("HyperKvasir", "PolypGen"), images=images, noise=noise)
    tests = [SimpleNamespace(name=name, groups=None) for name in rows["test_set"].unique()]
    made = {"evaluate": result}
    if means:
        made["segment"] = SimpleNamespace(images=rows, tests=tests, complete=complete)
    if tried:
        made["augment"] = SimpleNamespace(runs=pd.DataFrame({"data_type": ["Real", *tried, *tried]}))
    return SimpleNamespace(params=params.validate({}), finished=made.get)


def planted(before: float, after: float) -> dict[str, float]:
    """Means of Dice at three pairs a source, and others at one."""
    return {"1-Paint-3": before, "1-Styled-Paint-3": after, "1-Paint-1": 0.9, "1-Styled-Paint-1": 0.9}


KEPT_ONLY = {True: [False], False: []}
HARMED = evaluated([240, 0.94, 0.9, 0.5], [477, 0.25, 0.8, 0.4])
FARTHER = ("1-Styled-Paint lies farther from real pairs than 1-Paint (FD 477 instead of 240; precision 0.25 "
           "instead of 0.94). ")


@pytest.mark.parametrize(("means", "more", "words"), [
    (planted(0.483, 0.343), {}, r"Networks that were trained on one kind alone learned less from "
     r"1-Styled-Paint, too \(chapter 6, styled minus unstyled: -0\.\d+ \S+ \S+ in polyp Dice\), so the "
     r"unstyled ones, 1-Paint, are the better choice\."),
    (planted(0.26, 0.53), {}, r"Yet networks that were trained on one kind alone learned more from "
     r"1-Styled-Paint \(.*"),
    (planted(0.483, 0.483), {}, r"Networks learned the same from both \(.*\), so styling was not needed\."),
    (planted(0.483, 0.473), {"noise": 0.2}, r"From which of the two networks learn more is undecided \(.*"),
    (planted(0.26, 0.53), {"images": 12},
     r"There is too little data to say from which of the two networks learn more\."),
    (planted(0.26, 0.53), {"complete": False},
     r"Whether networks learn more from them than from 1-Paint, chapter 6 says once it is made\."),
    ({"1-Paint-3": 0.5, "1-Styled-Paint-1": 0.6}, {},
     r"Whether networks learn more from them than from 1-Paint, chapter 6 has not compared\."),
    (None, {}, r"Whether networks learn more from them than from 1-Paint, chapter 6 says once it is made\."),
], ids=["less", "more", "the same", "undecided", "few images", "unfinished",
        "no common number", "no chapter 6"])
def test_that_styling_moved_pairs_away_is_told_with_what_networks_learned(
        means: dict[str, float] | None, more: dict, words: str) -> None:
    run = run_of(HARMED, means, **more)
    told, = realism.lines(run)
    assert told.startswith(FARTHER)
    assert re.fullmatch(words, told.removeprefix(FARTHER)), told


@pytest.mark.parametrize(("tried", "words"), [
    (("Paste", "1-Styled-Paint"),
     " Chapter 7 did not try 1-Paint: `-p augment.types '[usual, unstyled]'` adds it."),
    (("Paste", "1-Paint", "1-Styled-Paint"), "once it is made."), ((), "once it is made.")])
def test_how_to_try_the_unstyled_pairs_is_told_where_they_were_not(tried: tuple[str, ...],
                                                                    words: str) -> None:
    told, = realism.lines(run_of(HARMED, tried=tried))
    assert told.endswith(words)
    assert ("did not try" in told) == ("did not try" in words)


@pytest.mark.parametrize("after", [[250, 0.25, 1, 1], [477, 0.95, 1, 1], [120, 0.5, 1, 1]],
                         ids=["hardly farther", "more precise", "nearer"])
def test_styling_that_does_no_harm_is_not_accused(after: list[float]) -> None:
    result = evaluated([240, 0.94, 1, 1], after)
    assert not list(realism.moved(result))


def test_pairs_that_plainly_do_not_look_real_are_named() -> None:
    result = evaluated([240, 0.9, 0.9, 0.5], [477, 0.1, 0.02, 0.1], [180, 0.7, 1.05, 0.49])
    told, = realism.unlike(result)
    assert told == ("Painted and styled pairs (1-Styled-Paint) do not look like real ones by the figures of "
                    "chapter 5: how densely real pairs surround them (density) is 0.02 and the share of real "
                    "pairs that have one nearby (coverage) is 0.10, where other real pairs reach 1.05 and "
                    "0.49.")
    assert not list(realism.unlike(HARMED)), "nothing is held out, so nothing is known"


@pytest.mark.parametrize("after", [[477, 0.1, 0.02, 0.1], [477, 0.1, 0.8, 0.4]], ids=["unlike", "like"])
def test_pairs_that_are_not_plainly_unlike_real_ones_have_a_sentence_as_well(after: list[float]) -> None:
    result = evaluated([240, 0.9, 0.9, 0.5], after, [180, 0.7, 1.05, 0.49])
    pasted = result.equal[result.equal["data type"] == BEFORE.name].assign(**{"data type": "Paste"})
    result.equal = pd.concat([result.equal, pasted])
    result.types = [REAL, DataType("Paste"), BEFORE, AFTER]
    told, = realism.others(result)
    found = "By the figures of chapter 5, pasted pairs (Paste, density 0.90, coverage 0.50, FD 240)"
    assert told.startswith(f"{found}{', ' if after[2] > 0.1 else ' and '}painted pairs (1-Paint, density "
                           "0.90, coverage 0.50, FD 240)")
    assert "are not plainly unlike real ones (other real pairs: density 1.05, coverage 0.49, FD 180" in told
    assert told.endswith(realism.KEPT)
    every = not list(realism.unlike(result))
    assert ("and painted and styled pairs (1-Styled-Paint, density 0.80" in told) == every
    assert ("density: how densely" in told) == every, "else the sentence before has told"
    assert realism.told(result).data.endswith(told.replace("of chapter 5", "above"))
    assert "of chapter 5" not in realism.told(result).data, "which is the page itself"
    assert told in list(realism.lines(run_of(result)))
    result.types = [REAL, AFTER]
    assert KEPT_ONLY[every] == [realism.KEPT in one for one in realism.others(result)], "all was painted anew"
    assert not list(realism.others(HARMED)), "nothing is held out, so nothing is known"


def test_a_border_that_became_more_visible_is_told() -> None:
    table = pd.DataFrame({"seam before": [11.2, 11.2, 11.21], "seam after": [17.0, 9.0, 11.24]},
                         index=["1-Styled-Paint", "Full-Styled-Paint", "2-Styled-Paint"])
    told, = realism.seams(SimpleNamespace(table=table))
    assert "in 1-Styled-Paint: the contrast there rose from 11.2 to 17.0 grey levels." in told


def test_a_page_has_a_paragraph_only_where_there_is_something_to_say() -> None:
    page = realism.told(HARMED).data
    assert page == (f"**{FARTHER}Whether networks learn more from them all the same, the first page says.**")
    assert realism.told(evaluated([240, 0.94, 1, 1], [120, 0.5, 1, 1])) is None
    assert not list(realism.lines(SimpleNamespace(finished=lambda name: None)))
