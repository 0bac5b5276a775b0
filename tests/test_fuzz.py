"""The fuzz (benchmarks/fuzz.py): a small sample of its inputs, and that its cage sees what it must."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings

from diffusegen_core import cli
from diffusegen_core.config.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import fuzz  # noqa: E402 - benchmarks is no package
import fuzzbytes  # noqa: E402
import fuzzcage  # noqa: E402
import fuzzjudge  # noqa: E402
import fuzzruns  # noqa: E402
from fuzzcage import Case, Special  # noqa: E402
from fuzzjudge import CANARY  # noqa: E402

LIGHT = ("archives", "labels", "reviews", "tables")  # families that need nothing prepared


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What commands import, once here and not in every child."""
    fuzz.loaded()


@pytest.fixture
def tried(tmp_path: Path) -> Callable[..., fuzzcage.Outcome]:
    def one(*argv: str, files: dict[str, bytes | Special] | None = None, writes: tuple[str, ...] = (),
            ) -> fuzzcage.Outcome:
        case = Case("test", argv, files or {}, writes=writes)
        return fuzzcage.tried(case, tmp_path / "base", tmp_path / "box")
    return one


@pytest.mark.parametrize("family", LIGHT)
def test_a_sample_of_each_light_family_finds_nothing(family: str, tmp_path: Path):
    strategy, _ = fuzzruns.FAMILIES[family]
    codes = set()

    @seed(19)
    @settings(max_examples=6, phases=[Phase.generate], database=None, derandomize=False)
    @given(strategy)
    def sample(case: Case) -> None:
        outcome = fuzzcage.tried(case, tmp_path / "base", tmp_path / "box")
        assert outcome.faults == [], (case, outcome.output[-2000:])
        codes.add(outcome.code)

    sample()
    assert codes <= {0, 1, 2}


# ---- the cage

