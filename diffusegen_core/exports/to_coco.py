"""COCO: a JSON file of instances for each split, with the images beside it.

An instance is an 8-connected component of a class, stored as compressed run lengths, which are exact.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from diffusegen_core.exports import pngs
from diffusegen_core.exports.cases import HELD, TEST, TRAIN, VALID, Case, ExportSet
from diffusegen_core.store import files

TITLE = "COCO"
FILES = {TRAIN: "instances_train.json", VALID: "instances_val.json", HELD: "instances_held_back.json",
         TEST: "instances_test.json"}
LAYOUT = """\
- `images/CASE.png`, and beside them `annotations/instances_train.json`, `instances_val.json`,
  `instances_held_back.json` and `instances_test.json`, as far as there are such pairs{see_splits}.
- An instance is a connected part of a class. Its `segmentation` is compressed run lengths, exact to the
  pixel; `pycocotools` decodes it by `COCO.annToMask`.
- Each entry of `images` has the fields `origin` (real or synthetic), `data_type`, `source` and `near_copy`.
"""


def write(folder: Path, chosen: ExportSet, called: str) -> str:
    """Write the dataset; returns the card's text on the layout."""
    known = {name: number for name, number in chosen.numbers.items() if number}
    documents = {split: _document(chosen, known, called) for split in FILES}
    instances = 0
    for number, case in enumerate(pngs.progress(chosen.cases), 1):
        image, mask = chosen.read(case)
        pngs.write_picture(folder / "images" / f"{case.case}.png", image)
        document = documents[case.split]
        document["images"].append(_image(chosen, number, case, mask.shape))
        for one in _annotations(number, mask):
            instances += 1
            document["annotations"].append({"id": instances, **one})
    for split, document in documents.items():
        if document["images"]:
            files.write_text(folder / "annotations" / FILES[split], json.dumps(document) + "\n")
    return LAYOUT.format(see_splits=chosen.see_splits)


def _document(chosen: ExportSet, known: dict[str, int], called: str) -> dict[str, Any]:
    thing = chosen.run.params.data.object_name
    return {"info": {"description": f"{called}: {thing}, {chosen.described} of a DiffuseGen run"},
            "licenses": [{"id": 1, "name": chosen.licence, "url": ""}],
            "categories": [{"id": number, "name": name, "supercategory": thing}
                           for name, number in known.items()], "images": [], "annotations": []}


def _image(chosen: ExportSet, number: int, case: Case, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"id": number, "file_name": f"{case.case}.png", "height": shape[1], "width": shape[2],
            "license": 1, "origin": case.origin, "data_type": case.data_type.name,
            "source": chosen.source(case.source), "near_copy": case.near_copy}


def _annotations(image: int, mask: np.ndarray) -> Iterator[dict[str, Any]]:
    """The instances of a mask (M, S, S) in {0, 1}."""
    from pycocotools import mask as coco  # here, so that other exports do not need it
    for category, plane in enumerate(mask, 1):
        count, parts = cv2.connectedComponents(np.ascontiguousarray(plane), connectivity=8)
        for part in range(1, count):  # 0 is the background
            runs = coco.encode(np.asfortranarray(parts == part, np.uint8))
            yield {"image_id": image, "category_id": category, "iscrowd": 0, "area": int(coco.area(runs)),
                   "bbox": coco.toBbox(runs).tolist(),
                   "segmentation": {"size": list(plane.shape), "counts": runs["counts"].decode()}}
