"""Ours and three other libraries, each used through its own interface and as in its documentation.

A network is made by its width: it has our levels, residual blocks and attention as far as the library can
have them, and `width` times our multipliers as channels. What a training loop does besides the step (reading
images, logging, saving, Accelerate's wrappers) is left out, in their favour; so are a weight average where
their documentation keeps none, and a learned variance, which ours always has. Other libraries are imported
only when used: tests and help need none of them. Attention is their default, in MONAI and
denoising-diffusion-pytorch the plain formula: fused, their times differ by at most 3 % on a CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import inpaint
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusegen_core.config import devices
from diffusegen_core.config.params import Params
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.diffusion import process, training
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import network_calls, repaint_levels
from diffusegen_core.diffusion.unet import GROUPS, UNet

CPU = torch.device("cpu")
Call = Callable[[], object]


@dataclass(frozen=True)
class RePaint:
    """An inpainting schedule: one jump back by `jump_length` levels, made `resampling - 1` times."""

    respacing: int = 8
    jump_length: int = 4
    resampling: int = 2

    @property
    def levels(self) -> list[int]:
        return repaint_levels(self.respacing, self.jump_length, self.resampling)

    @property
    def calls(self) -> int:
        """Network calls for each image."""
        return network_calls(self.levels)


class Library:
    """What is timed of a library. Images are (B, 4, S, S) on the CPU, uint8 in training."""

    name = ""  # also of its distribution
    width_step = GROUPS  # what a network's width must be a multiple of
    lacks: dict[str, str] = {}  # noqa: RUF012 - kinds of work that it cannot do -> why

    def network(self, p: Params, width: int) -> nn.Module:
        """An untrained network, called with x_t and timesteps (B,)."""
        raise NotImplementedError

    def training(self, net: nn.Module, p: Params, x: Tensor, precision: str) -> Call:
        """Each call is an optimizer step of p.train.batch_size images."""
        raise NotImplementedError

    def sampling(self, net: nn.Module, p: Params, count: int, calls: int, precision: str) -> Call:
        """Each call draws `count` images in `calls` network calls."""
        raise NotImplementedError

    def inpainting(self, net: nn.Module, p: Params, x: Tensor, known: Tensor, schedule: RePaint,
                   precision: str) -> Call:
        """Each call fills x, in [-1, 1], where `known` (B, 1, S, S) is 0."""
        raise NotImplementedError


class Ours(Library):
    name = "diffusegen"

    def network(self, p: Params, width: int) -> UNet:
        return UNet(p.model.model_copy(update={"base_channels": width}), p.data.image_size)

    def training(self, net: nn.Module, p: Params, x: Tensor, precision: str) -> Call:
        asked = common.training_of(common.changed(p, "train", precision=precision))
        s = process.schedule(p.process)
        state = training.start(asked, CPU)
        return lambda: training.optimize(asked, state, s, x)

    def sampling(self, net: nn.Module, p: Params, count: int, calls: int, precision: str) -> Call:
        diffusion = self._diffusion(net, p, precision)
        return lambda: diffusion.sample(count, steps=calls, batch_size=count)

    def inpainting(self, net: nn.Module, p: Params, x: Tensor, known: Tensor, schedule: RePaint,
                   precision: str) -> Call:
        diffusion = self._diffusion(net, p, precision).respaced(schedule.respacing)
        return lambda: inpaint.painted(diffusion, x, known, schedule.levels)

    def _diffusion(self, net: nn.Module, p: Params, precision: str) -> Diffusion:
        net = net.eval().requires_grad_(False).cast_weights(precision)
        return Diffusion(net, process.schedule(p.process), p.process.objective, precision=precision)


class Diffusers(Library):
    """UNet2DModel; residual blocks resize and the time embedding scales and shifts, as in ADM and ours."""

    name = "diffusers"

    def network(self, p: Params, width: int) -> nn.Module:
        from diffusers import UNet2DModel

        def blocks(way: str) -> list[str]:
            return [f"Attn{way}Block2D" if wanted else f"Resnet{way}sampleBlock2D" for wanted in attended(p)]

        return UNet2DModel(
            sample_size=p.data.image_size, in_channels=RGB_AND_MASK.all, out_channels=RGB_AND_MASK.all,
            block_out_channels=widths(p, width), layers_per_block=p.model.res_blocks,
            down_block_types=tuple(blocks("Down")), up_block_types=tuple(reversed(blocks("Up"))),
            downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift",
            attention_head_dim=p.model.head_channels, norm_num_groups=GROUPS, attn_norm_num_groups=GROUPS)

    def training(self, net: nn.Module, p: Params, x: Tensor, precision: str) -> Call:
        """As the tutorial "Train a diffusion model"."""
        from diffusers import DDPMScheduler

        images, scheduler = unit(x) * 2 - 1, DDPMScheduler(num_train_timesteps=p.process.steps)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

        def step() -> None:
            clean = drawn(images, p)
            noise = torch.randn_like(clean)
            t = torch.randint(0, p.process.steps, (len(clean),), dtype=torch.int64)
            noisy = scheduler.add_noise(clean, noise, t)
            with devices.autocast(CPU, precision):
                prediction = net(noisy, t, return_dict=False)[0]
            F.mse_loss(prediction.float(), noise).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def sampling(self, net: nn.Module, p: Params, count: int, calls: int, precision: str) -> Call:
        from diffusers import DDPMPipeline, DDPMScheduler

        pipeline = silent(DDPMPipeline(net, DDPMScheduler(num_train_timesteps=p.process.steps)))
        return within(precision, partial(pipeline, batch_size=count, num_inference_steps=calls,
                                         output_type="pt"))

    def inpainting(self, net: nn.Module, p: Params, x: Tensor, known: Tensor, schedule: RePaint,
                   precision: str) -> Call:
        from diffusers import RePaintPipeline, RePaintScheduler

        # It noises back up with one draw per original timestep. Four of them per level are as many as in its
        # documentation (250 levels of 1000); our few levels of 1000 timesteps would make that 125.
        pipeline = silent(RePaintPipeline(net, RePaintScheduler(num_train_timesteps=4 * schedule.respacing)))
        return within(precision, partial(
            pipeline, image=x, mask_image=known, num_inference_steps=schedule.respacing, eta=1.0,
            jump_length=schedule.jump_length, jump_n_sample=schedule.resampling, output_type="np"))


class Monai(Library):
    """DiffusionModelUNet with residual blocks that resize; its time embedding shifts and does not scale."""

    name = "monai"
    lacks = {"inpainting": "it has no RePaint"}  # noqa: RUF012

    def network(self, p: Params, width: int) -> nn.Module:
        from monai.networks.nets import DiffusionModelUNet

        return DiffusionModelUNet(
            spatial_dims=2, in_channels=RGB_AND_MASK.all, out_channels=RGB_AND_MASK.all,
            channels=widths(p, width),
            num_res_blocks=p.model.res_blocks, attention_levels=attended(p), resblock_updown=True,
            num_head_channels=p.model.head_channels, norm_num_groups=GROUPS)

    def training(self, net: nn.Module, p: Params, x: Tensor, precision: str) -> Call:
        """As the tutorial "Denoising Diffusion Probabilistic Models with MedNIST"."""
        from monai.inferers import DiffusionInferer
        from monai.networks.schedulers import DDPMScheduler

        images, inferer = unit(x), DiffusionInferer(DDPMScheduler(num_train_timesteps=p.process.steps))
        optimizer = torch.optim.Adam(net.parameters(), lr=2.5e-5)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            clean = drawn(images, p)
            with devices.autocast(CPU, precision):
                noise = torch.randn_like(clean)
                t = torch.randint(0, p.process.steps, (len(clean),)).long()
                prediction = inferer(inputs=clean, diffusion_model=net, noise=noise, timesteps=t)
                loss = F.mse_loss(prediction.float(), noise.float())
            loss.backward()
            optimizer.step()

        return step

    def sampling(self, net: nn.Module, p: Params, count: int, calls: int, precision: str) -> Call:
        """By DDIM: its DDPM scheduler can only take the steps of training."""
        from monai.inferers import DiffusionInferer
        from monai.networks.schedulers import DDIMScheduler

        scheduler = DDIMScheduler(num_train_timesteps=p.process.steps)
        scheduler.set_timesteps(calls)
        inferer, net = DiffusionInferer(scheduler), net.eval()
        shape = (count, RGB_AND_MASK.all, p.data.image_size, p.data.image_size)
        return within(precision, lambda: inferer.sample(
            input_noise=torch.randn(shape), diffusion_model=net, scheduler=scheduler, verbose=False))


class DenoisingDiffusion(Library):
    """Unet: two residual blocks a level, linear attention on all levels but the last; its Trainer's step."""

    name = "denoising-diffusion-pytorch"
    width_step = 8

    def network(self, p: Params, width: int) -> nn.Module:
        from denoising_diffusion_pytorch import Unet

        # The first level has `dim` channels, and each multiplier applies to the level below.
        multipliers = (*p.model.channel_mult[1:], p.model.channel_mult[-1])
        return Unet(dim=width, dim_mults=multipliers, channels=RGB_AND_MASK.all)

    def training(self, net: nn.Module, p: Params, x: Tensor, precision: str) -> Call:
        from denoising_diffusion_pytorch import GaussianDiffusion
        from ema_pytorch import EMA

        images = unit(x)
        diffusion = GaussianDiffusion(net, image_size=p.data.image_size, timesteps=p.process.steps)
        optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        average = EMA(diffusion, beta=0.995, update_every=10)

        def step() -> None:
            with devices.autocast(CPU, precision):
                loss = diffusion(drawn(images, p))
            loss.backward()
            nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update()

        return step

    def sampling(self, net: nn.Module, p: Params, count: int, calls: int, precision: str) -> Call:
        """By DDIM, as always when it samples in fewer steps than it was trained with."""
        from denoising_diffusion_pytorch import GaussianDiffusion

        diffusion = GaussianDiffusion(net, image_size=p.data.image_size, timesteps=p.process.steps,
                                      sampling_timesteps=calls).eval()
        return within(precision, lambda: diffusion.sample(batch_size=count))

    def inpainting(self, net: nn.Module, p: Params, x: Tensor, known: Tensor, schedule: RePaint,
                   precision: str) -> Call:
        """It has no respacing, so the model is made with so few levels; it jumps back from its level 1."""
        from denoising_diffusion_pytorch.repaint import GaussianDiffusion

        diffusion = GaussianDiffusion(net, image_size=p.data.image_size, timesteps=schedule.respacing).eval()
        return within(precision, lambda: diffusion.sample(
            gt=(x + 1) / 2, mask=known, resample_iter=schedule.resampling - 1,
            resample_jump=schedule.jump_length, resample_every=schedule.respacing))


OURS = Ours()
PEERS = (Diffusers(), Monai(), DenoisingDiffusion())


def widths(p: Params, width: int) -> tuple[int, ...]:
    """The channels of each level."""
    return tuple(width * multiplier for multiplier in p.model.channel_mult)


def attended(p: Params) -> tuple[bool, ...]:
    """Whether each level has attention."""
    levels = range(len(p.model.channel_mult))
    return tuple(p.data.image_size // 2**level in p.model.attention_resolutions for level in levels)


def unit(x: Tensor) -> Tensor:
    """Pixels in [0, 1]."""
    return x.float() / 255


def drawn(images: Tensor, p: Params) -> Tensor:
    """A batch drawn with replacement, as ours is."""
    return images[torch.randint(len(images), (p.train.batch_size,))]


def silent(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def within(precision: str, work: Call) -> Call:
    """The same call with its networks in this precision."""
    def call() -> object:
        with devices.autocast(CPU, precision):
            return work()

    return call
