"""The networks that judge pairs for the filter, none of which saw the source of a pair that it judges.

The real pairs are split into folds. For each fold a segmentation network is trained on the real pairs of the
other folds, of which a part chooses its best epoch. It judges the real pairs of its own fold, and later what
was made from them (see `sieve`). A network that had seen a source would find its lesion whatever was painted
there, and so credit the pair for its own memory.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.chapters.costs import Cost, Work, of_networks
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import TESTS, Filter, Segment
from diffusegen_core.data import dataset, related
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Planes
from diffusegen_core.measures import overlap
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import segnet, trainsets
from diffusegen_core.segmentation.trainsets import Choice
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Artifact, Recipe, key
from diffusegen_core.store.stamps import contents
from diffusegen_core.store.workspace import Workspace

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same pairs and parameters would give another network or other scores
WEIGHTS, REAL, HISTORY = "scorer.safetensors", "real.csv", "history.csv"
LEAST = 3  # pairs, or groups of them: one to judge, one to learn from, one to choose the best epoch by
DIGITS = 4  # of a score: further ones depend on the batch size


@dataclass(frozen=True)
class Fold:
    """A work item: one network to train, and the names of the pairs it learns from and judges."""

    number: int
    settings: Segment
    real: Path
    """The file of the real pairs."""
    train: list[str]
    valid: list[str]
    """The pairs that choose the best epoch."""
    judged: list[str]
    """The pairs of the fold, none of which the network learns from."""
    artifact: Artifact


@dataclass(frozen=True)
class Scorers:
    """The trained networks."""

    folds: list[Fold]

    @cached_property
    def of(self) -> dict[str, int]:
        """The fold of each real pair, by its name."""
        return {name: fold.number for fold in self.folds for name in fold.judged}

    @cached_property
    def real(self) -> pd.DataFrame:
        """One row per real pair: name, fold, and its agreement with the network that did not see it."""
        tables = [pd.read_csv(fold.artifact.file(REAL), dtype={"name": str}, keep_default_na=False)
                  .assign(fold=fold.number) for fold in self.folds]
        return pd.concat(tables, ignore_index=True)

    @property
    def seconds(self) -> float:
        return sum(float(fold.artifact.stamp["seconds"]) for fold in self.folds)

    @property
    def identity(self) -> Recipe:
        """What decides the networks' scores."""
        return {str(fold.number): contents(fold.artifact.stamp) for fold in self.folds}

    def agreement(self, images: np.ndarray, masks: np.ndarray, sources: list[str], device: str) -> np.ndarray:
        """Dice (N,) between masks (N, M, S, S) in {0, 1} and what is found in images (N, C, S, S) uint8, each
        by the network of its source's fold. `device` is as the parameter."""
        scores, where = np.full(len(images), np.nan), devices.device(device)
        for fold in self.folds:
            mine = np.flatnonzero([self.of[source] == fold.number for source in sources])
            if len(mine):
                net = segnet.load(fold.artifact.file(WEIGHTS), fold.settings, where)
                scores[mine] = _dice(segnet.predict(net, images[mine], fold.settings, where), masks[mine],
                                     dataset.read(fold.real).overlap)
        return scores


def run(ws: Workspace, pairs: Pairs, settings: Filter, segment: Segment) -> Scorers | None:
    """Train the networks that are not there yet; None if the filter is off, or asks for no agreement.

    `segment` are chapter 6's settings. Raises UserError for too few pairs.
    """
    if not settings.folds or settings.agreement_quantile is None:
        return None
    if not_told := related.untold(pairs):
        log.warning("In data.source %s: the filter's networks treat images as independent, but one that "
                    "learned from frames of a video agrees too easily with its other frames.", not_told)
    folds = [_fold(ws, pairs, segment, number, judged)
             for number, judged in enumerate(split(ws.seed, groups(pairs), settings.folds))]
    missing = [fold for fold in folds if not fold.artifact.made()]
    for fold in missing:
        fold.artifact.begin()  # which refuses in a read-only workspace
    fanout.run(fit, [fanout.Item(f"fold {fold.number + 1} of {len(folds)}", ws, {"ws": ws, "fold": fold})
                     for fold in missing], "Networks of the filter")
    return Scorers(folds)


def check(p: Params) -> Iterator[str]:
    """What the networks of the filter would refuse, as far as can be told in advance."""
    if p.filter.folds and p.filter.agreement_quantile is not None:
        yield from refusals([lambda: segnet.refuse_impossible(p.segment, p.seed, p.data.image_size,
                                                              Planes.of(p.data))], "segment")
        yield from refusals([partial(_refuse_few, p, count) for count in _counts(p)])


