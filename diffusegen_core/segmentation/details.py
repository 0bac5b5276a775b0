"""What chapters 6 and 7 say of a network's predictions beside Dice and IoU: distances, lesions, calibration.

They are computed from the same predictions as the scores, and kept for each network and test set as an
artifact of their own, EXPERIMENT/details/NAME. So the scores of networks that are older than the details hold
as they are. Such networks get theirs from the kept weights; where these were not kept there are none.
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

VERSION = 1  # raised when the same network and test set would give others
WEIGHTS = "model.safetensors"  # of a network, in Place.weights
# A table of each, by its file: the columns that follow FIELDS and test_set.
FALSE_ALARMS = "false_alarms"
TABLES = {"distances.csv": ["image", *boundaries.COLUMNS, FALSE_ALARMS], "lesions.csv": lesionwise.COLUMNS,
          "calibration.csv": calibration.COLUMNS}
# The predicted masks of the images with the lowest Dice: so many are kept, as all frames of a sequence may be
# among them, and so many shown.
MASKS, KEPT, WORST = "worst.npz", 24, 3


def _empty(file: str) -> pd.DataFrame:
    return pd.DataFrame(columns=[*FIELDS, GENERATOR, "test_set", *TABLES[file]])


@dataclass(frozen=True)
class Details:
    """Those of a grid, as far as they are known: FIELDS, GENERATOR, test_set, and what the measure's own
    table has."""

    distances: pd.DataFrame = field(default_factory=partial(_empty, "distances.csv"))
    """A row an image, as `boundaries.scores`, with its `lesionwise.false_alarms`: NaN in older results."""
    lesions: pd.DataFrame = field(default_factory=partial(_empty, "lesions.csv"))
    """A row a lesion, as `lesionwise.each`."""
    calibration: pd.DataFrame = field(default_factory=partial(_empty, "calibration.csv"))
    """A row a bin, as `calibration.bins`."""
    masks: dict[tuple[str, str], Path] = field(default_factory=dict)
    """For `worst`: by the name of the network in `Results.runs` and the test set."""


def of(place: Place, test: str) -> Artifact:
    """The details of a finished network on a test set."""
    recipe = {"version": VERSION, "pairs": place.recipe["tests"][test]["pairs"],
              "network": contents(place.network.stamp)}
    return replace(place.workspace.artifact(f"{place.name}/details/{test}", recipe), quiet=True)


def keep(place: Place, test: str, probabilities: np.ndarray, pairs: Pairs) -> None:
    """Measure what a network predicted, (N, M + 1, S, S), of a test set's pairs, unless that is done.

    Distances are means over the classes. Lesions are those of all classes together, and so is their
    probability: of classes that overlap, that of the likeliest.
    """
    artifact = of(place, test)
    if artifact.made():
        return
    began, folder = time.monotonic(), artifact.begin()
    predicted, true = overlap.hard(probabilities, pairs.overlap)[:, 1:], planes.union(pairs.masks)
    each = probabilities[:, 1:]
    lesion = planes.union(predicted)
    tables = (boundaries.scores(predicted, pairs.masks).assign(
                  image=pairs.names, **{FALSE_ALARMS: lesionwise.false_alarms(lesion, true)}),
              lesionwise.each(lesion, true, pairs.names),
              calibration.bins(each.max(axis=1) if pairs.overlap else each.sum(axis=1), true, pairs.names,
                               place.workspace.seed))
    outputs = [files.write_text(folder / file, table[columns].to_csv(index=False, float_format="%.6g"))
               for (file, columns), table in zip(TABLES.items(), tables, strict=True)]
    dice = overlap.scores(probabilities, pairs.masks, pairs.overlap)["dice"].to_numpy()
    worst = np.argsort(dice, kind="stable")[:KEPT]
    outputs.append(files.write(folder / MASKS, lambda file: np.savez_compressed(
        file, images=np.array(pairs.names)[worst], dice=dice[worst],
        masks=lesion[worst] if pairs.planes.classes == 1 else planes.numbered(predicted[worst]))))
    artifact.finish(outputs, time.monotonic() - began, device=devices.name(place.workspace.device))


def worst(known: Details, name: str, test: str,
          groups: Mapping[str, str] | None = None) -> list[tuple[str, float, np.ndarray]]:
    """The WORST images of a test set by a network's Dice, the lowest first: their names, Dice and predicted
    masks (S, S), bool or class numbers; none where the network has no details.

    With `groups`, the sequence, centre or patient of each image, as many as possible are of different groups.
    """
    if (name, test) not in known.masks:
        return []
    with np.load(known.masks[name, test], allow_pickle=False) as kept:
        images, cases = kept["images"].tolist(), zip(kept["dice"].tolist(), kept["masks"], strict=True)
        told = [(image, *case) for image, case in zip(images, cases, strict=True)]
    again = pd.Series([(groups or {}).get(image, image) for image in images]).duplicated()
    return [told[place] for place in sorted(np.argsort(again.to_numpy(), kind="stable")[:WORST])]


def obtainable(place: Place) -> list[str]:
    """The test sets on which a finished network has scores but no details, if its weights can give them."""
    if place.status != OK:
        return []
    lacking = [test for test in place.recipe.get("tests", {}) if not of(place, test).made()]
    try:
        return lacking if lacking and place.kept else []
    except UserError:  # changed by hand: no reason to refuse results that hold without them
        return []


def complete(ws: Workspace, title: str, grid: Grid, settings: Segment, tests: Mapping[str, Path]) -> None:
    """Measure what the weights of finished networks can still give; `tests` are files. Nothing is trained."""
    items = [fanout.Item(experiment.label, {"place": place, "names": names, "settings": settings,
                                            "tests": dict(tests)})
             for experiment, place in experiments.places(ws, grid).items() if (names := obtainable(place))]
    if items:
        log.info("%s: more is measured of %d finished networks, from their weights.", title, len(items))
        fanout.run(_measure, items, f"{title}, details")


def _measure(place: Place, names: list[str], settings: Segment, tests: dict[str, Path]) -> None:
    device = devices.device(place.workspace.device)
    try:
        net = segnet.load(place.weights / WEIGHTS, settings, device)
    except UserError as error:  # the scores hold without
        log.warning("%s gets no details: %s", place.experiment.label, error)
        return
    for name in names:
        test = dataset.read(tests[name])
        keep(place, name, segnet.predict(net, test.images, settings, device), test)


def read(ws: Workspace, grid: Grid) -> Details:
    """Those of the finished experiments of a grid, as far as they are there. Nothing is made."""
    tables: dict[str, list[pd.DataFrame]] = {file: [] for file in TABLES}
    masks = {}
    for experiment, place in experiments.places(ws.read_only, grid).items():
        if place.status != OK:
            continue
        for test in place.recipe.get("tests", {}):
            artifact = of(place, test)
            if artifact.made():
                masks[Path(place.name).name, test] = artifact.file(MASKS)
                for file in TABLES:
                    table = pd.read_csv(artifact.file(file), dtype={"image": str}, keep_default_na=False,
                                        na_values={"probability": [""], calibration.SHARE: [""]})
                    tables[file].append(table.assign(**experiment.row, test_set=test,
                                                     generator=experiment.generator))
    distances, of_lesions, bins = (_gathered(file, known) for file, known in tables.items())
    return Details(distances, of_lesions, bins, masks)


def _gathered(file: str, tables: list[pd.DataFrame]) -> pd.DataFrame:
    empty = _empty(file)
    frame = pd.concat(tables, ignore_index=True).reindex(columns=list(empty)) if tables else empty
    return frame.astype(dict.fromkeys(["size", "samples", "ratio", GENERATOR], "Int64"))


def write(folder: Path, known: Details) -> None:
    """The tables of a chapter, as `experiments.run` writes its results, into its folder."""
    for file, table in zip(TABLES, (known.distances, known.lesions, known.calibration), strict=True):
        files.write_text(folder / file, table.to_csv(index=False))
