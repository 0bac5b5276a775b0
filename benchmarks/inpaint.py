"""Inpainting: different images in one batch against one image at a time, at equal network calls an image.

The schedule is the paper's (jumps of 10 levels, r = 5), over fewer levels: the rate goes with the calls.
"""

from collections.abc import Callable

import common
import reference
import torch

from diffusegen_core.chapters import inpaint
from diffusegen_core.config import devices
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds

JUMP_LENGTH, RESAMPLING = 10, 5


def run(arguments: list[str] | None = None) -> dict:
    """The benchmark, with command-line arguments; what it wrote."""
    parser = common.parser("inpaint", __doc__)
    parser.add_argument("--batch", type=common.positive,
                        help="images in a batch; default: inpaint.batch_size")
    parser.add_argument("--respacing", type=common.positive, default=12, help="levels; the paper has 200")
    common.add_candidates(parser)
    common.add_reference(parser)
    options = parser.parse_args(arguments)
    p, device = common.setup(options, {"inpaint.respacing": options.respacing,
                                       "inpaint.jump_length": JUMP_LENGTH, "inpaint.resampling": RESAMPLING})
    batch = options.batch = options.batch or p.inpaint.batch_size
    levels = inpaint.repaint_levels(options.respacing, JUMP_LENGTH, RESAMPLING)
    x = common.pixels(p, batch, device).float() / 127.5 - 1
    known, middle = torch.ones_like(x[:, :1]), slice(x.shape[2] // 4, 3 * x.shape[2] // 4)
    known[:, :, middle, middle] = 0

    def prepare(count: int, precision: str, candidate: str) -> Callable[[], object]:
        net = common.sampler(p, device, precision, candidate)
        return lambda: painted(p, net, x[:count], known[:count], levels, precision, options.respacing)

    ways = common.one_or_many(batch, options.candidates, prepare)
    if options.reference:
        code = reference.load(options.reference)
        ways.insert(0, common.Way("authors' code, one at a time", 1, lambda: code.inpainting(
            p, x[:1], known[:1], options.respacing)))
    rows, failed = common.measure(ways, options.rounds, device)
    return common.report("inpaint", options, p, device, rows, failed, respacing=options.respacing,
                         network_calls_an_image=inpaint.network_calls(levels))


def painted(p: Params, net: UNet, x: torch.Tensor, known: torch.Tensor, levels: list[int], precision: str,
            respacing: int) -> torch.Tensor:
    """One batch, as chapter 3 does it."""
    s = process.schedule(p.process, respacing).to(x.device)
    generators = [seeds.generator(0, "noise", i, device=x.device) for i in range(len(x))]
    with devices.exact(), devices.autocast(x.device, precision):
        return inpaint.repaint(net, s, x, known, levels, generators, p.process.objective)


if __name__ == "__main__":
    common.main(run)
