"""Training of one diffusion model: an optimizer step, and the state that it changes (paper 2.3, B.5).

Everything a step draws (images, flips, levels, noise) comes from that step's own seed, so a killed training
continues from a snapshot as if nothing had happened: on the CPU the final weights are the same bits.
"""

import contextlib
import copy
import logging
import sys
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Model, Process, Train
from diffusegen_core.data.planes import RGB_AND_MASK, Planes
from diffusegen_core.diffusion import checkpoints, process, warps
from diffusegen_core.diffusion.history import COLUMNS, History
from diffusegen_core.diffusion.unet import Conditions, UNet
from diffusegen_core.parallel.ranks import ALONE, Share
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe, differences
from diffusegen_core.store.stamps import CARDS
from diffusegen_core.store.stamps import cards as cards_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What defines one training, besides its images; the name is part of every seed."""

    name: str
    model: Model
    process: Process
    settings: Train
    image_size: int
    seed: int
    steps: int = sys.maxsize
    """How many optimizer steps it takes, which sets when the learning rate falls; by default unlimited."""
    labels: tuple[int, ...] = ()
    """The label of each of its images, from 0 on; empty for a model without labels."""
    planes: Planes = RGB_AND_MASK
    """Channels and classes of its images."""

    @property
    def plateau(self) -> int:
        """How many steps, from the first on, have the full learning rate."""
        return plateau(self.steps, self.settings.lr_decay)

    @property
    def conditions(self) -> Conditions:
        """What its network is told besides the timestep."""
        return Conditions(warps.WIDTH if self.settings.augment else 0, max(self.labels, default=-1) + 1)


def steps_of(images: int, batch_size: int) -> int:
    """How many optimizer steps it takes to show `images` images; the last step may show a few more."""
    return -(-images // batch_size)


def plateau(steps: int, decay: float) -> int:
    """How many of the steps come before the learning rate falls, over a share `decay` of them at the end."""
    return steps - round(decay * steps)


# lr_s = lr min(1, (S - s) / (S - b + 1)), for steps s = 0, ..., S - 1, the first b of them the plateau
def rate(training: Training, step: int) -> float:
    """The learning rate of a step: full on the plateau, then falling linearly.

    No step is wasted: the first after the plateau is already below the full rate, and the last is above 0.
    """
    falling = training.steps - training.plateau
    return training.settings.lr * min(1.0, (training.steps - step) / (falling + 1))


@dataclass
class State:
    """The state of a training, which its steps change."""

    net: UNet
    average: UNet  # exponential moving average of the weights; the later chapters' model
    optimizer: torch.optim.Optimizer
    history: History = field(default_factory=History)
    seconds: float = 0.0
    """Wall time so far."""
    cards: float = 1.0
    """How many GPUs worked at a time, on average over these seconds; 1 on a CPU."""
    share: Share = ALONE
    """Which part of each step this process computes."""
    joined: DistributedDataParallel | None = None
    """`net` with its gradients averaged over the processes, where there are several."""

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.history)

    # Listed once: walking through the modules of a large network in every step takes longer than launching
    # the kernels that work on them.
    @cached_property
    def weights(self) -> list[Tensor]:
        return list(self.net.parameters())

    @cached_property
    def averages(self) -> list[Tensor]:
        return list(self.average.parameters())


def start(training: Training, device: torch.device, base: dict[str, Tensor] | None = None) -> State:
    """The state before the first step: weights seeded by the model's name, or from the state dict `base`."""
    settings = training.settings
    with seeds.global_seed(training.seed, "train", training.name, "weights"):
        net = UNet(training.model, training.image_size, training.conditions, training.planes).to(device)
    if base is not None:
        net.load_state_dict(base)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    net.checkpointing = settings.checkpointing
    if settings.compile:
        net.compile_blocks()
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay,
                                  fused=True)
    return State(net, average, optimizer)


def join(state: State, share: Share) -> None:
    """From here on, take each step together with the other processes, all of which hold the same state.

    UserError where they have not done the same number of steps.
    """
    if share.of == 1:
        return
    device = state.weights[0].device
    furthest = torch.tensor([state.step, -state.step], device=device)
    dist.all_reduce(furthest, dist.ReduceOp.MAX)
    if furthest.sum():
        raise UserError(f"The processes of one training have read different checkpoints, of steps "
                        f"{-int(furthest[1])} and {int(furthest[0])}. The same command tries it again.")
    torch._dynamo.config.optimize_ddp = False  # not needed: the blocks are compiled one by one
    state.share, state.joined = share, DistributedDataParallel(state.net, gradient_as_bucket_view=True)


