"""The networks of chapters 6 and 7: what decides each, its training, its tests, and the results of a grid."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Segment
from diffusegen_core.data import dataset, planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.measures import intervals, overlap
from diffusegen_core.networks import weights
from diffusegen_core.segmentation import details, experiments, forecast, segnet, trainsets
from diffusegen_core.segmentation.details import WEIGHTS, Details
from diffusegen_core.segmentation.experiments import Experiment, Place, Results
from diffusegen_core.segmentation.trainsets import Choice, Sets
from diffusegen_core.store import files, moves, seeds, tracking
from diffusegen_core.store.artifacts import NotMadeError, Recipe
from diffusegen_core.store.stamps import STAMP, read_stamp
from diffusegen_core.store.workspace import Workspace

VERSION = 2  # raised when the same parameters would give another network
SCORES = 1  # raised when the same network would be scored or shown differently
EXAMPLES = 4  # test images of each set whose predicted masks are kept for a figure
HISTORY, SHOWN = "history.csv", "examples.npz"
TRIAL = 4  # batches of a trial
MOST = {"hd95": float("inf"), details.FALSE_ALARMS: float("inf")}  # upper bounds of measures beyond 1
SUMMARY = ["mean", "low", "high", "images", "seeds"]
GROUP = "group"  # the column of the groups that are resampled as a whole


@dataclass(frozen=True)
class Trial:
    """What a worker needs to train and test one network: names, paths and small values."""

    settings: Segment
    real: Path
    """The file of the real pairs."""
    folder: Path | None
    """The dataset folder of the synthetic pairs."""
    train: Choice
    valid: Choice
    """The pairs that choose the best epoch."""
    tests: dict[str, Path]
    """By name, the file of each test set."""
    facts: dict[str, str] = field(default_factory=dict)
    """Kept beside the facts about the training."""
    refusal: str = ""
    """Why it cannot be done; "" if it can."""


@dataclass(frozen=True)
class Tested:
    """A grid of networks and their results."""

    images: pd.DataFrame
    """One row per network and test image: experiments.FIELDS, test_set, image, the measures of
    overlap.scores, and the generator."""
    runs: pd.DataFrame
    """One row per network: name, experiments.FIELDS, status, seconds, and the facts about its training."""
    tests: list[TestSet]
    encoder: str
    """In words."""
    folder: Path
    details: Details = field(default_factory=Details)
    """Further measures of the same predictions; none for older networks whose weights were not kept."""
    generators: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row, with its seconds, per generator trained for a small set of chapter 7; elsewhere empty."""

    @property
    def complete(self) -> bool:
        """Whether every network is trained and tested, or has failed."""
        return self.unfinished == 0

    @property
    def unfinished(self) -> int:
        """How many networks have neither been tested nor failed."""
        status = self.runs["status"]
        return int((~((status == experiments.OK) | experiments.failed(status))).sum())

    def groups_of(self, test: str) -> Mapping[str, str] | None:
        """The sequence, centre or patient of each image of a test set; None where these are not known."""
        groups = next((one.groups for one in self.tests if one.name == test), None)
        return groups.of if groups else None

    @property
    def seconds(self) -> float:
        """Seconds of all networks, failed attempts included, and of each generator, counted once however many
        networks were trained on its pairs."""
        return sum(float(frame["seconds"].sum()) for frame in (self.runs, self.generators)
                   if "seconds" in frame)


Tasks = Mapping[Experiment, tuple[Sets, Choice, Choice]]
"""A grid: the sets each experiment draws from, its training pairs, and the pairs that choose its epoch."""


def grid(seed: int, settings: Segment, tasks: Tasks,
         tests: Mapping[str, TestSet]) -> dict[Experiment, Recipe]:
    """What decides each experiment of a grid."""
    return {experiment: recipe(seed, settings, experiment, sets, train, valid, tests)
            for experiment, (sets, train, valid) in tasks.items()}


def recipe(seed: int, settings: Segment, experiment: Experiment, sets: Sets, train: Choice, valid: Choice,
           tests: Mapping[str, TestSet]) -> Recipe:
    """What decides a network, apart from its experiment; and by test set, what decides its scores."""
    return {"version": VERSION,
            "net": segnet.decided_by(settings, net_seed(seed, experiment), sets.real.planes),
            "train": trainsets.content(sets, experiment.data_type, train),
            "valid": trainsets.content(sets, experiment.data_type, valid),
            "tests": {name: {"version": SCORES, "columns": overlap.columns(pairs.planes.classes),
                             "pairs": pairs.digest}
                      for name, pairs in present(tests).items()}}


def present(tests: Mapping[str, TestSet]) -> dict[str, Pairs]:
    """The pairs of the test sets that exist, by name."""
    return {name: test.pairs for name, test in tests.items() if test.pairs is not None}


