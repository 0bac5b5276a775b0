"""Styling: different images in one batch against one image at a time, at equal steps an image.

All losses of the parameters are computed, the semantic divergence in the same share of the steps as in a full
styling; the networks behind them have random weights, which take as long.
"""

from collections.abc import Callable

import common
import reference
import torch

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion.guided import Judge, guided, load_judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.store import seeds


def run(arguments: list[str] | None = None) -> dict:
    """Run the benchmark with command-line arguments; return what it wrote."""
    parser = common.parser("style", __doc__)
    parser.add_argument("--batch", type=common.positive, help="images in a batch; default: style.batch_size")
    parser.add_argument("--steps", type=common.positive, default=6,
                        help="guided steps, the noisiest; the paper has 120")
    common.add_candidates(parser)
    common.add_reference(parser)
    options = parser.parse_args(arguments)
    p, device = common.setup(options, {"style.weights": "random", "style.vgg_weights": "random"})
    batch = options.batch = options.batch or p.style.batch_size
    if options.steps > (steps := p.style.respacing - p.style.skip):
        raise UserError(f"--steps {options.steps} is more than the {steps} guided steps.")
    p, levels = shortened(p, options.steps)
    x = common.images(p, 2 * batch, device)
    inpainted, source = x[:batch], x[batch:, :3]
    judge = load_judge(p.style, p.model, p.seed, device)

    def prepare(count: int, precision: str, candidate: str) -> Callable[[], object]:
        diffusion = common.sampler(p, device, precision, candidate).respaced(p.style.respacing)
        diffusion.net.checkpointing = p.style.checkpointing
        return lambda: styled(diffusion, judge, inpainted[:count], source[:count], levels)

    ways = common.one_or_many(batch, options.candidates, prepare)
    if options.reference:
        code = reference.load(options.reference)
        ways.insert(0, common.Way("authors' U-Net, process and ZeCon, one at a time", 1, lambda: code.styling(
            p, judge, inpainted[:1], source[:1], len(levels))))
    rows, failed = common.measure(ways, options.rounds, device)
    return common.report("style", options, p, device, rows, failed, guided_steps_an_image=len(levels),
                         semantic_steps=p.style.semantic_steps)


def shortened(p: Params, steps: int) -> tuple[Params, list[int]]:
    """Parameters with the semantic divergence in the same share of the steps as in a full styling, and its
    first `steps` levels."""
    levels = list(reversed(range(p.style.respacing - p.style.skip)))
    semantic = round(p.style.semantic_steps * min(1, steps / len(levels)))
    return common.changed(p, "style", semantic_steps=semantic), levels[:steps]


def styled(diffusion: Diffusion, judge: Judge, inpainted: torch.Tensor, source: torch.Tensor,
           levels: list[int]) -> torch.Tensor:
    """One batch, as chapter 4 does it."""
    generators = [seeds.generator(0, "noise", i, device=inpainted.device) for i in range(len(inpainted))]
    return guided(diffusion, judge, inpainted, source, levels, generators)[0]


if __name__ == "__main__":
    common.main(run)
