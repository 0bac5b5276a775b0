"""The segmentation network of chapters 6 and 7, U-Net++, and its training (paper 2.6, B.3; method.md 7).

Whatever an epoch draws at random (order, augmentation, dropout) has its own seeds, so a killed training
continues from its last checkpoint as if it had not been interrupted, on the CPU bit for bit.
"""

import copy
import logging
import time
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import plain
from diffusegen_core.config.sections import Segment
from diffusegen_core.data import planes
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.measures import overlap
from diffusegen_core.networks import weights
from diffusegen_core.networks.features import RANGES
from diffusegen_core.parallel import progress
from diffusegen_core.segmentation import augmentation, softdice
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import Recipe

# segmentation-models-pytorch and timm are imported where they are used: they take seconds.

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same parameters and pairs would give another network
# The parameters that decide the trained network, besides its encoder's weights, the pairs and the seed.
DECIDES = ["encoder", "input_range", "decoder_channels", "epochs", "epoch_images", "batch_size", "lr",
           "lr_epochs", "lr_after", "augment", "precision"]
# Prefixes of classifier fields in published weights; dropped, unless the encoder itself has such a field.
HEADS = ("classifier.", "fc.", "_fc.", "last_linear.", "linear.", "head.")
CHECKPOINT = "checkpoint.safetensors"
TIMM = "tu-"  # prefix of timm's networks in segmentation-models-pytorch


@dataclass(frozen=True)
class Fitted:
    """A trained network and the record of its training."""

    net: nn.Module  # with the weights of its best epoch, in eval mode
    history: pd.DataFrame  # epoch (from 1), loss, valid_iou
    best_epoch: int
    seconds: float


@dataclass
class EpochState:
    """The state that an epoch changes."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    best: weights.StateDict
    history: list[tuple[float, float]] = field(default_factory=list)  # loss, and IoU of the validation pairs
    seconds: float = 0.0

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, with the highest IoU; the first of equals."""
        return 1 + max(range(len(self.history)), key=lambda epoch: self.history[epoch][1])


def decided_by(settings: Segment, seed: int, kind: Planes) -> Recipe:
    """What decides the trained network, apart from the pairs, whose channels and classes are `kind`."""
    later: Recipe = {"rotate": settings.rotate} if settings.augment and settings.rotate else {}
    if softdice.exclusive(kind):
        later["loss"] = "background and classes"  # older recipes lack this, and "rotate"
    return {"version": VERSION, "seed": seed, **{name: plain(settings)[name] for name in DECIDES}, **later,
            "weights": weights.identity(settings.weights, lambda: _published(settings), seed)}


def label(settings: Segment) -> str:
    """The name of the encoder and its weights in every output."""
    return f"{settings.encoder} ({weights.words(settings.weights)})"


def inputs(channels: int) -> int:
    """The number of channels the network sees: grey is shown as RGB, for which encoders have weights."""
    return planes.RGB if channels == 1 else channels


def build(settings: Segment, seed: int, kind: Planes) -> nn.Module:
    """U-Net++ from normalised pixels (B, `inputs`, S, S) to logits (B, M + 1, S, S) of background and
    mutually exclusive classes, or to independent logits (B, M, S, S) where classes overlap.

    For channels other than grey or RGB, the encoder's first layer repeats the weights for RGB in turn.
    The encoder's weights are those that the settings name; all others are drawn from `seed`. UserError for an
    unknown encoder, one that cannot be cut to that many levels, and weights that are missing or do not fit.
    """
    import segmentation_models_pytorch as smp

    published = _published(settings)
    try:
        net = weights.seeded(lambda: smp.UnetPlusPlus(
            settings.encoder, encoder_depth=len(settings.decoder_channels), encoder_weights=None,
            decoder_channels=settings.decoder_channels, classes=kind.classes + (not kind.overlap)),
            seed, "segment")
    except (ValueError, TypeError, IndexError) as error:  # no U-Net++ of it, or not so deep
        raise UserError(f"segment.encoder {settings.encoder} with {len(settings.decoder_channels)} levels of "
                        f"segment.decoder_channels: {error}. Choose another.") from None
    fields = net.encoder.state_dict()
    unused = tuple(head for head in HEADS if not any(name.startswith(head) for name in fields))
    weights.fill(net.encoder, settings.weights, published, unused)
    if (seen := inputs(kind.channels)) != planes.RGB:
        _widen(net.encoder, seen)
    net.planes = kind
    return net


def _widen(encoder: nn.Module, channels: int) -> None:
    """Adapt an encoder to other channels than RGB: its first layer repeats the weights for RGB, scaled."""
    first = next(layer for layer in encoder.modules()
                 if isinstance(layer, nn.Conv2d) and layer.in_channels == planes.RGB)
    turns = [number % planes.RGB for number in range(channels)]
    first.weight = nn.Parameter(first.weight.data[:, turns] * planes.RGB / channels)
    first.in_channels = channels


