"""A run as one object: what makes it, what reads it, and that reading never makes."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from parameters import keep_params

from diffusegen_core import Run, __version__, cli
from diffusegen_core.chapters import cluster, standing, style
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset
from diffusegen_core.store import artifacts, aside, lock
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import ASIDE

RESULTS = ["pairs", "clusters", "models", "inpainted", "styled", "gan", "synthetic", "evaluated", "tests",
           "segmented", "augmented"]


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Everything in a folder, with the time of its last change and its size."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


def kept(run: Run) -> Run:
    """The run, with its folder and its parameters in it."""
    with lock.hold(run.folder):
        keep_params(run)
    return run


# ---- create and open

def test_a_run_is_called_after_its_file_and_nothing_is_written_before_it_is_made(checkout: Path):
    before = listing(checkout)
    run = Run.create()
    assert (run.params.profile, run.folder) == ("smoke", checkout / "runs" / "smoke")
    assert run.params.train.images == 24
    for profile in ("params/smoke.yaml", checkout / "params" / "smoke.yaml"):
        assert Run.create(profile).params == run.params
    assert Run.create(folder="elsewhere").folder == checkout / "elsewhere"
    assert listing(checkout) == before


def test_a_copied_profile_is_a_run_of_its_own_whatever_it_says_of_its_name(checkout: Path):
    for told in ("", "profile: smoke\n"):
        (checkout / "mine.yaml").write_text(told + (checkout / "params/smoke.yaml").read_text())
        run = Run.create("mine.yaml")
        assert (run.params.profile, run.folder) == ("mine", checkout / "runs" / "mine")


@pytest.mark.parametrize("changes", [
    {"train.images": 80, "train.lr": 0.5, "seed": 3},
    {"train": {"images": 80, "lr": 0.5}, "seed": 3},
    {"train.images": 80, "train": {"lr": 0.5}, "seed": 3},
])
def test_changes_are_dotted_or_in_sections_and_leave_the_rest(checkout: Path, changes: dict):
    run = Run.create("smoke", changes)
    assert (run.params.train.images, run.params.train.lr, run.params.seed) == (80, 0.5, 3)
    assert (run.params.train.batch_size, run.params.cluster.k) == (4, 2)
    kept(run)
    for same in (Run.open(run.folder), Run.open("runs/smoke", {"seed": 3})):
        assert same.folder == run.folder
        assert same.params == run.params.model_copy(update={"run_dir": str(run.folder)})
    assert Run.open(run.folder, changes={"train": {"images": 81}}).params.train.images == 81


@pytest.mark.parametrize(("changes", "says"), [
    ({"train.image": 5}, "train.image: unknown key (did you mean train.images?)"),
    ({"trian": {"images": 5}}, "trian: unknown key (did you mean train?)"),
    ({"seed.x": 5}, "seed"),
    ({"train.images": "many"}, "train.images: "),
    ({"inpaint.sampler": 3}, "inpaint.sampler: "),
])
def test_a_change_that_makes_no_sense_is_refused_in_one_line(checkout: Path, changes: dict, says: str):
    kept(Run.create())
    for act in (lambda: Run.create("smoke", changes), lambda: Run.open("runs/smoke", changes),
                lambda: Run.from_notebook({"changes": changes})):
        with pytest.raises(UserError, match=r"^Parameters: ") as caught:
            act()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[], ["params.yaml"], ["run.json"], ["notes.txt"]])
def test_a_folder_that_is_no_run_is_not_opened(tmp_path: Path, content: list[str]):
    for name in content:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{tmp_path} is not a run"):
        Run.open(tmp_path)


def test_the_parameters_that_a_run_keeps_are_a_file_to_go_on_from(checkout: Path):
    run = Run.create("smoke", {"train.images": 80})
    path = kept(run).folder / "params.yaml"
    assert "run_dir" not in params.load(path)
    again = Run.create(path, {"seed": 1})
    assert (again.folder, again.params.profile) == (run.folder, "smoke")
    assert (again.params.train.images, again.params.seed) == (80, 1)
    shutil.copytree(run.folder, checkout / "moved")
    assert Run.create(checkout / "moved" / "params.yaml").folder == checkout / "moved"
    assert Run.open("moved").folder == checkout / "moved"


# ---- in a notebook

def test_a_notebooks_default_cell_means_the_run_that_is_there_with_its_own_parameters(checkout: Path):
    default = {"profile": "smoke", "changes": {}, "__name__": "__main__", "plt": object(), "p": 3}
    run = Run.from_notebook(default)
    assert (run.folder, run.params.train.images) == (checkout / "runs" / "smoke", 24)
    kept(Run.create("smoke", {"train.images": 80}))
    for cell in (default, {}, {"profile": "runs/smoke"}, {"profile": str(run.folder), "changes": None}):
        assert Run.from_notebook(cell).params.train.images == 80
    assert Run.from_notebook({"profile": "smoke", "changes": {"train.lr": 0.5}}).params.train.images == 80
    assert Run.from_notebook({"train": {"images": 81}}).params.train.images == 81
    assert Run.from_notebook({"run_dir": "elsewhere"}).params.train.images == 24


def test_a_notebook_finds_a_run_by_its_name_though_its_parameter_file_lies_elsewhere(checkout: Path):
    shutil.copy(checkout / "params" / "smoke.yaml", checkout / "work" / "mine.yaml")
    kept(Run.create("work/mine.yaml", {"train.images": 80}))
    assert Run.from_notebook({"profile": "mine"}).params.train.images == 80
    with pytest.raises(UserError, match="There is no parameter file others, nor a profile of that name"):
        Run.from_notebook({"profile": "others"})


def test_a_notebook_may_name_another_folder_for_a_profiles_run_or_for_a_run(checkout: Path):
    kept(Run.create("smoke", {"train.images": 80}))
    for profile, images in (("smoke", 24), ("runs/smoke", 80)):
        other = Run.from_notebook({"profile": profile, "run_dir": "other"})
        assert (other.folder, other.params.train.images) == (checkout / "other", images)
    kept(Run.from_notebook({"run_dir": "other", "changes": {"train.images": 40}}))
    assert Run.from_notebook({"profile": "runs/smoke", "run_dir": "other"}).params.train.images == 40


@pytest.fixture
def mine(checkout: Path) -> Path:
    """A parameter file, whose run is there, with a change made in a cell."""
    path = checkout / "mine.yaml"
    path.write_text((checkout / "params" / "smoke.yaml").read_text())
    kept(Run.from_notebook({"profile": "mine.yaml", "changes": {"train.images": 80}}))
    return path


def edit(path: Path, **sections: dict) -> None:
    path.write_text(yaml.safe_dump(params.merged(params.load(path), sections)))


@pytest.mark.parametrize("absolute", [True, False])
def test_a_notebook_takes_what_was_edited_in_its_parameter_file_and_keeps_what_cells_have_changed(
        mine: Path, caplog: pytest.LogCaptureFixture, absolute: bool):
    told = {"profile": str(mine) if absolute else "mine.yaml", "changes": {}}
    assert (Run.from_notebook(told).params.train.images, caplog.text) == (80, "")
    edit(mine, cluster={"k": 3}, data={"holdout": 0.2})
    run = kept(Run.from_notebook(told))
    assert ("mine.yaml was edited. The run mine takes these changes: cluster.k 3, data.holdout 0.2."
            in caplog.text)
    assert (run.params.cluster.k, run.params.data.holdout, run.params.train.images) == (3, 0.2, 80)
    assert Run.from_notebook({**told, "changes": {"cluster": {"k": 4}}}).params.cluster.k == 4
    caplog.clear()
    kept(Run.from_notebook({**told, "changes": {"cluster.k": 2}}))
    assert Run.from_notebook(told).params.cluster.k == 2, "an edit is taken once"
    values = params.load(mine)
    del values["cluster"]["k"], values["train"]["images"]
    mine.write_text(yaml.safe_dump(values))
    run = Run.from_notebook(told)
    assert (run.params.cluster.k, run.params.train.images) == (2, params.Params().train.images)
    assert "train.images 3200." in caplog.text


def test_the_order_of_classes_is_an_edit_and_another_order_of_parameters_is_none(
        mine: Path, caplog: pytest.LogCaptureFixture):
    values = params.load(mine)
    mine.write_text(yaml.safe_dump(dict(reversed(values.items())), sort_keys=False))
    Run.from_notebook({"profile": "mine.yaml"})
    assert caplog.text == ""
    edit(mine, data={"source": "set", "count": None, "labels": {1: "liver", 2: "cyst"}})
    kept(Run.from_notebook({"profile": "mine.yaml"}))
    values = params.load(mine)
    values["data"]["labels"] = {2: "cyst", 1: "liver"}
    mine.write_text(yaml.safe_dump(values, sort_keys=False))
    assert Run.from_notebook({"profile": "mine.yaml"}).params.data.classes == ("cyst", "liver")


def test_an_edit_that_is_refused_is_taken_when_it_was_mended(mine: Path):
    edit(mine, cluster={"k": 99, "scan": [2]})
    for _ in range(2):
        with pytest.raises(UserError, match="99"):
            Run.from_notebook({"profile": "mine.yaml"}).make("cluster")
    edit(mine, cluster={"k": 3})
    run = Run.from_notebook({"profile": "mine.yaml"})
    assert (run.params.cluster.k, run.params.cluster.scan) == (3, [2])
    edit(mine, clusters={"k": 3})
    with pytest.raises(UserError, match=r"clusters\.k: unknown key|clusters: unknown key"):
        Run.from_notebook({"profile": "mine.yaml"})


def test_a_name_means_the_run_as_it_is_and_an_edited_profile_is_told(
        checkout: Path, caplog: pytest.LogCaptureFixture):
    kept(Run.create("smoke", {"train.images": 80}))
    for cell in ({}, {"profile": "smoke"}, {"profile": "runs/smoke"}, {"profile": "runs/smoke/params.yaml"}):
        assert (Run.from_notebook(cell).params.train.images, caplog.text) == (80, "")
    edit(checkout / "params" / "smoke.yaml", cluster={"k": 3})
    assert Run.from_notebook({"profile": "smoke"}).params.cluster.k == 2
    assert ("smoke.yaml differs from the run smoke, which keeps its own values: cluster.k 3. "
            f"`diffusegen run {checkout / 'params' / 'smoke.yaml'}` takes those of the file.") in caplog.text
    run = Run.from_notebook({"profile": "params/smoke.yaml"})
    assert (run.params.cluster.k, run.params.train.images) == (3, 80)


def test_an_older_run_tells_how_a_file_differs_and_stays_as_it_is(mine: Path,
                                                                  caplog: pytest.LogCaptureFixture):
    mark = mine.parent / "runs" / "mine" / "run.json"
    mark.write_text('{"diffusegen": "0.1.0"}')
    edit(mine, cluster={"k": 3})
    run = kept(Run.from_notebook({"profile": "mine.yaml", "changes": {"seed": 3}}))
    assert (run.params.cluster.k, run.params.train.images, run.params.seed) == (2, 80, 3)
    assert "which keeps its own values:" in caplog.text
    for one in ("cluster.k 3", "train.images 24"):
        assert one in caplog.text
    assert kept(Run.create("mine.yaml")).params.cluster.k == 3
    edit(mine, cluster={"k": 4})
    assert Run.from_notebook({"profile": "mine.yaml"}).params.cluster.k == 4


def test_an_older_runs_parameters_mean_the_same_in_another_folder(checkout: Path):
    kept(Run.create("smoke", {"inpaint.baselines": ["Paste"]}))
    path = checkout / "runs" / "smoke" / "params.yaml"
    told = yaml.safe_load(path.read_text())
    for name in ("baselines", "masks", "guidance_scale"):
        del told["inpaint"][name]
    path.write_text(yaml.safe_dump(told))
    for run in (Run.create(path), Run.create(path, folder="other"),
                Run.from_notebook({"profile": "runs/smoke", "run_dir": "other"})):
        p = run.params.inpaint
        assert (p.baselines, p.masks, p.guidance_scale) == (None, "joint", 1.0)


@pytest.mark.parametrize(("injected", "says"), [
    ('clusters = {"k": 3}', "clusters: unknown key (did you mean cluster?)"),
    ('trian = {"images": 5}', "trian: unknown key (did you mean train?)"),
    ("image_size = 5", "image_size: unknown key"),
    ('train = {"image": 5}', "train.image: unknown key (did you mean train.images?)"),
    ('train = "{images: 5}"', "train: Input should be a valid dictionary"),
])
def test_what_papermill_was_given_and_is_no_parameter_is_refused_in_one_line(
        checkout: Path, injected: str, says: str):
    cell = f"# Parameters\nseed = 3\n{injected}\n"
    namespace: dict[str, Any] = {"In": ["", "x = 1", cell]}
    exec(cell, namespace)
    with pytest.raises(UserError, match=r"^Parameters: ") as caught:
        Run.from_notebook(namespace)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (checkout / "runs").exists()


def test_what_a_user_has_named_in_a_notebook_is_no_parameter(checkout: Path):
    assert Run.from_notebook({"In": ["", "clusters = 3"], "clusters": 3}).params.cluster.k == 2


def test_a_module_in_a_notebook_that_is_called_as_a_section_is_no_value_of_it(checkout: Path):
    assert Run.from_notebook({"style": style, "style_": 1}).params.style.respacing == 4


# ---- where a run may lie

@pytest.mark.parametrize("name", ["data.source", "cluster.file", "train.checkpoints", "gan.source",
                                  "segment.held_out", "segment.cvc", "segment.polypgen"])
def test_a_run_that_is_told_to_read_its_own_parts_is_refused_by_name(checkout: Path, name: str):
    places = ["runs/smoke", "runs/smoke/data", str(checkout / "runs/smoke/train/cluster-00"), "link/data"]
    (checkout / "runs" / "smoke").mkdir(parents=True)
    (checkout / "link").symlink_to(checkout / "runs" / "smoke")
    for place in places:
        with pytest.raises(UserError, match=f"^Parameters: {name}: .* lies in the run folder"):
            Run.create("smoke", {name: place})
    Run.create("smoke", {name: "runs/smoke-2"})


def test_a_run_within_a_folder_of_data_is_refused(checkout: Path):
    dataset.write_phantoms(checkout / "set", 3, 16, 0)
    with pytest.raises(UserError, match=r"^Parameters: run_dir: .*/set/run lies in data\.source .* never "):
        Run.create("smoke", {"data": {"source": "set"}}, folder="set/run")


@pytest.mark.parametrize("folder", [".", "..", "~", "/", "params", "link"])
def test_a_run_in_a_folder_of_others_files_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch,
                                                      folder: str):
    monkeypatch.setenv("HOME", str(checkout / "params"))
    (checkout / "link").symlink_to(checkout / "params")
    for act in (lambda: Run.create(folder=folder), lambda: Run.create("smoke", {"run_dir": folder}),
                lambda: Run.from_notebook({"run_dir": folder})):
        with pytest.raises(UserError, match="cannot be the run folder: it holds files that belong to no run"):
            act()


# ---- reading

def test_nothing_is_read_before_it_is_made_and_the_error_says_how_to_make_it(nano_params: params.Params):
    run = Run(nano_params)
    for name in RESULTS:
        with pytest.raises(NotMadeError, match=r"has no finished data\. Make it with run\.make\('data'\)"):
            getattr(run, name)
    assert not run.folder.exists()
    status = run.status()["status"]
    assert status.pop("paste") == "none", "nobody asks for pasted pairs"
    assert set(status) == {"to make"}


def test_in_a_shell_the_error_says_the_whole_command(finished: Path, tmp_path: Path, capsys, monkeypatch):
    folder = tmp_path / "my run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "train" / "cluster-01")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotMadeError) as caught:
        Run.open(folder).models  # noqa: B018
    assert str(caught.value).endswith("has no finished train/cluster-01. Make it with run.make('train').")
    assert pickle.loads(pickle.dumps(caught.value)).in_a_shell == caught.value.in_a_shell
    monkeypatch.setenv(artifacts.IN_A_SHELL, "1")  # in a chapter that a command executes
    with pytest.raises(NotMadeError, match=r"with `diffusegen run 'my run/params\.yaml'`"):
        Run.open(folder).models  # noqa: B018
    monkeypatch.delenv(artifacts.IN_A_SHELL)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["diffusegen", "export", "my run", "--to", "models"])
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().err
    assert told.endswith("train/cluster-01. Make it with `diffusegen run 'my run/params.yaml'`.\n")
    assert "run.make" not in told


@pytest.mark.parametrize(("result", "change", "chapter"), [
    ("clusters", {"cluster.k": 3}, "cluster"), ("models", {"train.lr": 0.5}, "train"),
    ("inpainted", {"inpaint.resampling": 1}, "inpaint"), ("styled", {"style.skip": 0}, "style"),
    ("styled", {"train.lr": 0.5}, "train"), ("gan", {"gan.steps": 2}, "gan"),
    ("evaluated", {"evaluate.sets": 2}, "evaluate"), ("synthetic", {"gan.steps": 2}, "gan"),
])
def test_what_was_made_with_other_values_is_not_read_and_the_chapter_is_named(
        nano_run: Run, result: str, change: dict, chapter: str):
    before = listing(nano_run.folder)
    with pytest.raises(NotMadeError, match=rf"was made with other values \(.*run\.make\('{chapter}'\)"):
        getattr(Run.open(nano_run.folder, change), result)
    assert listing(nano_run.folder) == before


def test_a_finished_run_is_read_without_making_or_writing_anything(nano_run: Run):
    before = listing(nano_run.folder)
    results = {name: getattr(nano_run, name) for name in RESULTS}
    assert all(result is not None for result in results.values())
    status = nano_run.status()["status"]
    assert status.pop("paste") == "none"  # of which these parameters ask for none
    assert set(status) == {"made"}
    assert nano_run.changed_by_hand(thorough=True) == []
    assert len(results["pairs"]) == 10
    assert [model.name for model in results["models"].models] == ["cluster-00", "cluster-01"]
    assert listing(nano_run.folder) == before


def test_making_what_is_made_changes_no_file(nano_run: Run):
    before = {path: value for path, value in listing(nano_run.folder).items() if path.is_file()}
    nano_run.make("evaluate")
    after = {path: value for path, value in listing(nano_run.folder).items() if path.is_file()}
    assert after.keys() - before.keys() <= {nano_run.folder / lock.LOCK}
    assert {path: after[path] for path in before if path.name != lock.LOCK} == {
        path: value for path, value in before.items() if path.name != lock.LOCK}


def test_a_result_is_loaded_once(nano_run: Run, monkeypatch: pytest.MonkeyPatch):
    calls, real = [], cluster.run
    monkeypatch.setattr(cluster, "run", lambda *arguments: calls.append(1) or real(*arguments))
    assert nano_run.clusters is nano_run.clusters
    assert nano_run.models is nano_run.models
    assert nano_run.pairs is nano_run.pairs is Run.open(nano_run.folder).pairs
    assert calls == [1]


def test_what_is_made_is_what_is_read(nano_params: params.Params):
    run = Run(nano_params)
    made = run.make("cluster")
    assert run.clusters is made
    assert run.status()["status"].to_dict()["cluster"] == "made"
    assert run.status()["status"].to_dict()["train"] == "to make"
    again = run.make("clusters")
    assert run.clusters is run.read("clusters") is again, "a chapter may be called as its attribute"
    with pytest.raises(UserError, match=r"^There is no chapter train2\. There are, with their results: data "
                                        r"\(run\.pairs\), cluster \(run\.clusters\), .*, scorers, filter "):
        run.make("train2")


def test_every_chapter_has_a_place_in_the_order_and_a_name_in_the_run(nano_params: params.Params):
    run = Run(nano_params)
    assert list(standing.RESULTS) == list(run._steps(run.workspace, lambda need: None, None))
    assert all(isinstance(getattr(Run, name), property) for name in standing.RESULTS.values() if name)


def test_a_run_goes_to_another_process_without_its_results(nano_run: Run):
    assert len(nano_run.pairs) == 10
    size = len(pickle.dumps(nano_run))
    copied = pickle.loads(pickle.dumps(nano_run))
    assert size < 10_000
    assert (copied.params, copied.folder) == (nano_run.params, nano_run.folder)
    assert copied.clusters.sizes == nano_run.clusters.sizes


def test_status_says_of_each_chapter_what_is_to_do(nano_run: Run):
    changed = Run.open(nano_run.folder, {"train.lr": 0.5})
    rows = changed.status()
    assert list(rows) == ["status", "reason"]
    assert set(rows.loc[["data", "cluster", "gan"], "status"]) == {"made"}
    assert set(rows.loc[["train", "inpaint", "style", "sets", "evaluate"], "status"]) == {"stale"}
    assert "train.lr: 0.001 -> 0.5" in rows.loc["train", "reason"]
    (nano_run.folder / "cluster" / "clusters.csv").write_text("mine")
    rows = Run.open(nano_run.folder).status()
    assert rows.loc["data", "status"] == "made"
    assert rows.loc["cluster", "status"] == rows.loc["inpaint", "status"] == "refused"
    assert "clusters.csv is not the file that was written" in rows.loc["cluster", "reason"]
    assert Run.open(nano_run.folder).changed_by_hand() == [
        "cluster/clusters.csv is not the file that was written"]


def test_a_grid_of_which_networks_are_missing_is_to_make_and_what_is_not_asked_for_is_none(nano_run: Run):
    rows = Run.open(nano_run.folder, {"segment.epochs": 3, "gan.source": None}).status()
    assert rows.loc["gan", "status"] == "none"
    assert rows.loc["segment", "status"] == "to make"
    assert re.fullmatch(r"(\d+) of \1 networks are not finished\.", rows.loc["segment", "reason"])


def test_what_a_small_sets_run_sets_aside_is_not_in_place(nano_run: Run):
    within = nano_run.folder / "augment" / "generators" / "N4-seed0"
    shutil.copytree(nano_run.folder / "cluster", within / "cluster")
    (within / lock.MARK).write_text((nano_run.folder / lock.MARK).read_text())
    shutil.move(within / "cluster", within / ASIDE / "cluster" / "0123456789abcdef")
    (within / ASIDE / "cluster" / "0123456789abcdef" / "clusters.csv").write_text("mine")
    assert nano_run.changed_by_hand() == []
    [item] = aside.kept(nano_run.folder)
    assert item.name == "augment/generators/N4-seed0/aside/cluster/0123456789abcdef"
    aside.remove(nano_run.folder, [item.name])
    assert aside.kept(nano_run.folder) == []
    assert not (within / ASIDE).exists() or not any((within / ASIDE).rglob("*"))


# ---- its parameters

def test_parameters_stay_with_what_was_made_before_a_refusal(nano_run: Run, tmp_path: Path):
    run = Run.open(nano_run.folder, {"cluster.scan": [2], "segment.cvc": str(tmp_path / "typo")})
    with pytest.raises(UserError, match="typo"):
        run.make("tests")
    assert "typo" not in (nano_run.folder / "params.yaml").read_text()
    run = Run.open(nano_run.folder, {"gan.steps": 1, "evaluate.weights": str(tmp_path / "typo")})
    with pytest.raises(UserError, match="typo"):
        run.make("evaluate")  # which needs the GAN's pairs, and they have replaced the others
    assert Run.open(nano_run.folder).params.gan.steps == 1
    assert len(Run.open(nano_run.folder).gan.pairs) == 2


def test_parameters_that_are_kept_replace_others_which_are_set_aside(nano_run: Run):
    path = nano_run.folder / "params.yaml"
    own = "# my notes\n" + path.read_text()
    path.write_text(own)
    keep_params(nano_run)
    assert path.read_text() == own  # which says the same
    keep_params(Run.open(nano_run.folder, {"seed": 3}))
    assert params.load(path)["seed"] == 3
    assert [file.read_text() for file in (nano_run.folder / ASIDE / "params").iterdir()] == [own]
    keep_params(nano_run)
    path.write_text("# others\n" + path.read_text())
    keep_params(Run.open(nano_run.folder, {"seed": 3}))
    texts = {file.read_text() for file in (nano_run.folder / ASIDE / "params").iterdir()}
    assert {own, "# others\n" + own.removeprefix("# my notes\n")} <= texts  # each bit for bit


@pytest.mark.parametrize("text", ["profile: 2024-01-05\n", "- a\n", "train: [\n", "", "seed: x\n"])
def test_parameters_that_were_edited_to_nonsense_are_refused_and_kept(nano_run: Run, text: str):
    path = nano_run.folder / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        Run.open(nano_run.folder)
    with pytest.raises(UserError):
        Run.from_notebook({"profile": str(nano_run.folder)})
    if text in ("profile: 2024-01-05\n", "seed: x\n"):  # which is YAML
        nano_run.make("cluster")
    else:
        with pytest.raises(UserError, match=str(path)):
            nano_run.make("cluster")
    assert text in [file.read_text() for file in nano_run.folder.rglob("*.yaml")]


# ---- the command

@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_the_package_is_the_command(words: list[str]):
    root = str(Path(cli.__file__).parents[1])
    done = subprocess.run([sys.executable, "-m", "diffusegen_core", *words], cwd=root, capture_output=True,
                          text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
