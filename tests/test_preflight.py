"""Before a run starts: every error of the user that its chapters would come to, and the networks to train."""

import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from made_up import changed, forge

from diffusegen_core import notebooks
from diffusegen_core.chapters import segment
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, phantom, reading
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import REAL
from diffusegen_core.networks import weights
from diffusegen_core.planning import preflight
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trials


def chapters(**chosen: object) -> list[str]:
    """The names of chosen chapters, as the command gives them."""
    return [notebooks.chapter_of(path) for path in notebooks.choose(**chosen)]


def told(p: Params, *names: str) -> list[str]:
    """The lines of the error for these chapters, or for all; none if there is none."""
    try:
        preflight.check(Run._checked(p), chapters(only=list(names)))
    except UserError as error:
        return str(error).splitlines()
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ten pairs."""
    dataset.write_phantoms(tmp_path / "pairs", 10, 16, seed=5)
    return tmp_path / "pairs"


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever publishes weights answers, and each address is noted."""
    asked: list[str] = []
    monkeypatch.setattr(weights, "_answered", lambda address, minute: asked.append(address) or True)
    return asked


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


# ---- errors of the user


def test_a_run_without_errors_goes_on_and_nothing_is_written(nano_params: Params, folder: Path) -> None:
    p = changed(nano_params, data={"source": str(folder)}, segment={"cvc": str(folder)})
    before = state(folder.parent)
    assert told(p) == told(nano_params) == []
    assert state(folder.parent) == before


@pytest.mark.parametrize("profile", ["paper", "one_gpu", "kvasir_cpu", "smoke"])
def test_every_profile_passes_where_its_data_are(profile: str, tmp_path: Path, folder: Path,
                                                 reached: list) -> None:
    values = params.load(Path(__file__).parents[1] / "params" / f"{profile}.yaml")
    p = params.validate({"profile": profile, **values, "run_dir": str(tmp_path / "run")})
    if p.data.source != "phantom":
        p = changed(p, data={"source": str(folder), "subset": "all"})
    lines = told(p)
    assert [line for line in lines if "augment.sizes" not in line] == []
    assert bool(lines) == (profile in ("paper", "kvasir_cpu")), "ten pairs are no 128"


ERRORS = [
    ({"data": {"source": "/nowhere"}}, "data.source: /nowhere is not a folder", "12345678"),
    ({"cluster": {"weights": "/no.pth"}}, "cluster: There is no weights file /no.pth", "12345678"),
    ({"train": {"checkpoints": "/nowhere"}}, "train.checkpoints: /nowhere holds 0 checkpoints for cluster-00",
     "2345678"),
    ({"cluster": {"file": "/no.pkl"}}, "cluster.file: /no.pkl cannot be read", "12345678"),
    ({"style": {"backbone": "resnet17"}}, "style: ", "45678"),
    ({"style": {"vgg_weights": "/no.pth"}}, "style.vgg_weights: There is no weights file", "45678"),
    ({"style": {"vgg": "vgg19_normalised", "vgg_weights": "pretrained"}}, "no published weights",
     "45678"),
    ({"gan": {"start_scale": 9}}, "gan.start_scale: 9 is not a scale; there are 2", "5678"),
    ({"gan": {"layers": 8}}, "gan.layers: images of 16 pixels are too small for 8 convolutions", "5678"),
    ({"gan": {"source": "/nowhere"}}, "gan.source: /nowhere is not a folder", "5678"),
    ({"evaluate": {"backbone": "resnet17"}}, "evaluate: ", "5"),
    ({"segment": {"encoder": "resnet17"}}, "There is no segment.encoder resnet17", "678"),
    ({"segment": {"encoder": "resnet18", "decoder_channels": [8] * 6}},
     "segment: segment.encoder resnet18 with 6", "678"),
    ({"segment": {"weights": "/no.pth"}}, "segment: There is no weights file", "678"),
    ({"segment": {"held_out": "/nowhere"}}, "segment.held_out: /nowhere is not a folder", "5678"),
    ({"segment": {"cvc": "/nowhere"}}, "segment.cvc: /nowhere is not a folder", "678"),
    ({"segment": {"types": ["20-Diff"]}}, "segment.types: this run has no data type 20-Diff", "68"),
    ({"inpaint": {"samples": 3}, "gan": {"samples": 2}, "segment": {"samples": [3]}},
     "segment.samples: 3 is more than the 2 pairs", "68"),
    ({"inpaint": {"samples": 3}, "gan": {"samples": 2}, "augment": {"ratios": [3]}},
     "augment.ratios: 3 is more than the 2 pairs", "78"),
    ({"augment": {"types": ["20-Diff"]}}, "augment.types: there is no data type 20-Diff", "78"),
    ({"augment": {"sizes": [5]}}, "augment.sizes: 5 is more than the 4 sources", "78"),
    ({"augment": {"generator_sees": "subset", "subset_clusters": 4}}, "augment.subset_clusters: 4",
     "78"),
]


