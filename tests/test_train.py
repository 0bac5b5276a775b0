"""Training: it learns, and a killed run ends with the same bits as one that was left alone."""

import logging
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffusegen_core.chapters import train
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import checkpoints, training
from diffusegen_core.store import runs

CPU = torch.device("cpu")


def changed(p: Params, *overrides: tuple[str, object]) -> Params:
    return params.validate(params.override(params.plain(p), [(key, str(value)) for key, value in overrides]))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(folder / "model.safetensors")[0]


# ---- learning

def test_a_cluster_of_one_image_trains(nano_params: Params):
    model = train.train_model(nano_params, "cluster-00", [3])
    assert (model.pairs, model.images, model.steps) == (1, 24, 6)
    assert np.isfinite(model.loss)
    net = checkpoints.load_net(model.path, nano_params, CPU)
    assert model.parameters == sum(p.numel() for p in net.parameters())


def test_a_diverging_training_stops_and_says_so(nano_params: Params):
    p = changed(nano_params, ("train.lr", 1e30), ("train.grad_clip", "null"), ("train.images", 400))
    with pytest.raises(UserError, match=r"cluster-00: the training diverged.*train\.lr"):
        train.train_model(p, "cluster-00", [0, 1])
    assert not (p.folder / "train" / "cluster-00" / "model.safetensors").exists()


# ---- the whole chapter

def test_a_run_trains_a_model_for_each_cluster_and_one_for_all(nano_params: Params):
    p = changed(nano_params, ("train.full_images", 30))
    shown = []
    trained = train.run(p, lambda folder: shown.append((folder.name, len(pd.read_csv(folder / "log.csv")))))
    assert [m.name for m in trained.models] == ["cluster-00", "cluster-01"]
    assert trained.full.name == "full"
    assert [m.pairs for m in trained.all][2] == sum(m.pairs for m in trained.models) == 10
    # 30 images fill 8 batches.
    assert [(m.images, m.steps) for m in trained.all] == [(24, 6), (24, 6), (32, 8)]
    assert list(trained.table.index) == ["cluster-00", "cluster-01", "full"]
    assert shown == [("cluster-00", 2), ("cluster-00", 6), ("cluster-01", 2), ("cluster-01", 6),
                     ("full", 2), ("full", 6), ("full", 8)]
    for model in trained.all:
        log = pd.read_csv(model.folder / "log.csv")
        assert log["step"].tolist() == list(range(1, model.steps + 1))
        np.testing.assert_allclose(log["loss"], log["mse"] + log["vb"], rtol=1e-5)
        assert model.loss == pytest.approx(log["loss"].iloc[-1], rel=1e-5)
        files = sorted(f.name for f in model.folder.iterdir())
        assert files == ["log.csv", "made.json", "model.safetensors", "samples"]
        grids = sorted(f.name for f in (model.folder / "samples").iterdir())
        assert grids == [f"{images:07d}.png" for images in sorted({12, 24, model.images})]
        assert Image.open(model.folder / "samples" / grids[0]).size == (2 * 16, 2 * 16)
    weights = [tensors_of(m.folder)["raw.time_embed.0.weight"] for m in trained.all]
    assert not torch.equal(weights[0], weights[1])


def test_a_finished_model_is_left_alone_and_a_changed_parameter_is_named(nano_params: Params, caplog):
    model = train.train_model(nano_params, "cluster-00", [0, 1])
    before = model.path.stat().st_mtime_ns
    same = changed(nano_params, ("train.checkpoint_every", 5), ("train.micro_batch", 1),
                   ("train.preview_steps", 2), ("inpaint.samples", 9))
    with caplog.at_level(logging.WARNING):
        assert train.train_model(same, "cluster-00", [0, 1]) == model
        assert model.path.stat().st_mtime_ns == before
        assert caplog.text == ""
        again = train.train_model(changed(nano_params, ("train.lr", 0.5), ("seed", 3)), "cluster-00", [0, 1])
    assert again.path.stat().st_mtime_ns > before
    assert "train.lr: 0.001 -> 0.5" in caplog.text
    assert "seed: 0 -> 3" in caplog.text


# ---- resuming

def work(values: dict) -> None:
    torch.set_num_threads(1)
    train.train_model(params.validate(values), "cluster-00", [0, 1, 2])


