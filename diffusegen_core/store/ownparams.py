"""The params.yaml of a run folder: the parameters that hold there, and none that was written is lost."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from diffusegen_core.config import params
from diffusegen_core.config.checks import refuse_unknown
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.store import files, lock, moves, stamps
from diffusegen_core.store.stamps import ASIDE

PARAMS = "params.yaml"
# What a run has whose params.yaml is older than the parameter; the default may need results that it lacks.
BEFORE: dict[str, dict[str, Any]] = {
    "data": {"fit": "squeeze"},
    "inpaint": {"baselines": None, "masks": "joint", "guidance_scale": 1.0, "seamless": False}}


def is_there(folder: Path) -> bool:
    """Whether a run lies in a folder, with its parameters."""
    return (folder / PARAMS).is_file() and lock.is_run(folder)


def told(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among a notebook's names. UserError for names that papermill was given and are none."""
    refuse_unknown(namespace, {"changes", *Params.model_fields})
    # A chapter's module may be called as its section is, and has been imported: it is no value.
    return {name: namespace[name] for name in Params.model_fields
            if name in namespace and not isinstance(namespace[name], ModuleType)}


def meant(profile: str | Path, run_dir: str | Path | None) -> tuple[str | Path, Path]:
    """The parameter file of a run that is called by a profile, a file or a folder, and the run folder.

    `run_dir` is the folder, where one is given. Where a run lies in it, the parameters that lie there hold.
    """
    place = params.resolve(profile)
    if run_dir is not None:
        return place / PARAMS if is_there(place) else profile, params.resolve(run_dir)
    if is_there(place):
        return profile, place
    # The parameter file may lie anywhere, or be gone.
    named = params.resolve(f"runs/{profile}") if Path(profile).name == str(profile) else place
    return profile, named if is_there(named) else params.resolve(f"runs/{params.profile_file(profile).stem}")


def load(folder: Path) -> dict[str, Any]:
    """The plain values that lie in a run folder. Raises UserError where they cannot be read."""
    values = params.load(folder / PARAMS)
    for section, older in BEFORE.items():
        if isinstance(there := values.get(section), dict):
            values[section] = {**older, **there}
    return values


def keep(p: Params) -> Path | None:
    """Write the parameters into their run folder; where others lay there, they are set aside: where."""
    path, aside = p.folder / PARAMS, None
    values = {name: value for name, value in params.plain(p).items() if name != "run_dir"}
    there = path.is_file()
    if not there or _ordered(params.load(path)) != _ordered(values):
        if there:  # a copy, so that no kill leaves the folder without any
            moves.refuse_links(p.folder, [f"{ASIDE}/params"])
            aside = p.folder / ASIDE / "params" / f"{files.sha256(path)[:16]}.yaml"
            files.write(aside, lambda copy: shutil.copyfile(path, copy), hashed=False)
        files.write_text(path, yaml.safe_dump(values, sort_keys=False))
    return aside


def _ordered(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Parameters as they compare: in any order, but for data.labels, whose order is that of the classes."""
    data = values.get("data")
    return values, list(map(str, (data.get("labels") if isinstance(data, dict) else None) or ()))


@contextlib.contextmanager
def kept(p: Params) -> Iterator[None]:
    """`keep`, undone where what follows is refused before it has made anything."""
    path, first = p.folder / PARAMS, not is_there(p.folder)
    before = keep(p)
    made = _recipes(p.folder) if before else {}
    try:
        yield
    except UserError:
        if before and made == _recipes(p.folder):
            os.replace(before, path)
            files.without_empty(before.parent)
        elif first and not _recipes(p.folder):
            path.unlink(missing_ok=True)
        raise


def _recipes(folder: Path) -> dict[Path, Any]:
    """What is finished and in place, by its folder: what decided its content."""
    return {place: stamp["recipe"] for place, stamp in stamps.in_place(folder)}
