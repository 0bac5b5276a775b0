"""Verdicts on distances, similarity and compute, on planted values; and the paper's expert review."""

from math import isnan
from types import SimpleNamespace

import pandas as pd
import pytest

from diffusegen_core.chapters.distances import MS_SSIM
from diffusegen_core.data.types import DataType
from diffusegen_core.report import otherclaims, paperclaims, published, review, review_tables
from diffusegen_core.report.rule import REFUTED, SUPPORTED, TOO_LITTLE, UNDECIDED, Verdict


def evaluated(metric: str, values: dict[str, list[float]], images: int = 30, fid: bool = True,
              size: int = 256) -> SimpleNamespace:
    """Chapter 5's result with one metric of each type, set by set."""
    rows = [(name, number, metric, value, images) for name, sets in values.items()
            for number, value in enumerate(sets, 1)]
    return SimpleNamespace(
        equal=pd.DataFrame(rows, columns=["data type", "set", "metric", "value", "images"]), fid=fid,
        image_size=size, types=[DataType.parse(name) for name in values],
        metrics=SimpleNamespace(frechet="FID", kernel="KID", similarity=MS_SSIM))


def nearer(result: SimpleNamespace, learned: bool = True) -> dict[str, Verdict]:
    return {v.comparison.split(" ")[0]: v for v in otherclaims.nearer(result, learned)}


def varied(result: SimpleNamespace) -> dict[str, Verdict]:
    return {v.comparison.split(" ")[0]: v for v in otherclaims.varied(result)}


def test_nearer_than_the_gan_is_judged_set_by_set():
    found = nearer(evaluated("FID", {"Real": [0.0] * 3, "GAN": [100.0, 110, 120], "20-Diff": [40.0, 50, 60],
                                     "20-Styled-Diff": [90.0, 120, 110], "Full-Diff": [130.0, 140, 150]}))
    assert {name: v.verdict for name, v in found.items()} == {
        "20-Diff": SUPPORTED, "20-Styled-Diff": UNDECIDED, "Full-Diff": REFUTED}
    assert found["20-Diff"].difference == pytest.approx(-60)
    assert found["20-Styled-Diff"].reason == "In 2 of 3 sets."
    assert found["20-Diff"].published == pytest.approx((36.01 + 37.90 + 37.78 - 118.73 - 119.45 - 116.92) / 3)


@pytest.mark.parametrize(("change", "learned", "reason"), [
    ({}, False, "The network's weights are random: its distances say nothing."),
    ({"images": 12}, True, "Sets: 2, of 12 images; at least two of 20 are needed."),
    ({"values": {"Real": [0.0] * 2, "20-Diff": [40.0, 50]}}, True, "The results have no GAN.")])
def test_distances_that_say_nothing_get_no_verdict(change: dict, learned: bool, reason: str):
    values = {"Real": [0.0] * 2, "GAN": [100.0, 110], "20-Diff": [40.0, 50]}
    found = nearer(evaluated("FID", **{"values": values, **change}), learned)["20-Diff"]
    assert (found.verdict, found.reason) == (TOO_LITTLE, reason)


def test_published_distances_are_of_the_same_size_weights_and_clusters():
    for clusters, fid, size, there in ((10, True, 256, True), (2, True, 256, False), (20, False, 256, False),
                                       (20, True, 64, False)):
        result = evaluated("FID", {"GAN": [100.0, 110], f"{clusters}-Diff": [40.0, 50]}, fid=fid, size=size)
        found, = nearer(result).values()
        assert isnan(found.published) != there


def test_ms_ssim_is_to_be_within_the_papers_margin_of_real():
    found = varied(evaluated(MS_SSIM, {"Real": [0.17, 0.19], "GAN": [0.22, 0.14], "20-Diff": [0.20, 0.24],
                                       "Full-Diff": [0.10, 0.30], "Paste": [0.18, 0.18]}))
    assert {name: v.verdict for name, v in found.items()} == {
        "GAN": SUPPORTED, "20-Diff": UNDECIDED, "Full-Diff": REFUTED}
    assert found["20-Diff"].difference == pytest.approx(0.04)
    assert found["20-Diff"].published == pytest.approx((0.2081 + 0.2126 + 0.2096) / 3 - 0.1813)


