"""The GAN's dataset folder: SinGAN-Seg's published pairs, another's, and those of a SinGAN trained here."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffusegen_core.chapters import gan, segment
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, layouts, pairsets, phantom
from diffusegen_core.networks import singan
from diffusegen_core.parallel import fanout
from diffusegen_core.store import runs, seeds

REAL = 6


def make_params(folder: Path, **settings: object) -> Params:
    return params.validate({
        "run_dir": str(folder / "run"), "device": "cpu", "data": {"count": REAL, "image_size": 16},
        "inpaint": {"samples": 2, "sources": None},
        "gan": {"sources": None, "min_side": 10, "channels": 4, "layers": 3, "steps": 2, **settings}})


def contents(folder: Path) -> dict[str, str]:
    """Every file of a dataset but its stamp, with a hash of its content."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*")) if f.is_file() and f.name != runs.STAMP}


# ---- pairs that others made


def write_published(folder: Path, sources: range, samples: range, scale: int = 0) -> Path:
    for source in sources:
        for sample in samples:
            image, mask, _ = phantom.draw(8, 100 * source + sample, 24)
            stem = f"chk_id_{source}_gen_scale_{scale}_{sample}"
            for file, word in zip(dataset.write_pair(folder, stem, image, mask), ("img", "mask"), strict=True):
                file.rename(file.with_name(f"{stem}_{word}.png"))
    return folder


def test_without_a_source_there_is_no_gan(tmp_path: Path) -> None:
    assert gan.run(make_params(tmp_path, source=None)) is None


def test_the_published_pairs_become_a_dataset(tmp_path: Path) -> None:
    """Sources in natural order (9 before 10), as many as real pairs; samples up to inpaint.samples."""
    origin = write_published(tmp_path / "gan", range(5, 13), range(3))
    p = make_params(tmp_path, source=str(origin))
    assert gan.caveat(p) == "", "nothing is made yet"
    made = gan.run(p)
    folder = made.folders["GAN"]
    assert folder == tmp_path / "run" / "gan" / "GAN"
    names = [f"chk_id_{i}_gen_scale_0_{j}_img" for i in range(5, 11) for j in range(2)]
    assert made.manifest["name"].tolist() == names
    assert made.manifest["sample"].tolist() == [1, 2] * REAL
    assert made.manifest.columns.tolist() == gan.MANIFEST
    for column, value in (("source", ""), ("source_cluster", -1), ("seed", -1), ("model", "SinGAN-Seg")):
        assert set(made.manifest[column]) == {value}
    assert (made.trained, made.seconds_per_image) == (False, None)
    assert "all 1000 pairs of HyperKvasir" in gan.caveat(p)
    assert made.made_by == "SinGAN-Seg's published pairs, noise from scale 0"
    assert layouts.check(folder).problems == []
    pairs = pairsets.load(folder, names)
    image, mask, _ = phantom.draw(8, 701, 24)
    expected = dataset.resized(Image.fromarray(image.transpose(1, 2, 0)), Image.fromarray(mask[0] * 255), 16)
    index = names.index("chk_id_7_gen_scale_0_1_img")
    np.testing.assert_array_equal(pairs.images[index], expected[0])
    np.testing.assert_array_equal(pairs.masks[index], expected[1])
    assert made.manifest["area"].tolist() == pytest.approx(pairs.masks.mean(axis=(1, 2, 3)), abs=1e-6)


def test_sources_and_samples_are_as_asked(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(4), scale=7)
    made = gan.run(make_params(tmp_path, source=str(origin), sources=2, samples=3))
    assert made.manifest["name"].tolist() == [f"chk_id_{i}_gen_scale_7_{j}_img" for i in (0, 1)
                                              for j in range(3)]
    assert made.made_by.endswith("noise from scale 7")


def test_pairs_of_two_start_scales_are_not_mixed(tmp_path: Path) -> None:
    write_published(tmp_path / "gan", range(2), range(2))
    origin = write_published(tmp_path / "gan", range(2), range(2), scale=5)
    with pytest.raises(UserError, match=r"gan\.source: .*start scales \[0, 5\]"):
        gan.run(make_params(tmp_path, source=str(origin)))


def test_pairs_with_other_names_are_one_set(tmp_path: Path) -> None:
    dataset.write_phantoms(tmp_path / "gan", REAL + 2, 24, seed=3)
    p = make_params(tmp_path, source=str(tmp_path / "gan"))
    made = gan.run(p)
    assert made.manifest["name"].tolist() == [f"phantom_{i:05d}" for i in range(REAL)]
    assert "not known" in gan.caveat(p)
    assert "HyperKvasir" not in gan.caveat(p)
    assert set(made.manifest["sample"]) == {1}
    assert set(made.manifest["source"]) == {""}
    assert made.made_by == "another generator's pairs"


