"""Calibration: bins and the expected error by hand, and pixels that are drawn the same for every network."""

import numpy as np
import pandas as pd
import pytest

from diffusegen_core.measures import calibration


def bins(probabilities: list[float], polyp: list[int]) -> pd.DataFrame:
    return calibration.bins(np.array(probabilities, np.float32).reshape(1, 1, -1),
                            np.array(polyp).reshape(1, 1, -1), ["a"], 0)


def test_bins_and_error_by_hand():
    table = bins([0.0, 0.05, 0.85, 0.85, 0.85, 0.85, 1.0, 0.5], [0, 0, 1, 1, 1, 0, 1, 0])
    assert list(table) == calibration.COLUMNS
    assert table["pixels"].tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 4, 1]
    assert table.loc[[0, 5, 8, 9], "probability"].tolist() == pytest.approx([0.025, 0.5, 0.85, 1.0])
    assert table.loc[[0, 5, 8, 9], calibration.SHARE].tolist() == [0, 0, 0.75, 1]
    assert table.loc[1, ["probability", calibration.SHARE]].isna().all()
    assert calibration.error(table) == pytest.approx((2 * 0.025 + 0.5 + 4 * 0.1) / 8)


def test_frequencies_are_calibrated_and_certainty_that_errs_is_not():
    rng = np.random.default_rng(0)
    p = rng.random((20, 32, 32))
    names = [str(i) for i in range(20)]
    polyp = rng.random(p.shape) < p
    assert calibration.error(calibration.bins(p, polyp, names, 0)) < 0.02
    sure = calibration.bins((p > 0.5).astype(float), polyp, names, 0)
    assert calibration.error(sure) == pytest.approx(0.25, abs=0.02)
    assert calibration.error(calibration.bins(polyp.astype(float), polyp, names, 0)) == 0


def test_without_pixels_there_is_no_error():
    nothing = calibration.bins(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), [], 0)
    assert np.isnan(calibration.error(nothing))
    assert calibration.pooled(nothing).empty


def test_of_large_images_the_same_pixels_are_drawn_whatever_the_other_images_are():
    rng = np.random.default_rng(1)
    p, polyp = rng.random((2, 80, 80)), rng.random((2, 80, 80)) < 0.3
    both = calibration.bins(p, polyp, ["a", "b"], 7)
    assert both["pixels"].sum() == 2 * calibration.PIXELS
    alone = [calibration.bins(p[i:i + 1], polyp[i:i + 1], [name], 7) for i, name in enumerate("ab")]
    together = calibration.pooled(pd.concat(alone))
    pd.testing.assert_frame_equal(together.astype(float), both.astype(float))
    other = calibration.bins(p, polyp, ["a", "b"], 8)
    assert other["pixels"].tolist() != both["pixels"].tolist()
