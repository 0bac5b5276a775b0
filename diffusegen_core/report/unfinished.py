"""What a run has not made yet, and the command that continues it."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.report.tables import escaped
from diffusegen_core.run import GRIDS, Run
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.ownparams import PARAMS

AGAIN = "The command that began this run, without `--to`, does the same."
SUMMARY = "08_summary.ipynb"  # the last chapter's page, which is all that it makes
NO_CODE = set("`<>&")  # characters not allowed in a code span that JupyterLab renders as HTML


@dataclass
class Progress:
    """How far the chapters of a run are."""

    made: set[str] = field(default_factory=set)
    """The names of those that have a result, or a part of one."""
    todo: list[int] = field(default_factory=list)
    """The numbers of those that are not made, or only in part."""
    partly: bool = False
    """Whether one of `todo` is made in part."""
    refused: dict[str, int] = field(default_factory=dict)
    """The number of the first chapter that cannot be read, by the reason why."""


def of(run: Run) -> Progress:
    """How far a run is; nothing is made."""
    progress = Progress()
    for name, number in NUMBERS.items():
        try:
            result = run.read(name)
        except NotMadeError:
            progress.todo.append(number)
            continue
        except UserError as error:
            progress.refused.setdefault(plain(run, error), number)
            continue
        grid = name in GRIDS
        there = not grid or len(result.images) > 0
        if grid and not result.complete:
            progress.todo.append(number)
            progress.partly |= there
        if there:
            progress.made.add(name)
    pages = run.folder / "notebooks"
    if progress.todo and not any((place / SUMMARY).is_file() for place in (pages, pages / "running")):
        progress.todo.append(len(NUMBERS) + 1)
    return progress


def plain(run: Run, error: Exception) -> str:
    """An error's message as MyST, with the run's name in place of its path on this machine."""
    return escaped(str(error).replace(str(run.folder), run.folder.name))


def told(run: Run, progress: Progress) -> Iterator[str]:
    """What is missing and how to go on, as sentences in MyST; none for a finished run."""
    yield from (f"Chapter {number} cannot be read: {why}" for why, number in progress.refused.items())
    if progress.todo:
        several = len(progress.todo) > 1
        yield (f"Chapter{'s' if several else ''} {spans(progress.todo)} {'are' if several else 'is'} not "
               f"{'finished' if progress.partly else 'made'}. Next: {command(run)}. {AGAIN}")


def command(run: Run) -> str:
    """The command that continues a run, as MyST: with its path relative to `params.home`, or, if the run lies
    elsewhere, to be given in the run's folder. No page carries a full path of this machine."""
    home = params.home()
    if run.folder.is_relative_to(home):
        return _code(f"diffusegen run {shlex.quote(str((run.folder / PARAMS).relative_to(home)))}")
    return f"{_code(f'diffusegen run {PARAMS}')} in the folder {escaped(run.folder.name)}"


def spans(numbers: list[int]) -> str:
    """Ascending numbers in words: "5", "2 and 3", "1, 3 and 5 to 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    words = [text for part in parts for text in
             ([f"{part[0]} to {part[-1]}"] if len(part) > 2 else map(str, part))]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _code(text: str) -> str:
    return escaped(text) if NO_CODE & set(text) else f"`{' '.join(text.split())}`"
