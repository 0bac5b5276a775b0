"""How often the intervals of `measures/intervals.py` cover the truth, on simulated results of chapter 6 or 7.

    python benchmarks/chance.py

The value of a seed and a test image is the truth plus normal deviations of the generator, the training and
the image. Seeds are shared out among the generators as in `segmentation/sharing.py`. Reported for every case:
how often the 95 % interval covers the mean over generators, trainings and images ("holds, method"); how often
it covers the mean that more trainings on the same pairs would give ("holds, these pairs"); how often, without
an effect, it lies above 0 (a false "supported"), or above or below 0 (a false "supported" or "refuted"); how
often it lies above 0 when the effect is +0.05; and half its width. Where frames come in sequences, the
interval over sequences stands beside the one that treats images as independent.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd

from diffusegen_core.measures import intervals
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.segmentation.sharing import shares
from diffusegen_core.store import files

OF_SEED, OF_GENERATOR, OF_IMAGE, REST = 0.02, 0.03, 0.05, 0.1  # standard deviations
# Generators' deviations to try where nothing collapses: in a run of kvasir_cpu the gains of three generators
# deviated by 0.04 with 16 real pairs and by 0.10 with 32, deviations of their seeds included.
OF_GENERATORS = (OF_GENERATOR, 0.06, 0.10)
OF_GROUP = 0.1  # standard deviation of sequences or hospitals
COLLAPSE, LOSS = 0.1, 0.3  # the share of trainings that collapse, and what they lose in Dice
EFFECT = 0.05
FRAMES = 6  # images per sequence or hospital
IMAGES = 100


@dataclass(frozen=True)
class Case:
    """Simulated results."""

    name: str
    seeds: int = 5
    generators: int = 1
    of_generator: float = OF_GENERATOR
    arms: int = 0
    """Arms whose trainings may collapse: 0; 1, whose mean is asked for; or 2, whose difference is."""
    groups: int = 0
    """Number of sequences or hospitals that the images come from; 0: images are independent."""
    of_group: float = OF_GROUP


def cases() -> Iterator[Case]:
    """All cases to simulate."""
    for of_generator in OF_GENERATORS:
        for count in (1, 2, 3, 5) if of_generator == OF_GENERATOR else (1, 3, 5):
            yield Case("no collapse", generators=count, of_generator=of_generator)
    for count in (1, 3):
        yield Case("no chance of the generator", generators=count, of_generator=0.0)
    yield Case("no collapse", seeds=10, generators=5)
    for arms, name in ((2, "difference, one training in ten collapses"),
                       (1, "mean, one training in ten collapses")):
        for count in (1, 3, 5):
            yield Case(name, generators=count, arms=arms)
    for groups, name in ((29, f"29 sequences of {FRAMES} frames"), (6, f"6 hospitals of {FRAMES} images")):
        for count in (1, 3, 5):
            yield Case(name, generators=count, groups=groups)


def drawn(case: Case, rng: np.random.Generator) -> tuple[pd.DataFrame, dict[int, int], float, float]:
    """Values (seeds x images), each seed's generator, the true mean, and the true mean for these pairs."""
    owners = np.array(shares(case.seeds, case.generators))
    images = case.groups * FRAMES or IMAGES
    collapsed = [rng.random((case.seeds, 1)) < COLLAPSE for _ in range(case.arms)]
    of_pairs = rng.normal(0, case.of_generator, case.generators)
    groups = np.repeat(rng.normal(0, case.of_group, max(case.groups, 1)), FRAMES) if case.groups else 0.0
    x = (of_pairs[owners][:, None] + rng.normal(0, OF_SEED, (case.seeds, 1)) + groups
         + rng.normal(0, OF_IMAGE, (1, images)) + rng.normal(0, REST, (case.seeds, images)))
    for sign, lost in zip((-1, 1), collapsed, strict=False):
        x = x + sign * LOSS * lost
    true = -COLLAPSE * LOSS if case.arms == 1 else 0.0
    frame = pd.DataFrame(x, columns=[str(i) for i in range(images)])
    return frame, dict(enumerate(owners.tolist())), true, true + float(of_pairs.mean())


def ways(case: Case, resamples: int) -> dict[str, Callable[..., Interval]]:
    """The intervals to try, by the sources of chance that they cover besides training."""
    names = {str(i): str(i // FRAMES) for i in range(case.groups * FRAMES)}
    tried: dict[str, Callable[..., Interval]] = {
        "images": lambda x, owners, seed: intervals.of(x, resamples, seed)}
    if case.generators > 1:
        tried["images, generators"] = lambda x, owners, seed: intervals.of(x, resamples, seed, owners)
    if names:
        tried["sequences, generators" if case.generators > 1 else "sequences"] = (
            lambda x, owners, seed: intervals.of_groups(x, names, resamples, seed, owners))
    return tried


def simulated(case: Case, repetitions: int, resamples: int) -> Iterator[dict[str, Any]]:
    """One row for each kind of interval: coverage, false and true verdicts, half width."""
    rng = np.random.default_rng(0)
    kept: dict[str, list[tuple[Interval, float, float]]] = {name: [] for name in ways(case, resamples)}
    for number in range(repetitions):
        x, owners, *truths = drawn(case, rng)
        for name, way in ways(case, resamples).items():
            kept[name].append((way(x, owners, number), *truths))
    for name, rows in kept.items():
        low, high = (np.array([getattr(row[0], end) for row in rows]) for end in ("low", "high"))
        method, pairs = (np.array([row[1 + i] for row in rows]) for i in range(2))
        none = case.arms != 1  # a mean alone has no effect to judge
        yield {**asdict(case), "interval of": name,
               "holds, method": float(((low <= method) & (method <= high)).mean()),
               "holds, these pairs": float(((low <= pairs) & (pairs <= high)).mean()),
               "supported, no effect": float((low > 0).mean()) if none else None,
               "supported or refuted, no effect": (float(((low > 0) | (high < 0)).mean()) if none
                                                   else None),
               f"supported, {EFFECT:+}": float((low + EFFECT > 0).mean()) if none else None,
               "half width": float(np.median(high - low) / 2)}


def main() -> None:
    results = Path(__file__).parent / "results" / "chance.json"
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=common.positive, default=1000, help="of every case")
    parser.add_argument("--resamples", type=common.positive, default=400, help="of every interval")
    parser.add_argument("--json", type=common.target, default=results)
    given = parser.parse_args()
    simulate = partial(simulated, repetitions=given.repetitions, resamples=given.resamples)
    rows = [row for case in cases() for row in simulate(case)]
    table = pd.DataFrame(rows).drop(columns=["arms", "groups", "of_group"])
    print(table.to_string(index=False, float_format="{:.3f}".format))
    files.write_json(given.json, {"repetitions": given.repetitions, "resamples": given.resamples,
                                  "deviations": {
                                      "seed": OF_SEED, "generator": OF_GENERATORS, "image": OF_IMAGE,
                                      "rest": REST, "sequence or hospital": OF_GROUP},
                                  "collapse": {"share": COLLAPSE, "loss": LOSS}, "cases": rows})


if __name__ == "__main__":
    main()
