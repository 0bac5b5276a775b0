"""Small files beside stored pairs that record where these come from."""

import contextlib
import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from diffusegen_core.config.data import Data
from diffusegen_core.config.plainfiles import plain_file
from diffusegen_core.store import files
from diffusegen_core.store.stamps import read_stamp

LEFT_OUT, SIZES, VOLUMES, PADDED = "left_out.csv", "sizes.json", "volumes.json", "padded.json"
SCALE = "black_and_white"  # a fact of the stamp: the values that data.intensities: percentile gave


def write(folder: Path, left_out: str, sizes: Mapping[str, tuple[int, int]],
          volumes: Mapping[str, str]) -> list[files.Written]:
    """Write the table of what was left out (CSV), each pair's native height and width, and the volume of each
    slice."""
    told = [files.write_text(folder / LEFT_OUT, left_out), files.write_json(folder / SIZES, dict(sizes))]
    return [*told, files.write_json(folder / VOLUMES, dict(volumes))] if volumes else told


def write_padded(folder: Path, padded: Mapping[str, tuple[int, int]]) -> list[files.Written]:
    """Write the native height and width of the pairs that lie between black bars; nothing where none does."""
    return [files.write_json(folder / PADDED, dict(padded))] if padded else []


def padded(stored: Path) -> dict[str, tuple[int, int]]:
    """What `write_padded` wrote beside stored pairs."""
    return _sizes(stored.parent / PADDED)


def native_sizes(stored: Path | None) -> dict[str, tuple[int, int]]:
    """Height and width of each stored pair's own files; {} for phantoms, and pairs that older runs read."""
    return _sizes(stored.parent / SIZES) if stored else {}


def _sizes(file: Path) -> dict[str, tuple[int, int]]:
    told = files.read_json(file)
    return {name: (int(high), int(wide)) for name, (high, wide) in told.items()} if told else {}


def volumes(stored: Path | None) -> dict[str, str]:
    """The volume of each slice among stored pairs; {} where there are none. Slices of one volume show the
    same body, and stay together wherever pairs are split."""
    told = files.read_json(stored.parent / VOLUMES) if stored else None
    return told if isinstance(told, dict) else {}


def as_read(settings: Data, stored: Path | None) -> Data:
    """The settings that make other images as bright as stored pairs: under data.intensities: percentile,
    black and white are the values that were found for these."""
    scale = ((read_stamp(stored.parent) if stored else None) or {}).get(SCALE)
    return settings.model_copy(update={"intensities": scale}) \
        if scale and settings.intensities == "percentile" else settings


def left_out(place: Path) -> str:
    """What was left out, and why, as the end of a sentence: "; left out: 4 (empty mask)"; or ""."""
    with contextlib.suppress(OSError), plain_file(place / LEFT_OUT).open(newline="", encoding="utf-8") as f:
        reasons = Counter(row["problem"] for row in csv.DictReader(f))
        told = ", ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
        return f"; left out: {told}" if told else ""
    return ""
