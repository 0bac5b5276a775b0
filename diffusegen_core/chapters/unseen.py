"""Images filled with what no model can remember: the yardstick of the audit of copies and of the filter.

Each image of a data type has a counterpart with another pair's lesion in the same filled region. How near
such images come to the training images by chance sets the threshold below which an image is a near-copy.
"""

from dataclasses import dataclass

import numpy as np

from diffusegen_core.chapters.members import Members
from diffusegen_core.data import planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.measures import planted
from diffusegen_core.store import seeds


@dataclass(frozen=True)
class Query:
    """Q images to be compared with the training images."""

    names: list[str]
    images: np.ndarray
    """(Q, C, S, S) uint8."""
    regions: np.ndarray
    """(Q, S, S), nonzero where they were filled."""
    objects: np.ndarray
    """(Q, S, S), nonzero around the object."""
    own: np.ndarray
    """(Q,) int, the training image that is left out; -1: none."""
    lesions: list[str]
    """The pair whose lesion, or copy, is in each."""

    def __len__(self) -> int:
        return len(self.names)


def nothing(pairs: Pairs) -> Query:
    """A query without images, shaped as for these pairs."""
    none = planes.union(pairs.masks[:0])
    return Query([], pairs.images[:0], none, none, np.empty(0, int), [])


def blended(seed: int, everyone: Members, donors: Pairs, cross_fitted: bool) -> Query:
    """Every image of a data type that has a region, with a donor's lesion in it.

    `cross_fitted`: the donors are also what the images are compared with, so an image's own source is not
    among its donors, and its donor is left out of the comparison. The donor depends on the seed and the name
    alone, so that a pair and its styled version have the same.
    """
    able = np.flatnonzero(donors.masks.any(axis=(1, 2, 3)))
    rows, images, chosen = [], [], []
    for i in np.flatnonzero(everyone.regions.any(axis=(1, 2))):
        others = able[able != everyone.sources[i]] if cross_fitted else able
        if len(others):
            donor = others[seeds.rng(seed, "null", everyone.names[i]).integers(len(others))]
            images.append(planted.blended(everyone.images[i], everyone.regions[i], place(everyone, i),
                                          donors.images[donor], planes.union(donors.masks[donor])))
            rows.append(i)
            chosen.append(donor)
    if not rows:
        return nothing(donors)
    kept = everyone.take(np.array(rows))
    return Query(kept.names, np.stack(images), kept.regions,
                 np.stack([place(kept, i) for i in range(len(kept))]),
                 np.array(chosen) if cross_fitted else np.full(len(kept), -1),
                 [donors.names[donor] for donor in chosen])


def place(everyone: Members, i: int | np.integer) -> np.ndarray:
    """Where the object of an image lies, (S, S); if it has none, the region that was filled."""
    return everyone.objects[i] if everyone.objects[i].any() else everyone.regions[i]
