"""What tables and figures call the data's own things, and the data types in words."""

from diffusegen_core.config.params import Params
from diffusegen_core.data.types import GAN, PASTE, POISSON, REAL, DataType
from diffusegen_core.report.tables import escaped


def dice_of(p: Params, measure: str = "Dice") -> str:
    """A measure of masks: "nodule Dice" where there is one class, else "mean Dice over 3 classes"."""
    classes = len(p.data.classes)
    return f"{p.data.object_name} {measure}" if classes == 1 else f"mean {measure} over {classes} classes"


def captioned(p: Params, measure: str = "Dice") -> str:
    """The same as MyST of a cell or a caption."""
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
    """The same with the name that other chapters call it by: "painted and styled pairs (2-Styled-Paint)";
    `more` stands behind the name."""
    return f"{pairs_of(one)} ({', '.join(filter(None, [one.name, more]))})"


def sentence(words: str) -> str:
    """The same at the start of a sentence."""
    return words[:1].upper() + words[1:]
