"""MONAI: a datalist like the Medical Segmentation Decathlon's, with the keys `image` and `label`."""

import json
from pathlib import Path

from diffusegen_core.exports import pngs
from diffusegen_core.exports.cases import HELD, TEST, TRAIN, VALID, Case, ExportSet
from diffusegen_core.store import files

TITLE = "MONAI"
LISTS = {TRAIN: "training", VALID: "validation", HELD: "held_back", TEST: "test"}
LAYOUT = """\
- `datalist.json` has the lists `training`, `validation`, `held_back` and `test`, as far as there are
  such pairs{see_splits}.
  `monai.data.load_decathlon_datalist("FOLDER/datalist.json", data_list_key="training")` reads one.
- An item has `image`, `label` ({labels}), and `origin` (real or synthetic), `data_type`, `source`,
  `near_copy`.
- On disk: `images/CASE{picture}`, `labels/CASE{label}`{arrays}.
"""


def write(folder: Path, chosen: ExportSet, called: str) -> str:
    """Write the dataset; returns the card's text on the layout."""
    pngs.write(chosen, lambda case: (folder / "images" / f"{case.case}{chosen.picture}",
                                     folder / "labels" / f"{case.case}{chosen.label}"))
    lists = {name: [_item(chosen, case) for case in chosen.of(split)] for split, name in LISTS.items()}
    files.write_text(folder / "datalist.json", json.dumps({
        "name": called, "description": f"{chosen.run.params.data.object_name}: {chosen.described}",
        "licence": chosen.licence, "tensorImageSize": "2D",
        "modality": {str(place): channel for place, channel in enumerate(chosen.channels)},
        "labels": ({str(place): name for place, name in enumerate(chosen.classes)} if chosen.planes else
                   {str(number): name for name, number in chosen.numbers.items()}),
        "numTraining": len(lists["training"]),
        **{name: items for name, items in lists.items() if items}}, indent=1) + "\n")
    arrays = chosen.planes or chosen.picture != ".png"
    return LAYOUT.format(
        see_splits=chosen.see_splits,
        labels="a plane for each class, in {0, 1}" if chosen.planes else "class numbers",
        picture=chosen.picture, label=chosen.label,
        arrays="; an array has its channels or classes first, `channel_dim=0`" if arrays else "")


def _item(chosen: ExportSet, case: Case) -> dict[str, str]:
    return {"image": f"images/{case.case}{chosen.picture}", "label": f"labels/{case.case}{chosen.label}",
            "origin": case.origin, "data_type": case.data_type.name, "source": chosen.source(case.source),
            "near_copy": case.near_copy}
