"""The notebooks as a program: choose chapters, execute them with papermill, keep what was executed."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
import zmq
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, load, plain, validate
from diffusegen_core.store import runs

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
KERNEL = "python3"
# Else each chapter begins with a warning that its kernel speaks in plain text, and one that is interrupted
# ends with a traceback of the kernel's own.
CALM = Config({"KernelManager": {"transport_encryption": "auto" if zmq.has("curve") else "disabled"},
               "NotebookClient": {"extra_arguments": ["--IPKernelApp.log_level=CRITICAL"]}})
# Libraries look for widgets to draw their progress with; a chapter's bars are text.
QUIET = "ignore:IProgress not found"


def every() -> list[Path]:
    """The chapters' notebooks in their order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def choose(first: str | None = None, last: str | None = None, only: list[str] | None = None) -> list[Path]:
    """A slice of the chapters, each named by its number ("2", "02") or name ("train", "02_train")."""
    found = every()
    if only:
        if first or last:
            raise UserError("--only goes without --from and --to.")
        chosen = {_find(name, found) for name in only}
        return [chapter for chapter in found if chapter in chosen]
    start = found.index(_find(first, found)) if first else 0
    stop = found.index(_find(last, found)) + 1 if last else len(found)
    if start >= stop:
        raise UserError(f"--from {first} comes after --to {last}.")
    return found[start:stop]


def _find(name: str, found: list[Path]) -> Path:
    for chapter in found:
        number, word = chapter.stem.split("_", 1)
        if name in (chapter.stem, word, number, number.lstrip("0")):
            return chapter
    raise UserError(f"There is no chapter {name}. The chapters are {', '.join(c.stem for c in found)}.")


def execute(chapter: Path, p: Params) -> Path:
    """Run one chapter. Raises UserError: what the chapter itself said, or where the traceback lies.

    The executed notebook goes to notebooks/ of the run, or to notebooks/failed/ with its error.
    """
    folder = p.folder / "notebooks"
    failed = folder / "failed" / chapter.name
    failed.parent.mkdir(parents=True, exist_ok=True)
    for name, value in {**devices.ALLOCATOR, "PYTHONWARNINGS": QUIET}.items():
        os.environ.setdefault(name, value)
    try:
        papermill.execute_notebook(str(chapter), str(failed), plain(p), kernel_name=KERNEL, config=CALM,
                                   progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr)
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(f"{chapter.stem}: {error.evalue}") from None
        raise UserError(f"{chapter.stem} failed: {error.ename}: {error.evalue} "
                        f"The traceback is in {failed}.") from None
    except DeadKernelError:
        raise UserError(f"{chapter.stem} failed: its process was killed, perhaps for want of memory. "
                        f"What it had done is in {failed}; the same command continues it.") from None
    notebook = nbformat.read(failed, as_version=4)
    path = runs.write(folder / chapter.name, lambda file: nbformat.write(notebook, file))
    failed.unlink()
    return path


def executed(p: Params) -> list[Path]:
    """The executed chapters that were given these parameters, as far as a chapter and those before it go.

    A chapter left over from other parameters would tell of another run.
    """
    fields, found = list(Params.model_fields), []
    for path in sorted((p.folder / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        name = path.stem.split("_")[1]  # of the section, too: 07_augment_small has p.augment
        used = fields[:fields.index(name) + 1] if name in fields else fields
        given = _given(path)
        with contextlib.suppress(UserError):  # a parameter that is newer than the page has its default
            given = given and plain(validate(given))
        if all(given.get(field) == plain(p)[field] for field in used if field != "run_dir"):
            found.append(path)
    return found


def _given(path: Path) -> dict[str, Any]:
    """The parameters that an executed notebook was given."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        given = notebook.metadata.get("papermill", {}).get("parameters", {})
    # The library has many; a notebook may be a stranger's.
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError,
            nbformat.ValidationError):
        raise UserError(f"{path} cannot be read as a notebook. Move it away, and run its chapter "
                        "again.") from None
    return given if isinstance(given, dict) else {}


def keep(p: Params) -> Path:
    """Write the run's parameters into its folder, where `diffusegen book` finds them again."""
    return runs.write_text(p.folder / "params.yaml", yaml.safe_dump(plain(p), sort_keys=False))


def kept(folder: Path) -> Params:
    """The parameters of the run in `folder`."""
    path = folder / "params.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it has no params.yaml. `diffusegen run` makes one.")
    return validate({**load(path), "run_dir": str(folder)})
