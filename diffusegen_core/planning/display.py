"""Progress display of `diffusegen run`: one line each for the run, its chapter and the item under way.

In a terminal the three lines change in place, and all else scrolls above them. Elsewhere, as in the log of a
batch job, a plain line appears every minute, and at the end of each chapter and item.
"""

import contextlib
import io
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.text import about, duration
from diffusegen_core.parallel import progress
from diffusegen_core.planning import remaining
from diffusegen_core.planning.preflight import CHECKS
from diffusegen_core.run import Run
from diffusegen_core.store import files

log = logging.getLogger(__name__)
LINE = "{desc} |{bar}|"
LOOK = 1.0  # seconds between looks at the chapter's progress
SAID = f"{files.WRITING}said.json"  # in the run folder: what `status` repeats, removed like progress.PLACE
# Counts the work of a run in a separate process: it takes seconds, during which a run may be interrupted.
COUNTING = ("import sys; from diffusegen_core.planning import remaining; "
            "from diffusegen_core.run import Run; remaining.counted(Run.open(sys.argv[1]), keep=True)")


class Display:
    """Context manager that shows a run's progress; `chapter` marks the chapter under way.

    `rates`, FLOP per second of each of `workers` by kind of work, give the time left until the run's own pace
    is known.
    """

    def __init__(self, run: Run, chapters: list[str], rates: Mapping[str, float] | None = None,
                 workers: int = 1) -> None:
        self.run, self.chapters, self.rates, self.workers = run, chapters, rates, workers
        self.place = run.folder / progress.PLACE
        self.finished: dict[str, float] = {}
        self.now: tuple[str, float] | None = None  # the chapter under way, and since when
        self.whole: progress.Level | None = None  # its bar of all its work, as last told
        self.rest: remaining.Ahead | None = None
        self.child: subprocess.Popen[bytes] | None = None  # the process that counts the work
        self.word: dict[str, str | None] = {}  # what `status` was last told
        self.lines: list[tqdm] = []
        self.ended = threading.Event()
        self.held = contextlib.ExitStack()
        self.real: TextIO = sys.stderr

    def __enter__(self) -> "Display":
        self.real = sys.stderr
        self.held.enter_context(environment({progress.POSTED: str(self.place)}))
        for redirect, file in ((contextlib.redirect_stdout, sys.stdout),
                               (contextlib.redirect_stderr, sys.stderr)):
            lines = Lines(file, self.real)
            self.held.enter_context(redirect(lines))
            self.held.callback(lines.end)
        if self.real.isatty():
            style = {"file": self.real, "bar_format": LINE, "leave": False, "dynamic_ncols": True}
            self.lines = [tqdm(total=1.0, position=place, **style) for place in range(3)]
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.ended.set()
        self.thread.join()
        if self.child:
            self.child.kill()
            self.child.wait()
        for line in reversed(self.lines):
            line.close()
        self.held.close()
        self.place.unlink(missing_ok=True)
        (self.run.folder / SAID).unlink(missing_ok=True)

    @contextlib.contextmanager
    def chapter(self, title: str, name: str) -> Iterator[None]:
        """Mark a chapter as under way inside the `with` block, with a line at its start and end."""
        self.place.unlink(missing_ok=True)
        self._say(f"{title}: running, {len(self.finished) + 1} of {len(self.chapters)}")
        began = time.monotonic()
        self.title, self.now, self.whole = title, (name, began), None
        yield
        self.now = None
        self.finished[name] = time.monotonic() - began
        left = self._left([])
        then = f"; {about(left)} left" if left and len(self.finished) < len(self.chapters) else ""
        self._say(f"{title}: finished in {duration(self.finished[name])}{then}")

    def up_to_date(self, title: str, name: str) -> None:
        """Say that a chapter has nothing to do."""
        self.finished[name] = 0.0
        self._say(f"{title}: up to date, {len(self.finished)} of {len(self.chapters)}")

    def _watch(self) -> None:
        told = time.monotonic()
        while not self.ended.wait(LOOK):
            levels = progress.posted(self.run.folder)
            if levels and self.rest is None:  # not earlier: a run with nothing to do ends before
                self._estimate()
            self._leave_word(self._left(levels))
            if self.lines:
                self._draw(levels)
            elif self.now and time.monotonic() - told >= progress.INTERVAL:
                told = time.monotonic()
                self._say("; ".join([self._whole(self._left(levels)), *map(progress.words, levels)]))

    def _estimate(self) -> None:
        """Find what is left if the run's work is counted, or start counting it."""
        try:
            own = Run(self.run.params)  # a separate object, as this is another thread
            table = remaining.known(own)
            if table is not None:
                self.rest = remaining.ahead(own, table, self.rates, self.workers)
            elif self.child is None:
                self.child = subprocess.Popen(
                    [sys.executable, "-P", "-c", COUNTING, str(self.run.folder)], stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            elif self.child.poll() is not None:  # counting failed
                self.rest = remaining.Ahead({}, None)
        except Exception as error:  # no run should fail for lack of an estimate
            log.info("The time left cannot be estimated: %s", error)
            self.rest = remaining.Ahead({}, None)

    def _left(self, levels: list[progress.Level]) -> float | None:
        if self.rest is None or not self.rest.work:
            return None
        elapsed = time.monotonic() - self.now[1] if self.now else 0.0
        if self.now and levels and remaining.is_whole(self.now[0], levels[0]):
            self.whole = levels[0]
        elif self.now and self.whole:  # it has ended
            levels = [{**self.whole, "left": (levels[0]["left"] if levels else None) or 0.0}]
        return remaining.left(self.rest, self.chapters, self.finished, elapsed, levels)

    def _leave_word(self, left: float | None) -> None:
        """Tell `diffusegen status` the time left, and with which chapter this command ends."""
        word = {"left": None if left is None else about(left), "last": self.chapters[-1]}
        if word != self.word:
            with contextlib.suppress(UserError):  # it is only informative: a full disk ends no run
                files.write_json(self.run.folder / SAID, word)
                self.word = word

    def _whole(self, left: float | None) -> str:
        known = "time left not known yet" if left is None else f"{about(left)} left"
        return f"Run: chapter {len(self.finished) + 1} of {len(self.chapters)}, {known}"

    def _draw(self, levels: list[progress.Level]) -> None:
        """Update the three lines of a terminal."""
        left = self._left(levels)
        spent = sum(self.finished.values()) + (time.monotonic() - self.now[1] if self.now else 0.0)
        shares = [spent / (spent + left) if left is not None and spent else
                  len(self.finished) / len(self.chapters)]
        texts = [self._whole(left)]
        for told in levels[:1] + levels[1:][-1:]:
            shares.append(told["share"])
            texts.append(progress.words(told))
        if len(texts) > 1 and self.now:
            texts[1] = f"{self.title}: {texts[1]}"
        for line, share, text in zip(self.lines, [*shares, 0.0, 0.0], [*texts, "", ""], strict=False):
            line.n = share
            line.bar_format = LINE if text else "{desc}"
            line.set_description_str(text)

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self.real)
        self.real.flush()


def said(folder: Path) -> tuple[str | None, str] | None:
    """What the command that is making a run last said: the time left in words, None where it is not known
    yet, and the last of its chapters. None if no command said it."""
    told = files.read_json(folder / SAID)
    match told:
        case {"left": str() | None as left, "last": str(last)} if last in CHECKS:
            return left and printable(left), last
    return None


class Lines(io.TextIOBase):
    """A stream that passes whole lines on to a file, above the lines that change in place in the terminal
    `place`; of text overwritten by carriage returns, only the last version."""

    def __init__(self, file: TextIO, place: TextIO) -> None:
        self.file, self.place, self.rest = file, place, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        if lines:
            with tqdm.external_write_mode(file=self.place):
                for line in lines:
                    self.file.write(line.rstrip("\r").rpartition("\r")[2] + "\n")
                self.file.flush()
        return len(text)

    def end(self) -> None:
        """Write an unfinished last line."""
        if self.rest:
            self.write("\n")
