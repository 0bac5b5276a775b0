"""Finished models: finding the file of one trained elsewhere, and which images a model was trained on."""

from pathlib import Path
from typing import Any

from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.params import resolve
from diffusegen_core.config.sections import Train
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.store import files

# Prefixes of what the authors' training leaves beside a model: averaged weights, the optimizer's state.
BESIDE = ("ema", "opt")


def find_released(settings: Train, name: str) -> Path | None:
    """The finished checkpoint to use for a model instead of training it, if the parameters name a folder.

    UserError unless exactly one is found. A cluster's file is named as by the authors (`cluster_3_*.pt`) or
    by DiffuseGen, the full set's as published (`model200000.pt`) or by DiffuseGen. What the authors' training
    leaves beside a model is ignored: they sample with the plain weights.
    """
    if settings.checkpoints is None:
        return None
    folder = resolve(settings.checkpoints)
    cluster = f"cluster_{int(name.removeprefix('cluster-'))}_" if name.startswith("cluster-") else None
    theirs = [f"{cluster}*.pt"] if cluster else [f"{name}*.pt", "model[0-9]*.pt"]
    patterns = [*theirs, f"{name}*{checkpoints.OURS}", f"{name}/model{checkpoints.OURS}"]
    candidates = sorted(path for pattern in patterns for path in folder.glob(pattern)
                        if not (cluster and path.name.removeprefix(cluster).startswith(BESIDE)))
    if len(candidates) != 1:
        named = f" ({some([path.name for path in candidates])})" if candidates else ""
        raise UserError(f"Parameters: train.checkpoints: {folder} holds {len(candidates)} checkpoints for "
                        f"{name}{named}; one is needed, named {', '.join(patterns[:-1])} or {patterns[-1]}.")
    return candidates[0]


def fingerprints(pairs: Pairs) -> dict[str, str]:
    """A hash of each image's pixels, by name; a model's header holds those of its training images."""
    return {name: files.pixel_hash(image)[:16]
            for name, image in zip(pairs.names, pairs.images, strict=True)}


def read_fingerprints(path: Path) -> dict[str, str] | None:
    """The fingerprints of the images that a finished model was trained on; None where it records none."""
    return checkpoints.header(path).get("seen") if path.suffix == checkpoints.OURS else None


def refuse_strangers(path: Path, training: Pairs, wanted: dict[str, Any]) -> None:
    """UserError, naming images, where a model is known to have seen some that are not training images here.

    `wanted` is the run's configuration, which is compared first: at another size no image would match.
    """
    if not (known := read_fingerprints(path)):
        return
    checkpoints.refuse_other_configuration(path, checkpoints.header(path), wanted)
    ours = set(fingerprints(training).values())
    strangers = [name for name, pixels in known.items() if pixels not in ours]
    if strangers:
        raise UserError(f"{path} was trained on images that are not training images of this run, and may be "
                        f"test images: {some(strangers)}. Give the run the pairs that the model was trained "
                        "on, or another train.checkpoints.")
