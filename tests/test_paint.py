"""Pictures of one's own: of any size, exact outside the painted region, refused in a line where unusable."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffusegen_core import painting
from diffusegen_core.chapters import paint as chapter
from diffusegen_core.chapters import spots
from diffusegen_core.chapters.paint import Painted, PaintRequest
from diffusegen_core.chapters.spots import Spot
from diffusegen_core.cli import app
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import checkup, dataset, fits, masks, phantom, regions
from diffusegen_core.data.masks import SIZES, Like
from diffusegen_core.run import Run
from diffusegen_core.store import files

HEIGHT, WIDTH = 100, 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Run:
    """A nano run up to its models, two clusters'."""
    this = Run(params.validate({**nano_values, "run_dir": str(tmp_path_factory.mktemp("paint") / "run")}))
    this.make("train")
    return this


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    image, _, _ = phantom.draw(seed=7, index=3, size=128)
    return cv2.resize(image.transpose(1, 2, 0), (width, height))


def disc(x: float = 60, y: float = 50, radius: float = 14) -> np.ndarray:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    return (np.hypot(ys - y, xs - x) <= radius).astype(np.uint8)


@pytest.mark.parametrize("size", [(500, 600), (333, 217), (16, 16), (20, 900)])
def test_pixels_outside_the_region_are_exact_at_any_size(run: Run, size: tuple[int, int]):
    image = picture(*size)
    mask = cv2.resize(disc(), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    one, = run.paint(image, mask)
    assert one.image.shape == image.shape
    assert one.image.dtype == np.uint8
    assert np.array_equal(one.mask, mask)
    assert np.array_equal(one.image[~one.region], image[~one.region])
    assert one.region[mask > 0].all(), "all of the lesion is painted"
    assert (one.image[mask > 0] != image[mask > 0]).mean() > 0.5
    assert one.region.mean() < 0.7


@pytest.mark.parametrize("size", [(40, 100), (100, 40)])
def test_an_oblong_picture_is_painted_in_the_square_that_the_models_know(run: Run, size: tuple[int, int]):
    image, mask = picture(*size), np.zeros(size, np.uint8)
    mask[12:28, 15:25] = 1
    inner = fits.inner(size, "pad")
    square, square_mask = (fits.squared(part, "pad") for part in (image, mask[..., None]))
    assert square.shape == (100, 100, 3)
    one, = run.paint(image, mask)
    same, = run.paint(square, square_mask[..., 0])
    assert np.array_equal(one.image, same.image[inner])
    assert np.array_equal(one.region, same.region[inner])
    assert np.array_equal(one.mask, mask)


@pytest.mark.parametrize(("fit", "stretched"), [("pad", 1), ("crop", 1), ("squeeze", 3)])
def test_a_lesion_that_is_drawn_keeps_its_proportions(run: Run, fit: str, stretched: float):
    one = cv2.circle(np.zeros((16, 16), np.uint8), (8, 8), 4, 1, -1)[None]
    round_one = replace(run.pairs, masks=np.stack([one] * len(run.pairs)))
    image = np.full((200, 600, 3), 200, np.uint8)
    ratios = []
    for seed in range(12):
        _, drawn = chapter._drawn(round_one, image, Like(0.05, 0.5, 0.5), seed, fit)
        assert drawn.mask.shape == (200, 600)
        ys, xs = np.nonzero(drawn.mask)
        ratios.append(xs.std() / ys.std())
    assert np.median(ratios) == pytest.approx(stretched, rel=0.2)


@pytest.mark.parametrize("fit", ["pad", "crop", "squeeze"])
def test_a_run_of_any_fit_paints_into_oblong_pictures(run: Run, fit: str):
    p = run.params.model_copy(update={"data": run.params.data.model_copy(update={"fit": fit})})
    image, mask = picture(60, 130), np.zeros((60, 130), np.uint8)
    mask[20:35, 90:110] = 1
    one, = chapter.paint(run.pairs, run.models, p.inpaint, p.data, image, PaintRequest(mask))
    assert np.array_equal(one.image[~one.region], image[~one.region])
    assert (one.image[mask > 0] != image[mask > 0]).mean() > 0.5


@pytest.mark.usefixtures("image_by_image")
def test_results_differ_and_each_depends_on_the_seed_and_its_number_alone(run: Run):
    image, mask = picture(), disc()
    three, one = run.paint(image, mask, n=3), run.paint(image, mask, n=1)
    assert np.array_equal(three[0].image, one[0].image)
    assert len({result.image.tobytes() for result in three}) == 3
    assert len({result.seed for result in three}) == 3
    small = Run(params.validate(params.merged(params.plain(run.params), {"inpaint": {"batch_size": 1}})))
    again = small.paint(image, mask, n=3)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(three, again, strict=True))
    assert not np.array_equal(run.paint(image, mask, seed=1)[0].image, one[0].image)
    models = {result.model for result in run.paint(image, mask, n=8)}
    assert models == {"cluster-00", "cluster-01"}


