"""Network weights on disk: DiffuseGen's own checkpoints, and those released by the paper's authors.

A DiffuseGen checkpoint is a safetensors file whose header holds its whole configuration as JSON. A released
one is a bare state dict in guided-diffusion naming, without any. Nothing here ever executes a pickle.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import plain
from diffusegen_core.config.plainfiles import plain_file
from diffusegen_core.config.sections import Model, Process
from diffusegen_core.data.planes import RGB_AND_MASK, Planes
from diffusegen_core.diffusion import process as processes
from diffusegen_core.diffusion.misfits import refuse_other_shapes
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.unet import UNCONDITIONAL, Conditions, UNet
from diffusegen_core.networks import weights as tensor_files
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import Recipe, differences

log = logging.getLogger(__name__)

Header = dict[str, Any]
OURS = ".safetensors"
WEIGHTS = ("ema", "raw")  # the averaged ones, and those of the last step
TRAINING_ALONE = ("augment",)  # conditions that samplers leave out
MOST_WIDTH = 1_000_000  # the widest condition accepted from a header
WIDTH = TypeAdapter(Annotated[int, Field(ge=0, le=MOST_WIDTH)])
FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors calls them
MOST_STEPS = 1_000_000  # the most process steps accepted from a header
AGAIN = "Copy it again from its source, name another file, or train the model again."  # if damaged


def configuration(model: Model, process: Process, image_size: int,
                  conditions: Conditions = UNCONDITIONAL, planes: Planes = RGB_AND_MASK) -> dict[str, Any]:
    """The configuration that a checkpoint records: its network, and the process it was trained for.

    A run can use a file only if the two agree on it, apart from conditions used only in training
    (TRAINING_ALONE). Conditions are recorded where there are any, and of `planes` what is not the default.
    """
    widths = {name: width for name, width in asdict(conditions).items() if width}
    return {"image_size": image_size, "model": plain(model), "process": plain(process), **planes.told,
            **widths}


# ---- DiffuseGen's own files

def save(path: Path, tensors: dict[str, Tensor], header: Header, hashed: bool = True) -> Path:
    """Write tensors and a JSON header, atomically; `hashed` as in `files.write`."""
    # One key, because safetensors writes several in any order, and the same content must be the same bytes.
    metadata = {"header": json.dumps(header)}
    # Copies, because an adopted model's two sets of weights share memory, which the format refuses.
    copies = {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    try:
        return files.write(path, lambda file: save_file(copies, file, metadata), hashed)
    except SafetensorError as error:
        raise UserError(f"{path} could not be written: {error}. Check the space on the disk and your "
                        "permission to write there, then run the same command again.") from error


def read(path: Path) -> tuple[dict[str, Tensor], Header]:
    """Tensors and header of a DiffuseGen file. UserError where it is damaged or not one."""
    with _opened(path) as (file, head):
        return {name: file.get_tensor(name) for name in file.keys()}, head  # noqa: SIM118


def header(path: Path) -> Header:
    """The header of a DiffuseGen file alone. UserError as in `read`."""
    with _opened(path) as (_, head):
        return head


def left(path: Path) -> Header | None:
    """The header of an unfinished training's file; None where absent or, with a warning, damaged."""
    if not path.exists():
        return None
    try:
        return header(path)
    except UserError as error:
        log.warning("%s Training starts again.", error)
        return None


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[safe_open, Header]]:
    """The file and its header; opening it checks the extents of all tensors against the file size."""
    try:
        with safe_open(plain_file(path), framework="pt") as file:
            yield file, _header(path, file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}. {AGAIN}") from None


def _header(path: Path, metadata: dict[str, str]) -> Header:
    if "header" not in metadata:
        raise UserError(f"{path} is a safetensors file, but not a diffusegen checkpoint. Name one that a run "
                        "has written, such as train/cluster-00/model.safetensors in its folder.")
    try:
        head = json.loads(metadata["header"])
    except (ValueError, RecursionError):
        head = None
    parts = ("configuration", "recipe", "seen")
    if not isinstance(head, dict) or not all(isinstance(head.get(name, {}), dict) for name in parts):
        raise UserError(f"{path} cannot be read as a checkpoint: its header was not written by "
                        f"DiffuseGen. {AGAIN}")
    return head


# ---- unfinished training

