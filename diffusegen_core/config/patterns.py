"""A time limit for matching patterns from users or strangers' parameter files: one that repeats what is
itself repeated, such as (a+)+$, would need years for some names."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from diffusegen_core.config.errors import UserError

SECONDS = 10.0  # of CPU time for all names of a folder; a hundred thousand take less than one


class _Late(Exception):
    """The time limit has passed."""


@contextlib.contextmanager
def in_time(where: str, seconds: float = SECONDS) -> Iterator[None]:
    """Interrupt matching in the body after so many seconds of CPU time, with a UserError that begins with
    `where`. Only the main thread can be interrupted; in another one there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _ring)
    try:
        others = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, *others)
    except _Late:  # which may also come just before the timer is stopped
        raise UserError(f"{where} takes too long to match. Write one without a repetition inside "
                        "another.") from None
    finally:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL if before is None else before)


def _ring(number: int, frame: FrameType | None) -> None:
    raise _Late
