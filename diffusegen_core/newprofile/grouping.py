"""The number of clusters for the user's data: by silhouette and cluster sizes, or by the count of pairs."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from diffusegen_core.config.data import Data
from diffusegen_core.config.sections import Cluster
from diffusegen_core.data import planes, selection
from diffusegen_core.data.reports import Report
from diffusegen_core.networks import features
from diffusegen_core.store import seeds

LEAST = 12  # pairs in a cluster, whose model sees no others
CLEAR = 0.1  # the mean silhouette that a grouping must exceed
MOST_K, EACH = 8, 24  # the most clusters, and the least pairs per cluster on average
LOOKED_AT = 150  # pairs whose features are computed
SIDE = 64  # pixels, the size at which they are computed
UNSEEN = 80  # pairs from which on there are two clusters where features cannot be computed


class Grouping(NamedTuple):
    """A number of clusters, the pairs in the smallest, and the reason."""

    k: int
    smallest: int
    reason: str


def by_number(pairs: int) -> Grouping:
    """The grouping by the number of pairs alone, where no pretrained weights are available."""
    k = 1 if pairs < UNSEEN else 2
    return Grouping(k, max(1, pairs // (2 * k) if k > 1 else pairs),
                    "there are no weights to group the pairs by: a model sees only its own cluster, "
                    f"and below {UNSEEN} pairs one model for all learns more")


def by_looks(settings: Data, report: Report, held_out: Collection[str], network: Cluster) -> Grouping:
    """The grouping by features of a sample of the pairs that are not held out: the K with the largest
    silhouette above CLEAR among those whose smallest cluster has LEAST pairs; else one cluster."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    names = sorted(pair.name for pair in report.pairs if pair.name not in held_out)
    rng = seeds.rng(0, "new profile", "sample")
    sample = {names[i] for i in rng.permutation(len(names))[:LOOKED_AT]}
    chosen = Report(report.folder, report.layout, [pair for pair in report.pairs if pair.name in sample],
                    told=report.told, condition=report.condition)
    used = selection.usable(settings.model_copy(update={"image_size": SIDE, "on_bad": "skip"}), chosen, 1, ())
    pixels = [planes.rgb(used.images), *(planes.rgb(255 * used.masks[:, m:m + 1])
                                         for m in range(used.masks.shape[1]))]
    rows = np.concatenate([features.extract(part, network.backbone, network.weights, network.input_range)
                           for part in pixels], axis=1, dtype=np.float64)
    whole, best = len(names) / len(rows), Grouping(1, len(names), "")
    score, looked = CLEAR, []
    for k in range(2, min(MOST_K, len(names) // EACH) + 1):
        labels = KMeans(k, n_init=5, random_state=0).fit(rows).labels_
        smallest = int(np.bincount(labels, minlength=k).min() * whole)
        value = float(silhouette_score(rows, labels)) if smallest else -1.0
        looked.append(f"{k}: {value:.2f}, {smallest} pairs")
        if smallest >= LEAST and value > score:
            score, best = value, Grouping(k, smallest, "")
    if not looked:
        return Grouping(1, len(names), f"too few pairs for two models: below {2 * EACH}, one model for all "
                                       "learns more")
    why = f"silhouette and smallest cluster by K, of whole pictures at {SIDE} px: {'; '.join(looked)}"
    none = f"{why}. One model for all: no K is above {CLEAR} with {LEAST} pairs a cluster"
    return best._replace(reason=none if best.k == 1 else why)
