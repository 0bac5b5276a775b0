"""The table of benchmarks/worth.py, from made-up results."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import worth
from realwork import PASTED
from smallsets import REAL

from diffusegen_core.diffusion.repaint import network_calls, repaint_levels

WAY = "varied guided, SDEdit"


def network(kind: str, data_type: str, dice: float, size: int | None = None, seed: int = 0) -> dict:
    return {"kind": kind, "data_type": data_type, "size": size, "seed": seed, "dice": dice}


@pytest.fixture
def record() -> SimpleNamespace:
    """Real, Paste and two generators of one way; the second gains 0.1 at N = 16, the first nothing."""
    names = [f"{WAY}, one", f"{WAY}, two"]
    small = [network("small", name, base + gain + 0.01 * seed, 16, seed)
             for seed, base in enumerate((0.5, 0.6, 0.4))
             for name, gain in ((REAL, 0.0), (PASTED, 0.02 * seed), (names[0], 0.0), (names[1], 0.1))]
    alone = [network("alone", names[0], 0.4), network("alone", names[1], 0.6), network("alone", REAL, 0.7)]
    return SimpleNamespace(stages={
        "networks": {"rows": [*small, *alone]},
        names[0]: {"seconds a pair": 1.0, "empty masks": 2, "status": "ok"},
        names[1]: {"seconds a pair": 3.0, "empty masks": 0, "status": "ok"},
        f"{names[0]}, measured": {"KD": 2.0, "agreement": 0.5}, f"{REAL}, measured": {"KD": 0.5}})


def test_a_way_has_the_means_of_its_generators_and_the_gain_over_seeds(record: SimpleNamespace):
    rows = worth.rows([Path("a/one"), Path("a/two")], [WAY])
    assert [row.name for row in rows] == [PASTED, f"{WAY}, one", f"{WAY}, two"]
    table = worth.table(record, rows, [WAY]).set_index("way")
    assert list(table.index) == [REAL, PASTED, WAY]
    line = table.loc[WAY]
    assert (line["generators"], line["seconds a pair"], line["empty masks"]) == (2, 2.0, 1.0)
    assert (line["KD"], line["agreement"]) == (2.0, 0.5)
    assert line["alone"] == pytest.approx(0.5)
    assert line["N=16"] == "+0.050 ± 0.000 (3)"
    assert line["N=16, over Paste"] == "+0.030 ± 0.050 (3)"
    assert table.loc[PASTED, "N=16"] == "+0.020 ± 0.050 (3)"
    assert table.loc[REAL, "N=16"] == "0.510"
    assert np.isnan(table.loc[PASTED, "alone"])


def test_half_an_interval_is_students():
    values = worth.pd.Series([0.0, 1.0])
    assert worth.t_half(values) == pytest.approx(12.706 * 0.7071 / 1.4142, rel=1e-3)


def test_every_way_is_a_run_that_can_be(tmp_path: Path):
    asked = SimpleNamespace(weights=Path("w.pth"), vgg=None, data=Path("kvasir"), sources=4, samples=2,
                            folder=tmp_path)
    made = {}
    for way in worth.WAYS:
        run = worth.run_of(asked, worth.Row(way, Path("a/one")))
        p, first = run.params, way.split(",")[0]
        made.setdefault(p.inpaint.model_dump_json(), set()).add(run.folder)
        assert p.inpaint.sources == 4
        assert p.inpaint.masks == first.split()[0]
        assert (p.inpaint.guidance_scale > 1) == ("guided" in first)
        schedule = p.inpaint.respacing, p.inpaint.jump_length, p.inpaint.resampling
        calls = network_calls(repaint_levels(*schedule))
        assert calls == (130 if "joint" in way or "130 calls" in way else 25)
        assert (worth.WAYS[way]["chapter"] == "style") == way.endswith(("SDEdit", "styled"))
        assert not way.endswith("SDEdit") or p.style.method == "sdedit"
        # The paper's 19 of its 200 steps have the semantic divergence.
        assert not way.endswith("styled") or p.style.semantic_steps == round(19 * p.style.respacing / 200)
    assert all(len(folders) == 1 for folders in made.values()), "what is inpainted alike is inpainted once"
    assert len(set.union(*made.values())) == len(made)
