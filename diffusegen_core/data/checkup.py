"""What `diffusegen data check` reports: every problem of a folder, and what the data are, a verdict per line.

A problem makes a pair unusable. A line to look at (`look`) may be in order, and often is not.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import printable, some
from diffusegen_core.config.text import counted
from diffusegen_core.data import (
    doubtful,
    fits,
    labels,
    layouts,
    maskvalues,
    patients,
    placing,
    reading,
    regions,
    selection,
    testsets,
)
from diffusegen_core.data.pixels import Raster, apart, span
from diffusegen_core.data.reading import Look
from diffusegen_core.data.reports import Pair, Report
from diffusegen_core.data.sequences import SEQUENCE

OK, LOOK = "ok", "look"
VALUES = "labels"  # the subject of the line that names the values of all masks
SIZES = 32, 48, 64, 128, 256  # those of `new`, at which vanishing regions are counted, beside data.image_size
DARK = 8  # the brightest grey level of a picture that shows nothing
STRETCHED = 1.2  # longer side over shorter, above which a picture is reported as not square
STRIP = 1000  # images compared with all others at a time


@dataclass
class Seen:
    """What is known about the pairs of a folder, gathered while they are read."""

    listed: list[Pair] = field(default_factory=list)
    """All pairs by their names, usable or not."""
    images: Counter[str] = field(default_factory=Counter)
    """Format, mode and depth -> pictures."""
    masks: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Width and height -> images."""
    values: Counter[str] = field(default_factory=Counter)
    """Value in the mask files -> pixels."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Kind of images -> the least and the largest value."""
    areas: list[tuple[float, str, int]] = field(default_factory=list)
    """For every region, its share of the image, the pair's name and the index of the class."""
    lost: dict[int, int] = field(default_factory=dict)
    """Side -> regions that vanish at it."""
    odd: dict[str, list[str]] = field(default_factory=dict)
    """What is odd -> pairs."""
    colourless: bool = True
    classes: dict[str, list[int]] = field(default_factory=dict)
    """Pair -> the indices of the classes that its mask has a pixel of."""
    shown: dict[str, np.ndarray] = field(default_factory=dict)
    """Pair -> its looks, see `testsets.looks`."""
    windows: set[tuple[float, float]] = field(default_factory=set)
    turned: int = 0
    """DICOM slices that are not stored the way they are shown."""


@dataclass
class Checkup:
    """What is wrong, and what was seen."""

    report: Report
    lines: list[tuple[str, str, str]]
    """Verdict, subject, and what there is to say."""
    seen: Seen
    """What the lines are made from."""

    def told_patients(self, settings: Data) -> "Checkup":
        """The same of settings with other `patients` and `holdout`, which change no pair."""
        return Checkup(self.report, list(_lines(self.report, self.seen, settings)), self.seen)

    @property
    def text(self) -> str:
        """Every line, and then every problem, for a terminal."""
        return "\n".join([*self._rows, self.report.text])

    @property
    def brief(self) -> str:
        """The same, with few of the unmapped values where one parameter would name those of most masks."""
        alike = any(subject == VALUES for _, subject, _ in self.lines)
        return "\n".join([*self._rows, self.report.folded(labels.UNMAPPED) if alike else self.report.text])

    @property
    def _rows(self) -> list[str]:
        return [f"{verdict:5} {subject:12} {words}" for verdict, subject, words in self.lines]


def check(folder: Path | str, clusters: int | None = None, settings: Data | None = None) -> Report:
    """Every problem of a dataset in one pass over its files; `clusters` is how many pairs it must hold.

    UserError where there is no dataset. Without settings: three channels, one class above 127.
    """
    return checkup(folder, clusters, settings).report


def checkup(folder: Path | str, clusters: int | None = None, settings: Data | None = None) -> Checkup:
    """The same, with what was seen on the way."""
    settings = settings or Data()
    report = layouts.scan(Path(folder), settings)
    seen = Seen(list(report.pairs))
    sides = sorted({*SIZES, settings.image_size})
    watched = reading.read(report, settings, lambda look: _note(seen, look, settings.fit, sides))
    report.pairs = sound = [pair for pair, _, _ in watched]
    selection.require(report, clusters or 1, len(sound))
    return Checkup(report, list(_lines(report, seen, settings)), seen)


