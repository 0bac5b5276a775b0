"""Every random number comes from here, named by what it is for.

A seed is a hash of the run's seed and a path of names ("inpaint", "20-Diff", source, sample). No generator is
shared between images or steps, so no result depends on the batch size, the order, a shard or an interruption.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the thing that `names` describe."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded for the thing that `names` describe."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def rng(seed: int, *names: object) -> np.random.Generator:
    """A NumPy generator, seeded for the thing that `names` describe."""
    return np.random.default_rng(derive(seed, *names))


def normal_like(generators: list[torch.Generator], x: torch.Tensor) -> torch.Tensor:
    """Standard normal noise shaped as x (B, ...), row b drawn from its own generator."""
    rows = [torch.randn(x.shape[1:], generator=g, device=x.device, dtype=torch.float32) for g in generators]
    return torch.stack(rows)
