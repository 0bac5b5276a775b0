"""Tables of chapters 6 and 7 beyond Dice and IoU: by size, outlines, calibration, by sequence.

`by` are the fields that tell networks apart, apart from their seeds: data_type and samples, or size,
data_type and ratio.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from diffusegen_core.config.params import Params
from diffusegen_core.data.types import REAL
from diffusegen_core.measures import boundaries, calibration, intervals, lesionwise, overlap
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report.naming import captioned, sentence
from diffusegen_core.report.segment_tables import plain, whole, with_interval
from diffusegen_core.report.tables import Table, escaped, show
from diffusegen_core.run import Run
from diffusegen_core.segmentation import details, trials
from diffusegen_core.segmentation.experiments import FIELDS, OK
from diffusegen_core.segmentation.trials import Tested

DICE = "Dice"
ALONE = "one mask empty"
ALARMS = "false alarms an image"
CellTexts = dict[tuple[str, ...], str]
"""The text of each cell, by the values of `by` and the test set, as text."""
NOTHING: Mapping[str, Mapping[str, CellTexts]] = {}
Values = tuple[tuple, pd.DataFrame, dict[int, int]]
"""The values of `by` and the test set, a matrix (seeds x images), and the generator of each seed."""
FLAT = (" An interval without width means that no network detected any object of that size, or that all "
        "detected every one; it says nothing about other objects.")
CERTAIN = ("[0.000, 0.000]", "[1.000, 1.000]")


def by_size(run: Run, result: Tested, by: list[str], name: str) -> Table:
    """Dice of the images with the smallest, middle and largest objects, each a third of a test set; with
    several classes, for each class of the images that have it."""
    parts, told = {}, []
    for number, title in enumerate(run.params.data.classes):
        column = _of_class(run.params, number, overlap.of_classes, "dice")
        areas = _areas(result, number)
        if _several(run.params):
            areas = areas[areas["area"] > 0]
        frame, parting = _parted(result.images.merge(areas, on=["test_set", "image"]), areas)
        parts[title] = frame.assign(value=frame[column] if column in frame else float("nan"))
        told.append((title, parting))
    what, of = (("Dice of each class", "the images that have the class") if _several(run.params) else
                (sentence(captioned(run.params)), "the test set"))
    return _thirds(run.params, result, parts, by, name,
                   f"{what} by the area of the objects in an image, computed in this run, with 95 % "
                   f"intervals. Each size is a third of {of}: {_bounds(told)}{whole(result)}")


def by_class(run: Run, result: Tested, by: list[str], name: str) -> Table | None:
    """Dice of each class; None where there is one class, whose Dice is in the other tables."""
    classes = run.params.data.classes
    if len(classes) == 1:
        return None
    columns = {title: _means(run.params, result, by, column) for title, column in
               zip(classes, overlap.of_classes(len(classes)), strict=True)}
    return show(_rows(result, by, columns), name, "Dice of each class, computed in this run, with 95 % "
                "intervals. Where neither mask of an image has the class, it is 1. The tables of small and "
                "large objects have rows for each class as well; all others have the mean over the classes, "
                f"and probabilities are of all classes together.{whole(result)}")


def detection(run: Run, result: Tested, by: list[str], name: str) -> Table:
    """The shares of small, medium and large objects that were detected, and false alarms per image; with
    several classes, for each class."""
    p, lesions, distances = run.params, result.details.lesions, result.details.distances
    parts, alarms, told = {}, {}, []
    for number, title in enumerate(p.data.classes):
        mine = lesions[lesions[details.CLASS] == number + 1] if _several(p) else lesions
        known = mine.drop_duplicates(["test_set", "image", "lesion"])[["test_set", "area"]]
        frame, parting = _parted(mine, known)
        parts[title] = frame.assign(value=(frame["iou"] >= lesionwise.DETECTED).astype(float),
                                    image=frame["image"] + " " + frame["lesion"].astype(str),
                                    **{trials.GROUP: _resampled(result, frame)})
        told.append((title, parting))
        column = _of_class(p, number, details.alarms_of, details.FALSE_ALARMS)
        if column in distances and distances[column].notna().any():
            counted = distances.assign(**{details.FALSE_ALARMS: distances[column]})  # has no upper bound
            alarms[title] = {ALARMS: _means(p, replace(result, images=counted), by, details.FALSE_ALARMS,
                                            ".2f")}
    unknown = distances[details.FALSE_ALARMS].isna().any()
    of_alarms = "" if not alarms else (
        " A false alarm is a connected part of what was predicted that touches no object"
        f"{'; older networks, for which they were not counted, are left out' if unknown else ''}.")
    older = (" Older networks, whose objects were not told apart by class, are left out: run the chapter "
             "again (for those whose weights were not kept, they stay unknown)."
             if _several(p) and lesions[details.CLASS].isna().any() else "")
    table = _thirds(p, result, parts, by, name,
                    f"Objects that were detected, computed in this run, as shares with 95 % intervals: "
                    f"those whose IoU with what was predicted there is at least {lesionwise.DETECTED}. "
                    "Objects of one image are resampled together. Each "
                    f"size is a third of the test set's objects: {_bounds(told)}{of_alarms}{whole(result)}"
                    f"{_missing(result)}{older}", alarms)
    flat = any(str(cell).endswith(CERTAIN) for cell in table.frame.to_numpy().flat)
    return replace(table, caption=f"{table.caption}{FLAT}") if flat else table


def _several(p: Params) -> bool:
    return len(p.data.classes) > 1


def _of_class(p: Params, number: int, columns: Callable[[int], list[str]], only: str) -> str:
    """The column of a class, by its number from 0, among those that `columns` names; `only` where there is
    one class."""
    return columns(len(p.data.classes))[number] if _several(p) else only


def outlines(run: Run, result: Tested, by: list[str], name: str) -> Table:
    """HD95, normalised surface distance and expected calibration error."""
    p, distances = run.params, replace(result, images=result.details.distances)
    errors: dict[tuple[str, ...], list[float]] = {}
    for key, table in result.details.calibration.groupby([*by, "test_set", "seed"], sort=False, dropna=False):
        errors.setdefault(_key(key[:-1]), []).append(calibration.error(table))
    alone = replace(distances, images=distances.images.assign(**{
        ALONE: (distances.images["hd95"] > boundaries.diagonal(p.data.image_size) - 1).astype(float)}))
    frame = _rows(result, by, {
        "HD95, px": _means(p, distances, by, "hd95", ".1f"),
        **({ALONE: _means(p, alone, by, ALONE)} if len(p.data.classes) == 1 else {}),
        "surface distance": _means(p, distances, by, "nsd"),
        "calibration error": {key: f"{sum(each) / len(each):.4f}" for key, each in errors.items()}})
    side = p.data.image_size
    return show(frame, name, f"Outlines, with 95 % intervals, and probabilities, computed in this "
                f"run, of images of {side} pixels a side. HD95: lower is better; where only one mask is "
                f"empty it is the diagonal, and if that is so in many images, the mean says little else. "
                f"Normalised surface distance: the share of both outlines within "
                f"{boundaries.tolerance(side):.3g} px of the other. Calibration error: expected, means over "
                f"seeds; lower is better.{whole(result)}{_missing(result)}")


def by_sequence(run: Run, result: Tested, by: list[str], name: str) -> Table:
    """Dice with its interval over images, and over whole sequences of frames, or centres."""
    return _by_sequence(run.params, result, by, name, DICE, ".3f", 0.0, (
        (key, intervals.matrix(group, "dice"), intervals.generators(group))
        for key, group in result.images.groupby([*by, "test_set"], sort=False, dropna=False)))


def gains_by_sequence(run: Run, result: Tested, name: str) -> Table:
    """The gain over Real of chapter 7, with both intervals of `by_sequence`."""
    by = ["size", "data_type", "ratio"]
    return _by_sequence(run.params, result, by, name, f"gain over Real in {DICE}", "+.3f", -1.0,
                        gains(result.images))


def gains(images: pd.DataFrame, measure: str = "dice") -> Iterator[Values]:
    """For each size, data type, r and test set: differences from Real in a column of these rows."""
    by = ["data_type", "ratio"]
    for (size, test), here in images.groupby(["size", "test_set"], sort=False):
        real = here[here["data_type"] == REAL.name]
        for (kind, ratio), rows in here[here["data_type"] != REAL.name].groupby(by, sort=False, dropna=False):
            gain = intervals.differences(rows, real, measure)
            if gain.size:
                yield (size, kind, ratio, test), gain, intervals.generators(rows)


def _areas(result: Tested, number: int) -> pd.DataFrame:
    """The area of a class, by its number from 0, in each test image, as a share of the image."""
    tables = [pd.DataFrame({"test_set": test.name, "image": test.pairs.names,
                            "area": test.pairs.masks[:, number].mean(axis=(1, 2))})
              for test in result.tests if test.pairs is not None]
    return pd.concat(tables) if tables else pd.DataFrame({"test_set": [], "image": [], "area": []}, dtype=str)


def _parted(frame: pd.DataFrame, known: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows with a column `third`, one of SIZES by thirds of `known` areas; and the bounds in words."""
    of_test = {str(test): lesionwise.bounds(rows["area"])
               for test, rows in known.groupby("test_set", sort=False)}
    parts = [rows.assign(third=lesionwise.sizes(rows["area"], of_test[str(test)]))
             for test, rows in frame.groupby("test_set", sort=False)]
    words = [f"in {escaped(test)} up to {low:.1%} of the image, up to {high:.1%}, and more".replace("%", " %")
             for test, (low, high) in of_test.items()]
    return (pd.concat(parts) if parts else frame.assign(third=pd.Series(dtype=str)),
            "; ".join(words))


