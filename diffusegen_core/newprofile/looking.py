"""The first part of `diffusegen new`: how the folder is read, what tells patients, and who is held out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.data import advice, checkup, layouts, patients
from diffusegen_core.data.checkup import Checkup
from diffusegen_core.data.reports import Report
from diffusegen_core.measures import power
from diffusegen_core.newprofile import guesses

SHARES = 0.2, 0.25, 0.3, 0.35  # the first is taken that gives as many test images as a verdict needs
OF_FEW = 0.3  # where none does
FEWEST = 4  # pairs


@dataclass(frozen=True)
class Folder:
    """The folder as it was looked at."""

    settings: Data
    seen: Checkup
    guessed: bool
    """Whether what tells patients was guessed from the names."""
    patients: dict[str, str]
    """The patient of each pair, {} where nothing tells."""
    held: list[str]
    """The pairs that are held out."""

    @property
    def pairs(self) -> int:
        """How many are not held out."""
        return len(self.seen.report.pairs) - len(self.held)

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """What was seen, a verdict a line, and who is held out."""
        last = (checkup.LOOK if not self.patients else checkup.OK, "patients", self._patients())
        return [*self.seen.lines, *([last] if self.held or self.patients else [])]

    def _patients(self) -> str:
        held = f"{len(self.held)} of {len(self.seen.report.pairs)} pairs are held out"
        if not self.patients:
            return f"nothing tells them; {held}"
        groups = len({self.patients[name] for name in self.held})
        return f"{told(self.patients)}; {held}, of {groups} patients"


def told(of_pairs: Mapping[str, str]) -> str:
    """How many patients there are, in words."""
    sizes = Counter(of_pairs.values())
    low, high = min(sizes.values()), max(sizes.values())
    each = f"{low} to {high} images" if low < high else f"{low} image{'s' if low > 1 else ''}"
    return f"{len(sizes)} patients, {each} each, such as {printable(min(sizes))}"


def look(source: Path, globs: Mapping[str, str], told_by: str | None, given: Mapping[str, Any]) -> Folder:
    """Look at a folder; twice where the first look suggests other channels or labels than the defaults.

    `globs` are data.images and data.masks, `told_by` is data.patients, `given` all else that the user says of
    data. UserError where it has problems, or too few pairs.
    """
    base = {"source": str(source), "count": None, "object": "lesion", "image_size": 64,
            **(globs or _patterns(source, given)), **({"patients": told_by} if told_by else {}), **given}
    settings = params.typed(Data, base, "Parameters: data")
    seen = checkup.checkup(source, None, settings)
    better: dict[str, Any] = {}
    if "channels" not in given and seen.seen.images and seen.seen.colourless:
        better["channels"] = 1
    if "labels" not in given and (labels := guesses.labels(seen.seen, seen.report)):
        better["labels"] = labels
    if (better | dict(given)).get("labels") and "object" not in given:
        del base["object"]  # the classes have names
    if better:
        settings = params.typed(Data, {**base, **better}, "Parameters: data")
        seen = checkup.checkup(source, None, settings)
    if seen.report.problems and settings.on_bad == "refuse":
        raise UserError(f"{seen.report.brief()}\nCorrect the folder, or leave these out: -p data.on_bad "
                        "skip.")
    if len(seen.report.pairs) < FEWEST:
        raise UserError(f"{source} holds {len(seen.report.pairs)} usable pairs, and a run takes {FEWEST} at "
                        "least.")
    guess = guesses.patients(seen.report) if settings.patients is None and "patients" not in given else None
    if guess:
        settings = settings.model_copy(update={"patients": guess})
    if "holdout" not in given:
        settings = settings.model_copy(update={"holdout": _share(seen.report, settings)})
    return Folder(settings, seen, guess is not None, *patients.split(seen.report, settings, 0))


def _patterns(source: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """The patterns by which every picture of a folder without a known layout is an image or a mask."""
    if "images" in given or not source.is_dir():
        return {}
    try:
        layouts.scan(source)
    except layouts.UnknownLayoutError:
        count, images, masks = advice.patterns(source)
        if count:
            globs = {"images": images, "masks": masks}
            report = layouts.scan(source, Data(**globs))  # type: ignore[arg-type]
            if not report.problems and not report.ignored:
                return globs
    return {}


def _share(report: Report, settings: Data) -> float:
    """The least of SHARES that holds out as many images as a verdict needs; of few pairs OF_FEW."""
    for share in SHARES:
        _, held = patients.split(report, settings.model_copy(update={"holdout": share}), 0)
        if len(held) >= power.LEAST_IMAGES:
            return share
    return OF_FEW
