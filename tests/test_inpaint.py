"""Inpainting: the RePaint schedule, exact known pixels, and results that depend on their own seed only."""

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffusegen_core.chapters import cluster, inpaint, train
from diffusegen_core.config import params
from diffusegen_core.config.params import Inpaint, Params
from diffusegen_core.data import dataset, layouts, pairsets
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import runs, seeds


def changed(p: Params, *overrides: tuple[str, object]) -> Params:
    return params.validate(params.override(params.plain(p), [(key, str(value)) for key, value in overrides]))


# ---- the schedule

@pytest.mark.parametrize(("count", "jump", "resampling", "transitions", "calls"), [
    (200, 10, 5, 1720, 960), (100, 10, 5, 820, 460), (50, 10, 3, 210, 130), (250, 10, 10, 4570, 2410),
    (25, 5, 2, 65, 45), (10, 3, 1, 10, 10), (2, 1, 4, 8, 5)])
def test_repaint_visits_as_many_levels_as_published(count, jump, resampling, transitions, calls):
    levels = repaint_levels(count, jump, resampling)
    assert len(levels) - 1 == transitions
    assert network_calls(levels) == calls
    assert (levels[0], levels[-1], max(levels), min(levels)) == (count - 1, -1, count - 1, -1)
    assert levels.index(-1) == len(levels) - 1
    steps = [after - before for before, after in pairwise(levels)]
    assert {abs(step) for step in steps} == {1}
    # Steps up come in whole jumps, resampling - 1 of them from each level where jumps start.
    starts = Counter(levels[i] for i, step in enumerate(steps) if step > 0 and (i == 0 or steps[i - 1] < 0))
    assert sum(step > 0 for step in steps) == jump * starts.total()
    assert set(starts.values()) <= {resampling - 1}
    assert sorted(starts) == ([] if resampling == 1 else list(range(0, count - jump, jump)))


def test_the_first_levels_of_a_small_schedule_by_hand():
    assert repaint_levels(5, 2, 2) == [4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]


# ---- one image at a time

@pytest.fixture(scope="module")
def net() -> UNet:
    """A small network with attention whose every weight is random: the untrained one would answer zero."""
    net = UNet(params.Model(channel_mult=[1, 1], attention_resolutions=[8], head_channels=16), 16)
    g = seeds.generator(0, "weights")
    for p in net.parameters():
        p.data.add_(0.04 * torch.randn(p.shape, generator=g))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs() -> dataset.Pairs:
    rng = np.random.default_rng(0)
    masks = np.zeros((7, 1, 16, 16), np.uint8)
    for i, mask in enumerate(masks):
        mask[0, 3 + i % 3:9 + i, 2 + i:11] = 1
    images = rng.integers(0, 256, (7, 3, 16, 16), dtype=np.uint8)
    return dataset.gather([f"p{i}" for i in range(7)], images, masks)


def painted(net: UNet, pairs: dataset.Pairs, rows: list[int], objective: str = "v") -> torch.Tensor:
    """The float result for some of the pairs, in one batch."""
    given = Inpaint(respacing=25, jump_length=5, resampling=3)
    s = process.schedule(params.Process(objective=objective), given.respacing)
    levels = repaint_levels(given.respacing, given.jump_length, given.resampling)
    some = pairs.take(rows)
    known = torch.from_numpy(np.stack([[1 - inpaint.dilated(mask[0], given)] for mask in some.masks])).float()
    own = [seeds.generator(0, "image", row) for row in rows]
    return repaint(Diffusion(net, s, objective), dataset.to_tensor(some), known, levels, own)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_a_result_does_not_depend_on_batch_size_order_or_shard(net: UNet, pairs: dataset.Pairs,
                                                               objective: str):
    whole = painted(net, pairs, list(range(7)), objective)
    assert float(whole.std()) > 0.1
    for rows in ([3], [6, 2, 4], [5, 1, 0, 3, 6, 2, 4]):
        torch.testing.assert_close(painted(net, pairs, rows, objective), whole[rows], rtol=0, atol=1e-5)


def test_images_of_a_batch_get_noise_of_their_own(net: UNet, pairs: dataset.Pairs):
    same = pairs.take([0, 0])
    x = painted(net, dataset.gather(["a", "b"], same.images, same.masks), [0, 1])
    assert float((x[0] - x[1]).abs().max()) > 0.5


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_known_pixels_come_back_exact_in_all_four_channels(net: UNet, pairs: dataset.Pairs, objective: str):
    x, x0 = painted(net, pairs, list(range(7)), objective), dataset.to_tensor(pairs)
    known = torch.from_numpy(np.stack([inpaint.dilated(m[0], Inpaint()) for m in pairs.masks])) == 0
    for i in range(7):
        assert torch.equal(x[i][:, known[i]], x0[i][:, known[i]])
        assert not torch.equal(x[i][:, ~known[i]], x0[i][:, ~known[i]])
        assert (known[i].any(), (~known[i]).any()) == (True, True)


