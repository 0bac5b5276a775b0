"""How far a run is: which chapters are made, which are not, and why."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params
from diffusegen_core.store.artifacts import NotMadeError, OutdatedError

# The chapters in the order in which they are made, and what `Run` calls the result of each.
RESULTS = {"data": "pairs", "cluster": "clusters", "windows": "windows", "train": "models",
           "inpaint": "inpainted", "paste": "pasted", "style": "styled", "gan": "gan", "sets": "synthetic",
           "evaluate": "evaluated", "tests": "tests", "scorers": "", "filter": "filtered",
           "further": "further", "segment": "segmented", "augment": "augmented"}
# The chapters whose pages make results, in the book's order, and their numbers there.
NUMBERS = {"cluster": 1, "train": 2, "inpaint": 3, "style": 4, "evaluate": 5, "segment": 6, "augment": 7}
COLUMNS = ["status", "reason", "differing", "set_aside"]  # of `table`
NONE = ("none", "The parameters ask for none.", (), False)


@contextlib.contextmanager
def readable(folder: Path, name: str) -> Iterator[None]:
    """Turns errors in reading a finished result, other than MemoryError, into UserErrors: a run may come from
    someone else, and its files need not be what its stamps say."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        why = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        raise UserError(f"The chapter {name} in {folder} cannot be read ({why}). Move its folder away, and "
                        "the next run makes it again.") from error


def chapter(name: str) -> str:
    """The chapter that a name means: its own, or that of its result in `Run`, such as "models". UserError,
    listing the valid names, for any other."""
    by_result = {result: own for own, result in RESULTS.items() if result}
    if (meant := by_result.get(name, name)) in RESULTS:
        return meant
    raise UserError(f"There is no chapter {name}. There are, with their results: " + ", ".join(
        f"{own} (run.{result})" if result else own for own, result in RESULTS.items()) + ".")


def table(p: Params, read: Callable[[str], Any]) -> pd.DataFrame:
    """One row per chapter: its `status` ("made", "none", "to make", "stale", "refused") and the `reason`;
    what is `differing`, as in NotMadeError, from the parameters asked for; and whether the version asked for
    is `set_aside`.

    A chapter is stale if it, or one that it needs, was made with other parameters.
    """
    # Left out: windows that are the pairs themselves, and further generators or a filter not asked for.
    alike = {"windows": not p.data.window, "further": p.generators == 1,
             **dict.fromkeys(("scorers", "filter"), not p.filter.folds)}
    unasked = [*([] if p.gan.source else ["gan"]), *([] if p.inpaint.baselines else ["paste"])]
    rows = [(name, *(NONE if name in unasked else _of(name, read)))
            for name in RESULTS if not alike.get(name)]
    return pd.DataFrame(rows, columns=["chapter", *COLUMNS]).set_index("chapter")


def _of(name: str, read: Callable[[str], Any]) -> tuple[str, str, tuple[str, ...], bool]:
    """The values of COLUMNS."""
    try:
        result = read(name)
    except NotMadeError as error:
        status = "stale" if isinstance(error, OutdatedError) else "to make"
        return status, str(error), error.differing, error.set_aside
    except UserError as error:
        return "refused", str(error), (), False
    if result is None:
        return NONE
    if not getattr(result, "complete", True):  # a grid, of which a part can be read
        return "to make", f"{result.unfinished} of {len(result.runs)} networks are not finished.", (), False
    return "made", "", (), False