def test_copies_of_test_images_are_refused(tmp_path: Path) -> None:
    """Pairs 0 to 2 are darker copies of test images, 3 to 5 are not."""
    for index in range(REAL):
        image, mask, _ = phantom.draw(9, index, 24)
        dataset.write_pair(tmp_path / "tests", f"t{index}", image, mask)
        if index > 2:
            image, mask, _ = phantom.draw(10, index, 24)
        dataset.write_pair(tmp_path / "gan", f"g{index}", (0.9 * image).astype(np.uint8), mask)
    p = make_params(tmp_path, source=str(tmp_path / "gan"))
    gan.run(p)
    segment.checked(p)
    p = p.model_copy(update={"segment": p.segment.model_copy(update={"cvc": str(tmp_path / "tests")})})
    told = (r"gan\.source: 3 of the 6 .* CVC-ClinicDB: g0 \(a copy of t0\), g1 \(a copy of t1\), "
            r"g2 \(a copy of t2\)\. Choose")
    with pytest.raises(UserError, match=told):
        segment.checked(p)


def test_all_problems_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(2))
    for name in ("chk_id_0_gen_scale_0_1", "chk_id_2_gen_scale_0_0"):
        (origin / "images" / f"{name}_img.png").write_bytes(b"no picture")
    with pytest.raises(UserError) as refused:
        gan.run(make_params(tmp_path, source=str(origin)))
    assert str(refused.value).startswith("Parameters: gan.source: ")
    for name in ("chk_id_0_gen_scale_0_1", "chk_id_2_gen_scale_0_0"):
        assert name in str(refused.value)
    assert not (tmp_path / "run" / "gan" / "GAN" / runs.STAMP).exists()
    for name in ("chk_id_0_gen_scale_0_1", "chk_id_2_gen_scale_0_0"):
        (origin / "masks" / f"{name}_mask.png").unlink()
    with pytest.raises(UserError, match="missing mask"):
        gan.run(make_params(tmp_path, source=str(origin)))


@pytest.mark.parametrize("inside", ["run", "run/gan/GAN"])
def test_a_runs_own_folder_is_not_read(tmp_path: Path, inside: str) -> None:
    with pytest.raises(UserError, match="lies in run_dir"):
        gan.run(make_params(tmp_path, source=str(tmp_path / inside)))


def test_a_folder_without_pairs_is_told(tmp_path: Path) -> None:
    for kind in pairsets.KINDS:
        (tmp_path / "gan" / kind).mkdir(parents=True)
    with pytest.raises(UserError, match=r"gan\.source: .* holds no pairs"):
        gan.run(make_params(tmp_path, source=str(tmp_path / "gan")))


def test_a_published_pair_without_a_polyp_is_left_out(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(1))
    Image.new("L", (24, 24)).save(origin / "masks" / "chk_id_1_gen_scale_0_0_mask.png")
    made = gan.run(make_params(tmp_path, source=str(origin)))
    assert made.left_out["name"].tolist() == ["chk_id_1_gen_scale_0_0_img"]
    assert len(made.manifest) == 2
    assert {f.stem for f in made.folders["GAN"].rglob("*.png")} == set(made.manifest["name"])


def test_only_pairs_that_changed_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(2))
    p = make_params(tmp_path, source=str(origin))
    folder = gan.run(p).folders["GAN"]
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*.png")}
    monkeypatch.setattr(fanout, "run", None)
    gan.run(p)
    monkeypatch.undo()
    Image.new("RGB", (24, 24), "red").save(origin / "images" / "chk_id_1_gen_scale_0_0_img.png")
    gan.run(p)
    assert {f.stem for f, time in before.items() if f.stat().st_mtime_ns != time} == {
        "chk_id_1_gen_scale_0_0_img"}
    assert (pairsets.load(folder, ["chk_id_1_gen_scale_0_0_img"]).images[0, 0] == 255).all()


# ---- our own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with three sources."""
    p = make_params(tmp_path_factory.mktemp("trained"), sources=3)
    gan.run(p)
    return p.folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Params:
    """The same run in a folder of the test's own."""
    shutil.copytree(trained, tmp_path / "run")
    return make_params(tmp_path, sources=3)