def run_of(models: list[float], gan: float | None, sources: int = 5, cards: int = 1) -> SimpleNamespace:
    trained = SimpleNamespace(models=[SimpleNamespace(seconds=one, card_seconds=cards * one)
                                      for one in models], base=None)
    pairs = SimpleNamespace(manifest=pd.DataFrame({"source": [str(i) for i in range(sources)] * 2}))
    baseline = None if gan is None else SimpleNamespace(trained=True, seconds=gan, pairs=pairs)
    return SimpleNamespace(finished={"train": trained, "gan": baseline}.get, pairs=range(20),
                           params=SimpleNamespace(cluster=SimpleNamespace(k=len(models))))


def test_compute_is_compared_for_all_pairs_of_the_run():
    found = otherclaims.compute(run_of([100, 150], 100))
    assert (found.verdict, found.difference) == (SUPPORTED, 250 - 400)
    assert "a GAN for each of the 20 pairs would take 400 s, judging by 5 that were trained" in found.reason
    assert otherclaims.compute(run_of([300, 150], 100)).verdict == REFUTED
    elsewhere = otherclaims.compute(run_of([100, float("nan")], 100))
    assert (elsewhere.verdict, elsewhere.reason) == (TOO_LITTLE, "The models were not trained here.")
    several = otherclaims.compute(run_of([100, 150], 100, cards=4))
    assert (several.verdict, several.difference) == (REFUTED, 1000 - 400), "four cards took it each"
    assert several.reason.startswith("2 models took 1,000 s of GPU time, 250 s by the clock; a GAN")
    assert otherclaims.compute(run_of([100], None)).reason == "The results have no GAN that was trained here."


def test_the_papers_own_tables_are_counted_set_by_set():
    assert otherclaims.of_paper(paperclaims.NEARER) == (12, 12)
    assert otherclaims.of_paper(paperclaims.VARIED) == (14, 15), "Styled-Diff, set 3: 0.2433 against 0.1813"


def test_tables_1_and_2_have_every_cluster_count():
    one, two = published.by_clusters("1"), published.by_clusters("2")
    assert list(dict.fromkeys(one["data_type"])) == [
        "Real", "GAN", *(f"{k}-{kind}" for kind in ("Diff", "Styled-Diff") for k in (10, 20, 30, 40)),
        "Full-Diff", "Full-Styled-Diff"]
    assert len(two) == len(published.table("2")) + 2 * 3 * 3 * 6
    for name in ("1", "2"):
        rows = published.by_clusters(name).set_index("data_type")["printed"]
        for kind, mine in published.table(name).groupby("data_type"):
            assert rows.loc[kind if kind in rows.index else f"20-{kind}"].tolist() == mine["printed"].tolist()


def test_the_papers_review_stands_beside_a_reviewer_who_always_says_fake():
    table = review_tables.agreement().frame
    assert table.to_numpy().tolist() == [["Accuracy", "18 of 30", "60%", "42% to 75%", "67%"],
                                         ["Precision", "4 of 10", "40%", "17% to 69%", ""],
                                         ["Recall", "4 of 10", "40%", "17% to 69%", "0%"]]
    survey = review_tables.survey().frame.set_index("answer")
    assert survey["Styled-Diff"].tolist() == ["10", "0", "0", "9", "1", "0", "3", "7"]
    assert survey.index.tolist()[-2:] == ["Real or Fake: Real", "Real or Fake: Fake"]


def test_always_fake_is_counted_on_the_pairs_that_were_answered():
    rows = pd.DataFrame({"Data type": ["Real", "GAN", "GAN", "GAN"],
                         "origin": ["Real", "Fake", "Real", None]})
    accuracy, precision, recall = review.always_fake(rows)
    assert (accuracy, recall) == (pytest.approx(2 / 3), 0)
    assert isnan(precision)
