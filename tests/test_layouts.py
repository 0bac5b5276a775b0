"""How folders are laid out: published layouts by small copies, one's own by patterns; what is told else."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_formats import dicom, nifti

from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import advice, annotations, layouts, reading
from diffusegen_core.data.reports import Report

SIDE = 24


def image(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE), value, np.uint8)).save(path)
    return path


def mask(path: Path, value: int = 255, at: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[at:at + 6, at:at + 6] = value
    Image.fromarray(values).save(path)
    return path


def read(folder: Path, **settings: object) -> tuple[Report, dict[str, np.ndarray]]:
    """The report of a folder, and the masks of its usable pairs."""
    data = Data(**settings)
    report = layouts.scan(folder, data)
    masks = {pair.name: mask for pair, _, mask in reading.read(report, data)}
    return report, masks


def problems(report: Report) -> list[tuple[str, str]]:
    return [(one.file, one.problem) for one in report.problems]


def test_the_page_lists_the_names_by_which_masks_are_found(tmp_path):
    page = Path(__file__).parents[1] / "book" / "data.md"
    row, = re.findall(r"^\| other names .*", page.read_text(encoding="utf-8"), re.MULTILINE)
    folders, names = row.split("or in the same folder")[0], row.split("such as ")[2].split(". ")[0]
    words = re.findall("`([a-z]+)`", folders)
    assert set(words) == set(re.findall("[a-z]{2,}", advice.MASK_FOLDERS.pattern))
    shown = re.findall("`([^`]+)`", names)
    assert {one.replace("NAME", "").strip("_") for one in shown} == {
        word.removesuffix("s") for word in re.findall("[a-z]{2,}", advice.MASK_NAME.pattern)}
    for number, place in enumerate([*(f"my_{word}s/NAME" for word in words), *shown]):
        folder = tmp_path / str(number)
        for name in ("7", "8"):
            image(folder / ("pictures" if "/" in place else "") / f"{name}.png")
            mask(folder / f"{place.replace('NAME', name)}.png")
        assert len(layouts.scan(folder, Data(**layouts.only_patterns(folder))).pairs) == 2, place


# ---- by name

def test_isic(tmp_path):
    for number in ("0000000", "0000001"):
        image(tmp_path / f"ISIC2018_Task1-2_Training_Input/ISIC_{number}.jpg")
        mask(tmp_path / f"ISIC2018_Task1_Training_GroundTruth/ISIC_{number}_segmentation.png")
    image(tmp_path / "ISIC2018_Task1-2_Training_Input/ISIC_0000000_superpixels.png")
    report, masks = read(tmp_path)
    assert (report.layout, list(masks)) == ("ISIC", ["ISIC_0000000", "ISIC_0000001"])
    assert [path.name for path in report.ignored] == ["ISIC_0000000_superpixels.png"]


def busi(folder: Path) -> Path:
    for kind, number in (("benign", 1), ("malignant", 1), ("normal", 1)):
        image(folder / kind / f"{kind} ({number}).png")
        mask(folder / kind / f"{kind} ({number})_mask.png", 0 if kind == "normal" else 255)
    mask(folder / "benign/benign (1)_mask_1.png", at=14)
    return folder


def test_busi_with_several_masks_an_image_and_pairs_without_lesions(tmp_path):
    report, masks = read(busi(tmp_path / "Dataset_BUSI_with_GT").parent)
    assert (report.layout, list(masks)) == ("BUSI", ["benign (1)", "malignant (1)"])
    assert masks["benign (1)"].sum() == 72
    assert problems(report) == [("Dataset_BUSI_with_GT/normal/normal (1)_mask.png", "empty mask")]


def test_folders_can_be_classes(tmp_path):
    _, masks = read(busi(tmp_path), labels={"benign": "benign", "malignant": "malignant", "normal": "benign"})
    assert masks["benign (1)"].sum(axis=(0, 1)).tolist() == [72, 0]
    assert masks["malignant (1)"].sum(axis=(0, 1)).tolist() == [0, 36]


@pytest.mark.parametrize("ending", ["png", "nii.gz"])
def test_nnunet_with_its_classes_and_channels(tmp_path, ending):
    for name in ("case_1", "case_2"):
        values = np.zeros((SIDE, SIDE), np.uint8)
        values[4:10, 4:10], values[12:16, 12:16] = 1, 2
        for channel in (0, 1):
            if ending == "png":
                image(tmp_path / f"imagesTr/{name}_000{channel}.png", 90 + channel)
            else:
                (tmp_path / "imagesTr").mkdir(exist_ok=True)
                nifti(tmp_path / f"imagesTr/{name}_000{channel}.nii.gz",
                      np.full((SIDE, SIDE, 1), 90, np.uint8))
        (tmp_path / "labelsTr").mkdir(exist_ok=True)
        if ending == "png":
            Image.fromarray(values).save(tmp_path / f"labelsTr/{name}.png")
        else:
            nifti(tmp_path / f"labelsTr/{name}.nii.gz", values.T[..., None])
    told = {"labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": f".{ending}"}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"liver, tumour; set data\.labels, such as {liver: liver, tumour"):
        read(tmp_path, channels=2)
    for keys in ({"liver": "liver", "tumour": "tumour"}, {1: "liver", 2: "tumour"}):
        report, masks = read(tmp_path, channels=2, labels=keys)
        assert (report.layout, problems(report)) == ("nnU-Net", [])
        assert masks["case_1"].sum(axis=(0, 1)).tolist() == [36, 16]
    data = Data(channels=2, labels={1: "liver", 2: "tumour"})
    _, pixels, _ = next(reading.read(layouts.scan(tmp_path, data), data))
    assert pixels.shape == (SIDE, SIDE, 2)
    report, masks = read(tmp_path, labels={1: "liver", 2: "tumour"})
    assert problems(report)[0] == (f"imagesTr/case_1_0000.{ending}", "channels")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": ["liver"]}))
    with pytest.raises(UserError, match="not in nnU-Net's form"):
        read(tmp_path)


def test_nnunet_channels_that_are_missing_or_odd_are_named_and_are_no_colours(tmp_path):
    def files(case: str, *channels: str) -> None:
        for channel in channels:
            image(tmp_path / f"imagesTr/{case}_{channel}.png")
        mask(tmp_path / f"labelsTr/{case}.png")
    for case in ("c1", "c2"):
        files(case, "0000", "0001", "0002")
    assert [*read(tmp_path)[1]] == ["c1", "c2"]
    report, masks = read(tmp_path, channels=1)
    assert (problems(report)[0], masks) == (("imagesTr/c1_0000.png", "channels"), {})
    files("c3", "0000")
    files("c4", "0000", "0001", "0003")
    report, masks = read(tmp_path)
    assert [*masks] == ["c1", "c2"]
    assert [(one.file, one.problem, one.detail.partition(", and")[0]) for one in report.problems] == [
        ("imagesTr/c3_0000.png", "channels", "its files are the channels 0000"),
        ("imagesTr/c4_0000.png", "channels", "its files are the channels 0000, 0001, 0003")]
    for case in ("c1", "c2", "c3"):
        for path in (tmp_path / "imagesTr").glob(f"{case}_*"):
            path.unlink()
        (tmp_path / f"labelsTr/{case}.png").unlink()
    assert "from 0000 on without gaps" in read(tmp_path)[0].problems[0].detail


def test_chest_x_rays_of_montgomery_and_shenzhen(tmp_path):
    for side, at in (("left", 2), ("right", 14)):
        mask(tmp_path / f"MontgomerySet/ManualMask/{side}Mask/MCUCXR_0001_0.png", at=at)
    image(tmp_path / "MontgomerySet/CXR_png/MCUCXR_0001_0.png")
    report, masks = read(tmp_path)
    assert (report.layout, masks["MCUCXR_0001_0"].sum()) == ("Montgomery", 72)
    _, masks = read(tmp_path, labels={"leftMask": "left lung", "rightMask": "right lung"})
    assert masks["MCUCXR_0001_0"].sum(axis=(0, 1)).tolist() == [36, 36]
    other = tmp_path / "MontgomerySet/other"
    image(other / "CXR_png/CHNCXR_0001_0.png")
    image(other / "CXR_png/CHNCXR_0002_0.png")
    mask(other / "mask/CHNCXR_0001_0_mask.png")
    report, masks = read(other)
    assert (report.layout, list(masks)) == ("Shenzhen", ["CHNCXR_0001_0"])
    assert problems(report) == [("CXR_png/CHNCXR_0002_0.png", "missing mask")]


def test_drive_with_its_gifs_and_fields_of_view(tmp_path):
    for part, number in (("training", 21), ("test", 1)):
        image(tmp_path / f"DRIVE/{part}/images/{number:02d}_{part}.tif")
        mask(tmp_path / f"DRIVE/{part}/1st_manual/{number:02d}_manual1.gif")
        mask(tmp_path / f"DRIVE/{part}/mask/{number:02d}_{part}_mask.gif")
    report, masks = read(tmp_path)
    assert (report.layout, list(masks), problems(report)) == ("DRIVE", ["01", "21"], [])
    assert len(report.ignored) == 2


def test_glas_whose_masks_number_the_glands(tmp_path):
    for name in ("train_1", "testA_1"):
        image(tmp_path / f"{name}.bmp")
        numbered = np.zeros((SIDE, SIDE), np.uint8)
        numbered[2:6, 2:6], numbered[10:14, 10:14] = 1, 2
        Image.fromarray(numbered).save(tmp_path / f"{name}_anno.bmp")
    report, masks = read(tmp_path)
    assert (report.layout, masks["train_1"].sum(), problems(report)) == ("GlaS", 32, [])


# ---- outlines

def coco(folder: Path, segmentation: object, names: tuple[str, ...] = ("a.png",),
         categories: tuple[str, ...] = ("polyp",)) -> Path:
    image(folder / "images/a.png")
    content = {"images": [{"id": 7 + i, "file_name": name, "height": SIDE, "width": SIDE}
                          for i, name in enumerate(names)],
               "categories": [{"id": 3 + i, "name": name} for i, name in enumerate(categories)],
               "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation}]}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/instances.json").write_text(json.dumps(content))
    return folder


def runs(compressed: bool) -> dict:
    """COCO's run lengths of a square, down the columns."""
    from pycocotools import mask as library
    values = np.zeros((SIDE, SIDE), np.uint8, order="F")
    values[4:10, 4:10] = 1
    if compressed:
        return {"size": [SIDE, SIDE], "counts": library.encode(values)["counts"].decode()}
    ends = np.flatnonzero(np.diff(values.T.ravel())) + 1
    return {"size": [SIDE, SIDE], "counts": np.diff([0, *ends.tolist(), values.size]).tolist()}


