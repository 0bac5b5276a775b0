"""Inpainting: the RePaint schedule, exact known pixels, and results that depend on their own seed only."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffusegen_core.chapters import inpaint
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import checkup, dataset, regions
from diffusegen_core.data.types import DataType
from diffusegen_core.run import Run
from diffusegen_core.store import files, seeds
from diffusegen_core.store.stamps import ASIDE, MAKING, STAMP

TWO, THREE, FULL = (DataType("Diff", models) for models in ("2", "3", "Full"))


def changed(p: Params, *overrides: tuple[str, object]) -> Params:
    return params.validate(params.override(params.plain(p), [(key, str(value)) for key, value in overrides]))


def run(p: Params) -> inpaint.Inpainted:
    """The chapter, and what it needs."""
    return Run(p).make("inpaint")


def noted(patch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pairs that are made from now on."""
    made, real = [], inpaint.make_batch

    def make_batch(jobs: list, **rest: object) -> None:
        made.extend(job.name for job in jobs)
        real(jobs=jobs, **rest)
    patch.setattr(inpaint, "make_batch", make_batch)
    return made


# ---- the plan

def plan(p: Params, data_type: DataType, names: list[str], labels: list[int], k: int) -> list[inpaint.Job]:
    clusters = Clusters(names, np.array(labels), k, [], pd.DataFrame(), "none", 0.0, Path())
    nothing = np.zeros((len(names), 3, 1, 1), np.uint8)
    pairs = dataset.gather(names, nothing, nothing[:, :1])
    return inpaint.plan(p.seed, data_type, pairs, clusters, p.inpaint)


def names(count: int) -> list[str]:
    return [f"s{i:04d}" for i in range(count)]


def test_models_are_drawn_from_all_clusters_alike(nano_params: Params):
    p = changed(nano_params, ("inpaint.sources", "null"), ("inpaint.samples", 2))
    labels = [i % 5 for i in range(1000)]
    jobs = plan(p, DataType("Diff", "5"), names(1000), labels, 5)
    assert len(jobs) == 2000
    counts = Counter(job.model for job in jobs)
    assert sorted(counts) == [f"cluster-{k:02d}" for k in range(5)]
    assert max(abs(n - 400) for n in counts.values()) < 75  # 4 deviations of a binomial of 2000 and 1/5
    own = np.mean([job.model == f"cluster-{job.source_cluster:02d}" for job in jobs])
    assert own == pytest.approx(1 / 5, abs=0.04)
    first, second = ([job.model for job in jobs if job.sample == n] for n in (1, 2))
    assert np.mean([a == b for a, b in zip(first, second, strict=True)]) == pytest.approx(1 / 5, abs=0.06)
    assert len({job.seed for job in jobs}) == len({job.name for job in jobs}) == 2000


def test_own_uses_the_sources_cluster_and_full_the_full_model(nano_params: Params):
    p = changed(nano_params, ("inpaint.model_of", "own"), ("inpaint.sources", 50))
    labels = [(7 * i) % 3 for i in range(60)]
    jobs = plan(p, THREE, names(60), labels, 3)
    assert [job.model for job in jobs] == [f"cluster-{k:02d}" for k in labels[:50]]
    assert {job.model for job in plan(p, FULL, names(60), labels, 3)} == {"full"}


def test_a_pairs_seed_depends_on_its_name_sample_and_type_and_not_on_the_others(nano_params: Params):
    p = changed(nano_params, ("inpaint.samples", 2), ("inpaint.sources", "null"))
    some = {job.name: job for job in plan(p, TWO, ["b", "a"], [0, 1], 2)}
    more = {job.name: job for job in plan(
        changed(p, ("inpaint.samples", 3)), TWO, ["c", "a", "b"], [1, 1, 0], 2)}
    assert {name: (job.seed, job.model) for name, job in some.items()} == {
        name: (more[name].seed, more[name].model) for name in some}
    assert {job.seed for job in plan(p, THREE, ["b", "a"], [0, 1], 2)}.isdisjoint(
        job.seed for job in some.values())


# ---- the whole chapter

