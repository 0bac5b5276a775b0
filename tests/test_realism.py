"""What a run's own measures say against its painted pairs: a rule, told on the front page and in chapters."""

from types import SimpleNamespace

import pandas as pd
import pytest

from diffusegen_core.chapters.members import HELD_OUT
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


def learned(before: float, after: float, status: str = "ok") -> SimpleNamespace:
    """Chapter 6 with these means of Dice, at three pairs a source; other rows have another. `status` is that
    of one of the networks that were trained on styled pairs."""
    rows = [{"test_set": name, "data_type": kind.name, "samples": samples, "dice": value if told else 0.9}
            for kind, value in ((BEFORE, before), (AFTER, after))
            for name, samples, told in (("Held out", 3, True), ("Held out", 1, False),
                                        ("PolypGen", 3, False))]
    runs = pd.DataFrame({"data_type": [BEFORE.name, AFTER.name, AFTER.name, AFTER.name],
                         "samples": [3, 3, 3, 1], "status": ["ok", "ok", status, "to do"]})
    return SimpleNamespace(images=pd.DataFrame(rows), runs=runs)


HARMED = evaluated([240, 0.94, 0.9, 0.5], [477, 0.25, 0.8, 0.4])


def test_that_styling_moved_pairs_away_is_told_with_what_networks_learned() -> None:
    words = ("1-Styled-Paint lies farther from real pairs than 1-Paint (FD 477 instead of 240; precision "
             "0.25 instead of 0.94): ")
    alone, = realism.moved(HARMED)
    assert alone == (f"{words}unless chapter 6 shows that networks learn more from the styled ones, the "
                     "unstyled ones, 1-Paint, are the better choice.")
    worse, = realism.moved(HARMED, learned(0.483, 0.343))
    assert worse == (f"{words}networks that were trained on them alone learned no more either (Dice 0.483 "
                     "before, 0.343 after), so the unstyled ones, 1-Paint, are the better choice.")
    better, = realism.moved(HARMED, learned(0.26, 0.53))
    assert better == (f"{words}yet networks that were trained on them alone reached a higher mean (Dice "
                      "0.260 before, 0.530 after); chapter 8 says whether that may be chance.")
    hardly, = realism.moved(HARMED, learned(0.4830, 0.4834))
    assert "them alone hardly learned more (Dice 0.483 before, 0.483 after), so the unstyled ones" in hardly
    unfinished, = realism.moved(HARMED, learned(0.26, 0.53, status="to do"))
    assert unfinished == alone
    failed, = realism.moved(HARMED, learned(0.26, 0.53, status="failed: no memory"))
    assert failed == better


@pytest.mark.parametrize("after", [[250, 0.25, 1, 1], [477, 0.95, 1, 1], [120, 0.5, 1, 1]],
                         ids=["hardly farther", "more precise", "nearer"])
def test_styling_that_does_no_harm_is_not_accused(after: list[float]) -> None:
    assert not list(realism.moved(evaluated([240, 0.94, 1, 1], after)))


def test_pairs_that_plainly_do_not_look_real_are_named() -> None:
    result = evaluated([240, 0.9, 0.9, 0.5], [477, 0.1, 0.02, 0.1], [180, 0.7, 1.05, 0.49])
    told, = realism.unlike(result)
    assert told == ("Painted and styled pairs (1-Styled-Paint) do not look like real ones by the figures of "
                    "chapter 5: density 0.02 instead of 1.05 and coverage 0.10 instead of 0.49, which other "
                    "real pairs reach.")
    assert not list(realism.unlike(HARMED)), "nothing is held out, so nothing is known"


def test_a_border_that_became_more_visible_is_told() -> None:
    table = pd.DataFrame({"seam before": [11.2, 11.2, 11.21], "seam after": [17.0, 9.0, 11.24]},
                         index=["1-Styled-Paint", "Full-Styled-Paint", "2-Styled-Paint"])
    told, = realism.seams(SimpleNamespace(table=table))
    assert "in 1-Styled-Paint: the contrast there rose from 11.2 to 17.0 grey levels." in told


def test_a_page_has_a_paragraph_only_where_there_is_something_to_say() -> None:
    run = SimpleNamespace(finished={"evaluate": HARMED}.get)
    assert realism.told(run).data.startswith("**1-Styled-Paint lies farther")
    assert realism.told(SimpleNamespace(finished=lambda name: None)) is None
