"""What is measured beside Dice and IoU: with the scores, later from kept weights, and never by training."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import SMALL, Networks, changed, loaded_tests, sets_of, supply_of, values, workspace

from diffusegen_core.chapters import segment
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.measures import boundaries, calibration, lesionwise
from diffusegen_core.segmentation import details, segnet, trials
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import files

SIZE = 16


@pytest.fixture
def own(small_made_up_run: Path, tmp_path: Path) -> Params:
    shutil.copytree(small_made_up_run, tmp_path / "run")
    return values(tmp_path / "run", **SMALL, segment={"types": ["Real", "2-Diff"], "samples": [2]})


def run(p: Params, **options: bool) -> Tested:
    return segment.run(workspace(p, **options), sets_of(p), loaded_tests(p), p.segment)


def planned(p: Params) -> str:
    return segment.planned(workspace(p, writable=False), supply_of(p), SIZE, RGB_AND_MASK, p.segment,
                           sets_of(p), loaded_tests(p))


def as_before(p: Params) -> dict[str, bytes]:
    """Leave a run as the version without details left it; what its networks' folders then hold."""
    for folder in (p.folder / "segment").glob("*/details"):
        shutil.rmtree(folder)
    return {name: (p.folder / name).read_bytes() for name in files.below(p.folder)
            if name.startswith("segment/") and name.count("/") > 1}


def same(a: Tested, b: Tested) -> None:
    for mine, other in ((a.images, b.images), *((getattr(a.details, name), getattr(b.details, name))
                                                for name in ("distances", "lesions", "calibration"))):
        pd.testing.assert_frame_equal(mine, other, check_exact=True)


def test_details_are_those_of_the_predictions_that_were_scored(own: Params, networks: Networks) -> None:
    result = run(own)
    pairs = loaded_tests(own)["Phantom"].pairs
    assert pairs is not None
    experiment, _ = segment.grid(supply_of(own), own.segment)
    found = networks.predict(trials.net_seed(own.seed, experiment), pairs.images, None, None)
    predicted, true = found[:, 1] > 0.5, pairs.masks[:, 0]
    known, real = result.details, lambda table: table[table["data_type"] == "Real"].reset_index(drop=True)
    assert len(known.distances) == len(result.images) == 2 * len(pairs)
    assert (known.distances["test_set"] == "Phantom").all()
    pd.testing.assert_frame_equal(real(known.distances)[boundaries.COLUMNS],
                                  boundaries.scores(predicted, true), rtol=1e-5)
    assert real(known.distances)[details.FALSE_ALARMS].tolist() == lesionwise.false_alarms(
        predicted, true).tolist()
    pd.testing.assert_frame_equal(real(known.lesions)[lesionwise.COLUMNS],
                                  lesionwise.each(predicted, true, pairs.names), rtol=1e-5)
    expected = calibration.bins(found[:, 1], true, pairs.names, own.seed)
    pd.testing.assert_frame_equal(real(known.calibration)[calibration.COLUMNS], expected, rtol=1e-5,
                                  check_dtype=False)
    for file, table in zip(details.TABLES, (known.distances, known.lesions, known.calibration), strict=True):
        assert len(pd.read_csv(result.folder / file)) == len(table)


def test_the_worst_images_are_kept_with_what_was_predicted(own: Params, networks: Networks) -> None:
    result = run(own)
    name = result.runs["name"][0]
    found = details.worst(result.details, name, "Phantom")
    dice = result.images[result.images["data_type"] == "Real"].sort_values("dice", kind="stable")
    assert [image for image, _, _ in found] == dice["image"].head(details.WORST).tolist()
    assert [value for _, value, _ in found] == pytest.approx(dice["dice"].head(details.WORST).tolist())
    assert {mask.shape for _, _, mask in found} == {(SIZE, SIZE)}
    assert details.worst(result.details, name, "PolypGen") == []


