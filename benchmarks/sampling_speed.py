"""How fast a card inpaints and styles with the paper's network, in several ways."""

from functools import partial
from typing import Any

import common
import inpaint
import style
import ways
from bench import Bench, sampling, timed

from diffusegen_core.diffusion.guided import load_judge
from diffusegen_core.diffusion.process import Network
from diffusegen_core.diffusion.repaint import network_calls, repaint_levels
from diffusegen_core.diffusion.unet import UNet

RESPACING, JUMP_LENGTH, RESAMPLING = 11, 10, 5  # 51 network calls an image, with RePaint's jumps
GUIDED_STEPS = 6
# images together, layout, precision, graph, devices.exact()
SAMPLING = [(1, "plain", "bf16", False, True), (8, "plain", "bf16", False, True),
            (1, "fused", "bf16", True, True), (8, "fused", "bf16", True, True),
            (1, "plain", "fp32", False, True), (8, "fused", "bf16", False, True),
            (1, "fused", "bf16", False, True), (8, "channels_last", "bf16", False, True),
            (8, "plain", "bf16", False, False), (1, "plain", "fp32", False, False),
            (8, "fused", "bf16", False, False), (32, "fused", "bf16", False, True)]
# images together, layout, precision, devices.exact()
STYLING = [(1, "plain", "bf16", True), (4, "plain", "bf16", True), (4, "fused", "bf16", True),
           (1, "fused", "bf16", True), (1, "plain", "fp32", True), (4, "channels_last", "bf16", True),
           (4, "plain", "bf16", False), (4, "fused", "bf16", False), (8, "fused", "bf16", True)]


def told(count: int, layout: str, precision: str, graph: bool, careful: bool) -> str:
    return ", ".join([f"{count} at a time", layout, precision, *(["graph"] if graph else []),
                      *([] if careful else ["without exact()"])])


def inpainting(b: Bench) -> None:
    base = ways.network(b.paper, b.device)
    for case in SAMPLING:
        if (case[1] == "fused" and not b.kernels) or b.call.clock.left < 25:
            continue
        b.call.stage(f"inpainting: {told(*case)}", partial(inpainting_row, b, base, *case))


def inpainting_row(b: Bench, base: UNet, count: int, layout: str, precision: str, graph: bool,
                   careful: bool) -> dict[str, Any]:
    x = common.images(b.paper, count, b.device)
    known = common.around_the_middle(x)
    net: Network = sampling(base, layout, precision)
    if graph:
        net = ways.GraphedCall(net, x, precision)
    diffusion = ways.diffusion(b.paper, net, b.device, precision, careful).respaced(RESPACING)
    levels = repaint_levels(RESPACING, JUMP_LENGTH, RESAMPLING)
    calls = network_calls(levels)
    found = timed(b, lambda: inpaint.painted(diffusion, x, known, levels), count,
                  lambda: inpaint.painted(diffusion, x, known, [2, 1, 0, -1]), rounds=2)
    return {"layout": layout, "precision": precision, "graph": graph, "exact": careful, **found,
            "network_calls_an_image": calls,
            "share_of_matmul_rate": b.share(found["images_per_second"], calls)}


def styling(b: Bench) -> None:
    base = ways.network(b.paper, b.device)
    for count, layout, precision, careful in STYLING:
        if (layout == "fused" and not b.kernels) or b.call.clock.left < 25:
            continue
        b.call.stage(f"styling: {told(count, layout, precision, False, careful)}",
                     partial(styling_row, b, base, count, layout, precision, careful))


def styling_row(b: Bench, base: UNet, count: int, layout: str, precision: str,
                careful: bool) -> dict[str, Any]:
    p, levels = style.shortened(b.paper, GUIDED_STEPS)
    judge = load_judge(p.style, p.model, p.seed, b.device)
    x = common.images(p, 2 * count, b.device)
    net = sampling(base, layout, precision)
    diffusion = ways.diffusion(p, net, b.device, precision, careful).respaced(p.style.respacing)

    def work(levels: list[int]) -> None:
        style.styled(diffusion, judge, x[:count], x[count:, :3], levels)

    found = timed(b, lambda: work(levels), count, lambda: work(levels[:2]), rounds=3)
    return {"layout": layout, "precision": precision, "exact": careful, **found,
            "guided_steps_an_image": len(levels)}
