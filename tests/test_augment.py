"""Chapter 7: small real sets and what joins them, paired over data types, and never a pair from outside."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from made_up import (
    SOURCES,
    Networks,
    changed,
    forge,
    of_sources,
    values,
    write_all,
    write_set,
)

from diffusegen_core.chapters import augment, segment, style
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets, testsets
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.segmentation.trainsets import Choice, Sets
from diffusegen_core.store import runs

LOST = "phantom_00003"  # a source whose styled pairs all came to nothing
SIZES, SEEDS = [4, 10, 24], 4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """A run that no test changes."""
    p = values(tmp_path_factory.mktemp("written") / "run", augment={"sizes": SIZES, "seeds": SEEDS})
    write_all(p)
    pairs = of_sources(dataset.load(p).names[:SOURCES])
    write_set(p.folder / "style" / "2-Styled-Diff", [pair for pair in pairs if pair[1] != LOST], 9)
    return p


@pytest.fixture(scope="module")
def sets(written: Params) -> Sets:
    return trainsets.read(written)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Networks:
    return forge(monkeypatch)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "run"
    write_all(small(folder))
    return folder


@pytest.fixture
def own(template: Path, tmp_path: Path) -> Params:
    """A run of the test's own: Real and 2-Styled-Diff at r = 2, five pairs of six sources."""
    shutil.copytree(template, tmp_path / "run")
    return small(tmp_path / "run")


def small(folder: Path) -> Params:
    return values(folder, gan={"source": None}, inpaint={"samples": 2, "sources": 6},
                  augment={"sizes": [5], "ratios": [2], "alpha": 1.0})


def others(p: Params, **augment_values: object) -> Params:
    return changed(p, augment=augment_values)


def of_type(p: Params, sets: Sets, data_type: str = "GAN") -> Iterator[tuple[Experiment, Choice, Choice]]:
    for e in augment.grid(p, len(sets.real)):
        if e.data_type == data_type:
            yield e, *augment.chosen(p, sets, e)


def origin(name: str) -> str:
    return name.rpartition("_")[0]


# ---- the grid


def test_the_grid_has_every_size_type_ratio_and_seed_and_real_once(tmp_path: Path) -> None:
    p = values(tmp_path, augment={"sizes": [4, 10], "seeds": 2, "ratios": [1, 3]})
    expected = [e for size in (4, 10) for e in (
        *(Experiment("augment", "Real", size=size, seed=seed) for seed in (0, 1)),
        *(Experiment("augment", name, size=size, ratio=r, seed=seed)
          for name in ("2-Styled-Diff", "GAN") for r in (1, 3) for seed in (0, 1)))]
    assert augment.grid(p, SOURCES) == expected


@pytest.mark.parametrize(("sources", "sizes"), [
    (348, [16, 32, 64, 128]), (64, [16, 32, 64]), (16, [16]), (12, [12])])
def test_the_papers_sizes_as_far_as_there_are_sources(tmp_path: Path, sources: int, sizes: list[int]) -> None:
    p = values(tmp_path, augment={"sizes": None})
    assert augment.sizes(p, sources) == sizes
    assert {e.ratio for e in augment.grid(p, sources)} == {None, 1, 2, 3}, "ratios: as many as samples"


def test_a_size_beyond_the_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augment\.sizes: 25 is more than the 24 .* inpaint\.sources"):
        augment.grid(values(tmp_path, augment={"sizes": [4, 25]}), SOURCES)


def test_more_clusters_than_a_generator_sees_pairs_are_refused(tmp_path: Path) -> None:
    p = values(tmp_path, augment={"sizes": [4, 10], "generator_sees": "subset", "subset_clusters": 3})
    assert augment.sizes(p, SOURCES) == [4, 10]
    for change in ({"subset_clusters": 4}, {"subset_clusters": 14, "sizes": None}):
        with pytest.raises(UserError, match=r"subset_clusters: \d+ is more than the (3|13) .*\.sizes"):
            augment.sizes(others(p, **change), SOURCES)
    assert augment.sizes(others(p, subset_clusters=4, generator_sees="all"), SOURCES) == [4, 10]
    with pytest.raises(UserError, match=r"augment\.sizes: 30 .* augment\.subset_clusters: 4"):
        augment.sizes(others(p, subset_clusters=4, sizes=[4, 30]), SOURCES)