def acted(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """In the place of the command, which a forked child then does."""
    monkeypatch.setattr(cli, "main", act)


@pytest.mark.parametrize(("act", "fault"), [
    (lambda: {}["x"], "traceback KeyError"),
    (lambda: time.sleep(60), "hang"),
    (lambda: os.kill(os.getpid(), 11), "crash by signal 11"),
    (lambda: Path(CANARY).touch(), "executed: a planted payload"),
    (lambda: Path("../precious/letter").write_text("x"), "changed outside: precious"),
    (lambda: Path("../precious/letter").unlink(), "removed outside: precious"),
    (lambda: Path("new").touch(), "written outside: work"),
    (lambda: Path("../tmp/left").touch(), "written outside: tmp"),
    (lambda: subprocess.run(["true"]), "executed: subprocess.Popen true"),
    (lambda: os.system("true"), "executed: os.system true"),
    (lambda: Path("/tmp/fuzz-of-the-tests").write_text("x"), "wrote elsewhere: fuzz-of-the-tests"),
    (lambda: os.remove("/tmp/fuzz-of-the-tests-none"), "os.remove elsewhere: fuzz-of-the-tests-none"),
    (lambda: os.rename("x", "/tmp/none/x"), "os.rename elsewhere: x"),
    (lambda: print("\x1b[2J"), "control characters on the terminal"),
    (lambda: sys.exit(3), "exit code 3"),
    (lambda: sys.exit(2), "a refusal that says nothing"),
    (lambda: np.ones(40 << 20).sum(), "memory of 0 GiB"),
    (lambda: bytearray(8 << 30), "memory ran out"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_cage_sees(act: Callable[[], object], fault: str, tried, monkeypatch: pytest.MonkeyPatch):
    acted(monkeypatch, act)
    monkeypatch.setattr(fuzzjudge, "SECONDS", 2.0)
    monkeypatch.setattr(fuzzjudge, "BYTES", 300 << 20)
    try:
        assert fault in tried("x").faults
    finally:
        Path("/tmp/fuzz-of-the-tests").unlink(missing_ok=True)


def test_the_cage_is_content_with_what_is_in_order(tried, monkeypatch: pytest.MonkeyPatch):
    acted(monkeypatch, lambda: (Path("out").mkdir(), Path("out/x").touch(), sys.exit(0)))
    outcome = tried("x", writes=("out",))
    assert (outcome.faults, outcome.code) == ([], 0)


def test_a_payload_would_be_seen(tried, monkeypatch: pytest.MonkeyPatch):
    def act() -> None:
        import pickle
        pickle.loads(Path("p").read_bytes())

    acted(monkeypatch, act)
    for content in fuzzbytes.PICKLES:
        assert "executed: a planted payload" in tried("x", files={"p": content}).faults


def test_a_campaign_counts_keeps_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli, "main", lambda: sys.exit(0))
    wanted = {"reviews": 8}
    first = fuzz.Fuzz(tmp_path)
    fuzz.go(first, wanted, time.monotonic() + 300, lambda: None)
    told = fuzz.summary(first, wanted)
    assert (told["inputs"], told["faults"]) == (8, {})
    assert told["families"]["reviews"]["exit codes"] == {"0": 8}
    monkeypatch.setattr(cli, "main", lambda: {}["x"])
    second = fuzz.Fuzz(tmp_path)
    fuzz.go(second, {"reviews": 12}, time.monotonic() + 300, lambda: None)
    fault, = second.state["faults"]
    assert fault == "reviews: traceback KeyError"
    assert second.state["tried"] == {"reviews": 12}
    kept = list((tmp_path / "failures").glob("*/*.json"))
    assert json.loads(kept[0].read_text())["argv"] == ["review", "score", "answers.json", "key.json"]
    monkeypatch.setattr(cli, "main", lambda: sys.exit(0))
    third = fuzz.Fuzz(tmp_path)
    fuzz.replay(third)
    assert "mended" in fuzz.summary(third, wanted)["faults"][fault]


# ---- what it has found

PNG, MASK = fuzzbytes.pictures(False)[".png"], fuzzbytes.pictures(True)[".png"]
SET = {"set/images/a.png": PNG, "set/masks/a.png": MASK}


@pytest.mark.parametrize(("argv", "place"), [
    (("review", "score", "answers.json", "key.json"), "answers.json"),
    (("data", "check", "set"), "set/annotations/x.json"),
    (("data", "fetch", "hyperkvasir", "--to", "to"), "to/hyper-kvasir-segmented-images.zip"),
    (("run", "p.yaml", "--dry-run", "--only", "cluster", "-p", "cluster.file", "c.p"), "c.p"),
    (("run", "p.yaml", "--only", "cluster", "--no-book", "--slurm", "c.yaml"), "c.yaml"),
    (("run", "p.yaml", "--dry-run", "--only", "cluster", "-p", "data.source", "set", "-p", "data.patients",
      "who.csv:x"), "who.csv"),
    (("status", "run"), "run/run.json"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_pipe_is_not_waited_for(argv: tuple[str, ...], place: str, tried, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzjudge, "SECONDS", 15.0)
    outcome = tried(*argv, files={"p.yaml": b"{cluster: {k: 1}}", "key.json": b"{}", "run/params.yaml": b"{}",
                                  **SET, place: Special("fifo")}, writes=("to", "runs"))
    assert outcome.faults == []


@pytest.mark.parametrize(("content", "says"), [
    (b"image,patient\na\nb,P1\n", "gives no patient for a"),
    (b"", "who.csv cannot be read"),
    (b"patient\n", "there is no column patient"),
    (b'image,patient\na,"P1\n', "who.csv cannot be read"),
])
def test_a_table_of_patients_that_is_none_is_refused(content: bytes, says: str, tried):
    outcome = tried("run", "p.yaml", "--dry-run", "--only", "cluster", "-p", "data.source", "set", "-p",
                    "data.patients", "who.csv:patient", files={
                        "p.yaml": b"{cluster: {k: 1}, data: {count: null}}", "who.csv": content, **SET,
                        "set/images/b.png": PNG, "set/masks/b.png": MASK})
    assert outcome.faults == []
    assert says in outcome.output


def test_a_pattern_that_would_not_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    import re

    from diffusegen_core.config.patterns import in_time
    with pytest.raises(UserError, match=r"^Parameters: x takes too long"), in_time("Parameters: x", 0.2):
        re.search("(a+)+$", 60 * "a" + "!")
    with in_time("Parameters: x", 0.2):
        assert re.search("a+$", "aa")
    end = time.process_time() + 0.4  # no alarm is left
    while time.process_time() < end:
        pass


def test_a_large_volume_is_read_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import nibabel

    from diffusegen_core.data import arrays
    stored = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6, 1)
    for number, (order, signs) in enumerate([((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, -1)),
                                             ((1, 0, 2), (1, 1, -1))]):
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) * np.multiply(signs, (1, 2, 3)))[:, order]
        image = nibabel.Nifti1Image(stored, affine)
        image.header.set_slope_inter(2.5, 1)
        nibabel.save(image, path := tmp_path / f"{number}.nii")
        for axis in range(3):
            read = []
            for most in (1 << 30, 0):
                monkeypatch.setattr(arrays, "MOST_BYTES", most)
                arrays._upright.cache_clear()
                read.append((arrays.nifti(path, (axis, 1)), arrays.sides(path)))
            (kept, sides), (sliced, same_sides) = read
            assert (kept.values == sliced.values).all()
            assert kept.values.dtype == sliced.values.dtype
            assert (kept.affine, kept.axes, sides) == (sliced.affine, sliced.axes, same_sides)


def test_a_large_volume_whose_slices_would_each_be_unzipped_from_the_start_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import nibabel

    from diffusegen_core.data import arrays
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    for name in ("small.nii.gz", "large.nii.gz", "large.nii"):
        nibabel.save(image, tmp_path / name)
    assert arrays.sides(tmp_path / "small.nii.gz") == (4, 5, 6)
    monkeypatch.setattr(arrays, "MOST_BYTES", 4 * 5 * 6 * 2 - 1)
    assert arrays.sides(tmp_path / "large.nii") == (4, 5, 6)
    with pytest.raises(ValueError, match=r"^4x5x6 are too many voxels .* decompress it \(gunzip\) to \.nii$"):
        arrays.nifti(tmp_path / "large.nii.gz", (0, 1))


def test_values_are_scaled_in_strips_as_at_once(monkeypatch: pytest.MonkeyPatch):
    from diffusegen_core.data import pixels
    values = np.random.default_rng(0).normal(0, 500, (13, 7, 2))
    values[3, 4] = np.nan, np.inf
    whole = pixels.scaled(values, -1000, 1000)
    monkeypatch.setattr(pixels, "STRIP", 20)
    assert (pixels.scaled(values, -1000, 1000) == whole).all()


@pytest.mark.parametrize("seconds", ["NaN", "1" + 400 * "0", "-5", "1e400"])
def test_seconds_that_cannot_be_are_none(tmp_path: Path, seconds: str):
    from diffusegen_core.segmentation import experiments
    (tmp_path / "spent.json").write_text(f'{{"seconds": {seconds}}}')
    assert experiments.seconds_in(tmp_path / "spent.json") == 0
