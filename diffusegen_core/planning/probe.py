"""The speed of a device at each kind of a run's work: FLOP per second, on networks with random weights.

Each kind is done as its chapter does it, at the run's sizes and precision. A CPU gets only as many images at
a time as keep a repetition short, and only the coarse scales of a large SinGAN. If a single call of the U-Net
takes more than half of SHORT, the CPU computes only that, to save memory, and its rate stands in for training
and styling.
"""

import contextlib
import gc
import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters.costs import Work
from diffusegen_core.config import devices
from diffusegen_core.config.params import Params
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion import process, training
from diffusegen_core.diffusion.guided import GuidedStep, Judge, Targets, default_blocks
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import levels_of
from diffusegen_core.diffusion.repaint import repaint
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import features, singan, vgg, weights
from diffusegen_core.planning import flops
from diffusegen_core.segmentation import segnet, trials
from diffusegen_core.store import seeds

KINDS = ("features", "sampling", "training", "styling", "GAN", "judging", "segmentation")
COLUMNS = ["kind", "rate", "flop", "images", "repetitions", "seconds", "memory", "how"]
SHORT = 2e11  # FLOP of a repetition that a CPU does in a few seconds
BATCH = 32  # images in one call of features.extract
BATCHES = 2  # batches per epoch when probing the segmentation network
CONTEXT = 600_000_000  # approximate bytes of GPU memory that a process takes before it computes
BUSY = 0.7  # load per core in the last minute above which a CPU counts as busy with other work
SPARE = 0.05  # share of a GPU's memory to leave free
MEND = {  # the remedy for each kind of work that runs out of memory
    "features": "name a smaller cluster.backbone",
    "sampling": "lower inpaint.batch_size",
    "training": "lower train.micro_batch, or set train.checkpointing",
    "styling": "lower style.batch_size, or set style.checkpointing",
    "GAN": "lower gan.channels",
    "judging": "lower evaluate.batch_size",
    "segmentation": "lower segment.batch_size",
}
AS_CALL = "not measured, as one image takes too long: assumed at the rate of sampling"


@dataclass(frozen=True)
class Repetition:
    """One repetition of a kind of work."""

    flop: float
    images: int
    run: Callable[[], float | None]
    """Does the work; returns the seconds if they differ from the duration of the call."""
    how: str = ""
    """Which part of the work it leaves out."""


def rates(p: Params, work: Work, kinds: list[str], seconds: float) -> pd.DataFrame:
    """Measure these kinds of work in about so many seconds in all: one row each, columns COLUMNS.

    `memory` is the peak of GPU memory in bytes; nan on a CPU. A kind that runs out of memory has nan for both
    rate and memory, and its `how` says what to lower.

    Each kind runs once to warm up, then at least once more until its share of the time is used; `how` says so
    if it takes over 1.5 times its share. If the first run exceeds the share on a CPU, it is the only one.
    """
    p, device = flops.random(p), devices.device(p.device)
    makers = {"features": _features, "sampling": _sampling, "training": _training, "styling": _styling,
              "GAN": _gan, "judging": _judging, "segmentation": _segmentation}
    # Sampling, a plain call, is always measured, and before the kinds that its rate may stand in for.
    wanted = [kind for kind in KINDS if kind in kinds or kind == "sampling"]
    share = seconds / len(wanted)
    rows: list[dict[str, object]] = []
    for kind in wanted:
        too_large = {"training": work.unet.learn, "styling": max(work.guided)}.get(kind, 0) > SHORT
        if device.type == "cpu" and too_large and 2 * work.unet.call > SHORT:
            call = next(row for row in rows if row["kind"] == "sampling")
            rows.append({**call, "kind": kind, "repetitions": 0, "seconds": 0.0, "how": AS_CALL})
            continue
        _forget(device)
        try:
            row = {**_measured(makers[kind](p, work, device), share, device), "memory": _most(device)}
        except torch.OutOfMemoryError:
            row = {"rate": np.nan, "flop": 0.0, "images": 0, "repetitions": 0, "seconds": 0.0,
                   "memory": np.nan, "how": f"out of memory: {MEND[kind]}"}
        rows.append({"kind": kind, **row})
        gc.collect()
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(trial: Repetition, share: float, device: torch.device) -> dict[str, object]:
    first = _timed(trial, device)
    cold = device.type == "cpu" and first > share
    spent = [first] if cold else []
    while not spent or sum(spent) + min(spent) < share:
        spent.append(_timed(trial, device))
    how = ", ".join(filter(None, [
        trial.how, "timed from the first call, which is slower" if cold else "",
        "took longer than its share of the time" if sum(spent) > 1.5 * share else ""]))
    typical = float(np.median(spent))
    return {"rate": trial.flop / typical, "flop": trial.flop, "images": trial.images,
            "repetitions": len(spent), "seconds": sum(spent), "how": how}


