"""Which gains chapter 7 can find, judging by the spread of its own results."""

from math import ceil, isnan

import pandas as pd

from diffusegen_core.data.types import DataType
from diffusegen_core.measures import intervals, power
from diffusegen_core.report import claims, recommendation
from diffusegen_core.report.rule import LEAST_GENERATORS
from diffusegen_core.report.segment_details import gains
from diffusegen_core.report.segment_tables import plain
from diffusegen_core.report.tables import Table, show
from diffusegen_core.segmentation.trials import Tested

NOT_KNOWN = "not known"


def seeds_needed(result: Tested, name: str) -> Table:
    """How many seeds a gain of `power.GAIN` would need, test set by test set; for pairs by several
    generators, how many generators, as a verdict then rests on their means."""
    tried = [(key, gain, *intervals.independent(gain, owners), owners)
             for key, gain, owners in gains(result.images)]
    several = any(generators > 1 for *_, generators, _ in tried)
    rows = []
    for key, gain, each, seeds, generators, owners in tried:
        spread, cautious = power.deviation(each)
        of_images = power.Error(*intervals.of_images(gain, result.groups_of(key[-1]), owners))
        unit = ("generators" if generators > 1 else "seeds") if several else ""
        rows.append([*key, seeds, *([str(generators or "")] if several else []), spread, of_images.error,
                     *(_count(of_images, one, unit, gain.shape[1]) for one in (spread, cautious))])
    what = "needed" if several else "seeds needed"
    frame = pd.DataFrame(rows, columns=["size", "data_type", "ratio", "test_set", "seeds",
                                        *(["generators"] if several else []), "deviation",
                                        "error by test images", what, f"{what}, cautiously"])
    test = (f"with a power of {power.POWER:.0%}, by the interval of a verdict, which covers the choice of "
            "test images as well (their standard error is in the table)")
    limit = ("Cautiously: from the upper limit of that deviation, below which the true one lies with a "
             f"probability of {power.CAUTION:.0%}. Where a number of images is given, this run's own cannot "
             "show such a gain, however often training is repeated, and so many like them can; where several "
             "are of one patient or sequence, there must be as many times more of these.")
    if several:
        text = (f"How many generators would find a gain of {power.GAIN:+} in Dice over Real {test}. From "
                "the standard deviation of the means of this run's generators, with as many seeds of each as "
                "here; for types that no generator made, how many seeds, from the deviation of these. "
                f"{limit} A verdict on the method needs at least {LEAST_GENERATORS} generators.")
    else:
        text = (f"How many seeds would find a gain of {power.GAIN:+} in Dice over Real {test}. From the "
                f"standard deviation of the seeds' gains in this run. {limit} One seed has no deviation, "
                "so nothing can be said.")
    digits = {"deviation": ".4f", "error by test images": ".4f"}
    return show(plain(frame), name, text.replace("%", " %"), digits)


def own(result: Tested, images: pd.DataFrame | None = None, measure: str = "dice") -> power.Own | None:
    """What the spread of the run's own results, these rows of its images and one of their columns, says about
    its verdict on painted pairs beside the largest set of real ones, or on pasted ones where none were
    painted. None where nothing of the kind was tried, or with one seed."""
    size, test_set = int(result.images["size"].max()), claims.own_test(result.images)
    asked = recommendation.asked(result, size)
    if (main := asked.painting or asked.pasting) is None:
        return None
    wanted = size, DataType.parse(main.first.data_type).name, main.first.ratio, test_set
    for key, gain, owners in gains(result.images if images is None else images, measure):
        if key == wanted:
            each, *_ = intervals.independent(gain, owners)
            spread, cautious = power.deviation(each)
            of_images = power.Error(*intervals.of_images(gain, result.groups_of(test_set), owners))
            known = len(each) > 1 and not isnan(of_images.error)
            return power.Own(power.smallest(of_images, spread, len(each)), len(each),
                             *power.plan(of_images, cautious)) if known else None
    return None


def _count(of_images: power.Error, spread: float, unit: str, images: int) -> str:
    """As "12 seeds", or "33 with 78 images" where the present `images` are too few."""
    if pd.isna(spread) or pd.isna(of_images.error):
        return NOT_KNOWN
    times, needed = power.plan(of_images, spread)
    count = f"{f'more than {power.MOST}' if needed is None else needed} {unit}".strip()
    return f"{count} with {ceil(times * images)} images" if times > 1 else count
