"""Fetching against a server on loopback: resumed, restarted, refused, unpacked with care."""

import hashlib
import io
import re
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusegen_core.config.errors import UserError
from diffusegen_core.data import checkup, fetch
from diffusegen_core.store import files


class Server(ThreadingHTTPServer):
    """Serves one file. What it can do, and after how many bytes it hangs up, is set by the test."""

    content = b""
    etag: str | None = '"one"'
    ranges = True
    hang_up_after: int | None = None
    status = 200
    length: str | None = None  # what it says, if not the truth

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/downloads/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        content, start = self.server.content, 0
        if wanted and self.server.ranges and self.headers.get("If-Range") == self.server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", self.server.length or str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.hang_up_after])
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def archive(files: dict[str, bytes], *members: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
        for member, content in members:
            bundle.writestr(member, content)
    return packed.getvalue()


def pictures(colour: int = 90) -> bytes:
    """An archive laid out as HyperKvasir's, larger than one piece of a download."""
    noise = np.random.default_rng(colour).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    label = np.zeros((240, 240), np.uint8)
    label[60:120, 60:120] = 255
    files = {}
    for part, pixels in (("images", noise), ("masks", label)):
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "PNG")
        files[f"segmented-images/{part}/x.png"] = picture.getvalue()
    return archive(files)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as served:
        served.content = pictures()
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def get(server: Server, destination: Path, **options: str) -> Path:
    return fetch.fetch("hyperkvasir", destination, url=server.url, **options)


def interrupt(server: Server, destination: Path, after: int) -> None:
    server.hang_up_after = after
    with pytest.raises(UserError, match="run the same command again to continue"):
        get(server, destination)
    server.hang_up_after = None


def test_fetches_extracts_records_and_does_not_ask_again(server, tmp_path):
    folder = get(server, tmp_path)
    assert folder == tmp_path / "hyperkvasir"
    report = checkup.check(folder)
    assert (report.layout, report.problems) == ("HyperKvasir", [])
    assert [pair.name for pair in report.pairs] == ["x"]
    record = files.read_json(tmp_path / "set.zip.json")
    digest = hashlib.sha256(server.content).hexdigest()
    assert (record["url"], record["bytes"], record["sha256"]) == (server.url, len(server.content), digest)
    assert get(server, tmp_path) == folder
    assert get(server, tmp_path, sha256=digest.upper()) == folder
    with pytest.raises(UserError, match=f"{digest}, not beef"):
        get(server, tmp_path, sha256="beef")
    assert server.asked == [None]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lock", "hyperkvasir", "set.zip", "set.zip.json"}


