"""The first part of `diffusegen new`: reading the folder, identifying patients, and holding some out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, printable, some
from diffusegen_core.config.text import counted
from diffusegen_core.data import checkup, layouts, patients
from diffusegen_core.data.checkup import Checkup
from diffusegen_core.data.reports import Report
from diffusegen_core.data.sequences import PATIENT, SEQUENCE
from diffusegen_core.measures import power
from diffusegen_core.newprofile import guesses

SHARES = 0.2, 0.25, 0.3, 0.35  # held out: the first that gives as many test images as a verdict needs
OF_FEW = 0.3  # the share where none of them does
MOST = 0.6  # the largest share that leaves something to train on
FEWEST = 4  # usable pairs that a run needs
SMALL = 12  # pixels at the run's size below which a lesion is hardly one
FEW = 0.1  # share of the pairs that may be left out for such lesions


def least_area(side: int) -> float:
    """SMALL as a share of an image, for data.min_area."""
    return round(SMALL / side**2, 6)


@dataclass(frozen=True)
class Folder:
    """What was found in the folder."""

    settings: Data
    seen: Checkup
    listed: Report
    """Its pairs as listed, unusable ones included: a run holds out a share of these."""
    seed: int
    guessed: bool
    """Whether the rule that identifies patients was guessed from the names."""
    patients: dict[str, str]
    """The patient of each pair, or its sequence of frames; {} where unknown."""
    held: list[str]
    """The usable pairs that are held out."""

    @property
    def kind(self) -> str:
        """Whether `patients` are patients or sequences, in words."""
        return SEQUENCE if self.settings.patients is None else PATIENT

    @property
    def pairs(self) -> int:
        """How many usable pairs are not held out."""
        return len(self.seen.report.pairs) - len(self.held)

    def small(self, side: int) -> set[str]:
        """The pairs with a lesion below SMALL pixels at a run's size."""
        return {name for area, name, _ in self.seen.seen.areas if area * side**2 < SMALL}

    def small_ones(self, side: int) -> str:
        """What of these pairs is so small: "lesion", or with several classes "region of kidney, tumour"."""
        numbers = {number for area, _, number in self.seen.seen.areas if area * side**2 < SMALL}
        if len(self.settings.classes) == 1:
            return "lesion"
        return f"region of {some([printable(self.settings.classes[number]) for number in sorted(numbers)])}"

    def left_out(self, side: int) -> set[str]:
        """The `small` pairs if they are few enough to leave out, and the user has not decided about them."""
        asked = self.settings.min_area is not None or self.settings.on_bad == "skip"
        small = self.small(side)
        return small if not asked and len(small) <= FEW * len(self.seen.report.pairs) else set()

    def kept(self, side: int) -> tuple[int, int]:
        """How many pairs a run at this size has to train on, and how many it holds out."""
        out, held = self.left_out(side), set(self.held)
        return self.pairs - len(out - held), len(held - out)

    def enough(self, side: int, each_class: bool = False) -> tuple[float, int] | None:
        """The least data.holdout with enough test images for a verdict, on `each_class` if so, and how many
        pairs it leaves a run at this size; None where it would exceed MOST."""
        return least(self.listed, {pair.name for pair in self.seen.report.pairs} - self.left_out(side),
                     self.settings, self.seed, lambda held: checkup.showing(
                         self.seen.seen, self.settings, held).values() if each_class else ())

    def lines(self, side: int) -> list[tuple[str, str, str]]:
        """What was found, one verdict per line, and who is held out of a run at this size."""
        seen = [line for line in self.seen.lines if line[1] != "patients"]
        told = (checkup.LOOK if not self.patients else checkup.OK, "patients", self._patients(side))
        return [*seen, *([told] if self.held or self.patients else []), *self._classes(side)]

    def shown(self, side: int) -> dict[str, int]:
        """How many test images of a run at this size show each of several classes; {} of a single one."""
        if not self.held or len(self.settings.classes) == 1:
            return {}
        return checkup.showing(self.seen.seen, self.settings, set(self.held) - self.left_out(side))

    def _classes(self, side: int) -> list[tuple[str, str, str]]:
        if not (shown := self.shown(side)):
            return []
        enough = min(shown.values()) >= power.LEAST_IMAGES
        return [(checkup.OK if enough else checkup.LOOK, "held out",
                 f"of {counted(self.kept(side)[1], 'mask')}: {checkup.listed(shown)}; a verdict on a class "
                 f"needs {power.LEAST_IMAGES}")]

    def _patients(self, side: int) -> str:
        train, test = self.kept(side)
        held = f"{test} of {train + test} pairs are held out"
        if not self.patients:
            return f"unknown; {held}"
        groups = len({self.patients[name] for name in set(self.held) - self.left_out(side)})
        return f"{patients.described(self.patients, self.kind)}; {held}, of {counted(groups, self.kind)}"


