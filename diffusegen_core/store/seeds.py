"""The source of all random numbers, each named by what it is for.

A seed is a hash of the run's seed and a path of names ("inpaint", "20-Diff", source, sample). No generator is
shared between images or steps, so no result depends on the batch size, the order, a shard or an interruption.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the thing that `names` describe."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded for the thing that `names` describe."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextlib.contextmanager
def global_seed(seed: int, *names: object, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` for the thing that `names` describe, and
    restore them afterwards. Those of other GPUs are not touched."""
    card = device if device is not None and device.type == "cuda" else None
    number = derive(seed, *names)
    with torch.random.fork_rng(devices=[card] if card else []):
        # Not torch.manual_seed, which would seed every GPU, while at most one is restored.
        torch.default_generator.manual_seed(number)
        if card:
            place = torch.cuda.current_device() if card.index is None else card.index
            torch.cuda.default_generators[place].manual_seed(number)
        yield


def rng(seed: int, *names: object) -> np.random.Generator:
    """A NumPy generator, seeded for the thing that `names` describe."""
    return np.random.default_rng(derive(seed, *names))


def normal_like(generators: list[torch.Generator], x: torch.Tensor) -> torch.Tensor:
    """Standard normal noise shaped as x (B, ...), row b drawn from its own generator."""
    rows = [torch.randn(x.shape[1:], generator=g, device=x.device, dtype=torch.float32) for g in generators]
    return torch.stack(rows)
