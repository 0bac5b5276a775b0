"""Ways to train and to sample on a GPU, each a candidate to measure.

`eager` is the package's own step. The others keep what a step computes and change how: the memory layout, the
kernels of `fused`, an optimizer that also updates the average, and a CUDA graph, with which the host launches
a whole step at once.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Protocol

import common
import stages
import torch
from torch import Tensor

from diffusegen_core.config import devices
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import process, training
from diffusegen_core.diffusion.history import COLUMNS, History
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.training import State, Training
from diffusegen_core.diffusion.unet import UNet

Drawn = tuple[Tensor, Tensor, Tensor]  # x0 (B, 4, S, S) in [-1, 1], levels (B,), noise as x0
KINDS = ("master", "average", "first", "second")  # what a training keeps for every weight
WARM = 3  # calls before a graph is captured, to warm up


class Trainer(Protocol):
    """A training, step by step."""

    net: UNet
    number: int
    """Steps done so far."""

    def step(self, x: Tensor) -> Tensor:
        """One optimizer step on a batch of x (N, 4, S, S) uint8, drawn by `training.draw`. Returns the first
        three of COLUMNS, on the device and valid until the next step."""

    def set_rate(self, lr: float) -> None: ...

    def state(self, kind: str) -> dict[str, Tensor]:
        """The tensors of one of KINDS by the weights' names: the training's own, not copies."""

    def load(self, kind: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""

    def set_number(self, number: int) -> None:
        """Continue after `number` steps, on which moment corrections and the average's warm-up depend."""


def kernels_run(device: torch.device, record: stages.Record) -> bool:
    """Whether the kernels of `fused` run there: on a GPU, but not on one that a test only pretends."""
    return device.type == "cuda" and not record.facts.get("pretended")


def captured(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """`work` as a CUDA graph, after a few calls; on a CPU, `work` itself. Its inputs must stay in place."""
    if device.type != "cuda":
        return work
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def network(p: Params, device: torch.device, seed: int = 0) -> UNet:
    """The parameters' network, initialised on the device, with noise added so that no branch is zero."""
    devices_of = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices_of), torch.device(device), torch.no_grad():
        torch.manual_seed(seed)
        net = UNet(p.model, p.data.image_size)
        for weight in net.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return net


def laid_out(net: UNet, layout: str) -> UNet:
    """The same network and weights: `plain`, `channels_last`, `fused` (in channels_last) or `compiled`."""
    if layout == "fused":
        import fused
        return fused.fuse(net)
    return common.tried(net, layout)


