"""Chapter 2: a 4-channel diffusion model for every cluster, and one for the full set (paper 2.3, B.5).

As an option, each cluster's model starts from the averaged weights of a base, one model of all pairs: the
full set's where that is to see as many images, or else one beside it, and both start from nothing. Only the
weights are taken over: the optimizer, the steps and the warm-up of the average begin anew.

A model that is to see more images than before goes on from where it was: weights, optimizer and loss curve of
a finished model are kept, and what a step draws depends on its number alone.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Model as Network
from diffusegen_core.config.sections import Process, Train
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import BASE, FULL, cluster_model
from diffusegen_core.diffusion import checkpoints, process, samplers, training
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.training import State
from diffusegen_core.diffusion.unet import parameter_count
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.parallel.progress import Watch
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Artifact, Recipe, differences, read_stamp
from diffusegen_core.store.workspace import Workspace

log = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, CHECKPOINT = "model.safetensors", "optimizer.safetensors", "checkpoint.safetensors"
VERSION = 1  # raised when the same parameters would give other weights
# Parameters of training that cannot change the trained weights' distribution, so a change keeps the artifact.
IRRELEVANT = {"images", "full_images", "base_images", "micro_batch", "sample_weights", "compile",
              "checkpointing", "checkpoint_every", "preview_every", "preview_images", "preview_steps",
              "preview_sampler", "checkpoints", "keep_optimizer"}


@dataclass(frozen=True)
class Model:
    """A trained model and what it took."""

    name: str
    """cluster-00, cluster-01, ..., full or base."""
    pairs: int
    images: int
    steps: int
    loss: float
    """Mean over the last tenth of the steps."""
    seconds: float
    """NaN where it was trained elsewhere."""
    parameters: int
    folder: Path
    sha256: str
    """Of its weights file."""

    @property
    def path(self) -> Path:
        return self.folder / WEIGHTS


@dataclass(frozen=True)
class Trained:
    """All models of a run."""

    models: list[Model]
    """One a cluster, in their order."""
    full: Model | None
    """The full set's, where the parameters ask for one."""
    base: Model | None = None
    """What the clusters' started from, if they did not from nothing; it may be `full`."""
    weights: str = "ema"
    """The set of weights that later chapters use: "ema" or "raw"."""

    @property
    def seconds(self) -> float:
        """What was spent here: nothing on models that were trained elsewhere."""
        return float(np.nansum([model.seconds for model in self.all]))

    @property
    def all(self) -> list[Model]:
        first = [self.base] if self.base and self.base != self.full else []
        return first + self.models + ([self.full] if self.full else [])

    def __getitem__(self, name: str) -> Model:
        """A model by its name. Raises KeyError with the names that there are."""
        for model in self.all:
            if model.name == name:
                return model
        raise KeyError(f"there is no model {name}; there are {', '.join(model.name for model in self.all)}")

    def load(self, name: str = cluster_model(0), device: str = "auto", precision: str = "fp32") -> Diffusion:
        """A model, ready to sample with: `run.models.load("cluster-03").sample(4)`."""
        return checkpoints.load(self[name].path, self.weights, devices.device(device), precision)

    @property
    def table(self) -> pd.DataFrame:
        """One row a model."""
        return pd.DataFrame([{
            "model": m.name, "pairs": m.pairs, "images": m.images, "steps": m.steps, "final loss": m.loss,
            "minutes": m.seconds / 60,
            "images/s": m.images / m.seconds if m.seconds and m.images else float("nan"),
        } for m in self.all]).set_index("model")

    @property
    def caveat(self) -> str:
        """What a caption or a verdict must say where models are adopted that may have seen any image."""
        unknown = [model.name for model in self.all if checkpoints.seen(model.path) is None]
        return (f"Of the {len(self.all)} diffusion models {len(unknown)} were trained elsewhere on unknown "
                "images, so that test images may be among these." if unknown else "")


def run(ws: Workspace, pairs: Pairs, clusters: Clusters, settings: Train, network: Network, process: Process,
        watch: Watch | None = None) -> Trained:
    """Train every model that is not finished. `watch` sees each new sample grid."""
    everyone = list(range(len(pairs)))
    common = {"ws": ws, "pairs": pairs.stored, "settings": settings, "network": network, "process": process}

    def trained(groups: dict[str, list[int]], title: str, base: Path | None = None) -> list[Model]:
        items = [fanout.Item(name, {**common, "name": name, "indices": indices,
                                    "base": None if name == FULL else base})
                 for name, indices in groups.items()]
        if not ws.writable:
            return [train_model(**item.arguments) for item in items]
        return fanout.run(train_model, items, title, watch=watch)

    name = base_of(settings)
    base = trained({name: everyone}, "Training the base")[0] if name else None
    groups = {cluster_model(k): clusters.members(k) for k in range(clusters.k)}
    if settings.full_images:
        groups[FULL] = everyone
    models = trained(groups, "Training", base.folder if base else None)
    full = models.pop() if settings.full_images else None
    return Trained(models, full, base, settings.sample_weights)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as it can be told before."""
    names = [cluster_model(k) for k in range(p.cluster.k)] + ([FULL] if p.train.full_images else [])
    yield from refusals(lambda name=name: _judged(p, name) for name in names)  # type: ignore[misc]
    if p.train.preview_sampler not in samplers.SAMPLERS:
        yield (f"Parameters: train.preview_sampler: there is no sampler {p.train.preview_sampler}; there are "
               f"{', '.join(samplers.SAMPLERS)}.")


def _judged(p: Params, name: str) -> None:
    """UserError where a finished checkpoint that the parameters name is absent, or does not fit."""
    if source := checkpoints.released(p.train, name):
        checkpoints.adoptable(source, p.train.sample_weights, p.model, p.process, p.data.image_size)


def base_of(settings: Train) -> str | None:
    """The name of the model that the clusters' start from; none where finished checkpoints are used."""
    if settings.base_images is None or settings.checkpoints is not None:
        return None
    return FULL if settings.base_images == settings.full_images else BASE


