"""The devices that compute: which one a parameter means, its name, and how networks run on it."""

import contextlib
import platform
from contextvars import ContextVar
from pathlib import Path

import torch

from diffusegen_core.config.errors import UserError

# The environment variables by which a process is told how many threads to compute with.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# For the environment of processes that compute: glibc then keeps freed tensors for the next step. Else each
# is mapped anew, page by page, above all where Dask's own setting is the reverse.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
# The numbers of the cards that a worker has; none: all that are visible.
own: ContextVar[tuple[int, ...]] = ContextVar("own", default=())


def device(name: str) -> torch.device:
    """The device that a parameter names; `auto` is cuda where there is one. UserError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UserError(f"Parameters: device: {name} is asked for, but torch finds "
                        f"{torch.cuda.device_count()} CUDA devices. Use auto or cpu.")
    return torch.device(name)


def on_cards(name: str) -> bool:
    """Whether a parameter means cards, here or on the machines that have them."""
    return name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())


def refuse_few(name: str, count: int, workers: int = 1) -> None:
    """UserError where fewer cards are visible than so many workers need, each with `count` > 1 for a model.

    One card may be of several workers, but models on several cards would wait for each other.
    """
    there = len(own.get()) or torch.cuda.device_count()
    if count == 1 or not on_cards(name) or count * workers <= there:
        return
    each = f" in each of {workers} workers" if workers > 1 else ""
    mend = (f"Take --workers {there // count}" if workers > 1 and count <= there else
            f"Take -p train.devices {max(1, there)}")
    raise UserError(f"Parameters: train.devices: {count} cards for a model{each} are asked for, but torch "
                    f"finds {there} CUDA device{'' if there == 1 else 's'}. {mend}.")


def several(name: str, count: int) -> list[str]:
    """The device of each of so many processes that train one model: a card for each, or the processor for
    all. UserError where there are not so many cards."""
    if device(name).type == "cpu":
        return ["cpu"] * count
    refuse_few(name, count)
    return [f"cuda:{card}" for card in (own.get() or tuple(range(torch.cuda.device_count())))[:count]]


def name(of: str = "auto") -> str:
    """The hardware behind a device parameter, in words."""
    chosen = device(of)
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'' if threads == 1 else 's'}"


def autocast(on: torch.device, precision: str) -> torch.autocast:
    """Networks in bf16 where `precision` says so ("fp32" or "bf16"); weights and losses stay fp32."""
    return torch.autocast(on.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def exact() -> contextlib.AbstractContextManager:
    """For sampling on a GPU: convolutions without TF32 and without a choice of algorithm by trial.

    So what they give does not depend on the moment. Matrix products may still differ in their last bits by
    the size of the batch.
    """
    # All of it named: what is not is switched off, cuDNN itself too.
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
