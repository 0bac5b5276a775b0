"""What a file of an image holds: an array as it is, with what the file says of its values and its way up."""

from dataclasses import dataclass, replace

import numpy as np

LOSSY = {"JPEG", "WEBP"}  # formats that blur values into each other
STRIP = 1 << 20  # values that are scaled at once
MAX_PIXELS = 64_000_000  # no camera or scanner makes more; a decompression bomb does


@dataclass(frozen=True)
class Raster:
    """What a file holds."""

    values: np.ndarray
    """(H, W, C) of the file's own type: grey has one channel, colour three (RGB)."""
    format: str
    """"PNG", "DICOM", "NIfTI", ..."""
    mode: str
    """What the file calls its kind of pixels: "RGB", "P", "I;16", "MONOCHROME2", "int16"."""
    full: tuple[float, float] | None = None
    """The values that are black and white at the file's depth; None where nothing tells, as of floats."""
    voi: tuple[float, float] | None = None
    """The same as the window in DICOM's header (its VOI transformation) has them."""
    inverted: bool = False
    """Whether low values are bright, as in DICOM's MONOCHROME1."""
    orientation: int = 1
    """EXIF's, by which it was turned, or which stands for how a DICOM file was; 1: not at all."""
    indices: np.ndarray | None = None
    """(H, W) of a palette picture, whose colours `values` has."""
    axes: str = ""
    """Of NIfTI: where its axes as they are stored lead in the patient, such as LPS."""
    affine: tuple[float, ...] | None = None
    """Of NIfTI: the affine of the patient's axes, row by row, in mm."""
    directions: tuple[float, ...] | None = None
    """Of a slice in DICOM: where its rows and columns lead, as shown, in the patient (left, back, head)."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.values.shape[1], self.values.shape[0]

    @property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits a channel."""
        return self.values.dtype != np.uint8

    @property
    def depth(self) -> str:
        """In words: "8 bits", "16 bits", "float32"."""
        kind = self.values.dtype
        return f"{8 * kind.itemsize} bits" if kind.kind == "u" else str(kind)


def coloured(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) of (H, W, C): grey thrice. Raises ValueError where there are two channels, or many."""
    if values.shape[2] not in (1, 3):
        raise ValueError(f"{values.shape[2]} channels are no colours")
    return values if values.shape[2] == 3 else values.repeat(3, axis=2)


def apart(one: Raster, other: Raster) -> float:
    """By how many mm the affines of two NIfTI files place them apart; 0 where they are no more than half a
    voxel, or where not both are NIfTI."""
    if one.affine is None or other.affine is None:
        return 0.0
    affines = np.reshape([one.affine, other.affine], (2, 4, 4))
    voxel = float(np.linalg.norm(affines[0, :3, :3], axis=0).min())
    distance = float(np.abs(affines[0] - affines[1]).max())
    return 0.0 if distance <= voxel / 2 else distance


def tilted(one: Raster, other: Raster) -> float:
    """By how many degrees two slices in DICOM lie across each other; 0 where not both tell."""
    if one.directions is None or other.directions is None:
        return 0.0
    both = np.reshape([one.directions, other.directions], (2, 2, 3))
    cosines = (both[0] * both[1]).sum(axis=1) / np.linalg.norm(both, axis=2).prod(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as uint8: `low` and below is 0, `high` and above 255. What is no number is 0."""
    made = np.empty(values.shape, np.uint8)
    rows = max(1, STRIP // max(1, values[:1].size))
    for first in range(0, len(values), rows):  # in 64 bits all of it might not fit into memory
        strip = values[first:first + rows].astype(np.float64)
        share = (np.nan_to_num(strip, nan=low) - low) / (high - low)
        made[first:first + rows] = np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return made


def refuse_bomb(width: int, height: int) -> None:
    """ValueError for more pixels than a picture may have, or none."""
    if width < 1 or height < 1:
        raise ValueError(f"has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")


def ends(values: np.ndarray) -> tuple[float, float] | None:
    """The values that are black and white at an array's depth: of unsigned integers their ends, of floats 0
    and 1 where none lies beyond; None where nothing tells."""
    if values.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(values.dtype).max)
    low, high = span(values)
    return (0.0, 1.0) if values.dtype.kind == "f" and low >= 0 and high <= 1 else None


def span(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest number; 0 and 0 where there is none."""
    numbers = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


# How what is stored is turned upright, by EXIF: transposed, then flipped in rows, then in columns.
TURNS = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1),
          8: (1, 1, 0)}


def oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, ...) that is stored as an EXIF orientation says, upright."""
    transposed, rows, columns = TURNS.get(orientation, TURNS[1])
    turned = values.swapaxes(0, 1) if transposed else values
    return turned[::-1 if rows else 1, ::-1 if columns else 1]


def turned(raster: Raster, orientation: int) -> Raster:
    """A raster turned as an EXIF orientation says that another file has."""
    indices = None if raster.indices is None else oriented(raster.indices, orientation)
    return replace(raster, values=oriented(raster.values, orientation), indices=indices,
                   orientation=orientation)