def test_a_lesion_as_it_comes_lies_in_the_view_and_an_old_one_is_painted_over(run: Run):
    image, old = picture(), disc(30, 30, 10)
    for one in run.paint(image, n=4, old=old):
        assert 0 < one.mask.sum() < 0.8 * HEIGHT * WIDTH
        assert one.mask_of in run.pairs.names
        assert one.mask_change
        assert one.region[old > 0].all()
        assert one.region[one.mask > 0].mean() > 0.99


def test_what_is_to_stay_stays_and_is_in_the_new_mask(run: Run):
    image, there = picture(), disc(30, 30, 10)
    for one in run.paint(image, n=4, keep=there):
        assert np.array_equal(one.image[there > 0], image[there > 0])
        assert (one.mask[there > 0] == 1).all()
        assert (one.mask > 0)[there == 0].any(), "a new one is beside it"
        assert np.array_equal(one.image[~one.region], image[~one.region])
        assert not one.region[there > 0].any()
    new = disc(70, 60, 8)
    both, = run.paint(image, new, keep=there)
    assert np.array_equal(both.mask, new | there)
    gone, = run.paint(image, new, remove=True, keep=there)
    assert np.array_equal(gone.mask, there)
    plain, = run.paint(image, new)
    assert np.array_equal(plain.region, both.region)


@pytest.mark.parametrize("window", [None, 2.0])
@pytest.mark.parametrize("given", [{"mask": disc(44, 50, 10)}, {"old": disc(44, 50, 10)},
                                   {"mask": disc(90, 50, 10), "old": disc(44, 50, 10)},
                                   {"mask": disc(44, 50, 10), "remove": True}])
def test_what_stays_is_known_to_the_model_however_near_something_is_painted(run: Run, window: float | None,
                                                                            given: dict):
    there, image = disc(60, 50, 5), picture()
    data = run.params.data.model_copy(update={"window": window})
    widened = regions.dilated(disc(44, 50, 10), run.params.inpaint.dilate)
    assert (widened[there > 0] > 0).any(), "it would be painted over"
    known = []
    inner = spots.repaint

    def watched(diffusion, x_known, mask, *rest):
        known.append((x_known, mask))
        return inner(diffusion, x_known, mask, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spots, "repaint", watched)
        one, = chapter.paint(run.pairs, run.models, run.params.inpaint, data, image,
                             PaintRequest(**given, keep=there))
    assert np.array_equal(one.image[there > 0], image[there > 0])
    assert (one.mask[there > 0] == 1).all()
    assert not one.region[there > 0].any()
    if window is None:
        colours = known[0][1][0, 0].numpy()
        small = cv2.resize(there, colours.shape[::-1], interpolation=cv2.INTER_AREA)
        assert (colours[small > 0] == 1).any(), "the model sees it"


def test_a_region_leaves_out_what_stays_only_where_all_classes_are_painted():
    new, rest = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
    new[10:20, 10:20], rest[10:20, 18:22] = 1, 2
    empty = np.zeros_like(new)
    image = np.zeros((3, 32, 32), np.uint8)
    assert not Spot(image, empty, new, rest).region(20)[rest > 0].any()
    assert Spot(image, empty, new, rest, (0,)).region(20)[rest > 0].any()


def test_where_what_stays_leaves_too_little_room_nothing_is_cut_to_a_ring(run: Run):
    with pytest.raises(UserError, match="leaves too little room"):
        run.paint(picture(), like="large,centre", keep=disc(60, 50, 24))


def test_what_is_to_stay_is_not_where_something_is_painted(run: Run):
    for given in ({"mask": disc(30, 30, 8)}, {"old": disc(32, 30, 8)}):
        with pytest.raises(UserError, match="What is to stay overlaps"):
            run.paint(picture(), keep=disc(30, 30, 10), **given)
    with pytest.raises(UserError, match="The mask of what is to stay must be as large"):
        run.paint(picture(), keep=np.ones((4, 4), np.uint8))
    with pytest.raises(UserError, match="leaves too little room"):
        run.paint(picture(), keep=np.ones((HEIGHT, WIDTH), np.uint8))


