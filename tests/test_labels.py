"""Values, colours, conditions and names of masks to classes; what is not mapped is told and refused."""

from pathlib import PurePath

import cv2
import numpy as np
import pytest
from PIL import Image

from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import labels, maskvalues, pixels, rasters


def grey(*areas: tuple[int, int]) -> np.ndarray:
    """A mask of 0 with a square of so many pixels a side for each value."""
    values, left = np.zeros((40, 80), np.uint8), 1
    for value, side in areas:
        values[2:2 + side, left:left + side] = value
        left += side + 1
    return values


def raster(values: np.ndarray, kind: str = "PNG", **more: object) -> pixels.Raster:
    values = values if values.ndim == 3 else values[..., None]
    return pixels.Raster(values, kind, "L", pixels.ends(values), **more)


def read(values: np.ndarray | pixels.Raster, told: dict | None = None, condition: str | None = None,
         **settings: object) -> tuple[np.ndarray, dict[str, str]]:
    one = values if isinstance(values, pixels.Raster) else raster(values)
    mask, complaints = labels.read(labels.rule(Data(**settings), told, condition), one)
    return mask, dict(complaints)


# ---- the default: white on black

@pytest.mark.parametrize("values", [
    grey((255, 9)), grey((200, 9)), np.maximum(grey((255, 9)), 1)], ids=["white", "light", "on 1"])
def test_two_values_are_lesion_and_background(values):
    mask, wrong = read(values)
    assert wrong == {}
    assert mask[..., 0].tolist() == (values > 127).tolist()


@pytest.mark.parametrize(("values", "kind", "says"), [
    (grey((127, 9), (255, 9)), labels.UNMAPPED, "127 (81), 255 (81)"),  # D3
    (grey((1, 9), (2, 9), (200, 1)), labels.UNMAPPED, "1 (81), 2 (81), 200 (1)"),
    (grey((85, 9), (255, 9)), labels.UNMAPPED, "85"),  # D11
    (np.where(np.pad(np.ones((36, 76)), 2) > 0, grey((1, 9)), np.full((40, 80), 255, np.uint8)),
     labels.UNMAPPED, ", 1 (72), 255 ("),
    (grey((1, 9)), labels.ZERO_ONE, "data.labels: {1: polyp}"),
    (grey((100, 9)), labels.EMPTY, "100"),
    (np.full((40, 80), 128, np.uint8), labels.TWO, "128"),
], ids=["0/127/255", "stray", "85/255", "ignore border", "0/1", "grey", "all"])
def test_what_is_not_black_and_white_is_told_with_values_and_counts(values, kind, says):
    _, wrong = read(values)
    assert list(wrong) == [kind]
    assert says in wrong[kind]
    assert "data.labels" in wrong[kind] or kind in (labels.EMPTY, labels.TWO)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photograph_as_its_mask_is_told(kind):  # D11
    rng = np.random.default_rng(0)
    photo = np.stack([rng.integers(a, b, (40, 80)) for a, b in ((90, 250), (60, 160), (50, 120))], 2)
    _, wrong = read(raster(photo.astype(np.uint8), kind))
    assert "neither black nor white" in wrong[labels.UNMAPPED]


def test_a_plateau_between_black_and_white_is_told_in_a_lossy_mask():
    noise = np.random.default_rng(0).integers(-3, 4, (40, 80))
    values = np.clip(grey((128, 12), (255, 12)).astype(int) + noise, 0, 255).astype(np.uint8)
    assert list(read(raster(values, "JPEG"))[1]) == [labels.UNMAPPED]


def test_blurred_edges_and_noise_near_black_and_white_are_in_order():
    soft = cv2.GaussianBlur(grey((255, 20)), (3, 3), 0)
    assert read(soft)[1] == {}
    few = grey((255, 20))
    few[30, 30], few[5, 5] = 3, 251  # JPEG's noise, stored as PNG
    assert read(few)[1] == {}


def test_colours_are_one_lesion_alone_and_several_are_told():
    red = np.stack([grey((255, 9)), grey(), grey()], axis=2)
    assert read(red)[1] == {}
    both = red + np.stack([grey(), grey((0, 9), (255, 9)), grey()], axis=2)
    _, wrong = read(both)
    assert "#ff0000 (81)" in wrong[labels.COLOURS]
    assert 'data.labels: {"#00ff00": polyp, "#ff0000": ...}' in wrong[labels.COLOURS]
    palette = raster(both, indices=grey((1, 9), (2, 9)))
    assert list(read(palette)[1]) == [labels.COLOURS]


