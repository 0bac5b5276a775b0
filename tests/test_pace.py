"""How fast the device was when it was last probed: kept for the user, and never in the way."""

from pathlib import Path

import pandas as pd
import pytest

from diffusegen_core.planning import pace, remaining
from diffusegen_core.store import files


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "diffusegen"


def probed(**rates: float) -> pd.DataFrame:
    return pd.DataFrame({"kind": list(rates), "rate": list(rates.values())})


def test_rates_are_kept_by_device_and_later_ones_replace_them():
    pace.remember("card", probed(training=2.0, GAN=5.0))
    pace.remember("processor", probed(training=1.0))
    pace.remember("card", probed(training=3.0, sampling=float("nan")))
    assert pace.known("card") == {"training": 3.0, "GAN": 5.0}
    assert pace.known("processor") == {"training": 1.0}
    assert pace.known("another") == {}


@pytest.mark.parametrize("there", ["", "[]", '{"card": 3}', '{"card": {"training": "fast", "GAN": -1}}'])
def test_a_strangers_file_tells_nothing(there: str, settings: Path):
    files.write_text(settings / pace.FILE, there)
    assert pace.known("card") == {}
    pace.remember("card", probed(training=2.0))
    assert pace.known("card") == {"training": 2.0}


def test_where_nothing_can_be_kept_nothing_fails(settings: Path):
    settings.write_text("a file where the folder would be")
    pace.remember("card", probed(training=2.0))
    assert pace.known("card") == {}


def test_a_kind_without_a_rate_goes_by_those_that_have_one():
    costs = remaining._costs({"training": 1e9, "unheard of": 1.0})
    assert set(costs) == set(remaining.RELATIVE)
    assert costs["training"] == pytest.approx(1e-9)
    assert costs["GAN"] == pytest.approx(1e-9 * remaining.RELATIVE["GAN"] / remaining.RELATIVE["training"])
    assert remaining._costs({"unheard of": 1.0}) == pytest.approx(remaining.RELATIVE)
