"""The GAN's dataset folder: SinGAN-Seg's published pairs, another's, and those of a SinGAN trained here."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffusegen_core.chapters import gan, leaks
from diffusegen_core.chapters.gan import Baseline
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import checkup, dataset, fits, pairsets, phantom, testsets
from diffusegen_core.networks import singan
from diffusegen_core.parallel import fanout
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import STAMP
from diffusegen_core.store.workspace import Workspace

REAL = 6


def make_params(folder: Path, **settings: object) -> Params:
    return params.validate({
        "run_dir": str(folder / "run"), "device": "cpu", "data": {"count": REAL, "image_size": 16},
        "inpaint": {"samples": 2, "sources": None},
        "gan": {"sources": None, "min_side": 10, "channels": 4, "layers": 3, "steps": 2, **settings}})


def workspace(p: Params, **changes: bool) -> Workspace:
    return Workspace(p.folder, p.seed, p.device, **changes)


def real(p: Params) -> dataset.Pairs:
    return dataset.load(workspace(p), p.data)


def make(p: Params, **changes: bool) -> Baseline:
    made = gan.run(workspace(p, **changes), real(p), p.gan, p.inpaint)
    assert made is not None
    return made


def contents(folder: Path) -> dict[str, str]:
    """Every file of a dataset but what tells the time that it took, with a hash of its content."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*"))
            if f.is_file() and f.name != STAMP and f.parent.name != "rows"}


# ---- pairs that others made


def write_published(folder: Path, sources: range, samples: range, scale: int = 0) -> Path:
    for source in sources:
        for sample in samples:
            image, mask, _ = phantom.draw(8, 100 * source + sample, 24)
            stem = f"chk_id_{source}_gen_scale_{scale}_{sample}"
            files = dataset.write_pair(folder, stem, image, mask)
            for file, word in zip(files, ("img", "mask"), strict=True):
                file.rename(file.with_name(f"{stem}_{word}.png"))
    return folder


def test_without_a_source_there_is_no_gan(tmp_path: Path) -> None:
    p = make_params(tmp_path, source=None)
    assert gan.run(workspace(p), real(p), p.gan, p.inpaint) is None


def test_the_published_pairs_become_a_dataset(tmp_path: Path) -> None:
    """Sources in natural order (9 before 10), as many as real pairs; samples up to inpaint.samples."""
    origin = write_published(tmp_path / "gan", range(5, 13), range(3))
    p = make_params(tmp_path, source=str(origin))
    assert gan.caveat(None) == ""
    made = make(p)
    folder = made.pairs.folder
    assert folder == tmp_path / "run" / "gan" / "GAN"
    names = [f"chk_id_{i}_gen_scale_0_{j}_img" for i in range(5, 11) for j in range(2)]
    assert made.pairs.manifest["name"].tolist() == names
    assert made.pairs.manifest["sample"].tolist() == [1, 2] * REAL
    assert made.pairs.manifest.columns.tolist() == gan.MANIFEST
    for column, value in (("source", ""), ("source_cluster", -1), ("seed", -1), ("model", "SinGAN-Seg")):
        assert set(made.pairs.manifest[column]) == {value}
    assert not made.trained
    assert "all 1000 pairs of HyperKvasir" in gan.caveat(made)
    assert made.made_by == "SinGAN-Seg's published pairs, noise from scale 0"
    assert checkup.check(folder).problems == []
    pairs = pairsets.load(folder, names)
    image, mask, _ = phantom.draw(8, 701, 24)
    expected = fits.fitted(image.transpose(1, 2, 0), mask.transpose(1, 2, 0), 16, "squeeze")
    index = names.index("chk_id_7_gen_scale_0_1_img")
    np.testing.assert_array_equal(pairs.images[index], expected[0])
    np.testing.assert_array_equal(pairs.masks[index], expected[1])
    assert made.pairs.manifest["area"].tolist() == pytest.approx(pairs.masks.mean(axis=(1, 2, 3)), abs=1e-6)


def test_sources_and_samples_are_as_asked(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(4), scale=7)
    made = make(make_params(tmp_path, source=str(origin), sources=2, samples=3))
    assert made.pairs.manifest["name"].tolist() == [f"chk_id_{i}_gen_scale_7_{j}_img" for i in (0, 1)
                                              for j in range(3)]
    assert made.made_by.endswith("noise from scale 7")


