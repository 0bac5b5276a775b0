"""What is prepared for the fuzz: a finished run of the smallest size, and pictures as large as allowed."""

import gzip
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import fuzzinputs
import numpy as np
from fuzzbytes import chunk, dicom, nifti
from PIL import Image

DOUBLES = 64  # NIfTI's code for float64
SIDE = 8000  # pixels: 64 million is the most that is read
CHAPTERS = ("evaluate", "segment", "augment")


def prepare(base: Path) -> None:
    """Make what is not there yet; the run takes some minutes."""
    heavy = base / "heavy"
    heavy.mkdir(parents=True, exist_ok=True)
    for name, bits, colour, channels in (("rgba.png", 8, 6, 4), ("deep.png", 16, 2, 6), ("grey.png", 8, 0, 1),
                                         ("deepgrey.png", 16, 0, 2)):
        if not (heavy / name).exists():
            _png(heavy / name, bits, colour, channels * SIDE)
    if not (heavy / "floats.npy").exists():
        np.lib.format.open_memmap(heavy / "floats.npy", "w+", np.float32, (SIDE, SIDE // 2, 2))
    if not (heavy / "volume.nii.gz").exists():
        _volume(heavy / "volume.nii.gz", (1000, 1000, 900), 2, 1)
    if not (heavy / "doubles.nii.gz").exists():
        _volume(heavy / "doubles.nii.gz", (600, 600, 800), DOUBLES, 8)
    half = Image.new("RGB", (SIDE, SIDE))
    half.paste("white", (0, 0, SIDE // 2, SIDE))
    for name, options in (("large.tif", {"compression": "tiff_lzw"}), ("large.jpg", {})):
        if not (heavy / name).exists():
            half.save(heavy / name, **options)
    if not (heavy / "large.dcm").exists():
        (heavy / "large.dcm").write_bytes(dicom(np.zeros((SIDE, SIDE // 4), np.uint16), Rows=SIDE,
                                                  Columns=SIDE // 4))
    if not (base / "run" / "augment" / "results.csv").exists():
        run(base / "run")


def run(folder: Path) -> None:
    """Make a finished run in a process of its own, since the one that forks must have computed nothing."""
    import multiprocessing
    maker = multiprocessing.get_context("spawn").Process(target=_made, args=(folder,))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise RuntimeError(f"the run whose files are spoilt could not be made: exit code {maker.exitcode}")


def _made(folder: Path) -> None:
    from diffusegen_core.config import params
    from diffusegen_core.run import Run
    whole = Run(params.validate({**fuzzinputs.NANO, "profile": "nano", "run_dir": str(folder)}))
    for chapter in CHAPTERS:
        whole.make(chapter)


def _png(path: Path, bits: int, colour: int, width: int) -> None:
    packer = zlib.compressobj(1)
    row = bytes(1) + b"\xff" * (width // 2) + bytes(width - width // 2)  # white and black, like a mask
    rows = b"".join([packer.compress(row) for _ in range(SIDE)]) + packer.flush()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def _volume(path: Path, shape: tuple[int, int, int], kind: int, size: int) -> None:
    """A zipped NIfTI file of zeros: small on the disk, large in memory."""
    header = bytearray(nifti(np.zeros((2, 2, 2), np.uint8))[:352])
    struct.pack_into("<3h", header, 42, *shape)
    struct.pack_into("<2h", header, 70, kind, 8 * size)
    if kind == DOUBLES:  # with an x axis to the left, so that slices have to be turned
        struct.pack_into("<f", header, 280, -1.0)
    with gzip.open(path, "wb", 1) as f:
        f.write(header)
        for piece in _pieces(int(np.prod(shape)) * size):
            f.write(piece)


def _pieces(size: int, most: int = 1 << 24) -> Iterable[bytes]:
    block = bytes(most)
    while size > 0:
        yield block[:min(size, most)]
        size -= most
