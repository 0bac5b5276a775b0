"""What networks may be trained on: the run's sources and what was made of them, drawn source by source."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up import (
    REAL,
    SAMPLES,
    SMALL,
    SOURCES,
    changed,
    noise,
    of_sources,
    real_pairs,
    sets_of,
    supply_of,
    values,
    workspace,
    write_set,
    written_set,
)

from diffusegen_core.chapters import augment, segment
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets, types
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.trainsets import Amount, Choice, Sets

DIFF, STYLED = DataType.parse("2-Diff"), DataType.parse("2-Styled-Diff")
FULL = DataType.parse("Full-Diff")


@pytest.fixture(scope="module")
def written(made_up_run: Path) -> Params:
    """A run that no test changes."""
    return values(made_up_run)


@pytest.fixture(scope="module")
def sets(written: Params) -> Sets:
    return sets_of(written)


@pytest.fixture
def own(small_made_up_run: Path, tmp_path: Path) -> Params:
    """A small run of the test's own."""
    shutil.copytree(small_made_up_run, tmp_path / "run")
    return values(tmp_path / "run", **SMALL)


# ---- data types


def test_the_data_types_are_those_of_the_parameters(tmp_path: Path) -> None:
    p = values(tmp_path, gan={"source": None})
    assert list(supply_of(p)) == [types.REAL, DIFF, STYLED]
    assert supply_of(p)[types.REAL] == Amount(SOURCES, 1)
    assert supply_of(p)[DIFF] == Amount(SOURCES, SAMPLES)
    more = changed(p, gan={"source": "singan", "sources": 5, "samples": 7}, train={"full_images": 10})
    assert list(supply_of(more)) == [types.REAL, GAN, DIFF, STYLED, FULL, FULL.styled]
    assert supply_of(more)[GAN] == Amount(5, 7)
    all_sources = changed(p, gan={"source": "singan"}, inpaint={"sources": None})
    assert {amount.sources for amount in supply_of(all_sources, 9).values()} == {9}
    assert supply_of(changed(p, gan={"source": "singan"}))[GAN] == Amount(SOURCES, SAMPLES)


def test_real_comes_first_and_the_order_asked_for_does_not_matter(tmp_path: Path) -> None:
    supply = supply_of(values(tmp_path))
    assert trainsets.wanted(supply, None, "segment.types") == [types.REAL, GAN, DIFF, STYLED]
    assert trainsets.wanted(supply, ["2-Diff", "Real"], "segment.types") == [types.REAL, DIFF]


@pytest.mark.parametrize("name", ["20-Diff", "Full-Diff", "real"])
def test_an_unknown_data_type_is_refused_with_those_that_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"segment\.types: .* {name}; it has Real, GAN, 2-Diff, 2-Styled"):
        trainsets.wanted(supply_of(values(tmp_path)), ["Real", name], "segment.types")


# ---- the sets


def test_the_real_pairs_are_the_sources(written: Params, sets: Sets) -> None:
    assert sets.real.names == real_pairs(written).names[:SOURCES]
    assert dataset.read(sets.file).names == real_pairs(written).names
    for data_type in (GAN, DIFF, STYLED):
        manifest = sets.manifests[data_type]
        assert len(manifest) == SOURCES * SAMPLES
        assert manifest["group"].tolist() == manifest["source"].tolist()


@pytest.mark.parametrize(("name", "group"), [
    ("chk_id_31_gen_scale_0_2_img", "chk_id_31"), ("chk_id_3_gen_scale_5_12", "chk_id_3"),
    ("fake_0007", "fake_0007"), ("polyp", "polyp")])
def test_a_pair_of_unknown_source_is_of_the_group_that_its_name_tells(own: Params, name: str,
                                                                      group: str) -> None:
    """Only SinGAN-Seg's names tell which pairs belong together; of others each is its own source."""
    made = write_set(workspace(own), GAN, [(name, "", 1)], noise(0))
    assert trainsets.grouped(made.manifest)["group"].tolist() == [group]


def test_an_empty_manifest_is_read(own: Params) -> None:
    write_set(workspace(own), DIFF, [], noise(0))
    assert sets_of(own).manifests[DIFF].empty


def test_a_pair_made_of_a_foreign_image_is_refused(own: Params) -> None:
    names = real_pairs(own).names[:6]
    write_set(workspace(own), STYLED, of_sources([*names, "phantom_00999"]), noise(0))
    with pytest.raises(UserError, match="2-Styled-Diff holds pairs made from phantom_00999, which is not"):
        sets_of(own)


def test_more_sources_for_the_gan_than_for_inpainting_are_no_foreigners(own: Params) -> None:
    p = changed(own, gan={"source": "singan", "sources": 8})
    write_set(workspace(p), GAN, of_sources(real_pairs(p).names[:8]), noise(0))
    assert sets_of(p).manifests[GAN]["group"].nunique() == 8
    assert len(sets_of(p).real) == 6


