"""Chapter 7: small sets of real pairs, augmented with synthetic ones (paper 2.6.2, 3.3.2, B.4.2).

Of N real pairs a fifth chooses the best epoch. Each of the others is drawn, with probability alpha, to be
replaced (or joined) by r of the synthetic pairs that were made of it. For one seed all data types have the
same real pairs, and the same of them are drawn: comparisons are paired.
"""

import traceback
from dataclasses import replace
from time import perf_counter

import pandas as pd

from diffusegen_core.chapters import gan, segment, style
from diffusegen_core.chapters.segment import Tested
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data.dataset import REAL
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import experiments, trainsets
from diffusegen_core.segmentation.experiments import Experiment, Place, Results
from diffusegen_core.segmentation.trainsets import Choice, Sets
from diffusegen_core.store import runs, seeds

TITLE = "Small sets"
SIZES = (16, 32, 64, 128)  # the paper's


@fanout.alone
def run(p: Params) -> Tested:
    """Train and test what is not finished of chapter 7's grid, making first what earlier chapters have not.

    Raises UserError as chapter 6 does, and where a size exceeds the number of sources.
    """
    sets, tests = trainsets.make(p), segment.checked(p)
    small = [fanout.Item(f"{size} pairs, seed {seed}", {"p": own(p, sets, size, seed)})
             for size, seed in _small(p, sets)]
    fanout.run(generate, small, "Generators that see a small set")
    every = of_grid(p, sets)
    choices = {e: chosen(p, mine, e) for e, mine in every.items()}
    recipes = {e: segment.recipe(p, every[e], tests, e, *found) for e, found in choices.items()}
    results = experiments.run(TITLE, recipes, work, p.folder / "augment",
                              lambda e: segment.cost(p, *choices[e]), p=p)
    result = tested(p, sets, results, tests)
    runs.write_text(result.folder / "generators.csv", result.generators.to_csv(index=False))
    return result


def tested(p: Params, sets: Sets, results: Results, tests: list[TestSet]) -> Tested:
    """The result that a page shows, with the generators of the small sets."""
    return replace(segment.tested(p, results, tests, "augment"), generators=generators(p, sets))


def generate(p: Params) -> None:
    """Chapters 1 to 4 for a small set. A failure is kept; the experiments that need the pairs tell it."""
    note, before, start = p.folder / experiments.TRACEBACK, _stamped(p), perf_counter()
    note.unlink(missing_ok=True)
    try:
        style.run(p)
    except Exception:
        runs.write_text(note, traceback.format_exc())
    if note.is_file() or _stamped(p) != before:  # to find all of it finished is no work
        experiments.spend(p.folder, perf_counter() - start)


def generators(p: Params, sets: Sets) -> pd.DataFrame:
    """A row a generator that sees a small set alone: size, seed, status ("ok", "to do" or "failed"), seconds.

    These are of chapters 1 to 4, with failed attempts and those with other parameters. Networks of several
    data types and r's are trained on its pairs, so that no network's own seconds hold them.
    """
    rows = []
    for size, seed in _small(p, sets):
        mine = own(p, sets, size, seed)
        failed = (mine.folder / experiments.TRACEBACK).is_file()
        rows.append({"size": size, "seed": seed,
                     "status": "failed" if failed else "to do" if trainsets.made(mine) is None else "ok",
                     "seconds": max(experiments.seconds_in(mine.folder / experiments.SPENT), _stamped(mine))})
    return pd.DataFrame(rows, columns=["size", "seed", "status", "seconds"])


def _small(p: Params, sets: Sets) -> list[tuple[int, int]]:
    """Size and seed of each small set that has a generator of its own."""
    if p.augment.generator_sees != "subset":
        return []
    return [(size, seed) for size in sizes(p, len(sets.real)) for seed in range(p.augment.seeds)]


def _stamped(p: Params) -> float:
    """The seconds of all that is finished of a generator's run."""
    return sum(map(experiments.seconds_in, p.folder.rglob(runs.STAMP)))


