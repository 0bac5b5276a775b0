"""Some classes painted anew and the others kept (inpaint.classes), and folders read as a run's own data."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusegen_core.chapters import gan, members, scenes, spots
from diffusegen_core.chapters.scenes import Scenes
from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import (
    dataset,
    layouts,
    lesions,
    pairsets,
    phantom_slices,
    pictures,
    planes,
    regions,
    seamless,
)
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.pairsets import Job
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.run import Run
from diffusegen_core.store import seeds
from diffusegen_core.store.workspace import Workspace

SLICES = {"source": "phantom-slices", "channels": 1, "labels": {"1": "liver", "2": "kidney", "3": "tumour"},
          "object": "organ"}
DIFF, PAINT, STYLED = DataType("Diff", "2"), DataType("Paint", "2"), DataType("Styled-Paint", "2")
KIDNEY = (1,)
SIDE = 16
ORGANS = np.zeros((SIDE, SIDE), np.uint8)
ORGANS[4:12, 3:11] = 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> params.Params:
    """A nano run of slices with three classes, up to its models."""
    values = params.merged(copy.deepcopy(nano_values), {
        "data": {**nano_values["data"], **SLICES}, "train.images": 12, "gan.source": None,
        "run_dir": str(tmp_path_factory.mktemp("chosen") / "run")})
    p = params.validate(values)
    Run(p).make("train")
    return p


@pytest.fixture
def p(trained: params.Params, tmp_path: Path) -> params.Params:
    shutil.copytree(trained.folder, tmp_path / "run")
    return params.validate({**params.plain(trained), "run_dir": str(tmp_path / "run")})


def changed(p: params.Params, **values: object) -> params.Params:
    return params.validate(params.merged(params.plain(p), {
        key.replace("__", "."): value for key, value in values.items()}))


# ---- chosen classes


def test_others_stay_and_are_covered_only_where_classes_exclude_each_other() -> None:
    rest, new = np.zeros((2, 3, 4, 4), np.uint8)
    rest[0, :3], new[1, 2:] = 1, 1
    exclusive = planes.laid_over(rest, new, overlap=False)
    assert np.array_equal(exclusive[1], new[1])
    assert np.array_equal(exclusive[0], rest[0] * (1 - new[1]))
    assert np.array_equal(planes.laid_over(rest, new, overlap=True), rest | new)
    both = rest | new
    assert np.array_equal(planes.only(both, KIDNEY), new)
    assert np.array_equal(planes.without(both, KIDNEY), rest)
    assert np.array_equal(planes.only(both, None), both)
    assert not planes.without(both, None).any()


@pytest.mark.parametrize("window", [None, 1.6])
@pytest.mark.parametrize("masks", ["varied", "joint"])
def test_the_chosen_class_alone_is_painted_anew(p: params.Params, masks: str, window: float | None) -> None:
    p = changed(p, inpaint__masks=masks, inpaint__classes=["kidney"], inpaint__samples=2)
    run = Run(p)
    scenes = Scenes.of(run.workspace, run.pairs, p.inpaint, window, p.data)
    jobs = [Job(index, f"a{index}", "a", 0, "cluster-00", 1, index) for index in range(3)]
    scene, real = scenes.scene(jobs), run.pairs.take([0, 1, 2])
    old = planes.only(real.masks, KIDNEY)
    new = None if scene.masks is None else planes.only(scene.masks, KIDNEY)
    assert np.array_equal(scene.region, regions.filled(old, new, p.inpaint.dilate))
    assert (scene.known[:, [1, 3]] == 1).all(), "the masks of the others are known"
    assert bool((scene.known[:, 2] == 1).all()) == (masks == "varied")
    if window is None:
        made = run.make("inpaint").sets[PAINT if masks == "varied" else DIFF]
        everything = [*made.manifest.itertuples(), *made.left_out.itertuples()]
        assert len(everything) == 8
        assert masks == "joint" or len(made)
        for row in made.manifest.itertuples():
            image, mask = pairsets.read_pair(made.folder, row.name)
            source = run.pairs.named([row.source])
            drawn = planes.only(mask, KIDNEY)
            assert drawn.any()
            given = None if masks == "joint" else drawn[None]
            region = regions.filled(planes.only(source.masks, KIDNEY), given, p.inpaint.dilate)[0] > 0
            assert np.array_equal(image[:, ~region], source.images[0][:, ~region])
            kept = planes.without(source.masks[0], KIDNEY) * (1 - planes.union(drawn))
            assert np.array_equal(planes.without(mask, KIDNEY), kept), "the others are as they were"
            assert row.area_after == pytest.approx(drawn[1].mean(), abs=1e-6)
    else:
        assert all(set(np.unique(spot.old)) <= {0, 2} and not (spot.rest == 2).any() for spot in scene.spots)
        rest = planes.separate(scene.spots[0].rest, 3)
        assert np.array_equal(rest, planes.without(real.masks[0], KIDNEY))


def test_windows_keep_the_masks_of_other_classes(p: params.Params) -> None:
    run = Run(p)
    diffusion, pairs = run.models.load(device="cpu"), run.pairs.take([0, 1, 2, 3])
    for masks in (None, np.roll(pairs.masks, 2, axis=-1)):
        wanted = spots.of(pairs, masks, KIDNEY)
        painted = spots.paint(diffusion, wanted, 1.5, p.inpaint,
                              [seeds.generator(0, "window", number) for number in range(4)])
        for spot, (image, mask) in zip(wanted, painted, strict=True):
            region = spot.region(p.inpaint.dilate) > 0
            assert np.array_equal(image[:, ~region], spot.image[:, ~region])
            drawn = planes.separate(mask, 3)
            kept = planes.separate(spot.rest, 3) * (1 - drawn[1])
            assert np.array_equal(planes.without(drawn, KIDNEY), kept)
            assert masks is None or np.array_equal(drawn[1], spot.new == 2)


@pytest.mark.parametrize("window", [None, 1.6])
def test_new_objects_lie_within_a_class_that_follows_those_that_go(p: params.Params,
                                                                  window: float | None) -> None:
    p = changed(p, inpaint__masks="varied", inpaint__classes=["kidney"], inpaint__within="liver",
                inpaint__samples=2, inpaint__baselines=["Paste"])
    run = Run(p)
    scenes = Scenes.of(run.workspace, run.pairs, p.inpaint, window, p.data)
    scene = scenes.scene([Job(index, f"a{index}", "a", 0, "cluster-00", 1, index) for index in range(3)])
    for spot, mask, real in zip(scene.spots, scene.masks, run.pairs.masks, strict=False):
        room, new = real[0] | real[1], mask[1]
        assert new.any()
        assert not (new & (1 - room)).any()
        assert np.array_equal(mask[0], room & (1 - new)), "liver, where a kidney was"
        assert np.array_equal(mask[2], real[2])
        assert np.array_equal(planes.separate(spot.rest, 3)[0], room)
        assert np.array_equal(spot.old > 0, real[1] > 0)
    run.make("paste")
    [pasted] = run.pasted.sets.values()
    for name, source in zip(pasted.manifest["name"], pasted.manifest["source"], strict=True):
        mask, real = pairsets.read_pair(pasted.folder, name)[1], run.pairs.named([source]).masks[0]
        assert not (mask[1] & (1 - (real[0] | real[1]))).any()
    if window is None:
        made = run.make("inpaint").sets[PAINT]
        assert len(made) + len(made.left_out) == 8
        assert made.stamp["recipe"]["inpaint"]["within"] == "liver"


def test_guidance_leaves_the_classes_that_stay_as_they_are(p: params.Params,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with a mask that lacks the organ as well, an organ would be painted too bright or too dark."""
    p = changed(p, inpaint__masks="varied", inpaint__classes=["kidney"], inpaint__within="liver",
                inpaint__guidance_scale=2.0, style__method="sdedit", style__guidance_scale=2.0)
    followed, towards = [], Diffusion.towards

    def noted(self: Diffusion, mask: Tensor, scale: float, rest: Tensor) -> Diffusion:
        if mask.max() > -1 and not torch.equal(mask, rest):  # else a lesion is removed
            followed.append((mask.cpu().numpy() > 0, rest.cpu().numpy() > 0))
        return towards(self, mask, scale, rest)

    monkeypatch.setattr(Diffusion, "towards", noted)
    run = Run(p)
    made = run.make("style").sets[STYLED].stamp["recipe"]
    assert made["beside"] == made["scenes"]["beside"] == scenes.BESIDE
    counts, diffusion = [len(followed)], run.models.load(device="cpu")
    window = Scenes.of(run.workspace, run.pairs, p.inpaint, 1.5, p.data)
    spots.paint(diffusion, window.scene([Job(0, "a0", "a", 0, "cluster-00", 1, 0)]).spots, 1.5, p.inpaint,
                [seeds.generator(0, "window", 0)])
    counts.append(len(followed))
    new = np.zeros((SIDE, SIDE), np.uint8)
    new[6:9, 5:8] = 2
    run.paint(np.zeros((SIDE, SIDE, 1), np.uint8), new, keep=ORGANS)
    assert 0 < counts[0] < counts[1] < len(followed), "in chapters 3 and 4, in windows, and in pictures"
    assert np.array_equal(followed[-1][1][0], planes.separate(ORGANS, 3) > 0)
    for mask, rest in followed:
        assert mask[:, 1].any()
        assert not rest[:, 1].any()
        assert np.array_equal(rest[:, 0], mask[:, 0] | mask[:, 1]), "the liver is where the kidney was"
        assert np.array_equal(rest[:, 2], mask[:, 2])


