"""A folder of pairs: what is read, what is refused, what is left out."""

import csv
import json
import os
import struct
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diffusegen_core.config import params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import checkup, dataset, fits, layouts, pixels, rasters, reading
from diffusegen_core.store import files, ownparams
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import ASIDE
from diffusegen_core.store.workspace import Workspace

RED = (200, 40, 30)


def picture(size=(24, 20), colour=RED) -> Image.Image:
    return Image.new("RGB", size, colour)


def mask(size=(24, 20), box=(4, 4, 16, 14), value=255) -> Image.Image:
    grey = Image.new("L", size, 0)
    grey.paste(value, box)
    return grey


def add(folder: Path, name: str, image=None, label=None, images="images", masks="masks",
        suffix=".png") -> None:
    for part, content, end in ((images, image or picture(), ".png"), (masks, label or mask(), suffix)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        content.save(folder / part / f"{name}{end}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder of three pairs."""
    folder = tmp_path / "set"
    for name in ("a", "b", "c"):
        add(folder, name)
    return folder


def make(nano: dict, folder: Path, **values: object) -> params.Params:
    given = {"source": str(folder), "count": None, "image_size": 16, "fit": "squeeze", "holdout": None,
             **values}
    return params.validate(nano | {"data": given})


def load(p: params.Params, **workspace: bool) -> dataset.Pairs:
    return dataset.load(Workspace(p.folder, p.seed, **workspace), p.data, p.cluster.k)


def only(folder: Path, clusters: int | None = None) -> tuple[str, str, str]:
    """The one problem of the folder."""
    (problem,) = checkup.check(folder, clusters).problems
    return problem.file, problem.problem, problem.detail


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


# Each kind of problem


def test_a_sound_folder_has_no_problems(folder):
    report = checkup.check(folder, clusters=3)
    assert [pair.name for pair in report.pairs] == ["a", "b", "c"]
    assert report.problems == []
    assert report.table().columns.tolist() == ["file", "problem", "detail"]
    assert len(report.table()) == 0
    assert "no problems" in report.text


def test_truncated_and_foreign_files_are_unreadable(folder):
    whole = (folder / "images/a.png").read_bytes()
    (folder / "images/a.png").write_bytes(whole[: len(whole) // 2])
    (folder / "masks/b.png").write_text("no picture")
    (folder / "images/c.png").write_bytes(b"")
    report = checkup.check(folder, clusters=0)
    assert [(p.file, p.problem) for p in report.problems if p.file != "."] == [
        ("images/a.png", "unreadable"), ("masks/b.png", "unreadable"), ("images/c.png", "unreadable")]
    assert report.pairs == []


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".tif"])
def test_truncated_files_of_each_format(folder, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = folder / f"images/d{suffix}"
    Image.fromarray(noise).save(path)
    mask((64, 64)).save(folder / "masks/d.png")
    assert checkup.check(folder).problems == []
    path.write_bytes(path.read_bytes()[:-3000])
    assert only(folder)[:2] == (f"images/d{suffix}", "unreadable")


def test_missing_mask_and_mask_without_image(folder):
    picture().save(folder / "images/d.jpg")
    mask().save(folder / "masks/e.png")
    found = [(p.file, p.problem) for p in checkup.check(folder).problems]
    assert found == [("images/d.jpg", "missing mask"), ("masks/e.png", "mask without image")]


def test_size_mismatch(folder):
    add(folder, "d", label=mask((20, 24)))
    assert only(folder) == ("masks/d.png", "size mismatch", "mask 20x24, image 24x20")


def test_empty_mask_names_its_brightest_value(folder):
    add(folder, "d", label=mask(value=127))
    file, problem, detail = only(folder)
    assert (file, problem) == ("masks/d.png", "empty mask")
    assert "127" in detail


def test_mask_of_polyp_alone_is_not_two_valued(folder):
    add(folder, "d", label=Image.new("L", (24, 20), 128))
    assert only(folder)[:2] == ("masks/d.png", "mask not two-valued")


def test_threshold_is_above_127_and_noise_around_black_and_white_is_fine(nano, folder):
    rng = np.random.default_rng(0)
    noisy = np.where(np.asarray(mask((16, 16), (4, 4, 12, 12))) > 0, rng.integers(192, 256, (16, 16)),
                     rng.integers(0, 64, (16, 16))).astype(np.uint8)
    add(folder, "d", picture((16, 16)), Image.fromarray(noisy))
    pairs = load(make(nano, folder))
    expected = np.zeros((16, 16), np.uint8)
    expected[4:12, 4:12] = 1
    np.testing.assert_array_equal(pairs.masks[pairs.names.index("d"), 0], expected)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_same_name_twice(folder, part):
    (picture() if part == "images" else mask()).save(folder / part / "a.bmp")
    file, problem, detail = only(folder)
    assert (problem, {file, f"{part}/{detail.removeprefix('as ')}"}) == (
        "same name twice", {f"{part}/a.bmp", f"{part}/a.png"})
    assert [pair.name for pair in checkup.check(folder).pairs] == ["b", "c"]


def test_names_in_composed_and_decomposed_letters_are_the_same(folder):
    for spelled, part in (("NFC", "images"), ("NFD", "masks")):
        (folder / f"{part}/a.png").rename(folder / part / f"{unicodedata.normalize(spelled, 'é1')}.png")
    report = checkup.check(folder)
    assert ([pair.name for pair in report.pairs], report.problems) == (["b", "c", "é1"], [])
    data = Data(images="images/*", masks="masks/*")
    assert [pair.name for pair in layouts.scan(folder, data).pairs] == ["b", "c", "é1"]
    mask().save(folder / "masks/é1.png")  # and the one with the very name goes before
    assert [one.problem for one in checkup.check(folder).problems] == ["mask without image"]


def test_one_long_name_widens_no_other_row(folder):
    for name in ("x" * 190, "b"):
        mask(value=100).save(folder / f"masks/{name}.png")
    picture().save(folder / f"images/{'x' * 190}.png")
    rows = checkup.check(folder).text.splitlines()
    assert len(next(row for row in rows if row.startswith("masks/b.png"))) < 140
    assert any(row.startswith(f"masks/{'x' * 190}.png empty mask") for row in rows)


def test_mask_beside_its_twin_with_the_suffix(folder):
    mask().save(folder / "masks/a_mask.png")
    assert only(folder)[1] == "same name twice"


def test_fewer_pairs_than_clusters(folder):
    assert only(folder, clusters=4) == (".", "too few pairs", "3 usable, at least 4 needed")


def test_decompression_bomb_is_a_row(folder, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 24 * 20)
    add(folder, "d", picture((48, 40)), mask((48, 40)))
    found = [(p.file, p.problem) for p in checkup.check(folder).problems]
    assert found == [("images/d.png", "unreadable"), ("masks/d.png", "unreadable")]


def test_a_header_that_claims_gigapixels_is_a_row(folder):
    path = folder / "images/a.png"
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    path.write_bytes(content)
    assert only(folder)[:2] == ("images/a.png", "unreadable")


def test_name_with_a_line_break_is_escaped(folder):
    add(folder, "two\nlines")
    report = checkup.check(folder)
    assert [(p.file, p.problem) for p in report.problems] == [
        ("images/two\\nlines.png", "unusable name"), ("masks/two\\nlines.png", "unusable name")]
    assert "two\nlines" not in report.text


def test_bytes_that_are_no_text_in_a_name(folder):
    try:
        os.rename(folder / "images/a.png", os.fsencode(folder) + b"/images/\xff.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    report = checkup.check(folder)
    assert [(p.problem) for p in report.problems] == ["unusable name", "mask without image"]
    report.text.encode("utf-8")


def test_every_problem_in_one_pass(folder):
    add(folder, "d", label=mask((9, 9), (0, 0, 2, 2), 100))
    (folder / "images/a.png").write_bytes(b"x")
    (folder / "masks/b.png").unlink()
    report = checkup.check(folder, clusters=5)
    assert sorted((p.file, p.problem) for p in report.problems) == [
        (".", "too few pairs"), ("images/a.png", "unreadable"), ("images/b.png", "missing mask"),
        ("masks/d.png", "empty mask"), ("masks/d.png", "size mismatch")]
    assert all(p.file in report.text and p.problem in report.text for p in report.problems)


# Formats


def loaded(nano: dict, folder: Path, name: str, **values: object) -> tuple[np.ndarray, np.ndarray]:
    pairs = load(make(nano, folder, **values))
    at = pairs.names.index(name)
    return pairs.images[at], pairs.masks[at, 0]


@pytest.mark.parametrize("label", [
    *(mask().convert(mode) for mode in ("RGB", "1", "P", "LA", "RGBA")),
    Image.merge("RGB", [mask(), mask(value=0), mask(value=0)]),
    Image.merge("RGBA", [Image.new("L", (24, 20), 255)] * 3 + [mask()]),
    Image.fromarray(np.asarray(mask()).astype(np.uint16) * 257),
], ids=["rgb", "1-bit", "palette", "grey+alpha", "rgba", "red", "mask in alpha", "16-bit"])
def test_masks_of_any_kind_are_the_same_mask(nano, folder, label):
    add(folder, "d", label=label)
    pairs = load(make(nano, folder))
    np.testing.assert_array_equal(pairs.masks[3], pairs.masks[0])


def test_16_bit_grey_image(nano, folder):
    add(folder, "d", Image.fromarray(np.full((20, 24), 128 * 257, np.uint16)))
    assert np.all(loaded(nano, folder, "d")[0] == 128)


def test_float_tiff_image(nano, folder):
    add(folder, "d")
    (folder / "images/d.png").unlink()
    Image.fromarray(np.full((20, 24), 0.5, np.float32)).save(folder / "images/d.tif")
    assert np.all(loaded(nano, folder, "d")[0] == 128)


def test_a_float_tiff_with_holes_is_black_in_them_alone(tmp_path):
    values = np.full((20, 24), 0.5, np.float32)
    values[:10] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    seen = np.asarray(rasters.rgb(tmp_path / "a.tif"))
    assert (seen[:10].max(), seen[10:].min(), seen[10:].max()) == (0, 128, 128)


def test_cmyk_and_palette_and_transparent_images(nano, folder):
    picture().convert("CMYK").save(folder / "images/d.jpg", quality=100)
    picture().convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "images/e.png")
    clear = picture().convert("RGBA")
    clear.putalpha(0)
    clear.save(folder / "images/f.png")
    for name in "def":
        mask().save(folder / f"masks/{name}.png")
    pairs = load(make(nano, folder))
    for at, expected in ((3, RED), (4, RED), (5, (0, 0, 0))):
        assert np.abs(pairs.images[at].reshape(3, -1).T.astype(int) - expected).max() <= 6


def test_exif_rotation_is_applied(nano, folder):
    upright = Image.new("RGB", (24, 20), "black")
    upright.paste("white", (0, 0, 24, 10))  # the upper half
    tag = Image.Exif()
    tag[0x0112] = 6  # stored on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "images/d.jpg", exif=tag, quality=100)
    mask().save(folder / "masks/d.png")
    image, _ = loaded(nano, folder, "d")
    assert image[:, :6].min() > 200
    assert image[:, 10:].max() < 50


def test_tiff_that_pillow_refuses_is_read_by_opencv(nano, folder, capfd):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    # A baseline TIFF whose FillOrder (266) is nonsense.
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 2), (266, 5), (273, 134), (277, 3), (278, 16),
            (279, 768)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + pixels.tobytes()
    path = folder / "images/d.tif"
    path.write_bytes(content)
    with pytest.raises(OSError, match="identify"):
        Image.open(path)
    mask((16, 16)).save(folder / "masks/d.png")
    np.testing.assert_array_equal(loaded(nano, folder, "d")[0], pixels.transpose(2, 0, 1))
    assert "TIFF" not in capfd.readouterr().err


def test_opencv_speaks_again_even_after_it_failed(folder, monkeypatch):
    def failing(*arguments):
        raise cv2.error("out of memory")
    # A header alone, of an image of 16 x 16 pixels.
    tags = struct.pack("<HHIIHHII", 256, 4, 1, 16, 257, 4, 1, 16)
    (folder / "images/a.png").unlink()
    (folder / "images/a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, 2) + tags + b"\0\0\0\0")
    monkeypatch.setattr(cv2, "imdecode", failing)
    before = cv2.utils.logging.getLogLevel()
    assert only(folder) == ("images/a.tif", "unreadable", "out of memory")
    assert cv2.utils.logging.getLogLevel() == before


@pytest.mark.parametrize("harm", [
    lambda told: 5, lambda told: told[:2], lambda told: [*told[:2], 5], lambda told: [*told[:2], "no hash"],
    lambda told: {"sha256": told[2]}])
def test_hashes_that_were_changed_by_hand_are_computed_again(nano, folder, harm):
    p = make(nano, folder)
    first, file = load(p), p.folder / "data" / "source.json"
    told = files.read_json(file)
    files.write_json(file, told | {"images/a.png": harm(told["images/a.png"])})
    assert load(p).digest == first.digest


def test_masks_suffix_extensions_and_natural_order(tmp_path):
    for name in ("10", "9", "2"):
        add(tmp_path, name, suffix="_mask.PNG")
    (tmp_path / "images/2.png").rename(tmp_path / "images/2.JPG.png")
    (tmp_path / "masks/2_mask.PNG").rename(tmp_path / "masks/2.JPG_mask.bmp")
    (tmp_path / "images/notes.txt").write_text("not a picture, so nothing to say about it")
    (tmp_path / "images/._9.png").write_text("what a Mac leaves in archives")
    report = checkup.check(tmp_path)
    assert [pair.name for pair in report.pairs] == ["2.JPG", "9", "10"]
    assert report.problems == []


def test_synthetic_pairs_of_singan_seg(tmp_path):
    add(tmp_path, "chk_id_1_gen_scale_0_0_img")
    masks = tmp_path / "masks"
    (masks / "chk_id_1_gen_scale_0_0_img.png").rename(masks / "chk_id_1_gen_scale_0_0_mask.png")
    assert [pair.name for pair in checkup.check(tmp_path).pairs] == ["chk_id_1_gen_scale_0_0_img"]


@pytest.mark.parametrize("name", ["with space", "ünï-ço∂é 图", "<b>&amp;", "b..c", "a'b\"c;$(x)", "x_mask"])
def test_odd_names_pass_through(nano, folder, name):
    add(folder, name)
    assert name in load(make(nano, folder)).names
    copy = folder.parent / "copy"
    dataset.write_pair(copy, name, np.zeros((3, 16, 16), np.uint8), np.ones((1, 16, 16), np.uint8))
    assert (copy / f"masks/{name}.png").is_file()


# Layouts


@pytest.mark.parametrize(("images", "masks", "layout"), [
    ("images", "masks", "images and masks"),
    ("segmented-images/images", "segmented-images/masks", "HyperKvasir"),
    ("Kvasir-SEG/images", "Kvasir-SEG/masks", "Kvasir-SEG"),
    ("PNG/Original", "PNG/Ground Truth", "CVC-ClinicDB (PNG)"),
    ("TIF/Original", "TIF/Ground Truth", "CVC-ClinicDB (TIF)"),
    ("Original", "Ground Truth", "CVC-ClinicDB"),
    ("one-folder-down/images", "one-folder-down/masks", "images and masks"),
    ("CVC-ClinicDB/Original", "CVC-ClinicDB/Ground Truth", "CVC-ClinicDB"),
])
def test_published_layouts(tmp_path, images, masks, layout):
    add(tmp_path, "1", images=images, masks=masks)
    (tmp_path / "bounding-boxes.json").write_text("{}")
    report = checkup.check(tmp_path)
    assert (report.layout, [pair.name for pair in report.pairs]) == (layout, ["1"])
    assert report.problems == []


def test_polypgen_keeps_names_apart_over_its_centres(tmp_path):
    for centre in (1, 6):
        for name in ("x1", "x2"):
            add(tmp_path, name, images=f"data_C{centre}/images_C{centre}",
                masks=f"data_C{centre}/masks_C{centre}", suffix="_mask.png")
    (tmp_path / "data_C3/images_C3").mkdir(parents=True)
    picture().save(tmp_path / "data_C3/images_C3/x1.jpg")
    report = checkup.check(tmp_path)
    assert report.layout == "PolypGen"
    assert [pair.name for pair in report.pairs] == ["C1_x1", "C1_x2", "C6_x1", "C6_x2"]
    assert [(p.file, p.problem) for p in report.problems] == [("data_C3/images_C3/x1.jpg", "missing mask")]
    assert [pair.name for pair in checkup.check(tmp_path / "data_C6").pairs] == ["C6_x1", "C6_x2"]


def test_an_unknown_layout_says_what_is_there(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"holds no pictures that can be read\."):
        checkup.check(tmp_path)
    picture().save(tmp_path / "images/a.png")
    with pytest.raises(UserError, match=r'page "Data of.*; seen: images/ \(1 picture, such as a\.png\)\.'):
        checkup.check(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        checkup.check(tmp_path / "absent")


# Loading


def test_refuse_shows_the_table_and_skip_records_what_it_left_out(nano, folder):
    (folder / "images/b.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"images/b\.png +unreadable"):
        load(make(nano, folder))
    p = make(nano, folder, on_bad="skip")
    assert load(p).names == ["a", "c"]
    assert [(row["file"], row["problem"]) for row in rows(p.folder / "data/left_out.csv")] == [
        ("images/b.png", "unreadable")]


def test_a_long_table_is_cut_in_the_error_and_whole_in_the_report(nano, folder):
    for number in range(50):
        mask().save(folder / f"masks/extra{number}.png")
    with pytest.raises(UserError, match="and 10 more"):
        load(make(nano, folder))
    assert "extra49" in checkup.check(folder).text


def test_skip_still_needs_a_pair_for_each_cluster(nano, folder):
    (folder / "images/b.png").write_bytes(b"x")
    (folder / "images/a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 pairs are too few for cluster\.k 2"):
        load(make(nano, folder, on_bad="skip"))
    (folder / "images/c.png").write_bytes(b"x")
    with pytest.raises(UserError, match="No pair is left"):
        load(make(nano, folder, on_bad="skip"))


def test_a_finished_look_reads_and_a_changed_folder_is_read_anew(nano, folder, monkeypatch):
    p = make(nano, folder)
    first = load(p)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read", lambda *_: pytest.fail("the folder was read again"))
        again = load(p)
    assert (again.names, again.digest) == (first.names, first.digest)
    np.testing.assert_array_equal(again.images, first.images)
    add(folder, "b", picture(colour=(10, 200, 30)))
    changed = load(p)
    assert changed.digest != first.digest
    assert changed.images[1, 1].min() > 190
    assert load(make(nano, folder, image_size=8)).images.shape == (3, 3, 8, 8)
    assert load(p).digest == changed.digest
    add(folder, "b")
    assert load(p).digest == first.digest  # taken back
    assert len(list((p.folder / ASIDE / "data").iterdir())) == 2


def test_the_pairs_are_read_once_a_process_and_the_source_is_hashed_only_where_it_changed(
        nano, folder, monkeypatch):
    p = make(nano, folder)
    hashed, real = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or real(path))
    first = load(p)
    assert len([path for path in hashed if path.is_relative_to(folder)]) == 6
    hashed.clear()
    assert load(p) is load(p, writable=False) is first
    assert hashed == []
    os.utime(folder / "masks/c.png", (1, 1))
    assert load(p) is load(p) is first
    assert hashed == [folder / "masks/c.png"]
    assert dataset.read(first.stored) is first


def test_pairs_of_the_run_that_were_changed_by_hand_are_refused_and_made_again_on_request(nano, folder):
    p = make(nano, folder)
    first = load(p)
    (p.folder / "data/pairs.npz").write_bytes(b"half")
    with pytest.raises(UserError, match=r"changed by hand: pairs\.npz is not .*--remake data"):
        load(p)
    assert load(p, again=True).digest == first.digest
    assert [path.read_bytes() for path in (p.folder / ASIDE).rglob("pairs.npz")] == [b"half"]


def test_a_source_that_is_not_there_stands_for_what_was_read_from_it_and_for_nothing_else(
        nano, folder, tmp_path):
    p = make(nano, folder)
    first = load(p)
    typo = make(nano, tmp_path / "typo")
    with pytest.raises(UserError, match="typo"):
        load(typo)
    with pytest.raises(UserError, match="typo"):
        load(typo, writable=False)
    assert len(list(dataset.check(typo))) == 1
    folder.rename(tmp_path / "elsewhere")
    assert load(p) is load(p, writable=False) is first
    assert list(dataset.check(p)) == []
    assert len(list(dataset.check(typo))) == 1


def test_what_is_not_made_is_not_read(nano, folder, nano_params):
    for p in (make(nano, folder), nano_params):
        with pytest.raises(NotMadeError, match=r"run\.make\('data'\)"):
            load(p, writable=False)
        assert not p.folder.exists()


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_a_file_that_cannot_be_read_is_no_change_of_the_data(nano, folder, monkeypatch, on_bad: str):
    p = make(nano, folder, on_bad=on_bad)
    load(p)
    before = listing(p.folder)
    os.utime(folder / "masks/c.png", (1, 1))  # so that it is looked at
    real = Path.open

    def failing(path: Path, *arguments, **options):
        if path == folder / "masks/c.png":
            raise OSError(5, "Input/output error")
        return real(path, *arguments, **options)
    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match=r"masks/c\.png cannot be read: Input/output error\."):
        load(p)
    assert listing(p.folder) == before


def test_a_run_whose_source_is_not_there_has_its_pairs_and_makes_no_others(nano, folder):
    p = make(nano, folder)
    first = load(p)
    folder.rename(folder.with_name("moved"))
    assert load(p) is first
    with pytest.raises(UserError, match=f"data.source {folder} is not there"):
        load(make(nano, folder, image_size=8))
    assert load(p) is first


def test_pairs_in_memory_are_kept_where_another_process_reads_them(nano_params, tmp_path):
    pairs = dataset.gather(["x"], np.zeros((1, 3, 4, 4), np.uint8), np.ones((1, 1, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="only in memory"):
        _ = pairs.stored
    ws = Workspace(tmp_path / "run")
    kept = dataset.keep(ws, "tests/X", pairs)
    assert kept.stored == tmp_path / "run/tests/X/pairs.npz"
    assert kept.digest == pairs.digest
    before = listing(ws.folder)
    assert dataset.keep(ws.read_only, "tests/X", pairs) is kept
    assert listing(ws.folder) == before
    with pytest.raises(NotMadeError):
        dataset.keep(ws.read_only, "tests/Y", pairs)


def test_the_input_folder_is_never_written_to(nano, folder):
    (folder / "images/b.png").write_bytes(b"x")
    before = listing(folder)
    checkup.check(folder)
    load(make(nano, folder, on_bad="skip"))
    assert listing(folder) == before


def test_count_takes_the_first_usable_pairs(nano, folder):
    (folder / "images/a.png").write_bytes(b"x")
    assert load(make(nano, folder, count=2, on_bad="skip")).names == ["b", "c"]
    assert load(make(nano, folder, count=9, on_bad="skip")).names == ["b", "c"]


def test_subsets_by_the_papers_names(nano, folder):
    names = dataset.paper_names()
    assert len(set(names)) == 348
    with pytest.raises(UserError, match="0 of the 348"):
        load(make(nano, folder, subset="paper348"))
    add(folder, names[5])
    add(folder, names[3])
    with pytest.raises(UserError, match=f"2 of the 348 .*{names[0]}"):
        load(make(nano, folder, subset="paper348"))
    p = make(nano, folder, subset="paper348", on_bad="skip")
    assert sorted(load(p).names) == sorted([names[3], names[5]])
    assert rows(p.folder / "data/left_out.csv")[0]["detail"].startswith("2 of the 348")
    assert load(make(nano, folder, subset="not348")).names == ["a", "b", "c"]


def test_resizing_keeps_areas_and_no_polyp_vanishes(nano, folder):
    add(folder, "d", picture((256, 128)), mask((256, 128), (64, 32, 192, 96)))
    add(folder, "e", picture((256, 128)), mask((256, 128), (20, 20, 23, 23)))
    assert loaded(nano, folder, "d")[1].mean() == pytest.approx(0.25, abs=0.02)
    assert loaded(nano, folder, "e")[1].sum() >= 1


def test_a_polyp_of_one_pixel_stays_one_pixel_at_its_place():
    label = np.asarray(mask((1000, 1000), (400, 700, 401, 701)))[..., None] // 255
    _, small = fits.fitted(np.asarray(picture((1000, 1000))), label, 32, "squeeze")
    assert np.argwhere(small[0]).tolist() == [[700 * 32 // 1000, 400 * 32 // 1000]]


def test_phantoms_load_and_stay(nano_params):
    pairs = load(nano_params)
    assert pairs.images.shape == (10, 3, 16, 16)
    assert pairs.images.dtype == np.uint8
    assert set(np.unique(pairs.masks)) == {0, 1}
    assert len(set(pairs.names)) == len(pairs) == 10
    assert load(nano_params).digest == pairs.digest
    stamp = json.loads((nano_params.folder / "data/made.json").read_text())
    assert (stamp["recipe"]["source"], stamp["recipe"]["seed"], stamp["pairs"]) == ("phantom", 0, 10)
    assert load(nano_params.model_copy(update={"seed": 1})).digest != pairs.digest


def test_take_and_digest(nano_params):
    pairs = load(nano_params)
    some = pairs.take([4, 1])
    assert some.names == [pairs.names[4], pairs.names[1]]
    np.testing.assert_array_equal(some.masks[1], pairs.masks[1])
    assert len({pairs.digest, some.digest, pairs.take([1, 4]).digest}) == 3
    assert pairs.take(np.arange(10)).digest == pairs.digest


def test_to_tensor_is_in_the_models_range():
    masks = np.array([[[[0, 1], [1, 0]]]], np.uint8)
    pairs = dataset.gather(["x"], np.full((1, 3, 2, 2), 255, np.uint8), masks)
    x = dataset.to_tensor(pairs)
    assert x.dtype.is_floating_point
    assert x.shape == (1, 4, 2, 2)
    assert x[0, :3].unique().tolist() == [1.0]
    assert x[0, 3].tolist() == [[-1.0, 1.0], [1.0, -1.0]]
    black = dataset.gather(["x"], np.zeros((1, 3, 2, 2), np.uint8), pairs.masks)
    assert dataset.to_tensor(black)[0, :3].unique().tolist() == [-1.0]


def test_written_pairs_are_read_back_exactly(nano, nano_params):
    pairs = load(nano_params)
    copy = nano_params.folder.parent / "copy"
    for name, image, label in zip(pairs.names, pairs.images, pairs.masks, strict=True):
        dataset.write_pair(copy, name, image, label)
    assert sorted(path.name for path in copy.iterdir()) == ["images", "masks"]
    assert load(make(nano, copy)).digest == pairs.digest
    with pytest.raises(ValueError, match="plain file name"):
        dataset.write_pair(copy, "../x", pairs.images[0], pairs.masks[0])


def test_phantom_folders(tmp_path):
    dataset.write_phantoms(tmp_path / "p", 3, 16, 0)
    assert len(checkup.check(tmp_path / "p", clusters=3).pairs) == 3
    for place in (tmp_path / "p", next((tmp_path / "p/masks").iterdir())):
        with pytest.raises(UserError, match=r"nothing in it is replaced\. Name a new or empty folder"):
            dataset.write_phantoms(place, 3, 16, 0)


# The real sets


def test_the_papers_348_in_kvasir(shared, nano):
    p = make(nano, shared / "data/kvasir-seg", subset="paper348")
    pairs = load(p)
    assert sorted(pairs.names) == sorted(dataset.paper_names())
    assert rows(p.folder / "data/left_out.csv") == []  # none of the 1000 pairs has a problem
    assert 0.1 < pairs.masks.mean() < 0.25
    assert pairs.masks.reshape(348, -1).max(axis=1).min() == 1


@pytest.mark.slow
def test_cvc_clinicdb_is_sound_and_in_the_order_of_its_frames(shared):
    report = checkup.check(shared / "data/cvc-clinicdb", clusters=40)
    assert [pair.name for pair in report.pairs] == [str(number) for number in range(1, 301)]
    assert report.problems == []


# ---- what decides classes is known to the artifact

def classes_of(tmp_path: Path) -> Path:
    """A folder of masks of 1 and 2."""
    label = np.zeros((20, 24), np.uint8)
    label[4:14, 4:10], label[4:14, 10:20] = 1, 2
    for name in ("a", "b", "c"):
        add(tmp_path / "set", name, label=Image.fromarray(label))
    return tmp_path / "set"


def test_classes_in_another_order_are_other_masks(nano, tmp_path):
    source = classes_of(tmp_path)
    first, last = ({1: "liver", 2: "tumour"}, {2: "tumour", 1: "liver"})
    one = make(nano, source, labels=first)
    ownparams.keep(one)
    masks = load(one).masks
    other = make(nano, source, labels=last)
    assert ownparams.keep(other), "the parameters that were there are set aside"
    assert list(ownparams.load(other.folder)["data"]["labels"]) == ["2", "1"]
    assert np.array_equal(load(other).masks, masks[:, ::-1])
    assert np.array_equal(load(one).masks, masks)
    # The order of a single class' values decides nothing.
    single = make(nano, source, labels={1: "organ", 2: "organ"})
    load(single)
    again = make(nano, source, labels={2: "organ", 1: "organ"})
    assert load(again, writable=False).planes.classes == 1


def test_nnunets_own_file_decides_and_is_read_again(nano, tmp_path):
    source = tmp_path / "set"
    label = np.zeros((20, 24), np.uint8)
    label[4:14, 4:10], label[4:14, 10:20] = 1, 2
    for name in ("a", "b", "c"):
        add(source, name, label=Image.fromarray(label), images="imagesTr", masks="labelsTr")
        (source / f"imagesTr/{name}.png").rename(source / f"imagesTr/{name}_0000.png")
    told = source / "dataset.json"
    told.write_text(json.dumps({"labels": {"background": 0, "liver": 1, "tumour": 2}}))
    asked = make(nano, source, labels={"liver": "liver", "tumour": "tumour"})
    before = load(asked).masks
    told.write_text(json.dumps({"labels": {"background": 0, "liver": 2, "tumour": 1}}))
    assert np.array_equal(load(asked).masks, before[:, ::-1])


def test_problems_come_in_the_order_of_the_files(tmp_path):
    # A set of names would come in another order in each process.
    add(tmp_path, "a")
    for number in range(40):
        add(tmp_path, f"x{number}")
        (tmp_path / f"images/x{number}.png").unlink()
    report = layouts.scan(tmp_path, Data(images="images/*", masks="masks/*"))
    assert [one.file for one in report.problems] == [
        path.relative_to(tmp_path).as_posix() for path in sorted((tmp_path / "masks").iterdir())[1:]]
