"""For how long a process or thread has done nothing, as one sees who looks at it from time to time.

Work is computing, reading and writing; saying something counts as well, where that can be seen.
"""

import time
from dataclasses import dataclass
from pathlib import Path

SILENCE = 300.0  # seconds without activity that count as a hang
LOOK = 5.0  # seconds between looks
LATE = 3  # times LOOK: what a look comes later than this is the watcher's own delay, and does not count
SLEEP = 60.0  # seconds between looks that mean that the machine was asleep
SHARE = 1 / 300  # of a core, over SILENCE, that counts as activity; an idle kernel uses a tenth of it at most
BYTES = 2**20  # read or written over SILENCE that count as activity as well: files may be slow
# Functions of the Linux kernel that wait for a file system that is a program (FUSE), such as sshfs.
FILES = ("request_wait_answer", "fuse_")


@dataclass(frozen=True)
class Activity:
    """What something has done so far, by one look at it."""

    cpu: float = 0.0  # seconds, of all its processes
    moved: int = 0  # bytes read and written
    held: bool = False  # whether something else blocks it, such as an absent disk: no hang of its own
    said: tuple[int, ...] = ()  # when it last said anything: times of files, in ns
    gone: bool = False  # whether it has ended

    def follows(self, before: "Activity") -> bool:
        """Whether anything was done since an earlier look."""
        return (self.held or self.gone != before.gone or self.said != before.said
                or abs(self.cpu - before.cpu) >= SHARE * SILENCE  # falls if a process ends
                or abs(self.moved - before.moved) >= BYTES)


class Silence:
    """Counts the seconds without activity, from look to look.

    Time counts only while looks follow each other: not the sleep of a laptop, and little of a stall of the
    whole machine.
    """

    def __init__(self) -> None:
        self._before: Activity | None = None
        self._seconds, self._looked = 0.0, time.monotonic()

    def lasts(self, now: Activity | None, excused: bool = False) -> float:
        """The seconds since activity was last seen, after another look. `now` is None where nothing can be
        seen; such a time, and one that is `excused`, is no silence."""
        passed = time.monotonic() - self._looked
        self._looked += passed
        if now is None or self._before is None or excused or passed > SLEEP or now.follows(self._before):
            self._before, self._seconds = now, 0.0
        else:
            self._seconds += min(passed, LATE * LOOK)
        return self._seconds


def waits_for_files(place: Path) -> bool:
    """Whether a process or thread, by its folder in /proc, waits for a FUSE file system."""
    try:
        return (place / "wchan").read_text().startswith(FILES)
    except OSError:
        return False
