"""Which mask belongs to which image, by the files' names."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from diffusegen_core.config.errors import printable
from diffusegen_core.config.patterns import in_time
from diffusegen_core.data import rasters
from diffusegen_core.data.reports import Pair, Report

MAX_NAME = 200  # bytes; a file name may have 255, and those of synthetic pairs are longer than their source's
DEEPEST = 5  # levels of folders below a dataset's own that are searched for files
Key = tuple[str, ...]
K = TypeVar("K", str, Key)
CHANNELS = "channels"
NO_MASK, NO_IMAGE, MIXED = "missing mask", "mask without image", "formats differ"
UNPAIRED = {NO_MASK, NO_IMAGE}  # the kinds of problems that come from names that do not match


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, without hidden ones: archives from a Mac hold `._NAME.jpg` as well."""
    return [path for path in _visible(folder) if rasters.is_read(path)]


def below(folder: Path) -> list[Path]:
    """The pictures in a folder and in those below it, in order; links to folders are not followed."""
    return [path for path in _walk(folder, DEEPEST) if rasters.is_read(path)]


def note_unread(report: Report, folder: Path, deep: bool = False) -> None:
    """Add a problem for each file that is meant as a picture but is of a format that is not read."""
    for path in _walk(folder, DEEPEST) if deep else _visible(folder):
        if what := rasters.unread(path):
            report.add(path, "not read", what)


def by_stem(report: Report, prefix: str, images: list[Path], masks: list[Path]) -> None:
    """Add the pairs among these files to the report, and a problem for every file that is in none."""
    report.files += images + masks
    image_of = _by_name(report, images, {path: rasters.stem(path) for path in images})
    mask_of = _by_name(report, masks, {path: _image_stem(rasters.stem(path), image_of) for path in masks})
    mask_of = _spelled(mask_of, image_of, _composed)
    for stem, paths in image_of.items():
        if len(paths) == 1 and stem not in mask_of:
            report.add(paths[0], NO_MASK, "no mask has its name")
    for stem, paths in mask_of.items():
        if stem not in image_of:
            for path in paths:
                report.add(path, NO_IMAGE, "no image has its name")
        elif len(paths) == 1 and len(image_of[stem]) == 1:
            report.pairs.append(Pair(prefix + stem, image_of[stem][0], paths[0]))


def by_pattern(report: Report, prefix: str, images: list[tuple[Key, Path]], masks: list[tuple[Key, Path]],
               stacked: bool = False) -> None:
    """The same for files that come with the text that pairs them. An image may have several masks and, if it
    is `stacked`, several files, each with one channel or more."""
    taken = {path for _, path in masks}
    image_of = _by_key(report, [one for one in images if one[1] not in taken])
    mask_of = _spelled(_by_key(report, masks), image_of, lambda key: tuple(map(_composed, key)))
    for key, paths in image_of.items():
        if not stacked:
            for path in paths[1:]:
                report.add(path, "same name twice", f"as {report.named(paths[0])}")
        if key not in mask_of:
            report.add(paths[0], NO_MASK, "no mask has its name")
        elif stacked or len(paths) == 1:
            first, *rest = mask_of[key]
            report.pairs.append(Pair(prefix + "_".join(key), paths[0], first, tuple(paths[1:]), tuple(rest)))
    refuse_same_names(report)
    if stacked:
        _refuse_odd_channels(report)
    for key, paths in mask_of.items():
        for path in paths if key not in image_of else ():
            report.add(path, NO_IMAGE, "no image has its name")


def _refuse_odd_channels(report: Report) -> None:
    """Replace each pair whose image files are not the channels that most images have by a problem. Channels
    are the numbers at the ends of the files' names, from 0 on."""
    numbers = {pair: tuple(rasters.stem(path).rpartition("_")[2] for path in pair.images)
               for pair in report.pairs}
    usual = Counter(numbers.values()).most_common(1)[0][0] if numbers else ()
    sound = []
    for pair, own in numbers.items():
        if own == usual and list(map(int, own)) == list(range(len(own))):
            sound.append(pair)
        else:
            others = f", and those of most images {', '.join(usual)}" if own != usual else ""
            report.add(pair.image, CHANNELS, f"its files are the channels {', '.join(own)}{others}; all "
                                             "images need the same, from 0000 on without gaps")
    report.pairs = sound


def matched(pattern: re.Pattern[str], root: Path, paths: Sequence[Path]) -> Iterator[tuple[Key, Path]]:
    """The files whose path relative to the root, without its ending, matches a pattern, each with what the
    pattern's groups hold."""
    for path in paths:
        name = path.relative_to(root).as_posix()
        if match := pattern.fullmatch(name[:len(name) - len(rasters.ending(path))]):
            yield match.groups(), path


