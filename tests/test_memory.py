"""The membership test's numbers: the area under the ROC curve, its interval, and the curve."""

import numpy as np
import pytest

from diffusegen_core.measures import memory


def test_who_is_told_apart_and_who_is_not() -> None:
    low, high = np.linspace(0, 1, 20), np.linspace(2, 3, 30)
    perfect = memory.attack(low, high, 0)
    assert (perfect.area, perfect.low, perfect.high, perfect.recognised) == pytest.approx((1, 1, 1, 1))
    assert (perfect.members, perfect.others) == (20, 30)
    assert memory.attack(high, low, 0).area == 0
    assert memory.area(low, low) == pytest.approx(0.5)


def test_the_area_is_how_often_the_members_error_is_lower() -> None:
    members, others = np.array([1.0, 2, 5]), np.array([3.0, 5, 6])
    wins = np.mean([[1.0 if a < b else 0.5 if a == b else 0.0 for b in others] for a in members])
    assert memory.area(members, others) == pytest.approx(wins)
    wrongly, rightly = memory.curve(members, others)
    assert (wrongly[0], rightly[0], wrongly[-1], rightly[-1]) == (0, 0, 1, 1)
    assert (np.diff(wrongly) >= 0).all()


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    truth = 0.7602  # of two normal distributions of deviation 1 whose means lie 1 apart
    for seed in range(100):
        one = memory.attack(rng.normal(0, 1, 40), rng.normal(1, 1, 40), seed)
        held += one.low <= truth <= one.high
        assert one.low < one.area < one.high
    assert 91 <= held <= 99


def test_the_same_seed_gives_the_same_interval() -> None:
    members, others = np.arange(9.0), np.arange(9.0) + 2
    assert memory.attack(members, others, 3) == memory.attack(members, others, 3)
    assert memory.attack(members, others, 3) != memory.attack(members, others, 4)
