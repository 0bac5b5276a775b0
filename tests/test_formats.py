"""One file to its array: every format that is read, made by its own library, and what is no image."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diffusegen_core.config.data import Data
from diffusegen_core.data import fits, intensities, pixels, planes, rasters

RAMP = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)


def dicom(path: Path, pixels: np.ndarray, **header: object) -> Path:
    """A DICOM file of an image (H, W) uint8, uint16 or int16, or (H, W, 3) uint8."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = generate_uid(), generate_uid()
    one = pydicom.Dataset()
    one.file_meta = meta
    one.Rows, one.Columns = pixels.shape[:2]
    one.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    one.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        one.PlanarConfiguration = 0
    one.BitsAllocated = one.BitsStored = 8 * pixels.dtype.itemsize
    one.HighBit = one.BitsStored - 1
    one.PixelRepresentation = int(pixels.dtype.kind == "i")
    one.PixelData = pixels.tobytes()
    for name, value in header.items():
        setattr(one, name, value)
    one.save_as(path, enforce_file_format=True)
    return path


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    import nibabel
    # Patients' axes as most scanners have them, from the right to the left and from the front to the back.
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1.0]) if affine is None else affine), path)
    return path


def refused(path: Path, cut: tuple[int, int] | None = None) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - decoders fail in many ways
        rasters.read(path, cut)
    words = rasters.reason(caught.value, path)
    assert "\n" not in words
    return words


# ---- pictures

