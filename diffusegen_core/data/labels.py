"""Mapping the values, colours or names of mask files to classes (data.labels); the unmapped is reported."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import PurePath

import cv2
import numpy as np

from diffusegen_core.config.data import BACKGROUND, KINDS, Data, LabelKind
from diffusegen_core.data import levels, rasters
from diffusegen_core.data.maskvalues import coded, counted, listed, native, planes_of, suggested
from diffusegen_core.data.pixels import LOSSY, Raster, scaled

HALF = 127  # a mask of one class is lesion above this value
FEW = 8  # values; a mask with more has blurred edges, in one with fewer each value means something
NEAR = 8  # grey levels from black or white; rare values as near as this mean nothing: JPEG noise
NOISE = 0.05  # as a share of the lesion's pixels
BETWEEN = 64, 191  # values that are neither black nor white
FLAT = 0.0005  # share of a mask; where more of it is flat and in between, it has a further level
MIXED = 0.3  # share of a mask; more in between is no edge, however blurred
MANY = 256  # values; in a mask with more they are not class numbers
IGNORE = "ignore"  # nnU-Net's name for unlabelled pixels; no class, unless the settings say so
# The kinds of problems.
EMPTY, TWO, ZERO_ONE = "empty mask", "mask not two-valued", "mask of 0 and 1"
UNMAPPED, OVERLAP, COLOURS = "unmapped values", "classes overlap", "several colours"
CRISP = ("classes in colours need a crisp mask: save it as PNG, without blurred edges, and name each colour "
         "in data.labels")
Complaint = tuple[str, str]
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Rule:
    """How masks become classes."""

    classes: tuple[str, ...]
    kind: LabelKind
    keys: Mapping[str, tuple[int, ...]]
    """Key -> indices of its classes; () is background. Only nnU-Net's regions give a value to several."""
    overlap: bool = False
    is_default: bool = False
    """Whether nothing else is set: one class, above HALF, of masks that must be black and white."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Key -> what a layout calls its class."""


def rule(settings: Data, told: Mapping[str, Sequence[int]] | None = None,
         condition: str | None = None) -> Rule:
    """The rule from the settings and from what a layout defines: `told`, the values of its classes by name
    (as in nnU-Net's dataset.json), or the `condition` for its one class.

    Raises ValueError where the layout has several classes and the settings choose none, or one that it lacks.
    """
    classes, overlap = settings.classes, settings.overlap
    if settings.labels is None:
        named = [name for name in told or () if name != IGNORE]
        if told and len(named) > 1:
            raise ValueError(f"has the classes {', '.join(named)}; set {_of_classes(told)}")
        values = told[named[0]] if told and named else []
        if values:
            return Rule(classes, "value", {str(value): (0,) for value in values})
        return Rule(classes, "condition", {condition or f">{HALF}": (0,)}, is_default=condition is None)
    keys: dict[str, tuple[int, ...]] = {key: () if name == BACKGROUND else (classes.index(name),)
                                        for key, name in settings.labels.items()}
    if settings.label_kind == "name" and told:
        if absent := [key for key in keys if key not in told]:
            raise ValueError(f"data.labels: there is no class {absent[0]} in the data, which has "
                             f"{', '.join(told)}")
        values = list(dict.fromkeys(chain.from_iterable(told[name] for name in keys)))
        return Rule(classes, "value", {
            str(value): tuple(sorted({place for name, places in keys.items() if value in told[name]
                                      for place in places})) for value in values}, overlap)
    return Rule(classes, settings.label_kind, keys, overlap)


def _of_classes(told: Mapping[str, Sequence[int]]) -> str:
    """The data.labels that would map a layout's classes: by name or, where classes share values, by value."""
    values = list(chain.from_iterable(told.values()))
    if len(set(values)) < len(values):
        return suggested([str(value) for value in sorted(set(values))], "...") + ", as they share values"
    return "data.labels, such as {" + ", ".join(
        f"{name}: {BACKGROUND if name == IGNORE else name}" for name in told) + "}"


