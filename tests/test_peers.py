"""The comparison with other libraries (benchmarks/peers.py), none of which is needed here."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SMOKE = ROOT / "params" / "smoke.yaml"
TINY = ["--device", "cpu", "--params", str(SMOKE), "--rounds", "2", "--batch", "1", "--calls", "2", "-p",
        "data.image_size", "16", "-p", "train.batch_size", "2", "-p", "model.attention_resolutions", "[8]"]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark; importing it changes the environment and the modules of this test alone."""
    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = dict(sys.modules)
    for name in ("common", "inpaint", "libraries", "peers", "reference"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = import_module("peers")
    for name in set(sys.modules) - set(before):
        if (BENCHMARKS / f"{name}.py").is_file():
            monkeypatch.delitem(sys.modules, name)
    return module


@pytest.fixture
def twins(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark with two other libraries: ours by other names, of which one cannot inpaint."""
    ours = type(peers.OURS)
    both = [type(name, (ours,), {"name": name, "lacks": lacks})()
            for name, lacks in (("numpy", {}), ("torch", {"inpainting": "it has no RePaint"}))]
    monkeypatch.setattr(peers, "PEERS", both)
    monkeypatch.setattr(peers, "NAMES", [twin.name for twin in both])
    threads = torch.get_num_threads()
    yield peers
    torch.set_num_threads(threads)


def row(peers: ModuleType, **changes: object) -> dict:
    return {"way": "sampling, fp32: monai", "work": "sampling", "precision": "fp32", "library": "monai",
            "images_per_second": 1.2345, "slowest": 1.0, "fastest": 2.0, "ratio": 0.5, "cpu_ratio": 0.75,
            "network_calls": 10.0, **changes}


def test_a_width_is_matched_to_the_nearest_cost(peers: ModuleType):
    asked = []

    def cost(width: int) -> int:
        asked.append(width)
        return width**2

    assert peers.matched(cost, 64.0**2, 32) == 64
    assert peers.matched(cost, 65.0**2, 8) == 64
    assert peers.matched(cost, 71.0**2, 8) == 72
    assert max(asked) <= 72


def test_a_width_beyond_the_tolerance_is_refused(peers: ModuleType):
    with pytest.raises(UserError, match=r"no width is within 5% .* nearest, 64, has 1\.11 of it"):
        peers.matched(lambda width: width**2, 60.8**2, 32)


def test_networks_are_compared_by_counted_flop(twins: ModuleType):
    p = params.validate(params.load(SMOKE))
    networks, left_out = twins.matched_networks([twins.OURS, *twins.PEERS], p)
    assert left_out == {}
    assert networks["numpy"] == networks["torch"] == networks["diffusegen"]
    assert networks["diffusegen"]["width"] == p.model.base_channels
    assert networks["diffusegen"]["share_of_our_flop"] == 1
    assert networks["diffusegen"]["gflop_an_image"] * 1e9 == pytest.approx(
        twins.common.forward_flop(p), rel=1e-2)


def test_a_library_without_an_equal_network_is_left_out_with_the_reason(
        twins: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(twins.PEERS[0], "width_step", 96, raising=False)
    p = params.validate(params.load(SMOKE))
    networks, left_out = twins.matched_networks([twins.OURS, *twins.PEERS], p)
    assert set(networks) == {"diffusegen", "torch"}
    assert left_out["numpy"].startswith("no width is within 5% of our FLOP: the nearest, 96, has ")
    assert [library.name for library in twins.able([twins.OURS, *twins.PEERS], networks, "sampling", left_out)
            ] == ["diffusegen", "torch"]


@pytest.mark.slow
def test_the_benchmark_measures_ours_and_the_others_in_turn(
        twins: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "peers.json"
    twins.run([*TINY, "--out", str(out)])
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    names = [way["way"] for way in found["ways"]]
    assert names == [f"{work}, {precision}: {library}" for work, libraries in (
        ("training", ("diffusegen", "numpy", "torch")), ("sampling", ("diffusegen", "numpy", "torch")),
        ("inpainting", ("diffusegen", "numpy"))) for precision in ("fp32", "bf16") for library in libraries]
    assert found["left_out"] == {"torch, inpainting": "it has no RePaint"}
    assert (found["failed"], len(found["load_of_one_minute"])) == ({}, 7)
    assert found["device"].endswith("1 thread")
    for way in found["ways"]:
        assert len(way["seconds"]) == len(way["cpu_seconds"]) == 2
        assert way["network_calls"] == {"training": 0, "sampling": 2, "inpainting": 12}[way["work"]]
        assert way["library"] != "diffusegen" or way["ratio"] == way["cpu_ratio"] == 1
    assert twins.table(found["ways"]) in printed


def test_other_network_calls_than_ours_are_refused(peers: ModuleType):
    calls = {"sampling": 10, "inpainting": 12}
    peers.check_calls([row(peers), row(peers, work="training", network_calls=0.0)], calls)
    with pytest.raises(UserError, match="monai made 12 network calls, not 10: it cannot be compared"):
        peers.check_calls([row(peers, network_calls=12.0)], calls)


def test_a_ratio_is_to_ours_round_by_round_without_the_first_call(peers: ModuleType):
    tallies = {"a": peers.Tally(30, [9.0, 1.0, 2.0]), "b": peers.Tally(30, [9.0, 2.0, 8.0])}
    ours, other = peers.told([{"way": "a"}, {"way": "b"}], "sampling", "fp32", tallies)
    assert (ours["cpu_ratio"], other["cpu_ratio"]) == (1, 0.375)
    assert (ours["network_calls"], other["cpu_seconds"]) == (10, [2.0, 8.0])


def test_the_table_names_a_work_once_and_ours_has_one(peers: ModuleType):
    rows = [row(peers, library="diffusegen", ratio=1.0), row(peers), row(peers, precision="bf16")]
    assert peers.table(rows).splitlines() == [
        "| work | library | images/s | ratio | of CPU time |", "|---|---|---|---|---|",
        "| sampling, fp32 | diffusegen | 1.23 (1 to 2) | 1 | 1 |",
        "|  | monai | 1.23 (1 to 2) | 0.50 | 0.75 |",
        "| sampling, bf16 | monai | 1.23 (1 to 2) | 1 | 1 |"]


def test_a_library_that_is_not_installed_is_named(
        peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "NAMES", ["no-such-library"])
    with pytest.raises(UserError, match="no-such-library is not installed here"):
        peers.run([*TINY, "--out", str(tmp_path / "peers.json")])


def test_the_libraries_are_pinned_and_no_dependencies(peers: ModuleType):
    lines = (BENCHMARKS / "requirements-peers.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([a-z0-9-]+)==[0-9.]+", line) for line in lines if not line.startswith("#")]
    assert all(pins)
    names = {pin[1] for pin in pins}
    assert set(peers.NAMES) <= names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert names.isdisjoint(line.partition("==")[0] for line in wanted)
    assert names.isdisjoint(re.findall(r"^(\S+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
