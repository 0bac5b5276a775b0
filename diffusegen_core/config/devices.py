"""The devices that compute: which one a parameter means, its name, and how networks run on it."""

import contextlib
import os
import platform
from contextvars import ContextVar
from pathlib import Path

import dask.system
import torch

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.text import counted

# The environment variables that say how many threads a process computes with.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# For the environment of processes that compute: glibc then reuses the memory of freed tensors in the next
# step. Otherwise it is mapped anew, page by page, above all under Dask, which sets the reverse.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
BF16 = "avx512_bf16", "amx_bf16", "bf16"  # of x86 and ARM, as torch calls them
WITHOUT = " without bf16"
CARDS = "GPUs"
# The numbers of the cards that a worker has; empty: all that are visible.
own: ContextVar[tuple[int, ...]] = ContextVar("own", default=())


def _within_quota() -> None:
    """Have torch compute with no more threads than this process may use cores.

    In a container that is limited to a share of the machine, torch would take a thread for each core that it
    sees, and these would wait for each other for most of the time.
    """
    if not any(name in os.environ for name in THREADS):
        torch.set_num_threads(min(torch.get_num_threads(), dask.system.CPU_COUNT))


_within_quota()


def device(name: str) -> torch.device:
    """The device that a parameter names; `auto` is cuda if there is one. Raises UserError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UserError(f"Parameters: device: {name} is asked for, but torch finds "
                        f"{torch.cuda.device_count()} CUDA devices. Use auto or cpu.")
    return torch.device(name)


def on_cards(name: str) -> bool:
    """Whether a device parameter means cards, of this machine or of the workers'."""
    return name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())


def units(name: str) -> tuple[int, str]:
    """How many GPUs or cores the work that a device parameter names can be divided among, and which."""
    if on_cards(name):
        return (1 if ":" in name else torch.cuda.device_count()), CARDS
    return dask.system.CPU_COUNT, "cores"


def share(name: str, workers: int) -> float:
    """How fast each of so many workers of this machine computes, relative to this process alone."""
    there = units(name)[0]
    return min(1.0, there / workers) if on_cards(name) else (
        (there // workers or there / workers) / torch.get_num_threads())


def refuse_few(name: str, count: int, workers: int = 1) -> None:
    """Raise UserError if fewer cards are visible than the workers need, each with `count` > 1 for a model.

    Several workers may share one card, but models on several cards would then wait for each other.
    """
    there = len(own.get()) or torch.cuda.device_count()
    if count == 1 or not on_cards(name) or count * workers <= there:
        return
    each = f" in each of {workers} workers" if workers > 1 else ""
    mend = (f"Take --workers {there // count}" if workers > 1 and count <= there else
            f"Take -p train.devices {max(1, there)}")
    raise UserError(f"Parameters: train.devices asks for {count} GPUs for a model{each}, but torch finds "
                    f"{counted(there, 'CUDA device')}. {mend}.")


def several(name: str, count: int) -> list[str]:
    """The device of each of `count` processes that train one model: a card for each, or the processor for
    all. Raises UserError if there are too few cards."""
    if device(name).type == "cpu":
        return ["cpu"] * count
    refuse_few(name, count)
    return [f"cuda:{card}" for card in (own.get() or tuple(range(torch.cuda.device_count())))[:count]]


def name(of: str = "auto", precision: str = "fp32") -> str:
    """The hardware behind a device parameter, in words; if bf16 is asked for and missing, they say so."""
    chosen = device(of)
    lacking = WITHOUT if precision == "bf16" and not has_bf16(chosen) else ""
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen) + lacking
    threads = torch.get_num_threads()
    return f"{_processor()}{lacking}, {counted(threads, 'thread')}"


def has_bf16(on: torch.device) -> bool:
    """Whether a device has instructions for bf16. torch emulates them where they are missing, which took 47
    times as long as fp32 for a convolution on a processor with AVX2."""
    if on.type == "cuda":
        with torch.cuda.device(on):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if on.type == "cpu":
        can = torch.cpu.get_capabilities()
        return torch.backends.mkldnn.is_available() and any(can.get(one) for one in BF16)
    return True


def in_bf16(on: torch.device, precision: str) -> bool:
    """Whether networks run in bf16: if `precision` ("fp32" or "bf16") asks for it and the device has it."""
    return precision == "bf16" and has_bf16(on)


def autocast(on: torch.device, precision: str) -> torch.autocast:
    """Run networks in bf16 if `in_bf16` says so; weights and losses stay fp32."""
    return torch.autocast(on.type, dtype=torch.bfloat16, enabled=in_bf16(on, precision))


def exact() -> contextlib.AbstractContextManager:
    """For sampling on a GPU: convolutions without TF32, and with algorithms that are not chosen by timing.

    Their results are then reproducible. Matrix products may still differ in their last bits with the size of
    the batch.
    """
    # Every flag is given: the call switches off those that are not, cuDNN itself included.
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
