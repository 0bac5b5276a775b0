"""The executed pages of a run folder: what was written there, and whether this user's own command wrote it.

A folder that somebody else has made belongs to whoever unpacks it: its owner tells nothing. A page is
this user's own if its mark was made from its name and bytes with a key that only this user can read. The mark
covers the page as a whole, outputs included, and nothing else of the run.
"""

import fcntl
import functools
import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from diffusegen_core.store import files

log = logging.getLogger(__name__)

WRITTEN = "written.json"  # beside the pages: of each, by its name, hash and mark as it was written
KEY = "diffusegen/page.key"  # in the user's folder of settings
LENGTH = 64  # hexadecimal digits of a key
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def record(page: Path, content: bytes) -> None:
    """Note a page that this command has just written, with this content, so that it is known again."""
    known = files.read_json(page.parent / WRITTEN)
    one = {"sha256": hashlib.sha256(content).hexdigest(), "mark": _mark(page.name, content)}
    files.write_json(page.parent / WRITTEN, {**(known if isinstance(known, dict) else {}), page.name: one})


def edited(page: Path) -> bool:
    """Whether a page is not as it was written, by whomever."""
    told = _told(page)
    return files.sha256(page) != (told.get("sha256") if isinstance(told, dict) else told)


def own(page: Path, content: bytes) -> bool:
    """Whether this user's command has written a page with this content. A page that was edited, one of before
    there were marks, and one that was made with another key (elsewhere, or by somebody else) are not."""
    told = _told(page)
    mark = told.get("mark") if isinstance(told, dict) else None
    return isinstance(mark, str) and hmac.compare_digest(mark.encode(errors="replace"),
                                                         _mark(page.name, content).encode())


def _told(page: Path) -> Any:
    known = files.read_json(page.parent / WRITTEN)
    return known.get(page.name) if isinstance(known, dict) else None


def _mark(name: str, content: bytes) -> str:
    return hmac.new(key(), b"page\0" + os.fsencode(name) + b"\0" + content, hashlib.sha256).hexdigest()


@functools.cache
def key() -> bytes:
    """This user's key, made where there is none yet. Where none can be kept, one that ends with this process:
    the pages that it writes are its own, and later nobody's."""
    try:
        return _kept(key_file())
    except (OSError, RuntimeError) as error:  # there is no home, or nothing can be written there
        log.warning("Pages that are written now will not be known as yours later: %s", error)
        return secrets.token_hex(LENGTH // 2).encode()


def key_file() -> Path:
    """Where the key lies: in $XDG_CONFIG_HOME, or else in ~/.config."""
    named = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".config") / KEY


def _kept(path: Path) -> bytes:
    """The key in a file, which is made if it is not there. OSError where it cannot be had, or others can."""
    if not path.is_file() or not path.stat().st_size:
        path.parent.mkdir(parents=True, mode=files.PRIVATE_FOLDER, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, files.PRIVATE), "r+b") as f:
            fcntl.flock(f, fcntl.LOCK_EX)  # another first command may be at it
            if not f.read():
                f.write(secrets.token_hex(LENGTH // 2).encode())
    if path.stat().st_mode & OTHERS:
        raise OSError(f"others can read {path}, which holds your key; remove it, and another one is made.")
    with path.open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_SH)
        content = f.read()
    if len(content) != LENGTH:
        raise OSError(f"{path} holds no key; remove it, and one is made.")
    return content
