"""The verdicts: planted results get the verdict that they call for, and what is absent is said."""

from dataclasses import replace
from math import isnan

import numpy as np
import pandas as pd
import pytest

from diffusegen_core.config.sections import Augment
from diffusegen_core.data import sequences
from diffusegen_core.data.types import DataType
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report import claims, comparisons, naming, rule, verdict_tables
from diffusegen_core.report import paperclaims as paper
from diffusegen_core.report.paperclaims import Claim
from diffusegen_core.report.rule import (
    NO_EFFECT,
    NOT_MADE,
    REFUTED,
    SUPPORTED,
    TOO_LITTLE,
    UNDECIDED,
    Verdict,
)

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
                      "iou": value / 2, **fields} for seed in range(seeds)
                     for i, value in enumerate(mean + hard + rng.normal(0, noise, images))]
    columns = ["chapter", "data_type", "size", "samples", "ratio", "seed", "test_set", "image", "dice",
               "iou"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(["size", "samples", "ratio"], "Int64"))


def judged(frame: pd.DataFrame) -> dict[tuple[Claim, str], Verdict]:
    """By claim and test set, of several numbers of pairs the largest."""
    groups = {test: sequences.grouped(test, sorted(set(rows["image"])))
              for test, rows in frame.groupby("test_set")}
    return {(v.claim, v.test_set): v for v in claims.judge(frame, 300, 0, groups)}


def of_claim(frame: pd.DataFrame, claim: Claim) -> list[Verdict]:
    return [v for v in claims.judge(frame, 300, 0) if v.claim == claim]


def compared(frame: pd.DataFrame, claim: Claim) -> list[tuple[str, str]]:
    return [(v.comparison, v.test_set) for v in of_claim(frame, claim)]


GOOD = {"20-Styled-Diff-3": 0.8, "20-Diff-3": 0.7, "GAN-3": 0.65}


def test_planted_gains_support_every_claim_with_the_papers_difference_beside():
    found = judged(results(GOOD))
    asked = {claim: found[claim, "HyperKvasir"] for claim in (paper.SYNTHETIC, paper.STYLING)}
    asked |= {(claim, test): found[claim, test] for claim in (paper.STYLING, paper.TRANSFER)
              for test in TESTS[1:]}
    assert {v.verdict for v in asked.values()} == {SUPPORTED}
    synthetic = asked[paper.SYNTHETIC]
    assert synthetic.comparison == "20-Styled-Diff-3 against GAN-3"
    assert synthetic.difference == pytest.approx(0.15, abs=0.01)
    assert synthetic.difference == pytest.approx(synthetic.means[0] - synthetic.means[1])
    assert 0 < synthetic.low < synthetic.difference < synthetic.high
    assert (synthetic.images, synthetic.seeds) == (60, 3)
    assert [round(v.published, 4) for v in asked.values()] == [0.1082, 0.1526, 0.0414, 0.1059, 0.1804, 0.0842]
    assert {found[claim, "HyperKvasir"].reason for claim in (paper.SMALL, paper.GROWS, paper.FADES)} == {
        "The results have no small set.",
        "The results have fewer than two numbers of pairs per source of 20-Styled-Diff.",
        "The results have fewer than two sizes of small sets with 20-Styled-Diff at the same r."}


def test_every_number_of_pairs_is_compared_on_every_test_set_of_the_claim():
    frame = results({**GOOD, "20-Styled-Diff-1": 0.5, "20-Diff-1": 0.4, "GAN-1": 0.3, "GAN-2": 0.9})
    names = [f"20-Styled-Diff-{n} against GAN-{n}" for n in (1, 3)]
    assert compared(frame, paper.SYNTHETIC) == [(name, "HyperKvasir") for name in names]
    assert compared(frame, paper.TRANSFER) == [(name, test) for test in TESTS[1:] for name in names]
    styling = [f"20-Styled-Diff-{n} against 20-Diff-{n}" for n in (1, 3)]
    assert compared(frame, paper.STYLING) == [(name, test) for test in TESTS for name in styling]
    growing = "20-Styled-Diff-3 against 20-Styled-Diff-1"
    assert compared(frame, paper.GROWS) == [(growing, test) for test in TESTS]
    without = results({**GOOD, "20-Styled-Diff-1": 0.5, "GAN-1": 0.3}, tests=TESTS[:2])
    assert [test for _, test in compared(without, paper.STYLING)] == list(TESTS[:2])
    assert of_claim(without, paper.TRANSFER)[-1].reason == "The results have no test set PolypGen."


