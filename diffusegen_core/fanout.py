"""The one way from one work item to many: clusters, batches of images, experiments.

A work item is independent, named and resumable: its work function looks for its own finished artifact first
and returns at once if that is current. So rerunning the same command is how everything resumes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One call of a work function. Name and arguments can be pickled, so that another process can take it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def run(work: Callable[..., Result], items: Sequence[Item], title: str) -> list[Result]:
    """Call work(**item.arguments) for every item, in this process; results come in the order of the items."""
    results = []
    with bar(title, len(items), "item", hidden=len(items) < 2) as outer:
        for item in items:
            outer.set_postfix_str(item.name)
            results.append(work(**item.arguments))
            outer.update()
    return results


def bar(title: str, total: int, unit: str, done: int = 0, hidden: bool = False) -> tqdm:
    """A progress bar with rate and time left; at most one line a second: a notebook keeps every line."""
    return tqdm(desc=title, total=total, initial=done, unit=unit, disable=hidden, mininterval=1.0, delay=1.0)
