"""What to do, in a sentence above the front page's answers: derived by rule from chapter 7's comparisons.

It is about the largest set of real pairs, which is all of them if `augment.sizes` has their number. Pasted
and painted pairs are each compared with the real ones alone, and with each other. The painted pairs are of
the type that the claims are about. Others come after it, with a warning: the best of several types would have
been selected on the test images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from diffusegen_core.config.params import Params
from diffusegen_core.data.types import PASTE, PASTED, REAL, DataType
from diffusegen_core.measures import overlap
from diffusegen_core.report import claims, comparisons, naming
from diffusegen_core.report.comparisons import Comparison, Net
from diffusegen_core.report.naming import captioned, named, sentence
from diffusegen_core.report.paperclaims import Claim
from diffusegen_core.report.rule import NO_EFFECT, REFUTED, SUPPORTED, THESE_PAIRS, TOO_LITTLE, Verdict, needs
from diffusegen_core.report.segment_tables import with_interval
from diffusegen_core.report.tables import escaped
from diffusegen_core.run import Run
from diffusegen_core.segmentation.trials import Tested

HELP = Claim("Such pairs help", "not in the paper", chapter="augment", clusters=())


@dataclass(frozen=True)
class Asked:
    """The comparisons on one set of real pairs; None where nothing of the kind was tried."""

    pasting: Comparison | None = None
    """Real pairs with pasted ones, by `augment.rule`, against the real ones alone."""
    painting: Comparison | None = None
    """The same with painted ones."""
    better: Comparison | None = None
    """Real pairs with painted ones against real pairs with pasted ones."""
    painted: DataType | None = None
    """The type of these painted ones."""
    others: tuple[tuple[DataType, Comparison], ...] = ()
    """Further painted types, each against the real pairs alone."""


@dataclass(frozen=True)
class Findings:
    """The verdicts on the comparisons of `Asked`."""

    pasting: Verdict | None = None
    painting: Verdict | None = None
    better: Verdict | None = None
    painted: DataType | None = None
    others: tuple[tuple[DataType, Verdict], ...] = ()


def of(run: Run) -> str:
    """The sentence for a run whose chapter 7 is finished, as MyST; "" for others, or if nothing was tried."""
    result, pairs = run.finished("augment"), run.finished("data")
    if result is None or pairs is None or not comparable(result):
        return ""
    size = int(result.images["size"].max())
    return words(findings(result, size, run.params), size, len(pairs), run.params)


def comparable(result: Tested) -> bool:
    """Whether chapter 7 is finished and `tested`."""
    return result.complete and tested(result)


def tested(result: Tested) -> bool:
    """Whether there are tests on images of the data's own kind, not of other hospitals only."""
    return len(result.images) > 0 and claims.own_test(result.images) in set(result.images["test_set"])


def asked(result: Tested, size: int) -> Asked:
    """What is compared for a set of `size` real pairs, on the test set of the data's own kind."""
    nets = [net for net in comparisons.nets_of(result.images) if net.size == size]
    kinds = {DataType.parse(net.data_type): None for net in nets}
    painted = [kind for kind in kinds if kind.is_painted]
    painted.sort(key=lambda kind: (kind not in comparisons.styled(nets), kind.is_filtered))

    def compared(first: DataType, second: DataType) -> Comparison | None:
        return _compared(result, size, first, second)

    pasted = next((kind for kind in PASTED if kind in kinds), PASTE)
    if not painted:
        return Asked(compared(pasted, REAL))
    first, *others = painted
    more = ((kind, compared(kind, REAL)) for kind in others)
    return Asked(compared(pasted, REAL), compared(first, REAL), compared(first, pasted), first,
                 tuple((kind, one) for kind, one in more if one))


def _compared(result: Tested, size: int, first: DataType, second: DataType) -> Comparison | None:
    """Two types for a set of `size` real pairs, at the largest r that both have; None where one is absent."""
    nets = [net for net in comparisons.nets_of(result.images) if net.size == size]
    ratios = [{net.ratio for net in nets if net.data_type == kind.name and net.ratio}
              for kind in (first, second) if kind != REAL]
    shared = set.intersection(*ratios)
    if not shared or second.name not in {net.data_type for net in nets}:
        return None
    one, other = (Net("augment", kind.name, None, size, None if kind == REAL else max(shared))
                  for kind in (first, second))
    return Comparison(HELP, one, other, claims.own_test(result.images))


def gain(run: Run, result: Tested, kind: DataType, images: pd.DataFrame | None = None,
         measure: str = HELP.measure) -> tuple[int, str] | None:
    """How much pairs of a type add to the largest set of real pairs: its size, and the gain in Dice with its
    verdict, as MyST, from these rows of the result's images, by one of their columns; None where that was not
    tried."""
    if not comparable(result):
        return None
    size = int(result.images["size"].max())
    if (one := _compared(result, size, kind, REAL)) is None:
        return None
    asked_of = replace(one, claim=replace(HELP, measure=measure))
    verdict = judged(result, result.images if images is None else images, asked_of, run.params)
    return size, f"{_numbers(verdict, run.params)}: {verdict.words}"


def findings(result: Tested, size: int, p: Params, images: pd.DataFrame | None = None,
             measure: str = HELP.measure) -> Findings:
    """The verdicts on what is `asked`, from these rows of the result's images, by one of their columns."""
    rows = result.images if images is None else images

    def verdict(one: Comparison | None) -> Verdict | None:
        return judged(result, rows, replace(one, claim=replace(HELP, measure=measure)), p) if one else None

    one = asked(result, size)
    others = ((kind, verdict(each)) for kind, each in one.others)
    return Findings(verdict(one.pasting), verdict(one.painting), verdict(one.better), one.painted,
                    tuple((kind, each) for kind, each in others if each))