def planned(ws: Workspace, title: str, image_size: int, kind: Planes, settings: Segment,
            grid: Mapping[Experiment, Sets | None], tests: Mapping[str, TestSet] | None,
            expected: Callable[[Experiment], tuple[Choice, Choice]],
            chosen: Callable[[Experiment, Sets], tuple[Choice, Choice]]) -> str:
    """A chapter's grid in words: what is finished, and how long the rest will take. Nothing is written.

    `grid` has the sets that each network takes its pairs from, or None where they are not made yet; `tests`
    likewise. `chosen` gives a network's training pairs and those that choose its best epoch; `expected` gives
    as many placeholders where the pairs are not made yet.
    """
    choices: dict[Experiment, tuple[Choice, Choice]] = {}
    recipes: dict[Experiment, Recipe | None] = {}
    for experiment, mine in grid.items():
        if mine is None or tests is None:
            choices[experiment], recipes[experiment] = expected(experiment), None
        else:
            choices[experiment] = chosen(experiment, mine)
            recipes[experiment] = recipe(ws.seed, settings, experiment, mine, *choices[experiment], tests)
    return forecast.describe(ws, title, recipes, lambda experiment: cost(settings, *choices[experiment]),
                             lambda: pace(settings, image_size, ws.device, kind), details.obtainable)


def net_seed(seed: int, experiment: Experiment) -> int:
    """The seed of a network, the same for all data types, so that they start from the same weights."""
    return seeds.derive(seed, "segmentation network", experiment.seed)


def cost(settings: Segment, train: Choice, valid: Choice) -> float:
    """The relative duration of a network: images that pass through it, a forward pass alone as a third."""
    return settings.epochs * ((settings.epoch_images or len(train)) + len(valid) / 3)


def work(place: Place, trial: Trial) -> None:
    """Train one network, unless its weights are kept, and test it on every set on which it has no scores.

    The losses of every epoch are kept, and for each test set the scores, a few predicted masks, and the
    details. If the settings do not keep the weights, they go once all tests are done, so that a kill during a
    test costs no training.
    """
    if trial.refusal:
        raise UserError(f"{place.experiment.label}: {trial.refusal}")
    if not len(trial.train) or not len(trial.valid):
        raise UserError(f"{place.experiment.label}: {len(trial.train)} pairs to train on and "
                        f"{len(trial.valid)} to choose the best epoch by are too few.")
    device = devices.device(place.workspace.device)
    net = (segnet.load(place.weights / WEIGHTS, trial.settings, device) if place.kept
           else _train(place, trial, device))
    for name in place.untested:
        _score(place, trial, net, name)
    if not trial.settings.keep_weights:
        _drop_temporary_weights(place)


def _train(place: Place, trial: Trial, device: torch.device) -> nn.Module:
    experiment, settings = place.experiment, trial.settings
    folder = place.network.begin()
    fitted = segnet.fit(trainsets.load(trial.real, trial.folder, trial.train),
                        trainsets.load(trial.real, trial.folder, trial.valid), settings,
                        net_seed(place.workspace.seed, experiment), folder,
                        {"experiment": experiment.label}, device, experiment.label)
    checkpoint = folder / segnet.CHECKPOINT
    if place.status == experiments.OK:  # this process had stalled, and another finished in its place
        checkpoint.unlink(missing_ok=True)
        return fitted.net
    history = files.write_text(folder / HISTORY, fitted.history.to_csv(index=False))
    with tracking.track(place.workspace.tracking, place.workspace.folder, place.name) as track:
        for row in fitted.history.itertuples():
            track.values({"loss": row.loss, "valid_iou": row.valid_iou}, row.epoch)
    facts = {"train_pairs": len(trial.train), "real_pairs": len(trial.train.real),
             "valid_pairs": len(trial.valid), "best_epoch": fitted.best_epoch,
             "valid_iou": float(fitted.history["valid_iou"].max()), **trial.facts}

    def save(kept: Path) -> Path:
        return segnet.save(kept / WEIGHTS, fitted.net)

    place.trained([history], fitted.seconds, facts, save, [checkpoint], temporary=not settings.keep_weights,
                  precision=settings.precision)
    return fitted.net


def _drop_temporary_weights(place: Place) -> None:
    """Remove weights that were saved for the tests only; others, which earlier settings kept, stay."""
    stamp = read_stamp(place.weights)
    if stamp and stamp.get("temporary") is True:
        # The stamp goes first: if a kill comes then, what is left does not count as weights.
        files.remove(place.weights, [STAMP, *stamp["outputs"]])


def _score(place: Place, trial: Trial, net: nn.Module, name: str) -> None:
    began, test = time.monotonic(), dataset.read(trial.tests[name])
    probabilities = segnet.predict(net, test.images, trial.settings, devices.device(place.workspace.device))
    images = overlap.scores(probabilities, test.masks, test.overlap).assign(image=test.names)
    seconds = time.monotonic() - began
    # Before the scores, which finish the experiment: without kept weights there is no second chance.
    details.keep(place, name, probabilities, test)
    places = spread(len(test), EXAMPLES)
    masks = planes.numbered(overlap.hard(probabilities[places], test.overlap)[:, 1:])
    shown = files.write(place.test(name).begin() / SHOWN, lambda file: np.savez(
        file, masks=masks, images=np.array(test.names)[places]))
    place.tested(name, images, [shown], seconds)


