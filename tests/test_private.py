"""What a run makes is its user's alone, and no file is more open than the user's umask allows."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from diffusegen_core.config import params
from diffusegen_core.report import review
from diffusegen_core.run import Run
from diffusegen_core.store import files, lock

WRITE = """
import sys
from pathlib import Path
from diffusegen_core.store import files
files.write_text(Path(sys.argv[1]) / "file", "x")
files.write_folder(Path(sys.argv[1]) / "folder", lambda folder: None)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_run_folder_is_its_user_s_alone(nano_params: params.Params) -> None:
    run = Run(nano_params)
    run.make("data")
    assert mode(run.folder) == 0o700


def test_nothing_that_a_run_makes_can_be_read_by_others(finished: Path) -> None:
    """They cannot enter its folder, and what lies below could be changed by nobody else if they could."""
    assert mode(finished) == 0o700
    below = list(finished.rglob("*"))
    assert len(below) > 100
    assert [path for path in below if path.is_symlink() or mode(path) & 0o022] == []


def test_a_folder_that_was_made_for_others_stays_open(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o770)
    lock.claim(tmp_path / "run")
    assert mode(tmp_path / "run") == 0o770


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700),
                                                       (0o027, 0o640, 0o750)])
def test_a_stricter_umask_holds(umask: int, file: int, folder: int, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path)], check=True, umask=umask)
    assert (mode(tmp_path / "file"), mode(tmp_path / "folder")) == (file, folder)


def test_the_key_of_a_review_is_private(finished: Path, tmp_path: Path) -> None:
    run = Run.open(finished)
    kind = next(iter(run.inpainted.sets))
    folders = {"Real": run.inpainted.sets[kind].folder, kind.name: run.inpainted.sets[kind].folder}
    form, key = review.make(folders, tmp_path / "out", per_type=1, seed=0)
    assert mode(Path(key)) == 0o600
    assert mode(Path(form)) == files.MODE


def test_asking_for_the_umask_leaves_it() -> None:
    before = os.umask(0o031)
    try:
        assert files._umask() == 0o031
        assert files._umask() == 0o031
    finally:
        os.umask(before)
