"""Parameters that are valid one by one, but cannot run together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from diffusegen_core.config.data import MOST_OVERLAPPING, PHANTOMS, Data
from diffusegen_core.config.text import counted

if TYPE_CHECKING:  # it imports this module
    from diffusegen_core.config.params import Params


def impossible(p: "Params") -> Iterator[str]:
    """Combinations that cannot run, each as one sentence."""
    yield from _data(p)
    yield from _sizes(p)
    yield from _steps(p)
    if p.filter.folds == 1:
        yield "filter.folds 1 leaves no real pairs to train on; ask for at least 2, or null for no filter."
    quantiles = p.filter.agreement_quantile, p.filter.seam_quantile
    if p.filter.folds and quantiles == (None, None) and not p.filter.copies:
        yield "filter: every criterion is off, and all pairs would stay; filter.folds null is no filter."
    if p.generators > 1 and p.train.checkpoints is not None:
        yield (f"generators {p.generators} cannot be independent with the finished models of "
               "train.checkpoints; leave these out, or ask for one generator.")


def _data(p: "Params") -> Iterator[str]:
    yield from _phantoms(p.data)
    if p.data.overlap and len(p.data.classes) > MOST_OVERLAPPING:
        yield (f"data.overlap: a run takes at most {MOST_OVERLAPPING} classes that overlap, and data.labels "
               f"names {len(p.data.classes)}; leave some out.")
    unknown = [name for name in p.inpaint.classes or [] if name not in p.data.classes]
    if unknown:
        yield (f"inpaint.classes: the data have no class {unknown[0]}; they have "
               f"{', '.join(p.data.classes)}.")
    yield from _within(p)
    if p.data.count is not None and p.cluster.k > p.data.count:
        yield f"cluster.k {p.cluster.k} is more than the {p.data.count} pairs of data.count."
    if p.inpaint.backgrounds and p.inpaint.masks == "joint":
        yield "inpaint.backgrounds needs given masks: inpaint.masks own, varied, or a folder."
    if (p.data.window is None) != (p.data.window_size is None):
        yield "data.window and data.window_size are given together or not at all."
    for name, counts in (("segment.samples", p.segment.samples), ("augment.ratios", p.augment.ratios)):
        if counts and max(counts) > p.inpaint.samples:
            yield f"{name} {max(counts)} exceeds inpaint.samples {p.inpaint.samples}."


def _within(p: "Params") -> Iterator[str]:
    within = p.inpaint.within
    if within is None:
        return
    if within not in p.data.classes:
        yield f"inpaint.within: the data have no class {within}; they have {', '.join(p.data.classes)}."
    elif within in (p.inpaint.classes or p.data.classes):
        yield (f"inpaint.within: {within} is painted anew itself. Name the classes to paint, without it, in "
               "inpaint.classes.")
    if p.inpaint.masks == "joint" or p.inpaint.backgrounds:
        yield "inpaint.within needs given masks, and the run's own pictures: no inpaint.backgrounds."


def _phantoms(data: Data) -> Iterator[str]:
    if not data.drawn:
        return
    if data.count is None:
        yield "data.count must say how many phantoms to draw."
    if data.subset != "all":
        yield f"data.subset {data.subset} needs the real images, not phantoms."
    channels, classes = PHANTOMS[data.source]
    if (data.channels, len(data.classes)) != (channels, classes):
        labels = ("null" if classes == 1 else
                  "a name for each, such as {'1': liver, '2': kidney, '3': tumour}")
        yield (f"data.source {data.source} has {classes} class{'es' if classes > 1 else ''} and images of "
               f"{counted(channels, 'channel')}: set data.channels {channels}, and "
               f"data.labels {labels}.")
    elif data.labels and classes > 1 and list(data.labels) != (
            keys := [str(number) for number in range(1, classes + 1)]):
        yield (f"data.source {data.source} draws its classes in one order: the keys of data.labels are "
               f"{', '.join(keys)}, in this order.")


def _sizes(p: "Params") -> Iterator[str]:
    size, levels = p.model_size, len(p.model.channel_mult)
    sides = [size // 2**level for level in range(levels)]
    widths = [p.model.base_channels * m for m in p.model.channel_mult]
    if size % 2 ** (levels - 1):
        name = "window_size" if p.data.window_size else "image_size"
        yield f"data.{name} {size} cannot be halved {levels - 1} times, as model.channel_mult asks."
    if p.model.base_channels % 32:
        yield f"model.base_channels {p.model.base_channels} is not a multiple of 32 (group norm)."
    for side in p.model.attention_resolutions:
        if side not in sides:
            yield f"model.attention_resolutions {side} is not one of the sides {sides}."
    for side, width in zip(sides, widths, strict=True):
        if (side in p.model.attention_resolutions or side == sides[-1]) and width % p.model.head_channels:
            yield f"model.head_channels {p.model.head_channels} does not divide the width {width}."
    if p.data.image_size % 2 ** len(p.segment.decoder_channels):
        yield (f"data.image_size {p.data.image_size} cannot be halved {len(p.segment.decoder_channels)} "
               "times, as segment.decoder_channels asks.")
    if p.gan.min_side <= 2 * p.gan.layers:
        yield f"gan.min_side {p.gan.min_side} must be above twice gan.layers {p.gan.layers}."
    blocks, compared = levels * (p.model.res_blocks + 1), p.style.zecon_blocks or []
    if len(set(compared)) < len(compared):
        yield f"style.zecon_blocks {compared} names a block twice."
    if compared and max(compared) >= blocks:
        yield (f"style.zecon_blocks {max(compared)} exceeds the network's last input block "
               f"{blocks - 1}.")


def _steps(p: "Params") -> Iterator[str]:
    if p.process.beta_start > p.process.beta_end:
        yield "process.beta_start is larger than process.beta_end."
    if p.train.micro_batch is not None and p.train.micro_batch > p.train.batch_size:
        yield (f"train.micro_batch {p.train.micro_batch} exceeds "
               f"train.batch_size {p.train.batch_size}.")
    if p.train.devices > p.train.batch_size:
        yield (f"train.devices {p.train.devices} exceeds train.batch_size {p.train.batch_size}: each GPU "
               "needs an image of every step.")
    if p.train.devices > 1 and ":" in p.device:
        yield (f"device {p.device} is one GPU, and train.devices asks for {p.train.devices}: set device "
               "cuda.")
    for name, steps in (("inpaint.respacing", p.inpaint.respacing),
                        ("style.respacing", p.style.respacing),
                        ("train.preview_steps", p.train.preview_steps)):
        if steps > p.process.steps:
            yield f"{name} {steps} exceeds process.steps {p.process.steps}."
    if jumps_in_vain(p.inpaint.respacing, p.inpaint.jump_length, p.inpaint.resampling):
        yield (f"inpaint.jump_length {p.inpaint.jump_length} must be below "
               f"inpaint.respacing {p.inpaint.respacing}, unless inpaint.resampling is 1.")
    if p.style.skip >= p.style.respacing:
        yield f"style.skip {p.style.skip} must be below style.respacing {p.style.respacing}."
    if p.style.method == "guided" and not (
            p.style.lambda_zecon or p.style.lambda_vgg or p.style.lambda_mse or p.style.lambda_sty
            or p.style.lambda_l2 or p.style.lambda_rng):
        yield "style: one of the weights lambda_* besides lambda_sem must be above 0."


def jumps_in_vain(steps: int, jump_length: int, resampling: int) -> bool:
    """Whether RePaint is to resample, but its jumps take all of so many respaced `steps` or more, so that it
    never would."""
    return resampling > 1 and jump_length >= steps