def edges(where: str) -> list[str]:
    """Of the chapters 1 to 8, those which are in `where` while a neighbour is not, or the reverse."""
    inside = [str(number) in where for number in range(10)]
    return [str(number) for number in range(1, 9) if inside[number - 1:number + 2] != 3 * [inside[number]]]


@pytest.mark.parametrize(("change", "says", "where"), ERRORS, ids=lambda value: str(value)[:60])
def test_an_error_is_told_to_the_chapters_that_would_come_to_it(nano_params: Params, change: dict, says: str,
                                                                where: str) -> None:
    p = changed(nano_params, **change)
    for number in edges(where):
        lines = told(p, number)
        assert [says in line for line in lines] == [True] * (number in where), (number, lines)
    assert not p.folder.exists()


@pytest.mark.parametrize(("section", "key", "where"), [
    ("cluster", "weights", "12345678"), ("style", "weights", "45678"), ("style", "vgg_weights", "45678"),
    ("evaluate", "weights", "5"), ("segment", "weights", "678")])
def test_a_file_of_other_weights_is_told_to_the_chapters_that_would_load_it(
        section: str, key: str, where: str, nano_params: Params, tmp_path: Path) -> None:
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    p = changed(nano_params, **{section: {key: str(tmp_path / "other.pth")}})
    for number in edges(where):
        lines = told(p, number)
        assert ["other.pth does not fit this network" in line for line in lines] == [True] * (
            number in where), (number, lines)


def test_where_the_data_are_wrong_nothing_is_told_that_hangs_on_their_number(nano_params, tmp_path):
    image, mask, _ = phantom.draw(0, 0, 16)
    for name in dataset.paper_names()[:4]:
        dataset.write_pair(tmp_path / "pairs", name, image, mask)
    p = changed(nano_params, data={"source": str(tmp_path / "pairs"), "subset": "paper348", "count": None},
                augment={"sizes": [40]})
    [line] = preflight.problems(p)
    assert "lacks 344 of the paper's 348 pairs" in line


def test_all_errors_are_told_at_once_a_line_each(nano_params: Params) -> None:
    p = changed(nano_params, segment={"types": ["20-Diff"], "cvc": "/nowhere", "polypgen": "/elsewhere",
                                      "encoder": "resnet17"},
                augment={"types": ["x"], "sizes": [9]}, gan={"start_scale": 9})
    lines = told(p)
    assert len(lines) == 7
    for words in ("20-Diff", "/nowhere", "/elsewhere", "resnet17", "type x", "augment.sizes", "start_scale"):
        assert sum(words in line for line in lines) == 1


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
def test_the_problems_that_a_listing_shows_are_told(nano_params: Params, folder: Path, on_bad: str) -> None:
    next((folder / "masks").iterdir()).unlink()
    p = changed(nano_params, data={"on_bad": on_bad}, segment={"cvc": str(folder)})
    lines = told(p, "segment")
    assert len(lines) == (on_bad == "refuse")
    assert all("segment.cvc: " in line and "has 1 problem, such as images/phantom" in line and
               "missing mask" in line for line in lines)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    assert "segment.cvc: " in told(p, "segment")[0]


def test_a_folder_that_is_two_test_sets_is_told_before_the_first_chapter(nano_params: Params,
                                                                         folder: Path) -> None:
    p = changed(nano_params, segment={"cvc": str(folder), "polypgen": str(folder)})
    assert told(p, "evaluate") == []
    line, = told(p)
    assert line.startswith(f"Parameters: segment.polypgen: {folder} is segment.cvc as well.")


