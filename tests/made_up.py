"""A run whose synthetic pairs are made up and whose networks are not trained: for chapters 5 to 7."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets, testsets, types
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import DataType
from diffusegen_core.segmentation import segnet, trainsets
from diffusegen_core.segmentation.segnet import Fitted
from diffusegen_core.segmentation.trainsets import Sets, Supply
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.stamps import read_stamp
from diffusegen_core.store.workspace import Workspace

SIZE, REAL, SOURCES, SAMPLES = 16, 26, 24, 3
# Of a small run: two pairs of each of six sources, and no GAN.
SMALL: dict[str, dict] = {"gan": {"source": None}, "inpaint": {"masks": "joint", "samples": 2, "sources": 6},
                          "augment": {"sizes": [4]}}
Pair = tuple[str, str, int]  # name, source, sample
Draw = Callable[[str], tuple[np.ndarray, np.ndarray]]  # by the name of a pair its image and mask


@dataclass
class Networks:
    """Stands in for segnet: keeps the names that each network was given, and finds what is bright."""

    given: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    fails: Callable[[str], bool] = lambda title: False

    def fit(self, train_pairs: dataset.Pairs, valid: dataset.Pairs, s: object, seed: int, folder: Path,
            recipe: Recipe, device: torch.device, title: str) -> Fitted:
        assert title not in self.given, "the same network again"
        if self.fails(title):
            raise UserError("This network was told to fail.")
        self.given[title] = train_pairs.names, valid.names
        history = pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.5], "valid_iou": [0.2, 0.4]})
        return Fitted(seed, history, 2, 1.5)

    @staticmethod
    def save(path: Path, net: int) -> Path:
        return files.write_json(path, net)

    @staticmethod
    def load(path: Path, s: object, device: torch.device) -> int:
        return files.read_json(path)

    @staticmethod
    def predict(net: int, images: np.ndarray, s: object, device: torch.device) -> np.ndarray:
        polyp = (images.mean(axis=1) > 100 + net % 40).astype(np.float32)
        return np.stack([1 - polyp, polyp], axis=1)


def values(folder: Path, **sections: dict) -> Params:
    base = {"run_dir": str(folder), "device": "cpu", "data": {"count": REAL, "image_size": SIZE},
            "cluster": {"k": 2, "scan": [2, 3]},
            "inpaint": {"masks": "joint", "samples": SAMPLES, "sources": SOURCES, "baselines": None},
            "segment": {"decoder_channels": [16, 8, 8], "test_count": 5, "resamples": 200},
            "augment": {"sizes": [4, 10]}}
    return params.validate({**base, **{name: {**base.get(name, {}), **section}
                                       for name, section in sections.items()}})


def of_sources(names: Iterable[str], samples: int = SAMPLES) -> list[Pair]:
    return [(f"{name}_{sample}", name, sample) for sample in range(1, samples + 1) for name in names]


def noise(seed: int) -> Draw:
    """Draws a pair of noise with a square polyp, one after the other."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    mask[0, 4:9, 3:8] = 1
    return lambda name: (rng.integers(0, 256, (3, SIZE, SIZE), np.uint8), mask)


def write_set(ws: Workspace, data_type: DataType, pairs: list[Pair], draw: Draw) -> PairSet:
    """A set of synthetic pairs as chapters 3 and 4 and the GAN leave it."""
    drawn = {name: draw(name) for name, _, _ in pairs}
    content = [[*pair, *map(files.pixel_hash, drawn[pair[0]])] for pair in pairs]
    artifact = ws.artifact(data_type.artifact, {"made up": content})
    if not artifact.made():
        folder = artifact.begin()
        outputs = [file for name, pair in drawn.items() for file in dataset.write_pair(folder, name, *pair)]
        frame = pd.DataFrame(pairs, columns=["name", "source", "sample"])
        outputs += [files.write_text(folder / name, table.to_csv(index=False))
                    for name, table in (("manifest.csv", frame), ("left_out.csv", frame.head(0)))]
        artifact.finish(outputs, 7.0)
    return pairsets.read(artifact, data_type)


def workspace(p: Params, writable: bool = True, again: bool = False) -> Workspace:
    return Workspace(p.folder, p.seed, p.device, writable, again)


def real_pairs(p: Params) -> dataset.Pairs:
    return dataset.load(workspace(p), p.data)


def supply_of(p: Params, pairs: int = 0) -> Supply:
    pairs = pairs or len(p.data.names or range(p.data.count or 0))
    return trainsets.supply(pairs, p.cluster.k, p.train.full_images is not None, p.inpaint, p.gan)


def write_all(p: Params) -> None:
    """Sets of all data types, of all sources."""
    for seed, (data_type, amount) in enumerate(supply_of(p).items()):
        if data_type != types.REAL:
            names = real_pairs(p).names[:amount.sources]
            write_set(workspace(p), data_type, of_sources(names, amount.samples), noise(seed - 1))


def written_set(ws: Workspace, data_type: DataType) -> PairSet:
    """What lies in place of a data type."""
    stamp = read_stamp(ws.folder / data_type.artifact)
    assert stamp is not None, f"{data_type} has not been written"
    return pairsets.read(ws.artifact(data_type.artifact, stamp["recipe"]), data_type)


def sets_of(p: Params) -> Sets:
    """The sets that were written, of all data types."""
    ws, supply = workspace(p, writable=False), supply_of(p)
    return trainsets.collect(real_pairs(p), supply, [written_set(ws, name) for name in supply
                                                     if name != types.REAL])


def loaded_tests(p: Params) -> dict[str, TestSet]:
    pairs = real_pairs(p)
    tests = testsets.load(workspace(p), pairs, p.data, p.segment)
    testsets.refuse_leaks(pairs, p.data, tests)
    return tests


def forge(patch: pytest.MonkeyPatch) -> Networks:
    """Put networks that are not trained in the place of U-Net++."""
    networks = Networks()
    for name in ("fit", "predict", "save", "load"):
        patch.setattr(segnet, name, getattr(networks, name))
    return networks


def changed(p: Params, **sections: dict) -> Params:
    """The same parameters but for these."""
    return p.model_copy(update={name: getattr(p, name).model_copy(update=section)
                                for name, section in sections.items()})