SQUARE = [[4, 4, 10, 4, 10, 10, 4, 10]]  # its corners lie between pixels


@pytest.mark.parametrize("outline", [SQUARE, "compressed", "plain"])
def test_coco_by_polygons_and_by_both_run_lengths(tmp_path, outline):
    segmentation = outline if isinstance(outline, list) else runs(compressed=outline == "compressed")
    report, masks = read(coco(tmp_path, segmentation))
    assert (report.layout, problems(report)) == (annotations.COCO, [])
    assert np.argwhere(masks["a"][..., 0]).min(axis=0).tolist() == [4, 4]
    assert masks["a"].sum() == 36


def test_coco_with_several_categories_asks_for_the_choice(tmp_path):
    coco(tmp_path, SQUARE, categories=("polyp", "scar"))
    with pytest.raises(UserError, match=r"classes polyp, scar; set data\.labels"):
        read(tmp_path)
    _, masks = read(tmp_path, labels={"polyp": "polyp", "scar": "scar"})
    assert masks["a"].sum(axis=(0, 1)).tolist() == [36, 0]
    report, masks = read(tmp_path, labels={"scar": "scar"})
    assert (problems(report)[0], masks) == (("annotations/instances.json", "unmapped values"), {})
    report, _ = read(tmp_path, labels={">4": "scar"})
    assert report.problems[0].detail.startswith("outlines of class polyp, which")


