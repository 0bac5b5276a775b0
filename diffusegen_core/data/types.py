"""Data types, the paper's names for what a pair is (section 3): Real, GAN, K-Diff, K-Styled-Diff, ...

And the names of the models that paint them: one for each cluster, one of the full set, one that the clusters'
models start from, one with a label for each cluster, of which the clusters' models are parts.
"""

import re
from dataclasses import dataclass, replace

from diffusegen_core.config.errors import UserError

FULL, BASE, ONE = "full", "base", "one"  # models of all pairs
DIFF, STYLED = "Diff", "Styled-Diff"
_PAINTED = re.compile(r"(\d+|Full)-(Styled-)?Diff")


def cluster_model(k: int) -> str:
    """The name of the model of cluster k."""
    return f"cluster-{k:02d}"


def cluster_number(name: str) -> int | None:
    """The way back; None for another model."""
    return int(name.removeprefix("cluster-")) if name.startswith("cluster-") else None


@dataclass(frozen=True)
class DataType:
    """What a pair is, and by which models it was painted."""

    kind: str
    """"Real", "GAN", "Diff" or "Styled-Diff"."""
    models: str = ""
    """The number of clusters, or "Full", of the models that painted it; "" where none did."""

    @property
    def name(self) -> str:
        """As in tables and folders: "20-Styled-Diff"."""
        return f"{self.models}-{self.kind}" if self.models else self.kind

    def __str__(self) -> str:
        return self.name

    @property
    def full(self) -> bool:
        """Whether the model of the full set painted it."""
        return self.models == "Full"

    @property
    def styled(self) -> "DataType":
        """What styling makes of it."""
        return replace(self, kind=STYLED)

    @property
    def inpainted(self) -> "DataType":
        """What it was before styling."""
        return replace(self, kind=DIFF)

    @property
    def artifact(self) -> str:
        """The name of the artifact that holds such pairs, a folder within the run."""
        return {"GAN": "gan/", DIFF: "inpaint/", STYLED: "style/"}[self.kind] + self.name

    def numbered(self, samples: int | None) -> str:
        """The name with the pairs a source, N, as the paper's tables have it: "20-Styled-Diff-3"."""
        return self.name if samples is None else f"{self.name}-{samples}"

    @classmethod
    def parse(cls, name: str) -> "DataType":
        """The data type of a name. Raises UserError where there is none of that name."""
        if name in (REAL.name, GAN.name):
            return cls(name)
        match = _PAINTED.fullmatch(name)
        if match is None:
            raise UserError(f"There is no data type {name}. Data types are Real, GAN, and such as 20-Diff, "
                            "20-Styled-Diff, Full-Diff.")
        return cls(STYLED if match[2] else DIFF, match[1])


REAL, GAN = DataType("Real"), DataType("GAN")


def painted(clusters: int, full: bool) -> list[DataType]:
    """What chapter 3 makes with so many clusters, and with the model of the full set."""
    return [DataType(DIFF, str(clusters)), *([DataType(DIFF, "Full")] if full else [])]