@pytest.mark.parametrize("kind", ["png", "jpg", "jpeg", "jfif", "tif", "tiff", "bmp", "gif", "webp"])
def test_pictures_of_8_bits_are_as_they_are(tmp_path, kind):
    grey = Image.new("L", (24, 20), 77)
    writer = {"jfif": "JPEG", "jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
    grey.save(tmp_path / f"a.{kind}", format=writer, **({"lossless": True} if kind == "webp" else {}))
    raster = rasters.read(tmp_path / f"a.{kind}")
    assert (raster.size, raster.full, raster.is_deep) == ((24, 20), (0, 255), False)
    assert np.all(raster.values == 77)
    assert raster.values.shape[2] in (1, 3)
    assert rasters.is_read(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_stay_16(tmp_path, kind):
    Image.fromarray(RAMP * 100).save(tmp_path / f"a.{kind}")
    raster = rasters.read(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(raster.values[..., 0], RAMP * 100)
    assert (raster.full, raster.depth) == ((0, 65535), "16 bits")


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_a_colour_stay_16(tmp_path, kind):
    deep = np.stack([RAMP, RAMP + 1000, RAMP * 3], axis=2)
    cv2.imwrite(str(tmp_path / f"a.{kind}"), deep[..., ::-1])
    raster = rasters.read(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(raster.values, deep)
    assert raster.is_deep


def test_a_palette_picture_has_colours_and_indices(tmp_path):
    picture = Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 8).reshape(4, 6), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    raster = rasters.read(tmp_path / "a.png")
    assert raster.indices is not None
    assert np.unique(raster.indices).tolist() == [0, 1, 2]
    assert raster.values[-1, -1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("turn", range(1, 9))
def test_arrays_are_turned_as_pillow_turns_pictures(tmp_path, turn):
    tag = Image.Exif()
    tag[rasters.ORIENTATION] = turn
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png", exif=tag)
    by_pillow = rasters.read(tmp_path / "a.png")
    assert by_pillow.orientation == turn
    np.testing.assert_array_equal(pixels.oriented(RAMP.astype(np.uint8), turn), by_pillow.values[..., 0])


def tiff(path: Path, values: np.ndarray, turn: int = 1) -> Path:
    """A TIFF of any numbers (H, W) or (H, W, 3) without compression, byte by byte."""
    channels = values.shape[2] if values.ndim == 3 else 1
    number = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    start = 8 + 2 + 12 * 12 + 4
    tags = {256: values.shape[1], 257: values.shape[0], 258: 8 * values.dtype.itemsize, 259: 1,
            262: 2 if channels == 3 else 1, 273: start + 12, 274: turn, 277: channels, 278: values.shape[0],
            279: values.nbytes, 284: 1, 339: number}
    entries = b"".join(struct.pack("<HHII", tag, 3, channels, start + 6 * (tag == 339))
                       if channels == 3 and tag in (258, 339) else struct.pack("<HHII", tag, 4, 1, value)
                       for tag, value in tags.items())
    several = struct.pack("<6H", *[tags[258]] * 3, *[number] * 3)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + several
                     + values.tobytes())
    return path


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiffs_are_turned_once_and_tell_it(tmp_path, turn, compression):
    colours = np.stack([RAMP % 251, RAMP // 2, RAMP // 3], axis=2).astype(np.uint8)
    for values in (RAMP.astype(np.uint8), RAMP, colours):
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={rasters.ORIENTATION: turn},
                                     compression=compression)
        raster = rasters.read(tmp_path / "a.tif")
        assert raster.orientation == turn
        np.testing.assert_array_equal(np.squeeze(raster.values), pixels.oriented(values, turn))
    deep = np.stack([RAMP * 100] * 3, axis=2)
    raster = rasters.read(tiff(tmp_path / "a.tif", deep, turn))
    assert raster.orientation == turn
    np.testing.assert_array_equal(raster.values, pixels.oriented(deep, turn))


@pytest.mark.parametrize(("kind", "channels", "says"), [
    (np.int16, 3, "16-bit signed integers, 3 channels"), (np.float32, 3, "32-bit floats, 3 channels"),
    (np.float64, 1, "64-bit floats, 1 channel,"), (np.int8, 3, "8-bit signed integers")])
def test_tiffs_of_other_numbers_are_named_and_not_made_8_bits(tmp_path, capfd, kind, channels, says):
    values = np.stack([RAMP.astype(kind)] * channels, axis=2)
    words = refused(tiff(tmp_path / "a.tif", values if channels == 3 else values[..., 0]))
    assert words.startswith(f"a TIFF of {says}")
    assert "NumPy file (.npy)" in words
    assert capfd.readouterr().err == ""


def test_several_pages_or_frames_are_no_image(tmp_path):
    one, other = Image.new("L", (8, 8)), Image.new("L", (8, 8), 9)
    for kind in ("tif", "gif"):
        one.save(tmp_path / f"a.{kind}", save_all=True, append_images=[other])
        assert refused(tmp_path / f"a.{kind}") == "holds 2 pictures; save each as a file of its own"


# ---- DICOM

def test_dicom_is_rescaled_and_tells_its_depth_and_window(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP, BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-1024,
                 WindowCenter=40, WindowWidth=400, RescaleType="HU")
    raster = rasters.read(path)
    np.testing.assert_array_equal(raster.values[..., 0], RAMP * 2.0 - 1024)
    assert raster.full == (-1024, 4095 * 2 - 1024)
    assert raster.voi == (-160, 239)  # PS3.3 C.11.2.1.2: the width counts both ends
    assert (raster.format, raster.mode) == ("DICOM", "MONOCHROME2")


def test_dicom_of_8_bits_of_colours_and_inverted(tmp_path):
    grey = RAMP.astype(np.uint8)
    plain = rasters.read(dicom(tmp_path / "a.dcm", grey))
    assert intensities.to_bytes(plain, "full")[..., 0].tolist() == grey.tolist()
    inverted = rasters.read(dicom(tmp_path / "b.dcm", grey, PhotometricInterpretation="MONOCHROME1"))
    assert intensities.to_bytes(inverted, "full")[..., 0].tolist() == (255 - grey).tolist()
    colours = np.stack([grey, grey // 2, grey // 3], axis=2)
    np.testing.assert_array_equal(rasters.read(dicom(tmp_path / "c.dcm", colours)).values, colours)
    (tmp_path / "c.dcm").rename(tmp_path / "IM0001")  # as they lie on discs
    assert rasters.is_read(tmp_path / "IM0001")
    np.testing.assert_array_equal(rasters.read(tmp_path / "IM0001").values, colours)


def test_dicom_that_ends_early_or_is_none_or_holds_no_single_image(tmp_path):
    path = dicom(tmp_path / "a.dcm", RAMP)
    whole = path.read_bytes()
    for length in (len(whole) - 100, len(whole) // 2, 200, 133, 40, 0):
        path.write_bytes(whole[:length])
        assert refused(path)
    path.write_bytes(b"no DICOM at all" * 40)
    assert refused(path)
    assert "2 frames" in refused(dicom(path, np.concatenate([RAMP, RAMP]), Rows=20, NumberOfFrames=2))
    path.write_bytes(whole)
    import pydicom
    report = pydicom.dcmread(path)
    del report.PixelData
    report.Modality = "SR"
    report.save_as(path)
    assert refused(path) == "a DICOM file without an image (modality SR)"
    assert "million pixels" in refused(dicom(path, RAMP, Rows=60_000, Columns=60_000))


def of_patient(*cosines: float) -> dict[str, object]:
    return {"ImageOrientationPatient": list(cosines)}


@pytest.mark.parametrize(("cosines", "stored_as"), [
    ((1, 0, 0, 0, 1, 0), lambda seen: seen),
    ((-1, 0, 0, 0, -1, 0), lambda seen: seen[::-1, ::-1]),  # a patient who lies face down
    ((1, 0, 0, 0, -1, 0), np.flipud),
    ((0, 1, 0, 1, 0, 0), np.transpose),
    ((0, -1, 0, 1, 0, 0), lambda seen: seen[::-1].T),
    ((0, 1, 0, 0, 0, -1), lambda seen: seen),  # sagittal: back at the right, head at the top
    ((0, 0, 1, 1, 0, 0), lambda seen: seen[::-1].T),  # coronal
    ((0.99, 0.1, 0.1, -0.1, 0.99, 0), lambda seen: seen)])
def test_slices_in_dicom_are_seen_as_radiologists_do(tmp_path, cosines, stored_as):
    stored = np.ascontiguousarray(stored_as(RAMP))
    raster = rasters.read(dicom(tmp_path / "a.dcm", stored, **of_patient(*cosines)))
    np.testing.assert_array_equal(raster.values[..., 0], RAMP)
    assert raster.directions is not None
    right, down = np.reshape(raster.directions, (2, 3))
    assert min(right[0] + right[1], down[1] - down[2]) > 0.9
    np.testing.assert_array_equal(pixels.oriented(stored, raster.orientation), RAMP)


def test_slices_in_dicom_are_turned_as_those_in_nifti(tmp_path):
    # The same patient: x to the left, y to the back, z to the head; scanned lying face down.
    volume = np.arange(4 * 5 * 1, dtype=np.int16).reshape(4, 5, 1)
    of_nifti = rasters.read(nifti(tmp_path / "a.nii", volume))
    of_dicom = rasters.read(dicom(tmp_path / "a.dcm", np.ascontiguousarray(volume[::-1, ::-1, 0].T),
                                  **of_patient(-1, 0, 0, 0, -1, 0)))
    np.testing.assert_array_equal(of_nifti.values, of_dicom.values)


def test_frames_in_dicom_have_orientations_of_their_own(tmp_path):
    import pydicom

    def told(*cosines: float) -> "pydicom.Dataset":
        plane, group = pydicom.Dataset(), pydicom.Dataset()
        plane.ImageOrientationPatient = list(cosines)
        group.PlaneOrientationSequence = [plane]
        return group

    path = tmp_path / "a.dcm"
    each = [told(1, 0, 0, 0, 1, 0), told(-1, 0, 0, 0, 1, 0)]
    dicom(path, np.stack([RAMP, np.fliplr(RAMP)]).reshape(40, 24), Rows=20, NumberOfFrames=2,
          PerFrameFunctionalGroupsSequence=each)
    for frame in range(2):
        np.testing.assert_array_equal(rasters.read(path, (0, frame)).values[..., 0], RAMP)
    dicom(path, np.fliplr(RAMP).copy(), SharedFunctionalGroupsSequence=each[1:])
    np.testing.assert_array_equal(rasters.read(path).values[..., 0], RAMP)


@pytest.mark.parametrize("cosines", [(0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (1, 0, 0)])
def test_an_orientation_in_dicom_that_is_none_turns_nothing(tmp_path, cosines):
    raster = rasters.read(dicom(tmp_path / "a.dcm", RAMP, **of_patient(*cosines)))
    np.testing.assert_array_equal(raster.values[..., 0], RAMP)
    assert (raster.orientation, raster.directions) == (1, None)


# ---- NIfTI

@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 1)])
def test_a_flat_nifti_is_an_image(tmp_path, ending, shape):
    raster = rasters.read(nifti(tmp_path / f"a{ending}", RAMP.T.reshape(shape).astype(np.int16)))
    np.testing.assert_array_equal(raster.values[..., 0], RAMP)
    assert (raster.format, raster.full, rasters.stem(tmp_path / f"a{ending}")) == ("NIfTI", None, "a")


def test_slices_are_taken_by_axis_and_honour_the_orientation(tmp_path):
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    path = nifti(tmp_path / "a.nii.gz", volume)
    np.testing.assert_array_equal(rasters.read(path, (2, 3)).values[..., 0], volume[:, :, 3].T)
    # The same patient, stored the other way round in two axes.
    other = nifti(tmp_path / "b.nii.gz", volume[::-1, ::-1], np.diag([1, 1, 1, 1.0]))
    np.testing.assert_array_equal(rasters.read(other, (2, 3)).values, rasters.read(path, (2, 3)).values)
    head_up = rasters.read(path, (1, 0)).values[..., 0]
    assert head_up.shape == (6, 4)
    assert head_up[0].max() == volume[:, -1, 5].max()  # the last slices of a body are nearest to the head


def test_volumes_without_slices_four_axes_and_slices_that_are_not_there(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((4, 5, 6), np.int16))
    assert "a volume of 4x5x6; take its slices with data.slices" in refused(path)
    assert "no slice 6 of its axis 2, which has 6" in refused(path, (2, 6))
    assert "has 4 axes (4x5x6x7)" in refused(nifti(tmp_path / "b.nii", np.zeros((4, 5, 6, 7), np.int16)))
    path.write_bytes(path.read_bytes()[:360])
    assert refused(path, (2, 0))
    (tmp_path / "c.nii.gz").write_bytes(b"no gzip")
    assert refused(tmp_path / "c.nii.gz")


# ---- NumPy

@pytest.mark.parametrize(("shape", "seen"), [((20, 24), (20, 24, 1)), ((20, 24, 5), (20, 24, 5)),
                                             ((5, 20, 24), (20, 24, 5))])
def test_numpy_arrays(tmp_path, shape, seen):
    np.save(tmp_path / "a.npy", np.ones(shape, np.float32))
    raster = rasters.read(tmp_path / "a.npy")
    assert (raster.values.shape, raster.depth, raster.full) == (seen, "float32", (0, 1))


def test_numpy_files_of_pickles_of_text_and_of_odd_shapes(tmp_path):
    path = tmp_path / "a.npy"
    for content, says in ((np.array([{}, {}]), "pickles"), (np.array([["x"]]), "not numbers"),
                          (np.zeros((3, 20, 24, 2)), "3x20x24x2"), (np.zeros(5), "array of 5"),
                          (np.zeros((20, 24, 99)), "at most 16 channels")):
        np.save(path, content, allow_pickle=True)
        assert says in refused(path)
    path.write_bytes(path.read_bytes()[:50])
    assert refused(path)
    np.save(path, np.array([[True, False]]))
    assert rasters.read(path).values[..., 0].tolist() == [[255, 0]]


def test_what_is_not_read_is_named_with_the_way_on(tmp_path):
    for name, says in (("a.heic", "HEIF"), ("a.nrrd", "NIfTI"), ("a.svs", "tiles"), ("a.mp4", "frames"),
                       ("a.npz", ".npy"), ("a.zip", "unpack"), ("a.jp2", "JPEG 2000")):
        assert says in str(rasters.unread(tmp_path / name))
    for name in ("a.png", "a.txt", "a.md", "a.nii.gz"):
        assert rasters.unread(tmp_path / name) is None


# ---- intensities

def raster(values: np.ndarray, full: tuple[float, float] | None = None, **more: object) -> pixels.Raster:
    return pixels.Raster(values[..., None], "TIFF", "x", full or pixels.ends(values), **more)


def test_each_rule_maps_values_as_it_says():
    deep = raster(RAMP * 100, (0, 65535))
    assert intensities.to_bytes(deep, "full").max() == round(47900 / 65535 * 255)
    between = intensities.to_bytes(deep, (1000.0, 2000.0))[0, [0, 10, 15, 20, 23], 0]
    assert between.tolist() == [0, 0, 128, 255, 255]
    assert intensities.to_bytes(raster(RAMP, (0, 4095), voi=(100, 200)), "dicom")[0, 0, 0] == 0
    assert intensities.to_bytes(raster(RAMP / np.float32(479)), "full").max() == 255
    dark = raster(np.zeros((4, 4), np.uint16))
    low, high = intensities.of_set(Data(intensities="percentile"), [deep, dark])
    assert low == pytest.approx(np.percentile(np.append(RAMP * 100, np.zeros(16)), 0.5))
    assert 47_000 < high < 47_900


def test_values_of_which_nothing_says_what_is_black_and_white_are_told():
    for values in (RAMP.astype(np.float32), RAMP / 300 - 1, RAMP.astype(np.int16)):
        with pytest.raises(ValueError, match=r"values from .* data\.intensities \[low, high\]"):
            intensities.to_bytes(raster(values), "full")
    with pytest.raises(ValueError, match="lacks"):
        intensities.to_bytes(raster(RAMP, (0, 65535)), "dicom")
    with pytest.raises(ValueError, match="nearly all values"):
        intensities.of_set(Data(intensities="percentile"), [raster(np.zeros((4, 4)))])


def test_what_is_no_number_is_black():
    values = np.full((4, 4), 0.5)
    values[0] = np.nan
    assert intensities.to_bytes(raster(values), "full")[..., 0].tolist() == [[0] * 4] + [[128] * 4] * 3


@pytest.mark.parametrize(("span", "says"), [
    ((0, 200), "[0, 255]"), ((0, 1000), "[0, 1023]"), ((3, 4095), "[0, 4095]"), ((0, 16000), "[0, 16383]"),
    ((0, 16384), None), ((-100, 200), "percentile")])
def test_a_set_that_uses_little_of_its_depth_is_told_what_to_set(span, says):
    told = intensities.unused(span, (0, 65535))
    assert says in told if says else told is None


# ---- fits

def test_fits_keep_shapes_or_not_as_they_say():
    image = np.zeros((40, 80, 1), np.uint8)
    image[:, 20:60] = 200
    mask = (image > 0).astype(np.uint8)
    for fit, wide, high in (("pad", 10, 10), ("crop", 20, 20), ("squeeze", 10, 20)):
        small, label = fits.fitted(image, mask, 20, fit)
        assert (small.shape, label.shape) == ((1, 20, 20), (1, 20, 20))
        assert (label[0].any(axis=0).sum(), label[0].any(axis=1).sum()) == (wide, high)


@pytest.mark.parametrize("fit", ["pad", "crop", "squeeze"])
@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (60, 60), (33, 50)])
def test_the_way_back_leads_to_the_native_size_and_place(fit, shape):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (*shape, 3), dtype=np.uint8), (0, 0), 6)
    mask = np.zeros((*shape, 2), np.uint8)
    mask[10:20, 8:18, 0] = mask[20:28, 12:20, 1] = 1
    small = fits.fitted(image, mask, 128, fit)
    pixels, label = fits.restored(*small, shape, fit)
    assert (pixels.shape, label.shape) == (image.shape, mask.shape)
    kept = fits.restored(np.zeros_like(small[0]), np.ones_like(small[1]), shape, fit)[1].astype(bool)
    assert np.abs(pixels.astype(int) - image)[kept[..., 0]].mean() < 2
    assert (label != mask)[kept].mean() < 0.03
    assert not label[~kept].any()
    assert not pixels[~kept[..., 0]].any()


def test_classes_that_exclude_each_other_still_do_and_none_vanishes():
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0, :33] = mask[1, 33:] = 1
    small = planes.shrunk(mask, (16, 16))
    assert small.sum(axis=0).max() == 1
    assert small.sum() == 256
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0], mask[:, 30, 30] = 1, (0, 1)
    small = planes.shrunk(mask, (16, 16))
    assert small[1].sum() == 1
    assert small.sum(axis=0).max() == 1


