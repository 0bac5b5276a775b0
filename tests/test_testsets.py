"""Test sets: what is drawn, from where, what is absent and why, and no training image among them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, phantom, testsets
from diffusegen_core.data.testsets import CVC, HELD_OUT, KVASIR, PHANTOM, POLYPGEN
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.workspace import Workspace


def make(nano: dict, segment: dict | None = None, **values: object) -> params.Params:
    return params.validate({**nano, "data": {**nano["data"], **values},
                            "segment": {"test_count": 4, "decoder_channels": [8, 8, 8], **(segment or {})}})


def workspace(p: Params, writable: bool = True) -> Workspace:
    return Workspace(p.folder, p.seed, p.device, writable)


def load(p: Params) -> dict[str, testsets.TestSet]:
    ws = workspace(p)
    return testsets.load(ws, dataset.load(ws, p.data), p.data, p.segment)


def refuse_leaks(p: Params, tests: dict[str, testsets.TestSet]) -> None:
    testsets.refuse_leaks(dataset.load(workspace(p), p.data), p.data, tests)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset.write_phantoms(tmp_path / "set", 7, 16, seed=5)
    return tmp_path / "set"


def test_fresh_phantoms_follow_those_of_the_data(nano):
    p = make(nano)
    tests = load(p)
    assert list(tests) == [PHANTOM, CVC, POLYPGEN]
    fresh = tests[PHANTOM].pairs
    assert fresh.names == [f"phantom_{i:05d}" for i in range(10, 14)]
    image, mask, _ = phantom.draw(p.seed, 11, 16)
    assert np.array_equal(fresh.images[1], image)
    assert np.array_equal(fresh.masks[1], mask)
    assert tests[PHANTOM].note == "4 fresh ones"
    refuse_leaks(p, tests)


def test_absent_sets_say_which_parameter_would_give_them(nano):
    tests = load(make(nano, {"held_out": None}))
    assert {name: (test.pairs, test.note) for name, test in tests.items()} == {
        PHANTOM: (None, "not given: segment.held_out"), CVC: (None, "not given: segment.cvc"),
        POLYPGEN: (None, "not given: segment.polypgen")}


def test_a_folder_is_drawn_from_resized_and_cached(nano, folder):
    p = make(nano, {"cvc": str(folder)}, image_size=32)
    test = load(p)[CVC]
    assert test.note == "4 of 7"
    assert test.pairs.images.shape == (4, 3, 32, 32)
    assert test.pairs.names == sorted(test.pairs.names)
    cached = p.folder / "tests" / CVC / "pairs.npz"
    written = cached.stat().st_mtime_ns
    assert load(p)[CVC].pairs.digest == test.pairs.digest
    assert cached.stat().st_mtime_ns == written
    (folder / "images" / "phantom_00000.png").write_bytes((folder / "images/phantom_00001.png").read_bytes())
    load(p)
    assert cached.stat().st_mtime_ns != written


def test_what_was_drawn_can_be_read_from_its_file(nano, folder):
    p = make(nano, {"cvc": str(folder), "test_count": 3})
    for name, test in load(p).items():
        if test.pairs is not None:
            assert dataset.read(test.pairs.stored).digest == test.pairs.digest
            assert test.pairs.stored == p.folder / "tests" / f"{name}-drawn" / "pairs.npz"


def test_other_test_images_set_the_first_aside_and_come_back(nano, folder):
    p = make(nano, {"cvc": str(folder)})
    first, file = load(p)[CVC].pairs, p.folder / "tests" / f"{CVC}-drawn" / "pairs.npz"
    content = file.read_bytes()
    load(make(nano, {"cvc": str(folder), "test_count": 2}))
    assert [path.read_bytes() for path in (p.folder / "aside").rglob(f"{CVC}-drawn/*/pairs.npz")] == [content]
    assert load(p)[CVC].pairs.digest == first.digest
    assert file.read_bytes() == content


def test_a_read_only_workspace_reads_what_there_is_and_makes_nothing(nano, folder):
    p = make(nano, {"cvc": str(folder)})
    pairs = dataset.load(workspace(p), p.data)
    with pytest.raises(NotMadeError):
        testsets.load(workspace(p, writable=False), pairs, p.data, p.segment)
    assert not (p.folder / "tests").exists()
    made = load(p)
    read = testsets.load(workspace(p, writable=False), pairs, p.data, p.segment)
    assert read[CVC].pairs.digest == made[CVC].pairs.digest


@pytest.mark.parametrize(("key", "name"), [("cvc", CVC), ("polypgen", POLYPGEN), ("held_out", HELD_OUT)])
def test_a_folder_that_is_not_there_stands_for_what_was_read_from_it_and_for_nothing_else(
        nano, folder, tmp_path, key: str, name: str):
    p, typo = make(nano, {key: str(folder)}), make(nano, {key: str(tmp_path / "typo")})
    first = load(p)[name].pairs
    folder.rename(tmp_path / "gone")
    pairs = dataset.load(workspace(p), p.data)
    assert list(testsets.check(p)) == []
    for writable in (True, False):
        read = testsets.load(workspace(p, writable), pairs, p.data, p.segment)
        assert read[name].pairs.digest == first.digest
        with pytest.raises(UserError, match=rf"segment\.{key}: .*typo is not a folder"):
            testsets.load(workspace(p, writable), pairs, typo.data, typo.segment)
    [line] = testsets.check(typo)
    assert line.startswith(f"Parameters: segment.{key}: {tmp_path / 'typo'} is not a folder")
    # Nor for what another test set was read from.
    other = "polypgen" if key == "cvc" else "cvc"
    swapped = make(nano, {other: str(folder)})
    assert len(list(testsets.check(swapped))) == 1
    with pytest.raises(UserError, match=rf"segment\.{other}: .* is not a folder"):
        testsets.load(workspace(p), pairs, swapped.data, swapped.segment)


def test_the_draw_depends_on_the_seed_and_takes_all_of_a_small_set(nano, folder):
    drawn = {seed: load(make({**nano, "seed": seed}, {"cvc": str(folder)}))[CVC].pairs.names
             for seed in range(4)}
    assert len({tuple(names) for names in drawn.values()}) > 1
    everything = load(make(nano, {"cvc": str(folder), "test_count": 50}))[CVC]
    assert everything.note == "7 of 7"
    assert everything.pairs.names == [f"phantom_{i:05d}" for i in range(7)]


def test_the_rest_of_a_users_folder(nano, folder):
    p = make({**nano, "cluster": {"k": 2, "scan": [2]}}, {"test_count": 3}, source=str(folder), count=3)
    test = load(p)[HELD_OUT]
    assert test.note == "3 of 4"
    assert set(test.pairs.names) < {f"phantom_{i:05d}" for i in range(3, 7)}
    refuse_leaks(p, {HELD_OUT: test})
    none = load(make(nano, source=str(folder), count=None))[HELD_OUT]
    assert none.pairs is None
    assert none.note == "data.source has no pairs beside those that are trained on"


def test_held_out_frames_are_grouped_by_the_layout_of_the_folder_that_they_come_from(nano, tmp_path):
    for frame in (1, 2, 3, 26, 27, 51):  # of three sequences
        image, mask, _ = phantom.draw(frame, 0, 16)
        dataset.write_pair(tmp_path / "made", f"{frame}", image, mask)
    (tmp_path / "cvc").mkdir()
    (tmp_path / "made" / "images").rename(tmp_path / "cvc" / "Original")
    (tmp_path / "made" / "masks").rename(tmp_path / "cvc" / "Ground Truth")
    test = load(make(nano, {"test_count": 9}, source=str(tmp_path / "cvc"), count=2))[HELD_OUT]
    assert test.groups is not None
    assert test.groups.of == {"26": "02", "27": "02", "51": "03"}, "frame 3's is trained on"


def test_bad_pairs_are_treated_as_those_of_the_data(nano, folder):
    (folder / "images" / "phantom_00002.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"segment\.polypgen: [\s\S]*phantom_00002\.png"):
        load(make(nano, {"polypgen": str(folder)}))
    assert load(make(nano, {"polypgen": str(folder)}, on_bad="skip"))[POLYPGEN].note == "4 of 6"
    with pytest.raises(UserError, match=r"segment\.cvc: .*absent"):
        load(make(nano, {"cvc": str(folder / "absent")}))


@pytest.mark.parametrize("key", ["held_out", "cvc", "polypgen"])
def test_a_folder_that_is_gone_stands_for_what_was_read_from_it_before_a_run_too(nano, folder, key):
    p, typo = make(nano, {key: str(folder)}), make(nano, {key: str(folder.with_name("typo"))})
    before = {name: test.pairs.digest for name, test in load(p).items() if test.pairs}
    folder.rename(folder.with_name("gone"))
    assert list(testsets.check(p)) == []
    assert {name: test.pairs.digest for name, test in load(p).items() if test.pairs} == before
    told, = testsets.check(typo)
    assert f"segment.{key}" in told


def test_training_images_among_the_tests_are_refused(nano, folder):
    p = make({**nano, "seed": 5}, {"cvc": str(folder), "test_count": 7})  # the seed of the folder
    with pytest.raises(UserError, match=r"7 of the 7 .* CVC-ClinicDB .* phantom_00000 \(the pixels of "):
        refuse_leaks(p, load(p))
    other = make(nano, {"cvc": str(folder), "test_count": 7})  # same names, other pixels, another source
    refuse_leaks(other, load(other))


def test_names_count_within_one_source(nano, folder):
    p = make(nano, {"held_out": str(folder), "test_count": 7}, source=str(folder), count=2)
    test = load(p)[HELD_OUT]
    assert test.same_source
    with pytest.raises(UserError, match=r"2 of the 7"):
        refuse_leaks(p, {HELD_OUT: test})
    names = ["phantom_00001", "phantom_00006"]
    pairs = dataset.gather(names, np.zeros((2, 3, 16, 16)), np.ones((2, 1, 16, 16)))
    with pytest.raises(UserError, match=r"1 of the 2 .*: phantom_00001 \(by name\)\."):
        refuse_leaks(p, {HELD_OUT: replace(test, pairs=pairs)})
    refuse_leaks(p, {HELD_OUT: replace(test, pairs=pairs, same_source=False)})


def darker(image: Image.Image) -> Image.Image:
    return image.point(lambda level: round(0.9 * level))


def lighter(image: Image.Image) -> Image.Image:
    return image.point(lambda level: min(255, round(1.1 * level)))


def write(folder: Path, names: list[str], seed: int, change=Image.Image.copy, suffix: str = ".png") -> Path:
    """Phantoms of a seed under other names, at 40 px, changed as pictures and encoded by the suffix."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index, name in enumerate(names):
        image, mask, _ = phantom.draw(seed, index, 40)
        picture = change(Image.fromarray(image.transpose(1, 2, 0)))
        picture.save(folder / "images" / f"{name}{suffix}", quality=75)
        Image.fromarray(mask[0] * 255).resize(picture.size, 0).save(folder / "masks" / f"{name}.png")
    return folder


