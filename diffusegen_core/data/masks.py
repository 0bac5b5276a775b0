"""Masks for lesions to be painted: taken from training pairs, changed, and placed where tissue is visible.

Unless a size is asked for, a mask keeps its size, within the change of scale below, so that new lesions are
as large as those that the model knows. Sizes below are shares of an image's side, unless they say otherwise.
A mask here is a map of class numbers (S, S): 0 outside, 1 to M the classes, which move together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.data import planes

VERSION = 1  # raised when the same seed would give another mask
# Grey levels of the frame around the field of view: at most DARK in all channels or, for a grey frame, at
# most ABOVE lighter than the picture's corners; corners of LIGHTEST or above are no frame.
DARK, ABOVE, LIGHTEST = 24, 16, 48
CORNER = 0.04  # the side of a corner
DETAIL = 0.06  # light areas thinner than this, such as text on the dark frame, are no tissue
STROKE, LETTER, LINE = 0.045, 0.055, 0.07  # burnt-in text: thickest stroke, tallest letter, shortest line
BRIGHT, NEUTRAL = 35, 60  # grey levels: text is lighter than its surroundings, and nearly colourless
# Letters that JPEG has tinged with the colour beneath them differ by less than TINGED between channels. Such
# marks are text if those at least TALL times as high as their line take up EVEN of its width.
TINGED, TALL, EVEN = 140, 0.6, 0.45
SCALE, SHEAR = 1.25, 0.15  # the largest changes of a mask, beside its rotation
ANY = 180.0  # degrees either way: rotation without a limit
BEND, WAVE = 0.03, 0.15  # of its own size: deviation of the elastic change, and the width it is smoothed over
TINT, TINTED = 12, 0.01  # channels of a coloured pixel differ by more; a grey picture has fewer such (share)
OUTLINE, ROUNDED = 1.0, 0.1  # smoothing of an enlarged outline in pixels, and at most as a share of its size
INSIDE = 0.98  # of a mask: at least this share lies in the field of view, wherever that is possible


@dataclass(frozen=True)
class Drawn:
    """A mask for a lesion to be painted."""

    mask: np.ndarray
    """(S, S) uint8, class numbers."""
    change: str
    """What was done to the original mask, in words; "" where nothing was."""
    shift: tuple[float, float] = (0.0, 0.0)
    """How far it lies from the place that was asked for, x and y, as shares of S."""


@dataclass(frozen=True, kw_only=True)
class Moved(Drawn):
    """A mask that was moved as a whole, by a map that can move the picture beneath it as well."""

    matrix: np.ndarray
    """(2, 3), from pixels of the original mask to its own, x before y."""


# Words for sizes, as quantiles of the areas of a run's lesions, and for positions in a picture.
SIZES = {"small": 0.1, "medium": 0.5, "large": 0.9}
COLUMNS, ROWS, CENTRE = {"left": 0.3, "right": 0.7}, {"top": 0.3, "bottom": 0.7}, "centre"


@dataclass(frozen=True)
class Like:
    """The wanted size of a lesion and its middle x, y, from 0 to 1. The size is a share of the picture's area
    or, among a run's lesions, one of SIZES."""

    area: float | str
    x: float
    y: float

    @classmethod
    def parse(cls, text: str) -> "Like":
        """From "SIZE,POSITION": "medium,top-left", or "0.05,0.4:0.6" in shares."""
        size, _, position = text.partition(",")
        try:
            area = size if size in SIZES else float(size)
            x, y = map(float, position.split(":")) if ":" in position else _middle(position)
        except ValueError:
            raise UserError(
                f"{printable(text)} is not a size and position, such as medium,top-left or 0.05,0.4:0.6. "
                f"Sizes are {', '.join(SIZES)} (among the run's lesions), or a share of the picture; "
                f"positions are {CENTRE}, "
                f"{', '.join([*COLUMNS, *ROWS])}, two of them as in top-left, or X:Y.") from None
        if not ((isinstance(area, str) or 0 < area < 1) and 0 <= x <= 1 and 0 <= y <= 1):
            raise UserError(f"{printable(text)}: size and position are shares of the picture, from 0 to 1.")
        return cls(area, x, y)

    def within(self, picture: tuple[int, int], square: tuple[int, int], areas: np.ndarray) -> "Like":
        """The same lesion, of a picture (H, W), in the `square` (H, W) with the picture in its middle.

        `areas` are those of the run's lesions, as shares of the square.
        """
        (tall, wide), (height, width) = picture, square
        area = (float(np.quantile(areas, SIZES[self.area])) if isinstance(self.area, str) else
                self.area * tall * wide / (height * width))
        return Like(area, 0.5 + (self.x - 0.5) * wide / width, 0.5 + (self.y - 0.5) * tall / height)


