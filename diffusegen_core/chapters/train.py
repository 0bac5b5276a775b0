"""Chapter 2: a diffusion model of image and mask for every cluster, and one for the full set (paper 2.3,
B.5).

Optionally, each cluster's model starts from the averaged weights of a base, a model of all pairs that starts
from scratch: the full set's if that is to see as many images, else a separate one. Only the weights are taken
over: the optimizer, the steps and the warm-up of the average start anew.

Alternatively, one model with a label for each cluster is trained on all pairs. A cluster's model is then this
model with the cluster's label fixed: an ordinary model, in a file of its own.

A model that is to see more images than before resumes where it stopped: weights, optimizer and loss curve of
a finished model are kept, and what a step draws depends only on its number. If the learning rate falls at the
end, the kept state is from before the fall: from there on a longer training takes other steps.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.costs import FLOAT, Cost, Work, without_network
from diffusegen_core.chapters.resuming import CHECKPOINT, OPTIMIZER, PLATEAU, take_up
from diffusegen_core.chapters.tasks import Task, base_of, task_of
from diffusegen_core.chapters.trained import WEIGHTS, Trained, TrainedModel, taken
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Model, Process, Train
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import BASE, FULL, ONE, cluster_model
from diffusegen_core.diffusion import checkpoints, history, origins, previews, process, samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import Schedule
from diffusegen_core.diffusion.training import (
    State,
    Training,
    join,
    optimize,
    refuse_divergence,
    snapshot,
    spend,
    start,
    took,
    weights_of,
)
from diffusegen_core.diffusion.unet import parameter_count
from diffusegen_core.parallel import fanout, pauses, progress, ranks
from diffusegen_core.parallel.pauses import Pause
from diffusegen_core.parallel.progress import GivenUp, Watcher
from diffusegen_core.parallel.ranks import ALONE, Share
from diffusegen_core.store import files, stamps, tracking
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

GRID = 6  # bytes of a pixel of a sample grid: an image above its mask, both in colours


def run(ws: Workspace, pairs: Pairs, clusters: Clusters, settings: Train, network: Model, process: Process,
        watch: Watcher | None = None, windows: Pairs | None = None,
        beside: Sequence[Workspace] = ()) -> Trained:
    """Train every model that is not finished, on the pairs or on their `windows`, as many of each pair.

    `watch` sees each new sample grid. `beside` are the workspaces of further generators, whose models are
    trained along with these, so that workers share them all; they are read by calls of their own.
    """
    copies = 1 if windows is None else len(windows) // len(pairs)
    everyone, labels = list(range(copies * len(pairs))), np.repeat(clusters.labels, copies).tolist()
    places = [ws, *beside]
    none: list[Path | None] = [None] * len(places)
    common = {"pairs": pairs.stored, "settings": settings, "network": network, "process": process,
              "windows": None if windows is None else windows.stored}

    def trained(groups: dict[str, list[int]], title: str, bases: Sequence[Path | None]) -> list[TrainedModel]:
        items = [fanout.Item(f"{name}{place.whose}", place,
                             {**common, "ws": place, "name": name, "indices": indices,
                              "base": None if name == FULL else base,
                              "labels": labels if name == ONE else []}, devices=settings.devices)
                 for place, base in zip(places, bases, strict=True) for name, indices in groups.items()]
        # Finished models are read here; only the others become work items.
        tasks = {item.name: task_of(**item.arguments) for item in items}
        finished = {name: _model(task) for name, task in tasks.items()
                    if not ws.writable or task.artifact.made()}
        rest = [item for item in items if item.name not in finished]
        fresh = fanout.run(train_model, rest, title, watch=watch)
        return [finished[item.name] if item.name in finished else fresh.pop(0) for item in items]

    name = base_of(settings)
    title = "Training the model of all clusters" if name == ONE else "Training the base"
    bases = trained({name: everyone}, title, none) if name else []
    groups = {cluster_model(k): [copies * i + j for i in clusters.members(k) for j in range(copies)]
              for k in range(clusters.k)}
    if settings.full_images:
        groups[FULL] = everyone
    models = trained(groups, "Training", [base.folder for base in bases] or none)[:len(groups)]
    full = models.pop() if settings.full_images else None
    return Trained(models, full, bases[0] if bases else None, settings.sample_weights)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    names = [cluster_model(k) for k in range(p.cluster.k)] + ([FULL] if p.train.full_images else [])
    # Only the first: if a folder is absent, each of twenty models would say the same.
    yield from islice(refusals(partial(_usable, p, name) for name in names), 1)
    yield from refusals([lambda: samplers.named(p.train.preview_sampler)], "train.preview_sampler")


def costs(settings: Train, clusters: int, image_size: int, work: Work) -> Iterator[Cost]:
    """The chapter's work items: the models, and their sample grids, which belong to the same items."""
    one = base_of(settings) == ONE
    models = [("model of all clusters", 1, settings.images * clusters) if one else
              ("cluster models", clusters, settings.images), ("full-set model", 1, settings.full_images),
              ("base of the cluster models", 1, settings.base_images if base_of(settings) == BASE else None)]
    kept = 2 * FLOAT * work.unet.parameters  # both sets of weights, or the optimizer's two moments
    parts = 1 + settings.keep_optimizer * (2 if settings.lr_decay else 1)  # a plateau has both
    if one:
        yield without_network("train", "cluster models, parts of one", "training", clusters, clusters * kept)
    for title, count, images in models:
        if not images:
            continue
        if settings.checkpoints is not None:
            yield without_network("train", f"{title}, trained before", "training", count, count * kept)
            continue
        steps = -(-images // settings.batch_size)
        seen, grids = steps * settings.batch_size, -(-steps // settings.preview_every)
        yield Cost(chapter="train", work=title, kind="training", items=count, images=count * seen,
                   flop=count * seen * work.unet.learn, largest=seen * work.unet.learn,
                   disk=count * kept * parts, temporary=2 * kept, cards=settings.devices)
        calls = grids * settings.preview_images * settings.preview_steps
        yield Cost(chapter="train", work=f"sample grids of the {title}", kind="sampling",
                   images=count * calls, flop=count * calls * work.unet.call, largest=calls * work.unet.call,
                   items=count * grids, disk=count * grids * settings.preview_images * GRID * image_size**2)


def _usable(p: Params, name: str) -> None:
    """UserError if a finished checkpoint that the parameters name is absent, damaged, or does not fit."""
    if taken(p.folder / "train" / name, p.train):
        return
    if source := origins.find_released(p.train, name):
        checkpoints.judge(source, p.model, p.process, p.model_size, p.train.sample_weights, Planes.of(p.data))


def train_model(ws: Workspace, name: str, pairs: Path, indices: list[int], settings: Train, network: Model,
                process: Process, base: Path | None = None, labels: Sequence[int] = (),
                windows: Path | None = None) -> TrainedModel:
    """Train or resume one model on the pairs, or the windows, at `indices`, unless it is finished."""
    given: dict[str, Any] = {"name": name, "pairs": pairs, "indices": indices, "settings": settings,
                             "network": network, "process": process, "base": base, "labels": labels,
                             "windows": windows}
    task = task_of(ws, **given)
    if not task.artifact.made():
        source = origins.find_released(settings, name)
        try:
            if source:
                _adopt(task, source)
            elif task.label is not None:
                _part(task)
            elif settings.devices == 1:
                _fit(task)
            else:
                ranks.together(_fit_share, {"ws": ws, **given}, devices.several(ws.device, settings.devices),
                               name, task.steps * settings.batch_size, "image")
        except UserError:
            # While this process was stopped, another may have finished and moved the folder away.
            if not task.artifact.made():
                raise
    return _model(task)


def _model(task: Task) -> TrainedModel:
    """A finished model. Raises NotMadeError if it is not finished."""
    stamp = task.artifact.stamp
    return TrainedModel(task.name, len(task.pictures), stamp["images"], stamp["steps"], stamp["loss"],
                        float("nan") if "released" in task.recipe else stamp["seconds"], stamp["parameters"],
                        task.artifact.folder, stamp["outputs"][WEIGHTS]["sha256"], stamps.cards(stamp))


def _adopt(task: Task, source: Path) -> None:
    """Take a finished checkpoint into the run, if it fits: it is judged before anything changes."""
    diffusion, origin = _loaded(source, task.training), task.training.settings.checkpoints
    known, folder = origins.read_fingerprints(source), task.artifact.begin()
    tensors = {f"{kind}.{k}": v for kind in ("raw", "ema") for k, v in diffusion.net.state_dict().items()}
    header = {"configuration": task.configuration, **({} if known is None else {"seen": known})}
    weights = checkpoints.save(folder / WEIGHTS, tensors, header)
    task.artifact.finish(
        [weights], 0.0, images=0, steps=0, loss=float("nan"), parameters=parameter_count(diffusion.net),
        origin=origin, trained=f"elsewhere on {'unknown' if known is None else 'known'} images")


def _part(task: Task) -> None:
    """Write the model of all clusters, with one label fixed, as a model of its own."""
    assert task.base is not None, "it is a part of that"
    source, folder = task.base / WEIGHTS, task.artifact.begin()
    nets = {kind: checkpoints.load(source, kind, label=task.label).net for kind in checkpoints.WEIGHTS}
    tensors = {f"{kind}.{k}": v for kind, net in nets.items() for k, v in net.state_dict().items()}
    weights = checkpoints.save(folder / WEIGHTS, tensors, {"configuration": task.configuration,
                                                           "seen": origins.read_fingerprints(source)})
    task.artifact.finish([weights], 0.0, images=0, steps=0, loss=float("nan"),
                         parameters=parameter_count(nets["raw"]))


def _loaded(source: Path, training: Training) -> Diffusion:
    """The model of a finished checkpoint. UserError if it is damaged, or does not fit."""
    expected = training.model, training.process, training.image_size
    checkpoints.judge(source, *expected, training.settings.sample_weights, training.planes)
    if source.suffix != checkpoints.OURS:
        return checkpoints.load_released(source, *expected, planes=training.planes)
    return checkpoints.load(source, training.settings.sample_weights)


def _fit_share(share: Share, place: str, ws: Workspace, **given: Any) -> None:
    """The part of one of several processes that train one model together."""
    _fit(task_of(replace(ws, device=place), **given), share)


def _fit(task: Task, share: Share = ALONE) -> None:
    """The training loop: from scratch, a base, a checkpoint or a shorter training, to a stamped model. If
    there are several processes, each takes its share of every step, and one writes."""
    training, settings, device = task.training, task.training.settings, devices.device(task.ws.device)
    artifact, folder = task.artifact, task.artifact.begin()
    x = torch.from_numpy(dataset.to_bytes(dataset.to_tensor(task.own).numpy())).to(device)
    schedule = process.schedule(training.process).to(device)
    base = checkpoints.part(checkpoints.read(task.base / WEIGHTS)[0], "ema.") if task.base else None
    state = start(training, device, base)
    take_up(state, artifact, folder, task.steps)
    join(state, share)
    began, batch = time.monotonic() - state.seconds, settings.batch_size
    with (progress.bar(task.name, task.steps * batch, "image", done=state.step * batch,
                       hidden=not share.writes) as bar,
          tracking.track(task.ws.tracking if share.writes else None, task.ws.folder, f"train/{task.name}",
                         state.step) as track,
          pauses.between_steps() as pause, _reached(task, state, share, folder, began, pause)):
        if _lacks_preview(task, state, share, folder):
            _preview(task, state, schedule, folder)
        while state.step < task.steps:
            if state.step == training.plateau and settings.keep_optimizer and share.writes:
                spend(state, time.monotonic() - began)
                _save(state, folder / PLATEAU, artifact.recipe)
            with pause.step():
                row = optimize(training, state, schedule, x)
            bar.update(batch)
            done = state.step == task.steps
            shown = done or state.step % settings.preview_every == 0
            kept = done or state.step % settings.checkpoint_every == 0
            if shown or kept:
                bar.set_postfix(loss=f"{float(row[0]):.4f}")
                refuse_divergence(row, task.name, state.step)
                if not share.writes:
                    continue
                track.values({"loss": float(row[0])}, state.step)
                if artifact.made():
                    return  # this process was stopped, and another has finished in its place
            if shown:
                grid = _preview(task, state, schedule, folder)
                track.image("samples", np.asarray(grid.convert("RGB")), state.step)
            if kept:  # after the sample grid, so that no interruption leaves the last one out
                spend(state, time.monotonic() - began)
                _keep(state, folder, artifact.recipe)
            if shown:
                progress.show(task.name, folder)
    if share.writes:
        _conclude(task, state, folder)


@contextlib.contextmanager
def _reached(task: Task, state: State, share: Share, folder: Path, began: float,
             pause: Pause) -> Iterator[None]:
    """Write a checkpoint if a training by one process is interrupted, or no longer waited for: unless a step
    was left halfway or its loss is not finite, or another process is as far."""
    try:
        yield
    except (KeyboardInterrupt, GivenUp):
        path = folder / CHECKPOINT
        header = checkpoints.left(path) if path.is_file() else None
        kept = header.get("steps", 0) if header else 0
        if (share == ALONE and pause.whole and kept < state.step and folder.is_dir()
                and not task.artifact.made() and bool(state.history.rows()[-1].isfinite().all())):
            spend(state, time.monotonic() - began)
            _keep(state, folder, task.artifact.recipe)
        raise


def _lacks_preview(task: Task, state: State, share: Share, folder: Path) -> bool:
    """Whether a training resumes from its own checkpoint at a step whose sample grid is due but missing."""
    due = state.step == task.steps or state.step % task.training.settings.preview_every == 0
    return (share.writes and state.step > 0 and due and (folder / CHECKPOINT).is_file()
            and not _preview_file(task, state, folder).is_file())


def _preview(task: Task, state: State, schedule: Schedule, folder: Path) -> Image.Image:
    """Draw, write and return the sample grid of a step."""
    grid = previews.grid(task.training, state, schedule)
    files.write(_preview_file(task, state, folder), grid.save)
    return grid


def _preview_file(task: Task, state: State, folder: Path) -> Path:
    return folder / "samples" / f"{state.step * task.training.settings.batch_size:07d}.png"


def _keep(state: State, folder: Path, recipe: Recipe) -> None:
    """Write the loss curve so far, and then the checkpoint that a killed run resumes from."""
    _write_curve(state, folder)
    _save(state, folder / CHECKPOINT, recipe)


def _save(state: State, path: Path, recipe: Recipe) -> None:
    """Write everything that a training resumes from."""
    checkpoints.save(path, snapshot(state),
                     {"recipe": recipe, **took(state), "steps": state.step}, hashed=False)


def _write_curve(state: State, folder: Path) -> None:
    """Write the loss curve so far: one row per step."""
    frame = pd.DataFrame(state.history.rows().numpy(), columns=history.COLUMNS)
    frame.insert(0, "step", range(1, len(frame) + 1))
    files.write(folder / "log.csv", lambda file: frame.to_csv(file, index=False))


def _conclude(task: Task, state: State, folder: Path) -> None:
    """Write the finished model, and what it takes to train it further; then its stamp."""
    artifact = task.artifact
    reached = {"recipe": artifact.recipe, "steps": state.step}  # no seconds: the recipe decides the bytes
    weights = checkpoints.save(folder / WEIGHTS, weights_of(state), {
        "configuration": task.configuration, "seen": origins.fingerprints(task.seen), **reached})
    # Once the learning rate has fallen, nothing resumes from here, but from the plateau.
    if task.training.settings.keep_optimizer and task.training.plateau == state.step:
        checkpoints.save(folder / OPTIMIZER, {**checkpoints.moments(state.net, state.optimizer),
                                              "history": state.history.rows()},
                         {**reached, **took(state)}, hashed=False)
    _write_curve(state, folder)
    several = f"{state.share.of} x " if state.share.of > 1 else ""
    cards: dict[str, Any] = {stamps.CARDS: round(state.cards, 3)} if state.cards > 1 else {}
    artifact.finish([weights], state.seconds, spent=[folder / CHECKPOINT],
                    images=state.step * task.training.settings.batch_size, steps=state.step,
                    loss=state.history.final_loss(), parameters=parameter_count(state.net),
                    device=several + devices.name(task.ws.device, task.training.settings.precision), **cards)
