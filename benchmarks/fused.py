"""A candidate for a GPU: group norm, scale-shift and SiLU in few passes.

Most of a step at batch 1 is waiting for memory: under autocast a norm reads and writes fp32 images several
times, and leaves channels_last. Here an image is read once for its moments and once more to write the result,
in bf16 and channels_last, computed in fp32; the backward pass takes as few passes. Only these Triton kernels
have to be compiled, in seconds, where compiling a network takes minutes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from diffusegen_core.diffusion.unet import Attention, ResBlock, UNet

ROWS, COLS = 32, 64  # a tile: pixels by channels
CHUNKS = 64  # of an image's pixels, at most, that are summed in parallel


@triton.jit
def _tile(pointer, image, rows, cols, pixels, channels):
    """Addresses and mask of a tile of one image, (ROWS, COLS), in (B, pixels, channels)."""
    at = (image.to(tl.int64) * pixels + rows[:, None]) * channels + cols[None, :]
    return pointer + at, (rows < pixels)[:, None] & (cols < channels)[None, :]


@triton.jit
def _sigmoid(z):
    return 1 / (1 + tl.exp(-z))


@triton.jit
def _slope(z, grad, silu: tl.constexpr):
    """The gradient with respect to z, of SiLU(z) or of z itself."""
    if silu:
        s = _sigmoid(z)
        grad = grad * s * (1 + z * (1 - s))
    return grad


@triton.jit
def _sums_kernel(x, grad, factor, term, out, pixels, channels, each: tl.constexpr,
                 backward: tl.constexpr, silu: tl.constexpr, rows_tile: tl.constexpr,
                 cols_tile: tl.constexpr):
    """Sums over a chunk of pixels, by channel, out (B, n, 2, C): of x and x^2; backward, of dz and dz x."""
    chunk, image = tl.program_id(0), tl.program_id(2)
    cols = tl.program_id(1) * cols_tile + tl.arange(0, cols_tile)
    there = cols < channels
    first, second = tl.zeros([cols_tile], tl.float32), tl.zeros([cols_tile], tl.float32)
    if backward:
        a = tl.load(factor + image * channels + cols, mask=there, other=0.0)
        b = tl.load(term + image * channels + cols, mask=there, other=0.0)
    for start in range(0, each, rows_tile):
        rows = chunk * each + start + tl.arange(0, rows_tile)
        at, mask = _tile(x, image, rows, cols, pixels, channels)
        value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        if backward:
            at, mask = _tile(grad, image, rows, cols, pixels, channels)
            g = tl.load(at, mask=mask, other=0.0).to(tl.float32)
            dz = _slope(value * a[None, :] + b[None, :], g, silu)
            first += tl.sum(dz, axis=0)
            second += tl.sum(dz * value, axis=0)
        else:
            first += tl.sum(value, axis=0)
            second += tl.sum(value * value, axis=0)
    place = out + (image * tl.num_programs(0) + chunk) * 2 * channels + cols
    tl.store(place, first, mask=there)
    tl.store(place + channels, second, mask=there)


@triton.jit
def _summed(sums, image, chunks, channels, cols, there, most: tl.constexpr):
    """Both sums over all chunks, for each channel of a group."""
    rows = tl.arange(0, most)
    at = sums + (image * chunks + rows)[:, None] * 2 * channels + cols[None, :]
    mask = (rows < chunks)[:, None] & there[None, :]
    return (tl.sum(tl.load(at, mask=mask, other=0.0), axis=0),
            tl.sum(tl.load(at + channels, mask=mask, other=0.0), axis=0))


@triton.jit
def _fold_kernel(sums, weight, bias, scale, shift, factor, term, moments, chunks, pixels, channels, width,
                 eps, modulated: tl.constexpr, most: tl.constexpr, width_tile: tl.constexpr):
    """From the sums: factor and term (B, C), z = factor x + term; moments (B, G, 2): mean, 1 / deviation."""
    group, image = tl.program_id(0), tl.program_id(1)
    places = tl.arange(0, width_tile)
    cols, there = group * width + places, places < width
    first, second = _summed(sums, image, chunks, channels, cols, there, most)
    count = pixels * width
    mean = tl.sum(first) / count
    inverse = 1 / tl.sqrt(tl.maximum(tl.sum(second) / count - mean * mean, 0.0) + eps)
    gamma = tl.load(weight + cols, mask=there, other=0.0).to(tl.float32)
    beta = tl.load(bias + cols, mask=there, other=0.0).to(tl.float32)
    a, b = inverse * gamma, beta - mean * inverse * gamma
    if modulated:
        s = 1 + tl.load(scale + image * channels + cols, mask=there, other=0.0).to(tl.float32)
        a, b = a * s, b * s + tl.load(shift + image * channels + cols, mask=there, other=0.0).to(tl.float32)
    tl.store(factor + image * channels + cols, a, mask=there)
    tl.store(term + image * channels + cols, b, mask=there)
    tl.store(moments + (image * tl.num_programs(0) + group) * 2, mean)
    tl.store(moments + (image * tl.num_programs(0) + group) * 2 + 1, inverse)


# dx = factor dz + p x + q, with p = -r^2 m2, q = -r m1 + r^2 m2 mean, r = 1 / deviation, and m1, m2 the
# group's means of gamma' dz and of gamma' dz (x - mean) r, where gamma' = gamma (1 + scale)
@triton.jit
def _unfold_kernel(sums, weight, bias, scale, moments, slopes, grads, chunks, pixels, channels, width,
                   modulated: tl.constexpr, most: tl.constexpr, width_tile: tl.constexpr):
    """p and q of each channel, slopes (B, 2, C); the gradients of weight, bias, scale, shift, (B, 4, C)."""
    group, image = tl.program_id(0), tl.program_id(1)
    places = tl.arange(0, width_tile)
    cols, there = group * width + places, places < width
    first, second = _summed(sums, image, chunks, channels, cols, there, most)
    mean = tl.load(moments + (image * tl.num_programs(0) + group) * 2)
    inverse = tl.load(moments + (image * tl.num_programs(0) + group) * 2 + 1)
    gamma = tl.load(weight + cols, mask=there, other=0.0).to(tl.float32)
    beta = tl.load(bias + cols, mask=there, other=0.0).to(tl.float32)
    own, along = gamma, inverse * (second - mean * first)
    if modulated:
        s = 1 + tl.load(scale + image * channels + cols, mask=there, other=0.0).to(tl.float32)
        own = gamma * s
    count = pixels * width
    m1, m2 = tl.sum(own * first) / count, tl.sum(own * along) / count
    p = -inverse * inverse * m2
    at = slopes + image * 2 * channels + cols
    tl.store(at, tl.zeros([width_tile], tl.float32) + p, mask=there)
    tl.store(at + channels, tl.zeros([width_tile], tl.float32) - inverse * m1 - p * mean, mask=there)
    at = grads + image * 4 * channels + cols
    if modulated:
        tl.store(at, s * along, mask=there)
        tl.store(at + channels, s * first, mask=there)
    else:
        tl.store(at, along, mask=there)
        tl.store(at + channels, first, mask=there)
    tl.store(at + 2 * channels, gamma * along + beta * first, mask=there)
    tl.store(at + 3 * channels, first, mask=there)


@triton.jit
def _apply_kernel(x, grad, factor, term, slopes, out, pixels, channels, backward: tl.constexpr,
                  silu: tl.constexpr, rows_tile: tl.constexpr, cols_tile: tl.constexpr):
    """SiLU(factor x + term); backward dx."""
    image = tl.program_id(2)
    rows = tl.program_id(0) * rows_tile + tl.arange(0, rows_tile)
    cols = tl.program_id(1) * cols_tile + tl.arange(0, cols_tile)
    there = cols < channels
    a = tl.load(factor + image * channels + cols, mask=there, other=0.0)
    b = tl.load(term + image * channels + cols, mask=there, other=0.0)
    at, mask = _tile(x, image, rows, cols, pixels, channels)
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    z = value * a[None, :] + b[None, :]
    if backward:
        at, mask = _tile(grad, image, rows, cols, pixels, channels)
        g = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        p = tl.load(slopes + image * 2 * channels + cols, mask=there, other=0.0)
        q = tl.load(slopes + image * 2 * channels + channels + cols, mask=there, other=0.0)
        result = a[None, :] * _slope(z, g, silu) + p[None, :] * value + q[None, :]
    elif silu:
        result = z * _sigmoid(z)
    else:
        result = z
    at, mask = _tile(out, image, rows, cols, pixels, channels)
    tl.store(at, result.to(out.dtype.element_ty), mask=mask)


class _Norm(torch.autograd.Function):
    """Group norm of x (B, C, H, W) in channels_last, modulated if `scale` (B, C) is given, then SiLU."""

    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, groups, eps, silu, dtype):
        shape = _Shape(x, groups)
        factor, term = (x.new_empty(shape.images, shape.channels, dtype=torch.float32) for _ in range(2))
        moments = x.new_empty(shape.images, groups, 2, dtype=torch.float32)
        modulated = scale is not None
        scale, shift = (scale.contiguous(), shift.contiguous()) if modulated else (weight, weight)
        sums = shape.sums(x, x, factor, term, False, silu)
        _fold_kernel[groups, shape.images](
            sums, weight, bias, scale, shift, factor, term, moments, shape.chunks, shape.pixels,
            shape.channels, shape.width, eps, modulated, shape.most, shape.width_tile)
        out = torch.empty_like(x, dtype=dtype, memory_format=torch.channels_last)
        shape.apply(x, x, factor, term, factor, out, False, silu)
        ctx.save_for_backward(x, weight, bias, scale, factor, term, moments)
        ctx.shape, ctx.modulated, ctx.silu = shape, modulated, silu
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, scale, factor, term, moments = ctx.saved_tensors
        shape, groups = ctx.shape, moments.shape[1]
        grad = grad.contiguous(memory_format=torch.channels_last)
        sums = shape.sums(x, grad, factor, term, True, ctx.silu)
        slopes = x.new_empty(shape.images, 2, shape.channels, dtype=torch.float32)
        grads = x.new_empty(shape.images, 4, shape.channels, dtype=torch.float32)
        _unfold_kernel[groups, shape.images](
            sums, weight, bias, scale, moments, slopes, grads, shape.chunks, shape.pixels, shape.channels,
            shape.width, ctx.modulated, shape.most, shape.width_tile)
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        shape.apply(x, grad, factor, term, slopes, dx, True, ctx.silu)
        own = grads[:, :2].sum(0) if ctx.needs_input_grad[1] else (None, None)
        tuned = [g.to(scale.dtype) for g in (grads[:, 2], grads[:, 3])] if ctx.modulated else [None, None]
        return dx, *own, *tuned, None, None, None, None


class _Shape:
    """How the work on images (B, C, H, W) is divided among programs."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.images, self.channels, height, width = x.shape
        self.pixels, self.width = height * width, self.channels // groups
        tiles = triton.cdiv(self.pixels, ROWS)
        self.chunks = min(CHUNKS, tiles)
        self.each = ROWS * triton.cdiv(tiles, self.chunks)
        self.most, self.width_tile = triton.next_power_of_2(self.chunks), triton.next_power_of_2(self.width)
        self.blocks = triton.cdiv(self.channels, COLS)

    def sums(self, x: Tensor, grad: Tensor, factor: Tensor, term: Tensor, backward: bool,
             silu: bool) -> Tensor:
        out = x.new_empty(self.images, self.chunks, 2, self.channels, dtype=torch.float32)
        _sums_kernel[self.chunks, self.blocks, self.images](
            x, grad, factor, term, out, self.pixels, self.channels, self.each, backward, silu, ROWS, COLS)
        return out

    def apply(self, x: Tensor, grad: Tensor, factor: Tensor, term: Tensor, slopes: Tensor, out: Tensor,
              backward: bool, silu: bool) -> None:
        _apply_kernel[triton.cdiv(self.pixels, ROWS), self.blocks, self.images](
            x, grad, factor, term, slopes, out, self.pixels, self.channels, backward, silu, ROWS, COLS)