def test_pairs_of_two_start_scales_are_not_mixed(tmp_path: Path) -> None:
    write_published(tmp_path / "gan", range(2), range(2))
    origin = write_published(tmp_path / "gan", range(2), range(2), scale=5)
    with pytest.raises(UserError, match=r"gan\.source: .*start scales \[0, 5\]"):
        make(make_params(tmp_path, source=str(origin)))


def test_pairs_with_other_names_are_one_set(tmp_path: Path) -> None:
    dataset.write_phantoms(tmp_path / "gan", REAL + 2, 24, seed=3)
    p = make_params(tmp_path, source=str(tmp_path / "gan"))
    made = make(p)
    assert made.pairs.manifest["name"].tolist() == [f"phantom_{i:05d}" for i in range(REAL)]
    assert "not known" in gan.caveat(made)
    assert "HyperKvasir" not in gan.caveat(made)
    assert set(made.pairs.manifest["sample"]) == {1}
    assert set(made.pairs.manifest["source"]) == {""}
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
    made = make(p)
    leaks.refuse_copied(made, {"none": testsets.TestSet("none", None, "not given")})
    tests = pairsets.load(tmp_path / "tests", [f"t{index}" for index in range(REAL)])
    small = dataset.gather(tests.names, *(np.stack(column) for column in zip(*(
        fits.fitted(image.transpose(1, 2, 0), mask.transpose(1, 2, 0), 16, "squeeze")
        for image, mask in zip(tests.images, tests.masks, strict=True)), strict=True)))
    told = (r"gan\.source: 3 of the 6 .* CVC-ClinicDB: g0 \(a copy of t0\), g1 \(a copy of t1\), "
            r"g2 \(a copy of t2\)\. Choose")
    with pytest.raises(UserError, match=told):
        leaks.refuse_copied(made, {"CVC-ClinicDB": testsets.TestSet("CVC-ClinicDB", small, "")})
    leaks.refuse_copied(None, {})


def test_all_problems_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(2))
    for name in ("chk_id_0_gen_scale_0_1", "chk_id_2_gen_scale_0_0"):
        (origin / "images" / f"{name}_img.png").write_bytes(b"no picture")
    with pytest.raises(UserError) as refused:
        make(make_params(tmp_path, source=str(origin)))
    assert str(refused.value).startswith("Parameters: gan.source: ")
    for name in ("chk_id_0_gen_scale_0_1", "chk_id_2_gen_scale_0_0"):
        assert name in str(refused.value)
    assert not (tmp_path / "run" / "gan" / "GAN" / STAMP).exists()
    for name in ("chk_id_0_gen_scale_0_1", "chk_id_2_gen_scale_0_0"):
        (origin / "masks" / f"{name}_mask.png").unlink()
    with pytest.raises(UserError, match="missing mask"):
        make(make_params(tmp_path, source=str(origin)))


def test_a_folder_without_pairs_is_told(tmp_path: Path) -> None:
    for kind in pairsets.KINDS:
        (tmp_path / "gan" / kind).mkdir(parents=True)
    with pytest.raises(UserError, match=r"gan\.source: .* holds no pairs"):
        make(make_params(tmp_path, source=str(tmp_path / "gan")))


def test_a_published_pair_without_a_polyp_is_left_out(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(1))
    Image.new("L", (24, 24)).save(origin / "masks" / "chk_id_1_gen_scale_0_0_mask.png")
    made = make(make_params(tmp_path, source=str(origin)))
    assert made.pairs.left_out["name"].tolist() == ["chk_id_1_gen_scale_0_0_img"]
    assert len(made.pairs.manifest) == 2
    assert {f.stem for f in made.pairs.folder.rglob("*.png")} == set(made.pairs.manifest["name"])


def test_an_image_without_outlines_is_left_out_of_a_coco_folder(tmp_path: Path) -> None:
    """All masks of such a folder lie in one file, so that the file does not tell whose mask is empty."""
    outlines = {number: [[4, 4, 16, 4, 16, 16, 4, 16]] for number in (0, 2)}
    (tmp_path / "gan/images").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(phantom.draw(3, number, 24)[0].transpose(1, 2, 0)).save(
            tmp_path / f"gan/images/p{number}.png")
    (tmp_path / "gan/annotations").mkdir()
    (tmp_path / "gan/annotations/instances.json").write_text(json.dumps({
        "images": [{"id": number, "file_name": f"p{number}.png", "height": 24, "width": 24}
                   for number in range(3)],
        "categories": [{"id": 1, "name": "polyp"}],
        "annotations": [{"id": number, "image_id": number, "category_id": 1, "segmentation": outline}
                        for number, outline in outlines.items()]}))
    made = make(make_params(tmp_path, source=str(tmp_path / "gan")))
    assert made.pairs.manifest["name"].tolist() == ["p0", "p2"]
    assert made.pairs.left_out["name"].tolist() == ["p1"]


