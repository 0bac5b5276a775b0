"""The one place where pretrained weights are resolved: `pretrained`, `random`, or a path to a file.

`pretrained` asks the library that publishes the weights, with its own loader and cache. `random` is named as
such in every output. A file is a state dict: safetensors, or a torch file of tensors only, since no pickle is
ever executed. There are no fallbacks: weights that are not available raise a UserError that says what to do.
"""

import contextlib
import io
import pickle
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import requests
import torch
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.hub import get_dir

from diffusegen_core.config import params
from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError, printable, some
from diffusegen_core.store import files, seeds

PRETRAINED, RANDOM = "pretrained", "random"
StateDict = dict[str, torch.Tensor]
Made = TypeVar("Made")
Loaded = TypeVar("Loaded", StateDict, Path)

# Seconds to wait for a silent server.
PATIENCE = 10.0
WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt")  # of the hub's repositories
AGAIN = "Copy it again from its source, or give another file."  # if damaged
# torch's own switch; torchvision's loader has no parameter for it.
FORCE_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class Published(Generic[Loaded]):
    """Where a library finds the published weights of one network, and how to ask it for them.

    Loading gives a state dict, or the path of a file that holds the network as well (see `place`).
    """

    network: str
    library: str
    where: str | None
    """The address or hub id; None where the library has no weights for this network."""
    by_hand: str
    """How to put the file in place by hand, without a network, as one sentence."""
    load: Callable[[], Loaded]
    """The library's own loader and cache."""
    from_hub: bool = False
    """Whether `where` is a Hugging Face hub id."""


class _Looked(Exception):
    """Raised while `looking`: weights that come with their network are available, but are not loaded."""


_looking: ContextVar[bool] = ContextVar("looking", default=False)  # see `looking`


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """A context in which published weights are looked for, but not loaded.

    UserError where they are neither in the library's cache nor available now; otherwise networks keep the
    weights that they were made with.
    """
    before = _looking.set(True)
    try:
        with contextlib.suppress(_Looked):
            yield
    finally:
        _looking.reset(before)


def seeded(make: Callable[[], Made], seed: int, *names: object) -> Made:
    """What `make` returns, its random numbers drawn from `seed`; torch's global state stays as it was."""
    with seeds.global_seed(seed, "weights", *names):
        return make()


def fill(net: nn.Module, spec: str, published: Published[StateDict],
         unused: tuple[str, ...] = ()) -> nn.Module:
    """Load into `net` the weights that `spec` names; `random` leaves it as it was made (see `seeded`).

    Fields that start with a prefix in `unused`, such as those of a classifier that the network lacks, are not
    loaded. Raises UserError where the weights are unavailable or do not fit.
    """
    if spec == PRETRAINED and _looking.get():
        _refuse_out_of_reach(published)
    elif spec == PRETRAINED:
        fit(net, _ask(published), f"What {published.library} has for {published.network}", unused)
    elif spec != RANDOM:
        fit(net, read(spec), str(params.resolve(spec)), unused)
    return net


def place(spec: str, published: Published[Path]) -> Path:
    """The file that `spec` names, for weights that come with their network in one file."""
    if spec == PRETRAINED and _looking.get():
        _refuse_out_of_reach(published)
        raise _Looked
    return _ask(published) if spec == PRETRAINED else _file(spec)


def cached(published: Published[Any]) -> bool:
    """Whether the library already has the published weights in its cache."""
    where = _address(published)
    if published.from_hub:
        kept = hub_folder(where).glob("snapshots/*/*")
        return any(file.suffix in WEIGHT_FILES and file.is_file() for file in kept)
    return _torch_file(where).is_file()


def by_hand(url: str) -> str:
    """How to put a file of torch's hub in place by hand, without a network, as one sentence."""
    return f"Without a network, place that file as {_torch_file(url)}."