def test_a_claim_fails_with_the_number_of_pairs_or_the_test_set_at_which_it_fails():
    mixed = results({**GOOD, "20-Styled-Diff-1": 0.5, "20-Diff-1": 0.4, "GAN-1": 0.9})
    found = of_claim(mixed, paper.SYNTHETIC)
    assert [v.verdict for v in found] == [REFUTED, SUPPORTED]
    assert found[0].reason == "The interval lies below 0: the reverse of the claim."
    assert found[0].published == pytest.approx(0.7444 - 0.6553)
    abroad = results(GOOD)
    abroad.loc[(abroad["test_set"] == "PolypGen") & (abroad["data_type"] == "20-Diff"), "dice"] += 0.4
    for frame, failing in ((mixed, {paper.SYNTHETIC, paper.TRANSFER}), (abroad, {paper.STYLING})):
        overall = claims.overall(claims.judge(frame, 300, 0))
        assert {claim for claim, verdict in overall.items() if verdict == REFUTED} == failing


def test_where_both_have_no_number_in_common_one_verdict_says_so():
    frame = results({"4-Styled-Diff-1": 0.5, "4-Styled-Diff-2": 0.8, "GAN-3": 0.9})
    assert [(v.comparison, v.verdict, v.reason) for v in of_claim(frame, paper.SYNTHETIC)] == [
        ("4-Styled-Diff-3 against GAN-3", TOO_LITTLE, "The results have no 4-Styled-Diff-3.")]


def test_the_full_model_has_claims_of_its_own():
    frame = results({"20-Styled-Diff-1": 0.7, "Full-Styled-Diff-1": 0.6, "Full-Diff-1": 0.8, "GAN-1": 0.2})
    found = judged(frame)
    assert found[paper.STYLING, "HyperKvasir"].reason == "The results have no 20-Diff-1."
    styling, clustering = (found[claim, "PolypGen"] for claim in (paper.STYLING_FULL, paper.CLUSTERING))
    assert (styling.verdict, styling.comparison) == (REFUTED, "Full-Styled-Diff-1 against Full-Diff-1")
    assert styling.published == pytest.approx(0.4543 - 0.4762)
    assert (clustering.verdict, clustering.comparison) == (
        SUPPORTED, "20-Styled-Diff-1 against Full-Styled-Diff-1")
    assert clustering.published == pytest.approx(0.5669 - 0.4543)
    assert found[paper.SYNTHETIC, "HyperKvasir"].comparison == "20-Styled-Diff-1 against GAN-1"
    without = of_claim(results(GOOD), paper.CLUSTERING)
    assert [v.reason for v in without] == ["The results have no Full-Styled-Diff-3."], "said once"


def test_more_pairs_are_compared_with_fewer():
    found = of_claim(results({"20-Styled-Diff-1": 0.5, "20-Styled-Diff-2": 0.6, "20-Styled-Diff-3": 0.4},
                             tests=TESTS[2:]), paper.GROWS)
    # PolypGen stands in for the run's own test set as well, which is not there.
    assert [(v.comparison, v.verdict) for v in found if v.test_set == "PolypGen"] == [
        ("20-Styled-Diff-2 against 20-Styled-Diff-1", SUPPORTED),
        ("20-Styled-Diff-3 against 20-Styled-Diff-2", REFUTED)]
    assert [round(v.published, 4) for v in found if v.test_set == "PolypGen"] == [-0.0225, 0.0309]


def test_several_cluster_counts_are_judged_each_for_itself_and_against_each_other():
    frame = results({"10-Styled-Diff-3": 0.8, "20-Styled-Diff-3": 0.6, "GAN-3": 0.7, "10-Diff-3": 0.5,
                     "20-Diff-3": 0.6}, tests=TESTS[:1])
    assert [(v.comparison, v.verdict) for v in of_claim(frame, paper.SYNTHETIC)] == [
        ("10-Styled-Diff-3 against GAN-3", SUPPORTED), ("20-Styled-Diff-3 against GAN-3", REFUTED)]
    fewer = of_claim(frame, paper.FEWER)
    assert [(v.comparison, v.verdict) for v in fewer] == [
        ("10-Styled-Diff-3 against 20-Styled-Diff-3", SUPPORTED), ("10-Diff-3 against 20-Diff-3", REFUTED)]
    assert [round(v.published, 4) for v in fewer] == [-0.0148, 0.0609]
    assert not of_claim(results(GOOD), paper.FEWER)


