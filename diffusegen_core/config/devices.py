"""The devices that compute: which one a parameter means, its name, and how networks run on it."""

import contextlib
import platform
from pathlib import Path

import torch

from diffusegen_core.config.errors import UserError

# The environment variables by which a process is told how many threads to compute with.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# For the environment of processes that compute: glibc then keeps freed tensors for the next step. Else each
# is mapped anew, page by page, above all where Dask's own setting is the reverse.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def device(name: str) -> torch.device:
    """The device that a parameter names; `auto` is cuda where there is one. UserError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UserError(f"Parameters: device: {name} is asked for, but torch finds "
                        f"{torch.cuda.device_count()} CUDA devices. Use auto or cpu.")
    return torch.device(name)


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