@pytest.mark.parametrize("shape", [(96, 288), (288, 96), (100, 100), (2, 900)])
def test_what_a_padded_square_shows_has_no_bars(shape):
    image, mask = np.full((*shape, 1), 200, np.uint8), np.zeros((*shape, 1), np.uint8)
    square, _ = fits.fitted(image, mask, 64, "pad")
    shown = fits.content(square, shape)
    assert shown.size
    assert shown.min() > 180 or min(shape) == 2
    assert shown.size >= 0.9 * (square > 100).sum()


@pytest.mark.parametrize("shape", [(576, 720), (511, 512), (531, 622), (64, 63), (100, 37), (333, 500)])
@pytest.mark.parametrize("side", [16, 48, 64, 128])
def test_what_is_no_bar_is_where_masks_can_be(shape, side):
    """Rows that are bar in part included: they hold pixels of real masks."""
    full = fits.fitted(np.zeros((*shape, 1), np.uint8), np.ones((*shape, 1), np.uint8), side, "pad")[1]
    between = np.zeros_like(full)
    fits.shown(between, shape)[:] = 1
    assert np.array_equal(between, full)


def test_json_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text(json.dumps({}))
    assert refused(tmp_path / "a.png").startswith("not a JPEG, PNG")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13))
    assert refused(tmp_path / "b.png")
