"""The filter: who judges what, what is rejected and why, and that chapters 6 and 7 take what is kept."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import Networks, Pair, of_sources, real_pairs, supply_of, values, workspace, write_set
from typer.testing import CliRunner

from diffusegen_core import cli
from diffusegen_core.chapters import augment, scorers, segment, sieve
from diffusegen_core.chapters.scorers import Scorers
from diffusegen_core.chapters.sieve import Filtered
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, phantom, regions, sequences
from diffusegen_core.data.types import GAN, PASTE, REAL, DataType
from diffusegen_core.measures import copies
from diffusegen_core.planning import plan, preflight
from diffusegen_core.report import claims, filtering, paperclaims, segment_tables
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.trainsets import Sets
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import NotMadeError

SIDE, COUNT = 32, 9
PAINTED = DataType.parse("2-Paint")
KEPT = PAINTED.filtered
STYLED = PAINTED.styled


def square(rng: np.random.Generator) -> np.ndarray:
    """A mask (1, S, S) of a square lesion somewhere in the middle."""
    mask, (top, left) = np.zeros((1, SIDE, SIDE), np.uint8), rng.integers(6, SIDE - 14, 2)
    mask[0, top:top + 8, left:left + 8] = 1
    return mask


def with_lesion(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A picture of noise whose blue is odd but in the lesion: nothing else tells where that is."""
    image = rng.integers(20, 120, (3, SIDE, SIDE), np.uint8)
    image[2] = image[2] // 2 * 2 + (mask[0] == 0)
    return image


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch, networks: Networks) -> Networks:
    """Networks that are not trained and see the lesions, so that a right mask agrees."""
    def predict(net: int, images: np.ndarray, s: object, device: object) -> np.ndarray:
        polyp = (images[:, 2] % 2 == 0).astype(np.float32)
        return np.stack([1 - polyp, polyp], axis=1)
    monkeypatch.setattr("diffusegen_core.segmentation.segnet.predict", predict)
    return networks


@pytest.fixture
def p(tmp_path: Path) -> Params:
    """Parameters of a run on pictures of noise, each with a lesion somewhere."""
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        mask = square(rng)
        dataset.write_pair(tmp_path / "real", f"case{i}", with_lesion(rng, mask), mask)
    data = {"source": str(tmp_path / "real"), "count": None, "image_size": SIDE, "holdout": None}
    return values(tmp_path / "run", data=data,
                  inpaint={"masks": "varied", "samples": 2, "sources": COUNT}, gan={"source": None},
                  filter={"folds": 3, "seam_quantile": None}, segment={"samples": [2]},
                  augment={"sizes": [6], "ratios": [1]})


def paint(p: Params, change: Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
          pairs: list[Pair] | None = None) -> Sets:
    """Sets of painted pairs, each a new lesion in fresh noise; `change` may spoil one by its name."""
    real = real_pairs(p)

    def draw(name: str) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(list(name.encode()))
        mask = square(rng)
        return change(name, with_lesion(rng, mask), mask)

    made = [write_set(workspace(p), data_type, of_sources(real.names, 2) if pairs is None else pairs, draw)
            for data_type in (PAINTED, STYLED)]
    return trainsets.collect(real, supply_of(p, COUNT), made)


