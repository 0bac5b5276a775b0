"""What every test may use."""

import copy
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read on import: no spinning on shared cores
# One thread, as workers and the processes of `make test` have: sums over threads differ in their last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch
import yaml
from threadpoolctl import threadpool_limits

from diffusegen_core.config import params

if TYPE_CHECKING:
    from made_up import Networks

    from diffusegen_core.run import Run

torch.set_num_threads(1)
for name in ("DIFFUSEGEN_SCHEDULER", "DIFFUSEGEN_RUN"):  # of a run beside the tests
    os.environ.pop(name, None)
# The same inputs each time, so that a test fails where it is changed and nowhere else; machines may be slow.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

# `make test` gives whole files to its processes, in this order: none is left alone with a long one.
LONG = ("test_end_to_end.py", "test_faults.py", "test_lost_work.py", "test_workers.py", "test_slurm.py",
        "test_run.py", "test_looks.py", "test_plan.py", "test_train.py", "test_device.py", "test_inpaint.py",
        "test_segment_tables.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of research data, weights and reference numbers beside the checkout; never committed."""
    folder = Path(os.environ.get("DIFFUSEGEN_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip("the shared folder with data, weights and fixtures is not beside the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Files are not forced to the disk here, which takes time and guards against power cuts alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def key_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pages are marked with a key of the tests', and not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(scope="session")
def killable() -> multiprocessing.context.BaseContext:
    """Makes processes that may be killed, forked from one that imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffusegen_core.run",
                                    "sklearn.cluster",
                                    "sklearn.metrics", "torchvision.models", "torchvision.transforms.v2",
                                    "segmentation_models_pytorch", "albumentations", "cleanfid.fid",
                                    "pytorch_msssim"])
    return context


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: sums over threads differ in their last bits
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks run in bf16 where parameters ask for it, emulated where this processor has no such
    instructions."""
    from diffusegen_core.config import devices
    monkeypatch.setattr(devices, "has_bf16", lambda on: True)


@pytest.fixture
def image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The U-Net computes each image of a batch alone: batches and single images then have the same bits.

    Kernels sum in an order that depends on the batch and on the processor. That changes the last bits, and in
    a few pixels the grey level; test_fast.py holds how much.
    """
    from diffusegen_core.diffusion.unet import UNet
    batch = UNet.forward

    def one_by_one(net: UNet, *inputs: torch.Tensor | None) -> torch.Tensor:
        images = len(inputs[0])
        return torch.cat([batch(net, *(None if each is None else each[i:i + 1] for each in inputs))
                          for i in range(images)])

    monkeypatch.setattr(UNet, "forward", one_by_one)


NANO = {
    "profile": "nano",
    "device": "cpu",
    "data": {"count": 10, "image_size": 16, "holdout": None},
    "cluster": {"k": 2, "scan": [2, 3]},
    "model": {"base_channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "attention_resolutions": [],
              "head_channels": 32},
    "train": {"images": 24, "batch_size": 4, "checkpoint_every": 2, "preview_every": 3, "preview_images": 2,
              "preview_steps": 4},
    "inpaint": {"masks": "joint", "guidance_scale": 1.0,
                "samples": 1, "sources": 4, "respacing": 4, "jump_length": 2, "resampling": 2,
                "baselines": None, "batch_size": 3},
    "style": {"respacing": 4, "skip": 1, "batch_size": 3},
    "gan": {"sources": 2, "min_side": 8, "layers": 3, "steps": 3},
    "segment": {"decoder_channels": [8, 8, 8], "epochs": 2, "epoch_images": 4, "batch_size": 4,
                "test_count": 4, "resamples": 200},
    "augment": {"sizes": [4]},
}


@pytest.fixture(scope="session")
def nano_values() -> dict:
    """Plain parameters of the smallest run that goes through everything, without a folder."""
    return copy.deepcopy(NANO)


@pytest.fixture
def nano(tmp_path: Path) -> dict:
    """The same in a folder of the test's own."""
    return {**copy.deepcopy(NANO), "run_dir": str(tmp_path / "run")}


@pytest.fixture
def nano_params(nano: dict) -> params.Params:
    return params.validate(nano)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano_values: dict) -> Path:
    """A checkout of its own, where one stands, whose profile `smoke` is the nano run's."""
    folder = tmp_path / "checkout"
    for name in ("params", "notebooks", "work"):
        (folder / name).mkdir(parents=True)
    (folder / "_config.yml").touch()
    values = {name: value for name, value in nano_values.items() if name != "profile"}
    (folder / "params" / "smoke.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Path:
    """The folder of a nano run, all of which is made. Not to be changed: tests copy it."""
    from diffusegen_core.run import Run
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = Run(params.validate({**nano_values, "run_dir": str(folder)}))
    for chapter in ("evaluate", "segment", "augment"):
        run.make(chapter)
    return folder


@pytest.fixture
def nano_run(finished: Path, tmp_path: Path) -> "Run":
    """Such a run of the test's own."""
    from diffusegen_core.run import Run
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture(scope="session")
def made_up_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with made-up pairs of all data types. Not to be changed: tests copy it."""
    import made_up
    p = made_up.values(tmp_path_factory.mktemp("made_up") / "run")
    made_up.write_all(p)
    return p.folder


@pytest.fixture(scope="session")
def small_made_up_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the run `made_up.SMALL`."""
    import made_up
    p = made_up.values(tmp_path_factory.mktemp("small_made_up") / "run", **made_up.SMALL)
    made_up.write_all(p)
    return p.folder


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> "Networks":
    """Networks that are not trained, in the place of U-Net++."""
    import made_up
    return made_up.forge(monkeypatch)