@pytest.mark.parametrize(("clusters", "published"), [
    (10, (0.7894 - 0.7125, 0.7894 - 0.6960)), (20, (0.8042 - 0.6516, 0.8042 - 0.6960)), (2, None)])
def test_the_papers_difference_is_of_the_same_cluster_count_or_empty(clusters: int, published: tuple | None):
    found = judged(results({f"{clusters}-Styled-Diff-3": 0.8, f"{clusters}-Diff-3": 0.7, "GAN-3": 0.6}))
    for claim, value in zip((paper.STYLING, paper.SYNTHETIC), published or (None, None), strict=True):
        told = found[claim, "HyperKvasir"].published
        assert isnan(told) if value is None else told == pytest.approx(value)


def test_styling_with_10_clusters_stands_beside_the_papers_loss():
    found = judged(results({"10-Styled-Diff-2": 0.8, "10-Diff-2": 0.7}))
    assert found[paper.STYLING, "HyperKvasir"].published == pytest.approx(-0.0241)


def test_given_masks_stand_for_those_that_were_drawn_and_have_nothing_published():
    found = judged(results({"20-Styled-Paint-3": 0.8, "20-Paint-3": 0.7, "GAN-3": 0.6}))
    styling = found[paper.STYLING, "HyperKvasir"]
    assert (styling.comparison, styling.verdict) == ("20-Styled-Paint-3 against 20-Paint-3", SUPPORTED)
    assert isnan(styling.published)


def test_equal_types_are_without_effect_only_where_the_data_are_enough():
    same = {"20-Styled-Diff-3": 0.7, "GAN-3": 0.7}
    precise = judged(results(same, seeds=5, images=300, noise=0.01))[paper.SYNTHETIC, "HyperKvasir"]
    assert precise.verdict == NO_EFFECT
    assert precise.reason == "The interval lies within 0.01 of 0."
    vague = judged(results(same, seeds=3, images=30, noise=0.3))[paper.SYNTHETIC, "HyperKvasir"]
    assert vague.low < 0 < rule.SMALLEST < vague.high
    assert vague.verdict == UNDECIDED


@pytest.mark.parametrize(("planted", "says"), [
    ({"seeds": 1}, "Seeds in common: 1, "),
    ({"images": 12}, "Test images in common: 12, "),
    ({"tests": ("CVC-ClinicDB",)}, "The results have no test set HyperKvasir.")])
def test_too_little_is_too_little_however_large_the_gain(planted: dict, says: str):
    found = judged(results(GOOD, **planted))[paper.SYNTHETIC, "HyperKvasir"]
    assert found.verdict == TOO_LITTLE
    assert found.reason.startswith(says)


def test_seeds_that_the_other_type_failed_do_not_count():
    frame = results(GOOD)
    frame = frame[(frame["data_type"] != "GAN") | (frame["seed"] == 1)]
    found = judged(frame)[paper.SYNTHETIC, "HyperKvasir"]
    assert (found.verdict, found.seeds) == (TOO_LITTLE, 1)


def test_networks_that_learned_nothing_say_nothing():
    found = judged(results({"20-Styled-Diff-3": 0.02, "GAN-3": 0.0}))[paper.SYNTHETIC, "HyperKvasir"]
    assert (found.verdict, found.reason[:28]) == (TOO_LITTLE, "Neither network segments: th")


def test_a_repetition_in_which_both_networks_fail_is_none():
    """One seed of a walk's CT networks failed at the lesion, whatever the pairs: two repetitions are left."""
    frame = results(GOOD)
    last = frame["seed"] == frame["seed"].max()
    frame.loc[last, ["dice", "iou"]] *= 0.05
    of_two = judged(frame)[paper.SYNTHETIC, "HyperKvasir"]
    assert (of_two.verdict, of_two.reason) == (
        TOO_LITTLE, "Neither network segments in 1 of 3 repetitions, which leaves fewer than 3.")
    assert rule.needs(of_two).endswith("repetitions (segment.seeds) in which a network segments")
    helped = results(GOOD)
    helped.loc[last & (helped["data_type"] == "GAN-3"), ["dice", "iou"]] *= 0.05
    assert judged(helped)[paper.SYNTHETIC, "HyperKvasir"].verdict != TOO_LITTLE, "one of the two learned"


def test_repetitions_in_which_both_networks_fail_do_not_thin_out_a_gain():
    whole, frame = (results(GOOD, seeds=5) for _ in range(2))
    frame.loc[frame["seed"] > 2, ["dice", "iou"]] *= 0.02
    left, three = (judged(one)[paper.SYNTHETIC, "HyperKvasir"]
                   for one in (frame, whole[whole["seed"] <= 2]))
    assert (left.difference, left.low, left.seeds, left.verdict) == (
        three.difference, three.low, 3, SUPPORTED)
    assert left.reason == ("The interval lies above 0. Left out: 2 of 5 repetitions, in which neither "
                           "network segments.")


