"""Reading the pixels of pairs: images as uint8, masks with a channel per class; problems are reported."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, printable, some
from diffusegen_core.data import annotations, fits, intensities, labels, maskvalues, placing, rasters
from diffusegen_core.data.annotations import UNREADABLE
from diffusegen_core.data.labels import Complaint, Rule
from diffusegen_core.data.pairing import CHANNELS
from diffusegen_core.data.pixels import Raster, oriented, span
from diffusegen_core.data.placing import SIDEWAYS, TURNED, UPRIGHT
from diffusegen_core.data.reports import Pair, Problem, Report

# Kinds of problems, beside those of `labels`.
SIZES, DEPTH, SMALL = "size mismatch", "intensities", "small region"
CROPPED, SAME = "cropped away", "image is its mask"


@dataclass(frozen=True)
class Look:
    """What was read of one pair, for the caller's `watch`."""

    pair: Pair
    image: Raster | None
    mask: Raster | None
    """The first file of the mask; None where it is outlined, or cannot be read."""
    pixels: np.ndarray | None
    """(H, W, C) uint8."""
    classes: np.ndarray | None
    """(H, W, M) in {0, 1}; None where image or mask cannot be read."""


@dataclass
class _Seen:
    """The values of a set, to be checked at its end."""

    low: float = math.inf
    high: float = -math.inf
    full: tuple[float, float] | None = None
    spans: list[tuple[float, float]] = field(default_factory=list)
    """The lowest and highest value of each deep file."""
    floats: dict[bool, str] = field(default_factory=dict)
    """Whether all values of a float file lie from 0 to 1 -> the last file for which that is so."""
    fulls: set[tuple[float, float]] = field(default_factory=set)
    """The full ranges that grey DICOM files give; values mean the same in all of these."""


def read(report: Report, settings: Data, watch: Callable[[Look], None] | None = None,
         held_out: Collection[str] = ()) -> Iterator[tuple[Pair, np.ndarray, np.ndarray]]:
    """Decode the scanned pairs: each usable one with its image (H, W, C) uint8 and mask (H, W, M) in {0, 1}.

    The problems of the others are added to the report on the way, those of the whole set at the end. `watch`
    is called for every pair; percentiles of intensities are of pairs that are not `held_out`. Raises
    UserError where the settings do not fit what the data say about their classes.
    """
    try:
        how = replace(labels.rule(settings, report.told, report.condition), called={
            str(value): name for name, values in report.told.items() for value in values})
    except ValueError as error:
        raise UserError(f"{report.folder} {error}.") from None
    scale, seen = _rule(report, settings, held_out), _Seen()
    report.scale = scale
    for pair in tqdm(report.pairs, desc="Reading pairs", unit="pair", leave=False, disable=None):
        shown = [_decode(report, path, pair.cut) for path in pair.images]
        label, mask, complaints = _mask(report, pair, how, shown[0])
        pixels = _image(report, pair, shown, scale, settings.channels, seen)
        if watch:
            watch(Look(pair, shown[0], label, pixels, mask))
        if mask is not None:
            complaints += _complaints(pixels, mask, settings)
            if label is None or not how.is_default:  # else `labels` reports empty masks
                is_told = any(one in (labels.UNMAPPED, labels.COLOURS) for one, _ in complaints)
                complaints += [] if is_told else _nothing(mask, how, label)
        if _same(shown[0], label):
            complaints.append((SAME, "image and mask are one picture"))
        for problem, detail in complaints:
            report.add(pair.mask, problem, _of_slice(pair, detail), pair.name)
        if pixels is not None and mask is not None and not complaints:
            yield pair, pixels, mask
    if scale == "full":
        faults = _unused(seen) or _mixed(seen), _unlike(seen)
        report.problems += [Problem(".", DEPTH, wrong) for wrong in faults if wrong]


def _rule(report: Report, settings: Data, held_out: Collection[str]) -> str | tuple[float, float]:
    def images() -> Iterator[Raster]:
        for pair in [pair for pair in report.pairs if pair.name not in held_out]:
            for path in pair.images:
                try:
                    yield rasters.read(path, pair.cut)
                except Exception:  # reported when the pairs are read
                    continue
    try:
        return intensities.of_set(settings, images())
    except ValueError as error:
        raise UserError(f"Parameters: {error}.") from None


def _decode(report: Report, path: Path, cut: tuple[int, int] | None) -> Raster | None:
    try:
        return rasters.read(path, cut)
    except Exception as error:  # Decoders fail in many ways; a file that makes one fail is unreadable.
        report.add(path, UNREADABLE, printable(rasters.reason(error, path)))
        return None


