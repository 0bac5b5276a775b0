"""Before a run: what it will not be able to tell, whether the disk suffices, what a refused one leaves."""

import os
import re
import shutil
import stat
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from made_up import changed
from parameters import keep_params
from PIL import Image

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, testsets
from diffusegen_core.planning import plan, preflight, space
from diffusegen_core.run import Run
from diffusegen_core.store import lock, ownparams

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset.write_phantoms(tmp_path / "pairs", 10, 16, seed=5)
    return tmp_path / "pairs"


# ---- no pairs are held out


@pytest.mark.parametrize(("data", "segment", "says"), [
    ({"count": None, "holdout": None}, {}, "data.holdout is null, and all 10 pairs are trained on"),
    ({"count": 48, "holdout": None}, {}, "data.holdout is null, and all 10 pairs are trained on"),
    ({"count": None, "holdout": 0.2}, {"held_out": None}, "segment.held_out is null"),
    ({"count": None, "holdout": 0.2}, {}, ""), ({"count": 8, "holdout": None}, {}, "")])
def test_a_run_without_held_out_pairs_says_what_it_will_not_tell(nano_params: Params, folder: Path, data,
                                                                  segment, says) -> None:
    p = changed(nano_params, data={"source": str(folder), **data}, segment=segment)
    assert testsets.lacking(p) == says
    lines = preflight.notes(p)
    assert len(lines) == bool(says)
    for line in lines:
        assert line.startswith(f"No pairs are held out ({says}): the run will not be able to tell how well ")
        assert "(chapters 6 and 7), nor whether pairs are copies or models remember images" in line
    assert preflight.notes(p, ["train"]) == []


def test_pairs_that_are_held_out_in_vain_are_told(nano_params: Params, folder: Path) -> None:
    p = changed(nano_params, data={"source": str(folder), "holdout": 0.2}, segment={"held_out": str(folder)})
    [line] = preflight.notes(p)
    assert line.startswith("data.holdout 0.2 holds out pairs that nothing tests on")


def test_phantoms_have_fresh_ones_and_another_hospital_tests_chapters_6_and_7(nano_params, folder) -> None:
    assert preflight.notes(nano_params) == []
    p = changed(nano_params, data={"source": str(folder), "count": None}, segment={"cvc": str(folder)})
    [line] = preflight.notes(p)
    assert "chapters 6 and 7" not in line
    assert preflight.notes(p, ["segment"]) == []


# ---- the disk


def test_a_run_that_does_not_fit_on_the_disk_is_refused(nano_params: Params, monkeypatch) -> None:
    wanted = space.needed(nano_params, set(preflight.CHECKS))
    whole = plan.make(nano_params, 0).table
    # But for the width of small backbones.
    assert wanted == pytest.approx(whole["disk"].sum() + whole["temporary"].max(), rel=0.1)
    assert space.needed(nano_params, {"cluster"}) < wanted / 10
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(wanted) - 1))
    with pytest.raises(UserError, match=r"may take .* on disk, but only .* are free in .*\. Make room"):
        preflight.check(Run(nano_params), ["augment", "segment", "evaluate"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(wanted) + 1))
    preflight.check(Run(nano_params), ["augment", "segment", "evaluate"])
    assert not nano_params.folder.exists()


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 3)])
def test_the_disk_is_that_of_the_channels_and_classes_of_the_data(nano_params: Params, folder: Path,
                                                                  channels: int, classes: int) -> None:
    labels = {str(number): f"class{number}" for number in range(1, classes + 1)}
    p = changed(nano_params, data={"source": str(folder), "count": 8, "channels": channels, "labels": labels})
    painted = [row for row in plan.rows(p, 8, space._sizes(p)) if row.chapter == "inpaint"]
    wanted = sum(row.items for row in painted) * (channels + 1) * p.data.image_size**2
    assert space.needed(p, {"inpaint"}) == sum(row.disk for row in painted) == wanted > 0
    features = 8 * (1 + classes) * 4 * space.WIDTH
    assert space.needed(p, {"cluster"}) == 8 * (channels + classes) * p.data.image_size**2 + features