@pytest.mark.parametrize(("change", "suffix", "how"), [
    (Image.Image.copy, ".jpg", "a copy of"),
    (lighter, ".jpg", "a copy of"),
    (darker, ".png", "a copy of"),
    (lambda image: image.resize((52, 44)), ".jpg", "a copy of"),
    (ImageOps.mirror, ".jpg", "a mirrored copy of"),
])
@pytest.mark.parametrize("key", ["held_out", "cvc"])
def test_copies_of_training_images_are_refused(nano, tmp_path, key, change, suffix, how):
    source = write(tmp_path / "source", ["a", "b", "c"], 5)
    copy = write(tmp_path / "copy", ["x", "y", "z"], 5, change, suffix)
    # Squeezed, as a copy of another shape shows the same only then.
    p = make(nano, {key: str(copy)}, source=str(source), fit="squeeze")
    with pytest.raises(UserError, match=rf"3 of the 3 .* training images: x \({how} a\), y \({how} b\), z "):
        refuse_leaks(p, load(p))
    other = write(tmp_path / "other", ["a", "b", "c"], 6, change, suffix)
    p = make(nano, {key: str(other)}, source=str(source))
    refuse_leaks(p, load(p))


def test_flat_images_are_copies_only_if_they_are_equal():
    levels = np.array([0, 90, 200], np.uint8)[:, None, None, None]
    flat = dataset.gather(["black", "grey", "white"], np.broadcast_to(levels, (3, 3, 20, 20)),
                       np.ones((3, 1, 20, 20)))
    noise = np.random.default_rng(0).integers(0, 2, flat.images.shape, np.uint8)
    nearly = dataset.gather(flat.names, flat.images + noise, flat.masks)
    assert testsets.copies(flat, nearly) == {}
    assert testsets.copies(flat.take([1]), flat) == {"grey": "the pixels of grey"}


