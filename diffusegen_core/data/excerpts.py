"""Which of many are shown where there is room for a few."""

import numpy as np


def spread(total: int, count: int) -> list[int]:
    """Up to `count` places of `total`, in order and evenly over the whole, the first and the last among them:
    neighbours may be frames of one video."""
    return np.unique(np.linspace(0, max(0, total - 1), min(total, count)).round().astype(int)).tolist()