def test_an_absent_test_set_or_type_is_named_and_leaves_the_claim_open():
    found = judged(results({"20-Styled-Diff-3": 0.8, "GAN-3": 0.6}, tests=("Phantom", "PolypGen")))
    assert found[paper.SYNTHETIC, "Phantom"].verdict == SUPPORTED
    assert found[paper.SYNTHETIC, "Phantom"].published == pytest.approx(0.1082)
    styling = found[paper.STYLING, "Phantom"]
    assert (styling.verdict, styling.reason) == (TOO_LITTLE, "The results have no 20-Diff-3.")
    assert isnan(styling.difference)
    assert found[paper.TRANSFER, "PolypGen"].verdict == SUPPORTED
    assert found[paper.TRANSFER, "CVC-ClinicDB"].reason == "The results have no test set CVC-ClinicDB."
    overall = claims.overall(list(found.values()))
    assert overall.pop(paper.SYNTHETIC) == SUPPORTED
    assert set(overall.values()) == {TOO_LITTLE}


def test_without_any_results_every_claim_is_open():
    found = claims.judge(results({}), 300, 0)
    assert {v.verdict for v in found} == {TOO_LITTLE}
    assert all("have no" in v.reason or "have fewer" in v.reason for v in found)
    assert len({v.claim for v in found}) == 11


@pytest.mark.parametrize("chapter", ["segment", "augment"])
def test_a_chapter_that_has_still_to_be_run_is_named(chapter: str):
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/3": 0.6}, "augment", tests=TESTS[:1])
    found = {v.claim: v for v in claims.judge(small, 300, 0, unfinished=[chapter])}
    whole, part = found[paper.SYNTHETIC].reason, found[paper.SMALL].reason
    assert (found[paper.SYNTHETIC].verdict == NOT_MADE) == (chapter == "segment")
    assert found[paper.SMALL].verdict == SUPPORTED
    if chapter == "segment":
        assert (whole, part) == ("Run chapter 6.", "The interval lies above 0.")
    else:
        assert part == "The interval lies above 0. Some results are not made yet: run chapter 7."
        assert "run chapter" not in whole


# ---- small sets


def test_small_sets_are_judged_at_the_largest_ratio_for_each_size():
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/1": 0.3, "20-Styled-Diff/16/3": 0.6, "GAN/16/3": 0.9,
                     "Real/24/": 0.7, "20-Styled-Diff/24/3": 0.6}, "augment")
    found = of_claim(pd.concat([results(GOOD), small]), paper.SMALL)
    assert [v.verdict for v in found] == [SUPPORTED, REFUTED]
    assert found[0].comparison == "20-Styled-Diff (r = 3) against Real, 16 real pairs"
    assert found[0].published == pytest.approx(0.4529 - 0.3944)
    assert isnan(found[1].published)


def test_no_gain_is_demanded_of_sets_for_which_the_paper_claims_none():
    """At 128 real pairs the paper's own gain on HyperKvasir is gone: it says that the effect diminishes."""
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/3": 0.6, "Real/128/": 0.8,
                     "20-Styled-Diff/128/3": 0.75}, "augment")
    found = of_claim(small, paper.SMALL)
    assert [(v.comparison, v.verdict) for v in found] == [
        ("20-Styled-Diff (r = 3) against Real, 16 real pairs", SUPPORTED)]
    fades = of_claim(small, paper.FADES)
    assert [(v.verdict, v.test_set) for v in fades] == [(SUPPORTED, test) for test in TESTS]
    assert fades[0].comparison == "gain of 20-Styled-Diff (r = 3) over Real, 16 against 128 real pairs"
    assert fades[0].difference == pytest.approx(0.2 + 0.05, abs=0.01)
    assert fades[0].published == pytest.approx((0.4529 - 0.3944) - (0.7773 - 0.8232))
    eking = of_claim(small, paper.EKES)
    assert [(v.verdict, v.test_set) for v in eking] == [(REFUTED, test) for test in TESTS[1:]]
    only = results({"Real/128/": 0.8, "20-Styled-Diff/128/3": 0.75}, "augment", tests=TESTS[:1])
    assert of_claim(only, paper.SMALL)[0].reason == "The results have no small set of at most 64 real pairs."
    assert of_claim(only, paper.EKES)[0].reason == "The results have no transfer set."


