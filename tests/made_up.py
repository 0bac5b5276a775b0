"""A run whose synthetic pairs are written by hand and whose networks are not trained: for chapters 6, 7."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel

from diffusegen_core.chapters import gan, inpaint, style, train
from diffusegen_core.chapters.gan import Made
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.style import Styled
from diffusegen_core.chapters.train import Model, Trained
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.segmentation import segnet, trainsets
from diffusegen_core.segmentation.segnet import Fit
from diffusegen_core.store import runs

SIZE, REAL, SOURCES, SAMPLES = 16, 26, 24, 3
Pair = tuple[str, str, int]  # name, source, sample


@dataclass
class Networks:
    """Stands in for segnet: keeps the names that each network was given, and finds what is bright."""

    given: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    fails: Callable[[str], bool] = lambda title: False

    def fit(self, train_pairs: dataset.Pairs, valid: dataset.Pairs, s: object, seed: int, folder: Path,
            recipe: runs.Recipe, device: torch.device, title: str) -> Fit:
        assert title not in self.given, "the same network again"
        if self.fails(title):
            raise UserError("This network was told to fail.")
        self.given[title] = train_pairs.names, valid.names
        return Fit(seed, pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.5], "valid_iou": [0.2, 0.4]}), 2, 1.5)

    @staticmethod
    def save(path: Path, net: int) -> Path:
        return runs.write_json(path, net)

    @staticmethod
    def load(path: Path, s: object, device: torch.device) -> int:
        return runs.read_json(path)

    @staticmethod
    def predict(net: int, images: np.ndarray, s: object, device: torch.device) -> np.ndarray:
        polyp = (images.mean(axis=1) > 100 + net % 40).astype(np.float32)
        return np.stack([1 - polyp, polyp], axis=1)


def values(folder: Path, **sections: dict) -> Params:
    base = {"run_dir": str(folder), "device": "cpu", "data": {"count": REAL, "image_size": SIZE},
            "cluster": {"k": 2, "scan": [2, 3]}, "inpaint": {"samples": SAMPLES, "sources": SOURCES},
            "segment": {"decoder_channels": [16, 8, 8], "test_count": 5, "resamples": 200},
            "augment": {"sizes": [4, 10]}}
    return params.validate({**base, **{name: {**base.get(name, {}), **section}
                                       for name, section in sections.items()}})


def of_sources(names: Iterable[str], samples: int = SAMPLES) -> list[Pair]:
    return [(f"{name}_{sample}", name, sample) for sample in range(1, samples + 1) for name in names]


def write_set(folder: Path, pairs: list[Pair], seed: int = 0) -> None:
    """A dataset folder as chapters 3 and 4 and the GAN leave it."""
    runs.clear(folder)
    rng = np.random.default_rng(seed)
    files = []
    for name, _, _ in pairs:
        mask = np.zeros((1, SIZE, SIZE), np.uint8)
        mask[0, 4:9, 3:8] = 1
        files += dataset.write_pair(folder, name, rng.integers(0, 256, (3, SIZE, SIZE), np.uint8), mask)
    frame = pd.DataFrame(pairs, columns=["name", "source", "sample"])
    files += [runs.write_text(folder / name, table.to_csv(index=False))
              for name, table in (("manifest.csv", frame), ("left_out.csv", frame.head(0)))]
    runs.finish(folder, {}, files, 7.0)


def write_all(p: Params) -> None:
    for seed, folder in enumerate(trainsets.types(p).values()):
        write_set(folder, of_sources(dataset.load(p).names[:trainsets.sources(p)], p.inpaint.samples), seed)


def forge(patch: pytest.MonkeyPatch) -> Networks:
    """Put what is on the disk in place of what chapters 2 to 4 and the GAN would make; no training."""
    networks = Networks()
    for name in ("fit", "predict", "save", "load"):
        patch.setattr(segnet, name, getattr(networks, name))

    def folders(p: Params, chapter: str) -> dict[str, Path]:
        found = {name: folder for name, folder in trainsets.types(p).items() if folder.parent.name == chapter}
        for folder in found.values():
            runs.current(folder, {})  # as chapters do, so that `only_finished` stops here where nothing is
        return found

    def inpainted(p: Params) -> Inpainted:
        found = folders(p, "inpaint")
        return Inpainted(found, {name: pairsets.manifest(folder) for name, folder in found.items()}, 7.0)

    def styled(p: Params) -> Styled:
        found = folders(p, "style")
        return Styled(found, {}, {name: pairsets.manifest(folder) for name, folder in found.items()}, {}, {},
                      "", "", 7.0)

    def singan(p: Params) -> Made | None:
        found = folders(p, "gan")
        if not found:
            return None
        folder = found[gan.GAN]
        return Made(found, pairsets.manifest(folder), pairsets.left_out(folder), "", p.gan.source == "singan",
                    7.0)

    def trained(p: Params) -> Trained:
        models = [Model(f"cluster-{k:02d}", 1, 1, 1, 0.5, 100.0, 1, Path()) for k in range(p.cluster.k)]
        full = Model("full", 1, 1, 1, 0.5, 300.0, 1, Path()) if p.train.full_images else None
        base = Model("base", 1, 1, 1, 0.5, 50.0, 1, Path()) if p.train.base_images else None
        return Trained(models, full, base)

    for module, stand_in in ((inpaint, inpainted), (style, styled), (gan, singan), (train, trained)):
        patch.setattr(module, "run", stand_in)
    return networks


def changed(p: Params, **sections: dict) -> Params:
    """The same parameters but for these."""
    return p.model_copy(update={name: getattr(p, name).model_copy(update=section)
                                for name, section in sections.items()})


def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key there is."""
    found = []
    for name, info in section.model_fields.items():
        nested = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        found += keys(info.annotation, f"{name}.") if nested else [prefix + name]
    return found
