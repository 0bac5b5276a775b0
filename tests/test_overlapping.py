"""Classes that overlap (data.overlap): maps of combinations, networks that tell them apart, a whole run."""

import base64
import copy
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffusegen_core import painting
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, masks, pairsets, planes, regions
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import DataType
from diffusegen_core.data.windows import Window
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.measures import overlap
from diffusegen_core.report import figures, review, segment_figures
from diffusegen_core.run import Run
from diffusegen_core.segmentation import segnet, softdice
from diffusegen_core.store import lock
from diffusegen_core.store.stamps import GENERATORS

CLASSES = ("chest", "lung", "nodule")
SIDE = 16


def nested(side: int = 32, shift: int = 0) -> np.ndarray:
    """A mask (3, S, S): a class that lies within another, and a third that lies across the border of both."""
    mask = np.zeros((3, side, side), np.uint8)
    third = side // 3
    mask[0, third // 2:2 * third, third // 2:2 * third] = 1
    mask[1, third:2 * third - 2, third:2 * third - 2] = 1
    mask[2, third + 2 + shift:2 * third + 3, third + 3:2 * third + 2] = 1
    return mask


# ---- maps


def test_a_map_tells_every_combination_of_classes_and_of_single_ones_their_number() -> None:
    every = np.array([[[number >> place & 1 for number in range(8)]] for place in range(3)], np.uint8)
    numbers = planes.numbered(every)
    assert np.array_equal(planes.separate(numbers, 3), every)
    assert numbers[0, [0, 1, 2, 4]].tolist() == [0, 1, 2, 3], "as of classes that exclude each other"
    assert sorted(numbers[0].tolist()) == list(range(8))
    assert Planes(1, 3, overlap=True).numbers == 7
    many = np.stack([nested(32, shift) for shift in range(3)])
    assert np.array_equal(planes.separate(planes.numbered(many), 3), many), "of several images at once"


def test_files_keep_overlapping_classes(tmp_path: Path) -> None:
    written = planes.write_mask(planes.mask_file(tmp_path, "one"), nested())
    assert np.array_equal(planes.read_mask(Path(written)), nested())


def test_what_a_model_draws_is_of_every_class_above_the_middle() -> None:
    channels = nested(64).astype(np.float32) - 0.5
    drawn = regions.opened(channels, 1, overlap=True)
    assert np.array_equal(planes.separate(drawn, 3), nested(64))
    exclusive = planes.separate(regions.opened(channels, 1), 3)
    assert exclusive.sum(axis=0).max() == 1


def test_masks_are_moved_and_cut_with_what_overlaps() -> None:
    numbers = planes.numbered(nested(64))
    moved = masks.varied(numbers, np.ones((64, 64), np.uint8), np.random.default_rng(0)).mask
    areas = planes.separate(moved, 3).mean(axis=(1, 2)) / nested(64).mean(axis=(1, 2))
    assert areas == pytest.approx(areas.mean(), rel=0.25), "all by the same scale"
    assert planes.overlapping(planes.separate(moved, 3))
    window = Window.around(numbers, 1.2)
    small = planes.separate(window.cut(np.zeros((1, 64, 64), np.uint8), numbers, 16, 3)[1], 3)
    for plane, own in zip(small, nested(64), strict=True):  # each as if it were alone, without seams
        assert np.array_equal(plane, planes.shrunk(own[window.box][None], (16, 16))[0])


# ---- networks


def test_each_class_has_a_logit_of_its_own_and_background_is_what_the_likeliest_leaves(
        nano_params: params.Params) -> None:
    settings = nano_params.segment.model_copy(update={"weights": "random"})
    apart, single = (segnet.build(settings, 0, Planes(1, 3, flag)) for flag in (True, False))
    image = torch.zeros(1, 3, 32, 32)
    assert [net.eval()(image).shape[1] for net in (apart, single)] == [3, 4]
    shown = segnet.predict(apart, np.full((2, 1, 32, 32), 90, np.uint8), settings, torch.device("cpu"))
    assert shown.shape == (2, 4, 32, 32)
    assert np.allclose(shown[:, 0], 1 - shown[:, 1:].max(axis=1), atol=1e-6)


def test_a_loss_falls_to_nothing_only_where_every_class_is_right() -> None:
    truth = torch.from_numpy(nested())[None].long()
    right = (truth.float() - 0.5) * 40
    wrong = right.clone()
    wrong[:, 1] *= -1
    loss = softdice.loss(Planes(1, 3, overlap=True))
    assert float(loss(right, truth)) < 0.01
    assert float(loss(wrong, truth)) == pytest.approx(1 / 3, abs=0.02), "the mean over classes"


def test_dice_of_classes_that_overlap_is_of_all_that_exceed_a_half() -> None:
    truth = nested()[None]
    each = truth * 0.9 + 0.05
    probabilities = np.concatenate([1 - each.max(axis=1, keepdims=True), each], axis=1)
    perfect = overlap.scores(probabilities, truth, overlap=True).iloc[0]
    assert perfect[["dice", "iou", *overlap.of_classes(3)]].tolist() == [1] * 5
    assert overlap.scores(probabilities, truth).iloc[0]["dice"] < 0.9, "the likeliest alone"


# ---- a run


def write(folder: Path, count: int = 12) -> None:
    """Arrays of two channels with three classes that overlap, a file for each class."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.roll(nested(SIDE, number % 2), number % 3, axis=2)
        image = 60 + 30 * mask.sum(axis=0)[..., None] + rng.integers(0, 90, (SIDE, SIDE, 2))  # none is a copy
        np.save(folder / "images" / f"{number}.npy", image.astype(np.uint8))
        for name, plane in zip(CLASSES, mask, strict=True):
            Image.fromarray(plane * np.uint8(255)).save(folder / "labels" / f"{number}_{name}.png")


def settings(folder: Path) -> dict:
    return {"source": str(folder / "pairs"), "images": "images/*.npy", "masks": "labels/*_**.png",
            "channels": 2, "labels": {f"_{name}": name for name in CLASSES}, "overlap": True,
            "subset": "all", "count": 8, "object": "finding"}


@pytest.fixture(scope="module")
def run(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("overlapping")
    write(folder / "pairs")
    values = params.merged(copy.deepcopy(nano_values), {
        "data": {**nano_values["data"], **settings(folder)}, "run_dir": str(folder / "run"),
        "train.images": 12, "segment.epochs": 1, "inpaint.sources": 3, "inpaint.masks": "varied",
        "inpaint.guidance_scale": 2.0, "inpaint.baselines": ["Paste"], "gan.sources": 1,
        "augment.sizes": [3], "segment.keep_weights": True})
    made = Run(params.validate(values))
    for chapter in ("evaluate", "segment", "augment"):
        made.make(chapter)
    return made


def test_all_chapters_are_made_of_classes_that_overlap(run: Run) -> None:
    assert set(run.status()["status"]) <= {"made", "none"}
    assert run.pairs.overlap
    assert planes.overlapping(run.pairs.masks)
    for result in (run.segmented, run.augmented):
        failed = result.runs[result.runs["status"] != "ok"]
        assert failed["status"].str.contains("too few|no pair").all(), failed["status"].tolist()
        assert set(overlap.of_classes(3)) <= set(result.images)
        assert len(result.images)
    kind = Planes(2, 3, overlap=True)
    assert checkpoints.header(run.models.models[0].path)["configuration"]["overlap"] is True
    assert run.models.load(device="cpu").planes == kind


def test_painted_and_styled_pairs_keep_what_overlaps_and_the_region_is_the_union(run: Run) -> None:
    whole, (inpainted, styled) = run.pairs, (next(iter(chapter.sets.values()))
                                             for chapter in (run.inpainted, run.styled))
    for one in (inpainted, styled):
        assert planes.overlapping(one.load().masks)
        assert one.load().overlap
    for name, source in zip(inpainted.manifest["name"], inpainted.manifest["source"], strict=True):
        image, mask = pairsets.read_pair(inpainted.folder, name)
        number = whole.names.index(source)
        union = planes.union(whole.masks[number]) | planes.union(mask)
        region = regions.dilated(union, run.params.inpaint.dilate)
        assert np.array_equal(image[:, region == 0], whole.images[number][:, region == 0])


def test_figures_show_every_class_of_a_combination(run: Run) -> None:
    drawn = [figures.samples(run.pairs, classes=CLASSES),
             segment_figures.worst(run.segmented, classes=CLASSES),
             segment_figures.examples(run.segmented, classes=CLASSES)]
    for figure in drawn:
        figure.canvas.draw()
    _, ax = plt.subplots()
    figures.outlines(ax, planes.numbered(nested()), 3)
    assert len(ax.collections) == 3, "an outline of each, though no pixel is of the second class alone"
    plt.close("all")


def test_pictures_of_ones_own_are_painted_and_reviewed_with_any_channels_and_classes(run: Run,
                                                                                     tmp_path: Path) -> None:
    picture, mask = tmp_path / "own.npy", tmp_path / "mask.npy"
    np.save(picture, np.random.default_rng(1).integers(60, 200, (24, 24, 2), np.uint8))
    np.save(mask, nested(24))
    rows = painting.paint(run, [picture], tmp_path / "painted", mask=mask)
    image, drawn = pairsets.read_pair(tmp_path / "painted", rows["name"][0])
    assert image.shape == (2, 24, 24)
    assert np.array_equal(drawn, nested(24))
    region = regions.dilated(planes.union(nested(24)), run.params.inpaint.dilate) > 0
    assert np.array_equal(image.transpose(1, 2, 0)[~region], np.load(picture)[~region])
    free = painting.paint(run, [picture], tmp_path / "free", like="large,centre")
    assert len(free) == 1

    folders = review.folders_of(run, tmp_path / "real")
    form, key = review.make(folders, tmp_path / "review", 2, classes=CLASSES)
    content = json.loads(form.read_text(encoding="utf-8").split('id="form">')[1].split("</script>")[0])
    assert [name for name, _ in content["classes"]] == list(CLASSES)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["items"][0]["mask"].split(",")[1]))))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 2, "each class in its colour"
    assert len(json.loads(key.read_text())["items"]) == 6


def test_the_same_pairs_without_overlap_are_refused_while_reading(run: Run, tmp_path: Path) -> None:
    values = params.merged(params.plain(run.params),
                           {"data.overlap": False, "run_dir": str(tmp_path / "run")})
    with pytest.raises(UserError, match=r"of several classes; where that is meant, set data\.overlap"):
        Run(params.validate(values)).make("data")


def test_more_classes_than_a_byte_has_combinations_are_refused() -> None:
    labels = {str(number): f"class {number}" for number in range(1, 10)}
    with pytest.raises(UserError, match=r"data\.overlap: a run takes at most 8 classes that overlap"):
        params.validate({"data": {"source": "pairs", "labels": labels, "overlap": True}})
    params.validate({"data": {"source": "pairs", "labels": labels}})


def test_pairs_remember_that_they_may_overlap(tmp_path: Path) -> None:
    images, mask = np.zeros((1, 1, 8, 8), np.uint8), np.zeros((1, 2, 8, 8), np.uint8)
    apart, plain = (dataset.gather(["a"], images, mask, flag) for flag in (True, False))
    assert apart.digest != plain.digest
    for pairs in (apart, plain):
        again = dataset.read(dataset.write(tmp_path / pairs.digest, pairs))
        assert (again.overlap, again.digest) == (pairs.overlap, pairs.digest)
        assert again.take([0]).overlap == pairs.overlap


@pytest.mark.parametrize("place", ["inpaint/2-Diff", "generators/1/inpaint/2-Diff"])
def test_a_set_of_a_run_may_overlap_as_its_real_pairs_do(tmp_path: Path, place: str) -> None:
    image, mask = np.zeros((1, 1, 8, 8), np.uint8), np.zeros((1, 2, 8, 8), np.uint8)
    folder, data = tmp_path / "run" / place, tmp_path / "run" / "data"
    lock.claim(tmp_path / "run")
    if place.startswith(GENERATORS):
        lock.claim(folder.parents[1])  # as `Workspace.beside` does
    dataset.write_pair(folder, "a_1", image[0], mask[0])
    manifest = pd.DataFrame({"name": ["a_1"]})
    one = PairSet(DataType("Diff", "2"), folder, manifest, manifest.head(0), {}, {"seconds": 1.0})
    assert not one.load().overlap, "without real pairs nothing is known of it"
    for flag in (True, False):
        dataset.write(data, dataset.gather(["a"], image, mask, flag))
        assert one.load().overlap is flag
        assert pairsets.load(folder, ["a_1"]).digest == dataset.gather(["a_1"], image, mask).digest
    (data / dataset.PAIRS).unlink()
    dataset.write(tmp_path / "data", dataset.gather(["a"], image, mask, True))
    assert not one.load().overlap, "what lies around the run is another's"
