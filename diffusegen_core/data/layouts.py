"""A folder of labelled pairs: how it is laid out, and everything that is wrong with it.

A dataset is a folder with `images/` and `masks/`, paired by stem; the published layouts of HyperKvasir,
Kvasir-SEG, CVC-ClinicDB and PolypGen are recognised as well. Nothing here writes a file.
"""

import hashlib
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.store import files

EXTENSIONS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
FORMATS = ["JPEG", "PNG", "TIFF", "BMP"]
MAX_PIXELS = 64_000_000  # no endoscope makes more; a decompression bomb does
MAX_BYTES = 8 * MAX_PIXELS  # of a file, were it not compressed at all
MAX_NAME = 200  # bytes; a file name may have 255, and those of synthetic pairs are longer than their source's

EMPTY_MASK = "empty mask"  # one of the kinds of problems
SHA256 = re.compile(r"[0-9a-f]{64}")
CENTRES = range(1, 7)
# Layout: (prefix of the names, folder of the images, folder of the masks) for each of its parts.
LAYOUTS: dict[str, list[tuple[str, str, str]]] = {
    "images and masks": [("", "images", "masks")],
    "HyperKvasir": [("", "segmented-images/images", "segmented-images/masks")],
    "Kvasir-SEG": [("", "Kvasir-SEG/images", "Kvasir-SEG/masks")],
    "CVC-ClinicDB (PNG)": [("", "PNG/Original", "PNG/Ground Truth")],
    "CVC-ClinicDB (TIF)": [("", "TIF/Original", "TIF/Ground Truth")],
    "CVC-ClinicDB": [("", "Original", "Ground Truth")],
    # Names repeat over the centres, so each carries its centre.
    "PolypGen": [(f"C{n}_", f"data_C{n}/images_C{n}", f"data_C{n}/masks_C{n}") for n in CENTRES],
    "PolypGen, one centre": [(f"C{n}_", f"images_C{n}", f"masks_C{n}") for n in CENTRES],
}


@dataclass(frozen=True)
class Pair:
    """One image and its mask on disk."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file relative to the dataset's folder, the kind of problem, detail."""

    file: str
    problem: str
    detail: str


