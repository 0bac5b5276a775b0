"""Colonoscopy-like labelled images, drawn by arithmetic: the data that is there when no real data is.

Each picture is a function of (seed, index) alone. The field of view is a unit square, x to the right, y down.
"""
import numpy as np

from diffusegen_core import seeds

VERSION = 0


def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Interim: a shaded disc."""
    rng = seeds.rng(seed, "phantom", index)
    y, x = np.mgrid[0:size, 0:size] / size
    cx, cy, r = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.25)
    mask = (x - cx) ** 2 + (y - cy) ** 2 < r * r
    kind = ("red", "brown", "pale")[rng.integers(3)]
    base = {"red": (190, 80, 60), "brown": (160, 90, 40), "pale": (220, 150, 130)}[kind]
    image = np.empty((3, size, size))
    for c in range(3):
        image[c] = base[c] * (1 - 0.5 * np.hypot(x - 0.5, y - 0.5)) + 30 * mask
    return image.clip(0, 255).astype(np.uint8), mask[None].astype(np.uint8), kind