def judged(result: Tested, images: pd.DataFrame, one: Comparison, p: Params) -> Verdict:
    """The verdict on a comparison of a run's chapter 7, from these rows of its `images`."""
    groups = {test.name: test.groups for test in result.tests}
    return claims.judged([one], images, p.segment.resamples, p.seed, groups, p.augment)[0]


def words(one: Findings, size: int, pairs: int, p: Params) -> str:
    """The sentence on a set of `size` of a run's `pairs`, and what it leaves out, as MyST."""
    tried = [verdict for verdict in (one.pasting, one.painting, *dict(one.others).values()) if verdict]
    if not tried:
        return ""
    if all(verdict.verdict == TOO_LITTLE for verdict in tried):
        return f"**{sentence(advice(one, p))}.**"
    where = (f"On these data (all {pairs} real training pairs)" if size >= pairs else
             f"With {size} of the {pairs} real pairs")
    return " ".join([f"**{where}: {advice(one, p)}.**", *_limits(one, size, pairs, p)])


def advice(one: Findings, p: Params) -> str:
    """What helps, and what was not shown to, as MyST; of what was tried, which is something."""
    tried = [verdict for verdict in (one.pasting, one.painting, *dict(one.others).values()) if verdict]
    if all(verdict.verdict == TOO_LITTLE for verdict in tried):
        return f"too little data to say what helps: {needs(tried[0])}"
    kind = f"painting ({one.painted})" if one.others else "painting"
    if _is(one.better, SUPPORTED) and (_is(one.painting, SUPPORTED) or _is(one.pasting, SUPPORTED)):
        return (f"painted pairs help more than pasting ({_numbers(one.painting, p)} against the real pairs "
                f"alone, {_numbers(one.better, p)} against pasting)")
    if _is(one.pasting, SUPPORTED):
        beside = (f"{kind} was not tried" if one.painting is None else
                  f"{kind} did worse" if _is(one.better, REFUTED) else
                  f"{kind} does no better" if _is(one.better, NO_EFFECT) else
                  f"{kind} was not shown to do better")
        return f"pasting helps ({_numbers(one.pasting, p)}) and costs next to nothing; {beside}"
    if _is(one.painting, SUPPORTED):
        beside = ("pasting was not tried" if one.pasting is None else
                  "it did worse than pasting" if _is(one.better, REFUTED) else
                  "it does no better than pasting, which costs next to nothing" if _is(one.better, NO_EFFECT)
                  else "it was not shown to do better than pasting, which costs next to nothing")
        return f"{kind} helps ({_numbers(one.painting, p)}); {beside}"
    others = {f"painting ({other})": verdict for other, verdict in one.others}
    names = {"pasting": one.pasting, kind: one.painting, **others}
    judged_by_name = {name: verdict for name, verdict in names.items() if verdict}
    helping = [f"{name} helps ({_numbers(verdict, p)})" for name, verdict in judged_by_name.items()
               if verdict.verdict == SUPPORTED]
    vain = [str(kind) for kind, verdict in ((one.painted, one.painting), *one.others)
            if verdict and verdict.verdict != SUPPORTED]
    failed = [*(["pasting"] if one.pasting and not _is(one.pasting, SUPPORTED) else []),
              *([f"painting ({', '.join(vain)})" if one.others else "painting"] if vain else [])]
    none = f"neither {' nor '.join(failed)} was" if len(failed) > 1 else f"{failed[0]} was not"
    harm = [f"{name} did harm ({_numbers(verdict, p)})" for name, verdict in judged_by_name.items()
            if verdict.verdict == REFUTED]
    return "; ".join([*(helping or ["train on the real pairs alone"]), f"{none} shown to help", *harm])


def _limits(one: Findings, size: int, pairs: int, p: Params) -> Iterator[str]:
    """What the advice leaves out, a sentence each."""
    if not _is(one.painting, SUPPORTED) and any(_is(verdict, SUPPORTED) for _, verdict in one.others):
        helping = [named(kind) for kind, verdict in one.others if verdict.verdict == SUPPORTED]
        if _is(one.pasting, SUPPORTED):
            yield f"{sentence(' and '.join(helping))} were shown to help."
        yield "Of several kinds of painted pairs that were tried, one may seem to help by chance."
    if any(verdict.scope == THESE_PAIRS for verdict in (one.painting, one.better, *dict(one.others).values())
           if verdict and verdict.verdict in (SUPPORTED, REFUTED, NO_EFFECT)):
        yield "Pairs from another training of the generator might do otherwise."
    if p.augment.rule == "replace":
        yield (f"In these sets {naming.mixing(p.augment)}; adding them to all of these was "
               "not tried (`augment.rule: add`).")
    if size < pairs:
        yield f"Training with all {pairs} was not tried (`augment.sizes`)."


def _is(verdict: Verdict | None, word: str) -> bool:
    return verdict is not None and verdict.verdict == word


def _numbers(verdict: Verdict | None, p: Params) -> str:
    """As "+0.040 [+0.020, +0.060] in nodule Dice", as MyST."""
    assert verdict is not None, "what is told has been compared"
    numbers = with_interval(verdict.difference, verdict.low, verdict.high, HELP.digits)
    columns = dict(zip(overlap.of_classes(len(p.data.classes)), p.data.classes, strict=False))
    called = columns.get(verdict.claim.measure)
    return f"{escaped(numbers)} in {f'{escaped(called)} Dice' if called else captioned(p)}"