def _image(report: Report, pair: Pair, shown: list[Raster | None], scale: str | tuple[float, float],
           channels: int, seen: _Seen) -> np.ndarray | None:
    """The pixels of a pair's image, or None with a problem in the report."""
    parts: list[np.ndarray] = []
    for path, raster in zip(pair.images, shown, strict=True):
        if raster is None:
            return None
        if raster.values.dtype.kind == "f" and raster.format != "DICOM":
            seen.floats[raster.full is not None] = report.named(path)
        try:
            parts.append(intensities.to_bytes(raster, scale))
        except ValueError as error:
            report.add(path, DEPTH, _of_slice(pair, str(error)))
            return None
        _note(seen, raster)
    if len({part.shape[:2] for part in parts}) > 1:
        report.add(pair.image, SIZES, "the files of its channels differ in size")
        return None
    has = sum(part.shape[2] for part in parts)
    # Channels of several files are no colours, whatever their number.
    pixels = with_channels(parts[0], channels) if len(parts) == 1 else (
        np.concatenate(parts, axis=2) if has == channels else None)
    if pixels is None:
        report.add(pair.image, CHANNELS, f"{has} channels, but data.channels is {channels}")
    return pixels


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray | None:
    """An image (H, W, C) uint8 with so many `channels`: grey repeated, colours as luminance; else None."""
    match pixels.shape[2], channels:
        case has, wanted if has == wanted:
            return pixels
        case 1, 3:
            return pixels.repeat(3, axis=2)
        case 3, 1:
            return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    return None


def _mask(report: Report, pair: Pair, how: Rule, image: Raster | None,
          ) -> tuple[Raster | None, np.ndarray | None, list[Complaint]]:
    """The first file of a mask, the mask itself (None where it cannot be read), and what is wrong with it."""
    if pair.shapes is not None:
        if image is None:
            return None, None, []
        try:
            mask, complaints = _mask_of_shapes(report.layout, pair, how, image)
        except ValueError as error:
            report.add(pair.mask, UNREADABLE, f"{pair.name}: {printable(str(error))}")
            return None, None, []
        return None, mask, complaints
    files = [_decode(report, path, pair.cut) for path in pair.masks]
    upright = [placing.upright(one, image) for one in files if one is not None]
    if len(upright) < len(files):
        return None, None, []
    complaints = [one for _, words in upright for one in words]
    complaints += [one for label, _ in upright for one in placing.complaints(label, image)]
    if len({one.size for one, _ in upright}) > 1:
        return upright[0][0], None, [*complaints, (SIZES, "the masks of the image differ in size")]
    mask, wrong = _joined(report, pair, how, [one for one, _ in upright])
    return upright[0][0], mask, complaints + wrong


def _mask_of_shapes(layout: str, pair: Pair, how: Rule,
                    image: Raster) -> tuple[np.ndarray | None, list[Complaint]]:
    """The mask of an outlined pair; None where outlines do not fit, or which way up they are is unclear.

    LabelMe outlines what it shows, turned by the EXIF tag. Some of COCO's tools do so too, and the size that
    they note decides.
    """
    shown, stored = image.size, image.size[::-1] if image.orientation in SIDEWAYS else image.size
    told = pair.outlined_on
    if told not in (None, shown, stored):
        return None, [(SIZES, f"{pair.name}: outlines of a picture of {told[0]}x{told[1]}, image {shown[0]}x"
                              f"{shown[1]}")]
    is_told = told is not None and shown != stored
    of_patient = image.directions is not None  # whose outlines lie on the pixels as stored
    if image.orientation != UPRIGHT and not is_told and not of_patient and layout == annotations.COCO:
        return None, [(TURNED, f"{pair.name}: the image is turned by its EXIF tag ({image.orientation}), and "
                               "the COCO file does not say whether its outlines are too; save the image "
                               "without the tag, turned as it was outlined")]
    if how.is_default:
        how = Rule(how.classes, "value", {one.category: (0,) for one in pair.shapes or ()})
    as_stored = told == stored if is_told else of_patient
    mask, complaints = annotations.rasterised(pair.shapes or (), how, stored if as_stored else shown, layout)
    mask = oriented(mask, image.orientation) if as_stored else mask
    return mask, complaints + labels.overlapping(mask, how)


