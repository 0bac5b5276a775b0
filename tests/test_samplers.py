"""The samplers against data of which the answer is known: normal, with a network that is their exact mean."""

import json
import runpy
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusegen_core.chapters import inpaint, train
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, Process
from diffusegen_core.data import regions
from diffusegen_core.diffusion import checkpoints, process, samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.measures import metrics
from diffusegen_core.run import Run
from diffusegen_core.store import seeds

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SHAPE = (4, 6, 6)
MEAN, SPREAD = 0.1, 0.2  # of the data: within [-1, 1] by 4.5 deviations
EPS = Process(objective="eps", variance="posterior")
SOLVERS = ["ddim", "dpmpp"]


def even(count: int) -> process.Schedule:
    """A schedule that is even in lambda = log(alpha / sigma), from +4 to -4, which the network is told."""
    told = torch.linspace(4, -4, count, dtype=torch.float64)
    alpha_bar = torch.sigmoid(2 * told)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    unused = torch.zeros(count, dtype=torch.float64)
    return process.Schedule(told, 1 - alpha_bar / before, alpha_bar, before, unused, unused)


def exact_mean(x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """E[x0 | x_t] of the data, which an ideally trained network would know."""
    gain = alpha_bar.sqrt() * SPREAD**2 / (alpha_bar * SPREAD**2 + 1 - alpha_bar)
    return MEAN + gain * (x_t - alpha_bar.sqrt() * MEAN)


def ideal(objective: str, alpha_bar_of) -> process.Network:
    def net(x_t: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        a = alpha_bar_of(told)[:, None, None, None]
        x_t = x_t.double()
        x0 = exact_mean(x_t, a)
        eps = (x_t - a.sqrt() * x0) / (1 - a).sqrt()
        prediction = eps if objective == "eps" else a.sqrt() * eps - (1 - a).sqrt() * x0
        return torch.cat([prediction, torch.zeros_like(prediction)], dim=1)
    return net


def told_lambda(told: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(2 * told.double())


def told_timestep(told: torch.Tensor) -> torch.Tensor:
    return process.schedule(EPS).alpha_bar[told.long()]


def own(count: int) -> list[torch.Generator]:
    return [seeds.generator(3, i) for i in range(count)]


def end_of_the_ode(s: process.Schedule, count: int) -> torch.Tensor:
    """Where the probability-flow ODE leads from the noise of `own`: every deviation keeps its rank."""
    x = seeds.normal_like(own(count), torch.empty(count, *SHAPE)).double()
    first, last = s.alpha_bar[-1], s.alpha_bar[0]
    scale = ((last * SPREAD**2 + 1 - last) / (first * SPREAD**2 + 1 - first)).sqrt()
    return exact_mean(last.sqrt() * MEAN + scale * (x - first.sqrt() * MEAN), last)


def sampled(name: str, net: process.Network, s: process.Schedule, generators: list[torch.Generator],
            objective: str) -> torch.Tensor:
    return samplers.sample(Diffusion(net, s, objective), SHAPE, generators, samplers.SAMPLERS[name])


@pytest.mark.parametrize("objective", ["eps", "v"])
@pytest.mark.parametrize("name", SOLVERS)
def test_normal_data_get_their_mean_and_deviation_in_few_steps(name: str, objective: str):
    net = ideal(objective, told_lambda)
    x = sampled(name, net, even(30), own(40), objective)
    assert (x.shape, x.dtype) == ((40, *SHAPE), torch.float32)
    # 5,760 values: a standard error of 0.003 and 0.002; DDIM is short of the deviation by its error.
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(x.std()) == pytest.approx(SPREAD, abs=0.03 if name == "ddim" else 0.01)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_respaced_linear_schedule_leads_to_the_same_data(name: str):
    """All of the process's own steps lead where the ODE does, and a tenth of them near it."""
    net, wanted = ideal("eps", told_timestep), end_of_the_ode(process.schedule(EPS), 4)
    every, tenth = (sampled(name, net, process.schedule(EPS, count), own(4), "eps")
                    for count in (1000, 100))
    assert float((every - wanted).norm() / (wanted - MEAN).norm()) < 0.01
    assert float((tenth - wanted).norm() / (wanted - MEAN).norm()) < 0.1


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp", 2)])
def test_the_error_falls_by_the_samplers_order(name: str, order: int):
    """Twice the steps have half the error (DDIM), or a quarter of it (DPM-Solver++), of the same solution."""
    errors = []
    for count in (41, 81, 161, 321):
        s = even(count)
        x = sampled(name, ideal("v", told_lambda), s, own(3), "v")
        errors.append(float((x - end_of_the_ode(s, 3)).norm()))
    falls = [before / after for before, after in pairwise(errors)]
    assert all(2**order * 0.9 < fall < 2**order * 1.1 for fall in falls), falls


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_an_image_depends_on_its_own_generator_alone(name: str):
    net, s = ideal("v", told_timestep), process.schedule(EPS, 8)
    together, again = (sampled(name, net, s, own(3), "v") for _ in range(2))
    alone = sampled(name, net, s, own(3)[2:], "v")
    assert torch.equal(together, again)
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_network_call_a_level_from_the_noisiest_on_and_no_noise_but_the_first(name: str):
    s, told, generators = process.schedule(EPS, 6), [], own(1)

    def net(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        told.append(float(timestep[0]))
        return ideal("v", told_timestep)(x_t, timestep)
    sampled(name, net, s, generators, "v")
    assert told == s.timestep.flip(0).tolist()
    fresh = own(1)
    seeds.normal_like(fresh, torch.empty(1, *SHAPE))
    assert torch.equal(generators[0].get_state(), fresh[0].get_state())


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize("count", [2, 5])
def test_what_the_network_aims_at_is_kept_within_the_range(name: str, count: int):
    def far(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x_t), 8, *SHAPE[1:]), -9.0)  # v = -9: an x0 far above 1
    x = sampled(name, far, process.schedule(EPS, count), own(2), "v")
    torch.testing.assert_close(x, torch.ones(2, *SHAPE), rtol=0, atol=1e-6)


def test_a_sample_grid_is_drawn_by_the_sampler_asked_for(nano: dict, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(samplers.SAMPLERS, "ddim", lambda diffusion, x_t, *rest: (torch.ones_like(x_t),) * 2)
    for name, white in (("ancestral", False), ("ddim", True)):
        values = {**nano, "run_dir": str(tmp_path / name), "train": nano["train"] | {"preview_sampler": name}}
        model = Run(params.validate(values)).make("train").models[0]
        grid = np.asarray(Image.open(model.folder / "samples" / "0000012.png"))
        assert grid.shape == (32, 32, 3)
        assert bool((grid == 255).all()) == white


def test_a_sampler_that_there_is_not_is_refused(nano: dict):
    nano["train"]["preview_sampler"] = nano["inpaint"]["sampler"] = "euler"
    for chapter in (train, inpaint):
        told, = chapter.check(params.validate(nano))
        assert "sampler: There is no sampler euler. Samplers are ancestral, ddim, dpmpp." in told


@pytest.fixture
def trained(nano: dict) -> Run:
    """A run with chapters 1 and 2, small and quick to judge."""
    run = Run(params.validate({
        **nano, "evaluate": {"backbone": "timm/test_nfnet"},
        "inpaint": {**nano["inpaint"], "precision": "bf16"},
        "train": {**nano["train"], "images": 4, "preview_steps": 1}}))
    run.make("train")
    return run


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What benchmarks/samplers.py defines."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "samplers.py"))


@pytest.mark.slow
def test_the_benchmark_measures_every_sampler_and_schedule_of_a_run(trained: Run, benchmark: dict, capsys,
                                                                    monkeypatch: pytest.MonkeyPatch):
    loaded, load = [], checkpoints.load
    monkeypatch.setattr(checkpoints, "load", lambda *given: loaded.append(load(*given)) or loaded[-1])
    file = trained.folder.parent / "measured.json"
    benchmark["main"]([str(trained.folder), "--images", "4", "--repeats", "2", "--steps", "3", "2",
                       "--schedules", "6/2/2", "4/2/1", "--json", str(file)])
    found = json.loads(file.read_text())
    assert (found["images"], found["repeats"], found["profile"]) == (4, 2, "nano")
    assert found["params"] == params.plain(trained.params) | {"run_dir": str(trained.folder)}
    assert {row["what"]: row["network calls"] for row in found["rows"]} == {
        "real": 0, "the sources themselves": 0, "ancestral 2": 2, "ddim 2": 2, "dpmpp 2": 2,
        "ancestral 3": 3, "ddim 3": 3, "dpmpp 3": 3, "RePaint 4/2/1": 4, "RePaint 6/2/2": 10}
    name = "FD-test_nfnet (random weights)"
    for row in found["rows"]:
        assert 0 < row[name]["least"] <= row[name]["median"] <= row[name]["largest"]
        assert ("seconds an image" in row) == (row["what"] not in ("real", "the sources themselves"))
        filled = row["what"].startswith("RePaint") or row["what"] == "the sources themselves"
        assert (f"{name} of boxes" in row) == ("seam" in row) == filled
    shown = capsys.readouterr().out
    assert all(row["what"] in shown for row in found["rows"])
    # Loaded once each, and rounded as chapter 3 does it.
    stems = [model.net.input_blocks[0][0].weight.dtype for model in loaded]
    assert stems == [torch.bfloat16] * trained.params.cluster.k


def test_the_sources_themselves_are_measured_without_a_network_call(trained: Run, benchmark: dict):
    file = trained.folder.parent / "measured.json"
    benchmark["main"]([str(trained.folder), "--images", "5", "--parts", "sources", "--json", str(file)])
    _, row = json.loads(file.read_text())["rows"]
    pairs, p = trained.pairs, trained.params
    filled = regions.all_dilated(pairs.masks[:5], p.inpaint.dilate)
    seams = [regions.seam(*both) for both in zip(pairs.images[:5], filled, strict=True)]
    assert row["seam"]["median"] == row["seam"]["largest"] == pytest.approx(float(np.mean(seams)))
    first, all_of_them = (metrics.extract(images, p.evaluate, torch.device("cpu"), p.seed)
                          for images in (pairs.images[:5], pairs.images))
    assert row[metrics.names(p.evaluate)[0]]["median"] == pytest.approx(metrics.frechet(first, all_of_them))


@pytest.mark.parametrize("gone", ["data", "cluster", "train/cluster-01"])
def test_the_benchmark_makes_nothing_in_a_chapters_place(gone: str, trained: Run, benchmark: dict):
    shutil.rmtree(trained.folder / gone)
    with pytest.raises(UserError, match=gone):
        benchmark["main"]([str(trained.folder), "--images", "4", "--parts", "sampling"])
    assert not (trained.folder / gone).exists()


@pytest.mark.parametrize(("options", "complaint"), [
    (["--schedules", "5000/10/5"], r"inpaint\.respacing 5000 exceeds process\.steps 1000\."),
    (["--schedules", "5/5/2"], r"inpaint\.jump_length 5 must be below"),
    (["--schedules", "5/4/0"], r"inpaint\.resampling: .*greater than 0"),
    (["--schedules", "5/4/1000000"], r"has 4000001 network calls an image, more than"),
    (["--steps", "1001"], r"1001 steps are more than the 1000"),
    (["--device", "mps"], r"device: .*, not 'mps'"),
])
def test_the_benchmark_refuses_what_the_parameters_would(options: list[str], complaint: str, benchmark: dict,
                                                         nano_params: Params):
    Run(nano_params).make("data")
    with pytest.raises(UserError, match=complaint):
        benchmark["main"]([str(nano_params.folder), *options])


@pytest.mark.parametrize("options", [
    ["--schedules", "5/4"], ["--schedules", "5/4/1", "5/4/1"], ["--steps", "0"], ["--batch", "-3"],
    ["--images", "2"], ["--repeats", "0"], ["--json", str(Path(__file__).parent)]])
def test_an_option_that_the_benchmark_cannot_use_is_one_sentence(options: list[str], benchmark: dict,
                                                                 nano_params: Params, capsys):
    Run(nano_params).make("data")
    with pytest.raises(SystemExit, match="2"):
        benchmark["main"]([str(nano_params.folder), *options])
    assert f"error: {'argument ' if options[0] != '--images' else ''}{options[0]}" in capsys.readouterr().err
