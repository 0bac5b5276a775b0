"""nnU-Net v2: imagesTr, labelsTr and dataset.json, and folds in which no pair is validated on its twin."""

import json
import re
from pathlib import Path

from diffusegen_core.config.errors import UserError
from diffusegen_core.exports import pngs
from diffusegen_core.exports.cases import CHANNELS, TEST, ExportSet
from diffusegen_core.store import files

TITLE = "nnU-Net v2"
FIRST = 501  # number of a dataset; lower ones are for published sets
NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")
LAYOUT = """\
The folder is a raw dataset of nnU-Net: put it into `nnUNet_raw` (or link it there) and call
`nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity`.

- `imagesTr/CASE_0000.png`{kind}, `labelsTr/CASE.png` (class numbers), `dataset.json`.{test}
- `splits_final.json`: {folds}
"""
HELD_OUT = """
  `imagesTs/` and `labelsTs/` have the held-out pairs: predict the former, compare with the latter."""
COPIED = "copy it to `nnUNet_preprocessed/{name}/` before training. "
FOLDS = COPIED + """\
Its folds validate on real pairs alone and train on
  nothing that was made from these. Without it nnU-Net splits pairs at random and validates on near-copies."""
REAL_FOLDS = COPIED + """\
Its folds keep pairs of one patient together, where
  patients are known, as nnU-Net's own would not."""
NO_FOLDS = ("there is none, as the dataset has fewer than two real pairs to train on; folds that nnU-Net "
            "draws would validate on near-copies.")
OTHER_FOLDS = """
  They are not the splits below, which are for programs that use a single split."""


def name(run_name: str, within: Path) -> str:
    """The folder's default name in `within`: that of an export of this run which is there, or one with a free
    number."""
    own = re.sub("[^A-Za-z0-9_-]", "_", run_name)
    there = sorted(path.name for path in within.glob(f"Dataset[0-9][0-9][0-9]_{own}"))
    return there[0] if there else f"{_free(within)}_{own}"


def free_beside(out: Path) -> Path:
    """The same folder with the first number that no dataset beside it has."""
    return out.with_name(f"{_free(out.parent)}_{out.name.partition('_')[2]}")


def _free(within: Path) -> str:
    """DatasetXXX with the first number from FIRST that no folder there has: nnU-Net tells datasets by it."""
    taken = {path.name[:10] for path in within.glob("Dataset*")}
    return next(one for one in map("Dataset{:03d}".format, range(FIRST, 1000)) if one not in taken)


def check(out: Path) -> None:
    """UserError where a folder is not named as nnU-Net requires."""
    if not NAME.fullmatch(out.name):
        raise UserError(f"nnU-Net reads only folders called DatasetXXX_Name, not {out.name}: name one with "
                        f"--out, such as {out.parent / 'Dataset501_Mine'}.")


def write(folder: Path, chosen: ExportSet, called: str) -> str:
    """Write the dataset into a folder that will be renamed to `called`; returns the card's text on the
    layout."""
    whole = len(chosen.channels) in CHANNELS
    for case in pngs.progress(chosen.cases):
        image, numbers = chosen.written(case)
        suffix = "Ts" if case.split == TEST else "Tr"
        for number, part in enumerate([image] if whole else image):
            pngs.write_picture(folder / f"images{suffix}" / f"{case.case}_{number:04d}.png", part)
        pngs.write_picture(folder / f"labels{suffix}" / f"{case.case}.png", numbers)
    files.write_text(folder / "dataset.json", json.dumps({
        "channel_names": {str(place): channel for place, channel in enumerate(chosen.channels)},
        "labels": chosen.numbers, "numTraining": len(chosen.cases) - len(chosen.of(TEST)),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO", "name": called, "licence": chosen.licence,
        "description": f"{chosen.run.params.data.object_name}: {chosen.described}; the names of the "
                       "cases and origins.csv tell their kinds",
        "converted_by": "DiffuseGen"}, indent=1) + "\n")
    if folds := chosen.folds():
        files.write_text(folder / "splits_final.json", json.dumps(folds, indent=1) + "\n")
    text = FOLDS if chosen.sets else REAL_FOLDS
    kind = (" (RGB, one file for its three channels)" if len(chosen.channels) == 3 else
            " (grey)" if whole else " and so on (grey, a file for each channel)")
    return LAYOUT.format(number=called[7:10], kind=kind, test=HELD_OUT if chosen.tested else "",
                         folds=text.format(name=called) + OTHER_FOLDS if folds else NO_FOLDS)
