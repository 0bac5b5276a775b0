"""Losses, previews and scores for TensorBoard or MLflow, if installed: the parameter `tracking`.

Nothing is read back, and no result depends on it. The libraries are not dependencies: a run that asks for one
that is not installed is refused before it starts.
"""

import contextlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import moves

log = logging.getLogger(__name__)

FOLDER = "tracking"  # in the run folder
TENSORBOARD, MLFLOW = "tensorboard", "mlflow"  # the parameter's values, and what the libraries are called
# For MLflow, which by default tries for ten minutes to reach an absent server, and prints its address.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
SECRET = re.compile(r"//[^/@\s]+@")  # user name and password in an address
SERVER = "MLFLOW_TRACKING_URI"  # the environment variable that names MLflow's server; unset: the run folder


class Track(Protocol):
    """Where the numbers of one model or chapter go."""

    def values(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by name; `step` counts steps, images or epochs."""

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Record a picture (H, W, 3) uint8."""


def check(kind: str | None) -> None:
    """Raise UserError if the library that `tracking` names is not installed."""
    if kind is not None and kind not in sys.modules and importlib.util.find_spec(kind) is None:
        raise UserError(f"Parameters: tracking: {kind} is not installed. `pip install {kind}`, or leave "
                        "tracking out.")


@contextlib.contextmanager
def track(kind: str | None, folder: Path, name: str, done: int = 0) -> Iterator[Track]:
    """Where the numbers of `name` go while this lasts, as the parameter `tracking` says; None: nowhere.

    TensorBoard's files lie in `folder`/tracking/`name`, MLflow's in `folder`/tracking, or on the server that
    its own environment variable names. A training resumed after `done` steps repeats what it had done since
    its checkpoint: no step is recorded twice. The first failure to write is logged and ends the tracking, but
    not the training.
    """
    if kind is None:
        yield _Nowhere()
        return
    check(kind)
    _refuse_links(kind, folder, name)
    held = _Held(_board if kind == TENSORBOARD else _flow, folder / FOLDER, name, done)
    try:
        yield held
    finally:
        held.attempt("close", lambda target: target.close())


def _refuse_links(kind: str, folder: Path, name: str) -> None:
    """Raise UserError for links by which the library would write elsewhere: the run may be a stranger's."""
    moves.refuse_links(folder, [f"{FOLDER}/{name}"])
    if kind == MLFLOW and SERVER not in os.environ:  # its database and its pictures
        there = (folder / FOLDER).rglob("*")
        moves.refuse_links(folder, [str(path.relative_to(folder)) for path in there if path.is_symlink()])


class _Nowhere:
    """No tracking."""

    def values(self, values: Mapping[str, float], step: int) -> None:
        """Nothing is kept."""

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Nothing is kept."""


class _Held:
    """A library's own writer, opened at the first record and given up at the first error."""

    def __init__(self, opened: Callable[[Path, str, int], Any], folder: Path, name: str, done: int) -> None:
        self.opened, self.place, self.target = opened, (folder, name, done), None
        self.broken = False

    def values(self, values: Mapping[str, float], step: int) -> None:
        self.attempt("values", lambda target: target.values(values, step))

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.attempt("image", lambda target: target.image(name, pixels, step))

    def attempt(self, what: str, call: Callable[[Any], object]) -> None:
        if self.broken or (what == "close" and self.target is None):
            return
        try:
            if self.target is None:
                self.target = self.opened(*self.place)
            call(self.target)
        except Exception as error:  # of a library, a server or a disk: whatever it is, the training goes on
            self.broken = True
            log.warning("%s: tracking ends here: %s", self.place[1], SECRET.sub("//", str(error)))


def _board(folder: Path, name: str, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    return _Board(SummaryWriter(log_dir=str(folder / name), purge_step=done + 1 if done else None))


class _Board:
    """TensorBoard's event files."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def values(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


def _flow(folder: Path, name: str, done: int) -> Any:
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    import mlflow
    title, place = folder.parent.name, folder / "artifacts"
    own = SERVER not in os.environ
    if own:
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        os.environ.pop(SERVER, None)  # set by the library as well, but then it names no server of the user's
        if mlflow.get_experiment_by_name(title) is None:  # else pictures would go to the working directory
            mlflow.create_experiment(title, artifact_location=place.as_uri())
    mlflow.set_experiment(title)
    known = mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
    chosen = {"run_id": known[0].info.run_id} if known else {"run_name": name}
    mlflow.start_run(**chosen, nested=True)
    # The database may be a stranger's, or of a run folder that was copied.
    uri = mlflow.get_run(mlflow.active_run().info.run_id).info.artifact_uri if own else ""
    if own and not _lies_in(uri, place):
        mlflow.end_run()
        raise UserError(f"{folder / 'mlflow.db'} keeps its pictures outside this run folder, in {uri}. Move "
                        "it away: a new one is begun.")
    return _Flow(mlflow, _last(mlflow, known[0]) if known and done else -1)


def _last(mlflow: Any, known: Any) -> int:
    """The last step of which a run of MLflow has numbers; -1 if it has none."""
    client = mlflow.MlflowClient()
    return max((point.step for name in known.data.metrics
                for point in client.get_metric_history(known.info.run_id, name)), default=-1)


def _lies_in(uri: str, place: Path) -> bool:
    """Whether an address is that of a file below a folder of this machine."""
    parts = urlparse(uri)
    return (parts.scheme, parts.netloc) == ("file", "") and (
        Path(url2pathname(parts.path)).resolve().is_relative_to(place.resolve()))


class _Flow:
    """A run of MLflow; an existing one of that name is continued after the `last` step that it has: MLflow
    would keep both of two values for one step, and what a resumed training repeats is the same."""

    def __init__(self, library: Any, last: int = -1) -> None:
        self.library, self.last = library, last

    def values(self, values: Mapping[str, float], step: int) -> None:
        if step > self.last:
            self.library.log_metrics({name: float(value) for name, value in values.items()}, step=step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        if step >= self.last:  # a picture follows the numbers of its step, and may have been lost
            self.library.log_image(pixels, key=name, step=step)

    def close(self) -> None:
        self.library.end_run()
