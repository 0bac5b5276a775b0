"""How many seeds: against published values of the t-test's power, and against simulation."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from diffusegen_core.measures import power


def test_the_seeds_are_those_of_the_textbooks():
    """Cohen's tables for the paired test at 0.05 and a power of 0.8: d = 0.5 needs 34 pairs, 0.8 needs 15."""
    assert [power.seeds_needed(1.0, d) for d in (0.2, 0.5, 0.8, 1.0)] == [199, 34, 15, 10]


def test_the_power_is_what_simulation_gives():
    rng = np.random.default_rng(0)
    each = rng.normal(0.05, 0.04, (4000, 6))
    assert power.power(6, 0.05, 0.04) == pytest.approx(
        np.mean(ttest_1samp(each, 0, axis=1).pvalue < 0.05), abs=0.02)


def test_no_spread_and_too_much():
    assert power.seeds_needed(0.0) == 2
    assert power.seeds_needed(10.0) is None
    assert power.seeds_needed(float("nan")) is None
    assert power.seeds_needed(0.02) == 4
    assert power.power(4, 0.05, 0.02) >= 0.8 > power.power(3, 0.05, 0.02)


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
