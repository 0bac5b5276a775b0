"""Outlines that annotation tools store as JSON (COCO, LabelMe), and the classes in nnU-Net's dataset.json."""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from diffusegen_core.config.errors import UserError, printable, some
from diffusegen_core.data import cocoregions, pairing, rasters
from diffusegen_core.data.labels import UNMAPPED, Complaint, Rule
from diffusegen_core.data.pixels import refuse_bomb
from diffusegen_core.data.reports import Pair, Report, Shape

COCO, LABELME = "COCO", "LabelMe"
NNUNET = "dataset.json"
UNREADABLE = "unreadable"
MAX_JSON = 1 << 28  # bytes of a file
COCO_KEYS = {"images", "annotations", "categories"}


def coco_files(root: Path) -> list[Path]:
    """The COCO files of a folder, in it or in its `annotations`."""
    places = [path for folder in (root, root / "annotations") if folder.is_dir()
              for path in sorted(folder.glob("*.json")) if path.is_file()]
    return [path for path in places if COCO_KEYS.issubset(_opened(path))]


def is_labelme(root: Path) -> bool:
    """Whether a picture of the folder, or of its `images`, has a LabelMe file beside it."""
    return any(_is_labelme(path) for path in _beside(root))


class _Outlined(NamedTuple):
    """An image of a COCO file."""

    number: Any
    name: str
    size: tuple[int, int] | None
    shapes: list[Shape]
    wrong: list[str]
    """What is wrong with its outlines, in words."""


def scan_coco(report: Report, root: Path, files: Sequence[Path]) -> None:
    """Add the images of COCO files with their outlines. Where several files list an image, its outlines are
    merged, as are classes of the same name. UserError where a file is not a valid COCO file."""
    known: dict[Path, list[tuple[Path, _Outlined]]] = defaultdict(list)
    for file in files:
        report.files.append(file)
        images, stray = _coco(report, file, len(files) > 1)
        absent = []
        for one in images:
            path = _placed(root, file, one.name)
            if path is None:
                absent.append(printable(one.name))
            elif why := pairing.unusable(path.name):
                report.add(path, "unusable name", why)
            else:
                known[path].append((file, one))
        if absent:
            report.add(file, "absent images",
                       f"it names {len(absent)} images that are not there: {some(absent)}")
        if stray:
            report.add(file, "absent images", f"{stray} outlined images are not in its list of images")
    for path, told in known.items():
        report.files.append(path)
        _add_coco(report, path, told)
    pairing.refuse_same_names(report)


def _add_coco(report: Report, path: Path, told: Sequence[tuple[Path, _Outlined]]) -> None:
    """Add the pair of an image, or its problem."""
    sizes = {one.size for _, one in told if one.size}
    if wrong := [words for _, one in told for words in one.wrong]:
        report.add(path, UNREADABLE, printable(some(wrong)))
    elif len(sizes) > 1:
        report.add(path, "size mismatch", "the COCO files give different sizes: " + " and ".join(
            f"{width}x{height}" for width, height in sorted(sizes)))
    else:
        report.pairs.append(Pair(rasters.stem(path), path, told[0][0], outlined_on=next(iter(sizes), None),
                                 shapes=tuple(shape for _, one in told for shape in one.shapes)))


def _coco(report: Report, file: Path, several: bool) -> tuple[list[_Outlined], int]:
    """The images of a file, and the number of outlined images that it does not list. Adds its classes to the
    report, under their own numbers or, if there are `several` files, under new ones."""
    content = _opened(file)
    try:
        numbers = {}
        for one in content["categories"]:
            told = report.told.setdefault(str(one["name"]), [len(report.told) + 1 if several
                                                             else int(one["id"])])
            numbers[int(one["id"])] = told[0]
        outlined: dict[Any, list[Shape]] = defaultdict(list)
        wrong: dict[Any, list[str]] = defaultdict(list)
        for one in content["annotations"]:
            number = one["image_id"]
            try:
                outlined[number].append(_coco_shape(one, numbers))
            except KeyError as error:
                wrong[number].append(f"annotation {one.get('id')} has no {error.args[0]}")
            except (TypeError, ValueError) as error:
                wrong[number].append(f"annotation {one.get('id')}: {error}")
        return [_Outlined(one["id"], str(one["file_name"]), _size(one, "width", "height"),
                          outlined.pop(one["id"], []), wrong.pop(one["id"], []))
                for one in content["images"]], len({*outlined, *wrong})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(printable(f"{file} is not a valid COCO file: {error!r} in one of its entries.")) \
            from None


