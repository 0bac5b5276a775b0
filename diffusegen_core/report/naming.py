"""What tables and figures call the data's own things."""

from diffusegen_core.config.params import Params
from diffusegen_core.report.tables import escaped


def dice_of(p: Params, measure: str = "Dice") -> str:
    """A measure of masks: "nodule Dice" where there is one class, else "mean Dice over 3 classes"."""
    classes = len(p.data.classes)
    return f"{p.data.object_name} {measure}" if classes == 1 else f"mean {measure} over {classes} classes"


def captioned(p: Params, measure: str = "Dice") -> str:
    """The same as MyST of a cell or a caption."""
    return escaped(dice_of(p, measure))


def sentence(words: str) -> str:
    """The same at the start of a sentence."""
    return words[:1].upper() + words[1:]
