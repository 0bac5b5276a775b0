"""A model of the 348 pairs in a few minutes, painted pairs, and what they are worth, in one call.

In the order of their worth: training for a share of the clock, the averaged weights, samples, pairs with
known masks, pairs by chapter 3's way, pasted lesions, distances, and networks trained on small sets. A
further call goes on where the work folder tells; the files of the folder `out` are to come back.
"""

import csv
import io
import json
import shutil
import tarfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import painting
import smallsets
import stages
import torch
import ways
from PIL import Image
from torch import Tensor

from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import FULL
from diffusegen_core.diffusion import checkpoints, process, samplers, training
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.training import Training
from diffusegen_core.diffusion.unet import IN_CHANNELS, UNet, parameter_count
from diffusegen_core.measures import metrics
from diffusegen_core.store import files, seeds
from diffusegen_core.store.workspace import Workspace

VALUES: dict[str, Any] = {
    "profile": "card", "device": "auto", "seed": 0,
    "data": {"subset": "all", "count": None, "image_size": 128},
    "cluster": {"k": 1},
    "model": {"base_channels": 96, "channel_mult": [1, 1, 2, 2, 2], "res_blocks": 1,
              "attention_resolutions": [16, 8], "head_channels": 32},
    "process": {"objective": "v", "variance": "posterior"},
    "train": {"batch_size": 16, "lr": 4e-4, "ema": 0.9995, "grad_clip": 1.0, "precision": "bf16"},
    "inpaint": {"samples": 3, "sources": None, "respacing": 25, "jump_length": 5, "resampling": 1,
                "batch_size": 87, "precision": "bf16"},
    "evaluate": {"backbone": "mobilenet_v2", "input_range": "symmetric", "batch_size": 64, "workers": 8},
    "segment": {"encoder": "mobilenet_v2", "input_range": "symmetric", "decoder_channels": [128, 64, 32, 16],
                "epochs": 60, "epoch_images": 64, "lr": 1e-3, "lr_epochs": 40, "lr_after": 1e-4,
                "precision": "bf16", "checkpoint_every": 10000},
    "augment": {"sizes": [16, 32, 64, 128], "ratios": [3], "alpha": 0.5, "rule": "replace"},
}
TINY: dict[str, dict[str, Any]] = {
    "data": {"image_size": 32},
    "model": {"base_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [16]},
    "train": {"batch_size": 4},
    "inpaint": {"samples": 3, "sources": 6, "respacing": 4, "jump_length": 2, "batch_size": 6},
    "evaluate": {"backbone": "timm/test_nfnet", "weights": "random", "workers": 0},
    "segment": {"encoder": "tu-test_resnet", "weights": "random", "decoder_channels": [8, 8, 8], "epochs": 1,
                "epoch_images": 8, "lr_epochs": 1},
    "augment": {"sizes": [5]},
}
SHARE = 0.5  # of the call's limit, for training
TINY_STEPS = 20  # of a rehearsal's training
FALL = 0.35  # the last part of the training, in which the learning rate falls to
LEAST_RATE = 0.03  # of its value
LOOK, KEEP = 15.0, 60.0  # seconds between two looks at the held-out loss, between two checkpoints
BURST = 25  # steps between two looks at the clock
SAMPLES, STEPS = 64, 50
JOINT_SOURCES = 120
JOINT = {"respacing": 50, "jump_length": 10, "resampling": 3}  # one_gpu's
AVERAGE, CHECKPOINT = "average.safetensors", "checkpoint.safetensors"
COLUMNS = ["step", "seconds", "loss", "mse", "vb", "held_out_v"]  # of a training's rows
PART = 13 * 2**20  # bytes of a file of weights, at most
QUALITY = 92  # of JPEG files
EQUAL, DRAWS = 100, 3  # images of a set whose distance is taken, and such sets
WORKERS = {False: 12, True: 2}  # processes for small networks; of a rehearsal
OTHERS = "others.tar"  # samples and chapter 3's pairs: few files may come back
VARIED, OWN, JOINED, PASTED = "Paint-varied", "Paint-own", "1-Diff", "Paste"


@dataclass
class Work:
    """What the stages share."""

    call: stages.Call
    device: torch.device
    p: Params
    home: Path
    folder: Path
    out: Path
    tiny: bool
    train: Pairs | None = None
    test: Pairs | None = None
    watch: Pairs | None = None
    diffusion: Diffusion | None = None
    """The averaged weights, to sample with."""
    sets: dict[str, "Made"] = field(default_factory=dict)

    @property
    def training(self) -> Training:
        return Training(FULL, self.p.model, self.p.process, self.p.train, self.p.data.image_size, self.p.seed)

    @property
    def sources(self) -> int:
        return min(len(self.train), self.p.inpaint.sources or len(self.train))


@dataclass(frozen=True)
class Made:
    """Pairs of one data type; all arrays have the pair first."""

    images: np.ndarray
    """(N, 3, S, S) uint8."""
    masks: np.ndarray
    """(N, S, S) in {0, 1}."""
    regions: np.ndarray
    """(N, S, S), what was painted."""
    sources: np.ndarray
    """(N,) int, places among the training pairs."""
    samples: np.ndarray
    """(N,) int, from 1."""
    donors: np.ndarray
    """(N,) int, where the mask is from; -1: painted too."""


def parameters(home: Path, folder: Path, device: torch.device, tiny: bool) -> Params:
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in VALUES.items()}
    weights = str(home / "weights" / "mobilenet_v2_imagenet.pth")
    values["evaluate"]["weights"] = values["segment"]["weights"] = weights
    for name, part in TINY.items() if tiny else ():
        values[name] |= part
    if tiny and device.type == "cpu":  # where bf16 is slow at this size
        for name in ("train", "inpaint", "segment"):
            values[name]["precision"] = "fp32"
    values["data"]["source"] = str(home / "kvasir")
    return params.validate({**values, "device": str(device), "run_dir": str(folder / "run")})