def read(how: Rule, raster: Raster) -> tuple[np.ndarray, list[Complaint]]:
    """The mask (H, W, M) in {0, 1} of a file, and what is wrong with it: kind of problem and detail."""
    if how.kind == "colour":
        return _coloured(how, raster)
    if how.is_default:
        return _two_valued(raster, how)
    if _is_planes(how, raster):
        return _by_plane(how, raster)
    values, complaint = _one_channel(raster)
    if complaint:
        return np.zeros((*values.shape, len(how.classes)), np.uint8), [complaint]
    if how.kind == "condition":
        return _by_condition(how, values)
    # As values, booleans are 0 and 1; conditions and the default take them as black and white.
    return _by_value(how, (values > 0).astype(np.uint8) if raster.mode == "bool" else values)


def of_name(how: Rule, path: PurePath) -> tuple[int, ...]:
    """The indices of a mask file's classes, by `key_of`. Raises KeyError as it does."""
    return how.keys[key_of(how, path)]


def key_of(how: Rule, path: PurePath) -> str:
    """The key that a mask file matches by its name or its folder; raises KeyError where none does.

    A key is the end of the file's name, a folder that it lies in, or a pattern with *. The longest one wins.
    """
    name = rasters.stem(path)
    for key in sorted(how.keys, key=lambda key: (-len(key), key)):
        is_it = fnmatch(path.as_posix(), key) or fnmatch(path.name, key) if "*" in key else (
            name.endswith(key) or key in path.parts[:-1])
        if is_it:
            return key
    raise KeyError(path.name)


def binary(raster: Raster) -> tuple[np.ndarray, list[Complaint]]:
    """The mask of a file that holds one class: (H, W) in {0, 1}, 1 where it is not black. Of two values,
    black and any other, at any depth, the other is the class; of more, those above HALF. It may be empty."""
    values = raster.values.max(axis=2)
    black = raster.full[1] if raster.inverted and raster.full else 0
    if len(seen := np.unique(values)) <= 2 and black in seen:
        return (values != black).astype(np.uint8), []
    _, complaints = _two_valued(raster, Rule(("",), "condition", {}))
    return (_grey(raster) > HALF).astype(np.uint8), [one for one in complaints if one[0] != EMPTY]


def overlapping(mask: np.ndarray, how: Rule) -> list[Complaint]:
    """The complaint about a mask (H, W, M) whose classes overlap where they must not; [] without one."""
    shared = int((mask.sum(axis=2, dtype=np.uint8) > 1).sum())
    return [] if how.overlap or not shared else [
        (OVERLAP, f"{shared} pixels are of several classes; where that is meant, set data.overlap: true")]


def _by_value(how: Rule, values: np.ndarray) -> tuple[np.ndarray, list[Complaint]]:
    mask = np.zeros((*values.shape, len(how.classes)), np.uint8)
    known = np.zeros(values.shape, bool)
    for key, places in how.keys.items():
        here = values == int(key)
        known |= here
        for place in places:
            mask[..., place] |= here
    return mask, _unmapped(values, known | (values == 0)) + overlapping(mask, how)


def _is_planes(how: Rule, raster: Raster) -> bool:
    """Whether a mask is an array with a two-valued plane for each class, and the keys number its planes."""
    count = raster.values.shape[2]
    return (raster.format == "NumPy" and count > 1 and how.kind == "value"
            and all(0 <= int(key) < count for key in how.keys)
            and all(len(seen := np.unique(plane)) == 1 or (len(seen) == 2 and seen[0] == 0)
                    for plane in np.moveaxis(raster.values, 2, 0)))


def _by_plane(how: Rule, raster: Raster) -> tuple[np.ndarray, list[Complaint]]:
    mask = np.zeros((*raster.values.shape[:2], len(how.classes)), np.uint8)
    strange = {}
    for number, plane in enumerate(np.moveaxis(raster.values, 2, 0)):
        for place in how.keys.get(str(number), ()):
            mask[..., place] |= plane != 0
        if str(number) not in how.keys and plane.any():
            strange[f"plane {number}"] = int(np.count_nonzero(plane))
    complaints = [(UNMAPPED, f"{listed(strange)}: name them in data.labels, or call them {BACKGROUND}")]
    return mask, [*(complaints if strange else []), *overlapping(mask, how)]


