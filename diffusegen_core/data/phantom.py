"""Colonoscopy-like labelled images, drawn by arithmetic: the data to use where there is no real data.

Each picture is a function of (seed, index) alone; at another size it is the same scene. The field of view is
the square [-1, 1] x [-1, 1], x to the right, y down. A scene is a tube of mucosa that darkens into the lumen,
haustral folds (bright crest, dark behind it), vessels, wet highlights, one to three polyps (a shaded dome,
some with a stalk, and a shadow) and the black surround of an endoscope's picture. The mask shows the polyps.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from diffusegen_core.store import seeds

VERSION = 1  # raised when the same seed would give other pictures

Field = np.ndarray  # (n, n) float32
Point = tuple[float, float]

# RGB, 0 to 255: the mucosa in shadow, in half light and in full light, and the polyps' own tint.
PALETTES = {
    "salmon": ([46, 12, 12], [188, 100, 88], [248, 196, 178], [206, 84, 76]),
    "orange": ([44, 12, 4], [186, 98, 62], [246, 188, 138], [212, 94, 64]),
    "tan": ([34, 18, 10], [170, 118, 80], [240, 212, 166], [216, 136, 104]),
    "dusky": ([28, 12, 16], [144, 86, 86], [222, 176, 168], [190, 92, 94]),
}


@dataclass(frozen=True)
class View:
    """A way of looking at the wall."""

    lumen: Point  # how far from the picture's centre the lumen lies: from, to
    folds: Point  # folds for each e-fold of depth: from, to
    relief: float  # how much the folds darken what lies behind them
    vessels: float


VIEWS = {
    "lumen": View((0.0, 0.35), (1.5, 2.2), 0.9, 0.35),
    "fold": View((0.8, 1.1), (1.6, 2.4), 1.0, 0.35),
    "wall": View((1.6, 2.2), (0.8, 1.5), 0.45, 0.8),
}


@dataclass(frozen=True)
class Polyp:
    """A dome with a wavy elliptic outline; `foot` is where its stalk, if it has one, meets the wall."""

    centre: Point
    radius: float
    height: float  # of the dome over its radius
    stretch: float
    turn: float
    waves: np.ndarray  # (3, 2): amplitude and phase of the outline's waves 2, 3 and 4
    foot: Point | None


def side_drawn(size: int) -> int:
    """The side in pixels at which a phantom is drawn before it is shrunk to `size`, so that edges are smooth:
    a multiple of sizes up to 128, twice at least, and at least 384 for larger ones."""
    return max(384, size) if size > 128 else size * max(2, 128 // size)


def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """One labelled phantom: image (3, size, size) uint8, mask (1, size, size) uint8 in {0, 1}, and its kind.

    The kind names the palette and the view, such as "tan lumen".
    """
    rng = seeds.rng(seed, "phantom", index)
    palette, name = str(rng.choice(list(PALETTES))), str(rng.choice(list(VIEWS)))
    view = VIEWS[name]
    n = side_drawn(size)
    x, y = coordinates(-1, 1, n), coordinates(-1, 1, n)[:, None]
    distance, angle = rng.uniform(*view.lumen), rng.uniform(0, 2 * math.pi)
    lumen = (distance * math.cos(angle), distance * math.sin(angle))
    inside = _surround(rng, x, y)
    light = _wall(rng, view, lumen, x, y)
    colour = _tint(light, palette)
    colour *= 1 - _vessels(rng, n)[..., None] * _colour(0.2, 0.5, 0.42) * view.vessels
    colour += _glints(rng, light)[..., None] * _colour(235, 228, 220)
    outlines = np.zeros((n, n), np.float32)
    for polyp in _polyps(rng, lumen):
        _paint(rng, polyp, palette, light, colour, outlines)
    colour *= inside[..., None]
    image = cv2.resize(np.clip(colour, 0, 255), (size, size), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(outlines * inside, (size, size), interpolation=cv2.INTER_AREA)
    image = np.ascontiguousarray(np.round(image).astype(np.uint8).transpose(2, 0, 1))
    mask = cover > 0.5 if cover.max() > 0.5 else cover == cover.max()  # no polyp vanishes, however small
    return image, mask.astype(np.uint8)[None], f"{palette} {name}"


def coordinates(low: float, high: float, n: int) -> np.ndarray:
    """The centres of n pixels between low and high."""
    return (low + (high - low) * (np.arange(n) + 0.5) / n).astype(np.float32)


def noise(rng: np.random.Generator, cells: int, shape: tuple[int, int]) -> Field:
    """Smooth noise of about unit variance, with `cells` cells along a side."""
    grid = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)


def step(low: float, high: float, value: Field) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _tint(light: Field, palette: str) -> np.ndarray:
    """Brightness (0 to 1) to colour (n, n, 3), through the palette's shadow, half light and full light."""
    table = np.array([np.interp(np.linspace(0, 1, 1024), [0, 0.5, 1], stops)
                      for stops in zip(*PALETTES[palette][:3], strict=True)], np.float32).T
    return table[(np.clip(light, 0, 1) * 1023).astype(np.int32)]


