"""Several generators in a run: each with models and pairs of its own, experiments shared out among them."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from made_up import (
    SIZE,
    SMALL,
    Networks,
    loaded_tests,
    noise,
    of_sources,
    real_pairs,
    sets_of,
    supply_of,
    values,
    workspace,
    write_set,
)

from diffusegen_core import notebooks
from diffusegen_core.chapters import augment, segment
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import pairsets, types
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.planning import flops, plan
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trials
from diffusegen_core.segmentation.sharing import generator_of, shares
from diffusegen_core.segmentation.trainsets import Sets
from diffusegen_core.store import aside, seeds
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import contents, in_place
from diffusegen_core.store.workspace import Workspace


def made(folder: Path) -> dict[str, dict[str, str]]:
    """Of each finished artifact below a folder, in place, its files and their hashes."""
    return {place.relative_to(folder).as_posix(): contents(stamp) for place, stamp in in_place(folder)}


def test_another_generator_takes_over_a_few_repetitions_and_no_other_changes_hands():
    assert [shares(5, count) for count in (1, 2, 3, 4, 5)] == [
        (0, 0, 0, 0, 0), (0, 1, 0, 1, 0), (0, 1, 2, 1, 0), (0, 1, 2, 3, 0), (0, 1, 2, 3, 4)]
    for count in range(1, 9):
        fewer, more = shares(24, count), shares(24, count + 1)
        assert all(now in (before, count) for before, now in zip(fewer, more, strict=True))
        assert more[:count + 1] == tuple(range(count + 1))
        sizes = Counter(more).values()
        assert max(sizes) - min(sizes) <= 2
        assert [generator_of(seed, count) for seed in range(24)] == list(fewer)


# ---- chapters 2 to 4


@pytest.fixture(scope="module")
def grown(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    """A run to which another generator came, and what it had made before; not to be changed."""
    folder = tmp_path_factory.mktemp("grown") / "run"
    Run(params.validate({**nano_values, "gan": {"source": None}, "run_dir": str(folder)})).make("sets")
    before, run = made(folder), Run.open(folder, {"generators": 2})
    with pytest.raises(NotMadeError, match=r"has no finished train/cluster-00.*run.make\('train'\)"):
        _ = run.further
    run.make("style")
    return run, before


def test_what_the_first_generator_has_made_is_as_it_was(grown: tuple[Run, dict[str, Any]]):
    run, before = grown
    assert {name: files for name, files in made(run.folder).items() if "generators" not in name} == before
    assert [one.name for one in aside.kept(run.folder) if not one.name.startswith("aside/params")] == []


def test_another_generator_has_models_and_pairs_of_its_own_of_the_same_pairs_and_clusters(
        grown: tuple[Run, dict[str, Any]]):
    run, before = grown
    mine = made(run.folder / "generators" / "1")
    assert set(mine) == {"train/cluster-00", "train/cluster-01", "inpaint/2-Diff", "style/2-Styled-Diff"}
    assert all(mine[name] != before[name] for name in mine)
    models = [run.read("train", number) for number in (0, 1)]
    assert [[model.pairs for model in one.models] for one in models] == [list(run.clusters.sizes)] * 2
    further, = run.further
    assert further.real.names == run.synthetic.real.names
    assert list(further.sets) == list(run.synthetic.sets)
    assert run.status().loc["further", "status"] == "made"


@pytest.mark.parametrize(("gone", "complete"), [
    ((), {"cluster", "train", "inpaint", "style"}), (("style",), {"cluster", "train", "inpaint"}),
    (("style", "inpaint", "train"), {"cluster"})])
def test_a_chapter_that_all_generators_have_made_is_complete_whatever_is_left_of_later_ones(
        grown: tuple[Run, dict[str, Any]], tmp_path: Path, gone: tuple[str, ...], complete: set[str]):
    """After `run --to 3` with several generators, the next command once executed chapters 1 to 3 again."""
    folder = shutil.copytree(grown[0].folder, tmp_path / "run")
    for name in gone:
        shutil.rmtree(folder / "generators" / "1" / name)
    assert notebooks.complete(Run.open(folder)) - {"evaluate"} == complete


def test_progress_says_which_generator_it_is_of(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch):
    titles: list[str] = []
    monkeypatch.setattr(pairsets.fanout, "run", lambda work, items, title: titles.append(title) or 1 / 0)
    for number in (0, 1):
        ws = Workspace(tmp_path).generator(number)
        artifact = ws.artifact("style/x", {"models": {}, "jobs": {}})
        with pytest.raises(ZeroDivisionError):
            pairsets.make(ws, artifact, "Styling x", [], 1, print, [])
    assert titles == ["Styling x", "Styling x of generator 1"]


def test_its_seed_is_derived_from_the_runs(grown: tuple[Run, dict[str, Any]]):
    ws = grown[0].workspace
    assert ws.generator(0) is ws
    assert ws.generator(2).seed == seeds.derive(ws.seed, "generator", 2) != ws.generator(1).seed
    assert ws.read_only.beside(3) == ws.generator(1).beside(3) == []


def test_what_was_changed_by_hand_is_named_and_made_again(grown: tuple[Run, dict[str, Any]], tmp_path: Path):
    folder = shutil.copytree(grown[0].folder, tmp_path / "run")
    run, model = Run.open(folder), folder / "generators/1/train/cluster-00/model.safetensors"
    model.write_bytes(b"other")
    assert [line.split()[0] for line in run.changed_by_hand()] == [model.relative_to(folder).as_posix()]
    with pytest.raises(UserError, match="--remake train"):
        _ = run.further
    run.make("train", again=True)
    assert made(folder) == made(grown[0].folder)
    assert [one.name.split("/")[:5] for one in aside.kept(folder) if "params" not in one.name] == [
        ["generators", "1", "aside", "train", "cluster-00"]]


def test_finished_models_from_elsewhere_are_no_independent_generators(nano: dict):
    with pytest.raises(UserError, match="generators 2 cannot be independent"):
        params.validate({**nano, "generators": 2, "train": {"checkpoints": "elsewhere"}})


def test_the_plan_counts_chapters_2_to_4_for_every_generator(nano_params: Params):
    three, work = nano_params.model_copy(update={"generators": 3}), flops.count(nano_params)
    one, more = ([(row.chapter, row.flop, row.largest) for row in plan.rows(p, 10, work)]
                 for p in (nano_params, three))
    assert more == [(chapter, flop * (3 if chapter in ("train", "inpaint", "style") and flop else 1),
                     largest) for chapter, flop, largest in one]


# ---- chapters 6 and 7


@pytest.fixture
def own(small_made_up_run: Path, tmp_path: Path) -> Params:
    """Three seeds of Real and 2-Diff."""
    shutil.copytree(small_made_up_run, tmp_path / "run")
    return values(tmp_path / "run", **{
        **SMALL, "segment": {"types": ["Real", "2-Diff"], "samples": [2], "seeds": 3},
        "augment": {"types": ["2-Diff"], "sizes": [4], "ratios": [1], "seeds": 3}})


def another(p: Params, number: int) -> Sets:
    """Made-up pairs of a further generator."""
    other = p.model_copy(update={"run_dir": str(p.folder / "generators" / str(number))})
    for data_type in supply_of(p):
        if data_type != types.REAL:
            write_set(workspace(other), data_type, of_sources(real_pairs(p).names[:6], 2), noise(90 + number))
    return sets_of(other)


def test_seeds_take_the_pairs_of_different_generators_and_the_results_say_whose(own: Params,
                                                                               networks: Networks):
    sets, tests = sets_of(own), loaded_tests(own)
    before = segment.run(workspace(own), sets, tests, own.segment).runs
    assert before["generator"].dropna().tolist() == [0, 0, 0]
    networks.given.clear()
    result = segment.run(workspace(own), sets, tests, own.segment, [another(own, 1)])
    assert list(networks.given) == ["2-Diff-2-seed1"], "the others' generator is the same as before"
    runs = result.runs.set_index(["data_type", "seed"])
    assert runs.loc["2-Diff", "generator"].tolist() == [0, 1, 0]
    assert runs.loc["Real", "generator"].isna().all()
    names = before.set_index(["data_type", "seed"])["name"]
    assert (runs["name"] == names).tolist() == [key != ("2-Diff", 1) for key in names.index]
    assert result.images.drop_duplicates(["data_type", "seed"])["generator"].tolist()[3:] == [0, 1, 0]
    assert set(result.details.distances["generator"].dropna()) == {0, 1}
    summary = trials.summary(result, ["data_type"], "dice", 200, 0)
    each = result.images.query("data_type == '2-Diff'").groupby("generator")["dice"].mean()
    assert summary.query("data_type == '2-Diff'")["mean"].iloc[0] == pytest.approx(each.mean())


def test_small_sets_are_shared_out_as_well_unless_a_generator_saw_them_alone(own: Params, networks: Networks):
    result = augment.run(workspace(own), sets_of(own), loaded_tests(own), own.augment, own.segment, {},
                         [another(own, 1)])
    assert result.runs.set_index(["data_type", "seed"]).loc["2-Diff", "generator"].tolist() == [0, 1, 0]
    alone = own.augment.model_copy(update={"generator_sees": "subset", "types": ["1-Diff"]})
    known = augment.grid(supply_of(own), alone, own.segment, 2)
    assert [e.generator for e in known] == [None] * 3 + [0, 1, 2]


def test_of_a_generator_that_is_not_made_the_networks_are_to_do(own: Params, networks: Networks,
                                                                monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trials, "pace", lambda *_: 1.0)
    sets, tests = sets_of(own), loaded_tests(own)
    segment.run(workspace(own), sets, tests, own.segment)
    augment.run(workspace(own), sets, tests, own.augment, own.segment, {})
    ws = workspace(own, writable=False)
    grid = ws, supply_of(own), SIZE, RGB_AND_MASK
    assert "6 finished, 0 to do" in segment.planned(*grid, own.segment, sets, tests)
    assert "5 finished, 1 to do" in segment.planned(*grid, own.segment, sets, tests, [None])
    assert "5 finished, 1 to do" in augment.planned(*grid, own.augment, own.segment, sets, tests, {}, [None])
