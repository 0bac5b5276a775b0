"""Chapter 6: networks trained on synthetic pairs alone, tested on real images (paper 2.6.1, 3.3.1, B.3, B.4).

For every data type and N, the pairs with sample numbers up to N are split by source: a share of the sources
(segment.validation) chooses the best epoch, the others are trained on. Real is the same sources themselves,
and not an upper bound: the generators and the pasted lesions draw on all pairs of the run.
"""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from diffusegen_core.chapters.costs import Cost, Work, of_networks
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Segment
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import GAN, REAL
from diffusegen_core.segmentation import segnet, trainsets, trials
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.segmentation.sharing import generator_of
from diffusegen_core.segmentation.trainsets import Choice, Sets, Supply
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store.workspace import Workspace

CHAPTER, TITLE = "segment", "Synthetic data alone"


def run(ws: Workspace, sets: Sets, tests: Mapping[str, TestSet], settings: Segment,
        further: Sequence[Sets] = ()) -> Tested:
    """Train and test the unfinished part of the grid; in a read-only workspace, read what there is of it.

    `sets` are those of the run's first generator, `further` those of the others. No test image may be a
    training image: see `testsets.refuse_leaks`.
    """
    known = [sets, *further]
    every = {experiment: known[experiment.generator or 0]
             for experiment in grid(sets.supply, settings, len(known))}
    tasks = {experiment: (mine, *chosen(ws.seed, mine, settings, experiment))
             for experiment, mine in every.items()}
    return trials.run(ws, CHAPTER, TITLE, settings, tasks, tests,
                      refusals={experiment: _refusal(mine, experiment) for experiment, mine in every.items()})


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    settings, supply = p.segment, trainsets.expected(p)
    yield from refusals([lambda: segnet.refuse_impossible(settings, p.seed, p.data.image_size,
                                                              Planes.of(p.data))], "segment")
    yield from refusals([lambda: trainsets.wanted(supply, settings.types, "segment.types")])
    if GAN in supply and (settings.types is None or GAN.name in settings.types):
        yield from refusals([lambda: trainsets.numbers(supply, settings.samples, GAN, "segment.samples")])


def costs(settings: Segment, supply: Supply, work: Work) -> Iterator[Cost]:
    """The cost of the chapter's networks."""
    choices = [expected(supply, settings, experiment) for experiment in grid(supply, settings)]
    yield of_networks("segment", settings, choices, work)


def planned(ws: Workspace, supply: Supply, image_size: int, kind: Planes, settings: Segment,
            sets: Sets | None = None, tests: Mapping[str, TestSet] | None = None,
            further: Sequence[Sets | None] = ()) -> str:
    """The chapter's grid in words: how much of it is finished, and how long the rest will take.

    `image_size` and `kind` are of the run's pairs; `sets`, `tests` and each of `further` are None if not
    made yet. Nothing is written.
    """
    known = [sets, *further]
    every = {experiment: known[experiment.generator or 0]
             for experiment in grid(supply, settings, len(known))}
    return trials.planned(ws, TITLE, image_size, kind, settings, every, tests,
                          lambda experiment: expected(supply, settings, experiment),
                          lambda experiment, mine: chosen(ws.seed, mine, settings, experiment))


def grid(supply: Supply, settings: Segment, generators: int = 1) -> list[Experiment]:
    """Every network of the chapter: data types, N's and seeds; the seeds are shared out among generators."""
    return [Experiment(CHAPTER, data_type, samples=count, seed=seed,
                       generator=generator_of(seed, generators) if data_type.is_painted else None)
            for data_type in trainsets.wanted(supply, settings.types, "segment.types")
            for count in ((None,) if data_type == REAL else sorted(
                trainsets.numbers(supply, settings.samples, data_type, "segment.samples")))
            for seed in range(settings.seeds)]


def expected(supply: Supply, settings: Segment, experiment: Experiment) -> tuple[Choice, Choice]:
    """Unnamed pairs, as many as `chosen` will give once they are made, if none is left out."""
    count = supply[experiment.data_type].sources
    valid = trainsets.held_back(count, settings.validation)
    return (Choice(synthetic=("",) * ((count - valid) * (experiment.samples or 1))),
            Choice(synthetic=("",) * (valid * (experiment.samples or 1))))


def chosen(seed: int, sets: Sets, settings: Segment, experiment: Experiment) -> tuple[Choice, Choice]:
    """The pairs that a network is trained on, and those of other sources that choose its best epoch. (Pasted
    lesions and varied masks may come from either: they are from all pairs, none of which is a test image.)

    A seed splits the run's sources once, and all data types keep to that split. Groups that are not among
    these sources, such as a GAN's with unknown sources, are split separately; so is a data type that would
    be left without pairs on one side.
    """
    def split(names: list[str]) -> tuple[list[str], list[str]]:
        return trainsets.split(names, settings.validation, seed, "segment", "split", experiment.seed,
                               groups=sets.together)

    train, valid = split(sets.real.names)
    if experiment.data_type == REAL:
        return Choice(tuple(train)), Choice(tuple(valid))
    manifest = sets.manifests[experiment.data_type]
    manifest = manifest[manifest["sample"] <= experiment.samples]
    groups = set(manifest["group"])
    _, others = split(sorted(groups.difference(sets.real.names)))
    kept = groups.intersection([*valid, *others])
    if not kept or kept == groups:
        kept = set(split(sorted(groups))[1])
    for_choice = manifest["group"].isin(kept)
    return (Choice(synthetic=tuple(manifest.loc[~for_choice, "name"])),
            Choice(synthetic=tuple(manifest.loc[for_choice, "name"])))


def _refusal(sets: Sets, experiment: Experiment) -> str:
    """Why a network cannot be trained, or "": no source has enough pairs, or the filter left none. If it left
    fewer than were asked for, those are taken."""
    if experiment.data_type == REAL or experiment.samples is None:
        return ""
    if emptied := sets.emptied(experiment.data_type):
        return emptied
    samples = sets.manifests[experiment.data_type]["sample"]
    if experiment.data_type.is_filtered:
        return "" if (samples <= experiment.samples).any() else (
            f"the filter kept no pair of {experiment.data_type.unfiltered} with a number up to "
            f"{experiment.samples}.")
    most = samples.max()
    if pd.isna(most) or most >= experiment.samples:  # the lack of any pairs is reported elsewhere
        return ""
    return f"no source of {experiment.data_type} has {experiment.samples} pairs; the most is {most}."
