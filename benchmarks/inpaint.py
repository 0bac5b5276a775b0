"""Inpainting: different images in one batch against one image at a time, at equal network calls an image.

The schedule is the paper's (jumps of 10 levels, U = 5), over fewer levels: time is proportional to calls.
"""

from collections.abc import Callable

import common
import reference
import torch

from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import network_calls, repaint, repaint_levels
from diffusegen_core.store import seeds

JUMP_LENGTH, RESAMPLING = 10, 5


def run(arguments: list[str] | None = None) -> dict:
    """Run the benchmark with command-line arguments; return what it wrote."""
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
    levels = repaint_levels(options.respacing, JUMP_LENGTH, RESAMPLING)
    x = common.images(p, batch, device)
    known = common.around_the_middle(x)

    def prepare(count: int, precision: str, candidate: str) -> Callable[[], object]:
        diffusion = common.sampler(p, device, precision, candidate).respaced(options.respacing)
        return lambda: painted(diffusion, x[:count], known[:count], levels)

    ways = common.one_or_many(batch, options.candidates, prepare)
    if options.reference:
        code = reference.load(options.reference)
        ways.insert(0, common.Way("authors' code, one at a time", 1, lambda: code.inpainting(
            p, x[:1], known[:1], options.respacing)))
    rows, failed = common.measure(ways, options.rounds, device)
    return common.report("inpaint", options, p, device, rows, failed, respacing=options.respacing,
                         network_calls_an_image=network_calls(levels))


def painted(diffusion: Diffusion, x: torch.Tensor, known: torch.Tensor, levels: list[int]) -> torch.Tensor:
    """One batch, as chapter 3 does it."""
    generators = [seeds.generator(0, "noise", i, device=x.device) for i in range(len(x))]
    return repaint(diffusion, x, known, levels, generators)


if __name__ == "__main__":
    common.main(run)
