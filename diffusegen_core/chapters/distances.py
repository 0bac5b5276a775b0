"""Chapter 5's distances: each data type against Real, in whole sets as in the paper, and at equal numbers.

Distances, precision and recall depend on the number of images. So whole sets, which differ in size, are only
comparable with the paper's. Data types are compared with each other in seeded subsets of one size, beside as
many held-out real pairs: what separates these from Real is not the fault of a generator.
"""

from collections.abc import Iterable
from time import perf_counter

import numpy as np
import pandas as pd

from diffusegen_core.chapters import members
from diffusegen_core.chapters.members import HELD_OUT, Members, Subject
from diffusegen_core.config import devices
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import REAL
from diffusegen_core.measures import manifolds, metrics
from diffusegen_core.store import files, seeds
from diffusegen_core.store.workspace import Workspace

MS_SSIM = "MS-SSIM"
LEAST = 3  # a set of fewer images has no distances
TINY = 0.5  # of the median set size; smaller sets are ignored, as they would shrink all others
VALUES = ["data type", "set", "metric", "value", "images", "backbone"]


def whole(subject: Subject, everyone: Members, pairs: Pairs) -> pd.DataFrame:
    """The metrics of each set against all real images. Real is a single set, reshuffled for each MS-SSIM."""
    real, rows = subject.data_type == REAL, []
    for number in range(1, subject.settings.sets + 1):
        chosen = np.flatnonzero((everyone.numbers == number) | real)
        if len(chosen) < LEAST:
            continue
        by_features: dict[str, float] = {}
        if not real or number == 1:
            by_features = _feature_distances(subject, everyone.images[chosen], pairs,
                                             f"Features of {subject.data_type}, set {number}")
        rows += _rows(subject, number, chosen, {**by_features, MS_SSIM: _alike(subject, everyone, chosen,
                                                                               pairs, number)})
    return pd.DataFrame(rows, columns=VALUES)


def equal_size(sizes: Iterable[int], held_out: int, real: int) -> int:
    """How many images of each data type are compared: the smallest of the set `sizes` and `held_out`, leaving
    out those below LEAST, and sets below TINY of the median size.

    0 if no set is left, or there are too few `real` images to measure distances from.
    """
    usable = [size for size in sizes if size >= LEAST]
    if not usable or real < LEAST:
        return 0
    floor = [held_out] if held_out >= LEAST else []
    return min([*(size for size in usable if size >= TINY * float(np.median(usable))), *floor])


def compare(ws: Workspace, subject: Subject, count: int) -> None:
    """A work item: the metrics of `count` images of each set, or of as many real ones, drawn for each set."""
    if subject.artifact.made():
        return
    folder, start = subject.artifact.begin(), perf_counter()
    table = equal(subject, members.members(subject), dataset.read(subject.real), count)
    subject.artifact.finish([files.write_text(folder / "values.csv", table.to_csv(index=False))],
                            perf_counter() - start, device=devices.name(ws.device))


def equal(subject: Subject, everyone: Members, pairs: Pairs, count: int) -> pd.DataFrame:
    """As `whole`, for seeded subsets, with precision, recall, density and coverage.

    Real, which everything is compared with, has MS-SSIM alone.
    """
    rows, real = [], subject.data_type in (REAL, HELD_OUT)
    for number in range(1, subject.settings.sets + 1):
        there = np.flatnonzero((everyone.numbers == number) | real)
        if len(there) < count or count < LEAST:
            continue
        rng = seeds.rng(subject.ws.seed, "equal numbers", subject.data_type, number)
        chosen = np.sort(rng.choice(there, count, replace=False))
        values = {MS_SSIM: _alike(subject, everyone, chosen, pairs, number)}
        if subject.data_type != REAL:
            images = everyone.images[chosen]
            title = f"Features of {subject.data_type}"
            values = {**_feature_distances(subject, images, pairs, title),
                      **manifolds.of(members.features(subject, images, title),
                                     members.features(subject, pairs.images, "Features of Real")), **values}
        rows += _rows(subject, number, chosen, values)
    return pd.DataFrame(rows, columns=VALUES)


def _rows(subject: Subject, number: int, chosen: np.ndarray, values: dict[str, float]) -> list[tuple]:
    network = metrics.backbone(subject.settings)
    return [(subject.data_type.name, number, metric, value, len(chosen), "" if metric == MS_SSIM else network)
            for metric, value in values.items()]


def _alike(subject: Subject, everyone: Members, chosen: np.ndarray, pairs: Pairs, number: int) -> float:
    """MS-SSIM of shuffled pairs of the chosen images and real ones."""
    # An image without a known source may be paired with any real image.
    known = everyone.sources[chosen]
    others = metrics.partners(np.where(known < 0, np.arange(len(chosen)) % len(pairs), known), len(pairs),
                              subject.ws.seed, number)
    return float(metrics.similarity(everyone.images[chosen], pairs.images[others],
                                    devices.device(subject.ws.device)).mean())


def _feature_distances(subject: Subject, images: np.ndarray, pairs: Pairs, title: str) -> dict[str, float]:
    settings = subject.settings
    ours, real = (members.features(subject, pixels, name) for pixels, name in
                  ((images, title), (pairs.images, "Features of Real")))
    frechet, kernel = metrics.names(settings)
    values = {frechet: metrics.frechet(ours, real)}
    if subject.data_type != REAL:  # the estimate assumes two independent sets
        values[kernel] = metrics.kernel(ours, real, subject.ws.seed, settings.kernel_subsets,
                                        settings.kernel_size)
    return values
