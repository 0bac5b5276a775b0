"""Membership inference: how well a model's error tells training images from held-out ones.

A diffusion model that has memorised its training images denoises them better than new ones of the same kind
(Matsumoto et al. 2023, "Membership inference attacks against diffusion models"; Carlini et al. 2023). The
area under the ROC curve is how often this error alone tells which of two images, one of each kind, was in the
training: 0.5 is chance, 1 is perfect memory. The test says nothing about what the model paints.
"""

from dataclasses import dataclass

import numpy as np

from diffusegen_core.store import seeds

RESAMPLES = 2000
TAILS = [2.5, 97.5]  # per cent
ALARMS = 0.05  # share of held-out images wrongly taken for training images, at which `recognised` is given


@dataclass(frozen=True)
class Attack:
    """How well members are told from others."""

    area: float
    """Under the ROC curve."""
    low: float
    high: float
    """Its 95 % interval over images, by bootstrap."""
    recognised: float
    """The share of members recognised, with at most ALARMS of the others taken for members."""
    members: int
    others: int


def attack(members: np.ndarray, others: np.ndarray, seed: int) -> Attack:
    """How well errors (M,) of training images are told from those (N,) of held-out ones, by being lower.

    Neither may be empty. They are resampled separately. The interval does not include the randomness of
    training, of which one model is a single draw.
    """
    rng, (m, n) = seeds.rng(seed, "membership", "bootstrap"), (len(members), len(others))
    # The area is how often a member's error is the lower one, so a resample's area needs no new curve.
    lower = (members[:, None] < others) + 0.5 * (members[:, None] == others)
    times = [rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) for count in (m, n)]
    low, high = np.percentile((times[0] @ lower * times[1]).sum(axis=1) / (m * n), TAILS)
    wrongly, rightly = curve(members, others)
    recognised = float(rightly[wrongly <= ALARMS].max())
    return Attack(area(members, others), float(low), float(high), recognised, m, n)


def area(members: np.ndarray, others: np.ndarray) -> float:
    """The area under the ROC curve: how often a member's error is lower than that of another image."""
    from sklearn.metrics import roc_auc_score  # takes a second, which most commands are spared

    return float(roc_auc_score(*_labels_and_scores(members, others)))


def curve(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve: shares of others and of members that are taken for members, each from 0 to 1."""
    from sklearn.metrics import roc_curve

    wrongly, rightly, _ = roc_curve(*_labels_and_scores(members, others), drop_intermediate=False)
    return wrongly, rightly


def _labels_and_scores(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who is a member, and how much each looks like one."""
    return np.repeat([1, 0], [len(members), len(others)]), -np.concatenate([members, others])
