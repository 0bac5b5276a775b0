"""Chapter 7: small real sets and what joins them, paired over data types, and never a pair from outside."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_up import (
    REAL,
    SIZE,
    SMALL,
    SOURCES,
    Networks,
    changed,
    loaded_tests,
    noise,
    of_sources,
    real_pairs,
    sets_of,
    supply_of,
    values,
    workspace,
    write_all,
    write_set,
)

from diffusegen_core.chapters import augment, segment, subruns
from diffusegen_core.chapters.augment import GeneratorSets, Subset
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets, types
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.run import Run
from diffusegen_core.segmentation import experiments, trainsets, trials
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.segmentation.trainsets import Choice, Sets, Supply
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.stamps import read_stamp

LOST = "phantom_00003"  # a source whose styled pairs all failed
SIZES, SEEDS = [4, 10, 24], 4
DIFF, STYLED = DataType.parse("2-Diff"), DataType.parse("2-Styled-Diff")
OWN_STYLED = DataType.parse("1-Styled-Diff")


def run(p: Params, generators: GeneratorSets | None = None, **options: bool) -> trials.Tested:
    return augment.run(workspace(p, **options), sets_of(p), loaded_tests(p), p.augment, p.segment,
                       generators or {})


def planned(p: Params, generators: GeneratorSets | None = None) -> str:
    return augment.planned(workspace(p, writable=False), supply_of(p), SIZE, RGB_AND_MASK, p.augment,
                           p.segment, sets_of(p), loaded_tests(p), generators)


def grid(p: Params, sources: int | None = None) -> list[Experiment]:
    supply = supply_of(p) if sources is None else with_sources(supply_of(p), sources)
    return augment.grid(supply, p.augment, p.segment)


def with_sources(supply: Supply, sources: int) -> Supply:
    return {data_type: replace(amount, sources=sources) for data_type, amount in supply.items()}


def chosen(p: Params, sets: Sets, e: Experiment) -> tuple[Choice, Choice]:
    return augment.chosen(p.seed, sets, p.augment, p.segment, e)


def subset(p: Params, sets: Sets, size: int, seed: int) -> tuple[list[str], list[str]]:
    return augment.subset(p.seed, sets.real.names, size, seed, p.segment)


def sizes_of(p: Params, sources: int) -> list[int]:
    return augment.sizes(sources, p.augment, p.segment)


def types_of(p: Params) -> list[str]:
    return [data_type.name for data_type in augment.types(supply_of(p), p.augment)]


@pytest.fixture(scope="module")
def written(made_up_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Params:
    """A run that no test changes."""
    folder = shutil.copytree(made_up_run, tmp_path_factory.mktemp("written") / "run")
    p = values(folder, augment={"sizes": SIZES, "seeds": SEEDS})
    pairs = of_sources(real_pairs(p).names[:SOURCES])
    write_set(workspace(p), STYLED, [pair for pair in pairs if pair[1] != LOST], noise(9))
    return p


@pytest.fixture(scope="module")
def sets(written: Params) -> Sets:
    return sets_of(written)


@pytest.fixture
def own(small_made_up_run: Path, tmp_path: Path) -> Params:
    """A run of the test's own: Real and 2-Styled-Diff at r = 2, five pairs of six sources."""
    shutil.copytree(small_made_up_run, tmp_path / "run")
    return small(tmp_path / "run")


def small(folder: Path) -> Params:
    return values(folder, **{**SMALL, "augment": {"sizes": [5], "ratios": [2], "alpha": 1.0}})


def others(p: Params, **augment_values: object) -> Params:
    return changed(p, augment=augment_values)


def of_type(p: Params, sets: Sets, data_type: DataType = GAN) -> Iterator[tuple[Experiment, Choice, Choice]]:
    for e in grid(p):
        if e.data_type == data_type:
            yield e, *chosen(p, sets, e)


def origin(name: str) -> str:
    return name.rpartition("_")[0]


# ---- the grid


