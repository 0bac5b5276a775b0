"""A GAN of one labelled image: SinGAN (Shaham, Dekel, Michaeli 2019) of image and mask, as in SinGAN-Seg.

SinGAN-Seg (Thambawita et al. 2022) makes the mask the fourth channel of an RGB image and its noise. A pyramid
of small convolutional networks learns the image's patches, coarse to fine; each scale refines what the
coarser ones made. Instance norms replace SinGAN's batch norms, which are the same with its batches of one
image. SinGAN-Seg's style transfer after sampling is left out.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusegen_core.config.sections import Gan
from diffusegen_core.store import seeds

TURNS = 3  # steps of the critic, followed by as many of the generator
BETAS = (0.5, 0.999)  # of Adam
DECAY = 0.8  # after this share of a scale's steps the learning rate is a tenth
WIDER, TIMES = 4, 2  # the networks' width doubles after every WIDER scales, at most TIMES times


@dataclass(frozen=True)
class Scale:
    """One scale's generator and the standard deviation of the noise that it is given."""

    net: nn.Sequential
    noise: float
    side: int


@dataclass(frozen=True)
class Pyramid:
    """Scales from the coarsest on, and the coarsest noise z* (1, 1, s, s) that gives the image itself."""

    scales: list[Scale]
    fixed: Tensor
    channels: int
    """C + M, of image and mask."""


def sides(size: int, settings: Gan) -> list[int]:
    """The sides of the scales, from `min_side` to `size`; `scale_factor` is raised to fit whole scales."""
    ratio = settings.min_side / size
    finer = math.ceil(math.log(ratio) / math.log(settings.scale_factor) - 1e-9)
    return [round(size * ratio ** (1 - i / finer)) for i in range(finer)] + [size]


def network(channels: int, width: int, outputs: int, layers: int, g: torch.Generator) -> nn.Sequential:
    """`layers` 3x3 convolutions without padding, each shrinking the sides by 2; weights drawn from `g`."""
    blocks: list[nn.Module] = []
    for inputs in [channels] + [width] * (layers - 2):
        blocks += [nn.Conv2d(inputs, width, 3), nn.InstanceNorm2d(width, affine=True), nn.LeakyReLU(0.2)]
    net = nn.Sequential(*blocks, nn.Conv2d(width, outputs, 3)).to(g.device)
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.InstanceNorm2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.InstanceNorm2d)), 0.02, generator=g)
            nn.init.zeros_(layer.bias)
    return net


# x_n = (x_n+1 up) + psi_n(z_n + (x_n+1 up)) (SinGAN, equations 2 and 3)
def refine(net: nn.Sequential, noise: Tensor, coarser: Tensor) -> Tensor:
    """A scale's images (B, C + M, s, s), from its noise and the coarser ones resized to its side."""
    pad = sum(isinstance(layer, nn.Conv2d) for layer in net)
    return coarser + torch.tanh(net(F.pad(noise + coarser, [pad] * 4)))


@torch.no_grad()
def draw(pyramid: Pyramid, start_scale: int, generators: list[torch.Generator]) -> Tensor:
    """Random images (B, C + M, S, S) in about [-1, 1], one per generator, at the finest scale so far.

    Scales coarser than `start_scale` reconstruct the image; the others draw noise, so 0 gives the most varied
    images, and the number of scales gives the image itself as the pyramid has learnt it.
    """
    images = pyramid.fixed.new_zeros(len(generators), pyramid.channels, *pyramid.fixed.shape[-2:])
    for n, scale in enumerate(pyramid.scales):
        images = resized(images, scale.side)
        if n >= start_scale:
            # The coarsest noise is the same in all channels.
            noise = scale.noise * seeds.normal_like(generators, images if n else images[:, :1])
        else:
            noise = torch.zeros_like(images) if n else scale.noise * pyramid.fixed
        images = refine(scale.net, noise.expand_as(images), images)
    return images