class Eager:
    """The package's step, in one of the layouts."""

    def __init__(self, of: Training, net: UNet, layout: str = "plain") -> None:
        self.of, self.device = of, next(net.parameters()).device
        average = copy.deepcopy(net).eval().requires_grad_(False)
        self.net, average = laid_out(net, layout), laid_out(average, layout)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=of.settings.lr,
                                      weight_decay=of.settings.weight_decay, fused=True)
        self.inner = State(self.net, average, optimizer)
        self.schedule = process.schedule(of.process).to(self.device)

    @property
    def number(self) -> int:
        return self.inner.step

    def step(self, x: Tensor) -> Tensor:
        return training.optimize(self.of, self.inner, self.schedule, x)[:3]

    def set_rate(self, lr: float) -> None:
        for group in self.inner.optimizer.param_groups:
            group["lr"] = lr

    def state(self, kind: str) -> dict[str, Tensor]:
        if kind in ("master", "average"):
            net = self.net if kind == "master" else self.inner.average
            return {name: p.detach() for name, p in net.named_parameters()}
        key = {"first": "exp_avg", "second": "exp_avg_sq"}[kind]
        return {name: self.inner.optimizer.state[p][key] for name, p in self.net.named_parameters()}

    def load(self, kind: str, tensors: dict[str, Tensor]) -> None:
        for p in self.net.parameters():  # an optimizer has no state before its first step
            self.inner.optimizer.state.setdefault(p, {
                "step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p)})
        for name, value in self.state(kind).items():
            value.copy_(tensors[name])

    def set_number(self, number: int) -> None:
        self.inner.history = History(torch.zeros(number, len(COLUMNS)))
        for state in self.inner.optimizer.state.values():
            state["step"].fill_(number)


class Graphed:
    """A whole step as one CUDA graph, with torch's AdamW; its average has no warm-up of the decay."""

    def __init__(self, of: Training, net: UNet, layout: str = "fused") -> None:
        self.of, self.device, self.number = of, next(net.parameters()).device, 0
        self.net = laid_out(net, layout)
        self.schedule = process.schedule(of.process).to(self.device)
        self.replay: Callable[[], Tensor] | None = None
        self.inputs: Drawn | None = None
        self.prepare()

    def prepare(self) -> None:
        settings = self.of.settings
        self.optimizer = torch.optim.AdamW(self.net.parameters(), weight_decay=settings.weight_decay,
                                           lr=settings.lr, fused=True, capturable=True)
        self.average = [weight.detach().clone() for weight in self.net.parameters()]

    def update(self) -> None:
        """Clip the gradient, step the optimizer and update the average."""
        if self.of.settings.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.of.settings.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.net.parameters()), 1 - self.of.settings.ema)

    def step(self, x: Tensor) -> Tensor:
        drawn = training.draw(self.of, self.number, x)[:3]
        self.number += 1
        if self.replay is None:
            self.inputs = tuple(tensor.clone() for tensor in drawn)
            self.replay = self.capture()
        for place, tensor in zip(self.inputs, drawn, strict=True):
            place.copy_(tensor)
        return self.replay()

    def capture(self) -> Callable[[], Tensor]:
        return captured(self.whole, self.device)

    def whole(self) -> Tensor:
        self.optimizer.zero_grad()
        with devices.autocast(self.device, self.of.settings.precision):
            losses = process.losses(self.net, self.schedule, *self.inputs, self.of.process.objective)
        losses["loss"].mean().backward()
        self.update()
        return torch.stack([losses[name].detach().mean() for name in COLUMNS[:3]])


class Flat(Graphed):
    """The same with the optimizer of `flat`, whose average warms up like the package's."""

    def prepare(self) -> None:
        import flat
        settings = self.of.settings
        self.optimizer = flat.FlatAdamW(self.net, settings.lr, settings.weight_decay,
                                        clip=settings.grad_clip)

    def update(self) -> None:
        self.optimizer.step(self.of.settings.ema)

    def capture(self) -> Callable[[], Tensor]:
        kept = {kind: {name: v.clone() for name, v in self.state(kind).items()} for kind in KINDS}
        number = int(self.optimizer.number)
        replay = captured(self.whole, self.device)
        for kind, tensors in kept.items():  # the warm-up calls must not count as training
            self.load(kind, tensors)
        self.optimizer.number.fill_(number)
        return replay

    def set_rate(self, lr: float) -> None:
        self.optimizer.numbers[0] = lr

    def state(self, kind: str) -> dict[str, Tensor]:
        return self.optimizer.state(kind)

    def load(self, kind: str, tensors: dict[str, Tensor]) -> None:
        self.optimizer.load(kind, tensors)

    def set_number(self, number: int) -> None:
        self.number = number
        self.optimizer.number.fill_(number)


class Careless(Diffusion):
    """A model whose network calls run without devices.exact()."""

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with devices.autocast(self.device, self.precision):
            yield


def diffusion(p: Params, net: process.Network, device: torch.device, precision: str,
              careful: bool = True) -> Diffusion:
    """A model to sample with, of a network that may be a GraphedCall."""
    kind = Diffusion if careful else Careless
    return kind(net, process.schedule(p.process).to(device), p.process.objective, precision=precision)


class GraphedCall:
    """A sampling network as a CUDA graph for one batch size; it can stand in as a process.Network."""

    def __init__(self, net: UNet, x: Tensor, precision: str) -> None:
        self.x = torch.zeros_like(x)
        self.timestep = torch.zeros(len(x), device=x.device)

        def work() -> Tensor:
            with torch.no_grad(), devices.autocast(x.device, precision):
                return net(self.x, self.timestep)

        with devices.exact():
            self.replay = captured(work, x.device)

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.x.copy_(x)
        self.timestep.copy_(timestep)
        return self.replay()