def test_a_gain_that_grows_with_the_set_refutes_that_it_fades():
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/3": 0.45, "Real/32/": 0.5,
                     "20-Styled-Diff/32/3": 0.7}, "augment", tests=TESTS[:1])
    assert [v.verdict for v in of_claim(small, paper.FADES)] == [REFUTED]


def test_in_small_sets_the_gan_is_compared_in_iou():
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/2": 0.5, "GAN/16/2": 0.3, "20-Styled-Diff/16/3": 0.9,
                     "Real/32/": 0.4}, "augment", tests=TESTS[:1])
    found = of_claim(small, paper.PARTLY)
    assert [(v.comparison, v.verdict) for v in found] == [
        ("20-Styled-Diff (r = 2) against GAN (r = 2), 16 real pairs", SUPPORTED)]
    assert found[0].difference == pytest.approx(0.1, abs=0.01), "half of that in Dice"
    assert found[0].published == pytest.approx(0.5968 - 0.5762)


@pytest.mark.parametrize(("data_type", "ratio", "published"), [
    ("10-Styled-Diff", 3, 0.5134 - 0.3944), ("7-Styled-Diff", 3, None), ("20-Styled-Diff", 4, None)])
def test_the_papers_gain_of_small_sets_is_that_of_the_same_clusters_and_r(data_type, ratio, published):
    small = results({"Real/16/": 0.4, f"{data_type}/16/{ratio}": 0.6}, "augment")
    found, = of_claim(small, paper.SMALL)
    assert isnan(found.published) if published is None else found.published == pytest.approx(published)


# ---- frames that belong together


def test_frames_of_a_sequence_count_as_one_and_not_as_many():
    frame = results(GOOD, images=52, tests=("CVC-ClinicDB",))
    frame["image"] = [str(int(image) + 1) for image in frame["image"]]  # frames 1 to 52: three sequences
    lower = frame["image"].astype(int).between(26, 50) & (frame["data_type"] == "20-Styled-Diff")
    frame.loc[lower, "dice"] -= 0.35  # what helps on two of them harms on the third
    together = judged(frame)[paper.STYLING, "CVC-ClinicDB"]
    apart = judged(frame.assign(test_set="HyperKvasir"))[paper.STYLING, "HyperKvasir"]
    assert together.difference == pytest.approx(apart.difference)
    assert together.high - together.low > 3 * (apart.high - apart.low)
    assert (apart.verdict, together.verdict) == (REFUTED, UNDECIDED)


def test_one_sequence_tells_nothing_of_others():
    frame = results(GOOD, images=22, tests=("CVC-ClinicDB",))
    frame["image"] = [str(int(image) + 1) for image in frame["image"]]
    found = judged(frame)[paper.STYLING, "CVC-ClinicDB"]
    assert (found.verdict, isnan(found.low)) == (TOO_LITTLE, True)
    assert "all of one sequence, centre or patient" in found.reason


# ---- pasting


def test_the_styled_type_is_compared_with_paste_at_equal_numbers_and_no_best_one_is_chosen():
    alone = results({**GOOD, "20-Styled-Diff-1": 0.4, "Full-Diff-3": 0.95, "Full-Diff-1": 0.4,
                     "20-Diff-2": 0.9, "Paste-3": 0.7, "Paste-1": 0.6, "Paste-Poisson-3": 0.99},
                    tests=TESTS[:2])
    found = of_claim(alone, paper.PASTING)
    assert [(v.comparison, v.verdict) for v in found] == [
        ("20-Styled-Diff-1 against Paste-1", REFUTED), ("20-Styled-Diff-3 against Paste-3", SUPPORTED)]
    assert {v.test_set for v in found} == {"HyperKvasir"}
    assert all(isnan(v.published) for v in found)
    assert found[1].difference == pytest.approx(0.1, abs=0.01)
    assert claims.overall(found) == {paper.PASTING: REFUTED}


def test_in_small_sets_it_is_compared_with_paste_at_the_largest_r_that_both_have():
    small = results({"Real/16/": 0.4, "20-Styled-Diff/16/1": 0.3, "20-Styled-Diff/16/2": 0.6,
                     "20-Diff/16/2": 0.5, "Paste/16/1": 0.9, "Paste/16/2": 0.5, "Paste/16/3": 0.9,
                     "20-Styled-Diff/32/3": 0.9, "Paste/32/1": 0.5}, "augment")
    found = of_claim(small, paper.PASTING)
    assert [(v.comparison, v.verdict) for v in found] == [
        ("20-Styled-Diff (r = 2) against Paste (r = 2), 16 real pairs", SUPPORTED)]
    assert found[0].chapter == "augment"
    both = of_claim(pd.concat([results({**GOOD, "Paste-3": 0.7}), small]), paper.PASTING)
    assert [v.chapter for v in both] == ["segment", "augment"]
    few = results({"Paste-3": 0.8, "20-Styled-Diff-3": 0.9}, seeds=2)
    assert of_claim(few, paper.PASTING)[0].verdict == TOO_LITTLE


