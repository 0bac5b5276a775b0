"""Measures beyond Dice and IoU of a network's predictions (chapters 6, 7): distances, lesions, calibration.

They are computed from the same predictions as the scores, and kept for each network and test set as a
separate artifact, EXPERIMENT/details/NAME, so the scores of networks that predate them stay valid. Such
networks get their details from the kept weights, or have none if the weights were not kept.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Segment
from diffusegen_core.data import dataset, planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.measures import boundaries, calibration, lesionwise, overlap
from diffusegen_core.measures.intervals import GENERATOR
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import experiments, segnet
from diffusegen_core.segmentation.experiments import FIELDS, OK, Grid, Place
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Artifact
from diffusegen_core.store.stamps import contents
from diffusegen_core.store.workspace import Workspace

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same network and test set would give other details
BY_CLASS = 2  # the same with several classes, whose lesions older programs did not tell apart
WEIGHTS = "model.safetensors"  # a network's file in Place.weights
FALSE_ALARMS, CLASS = "false_alarms", "class"
# By file: the columns that the measure itself adds to the table.
TABLES = {"distances.csv": ["image", *boundaries.COLUMNS, FALSE_ALARMS],
          "lesions.csv": [*lesionwise.COLUMNS, CLASS], "calibration.csv": calibration.COLUMNS}
# The predicted masks of the images with the lowest Dice. KEPT exceeds WORST, the number shown, because the
# lowest may all be frames of one sequence.
MASKS, KEPT, WORST = "worst.npz", 24, 3


def _empty(file: str) -> pd.DataFrame:
    return pd.DataFrame(columns=[*FIELDS, GENERATOR, "test_set", *TABLES[file]])


@dataclass(frozen=True)
class Details:
    """The details of a grid, as far as they are known. Each table has FIELDS, GENERATOR, test_set, and the
    columns of its measure."""

    distances: pd.DataFrame = field(default_factory=partial(_empty, "distances.csv"))
    """One row per image, as in `boundaries.scores`, plus `lesionwise.false_alarms` of all classes together
    and, with several, of each (`alarms_of`); NaN in older results."""
    lesions: pd.DataFrame = field(default_factory=partial(_empty, "lesions.csv"))
    """One row per lesion of each class, as in `lesionwise.each`; CLASS is the class's number from 1. It is
    NaN in older results, whose lesions are of all classes together."""
    calibration: pd.DataFrame = field(default_factory=partial(_empty, "calibration.csv"))
    """One row per bin, as in `calibration.bins`."""
    masks: dict[tuple[str, str], Path] = field(default_factory=dict)
    """The files that `worst` reads, by the network's name in `Results.runs` and the test set."""


def alarms_of(classes: int) -> list[str]:
    """The columns of each class's false alarms; none for a single class."""
    return [f"{FALSE_ALARMS}_{number}" for number in range(1, classes + 1)] if classes > 1 else []


def of(place: Place, test: str, older: bool = False) -> Artifact:
    """The details of a finished network on a test set; if `older`, those that tell no classes apart."""
    told = place.recipe["tests"][test]
    several = set(told["columns"]) > set(overlap.columns(1))
    recipe = {"version": BY_CLASS if several and not older else VERSION, "pairs": told["pairs"],
              "network": contents(place.network.stamp)}
    return replace(place.workspace.artifact(f"{place.name}/details/{test}", recipe), quiet=True)


def keep(place: Place, test: str, probabilities: np.ndarray, pairs: Pairs) -> None:
    """Measure a network's predictions (N, M + 1, S, S) on a test set's pairs, unless that was done before.

    Distances are means over the classes. Lesions are those of each class. Probabilities are of all classes
    together: the sum over the classes, or that of the likeliest class where classes overlap.
    """
    artifact = of(place, test)
    if artifact.made():
        return
    began, folder = time.monotonic(), artifact.begin()
    predicted, true = overlap.hard(probabilities, pairs.overlap)[:, 1:], planes.union(pairs.masks)
    each = probabilities[:, 1:]
    lesion = planes.union(predicted)
    classes = [(predicted[:, number], pairs.masks[:, number]) for number in range(pairs.planes.classes)]
    alarms = {column: lesionwise.false_alarms(*one)
              for column, one in zip(alarms_of(len(classes)), classes, strict=False)}
    tables = (boundaries.scores(predicted, pairs.masks).assign(
                  image=pairs.names, **{FALSE_ALARMS: lesionwise.false_alarms(lesion, true)}, **alarms),
              pd.concat([lesionwise.each(*one, pairs.names).assign(**{CLASS: number})
                         for number, one in enumerate(classes, 1)]),
              calibration.bins(each.max(axis=1) if pairs.overlap else each.sum(axis=1), true, pairs.names,
                               place.workspace.seed))
    columns = {**TABLES, "distances.csv": [*TABLES["distances.csv"], *alarms]}
    outputs = [files.write_text(folder / file, table[columns[file]].to_csv(index=False, float_format="%.6g"))
               for file, table in zip(TABLES, tables, strict=True)]
    dice = overlap.scores(probabilities, pairs.masks, pairs.overlap)["dice"].to_numpy()
    worst = np.argsort(dice, kind="stable")[:KEPT]
    outputs.append(files.write(folder / MASKS, lambda file: np.savez_compressed(
        file, images=np.array(pairs.names)[worst], dice=dice[worst],
        masks=lesion[worst] if pairs.planes.classes == 1 else planes.numbered(predicted[worst]))))
    artifact.finish(outputs, time.monotonic() - began, device=devices.name(place.workspace.device))