def normed(norm: nn.GroupNorm, x: Tensor, silu: bool, scale: Tensor | None = None,
           shift: Tensor | None = None) -> Tensor:
    """`norm` of x (B, C, H, W), scaled by 1 + `scale` and shifted (B, C), then SiLU; bf16 under autocast."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    x = x.contiguous(memory_format=torch.channels_last)
    return _Norm.apply(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps, silu, dtype)


class FusedResBlock(ResBlock):
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, _, convolution = self.in_layers
        h = convolution(self._resized(normed(norm, x, True)))
        scale, shift = self.emb_layers(embedding).chunk(2, dim=1)
        norm, _, dropout, last = self.out_layers
        h = last(dropout(normed(norm, h, True, scale, shift)))
        return self.skip_connection(self._resized(x)) + h


class FusedNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return normed(self, x, False)


class FusedNormSiLU(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return normed(self, x, True)


def fuse(net: UNet) -> UNet:
    """The same network and weights in channels_last, its norms computed by these kernels."""
    for module in net.modules():
        if isinstance(module, ResBlock):
            module.__class__ = FusedResBlock
        elif isinstance(module, Attention):
            module.norm.__class__ = FusedNorm
    net.out[0].__class__ = FusedNormSiLU
    net.out[1] = nn.Identity()
    return net.to(memory_format=torch.channels_last)
