"""Labelled slices through a body, as in computed tomography, drawn by arithmetic: grey, three classes.

Each picture is a function of (seed, index) alone; at another size it is the same scene. In black air lies an
elliptical body: a rim of dark fat, a wall of muscle, a bright spine, dark gas, and organs of different grey:
a large liver, a kidney, and in most livers a tumour, a little darker. These three are the classes, of which
each pixel has one at most: where the tumour is, the mask of the liver has a hole.
"""

import math

import cv2
import numpy as np

from diffusegen_core.data import planes
from diffusegen_core.data.phantom import Field, coordinates, noise, side_drawn, step
from diffusegen_core.store import seeds

VERSION = 2  # raised when the same seed would give other pictures
CLASSES = ("liver", "kidney", "tumour")
FAT, MUSCLE, BOWEL, BONE = 62.0, 122.0, 104.0, 228.0  # grey levels
SICK = 0.8  # the share of livers with a tumour


def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """One labelled phantom: image (1, size, size) uint8, mask (3, size, size) uint8 in {0, 1}, and its
    kind."""
    rng = seeds.rng(seed, "phantom-slices", index)
    n = side_drawn(size)
    x, y = coordinates(-1, 1, n), coordinates(-1, 1, n)[:, None]
    width, height = rng.uniform(0.8, 0.93), rng.uniform(0.6, 0.74)
    body = _ellipse(rng, x, y, (0, 0), (width, height), 0.0)
    grey = np.zeros((n, n), np.float32)
    _lay(grey, body, FAT, 1.0)
    _lay(grey, body, MUSCLE, rng.uniform(0.84, 0.92))
    _lay(grey, body, BOWEL + 6 * noise(rng, 9, (n, n)), rng.uniform(0.74, 0.8))
    spine = _ellipse(rng, x, y, (0, 0.62 * height), (0.13, 0.12), 0.0)
    _lay(grey, spine, BONE, 1.0)
    _gas(rng, grey, x, y, width, height)
    liver = _ellipse(rng, x, y, (-0.4 * width, -0.12 * height),
                     (rng.uniform(0.3, 0.38), rng.uniform(0.3, 0.38)), rng.uniform(-0.5, 0.5))
    kidney = _ellipse(rng, x, y, (0.4 * width, rng.uniform(0.15, 0.4) * height),
                      (rng.uniform(0.11, 0.15), rng.uniform(0.16, 0.22)), rng.uniform(-0.3, 0.3))
    turn, out = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.14)
    tumour = _ellipse(rng, x, y, (-0.4 * width + out * math.cos(turn), -0.12 * height + out * math.sin(turn)),
                      (rng.uniform(0.07, 0.15), rng.uniform(0.07, 0.15)), rng.uniform(0, math.pi))
    light, sick = rng.uniform(142, 160), rng.random() < SICK
    _lay(grey, liver, light + 3 * noise(rng, 20, (n, n)), 1.0)
    _lay(grey, kidney, rng.uniform(176, 196), 1.0)
    _lay(grey, kidney, rng.uniform(120, 140), 0.45)  # its pelvis, which belongs to it
    if sick:
        _lay(grey, tumour, light - rng.uniform(26, 44) + 5 * noise(rng, 26, (n, n)), 1.0)
    grey += 4 * noise(rng, 90, (n, n)) * (0.4 + (grey > 20))
    image = cv2.resize(np.clip(grey, 0, 255), (size, size), interpolation=cv2.INTER_AREA)
    ill = (tumour < 1) & (liver < 1) & sick
    masks = np.stack([(liver < 1) & ~ill, (kidney < 1) & (liver >= 1), ill])
    kind = "with tumour" if sick else "without"
    return np.round(image).astype(np.uint8)[None], planes.shrunk(masks, (size, size)), kind


def _ellipse(rng: np.random.Generator, x: Field, y: Field, centre: tuple[float, float],
             radii: tuple[float, float], turn: float) -> Field:
    """How far out of a wavy ellipse each point is: 1 on its outline."""
    dx, dy = x - centre[0], y - centre[1]
    along = (dx * math.cos(turn) + dy * math.sin(turn)) / radii[0]
    across = (dy * math.cos(turn) - dx * math.sin(turn)) / radii[1]
    angle = np.arctan2(across, along)
    waves = [(rng.uniform(0, most), rng.uniform(0, 2 * math.pi)) for most in (0.06, 0.05, 0.03)]
    return np.hypot(along, across) / (1 + sum(a * np.cos(k * angle + phase)
                                              for k, (a, phase) in enumerate(waves, start=2)))


def _lay(grey: Field, rho: Field, level: float | Field, at: float) -> None:
    """Lay a shape over the picture, in place, out to `at` times its outline."""
    cover = 1 - step(at - 0.02, at + 0.02, rho)
    grey += cover * (level - grey)


def _gas(rng: np.random.Generator, grey: Field, x: Field, y: Field, width: float, height: float) -> None:
    """A few bubbles in the bowel, at the front of the body and in the picture's right half."""
    for _ in range(rng.integers(1, 4)):
        centre = rng.uniform(0.05, 0.45) * width, rng.uniform(-0.5, -0.1) * height
        radii = rng.uniform(0.03, 0.09), rng.uniform(0.03, 0.07)
        _lay(grey, _ellipse(rng, x, y, centre, radii, 0.0), 8.0, 1.0)
