"""Chapter 6: networks that saw synthetic pairs alone, tested on real images (paper 2.6.1, 3.3.1, B.3, B.4).

For every data type and N: the pairs with sample numbers up to N, four fifths to train on and the rest, of
other sources, to choose the best epoch. Real is the ceiling: the same sources themselves.
"""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from diffusegen_core.chapters import gan
from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, testsets
from diffusegen_core.data.dataset import REAL
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.measures import intervals, overlap
from diffusegen_core.networks import weights
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import experiments, segnet, trainsets
from diffusegen_core.segmentation.experiments import Experiment, Place, Results
from diffusegen_core.segmentation.trainsets import Choice, Sets
from diffusegen_core.store import runs, seeds

VERSION = 2  # raised when the same parameters would give another network
SCORES = 1  # raised when the same network would be scored, or shown, otherwise
TITLE = "Synthetic data alone"
EXAMPLES = 4  # test images of each set whose predicted masks are kept for a figure
WEIGHTS, SHOWN = "model.safetensors", "examples.npz"
TRIAL = 4  # batches of a trial


@dataclass(frozen=True)
class Tested:
    """A grid of networks and how they did."""

    images: pd.DataFrame
    """A row a test image and network: experiments.FIELDS, test_set, image, the measures of overlap.scores."""
    runs: pd.DataFrame
    """A row a network: name, experiments.FIELDS, status, seconds, and what `trial` tells of its training."""
    tests: list[TestSet]
    encoder: str  # in words
    folder: Path
    generators: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row a generator that was trained for a small set of chapter 7, none elsewhere; with its seconds."""

    @property
    def seconds(self) -> float:
        """Of all networks, failed attempts included, and of each generator once, however many networks were
        trained on its pairs: their own seconds do not hold it."""
        return sum(float(frame["seconds"].sum()) for frame in (self.runs, self.generators)
                   if "seconds" in frame)


@fanout.alone
def run(p: Params) -> Tested:
    """Train and test what is not finished of chapter 6's grid, making first what earlier chapters have not.

    Raises UserError where a test image is a training image, or a test set cannot be read.
    """
    sets, tests = trainsets.make(p), checked(p)
    choices = {e: chosen(p, sets, e) for e in grid(p)}
    recipes = {e: recipe(p, sets, tests, e, *found) for e, found in choices.items()}
    results = experiments.run(TITLE, recipes, work, p.folder / "segment", lambda e: cost(p, *choices[e]), p=p)
    return tested(p, results, tests, "segment")


def planned(p: Params) -> str:
    """The chapter's grid in words, what of it is finished, and how long the rest will take."""
    sets, choices, recipes = trainsets.made(p), {}, {}
    tests = checked(p) if sets else []
    for e in grid(p):
        choices[e] = chosen(p, sets, e) if sets else expected(p, e, len(dataset.load(p)))
        recipes[e] = recipe(p, sets, tests, e, *choices[e]) if sets else None
    return experiments.describe(TITLE, recipes, p.folder / "segment", lambda e: cost(p, *choices[e]),
                                lambda: pace(p))


def results(p: Params) -> Results | None:
    """What there is of the chapter's grid, None if it was not run; nothing is made."""
    sets, folder = trainsets.made(p), p.folder / "segment"
    if sets is None or not (folder / experiments.RESULTS).is_file():
        return None
    tests = checked(p)
    return experiments.read({e: recipe(p, sets, tests, e, *chosen(p, sets, e)) for e in grid(p)}, folder)


def expected(p: Params, e: Experiment, pairs: int) -> tuple[Choice, Choice]:
    """As many nameless pairs as `chosen` will give of a run of so many, once made, if none is left out."""
    count = gan.sources(p, pairs) if e.data_type == gan.GAN else trainsets.used(p, pairs)
    valid = trainsets.held_back(count, p.segment.validation)
    return (Choice(synthetic=("",) * ((count - valid) * (e.samples or 1))),
            Choice(synthetic=("",) * (valid * (e.samples or 1))))


