"""The model of a real run: training for a share of the clock, the averaged weights, whole samples."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import realpairs
import torch
import ways
from realwork import OTHERS, Work
from torch import Tensor

from diffusegen_core.config import params
from diffusegen_core.data import dataset
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.diffusion import checkpoints, origins, process, samplers, training
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.store import files, seeds

SHARE = 0.5  # of the call's time limit is for training
TINY_STEPS = 20  # in a rehearsal's training
FALL = 0.35  # the last share of the training, in which the learning rate falls
LEAST_RATE = 0.03  # the share of its value to which it falls
LOOK, KEEP = 15.0, 60.0  # seconds between two looks at the held-out loss, between two checkpoints
CLOSE = 0.05  # the largest relative difference of the first losses from the package's
BURST = 25  # steps between two looks at the clock
SAMPLES, STEPS = 64, 50
AVERAGE, CHECKPOINT = "average.safetensors", "checkpoint.safetensors"
COLUMNS = ["step", "seconds", "loss", "mse", "vb", "held_out_v"]  # of a training's table
PART = 13 * 2**20  # the most bytes of a file of weights


def trainer_of(w: Work) -> tuple[ways.Trainer, str]:
    """The fastest way to train that works here, tried against the package's own, and what it is."""
    net = untrained(w)
    if not w.kernels:
        return ways.Eager(w.training, net), "eager"
    try:
        x = pixels(w, w.train)
        losses, wanted = (torch.stack([trial.step(x)[0].clone() for _ in range(3)])
                          for trial in (ways.Flat(w.training, untrained(w)),
                                        ways.Eager(w.training, untrained(w))))
        apart = float((losses - wanted).abs().max() / wanted.abs().max())
        if apart < CLOSE:
            return ways.Flat(w.training, net), f"flat graph, its losses within {apart:.1e} of the package's"
        return ways.Eager(w.training, net), f"eager: the flat graph's losses are off by {apart:.1e}"
    except Exception as error:  # whatever it is, the package's own way remains
        return ways.Eager(w.training, net), f"eager: {type(error).__name__}: {error}"[:300]


def untrained(w: Work) -> UNet:
    return training.start(w.training, w.device).net


def pixels(w: Work, pairs: Pairs) -> Tensor:
    return torch.from_numpy(dataset.to_bytes(dataset.to_tensor(pairs).numpy())).to(w.device)


def train(w: Work) -> dict[str, Any]:
    """Train until the share of the clock is spent, from the last checkpoint if there is one; keep the average
    with the lowest loss on pairs used neither for training nor for testing."""
    trainer, way = trainer_of(w)
    x, watch = pixels(w, w.train), Watch(w)
    state = resume(w, trainer)
    began = time.monotonic() - state["seconds"]
    looked = kept = state["seconds"]
    sums, count = torch.zeros(3, device=w.device), 0
    while (share := share_done(w, trainer, time.monotonic() - began)) < 1:
        fallen = max(0.0, (share - 1 + FALL) / FALL)
        trainer.set_rate(w.p.train.lr * (1 - (1 - LEAST_RATE) * fallen))
        for _ in range(BURST):
            sums += trainer.step(x)
        count += BURST
        if w.device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.monotonic() - began
        if spent - kept > KEEP:
            checkpoint(w, trainer, state, spent)
            kept = spent
        if spent - looked > LOOK or share_done(w, trainer, spent) >= 1:
            state["rows"].append([trainer.number, round(spent, 2), *(sums / count).tolist(),
                                  watch.look(trainer)])
            sums, count, looked = torch.zeros(3, device=w.device), 0, spent
    if not watch.best:  # resumed when its time was up already
        watch.look(trainer)
    seconds = time.monotonic() - began
    watch.save()
    (w.folder / CHECKPOINT).unlink(missing_ok=True)
    images = trainer.number * w.p.train.batch_size
    return {"way": way, "steps": trainer.number, "images": images, "train_seconds": round(seconds, 2),
            "images_per_second": images / seconds, "parameters": parameter_count(trainer.net),
            "kept": {"step": watch.step, "held_out_v": watch.least}, "columns": COLUMNS,
            "rows": state["rows"]}


def share_done(w: Work, trainer: ways.Trainer, seconds: float) -> float:
    """The share of the training that is done: by the clock, or in a rehearsal by steps."""
    return trainer.number / TINY_STEPS if w.tiny else seconds / (SHARE * w.call.clock.limit)