def _colour(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def _surround(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """1 inside the endoscope's round or octagonal picture, 0 in the black around it."""
    kind, cut = rng.random(), rng.uniform(1.45, 1.7)
    octagon = np.maximum(np.maximum(abs(x), abs(y)), (abs(x) + abs(y)) / cut)
    side = np.hypot(x, y) * 0.97 if kind < 0.3 else octagon
    return 1 - step(0.97, 0.99, side)


def _wall(rng: np.random.Generator, view: View, lumen: Point, x: Field, y: Field) -> Field:
    """Brightness of the mucosa, 0 to about 1."""
    shape = (len(y), len(x))
    dx = x - lumen[0] + 0.07 * noise(rng, 3, shape)
    dy = y - lumen[1] + 0.07 * noise(rng, 3, shape)
    # The colon's three bands of muscle pull its tube to a rounded triangle.
    triangle = np.cos(3 * np.arctan2(dy, dx) + rng.uniform(0, 2 * math.pi))
    distance = np.hypot(dx, dy) * (1 + rng.uniform(0.04, 0.14) * triangle)
    phase = -np.log(distance + 0.12) * rng.uniform(*view.folds) + rng.uniform(0, 1)
    phase += 0.1 * noise(rng, 4, shape)
    behind = phase - np.floor(phase)  # 0 just behind one crest, 1 on the next
    hidden = (1 - behind) * step(0, 0.02, behind) + 0.3 * step(0.94, 1, behind)
    crest = step(0.5, 0.88, behind) * (1 - step(0.88, 1, behind))
    strength = view.relief * np.clip(0.7 + 0.5 * noise(rng, 4, shape), 0.05, 1)
    folds = 1 + strength * (0.2 * crest - 0.62 * hidden)
    near = (distance / (distance + rng.uniform(0.25, 0.45))) ** 2 * 1.5
    spot = rng.uniform(-0.4, 0.4, 2)
    lamp = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 1.8)
    texture = 1 + sum(a * noise(rng, cells, shape) for a, cells in ((0.07, 7), (0.05, 22), (0.035, 60)))
    return rng.uniform(0.9, 1.1) * np.minimum(near, 1) * folds * (0.42 + 0.5 * lamp) * texture


def _glints(rng: np.random.Generator, light: Field) -> Field:
    """Wet highlights, 0 to 1, more of them where the wall is bright."""
    film = noise(rng, 46, light.shape) * (0.75 + 0.35 * noise(rng, 5, light.shape))
    return step(1.9, 2.5, film + 1.6 * (light - 0.6)) * step(0.3, 0.5, light)


def _vessels(rng: np.random.Generator, n: int) -> Field:
    """Branching vessels, 0 to 1, drawn as walks that fork and thin out."""
    canvas = np.zeros((256, 256), np.uint8)
    walks = [(rng.uniform(0, 256, 2), rng.uniform(0, 2 * math.pi), 2) for _ in range(rng.integers(4, 9))]
    while walks:
        point, heading, width = walks.pop()
        line = [point]
        for _ in range(rng.integers(6, 14)):
            heading += rng.normal(0, 0.3)
            line.append(line[-1] + 7 * np.array([math.cos(heading), math.sin(heading)]))
        cv2.polylines(canvas, [np.round(line).astype(np.int32)], False, 255, width, cv2.LINE_AA)
        if width > 1:
            walks += [(line[-1], heading + rng.uniform(0.3, 0.8), 1), (line[-1], heading - 0.5, 1)]
    vessels = cv2.resize(cv2.GaussianBlur(canvas, (0, 0), 0.7), (n, n), interpolation=cv2.INTER_LINEAR)
    return vessels.astype(np.float32) / 255 * np.clip(0.6 + 0.5 * noise(rng, 3, (n, n)), 0, 1)


def _polyps(rng: np.random.Generator, lumen: Point) -> list[Polyp]:
    """One to three polyps that keep apart."""
    wanted = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))
    polyps: list[Polyp] = []
    while len(polyps) < wanted:
        radius = rng.uniform(0.18, 0.5) / (1 + 0.4 * (wanted - 1))
        centre = rng.uniform(-0.6, 0.6, 2)
        waves = np.stack([rng.uniform(0, [0.14, 0.1, 0.05]), rng.uniform(0, 2 * math.pi, 3)], axis=1)
        height, stretch, turn = rng.uniform(0.45, 1.0), rng.uniform(0.65, 1.0), rng.uniform(0, math.pi)
        # A stalk leans away from the lumen, towards the wall that carries it.
        lean = math.atan2(centre[1] - lumen[1], centre[0] - lumen[0]) + rng.normal(0, 0.4)
        wall = centre + rng.uniform(1.5, 1.9) * radius * np.array([math.cos(lean), math.sin(lean)])
        stalked = rng.random() < 0.25
        if all(math.dist(centre, other.centre) > 1.3 * (radius + other.radius) for other in polyps):
            foot = tuple(wall) if stalked else None
            polyps.append(Polyp(tuple(centre), radius, height, stretch, turn, waves, foot))
    return polyps


