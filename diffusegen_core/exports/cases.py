"""The content of an export: the pairs of some data types, each with its origin and its split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from diffusegen_core.data import fits, patients, planes
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets

TRAIN, VALID, HELD, TEST = "train", "validation", "held_back", "test"
SPLITS = (TRAIN, VALID, HELD)  # and TEST, where held-out pairs are asked for
SYNTHETIC = "synthetic"
NOT_AUDITED = "not audited"
FOLDS = 5  # of cross-validation, as in nnU-Net
CHANNELS = (1, 3)  # that an image in a picture file may have
ORIGINS = ["case", "origin", "data_type", "generator", "pair", "source", "lesion_of", "group", "model",
           "sample", "split", "near_copy"]
NAMED = ["case", "pair", "source", "lesion_of"]  # of the table that resolves numbers to the run's names


@dataclass(frozen=True)
class Case:
    """One pair of an export."""

    case: str
    """Its unique name there: "2-Styled-Paint__0012", or "2-Styled-Paint__NAME" where names are kept."""
    data_type: DataType
    pair: str
    """Its name in the run."""
    source: str
    """The real pair that it was made of, or is; a stand-in where that is unknown."""
    lesion_of: str
    """The origin of its lesion or mask, where one was pasted or given: a real pair, or a file of
    inpaint.masks; else the source."""
    model: str
    """The model that painted it; "none" where none did."""
    sample: int
    """Its number among those of its source, from 1; 0 for a real pair."""
    split: str
    """TRAIN; VALID (real pairs only); HELD: made of a VALID pair, or with the lesion or mask of a VALID or
    TEST pair; or TEST: a real pair that the run holds out."""
    near_copy: str
    """By what chapter 5 calls it a near-copy of a training image (a real pair, of another one): "pixels",
    "features" or "both"; else "no", or NOT_AUDITED."""
    generator: int = 0
    """The generator of the run that made it, from 0."""

    @property
    def kind(self) -> str:
        """The prefix of its name in the export."""
        by = f"_generator-{self.generator}" if self.generator else ""
        return "Held-out" if self.split == TEST else f"{self.data_type}{by}"

    @property
    def origin(self) -> str:
        return "real" if self.data_type == REAL else SYNTHETIC


@dataclass(frozen=True)
class ExportSet:
    """The pairs of a run to export, real ones first."""

    run: Run
    cases: list[Case]
    sets: Mapping[DataType, PairSet]
    """The pairs of the synthetic types."""
    native: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width of each real pair's own files, for exports at that size; {} for the run's size."""
    further: Sequence[Mapping[DataType, PairSet]] = ()
    """The pairs of each generator after the first, where these are exported as well."""
    planes: bool = False
    """Whether masks are arrays with one plane per class."""
    tested: TestSet | None = None
    """The real pairs that the run holds out, where these are exported."""
    numbers_of: Mapping[str, int] = field(default_factory=dict)
    """The number, from 1, that replaces each source's name, which may be a patient's; {} where names are
    kept."""

    @property
    def real(self) -> bool:
        """Whether there are real pairs other than held-out ones."""
        return any(case.data_type == REAL and case.split != TEST for case in self.cases)

    @property
    def described(self) -> str:
        """The origins of its pairs, in words."""
        return " and ".join(dict.fromkeys(case.origin for case in self.cases)) + " pairs"

    @property
    def names_kept(self) -> bool:
        """Whether the names of the run's pairs are exported."""
        return not self.numbers_of

    @property
    def see_splits(self) -> str:
        """A reference to the card's section on splits, for layouts; "" where the card has none."""
        return ": see *Splits*" if self.real or self.tested else ""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.run.params.data.classes

    @property
    def numbers(self) -> dict[str, int]:
        """Class number by name, background included."""
        return {name: number for number, name in enumerate(("background", *self.classes))}

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of an image's channels."""
        count = self.run.params.data.channels
        return {1: ("grey",), 3: ("R", "G", "B")}.get(count) or tuple(f"channel {i}" for i in range(count))

    @property
    def picture(self) -> str:
        """The suffix of image files: a picture's, or an array's where a picture cannot hold the channels."""
        return ".png" if len(self.channels) in CHANNELS else planes.ARRAY

    @property
    def label(self) -> str:
        """The suffix of mask files."""
        return planes.ARRAY if self.planes else ".png"

    @property
    def licence(self) -> str:
        """The text of the licence field, which only the user can fill in."""
        return "TO BE FILLED IN: the licence of the real images, which binds the synthetic ones as well"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the export may have."""
        return (*SPLITS, TEST) if self.tested else SPLITS

    def of(self, split: str) -> list[Case]:
        """The pairs of a split."""
        return [case for case in self.cases if case.split == split]

    def read(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """A pair: image (C, H, W) uint8, mask (M, H, W) in {0, 1}."""
        image, mask = self._squares(case)
        if not self.native:
            return image, mask
        whole = fits.restored(image, mask, self.native[case.source], self.run.params.data.fit)
        return whole[0].transpose(2, 0, 1), whole[1].transpose(2, 0, 1)

    def _squares(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        held = self.tested.pairs if self.tested and case.split == TEST else None
        if held is not None:
            one = held.named([case.pair])
            return one.images[0], one.masks[0]
        if case.data_type == REAL:
            place = self._places[case.pair]
            return self.run.pairs.images[place], self.run.pairs.masks[place]
        sets = (self.sets, *self.further)[case.generator]
        return sets[case.data_type].read(case.pair)

    def written(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """A pair with its mask as written to file: (M, H, W) uint8 in {0, 1} if `planes`, else class numbers
        (H, W) uint8."""
        image, mask = self.read(case)
        return image, mask if self.planes else planes.numbered(mask)

    def folds(self) -> list[dict[str, list[str]]]:
        """Folds of cross-validation by real pairs, as in nnU-Net's splits_final.json.

        "val" holds the real pairs of a fold, "train" all pairs that are neither these nor made of them, nor
        show their lesions or masks. Images of a patient or slices of a volume stay together. Held-out pairs,
        and those that show their lesions, are in no fold. [] with fewer than two real pairs.
        """
        unseen = {case.source for case in self.of(TEST)}
        cases = [case for case in self.cases if not {case.source, case.lesion_of} & unseen]
        sources = [case.source for case in cases if case.data_type == REAL]
        members = trainsets.in_groups(sources, patients.together(self.run.pairs.file))
        count = min(FOLDS, len(members))
        order = trainsets.shuffled(members, self.run.params.seed, "export", "folds")
        parts = [{name for group in order[number::count] for name in members[group]}
                 for number in range(count)] if count > 1 else []
        return [{"train": [case.case for case in cases if not {case.source, case.lesion_of} & part],
                 "val": [case.case for case in cases if case.source in part and case.data_type == REAL]}
                for part in parts]

    def source(self, name: str) -> str:
        """The exported name of a source, or of the origin of a lesion."""
        return name if self.names_kept else f"source-{self.numbers_of[name]:04d}"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The exported facts about the pairs: one row per pair, columns ORIGINS, without `pair` unless names
        are kept."""
        columns = [name for name in ORIGINS if name != "pair" or self.names_kept]
        return pd.DataFrame([self.row(case) for case in self.cases], columns=columns)

    @property
    def named(self) -> pd.DataFrame:
        """One row per pair, columns NAMED, with the names of the run's pairs: not to be passed on."""
        return pd.DataFrame([{name: getattr(case, name) for name in NAMED} for case in self.cases],
                            columns=NAMED)

    def row(self, case: Case) -> dict[str, str | int]:
        """A pair's row of `table`."""
        told = {name: getattr(case, name) for name in ORIGINS if name != "group"}
        if not self.names_kept:
            del told["pair"]
        # A GAN trained by the run is named after its source.
        model = case.model.removesuffix(case.source) + self.source(case.source) if (
            case.data_type == GAN and case.model.endswith(case.source)) else case.model
        return {**told, "data_type": case.data_type.name, "model": model, "source": self.source(case.source),
                "lesion_of": self.source(case.lesion_of), "group": self._groups[case.source]}

    @cached_property
    def _groups(self) -> dict[str, str]:
        """The numbered group of each source, such as a patient or a volume, which must not be split; a source
        without a known group is its own."""
        known, numbers = dict(patients.together(self.run.pairs.file)), dict[str, int]()
        if self.tested:
            test = {**(self.tested.volumes or {}), **(self.tested.patients or {})}
            known = {held_as(self.tested, name): held_as(self.tested, group)
                     for name, group in test.items()} | known
        sources = dict.fromkeys(case.source for case in self.cases)
        return {one: f"group-{numbers.setdefault(known.get(one, one), len(numbers) + 1):04d}"
                for one in sorted(sources, key=lambda one: self.numbers_of.get(one, 0))}

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.run.pairs.names)}


def held_as(test: TestSet, name: str) -> str:
    """The name of a held-out pair, or of its patient, among the sources of an export: in another folder, the
    same names may mean other images."""
    return name if test.same_source else f"{test.name}: {name}"
