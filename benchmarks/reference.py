"""The authors' code, from a checkout of the user's (dsaragih/diffuse-gen): none of it is kept here.

Their U-Net, diffusion, training losses and fp16 master weights are imported by path and called with their
published settings: micro-batches of 4 in training, one image at a time in sampling, manual half precision on
a GPU (fp32 on the CPU, where theirs does not run). What else they do is left out, in their favour: reading
images, logging, synchronising processes, saving.
"""

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import common
import torch
from torch import Tensor

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import losses
from diffusegen_core.diffusion.guided import Judge, default_blocks

MICRO_BATCH = 4
WANTED = ("script_util", "fp16_util", "nn", "logger")


def load(folder: Path) -> "Code":
    """Import their modules. UserError if the folder is no such checkout or its imports are missing."""
    package, losses = folder / "guided_diffusion" / "guided_diffusion", folder / "optimization" / "losses.py"
    for file in (*(package / f"{name}.py" for name in WANTED), losses):
        if not file.is_file():
            raise UserError(f"--reference {folder} is no checkout of dsaragih/diffuse-gen: it has no {file}.")
    try:
        with first_on_path(package.parent):
            modules = {name: importlib.import_module(f"guided_diffusion.{name}") for name in WANTED}
        spec = importlib.util.spec_from_file_location("reference_losses", losses)
        modules["losses"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules["losses"])
    except ImportError as error:
        raise UserError(f"--reference {folder} cannot be imported: {error}. Install what it needs beside "
                        "this package.") from None
    logger = modules["logger"].Logger
    logger.CURRENT = logger(dir=None, output_formats=[])  # prints and writes nothing
    return Code(**modules)


@contextmanager
def first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