def _paint(rng: np.random.Generator, polyp: Polyp, palette: str, light: Field, colour: np.ndarray,
           outlines: Field) -> None:
    """Paint a polyp and its shadow over `colour`, and add its outline to `outlines`, both in place."""
    n = len(light)
    centre, reach = np.array(polyp.centre[::-1]), 2.6 * polyp.radius
    top, left = np.maximum((centre - reach + 1) * n / 2, 0).astype(int)
    bottom, right = np.ceil((centre + reach + 1) * n / 2).astype(int)
    window, at = (slice(top, bottom), slice(left, right)), coordinates(-1, 1, n)
    # From here on lengths are in radii of the polyp.
    dx, dy = (at[left:right] - centre[1]) / polyp.radius, (at[top:bottom, None] - centre[0]) / polyp.radius
    pixel = 2 / n / polyp.radius
    rho, head = _head(polyp, dx, dy, pixel)
    surface = polyp.height * np.sqrt(np.clip(1 - rho ** 2, 0, 1) + 0.01)
    surface += rng.uniform(0.01, 0.03) * noise(rng, 14, rho.shape) + 0.006 * noise(rng, 48, rho.shape)
    shape = head
    if polyp.foot is not None:
        below, stalk = _stalk(polyp, polyp.foot, dx, dy, pixel)
        surface, shape = np.where(head > 0.5, surface, below), np.maximum(head, stalk)
    lamp = np.append(rng.normal(0, 0.3, 2), 1)
    diffuse, mirror = _shade(surface, pixel, lamp / np.linalg.norm(lamp))
    row, column = ((centre + 1) * n / 2).astype(int)
    around = 0.6 + 0.4 * min(1.0, float(light[row, column]) / 0.6)
    bright = around * (0.14 + 0.68 * diffuse) * (1 + 0.05 * noise(rng, 24, rho.shape))
    tone = rng.uniform(0.15, 0.75) * head[..., None]  # a stalk has the wall's colour
    own = _colour(*PALETTES[palette][3]) * 1.5 * bright[..., None]
    body = (1 - tone) * _tint(bright, palette) + tone * own
    body += 235 * (head * step(0.982, 0.996, mirror))[..., None]
    shadow = 0.5 * polyp.height * (1 - step(0.7, 1.5, np.hypot(dx + 1.2 * lamp[0], dy + 1.2 * lamp[1])))
    part = colour[window]
    part *= (1 - shadow - 0.15 * (1 - step(1, 1.25, rho)))[..., None]
    part += shape[..., None] * (body - part)
    outlines[window] = np.maximum(outlines[window], shape)


def _head(polyp: Polyp, dx: Field, dy: Field, pixel: float) -> tuple[Field, Field]:
    """How far out each point is (1 on the outline), and the head's cover, 0 to 1."""
    along = dx * math.cos(polyp.turn) + dy * math.sin(polyp.turn)
    across = (dy * math.cos(polyp.turn) - dx * math.sin(polyp.turn)) / polyp.stretch
    angle = np.arctan2(across, along)
    outline = 1 + sum(a * np.cos(k * angle + phase) for k, (a, phase) in enumerate(polyp.waves, start=2))
    rho = np.hypot(along, across) / outline
    return rho, 1 - step(1 - pixel, 1 + pixel, rho)


def _stalk(polyp: Polyp, foot: Point, dx: Field, dy: Field, pixel: float) -> tuple[Field, Field]:
    """The stalk's surface and cover: a tube from the head's centre that widens and ends in the wall."""
    fx, fy = ((f - c) / polyp.radius for f, c in zip(foot, polyp.centre, strict=True))
    t = np.clip((dx * fx + dy * fy) / (fx * fx + fy * fy), 0, 1)
    width = 0.3 + 0.3 * t ** 3
    off = np.hypot(dx - t * fx, dy - t * fy) / width
    cover = (1 - step(1 - 2 * pixel, 1 + 2 * pixel, off)) * (1 - step(0.7, 1, t))
    return 0.6 * width * np.sqrt(np.clip(1 - off ** 2, 0, 1) + 0.05), cover


def _shade(surface: Field, pixel: float, lamp: np.ndarray) -> tuple[Field, Field]:
    """A surface under a distant lamp: its diffuse light, and how well it mirrors the lamp at the viewer."""
    slope_y, slope_x = np.gradient(surface, pixel)
    length = np.sqrt(slope_x ** 2 + slope_y ** 2 + 1)
    diffuse = np.clip((lamp[2] - slope_x * lamp[0] - slope_y * lamp[1]) / length, 0, 1)
    half = np.add(lamp, [0, 0, 1])
    half /= np.linalg.norm(half)
    return diffuse, np.clip((half[2] - slope_x * half[0] - slope_y * half[1]) / length, 0, 1)