def test_the_rest_of_a_folder_leaves_out_what_shows_the_same_as_a_training_image(nano, tmp_path):
    source = write(tmp_path / "source", ["a", "b", "c", "d"], 5)
    more = write(tmp_path / "more", ["x", "y"], 5, darker)
    for kind in ("images", "masks"):
        for file in (more / kind).iterdir():
            file.rename(source / kind / file.name)
    p = make(nano, source=str(source), count=2)
    tests = load(p)
    assert tests[HELD_OUT].pairs.names == ["c", "d"]
    assert tests[HELD_OUT].note == "2 of 2; 2 copies left out"
    refuse_leaks(p, tests)
    p = make(nano, source=str(source), count=4)
    assert load(p)[HELD_OUT].pairs is None


def wide(folder: Path, names: list[str], seed: int) -> Path:
    """Pairs of 96 x 288 pixels of little contrast, as of ultrasound, all of about the same grey."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    mask = np.zeros((96, 288), np.uint8)
    mask[30:60, 100:150] = 255
    for number, name in enumerate(names):
        cloud = cv2.GaussianBlur(np.random.default_rng([seed, number]).standard_normal((96, 288)), (0, 0), 12)
        Image.fromarray(np.round(150 + 6 * cloud / cloud.std()).astype(np.uint8)).save(
            folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return folder


def test_black_bars_make_no_copies(nano, tmp_path):
    source = wide(tmp_path / "source", [f"a{number}" for number in range(8)], 1)
    other = wide(tmp_path / "other", [f"b{number}" for number in range(8)], 2)
    p = make(nano, {"cvc": str(other), "test_count": 5}, source=str(source), fit="pad", count=4,
             image_size=64)
    tests = load(p)
    refuse_leaks(p, tests)
    assert tests[HELD_OUT].note == "4 of 4"
    # Copies are told all the same: as they are, and of what was drawn and stored anew.
    again = wide(tmp_path / "again", ["x", "y"], 1)
    for file in (again / "images").iterdir():
        Image.open(file).point(lambda level: round(0.9 * level)).save(file)
    p = make(nano, {"cvc": str(again)}, source=str(source), fit="pad", count=4,
             image_size=64)
    with pytest.raises(UserError, match=r"2 of the 2 .*: x \(a copy of a0\), y \(a copy of a1\)"):
        refuse_leaks(p, load(p))


def test_one_folder_as_two_test_sets_is_refused(nano, tmp_path):
    folder = write(tmp_path / "set", ["a", "b", "c"], 5)
    with pytest.raises(UserError, match=r"segment\.polypgen: .* is segment\.cvc as well"):
        load(make(nano, {"cvc": str(folder), "polypgen": str(folder / "." / "")}))
    again = write(tmp_path / "again", ["x", "y"], 5, suffix=".jpg")
    p = make(nano, {"cvc": str(folder), "polypgen": str(again)})
    with pytest.raises(UserError, match=r"2 of the 2 .* PolypGen are in .* CVC-ClinicDB as well: x \("):
        refuse_leaks(p, load(p))


def test_names_that_hyperkvasir_alone_has_count_everywhere(nano, tmp_path):
    """Of the paper's 348 every one counts, since other runs' networks saw it; names like 001 never do."""
    paper = dataset.paper_names()
    source = write(tmp_path / "source", [*paper[:3], "001", "002"], 5)
    held_out = write(tmp_path / "held_out", [*paper[2:4], "001", "ck2zzzzzzzzzzzzzzzzzzzzzz"], 6)
    p = make(nano, {"held_out": str(held_out)}, source=str(source))
    with pytest.raises(UserError, match=rf"1 of the 4 .*: {paper[2]} \(by name\)\."):
        refuse_leaks(p, load(p))
    p = make(nano, {"held_out": str(held_out)}, source=str(source), subset="paper348", on_bad="skip")
    with pytest.raises(UserError, match=rf"2 of the 4 .*: {paper[2]} \(by name\), {paper[3]} \(by name\)\."):
        refuse_leaks(p, load(p))
    p = make(nano, {"held_out": str(held_out)}, source=str(source), subset="not348")
    refuse_leaks(p, load(p))


def test_the_rest_of_the_papers_pairs_are_none_of_its_348(nano, shared, tmp_path):
    some = tmp_path / "some"  # 6 of the paper's pairs and 9 others, and 8 of CVC-ClinicDB
    manifest = pd.read_csv(shared / "data" / "kvasir-seg" / "manifest.csv")
    paper, others = (manifest.loc[manifest["in_paper_348"] == listed, "name"] for listed in (1, 0))
    assert (len(paper), len(others)) == (348, 652)
    for kind in ("images", "masks"):
        for name, stems in (("kvasir-seg", [*paper[:6], *others[:9]]), ("cvc-clinicdb", range(1, 9))):
            (some / name / kind).mkdir(parents=True)
            for stem in stems:
                file = next((shared / "data" / name / kind).glob(f"{stem}.*"))
                (some / name / kind / file.name).symlink_to(file)
    p = make(nano, {"test_count": 5, "cvc": str(some / "cvc-clinicdb")}, source=str(some / "kvasir-seg"),
             subset="paper348", count=4, on_bad="skip")
    tests = load(p)
    assert list(tests) == [KVASIR, CVC, POLYPGEN]
    assert [test.note for test in tests.values()] == ["5 of 9", "5 of 8", "not given: segment.polypgen"]
    assert set(tests[KVASIR].pairs.names) < set(others)
    refuse_leaks(p, tests)
