"""Chapter 2: a 4-channel diffusion model for every cluster, and one for the full set (paper 2.3, B.5).

Whatever a step draws (images, flips, timesteps, noise) comes from a seed of its own, so a run that was killed
continues from its last checkpoint as if nothing had happened: on the CPU the final weights are the same bits.

As an option, each cluster's model starts from the averaged weights of a base, one model of all pairs: the
full set's where that is to see as many images, or else one beside it, and both start from nothing. Only the
weights are taken over: the optimizer, the steps and the warm-up of the average begin anew.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters import cluster
from diffusegen_core.config import devices
from diffusegen_core.config.params import Params, plain
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import checkpoints, process, samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.training import (
    COLUMNS,
    State,
    Training,
    optimize,
    refuse_divergence,
    restore,
    snapshot,
    start,
    weights_of,
)
from diffusegen_core.diffusion.unet import parameter_count
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import runs, seeds

log = logging.getLogger(__name__)

FULL, BASE = "full", "base"
WEIGHTS = "model.safetensors"
VERSION = 1  # raised when the same parameters would give other weights
# Parameters of training that cannot change the trained weights' distribution, so a change keeps the artifact.
IRRELEVANT = {"images", "full_images", "base_images", "micro_batch", "sample_weights", "compile",
              "checkpointing", "checkpoint_every", "preview_every", "preview_images", "preview_steps",
              "preview_sampler", "checkpoints"}

Watch = Callable[[Path], None]


@dataclass(frozen=True)
class Model:
    """A trained model and what it took."""

    name: str  # cluster-00, cluster-01, ..., full or base
    pairs: int
    images: int
    steps: int
    loss: float  # mean over the last tenth of the steps
    seconds: float  # NaN where it was trained elsewhere
    parameters: int
    folder: Path

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

    @property
    def seconds(self) -> float:
        """What was spent here: nothing on models that were trained elsewhere."""
        return float(np.nansum([m.seconds for m in self.all]))

    @property
    def all(self) -> list[Model]:
        first = [self.base] if self.base and self.base != self.full else []
        return first + self.models + ([self.full] if self.full else [])

    @property
    def table(self) -> pd.DataFrame:
        """One row a model."""
        return pd.DataFrame([{
            "model": m.name, "pairs": m.pairs, "images": m.images, "steps": m.steps, "final loss": m.loss,
            "minutes": m.seconds / 60,
            "images/s": m.images / m.seconds if m.seconds and m.images else float("nan"),
        } for m in self.all]).set_index("model")


@fanout.alone
def run(p: Params, watch: Watch | None = None) -> Trained:
    """Train every model that is not finished. `watch` is called with a model's folder at each sample grid."""
    clusters = cluster.run(p)
    everyone = list(range(len(clusters.labels)))
    first = [fanout.Item(name, {"p": p, "name": name, "indices": everyone}) for name in [base_of(p)] if name]
    base = next(iter(fanout.run(train_model, first, "Training the base", watch=watch)), None)
    jobs = {f"cluster-{k:02d}": [i for i, label in enumerate(clusters.labels) if label == k]
            for k in range(clusters.k)}
    if p.train.full_images:
        jobs[FULL] = everyone
    items = [fanout.Item(name, {"p": p, "name": name, "indices": indices,
                                "base": base.folder if base and name != FULL else None})
             for name, indices in jobs.items()]
    models = fanout.run(train_model, items, "Training", watch=watch)
    full = models.pop() if p.train.full_images else None
    return Trained(models, full, base)


def base_of(p: Params) -> str | None:
    """The name of the model that the clusters' start from; none where finished checkpoints are used."""
    if p.train.base_images is None or p.train.checkpoints is not None:
        return None
    return FULL if p.train.base_images == p.train.full_images else BASE


def train_model(p: Params, name: str, indices: list[int], base: Path | None = None) -> Model:
    """Train one model on the pairs at `indices`, or continue it, or find it finished.

    `base` is the folder of the finished model whose averaged weights it starts from; None: from nothing.
    """
    everyone = dataset.load(p)
    pairs = everyone.take(indices)
    folder = p.folder / "train" / name
    images = {FULL: p.train.full_images, BASE: p.train.base_images}.get(name, p.train.images)
    recipe = {"version": VERSION, "pairs": pairs.digest, "seed": p.seed, "name": name, "images": images,
              **checkpoints.configuration(p),
              "train": {k: v for k, v in plain(p.train).items() if k not in IRRELEVANT}}
    if base:
        recipe["base"] = runs.stamped_hash(base / WEIGHTS)
    source = checkpoints.released(p, name)
    if source is not None:
        checkpoints.refuse_strangers(source, everyone, p)
        recipe = {"released": runs.sha256(source), "weights": p.train.sample_weights,
                  **checkpoints.configuration(p)}
    stamp = runs.current(folder, recipe)
    if stamp is None:
        if runs.stale(folder, recipe):
            runs.clear(folder)
        stamp = (checkpoints.adopt(p, source, folder / WEIGHTS, recipe) if source else
                 fit(p, name, pairs, folder, recipe, base))
    if runs.making():  # the optimizer's moments have served
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    seconds = stamp["seconds"] if source is None else float("nan")
    return Model(name, len(pairs), stamp["images"], stamp["steps"], stamp["loss"], seconds,
                 stamp["parameters"], folder)