# ---- values

def test_values_are_classes_and_others_are_refused_and_counted():
    values = grey((1, 9), (2, 7), (9, 1))
    mask, wrong = read(values, labels={1: "liver", 2: "tumour"})
    assert wrong == {labels.UNMAPPED: "9 (1): name them in data.labels, or call them background"}
    assert mask.shape == (40, 80, 2)
    assert (mask[..., 0].sum(), mask[..., 1].sum()) == (81, 49)
    mask, wrong = read(values, labels={1: "liver", 2: "liver", 9: "background"})
    assert (mask.shape[2], mask.sum(), wrong) == (1, 130, {})


def test_values_of_wide_types_and_of_palettes_are_their_own():
    wide = raster(grey((1, 9)).astype(np.int16), "NIfTI")
    assert read(wide, labels={1: "liver"})[0].sum() == 81
    assert list(read(wide)[1]) == [labels.ZERO_ONE]
    colours = np.stack([grey((200, 9)), grey(), grey()], axis=2)
    assert read(raster(colours, indices=grey((3, 9))), labels={3: "wound"})[0].sum() == 81
    deep = raster(grey((255, 9)).astype(np.uint16) * 257)
    assert read(pixels.Raster(deep.values, "PNG", "I;16", (0, 65535)))[0].sum() == 81
    assert read(raster((grey((255, 9)) > 0).astype(np.float64), "NIfTI"))[0].sum() == 81


def test_values_of_a_coloured_mask_are_refused_in_words_of_colours():
    both = np.stack([grey((255, 9)), grey((0, 9), (255, 9)), grey()], axis=2)
    _, wrong = read(both, labels={1: "wound"})
    assert "#ff0000 (81)" in wrong[labels.COLOURS]


# ---- colours and conditions

def test_colours_are_classes_and_others_are_refused_and_counted():
    both = np.stack([grey((255, 9)), grey((0, 9), (255, 9)), grey()], axis=2)
    mask, wrong = read(both, labels={"#FF0000": "wound", "#00ff00": "skin"})
    assert (wrong, mask[..., 0].sum(), mask[..., 1].sum()) == ({}, 81, 81)
    _, wrong = read(both, labels={"#ff0000": "wound"})
    assert wrong[labels.UNMAPPED].startswith("#00ff00 (81): name them")
    black_lesion = raster(255 - both)  # D4, with a way on
    mask, wrong = read(black_lesion, labels={"#ffffff": "background", "#00ffff": "wound", "#ff00ff": "wound"})
    assert (wrong, mask.sum()) == ({}, 162)


def test_conditions_speak_of_every_value():
    values = grey((100, 9), (200, 9))
    assert read(values, labels={">127": "polyp"})[0].sum() == 81
    assert read(values, labels={">0": "polyp"})[0].sum() == 162
    assert read(values, condition=">0")[0].sum() == 162
    _, wrong = read(values, labels={">50": "a", ">150": "b"})
    assert wrong[labels.OVERLAP].startswith("81 pixels are of several classes")
    assert wrong[labels.OVERLAP].endswith("set data.overlap: true")
    assert read(values, labels={">50": "a", ">150": "b"}, overlap=True)[1] == {}


def test_an_array_may_have_a_plane_for_each_class():
    planes = np.zeros((20, 24, 3), np.uint8)
    planes[..., 0] = 1
    planes[2:6, 2:6, 1], planes[8:12, 8:12, 2] = 1, 1
    planes[..., 0] -= planes[..., 1:].max(axis=2)
    named = {"0": "background", "1": "liver", "2": "tumour"}
    mask, wrong = read(raster(planes, "NumPy"), labels=named)
    assert (wrong, mask.sum(axis=(0, 1)).tolist()) == ({}, [16, 16])
    assert read(raster(planes * 255, "NumPy"), labels=named)[0].tolist() == mask.tolist()
    _, wrong = read(raster(planes, "NumPy"), labels={"1": "liver", "2": "tumour"})
    assert wrong[labels.UNMAPPED].startswith("plane 0 (448): name them in data.labels, or call them backgr")
    planes[2:6, 2:6, 2] = 1
    assert read(raster(planes, "NumPy"), labels=named)[1][labels.OVERLAP].startswith("16 pixels")
    mask, wrong = read(raster(planes, "NumPy"), labels=named, overlap=True)
    assert (wrong, mask.sum(axis=(0, 1)).tolist()) == ({}, [16, 32])
    _, wrong = read(raster(planes[..., :2], "NumPy"), labels={"1": "liver", "2": "tumour"})
    assert "which data.labels names by their places, 0 to 1" in wrong[labels.COLOURS]
    assert maskvalues.planes_of(raster(planes, "NumPy")) == {"plane 0": 448, "plane 1": 16, "plane 2": 32}
    assert maskvalues.planes_of(raster(planes)) == {}, "a picture's channels are colours"
    _, wrong = read(raster(planes, "NumPy"))
    assert "plane 2 (32); say what each is, as data.labels: {0: polyp, 1: " in wrong[labels.COLOURS]
    greys = np.repeat(grey((1, 9), (2, 9))[..., None], 3, axis=2)
    mask, wrong = read(raster(greys, "NumPy"), labels={"1": "liver", "2": "tumour"})
    assert (wrong, mask.sum(axis=(0, 1)).tolist()) == ({}, [81, 81]), "a grey mask saved thrice"


