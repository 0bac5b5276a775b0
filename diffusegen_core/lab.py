"""`make lab`: JupyterLab at the checkout, with copies of the chapters to work in.

The chapters in notebooks/ belong to the checkout. A reader changes, runs and saves the copies in lab/, which
git ignores. A copy that nobody has changed follows its chapter; one that was changed stays as it is.
"""

import copy
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import zmq
from nbformat.sign import NotebookNotary
from pybtex.database import parse_file
from pybtex.richtext import Text

from diffusegen_core.config import devices
from diffusegen_core.store import files

ROOT = Path(__file__).parents[1]
FOLDER = "lab"
ROLE = re.compile(r"\{(?P<role>cite:t|cite:p|doc|eq|numref)\}"
                  r"`(?:(?P<title>[^`<]+?) *<)?(?P<target>[^`<>]+)>?`")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT_METADATA = {"tags", "mystnb"}  # of a cell; the rest is JupyterLab's
FLAGS = [
    f"--LabApp.default_url=/lab/tree/{FOLDER}",
    "--ContentsManager.pre_save_hook=diffusegen_core.lab.without_results",
    # Without these the server warns of its own default, and looks for a newer version of itself.
    f"--KernelManager.transport_encryption={'auto' if zmq.has('curve') else 'disabled'}",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]


def main() -> None:
    """Bring the copies up to date, then become JupyterLab; further arguments are its own."""
    for line in refresh(ROOT):
        print(line)
    for name, value in devices.ALLOCATOR.items():
        os.environ.setdefault(name, value)
    place = f"--ServerApp.root_dir={ROOT}"
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", place, *FLAGS, *sys.argv[1:]])


def refresh(root: Path) -> Iterator[str]:
    """Copy each chapter whose copy is absent or unchanged. Yields a line for each changed, outdated one."""
    cited = _cited(root / "book" / "references.bib")
    (root / FOLDER).mkdir(exist_ok=True)
    for chapter in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        fresh = for_lab(json.loads(chapter.read_text(encoding="utf-8")), cited)
        place = root / FOLDER / chapter.name
        copied, current = _copied(place)
        if not place.exists() or (copied == current and current != digest(fresh)):
            files.write_text(place, json.dumps(fresh, indent=1, ensure_ascii=False) + "\n")
            NotebookNotary().sign(nbformat.from_dict(fresh))  # so that JupyterLab trusts it
        elif copied != current and copied != fresh["metadata"]["diffusegen"]["copied"]:
            yield (f"{FOLDER}/{chapter.name} holds your changes and stays as it is, but its chapter is "
                   "newer. Rename it to get a new copy.")


def for_lab(notebook: dict[str, Any], cited: Callable[[str, str], str]) -> dict[str, Any]:
    """A chapter as JupyterLab shows it well: references to other pages as links, captions below figures."""
    cells = []
    for cell in copy.deepcopy(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            cell["source"] = _linked(_text(cell), cited)
        cells.append(cell)
        if caption := cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption"):
            cells.append({"cell_type": "markdown", "id": f"{cell['id']}-caption", "metadata": {},
                          "source": f"*Figure.* {_linked(caption, cited)}"})
    made = {**notebook, "cells": cells}
    return made | {"metadata": {**notebook["metadata"], "diffusegen": {"copied": digest(made)}}}


def digest(notebook: dict[str, Any]) -> str:
    """A hash of what a reader may change: the text of the cells, not what they returned."""
    return hashlib.sha256(json.dumps([_text(cell) for cell in notebook["cells"]]).encode()).hexdigest()


def without_results(path: str, model: dict[str, Any], **_: Any) -> None:
    """Called by the server before it saves: what is in notebooks/ is saved without results, as committed."""
    if model["type"] != "notebook" or not path.strip("/").startswith("notebooks/"):
        return
    notebook = model["content"]
    notebook["metadata"] = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    for cell in notebook["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key in KEPT_METADATA}
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)


def _copied(place: Path) -> tuple[str | None, str | None]:
    """The digest that a copy had when it was made, and its present one; they differ if there is no copy."""
    try:
        notebook = json.loads(place.read_text(encoding="utf-8"))
        return notebook["metadata"].get("diffusegen", {}).get("copied"), digest(notebook)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None, ""


def _text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _linked(text: str, cited: Callable[[str, str], str]) -> str:
    """MyST text in which each role that needs other pages is replaced by a link or plain words."""
    def plain(role: re.Match[str]) -> str:
        title, target = role["title"], role["target"]
        kind, _, label = target.partition("-")
        if role["role"] == "doc":
            number = target.partition("_")[0]
            page = f"{target}.ipynb" if number.isdigit() else f"../book/{target}.md"
            words = f"chapter {int(number)}" if number.isdigit() else target.replace("_", " ")
            return f"[{title or words}]({page})"
        if role["role"] == "eq":
            return f"([{label.replace('-', ' ')}](../book/method.md))"
        if role["role"] == "numref":
            return f"the {'figure' if kind == 'fig' else 'table'} *{label.replace('-', ' ')}*"
        return cited(role["role"], target)

    return ROLE.sub(plain, text)


def _cited(bibliography: Path) -> Callable[[str, str], str]:
    """The citation of works, by role and keys, as the book prints it."""
    entries = parse_file(str(bibliography)).entries

    def names(key: str) -> str:
        people = [str(Text.from_latex(" ".join(person.prelast_names + person.last_names)))
                  for person in entries[key].persons["author"]]
        return " and ".join(people) if len(people) < 3 else f"{people[0]} et al."

    def cited(role: str, keys: str) -> str:
        works = [(names(key.strip()), entries[key.strip()].fields["year"]) for key in keys.split(",")]
        if role == "cite:t":
            return ", ".join(f"{people} ({year})" for people, year in works)
        return f"({'; '.join(f'{people}, {year}' for people, year in works)})"

    return cited


if __name__ == "__main__":
    main()
