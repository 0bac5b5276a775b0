"""What a run cannot say, given its parameters and what it has made."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import FULL_SIZE
from diffusegen_core.config.text import counted
from diffusegen_core.data import masks, patients
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import VARIED
from diffusegen_core.measures import power
from diffusegen_core.networks import weights
from diffusegen_core.report.naming import captioned
from diffusegen_core.report.rule import (
    LEAST_GENERATORS,
    LEAST_IMAGES,
    LEAST_SEEDS,
    THESE_PAIRS,
    THESE_PASTED,
)
from diffusegen_core.report.tables import escaped

# What the phantoms resemble.
RESEMBLED = {"phantom": "colonoscopy", "phantom-ultrasound": "ultrasound", "phantom-slices": "CT"}
POLYP = "polyp"  # the objects for which there are other data sets to test on
ROOM = 2.0  # times the least gain that can be told: if less is missing to a Dice of 1, there is little room
WEAK = 0.7  # a mean Dice below which networks miss so much that they are weak judges
SUBSET = "subset"  # a value of augment.generator_sees


class Alone(NamedTuple):
    """How well networks trained on real pairs alone find objects in the test images."""

    dice: float
    """Their mean Dice; of several classes in `called` alone, over the images that show it."""
    pairs: float
    """The mean number of pairs that they learned from."""
    called: str = ""
    """The class; "" where there is one."""


class Tests(NamedTuple):
    """The images of a run's own test set."""

    images: int
    together: str
    """What several of them are of one of, as "patient"; "" where all are apart, or that is not known."""
    groups: int = 0
    """How many of these there are; 0 where all images are apart, or that is not known."""
    own: power.Own | None = None
    """What they show by the spread of the run's own results; None where that is not known."""
    alone: Alone | None = None
    """What networks trained on the most real pairs alone reach there; None where there are none."""
    unseen: float | None = None
    """The mean agreement of the filter's networks with the masks of real pairs that they had not seen."""
    classes: tuple[tuple[str, int, power.Own], ...] = ()
    """Each painted class of several, how many images show it, and what these show as `own` does."""


def of(p: Params, made: Collection[str] = tuple(NUMBERS), pairs: Pairs | None = None,
       tests: Tests | None = None) -> Iterator[str]:
    """One sentence per limit, the gravest first, for the chapters that are `made`, by name. `pairs` are the
    run's stored ones, whose names may identify which belong together; None where they have not been read.
    `tests` are the images that test its networks; None where they are not known."""
    seeds = {name: section.seeds for name, section in (("segment", p.segment), ("augment", p.augment))
             if name in made}
    has_networks = bool(seeds)
    if p.data.drawn:
        yield ("The data are phantoms drawn by code: nothing here is evidence about "
               f"{RESEMBLED[p.data.source]}.")
    # Once the pairs are read, it is known what belongs together.
    is_held_out = bool(p.data.held_share) and pairs is not None
    if (has_networks or is_held_out) and not p.data.drawn and p.segment.held_out and not _grouped(p, pairs):
        yield ("Nothing says which pairs are of one patient (`data.patients`): test images may be of "
               "patients that were trained on, and all scores too optimistic for new patients.")
    if p.data.image_size < FULL_SIZE:
        yield (f"Images have {p.data.image_size} pixels a side; the paper's have {FULL_SIZE}. What holds at "
               "one size need not hold at another.")
    if "inpaint" in made and p.generators < LEAST_GENERATORS:
        follows = (f"verdicts are {THESE_PAIRS}, and another training might reverse them" if has_networks else
                   "another training may give better ones, or worse")
        yield (f"{'One generator' if p.generators == 1 else f'{p.generators} generators'} made the pairs: "
               f"{follows} (`generators`).")
    own = p.augment.generator_sees == SUBSET  # then each small set has pasted pairs of its own, too
    if p.inpaint.baselines and ("segment" in made or ("augment" in made and not own)):
        yield (f"Objects were pasted once for all repetitions{' of chapter 6' if own else ''}: verdicts on "
               f"pasted pairs are {THESE_PASTED}.")
    is_smaller = not (p.augment.sizes and pairs) or min(p.augment.sizes) < len(pairs)
    if "augment" in made and p.augment.generator_sees != SUBSET and is_smaller:
        knew = ["the generator", *(["pasting"] if p.inpaint.baselines else []),
                *(["the filter"] if p.filter.folds else [])]
        told = " and ".join(filter(None, [", ".join(knew[:-1]), knew[-1]]))
        whole = p.augment.sizes and pairs and max(p.augment.sizes) >= len(pairs)
        but = " (but for the set of all of them)" if whole else ""
        yield (f"In small sets (chapter 7) {told} drew on all pairs of the run, more than a user with so "
               f"few pairs has{but} (`augment.generator_sees: subset`).")
    if has_networks:
        yield from _of_turning(p)
    if "inpaint" in made:
        yield from _of_places(p)
    if has_networks:
        yield from _of_networks(p, seeds, tests)
        yield from _of_gains(p, seeds["augment"] if tests and tests.own else min(seeds.values()), tests)
    random = [name for name, section, chapters in (
        ("clusters", p.cluster, {"cluster"}), ("distances", p.evaluate, {"evaluate"}),
        ("segmentation", p.segment, {"segment", "augment"}), ("styling", p.style, {"style"}))
              if section.weights == weights.RANDOM and chapters & set(made)]
    if random:
        yield (f"Networks with random weights were used for {', '.join(random)}; with pretrained ones "
               "results may differ.")
    kept = "Synthetic pairs keep their sources' surroundings or restyle them: they are not anonymous. "
    yield f"{kept if 'inpaint' in made else ''}Nothing here is for clinical use."


