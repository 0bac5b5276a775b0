"""The figures of chapters 2 to 4 that show an algorithm at work on one image."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import Tensor

from diffusegen_core.config import params
from diffusegen_core.config.params import Params, validate
from diffusegen_core.data import dataset, pairsets, phantom
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion import process, samplers
from diffusegen_core.diffusion.guided import GuidedStep, Targets, load_judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.report import algorithms, figures
from diffusegen_core.run import Run
from diffusegen_core.store import seeds
from diffusegen_core.store.workspace import Workspace

SIDE = 16


@pytest.fixture
def settings(nano_values: dict) -> Params:
    return validate({**nano_values, "inpaint": {**nano_values["inpaint"]}})


@pytest.fixture
def model(settings: Params) -> Diffusion:
    torch.manual_seed(0)
    return Diffusion(UNet(settings.model, SIDE).eval(), process.schedule(settings.process), "v")


@pytest.fixture
def pairs() -> Pairs:
    image, mask, _ = phantom.draw(0, 0, SIDE)
    return dataset.gather(["a"], image[None], mask[None])


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def cells(name: str) -> list[str]:
    """The code of a chapter's page."""
    page = json.loads((Path(__file__).parents[1] / "notebooks" / f"{name}.ipynb").read_text())
    return ["".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "code"]


def with_one_pair(model: Diffusion, pairs: Pairs, settings: Params, folder: Path, empty: bool = False,
                  loaded: list[str] | None = None) -> SimpleNamespace:
    """A run that has painted one pair, or none."""
    dataset.write_pair(folder, "a_1", 255 - pairs.images[0], pairs.masks[0])
    dataset.write(folder, pairs)
    manifest = pd.DataFrame([{"name": "a_1", "source": "a", "source_cluster": 0, "model": "cluster-01",
                              "sample": 1}])

    def load(name: str, device: str) -> Diffusion:
        if loaded is not None:
            loaded.append(name)
        return model

    return SimpleNamespace(
        params=settings, pairs=replace(pairs, file=folder / "pairs.npz"), workspace=Workspace(folder),
        windows=pairs, clusters=SimpleNamespace(labels=[0]), models=SimpleNamespace(load=load),
        inpainted=SimpleNamespace(sets={DataType("Diff", "2"): SimpleNamespace(
            manifest=manifest.head(0) if empty else manifest, folder=folder)}))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0)]


def test_a_noised_pair_and_what_the_network_makes_of_it(model: Diffusion, pairs: Pairs) -> None:
    x0 = dataset.to_tensor(pairs.take([0] * 5))
    t = torch.linspace(0, len(model.schedule) - 1, 5).long()
    x_t = model.noised(x0, t, torch.randn_like(x0))
    figure = algorithms.denoising(x_t, t, model.reverse(x_t, t).x0)
    assert [ax.get_title() for ax in figure.axes[:5]] == [f"t = {level}" for level in t.tolist()]
    assert len(figure.axes) == 20


def test_an_image_on_its_way_down_and_up(model: Diffusion, pairs: Pairs) -> None:
    few, levels = model.respaced(12), repaint_levels(12, 3, 2)
    x, known = dataset.to_tensor(pairs), torch.from_numpy(1 - pairs.masks).float()
    seen = algorithms.Recorder()
    result = repaint(few, x, known, levels, generators(), step=seen)
    assert torch.equal(result, repaint(few, x, known, levels, generators()))
    assert len(seen.images) == len(seen.levels) == network_calls(levels)
    figure = algorithms.strip(seen, result, levels)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles[0] == "i = 11"
    assert titles[-2:] == ["i = 0", "result"]
    assert len(titles) == algorithms.COLUMNS
    way, dots = figure.axes[-1].lines
    assert list(way.get_ydata()) == levels
    assert all(levels[int(place)] == level for place, level in zip(*dots.get_data(), strict=True))


def test_a_guided_step_and_its_pulls(model: Diffusion, pairs: Pairs, settings: Params) -> None:
    x = dataset.to_tensor(pairs)
    judge = load_judge(settings.style, settings.model, 0, torch.device("cpu"))
    step = GuidedStep(judge, Targets.of(judge, x, x[:, :3]))
    few, t = model.respaced(4), torch.tensor([2])
    x_t = few.noised(x, t, torch.randn_like(x))
    x_next, _ = step(few, x_t, t, generators())
    *pictures, bars = algorithms.guided_step(step, x_t, x_next).axes
    assert [ax.get_title() for ax in pictures] == ["real source", "inpainted", "before: $x_t$",
                                                   "after: $x_{t-1}$"]
    labels = [label.get_text() for label in bars.get_yticklabels()]
    assert labels == ["zecon", "vgg", "mse", "sty", "l2", "sem", "rng", "shift", "noise"]


def test_the_page_edits_an_image_as_the_run_does(nano_run: Run) -> None:
    values = params.merged(params.plain(nano_run.params), {
        "style.method": "sdedit", "style.respacing": 6, "style.skip": 2})
    names: dict = {"run": Run(params.validate(values))}
    exec(cells("04_style")[1].split("\nrun = ")[0], names)
    cell, = [one for one in cells("04_style") if "sdedit(" in one]
    exec(cell, names)
    assert names["seen"].levels == [3, 2, 1, 0]
    figure = plt.gcf()
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["inpainted", "i = 3", "i = 2", "i = 1", "i = 0", "result"]
    masks = names["inpainted"][:, 3:], names["edited"][:, 3:]
    assert torch.equal(*masks), "the mask comes back exact"