def caveat(p: Params) -> str:
    """What a caption or a verdict must say where models are adopted that may have seen any image; or ""."""
    if p.train.checkpoints is None:
        return ""
    names = [f"cluster-{k:02d}" for k in range(p.cluster.k)] + ([FULL] if p.train.full_images else [])
    unknown = [name for name in names if checkpoints.seen(checkpoints.released(p, name)) is None]
    return (f"Of the {len(names)} diffusion models {len(unknown)} were trained elsewhere on unknown images, "
            "so that test images may be among these." if unknown else "")


def training_of(p: Params, name: str) -> Training:
    """What decides a model's training, beside its images."""
    return Training(name, p.model, p.process, p.train, p.data.image_size, p.seed)


def fit(p: Params, name: str, pairs: dataset.Pairs, folder: Path, recipe: runs.Recipe,
        base: Path | None = None) -> dict[str, Any]:
    """The training loop, from nothing, a base or the last checkpoint to a stamped model."""
    device = devices.device(p.device)
    x = torch.from_numpy(dataset.to_bytes(dataset.to_tensor(pairs).numpy())).to(device)
    s = process.schedule(p.process).to(device)
    batch, total = p.train.batch_size, -(-recipe["images"] // p.train.batch_size)
    training = training_of(p, name)
    first = checkpoints.part(checkpoints.read(base / WEIGHTS)[0], "ema.") if base else None
    state = start(training, device, first)
    resume(state, folder / "checkpoint.safetensors", recipe)
    if state.step == 0:
        runs.clear(folder)  # sample grids of other parameters
    began = time.monotonic() - state.seconds
    with progress.bar(name, total * batch, "image", done=state.step * batch) as bar:
        while state.step < total:
            row = optimize(training, state, s, x)
            bar.update(batch)
            done = state.step == total
            shown = done or state.step % p.train.preview_every == 0
            kept = done or state.step % p.train.checkpoint_every == 0
            if shown or kept:
                bar.set_postfix(loss=f"{float(row[0]):.4f}")
                refuse_divergence(row, name, state.step)
            if (shown or kept) and (stamp := runs.current(folder, recipe)):
                return stamp  # this process had stopped, and another has finished in its place
            if shown:
                preview(p, state, folder, name)
            if kept:  # after the sample grid, so that no interruption leaves the last one out
                state.seconds = time.monotonic() - began
                keep(state, folder, recipe)
            if shown:
                progress.show(folder)
    return conclude(p, state, folder, recipe, dataset.load(p) if base else pairs)


def keep(state: State, folder: Path, recipe: runs.Recipe) -> None:
    """Write the loss curve so far, and then the checkpoint that a killed run continues from."""
    write_losses(state, folder)
    checkpoints.save(folder / "checkpoint.safetensors", snapshot(state),
                     {"recipe": recipe, "seconds": state.seconds}, hashed=False)


def write_losses(state: State, folder: Path) -> Path:
    """The loss curve so far: a row a step."""
    frame = pd.DataFrame(state.history.rows().numpy(), columns=COLUMNS)
    frame.insert(0, "step", range(1, len(frame) + 1))
    return runs.write(folder / "log.csv", lambda file: frame.to_csv(file, index=False))


def resume(state: State, path: Path, recipe: runs.Recipe) -> None:
    """Continue from a checkpoint of the same recipe; the number of images may have grown."""
    found = checkpoints.left(path)
    if found is None:
        return
    tensors, header = found
    asked = {**header, "recipe": {**header.get("recipe", {}), "images": recipe["images"]}}
    reasons = checkpoints.misfit(asked, tensors, recipe, "raw.", state.net)
    done, batch = len(tensors.get("history", [])), recipe["train"]["batch_size"]
    if not reasons and done > -(-recipe["images"] // batch):
        reasons = [f"images: {done * batch} -> {recipe['images']}"]
    if reasons:
        log.warning("%s belongs to other parameters (%s). Training starts again.", path, "; ".join(reasons))
        return
    restore(state, tensors, header["seconds"])
    log.info("%s: continued at step %d", path, state.step)


def preview(p: Params, state: State, folder: Path, name: str) -> None:
    """A grid of samples of the averaged weights, always from the same noise."""
    device = next(state.net.parameters()).device
    s = process.schedule(p.process, p.train.preview_steps).to(device)
    own = [seeds.generator(p.seed, "preview", name, i, device=device) for i in range(p.train.preview_images)]
    side = p.data.image_size
    diffusion = Diffusion(state.average, s, p.process.objective, precision=p.train.precision)
    x = samplers.sample(diffusion, (4, side, side), own, samplers.SAMPLERS[p.train.preview_sampler])
    path = folder / "samples" / f"{state.step * p.train.batch_size:07d}.png"
    runs.write(path, dataset.grid(x).save)


def conclude(p: Params, state: State, folder: Path, recipe: runs.Recipe,
             seen: dataset.Pairs) -> dict[str, Any]:
    """Write the finished model and its stamp.

    `seen`: the pairs that it was trained on, its base's among them.
    """
    path = checkpoints.save(folder / WEIGHTS, weights_of(state), {
        "configuration": checkpoints.configuration(p), "recipe": recipe,
        "seen": checkpoints.fingerprints(seen)})
    return runs.finish(
        folder, recipe, [path, write_losses(state, folder)], state.seconds,
        images=state.step * p.train.batch_size, steps=state.step, loss=state.history.final_loss(),
        parameters=parameter_count(state.net), device=devices.name(p.device))
