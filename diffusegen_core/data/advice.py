"""Messages about a folder that has no known layout: what was found there, and the likely remedy."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product, takewhile
from pathlib import Path

from diffusegen_core.config.errors import printable, some
from diffusegen_core.config.text import counted
from diffusegen_core.data import pairing, rasters
from diffusegen_core.data.reports import Problem, Report

PAGE = 'the page "Data of your own", book/data.md, lists the known layouts'
MASK_FOLDERS = re.compile(r"(?i).*(mask|label|annot|truth|segm|manual|gt|target).*")
MASK_NAME = re.compile(r"(?i)mask[_-].*|.*[_-](mask|seg|segmentation|gt|labels?|anno|annotation|truth)"
                       r"([_-]?\d+)?")
LOOKED_AT = 200  # files whose names are considered for a remedy


def several(folder: Path, roots: Sequence[Path]) -> str:
    """The message for a folder with several datasets in it."""
    names = some([printable(str(root)) for root in roots])
    return f"{folder} holds {len(roots)} datasets. Name one of them: {names}."


def unknown(folder: Path) -> str:
    """The message for a folder whose layout is not recognised."""
    paths = pairing.below(folder)
    if not paths:
        return f"{folder} holds no pictures that can be read{_unread(folder)}."
    remedy = hint(folder)
    return (f"{folder} is not laid out as a dataset ({PAGE}){seen(folder, paths)}. "
            f"{remedy or 'Name its files by data.images and data.masks, such as images/* and masks/*_mask'}.")


def seen(folder: Path, paths: Sequence[Path]) -> str:
    """The folders and file names found, as the end of a sentence; "" where there are none."""
    counts = Counter(path.parent for path in paths)
    shown = [f"{_relative(place, folder)} ({counted(count, 'picture')}, such as "
             f"{printable(next(path.name for path in paths if path.parent == place))})"
             for place, count in counts.items()]
    return f"; seen: {some(shown)}" if shown else ""


def of_glob(glob: str) -> str:
    """What is wrong with a pattern of data.images or data.masks, as the end of a sentence; else ""."""
    if Path(glob).is_absolute() or glob.startswith("~") or ".." in glob.split("/"):
        return "; patterns are relative to that folder"
    return "; the only special characters of patterns are *, ** and ?" if re.search(r"[\[\]{}]", glob) else ""


def problem(remedy: str) -> Problem:
    """A remedy as a row of a report."""
    return Problem(".", "names differ", remedy)


def hint(folder: Path) -> str | None:
    """What to set or rename so that a folder's pictures pair up; None where nothing is likely to help."""
    count, image_glob, mask_glob = patterns(folder)
    if count:
        return (f"Set data.images: '{image_glob}' and data.masks: '{mask_glob}', which give {count} pairs "
                f"(in `data check` and `new`: --images '{image_glob}' --masks '{mask_glob}')")
    images, masks = _told_apart(folder)
    return _nearly(images, masks) if images and masks else None


def patterns(folder: Path) -> tuple[int, str, str]:
    """The number of pairs, and the patterns of images and masks that give the most; 0 where none do."""
    images, masks = _told_apart(folder)
    if not images or not masks:
        return 0, "", ""
    paths = pairing.below(folder)
    return max((
        _best(folder, paths, _image_globs(folder, images), _mask_globs(folder, images, masks)),
        # The other way round: an image's name extends its mask's, as x.jpg.png does x.png.
        _best(folder, paths, _mask_globs(folder, masks, images), _image_globs(folder, masks))),
        key=lambda one: one[0])