def _bounds(told: list[tuple[str, str]]) -> str:
    """The bounds of every class in words, by its name where there are several."""
    known = [f"{escaped(title)}, {words}" if len(told) > 1 else words for title, words in told if words]
    return f"{'; '.join(known) or 'there is none'}."


def _resampled(result: Tested, frame: pd.DataFrame) -> list[str]:
    """What each row is resampled with: its sequence, centre or patient, or else its image."""
    known = {test.name: result.groups_of(test.name) or {} for test in result.tests}
    return [known[test].get(image, image)
            for test, image in zip(frame["test_set"], frame["image"], strict=True)]


def _thirds(p: Params, result: Tested, parts: Mapping[str, pd.DataFrame], by: list[str], name: str,
            caption: str, further: Mapping[str, Mapping[str, CellTexts]] = NOTHING) -> Table:
    """Means of `value` by size, and `further` columns, for each class's rows in `parts`; a single row where
    these have none."""
    if len(result.images) and not further and all(frame.empty for frame in parts.values()):
        return show(pd.DataFrame({"objects by size": ["not known for any network"]}), name, caption)
    tables = []
    for title, frame in parts.items():
        columns = {size: _means(p, replace(result, images=frame[frame["third"] == size]), by, "value")
                   for size in lesionwise.SIZES}
        rows = _rows(result, by, {**columns, **further.get(title, {})})
        tables.append(pd.concat([pd.DataFrame({"class": title}, index=rows.index), rows], axis=1)
                      if len(parts) > 1 else rows)
    return show(pd.concat(tables, ignore_index=True), name, caption)


