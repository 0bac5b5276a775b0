"""Progress: what is under way, how far it is and how long it takes, told to whoever waits for it.

In a terminal each level has a line that changes in place; a log gets plain lines, at intervals and at the end
of each item; JupyterLab gets widgets; a dask worker tells its client; and a chapter that `diffusegen run`
executes writes its progress to a file, which that command and `diffusegen status` read.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from diffusegen_core.config.text import about
from diffusegen_core.store.files import WRITING

if TYPE_CHECKING:
    from distributed import Worker

TOPIC = "diffusegen"  # the topic of the messages among dask's events
POSTED = "DIFFUSEGEN_PROGRESS"  # the environment variable that names the file of a chapter's progress
PLACE = f"{WRITING}progress.json"  # that file's name in the run folder, whose next holder removes it
KERNEL = "DIFFUSEGEN_KERNEL"  # the environment variable that names the private folder of a chapter's kernel
ALIVE = "alive"  # the file there whose time is when the kernel last worked, or waited as it should
INTERVAL = 60.0  # seconds between lines of a log
TELLING = 0.02  # share of a bar from which on it tells the time left; after SETTLED seconds it does anyway
SETTLED = 300.0
MOMENT = 1.0  # seconds: items that take less are not reported, and the file is not written more often

item: ContextVar[str] = ContextVar("item", default="")  # the name of the work item that a worker is doing
sign: ContextVar[Path | None] = ContextVar("sign", default=None)  # a file that exists while the client waits
Watcher = Callable[[str, Path], object]
"""Called with the name and the folder of what there is to look at, whenever there is something new."""
watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
# Where a process that shares its item with others (see `ranks`) sends messages; it shows nothing itself.
starter: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("starter", default=None)
Level = dict[str, Any]
"""What is reported of a bar: its `title`, the `share` that is done, 0 to 1, `elapsed` seconds, seconds `left`
or None, and a `note`."""


def worker() -> "Worker | None":
    """The dask worker whose task calls this, if one does."""
    if "distributed" not in sys.modules:  # it takes a second to import; in a worker it is loaded
        return None
    from distributed import get_worker
    try:
        return get_worker()
    except ValueError:
        return None


def tell(**message: Any) -> None:
    """Send a message about the current item to the process that started this one for it, or, from a dask
    worker, to its client."""
    if send := starter.get():
        send(message)
    elif here := worker():
        here.log_event(TOPIC, {"item": item.get(), **message})


def alive() -> None:
    """Tell whoever watches this chapter that all is well, also while it waits and computes nothing itself."""
    if folder := os.environ.get(KERNEL):
        with contextlib.suppress(OSError):
            (Path(folder) / ALIVE).touch()


class GivenUp(BaseException):
    """Nobody waits for the item any more. No Exception: to the item it is as if its worker were killed."""


def refuse_forgotten() -> None:
    """Raise GivenUp if a worker's client no longer waits: it gave up, or was killed and the run resumed."""
    if place := sign.get():
        with contextlib.suppress(OSError):  # a file system that does not answer proves nothing
            if not place.exists():
                raise GivenUp(f"nobody waits for {item.get()}")


def bar(title: str, total: float, unit: str, done: float = 0, hidden: bool = False,
        shares: bool = False) -> tqdm:
    """A progress bar with rate and time left, in the form that suits the place: see the module's first lines.

    With `shares` it shows only percentages, and the time left is estimated from the mean rate.
    """
    style = {"bar_format": "{l_bar}{bar}| {elapsed}<{remaining}{postfix}", "smoothing": 0} if shares else {}
    kind = _shown()
    place = {} if kind not in (_Told, _Plain) else {"file": io.StringIO()}
    made = kind(desc=title, total=total, initial=done, unit=unit, disable=hidden, leave=None,
                mininterval=1.0, delay=1.0, **style, **place)
    if isinstance(made, _Plain) and not hidden:
        if _live:
            _live[-1].another(done / total if total else 0.0)
        _live.append(made)
    return made


def begin(outer: tqdm, cost: float) -> None:
    """Begin an item of this cost, whose own bars tell how far it is."""
    if isinstance(outer, _Plain):
        outer.begin(cost)


def say(text: str, took: float = MOMENT) -> None:
    """Write a line about an item that has ended, unless it was short (MOMENT) or its bar stays visible."""
    if took >= MOMENT and not _elsewhere() and "JPY_SESSION_NAME" not in os.environ:
        tqdm.write(text, file=sys.stderr)


def show(name: str, folder: Path) -> None:
    """Tell whoever watches that `folder` holds something new of `name` to look at."""
    if _elsewhere():
        tell(look=[name, str(folder)])
    elif watch := watcher.get():
        watch(name, folder)


