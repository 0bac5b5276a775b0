"""Reading the array that a file holds, with what the file says about it.

Nothing is scaled here: what becomes black and white is a rule for a whole set (see `intensities`). Pictures
are turned by their EXIF tag, and transparency is laid over black.
"""

import re
import warnings
from pathlib import Path, PurePath

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.plainfiles import plain_file
from diffusegen_core.config.text import counted
from diffusegen_core.data import arrays, dicom
from diffusegen_core.data.pixels import (
    MAX_PIXELS,
    TURNS,
    Raster,
    coloured,
    ends,
    oriented,
    refuse_bomb,
    scaled,
)

FORMATS = ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"]  # by Pillow
PICTURES = {".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
DICOM, NIFTI, NUMPY = {".dcm", ".dicom", ".ima"}, {".nii", ".nii.gz"}, {".npy"}
EXTENSIONS = PICTURES | DICOM | NIFTI | NUMPY
MAX_BYTES = 8 * MAX_PIXELS  # of a file: what it would have if it were not compressed
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
NUMBERS = {2: "signed integers", 3: "floats"}  # by TIFF's tag SampleFormat
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF's tag, and one of its values
# Formats that are not read, and what to do about them.
_CONVERT = "save it as PNG or TIFF"
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".avif"), f"an HEIF picture; {_CONVERT}"),
    **dict.fromkeys((".jp2", ".j2k"), f"a JPEG 2000 picture; {_CONVERT}"),
    **dict.fromkeys((".pgm", ".ppm", ".pnm", ".tga", ".psd", ".svg", ".eps"),
                    f"a picture of another kind; {_CONVERT}"),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn"), "a whole slide; cut tiles from it, as PNG"),
    **dict.fromkeys((".nrrd", ".mha", ".mhd", ".img", ".hdr", ".mgz"),
                    "a volume of another kind; save it as NIfTI (.nii.gz), or its slices as PNG"),
    **dict.fromkeys((".mat", ".h5", ".hdf5", ".npz", ".pkl", ".pt"),
                    "a container of arrays; save each array as a NumPy file (.npy)"),
    **dict.fromkeys((".avi", ".mp4", ".mov", ".mkv"), "a video; save its frames as PNG"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".rar", ".7z"), "an archive; unpack it"),
    ".pdf": "a document; save its pictures as PNG"}


def ending(path: PurePath) -> str:
    """The lower-case suffix that gives a file's format; both of .nii.gz."""
    return "".join(path.suffixes[-2:]).lower() if path.name.lower().endswith(".nii.gz") \
        else path.suffix.lower()


def stem(path: PurePath) -> str:
    """A file's name without its `ending`."""
    return path.name[:len(path.name) - len(ending(path))]


def is_read(path: Path) -> bool:
    """Whether a file has a format that is read, by its suffix or, if it has none, by its first bytes."""
    kind = ending(path)
    return kind in EXTENSIONS or (not kind and _is_dicom(path))


def is_deep(path: Path) -> bool:
    """Whether a file may hold more than 8 bits a channel, by its format and header; False for what is no
    image. Nothing is decoded."""
    kind = ending(path)
    if kind not in PICTURES:
        return is_read(path)
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as file:
            return file.mode.startswith(("I", "F")) or _is_deep_colour(file)
    except Exception:  # reported when it is read
        return False


def unread(path: Path) -> str | None:
    """What a file is that is meant as a picture but not read, and what to do about it; else None."""
    return None if is_read(path) else UNREAD.get(path.suffix.lower())


