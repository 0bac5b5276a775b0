"""The verdicts: planted results get the verdict that they call for, and what is absent is said."""

from dataclasses import replace
from math import isnan

import numpy as np
import pandas as pd
import pytest

from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report import claims
from diffusegen_core.report.claims import NOT_SUPPORTED, SUPPORTED, TOO_LITTLE

TESTS = ("HyperKvasir", "CVC-ClinicDB", "PolypGen")


def results(means: dict[str, float], chapter: str = "segment", seeds: int = 3, images: int = 60,
            tests: tuple[str, ...] = TESTS, noise: float = 0.02) -> pd.DataFrame:
    """Rows of data types "TYPE-SAMPLES" or "TYPE/SIZE/RATIO" with planted means of Dice; shared images."""
    rng, rows = np.random.default_rng(0), []
    for test_set in tests:
        hard = rng.normal(0, 0.1, images)
        for name, mean in means.items():
            if chapter == "segment":
                data_type, _, samples = name.rpartition("-")
                fields = {"data_type": data_type, "samples": int(samples)}
            else:
                data_type, size, ratio = name.split("/")
                fields = {"data_type": data_type, "size": int(size), "ratio": int(ratio) if ratio else None}
            rows += [{"chapter": chapter, "seed": seed, "test_set": test_set, "image": str(i), "dice": value,
                      **fields} for seed in range(seeds)
                     for i, value in enumerate(mean + hard + rng.normal(0, noise, images))]
    columns = ["chapter", "data_type", "size", "samples", "ratio", "seed", "test_set", "image", "dice"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(["size", "samples", "ratio"], "Int64"))


def judged(frame: pd.DataFrame) -> dict[tuple[str, str], claims.Verdict]:
    """By claim and test set, of several numbers of pairs the largest."""
    return {(v.claim, v.test_set): v for v in claims.judge(frame, 300, 0)}


def compared(frame: pd.DataFrame, claim: str) -> list[tuple[str, str]]:
    return [(v.comparison, v.test_set) for v in claims.judge(frame, 300, 0) if v.claim == claim]


GOOD = {"20-Styled-Diff-3": 0.8, "20-Diff-3": 0.7, "GAN-3": 0.65}


def test_planted_gains_support_every_claim_with_the_papers_difference_beside():
    found = judged(results(GOOD))
    small = found.pop((claims.SMALL, "HyperKvasir"))
    assert (small.verdict, small.reason) == (TOO_LITTLE, "The results have no small set.")
    pasting = found.pop((claims.PASTING, "HyperKvasir"))
    assert (pasting.verdict, pasting.reason) == (TOO_LITTLE, "The results have no Paste.")
    assert {v.verdict for v in found.values()} == {SUPPORTED}
    synthetic = found[claims.SYNTHETIC, "HyperKvasir"]
    assert synthetic.comparison == "20-Styled-Diff-3 against GAN-3"
    assert synthetic.difference == pytest.approx(0.15, abs=0.01)
    assert synthetic.difference == pytest.approx(synthetic.dice[0] - synthetic.dice[1])
    assert 0 < synthetic.low < synthetic.difference < synthetic.high
    assert (synthetic.images, synthetic.seeds) == (60, 3)
    published = {key: round(v.published, 4) for key, v in found.items()}
    assert published == {(claims.SYNTHETIC, "HyperKvasir"): 0.1082, (claims.STYLING, "HyperKvasir"): 0.1526,
                         (claims.STYLING, "CVC-ClinicDB"): 0.0414, (claims.STYLING, "PolypGen"): 0.1059,
                         (claims.TRANSFER, "CVC-ClinicDB"): 0.1804, (claims.TRANSFER, "PolypGen"): 0.0842}
    assert set(claims.overall(list(found.values())).values()) == {SUPPORTED}