# ---- what the data tell, and names

def test_classes_that_the_data_name():
    values, told = grey((1, 9), (2, 7)), {"liver": [1], "tumour": [2]}
    mask, wrong = read(values, told, labels={"liver": "liver", "tumour": "lesion"})
    assert (wrong, mask[..., 1].sum()) == ({}, 49)
    assert list(read(values, told, labels={"tumour": "lesion"})[1]) == [labels.UNMAPPED]
    assert read(values, told, labels={"tumour": "lesion", "liver": "background"})[0].sum() == 49
    assert read(grey((1, 9)), {"liver": [1]})[0].sum() == 81
    with pytest.raises(ValueError, match=r"{liver: liver, tumour: tumour}"):
        read(values, told)
    with pytest.raises(ValueError, match="no class spleen in the data, which has liver, tumour"):
        read(values, told, labels={"spleen": "spleen"})


def test_files_are_classes_by_their_ends_folders_or_patterns():
    keys = {"_left": "lung", "rightMask": "lung", "*scar*": "scar", "_x": "background"}
    how = labels.rule(Data(labels=keys))
    for path, places in (("m/a_left.png", (0,)), ("rightMask/a.png", (0,)), ("m/a_scar_2.png", (1,)),
                         ("m/a_x.png", ()), ("m/a_left.nii.gz", (0,))):
        assert labels.of_name(how, PurePath(path)) == places
    with pytest.raises(KeyError):
        labels.of_name(how, PurePath("m/a_heart.png"))


@pytest.mark.parametrize("value", [1, 7, 255])
def test_a_file_of_one_class_may_have_any_two_values_and_be_empty(value):
    mask, wrong = labels.binary(raster(grey((value, 9))))
    assert (mask.sum(), wrong) == (81, [])
    assert labels.binary(raster(grey()))[1] == []
    assert labels.binary(raster(grey((127, 9), (255, 9))))[1][0][0] == labels.UNMAPPED


# ---- parameters

def test_keys_of_labels_may_be_integers_and_are_of_one_kind():
    labels = {0: "background", 1: "liver", 2: "tumour", 3: "liver"}
    data = params.validate({"data": {"source": "a folder", "labels": labels}}).data
    assert (data.classes, data.label_kind) == (("liver", "tumour"), "value")
    given = params.override({"data": {"labels": {2: "old"}}}, [("data.labels", "{1: liver, '>0.5': a}")])
    assert given == {"data": {"labels": {1: "liver", ">0.5": "a"}}}  # as a whole, and its keys as they are
    for mapped, says in (({1: "a", "#ff0000": "b"}, "one kind"), ({1: "background"}, "at least one class"),
                         ({True: "a"}, "valid string"), ({}, "labels"), ({1: "a", "01": "b"}, "1 twice"),
                         ({"#FF0000": "a", "#ff0000": "b"}, "#ff0000 twice"),
                         ({1: "a/b"}, "'a/b' is not a class name"), ({1: ""}, "'' is not a class name"),
                         ({1: "a\nb"}, "is not a class name")):
        with pytest.raises(UserError, match=says):
            params.validate({"data": {"labels": mapped}})


def test_background_may_be_written_in_any_case():
    assert Data(labels={0: "Background", 1: "a", 2: "b"}).classes == ("a", "b")


