"""The tour: a mask is moved, and what is painted there is shown; with sliders, and without ipywidgets."""

import builtins
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import pytest
from IPython.display import Markdown
from matplotlib import pyplot as plt

from diffusegen_core import notebooks
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import planes
from diffusegen_core.report import tour
from diffusegen_core.run import Run


@pytest.fixture(scope="module")
def run(finished: Path) -> Run:
    return Run.open(finished)


def middle(mask: np.ndarray) -> tuple[float, float]:
    """x and y of the middle of what a mask (H, W) marks, as shares of the picture."""
    ys, xs = np.nonzero(mask)
    return (float(xs.min() + xs.max()) / 2 / (mask.shape[1] - 1),
            float(ys.min() + ys.max()) / 2 / (mask.shape[0] - 1))


@pytest.mark.parametrize(("x", "y"), [(0.3, 0.7), (0.5, 0.5), (0.75, 0.25)])
def test_a_mask_goes_where_it_is_moved(x: float, y: float) -> None:
    mask = np.zeros((41, 61), np.uint8)
    mask[3:14, 5:20] = 1
    where = tour.moved(mask, x, y)
    assert middle(where) == pytest.approx((x, y), abs=0.02)
    assert where.sum() == pytest.approx(mask.sum(), rel=0.1)


def test_a_mask_of_twice_the_size_has_four_times_the_area() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[5:15, 5:15] = 1
    assert tour.moved(mask, 0.5, 0.5, 2.0).sum() == pytest.approx(4 * mask.sum(), rel=0.1)


def test_classes_move_together_and_keep_their_numbers() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:15, 5:10], mask[5:15, 10:15] = 1, 3
    where = tour.moved(mask, 0.7, 0.7)
    assert set(np.unique(where)) == {0, 1, 3}
    assert middle(where == 1)[0] < middle(where == 3)[0]


def test_an_empty_mask_stays_empty() -> None:
    assert not tour.moved(np.zeros((9, 9), np.uint8), 0.5, 0.5).any()


def test_what_is_painted_lies_where_the_mask_was_moved(run: Run) -> None:
    figure = tour.paint(run, number=1, x=0.6, y=0.4, size=0.7)
    source, moved, painted, outlined = (ax.images[0].get_array() for ax in figure.axes)
    old = planes.numbered(run.pairs.masks[1])
    new = tour.moved(old, 0.6, 0.4, 0.7)
    assert np.array_equal(source, moved)
    assert np.array_equal(painted, outlined)
    changed = np.any(np.asarray(source) != np.asarray(painted), axis=2)
    assert changed[new > 0].any()
    assert changed[old > 0].any()  # the old one is painted over
    plt.close(figure)


def test_a_pair_that_there_is_not_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="no pair 10: this run has pairs 0 to 9"):
        tour.paint(run, number=10)


def test_sliders_show_a_picture_that_follows_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(tour, "paint", lambda run, **values: asked.append(values) or plt.figure())
    box = tour.sliders(run)
    right = box.children[1].children[0]
    right.value = 0.8
    assert [values["x"] for values in asked] == [0.5, 0.8]


def test_a_mask_that_fills_the_picture_is_told_and_not_raised(run: Run, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(tour, "display", shown.append)
    whole = np.ones((16, 16), np.uint8)
    monkeypatch.setattr(tour, "moved", lambda mask, *_: whole)
    tour._show(run, {"number": 0})
    assert isinstance(shown[0], Markdown)
    assert "nothing is left to paint into" in shown[0].data


def test_without_ipywidgets_a_sentence_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ipywidgets":
            raise ImportError(name)
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert tour.sliders(run).data == tour.NEEDS_WIDGETS


def test_the_tour_runs_in_a_run_of_ones_own_and_is_no_chapter(finished: Path, tmp_path: Path) -> None:
    path = notebooks.NOTEBOOKS / f"{notebooks.TOUR}.ipynb"
    assert path.is_file()
    assert path not in notebooks.every()
    done = tmp_path / "tour.ipynb"
    papermill.execute_notebook(str(path), str(done), {"profile": str(finished), "changes": {}},
                               kernel_name="python3", progress_bar=False)
    outputs = [output for cell in nbformat.read(done, as_version=4).cells if cell.cell_type == "code"
               for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= kinds
    drawn = [sum("image/png" in output.get("data", {}) for output in cell.outputs)
             for cell in nbformat.read(done, as_version=4).cells if cell.cell_type == "code"]
    assert drawn[-2:] == [1, 1]  # with numbers, and the picture of one's own
