"""Lesions painted into the user's own pictures, of any size: chapter 3's algorithm outside a run's pairs.

A picture is painted at the model's size: in a window around the lesion if the run has windows, else squared
as the models' training pictures were (data.fit). The painted region is then laid back into it; pixels outside
the region stay as they are.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from PIL import Image

from diffusegen_core.chapters import spots
from diffusegen_core.chapters.spots import Spot
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config import devices
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import fits, masks, planes, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.masks import Drawn, Like
from diffusegen_core.store import seeds

VERSION = 1  # raised when the same picture and seed would give another result
PORTRAIT = 2  # the same for pictures that are higher than wide and not padded
PLACES = 2  # raised when the same picture and seed would give another drawn mask
LOOK = 512  # pixels of a picture's longer side in which text is looked for
# Width and height, as shares of the longer side and half on either side, by which a line of text is widened
# if that leaves room: other lines stand there, such as grey ones on a white fold, that are harder to see.
BLOCK = 0.06, 0.25
LINE = 0.0, 0.0  # the line itself
ROOM = 0.9  # least area of a drawn mask beside what is to stay, over its area without that
FULL = 0.95  # share of a picture; a region that covers more leaves nothing to paint into


@dataclass(frozen=True)
class Painted:
    """A picture that was painted into."""

    image: np.ndarray
    """(H, W, C) uint8."""
    mask: np.ndarray
    """(H, W) uint8, class numbers of the new lesion, if there is one, and of what was to stay."""
    region: np.ndarray
    """(H, W) bool: outside it, the picture is as it was."""
    model: str
    seed: int
    mask_of: str
    """The training pair whose mask was taken; "" where the mask was given."""
    mask_change: str
    """How that mask was changed."""


@dataclass(frozen=True)
class PaintRequest:
    """Which lesion a picture is to get, and which it is to lose. Masks are (H, W), nonzero where a lesion is:
    with several classes, the class number."""

    mask: np.ndarray | None = None
    """The new lesion; None: a training pair's, varied."""
    like: Like | None = None
    """Size and position of the new lesion if no mask is given; None: at random, where tissue is seen."""
    old: np.ndarray | None = None
    """The lesion that the picture has, to be painted over."""
    remove: bool = False
    """No new lesion: what `mask` and `old` show is painted over."""
    keep: np.ndarray | None = None
    """What the picture has and keeps: nothing is painted there, and the new pair's mask shows it. But the
    class that `inpaint.within` names gives way: a lesion that is drawn lies in it."""

    def fixed(self, around: int | None) -> np.ndarray | None:
        """What stays whatever is painted: `keep` without the class of that number."""
        if self.keep is None or around is None:
            return self.keep
        return np.where(self.keep == around, 0, self.keep)


def paint(pairs: Pairs, models: Trained, settings: Inpaint, data: Data, image: np.ndarray, wish: PaintRequest,
          n: int = 1, seed: int = 0, device: str = "auto") -> list[Painted]:
    """Paint `n` pictures from one, (H, W, C) uint8. `pairs` and `data` are the run's; each result draws one
    of the K cluster models, as in chapter 3.

    Result i depends on `seed` and i alone. UserError for a picture or a mask that cannot be used.
    """
    _refuse_unusable(pairs, image, wish, n, _around(settings, data))
    where, own = devices.device(device), _seeds(seed, n)
    inner = fits.inner(image.shape, _fit(data))
    # Models trained on middle squares see a square of the shorter side here too, around the lesion.
    window = data.window or (float(max(image.shape)) if data.fit == "crop" else None)
    chosen = [models.models[int(seeds.rng(one, "model").integers(len(models.models)))].name for one in own]
    results: dict[int, Painted] = {}
    for name in dict.fromkeys(chosen):
        diffusion = replace(models.load(name, device, settings.precision), clip=settings.clip)
        numbers = [number for number, model in enumerate(chosen) if model == name]
        for first in range(0, len(numbers), settings.batch_size):
            batch = numbers[first:first + settings.batch_size]
            wanted = [_wanted(pairs, image, wish, own[number], settings, data) for number in batch]
            generators = [seeds.generator(own[number], "noise", device=where) for number in batch]
            painted = spots.paint(diffusion, [spot for spot, _, _ in wanted], window, settings, generators)
            for number, (spot, of, drawn), (shown, mask) in zip(batch, wanted, painted, strict=True):
                results[number] = Painted(shown[(..., *inner)].transpose(1, 2, 0), mask[inner],
                                          spot.region(settings.dilate)[inner] > 0, name, own[number], of,
                                          drawn.change)
    return [results[number] for number in range(n)]


