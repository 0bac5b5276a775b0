"""What the figures of a card share: the networks that are measured, and how a call is timed."""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common
import stages
import torch
import ways

from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion.unet import UNet

SMALL = "kvasir_cpu.yaml"  # the profile whose network is tested for correctness
CALLS_OF_A_STEP = 3  # network calls an image takes; a backward pass counts as two
TINY = {"data.image_size": 16, "model.base_channels": 32, "model.channel_mult": [1, 2], "model.res_blocks": 1,
        "model.attention_resolutions": [8], "model.head_channels": 32, "style.backbone": "timm/test_nfnet",
        "style.backbone_size": 32, "style.zecon_blocks": None, "style.respacing": 4, "style.skip": 2,
        "segment.decoder_channels": [8, 8, 8], "train.batch_size": 4, "train.micro_batch": None}


@dataclass(frozen=True)
class Bench:
    """What every stage needs."""

    call: stages.Call
    device: torch.device
    paper: Params
    """The paper's network, at 256 px."""
    small: Params
    """A small network, whose errors tell as much and take a second."""
    one_gpu: Params
    rounds: int
    facts: dict[str, float]
    """`flop`: the machine's bf16 rate; `work`: operations of one call of the paper's network."""

    @property
    def kernels(self) -> bool:
        """Whether the kernels of `fused` run here."""
        return ways.kernels_run(self.device, self.call.record)

    def share(self, images_per_second: float, calls: int) -> float:
        """The share of the bf16 rate that is reached with `calls` calls of the paper's network per image."""
        return round(images_per_second * calls * self.facts["work"] / self.facts["flop"], 4)


def load(profile: str, device: str, tiny: bool, **changes: Any) -> Params:
    """A profile for this device, with random weights behind the losses; tiny for a rehearsal."""
    own = {"device": device, "style.weights": "random", "style.vgg_weights": "random",
           **{name.replace("__", "."): value for name, value in changes.items()}, **(TINY if tiny else {})}
    values = params.load(common.ROOT / "params" / profile)
    return params.validate(params.merged(values, own))


def made(call: stages.Call, device: torch.device, tiny: bool, rounds: int) -> Bench:
    name = str(device)
    paper = load("paper.yaml", name, tiny)
    return Bench(call, device, paper, load(SMALL, name, tiny, style__backbone="mobilenet_v2"),
                 load("one_gpu.yaml", name, tiny), rounds, {"work": common.forward_flop(paper)})


def sampling(base: UNet, layout: str, precision: str) -> UNet:
    """A copy of a network with the same weights, to sample with."""
    return ways.laid_out(copy.deepcopy(base).eval().requires_grad_(False).cast_weights(precision), layout)


def timed(b: Bench, call: Callable[[], object], images: int, warm: Callable[[], object] | None = None,
          rounds: int | None = None) -> dict[str, Any]:
    """Seconds of each call after a warm-up, images a second, and peak memory, weights included."""
    first = common.seconds(warm or call, b.device)
    if b.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(b.device)
    taken = [common.seconds(call, b.device) for _ in range(rounds or b.rounds)]
    found = {"images": images, "first_seconds": first, "seconds": taken,
             "images_per_second": images / statistics.median(taken), "slowest": images / max(taken),
             "fastest": images / min(taken)}
    if b.device.type == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated(b.device) / 1e9, 2)
        found["reserved_gb"] = round(torch.cuda.max_memory_reserved(b.device) / 1e9, 2)
    return found
