"""Which images belong together: frames of one sequence of a video, images of one hospital.

The frames of CVC-ClinicDB are numbered through its 29 sequences, one after the other, as its site lists them.
The pictures confirm it: all 14 starts up to frame 300 are among the 15 % of frames that resemble the frame
before them least.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CVC, POLYPGEN = "CVC-ClinicDB", "PolypGen"
PATIENT, VOLUME, SEQUENCE = "patient", "volume", "sequence"
KINDS = {CVC: SEQUENCE, POLYPGEN: "centre"}  # what the images of these are grouped by
CVC_STARTS = (1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384, 409,
              429, 448, 467, 479, 504, 529, 547, 572, 592)
CVC_FRAMES = 612
CENTRE = re.compile(r"(C[1-6])_.+")  # how layouts.LAYOUTS names PolypGen's images


@dataclass(frozen=True)
class Grouped:
    """What the images of a test set are grouped by, and the group of each."""

    kind: str
    """"sequence", "centre", "patient" or "volume"."""
    of: dict[str, str]
    """Image -> group."""

    @property
    def count(self) -> int:
        return len(set(self.of.values()))


def of_patients(told: Mapping[str, str], names: Sequence[str], layout: str = "") -> Grouped | None:
    """The patients of these images, or the sequences that `patients.split` uses as such; None where one is
    unknown."""
    if not names or any(name not in told for name in names):
        return None
    known = Grouped(PATIENT, {name: told[name] for name in names})
    by_layout = of_layout(layout, names)
    return by_layout if by_layout and by_layout.of == known.of else known


def of_volumes(told: Mapping[str, str], names: Sequence[str]) -> Grouped | None:
    """The volumes of these images, where an image that is no slice is its own; None where none is a slice."""
    if not any(name in told for name in names):
        return None
    return Grouped(VOLUME, {name: told.get(name, name) for name in names})


def of_layout(layout: str, names: Sequence[str]) -> Grouped | None:
    """The groups of a dataset's images, by its layout (layouts.LAYOUTS) and their names; None where these do
    not give them."""
    return next((grouped(name, names) for name in KINDS if layout.startswith(name)), None)


def grouped(test_set: str, names: Sequence[str]) -> Grouped | None:
    """The groups of a test set's images, by its name and theirs; None where these do not give them."""
    if test_set == CVC:
        frames = {name: int(name) for name in names if re.fullmatch(r"\d{1,3}", name)}
        groups = {name: f"{bisect_right(CVC_STARTS, frame):02d}" for name, frame in frames.items()
                  if 1 <= frame <= CVC_FRAMES}
    elif test_set == POLYPGEN:
        matches = {name: CENTRE.fullmatch(name) for name in names}
        groups = {name: match[1] for name, match in matches.items() if match}
    else:
        return None
    return Grouped(KINDS[test_set], groups) if names and len(groups) == len(names) else None
