"""A look at a finished run is cheap: its models are recognised by their size and time, and are not read."""

import json
import os
from pathlib import Path

import pytest

from diffusegen_core import Run, notebooks
from diffusegen_core.config import params
from diffusegen_core.data import dataset
from diffusegen_core.store import files
from diffusegen_core.store.stamps import STAMP

MODELS, SIZE = 6, 14 * 10**9  # as large together as the paper's 21
RESULTS = ["pairs", "clusters", "models", "inpainted", "styled", "gan", "synthetic", "evaluated", "tests",
           "segmented", "augmented"]


def inflate(path: Path) -> None:
    """Make a model's file as large as the paper's by a tensor of zeros, which takes no room on the disk."""
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:length]), content[length:]
    size = SIZE - len(data)
    for _ in range(4):  # until the header, which tells the size of the zeros, is as long as it says
        zeros = {"dtype": "U8", "shape": [size], "data_offsets": [len(data), len(data) + size]}
        text = json.dumps({**header, "zeros": zeros}).encode()
        size = SIZE - 8 - len(text) - len(data)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    os.truncate(path, SIZE)
    place = path.parent / STAMP
    stamp = json.loads(place.read_text())
    stamp["outputs"][path.name] |= {"bytes": SIZE, "mtime_ns": path.stat().st_mtime_ns}
    place.write_text(json.dumps(stamp))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Run:
    """A finished run of five clusters and the full set, whose models have 84 GB in all."""
    folder = tmp_path_factory.mktemp("large") / "run"
    changes = {"cluster": {"k": 5, "scan": []}, "gan.source": None, "evaluate.sets": 1,
               "train": {"images": 4, "full_images": 4, "preview_images": 1, "preview_steps": 1,
                         "keep_optimizer": False}}
    run = Run(params.validate(params.merged({**nano_values, "run_dir": str(folder)}, changes)))
    for chapter in ("evaluate", "segment", "augment"):
        run.make(chapter)
    models = [model.path for model in run.models.all]
    assert len(models) == MODELS
    for path in models:
        inflate(path)
    if sum(path.stat().st_blocks for path in models) * 512 > MODELS * SIZE / 10:
        pytest.skip("this file system knows no sparse files")
    return run


def bytes_read() -> int:
    """How many bytes this process has read so far."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        pytest.skip("this system does not tell how much a process reads")
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_every_result_up_to_the_summary_is_read_without_the_models(
        large: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_hashes", {})
    dataset._read.cache_clear()
    hashed: list[Path] = []
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or real(path))
    before = bytes_read()
    for chapter in ("train", "inpaint", "style", "evaluate", "segment", "augment"):  # as their notebooks do
        Run.open(large.folder).make(chapter)
    run = Run.open(large.folder)
    for name in RESULTS:
        getattr(run, name)
    assert set(run.status()["status"]) <= {"made", "none"}
    assert run.changed_by_hand() == []
    cells = json.loads(notebooks.every()[-1].read_text())["cells"]
    names = {"profile": str(large.folder)}
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        if "profile =" not in source:
            exec(source, names)
    assert isinstance(names["run"], Run)
    assert bytes_read() - before < MODELS * SIZE / 100
    assert [path for path in hashed if not path.name.startswith(files.WRITING)] == []


def test_a_model_is_hashed_where_its_time_has_changed_and_only_once(large: Run,
                                                                   monkeypatch: pytest.MonkeyPatch):
    path = large.models.models[0].path
    monkeypatch.setattr(files, "_hashes", {})
    hashed: list[Path] = []
    content = json.loads((path.parent / STAMP).read_text())["outputs"][path.name]["sha256"]
    monkeypatch.setattr(files, "sha256", lambda file: hashed.append(file) or content)
    before = path.stat()
    os.utime(path, (1, 1))
    for _ in range(3):
        assert len(Run.open(large.folder).models.all) == MODELS
    assert hashed == [path]
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