@pytest.mark.parametrize(("samples", "expected"), [(None, [1, 2, 3]), (2, [1, 2]), (5, [1, 2, 3])])
def test_numbers_by_default_are_those_that_there_are_of_the_type(tmp_path: Path, samples: int | None,
                                                                 expected: list[int]) -> None:
    supply = supply_of(values(tmp_path, gan={"samples": samples}))
    assert trainsets.numbers(supply, None, GAN, "augment.ratios") == expected
    assert trainsets.numbers(supply, None, DIFF, "augment.ratios") == [1, 2, 3]


def test_more_pairs_than_the_gan_makes_are_refused(tmp_path: Path) -> None:
    p = values(tmp_path, gan={"samples": 2}, segment={"samples": [3, 1]}, augment={"ratios": [3]})
    for grid, key in ((lambda: segment.grid(supply_of(p), p.segment), "segment.samples"),
                      (lambda: augment.grid(supply_of(p), p.augment, p.segment), "augment.ratios")):
        section = key.partition(".")[0]
        with pytest.raises(UserError, match=rf"{key}: 3 is more than the 2 .* GAN has\. Raise gan\.samples, "
                                            rf"or leave GAN out of {section}\.types"):
            grid()
    without = changed(p, segment={"types": ["2-Diff"]}, augment={"types": ["2-Styled-Diff"]})
    assert [e.samples for e in segment.grid(supply_of(p), without.segment)] == [1, 3]
    assert {e.ratio for e in augment.grid(supply_of(p), without.augment, p.segment)} == {None, 3}


def test_the_grids_ask_by_default_for_no_more_pairs_than_the_gan_makes(tmp_path: Path) -> None:
    p = values(tmp_path, gan={"samples": 1})
    most, supply = {GAN: 1, DIFF: 3, STYLED: 3}, supply_of(p, REAL)
    for grid, number in ((segment.grid(supply, p.segment), "samples"),
                         (augment.grid(supply, p.augment, p.segment), "ratio")):
        for name in {e.data_type for e in grid} - {types.REAL}:
            assert {getattr(e, number) for e in grid if e.data_type == name} == set(range(1, most[name] + 1))


# ---- choices of pairs


def load(sets: Sets, data_type: DataType, choice: Choice) -> dataset.Pairs:
    made = sets.sets.get(data_type)
    return trainsets.load(sets.file, made.folder if made else None, choice)


def test_the_chosen_pairs_are_loaded_and_no_others(sets: Sets) -> None:
    choice = Choice(("phantom_00003", "phantom_00001"), ("phantom_00002_3", "phantom_00000_1"))
    pairs = load(sets, DIFF, choice)
    assert pairs.names == [*choice.real, *choice.synthetic]
    assert len(choice) == len(pairs) == 4
    np.testing.assert_array_equal(pairs.images[:2], sets.real.take([3, 1]).images)
    for i, name in enumerate(choice.synthetic, 2):
        image, mask = pairsets.read_pair(sets.sets[DIFF].folder, name)
        np.testing.assert_array_equal(pairs.images[i], image)
        np.testing.assert_array_equal(pairs.masks[i], mask)
    assert load(sets, GAN, choice).digest != pairs.digest
    assert load(sets, types.REAL, Choice(choice.real)).names == list(choice.real)
    assert load(sets, GAN, Choice(synthetic=choice.synthetic)).names == list(choice.synthetic)


def test_a_choices_hash_is_of_what_its_pairs_show(own: Params) -> None:
    choice = Choice(("phantom_00003",), ("phantom_00001_1", "phantom_00002_2"))
    sets = sets_of(own)
    before = trainsets.content(sets, DIFF, choice)
    assert before != trainsets.content(sets, STYLED, choice)
    assert before != trainsets.content(sets, DIFF, Choice((), choice.synthetic))
    assert before != trainsets.content(sets, DIFF, Choice(choice.real, choice.synthetic[:1]))
    pairs = of_sources(real_pairs(own).names[:6], 2)

    def repaint(repainted: str) -> str:
        made = written_set(workspace(own), DIFF)
        shown = {name: pairsets.read_pair(made.folder, name) for name, _, _ in pairs}
        shown[repainted] = 255 - shown[repainted][0], shown[repainted][1]
        write_set(workspace(own), DIFF, pairs, lambda name: shown[name])
        return trainsets.content(sets_of(own), DIFF, choice)

    assert repaint("phantom_00003_1") == before, "another pair"
    assert repaint("phantom_00002_2") != before


def test_a_choices_hash_reads_no_images(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairsets, "read_pair", None)
    assert trainsets.content(sets, GAN, Choice(synthetic=("phantom_00000_1",)))


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
