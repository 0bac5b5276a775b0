"""How fast a card trains: optimizer steps of the paper's network and of `one_gpu`'s, in several ways."""

import contextlib
import copy
from functools import partial
from typing import Any

import bench
import common
import stages
import torch
import ways
from bench import Bench, timed

from diffusegen_core.diffusion.unet import UNet, parameter_count

BY_TRIAL = "cudnn by trial"
# What is measured, the most valuable first: batch, layout, kind of step.
TRAINING = [(1, "plain", "eager"), (1, "fused", "flat graph"), (8, "plain", "eager"),
            (8, "fused", "flat graph"), (1, "channels_last", "eager"), (1, "fused", "eager"),
            (8, "channels_last", "eager"), (8, "fused", "eager"), (4, "plain", "eager"),
            (4, "fused", "flat graph"), (1, "plain", "graph"), (1, "fused", "graph")]
MORE = [(1, "fused", "flat graph, " + BY_TRIAL), (8, "fused", "flat graph, " + BY_TRIAL),
        (16, "fused", "flat graph"), (1, "plain", "eager, again")]


def training(b: Bench, wanted: list[tuple[int, str, str]]) -> None:
    """Time an optimizer step of the paper's network in bf16 for each wanted batch, layout and kind."""
    base = None
    for batch, layout, kind in wanted:
        if layout == "fused" and not b.kernels:
            continue
        name = f"training, batch {batch}: {layout}, {kind}"
        if b.call.clock.left < 20 or b.call.record.done(name):
            continue
        if base is None:
            base = ways.network(b.paper, b.device)
        b.call.stage(name, partial(training_row, b, base, batch, layout, kind))


def training_row(b: Bench, base: UNet, batch: int, layout: str, kind: str) -> dict[str, Any]:
    p = common.changed(b.paper, "train", batch_size=batch, micro_batch=None, precision="bf16")
    x = common.pixels(p, 2 * batch, b.device)
    maker = {"eager": ways.Eager, "graph": ways.Graphed, "flat graph": ways.Flat}[kind.split(",")[0]]
    trial = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
    with trial if BY_TRIAL in kind else contextlib.nullcontext():
        trainer = maker(common.training_of(p), copy.deepcopy(base), layout)
        found = timed(b, lambda: trainer.step(x), batch)
    return {"batch": batch, "layout": layout, "kind": kind, **found,
            "share_of_matmul_rate": b.share(found["images_per_second"], bench.CALLS_OF_A_STEP)}


def profile_training(b: Bench) -> None:
    """Time the package's step and the fastest one for the network and the batch of `one_gpu`."""
    for layout, kind in (("plain", "eager"), ("fused", "flat graph")):
        if layout == "fused" and not b.kernels:
            continue
        b.call.stage(f"one_gpu, training: {layout}, {kind}", partial(profile_row, b, layout, kind), least=25)


def profile_row(b: Bench, layout: str, kind: str) -> dict[str, Any]:
    p = b.one_gpu
    x = common.pixels(p, 2 * p.train.batch_size, b.device)
    net = ways.network(p, b.device)
    trainer = (ways.Flat if kind == "flat graph" else ways.Eager)(common.training_of(p), net, layout)
    return {"batch": p.train.batch_size, "parameters": parameter_count(net),
            **timed(b, lambda: trainer.step(x), p.train.batch_size, rounds=b.rounds)}


def kernel_times(b: Bench) -> dict[str, Any]:
    """The kernels of the fastest step of one image and of eight: their number, and the longest ones."""
    if not b.kernels:
        return {}
    base, found = ways.network(b.paper, b.device), {}
    for batch in (1, 8):
        p = common.changed(b.paper, "train", batch_size=batch, micro_batch=None, precision="bf16")
        x = common.pixels(p, 2 * batch, b.device)
        trainer = ways.Flat(common.training_of(p), copy.deepcopy(base))
        trainer.step(x)
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            trainer.step(x)
            torch.cuda.synchronize()
        events = [e for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
        events.sort(key=lambda e: e.self_device_time_total, reverse=True)
        found[f"batch {batch}"] = {
            "kernels": sum(e.count for e in events),
            "milliseconds": sum(e.self_device_time_total for e in events) / 1e3,
            "longest": [[e.key[:90], e.count, round(e.self_device_time_total / 1e3, 3)] for e in events[:40]]}
        del trainer
        stages.free()
    return found