@pytest.fixture(scope="module")
def trained(tmp_path_factory, nano_values: dict) -> Params:
    """A run up to its models, at a rate that leaves them far from the zeros they start as."""
    values = {**nano_values, "run_dir": str(tmp_path_factory.mktemp("inpaint") / "run")}
    p = changed(params.validate(values), ("train.lr", 0.01), ("train.full_images", 24),
                ("inpaint.dilate", 60), ("inpaint.opening", 16))  # 16 px: one pixel, so that no mask is lost
    Run(p).make("train")
    return p


@pytest.fixture
def p(trained: Params, tmp_path: Path) -> Params:
    """The same run in a folder of the test's own."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return changed(trained, ("run_dir", tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    """Every file of a dataset with a hash of its content, but stamp and rows, which tell seconds."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*")) if f.is_file() and f.name != STAMP and f.parent.name != "rows"}


def all_contents(result: inpaint.Inpainted) -> dict[DataType, dict[str, str]]:
    return {data_type: contents(one.folder) for data_type, one in result.sets.items()}


def times(folder: Path, which: str = "*.png") -> dict[str, int]:
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in folder.rglob(which)}


def test_the_output_is_a_dataset_with_a_manifest_that_is_true(p: Params):
    result = run(p)
    assert [data_type.name for data_type in result.sets] == ["2-Diff", "Full-Diff"]
    source, clusters = Run(p).pairs, Run(p).clusters
    changed_pixels = made = 0
    for data_type, one in result.sets.items():
        folder, manifest, left_out = one.folder, one.manifest, one.left_out
        assert folder == p.folder / "inpaint" / data_type.name
        pd.testing.assert_frame_equal(pd.read_csv(folder / "manifest.csv"), manifest)
        present = {"images", "left_out.csv", "made.json", "manifest.csv", "masks", "rows"}
        assert {f.name for f in folder.iterdir()} == present
        assert manifest.columns.tolist() == ["name", "source", "source_cluster", "model", "sample", "seed",
                                             "area_before", "area_after"]
        assert sorted([*manifest["source"], *left_out["source"]]) == source.names[:4]
        assert (left_out["area_after"] == 0).all()
        for kind in ("images", "masks"):
            assert sorted(f.stem for f in (folder / kind).iterdir()) == sorted(manifest["name"])
        for row in manifest.itertuples():
            i = source.names.index(row.source)
            image = np.asarray(Image.open(folder / "images" / f"{row.name}.png"))
            mask = np.asarray(Image.open(folder / "masks" / f"{row.name}.png"))
            assert (image.shape, mask.shape, image.dtype) == ((16, 16, 3), (16, 16), np.uint8)
            assert set(np.unique(mask)) <= {0, 255}
            region = regions.dilated(source.masks[i, 0], p.inpaint.dilate) > 0
            original = source.images[i].transpose(1, 2, 0)
            assert np.array_equal(image[~region], original[~region]), "known pixels"
            assert (mask[~region] == 0).all(), "the new mask lies in the region"
            changed_pixels += (image[region] != original[region]).sum()
            assert row.area_before == pytest.approx(source.masks[i].mean(), abs=1e-6)
            assert row.area_after == pytest.approx((mask > 0).mean(), abs=1e-6)
            assert row.seed == seeds.derive(p.seed, "inpaint", data_type.name, row.source, row.sample)
            assert row.source_cluster == clusters.labels[i]
            assert row.name == f"{row.source}_{row.sample}"
            made += 1
        report = checkup.check(folder)
        assert report.problems == []
        assert sorted(pair.name for pair in report.pairs) == sorted(manifest["name"])
        assert result.table.loc[data_type.name, "pairs"] == 4 - len(left_out)
        assert result.table.loc[data_type.name, "without an object"] == len(left_out)
    assert changed_pixels > 100 * made > 300
    assert set(result.sets[FULL].manifest["model"]) == {"full"}


