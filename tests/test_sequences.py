"""Sequences and centres of test images, by their names."""

from pathlib import Path

import numpy as np
import pytest

from diffusegen_core.data import dataset, related, sequences
from diffusegen_core.store import files


def test_the_frames_of_cvc_lie_in_29_sequences():
    names = [str(frame) for frame in range(1, 613)]
    found = sequences.grouped("CVC-ClinicDB", names)
    assert found is not None
    assert (found.kind, found.count, len(found.of)) == ("sequence", 29, 612)
    sizes = [list(found.of.values()).count(f"{number:02d}") for number in range(1, 30)]
    assert sizes == [25, 25, 17, 11, 25, 23, 25, 26, 22, 6, 22, 25, 25, 20, 20, 25, 21, 20, 25, 20, 19, 19,
                     12, 25, 25, 18, 25, 20, 21]
    assert [found.of[name] for name in ("1", "25", "26", "612")] == ["01", "01", "02", "29"]


def test_the_images_of_polypgen_bear_their_centre():
    found = sequences.grouped("PolypGen", ["C1_a", "C6_b_c", "C1_d"])
    assert found is not None
    assert (found.kind, found.count, found.of["C6_b_c"]) == ("centre", 2, "C6")


def test_names_that_should_tell_and_do_not_are_reported(tmp_path: Path):
    def stored(layout: str, names: list[str]) -> dataset.Pairs:
        folder = tmp_path / f"{layout} {names[0]}"
        files.write_json(folder / "made.json", {"recipe": {}, "outputs": {}, "shown": {}, "seconds": 0,
                                                "device": "cpu", "layout": layout})
        return dataset.Pairs(names, np.zeros(0), np.zeros(0), "", file=folder / "pairs.npz")
    assert related.untold(stored("CVC-ClinicDB (PNG)", ["1", "2"])) == ""
    assert related.untold(stored("images and masks", ["1", "a"])) == ""
    assert related.untold(stored("CVC-ClinicDB (PNG)", ["a", "2"])) == (
        "the names of the images do not say which sequence of CVC-ClinicDB they belong to")
    assert related.untold(stored("PolypGen", ["x"])).endswith("centre of PolypGen they belong to")


@pytest.mark.parametrize(("test", "names"), [
    ("CVC-ClinicDB", ["1", "phantom_00002"]), ("CVC-ClinicDB", ["0"]), ("CVC-ClinicDB", ["613"]),
    ("CVC-ClinicDB", []), ("PolypGen", ["C1_a", "C7_a"]), ("PolypGen", ["1"]), ("HyperKvasir", ["1", "2"]),
    ("Phantom", ["C1_a"])])
def test_names_that_do_not_tell_them(test: str, names: list[str]):
    assert sequences.grouped(test, names) is None
