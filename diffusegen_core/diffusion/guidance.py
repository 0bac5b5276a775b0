"""The losses that guide styling, their sum and the shift that it makes (paper A.3).

Each loss gives a value for every image (B,), and no image's value depends on another's: the gradient of their
sum is each image's own. Images are (B, C, H, W) in [-1, 1]. The paper's weights go with mean squared errors,
as in the authors' code, not with the norms that A.3 prints.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import FULL_SIZE, Model, Style
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import features, vgg

TERMS = ("zecon", "vgg", "mse", "sty", "l2", "sem", "rng")


# sum over layers l of the mean over locations s of -log softmax_j(q_s . k_j / temperature) at j = s (A4)
def zecon_loss(queries: list[Tensor], keys: list[Tensor], temperature: float) -> Tensor:
    """Contrastive content (ZeCon, Yang et al. 2023): a patch resembles itself more than other patches.

    Features (B, S, C) of the same S locations of the styled image and of its content reference, each layer.
    They are normalised here; keys get no gradient; an image's patches are compared with its own alone.
    """
    total = torch.zeros((), device=queries[0].device)
    for query, key in zip(queries, keys, strict=True):
        query, key = F.normalize(query, dim=2), F.normalize(key.detach(), dim=2)
        logits = query @ key.transpose(1, 2) / temperature
        total = total - logits.log_softmax(dim=2).diagonal(dim1=1, dim2=2).mean(dim=1)
    return total


# sum over maps of mean (m - m_ref)^2
def vgg_loss(maps: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Content by the maps of VGG-19 after conv1_1 and conv2_1, as Yang et al. 2023."""
    return sum(mean_square(m - r) for m, r in zip(maps, reference, strict=True))


# mean (x - x_ref)^2
def mse_loss(x: Tensor, reference: Tensor) -> Tensor:
    """Content by pixels: closeness to the inpainted image (Yang et al. 2023; weighted in paper B.5)."""
    return mean_square(x - reference)


# mean (e(x) - e(x_src))^2 (A5)
def sty_loss(cls: Tensor, source_cls: Tensor) -> Tensor:
    """Semantic style: closeness of [CLS], (B, D), to the real source's (Kwon and Ye 2023)."""
    return mean_square(cls - source_cls)


# mean (x - x_src)^2
def l2_loss(x: Tensor, source: Tensor) -> Tensor:
    """Style by pixels: closeness to the real source image (Kwon and Ye 2023)."""
    return mean_square(x - source)


# -mean (e(x) - e(x of the step before))^2 (A6)
def sem_loss(cls: Tensor, previous_cls: Tensor) -> Tensor:
    """Semantic divergence: [CLS] is to move between adjacent steps, for a quick start (Kwon and Ye 2023)."""
    return -mean_square(cls - previous_cls.detach())


# mean (x - clip(x, -1, 1))^2
def rng_loss(x0: Tensor) -> Tensor:
    """Range: the predicted clean image is to stay within [-1, 1] (Kwon and Ye 2023)."""
    return mean_square(x0 - x0.clamp(-1, 1))


def mean_square(x: Tensor) -> Tensor:
    """The mean square over everything but the batch, (B,)."""
    return x.square().flatten(1).mean(dim=1)


# Frozen, so one of each serves all batches of a process.
_cls_net = lru_cache(maxsize=1)(features.load_cls)
_vgg_net = lru_cache(maxsize=1)(vgg.load)


@dataclass(frozen=True)
class Judge:
    """What the losses look through: networks that are frozen, differentiable and in eval mode."""

    net: UNet  # the model that styles
    cls_net: nn.Module
    vgg_net: nn.Module | None  # None where its loss has no weight
    settings: Style
    blocks: list[int]  # of the encoder, for ZeCon

    def cls(self, x: Tensor) -> Tensor:
        """[CLS], or what stands in for it, of colours (B, 3, H, W): (B, D), full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return self.cls_net(x * 127.5 + 127.5).flatten(1)

    def maps(self, x: Tensor) -> list[Tensor]:
        """VGG's maps of colours (B, 3, H, W), full precision."""
        with torch.autocast(x.device.type, enabled=False):
            return self.vgg_net(x)

    def encoded(self, x: Tensor) -> list[Tensor]:
        """The model's own features of images (B, 4, H, W) at timestep 0, each (B, H*W, C)."""
        found = self.net.encode(x, torch.zeros(len(x), device=x.device), last=max(self.blocks))
        return [found[block].float().flatten(2).transpose(1, 2) for block in self.blocks]