def run(ws: Workspace, chapter: str, title: str, settings: Segment, tasks: Tasks,
        tests: Mapping[str, TestSet], facts: Mapping[str, str] | None = None,
        refusals: Mapping[Experiment, str] | None = None) -> Tested:
    """Train and test the unfinished part of a grid; in a read-only workspace, read what exists of it.

    Finished networks of older versions get their details from the weights, where these were kept. `facts` are
    kept beside those about each training; `refusals` say which experiments cannot be done, and why.
    Raises NotMadeError in a read-only workspace where nothing was run, and UserError if the chapter's folder
    or a network's is a symbolic link.
    """
    recipes = grid(ws.seed, settings, tasks, tests)
    if ws.writable:
        # Before the grid, which would take it for a failure of the network and record that through the link.
        networks = experiments.places(ws, recipes).values()
        moves.refuse_links(ws.folder, [chapter, *(place.name for place in networks)])
        results = _made(ws, chapter, title, settings, tasks, tests, recipes, facts or {}, refusals or {})
    elif (ws.folder / chapter / experiments.RESULTS).is_file():
        results = experiments.read(ws, recipes)
    else:
        raise NotMadeError.of(f"{ws.folder} has no networks of the chapter {chapter}.", ws.folder, chapter,
                              "Make them with {}.")
    known = details.read(ws, recipes)
    if ws.writable:
        details.write(ws.folder / chapter, known)
    return Tested(results.images, results.runs, list(tests.values()), segnet.label(settings),
                  ws.folder / chapter, known)


def _made(ws: Workspace, chapter: str, title: str, settings: Segment, tasks: Tasks,
          tests: Mapping[str, TestSet], recipes: dict[Experiment, Recipe], facts: Mapping[str, str],
          refusals: Mapping[Experiment, str]) -> Results:
    test_files = {name: pairs.stored for name, pairs in present(tests).items()}

    def trial(experiment: Experiment) -> dict[str, Trial]:
        sets, train, valid = tasks[experiment]
        made = sets.sets.get(experiment.data_type)
        return {"trial": Trial(settings, sets.file, made.folder if made else None, train, valid, test_files,
                               dict(facts), refusals.get(experiment, ""))}

    results = experiments.run(ws, chapter, title, recipes, work,
                              lambda experiment: cost(settings, *tasks[experiment][1:]), trial)
    details.complete(ws, title, recipes, settings, test_files)
    return results


def examples(result: Tested, name: str, test: str, pairs: Pairs) -> dict[str, np.ndarray]:
    """A network's predicted masks, class numbers (S, S), of at most EXAMPLES images of a test set, by image
    name; `name` is the network's in `runs`."""
    with np.load(result.folder / name / "tests" / test / SHOWN, allow_pickle=False) as kept:
        names = kept["images"].tolist() if "images" in kept else pairs.names  # older: the first
        return dict(zip(names, kept["masks"], strict=False))


def summary(result: Tested, by: list[str], measure: str, resamples: int, seed: int) -> pd.DataFrame:
    """Means of a measure with their intervals: one row for each combination of `by` and test set.

    Sequences, centres or patients of a test set are resampled as a whole, as for verdicts; a column GROUP of
    `images` overrides them. Columns: `by`, test_set, SUMMARY.
    """
    rows = []
    for key, frame in result.images.groupby([*by, "test_set"], sort=False, dropna=False):
        groups = (dict(zip(frame["image"], frame[GROUP], strict=True)) if GROUP in frame else
                  result.groups_of(str(key[-1])))
        mean = intervals.interval(frame, measure, resamples, seed, groups)
        rows.append({**dict(zip([*by, "test_set"], key, strict=True)),
                     **vars(mean.within(0, MOST.get(measure, 1)))})
    return pd.DataFrame(rows, columns=[*by, "test_set", *SUMMARY])


def grey(count: int, side: int, kind: Planes) -> Pairs:
    """`count` grey images whose left half is lesion, for timed trials."""
    halves = np.arange(side)[None, None, None] < side // 2
    masks = np.zeros((count, kind.classes, side, side))
    masks[:, :1] = halves
    images = np.full((count, kind.channels, side, side), 128)
    return dataset.gather([str(i) for i in range(count)], images, masks, kind.overlap)


def pace(settings: Segment, image_size: int, device: str, kind: Planes) -> float:
    """Seconds of training for one unit of `cost` on this machine, from a few batches of grey images.

    The weights are random, which takes as long as pretrained ones and needs no download.
    """
    count = TRIAL * settings.batch_size
    pictures = grey(count, image_size, kind)
    once = settings.model_copy(update={"epochs": 1, "epoch_images": None, "weights": weights.RANDOM})
    seconds = 0.0
    # Warm up with one batch: the first in a process waits for libraries to load, which would distort so short
    # a trial.
    for images in (settings.batch_size, count):
        with tempfile.TemporaryDirectory() as folder:
            seconds = segnet.fit(pictures.take(range(images)), pictures.take([0]), once, 0, Path(folder), {},
                                 devices.device(device), "Trial").seconds
    return seconds / count
