"""One model in several processes: the steps of one within rounding, one writer, errors, kills, cards."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from test_train import changed, interrupted, making, steps_taken, tensors_of, train_one
from together import ASKED, STEPS, apart, steps, waiting, watched

from diffusegen_core.chapters import train
from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.parallel import cards, fanout, machines, ranks, slurm
from diffusegen_core.parallel.ranks import ALONE, Share
from diffusegen_core.planning import plan, probe
from diffusegen_core.run import Run
from diffusegen_core.store import stamps

TWO = ("train.devices", 2)


def left() -> list[psutil.Process]:
    """The processes that this one has started to train together, from the first on."""
    found = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE
             and ranks.PROGRAM in child.cmdline()]
    return sorted(found, key=lambda child: child.create_time())


def until(true: Callable[[], object], patience: float = 300) -> Any:
    stop = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < stop, f"not within {patience} s"
        time.sleep(0.01)
    return found


# ---- the numbers

@pytest.mark.parametrize("of", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [4, 5, 7])
def test_shares_are_all_rows_once_and_differ_by_one_at_most(of: int, count: int):
    rows = [list(range(count)[Share(rank, of).rows(count)]) for rank in range(of)]
    assert [row for part in rows for row in part] == list(range(count))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert [Share(rank, of).writes for rank in range(of)] == [True] + [False] * (of - 1)


@pytest.mark.parametrize("count", [3])
def test_several_processes_take_the_steps_of_one(tmp_path: Path, one_thread: None, count: int):
    steps(ALONE, "cpu", tmp_path)
    ranks.together(steps, {"folder": tmp_path}, ["cpu"] * count, "test", 1, "step")
    alone = torch.load(tmp_path / "0 of 1.pt")
    each = [torch.load(tmp_path / f"{rank} of {count}.pt") for rank in range(count)]
    for number, one in enumerate(alone):
        first = each[0][number]
        for other in each[1:]:
            for name, value in other[number].items():
                assert torch.equal(value, first[name]), f"all hold the same {name}"
        torch.testing.assert_close(first["rows"], one["rows"], rtol=2e-5, atol=1e-6)
        for step in range(STEPS):
            off = (first["gradients"][step] - one["gradients"][step]).norm() / one["gradients"][step].norm()
            assert float(off) < 2e-5, f"{ASKED[number]}, step {step}"
        # Adam's first steps follow signs: a gradient of 0 within rounding may move a weight by 2 lr.
        for name in ("weights", "average"):
            assert float((first[name] - one[name]).abs().mean()) < 1e-7
    assert left() == []


# ---- a model of a run

def test_a_training_goes_on_with_another_number_of_processes_and_one_writes(
        nano_params: Params, tmp_path: Path, monkeypatch, caplog, one_thread: None):
    p = changed(nano_params, ("train.lr", 1e-4), ("train.images", 22), ("train.batch_size", 5),
                ("train.preview_every", 2))
    alone = train_one(changed(p, ("run_dir", tmp_path / "alone")))
    shown: list[tuple[str, Path]] = []
    monkeypatch.setattr(ranks.progress, "show", lambda name, folder: shown.append((name, folder)))
    monkeypatch.setattr(train, "_fit_share", watched)  # in this process, which says what the others do
    interrupted(p, monkeypatch, steps=3)
    with caplog.at_level(logging.INFO):
        model = train_one(changed(p, TWO, ("train.images", 14)))
    assert f"{making(p)[0]}" in caplog.text
    assert "continued at step 2" in caplog.text
    assert (model.steps, stamp_of(model.folder)["device"]) == (3, f"2 x {devices.name('cpu')}")
    assert [name for name, _ in shown] == ["cluster-00"] * 2  # at 2 alone; then at 3, the last of two
    assert steps_taken(changed(p, ("train.images", 14)), monkeypatch) == 0, "it holds for one process, too"
    assert steps_taken(p, monkeypatch) == 2
    model = train_one(p)
    assert train_one(changed(p, TWO)) == model, "and for two"
    assert sorted(path.name for path in model.folder.rglob("*")) == sorted(
        path.name for path in alone.folder.rglob("*"))
    one, other = (pd.read_csv(m.folder / "log.csv") for m in (alone, model))
    np.testing.assert_allclose(other, one, rtol=1e-4)
    for name, value in tensors_of(alone.folder).items():
        assert float((tensors_of(model.folder)[name] - value).abs().max()) < 2e-5, name


def stamp_of(folder: Path) -> dict[str, Any]:
    stamp = stamps.read_stamp(folder)
    assert stamp is not None
    return stamp


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_all_with_a_line_and_one_goes_on_from_the_checkpoint(
        nano_params: Params, tmp_path: Path, monkeypatch, one_thread: None, killed: int):
    p = changed(nano_params, ("train.images", 1000), ("train.checkpoint_every", 2),
                ("train.preview_every", 1000), ("train.lr", 1e-4))
    started: list[psutil.Process] = []

    def kill() -> None:
        until(lambda: list((p.folder / "making").rglob(train.CHECKPOINT)))
        started.extend(left())
        started[killed].kill()

    hand = threading.Thread(target=kill, daemon=True)
    hand.start()
    with pytest.raises(UserError, match=rf"cluster-00: process {killed + 1} of 2 \(cpu\) was killed "
                                        r"\(SIGKILL\).*the same command goes on from the last checkpoint"):
        train_one(changed(p, TWO))
    hand.join()
    assert len(started) == 2
    assert not any(process.is_running() for process in started)
    done = train.checkpoints.header(making(p)[0] / train.CHECKPOINT)["steps"]
    assert done >= 2
    p = changed(p, ("train.images", 4 * (done + 1)))
    assert steps_taken(p, monkeypatch) == 1
    alone = tensors_of(train_one(changed(p, ("run_dir", tmp_path / "alone"))).folder)
    for name, value in tensors_of(train_one(p).folder).items():
        assert float((alone[name] - value).abs().mean()) < 1e-6, name


# ---- errors

@pytest.mark.parametrize(("fails", "readable"), [(0, True), (1, False)])
def test_the_first_error_of_one_is_that_of_all(fails: int, readable: bool):
    kind, text = (UserError, "^the mask is missing$") if readable else (
        RuntimeError, rf"^test, process {fails + 1} of 2 \(cpu\): ZeroDivisionError: division by zero")
    with pytest.raises(kind, match=text) as error:
        ranks.together(waiting, {"fails": fails, "readable": readable}, ["cpu"] * 2, "test", 1, "step")
    assert readable or "in waiting" in error.value.__notes__[0]
    assert left() == []


def test_processes_that_are_not_at_the_same_step_do_not_go_on():
    with pytest.raises(UserError, match="read different checkpoints, of steps 0 and 1"):
        ranks.together(apart, {}, ["cpu"] * 2, "test", 1, "step")


def test_what_others_say_of_one_that_they_lost_is_no_cause(tmp_path: Path):
    lost = {"error": "Connection closed by peer", "kind": "RuntimeError", "readable": False, "lost": True,
            "at": 1.0, "trace": ""}
    own = {"error": "no", "kind": "OSError", "readable": False, "lost": False, "at": 2.0, "trace": ""}
    (tmp_path / "1").write_text("a\nlast words\n")
    for failed, text in (({0: lost, 1: own}, r"process 2 of 2 \(b\): OSError: no"),
                         ({0: lost, 1: {"code": -9}}, r"process 2 of 2 \(b\) was killed \(SIGKILL\)"),
                         ({0: lost, 1: {"code": -11}}, r"it ended with code -11\. last words$"),
                         ({0: lost, 1: {"code": 3}}, r"it ended with code 3\. last words$"),
                         ({0: {"code": -6}, 1: own}, "OSError: no"),
                         ({0: {**own, "at": 1.5, "error": "yes"}, 1: own}, "OSError: yes"),
                         ({0: lost}, "Connection closed by peer")):
        with pytest.raises(Exception, match=text):
            raise ranks._cause(failed, ["a", "b"], "test", tmp_path)


def test_they_end_with_the_process_that_started_them():
    code = ("import together as t; from diffusegen_core.parallel import ranks; "
            "ranks.together(t.waiting, {}, ['cpu'] * 2, 'test', 1, 'step')")
    starter = subprocess.Popen([sys.executable, "-c", code], env={
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    try:
        found = until(lambda: (all_ := psutil.Process(starter.pid).children()) and len(all_) == 2 and all_)
        assert {os.getsid(child.pid) for child in found} == {child.pid for child in found}
        until(lambda: all(child.num_threads() > 2 for child in found))  # they have met
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    until(lambda: not any(child.is_running() for child in found), 30)


# ---- cards

@pytest.fixture
def four_cards(monkeypatch):
    """A machine that seems to have four cards, of which no process but this test's has any."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda card: SimpleNamespace(uuid=f"together {os.getpid()} {card}"))
    monkeypatch.setattr(cards, "_holds", {})
    monkeypatch.setattr(cards, "_free", lambda: [1.0] * 4)


