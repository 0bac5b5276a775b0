"""Channels of images and classes of masks: how many a run's data have, and how they are shown and written.

An image is (C, S, S) uint8, a mask (M, S, S) in {0, 1} with a plane for each class. A mask is also a map of
class numbers (S, S): 0 is background, 1 to M are the classes. Where M is 1, that map is the mask. Where
classes may overlap (data.overlap), each combination of several has a number of its own after M, so that code
for maps of classes that exclude each other works for these as well.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusegen_core.config.data import MOST_OVERLAPPING, Data
from diffusegen_core.store import files

RGB = 3
# A colour for each class in turn, repeated for more classes: those of Okabe and Ito, safe for colour-blind
# readers.
CLASS_COLOURS = np.array([[0xE6, 0x9F, 0x00], [0x56, 0xB4, 0xE9], [0xCC, 0x79, 0xA7], [0x00, 0x9E, 0x73],
                          [0xF0, 0xE4, 0x42], [0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2]], np.uint8)
CLASSES = "classes"  # the text field of a PNG of class numbers that gives the number of classes
ARRAY = ".npy"  # for images that PNG cannot hold


@dataclass(frozen=True)
class Planes:
    """How many channels the images of a run have, and how many classes its masks."""

    channels: int = RGB
    classes: int = 1
    overlap: bool = False
    """Whether a pixel may be of several classes."""

    @classmethod
    def of(cls, data: Data) -> "Planes":
        """Those of the parameters."""
        return cls(data.channels, len(data.classes), data.overlap and len(data.classes) > 1)

    @property
    def all(self) -> int:
        """C + M, the channels that a diffusion model sees: images first."""
        return self.channels + self.classes

    @property
    def numbers(self) -> int:
        """The highest number in a map of class numbers."""
        return 2**self.classes - 1 if self.overlap else self.classes

    @property
    def told(self) -> dict[str, int]:
        """What a recipe or a header records: where they differ from RGB images with one class."""
        usual = vars(RGB_AND_MASK)
        return {name: count for name, count in vars(self).items() if count != usual[name]}


RGB_AND_MASK = Planes()  # those of the paper's data


def union(masks: np.ndarray) -> np.ndarray:
    """Where any class is, (..., S, S) in {0, 1}, of masks (..., M, S, S)."""
    return masks.max(axis=-3)


def numbered(masks: np.ndarray) -> np.ndarray:
    """Maps of class numbers (..., S, S) uint8 from masks (..., M, S, S) in {0, 1}; where classes overlap, the
    numbers of their combinations."""
    if not overlapping(masks):
        return np.where(union(masks) > 0, masks.argmax(axis=-3) + 1, 0).astype(np.uint8)
    known = _combinations(masks.shape[-3])
    places = 2**np.arange(masks.shape[-3])
    of_sum = np.zeros(len(known), np.uint8)
    of_sum[known @ places] = np.arange(len(known))
    return of_sum[np.tensordot((masks != 0).astype(np.int64), places, axes=(-3, 0))]


def overlapping(masks: np.ndarray) -> bool:
    """Whether a pixel of masks (..., M, S, S) is of several classes."""
    return bool((np.count_nonzero(masks, axis=-3) > 1).any())


@lru_cache
def _combinations(classes: int) -> np.ndarray:
    """Which classes each number of a map stands for, (2^M, M) in {0, 1}: none, each by itself, then every two
    and so on."""
    assert classes <= MOST_OVERLAPPING, "of more classes the numbers exceed a byte"
    chosen = [some for size in range(classes + 1) for some in combinations(range(classes), size)]
    return np.array([[number in some for number in range(classes)] for some in chosen], np.int64)


def separate(numbers: np.ndarray, classes: int) -> np.ndarray:
    """The inverse of `numbered`: masks (..., M, S, S) in {0, 1} from maps of class numbers (..., S, S)."""
    if numbers.size and numbers.max() > classes:
        return np.moveaxis(_combinations(classes)[numbers], -1, -3).astype(np.uint8)
    return np.stack([numbers == number for number in range(1, classes + 1)], axis=-3).astype(np.uint8)


def decided(values: np.ndarray, at: float = 0.0, overlap: bool = False) -> np.ndarray:
    """Maps of class numbers (..., S, S) uint8 from a value for each class, (..., M, S, S): the class of the
    highest value, and background where none is above `at`. With `overlap`, every class that is above."""
    if overlap:
        return numbered((values > at).astype(np.uint8))
    return np.where(values.max(axis=-3) > at, values.argmax(axis=-3) + 1, 0).astype(np.uint8)


Chosen = tuple[int, ...] | None
"""Indices of the classes that are painted anew (inpaint.classes); None: all."""


def only(masks: np.ndarray, chosen: Chosen) -> np.ndarray:
    """Masks (..., M, S, S) of the chosen classes alone: the planes of others are empty."""
    return masks if chosen is None else masks * _share(masks, chosen)


def without(masks: np.ndarray, chosen: Chosen) -> np.ndarray:
    """Masks (..., M, S, S) of the other classes alone."""
    return np.zeros_like(masks) if chosen is None else masks * (1 - _share(masks, chosen))


def _share(masks: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    return np.isin(np.arange(masks.shape[-3]), chosen).astype(masks.dtype)[:, None, None]


def laid_over(rest: np.ndarray, new: np.ndarray, overlap: bool) -> np.ndarray:
    """Masks (..., M, S, S) of classes that stay, with new ones laid over them: where classes exclude each
    other, the new ones cover the `rest`."""
    return rest | new if overlap else new | rest * (1 - union(new)[..., None, :, :])


def spread(masks: np.ndarray, chosen: Chosen, classes: int) -> np.ndarray:
    """Masks (..., M, S, S) of all M `classes` from those of the chosen ones, (..., len(chosen), S, S)."""
    if chosen is None:
        return masks
    whole = np.zeros((*masks.shape[:-3], classes, *masks.shape[-2:]), masks.dtype)
    whole[..., list(chosen), :, :] = masks
    return whole


def rgb(images: np.ndarray) -> np.ndarray:
    """Images (N, C, ...) as (N, 3, ...), for networks and eyes that need RGB: grey is repeated, and so is the
    mean of any other number of channels than three."""
    if images.shape[1] == RGB:
        return images
    if images.shape[1] > 1:
        images = np.rint(images.mean(axis=1, keepdims=True)).astype(images.dtype)
    return images.repeat(RGB, axis=1)


def coloured(masks: np.ndarray) -> np.ndarray:
    """Masks (N, M, H, W), from 0 to 255 for how much of a class is there, as pictures (N, 3, H, W) uint8: a
    single class is white, each of several has its colour."""
    if masks.shape[1] == 1:
        return masks.astype(np.uint8).repeat(RGB, axis=1)
    colours = CLASS_COLOURS[np.arange(masks.shape[1]) % len(CLASS_COLOURS)]
    shown = np.einsum("nmhw,mc->nchw", masks.astype(np.float32) / 255, colours.astype(np.float32))
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def grid(pairs: np.ndarray, channels: int) -> Image.Image:
    """A picture of pairs (N, C + M, S, S) uint8, C being `channels`: the images above, their masks below."""
    rows = [rgb(pairs[:, :channels]), coloured(pairs[:, channels:])]
    whole = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    return Image.fromarray(whole.transpose(1, 2, 0))


def resize(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """An image (C, H, W) uint8 resized to `size` (width, height): (C, height, width) uint8."""
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, how))
                     for plane in image])


def shrunk(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (M, H, W) in {0, 1} resized to `size` (width, height): (M, height, width) uint8 in {0, 1}.

    Classes are antialiased and cut at one half. Classes that exclude each other still do so afterwards: their
    union is cut, and the largest share gets the pixel. No class vanishes, however small, nor makes another
    vanish, as long as there are enough pixels.
    """
    covers = np.stack([_cover(plane, size) for plane in mask])
    if len(mask) == 1 or (mask.sum(axis=0, dtype=np.uint8) > 1).any():
        small = covers > 127
        for plane, cover in zip(small, covers, strict=True):
            if cover.any() and not plane.any():
                plane[cover == cover.max()] = True
        return small.astype(np.uint8)
    numbers = leading(covers, 127)
    for number, cover in enumerate(covers, 1):
        if cover.any() and not (numbers == number).any():
            _rescue(numbers, number, cover)
    return separate(numbers, len(mask))