def planned(p: Params) -> str:
    """The chapter's grid in words, what of it is finished, and how long the rest will take."""
    ready = trainsets.made(p)
    tests = segment.checked(p) if ready else []
    every = of_grid(p, ready) if ready else dict.fromkeys(grid(p, trainsets.sources(p)))
    choices, recipes = {}, {}
    for e, mine in every.items():
        known = mine is not None and (e.data_type == REAL or len(mine.manifests[e.data_type]) > 0)
        choices[e] = chosen(p, mine, e) if known else expected(p, e)
        recipes[e] = segment.recipe(p, mine, tests, e, *choices[e]) if known else None
    text = experiments.describe(TITLE, recipes, p.folder / "augment",
                                lambda e: segment.cost(p, *choices[e]), lambda: segment.pace(p))
    if p.augment.generator_sees == "subset":
        sets = len(sizes(p, trainsets.sources(p))) * p.augment.seeds
        text += f"\nBeside these, chapters 1 to 4 are run for {sets} small sets; their time is not estimated."
    return text


def results(p: Params) -> experiments.Results | None:
    """What there is of the chapter's grid, None if it was not run; nothing is made."""
    sets, folder = trainsets.made(p), p.folder / "augment"
    if sets is None or not (folder / experiments.RESULTS).is_file():
        return None
    tests = segment.checked(p)
    every = of_grid(p, sets)
    return experiments.read({e: segment.recipe(p, mine, tests, e, *chosen(p, mine, e))
                             for e, mine in every.items()}, folder)


def expected(p: Params, e: Experiment) -> tuple[Choice, Choice]:
    """As many nameless pairs as `chosen` will give on average, if none is left out."""
    valid = trainsets.held_back(e.size, p.segment.validation)
    drawn = 0 if e.ratio is None else round(p.augment.alpha * (e.size - valid))
    real = e.size - valid - (drawn if p.augment.rule == "replace" else 0)
    return Choice(("",) * real, ("",) * (drawn * (e.ratio or 0))), Choice(("",) * valid)


def sizes(p: Params, sources: int) -> list[int]:
    """The N's of a run with so many sources; UserError where one is more, or too few for its generator."""
    found, problems = p.augment.sizes or [size for size in SIZES if size <= sources] or [sources], []
    if max(found) > sources:
        problems.append(f"augment.sizes: {max(found)} is more than the {sources} sources of synthetic pairs. "
                        "Raise inpaint.sources, or leave that size out.")
    fewest = min(found) - trainsets.held_back(min(found), p.segment.validation)
    if p.augment.generator_sees == "subset" and p.augment.subset_clusters > fewest:
        problems.append(f"augment.subset_clusters: {p.augment.subset_clusters} is more than the {fewest} "
                        f"pairs that the generator of a set of {min(found)} sees. Ask for fewer clusters, or "
                        "for larger augment.sizes.")
    if problems:
        raise UserError("Parameters: " + " ".join(problems))
    return found


def grid(p: Params, sources: int) -> list[Experiment]:
    """Every network of the chapter: N's, data types, r's and seeds. Real needs no r."""
    return [Experiment("augment", name, size=size, ratio=ratio, seed=seed)
            for size in sizes(p, sources) for name in [REAL, *types(p)]
            for ratio in ((None,) if name == REAL else
                          trainsets.numbers(p, p.augment.ratios, name, "augment.ratios"))
            for seed in range(p.augment.seeds)]


def types(p: Params) -> list[str]:
    """The data types beside Real; those of a generator that sees a subset bear its own number of clusters."""
    subset = p.augment.generator_sees == "subset"
    k = p.augment.subset_clusters if subset else p.cluster.k
    if p.augment.types is None:
        return [f"{k}-Styled-Diff", *([gan.GAN] if p.gan.source else [])]
    own_types = [f"{k}-Diff", f"{k}-Styled-Diff", *([gan.GAN] if p.gan.source else [])]
    have = own_types if subset else list(trainsets.types(p))
    if unknown := [name for name in p.augment.types if name not in have]:
        raise UserError(f"Parameters: augment.types: there is no data type {unknown[0]} to add; there are "
                        f"{', '.join(have)}.")
    return p.augment.types