def scan_labelme(report: Report, root: Path) -> None:
    """Add the pictures that have a LabelMe file beside them; one without is a problem."""
    contents = {}
    for path in pairing.pictures(root) or pairing.pictures(root / "images"):
        file = path.with_suffix(".json")
        report.files.append(path)
        if not _is_labelme(file):
            report.add(path, "missing mask", f"there is no LabelMe file beside it, {printable(file.name)}")
            continue
        report.files.append(file)
        contents[path] = file, _opened(file)
    names = sorted({_label(one) for _, told in contents.values() for one in told["shapes"]})
    report.told = {name: [number] for number, name in enumerate(names, 1)}
    for path, (file, told) in contents.items():
        try:
            outlines = tuple(_labelme_shape(one, report.told) for one in told["shapes"])
        except (ValueError, KeyError, TypeError) as error:
            report.add(file, UNREADABLE, printable(str(error)))
            continue
        report.pairs.append(Pair(rasters.stem(path), path, file, shapes=outlines,
                                 outlined_on=_size(told, "imageWidth", "imageHeight")))
    pairing.refuse_same_names(report)


def nnunet_classes(root: Path) -> dict[str, list[int]]:
    """The values of each class in nnU-Net's dataset.json, without background; {} where there is no such file.

    UserError where its `labels` are not in nnU-Net's form.
    """
    file = root / NNUNET
    if not file.is_file():
        return {}
    told = _opened(file).get("labels", {})
    try:
        pairs = [(name, value) for name, value in told.items()]
        if all(str(name).isdigit() for name, _ in pairs):  # nnU-Net 1 maps values to names
            pairs = [(str(value), int(name)) for name, value in pairs]
        classes = {str(name): [int(one) for one in (value if isinstance(value, list) else [value])]
                   for name, value in pairs if name != "background"}
        return {name: values for name, values in classes.items() if values != [0]}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{file}: its `labels` are not in nnU-Net's form, such as "
                        '{"background": 0, "lesion": 1}.') from None


def rasterised(shapes: Sequence[Shape], how: Rule, size: tuple[int, int],
               layout: str) -> tuple[np.ndarray, list[Complaint]]:
    """The mask (H, W, M) in {0, 1} of outlined regions at `size` (width, height), drawn as the tools of their
    layout draw them. Raises ValueError for a region that does not fit."""
    width, height = size
    mask = np.zeros((height, width, len(how.classes)), np.uint8)
    unmapped = sorted({how.called.get(one.category, one.category) for one in shapes
                       if one.category not in how.keys})
    for one in shapes:
        for place in how.keys.get(one.category, ()):
            mask[..., place] |= _region(one, width, height, layout)
    complaints = [(UNMAPPED, f"outlines of class {', '.join(unmapped)}, which data.labels does not name")]
    return mask, complaints if unmapped else []


def _region(shape: Shape, width: int, height: int, layout: str) -> np.ndarray:
    if shape.runs is not None:
        return cocoregions.of_runs(shape.runs, width, height)
    if layout == COCO:
        return cocoregions.of_polygons(shape.polygons, width, height)
    if shape.patch is not None:
        left, top, patch = shape.patch
        whole = np.zeros((height, width), np.uint8)
        if min(left, top) < 0 or left + patch.shape[1] > width or top + patch.shape[0] > height:
            raise ValueError(f"a LabelMe mask reaches beyond the image, {width}x{height}")
        whole[top:top + patch.shape[0], left:left + patch.shape[1]] = patch
        return whole
    picture = Image.new("L", (width, height))
    pencil = ImageDraw.Draw(picture)
    for corners in shape.polygons:
        pencil.polygon(corners, fill=1, outline=1)
    return np.asarray(picture)


