"""The filter: selects painted pairs, which chapters 6 and 7 may then learn from without the rest.

Each pair has three scores. Its agreement: does a network that never saw its source find the lesion where the
mask is (see `scorers`)? Its seam: is the border of the filled region as smooth as in a photograph? And in
pixels, as in the audit of chapter 5, is it a copy of a training image? What fails is set aside with its
reasons; no file is deleted, and no image copied. What is kept is a data type of its own, so that the gain can
be measured.

The thresholds are quantiles of the same scores of real pairs, so that a network that finds little does not
throw everything away. For copies they are quantiles over fillings that no model remembers, made from training
pairs alone: test images must not choose what networks are trained on.
"""

import logging
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from diffusegen_core.chapters import members, unseen
from diffusegen_core.chapters.members import Members
from diffusegen_core.chapters.scorers import Scorers
from diffusegen_core.config import devices
from diffusegen_core.config.sections import Filter
from diffusegen_core.data import dataset, pairsets, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import DataType
from diffusegen_core.measures import copies
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.trainsets import Sets
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Artifact, key
from diffusegen_core.store.stamps import contents
from diffusegen_core.store.workspace import Workspace

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same pairs would get other scores, or others would be kept
SCORES, NULL = "scores.csv", "null.csv"
NUMBERS = ["fold", "agreement", "seam", "source_seam", "copy_score"]
COLUMNS = [*NUMBERS, "nearest"]  # columns of the lists besides the manifest's
REASON = "reason"
DIGITS = 4  # of a score: further ones depend on the batch size
CRITERIA = ("agreement", "seam", "copy")  # what a pair may fail, each the first word of its reason


@dataclass(frozen=True)
class Limits:
    """The least agreement, largest seam and least copy score that are kept; NaN where a criterion is off."""

    agreement: float
    seam: float
    copy: float


@dataclass(frozen=True)
class Judged:
    """What the filter found in one painted type."""

    kept: PairSet
    """The filtered type. In `left_out` is what was rejected, with its reasons; both lists have the columns
    of the manifest that was filtered, and COLUMNS."""
    origin: PairSet
    limits: Limits
    seconds: float
    """Spent on scoring, without training the networks."""

    @property
    def counts(self) -> dict[str, int]:
        """By criterion, how many pairs failed it; a pair may fail several."""
        reasons = self.kept.left_out[REASON].str.split("; ")
        return {name: int(sum(any(one.startswith(name) for one in told) for told in reasons))
                for name in CRITERIA}


@dataclass(frozen=True)
class Filtered:
    """The result for one generator."""

    sets: Sets
    """What chapters 6 and 7 choose from: all sets, and with a filter also the filtered ones."""
    judged: dict[DataType, Judged]
    """By the type that was filtered; empty without a filter."""
    scorers: Scorers | None

    @property
    def seconds(self) -> float:
        """Including those of the networks."""
        networks = self.scorers.seconds if self.scorers else 0.0
        return sum((one.seconds for one in self.judged.values()), networks)


@dataclass(frozen=True)
class Scoring:
    """A work item: one data type to score."""

    ws: Workspace
    data_type: DataType
    folder: Path
    """The dataset folder."""
    real: Path
    """The file of the real pairs."""
    scorers: Scorers | None
    dilate: int
    artifact: Artifact


def run(ws: Workspace, pairs: Pairs, sets: Sets, networks: Scorers | None, settings: Filter, dilate: int,
        copy_quantile: float) -> Filtered:
    """Score every pair of a painted type that is not scored yet, and list which are kept.

    `networks` is None if agreement is not asked for; `dilate` is as inpaint.dilate, and `copy_quantile`
    as evaluate.copy_quantile.
    """
    if not settings.folds:
        return Filtered(sets, {}, None)
    tasks = [_task(ws, pairs, one, networks, dilate) for data_type, one in sets.sets.items()
             if data_type.is_painted]
    missing = [task for task in tasks if not task.artifact.made()]
    for task in missing:
        task.artifact.begin()  # which refuses in a read-only workspace
    fanout.run(score, [fanout.Item(task.data_type.name, ws, {"task": task}) for task in missing],
               f"Scoring pairs{ws.whose}")
    judged = {task.data_type: _judged(task, sets.sets[task.data_type], settings, copy_quantile)
              for task in tasks}
    supply = trainsets.with_filtered(sets.supply, settings)
    every = {**sets.sets, **{one.kept.data_type: one.kept for one in judged.values()}}
    in_order = {data_type: every[data_type] for data_type in supply if data_type in every}
    return Filtered(replace(sets, sets=in_order, supply=supply), judged, networks)


def score(task: Scoring) -> None:
    """A work item: the scores of all pairs of a data type."""
    if task.artifact.made():
        return
    folder, start, pairs = task.artifact.begin(), perf_counter(), dataset.read(task.real)
    everyone = members.of_set(pairs, task.data_type, task.folder, task.dilate)
    sources = [pairs.names[i] for i in everyone.sources]
    table = pd.DataFrame({"name": everyone.names, "source": sources, **_agreement(task, everyone, sources),
                          **_seams(pairs, everyone)})
    near, null = _copies(task.ws.seed, pairs, everyone)
    outputs = [files.write_text(folder / name, frame.to_csv(index=False))
               for name, frame in ((SCORES, table.join(near)), (NULL, null))]
    task.artifact.finish(outputs, perf_counter() - start, device=devices.name(task.ws.device))