def globbed(glob: str, root: Path, paths: Sequence[Path]) -> list[tuple[Key, Path]]:
    """The files that match a user's pattern: * is part of a file's or folder's name and pairs files, ** is
    any text, folders included, and ? is one character. The ending may be left out."""
    bare, kind = glob.removesuffix(".*"), ""
    for ending in sorted(rasters.EXTENSIONS, key=len, reverse=True):
        if bare.lower().endswith(ending):
            bare, kind = bare[:-len(ending)], ending
            break
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "([^/]+?)", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", bare.removeprefix("./"))
    pattern = re.compile("".join(words.get(part, re.escape(part)) for part in parts), re.IGNORECASE)
    chosen = [path for path in paths if not kind or rasters.ending(path) == kind]
    with in_time(f"The pattern {glob!r}"):
        return list(matched(pattern, root, chosen))


def unmixed(report: Report) -> None:
    """Replace each pair with NIfTI on one side only by a problem: its axes are the patient's, and those of
    other files the picture's, so that nothing says how the two align."""
    pairs = []
    for pair in report.pairs:
        image, *others = (rasters.ending(path) in rasters.NIFTI for path in (*pair.images, *pair.masks))
        if all(one == image for one in others):
            pairs.append(pair)
        else:
            report.add(pair.mask, MIXED, f"{pair.name}: {'the image is' if image else 'part of it is'} "
                                         "NIfTI, in the patient's axes, but the rest is not; save both as "
                                         "NIfTI, or both as pictures")
    report.pairs = pairs


def sliced(report: Report, slices: Sequence[int]) -> None:
    """Replace each pair in NIfTI or DICOM files by the pairs of its slices, [axis, first, last]; DICOM frames
    are along axis 0."""
    axis, first, last = slices
    pairs = []
    for pair in report.pairs:
        kind = rasters.ending(pair.image)  # without an ending, only DICOM is read
        if kind and kind not in rasters.NIFTI | rasters.DICOM:
            pairs.append(pair)
            continue
        pairs += [replace(pair, name=f"{pair.name}_{'xyz'[axis]}{index:03d}", cut=(axis, index),
                          volume=pair.name)
                  for index in range(first, _last(report, pair, axis, last) + 1)]
    report.pairs = pairs


def _last(report: Report, pair: Pair, axis: int, last: int) -> int:
    """The last slice that is asked for and exists; adds a problem where that is not the same."""
    try:
        count = rasters.slices(pair.image, axis)
    except Exception as error:  # damaged headers raise all kinds
        report.add(pair.image, "unreadable", printable(rasters.reason(error, pair.image)))
        return -1
    if last < count:
        return last
    report.add(pair.image, "no such slices", f"axis {axis} has {count} slices, counted from 0, but "
                                             f"data.slices asks for number {last}")
    return count - 1


def refuse_same_names(report: Report) -> None:
    """Keep the first of the pairs that share a name, and add a problem for each of the others."""
    known: dict[str, Pair] = {}
    for pair in report.pairs:
        if (other := known.setdefault(pair.name, pair)) is not pair:
            report.add(pair.image, "same name twice", f"as {report.named(other.image)}: both are the pair "
                                                      f"{printable(pair.name)}")
    report.pairs = list(known.values())


def unusable(name: str) -> str | None:
    """Why a file's name cannot be used for a pair; None where it can."""
    if printable(name) != name:
        return "control characters, or bytes that are not text"
    if "\\" in name:
        return "a backslash, which ends a folder's name on some systems"
    size = len(os.fsencode(name))
    return f"{size} bytes, but only {MAX_NAME} leave room for the names of synthetic pairs" \
        if size > MAX_NAME else None


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key that puts 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))], name


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _walk(folder: Path, depth: int) -> list[Path]:
    paths = _visible(folder)
    if depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                paths += _walk(inner, depth - 1)
    return paths


def _by_name(report: Report, paths: list[Path], names: dict[Path, str]) -> dict[str, list[Path]]:
    """The files under the name that pairs them; unusable names and files that share one are problems."""
    by_name = defaultdict(list)
    for path in paths:
        if why := unusable(path.name):
            report.add(path, "unusable name", why)
        else:
            by_name[names[path]].append(path)
    for same in by_name.values():
        for path in same[1:]:
            report.add(path, "same name twice", f"as {same[0].name}")
    return by_name


def _by_key(report: Report, keyed: list[tuple[Key, Path]]) -> dict[Key, list[Path]]:
    by_key = defaultdict(list)
    for key, path in keyed:
        report.files.append(path)
        if why := unusable("_".join(key) + path.suffix):
            report.add(path, "unusable name", why)
        else:
            by_key[key].append(path)
    return by_key


def _spelled(masks: dict[K, list[Path]], images: Mapping[K, list[Path]],
             composed: Callable[[K], K]) -> dict[K, list[Path]]:
    """Masks under the names of their images, where both are the same text in different bytes: a Mac stores é
    as two characters."""
    known = {composed(name): name for name in images}
    alike = {name: known.get(composed(name), name) for name in masks if name not in images}
    return {name if alike.get(name, name) in masks else alike[name]: paths for name, paths in masks.items()}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _image_stem(mask: str, images: dict[str, list[Path]]) -> str:
    # NAME, NAME_mask, and SinGAN-Seg's NAME_mask for NAME_img.
    base = mask.removesuffix("_mask")
    return next((stem for stem in (mask, base, f"{base}_img") if stem in images), base)
