"""A CUDA device that is none: its tensors lie in host memory, but say that they do not.

No machine of the tests has a GPU. Much of what fails or idles on one is no matter of numbers but of places: a
tensor that was left on the host, a result read without being fetched, a step that waits for the device. This
device refuses what CUDA refuses, counts how often the host waits for it, and computes the host's bits.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

HOST, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FETCHED = torch.device("cpu", 0)  # the host, where the caller names it and not torch for itself
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
# What depends on values, so that the host waits for them.
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
         aten.equal.default, aten._unique2.default, aten.bincount.default)


class Away(torch.Tensor):
    """A tensor of the pretended device; `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Away":
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, inner.stride(), inner.storage_offset(),
                                                   dtype=inner.dtype, device=HOST)

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:
        return f"Away({self.inner!r})"

    def __deepcopy__(self, memo: dict) -> "Away":
        if id(self) not in memo:
            new = Away(self.inner.clone()).requires_grad_(self.requires_grad)
            new.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k != "inner"})
            memo[id(self)] = new
        return memo[id(self)]

    def numpy(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def cpu(self) -> torch.Tensor:
        return aten._to_copy(self, device=FETCHED)

    def tolist(self) -> list:
        return self.cpu().tolist()

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
        x = self.cpu() if device == HOST else self
        return x if dtype is None else torch.Tensor.to(x, dtype)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on the pretended device, which is not there any more")


class Generator(torch.Generator):
    """Draws the host's numbers for tensors of the pretended device."""

    device = CUDA


class EitherGenerator(torch.Generator):
    """What makes the generators while there is the device."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:
        return Generator() if torch.device(device).type == "cuda" else torch._C.Generator()


class Autocast(torch.autocast):
    """The host's, for the host computes."""

    def __init__(self, device_type: str, **options: Any):
        super().__init__("cpu", **options)


class Detour(TorchFunctionMode):
    """Goes round the few things for which torch would ask the driver itself."""

    away = False  # is an operation on tensors of the device at work?

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = [numbered(x) for x in args], {k: numbered(x) for k, x in (kwargs or {}).items()}
        place = kwargs.get("device", next((x.device for x in args if isinstance(x, torch.Tensor)), HOST))
        drawn = kwargs.get("generator")
        if drawn and "tensor" not in kwargs and (drawn.device == CUDA) != (torch.device(place) == CUDA):
            raise RuntimeError(f"{func.__name__}: expected a '{place}' device type for generator")
        if func in (torch.tensor, torch.as_tensor) and place == CUDA:
            return func(*args, **{**kwargs, "device": HOST}).to(CUDA)
        if func is torch.Tensor.new_tensor and place == CUDA:
            return torch.tensor(args[1], dtype=args[0].dtype).to(CUDA)
        before, self.away = self.away, any(isinstance(x, Away) for x in tensors_in((args, kwargs)))
        try:
            return func(*args, **kwargs)
        finally:
            self.away = before


class Pretence(TorchDispatchMode):
    """Sends every operation to the host, if CUDA would do it; `waits` counts what the host waited for."""

    def __init__(self, detour: Detour) -> None:
        super().__init__()
        self.detour = detour
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        away = any(isinstance(x, Away) for x in tensors)
        lands = self.lands(func, args, kwargs.get("device"), away)
        near = [x for x in tensors if not isinstance(x, Away) and x.dim() > 0]
        # CUDA takes indices of the host.
        indexed = func._opname.startswith("index") and isinstance(args[0], Away)
        if func in COPIES or (indexed and near):
            if away != lands or (near and lands):
                self.waits["fetched" if away and not lands else "sent"] += 1
        elif away and near:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found two, "
                               f"cuda:0 and cpu ({[tuple(x.shape) for x in near]})")
        elif away and (func in WAITS or (indexed and any(x.dtype == torch.bool for x in tensors[1:]))):
            self.waits[func._opname] += 1
        if lands and "device" in kwargs:
            kwargs = {**kwargs, "device": HOST}
        out = func(*replaced(Away, lambda x: x.inner, args), **replaced(Away, lambda x: x.inner, kwargs))
        if not lands:
            return out
        return return_and_correct_aliasing(func, args, kwargs, replaced(torch.Tensor, Away, out))

    def lands(self, func: Any, args: Any, device: torch.device | None, away: bool) -> bool:
        """Does the result lie on the device?"""
        alike = func._opname.startswith(("new_", "empty_like", "zeros_like", "ones_like"))
        if device is None or (away and alike):
            return isinstance(args[0], Away) if func is aten.copy_.default else away
        # What an operation makes for itself, it makes where the wrapped tensors really lie.
        return torch.device(device).type == "cuda" or (self.detour.away and device != FETCHED)


def numbered(x: Any) -> Any:
    """cuda:0 for cuda, for whose number torch would ask the driver."""
    return CUDA if isinstance(x, (str, torch.device)) and str(x) == "cuda" else x


def tensors_in(x: Any) -> Iterator[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, (list, tuple, dict)):
        for part in x.values() if isinstance(x, dict) else x:
            yield from tensors_in(part)


def replaced(kind: type, change: Callable[[Any], Any], x: Any) -> Any:
    """x with every tensor of a kind changed."""
    if isinstance(x, kind):
        return change(x)
    if isinstance(x, dict):
        return {name: replaced(kind, change, part) for name, part in x.items()}
    return type(x)(replaced(kind, change, part) for part in x) if isinstance(x, (list, tuple)) else x


@contextlib.contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretence]:
    """While it lasts there is one CUDA device. Not for `inference_mode`'s own checks, nor for streams."""
    grouped = clip_grad._group_tensors_by_device_and_dtype

    def by_stated_device(tensors: list) -> dict:
        return {(group[0][0].device, dtype): (group, places)
                for (_, dtype), (group, places) in grouped(tensors).items()}

    with monkeypatch.context() as patched:
        for name, answer in {"is_available": True, "device_count": 1, "get_device_name": "pretended GPU",
                             "is_current_stream_capturing": False, "get_rng_state": torch.zeros(1),
                             "max_memory_reserved": 1_000_000_000, "current_device": 0,
                             "is_bf16_supported": True}.items():
            patched.setattr(torch.cuda, name, lambda *args, answer=answer, **options: answer)
        patched.setattr(torch.cuda, "device", contextlib.nullcontext)
        for name in ("_lazy_init", "empty_cache", "reset_peak_memory_stats", "set_rng_state"):
            patched.setattr(torch.cuda, name, lambda *args: None)
        # Its operations draw from the host's own, which is seeded with it.
        patched.setattr(torch.cuda, "default_generators", (torch.Generator(),))
        # Its tensors have no version counters, which views of a wrapped tensor ask for.
        patched.setattr(torch.inference_mode, "__enter__", torch.no_grad.__enter__)
        patched.setattr(torch.inference_mode, "__exit__", torch.no_grad.__exit__)
        # A parameter cannot become a tensor of another class in place.
        patched.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
        patched.setattr(clip_grad, "_group_tensors_by_device_and_dtype", by_stated_device)
        patched.setattr(torch, "Generator", EitherGenerator)
        patched.setattr(torch, "autocast", Autocast)
        with Detour() as detour, Pretence(detour) as pretence:
            patched.setattr(torch.cuda, "synchronize", lambda *args: pretence.waits.update(["synchronize"]))
            yield pretence
