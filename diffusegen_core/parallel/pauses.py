"""Interruptions that wait for a training step to end, so that what the training has reached can be kept.

Ctrl-C, and SIGTERM and SIGHUP where the command treats them alike, may come at any moment. Within a short
step, the first one waits until the step is over; a second one takes effect at once. Outside of steps none
waits.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
SHORT = 4.0  # most seconds of a step that is worth waiting for
Handler = Callable[[int, FrameType | None], Any]


def outlive(number: int, frame: FrameType | None) -> None:
    """Do nothing about a signal that is not meant for this process. Unlike SIG_IGN, this handler is not
    inherited by what the process starts."""


class Pause:
    """Whether a step is under way, and the signal that has come during it."""

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self._handlers = handlers
        self._came: tuple[int, FrameType | None] | None = None
        self._took = 0.0  # seconds of the last step
        self.whole = True
        """Whether no step is under way or was left halfway."""

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Run a step; an interruption that came during it is raised at its end."""
        began, self.whole = time.monotonic(), False
        yield
        self.whole, self._took = True, time.monotonic() - began
        came, self._came = self._came, None
        if came:
            self._handlers[came[0]](*came)

    def take(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: at once, or, if it is the first in a short step, at the end of the step."""
        if self.whole or self._came or self._took > SHORT:
            self._handlers[number](number, frame)
        else:
            self._came = number, frame


@contextlib.contextmanager
def between_steps() -> Iterator[Pause]:
    """Make interruptions of the main thread wait for the end of a step while this lasts. Signals that are
    ignored, outlived, or end the process without a Python handler behave as before."""
    handlers: dict[int, Handler] = {}
    pause = Pause(handlers)
    if threading.current_thread() is threading.main_thread():
        present = {number: signal.getsignal(number) for number in SIGNALS}
        handlers.update({number: before for number, before in present.items()
                         if callable(before) and before is not outlive})
    try:
        for number in handlers:
            signal.signal(number, pause.take)
        yield pause
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)
