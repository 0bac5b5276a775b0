"""Fetch a published data set: a download that resumes, a recorded SHA-256, an extraction that trusts nothing.

`DESTINATION/ARCHIVE` is the file as published, `DESTINATION/ARCHIVE.json` says where it came from and its
SHA-256, and `DESTINATION/NAME` is the extracted folder. What exists already is not fetched again.
"""

import contextlib
import fcntl
import lzma
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files

# No installed library does all of this. torchvision's downloader and pooch start again from nothing and
# extract whatever an archive says; huggingface_hub's resumes, but may append to a part of another version of
# the file. requests and zipfile do the work; what is left is to ask for the right bytes.

URLS = {"hyperkvasir": "https://datasets.simula.no/downloads/hyper-kvasir/hyper-kvasir-segmented-images.zip"}
TIMEOUT = (30, 60)  # seconds, to connect and between two pieces
PIECE = 1 << 16
# The published sets hold compressed pictures, which hardly shrink again; an archive beyond these is a bomb.
MAX_BYTES, MAX_RATIO, MAX_FILES = 8 << 30, 100, 100_000
NOTHING = "Nothing was extracted."
# What zipfile raises for damaged archives; a ValueError for a name that is no text.
UNSOUND = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError,
           RuntimeError, ValueError)


def fetch(name: str, destination: Path | str, url: str | None = None, sha256: str | None = None) -> Path:
    """Download and extract a published data set; returns its folder, which `layouts.scan` recognises.

    The SHA-256 of the archive is computed and recorded, and compared if one is given. The same call resumes
    an interrupted download. Raises UserError where the name is unknown, the server or the disk fails, the
    SHA-256 differs, or the archive is damaged or unsafe.
    """
    if name not in URLS:
        raise UserError(f"There is nothing to fetch under the name {name}. Known: {', '.join(URLS)}.")
    url = url or URLS[name]
    destination = Path(destination)
    folder, archive = destination / name, destination / _file_name(url, name)
    record = archive.with_name(f"{archive.name}.json")
    try:
        with _alone(destination):
            noted = files.read_json(record)
            if isinstance(noted, dict) and noted.get("contents") == _contents(folder):
                _compare(archive, str(noted.get("sha256")), sha256)
                return folder
            if folder.exists():
                raise UserError(f"{folder} already exists and is not what was fetched. Move it away first.")
            if not archive.exists():
                _download(url, archive)
            digest = files.sha256(archive)
            _compare(archive, digest, sha256)
            _extract(archive, folder, record, {"url": url, "sha256": digest, "bytes": archive.stat().st_size})
    except OSError as error:
        raise UserError(f"{error.filename or destination}: {error.strerror or error}.") from None
    return folder


@contextlib.contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Lock the folder against other fetches; the system releases the lock however the process ends."""
    destination.mkdir(parents=True, exist_ok=True)
    lock = os.open(destination / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"Something is being fetched into {destination} already. Wait for it.") from None
    finally:
        os.close(lock)


def _file_name(url: str, name: str) -> str:
    try:
        last = PurePosixPath(urlsplit(url).path).name
    except ValueError as error:
        raise UserError(f"{url} is not an address: {error}.") from None
    return last if last.endswith(".zip") else f"{name}.zip"


def _contents(folder: Path) -> dict[str, int]:
    """The number of files in a folder and their bytes, to tell whether it still is what was extracted."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _download(url: str, archive: Path) -> None:
    """Download the file at `url`, resuming from ARCHIVE.part where the server still has that same file."""
    part, notes = (archive.with_name(f"{archive.name}.part{suffix}") for suffix in ("", ".json"))
    try:
        with _request(url, part, notes) as response:
            start = part.stat().st_size if response.status_code == requests.codes.partial_content else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            # Noted before the first byte, so that a later call knows which version of the file this part is
            # of: by a strong ETag, else by the time of the last change.
            tag = response.headers.get("ETag", "")
            validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
            files.write_json(notes, {"url": url, "validator": validator})
            bar = tqdm(desc=archive.name, total=total, initial=start, unit="B", unit_scale=True, disable=None)
            with bar, part.open("ab" if start else "wb") as f:
                for piece in response.iter_content(PIECE):
                    bar.update(f.write(piece))
    except requests.RequestException as error:
        raise UserError(f"{url} could not be fetched: {_reason(error)}. {_kept(part)}") from None
    if total is not None and part.stat().st_size != total:
        raise UserError(f"{url} ended after {part.stat().st_size} of {total} bytes. {_kept(part)}")
    part.replace(archive)
    notes.unlink()


