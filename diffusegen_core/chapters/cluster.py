"""Chapter 1: the pairs clustered into K groups that look alike (paper 2.2)."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffusegen_core.chapters.costs import FLOAT, Cost, Work
from diffusegen_core.config import devices, params
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Cluster
from diffusegen_core.data import dataset, planes, published_clusters
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.networks import features
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Artifact, Recipe
from diffusegen_core.store.stamps import read_stamp
from diffusegen_core.store.workspace import Workspace

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

# Starts of KMeans, of which the best is kept.
STARTS = 10


@dataclass(frozen=True)
class Clusters:
    """Which pair lies in which cluster, 0 to k - 1."""

    names: list[str]
    labels: np.ndarray
    """(N,) int, the cluster of each name."""
    k: int
    sizes: list[int]
    """Pairs in each cluster; none is empty."""
    scan: pd.DataFrame
    """k, inertia, silhouette; the silhouette is absent (NaN) where it is not defined."""
    backbone: str
    """The backbone and its weights, in words."""
    seconds: float
    folder: Path
    file: str | None = None
    """The name of the published file that the clusters are taken from, if any."""

    def members(self, k: int) -> list[int]:
        """The positions of the pairs in cluster k."""
        return [i for i, label in enumerate(self.labels) if label == k]


def run(ws: Workspace, pairs: Pairs, settings: Cluster) -> Clusters:
    """Cluster the pairs by KMeans on features of image and mask (paper 2.2).

    If `cluster.file` is given, its clusters are taken, and KMeans only computes the curves over K. Raises
    UserError if the backbone or its weights cannot be had, if there are fewer distinct pairs than clusters,
    or if the file's names are not those of the pairs.
    """
    different = _different(pairs, settings.k) if settings.scan else 0
    scan = sorted({k for k in settings.scan if k < different})
    artifact = ws.artifact("cluster", _recipe(ws, pairs, settings, scan))
    if not artifact.made():
        labels = _taken(settings, pairs) if settings.file else None
        folder, start, rows = artifact.begin(), perf_counter(), np.empty((len(pairs), 0))
        facts: dict[str, Any] = {"origin": settings.file}
        if looks(settings):
            facts["device"], = fanout.run(extract, [fanout.Item("features of all pairs", ws, {
                "ws": ws, "pairs": pairs.stored, "settings": settings})], "Features")
            rows = _rows(ws, pairs, settings)
        if labels is None:
            labels = _kmeans(rows, settings.k, ws.seed).labels_
            _refuse_empty(labels, settings.k)
        curves = scanned(rows, scan, ws.seed).drop(columns="smallest")
        table = pd.DataFrame({"name": pairs.names, "cluster": labels})
        artifact.finish([files.write_text(folder / "clusters.csv", table.to_csv(index=False)),
                         files.write_text(folder / "scan.csv", curves.to_csv(index=False))],
                        perf_counter() - start, **facts)
    return _read(artifact, settings)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    c = p.cluster
    if c.file and not _remembered(p.folder, c.file):
        yield from refusals([lambda: published(c)], "cluster.file")
    if looks(c):
        backbone = c.backbone, c.weights, c.input_range
        yield from refusals([lambda: features.recipe(*backbone),
                             lambda: features.refuse_unfit(c.weights, features.load, *backbone)], "cluster")


def costs(pairs: int, image_size: int, work: Work, classes: int = 1) -> Iterator[Cost]:
    """The chapter's work items in a run of so many pairs; an image has one mask per class."""
    shown = 1 + classes
    flop = shown * pairs * work.cluster.call
    yield Cost(chapter="cluster", work="features of images and masks", kind="features", items=1,
               images=shown * pairs, flop=flop, largest=flop,
               disk=pairs * (work.planes.all * image_size**2 + shown * FLOAT * work.cluster.width))


def _recipe(ws: Workspace, pairs: Pairs, settings: Cluster, scan: list[int]) -> Recipe:
    recipe = {"data": pairs.digest, "k": settings.k, "scan": scan, "seed": ws.seed}
    if looks(settings):
        recipe["features"] = features.recipe(settings.backbone, settings.weights, settings.input_range,
                                             ws.seed)
    if settings.file:
        recipe["file"] = _hash_of(ws, settings.file)
    return recipe