def _middle(position: str) -> tuple[float, float]:
    """x and y of a position in words. ValueError where it is none."""
    words = position.split("-")
    column, row = ([word for word in words if word in known] for known in (COLUMNS, ROWS))
    if position != CENTRE and (len(column) > 1 or len(row) > 1 or len(column) + len(row) != len(words)):
        raise ValueError(position)
    return COLUMNS[column[0]] if column else 0.5, ROWS[row[0]] if row else 0.5


def field_of_view(image: np.ndarray) -> np.ndarray:
    """Where an image (C, S, S) uint8 shows tissue: (S, S) in {0, 1}.

    Left out are the dark frame that reaches the image's border and, for RGB, lines of burnt-in text. In grey
    pictures text is not told apart by its lack of colour, and specks would be taken for it.
    """
    lightest = image.max(axis=0)
    lit = (lightest > _darkness(lightest)).astype(np.uint8)
    lit = cv2.morphologyEx(lit, cv2.MORPH_OPEN, _kernel(cv2.MORPH_ELLIPSE, lit, DETAIL, DETAIL))
    frame = np.zeros_like(lit)
    for part, (left, top, width, height) in _parts(1 - lit):
        if min(left, top) == 0 or left + width == lit.shape[1] or top + height == lit.shape[0]:
            frame[part] = 1
    return (1 - frame) & (1 - text(image)) if len(image) == planes.RGB else 1 - frame


def is_grey(image: np.ndarray) -> bool:
    """Whether a picture (3, H, W) uint8 has no colour, though it could have."""
    return bool(np.mean(np.ptp(image.astype(np.int16), axis=0) > TINT) < TINTED)


def _darkness(lightest: np.ndarray) -> float:
    """The level up to which a pixel may belong to the frame, from a picture's lightest channels (H, W)."""
    rows, columns = (max(2, round(CORNER * side)) for side in lightest.shape)
    corners = np.concatenate([part[:, edge].ravel() for part in (lightest[:rows], lightest[-rows:])
                              for edge in (slice(columns), slice(-columns, None))])
    level = float(np.median(corners))
    return max(DARK, level + ABOVE) if level < LIGHTEST else DARK


def text(image: np.ndarray, tinged: bool = False) -> np.ndarray:
    """Lines of burnt-in text in a coloured image (3, H, W) uint8, as (H, W) in {0, 1}: rows of small, light,
    nearly colourless marks. Highlights seldom form rows.

    With `tinged`, letters may have taken on some colour, and highlights are told apart by unequal heights.
    """
    lightest, darkest = image.max(axis=0), image.min(axis=0)
    side = image.shape[-1]
    raised = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, _kernel(cv2.MORPH_ELLIPSE, darkest, STROKE, STROKE))
    marks = ((raised > BRIGHT) & (lightest - darkest < (TINGED if tinged else NEUTRAL))).astype(np.uint8)
    heights = np.zeros(marks.shape, np.int32)
    for part, (_, _, _, height) in _parts(marks):
        if height <= LETTER * side:
            heights[part] = height
    letters = (heights > 0).astype(np.uint8)
    lines = cv2.morphologyEx(letters, cv2.MORPH_CLOSE, _kernel(cv2.MORPH_RECT, letters, STROKE, 0))
    inside = np.zeros_like(marks)
    for _, (left, top, width, height) in _parts(lines):
        box = slice(top, top + height), slice(left, left + width)
        even = height <= LETTER * side and (heights[box] >= TALL * height).any(axis=0).mean() >= EVEN
        if width >= max(LINE * side, 2 * height) and (even or not tinged):
            inside[box] = 1
    return inside


def varied(mask: np.ndarray, view: np.ndarray, rng: np.random.Generator, turn: float = ANY) -> Drawn:
    """A mask (S, S), turned by at most `turn` degrees either way, scaled, sheared and bent, placed in a field
    of view (S, S) in {0, 1}."""
    shape, _, told = _changed(mask, rng, turn)
    placed, (left, top), _ = _placed(_bent(shape, rng), view, rng)
    return Drawn(placed, f"{told}, bent, to {left}:{top}")