def test_every_number_of_pairs_is_compared_on_every_test_set_of_the_claim():
    frame = results({**GOOD, "20-Styled-Diff-1": 0.5, "20-Diff-1": 0.4, "GAN-1": 0.3, "GAN-2": 0.9})
    names = [f"20-Styled-Diff-{n} against GAN-{n}" for n in (1, 3)]
    assert compared(frame, claims.SYNTHETIC) == [(name, "HyperKvasir") for name in names]
    assert compared(frame, claims.TRANSFER) == [(name, test) for test in TESTS[1:] for name in names]
    styling = [f"20-Styled-Diff-{n} against 20-Diff-{n}" for n in (1, 3)]
    assert compared(frame, claims.STYLING) == [(name, test) for test in TESTS for name in styling]
    without = results({**GOOD, "20-Styled-Diff-1": 0.5, "GAN-1": 0.3}, tests=TESTS[:2])
    assert [test for _, test in compared(without, claims.STYLING)] == list(TESTS[:2])
    assert compared(without, claims.TRANSFER) == [*((name, TESTS[1]) for name in names), (names[1], TESTS[2])]


def test_a_claim_fails_with_the_number_of_pairs_or_the_test_set_at_which_it_fails():
    mixed = results({**GOOD, "20-Styled-Diff-1": 0.5, "20-Diff-1": 0.4, "GAN-1": 0.9})
    found = [v for v in claims.judge(mixed, 300, 0) if v.claim == claims.SYNTHETIC]
    assert [v.verdict for v in found] == [NOT_SUPPORTED, SUPPORTED]
    assert found[0].reason == "The interval lies below 0: the reverse of the claim."
    assert found[0].published == pytest.approx(0.7444 - 0.6553)
    abroad = results(GOOD)
    abroad.loc[(abroad["test_set"] == "PolypGen") & (abroad["data_type"] == "20-Diff"), "dice"] += 0.4
    for frame, failing in ((mixed, {claims.SYNTHETIC, claims.TRANSFER}), (abroad, {claims.STYLING})):
        overall = claims.overall(claims.judge(frame, 300, 0))
        assert {claim for claim, verdict in overall.items() if verdict == NOT_SUPPORTED} == failing


def test_where_both_have_no_number_in_common_one_verdict_says_so():
    frame = results({"4-Styled-Diff-1": 0.5, "4-Styled-Diff-2": 0.8, "GAN-3": 0.9})
    found = [v for v in claims.judge(frame, 300, 0) if v.claim == claims.SYNTHETIC]
    assert [(v.comparison, v.verdict, v.reason) for v in found] == [
        ("4-Styled-Diff-3 against GAN-3", TOO_LITTLE, "The results have no 4-Styled-Diff-3.")]


def test_types_of_the_full_model_are_not_taken_for_those_of_clusters():
    found = judged(results({"Full-Styled-Diff-1": 0.9, "Full-Diff-1": 0.2, "GAN-1": 0.2}))
    assert found[claims.STYLING, "HyperKvasir"].reason == "The results have no Styled-Diff-1 and no Diff-1."


def test_equal_types_refute_a_claim_only_where_the_data_are_enough():
    same = {"20-Styled-Diff-3": 0.7, "GAN-3": 0.7}
    precise = judged(results(same, seeds=5, images=300, noise=0.01))[claims.SYNTHETIC, "HyperKvasir"]
    assert precise.verdict == NOT_SUPPORTED
    assert precise.reason == "The interval lies below 0.01."
    vague = judged(results(same, seeds=3, images=30, noise=0.3))[claims.SYNTHETIC, "HyperKvasir"]
    assert vague.low < 0 < claims.SMALLEST < vague.high
    assert vague.verdict == TOO_LITTLE


@pytest.mark.parametrize(("planted", "says"), [
    ({"seeds": 1}, "Seeds in common: 1, "),
    ({"images": 12}, "Test images in common: 12, "),
    ({"tests": ("CVC-ClinicDB",)}, "The results have no test set HyperKvasir.")])
def test_too_little_is_too_little_however_large_the_gain(planted: dict, says: str):
    found = judged(results(GOOD, **planted))[claims.SYNTHETIC, "HyperKvasir"]
    assert found.verdict == TOO_LITTLE
    assert found.reason.startswith(says)


def test_seeds_that_the_other_type_failed_do_not_count():
    frame = results(GOOD)
    frame = frame[(frame["data_type"] != "GAN") | (frame["seed"] == 1)]
    found = judged(frame)[claims.SYNTHETIC, "HyperKvasir"]
    assert (found.verdict, found.seeds) == (TOO_LITTLE, 1)


def test_networks_that_learned_nothing_say_nothing():
    found = judged(results({"20-Styled-Diff-3": 0.02, "GAN-3": 0.0}))[claims.SYNTHETIC, "HyperKvasir"]
    assert (found.verdict, found.reason[:28]) == (TOO_LITTLE, "Neither network segments: th")


