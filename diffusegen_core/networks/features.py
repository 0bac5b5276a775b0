"""Image features from a backbone network: for clustering (paper 2.2) and other comparisons of images.

A backbone is named `inception_v3_fid` (Inception-v3 as the FID uses it, 2048 pooled features), `NAME` of a
torchvision classification model, or `timm/NAME`; for the last two, features are the input of the last linear
layer. Images are resized bilinearly to the side that the library gives for the network: 299, 224 or the like.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.networks.weights import (
    PRETRAINED,
    RANDOM,
    Published,
    StateDict,
    by_hand,
    fill,
    hub_folder,
    identity,
    looking,
    seeded,
    words,
)
from diffusegen_core.parallel import progress
from diffusegen_core.store import files, moves
from diffusegen_core.store.artifacts import Recipe, key

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

# torchvision, timm and pytorch-fid are imported where they are used: they take seconds, and a chapter whose
# features are cached needs none of them.

CHUNK = 512  # images between two writes of the store
InputRange = Literal["imagenet", "symmetric"]

INCEPTION = "inception_v3_fid"
# Mean and deviation of pixels in 0..255.
RANGES = {
    "imagenet": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "symmetric": ([128.0] * 3, [128.0] * 3),
    INCEPTION: ([127.5] * 3, [127.5] * 3),
}


@dataclass(frozen=True)
class _Backbone:
    """A feature network before it is made: its input side, its published weights, and how to make it."""

    size: int
    published: Published[StateDict]
    make: Callable[[], tuple[nn.Module, tuple[str, ...]]]
    """Returns the network without its classifier, and the prefixes of the fields that it thus lacks."""


def extract(images: np.ndarray, backbone: str, weights: str, input_range: InputRange,
            device: torch.device | str = "cpu", seed: int = 0, batch_size: int = 32) -> np.ndarray:
    """Features (N, D), float32, of images (N, 3, H, W), uint8 RGB: one row each, whatever the batch size.

    `weights` is `pretrained`, `random` (drawn from `seed`) or a path; `input_range` says what they expect:
    ImageNet's mean and deviation, or (x - 128) / 128. `inception_v3_fid` has its own range. Raises UserError
    for an unknown backbone and for weights that are unavailable or do not fit.
    """
    device = devices.device(device) if isinstance(device, str) else device
    net = load(backbone, weights, input_range, device, seed)
    batches = (torch.from_numpy(images[start:start + batch_size].astype(np.float32))
               for start in range(0, len(images), batch_size))
    return compute(net, batches, device, label(backbone, weights), len(images))


def compute(net: Callable[[Tensor], Tensor], batches: Iterable[Tensor], device: torch.device | str,
            title: str, count: int) -> np.ndarray:
    """A network's output for batches (B, 3, H, W) of `count` images in all: rows (N, D), float32."""
    rows = []
    with torch.inference_mode(), devices.exact(), progress.bar(title, count, "image") as bar:
        for batch in batches:
            rows.append(net(batch.to(device)).flatten(1).float().cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(rows)


def load(backbone: str, weights: str, input_range: InputRange, device: torch.device | str = "cpu",
         seed: int = 0, size: int | None = None) -> nn.Sequential:
    """The differentiable map from RGB pixels (B, 3, H, W), float in 0..255, to features (B, D); eval mode.

    `size` replaces the library's input side; UserError where the network cannot take it.
    """
    from torchvision.transforms.v2 import Resize

    chosen = _find(backbone)
    net, unused = seeded(chosen.make, seed, backbone)
    if size not in (None, chosen.size) and _is_transformer(net):
        raise UserError(f"The backbone {backbone} takes images of {chosen.size} pixels only, not {size}.")
    fill(net, weights, chosen.published, unused)
    mean, deviation = RANGES[INCEPTION if backbone == INCEPTION else input_range]
    side = size or chosen.size
    # pytorch-fid resizes without antialiasing.
    resize = Resize((side, side), antialias=backbone != INCEPTION)
    whole = nn.Sequential(resize, Normalize(mean, deviation), net).eval().requires_grad_(False)
    if side != chosen.size:
        _refuse_misfit(whole, backbone, side, chosen.size)
    return whole.to(device)


class Normalize(nn.Module):
    """(x - mean) / deviation by channel. torchvision's sends both to the device again in every call."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]):
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def _refuse_misfit(net: nn.Module, backbone: str, side: int, usual: int) -> None:
    """UserError where a network cannot process images of a side other than its usual one."""
    try:
        net(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError):
        raise UserError(f"The backbone {backbone} cannot take images of {side} pixels. Its native size is "
                        f"{usual}.") from None


def load_cls(backbone: str, weights: str, input_range: InputRange, device: torch.device | str = "cpu",
             seed: int = 0, size: int | None = None) -> nn.Sequential:
    """As `load`, but for a vision transformer the [CLS] token after its last block (paper A.3).

    The final normalisation is left out, as in the authors' code. Other networks give what `load` does.
    """
    net = load(backbone, weights, input_range, device, seed, size)
    network: Any = net[-1]  # of the library's own class, with attributes that Module lacks
    if _is_transformer(network) and backbone.startswith("timm/"):
        network.norm, network.fc_norm, network.global_pool = nn.Identity(), nn.Identity(), "token"
    elif _is_transformer(network):
        network.encoder.ln = nn.Identity()
    return net


def label(backbone: str, weights: str) -> str:
    """The words that name the backbone and its weights in every output: "resnet18 (random weights)"."""
    return f"{backbone} ({words(weights)})"


def recipe(backbone: str, weights: str, input_range: InputRange, seed: int = 0) -> Recipe:
    """Everything that determines the features of given pixels."""
    decided = {"backbone": backbone, "weights": identity(weights, lambda: _find(backbone).published, seed)}
    return decided if backbone == INCEPTION else {**decided, "input_range": input_range}


def remembered(store: Path, images: np.ndarray, decided_by: Recipe,
               compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Features (N, D) of images (N, ...); `compute` is called only for those that are not in the store.

    The store is a folder of a run, with a subfolder for each recipe; rows are keyed by the hash of their
    image's pixels, so that nothing in it ever becomes stale. Rows computed together share a file, so that
    workers can fill the store concurrently. Raises UserError if something is to be written and the place is
    a symbolic link.
    """
    folder = store / key(decided_by)
    hashes = [files.pixel_hash(image) for image in images]
    known = {content: row for file in sorted(folder.glob("[!.]*.npz"))
             for content, row in _rows(file).items()}
    missing = list({content: i for i, content in enumerate(hashes) if content not in known}.items())
    if missing:
        moves.refuse_links(store.parent, [f"{store.name}/{folder.name}"])
    for first in range(0, len(missing), CHUNK):
        chunk = dict(missing[first:first + CHUNK])
        rows = compute(images[list(chunk.values())])
        name = f"{key({'hashes': list(chunk)})}.npz"
        files.write(folder / name, partial(np.savez, hashes=np.array(list(chunk)), rows=rows))
        known |= dict(zip(chunk, rows, strict=True))
    return np.stack([known[content] for content in hashes])


def _rows(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            return dict(zip(stored["hashes"].tolist(), stored["rows"], strict=True))
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError):
        return {}  # damaged: its rows are computed again


def _is_transformer(net: nn.Module) -> bool:
    # timm's and torchvision's classes share this name; comparing it imports neither.
    return type(net).__name__ == "VisionTransformer"


def _find(backbone: str) -> _Backbone:
    if backbone == INCEPTION:
        return _inception()
    if backbone.startswith("timm/"):
        return _timm(backbone)
    return _torchvision(backbone)


def _inception() -> _Backbone:
    import torchvision
    from pytorch_fid import inception as fid

    url = fid.FID_WEIGHTS_URL
    published = Published(INCEPTION, "pytorch-fid", url, by_hand(url),
                          lambda: load_state_dict_from_url(url, map_location="cpu", check_hash=True))

    def make() -> tuple[nn.Module, tuple[str, ...]]:
        # torchvision's network, with those blocks replaced in which the FID's differs.
        net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        for name, channels, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
            net.set_submodule(f"Mixed_{name}", fid.FIDInceptionA(channels, pool_features=pooled))
        for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            net.set_submodule(f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=channels))
        net.Mixed_7b, net.Mixed_7c = fid.FIDInceptionE_1(1280), fid.FIDInceptionE_2(2048)
        net.fc = nn.Identity()
        return net, ("fc.",)

    return _Backbone(299, published, make)