def _note(seen: Seen, look: Look, fit: str, sides: list[int]) -> None:
    name = look.pair.name
    if look.image is not None:
        _note_image(seen, look.image)
    if look.mask is not None:
        seen.masks[_kind(look.mask)] += 1
        for value, count in _told(look.mask).items():
            seen.values[value] += count
    if look.pixels is not None:
        height, width = look.pixels.shape[:2]
        seen.sizes[width, height] += 1
        if look.pixels.max() <= DARK:
            _odd(seen, "are black, or nearly so", name)
        seen.shown[name] = testsets.looks(np.ascontiguousarray(look.pixels.transpose(2, 0, 1)[None]))[0]
    if look.image is not None and look.mask is not None and apart(look.image, look.mask):
        _odd(seen, "have masks that lie elsewhere in the patient, by the affines of the NIfTI files", name)
    if look.classes is not None and look.classes.any():
        _note_mask(seen, look, name, fit, sides)


def _note_image(seen: Seen, image: Raster) -> None:
    kind = _kind(image)
    seen.images[kind] += 1
    low, high = span(image.values)
    before = seen.spans.get(kind, (low, high))
    seen.spans[kind] = min(low, before[0]), max(high, before[1])
    values = image.values  # NaN counts as no difference
    seen.colourless &= bool(((values == values[..., :1]) | (values != values)).all())
    if image.voi:
        seen.windows.add(image.voi)
    seen.turned += image.format == "DICOM" and image.orientation != placing.UPRIGHT


def _note_mask(seen: Seen, look: Look, name: str, fit: str, sides: list[int]) -> None:
    mask = look.classes
    assert mask is not None, "the caller looks"
    union: np.ndarray = mask.max(axis=2) > 0
    if doubtful.inverted(union):
        _odd(seen, "have masks that may be inverted: most of the picture or of its border is of a class",
             name)
    seen.classes[name] = np.flatnonzero(mask.any(axis=(0, 1))).tolist()
    seen.areas += [(size / union.size, name, number) for size, number in reading.areas(mask)]
    for side in sides:
        seen.lost[side] = seen.lost.get(side, 0) + regions.vanishing(fits.squared(mask, fit), side)
    if look.pixels is None or look.pixels.shape[:2] != union.shape:
        return
    if way := doubtful.flipped(look.pixels, union):
        _odd(seen, f"have masks that fit far better {way}", name)


def twins(seen: Seen) -> list[tuple[str, str]]:
    """Pairs of images that look like copies of each other; flat images have too little contrast to tell."""
    names, same = list(seen.shown), []
    rows = np.stack(list(seen.shown.values())) if names else np.zeros((0, 1))
    for first in range(0, len(names), STRIP):  # a table of all would not fit into memory
        alike = np.argwhere(rows[first:first + STRIP] @ rows.T > 1 - testsets.COPY)
        same += [(names[first + i], names[j]) for i, j in alike if first + i < j]
    return same


def _lines(report: Report, seen: Seen, settings: Data) -> list[tuple[str, str, str]]:
    first = (OK if report.pairs else LOOK, "layout",
             f"{report.layout}: {counted(len(report.pairs), 'usable pair')}")
    named = report if report.pairs else replace(report, pairs=seen.listed)  # labels may just not be set yet
    told, _ = patients.split(named, settings.model_copy(update={"holdout": None}), 0)
    return [first, *_image_lines(seen, settings), *_shape_lines(seen, settings),
            *_mask_lines(seen, settings), *_unnamed_lines(report, seen, settings),
            *_class_lines(report, seen, settings), *_odd_lines(report, seen, told),
            *_patient_lines(told, settings)]


