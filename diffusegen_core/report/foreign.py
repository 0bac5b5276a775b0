"""A chapter's page that somebody else has written, reduced to text and pictures.

Whatever such a notebook holds (MyST, HTML, settings of the book's builder) becomes text. Only cells that are
the same in this checkout's chapter are kept, as they are there. Outputs are pictures, text, and tables in the
form of `tables.Table`, each cell of which is escaped anew.
"""

import base64
import binascii
import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from diffusegen_core.report.tables import FOLDED, NOT_ASKED, NOTES, Table, escaped

Notebook = dict[str, Any]
INJECTED = "injected-parameters"  # papermill's tag
PICTURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}  # with how their files begin
NOTHING = "[An output that is neither text nor a picture is left out.]\n"
# A table as `Table` writes it.
TABLE = re.compile(r":::\{table\} (?P<caption>.*)\n:name: tab-(?P<name>[a-z0-9-]+)\n(:class: [a-z0-9-]+\n)?\n"
                   r"(?P<head>\|.*\|)\n(?P<rule>\|( :?-+:? \|)+)\n(?P<rows>(\|.*\|\n)*):::\n")
LIST = re.compile(r"(- .*\n)*")  # of its notes
CELL = re.compile(r" ((?:\\.|[^\\|])*) \|")


def as_text(page: Any, chapter: Notebook) -> Notebook:
    """Turn a notebook's JSON, of any shape, into one without markup but for what `chapter`, the same chapter
    of this checkout, has as well."""
    own = {(cell["cell_type"], _text(cell["source"])): cell for cell in chapter["cells"]}
    first = chapter["cells"][0]  # its title
    labels: set[str] = set()
    cells = [part for number, cell in enumerate(_dicts(_get(page, "cells")))
             for part in _cell(cell, own, labels, number)]
    titled = [cell for cell in cells if cell.get("source") == first["source"]]
    return {**chapter, "cells": cells if titled else [{**first}, *cells],
            "metadata": {**chapter["metadata"], "diffusegen": {"params": _params(page)}}}


def _cell(cell: Notebook, own: dict[tuple[str, str], Notebook], labels: set[str],
          number: int) -> Iterator[Notebook]:
    kind, source = str(cell.get("cell_type")), _text(cell.get("source"))
    outputs = [_output(output, labels) for output in _dicts(cell.get("outputs"))]
    tags = _get(cell.get("metadata"), "tags")
    if same := own.pop((kind, source), None):  # popped, as labels must be unique in the book
        yield {**same, "outputs": outputs} if kind == "code" else {**same}
    elif kind == "code" and isinstance(tags, list) and INJECTED in tags:
        yield _code(f"theirs-{number}", [], [INJECTED])
    else:
        outputs = [*([_stream(source)] if source.strip() else []), *outputs]
        yield _code(f"theirs-{number}", outputs, ["remove-input"])


def _code(name: str, outputs: list[Notebook], tags: list[str]) -> Notebook:
    return {"cell_type": "code", "execution_count": None, "id": name, "metadata": {"tags": tags},
            "outputs": outputs, "source": ""}


def _output(output: Notebook, labels: set[str]) -> Notebook:
    if output.get("output_type") == "stream":
        return _stream(_text(output.get("text")), "stderr" if output.get("name") == "stderr" else "stdout")
    if output.get("output_type") == "error":
        lines = output.get("traceback")
        return _stream("\n".join(map(str, lines)) if isinstance(lines, list) else str(output.get("evalue")))
    data = output.get("data")
    given = data if isinstance(data, dict) else {}
    shown = _table(_text(given.get("text/markdown")), labels) or _picture(given)
    if shown:
        return {"output_type": "display_data", "metadata": {}, "data": shown}
    return _stream(_text(given.get("text/plain")) or NOTHING)


def _stream(text: str, name: str = "stdout") -> Notebook:
    return {"output_type": "stream", "name": name, "text": text}


def _picture(data: Notebook) -> Notebook | None:
    for kind, beginning in PICTURES.items():
        try:
            content = base64.b64decode(_text(data.get(kind)))
        except (binascii.Error, ValueError):
            continue
        if content.startswith(beginning):
            return {kind: base64.b64encode(content).decode()}
    return None


def _table(text: str, labels: set[str]) -> Notebook | None:
    """A table of `tables`, alone or with what is folded below it, written anew; None for other text."""
    upper, *folds = re.split(r"\n::::\{dropdown\} (.*)\n", text)
    inner = {title: part.removesuffix("::::\n") for title, part in zip(folds[::2], folds[1::2], strict=True)}
    listed = inner.pop(NOTES, "")
    below = {title: _parsed(part, labels) for title, part in inner.items()}
    if not below.keys() <= {FOLDED, NOT_ASKED} or None in below.values() or not LIST.fullmatch(listed):
        return None
    table = _parsed(upper, labels)
    return {"text/markdown": replace(
        table, folded=below.get(FOLDED), others=below.get(NOT_ASKED),
        notes=tuple(escaped(_unescaped(line[2:])) for line in listed.splitlines()))._repr_markdown_()
    } if table else None


def _parsed(text: str, labels: set[str]) -> Table | None:
    match = TABLE.fullmatch(text)
    if match is None or match["name"] in labels:
        return None
    head, rule, *rows = [[_unescaped(cell) for cell in CELL.findall(line.removeprefix("|"))] for line in
                         (match["head"], match["rule"], *match["rows"].splitlines())]
    if any(len(row) != len(head) for row in (rule, *rows)):
        return None
    labels.add(match["name"])
    return Table(pd.DataFrame(rows, columns=head, dtype=object), [cell.endswith(":") for cell in rule],
                 f"tab-{match['name']}", escaped(_unescaped(match["caption"])))


def _unescaped(text: str) -> str:
    """The text that `tables.escaped` was given."""
    return html.unescape(re.sub(r"\\(.)", r"\1", text))


def _params(page: Any) -> Notebook:
    told = _get(_get(_get(page, "metadata"), "diffusegen"), "params")
    return told if isinstance(told, dict) else {}


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _dicts(value: Any) -> list[Notebook]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    """A text as notebooks store it, one string or a list of lines; "" for anything else."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value if isinstance(value, str) else ""
