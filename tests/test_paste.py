"""The data types Paste and Paste-Poisson: made as inpainting's pairs are, and taken by every chapter."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from diffusegen_core.chapters import augment, members, paste
from diffusegen_core.chapters.paste import Pasted
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import checkup, dataset, pairsets, phantom
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import GAN, PASTE, PASTED, POISSON, DataType
from diffusegen_core.parallel import fanout
from diffusegen_core.planning import plan
from diffusegen_core.report import baselines, segment_tables
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets
from diffusegen_core.store.workspace import Workspace

BOTH = ["Paste", "Paste-Poisson"]


def values(folder: Path, **inpaint: object) -> Params:
    return params.validate({"run_dir": str(folder), "device": "cpu", "data": {"count": 6, "image_size": 32},
                            "inpaint": {"samples": 2, "sources": 4, **inpaint}})


def make(p: Params) -> Pasted:
    ws = Workspace(p.folder, p.seed, p.device)
    made = paste.run(ws, dataset.load(ws, p.data), p.inpaint)
    assert made is not None
    return made


def files_of(one: PairSet) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in one.folder.rglob("*.png")}


def test_there_are_as_many_pairs_as_of_inpainting_in_a_dataset_folder(tmp_path: Path):
    p = values(tmp_path)
    made = make(p)
    pairs = dataset.load(Workspace(p.folder, p.seed, p.device), p.data)
    assert list(made.sets) == [PASTE, POISSON]
    for data_type, one in made.sets.items():
        assert one.folder == tmp_path / "paste" / data_type.name
        assert list(one.manifest) == paste.MANIFEST
        assert one.manifest["name"].tolist() == [f"{name}_{n}" for n in (1, 2) for name in pairs.names[:4]]
        assert checkup.check(one.folder).problems == []
        for row in one.manifest.itertuples():
            source, (_, mask) = pairs.named([row.source]), pairsets.read_pair(one.folder, row.name)
            assert row.lesion_of in pairs.names
            assert row.lesion_of != row.source
            assert row.lesion_change.startswith(("turned by", "mirrored, turned by"))
            assert "bent" not in row.lesion_change
            assert not (source.masks[0] & (1 - mask)).any(), "the source's own lesion stays"
            assert row.area_after == pytest.approx(mask.mean(), abs=1e-6)
            assert row.area_before == pytest.approx(source.masks.mean(), abs=1e-6)
            assert row.area_before < row.area_after <= row.area_before + row.area_lesion + 1e-6
    assert made.table.loc["Paste", ["pairs", "sources", "without a place"]].tolist() == [8, 4, 0]
    told = ["lesion_of", "lesion_change", "seed", "area_lesion"]
    assert made.sets[PASTE].manifest[told].equals(made.sets[POISSON].manifest[told]), "blending"
    for folder in ("images", "masks"):
        same = [content == files_of(made.sets[POISSON])[name]
                for name, content in files_of(made.sets[PASTE]).items() if name.startswith(folder)]
        assert set(same) == {folder == "masks"}


def test_a_pair_depends_on_its_own_seed_alone(tmp_path: Path):
    whole = files_of(make(values(tmp_path / "a")).sets[PASTE])
    one_by_one = make(values(tmp_path / "b", batch_size=1, baselines=["Paste"]))
    assert list(one_by_one.sets) == [PASTE]
    assert files_of(one_by_one.sets[PASTE]) == whole
    few = files_of(make(values(tmp_path / "c", samples=1, sources=2)).sets[PASTE])
    assert len(few) == 4
    assert few == {name: whole[name] for name in few}


def test_more_pairs_take_over_those_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(values(tmp_path, samples=1))
    made: list[str] = []
    work = paste.make_batch
    monkeypatch.setattr(paste, "make_batch", lambda jobs, **others: (
        made.extend(job.name for job in jobs), work(jobs, **others)))
    assert len(make(values(tmp_path)).sets[PASTE]) == 8
    assert len(made) == 8, "four of each type"
    assert all(name.endswith("_2") for name in made)
    made.clear()
    make(values(tmp_path, dilate=10, respacing=20))
    assert made == [], "what RePaint is told is of no concern"


def test_its_items_belong_to_the_run_whose_device_a_worker_must_have(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch):
    seen: list[fanout.Item] = []
    go = fanout.run
    monkeypatch.setattr(fanout, "run", lambda work, items, title: (
        seen.extend(items), go(work, items, title)))
    make(values(tmp_path, samples=1))
    assert {(item.workspace.folder, item.workspace.device) for item in seen} == {(tmp_path, "cpu")}
    assert not [item.name for item in seen if "none" in item.name], "no model made them, which needs no word"


@pytest.mark.parametrize("none", [None, []])
def test_there_may_be_none(tmp_path: Path, none: list | None):
    p = values(tmp_path, baselines=none)
    ws = Workspace(p.folder, p.seed, p.device)
    assert paste.run(ws, dataset.load(ws, p.data), p.inpaint) is None
    assert not (tmp_path / "paste").exists()
    assert not any(data_type.is_pasted for data_type in trainsets.expected(p))


@pytest.mark.parametrize("wrong", [["Pasted"], "Paste"])
def test_another_baseline_is_refused(tmp_path: Path, wrong: object):
    with pytest.raises(UserError, match=r"inpaint\.baselines"):
        values(tmp_path, baselines=wrong)


def test_a_dark_picture_is_left_out_and_a_strange_name_is_one(tmp_path: Path):
    for index, name in enumerate(["NA", "1"]):
        image, mask, _ = phantom.draw(0, index, 32)
        dataset.write_pair(tmp_path / "data", name, image * index, mask)
    p = params.validate({**params.plain(values(tmp_path / "run")),
                         "data": {"source": str(tmp_path / "data"), "count": None, "holdout": None}})
    made = make(p)
    one = made.sets[POISSON]
    assert one.left_out["name"].tolist() == ["NA_1", "NA_2"]
    assert one.left_out["area_lesion"].tolist() == [0, 0]
    assert one.manifest["lesion_of"].tolist() == ["NA", "NA"]
    assert made.table.loc["Paste-Poisson", ["pairs", "without a place"]].tolist() == [2, 2]


def test_the_names_are_data_types():
    for name, data_type in zip(BOTH, PASTED, strict=True):
        assert DataType.parse(name) == data_type
        assert data_type.artifact == f"paste/{name}"
        assert data_type.is_pasted
        assert not data_type.is_painted
        assert data_type.styled == data_type
    with pytest.raises(UserError, match="Real, GAN, Paste, Paste-Poisson, and painted ones such as 20-Diff"):
        DataType.parse("Pasted")


# ---- a run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Run:
    """A nano run with both baselines up to chapter 7. Not to be changed."""
    folder = tmp_path_factory.mktemp("paste") / "run"
    run = Run(params.validate(params.merged(nano_values, {
        "run_dir": str(folder), "inpaint.baselines": BOTH, "gan.source": None})))
    for chapter in ("evaluate", "segment", "augment"):
        run.make(chapter)
    return run


def test_every_chapter_takes_them_like_any_other_type(whole: Run):
    assert [t.name for t in whole.synthetic.sets] == [*BOTH, "2-Diff", "2-Styled-Diff"]
    assert [t.name for t in whole.evaluated.types] == ["Real", *BOTH, "2-Diff", "2-Styled-Diff"]
    assert whole.segmented.complete
    assert set(whole.segmented.runs["data_type"]) == {"Real", *BOTH, "2-Diff", "2-Styled-Diff"}
    assert set(whole.augmented.runs["data_type"]) == {"Real", "2-Styled-Diff", "Paste"}
    assert whole.status().loc["paste", "status"] == "made"
    costs = segment_tables.costs(whole, whole.segmented).frame.set_index("data type")
    assert costs.loc["Paste", "training, s"] == "0"
    assert [name for name in costs.index if "Paste" in name] == BOTH


def test_the_audit_looks_at_what_was_pasted_alone(whole: Run):
    one = whole.pasted.sets[PASTE]
    subject = members.Subject(whole.workspace, PASTE, one.folder, whole.pairs.stored, None,
                              whole.params.evaluate, whole.params.inpaint.dilate,
                              whole.workspace.read_only.artifact("any", {}))
    everyone = members.members(subject)
    for region, name, source, area in zip(everyone.regions, everyone.names, everyone.sources,
                                          one.manifest["area_lesion"], strict=True):
        mask, old = pairsets.read_pair(one.folder, name)[1][0], whole.pairs.masks[source, 0]
        assert np.array_equal(region | old, mask)
        assert not (region & old).any(), "the source's own lesion is no part of it"
        assert region.mean() <= area + 1e-6
    assert everyone.regions.any()


def test_a_table_and_a_figure_show_them_beside_painted_pairs(whole: Run):
    frame = baselines.table(whole).frame
    assert frame["data type"].tolist() == BOTH
    drawn = baselines.figure(whole.pairs, whole.inpainted, whole.pasted)
    titles = [ax.get_title() for ax in drawn.axes if ax.get_title()]
    assert [title.replace("-\n", "-") for title in titles[:4]] == ["source", *BOTH, "2-Diff"]
    shown = [ax for ax in drawn.axes if ax.images]
    made = sum(name in set(one.manifest["source"]) for one in whole.inpainted.sets.values()
               for name in whole.pairs.names[:4])
    assert len(shown) == 2 * (4 * 3 + made)
    assert np.array_equal(shown[0].images[0].get_array(), whole.pairs.images[0].transpose(1, 2, 0))
    without = SimpleNamespace(pasted=None, params=whole.params)
    assert baselines.table(without).frame.iloc[0].tolist() == ["none", baselines.NONE]
    assert baselines.NONE in baselines.figure(whole.pairs, whole.inpainted, None).axes[0].texts[0].get_text()


def test_a_run_of_before_there_were_baselines_has_none_and_stays_readable(whole: Run, tmp_path: Path):
    shutil.copytree(whole.folder, tmp_path / "run")
    path = tmp_path / "run" / "params.yaml"
    told = yaml.safe_load(path.read_text())
    assert told["inpaint"].pop("baselines") == BOTH
    path.write_text(yaml.safe_dump(told))
    older = Run.open(tmp_path / "run")
    assert older.params.inpaint.baselines is None
    assert older.pasted is None
    assert older.segmented.complete
    assert set(older.segmented.runs["data_type"]) == {"Real", "2-Diff", "2-Styled-Diff"}
    assert older.status().loc["paste", "status"] == "none"
    again = Run.open(tmp_path / "run", {"inpaint.baselines": BOTH})
    assert again.segmented.complete, "the networks are found again"


def test_a_small_set_whose_generator_sees_it_alone_is_pasted_from_itself(tmp_path: Path, nano_values: dict):
    p = params.validate(params.merged(nano_values, {
        "run_dir": str(tmp_path), "gan.source": None, "inpaint.baselines": ["Paste"],
        "augment.generator_sees": "subset", "augment.sizes": [4], "augment.types": ["Paste"]}))
    supply = trainsets.expected(p)
    assert augment.types(supply, p.augment) == [PASTE]
    assert augment.types(supply, p.augment.model_copy(update={"types": None})) == [
        PASTE, DataType.parse("1-Styled-Diff")]
    experiment = next(e for e in augment.grid(supply, p.augment, p.segment) if e.data_type == PASTE)
    assert augment.needs_own(p.augment, experiment)
    small = augment.subsets(p.seed, Run(p).make("data").names[:4], p.augment, p.segment)[0]
    pasted = Run(p)._within(small).make("paste").sets[PASTE]
    assert set(pasted.manifest["source"]) == set(small.train)
    assert set(pasted.manifest["lesion_of"]) <= set(small.train)


def test_a_plan_counts_them_without_work(tmp_path: Path):
    made = plan.make(values(tmp_path), 0).table.set_index("work")
    row = made.loc["Paste-Poisson, no network"]
    assert (row["chapter"], row["items"], row["images"], row["flop"]) == ("inpaint", 8, 0, 0)
    assert row["disk"] > 0


def test_the_default_of_chapter_7_adds_paste_and_the_gan_and_its_order_is_that_of_the_other_chapters(
        tmp_path: Path):
    p = values(tmp_path)
    supply = trainsets.expected(p)
    assert augment.types(supply, p.augment) == [GAN, PASTE, DataType.parse("2-Styled-Paint")]
    asked = p.augment.model_copy(update={"types": ["2-Styled-Paint", "2-Paint", "Paste"]})
    assert [one.name for one in augment.types(supply, asked)] == ["Paste", "2-Paint", "2-Styled-Paint"]
