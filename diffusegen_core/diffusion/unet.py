"""The ADM U-Net (Dhariwal and Nichol 2021): image and mask in, prediction and variance out.

Module names and order are those of the public guided-diffusion code, so released checkpoints load by name.
Every level has residual blocks, attention where configured, and a residual block that halves or doubles the
side; the time embedding scales and shifts the second normalisation of every residual block. Other conditions
are added to that embedding, like the class in ADM's class-conditional models.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusegen_core.config import devices
from diffusegen_core.config.sections import Model
from diffusegen_core.data.planes import RGB_AND_MASK, Planes

GROUPS = 32


@dataclass(frozen=True)
class Conditions:
    """The sizes of the conditions that a network takes besides the timestep; 0 for none."""

    augment: int = 0
    """How many numbers say how a training image was augmented (see `warps`)."""
    labels: int = 0
    """How many labels there are; an image has one of them."""


UNCONDITIONAL = Conditions()
Layer = TypeVar("Layer", bound=nn.Module)


def time_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sinusoids of the original timestep (B,), shape (B, width): cosines first, then sines."""
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=timestep.device) / half)
    angle = timestep.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class ResBlock(nn.Module):
    """Two normalised convolutions with a skip connection; `side` halves ("down") or doubles ("up") images."""

    def __init__(self, channels: int, out_channels: int, embedding: int, dropout: float, side: str = "same"):
        super().__init__()
        self.side = side
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels), nn.SiLU(), nn.Dropout(dropout),
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def _resized(self, x: Tensor) -> Tensor:
        if self.side == "down":
            return F.avg_pool2d(x, 2)
        if self.side == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = convolution(self._resized(activation(norm(x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self._resized(x)) + h


class Attention(nn.Module):
    """Self-attention over all positions; heads are the outer split of qkv, as in the released weights."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Positions before channels: the fused kernels want a head's channels contiguous.
        positions = self.norm(x).flatten(2).transpose(1, 2)
        qkv = F.linear(positions, self.qkv.weight[:, :, 0], self.qkv.bias)
        q, k, v = qkv.view(batch, -1, self.heads, 3, channels // self.heads).transpose(1, 2).unbind(3)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = F.linear(h, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + h.transpose(1, 2).reshape(batch, channels, height, width)


class Block(nn.Sequential):
    """A few layers, called one after the other; residual blocks among them get the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """(B, C + M, S, S) at original timesteps (B,) -> (B, 2 (C + M), S, S), of C channels and M classes.

    The output is the prediction and the variance interpolation. With `checkpointing` the backward pass
    computes every block's activations again, so that memory holds little more than the skip connections (Chen
    et al. 2016); the gradient is the same.
    """

    checkpointing = False

    def __init__(self, model: Model, image_size: int, conditions: Conditions = UNCONDITIONAL,
                 planes: Planes = RGB_AND_MASK):
        super().__init__()
        base = model.base_channels
        embedding = 4 * base
        widths = [base * multiplier for multiplier in model.channel_mult]
        sides = [image_size // 2**level for level in range(len(widths))]
        last = len(widths) - 1

        def residual(channels: int, out_channels: int, side: str = "same") -> ResBlock:
            return ResBlock(channels, out_channels, embedding, model.dropout, side)

        def attention(level: int) -> list[Attention]:
            wanted = sides[level] in model.attention_resolutions
            return [Attention(widths[level], model.head_channels)] if wanted else []

        self.base_channels = base
        self.image_size = image_size
        self.planes = planes
        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(),
                                        nn.Linear(embedding, embedding))

        channels = widths[0]
        skips = [channels]
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(planes.all, channels, 3, padding=1))])
        for level, width in enumerate(widths):
            for _ in range(model.res_blocks):
                self.input_blocks.append(Block(residual(channels, width), *attention(level)))
                channels = width
                skips.append(channels)
            if level != last:
                self.input_blocks.append(Block(residual(channels, channels, "down")))
                skips.append(channels)

        self.middle_block = Block(
            residual(channels, channels), Attention(channels, model.head_channels),
            residual(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(model.res_blocks + 1):
                layers = [residual(channels + skips.pop(), width), *attention(level)]
                if level and block == model.res_blocks:
                    layers.append(residual(width, width, "up"))
                self.output_blocks.append(Block(*layers))
                channels = width
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(),
            _zeroed(nn.Conv2d(channels, 2 * planes.all, 3, padding=1)))
        # Created last, so that all other layers get the same initial weights as without them.
        self.label_emb = nn.Embedding(conditions.labels, embedding) if conditions.labels else None
        self.augment_emb = _zeroed(nn.Linear(conditions.augment, embedding, bias=False)) if (
            conditions.augment) else None

    # embedding = MLP(sinusoids(t)) + L_label + A change (Dhariwal and Nichol 2021; Karras et al. 2022, F.2)
    def embed(self, timestep: Tensor, change: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The embedding (B, 4 * base_channels) of timesteps (B,) and conditions, for every residual block.

        `change` (B, conditions.augment) is how the training images were augmented; None stands for zeros.
        `label` (B,) int is needed where there are labels.
        """
        embedding = self.time_embed(time_embedding(timestep, self.base_channels))
        if self.label_emb is not None:
            embedding = embedding + self.label_emb(label)
        if self.augment_emb is not None and change is not None:
            embedding = embedding + self.augment_emb(change)
        return embedding

    # MLP(h) + L_label = W h + (b + L_label), W and b being the MLP's last layer
    def fold_conditions(self, label: int | None = None) -> "UNet":
        """Make this a network for sampling, which takes timesteps alone, and return it.

        `change` is dropped, as zeros add nothing; the one `label` becomes part of a bias.
        """
        if self.label_emb is not None:
            last = self.time_embed[2]
            assert isinstance(last, nn.Linear)
            last.bias.data = last.bias.data + self.label_emb.weight.data[label]
        self.label_emb = self.augment_emb = None
        return self

    def encode(self, x: Tensor, timestep: Tensor, last: int | None = None) -> list[Tensor]:
        """Features after each input block, up to `last`: what the ZeCon loss compares (paper A.3)."""
        return self._down(x, self.embed(timestep), len(self.input_blocks) if last is None else last + 1)

    def _down(self, x: Tensor, embedding: Tensor, count: int) -> list[Tensor]:
        features = []
        for block in self.input_blocks[:count]:
            x = self._run(block, embedding, x)
            features.append(x)
        return features

    def _run(self, block: nn.Module, embedding: Tensor, *parts: Tensor) -> Tensor:
        def joined(*parts: Tensor) -> Tensor:
            return block(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], embedding)

        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(joined, *parts, use_reentrant=False)
        return joined(*parts)

    def forward(self, x: Tensor, timestep: Tensor, change: Tensor | None = None,
                label: Tensor | None = None) -> Tensor:
        embedding = self.embed(timestep, change, label)
        skips = self._down(x, embedding, len(self.input_blocks))
        x = self._run(self.middle_block, embedding, skips[-1])
        for block in self.output_blocks:
            x = self._run(block, embedding, x, skips.pop())
        return self.out(x)

    def cast_weights(self, precision: str) -> "UNet":
        """Round the weights once, for sampling under `devices.autocast` of this precision, not in every call.

        Returns the network itself. Results are the same bits. Autocast caches its copies only of weights that
        require gradients.
        """
        if devices.in_bf16(next(self.parameters()).device, precision):
            for module in self.modules():
                if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                    module.bfloat16()
        return self

    def compile_blocks(self, backend: str | Callable = "inductor") -> None:
        """Have every block compiled at its first call; names, shapes and values of weights do not change."""
        blocks = [*self.input_blocks, self.middle_block, *self.output_blocks]
        # All blocks share one code object, of which the compiler keeps eight versions by default; beyond that
        # blocks run uncompiled. A block may need four: with and without gradients, in two memory layouts.
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(blocks))
        for block in blocks:
            # Otherwise sizes that differ between two blocks are taken for sizes that change between calls.
            block.compile(backend=backend, dynamic=False)


def parameter_count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Every residual branch starts at zero, so that an untrained block passes on its skip connection alone.
def _zeroed(layer: Layer) -> Layer:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer
