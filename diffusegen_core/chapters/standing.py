"""How far a run is: which chapters are made, which are not, and why."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from diffusegen_core.config.errors import UserError
from diffusegen_core.store.artifacts import NotMadeError, OutdatedError


def table(names: Iterable[str], read: Callable[[str], Any]) -> pd.DataFrame:
    """A row a chapter: its status ("made", "none", "to make", "stale", "refused"), and the reason.

    Stale is what was made with other parameters, and what needs that.
    """
    rows = [(name, *_of(name, read)) for name in names]
    return pd.DataFrame(rows, columns=["chapter", "status", "reason"]).set_index("chapter")


def _of(name: str, read: Callable[[str], Any]) -> tuple[str, str]:
    try:
        result = read(name)
    except OutdatedError as error:
        return "stale", str(error)
    except NotMadeError as error:
        return "to make", str(error)
    except UserError as error:
        return "refused", str(error)
    if result is None:
        return "none", "The parameters ask for none."
    if not getattr(result, "complete", True):  # a grid, of which a part can be read
        return "to make", f"{result.unfinished} of {len(result.runs)} networks are not finished."
    return "made", ""