def moved(mask: np.ndarray, view: np.ndarray, rng: np.random.Generator, turn: float = ANY) -> Moved:
    """The same without bending, so that one affine map says where each pixel went."""
    shape, matrix, told = _changed(mask, rng, turn)
    placed, (left, top), (x, y) = _placed(shape, view, rng)
    matrix = matrix + np.array([[0, 0, left - x], [0, 0, top - y]])
    return Moved(placed, f"{told}, to {left}:{top}", matrix=matrix)


def _angle(rng: np.random.Generator, turn: float) -> float:
    """A random angle in degrees: any, or at most `turn` either way."""
    angle = rng.uniform(0, 360)
    return angle if turn >= ANY else (angle / 180 - 1) * turn


def _changed(mask: np.ndarray, rng: np.random.Generator, turn: float) -> tuple[np.ndarray, np.ndarray, str]:
    """A mask changed by a random affine map: what `_turned` returns, and the change in words."""
    angle, flip = _angle(rng, turn), rng.random() < 0.5
    scale, shear = SCALE ** rng.uniform(-1, 1), rng.uniform(-SHEAR, SHEAR)
    return *_turned(mask, angle, scale, shear, flip), _told(flip, angle, scale, shear)


def _told(flip: bool, angle: float, scale: float, shear: float) -> str:
    return (f"{'mirrored, ' if flip else ''}turned by {angle:.0f} degrees, {scale:.2f} times as large, "
            f"sheared by {shear:.2f}")


def alike(mask: np.ndarray, like: Like, view: np.ndarray, rng: np.random.Generator,
          turn: float = ANY, picture: np.ndarray | None = None) -> Drawn:
    """A mask (S, S), turned by at most `turn` degrees, sheared and bent, of the wanted size, at the wanted
    place or at the nearest one where it lies in the view (S, S); empty if there is none.

    What lies outside the picture (S, S), by default the whole array, is cut away, no more of it than would be
    at the wanted place.
    """
    picture = np.ones_like(view) if picture is None else picture
    angle, flip, shear = _angle(rng, turn), rng.random() < 0.5, rng.uniform(-SHEAR, SHEAR)
    scale = np.sqrt(float(like.area) / (mask > 0).mean())
    shape = _bent(_turned(mask, angle, scale, shear, flip)[0], rng)
    middle = np.argwhere(shape).mean(axis=0)
    wanted = np.array([like.y, like.x]) * len(view)
    step = _nearest(shape, middle, wanted, view * picture, picture)
    if step is None:
        return Drawn(np.zeros_like(mask), "")
    down, right = wanted + step - middle
    moved = cv2.warpAffine(shape, np.array([[1, 0, right], [0, 1, down]]), view.shape[::-1],
                           flags=cv2.INTER_NEAREST)
    y, x = step / len(view)
    return Drawn(moved * view * picture, f"{_told(flip, angle, scale, shear)}, bent, around {like.x + x:.2f}:"
                                         f"{like.y + y:.2f}", (float(x), float(y)))


def _nearest(shape: np.ndarray, middle: np.ndarray, wanted: np.ndarray, view: np.ndarray,
             picture: np.ndarray) -> np.ndarray | None:
    """The shortest step, (rows, columns) in whole pixels, from the wanted place of a shape's middle to one
    where nearly all of the shape that is in the picture is in the view (S, S); None if there is none."""
    solid = (shape > 0).astype(np.float32)
    anchor = tuple(np.rint(middle).astype(int).tolist()[::-1])
    seen, shown = (np.rint(cv2.filter2D(part.astype(np.float32), -1, solid, anchor=anchor,
                                        borderType=cv2.BORDER_CONSTANT)) for part in (view, picture))
    at = np.clip(np.rint(wanted).astype(int), 0, len(view) - 1)
    fits = (seen > 0) & (shown - seen <= (1 - INSIDE) * solid.sum()) & (seen >= INSIDE * shown[tuple(at)])
    steps = np.argwhere(fits) - at
    return steps[(steps ** 2).sum(axis=1).argmin()] if len(steps) else None