def test_the_grid_has_every_size_type_ratio_and_seed_and_real_once(tmp_path: Path) -> None:
    p = values(tmp_path, augment={"sizes": [4, 10], "seeds": 2, "ratios": [1, 3]})
    expected = [e for size in (4, 10) for e in (
        *(Experiment("augment", types.REAL, size=size, seed=seed) for seed in (0, 1)),
        *(Experiment("augment", name, size=size, ratio=r, seed=seed)
          for name in (GAN, STYLED) for r in (1, 3) for seed in (0, 1)))]
    assert grid(p, SOURCES) == expected


@pytest.mark.parametrize(("sources", "sizes"), [
    (348, [16, 32, 64, 128]), (64, [16, 32, 64]), (16, [16]), (12, [12])])
def test_the_papers_sizes_as_far_as_there_are_sources(tmp_path: Path, sources: int, sizes: list[int]) -> None:
    p = values(tmp_path, augment={"sizes": None})
    assert sizes_of(p, sources) == sizes
    assert {e.ratio for e in grid(p, sources)} == {None, 1, 2, 3}, "ratios: as many as samples"


def test_a_size_beyond_the_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augment\.sizes: 25 is more than the 24 .* inpaint\.sources"):
        grid(values(tmp_path, augment={"sizes": [4, 25]}), SOURCES)


def test_more_clusters_than_a_generator_sees_pairs_are_refused(tmp_path: Path) -> None:
    p = values(tmp_path, augment={"sizes": [4, 10], "generator_sees": "subset", "subset_clusters": 3})
    assert sizes_of(p, SOURCES) == [4, 10]
    for change in ({"subset_clusters": 4}, {"subset_clusters": 14, "sizes": None}):
        with pytest.raises(UserError, match=r"subset_clusters: \d+ is more than the (3|13) .*\.sizes"):
            sizes_of(others(p, **change), SOURCES)
    assert sizes_of(others(p, subset_clusters=4, generator_sees="all"), SOURCES) == [4, 10]
    with pytest.raises(UserError, match=r"augment\.sizes: 30 .* augment\.subset_clusters: 4"):
        sizes_of(others(p, subset_clusters=4, sizes=[4, 30]), SOURCES)


def test_the_types_are_as_asked(tmp_path: Path) -> None:
    p = values(tmp_path, augment={"types": ["2-Diff"]})
    assert types_of(p) == ["2-Diff"]
    assert {e.data_type for e in grid(others(p, types=[]), SOURCES)} == {types.REAL}
    assert types_of(changed(p, gan={"source": None}, augment={"types": None})) == ["2-Styled-Diff"]
    assert types_of(others(p, types=None, generator_sees="subset")) == ["GAN", "1-Styled-Diff"]
    with pytest.raises(UserError, match=r"no data type 20-Diff to add; there are GAN, 2-Diff, 2-Styled-Diff"):
        types_of(others(p, types=["20-Diff"]))
    with pytest.raises(UserError, match="no data type 2-Diff to add; there are GAN, 1-Diff, 1-Styled-Diff"):
        types_of(others(p, generator_sees="subset"))


def test_what_is_named_twice_counts_once(own: Params, networks: Networks) -> None:
    """Networks, their costs, and the seconds of generators, are of what there is."""
    twice = others(own, sizes=[5, 5], ratios=[2, 2], types=["2-Styled-Diff", "2-Styled-Diff"])
    assert grid(twice) == grid(others(own, types=["2-Styled-Diff"]))
    p = subset_params(own, sizes=[5, 5])
    assert len(run(p, generators(p)).generators) == len(subsets(p)) == 1
    assert "for 1 small set;" in planned(p)
    synthetic = changed(own, segment={"samples": [2, 2]})
    assert len(segment.grid(supply_of(own), synthetic.segment)) == 3


# ---- leakage