def test_a_run_folder_within_a_data_folder_is_refused(nano_params: Params, folder: Path) -> None:
    p = nano_params.model_copy(update={"run_dir": str(folder / "run")})
    for section, key in (("data", "source"), ("segment", "polypgen")):
        line, = told(changed(p, **{section: {key: str(folder)}}), "6")
        assert line.startswith(f"Parameters: run_dir: {p.folder} lies in {section}.{key} ")


def test_the_pairs_of_a_gan_are_listed(nano_params: Params, folder: Path) -> None:
    p = changed(nano_params, gan={"source": str(folder)})
    assert told(p) == []
    for scale in (0, 1):
        image, mask = next((folder / "images").iterdir()), next((folder / "masks").iterdir())
        for path in (image, mask):
            path.rename(path.with_name(f"chk_id_1_gen_scale_{scale}_0_img.png"))
    for path in folder.glob("*/phantom*"):
        path.unlink()
    line, = told(p, "evaluate")
    assert "mixes pairs of the start scales [0, 1]" in line


def test_no_image_is_read_and_nothing_is_downloaded(nano_params: Params, folder: Path, reached: list,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("too slow")
    for module, name in ((reading, "read"), (dataset, "load"), (weights, "_ask")):
        monkeypatch.setattr(module, name, never)
    p = changed(nano_params, data={"source": str(folder)}, gan={"source": str(folder)},
                segment={"cvc": str(folder), "encoder": "resnet18", "weights": "pretrained"},
                style={"weights": "pretrained"}, evaluate={"weights": "pretrained"})
    told(p)
    start = time.monotonic()
    assert told(p) == []
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("section", "change", "where"), [
    ("cluster", {"backbone": "resnet18"}, "12345678"), ("style", {"backbone": "timm/resnet18"}, "45678"),
    ("style", {"vgg_weights": "pretrained", "weights": "random"}, "45678"), ("evaluate", {}, "5"),
    ("evaluate", {"backbone": "inception_v3_fid"}, "5"),
    ("segment", {"encoder": "resnet18"}, "678"), ("segment", {"encoder": "tu-resnet18"}, "678")])
