"""Ultrasound-like labelled images, drawn by arithmetic: grey, one class.

Each picture is a function of (seed, index) alone; at another size it is the same scene. The probe is above
the picture's upper edge, and what it sees is a sector. Echoes interfere, so that tissue is speckled: the
amplitude is that of a complex Gaussian field, which is Rayleigh-distributed (Wagner et al. 1983). Echoes
weaken with depth. The lesion, a dark wavy ellipse, weakens them less than tissue does: behind it the picture
is lighter, the posterior enhancement of a cyst. Amplitudes are shown on a logarithmic scale. The mask is the
lesion's outline.
"""

import math

import cv2
import numpy as np

from diffusegen_core.data.phantom import Field, coordinates, noise, side_drawn, step
from diffusegen_core.store import seeds

VERSION = 1  # raised when the same seed would give other pictures
APEX, OPENING = -1.7, math.radians(33)  # of the sector: height of its tip, and half of its angle
NEAREST, FARTHEST = 0.75, 2.62  # of the sector, from its tip
CELLS = 72  # of the speckle along a side: a grain is about a seventieth of the picture
RANGE = 46.0  # decibels from black to white


def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """One labelled phantom: image (1, size, size) uint8, mask (1, size, size) uint8 in {0, 1}, and its
    kind."""
    rng = seeds.rng(seed, "phantom-ultrasound", index)
    n = side_drawn(size)
    x, y = coordinates(-1, 1, n), coordinates(-1, 1, n)[:, None]
    away, angle = np.hypot(x, y - APEX), np.arctan2(x, y - APEX)
    depth = (away - NEAREST) / (FARTHEST - NEAREST)
    inside = (step(0, 0.01, depth) * step(0, 0.01, 1 - depth) * step(0, 0.02, OPENING - np.abs(angle)))
    rho, behind = _lesion(rng, x, y)
    lesion = 1 - step(0.97, 1.03, rho)
    echo = _tissue(rng, depth, (n, n)) * (1 - (1 - rng.uniform(0.06, 0.2)) * lesion)
    echo *= np.exp(-rng.uniform(0.5, 1.4) * depth) * (1 + rng.uniform(0.8, 1.6) * behind)
    decibels = 20 * np.log10(np.maximum(echo * _speckle(rng, (n, n)), 1e-4))
    grey = 255 * np.clip(1 + decibels / RANGE, 0, 1) * inside
    image = cv2.resize(grey.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    cover = cv2.resize((lesion * inside).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    mask = cover > 0.5 if cover.max() > 0.5 else cover == cover.max()  # no lesion vanishes, however small
    return np.round(image).astype(np.uint8)[None], mask.astype(np.uint8)[None], "cyst"


def _lesion(rng: np.random.Generator, x: Field, y: Field) -> tuple[Field, Field]:
    """How far out of the lesion each point is (1 on its outline), and how much of its enhancement it
    shows."""
    radius, stretch, turn = rng.uniform(0.17, 0.36), rng.uniform(0.6, 1.0), rng.normal(0, 0.35)
    where, at = rng.uniform(1.2, 1.85), rng.uniform(-0.6, 0.6) * OPENING
    cx, cy = where * math.sin(at), APEX + where * math.cos(at)
    along = ((x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)) / radius
    across = ((y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)) / radius / stretch
    round_it = np.arctan2(across, along)
    waves = [(rng.uniform(0, most), rng.uniform(0, 2 * math.pi)) for most in (0.12, 0.08, 0.05)]
    outline = 1 + sum(a * np.cos(k * round_it + phase) for k, (a, phase) in enumerate(waves, start=2))
    # Behind it: within the angle that it covers, further away, fading.
    sideways = np.abs(np.arctan2(x, y - APEX) - at) * where / radius
    beyond = (np.hypot(x, y - APEX) - where) / radius
    behind = (1 - step(0.7, 1.05, sideways)) * step(0.5, 1.1, beyond) * np.exp(-0.35 * np.maximum(beyond, 0))
    return np.hypot(along, across) / outline, behind


def _tissue(rng: np.random.Generator, depth: Field, shape: tuple[int, int]) -> Field:
    """How strongly tissue echoes: layers of skin and fascia that undulate, over patchy parenchyma."""
    bent = depth + 0.025 * noise(rng, 3, shape)
    echo = rng.uniform(0.25, 0.4) * np.exp(0.3 * noise(rng, 7, shape))
    for place in (0.02, *np.sort(rng.uniform(0.1, 0.95, rng.integers(2, 5)))):
        strength, width = rng.uniform(0.3, 0.9), rng.uniform(0.008, 0.03)
        echo = echo + strength * np.exp(-((bent - place) / width) ** 2)
    return echo


# |a + ib| of normal a and b is Rayleigh-distributed
def _speckle(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Rayleigh noise of mean one, smooth over a grain."""
    amplitude = np.hypot(noise(rng, CELLS, shape), noise(rng, CELLS, shape))
    return amplitude / amplitude.mean()