@pytest.mark.parametrize(("outline", "says"), [
    ({"size": [9, 9], "counts": [81]}, "mask of [9, 9], and the image is [24, 24]"),
    ({"size": [SIDE, SIDE], "counts": [5, 5]}, "do not add up"),
    ({"size": [SIDE, SIDE], "counts": [-5, SIDE * SIDE + 5]}, "do not add up"),
    ({"size": [SIDE, SIDE], "counts": "zzzz~~~"}, "do not add up"),
    ({"size": [SIDE, SIDE], "counts": "0" * 50}, "do not add up"),
    ({"size": [SIDE, SIDE]}, "do not add up"),
])
def test_run_lengths_that_do_not_fit_are_one_line(tmp_path, outline, says):
    report, masks = read(coco(tmp_path, outline))
    assert masks == {}
    [problem] = [one for one in report.problems if one.problem == "unreadable"]
    assert says in problem.detail


def test_coco_that_names_absent_images_or_is_damaged(tmp_path):
    coco(tmp_path, SQUARE, names=("a.png", "b.png", "../../etc/passwd"))
    report, masks = read(tmp_path)
    assert list(masks) == ["a"]
    [problem] = report.problems
    assert (problem.problem, problem.detail) == (
        "absent images", "it names 2 images that are not there: b.png, ../../etc/passwd")
    content = json.loads((tmp_path / "annotations/instances.json").read_text())
    del content["annotations"][0]["image_id"]
    (tmp_path / "annotations/instances.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a valid COCO file"):
        read(tmp_path)
    (tmp_path / "annotations/instances.json").write_text('{"images": [')
    with pytest.raises(UserError, match="damaged JSON"):
        read(tmp_path)


