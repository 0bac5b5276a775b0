"""The number of clusters for the user's data: by silhouette and cluster sizes, or by the count of pairs."""

from collections.abc import Collection
from typing import NamedTuple

from diffusegen_core.chapters import cluster
from diffusegen_core.config.data import Data
from diffusegen_core.config.sections import Cluster
from diffusegen_core.config.text import counted
from diffusegen_core.data import selection
from diffusegen_core.data.reports import Report
from diffusegen_core.networks import features
from diffusegen_core.store import seeds

LEAST = 12  # pairs in a cluster, whose model sees no others
# The mean silhouette that a grouping must exceed: up to it there is "no substantial structure" (Kaufman and
# Rousseeuw 1990, Finding Groups in Data, table 4), and half of the pairs teach a model less than all of them.
CLEAR = 0.25
MOST_K, EACH = 8, 24  # the most clusters, and the least pairs per cluster on average
LOOKED_AT = 150  # pairs whose features are computed
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


def by_looks(settings: Data, report: Report, left_out: Collection[str], network: Cluster,
             seed: int) -> Grouping:
    """The grouping by what chapter 1 measures, in a run with these settings and this seed, of the pairs that
    are not left out, or of a sample: the K with the largest silhouette above CLEAR among those whose smallest
    cluster has LEAST pairs; else one cluster."""
    names = sorted(pair.name for pair in report.pairs if pair.name not in left_out)
    ks = range(2, min(MOST_K, len(names) // EACH) + 1)
    if not ks:
        return Grouping(1, len(names), f"too few pairs for two models: below {2 * EACH}, one model for all "
                                       "learns more")
    rng = seeds.rng(0, "new profile", "sample")
    sample = {names[i] for i in rng.permutation(len(names))[:LOOKED_AT]}
    chosen = Report(report.folder, report.layout, [pair for pair in report.pairs if pair.name in sample],
                    told=report.told, condition=report.condition)
    used = selection.usable(settings.model_copy(update={"on_bad": "skip"}), chosen, 1, ())
    rows = cluster.described(used.images, used.masks, lambda pixels: features.extract(
        pixels, network.backbone, network.weights, network.input_range, seed=seed))
    found = cluster.scanned(rows, ks, seed)
    found["smallest"] = (found["smallest"] * (len(names) / len(rows))).astype(int)
    looked = [f"{row.k}: {row.silhouette:.2f}, {counted(row.smallest, 'pair')}" for row in found.itertuples()]
    which = f" of a sample of {len(rows)} pairs" if len(rows) < len(names) else ""
    why = (f"silhouette{which} by K, as chapter 1 plots it, and smallest cluster: "
           f"{'; '.join(looked) or 'none'}"
           f"{f'. Above {ks[-1]}, clusters have fewer than {EACH} pairs' if ks[-1] < MOST_K else ''}")
    clear = found[(found["smallest"] >= LEAST) & (found["silhouette"] > CLEAR)]
    if clear.empty:
        return Grouping(1, len(names), f"{why}. One model for all: no K is above {CLEAR} with {LEAST} pairs "
                                       "a cluster")
    best = clear.loc[clear["silhouette"].idxmax()]
    return Grouping(int(best["k"]), int(best["smallest"]), why)
