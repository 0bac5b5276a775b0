"""The work of each network on one image, counted before anything runs: floating-point operations and weights.

The networks are built without memory (torch's `meta` device) and with random weights, so the paper's networks
are counted in seconds and nothing is downloaded. Only convolutions and matrix products count, an addition and
a multiplication as two; the rest (norms, resizing, the optimizer) is a small part.

Plans are made again and again of the same networks, so a process counts each of them once.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from diffusegen_core.chapters.costs import Backbone, Learner, Work
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Gan, Model, Segment, Style
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion import losses
from diffusegen_core.diffusion.guided import Judge, default_blocks
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.networks import features, singan, vgg, weights
from diffusegen_core.segmentation import segnet
from diffusegen_core.store import seeds

META = torch.device("meta")


def count(p: Params) -> Work:
    """Count a run's networks at its sizes. UserError for one that does not exist, or not at this size."""
    c, e, s, side, kind = p.cluster, p.evaluate, p.segment, p.data.image_size, Planes.of(p.data)
    segment = Segment(encoder=s.encoder, input_range=s.input_range, decoder_channels=s.decoder_channels,
                      weights=weights.RANDOM)
    trained = p.gan.source == "singan"
    return Work(
        _backbone(c.backbone, c.input_range, side), _backbone(e.backbone, e.input_range, side),
        _unet(p.model, p.model_size, kind, p.train.checkpointing),
        list(_guided(random(p).style, p.model, p.model_size, kind)),
        fitting(p.gan, side, kind.all) if trained else 0.0,
        _drawing(p.gan, side, kind.all) if trained else 0.0,
        _segmentation(segment, kind, side), kind)


def random(p: Params) -> Params:
    """The parameters with random weights for every network: the same work without a download."""
    return p.model_copy(update={
        "cluster": p.cluster.model_copy(update={"weights": weights.RANDOM}),
        "style": p.style.model_copy(update={"weights": weights.RANDOM, "vgg_weights": weights.RANDOM}),
        "evaluate": p.evaluate.model_copy(update={"weights": weights.RANDOM}),
        "segment": p.segment.model_copy(update={"weights": weights.RANDOM})})


