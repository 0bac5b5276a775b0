"""U1 of the cases: one source or two are enough for all chapters and for every page about them."""

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from diffusegen_core import notebooks
from diffusegen_core.config import params
from diffusegen_core.report import opening
from diffusegen_core.run import Run


def code(notebook: Path) -> Iterator[str]:
    """The code cells of a chapter, but for the two that say which run it is of."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            yield "".join(cell["source"])


@pytest.mark.parametrize("sources", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_cell_of_every_chapter_runs_with_few_sources(sources: int, nano: dict,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(params.validate(params.merged(nano, {
        "inpaint.sources": sources, "gan.sources": 1, "augment.sizes": [sources], "segment.epochs": 1,
        "inpaint.baselines": ["Paste"]})))
    monkeypatch.setattr(Run, "from_notebook", lambda namespace: run)
    monkeypatch.setattr(plt, "show", lambda *_: None)
    for notebook in notebooks.every():
        namespace = {"profile": "smoke", "changes": {}, "display": lambda *shown: None}
        for cell in code(notebook):
            exec(compile(cell, f"{notebook.stem}: {cell[:60]}", "exec"), namespace)
        plt.close("all")
    assert len(run.segmented.runs)
    page = opening.page(Run.open(run.folder))
    assert "## The answers" in page
    assert "part is not here (" not in page  # an error that no one foresaw
