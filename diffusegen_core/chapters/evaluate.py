"""Chapter 5: how far the synthetic images are from the real ones, and whether they are copies (paper 2.5).

Every data type is compared with Real, all at the training size, in sets of one sample number each. The audit
of copies goes beyond the paper. A data type is not judged again while its images stay the same.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from diffusegen_core.chapters import gan, inpaint, style
from diffusegen_core.config import devices
from diffusegen_core.config.params import Params, plain
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.data.dataset import REAL
from diffusegen_core.measures import copies, metrics
from diffusegen_core.measures.copies import Found
from diffusegen_core.parallel import fanout
from diffusegen_core.store import runs

VERSION = 1  # raised when the same images would get other numbers
MS_SSIM = "MS-SSIM"
CLOSEST = 5  # images of each data type that are kept for the figure
LEAST = 3  # a set of fewer images has no distances

VALUES = ["data type", "set", "metric", "value", "images", "backbone"]
NEAREST = ["nearest", "flipped", "distance", "score"]
AUDIT = ["data type", "name", "source", "own", *NEAREST, *(f"feature_{name}" for name in NEAREST)]


@dataclass(frozen=True)
class Members:
    """The Q pairs of a data type: what they show, and where they come from."""

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
    """The chapter's result. Data types are in the order Real, GAN, K-Diff, K-Styled-Diff, Full-Diff, ..."""

    values: pd.DataFrame
    """One row a number, columns VALUES: `images` is how many the set has; MS-SSIM has no backbone ("")."""
    audit: pd.DataFrame
    """One row an image, columns AUDIT: its nearest training image in pixels, and by features of the polyp;
    `own` where the former is its source."""
    thresholds: tuple[float, float]
    """Scores in pixels and in features below which an image is a near-copy."""
    metrics: tuple[str, str, str]
    """What the Fréchet distance and the kernel distance are called, and MS-SSIM."""
    backbone: str
    """The network behind the distances and the audit's features, in words."""
    window: tuple[int, int]
    """MS-SSIM's window, in pixels, and how many times each pixel was repeated for it."""
    folders: dict[str, Path | None]
    """The dataset folder of each data type; None for Real."""
    seconds: float
    folder: Path

    @property
    def copies(self) -> pd.DataFrame:
        """One row a data type: images, near-copies in pixels, in features, in either, the share of these, how
        many of those in pixels are of their own source, and the share of images to which in pixels no
        training image is nearer than their source. Real is judged each among the others."""
        rows = {name: copies.summary(self.audit[self.audit["data type"] == name], self.thresholds)
                for name in self.folders}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("data type")

    @property
    def closest(self) -> pd.DataFrame:
        """The likeliest copies in pixels, the likeliest first; a pair, styled or not, has one row."""
        synthetic = self.audit[self.audit["data type"] != REAL].dropna(subset="score")
        ordered = synthetic.sort_values("score", kind="stable")
        pair = ordered["data type"].str.replace("Styled-", "") + "/" + ordered["name"]
        return ordered[~pair.duplicated()].head(CLOSEST)

    def picture(self, data_type: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """An image (3, S, S) of `closest`, and its filled region (S, S)."""
        with np.load(self.folder / data_type / "closest.npz", allow_pickle=False) as stored:
            i = stored["names"].tolist().index(name)
            return stored["images"][i], stored["regions"][i]


@fanout.alone
def run(p: Params) -> Evaluated:
    """Judge every data type of the run, making first what is not there yet; from disk while current.

    Raises UserError where the backbone or its weights cannot be had, or the GAN's pairs cannot be read.
    """
    folders: dict[str, Path | None] = {REAL: None}
    if baseline := gan.run(p):
        folders |= baseline.folders
    made, styled = inpaint.run(p), style.run(p)
    for name, folder in made.folders.items():
        twin = style.of(name)
        folders |= {name: folder, twin: styled.folders[twin]}
    pairs = dataset.load(p)
    if todo := {name: folder for name, folder in folders.items()
                if not runs.current(p.folder / "evaluate" / name, decided_by(p, name, folder, pairs))}:
        _extract_all(p, {REAL: None, **todo}, pairs)
    items = [fanout.Item(name, {"p": p, "data_type": name, "folder": folder})
             for name, folder in folders.items()]
    seconds = sum(fanout.run(judge, items, "Judging data types"))
    home, e = p.folder / "evaluate", p.evaluate
    values, audit = (pd.concat([_read(home / name / f"{part}.csv") for name in folders], ignore_index=True)
                     for part in ("values", "audit"))
    real = audit[audit["data type"] == REAL]
    thresholds = tuple(copies.threshold(real[column].to_numpy(), e.copy_quantile)
                       for column in ("score", "feature_score"))
    return Evaluated(values, audit, thresholds, (*metrics.names(e), MS_SSIM), metrics.backbone(e),
                     metrics.window_of(p.data.image_size), folders, seconds, home)


def decided_by(p: Params, data_type: str, folder: Path | None, pairs: dataset.Pairs) -> runs.Recipe:
    """What decides the judgement on a data type."""
    settings = {name: plain(p.evaluate)[name] for name in ("sets", "kernel_subsets", "kernel_size")}
    return {"version": VERSION, "pairs": pairs.digest, "made": _identity(data_type, folder), "seed": p.seed,
            "features": metrics.recipe(p.evaluate, p.seed), "dilate": p.inpaint.dilate, **settings}


def _extract_all(p: Params, folders: dict[str, Path | None], pairs: dataset.Pairs) -> None:
    """Put all features that `judge` asks for into the store, batches of images side by side."""
    counts = {name: len(pairs) if folder is None else len(pairsets.manifest(folder))
              for name, folder in folders.items()}
    fanout.run(extract, [
        fanout.Item(f"{name}, from image {first + 1}", {"p": p, "data_type": name, "folder": folder,
                                                        "first": first})
        for name, folder in folders.items() for first in range(0, counts[name], metrics.CHUNK)], "Features")


def extract(p: Params, data_type: str, folder: Path | None, first: int) -> None:
    """Put the features of a batch of a data type's images, whole and around the polyp, into the store."""
    members, batch = _members(p, data_type, folder, dataset.load(p)), slice(first, first + metrics.CHUNK)
    images, polyps = members.images[batch], members.polyps[batch]
    _features(p, images, f"Features of {data_type}")
    for step in (1, -1) if data_type == REAL else (1,):  # the audit looks at mirrored training images, too
        _polyp_features(p, images[..., ::step], polyps[..., ::step])


def judge(p: Params, data_type: str, folder: Path | None) -> float:
    """Compare one data type with Real and look for copies in it; the seconds that it took."""
    pairs, out = dataset.load(p), p.folder / "evaluate" / data_type
    recipe = decided_by(p, data_type, folder, pairs)
    stamp = runs.current(out, recipe)
    if stamp is None:
        start = perf_counter()
        members = _members(p, data_type, folder, pairs)
        values, audit = distances(p, data_type, members, pairs), audited(p, data_type, members, pairs)
        first = audit["score"].to_numpy(dtype=float).argsort(kind="stable")[:CLOSEST]
        kept = {"names": np.array(members.names, dtype=str)[first], "images": members.images[first],
                "regions": members.regions[first]}
        outputs = [runs.write_text(out / "values.csv", values.to_csv(index=False)),
                   runs.write_text(out / "audit.csv", audit.to_csv(index=False)),
                   runs.write(out / "closest.npz", lambda file: np.savez(file, **kept))]
        stamp = runs.finish(out, recipe, outputs, perf_counter() - start)
    return stamp["seconds"]


def distances(p: Params, data_type: str, members: Members, pairs: dataset.Pairs) -> pd.DataFrame:
    """The metrics of each set against all real images. Real is one set, shuffled anew for each MS-SSIM."""
    rows = []
    for number in range(1, p.evaluate.sets + 1):
        chosen = np.flatnonzero((members.numbers == number) | (data_type == REAL))
        if len(chosen) < LEAST:
            continue
        images = members.images[chosen]
        found = {}
        if data_type != REAL or number == 1:
            found = _feature_distances(p, images, pairs, f"Features of {data_type}, set {number}",
                                       data_type != REAL)
        # What has no known source may meet any real image.
        known = members.sources[chosen]
        others = metrics.partners(np.where(known < 0, np.arange(len(chosen)) % len(pairs), known), len(pairs),
                                  p.seed, number)
        alike = metrics.similarity(images, pairs.images[others], devices.device(p.device))
        rows += [(data_type, number, metric, value, len(chosen), metrics.backbone(p.evaluate))
                 for metric, value in found.items()]
        rows.append((data_type, number, MS_SSIM, float(alike.mean()), len(chosen), ""))
    return pd.DataFrame(rows, columns=VALUES)


def _feature_distances(p: Params, images: np.ndarray, pairs: dataset.Pairs, title: str,
                       independent: bool) -> dict[str, float]:
    e = p.evaluate
    ours, real = _features(p, images, title), _features(p, pairs.images, "Features of Real")
    frechet, kernel = metrics.names(e)
    found = {frechet: metrics.frechet(ours, real)}
    if independent:  # its estimate is of two independent sets, and means nothing for one
        found[kernel] = metrics.kernel(ours, real, p.seed, e.kernel_subsets, e.kernel_size)
    return found


def audited(p: Params, data_type: str, members: Members, pairs: dataset.Pairs) -> pd.DataFrame:
    """The nearest training image of every image of a data type; Real's are looked for among the others."""
    if not members.names:
        return pd.DataFrame(columns=AUDIT)
    own = members.sources if data_type == REAL else None
    around = _around(p, pairs.masks)
    training = [_polyp_features(p, pairs.images[..., ::step], around[..., ::step]) for step in (1, -1)]
    pixels = copies.in_pixels(members.images, members.regions, pairs.images, own)
    features = copies.in_features(_polyp_features(p, members.images, members.polyps),
                                  np.concatenate(training), own)
    return pd.DataFrame({
        "data type": data_type, "name": members.names,
        "source": [pairs.names[i] if i >= 0 else "" for i in members.sources],
        "own": pixels.index == members.sources,
        **_columns("", pixels, pairs.names), **_columns("feature_", features, pairs.names)}, columns=AUDIT)


def _columns(prefix: str, found: Found, names: list[str]) -> dict[str, object]:
    nearest = [names[i] if np.isfinite(distance) else ""
               for i, distance in zip(found.index, found.distance, strict=True)]
    return {f"{prefix}{name}": column for name, column in
            zip(NEAREST, (nearest, found.flipped, found.distance, found.score), strict=True)}


def _features(p: Params, images: np.ndarray, title: str) -> np.ndarray:
    store = p.folder / "evaluate" / "features"
    return metrics.cached(store, images, p.evaluate, devices.device(p.device), p.seed, title)


def _polyp_features(p: Params, images: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Features (Q, D) of the boxes around regions (Q, S, S); NaN where a region is empty."""
    there = regions.any(axis=(1, 2))
    shown = np.where(there[:, None, None], regions, 1)
    rows = _features(p, copies.patches(images, shown), "Features of polyps")
    return np.where(there[:, None], rows, np.nan)


def _around(p: Params, masks: np.ndarray) -> np.ndarray:
    """The region that chapter 3 fills (Q, S, S), for masks (Q, 1, S, S)."""
    return np.stack([inpaint.dilated(mask[0], p.inpaint) for mask in masks])


def _members(p: Params, data_type: str, folder: Path | None, pairs: dataset.Pairs) -> Members:
    around = _around(p, pairs.masks)
    if data_type == REAL:
        everyone = np.arange(len(pairs))
        return Members(pairs.names, np.ones(len(pairs), int), everyone, pairs.images, around, around)
    manifest = pairsets.manifest(folder)
    index = {"": -1} | {name: i for i, name in enumerate(pairs.names)}
    sources = manifest["source"].map(index).to_numpy(dtype=int)
    numbers = manifest["sample"].to_numpy(dtype=int)
    if manifest.empty:
        return Members([], numbers, sources, pairs.images[:0], around[:0], around[:0])
    made = pairsets.load(folder, manifest["name"].tolist())
    polyps = _around(p, made.masks)
    # A GAN's images are its own as a whole.
    regions = np.ones_like(polyps) if data_type == gan.GAN else around[sources]
    return Members(made.names, numbers, sources, made.images, regions, polyps & regions)


def _identity(data_type: str, folder: Path | None) -> str | None:
    """What tells the images of a data type from others of its name."""
    if data_type == REAL:
        return None
    return runs.key(runs.read_json(folder / runs.STAMP)["outputs"])


def _read(file: Path) -> pd.DataFrame:
    # An image may be called NA, which is no missing value; a missing distance is empty.
    numbers = [prefix + name for prefix in ("", "feature_") for name in ("distance", "score")]
    frame = pd.read_csv(file, dtype={"name": str, "source": str, "nearest": str, "feature_nearest": str},
                        keep_default_na=False, na_values={name: [""] for name in numbers})
    return frame.astype({name: float for name in numbers if name in frame})
