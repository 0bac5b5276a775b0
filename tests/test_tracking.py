"""TensorBoard and MLflow, which are stubs here: what is written, where, and that nothing hangs on them."""

import os
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from test_cli import call

from diffusegen_core.chapters import tracked
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.run import Run
from diffusegen_core.store import stamps, tracking


class Writer:
    """As torch.utils.tensorboard.SummaryWriter."""

    all: ClassVar[list["Writer"]] = []

    def __init__(self, log_dir: str, purge_step: int | None) -> None:
        self.folder, self.purged = Path(log_dir), purge_step
        self.numbers: list[tuple[str, float, int]] = []
        self.pictures: list[tuple[str, tuple[int, ...], int]] = []
        self.open = True
        Writer.all.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.numbers.append((name, value, step))

    def add_image(self, name: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
        assert (dataformats, pixels.dtype) == ("HWC", np.uint8)
        self.pictures.append((name, pixels.shape, step))

    def close(self) -> None:
        self.open = False


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    monkeypatch.setattr(Writer, "all", [])
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.all


def test_a_library_that_is_not_installed_is_refused_in_one_line_before_the_run(
        nano: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for kind in ("tensorboard", "mlflow"):
        monkeypatch.delitem(sys.modules, kind, raising=False)
        monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
        profile = tmp_path / "nano.yaml"
        profile.write_text(params.yaml.safe_dump({**nano, "tracking": kind}))
        error = call("run", profile).exception
        assert isinstance(error, UserError)
        assert str(error) == (f"Parameters: tracking: {kind} is not installed. `pip install {kind}`, or "
                              "leave tracking out.")
        with pytest.raises(UserError, match="is not installed"):
            Run.create(profile).make("data")
        assert not Path(nano["run_dir"], "data").exists()


def test_a_run_without_tracking_asks_for_no_library(nano_params: params.Params,
                                                    monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "_board", None)
    assert nano_params.tracking is None
    Run(nano_params).make("cluster")
    assert not (nano_params.folder / tracking.FOLDER).exists()


def test_training_writes_losses_and_previews_and_the_models_are_the_same(
        nano: dict, finished: Path, board: list[Writer], one_thread: None):
    run = Run(params.validate({**nano, "tracking": "tensorboard"}))
    run.make("train")
    assert [writer.folder for writer in board] == [
        run.folder / "tracking" / "train" / f"cluster-0{k}" for k in range(2)]
    for writer in board:
        assert [(name, step) for name, _, step in writer.numbers] == [("loss", step) for step in (2, 3, 4, 6)]
        assert all(0 < value < 10 for _, value, _ in writer.numbers)
        assert writer.pictures == [("samples", (32, 32, 3), step) for step in (3, 6)]
        assert not writer.open
        assert writer.purged is None
    mine, other = (stamps.contents(stamps.read_stamp(folder / "train" / "cluster-00"))
                   for folder in (run.folder, finished))
    assert mine == other


def test_networks_and_final_scores_are_written(nano_run: Run, board: list[Writer], networks: object):
    for place in (nano_run.folder / "segment").glob("Real-*"):
        place.rename(nano_run.folder.parent / place.name)
    run = Run(nano_run.params.model_copy(update={"tracking": "tensorboard"}))
    for chapter in ("evaluate", "segment"):
        run.make(chapter)
    by_name = {str(writer.folder.relative_to(run.folder / "tracking")): writer for writer in board}
    [network] = [writer for name, writer in by_name.items() if name.startswith("segment/Real-")]
    assert {name for name, _, _ in network.numbers} == {"loss", "valid_iou"}
    scores = {name: value for name, value, _ in by_name["scores/segment"].numbers}
    assert scores == pytest.approx(tracked.of(run.segmented))
    own = run.segmented.images
    real = own[(own["data_type"] == "Real")]["dice"].mean()
    assert [value for name, value in scores.items() if name.startswith("dice/") and "/Real" in name] == (
        pytest.approx([real]))
    assert by_name["scores/evaluate"].numbers
    assert tracked.of(run.clusters) == {}


def test_a_tracker_that_breaks_ends_no_training_and_says_so_once(
        board: list[Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture):
    def full(*_: object) -> None:
        raise OSError("no space left on https://me:word@host/x")
    monkeypatch.setattr(Writer, "add_scalar", full)
    with tracking.track("tensorboard", tmp_path, "train/x", 7) as track:
        track.values({"loss": 1.0}, 8)
        track.values({"loss": 1.0}, 9)
        track.image("samples", np.zeros((2, 2, 3), np.uint8), 9)
    assert board[0].purged == 8
    assert board[0].pictures == []
    assert caplog.text.count("train/x: tracking ends here: no space left on https://host/x") == 1
    assert "word" not in caplog.text


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """MLflow: its `library`, its `calls`, the runs that are `known` to it, and where its active run keeps its
    pictures."""
    made = types.SimpleNamespace(calls=[], known=[], uri=f"file://{tmp_path}/run/tracking/artifacts/1/artifacts")
    made.library = library = types.ModuleType("mlflow")
    library.search_runs = lambda filter_string, output_format: (made.calls.append(filter_string)
                                                                or made.known)
    library.get_experiment_by_name = lambda title: None
    library.active_run = lambda: types.SimpleNamespace(info=types.SimpleNamespace(run_id="1"))
    library.get_run = lambda run_id: types.SimpleNamespace(info=types.SimpleNamespace(artifact_uri=made.uri))
    for name in ("create_experiment", "set_experiment", "start_run", "log_metrics", "log_image", "end_run"):
        setattr(library, name, lambda *args, name=name, **more: made.calls.append((name, args, more)))
    monkeypatch.setenv(tracking.SERVER, "")
    monkeypatch.delenv(tracking.SERVER)

    def set_tracking_uri(uri: str) -> None:
        made.calls.append(("set_tracking_uri", (uri,), {}))
        os.environ[tracking.SERVER] = uri
    library.set_tracking_uri = set_tracking_uri
    monkeypatch.setitem(sys.modules, "mlflow", library)
    return made


def test_runs_in_one_process_have_a_database_each(flow: types.SimpleNamespace, tmp_path: Path):
    for name in ("run", "other", "run"):
        flow.uri = f"file://{tmp_path}/{name}/tracking/artifacts/1/artifacts"
        with tracking.track("mlflow", tmp_path / name, "train/a") as track:
            track.values({"loss": 1.0}, 3)
    assert [args for name, args, _ in (call for call in flow.calls if isinstance(call, tuple))
            if name == "set_tracking_uri"] == [(f"sqlite:///{tmp_path}/{name}/tracking/mlflow.db",)
                                               for name in ("run", "other", "run")]
    assert tracking.SERVER not in os.environ


@pytest.mark.parametrize("uri", ["https://elsewhere.example/x", "file://{run}/notes", "s3://bucket/x",
                                 "file://{run}/tracking/artifacts/../../../else", "{run}/tracking/artifacts",
                                 "file://host/{run}/tracking/artifacts"])
def test_a_database_that_names_another_place_gets_no_pictures(flow: types.SimpleNamespace, tmp_path: Path,
                                                              uri: str, caplog: pytest.LogCaptureFixture):
    flow.uri = uri.format(run=tmp_path / "run")
    with tracking.track("mlflow", tmp_path / "run", "train/a") as track:
        track.image("samples", np.zeros((2, 2, 3), np.uint8), 3)
        track.values({"loss": 1.0}, 3)
    assert [call[0] for call in flow.calls][-1] == "end_run"
    assert not {"log_image", "log_metrics"} & {call[0] for call in flow.calls}
    assert f"mlflow.db keeps its pictures outside this run folder, in {flow.uri}. Move it" in caplog.text


@pytest.mark.parametrize("name", ["mlflow.db", "artifacts", "artifacts/1/artifacts"])
def test_a_link_by_which_mlflow_would_write_elsewhere_is_refused(flow: types.SimpleNamespace, tmp_path: Path,
                                                                 name: str):
    link = tmp_path / "run" / "tracking" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=f"{name} is a symbolic link"), \
            tracking.track("mlflow", tmp_path / "run", "train/a"):
        pass
    assert flow.calls == []


def test_mlflow_goes_on_with_the_run_of_the_name(flow: types.SimpleNamespace, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch):
    calls, known = flow.calls, flow.known
    with tracking.track("mlflow", tmp_path / "run", "train/a") as track:
        track.values({"loss": np.float32(0.5)}, 3)
        track.image("samples", np.zeros((2, 2, 3), np.uint8), 3)
    assert calls[:5] == [
        ("set_tracking_uri", (f"sqlite:///{tmp_path}/run/tracking/mlflow.db",), {}),
        ("create_experiment", ("run",), {"artifact_location": f"file://{tmp_path}/run/tracking/artifacts"}),
        ("set_experiment", ("run",), {}), "attributes.run_name = 'train/a'",
        ("start_run", (), {"run_name": "train/a", "nested": True})]
    assert calls[5] == ("log_metrics", ({"loss": 0.5},), {"step": 3})
    assert (calls[6][0], calls[7][0]) == ("log_image", "end_run")
    calls.clear()
    monkeypatch.setenv(tracking.SERVER, "http://127.0.0.1:1")
    known.append(types.SimpleNamespace(info=types.SimpleNamespace(run_id="17"),
                                       data=types.SimpleNamespace(metrics={"loss": 0.5})))
    with tracking.track("mlflow", tmp_path / "other", "train/a") as track:
        track.values({"loss": 0.5}, 4)
    assert ("start_run", (), {"run_id": "17", "nested": True}) in calls
    assert "set_tracking_uri" not in [call[0] for call in calls]
    assert not (tmp_path / "other").exists()
    points = [types.SimpleNamespace(step=step) for step in (10, 30, 20)]
    flow.library.MlflowClient = lambda: types.SimpleNamespace(get_metric_history=lambda run, key: points)
    calls.clear()
    with tracking.track("mlflow", tmp_path / "other", "train/a", done=15) as track:
        for step in (20, 30, 40):
            track.values({"loss": 0.5}, step)
            track.image("samples", np.zeros((2, 2, 3), np.uint8), step)
    told = [(call[0], call[2]["step"]) for call in calls if call[0].startswith("log_")]
    assert told == [("log_image", 30), ("log_metrics", 40), ("log_image", 40)], "20 and 30 are repeated"
