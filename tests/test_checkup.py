"""`diffusegen data check`: what data are, a verdict a line; and sets that once loaded wrongly."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_formats import dicom, nifti

from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import (
    checkup,
    dataset,
    labels,
    placing,
    planes,
    rasters,
    reading,
    regions,
    sidecars,
)
from diffusegen_core.newprofile import ladder
from diffusegen_core.report import tables
from diffusegen_core.store import ownparams
from diffusegen_core.store.workspace import Workspace

SIDE = 48


def tissue(seed: int, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A picture (H, W) in [0, 1] with a bright lesion in the upper left, unlike that of another seed."""
    rng = np.random.default_rng(seed)
    cloud = cv2.GaussianBlur(rng.random(shape).astype(np.float32), (0, 0), 3)
    cloud = 0.1 + 0.3 * (cloud - cloud.min()) / np.ptp(cloud)
    return np.where(lesion(shape) > 0, cloud + 0.5, cloud)


def lesion(shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    values = np.zeros(shape, np.uint8)
    values[6:18, 8:22] = 255
    return values


def save(path: Path, values: np.ndarray | Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(path, **options)


def pairs(folder: Path, count: int = 4, image=None, mask=None, ending: str = ".png",
          **options: object) -> Path:
    """A folder of so many pairs; `image` and `mask` make what is saved of a number."""
    for number in range(count):
        picture = image(number) if image else np.round(tissue(number) * 255).astype(np.uint8)
        save(folder / f"images/{number}{ending}", picture, **options)
        save(folder / f"masks/{number}.png", mask(number) if mask else lesion())
    return folder


def check(folder: Path, **settings: object) -> checkup.Checkup:
    return checkup.checkup(folder, settings=Data(**settings))


def said(made: checkup.Checkup, subject: str) -> str:
    return "\n".join(f"{verdict} {words}" for verdict, about, words in made.lines if about == subject)


def kinds(made: checkup.Checkup) -> list[str]:
    """The kinds of problems, less that no pair is left by them."""
    return sorted({one.problem for one in made.report.problems} - {"too few pairs"})


def load(nano: dict, folder: Path, **settings: object) -> dataset.Pairs:
    given = {"source": str(folder), "count": None, "image_size": 16, "holdout": None, **settings}
    p = params.validate(nano | {"data": given})
    return dataset.load(Workspace(p.folder, p.seed), p.data, p.cluster.k)


def test_a_sound_set_is_told_as_it_is_and_nothing_is_odd(tmp_path):
    made = check(pairs(tmp_path), channels=1)
    assert made.report.problems == []
    assert {verdict for verdict, *_ in made.lines} == {"ok"}
    assert said(made, "images").startswith("ok 4 are PNG L, 8 bits, values ")
    assert said(made, "sizes") == "ok all 48x48"
    assert "0 (8544), 255 (672)" in said(made, "mask values")
    assert "none at 32, 48, 64, 128, 256 px" in said(made, "vanishing")


# ---- the cases that went wrong

@pytest.mark.parametrize("bits", [10, 12])
def test_d1_16_bit_files_with_fewer_bits_are_told_and_read_by_the_rule_that_is_set(tmp_path, nano, bits):
    folder = pairs(tmp_path, image=lambda i: np.round(tissue(i) * (2**bits - 1)).astype(np.uint16))
    made = check(folder)
    assert kinds(made) == [reading.DEPTH]
    window = [0, 2**bits - 1]
    assert f"data.intensities: {window}" in made.report.problems[0].detail
    for on_bad in ("refuse", "skip"):  # all images share it, so that nothing can be left out
        with pytest.raises(UserError, match="show next to nothing"):
            load(nano, folder, on_bad=on_bad)
    assert check(folder, intensities=window).report.problems == []
    assert load(nano, folder, intensities=window).images.max() > 200
    assert load(nano, folder, intensities="percentile").images.max() > 200


def test_d2_floats_beyond_0_to_1_are_told_with_their_range(tmp_path, nano):
    for low, high in ((0, 4095), (-1, 1)):
        folder = pairs(tmp_path / str(high), ending=".tif", image=lambda i, low=low, high=high: (
            low + (high - low) * tissue(i)).astype(np.float32))
        made = check(folder)
        assert kinds(made) == [reading.DEPTH]
        assert "data.intensities [low, high] or percentile" in made.report.problems[0].detail
        images = load(nano, folder, intensities=[low, high]).images
        assert (np.median(images) > 20, images.max() > 150) == (True, True)


def test_d1_one_bright_file_hides_no_dark_ones(tmp_path):
    def picture(number: int) -> np.ndarray:
        values = np.round(tissue(number) * 4095).astype(np.uint16)
        values[:2, :4] = 65535 if number == 2 else 0
        return values
    made = check(pairs(tmp_path, image=picture), channels=1)
    assert kinds(made) == [reading.DEPTH]
    assert made.report.problems[0].detail.startswith("the values of most files lie between 0 and")
    assert "set data.intensities: [0, 4095]" in made.report.problems[0].detail
    assert check(tmp_path, channels=1, intensities=[0, 4095]).report.problems == []


def test_d2_of_floats_that_are_not_all_from_0_to_1_none_is_kept(tmp_path, nano):
    pairs(tmp_path, image=lambda i: (tissue(i) * (1 if i == 1 else 255)).astype(np.float32), ending=".tif")
    made = check(tmp_path)
    assert "all values of images/1.tif lie from 0 to 1, but those of images/3.tif do not" in (
        made.report.problems[-1].detail)
    with pytest.raises(UserError, match=r"images/1\.tif.*set data\.intensities"):
        load(nano, tmp_path, on_bad="skip")
    assert len(load(nano, tmp_path, intensities=[0, 255])) == 4


def test_d3_unmapped_values_refuse(tmp_path, nano):
    folder = pairs(tmp_path, mask=lambda i: lesion() // 2 | np.flipud(lesion()))
    with pytest.raises(UserError, match=r"unmapped values.*127 \(168\), 255 \(168\)"):
        load(nano, folder)
    assert "127 (672), 255 (672)" in said(check(folder), "mask values")
    assert load(nano, folder, labels={127: "flat", 255: "raised"}).masks.shape == (4, 2, 16, 16)


def test_d4_an_inverted_mask_is_suspicious(tmp_path):
    made = check(pairs(tmp_path, mask=lambda i: 255 - lesion() if i == 2 else lesion()))
    assert said(made, "suspicious").startswith("look 1 have masks that may be inverted")
    assert said(made, "suspicious").endswith(": 2")


def tagged(turn: int) -> dict[str, object]:
    tag = Image.Exif()
    tag[rasters.ORIENTATION] = turn
    return {"exif": tag}


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_d5_a_tag_of_the_image_alone_is_told_unless_sizes_decide(tmp_path, nano, ending):
    for turn in (3, 6):
        made = check(pairs(tmp_path / str(turn), ending=ending, **tagged(turn)))
        assert kinds(made) == [placing.TURNED]
        assert f"({turn})" in made.report.problems[0].detail
    both = tmp_path / "both"
    pairs(both, ending=ending, **tagged(6))
    for number in range(4):
        save(both / f"masks/{number}.png", lesion(), **tagged(6))
    assert check(both).report.problems == []
    wide, shape = tmp_path / "wide", (SIDE, 2 * SIDE)
    for mask in (lesion(shape), np.rot90(lesion(shape), -1)):  # as it is stored, and as it is shown
        pairs(wide, image=lambda i: np.round(tissue(i, shape) * 255).astype(np.uint8),
              mask=lambda i, mask=mask: np.ascontiguousarray(mask), ending=ending, **tagged(6))
        made = check(wide)
        assert made.report.problems == []
        read = load(nano, wide, fit="squeeze")
        bright = read.images.mean(axis=1)[read.masks[:, 0] > 0].mean()
        assert bright > read.images.mean(axis=1)[read.masks[:, 0] == 0].mean() + 60


def test_d6_turned_masks_images_as_masks_black_images_and_copies_are_told(tmp_path):
    folder = pairs(tmp_path, 6)
    save(folder / "masks/1.png", np.rot90(lesion(), 2).copy())
    save(folder / "images/2.png", lesion())
    save(folder / "images/3.png", np.zeros((SIDE, SIDE), np.uint8))
    Image.open(folder / "images/4.png").convert("L").save(folder / "images/5.png", compress_level=0)
    made = check(folder)
    assert kinds(made) == [reading.SAME]
    assert "fit far better turned by 180 degrees: 1" in said(made, "suspicious")
    assert "are black, or nearly so: 3" in said(made, "suspicious")
    assert said(made, "copies") == "look 1 pair of images that look identical: 4 and 5"
    told = checkup.checkup(folder, None, params.validate({"data": {
        "source": str(folder), "patients": r"^(\d)", "on_bad": "skip"}}).data)
    assert said(told, "copies").startswith("look 1 pair of images that look identical, 1 of them of")
    one = checkup.checkup(folder, None, params.validate({"data": {
        "source": str(folder), "patients": r"(png)$", "on_bad": "skip"}}).data)
    assert said(one, "copies") == (
        "ok 1 pair of images that look identical, none of them of different patients. Patients "
        "stay together: none is both trained and tested on; but such images teach less than different ones")


def test_look_alike_slices_of_one_volume_are_no_copies(tmp_path):
    folder = pairs(tmp_path, 2)
    made = check(folder)
    looks = made.seen.shown["0"]
    made.seen.shown = dict.fromkeys("01", looks)
    for volumes, told in ((("v", "v"), "ok 1 pair of images that look identical, none of them of different "
                           "volumes"), (("v", "w"), "look 1 pair of images that look identical, 1 of them of "
                                        "different volumes: 0 and 1"),
                          (("", ""), "look 1 pair of images that look identical: 0 and 1")):
        made.seen.listed = [replace(pair, volume=volume) for pair, volume in
                            zip(made.report.pairs, volumes, strict=True)]
        assert said(made.told_patients(Data()), "copies").split(". Volumes stay together: ")[0] == told


def test_patients_are_told_where_masks_have_no_labels_yet(tmp_path):
    folder = pairs(tmp_path, mask=lambda i: np.full((SIDE, SIDE), i, np.uint8))
    made = check(folder, patients=r"^(\d)")
    assert made.report.pairs == []
    assert said(made, "layout").startswith("look ")
    assert said(made, "patients").startswith("ok 4 patients, 1 image each")


@pytest.mark.parametrize(("widths", "told"), [
    ((48, 48, 48, 60), "2 different, mostly 48x48 (3)"),
    ((48, 50, 60), "3 different, 48 to 60 wide and 48 high")])
def test_sizes_that_differ_are_told_by_their_range(tmp_path, widths, told):
    shapes = [(SIDE, width) for width in widths]
    folder = pairs(tmp_path, len(widths), lambda i: np.round(tissue(i, shapes[i]) * 255).astype(np.uint8),
                   lambda i: lesion(shapes[i]))
    assert said(check(folder), "sizes") == f"ok {told}"


def test_vanishing_regions_are_counted_at_the_sizes_of_new():
    assert {rung.side for rung in ladder.LADDER} <= set(checkup.SIZES)


@pytest.mark.parametrize(("fit", "verdict", "how"), [
    ("pad", "ok", "black bars"), ("crop", "look", "lose their ends"), ("squeeze", "look", "are squeezed")])
def test_d7_what_is_no_square_is_told_and_fitted_as_chosen(tmp_path, nano, fit, verdict, how):
    shape = (SIDE, 3 * SIDE)
    folder = pairs(tmp_path, image=lambda i: np.round(tissue(i, shape) * 255).astype(np.uint8),
                   mask=lambda i: np.roll(lesion(shape), SIDE, axis=1))
    made = check(folder, fit=fit)
    assert said(made, "aspect").startswith(f"{verdict} 4 are clearly not square, with sides up to 1:3")
    assert how in said(made, "aspect")
    mask = load(nano, folder, fit=fit, image_size=48).masks[0, 0]
    height, width = mask.any(axis=1).sum(), mask.any(axis=0).sum()
    assert (height, width) == {"pad": (4, 4), "crop": (12, 14), "squeeze": (12, 4)}[fit]
    off = pairs(tmp_path / "off", image=lambda i: np.round(tissue(i, shape) * 255).astype(np.uint8),
                mask=lambda i: lesion(shape))
    assert kinds(check(off, fit=fit)) == ([reading.CROPPED] if fit == "crop" else [])


def test_d8_gifs_are_pairs_and_what_is_not_read_is_named(tmp_path):
    folder = pairs(tmp_path, ending=".gif")
    assert len(check(folder).report.pairs) == 4
    (folder / "images/x.heic").write_bytes(b"x")
    [problem] = check(folder).report.problems
    assert (problem.file, problem.problem) == ("images/x.heic", "not read")
    assert "save it as PNG" in problem.detail


def test_d9_regions_that_vanish_are_counted_and_a_least_area_refuses(tmp_path):
    def dotted(number: int) -> np.ndarray:
        values = lesion()
        values[40, 40] = 255
        return values
    folder = pairs(tmp_path, mask=dotted)
    made = check(folder, image_size=16)
    assert "8; the smallest are 0.00043 (0), 0.00043 (1), " in said(made, "regions")
    named = check(folder, image_size=16, labels={7: "organ", 255: "lesion"})
    assert "8; the smallest are 0.00043 (lesion, 0), 0.00043 (lesion, 1), " in said(named, "regions")
    assert "look regions that vanish" in said(made, "vanishing")
    assert ": 4 at 16 px, " in said(made, "vanishing")
    for least, fine in ((1, True), (2, False), (0.0004, True), (0.0005, False)):
        assert (kinds(check(folder, min_area=least)) == []) == fine
    assert "a region of 1 pixels" in check(folder, min_area=2).report.problems[0].detail


def test_regions_are_not_lost_where_a_mask_becomes_larger():
    mask = np.zeros((64, 64, 1), np.uint8)
    mask[10, 10], mask[40, 21], mask[63, 63] = 1, 1, 1
    assert [regions.vanishing(mask, side) for side in (64, 128, 192, 256, 512)] == [0] * 5
    assert regions.vanishing(mask, 32) == 3 - len(np.argwhere(planes.shrunk(mask[..., 0][None], (32, 32))))


def test_what_is_no_number_is_no_colour(tmp_path):
    volume = np.where(lesion() > 0, 0.9, np.nan).astype(np.float32)
    for part, values in (("images", volume), ("masks", lesion() // 255)):
        (tmp_path / part).mkdir()
        nifti(tmp_path / part / "a.nii.gz", values[..., None])
    assert said(check(tmp_path, channels=1, labels={1: "a"}), "channels") == ""


def test_d10_a_grey_set_is_told_and_is_one_channel_if_that_is_set(tmp_path, nano):
    folder = pairs(tmp_path)
    assert "data.channels: 1" in said(check(folder), "channels")
    assert load(nano, folder, channels=1).images.shape == (4, 1, 16, 16)
    grey = load(nano, folder, channels=1).images
    np.testing.assert_array_equal(load(nano, folder).images, grey.repeat(3, 1))


def test_d11_a_mask_of_most_of_the_picture_in_a_black_frame_is_suspicious(tmp_path):
    framed = np.pad(255 - lesion((SIDE - 4, SIDE - 4)), 2)
    made = check(pairs(tmp_path, 2, mask=lambda _: framed))
    assert "may be inverted: most of the picture or of its border" in said(made, "suspicious")


def test_classes_that_occur_nowhere_or_lack_their_file_are_told(tmp_path):
    numbered = lesion() // 255
    folder = pairs(tmp_path / "numbers", 2, mask=lambda _: numbered)
    assert said(check(folder, labels={1: "a", 7: "c"}), "classes") == "look of 2 masks: a in 2, c in none"
    assert said(check(folder, labels={1: "a"}), "classes") == ""
    files = tmp_path / "files"
    for name in ("x", "y"):
        save(files / f"images/{name}.png", np.round(tissue(ord(name)) * 255).astype(np.uint8))
        save(files / f"masks/{name}_left.png", lesion())
    save(files / "masks/x_right.png", np.fliplr(lesion()))
    rules = {"images": "images/*", "masks": "masks/*_**", "labels": {"left": "l", "right": "r"}}
    made = check(files, **rules)
    assert said(made, "class files").startswith("look 1 have no file for right")
    assert said(made, "class files").endswith(": y")
    (files / "masks/x_left.png").unlink()  # each has one: they are kinds of images
    assert said(check(files, **rules), "class files") == ""


def test_d11_swapped_folders_are_told(tmp_path):
    folder = pairs(tmp_path)
    (folder / "images").rename(folder / "x")
    (folder / "masks").rename(folder / "images")
    (folder / "x").rename(folder / "masks")
    made = check(folder)
    assert len(made.report.pairs) == 0
    assert kinds(made) == ["unmapped values"]


def test_values_that_all_masks_have_are_named_once_and_told_of_a_few(tmp_path: Path):
    def numbered(number: int) -> np.ndarray:
        mask = lesion() // 255
        mask[:4, :4] = 2 + number % 2
        return mask
    made = check(pairs(tmp_path, 9, mask=numbered), object="nodule")
    assert said(made, "labels").startswith("look 9 masks have values of no class; say what they are with "
                                           "data.labels: {1: nodule, 2: ..., 3: ...} and names of your own")
    assert len(made.report.problems) == 10, "all are there, and 'too few pairs'"
    assert made.brief.count("unmapped values") == 4
    assert made.brief.endswith("... and 6 more with unmapped values, which --all shows.")
    assert made.text.count("unmapped values") == 9


def test_a_few_masks_with_other_values_are_all_told(tmp_path: Path):
    odd = pairs(tmp_path, 9)
    for number in range(4):
        mask = lesion()
        mask[:4, :4] = 100
        save(odd / f"masks/{number}.png", mask)
    for number in range(4, 9):
        (odd / f"masks/{number}.png").unlink()
    made = check(odd)
    assert all(f"masks/{number}.png" in made.brief for number in range(4))
    assert "more with" not in made.brief


def test_where_most_masks_are_sound_the_values_of_a_few_name_no_classes(tmp_path: Path):
    odd = pairs(tmp_path, 30)
    for number in range(8):
        mask = lesion()
        mask[:4, :4] = 100
        save(odd / f"masks/{number}.png", mask)
    made = check(odd)
    assert said(made, "labels") == ""
    assert made.brief == made.text


def test_d12_one_rule_for_the_whole_set(tmp_path, nano):
    """A brightest value of 250 and one of 260, in 16 bits, are nearly the same."""
    def deep(number: int) -> np.ndarray:
        share = tissue(number) / tissue(number).max()
        return np.round(share * (250 + 10 * (number % 2))).astype(np.uint16)
    folder = pairs(tmp_path, image=deep)
    assert kinds(check(folder)) == [reading.DEPTH]
    images = load(nano, folder, intensities=[0, 1023], image_size=SIDE).images
    assert np.ptp(images.reshape(4, -1).max(axis=1)) <= 3


def test_d14_what_was_left_out_is_recorded_with_its_reason(tmp_path, nano):
    folder = pairs(tmp_path, 6, mask=lambda i: lesion() * (i % 3 != 0))
    read = load(nano, folder, on_bad="skip")
    assert sidecars.left_out(read.stored.parent) == "; left out: 2 (empty mask)"
    cells = json.loads((Path(__file__).parents[1] / "notebooks/01_cluster.ipynb").read_text())["cells"]
    first = next("".join(one["source"]) for one in cells if "tables.facts" in "".join(one["source"]))
    assert first.index('run.make("data")') < first.index("tables.facts"), "which tells what was left out"
    p = params.validate(nano | {"data": {"source": str(folder), "count": None, "image_size": 16,
                                         "holdout": None}})
    assert tables.data(p).endswith(": all pairs; left out: 2 (empty mask)")  # which pages say


# ---- other kinds of files, as pairs

def test_dicom_images_with_their_windows(tmp_path, nano):
    for number in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        values = np.round(tissue(number) * 400 + 900).astype(np.uint16)
        dicom(tmp_path / f"images/{number}.dcm", values, BitsStored=12, HighBit=11, RescaleIntercept=-1024,
              RescaleSlope=1, WindowCenter=76, WindowWidth=400)
        save(tmp_path / f"masks/{number}.png", lesion())
    made = check(tmp_path, intensities="dicom", channels=1)
    assert made.report.problems == []
    assert "(-124.0, 275.0)" in said(made, "window")
    assert kinds(check(tmp_path, channels=1)) == [reading.DEPTH]  # a tenth of 12 bits
    assert load(nano, tmp_path, intensities="dicom", channels=1).images.max() > 180
    (tmp_path / "images/0.dcm").write_bytes((tmp_path / "images/0.dcm").read_bytes()[:-200])
    [problem] = check(tmp_path, intensities="dicom", channels=1).report.problems
    assert (problem.file, problem.problem) == ("images/0.dcm", "unreadable")


def test_masks_lie_on_slices_in_dicom_that_are_turned(tmp_path, nano):
    of_slice = {"ImageOrientationPatient": [0, -1, 0, -1, 0, 0]}  # transposed, and turned by 180 degrees

    def stored(seen: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(seen.T[::-1, ::-1])

    def grey(number: int) -> np.ndarray:
        return np.round(tissue(number) * 255).astype(np.uint8)

    for folder, header in (("pictures", of_slice), ("upright", {}), ("slices", of_slice)):
        for number in range(4):
            seen, mask = grey(number), lesion()
            turned = bool(header)
            (tmp_path / folder / "images").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "masks").mkdir(exist_ok=True)
            dicom(tmp_path / folder / f"images/{number}.dcm", stored(seen) if turned else seen, **header)
            if folder == "slices":  # whose masks have a header of their own
                dicom(tmp_path / folder / f"masks/{number}.dcm", mask,
                      ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
            else:
                save(tmp_path / folder / f"masks/{number}.png", stored(mask) if turned else mask)
    wanted = load(nano, tmp_path / "upright", channels=1)
    for folder in ("pictures", "slices"):
        made = check(tmp_path / folder, channels=1)
        assert made.report.problems == []
        assert said(made, "turned").startswith("look 4 are turned as their DICOM header says")
        read = load(nano, tmp_path / folder, channels=1)
        np.testing.assert_array_equal(read.images, wanted.images)
        np.testing.assert_array_equal(read.masks, wanted.masks)
    dicom(tmp_path / "slices/masks/0.dcm", lesion(), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    [problem] = check(tmp_path / "slices", channels=1).report.problems
    assert (problem.problem, "at an angle of 90 degrees" in problem.detail) == (placing.TURNED, True)


def test_numpy_pairs_of_several_classes_and_channels(tmp_path, nano):
    for number in range(3):
        for part in ("images", "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
        np.save(tmp_path / f"images/{number}.npy", np.stack([tissue(number)] * 5, 2).astype(np.float32))
        np.save(tmp_path / f"masks/{number}.npy", lesion() // 255 + np.flipud(lesion()) // 255 * 2)
    read = load(nano, tmp_path, channels=5, labels={1: "upper", 2: "lower"})
    assert (read.images.shape, read.masks.shape) == ((3, 5, 16, 16), (3, 2, 16, 16))
    assert kinds(check(tmp_path, labels={1: "upper", 2: "lower"})) == [reading.CHANNELS]
    assert kinds(check(tmp_path, channels=5)) == ["unmapped values"]


# ---- old runs

@pytest.mark.parametrize(("affine", "flip", "told"), [
    (np.diag([-1, -1, 2, 1.0]), False, None),
    (np.diag([-1, -1, -2, 1.0]) + np.eye(4)[:, [0, 1, 3, 2]] * [[0], [0], [10], [0]], True, None),
    (np.diag([-1, -1, -2, 1.0]), False, "LPS and the mask as LPI"),  # the slices meet the wrong ones
    (np.eye(4), False, "LPS and the mask as RAS"),
    (np.diag([-1, -1, 2, 1.0]) + np.eye(4)[:, [3, 1, 2, 0]] * [[9], [0], [0], [0]], False, "elsewhere"),
], ids=["same", "stored the other way", "wrong way", "identity", "shifted"])
def test_nifti_masks_are_placed_as_their_images(tmp_path, affine, flip, told):
    volume, label = np.full((SIDE, SIDE, 6), 90, np.int16), np.zeros((SIDE, SIDE, 6), np.uint8)
    volume[8:22, 6:18], label[8:22, 6:18, 4:] = 700, 1
    for part, values, placed in (("images", volume, np.diag([-1, -1, 2, 1.0])),
                                 ("masks", label[..., ::-1] if flip else label, affine)):
        (tmp_path / part).mkdir()
        nifti(tmp_path / part / "a.nii.gz", values, placed)
    made = check(tmp_path, slices=[2, 4, 5], labels={1: "liver"}, channels=1, intensities=[0, 900])
    if told is None:
        assert (made.report.problems, said(made, "suspicious")) == ([], "")
    elif told == "elsewhere":
        assert made.report.problems == []
        assert "2 have masks that lie elsewhere in the patient" in said(made, "suspicious")
    else:
        assert set(kinds(made)) == {placing.AFFINES} | ({labels.EMPTY} if "LPI" in told else set())
        assert told in made.report.problems[0].detail
        assert "save the mask with the image's affine" in made.report.problems[0].detail


def test_a_run_that_is_older_than_these_parameters_reads_and_keeps_what_it_had(tmp_path, nano):
    folder = pairs(tmp_path / "set")
    p = params.validate(nano | {"data": {"source": str(folder), "count": None, "image_size": 16,
                                         "fit": "squeeze", "holdout": None}})
    ws = Workspace(p.folder, p.seed)
    dataset.load(ws, p.data, 1)
    recipe = dataset.read_stamp(p.folder / "data")["recipe"]
    assert set(recipe) == {"source", "subset", "count", "image_size", "on_bad", "version", "input"}
    other = p.data.model_copy(update={"object": "lesion"})
    assert dataset.load(Workspace(p.folder, p.seed, writable=False), other, 1).digest
    ownparams.keep(p)
    path = p.folder / ownparams.PARAMS
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "fit:" not in line))
    assert ownparams.load(p.folder)["data"]["fit"] == "squeeze"


def test_native_sizes_are_kept(tmp_path, nano):
    shape = (SIDE, 2 * SIDE)
    folder = pairs(tmp_path, image=lambda i: np.round(tissue(i, shape) * 255).astype(np.uint8),
                   mask=lambda i: lesion(shape))
    assert sidecars.native_sizes(load(nano, folder).file) == dict.fromkeys("0123", shape)