def test_an_absent_test_set_or_type_is_named_and_leaves_the_claim_open():
    found = judged(results({"20-Styled-Diff-3": 0.8, "GAN-3": 0.6}, tests=("Phantom", "PolypGen")))
    assert found[claims.SYNTHETIC, "Phantom"].verdict == SUPPORTED
    assert found[claims.SYNTHETIC, "Phantom"].published == pytest.approx(0.1082)
    styling = found[claims.STYLING, "Phantom"]
    assert (styling.verdict, styling.reason) == (TOO_LITTLE, "The results have no Diff-3.")
    assert isnan(styling.difference)
    assert found[claims.TRANSFER, "PolypGen"].verdict == SUPPORTED
    assert found[claims.TRANSFER, "CVC-ClinicDB"].reason == "The results have no test set CVC-ClinicDB."
    assert claims.overall(list(found.values())) == {
        claims.SYNTHETIC: SUPPORTED, claims.STYLING: TOO_LITTLE, claims.TRANSFER: TOO_LITTLE,
        claims.SMALL: TOO_LITTLE, claims.PASTING: TOO_LITTLE}


def test_without_any_results_every_claim_is_open():
    found = claims.judge(results({}), 300, 0)
    assert [v.verdict for v in found] == [TOO_LITTLE] * 6
    assert all("have no" in v.reason for v in found)


@pytest.mark.parametrize(("chapter", "reasons"), [
    ("segment", [*["Not there yet: run chapter 6."] * 4, "The interval lies above 0.",
                 "Not there yet: run chapter 6."]),
    ("augment", [*["The results have no test set HyperKvasir."] * 2,
                 "The results have no test set CVC-ClinicDB.", "The results have no test set PolypGen.",
                 "The interval lies above 0. Some results are not there yet: run chapter 7.",
                 "The results have no Paste."])])
def test_a_chapter_that_has_still_to_be_run_is_named(chapter: str, reasons: list[str]):
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/3": 0.6}, "augment", tests=TESTS[:1])
    assert [v.reason for v in claims.judge(small, 300, 0, [chapter])] == reasons


def test_small_sets_are_judged_at_the_largest_ratio_for_each_size():
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/1": 0.3, "20-Styled-Diff/16/3": 0.6, "GAN/16/3": 0.9,
                     "Real/24/": 0.7, "20-Styled-Diff/24/3": 0.6}, "augment")
    found = [v for v in claims.judge(pd.concat([results(GOOD), small]), 300, 0) if v.claim == claims.SMALL]
    assert [v.verdict for v in found] == [SUPPORTED, NOT_SUPPORTED]
    assert found[0].comparison == "20-Styled-Diff (r = 3) against Real, 16 real pairs"
    assert found[0].published == pytest.approx(0.4529 - 0.3944)
    assert isnan(found[1].published)
    assert claims.overall(found) == {claims.SMALL: NOT_SUPPORTED}


@pytest.mark.parametrize(("data_type", "ratio", "published"), [
    ("10-Styled-Diff", 3, 0.5134 - 0.3944),  # the paper's own clusters
    ("7-Styled-Diff", 3, 0.4529 - 0.3944),   # those it has not stand beside 20
    ("20-Styled-Diff", 4, None)])
def test_the_papers_gain_of_small_sets_is_that_of_the_same_clusters_and_r(data_type, ratio, published):
    small = results({"Real/16/": 0.4, f"{data_type}/16/{ratio}": 0.6}, "augment")
    found, = (v for v in claims.judge(small, 300, 0) if v.claim == claims.SMALL)
    assert isnan(found.published) if published is None else found.published == pytest.approx(published)


def of_pasting(*frames: pd.DataFrame) -> list[claims.Verdict]:
    return [v for v in claims.judge(pd.concat(frames), 300, 0) if v.claim == claims.PASTING]


def test_the_best_painted_type_is_compared_with_paste_at_equal_numbers():
    alone = results({**GOOD, "Full-Diff-3": 0.75, "Full-Diff-1": 0.4, "20-Diff-2": 0.9, "Paste-3": 0.7,
                     "Paste-1": 0.6, "Paste-Poisson-3": 0.99}, tests=TESTS[:2])
    found = of_pasting(alone)
    assert [(v.comparison, v.verdict) for v in found] == [
        ("Full-Diff-1 against Paste-1", NOT_SUPPORTED), ("20-Styled-Diff-3 against Paste-3", SUPPORTED)]
    assert {v.test_set for v in found} == {"HyperKvasir"}
    assert all(isnan(v.published) for v in found)
    assert found[1].difference == pytest.approx(0.1, abs=0.01)
    assert claims.overall(found) == {claims.PASTING: NOT_SUPPORTED}


