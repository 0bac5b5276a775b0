"""The one way from one work item to many: clusters, batches of images, experiments.

A work item is independent, named and resumable: its work function looks for its own finished artifact first
and returns at once if that is current. So rerunning the same command is how everything resumes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

from diffusegen_core import runs

Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One call of a work function. Name and arguments can be pickled, so that another process can take it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    cost: float = 1  # how long it takes beside the others: for the time left


def run(work: Callable[..., Result], items: Sequence[Item], title: str, done: float = 0) -> list[Result]:
    """Call work(**item.arguments) for every item, in this process; results come in the order of the items.

    The progress is of the whole, of which `done` is the cost that needs no call.
    """
    results = []
    total = done + sum(item.cost for item in items)
    counts = not done and total == len(items)
    with bar(title, total, "item", done, hidden=len(items) < 2, shares=not counts) as outer:
        for number, item in enumerate(items, 1):
            outer.set_postfix_str(item.name if counts else f"{number} of {len(items)}: {item.name}")
            results.append(work(**item.arguments))
            outer.update(item.cost)
    return results


def bar(title: str, total: float, unit: str, done: float = 0, hidden: bool = False,
        shares: bool = False) -> tqdm:
    """A progress bar with rate and time left; at most one line a second: a notebook keeps every line.

    With `shares` it shows per cent alone, and the time left goes by the mean rate. None is shown where
    nothing is made.
    """
    style = {"bar_format": "{l_bar}{bar}| {elapsed}<{remaining}{postfix}", "smoothing": 0} if shares else {}
    return tqdm(desc=title, total=total, initial=done, unit=unit,
                disable=hidden or not runs.making(), mininterval=1.0, delay=1.0, **style)