def levels() -> list[Level]:
    """The state of the bars under way, from the outermost to the innermost."""
    told: list[Level] = []
    for one in reversed(_live):
        known = one.format_dict
        total, began = known["total"] or 0, known["initial"]
        # Of the current item, the share that its own bar shows counts as done.
        done = known["n"] + (told[0]["share"] * one.at_hand if told and one.bars < 2 else 0)
        # At the start it is mostly what happens once, such as imports, that has taken the time.
        tells = done - began >= TELLING * (total - began) or known["elapsed"] >= SETTLED
        left = known["elapsed"] * (total - done) / (done - began) if tells and done > began else None
        told.insert(0, {"title": known["prefix"], "share": min(1.0, done / total) if total else 0.0,
                        "elapsed": known["elapsed"], "left": left, "note": known["postfix"] or ""})
    return told


def words(told: Level) -> str:
    """A level in words: "Training 40%, about 8 min left (1 of 2: cluster-00)"."""
    is_done = told["share"] > 0.995  # shown as 100%, where "about 10 s left" would be odd
    left = "" if told["left"] is None or is_done else f", {about(told['left'])} left"
    note = f" ({told['note']})" if told["note"] else ""
    return f"{told['title']} {told['share']:.0%}{left}{note}"


def _elsewhere() -> bool:
    """Whether another process shows what this one has to show."""
    return bool(starter.get() or worker())


def _shown() -> type[tqdm]:
    """The kind of bar that suits the place: papermill keeps a chapter's output, where widgets do not last."""
    if _elsewhere():
        return _Told
    if "JPY_SESSION_NAME" in os.environ:  # the Jupyter server sets it for its kernels
        from tqdm.notebook import tqdm as widget
        return widget
    return tqdm if sys.stderr.isatty() and POSTED not in os.environ else _Plain


class _Told(tqdm):
    """A bar in a worker, or in a process that shares its item: its progress is sent to the client or starter.
    Raises GivenUp once nobody waits for the item."""

    told = False  # whether progress was sent since that was last checked

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.told = True
        total = self.total or math.inf
        tell(share=self.n / total, began=self.initial / total, title=self.format_dict["prefix"],
             note=self.postfix or "")

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if self.told:  # here, since an exception in `display` would leave tqdm's lock taken
            self.told = False
            refuse_forgotten()
        return shown


class _Plain(tqdm):
    """A bar where nothing can change in place: all bars under way are reported together."""

    posted = False  # whether the file of progress shows it
    at_hand = 0.0  # cost of the item under way
    bars = 0  # how many bars of its own the item has had
    before = 0.0  # the part of its cost that was done before, and not in this bar's time

    def begin(self, cost: float) -> None:
        """Begin an item of that cost."""
        self.at_hand, self.bars, self.before = cost, 0, 0.0

    def another(self, share: float) -> None:
        """Begin a bar of the item with a share done before; if an item has several, none stands for it."""
        self.initial -= self.before
        self.before = 0.0 if self.bars else self.at_hand * share
        self.initial += self.before
        self.bars += 1

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        alive()
        if any(one is self for one in _live):
            _post(MOMENT) if POSTED in os.environ else _log()

    def close(self) -> None:
        under_way = any(one is self for one in _live)  # by identity: bars of one position compare equal
        _live[:] = [one for one in _live if one is not self]
        if under_way and POSTED in os.environ:  # an ended bar must not stay there until another one is told
            _post(0.0 if self.posted or not _live else MOMENT)
        super().close()


_live: list[_Plain] = []  # from the outermost to the innermost


@dataclass
class _Reports:
    """When progress was last reported, by the monotonic clock."""

    last: float = -INTERVAL

    def due(self, interval: float) -> bool:
        """Whether it is time to report again; if so, the interval starts anew."""
        due = time.monotonic() - self.last >= interval
        if due:
            self.last = time.monotonic()
        return due


_reports = _Reports()


def _log() -> None:
    """Print one line of all levels, if it is time."""
    if _reports.due(INTERVAL):
        print("; ".join(map(words, levels())), file=sys.stderr, flush=True)


def _post(interval: float) -> None:
    """Replace the file of the levels, if it is time. It is only informative: a full disk ends no chapter."""
    if _reports.due(interval):
        for one in _live:
            one.posted = True
        path = Path(os.environ[POSTED])
        fresh = path.with_name(f"{WRITING}fresh-progress.json")
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps({"told": time.time(), "levels": levels()}))
            fresh.replace(path)


def posted(folder: Path) -> list[Level]:
    """The levels last reported by the chapter under way in a run folder; none if there is no such chapter."""
    try:
        told = json.loads((folder / PLACE).read_text())["levels"]
        return [{"title": str(one["title"]), "share": float(one["share"]), "elapsed": float(one["elapsed"]),
                 "left": None if one["left"] is None else float(one["left"]), "note": str(one["note"])}
                for one in told]
    except (OSError, ValueError, TypeError, LookupError):  # it is absent, or a stranger's
        return []