def _by_condition(how: Rule, values: np.ndarray) -> tuple[np.ndarray, list[Complaint]]:
    # What meets none of the conditions is background, and never unmapped: conditions cover every value.
    mask = np.zeros((*values.shape, len(how.classes)), np.uint8)
    for key, places in how.keys.items():
        match = KINDS["condition"].fullmatch(key)
        assert match is not None, "config.data lets no other key be a condition"
        for place in places:
            mask[..., place] |= COMPARE[match[1]](values, float(match[2]))
    return mask, overlapping(mask, how)


def _coloured(how: Rule, raster: Raster) -> tuple[np.ndarray, list[Complaint]]:
    if raster.is_deep or raster.values.shape[2] not in (1, 3):
        kind = f"{raster.depth}, {raster.values.shape[2]} channels"
        return np.zeros((*raster.values.shape[:2], len(how.classes)), np.uint8), [
            (UNMAPPED, f"data.labels names colours, but this is not an 8-bit picture ({kind})")]
    codes = coded(raster.values.repeat(3, axis=2) if raster.values.shape[2] == 1 else raster.values)
    numbers = replace(how, kind="value",
                      keys={str(int(key[1:], 16)): places for key, places in how.keys.items()})
    mask, complaints = _by_value(numbers, codes)
    if complaints:
        known = np.isin(codes, [0, *(int(key) for key in numbers.keys)])
        seen, counts = np.unique(codes[~known], return_counts=True)
        rare = {f"#{code:06x}": int(count) for code, count in zip(seen.tolist(), counts, strict=True)}
        complaints = [(UNMAPPED, f"{listed(rare)}: name them in data.labels, or call them {BACKGROUND}")]
    return mask, complaints


def _unmapped(values: np.ndarray, known: np.ndarray) -> list[Complaint]:
    if known.all():
        return []
    return [(UNMAPPED, f"{listed(counted(values[~known]))}: name them in data.labels, or call them "
                       f"{BACKGROUND}")]


def _one_channel(raster: Raster) -> tuple[np.ndarray, Complaint | None]:
    values = native(raster)
    if values.ndim == 2:
        return values, None
    if values.shape[2] != 3 or raster.is_deep:
        return values[..., 0], (COLOURS, f"a mask of {values.shape[2]} channels; save it as one channel of "
                                         "class numbers, one file for each class, or a NumPy array of "
                                         f"two-valued planes, which data.labels names by their places, 0 "
                                         f"to {values.shape[2] - 1}")
    colours = counted(values)
    way_on = suggested([one for one in colours if one != "#000000"], "...")
    return values[..., 0], (COLOURS, f"data.labels names values, but the mask is coloured: "
                                     f"{listed(colours)}; set {way_on}")


def _two_valued(raster: Raster, how: Rule) -> tuple[np.ndarray, list[Complaint]]:
    """The default: lesion above HALF of 255, where a mask is plainly black and white."""
    grey = _grey(raster)
    mask = (grey > HALF).astype(np.uint8)[..., None]
    name = how.classes[0]
    return mask, _many(raster, grey, name) or _levels(raster, grey, name) or _blurred(raster, grey)


def _many(raster: Raster, grey: np.ndarray, name: str) -> list[Complaint]:
    """The complaint about a mask that has so many values or colours that they could be blurred edges, but has
    several classes nevertheless."""
    values = native(replace(raster, indices=None))
    if raster.format in LOSSY or (values.ndim == 3 and raster.is_deep):
        return []
    counts = counted(values)
    if len(counts) <= FEW or any("." in value or "e" in value for value in counts):
        return []
    if values.ndim == 3:
        seen = [f"#{int(code):06x}" for code in levels.flat(coded(values))]
        return [(COLOURS, f"{listed({one: counts[one] for one in seen})}; {CRISP}")] if len(seen) > 2 else []
    seen = [f"{value:g}" for value in levels.flat(values)]
    # A blurred edge of black and white has values on both sides of HALF.
    is_numbered = len(counts) <= MANY and len(np.unique(grey[grey > HALF])) < 2
    if len(seen) > 2 or is_numbered:
        told = {value: counts[value] for value in seen} if len(seen) > 2 else counts
        lesion, least = [value for value in told if float(value)], HALF if grey.max() > HALF else 0
        return [(UNMAPPED, f"{listed(told)}: more than two values; say what each is, as "
                           f"{suggested(lesion, name)}, or which are {name}, as "
                           f'data.labels: {{">{least}": {name}}}')]
    return []


