"""Parameters with a reason for each, and the YAML file that they become."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

WIDE = 118  # most characters in a line of the file


class Line(NamedTuple):
    """A value and why it was chosen; "" where the name says it all."""

    value: Any
    reason: str = ""


Sections = dict[str, dict[str, Line]]


def values(sections: Sections) -> dict[str, Any]:
    """The parameters as plain values, without reasons; those in the section "" are at the top level."""
    plain: dict[str, Any] = {name: line.value for name, line in sections.get("", {}).items()}
    return plain | {section: {name: line.value for name, line in lines.items()}
                    for section, lines in sections.items() if section}


def changed(sections: Sections, changes: Mapping[str, Any], reason: str) -> Sections:
    """The sections with the changed values, given in sections too, and one reason for them all."""
    result = {section: dict(lines) for section, lines in sections.items()}
    for section, value in changes.items():
        if isinstance(value, Mapping):
            result.setdefault(section, {}).update({name: Line(one, reason) for name, one in value.items()})
        else:
            result.setdefault("", {})[section] = Line(value, reason)
    return result


def text(head: str, sections: Sections) -> str:
    """The text of the file: a head that says what it is, and the sections with their reasons."""
    parts = [textwrap.fill(head, WIDE, initial_indent="# ", subsequent_indent="# ")]
    for section, lines in sections.items():
        indent = "  " if section else ""
        rows = [_row(indent, name, line) for name, line in lines.items()]
        parts.append("\n".join([*([f"{section}:"] if section else []), *rows]))
    return "\n\n".join(parts) + "\n"


def _row(indent: str, name: str, line: Line) -> str:
    # JSON is YAML, and quotes strings that YAML would read as something else.
    row = f"{indent}{name}: {json.dumps(line.value, ensure_ascii=False)}"
    if not line.reason:
        return row
    if len(whole := f"{row:26}  # {line.reason}") <= WIDE:
        return whole
    return textwrap.fill(line.reason, WIDE, initial_indent=f"{indent}# ",
                         subsequent_indent=f"{indent}# ") + f"\n{row}"
