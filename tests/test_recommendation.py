"""What to do, over the answers of the front page: each branch of the rule, and on which set it is."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_claims import results

from diffusegen_core.config import params
from diffusegen_core.data.types import DataType
from diffusegen_core.report import recommendation
from diffusegen_core.report.rule import NO_EFFECT, REFUTED, SUPPORTED, TOO_LITTLE, UNDECIDED, Verdict

PLAIN = params.validate({"augment": {"rule": "add"}})  # polyps
NUMBERS = {SUPPORTED: (0.04, 0.02, 0.06), REFUTED: (-0.04, -0.06, -0.02), NO_EFFECT: (0.0, -0.005, 0.005),
           UNDECIDED: (0.01, -0.05, 0.07), TOO_LITTLE: (0.0, 0.0, 0.0)}
GAIN = "+0.040 \\[+0.020, +0.060\\] in polyp Dice"
LOSS = "-0.040 \\[-0.060, -0.020\\] in polyp Dice"
ALONE = "train on the real pairs alone; "
CHEAP = f"pasting helps ({GAIN}) and costs next to nothing; painting "
BETTER = f"painted pairs help more than pasting ({GAIN} against the real pairs alone, {GAIN} against pasting)"
HELPS = f"painting helps ({GAIN}); "
HERE = "On these data (all 48 real training pairs)"
NONE = f"{ALONE}neither pasting nor painting was shown to help"


def verdict(word: str | None, scope: str = "") -> Verdict | None:
    if word is None:
        return None
    mean, low, high = NUMBERS[word]
    images = 12 if word == TOO_LITTLE else 40
    return Verdict(recommendation.HELP, "a against b", "here", verdict=word, difference=mean, low=low,
                   high=high, images=images, seeds=5, scope=scope, chapter="augment")


def told(pasting: str | None, painting: str | None, better: str | None, size: int = 48) -> str:
    one = map(verdict, (pasting, painting, better))
    return recommendation.words(recommendation.Findings(*one, DataType.parse("2-Styled-Paint")), size, 48,
                                PLAIN)


@pytest.mark.parametrize(("pasting", "painting", "better", "words"), [
    (UNDECIDED, UNDECIDED, UNDECIDED, NONE),
    (NO_EFFECT, UNDECIDED, SUPPORTED, NONE),
    (UNDECIDED, TOO_LITTLE, TOO_LITTLE, NONE),
    (UNDECIDED, REFUTED, REFUTED, f"{NONE}; painting did harm ({LOSS})"),
    (REFUTED, REFUTED, UNDECIDED, f"{NONE}; pasting did harm ({LOSS}); painting did harm ({LOSS})"),
    (None, UNDECIDED, None, f"{ALONE}painting was not shown to help"),
    (UNDECIDED, None, None, f"{ALONE}pasting was not shown to help"),
    (SUPPORTED, UNDECIDED, UNDECIDED, f"{CHEAP}was not shown to do better"),
    (SUPPORTED, SUPPORTED, UNDECIDED, f"{CHEAP}was not shown to do better"),
    (SUPPORTED, UNDECIDED, REFUTED, f"{CHEAP}did worse"),
    (SUPPORTED, SUPPORTED, NO_EFFECT, f"{CHEAP}does no better"),
    (SUPPORTED, None, None, f"{CHEAP}was not tried"),
    (SUPPORTED, SUPPORTED, SUPPORTED, BETTER),
    (UNDECIDED, SUPPORTED, SUPPORTED, BETTER),
    (UNDECIDED, SUPPORTED, UNDECIDED,
     f"{HELPS}it was not shown to do better than pasting, which costs next to nothing"),
    (UNDECIDED, SUPPORTED, NO_EFFECT, f"{HELPS}it does no better than pasting, which costs next to nothing"),
    (UNDECIDED, SUPPORTED, REFUTED, f"{HELPS}it did worse than pasting"),
    (None, SUPPORTED, None, f"{HELPS}pasting was not tried")])
def test_each_branch_of_the_advice(pasting: str | None, painting: str | None, better: str | None,
                                   words: str) -> None:
    assert told(pasting, painting, better) == f"**{HERE}: {words}.**"


def test_where_nothing_can_be_said_the_reason_is() -> None:
    assert told(TOO_LITTLE, TOO_LITTLE, TOO_LITTLE) == (
        "**Too little data to say what helps: a verdict needs 20 images.**")
    assert told(None, TOO_LITTLE, None).startswith("**Too little data")
    assert told(None, None, None) == ""


def test_a_part_of_the_pairs_is_called_so() -> None:
    assert told(UNDECIDED, UNDECIDED, UNDECIDED, size=16) == (
        f"**With 16 of the 48 real pairs: {NONE}.** Training with all 48 was not tried (`augment.sizes`).")


@pytest.mark.parametrize(("values", "more"), [
    ({"rule": "add"}, ""),
    ({"rule": "replace", "alpha": 0.4},
     " In these sets synthetic pairs replace about 40 % of the real ones trained on; adding them to all "
     "of these was not tried (`augment.rule: add`).")])
def test_advice_by_sets_in_which_real_pairs_were_replaced_says_so(values: dict, more: str) -> None:
    one = recommendation.Findings(verdict(UNDECIDED), verdict(UNDECIDED), verdict(UNDECIDED))
    p = params.validate({"augment": values})
    assert recommendation.words(one, 48, 48, p) == f"**{HERE}: {NONE}.**{more}"


def test_few_generators_and_other_painted_pairs_are_named() -> None:
    kind = DataType.parse("2-Filtered-Styled-Paint")
    one = recommendation.Findings(verdict(UNDECIDED), verdict(UNDECIDED), verdict(UNDECIDED),
                                  DataType.parse("2-Styled-Paint"), ((kind, verdict(SUPPORTED)),))
    chance = "Of several kinds of painted pairs that were tried, one may seem to help by chance."
    assert recommendation.words(one, 48, 48, PLAIN) == (
        f"**{HERE}: painting (2-Filtered-Styled-Paint) helps ({GAIN}); neither "
        f"pasting nor painting (2-Styled-Paint) was shown to help.** {chance}")
    vain = replace(one, others=((kind, verdict(UNDECIDED)),))
    assert recommendation.words(vain, 48, 48, PLAIN).endswith(
        f"{ALONE}neither pasting nor painting (2-Styled-Paint, 2-Filtered-Styled-Paint) was shown to help.**")
    harmful = replace(one, others=((kind, verdict(REFUTED)),))
    assert recommendation.words(harmful, 48, 48, PLAIN).endswith(
        f"was shown to help; painting (2-Filtered-Styled-Paint) did harm ({LOSS}).**")
    alone = replace(one, others=((kind, verdict(SUPPORTED, "for these pairs")),))
    assert recommendation.words(alone, 48, 48, PLAIN).endswith(
        f"{chance} Pairs from another training of the generator might do otherwise.")
    few = recommendation.Findings(verdict(TOO_LITTLE), verdict(TOO_LITTLE), verdict(TOO_LITTLE),
                                  DataType.parse("2-Styled-Paint"), ((kind, verdict(SUPPORTED)),))
    assert "painting (2-Filtered-Styled-Paint) helps" in recommendation.words(few, 48, 48, PLAIN)
    cheap = replace(one, pasting=verdict(SUPPORTED))
    assert recommendation.words(cheap, 48, 48, PLAIN).endswith(
        "(2-Styled-Paint) was not shown to do better.** Painted and styled pairs that the filter kept "
        f"(2-Filtered-Styled-Paint) were shown to help. {chance}")
    helping = replace(one, painting=verdict(SUPPORTED, "for these pairs"))
    assert recommendation.words(helping, 48, 48, PLAIN).endswith(
        "which costs next to nothing.** Pairs from another training of the generator might do otherwise.")
    pasted = replace(one, others=(), better=verdict(SUPPORTED, "for these pasted pairs"))
    assert "generator" not in recommendation.words(pasted, 48, 48, PLAIN), "of which there were enough"


def run_of(means: dict[str, float], pairs: int, complete: bool = True) -> SimpleNamespace:
    """A run of planted small sets, "TYPE/SIZE/RATIO"."""
    images = results(means, "augment", tests=("HyperKvasir", "PolypGen"), seeds=5)
    tests = [SimpleNamespace(name=name, groups=None) for name in images["test_set"].unique()]
    made = {"augment": SimpleNamespace(images=images, tests=tests, complete=complete), "data": range(pairs)}
    return SimpleNamespace(params=PLAIN, finished=made.get)


PLANTED = {"Real/16/": 0.4, "Paste/16/3": 0.4, "2-Styled-Paint/16/3": 0.6, "2-Styled-Paint/16/1": 0.2,
           "Real/48/": 0.6, "Paste/48/3": 0.7, "2-Filtered-Styled-Paint/48/3": 0.9,
           "2-Styled-Paint/48/1": 0.9, "2-Styled-Paint/48/3": 0.7}


def test_the_largest_set_its_largest_ratio_and_the_type_of_the_claims_are_told() -> None:
    words = recommendation.of(run_of(PLANTED, 48))
    assert words.startswith("**On these data (all 48 real training pairs): pasting helps (+0.")
    assert "; painting (2-Styled-Paint) " in words, "and neither the filtered ones nor r = 1, which do better"
    small = {name: mean for name, mean in PLANTED.items() if "/16/" in name}
    assert recommendation.of(run_of(small, 48)).startswith(
        "**With 16 of the 48 real pairs: painted pairs help more than pasting (+0.")
    found = recommendation.findings(run_of(PLANTED, 48).finished("augment"), 48, PLAIN)
    assert found.pasting.test_set == "HyperKvasir"
    assert [kind.name for kind, _ in found.others] == ["2-Filtered-Styled-Paint"]


def test_there_is_no_advice_before_chapter_7_is_finished() -> None:
    assert recommendation.of(run_of(PLANTED, 48, complete=False)) == ""
    assert recommendation.of(run_of({}, 48)) == ""
    assert recommendation.of(SimpleNamespace(params=PLAIN, finished=lambda name: None)) == ""
    assert recommendation.of(run_of({"Real/16/": 0.4}, 48)) == "", "nothing was mixed into them"