def _rows(result: Tested, by: list[str], columns: dict[str, CellTexts]) -> pd.DataFrame:
    """A row for each combination of `by` and test set that was tested, with these columns."""
    keys = result.images[[*by, "test_set"]].drop_duplicates()
    cells = {heading: [texts.get(_key(key), "") for key in keys.itertuples(index=False)]
             for heading, texts in columns.items()}
    return plain(keys.assign(**cells))


def _means(p: Params, result: Tested, by: list[str], value: str, digits: str = ".3f") -> CellTexts:
    """Means of a column of `images` with their intervals."""
    means = trials.summary(result, by, value, p.segment.resamples, p.seed)
    keys = means[[*by, "test_set"]].itertuples(index=False)
    return {_key(key): with_interval(row.mean, row.low, row.high, digits)
            for key, row in zip(keys, means.itertuples(index=False), strict=True)}


def _key(values: Iterable[Any]) -> tuple[str, ...]:
    """Names and whole numbers as text, whatever type pandas has given the numbers where some are missing."""
    return tuple("" if pd.isna(value) else value if isinstance(value, str) else str(int(value))
                 for value in values)


def _by_sequence(p: Params, result: Tested, by: list[str], name: str, heading: str, digits: str,
                 least: float, values: Iterator[Values]) -> Table:
    """Means of `values`, which lie between `least` and 1, with intervals over images and over groups."""
    groups = {test.name: test.groups for test in result.tests}
    rows = []
    for key, matrix, generators in values:
        known = groups.get(key[-1])
        if known is None or not set(matrix.columns) <= set(known.of):
            continue
        count = len({known.of[image] for image in matrix.columns})
        both = (intervals.of(matrix, p.segment.resamples, p.seed, generators),
                intervals.of_groups(matrix, known.of, p.segment.resamples, p.seed, generators))
        rows.append({**dict(zip([*by, "test_set"], key, strict=True)), "groups": f"{count} {known.kind}s",
                     **{f"{heading}, over {what}": _text(each.within(least, 1), digits)
                        for what, each in zip(("images", "groups"), both, strict=True)}})
    frame = plain(pd.DataFrame(rows)) if rows else pd.DataFrame([{
        "test set": "none", "why": "no test set of this run names its sequences, centres or patients"}])
    return show(frame, name, f"{sentence(heading.replace(DICE, captioned(p)))}, computed in this run, with "
                "95 % intervals that take images to be independent, and with intervals that resample whole "
                "groups: sequences of frames, or the centres or patients that images are of.")


def _text(interval: Interval, digits: str) -> str:
    return with_interval(interval.mean, interval.low, interval.high, digits)


def _missing(result: Tested) -> str:
    """A sentence where some finished networks have no details; "" where all have them."""
    finished = result.runs.loc[result.runs["status"] == OK, FIELDS]
    lacking = len(finished) - len(result.details.distances.drop_duplicates(FIELDS))
    if lacking <= 0 or result.images.empty:
        return ""
    return (f" This is not known for {lacking} networks, which predate these measures. Run the chapter "
            "again; for those whose weights were not kept it stays unknown.")
