"""The request to `diffusegen new`, and the check that the file may be written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.store import lock


@dataclass(frozen=True)
class Wish:
    """What the user asks for."""

    source: Path
    minutes: float = 60.0
    device: str = "auto"
    out: Path = Path("params/mine.yaml")
    images: str | None = None
    masks: str | None = None
    patients: str | None = None
    weights: str | None = None
    input_range: str = "imagenet"
    changes: Mapping[str, Any] | None = None
    """Other parameters, in sections."""


def refuse_there(file: Path) -> None:
    """UserError if the file, or the run that it would name, already exists."""
    if file.exists():
        raise UserError(f"{file} exists already and is not overwritten. Name another file with --out.")
    if lock.is_run(folder := params.resolve(f"runs/{file.stem}")):
        raise UserError(f"{folder} is a run already, called {file.stem}. Name another file with --out.")
