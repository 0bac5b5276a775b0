"""Is it a copy? The nearest training image of each synthetic one, by how near real images are to each other.

The paper (2.4) says that a model at times returned the original image. Inpainting keeps what surrounds the
polyp, so only the filled region is compared, with every training image and its mirror image, the source
included.

In pixels, two images are compared at the same place: both are smoothed and normalised inside the region, so
that noise, brightness and contrast do not hide a copy; their distance is one minus their correlation. In
features, boxes around the polyps are compared, and the place does not matter. How near the nearest image is
says little by itself, since a small smooth region is near to everything. So its distance is divided by the
mean distance of the next ten: a copy stands out from them (as in Carlini et al. 2023, "Extracting training
data from diffusion models"). Real images, each among the others, tell how low this score falls by chance.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

SIDE = 64  # larger images are averaged down to it: a copy is a copy at this size
SMOOTH = 1.0  # deviation of the smoothing, in pixels
FLAT = 2.0  # grey levels; the contrast of a flatter region is not raised further
TWIN = 0.25  # of the median score: real images below it are copies of each other
NEXT = 10  # images that the nearest one is measured against
PATCH = 96  # side of the patches whose features are compared
MIDDLE, SPREAD = 128.0, 48.0  # mean and deviation that a patch is brought to inside its region


@dataclass(frozen=True)
class Found:
    """The nearest training image of each of Q images."""

    index: np.ndarray
    """(Q,) int, among the training images."""
    flipped: np.ndarray
    """(Q,) bool: its mirror image is the nearer one."""
    distance: np.ndarray
    """(Q,) float; of images without a region NaN, as is their score."""
    score: np.ndarray
    """(Q,) float: the distance over the mean of the next ten. 0 is a copy, 1 as near as the others."""


def in_pixels(images: np.ndarray, regions: np.ndarray, training: np.ndarray,
              own: np.ndarray | None = None) -> Found:
    """The nearest of `training` (N, 3, S, S), uint8, inside each image's region; images (Q, 3, S, S), uint8.

    regions (Q, S, S), nonzero where filled. own (Q,): the index of a training image to leave out, for real
    images that are compared with the others.
    """
    shown, candidates = _shrunk(images), _mirrored(_shrunk(training))
    distances = np.full((len(images), len(candidates)), np.nan, np.float32)
    groups: dict[bytes, list[int]] = {}
    for i, region in enumerate(regions):
        groups.setdefault(region.tobytes(), []).append(i)  # pairs of one source share it
    for rows in groups.values():
        inside = _inside(regions[rows[0]])
        if inside.any():
            distances[rows] = 1 - _looks(shown[rows], inside) @ _looks(candidates, inside).T
    return _nearest(distances, own)


def in_features(rows: np.ndarray, training: np.ndarray, own: np.ndarray | None = None) -> Found:
    """The same by features: rows (Q, D), NaN where there is none; training (2 N, D), mirrored ones last."""
    return _nearest(cdist(rows.astype(np.float64), training.astype(np.float64)), own)


def patches(images: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The boxes around regions (N, 3, PATCH, PATCH), uint8: normalised inside the region, grey outside.

    images (N, 3, S, S), uint8; regions (N, S, S), none empty.
    """
    return np.stack([_patch(image, _inside(region))
                     for image, region in zip(_shrunk(images), regions, strict=True)])


def threshold(real: np.ndarray, quantile: float) -> float:
    """The score below which an image is a near-copy: this quantile of the scores of real images.

    Real images that are copies of each other, as the frames of a video are, do not lower it.
    """
    known = real[np.isfinite(real)]
    usual = known[known > TWIN * np.median(known)] if len(known) else known
    return float(np.quantile(usual, quantile)) if len(usual) else 0.0


def summary(audit: pd.DataFrame, thresholds: tuple[float, float]) -> dict[str, float | int]:
    """Counts of near-copies in an audit with the columns score, feature_score and own, and their share."""
    pixels, features = audit["score"] < thresholds[0], audit["feature_score"] < thresholds[1]
    either = pixels | features
    return {"images": len(audit), "in pixels": int(pixels.sum()), "in features": int(features.sum()),
            "either": int(either.sum()), "share": float(either.mean()) if len(audit) else float("nan"),
            "of their source": int((pixels & audit["own"]).sum()),
            "nearest to source": float(audit["own"].mean()) if len(audit) else float("nan")}


def _nearest(distances: np.ndarray, own: np.ndarray | None) -> Found:
    """From distances (Q, 2 N) to the training images and to their mirror images."""
    plain, flipped = np.split(distances, 2, axis=1)
    both = np.minimum(plain, flipped)
    known = ~np.isnan(both[:, 0])
    if own is not None:
        both[np.arange(len(both)), own] = np.inf
    index = np.where(known, np.nan_to_num(both, nan=np.inf).argmin(axis=1), 0)
    ordered = np.sort(both, axis=1)
    others = np.where(np.isfinite(ordered), ordered, np.nan)[:, 1:NEXT + 1]
    usual = np.full(len(both), np.nan)
    usable = np.isfinite(others).any(axis=1)
    usual[usable] = np.nanmean(others[usable], axis=1)
    rows = np.arange(len(both))
    # Where even the next ones are copies of each other the distance itself is 0, and so is the score.
    return Found(index, flipped[rows, index] < plain[rows, index], np.where(known, ordered[:, 0], np.nan),
                 np.where(known, ordered[:, 0], np.nan) / np.maximum(usual, 1e-6))


def _looks(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What images (B, 3, S, S) show inside a region (S, S): rows of length 1, whatever the contrast."""
    smooth, inside = _smoothed(images, inside)
    values = smooth[..., inside]
    values -= values.mean(axis=-1, keepdims=True)
    values = values.reshape(len(values), -1)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.maximum(length, FLAT * np.sqrt(values.shape[1]))


def _patch(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    smooth, inside = _smoothed(image[None], inside)
    mean = smooth[0][:, inside].mean(axis=1)[:, None, None]
    spread = max(float((smooth[0] - mean)[:, inside].std()), FLAT)
    shown = np.where(inside, (smooth[0] - mean) / spread * SPREAD + MIDDLE, MIDDLE).transpose(1, 2, 0)
    enlarged = cv2.resize(np.ascontiguousarray(shown), (PATCH, PATCH), interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(enlarged), 0, 255).astype(np.uint8).transpose(2, 0, 1)


def _smoothed(images: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, 3, S, S) in the box around a region (S, S), smoothed by its pixels alone; that box of it."""
    ys, xs = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    inside = inside[box]
    weight = gaussian_filter(inside.astype(np.float32), SMOOTH, mode="constant")
    blurred = gaussian_filter(images[(..., *box)] * inside, (0, 0, SMOOTH, SMOOTH), mode="constant")
    return blurred / np.maximum(weight, 1e-3), inside


def _inside(region: np.ndarray) -> np.ndarray:
    """A region (S, S) as booleans, at the size of the shrunk images; none vanishes, however small."""
    cover = _shrunk((region[None, None] > 0).astype(np.float32))[0, 0]
    return (cover > 0) & (cover >= min(0.5, cover.max()))


def _mirrored(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images, images[..., ::-1]])


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Images (B, C, S, S) in floating point, averaged down to SIDE where they are larger."""
    if images.shape[-1] <= SIDE:
        return images.astype(np.float32)
    flat = images.reshape(-1, *images.shape[2:])
    small = np.stack([cv2.resize(channel.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                      for channel in flat])
    return small.reshape(*images.shape[:2], SIDE, SIDE)
