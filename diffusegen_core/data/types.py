"""Data types, the paper's names for what a pair is (section 3): Real, GAN, K-Diff, K-Styled-Diff, ...

Where masks are given, and not drawn by the model, Paint replaces Diff: K-Paint, K-Styled-Paint. Paste and
Paste-Poisson are real lesions in other real pictures, which no model painted. K-Filtered-Styled-Paint is what
the filter keeps of K-Styled-Paint.

Also the names of the models that paint them: one for each cluster, one of the full set, one that the
clusters' models start from, and one with a label for each cluster, of which the clusters' models are parts.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from diffusegen_core.config.errors import UserError

FULL, BASE, ONE = "full", "base", "one"  # models of all pairs
# What inpaint.masks may be, other than a folder: the model draws the mask with the image; or it is given, as
# the source's own or as that of a training pair, changed.
JOINT, OWN, VARIED = "joint", "own", "varied"
DIFF, PAINT = "Diff", "Paint"  # with a mask that the model drew; with one that was given
STYLED, STYLED_PAINT = "Styled-Diff", "Styled-Paint"
STYLED_OF = {DIFF: STYLED, PAINT: STYLED_PAINT}
INPAINTED_OF = {styled: inpainted for inpainted, styled in STYLED_OF.items()}
FILTERED = "Filtered"
_PAINTED = re.compile(rf"(\d+|Full)-({FILTERED}-)?((?:Styled-)?(?:Diff|Paint))")


def cluster_model(k: int) -> str:
    """The name of the model of cluster k."""
    return f"cluster-{k:02d}"


def cluster_number(name: str) -> int | None:
    """The cluster of a model's name; None for another model."""
    return int(name.removeprefix("cluster-")) if name.startswith("cluster-") else None


@dataclass(frozen=True)
class DataType:
    """What a pair is, and by which models it was painted."""

    kind: str
    """"Real", "GAN", "Paste", "Paste-Poisson", "Diff", "Styled-Diff", "Paint" or "Styled-Paint"."""
    models: str = ""
    """The number of clusters, or "Full", of the models that painted it; "" where none did."""
    is_filtered: bool = False
    """Whether it is what the filter kept of the painted type that is otherwise the same."""

    @property
    def name(self) -> str:
        """As in tables and folders: "20-Styled-Diff", "20-Filtered-Styled-Diff"."""
        parts = self.models, FILTERED if self.is_filtered else "", self.kind
        return "-".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.name

    @property
    def full(self) -> bool:
        """Whether the model of the full set painted it."""
        return self.models == "Full"

    @property
    def is_painted(self) -> bool:
        """Whether a diffusion model made it."""
        return self.kind in STYLED_OF or self.is_styled

    @property
    def is_pasted(self) -> bool:
        """Whether it is a real lesion in another real picture."""
        return self in PASTED

    @property
    def is_styled(self) -> bool:
        return self.kind in INPAINTED_OF

    @property
    def given_masks(self) -> bool:
        """Whether its masks were given to the model, and not drawn by it."""
        return self.kind in (PAINT, STYLED_PAINT)

    @property
    def styled(self) -> "DataType":
        """What styling makes of it."""
        return replace(self, kind=STYLED_OF.get(self.kind, self.kind))

    @property
    def inpainted(self) -> "DataType":
        """What it was before styling."""
        return replace(self, kind=INPAINTED_OF.get(self.kind, self.kind))

    @property
    def filtered(self) -> "DataType":
        """What the filter makes of it: only of what a model painted."""
        return replace(self, is_filtered=self.is_painted)

    @property
    def unfiltered(self) -> "DataType":
        """What it was before the filter."""
        return replace(self, is_filtered=False)

    @property
    def artifact(self) -> str:
        """The name of the artifact that holds such pairs, or lists them, a folder within the run."""
        chapter = ("gan" if self == GAN else "paste" if self.is_pasted else "filter" if self.is_filtered else
                   "style" if self.is_styled else "inpaint")
        return f"{chapter}/{self.name}"

    @property
    def described(self) -> str:
        """What such a pair is, in words."""
        if not self.is_painted:
            return {"Real": "real pairs", "GAN": "made by a GAN (SinGAN-Seg), of one source each",
                    "Paste": "real ones, cut out and pasted into other real pictures",
                    "Paste-Poisson": "the same, with borders blended by Poisson image editing"}[self.kind]
        models = "one diffusion model of all pairs" if self.full or self.models == "1" else \
            f"{self.models} diffusion models, one for each cluster of similar pairs"
        return (f"painted into real pictures (RePaint) by {models}, "
                + ("where a given mask says" if self.given_masks else "image and mask together")
                + (", then styled, which is meant to fit them to the pictures they came from"
                   if self.is_styled else "")
                + (", and kept by the filter" if self.is_filtered else ""))

    def numbered(self, samples: int | None) -> str:
        """The name with the number of pairs per source, N, as in the paper's tables: "20-Styled-Diff-3"."""
        return self.name if samples is None else f"{self.name}-{samples}"

    @classmethod
    def parse(cls, name: str) -> "DataType":
        """The data type of a name. Raises UserError where there is none of that name."""
        if plain := [one for one in UNPAINTED if one.name == name]:
            return plain[0]
        match = _PAINTED.fullmatch(name)
        if match is None:
            raise UserError(f"There is no data type {name}. Data types are "
                            f"{', '.join(one.name for one in UNPAINTED)}, and painted ones such as 20-Diff, "
                            "20-Styled-Diff, 20-Paint, Full-Diff.")
        return cls(match[3], match[1], match[2] is not None)


REAL, GAN, PASTE, POISSON = map(DataType, ("Real", "GAN", "Paste", "Paste-Poisson"))
PASTED = (PASTE, POISSON)
UNPAINTED = (REAL, GAN, *PASTED)  # which no diffusion model made


def painted(clusters: int, full: bool, masks: str) -> list[DataType]:
    """What chapter 3 makes with so many `clusters`, and, if `full`, with the model of the full set; `masks`
    as inpaint.masks."""
    kind = DIFF if masks == JOINT else PAINT
    return [DataType(kind, str(clusters)), *([DataType(kind, "Full")] if full else [])]


def pasted(names: Collection[str] | None) -> list[DataType]:
    """What chapter 3 makes without a model, in the order of the tables; `names` as inpaint.baselines."""
    return [data_type for data_type in PASTED if data_type.name in (names or ())]