class Batch(NamedTuple):
    """What a step draws."""

    x0: Tensor
    """Images (B, C + M, S, S) in [-1, 1]."""
    t: Tensor
    """Their levels (B,)."""
    eps: Tensor
    """Their noise, of the same shape, standard normal."""
    rows: Tensor
    """Their indices among the images of the training, (B,)."""


def draw(training: Training, step: int, x: Tensor) -> Batch:
    """A step's batch from x (N, C + M, S, S) uint8, with replacement, so that even one image can train."""
    settings, device = training.settings, x.device
    batch = settings.batch_size
    g = seeds.generator(training.seed, "train", training.name, step, device=device)
    rows = torch.randint(len(x), (batch,), generator=g, device=device)
    x0 = x[rows].float() / 127.5 - 1
    flipped = torch.rand(batch, generator=g, device=device) < settings.flip
    x0 = torch.where(flipped[:, None, None, None], x0.flip(-1), x0)
    t = torch.randint(training.process.steps, (batch,), generator=g, device=device)
    return Batch(x0, t, torch.randn(x0.shape, generator=g, device=device), rows)


def conditioned(training: Training, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """A step's images (B, C + M, S, S) as they are shown, and the network's conditions for them.

    Conditions are keyed by the network's argument names. Augmentation has its own seed, so that images,
    levels and noise are the same as in a training without it.
    """
    x0, conditions = batch.x0, dict[str, Tensor]()
    if training.labels:
        conditions["label"] = torch.tensor(training.labels, device=x0.device)[batch.rows]
    if training.settings.augment:
        g = seeds.generator(training.seed, "train", training.name, step, "augment", device=x0.device)
        conditions["change"] = warps.draw(len(x0), training.settings.augment, g)
        x0 = warps.apply(x0, conditions["change"], training.planes.classes)
    return x0, conditions


def optimize(training: Training, state: State, schedule: process.Schedule, x: Tensor) -> Tensor:
    """Take one optimizer step on a batch of x (N, C + M, S, S) uint8; returns its row of COLUMNS.

    The row is still on the device. Several processes draw the same batch, and each computes its share of the
    rows. DDP averages their gradients, so each process divides the sum over its rows by `batch / of`: that
    gives the gradient of the mean over the whole batch, even where shares differ by a row.
    """
    settings, device, share = training.settings, x.device, state.share
    batch, dropout = settings.batch_size, training.model.dropout > 0
    own = share.rows(batch)
    drawn = draw(training, state.step, x)
    x0, conditions = conditioned(training, state.step, drawn)
    sums = torch.zeros(3, device=device)
    state.optimizer.zero_grad(set_to_none=True)
    # Each process draws its own dropout mask; the first keeps the seed that a single process would use.
    others = [share.rank] if share.rank else []
    with (seeds.global_seed(training.seed, "train", training.name, state.step, "dropout", *others,
                            device=device) if dropout else contextlib.nullcontext()):
        micro = settings.micro_batch or batch
        for first in range(own.start, own.stop, micro):
            part = slice(first, min(first + micro, own.stop))
            net = partial(state.joined or state.net,
                          **{name: value[part] for name, value in conditions.items()})
            with _summed_at_last(state, part.stop == own.stop):
                with devices.autocast(device, settings.precision):
                    losses = process.losses(net, schedule, x0[part], drawn.t[part], drawn.eps[part],
                                            training.process.objective, settings.lesion_weight,
                                            settings.min_snr, training.planes.classes)
                (losses["loss"].sum() / (batch / share.of)).backward()
            sums += torch.stack([losses[name].detach().sum() for name in COLUMNS[:3]])
    if share.of > 1:
        dist.all_reduce(sums)
    norm = nn.utils.clip_grad_norm_(state.weights, settings.grad_clip or float("inf"))
    if settings.lr_decay:
        for group in state.optimizer.param_groups:
            group["lr"] = rate(training, state.step)
    state.optimizer.step()
    average_weights(state, settings.ema)
    row = torch.cat([sums / batch, norm.detach()[None]])
    state.history.append(row)
    return row


def _summed_at_last(state: State, last: bool) -> contextlib.AbstractContextManager:
    """A context for a micro-batch: processes exchange gradients only once a step, after the last one."""
    return contextlib.nullcontext() if last or state.joined is None else state.joined.no_sync()


# average <- d average + (1 - d) weights, with d = min(decay, (1 + step) / (10 + step))
@torch.no_grad()
def average_weights(state: State, decay: float) -> None:
    """Update the average, at first over fewer steps, so that a short training does not sample its start."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(state.averages, state.weights, 1 - decay)


def refuse_divergence(row: Tensor, name: str, step: int) -> None:
    """UserError where the loss or gradient is no longer finite; the last checkpoint is from before that."""
    if not row.isfinite().all():
        raise UserError(f"{name}: the training diverged: at step {step} the loss is {float(row[0])} and the "
                        f"gradient's norm {float(row[3])}. Lower train.lr, or set train.grad_clip.")


def weights_of(state: State) -> dict[str, Tensor]:
    """Both sets of weights, under their prefixes."""
    return {**{f"raw.{k}": v for k, v in state.net.state_dict().items()},
            **{f"ema.{k}": v for k, v in state.average.state_dict().items()}}


def snapshot(state: State) -> dict[str, Tensor]:
    """All tensors that a training resumes from: weights, the optimizer's moments, the history."""
    return {**weights_of(state), **checkpoints.moments(state.net, state.optimizer),
            "history": state.history.rows()}


def spend(state: State, seconds: float) -> None:
    """Set the wall time so far; what is new in it counts for the number of GPUs in use now."""
    cards = state.share.of if state.weights[0].device.type == "cuda" else 1
    together = state.seconds * state.cards + (seconds - state.seconds) * cards
    state.seconds, state.cards = seconds, together / seconds if seconds > 0 else float(cards)


def took(state: State) -> dict[str, float]:
    """What a header records of the time that a training took; `resume` continues from it."""
    return {"seconds": state.seconds, **({CARDS: state.cards} if state.cards > 1 else {})}


def restore(state: State, tensors: dict[str, Tensor], seconds: float = 0.0, cards: float = 1.0) -> None:
    """Restore what `snapshot` returned for the same network."""
    state.net.load_state_dict(checkpoints.part(tensors, "raw."))
    state.average.load_state_dict(checkpoints.part(tensors, "ema."))
    checkpoints.restore(state.net, state.optimizer, tensors)
    state.history, state.seconds, state.cards = History(tensors["history"]), seconds, cards


def resume(state: State, sources: list[list[Path]], recipe: Recipe, steps: int) -> None:
    """Resume from the furthest of the trainings that differ from this one at most in the number of images.

    Each of `sources` lists the files that one training left; the last one's header says how far it got, which
    must be at most `steps`. The first source is this training's own: if it cannot be resumed, the reason is
    logged. Where the learning rate falls at the end, two trainings share only the steps before that.
    """
    reached: list[tuple[int, list[Path]]] = []
    for paths in sources:
        header = _header_of(paths)
        if header is None:
            continue
        done = header.get("steps")
        if reasons := differences({**header.get("recipe", {}), "images": 0}, {**recipe, "images": 0}):
            _tell(paths == sources[0], paths[-1], reasons)
        elif isinstance(done, int) and done <= min(steps, _common(header["recipe"], recipe)):
            reached.append((done, paths))
    for done, paths in sorted(reached, key=lambda one: one[0], reverse=True):
        tensors = {name: value for path in paths for name, value in checkpoints.read(path)[0].items()}
        if reasons := checkpoints.unlike(tensors, "raw.", state.net):
            _tell(paths == sources[0], paths[-1], reasons)
            continue
        header = checkpoints.header(paths[-1])
        restore(state, tensors, header["seconds"], cards_of(header))
        log.info("%s: continued at step %d", paths[0], done)
        return


def _header_of(paths: list[Path]) -> checkpoints.Header | None:
    """The header of the last of the files that a training left; None unless all exist and can be read."""
    headers = [checkpoints.left(path) if path.is_file() else None for path in paths]
    return None if None in headers or not headers else headers[-1]


def _common(one: Recipe, other: Recipe) -> int:
    """How many steps, from the first on, two trainings share that differ at most in the number of images."""
    train, counts = other["train"], [recipe.get("images") for recipe in (one, other)]
    if not train.get("lr_decay") or counts[0] == counts[1]:
        return sys.maxsize
    return min(plateau(steps_of(images, train["batch_size"]), train["lr_decay"])
               if isinstance(images, int) else 0 for images in counts)


def _tell(own: bool, path: Path, reasons: list[str]) -> None:
    if own:
        log.warning("%s belongs to another training (%s). Training starts again.", path, "; ".join(reasons))