@pytest.fixture
def long(nano: dict) -> dict:
    """Forty steps with a checkpoint at every second one, so that a kill is bound to hit something."""
    nano["train"] |= {"images": 160, "checkpoint_every": 2, "preview_every": 7}
    nano["model"]["dropout"] = 0.1
    return nano


def steps_done(folder: Path) -> int:
    try:
        return len(checkpoints.read(folder / "checkpoint.safetensors")[0]["history"])
    except UserError:
        return 0


def writing(folder: Path) -> bool:
    return any(f.suffix == ".safetensors" and f.stat().st_size for f in folder.glob(f"{runs.WRITING}*"))


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(long: dict, tmp_path: Path, killable):
    def launch(values: dict):
        started = killable.Process(target=work, args=(values,))
        started.start()
        return started
    whole = launch({**long, "run_dir": str(tmp_path / "alone")})
    whole.join(timeout=600)
    assert whole.exitcode == 0
    alone = tmp_path / "alone" / "train" / "cluster-00"

    folder = tmp_path / "run" / "train" / "cluster-00"
    done = []
    for moment in (lambda: steps_done(folder) >= 1, lambda: writing(folder), lambda: steps_done(folder) > 20):
        killed = launch(long)
        while not (caught := moment()) and killed.is_alive():
            time.sleep(0.001)
        killed.kill()
        killed.join()
        assert (caught, killed.exitcode) == (True, -signal.SIGKILL), "every kill must come in the middle"
        done.append(steps_done(folder))
    assert done == sorted(done)
    assert 20 < done[-1] < 40
    assert not (folder / "model.safetensors").exists()

    last = launch(long)
    last.join(timeout=600)
    assert last.exitcode == 0
    for name in ("model.safetensors", "log.csv", "samples/0000160.png"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


class Killed(BaseException):
    """Stands for a kill at one line: nothing of ours may catch it."""


@pytest.mark.parametrize(("module", "name", "call"), [
    (runs, "write", 1), (runs, "write", 2), (runs, "write", 4), (runs, "write", 7), (runs, "write", 8),
    (runs, "write", 9), (runs, "write", 10), (runs, "finish", 1), (train, "conclude", 1)])
def test_a_kill_before_any_write_is_made_good(
        nano_params: Params, tmp_path: Path, monkeypatch, module, name: str, call: int):
    """The ten writes of six steps: log and checkpoint at 2, grid at 3, log and checkpoint at 4, grid, log,
    checkpoint, model and stamp at 6."""
    dataset.load(nano_params)
    alone = train.train_model(changed(nano_params, ("run_dir", tmp_path / "alone")), "cluster-00", [0, 1])
    real, calls = getattr(module, name), []

    def dying(*args: object, **kwargs: object):
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying)
        with pytest.raises(Killed):
            train.train_model(nano_params, "cluster-00", [0, 1])
    model = train.train_model(nano_params, "cluster-00", [0, 1])
    assert model.path.read_bytes() == alone.path.read_bytes()
    for file in ("log.csv", "samples/0000012.png", "samples/0000024.png"):
        assert (model.folder / file).read_bytes() == (alone.folder / file).read_bytes()


def interrupted(p: Params, monkeypatch, steps: int) -> Path:
    """A training that was killed after so many steps; the folder of its model."""
    real = train.optimize

    def dying(asked: training.Training, state: training.State, *rest: object) -> torch.Tensor:
        if state.step == steps:
            raise Killed
        return real(asked, state, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", dying)
        with pytest.raises(Killed):
            train.train_model(p, "cluster-00", [0, 1])
    return p.folder / "train" / "cluster-00"


def steps_taken(p: Params, monkeypatch) -> int:
    """How many steps it takes to finish."""
    real, taken = train.optimize, []
    monkeypatch.setattr(train, "optimize", lambda *args: taken.append(1) or real(*args))
    train.train_model(p, "cluster-00", [0, 1])
    return len(taken)


def test_no_step_is_done_twice_after_the_last_checkpoint_of_a_batch_that_does_not_divide(
        nano_params: Params, monkeypatch):
    p = changed(nano_params, ("train.images", 22))  # six batches of 4 make 24
    with monkeypatch.context() as patch:
        patch.setattr(train, "conclude", _die)
        with pytest.raises(Killed):
            train.train_model(p, "cluster-00", [0, 1])
    assert steps_taken(p, monkeypatch) == 0


def _die(*args: object) -> None:
    raise Killed


@pytest.mark.parametrize("harm", [
    lambda path: path.write_bytes(path.read_bytes()[:-100]), lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:50])])
