"""The grid: named by what defines it, resumed, retried, and never dead of one failure."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.text import duration
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.data.types import REAL as REAL_TYPE
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.segmentation import experiments, forecast
from diffusegen_core.segmentation.experiments import Experiment, Grid, Place, Results
from diffusegen_core.store import files, moves
from diffusegen_core.store.workspace import Workspace

REAL = Experiment("augment", REAL_TYPE, size=16, seed=0)
STYLED = Experiment("augment", DataType.parse("20-Styled-Diff"), size=16, ratio=3, seed=0)
TESTS = {"HyperKvasir": {"pairs": "a"}, "PolypGen": {"pairs": "b"}}
IMAGES = {"HyperKvasir": ["007", "NA"], "PolypGen": ["007"], "CVC-ClinicDB": ["1"]}
GRID = {e: {"epochs": 12, "data": e.data_type.name, "tests": TESTS}
        for e in (REAL, STYLED, replace(REAL, seed=1))}


def run(grid: Grid, work: Callable[..., None], folder: Path, again: bool = False,
        **options: object) -> Results:
    return experiments.run(Workspace(folder, again=again), "augment", "Grid", grid, work, **options)


def read(grid: Grid, folder: Path) -> Results:
    return experiments.read(Workspace(folder, writable=False), grid)


def describe(grid: Grid, folder: Path, *options: object) -> str:
    return forecast.describe(Workspace(folder, writable=False), "Small sets", grid, *options)


def place_of(experiment: Experiment, folder: Path) -> Path:
    return folder / "augment" / experiment.named(GRID[experiment])


def learn(place: Place, seconds: float = 0.0, loss: str = "loss") -> None:
    history = files.write_text(place.network.begin() / "history.csv", loss)
    place.trained([history], seconds, {"train_pairs": place.experiment.size, "best_epoch": 4},
                  lambda folder: files.write_text(folder / "model", place.experiment.label))


def answer(place: Place, dice: float = 0.5, seconds: float = 0.0,
           loss: str = "loss") -> tuple[bool, list[str]]:
    """Work as it should be: a network where none is kept, scores where there are none; and what it did."""
    if untrained := not place.kept:
        learn(place, seconds, loss)
    untested = place.untested
    for name in untested:
        rows = pd.DataFrame({"image": IMAGES[name], "dice": [dice, 1 / 3][:len(IMAGES[name])], "iou": 0.2,
                             "dice_both": 0.6, "iou_both": 0.7})
        shown = files.write_text(place.test(name).begin() / "shown", name)
        place.tested(name, rows, [shown], seconds / 10)
    return untrained, untested


class Recorder:
    """Work that keeps a list of its calls, and of what it did, and may have plans for some of them."""

    def __init__(self, *plans: Callable[[Experiment], object], loss: str = "loss"):
        self.calls, self.plans, self.trained, self.scored, self.loss = [], list(plans), [], [], loss

    def __call__(self, place: Place) -> None:
        e = place.experiment
        self.calls.append((e, place.folder))
        if self.plans:
            self.plans.pop(0)(e)
        trained, scored = answer(place, loss=self.loss)
        self.trained += [e] * trained
        self.scored += [(e, name) for name in scored]


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
    assert Experiment("segment", GAN, samples=2, seed=1).label == "GAN-2-seed1"
    others = [STYLED.named({"epochs": 13}), replace(STYLED, chapter="segment").named({"epochs": 12})]
    assert len({name, *others}) == 3
    assert replace(STYLED).named({"epochs": 12, "tests": TESTS}) == name, "of the network, not of its tests"


def test_a_grid_becomes_one_tidy_table(tmp_path: Path):
    work = Recorder()
    results = run(GRID, work, tmp_path)
    assert [e for e, _ in work.calls] == list(GRID)
    assert [folder.name for _, folder in work.calls] == [e.named(r) for e, r in GRID.items()]
    assert list(results.images) == [*experiments.FIELDS, *experiments.IMAGE, "generator"]
    assert len(results.images) == 9
    styled = results.images[results.images["data_type"] == "20-Styled-Diff"]
    assert styled["image"].tolist() == ["007", "NA", "007"]
    assert styled["dice"].tolist() == [0.5, 1 / 3, 0.5]
    assert styled["test_set"].tolist() == ["HyperKvasir", "HyperKvasir", "PolypGen"]
    assert (styled["ratio"] == 3).all()
    assert results.images.loc[results.images["data_type"] == "Real", "ratio"].isna().all()
    assert results.runs["status"].eq("ok").all()
    assert results.runs[["train_pairs", "best_epoch"]].to_numpy().tolist() == [[16, 4]] * 3
    assert results.failed.empty
    for name, frame in (("results.csv", results.images), ("runs.csv", results.runs)):
        assert (tmp_path / "augment" / name).read_text() == frame.to_csv(index=False)


def test_what_is_finished_is_not_done_again_unless_it_no_longer_holds(tmp_path: Path):
    first = run(GRID, Recorder(), tmp_path)
    again = Recorder()
    second = run(GRID, again, tmp_path)
    assert again.calls == []
    pd.testing.assert_frame_equal(first.images, second.images)
    pd.testing.assert_frame_equal(first.runs, second.runs)
    changed = {**GRID, STYLED: {"epochs": 13, "tests": TESTS}}
    run(changed, again, tmp_path)
    assert [e for e, _ in again.calls] == [STYLED]


# ---- a network once, and its scores on each test set once


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files.below(folder)}


def with_test(name: str, recipe: dict) -> dict:
    return {e: {**known, "tests": {**TESTS, name: recipe}} for e, known in GRID.items()}


def test_scores_that_are_set_aside_are_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run(GRID, Recorder(), tmp_path)
    run(with_test("PolypGen", {"pairs": "others"}), Recorder(), tmp_path)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert told[0].startswith("The scores of 3 networks on PolypGen no longer hold")


def test_another_test_set_trains_nothing_and_scores_no_other(tmp_path: Path):
    run(GRID, Recorder(), tmp_path)
    more, new = Recorder(), with_test("CVC-ClinicDB", {"pairs": "c"})
    results = run(new, more, tmp_path)
    assert more.trained == []
    assert more.scored == [(e, "CVC-ClinicDB") for e in GRID]
    assert results.images.groupby("test_set", sort=False).size().tolist() == [6, 3, 3]
    other = Recorder()
    run(with_test("PolypGen", {"pairs": "others"}), other, tmp_path)
    assert (other.trained, other.scored) == ([], [(e, "PolypGen") for e in GRID])
    fewer = run({e: {**r, "tests": {"HyperKvasir": {"pairs": "a"}}}
                                     for e, r in GRID.items()}, other, tmp_path)
    assert set(fewer.images["test_set"]) == {"HyperKvasir"}
    assert len(other.calls) == 3


@pytest.mark.parametrize("broken", ["results.csv", "shown"])
@pytest.mark.parametrize("how", ["lost", "cut"])
def test_scores_that_were_changed_by_hand_are_told_and_made_again_on_request(tmp_path: Path, broken: str,
                                                                             how: str):
    first = run(GRID, Recorder(), tmp_path)
    file = place_of(REAL, tmp_path) / "tests" / "PolypGen" / broken
    content = file.read_text()
    file.unlink() if how == "lost" else file.write_text(content[:-3])
    again = Recorder()
    with pytest.raises(UserError, match=rf"tests/PolypGen was changed by hand: {broken} .*--remake augment"):
        run(GRID, again, tmp_path)
    with pytest.raises(UserError, match="changed by hand"):
        read(GRID, tmp_path)
    pd.testing.assert_frame_equal(run(GRID, again, tmp_path, again=True).images, first.images)
    assert (again.trained, again.scored) == ([], [(REAL, "PolypGen")])
    assert file.read_text() == content
    kept = [path.read_text() for path in (tmp_path / "aside").rglob(broken)]
    assert kept == ([] if how == "lost" else [content[:-3]])


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '"text"', "{}", '{"seconds": "3"}'])
def test_scores_with_a_damaged_stamp_are_made_again_on_request_and_kept(tmp_path: Path, text: str):
    first = run(GRID, Recorder(), tmp_path)
    folder = place_of(REAL, tmp_path) / "tests" / "PolypGen"
    before = {path.name: path.read_text() for path in folder.iterdir() if path.name != "made.json"}
    (folder / "made.json").write_text(text)
    again = Recorder()
    for act in (lambda: read(GRID, tmp_path), lambda: run(GRID, again, tmp_path)):
        with pytest.raises(UserError, match=r"made\.json cannot be read.*--remake augment"):
            act()
    pd.testing.assert_frame_equal(run(GRID, again, tmp_path, again=True).images, first.images)
    assert (again.trained, again.scored) == ([], [(REAL, "PolypGen")])
    for name, content in before.items():
        assert content in [path.read_text() for path in (tmp_path / "aside").rglob(name)]


def test_a_lost_output_of_training_is_told_and_made_again_on_request(tmp_path: Path):
    run(GRID, Recorder(), tmp_path)
    file = place_of(REAL, tmp_path) / "network" / "history.csv"
    file.unlink()
    again = Recorder()
    with pytest.raises(UserError, match=r"history\.csv is missing"):
        run(GRID, again, tmp_path)
    run(GRID, again, tmp_path, again=True)
    assert (again.trained, again.scored) == ([REAL], []), "the same training gives the same network"
    assert file.is_file()


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda folder: (folder / "made.json").write_text("{")])
def test_results_hold_without_the_weights_that_another_test_set_needs(tmp_path: Path, damage: Callable):
    run(GRID, Recorder(), tmp_path)
    damage(place_of(REAL, tmp_path) / "weights")
    again = Recorder()
    run(GRID, again, tmp_path)
    assert again.calls == []
    new = with_test("CVC-ClinicDB", {"pairs": "c"})
    run(new, again, tmp_path, again=True)
    assert again.trained == [REAL]
    assert [name for e, name in again.scored if e == REAL] == ["CVC-ClinicDB"]


def test_another_training_that_gives_another_network_is_scored_anew_and_the_first_is_kept(tmp_path: Path):
    """As on a GPU, where a training cannot be repeated bit by bit."""
    run(GRID, Recorder(), tmp_path)
    folder = place_of(REAL, tmp_path)
    before = {(folder / name).read_bytes() for name in files.below(folder)
              if name.startswith(("network/", "tests/"))}
    shutil.rmtree(folder / "weights")
    again = Recorder(loss="another loss")
    results = run(with_test("CVC-ClinicDB", {"pairs": "c"}), again, tmp_path)
    assert again.trained == [REAL]
    assert [name for e, name in again.scored if e == REAL] == [*TESTS, "CVC-ClinicDB"]
    assert results.runs["status"].eq("ok").all()
    assert before <= set(contents(tmp_path / "aside").values()) | set(contents(folder).values())


@pytest.mark.parametrize("moved", [True, False])
def test_weights_that_were_finished_before_a_kill_are_not_written_anew(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool):
    place, = experiments.places(Workspace(tmp_path), {REAL: GRID[REAL]}).values()
    real = moves.into_place

    def killed(source: Path, folder: Path, aside: Path) -> None:
        if moved and folder == place.weights:
            return real(source, folder, aside)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(moves, "into_place", killed)
        with pytest.raises(KeyboardInterrupt):
            learn(place)
    written, = (path.stat().st_ino for path in tmp_path.rglob("model"))
    learn(place)
    assert (place.kept, place.weights.joinpath("model").stat().st_ino) == (True, written)


def test_weights_that_were_changed_are_told_by_the_experiment_that_needs_them(tmp_path: Path):
    run(GRID, Recorder(), tmp_path)
    (place_of(REAL, tmp_path) / "weights" / "model").write_text("other")
    assert run(GRID, Recorder(), tmp_path).runs["status"].eq("ok").all()
    new, again = with_test("CVC-ClinicDB", {"pairs": "c"}), Recorder()
    status = run(new, again, tmp_path).runs["status"].tolist()
    assert "changed by hand: model is not the file" in status[0]
    assert status[1:] == ["ok", "ok"]
    assert run(new, again, tmp_path, again=True).runs["status"].eq("ok").all()
    assert again.trained == [REAL]


def test_a_training_that_was_stopped_removes_nothing_of_the_network_before_it(tmp_path: Path):
    run(GRID, Recorder(), tmp_path)
    before = contents(tmp_path)
    place = Place(Workspace(tmp_path), REAL, GRID[REAL])
    files.write_text(place.network.begin() / "checkpoint", "half")
    assert (place.kept, place.untested, place.status) == (True, [], "ok")
    assert before.items() <= contents(tmp_path).items()


def test_what_other_values_set_aside_comes_back(tmp_path: Path):
    first = run(GRID, Recorder(), tmp_path)
    before = contents(tmp_path / "augment")
    run({e: {**recipe, "epochs": 3} for e, recipe in GRID.items()}, Recorder(), tmp_path)
    run({e: {**recipe, "tests": {"PolypGen": {"pairs": "others"}}} for e, recipe in GRID.items()}, Recorder(),
        tmp_path)
    again = Recorder()
    pd.testing.assert_frame_equal(run(GRID, again, tmp_path).images, first.images)
    assert again.calls == []
    after = contents(tmp_path / "augment")
    changed = {Path(name).name for name in before if before[name] != after[name]}
    assert changed <= {"runs.csv", "spent.json"}, "the seconds that were spent"


def test_a_read_only_workspace_reads_what_there_is_and_makes_nothing(tmp_path: Path):
    run({REAL: GRID[REAL]}, Recorder(), tmp_path)
    before = contents(tmp_path)
    assert read(GRID, tmp_path).runs["status"].tolist() == ["ok", "to do", "to do"]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["[1]", "3", '"text"', "{}", '{"seconds": "3"}'])
def test_files_that_are_not_of_their_shape_count_as_absent(tmp_path: Path, text: str):
    folder = place_of(REAL, tmp_path)
    for name in (experiments.FAILED, experiments.SPENT):
        files.write_text(folder / name, text)
    found = read(GRID, tmp_path).runs.set_index("name").loc[folder.name]
    assert (found["status"], found["seconds"]) == ("to do", 0)
    results = run(GRID, Recorder(), tmp_path)
    assert results.runs["status"].eq("ok").all()


# ---- the grid as a whole


def test_other_grids_leave_their_folders_but_no_rows(tmp_path: Path):
    run(GRID, Recorder(), tmp_path)
    results = run({REAL: GRID[REAL]}, Recorder(), tmp_path)
    assert results.runs["data_type"].tolist() == ["Real"]
    assert set(results.images["seed"]) == {0}
    assert (place_of(STYLED, tmp_path) / "network" / "made.json").is_file()


def test_a_failure_is_tried_once_more(tmp_path: Path):
    work = Recorder(fails(RuntimeError("out of memory")))
    results = run(GRID, work, tmp_path)
    assert [e for e, _ in work.calls] == [REAL, *GRID]
    assert results.runs["status"].eq("ok").all()
    assert not list(tmp_path.rglob("failed.json"))


def test_two_failures_leave_a_row_and_a_traceback_and_the_grid_goes_on(tmp_path: Path):
    work = Recorder(goes, fails(ValueError("first")), fails(ValueError("two\n  lines")))
    results = run(GRID, work, tmp_path)
    assert results.runs["status"].tolist() == ["ok", "failed: ValueError: two lines", "ok"]
    assert results.failed["name"].tolist() == [STYLED.named(GRID[STYLED])]
    assert set(results.images["data_type"]) == {"Real"}
    assert results.runs["train_pairs"].to_csv(index=False).split() == ["train_pairs", "16", '""', "16"]
    folder = tmp_path / "augment" / results.failed["name"].item()
    record = json.loads((folder / "failed.json").read_text())
    told = (folder / record["traceback"]).read_text()
    assert record["attempts"] == told.count("Traceback") == 2
    assert "ValueError: first" in told
    assert "two\n  lines" in told
    assert "failed: ValueError: two lines" in (tmp_path / "augment" / "runs.csv").read_text()

    again = Recorder()
    assert run(GRID, again, tmp_path).runs["status"].eq("ok").all()
    assert [e for e, _ in again.calls] == [STYLED]
    assert not list(tmp_path.rglob("failed.json")) + list(tmp_path.rglob("traceback.txt"))


def test_a_refusal_is_not_tried_again_in_the_same_call(tmp_path: Path):
    work = Recorder(goes, fails(UserError("the training diverged")))
    results = run(GRID, work, tmp_path)
    assert [e for e, _ in work.calls] == list(GRID)
    assert results.runs["status"].tolist() == ["ok", "failed: UserError: the training diverged", "ok"]
    folder = place_of(STYLED, tmp_path)
    assert json.loads((folder / "failed.json").read_text())["attempts"] == 1
    assert (folder / "traceback.txt").read_text().count("Traceback") == 1


def test_results_that_are_not_what_they_should_be_are_failures(tmp_path: Path):
    def work(place: Place) -> None:
        if place.experiment == REAL:
            learn(place)
            place.tested("HyperKvasir", pd.DataFrame({"image": ["same"] * 2}), [], 0)
        if place.experiment == STYLED:
            learn(place)
            place.tested("HyperKvasir", pd.DataFrame({"image": ["1"], "dice": 0.1}), [], 0)
        answer(place)
    status = run(GRID, work, tmp_path).runs["status"].tolist()
    assert status == ["failed: ValueError: the results have an image of HyperKvasir twice",
                      "failed: KeyError: \"['iou', 'dice_both', 'iou_both'] not in index\"", "ok"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_failure_and_the_next_call_goes_on(tmp_path: Path, stop: type[BaseException]):
    with pytest.raises(stop):
        run(GRID, Recorder(goes, fails(stop())), tmp_path)
    assert read(GRID, tmp_path).runs["status"].tolist() == ["ok", "to do", "to do"]
    rest = Recorder()
    run(GRID, rest, tmp_path)
    assert [e for e, _ in rest.calls] == list(GRID)[1:]


def test_where_all_fail_or_nothing_is_asked_the_tables_are_empty(tmp_path: Path):
    def work(place: Place) -> None:
        raise RuntimeError("no")
    for grid in (GRID, {}):
        results = run(grid, work, tmp_path)
        assert results.images.empty
        assert list(results.images) == [*experiments.FIELDS, *experiments.IMAGE, "generator"]
        assert len(results.failed) == len(results.runs) == len(grid)


@pytest.fixture
def clock(monkeypatch) -> list:
    """What time it is, in seconds, as work sets it."""
    now = [100.0]
    monkeypatch.setattr(experiments, "perf_counter", lambda: now[0])
    return now


def test_the_seconds_of_an_experiment_are_of_all_its_attempts(tmp_path: Path, clock: list):
    def work(place: Place) -> None:
        clock[0] += 10 + place.experiment.seed
        if place.experiment == STYLED or len(failures) == 0:
            failures.append(place)
            raise RuntimeError("no")
        answer(place, seconds=2.0)
    failures = []
    first = run(GRID, work, tmp_path).runs
    assert first["status"].str[:6].tolist() == ["ok", "failed", "ok"]
    assert first["seconds"].tolist() == [20.0, 20.0, 11.0]
    second = run(GRID, work, tmp_path).runs
    assert second["seconds"].tolist() == [20.0, 40.0, 11.0]
    table = pd.read_csv(tmp_path / "augment" / "runs.csv")
    assert table["seconds"].tolist() == [20.0, 40.0, 11.0]


def test_the_seconds_of_a_stopped_attempt_count_and_those_that_training_remembers(tmp_path: Path,
                                                                                  clock: list):
    def stopped(experiment: Experiment) -> None:
        clock[0] += 7
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        run(GRID, Recorder(stopped), tmp_path)
    assert read(GRID, tmp_path).runs["seconds"].tolist() == [7, 0, 0]
    # A killed process writes nothing, but its checkpoint knows the time.
    run(GRID, remembering, tmp_path)
    assert read(GRID, tmp_path).runs["seconds"].tolist() == pytest.approx([60, 60, 60])


def remembering(place: Place) -> None:
    """Work that says of itself that training took 50 s, and each test 5."""
    answer(place, seconds=50.0)


def test_an_item_of_the_grid_can_be_sent_to_another_process(tmp_path: Path, monkeypatch):
    sent = []
    monkeypatch.setattr(fanout, "run", lambda work, items, title, done: sent.extend(
        pickle.loads(pickle.dumps((work, item))) for item in items))
    run(GRID, sending, tmp_path, inputs=lambda experiment: {"factor": 0.5})
    for work, item in sent:
        work(**item.arguments)
    assert read(GRID, tmp_path).runs["status"].eq("ok").all()


def sending(place: Place, factor: float) -> None:
    answer(place, factor)


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
    run({STYLED: GRID[STYLED]}, Recorder(), tmp_path)
    run(GRID, Recorder(), tmp_path, cost=cost)
    assert bars[-1].began == (40.0, 60.0)
    assert bars[-1].n == 60.0
    assert "100%" in str(bars[-1])
    assert "2 of 2: Real-N16-seed1" in str(bars[-1])


def test_progress_counts_where_experiments_are_alike(tmp_path: Path, bars: list):
    run(GRID, Recorder(), tmp_path)
    assert " 3/3 " in str(bars[-1])


def test_scoring_alone_is_a_small_part_of_the_progress(tmp_path: Path, bars: list):
    run(GRID, Recorder(), tmp_path)
    run(with_test("CVC-ClinicDB", {"pairs": "c"}), Recorder(), tmp_path)
    assert bars[-1].began == pytest.approx((2.97, 3.0))
    assert "100%" in str(bars[-1])
    assert "/3.0" not in str(bars[-1]), "no count of items"


def test_an_estimate_scales_what_was_measured():
    assert forecast.estimate(80.0, cost, {REAL: 6.0, replace(REAL, seed=1): 4.0}) == pytest.approx(40.0)
    assert forecast.estimate(80.0, cost, {}) is None
    assert forecast.estimate(0, cost, {REAL: 6.0}) == 0


def test_a_dry_run_shows_the_grid_and_the_time(tmp_path: Path):
    text = describe(GRID, tmp_path, cost)
    assert text.splitlines()[0] == "Small sets: 3 experiments, 0 finished, 3 to do."
    assert [line.split() for line in text.splitlines()[1:-1]] == [
        ["data", "type", "real", "pairs", "r", "seeds", "finished"],
        ["Real", "16", "2", "0"], ["20-Styled-Diff", "16", "3", "1", "0"]]
    assert text.endswith("unknown until one is finished.")
    text = describe(GRID, tmp_path, cost, lambda: 2.0)
    assert text.endswith("Estimated time: 2 min 0 s, from a short trial on this machine.")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_what_is_finished_what_failed_and_what_it_cannot_know(tmp_path: Path):
    def work(place: Place) -> None:
        if place.experiment == STYLED:
            raise RuntimeError("no")
        answer(place, seconds=5.0)

    def never() -> float:
        raise AssertionError("no trial is needed where something was measured")
    run(GRID, work, tmp_path)
    text = describe({**GRID, replace(REAL, seed=2): None}, tmp_path, cost, never)
    assert text.startswith("Small sets: 4 experiments, 2 finished, 2 to do (1 failed before).")
    assert ["Real", "16", "3", "2"] in [line.split() for line in text.splitlines()]
    assert text.endswith("Estimated time: 25 s, from 2 finished experiments.")
    done = {e: GRID[e] for e in GRID if e != STYLED}
    assert describe(done, tmp_path).endswith("Nothing is left to do.")
    assert describe({}, tmp_path).startswith("Small sets: 0 experiments")


def test_a_dry_run_tells_what_is_only_to_be_scored(tmp_path: Path):
    run({e: GRID[e] for e in GRID if e != STYLED}, remembering, tmp_path)
    new = with_test("CVC-ClinicDB", {"pairs": "c"})
    assert read(new, tmp_path).runs["status"].tolist() == ["to score", "to do", "to score"]
    text = describe(new, tmp_path, cost, lambda: 1.0)
    assert text.startswith("Small sets: 3 experiments, 0 finished, 2 to score, 1 to do.")
    assert text.endswith(f"Estimated time: {duration(40 + 2 * 10 * experiments.SCORING)}, from a short "
                         "trial on this machine.")
    shutil.rmtree(place_of(REAL, tmp_path) / "weights")
    assert read(new, tmp_path).runs["status"].tolist() == ["to do", "to do", "to score"]


def test_the_stamp_keeps_what_defines_the_experiment(tmp_path: Path):
    run(GRID, Recorder(), tmp_path)
    stamp = files.read_json(place_of(STYLED, tmp_path) / "network" / "made.json")
    assert stamp["recipe"] == {"epochs": 12, "data": "20-Styled-Diff", "experiment": {
        "chapter": "augment", "data_type": "20-Styled-Diff", "size": 16, "samples": None, "ratio": 3,
        "seed": 0}}
    assert stamp["facts"] == {"train_pairs": 16, "best_epoch": 4}