def _turned(mask: np.ndarray, angle: float, scale: float, shear: float,
            flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """A mask changed by an affine map around its middle, in an array (R, R) with room to spare; and that map,
    (2, 3), from the mask's pixels to those of the array.

    A mask that would round to nothing keeps its middle pixel, of the class that has most of the mask.
    """
    ys, xs = np.nonzero(mask)
    radius = np.hypot(np.ptp(ys) + 1, np.ptp(xs) + 1) / 2
    side = 2 * int(np.ceil(1.3 * radius * scale)) + 3  # with room for what shear and bending add
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    change = scale * np.array([[c, -s], [s, c]]) @ np.array([[-1 if flip else 1, shear], [0, 1]])
    middle = np.array([(xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2])
    offset = side // 2 - change @ middle
    matrix = np.column_stack([change, offset])
    shape = each_class(mask, lambda one: cv2.warpAffine(one, matrix, (side, side), flags=cv2.INTER_LINEAR))
    if not shape.any():
        shape[side // 2, side // 2] = np.bincount(mask[mask > 0]).argmax()
    return shape, matrix


def each_class(mask: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A mask whose classes, and combinations of these, are changed alike, each as (H, W) float32 in {0, 1}. A
    pixel that they cover more than half of together is of the one that covers most."""
    numbers = np.unique(mask[mask > 0])
    if not len(numbers):
        return change(mask.astype(np.float32)).astype(np.uint8)
    covers = np.stack([change((mask == number).astype(np.float32)) for number in numbers])
    return np.concatenate([[0], numbers]).astype(np.uint8)[planes.leading(covers, 0.5)]


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (S, S) enlarged to `size` (width, height), as (height, width), with smooth outlines: otherwise
    each pixel of a small mask would show as a step. Each class keeps its share of the area."""
    def smooth(one: np.ndarray) -> np.ndarray:
        width = min(OUTLINE, ROUNDED * np.sqrt(one.sum()))
        soft = cv2.resize(cv2.GaussianBlur(one, (0, 0), width), size)
        level = np.quantile(soft, 1 - one.mean())
        return soft * np.float32(0.5 / level) if level > 0 else soft

    plain = each_class(mask, lambda one: cv2.resize(one, size))
    if not mask.any() or max(size) <= max(mask.shape):
        return plain
    rounded = each_class(mask, smooth)
    return rounded if set(np.unique(plain)) <= set(np.unique(rounded)) else plain


# y = x + BEND size N(0, 1), the noise smoothed over WAVE size (Simard et al. 2003)
def _bent(shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An elastic change of a shape (R, R); it never vanishes."""
    side = len(shape)
    shift = [cv2.GaussianBlur(noise, (0, 0), WAVE * side) for noise in rng.standard_normal((2, side, side))]
    to = np.indices((side, side)) + [BEND * side * one / one.std() for one in shift]
    bent = each_class(shape, lambda one: cv2.remap(one, to[1].astype(np.float32), to[0].astype(np.float32),
                                                   cv2.INTER_LINEAR))
    return bent if bent.any() else shape


def _placed(shape: np.ndarray, view: np.ndarray,
            rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """The shape in the view, at a random place where nearly all of it is seen, or else where most is; what is
    not seen is cut away. Also its left and top, there and before."""
    ys, xs = np.nonzero(shape)
    before = int(xs.min()), int(ys.min())
    shape = shape[ys.min():ys.max() + 1, xs.min():xs.max() + 1]
    # How much of it is seen if its upper left corner is at each pixel; beyond the image nothing is seen.
    solid = (shape > 0).astype(np.float32)
    seen = np.rint(cv2.filter2D(view.astype(np.float32), -1, solid, anchor=(0, 0),
                                borderType=cv2.BORDER_CONSTANT))
    places = np.argwhere(seen >= min(INSIDE * np.count_nonzero(shape), seen.max()))
    top, left = map(int, places[rng.integers(len(places))])
    mask = np.zeros_like(view)
    window = mask[top:top + shape.shape[0], left:left + shape.shape[1]]
    window[:] = shape[:window.shape[0], :window.shape[1]]
    return mask * view, (left, top), before


def _kernel(kind: int, image: np.ndarray, width: float, height: float) -> np.ndarray:
    """A morphology kernel whose sides are shares of the image's side, made odd so that nothing shifts."""
    return cv2.getStructuringElement(kind, [max(1, round(share * image.shape[-1])) | 1
                                            for share in (width, height)])


def _parts(marks: np.ndarray) -> Iterator[tuple[np.ndarray, list[int]]]:
    """The connected parts of (S, S) in {0, 1}: where each is, and its box, left, top, width and height."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(marks)
    for number in range(1, count):
        yield labels == number, boxes[number, :4].tolist()
