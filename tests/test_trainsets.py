"""What networks may be trained on: the run's sources and what was made of them, drawn source by source."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up import SAMPLES, SOURCES, changed, forge, of_sources, values, write_all, write_set

from diffusegen_core.chapters import augment, segment
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.trainsets import Choice, Sets
from diffusegen_core.store import runs


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """A run that no test changes."""
    p = values(tmp_path_factory.mktemp("written") / "run")
    write_all(p)
    return p


@pytest.fixture(scope="module")
def sets(written: Params) -> Sets:
    return trainsets.read(written)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A run of the test's own, of one data type and four sources."""
    forge(monkeypatch)
    p = values(tmp_path / "run", gan={"source": None}, inpaint={"samples": 2, "sources": 4},
               augment={"sizes": [4]})
    write_all(p)
    return p


# ---- data types


def test_the_data_types_are_those_of_the_parameters(tmp_path: Path) -> None:
    p = values(tmp_path, gan={"source": None})
    assert list(trainsets.types(p)) == ["2-Diff", "2-Styled-Diff"]
    assert list(trainsets.types(changed(p, gan={"source": "singan"}, train={"full_images": 10}))) == [
        "GAN", "2-Diff", "2-Styled-Diff", "Full-Diff", "Full-Styled-Diff"]


def test_real_comes_first_and_the_order_asked_for_does_not_matter(tmp_path: Path) -> None:
    p = values(tmp_path)
    assert trainsets.wanted(p, None, "segment.types") == ["Real", "GAN", "2-Diff", "2-Styled-Diff"]
    assert trainsets.wanted(p, ["2-Diff", "Real"], "segment.types") == ["Real", "2-Diff"]


@pytest.mark.parametrize("name", ["20-Diff", "Full-Diff", "real"])
def test_an_unknown_data_type_is_refused_with_those_that_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"segment\.types: .* {name}; it has Real, GAN, 2-Diff, 2-Styled"):
        trainsets.wanted(values(tmp_path), ["Real", name], "segment.types")


# ---- the sets


def test_the_real_pairs_are_the_sources(written: Params, sets: Sets) -> None:
    assert sets.real.names == dataset.load(written).names[:SOURCES]
    for name in ("GAN", "2-Diff", "2-Styled-Diff"):
        manifest = sets.manifests[name]
        assert len(manifest) == SOURCES * SAMPLES
        assert manifest["group"].tolist() == manifest["source"].tolist()


@pytest.mark.parametrize(("name", "group"), [
    ("chk_id_31_gen_scale_0_2_img", "chk_id_31"), ("chk_id_3_gen_scale_5_12", "chk_id_3"),
    ("fake_0007", "fake_0007"), ("polyp", "polyp")])
def test_a_pair_of_unknown_source_is_of_the_group_that_its_name_tells(own: Params, name: str,
                                                                      group: str) -> None:
    """Only SinGAN-Seg's names tell which pairs belong together; of others each is its own source."""
    p = changed(own, gan={"source": "elsewhere"})
    write_set(p.folder / "gan" / "GAN", [(name, "", 1)])
    assert trainsets.read(p).manifests["GAN"]["group"].tolist() == [group]


def test_an_empty_manifest_is_read(own: Params) -> None:
    write_set(own.folder / "inpaint" / "2-Diff", [])
    assert trainsets.read(own).manifests["2-Diff"].empty


def test_a_pair_made_of_a_foreign_image_is_refused(own: Params) -> None:
    names = dataset.load(own).names[:4]
    write_set(own.folder / "style" / "2-Styled-Diff", of_sources([*names, "phantom_00999"]))
    with pytest.raises(UserError, match="2-Styled-Diff holds pairs made of phantom_00999, which is no train"):
        trainsets.make(own)


def test_more_sources_for_the_gan_than_for_inpainting_are_no_foreigners(own: Params) -> None:
    p = changed(own, gan={"source": "singan", "sources": 6})
    write_set(p.folder / "gan" / "GAN", of_sources(dataset.load(p).names[:6]))
    assert trainsets.make(p).manifests["GAN"]["group"].nunique() == 6
    assert len(trainsets.make(p).real) == 4


