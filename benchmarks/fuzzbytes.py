"""Valid files of every format that the program reads, and the ways in which the fuzz corrupts them.

Mutations start from valid files: pure noise would be refused at the first byte.
"""

import copy
import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import nibabel
import numpy as np
import pydicom
import torch
from fuzzjudge import CANARY
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

Draw = Callable[[st.SearchStrategy[Any]], Any]
WIDTH, HEIGHT = 24, 20
GREY = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MARKED = np.zeros((HEIGHT, WIDTH), np.uint8)
MARKED[4:14, 6:18] = 255
NUMBERS = [0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1,
           2**63 - 1,
           2**64 - 1, 64_000_001, 10**9, WIDTH, HEIGHT]
COMMAND = f"touch {CANARY}"


class Payload:
    """An object that writes the canary when it is unpickled."""

    def __init__(self, way: int = 0) -> None:
        self.way = way

    def __reduce__(self) -> tuple[Any, ...]:
        import os
        import subprocess
        text = f"open({CANARY!r}, 'w').close()"
        return [(os.system, (COMMAND,)), (subprocess.call, (["touch", CANARY],)), (exec, (text,)),
                (eval, (text,)), (open, (CANARY, "w"))][self.way]


PICKLES = [pickle.dumps(Payload(way), protocol) for way in range(5) for protocol in (0, 2, 4)]


# ---- valid files

def _pillow(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _dicom(pixels: np.ndarray, **elements: Any) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = SecondaryCaptureImageStorage, "1.2.3", "CT"
    deep = pixels.dtype.itemsize * 8
    told = {"Rows": HEIGHT, "Columns": WIDTH, "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
            "BitsAllocated": deep,
            "BitsStored": deep, "HighBit": deep - 1, "PixelRepresentation": 0, "PlanarConfiguration": 0,
            "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2", **elements}
    for name, value in told.items():
        try:
            setattr(data, name, value)
        except (ValueError, TypeError, OverflowError):
            continue  # a value that pydicom refuses
    data.add_new(0x7FE00010, "OW", pixels.tobytes())
    stream = io.BytesIO()
    try:
        pydicom.dcmwrite(stream, data, enforce_file_format=False)
    except (ValueError, TypeError, OverflowError, AttributeError, struct.error, NotImplementedError):
        return _dicom(pixels)
    return stream.getvalue()


def dicom(pixels: np.ndarray | None = None, **elements: Any) -> bytes:
    """A grey 16-bit CT slice, or `pixels`, with some elements set to other values."""
    return _dicom(GREY.astype(np.uint16) * 16 if pixels is None else pixels, **elements)


def nifti(values: np.ndarray, zipped: bool = False) -> bytes:
    plain = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
    return gzip.compress(plain, 1) if zipped else plain


def numpy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=values.dtype == object)
    return stream.getvalue()


