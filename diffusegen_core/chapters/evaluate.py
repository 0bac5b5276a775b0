"""Chapter 5: how far the synthetic images are from the real ones, and whether they are copies (paper 2.5).

Every data type is compared with Real, all at the training size, in sets of one sample number each. The audit
of copies goes beyond the paper. A data type is not judged again while its images stay the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd

from diffusegen_core.chapters.costs import FLOAT, Cost, Work
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Evaluate
from diffusegen_core.data import dataset, pairsets, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.measures import copies, metrics
from diffusegen_core.measures.copies import Found
from diffusegen_core.networks import features
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation.trainsets import Supply
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Artifact, key
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same images would get other numbers
MS_SSIM = "MS-SSIM"
CLOSEST = 5  # images of each data type that are kept for the figure
LEAST = 3  # a set of fewer images has no distances

VALUES = ["data type", "set", "metric", "value", "images", "backbone"]
NEAREST = ["nearest", "flipped", "distance", "score"]
AUDIT = ["data type", "name", "source", "own", *NEAREST, *(f"feature_{name}" for name in NEAREST)]
SETTINGS = ["sets", "kernel_subsets", "kernel_size"]  # those that decide the numbers


class Metrics(NamedTuple):
    """What the distances are called."""

    frechet: str
    kernel: str
    similarity: str = MS_SSIM


class Thresholds(NamedTuple):
    """Scores below which an image is a near-copy."""

    pixels: float
    features: float


@dataclass(frozen=True)
class Members:
    """Q pairs of a data type: what they show, and where they come from."""

    names: list[str]
    numbers: np.ndarray
    """(Q,) int, sample number of each pair, from 1."""
    sources: np.ndarray
    """(Q,) int, the index of its source among the real pairs; -1 where that is not known."""
    images: np.ndarray
    """(Q, 3, S, S) uint8."""
    regions: np.ndarray
    """(Q, S, S), nonzero where the image was filled."""
    polyps: np.ndarray
    """(Q, S, S), nonzero around the polyp, within the filled region."""


@dataclass(frozen=True)
class Evaluated:
    """The chapter's result. Data types are in the order Real, GAN, Paste, K-Diff, K-Styled-Diff, ..."""

    values: pd.DataFrame
    """One row a number, columns VALUES: `images` is how many the set has; MS-SSIM has no backbone ("")."""
    audit: pd.DataFrame
    """One row an image, columns AUDIT: its nearest training image in pixels, and by features of the polyp;
    `own` where the former is its source."""
    thresholds: Thresholds
    metrics: Metrics
    backbone: str
    """The network behind the distances and the audit's features, in words."""
    window: tuple[int, int]
    """MS-SSIM's window, in pixels, and how many times each pixel was repeated for it."""
    types: list[DataType]
    sets: dict[DataType, PairSet]
    """The pairs of each data type but Real."""
    seconds: float
    folder: Path

    @property
    def copies(self) -> pd.DataFrame:
        """One row a data type: images, near-copies in pixels, in features, in either, the share of these, how
        many of those in pixels are of their own source, and the share of images to which in pixels no
        training image is nearer than their source. Real is judged each among the others."""
        rows = {data_type.name: copies.summary(self.audit[self.audit["data type"] == data_type.name],
                                               self.thresholds)
                for data_type in self.types}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("data type")

    @property
    def closest(self) -> pd.DataFrame:
        """The likeliest copies in pixels, the likeliest first; a pair, styled or not, has one row."""
        synthetic = self.audit[self.audit["data type"] != REAL.name].dropna(subset="score")
        ordered = synthetic.sort_values("score", kind="stable")
        painted = ordered["data type"].map({t.name: t.inpainted.name for t in self.types})
        pair = painted + "/" + ordered["name"]
        return ordered[~pair.duplicated()].head(CLOSEST)

    def picture(self, data_type: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """An image (3, S, S) of `closest`, and its filled region (S, S)."""
        with np.load(self.folder / data_type / "closest.npz", allow_pickle=False) as stored:
            i = stored["names"].tolist().index(name)
            return stored["images"][i], stored["regions"][i]


@dataclass(frozen=True)
class Subject:
    """What a work item judges, and by what; it can be sent to a worker."""

    ws: Workspace
    data_type: DataType
    folder: Path | None
    """The dataset folder; None for Real."""
    real: Path
    """The file of the real pairs."""
    settings: Evaluate
    dilate: int
    """As inpaint.dilate."""
    artifact: Artifact


def run(ws: Workspace, pairs: Pairs, sets: Mapping[DataType, PairSet], settings: Evaluate,
        dilate: int) -> Evaluated:
    """Judge Real and every data type of `sets`, in that order, where it is not done yet.

    `dilate` widens a mask to the region that was filled, as inpaint.dilate. Raises UserError where the
    backbone or its weights cannot be had.
    """
    subjects = _subjects(ws, pairs, sets, settings, dilate)
    missing = [subject for subject in subjects if not subject.artifact.made()]
    for subject in missing:
        subject.artifact.begin()  # before anything is computed, for it refuses where nothing may be made
    if missing:
        real = [] if missing[0].data_type == REAL else subjects[:1]
        counts = {REAL: len(pairs), **{data_type: len(made) for data_type, made in sets.items()}}
        _extract_all([*real, *missing], counts)
        fanout.run(judge, [fanout.Item(subject.data_type.name, {"ws": ws, "subject": subject})
                           for subject in missing], "Judging data types")
    folder = ws.folder / "evaluate"
    values, audit = (pd.concat([_table(subject.artifact.file(f"{part}.csv")) for subject in subjects],
                               ignore_index=True) for part in ("values", "audit"))
    real_rows = audit[audit["data type"] == REAL.name]
    thresholds = Thresholds(*(copies.threshold(real_rows[column].to_numpy(), settings.copy_quantile)
                              for column in ("score", "feature_score")))
    return Evaluated(values, audit, thresholds, Metrics(*metrics.names(settings)), metrics.backbone(settings),
                     metrics.window_of(pairs.image_size), [REAL, *sets], dict(sets),
                     sum(float(subject.artifact.stamp["seconds"]) for subject in subjects), folder)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as it can be told before."""
    settings = p.evaluate
    yield from refusals([
        lambda: metrics.recipe(settings, p.seed),
        lambda: features.refuse_unfit(settings.weights, metrics.network, settings)], "evaluate")


def costs(settings: Evaluate, pairs: int, supply: Supply, work: Work) -> Iterator[Cost]:
    """What features of each image once take, and of the box around each polyp; `pairs` are the real ones."""
    amounts = [amount for data_type, amount in supply.items() if data_type != REAL]
    # Of each set what is compared, and the boxes of all; of real pairs also mirrored boxes.
    counts = [3 * pairs, *(amount.sources * (amount.samples + min(amount.samples, settings.sets))
                           for amount in amounts)]
    images = sum(counts)
    yield Cost("5 evaluate", "features of images and polyps", "judging", len(counts), images,
               images * work.judge.call, max(counts) * work.judge.call, images * FLOAT * work.judge.width)


def _subjects(ws: Workspace, pairs: Pairs, sets: Mapping[DataType, PairSet], settings: Evaluate,
              dilate: int) -> list[Subject]:
    """Real first, then the data types of `sets`; with what decides the judgement on each."""
    everything: dict[DataType, PairSet | None] = {REAL: None, **sets}
    recipe = {"version": VERSION, "pairs": pairs.digest, "seed": ws.seed, "dilate": dilate,
              "features": metrics.recipe(settings, ws.seed),
              **{name: value for name, value in plain(settings).items() if name in SETTINGS}}
    return [Subject(ws, data_type, made.folder if made is not None else None, pairs.stored, settings, dilate,
                    ws.artifact(f"evaluate/{data_type}",
                                {**recipe, "made": None if made is None else key(made.hashes)}))
            for data_type, made in everything.items()]


def _extract_all(subjects: list[Subject], counts: Mapping[DataType, int]) -> None:
    """Put all features that `judge` asks for into the store, batches of images side by side."""
    fanout.run(extract, [
        fanout.Item(f"{subject.data_type}, from image {first + 1}",
                    {"ws": subject.ws, "subject": subject, "first": first})
        for subject in subjects for first in range(0, counts[subject.data_type], features.CHUNK)], "Features")


def extract(ws: Workspace, subject: Subject, first: int) -> None:
    """Put the features of a batch of a data type's images, whole and around the polyp, into the store."""
    members = _members(subject, dataset.read(subject.real), slice(first, first + features.CHUNK))
    _features(subject, members.images, f"Features of {subject.data_type}")
    for step in (1, -1) if subject.data_type == REAL else (1,):  # the audit looks at mirrored ones, too
        _polyp_features(subject, members.images[..., ::step], members.polyps[..., ::step])


def judge(ws: Workspace, subject: Subject) -> None:
    """Compare one data type with Real and look for copies in it."""
    if subject.artifact.made():
        return
    folder, start = subject.artifact.begin(), perf_counter()
    pairs = dataset.read(subject.real)
    members = _members(subject, pairs)
    values, audit = distances(subject, members, pairs), audited(subject, members, pairs)
    first = audit["score"].to_numpy(dtype=float).argsort(kind="stable")[:CLOSEST]
    kept = {"names": np.array(members.names, dtype=str)[first], "images": members.images[first],
            "regions": members.regions[first]}
    outputs = [files.write_text(folder / "values.csv", values.to_csv(index=False)),
               files.write_text(folder / "audit.csv", audit.to_csv(index=False)),
               files.write(folder / "closest.npz", lambda file: np.savez(file, **kept))]
    subject.artifact.finish(outputs, perf_counter() - start, device=devices.name(ws.device))


def distances(subject: Subject, members: Members, pairs: Pairs) -> pd.DataFrame:
    """The metrics of each set against all real images. Real is one set, shuffled anew for each MS-SSIM."""
    real, rows = subject.data_type == REAL, []
    for number in range(1, subject.settings.sets + 1):
        chosen = np.flatnonzero((members.numbers == number) | real)
        if len(chosen) < LEAST:
            continue
        images = members.images[chosen]
        by_features: dict[str, float] = {}
        if not real or number == 1:
            by_features = _feature_distances(subject, images, pairs,
                                             f"Features of {subject.data_type}, set {number}")
        # What has no known source may meet any real image.
        known = members.sources[chosen]
        others = metrics.partners(np.where(known < 0, np.arange(len(chosen)) % len(pairs), known), len(pairs),
                                  subject.ws.seed, number)
        alike = metrics.similarity(images, pairs.images[others], devices.device(subject.ws.device))
        rows += [(subject.data_type.name, number, metric, value, len(chosen),
                  metrics.backbone(subject.settings)) for metric, value in by_features.items()]
        rows.append((subject.data_type.name, number, MS_SSIM, float(alike.mean()), len(chosen), ""))
    return pd.DataFrame(rows, columns=VALUES)


def _feature_distances(subject: Subject, images: np.ndarray, pairs: Pairs, title: str) -> dict[str, float]:
    settings = subject.settings
    ours, real = _features(subject, images, title), _features(subject, pairs.images, "Features of Real")
    frechet, kernel = metrics.names(settings)
    values = {frechet: metrics.frechet(ours, real)}
    if subject.data_type != REAL:  # its estimate is of two independent sets, and means nothing for one
        values[kernel] = metrics.kernel(ours, real, subject.ws.seed, settings.kernel_subsets,
                                        settings.kernel_size)
    return values


def audited(subject: Subject, members: Members, pairs: Pairs) -> pd.DataFrame:
    """The nearest training image of every image of a data type; Real's are looked for among the others."""
    if not members.names:
        return pd.DataFrame(columns=AUDIT)
    own = members.sources if subject.data_type == REAL else None
    around = regions.all_dilated(pairs.masks, subject.dilate)
    training = [_polyp_features(subject, pairs.images[..., ::step], around[..., ::step]) for step in (1, -1)]
    in_pixels = copies.in_pixels(members.images, members.regions, pairs.images, own)
    in_features = copies.in_features(_polyp_features(subject, members.images, members.polyps),
                                     np.concatenate(training), own)
    return pd.DataFrame({
        "data type": subject.data_type.name, "name": members.names,
        "source": [pairs.names[i] if i >= 0 else "" for i in members.sources],
        "own": in_pixels.index == members.sources,
        **_columns("", in_pixels, pairs.names), **_columns("feature_", in_features, pairs.names)},
        columns=AUDIT)


def _columns(prefix: str, nearest: Found, names: list[str]) -> dict[str, object]:
    shown = [names[i] if np.isfinite(distance) else ""
             for i, distance in zip(nearest.index, nearest.distance, strict=True)]
    return {f"{prefix}{name}": column for name, column in
            zip(NEAREST, (shown, nearest.flipped, nearest.distance, nearest.score), strict=True)}


def _features(subject: Subject, images: np.ndarray, title: str) -> np.ndarray:
    return metrics.remembered(subject.ws.folder / "features", images, subject.settings,
                              devices.device(subject.ws.device), subject.ws.seed, title)


def _polyp_features(subject: Subject, images: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Features (Q, D) of the boxes around regions (Q, S, S); NaN where a region is empty."""
    there = np.asarray(around.any(axis=(1, 2)))
    shown = np.where(there[:, None, None], around, 1)
    rows = _features(subject, copies.patches(images, shown), "Features of polyps")
    return np.where(there[:, None], rows, np.nan)


def _members(subject: Subject, pairs: Pairs, rows: slice = slice(None)) -> Members:
    """The pairs of a data type, or those of its rows."""
    if subject.folder is None:
        around = regions.all_dilated(pairs.masks[rows], subject.dilate)
        everyone = np.arange(len(pairs))[rows]
        return Members(pairs.names[rows], np.ones(len(around), int), everyone, pairs.images[rows], around,
                       around)
    manifest = pairsets.manifest(subject.folder)[rows]
    index = {"": -1} | {name: i for i, name in enumerate(pairs.names)}
    sources = manifest["source"].map(index).to_numpy(dtype=int)
    numbers = manifest["sample"].to_numpy(dtype=int)
    if manifest.empty:
        nothing = pairs.masks[:0, 0]
        return Members([], numbers, sources, pairs.images[:0], nothing, nothing)
    made = pairsets.load(subject.folder, manifest["name"].tolist())
    polyps = regions.all_dilated(made.masks, subject.dilate)
    filled = _filled(subject, pairs, sources, manifest, made)
    return Members(made.names, numbers, sources, made.images, filled, polyps & filled)


def _filled(subject: Subject, pairs: Pairs, sources: np.ndarray, manifest: pd.DataFrame,
            made: Pairs) -> np.ndarray:
    """Where the images of a data type are to be compared, as they are not their sources': (N, S, S)."""
    if subject.data_type == GAN:  # whose images are its own as a whole
        return np.ones_like(made.masks[:, 0])
    if subject.data_type.is_pasted:  # the source's lesion stays; blending changes what is around the new one
        return made.masks[:, 0] & (1 - pairs.masks[sources, 0])
    new = made.masks if subject.data_type.given_masks else None
    return regions.filled(_old(pairs, sources, manifest), new, subject.dilate)


def _old(pairs: Pairs, sources: np.ndarray, manifest: pd.DataFrame) -> np.ndarray:
    """The masks (N, 1, S, S) of the lesions that were painted over: a background has none."""
    own = manifest.get("picture", manifest["source"]) == manifest["source"]
    return pairs.masks[sources] * own.to_numpy(dtype=np.uint8)[:, None, None, None]


def _table(file: Path) -> pd.DataFrame:
    # An image may be called NA, which is no missing value; a missing distance is empty.
    numbers = [prefix + name for prefix in ("", "feature_") for name in ("distance", "score")]
    frame = pd.read_csv(file, dtype={"name": str, "source": str, "nearest": str, "feature_nearest": str},
                        keep_default_na=False, na_values={name: [""] for name in numbers})
    return frame.astype({name: float for name in numbers if name in frame})
