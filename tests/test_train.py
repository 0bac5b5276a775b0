"""Chapter 2: models are trained, resumed, continued, adopted; a kill changes no bit of them."""

import logging
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffusegen_core.chapters import train
from diffusegen_core.chapters.trained import Trained, TrainedModel
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.diffusion import checkpoints, origins, training
from diffusegen_core.parallel import pauses, progress
from diffusegen_core.report import tables
from diffusegen_core.run import Run
from diffusegen_core.store import artifacts, files, stamps
from diffusegen_core.store.artifacts import Artifact

CPU = torch.device("cpu")


def changed(p: Params, *overrides: tuple[str, object]) -> Params:
    return params.validate(params.override(params.plain(p), [(key, str(value)) for key, value in overrides]))


def pairs_of(p: Params) -> Pairs:
    return dataset.load(Run(p).workspace, p.data)


def train_one(p: Params, indices: Sequence[int] = (0, 1), name: str = "cluster-00",
              base: Path | None = None) -> TrainedModel:
    """One model, of these pairs of the run."""
    return train.train_model(Run(p).workspace, name, pairs_of(p).stored, list(indices), p.train, p.model,
                             p.process, base)


def train_all(p: Params) -> Trained:
    return Run(p).make("train")


def stamp_of(model: TrainedModel) -> dict:
    stamp = stamps.read_stamp(model.folder)
    assert stamp is not None
    return stamp


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(folder / "model.safetensors")[0]


def making(p: Params, name: str = "cluster-00") -> list[Path]:
    """The folders in which models of this name are in the making."""
    return sorted((p.folder / "making" / "train" / name).glob("*"))


# ---- learning

def test_a_cluster_of_one_image_trains(nano_params: Params):
    model = train_one(nano_params, [3])
    assert (model.pairs, model.images, model.steps) == (1, 24, 6)
    assert np.isfinite(model.loss)
    net = checkpoints.load(model.path).net
    assert model.parameters == sum(p.numel() for p in net.parameters())


def test_a_diverging_training_stops_and_says_so(nano_params: Params):
    p = changed(nano_params, ("train.lr", 1e30), ("train.grad_clip", "null"), ("train.images", 400))
    with pytest.raises(UserError, match=r"cluster-00: the training diverged.*train\.lr"):
        train_one(p)
    assert not (p.folder / "train" / "cluster-00" / "model.safetensors").exists()


def test_a_model_tells_the_cards_that_trained_it_and_what_they_took(nano_params: Params, monkeypatch):
    def by_four(state: training.State, seconds: float) -> None:
        state.seconds, state.cards = seconds, 4.0
    alone = train_one(nano_params, name="cluster-01")
    assert (alone.cards, "cards" in stamp_of(alone)) == (1, False)
    monkeypatch.setattr(train, "spend", by_four)
    model = train_one(nano_params)
    assert (model.cards, model.card_seconds) == (4, 4 * model.seconds)
    assert tables.work(Run(nano_params))[0] == pytest.approx(
        alone.seconds + 4 * model.seconds + stamps.read_stamp(nano_params.folder / "data")["seconds"])
    monkeypatch.undo()
    longer = train_one(changed(nano_params, ("train.images", 40)))
    assert 1 < longer.cards < 4, "some of its steps were taken by one"
    assert longer.card_seconds - longer.seconds == pytest.approx(3 * model.seconds, abs=0.01)


@pytest.mark.parametrize("told", ["4", None, 0, -1, 1e300, [], True])
def test_what_cannot_be_a_number_of_cards_counts_as_one(told: object):
    assert stamps.cards({"cards": told}) == 1


# ---- the whole chapter

