"""Checks that refuse a run before it starts, and a way to report all refusals at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import TESTS


def refusals(attempts: Iterable[Callable[[], object]], where: str = "") -> Iterator[str]:
    """The message of every attempt that raises UserError; `where` names the parameter if they do not."""
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            yield f"Parameters: {where}: {error}" if where else str(error)


def sources(p: Params) -> dict[str, Path]:
    """The files and folders that a run reads, by the parameter that names each."""
    given = {"data.source": p.data.source, "cluster.file": p.cluster.file,
             "train.checkpoints": p.train.checkpoints, "gan.source": p.gan.source,
             "inpaint.masks": p.inpaint.masks, "inpaint.backgrounds": p.inpaint.backgrounds,
             **{f"segment.{name}": getattr(p.segment, name) for name in TESTS}}
    return {name: params.resolve(value) for name, value in given.items()
            if value is not None and value not in params.WORDS}


def refuse_own_parts(p: Params) -> None:
    """Raise UserError if the run is told to read from its own folder, or lies in a folder of its data."""
    for name, path in sources(p).items():
        if p.folder in (path, *path.parents):
            raise UserError(f"Parameters: {name}: {path} lies in the run folder {p.folder}, whose parts the "
                            "run makes itself. Name another folder, or choose another run_dir.")
        if path in p.folder.parents and name != "train.checkpoints":
            raise UserError(f"Parameters: run_dir: {p.folder} lies in {name} {path}, which is never written "
                            "to. Choose another run_dir.")


def refuse_unknown(namespace: Mapping[str, Any], known: set[str]) -> None:
    """Raise UserError for names that papermill was given and that are no parameters."""
    cells = namespace.get("In", [])
    injected = [cell for cell in cells if isinstance(cell, str) and cell.startswith("# Parameters\n")]
    names = [line.partition("=")[0].strip() for cell in injected for line in cell.splitlines()
             if " = " in line]
    for name in names:
        if name.isidentifier() and name not in known:
            params.validate({name: None})  # its message suggests the nearest parameter