def refuse_impossible(settings: Segment, seed: int, side: int, kind: Planes) -> None:
    """UserError if there is no such network, it cannot take images of that side, or its weights are
    unavailable or belong to another network."""
    published = settings.weights == weights.PRETRAINED
    with torch.device("meta"), weights.looking():  # nothing is computed
        net = build(settings.model_copy(update={} if published else {"weights": weights.RANDOM}), seed, kind)
        try:
            net(torch.empty(settings.batch_size, inputs(kind.channels), side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"segment.encoder {settings.encoder} does not accept images of {side} pixels: "
                            f"{' '.join(str(error).split())[:200]}. Choose another, or set data.image_size "
                            "to a size that it accepts.") from None
    decided_by(settings, seed, kind)
    if settings.weights not in (weights.PRETRAINED, weights.RANDOM):
        build(settings, seed, kind)


def fit(train: Pairs, valid: Pairs, settings: Segment, seed: int, folder: Path, recipe: Recipe,
        device: torch.device, title: str) -> Fitted:
    """Train on `train` and choose the epoch by the classes' mean IoU over `valid`; or continue, if `folder`
    has a checkpoint of the same `recipe`, parameters and pairs. CHECKPOINT stays there until the caller has
    saved the network and removes it. Raises UserError if either set is empty or the training diverges.
    """
    if not len(train) or not len(valid):
        raise UserError(f"{title}: {len(train)} pairs to train on and {len(valid)} to choose the best epoch "
                        "by; both need at least one. Change segment.validation, or give more pairs.")
    net = build(settings, seed, train.planes).to(device)
    state = EpochState(net, torch.optim.Adam(net.parameters(), lr=settings.lr), best={})
    path = folder / CHECKPOINT
    recipe = {**recipe, "net": decided_by(settings, seed, train.planes), "train": train.digest,
              "valid": valid.digest}
    _resume(state, path, recipe)
    began = time.monotonic() - state.seconds
    with progress.bar(title, settings.epochs, "epoch", done=len(state.history)) as bar:
        while len(state.history) < settings.epochs:
            loss = _epoch(state, train, settings, seed, device)
            if not np.isfinite(loss):
                raise UserError(f"{title}: the training diverged: in epoch {len(state.history) + 1} the loss "
                                f"is {loss}. Lower segment.lr.")
            probabilities = predict(net, valid.images, settings, device)
            iou = float(overlap.scores(probabilities, valid.masks, valid.overlap)["iou"].mean())
            state.history.append((loss, iou))
            if state.best_epoch == len(state.history):
                state.best = copy.deepcopy(net.state_dict())
            state.seconds = time.monotonic() - began
            bar.set_postfix(loss=f"{loss:.3f}", valid_iou=f"{iou:.3f}")
            bar.update()
            if len(state.history) % settings.checkpoint_every == 0:
                _keep(state, path, recipe)
    net.load_state_dict(state.best)
    history = pd.DataFrame(state.history, columns=["loss", "valid_iou"])
    history.insert(0, "epoch", range(1, len(history) + 1))
    return Fitted(net.eval(), history, state.best_epoch, state.seconds)


def planes_of(net: nn.Module) -> Planes:
    """The channels and classes of a network made by `build`."""
    assert isinstance(net.planes, Planes), "it is one of `build`"
    return net.planes


def save(path: Path, net: nn.Module) -> Path:
    """Save a trained network's weights unchanged, so that its predictions stay the same."""
    return checkpoints.save(path, net.state_dict(), dict(planes_of(net).told))


def load(path: Path, settings: Segment, device: torch.device) -> nn.Module:
    """A network that `save` wrote, in eval mode; its encoder's pretrained weights are not needed.

    UserError where the installed libraries build a different network.
    """
    state, header = checkpoints.read(path)
    net = build(settings.model_copy(update={"weights": weights.RANDOM}), 0, Planes(**header))
    try:
        net.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{path} does not fit {settings.encoder} as the installed libraries build it. "
                        f"Move the folder {path.parent} away, and the network is trained again.") from None
    return net.to(device).eval()


def predict(net: nn.Module, images: np.ndarray, settings: Segment, device: torch.device) -> np.ndarray:
    """Probabilities (N, M + 1, S, S), float32, of background and classes, for images (N, C, S, S), uint8.

    They sum to one. Where classes overlap, each has its own probability, and that of background is one minus
    the likeliest. Always in fp32 and eval mode: an image's result depends on no other image.
    """
    net.eval()
    rows = []
    with torch.inference_mode(), devices.exact():
        for batch in np.split(images, range(settings.batch_size, len(images), settings.batch_size)):
            logits = net(_normalised(batch, settings, device))
            rows.append((_apart(logits) if planes_of(net).overlap else logits.softmax(1)).cpu().numpy())
    return np.concatenate(rows)


def _apart(logits: Tensor) -> Tensor:
    """Probabilities of background and overlapping classes, from one logit per class."""
    each = logits.sigmoid()
    return torch.cat([1 - each.amax(dim=1, keepdim=True), each], dim=1)