def test_a_run_trains_a_model_for_each_cluster_and_one_for_all(nano_params: Params):
    p = changed(nano_params, ("train.full_images", 30))
    shown: list[tuple[str, int]] = []
    trained = Run(p).make("train", watch=lambda name, folder: shown.append(
        (name, len(pd.read_csv(folder / "log.csv")))))
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
        assert sorted(f.name for f in model.folder.iterdir()) == [
            "log.csv", "made.json", "model.safetensors", "optimizer.safetensors", "samples"]
        grids = sorted(f.name for f in (model.folder / "samples").iterdir())
        assert grids == [f"{images:07d}.png" for images in sorted({12, 24, model.images})]
        assert Image.open(model.folder / "samples" / grids[0]).size == (2 * 16, 2 * 16)
    weights = [tensors_of(m.folder)["raw.time_embed.0.weight"] for m in trained.all]
    assert not torch.equal(weights[0], weights[1])


def test_a_finished_model_is_left_alone_and_another_is_set_aside_and_taken_back(nano_params: Params, caplog):
    model = train_one(nano_params)
    before, bits = model.path.stat().st_mtime_ns, model.path.read_bytes()
    same = changed(nano_params, ("train.checkpoint_every", 5), ("train.micro_batch", 1),
                   ("train.preview_steps", 2), ("inpaint.samples", 9))
    other = changed(nano_params, ("train.lr", 0.5), ("seed", 3))
    with caplog.at_level(logging.WARNING):
        assert train_one(same) == model
        assert model.path.stat().st_mtime_ns == before
        assert caplog.text == ""
        assert train_one(other).path.read_bytes() != bits
    assert "train.lr: 0.001 -> 0.5" in caplog.text
    assert "seed: 0 -> 3" in caplog.text
    aside = list((nano_params.folder / "aside" / "train" / "cluster-00").glob("*/model.safetensors"))
    assert [path.read_bytes() for path in aside] == [bits]
    assert train_one(nano_params).path.read_bytes() == bits
    assert model.path.stat().st_mtime_ns == before, "it was not trained again"


def test_what_diverges_leaves_the_finished_model(nano_params: Params):
    model = train_one(nano_params)
    bits = model.path.read_bytes()
    wild = changed(nano_params, ("train.lr", 1e30), ("train.grad_clip", "null"), ("train.images", 400))
    with pytest.raises(UserError, match="diverged"):
        train_one(wild)
    assert model.path.read_bytes() == bits
    assert train_one(nano_params) == model


@pytest.mark.parametrize("keep_optimizer", [True, False])
def test_training_longer_goes_on_from_the_finished_model(nano_params: Params, tmp_path: Path, monkeypatch,
                                                         keep_optimizer: bool):
    longer = ("train.images", 40)
    alone = train_one(changed(nano_params, longer, ("run_dir", tmp_path / "alone")))
    p = changed(nano_params, ("train.keep_optimizer", str(keep_optimizer).lower()))
    train_one(p)
    assert steps_taken(changed(p, longer), monkeypatch) == (4 if keep_optimizer else 10)
    model = train_one(changed(p, longer))
    for kind, value in tensors_of(model.folder).items():
        assert torch.equal(value, tensors_of(alone.folder)[kind]), kind
    assert pd.read_csv(model.folder / "log.csv").equals(pd.read_csv(alone.folder / "log.csv"))


@pytest.mark.parametrize("keep_optimizer", [True, False])
def test_where_the_rate_falls_at_the_end_a_longer_training_goes_on_from_before(
        nano_params: Params, tmp_path: Path, monkeypatch, keep_optimizer: bool):
    """Of 6 steps, and of 10, half have the whole rate."""
    p = changed(nano_params, ("train.lr_decay", 0.5), ("train.keep_optimizer", str(keep_optimizer).lower()))
    longer = ("train.images", 40)
    alone = train_one(changed(p, longer, ("run_dir", tmp_path / "alone")))
    short = train_one(p)
    assert (short.folder / "plateau.safetensors").is_file() == keep_optimizer
    assert not (short.folder / "optimizer.safetensors").exists()
    bits = short.path.read_bytes()
    assert steps_taken(changed(p, longer), monkeypatch) == (7 if keep_optimizer else 10)
    model = train_one(changed(p, longer))
    assert model.path.read_bytes() == alone.path.read_bytes()
    assert pd.read_csv(model.folder / "log.csv").equals(pd.read_csv(alone.folder / "log.csv"))
    assert train_one(p).path.read_bytes() == bits, "what was set aside comes back"


