"""Choosing a few examples out of many."""

import numpy as np


def spread(total: int, count: int) -> list[int]:
    """Up to `count` of `total` positions, in order and evenly spread, the first and the last among them:
    neighbours may be frames of one video."""
    return np.unique(np.linspace(0, max(0, total - 1), min(total, count)).round().astype(int)).tolist()
