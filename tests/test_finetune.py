"""One base, many clusters: what is taken over, what makes a model again, and that nothing else changed."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import supply_of

from diffusegen_core.chapters import train
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.report import tables
from diffusegen_core.store import files
from diffusegen_core.store.stamps import ASIDE, MAKING, STAMP
from diffusegen_core.store.workspace import Workspace

SHORT = {"images": 12, "checkpoint_every": 2, "preview_every": 100, "preview_images": 1, "preview_steps": 2}
# Two clusters of ten pairs, without a backbone.
CLUSTERS = Clusters([], np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1]), 2, [4, 6], pd.DataFrame(), "none", 0.0,
                    Path())


def run(p: Params) -> train.Trained:
    """The chapter."""
    ws = Workspace(p.folder, p.seed, p.device)
    return train.run(ws, dataset.load(ws, p.data), CLUSTERS, p.train, p.model, p.process)


def changed(p: Params, **values: object) -> Params:
    return p.model_copy(update={"train": p.train.model_copy(update=values)})


def tensors_of(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    return checkpoints.part(checkpoints.read(folder / "model.safetensors")[0], f"{kind}.")


def stamp(folder: Path) -> dict:
    return files.read_json(folder / STAMP)


def times(trained: train.Trained) -> dict[str, int]:
    return {m.name: m.path.stat().st_mtime_ns for m in trained.all}


@pytest.fixture
def alone(nano_params: Params) -> Params:
    """Models that start from nothing."""
    return changed(nano_params, **SHORT)


@pytest.fixture
def based(alone: Params) -> Params:
    """Models that start from a base of 16 images."""
    return changed(alone, base_images=16)


@pytest.fixture(scope="module")
def once(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `based`, finished."""
    folder = tmp_path_factory.mktemp("once")
    p = params.validate({**nano_values, "run_dir": str(folder)})
    run(changed(p, **SHORT, base_images=16))
    return folder


@pytest.fixture
def finished(based: Params, once: Path) -> Params:
    """`based`, with a copy of that run."""
    shutil.copytree(once, based.folder)
    return based


def test_recipes_without_a_base_name_all_that_decides_a_model_and_nothing_else(alone: Params):
    p = changed(alone, full_images=8, preview_sampler="dpmpp")
    made = {m.name: stamp(m.folder)["recipe"] for m in run(p).all}
    assert list(made) == ["cluster-00", "cluster-01", "full"]
    pairs = dataset.load(Workspace(p.folder, p.seed), p.data)
    for name, images in (("cluster-00", 12), ("full", 8)):
        digest = made[name]["pairs"]
        assert (digest == pairs.digest) == (name == "full")
        assert made[name] == {
            "version": 1, "pairs": digest, "seed": 0, "name": name, "images": images, "image_size": 16,
            "model": {"base_channels": 32, "channel_mult": [1, 1], "res_blocks": 1,
                      "attention_resolutions": [], "head_channels": 32, "dropout": 0.0},
            "process": {"steps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "objective": "v",
                        "variance": "posterior"},
            "train": {"batch_size": 4, "lr": 1e-3, "weight_decay": 0.0, "flip": 0.5, "grad_clip": 1.0,
                      "ema": 0.999, "precision": "fp32"}}


def test_a_base_of_all_pairs_comes_first_and_the_clusters_start_from_it(based: Params, monkeypatch):
    started, real = {}, train.start

    def noted(asked: train.Training, *rest: object) -> train.State:
        state = real(asked, *rest)
        weights = [{k: v.clone() for k, v in net.state_dict().items()} for net in (state.net, state.average)]
        started[asked.name] = (*weights, len(state.optimizer.state), state.step)
        return state
    monkeypatch.setattr(train, "start", noted)
    trained = run(based)
    assert list(started) == ["base", "cluster-00", "cluster-01"]
    assert (trained.base.name, trained.base.pairs, trained.full) == ("base", 10, None)
    assert list(trained.table.index) == ["base", "cluster-00", "cluster-01"]
    assert [(m.images, m.steps) for m in trained.all] == [(16, 4), (12, 3), (12, 3)]
    assert trained.seconds == pytest.approx(sum(m.seconds for m in trained.all))

    averaged, raw = (tensors_of(trained.base.folder, kind) for kind in ("ema", "raw"))
    assert not all(torch.equal(averaged[k], raw[k]) for k in averaged), "the test must tell them apart"
    for name in ("cluster-00", "cluster-01"):
        net, average, moments, step = started[name]
        assert (moments, step) == (0, 0)
        assert all(torch.equal(net[k], averaged[k]) for k in averaged)
        assert all(torch.equal(average[k], averaged[k]) for k in averaged)
    own = [tensors_of(m.folder, "raw")["out.2.weight"] for m in trained.all]
    assert not any(torch.equal(a, b) for a, b in ((own[0], own[1]), (own[1], own[2])))

    recipe = stamp(trained.models[0].folder)["recipe"]
    assert recipe["base"] == files.sha256(trained.base.path)
    assert "base" not in stamp(trained.base.folder)["recipe"]
    assert "base_images" not in recipe["train"]
    before = times(trained)
    assert times(run(changed(based, preview_sampler="ddim"))) == before


