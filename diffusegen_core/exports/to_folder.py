"""A plain folder: images/ and masks/, as this program itself reads them."""

import json
from pathlib import Path

from diffusegen_core.exports import pngs
from diffusegen_core.exports.cases import ExportSet

TITLE = "a plain folder"
WHITE = 255  # the value of a single class, which every program shows as white


def write(folder: Path, chosen: ExportSet, called: str) -> str:
    """Write the dataset; returns the card's text on the layout."""
    one = len(chosen.classes) == 1
    pngs.write(chosen, lambda case: (folder / "images" / f"{case.case}{chosen.picture}",
                                     folder / "masks" / f"{case.case}{chosen.label}"), WHITE if one else 1)
    labels = {str(number): name for name, number in chosen.numbers.items() if number}
    how = "A mask's values are 0, and 255 for the class."
    if chosen.planes:
        labels = dict(zip(map(str, range(len(chosen.classes))), chosen.classes, strict=True))
        how = (f"A mask is an array with a plane for each class, in {{0, 1}}; this program reads it with "
               f"`-p data.labels '{json.dumps(labels)}' -p data.overlap true`.")
    elif not one:
        how = (f"A mask's values are class numbers; this program reads them with `-p data.labels "
               f"'{json.dumps(labels)}'`.")
    if chosen.picture != ".png":
        count = len(chosen.channels)
        how += f" Images are arrays of {count} channels: `-p data.channels {count}`."
    return (f"- `images/CASE{chosen.picture}` and `masks/CASE{chosen.label}`, paired by their names. {how}\n"
            "- `-p data.source FOLDER` makes it the data of a run. Use only real pairs "
            "for that: models that learn from other models' pairs repeat their faults.\n")