def _of_turning(p: Params) -> Iterator[str]:
    """That new objects are turned where those of real pairs are not, or less."""
    turn = p.inpaint.turn
    if (turned := _turned(p)) and turn and not (p.segment.augment and p.segment.rotate >= turn):
        real = ("not augmented (`segment.augment: false`)" if not p.segment.augment else
                f"turned by up to {p.segment.rotate:g} degrees" if p.segment.rotate else
                "augmented as in the paper by mirroring, shifts and scale, without any rotation")
        mend = f" (`segment.rotate: {turn:g}` turns all training images)" if p.segment.augment else ""
        angle = "any angle" if turn == masks.ANY else f"up to {turn:g} degrees"
        yield (f"{turned} objects are turned by {angle}, and real pairs are {real}: a gain over Real may "
               f"be no more than turned real pairs would give{mend}.")


def _of_places(p: Params) -> Iterator[str]:
    """That objects of some classes are placed without regard to the others, where they need not be."""
    painted = p.inpaint.classes or ()
    can_be_within = set(painted) < set(p.data.classes) and not p.inpaint.backgrounds
    if painted and can_be_within and p.inpaint.masks == VARIED and not p.inpaint.within:
        yield (f"Painted regions of {', '.join(map(escaped, painted))} are placed wherever tissue is seen, "
               "also outside the organ that they belong to, and where an old one is gone the mask has "
               "background (`inpaint.within`).")


def _grouped(p: Params, pairs: Pairs | None) -> bool:
    """Whether it is known which of the run's pairs belong together: by patients, volumes or the layout."""
    return p.data.patients is not None or (pairs is not None and bool(patients.together(pairs.file)))


def _turned(p: Params) -> str:
    """The kinds of objects that are turned before they are put into a picture; "" where none are."""
    turned = {"painted": p.inpaint.masks == VARIED, "pasted": bool(p.inpaint.baselines)}
    return " and ".join(word for word, true in turned.items() if true).capitalize()


def _of_gains(p: Params, seeds: int, tests: Tests | None) -> Iterator[str]:
    """The smallest gain that can be told from chance, as `diffusegen new` says it before a run."""
    generators = power.generators_of(seeds, p.generators, p.augment.generator_sees)
    measure = captioned(p) if len(p.data.classes) > 1 else "Dice"
    if tests and (limit := power.limit(seeds, tests.images, generators, tests.together, tests.own, measure)):
        yield limit
    for called, images, own in tests.classes if tests else ():
        yield power.limit(seeds, images, generators, own=own, measure=f"Dice of {escaped(called)}",
                          of=" that show it")


def _visible(p: Params, seeds: Mapping[str, int], tests: Tests) -> float:
    """The least gain in Dice that the run can tell from chance."""
    fewest = min(seeds.values())
    return tests.own.gain if tests.own else power.visible(
        fewest, tests.images, power.generators_of(fewest, p.generators, p.augment.generator_sees))


def _of_networks(p: Params, seeds: Mapping[str, int], tests: Tests | None) -> Iterator[str]:
    """What the segmentation networks cannot say; `seeds` is their number in each chapter."""
    fewest = min(seeds.values())
    some = [f"chapter {NUMBERS[name]}" for name, count in seeds.items() if count == fewest]
    networks = f"The segmentation networks{'' if len(some) == len(seeds) else f' of {some[0]}'}"
    if fewest < LEAST_SEEDS:
        yield (f"{networks} were trained with {counted(fewest, 'seed')}, and a "
               f"verdict needs {LEAST_SEEDS} (`segment.seeds`, `augment.seeds`).")
    elif fewest < 2 * LEAST_SEEDS - 1 and not tests:  # else the limit of gains says how many it takes
        yield f"{networks} were trained with {fewest} seeds: too few to detect small gains."
    if tests and tests.alone and tests.alone.dice < WEAK:
        dice, pairs, called = tests.alone
        what = f"Dice of {escaped(called)} on the test images that show it" if called else (
            f"{captioned(p)} on the test images")
        yield (f"The networks that judge the pairs are weak: trained on {pairs:.0f} real pairs alone (other "
               f"ones chose the epoch), for {p.segment.epochs} epochs, they reach {dice:.2f} in {what}. What "
               "helps or harms such networks need not help or harm better ones.")
    if tests and tests.alone and tests.alone.dice >= WEAK and (
            1 - tests.alone.dice < ROOM * _visible(p, seeds, tests)):
        yield (f"Trained on real pairs alone, networks reach {tests.alone.dice:.2f} already: there is little "
               "room for a gain that this run could tell from chance.")
    if tests and tests.unseen is not None and tests.unseen < WEAK:
        yield (f"The filter's networks are weak: on real pairs that they have not seen, they reach "
               f"{tests.unseen:.2f} in {captioned(p)}. Where they find nothing at the mask of a painted "
               "pair, the fault may be theirs.")
    if tests and 0 < tests.groups < power.FEW_GROUPS:
        yield (f"The {tests.images} test images are of {counted(tests.groups, tests.together)}: intervals "
               "for others are wide.")
    if p.segment.held_out == "rest" and p.segment.test_count and p.segment.test_count < LEAST_IMAGES:
        yield f"The test set has {p.segment.test_count} images, and a verdict needs {LEAST_IMAGES}."
    if not p.segment.cvc and not p.segment.polypgen:
        others = " (`segment.cvc`, `segment.polypgen`)" if p.data.object_name == POLYP else ""
        yield f"There is one data set: how results differ on images from elsewhere is not known{others}."
    else:
        yield ("Frames of one video are alike. On CVC-ClinicDB and PolypGen whole sequences and centres are "
               "resampled, of which there are few; where image names do not identify them, images are "
               "treated as independent, and intervals are too narrow.")