def test_coco_boxes_without_outline_and_pictures_that_it_does_not_name_are_told(tmp_path):
    image(coco(tmp_path, SQUARE) / "images/b.png")
    report, masks = read(tmp_path)
    assert (list(masks), [path.name for path in report.ignored]) == (["a"], ["b.png"])
    path = tmp_path / "annotations/instances.json"
    content = json.loads(path.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 2, "segmentation": []})
    path.write_text(json.dumps(content))
    try:
        report, masks = read(tmp_path)
        told = report.problems[0].detail
    except UserError as error:
        masks, told = {}, str(error)
    assert (masks, "a box but no outline" in told) == ({}, True)


def test_a_file_of_coco_is_parsed_once_a_scan(tmp_path, monkeypatch):
    coco(tmp_path, SQUARE)
    (tmp_path / "other.json").write_text("{}")
    parsed, loads = [], json.loads
    monkeypatch.setattr(annotations.json, "loads", lambda text: parsed.append(text) or loads(text))
    for times in (1, 2):
        assert len(layouts.scan(tmp_path).pairs) == 1
        assert len(parsed) == 2 * times, "and nothing is kept"


@pytest.mark.parametrize(("wrong", "says"), [
    ({"segmentation": [[1, 2]]}, "annotation 9: a polygon needs three corners or more"),
    ({"segmentation": [["x", 2, 3, 4, 5, 6]]}, "annotation 9: could not convert"),
    ({"bbox": [1, 2, 3, 4]}, "annotation 9 has no segmentation")])
def test_one_outline_that_cannot_be_is_a_problem_of_its_image_alone(tmp_path, wrong, says):
    image(coco(tmp_path, SQUARE, names=("a.png", "b.png")) / "images/b.png")
    file = tmp_path / "annotations/instances.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"id": 9, "image_id": 8, "category_id": 3, **wrong})
    file.write_text(json.dumps(content))
    report, masks = read(tmp_path)
    assert list(masks) == ["a"]
    [problem] = report.problems
    assert (problem.file, problem.problem) == ("images/b.png", "unreadable")
    assert says in problem.detail


def test_corners_far_outside_are_one_line_and_those_a_little_outside_are_cut(tmp_path):
    _, masks = read(coco(tmp_path, [[-5, -5, 10, -5, 10, 10, -5, 10]]))
    assert masks["a"].sum() == 100
    report, masks = read(coco(tmp_path, [[4, 4, 1e9, 4, 10, 10]]))
    assert masks == {}
    assert "a corner far outside" in report.problems[0].detail


