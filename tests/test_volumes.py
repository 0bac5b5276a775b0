"""Slices of volumes: one body, that no split takes apart; and NIfTI beside files of other kinds."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import SIZE
from test_checkup import save
from test_formats import nifti
from test_layouts import problems, read

from diffusegen_core.chapters import augment, scorers, segment
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, related, sidecars, testsets
from diffusegen_core.data.types import REAL
from diffusegen_core.exports import choosing
from diffusegen_core.exports.cases import Case, ExportSet
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.segmentation.trainsets import Amount, Sets
from diffusegen_core.store.workspace import Workspace

SIDE, DEPTH, BODIES = 24, 6, 5
GROUPS = {f"{body}_{index}": body for body in "abcde" for index in range(6)}


def bodies(folder: Path, count: int = BODIES) -> Path:
    """So many volumes of noise, each with a lesion in every slice."""
    for number in range(count):
        rng = np.random.default_rng(number)
        label = np.zeros((SIDE, SIDE, DEPTH), np.uint8)
        label[6:14, 6:14] = 1
        for part, values in (("images", rng.integers(40, 200, label.shape, np.uint8)), ("masks", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nifti(folder / part / f"body{number}.nii.gz", values)
    return folder


def given(nano: dict, folder: Path, **values: object) -> Params:
    data = {"source": str(folder), "count": None, "image_size": SIZE, "channels": 1, "labels": {1: "organ"},
            "slices": [2, 0, DEPTH - 1], "holdout": None, **values}
    segment = {"test_count": 99, "decoder_channels": [8, 8, 8]}
    return params.validate(nano | {"data": data, "segment": segment})


@pytest.fixture
def loaded(nano: dict, tmp_path: Path) -> tuple[Params, dataset.Pairs]:
    p = given(nano, bodies(tmp_path / "set"))
    return p, dataset.load(Workspace(p.folder, p.seed), p.data)


def body(name: str) -> str:
    return name.partition("_")[0]


def test_the_volume_of_each_slice_is_kept(loaded):
    _, pairs = loaded
    assert sidecars.volumes(pairs.file) == {name: body(name) for name in pairs.names}
    known = related.of_pairs(pairs)
    assert (known.kind, known.count) == ("volume", BODIES)
    assert set(scorers.groups(pairs)) == {f"body{number}" for number in range(BODIES)}


def test_no_split_takes_a_volume_apart():
    names = sorted(GROUPS)
    for seed in range(20):
        train, valid = trainsets.split(names, 0.2, seed, "x", groups=GROUPS)
        assert sorted(train + valid) == names
        assert not {GROUPS[name] for name in train} & {GROUPS[name] for name in valid}
        assert len(valid) == 6
    # Where all are of one, no other way is left.
    train, valid = trainsets.split(names[:6], 0.2, 0, "x", groups=GROUPS)
    assert (len(train), len(valid)) == (5, 1)
    assert trainsets.split(names, 0.2, 3, "x", groups={}) == trainsets.split(names, 0.2, 3, "x")
    assert trainsets.split(["a"], 0.2, 3, "x") == (["a"], [])
    assert trainsets.split([], 0.2, 3, "x") == ([], [])


def test_chapters_6_and_7_validate_on_other_volumes(loaded):
    p, pairs = loaded
    sets = Sets(pairs, {}, {REAL: Amount(len(pairs), 1)}, pairs.stored)
    for seed in range(5):
        for train, valid in (segment.chosen(p.seed, sets, p.segment, Experiment("segment", REAL, seed=seed)),
                             augment.chosen(p.seed, sets, p.augment, p.segment,
                                            Experiment("augment", REAL, 20, seed=seed))):
            assert train.real
            assert valid.real
            assert not set(map(body, train.real)) & set(map(body, valid.real))
    own = p.augment.model_copy(update={"generator_sees": "subset", "sizes": [20], "seeds": 1})
    [small] = augment.subsets(p.seed, pairs.names, own, p.segment, sets.together)
    _, valid = augment.subset(p.seed, pairs.names, 20, 0, p.segment, sets.together)
    assert not set(map(body, small.train)) & set(map(body, valid))


def test_an_export_keeps_volumes_on_one_side(loaded):
    p, pairs = loaded
    run = SimpleNamespace(pairs=pairs, params=p, finished=lambda name: None)
    chosen = choosing.choose(run, [REAL.name])
    sides = {split: {body(case.source) for case in chosen.of(split)} for split in ("train", "validation")}
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]
    folds = ExportSet(run, chosen.cases, {}).folds()
    assert len(folds) == BODIES
    of = {case.case: case for case in chosen.cases}
    for fold in folds:
        assert not ({body(of[name].source) for name in fold["train"]}
                    & {body(of[name].source) for name in fold["val"]})
    assert isinstance(chosen.cases[0], Case)


def test_the_rest_holds_no_slice_of_a_body_that_is_trained_on(nano, tmp_path):
    p = given(nano, bodies(tmp_path / "set"), count=2 * DEPTH + 1)
    ws = Workspace(p.folder, p.seed)
    training = dataset.load(ws, p.data)
    test = testsets.load(ws, training, p.data, p.segment)[testsets.HELD_OUT]
    assert {body(name) for name in test.pairs.names} == {"body3", "body4"}
    assert (test.groups.kind, test.groups.count) == ("volume", 2)


# ---- NIfTI beside other files

def test_a_volume_with_a_picture_as_its_mask_is_told(tmp_path):
    bodies(tmp_path, 2)
    (tmp_path / "masks/body0.nii.gz").unlink()
    save(tmp_path / "masks/body0.png", np.full((SIDE, SIDE), 255, np.uint8))
    report, masks = read(tmp_path, slices=[2, 0, DEPTH - 1], labels={1: "organ"})
    assert problems(report) == [("masks/body0.png", "formats differ")]
    assert set(map(body, masks)) == {"body1"}


@pytest.mark.parametrize("nifti_is", ["images", "masks"])
def test_a_flat_nifti_beside_a_picture_is_told(tmp_path, nifti_is):
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[2:8, 2:8] = 255
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        if part == nifti_is:
            nifti(tmp_path / part / "a.nii.gz", values.T, np.eye(4))
        else:
            save(tmp_path / part / "a.png", values)
    report, masks = read(tmp_path)
    assert (problems(report)[0][1], masks) == ("formats differ", {})
    assert "save both as NIfTI, or both as pictures" in report.problems[0].detail