def look(source: Path, globs: Mapping[str, str], told_by: str | None, given: Mapping[str, Any],
         seed: int = 0) -> Folder:
    """Look at a folder, and again if that suggests other channels or labels than the defaults.

    `globs` are data.images and data.masks, `told_by` is data.patients, `given` all else that the user sets in
    `data`, `seed` the run's. UserError where the folder has problems or too few pairs.
    """
    if not globs and "images" not in given:
        globs = layouts.only_patterns(source)
    base = {"source": str(source), "count": None, "object": "lesion", "image_size": 64, **globs,
            **({"patients": told_by} if told_by else {}), **given}
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
        raise UserError(f"{source} holds {len(seen.report.pairs)} usable pairs; a run needs at least "
                        f"{FEWEST}.")
    guess = guesses.patients(seen.report) if settings.patients is None and "patients" not in given else None
    if guess:
        settings = settings.model_copy(update={"patients": guess})
    listed, usable = layouts.scan(source, settings), {pair.name for pair in seen.report.pairs}
    if "holdout" not in given:
        part, _ = share(listed, usable, settings, seen.seen, seed)
        settings = settings.model_copy(update={"holdout": part})
    told, held = patients.split(listed, settings, seed)
    if guess:
        seen = seen.told_patients(settings)
    return Folder(settings, seen, listed, seed, guess is not None,
                  {name: patient for name, patient in told.items() if name in usable},
                  [name for name in held if name in usable])


def share(listed: Report, usable: Collection[str], settings: Data, seen: checkup.Seen,
          seed: int = 0) -> tuple[float, set[str]]:
    """The least of SHARES that holds out as many images as a verdict on each class needs, or else as one on
    all of them needs, or else OF_FEW; and those of the `usable` names that it holds out."""
    held = {part: set(usable).intersection(held_out(listed, settings, part, seed)) for part in SHARES}
    enough = [part for part, names in held.items() if len(names) >= power.LEAST_IMAGES]
    of_each = [part for part in enough
               if min(checkup.showing(seen, settings, held[part]).values()) >= power.LEAST_IMAGES]
    part = next(iter([*of_each, *enough]), OF_FEW)
    return part, held[part]


def least(listed: Report, usable: set[str], settings: Data, seed: int = 0,
          shown: Callable[[set[str]], Collection[int]] = lambda held: ()) -> tuple[float, int] | None:
    """The least data.holdout that holds out as many of the `usable` pairs as a verdict needs, and how many it
    leaves; None where it would exceed MOST. Each number in `shown(held)` must be enough as well."""
    for hundredth in range(1, round(100 * MOST) + 1):
        held = usable.intersection(held_out(listed, settings, hundredth / 100, seed))
        if min([len(held), *shown(held)]) >= power.LEAST_IMAGES:
            return hundredth / 100, len(usable - held)
    return None


def held_out(listed: Report, settings: Data, share: float, seed: int = 0) -> list[str]:
    """The names of the pairs that a share of data.holdout holds out."""
    return patients.split(listed, settings.model_copy(update={"holdout": share}), seed)[1]