def _task(ws: Workspace, pairs: Pairs, one: PairSet, networks: Scorers | None, dilate: int) -> Scoring:
    recipe = {"version": VERSION, "pairs": pairs.digest, "seed": ws.seed, "dilate": dilate,
              "made": key(one.hashes), "scorers": networks.identity if networks else None}
    return Scoring(ws, one.data_type, one.folder, pairs.stored, networks, dilate,
                   ws.artifact(f"filter/scores/{one.data_type}", recipe))


def _agreement(task: Scoring, everyone: Members, sources: list[str]) -> dict[str, np.ndarray | list[int]]:
    if task.scorers is None or not len(everyone):
        return {"fold": np.full(len(everyone), nan), "agreement": np.full(len(everyone), nan)}
    made = pairsets.load(task.folder, everyone.names)
    return {"fold": [task.scorers.of[source] for source in sources],
            "agreement": task.scorers.agreement(made.images, made.masks, sources, task.ws.device)}


def _seams(pairs: Pairs, everyone: Members) -> dict[str, list[float]]:
    """The contrast at the border of each filled region, in grey levels, and the source's there."""
    return {name: [round(regions.seam(image, region), DIGITS) for image, region in
                   zip(images, everyone.regions, strict=True)]
            for name, images in (("seam", everyone.images), ("source_seam", pairs.images[everyone.sources]))}


def _copies(seed: int, pairs: Pairs, everyone: Members) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The score of each image as a copy, with its nearest training image; and the same for
    fillings of the same regions that no model remembers."""
    null = unseen.blended(seed, everyone, pairs, cross_fitted=True)
    images, filled = (np.concatenate([getattr(one, part) for one in (everyone, null)])
                      for part in ("images", "regions"))
    own = np.concatenate([np.full(len(everyone), -1), null.own])
    scores, nearest = np.empty(0), np.empty(0, int)
    if len(images):
        near = copies.in_pixels(images, filled, pairs.images, own)
        scores, nearest = near.score.round(DIGITS), near.index
    table = pd.DataFrame({"copy_score": scores, "nearest": [
        pairs.names[i] if np.isfinite(value) else "" for i, value in zip(nearest, scores, strict=True)]})
    chance = table.iloc[len(everyone):].assign(name=null.names, lesion=null.lesions)
    return table.iloc[:len(everyone)], chance


def _judged(task: Scoring, one: PairSet, settings: Filter, copy_quantile: float) -> Judged:
    """What is kept of a type and what is rejected, with the lists of both, which are made if missing."""
    artifact = task.ws.artifact(one.data_type.filtered.artifact, {
        "version": VERSION, "scores": contents(task.artifact.stamp), "agreement": settings.agreement_quantile,
        "scorers": task.scorers.identity if task.scorers else None, "seam": settings.seam_quantile,
        "copies": copy_quantile if settings.copies else None})
    scores, null = (pairsets.listed(task.artifact.file(name), ["nearest", "lesion"], NUMBERS)
                    for name in (SCORES, NULL))
    limits = Limits(
        _quantile(task.scorers.real["agreement"] if task.scorers else None, settings.agreement_quantile),
        _quantile(scores["source_seam"], settings.seam_quantile),
        copies.threshold(null["copy_score"].to_numpy(dtype=float), copy_quantile) if settings.copies else nan)
    if not artifact.made():
        _list(artifact, one, scores, limits)
    kept, left_out = (pairsets.listed(artifact.file(f"{name}.csv"), ["nearest", REASON], NUMBERS)
                      for name in ("manifest", "left_out"))
    hashes = {name: one.hashes[name] for pair in kept["name"]
              for name in pairsets.names_of(one.hashes, pair)}
    return Judged(PairSet(one.data_type.filtered, one.folder, kept, left_out, hashes, artifact.stamp), one,
                  limits, float(task.artifact.stamp["seconds"]))


def _list(artifact: Artifact, one: PairSet, scores: pd.DataFrame, limits: Limits) -> None:
    folder, start = artifact.begin(), perf_counter()
    table = one.manifest.merge(scores[["name", *COLUMNS]], on="name", validate="one_to_one")
    reasons = pd.Series([_reasons(row, limits) for row in table[COLUMNS].to_dict("records")], dtype=str)
    kept, left_out = table[reasons == ""], table.assign(**{REASON: reasons})[reasons != ""]
    if len(table) and kept.empty:
        log.warning("The filter keeps no pair of %s, so chapters 6 and 7 train no networks on it.",
                    one.data_type)
    artifact.finish([files.write_text(folder / f"{name}.csv", frame.to_csv(index=False))
                     for name, frame in (("manifest", kept), ("left_out", left_out))], perf_counter() - start)


def _reasons(row: dict[str, float | str], limits: Limits) -> str:
    """Why a pair is rejected: "agreement 0.12 below 0.41; seam 14.2 above 9.8"; "" where it is kept."""
    agreement, seam, score = (float(row[name]) for name in ("agreement", "seam", "copy_score"))
    told = []
    if agreement < limits.agreement:
        told.append(f"agreement {agreement:.2f} below {limits.agreement:.2f}")
    if seam > limits.seam:
        told.append(f"seam {seam:.1f} above {limits.seam:.1f}")
    if score < limits.copy:
        told.append(f"copy of {row['nearest']}, score {score:.2f} below {limits.copy:.2f}")
    return "; ".join(told)


def _quantile(values: pd.Series | None, quantile: float | None) -> float:
    """A quantile; NaN, which no score is above or below, if there are no values or none is asked for."""
    return nan if values is None or quantile is None or values.empty else float(values.quantile(quantile))
