"""Training: images a second of the plain fp32 way, of ours, and of the authors' code with --reference DIR.

Also prints the network's counted work as a share of the device's measured bf16 matrix rate.
"""

from collections.abc import Callable

import common
import plain
import reference
import torch

from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import process, training

WORDS = {"plain": "plain fp32", "fp32": "ours, fp32", "bf16": "ours, bf16",
         "compiled": "ours, bf16, compiled", "channels_last": "ours, bf16, channels_last",
         "compiled_channels_last": "ours, bf16, compiled, channels_last"}
ON_GPU, ON_CPU = ["bf16", "compiled", "channels_last"], ["plain", "fp32", "bf16"]


def run(arguments: list[str] | None = None) -> dict:
    """Run the benchmark with command-line arguments; return what it wrote."""
    parser = common.parser("train", __doc__)
    parser.add_argument("--ways", nargs="+", choices=list(WORDS), action=common.Different,
                        help=f"default: {', '.join(ON_CPU)}; on a GPU {', '.join(ON_GPU)}. Of all "
                             "ways weights, average, gradients and moments stay on the device, 20 bytes a "
                             "weight (10.5 GB a way for the paper's network): where memory is short, name "
                             "fewer ways, or take -p train.micro_batch 4")
    common.add_reference(parser)
    parser.add_argument("--matmul", type=common.positive, help="side of the product that measures the device")
    options = parser.parse_args(arguments)
    p, device = common.setup(options)
    options.ways = options.ways or (ON_GPU if device.type == "cuda" else ON_CPU)
    options.matmul = options.matmul or (8192 if device.type == "cuda" else 1024)
    s = process.schedule(p.process).to(device)
    x = common.pixels(p, 2 * p.train.batch_size, device)
    ways = [way(kind, p, s, x) for kind in options.ways]
    if options.reference:
        code = reference.load(options.reference)
        ways.insert(0, common.Way("authors' code, micro-batch 4", p.train.batch_size,
                                  lambda: code.training(p, x)))
    rows, failed = common.measure(ways, options.rounds, device)
    rate = common.matmul_rate(device, options.matmul)
    work = 3 * common.forward_flop(p)  # a backward pass costs two forward passes
    for row in rows:
        row["share_of_matmul_rate"] = row["images_per_second"] * work / rate
    return common.report(
        "train", options, p, device, rows, failed, batch_size=p.train.batch_size,
        micro_batch=p.train.micro_batch, gflop_an_image=round(work / 1e9, 1),
        bf16_matmul_gflop_a_second=round(rate / 1e9, 1),
        share_of_matmul_rate={row["way"]: round(row["share_of_matmul_rate"], 3) for row in rows})


def way(kind: str, p: Params, s: process.Schedule, x: torch.Tensor) -> common.Way:
    """One kind of training; once prepared, each call is a step."""
    module = plain if kind == "plain" else training
    precision = "fp32" if kind in ("plain", "fp32") else "bf16"
    asked = common.training_of(common.changed(p, "train", precision=precision, compile="compiled" in kind))

    def prepare() -> Callable[[], object]:
        state = module.start(asked, x.device)
        if "channels_last" in kind:
            for net in (state.net, state.average):
                common.tried(net, "channels_last")
        return lambda: module.optimize(asked, state, s, x)

    return common.Way(WORDS[kind], p.train.batch_size, prepare)


if __name__ == "__main__":
    common.main(run)
