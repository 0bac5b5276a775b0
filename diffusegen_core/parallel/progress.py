"""Progress: bars where the work is done; messages to whoever waits for it, where a dask worker does it."""

import io
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from distributed import Worker

TOPIC = "diffusegen"  # of the messages in dask's events

item: ContextVar[str] = ContextVar("item", default="")  # the name of the work item that a worker is doing
Watch = Callable[[str, Path], object]
"""Called with the name and the folder of what there is to look at, whenever there is something new."""
watcher: ContextVar[Watch | None] = ContextVar("watcher", default=None)


def worker() -> "Worker | None":
    """The dask worker whose task calls this, if one does."""
    if "distributed" not in sys.modules:  # it takes a second to import, and workers have it
        return None
    from distributed import get_worker
    try:
        return get_worker()
    except ValueError:
        return None


def tell(**message: Any) -> None:
    """Send a message about the item at hand from its worker, if this is one, to the client."""
    if here := worker():
        here.log_event(TOPIC, {"item": item.get(), **message})


def bar(title: str, total: float, unit: str, done: float = 0, hidden: bool = False,
        shares: bool = False) -> tqdm:
    """A progress bar with rate and time left: a widget in JupyterLab, else text, at most one line a second.

    With `shares` it shows per cent alone, and the time left is estimated from the mean rate.
    """
    style = {"bar_format": "{l_bar}{bar}| {elapsed}<{remaining}{postfix}", "smoothing": 0} if shares else {}
    kind, place = (_Told, {"file": io.StringIO()}) if worker() else (_shown(), {})
    return kind(desc=title, total=total, initial=done, unit=unit, disable=hidden,
                mininterval=1.0, delay=1.0, **style, **place)


def show(name: str, folder: Path) -> None:
    """Say that there is something new to look at of `name`, in a folder, to whoever watches."""
    if worker():
        tell(look=[name, str(folder)])
    elif watch := watcher.get():
        watch(name, folder)


def _shown() -> type[tqdm]:
    """The kind of bar that suits the place. papermill keeps what a chapter shows, and widgets do not last."""
    if "JPY_SESSION_NAME" not in os.environ:  # the Jupyter server sets it for its kernels
        return tqdm
    from tqdm.notebook import tqdm as widget
    return widget


class _Told(tqdm):
    """A bar in a worker: what it would show goes to the client."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        share = self.n / self.total if self.total else 0.0
        tell(share=share, text=self.format_meter(**{**self.format_dict, "ncols": 0, "bar_format": "{r_bar}"}))