def run(call: stages.Call, device: torch.device, home: Path, folder: Path, out: Path, tiny: bool) -> None:
    """All stages, in the order of their worth, as far as there is time."""
    p = parameters(home.resolve(), folder.resolve(), device, tiny)
    w = Work(call, device, p, home.resolve(), folder.resolve(), out.resolve(), tiny)
    call.record.facts["params"] = without_paths(p)
    team = smallsets.Team(w.folder, p, device, WORKERS[tiny])
    try:
        read_pairs(w)
        files.write_json(w.folder / "params.json", params.plain(p))
        call.stage("training", partial(train, w), least=0)
        weights_back(w)
        call.stage("weights", partial(keep_weights, w))
        call.stage("samples", partial(sample, w))
        for name, make in ((VARIED, partial(known_masks, w, True)), (OWN, partial(known_masks, w, False)),
                           (PASTED, partial(paste, w)), (JOINED, partial(joined, w))):
            call.stage(name, partial(pairs_of, w, name, make), least=12)
            pairs_back(w, name)
        team.begin(list(smallsets.planned(p, w.sets, w.tiny)), call.record)
        call.stage("distances", partial(distances, w), least=15)
        call.stage("seams", partial(seams, w), least=8)
        team.gather(call, reserve=8)
    finally:
        team.end()


def without_paths(p: Params) -> dict[str, Any]:
    """The parameters, of paths the names alone."""
    values = params.plain(p)
    values["run_dir"], values["data"]["source"] = None, "kvasir"
    for part in ("evaluate", "segment"):
        values[part]["weights"] = Path(values[part]["weights"]).name
    return values


def read_pairs(w: Work) -> None:
    pairs = dataset.load(Workspace(w.p.folder, w.p.seed, w.p.device), w.p.data)
    split = json.loads((w.home / "kvasir" / "split.json").read_text())
    w.train, w.test, w.watch = (pairs.named(split[part]) for part in ("train", "test", "watch"))
    smallsets.store(w.folder / "real.npz", w.train, w.test)
    w.call.record.facts["pairs"] = {part: len(split[part]) for part in split}
    print(f"[{w.call.clock.spent:6.1f} s] {len(pairs)} pairs are read.", flush=True)


# ---- the model


