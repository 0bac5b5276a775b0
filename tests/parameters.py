"""Parameters for tests: every one there is, and those of a run in its folder."""

from pathlib import Path

from pydantic import BaseModel

from diffusegen_core.run import Run
from diffusegen_core.store import ownparams


def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a section."""
    names = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        names += keys(field.annotation, f"{name}.") if nested else [prefix + name]
    return names


def keep_params(run: Run) -> Path | None:
    """Write a run's parameters into its folder without making anything; as `ownparams.keep`."""
    return ownparams.keep(run.params, run.given)