def test_the_known_part_reaches_the_network_noised_to_the_level_at_hand(pairs: dataset.Pairs):
    s = process.schedule(params.Process(), 50)
    x_known = dataset.to_tensor(pairs.take([0] * 7))
    seen = []

    def watching(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append((int(timestep[0]), x_t))
        return torch.zeros(len(x_t), 8, 16, 16)
    levels = repaint_levels(50, 10, 2)
    own = [seeds.generator(0, i) for i in range(7)]
    repaint(Diffusion(watching, s, "v"), x_known, torch.ones(7, 1, 16, 16), levels, own)
    assert [t for t, _ in seen] == [int(s.timestep[a]) for a, b in pairwise(levels) if b < a]
    for t, x_t in seen:
        alpha_bar = float(torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64)[:t + 1].prod())
        noise = (x_t - alpha_bar**0.5 * x_known) / (1 - alpha_bar) ** 0.5
        assert float(noise.mean()) == pytest.approx(0, abs=0.05)  # 7168 values: a standard error of 0.012
        assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_a_jump_back_keeps_the_variance_that_its_level_has(pairs: dataset.Pairs):
    """Where the network knows that the image is black, x follows q at every level, after any jump."""
    s = process.schedule(params.Process(), 50)
    alpha_bar = torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64).cumprod(0)
    seen = []

    def knowing(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        a = float(alpha_bar[int(timestep[0])])
        seen.append(float(((x_t + a**0.5) / (1 - a) ** 0.5).std()))  # x0 = -1
        eps = (x_t + a**0.5) / (1 - a) ** 0.5
        return torch.cat([eps, torch.full_like(eps, -1.0)], dim=1)  # the posterior's own variance
    own = [seeds.generator(1, i) for i in range(7)]
    x = repaint(Diffusion(knowing, s, "eps"), torch.ones(7, 4, 16, 16), torch.zeros(7, 1, 16, 16),
                repaint_levels(50, 10, 3), own)
    np.testing.assert_allclose(seen, 1, atol=0.05)
    torch.testing.assert_close(x, -torch.ones_like(x), atol=1e-3, rtol=0)


# ---- masks

@pytest.mark.parametrize(("pixels", "size", "side"), [
    (20, 256, 20), (16, 256, 16), (20, 128, 10), (20, 64, 5), (16, 64, 4), (20, 32, 2), (16, 16, 1)])
def test_ellipses_scale_with_the_image(pixels: int, size: int, side: int):
    kernel = inpaint.ellipse(pixels, size)
    assert kernel.shape == (side, side)
    assert kernel.sum() == pytest.approx(np.pi / 4 * side**2, rel=0.25, abs=1)


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128, 256])
def test_the_region_holds_the_mask_and_a_rim_around_it(size: int):
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 2, size // 2), size // 5, 1, -1)
    mask[0, 0] = 1
    region = inpaint.dilated(mask, Inpaint())
    assert set(np.unique(region)) == {0, 1}
    assert (region >= mask).all()
    rim = (region[size // 2].sum() - mask[size // 2].sum()) / 2
    assert rim == pytest.approx(20 * size / 256 / 2, abs=1)


@pytest.mark.parametrize("size", [32, 64, 100, 128, 256])
def test_opening_removes_specks_and_neither_adds_nor_moves(size: int):
    def opened(channel: np.ndarray) -> np.ndarray:
        return inpaint.refined(channel.astype(np.float32), Inpaint())
    specks, disk = np.full((size, size), -1.0), np.zeros((size, size), np.uint8)
    specks[4::8, 4::8] = 1  # one on the border may stay: what lies beyond it is not known
    cv2.circle(disk, (size // 2, size // 2), size // 4, 1, -1)
    specks[cv2.dilate(disk, np.ones((5, 5))) > 0] = -1  # nor one that touches the disk
    assert opened(specks).sum() == 0
    alone = opened(np.where(disk, 0.3, -0.2))
    assert (alone <= disk).all()
    assert alone.sum() > 0.95 * disk.sum()
    assert np.array_equal(opened(np.where(disk, 0.3, specks)), alone)

    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(size, size)), (0, 0), size / 20)
    once = opened(noise)
    assert (once <= (noise > 0)).all(), "an opening is never larger than what it is of"
    assert 0 < once.sum() < (noise > 0).sum()
    assert np.array_equal(opened(np.where(once, 1, -1)), once), "and a second one changes nothing"


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