@dataclass
class Report:
    """What lies in a dataset's folder. `pairs` are the usable ones, in natural order of their names."""

    folder: Path
    layout: str
    pairs: list[Pair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def add(self, path: Path, problem: str, detail: str) -> None:
        self.problems.append(Problem(self.named(path), problem, detail))

    def named(self, path: Path) -> str:
        """A file as problems name it."""
        return printable(path.relative_to(self.folder).as_posix())

    def table(self) -> pd.DataFrame:
        """Every problem, one a row: file, problem, detail."""
        return pd.DataFrame(self.problems, columns=["file", "problem", "detail"], dtype=str)

    @property
    def text(self) -> str:
        """Every problem as text, for a terminal."""
        return self.brief(len(self.problems))

    def brief(self, rows: int = 40) -> str:
        """The same with at most so many rows, for an error."""
        if not self.problems:
            return f"{self.folder}: {len(self.pairs)} pairs ({self.layout}), no problems."
        table = self.table().head(rows).to_string(index=False, justify="left")
        more = len(self.problems) - rows
        rest = f"\n... and {more} more, which `diffusegen data check` shows." if more > 0 else ""
        return f"{self.folder}: {len(self.pairs)} usable pairs, {len(self.problems)} problems.\n{table}{rest}"

    def hashes(self, known: Mapping[str, Any]) -> dict[str, tuple[int, int, str]]:
        """Size, time (ns) and SHA-256 of every image file, by its relative name.

        Of a file with the size and the time that `known`, which a file told, has for it the hash is taken
        from there. Raises UserError where a file cannot be read: that is no change of the data.
        """
        described = {}
        for path in sorted(self.files):
            name = path.relative_to(self.folder).as_posix()
            try:
                status = path.stat()
                size, time = status.st_size, status.st_mtime_ns
                match known.get(name):
                    case [int(told_size), int(told_time), str(content)] if (
                            (told_size, told_time) == (size, time) and SHA256.fullmatch(content)):
                        pass
                    case _:
                        content = files.remembered_sha256(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
            described[name] = size, time, content
        return described


def identity(hashes: Mapping[str, Sequence[Any]]) -> str:
    """A sha256 over the names and the contents of image files, from `Report.hashes`."""
    total = hashlib.sha256()
    for name in sorted(hashes):
        total.update(os.fsencode(name) + b"\0" + bytes.fromhex(hashes[name][2]))
    return total.hexdigest()


def scan(folder: Path) -> Report:
    """Pair the files of a dataset by name, unopened. Raises UserError where no layout is recognised."""
    try:
        layout, root = _recognise(folder)
        report = Report(folder, layout)
        for prefix, images, masks in LAYOUTS[layout]:
            _pair(report, prefix, pictures(root / images), pictures(root / masks))
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from None
    report.pairs.sort(key=lambda pair: _natural(pair.name))
    return report


def check(folder: Path | str, clusters: int | None = None) -> Report:
    """Find every problem of a dataset in one pass over its files; `clusters` is how many pairs it must hold.

    The kinds: unreadable, missing mask, mask without image, same name twice, unusable name, size mismatch,
    empty mask, mask not two-valued (threshold 127), too few pairs. UserError where there is no dataset.
    """
    report = scan(Path(folder))
    report.pairs = [pair for pair, _, _ in read(report)]
    require(report, clusters or 1, len(report.pairs))
    return report


def require(report: Report, clusters: int, pairs: int) -> None:
    """Add a problem to the report where there are fewer usable pairs than clusters."""
    if pairs < clusters:
        report.problems.append(Problem(".", "too few pairs", f"{pairs} usable, at least {clusters} needed"))


def read(report: Report) -> Iterator[tuple[Pair, Image.Image, Image.Image]]:
    """Decode the scanned pairs: each usable one with its RGB image and its mask (L, 0 or 255).

    The problems of the others are added to the report on the way.
    """
    for pair in tqdm(report.pairs, desc="Reading pairs", unit="pair", leave=False, disable=None):
        image, mask = _decode(report, pair.image), _decode(report, pair.mask)
        if mask is None:
            continue
        grey = np.asarray(mask).max(axis=2)  # so that white, red and green on black are all polyp
        complaints = _complaints(image, grey)
        for problem, detail in complaints:
            report.add(pair.mask, problem, detail)
        if image is not None and not complaints:
            yield pair, image, Image.fromarray(np.where(grey > 127, np.uint8(255), np.uint8(0)))


def _complaints(image: Image.Image | None, grey: np.ndarray) -> list[tuple[str, str]]:
    """What is wrong with a mask (H, W), 0 to 255: the kind of problem, and detail."""
    complaints = []
    if image is not None and image.size != grey.shape[::-1]:
        sizes = f"mask {grey.shape[1]}x{grey.shape[0]}, image {image.width}x{image.height}"
        complaints.append(("size mismatch", sizes))
    if grey.max() <= 127:
        complaints.append((EMPTY_MASK, f"the brightest value is {grey.max()}, and polyp is above 127"))
    elif grey.min() > 127:
        complaints.append(("mask not two-valued", f"all polyp: the darkest value is {grey.min()}"))
    return complaints


def opened(path: Path) -> Image.Image:
    """A picture of one's own, as `rgb`; UserError where it cannot be read."""
    try:
        return rgb(path)
    except Exception as error:  # as in _decode
        raise UserError(printable(f"{path} cannot be read: {_reason(error, path)}.")) from None


def _decode(report: Report, path: Path) -> Image.Image | None:
    try:
        return rgb(path)
    except Exception as error:  # Decoders fail in many ways; a file that makes one fail is unreadable.
        report.add(path, "unreadable", printable(_reason(error, path)))
        return None


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).replace(str(path), "it").split()) or type(error).__name__


