"""The notebooks as a program: choose chapters, execute them with papermill, keep what was executed."""

import functools
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from diffusegen_core import kernels, watchdog
from diffusegen_core.config import devices
from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, plain, relative
from diffusegen_core.config.plainfiles import MANY, plain_file
from diffusegen_core.parallel import progress
from diffusegen_core.planning.preflight import PAGES
from diffusegen_core.report import meantfor
from diffusegen_core.run import GENERATED, GRIDS, Run
from diffusegen_core.segmentation import experiments
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import files, lock, moves, ownpages, stamps
from diffusegen_core.store.artifacts import IN_A_SHELL, NotMadeError, OutdatedError, key
from diffusegen_core.store.stamps import ASIDE
from diffusegen_core.watchdog import Hung

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TOUR = "00_tour"  # for JupyterLab only: not a chapter of a run
KERNEL = "python3"
# Errors of a chapter that a user is meant to read, by the names that papermill reports.
READABLE = {kind.__name__ for kind in (UserError, NotMadeError, OutdatedError)}
OWN = "diffusegen"  # the key in an executed notebook's metadata that holds the parameters of its run
# What nbformat raises for a file that is not a notebook, and may be a stranger's.
UNREADABLE = (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError, AssertionError,
              nbformat.ValidationError)
# papermill's own lines are not shown: what matters in them is raised, and reported in one message.
logging.getLogger("papermill").setLevel(logging.CRITICAL)
# In a terminal the bars of a chapter are text, whatever a library would draw them with.
QUIET = "ignore:IProgress not found"