def test_such_a_pair_may_lie_in_a_folder_with_any_name(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan" / "two\nlines", range(3), range(1)).parent
    Image.new("L", (24, 24)).save(origin / "two\nlines" / "masks" / "chk_id_1_gen_scale_0_0_mask.png")
    made = make(make_params(tmp_path, source=str(origin)))
    assert made.pairs.left_out["name"].tolist() == ["chk_id_1_gen_scale_0_0_img"]


def test_only_pairs_that_changed_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(2))
    p = make_params(tmp_path, source=str(origin))
    folder = make(p).pairs.folder
    before = contents(folder)
    monkeypatch.setattr(fanout, "run", None)
    make(p)
    monkeypatch.undo()
    Image.new("RGB", (24, 24), "red").save(origin / "images" / "chk_id_1_gen_scale_0_0_img.png")
    keep, kept = pairsets.keep, []
    monkeypatch.setattr(pairsets, "keep", lambda folder, name, *rest, **facts: (
        pairsets.is_made(folder, name, rest[0]) or kept.append(name), keep(folder, name, *rest, **facts)))
    make(p)
    assert kept == ["chk_id_1_gen_scale_0_0_img"]
    assert (pairsets.load(folder, ["chk_id_1_gen_scale_0_0_img"]).images[0, 0] == 255).all()
    aside = next((p.folder / "aside" / "gan" / "GAN").iterdir())
    assert contents(aside) == before, "what was finished is kept"


def test_pairs_hold_where_the_folder_that_they_came_from_is_gone(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(3), range(2))
    p = make_params(tmp_path, source=str(origin))
    names = make(p).pairs.manifest["name"].tolist()
    typo = make_params(tmp_path, source=str(tmp_path / "typo"))
    more = make_params(tmp_path, source=str(origin), samples=1)
    origin.rename(tmp_path / "elsewhere")
    assert make(p, writable=False).pairs.manifest["name"].tolist() == names
    assert make(p).pairs.manifest["name"].tolist() == names
    assert list(gan.check(p)) == []
    for other in (typo, more):  # stands for nothing else that was read, nor for others of its pairs
        for writable in (True, False):
            with pytest.raises(UserError, match=r"gan\.source: .* is not a folder"):
                make(other, writable=writable)
        [line] = gan.check(other)
        assert "gan.source: " in line
    assert make(p).pairs.manifest["name"].tolist() == names


