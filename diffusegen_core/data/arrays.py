"""Arrays of scientific Python: NIfTI, 2-D or the slices of a volume, and NumPy's own files."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from diffusegen_core.config.data import MOST_CHANNELS
from diffusegen_core.data.pixels import Raster, ends, refuse_bomb

MAX_VOXELS = 10**9  # of a volume; scans have a tenth of it


def nifti(path: Path, cut: tuple[int, int] | None = None) -> Raster:
    """The image of a NIfTI file, or the slice (axis, index) of its volume, in its scaled values.

    Axes are those of the patient (right, anterior, superior), as near as they come. What is shown is seen as
    radiologists do: the patient's right at the left, front or head at the top. Raises ValueError for what is
    neither, and whatever nibabel raises.
    """
    status = path.stat()
    upright, shape, axes = _upright(path, status.st_size, status.st_mtime_ns)
    if len([side for side in shape if side > 1]) > 2 and cut is None:
        raise ValueError(f"a volume of {'x'.join(map(str, shape))}; its slices are taken by data.slices "
                         "[axis, first, last]")
    sides = upright.shape
    axis, index = cut or (next((i for i in (2, 1, 0) if sides[i] == 1), 2), 0)
    if index >= sides[axis]:
        raise ValueError(f"has no slice {index} of its axis {axis}, which has {sides[axis]}")
    refuse_bomb(*[side for i, side in enumerate(sides) if i != axis])
    plane: list[Any] = [slice(None)] * 3
    plane[axis] = index
    shown = np.asarray(upright.dataobj[tuple(plane)])[::-1, ::-1].T
    return replace(_raster(shown[..., None], "NIfTI"), axes=axes,
                   affine=tuple(np.ravel(upright.affine).tolist()))


def sides(path: Path) -> tuple[int, ...]:
    """The sides of a NIfTI file's volume along the patient's axes; no voxel is read. Raises as `nifti`."""
    status = path.stat()
    return tuple(_upright(path, status.st_size, status.st_mtime_ns)[0].shape)


@lru_cache(maxsize=4)  # image and mask of a volume, whose slices are read one after the other
def _upright(path: Path, size: int, time_ns: int) -> tuple[Any, tuple[int, ...], str]:
    """The volume of a file in the patient's axes, the shape that the file has, and where its axes lead."""
    import nibabel  # here, so that a run without NIfTI does without
    image: Any = nibabel.load(path)
    shape = image.shape
    if len(shape) > 3 and any(side > 1 for side in shape[3:]):
        raise ValueError(f"has {len(shape)} axes ({'x'.join(map(str, shape))}); images have 2, and volumes "
                         "whose slices are taken 3")
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"has the shape {'x'.join(map(str, shape))}, which is no image's")
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise ValueError(f"{'x'.join(map(str, shape))} is more than {MAX_VOXELS // 10**6} million voxels")
    stored = image if len(shape) == 3 else nibabel.Nifti1Image(
        np.asanyarray(image.dataobj).reshape((*shape, 1)[:3]), image.affine, image.header)
    axes = "".join(axis or "?" for axis in nibabel.aff2axcodes(image.affine))
    return nibabel.as_closest_canonical(stored), shape, axes


def numpy(path: Path) -> Raster:
    """The array of a .npy file: (H, W), (H, W, C), or (C, H, W) where only that can be meant."""
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
    """An array of numbers, in the machine's byte order. ValueError for another."""
    kind = values.dtype
    if kind.kind == "b":
        return Raster(values * np.uint8(255), name, "bool", (0, 255))
    if kind.kind not in "uif":
        raise ValueError(f"its values are {kind}, and not numbers")
    if kind.byteorder not in "=|":
        values = values.astype(kind.newbyteorder("="))
    return Raster(values, name, values.dtype.name, ends(values))
