"""Words for tables and figures: measures, data types, and small sets."""

from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Augment
from diffusegen_core.data.testsets import HELD_OUT, PHANTOM
from diffusegen_core.data.types import GAN, PASTE, POISSON, REAL, DataType
from diffusegen_core.report.tables import escaped


def dice_of(p: Params, measure: str = "Dice") -> str:
    """A measure of masks: "nodule Dice" where there is one class, else "mean Dice over 3 classes"."""
    classes = len(p.data.classes)
    return f"{p.data.object_name} {measure}" if classes == 1 else f"mean {measure} over {classes} classes"


def captioned(p: Params, measure: str = "Dice") -> str:
    """`dice_of` as MyST, for a cell or a caption."""
    return escaped(dice_of(p, measure))


def pairs_of(one: DataType) -> str:
    """Pairs of a data type in a few plain words: "painted and styled pairs"."""
    plain = {REAL: "real pairs", GAN: "pairs of the GAN", PASTE: "pasted pairs",
             POISSON: "pasted and blended pairs"}
    if not one.is_painted:
        return plain.get(one, f"{one} pairs")
    made = "painted and styled pairs" if one.is_styled else "painted pairs"
    return (f"{made}{' of the model of all pairs' if one.full else ''}"
            f"{' that the filter kept' if one.is_filtered else ''}")


def named(one: DataType, more: str = "") -> str:
    """`pairs_of` with the name that other chapters use: "painted and styled pairs (2-Styled-Paint)"; `more`
    follows the name."""
    return f"{pairs_of(one)} ({', '.join(filter(None, [one.name, more]))})"


def mixed(size: int, one: DataType, ratio: int | None, how: Augment) -> str:
    """A small set of real pairs and what chapter 7 makes of it, to follow "training on": "16 real pairs, with
    each of about half of them replaced by 3 pasted pairs (Paste)". `in_sets` says of which pairs that is
    half."""
    made = f"{f'{ratio} ' if ratio else ''}{named(one)}"
    each = f"each of {'' if how.alpha == 1 else f'{_part(how)} of '}them"
    done = f"{each} replaced by {made}" if how.rule == "replace" else f"{made} added for {each}"
    return f"{size} real pairs, with {done}"


def in_sets(how: Augment, validation: float) -> str:
    """Of which pairs of a small set `mixed` tells the share, a sentence; `validation` is the share that
    chooses the epoch."""
    done = "are replaced" if how.rule == "replace" else "get synthetic pairs beside them"
    choosing = f"{validation:.0%}".replace("%", " %")
    return (f"Of a set of real pairs, {choosing} choose the best epoch and stay as they are; {_part(how)} of "
            f"the others {done}.")


def on_test(test_set: str) -> str:
    """A test set by its name in the results, to follow "on" or "of": "HyperKvasir", "the held-out pairs"."""
    return {HELD_OUT: "the held-out pairs", PHANTOM: "the held-out phantoms"}.get(test_set, test_set)


def mixing(how: Augment) -> str:
    """What chapter 7 does to all small sets, for a caption: "synthetic pairs replace about half of the real
    ones trained on"."""
    share = f"{_part(how)} of the real ones trained on"
    return (f"synthetic pairs replace {share}" if how.rule == "replace" else
            f"synthetic pairs are added for {share}, and no real pair is left out")


def _part(how: Augment) -> str:
    """The share of the real pairs that synthetic ones replace or join; never those that choose the epoch."""
    return {0.5: "about half", 1.0: "all"}.get(how.alpha, f"about {how.alpha:.0%}".replace("%", " %"))


def sentence(words: str) -> str:
    """The words with a capital, for the start of a sentence."""
    return words[:1].upper() + words[1:]
