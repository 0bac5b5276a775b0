"""Hugging Face `datasets`: an image folder with a mask beside each image, and a card with a YAML head."""

import json
from pathlib import Path

import yaml

from diffusegen_core.exports import pngs
from diffusegen_core.exports.cases import ExportSet
from diffusegen_core.store import files

TITLE = "Hugging Face datasets"
LAYOUT = """\
- `datasets.load_dataset("FOLDER")` reads the splits `{splits}`{see_splits}.
- A row has `image`, `mask` (class numbers), and the fields of `origins.csv`: `origin` tells real from
  synthetic.
- On disk: `SPLIT/images/CASE.png`, `SPLIT/masks/CASE.png`, `SPLIT/metadata.jsonl`.
"""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


def write(folder: Path, chosen: ExportSet, called: str) -> str:
    """Write the dataset; returns the card's text on the layout."""
    pngs.write(chosen, lambda case: (folder / case.split / "images" / f"{case.case}.png",
                                             folder / case.split / "masks" / f"{case.case}.png"))
    for split in splits(chosen):
        rows = [{"file_name": f"images/{case.case}.png", "mask_file_name": f"masks/{case.case}.png",
                 **{name: value for name, value in chosen.row(case).items() if name != "split"}}
                for case in chosen.of(split)]
        files.write_text(folder / split / "metadata.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    return LAYOUT.format(splits="`, `".join(splits(chosen)), see_splits=chosen.see_splits)


def splits(chosen: ExportSet) -> list[str]:
    """The splits that have pairs."""
    return [split for split in chosen.splits if chosen.of(split)]


def head(chosen: ExportSet, called: str) -> str:
    """The YAML head of a dataset card."""
    size = next((name for most, name in SIZES if len(chosen.cases) < most), "100K<n<1M")
    told = {"pretty_name": called, "license": "other", "license_name": "to-be-filled-in",
            "task_categories": ["image-segmentation"], "tags": ["medical", "synthetic"],
            "size_categories": [size],
            "configs": [{"config_name": "default", "data_files": [
                {"split": split, "path": f"{split}/**"} for split in splits(chosen)]}]}
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}---\n\n"
