"""The result of chapter 2: the diffusion models of a run, and what their training took."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import resolve
from diffusegen_core.config.sections import Train
from diffusegen_core.data.types import cluster_model
from diffusegen_core.diffusion import checkpoints, origins
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.store.stamps import read_stamp

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and what its training took."""

    name: str
    """cluster-00, cluster-01, ..., full, base or one."""
    pairs: int
    images: int
    steps: int
    loss: float
    """Mean over the last tenth of the steps."""
    seconds: float
    """Wall time; NaN if it was trained elsewhere."""
    parameters: int
    folder: Path
    sha256: str
    """Of its weights file."""
    cards: float = 1.0
    """How many graphics cards trained it at a time, on average; 1 on a processor."""

    @property
    def card_seconds(self) -> float:
        """The seconds of all its cards, added up; on a processor, wall time."""
        return self.seconds * self.cards

    @property
    def path(self) -> Path:
        return self.folder / WEIGHTS


@dataclass(frozen=True)
class Trained:
    """All models of a run."""

    models: list[TrainedModel]
    """One per cluster, in order."""
    full: TrainedModel | None
    """The full set's, if the parameters ask for one."""
    base: TrainedModel | None = None
    """The model that the clusters' started from, or are parts of, if any; it may be `full`."""
    weights: str = "ema"
    """The set of weights that later chapters use."""

    @property
    def seconds(self) -> float:
        """Total wall time spent in this run; models that were trained elsewhere count as nothing."""
        return float(np.nansum([model.seconds for model in self.all]))

    @property
    def card_seconds(self) -> float:
        """The same, with the cards that trained a model together added up as well."""
        return float(np.nansum([model.card_seconds for model in self.all]))

    @property
    def all(self) -> list[TrainedModel]:
        first = [self.base] if self.base and self.base != self.full else []
        return first + self.models + ([self.full] if self.full else [])

    def __getitem__(self, name: str) -> TrainedModel:
        """A model by its name. Raises UserError listing the valid names."""
        for model in self.all:
            if model.name == name:
                return model
        raise UserError(f"There is no model {name}. There are {', '.join(model.name for model in self.all)}.")

    def load(self, name: str = cluster_model(0), device: str = "auto", precision: str = "fp32") -> Diffusion:
        """A model, ready to sample with: `run.models.load("cluster-03").sample(4)`."""
        return checkpoints.load(self[name].path, self.weights, devices.device(device), precision)

    @property
    def table(self) -> pd.DataFrame:
        """One row per model."""
        return pd.DataFrame([{
            "model": m.name, "pairs": m.pairs, "images": m.images, "steps": m.steps, "final loss": m.loss,
            "minutes": m.seconds / 60,
            "images/s": m.images / m.seconds if m.seconds and m.images else float("nan"),
        } for m in self.all]).set_index("model")

    @property
    def caveat(self) -> str:
        """What a caption or a verdict must say if any adopted model may have seen any image; else ""."""
        unknown = [model.name for model in self.all if origins.read_fingerprints(model.path) is None]
        return (f"Trained elsewhere on unknown images, which may include test images: {len(unknown)} of "
                f"{len(self.all)} diffusion models." if unknown else "")


def taken(folder: Path, settings: Train) -> str | None:
    """The hash of the checkpoint that a model's folder was made from, if `train.checkpoints` is gone.

    So a run that was copied without these checkpoints can be read. None if they are there, or others are
    asked for.
    """
    gone = settings.checkpoints is not None and not resolve(settings.checkpoints).exists()
    stamp = read_stamp(folder) if gone else None
    known = stamp and stamp.get("origin") == settings.checkpoints
    return stamp["recipe"].get("released") if stamp and known else None