def every() -> list[Path]:
    """The chapters' notebooks in their order."""
    return sorted(path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb") if path.stem != TOUR)


def chapter_of(notebook: Path) -> str:
    """The chapter that a notebook shows: "augment" of 07_augment_small."""
    return notebook.stem.split("_")[1]


def choose(first: str | None = None, last: str | None = None, only: list[str] | None = None) -> list[Path]:
    """A slice of the chapters, each named by its number ("2", "02") or name ("train", "02_train")."""
    notebooks = every()
    if only:
        if first or last:
            raise UserError("--only cannot be combined with --from or --to.")
        chosen = {_find(name, notebooks) for name in only}
        return [notebook for notebook in notebooks if notebook in chosen]
    start = notebooks.index(_find(first, notebooks)) if first else 0
    stop = notebooks.index(_find(last, notebooks)) + 1 if last else len(notebooks)
    if start >= stop:
        raise UserError(f"--from {first} comes after --to {last}.")
    return notebooks[start:stop]


def _find(name: str, notebooks: list[Path]) -> Path:
    for notebook in notebooks:
        number, word = notebook.stem.split("_", 1)
        if name in (notebook.stem, word, chapter_of(notebook), number, number.lstrip("0")):
            return notebook
    raise UserError(f"There is no chapter {name}. The chapters are {', '.join(c.stem for c in notebooks)}.")


def execute(notebook: Path, run: Run) -> Path:
    """Run one chapter. Raises UserError with the chapter's own message, or with the traceback's place.

    While it runs, the notebook lies in notebooks/running/ of the run; then in notebooks/, or, with its error,
    in notebooks/failed/. An executed one that it replaces is set aside if it was edited or has other
    parameters; one that a crash has left in notebooks/running/, if it holds an error or was edited. None of
    these places may be a link. A chapter that hangs is started again, once.
    """
    folder = run.folder / "notebooks"
    running = folder / "running" / notebook.name
    written = (running, _failed(running), _stacks(running))
    moves.refuse_links(run.folder, [*(str(path.relative_to(run.folder)) for path in written),
                                    f"{ASIDE}/notebooks"])
    running.parent.mkdir(parents=True, exist_ok=True)
    _keep_interrupted(running, notebook, run)
    try:
        _attempt(notebook, running, run)
    except Hung as first:
        print(f"diffusegen: {notebook.stem}: its process {first}. It is started again.", file=sys.stderr,
              flush=True)
        (run.folder / progress.PLACE).unlink(missing_ok=True)
        lock.clear(run.folder)  # so that workers give up what the kernel had asked of them
        try:
            _attempt(notebook, running, run)
        except Hung as second:
            raise UserError(f"{notebook.stem} failed twice: its process {second}. Run the same "
                            "command again to continue.") from None
    return _keep(running, notebook, run)


def _attempt(notebook: Path, running: Path, run: Run) -> None:
    """Execute a notebook into `running`. Raises UserError as `execute` does, and Hung if it hangs."""
    for name, value in {**devices.ALLOCATOR, "PYTHONWARNINGS": QUIET}.items():
        os.environ.setdefault(name, value)
    stacks = _stacks(running)
    try:
        with (environment({IN_A_SHELL: "1"}), kernels.private() as private,
              watchdog.watch(private, running, stacks), tempfile.TemporaryDirectory() as folder):
            papermill.execute_notebook(
                str(_fitted(notebook, run, Path(folder))), str(running),
                {"profile": relative(run.folder), "changes": {}}, config=kernels.settings(private),
                kernel_name=KERNEL, start_timeout=kernels.START, progress_bar=False, stdout_file=sys.stdout,
                stderr_file=sys.stderr)
    except PapermillExecutionError as error:
        failed = _fail(running)
        if error.ename in READABLE:
            raise UserError(f"{notebook.stem}: {error.evalue}") from None
        raise UserError(f"{notebook.stem} failed: {error.ename}: {error.evalue} "
                        f"The traceback is in {failed}.") from None
    except Hung as error:
        _fail(running)
        where = f" ({stacks} tells where)" if stacks.is_file() else ""
        raise Hung(f"{error}{where}") from None
    except DeadKernelError:
        raise UserError(f"{notebook.stem} failed: its process was killed, perhaps for lack of memory. What "
                        f"it had done is in {_fail(running)}; the same command continues it.") from None
    except CellTimeoutError:
        _fail(running)
        raise Hung("has not sent all the output of a cell") from None
    except kernels.NotStartedError as error:
        raise Hung(f"did not start: {error}") from None
    except KeyboardInterrupt:
        # The kernel is interrupted as well, and may die while its client still waits; that log is noise.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise


def _fitted(notebook: Path, run: Run, folder: Path) -> Path:
    """A copy of a chapter in a folder, with the cells that are for this run."""
    chapter = nbformat.read(notebook, as_version=4)
    chapter.cells = meantfor.meant(chapter.cells, _params(run.params))
    nbformat.write(chapter, folder / notebook.name)
    return folder / notebook.name


def _keep_interrupted(running: Path, notebook: Path, run: Run) -> None:
    """Set aside what a crash has left where the chapter is to run, if somebody may want to see it: if it has
    an error other than an interruption, or cells that are not the chapter's."""
    if not running.is_file():
        return
    own = {cell.source for cell in nbformat.read(notebook, as_version=4).cells}
    try:
        cells = [cell for cell in nbformat.read(running, as_version=4).cells
                 if "injected-parameters" not in cell.metadata.get("tags", [])]
        errors = {output.get("ename") for cell in cells for output in cell.get("outputs", ())
                  if output.output_type == "error"}
        wanted = bool(errors - {KeyboardInterrupt.__name__}) or any(cell.source not in own for cell in cells)
    except UNREADABLE:  # half-written, or not ours
        wanted = running.stat().st_size > 0
    if wanted:
        _set_aside(running, run)


def _set_aside(path: Path, run: Run) -> None:
    aside = run.folder / ASIDE / "notebooks" / f"{path.stem}-{files.sha256(path)[:16]}.ipynb"
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.replace(aside)


def _failed(running: Path) -> Path:
    """Where a notebook that failed is to lie."""
    return running.parents[1] / "failed" / running.name


def _stacks(running: Path) -> Path:
    """The file that says where a chapter hung."""
    return _failed(running).with_suffix(".stacks.txt")


def _fail(running: Path) -> Path:
    failed = _failed(running)
    failed.parent.mkdir(parents=True, exist_ok=True)
    return running.replace(failed)


def _keep(running: Path, source: Path, run: Run) -> Path:
    """Move an executed notebook into place, with the parameters of its run in its metadata."""
    notebook, path = nbformat.read(running, as_version=4), run.folder / "notebooks" / source.name
    notebook.metadata[OWN] = {"params": _params(run.params), "shows": _shows(source, run)}
    if path.is_file() and (ownpages.edited(path) or _told_params(path) != _params(run.params)):
        _set_aside(path, run)
    _write(path, notebook)
    running.unlink()
    return path


def _write(path: Path, notebook: nbformat.NotebookNode) -> None:
    content = f"{nbformat.writes(notebook)}\n"
    files.write_text(path, content)
    ownpages.record(path, content.encode())


def executed(run: Run) -> list[Path]:
    """The executed chapters that were given these parameters, in the sections of each and of those before it.

    A chapter left over from other parameters would tell of another run, and the target of a link is not a
    page of this one.
    """
    fields = [name for name in Params.model_fields if name not in ("run_dir", "profile", "tracking")]
    holding = []
    for path in sorted((run.folder / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        if moves.link_on_the_way(run.folder, f"notebooks/{path.name}"):
            continue
        name = chapter_of(path)  # also the section's name: 07_augment_small has params.augment
        own = [number for number, field in enumerate(fields) if PAGES.get(field, field) == name]
        used = fields[:own[-1] + 1] if own else fields
        told, asked = _told_params(path), _params(run.params)
        if all(_same(told.get(field), asked[field]) for field in used):
            holding.append(path)
    return holding


def without_page(run: Run) -> list[Path]:
    """The chapters whose results are there, made by papermill or a script, but not their pages."""
    there, made = {path.name for path in executed(run)}, _made(run)
    return [path for path in every() if path.name not in there and chapter_of(path) in made]


def complete(run: Run) -> set[str]:
    """The chapters in which nothing is left to do: all results of all generators are made, and no network has
    failed, which would be tried again."""
    fresh = Run(run.params)
    if run.params.tracking:
        return set()
    return {name for name in _made(fresh) if _of_further_generators(fresh, name)
            and (name not in GRIDS or not _any_failed(fresh.finished(name)))}


def _of_further_generators(run: Run, chapter: str) -> bool:
    """Whether the results of a chapter are there of all generators after the first as well."""
    try:
        for number in range(1, run.params.generators):
            for name in GENERATED:
                if PAGES.get(name, name) == chapter:
                    run.read(name, number)
    except UserError:  # NotMadeError is one
        return False
    return True


def kept(notebook: Path, run: Run) -> bool:
    """Whether the page of a complete chapter holds as it is: it is this user's own, and its parameters, the
    results that it shows, this program and its libraries are the same. It gets the run's parameters, those of
    later chapters included, as if it had been executed again."""
    page = run.folder / "notebooks" / notebook.name
    if page not in executed(run) or not ownpages.own(page, page.read_bytes()):
        return False
    told = nbformat.read(page, as_version=4)
    if told.metadata[OWN].get("shows") != _shows(notebook, run):
        return False
    if told.metadata[OWN]["params"] != _params(run.params):
        told.metadata[OWN]["params"] = _params(run.params)
        _write(page, told)
    return True


def _any_failed(grid: Tested | None) -> bool:
    return grid is not None and bool(experiments.failed(grid.runs["status"]).any())


def _made(run: Run) -> set[str]:
    """The chapters whose results are all there."""
    status = run.status()["status"]
    done = set(status[status.isin(["made", "none"])].index)
    pages = {chapter: {name for name in status.index if PAGES.get(name, name) == chapter}
             for chapter in map(chapter_of, every())}
    # The summary makes nothing itself.
    return {chapter for chapter, page in pages.items() if (page or set(GRIDS)) <= done}


def _shows(notebook: Path, run: Run) -> str:
    """A hash of what decides a page, apart from its parameters: the results of its chapter and of those
    before it, the chapter itself, this program, and its libraries."""
    pages = [chapter_of(path) for path in every()]
    before = pages[:pages.index(chapter_of(notebook)) + 1] if chapter_of(notebook) in pages else []
    places = ((place.relative_to(run.folder), stamp) for place, stamp in stamps.in_place(run.folder))
    made = {str(place): stamp for place, stamp in places
            if PAGES.get(name := stamps.made_by(place), name) in before}
    return key({"made": made, "chapter": files.sha256(notebook), "program": _program(), **files.versions()})


@functools.cache
def _program() -> str:
    """A hash of the code of this package."""
    package = Path(__file__).parent
    return key({str(path.relative_to(package)): files.sha256(path) for path in package.rglob("*.py")})


def _same(told: Any, asked: Any) -> bool:
    """Whether a section is as the page recorded it; parameters that are newer than the page do not count."""
    if isinstance(told, dict) and isinstance(asked, dict):
        return all(value == asked.get(name, value) for name, value in told.items())
    return bool(told == asked)


def _params(values: Params) -> dict[str, Any]:
    return {name: value for name, value in plain(values).items() if name != "run_dir"}


def _told_params(path: Path) -> dict[str, Any]:
    """The parameters of its run in an executed notebook's metadata; {} if there are none."""
    try:
        notebook = nbformat.read(plain_file(path, MANY), as_version=4)
        nbformat.validate(notebook)
        told = notebook.metadata.get(OWN, {})
    except UNREADABLE:
        raise UserError(f"{path} cannot be read as a notebook. Move it away, and run its chapter "
                        "again.") from None
    values = told.get("params") if isinstance(told, dict) else None
    return values if isinstance(values, dict) else {}
