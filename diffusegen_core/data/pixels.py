"""What an image file holds: an unscaled array, with what the file says about its values and orientation."""

from dataclasses import dataclass, replace

import numpy as np

LOSSY = {"JPEG", "WEBP"}  # formats that blur values into each other
STRIP = 1 << 20  # values scaled at a time
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
    """The values of black and white at the file's depth; None where these are unknown, as for most floats."""
    voi: tuple[float, float] | None = None
    """The same by the window in the DICOM header (its VOI transformation)."""
    inverted: bool = False
    """Whether low values are bright, as in DICOM's MONOCHROME1."""
    orientation: int = 1
    """The EXIF orientation that it was turned by or, for DICOM, that is equivalent; 1: not turned."""
    indices: np.ndarray | None = None
    """(H, W), the palette's indices; `values` has their colours."""
    axes: str = ""
    """For NIfTI: the patient's directions along its axes as stored, such as LPS."""
    affine: tuple[float, ...] | None = None
    """For NIfTI: the affine of the axes once turned to the patient's, row by row, in mm."""
    directions: tuple[float, ...] | None = None
    """For a DICOM slice: the patient's directions (left, back, head) of its rows and columns, as shown."""

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
    """(H, W, 3) from (H, W, C), grey repeated. Raises ValueError for other than one or three channels."""
    if values.shape[2] not in (1, 3):
        raise ValueError(f"{values.shape[2]} channels are no colours")
    return values if values.shape[2] == 3 else values.repeat(3, axis=2)


def apart(one: Raster, other: Raster) -> float:
    """By how many mm the affines of two NIfTI files differ at most; 0 where that is no more than half a
    voxel, or where not both are NIfTI."""
    if one.affine is None or other.affine is None:
        return 0.0
    affines = np.reshape([one.affine, other.affine], (2, 4, 4))
    voxel = float(np.linalg.norm(affines[0, :3, :3], axis=0).min())
    distance = float(np.abs(affines[0] - affines[1]).max())
    return 0.0 if distance <= voxel / 2 else distance


def tilted(one: Raster, other: Raster) -> float:
    """The angle between two DICOM slices in degrees; 0 where not both have directions."""
    if one.directions is None or other.directions is None:
        return 0.0
    both = np.reshape([one.directions, other.directions], (2, 2, 3))
    cosines = (both[0] * both[1]).sum(axis=1) / np.linalg.norm(both, axis=2).prod(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as uint8: `low` and below is 0, `high` and above 255. NaN is 0."""
    made = np.empty(values.shape, np.uint8)
    rows = max(1, STRIP // max(1, values[:1].size))
    for first in range(0, len(values), rows):  # in strips, as all of it in 64 bits might not fit into memory
        strip = values[first:first + rows].astype(np.float64)
        share = (np.nan_to_num(strip, nan=low) - low) / (high - low)
        made[first:first + rows] = np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return made


def refuse_bomb(width: int, height: int) -> None:
    """Raise ValueError for more pixels than a picture may have, or none."""
    if width < 1 or height < 1:
        raise ValueError(f"has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")


def ends(values: np.ndarray) -> tuple[float, float] | None:
    """The values of black and white at an array's depth: the ends of uint8 and uint16, and 0 and 1 for floats
    if none lies beyond; None otherwise."""
    if values.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(values.dtype).max)
    low, high = span(values)
    return (0.0, 1.0) if values.dtype.kind == "f" and low >= 0 and high <= 1 else None


def span(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest number; 0 and 0 where there is none."""
    numbers = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


# EXIF orientation -> how to turn what is stored upright: transpose, then flip rows, then flip columns.
TURNS = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1),
          8: (1, 1, 0)}


def oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, ...) that is stored with an EXIF orientation, upright."""
    transposed, rows, columns = TURNS.get(orientation, TURNS[1])
    turned = values.swapaxes(0, 1) if transposed else values
    return turned[::-1 if rows else 1, ::-1 if columns else 1]


def turned(raster: Raster, orientation: int) -> Raster:
    """A raster turned by the EXIF orientation of another file."""
    indices = None if raster.indices is None else oriented(raster.indices, orientation)
    return replace(raster, values=oriented(raster.values, orientation), indices=indices,
                   orientation=orientation)
