"""Network weights on disk: ours, which carry their whole configuration, and the released ones, which do not.

A checkpoint of ours is a safetensors file; its header holds the configuration as JSON. A released one, by the
paper's authors, is a bare state dict in guided-diffusion naming. Nothing here ever executes a pickle.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.params import Params, plain, resolve
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.networks import weights
from diffusegen_core.store import runs

log = logging.getLogger(__name__)

SHOWN = 4  # tensors that a misfit names


def configuration(p: Params) -> dict[str, Any]:
    """What a usable file and the parameters must agree on: the network and the process it was trained for."""
    return {"image_size": p.data.image_size, "model": plain(p.model), "process": plain(p.process)}


def save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], hashed: bool = True) -> Path:
    """Write tensors and a JSON header, atomically; `hashed` as in `runs.write`."""
    # One key, because safetensors writes several in any order: the same content is the same bytes.
    metadata = {"header": json.dumps(header)}
    # Copies, because an adopted model's two sets of weights are the same memory, which the format refuses.
    copies = {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    try:
        return runs.write(path, lambda file: save_file(copies, file, metadata), hashed)
    except SafetensorError as error:
        raise UserError(f"{path} could not be written: {error}.") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of ours. UserError where it is truncated, or not ours."""
    with _opened(path) as f:
        return {name: f.get_tensor(name) for name in f.keys()}, _header(path, f)  # noqa: SIM118


def header(path: Path) -> dict[str, Any]:
    """The header of a file of ours alone. UserError as `read`."""
    with _opened(path) as f:
        return _header(path, f)


