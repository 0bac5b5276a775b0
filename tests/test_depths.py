"""Values of more than 8 bits: what is black and white in a whole set, and which runs of them are current."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_checkup import check, kinds, lesion, load, pairs, save, tissue
from test_formats import dicom

from diffusegen_core import painting
from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.sections import Segment
from diffusegen_core.data import (
    dataset,
    decisive,
    intensities,
    layouts,
    patients,
    pictures,
    pixels,
    rasters,
    reading,
    sidecars,
    testsets,
)
from diffusegen_core.store.workspace import Workspace


@pytest.mark.parametrize("shape", [(512, 512, 1), (4096, 64, 1), (64, 4096, 3), (300, 500, 3)])
def test_percentiles_are_of_the_whole_image(shape):
    height, width, channels = shape
    values = np.zeros(shape, np.uint16)
    values += np.arange(width, dtype=np.uint16)[None, :, None] * 8
    values += np.arange(height, dtype=np.uint16)[:, None, None] * 8
    values += np.arange(channels, dtype=np.uint16) * 20000
    drawn = intensities.sample(values)
    assert 1000 * channels < len(drawn) < 20000 * channels
    assert abs(drawn.mean() - values.mean()) < 0.02 * values.mean()
    edges = [np.percentile(one, intensities.PERCENTILES) for one in (drawn, values)]
    assert np.allclose(*edges, atol=0.05 * np.ptp(values))
    assert intensities.sample(np.full((1, 1, 1), np.nan)).size == 0


def test_percentiles_see_a_picture_within_its_border(tmp_path, nano):
    def framed(number: int) -> np.ndarray:
        values = np.zeros((256, 256), np.uint16)
        values[4:-4, 4:-4] = 900 + (tissue(number, (248, 248)) * 100).astype(np.uint16)
        return values
    folder = pairs(tmp_path, image=framed, mask=lambda i: np.pad(lesion((248, 248)), 4))
    images = load(nano, folder, intensities="percentile", channels=1).images
    assert np.unique(images).size > 20


# ---- DICOM

def ct(folder: Path, bits: tuple[int, ...], **header: object) -> Path:
    """Pairs of the same tissue, stored with so many bits each."""
    for number, stored in enumerate(bits):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        dicom(folder / f"images/{number}.dcm", np.round(tissue(number) * 4000).astype(np.uint16),
              BitsStored=stored, HighBit=stored - 1, **header)
        save(folder / f"masks/{number}.png", lesion())
    return folder


def test_dicom_files_of_other_depths_are_not_read_by_their_own_full_range(tmp_path, nano):
    folder = ct(tmp_path / "ct", (12, 16, 12), RescaleIntercept=-1024, RescaleSlope=1)
    made = check(folder, channels=1)
    assert kinds(made) == [reading.DEPTH]
    assert "different ranges (-1024 to 3071, -1024 to 64511)" in made.report.problems[-1].detail
    for rule in ([-1024, 3071], "percentile"):
        assert kinds(check(folder, channels=1, intensities=rule)) == []
    assert kinds(check(ct(tmp_path / "same", (12, 12, 12)), channels=1)) == []


def test_a_lut_is_of_its_own_range(tmp_path):
    import pydicom
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "OD"
    table.LUTData = (np.arange(256, dtype=np.uint16) * 10).tobytes()
    for name, top in (("a", 100), ("b", 200)):
        values = np.full((8, 8), top, np.uint8)
        path = dicom(tmp_path / f"{name}.dcm", values, ModalityLUTSequence=pydicom.Sequence([table]))
        one = rasters.read(path)
        assert (one.values.max(), one.full) == (top * 10, (0, 65535))


# ---- TIFF whose zero is white

def test_a_tiff_of_16_bits_whose_zero_is_white_is_turned_round(tmp_path):
    values = np.zeros((8, 8), np.uint16)
    values[:, :4] = 65535
    for zero, left in ((0, 0), (1, 255)):
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={rasters.PHOTOMETRIC: zero})
        if zero == 0 and Image.open(tmp_path / "a.tif").tag_v2[rasters.PHOTOMETRIC] != 0:
            _tag_white(tmp_path / "a.tif")
        one = rasters.read(tmp_path / "a.tif")
        assert intensities.to_bytes(one, "full")[0, 0, 0] == left
        assert np.asarray(rasters.rgb(tmp_path / "a.tif"))[0, 0, 0] == left


def _tag_white(path: Path) -> None:
    """Set the tag in the file: Pillow writes its own."""
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    for number in range(int.from_bytes(data[start:start + 2], "little")):
        entry = start + 2 + 12 * number
        if int.from_bytes(data[entry:entry + 2], "little") == rasters.PHOTOMETRIC:
            data[entry + 8:entry + 10] = (0).to_bytes(2, "little")
    path.write_bytes(data)


# ---- runs

@pytest.mark.parametrize(("values", "deep"), [
    (np.zeros((8, 8), np.uint8), False), (np.zeros((8, 8), np.uint16), True),
    (np.zeros((8, 8), np.float32), True), (np.zeros((8, 8, 3), np.uint8), False)])
def test_depth_is_told_by_the_header(tmp_path, values, deep):
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert rasters.is_deep(tmp_path / "a.tif") == deep == rasters.read(tmp_path / "a.tif").is_deep
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.json").write_text("{}")
    assert not rasters.is_deep(tmp_path / "b.png")
    assert not rasters.is_deep(tmp_path / "c.json")


def test_deep_files_that_an_older_version_read_are_read_again_and_others_are_not(tmp_path, nano, monkeypatch):
    deep = pairs(tmp_path / "deep", image=lambda i: np.round(tissue(i) * 65535).astype(np.uint16))
    plain = pairs(tmp_path / "plain")
    written = {}
    with monkeypatch.context() as older:  # whose recipes knew nothing of depth
        older.setattr(decisive, "_is_deep", lambda *_: False)
        for name, folder in (("deep", deep), ("plain", plain)):
            stored = load(nano | {"run_dir": str(tmp_path / "runs" / name)}, folder).stored
            written[name] = stored, stored.stat().st_mtime_ns
    for name, folder in (("deep", deep), ("plain", plain)):
        load(nano | {"run_dir": str(tmp_path / "runs" / name)}, folder)
        stored, time = written[name]
        assert (stored.stat().st_mtime_ns != time) == (name == "deep")


def test_test_images_are_as_bright_as_training_images_of_the_same_values(tmp_path, nano):
    def dim(number: int) -> np.ndarray:
        return np.round(tissue(number) * 1000).astype(np.uint16)
    training, test = pairs(tmp_path / "training", image=dim), tmp_path / "test"
    for number in range(4):
        save(test / f"images/t{number}.png", dim(10 + number) // 2)
        save(test / f"masks/t{number}.png", lesion())
    p = params.validate(nano | {"data": {"source": str(training), "count": None, "image_size": 16,
                                         "intensities": "percentile", "channels": 1}})
    ws = Workspace(p.folder, p.seed)
    ours = dataset.load(ws, p.data)
    sets = testsets.load(ws, ours, p.data, Segment(cvc=str(test), test_count=4))
    theirs = sets[testsets.CVC].pairs
    assert theirs is not None
    assert theirs.images.max() < 0.7 * ours.images.max()


def test_values_of_one_kind_are_scaled_by_the_rule_of_the_set():
    one = pixels.Raster(np.full((2, 2, 1), 40.0), "DICOM", "MONOCHROME2", (-1024, 3071))
    assert intensities.to_bytes(one, (-160, 240))[0, 0, 0] == 128
    assert intensities.of_set(Data(intensities=[-160, 240]), []) == (-160, 240)


def test_backgrounds_and_pictures_to_paint_are_as_bright_as_training_images(tmp_path, nano):
    def dim(number: int, shape: tuple[int, int] = (48, 48)) -> np.ndarray:
        return np.round(tissue(number, shape) * 1000).astype(np.uint16)
    training, others = pairs(tmp_path / "training", image=dim), tmp_path / "others"
    for number in range(3):
        save(others / f"{number}.png", dim(10 + number, (48, 96)) // 2)
    p = params.validate(nano | {"data": {"source": str(training), "count": None, "image_size": 16,
                                         "intensities": "percentile", "channels": 1}})
    ws = Workspace(p.folder, p.seed)
    ours = dataset.load(ws, p.data)
    theirs = pictures.load(ws, pictures.BACKGROUNDS, str(others), 16, p.data)
    assert theirs.images.max() < 0.7 * ours.images.max()
    assert theirs.padded == dict.fromkeys("012", (48, 96)), "so that their bars make no copies"
    brightness = sidecars.as_read(p.data, ours.file)
    shown = painting._pictures(sorted(others.iterdir()), brightness)
    assert max(one.max() for one in shown) < 0.7 * ours.images.max()


def test_held_out_images_do_not_decide_how_bright_the_others_are(tmp_path, nano):
    def dim(number: int) -> np.ndarray:
        return np.round(tissue(number) * 1000).astype(np.uint16)
    folder = pairs(tmp_path / "set", image=dim)
    p = params.validate(nano | {"data": {"source": str(folder), "count": None, "image_size": 16,
                                         "intensities": "percentile", "channels": 1, "holdout": 0.25}})
    before = dataset.load(Workspace(tmp_path / "before", p.seed), p.data)
    held = patients.split(layouts.scan(folder, p.data), p.data, p.seed)[1]
    assert held
    for name in held:
        file = folder / f"images/{name}.png"
        save(file, np.asarray(Image.open(file)) * 4)
    after = dataset.load(Workspace(tmp_path / "after", p.seed), p.data)
    assert np.array_equal(before.images, after.images)
