"""Memory of training by micro-batches: the peak of one optimizer step of the whole batch.

On a GPU it is the most that PyTorch reserved, without the half gigabyte or so of the driver itself; on the
CPU it is the growth of the process's peak, so each run measures only one way.
"""

import resource
from collections.abc import Callable

import common
import torch

from diffusegen_core.diffusion import process, training
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.planning import flops

GB = 1e9


def run(arguments: list[str] | None = None) -> dict:
    """Run the benchmark with command-line arguments; return what it wrote."""
    parser = common.parser("memory", __doc__)
    parser.add_argument("--batch", type=common.positive,
                        help="images an optimizer step; default: train.batch_size")
    parser.add_argument("--micro-batch", type=common.positive,
                        help="images a forward pass; default: train.micro_batch")
    parser.add_argument("--checkpointing", action="store_true", help="train.checkpointing")
    options = parser.parse_args(arguments)
    own = {"train.batch_size": options.batch, "train.micro_batch": options.micro_batch,
           "train.checkpointing": options.checkpointing}
    p, device = common.setup(options, {key: value for key, value in own.items() if value})
    with flops.META:
        parameters = parameter_count(UNet(p.model, p.data.image_size))
    before = peak(device)
    asked = common.training_of(p)
    schedule = process.schedule(p.process).to(device)
    x = common.pixels(p, p.train.batch_size, device)

    def prepare() -> Callable[[], object]:
        state = training.start(asked, device)
        return lambda: training.optimize(asked, state, schedule, x)

    way = common.Way("one optimizer step", p.train.batch_size, prepare)
    rows, failed = common.measure([way], options.rounds, device)
    most = peak(device) - before
    return common.report("memory", options, p, device, rows, failed, batch_size=p.train.batch_size,
                         micro_batch=p.train.micro_batch, checkpointing=p.train.checkpointing,
                         precision=p.train.precision, parameters=parameters,
                         peak_gb=round(most / GB, 3))


def peak(device: torch.device) -> int:
    """The most memory so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux


if __name__ == "__main__":
    common.main(run)