def test_sets_are_made_when_all_have_a_stamp(own: Params) -> None:
    assert trainsets.made(own).real.names == dataset.load(own).names[:4]
    (own.folder / "style" / "2-Styled-Diff" / runs.STAMP).unlink()
    assert trainsets.made(own) is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Params:
    """A tiny run that really went through chapters 1 to 4 and the GAN. No test changes it."""
    p = params.validate({**nano_values, "run_dir": str(tmp_path_factory.mktemp("finished") / "run")})
    trainsets.make(p)
    return p


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_what_the_parameters_would_make_is_found_and_nothing_is_written(
        finished: Params, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(finished.folder)
    capsys.readouterr()
    sets = trainsets.made(finished)
    assert capsys.readouterr().err == "", "no progress bar of a training that there is not"
    assert list(sets.folders) == ["GAN", "2-Diff", "2-Styled-Diff"]
    assert sets.real.names == dataset.load(finished).names[:4]
    assert state(finished.folder) == before


@pytest.mark.parametrize("change", [
    {"data": {"count": 9}}, {"cluster": {"k": 1}}, {"train": {"lr": 0.5}}, {"inpaint": {"resampling": 1}},
    {"inpaint": {"samples": 2}}, {"style": {"skip": 2}}, {"gan": {"steps": 4}}, {"gan": {"start_scale": 9}}],
    ids=str)
def test_what_other_parameters_made_is_not_what_these_would(finished: Params, change: dict) -> None:
    before = state(finished.folder)
    assert trainsets.made(changed(finished, **change)) is None
    assert state(finished.folder) == before


def test_a_set_that_lost_a_file_is_not_made(finished: Params, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    p = finished.model_copy(update={"run_dir": str(tmp_path / "run")})
    assert trainsets.made(p) is not None
    next((p.folder / "train").rglob("model.safetensors")).unlink()
    assert trainsets.made(p) is None


@pytest.mark.parametrize(("samples", "expected"), [(None, [1, 2, 3]), (2, [1, 2]), (5, [1, 2, 3])])
def test_numbers_by_default_are_those_that_there_are_of_the_type(tmp_path: Path, samples: int | None,
                                                                 expected: list[int]) -> None:
    p = values(tmp_path, gan={"samples": samples})
    assert trainsets.numbers(p, None, "GAN", "augment.ratios") == expected
    assert trainsets.numbers(p, None, "2-Diff", "augment.ratios") == [1, 2, 3]


def test_more_pairs_than_the_gan_makes_are_refused(tmp_path: Path) -> None:
    p = values(tmp_path, gan={"samples": 2}, segment={"samples": [3, 1]}, augment={"ratios": [3]})
    for grid, key in ((lambda: segment.grid(p), "segment.samples"),
                      (lambda: augment.grid(p, SOURCES), "augment.ratios")):
        section = key.partition(".")[0]
        with pytest.raises(UserError, match=rf"{key}: 3 is more than the 2 .* GAN has\. Raise gan\.samples, "
                                            rf"or leave GAN out of {section}\.types"):
            grid()
    without = changed(p, segment={"types": ["2-Diff"]}, augment={"types": ["2-Styled-Diff"]})
    assert [e.samples for e in segment.grid(without)] == [1, 3]
    assert {e.ratio for e in augment.grid(without, SOURCES)} == {None, 3}


def test_the_grids_ask_by_default_for_no_more_pairs_than_the_gan_makes(tmp_path: Path) -> None:
    p = values(tmp_path, gan={"samples": 1})
    most = {"GAN": 1, "2-Diff": 3, "2-Styled-Diff": 3}
    for grid, number in ((segment.grid(p), "samples"), (augment.grid(p, SOURCES), "ratio")):
        for name in {e.data_type for e in grid} - {"Real"}:
            assert {getattr(e, number) for e in grid if e.data_type == name} == set(range(1, most[name] + 1))


# ---- choices of pairs


def test_the_chosen_pairs_are_loaded_and_no_others(sets: Sets) -> None:
    choice = Choice(("phantom_00003", "phantom_00001"), ("phantom_00002_3", "phantom_00000_1"))
    pairs = trainsets.load(sets, "2-Diff", choice)
    assert pairs.names == [*choice.real, *choice.synthetic]
    assert len(choice) == len(pairs) == 4
    np.testing.assert_array_equal(pairs.images[:2], sets.real.take([3, 1]).images)
    for i, name in enumerate(choice.synthetic, 2):
        image, mask = pairsets.read_pair(sets.folders["2-Diff"], name)
        np.testing.assert_array_equal(pairs.images[i], image)
        np.testing.assert_array_equal(pairs.masks[i], mask)
    assert trainsets.load(sets, "GAN", choice).digest != pairs.digest
    assert trainsets.load(sets, "Real", Choice(choice.real)).names == list(choice.real)
    assert trainsets.load(sets, "GAN", Choice(synthetic=choice.synthetic)).names == list(choice.synthetic)


def test_a_choices_hash_is_of_what_its_pairs_show(own: Params) -> None:
    choice = Choice(("phantom_00003",), ("phantom_00001_1", "phantom_00002_2"))
    sets = trainsets.read(own)
    before = trainsets.content(sets, "2-Diff", choice)
    assert before != trainsets.content(sets, "2-Styled-Diff", choice)
    assert before != trainsets.content(sets, "2-Diff", Choice((), choice.synthetic))
    assert before != trainsets.content(sets, "2-Diff", Choice(choice.real, choice.synthetic[:1]))
    folder = own.folder / "inpaint" / "2-Diff"

    def repaint(name: str) -> str:
        image, mask = pairsets.read_pair(folder, name)
        dataset.write_pair(folder, name, 255 - image, mask)
        runs.finish(folder, {}, [*folder.glob("*.csv"), *folder.rglob("*.png")], 7.0)
        return trainsets.content(trainsets.read(own), "2-Diff", choice)

    assert repaint("phantom_00003_1") == before, "another pair"
    assert repaint("phantom_00002_2") != before


def test_a_choices_hash_reads_no_images(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairsets, "read_pair", None)
    assert trainsets.content(sets, "GAN", Choice(synthetic=("phantom_00000_1",)))


# ---- drawing by source


NAMES = [f"phantom_{i:05d}" for i in range(40)]


def test_one_more_name_moves_no_other() -> None:
    for seed in range(5):
        order = trainsets.shuffled(NAMES, seed, "order")
        fewer = trainsets.shuffled([name for name in NAMES if name != NAMES[7]], seed, "order")
        assert [name for name in order if name != NAMES[7]] == fewer
        assert order != NAMES
        assert trainsets.shuffled(NAMES[::-1], seed, "order") == order
    assert trainsets.shuffled(NAMES, 0, "order") != trainsets.shuffled(NAMES, 1, "order")


@pytest.mark.parametrize(("count", "share", "expected"), [
    (0, 0.2, 0), (1, 0.2, 0), (2, 0.2, 1), (10, 0.2, 2), (16, 0.2, 3), (40, 0.2, 8), (3, 0.01, 1),
    (3, 0.99, 2)])
def test_some_are_held_back_but_never_all(count: int, share: float, expected: int) -> None:
    assert trainsets.held_back(count, share) == expected
    chosen, back = trainsets.split(NAMES[:count], share, 0, "split")
    assert len(back) == expected
    assert sorted(chosen + back) == NAMES[:count]


def test_another_seed_holds_others_back() -> None:
    found = {tuple(trainsets.split(NAMES, 0.2, seed, "split")[1]) for seed in range(5)}
    assert len(found) == 5
    assert all(re.fullmatch(r"phantom_\d{5}", name) for back in found for name in back)
