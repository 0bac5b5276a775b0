"""The first layers of VGG-19, whose maps the content loss of styling compares (paper A.3).

`vgg19` is torchvision's. `vgg19_normalised` is the release whose activations are rescaled to a mean of one:
it takes pixels in [0, 1] as they are and pads by reflection, and a loss on its maps needs a different weight.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from diffusegen_core.networks import features
from diffusegen_core.networks.weights import Published, StateDict, by_hand, fill, identity, seeded
from diffusegen_core.store.artifacts import Recipe

Parts = tuple[nn.Module, nn.Module, nn.Module]


class Maps(nn.Module):
    """RGB (B, 3, H, W) in [-1, 1] to the maps after conv1_1, (B, 64, H, W), and conv2_1, (B, 128, H/2, W/2).

    Both are taken after the ReLU, as in the authors' code, where the ReLU works in place.
    """

    def __init__(self, prepare: nn.Module, to_first: nn.Module, to_second: nn.Module):
        super().__init__()
        self.prepare, self.to_first, self.to_second = prepare, to_first, to_second

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.to_first(self.prepare((x + 1) / 2))
        return [first, self.to_second(first)]


def load(name: str, weights: str, device: torch.device | str = "cpu", seed: int = 0) -> Maps:
    """The differentiable maps, frozen and in eval mode; `weights` is `pretrained`, `random` or a path.

    Raises UserError for weights that are unavailable or do not fit.
    """
    layers = _normalised if name == "vgg19_normalised" else _plain
    net, (prepare, first, second), unused = seeded(layers, seed, name)
    fill(net, weights, _published(name), unused)
    return Maps(prepare, first, second).eval().requires_grad_(False).to(device)


def recipe(name: str, weights: str, seed: int = 0) -> Recipe:
    """Everything that determines the maps of given pixels."""
    return {"vgg": name, "weights": identity(weights, lambda: _published(name), seed)}


def _plain() -> tuple[nn.Module, Parts, tuple[str, ...]]:
    from torchvision.models.vgg import VGG19_Weights, make_layers

    layers = make_layers([64, 64, "M", 128])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):  # as torchvision initialises the whole network
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    transforms = VGG19_Weights.DEFAULT.transforms()
    prepare = features.Normalize(transforms.mean, transforms.std)
    net = nn.Sequential(OrderedDict(features=layers))  # fields named as in the published file
    unused = tuple(f"features.{i}." for i in range(len(layers), 37))
    return net, (prepare, layers[:2], layers[2:]), (*unused, "classifier.")


def _normalised() -> tuple[nn.Module, Parts, tuple[str, ...]]:
    def convolution(channels: int, out_channels: int) -> list[nn.Module]:
        return [nn.ReflectionPad2d(1), nn.Conv2d(channels, out_channels, 3), nn.ReLU()]

    net = nn.Sequential(nn.Conv2d(3, 3, 1), *convolution(3, 64), *convolution(64, 64),
                        nn.MaxPool2d(2, ceil_mode=True), *convolution(64, 128))
    return net, (net[:1], net[1:4], net[4:]), tuple(f"{i}." for i in range(len(net), 64))


def _published(name: str) -> Published[StateDict]:
    from torchvision.models.vgg import VGG19_Weights, vgg19

    best = VGG19_Weights.DEFAULT
    return Published(name, "torchvision", best.url if name == "vgg19" else None, by_hand(best.url),
                     lambda: vgg19(weights=best).state_dict())
