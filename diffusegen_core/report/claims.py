"""The verdicts on the paper's claims and a sceptic's, computed from a run's own results, never by hand.

A comparison of networks is of two data types on one test set: the difference in Dice or IoU, with its
95 % interval, over the seeds and images that both have. Each is judged on its own, by `rule`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import pandas as pd

from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config.sections import Augment
from diffusegen_core.data.sequences import Grouped
from diffusegen_core.data.types import GAN, PASTE, DataType
from diffusegen_core.measures import intervals
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report import comparisons, otherclaims, paperclaims
from diffusegen_core.report.comparisons import PAPERS_OWN, TRANSFERS, Comparison, Net
from diffusegen_core.report.paperclaims import PASTING, Claim
from diffusegen_core.report.rule import (
    LEARNED,
    LEAST_GENERATORS,
    NOT_MADE,
    THESE_PAIRS,
    THESE_PASTED,
    TOO_LITTLE,
    Verdict,
    decide,
    joined,
)
from diffusegen_core.run import GRIDS, Run
from diffusegen_core.segmentation.experiments import FIELDS, IMAGE

AMOUNTS = {"segment": "samples", "augment": "size"}  # the number of pairs at which networks are compared
NO_GROUPS: Mapping[str, Grouped | None] = MappingProxyType({})
USUAL = Augment()
ORDER = [one for one in vars(paperclaims).values() if isinstance(one, Claim)]


def of(run: Run) -> list[Verdict]:
    """The verdicts on a run, by claim, from its chapters' results so far; nothing is made."""
    grids = {chapter: run.finished(chapter) for chapter in GRIDS}
    unfinished = [chapter for chapter, grid in grids.items() if grid is None or not grid.complete]
    groups = {test.name: test.groups for grid in grids.values() if grid for test in grid.tests}
    frames = [grid.images for grid in grids.values() if grid is not None and len(grid.images)]
    images = pd.concat(frames) if frames else pd.DataFrame(columns=[*FIELDS, *IMAGE])
    p = run.params
    verdicts = judge(images, p.segment.resamples, p.seed, groups, unfinished, p.augment)
    return ordered([*verdicts, *otherclaims.of(run)])