def load(p: Params, net: UNet, device: torch.device) -> Judge:
    """The networks of a run's parameters, around the model that styles."""
    s = p.style
    cls_net = _cls_net(s.backbone, s.weights, s.input_range, device, p.seed, s.backbone_size)
    vgg_net = _vgg_net(s.vgg, s.vgg_weights, device, p.seed) if s.lambda_vgg else None
    return Judge(net, cls_net, vgg_net, s, s.zecon_blocks or default_blocks(p.model))


def default_blocks(model: Model) -> list[int]:
    """The stem, and the last block of each of the first four levels: 0 2 5 8 11 in the paper's network."""
    each = model.res_blocks + 1
    return [0] + [level * each + model.res_blocks for level in range(min(4, len(model.channel_mult)))]


@dataclass(frozen=True)
class Targets:
    """What a batch is guided towards; the source's [CLS] is computed once."""

    inpainted: Tensor  # (B, 4, H, W)
    source: Tensor  # (B, 3, H, W)
    source_cls: Tensor  # (B, D)


def weights(settings: Style, step: int) -> dict[str, float]:
    """The losses that count in a step, 0 for the first, with their weights."""
    found = {name: getattr(settings, f"lambda_{name}") for name in TERMS}
    if step >= settings.semantic_steps:
        found["sem"] = 0.0
    return {name: weight for name, weight in found.items() if weight > 0}


def values(judge: Judge, targets: Targets, wanted: dict[str, float], x0: Tensor, x: Tensor, reference: Tensor,
           cls: Tensor, previous_cls: Tensor, generators: list[torch.Generator]) -> dict[str, Tensor]:
    """The wanted losses, each (B,): of the clean image x0, and of its mix x, whose content is `reference`'s.

    All three are (B, 4, H, W); `cls` is of x. The mask channel counts for the encoder and the range alone.
    """
    def zecon() -> Tensor:
        queries, keys = judge.encoded(x), judge.encoded(reference)
        places = patches(generators, [key.shape[1] for key in keys], judge.settings.zecon_patches)
        return zecon_loss(chosen(queries, places), chosen(keys, places), judge.settings.temperature)

    colours, wanted_colours = x[:, :3], reference[:, :3]
    compute = {
        "zecon": zecon,
        "vgg": lambda: vgg_loss(judge.maps(colours), judge.maps(wanted_colours)),
        "mse": lambda: mse_loss(colours, wanted_colours),
        "sty": lambda: sty_loss(cls, targets.source_cls),
        "l2": lambda: l2_loss(colours, targets.source),
        "sem": lambda: sem_loss(cls, previous_cls),
        "rng": lambda: rng_loss(x0),
    }
    return {name: compute[name]() for name in wanted}


def total(found: dict[str, Tensor], wanted: dict[str, float]) -> Tensor:
    """The weighted sum, (B,)."""
    return sum(weight * found[name] for name, weight in wanted.items())


def pulls(found: dict[str, Tensor], wanted: dict[str, float], x0: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The gradient of each weighted loss with respect to what it looks at: x, or x0 for the range.

    The gradient of a mean over pixels grows as the image shrinks; it is brought to 256 px, for which the
    weights are given.
    """
    scale = (x.shape[-1] / FULL_SIZE) ** 2
    return {name: scale * torch.autograd.grad(weight * found[name].sum(), x0 if name == "rng" else x,
                                              retain_graph=True)[0] for name, weight in wanted.items()}


def patches(generators: list[torch.Generator], sizes: list[int], most: int) -> list[Tensor]:
    """At most `most` locations of each layer (B, S), drawn for each image from its own generator."""
    return [torch.stack([torch.randperm(size, generator=g, device=g.device)[:most] for g in generators])
            for size in sizes]


def chosen(layers: list[Tensor], places: list[Tensor]) -> list[Tensor]:
    """Features (B, H*W, C) at places (B, S): (B, S, C), layer by layer."""
    return [layer.gather(1, place[:, :, None].expand(-1, -1, layer.shape[2]))
            for layer, place in zip(layers, places, strict=True)]


def limited(x: Tensor, most: Tensor) -> Tensor:
    """Each image of x scaled down, where it must be, to an RMS of at most `most` (B,)."""
    return x * (most / rms(x)).clamp(max=1)[:, None, None, None]


def rms(x: Tensor) -> Tensor:
    """The root mean square over everything but the batch, (B,)."""
    return mean_square(x).sqrt()
