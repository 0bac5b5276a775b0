"""Windows around lesions: squares within the picture, laid back into it, and models that see nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusegen_core.chapters import spots
from diffusegen_core.chapters.spots import Spot
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets, phantom, regions, windows
from diffusegen_core.data.types import DataType
from diffusegen_core.data.windows import COPIES, Window
from diffusegen_core.diffusion import origins
from diffusegen_core.planning import flops, preflight
from diffusegen_core.report import algorithms
from diffusegen_core.run import Run


def disc(x: float, y: float, radius: float, shape: tuple[int, int] = (80, 100)) -> np.ndarray:
    ys, xs = np.mgrid[:shape[0], :shape[1]]
    mask = (np.hypot(ys - y, xs - x) <= radius).astype(np.uint8)
    mask[int(y), int(x)] = 1
    return mask


@settings(max_examples=80)
@given(x=st.floats(0, 99), y=st.floats(0, 79), radius=st.floats(0, 60), times=st.floats(1.1, 8),
       seed=st.none() | st.integers(0, 999))
def test_a_window_lies_in_the_picture_and_holds_the_lesion(x: float, y: float, radius: float, times: float,
                                                           seed: int | None):
    lesion = disc(x, y, radius)
    region = regions.dilated(lesion, 20)
    rng = None if seed is None else np.random.default_rng(seed)
    window = Window.around(lesion, times, region, rng)
    assert window.left >= 0
    assert window.top >= 0
    assert window.left + window.width <= 100
    assert window.top + window.height <= 80
    if rng is None:
        assert window.contains(region)
        assert window == Window.whole(lesion.shape) or window.width == window.height


def test_a_window_is_so_many_times_as_large_as_the_lesion_and_jitter_is_seeded():
    lesion = disc(50, 40, 8)
    assert Window.around(lesion, 3) == Window(25, 15, 51, 51)
    jittered = {Window.around(lesion, 3, rng=np.random.default_rng(seed)) for seed in range(20)}
    assert len(jittered) > 15
    again = Window.around(lesion, 3, rng=np.random.default_rng(5))
    assert again == Window.around(lesion, 3, rng=np.random.default_rng(5))
    widths = [window.width for window in jittered]
    assert min(widths) < 48 < 54 < max(widths)


def test_what_is_laid_back_changes_the_region_alone_and_is_the_painting_inside():
    image = np.zeros((3, 64, 64), np.uint8)
    region = np.zeros((64, 64), np.uint8)
    region[16:48, 16:48] = 1
    window = Window(8, 8, 48, 48)
    small = window.region(region, 24)
    assert small.sum() == 16 * 16
    whole, alpha = window.laid_back(image, np.full((3, 24, 24), 200, np.uint8), small, dilate=64)
    assert (whole[:, 32, 32] == 200).all()
    assert (whole[:, alpha == 0] == 0).all()
    assert alpha[0, 0] == alpha[12, 12] == 0
    steps = alpha[32, 14:33]
    assert (np.diff(steps) >= 0).all()
    assert len(np.unique(steps)) > 4


@pytest.mark.parametrize("window", [Window(40, 20, 48, 48), Window.whole((90, 160))])
def test_what_is_laid_back_into_a_picture_on_its_side_fades_as_far(window: Window):
    image, small = np.zeros((3, 90, 160), np.uint8), np.zeros((24, 24), np.uint8)
    small[6:18, 4:20] = 1
    _, wide = window.laid_back(image, np.full((3, 24, 24), 200, np.uint8), small, dilate=64)
    turned = Window(window.top, window.left, window.height, window.width)
    _, high = turned.laid_back(np.ascontiguousarray(image.swapaxes(1, 2)),
                               np.full((3, 24, 24), 200, np.uint8), np.ascontiguousarray(small.T), dilate=64)
    assert (wide > 0).sum() > 0
    assert pytest.approx(wide, abs=1e-5) == high.T


def test_no_sliver_of_a_region_is_lost_at_the_models_size():
    region = np.zeros((100, 100), np.uint8)
    region[50, 50] = 1
    assert Window(0, 0, 100, 100).region(region, 10).sum() == 1


# ---- a run with windows

@pytest.fixture(scope="module")
def values(nano_values: dict) -> dict:
    return params.merged(nano_values, {"data.image_size": 32, "data.window": 2.0, "data.window_size": 16,
                                       "inpaint.masks": "varied", "inpaint.samples": 2})


@pytest.fixture(scope="module")
def run(values: dict, tmp_path_factory: pytest.TempPathFactory) -> Run:
    this = Run(params.validate({**values, "run_dir": str(tmp_path_factory.mktemp("windows") / "run")}))
    this.make("augment")
    return this


def test_models_see_windows_and_pictures_come_out_whole(run: Run):
    assert run.windows.image_size == 16
    assert len(run.windows) == COPIES * len(run.pairs)
    assert run.windows.masks.any(axis=(1, 2, 3)).all()
    assert run.windows.masks.mean() > 1.3 * run.pairs.masks.mean(), "lesions are larger in them"
    assert run.models.load().image_size == 16
    assert [model.pairs for model in run.models.models] == [
        len(run.clusters.members(k)) for k in range(run.clusters.k)]
    one = run.inpainted.sets[DataType("Paint", "2")]
    styled = run.styled.sets[DataType("Styled-Paint", "2")]
    for row in one.manifest.itertuples():
        image, mask = pairsets.read_pair(one.folder, row.name)
        source = run.pairs.named([row.source])
        assert image.shape == (3, 32, 32)
        region = regions.filled(source.masks, mask[None], run.params.inpaint.dilate)[0] > 0
        assert np.array_equal(image[:, ~region], source.images[0][:, ~region])
        assert not np.array_equal(image, source.images[0])
        after, same = pairsets.read_pair(styled.folder, row.name)
        assert np.array_equal(after[:, ~region], source.images[0][:, ~region])
        assert not np.array_equal(after, image)
        assert np.array_equal(same, mask)


def test_windows_that_were_changed_by_hand_are_made_again_by_the_chapter_that_the_refusal_names(
        run: Run, values: dict, tmp_path: Path):
    other = Run(params.validate({**values, "run_dir": str(tmp_path / "run")}))
    other.make("windows")
    (other.folder / "windows" / "pairs.npz").write_bytes(b"by hand")
    with pytest.raises(UserError, match="--remake windows"):
        other.make("train")
    assert preflight.remakes(["windows"]) == ["windows"]
    assert other.make("windows", again=True).digest == run.windows.digest


def test_status_tells_of_windows_where_there_are_any(run: Run, nano_params: Params):
    assert "windows" in run.status().index
    assert "windows" not in Run(nano_params).status().index


def test_a_model_tells_which_pictures_it_has_seen_and_is_adopted_with_other_windows(
        run: Run, values: dict, tmp_path: Path):
    for model in run.models.models:
        cluster = run.pairs.take(run.clusters.members(int(model.name[-2:])))
        assert origins.read_fingerprints(model.path) == origins.fingerprints(cluster)
        (tmp_path / "given").mkdir(exist_ok=True)
        shutil.copy(model.path, tmp_path / "given" / f"{model.name}.safetensors")
    other = Run(params.validate(params.merged(values, {
        "data.window": 3.0, "train.checkpoints": str(tmp_path / "given"),
        "run_dir": str(tmp_path / "wide")})))
    assert other.make("train").load().image_size == 16
    strange = Run(params.validate(params.merged(values, {
        "data.names": [f"phantom_{number:05d}" for number in range(4)], "run_dir": str(tmp_path / "strange"),
        "train.checkpoints": str(tmp_path / "given")})))
    with pytest.raises(UserError, match="images"):
        strange.make("train")


def test_windows_lie_around_the_classes_that_are_painted(tmp_path: Path):
    masks = np.zeros((2, 2, 64, 64), np.uint8)
    masks[:, 0, 5:60, 5:60] = 1
    masks[0, 1, 30:36, 20:26], masks[0, 0, 30:36, 20:26] = 1, 0
    pairs = dataset.gather(["with", "without"], np.zeros((2, 1, 64, 64), np.uint8), masks)
    near, far = (windows.drawn(0, pairs, 2.0, 16, chosen=chosen) for chosen in ((1,), None))
    shares = [one.masks[:COPIES, 1].mean() for one in (near, far)]
    assert shares[0] > 10 * shares[1]
    assert np.array_equal(near.masks[COPIES:], far.masks[COPIES:]), "around what there is"


def test_bars_of_padded_pictures_stay(tmp_path: Path):
    wide = dataset.gather(["wide", "square"], np.full((2, 3, 16, 16), 9, np.uint8),
                          np.ones((2, 1, 16, 16), np.uint8))
    wide.images[0, :, [0, 1, 2, 3, 12, 13, 14, 15]] = 0
    pictures = replace(wide, padded={"wide": (50, 100)})
    kept = windows.bars_kept(np.full((2, 3, 16, 16), 200, np.uint8), pictures)
    assert not kept[0, :, :4].any()
    assert not kept[0, :, 12:].any()
    assert (kept[0, :, 4:12] == 200).all()
    assert (kept[1] == 200).all()
    masks = windows.bars_empty(np.ones((2, 2, 16, 16), np.uint8), pictures)
    assert not masks[0, :, [0, 3, 12, 15]].any()
    assert masks[0, :, 4:12].all()
    assert masks[1].all()


def test_the_algorithms_are_shown_at_the_models_size(run: Run):
    pair, diffusion = algorithms.one(run, number=3)
    assert pair.image_size == diffusion.image_size == 16
    assert pair.names == [f"{run.pairs.names[3]}~0"]
    x_known, known, _ = algorithms.to_paint(run, number=1)
    assert x_known.shape == (1, 4, 16, 16)
    assert 0 < float(known.mean()) < 1
    inpainted, source, pixels, _ = algorithms.to_style(run)
    assert inpainted.shape[-1] == source.shape[-1] == pixels.shape[-1] == 16


def test_the_plan_counts_the_models_size(values: dict):
    small = flops.count(params.validate(values)).unet.call
    large = flops.count(params.validate(params.merged(values, {
        "data.window": None, "data.window_size": None}))).unet.call
    assert 3 < large / small < 5


@pytest.mark.usefixtures("image_by_image")
def test_batch_size_changes_no_pair(values: dict, tmp_path: Path):
    one, again = (Run(params.validate(params.merged(values, {
        "run_dir": str(tmp_path / str(size)), "inpaint.batch_size": size,
    }))).make("inpaint").sets[DataType("Paint", "2")] for size in (3, 1))
    assert again.hashes == {**one.hashes, **{name: again.hashes[name] for name in again.hashes
                                             if not name.endswith(".png")}}


def test_the_model_may_draw_the_mask_in_a_window(run: Run, values: dict):
    changes = {"inpaint.masks": "joint", "inpaint.opening": 1}
    p = params.validate(params.merged(params.plain(run.params), changes))
    joint = Run(p).make("inpaint").sets[DataType("Diff", "2")]
    for row in joint.manifest.itertuples():
        image, mask = pairsets.read_pair(joint.folder, row.name)
        source = run.pairs.named([row.source])
        region = regions.dilated(source.masks[0, 0], p.inpaint.dilate) > 0
        assert np.array_equal(image[:, ~region], source.images[0][:, ~region])
        assert mask.shape == (1, 32, 32)
    assert len(joint) + len(joint.left_out) == 8


def test_an_old_lesion_that_is_far_away_is_painted_over_as_well(run: Run):
    image, _, _ = phantom.draw(seed=3, index=1, size=128)
    old, new = (disc(x, y, 9, (128, 128)) for x, y in ((24, 24), (104, 104)))
    p = run.params
    assert spots._is_apart(Spot(image, old, new), 2.0, p.inpaint)
    result, = run.paint(image.transpose(1, 2, 0), new, old=old)
    changed = (result.image != image.transpose(1, 2, 0)).any(axis=2)
    assert changed[old > 0].mean() > 0.5
    assert changed[new > 0].mean() > 0.5
    assert not changed[~result.region].any()
    assert not changed[40:88, 40:88].any(), "what lies between stays"


@pytest.mark.parametrize(("changes", "message"), [
    ({"data.window_size": None}, "given together"), ({"data.window": None}, "given together"),
    ({"data.window_size": 15}, "data.window_size 15 cannot be halved"),
    ({"data.window": 1.0}, "greater than 1")])
def test_windows_that_cannot_be_are_refused(values: dict, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        params.validate(params.merged(values, changes))


def test_without_a_window_the_pairs_are_what_the_models_see(nano_params: Params):
    this = Run(nano_params)
    assert this.make("windows") is this.make("data")
    assert not (nano_params.folder / "windows").exists()