@pytest.mark.parametrize("rule", ["replace", "add"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_no_pair_of_a_validation_source_nor_from_outside_is_trained_on(written: Params, sets: Sets,
                                                                       rule: str, alpha: float) -> None:
    p = others(written, rule=rule, alpha=alpha, types=["GAN", "2-Diff", "2-Styled-Diff"])
    every = grid(p)
    assert len(every) == len(SIZES) * SEEDS * (1 + 3 * 3)
    for e in every:
        ours, kept = subset(p, sets, e.size, e.seed)
        assert (len(ours) + len(kept), len(kept)) == (e.size, round(0.2 * e.size))
        assert not set(ours) & set(kept)
        train, valid = chosen(p, sets, e)
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
                for name in (GAN, DIFF):
                    for ratio in (1, 2, 3):
                        e = Experiment("augment", name, size=size, ratio=ratio, seed=seed)
                        train, valid = chosen(others(written, rule=rule), sets, e)
                        mine = frozenset(map(origin, train.synthetic))
                        drawn.add(mine)
                        subsets.add((frozenset(train.real) | mine, valid))
            assert len(drawn) == len(subsets) == 1
            real = chosen(written, sets, Experiment("augment", types.REAL, size=size, seed=seed))
            assert {(frozenset(real[0].real), real[1])} == subsets


def test_the_same_sample_numbers_are_drawn_of_all_types(written: Params, sets: Sets) -> None:
    first, second = (Experiment("augment", name, size=24, ratio=1, seed=1) for name in (GAN, DIFF))
    found = chosen(written, sets, first)[0].synthetic
    assert found == chosen(written, sets, second)[0].synthetic
    assert len({name.rpartition("_")[2] for name in found}) == 3, "not the first alone"


def test_more_synthetic_pairs_hold_the_fewer(written: Params, sets: Sets) -> None:
    few, many = (chosen(written, sets, Experiment("augment", GAN, size=24, ratio=r))[0].synthetic
                 for r in (1, 3))
    assert set(few) < set(many)
    assert len(many) == 3 * len(few)


def test_another_seed_gives_other_pairs(written: Params, sets: Sets) -> None:
    found = [subset(written, sets, 10, seed) for seed in range(SEEDS)]
    assert len({tuple(sorted(train + valid)) for train, valid in found}) == SEEDS
    assert len({tuple(valid) for _, valid in found}) == SEEDS
    drawn = {choice.synthetic for e, choice, _ in of_type(written, sets) if (e.size, e.ratio) == (24, 1)}
    assert len(drawn) == SEEDS
    other = written.model_copy(update={"seed": 1})
    assert subset(other, sets, 10, 0) != found[0]


def test_a_larger_set_holds_the_smaller(written: Params, sets: Sets) -> None:
    for seed in range(SEEDS):
        found = [set().union(*subset(written, sets, size, seed)) for size in SIZES]
        assert found[0] < found[1] < found[2]


def test_one_source_more_does_not_change_which_others_are_drawn(written: Params, sets: Sets) -> None:
    fewer = replace(sets, real=sets.real.take(range(1, SOURCES)))
    gone = sets.real.names[0]
    for seed in range(SEEDS):
        e = Experiment("augment", GAN, size=10, ratio=3, seed=seed)
        before, after = ({name: name in map(origin, choice.synthetic)
                          for name in (*choice.real, *map(origin, choice.synthetic))}
                         for choice in (chosen(written, one, e)[0] for one in (fewer, sets)))
        assert all(before[name] == after[name] for name in before.keys() & after.keys())
        mine, all_of_them = (set().union(*subset(written, one, 10, seed)) for one in (fewer, sets))
        assert mine - all_of_them == set() or (len(mine - all_of_them) == 1 and gone in all_of_them)


# ---- rules


@pytest.mark.parametrize(("rule", "real"), [("replace", 0), ("add", 1)])
def test_replace_and_add_give_the_numbers_that_they_say(written: Params, sets: Sets, rule: str,
                                                        real: int) -> None:
    p = others(written, rule=rule)
    shares = []
    for e, train, _ in of_type(p, sets):
        drawn = len(set(map(origin, train.synthetic)))
        ours = len(subset(p, sets, e.size, e.seed)[0])
        assert len(train.synthetic) == drawn * e.ratio
        assert len(train.real) == ours - drawn + real * drawn
        assert len(set(train.synthetic)) == len(train.synthetic)
        shares += [drawn / ours] * ours
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("rule", ["replace", "add"])
def test_alpha_0_is_reals_own_set(written: Params, sets: Sets, rule: str) -> None:
    p = others(written, alpha=0.0, rule=rule)
    for e, *found in of_type(p, sets):
        real = Experiment("augment", types.REAL, size=e.size, seed=e.seed)
        assert tuple(found) == chosen(p, sets, real)


def test_alpha_1_replaces_every_real_pair_that_has_synthetic_ones(written: Params, sets: Sets) -> None:
    p = others(written, alpha=1.0)
    kept = set()
    for e, train, _ in of_type(p, sets, STYLED):
        ours = subset(p, sets, e.size, e.seed)[0]
        assert train.real == ((LOST,) if LOST in ours else ()), "of which nothing was made: it stays"
        assert len(train.synthetic) == e.ratio * (len(ours) - len(train.real))
        kept |= set(train.real)
    assert kept == {LOST}
    assert all(train.real == () for _, train, _ in of_type(p, sets))


def test_more_than_there_are_takes_what_there_is(own: Params) -> None:
    names = real_pairs(own).names[:6]
    fewer = [pair for pair in of_sources(names, 2) if pair[1:] != (names[1], 2)]
    write_set(workspace(own), STYLED, fewer, noise(0))
    p = others(own, sizes=[6])
    sets = sets_of(p)
    for seed in range(5):
        train, _ = chosen(p, sets, Experiment("augment", STYLED, size=6, ratio=2, seed=seed))
        ours = subset(p, sets, 6, seed)[0]
        assert len(train.synthetic) == 2 * len(ours) - (names[1] in ours)


# ---- the run


def test_the_networks_are_given_the_chosen_pairs(own: Params, networks: Networks) -> None:
    p = others(own, seeds=2, alpha=0.5)
    result = run(p)
    sets = sets_of(p)
    assert list(networks.given) == ["Real-N5-seed0", "Real-N5-seed1", "2-Styled-Diff-N5-r2-seed0",
                                    "2-Styled-Diff-N5-r2-seed1"]
    for e in grid(p, 6):
        train, valid = chosen(p, sets, e)
        assert networks.given[e.label] == ([*train.real, *train.synthetic], list(valid.real))
    assert result.runs["generator_sees"].tolist() == ["all"] * 4
    assert result.images["size"].eq(5).all()
    assert result.images.groupby(["data_type", "ratio", "seed"], dropna=False).size().tolist() == [5] * 4
    assert result.folder == p.folder / "augment"
    networks.given.clear()
    pd.testing.assert_frame_equal(run(p).images, result.images)
    assert not networks.given


def run_segment(p: Params) -> trials.Tested:
    return segment.run(workspace(p), sets_of(p), loaded_tests(p), p.segment)


def test_both_chapters_start_from_the_same_weights_and_share_the_test_images(own: Params,
                                                                             networks: Networks) -> None:
    small_sets, alone = run(own), run_segment(changed(own, segment={"types": ["Real"]}))
    assert set(small_sets.images["image"]) == set(alone.images["image"])
    assert set(networks.given["Real-N5-seed0"][0]) < set(real_pairs(own).names[:6])


@pytest.mark.parametrize("pairs", [[], [(f"chk_id_{i}_gen_scale_0_{j}_img", "", j + 1) for i in range(6)
                                        for j in range(2)]])
def test_a_type_whose_sources_are_unknown_is_a_failed_row(own: Params, networks: Networks,
                                                          pairs: list) -> None:
    """None of its pairs would join, and the row under its name would be Real's."""
    p = changed(own, gan={"source": "elsewhere"}, augment={"types": ["GAN", "2-Styled-Diff"]})
    write_set(workspace(p), GAN, pairs, noise(0))
    status = run(p).runs.set_index("data_type")["status"]
    assert status[["Real", "2-Styled-Diff"]].tolist() == ["ok", "ok"]
    assert status["GAN"] == ("failed: UserError: GAN-N5-r2-seed0: no pair of GAN is known to be made from a "
                             "real pair of the run, so none can replace or join its source.")


def test_one_failure_leaves_the_others(own: Params, networks: Networks) -> None:
    networks.fails = lambda title: "Styled" in title
    assert run(own).runs["status"].tolist() == [
        "ok", "failed: UserError: This network was told to fail."]


def test_a_single_pair_cannot_be_split(own: Params, networks: Networks) -> None:
    status = run(others(own, sizes=[1])).runs["status"]
    assert status.str.contains("1 pairs to train on and 0 to choose the best epoch").tolist() == [True, False]


def test_a_foreign_source_and_a_training_image_in_a_test_set_are_refused(own: Params, networks: Networks,
                                                                         tmp_path: Path) -> None:
    pairs = real_pairs(own)
    dataset.write_pair(tmp_path / "polypgen", "other", pairs.images[9], pairs.masks[9])
    with pytest.raises(UserError, match="PolypGen are training images: other"):
        run(changed(own, segment={"polypgen": str(tmp_path / "polypgen")}))
    write_set(workspace(own), STYLED, of_sources(["phantom_99999"]), noise(0))
    with pytest.raises(UserError, match="phantom_99999"):
        run(own)
    assert not networks.given


# ---- recipes


def recipes(p: Params) -> dict[str, Recipe]:
    sets, tests = sets_of(p), loaded_tests(p)
    return {e.label: trials.recipe(p.seed, p.segment, e, sets, *chosen(p, sets, e), tests) for e in grid(p)}


@pytest.mark.parametrize("change", [{"seeds": 3}, {"ratios": [1, 2]}, {"types": None}, {"sizes": [5, 3]}])
def test_a_larger_grid_keeps_what_is_finished(small_made_up_run: Path, change: dict) -> None:
    p = small(small_made_up_run)
    assert recipes(p).items() <= recipes(others(p, **change)).items()


def test_rule_and_alpha_change_what_they_touch(small_made_up_run: Path) -> None:
    p = small(small_made_up_run)
    first = recipes(p)
    for change in ({"rule": "add"}, {"alpha": 0.5}):
        second = recipes(others(p, **change))
        assert second["Real-N5-seed0"] == first["Real-N5-seed0"]
        assert second["2-Styled-Diff-N5-r2-seed0"] != first["2-Styled-Diff-N5-r2-seed0"]


# ---- a generator that sees the subset alone


def subset_params(p: Params, **augment_values: object) -> Params:
    return others(p, generator_sees="subset", **augment_values)


def subsets(p: Params) -> list[Subset]:
    return augment.subsets(p.seed, real_pairs(p).names[:supply_of(p)[types.REAL].sources], p.augment,
                           p.segment)


def own_run(p: Params, one: Subset) -> Params:
    """The parameters of the run of a small set's generator."""
    changes = augment.own(p.augment, one.train)
    merged = params.merged(params.plain(p), {**changes, "run_dir": str(p.folder / one.folder)})
    return params.validate(merged)


def generators(p: Params, failing: Callable[[Subset], bool] = lambda one: False) -> dict:
    """The sets of all generators, made up; or None, where one fails."""
    made: dict[tuple[int, int], Sets | None] = {}
    for one in subsets(p):
        child = own_run(p, one)

        def make(one: Subset = one, child: Params = child) -> None:
            if failing(one):
                raise RuntimeError("no memory left")
            write_all(child)

        subruns.attempt(child.folder, make)
        failed = (child.folder / experiments.TRACEBACK).is_file()
        made[one.size, one.seed] = None if failed else sets_of(child)
    return made


def test_the_generators_run_knows_the_training_pairs_of_the_subset_and_no_others(written: Params,
                                                                                 sets: Sets) -> None:
    p = subset_params(written, sizes=SIZES[:2])
    folders = set()
    assert [(one.size, one.seed) for one in subsets(p)] == [(size, seed) for size in SIZES[:2]
                                                            for seed in range(SEEDS)]
    for one in subsets(p):
        train, valid = subset(p, sets, one.size, one.seed)
        mine = own_run(p, one)
        known = real_pairs(mine)
        assert known.names == train == one.train
        assert not set(known.names) & set(valid)
        places = [sets.real.names.index(name) for name in train]
        assert (known.images == sets.real.images[places]).all()
        supply = supply_of(mine, len(known))
        assert list(supply) == [types.REAL, OWN_STYLED.inpainted, OWN_STYLED]
        assert supply[types.REAL].sources == len(train)
        assert (mine.seed, mine.model, mine.process) == (p.seed, p.model, p.process)
        folders.add(mine.folder)
    assert len(folders) == 2 * SEEDS
    assert all(p.folder / "augment" / "generators" == folder.parent for folder in folders)
    assert subsets(written) == [], "whose generator sees all pairs"


def test_nothing_from_outside_reaches_the_generators_run(written: Params) -> None:
    """Neither checkpoints nor a full-set model or base, which saw more."""
    outside = {"checkpoints": "elsewhere", "full_images": 9, "base_images": 9}
    p = changed(subset_params(written), train=outside)
    mine = own_run(p, subsets(p)[0])
    assert (mine.train.checkpoints, mine.train.full_images, mine.gan.source) == (None, None, None)
    assert mine.train.base_images is None
    assert mine.inpaint.sources is None
    assert mine.cluster.file is None


def test_the_synthetic_pairs_come_from_the_generators_own_folders(own: Params, networks: Networks) -> None:
    p = changed(subset_params(own, seeds=2), gan={"source": "singan"})
    write_set(workspace(p), GAN, of_sources(real_pairs(p).names[:6], 2), noise(0))
    known, sets = generators(p), sets_of(p)
    result = augment.run(workspace(p), sets, loaded_tests(p), p.augment, p.segment, known)
    assert result.runs["status"].tolist() == ["ok"] * 6
    assert set(result.runs["data_type"]) == {"Real", "1-Styled-Diff", "GAN"}
    assert set(result.runs["generator_sees"]) == {"subset"}
    every = augment.of_grid(sets, p.augment, p.segment, known)
    for e, mine in every.items():
        if e.data_type == OWN_STYLED:
            made = mine.sets[OWN_STYLED]
            assert made.folder == p.folder / Subset(5, e.seed, []).folder / "style" / "1-Styled-Diff"
            train, valid = subset(p, sets, 5, e.seed)
            assert set(made.manifest["source"]) == set(train)
            choice, _ = chosen(p, mine, e)
            image, _ = pairsets.read_pair(made.folder, choice.synthetic[0])
            assert (trainsets.load(mine.file, made.folder, choice).images[len(choice.real)] == image).all()
            assert not {origin(name) for name in networks.given[e.label][0]} & set(valid)
        else:
            assert mine is sets
    networks.given.clear()
    augment.run(workspace(p), sets, loaded_tests(p), p.augment, p.segment, known)
    assert not networks.given


def sets_of_all(p: Params) -> Sets:
    return sets_of(p)


def test_a_generators_sets_are_looked_at_once_for_all_its_experiments(own: Params) -> None:
    p = subset_params(own, sizes=[4, 5], seeds=2, ratios=[1, 2], types=["1-Diff", "1-Styled-Diff"])
    every = augment.of_grid(sets_of(p), p.augment, p.segment, generators(p))
    assert list(every) == grid(p)
    assert len(every) == 20
    assert len({id(mine) for mine in every.values()}) == 1 + 4


def test_the_plan_of_subsets_says_what_is_not_estimated(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pace", lambda *_: 1.0)
    text = planned(subset_params(own, seeds=3))
    assert text.startswith("Small sets: 6 experiments, 0 finished, 6 to do.")
    assert text.endswith("chapters 1 to 4 are run for 3 small sets; their time is not estimated.")


# ---- the plan


def test_the_plan_before_and_after(own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pace", lambda *_: 0.01)
    assert planned(own).startswith("Small sets: 2 experiments, 0 finished, 2 to do.\n")
    assert not (own.folder / "augment").exists()
    run(own)
    assert planned(own).endswith("Nothing is left to do.")
    assert "4 experiments, 2 finished, 2 to do." in planned(others(own, seeds=2))


def test_the_plan_needs_no_synthetic_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pace", lambda *_: 1.0)
    p = values(tmp_path / "run")
    text = augment.planned(workspace(p, writable=False), supply_of(p, REAL), SIZE, RGB_AND_MASK, p.augment,
                           p.segment)
    assert text.startswith("Small sets: 14 experiments, 0 finished, 14 to do.")
    assert not p.folder.exists()


@pytest.mark.parametrize(("rule", "pairs"), [("replace", (4, 12)), ("add", (8, 12))])
def test_what_is_expected_is_the_mean_of_what_is_chosen(tmp_path: Path, rule: str,
                                                        pairs: tuple[int, int]) -> None:
    p = values(tmp_path, augment={"rule": rule})
    train, valid = augment.expected(p.augment, p.segment, Experiment("augment", GAN, size=10, ratio=3))
    assert (len(train.real), len(train.synthetic), len(valid)) == (*pairs, 2)
    train, valid = augment.expected(p.augment, p.segment, Experiment("augment", types.REAL, size=10))
    assert (len(train.real), len(train.synthetic), len(valid)) == (8, 0, 2)


def test_a_generator_that_fails_fails_its_own_experiments_and_is_tried_again(own: Params,
                                                                             networks: Networks) -> None:
    p = changed(subset_params(own, seeds=2), gan={"source": None})
    known = generators(p, failing=lambda one: one.seed == 1)
    result = run(p, known)
    status = result.runs.set_index(["data_type", "seed"])["status"]
    assert status["Real"].tolist() == ["ok"] * 2
    assert status["1-Styled-Diff", 0] == "ok"
    assert "its generator failed" in status["1-Styled-Diff", 1]
    assert result.generators["status"].tolist() == ["ok", "failed"]
    note = p.folder / Subset(5, 1, []).folder / "traceback.txt"
    assert "no memory left" in note.read_text()
    assert "3 finished, 1 to do" in planned(p, known)
    assert (run(p, generators(p)).runs["status"] == "ok").all()
    assert not note.exists()


def test_a_generator_that_is_not_made_yet_is_told(own: Params, networks: Networks) -> None:
    p = subset_params(own)
    result = run(p, {(5, 0): None})
    assert result.generators["status"].tolist() == ["to do"]
    assert "no pair of 1-Styled-Diff is known" in result.runs["status"].iloc[-1]


def test_the_seconds_of_generators_count_once_and_not_again_where_nothing_is_made(
        own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    p, now = subset_params(own, seeds=2, ratios=[1, 2]), [0.0]

    def slowly(failing: bool) -> dict:
        def fails(one: Subset) -> bool:
            now[0] += 31 if not (own_run(p, one).folder / "style").exists() else 1
            return failing and one.seed == 1
        return generators(p, fails)

    monkeypatch.setattr(subruns, "perf_counter", lambda: now[0])
    first = run(p, slowly(failing=True))
    assert first.generators["seconds"].tolist() == [31.0, 31.0]
    assert first.seconds == pytest.approx(62.0 + first.runs["seconds"].sum())
    second = run(p, slowly(failing=False))
    assert second.generators["seconds"].tolist() == [31.0, 62.0], "what failed and what came of it"
    assert second.generators["status"].tolist() == ["ok", "ok"]
    assert len(second.runs) == 6
    assert second.seconds == pytest.approx(93.0 + second.runs["seconds"].sum())
    table = pd.read_csv(second.folder / "generators.csv")
    assert table.to_numpy().tolist() == [[5, 0, "ok", 31.0], [5, 1, "ok", 62.0]]
    assert run(own).generators.empty


def test_a_read_only_workspace_writes_no_view(own: Params, networks: Networks) -> None:
    first = run(own)
    before = {name: (own.folder / name).stat().st_mtime_ns for name in files.below(own.folder)}
    pd.testing.assert_frame_equal(run(own, writable=False).images, first.images)
    assert {name: (own.folder / name).stat().st_mtime_ns for name in files.below(own.folder)} == before


def test_a_generator_is_trained_on_a_subset_from_its_pairs_to_the_result(nano: dict) -> None:
    """The whole way, through Run."""
    run = Run(params.validate({**nano, "gan": {"source": None},
                               "augment": {"sizes": [4], "generator_sees": "subset"},
                               "segment": {**nano["segment"], "epochs": 1}}))
    result = run.make("augment")
    status = result.runs.set_index("data_type")["status"]
    assert status["Real"] == "ok"
    one, = augment.subsets(0, run.synthetic.real.names, run.params.augment, run.params.segment)
    made = run.generators()[4, 0]
    assert made is not None
    assert read_stamp(run.folder / one.folder / "data")["pairs"] == len(one.train)
    manifest = made.manifests[OWN_STYLED]
    assert set(manifest["source"]) <= set(one.train)
    # So small a model may paint no polyp at all.
    assert status["1-Styled-Diff"] == "ok" if len(manifest) else "no pair of" in status["1-Styled-Diff"]
    assert run.augmented.generators["status"].tolist() == ["ok"]