def resized(images: Tensor, side: int) -> Tensor:
    """The images (B, C, side, side), bicubic; a smaller side is antialiased."""
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True)


def fit(image: Tensor, settings: Gan, seed: int, device: torch.device,
        tick: Callable[[int], object] | None = None) -> Pyramid:
    """Train a pyramid on one image (C + M, S, S) in [-1, 1], scale by scale, reproducibly by the seed."""
    g, image = seeds.generator(seed, "singan", device=device), image[None].to(device)
    wanted = sides(image.shape[-1], settings)
    channels = image.shape[1]
    pyramid = Pyramid([], torch.randn(1, 1, wanted[0], wanted[0], generator=g, device=device), channels)
    nets: list[nn.Sequential] = []
    for n, side in enumerate(wanted):
        real = resized(image, side).clamp(-1, 1)
        learnt = resized(draw(pyramid, n, [g]), side)
        noise = settings.noise * float(F.mse_loss(learnt, real).sqrt()) if n else 1.0
        width = settings.channels * 2 ** min(n // WIDER, TIMES)
        if nets and nets[0][0].out_channels == width:
            nets = copy.deepcopy(nets)  # a scale starts from what the one before has learnt
        else:
            nets = [network(channels, width, outputs, settings.layers, g) for outputs in (channels, 1)]
        train(pyramid, nets[0], nets[1], real, learnt, noise, settings, g, tick)
        pyramid.scales.append(Scale(nets[0], noise, side))
    return pyramid


def train(pyramid: Pyramid, net: nn.Sequential, critic: nn.Sequential, real: Tensor, learnt: Tensor,
          noise: float, settings: Gan, g: torch.Generator, tick: Callable[[int], object] | None) -> None:
    """Train one scale's networks, given the coarser ones and their reconstruction `learnt` (equation 4)."""
    optimizers = [torch.optim.Adam(n.parameters(), settings.lr, BETAS, fused=True) for n in (critic, net)]
    fixed = torch.zeros_like(real) if pyramid.scales else pyramid.fixed.expand_as(real)
    for first in range(0, settings.steps, TURNS):
        turns = min(TURNS, settings.steps - first)
        coarser = resized(draw(pyramid, 0, [g] * 2 * turns), real.shape[-1])
        z = noise * seeds.normal_like([g] * 2 * turns, coarser if pyramid.scales else coarser[:, :1])
        inputs = [(z[i:i + 1].expand_as(real), coarser[i:i + 1]) for i in range(2 * turns)]
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = settings.lr * (0.1 if first >= DECAY * settings.steps else 1)
        for given in inputs[:turns]:
            with torch.no_grad():
                fake = refine(net, *given)
            _step(optimizers[0], critic_loss(critic, real, fake, settings.gradient_penalty, g))
        for given in inputs[turns:]:
            made = refine(net, *(torch.cat(pair) for pair in zip(given, (fixed, learnt), strict=True)))
            _step(optimizers[1], settings.reconstruction * F.mse_loss(made[1:], real)
                  - critic(made[:1]).mean())
        if tick:
            tick(turns)


# D(fake) - D(real) + lambda (|grad D(mix)| - 1)^2 (WGAN-GP, Gulrajani et al. 2017, equation 3)
def critic_loss(critic: nn.Sequential, real: Tensor, fake: Tensor, weight: float,
                g: torch.Generator) -> Tensor:
    """The critic's loss for a real and a fake image, each (1, C + M, s, s).

    As in SinGAN's code, the gradient's norm is taken pixel by pixel, over the channels.
    """
    share = torch.rand(1, generator=g, device=real.device)
    mix = (share * real + (1 - share) * fake).requires_grad_()
    scores = critic(torch.cat([real, fake, mix]))
    slope, = torch.autograd.grad(scores[2].sum(), mix, create_graph=True)
    return scores[1].mean() - scores[0].mean() + weight * (slope.norm(dim=1) - 1).square().mean()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()