def _image_lines(seen: Seen, settings: Data) -> list[tuple[str, str, str]]:
    lines = [(OK, "images", f"{count} are {kind}, values {seen.spans[kind][0]:g} to {seen.spans[kind][1]:g}")
             for kind, count in seen.images.most_common()]
    if len(lines) > 1:
        lines = [(LOOK, *line[1:]) for line in lines]
    if seen.windows:
        lines.append((OK if settings.intensities == "dicom" else LOOK, "window",
                      f"DICOM's own, {len(seen.windows)} in the set, such as {min(seen.windows)}; used by "
                      "data.intensities: dicom"))
    if seen.turned:
        lines.append((LOOK, "turned", f"{seen.turned} are turned as their DICOM header says, and their "
                                      "masks with them where these are pictures"))
    if seen.images and seen.colourless and settings.channels == 3:
        lines.append((OK, "channels", "all images are grey; `new` writes data.channels: 1, so that painted "
                                      "images are grey too"))
    if not seen.colourless and settings.channels == 1:
        lines.append((LOOK, "channels", "some images are coloured, but data.channels is 1: their luminance "
                                        "is used"))
    return lines


def _shape_lines(seen: Seen, settings: Data) -> list[tuple[str, str, str]]:
    if not seen.sizes:
        return []
    (width, height), most = seen.sizes.most_common(1)[0]
    wide, high = ([size[i] for size in seen.sizes] for i in (0, 1))
    told = f"all {width}x{height}" if len(seen.sizes) == 1 else f"{len(seen.sizes)} different, " + (
        f"mostly {width}x{height} ({most})" if 2 * most > seen.sizes.total() else
        f"{_range(wide)} wide and {_range(high)} high")
    lines = [(OK, "sizes", told)]
    slim = sum(count for one, count in seen.sizes.items() if max(one) > STRETCHED * min(one))
    if slim:
        how = {"pad": "get black bars", "crop": "lose their ends", "squeeze": "are squeezed, which "
               "distorts what they show"}[settings.fit]
        aspect = max(max(one) / min(one) for one in seen.sizes)
        lines.append((LOOK if settings.fit != "pad" else OK, "aspect",
                      f"{slim} are clearly not square, with sides up to 1:{aspect:.2g}: they {how} "
                      f"(data.fit: {settings.fit})"))
    return lines


def _range(sides: list[int]) -> str:
    return " to ".join(map(str, sorted({min(sides), max(sides)})))


def _mask_lines(seen: Seen, settings: Data) -> list[tuple[str, str, str]]:
    lines = [(OK, "masks", f"{count} are {kind}") for kind, count in seen.masks.most_common()]
    if seen.values:
        few = len(seen.values) <= labels.FEW * 4
        told = maskvalues.listed(dict(seen.values.most_common())) if few else f"{len(seen.values)} different"
        kinds = "class" if len(settings.classes) == 1 else "classes"
        lines.append((OK, "mask values", f"{told}; {kinds}: {', '.join(map(printable, settings.classes))}"))
    if seen.areas:
        of = [f"{printable(one)}, " if len(settings.classes) > 1 else "" for one in settings.classes]
        least = ", ".join(f"{one:.2g} ({of[i]}{printable(name)})" for one, name, i in sorted(seen.areas)[:3])
        lines.append((OK, "regions", f"{len(seen.areas)}; the smallest are {least} of their images"))
        sides = sorted(seen.lost)
        lost = f"none at {', '.join(map(str, sides))} px"
        if any(seen.lost.values()):
            lost = ", ".join(f"{seen.lost[side]} at {side} px" for side in sides)
        lines.append((LOOK if seen.lost[settings.image_size] else OK, "vanishing",
                      f"regions that vanish when images are resized: {lost}"))
    return lines


def _unnamed_lines(report: Report, seen: Seen, settings: Data) -> list[tuple[str, str, str]]:
    """The line that suggests a data.labels for the values of all masks, where it is not set: what would suit
    a single mask depends on what it shows."""
    masks = sum(one.problem == labels.UNMAPPED for one in report.problems)
    numbers = [value for value in seen.values if value != "0"]
    if (settings.labels or 2 * masks <= seen.masks.total() or not 1 < len(numbers) <= maskvalues.SHOWN
            or not all(value.isdigit() for value in numbers)):
        return []
    named = maskvalues.suggested(sorted(numbers, key=int), settings.object)
    return [(LOOK, VALUES, f"{masks} masks have values of no class; say what they are with {named} and names "
                           "of your own")]