def trainer_of(w: Work) -> tuple[ways.Trainer, str]:
    """The fastest way to train that works here, by a trial against the package's own."""
    net = untrained(w)
    if w.device.type == "cuda" and not w.call.record.facts.get("pretended"):
        try:
            trial, x = ways.Flat(w.training, untrained(w)), pixels(w, w.train)
            losses = torch.stack([trial.step(x).clone() for _ in range(3)])
            eager = ways.Eager(w.training, untrained(w))
            wanted = torch.stack([eager.step(x).clone() for _ in range(3)])
            apart = float((losses[:, 0] - wanted[:, 0]).abs().max() / wanted[:, 0].abs().max())
            if apart < 0.05:
                way = f"flat graph, its losses within {apart:.1e} of the package's"
                return ways.Flat(w.training, net), way
            return ways.Eager(w.training, net), f"eager: the flat graph's losses are off by {apart:.1e}"
        except Exception as error:  # whatever it is, the package's own way is there
            return ways.Eager(w.training, net), f"eager: {type(error).__name__}: {error}"[:300]
    return ways.Eager(w.training, net), "eager"


def untrained(w: Work) -> UNet:
    return training.start(w.training, w.device).net


def pixels(w: Work, pairs: Pairs) -> Tensor:
    return torch.from_numpy(dataset.to_bytes(dataset.to_tensor(pairs).numpy())).to(w.device)


def train(w: Work) -> dict[str, Any]:
    """Train until its share of the clock is spent, from the last checkpoint if there is one; keep the average
    with the least loss on pairs that are neither trained on nor tested."""
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
    if not watch.best:  # its time was up when it was continued
        watch.look(trainer)
    seconds = time.monotonic() - began
    average = {f"ema.{name}": value for name, value in watch.best.items()}
    checkpoints.save(w.folder / AVERAGE, average, {
        "configuration": checkpoints.configuration(w.p.model, w.p.process, w.p.data.image_size),
        "seen": checkpoints.fingerprints(w.train), "step": watch.step})
    (w.folder / CHECKPOINT).unlink(missing_ok=True)
    images = trainer.number * w.p.train.batch_size
    return {"way": way, "steps": trainer.number, "images": images, "train_seconds": round(seconds, 2),
            "images_per_second": images / seconds, "parameters": parameter_count(trainer.net),
            "kept": {"step": watch.step, "held_out_v": watch.least}, "columns": COLUMNS,
            "rows": state["rows"]}


def share_done(w: Work, trainer: ways.Trainer, seconds: float) -> float:
    """Of the training: by the clock, and in a rehearsal by steps."""
    return trainer.number / TINY_STEPS if w.tiny else seconds / (SHARE * w.call.clock.limit)


