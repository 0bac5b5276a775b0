"""How a page is known to be this user's own: by a mark, made with a key that nobody else can read."""

import json
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import papermill
import pytest
from test_cli import NAMES, write_notebook

from diffusegen_core import notebooks
from diffusegen_core.config.params import Params
from diffusegen_core.run import Run
from diffusegen_core.store import ownpages


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this user's key is going to lie; nothing is there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    ownpages.key.cache_clear()
    yield ownpages.key_file()
    ownpages.key.cache_clear()


@pytest.fixture
def page(fresh: Path, nano_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of a run as the command writes it, executed by copying."""
    monkeypatch.setattr(papermill, "execute_notebook",
                        lambda source, target, *_, **__: shutil.copy(source, target))
    write_notebook(tmp_path / f"{NAMES[0]}.ipynb", "1 + 1")
    return notebooks.execute(tmp_path / f"{NAMES[0]}.ipynb", Run(nano_params))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_own(page: Path) -> bool:
    return ownpages.own(page, page.read_bytes())


def test_what_the_command_wrote_is_own_wherever_it_is_moved(page: Path, tmp_path: Path) -> None:
    assert is_own(page)
    assert not ownpages.edited(page)
    shutil.move(page.parents[1], tmp_path / "moved")
    ownpages.key.cache_clear()  # as in another process
    assert is_own(tmp_path / "moved" / "notebooks" / page.name)


def test_a_page_under_the_name_of_another_is_not_own(page: Path) -> None:
    other = page.with_name("02_train.ipynb")
    other.write_bytes(page.read_bytes())
    told = json.loads((page.parent / ownpages.WRITTEN).read_text())
    (page.parent / ownpages.WRITTEN).write_text(json.dumps({other.name: told[page.name]}))
    assert not ownpages.own(other, other.read_bytes())


def test_the_key_is_the_user_s_alone(page: Path, fresh: Path) -> None:
    assert (mode(fresh), mode(fresh.parent)) == (0o600, 0o700)
    written = (page.parent / ownpages.WRITTEN).read_text() + page.read_text()
    assert fresh.read_text() not in written


def test_what_was_changed_is_not_own(page: Path) -> None:
    page.write_bytes(page.read_bytes().replace(b"1 + 1", b"2 + 2"))
    assert not is_own(page)
    assert ownpages.edited(page)


@pytest.mark.parametrize("told", [
    {}, [], None, {NAMES[0]: None}, "sha256", {"sha256": "sha256"}, {"sha256": "sha256", "mark": None},
    {"sha256": "sha256", "mark": "sha256"}, {"mark": "\ud800é"}, {"mark": ["x"]}])
def test_what_says_of_itself_that_it_is_own_is_not(page: Path, told: object) -> None:
    text = json.dumps(told).replace('"sha256"', f'"{ownpages.files.sha256(page)}"')
    (page.parent / ownpages.WRITTEN).write_text(f'{{"{page.name}.ipynb": {text}}}')
    assert not is_own(page)
    (page.parent / ownpages.WRITTEN).write_text(f'{{"{page.name}": {text}}}')
    assert not is_own(page)


def test_a_page_of_another_user_is_not_own(page: Path, fresh: Path) -> None:
    fresh.unlink()
    ownpages.key.cache_clear()
    assert not is_own(page)
    assert not ownpages.edited(page)
    ownpages.record(page, page.read_bytes())
    assert is_own(page)


def test_a_key_that_others_can_read_is_not_used(page: Path, fresh: Path,
                                                caplog: pytest.LogCaptureFixture) -> None:
    fresh.chmod(0o640)
    ownpages.key.cache_clear()
    assert not is_own(page)
    assert str(fresh) in caplog.text
    ownpages.record(page, page.read_bytes())
    assert is_own(page), "what this process writes is its own all the same"
    ownpages.key.cache_clear()
    assert not is_own(page)


def test_where_no_key_can_be_kept_a_run_goes_on(page: Path, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    ownpages.key.cache_clear()
    ownpages.record(page, page.read_bytes())
    assert is_own(page)
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    ownpages.key.cache_clear()
    assert not is_own(page)


def test_commands_that_make_the_key_at_once_have_the_same(fresh: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(ownpages._kept, [fresh] * 32))
    assert keys == {fresh.read_bytes()}
    fresh.write_bytes(b"")  # as a kill leaves it
    assert len(ownpages._kept(fresh)) == ownpages.LENGTH