def batches(images: int, settings: Segment, seed: int, epoch: int) -> list[np.ndarray]:
    """Positions in the training set of one epoch (from 0), batch by batch.

    Every image comes once before any comes again. No batch holds a single image, for which batch norm has no
    deviation: the sizes are as even as possible, and a single training image comes twice.
    """
    wanted = max(2, settings.epoch_images or images)
    rng = seeds.rng(seed, "segment", "order", epoch)
    order = np.concatenate([rng.permutation(images) for _ in range(-(-wanted // images))])[:wanted]
    return np.array_split(order, min(-(-wanted // settings.batch_size), wanted // 2))


def _epoch(state: EpochState, train: Pairs, settings: Segment, seed: int, device: torch.device) -> float:
    """Train for one epoch and return the mean loss of its batches."""
    kind, dice = train.planes, softdice.loss(train.planes).to(device)
    epoch = len(state.history)
    transform = augmentation.transforms(kind.channels, settings.rotate) if settings.augment else None
    losses, drawn = [], 0
    for group in state.optimizer.param_groups:
        group["lr"] = settings.lr if epoch < settings.lr_epochs else settings.lr_after
    state.net.train()
    with seeds.global_seed(seed, "segment", "dropout", epoch, device=device):
        for batch in batches(len(train), settings, seed, epoch):
            own_seeds = [seeds.derive(seed, "segment", "augment", epoch, drawn + i)
                         for i in range(len(batch))]
            images, masks = augmentation.drawn(train, batch, transform, own_seeds)
            drawn += len(batch)
            state.optimizer.zero_grad(set_to_none=True)
            with devices.autocast(device, settings.precision):
                logits = state.net(_normalised(images, settings, device))
            wanted = planes.separate(masks, kind.classes) if kind.overlap else masks
            loss = dice(logits.float(), torch.from_numpy(wanted).to(device, torch.int64))
            loss.backward()
            state.optimizer.step()
            losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _normalised(images: np.ndarray, settings: Segment, device: torch.device) -> Tensor:
    shown = planes.rgb(images) if images.shape[1] == 1 else images
    mean, deviation = (torch.tensor(v, device=device).view(3, 1, 1) for v in RANGES[settings.input_range])
    if shown.shape[1] != planes.RGB:
        mean, deviation = mean.mean(), deviation.mean()
    return (torch.from_numpy(shown).to(device).float() - mean) / deviation


def _keep(state: EpochState, path: Path, recipe: Recipe) -> None:
    tensors = {**{f"net.{name}": value for name, value in state.net.state_dict().items()},
               **{f"best.{name}": value for name, value in state.best.items()},
               **checkpoints.moments(state.net, state.optimizer),
               "history": torch.tensor(state.history, dtype=torch.float64)}
    checkpoints.save(path, tensors, {"recipe": recipe, "seconds": state.seconds}, hashed=False)


def _resume(state: EpochState, path: Path, recipe: Recipe) -> None:
    header = checkpoints.left(path)
    if header is None:
        return
    tensors, _ = checkpoints.read(path)
    if reasons := checkpoints.misfit(header, tensors, recipe, "net.", state.net):
        log.warning("%s belongs to another training (%s). Training starts again.", path, "; ".join(reasons))
        return
    state.net.load_state_dict(checkpoints.part(tensors, "net."))
    state.best = checkpoints.part(tensors, "best.")
    checkpoints.restore(state.net, state.optimizer, tensors)
    state.history = [tuple(row) for row in tensors["history"].tolist()]
    state.seconds = header["seconds"]
    log.info("%s: continued after epoch %d", path, len(state.history))


def _published(settings: Segment) -> weights.Published:
    """The published weights of an encoder: segmentation-models-pytorch's own copies on the hub, or timm's.

    UserError for an unknown encoder.
    """
    from segmentation_models_pytorch.encoders import encoders, get_encoder

    _refuse_unknown(settings.encoder)
    depth = len(settings.decoder_channels)
    if settings.encoder.startswith(TIMM):
        import timm

        config = timm.get_pretrained_cfg(settings.encoder.removeprefix(TIMM))
        name: str | bool = True
        where = config.hf_hub_id if config else None
    else:
        known = encoders[settings.encoder]["pretrained_settings"]
        name = "imagenet" if "imagenet" in known else next(iter(known))
        where = known[name]["repo_id"]
    by_hand = (f"Without a network, copy the folder {weights.hub_folder(str(where))} from a machine that has "
               "it.")
    return weights.Published(settings.encoder, "segmentation-models-pytorch", where, by_hand,
                             lambda: get_encoder(settings.encoder, depth=depth, weights=name).state_dict(),
                             from_hub=True)


def _refuse_unknown(encoder: str) -> None:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    known = timm.is_model(encoder.removeprefix(TIMM)) if encoder.startswith(TIMM) else encoder in encoders
    if not known:
        names = [*encoders, *(f"{TIMM}{name}" for name in timm.list_models())]
        close = get_close_matches(encoder, names, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"There is no segment.encoder {encoder}.{meant} Give a name that "
                        f"segmentation-models-pytorch knows, or {TIMM}NAME for a timm model.")