def test_a_training_whose_rate_has_begun_to_fall_is_none_of_a_longer_ones_way(
        nano_params: Params, tmp_path: Path, monkeypatch):
    p = changed(nano_params, ("train.lr_decay", 0.5))
    longer = changed(p, ("train.images", 40))
    alone = train_one(changed(longer, ("run_dir", tmp_path / "alone")))
    folder = interrupted(p, monkeypatch, steps=5)
    assert checkpoints.header(folder / "checkpoint.safetensors")["steps"] == 4
    assert checkpoints.header(folder / "plateau.safetensors")["steps"] == 3
    assert steps_taken(longer, monkeypatch) == 7
    assert train_one(longer).path.read_bytes() == alone.path.read_bytes()
    assert steps_taken(p, monkeypatch) == 2


# ---- resuming

# Parameters that are off by default.
ON = [("lesion_weight", 4.0), ("min_snr", 5.0), ("lr_decay", 0.5), ("augment", 0.5)]


@pytest.mark.parametrize(("name", "value"), ON)
def test_with_any_option_a_killed_training_ends_with_the_same_bits(
        nano_params: Params, tmp_path: Path, monkeypatch, name: str, value: object):
    p = changed(nano_params, (f"train.{name}", value))
    alone = train_one(changed(p, ("run_dir", tmp_path / "alone")))
    interrupted(p, monkeypatch, steps=5)
    assert steps_taken(p, monkeypatch) == 2
    model = train_one(p)
    assert model.path.read_bytes() == alone.path.read_bytes()
    assert stamp_of(model)["recipe"]["train"][name] == value
    assert model.path.read_bytes() != train_one(nano_params).path.read_bytes()


def work(values: dict) -> None:
    torch.set_num_threads(1)
    train_one(params.validate(values), [0, 1, 2])


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
    return any(f.suffix == ".safetensors" and f.stat().st_size for f in folder.glob(f"{files.WRITING}*"))


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(long: dict, tmp_path: Path, killable):
    def launch(values: dict):
        started = killable.Process(target=work, args=(values,))
        started.start()
        return started
    whole = launch({**long, "run_dir": str(tmp_path / "alone")})
    whole.join(timeout=600)
    assert whole.exitcode == 0
    alone = tmp_path / "alone" / "train" / "cluster-00"

    p, folder = params.validate(long), tmp_path / "run" / "train" / "cluster-00"
    done = []
    moments: list[Callable[[Path], bool]] = [lambda place: steps_done(place) >= 1, writing,
                                             lambda place: steps_done(place) > 20]
    for moment in moments:
        killed = launch(long)
        while not (caught := any(map(moment, making(p)))) and killed.is_alive():
            time.sleep(0.001)
        killed.kill()
        killed.join()
        assert (caught, killed.exitcode) == (True, -signal.SIGKILL), "every kill must come in the middle"
        done.append(steps_done(making(p)[0]))
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


@pytest.mark.parametrize(("owner", "name", "call"), [
    (files, "write", 1), (files, "write", 2), (files, "write", 4), (files, "write", 7), (files, "write", 8),
    (files, "write", 9), (files, "write", 10), (files, "write", 11), (files, "write_json", 1),
    (train, "_conclude", 1), (Artifact, "finish", 1)])