@pytest.mark.parametrize(("means", "reason"), [
    ({"Paste-3": 0.5, "20-Diff-3": 0.5}, "The results have no 20-Styled-Diff."),
    ({"GAN-3": 0.5, "Paste-Poisson-3": 0.5}, "The results have no Styled-Diff and no Paste."),
    ({"20-Styled-Diff-1": 0.5, "Paste-3": 0.5}, "The results have no numbers of pairs that both have.")])
def test_where_painting_and_pasting_cannot_be_compared_it_is_said_why(means: dict, reason: str):
    assert [(v.verdict, v.reason) for v in of_claim(results(means), paper.PASTING)] == [(TOO_LITTLE, reason)]


# ---- the rule


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, rule.LEAST_IMAGES, rule.LEAST_SEEDS)


@pytest.mark.parametrize(("low", "high", "verdict"), [
    (0.001, 0.2, SUPPORTED), (0.02, 0.2, SUPPORTED), (0.001, 0.01, SUPPORTED), (0.0, 0.2, UNDECIDED),
    (-0.1, 0.01, UNDECIDED), (-0.1, 0.009, UNDECIDED), (0.0, 0.0, NO_EFFECT), (-0.2, -0.1, REFUTED),
    (-0.2, -0.001, REFUTED), (-0.01, -0.001, REFUTED)])
def test_the_rule_at_its_borders(low: float, high: float, verdict: str):
    gain = interval(low, high)
    assert rule.decide(gain, 0.5)[0] == verdict
    for little in (replace(gain, images=19), replace(gain, seeds=1)):
        assert rule.decide(little, 0.5)[0] == TOO_LITTLE
    assert rule.decide(gain, 0.09)[0] == TOO_LITTLE


def test_effects_too_small_to_matter_are_judged_alike_on_both_sides_of_0():
    for low, high in ((0.001, 0.007), (-0.001, 0.007), (-0.007, 0.001), (-0.007, -0.001)):
        assert rule.decide(interval(low, high), 0.5)[0] == NO_EFFECT
    assert rule.decide(interval(0.001, 0.007), 0.5, helps=False)[0] == SUPPORTED
    assert rule.decide(interval(-0.001, 0.007), 0.5, helps=False)[0] == UNDECIDED


def test_a_reason_says_what_an_interval_leaves_open():
    assert rule.decide(interval(0.001, 0.2), 0.5)[1] == (
        "The interval lies above 0. Whether it reaches 0.01 is open.")
    assert rule.decide(interval(0.02, 0.2), 0.5)[1] == "The interval lies above 0."
    assert rule.decide(interval(-0.1, 0.009), 0.5)[1] == (
        "The interval contains 0; it excludes a gain of 0.01 or more, not a loss.")


@pytest.mark.parametrize(("several", "verdict"), [
    ([SUPPORTED, SUPPORTED], SUPPORTED), ([SUPPORTED, UNDECIDED], UNDECIDED),
    ([SUPPORTED, UNDECIDED, TOO_LITTLE], TOO_LITTLE), ([TOO_LITTLE, NOT_MADE, SUPPORTED], NOT_MADE),
    ([SUPPORTED, NO_EFFECT, TOO_LITTLE], NO_EFFECT),
    ([SUPPORTED, NO_EFFECT, REFUTED], REFUTED)])
def test_the_rule_tells_how_comparisons_are_joined(several: list[str], verdict: str):
    one = claims.judge(results(GOOD), 300, 0)[0]
    assert claims.overall([replace(one, verdict=v) for v in several]) == {paper.SYNTHETIC: verdict}
    assert {*rule.RULE, NOT_MADE} == set(rule.WORST_FIRST)
    assert next(iter(rule.RULE)) == TOO_LITTLE, "the rule goes from the top"
    assert str(rule.SMALLEST) in rule.RULE[NO_EFFECT]


