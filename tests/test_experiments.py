"""The grid: named by what defines it, resumed, retried, and never dead of one failure."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from diffusegen_core import experiments, fanout, progress, runs
from diffusegen_core.experiments import Experiment

REAL = Experiment("augment", "Real", size=16, seed=0)
STYLED = Experiment("augment", "20-Styled-Diff", size=16, ratio=3, seed=0)
GRID = {e: {"epochs": 12, "data": e.data_type} for e in (REAL, STYLED, replace(REAL, seed=1))}


def answer(experiment: Experiment, dice: float = 0.5) -> tuple[pd.DataFrame, dict]:
    rows = pd.DataFrame({"test_set": ["HyperKvasir", "HyperKvasir", "PolypGen"],
                         "image": ["007", "NA", "007"], "dice": [dice, 1 / 3, 0.1], "iou": 0.2,
                         "dice_both": 0.6, "iou_both": 0.7})
    return rows, {"train_pairs": experiment.size, "best_epoch": 4}


class Recorder:
    """Work that keeps a list of its calls and may have plans for some of them."""

    def __init__(self, *plans: Callable[[Experiment], object]):
        self.calls, self.plans = [], list(plans)

    def __call__(self, experiment: Experiment, folder: Path) -> tuple[pd.DataFrame, dict]:
        self.calls.append((experiment, folder))
        if self.plans:
            self.plans.pop(0)(experiment)
        return answer(experiment)


def fails(error: BaseException) -> Callable[[Experiment], None]:
    def plan(experiment: Experiment) -> None:
        raise error
    return plan


def goes(experiment: Experiment) -> None:
    pass


def test_a_name_is_readable_and_hashes_all_that_defines_the_experiment():
    name = STYLED.named({"epochs": 12})
    assert name.startswith("20-Styled-Diff-N16-r3-seed0-")
    assert len(name) == len("20-Styled-Diff-N16-r3-seed0-") + 8
    assert Experiment("segment", "GAN", samples=2, seed=1).label == "GAN-2-seed1"
    others = [STYLED.named({"epochs": 13}), replace(STYLED, chapter="segment").named({"epochs": 12})]
    assert len({name, *others}) == 3
    assert replace(STYLED).named({"epochs": 12}) == name


def test_a_grid_becomes_one_tidy_table(tmp_path: Path):
    work = Recorder()
    results = experiments.run("Grid", GRID, work, tmp_path)
    assert [e for e, _ in work.calls] == list(GRID)
    assert [folder.name for _, folder in work.calls] == [e.named(r) for e, r in GRID.items()]
    assert list(results.images) == [*experiments.FIELDS, *experiments.IMAGE]
    assert len(results.images) == 9
    styled = results.images[results.images["data_type"] == "20-Styled-Diff"]
    assert styled["image"].tolist() == ["007", "NA", "007"]
    assert styled["dice"].tolist() == [0.5, 1 / 3, 0.1]
    assert (styled["ratio"] == 3).all()
    assert results.images.loc[results.images["data_type"] == "Real", "ratio"].isna().all()
    assert results.runs["status"].eq("ok").all()
    assert results.runs[["train_pairs", "best_epoch"]].to_numpy().tolist() == [[16, 4]] * 3
    assert results.failed.empty
    for name, frame in (("results.csv", results.images), ("runs.csv", results.runs)):
        assert (tmp_path / name).read_text() == frame.to_csv(index=False)


def test_what_is_finished_is_not_done_again_unless_it_no_longer_holds(tmp_path: Path):
    first = experiments.run("Grid", GRID, Recorder(), tmp_path)
    again = Recorder()
    second = experiments.run("Grid", GRID, again, tmp_path)
    assert again.calls == []
    pd.testing.assert_frame_equal(first.images, second.images)
    pd.testing.assert_frame_equal(first.runs, second.runs)
    (tmp_path / REAL.named(GRID[REAL]) / "results.csv").write_text("")
    changed = {**GRID, STYLED: {"epochs": 13}}
    experiments.run("Grid", changed, again, tmp_path)
    assert [e for e, _ in again.calls] == [REAL, STYLED]


def test_other_grids_leave_their_folders_but_no_rows(tmp_path: Path):
    experiments.run("Grid", GRID, Recorder(), tmp_path)
    results = experiments.run("Grid", {REAL: GRID[REAL]}, Recorder(), tmp_path)
    assert results.runs["data_type"].tolist() == ["Real"]
    assert set(results.images["seed"]) == {0}
    assert (tmp_path / STYLED.named(GRID[STYLED]) / "made.json").is_file()


def test_a_failure_is_tried_once_more(tmp_path: Path):
    work = Recorder(fails(RuntimeError("out of memory")))
    results = experiments.run("Grid", GRID, work, tmp_path)
    assert [e for e, _ in work.calls] == [REAL, *GRID]
    assert results.runs["status"].eq("ok").all()
    assert not list(tmp_path.rglob("failed.json"))


def test_two_failures_leave_a_row_and_a_traceback_and_the_grid_goes_on(tmp_path: Path):
    work = Recorder(goes, fails(ValueError("first")), fails(ValueError("two\n  lines")))
    results = experiments.run("Grid", GRID, work, tmp_path)
    assert results.runs["status"].tolist() == ["ok", "failed: ValueError: two lines", "ok"]
    assert results.failed["name"].tolist() == [STYLED.named(GRID[STYLED])]
    assert set(results.images["data_type"]) == {"Real"}
    assert results.runs["train_pairs"].to_csv(index=False).split() == ["train_pairs", "16", '""', "16"]
    folder = tmp_path / results.failed["name"].item()
    record = json.loads((folder / "failed.json").read_text())
    told = (folder / record["traceback"]).read_text()
    assert record["attempts"] == told.count("Traceback") == 2
    assert "ValueError: first" in told
    assert "two\n  lines" in told
    assert "failed: ValueError: two lines" in (tmp_path / "runs.csv").read_text()

    again = Recorder()
    assert experiments.run("Grid", GRID, again, tmp_path).runs["status"].eq("ok").all()
    assert [e for e, _ in again.calls] == [STYLED]
    assert not list(tmp_path.rglob("failed.json")) + list(tmp_path.rglob("traceback.txt"))


def test_results_that_are_not_what_they_should_be_are_failures(tmp_path: Path):
    def work(experiment: Experiment, folder: Path) -> tuple[pd.DataFrame, dict]:
        rows, facts = answer(experiment)
        if experiment == REAL:
            rows["image"] = "same"
        return (rows.drop(columns="iou") if experiment == STYLED else rows), facts
    status = experiments.run("Grid", GRID, work, tmp_path).runs["status"].tolist()
    assert status == ["failed: ValueError: the results have an image of a test set twice",
                      "failed: KeyError: \"['iou'] not in index\"", "ok"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_failure_and_the_next_call_goes_on(tmp_path: Path, stop: type[BaseException]):
    with pytest.raises(stop):
        experiments.run("Grid", GRID, Recorder(goes, fails(stop())), tmp_path)
    assert experiments.read(GRID, tmp_path).runs["status"].tolist() == ["ok", "to do", "to do"]
    rest = Recorder()
    experiments.run("Grid", GRID, rest, tmp_path)
    assert [e for e, _ in rest.calls] == list(GRID)[1:]


def test_where_all_fail_or_nothing_is_asked_the_tables_are_empty(tmp_path: Path):
    def work(experiment: Experiment, folder: Path) -> None:
        raise RuntimeError("no")
    for grid in (GRID, {}):
        results = experiments.run("Grid", grid, work, tmp_path)
        assert results.images.empty
        assert list(results.images) == [*experiments.FIELDS, *experiments.IMAGE]
        assert len(results.failed) == len(results.runs) == len(grid)


def test_work_may_know_its_seconds_better_than_the_clock(tmp_path: Path):
    def work(experiment: Experiment, folder: Path, base: float) -> tuple[pd.DataFrame, dict]:
        return answer(experiment)[0], {"seconds": base + experiment.seed}
    assert experiments.run("Grid", GRID, work, tmp_path, base=40.0).runs["seconds"].tolist() == [40, 40, 41]


def test_an_item_of_the_grid_can_be_sent_to_another_process(tmp_path: Path, monkeypatch):
    sent = []
    monkeypatch.setattr(fanout, "run", lambda work, items, title, done: sent.extend(
        pickle.loads(pickle.dumps((work, item))) for item in items))
    experiments.run("Grid", GRID, sending, tmp_path, factor=0.5)
    for work, item in sent:
        work(**item.arguments)
    assert experiments.read(GRID, tmp_path).images["dice"].max() == 0.5


def sending(experiment: Experiment, folder: Path, factor: float) -> tuple[pd.DataFrame, dict]:
    return answer(experiment, factor)


# ---- time

def cost(experiment: Experiment) -> float:
    return 10.0 * (1 + (experiment.ratio or 0))


@pytest.fixture
def bars(monkeypatch) -> list:
    """The progress bars that are made, each with the (done, total) that it started from."""
    made, real = [], progress.bar

    def bar(*args, **kwargs):
        made.append(real(*args, **kwargs))
        made[-1].began = (args[3], args[1])
        return made[-1]
    monkeypatch.setattr(progress, "bar", bar)
    return made


def test_progress_is_of_the_whole_grid_and_goes_by_cost(tmp_path: Path, bars: list):
    experiments.run("Grid", {STYLED: GRID[STYLED]}, Recorder(), tmp_path)
    experiments.run("Grid", GRID, Recorder(), tmp_path, cost=cost)
    assert bars[-1].began == (40.0, 60.0)
    assert bars[-1].n == 60.0
    assert "100%" in str(bars[-1])
    assert "2 of 2: Real-N16-seed1" in str(bars[-1])


def test_progress_counts_where_experiments_are_alike(tmp_path: Path, bars: list):
    experiments.run("Grid", GRID, Recorder(), tmp_path)
    assert " 3/3 " in str(bars[-1])


def test_an_estimate_scales_what_was_measured():
    todo = [STYLED, replace(STYLED, seed=1)]
    assert experiments.estimate(todo, cost, {REAL: 6.0, replace(REAL, seed=1): 4.0}) == pytest.approx(40.0)
    assert experiments.estimate(todo, cost, {}) is None
    assert experiments.estimate([], cost, {REAL: 6.0}) == 0


def test_a_dry_run_shows_the_grid_and_the_time(tmp_path: Path):
    text = experiments.describe("Small sets", GRID, tmp_path, cost)
    assert text.splitlines()[0] == "Small sets: 3 experiments, 0 finished, 3 to do."
    assert [line.split() for line in text.splitlines()[1:-1]] == [
        ["data", "type", "real", "pairs", "r", "seeds", "finished"],
        ["Real", "16", "2", "0"], ["20-Styled-Diff", "16", "3", "1", "0"]]
    assert text.endswith("unknown until one is finished.")
    text = experiments.describe("Small sets", GRID, tmp_path, cost, lambda: 2.0)
    assert text.endswith("Estimated time: 2 min 0 s, from a short trial on this machine.")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_what_is_finished_what_failed_and_what_it_cannot_know(tmp_path: Path):
    def work(experiment: Experiment, folder: Path) -> tuple[pd.DataFrame, dict]:
        if experiment == STYLED:
            raise RuntimeError("no")
        return answer(experiment)[0], {"seconds": 5.0}

    def never() -> float:
        raise AssertionError("no trial is needed where something was measured")
    experiments.run("Grid", GRID, work, tmp_path)
    text = experiments.describe("Small sets", {**GRID, replace(REAL, seed=2): None}, tmp_path, cost, never)
    assert text.startswith("Small sets: 4 experiments, 2 finished, 2 to do (1 failed before).")
    assert ["Real", "16", "3", "2"] in [line.split() for line in text.splitlines()]
    assert text.endswith("Estimated time: 25 s, from 2 finished experiments.")
    done = {e: GRID[e] for e in GRID if e != STYLED}
    assert experiments.describe("Small sets", done, tmp_path).endswith("Nothing is left to do.")
    assert experiments.describe("Small sets", {}, tmp_path).startswith("Small sets: 0 experiments")


def test_the_stamp_keeps_what_defines_the_experiment(tmp_path: Path):
    experiments.run("Grid", GRID, Recorder(), tmp_path)
    stamp = runs.read_json(tmp_path / STYLED.named(GRID[STYLED]) / "made.json")
    assert stamp["recipe"] == {"epochs": 12, "data": "20-Styled-Diff", "experiment": {
        "chapter": "augment", "data_type": "20-Styled-Diff", "size": 16, "samples": None, "ratio": 3,
        "seed": 0}}
    assert stamp["facts"] == {"train_pairs": 16, "best_epoch": 4}