def _coco_shape(one: dict[str, Any], numbers: Mapping[int, int]) -> Shape:
    own = int(one["category_id"])
    category, outline = str(numbers.get(own, own)), one["segmentation"]
    if isinstance(outline, dict):
        return Shape(category, runs=outline)
    if not outline:
        raise ValueError("an annotation with a box but no outline; outline it, or delete it")
    return Shape(category, tuple(_corners(part) for part in outline))


def _label(one: Any) -> str:
    return str(one.get("label")) if isinstance(one, dict) else ""


def _labelme_shape(one: dict[str, Any], told: dict[str, list[int]]) -> Shape:
    points = one.get("points") if isinstance(one, dict) else None
    if not isinstance(points, list) or any(not isinstance(at, list) or len(at) != 2 for at in points):
        raise ValueError(f"an entry of `shapes` without points: {str(one)[:60]}")
    category = str(told[_label(one)][0])
    if one.get("shape_type") in ("rectangle", "circle") and len(points) != 2:
        raise ValueError(f"a {one['shape_type']} ({_label(one)}) with {len(points)} points; it needs 2")
    kind = one.get("shape_type", "polygon")
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius, angles = np.hypot(edge_x - x, edge_y - y), np.linspace(0, 2 * np.pi, 90, endpoint=False)
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).tolist()
    elif kind == "mask":
        return Shape(category, patch=_patch(points, one.get("mask")))
    elif kind in ("line", "linestrip", "point", "points"):
        raise ValueError(f"a LabelMe {kind} ({printable(str(one.get('label')))}) has no area: outline "
                         "it as a polygon, or delete it")
    elif kind != "polygon":
        raise ValueError(f"a LabelMe shape of type {printable(str(kind))}; only polygon, rectangle, circle "
                         "and mask are read")
    return Shape(category, (_corners([number for point in points for number in point]),))


def _patch(points: Any, picture: Any) -> tuple[int, int, np.ndarray]:
    """LabelMe's mask of a box: left, top and (H, W) in {0, 1}."""
    (left, top), _ = points
    try:
        with Image.open(io.BytesIO(base64.b64decode(picture, validate=True)), formats=["PNG"]) as png:
            refuse_bomb(*png.size)
            return round(left), round(top), (np.asarray(png.convert("L")) > 0).astype(np.uint8)
    except (OSError, TypeError, ValueError):
        raise ValueError("a LabelMe mask whose picture cannot be decoded") from None


def _size(told: Mapping[str, Any], *names: str) -> tuple[int, int] | None:
    """Width and height of the picture that was outlined; None where the file does not say."""
    width, height = (told.get(name) for name in names)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _corners(numbers: Iterable[Any]) -> tuple[float, ...]:
    corners = tuple(float(number) for number in numbers)
    if len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError("a polygon needs three corners or more")
    return corners


def _opened(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; {} for other JSON. UserError where the file is too large or damaged."""
    status = path.stat()
    if status.st_size > MAX_JSON:
        raise UserError(f"{path} has more than {MAX_JSON >> 20} MiB.")
    return parsed(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def parsed(path: Path, _size: int, _time_ns: int) -> dict[str, Any]:
    """The same, parsed once per scan, as large files take seconds; callers must not change the result."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(printable(f"{path} is damaged JSON: {str(error)[:100]}")) from None
    return content if isinstance(content, dict) else {}


def _is_labelme(path: Path) -> bool:
    return path.is_file() and isinstance(_opened(path).get("shapes"), list)


def _beside(root: Path) -> list[Path]:
    paths = pairing.pictures(root) or pairing.pictures(root / "images")
    return [path.with_suffix(".json") for path in paths]


def _placed(root: Path, file: Path, name: str) -> Path | None:
    """The path of an image that a COCO file names: in the root, `images`, the file's folder, or its split."""
    split = file.stem.split("_")[-1]
    for folder in (root, root / "images", file.parent, root / split, root / "images" / split):
        path = folder / name
        inside = root.resolve() in path.resolve().parents
        if inside and path.is_file():
            return path
    return None