def check(pairs: Pairs, settings: Inpaint, data: Data, image: np.ndarray, wish: PaintRequest, n: int = 1,
          seed: int = 0) -> tuple[float, list[str]]:
    """The largest share of the picture that `paint` would paint anew, and what to say of where it paints.
    UserError for whatever it would refuse; nothing is painted."""
    _refuse_unusable(pairs, image, wish, n, _around(settings, data))
    wanted = [_wanted(pairs, image, wish, own, settings, data)
              for own in _seeds(seed, 1 if wish.mask is not None or wish.remove else n)]
    inner = fits.inner(image.shape, _fit(data))
    painted = [spot.region(settings.dilate)[inner] for spot, _, _ in wanted]
    told = list(_moved(wish, [drawn for _, _, drawn in wanted], image.shape, data.fit))
    text = _text(image)
    if any((region & text).any() for region in painted):
        told.append("what is painted anew covers what looks like burnt-in text.")
    return max(float(region.mean()) for region in painted), told


def _moved(wish: PaintRequest, drawn: Sequence[Drawn], shape: tuple[int, ...], fit: str) -> Iterator[str]:
    """That masks do not lie where they were asked for, in a picture (H, W, C), if some do not."""
    sides = shape[:2] if fit == "squeeze" else (max(shape[:2]),) * 2
    steps = [(one.shift[0] * sides[1] / shape[1], one.shift[1] * sides[0] / shape[0]) for one in drawn]
    x, y = max(steps, key=lambda step: np.hypot(*step))
    if (like := wish.like) and (x or y):
        number = sum(map(any, steps))
        which = "the lesion is" if len(drawn) == 1 else f"{number} of {len(drawn)} lesions are elsewhere, one"
        other = "text or the dark frame" if wish.keep is None else "text, the dark frame or what is to stay"
        yield (f"at {like.x:.2f}:{like.y:.2f} there is no room away from {other}, so {which} at "
               f"{like.x + x:.2f}:{like.y + y:.2f}.")


def version(data: Data, shapes: Iterable[Sequence[int]]) -> int:
    """The version of what is painted into pictures of these shapes, (H, W, C)."""
    return PORTRAIT if _fit(data) != "pad" and any(shape[0] > shape[1] for shape in shapes) else VERSION


def _seeds(seed: int, n: int) -> list[int]:
    """A seed for each result."""
    return [seeds.derive(seed, "paint", number) for number in range(n)]


def _around(settings: Inpaint, data: Data) -> int | None:
    """The number of the class that inpaint.within names; None for no limit."""
    return None if settings.within is None else 1 + data.classes.index(settings.within)