def worst(known: Details, name: str, test: str,
          groups: Mapping[str, str] | None = None) -> list[tuple[str, float, np.ndarray]]:
    """The WORST images of a test set by a network's Dice, lowest first: their names, Dice and predicted masks
    (S, S), bool or class numbers; [] where the network has no details.

    With `groups`, the sequence, centre or patient of each image, they come from as many groups as possible.
    """
    if (name, test) not in known.masks:
        return []
    with np.load(known.masks[name, test], allow_pickle=False) as kept:
        images, cases = kept["images"].tolist(), zip(kept["dice"].tolist(), kept["masks"], strict=True)
        told = [(image, *case) for image, case in zip(images, cases, strict=True)]
    again = pd.Series([(groups or {}).get(image, image) for image in images]).duplicated()
    return [told[place] for place in sorted(np.argsort(again.to_numpy(), kind="stable")[:WORST])]


def obtainable(place: Place) -> list[str]:
    """The test sets on which a finished network has scores but no details, if its weights were kept."""
    if place.status != OK:
        return []
    lacking = [test for test in place.recipe.get("tests", {}) if not of(place, test).made()]
    try:
        return lacking if lacking and place.kept else []
    except UserError:  # changed by hand, but the results are valid without the weights
        return []


def complete(ws: Workspace, title: str, grid: Grid, settings: Segment, tests: Mapping[str, Path]) -> None:
    """Compute the missing details of finished networks from their weights, without training anything.

    `tests` are the files of the test sets.
    """
    items = [fanout.Item(experiment.label, ws, {"place": place, "names": names, "settings": settings,
                                                "tests": dict(tests)})
             for experiment, place in experiments.places(ws, grid).items() if (names := obtainable(place))]
    if items:
        log.info("%s: computing further measures of %d finished networks from their weights.", title,
                 len(items))
        fanout.run(_measure, items, f"{title}, details")


def _measure(place: Place, names: list[str], settings: Segment, tests: dict[str, Path]) -> None:
    device = devices.device(place.workspace.device)
    try:
        net = segnet.load(place.weights / WEIGHTS, settings, device)
    except UserError as error:  # the scores are valid without details
        log.warning("%s gets no details: %s", place.experiment.label, error)
        return
    for name in names:
        test = dataset.read(tests[name])
        keep(place, name, segnet.predict(net, test.images, settings, device), test)


def read(ws: Workspace, grid: Grid) -> Details:
    """The details of a grid's finished experiments, as far as they exist. Nothing is made."""
    tables: dict[str, list[pd.DataFrame]] = {file: [] for file in TABLES}
    masks = {}
    for experiment, place in experiments.places(ws.read_only, grid).items():
        if place.status != OK:
            continue
        for test in place.recipe.get("tests", {}):
            artifact = of(place, test)
            if not artifact.made():
                artifact = of(place, test, older=True)
            if artifact.made():
                masks[Path(place.name).name, test] = artifact.file(MASKS)
                for file in TABLES:
                    tables[file].append(_table(artifact.file(file)).assign(
                        **experiment.row, test_set=test, generator=experiment.generator))
    distances, of_lesions, bins = (_gathered(file, known) for file, known in tables.items())
    return Details(distances, of_lesions, bins, masks)


def _table(path: Path) -> pd.DataFrame:
    """A table of TABLES, under today's names: older results name the share of object pixels otherwise."""
    names = {"names": calibration.COLUMNS, "header": 0} if path.name == "calibration.csv" else {}
    return pd.read_csv(path, dtype={"image": str}, keep_default_na=False,
                       na_values={"probability": [""], calibration.SHARE: [""]}, **names)


def _gathered(file: str, tables: list[pd.DataFrame]) -> pd.DataFrame:
    empty = _empty(file)
    frame = pd.concat(tables, ignore_index=True) if tables else empty
    frame = frame.reindex(columns=list(dict.fromkeys([*empty, *frame])))
    return frame.astype(dict.fromkeys(["size", "samples", "ratio", GENERATOR], "Int64"))


def write(folder: Path, known: Details) -> None:
    """Write the tables into a chapter's folder, where `experiments.run` writes its results."""
    for file, table in zip(TABLES, (known.distances, known.lesions, known.calibration), strict=True):
        files.write_text(folder / file, table.to_csv(index=False))