def _torchvision(name: str) -> _Backbone:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown(name, [*known, INCEPTION])
    best = torchvision.models.get_model_weights(name).DEFAULT
    size = best.transforms().crop_size[0]
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        # Their weights come from TensorFlow; transform_input undoes the ImageNet normalisation for them.
        options = {"transform_input": True, "aux_logits": False, "init_weights": True}

    def make() -> tuple[nn.Module, tuple[str, ...]]:
        net = torchvision.models.get_model(name, weights=None, **options)
        linear = [field for field, module in net.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UserError(f"The backbone {name} has no linear layer to take features from. Choose another.")
        net.set_submodule(linear[-1], nn.Identity())
        return net, (f"{linear[-1]}.", "aux1.", "aux2.", "AuxLogits.")

    published = Published(name, "torchvision", best.url, by_hand(best.url),
                          lambda: torchvision.models.get_model(name, weights=best).state_dict())
    return _Backbone(size, published, make)


def _timm(backbone: str) -> _Backbone:
    import timm

    name = backbone.removeprefix("timm/")
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise _unknown(backbone, [f"timm/{other}" for other in known])

    def make() -> tuple[nn.Module, tuple[str, ...]]:
        net = timm.create_model(name, pretrained=False, num_classes=0)
        heads = config.classifier or ()
        return net, tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))

    return _Backbone(config.input_size[-1], _published_by_timm(name, config), make)


def _published_by_timm(name: str, config: "PretrainedCfg") -> Published[StateDict]:
    import timm

    def load() -> dict[str, torch.Tensor]:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()

    if config.hf_hub_id is None:
        # Its type allows for a pair of addresses, which no network has.
        url = config.url if isinstance(config.url, str) else ""
        return Published(name, "timm", url or None, by_hand(url), load)
    file = config.hf_hub_filename or "model.safetensors"
    copied = (f"Without a network, copy the folder {hub_folder(config.hf_hub_id)} from a machine that has "
              f"it, or download {file} of that hub id elsewhere.")
    return Published(name, "timm", config.hf_hub_id, copied, load, from_hub=True)


def _unknown(name: str, known: list[str]) -> UserError:
    close = get_close_matches(name, known, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return UserError(f"There is no backbone {name}.{meant} A backbone is {INCEPTION}, a torchvision "
                     "classification model, or timm/NAME.")


def refuse_unfit(weights: str, load_network: Callable[..., object], *arguments: object,
                 **options: object) -> None:
    """UserError where `load_network(*arguments, device=...)` would fail; nothing is downloaded.

    It fails for a weights file of another network, for published weights that are not available, and for
    images of a size that the network cannot process.
    """
    if weights in (PRETRAINED, RANDOM):
        with torch.device("meta") as nowhere, looking():  # nothing is computed
            load_network(*arguments, **options, device=nowhere)
    else:
        load_network(*arguments, **options)
