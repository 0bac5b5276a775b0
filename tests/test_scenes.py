"""Painting by given masks: what is known comes back exact, and a pair depends on its own seed alone."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffusegen_core.chapters import augment, inpaint, members
from diffusegen_core.chapters.scenes import Scenes
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, fits, masks, pairsets, regions
from diffusegen_core.data.pairsets import Job, PairSet
from diffusegen_core.data.types import DataType
from diffusegen_core.planning import preflight
from diffusegen_core.run import Run
from diffusegen_core.store.workspace import Workspace

PAINT, STYLED = DataType("Paint", "2"), DataType("Styled-Paint", "2")


def changed(p: Params, **inpaint: object) -> Params:
    return params.validate(params.merged(params.plain(p), {"inpaint": inpaint}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Params:
    """A nano run up to its models."""
    folder = tmp_path_factory.mktemp("scenes") / "run"
    p = params.validate({**nano_values, "run_dir": str(folder)})
    Run(p).make("train")
    return p


@pytest.fixture
def p(trained: Params, tmp_path: Path) -> Params:
    shutil.copytree(trained.folder, tmp_path / "run")
    return params.validate({**params.plain(trained), "run_dir": str(tmp_path / "run")})


def made(p: Params) -> PairSet:
    return Run(p).make("inpaint").sets[PAINT]


def files_of(one: PairSet) -> dict[str, bytes]:
    return {path.name if path.parent.name == "images" else f"mask {path.name}": path.read_bytes()
            for path in one.folder.rglob("*.png")}


def write_masks(folder: Path, count: int = 3, side: int = 40) -> list[np.ndarray]:
    """Squares of several sizes, as a user would draw them."""
    folder.mkdir()
    drawn = []
    for number in range(count):
        mask = np.zeros((side, side), np.uint8)
        mask[5:15 + 5 * number, 10:25] = 255
        Image.fromarray(mask).save(folder / f"shape {number}.png")
        drawn.append(mask)
    return drawn


@pytest.mark.parametrize("kind", ["own", "varied", "folder"])
def test_the_mask_is_the_given_one_and_pixels_outside_both_lesions_are_the_sources(p: Params, tmp_path: Path,
                                                                                   kind: str):
    if kind == "folder":
        write_masks(tmp_path / "masks")
    p = changed(p, masks=str(tmp_path / "masks") if kind == "folder" else kind, samples=2)
    one, real = made(p), Run(p).pairs
    assert len(one) == 8
    assert one.folder == p.folder / "inpaint" / "2-Paint"
    moved = 0
    for row in one.manifest.itertuples():
        image, mask = pairsets.read_pair(one.folder, row.name)
        source = real.named([row.source])
        region = regions.filled(source.masks, mask[None], p.inpaint.dilate)[0] > 0
        assert np.array_equal(image[:, ~region], source.images[0][:, ~region])
        assert not np.array_equal(image[:, region], source.images[0][:, region])
        assert row.area_after == pytest.approx(mask.mean(), abs=1e-6)
        assert row.picture == row.source
        moved += not np.array_equal(mask, source.masks[0])
        if kind == "own":
            assert row.mask_of == row.source
            assert row.mask_change == ""
        elif kind == "varied":
            assert row.mask_of in real.names
            assert row.mask_change.startswith(("turned by", "mirrored, turned by"))
            assert not (mask[0] & (1 - masks.field_of_view(source.images[0]))).any()
        else:
            assert row.mask_of.startswith("shape ")
            assert mask.any()
    assert moved == (0 if kind == "own" else len(one))


def test_a_small_set_whose_generator_sees_it_alone_has_masks_of_its_own_pairs_alone(p: Params):
    p = params.validate(params.merged(params.plain(p), {
        "gan.source": None, "inpaint.masks": "varied", "augment.generator_sees": "subset"}))
    run = Run(p)
    small = augment.subsets(p.seed, run.pairs.names[:4], p.augment, p.segment)[0]
    own = run._within(small)
    pairs = own.make("data")
    assert pairs.names == small.train
    jobs = [Job(index % len(pairs), f"{index}", "a", 0, "cluster-00", 1, index) for index in range(20)]
    rows = Scenes.of(own.workspace, pairs, own.params.inpaint).scene(jobs).rows
    assert {row["mask_of"] for row in rows} == set(small.train)


def test_known_channels_are_known_and_the_region_is_that_of_both_lesions(p: Params):
    p = changed(p, masks="varied")
    run = Run(p)
    scenes = Scenes.of(run.workspace, run.pairs, p.inpaint)
    jobs = [Job(index, f"a{index}", "a", 0, "cluster-00", 1, index) for index in range(3)]
    scene = scenes.scene(jobs)
    assert scene.known.shape == scene.x.shape == (3, 4, 16, 16)
    assert torch.equal(scene.known[:, 3], torch.ones(3, 16, 16))
    for channel in range(3):
        assert np.array_equal(1 - scene.known[:, channel].numpy(), scene.region)
    assert np.array_equal(scene.x[:, 3].numpy() > 0, scene.masks[:, 0] > 0)
    both = run.pairs.masks[:3] | scene.masks
    assert (scene.region >= both[:, 0]).all()
    joint = Scenes.of(run.workspace, run.pairs, changed(p, masks="joint").inpaint).scene(jobs)
    assert joint.known.shape == (3, 1, 16, 16)
    assert joint.masks is None
    assert torch.equal(joint.x, dataset.to_tensor(run.pairs.take([0, 1, 2])))


@pytest.mark.usefixtures("image_by_image")
def test_batch_size_and_order_change_no_pair(p: Params):
    p = changed(p, masks="varied", samples=2)
    whole = files_of(made(p))
    shutil.rmtree(p.folder / "inpaint")
    assert files_of(made(changed(p, batch_size=1))) == whole
    shutil.rmtree(p.folder / "inpaint")
    few = files_of(made(changed(p, samples=1, sources=2)))
    assert len(few) == 4
    assert few == {name: whole[name] for name in few}


def test_types_are_told_apart_and_go_through_every_chapter(p: Params):
    run = Run(changed(p, masks="varied"))
    run.make("evaluate")
    assert [t.name for t in run.synthetic.sets] == ["GAN", "2-Paint", "2-Styled-Paint"]
    styled = run.styled.sets[STYLED]
    for row in styled.manifest.itertuples():
        given = pairsets.read_pair(run.inpainted.sets[PAINT].folder, row.name)[1]
        assert np.array_equal(pairsets.read_pair(styled.folder, row.name)[1], given), "the mask stays"
    assert {"2-Paint", "2-Styled-Paint"} < set(run.evaluated.values["data type"])
    assert [t.name for t in run.evaluated.types] == ["Real", "GAN", "2-Paint", "2-Styled-Paint"]
    assert set(run.make("augment").runs["data_type"]) == {"Real", "2-Styled-Paint", "GAN"}
    joint = Run(p)
    joint.make("inpaint")
    assert [t.name for t in joint.inpainted.sets] == ["2-Diff"]
    assert files_of(Run(changed(p, masks="varied")).inpainted.sets[PAINT])


def test_pictures_without_lesions_give_pairs(p: Params, tmp_path: Path):
    (tmp_path / "healthy").mkdir()
    shown = {}  # by names that could be taken for numbers
    for number in range(3):
        image = np.random.default_rng(number).integers(90, 200, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "healthy" / f"{number:03d}.png")
        nothing = np.zeros((48, 64, 1), np.uint8)
        shown[f"{number:03d}"] = fits.fitted(image, nothing, 16, p.data.fit)[0]
        assert not shown[f"{number:03d}"][:, 0].any(), "between black bars, as the run's pairs would be"
    p = changed(p, masks="varied", backgrounds=str(tmp_path / "healthy"), samples=3)
    run = Run(p)
    run.make("style")
    one = run.inpainted.sets[PAINT]
    assert set(one.manifest["picture"]) == set(shown)
    for row in one.manifest.itertuples():
        image, mask = pairsets.read_pair(one.folder, row.name)
        outside = regions.dilated(mask[0], p.inpaint.dilate) == 0
        assert np.array_equal(image[:, outside], shown[row.picture][:, outside])
        assert row.area_before == 0
    styled = run.styled.sets[STYLED]
    assert list(styled.manifest["picture"]) == list(one.manifest["picture"])
    for kind, made_set in ((PAINT, one), (STYLED, styled)):
        subject = members.Subject(run.workspace, kind, made_set.folder, run.pairs.stored, None, p.evaluate,
                                  p.inpaint.dilate, run.workspace.artifact("any", {}))
        new = regions.all_dilated(made_set.load().masks, p.inpaint.dilate)
        assert np.array_equal(members.members(subject).regions, new), "no lesion was there"
    shutil.rmtree(tmp_path / "healthy")
    assert Run(p).inpainted.sets[PAINT].manifest.equals(one.manifest), "a copied run is read without them"


def test_a_given_mask_in_the_bars_of_a_picture_is_no_lesion_and_is_not_painted(
        p: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "healthy").mkdir()
    (tmp_path / "masks").mkdir()
    image = np.random.default_rng(0).integers(90, 200, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "healthy" / "wide.png")
    for name, rows in (("below", slice(56, 64)), ("both", slice(40, 64))):
        mask = np.zeros((64, 64), np.uint8)
        mask[rows, 20:40] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    p = params.validate(params.merged(params.plain(p), {"data": {"fit": "pad"}}))
    p = changed(p, masks=str(tmp_path / "masks"), backgrounds=str(tmp_path / "healthy"), samples=3)
    painted: list[str] = []

    def noted(ws: Workspace, jobs: list[Job], *rest: object) -> list[tuple[np.ndarray, np.ndarray]]:
        painted.extend(job.name for job in jobs)
        return original(ws, jobs, *rest)

    original = inpaint._painted
    monkeypatch.setattr(inpaint, "_painted", noted)
    one = made(p)
    assert set(one.manifest["mask_of"]) == {"both"}
    assert set(one.left_out["mask_of"]) == {"below"}
    assert sorted(painted) == sorted(one.manifest["name"])
    assert (one.left_out["area_after"] == 0).all()
    squared = fits.fitted(image, np.zeros((32, 64, 1), np.uint8), 16, "pad")[0]
    for name in one.manifest["name"]:
        shown, mask = pairsets.read_pair(one.folder, name)
        assert np.array_equal(shown[:, 12:], squared[:, 12:])
        assert not mask[:, 12:].any()
        assert mask[:, 10:12].any()


def test_another_mask_in_the_folder_makes_the_pairs_anew_and_the_same_ones_do_not(p: Params, tmp_path: Path):
    write_masks(tmp_path / "masks")
    p = changed(p, masks=str(tmp_path / "masks"))
    before = files_of(made(p))
    stamp = (p.folder / "inpaint" / "2-Paint" / "made.json").stat().st_mtime_ns
    shutil.copytree(tmp_path / "masks", tmp_path / "same")
    made(changed(p, masks=str(tmp_path / "same")))
    assert (p.folder / "inpaint" / "2-Paint" / "made.json").stat().st_mtime_ns == stamp
    Image.fromarray(np.tri(40, dtype=np.uint8) * 255).save(tmp_path / "masks" / "shape 1.png")
    after = files_of(made(p))
    assert after.keys() == before.keys()
    assert after != before


@pytest.mark.parametrize(("kind", "message"), [
    ("absent", "is not a folder"), ("none", "holds no pictures"), ("text", "cannot be read"),
    ("empty", "is an empty mask"), ("full", "fills its picture"), ("twice", "Two pictures are called a"),
    ("odd", "name that cannot be used")])
def test_a_folder_of_masks_that_cannot_be_used_is_refused_in_a_line(p: Params, tmp_path: Path, kind: str,
                                                                    message: str):
    folder = tmp_path / "masks"
    if kind != "absent":
        folder.mkdir()
    if kind == "text":
        (folder / "a.png").write_text("no picture")
    if kind == "empty":
        Image.new("L", (20, 20)).save(folder / "a.png")
    if kind == "full":
        Image.new("L", (20, 20), 255).save(folder / "a.png")
    if kind == "odd":
        Image.new("L", (20, 20)).save(folder / os.fsdecode(b"a\n\xff.png"))
    if kind == "twice":
        for name in ("a.png", "a.bmp"):
            Image.new("L", (20, 20), 255).save(folder / name)
    with pytest.raises(UserError, match=message) as error:
        made(changed(p, masks=str(folder)))
    assert "\n" not in str(error.value)
    if kind in ("absent", "none", "twice", "odd"):  # which the listing tells, before anything runs
        assert any(message in line for line in preflight.problems(changed(p, masks=str(folder))))


def test_masks_of_one_size_do_not_stand_for_another_where_their_folder_is_gone(p: Params, tmp_path: Path):
    write_masks(tmp_path / "masks")
    p = changed(p, masks=str(tmp_path / "masks"))
    made(p)
    shutil.rmtree(tmp_path / "masks")
    larger = params.validate(params.merged(params.plain(p), {"data.image_size": 32}))
    with pytest.raises(UserError, match="masks is not a folder"):
        made(larger)
    assert len(made(p)) == 4


def test_masks_that_were_changed_by_hand_are_made_again_by_the_chapter_that_the_refusal_names(
        p: Params, tmp_path: Path):
    write_masks(tmp_path / "masks")
    run = Run(changed(p, masks=str(tmp_path / "masks")))
    run.make("inpaint")
    (run.folder / "inpaint" / "masks" / "pairs.npz").write_bytes(b"by hand")
    with pytest.raises(UserError, match="--remake inpaint"):
        run.make("inpaint")
    run.make("inpaint", again=True)
    assert len(run.inpainted.sets[PAINT]) == 4


def test_backgrounds_need_given_masks(p: Params, tmp_path: Path):
    with pytest.raises(UserError, match="backgrounds needs given masks"):
        changed(p, backgrounds=str(tmp_path))


def test_a_folder_of_backgrounds_has_no_words_of_its_own(p: Params):
    p = changed(p, masks="varied", backgrounds="own")
    assert any("own is not a folder" in line for line in preflight.problems(p))
    with pytest.raises(UserError, match="own is not a folder"):
        made(p)


def test_a_test_image_is_no_background(p: Params, tmp_path: Path):
    (tmp_path / "healthy").mkdir()
    leaked = next(iter(Run(p).make("tests").values())).pairs.images[1].transpose(1, 2, 0)
    Image.fromarray(leaked).save(tmp_path / "healthy" / "leaked.png")
    with pytest.raises(UserError, match=r"inpaint\.backgrounds: 1 of the 1 pictures are images of .*leaked"):
        Run(changed(p, masks="varied", backgrounds=str(tmp_path / "healthy"))).make("tests")


def test_masks_do_not_change_what_the_joint_way_is_known_by(p: Params):
    recipe = Run(p).make("inpaint").sets[DataType("Diff", "2")].stamp["recipe"]
    assert not {"masks", "backgrounds", "masks_version"} & set(recipe["inpaint"])


def test_a_lesion_that_finds_no_place_is_left_out(p: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masks, "field_of_view", lambda image: np.zeros(image.shape[1:], np.uint8))
    one = made(changed(p, masks="varied"))
    assert len(one) == 0
    assert len(one.left_out) == 4
    assert isinstance(one.left_out, pd.DataFrame)