def _request(url: str, part: Path, notes: Path) -> requests.Response:
    """Ask for the rest of the file if a part of it is here, else for the whole."""
    noted = files.read_json(notes)
    known = noted if isinstance(noted, dict) and noted.get("url") == url else {}
    size = part.stat().st_size if part.exists() else 0
    whole = {"Accept-Encoding": "identity"}
    if size and known.get("validator"):
        # If-Range: the server sends the whole file instead if it is no longer the one that the part is of.
        rest = {**whole, "Range": f"bytes={size}-", "If-Range": known["validator"]}
        response = requests.get(url, headers=rest, stream=True, timeout=TIMEOUT)
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {size}-")
        if begins or response.status_code not in (requests.codes.partial_content,
                                                  requests.codes.requested_range_not_satisfiable):
            response.raise_for_status()
            return response
        response.close()
    response = requests.get(url, headers=whole, stream=True, timeout=TIMEOUT)
    response.raise_for_status()
    return response


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return "the connection failed or broke off"
    return str(error)


def _kept(part: Path) -> str:
    if part.exists() and part.stat().st_size:
        return f"{part.stat().st_size} bytes are kept in {part}; run the same command again to continue."
    return "Try again later, or place the extracted folder by hand and give its path as data.source."


def _compare(archive: Path, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected.strip().lower():
        raise UserError(f"{archive} has the SHA-256 {digest}, not {expected}. Delete it to fetch it again.")


def _extract(archive: Path, folder: Path, record: Path, facts: dict[str, Any]) -> None:
    """Extract into a folder beside `folder`, record the facts, then rename: `folder` is whole or absent."""
    temporary = Path(tempfile.mkdtemp(prefix=".extracting-", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as bundle:
            for member in _judged(bundle, archive):
                target = temporary / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source, target.open("xb") as f:
                    shutil.copyfileobj(source, f)
        temporary.chmod(files.FOLDER)  # mkdtemp made it a private one
        files.write_json(record, facts | {"contents": _contents(temporary)})
        temporary.rename(folder)
    except UNSOUND as error:
        raise UserError(f"{archive} is not a sound zip archive: {error}. Delete it to fetch it "
                        "again.") from None
    except (FileExistsError, NotADirectoryError) as error:
        name = Path(error.filename).relative_to(temporary).as_posix()
        raise UserError(f"{archive} holds two entries of the name {name!r}. {NOTHING}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _judged(bundle: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """The files to extract; raises UserError for one that leaves the folder, a special file, or a bomb."""
    members = [member for member in bundle.infolist() if not member.filename.endswith("/")]
    for member in members:
        path = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if (path.is_absolute() or ".." in path.parts or "\\" in member.filename
                or ":" in member.filename.partition("/")[0] or not path.parts):
            raise UserError(f"{archive}: the entry {member.filename!r} leads out of its folder. {NOTHING}")
        if kind not in (0, stat.S_IFREG):
            raise UserError(f"{archive}: the entry {member.filename!r} is not a plain file. {NOTHING}")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or total > MAX_RATIO * archive.stat().st_size or len(members) > MAX_FILES:
        raise UserError(f"{archive} would grow to {total} bytes in {len(members)} files, "
                        f"too much for a set of pictures. {NOTHING}")
    return members
