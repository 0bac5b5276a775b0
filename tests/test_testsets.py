"""Test sets: what is drawn, from where, what is absent and why, and no training image among them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusegen_core import data, params, phantom, testsets
from diffusegen_core.errors import UserError
from diffusegen_core.testsets import CVC, HELD_OUT, KVASIR, PHANTOM, POLYPGEN


def make(nano: dict, segment: dict | None = None, **values: object) -> params.Params:
    return params.validate({**nano, "data": {**nano["data"], **values},
                            "segment": {"test_count": 4, "decoder_channels": [8, 8, 8], **(segment or {})}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data.write_phantoms(tmp_path / "set", 7, 16, seed=5)
    return tmp_path / "set"


def test_fresh_phantoms_follow_those_of_the_data(nano):
    p = make(nano)
    tests = testsets.load(p)
    assert list(tests) == [PHANTOM, CVC, POLYPGEN]
    fresh = tests[PHANTOM].pairs
    assert fresh.names == [f"phantom_{i:05d}" for i in range(10, 14)]
    image, mask, _ = phantom.draw(p.seed, 11, 16)
    assert np.array_equal(fresh.images[1], image)
    assert np.array_equal(fresh.masks[1], mask)
    assert tests[PHANTOM].note == "4 fresh ones"
    testsets.refuse_leaks(tests, data.load(p))


def test_absent_sets_say_which_parameter_would_give_them(nano):
    tests = testsets.load(make(nano, {"held_out": None}))
    assert {name: (test.pairs, test.note) for name, test in tests.items()} == {
        PHANTOM: (None, "not given: segment.held_out"), CVC: (None, "not given: segment.cvc"),
        POLYPGEN: (None, "not given: segment.polypgen")}


def test_a_folder_is_drawn_from_resized_and_cached(nano, folder):
    p = make(nano, {"cvc": str(folder)}, image_size=32)
    test = testsets.load(p)[CVC]
    assert test.note == "4 of 7"
    assert test.pairs.images.shape == (4, 3, 32, 32)
    assert test.pairs.names == sorted(test.pairs.names)
    cached = p.folder / "tests" / CVC / "data" / "pairs.npz"
    written = cached.stat().st_mtime_ns
    assert testsets.load(p)[CVC].pairs.digest == test.pairs.digest
    assert cached.stat().st_mtime_ns == written
    (folder / "images" / "phantom_00000.png").write_bytes((folder / "images/phantom_00001.png").read_bytes())
    testsets.load(p)
    assert cached.stat().st_mtime_ns != written


def test_the_draw_hangs_on_the_seed_and_takes_all_of_a_small_set(nano, folder):
    drawn = {seed: testsets.load(make({**nano, "seed": seed}, {"cvc": str(folder)}))[CVC].pairs.names
             for seed in range(4)}
    assert len({tuple(names) for names in drawn.values()}) > 1
    everything = testsets.load(make(nano, {"cvc": str(folder), "test_count": 50}))[CVC]
    assert everything.note == "7 of 7"
    assert everything.pairs.names == [f"phantom_{i:05d}" for i in range(7)]


def test_the_rest_of_a_users_folder(nano, folder):
    p = make({**nano, "cluster": {"k": 2, "scan": [2]}}, {"test_count": 3}, source=str(folder), count=3)
    test = testsets.load(p)[HELD_OUT]
    assert test.note == "3 of 4"
    assert set(test.pairs.names) < {f"phantom_{i:05d}" for i in range(3, 7)}
    testsets.refuse_leaks({HELD_OUT: test}, data.load(p))
    none = testsets.load(make(nano, source=str(folder), count=None))[HELD_OUT]
    assert none.pairs is None
    assert none.note == "data.source has no pairs beside those that are trained on"


def test_bad_pairs_are_treated_as_those_of_the_data(nano, folder):
    (folder / "images" / "phantom_00002.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"segment\.polypgen: [\s\S]*phantom_00002\.png"):
        testsets.load(make(nano, {"polypgen": str(folder)}))
    assert testsets.load(make(nano, {"polypgen": str(folder)}, on_bad="skip"))[POLYPGEN].note == "4 of 6"
    with pytest.raises(UserError, match=r"segment\.cvc: .*absent"):
        testsets.load(make(nano, {"cvc": str(folder / "absent")}))


def test_training_images_among_the_tests_are_refused(nano, folder):
    p = make({**nano, "seed": 5}, {"cvc": str(folder), "test_count": 7})  # the seed of the folder
    with pytest.raises(UserError, match=r"7 of the 7 .* CVC-ClinicDB .* phantom_00000 \(the pixels of "):
        testsets.refuse_leaks(testsets.load(p), data.load(p))
    other = make(nano, {"cvc": str(folder), "test_count": 7})  # same names, other pixels, another source
    testsets.refuse_leaks(testsets.load(other), data.load(other))


def test_names_count_within_one_source(nano, folder):
    p = make(nano, {"held_out": str(folder), "test_count": 7}, source=str(folder), count=2)
    test = testsets.load(p)[HELD_OUT]
    assert test.same_source
    other = data.gather(["phantom_00006"], np.zeros((1, 3, 16, 16)), np.ones((1, 1, 16, 16)))
    with pytest.raises(UserError, match=r"phantom_00006 \(by name\)"):
        testsets.refuse_leaks({HELD_OUT: test}, other)
    with pytest.raises(UserError, match=r"2 of the 7"):
        testsets.refuse_leaks({HELD_OUT: test}, data.load(p))


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
    tests = testsets.load(p)
    assert list(tests) == [KVASIR, CVC, POLYPGEN]
    assert [test.note for test in tests.values()] == ["5 of 9", "5 of 8", "not given: segment.polypgen"]
    assert set(tests[KVASIR].pairs.names) < set(others)
    testsets.refuse_leaks(tests, data.load(p))