@dataclass(frozen=True)
class Task:
    """One model to train."""

    ws: Workspace
    name: str
    everyone: Pairs
    own: Pairs
    """Those that it is trained on."""
    settings: Train
    network: Network
    process: Process
    base: Path | None
    """The folder of the finished model whose averaged weights it starts from; None: from nothing."""

    @property
    def images(self) -> int:
        """How many it is to see."""
        other = {FULL: self.settings.full_images, BASE: self.settings.base_images}
        return other.get(self.name) or self.settings.images

    @property
    def steps(self) -> int:
        return -(-self.images // self.settings.batch_size)

    @property
    def configuration(self) -> dict[str, Any]:
        return checkpoints.configuration(self.network, self.process, self.own.image_size)

    @property
    def recipe(self) -> Recipe:
        decisive = {k: v for k, v in plain(self.settings).items() if k not in IRRELEVANT}
        recipe = {"version": VERSION, "pairs": self.own.digest, "seed": self.ws.seed, "name": self.name,
                  "images": self.images, **self.configuration, "train": decisive}
        if self.base:
            stamp = read_stamp(self.base)
            assert stamp is not None, "the base has just been made"
            recipe["base"] = stamp["outputs"][WEIGHTS]["sha256"]
        return recipe


def train_model(ws: Workspace, name: str, pairs: Path, indices: list[int], settings: Train, network: Network,
                process: Process, base: Path | None = None) -> Model:
    """Train one model on the pairs at `indices`, or continue it, or find it finished."""
    everyone = dataset.read(pairs)
    task = Task(ws, name, everyone, everyone.take(indices), settings, network, process, base)
    source = checkpoints.released(settings, name)
    if source:
        artifact = _adopted(task, source)
    else:
        artifact = ws.artifact(f"train/{name}", task.recipe)
        if not artifact.made():
            _fit(task, artifact)
    stamp = artifact.stamp
    return Model(name, len(indices), stamp["images"], stamp["steps"], stamp["loss"],
                 float("nan") if source else stamp["seconds"], stamp["parameters"], artifact.folder,
                 stamp["outputs"][WEIGHTS]["sha256"])


def _adopted(task: Task, source: Path) -> Artifact:
    """A finished checkpoint, taken into the run if it fits and is not known to have seen other images."""
    recipe = {"released": files.remembered_sha256(source), "weights": task.settings.sample_weights,
              **task.configuration}
    artifact = task.ws.artifact(f"train/{task.name}", recipe)
    if artifact.made():
        return artifact
    # It is judged before anything changes.
    checkpoints.refuse_strangers(source, task.everyone, task.network, task.process)
    diffusion = checkpoints.adoptable(source, task.settings.sample_weights, task.network, task.process,
                                      task.own.image_size)
    known, folder = checkpoints.seen(source), artifact.begin()
    tensors = {f"{kind}.{k}": v for kind in ("raw", "ema") for k, v in diffusion.net.state_dict().items()}
    header = {"configuration": task.configuration, **({} if known is None else {"seen": known})}
    artifact.finish([checkpoints.save(folder / WEIGHTS, tensors, header)], 0.0, images=0, steps=0,
                    loss=float("nan"), parameters=parameter_count(diffusion.net),
                    trained=f"elsewhere on {'unknown' if known is None else 'known'} images")
    return artifact


def _fit(task: Task, artifact: Artifact) -> None:
    """The training loop: from nothing, a base, a checkpoint or a shorter training, to a stamped model."""
    settings, device = task.settings, devices.device(task.ws.device)
    folder = artifact.begin()
    x = torch.from_numpy(dataset.to_bytes(dataset.to_tensor(task.own).numpy())).to(device)
    schedule = process.schedule(task.process).to(device)
    state = training.start(task.network, settings, task.own.image_size, task.ws.seed, task.name, device,
                           checkpoints.read(task.base / WEIGHTS)[0] if task.base else None)
    _resume(state, artifact, folder, task.steps)
    began, batch = time.monotonic() - state.seconds, settings.batch_size
    with progress.bar(task.name, task.steps * batch, "image", done=state.step * batch) as bar:
        while state.step < task.steps:
            row = training.optimize(state, schedule, x, settings, task.process.objective, task.ws.seed,
                                    task.name)
            bar.update(batch)
            done = state.step == task.steps
            shown = done or state.step % settings.preview_every == 0
            kept = done or state.step % settings.checkpoint_every == 0
            if shown or kept:
                bar.set_postfix(loss=f"{float(row[0]):.4f}")
                training.refuse_divergence(row, task.name, state.step)
                if artifact.made():
                    return  # this process had stopped, and another has finished in its place
            if shown:
                _preview(task, state, folder)
            if kept:  # after the sample grid, so that no interruption leaves the last one out
                state.seconds = time.monotonic() - began
                _keep(state, folder, artifact.recipe)
            if shown:
                progress.show(task.name, folder)
    _conclude(task, state, artifact, folder)


def _resume(state: State, artifact: Artifact, folder: Path, steps: int) -> None:
    """Take up the furthest training that differs from this one in the number of images alone."""
    unfinished = [folder, *(other for other in sorted(folder.parent.iterdir()) if other != folder)]
    sources = [(place / CHECKPOINT, place / CHECKPOINT) for place in unfinished]
    sources += [(place / WEIGHTS, place / OPTIMIZER) for place in artifact.earlier()]
    reached = []
    for weights, optimizer in sources:
        header = checkpoints.left(weights, optimizer)
        if header is None:
            continue
        differing = differences({**header["recipe"], "images": 0}, {**artifact.recipe, "images": 0})
        if differing and weights.parent == folder:
            log.warning("%s belongs to other parameters (%s). Training starts again.", weights,
                        "; ".join(differing))
        elif not differing and header["steps"] <= steps:
            reached.append((header["steps"], weights, optimizer, header))
    if reached:
        done, weights, optimizer, header = max(reached, key=lambda one: one[0])
        training.resume(state, *checkpoints.both(weights, optimizer))
        state.seconds = header["seconds"]
        log.info("%s: continued at step %d", weights, done)


def _preview(task: Task, state: State, folder: Path) -> None:
    """A grid of samples of the averaged weights, always from the same noise."""
    settings, device = task.settings, state.device
    schedule = process.schedule(task.process, settings.preview_steps).to(device)
    own = [seeds.generator(task.ws.seed, "preview", task.name, i, device=device)
           for i in range(settings.preview_images)]
    diffusion = Diffusion(state.average, schedule, task.process.objective)
    side = task.own.image_size
    with devices.exact(), devices.autocast(device, settings.precision):
        x = samplers.sample(diffusion, (4, side, side), own, samplers.SAMPLERS[settings.preview_sampler])
    path = folder / "samples" / f"{state.step * settings.batch_size:07d}.png"
    files.write(path, dataset.grid(x).save)


def _keep(state: State, folder: Path, recipe: Recipe) -> None:
    """Write the loss curve so far, and then the checkpoint that a killed run continues from."""
    _write_curve(state, folder)
    tensors = {**training.weights_of(state), **checkpoints.moments(state.net, state.optimizer),
               "history": state.history_so_far()}
    checkpoints.save(folder / CHECKPOINT, tensors,
                     {"recipe": recipe, "seconds": state.seconds, "steps": state.step}, hashed=False)


def _write_curve(state: State, folder: Path) -> None:
    """The loss curve so far: a row a step."""
    frame = pd.DataFrame(state.history_so_far().numpy(), columns=training.COLUMNS)
    frame.insert(0, "step", range(1, len(frame) + 1))
    files.write(folder / "log.csv", lambda file: frame.to_csv(file, index=False))


def _conclude(task: Task, state: State, artifact: Artifact, folder: Path) -> None:
    """Write the finished model, and what it would take to train it further; then its stamp."""
    # A base has seen all pairs, and so has what started from it.
    seen = task.everyone if task.base else task.own
    header = {"configuration": task.configuration, "recipe": artifact.recipe, "seconds": state.seconds,
              "steps": state.step, "seen": checkpoints.fingerprints(seen)}
    weights = checkpoints.save(folder / WEIGHTS, training.weights_of(state), header)
    if task.settings.keep_optimizer:
        checkpoints.save(folder / OPTIMIZER, {**checkpoints.moments(state.net, state.optimizer),
                                              "history": state.history_so_far()},
                         {"recipe": artifact.recipe, "steps": state.step, "seconds": state.seconds})
    _write_curve(state, folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)  # what it held is in the two files
    losses = state.history_so_far()[-max(1, state.step // 10):, 0]
    artifact.finish([weights], state.seconds, images=state.step * task.settings.batch_size, steps=state.step,
                    loss=float(losses.mean()), parameters=parameter_count(state.net),
                    device=devices.name(task.ws.device))
