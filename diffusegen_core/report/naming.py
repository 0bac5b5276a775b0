"""What tables and figures call the data's own things."""

from diffusegen_core.config.params import Params


def dice_of(p: Params, measure: str = "Dice") -> str:
    """A measure of masks: "polyp Dice" where there is one class, else "mean Dice over 3 classes"."""
    classes = p.data.classes
    return f"{classes[0]} {measure}" if len(classes) == 1 else f"mean {measure} over {len(classes)} classes"


def sentence(words: str) -> str:
    """The same at the start of a sentence."""
    return words[:1].upper() + words[1:]