def ordered(verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts in the order of the claims; those on one claim keep their order."""
    return sorted(verdicts, key=lambda verdict: ORDER.index(verdict.claim))


def judge(images: pd.DataFrame, resamples: int, seed: int, groups: Mapping[str, Grouped | None] = NO_GROUPS,
          unfinished: Collection[str] = (), how: Augment = USUAL) -> list[Verdict]:
    """The verdict on every comparison of networks, from `Results.images` of chapter 6, chapter 7, or both.

    The paper's claims are compared as in `comparisons`, for every cluster count in the results. Two claims
    are not the paper's: one compares, in both chapters, the styled types with Paste, wherever both have the
    same numbers of pairs; the other, where there is a filter, what it keeps with all pairs. Where there is
    nothing to compare, one verdict says what is missing. `groups` maps a test set to the groups of its
    images, `unfinished` names the chapters that have still to be run, and `how` says how small sets were
    made, for the comparisons in words.
    """
    own, there, nets = own_test(images), set(images["test_set"]), comparisons.nets_of(images)
    asked = [*comparisons.among(nets, own, there), *pasting(images, nets, own)]
    verdicts = judged(asked, images, resamples, seed, groups, how)
    for chapter in unfinished:
        verdicts = [_unfinished(verdict, chapter, images) for verdict in verdicts]
    return verdicts


def judged(asked: Iterable[Comparison], images: pd.DataFrame, resamples: int, seed: int,
           groups: Mapping[str, Grouped | None] = NO_GROUPS, how: Augment = USUAL) -> list[Verdict]:
    """The verdict on each comparison of networks, with its numbers."""
    return [_judged(one, images, resamples, seed, groups.get(one.test_set), how) for one in asked]


def overall(verdicts: list[Verdict]) -> dict[Claim, str]:
    """One verdict per claim, by `rule.SEVERAL`."""
    return {claim: joined({v.verdict for v in verdicts if v.claim == claim})
            for claim in dict.fromkeys(v.claim for v in verdicts)}


def own_test(images: pd.DataFrame) -> str:
    """The test set of the training data's own kind, whatever this run calls it."""
    return next((name for name in images["test_set"].unique() if name not in TRANSFERS), PAPERS_OWN)


def pasting(images: pd.DataFrame, nets: Sequence[Net], test_set: str) -> Iterator[Comparison]:
    """The styled types against Paste, wherever both have the same numbers of pairs.

    Not the best of all painted types, which would have been selected on the test images.
    """
    rows = images[images["test_set"] == test_set]
    pasted = rows[rows["data_type"] == PASTE.name]
    for one in comparisons.styled(nets):
        mine = rows[rows["data_type"] == one.name]
        alike = list(_alike(mine, pasted))
        for net in alike:
            yield Comparison(PASTING, net._replace(data_type=one.name), net, test_set)
        if not alike:
            absent = [name for name, arm in ((one.name, mine), (PASTE.name, pasted)) if arm.empty]
            lacking = f"The results have no {' and no '.join(absent) or 'numbers of pairs that both have'}."
            yield Comparison(PASTING, Net("segment", one.name), Net("segment", PASTE.name), test_set,
                             lacking=lacking)


def _alike(painted: pd.DataFrame, pasted: pd.DataFrame) -> Iterator[Net]:
    """The networks of Paste that can be compared: those with numbers of pairs that the painted type has as
    well; for a small set, the one with the largest r that both have."""
    for chapter, amount in AMOUNTS.items():
        arms = [arm[arm["chapter"] == chapter] for arm in (painted, pasted)]
        for n in sorted(set.intersection(*(set(arm[amount].dropna()) for arm in arms))):
            if chapter == "segment":
                yield Net(chapter, PASTE.name, int(n))
            elif ratios := set.intersection(*(set(arm.loc[arm[amount] == n, "ratio"].dropna())
                                              for arm in arms)):
                yield Net(chapter, PASTE.name, None, int(n), int(max(ratios)))


def _unfinished(verdict: Verdict, chapter: str, images: pd.DataFrame) -> Verdict:
    """The verdict; one that rests on this unfinished chapter says to run it, and is NOT_MADE if it has no
    results."""
    if chapter != verdict.chapter:
        return verdict
    if not (images["chapter"] == chapter).any():
        return replace(verdict, verdict=NOT_MADE, reason=f"Run chapter {NUMBERS[chapter]}.")
    return replace(verdict, reason=f"{verdict.reason} Some results are not made yet: run chapter "
                                   f"{NUMBERS[chapter]}.")


def _judged(one: Comparison, images: pd.DataFrame, resamples: int, seed: int,
            groups: Grouped | None, how: Augment) -> Verdict:
    """The verdict on a comparison, with its numbers."""
    measure = one.claim.measure
    asked = Verdict(one.claim, one.text, one.test_set, comparisons.in_paper(one), chapter=one.first.chapter,
                    reason=one.lacking)
    if one.lacking:
        return asked
    if one.test_set not in set(images["test_set"]):
        return replace(asked, reason=f"The results have no test set {one.test_set}.")
    arms = [_rows(images, net, one.test_set) for net in one.nets]
    absent = [net.label for net, arm in zip(one.nets, arms, strict=True) if arm.empty]
    if absent:
        return replace(asked, reason=f"The results have no {' and no '.join(absent)}.")
    arms, failed = _learned(arms, measure)
    means = intervals.means(arms[0], arms[1], measure)
    first, second = (arms if one.larger is None else
                     [_gains(*two, measure) for two in ((arms[0], arms[1]), (arms[2], arms[3]))])
    gain = intervals.paired(first, second, measure, resamples, seed, groups.of if groups else None)
    verdict, reason = decide(gain, max(means), one.claim.helps, failed)
    scope = "" if verdict == TOO_LITTLE else _scope(one, gain, how)
    return replace(asked, means=means, difference=gain.mean, low=gain.low, high=gain.high, images=gain.images,
                   seeds=gain.seeds, generators=gain.generators, verdict=verdict, reason=reason, scope=scope,
                   in_words=one.in_words(how))


def _learned(arms: list[pd.DataFrame], measure: str) -> tuple[list[pd.DataFrame], int]:
    """The rows without the seeds at which both networks of a pair fail, and the number of these seeds; all
    rows, and 0, where that leaves none."""
    best = pd.concat([intervals.better(first, second, measure)
                      for first, second in zip(arms[::2], arms[1::2], strict=True)], axis=1).min(axis=1)
    failed = best.index[best < LEARNED]
    if len(failed) == len(best):
        return arms, 0
    return [arm[~arm["seed"].isin(failed)] for arm in arms], len(failed)


def _scope(one: Comparison, gain: Interval, how: Augment) -> str:
    """What a verdict is limited to, given how the compared pairs were made. Where each small set has its own
    generator, it has its own pasted pairs as well."""
    kinds = [DataType.parse(net.data_type) for net in one.nets]
    if any(kind.is_painted or kind == GAN for kind in kinds) and gain.generators < LEAST_GENERATORS:
        return THESE_PAIRS
    once = one.first.chapter != "augment" or how.generator_sees == "all"
    return THESE_PASTED if once and any(kind.is_pasted for kind in kinds) else ""


def _rows(images: pd.DataFrame, net: Net, test_set: str) -> pd.DataFrame:
    """The rows of one kind of network on a test set."""
    chosen = images["test_set"] == test_set
    for name, value in net._asdict().items():
        chosen &= images[name].isna() if value is None else (images[name] == value).fillna(False).astype(bool)
    return images[chosen]


def _gains(first: pd.DataFrame, second: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of `first`, with its gain over `second` in place of the measure."""
    both = first.merge(second[["seed", "image", measure]], on=["seed", "image"], suffixes=("", "_second"))
    return both.assign(**{measure: both[measure] - both[f"{measure}_second"]})