def _counts(p: Params) -> Iterator[int]:
    """How many real pairs the filters of a run have, as far as known: the run's own filter, and that of its
    smallest set with a generator of its own."""
    if count := dataset.expected_count(p):
        yield count
    if p.augment.generator_sees == "subset" and p.augment.sizes:
        fewest = min(p.augment.sizes)
        yield fewest - trainsets.held_back(fewest, p.segment.validation)


def _refuse_few(p: Params, pairs: int) -> None:
    split(p.seed, {str(i): [str(i)] for i in range(pairs)}, p.filter.folds or 0)


def costs(pairs: int, settings: Filter, segment: Segment, work: Work) -> Iterator[Cost]:
    """The cost of the networks."""
    if settings.folds and settings.agreement_quantile is not None:
        others = pairs - pairs // settings.folds
        valid = trainsets.held_back(others, segment.validation)
        fold = Choice(("",) * (others - valid)), Choice(("",) * valid)
        alone = segment.model_copy(update={"keep_weights": True, **dict.fromkeys(TESTS)})
        yield replace(of_networks("evaluate", alone, [fold] * min(settings.folds, pairs), work),
                      work="networks of the filter")


def groups(pairs: Pairs) -> dict[str, list[str]]:
    """The names of the real pairs that belong together, such as frames of a sequence, if the data tell of
    enough such groups; else each pair is a group of its own."""
    known = related.of_pairs(pairs)
    if known is None or known.count < LEAST:
        return {name: [name] for name in pairs.names}
    members: dict[str, list[str]] = {}
    for name in pairs.names:
        members.setdefault(known.of[name], []).append(name)
    return members


def split(seed: int, groups: dict[str, list[str]], folds: int) -> list[list[str]]:
    """The names of each fold: groups stay whole, and folds are about equally large.

    If fewer than two groups would be left outside a fold, each group becomes a fold.
    Raises UserError for fewer than LEAST groups.
    """
    if len(groups) < LEAST:
        raise UserError(f"Parameters: filter.folds: {len(groups)} real pairs are too few to judge each by a "
                        f"network that learns from the others; at least {LEAST} are needed. Give more pairs, "
                        "or set filter.folds or filter.agreement_quantile to null.")
    order = trainsets.shuffled(groups, seed, "filter", "folds")
    parts: list[list[str]] = [[] for _ in range(min(folds, len(groups)))]  # of groups
    for group in order:
        min(parts, key=lambda part: sum(len(groups[one]) for one in part)).append(group)
    if len(groups) - max(map(len, parts)) < 2:  # if groups are unequal, one fold may hold nearly all
        parts = [[group] for group in order]
    return [sorted(name for group in part for name in groups[group]) for part in parts]


def fit(ws: Workspace, fold: Fold) -> None:
    """A work item: train the network of a fold, and let it judge the real pairs that it did not see."""
    if fold.artifact.made():
        return
    folder, pairs, device = fold.artifact.begin(), dataset.read(fold.real), devices.device(ws.device)
    title = f"network {fold.number + 1} of the filter"
    fitted = segnet.fit(pairs.named(fold.train), pairs.named(fold.valid), fold.settings,
                        _seed(ws, fold.number), folder, {"fold": fold.number}, device, title)
    judged = pairs.named(fold.judged)
    scores = _dice(segnet.predict(fitted.net, judged.images, fold.settings, device), judged.masks,
                   judged.overlap)
    table = pd.DataFrame({"name": judged.names, "agreement": scores})
    outputs = [segnet.save(folder / WEIGHTS, fitted.net),
               files.write_text(folder / REAL, table.to_csv(index=False)),
               files.write_text(folder / HISTORY, fitted.history.to_csv(index=False))]
    fold.artifact.finish(outputs, fitted.seconds, spent=[folder / segnet.CHECKPOINT],
                         device=devices.name(ws.device))


def _fold(ws: Workspace, pairs: Pairs, segment: Segment, number: int, judged: list[str]) -> Fold:
    mine = set(judged)
    others = {group: names for group, names in groups(pairs).items() if mine.isdisjoint(names)}
    train, valid = ([name for group in part for name in others[group]] for part in trainsets.split(
        list(others), segment.validation, ws.seed, "filter", "best epoch", number))
    recipe = {"version": VERSION, "pairs": pairs.digest,
              "net": segnet.decided_by(segment, _seed(ws, number), pairs.planes),
              "names": key({"train": train, "valid": valid, "judged": judged})}
    return Fold(number, segment, pairs.stored, train, valid, judged,
                ws.artifact(f"scorers/fold-{number}", recipe))


def _seed(ws: Workspace, number: int) -> int:
    return seeds.derive(ws.seed, "filter network", number)


def _dice(probabilities: np.ndarray, masks: np.ndarray, may_overlap: bool) -> np.ndarray:
    """Dice of the object, (N,), where classes exclude each other or `may_overlap`: see `overlap.scores`."""
    return overlap.scores(probabilities, masks, may_overlap)["dice"].to_numpy().round(DIGITS)