class Watch:
    """The loss of v over held-out pairs, always with the same noise, and the average that has the least."""

    def __init__(self, w: Work) -> None:
        self.w, self.least, self.step, self.best = w, float("inf"), 0, {}
        net = UNet(w.p.model, w.p.data.image_size).to(w.device).eval().requires_grad_(False)
        self.diffusion = ways.diffusion(w.p, fast(w, net.fixed(w.p.inpaint.precision)), w.device,
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
    """The same network, by the kernels of `fused` where they run."""
    kernels = w.device.type == "cuda" and not w.call.record.facts.get("pretended")
    return ways.laid_out(net, "fused") if kernels else net


def weights_back(w: Work) -> None:
    """The finished average, also after a call before."""
    diffusion = checkpoints.load(w.folder / AVERAGE, device=w.device, precision=w.p.inpaint.precision)
    w.diffusion = replace(diffusion, net=fast(w, diffusion.net))


def keep_weights(w: Work) -> dict[str, Any]:
    """The average as bf16, in files of limited size."""
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
    """Whole pairs from noise, which show no real image."""
    count = 4 if w.tiny else SAMPLES
    diffusion = w.diffusion.respaced(4 if w.tiny else STEPS)
    own = [seeds.generator(w.p.seed, "samples", i, device=w.device) for i in range(count)]
    side = w.p.data.image_size
    began = time.monotonic()
    x = samplers.sample(diffusion, (IN_CHANNELS, side, side), own).float().cpu().numpy()
    images, masks = dataset.to_bytes(x[:, :3]), (x[:, 3] > 0).astype(np.uint8)
    np.savez(w.folder / "samples.npz", images=images, masks=masks)
    names = [f"sample_{i:02d}" for i in range(count)]
    archive(w.out / OTHERS, "samples", names, images, masks, [], lossless=True)
    return {"images": count, "steps": len(diffusion.schedule),
            "sample_seconds": round(time.monotonic() - began, 2),
            "empty masks": int((~masks.any(axis=(1, 2))).sum())}


# ---- pairs


def jobs(w: Work) -> list[tuple[int, int]]:
    """Source and sample number of every pair, whole samples first."""
    return [(source, sample) for sample in range(1, w.p.inpaint.samples + 1) for source in range(w.sources)]


def placements(w: Work) -> list[painting.Placed]:
    return [painting.placed(w.train, source, w.p.inpaint, w.p.seed, "varied", w.train.names[source], sample)
            for source, sample in jobs(w)]


def known_masks(w: Work, varied: bool) -> Made:
    """Painted pairs with masks of other training pairs, or with the source's own."""
    every = jobs(w)
    lesions = placements(w) if varied else []
    sources = np.array([source for source, _ in every])
    old = w.train.masks[sources, 0]
    masks = np.stack([lesion.mask for lesion in lesions]) if varied else old
    filled = painting.filled(old, masks, w.p.inpaint)
    images = np.empty((len(every), *w.train.images.shape[1:]), np.uint8)
    own = [seeds.derive(w.p.seed, "paint", varied, w.train.names[source], sample) for source, sample in every]

    def make(part: slice) -> None:
        images[part] = painting.paint(w.diffusion, w.p.inpaint, w.train.images[sources[part]], filled[part],
                                      masks[part], own[part])

    painting.batched(len(every), w.p.inpaint.batch_size, make)
    donors = np.array([lesion.donor for lesion in lesions]) if varied else sources
    return Made(images, masks, filled, sources, np.array([sample for _, sample in every]), donors)


def paste(w: Work) -> Made:
    """The baseline without a model: real lesions of other pairs, at the places of the varied masks."""
    every, lesions = jobs(w), placements(w)
    found = [painting.pasted(w.train, source, lesion)
             for (source, _), lesion in zip(every, lesions, strict=True)]
    images, masks = (np.stack(part) for part in zip(*found, strict=True))
    return Made(images, masks, np.stack([lesion.mask for lesion in lesions]),
                np.array([source for source, _ in every]), np.array([sample for _, sample in every]),
                np.array([lesion.donor for lesion in lesions]))


def joined(w: Work) -> Made:
    """Chapter 3's pairs, mask and lesion painted together, one of each source; without the empty ones."""
    settings = w.p.inpaint if w.tiny else w.p.inpaint.model_copy(update=JOINT)
    sources = np.arange(min(JOINT_SOURCES, w.sources))
    images = np.empty((len(sources), *w.train.images.shape[1:]), np.uint8)
    masks = np.empty((len(sources), *images.shape[2:]), np.uint8)
    own = [seeds.derive(w.p.seed, "joint", w.train.names[source]) for source in sources]

    def make(part: slice) -> None:
        images[part], masks[part] = painting.joint(w.diffusion, settings, w.train.images[sources[part]],
                                                   w.train.masks[sources[part], 0], own[part])

    painting.batched(len(sources), w.p.inpaint.batch_size, make)
    filled = regions.all_dilated(w.train.masks[sources], settings.dilate)
    there = masks.any(axis=(1, 2))
    return Made(images[there], masks[there], filled[there], sources[there],
                np.ones(there.sum(), int), np.full(there.sum(), -1))


def pairs_of(w: Work, name: str, make: Any) -> dict[str, Any]:
    """Make the pairs of a data type and keep them: as arrays to go on with, as an archive to come back."""
    began = time.monotonic()
    made = make()
    seconds = time.monotonic() - began
    names = [f"{w.train.names[source]}_{sample}"
             for source, sample in zip(made.sources, made.samples, strict=True)]
    rows = [["name", "source", "sample", "mask_of", "area", "area_before", "painted"]] + [
        [name, w.train.names[source], sample, w.train.names[donor] if donor >= 0 else "",
         round(float(mask.mean()), 6), round(float(w.train.masks[source].mean()), 6),
         round(float(region.mean()), 6)]
        for name, source, sample, donor, mask, region in zip(
            names, made.sources, made.samples, made.donors, made.masks, made.regions, strict=True)]
    if name != PASTED:  # which anybody can make again from the real pairs
        archive(w.out / (OTHERS if name == JOINED else f"{name}.tar"), name, names, made.images, made.masks,
                rows)
    np.savez(w.folder / f"{name}.npz", **vars(made))
    return {"pairs": len(names), "make_seconds": round(seconds, 2),
            "pairs_per_second": len(names) / seconds, "mean area": float(made.masks.mean()),
            "mean area of the sources": float(w.train.masks[made.sources].mean()),
            "of": min(JOINT_SOURCES, w.sources) if name == JOINED else len(jobs(w)),
            "own masks kept": int((made.donors == made.sources).sum())}


def pairs_back(w: Work, name: str) -> None:
    """The pairs of a data type, if they are there."""
    file = w.folder / f"{name}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            w.sets[name] = Made(**{key: stored[key] for key in stored.files})


def archive(path: Path, folder: str, names: list[str], images: np.ndarray, masks: np.ndarray,
            rows: list[list[Any]], lossless: bool = False) -> None:
    """Add pairs to a tar file: FOLDER/images/NAME.jpg (or .png), masks/NAME.png, the rows as manifest.csv."""
    ending, options = ("png", {}) if lossless else ("jpg", {"quality": QUALITY})
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    contents = {"manifest.csv": text.getvalue().encode()} if rows else {}
    for name, image, mask in zip(names, images, masks, strict=True):
        contents[f"images/{name}.{ending}"] = encoded(image.transpose(1, 2, 0), ending, **options)
        contents[f"masks/{name}.png"] = encoded(mask * 255, "png")

    def save(file: Path) -> None:
        if path.exists():
            shutil.copy(path, file)
        with tarfile.open(file, "a" if path.exists() else "w") as tar:
            for name, content in contents.items():
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    files.write(path, save)


def encoded(pixels: np.ndarray, ending: str, **options: Any) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(held, "JPEG" if ending == "jpg" else "PNG", **options)
    return held.getvalue()


# ---- measures


def distances(w: Work) -> dict[str, Any]:
    """Chapter 5's distances to the test images, of sets of equal size; the floor is other held-out images."""
    e, rng = w.p.evaluate, seeds.rng(w.p.seed, "distances")
    groups = {"held-out real (floor)": w.watch.images, "training real": w.train.images,
              **{name: made.images for name, made in w.sets.items()}}
    if (file := w.folder / "samples.npz").is_file():
        with np.load(file) as stored:
            groups["whole samples"] = stored["images"]
    equal = min(EQUAL, *(len(images) for images in groups.values()))
    frechet, kernel = metrics.names(e)
    real = metrics.extract(w.test.images, e, w.device, title="test")
    found = {}
    for name, images in groups.items():
        draws = [rng.permutation(len(images))[:equal] for _ in range(DRAWS)]
        chosen = np.unique(np.concatenate(draws))
        features = metrics.extract(images[chosen], e, w.device, title=name)
        rows = dict(zip(chosen.tolist(), features, strict=True))
        sets = [np.stack([rows[i] for i in draw.tolist()]) for draw in draws]
        found[name] = {frechet: [frechet_distance(one, real) for one in sets],
                       kernel: [metrics.kernel(one, real, w.p.seed, e.kernel_subsets, e.kernel_size)
                                for one in sets]}
    return {"images a set": equal, "against": len(real), "backbone": metrics.backbone(e), "distances": found}


# |mean - mean'|^2 + tr S + tr S' - 2 tr sqrt(S S'); the last trace is the nuclear norm of X X'^T, of the
# centred rows, over sqrt((n - 1) (n' - 1))
def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """metrics.frechet of features (N, D) and (M, D), for fewer images than features: no root of D x D."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    means = a.mean(axis=0), b.mean(axis=0)
    x, y = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((a, b), means, strict=True))
    return float(np.square(means[0] - means[1]).sum() + np.square(x).sum() + np.square(y).sum()
                 - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum())


def seams(w: Work) -> dict[str, Any]:
    """The contrast at the border of what was painted, and that of the sources at the same places."""
    found = {}
    for name, made in w.sets.items():
        pairs = zip(made.images, w.train.images[made.sources], made.regions, strict=True)
        rows = np.array([[regions.seam(image, region), regions.seam(source, region)]
                         for image, source, region in pairs])
        found[name] = dict(zip(("made", "source"), rows.mean(axis=0).tolist(), strict=True))
    return {"grey levels": found}