def _told_apart(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures that look like images by their names, and those that look like masks."""
    paths = pairing.below(folder)
    masks = [path for path in paths if _is_mask(path.relative_to(folder))]
    return [path for path in paths if path not in set(masks)], masks


def _best(folder: Path, paths: Sequence[Path], images: Iterable[str],
          masks: Iterable[str]) -> tuple[int, str, str]:
    """The number of pairs, and the patterns that give the most."""
    tried = [(_pairs(folder, paths, one, other), one, other) for one, other in product(images, masks)]
    return max(tried, key=lambda one: one[0], default=(0, "", ""))


def _pairs(folder: Path, paths: Sequence[Path], images: str, masks: str) -> int:
    if images.replace("**", "").count("*") != masks.replace("**", "").count("*"):
        return 0
    report = Report(folder, "")
    pairing.by_pattern(report, "", pairing.globbed(images, folder, paths),
                       pairing.globbed(masks, folder, paths))
    return len(report.pairs)


def _image_globs(folder: Path, images: Sequence[Path]) -> Iterator[str]:
    for place in _places(folder, images):
        yield f"{place}*"


def _mask_globs(folder: Path, images: Sequence[Path], masks: Sequence[Path]) -> list[str]:
    stems = sorted({rasters.stem(path) for path in images}, key=len, reverse=True)[:LOOKED_AT]
    names: Counter[str] = Counter({"*": 1})
    for path in masks[:LOOKED_AT]:
        name = rasters.stem(path)
        for before, after in _around(name, stems):
            kind = rasters.ending(path) if "." in after else ""
            names[f"{before}*{after}{kind}"] += 1
            if after[-1:].isdigit():
                names[f"{before}*{after.rstrip('0123456789')}**{kind}"] += 1
    return [f"{place}{name}" for place in _places(folder, masks) for name, _ in names.most_common(6)]


def _around(name: str, stems: Sequence[str]) -> list[tuple[str, str]]:
    """The text before and after an image's name in a mask's name; a match never splits a number."""
    for stem in stems:
        before, inner, after = name.partition(stem)
        cut = (stem[:1].isdigit() and before[-1:].isdigit()) or (stem[-1:].isdigit() and after[:1].isdigit())
        if inner and not cut:
            return [(before, after)]
    return []


def _places(folder: Path, paths: Sequence[Path]) -> list[str]:
    """The folders of files as patterns: level by level, such as images/*/, and one for any depth below."""
    parts = sorted({path.parent.relative_to(folder).parts for path in paths})
    if len(parts) == 1:
        return ["/".join((*parts[0], ""))]
    common = [column[0] for column in takewhile(lambda one: len(set(one)) == 1, zip(*parts, strict=False))]
    anywhere = "/".join((*common, "**/"))
    if len({len(one) for one in parts}) > 1:
        return [anywhere]
    columns = ["*" if len(set(column)) > 1 else column[0] for column in zip(*parts, strict=True)]
    return ["/".join((*columns, "")), anywhere]


def _is_mask(path: Path) -> bool:
    return any(MASK_FOLDERS.fullmatch(part) for part in path.parts[:-1]) or bool(
        MASK_NAME.fullmatch(rasters.stem(path)))


def _nearly(images: Sequence[Path], masks: Sequence[Path]) -> str | None:
    """How the names of images and masks differ: in case, in leading zeros, or else by an example."""
    for words, same in (("only in upper and lower case", str.casefold), ("only in leading zeros", _unpadded)):
        known = {same(rasters.stem(path)): path.name for path in images}
        for path in masks:
            if image := known.get(same(rasters.stem(path))):
                return f"Names differ {words}, as {printable(image)} and {printable(path.name)}: rename them"
    return f"No mask has the name of an image: {printable(images[0].name)}, {printable(masks[0].name)}"


def _unpadded(name: str) -> str:
    return re.sub(r"0+(?=\d)", "", name)


def _relative(place: Path, folder: Path) -> str:
    return printable(place.relative_to(folder).as_posix()) + "/" if place != folder else "the folder itself"


def _unread(folder: Path) -> str:
    report = Report(folder, "")
    pairing.note_unread(report, folder, deep=True)
    kinds = {problem.detail: problem.file for problem in report.problems}
    return "".join(f"; {file} is {what}" for what, file in list(kinds.items())[:3])
