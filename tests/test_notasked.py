"""Claims that a run's parameters do not ask for are told apart from those it has too little data on."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up import changed, values

from diffusegen_core.config.params import Params
from diffusegen_core.report import claims, notasked, paperclaims, rule, verdict_tables
from diffusegen_core.report.paperclaims import (
    CLUSTERING,
    COMPUTE,
    EKES,
    FADES,
    FEWER,
    FILTERING,
    GROWS,
    NEARER,
    PARTLY,
    PASTING,
    SMALL,
    STYLING,
    STYLING_FULL,
    SYNTHETIC,
    TRANSFER,
    VARIED,
)
from diffusegen_core.report.rule import Verdict

EVERY = set(claims.ORDER) - {FEWER}  # which takes several runs


@pytest.fixture
def whole(tmp_path: Path) -> Params:
    """Parameters that ask for every claim."""
    return values(tmp_path / "run", data={"count": 160}, gan={"source": "phantom"}, train={"full_images": 9},
                  inpaint={"sources": None, "baselines": ["Paste"]}, filter={"folds": 2},
                  segment={"cvc": "a", "polypgen": "b"}, augment={"sizes": [16, 128]})


def test_every_claim_has_parameters_that_ask_for_it(whole: Params) -> None:
    assert {*notasked.ASKED_BY, VARIED} == set(claims.ORDER)
    assert notasked.asked(whole, 160) == EVERY
    assert notasked.asked(whole, None) >= EVERY, "the number of pairs is not known"
    assert notasked.asked(whole, 5) >= EVERY, "chapter 7 refuses sets of more"


@pytest.mark.parametrize(("sections", "gone"), [
    ({"gan": {"source": None}}, {SYNTHETIC, TRANSFER, PARTLY, NEARER, COMPUTE}),
    ({"train": {"full_images": None}}, {STYLING_FULL, CLUSTERING}),
    ({"inpaint": {"baselines": None}}, {PASTING}), ({"filter": {"folds": None}}, {FILTERING}),
    ({"segment": {"cvc": None, "polypgen": None}}, {TRANSFER, EKES}), ({"segment": {"cvc": None}}, set()),
    ({"segment": {"samples": [2]}}, {GROWS}), ({"augment": {"sizes": [128]}}, {SMALL, FADES}),
    ({"augment": {"sizes": [16]}}, {FADES, EKES}),
    ({"segment": {"types": ["Real", "2-Diff"]}},
     {SYNTHETIC, TRANSFER, STYLING, STYLING_FULL, CLUSTERING, GROWS}),
    ({"augment": {"types": ["GAN"]}}, {SMALL, FADES, EKES, PARTLY})])
def test_what_parameters_leave_out_is_not_asked_for(whole: Params, sections: dict, gone: set) -> None:
    assert EVERY - notasked.asked(changed(whole, **sections), 160) == gone


def test_they_are_folded_below_the_others_but_for_those_that_have_numbers(whole: Params) -> None:
    p = changed(whole, gan={"source": None})
    found = [Verdict(claim, "a against b", "here") for claim in claims.ORDER if claim != FEWER]
    run = SimpleNamespace(params=p, finished={"data": range(160)}.get, models=SimpleNamespace(caveat=""),
                          gan=None)
    table = verdict_tables.overall(run, found)
    gone = [SYNTHETIC, TRANSFER, PARTLY, NEARER, COMPUTE]
    assert table.others.frame["claim"].tolist() == [claim.words for claim in gone]
    assert set(table.others.frame["what asks for it"]) == {
        "a GAN: gan.source", "a GAN: gan.source; test sets of other hospitals: segment.cvc, segment.polypgen"}
    assert not set(table.frame["claim"]) & {claim.words for claim in gone}
    assert set(table.frame["verdict on this run"]) == {rule.TOO_LITTLE}
    assert len(verdict_tables.verdicts(run, found).frame) == len(found) - len(gone)
    for text in (table._repr_markdown_(), table._repr_html_()):
        assert text.index(paperclaims.STYLING.words) < text.index("Not asked for in this run") < text.index(
            "gan.source") < text.index("The paper's values")
    older = [Verdict(SYNTHETIC, "a against b", "here", difference=0.1), *found[1:]]
    assert SYNTHETIC in {one.claim for one in notasked.split(run, older)[0]}
