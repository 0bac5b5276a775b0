"""The params.yaml of a run folder: the parameters in force there; replaced versions are kept."""

import contextlib
import json
import logging
import os
import shlex
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

log = logging.getLogger(__name__)

PARAMS = "params.yaml"
TAKEN = "file"  # key in a run's mark: what its parameter file said when the run last took it
Said = dict[str, str]
"""What a parameter file says: each value as JSON, by its dotted name."""
# Values for a run whose params.yaml is older than the parameter: the default may need results that it lacks.
BEFORE: dict[str, dict[str, Any]] = {
    "data": {"fit": "squeeze", "holdout": None},
    "inpaint": {"baselines": None, "masks": "joint", "guidance_scale": 1.0, "seamless": False}}


def is_there(folder: Path) -> bool:
    """Whether a run lies in a folder, with its parameters."""
    return (folder / PARAMS).is_file() and lock.is_run(folder)


def told(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among a notebook's names. Raises UserError for others that papermill was given."""
    refuse_unknown(namespace, {"changes", *Params.model_fields})
    # The notebook may have imported a chapter's module of the same name as a section: that is no value.
    return {name: namespace[name] for name in Params.model_fields
            if name in namespace and not isinstance(namespace[name], ModuleType)}


def meant(profile: str | Path, run_dir: str | Path | None) -> tuple[str | Path, Path]:
    """The parameter file, or profile, and the run folder that are meant by a profile, a file or a folder.

    `run_dir` is the run folder, if one is given. If a run lies in it already, its own parameters hold.
    """
    place = params.resolve(profile)
    if run_dir is not None:
        return place / PARAMS if is_there(place) else profile, params.resolve(run_dir)
    if is_there(place):
        return profile, place
    # The parameter file may lie anywhere, or be gone.
    named = params.resolve(f"runs/{profile}") if Path(profile).name == str(profile) else place
    return profile, named if is_there(named) else params.resolve(f"runs/{params.profile_file(profile).stem}")


def said(path: Path) -> Said:
    """What a parameter file says."""
    return _texts(_flat(params.load(path)))


def edits(profile: str | Path, folder: Path) -> tuple[Said | None, dict[str, Any]]:
    """What a notebook's `profile` adds to the parameters of an existing run, so that edits take effect.

    If it is a parameter file: what the file says, and, as changes, what was edited in it since the run last
    took it. None and {} if it is no file, or if it is not known what the run took. Edits are logged, even
    those that are not taken: the name of a profile alone means the run as it is.
    """
    file = next((path for path in (Path(profile), params.resolve(profile)) if path.is_file()), None)
    named = params.resolve(f"params/{profile}.yaml") if Path(profile).name == str(profile) else None
    path, taken = file or named, _taken(folder)
    if path is None or not path.is_file() or path.name == PARAMS or not (file or taken):
        return None, {}
    values, usual = _flat(params.load(path)), _flat(params.plain(Params()))
    defaults = _texts(usual)
    now, own = _texts(values), {**defaults, **_texts(_flat(load(folder)))}
    before = own if taken is None else taken

    def value(of: Said, name: str) -> str | None:
        return of.get(name, defaults.get(name))

    changed = [name for name in {**now, **before}
               if value(now, name) not in (value(before, name), own.get(name))]
    told = ", ".join(f"{name} {value(now, name)}" for name in changed)
    if file and taken is not None:
        if changed:
            log.warning("%s was edited. The run %s takes these changes: %s.", path.name, folder.name, told)
        return now, params.merged({}, {name: values.get(name, usual.get(name)) for name in changed})
    if changed:
        log.warning("%s differs from the run %s, which keeps its own values: %s. `diffusegen run %s` takes "
                    "those of the file.", path.name, folder.name, told, shlex.quote(str(path)))
    return None, {}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain parameters by dotted names, without those that identify the run."""
    flat: dict[str, Any] = {}
    for name, section in values.items():
        if isinstance(section, dict):
            flat |= {f"{name}.{last}": one for last, one in section.items()}
        elif name not in ("profile", "run_dir"):
            flat[name] = section
    return flat


def _texts(values: Mapping[str, Any]) -> Said:
    return {name: json.dumps(value, default=str, skipkeys=True) for name, value in values.items()}


def _taken(folder: Path) -> Said | None:
    """What the parameter file said when the run last took it; None if that is not known."""
    mark = files.read_json(folder / lock.MARK)
    told = mark.get(TAKEN) if isinstance(mark, dict) else None
    return told if isinstance(told, dict) else None


def load(folder: Path) -> dict[str, Any]:
    """The plain parameters of a run folder, completed by BEFORE. Raises UserError if they cannot be read."""
    values = params.load(folder / PARAMS)
    for section, older in BEFORE.items():
        if isinstance(there := values.get(section), dict):
            values[section] = {**older, **there}
    return values


def keep(p: Params, given: Said | None = None) -> Path | None:
    """Write the parameters into their run folder. Others there are set aside; return where, or None.
    `given` is what the parameter file that they come from says."""
    path, aside = p.folder / PARAMS, None
    values = {name: value for name, value in params.plain(p).items() if name != "run_dir"}
    there = path.is_file()
    if not there or _ordered(params.load(path)) != _ordered(values):
        if there:  # copied, so that a kill never leaves the folder without parameters
            moves.refuse_links(p.folder, [f"{ASIDE}/params"])
            aside = p.folder / ASIDE / "params" / f"{files.sha256(path)[:16]}.yaml"
            files.write(aside, lambda copy: shutil.copyfile(path, copy), hashed=False)
        files.write_text(path, yaml.safe_dump(values, sort_keys=False))
    mark = files.read_json(p.folder / lock.MARK)
    if given is not None and isinstance(mark, dict) and mark.get(TAKEN) != given:
        files.write_json(p.folder / lock.MARK, {**mark, TAKEN: given})
    return aside


def _ordered(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Parameters for comparison: order does not matter, except in data.labels, where it is the classes'."""
    data = values.get("data")
    return values, list(map(str, (data.get("labels") if isinstance(data, dict) else None) or ()))


@contextlib.contextmanager
def kept(p: Params, given: Said | None = None) -> Iterator[None]:
    """`keep`, undone if the body raises UserError before anything was made."""
    path, first = p.folder / PARAMS, not is_there(p.folder)
    mark = files.read_json(p.folder / lock.MARK)
    before = keep(p, given)
    made = _recipes(p.folder) if before else {}
    try:
        yield
    except UserError:
        if before and made == _recipes(p.folder):
            os.replace(before, path)
            files.without_empty(before.parent)
            files.write_json(p.folder / lock.MARK, mark)
        elif first and not _recipes(p.folder):
            path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Remove a new run folder, which is held, if the body raises UserError before anything was made. Only
    files that the program wrote are removed, and no traceback that the error names. A folder that the user
    had made stays, with its permissions; one in which something is left stays a run's, so that the same
    command goes on there."""
    new = {path.name for path in folder.iterdir()} <= {lock.MARK, lock.LOCK}
    mark = files.read_json(folder / lock.MARK)
    given = isinstance(mark, dict) and mark.get(lock.GIVEN) is True
    try:
        yield
    except UserError as error:
        if new and not _recipes(folder):
            written = [lock.MARK, lock.LOCK, PARAMS, *(
                f"{place}/{name}" for place in ("notebooks/failed", "notebooks/running", stamps.MAKING)
                for name in files.below(folder / place) if str(folder / place / name) not in str(error))]
            if not set(files.below(folder)) <= set(written):
                written.remove(lock.MARK)
            files.remove(folder, written, itself=not given)
        raise


def _recipes(folder: Path) -> dict[Path, Any]:
    """The recipe of each artifact that is finished and in place, by its folder."""
    return {place: stamp["recipe"] for place, stamp in stamps.in_place(folder)}
