"""DICOM files: a single image or one of several frames, with the window that the header gives."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from diffusegen_core.data.pixels import TURNS, Raster, oriented, refuse_bomb

# Directions of right and down in a slice as radiologists view it, in DICOM's axes (to the patient's left,
# back and head), by the axis that the slice is perpendicular to: sagittal, coronal, axial.
SEEN = np.array([[[0, 1, 0], [0, 0, -1]], [[1, 0, 0], [0, 0, -1]], [[1, 0, 0], [0, 1, 0]]], np.float64)


def frames(path: Path) -> int:
    """The number of frames in a file; an image counts as one. The pixels are not read."""
    import pydicom  # here, so that a run without DICOM does without
    header: Any = pydicom.dcmread(path, force=path.suffix != "", stop_before_pixels=True)
    return int(header.get("NumberOfFrames") or 1)


def read(path: Path, cut: tuple[int, int] | None = None) -> Raster:
    """The image of a file, or the frame that `cut` gives as (0, number), in real-world values (rescaled, such
    as the Hounsfield units of CT). Slices of a patient are turned to the view of radiologists; what has no
    orientation, such as projections and photographs, stays as stored.

    Raises ValueError where there is no such image or frame, and whatever pydicom raises.
    """
    import pydicom  # here, so that a run without DICOM does without
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array
    # Read into memory, so that a truncated file fails at once, and not when an element is first accessed.
    header: Any = pydicom.dcmread(io.BytesIO(path.read_bytes()), force=path.suffix != "")
    if "PixelData" not in header:
        raise ValueError(f"a DICOM file without an image (modality {header.get('Modality', 'unknown')})")
    count = int(header.get("NumberOfFrames") or 1)
    if count > 1 and cut is None:
        raise ValueError(f"a DICOM file of {count} frames; take them with data.slices [0, first, last], "
                         "counted from 0")
    axis, number = cut or (0, 0)
    if axis:
        raise ValueError(f"DICOM frames are axis 0 of data.slices, not {axis}")
    if number >= count:
        raise ValueError(f"has no frame {number}; it has {count}, counted from 0")
    refuse_bomb(int(header.Columns), int(header.Rows))
    kind = str(header.PhotometricInterpretation)
    turn, directions = _orientation(header, number)
    pixels = oriented(np.asarray(pixel_array(header, index=number)), turn)  # YBR comes as RGB
    if kind == "PALETTE COLOR":
        pixels = np.asarray(apply_color_lut(pixels, header))
    if pixels.ndim == 3:
        return Raster(pixels, "DICOM", kind, full=(0, float(2 ** (8 * pixels.dtype.itemsize) - 1)),
                      orientation=turn, directions=directions)
    bits, signed = int(header.BitsStored), bool(header.PixelRepresentation)
    ends = np.array([[-2 ** (bits - 1), 2 ** (bits - 1) - 1]] if signed else [[0, 2**bits - 1]])
    if "ModalityLUTSequence" in header:
        values = np.asarray(apply_modality_lut(pixels, header))
        # LUTDescriptor: entries, first value, bits of an entry. The range of the table, not of this file's
        # values.
        full = 0.0, float(2 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    else:
        slope, intercept = (float(header.get(name) or usual) for name, usual in
                            (("RescaleSlope", 1), ("RescaleIntercept", 0)))
        plain = (slope, intercept) == (1, 0)
        values = pixels if plain else pixels * slope + intercept
        full = tuple(sorted((ends * slope + intercept)[0].tolist()))
    return Raster(values[..., None], "DICOM", kind, full, _window(header), kind == "MONOCHROME1",
                  orientation=turn, directions=directions)


def _orientation(header: Any, frame: int) -> tuple[int, tuple[float, ...] | None]:
    """The EXIF orientation that turns a slice to the view of radiologists, and the directions of its rows and
    columns after that (DICOM PS3.3, C.7.6.2.1.1); 1 and None where the header does not say."""
    told = _told_orientation(header, frame)
    if told is None or len(told) != 6:
        return 1, None
    stored = np.array([float(value) for value in told]).reshape(2, 3)  # along a row, and down a column
    if not np.isfinite(stored).all() or np.linalg.norm(np.cross(*stored)) < 0.5:
        return 1, None  # no plane
    right, down = SEEN[np.abs(np.cross(*stored)).argmax()]
    transposed = bool(abs(stored[0] @ right) < abs(stored[0] @ down))
    across, along = stored[::-1] if transposed else stored
    flips = transposed, bool(along @ down < 0), bool(across @ right < 0)
    turn = next(number for number, steps in TURNS.items() if tuple(map(bool, steps)) == flips)
    seen = np.stack([across * (-1 if flips[2] else 1), along * (-1 if flips[1] else 1)])
    return turn, tuple(seen.ravel().tolist())


def _told_orientation(header: Any, frame: int) -> Any:
    """ImageOrientationPatient of a file, or of a frame, which may have its own."""
    groups = [(header.get("PerFrameFunctionalGroupsSequence") or [])[frame:frame + 1],
              (header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    planes = [one for group in groups for item in group for one in item.get("PlaneOrientationSequence") or []]
    return next((told for one in (*planes, header) if (told := one.get("ImageOrientationPatient"))), None)


def _window(header: Any) -> tuple[float, float] | None:
    """The values that are black and white by the header's first window (DICOM PS3.3, C.11.2.1.2)."""
    told = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
    if None in told or "" in told:
        return None
    centre, width = (float(value[0] if isinstance(value, list) or hasattr(value, "append") else value)
                     for value in told)
    if str(header.get("VOILUTFunction", "LINEAR")) == "LINEAR_EXACT":
        return (centre - width / 2, centre + width / 2) if width > 0 else None
    return (centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2) if width > 1 else None