def test_as_many_cards_are_taken_as_there_are_at_most(four_cards: None):
    assert devices.several("auto", 2) == ["cuda:0", "cuda:1"]
    assert devices.several("cpu", 9) == ["cpu"] * 9
    for count, workers, mend in ((5, 1, "-p train.devices 4"), (2, 3, "--workers 2"), (8, 2, "devices 4")):
        with pytest.raises(UserError, match=rf"train\.devices asks for {count} GPUs .* finds 4 CUDA "
                                            rf"devices\. Take .*{mend}\.$") as error:
            devices.refuse_few("cuda", count, workers)
        assert "\n" not in str(error.value)
    for allowed in (("cuda", 4, 1), ("cuda", 2, 2), ("cuda", 1, 9), ("cpu", 9, 9)):
        devices.refuse_few(*allowed)


def test_the_cards_of_a_worker_are_different_ones_that_fewest_others_have(four_cards: None, monkeypatch):
    other = cards._taken(range(4))  # of another worker
    assert other[0] == 0
    assert cards._hold(None, 1) == (1,)
    assert cards._hold(None, 3) == (1, 2, 3)
    assert cards._hold(None, 9) == (1, 2, 3, 0)
    assert cards._hold(2, 1) == (2,), "a named card is that card"
    token = devices.own.set((1, 3, 2))
    assert devices.several("cuda", 2) == ["cuda:1", "cuda:3"]
    with pytest.raises(UserError, match=r"asks for 4 GPUs for a model, but torch finds 3 CUDA devices"):
        devices.several("cuda", 4)
    devices.own.reset(token)
    for _, hold in [other, *cards._holds.items()]:
        hold.close()


