"""What a user sees of a run under way: in a log, in a terminal, in the file that a chapter tells in."""

import io
import json
import logging
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

import distributed
import pytest

from diffusegen_core.parallel import fanout, machines, progress, remote
from diffusegen_core.planning import display, remaining
from diffusegen_core.planning.remaining import Ahead
from diffusegen_core.run import Run
from diffusegen_core.store import files


class Terminal(io.StringIO):
    """A file that is a terminal."""

    def isatty(self) -> bool:
        return True


def counting(name: str, steps: int) -> None:
    """A work item that takes so many steps."""
    with progress.bar(name, steps, "step") as bar:
        bar.delay = 0
        for step in range(steps):
            bar.update()
            bar.set_postfix(loss=f"{1 / (step + 1):.2f}")


def items(count: int = 2) -> list[fanout.Item]:
    return [fanout.Item(f"model-{n}", None, {"name": f"model-{n}", "steps": 4}) for n in range(count)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is told, however short."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(progress, "MOMENT", 0.0)
    for name in (progress.POSTED, "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_log_gets_plain_lines_of_all_levels_and_one_for_each_item(
        always: None, monkeypatch: pytest.MonkeyPatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    real, took = fanout.progress.say, []
    monkeypatch.setattr(progress, "say", lambda text, _: took.append(text) or real(text))
    fanout.run(counting, items(), "Training")
    text = said.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line for line in lines if " of 2: " in line and line.startswith("Training ")] == took
    assert [line.rpartition(", ")[0] for line in took] == [
        "Training 1 of 2: model-0", "Training 2 of 2: model-1"]
    assert any("; model-1 50%, about 10 s left (loss=0.50)" in line for line in lines)
    assert any(line.startswith("Training 75%, ") for line in lines), "an item's own share counts in the whole"


def going_on(name: str, told: list[progress.Level]) -> None:
    """A work item of ten steps, five of which were made before."""
    with progress.bar(name, 10, "step", 5) as bar:
        bar.update()
        told.append(progress.levels()[0])
        bar.update(4)


def test_what_was_made_before_does_not_shorten_the_time_that_is_left(always: None):
    """Of two items a half was made before; of the second that is known when it begins."""
    told: list[progress.Level] = []
    fanout.run(going_on, [fanout.Item(name, None, {"name": name, "told": told}) for name in "ab"], "Training")
    for level, made, left in zip(told, (1, 6), (14, 4), strict=True):
        assert level["left"] == pytest.approx(level["elapsed"] * left / made)


def grown(name: str, told: list[progress.Level]) -> None:
    """A work item of two bars, the first of which was nearly made before."""
    with progress.bar("first", 10, "step", 9) as bar:
        bar.update()
    with progress.bar("second", 10, "step") as bar:
        bar.update(5)
        told.append(progress.levels()[0])


def test_of_an_item_of_several_bars_none_tells_what_was_made_before(always: None):
    told: list[progress.Level] = []
    fanout.run(grown, [fanout.Item(name, None, {"name": name, "told": told}) for name in "ab"], "Training")
    assert [one["share"] for one in told] == [0, 0.5], "nor what is made"
    assert told[0]["left"] is None
    assert told[1]["left"] == pytest.approx(told[1]["elapsed"])


def test_what_workers_go_on_from_does_not_either():
    """Two items at their halves; one makes a step of ten, is lost with another, and goes on from its half."""
    sent = {name: fanout.Item(name, None, {}) for name in "ab"}
    with progress.bar("Training", 2, "item", shares=True) as bar:
        board = remote._Board(sent, bar, SimpleQueue())
        for message in ({"item": "a", "begun": "x"}, {"item": "a", "share": 0.6, "began": 0.5},
                        {"item": "b", "begun": "y"}, {"item": "b", "share": 0.5, "began": 0.5}):
            board._hear(message)
        assert (bar.n, bar.n - bar.initial) == (pytest.approx(1.1), pytest.approx(0.1))
        for message in ({"item": "a", "begun": "y"}, {"item": "a", "share": 0.7, "began": 0.5}):
            board._hear(message)
        assert (bar.n, bar.n - bar.initial) == (pytest.approx(1.2), pytest.approx(0.3))
        board.finish("a")
        assert (bar.n, bar.n - bar.initial) == (pytest.approx(1.5), pytest.approx(0.6))
        for share in (0.1, 0.9):
            board._hear({"item": "b", "share": share, "began": 0.0, "title": "Styling"})  # a second bar of it
            assert (bar.n, bar.initial) == (1, pytest.approx(0.4))
            assert bar.postfix == f"b Styling {share:.0%}"
        board.finish("b")
        assert bar.n == 2


def test_a_log_is_not_told_more_often_than_its_interval(always: None, monkeypatch: pytest.MonkeyPatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    monkeypatch.setattr(progress, "INTERVAL", 3600.0)
    monkeypatch.setattr(progress._reports, "last", time.monotonic())
    fanout.run(counting, items(), "Training")
    assert not [line for line in said.getvalue().splitlines() if "%" in line]


def test_what_took_but_a_moment_has_no_line(capfd: pytest.CaptureFixture[str]):
    progress.say("short", progress.MOMENT / 2)
    progress.say("long", progress.MOMENT)
    assert capfd.readouterr().err == "long\n"


def test_a_chapter_of_the_command_tells_in_a_file_and_not_in_its_page(
        always: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setenv(progress.POSTED, str(tmp_path / progress.PLACE))
    seen: list[list[progress.Level]] = []

    def work(name: str, steps: int) -> None:
        counting(name, steps)
        seen.append(progress.posted(tmp_path))
    fanout.run(work, items(), "Training")
    assert [[level["title"] for level in levels] for levels in seen] == [["Training"]] * 2
    assert seen[1][0]["note"] == "model-1"
    assert progress.posted(tmp_path) == [], "what has ended is not told of"
    assert "%" not in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [progress.PLACE]


def test_a_bar_that_has_ended_is_not_told_until_another_one_is(tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(progress.POSTED, str(tmp_path / progress.PLACE))
    monkeypatch.setattr(progress._reports, "last", -progress.INTERVAL)
    with progress.bar("Judging", 4, "type") as outer:
        outer.delay = 0
        with progress.bar("Features", 4, "image") as bar:
            bar.delay = 0
            bar.update(4)
            bar.display()
            assert [level["title"] for level in progress.posted(tmp_path)] == ["Judging", "Features"]
        assert [level["title"] for level in progress.posted(tmp_path)] == ["Judging"]


def test_a_bar_that_has_just_begun_tells_no_time_left(always: None, monkeypatch: pytest.MonkeyPatch):
    with progress.bar("Training", 200, "step", 100) as bar:
        for steps, told in ((1, False), (1, True)):
            bar.update(steps)
            assert (progress.levels()[0]["left"] is not None) == told
        bar.initial, bar.start_t = 101, bar.start_t - progress.SETTLED
        assert progress.levels()[0]["left"] is not None, "a long one does not stay silent"


@pytest.mark.parametrize(("share", "words"), [
    (0.4, "Training 40%, about 8 min left"), (0.994, "Training 99%, about 8 min left"),
    (0.996, "Training 100%")])
def test_what_is_shown_as_done_has_no_time_left(share: float, words: str):
    assert progress.words({"title": "Training", "share": share, "elapsed": 1.0, "left": 480.0,
                           "note": ""}) == words


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"levels": [{}]}', '{"levels": [{"title": "x"}]}', "\0"])
def test_a_file_of_progress_that_is_none_tells_nothing(tmp_path: Path, text: str):
    (tmp_path / progress.PLACE).write_text(text)
    assert progress.posted(tmp_path) == []


def test_a_terminal_has_bars(always: None, monkeypatch: pytest.MonkeyPatch):
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    fanout.run(counting, items(), "Training")
    assert "\r" in shown.getvalue()
    assert shown.getvalue().count("model-0: ") == 0 or "\x1b" in shown.getvalue()


# ---- the time left

LEVEL = {"title": "Training", "share": 0.5, "elapsed": 100.0, "left": 100.0, "note": ""}
CHOSEN = ["cluster", "train", "inpaint"]


def test_the_time_left_goes_by_what_is_known_so_far():
    rest = Ahead({"cluster": 0.0, "train": 200.0, "inpaint": 100.0}, None)
    assert remaining.left(rest, CHOSEN, {}, 0.0, []) is None, "nothing tells of the pace yet"
    half = remaining.left(rest, CHOSEN, {"cluster": remaining.OPENING}, 110.0, [LEVEL])
    # 100 s for half of train's work: as long again for the rest, and half of that for inpaint.
    assert half == pytest.approx(100 + 100 + remaining.OPENING)
    after = remaining.left(rest, CHOSEN, {"cluster": 9.0, "train": 400 + remaining.OPENING}, 0.0, [])
    assert after == pytest.approx(200 + remaining.OPENING, rel=0.01)
    assert remaining.left(rest, CHOSEN, dict.fromkeys(CHOSEN, 1.0), 0.0, []) == 0


def test_a_run_that_goes_on_knows_its_pace_from_before():
    before = remaining.left(Ahead({"train": 100.0}, 2.0), ["train"], {}, 10.0, [])
    assert before == 200 + remaining.OPENING - 10
    made = remaining.left(Ahead({"train": 0.0}, None), ["train", "inpaint"], {}, 0.0, [])
    assert made == 2 * remaining.OPENING, "what is made is only shown"


def test_a_small_slow_part_does_not_decide_the_whole():
    rest = Ahead({"style": 10.0, "segment": 490.0, "augment": 500.0}, 1.0)
    chosen, slow = list(rest.work), {"style": 40 + remaining.OPENING}
    after = remaining.left(rest, chosen, slow, 0.0, [])
    assert 990 < after - 2 * remaining.OPENING < 1.2 * 990, "four times as slow, in a hundredth of the work"
    much = remaining.left(rest, chosen, {**slow, "segment": 4 * 490 + remaining.OPENING}, 0.0, [])
    assert much - remaining.OPENING > 0.75 * 4 * 500


NETWORKS = {**LEVEL, "title": "Small sets", "elapsed": 60.0, "left": 240.0}


ALIKE = remaining.ALIKE


def test_networks_go_at_their_own_pace():
    """Training made the run's pace 1, and networks take a fifth of what their work would say."""
    rest = Ahead({"segment": 500.0, "augment": 1000.0}, 1.0)
    chosen = ["segment", "augment"]
    assert remaining.left(rest, chosen, {}, 0.0, []) == 1500 + 2 * remaining.OPENING
    begun = remaining.left(rest, chosen, {}, 60.0, [{**NETWORKS, "left": 40.0}])
    assert begun == pytest.approx(40 + 200 + remaining.OPENING), "the other chapter at the same pace"
    after = remaining.left(rest, chosen, {"segment": 100 + remaining.OPENING}, 0.0, [])
    assert after == pytest.approx(200 + remaining.OPENING)
    assert remaining.left(rest, chosen, {"segment": 1.0}, 60.0, [NETWORKS]) == 240, "as its bar says"
    part = remaining.left(rest, chosen, {"segment": 100 + remaining.OPENING}, 60.0,
                          [{**NETWORKS, "title": "Generators that see a small set"}])
    assert part == 240
    known = Ahead({"train": 100.0, "augment": 100.0}, 1.0, 0.2)
    assert known.seconds == 120
    assert Ahead({"train": 0.0, "augment": 100.0}, None, 0.2).seconds == 20
    assert remaining.left(known, ["augment"], {}, 0.0, []) == 20 + remaining.OPENING


def test_workers_divide_what_is_left_as_far_as_there_are_items():
    """Two workers made the first chapters, one model by one of them; the seconds known are of one worker."""
    rest = Ahead({"train": 50.0, "segment": 500.0, "augment": 1000.0}, 1.0, 1.0, dict.fromkeys(ALIKE, 2.0))
    chosen = list(rest.work)
    assert remaining.left(rest, chosen, {}, 0.0, []) == 50 + 750 + 3 * remaining.OPENING
    made = {"train": 50 + remaining.OPENING, "segment": 250 + remaining.OPENING}
    after = remaining.left(rest, chosen, made, 0.0, [])
    assert after == pytest.approx(500 + remaining.OPENING), "the pace of a worker is as it was"


@pytest.mark.parametrize("at_once", [1.0, 2.0])
def test_the_time_left_falls_with_the_clock_though_the_first_items_take_longer(at_once: float):
    """Three times as long as the later ones."""
    rest = Ahead({"segment": 300.0 * at_once, "augment": 600.0 * at_once}, 1.0, 1.0,
                 dict.fromkeys(ALIKE, at_once))
    chosen, clock = list(rest.work), [0.0, 20.0, 30.0, 60.0, 90.0, 150.0, 240.0, 300.0]
    told = []
    for seconds in clock:
        share = seconds / 3 / 300 if seconds <= 30 else (seconds - 20) / 300  # as the bar shows it
        left = seconds * (1 - share) / share if share >= progress.TELLING else None
        told.append(remaining.left(rest, chosen, {}, seconds, [
            {**NETWORKS, "share": share, "elapsed": seconds, "left": left}]))
    assert told[0] == 900 + 2 * remaining.OPENING
    assert max(told) < 1.05 * told[0], "by the bar alone it would be nearly doubled"
    assert all(later < before for before, later in pairwise(told[3:])), told
    assert told[-1] == pytest.approx(640, rel=0.1)


def test_a_run_does_not_end_before_a_bar_that_has_been_watched_for_minutes():
    """"about 14 min left; Training 4%, about 1 h 46 min left": the machine had become ten times as slow."""
    rest = Ahead({"train": 600.0, "inpaint": 100.0}, 1.0)
    told = [remaining.left(rest, ["train", "inpaint"], {}, spent, [
        {**LEVEL, "elapsed": spent, "left": 6400.0}]) for spent in (10.0, remaining.LONG)]
    assert told[0] < 900
    assert told[1] > 6400


def test_where_a_bar_tells_its_time_the_run_tells_one_too():
    rest = Ahead({"train": 200.0, "inpaint": 100.0}, None)
    told = remaining.left(rest, ["train", "inpaint"], {}, 9.0, [{**LEVEL, "elapsed": 4.0, "left": 196.0}])
    assert told == pytest.approx(196 + 100 + remaining.OPENING)


def test_a_first_chapter_of_features_says_nothing_of_training():
    rest = Ahead({"cluster": 1.0, "train": 100.0, "inpaint": 50.0}, None)
    half = remaining.left(rest, CHOSEN, {"cluster": 500.0}, 110.0, [LEVEL])
    assert half == pytest.approx(100 + 100 + remaining.OPENING)


def test_what_is_only_shown_says_nothing_of_the_pace():
    rest = Ahead({"train": 0.0, "style": 10.0, "segment": 90.0}, 1.0)
    shown = remaining.left(rest, list(rest.work), {"train": 500.0}, 0.0, [])
    assert shown == pytest.approx(100 + 2 * remaining.OPENING)


def test_a_chapter_whose_bar_has_ended_is_nearly_over(nano_params):
    told = display.Display(Run(nano_params), ["augment", "summary"])
    told.rest, told.now = Ahead({"augment": 1000.0}, 1.0), ("augment", time.monotonic() - 300)
    assert told._left([NETWORKS]) == pytest.approx(240 + remaining.OPENING)
    assert told._left([]) == pytest.approx(remaining.OPENING)
    details = told._left([{**NETWORKS, "title": "Small sets, details", "left": 7.0}])
    assert details == pytest.approx(7 + remaining.OPENING)


def test_comparing_sets_says_nothing_of_the_pace_of_networks():
    rest = Ahead({"evaluate": 100.0, "segment": 900.0}, 1.0)
    after = remaining.left(rest, list(rest.work), {"evaluate": 1000.0}, 0.0, [])
    assert after == pytest.approx(900 + remaining.OPENING), "ten times its work, and not counted"
    during = remaining.left(rest, list(rest.work), {}, 500.0, [{**LEVEL, "elapsed": 500.0, "left": 200.0}])
    assert during == pytest.approx(200 + 900 + remaining.OPENING)


def test_work_that_is_left_is_what_is_not_made_at_the_pace_of_what_is(nano_run: Run, tmp_path: Path):
    table = remaining.counted(nano_run, keep=True)
    assert remaining.ahead(nano_run, table).seconds == 0
    assert files.read_json(nano_run.folder / remaining.WORK)["rows"]
    for chapter in ("style", "evaluate", "segment", "augment"):
        (nano_run.folder / chapter).rename(tmp_path / chapter)
    (nano_run.folder / "train" / "cluster-01").rename(tmp_path / "model")
    run = Run.open(nano_run.folder)
    rest = remaining.ahead(run, remaining.counted(run))
    whole = table[table["chapter"] == "train"]
    weight = sum(row.flop * remaining.RELATIVE[row.kind] for row in whole.itertuples())
    assert rest.work["train"] == pytest.approx(weight / 2), "one of two models is there"
    assert rest.work["cluster"] == 0
    assert rest.pace is not None
    assert rest.seconds == pytest.approx(sum(rest.work.values()) * rest.pace)
    many = remaining.ahead(run, remaining.counted(run), workers=1000)
    assert many.at_once["train"] < 2, "of two models one is there, and its pictures"
    assert many.at_once["augment"] > 2
    assert many.seconds == rest.seconds
    rates = dict.fromkeys(remaining.RELATIVE, 1e9)
    fresh = Run(nano_run.params.model_copy(update={"run_dir": str(tmp_path / "none")}))
    probed = remaining.ahead(fresh, table, rates)
    assert probed.seconds == pytest.approx(table["flop"].sum() / 1e9), "nothing is made: the plan's own time"
    assert remaining.ahead(fresh, table).seconds is None


def test_work_that_was_counted_is_not_counted_again(nano_run: Run, monkeypatch: pytest.MonkeyPatch):
    table = remaining.counted(nano_run)
    assert not (nano_run.folder / remaining.WORK).exists(), "who only looks writes nothing"
    remaining.counted(nano_run, keep=True)
    monkeypatch.setattr(remaining.flops, "count", None)
    assert remaining.counted(nano_run).equals(table)
    monkeypatch.undo()
    told = files.read_json(nano_run.folder / remaining.WORK)
    numbered = [["2 train", *row[1:]] for row in told["rows"]]  # as they were once written
    for others in ({**told, "rows": numbered}, {**told, "rows": "mine"}, {"of": 1, "rows": "mine"}):
        files.write_json(nano_run.folder / remaining.WORK, others)
        assert remaining.counted(nano_run).equals(table)


# ---- what the command shows

def test_lines_of_a_chapter_pass_whole_and_of_an_overwritten_one_what_was_last():
    file = io.StringIO()
    lines = display.Lines(file, file)
    lines.write("one\ntw")
    lines.write("o\n 1%\r 50%\r100%\nend")
    assert file.getvalue() == "one\ntwo\n100%\n"
    lines.end()
    assert file.getvalue().endswith("end\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_command_shows_a_line_a_level(nano_params, monkeypatch: pytest.MonkeyPatch, terminal: bool):
    monkeypatch.setattr(display, "LOOK", 0.01)
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    monkeypatch.setattr(remaining, "known", lambda run: "counted")
    rest = Ahead({"train": 100.0, "inpaint": 50.0}, 2.0)
    monkeypatch.setattr(remaining, "ahead", lambda run, table, rates, workers: rest)
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    run = Run(nano_params)
    run.folder.mkdir()
    with display.Display(run, ["train", "inpaint"]) as told:
        with told.chapter("02_train", "train"):
            place = Path(os.environ[progress.POSTED])
            item = {**LEVEL, "title": "cluster-00", "note": "loss=0.1"}
            place.write_text(json.dumps({"levels": [LEVEL, item]}))
            end = time.monotonic() + 30
            while "cluster-00" not in shown.getvalue() and time.monotonic() < end:
                time.sleep(0.01)
            print("the chapter's own words", file=sys.stderr)
        with told.chapter("03_inpaint", "inpaint"):
            assert not place.exists(), "what another chapter told is gone"
    text = shown.getvalue()
    assert progress.POSTED not in os.environ
    assert not (run.folder / progress.PLACE).exists()
    for words in ("02_train: running, 1 of 2\n", "Run: chapter 1 of 2, about ",
                  "Training 50%, about 2 min left", "cluster-00 50%, about 2 min left (loss=0.1)",
                  "the chapter's own words\n", "02_train: finished in ", "03_inpaint: running, 2 of 2\n"):
        assert words in text, words
    assert ("\r" in text) == terminal


def test_workers_of_this_machine_end_without_a_traceback(monkeypatch: pytest.MonkeyPatch):
    asked: list[dict] = []
    monkeypatch.setattr(distributed, "LocalCluster", lambda **options: asked.append(options))
    machines._local(2, cards=1)
    assert asked[0]["silence_logs"] > logging.ERROR, "a heartbeat that fails at the end is logged as an error"


def test_a_time_that_cannot_be_told_ends_no_run(nano_params, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such thing")
    monkeypatch.setattr(remaining, "known", broken)
    told = display.Display(Run(nano_params), ["train"])
    told._estimate()
    assert told._left([LEVEL]) is None


def test_the_work_is_counted_by_a_process_that_ends_with_the_run(nano_run: Run,
                                                                 monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(display, "LOOK", 0.01)
    program, folder = display.COUNTING, nano_run.folder
    monkeypatch.setattr(display, "COUNTING", "import time; time.sleep(600)")
    with display.Display(nano_run, ["train"]) as told:
        files.write_json(folder / progress.PLACE, {"levels": [LEVEL]})
        end = time.monotonic() + 60
        while told.child is None and time.monotonic() < end:
            time.sleep(0.01)
    assert told.child is not None
    assert told.child.returncode < 0
    monkeypatch.setattr(sys, "argv", ["-c", str(folder)])
    exec(program, {})
    told._estimate()
    assert told.rest is not None
    assert told.rest.seconds == 0