def test_the_folder_is_not_hashed_again_where_nothing_changed(tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    p = make_params(tmp_path, source=str(write_published(tmp_path / "gan", range(3), range(2))))
    make(p)
    monkeypatch.setattr(hashlib, "file_digest", None)
    make(p)


# ---- our own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with three sources."""
    p = make_params(tmp_path_factory.mktemp("trained"), sources=3)
    make(p)
    return p.folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Params:
    """The same run in a folder of the test's own."""
    shutil.copytree(trained, tmp_path / "run")
    return make_params(tmp_path, sources=3)


def test_our_own_has_a_pyramid_for_each_source(own: Params) -> None:
    made = make(own)
    rows = pd.concat([made.pairs.manifest, made.pairs.left_out])
    names = real(own).names[:3]
    assert sorted(rows["name"]) == sorted(f"{name}_{j}" for name in names for j in (1, 2))
    assert rows["model"].tolist() == [f"singan-{name}" for name in rows["source"]]
    assert rows["seed"].is_unique
    assert gan.caveat(made) == ""
    assert made.made_by == "SinGAN trained here, noise from scale 0"
    assert made.seconds > 0
    assert checkup.check(made.pairs.folder).problems == []
    pairs = pairsets.load(made.pairs.folder, made.pairs.manifest["name"].tolist())
    assert pairs.images.shape[1:] == (3, 16, 16)
    assert made.pairs.manifest["area"].tolist() == pytest.approx(pairs.masks.mean(axis=(1, 2, 3)), abs=1e-6)


def test_a_second_call_trains_nothing(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(own)
    monkeypatch.setattr(singan, "fit", None)
    again = make(own)
    pd.testing.assert_frame_equal(again.pairs.manifest, first.pairs.manifest)
    assert again.seconds == first.seconds


def test_a_removed_pair_is_told_and_made_again_on_request(own: Params,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(own)
    folder, lost = made.pairs.folder, made.pairs.manifest.iloc[-1]
    before = contents(folder)
    for file in pairsets.files_of(folder, lost["name"]):
        file.unlink()
    with pytest.raises(UserError, match=rf"changed by hand: .*{lost['name']}.png is missing.*--remake gan"):
        make(own)
    fit, trained = singan.fit, []
    monkeypatch.setattr(singan, "fit", lambda *args: trained.append(1) or fit(*args))
    make(own, again=True)
    assert contents(folder) == before
    assert len(trained) == 1, "only its own source's"


def test_a_killed_run_repeats_one_source_at_most(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(make(own).pairs.folder)
    shutil.rmtree(own.folder / "gan")
    fit, trained = singan.fit, []

    def dying(*args: object) -> singan.Pyramid:
        trained.append(1)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(*args)
    monkeypatch.setattr(singan, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        make(own)
    assert not (own.folder / "gan").exists(), "nothing in place before it is finished"
    assert contents(make(own).pairs.folder) == whole
    assert len(trained) == 2 + 2


def test_a_read_only_workspace_makes_nothing(own: Params, tmp_path: Path) -> None:
    made = make(own, writable=False)
    assert made.trained
    more = own.model_copy(update={"gan": own.gan.model_copy(update={"samples": 3})})
    with pytest.raises(NotMadeError):
        make(more, writable=False)
    assert not (own.folder / "making").exists()


def test_more_sources_and_samples_keep_the_first(own: Params) -> None:
    before = contents(make(own).pairs.folder)
    more = own.model_copy(update={"gan": own.gan.model_copy(update={"sources": 4, "samples": 3})})
    after = contents(make(more).pairs.folder)
    pictures = {name: digest for name, digest in before.items() if name.endswith(".png")}
    assert pictures.items() <= after.items()
    assert len(after) > len(before)
    assert contents(make(own).pairs.folder) == before


@pytest.mark.parametrize("change", [{"steps": 3}, {"start_scale": 1}, {"noise": 0.5}])
def test_a_changed_setting_makes_the_pairs_again(own: Params, change: dict) -> None:
    before = contents(make(own).pairs.folder)
    other = own.model_copy(update={"gan": own.gan.model_copy(update=change)})
    after = contents(make(other).pairs.folder)
    images = [name for name in before if name.startswith("images/") and name in after]
    assert images
    assert all(after[name] != before[name] for name in images)


def test_a_mask_without_a_polyp_is_left_out(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = singan.draw
    monkeypatch.setattr(singan, "draw", lambda pyramid, start, generators: draw(
        pyramid, start, generators) - 5 * (generators[0].initial_seed() == lost))
    job = gan.plan(own.seed, real(own), gan.filled(own.gan, own.inpaint))[1]
    lost = seeds.derive(job.seed, "noise")
    shutil.rmtree(own.folder / "gan")
    made = make(own)
    assert job.name in set(made.pairs.left_out["name"])
    assert (made.pairs.left_out["area"] == 0).all()
    assert not set(made.pairs.left_out["name"]) & {f.stem for f in made.pairs.folder.rglob("*.png")}


def test_a_start_scale_beyond_the_last_is_refused(own: Params) -> None:
    p = own.model_copy(update={"gan": own.gan.model_copy(update={"start_scale": 3})})
    with pytest.raises(UserError, match=r"gan\.start_scale: 3 is not a scale; there are 2, 0 to 1"):
        make(p)


def test_our_own_takes_the_place_of_the_published_pairs(tmp_path: Path) -> None:
    origin = write_published(tmp_path / "gan", range(2), range(1))
    make(make_params(tmp_path, source=str(origin)))
    made = make(make_params(tmp_path, sources=1))
    assert made.trained
    assert {f.stem for f in made.pairs.folder.rglob("*.png")} == set(made.pairs.manifest["name"])


def test_names_with_brackets_or_na_are_sources_like_others(tmp_path: Path) -> None:
    for i, name in enumerate(["NA", "a[1]", "x y", "007"]):
        image, mask, _ = phantom.draw(1, i, 16)
        dataset.write_pair(tmp_path / "pairs", name, image, mask)
    p = make_params(tmp_path)
    p = p.model_copy(update={"data": p.data.model_copy(update={
        "source": str(tmp_path / "pairs"), "holdout": None})})
    made = make(p)
    rows = pd.concat([made.pairs.manifest, made.pairs.left_out])
    assert set(rows["source"]) == {"NA", "a[1]", "x y", "007"}
    assert gan.caveat(made) == ""