def _torch_file(url: str) -> Path:
    return Path(get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def hub_folder(repository: str) -> Path:
    """Where the client of the Hugging Face hub caches a repository."""
    return Path(hub.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def words(spec: str) -> str:
    """The words that name the weights in every output: pretrained, random weights, or the file's name."""
    return {PRETRAINED: PRETRAINED, RANDOM: "random weights"}.get(spec) or Path(spec).name


def identity(spec: str, published: Callable[[], Published[Any]],
             seed: int = 0) -> dict[str, str | int | None]:
    """What determines the weights, for recipes: the library's address, the seed, or the file's content.

    `published` is called only for the first, as it imports the library, which takes seconds.
    """
    if spec == PRETRAINED:
        return {PRETRAINED: _address(published())}
    if spec == RANDOM:
        return {RANDOM: seed}
    return {"sha256": files.remembered_sha256(_file(spec))}


def read(spec: str | Path, mapped: bool = False) -> StateDict:
    """The tensors in a file, by field name, on the CPU. UserError where it is absent or not a state dict.

    With `mapped`, those of a torch file are mapped into memory, not read, unless its format is too old.
    """
    path = _file(spec)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _tensors_only(path, mapped)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a weights file: {_first_line(error)} {AGAIN}") from None
    strange = [str(name) for name, value in state.items()
               if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if strange:
        raise UserError(f"{path} is not a plain state dict: {some(strange, 3)} is not a named tensor. Save "
                        "the state dict inside it as a file of its own.")
    return dict(state)


def fit(net: nn.Module, state: StateDict, source: str, unused: tuple[str, ...] = ()) -> None:
    """Load `state` into `net`, without fields that start with a prefix in `unused`; UserError on a misfit."""
    state = {name: value for name, value in state.items() if not name.startswith(unused)}
    expected = net.state_dict()
    # num_batches_tracked is a counter that old files lack and that evaluation never reads.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    shapes = [f"{name} {list(value.shape)} instead of {list(expected[name].shape)}"
              for name, value in state.items() if name in expected and value.shape != expected[name].shape]
    complaints = [f"{title}: {some(names, 3)}" for title, names in
                  (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if names]
    if complaints:
        raise UserError(f"{source} does not fit this network ({type(net).__name__}). Fields "
                        f"{'; '.join(complaints)}. Give weights of this network, or `random`.")
    # Not the network's own method, which some libraries override with one that renames fields or takes no
    # `strict`.
    nn.Module.load_state_dict(net, state, strict=False)


def _address(published: Published[Any]) -> str:
    if published.where is None:
        raise UserError(f"{published.library} has no published weights for {published.network}. Give "
                        "`random`, or the path of a weights file.")
    return published.where


def _ask(published: Published[Loaded]) -> Loaded:
    _address(published)
    silent = published.from_hub and not hub.HF_HUB_OFFLINE and not _answers(hub.ENDPOINT)
    try:
        with _guarded(cache_only=silent), torch.random.fork_rng(devices=[]):
            return published.load()
    # No network, an HTTP or hub error; a wrong hash; a cached file that is no state dict.
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise _not_had(published, _silent(hub.ENDPOINT) if silent else _first_line(error)) from error


def _refuse_out_of_reach(published: Published[Any]) -> None:
    """UserError where published weights are not in the cache, and their server does not answer."""
    where = _address(published)
    if cached(published):
        return
    if published.from_hub and hub.HF_HUB_OFFLINE:
        raise _not_had(published, "HF_HUB_OFFLINE is set and the cache lacks it.")
    address = hub.ENDPOINT if published.from_hub else "/".join(where.split("/", 3)[:3])
    if not _answered(address, int(time.monotonic() // 60)):
        raise _not_had(published, _silent(address))


def _silent(address: str) -> str:
    return f"{address} does not answer and the cache lacks it."


def _not_had(published: Published[Any], reason: str) -> UserError:
    return UserError(f"The published weights of {published.network} could not be loaded: {published.library} "
                     f"was asked for {published.where}. Reason: {reason} {published.by_hand} Or give the "
                     "path of a weights file, or `random`, instead of `pretrained`.")


@contextlib.contextmanager
def _guarded(cache_only: bool) -> Iterator[None]:
    """A context for library loaders: no pickle is executed, and waits for a silent server are short."""
    timeout, offline = socket.getdefaulttimeout(), hub.HF_HUB_OFFLINE
    socket.setdefaulttimeout(PATIENCE)
    # If the hub does not answer, its client would retry for most of a minute.
    hub.HF_HUB_OFFLINE = offline or cache_only
    try:
        with environment({FORCE_TENSORS_ONLY: "1"}):
            yield
    finally:
        socket.setdefaulttimeout(timeout)
        hub.HF_HUB_OFFLINE = offline


@lru_cache
def _answered(address: str, minute: int) -> bool:
    """`_answers`, once a minute at most: several networks may be published by one silent server."""
    return _answers(address)


def _answers(address: str) -> bool:
    try:
        requests.head(address, timeout=PATIENCE)
    except requests.RequestException:
        return False
    return True


def _file(spec: str | Path) -> Path:
    path = params.resolve(spec)
    if not path.is_file():
        raise UserError(f"There is no weights file {path}. Weights are `pretrained`, `random`, or a path.")
    return path


def _tensors_only(path: Path, mapped: bool) -> StateDict:
    try:
        zipped = zipfile.is_zipfile(path)  # older formats cannot be mapped
        # Of an older file, torch would make room for as many bytes as a damaged one claims to have.
        state = torch.load(path if zipped else io.BytesIO(path.read_bytes()), map_location="cpu",
                           weights_only=True, mmap=mapped and zipped)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is refused: it is not a torch file of tensors only, and nothing else in a "
                        "pickle is ever executed. Save it again as a plain state dict or as safetensors."
                        ) from None
    except Exception as error:  # torch fails in many ways on damaged files
        raise UserError(f"{path} cannot be read as a weights file: {printable(_first_line(error))} "
                        f"{AGAIN}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a state dict: it holds a {type(state).__name__}. Save the state dict "
                        "as a file of its own.")
    return state


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if line.endswith(".") else f"{line}."
