"""What processes do that work together in tests: apart from these, as each of them imports it."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Model, Process, Train
from diffusegen_core.data import dataset, phantom
from diffusegen_core.diffusion import process, training
from diffusegen_core.parallel.ranks import Share

SIDE, STEPS = 16, 2
ASKED: list[dict[str, Any]] = [
    {"micro_batch": 1, "grad_clip": 0.01}, {"weight_decay": 0.1, "augment": 0.5},
    {"lesion_weight": 4.0, "min_snr": 5.0, "lr_decay": 0.5, "micro_batch": 2, "ema": 0.5}]


def steps(share: Share, place: str, folder: Path) -> None:
    """A few steps of each of ASKED, five images a batch, with what they give written for each process."""
    images, masks = zip(*(phantom.draw(0, index, SIDE)[:2] for index in range(4)), strict=True)
    pairs = dataset.gather([f"p{i}" for i in range(4)], np.stack(images), np.stack(masks))
    x = (dataset.to_tensor(pairs) * 127.5 + 127.5).round().to(torch.uint8)
    shape = Model(channel_mult=[1, 1], attention_resolutions=[])
    found = []
    for number, asked in enumerate(ASKED):
        labels = (0, 1, 1, 0) if number == 1 else ()
        settings = Train(**{"batch_size": 5, "lr": 1e-5, **asked})
        of = training.Training("test", shape, Process(), settings, SIDE, 0, STEPS, labels)
        state, schedule = training.start(of, torch.device(place)), process.schedule(of.process)
        for parameter in state.net.parameters():  # the zeroed layers would hide most gradients
            parameter.data.add_(0.02)
        training.join(state, share)
        gradients = []
        for _ in range(STEPS):
            training.optimize(of, state, schedule, x)
            gradients.append(torch.cat([p.grad.flatten() for p in state.weights]))
        found.append({"gradients": torch.stack(gradients), "rows": state.history.rows(),
                      "weights": torch.cat([p.detach().flatten() for p in state.weights]),
                      "average": torch.cat([p.flatten() for p in state.averages])})
    torch.save(found, folder / f"{share.rank} of {share.of}.pt")
    if share.of > 1:
        torch.distributed.barrier()  # all end with the first, which would leave files half written


def apart(share: Share, place: str) -> None:
    """Begin a training of which the second process has done a step."""
    of = training.Training("test", Model(channel_mult=[1, 1], attention_resolutions=[]), Process(), Train(),
                           SIDE, 0)
    state = training.start(of, torch.device(place))
    if share.rank:
        state.history.append(torch.zeros(len(training.COLUMNS)))
    training.join(state, share)


def waiting(share: Share, place: str, fails: int | None = None, readable: bool = True) -> None:
    """Wait for the others, one of which fails, if any does."""
    os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does to all of a job
    if share.rank != fails:
        for _ in range(600):
            dist.all_reduce(torch.zeros(1))
            time.sleep(0.1)
        return
    time.sleep(0.5)
    if readable:
        raise UserError("the mask is missing")
    1 / 0  # noqa: B018


def watched(share: Share, place: str, **given: Any) -> None:
    """As `train._fit_share`, but no process may write except the first."""
    from diffusegen_core.chapters import train

    def refuse(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.rename", "os.remove")) and str(given["ws"].folder) in str(args[0]):
            raise AssertionError(f"process {share.rank + 1} writes: {event} {args}")
    if not share.writes:
        sys.addaudithook(refuse)
    train._fit_share(share, place, **given)