def grid(p: Params) -> list[Experiment]:
    """Every network of the chapter: data types, N's and seeds."""
    return [Experiment("segment", name, samples=count, seed=seed)
            for name in trainsets.wanted(p, p.segment.types, "segment.types")
            for count in ((None,) if name == REAL else sorted(
                trainsets.numbers(p, p.segment.samples, name, "segment.samples")))
            for seed in range(p.segment.seeds)]


def chosen(p: Params, sets: Sets, e: Experiment) -> tuple[Choice, Choice]:
    """The pairs that a network is trained on, and those that choose its best epoch: of other sources.

    A seed splits the run's sources once, and all data types keep to that. Groups that are none of these, such
    as those of a GAN whose sources are not known, are split by themselves; so is a data type that would be
    left without pairs on one side.
    """
    seed = (p.seed, "segment", "split", e.seed)
    train, valid = trainsets.split(sets.real.names, p.segment.validation, *seed)
    if e.data_type == REAL:
        return Choice(tuple(train)), Choice(tuple(valid))
    m = sets.manifests[e.data_type]
    m = m[m["sample"] <= e.samples]
    groups = set(m["group"])
    _, others = trainsets.split(sorted(groups.difference(sets.real.names)), p.segment.validation, *seed)
    kept = groups.intersection([*valid, *others])
    if not kept or kept == groups:
        _, kept = trainsets.split(sorted(groups), p.segment.validation, *seed)
    for_choice = m["group"].isin(kept)
    return (Choice(synthetic=tuple(m.loc[~for_choice, "name"])),
            Choice(synthetic=tuple(m.loc[for_choice, "name"])))


def work(place: Place, p: Params) -> None:
    """Train and test one network of chapter 6."""
    e, sets = place.experiment, trainsets.read(p)
    most = e.samples if e.data_type == REAL else sets.manifests[e.data_type]["sample"].max()
    if e.samples and most < e.samples:
        raise UserError(f"{e.label}: no source of {e.data_type} has {e.samples} pairs, but {most} at most.")
    trial(p, sets, place, *chosen(p, sets, e))


# ---- what chapter 7 does as well


def checked(p: Params) -> list[TestSet]:
    """The test sets, of which none may hold an image that is trained on (UserError)."""
    tests = testsets.load(p)
    testsets.refuse_leaks(p, tests)
    gan.refuse_leaks(p, tests)
    return list(tests.values())


def recipe(p: Params, sets: Sets, tests: list[TestSet], e: Experiment, train: Choice,
           valid: Choice) -> runs.Recipe:
    """What decides a network, beside what its experiment is; and by test set, what decides its scores."""
    return {"version": VERSION, "net": segnet.decided_by(p.segment, net_seed(p, e)),
            "train": trainsets.content(sets, e.data_type, train),
            "valid": trainsets.content(sets, e.data_type, valid),
            "tests": {test.name: {"version": SCORES, "pairs": test.pairs.digest}
                      for test in tests if test.pairs is not None}}


def net_seed(p: Params, e: Experiment) -> int:
    """The same for all data types, so that they start from the same weights."""
    return seeds.derive(p.seed, "segmentation network", e.seed)


def cost(p: Params, train: Choice, valid: Choice) -> float:
    """How long a network takes beside others: images that pass through it, forward alone being a third."""
    return p.segment.epochs * ((p.segment.epoch_images or len(train)) + len(valid) / 3)


def trial(p: Params, sets: Sets, place: Place, train: Choice, valid: Choice, **facts: str) -> None:
    """Train one network, unless its weights are kept, and test it on every set that it has no scores on.

    Into its folder go the losses of every epoch, its weights if they are to be kept, and for each test set
    the scores and a few predicted masks. `facts` are kept beside those about the training.
    """
    if not len(train) or not len(valid):
        raise UserError(f"{place.experiment.label}: {len(train)} pairs to train on and {len(valid)} to "
                        "choose the best epoch by are too few.")
    if place.network and place.kept:
        net = segnet.load(place.weights / WEIGHTS, p.segment, devices.device(p.device))
    else:
        net = _train(p, sets, place, train, valid, facts)
    tests = testsets.load(p)
    for name in place.untested:
        _score(p, net, place, tests[name])


