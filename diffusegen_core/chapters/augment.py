"""Chapter 7: small sets of real pairs, augmented with synthetic ones (paper 2.6.2, 3.3.2, B.4.2).

A share of the N real pairs (segment.validation) chooses the best epoch. Each of the others is, with
probability alpha, replaced (or joined) by r of the synthetic pairs made from it. For a given seed, all data
types share the real pairs and the draws, so comparisons are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusegen_core.chapters.costs import Cost, Work, of_networks
from diffusegen_core.chapters.subruns import SMALL, GeneratorSets, Subset, of_generators
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Augment, Segment
from diffusegen_core.config.text import counted
from diffusegen_core.data import dataset
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import GAN, PASTE, PASTED, REAL, DataType
from diffusegen_core.segmentation import experiments, segnet, trainsets, trials
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.segmentation.sharing import generator_of
from diffusegen_core.segmentation.trainsets import Choice, Sets, Supply
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

CHAPTER, TITLE = SMALL, "Small sets"
SIZES = (16, 32, 64, 128)  # the paper's
USUAL, UNSTYLED = "usual", "unstyled"  # words for several data types in augment.types


def run(ws: Workspace, sets: Sets, tests: Mapping[str, TestSet], settings: Augment, segment: Segment,
        generators: GeneratorSets, further: Sequence[Sets] = ()) -> Tested:
    """Train and test the unfinished part of the grid; in a read-only workspace, read what there is of it.

    `sets` are those of the run's first generator, `further` those of the others; `generators` has an entry
    for each of `subsets`. No test image may be a training image: see `testsets.refuse_leaks`. Raises
    UserError if a size exceeds the number of sources.
    """
    every = of_grid(sets, settings, segment, generators, further)
    tested = trials.run(ws, CHAPTER, TITLE, segment, {
        experiment: (mine, *chosen(ws.seed, mine, settings, segment, experiment))
        for experiment, mine in every.items()}, tests, {"generator_sees": settings.generator_sees}, {
            experiment: _refusal(ws, settings, mine, experiment) for experiment, mine in every.items()})
    table = of_generators(ws, subsets(ws.seed, sets.real.names, settings, segment, sets.together), generators)
    if ws.writable:
        files.write_text(ws.folder / CHAPTER / "generators.csv", table.to_csv(index=False))
    return replace(tested, generators=table)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    settings, supply = p.augment, trainsets.expected(p)
    yield from refusals([lambda: segnet.refuse_impossible(p.segment, p.seed, p.data.image_size,
                                                              Planes.of(p.data))], "segment")
    yield from refusals([lambda: types(supply, settings)])
    if GAN in supply and (settings.types is None or GAN.name in settings.types):
        yield from refusals([lambda: trainsets.numbers(offered(supply, settings), settings.ratios, GAN,
                                                       "augment.ratios")])
    if dataset.expected_count(p):
        yield from refusals([lambda: sizes(supply[REAL].sources, settings, p.segment)])


def costs(settings: Augment, segment: Segment, supply: Supply, work: Work) -> Iterator[Cost]:
    """The cost of the chapter's networks, without that of the small sets' generators: see `subsets`."""
    choices = [expected(settings, segment, experiment) for experiment in grid(supply, settings, segment)]
    yield of_networks("augment", segment, choices, work)


def planned(ws: Workspace, supply: Supply, image_size: int, kind: Planes, settings: Augment,
            segment: Segment, sets: Sets | None = None, tests: Mapping[str, TestSet] | None = None,
            generators: GeneratorSets | None = None, further: Sequence[Sets | None] = ()) -> str:
    """The chapter's grid in words: how much of it is finished, and how long the rest will take.

    `image_size` and `kind` are of the run's pairs; `sets`, `tests`, `generators` and each of `further` are
    None if not made yet. Nothing is written.
    """
    known = {} if sets is None else of_grid(sets, settings, segment, generators or {}, further)
    made = {experiment: mine for experiment, mine in known.items()
            if _has(mine, experiment.data_type)}
    every = {experiment: made.get(experiment)
             for experiment in grid(supply, settings, segment, 1 + len(further))}
    text = trials.planned(ws, TITLE, image_size, kind, segment, every, tests,
                          lambda experiment: expected(settings, segment, experiment),
                          lambda experiment, mine: chosen(ws.seed, mine, settings, segment, experiment))
    if settings.generator_sees == "subset":
        count = len(sizes(supply[REAL].sources, settings, segment)) * settings.seeds
        text += (f"\nBesides these, chapters 1 to 4 are run for {counted(count, 'small set')}"
                 "; their time is not estimated.")
    return text


def expected(settings: Augment, segment: Segment, experiment: Experiment) -> tuple[Choice, Choice]:
    """Unnamed pairs, as many as `chosen` will give on average if none is left out."""
    size = experiment.size or 0
    valid = trainsets.held_back(size, segment.validation)
    drawn = 0 if experiment.ratio is None else round(settings.alpha * (size - valid))
    real = size - valid - (drawn if settings.rule == "replace" else 0)
    return Choice(("",) * real, ("",) * (drawn * (experiment.ratio or 0))), Choice(("",) * valid)


def sizes(sources: int, settings: Augment, segment: Segment) -> list[int]:
    """The distinct N's of a run with so many sources; UserError if one exceeds them, or is too small for the
    clusters of its generator."""
    problems = []
    known = list(dict.fromkeys(settings.sizes or [size for size in SIZES if size <= sources] or [sources]))
    if max(known) > sources:
        problems.append(f"augment.sizes: {max(known)} is more than the {sources} sources of synthetic pairs. "
                        "Raise inpaint.sources, or leave that size out.")
    fewest = min(known) - trainsets.held_back(min(known), segment.validation)
    if settings.generator_sees == "subset" and settings.subset_clusters > fewest:
        problems.append(f"augment.subset_clusters: {settings.subset_clusters} is more than the {fewest} "
                        f"pairs that the generator of a set of {min(known)} sees. Ask for fewer clusters, or "
                        "for larger augment.sizes.")
    if problems:
        raise UserError("Parameters: " + " ".join(problems))
    return known


def grid(supply: Supply, settings: Augment, segment: Segment, generators: int = 1) -> list[Experiment]:
    """Every network of the chapter: N's, data types, r's and seeds. Real needs no r.

    The seeds are shared out among the generators, unless each has a generator that saw only its subset.
    """
    have = offered(supply, settings)

    def generator(data_type: DataType, seed: int) -> int | None:
        if not data_type.is_painted:
            return None
        return seed if settings.generator_sees == "subset" else generator_of(seed, generators)

    return [Experiment(CHAPTER, data_type, size=size, ratio=ratio, seed=seed,
                       generator=generator(data_type, seed))
            for size in sizes(supply[REAL].sources, settings, segment)
            for data_type in [REAL, *types(supply, settings)]
            for ratio in ((None,) if data_type == REAL else
                          trainsets.numbers(have, settings.ratios, data_type, "augment.ratios"))
            for seed in range(settings.seeds)]


def offered(supply: Supply, settings: Augment) -> Supply:
    """The data types that the chapter may add; those of a subset's generator are named by its own number of
    clusters."""
    if settings.generator_sees == "all":
        return supply
    painted, amount = next((data_type, amount) for data_type, amount in supply.items()
                           if data_type.is_painted)
    own = replace(painted.inpainted, models=str(settings.subset_clusters))
    types = [own, own.styled]
    if any(data_type.is_filtered for data_type in supply):
        types = [data_type for one in types for data_type in (one, one.filtered)]
    return {**{data_type: amount for data_type, amount in supply.items() if data_type in (GAN, *PASTED)},
            **dict.fromkeys(types, amount)}


def types(supply: Supply, settings: Augment) -> list[DataType]:
    """The data types beside Real, each once, in the order of the supply."""
    have = [data_type for data_type in offered(supply, settings) if data_type != REAL]
    painted = [data_type for data_type in have if data_type.is_painted and not data_type.full]
    meant = {USUAL: [data_type for data_type in have if data_type in (GAN, PASTE)
                     or (data_type in painted and data_type.is_styled)],
             UNSTYLED: [data_type for data_type in painted if not data_type.is_styled and
                        not data_type.is_filtered],
             **{data_type.name: [data_type] for data_type in have}}
    asked = [USUAL] if settings.types is None else settings.types
    if unknown := [name for name in asked if name not in meant]:
        raise UserError(f"Parameters: augment.types: there is no data type {unknown[0]} to add; there are "
                        f"{', '.join(data_type.name for data_type in have)}.")
    chosen = {data_type for name in asked for data_type in meant[name]}
    return [data_type for data_type in have if data_type in chosen]


def chosen(seed: int, sets: Sets, settings: Augment, segment: Segment,
           experiment: Experiment) -> tuple[Choice, Choice]:
    """The pairs that a network is trained on, and the real pairs that choose its best epoch.

    A real pair from which nothing was made stays. Pasted lesions and varied masks come from the pairs that
    the generator saw: from all, or with `generator_sees: subset` from the training pairs.
    """
    train, valid = subset(seed, sets.real.names, experiment.size or 0, experiment.seed, segment,
                          sets.together)
    if experiment.data_type == REAL or not _has(sets, experiment.data_type):
        return Choice(tuple(train)), Choice(tuple(valid))
    made = sets.manifests[experiment.data_type].groupby("group")["name"].agg(list).to_dict()
    mixed = trainsets.mixed(train, made, settings.alpha, experiment.ratio, seed, experiment.seed,
                            settings.rule)
    return mixed, Choice(tuple(valid))


# ---- generators that see only a small set


def subset(seed: int, names: Sequence[str], size: int, number: int, segment: Segment,
           groups: Mapping[str, str] | None = None) -> tuple[list[str], list[str]]:
    """The N real pairs of a repetition: those to train on, and those that choose the best epoch.

    `seed` is the run's, `names` its sources, `groups` what each belongs to that stays whole, such as a
    patient; `number` is the repetition's.
    """
    small = trainsets.shuffled(names, seed, "augment", "subset", number)[:size]
    return trainsets.split(small, segment.validation, seed, "augment", "split", number, groups=groups)


def subsets(seed: int, names: Sequence[str], settings: Augment, segment: Segment,
            groups: Mapping[str, str] | None = None) -> list[Subset]:
    """The small sets, in a run with these sources, that have a generator of their own."""
    if settings.generator_sees == "all":
        return []
    return [Subset(size, number, subset(seed, names, size, number, segment, groups)[0])
            for size in sizes(len(names), settings, segment) for number in range(settings.seeds)]


def own(settings: Augment, names: Sequence[str]) -> dict[str, Any]:
    """The parameters that differ in the run, chapters 1 to 4 and the filter, that sees only these pairs.

    It uses no checkpoints, full-set model or base, which have seen more.
    """
    return {"generators": 1, "data.names": list(names), "cluster.k": settings.subset_clusters,
            "cluster.file": None, "train.full_images": None, "train.base_images": None,
            "train.checkpoints": None, "inpaint.sources": None, "gan.source": None}


def of_grid(sets: Sets, settings: Augment, segment: Segment, generators: GeneratorSets,
            further: Sequence[Sets | None] = ()) -> dict[Experiment, Sets]:
    """The sets that each experiment draws from: those of one of the run's generators, or of the generator
    that saw its subset. They hold no pairs if that failed, or is not made yet."""
    nothing = replace(sets, sets={})
    own_sets: dict[tuple[int, int], Sets] = {}
    every = {}
    for experiment in grid(sets.supply, settings, segment, 1 + len(further)):
        key = experiment.size or 0, experiment.seed
        if needs_own(settings, experiment):
            if key not in own_sets:
                theirs = generators.get(key)
                own_sets[key] = replace(sets, sets=theirs.sets) if theirs else nothing
            every[experiment] = own_sets[key]
        else:
            every[experiment] = [sets, *further][experiment.generator or 0] or nothing
    return every


def needs_own(settings: Augment, experiment: Experiment) -> bool:
    """Whether an experiment needs a generator that saw only its subset. A SinGAN sees one image anyway."""
    return settings.generator_sees == "subset" and experiment.data_type not in (REAL, GAN)


def _has(sets: Sets, data_type: DataType) -> bool:
    """Whether there are pairs of a data type."""
    return data_type == REAL or len(sets.sets.get(data_type, ())) > 0


def _refusal(ws: Workspace, settings: Augment, sets: Sets, experiment: Experiment) -> str:
    """Why a network cannot be trained, if it cannot."""
    if needs_own(settings, experiment) and experiment.data_type not in sets.sets:
        own_run = Subset(experiment.size or 0, experiment.seed, [])
        note = ws.folder / own_run.folder / experiments.TRACEBACK
        if note.is_file():
            return f"its generator failed; the traceback is in {note}."
    if experiment.data_type == REAL:
        return ""
    if emptied := sets.emptied(experiment.data_type):
        return emptied
    made = sets.manifests.get(experiment.data_type)
    if made is None or not set(made["group"]) & set(sets.real.names):
        return (f"no pair of {experiment.data_type} is known to be made from a real pair of the run, so none "
                "can replace or join its source.")
    return ""
