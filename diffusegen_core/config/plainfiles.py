"""Plain files, the only ones that are read: a pipe would be waited for, and a device has no end."""

import errno
import os
import stat
from pathlib import Path

MANY = 1 << 26  # most bytes of a text that is read as a whole


def plain_file(path: Path, most: int | None = None) -> Path:
    """Return the same path. Raises OSError if nothing is there, as opening it would; if it is a folder, a
    pipe, a device or a socket; and if it has more than `most` bytes."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    if most is not None and status.st_size > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB", str(path))
    return path