def test_a_verdict_may_be_limited_in_words_of_its_own():
    one = Verdict(paper.STYLING, "a against b", "here", verdict=SUPPORTED)
    limited = replace(one, scope="for these pairs")
    assert (one.words, limited.words) == ("supported", "supported for these pairs")


# ---- the paper's own tables


@pytest.mark.parametrize(("claim", "cells"), [
    (paper.SYNTHETIC, (3, 3)), (paper.TRANSFER, (6, 6)), (paper.STYLING, (9, 9)),
    (paper.STYLING_FULL, (1, 9)), (paper.CLUSTERING, (9, 9)), (paper.GROWS, (5, 6)),
    (paper.SMALL, (12, 12)), (paper.EKES, (7, 8)),
    (paper.PASTING, (0, 0)), (paper.FILTERING, (0, 0))])
def test_the_papers_own_cells_are_counted(claim: Claim, cells: tuple[int, int]):
    assert comparisons.of_paper(claim) == cells


def test_every_claim_says_where_it_is_made_and_for_what():
    assert len(claims.ORDER) == len({claim.text for claim in claims.ORDER}) == 16
    for claim in claims.ORDER:
        assert claim.place in claim.words
        assert claim in (paper.PASTING, paper.FILTERING) or claim.made_for


def test_with_fewer_than_three_generators_a_verdict_is_for_these_pairs():
    frame = results(GOOD, seeds=5)
    none, few, more = (claims.judge(frame if count is None else frame.assign(generator=frame["seed"] % count),
                                    300, 0) for count in (None, 2, 3))
    assert {v.scope for v in none if v.verdict == SUPPORTED} == {rule.THESE_PAIRS}
    assert {v.scope for v in few if v.verdict not in (TOO_LITTLE, UNDECIDED)} <= {rule.THESE_PAIRS}
    known = [v for v in more if v.verdict == SUPPORTED]
    assert known
    assert {(v.generators, v.scope) for v in known} == {(3, "")}
    assert {v.scope for v in (*none, *few, *more) if v.verdict == TOO_LITTLE} == {""}


def test_a_verdict_on_pasted_pairs_is_for_these_and_speaks_of_no_generator():
    frame = results({"Real/16/": 0.4, "Paste/16/3": 0.5, "20-Styled-Diff/16/3": 0.6}, "augment", seeds=5)

    def scopes(generators: int, sees: str = "all") -> dict[str, str]:
        painted = frame["data_type"] == "20-Styled-Diff"
        known = frame.assign(generator=(frame["seed"] % generators).where(painted))
        real, paste, styled = (comparisons.Net("augment", name, None, 16, ratio) for name, ratio in
                               (("Real", None), ("Paste", 3), ("20-Styled-Diff", 3)))
        asked = {"alone": (paste, real), "both": (styled, paste), "painted": (styled, real)}
        found = claims.judged([comparisons.Comparison(paper.PASTING, *nets, "HyperKvasir")
                               for nets in asked.values()], known, 300, 0,
                              how=Augment(generator_sees=sees))
        assert {one.verdict for one in found} == {SUPPORTED}
        return dict(zip(asked, (one.scope for one in found), strict=True))
    assert scopes(1) == {"alone": "for these pasted pairs", "both": "for these pairs",
                         "painted": "for these pairs"}
    assert scopes(5) == {"alone": "for these pasted pairs", "both": "for these pasted pairs", "painted": ""}
    assert set(scopes(5, "subset").values()) == {""}, "each small set has pasted pairs of its own"
    assert "generator" not in rule.SCOPE_PASTED


# ---- in words


def test_test_sets_are_named_in_sentences_by_what_they_are() -> None:
    assert list(map(naming.on_test, ("Held out", "Phantom", "CVC-ClinicDB"))) == [
        "the held-out pairs", "the held-out phantoms", "CVC-ClinicDB"]


def test_a_claim_on_both_chapters_says_which_of_its_comparisons_came_out_how() -> None:
    small = results({"20-Styled-Diff/16/2": 0.6, "Paste/16/2": 0.5}, "augment")
    both = of_claim(pd.concat([results({**GOOD, "Paste-3": 0.9}), small]), paper.PASTING)
    row, = verdict_tables.summary(both)
    assert (row["verdict on this run"].partition(" for")[0], row["comparisons"]) == (
        REFUTED, "1 supported (small sets), 1 refuted (pairs alone)")
    assert "networks trained on such pairs alone, and on small sets of real and such pairs" in row["claim"]
    assert verdict_tables.summary(both[:1])[0]["comparisons"] == "1 refuted"