@pytest.mark.parametrize(("values", "says"), [
    ({"images": "a/*"}, "together"), ({"images": "a", "masks": "b"}, "at least one"),
    ({"images": "*", "masks": "*/*"}, "the same number"), ({"intensities": [5, 5]}, "low below high"),
    ({"intensities": "dull"}, "intensities"), ({"slices": [3, 0, 1]}, "axis is 0, 1 or 2"),
    ({"slices": [0, 5, 1]}, "first is not above last"), ({"min_area": 0}, "min_area"),
    ({"fit": "stretch"}, "fit")])
def test_parameters_of_reading_that_cannot_be(values, says):
    with pytest.raises(UserError, match=says):
        params.validate({"data": values})


def test_a_mask_whose_lesion_is_black_is_most_of_it():  # D4
    picture = Image.fromarray(255 - grey((255, 9)))
    assert read(np.asarray(picture))[0].mean() > 0.9


def test_truth_values_are_1_as_a_value_and_white_otherwise():
    truth = pixels.Raster(grey((255, 9))[..., None], "NumPy", "bool", (0, 255))
    for how in ({}, {"labels": {1: "a"}}, {"labels": {">127": "a"}}):
        mask, wrong = read(truth, **how)
        assert (mask.sum(), wrong) == (81, {})


# ---- classes that nobody named

def shown(tmp_path, values: np.ndarray, ending: str, **options: object) -> dict[str, str]:
    """What is wrong with a mask that was saved so and is read by default."""
    Image.fromarray(values).save(path := tmp_path / f"mask{ending}", **options)
    return read(rasters.read(path))[1]


def numbered(count: int) -> np.ndarray:
    """A map of so many classes, 6 x 6 pixels each."""
    values = np.zeros((96, 128), np.uint8)
    for number in range(count):
        row, column = divmod(number, 12)
        values[4 + 9 * row:10 + 9 * row, 4 + 9 * column:10 + 9 * column] = number + 1
    return values


@pytest.mark.parametrize("count", [9, 12, 100])
def test_a_map_of_many_classes_is_told_as_one_with_and_without_a_white_region(tmp_path, count):
    dark = numbered(count)
    wrong = shown(tmp_path, dark, ".png")
    assert "1 (36), 2 (36)" in wrong[labels.UNMAPPED]
    assert "data.labels: {1: polyp, 2: ..." in wrong[labels.UNMAPPED]
    assert 'data.labels: {">0": polyp}' in wrong[labels.UNMAPPED]
    bright = np.where(np.pad(np.ones((12, 90)), ((84, 0), (0, 38))) > 0, 255, dark).astype(np.uint8)
    wrong = shown(tmp_path, bright, ".png")
    assert 'data.labels: {">127": polyp}' in wrong[labels.UNMAPPED]
    assert read(bright, labels={">127": "polyp"})[1] == {}, "the way on"
    lines = np.zeros_like(dark)
    lines[:, 10:10 + count] = np.arange(1, count + 1)  # one pixel wide, so that no value lies flat
    lines[90:, :4] = 255
    assert labels.UNMAPPED in shown(tmp_path, lines, ".png")


def discs(*brightness: object) -> np.ndarray:
    """Discs of these greys or colours on black."""
    values = np.zeros((128, 128, 3), np.uint8)
    for number, colour in enumerate(brightness):
        cv2.circle(values, (30 + 45 * number, 40 + 20 * number), 20, np.ravel(colour).tolist() * (
            3 if np.size(colour) == 1 else 1), -1)
    return values


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("level", [30, 50, 200, 225])
def test_a_third_level_is_told_in_jpeg(tmp_path, level, quality):
    grey_discs = discs(255, level)[..., 0]
    wrong = shown(tmp_path, grey_discs, ".jpg", quality=quality)
    assert "neither" in wrong[labels.UNMAPPED] or "more than black and white" in wrong[labels.UNMAPPED]
    assert shown(tmp_path, discs(255, 255)[..., 0], ".jpg", quality=quality) == {}
    with Image.open(tmp_path / "mask.jpg") as again:  # which has JPEG's noise in a PNG
        assert shown(tmp_path, np.asarray(again), ".png") == {}


def test_planes_of_one_array_are_one_mask_however_many():
    planes = np.stack([grey((255, 9))] * 3 + [grey()] * 13, axis=2)
    mask, wrong = read(raster(planes, "NumPy"))
    assert (mask.sum(), wrong) == (81, {})


