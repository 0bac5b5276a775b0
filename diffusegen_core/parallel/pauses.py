"""Interruptions that wait for a step of a training to end, so that what it has reached can be kept.

Ctrl-C, and SIGTERM and SIGHUP where the command takes them for the same, come at any moment. Within a step
that is short, the first waits until the step is over; a second one ends it at once. Outside of steps none
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
SHORT = 4.0  # seconds of a step that is worth waiting for
Handler = Callable[[int, FrameType | None], Any]


def outlive(number: int, frame: FrameType | None) -> None:
    """The handler of a signal that is not for this process: unlike one that is ignored, it is not so in what
    the process starts."""


class Pause:
    """Whether a step is under way, and what has come in it."""

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self._handlers = handlers
        self._came: tuple[int, FrameType | None] | None = None
        self._took = 0.0  # seconds of the last step
        self.whole = True
        """Whether no step is under way, or has been left halfway."""

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A step, after which an interruption that came in it is raised."""
        began, self.whole = time.monotonic(), False
        yield
        self.whole, self._took = True, time.monotonic() - began
        came, self._came = self._came, None
        if came:
            self._handlers[came[0]](*came)

    def take(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals meanwhile."""
        if self.whole or self._came or self._took > SHORT:
            self._handlers[number](number, frame)
        else:
            self._came = number, frame


@contextlib.contextmanager
def between_steps() -> Iterator[Pause]:
    """While it lasts, interruptions of the main thread wait for the end of a step. Those that are ignored or
    outlived, or end the process without a word to Python, do as before."""
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
