"""The executed pages of a run folder: what was written there, and whether this user's own command wrote it.

File ownership proves nothing: a folder that somebody else has made belongs to whoever unpacks it. A page is
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

WRITTEN = "written.json"  # beside the pages: the hash and mark of each as it was written, by its name
KEY = "diffusegen/page.key"  # in the user's configuration folder
LENGTH = 64  # hexadecimal digits of a key
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def record(page: Path, content: bytes) -> None:
    """Record a page that this command has just written, with this content, so that it is recognised later."""
    known = files.read_json(page.parent / WRITTEN)
    one = {"sha256": hashlib.sha256(content).hexdigest(), "mark": _mark(page.name, content)}
    files.write_json(page.parent / WRITTEN, {**(known if isinstance(known, dict) else {}), page.name: one})


def edited(page: Path) -> bool:
    """Whether a page was changed since it was written, whoever wrote it."""
    told = _told(page)
    return files.sha256(page) != (told.get("sha256") if isinstance(told, dict) else told)


def own(page: Path, content: bytes) -> bool:
    """Whether this user's command has written a page with this content. False for a page that was edited, is
    older than marks, or was marked with another key (elsewhere, or by somebody else)."""
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
    """This user's key, created if there is none yet. If none can be stored, one that lasts as long as this
    process: the pages that it writes count as this user's own only until then."""
    try:
        return _kept(key_file())
    except (OSError, RuntimeError) as error:  # there is no home, or nothing can be written there
        log.warning("Pages that are written now will not be recognised as yours later: %s", error)
        return secrets.token_hex(LENGTH // 2).encode()


def key_file() -> Path:
    """Where the key lies: in $XDG_CONFIG_HOME, or else in ~/.config."""
    named = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".config") / KEY


def _kept(path: Path) -> bytes:
    """The key in a file, which is created if absent. Raises OSError if that fails, or others have access."""
    if not path.is_file() or not path.stat().st_size:
        path.parent.mkdir(parents=True, mode=files.PRIVATE_FOLDER, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, files.PRIVATE), "r+b") as f:
            fcntl.flock(f, fcntl.LOCK_EX)  # another command may be creating it too
            if not f.read():
                f.write(secrets.token_hex(LENGTH // 2).encode())
    if path.stat().st_mode & OTHERS:
        raise OSError(f"others can read {path}, which holds your key; remove it, and a new one is made.")
    with path.open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_SH)
        content = f.read()
    if len(content) != LENGTH:
        raise OSError(f"{path} holds no key; remove it, and a new one is made.")
    return content