def test_a_picture_on_its_side_is_painted_as_wide(run: Run):
    """Not padded, as in windows, a lesion has as wide a rim in a picture that is higher than wide."""
    data = run.params.data.model_copy(update={"window": 2.0})
    boxes = []
    for shape in ((90, 160), (160, 90)):
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(side // 2 - 8, side // 2 + 8) for side in shape)] = 1
        one, = chapter.paint(run.pairs, run.models, run.params.inpaint, data, picture(*shape),
                             PaintRequest(mask))
        boxes.append(cv2.boundingRect(one.region.astype(np.uint8))[2:])
    assert boxes == [(27, 27)] * 2, "the ellipse is 20 pixels in 256, 12 in 160"


def test_the_version_is_another_only_where_results_are(run: Run):
    padded, plain = run.params.data, run.params.data.model_copy(update={"fit": "squeeze"})
    high, wide, square = (160, 90, 3), (90, 160, 3), (90, 90, 3)
    assert chapter.version(plain, [wide, square]) == chapter.version(padded, [high]) == chapter.VERSION
    assert chapter.version(plain, [square, high]) > chapter.VERSION
    windows = padded.model_copy(update={"window": 2.0, "window_size": 16})
    assert chapter.version(windows, [high]) > chapter.version(windows, [wide]) == chapter.VERSION


def test_removal_paints_an_empty_mask_over_the_lesion(run: Run):
    image, lesion = picture(), disc()
    one, = run.paint(image, lesion, remove=True)
    assert not one.mask.any()
    assert one.region[lesion > 0].all()
    assert np.array_equal(one.image[~one.region], image[~one.region])
    assert not np.array_equal(one.image, image)


@pytest.mark.parametrize(("text", "area", "x", "y"), [
    ("small,top-left", "small", 0.3, 0.3), ("0.1,centre", 0.1, 0.5, 0.5), ("0.08,0.6:0.4", 0.08, 0.6, 0.4),
    ("medium,bottom-right", "medium", 0.7, 0.7)])
def test_a_size_and_a_position_are_met(run: Run, text: str, area: float | str, x: float, y: float):
    assert Like.parse(text) == Like(area, x, y)
    if isinstance(area, str):
        area = np.quantile(run.pairs.masks[:, 0].mean(axis=(1, 2)), SIZES[area])
    image = np.full((128, 128, 3), (180, 110, 90), np.uint8)  # tissue all over
    masks = [one.mask for one in run.paint(image, like=text, n=4)]
    assert np.mean([mask.mean() for mask in masks]) == pytest.approx(area, rel=0.4)  # of a model of 16 px
    middles = np.mean([np.argwhere(mask).mean(axis=0) / 128 for mask in masks], axis=0)
    assert middles == pytest.approx((y, x), abs=0.06)


@pytest.mark.parametrize("text", ["", "huge,centre", "0.1", "0.1,middle", "0.1,left-right", "0,centre",
                                  "1.5,centre", "0.1,2:0.5", "0.1,0.5:a", "nan,centre", "0.1,left-left"])
def test_other_sizes_and_positions_are_refused(text: str):
    with pytest.raises(UserError, match="size and position") as error:
        Like.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "message"), [
    ({"image": picture().astype(np.float32)}, "must be .H, W, 3., uint8"),
    ({"image": picture()[..., 0]}, "must be .H, W, 3., uint8"),
    ({"mask": np.zeros((20, 30), np.uint8)}, "as large as the picture, 120 x 100 pixels; it is 30 x 20"),
    ({"mask": np.zeros((HEIGHT, WIDTH), np.uint8)}, "The mask is empty"),
    ({"mask": np.ones((HEIGHT, WIDTH), np.uint8)}, "covers 100% of the picture"),
    ({"remove": True, "mask": None}, "Removing a lesion needs its mask"),
    ({"n": 0}, "must be at least 1; it is 0"),
    ({"like": "small,centre"}, "only to a mask that is drawn"),
    ({"like": "small,centre", "remove": True}, "only to a mask that is drawn"),
    ({"like": "", "mask": None}, "not a size and position"),
    ({"image": picture(2, 300), "mask": None, "like": "small,centre"}, "too small to draw a mask in"),
    ({"image": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "mask": None}, "dark all over"),
])
def test_what_cannot_be_painted_is_refused_in_a_line(run: Run, change: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        run.paint(**{"image": picture(), "mask": disc(), **change})
    assert "\n" not in str(error.value)


def test_a_tiny_lesion_does_not_vanish(run: Run):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[50, 60] = 1
    one, = run.paint(picture(), mask)
    assert one.mask.sum() == 1
    assert one.region[50, 60]


def test_specks_of_a_grey_picture_cut_no_slits_into_a_lesion(run: Run):
    even = np.full((64, 64, 3), 90, np.uint8)
    specks = even.copy()
    specks[[26, 32, 38], 4:60:3] = 250
    assert not masks.field_of_view(specks.transpose(2, 0, 1)).all(), "in colours they would be text"
    large = replace(run.pairs, images=run.pairs.images.repeat(4, axis=2).repeat(4, axis=3),
                    masks=run.pairs.masks.repeat(4, axis=2).repeat(4, axis=3))
    for seed in range(4):
        drawn, same = (chapter._drawn(large, image, Like(0.12, 0.5, 0.5), seed, "squeeze")[1]
                       for image in (specks, even))
        assert np.array_equal(drawn.mask, same.mask)


# ---- text burnt into a picture, and its dark frame

ROUND = params.validate({"inpaint": {"masks": "varied"}})


def written(*lines: tuple[int, int], grey: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tissue (240, 320, 3), black on the right, with a date at each left and bottom; where the dates are."""
    tissue = np.full((240, 320, 3), 110 if grey else (180, 110, 90), np.uint8)
    tissue[:, 280:] = 0
    shown = tissue.copy()
    for place in lines:
        cv2.putText(shown, "12.03.1957", place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (240,) * 3, 1, cv2.LINE_AA)
    return shown, (shown != tissue).any(axis=2)


def round_lesions(side: int = 64) -> dataset.Pairs:
    shown = np.zeros((4, 1, side, side), np.uint8)
    for number, mask in enumerate(shown[:, 0]):
        cv2.circle(mask, (32, 32), 6 + number, 1, -1)
    return dataset.gather(list("0123"), np.full((4, 3, side, side), 90, np.uint8), shown)


def found(image: np.ndarray, wish: PaintRequest, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The region and the mask, (240, 320) both."""
    spot, _, drawn = chapter._wanted(round_lesions(), image, wish, seed, ROUND.inpaint, ROUND.data)
    return spot.region(ROUND.inpaint.dilate)[fits.inner(image.shape, "pad")], drawn.mask


def told_of(image: np.ndarray, wish: PaintRequest, n: int = 1) -> list[str]:
    return chapter.check(round_lesions(), ROUND.inpaint, ROUND.data, image, wish, n)[1]


@pytest.mark.parametrize(("like", "lines"), [
    (Like("medium", 0.3, 0.5), [(60, 110), (60, 130)]), (Like("medium", 0.3, 0.3), [(4, 20), (60, 80)]),
    (Like("large", 0.85, 0.5), []), (Like(0.02, 0.5, 0.5), [(120, 120)])])
def test_a_lesion_slides_off_text_and_frame_and_that_is_told(like: Like, lines: list[tuple[int, int]]):
    image, text = written(*lines)
    for seed in range(3):
        region, mask = found(image, PaintRequest(like=like), seed)
        assert not region[text].any()
        assert not region[:, 280:].any()
        y, x = np.argwhere(mask).mean(axis=0) / mask.shape
        assert 0.02 < np.hypot(x - like.x, y - like.y) < 0.3
        plain = found(np.full_like(image, image[0, 0]), PaintRequest(like=like), seed)[1]
        assert mask.mean() == pytest.approx(plain.mean(), rel=0.1), "it is moved, not cut"
    told, = told_of(image, PaintRequest(like=like))
    assert re.fullmatch(f"at {like.x:.2f}:{like.y:.2f} there is no room away from text or the dark frame, "
                        r"so the lesion is at 0\.\d\d:0\.\d\d\.", told)
    several, = told_of(image, PaintRequest(like=like), 3)
    assert "so 3 of 3 lesions are elsewhere, one at 0." in several


def test_where_nothing_is_in_the_way_a_lesion_is_where_it_was_asked_for():
    image, _ = written((4, 230))
    for x, y in ((0.3, 0.3), (0.5, 0.6), (0.02, 0.1)):
        wish = PaintRequest(like=Like("medium", x, y))
        middle = np.argwhere(found(image, wish)[1]).mean(axis=0) / image.shape[:2]
        assert (middle == pytest.approx((y, x), abs=0.02)) == (x > 0.1), "it may reach beyond the edge"
        assert told_of(image, wish) == []


def test_a_lesion_without_a_wanted_place_keeps_off_text():
    image, text = written(*((40 * number, row) for number, row in enumerate(range(20, 200, 30))))
    for seed in range(12):
        region, mask = found(image, PaintRequest(), seed)
        assert not region[text].any()
        assert mask.any()


def test_other_lines_may_stand_around_text_so_that_is_kept_free_where_there_is_room():
    image, text = written((10, 110))
    around = cv2.dilate(text.astype(np.uint8), np.ones((2 * 30 + 1, 1), np.uint8)) > 0  # of 40 pixels
    for wish in (PaintRequest(), PaintRequest(like=Like("small", 0.15, 0.5))):
        for seed in range(4):
            region, mask = found(image, wish, seed)
            assert mask.any()
            assert not region[around].any()
    crowded, text = written(*((left, row) for left in (4, 100, 190) for row in (60, 150)))
    region, mask = found(crowded, PaintRequest(like=Like("small", 0.4, 0.45)))
    assert mask.any(), "there is room between the lines, though none beside their blocks"
    assert not region[text].any()


def test_where_text_and_frame_leave_no_room_a_wanted_size_is_refused():
    image, _ = written(*((left, row) for left in (10, 150) for row in range(20, 240, 40)))
    with pytest.raises(UserError, match="no room for a lesion of this size beside burnt-in text"):
        found(image, PaintRequest(like=Like("large", 0.5, 0.5)))


@pytest.mark.parametrize(("wish", "grey", "told"), [
    ("mask", False, True), ("old", False, True), ("remove", False, True), ("aside", False, False),
    ("mask", True, False)])
def test_a_mask_that_is_given_is_painted_over_text_and_that_is_told(wish: str, grey: bool, told: bool):
    image, text = written((60, 120), grey=grey)
    given = np.zeros(text.shape, np.uint8)
    given[105:125, 70:90] = 1
    aside = np.roll(given, 80, axis=0)
    request = {"mask": PaintRequest(given), "old": PaintRequest(aside, old=given),
               "remove": PaintRequest(given, remove=True), "aside": PaintRequest(aside)}[wish]
    region, _ = found(image, request)
    assert region[text].any() == (wish != "aside")
    said = ["what is painted anew covers what looks like burnt-in text."] * told
    assert told_of(image, request) == said


# ---- the command

def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["paint", *map(str, words)])
    return result.exit_code, str(result.exception or result.output)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(picture()).save(tmp_path / "colon.png")
    Image.fromarray(disc() * 255).save(tmp_path / "lesion.png")
    return tmp_path / "colon.png"


def test_the_command_writes_a_dataset_folder_and_does_it_again_alike(run: Run, image: Path, tmp_path: Path):
    Image.fromarray(picture()[::-1]).save(tmp_path / "other.jpg")
    words = (run.folder, image, tmp_path / "other.jpg", "--count", 2, "--out", tmp_path / "out")
    assert call(*words)[0] == 0
    assert checkup.check(tmp_path / "out").problems == []
    table = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert list(table["name"]) == ["colon_1", "colon_2", "other_1", "other_2"]
    assert (table["area"] > 0).all()
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert call(*words)[0] == 0, "the same call goes on, or does it again"
    assert written == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    code, message = call(*words, "--seed", 1)
    assert code != 0
    assert "nothing there is replaced" in message
    assert written == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_a_removal_is_not_guided_and_its_record_does_not_say_so(run: Run, image: Path, tmp_path: Path):
    out, lesion = tmp_path / "gone", tmp_path / "lesion.png"
    values = params.merged(params.plain(run.params), {"inpaint": {"guidance_scale": 3.0}})
    stronger = Run(params.validate(values))
    for this in (run, stronger):  # the second call finds its own work, or would be refused
        painting.paint(this, [image], out, mask=lesion, remove=True)
    assert np.array_equal(*(this.paint(picture(), disc(), remove=True)[0].image for this in (run, stronger)))


def test_a_record_names_how_masks_are_drawn_only_where_one_is():
    settings = params.validate({"inpaint": {"masks": "varied", "turn": 20.0}}).inpaint
    mask = np.ones((4, 4), np.uint8)
    told = [painting._decisive(settings.model_copy(update={"within": "organ"}), wish) for wish in (
        PaintRequest(), PaintRequest(mask=mask), PaintRequest(old=mask, remove=True))]
    assert ["turn" in one for one in told] == [True, False, False]
    assert not any("within" in one for one in told), "it comes without a mask of that class"
    kept = painting._decisive(settings.model_copy(update={"within": "organ"}), PaintRequest(keep=mask))
    assert kept["within"] == "organ"


def test_the_command_keeps_a_lesion(run: Run, image: Path, tmp_path: Path):
    out, lesion = tmp_path / "more", tmp_path / "lesion.png"
    assert call(run.folder, image, "--keep", lesion, "--out", out)[0] == 0
    mask = np.asarray(Image.open(out / "masks" / "colon_1.png")) > 0
    assert mask[disc() > 0].all()
    assert mask.sum() > disc().sum()
    code, message = call(run.folder, image, "--out", out)
    assert code != 0
    assert f"{out} was painted by another command (the mask of --keep), and nothing" in message
    assert message.endswith(f"Name another folder, such as --out {out}-2.")
    (tmp_path / "more-2").mkdir()
    Image.fromarray(disc(40, 40) * 255).save(lesion)
    words = (run.folder, image, "--keep", lesion)
    assert "(the mask of --keep)" in (message := call(*words, "--seed", 0, "--out", out)[1])
    assert f"--out {out}-3." in message, "a folder that is there is not proposed"
    assert not re.search("[0-9a-f]{8}", message.replace(str(tmp_path), "")), "no hash in what a person reads"


def test_the_command_takes_masks_and_removes(run: Run, image: Path, tmp_path: Path):
    lesion = tmp_path / "lesion.png"
    assert call(run.folder, image, "--mask", lesion, "--out", tmp_path / "new")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "masks" / "colon_1.png")) > 0, disc() > 0)
    assert call(run.folder, image, "--mask", lesion, "--remove", "--out", tmp_path / "gone")[0] == 0
    assert not np.asarray(Image.open(tmp_path / "gone" / "masks" / "colon_1.png")).any()
    assert call(run.folder, image, "--like", "small,centre", "--out", tmp_path / "like")[0] == 0


