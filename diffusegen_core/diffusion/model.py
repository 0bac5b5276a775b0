"""A diffusion model as one object: network, schedule and objective together.

    diffusion = checkpoints.load("runs/mine/train/cluster-00/model.safetensors")
    pairs = diffusion.sample(10, seed=0)
    filled = diffusion.fill(image, region, n=4, seed=0)
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.maskguidance import MaskGuidance, guided_call
from diffusegen_core.diffusion.process import Reverse, Schedule
from diffusegen_core.diffusion.repaint import repaint, repaint_levels, to_array
from diffusegen_core.diffusion.samplers import Generators, named, sample
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds


@dataclass(frozen=True)
class Diffusion:
    """A network with the process that it was trained for; network and schedule are on one device.

    Images are (B, C + M, S, S) in [-1, 1]: C channels, RGB or others, and a mask of M classes as -1 or +1.
    Levels t (B,) are respaced indices.
    """

    net: UNet
    schedule: Schedule
    objective: str  # what the network predicts: "eps" or "v"
    clip: bool = True  # whether the predicted x0 is kept within [-1, 1]
    precision: str = "fp32"  # of network calls: "fp32", or "bf16" by autocast
    guidance: MaskGuidance | None = None  # towards the given masks of a batch

    @property
    def device(self) -> torch.device:
        return self.schedule.alpha_bar.device

    @property
    def image_size(self) -> int:
        """The side S of its images, in pixels."""
        return self.net.image_size

    @property
    def planes(self) -> Planes:
        """C and M."""
        return self.net.planes

    def respaced(self, count: int) -> "Diffusion":
        """The same model over `count` of its levels: `count` network calls from noise to an image."""
        if count == len(self.schedule):
            return self
        # On the CPU, so that every device computes with the same coefficients.
        return replace(self, schedule=self.schedule.to("cpu").respaced(count).to(self.device))

    def towards(self, mask: Tensor, scale: float, rest: Tensor | None = None) -> "Diffusion":
        """The same model, with images following a given mask (B, M, S, S) in [-1, 1] more strongly.

        `rest`, alike, is that mask without the lesion, by default empty. A `scale` of 1 is the model by
        itself; above 1, every step takes two network calls. Where mask and rest are the same there is nothing
        to follow, and the model is returned as it is.
        """
        rest = torch.full_like(mask, -1) if rest is None else rest
        if scale == 1 or torch.equal(mask, rest):
            return self
        return replace(self, guidance=MaskGuidance(mask.to(self.device), scale, rest.to(self.device)))

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """A context for network calls: the model's precision, and deterministic convolutions."""
        with devices.exact(), devices.autocast(self.device, self.precision):
            yield

    def call(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's raw output (B, 2 (C + M), S, S), float32; see `interpret` for its meaning."""
        if self.guidance is None:
            return process.call(self.net, self.schedule, x_t, t)
        return guided_call(self.net, self.schedule, x_t, t, self.guidance)

    def interpret(self, x_t: Tensor, t: Tensor, output: Tensor, clip: bool | None = None) -> Reverse:
        """The reverse step that a raw output means; `clip` defaults to the model's own."""
        return process.interpret(self.schedule, x_t, t, output, self.objective,
                                 self.clip if clip is None else clip)

    def reverse(self, x_t: Tensor, t: Tensor, clip: bool | None = None) -> Reverse:
        """p(x_{t-1} | x_t) and the predicted x0, from one `call`."""
        return self.interpret(x_t, t, self.call(x_t, t), clip)

    def noised(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t ~ q(x_t | x0), with the given standard normal eps."""
        return process.noised(self.schedule, x0, t, eps)

    def noised_once(self, x_prev: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_{t-1}): one level up, to level t."""
        return process.noised_once(self.schedule, x_prev, t, eps)

    def sample(self, n: int, seed: int = 0, steps: int = 50, sampler: str = "ancestral",
               batch_size: int = 16) -> Pairs:
        """`n` new pairs from noise, in `steps` network calls each; `sampler` is one of SAMPLERS.

        Mask channels are cut at their mid-value; where classes exclude each other, a pixel is of the one with
        the highest value. Pair i depends on `seed` and i alone, whatever `n` and `batch_size` are.
        """
        step, model = named(sampler), self._over(steps)
        shape = (self.planes.all, self.image_size, self.image_size)
        batches = [sample(model, shape, self._generators(seed, "sample", part), step)
                   for part in _parts(n, batch_size)]
        return _pairs("sample", torch.cat(batches), self.planes)

    def fill(self, image: np.ndarray, region: np.ndarray, n: int = 1, seed: int = 0,
             mask: np.ndarray | None = None, guidance_scale: float = 1.0, respacing: int = 50,
             jump_length: int = 10, resampling: int = 3, batch_size: int = 16) -> Pairs:
        """`n` pairs from a given image, whose `region` RePaint paints anew.

        `image` is (C, S, S) or (S, S, C), uint8, or (S, S) where C is 1; `region` (S, S) is nonzero where to
        fill. Outside it the image comes back byte for byte. `mask` (S, S) holds class numbers, 0 where there
        is no lesion; without it the model decides where in the region lesions are; outside there are none.
        With a `guidance_scale` above 1 the image follows a given mask more strongly (see `towards`). Result i
        depends on `seed` and i alone. Higher `respacing` and `resampling` take longer and fit better (see
        `repaint`); `jump_length` must be below `respacing` unless `resampling` is 1.

        The defaults suit a few images. Chapter 3 and `run.paint` use the run's `inpaint` parameters instead:
        by default 25 steps that never jump back, with borders matched if `inpaint.seamless` is set.
        """
        model, side = self._over(respacing), self.image_size
        if mask is None and guidance_scale != 1:
            raise UserError("guidance_scale is how strongly images follow a given mask: give a mask with it.")
        _refuse_below_one(jump_length=jump_length, resampling=resampling, guidance_scale=guidance_scale)
        levels = repaint_levels(respacing, jump_length, resampling)
        channels, classes = self.planes.channels, self.planes.classes
        given, fill = _planar(image, channels, side), _plane("region", region, side)
        lesion = (np.zeros((side, side), np.uint8) if mask is None
                  else _plane("mask", mask, side, self.planes.numbers))
        known = np.repeat(1 - fill[None], self.planes.all, axis=0)
        if mask is not None:
            known[channels:] = 1
        pair = dataset.gather(["given"], given[None], planes.separate(lesion, classes)[None])
        batches = []
        for part in _parts(n, batch_size):
            repeated = (len(part), -1, -1, -1)
            x = dataset.to_tensor(pair).to(self.device).expand(repeated)
            batches.append(repaint(
                model.towards(x[:, channels:], guidance_scale), x,
                torch.from_numpy(known)[None].float().to(self.device).expand(repeated),
                levels, self._generators(seed, "fill", part)))
        filled = _pairs("fill", torch.cat(batches), self.planes)
        return dataset.gather(filled.names, np.where(fill > 0, filled.images, given), filled.masks,
                              filled.overlap)

    def _over(self, steps: int) -> "Diffusion":
        """As `respaced`, for a number given by the user: UserError where it is out of range."""
        if not 1 <= steps <= len(self.schedule):
            raise UserError(f"{steps} steps are not possible: choose 1 to {len(self.schedule)}.")
        return self.respaced(steps)

    def _generators(self, seed: int, what: str, numbers: range) -> Generators:
        return [seeds.generator(seed, what, number, device=self.device) for number in numbers]


def _parts(n: int, batch_size: int) -> list[range]:
    """The numbers of `n` images from 0, in batches."""
    _refuse_below_one(n=n, batch_size=batch_size)
    return [range(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def _refuse_below_one(**numbers: float) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name} must be 1 or more; it is {value}.")


def _pairs(what: str, x: Tensor, kind: Planes) -> Pairs:
    """Pairs from images (N, C + M, S, S) in [-1, 1]; masks are cut at their mid-value."""
    pixels = to_array(x)
    names = [f"{what}_{number:04d}" for number in range(len(pixels))]
    masks = planes.separate(planes.decided(pixels[:, kind.channels:], overlap=kind.overlap), kind.classes)
    return dataset.gather(names, dataset.to_bytes(pixels[:, :kind.channels]), masks, kind.overlap)


def _planar(image: np.ndarray, channels: int, side: int) -> np.ndarray:
    """An image as (C, S, S) uint8."""
    pixels = np.asarray(image)
    if channels == 1 and pixels.shape == (side, side):
        pixels = pixels[None]
    if pixels.shape == (side, side, channels):
        pixels = pixels.transpose(2, 0, 1)
    if pixels.shape != (channels, side, side) or pixels.dtype != np.uint8:
        raise UserError(f"The image must be ({side}, {side}, {channels}) or ({channels}, {side}, {side}), "
                        f"uint8; it is {pixels.shape}, {pixels.dtype}.")
    return pixels


def _plane(what: str, values: np.ndarray, side: int, highest: int = 1) -> np.ndarray:
    """A region in {0, 1} or a mask of class numbers, (S, S) uint8; if 1 is the highest, any nonzero is 1."""
    plane = np.asarray(values)
    if plane.shape != (side, side):
        raise UserError(f"The {what} must be ({side}, {side}); it is {plane.shape}.")
    if highest == 1:
        return (plane != 0).astype(np.uint8)
    if not np.isin(plane, range(highest + 1)).all():
        raise UserError(f"The {what} must hold class numbers, 0 to {highest}.")
    return plane.astype(np.uint8)