def test_published_weights_that_cannot_be_had_are_told_before_the_first_chapter(
        section: str, change: dict, where: str, nano_params: Params, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_answered", lambda address, minute: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights.hub, "HF_HUB_CACHE", str(tmp_path))
    p = changed(nano_params, **{section: {"weights": "pretrained", **change}})
    lines = told(p, where[0])
    assert len(lines) == 1
    assert "could not be loaded" in lines[0]
    assert "does not answer and the cache lacks it. Without a network, " in lines[0]
    before = [] if where[0] == "1" else told(p, str(int(where[0]) - 1))
    assert before == []
    assert not p.folder.exists()


def test_published_weights_that_the_cache_has_need_no_network(nano_params: Params, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_answered", lambda address, minute: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights.hub, "HF_HUB_CACHE", str(tmp_path))
    p = changed(nano_params, cluster={"backbone": "resnet18", "weights": "pretrained"},
                segment={"encoder": "tu-resnet18", "weights": "pretrained"})
    assert len(told(p, "7")) == 2
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    kept = weights.hub_folder("timm/resnet18.a1_in1k") / "snapshots" / "1"
    kept.mkdir(parents=True)
    (kept / "config.json").touch()
    assert len(told(p, "7")) == 1
    (kept / "model.safetensors").touch()
    assert told(p, "7") == []


@pytest.mark.parametrize(("change", "says", "where"), [
    ({"segment": {"encoder": "tu-swin_tiny_patch4_window7_224", "decoder_channels": [8, 8, 8]}},
     "does not accept images of 16 pixels", "678"),
    ({"style": {"backbone": "timm/swin_tiny_patch4_window7_224", "backbone_size": 32}},
     "cannot take images of 32 pixels", "45678")])
def test_a_network_that_takes_one_size_only_is_told_before_the_first_chapter(
        change: dict, says: str, where: str, nano_params: Params) -> None:
    p = changed(nano_params, **change)
    for number in "36":
        assert [says in line for line in told(p, number)] == [True] * (number in where), number


# ---- the dry run


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pace", lambda *_: 1.0)


def dry_run(p: Params, last: str | None = None) -> str:
    return preflight.dry_run(Run(p), chapters(last=last))


@pytest.mark.parametrize(("last", "titles"), [
    ("5", []), ("6", ["Synthetic data alone"]), ("8", ["Synthetic data alone", "Small sets"])])
def test_a_dry_run_shows_the_chosen_chapters(nano_params: Params, paces: None, last: str,
                                             titles: list[str]) -> None:
    text = dry_run(nano_params, last)
    for title in ("Synthetic data alone", "Small sets"):
        assert (f"{title}: " in text) == (title in titles)
    if not titles:
        assert text.startswith("A dry run shows only the segmentation networks")
    assert not nano_params.folder.exists()


@pytest.mark.parametrize(("data", "kind"), [
    ({}, Planes(3, 1)), ({"source": "phantom-ultrasound", "channels": 1}, Planes(1, 1)),
    ({"channels": 4, "labels": {"1": "liver", "2": "tumour"}, "overlap": True}, Planes(4, 2, True))])
def test_a_dry_run_times_networks_of_the_channels_and_classes_of_the_data(
        nano_params: Params, folder: Path, monkeypatch: pytest.MonkeyPatch, data: dict, kind: Planes) -> None:
    seen = []
    monkeypatch.setattr(trials, "pace", lambda *given: seen.append(given[3]) or 1.0)
    p = changed(nano_params, data={"source": str(folder), **data})
    assert "a short trial" in dry_run(p)
    assert seen == [kind] * 2


def test_a_dry_run_leaves_data_of_other_parameters_alone(nano_params: Params, paces: None) -> None:
    Run(nano_params).make("data")
    before = state(nano_params.folder)
    for change in ({"count": 9}, {"image_size": 8}):
        text = dry_run(changed(nano_params, data=change))
        assert text.startswith("Synthetic data alone: 4 experiments, 0 finished")
    assert state(nano_params.folder) == before


def test_a_dry_run_knows_the_pairs_that_were_read_from_a_folder(nano_params: Params, folder: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "planned", lambda ws, supply, *rest: f"{supply[REAL].sources} sources")
    p = changed(nano_params, data={"source": str(folder), "count": None, "on_bad": "skip"},
                inpaint={"sources": None})
    assert dry_run(p, "6") == "10 sources"
    next((folder / "images").iterdir()).write_bytes(b"no picture")
    Run(p).make("data")
    assert dry_run(p, "6") == "9 sources"
    folder.rename(folder.with_name("gone"))
    assert dry_run(p, "6") == "9 sources"


@pytest.mark.parametrize(("change", "chosen", "refused"), [
    ({"data.count": 9}, ["cluster"], False), ({"data.count": 9}, ["train"], True),
    ({"gan.steps": 2}, ["evaluate"], False), ({"gan.steps": 2}, ["segment"], True),
    ({"segment.test_count": 3}, ["segment"], False), ({"segment.test_count": 3}, ["augment"], True),
    ({"segment.test_count": 3}, ["augment", "tests"], False), ({"cluster.scan": [2]}, ["train"], True)])
def test_who_chooses_a_page_has_chosen_what_it_makes_and_no_other(
        nano_run: Run, change: dict, chosen: list[str], refused: bool) -> None:
    run = Run.open(nano_run.folder, change)
    with pytest.raises(UserError, match="not chosen are not made again") if refused else nullcontext():
        preflight.refuse_mixture(run, chosen)


def test_every_result_has_a_page() -> None:
    pages = {notebooks.chapter_of(path) for path in notebooks.every()}
    assert set(preflight.CHECKS) - pages == set(preflight.PAGES)
    assert set(preflight.PAGES.values()) <= pages


def test_a_dry_run_counts_what_is_finished_and_leaves_test_sets_alone(
        nano_params: Params, folder: Path, paces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(monkeypatch)
    p = changed(nano_params, gan={"source": None}, segment={"types": ["Real", "2-Diff"]},
                inpaint={"opening": 16})
    Run(p).make("segment")
    before = state(p.folder)
    for change, finished in (({}, 2), ({"cvc": str(folder)}, 0), ({"test_count": 3}, 0)):
        text = dry_run(changed(p, segment=change))
        assert f"Synthetic data alone: 2 experiments, {finished} finished" in text
        assert "Small sets: 2 experiments, 0 finished" in text
    assert state(p.folder) == before
