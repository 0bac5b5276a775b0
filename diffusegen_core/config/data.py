"""The parameters of a run's data: where the pairs come from, and what their channels and classes are."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from diffusegen_core.config.section import Section

MOST_CHANNELS = 16  # of an image
MOST_OVERLAPPING = 8  # classes: the combinations of more do not fit in a byte
# Sources that are drawn by code: the channels of their images, and how many classes their masks have.
PHANTOMS = {"phantom": (3, 1), "phantom-ultrasound": (1, 1), "phantom-slices": (1, 3)}
EACH = "each"  # in data.patients: every image is another patient's
# In data.patients, a table and its column of patients; any other text is a regular expression.
PATIENT_TABLE = re.compile(r"(?P<file>.+\.(?:csv|tsv)):(?P<column>.+)", re.IGNORECASE)
BACKGROUND = "background"  # the name in `labels` that stands for no class
# The kinds of keys of `labels`; any other text is a name: of a class in the files, a folder, a file ending.
LabelKind = Literal["value", "colour", "condition", "name"]
KINDS: dict[LabelKind, re.Pattern[str]] = {
    "value": re.compile(r"-?\d+"), "colour": re.compile(r"#[0-9a-f]{6}"),
    "condition": re.compile(r"(>=|<=|>|<) *(-?\d+(?:\.\d+)?)")}


def kind_of(key: str) -> LabelKind:
    """The kind of a key of `labels`."""
    return next((kind for kind, pattern in KINDS.items() if pattern.fullmatch(key)), "name")


def _keys(labels: Any) -> Any:
    # YAML reads `1: liver` with an integer as its key; colours may be written in capitals.
    if not isinstance(labels, dict):
        return labels
    mapped: dict[Any, Any] = {}
    for given, name in labels.items():
        key = str(given) if type(given) is int else given
        if isinstance(key, str):
            key = key.lower() if key.startswith("#") else str(int(key)) if kind_of(key) == "value" else key
        if key in mapped:
            raise ValueError(f"data.labels names {key} twice; give each key once.")
        is_background = isinstance(name, str) and name.strip().lower() == BACKGROUND
        mapped[key] = BACKGROUND if is_background else name
    return mapped


class Data(Section):
    """Where the labelled pairs come from."""

    source: str = Field(
        "phantom", description="`phantom`, `phantom-ultrasound`, `phantom-slices`: drawn by code; or a "
                               "folder of image+mask pairs")
    images: str | None = Field(
        None, min_length=1, description="which of its files are images, as `train/*.png`; null: by its "
                                        "layout")
    masks: str | None = Field(
        None, min_length=1, description="and which are their masks, as `labels/*_seg.png`: each * stands for "
                                        "the same text")
    subset: Literal["all", "paper348", "not348"] = Field(
        "all", description="the paper's 348 names, the rest, or all")
    count: PositiveInt | None = Field(
        48, description="use only the first N pairs; null: all (phantoms need a number)")
    names: list[str] | None = Field(None, min_length=1, description="of these, only the named; null: all")
    image_size: PositiveInt = Field(32, le=8192, description="side of the square training images, pixels")
    fit: Literal["pad", "crop", "squeeze"] = Field(
        "pad", description="how other shapes become square: black bars, the middle alone, or squeezed")
    window: float | None = Field(
        None, gt=1, le=20, description="models train and paint in a square around the lesion, this many "
                                       "times its size; null: in whole images")
    window_size: PositiveInt | None = Field(
        None, le=8192, description="side to which this square is resized for the models, pixels")
    on_bad: Literal["refuse", "skip"] = Field("refuse", description="what to do about unusable pairs")
    channels: PositiveInt = Field(
        3, le=MOST_CHANNELS, description="channels of an image: 1 grey, 3 RGB, or more in one array")
    intensities: Literal["full", "percentile", "dicom"] | Annotated[
        list[float], Field(min_length=2, max_length=2)] = Field(
        "full", description="what becomes black and white, for the whole set: the full range of the files' "
                            "depth, its percentiles 0.5 and 99.5, DICOM's window, or [low, high]")
    slices: Annotated[list[NonNegativeInt], Field(min_length=3, max_length=3)] | None = Field(
        None, description="of volumes (NIfTI): [axis, first, last], all counted from 0; null: no volumes")
    labels: Annotated[dict[str, str], BeforeValidator(_keys)] | None = Field(
        None, min_length=1, description="class of each value, colour or file of the masks; null: one class, "
                                        "`object`, where a mask is above 127")
    overlap: bool = Field(False, description="whether a pixel may be of several classes")
    min_area: float | None = Field(
        None, gt=0, description="the least area of a lesion: below 1, a share of its image; from 1 on, "
                                "pixels; null: no limit")
    object: str = Field("polyp", min_length=1, description="what the masks mark, as pages call it")
    holdout: float | None = Field(
        0.2, gt=0, lt=1, description="share of a folder's pairs that are kept from the run, to test it; not "
                                     "for phantoms or a subset; null: none")
    patients: str | None = Field(
        None, min_length=1, description="how to tell patients apart, who are held out whole: an expression "
                                        "with one group for the images' names, as `^(P[0-9]+)`; "
                                        "`FILE.csv:COLUMN`; or `each`, where every image is of another "
                                        "patient; null: not known")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, each once, in the order of `labels`, without background."""
        if not self.labels:
            return (self.object,)
        return tuple(dict.fromkeys(name for name in self.labels.values() if name != BACKGROUND))

    @property
    def object_name(self) -> str:
        """What the masks mark, for texts: `object`, or, if `labels` name classes and `object` is left at its
        default, the only class, or "object" for several."""
        if not self.labels or self.object != type(self).model_fields["object"].default:
            return self.object
        return self.classes[0] if len(self.classes) == 1 else "object"

    @property
    def held_share(self) -> float | None:
        """The share of the pairs that is held out. None for phantoms, which are tested on fresh ones, and for
        a subset, which is tested on the rest."""
        return None if self.drawn or self.subset != "all" else self.holdout

    @property
    def drawn(self) -> bool:
        """Whether the pairs are phantoms, drawn by code."""
        return self.source in PHANTOMS

    @property
    def label_kind(self) -> LabelKind:
        """The kind of the keys of `labels`, which is one for all; without labels, a condition."""
        return kind_of(next(iter(self.labels))) if self.labels else "condition"

    @model_validator(mode="after")
    def _identifies_patients(self) -> Self:
        if self.patients is None or self.patients == EACH or PATIENT_TABLE.fullmatch(self.patients):
            return self
        try:
            groups = re.compile(self.patients).groups
        except re.error as error:
            raise ValueError(f"data.patients {self.patients!r} is not a regular expression: "
                             f"{error}.") from None
        if groups != 1:
            raise ValueError(f"data.patients {self.patients!r} has {groups} groups; it needs exactly "
                             f"one, for the patient, as in ^(P[0-9]+); or give FILE.csv:COLUMN, or {EACH}.")
        return self

    @model_validator(mode="after")
    def _labels_name_classes(self) -> Self:
        if not self.labels:
            return self
        kinds = sorted({kind_of(key) for key in self.labels})
        if len(kinds) > 1:
            raise ValueError(f"data.labels maps {' and '.join(kinds)} keys; all must be of one kind: "
                             "values, colours (#rrggbb), conditions (>127), or names.")
        if not self.classes:
            raise ValueError(f"data.labels maps everything to {BACKGROUND}; name at least one class.")
        if odd := [name for name in self.classes if not name.strip() or re.search(r"[/\\]", name)
                   or not name.isprintable()]:
            raise ValueError(f"data.labels: {odd[0]!r} is not a class name; use letters, digits and "
                             "spaces, as in `left lung`.")
        return self

    @model_validator(mode="after")
    def _patterns_pair_files(self) -> Self:
        if (self.images is None) != (self.masks is None):
            raise ValueError("data.images and data.masks are given together or not at all.")
        counts = {glob.replace("**", "").count("*") for glob in (self.images, self.masks) if glob}
        if len(counts) > 1 or 0 in counts:
            raise ValueError("data.images and data.masks pair files by what their * stand for: each needs "
                             "the same number, at least one (** stands for any text and pairs nothing).")
        return self

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        if isinstance(self.intensities, list) and self.intensities[0] >= self.intensities[1]:
            raise ValueError(f"data.intensities {self.intensities} must be [low, high], with low below high.")
        if self.slices and (self.slices[0] > 2 or self.slices[1] > self.slices[2]):
            raise ValueError(f"data.slices {self.slices} must be [axis, first, last]: the axis is 0, 1 or 2, "
                             "and first is not above last.")
        return self