def _joined(report: Report, pair: Pair, how: Rule,
            files: list[Raster]) -> tuple[np.ndarray, list[Complaint]]:
    """One mask from its files: each a class by its name, or all of them together."""
    mask = np.zeros((*files[0].values.shape[:2], len(how.classes)), np.uint8)
    complaints: list[Complaint] = []
    for path, raster in zip(pair.masks, files, strict=True):
        if how.kind == "name":
            try:
                places = labels.of_name(how, path.relative_to(report.folder))
            except KeyError:
                complaints.append((labels.UNMAPPED, f"{report.named(path)} matches no key of data.labels, by "
                                   f"its ending or its folder; {', '.join(how.keys)}: a key that is not a "
                                   "value (1), colour (#ff0000) or condition (>127) is taken as such an "
                                   "ending"))
                continue
            layer, words = labels.binary(raster)
            for place in places:
                mask[..., place] |= layer
        else:
            part, words = labels.read(how, raster)
            mask |= part
        complaints += words
    if how.kind == "name" or len(files) > 1:
        complaints += labels.overlapping(mask, how)
    return mask, complaints


def _complaints(pixels: np.ndarray | None, mask: np.ndarray, settings: Data) -> list[Complaint]:
    """What is wrong with a mask apart from its values."""
    complaints = []
    if pixels is not None and pixels.shape[:2] != mask.shape[:2]:
        complaints.append((SIZES, f"mask {mask.shape[1]}x{mask.shape[0]}, image {pixels.shape[1]}x"
                                  f"{pixels.shape[0]}"))
    union = mask.any(axis=2)
    if settings.fit == "crop" and union.any() and not fits.squared(mask, "crop").any():
        complaints.append((CROPPED, "the middle square holds nothing of it; set data.fit: pad"))
    if settings.min_area and union.any():
        least = settings.min_area * (union.size if settings.min_area < 1 else 1)
        if (smallest := min(areas(mask))[0]) < least:
            complaints.append((SMALL, f"a region of {smallest} pixels, but data.min_area is {least:g}"))
    return complaints


def _nothing(mask: np.ndarray, how: Rule, label: Raster | None) -> list[Complaint]:
    if mask.any():
        return []
    words = f"no pixel is of a class ({', '.join(how.classes)})"
    counts = maskvalues.counted(maskvalues.native(label)) if label is not None and how.kind != "name" else {}
    if label is not None and set(counts) - {"0"}:
        of_palette = ", the numbers of its palette" if label.indices is not None else ""
        words += f"; the mask has {maskvalues.listed(counts)}{of_palette}"
    return [(labels.EMPTY, words)]


def _same(image: Raster | None, label: Raster | None) -> bool:
    return image is not None and label is not None and image.values.shape == label.values.shape and bool(
        (image.values == label.values).all())


def areas(mask: np.ndarray) -> list[tuple[int, int]]:
    """The number of pixels of each connected region of each class of a mask (H, W, M), and the class, 0 to
    M - 1."""
    sizes: list[tuple[int, int]] = []
    for number, layer in enumerate(np.moveaxis(mask, 2, 0)):
        _, _, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(layer))
        sizes += [(size, number) for size in stats[1:, cv2.CC_STAT_AREA].tolist()]
    return sizes


def _note(seen: _Seen, raster: Raster) -> None:
    if raster.format == "DICOM" and raster.full is not None and raster.values.shape[2] == 1:
        seen.fulls.add(raster.full)
    if raster.is_deep and raster.full is not None:
        low, high = span(raster.values)
        seen.spans.append((low, high))
        seen.low, seen.high = min(seen.low, low), max(seen.high, high)
        seen.full = raster.full if seen.full is None else (
            min(seen.full[0], raster.full[0]), max(seen.full[1], raster.full[1]))


def _unused(seen: _Seen) -> str | None:
    if seen.full is None:
        return None
    # In most files, too: one file with a bright spot does not make the others bright.
    low, high = np.median(seen.spans, axis=0).tolist()
    return (intensities.unused((seen.low, seen.high), seen.full)
            or intensities.unused((low, high), seen.full, "most files"))


def _mixed(seen: _Seen) -> str | None:
    """The complaint where only some float files lie from 0 to 1, so that black and white are unknown."""
    if len(seen.floats) < 2:
        return None
    return (f"all values of {seen.floats[True]} lie from 0 to 1, but those of {seen.floats[False]} do not, "
            "so black and white are unknown; set data.intensities [low, high] or percentile")


def _unlike(seen: _Seen) -> str | None:
    if len(seen.fulls) < 2:
        return None
    told = some([f"{low:g} to {high:g}" for low, high in sorted(seen.fulls)])
    return (f"the DICOM files can hold different ranges ({told}), so the same value would be a different "
            "grey in each; set data.intensities: [low, high], dicom or percentile")


def _of_slice(pair: Pair, detail: str) -> str:
    return f"{detail} (slice {pair.cut[1]})" if pair.cut else detail
