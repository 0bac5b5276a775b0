"""The seven losses that guide styling (paper A.3), as functions of what they compare.

Each loss returns one value per image, (B,), which depends on that image alone, so the gradient of their sum
is each image's own. Images are (B, C, H, W) in [-1, 1]. The paper's weights are for mean squared errors, as
in the authors' code, not for the norms that A.3 prints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusegen_core.config.sections import Style

TERMS = ("zecon", "vgg", "mse", "sty", "l2", "sem", "rng")


def weights(settings: Style, step: int) -> dict[str, float]:
    """The losses in use in a guided step, 0 being the first, with their weights."""
    lambdas = {name: getattr(settings, f"lambda_{name}") for name in TERMS}
    if step >= settings.semantic_steps:
        lambdas["sem"] = 0.0
    return {name: weight for name, weight in lambdas.items() if weight > 0}


# sum over layers l of the mean over locations s of -log softmax_j(q_s . k_j / temperature) at j = s (A4)
def zecon_loss(queries: list[Tensor], keys: list[Tensor], temperature: float) -> Tensor:
    """Contrastive content (ZeCon, Yang et al. 2023): a patch resembles itself more than other patches.

    For each layer, features (B, S, C) at the same S locations of the styled image and of its content
    reference. They are normalised here; keys get no gradient; patches are compared only within an image.
    """
    total = torch.zeros((), device=queries[0].device)
    for query, key in zip(queries, keys, strict=True):
        query, key = F.normalize(query, dim=2), F.normalize(key.detach(), dim=2)
        logits = query @ key.transpose(1, 2) / temperature
        total = total - logits.log_softmax(dim=2).diagonal(dim1=1, dim2=2).mean(dim=1)
    return total


# sum over maps of mean (m - m_ref)^2
def vgg_loss(maps: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Content by the maps of VGG-19 after conv1_1 and conv2_1, as in Yang et al. 2023."""
    first, *rest = (mean_square(m - r) for m, r in zip(maps, reference, strict=True))
    return sum(rest, first)


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
    """Semantic divergence: [CLS] should move between adjacent steps, for a quick start (Kwon and Ye 2023)."""
    return -mean_square(cls - previous_cls.detach())


# mean (x - clip(x, -1, 1))^2
def rng_loss(x0: Tensor) -> Tensor:
    """Range: the predicted clean image should stay within [-1, 1] (Kwon and Ye 2023)."""
    return mean_square(x0 - x0.clamp(-1, 1))


def mean_square(x: Tensor) -> Tensor:
    """The mean square over everything but the batch, (B,)."""
    return x.square().flatten(1).mean(dim=1)


def patches(generators: list[torch.Generator], sizes: list[int], most: int) -> list[Tensor]:
    """At most `most` locations of each layer (B, S), drawn for each image from its own generator."""
    return [torch.stack([torch.randperm(size, generator=g, device=g.device)[:most] for g in generators])
            for size in sizes]


def chosen(layers: list[Tensor], places: list[Tensor]) -> list[Tensor]:
    """Features (B, H*W, C) at places (B, S): (B, S, C), layer by layer."""
    return [layer.gather(1, place[:, :, None].expand(-1, -1, layer.shape[2]))
            for layer, place in zip(layers, places, strict=True)]


def limited(x: Tensor, most: Tensor) -> Tensor:
    """Each image of x, scaled down where necessary to an RMS of at most `most` (B,)."""
    return x * (most / rms(x)).clamp(max=1)[:, None, None, None]


def rms(x: Tensor) -> Tensor:
    """The root mean square over everything but the batch, (B,)."""
    return mean_square(x).sqrt()