def _class_lines(report: Report, seen: Seen, settings: Data) -> list[tuple[str, str, str]]:
    """How many masks have each class, and which pairs lack the file of a class that others have."""
    lines = []
    if settings.labels and seen.masks and (len(settings.classes) > 1 or not seen.classes):
        shown = showing(seen, settings, seen.classes)
        lines.append((OK if all(shown.values()) else LOOK, "classes",
                      f"of {seen.masks.total()} masks: {listed(shown)}"))
    if settings.label_kind == "name" and not report.told:
        lines += [(LOOK, "class files", f"{len(names)} have no file for {printable(key)}, by its ending, "
                                        f"folder or name: {some(names)}")
                  for key, names in _without(report, labels.rule(settings)).items()]
    return lines


def showing(seen: Seen, settings: Data, names: Iterable[str]) -> dict[str, int]:
    """How many of the named pairs' masks show each class."""
    each = Counter(number for name in names for number in seen.classes.get(name, []))
    return {called: each[number] for number, called in enumerate(settings.classes)}


def listed(shown: Mapping[str, int]) -> str:
    """As "liver in 24, lesion in none"."""
    return ", ".join(f"{printable(name)} in {count or 'none'}" for name, count in shown.items())


def _without(report: Report, how: labels.Rule) -> dict[str, list[str]]:
    """The pairs that lack the file of a key, for each key that some pair has beside another. Where every pair
    has the file of one key only, as when folders are classes, none is missing."""
    keys: dict[str, set[str]] = {}
    for pair in report.pairs:
        keys[pair.name] = set()
        for path in pair.masks:
            with contextlib.suppress(KeyError):
                keys[pair.name].add(labels.key_of(how, path.relative_to(report.folder)))
    several = set().union(*(one for one in keys.values() if len(one) > 1))
    return {key: names for key in sorted(several)
            if (names := [printable(name) for name, own in keys.items() if key not in own])}


def _odd_lines(report: Report, seen: Seen, told: Mapping[str, str]) -> list[tuple[str, str, str]]:
    lines = [(LOOK, "suspicious", f"{len(names)} {what}: {some([printable(name) for name in names])}")
             for what, names in seen.odd.items()]
    if same := twins(seen):
        kind, known = ("patients", told) if told else ("volumes", {
            pair.name: pair.volume for pair in seen.listed if pair.volume})
        across = [(one, other) for one, other in same if not known.get(one) or known[one] != known.get(other)]
        whose = f", {len(across) or 'none'} of them of different {kind}" if known else ""
        named = some([f"{printable(one)} and {printable(other)}" for one, other in across])
        rest = f": {named}" if across else (f". {kind.capitalize()} stay together: none is both trained and "
                                            "tested on; but such images teach less than different ones")
        same_looks = f"{counted(len(same), 'pair')} of images that look identical"
        lines.append((LOOK if across else OK, "copies", f"{same_looks}{whose}{rest}"))
    if report.ignored:
        lines.append((LOOK, "not used", f"{len(report.ignored)} pictures are used neither as images nor as "
                                        f"masks, such as {report.named(report.ignored[0])}"))
    return lines


def _patient_lines(told: Mapping[str, str], settings: Data) -> list[tuple[str, str, str]]:
    if not told:
        return []
    if settings.patients is None:
        return [(OK, "patients", f"{patients.described(told, SEQUENCE)}, by the layout; each is kept whole")]
    return [(OK, "patients", f"{patients.described(told)}, by data.patients")]


def _odd(seen: Seen, what: str, name: str) -> None:
    seen.odd.setdefault(what, []).append(name)


def _kind(raster: Raster) -> str:
    return f"{raster.format} {raster.mode}, {raster.depth}"


def _told(mask: Raster) -> Mapping[str, int]:
    if of_planes := maskvalues.planes_of(mask):
        return of_planes
    return maskvalues.counted(maskvalues.native(mask)) if mask.values.shape[2] in (1, 3) else {}
