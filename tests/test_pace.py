"""How fast the device was when it was last probed: kept for the user, and never in the way."""

import json
from pathlib import Path

import pandas as pd
import pytest

from diffusegen_core.config import devices, params
from diffusegen_core.planning import pace, remaining
from diffusegen_core.store import files


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "diffusegen"


SMALL = params.validate({"device": "cpu"})
LARGE = SMALL.model_copy(update={"data": SMALL.data.model_copy(update={"image_size": 64})})


def probed(**rates: float) -> pd.DataFrame:
    return pd.DataFrame({"kind": list(rates), "rate": list(rates.values())})


def test_rates_are_kept_by_device_and_size_and_later_ones_replace_them(monkeypatch: pytest.MonkeyPatch):
    pace.remember(SMALL, probed(training=2.0, GAN=5.0))
    pace.remember(LARGE, probed(training=1.0))
    pace.remember(SMALL, probed(training=3.0, sampling=float("nan")))
    assert pace.known(SMALL) == {"training": 3.0, "GAN": 5.0}
    assert pace.known(LARGE) == {"training": 1.0}
    assert pace.known(LARGE.model_copy(update={"seed": 9})) == {"training": 1.0}, "a seed takes no time"
    monkeypatch.setattr(devices, "name", lambda of, precision: "another processor")
    assert pace.known(SMALL) == {}


def test_what_was_measured_beside_other_programs_is_kept_only_where_nothing_is_known():
    """So that a run begun on a busy machine tells a time left from its first minute."""
    for rate, busy, kept in ((2.0, True, 2.0), (1.0, True, 2.0), (3.0, False, 3.0), (1.0, True, 3.0)):
        pace.remember(SMALL, probed(training=rate), busy)
        assert pace.known(SMALL) == {"training": kept}


@pytest.mark.parametrize(("cores", "threads", "workers", "each"), [
    (8, 8, 1, 6.0), (8, 8, 4, 1.5), (8, 8, 16, 0.375), (2, 1, 2, 6.0)])
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, workers: int,
                                 each: float):
    monkeypatch.setattr(devices.dask.system, "CPU_COUNT", cores)
    monkeypatch.setattr(devices.torch, "get_num_threads", lambda: threads)
    pace.remember(SMALL, probed(training=6.0))
    assert pace.known(SMALL, workers) == {"training": each}


def test_of_a_device_that_is_not_here_nothing_is_known():
    away = SMALL.model_copy(update={"device": "cuda:99"})
    pace.remember(away, probed(training=2.0))
    assert pace.known(away) == {}


@pytest.mark.parametrize("there", ["", "[]", "3", "fast and -1"])
def test_a_strangers_file_tells_nothing(there: str, settings: Path):
    told = {"3": {pace._of(SMALL): 3}, "fast and -1": {pace._of(SMALL): {"training": "fast", "GAN": -1}}}
    files.write_text(settings / pace.FILE, json.dumps(told[there]) if there in told else there)
    assert pace.known(SMALL) == {}
    pace.remember(SMALL, probed(training=2.0))
    assert pace.known(SMALL) == {"training": 2.0}


def test_where_nothing_can_be_kept_nothing_fails(settings: Path):
    settings.write_text("a file where the folder would be")
    pace.remember(SMALL, probed(training=2.0))
    assert pace.known(SMALL) == {}


def test_a_kind_without_a_rate_goes_by_those_that_have_one():
    costs = remaining._costs({"training": 1e9, "unheard of": 1.0})
    assert set(costs) == set(remaining.RELATIVE)
    assert costs["training"] == pytest.approx(1e-9)
    assert costs["GAN"] == pytest.approx(1e-9 * remaining.RELATIVE["GAN"] / remaining.RELATIVE["training"])
    assert remaining._costs({"unheard of": 1.0}) == pytest.approx(remaining.RELATIVE)