def _train(p: Params, sets: Sets, place: Place, train: Choice, valid: Choice,
           facts: dict[str, str]) -> nn.Module:
    e = place.experiment
    place.begin()
    fitted = segnet.fit(trainsets.load(sets, e.data_type, train), trainsets.load(sets, e.data_type, valid),
                        p.segment, net_seed(p, e), place.folder, {"experiment": e.label},
                        devices.device(p.device), e.label)
    if place.status == experiments.OK:  # this process had stopped, and another has finished in its place
        return fitted.net
    if p.segment.keep_weights:
        place.keep(lambda folder: segnet.save(folder / WEIGHTS, fitted.net))
    history = runs.write_text(place.folder / "history.csv", fitted.history.to_csv(index=False))
    place.trained([history], fitted.seconds, {
        "train_pairs": len(train), "real_pairs": len(train.real), "valid_pairs": len(valid),
        "best_epoch": fitted.best_epoch, "valid_iou": float(fitted.history["valid_iou"].max()), **facts})
    return fitted.net


def _score(p: Params, net: nn.Module, place: Place, test: TestSet) -> None:
    began = time.monotonic()
    found = segnet.predict(net, test.pairs.images, p.segment, devices.device(p.device))
    masks = (found[:EXAMPLES, 1] > overlap.THRESHOLD).astype(np.uint8)
    kept = runs.write(place.test(test.name) / SHOWN, lambda file: np.savez(file, masks=masks))
    images = overlap.scores(found, test.pairs.masks).assign(image=test.pairs.names)
    place.tested(test.name, images, [kept], time.monotonic() - began)


def tested(p: Params, results: Results, tests: list[TestSet], chapter: str) -> Tested:
    """The result that a page shows."""
    return Tested(results.images, results.runs, tests, segnet.label(p.segment), p.folder / chapter)


def examples(result: Tested, name: str, test: str) -> np.ndarray:
    """What a network, by its name in `runs`, took for polyp in the first images of a test set: (N, S, S) in
    {0, 1}, at most EXAMPLES."""
    with np.load(result.folder / name / "tests" / test / SHOWN, allow_pickle=False) as kept:
        return kept["masks"]


def summary(result: Tested, by: list[str], measure: str, p: Params) -> pd.DataFrame:
    """Means of a measure with their intervals: a row for each combination of `by` and test set.

    Columns: `by`, test_set, mean, low, high, images, seeds.
    """
    rows = []
    for key, group in result.images.groupby([*by, "test_set"], sort=False, dropna=False):
        found = intervals.interval(group, measure, p.segment.resamples, p.seed)
        rows.append({**dict(zip([*by, "test_set"], key, strict=True)), **vars(found)})
    return pd.DataFrame(rows, columns=[*by, "test_set", "mean", "low", "high", "images", "seeds"])


def pace(p: Params) -> float:
    """Seconds of training for one unit of `cost` on this machine, from a few batches of grey pictures.

    The weights are random: they take as long as pretrained ones, and need no download.
    """
    side, count, device = p.data.image_size, TRIAL * p.segment.batch_size, devices.device(p.device)
    halves = np.arange(side)[None, None, None] < side // 2
    grey = dataset.gather([str(i) for i in range(count)], np.full((count, 3, side, side), 128),
                       np.broadcast_to(halves, (count, 1, side, side)))
    settings = p.segment.model_copy(update={"epochs": 1, "epoch_images": None, "weights": weights.RANDOM})
    # The first batch of a process waits for libraries to load, which no training of many epochs feels.
    for images in (p.segment.batch_size, count):
        with tempfile.TemporaryDirectory() as folder:
            done = segnet.fit(grey.take(range(images)), grey.take([0]), settings, 0, Path(folder), {}, device,
                              "Trial")
    return done.seconds / count