@pytest.mark.parametrize("empty", [False, True])
def test_where_no_polyp_was_painted_a_real_image_is_styled(model: Diffusion, pairs: Pairs, settings: Params,
                                                           empty: bool, tmp_path) -> None:
    loaded: list[str] = []
    inpainted, source, pixels, few = algorithms.to_style(
        with_one_pair(model, pairs, settings, tmp_path, empty, loaded))
    assert loaded == ["cluster-00" if empty else "cluster-01"]
    assert len(few.schedule) == settings.style.respacing
    assert torch.equal(source, dataset.to_tensor(pairs)[:, :3])
    assert torch.equal(pixels, source)
    assert torch.allclose(inpainted[:, :3], source if empty else -source, atol=1e-6)


def test_the_image_on_its_way_is_painted_as_the_runs_pairs_are(nano_run: Run, tmp_path: Path) -> None:
    values = params.merged(params.plain(nano_run.params), {
        "inpaint.masks": "varied", "inpaint.guidance_scale": 2.0, "inpaint.batch_size": 1,
        "inpaint.precision": "fp32", "inpaint.seamless": False, "run_dir": str(nano_run.folder)})
    run = Run(params.validate(values))
    made = next(iter(run.make("inpaint").sets.values()))
    name, seed = made.manifest["name"].iloc[0], made.manifest["seed"].iloc[0]
    x_known, known, diffusion = algorithms.to_paint(run, number=0)
    assert known.shape == (1, 4, *x_known.shape[-2:])
    p = run.params.inpaint
    levels = repaint_levels(p.respacing, p.jump_length, p.resampling)
    x = repaint(diffusion, x_known, known, levels, [seeds.generator(int(seed), "noise", device="cpu")])
    image, mask = pairsets.read_pair(made.folder, name)
    assert (dataset.to_bytes(x[0, :3].numpy()) == image).all()
    assert ((x[0, 3:].numpy() > 0) == mask).all()


def test_the_page_paints_as_the_run_by_its_sampler_and_precision(nano_run: Run) -> None:
    values = params.merged(params.plain(nano_run.params), {
        "inpaint.sampler": "ddim", "inpaint.precision": "bf16", "inpaint.clip": False})
    run = Run(params.validate(values))
    run.make("inpaint")
    cell, = [source for source in cells("03_inpaint") if "algorithms.to_paint" in source]
    names = {"run": run, "algorithms": algorithms, "repaint": repaint, "repaint_levels": repaint_levels,
             "samplers": samplers, "torch": torch}
    exec(cell, names)
    assert names["seen"].step is samplers.SAMPLERS["ddim"]
    assert (names["diffusion"].precision, names["diffusion"].clip) == ("bf16", False)


@pytest.mark.usefixtures("bf16")
def test_the_page_takes_a_guided_step_in_the_runs_precision(nano_run: Run, monkeypatch) -> None:
    values = params.merged(params.plain(nano_run.params), {"style.precision": "bf16"})
    used, call = [], Diffusion.call

    def noted(self: Diffusion, *given: Tensor) -> Tensor:
        used.append((self.precision, torch.is_autocast_enabled("cpu")))
        return call(self, *given)
    monkeypatch.setattr(Diffusion, "call", noted)
    names: dict = {"run": Run(params.validate(values))}
    start, cell = cells("04_style")[1], [one for one in cells("04_style") if "algorithms.to_style" in one]
    exec(start.split("\nrun = ")[0], names)
    exec(cell[0], names)
    assert used == [("bf16", True)]


def test_the_page_styles_as_the_run(model: Diffusion, pairs: Pairs, settings: Params, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    own = settings.model_copy(update={"style": settings.style.model_copy(
        update={"clip": False, "precision": "bf16"})})
    *_, few = algorithms.to_style(with_one_pair(model, pairs, own, tmp_path))
    assert (few.clip, few.precision) == (False, "bf16")
    windowed = own.model_copy(update={
        "data": own.data.model_copy(update={"window": 2.0, "labels": {"1": "a", "2": "b"}}),
        "inpaint": own.inpaint.model_copy(update={"classes": ["b"]})})
    given: list[tuple] = []
    monkeypatch.setattr(algorithms.spots, "windows", lambda *arguments: given.append(arguments))
    algorithms.to_style(with_one_pair(model, pairs, windowed, tmp_path))
    assert given[0][-1] == (1,), "the window is around the painted class"


def test_what_lies_outside_the_range_is_clipped() -> None:
    axes = plt.subplots(1, 2)[1]
    algorithms.both(axes, torch.tensor([9.0, -9.0, 0.0, 5.0])[:, None, None].expand(4, 2, 2))
    shown: list[Tensor] = [ax.images[0].get_array() for ax in axes]
    assert shown[0][0, 0].tolist() == [255, 0, 128]
    assert shown[1].max() == 1.0


def test_a_look_at_a_model_that_was_finished_meanwhile_shows_nothing(nano_run: Run, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch):
    shown: list[object] = []
    monkeypatch.setattr(figures, "display", lambda figure, display_id: shown.append(figure))
    watch = figures.Watch()
    watch("cluster-00", tmp_path / "making" / "train" / "cluster-00")
    assert shown == []
    watch("cluster-00", nano_run.folder / "train" / "cluster-00")
    assert len(shown) == 1