def leading(covers: np.ndarray, half: float) -> np.ndarray:
    """Class numbers (H, W) uint8 from how much of each pixel each class covers, (M, H, W): a pixel of which
    all together cover more than `half` is of the class that covers most."""
    together = covers.sum(axis=0, dtype=np.float64)
    return np.where(together > half, covers.argmax(axis=0) + 1, 0).astype(np.uint8)


def _rescue(numbers: np.ndarray, number: int, cover: np.ndarray) -> None:
    """Give a class that has vanished one pixel of class numbers (H, W), in place: the one that it covers
    most, or the nearest to that, but never the last pixel of another class."""
    counts = np.bincount(numbers.ravel(), minlength=number + 1)
    free = (numbers == 0) | (counts[numbers] > 1)
    if free.any():
        rows, columns = np.indices(cover.shape)
        row, column = np.unravel_index(cover.argmax(), cover.shape)
        apart = np.hypot(rows - row, columns - column)
        best = np.lexsort((apart.ravel(), -cover.astype(np.float64).ravel(), ~free.ravel()))[0]
        numbers.flat[best] = number


def _cover(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much of each pixel a mask (H, W) covers, 0 to 255."""
    picture = Image.fromarray(mask * np.uint8(255))
    cover = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    if mask.any() and not cover.any():  # so small that it rounds to nothing
        return np.asarray(picture.convert("F").resize(size, Image.Resampling.BILINEAR))
    return cover


# ---- files of pairs


def image_file(folder: Path, name: str, channels: int) -> Path:
    """The path of a pair's image: a PNG for grey or RGB, an array for other channels."""
    return folder / "images" / f"{name}{'.png' if channels in (1, RGB) else ARRAY}"


def mask_file(folder: Path, name: str) -> Path:
    return folder / "masks" / f"{name}.png"


def write_image(file: Path, image: np.ndarray) -> files.Written:
    """Write an image (C, S, S) uint8 to a path of `image_file`."""
    if file.suffix == ARRAY:
        return files.write(file, lambda path: np.save(path, np.ascontiguousarray(image)))
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return files.write(file, Image.fromarray(np.ascontiguousarray(pixels)).save)


def write_mask(file: Path, mask: np.ndarray) -> files.Written:
    """Write a mask (M, S, S) in {0, 1} as a PNG: 0 and 255 for one class, class numbers for several."""
    if len(mask) == 1:
        return files.write(file, Image.fromarray(mask[0].astype(np.uint8) * 255).save)
    told = PngInfo()
    told.add_text(CLASSES, str(len(mask)))
    return files.write(file, partial(Image.fromarray(numbered(mask)).save, pnginfo=told))


def read_image(file: Path) -> np.ndarray:
    """The image (C, S, S) uint8 of a file that `write_image` wrote."""
    if file.suffix == ARRAY:
        return np.load(file, allow_pickle=False)
    picture = Image.open(file)
    if picture.mode == "L":
        return np.asarray(picture)[None]
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def read_mask(file: Path) -> np.ndarray:
    """The mask (M, S, S) in {0, 1} of a file that `write_mask` wrote."""
    picture = Image.open(file)
    pixels = np.asarray(picture.convert("L"))
    if classes := picture.info.get(CLASSES):
        return separate(pixels, int(classes))
    return (pixels[None] > 127).astype(np.uint8)

