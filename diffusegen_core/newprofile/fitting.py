"""The second part of `diffusegen new`: the largest run that fits into the time, and the next larger one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import duration
from diffusegen_core.measures.power import LEAST_SEEDS
from diffusegen_core.newprofile.ladder import Rung
from diffusegen_core.newprofile.lines import Sections
from diffusegen_core.planning import plan
from diffusegen_core.planning.plan import Plan

BESIDE = 180.0  # seconds of a run that no plan counts: starting notebooks, tables, figures, the book
PROBED = 12.0  # seconds of a probe
HOPELESS = 3.0  # times the limit; a run foreseen to take longer is not probed
MOST_MINUTES = 10_000.0  # that a user may ask for
WORTH = 1.25  # the least factor by which more training images than the rung's are worth the time
SPARE = 0.9  # share of the time left that more training may take, as no plan is exact
GENERATORS = 3  # that a verdict on the method needs
REPETITIONS = 8, 5  # instead of fewer, where there is time: intervals become narrower
TRAINING = "training"  # the kind of work in a plan
GROWING = {  # what a larger run may have more of, in words
    ("data", "image_size"): "images of {} px", ("model", "base_channels"): "networks of {} channels",
    ("train", "images"): "{} training images a model", ("inpaint", "sources"): "{} pairs to paint into",
    ("inpaint", "samples"): "{} new pairs from each", ("segment", "epochs"): "{} epochs a network",
    ("segment", "seeds"): "{} repetitions"}


@dataclass(frozen=True)
class Fit:
    """The chosen size of run."""

    rung: Rung
    chosen: Sections
    plan: Plan
    following: tuple[Rung, Sections, float] | None = None
    """The next larger size, what it would choose, and its seconds; None where there is none."""
    repeated: float = math.nan
    """Seconds of the same run with the repetitions that a verdict needs; nan where unknown."""

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, the book included; nan where memory did not suffice for part of it."""
        return seconds(self.plan) + BESIDE

    @property
    def larger(self) -> str:
        """What the next larger size has more of than this run, and its time; "" where there is none."""
        if self.following is None:
            return ""
        rung, chosen, needed = self.following
        more = [words.format(value) for (section, name), words in GROWING.items()
                if (value := chosen[section][name].value) > self.chosen[section][name].value]
        run = f"The next larger run, with {', '.join(more)} ({rung.origin}),"
        if not more:
            return ""
        if not math.isfinite(needed):
            return f"{run} does not fit into the memory here."
        minutes = math.ceil(needed / 60 / 10) * 10
        told = f"{run} would take about {duration(needed)}"
        return f"{told}: --minutes {minutes}." if minutes <= MOST_MINUTES else f"{told} here: try a GPU."


def fit(rungs: Sequence[Rung], limit: float, sections: Callable[[Rung], Sections],
        validated: Callable[[Sections], Params], most_images: Callable[[Rung], int]) -> Fit:
    """The largest of ascending sizes of run that is planned to take at most `limit` seconds, or the smallest.
    UserError where not even that fits into the memory.

    The time left goes into the repetitions that a verdict needs, then into painting into all pairs, so that
    chapter 7 can try them all, then into three generators, then into more training, up to `most_images` per
    model, and then into more repetitions.
    """
    best: Fit | None = None
    for rung in rungs:
        chosen = sections(rung)
        p = validated(chosen)
        if best and (foreseen := seconds(at_rates(best.plan, plan.make(p, 0)))) > HOPELESS * limit:
            best = replace(best, following=(rung, chosen, foreseen + BESIDE))
            break
        planned = plan.make(p, PROBED)
        if best and not seconds(planned) + BESIDE <= limit:
            best = replace(best, following=(rung, chosen, seconds(planned) + BESIDE))
            break
        best = Fit(rung, chosen, planned)
    assert best is not None, "there is always a smallest"
    if not math.isfinite(seconds(best.plan)):
        side = best.chosen["data"]["image_size"].value
        raise UserError(f"Even the smallest run, with images of {side} px, does not fit into the memory that "
                        "is free here. End other programs, ask for less with -p, or choose another --device.")
    best = _filled(best, limit, sections, validated)
    best = _trained(best, limit, sections, validated, most_images(best.rung))
    return _repeated(best, limit, sections, validated)


def _filled(best: Fit, limit: float, sections: Callable[[Rung], Sections],
            validated: Callable[[Sections], Params]) -> Fit:
    """The same size with the repetitions of a verdict, all pairs and three generators, as far as they fit."""
    wanted = ({"seeds": max(best.rung.seeds, LEAST_SEEDS)}, {"sources": None}, {"generators": GENERATORS})
    for more in wanted:
        rung = replace(best.rung, **more)
        if rung == best.rung:
            continue
        chosen = sections(rung)
        planned = at_rates(best.plan, plan.make(validated(chosen), 0))
        if seconds(planned) + BESIDE <= limit:  # which may be nan
            best = replace(best, rung=rung, chosen=chosen, plan=planned)
        elif "seeds" in more:
            best = replace(best, repeated=seconds(planned) + BESIDE)
            break  # without a verdict, neither more pairs nor several generators are of use
    return best


def _trained(best: Fit, limit: float, sections: Callable[[Rung], Sections],
             validated: Callable[[Sections], Params], most_images: int) -> Fit:
    """The same with as many training images as there is time for."""
    training = float(best.plan.table.loc[best.plan.table["kind"] == TRAINING, "seconds"].sum(skipna=False))
    left = limit - best.seconds
    if not (training > 0 and left > 0):
        return best
    images = math.floor(min(most_images, best.rung.images * (1 + SPARE * left / training)) / 100) * 100
    if images < WORTH * best.rung.images:
        return best
    longer = replace(best.rung, images=images)
    chosen = sections(longer)
    return replace(best, rung=longer, chosen=chosen,
                   plan=at_rates(best.plan, plan.make(validated(chosen), 0)))


def _repeated(best: Fit, limit: float, sections: Callable[[Rung], Sections],
              validated: Callable[[Sections], Params]) -> Fit:
    """The same with more repetitions, where these are of one generator: of several, they are the generators'
    and no more independent ones."""
    p = validated(best.chosen)
    fewest = min(p.segment.seeds, p.augment.seeds)
    if fewest < LEAST_SEEDS or p.generators > 1:
        return best
    for count in REPETITIONS:
        rung = replace(best.rung, seeds=max(count, best.rung.seeds))
        chosen = sections(rung)
        more = validated(chosen)
        if min(more.segment.seeds, more.augment.seeds) <= fewest:
            continue  # the user has set them
        planned = at_rates(best.plan, plan.make(more, 0))
        if seconds(planned) + BESIDE <= limit:  # which may be nan
            return replace(best, rung=rung, chosen=chosen, plan=planned)
    return best


def at_rates(probed: Plan, other: Plan) -> Plan:
    """Another plan for the same device, with times from the rates of a probed one."""
    sums = probed.table.groupby("kind")[["seconds", "flop"]].sum(min_count=1)
    each = sums["seconds"] / sums["flop"].where(sums["flop"] > 0)
    table = other.table.assign(seconds=(other.table["flop"] * other.table["kind"].map(each)).where(
        other.table["flop"] > 0, 0.0))
    return replace(other, table=table, rates=probed.rates, device=probed.device, beside=probed.beside,
                   busy=probed.busy)


def seconds(planned: Plan) -> float:
    """Seconds of all planned work; nan where memory did not suffice for part of it, or a rate is unknown."""
    return float(planned.table["seconds"].sum(skipna=False))
