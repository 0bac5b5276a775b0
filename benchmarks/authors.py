"""How fast the authors' code trains, inpaints and styles on the same card, one image at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import bench
import common
import reference
import style
import torch
from bench import Bench, timed
from sampling_speed import GUIDED_STEPS, JUMP_LENGTH, RESAMPLING, RESPACING

from diffusegen_core.diffusion.guided import load_judge
from diffusegen_core.diffusion.repaint import network_calls, repaint_levels


def run(b: Bench, code: reference.Code) -> None:
    """Their training at a batch of 1 and of 4, their inpainting and their styling, while there is time."""
    for name, work in (("training, batch 1", partial(training, b, code, 1)),
                       ("inpainting, one at a time", partial(inpainting, b, code)),
                       ("styling, one at a time", partial(styling, b, code)),
                       ("training, batch 4", partial(training, b, code, 4))):
        b.call.stage(f"authors' code: {name}", work, least=20)


def prepared(b: Bench, make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """Call `make` with its networks initialised on the device, which is quicker."""
    with torch.device(b.device):
        return make()


def training(b: Bench, code: reference.Code, batch: int) -> dict[str, Any]:
    p = common.changed(b.paper, "train", batch_size=batch)
    x = common.pixels(p, 2 * batch, b.device)
    found = timed(b, prepared(b, lambda: code.training(p, x)), batch)
    return {"batch": batch, **found,
            "share_of_matmul_rate": b.share(found["images_per_second"], bench.CALLS_OF_A_STEP)}


def inpainting(b: Bench, code: reference.Code) -> dict[str, Any]:
    x = common.images(b.paper, 1, b.device)
    known = common.around_the_middle(x)
    found = timed(b, prepared(b, lambda: code.inpainting(b.paper, x, known, RESPACING)), 1, rounds=2)
    calls = network_calls(repaint_levels(RESPACING, JUMP_LENGTH, RESAMPLING))
    return {**found, "network_calls_an_image": calls}


def styling(b: Bench, code: reference.Code) -> dict[str, Any]:
    p, levels = style.shortened(b.paper, GUIDED_STEPS)
    x = common.images(p, 2, b.device)
    judge = load_judge(p.style, p.model, p.seed, b.device)
    found = timed(b, prepared(b, lambda: code.styling(p, judge, x[:1], x[1:, :3], len(levels))), 1, rounds=3)
    return {**found, "guided_steps_an_image": len(levels)}