def test_our_own_has_a_pyramid_for_each_source(own: Params) -> None:
    made = gan.run(own)
    rows = pd.concat([made.manifest, made.left_out])
    names = dataset.load(own).names[:3]
    assert sorted(rows["name"]) == sorted(f"{name}_{j}" for name in names for j in (1, 2))
    assert rows["model"].tolist() == [f"singan-{name}" for name in rows["source"]]
    assert rows["seed"].is_unique
    assert gan.caveat(own) == ""
    assert made.made_by == "SinGAN trained here, noise from scale 0"
    assert made.seconds_per_image == pytest.approx(made.seconds / len(made.manifest))
    assert layouts.check(made.folders["GAN"]).problems == []
    pairs = pairsets.load(made.folders["GAN"], made.manifest["name"].tolist())
    assert pairs.images.shape[1:] == (3, 16, 16)
    assert made.manifest["area"].tolist() == pytest.approx(pairs.masks.mean(axis=(1, 2, 3)), abs=1e-6)


def test_a_second_call_trains_nothing(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gan.run(own)
    monkeypatch.setattr(singan, "fit", None)
    again = gan.run(own)
    pd.testing.assert_frame_equal(again.manifest, first.manifest)
    assert again.seconds == first.seconds


def test_a_removed_pair_is_made_again_bit_by_bit(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    made = gan.run(own)
    folder, lost = made.folders["GAN"], made.manifest.iloc[-1]
    before = contents(folder)
    for file in pairsets.files_of(folder, lost["name"]):
        file.unlink()
    fit, trained = singan.fit, []
    monkeypatch.setattr(singan, "fit", lambda *args: trained.append(1) or fit(*args))
    gan.run(own)
    assert contents(folder) == before
    assert len(trained) == 1, "only its own source's"


def test_a_killed_run_repeats_one_source_at_most(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(gan.run(own).folders["GAN"])
    runs.clear(own.folder / "gan")
    fit, trained = singan.fit, []

    def dying(*args: object) -> singan.Pyramid:
        trained.append(1)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(*args)
    monkeypatch.setattr(singan, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        gan.run(own)
    assert contents(gan.run(own).folders["GAN"]) == whole
    assert len(trained) == 2 + 2


def test_more_sources_and_samples_keep_the_first(own: Params) -> None:
    before = contents(gan.run(own).folders["GAN"])
    more = own.model_copy(update={"gan": own.gan.model_copy(update={"sources": 4, "samples": 3})})
    after = contents(gan.run(more).folders["GAN"])
    pictures = {name: digest for name, digest in before.items() if name.endswith(".png")}
    assert pictures.items() <= after.items()
    assert len(after) > len(before)
    assert contents(gan.run(own).folders["GAN"]) == before


@pytest.mark.parametrize("change", [{"steps": 3}, {"start_scale": 1}, {"noise": 0.5}])
def test_a_changed_setting_makes_the_pairs_again(own: Params, change: dict) -> None:
    before = contents(gan.run(own).folders["GAN"])
    other = own.model_copy(update={"gan": own.gan.model_copy(update=change)})
    after = contents(gan.run(other).folders["GAN"])
    images = [name for name in before if name.startswith("images/") and name in after]
    assert images
    assert all(after[name] != before[name] for name in images)


def test_a_mask_without_a_polyp_is_left_out(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = singan.draw
    monkeypatch.setattr(singan, "draw", lambda pyramid, start, generators: draw(
        pyramid, start, generators) - 5 * (generators[0].initial_seed() == lost))
    job = gan.plan(own, dataset.load(own).names)[1]
    lost = seeds.derive(job.seed, "noise")
    runs.clear(own.folder / "gan")
    made = gan.run(own)
    assert job.name in set(made.left_out["name"])
    assert (made.left_out["area"] == 0).all()
    assert not set(made.left_out["name"]) & {f.stem for f in made.folders["GAN"].rglob("*.png")}


def test_a_start_scale_beyond_the_last_is_refused(own: Params) -> None:
    p = own.model_copy(update={"gan": own.gan.model_copy(update={"start_scale": 3})})
    with pytest.raises(UserError, match=r"gan\.start_scale: there are 2 scales, 0 to 1"):
        gan.run(p)


def test_our_own_takes_the_place_of_the_published_pairs(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(2), range(1))
    gan.run(make_params(tmp_path, source=str(origin)))
    made = gan.run(make_params(tmp_path, sources=1))
    assert made.trained
    assert {f.stem for f in made.folders["GAN"].rglob("*.png")} == set(made.manifest["name"])


def test_names_with_brackets_or_na_are_sources_like_others(tmp_path: Path) -> None:
    for i, name in enumerate(["NA", "a[1]", "x y", "007"]):
        image, mask, _ = phantom.draw(1, i, 16)
        dataset.write_pair(tmp_path / "pairs", name, image, mask)
    p = make_params(tmp_path)
    p = p.model_copy(update={"data": p.data.model_copy(update={"source": str(tmp_path / "pairs")})})
    made = gan.run(p)
    assert set(made.manifest["source"]) | set(made.left_out["source"]) == {"NA", "a[1]", "x y", "007"}
    assert gan.caveat(p) == ""
