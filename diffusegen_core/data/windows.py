"""Squares around lesions, in which a small model sees a large picture at its own detail (data.window).

A model of 64 pixels that sees a whole picture of 500 blurs a lesion of 100. One that is trained on squares
about twice as large as the lesion paints it at more than half the picture's own resolution. What it paints
is laid back into the picture.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from diffusegen_core.config.sections import FULL_SIZE
from diffusegen_core.data import dataset, fits, planes, regions
from diffusegen_core.data.dataset import PAIRS, Pairs
from diffusegen_core.data.planes import Chosen
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other windows
SEVERAL = 2  # the same where masks have several classes
COPIES = 4  # windows of each training pair
OF = "~"  # in the name of a window, after that of its pair
ROOM = 1.2  # times a region's box: the least size of a window
RESIZE, SHIFT = 1.3, 0.15  # of training windows: largest factor of size, and shift as a share of the side
FADE = 1.0  # share of the rim between mask and region over which what is painted fades in


@dataclass(frozen=True)
class Window:
    """A part of a picture: its box, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Window":
        """All of a picture (..., H, W)."""
        return cls(0, 0, shape[-1], shape[-2])

    @classmethod
    def around(cls, lesion: np.ndarray, times: float, region: np.ndarray | None = None,
               rng: np.random.Generator | None = None) -> "Window":
        """The square, within the picture, `times` as large as the box around a lesion (H, W), not 0 there.

        It has room for the `region` (H, W), if one is given; where no square has, it is the whole picture.
        `rng` varies its size and place.
        """
        left, top, width, height = cv2.boundingRect(lesion if region is None else region)
        *_, own_width, own_height = cv2.boundingRect(lesion) if lesion.any() else (0, 0, width, height)
        side = max(times * max(own_width, own_height), ROOM * max(width, height))
        x, y = left + width / 2, top + height / 2
        if rng is not None:
            side *= RESIZE ** rng.uniform(-1, 1)
            x, y = (middle + side * SHIFT * rng.uniform(-1, 1) for middle in (x, y))
        side = min(max(8, round(side)), *lesion.shape)
        if side < max(width, height):  # in a picture that is no square
            return cls.whole(lesion.shape)
        left, top = (int(np.clip(round(middle - side / 2), 0, size - side))
                     for middle, size in ((x, lesion.shape[1]), (y, lesion.shape[0])))
        return cls(left, top, side, side)

    @property
    def box(self) -> tuple[slice, slice]:
        """Its part of an array (..., H, W): `array[(..., *window.box)]`."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def contains(self, mask: np.ndarray) -> bool:
        """Whether all of a mask (H, W) lies in it."""
        return np.count_nonzero(mask[self.box]) == np.count_nonzero(mask)

    def cut(self, image: np.ndarray, numbers: np.ndarray, size: int,
            classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Its part of an image (C, H, W) uint8, and of a map of class numbers (H, W): (C, size, size) and
        (size, size)."""
        part = numbers[self.box]
        small = planes.shrunk(planes.separate(part, classes), (size, size))
        return (planes.resize(image[(..., *self.box)], (size, size), Image.Resampling.LANCZOS),
                planes.numbered(small))

    def region(self, region: np.ndarray, size: int) -> np.ndarray:
        """Its part of a region (H, W) in {0, 1} to be painted, (size, size): every pixel that it touches."""
        part = region[self.box]
        if part.shape == (size, size):
            return part.copy()
        cover = np.asarray(Image.fromarray(part * np.uint8(255)).resize((size, size), Image.Resampling.BOX))
        return (cover > 0).astype(np.uint8)

    def laid_back(self, image: np.ndarray, painted: np.ndarray, region: np.ndarray,
                  dilate: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture (C, H, W) uint8 with what was painted in this window, and its share alpha (H, W) there.

        `painted` (C, S, S) uint8 and the `region` (S, S) in {0, 1} are at the model's size, `dilate` as
        inpaint.dilate. alpha is 0 outside the region, and rises to 1 within the rim that the dilation adds.
        """
        fade = max(1.0, FADE * dilate / 2 * regions.full_side(image.shape) / FULL_SIZE * len(region)
                   / max(self.width, self.height))
        depth = cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        share = cv2.resize(np.clip(depth / fade, 0, 1), (self.width, self.height),
                           interpolation=cv2.INTER_LINEAR)
        enlarged = planes.resize(painted, (self.width, self.height), Image.Resampling.BICUBIC)
        alpha, result = np.zeros(image.shape[1:], np.float32), image.copy()
        alpha[self.box] = share
        under = image[(..., *self.box)]
        mixed = share * enlarged.astype(np.float32) + (1 - share) * under
        result[(..., *self.box)] = np.where(share > 0, np.rint(mixed).astype(np.uint8), under)
        return result, alpha


def version(classes: int) -> int:
    """The version of the windows of masks with so many classes."""
    return VERSION if classes == 1 else SEVERAL


def cut_all(pairs: Pairs, windows: Sequence[Window] | None, size: int) -> Pairs:
    """Each pair's window, at `size` pixels; without windows the pairs as they are."""
    if windows is None:
        return pairs
    classes = pairs.planes.classes
    cuts = [window.cut(image, numbers, size, classes) for window, image, numbers in
            zip(windows, pairs.images, planes.numbered(pairs.masks), strict=True)]
    return dataset.gather(pairs.names, np.stack([image for image, _ in cuts]),
                          planes.separate(np.stack([mask for _, mask in cuts]), classes), pairs.overlap)


def all_laid_back(images: np.ndarray, changed: np.ndarray, windows: Sequence[Window] | None,
                  filled: np.ndarray, dilate: int) -> np.ndarray:
    """Images (B, C, H, W) uint8 whose regions `filled` (B, H, W) are from changed windows (B, C, S, S).

    Without windows, the changed images themselves.
    """
    if windows is None:
        return changed
    size = changed.shape[-1]
    whole = [window.laid_back(image, new, window.region(region, size), dilate)[0]
             for window, image, new, region in zip(windows, images, changed, filled, strict=True)]
    return np.where(filled[:, None] > 0, np.stack(whole), images)


def training(ws: Workspace, pairs: Pairs, times: float | None, size: int | None,
             chosen: Chosen = None) -> Pairs:
    """What the models are trained on: COPIES windows of each pair, one after the other; or the pairs.

    The windows lie around the `chosen` classes, as those do in which these are painted.
    """
    if times is None or size is None:
        return pairs
    recipe: Recipe = {"version": version(pairs.planes.classes), "pairs": pairs.digest, "seed": ws.seed,
                      "window": times, "window_size": size,
                      **({} if chosen is None else {"classes": list(chosen)})}
    artifact = ws.artifact("windows", recipe)
    if not artifact.made():
        folder, start = artifact.begin(), time.monotonic()
        windows = drawn(ws.seed, pairs, times, size, chosen=chosen)
        artifact.finish([dataset.write(folder, windows)], time.monotonic() - start, windows=len(windows))
    return dataset.read(artifact.file(PAIRS))


def drawn(seed: int, pairs: Pairs, times: float, size: int, copies: int = COPIES,
          chosen: Chosen = None) -> Pairs:
    """The first `copies` training windows of each pair, one after the other, NAME~0, NAME~1, ...; `times` and
    `size` as data.window and data.window_size. A pair without a chosen class has them around the others."""
    names, images, masks = [], [], []
    numbers, wanted = (planes.numbered(of) for of in (pairs.masks, planes.only(pairs.masks, chosen)))
    for name, image, mask, own in zip(pairs.names, pairs.images, numbers, wanted, strict=True):
        for copy in range(copies):
            window = Window.around(own if own.any() else mask, times,
                                   rng=seeds.rng(seed, "window", name, copy))
            shown, lesion = window.cut(image, mask, size, pairs.planes.classes)
            names.append(f"{name}{OF}{copy}")
            images.append(shown)
            masks.append(lesion)
    return dataset.gather(names, np.stack(images), planes.separate(np.stack(masks), pairs.planes.classes),
                          pairs.overlap)


def bars_empty(masks: np.ndarray, originals: Pairs) -> np.ndarray:
    """Masks (B, M, S, S) for `originals`, with nothing in the bars of these where they were padded."""
    kept = np.zeros_like(masks)
    for part, mask, name in zip(kept, masks, originals.names, strict=True):
        shape = originals.padded.get(name)
        inner, shown = (part, mask) if shape is None else (fits.shown(one, shape) for one in (part, mask))
        inner[:] = shown
    return kept


def bars_kept(images: np.ndarray, originals: Pairs) -> np.ndarray:
    """Images (B, C, S, S) made from `originals`, between the bars of these where they were padded."""
    kept = images.copy()
    for image, original, name in zip(kept, originals.images, originals.names, strict=True):
        if name in originals.padded:
            picture = fits.shown(image, originals.padded[name]).copy()
            image[:] = original
            fits.shown(image, originals.padded[name])[:] = picture
    return kept
