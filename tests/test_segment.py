"""Chapter 6: what each network sees, what makes it be trained again, and a grid that no failure stops."""

import pickle
import shutil
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up import (
    SIZE,
    SMALL,
    SOURCES,
    Networks,
    changed,
    forge,
    loaded_tests,
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

from diffusegen_core.chapters import segment
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import duration
from diffusegen_core.data import dataset, pairsets, types
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.measures import overlap
from diffusegen_core.networks import weights
from diffusegen_core.parallel import fanout
from diffusegen_core.segmentation import experiments, segnet, trials
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.segmentation.trainsets import Choice, Sets
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import NotMadeError, Recipe, key

DIFF, STYLED = DataType.parse("2-Diff"), DataType.parse("2-Styled-Diff")
SYNTHETIC = (GAN, DIFF, STYLED)


def run(p: Params, **options: bool) -> trials.Tested:
    return segment.run(workspace(p, **options), sets_of(p), loaded_tests(p), p.segment)


def planned(p: Params) -> str:
    return segment.planned(workspace(p, writable=False), supply_of(p), SIZE, RGB_AND_MASK, p.segment,
                           sets_of(p), loaded_tests(p))


def grid(p: Params) -> list[Experiment]:
    return segment.grid(supply_of(p), p.segment)


def chosen(p: Params, sets: Sets, e: Experiment) -> tuple[Choice, Choice]:
    return segment.chosen(p.seed, sets, p.segment, e)


def expected(p: Params, e: Experiment) -> tuple[Choice, Choice]:
    return segment.expected(supply_of(p), p.segment, e)


def cost(p: Params, train: Choice, valid: Choice) -> float:
    return trials.cost(p.segment, train, valid)


def pace(p: Params) -> float:
    return trials.pace(p.segment, SIZE, p.device, RGB_AND_MASK)


@pytest.fixture(scope="module")
def written(made_up_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Params:
    """A run that no test changes: three seeds, all types, and one source whose styled pairs failed."""
    folder = shutil.copytree(made_up_run, tmp_path_factory.mktemp("written") / "run")
    p = values(folder, segment={"seeds": 3})
    pairs = of_sources(real_pairs(p).names[:SOURCES])
    write_set(workspace(p), STYLED, [pair for pair in pairs if pair[1] != "phantom_00005"], noise(9))
    return p


@pytest.fixture(scope="module")
def sets(written: Params) -> Sets:
    return sets_of(written)


@pytest.fixture
def own(small_made_up_run: Path, tmp_path: Path) -> Params:
    """A run of the test's own: Real and 2-Diff, two samples of each of six sources."""
    shutil.copytree(small_made_up_run, tmp_path / "run")
    return small(tmp_path / "run")


def small(folder: Path) -> Params:
    return values(folder, **SMALL, segment={"types": ["Real", "2-Diff"], "samples": [2]})


def others(p: Params, **segment_values: object) -> Params:
    return changed(p, segment=segment_values)


# ---- the grid


def test_the_grid_has_every_type_number_and_seed_and_real_once_a_seed(tmp_path: Path) -> None:
    p = values(tmp_path, segment={"seeds": 2})
    expected = [Experiment("segment", types.REAL, seed=0), Experiment("segment", types.REAL, seed=1)]
    expected += [Experiment("segment", name, samples=n, seed=seed)
                 for name in SYNTHETIC for n in (1, 2, 3) for seed in (0, 1)]
    assert grid(p) == expected


def test_the_grid_is_as_asked(tmp_path: Path) -> None:
    p = values(tmp_path, segment={"types": ["2-Diff", "Real"], "samples": [3]})
    assert [e.label for e in grid(p)] == ["Real-seed0", "2-Diff-3-seed0"]
    assert grid(others(p, types=[])) == []
    assert [e.samples for e in grid(others(p, types=["GAN"], samples=[3, 1]))] == [1, 3]
    full = values(tmp_path, train={"full_images": 9}, gan={"source": None}, inpaint={"samples": 1})
    assert [e.data_type.name for e in grid(full)] == ["Real", "2-Diff", "2-Styled-Diff", "Full-Diff",
                                                         "Full-Styled-Diff"]


def test_a_type_that_the_run_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"segment\.types: this run has no data type 20-Diff"):
        grid(values(tmp_path, segment={"types": ["20-Diff"]}))


# ---- leakage


def sources_of(sets: Sets, e: Experiment, choice: Choice) -> set[str]:
    """The real images behind a choice, from the manifest."""
    if not choice.synthetic:
        return set(choice.real)
    return set(choice.real) | set(sets.manifests[e.data_type].set_index("name").loc[list(choice.synthetic),
                                                                                    "source"])


def having(sets: Sets, data_type: DataType, sources: Iterable[str]) -> Sets:
    """The same sets, but that of a data type has pairs of these sources alone."""
    made = sets.sets[data_type]
    manifest = made.manifest[made.manifest["source"].isin(list(sources))]
    return replace(sets, sets={data_type: replace(made, manifest=manifest)})


def test_no_source_is_both_trained_on_and_validated_on(written: Params, sets: Sets) -> None:
    ours = set(real_pairs(written).names)
    for e in grid(written):
        train, valid = chosen(written, sets, e)
        assert len(train)
        assert len(valid)
        learned, kept = sources_of(sets, e, train), sources_of(sets, e, valid)
        assert not learned & kept
        assert learned | kept <= ours
        assert bool(train.real) == bool(valid.real) == (e.data_type == types.REAL)


def test_a_network_sees_its_own_pairs_up_to_its_number_and_all_of_them(written: Params, sets: Sets) -> None:
    for e in grid(written):
        train, valid = chosen(written, sets, e)
        if e.data_type == types.REAL:
            assert sorted(train.real + valid.real) == sets.real.names
            continue
        m = sets.manifests[e.data_type]
        both = train.synthetic + valid.synthetic
        assert sorted(both) == sorted(m.loc[m["sample"] <= e.samples, "name"])
        real = chosen(written, sets, Experiment("segment", types.REAL, seed=e.seed))[1]
        assert sources_of(sets, e, valid) == set(real.real) & set(m["source"])


def test_one_seed_keeps_the_same_sources_apart_for_all_and_another_others(written: Params,
                                                                          sets: Sets) -> None:
    kept = {}
    for e in grid(written):
        kept.setdefault(e.seed, {})[e.data_type, e.samples] = sources_of(
            sets, e, chosen(written, sets, e)[1])
    for found in kept.values():
        real = found[types.REAL, None]
        for (name, _), mine in found.items():
            # The sixth source failed in styling.
            assert mine == (real - {"phantom_00005"} if name == STYLED else real)
    assert len({frozenset(found[types.REAL, None]) for found in kept.values()}) == 3
    other = written.model_copy(update={"seed": 1})
    e = Experiment("segment", DIFF, samples=1)
    assert chosen(other, sets, e) != chosen(written, sets, e)


def test_no_type_moves_a_source_to_the_other_side(written: Params, sets: Sets) -> None:
    """Half of the sources have no pairs: the others stay where they were."""
    fewer = having(sets, DIFF, sets.real.names[::2])
    for seed in range(8):
        whole = chosen(written, sets, Experiment("segment", types.REAL, seed=seed))
        e = Experiment("segment", DIFF, samples=1, seed=seed)
        for mine, real in zip(chosen(written, fewer, e), whole, strict=True):
            assert sources_of(fewer, e, mine) <= set(real.real)


def test_a_type_with_pairs_on_one_side_alone_is_split_by_itself(written: Params, sets: Sets) -> None:
    for side in (0, 1):
        real = chosen(written, sets, Experiment("segment", types.REAL))[side].real
        one = having(sets, DIFF, real)
        e = Experiment("segment", DIFF, samples=3)
        train, valid = (sources_of(one, e, choice) for choice in chosen(written, one, e))
        assert not train & valid
        assert train | valid == set(real)
        assert len(valid) == round(0.2 * len(real))


def test_sources_that_only_the_gan_has_are_split_beside_the_others(written: Params, sets: Sets) -> None:
    names = real_pairs(written).names
    assert len(names) > SOURCES
    more = pd.DataFrame(of_sources(names, 1), columns=["name", "source", "sample"])
    gan = replace(sets, sets={GAN: replace(sets.sets[GAN], manifest=more)})
    for seed in range(4):
        e = Experiment("segment", GAN, samples=1, seed=seed)
        train, valid = (sources_of(gan, e, choice) for choice in chosen(written, gan, e))
        real = chosen(written, sets, Experiment("segment", types.REAL, seed=seed))[1]
        assert valid & set(sets.real.names) == set(real.real)
        assert len(valid - set(real.real)) == 1
        assert train | valid == set(names)


def test_the_gans_unknown_sources_are_split_by_its_own_groups(own: Params) -> None:
    p = changed(own, gan={"source": "elsewhere"})
    write_set(workspace(p), GAN, [(f"chk_id_{i}_gen_scale_0_{j}_img", "", j + 1)
                                  for i in range(9, 14) for j in range(2)], noise(0))
    for seed in range(4):
        e = Experiment("segment", GAN, samples=2, seed=seed)
        train, valid = chosen(p, sets_of(p), e)
        groups = [{name.split("_")[2] for name in choice.synthetic} for choice in (train, valid)]
        assert [len(group) for group in groups] == [4, 1]
        assert not groups[0] & groups[1]
        assert [len(train), len(valid)] == [8, 2]


def test_a_training_image_is_refused_as_a_test_image(own: Params, networks: Networks, tmp_path: Path) -> None:
    pairs = real_pairs(own)
    for i in range(2):
        dataset.write_pair(tmp_path / "cvc", f"other_{i}", pairs.images[i], pairs.masks[i])
    with pytest.raises(UserError, match=r"CVC-ClinicDB are .* other_0 \(the pixels of phantom_00000"):
        run(others(own, cvc=str(tmp_path / "cvc")))
    assert not networks.given


def test_a_set_with_a_foreign_source_is_refused(own: Params, networks: Networks) -> None:
    write_set(workspace(own), STYLED, of_sources(["phantom_99999"]), noise(0))
    with pytest.raises(UserError, match="phantom_99999"):
        run(own)
    assert not networks.given


# ---- recipes


def recipe_of(p: Params, e: Experiment | None = None) -> Recipe:
    e, sets = e or Experiment("segment", DIFF, samples=2), sets_of(p)
    return trials.recipe(p.seed, p.segment, e, sets, *chosen(p, sets, e), loaded_tests(p))


@pytest.mark.parametrize("change", [
    {"lr": 0.1}, {"epochs": 3}, {"epoch_images": None}, {"encoder": "resnet18"}, {"validation": 0.5},
    {"augment": False}, {"batch_size": 4}, {"decoder_channels": [16, 8, 16]}])
def test_what_decides_the_result_is_in_the_recipe(small_made_up_run: Path, change: dict) -> None:
    p = small(small_made_up_run)
    assert recipe_of(others(p, **change)) != recipe_of(p)


@pytest.mark.parametrize("change", [
    {"resamples": 7}, {"types": None}, {"samples": None}, {"checkpoint_every": 1}, {"seeds": 4},
    {"keep_weights": False}])
def test_what_does_not_decide_it_is_not(small_made_up_run: Path, change: dict) -> None:
    p = small(small_made_up_run)
    assert recipe_of(others(p, **change)) == recipe_of(p)


def test_seed_type_number_and_pairs_are_in_the_recipe(own: Params) -> None:
    e = Experiment("segment", DIFF, samples=2)
    found = [recipe_of(own, other) for other in (
        e, Experiment("segment", DIFF, samples=1), Experiment("segment", STYLED, samples=2),
        Experiment("segment", types.REAL), Experiment("segment", DIFF, samples=2, seed=1))]
    found.append(recipe_of(own.model_copy(update={"seed": 1}), e))
    name = chosen(own, sets_of(own), e)[1].synthetic[0]
    made = written_set(workspace(own), DIFF)
    shown = {other: pairsets.read_pair(made.folder, other) for other in made.manifest["name"]}
    shown[name] = 255 - shown[name][0], shown[name][1]
    write_set(workspace(own), DIFF, list(made.manifest.itertuples(index=False, name=None)), shown.__getitem__)
    found.append(recipe_of(own, e))
    assert len({key(recipe) for recipe in found}) == len(found)


def test_another_test_set_changes_its_own_part_of_the_recipe(own: Params, tmp_path: Path) -> None:
    dataset.write_phantoms(tmp_path / "cvc", 3, SIZE, seed=5)
    first, more, fewer = (recipe_of(others(own, **change)) for change in (
        {}, {"cvc": str(tmp_path / "cvc")}, {"test_count": 4}))
    tests = [recipe.pop("tests") for recipe in (first, more, fewer)]
    assert first == more == fewer
    assert [list(found) for found in tests] == [["Phantom"], ["Phantom", "CVC-ClinicDB"], ["Phantom"]]
    assert tests[0]["Phantom"] == tests[1]["Phantom"] != tests[2]["Phantom"]


def test_all_types_start_from_the_same_weights(written: Params) -> None:
    found = {}
    for e in grid(written):
        found.setdefault(e.seed, set()).add(trials.net_seed(written.seed, e))
    assert all(len(mine) == 1 for mine in found.values())
    assert len(set.union(*found.values())) == 3


# ---- the run


def test_a_row_for_each_image_and_network_from_the_pairs_that_were_chosen(own: Params,
                                                                          networks: Networks) -> None:
    p = others(own, seeds=2)
    result = run(p)
    sets = sets_of(p)
    assert set(networks.given) == {e.label for e in grid(p)}
    for e in grid(p):
        train, valid = chosen(p, sets, e)
        assert networks.given[e.label] == ([*train.real, *train.synthetic], [*valid.real, *valid.synthetic])
    phantoms = loaded_tests(p)["Phantom"].pairs
    assert len(result.images) == 4 * len(phantoms) == 20
    assert list(result.images) == [*experiments.FIELDS, *experiments.IMAGE, "generator"]
    mine = result.images[(result.images["data_type"] == "2-Diff") & (result.images["seed"] == 1)]
    assert mine["image"].tolist() == phantoms.names
    assert (mine["samples"] == 2).all()
    assert (result.images["dice"] >= result.images["iou"]).all()
    assert result.runs[["train_pairs", "real_pairs", "valid_pairs"]].to_numpy().tolist() == [
        [5, 5, 1]] * 2 + [[10, 0, 2]] * 2
    assert result.runs[["best_epoch", "valid_iou"]].to_numpy().tolist() == [[2, 0.4]] * 4
    assert result.seconds == pytest.approx(result.runs["seconds"].sum())
    assert result.runs["seconds"].min() >= 1.5, "of training alone"
    assert result.encoder == "tu-test_resnet (random weights)"
    assert pd.read_csv(p.folder / "segment" / "results.csv").shape == result.images.shape


def test_a_second_run_trains_nothing_and_a_changed_pair_its_own_network(own: Params,
                                                                        networks: Networks) -> None:
    first = run(own)
    again = run(others(own, resamples=9, checkpoint_every=1))  # the stand-in trains none twice
    pd.testing.assert_frame_equal(again.images, first.images)
    pd.testing.assert_frame_equal(again.runs, first.runs)
    networks.given.clear()
    write_set(workspace(own), DIFF, of_sources(real_pairs(own).names[:6], 2), noise(77))
    run(own)
    assert set(networks.given) == {"2-Diff-2-seed0"}


def test_a_network_that_fails_leaves_a_row_and_the_others_results(own: Params, networks: Networks) -> None:
    networks.fails = lambda title: title.startswith("2-Diff")
    result = run(own)
    assert result.runs["status"].tolist() == ["ok", "failed: UserError: This network was told to fail."]
    assert set(result.images["data_type"]) == {"Real"}
    networks.fails = lambda title: False
    networks.given.clear()
    assert run(own).runs["status"].tolist() == ["ok", "ok"]
    assert set(networks.given) == {"2-Diff-2-seed0"}, "Real was finished"


@pytest.mark.parametrize("sources", [0, 1])
def test_a_type_with_too_few_groups_is_a_failed_row_with_the_reason(own: Params, networks: Networks,
                                                                    sources: int) -> None:
    write_set(workspace(own), DIFF, of_sources(real_pairs(own).names[:sources], 2), noise(0))
    p = others(own, epoch_images=None)  # a pass over nothing costs nothing, and is an experiment all the same
    result = run(p)
    real, diff = result.runs["status"]
    assert real == "ok"
    assert diff == (f"failed: UserError: 2-Diff-2-seed0: {2 * sources} pairs to train on and 0 to choose the "
                    "best epoch by are too few.")
    assert "1 finished, 1 to do (1 failed before)" in planned(p)


def test_a_number_that_no_source_has_is_a_failed_row(own: Params, networks: Networks) -> None:
    """GAN-2 of a GAN with one pair a source would be GAN-1 under another name."""
    p = changed(own, gan={"source": "elsewhere"}, segment={"types": ["GAN"], "samples": [1, 2]})
    write_set(workspace(p), GAN, [(f"fake_{i}", "", 1) for i in range(5)], noise(0))
    assert run(p).runs["status"].tolist() == [
        "ok", "failed: UserError: GAN-2-seed0: no source of GAN has 2 pairs; the most is 1."]


def test_the_masks_of_test_images_from_all_over_the_set_are_kept(own: Params, networks: Networks,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "EXAMPLES", 3)
    result = run(own)
    pairs = loaded_tests(own)["Phantom"].pairs
    assert len(pairs) > 4
    places = [0, round((len(pairs) - 1) / 2), len(pairs) - 1]
    for e, name in zip(grid(own), result.runs["name"], strict=True):
        found = networks.predict(trials.net_seed(own.seed, e), pairs.images[places], None, None)
        shown = trials.examples(result, name, "Phantom", pairs)
        assert list(shown) == [pairs.names[place] for place in places]
        np.testing.assert_array_equal(list(shown.values()), found[:, 1])
        assert pd.read_csv(result.folder / name / "network" / "history.csv")["epoch"].tolist() == [1, 2]


def test_masks_and_losses_that_are_lost_are_told_and_made_again_on_request(own: Params,
                                                                           networks: Networks) -> None:
    result = run(own)
    folder = result.folder / result.runs["name"][0]
    pairs = loaded_tests(own)["Phantom"].pairs
    masks = trials.examples(result, folder.name, "Phantom", pairs)
    for file in folder.rglob("examples.npz"):
        file.write_bytes(b"half")
    with pytest.raises(UserError, match=r"examples\.npz is not the file that was written.*--remake segment"):
        run(own)
    again = run(own, again=True)  # the stand-in trains none twice
    np.testing.assert_equal(trials.examples(again, folder.name, "Phantom", pairs), masks)
    networks.given.clear()
    (folder / "network" / "history.csv").unlink()
    run(own, again=True)
    assert set(networks.given) == {"Real-seed0"}
    assert (folder / "network" / "history.csv").is_file()


@pytest.mark.parametrize("part", ["segment", "segment/NAME"])
def test_nothing_is_written_through_a_link_in_the_chapters_place(own: Params, networks: Networks,
                                                                  tmp_path: Path, part: str) -> None:
    theirs = dict.fromkeys(("results.csv", "runs.csv", "distances.csv", "spent.json"), "the user's")
    for name, text in theirs.items():
        files.write_text(tmp_path / "thesis" / name, text)
    experiment = grid(own)[0]
    link = own.folder / part.replace("NAME", experiment.named(recipe_of(own, experiment)))
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match=f"{link} is a symbolic link"):
        run(own)
    assert {path.name: path.read_text() for path in (tmp_path / "thesis").iterdir()} == theirs