def test_what_depends_on_classes_that_stay_is_another_only_where_some_do(p: params.Params) -> None:
    def said(**inpaint: object) -> bool:
        wish = changed(p, inpaint__masks="varied", **{f"inpaint__{name}": value
                                                      for name, value in inpaint.items()})
        run = Run(wish)
        return "beside" in Scenes.of(run.workspace, run.pairs, wish.inpaint, None, wish.data).recipe
    assert said(classes=["kidney"], guidance_scale=2.0, seamless=False)
    assert said(classes=["kidney"], guidance_scale=1.0, seamless=True)
    assert not said(classes=["kidney"], guidance_scale=1.0, seamless=False)
    assert not said(classes=None, guidance_scale=2.0, seamless=True), "pairs from before stay"


@pytest.mark.parametrize("window", [None, 1.6])
def test_colours_are_matched_within_the_classes_of_the_new_masks(p: params.Params, window: float | None,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A kidney's brightness once bled into what was painted into the liver beside it."""
    p = changed(p, inpaint__masks="varied", inpaint__classes=["kidney"], inpaint__seamless=True)
    seen, filled = [], seamless.filled

    def noted(painted: np.ndarray, images: np.ndarray, where: np.ndarray, matching: bool,
              numbers: list[np.ndarray]) -> np.ndarray:
        seen.extend(numbers)
        return filled(painted, images, where, matching, numbers)

    monkeypatch.setattr(seamless, "filled", noted)
    run = Run(p)
    if window is None:
        made = run.make("inpaint").sets[PAINT]
        masks = [planes.numbered(pairsets.read_pair(made.folder, row.name)[1][None])[0]
                 for row in made.manifest.itertuples()]
        assert masks
        assert all(any(np.array_equal(mask, one) for one in seen) for mask in masks)
    else:
        scene = Scenes.of(run.workspace, run.pairs, p.inpaint, window, p.data).scene(
            [Job(0, "a0", "a", 0, "cluster-00", 1, 0)])
        spots.paint(run.models.load(device="cpu"), scene.spots, window, p.inpaint,
                    [seeds.generator(0, "window", 0)])
        assert len(seen) == 1
        assert 2 in seen[0], "the new kidney is among the classes of its window"


@pytest.mark.parametrize(("inpaint", "says"), [
    ({"within": "spleen"}, r"inpaint\.within: the data have no class spleen; they have liver, "),
    ({"within": "liver"}, "liver is painted anew itself"),
    ({"within": "liver", "classes": ["kidney"], "masks": "joint"}, "needs given masks")])
def test_a_class_to_lie_within_that_cannot_be_is_refused(inpaint: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        params.validate({"data": SLICES, "inpaint": inpaint})


def test_styling_the_audit_and_pasting_know_which_classes_were_painted(p: params.Params) -> None:
    p = changed(p, inpaint__masks="varied", inpaint__classes=["kidney"], inpaint__baselines=["Paste"])
    run = Run(p)
    run.make("style")
    run.make("paste")
    made = run.styled.sets[STYLED]
    assert pairsets.chosen(made.folder) == KIDNEY
    seen = members.of_set(run.pairs, STYLED, made.folder, p.inpaint.dilate)
    masks = planes.only(made.load().masks, KIDNEY)
    assert made.manifest["area"].tolist() == pytest.approx(masks[:, 1].mean(axis=(1, 2)).tolist(), abs=1e-6)
    old = planes.only(run.pairs.masks[seen.sources], KIDNEY)
    assert np.array_equal(seen.regions, regions.filled(old, masks, p.inpaint.dilate))
    [pasted] = run.pasted.sets.values()
    for name, source in zip(pasted.manifest["name"], pasted.manifest["source"], strict=True):
        _, mask = pairsets.read_pair(pasted.folder, name)
        own = run.pairs.named([source]).masks[0]
        assert not (planes.without(mask, KIDNEY) & (1 - own)).any(), "no other class is pasted"
    named = changed(p, inpaint__classes=["tumour", "liver", "kidney"])
    every = Scenes.of(run.workspace, run.pairs, named.inpaint, None, p.data)
    assert every.chosen is None, "all classes by name are all"
    assert "classes" not in every.recipe


def test_masks_are_drawn_from_pairs_that_have_the_class(p: params.Params) -> None:
    pairs = Run(p).pairs
    sick = lesions.having(pairs, (2,))
    assert 0 < len(sick) < len(pairs)
    assert all(pairs.masks[number, 2].any() for number in sick)
    assert lesions.having(pairs, None) == list(range(len(pairs)))


def test_a_class_that_the_data_do_not_have_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"inpaint\.classes: the data have no class spleen; they have liver, "
                                        r"kidney, tumour\.") as caught:
        params.validate({"data": SLICES, "inpaint": {"classes": ["liver", "spleen"]}})
    assert "\n" not in str(caught.value)


# ---- folders


def write_slices(folder: Path, count: int, first: int = 50) -> None:
    """Slices that a GAN might have drawn, with the values 1 to 3 in their masks."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, mask, _ = phantom_slices.draw(5, first + number, 40)
        Image.fromarray(image[0]).save(folder / "images" / f"{number}.png")
        Image.fromarray(planes.numbered(mask)).save(folder / "masks" / f"{number}.png")


def test_folders_of_masks_and_backgrounds_are_read_as_the_runs_data(p: params.Params, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "healthy").mkdir()
    numbers = np.zeros((48, 64), np.uint8)
    numbers[8:24, 8:24], numbers[8:24, 40:56], numbers[30:40, 20:40] = 1, 2, 3
    Image.fromarray(numbers).save(tmp_path / "masks" / "shape.png")
    wide = np.random.default_rng(0).integers(0, 1000, (48, 64), np.uint16)
    Image.fromarray(wide).save(tmp_path / "healthy" / "deep.png")
    p = changed(p, inpaint__masks=str(tmp_path / "masks"), inpaint__backgrounds=str(tmp_path / "healthy"),
                data__intensities=[0, 1000], inpaint__samples=1)
    run = Run(p)
    made = run.make("inpaint").sets[PAINT]
    assert len(made) == 4
    image, mask = pairsets.read_pair(made.folder, made.manifest["name"][0])
    assert (image.shape, mask.shape) == ((1, SIDE, SIDE), (3, SIDE, SIDE))
    assert mask.any(axis=(1, 2)).all()
    assert not mask[:, :2].any(), "padded, as data.fit asks"
    outside = regions.dilated(planes.union(mask), p.inpaint.dilate) == 0
    healthy = dataset.read(run.folder / "inpaint/backgrounds/pairs.npz").images[0]
    assert np.array_equal(image[:, outside], healthy[:, outside])
    assert healthy.max() > 100, "by data.intensities, and not as nearly black"


@pytest.mark.parametrize(("labels", "channels"), [(None, 1), (SLICES["labels"], 1), (None, 3)])
def test_another_generators_pairs_are_read_as_the_runs_data(tmp_path: Path, labels: dict | None,
                                                            channels: int) -> None:
    write_slices(tmp_path / "gan", 3)
    if labels is None:
        for file in (tmp_path / "gan" / "masks").iterdir():
            Image.fromarray((np.asarray(Image.open(file)) > 0) * np.uint8(255)).save(file)
    data = {"channels": channels, "labels": labels, "image_size": SIDE, "source": str(tmp_path / "real"),
            "fit": "squeeze"}
    write_slices(tmp_path / "real", 4, 80)
    p = params.validate({"data": {**data, "count": None}, "gan": {"source": str(tmp_path / "gan")},
                         "run_dir": str(tmp_path / "run"), "device": "cpu"})
    real = dataset.gather(list("abcd"), np.zeros((4, channels, SIDE, SIDE)), np.zeros((4, 1, SIDE, SIDE)))
    made = gan.run(Workspace(p.folder, 0, "cpu"), real, p.gan, p.inpaint, p.data)
    assert made is not None
    pairs = made.pairs.load()
    classes = 3 if labels else 1
    assert (pairs.images.shape, pairs.masks.shape) == ((3, channels, SIDE, SIDE), (3, classes, SIDE, SIDE))
    recipe = made.pairs.stamp["recipe"]
    assert sorted(set(recipe) - {"version", "reader", "image_size", "jobs", "models"}) == (
        [] if (labels, channels) == (None, 3) else ["read"])
    shutil.move(tmp_path / "gan", tmp_path / "elsewhere")
    again = gan.run(Workspace(p.folder, 0, "cpu", writable=False), real, p.gan, p.inpaint, p.data)
    assert again is not None, "as in a copied run"


def test_masks_without_a_class_or_with_values_that_nobody_names_are_told(tmp_path: Path) -> None:
    data = Data(**SLICES, image_size=SIDE)
    ws = Workspace(tmp_path / "run", 0, "cpu")
    for place, value, told in (("none", 0, "is an empty mask: no pixel is of liver, kidney, tumour"),
                               ("other", 9, "unmapped values, 9")):
        (tmp_path / place).mkdir()
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / place / "a.png")
        with pytest.raises(UserError, match=told) as caught:
            pictures.load(ws, pictures.MASKS, str(tmp_path / place), SIDE, data)
        assert "\n" not in str(caught.value)
    (tmp_path / "colour").mkdir()
    np.save(tmp_path / "colour" / "a.npy", np.zeros((8, 8, 2), np.uint8))
    with pytest.raises(UserError, match=r"has 2 channels, but data\.channels is 1"):
        pictures.load(ws, pictures.BACKGROUNDS, str(tmp_path / "colour"), SIDE, data)


def test_what_others_made_is_squared_and_as_bright_as_the_runs_own(tmp_path: Path) -> None:
    papers = Data(source="pairs", fit="squeeze")
    assert layouts.of_others(papers, tmp_path) == PLAIN
    assert layouts.told_of(PLAIN) == {}
    deep = layouts.of_others(Data(source="pairs", fit="pad", intensities=[0, 10]), tmp_path)
    assert layouts.told_of(deep) == {"read": {"fit": "pad", "intensities": [0, 10]}}
    named = layouts.of_others(Data(source="pairs", fit="squeeze", labels={">0": "polyp"}), tmp_path)
    assert layouts.told_of(named) == {"read": {"labels": {">0": "polyp"}}}
    grey = Data(source="pairs", channels=1, fit="crop")
    assert layouts.told_of(layouts.of_others(grey, tmp_path)) == {"read": {"channels": 1, "fit": "crop"}}