def test_the_command_says_that_a_grey_picture_gets_a_lesion_in_colour(
        run: Run, image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    Image.fromarray(picture()).convert("L").save(tmp_path / "ultrasound.png")
    assert call(run.folder, image, tmp_path / "ultrasound.png", "--out", tmp_path / "out")[0] == 0
    assert caplog.messages[0] == ("This run was trained on RGB pictures of phantom, and ultrasound is grey: "
                                  "what is painted will be in colour.")
    caplog.clear()
    assert call(run.folder, image, "--out", tmp_path / "colours")[0] == 0
    assert not any("colour" in one for one in caplog.messages)


def test_the_command_says_that_what_is_painted_is_coarser_than_a_large_picture(
        run: Run, image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    side, large = run.pairs.image_size, max(picture().shape[:2])
    assert call(run.folder, image, "--out", tmp_path / "out")[0] == 0
    assert caplog.messages == [
        f"The models of this run see images of {side} pixels a side, and the largest picture has {large}: "
        f"what is painted is {large / side:.1f} times as coarse as the picture. Models of a run with a "
        "larger data.image_size paint finer, or with data.window, in which they see lesions enlarged."]
    caplog.clear()
    Image.fromarray(picture()).resize((2 * side - 1, side)).save(tmp_path / "small.png")
    assert call(run.folder, tmp_path / "small.png", "--out", tmp_path / "small")[0] == 0
    assert caplog.messages == []


def test_the_command_says_in_a_line_that_a_lesion_was_moved_off_text(
        run: Run, image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    Image.fromarray(written((60, 120))[0]).save(tmp_path / "written.png")
    words = (tmp_path / "written.png", "--like", "0.01,0.3:0.5", "--out", tmp_path / "out")
    assert call(run.folder, *words)[0] == 0
    assert sum(one.startswith("In written, at 0.30:0.50 there is no room") for one in caplog.messages) == 1
    assert "around 0.30:0.50" not in pd.read_csv(tmp_path / "out" / "manifest.csv")["mask_change"][0]


@pytest.mark.parametrize(("wide", "told"), [(10, False), (90, True)])
def test_the_command_says_that_much_of_a_picture_is_painted_anew(
        run: Run, image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, wide: int, told: bool):
    large = np.zeros((HEIGHT, WIDTH), np.uint8)
    large[20:50, 15:15 + wide] = 255
    Image.fromarray(large).save(tmp_path / "large.png")
    words = ("--mask", tmp_path / "large.png", "--remove", "--out", tmp_path / "out")
    assert call(run.folder, image, *words)[0] == 0
    said = [one for one in caplog.messages if one.startswith("colon: ")]
    assert bool(said) == told
    assert not said or re.match(r"colon: [3-9]\d% of the picture .* is repainted, ", said[0])


@pytest.mark.parametrize(("words", "message"), [
    (["TEXT"], "cannot be read"),
    (["ABSENT"], "cannot be read"),
    (["IMAGE", "--mask", "TEXT"], "cannot be read"),
    (["IMAGE", "--mask", "LESION", "--like", "small,centre"], "only to a mask that is drawn"),
    (["IMAGE", "--like", "small"], "size and position"),
    (["IMAGE", "IMAGE"], "Two pictures are called colon"),
    (["IMAGE", "--out", "TEXT"], "is a file"),
    (["IMAGE", "--like", ""], "size and position"),
    (["IMAGE", "SMALL", "--mask", "LESION"], "small.png: The mask must be as large"),
    (["IMAGE", "--mask", "BLACK"], "black.png is an empty mask: no pixel is above 127"),
    (["IMAGE", "DARK"], "dark.png: The picture is dark all over"),
    (["ODD"], "name that cannot be used"),
    (["LONG"], "name that cannot be used"),
    (["IMAGE", "--out", "RUN"], "lies in the run"),
    (["IMAGE", "--out", "DATA"], "lies in inpaint.backgrounds"),
])
def test_what_the_command_cannot_use_is_told_in_a_line_and_leaves_nothing(
        run: Run, image: Path, words: list[str], message: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.setattr(Run, "open", lambda folder: run)
    monkeypatch.setattr(run, "params", params.validate(params.merged(params.plain(run.params), {
        "inpaint.masks": "varied", "inpaint.backgrounds": str(tmp_path / "data")})))
    places = {"TEXT": tmp_path / "text.png", "ABSENT": tmp_path / "absent.png", "IMAGE": image,
              "LESION": tmp_path / "lesion.png", "RUN": run.folder / "inpaint" / "new",
              "DATA": tmp_path / "data" / "new", "ODD": tmp_path / os.fsdecode(b"a\xff.png"),
              "LONG": tmp_path / f"{'a' * 240}.png"}
    for name, shown in {"SMALL": picture()[:20], "BLACK": 0 * disc(), "DARK": 0 * picture()}.items():
        places[name] = tmp_path / f"{name.lower()}.png"
        Image.fromarray(shown).save(places[name])
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    code, told = call(run.folder, *(places.get(word, word) for word in words), *out)
    assert code != 0
    assert message in told
    assert "\n" not in told.strip()
    assert not any(place.exists() for place in (tmp_path / "out", places["RUN"], places["DATA"]))


def test_a_call_that_was_killed_goes_on_and_what_is_painted_stays(run: Run, image: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch):
    Image.fromarray(picture()[::-1]).save(tmp_path / "other.png")
    words = (run.folder, image, tmp_path / "other.png", "--count", 2, "--out")
    assert call(*words, tmp_path / "whole")[0] == 0
    paint = Run.paint

    def killed(self: Run, shown: np.ndarray, *args: object, **kwargs: object) -> list[Painted]:
        if not np.array_equal(shown, picture()):
            raise KeyboardInterrupt
        return paint(self, shown, *args, **kwargs)

    monkeypatch.setattr(Run, "paint", killed)
    assert call(*words, tmp_path / "out")[0] != 0
    (tmp_path / "out" / "images" / "colon_1.png").write_bytes(b"by hand")
    monkeypatch.setattr(Run, "paint", paint)
    assert call(*words, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "images" / "colon_1.png").read_bytes() == b"by hand"
    for name in ("manifest.csv", "painted.json", "images/colon_2.png", "images/other_1.png",
                 "masks/other_2.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    monkeypatch.setattr(Run, "paint", None)  # there is nothing to do
    assert call(*words, tmp_path / "whole")[0] == 0
    (tmp_path / "whole" / "manifest.csv").write_text("by hand")
    monkeypatch.setattr(Run, "paint", paint)
    assert call(*words, tmp_path / "whole")[0] == 0


@pytest.mark.parametrize("made", ["again", "not yet"])
def test_a_model_that_is_made_again_meanwhile_is_told_and_what_it_paints_is_not_kept(
        run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str):
    shutil.copytree(run.folder, tmp_path / "run")
    first, other = (tmp_path / "run" / "train" / f"cluster-0{k}" / "model.safetensors" for k in range(2))
    paint = Run.paint

    def meanwhile(self: Run, *args: object, **kwargs: object) -> list[Painted]:
        painted = paint(self, *args, **kwargs)
        first.unlink()
        if made == "again":
            shutil.copyfile(other, first)
        return painted

    monkeypatch.setattr(Run, "paint", meanwhile)
    with pytest.raises(UserError, match=r"cluster-00/model\.safetensors is no longer the model that .*out"):
        painting.paint(Run.open(tmp_path / "run"), [image], tmp_path / "out")
    assert files.below(tmp_path / "out") == ["painted.json"]


def test_another_picture_or_window_is_not_painted_into_the_same_folder(
        run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = (run.folder, image, "--out", tmp_path / "out")
    assert call(*words)[0] == 0
    Image.fromarray(picture()[::-1]).save(image)
    with monkeypatch.context() as patch:
        patch.setattr(painting, "_checked", lambda *_: pytest.fail("a folder that is taken is refused first"))
        assert "painted by another command (the pictures)" in call(*words)[1]
    Image.fromarray(picture()).save(image)
    shutil.copytree(run.folder, tmp_path / "run")
    p = params.validate(params.merged(params.plain(run.params), {
        "run_dir": str(tmp_path / "run"), "data.window": 2.0, "data.window_size": 16}))
    other = Run(p)
    other._results = {"data": run.pairs, "train": run.models}  # as of the same checkpoints
    with pytest.raises(UserError, match=r"window: None -> 2\.0"):
        painting.paint(other, [image], tmp_path / "out")


# ---- inside an organ that is to stay

ORGAN, OTHER, LESION = 1, 2, 3


def organs() -> np.ndarray:
    """A map of class numbers with an organ on the left, and another on the right."""
    shown = ORGAN * disc(36, 50, 26).astype(np.uint8)
    return np.where(disc(92, 50, 20) > 0, OTHER, shown).astype(np.uint8)


def lesions_of_three_classes() -> dataset.Pairs:
    shown = np.zeros((4, 3, 32, 32), np.uint8)
    shown[:, LESION - 1, 14:18, 14:18] = 1
    return dataset.gather([str(number) for number in range(4)], np.full((4, 3, 32, 32), 128, np.uint8), shown)


@pytest.mark.parametrize("like", [None, Like(0.01, 0.3, 0.5)])
def test_a_lesion_is_drawn_in_the_organ_that_a_map_shows(like: Like | None):
    grey, pairs = np.full((HEIGHT, WIDTH, 3), 120, np.uint8), lesions_of_three_classes()
    for seed in range(8):
        _, inside = chapter._drawn(pairs, grey, like, seed, "pad", organs(), 1, masks.ANY, ORGAN)
        assert set(np.unique(inside.mask)) == {0, LESION}
        assert set(np.unique(organs()[inside.mask > 0])) == {ORGAN}
    beside = [chapter._drawn(pairs, grey, None, seed, "pad", organs(), 1)[1].mask for seed in range(8)]
    assert not any((organs()[mask > 0] == ORGAN).any() for mask in beside), "else it stays free"


def test_who_gives_no_map_is_told_that_the_place_is_not_known():
    usual, file, one = params.validate({}).inpaint, Path("mask.png"), ["lesion"]
    liver = usual.model_copy(update={"within": "liver"})
    told = [[line.split()[0] for line in painting.reminders(*given)] for given in (
        (usual, one, None, None, None), (liver, one, None, None, None), (liver, one, file, None, None),
        (liver, one, None, file, None), (liver, one, None, None, file))]
    assert told == [["The"], ["The", "The"], ["The"], ["The"], []]


@pytest.mark.parametrize("old", [None, Path("old.png")])
def test_who_gives_no_map_is_told_which_organs_are_background_in_the_mask(old: Path | None):
    settings = params.validate({}).inpaint.model_copy(update={"classes": ["lesion"]})
    classes = ["liver", "kidney", "lesion"]
    [line] = painting.reminders(settings, classes, None, old, None)
    assert "what these pictures show of liver, kidney counts as background" in line
    assert "--keep LABELS" in line
    assert not list(painting.reminders(settings, classes, None, old, Path("labels.png")))


def test_the_area_in_the_manifest_is_the_new_lesions_without_the_organ_around_it():
    lesion, region = disc(36, 50, 6) > 0, disc(36, 50, 12) > 0
    for keep, around in ((organs(), organs()), (None, np.zeros((HEIGHT, WIDTH), np.uint8))):
        mask = np.where(lesion, LESION, around).astype(np.uint8)
        one = Painted(picture(), mask, region, "cluster-00", 0, "", "")
        assert painting._row("a", 1, one, keep)["area"] == round(float(lesion.mean()), 6)


@pytest.mark.parametrize("dilate", [20, 60])
def test_the_rim_of_a_lesion_stays_in_the_organ_that_a_map_shows(dilate: int):
    """Away from its edge where there is room for the rim; else the rim ends there."""
    grey, pairs = np.full((HEIGHT, WIDTH, 3), 120, np.uint8), lesions_of_three_classes()
    shown = organs()
    for seed in range(8):
        _, drawn = chapter._drawn(pairs, grey, None, seed, "pad", shown, dilate, masks.ANY, ORGAN)
        spot = Spot(grey.transpose(2, 0, 1), np.zeros_like(shown), drawn.mask, shown, yielding=ORGAN)
        assert set(np.unique(shown[spot.region(dilate) > 0])) == {ORGAN}
        leaves = bool((shown[spot.widened(dilate) > 0] != ORGAN).any())
        assert not leaves or dilate > 20
    given = Spot(spot.image, spot.old, LESION * disc(54, 50, 6), shown, yielding=ORGAN)
    assert (shown[given.widened(dilate) > 0] == 0).any()
    assert set(np.unique(shown[(given.region(dilate) > 0) & (given.new == 0)])) == {ORGAN}
    assert given.region(dilate)[given.new > 0].all()
    elsewhere = replace(given, rest=np.where(shown == ORGAN, 0, shown))
    assert np.array_equal(elsewhere.region(dilate), elsewhere.widened(dilate)), "the map shows no organ"


@pytest.mark.parametrize(("of_data", "values", "numbers"), [
    ({"labels": {"2": "liver", "1": "tumour"}}, [[2, 1]], [[1, 2]]),
    ({"labels": {"1": "polyp"}}, [[0, 1]], [[0, 1]]),
    ({"labels": {"_a": "liver", "_b": "tumour"}}, [[2, 1]], [[2, 1]]), ({}, [[128, 127]], [[1, 0]])])
def test_a_mask_is_read_as_those_of_the_data(tmp_path: Path, of_data: dict, values: list, numbers: list):
    """data.labels may name the classes in another order than their values have."""
    data = params.validate({"data": {"source": "d", **of_data}}).data
    Image.fromarray(np.array(values, np.uint8)).save(tmp_path / "mask.png")
    assert painting._mask(tmp_path / "mask.png", data).tolist() == numbers
    np.save(tmp_path / "mask.npy", np.array(values, np.uint8))
    assert painting._mask(tmp_path / "mask.npy", data).tolist() == numbers
    assert painting._mask(None, data) is None


def test_a_mask_is_an_array_with_a_plane_for_each_class_where_these_have_files_of_their_own(tmp_path: Path):
    data = params.validate({"data": {"source": "d", "labels": {"_a": "liver", "_b": "tumour"}}}).data
    drawn = np.zeros((16, 16, 2), np.uint8)
    drawn[2:8, 2:8, 0] = 1
    drawn[9:12, 9:12, 1] = 255
    np.save(tmp_path / "mask.npy", drawn)
    np.testing.assert_array_equal(painting._mask(tmp_path / "mask.npy", data),
                                  (drawn[..., 0] > 0) + 2 * (drawn[..., 1] > 0))


def test_a_mask_may_lie_in_that_organ_alone(run: Run):
    pairs, grey = lesions_of_three_classes(), np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    inside, across = (LESION * disc(x, 50, 6).astype(np.uint8) for x in (36, 92))
    settings = run.params.inpaint.model_copy(update={"within": "liver"})
    data = params.validate({"data": {"source": "d", "labels": {
        "1": "liver", "2": "kidney", "3": "tumour"}}}).data
    chapter.check(pairs, settings, data, grey, PaintRequest(inside, keep=organs()))
    spot, _, _ = chapter._wanted(pairs, grey, PaintRequest(inside, keep=organs()), 0, settings, data)
    painted = spot.region(settings.dilate)
    assert (painted[spot.new > 0] == 1).all()
    assert painted.sum() > (spot.new > 0).sum(), "the organ around it is painted with it"
    assert set(np.unique(spot.over_rest(spot.new, pairs.planes))) == {0, ORGAN, OTHER, LESION}
    for refused, wish in ((settings, PaintRequest(across, keep=organs())),
                          (run.params.inpaint, PaintRequest(inside, keep=organs()))):
        with pytest.raises(UserError, match="What is to stay overlaps the new lesion"):
            chapter.check(pairs, refused, data, grey, wish)