def test_what_is_extracted_is_no_more_open_than_the_umask_allows(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", 0o700)  # as a umask of 077 sets it
    assert get(server, tmp_path).stat().st_mode & 0o777 == 0o700


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    interrupt(server, tmp_path, after=100_000)
    kept = (tmp_path / "set.zip.part").stat().st_size
    assert 0 < kept <= 100_000
    get(server, tmp_path)
    assert server.asked == [None, f"bytes={kept}-"]
    assert (tmp_path / "set.zip").read_bytes() == server.content


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.ranges = False
    interrupt(server, tmp_path, after=100_000)
    get(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == server.content


def test_a_file_that_changed_meanwhile_is_not_joined_to_the_old_part(server, tmp_path):
    interrupt(server, tmp_path, after=100_000)
    server.content, server.etag = pictures(91), '"two"'
    get(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == server.content


@pytest.mark.parametrize("notes", ["[1]", "3", "{"])
def test_damaged_notes_about_a_part_start_anew(server, tmp_path, notes):
    interrupt(server, tmp_path, after=100_000)
    (tmp_path / "set.zip.part.json").write_text(notes)
    get(server, tmp_path)
    assert server.asked == [None, None]
    assert (tmp_path / "set.zip").read_bytes() == server.content


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_file_that_nothing_identifies_starts_anew(server, tmp_path, etag):
    server.etag = etag
    interrupt(server, tmp_path, after=100_000)
    get(server, tmp_path)
    assert server.asked == [None, None]
    assert (tmp_path / "set.zip").read_bytes() == server.content


def test_a_part_that_is_as_long_as_the_file_or_longer(server, tmp_path):
    interrupt(server, tmp_path, after=100_000)
    (tmp_path / "set.zip.part").write_bytes(b"x" * (len(server.content) + 5))
    get(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == server.content


def test_an_archive_whose_extraction_was_interrupted_is_not_fetched_again(server, tmp_path):
    (tmp_path / "set.zip").write_bytes(server.content)
    (tmp_path / ".extracting-old").mkdir()
    (tmp_path / "set.zip.json").write_text('{"sha256": "x", "contents": {"files": 2, "bytes": 9}}')
    assert len(checkup.check(get(server, tmp_path)).pairs) == 1
    assert server.asked == []


def test_another_sha256_is_refused_and_nothing_extracted(server, tmp_path):
    with pytest.raises(UserError, match=f"{hashlib.sha256(server.content).hexdigest()}, not {'0' * 64}"):
        get(server, tmp_path, sha256="0" * 64)
    assert not (tmp_path / "hyperkvasir").exists()


def test_a_folder_that_is_not_what_was_fetched_is_left_alone(server, tmp_path):
    (tmp_path / "hyperkvasir").mkdir()
    (tmp_path / "hyperkvasir/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="Move it away first"):
        get(server, tmp_path)
    assert (tmp_path / "hyperkvasir/mine.txt").read_text() == "mine"
    (tmp_path / "hyperkvasir/mine.txt").unlink()
    (tmp_path / "hyperkvasir").rmdir()
    folder = get(server, tmp_path)
    (folder / "segmented-images/images/x.png").unlink()
    with pytest.raises(UserError, match="is not what was fetched"):
        get(server, tmp_path)


def test_two_do_not_fetch_into_one_folder_at_once(server, tmp_path):
    with fetch._alone(tmp_path), pytest.raises(UserError, match="being fetched into"):
        get(server, tmp_path)
    assert len(checkup.check(get(server, tmp_path)).pairs) == 1


def test_a_server_that_tells_no_length_that_is_one_is_believed_when_it_ends(server, tmp_path):
    server.length = "many"
    assert get(server, tmp_path) == tmp_path / "hyperkvasir"


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusing_server_is_one_sentence(server, tmp_path, status):
    server.status = status
    with pytest.raises(UserError, match=f"answered {status}"):
        get(server, tmp_path)
    assert not (tmp_path / "set.zip").exists()


def test_no_server_and_no_such_name(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/set.zip"
    with pytest.raises(UserError, match="the connection failed"):
        fetch.fetch("hyperkvasir", tmp_path, url=url)
    with pytest.raises(UserError, match="nothing://"):
        fetch.fetch("hyperkvasir", tmp_path, url="nothing://x/set.zip")
    with pytest.raises(UserError, match=r"http://\[::1 is not an address"):
        fetch.fetch("hyperkvasir", tmp_path, url="http://[::1")
    with pytest.raises(UserError, match="Known: hyperkvasir"):
        fetch.fetch("imagenet", tmp_path)


def test_a_destination_that_cannot_be_a_folder(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "file"))):
        get(server, tmp_path / "file")


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("segmented-images/images/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def named(name: str) -> zipfile.ZipInfo:
    """An entry of a name that zipfile would change."""
    member = zipfile.ZipInfo("x")
    member.filename = name
    return member


@pytest.mark.parametrize(("content", "complaint"), [
    (archive({"good.txt": b"", "../escaped.png": b"x"}), "leads out"),
    (archive({"a/../../escaped.png": b"x"}), "leads out"),
    (archive({"/tmp/escaped.png": b"x"}), "leads out"),
    (archive({"C:/escaped.png": b"x"}), "leads out"),
    (archive({}, (named("..\\..\\escaped.png"), b"x")), "leads out"),
    (archive({}, (named(""), b"x")), "leads out"),
    (archive({}, (named("."), b"x")), "leads out"),
    (archive({}, (link(), b"/etc/passwd")), "not a plain file"),
    (archive({"zeros.png": bytes(20_000_000)}), "would grow to 20000000 bytes"),
    (archive({"a": b"1", "a/b": b"2"}), "two entries of the name"),
    (b"<html>not found</html>", "not a sound zip"),
    (pictures()[:-3000], "not a sound zip"),
    (pictures().replace(b"IDAT", b"iDAT", 1), "not a sound zip"),
], ids=["parent", "inner parent", "absolute", "drive", "backslash", "no name", "dot", "link", "bomb",
        "file and folder", "page", "truncated", "damaged"])
def test_hostile_and_damaged_archives_leave_nothing_behind(server, tmp_path, content, complaint):
    server.content = content
    with pytest.raises(UserError, match=complaint):
        get(server, tmp_path / "deep/down")
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"deep", "down", ".lock", "set.zip"}


def test_too_many_files(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_FILES", 1)
    with pytest.raises(UserError, match="in 2 files"):
        get(server, tmp_path)