def test_the_types_are_as_asked(tmp_path: Path) -> None:
    p = values(tmp_path, augment={"types": ["2-Diff"]})
    assert augment.types(p) == ["2-Diff"]
    assert {e.data_type for e in augment.grid(others(p, types=[]), SOURCES)} == {"Real"}
    assert augment.types(changed(p, gan={"source": None}, augment={"types": None})) == ["2-Styled-Diff"]
    assert augment.types(others(p, types=None, generator_sees="subset")) == ["1-Styled-Diff", "GAN"]
    with pytest.raises(UserError, match=r"no data type 20-Diff to add; there are GAN, 2-Diff, 2-Styled-Diff"):
        augment.types(others(p, types=["20-Diff"]))
    with pytest.raises(UserError, match="no data type 2-Diff to add; there are 1-Diff, 1-Styled-Diff, GAN"):
        augment.types(others(p, generator_sees="subset"))


# ---- leakage


@pytest.mark.parametrize("rule", ["replace", "add"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_no_pair_of_a_validation_source_nor_from_outside_is_trained_on(written: Params, sets: Sets,
                                                                       rule: str, alpha: float) -> None:
    p = others(written, rule=rule, alpha=alpha, types=["GAN", "2-Diff", "2-Styled-Diff"])
    grid = augment.grid(p, len(sets.real))
    assert len(grid) == len(SIZES) * SEEDS * (1 + 3 * 3)
    for e in grid:
        ours, kept = augment.subset(p, sets, e.size, e.seed)
        assert (len(ours) + len(kept), len(kept)) == (e.size, round(0.2 * e.size))
        assert not set(ours) & set(kept)
        train, valid = augment.chosen(p, sets, e)
        assert valid == Choice(tuple(kept)), "real pairs choose the best epoch"
        made = sets.manifests.get(e.data_type)
        behind = set(made.set_index("name")["source"][list(train.synthetic)]) if train.synthetic else set()
        assert set(train.real) | behind == set(ours)


# ---- pairing


def test_one_seed_gives_all_types_ratios_and_rules_the_same_pairs(written: Params, sets: Sets) -> None:
    for size in SIZES:
        for seed in range(SEEDS):
            drawn, subsets = set(), set()
            for rule in ("replace", "add"):
                for name in ("GAN", "2-Diff"):
                    for ratio in (1, 2, 3):
                        e = Experiment("augment", name, size=size, ratio=ratio, seed=seed)
                        train, valid = augment.chosen(others(written, rule=rule), sets, e)
                        mine = frozenset(map(origin, train.synthetic))
                        drawn.add(mine)
                        subsets.add((frozenset(train.real) | mine, valid))
            assert len(drawn) == len(subsets) == 1
            real = augment.chosen(written, sets, Experiment("augment", "Real", size=size, seed=seed))
            assert {(frozenset(real[0].real), real[1])} == subsets


def test_the_same_sample_numbers_are_drawn_of_all_types(written: Params, sets: Sets) -> None:
    first, second = (Experiment("augment", name, size=24, ratio=1, seed=1) for name in ("GAN", "2-Diff"))
    found = augment.chosen(written, sets, first)[0].synthetic
    assert found == augment.chosen(written, sets, second)[0].synthetic
    assert len({name.rpartition("_")[2] for name in found}) == 3, "not the first alone"


def test_more_synthetic_pairs_hold_the_fewer(written: Params, sets: Sets) -> None:
    few, many = (augment.chosen(written, sets, Experiment("augment", "GAN", size=24, ratio=r))[0].synthetic
                 for r in (1, 3))
    assert set(few) < set(many)
    assert len(many) == 3 * len(few)


def test_another_seed_gives_other_pairs(written: Params, sets: Sets) -> None:
    found = [augment.subset(written, sets, 10, seed) for seed in range(SEEDS)]
    assert len({tuple(sorted(train + valid)) for train, valid in found}) == SEEDS
    assert len({tuple(valid) for _, valid in found}) == SEEDS
    drawn = {choice.synthetic for e, choice, _ in of_type(written, sets) if (e.size, e.ratio) == (24, 1)}
    assert len(drawn) == SEEDS
    other = written.model_copy(update={"seed": 1})
    assert augment.subset(other, sets, 10, 0) != found[0]


def test_a_larger_set_holds_the_smaller(written: Params, sets: Sets) -> None:
    for seed in range(SEEDS):
        found = [set().union(*augment.subset(written, sets, size, seed)) for size in SIZES]
        assert found[0] < found[1] < found[2]


def test_one_source_more_does_not_change_which_others_are_drawn(written: Params, sets: Sets) -> None:
    fewer = Sets(sets.real.take(range(1, SOURCES)), sets.folders, sets.manifests)
    gone = sets.real.names[0]
    for seed in range(SEEDS):
        e = Experiment("augment", "GAN", size=10, ratio=3, seed=seed)
        before, after = ({name: name in map(origin, choice.synthetic)
                          for name in (*choice.real, *map(origin, choice.synthetic))}
                         for choice in (augment.chosen(written, one, e)[0] for one in (fewer, sets)))
        assert all(before[name] == after[name] for name in before.keys() & after.keys())
        mine, all_of_them = (set().union(*augment.subset(written, one, 10, seed)) for one in (fewer, sets))
        assert mine - all_of_them == set() or (len(mine - all_of_them) == 1 and gone in all_of_them)


# ---- rules


@pytest.mark.parametrize(("rule", "real"), [("replace", 0), ("add", 1)])
def test_replace_and_add_give_the_numbers_that_they_say(written: Params, sets: Sets, rule: str,
                                                        real: int) -> None:
    p = others(written, rule=rule)
    shares = []
    for e, train, _ in of_type(p, sets):
        drawn = len(set(map(origin, train.synthetic)))
        ours = len(augment.subset(p, sets, e.size, e.seed)[0])
        assert len(train.synthetic) == drawn * e.ratio
        assert len(train.real) == ours - drawn + real * drawn
        assert len(set(train.synthetic)) == len(train.synthetic)
        shares += [drawn / ours] * ours
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("rule", ["replace", "add"])
def test_alpha_0_is_reals_own_set(written: Params, sets: Sets, rule: str) -> None:
    p = others(written, alpha=0.0, rule=rule)
    for e, *found in of_type(p, sets):
        real = Experiment("augment", "Real", size=e.size, seed=e.seed)
        assert tuple(found) == augment.chosen(p, sets, real)


def test_alpha_1_replaces_every_real_pair_that_has_synthetic_ones(written: Params, sets: Sets) -> None:
    p = others(written, alpha=1.0)
    kept = set()
    for e, train, _ in of_type(p, sets, "2-Styled-Diff"):
        ours = augment.subset(p, sets, e.size, e.seed)[0]
        assert train.real == ((LOST,) if LOST in ours else ()), "of which nothing was made: it stays"
        assert len(train.synthetic) == e.ratio * (len(ours) - len(train.real))
        kept |= set(train.real)
    assert kept == {LOST}
    assert all(train.real == () for _, train, _ in of_type(p, sets))


def test_more_than_there_are_takes_what_there_is(own: Params) -> None:
    names = dataset.load(own).names[:6]
    fewer = [pair for pair in of_sources(names, 2) if pair[1:] != (names[1], 2)]
    write_set(own.folder / "style" / "2-Styled-Diff", fewer)
    p = others(own, sizes=[6])
    sets = trainsets.read(p)
    for seed in range(5):
        train, _ = augment.chosen(p, sets, Experiment("augment", "2-Styled-Diff", size=6, ratio=2, seed=seed))
        ours = augment.subset(p, sets, 6, seed)[0]
        assert len(train.synthetic) == 2 * len(ours) - (names[1] in ours)


# ---- the run


def test_the_networks_are_given_the_chosen_pairs(own: Params, networks: Networks) -> None:
    p = others(own, seeds=2, alpha=0.5)
    result = augment.run(p)
    sets = trainsets.read(p)
    assert list(networks.given) == ["Real-N5-seed0", "Real-N5-seed1", "2-Styled-Diff-N5-r2-seed0",
                                    "2-Styled-Diff-N5-r2-seed1"]
    for e in augment.grid(p, 6):
        train, valid = augment.chosen(p, sets, e)
        assert networks.given[e.label] == ([*train.real, *train.synthetic], list(valid.real))
    assert result.runs["generator_sees"].tolist() == ["all"] * 4
    assert result.images["size"].eq(5).all()
    assert result.images.groupby(["data_type", "ratio", "seed"], dropna=False).size().tolist() == [5] * 4
    assert result.folder == p.folder / "augment"
    networks.given.clear()
    pd.testing.assert_frame_equal(augment.run(p).images, result.images)
    assert not networks.given


def test_both_chapters_start_from_the_same_weights_and_share_the_test_images(own: Params,
                                                                             networks: Networks) -> None:
    small_sets, alone = augment.run(own), segment.run(changed(own, segment={"types": ["Real"]}))
    assert set(small_sets.images["image"]) == set(alone.images["image"])
    assert set(networks.given["Real-N5-seed0"][0]) < set(dataset.load(own).names[:6])


@pytest.mark.parametrize("pairs", [[], [(f"chk_id_{i}_gen_scale_0_{j}_img", "", j + 1) for i in range(6)
                                        for j in range(2)]])
def test_a_type_whose_sources_are_unknown_is_a_failed_row(own: Params, networks: Networks,
                                                          pairs: list) -> None:
    """None of its pairs would join, and the row under its name would be Real's."""
    p = changed(own, gan={"source": "elsewhere"}, augment={"types": ["GAN", "2-Styled-Diff"]})
    write_set(p.folder / "gan" / "GAN", pairs)
    status = augment.run(p).runs.set_index("data_type")["status"]
    assert status[["Real", "2-Styled-Diff"]].tolist() == ["ok", "ok"]
    assert status["GAN"] == ("failed: UserError: GAN-N5-r2-seed0: of no pair of GAN is it known that it was "
                             "made of one of the run's real pairs, so that none can replace or join its own.")


def test_one_failure_leaves_the_others(own: Params, networks: Networks) -> None:
    networks.fails = lambda title: "Styled" in title
    assert augment.run(own).runs["status"].tolist() == [
        "ok", "failed: UserError: This network was told to fail."]


def test_a_single_pair_cannot_be_split(own: Params, networks: Networks) -> None:
    status = augment.run(others(own, sizes=[1])).runs["status"]
    assert status.str.contains("1 pairs to train on and 0 to choose the best epoch").tolist() == [True, False]


def test_a_foreign_source_and_a_training_image_in_a_test_set_are_refused(own: Params, networks: Networks,
                                                                         tmp_path: Path) -> None:
    pairs = dataset.load(own)
    dataset.write_pair(tmp_path / "polypgen", "other", pairs.images[9], pairs.masks[9])
    with pytest.raises(UserError, match="PolypGen are training images: other"):
        augment.run(changed(own, segment={"polypgen": str(tmp_path / "polypgen")}))
    write_set(own.folder / "style" / "2-Styled-Diff", of_sources(["phantom_99999"]))
    with pytest.raises(UserError, match="phantom_99999"):
        augment.run(own)
    assert not networks.given


# ---- recipes


def recipes(p: Params) -> dict[str, runs.Recipe]:
    sets = trainsets.read(p)
    return {e.label: segment.recipe(p, sets, segment.checked(p), e, *augment.chosen(p, sets, e))
            for e in augment.grid(p, len(sets.real))}


@pytest.mark.parametrize("change", [{"seeds": 3}, {"ratios": [1, 2]}, {"types": None}, {"sizes": [5, 3]}])
def test_a_larger_grid_keeps_what_is_finished(template: Path, change: dict) -> None:
    p = small(template)
    assert recipes(p).items() <= recipes(others(p, **change)).items()


def test_rule_and_alpha_change_what_they_touch(template: Path) -> None:
    p = small(template)
    first = recipes(p)
    for change in ({"rule": "add"}, {"alpha": 0.5}):
        second = recipes(others(p, **change))
        assert second["Real-N5-seed0"] == first["Real-N5-seed0"]
        assert second["2-Styled-Diff-N5-r2-seed0"] != first["2-Styled-Diff-N5-r2-seed0"]


# ---- a generator that sees the subset alone


def subset_params(p: Params, **augment_values: object) -> Params:
    return others(p, generator_sees="subset", **augment_values)


def test_the_generators_run_knows_the_training_pairs_of_the_subset_and_no_others(written: Params,
                                                                                 sets: Sets) -> None:
    p = subset_params(written)
    folders = set()
    for size in SIZES[:2]:
        for seed in range(SEEDS):
            train, valid = augment.subset(p, sets, size, seed)
            mine = augment.own(p, sets, size, seed)
            known = dataset.load(mine)
            assert known.names == train
            assert not set(known.names) & set(valid)
            places = [sets.real.names.index(name) for name in train]
            assert (known.images == sets.real.images[places]).all()
            assert trainsets.sources(mine) == len(train)
            assert list(trainsets.types(mine)) == ["1-Diff", "1-Styled-Diff"]
            assert (mine.seed, mine.model, mine.process) == (p.seed, p.model, p.process)
            folders.add(mine.folder)
    assert len(folders) == 2 * SEEDS
    assert all(p.folder / "augment" / "generators" == folder.parent for folder in folders)


def test_nothing_from_outside_reaches_the_generators_run(written: Params, sets: Sets) -> None:
    """Neither checkpoints nor a full-set model or base, which saw more."""
    outside = {"checkpoints": "elsewhere", "full_images": 9, "base_images": 9}
    p = changed(subset_params(written), train=outside)
    mine = augment.own(p, sets, 4, 0)
    assert (mine.train.checkpoints, mine.train.full_images, mine.gan.source) == (None, None, None)
    assert mine.train.base_images is None
    assert mine.inpaint.sources is None


def test_the_synthetic_pairs_come_from_the_generators_own_folders(own: Params, networks: Networks,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    p = changed(subset_params(own, seeds=2), gan={"source": "singan"})
    write_set(p.folder / "gan" / "GAN", of_sources(dataset.load(p).names[:6], 2))
    usual, asked = style.run, []

    def styled(p: Params) -> object:
        if p.cluster.k == 1 and not runs.current(trainsets.types(p)["1-Styled-Diff"], {}):
            asked.append(p)
            write_all(p)
        return usual(p)

    monkeypatch.setattr(style, "run", styled)
    result = augment.run(p)
    sets = trainsets.read(p)
    assert [one.folder for one in asked] == [augment.own(p, sets, 5, seed).folder for seed in range(2)]
    assert result.runs["status"].tolist() == ["ok"] * 6
    assert set(result.runs["data_type"]) == {"Real", "1-Styled-Diff", "GAN"}
    assert set(result.runs["generator_sees"]) == {"subset"}
    for e in augment.grid(p, 6):
        mine = augment.of(p, sets, e)
        if e.data_type == "1-Styled-Diff":
            place = mine.folders[e.data_type]
            assert place == augment.own(p, sets, 5, e.seed).folder / "style" / "1-Styled-Diff"
            train, valid = augment.subset(p, sets, 5, e.seed)
            assert set(mine.manifests[e.data_type]["source"]) == set(train)
            choice, _ = augment.chosen(p, mine, e)
            image, _ = pairsets.read_pair(place, choice.synthetic[0])
            assert (trainsets.load(mine, e.data_type, choice).images[len(choice.real)] == image).all()
            assert not {origin(name) for name in networks.given[e.label][0]} & set(valid)
        else:
            assert mine is sets
    networks.given.clear()
    augment.run(p)
    assert not networks.given


def test_a_generators_files_are_hashed_once_for_all_its_experiments(own: Params, networks: Networks,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    p = subset_params(own, sizes=[4, 5], seeds=2, ratios=[1, 2], types=["1-Diff", "1-Styled-Diff"])
    sets = trainsets.read(p)
    for size, seed in augment._small(p, sets):
        write_all(augment.own(p, sets, size, seed))
    monkeypatch.setattr(segment, "pace", lambda p: 1.0)
    looked, made = [], trainsets.made
    monkeypatch.setattr(trainsets, "made", lambda p: looked.append(p.folder) or made(p))
    assert "20 experiments, 0 finished" in augment.planned(p)
    assert sorted(looked) == sorted([p.folder, *(augment.own(p, sets, *small).folder
                                                 for small in augment._small(p, sets))])
    every = augment.of_grid(p, sets)
    assert list(every) == augment.grid(p, len(sets.real))
    for e, mine in every.items():
        one = augment.of(p, sets, e)
        assert mine.folders == one.folders
        assert all(mine.manifests[name].equals(one.manifests[name]) for name in one.manifests)


def test_the_plan_of_subsets_says_what_is_not_estimated(own: Params, networks: Networks,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "pace", lambda p: 1.0)
    text = augment.planned(subset_params(own, seeds=3))
    assert text.startswith("Small sets: 6 experiments, 0 finished, 6 to do.")
    assert text.endswith("chapters 1 to 4 are run for 3 small sets; their time is not estimated.")


# ---- the plan


def test_the_plan_before_and_after(own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "pace", lambda p: 0.01)
    calls, load = [], testsets.load
    monkeypatch.setattr(testsets, "load", lambda p: calls.append(1) or load(p))
    assert augment.planned(own).startswith("Small sets: 2 experiments, 0 finished, 2 to do.\n")
    assert len(calls) == 1
    assert not (own.folder / "augment").exists()
    augment.run(own)
    assert augment.planned(own).endswith("Nothing is left to do.")
    assert "4 experiments, 2 finished, 2 to do." in augment.planned(others(own, seeds=2))


def test_the_plan_needs_no_synthetic_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "pace", lambda p: 1.0)
    text = augment.planned(values(tmp_path / "run"))
    assert text.startswith("Small sets: 14 experiments, 0 finished, 14 to do.")


@pytest.mark.parametrize(("rule", "pairs"), [("replace", (4, 12)), ("add", (8, 12))])
def test_what_is_expected_is_the_mean_of_what_is_chosen(tmp_path: Path, rule: str,
                                                        pairs: tuple[int, int]) -> None:
    p = values(tmp_path, augment={"rule": rule})
    train, valid = augment.expected(p, Experiment("augment", "GAN", size=10, ratio=3))
    assert (len(train.real), len(train.synthetic), len(valid)) == (*pairs, 2)
    train, valid = augment.expected(p, Experiment("augment", "Real", size=10))
    assert (len(train.real), len(train.synthetic), len(valid)) == (8, 0, 2)


def test_pairs_of_another_generator_are_not_a_small_sets_own(own: Params, networks: Networks,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that fails now may have left the pairs of other parameters."""
    p = changed(subset_params(own), gan={"source": None})
    mine = augment.own(p, trainsets.read(p), 5, 0)
    write_all(mine)
    e = augment.grid(p, 6)[-1]
    assert len(augment.of(p, trainsets.read(p), e).manifests["1-Styled-Diff"])
    folder = trainsets.types(mine)["1-Styled-Diff"]
    monkeypatch.setattr(style, "run", lambda p: runs.current(folder, {"other": 1}))
    assert augment.of(p, trainsets.read(p), e).manifests["1-Styled-Diff"].empty


def test_a_generator_that_fails_fails_its_own_experiments_and_is_tried_again(
        own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    p = changed(subset_params(own, seeds=2), gan={"source": None})
    usual, broken = style.run, [True]

    def styled(p: Params) -> object:
        if p.cluster.k == 1 and not runs.current(trainsets.types(p)["1-Styled-Diff"], {}):
            if p.folder.name.endswith("seed1") and broken:
                raise RuntimeError("no memory left")
            write_all(p)
        return usual(p)

    monkeypatch.setattr(style, "run", styled)
    runs_of = augment.run(p).runs.set_index(["data_type", "seed"])["status"]
    assert runs_of["Real"].tolist() == ["ok"] * 2
    assert runs_of["1-Styled-Diff", 0] == "ok"
    assert "its generator failed" in runs_of["1-Styled-Diff", 1]
    assert augment.generators(p, trainsets.read(p))["status"].tolist() == ["ok", "failed"]
    note = augment.own(p, trainsets.read(p), 5, 1).folder / "traceback.txt"
    assert "no memory left" in note.read_text()
    assert "3 finished, 1 to do" in augment.planned(p)
    broken.clear()
    assert (augment.run(p).runs["status"] == "ok").all()
    assert not note.exists()


def test_the_seconds_of_generators_count_once_and_not_again_where_nothing_is_made(
        own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    p = subset_params(own, seeds=2, ratios=[1, 2])
    usual, broken, now = style.run, [True], [0.0]

    def styled(p: Params) -> object:
        now[0] += 1  # to look for what is finished
        if p.cluster.k == 1 and not runs.current(trainsets.types(p)["1-Styled-Diff"], {}):
            now[0] += 30
            if p.folder.name.endswith("seed1") and broken:
                raise RuntimeError("no memory left")
            write_all(p)
        return usual(p)

    monkeypatch.setattr(style, "run", styled)
    monkeypatch.setattr(augment, "perf_counter", lambda: now[0])
    first = augment.run(p)
    assert first.generators["seconds"].tolist() == [31.0, 31.0]
    assert first.seconds == pytest.approx(62.0 + first.runs["seconds"].sum())
    broken.clear()
    second = augment.run(p)
    assert second.generators["seconds"].tolist() == [31.0, 62.0], "what failed and what came of it"
    assert second.generators["status"].tolist() == ["ok", "ok"]
    assert len(second.runs) == 6
    assert second.seconds == pytest.approx(93.0 + second.runs["seconds"].sum())
    table = pd.read_csv(second.folder / "generators.csv")
    assert table.to_numpy().tolist() == [[5, 0, "ok", 31.0], [5, 1, "ok", 62.0]]
    assert augment.run(own).generators.empty


def test_a_generator_is_trained_on_a_subset_from_its_pairs_to_the_result(nano: dict) -> None:
    p = params.validate({**nano, "gan": {"source": None},
                         "augment": {"sizes": [4], "generator_sees": "subset"},
                         "segment": {**nano["segment"], "epochs": 1}})
    result = augment.run(p)
    status = result.runs.set_index("data_type")["status"]
    assert status["Real"] == "ok"
    e = next(e for e in augment.grid(p, 4) if e.data_type == "1-Styled-Diff")
    mine = augment.own(p, trainsets.read(p), 4, 0)
    train, _ = augment.subset(p, trainsets.read(p), 4, 0)
    assert runs.read_json(mine.folder / "data" / "made.json")["pairs"] == len(train)
    made = augment.of(p, trainsets.read(p), e).manifests["1-Styled-Diff"]
    assert set(made["source"]) <= set(train)
    # So small a model may paint no polyp at all.
    assert status["1-Styled-Diff"] == "ok" if len(made) else "of no pair" in status["1-Styled-Diff"]
