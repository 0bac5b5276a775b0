"""Fidelity and diversity apart: precision and recall, density and coverage, of two sets of features.

A distance does not tell whether images look wrong or some kinds of them are missing. Here each set is covered
by balls around its members, each of which reaches to the k-th nearest other member. Precision and
recall are those of Kynkaanniemi et al. 2019 ("Improved precision and recall metric for assessing generative
models"), density and coverage those of Naeem et al. 2020 ("Reliable fidelity and diversity metrics for
generative models"), who show that one outlier among the real images is enough to raise precision, and that
recall grows with outliers among the made ones. torch-fidelity has only the first two, and prdc, which has all
four, is no longer maintained.
"""

import numpy as np
from scipy.spatial.distance import cdist

PRECISION, RECALL, DENSITY, COVERAGE = NAMES = ("precision", "recall", "density", "coverage")
FEW, MORE = 3, 5  # k of precision and recall, and of density and coverage, as published


def of(made: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The four numbers of features made (M, D) against real (N, D), by NAMES; N and M at least 2.

    Precision, recall and coverage lie in 0..1, density in 0..N / k. Where a member has fewer than k others, k
    is their number. Recall, coverage and the noise of density depend on M: compare only sets of equal size.
    """
    between = cdist(real.astype(np.float64), made.astype(np.float64))  # (N, M)
    few = _radii(real, FEW)[:, None]
    around, k = _radii(real, MORE)[:, None], min(MORE, len(real) - 1)
    return {
        # precision = mean_j 1[made_j lies in a ball around some real_i]
        PRECISION: float((between <= few).any(axis=0).mean()),
        # recall = mean_i 1[real_i lies in a ball around some made_j]
        RECALL: float((between <= _radii(made, FEW)[None]).any(axis=1).mean()),
        # density = 1 / (k M) sum_j sum_i 1[made_j lies in the ball around real_i]
        DENSITY: float((between <= around).sum() / (k * len(made))),
        # coverage = mean_i 1[some made_j lies in the ball around real_i]
        COVERAGE: float((between <= around).any(axis=1).mean()),
    }


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """The distance of each row of (N, D) to its k-th nearest other row, (N,)."""
    from sklearn.neighbors import NearestNeighbors  # takes a second, which most commands are spared

    count = min(k, len(features) - 1)
    neighbours = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(features.astype(np.float64))
    distances, _ = neighbours.kneighbors()  # without an argument: of each row to the others
    return distances[:, -1]