def test_another_base_makes_other_clusters_and_what_was_there_comes_back(
        finished: Params, monkeypatch, caplog):
    first = run(finished)
    before, hashed = times(first), first.base.sha256
    with caplog.at_level(logging.WARNING):
        longer = run(changed(finished, base_images=20))
    assert all(value > before[name] for name, value in times(longer).items())
    assert "images: 16 -> 20" in caplog.text
    assert f"base: {hashed[:12]}... -> {longer.base.sha256[:12]}..." in caplog.text
    kept = {path.parent.parent.name for path in (finished.folder / ASIDE / "train").rglob(STAMP)}
    assert kept == set(before)
    later = times(longer)
    without = run(changed(finished, base_images=None))
    assert list(times(without)) == ["cluster-00", "cluster-01"]
    assert all(value > later[name] for name, value in times(without).items())
    monkeypatch.setattr(train, "optimize", None)
    assert times(run(finished)) == before
    assert times(run(changed(finished, base_images=20))) == later


@pytest.mark.parametrize(("full_images", "base"), [(16, "full"), (24, "base")])
def test_the_full_sets_model_is_the_base_where_both_see_as_many_images(
        based: Params, monkeypatch, full_images: int, base: str):
    fitted, real = [], train._fit
    monkeypatch.setattr(train, "_fit", lambda task: fitted.append(task.name) or real(task))
    trained = run(changed(based, full_images=full_images))
    assert fitted == list(dict.fromkeys([base, "cluster-00", "cluster-01", "full"]))
    assert (trained.base.name, trained.full.name, trained.full.images) == (base, "full", full_images)
    assert [m.name for m in trained.all] == [*([] if base == "full" else ["base"]),
                                             "cluster-00", "cluster-01", "full"]
    assert "base" not in stamp(trained.full.folder)["recipe"], "it starts from nothing, whatever the base"
    for model in trained.models:
        assert stamp(model.folder)["recipe"]["base"] == files.sha256(trained.base.path)


class Killed(BaseException):
    """Stands for a kill at one line: nothing of ours may catch it."""


@pytest.mark.parametrize("step", [0, 2])
def test_fine_tuning_that_is_killed_ends_with_the_same_bits(finished: Params, once: Path, monkeypatch, step):
    shutil.rmtree(finished.folder / "train" / "cluster-01")
    real = train.optimize

    def dying(asked: train.Training, state: train.State, *rest: object) -> torch.Tensor:
        if (asked.name, state.step) == ("cluster-01", step):
            raise Killed
        return real(asked, state, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", dying)
        with pytest.raises(Killed):
            run(finished)
    taken = []
    monkeypatch.setattr(train, "optimize", lambda *args: taken.append(args[0].name) or real(*args))
    mine = run(finished).models[1].folder
    assert taken == ["cluster-01"] * (3 - step)
    for name in ("model.safetensors", "log.csv", "samples/0000012.png"):
        assert (mine / name).read_bytes() == (once / "train" / "cluster-01" / name).read_bytes(), name


def test_half_done_fine_tuning_starts_again_from_another_base_and_waits_for_its_own(
        finished: Params, once: Path, monkeypatch):
    shutil.rmtree(finished.folder / "train" / "cluster-00")
    real = train.optimize

    def dying(asked: train.Training, state: train.State, *rest: object) -> torch.Tensor:
        if (asked.name, state.step) == ("cluster-00", 2):
            raise Killed
        return real(asked, state, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", dying)
        with pytest.raises(Killed):
            run(finished)
    taken = []
    monkeypatch.setattr(train, "optimize", lambda *args: taken.append(args[0].name) or real(*args))
    run(changed(finished, base_images=8))
    assert taken == ["base"] * 2 + ["cluster-00"] * 3 + ["cluster-01"] * 3
    assert [path.parent.parent.name for path in (finished.folder / MAKING).rglob(train.CHECKPOINT)] == [
        "cluster-00"]
    taken.clear()
    mine = run(finished).models[0]
    assert taken == ["cluster-00"], "the third step of three"
    assert mine.path.read_bytes() == (once / "train" / "cluster-00" / mine.path.name).read_bytes()


def test_finished_checkpoints_need_no_base(based: Params, once: Path):
    p = changed(based, checkpoints=str(once / "train"))
    trained = run(p)
    assert (trained.base, trained.full) == (None, None)
    assert not (p.folder / "train" / "base").exists()
    for model in trained.models:
        theirs = once / "train" / model.name
        assert stamp(model.folder)["recipe"]["released"] == files.sha256(theirs / "model.safetensors")
        wanted = tensors_of(theirs, "ema")
        assert all(torch.equal(v, wanted[k]) for k, v in tensors_of(model.folder, "ema").items())


def test_a_base_is_no_data_type_and_the_table_of_the_network_tells_of_it(based: Params):
    assert not [name for name in supply_of(based) if name.name.startswith(("Full", "base"))]
    assert "12, after 16 of a common base" in str(tables.network(based)._repr_html_())