@dataclass(frozen=True)
class Code:
    """Their modules, and what the benchmarks do with them."""

    script_util: ModuleType
    fp16_util: ModuleType
    nn: ModuleType
    logger: ModuleType
    losses: ModuleType

    def made(self, p: Params, device: torch.device, respacing: int | None = None) -> tuple[Any, Any]:
        """Their U-Net in the parameters' shape, untrained, and their diffusion."""
        m, s = p.model, self.script_util
        net, diffusion = s.create_model_and_diffusion(**{
            **s.model_and_diffusion_defaults(), "image_size": p.data.image_size, "in_channels": 4,
            "num_channels": m.base_channels, "num_res_blocks": m.res_blocks,
            "channel_mult": ",".join(map(str, m.channel_mult)), "num_head_channels": m.head_channels,
            "attention_resolutions": ",".join(map(str, m.attention_resolutions)), "dropout": m.dropout,
            "resblock_updown": True, "use_scale_shift_norm": True, "learn_sigma": True,
            "noise_schedule": "linear", "diffusion_steps": p.process.steps, "rescale_timesteps": True,
            "timestep_respacing": str(respacing or ""), "use_fp16": device.type == "cuda"})
        return net.to(device), diffusion

    def training(self, p: Params, x: Tensor) -> Callable[[], None]:
        """A step of p.train.batch_size images in micro-batches of 4, like their TrainLoop.run_step.

        It starts from untrained weights, as ours does: with stirred ones the gradients overflow in half
        precision, and a step that overflows skips the optimizer.
        """
        net, diffusion = self.made(p, x.device)
        net.train()
        trainer = self.fp16_util.MixedPrecisionTrainer(model=net, use_fp16=x.is_cuda)
        optimizer = torch.optim.AdamW(trainer.master_params, lr=p.train.lr, weight_decay=p.train.weight_decay)
        average = copy.deepcopy(trainer.master_params)

        def step() -> None:
            chosen = torch.randint(len(x), (p.train.batch_size,), device=x.device)
            trainer.zero_grad()
            for micro in (x[chosen].float() / 127.5 - 1).split(MICRO_BATCH):
                t = torch.randint(p.process.steps, (len(micro),), device=x.device)
                trainer.backward(diffusion.training_losses(net, micro, t)["loss"].mean())
            if trainer.optimize(optimizer):
                self.nn.update_ema(average, trainer.master_params, rate=p.train.ema)

        return step

    def sampler(self, p: Params, device: torch.device, respacing: int) -> tuple[Any, Any]:
        """Their U-Net, as `common.sampler` makes ours, in half precision on a GPU, and their diffusion."""
        net, diffusion = self.made(p, device, respacing)
        common.stir(net)
        net.requires_grad_(False).eval()
        for name, weight in net.named_parameters():  # their checkpointed attention needs these gradients
            weight.requires_grad_(any(part in name for part in ("qkv", "norm", "proj")))
        if device.type == "cuda":
            net.convert_to_fp16()
        return net, diffusion

    def inpainting(self, p: Params, x: Tensor, known: Tensor, respacing: int) -> Callable[[], None]:
        """Their RePaint of one image, which fills where the mask channel is 1."""
        net, diffusion = self.sampler(p, x.device, respacing)
        image = torch.cat([x[:, :3], 1 - 2 * known], dim=1)
        return lambda: diffusion.p_sample_loop(
            net, tuple(x.shape), clip_denoised=False, model_kwargs={}, init_image=image, inpainting=True)

    def styling(self, p: Params, judge: Judge, inpainted: Tensor, source: Tensor,
                steps: int) -> Callable[[], None]:
        """Their guided sampling of one image, with their ZeCon, range and VGG losses.

        [CLS] is from our network, so that both use the same one. As in their code a step calls the U-Net
        twice: for the step itself and for the gradient. The steps are the last ones, since their loop ends at
        level 0; as many of them as of ours have the semantic divergence.
        """
        net, diffusion = self.sampler(p, inpainted.device, p.style.respacing)
        deep = max(default_blocks(p.model))
        if deep < 11:  # their ZeCon compares fixed blocks, whatever the network
            raise UserError("The authors' styling needs 2 residual blocks a level and at least 4 levels, as "
                            f"the paper's network, so that input block 11 exists; here the last is {deep}.")
        before = [inpainted[:, :3]]

        def pull(x: Tensor, t: Tensor, **_: Any) -> tuple[Tensor, bool]:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                level = (t * diffusion.num_timesteps / 1000).long()
                x0 = diffusion.p_mean_variance(net, x, level, clip_denoised=False)["pred_xstart"]
                place = level[0].item()
                part = float(diffusion.sqrt_one_minus_alphas_cumprod[place])
                seen = part * x0 + (1 - part) * x

                def reference() -> Tensor:
                    return part * inpainted + (1 - part) * diffusion.q_sample(inpainted, level)

                wanted = losses.weights(p.style, steps - 1 - place)
                loss = self.loss(wanted, net, judge, seen, x0, reference, source, before[0])
                before[0] = seen[:, :3].detach()
                return -torch.autograd.grad(loss, x)[0], False

        return lambda: diffusion.p_sample_loop(
            net, tuple(inpainted.shape), clip_denoised=False, model_kwargs={}, cond_fn=pull,
            skip_timesteps=p.style.respacing - steps, init_image=inpainted)

    def loss(self, wanted: dict[str, float], net: Any, judge: Judge, seen: Tensor, x0: Tensor,
             reference: Callable[[], Tensor], source: Tensor, before: Tensor) -> Tensor:
        """The weighted sum; networks are called as often as in their code, and every loss is read back."""
        colours = seen[:, :3]

        def sem() -> Tensor:
            with torch.no_grad():
                previous = judge.cls(before)
            return losses.sem_loss(judge.cls(colours), previous)

        compute = {
            "zecon": lambda: self.losses.zecon_loss_direct(net, seen, reference(), seen.new_zeros(len(seen))),
            "vgg": lambda: losses.vgg_loss(judge.maps(colours), judge.maps(reference()[:, :3])),
            "mse": lambda: losses.mse_loss(colours, reference()[:, :3]),
            "sty": lambda: losses.sty_loss(judge.cls(colours), judge.cls(source)),
            "l2": lambda: losses.l2_loss(colours, source),
            "sem": sem,
            "rng": lambda: self.losses.range_loss(x0),
        }
        found = [weight * compute[name]().sum() for name, weight in wanted.items()]
        for value in found:
            value.item()
        return sum(found)