def test_several_colours_are_told_with_blurred_edges_and_in_jpeg(tmp_path):
    both, alone = discs((255, 0, 0), (0, 255, 0)), discs((255, 0, 0), (255, 0, 0))
    for picture, told in ((both, True), (alone, False)):
        assert (labels.COLOURS in shown(tmp_path, cv2.GaussianBlur(picture, (5, 5), 0), ".png")) == told
        for quality in (30, 75, 95):
            for side in (128, 48):  # of the smaller hardly a pixel is flat
                small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_NEAREST)
                assert (labels.COLOURS in shown(tmp_path, small, ".jpg", quality=quality)) == told
    wrong = shown(tmp_path, cv2.GaussianBlur(both, (5, 5), 0), ".png")
    assert "#ff0000" in wrong[labels.COLOURS]
    assert "save it as PNG, without blurred edges" in wrong[labels.COLOURS]


# ---- depths

def wide(*areas: tuple[int, int], kind: type = np.uint16) -> pixels.Raster:
    return raster(grey(*areas).astype(kind))


@pytest.mark.parametrize("value", [1, 255, 4095])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_a_file_of_one_class_is_what_it_is_at_any_depth(value, kind):
    values = np.where(grey((255, 3)) > 0, value, 0).astype(kind)
    mask, wrong = labels.binary(raster(values))
    assert (mask.sum(), wrong) == (9, [])
    # Where low is bright, the highest value is black.
    if kind is np.uint16:
        mask, wrong = labels.binary(raster(np.uint16(65535) - values, inverted=True))
        assert (mask.sum(), wrong) == (9, [])


@pytest.mark.parametrize("value", [255, 4095])
def test_two_dark_values_of_a_deep_mask_lead_to_the_one_that_is_meant(value):
    values = np.where(grey((255, 3)) > 0, value, 0).astype(np.uint16)
    _, wrong = read(raster(values))
    assert f"data.labels: {{{value}: polyp}}" in wrong[labels.ZERO_ONE]
    assert read(raster(values), labels={value: "polyp"})[0].sum() == 9
    smooth = raster((np.arange(3200, dtype=np.uint16) % 999).reshape(40, 80))
    assert "half of what 16 bits can hold" in read(smooth)[1][labels.EMPTY]


def test_levels_that_are_no_whole_numbers_lead_to_a_condition_that_is_allowed():
    levels = raster(grey((127, 9), (254, 9)).astype(np.float32) / 254)
    _, wrong = read(levels)
    assert wrong[labels.UNMAPPED].endswith('data.labels: {">0.25": polyp}')
    assert read(levels, labels={">0.25": "polyp"})[0].sum() == 162


def test_colours_of_16_bits_are_not_counted_as_those_of_8():
    deep = np.zeros((4, 4, 3), np.uint16)
    deep[0, 0] = 65535
    assert maskvalues.counted(deep) == {}
    assert maskvalues.counted(deep.astype(np.uint8)) == {"#000000": 15, "#ffffff": 1}


# ---- nnU-Net's regions, and pixels that nobody labelled

REGIONS = {"whole": [1, 2, 3], "core": [2, 3]}


def test_regions_that_share_values_overlap_and_are_told():
    values = grey((1, 9), (2, 7), (3, 5))
    both = {"whole": "whole", "core": "core"}
    mask, wrong = read(values, REGIONS, labels=both)
    assert wrong[labels.OVERLAP].startswith("74 pixels are of several classes")
    assert mask.sum(axis=(0, 1)).tolist() == [81 + 49 + 25, 49 + 25]
    assert read(values, REGIONS, labels=both, overlap=True)[1] == {}
    mask, wrong = read(values, REGIONS, labels={"whole": "background", "core": "core"})
    assert (wrong, mask.sum()) == ({}, 74)
    with pytest.raises(ValueError, match=r"set data\.labels: {1: \.\.\., 2: \.\.\., 3: \.\.\.}, as they sh"):
        read(values, REGIONS)
    assert read(values, REGIONS, labels={1: "rim", 2: "core", 3: "core"})[1] == {}


def test_what_nobody_labelled_is_told_and_can_be_called_background():
    told = {"liver": [1], "ignore": [3]}
    assert read(grey((1, 9)), told)[1] == {}
    values = grey((1, 9), (3, 7))
    assert read(values, told)[1][labels.UNMAPPED].startswith("3 (49)")
    mask, wrong = read(values, told, labels={"liver": "liver", "ignore": "background"})
    assert (mask.sum(), wrong) == (81, {})
    with pytest.raises(ValueError, match=r"liver, tumour; .*tumour: tumour, ignore: background}"):
        read(values, {"liver": [1], "tumour": [2], "ignore": [3]})
