"""Precision, recall, density and coverage: by hand, and of sets whose faults are known."""

import numpy as np
import pytest

from diffusegen_core.measures import manifolds


def normal(seed: int, count: int = 300, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (count, 4)).astype(np.float32)


def test_by_hand() -> None:
    real, made = np.array([[0.0], [1], [3], [7]]), np.array([[0.5], [12], [30], [31]])
    # With k as many others as there are, 3, the balls of 0, 1, 3 and 7 reach 7, 6, 4 and 7 far.
    told = manifolds.of(made, real)
    assert told["precision"] == 0.5  # 0.5, and 12 in the ball of 7
    assert told["recall"] == 1.0  # 0.5 reaches 30.5 far
    assert told["density"] == pytest.approx((4 + 1) / (3 * 4))
    assert told["coverage"] == 1.0


def test_two_draws_of_one_distribution_are_alike() -> None:
    told = manifolds.of(normal(0), normal(1))
    assert told["precision"] == pytest.approx(told["recall"], abs=0.1)
    assert told["density"] == pytest.approx(1, abs=0.15)
    assert told["coverage"] == pytest.approx(1 - 2**-manifolds.MORE, abs=0.05)  # Naeem et al., (8)


def test_what_is_copied_is_covered_and_what_collapses_is_not_diverse() -> None:
    real = normal(1)
    assert manifolds.of(real, real) == {"precision": 1, "recall": 1, "density": pytest.approx(1.2, abs=0.2),
                                        "coverage": 1}
    narrow = manifolds.of(normal(0, scale=0.1), real)
    assert narrow["precision"] > 0.98
    assert max(narrow["recall"], narrow["coverage"]) < 0.15


def test_what_is_far_off_has_nothing_and_one_outlier_raises_precision_more_than_density() -> None:
    real, made = normal(1), normal(0, shift=20)
    assert manifolds.of(made, real) == dict.fromkeys(manifolds.NAMES, 0)
    wide = np.concatenate([real[:-1], [[20.0] * 4]])
    told = manifolds.of(made, wide)
    assert told["precision"] == 1
    assert told["density"] <= 1 / manifolds.MORE


def test_two_images_are_enough() -> None:
    told = manifolds.of(np.array([[0.0], [1]]), np.array([[0.0], [3]]))
    assert told == {"precision": 1, "recall": 0.5, "density": 2, "coverage": 1}
