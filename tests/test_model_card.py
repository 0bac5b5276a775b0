"""Models that are passed on: they load, tell no image's name, and have a card."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from diffusegen_core import Run, cli
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.diffusion import checkpoints, origins
from diffusegen_core.exports import datacard, exporting
from diffusegen_core.store import files


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of a nano run, exported. Not to be changed."""
    return exporting.models(Run.open(finished), tmp_path_factory.mktemp("models") / "out")[0]


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """The folder of such a run of the test's own."""
    shutil.copytree(finished, tmp_path / "own")
    return tmp_path / "own"


def test_an_exported_model_samples_what_the_run_s_own_does(finished: Path, exported: Path) -> None:
    run = Run.open(finished)
    for model in run.models.all:
        theirs = checkpoints.load(exported / f"{model.name}.safetensors").sample(2, seed=3, steps=4)
        ours = run.models.load(model.name).sample(2, seed=3, steps=4)
        assert (theirs.images == ours.images).all()
        assert (theirs.masks == ours.masks).all()


def test_an_exported_file_holds_neither_names_nor_an_optimizer(finished: Path, exported: Path) -> None:
    run = Run.open(finished)
    for model in run.models.all:
        path = exported / f"{model.name}.safetensors"
        tensors, header = checkpoints.read(path)
        assert all(name.startswith("ema.") for name in tensors)
        assert all(torch.isfinite(value).all() for value in tensors.values())
        assert set(header["seen"].values()) == set(origins.read_fingerprints(model.path).values())
        assert not set(header["seen"]) & set(run.pairs.names)
        head = path.read_bytes()[:100_000]
        assert not any(name.encode() in head for name in origins.read_fingerprints(model.path))


def test_another_run_takes_exported_models_and_still_knows_what_they_saw(
        exported: Path, nano_values: dict, tmp_path: Path) -> None:
    values = {**nano_values, "train": {**nano_values["train"], "checkpoints": str(exported)}}
    adopted = Run.create(folder=tmp_path / "same", changes=values).make("train")
    assert [model.name for model in adopted.models] == ["cluster-00", "cluster-01"]
    others = Run.create(folder=tmp_path / "other", changes={**values, "seed": 1})
    with pytest.raises(UserError, match="not training images of this run"):
        others.make("train")


def test_the_card_tells_the_models_what_they_remember_and_no_path(finished: Path, exported: Path) -> None:
    run, text = Run.open(finished), (exported / "README.md").read_text()
    for heading in ("Use", "What is in it", "Data and licence", "Training", "What they remember",
                    "Limits and intended use", "How to cite"):
        assert f"\n## {heading}\n" in text
    for model in run.models.all:
        assert files.sha256(exported / f"{model.name}.safetensors")[:16] in text
    assert "Are they copies?" in text
    assert "phantoms drawn by code" in text
    assert str(finished.parent) not in text
    code, = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    compile(code, "card", "exec")
    assert "TO BE FILLED IN" in text


def test_without_chapter_5_the_card_says_that_nothing_is_known(own: Path, tmp_path: Path) -> None:
    shutil.rmtree(own / "evaluate")
    place, _ = exporting.models(Run.open(own), tmp_path / "out")
    assert "Not known: chapter 5 was not made" in (place / "README.md").read_text()


def test_a_list_of_pairs_is_told_by_its_number(own: Path) -> None:
    run = Run.open(own)
    values = run.params.model_copy(update={"data": run.params.data.model_copy(update={"names": ["Anna"]})})
    assert params.shareable(params.plain(values)["data"])["names"] == "1 of them"


def test_models_that_there_are_not_are_refused_and_nothing_is_left(own: Path, tmp_path: Path) -> None:
    shutil.rmtree(own / "train")
    with pytest.raises(UserError, match=r"Make it with run\.make\('train'\)"):
        exporting.models(Run.open(own), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_models_and_refuses_what_is_for_pairs(finished: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner, command = CliRunner(), ["export", str(finished), "--to", "models"]
    done = runner.invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    assert "2 models: exports/run-models" in done.output
    again = runner.invoke(cli.app, command)
    assert again.exit_code
    for option in ("--no-real", "--native"):
        wrong = runner.invoke(cli.app, [*command, option])
        assert wrong.exit_code
        assert "--to models writes only models" in str(wrong.output) + str(wrong.exception)


@pytest.mark.parametrize("words", ["```\n\n<script>", "x\n  ````\n# y", "plain"])
def test_nothing_in_the_parameters_ends_their_block(words: str) -> None:
    lines = datacard.as_yaml({"object": words}).split("\n")
    fence = lines[0].removesuffix("yaml")
    assert set(fence) == {"`"}
    assert [line.strip().startswith(fence) for line in lines] == [True, *[False] * (len(lines) - 2), True]
