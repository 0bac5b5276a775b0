"""The only fan-out over work items: clusters, batches of images, experiments.

A work item is independent, named and resumable: its work function looks for its own finished artifact first
and returns at once if that is current. So rerunning the same command is how everything resumes, and an item
whose worker was lost can be done again by another.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diffusegen_core.config.text import duration
from diffusegen_core.parallel import progress
from diffusegen_core.store.workspace import Workspace

SCHEDULER = "DIFFUSEGEN_SCHEDULER"  # the environment variable that names a dask scheduler; unset: no workers
Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One call of a work function. Name and arguments can be pickled, so that another process can take it."""

    name: str
    workspace: Workspace | None
    """That of the run that it reads and writes: a worker must have its folder and its device. None if it
    belongs to no run."""
    arguments: dict[str, Any] = field(default_factory=dict)
    cost: float = 1  # how long it takes relative to the others, to estimate the time left
    devices: int = 1  # units of the resource `device` that its worker must have: cards


def run(work: Callable[..., Result], items: Sequence[Item], title: str, done: float = 0,
        watch: progress.Watcher | None = None) -> list[Result]:
    """Call work(**item.arguments) for every item; results come in the order of the items.

    The calls are made in this process, or, if the environment names a dask scheduler, by its workers; a
    worker that fans out in turn makes the calls itself. Progress is of the whole, including `done`, the cost
    that needs no call. `watch` is called in this process with whatever the work wants shown.
    """
    if not items:
        return []
    token = progress.watcher.set(watch)
    try:
        if (address := os.environ.get(SCHEDULER)) and not progress.worker():
            from diffusegen_core.parallel import remote
            return remote.run(address, work, items, title, done)
        return _here(work, items, title, done)
    finally:
        progress.watcher.reset(token)


def _here(work: Callable[..., Result], items: Sequence[Item], title: str, done: float) -> list[Result]:
    results = []
    total = done + sum(item.cost for item in items)
    counts = not done and total == len(items)
    with progress.bar(title, total, "item", done, hidden=len(items) < 2, shares=not counts) as outer:
        for number, item in enumerate(items, 1):
            place, began = f"{number} of {len(items)}: {item.name}", time.monotonic()
            progress.begin(outer, item.cost)
            outer.set_postfix_str(item.name if counts else place)
            results.append(work(**item.arguments))
            outer.update(item.cost)
            took = time.monotonic() - began
            progress.say(f"{title} {place}, {duration(took)}", took)
    return results