def _blurred(raster: Raster, grey: np.ndarray) -> list[Complaint]:
    """The complaint about more than two levels that are not exact values, as JPEG leaves them."""
    values = native(replace(raster, indices=None))
    is_coloured = values.ndim == 3 and values.shape[2] == 3 and not raster.is_deep
    picture = values if is_coloured else grey[..., None]
    seen = levels.about(picture)
    if len(seen) < 3:
        has_hues = is_coloured and levels.has_hues(picture)
        return [(COLOURS, f"its bright areas have several hues; {CRISP}")] if has_hues else []
    told = "about " + listed({_called(colour): count for colour, count in seen.items()})
    coloured = any(max(colour) - min(colour) > levels.APART for colour in seen)
    return [(COLOURS, f"{told}; {CRISP}")] if coloured else [
        (UNMAPPED, f"it has flat areas of {told}: more than black and white; save the mask as PNG with a "
                   f'value for each class, or set data.labels: {{">{HALF}": ...}}, if only bright areas '
                   "count")]


def _called(colour: Sequence[int]) -> str:
    return f"{colour[0]}" if len(set(colour)) == 1 else "#" + "".join(f"{part:02x}" for part in colour)


def _levels(raster: Raster, grey: np.ndarray, name: str) -> list[Complaint]:
    if of_planes := planes_of(raster):
        return [(COLOURS, f"an array with a plane for each class, {listed(of_planes)}; say what each is, as "
                          f"{suggested([str(number) for number in range(len(of_planes))], name)}")]
    values = native(replace(raster, indices=None))
    if raster.format not in LOSSY and values.ndim == 3 and not raster.is_deep:
        colours = counted(values, FEW)  # more are blurred edges
        if len(colours) > 2:
            return [(COLOURS, f"{listed(colours)}; say what each is, as "
                              f"{suggested([one for one in colours if one != '#000000'], name)}")]
    own = counted(values, FEW) if values.ndim == 2 else {}
    lesion = [value for value in own if float(value)]
    # With more than 8 bits, the brightest value seldom is the highest possible.
    if len(own) == 2 and len(lesion) == 1 and grey.max() <= HALF and (lesion == ["1"] or raster.is_deep):
        return [(ZERO_ONE, f"{listed(own)}: it looks like a mask whose lesion is {lesion[0]}; set "
                           f"{suggested(lesion, name)}")]
    if raster.format not in LOSSY and len(own) > 2 and not _is_noise(grey):
        return [(UNMAPPED, f"{listed(own)}: more than two values; say what each is, as "
                           f"{suggested([one for one in own if float(one)], name)}")]
    if grey.max() <= HALF:
        half = (f"half of what {raster.depth} can hold, unless data.labels says otherwise" if raster.is_deep
                else HALF)
        return [(EMPTY, f"the brightest value is {values.max():g}, and {name} is above {half}")]
    if grey.min() > HALF:
        return [(TWO, f"all {name}: the darkest value is {values.min():g}")]
    between = ((grey >= BETWEEN[0]) & (grey <= BETWEEN[1])).astype(np.uint8)
    flat = float(cv2.erode(between, np.ones((5, 5), np.uint8)).mean())
    if flat > FLAT or between.mean() > MIXED:
        return [(UNMAPPED, f"{between.mean():.0%} of it are neither black nor white ({BETWEEN[0]} to "
                           f"{BETWEEN[1]}), as in a photograph or a mask of several classes")]
    return []


def _is_noise(grey: np.ndarray) -> bool:
    """Whether everything that is neither black nor white is near one of them, and rare."""
    odd = grey[(grey > 0) & (grey < 255)]
    near = ((odd <= NEAR) | (odd >= 255 - NEAR)).all() and grey.max() >= 255 - NEAR
    return bool(near) and len(odd) <= NOISE * int(np.count_nonzero(grey > HALF))


def _grey(raster: Raster) -> np.ndarray:
    """A mask as (H, W) uint8, where white, red and green on black are all bright."""
    values = raster.values.max(axis=2)
    if raster.is_deep:
        low, high = raster.full or (0, 255)
        values = scaled(values, min(low, 0), high)
    return 255 - values if raster.inverted else values
