"""Chapter 5: how far the synthetic images are from the real ones, and whether they are copies (paper 2.5).

Every data type is compared with Real, all at the training size: in sets of one sample number each, as in the
paper, and at equal numbers beside held-out real pairs. The audit of copies and the membership test go beyond
the paper. A data type is not judged again while its images stay the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from diffusegen_core.chapters import audit, distances, membership
from diffusegen_core.chapters.costs import FLOAT, Cost, Work
from diffusegen_core.chapters.distances import MS_SSIM
from diffusegen_core.chapters.members import HELD_OUT, Subject
from diffusegen_core.chapters.membership import Membership
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Evaluate
from diffusegen_core.data import testsets
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.planes import Chosen
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.measures import copies, metrics
from diffusegen_core.measures.copies import ORIENTATIONS, Thresholds
from diffusegen_core.measures.planted import DISGUISES
from diffusegen_core.networks import features
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation.trainsets import Supply
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Recipe, key
from diffusegen_core.store.workspace import Workspace

VERSION = 2  # raised when the same images would get other numbers
COPIES = ["data type", "name", "source", "near_copy", "nearest", "score", "feature_nearest", "feature_score"]
SETTINGS = ["sets", "kernel_subsets", "kernel_size"]  # those that decide the numbers
NO_TEST = TestSet(HELD_OUT.name, None, "no held-out pairs were given")


class Metrics(NamedTuple):
    """The names of the distances."""

    frechet: str
    kernel: str
    similarity: str = MS_SSIM


@dataclass(frozen=True)
class Evaluated:
    """The chapter's result. Data types are in the order Real, GAN, Paste, K-Diff, K-Styled-Diff, ..."""

    values: pd.DataFrame
    """One row per metric of a whole set, columns VALUES: `images` is the size of the set; MS-SSIM has no
    backbone ("")."""
    equal: pd.DataFrame
    """The same for subsets of one size, with precision, recall, density and coverage; also held-out Real."""
    audit: pd.DataFrame
    """One row per image, columns AUDIT and `near_copy`: its nearest training image in pixels, and by features
    of the object; `own` if the former is its source; how it is a near-copy (see `copies.near`), else ""."""
    null: pd.DataFrame
    """One row per image that no model remembers, columns NULL; Real's are the real images themselves."""
    planted: pd.DataFrame
    """One row per planted copy, columns PLANTS and `near_copy`."""
    thresholds: dict[str, Thresholds]
    """By the name of the data type."""
    quantile: float
    """As evaluate.copy_quantile."""
    settings: Evaluate
    backbone: str
    """The network behind the distances and the audit's features, in words."""
    image_size: int
    fid: bool
    """Whether the distances are FID and KID proper, by clean-fid's network."""
    window: tuple[int, int]
    """MS-SSIM's window, in pixels, and how many times each pixel was repeated for it."""
    types: list[DataType]
    sets: dict[DataType, PairSet]
    """The pairs of each data type except Real."""
    held_out: TestSet
    """The real pairs that no model saw, or why there are none."""
    membership: Membership | None
    """None where there is nothing to test."""
    seconds: float
    folder: Path

    @cached_property
    def metrics(self) -> Metrics:
        """The names of the distances; computed late, as that may import torchvision, which takes seconds."""
        return Metrics(*metrics.names(self.settings))

    @cached_property
    def copies(self) -> pd.DataFrame:
        """One row per data type: images; near-copies in pixels, in features, in either, and the share of the
        last; near-copies in pixels of their own source; the share of images whose nearest training image in
        pixels is their source; the number of images that no model remembers, and the share of these that is
        flagged by chance. Real images are judged against the other real ones."""
        rows = {}
        for name in (data_type.name for data_type in self.types):
            null, mine = (table[table["data type"] == name] for table in (self.null, self.audit))
            of = dict(zip(mine["name"], mine["source"], strict=True))  # a GAN's null has other images
            sources = [of.get(one) or one for one in null["name"]]
            rows[name] = {**copies.summary(mine, self.thresholds[name]), "null": len(null),
                          "by chance": copies.by_chance(null, self.quantile, sources)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("data type")

    @property
    def found(self) -> pd.DataFrame:
        """The share of planted copies that are found: one row per disguise, one column per data type."""
        rows = self.planted.assign(found=self.planted["near_copy"] != "")
        order = [name for name in DISGUISES if name in set(rows["disguise"])]
        names = [data_type.name for data_type in self.types if data_type.name in set(rows["data type"])]
        return rows.pivot_table("found", "disguise", "data type", aggfunc="mean").reindex(
            index=order, columns=names) if len(rows) else pd.DataFrame(index=pd.Index([], name="disguise"))

    @property
    def closest(self) -> pd.DataFrame:
        """The likeliest copies in pixels, likeliest first; a pair and its styled version share one row.

        Pasted lesions are copies on purpose, and would leave no room for others.
        """
        shown = [t.name for t in self.types if t != REAL and not t.is_pasted]
        synthetic = self.audit[self.audit["data type"].isin(shown)].dropna(subset="score")
        ordered = synthetic.sort_values("score", kind="stable")
        painted = ordered["data type"].map({t.name: t.inpainted.name for t in self.types})
        pair = painted + "/" + ordered["name"]
        return ordered[~pair.duplicated()].head(audit.CLOSEST)

    def picture(self, data_type: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """An image (C, S, S) of `closest`, and its filled region (S, S)."""
        with np.load(self.folder / data_type / "closest.npz", allow_pickle=False) as stored:
            i = stored["names"].tolist().index(name)
            return stored["images"][i], stored["regions"][i]


def run(ws: Workspace, pairs: Pairs, sets: Mapping[DataType, PairSet], settings: Evaluate, dilate: int,
        held_out: TestSet = NO_TEST, trained: Trained | None = None, data: Data | None = None,
        chosen: Chosen = None) -> Evaluated:
    """Judge Real and every data type of `sets`, in that order, unless already judged.

    `dilate` widens a mask to the region that was filled, as inpaint.dilate. `held_out` are real pairs that no
    model saw, `trained` the models that are tested for memory, and `data` holds the windows that they were
    trained on, around the `chosen` classes. Raises UserError if the backbone or its weights cannot be had.
    """
    subjects = _subjects(ws, pairs, sets, settings, dilate, held_out.pairs)
    floors = _floors(subjects, sets, held_out.pairs, len(pairs))
    missing = [one for one in subjects if not one.artifact.made()]
    lacking = [one for one, _ in floors if not one.artifact.made()]
    for one in (*missing, *lacking):
        one.artifact.begin()  # before anything is computed, as it refuses in a read-only workspace
    if missing or lacking:
        _extract_all(subjects, missing, [one for one in lacking if one.data_type == HELD_OUT],
                     {REAL: len(pairs), HELD_OUT: len(held_out.pairs or ()),
                      **{data_type: len(made) for data_type, made in sets.items()}})
        fanout.run(audit.judge, [fanout.Item(one.data_type.name, ws, {"ws": ws, "subject": one})
                                 for one in missing], "Judging data types")
        fanout.run(distances.compare, [
            fanout.Item(one.data_type.name, ws, {"ws": ws, "subject": one, "count": n})
            for one, n in floors if one in lacking], "Comparing at equal numbers")
    memory = membership.ask(ws, pairs, held_out.pairs, trained, data or Data(), settings.membership,
                            chosen)
    return _result(ws, pairs, sets, settings, held_out, subjects, [one for one, _ in floors], memory)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    settings = p.evaluate
    yield from refusals([
        lambda: metrics.recipe(settings, p.seed),
        lambda: features.refuse_unfit(settings.weights, metrics.network, settings)], "evaluate")
    yield from testsets.check(p, ["held_out"])


def costs(settings: Evaluate, pairs: int, supply: Supply, work: Work, held_out: int = 0,
          models: int = 0) -> Iterator[Cost]:
    """The cost of features, once for each image and each box around an object; and of the membership test.

    `pairs` are the real ones, `held_out` those that no model saw, `models` how many are tested.
    """
    amounts = {data_type: amount for data_type, amount in supply.items() if data_type != REAL}
    # Per data type: images of the compared sets, and boxes of all pairs, of the null and of planted copies;
    # real pairs have boxes in every orientation.
    counts = [pairs * (1 + len(ORIENTATIONS)), held_out]
    for data_type, amount in amounts.items():
        made = amount.sources * amount.samples
        null = (held_out or pairs) if data_type == GAN else made
        counts.append(made + null + amount.sources * min(amount.samples, settings.sets)
                      + len(DISGUISES) * min(audit.PLANTED, made))
    images = sum(counts)
    yield Cost(chapter="evaluate", work="features of images and objects", kind="judging",
               items=len(amounts) + 1, images=images, flop=images * work.judge.call,
               largest=max(counts) * work.judge.call, disk=images * FLOAT * work.judge.width)
    yield from membership.costs(settings.membership, pairs, held_out, models, work)


def _subjects(ws: Workspace, pairs: Pairs, sets: Mapping[DataType, PairSet], settings: Evaluate,
              dilate: int, held_out: Pairs | None) -> list[Subject]:
    """Real first, then the data types of `sets`, each with the recipe of its judgement."""
    everything: dict[DataType, PairSet | None] = {REAL: None, **sets}
    recipe = {"version": VERSION, "pairs": pairs.digest, "seed": ws.seed, "dilate": dilate,
              "features": metrics.recipe(settings, ws.seed),
              **{name: value for name, value in plain(settings).items() if name in SETTINGS}}

    def of(data_type: DataType, made: PairSet | None) -> Recipe:
        null = {"held_out": held_out.digest if held_out is not None else None} if made is not None else {}
        return {**recipe, "made": None if made is None else key(made.hashes), **null}

    return [Subject(ws, data_type, made.folder if made is not None else None, pairs.stored,
                    held_out.stored if held_out is not None else None, settings, dilate,
                    ws.artifact(f"evaluate/{data_type}", of(data_type, made)))
            for data_type, made in everything.items()]


def _floors(subjects: Sequence[Subject], sets: Mapping[DataType, PairSet],
            held_out: Pairs | None, real: int) -> list[tuple[Subject, int]]:
    """What is compared at equal numbers, with that number; held-out Real last, if there is any."""
    settings = subjects[0].settings
    sizes = [int(size) for made in sets.values() for number, size in
             made.manifest["sample"].value_counts().items() if int(number) <= settings.sets]
    count = distances.equal_size(sizes, len(held_out or ()), real)
    if not sizes or not count:
        return []
    everything = [(one.data_type, one) for one in subjects]
    if held_out is not None:
        everything.append((HELD_OUT, subjects[0]))
    return [(Subject(one.ws, data_type, one.folder, one.real, one.held_out, settings, one.dilate,
                     one.ws.artifact(f"evaluate/equal/{data_type.name.replace(' ', '-')}", {
                         **one.artifact.recipe, "count": count,
                         **({"held_out": held_out.digest} if held_out is not None and data_type == HELD_OUT
                            else {})})), count)
            for data_type, one in everything]


def _extract_all(subjects: list[Subject], missing: list[Subject], held_out: list[Subject],
                 counts: Mapping[DataType, int]) -> None:
    """Put all features that the work items need into the store, batches of images in parallel."""
    asked = [*([] if missing and missing[0].data_type == REAL else subjects[:1]), *missing, *held_out]
    fanout.run(audit.extract, [
        fanout.Item(f"{one.data_type}, from image {first + 1}", one.ws, {"subject": one, "first": first})
        for one in asked for first in range(0, counts[one.data_type], features.CHUNK)], "Features")


def _result(ws: Workspace, pairs: Pairs, sets: Mapping[DataType, PairSet], settings: Evaluate,
            held_out: TestSet, subjects: list[Subject], floors: list[Subject],
            memory: Membership | None) -> Evaluated:
    values, audits, null, plants = (
        pd.concat([audit.read(one.artifact.file(f"{part}.csv")) for one in subjects], ignore_index=True)
        for part in ("values", "audit", "null", "planted"))
    equal = pd.concat([audit.read(one.artifact.file("values.csv")) for one in floors], ignore_index=True) \
        if floors else pd.DataFrame(columns=distances.VALUES)
    thresholds = {one.data_type.name: Thresholds.of(null[null["data type"] == one.data_type.name],
                                                    settings.copy_quantile) for one in subjects}
    audits, plants = (table.assign(near_copy=_near(table, thresholds)) for table in (audits, plants))
    _keep_copies(ws, subjects, audits, settings.copy_quantile)
    seconds = sum(float(one.artifact.stamp["seconds"]) for one in (*subjects, *floors))
    return Evaluated(values, equal, audits, null, plants, thresholds, settings.copy_quantile,
                     settings, metrics.backbone(settings), pairs.image_size,
                     metrics.is_fid(settings), metrics.window_of(pairs.image_size), [REAL, *sets], dict(sets),
                     held_out, memory, seconds + (memory.seconds if memory else 0.0), ws.folder / "evaluate")


def _near(table: pd.DataFrame, thresholds: Mapping[str, Thresholds]) -> pd.Series:
    """How each row is a near-copy by its data type's thresholds: see `copies.near`."""
    near = pd.Series("", index=table.index, dtype=object)
    for name, rows in table.groupby("data type"):
        near[rows.index] = copies.near(rows, thresholds[str(name)])
    return near


def _keep_copies(ws: Workspace, subjects: list[Subject], audits: pd.DataFrame, quantile: float) -> None:
    """Make the artifact evaluate/copies: copies.csv lists every synthetic pair and how it is a near-copy, so
    that such pairs can be left out."""
    artifact = ws.artifact("evaluate/copies", {
        "version": VERSION, "quantile": quantile,
        "audits": {one.data_type.name: one.artifact.key for one in subjects}})
    if not artifact.made():
        folder = artifact.begin()
        table = audits.loc[audits["data type"] != REAL.name, COPIES]
        artifact.finish([files.write_text(folder / "copies.csv", table.to_csv(index=False))], 0.0)
