"""What a run's own measures say against its painted pairs: a rule, told on the front page and in chapters."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_claims import results

from diffusegen_core.chapters import members
from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.config import params
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.report import realism, style_tables

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
           images: int = 60, noise: float = 0.02, tried: tuple[str, ...] = (),
           style: SimpleNamespace | None = None) -> SimpleNamespace:
    """A run with this result of chapter 5, planted means of chapter 6 as in `results`, and a chapter 7 that
    tried these types."""
    rows = results(means or {}, tests=("HyperKvasir", "PolypGen"), images=images, noise=noise)
    tests = [SimpleNamespace(name=name, groups=None) for name in rows["test_set"].unique()]
    made = {"evaluate": result, **({"style": style} if style else {})}
    if means:
        made["segment"] = SimpleNamespace(images=rows, tests=tests, complete=complete)
    if tried:
        made["augment"] = SimpleNamespace(runs=pd.DataFrame({"data_type": ["Real", *tried, *tried]}))
    return SimpleNamespace(params=params.validate({}), finished=made.get, evaluated=result)


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
    assert realism.told(run_of(result)).data.endswith(told.replace("of chapter 5", "above"))
    assert "of chapter 5" not in realism.told(run_of(result)).data, "which is the page itself"
    assert told in list(realism.lines(run_of(result)))
    result.types = [REAL, AFTER]
    assert KEPT_ONLY[every] == [realism.KEPT in one for one in realism.others(result)], "all was painted anew"
    assert not list(realism.others(HARMED)), "nothing is held out, so nothing is known"


def styled_from(before: float, after: float) -> SimpleNamespace:
    """Chapter 4 with these mean contrasts at the borders of one styled type."""
    manifest = pd.DataFrame({"seam_before": [before - 1, before + 1], "seam_after": [after - 1, after + 1]})
    return SimpleNamespace(sets={AFTER: SimpleNamespace(manifest=manifest, data_type=AFTER)})


SEAM = ("Styling made the border of the filled region more visible in 1-Styled-Paint: the contrast there "
        "rose from 11.2 to 17.0 grey levels")


@pytest.mark.parametrize(("before", "after", "real", "told"), [
    (11.2, 17.0, 12.04, f"{SEAM}; the real sources have 12.0 at the same place."),
    (11.2, 17.0, float("nan"), f"{SEAM}."), (11.2, 9.0, 5.0, ""), (11.21, 11.24, 5.0, ""),
    (11.2, 17.0, 16.0, "")], ids=["more", "no picture is known", "less", "hardly more", "as real pictures"])
def test_a_border_that_became_more_visible_than_real_pictures_are_is_told(
        before: float, after: float, real: float, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_tables, "natural", lambda run, one: real)
    run = run_of(HARMED, style=styled_from(before, after))
    assert list(realism.seams(run)) == [(AFTER, told)] * bool(told)
    assert (realism.styled(run).data if told else realism.styled(run)) == (f"**{told}**" if told else None)


def test_what_speaks_against_objects_is_part_of_one_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_tables, "natural", lambda run, one: 12.04)
    result = evaluated([240, 0.9, 0.9, 0.5], [250, 0.9, 0.8, 0.4], [180, 0.7, 1.05, 0.49])
    run = run_of(result, style=styled_from(11.2, 17.0))
    fine, off = realism.lines(run)
    assert "1-Paint" in fine
    assert "1-Styled-Paint" not in fine, "which is not said to be like real ones"
    assert off.startswith("Painted and styled pairs (1-Styled-Paint, density 0.80, coverage 0.40, FD 250) "
                          "differ from real ones where they were painted, though not plainly as whole pictur")
    assert off.endswith(f"(other real pairs: density 1.05, coverage 0.49, FD 180). {SEAM}; the real sources "
                        "have 12.0 at the same place.")
    assert off.replace("of chapter 5", "above") in realism.told(run).data, "chapter 5 says it as well"
    unlike = evaluated([240, 0.9, 0.9, 0.5], [250, 0.9, 0.02, 0.1], [180, 0.7, 1.05, 0.49])
    lines = list(realism.lines(run_of(unlike, style=styled_from(11.2, 17.0))))
    assert lines[0].startswith("Painted and styled pairs (1-Styled-Paint) do not look like real ones")
    assert lines[-1].startswith(SEAM), "beside what the figures say, which is worse"
    alone = SimpleNamespace(params=run.params, finished={"style": styled_from(11.2, 17.0)}.get)
    assert [line[:len(SEAM)] for line in realism.lines(alone)] == [SEAM], "before chapter 5 is made"


def test_the_contrast_of_real_pictures_is_that_at_the_same_border(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((2, 3, 8, 8), np.uint8)
    images[0, :, :, 4:], images[1, :, :, 4:] = 100, 20
    filled = np.zeros((8, 8), np.uint8)
    filled[:, 4:] = 1
    monkeypatch.setattr(members, "of_set", lambda *given: SimpleNamespace(
        sources=np.array([0, 1, -1, 0]), regions=np.stack([filled] * 4)))
    run = SimpleNamespace(pairs=SimpleNamespace(images=images), params=params.validate({}))
    rows = pd.DataFrame({"source": ["a", "b", "", "a"]})

    class Made(SimpleNamespace):
        def __len__(self) -> int:
            return 4

    one = Made(manifest=rows, data_type=AFTER, folder=None)
    assert style_tables.natural(run, one) == pytest.approx((100 + 20 + 100) / 3)
    one.manifest = rows.assign(picture=["a", "c", "", "d"])
    assert style_tables.natural(run, one) == 100, "of the pictures that were painted into"
    one.manifest = rows.assign(picture="d")
    assert np.isnan(style_tables.natural(run, one))


def test_a_page_has_a_paragraph_only_where_there_is_something_to_say() -> None:
    page = realism.told(run_of(HARMED)).data
    assert page == (f"**{FARTHER}Whether networks learn more from them all the same, the first page says.**")
    assert realism.told(run_of(evaluated([240, 0.94, 1, 1], [120, 0.5, 1, 1]))) is None
    assert not list(realism.lines(SimpleNamespace(finished=lambda name: None)))
