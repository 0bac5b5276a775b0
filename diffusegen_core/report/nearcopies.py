"""What the audit of chapter 5 flags as near-copies, and which copies it may miss."""

from collections.abc import Collection
from math import isnan, nan

import pandas as pd

from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.config.params import Params
from diffusegen_core.data.types import VARIED, DataType
from diffusegen_core.measures import shares
from diffusegen_core.measures.planted import ZOOMED
from diffusegen_core.report.naming import named

UNFOUND = "copies that were moved, turned or scaled may be missed"


def hides_copies(p: Params, kinds: Collection[DataType]) -> bool:
    """Whether pairs of these types show objects so transformed that the audit may not recognise copies."""
    return any(kind.is_pasted or (kind.is_painted and p.inpaint.masks == VARIED) for kind in kinds)


def unfound(result: Evaluated, p: Params, kind: DataType) -> str:
    """Which copies the audit may miss, after what it finds of those planted among pairs of this painted type;
    and how many of the pasted pairs, which all are copies, it flags. "" where no type hides copies."""
    if not hides_copies(p, result.types):
        return ""
    told = ", ".join(f"{counts[0]} of {counts[1]} {named(kind)}" for kind, counts in _pasted(result).items())
    vain = ", not shown to be more than by chance" if blind(result, p) else ""
    pasted = f" (of pasted objects, all copies, the audit flags {told}{vain})" if told else ""
    least = result.found.drop(index=ZOOMED, errors="ignore").min().get(kind.name, nan)
    share = "all" if least == 1 else f"{least:.0%} or more"
    there = "" if isnan(least) else f"of copies planted at their own place the audit finds {share}, but "
    return f"; {there}{UNFOUND}{pasted}"


def blind(result: Evaluated, p: Params) -> bool:
    """Whether nothing shows that the audit flags pasted pairs, all of them copies, more than by chance."""
    sources = result.audit.groupby("data type")["source"].nunique()
    lows = [shares.difference(hits, images, chance, null, images / sources[kind.name])[0]
            for kind, (hits, images, chance, null) in _pasted(result).items()]
    return hides_copies(p, result.types) and bool(lows) and max(lows) <= 0


def _pasted(result: Evaluated) -> dict[DataType, tuple[int, int, int, int]]:
    counts = {kind: flagged(result.copies.loc[kind.name]) for kind in result.types if kind.is_pasted}
    return {kind: told for kind, told in counts.items() if told}


def flagged(row: pd.Series) -> tuple[int, int, int, int] | None:
    """From a row of `Evaluated.copies`: how many images are flagged, of how many, and the same for those that
    no model can know; None where there are none of either kind."""
    images, null = int(row["images"]), int(row["null"])
    if not images or not null or isnan(row["by chance"]):
        return None
    return int(row["either"]), images, round(row["by chance"] * null), null
