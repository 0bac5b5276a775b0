"""How many seeds: against published values of the t-test's power, and against simulation."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from diffusegen_core.measures import intervals, power
from diffusegen_core.newprofile import cautions
from diffusegen_core.segmentation.sharing import shares


def test_the_seeds_are_those_of_the_textbooks():
    """Cohen's tables for the paired test at 0.05 and a power of 0.8: d = 0.5 needs 34 pairs, 0.8 needs 15."""
    assert [power.needed(power.Error(0.0), 1.0, d) for d in (0.2, 0.5, 0.8, 1.0)] == [199, 34, 15, 10]


def test_the_power_is_what_simulation_gives():
    rng = np.random.default_rng(0)
    each = rng.normal(0.05, 0.04, (4000, 6))
    assert power._power(0.05, *power._limits(power.Error(0.0), 0.04, 6)) == pytest.approx(
        np.mean(ttest_1samp(each, 0, axis=1).pvalue < 0.05), abs=0.02)


def test_the_gains_on_the_page_about_data_of_one_s_own_are_those_computed():
    page = (Path(__file__).parents[1] / "book" / "own_data.md").read_text()
    rows = re.findall(r"^\| (20|200) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == 2
    for images, cells in rows:
        assert cells.split(" | ") == [f"{power.visible(5, int(images), generators):.2f}"
                                      for generators in (1, 3, 5)]
    three = [f"{power.visible(3, images):.2f}" for images in (20, 200)]
    assert f"With three seeds the first column is {three[0]} and {three[1]}; " in " ".join(page.split())
    assert "the second stays as it is" in page
    assert all(power.visible(3, images, 3) == power.visible(5, images, 3) for images in (20, 200))


def test_the_largest_gain_measured_is_the_one_that_new_names():
    page = (Path(__file__).parents[1] / "book" / "results_small.md").read_text()
    numbers = page.partition("## What was found")[2].partition("\n## ")[0]
    kinds = ("| pasted pairs (Paste)", "| painted and styled pairs")
    gains = [float(gain) for row in numbers.splitlines() if row.startswith(kinds)
             for gain in re.findall(r"([+-]0[.]\d{3}) \\\[", row)]
    assert len(gains) == 6, "two sizes, three types"
    assert round(max(gains), 1) == cautions.MEASURED


def test_no_spread_and_too_much():
    assert power.needed(power.Error(0.0), 0.0) == power.needed(power.Error(0.01), 0.0) == 2
    assert power.needed(power.Error(0.0), 10.0) is power.needed(power.Error(0.0), float("nan")) is None
    assert power.needed(power.Error(0.0), 0.02) == 4
    assert power.smallest(power.Error(0.0), 0.02, 4) < 0.05 < power.smallest(power.Error(0.0), 0.02, 3)
    assert power.smallest(power.Error(0.0), 0.0, 3) == 0.0
    assert power.smallest(power.Error(0.01), 0.02, 1) == np.inf


def test_test_images_need_more_seeds_and_too_few_of_them_cannot_be_made_up_for():
    none, some, more = (power.needed(power.Error(error), 0.02) for error in (0.0, 0.014, 0.017))
    assert none < some < more
    assert power.plan(power.Error(0.017), 0.02) == (1.0, more)
    assert power.smallest(power.Error(0.017), 0.02, power.needed(power.Error(0.017), 0.02)) <= 0.05
    assert power.needed(power.Error(0.019), 0.02) is None
    times, count = power.plan(power.Error(0.019), 0.02)
    assert times > 1
    assert power.smallest(power.Error(0.019 / np.sqrt(times)), 0.02, count) <= 0.05
    assert power.plan(power.Error(0.0), 0.02) == (1.0, none)


@pytest.mark.parametrize(("own", "told"), [
    (power.Own(0.24, 3, 3.9, 80), " A gain of 0.05 would take more of both: 78 test images and 80 "
     "repetitions, for example (by the cautious estimate of chapter 7)."),
    (power.Own(0.08, 3, 1.0, 12), " A gain of 0.05 would take 12 repetitions: more than this run has; its "
     "test images are enough (by"),
    (power.Own(0.08, 30, 2.2, 21), " A gain of 0.05 would take 44 test images: more than this run has; its "
     "repetitions are enough (by"),
    (power.Own(0.5, 3, 1.0, None), " A gain of 0.05 would take more than 1000 repetitions: more than this"),
    (power.Own(0.03, 5, 1.0, 4), "")])
def test_what_a_gain_takes_is_said_with_what_is_lacking(own: power.Own, told: str):
    _, found, said = power.limit(own.repeats, 20, 1, own=own).partition("repetitions.")
    assert found
    assert said.startswith(told)
    assert bool(said) == bool(told)


def test_the_deviation_and_its_limit():
    value, limit = power.deviation([0.01, 0.03, 0.05])
    assert value == pytest.approx(0.02)
    assert limit == pytest.approx(0.02 * np.sqrt(2 / 0.4463), rel=1e-3)  # chi-squared, 2 degrees, 20 %
    assert np.isnan(power.deviation([0.1])).all()
    assert np.isnan(power.deviation([])).all()


def test_the_limit_holds_the_deviation_as_often_as_it_says():
    rng = np.random.default_rng(1)
    assert np.mean([power.deviation(rng.normal(0, 1, 3))[1] > 1 for _ in range(2000)]) == pytest.approx(
        power.CAUTION, abs=0.03)


@pytest.mark.parametrize("groups", [4, 8])
def test_of_few_patients_the_interval_finds_the_gain_as_often_as_promised(groups: int):
    rng, owners = np.random.default_rng(4), {str(i): str(i // 6) for i in range(6 * groups)}
    stretch = intervals.of_images(pd.DataFrame(np.eye(6 * groups)[:1], columns=list(owners)), owners)[1]
    error = 0.1 / np.sqrt(groups)
    gain, found = power.smallest(power.Error(error, stretch), 0.02, 3), []
    for number in range(300):
        of = np.repeat(rng.normal(gain, 0.1, groups), 6)
        x = pd.DataFrame(of + rng.normal(0, 0.02, (3, 1)), columns=list(owners))
        found.append(intervals.of_groups(x, owners, 400, number).low > 0)
    assert 0.7 <= np.mean(found) <= 0.88


def test_near_the_limit_the_seeds_are_those_of_a_fine_grid():
    error = power.Error(0.05 / 2.81)
    assert power.needed(error, 0.01) == pytest.approx(55, abs=3)
    assert power.needed(error, 0.03) == pytest.approx(475, rel=0.05)


@pytest.mark.parametrize(("seeds", "images", "generators"), [(3, 20, 1), (5, 200, 1), (5, 200, 3)])
def test_the_gain_that_can_be_seen_is_found_by_the_verdicts_interval_as_often_as_promised(
        seeds: int, images: int, generators: int):
    rng, gain, owners = np.random.default_rng(2), power.visible(seeds, images, generators), None
    found = []
    for number in range(400):
        x = rng.normal(gain, power.OF_IMAGES, images) + np.zeros((seeds, 1))
        if generators > 1:
            of = np.array(shares(seeds, generators))
            x, owners = x + rng.normal(0, power.OF_GENERATORS, generators)[of][:, None], dict(enumerate(of))
        else:
            x = x + rng.normal(0, power.OF_SEEDS, (seeds, 1))
        found.append(intervals.of(pd.DataFrame(x), 400, number, owners).low > 0)
    assert 0.75 <= np.mean(found) <= 0.85


def test_of_several_generators_more_seeds_show_no_more_and_of_one_seed_nothing_does():
    assert power.visible(9, 200, 3) == power.visible(3, 200, 3) > 2 * power.visible(9, 200)
    assert power.visible(9, 200, 9) < 0.5 * power.visible(9, 200, 3)
    assert power.visible(3, 200, 5) == power.visible(3, 200, 3), "a generator without a seed tells nothing"
    assert power.visible(1, 200) == power.visible(1, 200, 3) == np.inf