def test_a_read_only_workspace_reads_what_there_is(own: Params, networks: Networks) -> None:
    with pytest.raises(NotMadeError, match=r"run\.make"):
        run(own, writable=False)
    run(others(own, types=["Real"]))
    before = {name: (own.folder / name).stat().st_mtime_ns for name in files.below(own.folder)}
    result = run(own, writable=False)
    assert result.runs["status"].tolist() == ["ok", "to do"]
    assert {name: (own.folder / name).stat().st_mtime_ns for name in files.below(own.folder)} == before


def test_items_hold_names_and_paths_and_no_pictures(own: Params, networks: Networks,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, go = [], fanout.run
    monkeypatch.setattr(fanout, "run", lambda work, items, title, done=0: sizes.extend(
        len(pickle.dumps(item)) for item in items) or go(work, items, title, done))
    run(own)
    assert len(sizes) == 2
    assert max(sizes) < 12 * SIZE * SIZE, "fewer bytes than four images"


# ---- another test set


@pytest.fixture
def looked(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images networks were tested on, set by set."""
    counts, predict = [], segnet.predict
    monkeypatch.setattr(segnet, "predict", lambda net, images, *rest: counts.append(len(images)) or predict(
        net, images, *rest))
    return counts


def test_another_test_set_is_scored_by_the_networks_that_there_are(own: Params, looked: list[int],
                                                                   tmp_path: Path) -> None:
    first = run(own)
    dataset.write_phantoms(tmp_path / "cvc", 3, SIZE, seed=5)
    p = others(own, cvc=str(tmp_path / "cvc"))
    looked.clear()
    more = run(p)  # the stand-in trains none twice
    assert looked == [3, 3], "Phantom is not scored again"
    assert more.runs["status"].tolist() == ["ok", "ok"]
    of_old = more.images["test_set"] == "Phantom"
    pd.testing.assert_frame_equal(more.images[of_old].reset_index(drop=True), first.images)
    cvc, seed = loaded_tests(p)["CVC-ClinicDB"].pairs, trials.net_seed(p.seed, grid(p)[0])
    dice = overlap.scores(segnet.predict(seed, cvc.images, None, None), cvc.masks)["dice"]
    assert more.images.loc[~of_old, "dice"].tolist() == pytest.approx([*dice, *dice])
    looked.clear()
    fewer = run(others(p, test_count=2))
    assert looked == [2, 2, 2, 2]
    assert fewer.images.groupby(["data_type", "test_set"]).size().tolist() == [2] * 4


def test_without_kept_weights_another_test_set_trains_again(own: Params, networks: Networks) -> None:
    p = others(own, keep_weights=False)
    run(p)
    assert not list((p.folder / "segment").rglob("*.safetensors"))
    networks.given.clear()
    run(p)
    assert not networks.given
    result = run(others(p, test_count=2))
    assert set(networks.given) == {"Real-seed0", "2-Diff-2-seed0"}
    assert len(result.images) == 4


def test_a_kill_while_a_network_is_tested_costs_no_training_though_weights_are_not_kept(
        own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    p = others(own, keep_weights=False)
    with monkeypatch.context() as patch:
        patch.setattr(segnet, "predict", killed)
        with pytest.raises(KeyboardInterrupt):
            run(p)
    trained = set(networks.given)
    assert len(trained) == 1
    result = run(p)  # the stand-in trains none twice
    assert result.runs["status"].tolist() == ["ok", "ok"]
    assert not list((p.folder / "segment").rglob("*.safetensors"))
    kept = others(own, types=["Real"], epochs=3)
    networks.given.clear()
    run(kept)
    run(others(kept, keep_weights=False, test_count=2))
    assert len(list((p.folder / "segment").rglob("*.safetensors"))) == 1, "weights kept earlier stay"


def killed(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_another_version_is_another_network(own: Params, networks: Networks,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(own)
    networks.given.clear()
    monkeypatch.setattr(trials, "VERSION", trials.VERSION + 1)
    second = run(own)
    assert len(networks.given) == 2
    assert not set(second.runs["name"]) & set(first.runs["name"])
    monkeypatch.setattr(trials, "SCORES", trials.SCORES + 1)
    assert run(own).runs["status"].tolist() == ["ok", "ok"], "scored again, not trained"


def test_without_any_test_set_there_are_no_rows_and_no_failure(own: Params, networks: Networks) -> None:
    result = run(others(own, held_out=None))
    assert result.images.empty
    assert result.runs["status"].tolist() == ["ok", "ok"]
    assert [test.pairs for test in result.tests] == [None] * 3


def test_tiny_networks_are_trained_and_tested(own: Params) -> None:
    """The whole way, with nothing in its place but chapters 2 to 4."""
    with pytest.MonkeyPatch.context() as patch:
        real = {name: getattr(segnet, name) for name in ("fit", "predict", "save", "load")}
        forge(patch)
        for name, function in real.items():
            patch.setattr(segnet, name, function)
        p = others(own, epochs=2, epoch_images=8, batch_size=4)
        result = run(p)
        assert result.runs["status"].tolist() == ["ok", "ok"]
        assert result.images[["dice", "iou", "dice_both", "iou_both"]].stack().between(0, 1).all()
        assert result.runs["best_epoch"].between(1, 2).all()
        patch.setattr(segnet, "fit", None)
        pd.testing.assert_frame_equal(run(p).images, result.images)
        # The first three phantoms, by the weights that were kept: the same to the last bit.
        fewer = run(others(p, test_count=3)).images
        first = result.images.groupby("data_type", sort=False).head(3).reset_index(drop=True)
        pd.testing.assert_frame_equal(fewer, first, check_exact=True)


def test_a_network_that_is_trained_is_not_trained_again_where_it_could_not_be_kept(
        own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the weights were written: the checkpoint of the last epoch is still there."""
    p = others(own, types=["Real"], epochs=2, epoch_images=8, batch_size=4, checkpoint_every=1)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(segnet, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(p)
    monkeypatch.setattr(segnet, "_epoch", None)
    assert run(p).runs["status"].tolist() == ["ok"]
    assert not list(p.folder.rglob(segnet.CHECKPOINT))


# ---- the plan


def test_the_plan_before_and_after(own: Params, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pace", lambda *_: 0.01)
    text = planned(own)
    assert text.startswith("Synthetic data alone: 2 experiments, 0 finished, 2 to do.\n")
    # 12 epochs of 64 images each, and a third of what chooses the best epoch: 1 real pair, 2 synthetic ones.
    assert f"time: {duration(0.01 * 12 * (64 + 1 / 3 + 64 + 2 / 3))}, from a short trial" in text
    run(others(own, types=["Real"]))
    text = planned(own)
    assert "2 experiments, 1 finished, 1 to do." in text
    assert "from 1 finished experiment." in text
    run(own)
    assert planned(own).endswith("Nothing is left to do.")


def test_the_plan_needs_no_synthetic_pairs_and_guesses_their_number(tmp_path: Path) -> None:
    p = values(tmp_path / "run", segment={"types": ["Real", "GAN", "2-Diff"], "samples": [1, 3], "epochs": 1},
               gan={"sources": SOURCES + 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "pace", lambda *_: 1.0)
        text = segment.planned(workspace(p, writable=False), supply_of(p), SIZE, RGB_AND_MASK, p.segment)
    assert "5 experiments, 0 finished, 5 to do." in text
    assert not (p.folder / "segment").exists()
    counts = {e.label: [len(choice) for choice in expected(p, e)]
              for e in grid(p)}
    assert counts == {"Real-seed0": [19, 5], "GAN-1-seed0": [20, 5], "GAN-3-seed0": [60, 15],
                      "2-Diff-1-seed0": [19, 5], "2-Diff-3-seed0": [57, 15]}


def test_what_is_expected_is_what_is_chosen(written: Params, sets: Sets) -> None:
    for e in grid(written):
        if e.data_type != STYLED:  # of which a source has no pairs
            assert [len(choice) for choice in expected(written, e)] == [
                len(choice) for choice in chosen(written, sets, e)]


def test_cost_counts_the_images_of_an_epoch(own: Params) -> None:
    train, valid = Choice(synthetic=("",) * 30), Choice(synthetic=("",) * 6)
    assert cost(others(own, epochs=5, epoch_images=None), train, valid) == 5 * (30 + 2)
    assert cost(others(own, epochs=5, epoch_images=64), train, valid) == 5 * (64 + 2)


def test_the_progress_is_of_the_cost(own: Params, networks: Networks,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    seen, go = [], fanout.run
    monkeypatch.setattr(fanout, "run", lambda work, items, title, done=0: seen.append(
        (title, [item.cost for item in items])) or go(work, items, title, done))
    run(others(own, epochs=3, epoch_images=None))
    assert seen == [("Synthetic data alone", pytest.approx([3 * (5 + 1 / 3), 3 * (10 + 2 / 3)]))]


# ---- means


def results(rows: list[tuple]) -> trials.Tested:
    frame = pd.DataFrame(rows, columns=["data_type", "samples", "seed", "test_set", "image", "dice"])
    return trials.Tested(frame.astype({"samples": "Int64"}), pd.DataFrame(), [], "", Path())


def test_means_have_a_row_for_each_kind_and_test_set(own: Params) -> None:
    rng = np.random.default_rng(0)
    kinds = [("Real", None, 0.7), ("2-Diff", 1, 0.3), ("2-Diff", 2, 0.5)]
    rows = [(name, n, seed, test, str(i), rng.random() / 4 + base)
            for (name, n, base), seed, test, i in product(kinds, range(2), ("A", "B"), range(6))]
    found = trials.summary(results(rows), ["data_type", "samples"], "dice", own.segment.resamples, own.seed)
    assert list(found) == ["data_type", "samples", "test_set", "mean", "low", "high", "images", "seeds"]
    assert len(found) == 6
    frame = results(rows).images
    for row in found.itertuples():
        n = frame["samples"].isna() if pd.isna(row.samples) else frame["samples"] == row.samples
        mine = frame[(frame["data_type"] == row.data_type) & n & (frame["test_set"] == row.test_set)]
        assert row.mean == pytest.approx(mine["dice"].mean())
        assert row.low < row.mean < row.high
        assert (row.images, row.seeds) == (6, 2)


def test_means_of_nothing_have_the_same_columns(own: Params) -> None:
    found = trials.summary(results([]), ["data_type", "samples"], "dice", own.segment.resamples, own.seed)
    assert found.empty
    assert "mean" in found


def test_the_pace_needs_no_pretrained_weights(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_ask", None)
    assert pace(others(own, encoder="mobilenet_v2", weights="pretrained", batch_size=2)) > 0


def test_the_pace_is_that_of_a_process_that_is_warm(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([100.0, 2.0])
    monkeypatch.setattr(segnet, "fit", lambda *_: SimpleNamespace(seconds=next(spent)))
    assert pace(others(own, batch_size=2)) == 2.0 / (2 * trials.TRIAL)


def test_the_pace_is_measured(own: Params) -> None:
    assert 0 < pace(others(own, batch_size=2)) < 10
    assert not (own.folder / "segment").exists()
