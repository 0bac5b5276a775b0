"""Files that are whole or absent, and their hashes."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PosixPath
from typing import Any

import numpy as np

from diffusegen_core import __version__
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.plainfiles import MANY, plain_file

LONGEST = 2048  # most bytes of a name within a folder, to leave room for the folder's own path
WRITING = ".diffusegen-writing-"  # prefix of unfinished files, which nobody else uses


class Written(PosixPath):
    """The path of a file just written, with the hash, size and time of what was written: another process may
    have replaced the file since."""

    sha256: str = ""  # "" if it was not asked for
    identity: tuple[int, int] | None = None  # bytes, and time in ns; None if unknown

    @classmethod
    def of(cls, path: Path, sha256: str, identity: tuple[int, int] | None = None) -> "Written":
        written = cls(path)
        written.sha256, written.identity = sha256, identity
        return written


def _umask() -> int:
    """The mode bits that the user's umask removes from new files."""
    now = os.umask(0o077)  # until it is put back, files of other threads become private, never public
    os.umask(now)
    return now


PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
# Set here and not by the system, because temporary files are created as private ones.
MODE, FOLDER = 0o644 & ~_umask(), 0o755 & ~_umask()


def write(path: Path, save: Callable[[Path], object], hashed: bool = True, mode: int = MODE) -> Written:
    """Let `save` fill a temporary file beside `path`, then rename it there: the file is whole or absent.

    The returned path carries the hash, unless `hashed` is False, as for files that no stamp names.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, because libraries choose the file format by it.
        handle, name = tempfile.mkstemp(prefix=WRITING, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        save(temporary)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        status = temporary.stat()
        written = Written.of(path, sha256(temporary) if hashed else "",
                             (status.st_size, status.st_mtime_ns))
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return written


def refuse_filled(folder: Path) -> None:
    """Raise UserError if there is anything but an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists, and nothing in it is replaced. Name a new or empty "
                        "folder.")


def write_folder(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` make files in a temporary folder beside `folder`, then rename it there: all or nothing.

    Raises UserError if there is anything but an empty folder, or if it cannot be written.
    """
    target = folder.resolve()  # a link to an empty folder stays a link
    temporary = None
    try:
        refuse_filled(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=WRITING, dir=target.parent))
        temporary.chmod(FOLDER)
        fill(temporary)
        temporary.rename(target)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error.strerror or error}.") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_text(path: Path, text: str, mode: int = MODE) -> Written:
    return write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), mode=mode)


def write_json(path: Path, value: Any, mode: int = MODE) -> Written:
    return write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n", mode)


def read_json(path: Path) -> Any | None:
    """The file's value, or None if it is absent or not JSON (half-written, or a stranger's).

    Raises UserError if it is there but cannot be read.
    """
    try:
        return json.loads(plain_file(path, MANY).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def sha256(path: Path) -> str:
    with plain_file(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


_hashes: dict[tuple[Path, int, int], str] = {}


def remembered_sha256(path: Path) -> str:
    """`sha256`, computed once per process as long as the file's size and time stay the same."""
    status = path.stat()
    identity = path, status.st_size, status.st_mtime_ns
    if identity not in _hashes:
        _hashes[identity] = sha256(path)
    return _hashes[identity]


def pixel_hash(image: np.ndarray) -> str:
    """The SHA-256 of an array's bytes, which identifies an image whatever its file is called."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def below(folder: Path) -> list[str]:
    """The files and links in a folder and its subfolders, relative to it, sorted; links are not followed."""
    paths = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]  # to folders
        paths += [Path(parent, name).relative_to(folder).as_posix() for name in (*names, *links)]
    return sorted(paths)


def plain(name: object) -> bool:
    """Whether a name can be a path below its folder: relative, without "..", encodable and not too long."""
    if not isinstance(name, str) or name.startswith("/") or "\0" in name:
        return False
    try:
        encoded = os.fsencode(name)
    except ValueError:  # a lone surrogate
        return False
    parts = encoded.split(b"/")
    return b".." not in parts and max(map(len, parts)) < 256 and len(encoded) < LONGEST


def remove(folder: Path, names: Iterable[object], itself: bool = True) -> None:
    """Remove the files of these names in a folder, and the folders that are then empty; as for the folder
    itself, only if `itself` is set.

    The names may be a stranger's: one that leads outside, by itself or through a link, removes nothing.
    """
    for path in (folder / str(name) for name in names if plain(name)):
        if path.parent.resolve().is_relative_to(folder.resolve()):
            with contextlib.suppress(OSError):  # it is absent, or not a file
                path.unlink()
    if folder.is_dir():
        without_empty(folder, itself)


def without_empty(folder: Path, itself: bool = True) -> None:
    """Remove a folder, if `itself` is set, and its subfolders, except those that hold files."""
    for parent, _, _ in os.walk(folder, topdown=False):
        if itself or Path(parent) != folder:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(parent)


def versions() -> dict[str, str]:
    """The versions that a page states: of what computes its numbers, and of what builds the page."""
    return dict(_versions())


@cache  # reading them takes as long as a small artifact, and what is imported does not change
def _versions() -> dict[str, str]:
    known = {"diffusegen": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "segmentation-models-pytorch", "albumentations",
                 "clean-fid", "pytorch-msssim", "numpy", "scikit-learn", "papermill", "jupyter-book"):
        with contextlib.suppress(PackageNotFoundError):
            known[name] = version(name)
    return known
