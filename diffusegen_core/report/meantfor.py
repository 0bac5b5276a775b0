"""Which cells of a chapter a run has: tags name the parameters for which a cell is meant."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

TAG = re.compile(r"(only|unless):([a-z_.]+)=(\w+)")
SHOWN = "only:output"  # of a cell that may have nothing to say


def meant(cells: Iterable[Any], values: Mapping[str, Any]) -> list[Any]:
    """The cells of a notebook that are meant for a run with these parameters, in sections.

    A tag such as "only:style.method=guided" keeps a cell to runs of that value, "unless:generators=1" to
    those of other values; None stands for all that is empty or 0. Values that are not known, as of a page by
    an older program, leave a cell in.
    """
    return [cell for cell in cells if all(_holds(tag, values) for tag in cell["metadata"].get("tags", []))]


def _holds(tag: str, values: Mapping[str, Any]) -> bool:
    told = TAG.fullmatch(tag)
    value: Any = values
    for part in told[2].split(".") if told else ():
        if not isinstance(value, Mapping) or part not in value:
            return True
        value = value[part]
    return told is None or (str(value or None) == told[3]) == (told[1] == "only")