def _refuse_unusable(pairs: Pairs, image: np.ndarray, wish: PaintRequest, n: int,
                     around: int | None) -> None:
    channels, highest = pairs.planes.channels, pairs.planes.numbers
    if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
        colours = " RGB" if channels == planes.RGB else ""
        raise UserError(f"The picture must be (H, W, {channels}), uint8{colours}; it is {image.shape}, "
                        f"{image.dtype}.")
    for name, mask in (("mask", wish.mask), ("mask of what is to go", wish.old),
                       ("mask of what is to stay", wish.keep)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise UserError(f"The {name} must be as large as the picture, {image.shape[1]} x "
                            f"{image.shape[0]} pixels; it is {' x '.join(map(str, mask.shape[::-1]))}.")
    given = [mask for mask in (wish.mask, wish.old) if mask is not None]
    kept = [mask for mask in (wish.keep,) if mask is not None]
    if highest > 1 and any(mask.max() > highest for mask in given + kept):
        raise UserError(f"A mask must hold class numbers, 0 to {highest}.")
    if wish.remove and not any(mask.any() for mask in given):
        raise UserError("Removing a lesion needs its mask; none was given, or it is empty.")
    if not wish.remove and wish.mask is not None and not wish.mask.any():
        raise UserError("The mask is empty. To remove a lesion, give its mask and ask for its removal.")
    if wish.like and (wish.mask is not None or wish.remove):
        raise UserError("A size and a position apply only to a mask that is drawn: do not give them with a "
                        "mask or a removal.")
    stays = wish.fixed(around)
    if stays is not None and any((mask > 0)[stays > 0].any() for mask in given):
        raise UserError("What is to stay overlaps the new lesion, or one that is to go.")
    if n < 1:
        raise UserError(f"The number of pictures must be at least 1; it is {n}.")


def _fit(data: Data) -> str:
    """How a picture is squared as a whole before it is painted into: padded, or not at all."""
    return "pad" if data.fit == "pad" and not data.window else "squeeze"


def _wanted(pairs: Pairs, image: np.ndarray, wish: PaintRequest, seed: int, settings: Inpaint,
            data: Data) -> tuple[Spot, str, Drawn]:
    """What is to be painted, in the picture squared by `_fit`; whose mask that is, and what was drawn."""
    nothing, of = np.zeros(image.shape[:2], np.uint8), ""
    one, around = pairs.planes.classes == 1, _around(settings, data)
    given, old, keep = (nothing if mask is None else (mask > 0 if one else mask).astype(np.uint8)
                        for mask in (wish.mask, wish.old, wish.keep))
    drawn = Drawn(given, "")
    if wish.remove:
        drawn, old = Drawn(nothing, ""), np.where(old > 0, old, given)
    elif wish.mask is None:
        of, drawn = _drawn(pairs, image, wish.like, seed, data.fit, keep, settings.dilate, settings.turn,
                           around)
    fit = _fit(data)
    squared, gone, new, stays = (fits.squared(part, fit) for part in (
        image, *(mask[..., None] for mask in (old, drawn.mask, keep))))
    spot = Spot(np.ascontiguousarray(squared.transpose(2, 0, 1)), gone[..., 0], new[..., 0],
                None if wish.keep is None else stays[..., 0], yielding=around)
    if (share := _share(spot, image, settings, data)) > FULL:
        raise UserError(f"The region to paint covers {share:.0%} of the picture: nothing is left to paint "
                        "into.")
    return spot, of, drawn


def _share(spot: Spot, image: np.ndarray, settings: Inpaint, data: Data) -> float:
    """The share of a picture that is painted anew, 0 to 1."""
    return float(spot.region(settings.dilate)[fits.inner(image.shape, _fit(data))].mean())


def _drawn(pairs: Pairs, image: np.ndarray, like: Like | None, seed: int, fit: str,
           keep: np.ndarray | None = None, dilate: int = 1, turn: float = masks.ANY,
           around: int | None = None) -> tuple[str, Drawn]:
    """A training pair's mask, changed and placed in a picture (H, W, C), away from what is to stay (H, W) and
    from text, and the name of the pair. If that shows the class `around`, by its number, the place is in that
    class.

    `fit` is as data.fit: if the run's pictures were squeezed, the mask is stretched back with this picture;
    else it keeps its proportions.
    """
    beside = partial(_beside_text, pairs, image, like, seed, fit, keep, dilate, turn, around)
    least = beside(LINE)
    if _text(image).any():
        with suppress(UserError):  # there is no room beside the block
            wider = beside(BLOCK)
            if np.count_nonzero(wider[1].mask) >= ROOM * np.count_nonzero(least[1].mask):
                return wider
    return least


def _beside_text(pairs: Pairs, image: np.ndarray, like: Like | None, seed: int, fit: str,
                 keep: np.ndarray | None, dilate: int, turn: float, around: int | None,
                 widened: tuple[float, float]) -> tuple[str, Drawn]:
    """The same beside text that is `widened`, as BLOCK. UserError where there is no room."""
    side, fit = pairs.image_size, "squeeze" if fit == "squeeze" else "pad"
    square, inner = fits.squared(image, fit).shape[:2], fits.inner(image.shape, fit)
    too_small = UserError(f"The picture, {image.shape[1]} x {image.shape[0]} pixels, is too small to "
                          "draw a mask in. Give one.")
    if fit == "pad" and min(image.shape[:2]) * side < max(image.shape[:2]):  # less than a pixel in the square
        raise too_small
    areas = planes.union(pairs.masks).mean(axis=(1, 2))
    whole = None if like is None else like.within(image.shape[:2], square, areas[areas > 0])
    picture = fits.squared(np.ones((*image.shape[:2], 1), np.uint8), fit).transpose(2, 0, 1)
    picture = planes.shrunk(picture, (side, side))[0]
    view, free = _free(image, side, fit, dilate, like is not None, widened)
    number, drawn = _placed(pairs, whole, view, picture, seed, turn)
    if not drawn.mask.any():
        raise UserError("The picture has no room for a lesion of this size beside burnt-in text and the dark "
                        "frame. Choose a smaller size, or give a mask.")
    if keep is not None and keep.any():
        least = ROOM * np.count_nonzero(anywhere := drawn.mask)
        for with_rim in (True, False):  # where an organ has room for the rim, that does not reach its edge
            room = view * _beside(keep, side, fit, dilate, around, with_rim)
            drawn = _placed(pairs, whole, room, picture, seed, turn)[1] if room.any() else Drawn(room, "")
            if (fits_in := np.count_nonzero(drawn.mask) >= least):
                break
        if not fits_in:
            share = np.count_nonzero(anywhere) / anywhere.size
            raise UserError(f"What is to stay leaves too little room for a lesion of {share:.1%} of the "
                            "picture. Choose a smaller size, or give a mask.")
        organ = _organ(keep, around)
        free = free * (organ if organ.any() else keep == 0)
    enlarged = masks.enlarged(drawn.mask, square[::-1])[inner] * free
    if not enlarged.any():
        raise too_small
    return pairs.names[number], Drawn(enlarged, drawn.change, drawn.shift)


def _free(image: np.ndarray, side: int, fit: str, dilate: int, wanted: bool,
          widened: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Where a mask can lie in a picture (H, W, C): in the square that models see, (side, side), and in the
    picture, (H, W), both in {0, 1}. Its region keeps off text, `widened` as BLOCK says, and, where its place
    is `wanted`, off the dark frame; at random, it may lie as near to the frame as in chapter 3."""
    squared, inner = fits.squared(image, fit), fits.inner(image.shape, fit)
    shown = planes.resize(squared.transpose(2, 0, 1), (side, side), Image.Resampling.LANCZOS)
    view = masks.field_of_view(shown if _is_coloured(shown) else shown[:1])
    if not view.any():
        raise UserError("The picture is dark all over, so no place can be found. Give a mask.")
    width, height = (2 * round(share * max(image.shape[:2]) / 2) + 1 for share in widened)
    clear = (1 - cv2.dilate(_text(image), np.ones((height, width), np.uint8))).astype(np.uint8)
    if wanted:
        clear = clear * (cv2.resize(view, squared.shape[1::-1], interpolation=cv2.INTER_NEAREST)[inner] > 0)
    far = _far(clear, dilate)
    near = fits.squared(1.0 - far[..., None], fit)[..., 0]
    near = cv2.resize(near, (side, side), interpolation=cv2.INTER_AREA)
    return view & (near == 0), far


def _beside(keep: np.ndarray, side: int, fit: str, dilate: int, around: int | None,
            with_rim: bool) -> np.ndarray:
    """Where a mask can lie beside what is to stay, (H, W) class numbers, in the square that models see, as
    (side, side) in {0, 1}: inside the class `around`, if that is shown, if wished `with_rim`."""
    stays = fits.squared(keep[..., None], fit)[..., 0]
    organ = _organ(stays, around)
    taken = regions.dilated(np.where(organ, 0, stays), dilate)
    free = 1 - planes.shrunk(taken[None], (side, side))[0]
    if not organ.any():
        return free
    inside = _far(organ.astype(np.uint8), dilate) if with_rim else organ.astype(np.uint8)
    return free * planes.shrunk(inside[None], (side, side))[0]


def _organ(stays: np.ndarray, around: int | None) -> np.ndarray:
    """Where what is to stay is of the class `around`, (H, W) bool."""
    return stays == around if around is not None else np.zeros_like(stays, bool)


def _is_coloured(image: np.ndarray) -> bool:
    """Whether text can be told apart in an image (C, H, W): in grey ones, specks would be taken for it."""
    return len(image) == planes.RGB and not masks.is_grey(image)


def _text(image: np.ndarray) -> np.ndarray:
    """Where a picture (H, W, C) seems to have lines of text, (H, W) in {0, 1}; if it is grey, nowhere."""
    shape, shown = image.shape[:2], image.transpose(2, 0, 1)
    if not _is_coloured(shown):
        return np.zeros(shape, np.uint8)
    height, width = (max(1, round(length * min(1.0, LOOK / max(shape)))) for length in shape)
    text = masks.text(planes.resize(shown, (width, height), Image.Resampling.LANCZOS), tinged=True)
    return cv2.resize(text, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _far(clear: np.ndarray, dilate: int) -> np.ndarray:
    """Where a mask can lie, (H, W) in {0, 1}, so that the region painted anew keeps off what is 0 in `clear`,
    (H, W) in {0, 1}."""
    rim = len(regions.ellipse(dilate, regions.full_side(clear.shape))) // 2 + 1
    return (cv2.distanceTransform(clear, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > rim).astype(np.uint8)


def _placed(pairs: Pairs, like: Like | None, view: np.ndarray, picture: np.ndarray, seed: int,
            turn: float) -> tuple[int, Drawn]:
    """The index of a training pair, and its mask, changed and placed in a view (S, S) of a picture (S, S),
    both in {0, 1}."""
    rng = seeds.rng(seed, "mask")
    number = int(rng.integers(len(pairs)))
    mask = planes.numbered(pairs.masks[number])
    return number, (masks.varied(mask, view, rng, turn) if like is None else
                    masks.alike(mask, like, view, rng, turn, picture))
