"""NIfTI images, 2-D or slices of a volume, and NumPy's .npy files."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusegen_core.config.data import MOST_CHANNELS
from diffusegen_core.data.pixels import Raster, ends, refuse_bomb

MAX_VOXELS = 10**9  # of a volume; real scans have a tenth of that
MOST_BYTES = 3 << 28  # of a volume in memory


def nifti(path: Path, cut: tuple[int, int] | None = None) -> Raster:
    """The image of a NIfTI file, or the slice (axis, index) of its volume, in its scaled values.

    Axes are the nearest to the patient's (right, anterior, superior). The image is oriented as radiologists
    view it: the patient's right at the left, front or head at the top. Raises ValueError where there is no
    such image or slice, and whatever nibabel raises.
    """
    status = path.stat()
    volume = _upright(path, status.st_size, status.st_mtime_ns)
    if len([side for side in volume.shape if side > 1]) > 2 and cut is None:
        raise ValueError(f"a volume of {'x'.join(map(str, volume.shape))}; take its slices with "
                         "data.slices [axis, first, last]")
    sides = volume.sides
    axis, index = cut or (next((i for i in (2, 1, 0) if sides[i] == 1), 2), 0)
    if index >= sides[axis]:
        raise ValueError(f"has no slice {index} of its axis {axis}, which has {sides[axis]}")
    refuse_bomb(*[side for i, side in enumerate(sides) if i != axis])
    shown = volume.plane(axis, index)[::-1, ::-1].T
    return replace(_raster(shown[..., None], "NIfTI"), axes=volume.axes,
                   affine=tuple(np.ravel(volume.affine).tolist()))


def sides(path: Path) -> tuple[int, ...]:
    """The sides of a NIfTI file's volume along the patient's axes. Raises as `nifti`."""
    status = path.stat()
    return _upright(path, status.st_size, status.st_mtime_ns).sides


class _Volume(NamedTuple):
    """A NIfTI file in the patient's axes."""

    shape: tuple[int, ...]
    """As stored in the file."""
    axes: str
    """The patient's directions along the axes as stored, such as "LPS"."""
    sides: tuple[int, ...]
    affine: np.ndarray
    plane: Callable[[int, int], np.ndarray]
    """The slice at an axis and an index, with the other two axes in order."""


@lru_cache(maxsize=2)  # an image and its mask, whose slices are read in turn
def _upright(path: Path, size: int, time_ns: int) -> _Volume:
    """The volume of a file. It is read into memory, but for a very large one, whose slices are read from the
    file. ValueError if such a file is compressed: each slice would be unzipped from the start."""
    import nibabel  # here, so that runs without NIfTI do not need it
    image: Any = nibabel.load(path)
    shape = image.shape
    if len(shape) > 3 and any(side > 1 for side in shape[3:]):
        raise ValueError(f"has {len(shape)} axes ({'x'.join(map(str, shape))}); images have 2, and "
                         "volumes to be sliced 3")
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"has the shape {'x'.join(map(str, shape))}, which no image has")
    voxels = int(np.prod(shape, dtype=np.float64))
    if voxels > MAX_VOXELS:
        raise ValueError(f"{'x'.join(map(str, shape))} is more than {MAX_VOXELS // 10**6} million voxels")
    axes = "".join(axis or "?" for axis in nibabel.aff2axcodes(image.affine))
    is_scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    if len(shape) > 2 and voxels * (8 if is_scaled else image.get_data_dtype().itemsize) > MOST_BYTES:
        if path.suffix.lower() == ".gz":
            raise ValueError(f"{'x'.join(map(str, shape))} are too many voxels to read slice by slice from a "
                             "compressed file: decompress it (gunzip) to .nii")
        turn = nibabel.io_orientation(image.affine)
        sides = tuple(shape[stored] for stored in np.argsort(turn[:, 0]).tolist())
        affine = image.affine @ nibabel.orientations.inv_ornt_aff(turn, shape[:3])
        return _Volume(shape, axes, sides, affine, partial(_from_file, image.dataobj, turn))
    stored = image if len(shape) == 3 else nibabel.Nifti1Image(
        np.asanyarray(image.dataobj).reshape((*shape, 1)[:3]), image.affine, image.header)
    upright = nibabel.as_closest_canonical(stored)
    return _Volume(shape, axes, upright.shape, upright.affine, partial(_from_memory, upright.dataobj))


def _from_memory(values: Any, axis: int, index: int) -> np.ndarray:
    plane: list[Any] = [slice(None)] * 3
    plane[axis] = index
    return np.asarray(values[tuple(plane)])


def _from_file(stored: Any, turn: np.ndarray, axis: int, index: int) -> np.ndarray:
    """The same, from a file as stored; `turn` gives, for each stored axis, the patient's axis and whether it
    points the same way (1) or the other (-1)."""
    own = int(np.flatnonzero(turn[:, 0] == axis)[0])
    plane: list[Any] = [slice(None)] * 3 + [0] * (len(stored.shape) - 3)
    plane[own] = index if turn[own, 1] > 0 else stored.shape[own] - 1 - index
    values = np.asarray(stored[tuple(plane)])
    (first, first_way), (second, second_way) = (turn[other] for other in range(3) if other != own)
    values = values[::int(first_way), ::int(second_way)]
    return values if first < second else values.T


def numpy(path: Path) -> Raster:
    """The array of a .npy file: (H, W), (H, W, C), or (C, H, W) where the first axis can only be channels."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise ValueError("a NumPy file of Python objects (pickles), which are never opened: save an "
                             "array of numbers") from None
        raise
    if values.ndim == 3 and values.shape[0] <= MOST_CHANNELS and values.shape[0] < min(values.shape[1:]):
        values = values.transpose(1, 2, 0)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] > MOST_CHANNELS or 0 in values.shape:
        raise ValueError(f"an array of {'x'.join(map(str, values.shape)) or 'one number'}; images are "
                         f"HxW or HxWxC with at most {MOST_CHANNELS} channels")
    refuse_bomb(values.shape[1], values.shape[0])
    return _raster(np.array(values), "NumPy")


def _raster(values: np.ndarray, name: str) -> Raster:
    """An array of numbers or booleans as a raster, in native byte order. ValueError for other types."""
    kind = values.dtype
    if kind.kind == "b":
        return Raster(values * np.uint8(255), name, "bool", (0, 255))
    if kind.kind not in "uif":
        raise ValueError(f"its values are {kind}, not numbers")
    if kind.byteorder not in "=|":
        values = values.astype(kind.newbyteorder("="))
    return Raster(values, name, values.dtype.name, ends(values))