class Watch:
    """The loss of v on held-out pairs, always with the same noise, and the average with the lowest."""

    def __init__(self, w: Work) -> None:
        self.w, self.least, self.step, self.best = w, float("inf"), 0, {}
        net = UNet(w.p.model, w.p.data.image_size).to(w.device).eval().requires_grad_(False)
        self.diffusion = ways.diffusion(w.p, fast(w, net.cast_weights(w.p.inpaint.precision)), w.device,
                                        w.p.train.precision)
        pairs = w.watch
        self.x0 = dataset.to_tensor(pairs).to(w.device)
        g = seeds.generator(0, "watch", device=w.device)
        self.eps = torch.randn(self.x0.shape, generator=g, device=w.device)
        top = len(self.diffusion.schedule) - 1
        self.t = torch.arange(len(pairs), device=w.device) * top // max(1, len(pairs) - 1)

    @torch.no_grad()
    def look(self, trainer: ways.Trainer) -> float:
        average, diffusion = trainer.state("average"), self.diffusion
        diffusion.net.load_state_dict(average)
        found = []
        for first in range(0, len(self.x0), 50):
            part = slice(first, first + 50)
            x0, t, eps = self.x0[part], self.t[part], self.eps[part]
            with diffusion.autocast():
                v = diffusion.call(diffusion.noised(x0, t, eps), t).chunk(2, dim=1)[0]
            target = process.velocity(diffusion.schedule, x0, t, eps)
            found.append((v - target).square().flatten(1).mean(1))
        loss = float(torch.cat(found).mean())
        if loss <= self.least:
            self.least, self.step = loss, trainer.number
            self.best = {name: value.clone() for name, value in average.items()}
        print(f"[{self.w.call.clock.spent:6.1f} s] step {trainer.number}, held-out loss {loss:.4f}",
              flush=True)
        return loss

    def save(self) -> None:
        """Keep the best average in the work folder."""
        w, average = self.w, {f"ema.{name}": value for name, value in self.best.items()}
        checkpoints.save(w.folder / AVERAGE, average, {
            "configuration": checkpoints.configuration(w.p.model, w.p.process, w.p.data.image_size),
            "seen": origins.fingerprints(w.train), "step": self.step})


def checkpoint(w: Work, trainer: ways.Trainer, state: dict[str, Any], seconds: float) -> None:
    tensors = {f"{kind}.{name}": value for kind in ways.KINDS for name, value in trainer.state(kind).items()}
    checkpoints.save(w.folder / CHECKPOINT, tensors, {
        "recipe": {"model": params.plain(w.p.model)}, "number": trainer.number, "seconds": seconds,
        "rows": state["rows"]}, hashed=False)


def resume(w: Work, trainer: ways.Trainer) -> dict[str, Any]:
    header = checkpoints.left(w.folder / CHECKPOINT)
    if header is None or header["recipe"]["model"] != params.plain(w.p.model):
        return {"rows": [], "seconds": 0.0}
    tensors, _ = checkpoints.read(w.folder / CHECKPOINT)
    for kind in ways.KINDS:
        trainer.load(kind, checkpoints.part(tensors, f"{kind}."))
    trainer.set_number(header["number"])
    print(f"The training goes on at step {header['number']}.", flush=True)
    return {"rows": header["rows"], "seconds": header["seconds"]}


def fast(w: Work, net: UNet) -> UNet:
    """The same network, with the kernels of `fused` where they run."""
    return ways.laid_out(net, "fused") if w.kernels else net


def weights_back(w: Work) -> None:
    """Load the finished average, possibly of an earlier call."""
    diffusion = checkpoints.load(w.folder / AVERAGE, device=w.device, precision=w.p.inpaint.precision)
    w.diffusion = replace(diffusion, net=fast(w, diffusion.net))


def keep_weights(w: Work) -> dict[str, Any]:
    """Write the average as bf16, in files of limited size."""
    tensors, header = checkpoints.read(w.folder / AVERAGE)
    parts: list[dict[str, Tensor]] = [{}]
    room = PART
    for name, value in tensors.items():
        size = 2 * value.numel()
        if size > room:
            parts.append({})
            room = PART
        parts[-1][name] = value.bfloat16()
        room -= size
    written = [checkpoints.save(w.out / f"model-{i}of{len(parts)}.safetensors", part, header)
               for i, part in enumerate(parts, 1)]
    return {"files": {file.name: files.sha256(file) for file in written}}


def sample(w: Work) -> dict[str, Any]:
    """Sample whole pairs from noise, which show no real image."""
    count = 4 if w.tiny else SAMPLES
    diffusion = w.diffusion.respaced(4 if w.tiny else STEPS)
    own = [seeds.generator(w.p.seed, "samples", i, device=w.device) for i in range(count)]
    side = w.p.data.image_size
    began = time.monotonic()
    x = samplers.sample(diffusion, (RGB_AND_MASK.all, side, side), own).float().cpu().numpy()
    images, masks = dataset.to_bytes(x[:, :3]), (x[:, 3] > 0).astype(np.uint8)
    np.savez(w.folder / "samples.npz", images=images, masks=masks)
    names = [f"sample_{i:02d}" for i in range(count)]
    realpairs.archive(w.out / OTHERS, "samples", names, images, masks, [], lossless=True)
    return {"images": count, "steps": len(diffusion.schedule),
            "sample_seconds": round(time.monotonic() - began, 2),
            "empty masks": int((~masks.any(axis=(1, 2))).sum())}