def test_in_small_sets_it_is_compared_with_paste_at_the_largest_r_that_both_have():
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/1": 0.3, "20-Styled-Diff/16/2": 0.6,
                     "20-Diff/16/2": 0.5, "Paste/16/1": 0.9, "Paste/16/2": 0.5, "Paste/16/3": 0.9,
                     "20-Styled-Diff/32/3": 0.9, "Paste/32/1": 0.5}, "augment")
    found = of_pasting(small)
    assert [(v.comparison, v.verdict) for v in found] == [
        ("20-Styled-Diff (r = 2) against Paste (r = 2), 16 real pairs", SUPPORTED)]
    assert found[0].chapter == "augment"
    both = of_pasting(results({**GOOD, "Paste-3": 0.7}), small)
    assert [v.chapter for v in both] == ["segment", "augment"]
    assert of_pasting(results({"Paste-3": 0.8, "20-Diff-3": 0.9}, seeds=2))[0].verdict == TOO_LITTLE


@pytest.mark.parametrize(("means", "reason"), [
    ({"Paste-3": 0.5}, "The results have no painted type."),
    ({"GAN-3": 0.5, "Paste-Poisson-3": 0.5}, "The results have no painted type and no Paste."),
    ({"20-Diff-1": 0.5, "Paste-3": 0.5}, "The results have no numbers of pairs that both have.")])
def test_where_painting_and_pasting_cannot_be_compared_it_is_said_why(means: dict, reason: str):
    assert [(v.verdict, v.reason) for v in of_pasting(results(means))] == [(TOO_LITTLE, reason)]


@pytest.mark.parametrize(("low", "high", "verdict"), [
    (0.001, 0.2, SUPPORTED), (0.001, 0.008, SUPPORTED), (0.0, 0.2, TOO_LITTLE), (-0.1, 0.01, TOO_LITTLE),
    (-0.1, 0.009, NOT_SUPPORTED), (0.0, 0.0, NOT_SUPPORTED), (-0.2, -0.1, NOT_SUPPORTED)])
def test_the_rule_at_its_borders(low: float, high: float, verdict: str):
    gain = Interval((low + high) / 2, low, high, claims.LEAST_IMAGES, claims.LEAST_SEEDS)
    assert claims.decide(gain, 0.5)[0] == verdict
    for little in (replace(gain, images=19), replace(gain, seeds=1)):
        assert claims.decide(little, 0.5)[0] == TOO_LITTLE
    assert claims.decide(gain, 0.09)[0] == TOO_LITTLE


def test_the_rule_tells_how_comparisons_are_joined():
    assert set(claims.RULE) == {SUPPORTED, NOT_SUPPORTED, TOO_LITTLE}
    several = [replace(claims.judge(results(GOOD), 300, 0)[0], verdict=v) for v in (SUPPORTED, TOO_LITTLE)]
    assert claims.overall(several) == {claims.SYNTHETIC: TOO_LITTLE}
    assert claims.overall(several[:1]) == {claims.SYNTHETIC: SUPPORTED}
    assert "supported if all its comparisons are, not supported if any is not" in claims.SEVERAL


def test_with_fewer_than_three_generators_a_verdict_is_for_these_pairs():
    frame = results(GOOD, seeds=5)
    few, more = (claims.judge(frame.assign(generator=frame["seed"] % count), 300, 0) for count in (2, 3))
    wide = [v.generators for v in few if v.verdict != TOO_LITTLE]
    assert set(wide) <= {2}, "two tell so little that hardly anything is judged"
    known = [v for v in more if v.verdict == SUPPORTED]
    assert known
    assert {v.generators for v in known} == {3}
    assert claims.scope(more) == ""
    assert claims.scope([replace(v, generators=2) for v in known]) == " for these pairs"
    assert claims.scope(judged(frame).values()) == " for these pairs"
    assert claims.scope([v for v in few if v.verdict == TOO_LITTLE]) == ""