def _hash_of(ws: Workspace, name: str) -> str:
    """The hash of the published file; if it is gone, of the file that the clusters were taken from."""
    if taken := _remembered(ws.folder, name):
        return taken
    file = params.resolve(name)
    try:
        return files.remembered_sha256(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None


def _remembered(run: Path, name: str) -> str | None:
    """The hash of the published file that a run's clusters were taken from, if the file is gone, as in a
    copied run; None if it is there, or another is asked for."""
    stamp = None if params.resolve(name).exists() else read_stamp(run / "cluster")
    return stamp["recipe"].get("file") if stamp and stamp.get("origin") == name else None


def _read(artifact: Artifact, settings: Cluster) -> Clusters:
    table = pd.read_csv(artifact.file("clusters.csv"), dtype={"name": str}, keep_default_na=False)
    labels = table["cluster"].to_numpy()
    return Clusters(
        names=table["name"].tolist(), labels=labels, k=settings.k,
        sizes=np.bincount(labels, minlength=settings.k).tolist(),
        scan=pd.read_csv(artifact.file("scan.csv")),
        backbone=features.label(settings.backbone, settings.weights),
        seconds=artifact.stamp["seconds"], folder=artifact.folder,
        file=Path(settings.file).name if settings.file else None)


def looks(settings: Cluster) -> bool:
    """Whether the chapter needs features: not where a file gives the clusters and no curve is asked for."""
    return settings.file is None or bool(settings.scan)


def published(settings: Cluster) -> dict[int, list[str]]:
    """The names in each cluster of `cluster.file`. UserError unless it holds cluster.k clusters."""
    path = params.resolve(settings.file or "")
    clusters = published_clusters.read(path)
    if len(clusters) != settings.k:
        raise UserError(f"{path} holds {len(clusters)} clusters, but cluster.k is {settings.k}.")
    return clusters


def _taken(settings: Cluster, pairs: Pairs) -> np.ndarray:
    """The published label of each pair. UserError unless file and pairs have the same names."""
    path = params.resolve(settings.file or "")
    label = {name: k for k, names in published(settings).items() for name in names}
    for complaint, stray in (("does not have {} of the run", [n for n in pairs.names if n not in label]),
                             ("has {}, not in the run", sorted(label.keys() - set(pairs.names)))):
        if stray:
            some = printable(f"{stray[0]} and {len(stray) - 1} more names" if stray[1:] else stray[0])
            raise UserError(f"{path} {complaint.format(some)}. It must name the same pairs as the run; the "
                            "authors' files name the paper's 348 (data.subset: paper348).")
    return np.array([label[name] for name in pairs.names])


def extract(ws: Workspace, pairs: Path, settings: Cluster) -> str:
    """Put the features of all pairs into the run's store, if missing; returns the device's name."""
    _rows(ws, dataset.read(pairs), settings)
    return devices.name(ws.device)


def _rows(ws: Workspace, pairs: Pairs, settings: Cluster) -> np.ndarray:
    backbone = settings.backbone, settings.weights, settings.input_range
    return described(pairs.images, pairs.masks, lambda pixels: features.remembered(
        ws.folder / "features", pixels, features.recipe(*backbone, ws.seed),
        lambda missing: features.extract(missing, *backbone, ws.device, ws.seed)))


def described(images: np.ndarray, masks: np.ndarray, look: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Features of image and mask side by side, (N, 2 D); with M classes, a mask for each, (N, (1 + M) D).
    float64, because small features vanish when squared. `look` gives (N, D) for N RGB pictures."""
    kinds = [look(pixels) for pixels in (planes.rgb(images), *(
        planes.rgb(255 * masks[:, number:number + 1]) for number in range(masks.shape[1])))]
    return np.concatenate(kinds, axis=1, dtype=np.float64)


def _kmeans(rows: np.ndarray, k: int, seed: int) -> "KMeans":
    # scikit-learn takes seconds to import, and reading clusters from disk does not need it.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    state = seeds.derive(seed, "cluster", k) % 2**32
    with warnings.catch_warnings():
        # KMeans warns if it finds fewer clusters than asked for; the callers check that themselves.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, n_init=STARTS, random_state=state).fit(rows)


def _refuse_empty(labels: np.ndarray, k: int) -> None:
    different = len(np.unique(labels))
    if different < k:
        raise UserError(f"cluster.k is {k}, but the backbone gives only {different} distinct "
                        "feature vectors, so some clusters would be empty. Ask for fewer clusters, or "
                        "choose another backbone.")


def scanned(rows: np.ndarray, ks: Sequence[int], seed: int) -> pd.DataFrame:
    """For each k that can be filled: inertia, the mean silhouette where it is defined (2 <= k < N), and the
    pairs in the `smallest` cluster."""
    from sklearn.metrics import silhouette_score

    curves = []
    with progress.bar("KMeans over K", len(ks), "K") as bar:
        for k in ks:
            fitted = _kmeans(rows, k, seed)
            if len(np.unique(fitted.labels_)) < k:
                break
            silhouette = silhouette_score(rows, fitted.labels_) if k > 1 else np.nan
            curves.append({"k": k, "inertia": float(fitted.inertia_), "silhouette": float(silhouette),
                           "smallest": int(np.bincount(fitted.labels_).min())})
            bar.update()
    return pd.DataFrame(curves, columns=["k", "inertia", "silhouette", "smallest"])


def _different(pairs: Pairs, k: int) -> int:
    """The number of distinct pairs; UserError, naming duplicates, if there are fewer than k."""
    first: dict[str, str] = {}
    twins = []
    for name, image, mask in zip(pairs.names, pairs.images, pairs.masks, strict=True):
        content = files.pixel_hash(image) + files.pixel_hash(mask)
        if first.setdefault(content, name) != name:
            twins.append(f"{name} is {first[content]}")
    if len(first) < k:
        same = f" ({len(twins)} are copies: {', '.join(twins[:3])}{', ...' if len(twins) > 3 else ''})"
        raise UserError(f"cluster.k is {k}, but there are only {len(first)} different pairs"
                        f"{same if twins else ''}. Ask for fewer clusters, or give more pairs.")
    return len(first)