@pytest.mark.parametrize(("frame", "claim", "told"), [
    (results(GOOD), paper.SYNTHETIC,
     "training on painted and styled pairs (20-Styled-Diff, 3 of each source) alone against pairs of the GAN "
     "(GAN, 3 of each source)"),
    (results({"Real/16/": 0.4, "20-Styled-Diff/16/3": 0.6}, "augment"), paper.SMALL,
     "training on 16 real pairs, with each of about half of them replaced by 3 painted and styled pairs "
     "(20-Styled-Diff), against the 16 alone"),
    (results({"Paste/16/3": 0.4, "20-Styled-Diff/16/3": 0.6}, "augment"), paper.PASTING,
     "training on 16 real pairs, with each of about half of them replaced by 3 painted and styled pairs "
     "(20-Styled-Diff), against the same with pasted pairs (Paste)")])
def test_a_comparison_is_told_to_who_does_not_know_the_names(frame: pd.DataFrame, claim: Claim, told: str):
    assert of_claim(frame, claim)[0].in_words == told


@pytest.mark.parametrize(("alpha", "rule", "words", "caption"), [
    (0.5, "replace", "16 real pairs, with each of about half of them replaced by 3 pasted pairs (Paste)",
     "synthetic pairs replace about half of the real ones trained on"),
    (1.0, "add", "16 real pairs, with 3 pasted pairs (Paste) added for each of them",
     "synthetic pairs are added for all of the real ones trained on, and no real pair is left out"),
    (0.3, "add", "16 real pairs, with 3 pasted pairs (Paste) added for each of about 30 % of them",
     "synthetic pairs are added for about 30 % of the real ones trained on, and no real pair is left out")])
def test_words_of_a_small_set_are_those_of_the_runs_own_rule(alpha: float, rule: str, words: str,
                                                             caption: str):
    how = Augment(alpha=alpha, rule=rule)
    assert naming.mixed(16, DataType("Paste"), 3, how) == words
    assert naming.mixing(how) == caption
    done = {"replace": "are replaced", "add": "get synthetic pairs beside them"}[rule]
    share = {0.5: "about half", 1.0: "all", 0.3: "about 30 %"}[alpha]
    assert naming.in_sets(how, 0.25) == (
        "Of a set of real pairs, 25 % choose the best epoch and stay as they are; "
        f"{share} of the others {done}.")
    frame = results({"Real/16/": 0.4, "Paste/16/3": 0.5, "20-Styled-Diff/16/3": 0.6}, "augment")
    told = [v.in_words for v in claims.judge(frame, 300, 0, how=how) if v.in_words]
    assert len(told) > 1
    assert all(one.startswith(f"training on {words.partition(' 3 ')[0]}") for one in told)
    assert all(words.rpartition("(Paste)")[2] in one for one in told)


@pytest.mark.parametrize(("name", "words"), [
    ("Real", "real pairs"), ("GAN", "pairs of the GAN"), ("Paste", "pasted pairs"),
    ("Paste-Poisson", "pasted and blended pairs"), ("2-Diff", "painted pairs"),
    ("2-Styled-Paint", "painted and styled pairs"), ("Full-Paint", "painted pairs of the model of all pairs"),
    ("2-Filtered-Diff", "painted pairs that the filter kept"),
    ("Full-Filtered-Styled-Diff", "painted and styled pairs of the model of all pairs that the filter kept")])
def test_every_kind_of_pairs_has_words_of_its_own(name: str, words: str):
    assert naming.named(DataType.parse(name)) == f"{words} ({name})"


def test_the_means_beside_a_difference_are_weighed_as_it_is():
    frame = results({"Real/16/": 0.5, "20-Styled-Diff/16/1": 0.6}, "augment", seeds=5, tests=TESTS[:1])
    painted = frame["data_type"] == "20-Styled-Diff"
    owners = frame["seed"].map({0: 0, 1: 1, 2: 2, 3: 1, 4: 0}).where(painted).astype("Int64")
    frame.loc[frame["seed"] == 2, "dice"] += 0.1 * painted + 0.1  # the third generator has one seed
    one, = [v for v in of_claim(frame.assign(generator=owners), paper.SMALL) if v.images]
    assert one.generators == 3
    assert one.difference == pytest.approx(one.means[0] - one.means[1])
    assert one.means == pytest.approx((0.6 + 0.2 / 3, 0.5 + 0.1 / 3), abs=0.03)
    alike, = [v for v in of_claim(frame, paper.SMALL) if v.images]
    assert alike.difference == pytest.approx(alike.means[0] - alike.means[1])
    assert alike.means[0] < one.means[0] - 0.02