def torch_file(value: Any, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def archive(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return stream.getvalue()


@lru_cache
def pictures(mask: bool) -> dict[str, bytes]:
    """A valid file of each format, by its ending: of a mask if `mask`, else of an image."""
    grey, colours = (MARKED, MARKED) if mask else (GREY, COLOURS)
    picture, deep = Image.fromarray(colours), Image.fromarray(grey.astype(np.uint16) * 257)
    palette = Image.fromarray(grey).convert("P")
    return {
        ".png": _pillow(picture, "PNG"), ".16.png": _pillow(deep, "PNG"), ".p.png": _pillow(palette, "PNG"),
        ".jpg": _pillow(picture, "JPEG", quality=95), ".bmp": _pillow(picture, "BMP"),
        ".tif": _pillow(picture, "TIFF"), ".lzw.tif": _pillow(picture, "TIFF", compression="tiff_lzw"),
        ".16.tif": _pillow(deep, "TIFF"), ".gif": _pillow(palette, "GIF"), ".webp": _pillow(picture, "WEBP"),
        ".npy": numpy(colours), ".f.npy": numpy((grey / 255).astype(np.float32)), ".dcm": _dicom(
            grey.astype(np.uint16)), ".rgb.dcm": _dicom(np.stack([grey] * 3, 2)),
        ".nii": nifti(grey.astype(np.int16)[..., None]), ".nii.gz": nifti(grey.astype(np.int16), zipped=True)}


# ---- corrupting bytes

def spoilt(draw: Draw, content: bytes, most: int = 4) -> bytes:
    """Bytes with some mutations: cut, flipped, overwritten, duplicated, followed by more."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        if not data:
            break
        end = min(len(data), 200) if draw(st.booleans()) else len(data)
        place = draw(st.integers(0, end - 1))
        way = draw(st.integers(0, 8))
        if way == 0:
            del data[draw(st.integers(0, len(data))):]
        elif way == 1:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif way == 2:
            data[place] = draw(st.integers(0, 255))
        elif way <= 4:
            size, order = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(NUMBERS)) % (1 << 8 * size)
            data[place:place + size] = number.to_bytes(size, order)
        elif way == 5:
            length = draw(st.integers(1, 64))
            data[place:place] = data[place:place + length]
        elif way == 6:
            del data[place:place + draw(st.integers(1, 64))]
        elif way == 7:
            length = draw(st.integers(1, 32))
            data[place:place + length] = bytes(min(length, len(data) - place))
        else:
            data += draw(st.sampled_from([b"\0" * 300, b"<script>", PICKLES[0], bytes(data[:100])]))
    return bytes(data)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@lru_cache
def _bomb(kind: bytes, size: int) -> bytes:
    """A chunk of text or colours that decompresses to `size` bytes."""
    return chunk(kind, b"x\0\0" + zlib.compress(bytes(size), 1))


def png(draw: Draw) -> bytes:
    """A PNG with any header, chunks that may be decompression bombs, and correct checksums."""
    side = st.sampled_from([0, 1, WIDTH, HEIGHT, 4000, 8000, 8001, 65535, 2**31 - 1])
    bits, colour = draw(st.sampled_from([1, 2, 4, 8, 16, 3, 0])), draw(st.sampled_from([0, 2, 3, 4, 6, 1, 7]))
    head = struct.pack(">IIBBBBB", draw(side), draw(side), bits, colour,
                       *(draw(st.sampled_from([0, 0, 0, 1, 255]))
                                                                           for _ in range(3)))
    extra = draw(st.lists(st.sampled_from([
        _bomb(b"zTXt", 20_000_000), chunk(b"PLTE", bytes(range(48))),
        _bomb(b"iCCP", 5_000_000), chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(40)),
        chunk(b"tRNS", bytes(6)), chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), chunk(b"PLTE", b""),
        chunk(b"iTXt", b"x\0\0\0\0\0" + 1000 * b"\xff"), chunk(b"pHYs", bytes(9))]), max_size=3))
    rows = zlib.compress(draw(st.sampled_from([b"", 20 * bytes(25), 20 * bytes(200), bytes(1_000_000)])))
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", head), *extra, chunk(b"IDAT", rows),
                                            chunk(b"IEND", b"")])


def tiff(draw: Draw) -> bytes:
    """A TIFF whose directory is written here, with any values in its entries."""
    usual = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: HEIGHT,
             279: WIDTH * HEIGHT}
    number = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 16, 32, 64, 4000, 65535, 2**31 - 1, 2**32 - 1])
    for tag in draw(st.lists(st.sampled_from([*usual, 274, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339,
                                              347, 700,
                                              34675, 42113]), max_size=4)):
        usual[tag] = draw(number)
    entries = [struct.pack("<HHII", tag, draw(st.sampled_from([4, 4, 4, 3, 2, 5, 12, 13])),
                           draw(st.sampled_from([1, 1, 1, 3, 2**31])), value) for tag,
                           value in sorted(usual.items())]
    after = draw(st.sampled_from([0, 0, 8, 488, 2**32 - 1]))
    return (b"II*\0" + struct.pack("<I", 8 + WIDTH * HEIGHT) + GREY.tobytes() + struct.pack("<H",
        len(entries))
            + b"".join(entries) + struct.pack("<I", after))


def npy(draw: Draw) -> bytes:
    """A NumPy file with any header."""
    shape = draw(st.one_of(st.lists(st.sampled_from([-1, 0, 1, 3, 17, 20, 24, 8000, 2**31, 2**62]),
                                    max_size=5).map(tuple),
                           st.sampled_from([None, "(20, 24)", 5])))
    kind = draw(st.sampled_from(["|u1", "<u2", ">u4", "<f4", "<f8", "<f2", "<c8", "|O", "|b1", "<M8[s]",
                                 "|S5", "<U3",
                                 "|V7", [("a", "<f4"), ("b", "|O")], "nonsense", ("<f4", (3,)), "<i8",
                                 ">f8"]))
    head = {"descr": kind, "fortran_order": draw(st.sampled_from([False, False, True, 3])), "shape": shape}
    text = (repr(head) if draw(st.integers(0, 5)) else f"__import__('os').system({COMMAND!r})") + "\n"
    body = draw(st.sampled_from([GREY.tobytes(), COLOURS.tobytes(), b"", PICKLES[6],
                                 np.full((20, 24), np.nan).tobytes()]))
    version = draw(st.sampled_from([1, 1, 1, 2, 3, 9]))
    size = struct.pack("<H" if version == 1 else "<I", len(text.encode()))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + body


def nifti_header(draw: Draw) -> bytes:
    """A NIfTI file with other values in some header fields."""
    volume = np.arange(4 * HEIGHT * WIDTH, dtype=np.int16).reshape(HEIGHT, WIDTH, 4)
    data = bytearray(nifti(draw(st.sampled_from([GREY.astype(np.int16), volume]))))
    floats = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e30, -1e38, float("nan"), float("inf"), 1e-40, 352.0])
    whole = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 20, 24, 64, 128, 512, 768, 1024, 1536, 2048, 32767, -1,
                             -32768])
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            place = draw(st.sampled_from([40, 42, 44, 46, 48, 50, 70, 72, 252, 254]))
            struct.pack_into("<h", data, place, draw(whole))
        else:
            place = draw(st.sampled_from([76, 80, 84, 88, 108, 112, 116, 256, 260, 264, 268, 280, 284, 296,
                                          312, 324]))
            struct.pack_into("<f", data, place, draw(floats))
    return gzip.compress(bytes(data), 1) if draw(st.booleans()) else bytes(data)


def dicom_elements(draw: Draw) -> bytes:
    """A DICOM file with other values in some elements."""
    whole = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 12, 16, 20, 24, 32, 64, 65535])
    number = st.sampled_from(["0", "1", "-1", "1e300", "-1e38", "NaN", "inf", "1e-300", "99999999999", "",
                              "0.5"])
    elements: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(["Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
                         "PixelRepresentation", "PlanarConfiguration"], whole),
        **dict.fromkeys(["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"], number),
        "NumberOfFrames": st.sampled_from(["1", "2", "0", "-1", "2147483647", "1000000", ""]),
        "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL",
                                                      "YBR_FULL_422",
                                                      "", "X", "\x1b[2J", "CMYK"]),
        "ImageOrientationPatient": st.lists(number, max_size=7),
        "Modality": st.sampled_from(["", "\x1b]0;x\a", "A\\B"]),
        "VOILUTFunction": st.sampled_from(["SIGMOID", "LINEAR_EXACT", "x"])}
    chosen = draw(st.lists(st.sampled_from(sorted(elements)), min_size=1, max_size=4, unique=True))
    return dicom(**{name: draw(elements[name]) for name in chosen})


# ---- corrupting values

EVIL = st.one_of(st.sampled_from([
    None, True, "", "x", "NaN", -1, 0, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400, [], {},
    [[]],
    "\x1b[2J", "a\nb", "\u202e", "../../precious/letter", "/etc/passwd", "x" * 300, "\0", f"$({COMMAND})",
    f"; {COMMAND}",
    f"`{COMMAND}`", f"=cmd|'/c {COMMAND}'!A1", "<script>alert(1)</script>", "{{ x }}", "-rf", "~", "%s%n",
    [1, [2]],
    {"a": {"b": 1}}, [None], "é" * 120, "\ud800", "1e5", "0x10", [0] * 50, 1.5, -10**9, 10**9]),
    st.integers(-3, 70_000), st.text(max_size=6), st.floats())


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The key paths of values in nested mappings and lists, of these the first six items."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value,
        list) else ()
    return [*([here] if here else []), *(place for key, one in inner for place in places(one, (*here, key)))]


def changed(draw: Draw, value: Any, most: int = 3) -> Any:
    """A copy of nested values, some of them replaced, removed, duplicated or given another key."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        if not (there := places(value)):
            return draw(EVIL)
        *way, last = draw(st.sampled_from(there))
        inner = value
        for key in way:
            inner = inner[key]
        act = draw(st.integers(0, 7))
        if act == 0:
            del inner[last]
        elif act == 1 and isinstance(inner, dict):
            name = draw(st.sampled_from(["x", "", "\x1b[2J", "__class__", "../x", "a.b", "-p", "é", "0"]))
            inner[name] = inner.pop(last)
        elif act == 2 and isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
        elif act == 3 and isinstance(inner[last], int | float) and not isinstance(inner[last], bool):
            inner[last] = draw(st.sampled_from([-inner[last], inner[last] * 1000, inner[last] + 0.5,
                                                inner[last] * 10**12]))
        else:
            inner[last] = draw(EVIL)
    return value


def as_json(draw: Draw, value: Any) -> bytes:
    """Changed values as JSON, whose text may be damaged too."""
    text = json.dumps(changed(draw, value), ensure_ascii=draw(st.booleans()), default=str)
    content = text.encode("utf-8", "surrogatepass")
    way = draw(st.integers(0, 9))
    if way == 0:
        return spoilt(draw, content)
    if way == 1:
        deep = draw(st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"\xef\xbb\xbf" + content,
                                     b"\xff\xfe" + content,
                                     content.replace(b": ", b": -", 3), content + content, b"9" * 5000, b""]))
        return bytes(deep)
    return content
