"""The plain way to train: fp32, attention by its formula, the optimizer and the average weight by weight.

The fast way is measured against it and must agree with it (tests/test_fast.py).
"""

import torch
from torch import Tensor, nn

from diffusegen_core.diffusion import process, training
from diffusegen_core.diffusion.history import COLUMNS
from diffusegen_core.diffusion.unet import Attention, UNet


class PlainAttention(Attention):
    """softmax(q k / sqrt(d)) v, with the whole matrix in memory."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x).flatten(2)).view(batch, self.heads, 3, channels // self.heads, -1)
        q, k, v = qkv.unbind(2)
        weights = (q.transpose(-1, -2) @ k / q.shape[2] ** 0.5).softmax(dim=-1)
        h = (v @ weights.transpose(-1, -2)).reshape(batch, channels, -1)
        return x + self.proj_out(h).view(batch, channels, height, width)


def made_plain(net: UNet) -> UNet:
    """The same network and weights, with plain attention."""
    for module in net.modules():
        if isinstance(module, Attention):
            module.__class__ = PlainAttention
    return net


def start(asked: training.Training, device: torch.device) -> training.State:
    """As training.start, but plain."""
    state = training.start(asked, device)
    made_plain(state.net)
    state.optimizer = torch.optim.AdamW(state.net.parameters(), lr=asked.settings.lr,
                                        weight_decay=asked.settings.weight_decay, foreach=False)
    return state


def optimize(asked: training.Training, state: training.State, schedule: process.Schedule,
             x: Tensor) -> Tensor:
    """As training.optimize, but plain: the same images, levels and noise, in fp32."""
    settings, rows = asked.settings, []
    drawn, batch = training.draw(asked, state.step, x)[:3], settings.batch_size
    state.optimizer.zero_grad()
    for part in zip(*(tensor.split(settings.micro_batch or batch) for tensor in drawn), strict=True):
        losses = process.losses(state.net, schedule, *part, asked.process.objective)
        (losses["loss"].sum() / batch).backward()
        rows.append(torch.stack([losses[key].detach().sum() for key in COLUMNS[:3]]))
    norm = nn.utils.clip_grad_norm_(state.net.parameters(), settings.grad_clip or float("inf"), foreach=False)
    state.optimizer.step()
    decay = min(settings.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for average, weight in zip(state.average.parameters(), state.net.parameters(), strict=True):
            average.mul_(decay).add_(weight, alpha=1 - decay)
    row = torch.cat([sum(rows) / batch, norm.detach()[None]])
    state.history.append(row)
    return row
