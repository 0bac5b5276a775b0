"""One model with a label for each cluster: the clusters' models are its parts, and ordinary models."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffusegen_core.chapters import train
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.costs import Learner, Work
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion import checkpoints, origins, process, training
from diffusegen_core.diffusion.training import Training
from diffusegen_core.diffusion.unet import Conditions, UNet
from diffusegen_core.report import tables
from diffusegen_core.run import Run
from diffusegen_core.store import files, seeds
from diffusegen_core.store.stamps import STAMP
from diffusegen_core.store.workspace import Workspace

LABELS = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1]
CLUSTERS = Clusters([], np.array(LABELS), 2, [4, 6], pd.DataFrame(), "none", 0.0, Path())


def changed(p: Params, **values: object) -> Params:
    return p.model_copy(update={"train": p.train.model_copy(update=values)})


def run(p: Params, clusters: Clusters = CLUSTERS) -> train.Trained:
    """The chapter."""
    ws = Workspace(p.folder, p.seed, p.device)
    return train.run(ws, dataset.load(ws, p.data), clusters, p.train, p.model, p.process)


@pytest.fixture
def one(nano_params: Params) -> Params:
    return changed(nano_params, one_model=True)


def stirred(net: UNet) -> UNet:
    """Untrained, a network answers nothing but zero."""
    g = seeds.generator(0, "weights")
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=g))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("label", [0, 2])
def test_settled_for_a_label_a_network_answers_as_it_does_when_it_is_told_the_label(
        nano_params: Params, label: int):
    p = nano_params
    net = stirred(UNet(p.model, 16, Conditions(augment=9, labels=3)))
    x, t = torch.randn(2, 4, 16, 16, generator=seeds.generator(1)), torch.tensor([5.0, 900.0])
    told = net(x, t, label=torch.tensor([label, label]))
    other = net(x, t, label=torch.tensor([1, 1]))
    features = net.fold_conditions(label).encode(x, t)
    torch.testing.assert_close(net(x, t), told, rtol=1e-4, atol=1e-5)
    assert float((other - told).abs().max()) > 1e-3
    assert net.state_dict().keys() == UNet(p.model, 16).state_dict().keys()
    assert torch.isfinite(features[-1]).all()


def test_the_network_is_told_the_cluster_of_each_image(nano_params: Params, monkeypatch):
    p, seen, real = nano_params, [], process.losses

    def noted(net, s, x0, *rest):
        seen.append((net.keywords["label"], x0))
        return real(net, s, x0, *rest)
    monkeypatch.setattr(process, "losses", noted)
    x = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 4, 16, 16) * 20
    asked = Training("one", p.model, p.process, p.train.model_copy(update={"micro_batch": 3}), 16, 0,
                     labels=tuple(LABELS))
    state = training.start(asked, torch.device("cpu"))
    for _ in range(5):
        training.optimize(asked, state, process.schedule(p.process), x)
    for labels, x0 in seen:
        numbers = ((x0[:, 0, 0, 0] + 1) * 127.5 / 20).round().int().tolist()
        assert labels.tolist() == [LABELS[number] for number in numbers]
    assert len({int(label) for labels, _ in seen for label in labels}) == 2


def test_the_clusters_models_are_parts_of_one(one: Params):
    trained = run(one)
    assert [model.name for model in trained.all] == ["one", "cluster-00", "cluster-01"]
    whole, *parts = trained.all
    assert (whole.pairs, whole.images, whole.steps) == (10, 48, 12), "as many images as both would see"
    assert [(part.pairs, part.images, part.seconds) for part in parts] == [(4, 0, 0), (6, 0, 0)]
    recipe = files.read_json(whole.folder / STAMP)["recipe"]
    assert (recipe["clusters"], recipe["labels"], recipe["train"]["one_model"]) == (LABELS, 2, True)
    assert files.read_json(parts[0].folder / STAMP)["recipe"]["one"] == whole.sha256
    assert origins.read_fingerprints(parts[0].path) == origins.read_fingerprints(whole.path) != {}
    for label, part in enumerate(parts):
        for kind in ("ema", "raw"):
            theirs = checkpoints.load(whole.path, kind, label=label).net.state_dict()
            ours = checkpoints.load(part.path, kind).net.state_dict()
            assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        checkpoints.judge(part.path, one.model, one.process, 16)
    states = [checkpoints.load(part.path).net.state_dict() for part in parts]
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == [
        "time_embed.2.bias"]
    before = [model.path.stat().st_mtime_ns for model in trained.all]
    assert [model.path.stat().st_mtime_ns for model in run(one).all] == before


def test_the_full_sets_model_stays_where_the_clusters_become_parts_of_one(nano_params: Params, caplog):
    p = changed(nano_params, full_images=8)
    full = run(p).full
    assert run(changed(p, one_model=True)).full == full
    assert "train/full is replaced" not in caplog.text


def test_other_clusters_are_another_model(one: Params):
    first = run(one)
    other = Clusters([], np.array([1, *LABELS[1:]]), 2, [3, 7], pd.DataFrame(), "none", 0.0, Path())
    assert run(one, other)["cluster-00"].sha256 != first["cluster-00"].sha256
    assert run(one)["cluster-00"].sha256 == first["cluster-00"].sha256


def test_a_model_with_labels_is_loaded_for_one_of_them(one: Params):
    trained = run(one)
    for label in (None, 2, -1):
        with pytest.raises(UserError, match="a model of 2 labels, 0 to 1"):
            checkpoints.load(trained["one"].path, label=label)
    with pytest.raises(UserError, match="a model without labels"):
        checkpoints.load(trained["cluster-00"].path, label=0)
    with pytest.raises(UserError, match="labels: 2 -> None"):
        checkpoints.judge(trained["one"].path, one.model, one.process, 16)


def test_the_later_chapters_paint_with_its_parts(one: Params):
    made = Run(one).make("inpaint")
    assert [str(data_type) for data_type in made.sets] == ["2-Diff"]
    assert "all by one model" in str(tables.network(one))


def test_one_model_has_no_base(nano: dict):
    nano["train"] |= {"one_model": True, "base_images": 8}
    with pytest.raises(UserError, match=r"train\.base_images must be null"):
        params.validate(nano)


def test_a_killed_training_of_one_model_goes_on_to_the_same_bits(one: Params, tmp_path: Path, monkeypatch):
    alone = run(one.model_copy(update={"run_dir": str(tmp_path / "alone")}))
    real = train.optimize

    def dying(asked: Training, state: training.State, *rest: object) -> torch.Tensor:
        if state.step == 7:
            raise KeyboardInterrupt
        return real(asked, state, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", dying)
        with pytest.raises(KeyboardInterrupt):
            run(one)
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", lambda asked, state, *rest: steps.append(state.step) or real(
            asked, state, *rest))
        trained = run(one)
    assert steps == list(range(6, 12))
    assert [model.sha256 for model in trained.all] == [model.sha256 for model in alone.all]


def test_together_the_options_keep_a_longer_training_the_same_bits(one: Params, tmp_path: Path):
    on = changed(one, augment=0.3, lr_decay=0.5, lesion_weight=4.0, min_snr=5.0, micro_batch=3)
    alone = run(changed(on, images=40).model_copy(update={"run_dir": str(tmp_path / "alone")}))
    run(on)
    longer = run(changed(on, images=40))
    assert [model.sha256 for model in longer.all] == [model.sha256 for model in alone.all]


def test_the_plan_counts_one_training_and_what_is_kept_of_it(one: Params):
    each = Work(*[None] * 2, Learner(1.0, 3.0, 100), [], 0.0, 0.0, None, Planes())

    def costs(**values: object) -> dict[str, tuple]:
        found = train.costs(changed(one, **values).train, 2, 16, each)
        return {cost.work: (cost.items, cost.images, cost.disk) for cost in found if "grids" not in cost.work}
    assert costs(one_model=False) == {"cluster models": (2, 48, 2 * 2 * 800)}
    assert costs() == {"cluster models, parts of one": (2, 0, 2 * 800),
                       "model of all clusters": (1, 48, 2 * 800)}
    assert costs(one_model=False, lr_decay=0.2) == {"cluster models": (2, 48, 2 * 3 * 800)}