def test_a_truncated_checkpoint_is_named_and_training_starts_again(
        nano_params: Params, monkeypatch, caplog, harm):
    folder = interrupted(nano_params, monkeypatch, steps=5)
    harm(folder / "checkpoint.safetensors")
    assert steps_taken(nano_params, monkeypatch) == 6
    assert f"{folder / 'checkpoint.safetensors'} cannot be read as a checkpoint" in caplog.text
    assert "Training starts again." in caplog.text


@pytest.mark.parametrize(("override", "taken", "says"), [
    (("train.images", 40), 6, ""),  # four of ten steps are done
    (("train.micro_batch", 2), 2, ""),
    (("train.images", 8), 2, "images: 16 -> 8"),
    (("train.lr", 0.01), 6, "train.lr: 0.001 -> 0.01"),
    (("process.objective", "eps"), 6, "process.objective: v -> eps"),
])
def test_an_unfinished_training_goes_on_only_with_the_same_parameters(
        nano_params: Params, monkeypatch, caplog, override, taken, says):
    folder = interrupted(nano_params, monkeypatch, steps=5)
    assert [f.name for f in (folder / "samples").iterdir()] == ["0000012.png"]
    old = (folder / "samples" / "0000012.png").stat().st_mtime_ns
    assert steps_taken(changed(nano_params, override), monkeypatch) == taken
    assert says in caplog.text
    assert ("starts again" in caplog.text) == bool(says)
    if says and (grid := folder / "samples" / "0000012.png").exists():
        assert grid.stat().st_mtime_ns > old, "a sample grid of other parameters may not stay"


# ---- finished checkpoints

@pytest.fixture
def finished(nano_params: Params, tmp_path: Path) -> Path:
    """A folder of released checkpoints for both clusters."""
    folder = tmp_path / "released"
    folder.mkdir()
    for k in range(2):
        net = training.start(train.training_of(changed(nano_params, ("seed", k)), "any"), CPU).net
        torch.save(net.state_dict(), folder / f"cluster_{k}_110000.pt")
    return folder


def test_released_checkpoints_are_used_untrained(nano_params: Params, finished: Path):
    p = changed(nano_params, ("train.checkpoints", finished), ("process.objective", "eps"))
    trained = train.run(p)
    assert [(m.steps, m.images) for m in trained.models] == [(0, 0), (0, 0)]
    assert np.isnan([m.loss for m in trained.models]).all()
    for k, model in enumerate(trained.models):
        state = torch.load(finished / f"cluster_{k}_110000.pt", weights_only=True)
        net = checkpoints.load_net(model.path, p, CPU)
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    before = [m.path.stat().st_mtime_ns for m in trained.models]
    assert [m.path.stat().st_mtime_ns for m in train.run(p).models] == before
    other = training.start(train.training_of(p, "other"), CPU).net
    torch.save(other.state_dict(), finished / "cluster_1_110000.pt")
    after = [m.path.stat().st_mtime_ns for m in train.run(p).models]
    assert after[0] == before[0]
    assert after[1] > before[1]


def test_models_of_another_run_are_used_with_the_weights_asked_for(nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    made = train.run(other)
    for kind in ("ema", "raw"):
        p = changed(nano_params, ("train.checkpoints", other.folder / "train"),
                    ("train.sample_weights", kind))
        for theirs, ours in zip(made.models, train.run(p).models, strict=True):
            wanted = checkpoints.part(tensors_of(theirs.folder), f"{kind}.")
            net = checkpoints.load_net(ours.path, p, CPU)
            assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())


def test_models_tell_the_images_that_they_have_seen(nano_params: Params):
    """Its own; with a base all, since that has seen them."""
    pairs = dataset.load(nano_params)
    model = train.train_model(nano_params, "cluster-00", [3, 5])
    assert checkpoints.seen(model.path) == checkpoints.fingerprints(pairs.take([3, 5]))
    based = train.train_model(nano_params, "cluster-01", [4], base=model.folder)
    assert checkpoints.seen(based.path) == checkpoints.fingerprints(pairs)