def test_a_kill_before_any_write_is_made_good(
        nano_params: Params, tmp_path: Path, monkeypatch, owner: object, name: str, call: int):
    """The writes of six steps: log and checkpoint at 2, grid at 3, log and checkpoint at 4, grid, log,
    checkpoint, model, optimizer, log and stamp at 6."""
    pairs_of(nano_params)
    alone = train_one(changed(nano_params, ("run_dir", tmp_path / "alone")))
    real, calls = getattr(owner, name), []

    def dying(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            train_one(nano_params)
    model = train_one(nano_params)
    assert model.path.read_bytes() == alone.path.read_bytes()
    for file in ("log.csv", "samples/0000012.png", "samples/0000024.png"):
        assert (model.folder / file).read_bytes() == (alone.folder / file).read_bytes()


def interrupted(p: Params, monkeypatch, steps: int) -> Path:
    """A training that was killed after so many steps; the folder in which it was."""
    real = train.optimize

    def dying(asked: training.Training, state: training.State, *rest: object) -> torch.Tensor:
        if state.step == steps:
            raise Killed
        return real(asked, state, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", dying)
        with pytest.raises(Killed):
            train_one(p)
    folder, = making(p)
    return folder


def steps_taken(p: Params, monkeypatch) -> int:
    """How many steps it takes to finish."""
    real, taken = train.optimize, []
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", lambda *args: taken.append(1) or real(*args))
        train_one(p)
    return len(taken)


@pytest.mark.parametrize("every", [2, 3])
def test_a_death_costs_at_most_one_checkpoint_interval(nano_params: Params, monkeypatch, every: int):
    p = changed(nano_params, ("train.checkpoint_every", every))
    interrupted(p, monkeypatch, 5)
    assert steps_taken(p, monkeypatch) - (6 - 5) == 5 % every


def test_a_death_while_a_checkpoint_is_written_costs_one_interval(nano_params: Params, monkeypatch):
    real, kept = train._save, []

    def dying(*args: object) -> None:
        kept.append(1)
        if len(kept) == 2:  # after the fourth of six steps; the first was after the second
            raise Killed
        real(*args)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_save", dying)
        with pytest.raises(Killed):
            train_one(nano_params)
    assert steps_taken(nano_params, monkeypatch) - (6 - 4) == nano_params.train.checkpoint_every == 2


def test_no_step_is_done_twice_after_the_last_checkpoint_of_a_batch_that_does_not_divide(
        nano_params: Params, monkeypatch):
    p = changed(nano_params, ("train.images", 22))  # six batches of 4 make 24
    with monkeypatch.context() as patch:
        patch.setattr(train, "_conclude", _die)
        with pytest.raises(Killed):
            train_one(p)
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


@pytest.mark.parametrize(("override", "taken"), [
    (("train.images", 40), 6),  # four of ten steps are done
    (("train.micro_batch", 2), 2),
    (("train.images", 8), 2),  # two steps, of which none is one of a longer training's
    (("train.lr", 0.01), 6),
    (("process.objective", "eps"), 6),
])
def test_an_unfinished_training_goes_on_only_with_the_same_parameters(
        nano_params: Params, monkeypatch, override: tuple[str, object], taken: int):
    folder = interrupted(nano_params, monkeypatch, steps=5)
    assert [f.name for f in (folder / "samples").iterdir()] == ["0000012.png"]
    assert steps_taken(changed(nano_params, override), monkeypatch) == taken
    if override[0] != "train.micro_batch":
        assert (folder / "checkpoint.safetensors").is_file(), "and it can still go on"
        assert steps_taken(nano_params, monkeypatch) <= 2


# ---- finished checkpoints

def test_an_augmented_model_tells_so_and_is_loaded_and_adopted_as_any(nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("train.augment", 0.4), ("run_dir", tmp_path / "other"))
    model = train_one(other)
    assert checkpoints.header(model.path)["configuration"]["augment"] == 9
    assert tensors_of(model.folder)["ema.augment_emb.weight"].abs().sum() > 0
    checkpoints.judge(model.path, other.model, other.process, other.data.image_size)
    theirs = checkpoints.load(model.path)
    assert "augment_emb.weight" not in theirs.net.state_dict()
    shutil.copytree(model.folder, tmp_path / "models" / "cluster-00")
    p = changed(nano_params, ("train.checkpoints", tmp_path / "models"))
    for asked in (p, changed(p, ("train.augment", 0.4))):
        adopted = train_one(asked)
        assert "augment" not in checkpoints.header(adopted.path)["configuration"]
        ours = checkpoints.load(adopted.path)
        for name, value in theirs.net.state_dict().items():
            assert torch.equal(ours.net.state_dict()[name], value)
    assert train_one(other) == model, "and it is still the run's own"


def test_a_file_that_tells_of_a_condition_it_does_not_have_is_refused(nano_params: Params, tmp_path: Path):
    tensors, header = checkpoints.read(train_one(nano_params).path)
    stranger = "configuration is not one of ours"
    for width, says in ((9, "augment_emb.weight: absent in the file"), (-1, stranger), (10**9, stranger),
                        ("9", stranger)):
        told = {**header, "configuration": {**header["configuration"], "augment": width}}
        path = checkpoints.save(tmp_path / "told.safetensors", tensors, told)
        with pytest.raises(UserError, match=says):
            checkpoints.load(path)


def untrained(p: Params, name: str) -> torch.nn.Module:
    asked = training.Training(name, p.model, p.process, p.train, p.data.image_size, p.seed)
    return training.start(asked, CPU).net


@pytest.fixture
def released(nano_params: Params, tmp_path: Path) -> Path:
    """A folder of released checkpoints for both clusters."""
    folder = tmp_path / "released"
    folder.mkdir()
    for k in range(2):
        net = untrained(changed(nano_params, ("seed", k)), "any")
        torch.save(net.state_dict(), folder / f"cluster_{k}_110000.pt")
    return folder


def test_released_checkpoints_are_used_untrained(nano_params: Params, released: Path):
    p = changed(nano_params, ("train.checkpoints", released), ("process.objective", "eps"))
    trained = train_all(p)
    assert [(m.steps, m.images) for m in trained.models] == [(0, 0), (0, 0)]
    assert np.isnan([m.loss for m in trained.models]).all()
    for k, model in enumerate(trained.models):
        state = torch.load(released / f"cluster_{k}_110000.pt", weights_only=True)
        net = checkpoints.load(model.path, p.train.sample_weights).net
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    before = [m.path.stat().st_mtime_ns for m in trained.models]
    assert [m.path.stat().st_mtime_ns for m in train_all(p).models] == before
    torch.save(untrained(p, "other").state_dict(), released / "cluster_1_110000.pt")
    after = [m.path.stat().st_mtime_ns for m in train_all(p).models]
    assert after[0] == before[0]
    assert after[1] > before[1]


def test_a_folder_that_is_gone_stands_for_the_models_that_were_taken_from_it_before_a_run_too(
        nano_params: Params, released: Path):
    p = changed(nano_params, ("train.checkpoints", released), ("process.objective", "eps"))
    first = train_all(p)
    typo = changed(p, ("train.checkpoints", released.with_name("typo")))
    released.rename(released.with_name("gone"))
    assert list(train.check(p)) == []
    assert [m.sha256 for m in train_all(p).models] == [m.sha256 for m in first.models]
    told, = train.check(typo)
    assert "typo holds 0 checkpoints for cluster-00" in told


def test_models_of_another_run_are_used_with_the_weights_asked_for(nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    made = train_all(other)
    for kind in ("ema", "raw"):
        p = changed(nano_params, ("train.checkpoints", other.folder / "train"),
                    ("train.sample_weights", kind))
        for theirs, ours in zip(made.models, train_all(p).models, strict=True):
            wanted = checkpoints.part(tensors_of(theirs.folder), f"{kind}.")
            net = checkpoints.load(ours.path, kind).net
            assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())


def test_models_tell_the_images_that_they_have_seen(nano_params: Params):
    """Its own; with a base all, since that has seen them."""
    pairs = pairs_of(nano_params)
    model = train_one(nano_params, [3, 5])
    assert origins.read_fingerprints(model.path) == origins.fingerprints(pairs.take([3, 5]))
    based = train_one(nano_params, [4], "cluster-01", model.folder)
    assert origins.read_fingerprints(based.path) == origins.fingerprints(pairs)


def test_models_that_saw_other_images_are_refused_even_if_they_are_adopted_already(
        nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    train_all(other)
    assert train_all(other).caveat == ""
    p = changed(nano_params, ("train.checkpoints", other.folder / "train"))
    adopted = train_all(p)
    assert adopted.caveat == ""
    assert np.isnan([m.seconds for m in adopted.models]).all()
    for m in adopted.models:
        theirs = other.folder / "train" / m.name / "model.safetensors"
        assert origins.read_fingerprints(m.path) == origins.read_fingerprints(theirs)
        assert stamp_of(m)["trained"] == "elsewhere on known images"
    seen = set().union(*(origins.read_fingerprints(m.path) for m in adopted.models))
    assert seen == set(pairs_of(p).names)
    p = changed(p, ("data.count", 9))
    with pytest.raises(UserError, match=r"not training images of this run.*: phantom_00009\."):
        train_all(p)


def test_a_known_model_for_another_size_is_refused_for_its_size(nano_params: Params, tmp_path: Path):
    other = changed(nano_params, ("run_dir", tmp_path / "other"))
    train_all(other)
    p = changed(nano_params, ("train.checkpoints", other.folder / "train"), ("data.image_size", 32))
    with pytest.raises(UserError, match=r"does not fit the parameters.*image_size: 16 -> 32"):
        train_all(p)


def test_models_that_tell_nothing_are_adopted_with_words_and_without_costs(
        nano_params: Params, released: Path):
    p = changed(nano_params, ("train.checkpoints", released), ("process.objective", "eps"))
    trained = train_all(p)
    assert np.isnan([m.seconds for m in trained.models]).all()
    assert trained.seconds == 0
    assert trained.table["minutes"].isna().all()
    assert {stamp_of(m)["trained"] for m in trained.models} == {"elsewhere on unknown images"}
    assert trained.caveat == ("Trained elsewhere on unknown images, which may include test images: "
                              "2 of 2 diffusion models.")
    (released / "cluster_0_110000.pt").unlink()
    known = train_one(changed(p, ("run_dir", p.folder.parent / "own"), ("train.checkpoints", "null")), [0])
    shutil.copy(known.path, released / "cluster-00.safetensors")
    assert train_all(p).caveat.endswith(": 1 of 2 diffusion models.")


def test_a_model_of_ours_that_tells_no_images_counts_as_unknown(nano_params: Params, tmp_path: Path):
    other, folder = changed(nano_params, ("run_dir", tmp_path / "other")), tmp_path / "older"
    for model in train_all(other).models:
        tensors, header = checkpoints.read(model.path)
        del header["seen"]
        checkpoints.save(folder / f"{model.name}.safetensors", tensors, header)
    p = changed(nano_params, ("train.checkpoints", folder))
    assert "2 of 2 diffusion models" in train_all(p).caveat


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
        nano_params: Params, released: Path, act, override, says: str):
    act(released)
    p = changed(nano_params, ("train.checkpoints", released), ("process.objective", "eps"), override)
    with pytest.raises(UserError) as caught:
        train_all(p)
    assert says in str(caught.value)


# ---- interruptions

def interrupting(p: Params, monkeypatch: pytest.MonkeyPatch, step: int, where: str = "optimize",
                 times: int = 1) -> None:
    """Train until Ctrl-C comes, so often, in a step or a sample grid."""
    name, owner = ("optimize", train) if where == "optimize" else ("grid", train.previews)
    real = getattr(owner, name)

    def pressing(*args: object) -> object:
        if args[1].step == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return real(*args)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, pressing)
        with pytest.raises(KeyboardInterrupt):
            train_one(p)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize(("where", "step", "left"), [("optimize", 3, 2), ("grid", 3, 3)])
def test_an_interruption_costs_no_step_and_changes_nothing(nano_params: Params, monkeypatch, tmp_path: Path,
                                                           where: str, step: int, left: int):
    rare = changed(nano_params, ("train.checkpoint_every", 1000))
    alone = train_one(changed(rare, ("run_dir", str(tmp_path / "alone"))))
    interrupting(rare, monkeypatch, step, where)
    assert steps_taken(rare, monkeypatch) == left
    model = train_one(rare)
    assert model.path.read_bytes() == alone.path.read_bytes()
    for file in [*sorted((alone.folder / "samples").iterdir()), alone.folder / "log.csv"]:
        assert (model.folder / file.relative_to(alone.folder)).read_bytes() == file.read_bytes()


def test_a_second_interruption_ends_at_once_and_a_long_step_is_not_waited_for(nano_params: Params,
                                                                             monkeypatch):
    rare = changed(nano_params, ("train.checkpoint_every", 1000))
    interrupting(rare, monkeypatch, 3, times=2)
    assert not (making(rare)[0] / train.CHECKPOINT).exists()
    monkeypatch.setattr(pauses, "SHORT", -1.0)
    interrupting(rare, monkeypatch, 3)
    assert not (making(rare)[0] / train.CHECKPOINT).exists()


def test_an_item_that_nobody_waits_for_keeps_what_it_has_reached(nano_params: Params, monkeypatch):
    rare, sign = changed(nano_params, ("train.checkpoint_every", 1000)), []
    real = train.optimize

    def given_up(*args: object) -> object:
        sign.append(args[1].step)
        return real(*args)

    def update(self: object, n: float = 1) -> None:
        if len(sign) == 4:
            raise progress.GivenUp
    with monkeypatch.context() as patch:
        patch.setattr(train, "optimize", given_up)
        patch.setattr(progress._Plain, "update", update)
        with pytest.raises(progress.GivenUp):
            train_one(rare)
    assert train.checkpoints.header(making(rare)[0] / train.CHECKPOINT)["steps"] == 4


def test_nothing_that_diverged_is_kept_by_an_interruption(nano_params: Params, monkeypatch):
    rare, real = changed(nano_params, ("train.checkpoint_every", 1000)), train.optimize

    def diverging(asked: training.Training, state: training.State, *rest: object) -> torch.Tensor:
        row = real(asked, state, *rest)
        state.history._fresh[-1] = row * float("nan")
        return row
    monkeypatch.setattr(train, "optimize", diverging)
    interrupting(rare, monkeypatch, 1)
    assert not (making(rare)[0] / train.CHECKPOINT).exists()


@pytest.mark.parametrize("keep", [True, False])
def test_a_kill_as_a_model_is_finished_costs_no_step(nano_params: Params, monkeypatch, tmp_path: Path,
                                                     keep: bool):
    rare = changed(nano_params, ("train.checkpoint_every", 1000 if keep else 1),
                   ("train.keep_optimizer", keep))
    alone = train_one(changed(rare, ("run_dir", str(tmp_path / "alone"))))

    pairs_of(rare)

    def killed(*args: object, **facts: object) -> None:
        raise Killed
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.Artifact, "finish", killed)
        with pytest.raises(Killed):
            train_one(rare)
    assert steps_taken(rare, monkeypatch) == 0
    model = train_one(rare)
    assert model.path.read_bytes() == alone.path.read_bytes()
    assert not (model.folder / train.CHECKPOINT).exists()