def _header(path: Path, f: safe_open) -> dict[str, Any]:
    metadata = f.metadata() or {}
    if "header" not in metadata:
        raise UserError(f"{path} is a safetensors file, but not a diffusegen checkpoint.")
    try:
        found = json.loads(metadata["header"])
    except (ValueError, RecursionError):
        found = None
    parts = ("configuration", "recipe", "seen")
    if not isinstance(found, dict) or not all(isinstance(found.get(part, {}), dict) for part in parts):
        raise UserError(f"{path} cannot be read as a checkpoint: its header is not one of ours.")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as f:
            yield f
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}.") from None


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def left(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What an unfinished training left there, as `read`; None, with a warning, where that is damaged."""
    if not path.exists():
        return None
    try:
        return read(path)
    except UserError as error:
        log.warning("%s Training starts again.", error)
        return None


def moments(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state, by names that `restore` knows."""
    return {f"optimizer.{i}.{name}": value for i, parameter in enumerate(net.parameters())
            for name, value in optimizer.state.get(parameter, {}).items()}


def restore(net: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `moments` gave; a parameter without gradients has none."""
    for i, parameter in enumerate(net.parameters()):
        if found := part(tensors, f"optimizer.{i}."):
            optimizer.state[parameter] = {  # torch keeps the steps on the CPU, unless the optimizer is fused
                name: value if name == "step" and not optimizer.defaults["fused"]
                else value.to(parameter.device) for name, value in found.items()}


def misfit(header: dict[str, Any], tensors: dict[str, Tensor], recipe: runs.Recipe, prefix: str,
           net: nn.Module) -> list[str]:
    """Why an unfinished training of this recipe cannot go on from a checkpoint; nothing where it can."""
    if reasons := runs.differences(header.get("recipe", {}), recipe):
        return reasons
    found, wanted = part(tensors, prefix), net.state_dict()
    if "history" not in tensors or {k: v.shape for k, v in found.items()} != {
            k: v.shape for k, v in wanted.items()}:
        return ["it is no unfinished training of this network"]
    return []


def released(p: Params, name: str) -> Path | None:
    """The finished checkpoint to use for a model instead of training it, if the parameters name a folder."""
    if p.train.checkpoints is None:
        return None
    folder = resolve(p.train.checkpoints)
    stem = f"cluster_{int(name.removeprefix('cluster-'))}_" if name.startswith("cluster-") else name
    found = sorted(f for pattern in (f"{stem}*.pt", f"{name}*.safetensors", f"{name}/model.safetensors")
                   for f in folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"Parameters: train.checkpoints: {folder} holds {len(found)} checkpoints for {name}; "
                        f"one is needed, named {stem}*.pt, {name}*.safetensors or {name}/model.safetensors.")
    return found[0]


def fingerprints(pairs: Pairs) -> dict[str, str]:
    """By name, a hash of an image's pixels: what the header of a model tells of those that it has seen."""
    return {name: hashlib.sha256(image.tobytes()).hexdigest()[:16]
            for name, image in zip(pairs.names, pairs.images, strict=True)}


def seen(path: Path) -> dict[str, str] | None:
    """The fingerprints of the images that a finished model was trained on; None where the file tells none."""
    return header(path).get("seen") if path.suffix == ".safetensors" else None


def refuse_strangers(path: Path, training: Pairs, p: Params) -> None:
    """UserError, naming images, where a model is known to have seen one that is no training image here."""
    if known := seen(path):  # of another size, every image would be a stranger
        refuse_other_configuration(path, header(path)["configuration"], p)
    ours = set(fingerprints(training).values())
    strangers = [name for name, pixels in (known or {}).items() if pixels not in ours]
    if strangers:
        raise UserError(f"{path} was trained on images that are no training images of this run, and may be "
                        f"test images: {some(strangers)}. Give the run the pairs that the model was trained "
                        "on, or another train.checkpoints.")


def adopt(p: Params, source: Path, path: Path, recipe: runs.Recipe) -> dict[str, Any]:
    """Take a finished checkpoint into the run as `path`, if it fits; the stamp of the artifact."""
    net, known = load_net(source, p, torch.device("cpu")), seen(source)
    runs.clear(path.parent)
    tensors = {f"{kind}.{k}": v for kind in ("raw", "ema") for k, v in net.state_dict().items()}
    made = save(path, tensors, {"configuration": configuration(p),
                                **({} if known is None else {"seen": known})})
    return runs.finish(path.parent, recipe, [made], seconds=0.0, images=0, steps=0, loss=float("nan"),
                       parameters=parameter_count(net),
                       trained=f"elsewhere on {'unknown' if known is None else 'known'} images")


def load_net(path: Path, p: Params, device: torch.device) -> UNet:
    """A checkpoint's network, ours or released, in eval mode. UserError names every field that differs."""
    with torch.device("meta"):  # no weights are drawn that the file's would replace
        net = UNet(p.model, p.data.image_size)
    if path.suffix == ".safetensors":
        tensors, header = read(path)
        if "configuration" not in header:
            raise UserError(f"{path} is a checkpoint of unfinished training, not a finished model.")
        refuse_other_configuration(path, header["configuration"], p)
        state = part(tensors, f"{p.train.sample_weights}.")
    else:
        if p.process.objective != "eps":
            raise UserError(f"{path} is a released checkpoint, which predicts eps, but process.objective is "
                            f"{p.process.objective}.")
        state = weights.read(path)
    refuse_other_shapes(path, state, net)
    net.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return net.to(device).eval().requires_grad_(False)


def refuse_other_configuration(path: Path, found: dict[str, Any], p: Params) -> None:
    """UserError, naming each difference, unless a file's configuration is that of the parameters."""
    differing = runs.differences(found, configuration(p))
    if differing:
        raise UserError(f"{path} does not fit the parameters (in the file -> in the parameters): "
                        + "; ".join(differing) + ".")


def refuse_other_shapes(path: Path, state: dict[str, Tensor], net: UNet) -> None:
    """UserError unless the state dict has the network's names and shapes; it says which are off."""
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found == wanted:
        return
    lines = [f"{name}: {found.get(name, 'absent')} in the file, "
             f"{wanted.get(name, 'absent')} in the parameters"
             for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    more = [f"and {len(lines) - SHOWN} more tensors"] if len(lines) > SHOWN else []
    raise UserError(f"{path} does not fit the parameters: "
                    + "; ".join(_summary(found, wanted) + lines[:SHOWN] + more) + ".")


def _summary(found: dict[str, tuple], wanted: dict[str, tuple]) -> list[str]:
    # A released file has no configuration, but these fields can be read off its shapes.
    def read_off(shapes: dict[str, tuple]) -> dict[str, Any]:
        stem, head = (shapes.get(f"{name}.weight", ()) for name in ("input_blocks.0.0", "out.2"))
        blocks = {name: name.split(".")[1] for name in shapes if name.startswith("input_blocks.")}
        attention = {block for name, block in blocks.items() if name.endswith(".qkv.weight")}
        return {"model.base_channels": stem[0] if len(stem) == 4 else "unknown",
                "input channels": stem[1] if len(stem) == 4 else "unknown",
                "output channels": head[0] if len(head) == 4 else "unknown",
                "input blocks": len({*blocks.values()}),
                "attention in input blocks": " ".join(sorted(attention, key=lambda b: (len(b), b))) or "none"}

    a, b = read_off(found), read_off(wanted)
    return [f"{name}: {a[name]} in the file, {b[name]} in the parameters" for name in a if a[name] != b[name]]