def test_what_a_run_has_already_need_not_be_free(nano_params: Params, monkeypatch) -> None:
    wanted = int(space.needed(nano_params, {"train"}))
    ws = Run(nano_params).workspace

    def finished(name: str) -> None:
        folder = ws.artifact(name, {}).begin()
        (folder / "model").touch()
        os.truncate(folder / "model", wanted // 2)
        ws.artifact(name, {}).finish([folder / "model"], 1.0)

    def refused(free: int) -> bool:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
        try:
            space.refuse_full(nano_params, {"train"})
        except UserError as error:
            return bool(re.search(r"may take .* on disk, but only|of which .* exist", str(error)))
        return False

    with lock.hold(ws.folder):
        finished("style/1-Styled-Diff")  # another chapter's
        assert refused(wanted - 1)
        finished("train/cluster-00")
        there = sum(file.stat().st_size for file in (ws.folder / "train").rglob("*") if file.is_file())
        assert [refused(wanted - there + 1), refused(wanted - there - 1)] == [False, True]
        (ws.folder / "train").rename(ws.folder / "aside")
        assert refused(wanted - 1), "what is set aside stays"


# ---- what a refused run leaves


def refused(run: Run, chapter: Callable[[], None]) -> None:
    with (pytest.raises(UserError, match=r"no|traceback"), lock.hold(run.folder),
          ownparams.leaving_nothing(run.folder)):
        chapter()


def test_a_run_that_is_refused_at_its_data_leaves_nothing(nano_params: Params, folder: Path) -> None:
    size = 16, 16
    Image.new("L", size).save(next((folder / "masks").iterdir()))  # an empty mask, which only reading tells
    run = Run(changed(nano_params, data={"source": str(folder), "count": None}))
    with pytest.raises(UserError, match="empty mask"):
        run.make("cluster")
    assert not run.folder.exists()
    def chapter() -> None:
        keep_params(run)
        for place in ("failed", "running"):
            (run.folder / "notebooks" / place).mkdir(parents=True)
            (run.folder / "notebooks" / place / "01_cluster.ipynb").touch()
        raise UserError("01_cluster: no")
    refused(run, chapter)
    assert not run.folder.exists()


def test_a_folder_that_the_user_made_stays_when_a_run_is_refused(nano_params: Params) -> None:
    run = Run(nano_params)
    run.folder.mkdir(parents=True)
    run.folder.chmod(0o2770)

    def chapter() -> None:
        (run.folder / "making" / "data").mkdir(parents=True)
        raise UserError("no")
    for _ in range(2):
        refused(run, chapter)
        assert stat.S_IMODE(run.folder.stat().st_mode) == 0o2770
        assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize("others", [[], ["notes.txt"]])
def test_what_others_put_there_and_a_traceback_that_the_error_names_stay(nano_params: Params,
                                                                         others: list[str]) -> None:
    run, failed = Run(nano_params), nano_params.folder / "notebooks" / "failed" / "01_cluster.ipynb"

    def chapter() -> None:
        failed.parent.mkdir(parents=True)
        failed.touch()
        for name in others:
            (run.folder / name).touch()
        raise UserError(f"The traceback is in {failed}.")
    refused(run, chapter)
    assert failed.exists()
    assert all((run.folder / name).exists() for name in others)
    with lock.hold(run.folder):  # the same command goes on there
        assert failed.exists()


def test_a_run_that_was_there_stays_as_it_is(nano_run: Run) -> None:
    before = {path for path in nano_run.folder.rglob("*") if path.name != lock.LOCK}

    def chapter() -> None:
        raise UserError("no")
    refused(nano_run, chapter)
    assert {path for path in nano_run.folder.rglob("*") if path.name != lock.LOCK} == before


# ---- all networks failed


def test_a_chapter_whose_networks_have_all_failed_ends_with_an_error(nano_params, monkeypatch) -> None:
    status = ["failed: AssertionError: Input height (32)", "failed: b"]
    monkeypatch.setattr(Run, "finished", lambda run, name: SimpleNamespace(
        runs=pd.DataFrame({"status": status})) if name == "segment" else None)
    with pytest.raises(UserError, match=r"All 2 networks of the chapter segment have failed; the first "
                                        r"error: AssertionError: Input height \(32\)"):
        preflight.refuse_failed(Run(nano_params), ["segment", "augment"])
    preflight.refuse_failed(Run(nano_params), ["augment"])
    status[1] = "ok"
    preflight.refuse_failed(Run(nano_params), ["segment"])