def test_an_older_run_gets_them_from_its_weights_and_keeps_its_scores(
        own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(own)
    before = as_before(own)
    old = run(own, writable=False)
    pd.testing.assert_frame_equal(old.images, first.images)
    assert old.complete
    assert old.details.distances.empty
    assert "2 finished, 0 to do. 2 of the finished ones lack some measures." in planned(own)
    monkeypatch.setattr(segnet, "fit", None)
    same(run(own), first)
    after = {name: (own.folder / name).read_bytes() for name in before}
    assert after == before, "no file of the scores is touched"
    monkeypatch.setattr(segnet, "predict", None)
    same(run(own), first)
    assert planned(own).endswith("Nothing is left to do.")


def test_without_weights_an_older_run_stays_as_it_is(own: Params, networks: Networks,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    p = changed(own, segment={"keep_weights": False})
    first = run(p)
    assert len(first.details.distances) == len(first.images), "at the moment of scoring they need none"
    as_before(p)
    monkeypatch.setattr(segnet, "fit", None)
    monkeypatch.setattr(segnet, "predict", None)
    again = run(p)
    pd.testing.assert_frame_equal(again.images, first.images)
    assert again.runs["status"].tolist() == ["ok", "ok"]
    assert again.details.distances.empty
    assert planned(p).endswith("Nothing is left to do.")


def test_weights_that_do_not_fit_or_were_changed_give_none_and_refuse_nothing(
        own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    first = run(own)
    as_before(own)

    def misfit(*arguments: object) -> None:
        raise UserError("It does not fit.")
    with monkeypatch.context() as patch:
        patch.setattr(segnet, "load", misfit)
        assert run(own).details.distances.empty
    assert "Real-seed0 gets no details: It does not fit." in caplog.text
    for file in (own.folder / "segment").rglob("model.safetensors"):
        file.write_text("7 and more")
    again = run(own)
    pd.testing.assert_frame_equal(again.images, first.images)
    assert again.details.distances.empty


def test_details_of_another_version_or_network_do_not_count(own: Params, networks: Networks,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(own)
    monkeypatch.setattr(details, "VERSION", details.VERSION + 1)
    assert run(own, writable=False).details.distances.empty
    looked = []
    predict = segnet.predict
    monkeypatch.setattr(segnet, "predict", lambda *given: looked.append(1) or predict(*given))
    same(run(own), first)
    assert len(looked) == 2


def test_another_test_set_has_details_of_its_own(own: Params, networks: Networks, tmp_path: Path) -> None:
    run(own)
    fewer = run(changed(own, segment={"test_count": 2}))
    assert fewer.details.distances.groupby("data_type").size().tolist() == [2, 2]
    none = run(changed(own, segment={"held_out": None}))
    assert none.details.distances.empty
    assert none.details.masks == {}


def test_of_nothing_the_tables_have_their_columns() -> None:
    empty = details.Details()
    assert list(empty.distances)[-5:] == ["test_set", "image", "hd95", "nsd", "false_alarms"]
    assert list(empty.lesions)[-3:] == ["area", "iou", "class"]
    assert list(empty.calibration)[-4:] == calibration.COLUMNS
    assert replace(empty).masks == {}


def test_calibration_of_before_its_column_was_called_share_holds(tmp_path: Path) -> None:
    older = tmp_path / "calibration.csv"
    older.write_text("bin,pixels,probability,polyp\n0,3,0.1,0.25\n1,0,,\n")
    table = details._table(older)
    assert list(table) == ["bin", "pixels", "probability", "share"]
    assert table["share"].iloc[0] == 0.25
    assert table.loc[1, ["probability", "share"]].isna().all()


def test_details_of_before_false_alarms_were_counted_hold(own: Params, networks: Networks) -> None:
    table = pd.DataFrame({"image": ["a"], "hd95": [1.0], "nsd": [0.5], "seed": [0]})
    older = details._gathered("distances.csv", [table])
    assert older[details.FALSE_ALARMS].isna().all()
    assert older["hd95"].tolist() == [1.0]


def test_a_network_that_finds_nothing_has_details(own: Params, networks: Networks,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segnet, "predict", lambda net, images, *rest: np.stack(
        [np.ones((len(images), SIZE, SIZE)), np.zeros((len(images), SIZE, SIZE))], axis=1).astype(np.float32))
    result = run(own)
    assert (result.details.distances["nsd"] == 0).all()
    assert (result.details.lesions["iou"] == 0).all()
    assert result.runs["status"].tolist() == ["ok", "ok"]
