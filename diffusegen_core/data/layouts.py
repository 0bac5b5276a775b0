"""Layouts of folders of labelled pairs: published ones by name, others by the user's own patterns.

A dataset is a folder with `images/` and `masks/`, paired by stem. Published layouts are recognised as they
are; others are described by data.images and data.masks. Nothing here opens a picture or writes.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import plain
from diffusegen_core.data import advice, annotations, pairing
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.reports import Report

PLAIN = Data(fit="squeeze")  # how RGB images with one class from outside the run are read: as the paper's
READ_BY = ("images", "masks", "fit", "channels", "intensities", "slices", "labels", "overlap", "object")
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


class UnknownLayoutError(UserError):
    """A folder is laid out in no known way."""


@dataclass(frozen=True)
class Pattern:
    """A layout that is recognised by file names, without endings; what the groups match pairs the files."""

    images: str
    masks: str
    stacked: bool = False
    """Whether an image may have several files, each a channel."""
    condition: str | None = None
    """The condition for lesion in a mask, where it is not white on black."""


PATTERNS: dict[str, Pattern] = {
    "nnU-Net": Pattern(r"imagesTr/(.+)_\d{4}", r"labelsTr/(.+)", stacked=True),
    "ISIC": Pattern(r"(?:[^/]*(?:Input|Data)/)?(ISIC_\d+)",
                    r"(?:[^/]*Ground_?Truth/)?(ISIC_\d+)_[Ss]egmentation"),
    "BUSI": Pattern(r"(?:(?:benign|malignant|normal)/)?((?:benign|malignant|normal) ?\(\d+\))",
                    r"(?:(?:benign|malignant|normal)/)?((?:benign|malignant|normal) ?\(\d+\))_mask(?:_\d+)?"),
    "Montgomery": Pattern(r"CXR_png/(MCUCXR_\d+_\d)", r"ManualMask/(?:left|right)Mask/(MCUCXR_\d+_\d)"),
    # Copies of this dataset contain Montgomery's pictures as well.
    "Shenzhen": Pattern(r"CXR_png/((?:CHN|MCU)CXR_\d+_\d)", r"masks?/((?:CHN|MCU)CXR_\d+_\d)(?:_mask)?"),
    "DRIVE": Pattern(r"(?:(?:training|test)/)?images/(\d\d)_(?:training|test)",
                     r"(?:(?:training|test)/)?1st_manual/(\d\d)_manual1"),
    # Its masks number the glands.
    "GlaS": Pattern(r"((?:train|testA|testB)_\d+)", r"((?:train|testA|testB)_\d+)_anno", condition=">0"),
}


def scan(folder: Path, settings: Data | None = None) -> Report:
    """Pair the files of a dataset by name, unopened: by the settings' patterns, or by the folder's layout."""
    settings = settings or Data()
    try:
        report = _scanned(folder, settings)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from None
    finally:
        annotations.parsed.cache_clear()
    report.pairs.sort(key=lambda pair: pairing.natural(pair.name))
    pairing.unmixed(report)
    if settings.slices:
        pairing.sliced(report, settings.slices)
    return report


def only_patterns(folder: Path) -> dict[str, str]:
    """The data.images and data.masks that make every picture of a folder without a known layout an image or a
    mask; {} where the layout is known, or pictures would be left over."""
    if not folder.is_dir():
        return {}
    try:
        scan(folder)
    except UnknownLayoutError:
        count, images, masks = advice.patterns(folder)
        if count:
            report = scan(folder, Data(images=images, masks=masks))
            if not report.problems and not report.ignored:
                return {"images": images, "masks": masks}
    return {}


def for_folder(settings: Data, folder: Path) -> Data:
    """The settings for a folder other than data.source: its own layout where it has one, instead of the
    patterns of data.source."""
    plain = settings.model_copy(update={"images": None, "masks": None})
    if settings.images is not None:
        with contextlib.suppress(UserError):
            return plain if scan(folder, plain).pairs else settings
    return settings


def of_others(settings: Data, folder: Path) -> Data:
    """The settings for reading what others made for a run with these `settings`: with the run's fit,
    intensities, channels and classes. If these are RGB and one class, masks are white above 127, unless
    data.labels says otherwise."""
    if is_plain(settings):
        return PLAIN.model_copy(update={"fit": settings.fit, "intensities": settings.intensities})
    return for_folder(settings, folder).model_copy(update={"min_area": None})


def is_plain(settings: Data) -> bool:
    """Whether images are RGB with one class, and data.labels is not set."""
    return Planes.of(settings) == Planes() and not settings.labels


def told_of(how: Data) -> dict[str, Any]:
    """The entry of a recipe for settings from `of_others`; {} for PLAIN."""
    usual = plain(PLAIN)
    return {} if how == PLAIN else {"read": {
        name: value for name, value in plain(how).items()
        if name in READ_BY and value != usual[name]}}


def _scanned(folder: Path, settings: Data) -> Report:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder, so there are no pairs to read.")
    if settings.images and settings.masks:
        return _by_globs(folder, settings.images, settings.masks)
    layout, root = _recognise(folder)
    report = Report(folder, layout)
    if layout == annotations.COCO:
        annotations.scan_coco(report, root, annotations.coco_files(root))
        report.ignored = sorted(set(pairing.below(root)).difference(report.files))
    elif layout == annotations.LABELME:
        annotations.scan_labelme(report, root)
    elif layout in PATTERNS:
        _by_pattern(report, root, PATTERNS[layout])
        if layout == "nnU-Net":
            report.told = annotations.nnunet_classes(root)
            report.files += [file for file in [root / annotations.NNUNET] if file.is_file()]
    else:
        for prefix, images, masks in LAYOUTS[layout]:
            pairing.by_stem(report, prefix, pairing.pictures(root / images), pairing.pictures(root / masks))
            for part in (images, masks):
                pairing.note_unread(report, root / part)
        unpaired = {problem.problem for problem in report.problems} <= pairing.UNPAIRED
        if not report.pairs and unpaired and (hint := advice.hint(folder)):
            report.problems.insert(0, advice.problem(hint))
    return report


def _by_globs(folder: Path, images: str, masks: str) -> Report:
    report, paths = Report(folder, "data.images and data.masks"), pairing.below(folder)
    chosen = [pairing.globbed(glob, folder, paths) for glob in (images, masks)]
    for name, glob, some in zip(("images", "masks"), (images, masks), chosen, strict=True):
        if not some:
            raise UserError(f"data.{name}: {glob!r} matches none of the {len(paths)} pictures below {folder}"
                            f"{advice.of_glob(glob)}{advice.seen(folder, paths)}.")
    if not {path for _, path in chosen[0]} - {path for _, path in chosen[1]}:
        raise UserError(f"data.images {images!r} and data.masks {masks!r} match the same files, but a mask "
                        "cannot also be an image; tell them apart by a folder or a part of the name.")
    pairing.by_pattern(report, "", chosen[0], chosen[1])
    report.ignored = sorted(set(paths).difference(report.files))
    return report


def _by_pattern(report: Report, root: Path, pattern: Pattern) -> None:
    paths = pairing.below(root)
    images, masks = (list(pairing.matched(re.compile(one), root, paths))
                     for one in (pattern.images, pattern.masks))
    pairing.by_pattern(report, "", images, masks, pattern.stacked)
    pairing.note_unread(report, root, deep=True)
    report.condition = pattern.condition
    report.ignored = sorted(set(paths).difference(report.files))


def _recognise(folder: Path) -> tuple[str, Path]:
    """The layout's name and the folder where it starts: the given one, or its only subfolder that has one."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for look in (_matching, _named, _outlined):
        for candidates in ([folder], inner):
            hits = [(layout, root) for root in candidates for layout in look(root)[:1]]
            if len(hits) == 1:
                return hits[0]
            if hits:
                raise UserError(advice.several(folder, [root for _, root in hits]))
    raise UnknownLayoutError(advice.unknown(folder))


def _matching(root: Path) -> list[str]:
    return [layout for layout, parts in LAYOUTS.items()
            if any((root / images).is_dir() and (root / masks).is_dir() for _, images, masks in parts)]


def _named(root: Path) -> list[str]:
    """The layouts in PATTERNS of which at least one pair is there."""
    paths, layouts = pairing.below(root), []
    for layout, pattern in PATTERNS.items():
        masks = {key for key, _ in pairing.matched(re.compile(pattern.masks), root, paths)}
        images = pairing.matched(re.compile(pattern.images), root, paths) if masks else ()
        if any(key in masks for key, _ in images):
            layouts.append(layout)
    return layouts


def _outlined(root: Path) -> list[str]:
    """COCO or LabelMe, where the root has files of such outlines; else []."""
    return [annotations.COCO] if annotations.coco_files(root) else \
        [annotations.LABELME] if annotations.is_labelme(root) else []