@pytest.mark.parametrize(("changes", "message"), [
    ([("train.devices", 0)], r"train\.devices: Input should be greater than 0"),
    ([("train.devices", 5)], r"train\.devices 5 exceeds train\.batch_size 4: each GPU needs an image"),
    ([TWO, ("device", "cuda:1")], r"device cuda:1 is one GPU, and train\.devices asks for 2: set device"),
])
def test_a_number_that_cannot_be_is_refused_at_once(nano_params: Params, changes: list, message: str):
    with pytest.raises(UserError, match=message) as error:
        changed(nano_params, *changes)
    assert "\n" not in str(error.value)


def test_the_command_refuses_more_cards_than_there_are_and_leaves_nothing(
        checkout: Path, four_cards: None, monkeypatch):
    from typer.testing import CliRunner

    from diffusegen_core import cli
    monkeypatch.delenv(fanout.SCHEDULER, raising=False)
    for arguments, mend in (["train.batch_size=8", "train.devices=5"], "train.devices 4"), (
            ["train.devices=3"], "--workers 1"):
        more = ["--workers", "2"] if "workers" in mend else []
        given = [part for argument in ["device=cuda", *arguments] for part in ("-p", argument)]
        done = CliRunner().invoke(cli.app, ["run", "params/smoke.yaml", *more, *given])
        assert isinstance(done.exception, UserError)
        assert mend in str(done.exception)
    assert not (checkout / "runs").exists()


def test_workers_and_jobs_must_have_the_cards_of_a_model(tmp_path: Path, monkeypatch, nano_params: Params):
    from distributed import LocalCluster
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, resources={"device": 1},
                      dashboard_address="127.0.0.1:0") as cluster:
        few = r"None of the 1 workers offers the resource device=2,.*--resources device=2`, one for each 2 "
        with pytest.raises(UserError, match=few), machines.hold(
                tmp_path, scheduler=cluster.scheduler_address, cards=2):
            pass
        monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)
        with pytest.raises(UserError, match=few):
            Run(changed(nano_params, TWO)).make("train")
    file = tmp_path / "slurm.yaml"
    file.write_text("gpus: 3\nworkers: 2\n")
    with (pytest.raises(UserError, match=r"gpus: a job has 3, and 4 are needed .* Set gpus: 4\."),
          slurm.hold(file, {}, cards=2)):
        pass


def test_a_worker_of_this_machine_trains_a_model_in_two_processes(
        nano_params: Params, tmp_path: Path, monkeypatch, one_thread: None):
    monkeypatch.delenv(fanout.SCHEDULER, raising=False)
    p = changed(nano_params, TWO, ("cluster.k", 1), ("cluster.scan", "[2]"), ("train.lr", 1e-4))
    alone = Run(changed(p, ("train.devices", 1), ("run_dir", tmp_path / "alone"))).make("train")
    seen: list[str] = []
    with machines.hold(tmp_path, workers=1, cards=2):
        made = Run(p).make("train", watch=lambda name, folder: seen.append(name))
    assert stamp_of(made.models[0].folder)["device"].startswith("2 x ")
    assert seen == ["cluster-00"] * 2
    for name, value in tensors_of(alone.models[0].folder).items():
        assert float((tensors_of(made.models[0].folder)[name] - value).abs().max()) < 2e-5, name


# ---- the plan

def test_the_plan_counts_the_cards_of_a_model(nano_params: Params, monkeypatch):
    rates = pd.DataFrame({"kind": probe.KINDS, "rate": 1e9, "flop": 1.0, "images": 1, "repetitions": 1,
                          "seconds": 1.0, "memory": float("nan"), "how": ""})
    monkeypatch.setattr(probe, "rates", lambda *asked: rates)
    monkeypatch.setattr(probe, "busy", lambda device: "")
    one, two = plan.make(nano_params, 1.0), plan.make(changed(nano_params, TWO), 1.0)
    assert "GPUs" not in one.text
    assert two.table["cards"].tolist() == [2 if kind == "training" else 1 for kind in two.table["kind"]]
    assert two.table["seconds"].tolist() == one.table["seconds"].tolist(), "they share a processor's cores"
    assert f"2 GPUs train a model together (train.devices). {plan.ALL_AS_ONE}" in two.text
    monkeypatch.setattr(devices, "on_cards", lambda name: True)
    on_cards = plan.make(changed(nano_params, TWO), 1.0)
    assert plan.AS_MANY in on_cards.text
    np.testing.assert_allclose(on_cards.table["seconds"], one.table["seconds"] / two.table["cards"])