def read(path: Path, cut: tuple[int, int] | None = None) -> Raster:
    """The array of a file, or the slice `cut`, (axis, index), of a volume or of the frames of a DICOM file.

    Decoders fail in many ways: whatever is raised means that the file cannot be read (see `reason`).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata, and about size, which is checked here
        if plain_file(path).stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 10**6} million bytes")
        kind = ending(path)
        if cut is not None and kind and kind not in NIFTI | DICOM:
            raise ValueError("neither a volume nor frames, so data.slices cannot take a slice")
        if kind in NIFTI | NUMPY:
            return arrays.nifti(path, cut) if kind in NIFTI else arrays.numpy(path)
        if kind in DICOM or (not kind and _is_dicom(path)):
            return dicom.read(path, cut)
        return _picture(path)


def slices(path: Path, axis: int) -> int:
    """How many slices a volume has along an axis, or frames a DICOM file (axis 0). Raises as `read`."""
    if ending(path) in NIFTI:
        return arrays.sides(path)[axis]
    if axis:
        raise ValueError(f"DICOM frames are axis 0 of data.slices, not {axis}")
    return dicom.frames(path)


def opened(path: Path) -> Image.Image:
    """A picture as from `rgb`; UserError where it cannot be read."""
    try:
        return rgb(path)
    except Exception as error:  # see `read`
        raise UserError(printable(f"{path} cannot be read: {reason(error, path)}.")) from None


def decoded(path: Path) -> Raster:
    """The array of a file; UserError where it cannot be read."""
    try:
        return read(path)
    except Exception as error:  # see `read`
        raise UserError(printable(f"{path} cannot be read: {reason(error, path)}.")) from None


def reason(error: Exception, path: Path) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).replace(str(path), "it").split())[:300] or type(error).__name__


def rgb(path: Path) -> Image.Image:
    """A picture as 8-bit RGB, by its own depth. Raises as `read`, and ValueError where that is unknown."""
    raster = read(path)
    values = raster.values
    if raster.is_deep:
        if raster.full is None:
            raise ValueError(f"nothing says which of its {raster.depth} values are black and white")
        values = scaled(values, *raster.full)
    if raster.inverted:
        values = 255 - values
    return Image.fromarray(np.ascontiguousarray(coloured(values)))


def _picture(path: Path) -> Raster:
    try:
        file = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise ValueError("not a JPEG, PNG, TIFF, BMP, GIF or WebP image") from None
        return Raster(_malformed_tiff(path), "TIFF", "RGB", (0, 255))
    with file:
        refuse_bomb(*file.size)
        if file.format in ("TIFF", "GIF", "WEBP") and (count := getattr(file, "n_frames", 1)) > 1:
            raise ValueError(f"holds {count} pictures; save each as a file of its own")
        deep_colour = _is_deep_colour(file)
        # Pillow turns a TIFF while it loads, and drops the tag; a PNG may have its tag at its end.
        before = _tag(file) if (is_tiff := file.format == "TIFF") else 1
        if is_tiff:
            file.filename = ""  # else grey ones are memory-mapped, and sideways ones come out garbled
        file.load()
        told = before if is_tiff else _tag(file)
        orientation = told if told in TURNS else 1
        kind, mode, picture = str(file.format), file.mode, ImageOps.exif_transpose(file)
        # For 8 bits, Pillow inverts the values itself.
        white_is_zero = isinstance(file, TiffImageFile) and file.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if deep_colour:  # Pillow keeps only 8 bits of it
        deep = _by_opencv(path)  # OpenCV turns only TIFF
        return Raster(deep if is_tiff else oriented(deep, orientation), kind, mode, (0, 65535),
                      orientation=orientation)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        if values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("="))
        return Raster(values[..., None], kind, mode, ends(values), inverted=white_is_zero,
                      orientation=orientation)
    indices = np.asarray(picture) if picture.mode == "P" else None
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    values = np.asarray(picture.convert("RGB"))
    return Raster(values[..., :1] if grey else values, kind, mode, (0, 255), orientation=orientation,
                  indices=indices)


def _tag(file: Image.Image) -> int:
    return int(file.getexif().get(ORIENTATION, 1))


def _is_deep_colour(file: Image.Image) -> bool:
    """Whether a picture that is opened but not loaded has 16 bits a colour."""
    return file.mode in ("RGB", "RGBA", "LA") and re.search(
        r";16[BLN]?'", repr(getattr(file, "tile", ""))) is not None


def _by_opencv(path: Path) -> np.ndarray:
    """A picture with more than 8 bits a colour, (H, W, 3), transparency over black."""
    pixels = _silently(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise ValueError("neither Pillow nor OpenCV can decode its 16 bits a colour")
    if pixels.shape[2] == 4:
        opaque = pixels[..., 3:].astype(np.float64) / 65535
        pixels = np.round(pixels[..., :3] * opaque).astype(pixels.dtype)
    return pixels[..., ::-1]


def _malformed_tiff(path: Path) -> np.ndarray:
    """The pixels of a TIFF whose header Pillow refuses and OpenCV reads, such as CVC-ClinicDB's."""
    data = path.read_bytes()
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    with path.open("rb") as f:
        f.seek(directory.next)
        directory.load(f)
    refuse_bomb(directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH])
    _refuse_numbers(directory)
    pixels = _silently(data, cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("neither Pillow nor OpenCV can decode it")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _refuse_numbers(directory: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Raise ValueError for what OpenCV would reduce to 8 bits: other depths, signed integers, floats."""
    bits, kind = (max(np.ravel(directory.get(tag, usual)).tolist()) for tag, usual in (
        (TiffImagePlugin.BITSPERSAMPLE, 8), (TiffImagePlugin.SAMPLEFORMAT, 1)))
    if bits == 8 and kind not in NUMBERS:
        return
    channels = int(directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    raise ValueError(f"a TIFF of {bits}-bit {NUMBERS.get(kind, 'unsigned integers')}, "
                     f"{counted(channels, 'channel')}, which is not read: save it as a NumPy file (.npy), or "
                     "with 8 or 16 bits, unsigned")


def _silently(data: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV decodes, without its complaints about headers on the terminal; None where it cannot."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        return False
