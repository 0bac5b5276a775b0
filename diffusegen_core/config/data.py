"""The parameters of a run's data: where the pairs come from, and what their channels and classes are."""

from typing import Literal

from pydantic import Field, PositiveInt

from diffusegen_core.config.section import Section

MOST_CHANNELS = 16  # of an image
# Sources that are drawn by code: the channels of their images, and how many classes their masks have.
PHANTOMS = {"phantom": (3, 1), "phantom-ultrasound": (1, 1), "phantom-slices": (1, 3)}


class Data(Section):
    """Where the labelled pairs come from."""

    source: str = Field(
        "phantom", description="`phantom`, `phantom-ultrasound`, `phantom-slices`: drawn by code; or a "
                               "folder of image+mask pairs")
    subset: Literal["all", "paper348", "not348"] = Field(
        "all", description="the paper's 348 names, the rest, or all")
    count: PositiveInt | None = Field(
        48, description="use the first so many pairs; null: all (phantom needs it)")
    names: list[str] | None = Field(None, min_length=1, description="of these, only the named; null: all")
    image_size: PositiveInt = Field(32, le=8192, description="side of the square training images, pixels")
    window: float | None = Field(
        None, gt=1, le=20, description="models train and paint in a square around the lesion, so many times "
                                       "its size; null: in whole images")
    window_size: PositiveInt | None = Field(
        None, le=8192, description="side of such a square as the models see it, pixels")
    on_bad: Literal["refuse", "skip"] = Field("refuse", description="what to do about unusable pairs")
    channels: PositiveInt = Field(
        3, le=MOST_CHANNELS, description="of an image: 1 grey, 3 RGB, or more that lie in one array")
    labels: dict[str, str] | None = Field(
        None, min_length=1, description="class of each value, colour or file of the masks; null: one class, "
                                        "`object`, where a mask is above 127")
    object: str = Field("polyp", min_length=1, description="what the masks mark, as pages call it")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, each once, in the order of `labels`; background is none of them."""
        return tuple(dict.fromkeys(self.labels.values())) if self.labels else (self.object,)

    @property
    def drawn(self) -> bool:
        """Whether the pairs are phantoms, drawn by code."""
        return self.source in PHANTOMS