@pytest.mark.usefixtures("image_by_image")
def test_a_pair_without_a_polyp_is_listed_and_not_written(p: Params, monkeypatch):
    whole = set(run(p).sets[TWO].manifest["name"])
    shutil.rmtree(p.folder / "inpaint")
    real, masks = regions.opened, iter([False])
    monkeypatch.setattr(regions, "opened", lambda *how: real(*how) * next(masks, True))
    one = run(changed(p, ("inpaint.batch_size", 1))).sets[TWO]
    lost = {*one.left_out["name"]}
    assert len(lost & whole) == 1
    assert {f.stem for f in one.folder.rglob("*.png")} == set(one.manifest["name"]) == whole - lost
    before = contents(one.folder)
    monkeypatch.setattr(inpaint, "make_batch", None)
    assert contents(run(p).sets[TWO].folder) == before, "and it is not tried again"


@pytest.mark.usefixtures("image_by_image")
def test_batch_size_changes_no_file_and_is_no_reason_to_start_again(p: Params):
    made, stamps = all_contents(run(p)), times(p.folder / "inpaint", STAMP)
    other = changed(p, ("inpaint.batch_size", 1))
    run(other)
    assert times(p.folder / "inpaint", STAMP) == stamps
    shutil.rmtree(p.folder / "inpaint")
    assert all_contents(run(other)) == made


class Killed(BaseException):
    """Stands for a kill at one line: nothing of ours may catch it."""


@pytest.mark.usefixtures("image_by_image")
@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5])
def test_an_interrupted_run_ends_with_the_same_files(p: Params, monkeypatch, tmp_path: Path, calls: int):
    """Killed at a write: of the first image, mask or row, of the second pair's, or of the manifest."""
    whole = changed(p, ("inpaint.batch_size", 2), ("inpaint.samples", 1))
    wanted = all_contents(run(whole))
    (p.folder / "inpaint").rename(tmp_path / "whole")
    real, done = files.write, []

    def dying(path: Path, save: Callable[[Path], object], *rest: object, **options: object) -> Path:
        if len(done) == calls:
            raise Killed
        done.append(path)
        return real(path, save, *rest, **options)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", dying)
        with pytest.raises(Killed):
            run(whole)
    assert all(path.is_relative_to(p.folder / MAKING) for path in done)
    assert not (p.folder / "inpaint").exists()
    rows = {path: path.stat().st_mtime_ns for path in done if path.suffix == ".json"}
    assert all_contents(run(changed(whole, ("inpaint.batch_size", 3)))) == wanted
    for row, made in rows.items():  # whatever had its row was not made again
        chapter, data_type, _, *inside = row.relative_to(p.folder / MAKING).parts
        assert p.folder.joinpath(chapter, data_type, *inside).stat().st_mtime_ns == made
    assert not (p.folder / MAKING).exists()


def test_more_samples_keep_the_first_ones_and_fewer_take_the_first_set_back(p: Params, monkeypatch):
    one = run(p).sets[TWO]
    before, made = contents(one.folder), times(one.folder)
    (one.folder / "images" / ".ipynb_checkpoints").mkdir()  # JupyterLab's, and no pair's
    painted = noted(monkeypatch)
    two = run(changed(p, ("inpaint.samples", 2))).sets[TWO]
    assert painted != []
    assert all(name.endswith("_2") for name in painted)
    after = contents(two.folder)
    assert {name: after[name] for name in made} == {name: before[name] for name in made}
    assert len(list(two.folder.rglob("*.png"))) == 2 * len(two.manifest) > len(made)
    pd.testing.assert_frame_equal(two.manifest.iloc[:len(one.manifest)], one.manifest)
    assert set(two.manifest["sample"][len(one.manifest):]) == {2}
    monkeypatch.setattr(inpaint, "make_batch", None)
    back = run(p).sets[TWO]
    pd.testing.assert_frame_equal(back.manifest, one.manifest)
    assert (contents(back.folder), times(back.folder)) == (before, made)
    assert len(run(changed(p, ("inpaint.samples", 2))).sets[TWO]) == len(two), "and the larger one as well"


