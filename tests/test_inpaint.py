"""Inpainting: the RePaint schedule, exact known pixels, and results that depend on their own seed only."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffusegen_core.chapters import cluster, inpaint, train
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, layouts, pairsets
from diffusegen_core.store import runs, seeds


def changed(p: Params, *overrides: tuple[str, object]) -> Params:
    return params.validate(params.override(params.plain(p), [(key, str(value)) for key, value in overrides]))


# ---- the plan

def names(count: int) -> list[str]:
    return [f"s{i:04d}" for i in range(count)]


def test_models_are_drawn_from_all_clusters_alike(nano_params: Params):
    p = changed(nano_params, ("inpaint.sources", "null"), ("inpaint.samples", 2))
    labels = [i % 5 for i in range(1000)]
    jobs = inpaint.plan(p, "5-Diff", names(1000), labels, 5)
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
    jobs = inpaint.plan(p, "3-Diff", names(60), labels, 3)
    assert [job.model for job in jobs] == [f"cluster-{k:02d}" for k in labels[:50]]
    assert {job.model for job in inpaint.plan(p, "Full-Diff", names(60), labels, 3)} == {"full"}


def test_a_pairs_seed_depends_on_its_name_sample_and_type_and_not_on_the_others(nano_params: Params):
    p = changed(nano_params, ("inpaint.samples", 2), ("inpaint.sources", "null"))
    some = {job.name: job for job in inpaint.plan(p, "2-Diff", ["b", "a"], [0, 1], 2)}
    more = {job.name: job for job in inpaint.plan(
        changed(p, ("inpaint.samples", 3)), "2-Diff", ["c", "a", "b"], [1, 1, 0], 2)}
    assert {name: (job.seed, job.model) for name, job in some.items()} == {
        name: (more[name].seed, more[name].model) for name in some}
    assert {job.seed for job in inpaint.plan(p, "3-Diff", ["b", "a"], [0, 1], 2)}.isdisjoint(
        job.seed for job in some.values())


# ---- the whole chapter

@pytest.fixture(scope="module")
def trained(tmp_path_factory, nano_values: dict) -> Params:
    """A run up to its models, at a rate that leaves them far from the zeros they start as."""
    values = {**nano_values, "run_dir": str(tmp_path_factory.mktemp("inpaint") / "run")}
    p = changed(params.validate(values), ("train.lr", 0.01), ("train.full_images", 24),
                ("inpaint.dilate", 60), ("inpaint.opening", 16))  # 16 px: one pixel, so that no mask is lost
    train.run(p)
    return p


@pytest.fixture
def p(trained: Params, tmp_path: Path) -> Params:
    """The same run in a folder of the test's own."""
    for part in ("data", "cluster", "train"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / part).symlink_to(trained.folder / part)
    return changed(trained, ("run_dir", tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    """Every file of a dataset but its stamp, with a hash of its content."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*")) if f.is_file() and f.name != runs.STAMP}


def test_the_output_is_a_dataset_with_a_manifest_that_is_true(p: Params):
    result = inpaint.run(p)
    assert list(result.folders) == ["2-Diff", "Full-Diff"]
    source, clusters = dataset.load(p), cluster.run(p)
    changed_pixels = made = 0
    for data_type, folder in result.folders.items():
        manifest = result.manifests[data_type]
        pd.testing.assert_frame_equal(pd.read_csv(folder / "manifest.csv"), manifest)
        left_out = pairsets.left_out(folder)
        files = {"images", "left_out.csv", "made.json", "manifest.csv", "masks"}
        assert {f.name for f in folder.iterdir()} == files
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
            region = inpaint.dilated(source.masks[i, 0], p.inpaint) > 0
            original = source.images[i].transpose(1, 2, 0)
            assert np.array_equal(image[~region], original[~region]), "known pixels"
            assert (mask[~region] == 0).all(), "the new mask lies in the region"
            changed_pixels += (image[region] != original[region]).sum()
            assert row.area_before == pytest.approx(source.masks[i].mean(), abs=1e-6)
            assert row.area_after == pytest.approx((mask > 0).mean(), abs=1e-6)
            assert row.seed == seeds.derive(p.seed, "inpaint", data_type, row.source, row.sample)
            assert row.source_cluster == clusters.labels[i]
            assert row.name == f"{row.source}_{row.sample}"
            made += 1
        report = layouts.check(folder)
        assert report.problems == []
        assert sorted(pair.name for pair in report.pairs) == sorted(manifest["name"])
        assert result.table.loc[data_type, "pairs"] == 4 - len(left_out)
        assert result.table.loc[data_type, "empty masks"] == len(left_out)
    assert changed_pixels > 100 * made > 300
    assert set(result.manifests["Full-Diff"]["model"]) == {"full"}


def test_a_pair_without_a_polyp_is_listed_and_not_written(p: Params, monkeypatch):
    whole = set(inpaint.run(p).manifests["2-Diff"]["name"])
    runs.clear(p.folder / "inpaint")
    real, masks = inpaint.refined, iter([False])
    monkeypatch.setattr(inpaint, "refined", lambda x, settings: real(x, settings) * next(masks, True))
    result = inpaint.run(changed(p, ("inpaint.batch_size", 1)))
    folder = result.folders["2-Diff"]
    lost = {*pairsets.left_out(folder)["name"]}
    assert len(lost & whole) == 1
    assert {f.stem for f in folder.rglob("*.png")} == set(result.manifests["2-Diff"]["name"]) == whole - lost
    before = contents(folder)
    monkeypatch.setattr(inpaint, "make_batch", None)
    assert contents(inpaint.run(p).folders["2-Diff"]) == before, "and it is not tried again"


def test_batch_size_changes_no_file_and_is_no_reason_to_start_again(p: Params):
    first = inpaint.run(p)
    made = {t: contents(folder) for t, folder in first.folders.items()}
    stamps = {t: (folder / runs.STAMP).stat().st_mtime_ns for t, folder in first.folders.items()}
    again = inpaint.run(changed(p, ("inpaint.batch_size", 1)))
    assert {t: (folder / runs.STAMP).stat().st_mtime_ns for t, folder in again.folders.items()} == stamps
    other = changed(p, ("inpaint.batch_size", 1))
    for folder in first.folders.values():
        runs.clear(folder)
    assert {t: contents(folder) for t, folder in inpaint.run(other).folders.items()} == made


class Killed(BaseException):
    """Stands for a kill at one line: nothing of ours may catch it."""


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5])
def test_an_interrupted_run_ends_with_the_same_files(p: Params, monkeypatch, tmp_path: Path, calls: int):
    """Killed at a write: of the first image, mask or row, of the second pair's, or of the manifest."""
    whole = changed(p, ("inpaint.batch_size", 2), ("inpaint.samples", 1))
    wanted = {t: contents(folder) for t, folder in inpaint.run(whole).folders.items()}
    (p.folder / "inpaint").rename(tmp_path / "whole")
    real, done = runs.write, []

    def dying(path: Path, save) -> Path:
        if len(done) == calls:
            raise Killed
        done.append(path)
        return real(path, save)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write", dying)
        with pytest.raises(Killed):
            inpaint.run(whole)
    kept = {path: path.stat().st_mtime_ns for path in done if path.exists()}
    result = inpaint.run(changed(whole, ("inpaint.batch_size", 3)))
    assert {t: contents(folder) for t, folder in result.folders.items()} == wanted
    rows = [path for path in done if path.suffix == ".json"]
    for row in rows:  # whatever had its row was not made again
        assert row.stat().st_mtime_ns == kept[row]


def test_more_samples_keep_the_first_ones_and_fewer_remove_the_rest(p: Params):
    one = inpaint.run(p).folders["2-Diff"]
    before = {f: f.stat().st_mtime_ns for f in one.rglob("*.png")}
    manifest = pd.read_csv(one / "manifest.csv")
    (one / "images" / ".ipynb_checkpoints").mkdir()  # JupyterLab's, and no pair's
    two = inpaint.run(changed(p, ("inpaint.samples", 2)))
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert len(list(one.rglob("*.png"))) == 2 * len(two.manifests["2-Diff"]) > len(before)
    pd.testing.assert_frame_equal(two.manifests["2-Diff"].iloc[:len(manifest)], manifest)
    assert set(two.manifests["2-Diff"]["sample"][len(manifest):]) == {2}
    pd.testing.assert_frame_equal(inpaint.run(p).manifests["2-Diff"], manifest)
    assert {f: f.stat().st_mtime_ns for f in one.rglob("*.png")} == before


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_a_pair_that_was_touched_is_made_again_and_only_that(p: Params, harm: str):
    folder = inpaint.run(p).folders["2-Diff"]
    wanted = contents(folder)
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*.png")}
    victim = sorted((folder / "masks").iterdir())[1]
    if harm == "change":
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(victim)
    elif harm == "remove":
        victim.unlink()
    else:
        victim.rename(victim.with_name("stranger.png"))
    assert contents(inpaint.run(p).folders["2-Diff"]) == wanted
    touched = {f.stem for f, made in before.items() if f.stat().st_mtime_ns != made}
    assert touched == {victim.stem}


@pytest.mark.parametrize("override", [("inpaint.resampling", 1), ("inpaint.dilate", 100), ("seed", 1)])
def test_a_changed_parameter_makes_the_pairs_again(p: Params, override: tuple):
    before = contents(inpaint.run(p).folders["2-Diff"])
    if override[0] == "seed":  # which is a new run up to here as well
        for part in ("data", "cluster", "train"):
            (p.folder / part).unlink()
    after = contents(inpaint.run(changed(p, override)).folders["2-Diff"])
    images = [name for name in before if name.startswith("images/") and name in after]
    assert len(images) > 0
    assert all(after[name] != before[name] for name in images)


def test_a_source_may_be_called_na(p: Params, tmp_path: Path):
    drawn = dataset.load(p)
    for i, name in enumerate(["NA", "null", "007", "nan"]):
        dataset.write_pair(tmp_path / "pairs", name, drawn.images[i], drawn.masks[i])
    own = changed(p, ("data.source", tmp_path / "pairs"), ("data.count", "null"),
                  ("run_dir", tmp_path / "own"), ("train.full_images", "null"))
    result = inpaint.run(own)
    for again in (result, inpaint.run(own)):
        rows = pd.concat([again.manifests["2-Diff"], pairsets.left_out(again.folders["2-Diff"])])
        assert sorted(rows["source"]) == ["007", "NA", "nan", "null"]
        assert sorted(rows["name"]) == ["007_1", "NA_1", "nan_1", "null_1"]
