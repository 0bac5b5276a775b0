"""Chapter 1: the pairs in K groups that look alike (paper 2.2)."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, published_clusters
from diffusegen_core.networks import features
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import runs, seeds

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

# KMeans starts over so many times and keeps the best.
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
    """The name of the published file that they are taken from."""


@fanout.alone
def run(p: Params) -> Clusters:
    """Cluster the run's pairs by KMeans on features of image and mask (paper 2.2); from disk while current.

    Where `cluster.file` is given, its clusters are taken, and KMeans only draws the curves over K. Raises
    UserError where the data, the backbone or its weights cannot be had, where fewer pairs differ than there
    are clusters, or where the file's names are not those of the pairs.
    """
    pairs = dataset.load(p)
    different = _different(pairs, p.cluster.k)
    scan = sorted({k for k in p.cluster.scan if k < different})
    c, folder = p.cluster, p.folder / "cluster"
    labels = _taken(p, pairs) if c.file else None
    recipe = {"data": pairs.digest, "k": c.k, "scan": scan, "seed": p.seed}
    if looks(p):
        recipe["features"] = features.recipe(c.backbone, c.weights, c.input_range, p.seed)
    if labels is not None:
        recipe["file"] = runs.sha256(params.resolve(c.file))
    if runs.current(folder, recipe) is None:
        start, rows = perf_counter(), np.empty((len(pairs), 0))
        if looks(p):
            fanout.run(extract, [fanout.Item("features of all pairs", {"p": p})], "Features")
            rows = _rows(p, pairs)
        if labels is None:
            labels = _kmeans(rows, c.k, p.seed).labels_
            _refuse_empty(labels, c.k)
        curves = _scan(rows, scan, p.seed)
        table = pd.DataFrame({"name": pairs.names, "cluster": labels})
        outputs = [runs.write_text(folder / "clusters.csv", table.to_csv(index=False)),
                   runs.write_text(folder / "scan.csv", curves.to_csv(index=False))]
        runs.finish(folder, recipe, outputs, perf_counter() - start)
    return _read(p, folder)


def _read(p: Params, folder: Path) -> Clusters:
    table = pd.read_csv(folder / "clusters.csv", dtype={"name": str}, keep_default_na=False)
    labels = table["cluster"].to_numpy()
    return Clusters(
        names=table["name"].tolist(), labels=labels, k=p.cluster.k,
        sizes=np.bincount(labels, minlength=p.cluster.k).tolist(),
        scan=pd.read_csv(folder / "scan.csv"),
        backbone=features.label(p.cluster.backbone, p.cluster.weights),
        seconds=runs.read_json(folder / runs.STAMP)["seconds"], folder=folder,
        file=Path(p.cluster.file).name if p.cluster.file else None)


def looks(p: Params) -> bool:
    """Whether the chapter needs features: not where a file gives the clusters and no curve is asked for."""
    return p.cluster.file is None or bool(p.cluster.scan)


def published(p: Params) -> dict[int, list[str]]:
    """The names in each cluster of `cluster.file`. UserError where they are no clusters, or not cluster.k."""
    path = params.resolve(p.cluster.file)
    clusters = published_clusters.read(path)
    if len(clusters) != p.cluster.k:
        raise UserError(f"{path} holds {len(clusters)} clusters, but cluster.k is {p.cluster.k}.")
    return clusters


def _taken(p: Params, pairs: dataset.Pairs) -> np.ndarray:
    """The published label of each pair. UserError where a name is in the file or among the pairs alone."""
    path = params.resolve(p.cluster.file)
    label = {name: k for k, names in published(p).items() for name in names}
    for complaint, stray in (("does not have {} of the run", [n for n in pairs.names if n not in label]),
                             ("has {}, not in the run", sorted(label.keys() - set(pairs.names)))):
        if stray:
            some = printable(f"{stray[0]} and {len(stray) - 1} more names" if stray[1:] else stray[0])
            raise UserError(f"{path} {complaint.format(some)}. It must name the same pairs as the run; the "
                            "authors' files name the paper's 348 (data.subset: paper348).")
    return np.array([label[name] for name in pairs.names])


def extract(p: Params) -> None:
    """Put the features of all pairs on the disk, if they are not there."""
    _rows(p, dataset.load(p))


def _rows(p: Params, pairs: dataset.Pairs) -> np.ndarray:
    """Features of image and mask side by side, (N, 2 D); float64, for small features vanish when squared."""
    c, folder = p.cluster, p.folder / "cluster" / "features"
    found = features.cached(folder, {"images": pairs.images, "masks": 255 * pairs.masks.repeat(3, axis=1)},
                            c.backbone, c.weights, c.input_range, p.device, p.seed)
    return np.concatenate([found["images"], found["masks"]], axis=1, dtype=np.float64)


def _kmeans(rows: np.ndarray, k: int, seed: int) -> "KMeans":
    # scikit-learn takes seconds to import, and clusters that are read from disk do not need it.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    state = seeds.derive(seed, "cluster", k) % 2**32
    with warnings.catch_warnings():
        # It warns of fewer clusters than asked for, which the callers look for themselves.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, n_init=STARTS, random_state=state).fit(rows)


def _refuse_empty(labels: np.ndarray, k: int) -> None:
    found = len(np.unique(labels))
    if found < k:
        raise UserError(f"cluster.k is {k}, but the backbone gives only {found} different features, so that "
                        "clusters would be empty. Ask for fewer clusters, or choose another backbone.")


def _scan(rows: np.ndarray, ks: list[int], seed: int) -> pd.DataFrame:
    """Inertia for each k that can be filled, and the mean silhouette where it is defined: 2 <= k < N."""
    from sklearn.metrics import silhouette_score

    curves = []
    with progress.bar("KMeans over K", len(ks), "K") as bar:
        for k in ks:
            fitted = _kmeans(rows, k, seed)
            if len(np.unique(fitted.labels_)) < k:
                break
            silhouette = silhouette_score(rows, fitted.labels_) if k > 1 else np.nan
            curves.append({"k": k, "inertia": float(fitted.inertia_), "silhouette": float(silhouette)})
            bar.update()
    return pd.DataFrame(curves, columns=["k", "inertia", "silhouette"])


def _different(pairs: dataset.Pairs, k: int) -> int:
    """How many pairs differ from each other; UserError naming the duplicates where that is fewer than k."""
    first: dict[str, str] = {}
    twins = []
    for name, image, mask in zip(pairs.names, pairs.images, pairs.masks, strict=True):
        content = hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()
        if first.setdefault(content, name) != name:
            twins.append(f"{name} is {first[content]}")
    if len(first) < k:
        same = f" ({len(twins)} are copies: {', '.join(twins[:3])}{', ...' if len(twins) > 3 else ''})"
        raise UserError(f"cluster.k is {k}, but there are only {len(first)} different pairs"
                        f"{same if twins else ''}. Ask for fewer clusters, or give more pairs.")
    return len(first)