def rgb(path: Path) -> Image.Image:
    """The whole picture as 8-bit RGB, turned as its EXIF tag says, transparency over black."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata, and about size, which is judged below
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 10**6} million bytes")
        try:
            file = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError:
            if path.suffix.lower() not in (".tif", ".tiff"):
                raise ValueError("not a JPEG, PNG, TIFF or BMP image") from None
            return _malformed_tiff(path)
        with file:
            _refuse_bomb(*file.size)
            file.load()
            picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(np.asarray(picture))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    return picture.convert("RGB")


def _eight_bits(values: np.ndarray) -> Image.Image:
    # Deep greys come as 0..65535, sometimes as 0..255 in a wide type, and as 0..1 in floating point.
    values = np.nan_to_num(values)
    largest = values.max()
    full = 1.0 if values.dtype.kind == "f" and largest <= 1 else 255.0 if largest <= 255 else 65535.0
    return Image.fromarray(np.round(np.clip(values / full, 0, 1) * 255).astype(np.uint8))


def _malformed_tiff(path: Path) -> Image.Image:
    """CVC-ClinicDB's TIFs have headers that Pillow refuses and OpenCV reads."""
    data = path.read_bytes()
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    with path.open("rb") as f:
        f.seek(directory.next)
        directory.load(f)
    _refuse_bomb(directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH])
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it complains of each header
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise ValueError("neither Pillow nor OpenCV can decode it")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")


def _recognise(folder: Path) -> tuple[str, Path]:
    """The layout's name and the folder where it starts: the given one, or its only subfolder that has one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder, so there are no pairs to read.")
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for candidates in ([folder], inner):
        hits = [(layout, root) for root in candidates for layout in _matching(root)[:1]]
        if len(hits) == 1:
            return hits[0]
    looked = "; ".join(f"{parts[0][1]} with {parts[0][2]} ({layout})" for layout, parts in LAYOUTS.items())
    raise UserError(f"{folder} is not laid out as a dataset. Looked in it, and in its subfolders, for: "
                    f"{looked}.")


def _matching(root: Path) -> list[str]:
    return [layout for layout, parts in LAYOUTS.items()
            if any((root / images).is_dir() and (root / masks).is_dir() for _, images, masks in parts)]


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, less hidden ones: archives from a Mac hold `._NAME.jpg` beside it."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file())


def _pair(report: Report, prefix: str, images: list[Path], masks: list[Path]) -> None:
    """Add the pairs among these files to the report, and a problem for every file that is in none."""
    report.files += images + masks
    image_of = _by_name(report, images, {path.stem: path.stem for path in images})
    mask_of = _by_name(report, masks, {path.stem: _image_stem(path.stem, image_of) for path in masks})
    for stem, paths in image_of.items():
        if len(paths) == 1 and stem not in mask_of:
            report.add(paths[0], "missing mask", "no mask has its name")
    for stem, paths in mask_of.items():
        if stem not in image_of:
            for path in paths:
                report.add(path, "mask without image", "no image has its name")
        elif len(paths) == 1 and len(image_of[stem]) == 1:
            report.pairs.append(Pair(prefix + stem, image_of[stem][0], paths[0]))


def _by_name(report: Report, paths: list[Path], names: dict[str, str]) -> dict[str, list[Path]]:
    """The files under the name that pairs them; unusable names and files that share one are problems."""
    by_name = defaultdict(list)
    for path in paths:
        if why := unusable(path.name):
            report.add(path, "unusable name", why)
        else:
            by_name[names[path.stem]].append(path)
    for same in by_name.values():
        for path in same[1:]:
            report.add(path, "same name twice", f"as {same[0].name}")
    return by_name


def unusable(name: str) -> str | None:
    """Why a file's name cannot be that of a pair; None where it can."""
    if printable(name) != name:
        return "control characters, or bytes that are no text"
    if "\\" in name:
        return "a backslash, which ends a folder's name on some systems"
    size = len(os.fsencode(name))
    return f"{size} bytes, and at most {MAX_NAME} leave room for the names of synthetic pairs" \
        if size > MAX_NAME else None


def _image_stem(mask: str, images: dict[str, list[Path]]) -> str:
    # NAME, NAME_mask, and SinGAN-Seg's NAME_mask for NAME_img.
    base = mask.removesuffix("_mask")
    return next((stem for stem in (mask, base, f"{base}_img") if stem in images), base)


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))], name