def busy(device: torch.device) -> str:
    """A sentence if other programs are computing on this machine, judged by its load in the last minute; ""
    if not, or if the system does not report a load."""
    if device.type != "cpu" or not hasattr(os, "getloadavg"):
        return ""
    from dask.system import CPU_COUNT
    load = os.getloadavg()[0]
    return "" if load < BUSY * CPU_COUNT else (
        f"The load of this machine was {load:.1f} on {CPU_COUNT} cores beforehand: other programs were "
        "computing. The times are for a run beside as much of that: with less it is faster, with more, "
        "slower.")


def side_by_side(rates: pd.DataFrame, device: torch.device) -> tuple[int, str]:
    """How many workers fit on the device at once, whichever work of `rates` each does; and why so many."""
    if device.type != "cuda":
        from dask.system import CPU_COUNT  # the cores this process may use, as --workers divides them
        return CPU_COUNT, "a core each; their memory was not measured"
    memory = rates.set_index("kind")["memory"]
    if memory.isna().any():
        return 0, f"{memory.index[memory.isna()][0]} alone takes more memory than there is"
    each, total = memory.max() + CONTEXT, torch.cuda.get_device_properties(device).total_memory
    return int((1 - SPARE) * total // each), (
        f"{each / 1e9:.1f} of {total / 1e9:.1f} GB each, for {memory.idxmax()}, which takes the most; "
        f"{SPARE:.0%} are left free")