def subset(p: Params, sets: Sets, size: int, seed: int) -> tuple[list[str], list[str]]:
    """The N real pairs of a seed: those to train on, and those that choose the best epoch."""
    names = trainsets.shuffled(sets.real.names, p.seed, "augment", "subset", seed)[:size]
    return trainsets.split(names, p.segment.validation, p.seed, "augment", "split", seed)


def chosen(p: Params, sets: Sets, e: Experiment) -> tuple[Choice, Choice]:
    """The pairs that a network is trained on, and those, all real, that choose its best epoch.

    A real pair of which nothing was made stays.
    """
    train, valid = subset(p, sets, e.size, e.seed)
    if e.data_type == REAL:
        return Choice(tuple(train)), Choice(tuple(valid))
    made = sets.manifests[e.data_type].groupby("group")["name"].agg(list).to_dict()
    real, synthetic = [], []
    for name in train:
        drawn = seeds.rng(p.seed, "augment", "drawn", e.seed, name).random() < p.augment.alpha
        mine = trainsets.shuffled(made.get(name, []), p.seed, "augment", "samples", e.seed) if drawn else []
        synthetic += mine[:e.ratio]
        if not mine or p.augment.rule == "add":
            real.append(name)
    return Choice(tuple(real), tuple(synthetic)), Choice(tuple(valid))


def work(place: Place, p: Params) -> None:
    """Train and test one network of chapter 7."""
    e = place.experiment
    sets = of(p, trainsets.read(p), e)
    note = own(p, sets, e.size, e.seed).folder / experiments.TRACEBACK
    if _needs_own(p, e) and note.is_file():
        raise UserError(f"{e.label}: its generator failed; the traceback is in {note}.")
    if e.data_type != REAL and not set(sets.manifests[e.data_type]["group"]) & set(sets.real.names):
        raise UserError(f"{e.label}: of no pair of {e.data_type} is it known that it was made of one of the "
                        "run's real pairs, so that none can replace or join its own.")
    segment.trial(p, sets, place, *chosen(p, sets, e), generator_sees=p.augment.generator_sees)


def of(p: Params, sets: Sets, e: Experiment) -> Sets:
    """The sets that an experiment draws from: the run's, or those of the generator that saw its subset."""
    if not _needs_own(p, e):
        return sets
    theirs = own(p, sets, e.size, e.seed)
    found = trainsets.made(theirs)
    if found is None:  # its generator failed, or has not been trained yet
        empty = pd.DataFrame(columns=["name", "source", "sample", "group"])
        return Sets(sets.real, {}, dict.fromkeys(trainsets.types(theirs), empty))
    return Sets(sets.real, found.folders, found.manifests)


def of_grid(p: Params, sets: Sets) -> dict[Experiment, Sets]:
    """The sets of every experiment of the grid; those of a generator, whose files are hashed, are looked at
    once."""
    known: dict[tuple[int, int] | None, Sets] = {None: sets}
    found = {}
    for e in grid(p, len(sets.real)):
        key = (e.size, e.seed) if _needs_own(p, e) else None
        if key not in known:
            known[key] = of(p, sets, e)
        found[e] = known[key]
    return found


def _needs_own(p: Params, e: Experiment) -> bool:
    """Whether an experiment's generator must see its subset alone. A SinGAN knows its own image only."""
    return p.augment.generator_sees == "subset" and e.data_type not in (REAL, gan.GAN)


def own(p: Params, sets: Sets, size: int, seed: int) -> Params:
    """The parameters of a run of its own, chapters 1 to 4, that knows the training pairs of a subset alone.

    Those that choose the best epoch are kept from the generator as well.
    """
    train, _ = subset(p, sets, size, seed)
    return p.model_copy(update={
        "run_dir": str(p.folder / "augment" / "generators" / f"N{size}-seed{seed}"),
        "data": p.data.model_copy(update={"names": train}),
        "cluster": p.cluster.model_copy(update={"k": p.augment.subset_clusters, "file": None}),
        "train": p.train.model_copy(update={"full_images": None, "base_images": None, "checkpoints": None}),
        "inpaint": p.inpaint.model_copy(update={"sources": None}),
        "gan": p.gan.model_copy(update={"source": None})})
