"""What the stages of a real run share: its parameters, its folders, its pairs and its model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import stages
import torch
import ways

from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import FULL
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.training import Training

VALUES: dict[str, Any] = {
    "profile": "card", "device": "auto", "seed": 0,
    # The run holds no pairs out: the benchmark has a split of its own.
    "data": {"subset": "all", "count": None, "holdout": None, "image_size": 128},
    "cluster": {"k": 1},
    "model": {"base_channels": 96, "channel_mult": [1, 1, 2, 2, 2], "res_blocks": 1,
              "attention_resolutions": [16, 8], "head_channels": 32},
    "process": {"objective": "v", "variance": "posterior"},
    "train": {"batch_size": 16, "lr": 4e-4, "ema": 0.9995, "grad_clip": 1.0, "precision": "bf16"},
    "inpaint": {"samples": 3, "sources": None, "respacing": 25, "jump_length": 5, "resampling": 1,
                "batch_size": 87, "precision": "bf16"},
    "evaluate": {"backbone": "mobilenet_v2", "input_range": "symmetric", "batch_size": 64, "workers": 8},
    "segment": {"encoder": "mobilenet_v2", "input_range": "symmetric", "decoder_channels": [128, 64, 32, 16],
                "epochs": 60, "epoch_images": 64, "lr": 1e-3, "lr_epochs": 40, "lr_after": 1e-4,
                "precision": "bf16", "checkpoint_every": 10000},
    "augment": {"sizes": [16, 32, 64, 128], "ratios": [3], "alpha": 0.5, "rule": "replace"},
}
TINY: dict[str, dict[str, Any]] = {
    "data": {"image_size": 32},
    "model": {"base_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [16]},
    "train": {"batch_size": 4},
    "inpaint": {"samples": 3, "sources": 6, "respacing": 4, "jump_length": 2, "batch_size": 6},
    "evaluate": {"backbone": "timm/test_nfnet", "weights": "random", "workers": 0},
    "segment": {"encoder": "tu-test_resnet", "weights": "random", "decoder_channels": [8, 8, 8], "epochs": 1,
                "epoch_images": 8, "lr_epochs": 1},
    "augment": {"sizes": [5]},
}
OTHERS = "others.tar"  # samples and chapter 3's pairs in one file, since few files may come back
VARIED, OWN, JOINED, PASTED = "Paint-varied", "Paint-own", "1-Diff", "Paste"


@dataclass
class Work:
    """What the stages share."""

    call: stages.Call
    device: torch.device
    p: Params
    home: Path
    folder: Path
    out: Path
    tiny: bool
    train: Pairs | None = None
    test: Pairs | None = None
    watch: Pairs | None = None
    diffusion: Diffusion | None = None
    """The averaged weights, to sample with."""
    sets: dict[str, "Made"] = field(default_factory=dict)

    @property
    def kernels(self) -> bool:
        """Whether the kernels of `fused` run here."""
        return ways.kernels_run(self.device, self.call.record)

    @property
    def training(self) -> Training:
        return Training(FULL, self.p.model, self.p.process, self.p.train, self.p.data.image_size, self.p.seed)

    @property
    def sources(self) -> int:
        return min(len(self.train), self.p.inpaint.sources or len(self.train))


@dataclass(frozen=True)
class Made:
    """Pairs of one data type; all arrays have the pair first."""

    images: np.ndarray
    """(N, 3, S, S) uint8."""
    masks: np.ndarray
    """(N, S, S) in {0, 1}."""
    regions: np.ndarray
    """(N, S, S), 1 where something was painted."""
    sources: np.ndarray
    """(N,) int, indices into the training pairs."""
    samples: np.ndarray
    """(N,) int, from 1."""
    donors: np.ndarray
    """(N,) int, index of the training pair whose mask it is; -1: the mask was made too."""


def parameters(home: Path, folder: Path, device: torch.device, tiny: bool) -> Params:
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in VALUES.items()}
    weights = str(home / "weights" / "mobilenet_v2_imagenet.pth")
    values["evaluate"]["weights"] = values["segment"]["weights"] = weights
    for name, part in TINY.items() if tiny else ():
        values[name] |= part
    if tiny and device.type == "cpu":  # where bf16 is slow at this size
        for name in ("train", "inpaint", "segment"):
            values[name]["precision"] = "fp32"
    values["data"]["source"] = str(home / "kvasir")
    return params.validate({**values, "device": str(device), "run_dir": str(folder / "run")})


def without_paths(p: Params) -> dict[str, Any]:
    """The parameters, with paths left out or reduced to their names."""
    values = params.plain(p)
    values["run_dir"], values["data"]["source"] = None, "kvasir"
    for part in ("evaluate", "segment"):
        values[part]["weights"] = Path(values[part]["weights"]).name
    return values