def moments(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state, under the names that `restore` expects."""
    return {f"optimizer.{i}.{name}": value for i, parameter in enumerate(net.parameters())
            for name, value in optimizer.state.get(parameter, {}).items()}


def restore(net: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore copies of what `moments` returned; a parameter that never had a gradient has no state."""
    for i, parameter in enumerate(net.parameters()):
        # torch keeps step counts on the CPU, unless the optimizer is fused.
        places = {"step": parameter.device if optimizer.defaults["fused"] else torch.device("cpu")}
        if state := part(tensors, f"optimizer.{i}."):
            optimizer.state[parameter] = {name: value.to(places.get(name, parameter.device), copy=True)
                                          for name, value in state.items()}


def misfit(header: Header, tensors: dict[str, Tensor], recipe: Recipe, prefix: str,
           net: nn.Module) -> list[str]:
    """Why an unfinished training of this recipe cannot resume from a checkpoint; empty where it can."""
    return differences(header.get("recipe", {}), recipe) or unlike(tensors, prefix, net)


def unlike(tensors: dict[str, Tensor], prefix: str, net: nn.Module) -> list[str]:
    """Why tensors are not those of an unfinished training of this network; empty where they are."""
    shapes = {name: value.shape for name, value in part(tensors, prefix).items()}
    if "history" not in tensors or shapes != {name: value.shape for name, value in net.state_dict().items()}:
        return ["it is not an unfinished training of this network"]
    return []


# ---- finished models

def load(path: Path | str, weights: str = "ema", device: torch.device | str = "cpu",
         precision: str = "fp32", label: int | None = None) -> Diffusion:
    """A finished DiffuseGen model, built from its own header; `weights` are "ema" (averaged) or "raw".

    For a model with labels, the part for one `label`. UserError where the file is damaged, unfinished or not
    DiffuseGen's, or has no such label.
    """
    path = Path(path)
    if path.suffix != OURS:
        raise UserError(f"{path} is not a {OURS} file, and only those describe their network. Read a "
                        "released checkpoint with checkpoints.load_released, with its network and process.")
    with _opened(path) as (file, head):
        net, process = _build_from_header(path, head, file, weights)
        _refuse_other_label(path, head["configuration"].get("labels", 0), label)
        state = {name: file.get_tensor(f"{weights}.{name}") for name in net.state_dict()}
    return _diffusion(path, net, state, process, device, precision, label)


def _refuse_other_label(path: Path, labels: int, label: int | None) -> None:
    """UserError unless `label` is one of the model's `labels`, or None where it has none."""
    if labels and label not in range(labels):
        raise UserError(f"{path} is a model of {labels} labels, 0 to {labels - 1}: load it for one of "
                        f"these, not for {label}. In a run, cluster-00 is its part for label 0.")
    if not labels and label is not None:
        raise UserError(f"{path} is a model without labels, so it cannot be loaded for label {label}. "
                        "Leave the label out.")


def load_released(path: Path, model: Model, process: Process, image_size: int,
                  device: torch.device | str = "cpu", precision: str = "fp32",
                  planes: Planes = RGB_AND_MASK) -> Diffusion:
    """A bare state dict, as the authors release them, loaded as the given network and process.

    UserError, naming the differences, where it does not fit them.
    """
    state = tensor_files.read(path)
    net = _build_from_parameters(path, state, model, process, image_size, planes)
    return _diffusion(path, net, state, process, device, precision)


def judge(path: Path, model: Model, process: Process, image_size: int, weights: str = "ema",
          planes: Planes = RGB_AND_MASK) -> None:
    """UserError where a finished checkpoint, DiffuseGen's or released, is damaged or is not this model.

    Only names, shapes and extents are checked. This is fast, as no weights are read, except from files in
    torch's old format, which cannot be mapped.
    """
    if path.suffix != OURS:
        _build_from_parameters(path, tensor_files.read(path, mapped=True), model, process, image_size, planes)
        return
    with _opened(path) as (file, head):
        refuse_other_configuration(path, head, configuration(model, process, image_size, planes=planes))
        _build_from_header(path, head, file, weights)


def _build_from_header(path: Path, head: Header, file: safe_open, weights: str) -> tuple[UNet, Process]:
    """Network, on the meta device, and process as a header states them, if the file's tensors fit."""
    if weights not in WEIGHTS:
        raise UserError(f"{path} has no weights {weights}. Ask for {' or '.join(WEIGHTS)}.")
    model, process, image_size, conditions, planes = _read_configuration(path, head)
    names = [name for name in file.keys() if name.startswith(f"{weights}.")]  # noqa: SIM118
    if model.res_blocks * len(model.channel_mult) > len(names) or process.steps > MOST_STEPS:
        raise UserError(f"{path} does not hold the network that its header describes. {AGAIN}")
    net = _network(path, model, image_size, conditions, planes)
    slices = {name.removeprefix(f"{weights}."): file.get_slice(name) for name in names}
    refuse_other_shapes(path, {name: tuple(part.get_shape()) for name, part in slices.items()}, net,
                         "its header")
    for name, part in slices.items():
        if part.get_dtype() not in FLOATS:
            raise _no_numbers(path, name)
    return net, process


def _build_from_parameters(path: Path, state: dict[str, Tensor], model: Model, process: Process,
                           image_size: int, planes: Planes) -> UNet:
    """The network of the parameters, on the meta device, if the bare state dict fits it."""
    if process.objective != "eps":
        raise UserError(f"{path} is a released checkpoint, which predicts eps, but process.objective is "
                        f"{process.objective}. Set process.objective to eps, or name another file.")
    net = _network(path, model, image_size, UNCONDITIONAL, planes)
    refuse_other_shapes(path, {name: tuple(value.shape) for name, value in state.items()}, net,
                         "the parameters")
    return net


def _read_configuration(path: Path, head: Header) -> tuple[Model, Process, int, Conditions, Planes]:
    """Network, process, image size, conditions and planes as a header states them."""
    stated = _find_configuration(path, head)
    try:
        return (Model.model_validate(stated["model"]), Process.model_validate(stated["process"]),
                TypeAdapter(int).validate_python(stated["image_size"], strict=True),
                Conditions(**_counts(stated, asdict(UNCONDITIONAL))),
                Planes(**_counts(stated, {"channels": RGB_AND_MASK.channels,
                                          "classes": RGB_AND_MASK.classes}),
                       overlap=stated.get("overlap") is True))
    except (KeyError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"it lacks {error}"
        raise UserError(f"{path} cannot be read as a checkpoint: its configuration is not one of ours "
                        f"({reason}). {AGAIN}") from None


def _find_configuration(path: Path, head: Header) -> dict[str, Any]:
    """The configuration in a header. UserError where there is none, as in an unfinished training's."""
    if "configuration" not in head:
        raise UserError(f"{path} is a checkpoint of unfinished training, not a finished model. The same "
                        "command as before finishes the training, and writes model.safetensors.")
    return dict(head["configuration"])


def _counts(stated: dict[str, Any], usual: dict[str, int]) -> dict[str, int]:
    """The numbers that a header states, with `usual` as defaults."""
    return {name: WIDTH.validate_python(stated.get(name, count), strict=True)
            for name, count in usual.items()}


def _network(path: Path, model: Model, image_size: int, conditions: Conditions, planes: Planes) -> UNet:
    """The network of a configuration, on the meta device: a file's weights would replace any drawn here."""
    try:
        with torch.device("meta"):
            return UNet(model, image_size, conditions, planes)
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"{path} describes a network that cannot be built: {error}. {AGAIN}") from None


def _diffusion(path: Path, net: UNet, state: dict[str, Tensor], process: Process,
               device: torch.device | str, precision: str, label: int | None = None) -> Diffusion:
    """The network with these weights, in eval mode and frozen, with its process."""
    for name, value in state.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise _no_numbers(path, name)
    # Copies, because the header's length decides how the tensors of a mapped file are aligned, and a CPU's
    # rounding depends on alignment.
    copies = {name: value.to(torch.float32, copy=True) for name, value in state.items()}
    net.load_state_dict(copies, assign=True)
    place = devices.device(device) if isinstance(device, str) else device
    net = net.to(place).eval().requires_grad_(False).fold_conditions(label).cast_weights(precision)
    return Diffusion(net, processes.schedule(process).to(place), process.objective, precision=precision)


def _no_numbers(path: Path, name: str) -> UserError:
    return UserError(f"{path} cannot be used as a model: {name} holds values that are not finite numbers. "
                     "Name another file, or train the model again, with a smaller train.lr if it diverged.")


def refuse_other_configuration(path: Path, head: Header, wanted: dict[str, Any]) -> None:
    """UserError, naming each difference, unless a finished file's configuration is the one wanted."""
    stated = {name: value for name, value in _find_configuration(path, head).items()
              if name not in TRAINING_ALONE}
    if differing := differences(stated, wanted):
        raise UserError(f"{path} does not fit the parameters (in the file -> in the parameters): "
                        f"{'; '.join(differing)}. Give the run the file's, or name another file.")
