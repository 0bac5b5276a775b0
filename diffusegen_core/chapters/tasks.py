"""A model to train in chapter 2: what it learns from, for how long, and what decides its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusegen_core.chapters.trained import WEIGHTS, taken
from diffusegen_core.config.params import plain
from diffusegen_core.config.sections import Model, Process, Train
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import BASE, FULL, ONE, cluster_number
from diffusegen_core.diffusion import checkpoints, origins
from diffusegen_core.diffusion.training import Training, steps_of
from diffusegen_core.diffusion.unet import UNCONDITIONAL
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Artifact, Recipe
from diffusegen_core.store.stamps import read_stamp
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other weights
# Parameters of training that cannot change the trained weights' distribution, so a change keeps the artifact.
IRRELEVANT = {"images", "full_images", "base_images", "micro_batch", "devices", "sample_weights", "compile",
              "checkpointing", "checkpoint_every", "preview_every", "preview_images", "preview_steps",
              "preview_sampler", "checkpoints", "keep_optimizer"}
# Further parameters, with the values at which they do nothing. A recipe names them only at other values, so
# that models that were finished before there were such parameters still hold.
OFF = {"lr_decay": 0.0, "augment": 0.0, "lesion_weight": 0.0, "min_snr": None,
       "one_model": False}


def base_of(settings: Train) -> str | None:
    """The name of the model that the clusters' models start from, or are parts of; None if there is none, as
    with finished checkpoints."""
    if settings.checkpoints is not None:
        return None
    if settings.one_model:
        return ONE
    if settings.base_images is None:
        return None
    return FULL if settings.base_images == settings.full_images else BASE


def origin(settings: Train) -> str:
    """What a table adds to the images of a cluster's model: where it starts from; "" if from scratch."""
    if (base := base_of(settings)) == ONE:
        return ", all by one model"
    return f", after {settings.base_images:,} of a common base" if base else ""


def images_of(settings: Train, name: str, clusters: int = 1) -> int:
    """How many images a model is to see, by its name; that of all clusters as many as theirs together."""
    known = {FULL: settings.full_images, BASE: settings.base_images, ONE: settings.images * clusters}
    return known.get(name) or settings.images


def decisive(settings: Train) -> dict[str, Any]:
    """The parameters of training that a model's recipe names."""
    return {name: value for name, value in plain(settings).items()
            if name not in IRRELEVANT and not (name in OFF and value == OFF[name])}


@dataclass(frozen=True)
class Task:
    """One model to train."""

    ws: Workspace
    training: Training
    everyone: Pairs
    """All pairs of the run."""
    own: Pairs
    """What it is trained on: pairs, or windows of pairs."""
    pictures: Pairs
    """The pairs of `own`, or those that its windows are of."""
    base: Path | None
    """The folder of the finished model whose averaged weights it starts from, or, with `one_model`, of which
    it is a part; None: it starts from scratch."""

    @property
    def name(self) -> str:
        return self.training.name

    @property
    def images(self) -> int:
        """How many images it is to see."""
        return images_of(self.training.settings, self.name, self.training.conditions.labels)

    @property
    def seen(self) -> Pairs:
        """The pairs that its weights have seen: a base has seen all, and so has what started from it."""
        return self.everyone if self.base else self.pictures

    @property
    def label(self) -> int | None:
        """Its label in the model of all clusters that it is a part of; None if it is trained itself."""
        return cluster_number(self.name) if self.base and self.training.settings.one_model else None

    @property
    def steps(self) -> int:
        return self.training.steps

    @property
    def configuration(self) -> dict[str, Any]:
        """What its file is to tell. A model taken from another file has no conditions."""
        trained = self.training.settings.checkpoints is None and self.label is None
        conditions = self.training.conditions if trained else UNCONDITIONAL
        return checkpoints.configuration(self.training.model, self.training.process, self.own.image_size,
                                         conditions, self.training.planes)

    @cached_property
    def source(self) -> Path | None:
        """The finished checkpoint that is to be taken instead of training, if any."""
        return None if self.taken else origins.find_released(self.training.settings, self.name)

    @cached_property
    def taken(self) -> str | None:
        """The hash of the checkpoint that was taken before, if its folder is gone; else None."""
        return taken(self.ws.folder / "train" / self.name, self.training.settings)

    @cached_property
    def artifact(self) -> Artifact:
        return self.ws.artifact(f"train/{self.name}", self.recipe)

    @property
    def recipe(self) -> Recipe:
        if released := self.taken or (self.source and files.remembered_sha256(self.source)):
            return {"released": released, **self.configuration,
                    "weights": self.training.settings.sample_weights}
        if self.label is not None:
            return {"version": VERSION, "name": self.name, ONE: self._base_hash, **self.configuration}
        recipe: Recipe = {
            "version": VERSION, "pairs": self.own.digest, "seed": self.ws.seed, "name": self.name,
            "images": self.images, **self.configuration, "train": decisive(self.training.settings)}
        if self.training.labels:
            recipe["clusters"] = list(self.training.labels)
        else:
            recipe["train"].pop("one_model", None)  # does not concern the full set's model
        if self.base:
            recipe["base"] = self._base_hash
        return recipe

    @property
    def _base_hash(self) -> str:
        stamp = self.base and read_stamp(self.base)
        assert stamp, "the base has just been made"
        return str(stamp["outputs"][WEIGHTS]["sha256"])


def task_of(ws: Workspace, name: str, pairs: Path, indices: list[int], settings: Train, network: Model,
            process: Process, base: Path | None = None, labels: Sequence[int] = (),
            windows: Path | None = None) -> Task:
    """The task of `train_model`. UserError for a checkpoint that is known to have seen other images."""
    everyone, shown = dataset.read(pairs), dataset.read(windows or pairs)
    steps = steps_of(images_of(settings, name, max(labels, default=0) + 1), settings.batch_size)
    training = Training(name, network, process, settings, shown.image_size, ws.seed, steps, tuple(labels),
                        shown.planes)
    own, copies = shown.take(indices), len(shown) // len(everyone)
    pictures = everyone.take(sorted({index // copies for index in indices})) if windows else own
    task = Task(ws, training, everyone, own, pictures, base)
    if task.source:
        origins.refuse_strangers(task.source, everyone, task.configuration)
    return task
