"""A call of limited time: stages, the most valuable first, a clock, and results that are kept at once."""

import gc
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusegen_core.store import files

SHOWN = 1500  # characters kept of a failure


class Clock:
    """The seconds of a call, from the moment its shell began (CARD_BEGAN) up to its limit."""

    def __init__(self, limit: float) -> None:
        began = float(os.environ.get("CARD_BEGAN", time.time()))
        self.began, self.limit = time.monotonic() - max(0.0, time.time() - began), limit

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        return self.limit - self.spent


class Record:
    """What a call has found, in a JSON file that is complete after every stage; a further call adds to it."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        kept = files.read_json(path) or {}
        self.stages: dict[str, Any] = kept.get("stages", {})
        self.facts = {**kept.get("facts", {}), **facts}

    def done(self, name: str) -> bool:
        """Whether a stage was finished, in this call or an earlier one."""
        return self.stages.get(name, {}).get("status") == "ok"

    def add(self, name: str, **found: Any) -> None:
        """Keep what a stage found, beside what it has found so far."""
        self.stages[name] = {**self.stages.get(name, {}), **found}
        files.write_json(self.path, {"facts": self.facts, "stages": self.stages})


class Call:
    """Runs stages while there is time; a stage that fails is recorded, and the next one goes on."""

    def __init__(self, clock: Clock, record: Record) -> None:
        self.clock, self.record = clock, record

    def stage(self, name: str, work: Callable[[], dict[str, Any] | None], least: float = 0.0) -> bool:
        """Do `work` and keep its result if at least `least` seconds are left; return whether it is done."""
        if self.record.done(name):
            return True
        if self.clock.left < least:
            self.record.add(name, status=f"left out: {self.clock.left:.0f} s were left of {least:.0f} needed")
            return False
        began = self.clock.spent
        try:
            found, status = work() or {}, "ok"
        except Exception as error:
            traceback.print_exc()
            found, status = {"traceback": told()}, f"failed: {type(error).__name__}: {error}"[:SHOWN]
        took = round(self.clock.spent - began, 2)
        self.record.add(name, **found, status=status, began=round(began, 2), took=took)
        print(f"[{self.clock.spent:6.1f} s] {name}: {status.splitlines()[0]} ({took} s)", flush=True)
        free()
        return status == "ok"

    def section(self, name: str, work: Callable[[], object]) -> None:
        """Several stages and what they share; a failure of that is recorded, and the next section goes on."""
        try:
            work()
        except Exception:
            traceback.print_exc()
            self.record.add(name, status="failed", traceback=told())
        free()


def told() -> str:
    """The end of the current traceback, with paths relative to the checkout."""
    return traceback.format_exc().replace(f"{Path(__file__).parents[1]}/", "")[-SHOWN:]


def free() -> None:
    """Release memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
