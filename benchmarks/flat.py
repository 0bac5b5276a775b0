"""A candidate for a GPU: AdamW and the weights' average in one pass over flat blocks of memory, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from diffusegen_core.diffusion.unet import UNet

BLOCK = 1024  # weights per program of the kernel


@triton.jit
def _adamw_kernel(weight, grad, master, first, second, average, numbers, count, beta1, beta2, eps, decay,
                  block: tl.constexpr):
    """`numbers`: learning rate, 1 - beta1^t, 1 - beta2^t, the gradient's factor, 1 - the average's decay."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = at < count
    rate, left1, left2 = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32) * tl.load(numbers + 3)
    w = tl.load(master + at, mask=there, other=0.0)
    m = tl.load(first + at, mask=there, other=0.0)
    v = tl.load(second + at, mask=there, other=0.0)
    m = m + (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w = w * (1 - rate * decay) - rate * (m / left1) / (tl.sqrt(v / left2) + eps)
    a = tl.load(average + at, mask=there, other=0.0)
    tl.store(first + at, m, mask=there)
    tl.store(second + at, v, mask=there)
    tl.store(master + at, w, mask=there)
    tl.store(average + at, a + tl.load(numbers + 4) * (w - a), mask=there)
    tl.store(weight + at, w.to(weight.dtype.element_ty), mask=there)


class FlatAdamW:
    """AdamW and the weights' average in one pass: weights and gradients in bf16, the rest in fp32.

    The weights of `net`'s convolutions and linear layers become bf16 views of one block of memory, rounded as
    autocast would round them in every call; their fp32 masters, moments and average lie in blocks beside it.
    The few weights of norms stay fp32. A step reads its settings on the device, so a CUDA graph can hold it.
    """

    def __init__(self, net: UNet, lr: float, decay: float = 0.0, beta: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, clip: float | None = None) -> None:
        self.beta, self.eps, self.decay, self.clip = beta, eps, decay, clip
        masters = {name: p.detach().clone() for name, p in net.named_parameters()}
        net.cast_weights("bf16")
        self.names, self.parts = [], []
        for dtype in (torch.bfloat16, torch.float32):
            chosen = {n: p for n, p in net.named_parameters() if p.dtype == dtype}
            self.names.append(list(chosen))
            self.parts.append(_flat(chosen, masters))
        device = next(net.parameters()).device
        # learning rate, two corrections of the moments, the gradient's factor, 1 - the average's decay
        self.numbers = torch.tensor([lr, 1.0, 1.0, 1.0, 0.0], device=device)
        self.number = torch.zeros((), device=device, dtype=torch.float64)
        self.betas = torch.tensor(beta, device=device, dtype=torch.float64)
        self.norm = torch.zeros((), device=device)

    def zero_grad(self) -> None:
        for part in self.parts:
            part["grad"].zero_()

    def step(self, ema: float) -> None:
        """One step; the average warms up as in `training.average_weights`."""
        self.number += 1
        self.numbers[1:3] = 1 - self.betas**self.number
        self.numbers[4] = 1 - torch.clamp(self.number / (self.number + 9), max=ema)
        self.norm.copy_(torch.stack([part["grad"].float().norm() if part["grad"].dtype == torch.float32 else
                                     torch.linalg.vector_norm(part["grad"], dtype=torch.float32)
                                     for part in self.parts]).norm())
        if self.clip:
            self.numbers[3] = (self.clip / (self.norm + 1e-6)).clamp(max=1)
        for part in self.parts:
            count = part["master"].numel()
            _adamw_kernel[(triton.cdiv(count, BLOCK),)](
                part["weight"], part["grad"], part["master"], part["first"], part["second"],
                part["average"], self.numbers, count, *self.beta, self.eps, self.decay, BLOCK)

    def state(self, kind: str) -> dict[str, Tensor]:
        """`master`, `average`, `first` or `second` by the weights' names, in their shapes."""
        return {name: _view(part[kind], place, shape, stride)
                for names, part in zip(self.names, self.parts, strict=True)
                for name, (place, shape, stride) in zip(names, part["places"], strict=True)}

    def load(self, kind: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`; loading `master` sets the weights too."""
        for name, view in self.state(kind).items():
            view.copy_(tensors[name])
        if kind == "master":
            for part in self.parts:
                part["weight"].copy_(part["master"])


def _view(flat: Tensor, place: int, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    return flat.as_strided(shape, stride, place)


def _flat(chosen: dict[str, nn.Parameter], masters: dict[str, Tensor]) -> dict[str, object]:
    """Blocks of memory for the chosen weights, which become views of them, and for their optimizer state."""
    count = sum(p.numel() for p in chosen.values())
    some = next(iter(chosen.values()))
    part = {"weight": torch.empty(count, dtype=some.dtype, device=some.device)}
    part["grad"] = torch.zeros_like(part["weight"])
    for kind in ("master", "first", "second", "average"):
        part[kind] = torch.zeros(count, device=some.device)
    part["places"], place = [], 0
    for name, p in chosen.items():
        where = (place, p.shape, p.stride())
        for kind in ("master", "average"):
            _view(part[kind], *where).copy_(masters[name])
        _view(part["weight"], *where).copy_(masters[name])
        p.data, p.grad = _view(part["weight"], *where), _view(part["grad"], *where)
        part["places"].append(where)
        place += p.numel()
    return part