def turned_photo(path: Path, wide: int = 30, orientation: int = 6) -> None:
    """A picture that is stored `wide` x 24, and shown upright by its EXIF tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, wide), 90, np.uint8)).save(path, exif=exif)


def box_of(mask: np.ndarray) -> list[int]:
    """First and last row, first and last column of a mask (H, W, 1)."""
    rows, columns, _ = np.nonzero(mask)
    return [int(one) for one in (rows.min(), rows.max(), columns.min(), columns.max())]


def test_labelme_outlines_what_it_shows(tmp_path):
    shape = {"label": "polyp", "points": [[2, 4], [11, 4], [11, 8], [2, 8]], "shape_type": "polygon"}
    for wide in (30, SIDE):  # of squares no size tells
        turned_photo(tmp_path / f"{wide}/a.jpg", wide)
        (tmp_path / f"{wide}/a.json").write_text(json.dumps({"shapes": [shape]}))
        report, masks = read(tmp_path / str(wide))
        assert (problems(report), box_of(masks["a"])) == ([], [4, 8, 2, 11])
    told = {"shapes": [shape], "imageWidth": 30, "imageHeight": SIDE}  # as the file is stored
    (tmp_path / "30/a.json").write_text(json.dumps(told))
    assert box_of(read(tmp_path / "30")[1]["a"]) == [2, 11, SIDE - 9, SIDE - 5]
    (tmp_path / "30/a.json").write_text(json.dumps(told | {"imageWidth": 60, "imageHeight": 60}))
    report, masks = read(tmp_path / "30")
    assert (problems(report), masks) == ([("a.json", "size mismatch")], {})


def coco_of_size(folder: Path, width: int | None, height: int | None) -> tuple[Report, dict[str, np.ndarray]]:
    coco(folder, [[2, 4, 12, 4, 12, 9, 2, 9]], names=("a.jpg",))
    file = folder / "annotations/instances.json"
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": width, "height": height}
    file.write_text(json.dumps(content))
    return read(folder)


def test_coco_is_turned_as_its_sizes_say_or_told(tmp_path):
    turned_photo(tmp_path / "images/a.jpg")
    report, masks = coco_of_size(tmp_path, SIDE, 30)  # as it is shown
    assert (problems(report), box_of(masks["a"])) == ([], [4, 8, 2, 11])
    report, masks = coco_of_size(tmp_path, 30, SIDE)  # as it is stored
    assert (problems(report), box_of(masks["a"])) == ([], [2, 11, SIDE - 9, SIDE - 5])
    for size, kind in (((None, None), "orientations differ"), ((80, 80), "size mismatch")):
        report, masks = coco_of_size(tmp_path, *size)
        assert (masks, problems(report)) == ({}, [("annotations/instances.json", kind)])
    turned_photo(tmp_path / "images/a.jpg", SIDE)
    assert problems(coco_of_size(tmp_path, SIDE, SIDE)[0]) == [
        ("annotations/instances.json", "orientations differ")]


def test_outlines_of_another_size_are_told(tmp_path):
    image(coco(tmp_path, SQUARE) / "images/a.jpg")
    report, masks = coco_of_size(tmp_path, 80, 80)
    assert masks == {}
    [problem] = report.problems
    assert problem.detail == "a: outlines of a picture of 80x80, image 24x24"


def test_labelme(tmp_path):
    shapes = [{"label": "polyp", "points": [[4, 4], [9, 9]], "shape_type": "rectangle"},
              {"label": "polyp", "points": [[16, 4], [20, 4], [18, 8]], "shape_type": "polygon"}]
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text(json.dumps(
            {"version": "5.0.0", "shapes": shapes, "imagePath": f"{name}.png", "imageHeight": SIDE,
             "imageWidth": SIDE, "imageData": base64.b64encode(b"x").decode()}))
    image(tmp_path / "c.png")
    report, masks = read(tmp_path)
    assert (report.layout, list(masks)) == (annotations.LABELME, ["a", "b"])
    assert masks["a"].sum() > 36
    assert problems(report) == [("c.png", "missing mask")]
    (tmp_path / "c.png").unlink()
    (tmp_path / "b.json").write_text(json.dumps({"shapes": [{**shapes[0], "shape_type": "linestrip"}]}))
    report, _ = read(tmp_path)
    assert report.problems[0].detail == ("a LabelMe linestrip (polyp) has no area: outline it as a "
                                         "polygon, or delete it")


def labelme(folder: Path, *shapes: dict) -> Path:
    image(folder / "a.png")
    (folder / "a.json").write_text(json.dumps({"shapes": [{"label": "polyp", **one} for one in shapes]}))
    return folder


def test_labelmes_masks_and_circles_are_drawn_where_they_lie(tmp_path):
    shape = np.zeros((5, 7), np.uint8)
    shape[1:, 2:] = 1
    png = io.BytesIO()
    Image.fromarray(shape * np.uint8(255)).save(png, "PNG")
    told = {"shape_type": "mask", "points": [[3, 6], [9, 10]],
            "mask": base64.b64encode(png.getvalue()).decode()}
    report, masks = read(labelme(tmp_path, told))
    assert problems(report) == []
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[6:11, 3:10] = shape
    assert np.array_equal(masks["a"][..., 0], expected)
    for changed, says in (({"points": [[20, 6], [26, 10]]}, "reaches beyond the image, 24x24"),
                          ({"mask": "no picture"}, "cannot be decoded"),
                          ({"mask": None}, "cannot be decoded")):
        report, masks = read(labelme(tmp_path, {**told, **changed}))
        assert masks == {}
        assert says in report.problems[0].detail
    _, masks = read(labelme(tmp_path, {"shape_type": "circle", "points": [[12, 12], [12, 17]]}))
    assert masks["a"].sum() == pytest.approx(np.pi * 5.5**2, rel=0.1)
    report, _ = read(labelme(tmp_path, {"shape_type": "star", "points": [[1, 1]]}))
    assert "type star; only polygon, rectangle, circle and mask are read" in report.problems[0].detail


def test_several_coco_files_of_a_folder_are_one_set(tmp_path):
    coco(tmp_path, SQUARE)
    for name in ("b", "c"):
        image(tmp_path / f"images/{name}.png")
    # Other files number images and classes in their own way, and one may tell more of an image.
    other = {"images": [{"id": 7, "file_name": "b.png"}, {"id": 8, "file_name": "a.png"}],
             "categories": [{"id": 3, "name": "scar"}, {"id": 4, "name": "polyp"}],
             "annotations": [{"id": 1, "image_id": 7, "category_id": 4, "segmentation": SQUARE},
                             {"id": 2, "image_id": 8, "category_id": 3,
                              "segmentation": [[14, 4, 20, 4, 20, 10, 14, 10]]}]}
    (tmp_path / "annotations/more.json").write_text(json.dumps(other))
    report, masks = read(tmp_path, labels={"polyp": "polyp", "scar": "scar"})
    assert (report.layout, problems(report)) == (annotations.COCO, [])
    assert {name: one.sum(axis=(0, 1)).tolist() for name, one in masks.items()} == {
        "a": [36, 36], "b": [36, 0]}
    assert {path.name for path in report.files} == {"instances.json", "more.json", "a.png", "b.png"}
    (tmp_path / "annotations/more.json").write_text(json.dumps(
        {**other, "images": [{"id": 7, "file_name": "gone.png"}]}))
    details = [one.detail for one in read(tmp_path, labels={"polyp": "polyp", "scar": "scar"})[0].problems]
    assert any("1 images that are not there: gone.png" in one for one in details)


@pytest.mark.parametrize(("shape", "says"), [
    (5, "an entry of `shapes` without points: 5"),
    ({"label": "x"}, "an entry of `shapes` without points: {'label': 'x'}"),
    ({"label": "x", "points": [[1, 1], [5, 5], [9, 1]], "shape_type": "rectangle"},
     "a rectangle (x) with 3 points; it needs 2"),
    ({"label": "x", "points": [[1, 1]], "shape_type": "circle"}, "a circle (x) with 1 points; it needs 2"),
    ({"label": "x", "points": [1, 2, 3], "shape_type": "polygon"}, "without points"),
])
def test_shapes_of_labelme_that_are_none_are_one_line(tmp_path, shape, says):
    image(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"version": "5", "shapes": [shape]}))
    report, masks = read(tmp_path)
    assert (problems(report), masks) == ([("a.json", "unreadable")], {})
    assert says in report.problems[0].detail


# ---- volumes

def test_frames_of_dicom_are_pairs(tmp_path):
    frames, label = np.full((3 * SIDE, SIDE), 90, np.uint8), np.zeros((3 * SIDE, SIDE), np.uint8)
    frames[SIDE:2 * SIDE], label[SIDE + 4:SIDE + 10, 4:10] = 120, 1
    for part, values in (("images", frames), ("masks", label)):
        (tmp_path / part).mkdir()
        dicom(tmp_path / part / "a.dcm", values, Rows=SIDE, NumberOfFrames=3)
    report, _ = read(tmp_path, labels={1: "polyp"})
    assert "3 frames; take them with data.slices [0, first, last]" in report.problems[0].detail
    report, masks = read(tmp_path, slices=[0, 1, 1], labels={1: "polyp"})
    assert (list(masks), problems(report)) == (["a_x001"], [])
    assert masks["a_x001"].sum() == 36
    report, masks = read(tmp_path, slices=[0, 2, 1_000_000], labels={1: "polyp"})
    assert "axis 0 has 3 slices, counted from 0" in report.problems[0].detail
    assert masks == {}  # frame 2 has none of it
    assert "axis 0 of data.slices" in read(tmp_path, slices=[2, 1, 1])[0].problems[0].detail


def test_slices_beyond_the_end_are_one_line_however_many(tmp_path):
    volume, label = np.full((SIDE, SIDE, 6), 90, np.uint8), np.zeros((SIDE, SIDE, 6), np.uint8)
    label[4:10, 4:10] = 1
    for part, values in (("images", volume), ("masks", label)):
        (tmp_path / part).mkdir()
        nifti(tmp_path / part / "a.nii.gz", values)
    report, masks = read(tmp_path, slices=[2, 4, 1_000_000], labels={1: "liver"})
    assert list(masks) == ["a_z004", "a_z005"]
    [problem] = report.problems
    assert (problem.problem, problem.detail) == (
        "no such slices", "axis 2 has 6 slices, counted from 0, but data.slices asks for number 1000000")
    (tmp_path / "images/a.nii.gz").write_bytes(b"no volume")
    report, masks = read(tmp_path, slices=[2, 4, 1_000_000], labels={1: "liver"})
    assert (problems(report), masks) == ([("images/a.nii.gz", "unreadable")], {})


def test_slices_of_volumes_are_pairs(tmp_path):
    volume, label = np.full((SIDE, SIDE, 6), 90, np.uint8), np.zeros((SIDE, SIDE, 6), np.uint8)
    label[4:10, 4:10, 2:4] = 1
    for part, values in (("images", volume), ("masks", label)):
        (tmp_path / part).mkdir()
        nifti(tmp_path / part / "a.nii.gz", values)
    report, masks = read(tmp_path)
    assert "take its slices with data.slices" in report.problems[0].detail
    report, masks = read(tmp_path, slices=[2, 1, 3], labels={1: "liver"})
    assert list(masks) == ["a_z002", "a_z003"]
    assert [one.detail for one in report.problems] == ["no pixel is of a class (liver) (slice 1)"]
    report, _ = read(tmp_path, slices=[2, 5, 6], labels={1: "liver"})
    assert "axis 2 has 6" in report.problems[0].detail


# ---- patterns of one's own

def test_patterns_pair_by_what_their_stars_stand_for(tmp_path):
    for name in ("p1/1", "p1/2", "p2/1"):
        image(tmp_path / f"img/{name}.png")
        mask(tmp_path / f"seg/{name}_lesion_1.png")
    mask(tmp_path / "seg/p1/1_lesion_2.png", at=14)
    report, masks = read(tmp_path, images="img/*/*.png", masks="seg/*/*_lesion_**")
    assert (list(masks), problems(report)) == (["p1_1", "p1_2", "p2_1"], [])
    assert masks["p1_1"].sum() == 72
    with pytest.raises(UserError, match=r"'im/\*' matches none of the 7 pictures .*seen: img/p1/ \(2 pict"):
        read(tmp_path, images="im/*", masks="seg/*")


def test_patterns_that_cannot_match_say_why(tmp_path):
    image(tmp_path / "p1.png")
    mask(tmp_path / "p1_mask.png")
    for glob, says in (("[pq]*", r"of patterns are \*, \*\* and \?"), (f"{tmp_path}/*", "are relative"),
                       ("../*", "are relative")):
        with pytest.raises(UserError, match=says):
            read(tmp_path, images=glob, masks="*_mask")
    with pytest.raises(UserError, match="match the same files"):
        read(tmp_path, images="p*", masks="*")


def test_keys_that_are_none_say_what_a_key_may_be(tmp_path):
    image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png", 1)
    for key in ("red", "#f00", "=1", "1-2"):
        report, _ = read(tmp_path, labels={key: "a"})
        [problem] = report.problems
        assert f"{key}: a key that is not a value (1), colour (#ff0000) or condition (>127)" in problem.detail
    picture = Image.open(tmp_path / "masks/a.png").convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "masks/a.png")
    report, _ = read(tmp_path, labels={">127": "a"})
    assert report.problems[0].detail.endswith("the mask has 0 (540), 1 (36), the numbers of its palette")


def test_patterns_that_make_one_name_of_two_pairs_are_told(tmp_path):
    for name in ("p_1/2", "p/1_2", "p/3"):
        image(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"masks/{name}.png")
    report, masks = read(tmp_path, images="images/*/*", masks="masks/*/*")
    assert (len(masks), [one.problem for one in report.problems]) == (2, ["same name twice"])
    assert "both are the pair p_1_2" in report.problems[0].detail


def test_patterns_tell_images_from_masks_in_one_folder(tmp_path):
    image(tmp_path / "a.png")
    mask(tmp_path / "a_mask.png")
    image(tmp_path / "b.jpg")
    _, masks = read(tmp_path, images="*.png", masks="*_mask.png")
    assert list(masks) == ["a"]


# ---- U7: what else is there, and the remedy

REMEDY = re.compile(r"data\.images: '(.+?)' and data\.masks: '(.+?)'")


@pytest.mark.parametrize(("images", "masks"), [
    ("image/{}.png", "gt/{}.png"), ("Images/{}.png", "labels/{}.png"), ("imgs/{}.jpg", "annotations/{}.png"),
    ("images/{}.png", "masks/{}_segmentation.png"), ("images/{}.png", "masks/{}_gt.png"),
    ("images/{}.png", "masks/{}-mask.png"), ("images/{}.png", "masks/{}_Mask.png"),
    ("images/{}.png", "masks/mask_{}.png"), ("images/{}.jpg", "masks/{}.jpg.png"),
    ("images/patient0/{}.png", "masks/patient0/{}.png"), ("images/{}.png", "masks/{}_mask_1.png"),
    ("{}.png", "{}_seg.png"), ("x/{}.webp", "x/{}_label.gif"),
])
def test_of_an_unknown_layout_the_remedy_is_named_and_works(tmp_path, images, masks):
    for name in ("scan7", "scan8", "other"):
        image(tmp_path / images.format(name))
        mask(tmp_path / masks.format(name))
    try:
        report = layouts.scan(tmp_path)
        words = report.problems[0].detail
        assert report.pairs == []
    except UserError as error:
        words = str(error)
        assert "seen: " in words
    remedy = REMEDY.search(words)
    assert remedy, words
    report, read_masks = read(tmp_path, images=remedy[1], masks=remedy[2])
    assert len(read_masks) == 3
    assert problems(report) == []


def test_an_image_with_more_to_its_name_than_the_mask_is_named(tmp_path):
    for number in (1, 2):
        image(tmp_path / f"images/x{number}.jpg.png")
        mask(tmp_path / f"masks/x{number}.png")
    report, _ = read(tmp_path)
    assert "data.images: 'images/*.jpg.png' and data.masks: 'masks/*'" in report.problems[0].detail
    assert list(read(tmp_path, images="images/*.jpg.png", masks="masks/*")[1]) == ["x1", "x2"]


def test_other_remedies(tmp_path):
    for part in ("train", "val"):
        image(tmp_path / f"sets/{part}/images/a.png")
        mask(tmp_path / f"sets/{part}/masks/a.png")
    with pytest.raises(UserError, match=r"holds 2 datasets\. Name one of them: .*sets/train, .*sets/val"):
        layouts.scan(tmp_path / "sets")
    for images, masks, says in (("images/IMG_1.JPG", "masks/img_1.png", "only in upper and lower case"),
                                ("images/0.png", "masks/000.png", "only in leading zeros"),
                                ("images/a.png", "masks/b.png", "No mask has the name of an image: a.png")):
        folder = tmp_path / says.replace(" ", "")[:12].replace(":", "")
        image((folder / images).with_suffix(".jpg")).rename(folder / images)
        mask(folder / masks)
        assert says in layouts.scan(folder).problems[0].detail
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no pictures that can be read; a\.heic is an HEIF picture; save it"):
        layouts.scan(tmp_path / "empty")
    image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png")
    (tmp_path / "images/b.nrrd").write_bytes(b"x")  # D8
    assert problems(layouts.scan(tmp_path))[0] == ("images/b.nrrd", "not read")