def _forget(device: torch.device) -> None:
    """Free the GPU memory of earlier kinds, and reset its peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _most(device: torch.device) -> float:
    return float(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else float("nan")


def _timed(trial: Repetition, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    seconds = trial.run()
    _wait(device)
    return max(seconds or time.perf_counter() - began, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fitting(batch: int, flop: float, device: torch.device, least: int = 1) -> int:
    """How many images of a batch make a short repetition on a CPU; the whole batch on a GPU."""
    return batch if device.type != "cpu" else max(least, min(batch, int(SHORT / max(flop, 1))))


def _sampling(p: Params, work: Work, device: torch.device) -> Repetition:
    """One call of RePaint."""
    images = _fitting(p.inpaint.batch_size, work.unet.call, device)
    diffusion = _diffusion(p, device, p.inpaint.precision).respaced(p.inpaint.respacing)
    top = p.inpaint.respacing - 1
    known = torch.zeros(images, 1, p.model_size, p.model_size, device=device)
    x, generators = _images(p, images, device), _generators(images, device)

    def run() -> None:
        repaint(diffusion, x, known, [top, top - 1], generators)

    return Repetition(images * work.unet.call, images, run)


def _training(p: Params, work: Work, device: torch.device) -> Repetition:
    """One optimizer step in the run's micro-batches; with several cards, the part of one card alone."""
    images = _fitting(-(-p.train.batch_size // p.train.devices), work.unet.learn, device)
    micro = min(p.train.micro_batch or images, images)
    changed = p.train.model_copy(update={"batch_size": images, "micro_batch": micro})
    probed = training.Training("probe", p.model, p.process, changed, p.model_size, p.seed,
                               planes=Planes.of(p.data))
    state, schedule = training.start(probed, device), process.schedule(p.process).to(device)
    x = torch.full((2, probed.planes.all, p.model_size, p.model_size), 128, dtype=torch.uint8, device=device)

    def run() -> None:
        training.optimize(probed, state, schedule, x)

    return Repetition(images * work.unet.learn, images, run)


def _styling(p: Params, work: Work, device: torch.device) -> Repetition:
    """The last guided step, which lacks the semantic divergence unless all steps have it."""
    c, flop, last = p.style, work.guided[-1], len(work.guided) - 1
    images = _fitting(c.batch_size, flop, device)
    cls_net = features.load_cls(c.backbone, weights.RANDOM, c.input_range, device, size=c.backbone_size)
    maps = vgg.load(c.vgg, weights.RANDOM, device) if c.lambda_vgg else None
    diffusion = _diffusion(p, device, c.precision).respaced(c.respacing)
    diffusion.net.checkpointing = c.checkpointing
    judge = Judge(cls_net, maps, c, c.zecon_blocks or default_blocks(p.model))
    x, generators = _images(p, images, device), _generators(images, device)
    step = GuidedStep(judge, Targets.of(judge, x, x[:, :p.data.channels]), last)

    def run() -> None:
        with diffusion.autocast():
            step(diffusion, x, levels_of(0, x), generators)

    return Repetition(images * flop, images, run)


def _features(p: Params, work: Work, device: torch.device) -> Repetition:
    how = p.cluster
    return _looking(p, features.load(how.backbone, how.weights, how.input_range, device), work.cluster.call,
                    BATCH, device)


def _judging(p: Params, work: Work, device: torch.device) -> Repetition:
    judge = p.evaluate
    return _looking(p, features.load(judge.backbone, judge.weights, judge.input_range, device),
                    work.judge.call, judge.batch_size, device)


def _looking(p: Params, net: torch.nn.Module, flop: float, batch: int, device: torch.device) -> Repetition:
    """One batch through a backbone."""
    images = _fitting(batch, flop, device)
    pixels = torch.full((images, 3, p.data.image_size, p.data.image_size), 128.0, device=device)

    def run() -> None:
        with torch.inference_mode(), devices.exact():
            net(pixels).cpu()

    return Repetition(images * flop, images, run)


def _gan(p: Params, work: Work, device: torch.device) -> Repetition:
    """A pyramid with few steps per scale; on a CPU where that is long, one step, and only the coarse scales
    that fit."""
    few, side, how = p.gan.model_copy(update={"steps": singan.TURNS}), p.data.image_size, ""
    channels = Planes.of(p.data).all
    if device.type == "cpu" and flops.fitting(few, side, channels) > SHORT:
        few = p.gan.model_copy(update={"steps": 1})
        summed = np.cumsum(flops.by_scale(few, side, channels))
        side = singan.sides(side, few)[max(0, int((summed <= SHORT).sum()) - 1)]
        how = f"scales up to {side} pixels" if side < p.data.image_size else ""
    image = singan.resized(_images(p, 1, device), side)[0]

    def run() -> None:
        singan.fit(image, few, 0, device)

    return Repetition(flops.fitting(few, side, channels), 1, run, how)


def _segmentation(p: Params, work: Work, device: torch.device) -> Repetition:
    """An epoch of a few batches, drawn and augmented as in training."""
    batch = _fitting(p.segment.batch_size, work.segment.learn, device, least=2)
    images, side = BATCHES * batch if batch > 2 else batch, p.data.image_size
    pairs = trials.grey(images, side, Planes.of(p.data))
    once = p.segment.model_copy(update={"epochs": 1, "epoch_images": None, "batch_size": batch})

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # its bar
            return segnet.fit(pairs, pairs.take([0]), once, 0, Path(folder), {}, device, "Probe").seconds

    return Repetition(images * work.segment.learn + work.segment.call, images, run)


def _diffusion(p: Params, device: torch.device, precision: str) -> Diffusion:
    with torch.device(device):
        net = UNet(p.model, p.model_size, planes=Planes.of(p.data))
        net = net.eval().requires_grad_(False).cast_weights(precision)
    return Diffusion(net, process.schedule(p.process).to(device), p.process.objective, precision=precision)


def _images(p: Params, count: int, device: torch.device) -> torch.Tensor:
    """Noise (count, C + M, S, S) within [-1, 1]."""
    shape = count, Planes.of(p.data).all, p.model_size, p.model_size
    return seeds.normal_like(_generators(count, device), torch.empty(shape, device=device)).tanh()


def _generators(count: int, device: torch.device) -> list[torch.Generator]:
    return [seeds.generator(0, "probe", i, device=device) for i in range(count)]
