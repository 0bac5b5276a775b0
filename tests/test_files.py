"""Files are whole or absent; hashes are computed once; links are not followed."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files, lock


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("not writable")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: Exception):
    path = files.write_text(tmp_path / "a.txt", "old")

    def save(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        raise error
    wanted = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted, match=r"a\.txt could not be written: No space|not writable"):
        files.write(path, save)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_whole_and_keeps_its_suffix(tmp_path: Path):
    path = tmp_path / "new" / "b.tar.gz"

    def save(temporary: Path) -> None:
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        temporary.write_text("whole")
    assert files.write(path, save).read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, synced = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    files.write_text(path, "whole")
    assert synced == [(5, False)]


def test_a_folder_is_written_as_a_whole_or_not_at_all(tmp_path: Path):
    def half(folder: Path) -> None:
        files.write_text(folder / "a" / "b.txt", "b")
        raise ValueError("no more")
    with pytest.raises(ValueError, match="no more"):
        files.write_folder(tmp_path / "out", half)
    assert files.below(tmp_path) == []
    (tmp_path / "out").mkdir()  # an empty one is no obstacle
    seen = files.write_folder(tmp_path / "out", lambda folder: files.write_text(folder / "b.txt", "b"))
    assert files.below(tmp_path) == ["out/b.txt"]
    assert seen.stat().st_mode & 0o777 == 0o755
    for place in (tmp_path / "out", tmp_path / "out" / "b.txt"):
        with pytest.raises(UserError, match="already exists, and nothing in it is replaced"):
            files.write_folder(place, lambda folder: None)
    assert files.below(tmp_path) == ["out/b.txt"]


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    files.write_folder(tmp_path / "link", lambda folder: files.write_text(folder / "b.txt", "b"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "b.txt").read_text() == "b"


def test_a_place_that_cannot_be_written_is_one_readable_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for act in (lambda: files.write_text(tmp_path / "file" / "x.txt", ""),
                lambda: lock.hold(tmp_path / "file" / "run").__enter__()):
        with pytest.raises(UserError, match="file") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_written_file_tells_the_hash_of_what_was_written_and_not_of_what_came_after(tmp_path: Path):
    written = files.write_text(tmp_path / "a.txt", "mine")
    hash_of_mine = files.sha256(written)
    written.write_text("another's")
    assert written.sha256 == hash_of_mine != files.sha256(written)
    assert not files.write(tmp_path / "b.txt", lambda path: path.write_text("b"), hashed=False).sha256


def test_json_is_written_sorted_and_read_back(tmp_path: Path):
    path = files.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    assert list(json.loads(path.read_text())) == ["a", "b"]
    assert files.read_json(path) == {"b": 1, "a": [1.5, None]}
    assert files.read_json(tmp_path / "absent.json") is None
    assert files.read_json(path / "below") is None


def test_json_that_cannot_be_read_is_named_and_not_taken_for_absent(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match=r"a\.json cannot be read: Too many levels of symbolic links\.$"):
        files.read_json(tmp_path / "a" / "a.json")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        lock.refuse_foreign(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{", "\xff", 50_000 * "["])
def test_what_is_not_json_is_read_as_nothing(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    assert files.read_json(tmp_path / "a.json") is None


def test_a_hash_is_computed_once_while_size_and_time_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, computed = tmp_path / "a.bin", []
    path.write_bytes(b"one")
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda file: computed.append(file) or real(file))
    assert files.remembered_sha256(path) == files.remembered_sha256(path) == real(path)
    assert computed == [path]
    path.write_bytes(b"two")
    os.utime(path, (1, 1))
    assert files.remembered_sha256(path) == real(path)
    assert computed == [path, path]


def test_pixels_are_known_by_their_values_whatever_their_order_in_memory():
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert files.pixel_hash(np.asfortranarray(image)) == files.pixel_hash(image)
    assert files.pixel_hash(image + 1) != files.pixel_hash(image)


def test_files_below_a_folder_are_told_and_links_not_followed(tmp_path: Path):
    files.write_text(tmp_path / "run" / "b" / "c.txt", "")
    files.write_text(tmp_path / "run" / "a.txt", "")
    files.write_text(tmp_path / "data" / "d.txt", "")
    (tmp_path / "run" / "link").symlink_to(tmp_path / "data")
    assert files.below(tmp_path / "run") == ["a.txt", "b/c.txt", "link"]
    assert files.below(tmp_path / "absent") == []


def test_only_folders_without_files_are_removed(tmp_path: Path):
    (tmp_path / "run" / "empty" / "emptier").mkdir(parents=True)
    kept = files.write_text(tmp_path / "run" / "full" / "a.txt", "")
    files.without_empty(tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "run", kept.parent, kept]
    kept.unlink()
    files.without_empty(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_versions_of_all_that_computes_numbers_are_told():
    told = files.versions()
    for name in ("torch", "timm", "segmentation-models-pytorch", "albumentations", "clean-fid",
                 "pytorch-msssim"):
        assert told[name] == version(name)


@pytest.mark.parametrize("name", ["../letter", "sub/../../letter", "link/letter", "", ".", "sub", 3, None,
                                  "a\0b"])
def test_a_name_that_leads_elsewhere_removes_nothing(tmp_path: Path, name: object):
    files.write_text(tmp_path / "letter", "dear")
    files.write_text(tmp_path / "run" / "sub" / "a.txt", "")
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    files.remove(tmp_path / "run", [name, str(tmp_path / "letter")])
    assert (tmp_path / "letter").read_text() == "dear"
    files.remove(tmp_path / "run", [name, "sub/a.txt", "link"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "letter"]
    files.remove(tmp_path / "run", ["gone"])