def of(call: Callable[[], object]) -> float:
    """The FLOP of calling `call`."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a second, and most commands count nothing
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def both(net: Callable[[Tensor], Tensor | list[Tensor]], x: Tensor) -> tuple[float, float]:
    """FLOP of a call, and of the gradient of its output for everything that requires one."""
    given: list[Tensor | list[Tensor]] = []
    call = of(lambda: given.append(net(x)))
    outputs = given[0] if isinstance(given[0], list) else [given[0]]
    return call, of(lambda: torch.stack([output.sum() for output in outputs]).sum().backward())


@lru_cache
def _backbone(name: str, input_range: features.InputRange, side: int) -> Backbone:
    outputs = []
    with META:
        net = features.load(name, weights.RANDOM, input_range, META)
    flop = of(lambda: outputs.append(net(torch.empty(1, 3, side, side, device=META))))
    return Backbone(flop, outputs[0].flatten(1).shape[1])


@lru_cache
def _unet(model: Model, side: int, kind: Planes, checkpointing: bool) -> Learner:
    """The U-Net; activations recomputed for the gradient (checkpointing) count twice."""
    with META:
        net = UNet(model, side, planes=kind)
    net.checkpointing = checkpointing
    image = torch.empty(1, kind.all, side, side, device=META)
    call, gradient = both(lambda x: net(x, torch.zeros(1, device=META)), image)
    return Learner(call, call + gradient, parameter_count(net))


@lru_cache
def _segmentation(settings: Segment, kind: Planes, side: int) -> Learner:
    """U-Net++. Its gradient is taken as two calls, since torch overcounts that of grouped convolutions."""
    with META:
        net = segnet.build(settings, 0, kind)
    call = of(lambda: net(torch.empty(2, segnet.inputs(kind.channels), side, side, device=META))) / 2
    return Learner(call, 3 * call, parameter_count(net))


# FLOP of each step of guided.GuidedStep: the U-Net's call and gradient, the [CLS] call, and for each loss the
# calls and the gradient of its own network.
@lru_cache
def _guided(s: Style, model: Model, side: int, kind: Planes) -> tuple[float, ...]:
    with META:
        net = UNet(model, side, planes=kind).requires_grad_(False)
        net.checkpointing = s.checkpointing
        cls_net = features.load_cls(s.backbone, weights.RANDOM, s.input_range, META, size=s.backbone_size)
        maps = vgg.load(s.vgg, weights.RANDOM, META)
        image = torch.empty(1, kind.all, side, side, requires_grad=True)
        colours = torch.empty(1, 3, side, side, requires_grad=True)
        zero = torch.zeros(1)
        blocks = s.zecon_blocks or default_blocks(model)
        judge = Judge(cls_net, maps, s, blocks)
        call = both(lambda x: net(x, zero), image)
        parts = {"zecon": both(lambda x: judge.encoded(net, x), image), "vgg": both(maps, colours)}
        cls = both(cls_net, colours)
    # Two calls: for the image and for its reference.
    pulls = {name: 2 * forward + back for name, (forward, back) in parts.items()}
    pulls |= {"sty": cls[1], "sem": cls[1]}
    steps = [sum(call) + cls[0] + sum(pulls.get(name, 0.0) for name in losses.weights(s, step))
             for step in range(s.respacing - s.skip)]
    looks = 5 * cls[0]  # source and inpainted image before the steps; both and the result for the manifest
    return steps[0] + looks, *steps[1:]


@lru_cache
def fitting(settings: Gan, side: int, channels: int = 4) -> float:
    """FLOP of training a SinGAN on one image and its mask, with so many channels together."""
    return sum(by_scale(settings, side, channels))


# As in singan.train: every step of the critic or the generator draws the coarser scales anew.
def by_scale(settings: Gan, side: int, channels: int = 4) -> list[float]:
    """The FLOP of `fitting` by scale, from the coarsest on."""
    each, pyramid = [], None
    for n, (net, critic, scale) in enumerate(_scales(settings, side, channels)):
        real = torch.empty(1, channels, scale, scale, device=META)
        pyramid = pyramid or singan.Pyramid([], real[:, :1], channels)
        coarser = of(lambda: singan.draw(pyramid, n, [_generator()]))  # noqa: B023
        given = torch.cat([real, real])
        judged = of(lambda: singan.refine(net, real, real).detach()) + of(  # noqa: B023
            lambda: singan.critic_loss(critic, real, real, 1.0, _generator()).backward())  # noqa: B023
        made = of(lambda: critic(singan.refine(net, given, given)[:1]).mean().backward(  # noqa: B023
            inputs=list(net.parameters())))  # noqa: B023
        each.append(coarser + settings.steps * (2 * coarser + judged + made))
        pyramid.scales.append(singan.Scale(net, 1.0, scale))
    return each


@lru_cache
def _drawing(settings: Gan, side: int, channels: int) -> float:
    scales = [singan.Scale(net, 1.0, scale) for net, _, scale in _scales(settings, side, channels)]
    fixed = torch.empty(1, 1, scales[0].side, scales[0].side, device=META)
    return of(lambda: singan.draw(singan.Pyramid(scales, fixed, channels), 0, [_generator()]))


def _scales(settings: Gan, side: int, channels: int) -> list[tuple[nn.Sequential, nn.Sequential, int]]:
    """Generator, critic and side of each scale, as in singan.fit."""
    scales = []
    for n, scale in enumerate(singan.sides(side, settings)):
        width = settings.channels * 2 ** min(n // singan.WIDER, singan.TIMES)
        net, critic = (singan.network(channels, width, outputs, settings.layers, _generator()).to(META)
                       for outputs in (channels, 1))
        scales.append((net, critic, scale))
    return scales


def _generator() -> torch.Generator:
    return seeds.generator(0, "count")