def as_it_is(name: str, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return image, mask


def networks_of(p: Params, writable: bool = True) -> Scorers:
    found = scorers.run(workspace(p, writable), real_pairs(p), p.filter, p.segment)
    assert found is not None
    return found


def run(p: Params, sets: Sets, writable: bool = True) -> Filtered:
    ws = workspace(p, writable)
    return sieve.run(ws, real_pairs(p), sets, scorers.run(ws, real_pairs(p), p.filter, p.segment), p.filter,
                     p.inpaint.dilate, p.evaluate.copy_quantile)


def with_filter(p: Params, **changes: object) -> Params:
    return params.validate(params.merged(params.plain(p), {"filter": changes}))


# ---- names


@pytest.mark.parametrize("name", ["20-Filtered-Styled-Paint", "Full-Filtered-Diff", "2-Filtered-Paint"])
def test_a_filtered_type_is_one_of_its_own(name: str):
    data_type = DataType.parse(name)
    assert data_type.name == name
    assert data_type.is_filtered
    assert data_type.is_painted
    assert data_type.artifact == f"filter/{name}"
    parent = data_type.unfiltered
    assert parent.name == name.replace("Filtered-", "")
    assert parent.filtered == data_type != parent
    assert (parent.is_styled, parent.given_masks, parent.full) == (
        data_type.is_styled, data_type.given_masks, data_type.full)
    assert data_type.styled == parent.styled.filtered


def test_what_no_model_painted_is_not_filtered():
    assert [one.filtered for one in (REAL, GAN, PASTE)] == [REAL, GAN, PASTE]
    with pytest.raises(UserError, match="There is no data type Filtered-Paste"):
        DataType.parse("Filtered-Paste")


# ---- who judges


def test_no_network_sees_the_sources_that_it_judges(p: Params, seeing: Networks):
    judges = networks_of(p)
    assert len(judges.folds) == 3
    everyone = set(real_pairs(p).names)
    assert sorted(name for fold in judges.folds for name in fold.judged) == sorted(everyone)
    for fold in judges.folds:
        train, valid = seeing.given[f"network {fold.number + 1} of the filter"]
        assert set(train) | set(valid) == everyone - set(fold.judged), "all others are used"
        assert set(train).isdisjoint(valid)
        assert train
        assert valid
    sizes = [len(fold.judged) for fold in judges.folds]
    assert max(sizes) - min(sizes) <= 1
    assert judges.of == {name: fold.number for fold in judges.folds for name in fold.judged}
    assert judges.real["name"].tolist() == [name for fold in judges.folds for name in fold.judged]
    assert set(judges.real["agreement"]) == {1.0}


def test_each_pair_is_judged_by_the_network_of_its_sources_fold(p: Params, networks: Networks,
                                                                monkeypatch: pytest.MonkeyPatch):
    judges, sets = networks_of(p), paint(p, as_it_is)
    nets = {files.read_json(fold.artifact.file(scorers.WEIGHTS)): fold for fold in judges.folds}
    asked: list[tuple[int, bytes]] = []

    def predict(net: int, images: np.ndarray, s: object, device: object) -> np.ndarray:
        asked.extend((net, image.tobytes()) for image in images)
        return np.zeros((len(images), 2, SIDE, SIDE), np.float32)
    monkeypatch.setattr("diffusegen_core.segmentation.segnet.predict", predict)
    one = run(p, sets).judged[PAINTED]
    shown = {image.tobytes(): source for made in sets.sets.values() for image, source in
             zip(made.load().images, made.manifest["source"], strict=True)}
    assert len(asked) == 2 * len(one.origin)
    assert all(shown[image] in nets[net].judged for net, image in asked)
    every = pd.concat([one.kept.manifest, one.kept.left_out])
    assert every["fold"].tolist() == [judges.of[source] for source in every["source"]]


def test_too_few_pairs_of_a_small_set_with_a_generator_of_its_own_are_refused_before(p: Params) -> None:
    small = params.validate(params.merged(params.plain(p), {
        "augment.sizes": [2, 10], "augment.generator_sees": "subset", "filter.folds": 2}))
    assert list(scorers.check(small)) == [
        "Parameters: filter.folds: 1 real pairs are too few to judge each by a network that learns from the "
        "others; at least 3 are needed. Give more pairs, or set filter.folds or filter.agreement_quantile to "
        "null."]
    larger = params.merged(params.plain(small), {"augment.sizes": [10]})
    assert not list(scorers.check(params.validate(larger)))


def test_frames_of_a_sequence_stay_together():
    names = [f"C{centre}_{i}" for centre in range(1, 7) for i in range(centre)]
    known = sequences.of_layout("PolypGen", names)
    assert known is not None
    assert known.of["C3_1"] == "C3"
    assert sequences.of_layout("CVC-ClinicDB (PNG)", ["1", "26"]).of == {"1": "01", "26": "02"}
    assert sequences.of_layout("images and masks", ["1", "26"]) is None, "names alone say nothing"
    groups = {centre: [name for name in names if name.startswith(centre)] for centre in
              set(known.of.values())}
    parts = scorers.split(0, groups, 3)
    assert sorted(name for part in parts for name in part) == sorted(names)
    for part in parts:
        centres = {known.of[name] for name in part}
        assert set(part) == {name for name in names if known.of[name] in centres}


def test_the_groups_are_those_that_the_layout_of_the_data_tells(tmp_path: Path, p: Params, seeing: Networks):
    for centre, count in ((1, 2), (2, 3), (3, 2), (4, 2)):
        for i in range(count):
            image, mask, _ = phantom.draw(10 * centre + i, 0, 32)
            dataset.write_pair(tmp_path / "made", f"{i}", image, mask)
            for kind in ("images", "masks"):
                place = tmp_path / "centres" / f"data_C{centre}" / f"{kind}_C{centre}"
                place.mkdir(parents=True, exist_ok=True)
                end = "" if kind == "images" else "_mask"
                shutil.move(tmp_path / "made" / kind / f"{i}.png", place / f"{i}{end}.png")
    own = params.validate(params.merged(params.plain(p), {"data.source": str(tmp_path / "centres")}))
    groups = scorers.groups(real_pairs(own))
    assert {name: len(members) for name, members in groups.items()} == {"C1": 2, "C2": 3, "C3": 2, "C4": 2}
    for fold in networks_of(own).folds:
        centres = [{name[:2] for name in names} for names in (fold.train, fold.valid, fold.judged)]
        assert not any(a & b for a, b in zip(centres, [*centres[1:], centres[0]], strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_large_sequence_leaves_others_to_learn_from_too(seed: int):
    groups = {"long": [f"{i}" for i in range(9)], **{name: [name] for name in "abc"}}
    of = {name: group for group, names in groups.items() for name in names}
    for part in scorers.split(seed, groups, 2):
        assert len(groups) - len({of[name] for name in part}) > 1


@pytest.mark.parametrize(("pairs", "folds", "parts"), [(9, 3, 3), (3, 2, 3), (4, 2, 2), (4, 9, 4), (3, 3, 3)])
def test_there_are_as_many_folds_as_leave_others_to_learn_from(pairs: int, folds: int, parts: int):
    split = scorers.split(0, {str(i): [str(i)] for i in range(pairs)}, folds)
    assert len(split) == parts
    assert all(pairs - len(part) > 1 for part in split)


def test_too_few_real_pairs_are_refused_before_anything_runs(tmp_path: Path):
    few = values(tmp_path, data={"count": 2}, filter={"folds": 3})
    assert any("filter.folds: 2 real pairs are too few" in line for line in scorers.check(few))
    without = values(tmp_path, data={"count": 2}, filter={"folds": 3, "agreement_quantile": None})
    assert not list(scorers.check(without))
    told = preflight.problems(few, ["evaluate"])
    assert any("2 real pairs are too few" in line for line in told), "whose page makes the filter"
    with pytest.raises(UserError, match=r"filter\.folds 1 leaves no real pairs"):
        values(tmp_path, filter={"folds": 1})
    off = {"agreement_quantile": None, "seam_quantile": None, "copies": False}
    with pytest.raises(UserError, match="every criterion is off"):
        values(tmp_path, filter={"folds": 3, **off})
    values(tmp_path, filter=off)


# ---- what is rejected


def test_a_mask_that_was_moved_away_and_a_copy_are_set_aside_with_their_reasons(p: Params, seeing: Networks):
    real = real_pairs(p)

    def spoilt(name: str, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if name == "case3_1":
            return image, np.roll(mask, 16, axis=2)
        if name == "case4_2":  # another training picture as a whole
            return real.images[7], real.masks[7]
        return image, mask

    found = run(p, paint(p, spoilt))
    for data_type in (PAINTED, STYLED):
        one = found.judged[data_type]
        assert one.limits.agreement == 1.0
        reasons = one.kept.left_out.set_index("name")["reason"]
        assert "agreement 0.00 below 1.00" in reasons["case3_1"]
        assert reasons["case4_2"].startswith("copy of case7, score 0.00 below 0.")
        assert (one.counts["agreement"], one.counts["seam"]) == (1, 0)
        assert one.counts["copy"] <= 2, "few others look like copies by chance"
        assert len(one.kept) >= 2 * COUNT - 3
    row = found.judged[PAINTED].kept.left_out.set_index("name").loc["case4_2"]
    assert (row["nearest"], row["agreement"], row["source"]) == ("case7", 1.0, "case4")


def test_a_filling_that_stands_out_at_its_border_is_set_aside(p: Params, seeing: Networks):
    real = real_pairs(p)

    def spoilt(name: str, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if name != "case3_1":
            return image, mask
        region = regions.filled(real.masks[3][None], mask[None], p.inpaint.dilate)[0]
        return np.where(region > 0, 255, image).astype(np.uint8), mask

    own = with_filter(p, seam_quantile=0.95, agreement_quantile=None, copies=False)
    one = run(own, paint(own, spoilt)).judged[PAINTED]
    every = pd.concat([one.kept.manifest, one.kept.left_out])
    assert one.limits.seam == pytest.approx(every["source_seam"].quantile(0.95))
    assert math.isnan(one.limits.agreement)
    assert math.isnan(one.limits.copy)
    assert every["agreement"].isna().all()
    assert set(one.kept.left_out["name"]) == set(every.loc[every["seam"] > one.limits.seam, "name"])
    reason = one.kept.left_out.set_index("name").loc["case3_1", "reason"]
    assert reason.startswith("seam 1")
    assert reason.endswith(f" above {one.limits.seam:.1f}")
    assert one.counts["seam"] <= COUNT, "noise is as rough as the sources"
    assert not (own.folder / "scorers").exists(), "nobody asked for agreement"


def test_the_threshold_of_agreement_is_that_of_real_pairs(p: Params, networks: Networks):
    sets = paint(p, as_it_is)  # whose networks find what is bright on average, each by its own measure
    for quantile in (0.1, 0.9):
        own = with_filter(p, agreement_quantile=quantile, copies=False)
        one = run(own, sets).judged[PAINTED]
        real = networks_of(own).real["agreement"]
        assert one.limits.agreement == pytest.approx(real.quantile(quantile))
        assert (one.kept.manifest["agreement"] >= one.limits.agreement).all()
        assert (one.kept.left_out["agreement"] < one.limits.agreement).all()
        assert len(one.kept) + len(one.kept.left_out) == len(one.origin)


def test_the_threshold_of_copies_comes_from_training_pairs_alone(p: Params, seeing: Networks):
    one = run(p, paint(p, as_it_is)).judged[PAINTED]
    null = pd.read_csv(p.folder / "filter" / "scores" / "2-Paint" / "null.csv")
    assert set(null["lesion"]) <= set(real_pairs(p).names)
    sources = one.origin.manifest.set_index("name")["source"]
    assert not any(row.lesion == sources[row.name] for row in null.itertuples(index=False))
    assert one.limits.copy == copies.threshold(null["copy_score"].to_numpy(), p.evaluate.copy_quantile)


def test_nothing_is_deleted_and_no_image_is_copied(p: Params, seeing: Networks):
    sets = paint(p, lambda name, image, mask: (image, np.roll(mask, 16, 2) if name == "case3_1" else mask))
    folder = sets.sets[PAINTED].folder
    before = {name: (folder / name).read_bytes() for name in files.below(folder)}
    one = run(p, sets).judged[PAINTED].kept
    assert {name: (folder / name).read_bytes() for name in files.below(folder)} == before
    assert not list((p.folder / "filter").rglob("*.png"))
    assert one.folder == folder
    assert list(one.manifest)[:3] == ["name", "source", "sample"]
    assert set(one.hashes) == {f"{kind}/{name}.png" for name in one.manifest["name"]
                               for kind in ("images", "masks")}
    assert "case3_1" not in set(one.manifest["name"])
    assert one.load().names == one.manifest["name"].tolist()


def test_scores_depend_on_no_other_pair(p: Params, seeing: Networks):
    whole = run(p, paint(p, as_it_is)).judged[PAINTED]
    own = params.validate(params.merged(params.plain(p), {"run_dir": str(p.folder.with_name("other"))}))
    seeing.given.clear()
    few = list(reversed(of_sources(["case1", "case5", "case8"], 2)))
    some = run(own, paint(own, as_it_is, few)).judged[PAINTED]
    columns = ["name", *sieve.COLUMNS]
    one, other = (pd.concat([j.kept.manifest, j.kept.left_out])[columns].set_index("name").sort_index()
                  for j in (whole, some))
    pd.testing.assert_frame_equal(one.loc[other.index], other)


# ---- making and reading


def test_what_is_there_is_not_made_again_and_one_missing_network_is_made_alone(p: Params, seeing: Networks):
    sets = paint(p, as_it_is)
    with pytest.raises(NotMadeError, match=r"run\.make\('scorers'\)"):
        run(p, sets, writable=False)
    first = run(p, sets)
    assert len(seeing.given) == 3
    tables = {name: (p.folder / name).stat().st_mtime_ns for name in files.below(p.folder)}
    again = run(p, sets)  # the networks stand in for none that would be trained twice
    pd.testing.assert_frame_equal(again.judged[PAINTED].kept.manifest, first.judged[PAINTED].kept.manifest)
    run(p, sets, writable=False)
    assert {name: (p.folder / name).stat().st_mtime_ns for name in files.below(p.folder)} == tables
    shutil.rmtree(p.folder / "scorers" / "fold-1")
    seeing.given.clear()
    run(p, sets)
    assert list(seeing.given) == ["network 2 of the filter"]


def test_other_thresholds_train_and_score_nothing(p: Params, seeing: Networks):
    sets = paint(p, as_it_is)
    run(p, sets)
    scores = (p.folder / "filter" / "scores" / "2-Paint" / "scores.csv").stat().st_mtime_ns
    seeing.given.clear()
    stricter = run(with_filter(p, agreement_quantile=0.5, seam_quantile=0.5, copies=False), sets)
    assert seeing.given == {}
    assert (p.folder / "filter" / "scores" / "2-Paint" / "scores.csv").stat().st_mtime_ns == scores
    assert stricter.judged[PAINTED].counts["seam"] > 0
    assert run(p, sets).judged[PAINTED].counts["seam"] == 0, "taken back"


# ---- chapters 6 and 7


def test_filtered_types_stand_beside_the_others(p: Params, seeing: Networks):
    sets = run(p, paint(p, as_it_is)).sets
    names = ["Real", "2-Paint", "2-Filtered-Paint", "2-Styled-Paint", "2-Filtered-Styled-Paint"]
    assert [one.name for one in sets.supply] == names
    assert [one.name for one in sets.sets] == names[1:]
    assert [one.name for one in trainsets.expected(p)] == names
    assert [one.name for one in trainsets.expected(with_filter(p, folds=0))] == [
        name for name in names if "Filtered" not in name]
    assert [one.name for one in augment.types(sets.supply, p.augment)] == names[3:]
    own = p.augment.model_copy(update={"generator_sees": "subset"})
    assert [one.name for one in augment.types(sets.supply, own)] == [
        name.replace("2-", "1-") for name in names[3:]]


def test_networks_learn_from_the_pairs_that_are_kept(p: Params, seeing: Networks):
    sets = run(with_filter(p, copies=False), paint(p, lambda name, image, mask: (
        image, np.roll(mask, 16, 2) if name.startswith("case3") else mask))).sets
    experiment = next(e for e in segment.grid(sets.supply, p.segment) if e.data_type == KEPT)
    train, valid = segment.chosen(p.seed, sets, p.segment, experiment)
    assert {*train.synthetic, *valid.synthetic} == {
        name for name, source, _ in of_sources(real_pairs(p).names, 2) if source != "case3"}
    small = next(e for e in augment.grid(sets.supply, p.augment, p.segment) if e.data_type == STYLED.filtered)
    train, _ = augment.chosen(p.seed, sets, p.augment.model_copy(update={"alpha": 1.0}), p.segment, small)
    assert set(train.real) <= {"case3"}, "of which nothing is left"
    assert not any(name.startswith("case3") for name in train.synthetic)


def test_a_type_of_which_nothing_is_kept_says_so_and_the_others_go_on(
        p: Params, seeing: Networks, caplog: pytest.LogCaptureFixture):
    sets = paint(p, lambda name, image, mask: (image, np.roll(mask, 16, 2)))
    with caplog.at_level("WARNING"):
        found = run(p, sets)
    assert [r.message for r in caplog.records if "filter" in r.message] == [
        f"The filter keeps no pair of {one}, so chapters 6 and 7 train no networks on it."
        for one in (PAINTED, STYLED)]
    assert len(found.sets.sets[KEPT]) == 0
    for chapter in (segment.run(workspace(p), found.sets, {}, p.segment),
                    augment.run(workspace(p), found.sets, {}, p.augment, p.segment, {})):
        status = chapter.runs.set_index("data_type")["status"]
        assert chapter.complete
        for name, told in status.items():
            assert told.endswith(f"the filter kept no pair of {str(name).replace('Filtered-', '')}.") if (
                "Filtered" in str(name)) else told == "ok"


def test_a_network_of_first_pairs_of_which_none_is_kept_says_so(p: Params, seeing: Networks):
    own = with_filter(p, copies=False)
    own = own.model_copy(update={"segment": own.segment.model_copy(update={"samples": [1, 2]})})
    sets = run(own, paint(own, lambda name, image, mask: (
        image, np.roll(mask, 16, 2) if name.endswith("_1") else mask))).sets
    runs = segment.run(workspace(own), sets, {}, own.segment).runs
    runs = runs.set_index(["data_type", "samples"])["status"]
    assert runs["2-Filtered-Paint", 1].endswith("the filter kept no pair of 2-Paint with a number up to 1.")
    assert runs["2-Filtered-Paint", 2] == "ok"


def test_a_network_takes_what_is_left_where_none_of_the_last_pairs_is_kept(p: Params, seeing: Networks):
    own = with_filter(p, copies=False)
    sets = run(own, paint(own, lambda name, image, mask: (
        image, np.roll(mask, 16, 2) if name.endswith("_2") else mask))).sets
    runs = segment.run(workspace(own), sets, {}, own.segment).runs.set_index("data_type")
    assert runs.loc["2-Filtered-Paint", "status"] == "ok"


def test_an_empty_set_is_filtered_to_an_empty_one(p: Params, seeing: Networks):
    found = run(p, paint(p, as_it_is, []))
    assert len(found.sets.sets[KEPT]) == 0
    assert found.judged[PAINTED].counts == {"agreement": 0, "seam": 0, "copy": 0}


def test_without_a_filter_the_sets_are_what_they_were(p: Params):
    sets = paint(p, as_it_is)
    for folds in (0, None):
        off = run(with_filter(p, folds=folds), sets)
        assert off.sets is sets
        assert (off.judged, off.scorers, off.seconds) == ({}, None, 0)


def test_the_profiles_of_the_paper_and_of_the_smoke_test_have_none():
    profiles = {name: params.validate(params.load(params.profile_file(name))) for name in (
        "paper", "smoke", "kvasir_cpu", "one_gpu")}
    assert {name: one.filter.folds for name, one in profiles.items()} == {
        "paper": None, "smoke": None, "kvasir_cpu": 3, "one_gpu": 3}


def test_a_plan_counts_the_networks_and_paints_nothing_twice(p: Params, tmp_path: Path):
    on, off = (plan.make(replace_source(with_filter(p, folds=folds)), 0).table for folds in (3, 0))
    told = on.set_index("work").loc["networks of the filter"]
    assert (told["chapter"], told["items"]) == ("evaluate", 3)
    more = on[~on["chapter"].isin(["segment", "augment"]) & (on["work"] != "networks of the filter")]
    pd.testing.assert_frame_equal(
        more.reset_index(drop=True),
        off[~off["chapter"].isin(["segment", "augment"])].reset_index(drop=True))
    networks = [table.set_index("chapter").loc["segment", "items"] for table in (on, off)]
    assert networks == [5, 3]
    assert preflight.needed(["segment"]) >= {"scorers", "filter"}


def replace_source(p: Params) -> Params:
    """The same with phantoms, whose number is known before they are made."""
    return params.validate(params.merged(params.plain(p), {"data": {"source": "phantom", "count": 9}}))


# ---- a run, its book, and the command


NANO = {"gan.source": None, "inpaint.masks": "varied", "inpaint.guidance_scale": 1.0, "filter.folds": 2,
        "filter.agreement_quantile": 0.25, "segment.seeds": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Run:
    """A nano run with two generators and a filter, all of which is made. Not to be changed."""
    folder = tmp_path_factory.mktemp("filtered") / "run"
    made = Run(params.validate(params.merged(nano_values, {**NANO, "generators": 2, "run_dir": str(folder)})))
    made.make("segment")
    made.make("augment")
    return made


def test_every_generators_pairs_are_filtered_by_the_same_networks(whole: Run):
    assert sorted(path.name for path in (whole.folder / "scorers").iterdir()) == ["fold-0", "fold-1"]
    assert not (whole.folder / "generators" / "1" / "scorers").exists()
    for folder in (whole.folder, whole.folder / "generators" / "1"):
        assert (folder / "filter" / "2-Filtered-Styled-Paint" / "manifest.csv").is_file()
    assert list(whole.further[0].sets) == list(whole.filtered.sets.sets)
    assert [t.name for t in whole.synthetic.sets] == ["2-Paint", "2-Styled-Paint"], "chapter 5 has all pairs"
    status = whole.status()["status"]
    assert (status["scorers"], status["filter"]) == ("made", "made")


def test_chapters_6_and_7_have_networks_of_filtered_types(whole: Run):
    runs = whole.segmented.runs.set_index(["data_type", "seed"])
    for data_type in (KEPT, STYLED.filtered):
        for seed, generator in enumerate((0, 1)):
            kept = whole.read("filter", generator).sets.sets[data_type]
            row = runs.loc[(data_type.name, seed)]
            assert row["generator"] == generator
            assert (row["status"] == "ok") == (kept.manifest["source"].nunique() > 1)
    assert set(whole.augmented.runs["data_type"]) == {"Real", "2-Styled-Paint", "2-Filtered-Styled-Paint"}


def test_the_book_shows_what_is_kept(whole: Run):
    frame = filtering.frame(whole)
    assert frame["generator"].tolist() == [0, 0, 1, 1]
    assert (frame["kept"] + frame["rejected"] == frame["pairs"]).all()
    first = whole.read("filter", 0).judged
    for row, one in zip(frame.to_dict("records"), first.values(), strict=False):
        manifest = one.origin.manifest.set_index("name")
        areas = manifest["area" if "area" in manifest else "area_after"]
        for column, rows in (("kept", one.kept.manifest), ("rejected", one.kept.left_out)):
            assert row[f"mask, {column}"] == pytest.approx(areas[rows["name"]].median(), nan_ok=True)
    assert filtering.table(whole).frame["data type"].tolist() == ["2-Paint", "2-Styled-Paint"] * 2
    one = list(whole.filtered.judged.values())[-1]
    drawn = filtering.figure(whole)
    told = [ax.get_xlabel().replace("\n", " ") for ax in drawn.axes if ax.images]
    assert len(told) == min(6, len(one.kept)) + min(6, len(one.kept.left_out))
    assert set(told[min(6, len(one.kept)):]) <= {
        reason.replace("; ", " ") for reason in one.kept.left_out["reason"]}
    costs = segment_tables.costs(whole, whole.segmented).frame["data type"].tolist()
    assert costs == ["2-Paint", "2-Styled-Paint", "2-Filtered-Paint", "2-Filtered-Styled-Paint"]
    shown = segment_tables.by_clusters(whole, whole.segmented, "dice").frame["data type"].tolist()
    assert {"2-Filtered-Paint-1", "2-Filtered-Styled-Paint-1"} <= set(shown)
    verdicts = [v for v in claims.of(whole) if v.claim == paperclaims.FILTERING]
    assert {v.chapter for v in verdicts} <= {"segment", "augment"}


def test_a_run_without_a_filter_says_so(nano_run: Run):
    assert filtering.text(nano_run) == f"There is no filter: {filtering.NONE}."
    assert filtering.table(nano_run).frame.iloc[0].tolist() == ["none", filtering.NONE]
    assert filtering.NONE in filtering.figure(nano_run).axes[0].texts[0].get_text()
    assert not {"scorers", "filter"} & set(nano_run.status().index)


def test_the_command_filters_a_finished_run_and_tells_what_is_kept(nano_run: Run):
    def call(*words: object) -> str:
        done = CliRunner().invoke(cli.app, ["filter", str(nano_run.folder), *map(str, words)])
        assert done.exit_code == 0, done.exception
        return done.stdout

    before = {name: (nano_run.folder / name).read_bytes() for name in files.below(nano_run.folder)
              if name.endswith(".png")}
    text = call()
    kept = Run.open(nano_run.folder)
    assert kept.params.filter.folds == filtering.FOLDS
    assert text == f"{filtering.text(kept)}\n"
    assert "2-Styled-Diff" in text
    assert {name: (nano_run.folder / name).read_bytes() for name in before} == before
    assert " off " in call("-p", "filter.agreement_quantile", "null").splitlines()[1]
    assert Run.open(nano_run.folder).params.filter.agreement_quantile is None
    assert call("-p", "filter.folds", "null") == f"There is no filter: {filtering.NONE}.\n"
    wrong = CliRunner().invoke(cli.app, ["filter", str(nano_run.folder), "-p", "filter.fold", "3"])
    assert "filter.fold: unknown key (did you mean filter.folds?)" in str(wrong.exception)


def test_a_text_names_a_type_of_which_nothing_is_kept(whole: Run, monkeypatch: pytest.MonkeyPatch):
    rows = filtering.frame(whole).assign(kept=0)
    monkeypatch.setattr(filtering, "frame", lambda run: rows)
    told = "2-Paint: nothing is kept, so that chapters 6 and 7 have no networks of it."
    assert told in filtering.text(whole)


def test_a_small_sets_run_filters_by_its_own_pairs_alone(tmp_path: Path, nano_values: dict):
    whole = Run(params.validate(params.merged(nano_values, {
        **NANO, "run_dir": str(tmp_path / "run"), "segment.seeds": 1, "augment.sizes": [4],
        "augment.generator_sees": "subset"})))
    tested = whole.make("augment")
    assert {"1-Filtered-Styled-Paint", "1-Styled-Paint"} <= set(tested.runs["data_type"])
    small, = augment.subsets(whole.params.seed, whole.synthetic.real.names, whole.params.augment,
                             whole.params.segment)
    within = whole._within(small)
    judges = within.read("scorers")
    assert set(judges.of) == set(small.train)
    assert all({*fold.train, *fold.valid, *fold.judged} == set(small.train) for fold in judges.folds)
    sets = whole.generators()[4, 0]
    assert "1-Filtered-Styled-Paint" in [one.name for one in sets.sets]
    shutil.rmtree(within.folder / "scorers")  # as before the filter was switched on, or where it failed
    read = Run.open(whole.folder)
    assert [one.name for one in read.generators()[4, 0].sets] == [
        one.name for one in sets.sets if not one.is_filtered]
    status = read.read("augment").runs.set_index("data_type")["status"]
    assert (status["1-Styled-Paint"], status["1-Filtered-Styled-Paint"] == "ok") == ("ok", False)


# ---- the claim


def scored(means: dict[str, float], chapter: str = "segment") -> pd.DataFrame:
    """Made-up results: polyp Dice by network, "TYPE/N" or in small sets "TYPE/N/r"."""
    rng, rows = np.random.default_rng(0), []
    for label, mean in means.items():
        name, n, r = (*label.split("/"), "")[:3]
        for seed in range(5):
            for image in range(60):
                dice = float(np.clip(mean + rng.normal(0, 0.02), 0, 1))
                rows.append({"chapter": chapter, "data_type": name, "seed": seed, "generator": seed,
                             "size": int(n) if chapter == "augment" else pd.NA,
                             "samples": int(n) if chapter == "segment" else pd.NA,
                             "ratio": int(r) if r else pd.NA, "test_set": "HyperKvasir", "image": str(image),
                             "dice": dice, "iou": dice, "dice_both": dice, "iou_both": dice})
    return pd.DataFrame(rows).astype(dict.fromkeys(["size", "samples", "ratio", "generator"], "Int64"))


def verdicts(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return [(v.comparison, v.verdict) for v in claims.judge(frame, 300, 0)
            if v.claim == paperclaims.FILTERING]


def test_filtering_is_judged_where_both_are_there():
    assert verdicts(scored({"2-Paint/3": 0.6, "2-Filtered-Paint/3": 0.7, "2-Filtered-Paint/1": 0.9,
                            "2-Styled-Paint/3": 0.7, "2-Filtered-Styled-Paint/3": 0.6})) == [
        ("2-Filtered-Paint-3 against 2-Paint-3", "supported"),
        ("2-Filtered-Styled-Paint-3 against 2-Styled-Paint-3", "refuted")]
    assert verdicts(scored({"2-Paint/16/1": 0.6, "2-Paint/16/2": 0.6, "2-Filtered-Paint/16/1": 0.5,
                            "2-Filtered-Paint/16/2": 0.7, "2-Filtered-Paint/16/3": 0.5, "Real/16": 0.5},
                           "augment")) == [
        ("2-Filtered-Paint (r = 2) against 2-Paint (r = 2), 16 real pairs", "supported")]
    assert verdicts(scored({"2-Paint/3": 0.6, "2-Filtered-Diff/3": 0.6})) == []
