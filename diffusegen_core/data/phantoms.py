"""Data drawn by code, by its kind in data.source (config.data.PHANTOMS)."""

from collections.abc import Collection, Iterator

import numpy as np
from tqdm import tqdm

from diffusegen_core.config.data import Data
from diffusegen_core.data import phantom, phantom_slices, phantom_ultrasound, selection

# The first is like the paper's data.
DRAWN = {"phantom": phantom, "phantom-ultrasound": phantom_ultrasound, "phantom-slices": phantom_slices}


def name(index: int) -> str:
    """The name of the pair with an index."""
    return f"phantom_{index:05d}"


def chosen(settings: Data) -> dict[str, int]:
    """Name -> index of each pair that the settings ask for. UserError for names that do not exist."""
    indices = {name(index): index for index in range(settings.count or 0)}
    if not settings.names:
        return indices
    selection.refuse_unknown(settings.names, set(indices))
    return {own: index for own, index in indices.items() if own in settings.names}


def drawn(kind: str, indices: Collection[int], size: int, seed: int) -> Iterator[
        tuple[np.ndarray, np.ndarray]]:
    """Image (C, S, S) uint8 and mask (M, S, S) in {0, 1} of each index at `size`, with a progress bar."""
    for index in tqdm(indices, desc="Drawing phantoms", unit="pair", leave=False, disable=None):
        image, mask, _ = DRAWN[kind].draw(seed, index, size)
        yield image, mask
