"""A plain folder: images/ and masks/, as this program reads them itself."""

import json
from pathlib import Path

from diffusegen_core.exports import pngs
from diffusegen_core.exports.cases import Chosen

TITLE = "a plain folder"
WHITE = 255  # the only class of a mask, as every program shows it


def write(folder: Path, chosen: Chosen, called: str) -> str:
    """Write the dataset; what its card says of the layout."""
    one = len(chosen.classes) == 1
    pngs.write(chosen, lambda case: (folder / "images" / f"{case.case}.png",
                                             folder / "masks" / f"{case.case}.png"), WHITE if one else 1)
    labels = {str(number): name for name, number in chosen.numbers.items() if number}
    how = ("0, and 255 for the class" if one else
           f"class numbers; this program reads them with `-p data.labels '{json.dumps(labels)}'`")
    return (f"- `images/CASE.png` and `masks/CASE.png`, paired by their names. A mask's values are {how}.\n"
            "- `-p data.source FOLDER -p data.subset all` makes it the data of a run. Take real pairs alone "
            "for that: models that learn from other models' pairs repeat their faults.\n")