@pytest.mark.parametrize("harm", ["change", "remove", "rename"])
def test_a_pair_that_was_touched_is_refused_and_made_again_on_request_and_only_that(
        p: Params, harm: str, monkeypatch):
    folder = run(p).sets[TWO].folder
    wanted = contents(folder)
    victim = sorted((folder / "masks").iterdir())[1]
    black = Image.fromarray(np.zeros((16, 16), np.uint8))
    if harm == "change":
        black.save(victim)
    elif harm == "remove":
        victim.unlink()
    else:
        victim.rename(victim.with_name("stranger.png"))
    painted, harmed = noted(monkeypatch), contents(folder)
    with pytest.raises(UserError, match=rf"masks/{victim.name} is .*--remake inpaint"):
        run(p)
    assert (painted, contents(folder)) == ([], harmed)
    Run(p).make("inpaint", again=True)
    assert painted == [victim.stem]
    stranger = {"masks/stranger.png": harmed["masks/stranger.png"]} if harm == "rename" else {}
    assert contents(folder) == {**wanted, **stranger}
    aside = [contents(path.parent) for path in (p.folder / ASIDE).rglob(STAMP)]
    assert aside == [{name: value for name, value in harmed.items() if name not in stranger}]


@pytest.mark.parametrize("override", [("inpaint.resampling", 1), ("inpaint.dilate", 100), ("seed", 1),
                                      ("inpaint.clip", False)])
def test_a_changed_parameter_makes_other_pairs_and_the_first_come_back_with_it(
        p: Params, override: tuple, monkeypatch):
    before = contents(run(p).sets[TWO].folder)
    after = contents(run(changed(p, override)).sets[TWO].folder)
    images = [name for name in before if name.startswith("images/") and name in after]
    assert len(images) > 0
    assert all(after[name] != before[name] for name in images)
    monkeypatch.setattr(inpaint, "make_batch", None)
    assert contents(run(p).sets[TWO].folder) == before


def test_what_was_painted_meets_its_surroundings_and_keeps_its_mask(p: Params):
    def seams(result: inpaint.Inpainted) -> tuple[list[float], np.ndarray]:
        one, pairs = result.sets[TWO], Run(p).pairs.named(result.sets[TWO].manifest["source"].tolist())
        around, made = regions.all_dilated(pairs.masks, p.inpaint.dilate), one.load()
        outside = np.broadcast_to(around[:, None] == 0, made.images.shape)
        assert np.array_equal(made.images[outside], pairs.images[outside])
        return [regions.seam(*pair) for pair in zip(made.images, around, strict=True)], made.masks

    (matched, masks), (plain, same) = seams(run(p)), seams(run(changed(p, ("inpaint.seamless", False))))
    assert np.array_equal(masks, same)
    assert all(a < b for a, b in zip(matched, plain, strict=True))
    on, off = (inpaint.decisive(changed(p, ("inpaint.seamless", value)).inpaint) for value in (True, False))
    assert "seamless" not in off, "pairs that are older than the parameter hold"
    assert on == {**off, "seamless": True}


def test_clipping_decides_a_pair_only_where_it_is_switched_off(nano_params: Params):
    clipped, not_clipped = (inpaint.decisive(changed(nano_params, ("inpaint.clip", clip)).inpaint)
                            for clip in (True, False))
    assert "clip" not in clipped, "pairs that are older than the parameter hold"
    assert not_clipped == {**clipped, "clip": False}


@pytest.mark.parametrize(("masks", "decides"), [("joint", False), ("own", False), ("varied", True)])
def test_turning_decides_a_pair_only_where_masks_are_turned(nano_params: Params, masks: str, decides: bool):
    any_way, little = (inpaint.decisive(changed(nano_params, ("inpaint.masks", masks),
                                                ("inpaint.turn", turn)).inpaint) for turn in (180, 20))
    assert "turn" not in any_way
    assert little == {**any_way, **({"turn": 20.0} if decides else {})}


def test_a_source_may_be_called_na(p: Params, tmp_path: Path):
    drawn = Run(p).pairs
    for i, name in enumerate(["NA", "null", "007", "nan"]):
        dataset.write_pair(tmp_path / "pairs", name, drawn.images[i], drawn.masks[i])
    own = changed(p, ("data.source", tmp_path / "pairs"), ("data.count", "null"),
                  ("run_dir", tmp_path / "own"), ("train.full_images", "null"))
    for result in (run(own), Run(own).inpainted):
        one = result.sets[TWO]
        rows = pd.concat([one.manifest, one.left_out])
        assert sorted(rows["source"]) == ["007", "NA", "nan", "null"]
        assert sorted(rows["name"]) == ["007_1", "NA_1", "nan_1", "null_1"]