def test_models_that_saw_other_images_are_refused_even_if_they_are_adopted_already(
        nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    train.run(other)
    assert train.caveat(other) == ""
    p = changed(nano_params, ("train.checkpoints", other.folder / "train"))
    adopted = train.run(p)
    assert train.caveat(p) == ""
    assert np.isnan([m.seconds for m in adopted.models]).all()
    for m in adopted.models:
        assert checkpoints.seen(m.path) == checkpoints.seen(other.folder / "train" / m.name / train.WEIGHTS)
        assert runs.read_json(m.folder / runs.STAMP)["trained"] == "elsewhere on known images"
    seen = set().union(*(checkpoints.seen(m.path) for m in adopted.models))
    assert seen == set(dataset.load(p).names)
    p = changed(p, ("data.count", 9))
    with pytest.raises(UserError, match=r"no training images of this run.*: phantom_00009\."):
        train.run(p)


def test_a_known_model_for_another_size_is_refused_for_its_size(nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    train.run(other)
    p = changed(nano_params, ("train.checkpoints", other.folder / "train"), ("data.image_size", 32))
    with pytest.raises(UserError, match=r"does not fit the parameters.*image_size: 16 -> 32"):
        train.run(p)


def test_models_that_tell_nothing_are_adopted_with_words_and_without_costs(
        nano_params: Params, finished: Path):
    p = changed(nano_params, ("train.checkpoints", finished), ("process.objective", "eps"))
    trained = train.run(p)
    assert np.isnan([m.seconds for m in trained.models]).all()
    assert trained.seconds == 0
    assert trained.table["minutes"].isna().all()
    stamps = [runs.read_json(m.folder / runs.STAMP) for m in trained.models]
    assert {stamp["trained"] for stamp in stamps} == {"elsewhere on unknown images"}
    assert train.caveat(p).startswith("Of the 2 diffusion models 2 were trained elsewhere on unknown images")
    (finished / "cluster_0_110000.pt").unlink()
    known = train.train_model(changed(p, ("run_dir", p.folder / "own"), ("train.checkpoints", "null")),
                              "cluster-00", [0])
    shutil.copy(known.path, finished / "cluster-00.safetensors")
    assert train.caveat(p).startswith("Of the 2 diffusion models 1 were")


def test_an_older_model_of_ours_counts_as_unknown_only_when_it_is_adopted(
        nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    for model in train.run(other).models:  # as they were before their headers told the images
        tensors, header = checkpoints.read(model.path)
        del header["seen"]
        checkpoints.save(model.path, tensors, header)
        stamp = runs.read_json(model.folder / runs.STAMP)
        runs.finish(model.folder, stamp["recipe"], [model.path], **{
            name: stamp[name] for name in ("seconds", "images", "steps", "loss", "parameters")})
    before = [m.path.stat().st_mtime_ns for m in train.run(other).models]
    assert train.caveat(other) == ""
    p = changed(nano_params, ("train.checkpoints", other.folder / "train"))
    train.run(p)
    assert "2 were trained elsewhere" in train.caveat(p)
    assert [m.path.stat().st_mtime_ns for m in train.run(other).models] == before


@pytest.mark.parametrize(("act", "override", "says"), [
    (lambda folder: (folder / "cluster_1_110000.pt").unlink(), ("seed", 0),
     "holds 0 checkpoints for cluster-01; one is needed, named cluster_1_*.pt"),
    (lambda folder: (folder / "cluster_0_200000.pt").touch(), ("seed", 0),
     "holds 2 checkpoints for cluster-00"),
    (lambda folder: None, ("model.base_channels", 64),
     "model.base_channels: 32 in the file, 64 in the parameters"),
    (lambda folder: None, ("train.full_images", 20),
     "holds 0 checkpoints for full; one is needed, named full*.pt"),
    (lambda folder: None, ("process.objective", "v"), "predicts eps"),
])
def test_checkpoints_that_are_absent_or_do_not_fit_are_refused(
        nano_params: Params, finished: Path, act, override, says: str):
    act(finished)
    p = changed(nano_params, ("train.checkpoints", finished), ("process.objective", "eps"), override)
    with pytest.raises(UserError) as caught:
        train.run(p)
    assert says in str(caught.value)
