"""Detection of copies: whether a synthetic image is nearer to one training image than to others.

The paper (2.4) says that a model at times returned the original image. Inpainting keeps what surrounds the
object, so only the filled region is compared with every training image, the source included, as it is,
mirrored and rotated. The rim of the region is left out: what is painted there continues the source, which the
model was shown, and so resembles it without being memorised.

In pixels, two images are compared at the same place: both are smoothed and normalised inside the region, so
that noise, brightness and contrast do not hide a copy; their distance is one minus their correlation. In
features, boxes around the objects are compared, and the place does not matter. The distance of the nearest
image says little by itself, since a small smooth region is near to everything. So it is divided by the mean
distance of the next ten: a copy stands out from them (as in Carlini et al. 2023, "Extracting training data
from diffusion models"). How low this score falls by chance is measured on images whose same regions are
filled with content that no model has memorised (see `planted`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from diffusegen_core.config.sections import FULL_SIZE

SIDE = 64  # larger images are averaged down to it: a copy is a copy at this size
SMOOTH = 1.0  # deviation of the smoothing, in pixels
FLAT = 2.0  # grey levels; the contrast of a flatter region is not raised further
TWIN = 0.25  # of the median score: below it an image is a duplicate, even if no model made it
RIM = 8.0  # pixels of a 256 px image: the width of a region's rim, which is not compared ...
CORE = 0.25  # ... but this share of the region, the innermost, always is
NEXT = 10  # how many further images the nearest one is measured against
PATCH = 96  # side of the patches whose features are compared
MIDDLE, SPREAD = 128.0, 48.0  # mean and deviation to which a patch is normalised inside its region
# How a training image may have to be turned to match what was memorised; as named in tables, in the order of
# `turned`.
ORIENTATIONS = ("", "rotated by 90°", "rotated by 180°", "rotated by 270°", "mirrored",
                "mirrored, rotated by 90°", "upside down", "mirrored, rotated by 270°")


class Thresholds(NamedTuple):
    """Scores below which an image is a near-copy."""

    pixels: float
    features: float

    @classmethod
    def of(cls, null: pd.DataFrame, quantile: float) -> "Thresholds":
        """From scores of images that are not copies: rows with the columns score and feature_score."""
        return cls(*(threshold(null[column].to_numpy(dtype=float), quantile)
                     for column in ("score", "feature_score")))


@dataclass(frozen=True)
class Found:
    """The nearest training image of each of Q images."""

    index: np.ndarray
    """(Q,) int, among the training images."""
    orientation: np.ndarray
    """(Q,) int, which of its ORIENTATIONS is the nearest."""
    distance: np.ndarray
    """(Q,) float; NaN, like the score, for images without a region."""
    score: np.ndarray
    """(Q,) float: the distance over the mean of the next ten. 0 is a copy, 1 no nearer than the others."""


def in_pixels(images: np.ndarray, regions: np.ndarray, training: np.ndarray,
              own: np.ndarray | None = None) -> Found:
    """The nearest of `training` (N, C, S, S), uint8, inside each image's region; images (Q, C, S, S), uint8.

    regions (Q, S, S), nonzero where filled. own (Q,): the index of a training image to leave out, such as the
    image itself where it is a real one; -1 for none.
    """
    shown, small = _shrunk(images), _shrunk(training)
    candidates = np.concatenate([turned(small, way) for way in range(len(ORIENTATIONS))])
    distances = np.full((len(images), len(candidates)), np.nan, np.float32)
    groups: dict[bytes, list[int]] = {}
    for i, region in enumerate(regions):
        groups.setdefault(region.tobytes(), []).append(i)  # pairs of one source share it
    for rows in groups.values():
        inside = core(_inside(regions[rows[0]]))
        if inside.any():
            distances[rows] = 1 - _looks(shown[rows], inside) @ _looks(candidates, inside).T
    return _nearest(distances, own)


def in_features(rows: np.ndarray, training: np.ndarray, own: np.ndarray | None = None) -> Found:
    """As `in_pixels`, by features: rows (Q, D), NaN without a region; training (8 N, D), by ORIENTATIONS."""
    return _nearest(cdist(rows.astype(np.float64), training.astype(np.float64)), own)


def patches(images: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The boxes around regions (N, C, PATCH, PATCH), uint8: normalised inside, grey outside and in the rim.

    images (N, C, S, S), uint8; regions (N, S, S), none empty.
    """
    return np.stack([_patch(image, core(_inside(region)))
                     for image, region in zip(_shrunk(images), regions, strict=True)])


def turned(images: np.ndarray, way: int) -> np.ndarray:
    """Images or regions (..., S, S), turned to the orientation of this index in ORIENTATIONS."""
    return np.rot90(images[..., ::-1] if way >= 4 else images, way % 4, (-2, -1))


def core(inside: np.ndarray) -> np.ndarray:
    """A region (S, S), as booleans, without its rim: RIM wide, narrower where less than CORE would remain.

    Where the region ends at the border of the image, there is no rim.
    """
    if not inside.any():
        return inside
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The outermost pixels of a region have a depth of 1.
    width = RIM * len(inside) / FULL_SIZE + 0.5
    return inside & (depth >= min(width, float(np.quantile(depth[inside], 1 - CORE))))


def threshold(null: np.ndarray, quantile: float) -> float:
    """The score below which an image is a near-copy: this quantile of the scores of images that are not.

    `by_chance` estimates what share of new images it flags, which is more than the quantile where the scores
    are few. Images in `null` that are duplicates all the same, as frames of a video are, do not lower it.
    """
    known = null[np.isfinite(null)]
    usual = known[known > TWIN * np.median(known)] if len(known) else known
    return float(np.quantile(usual, quantile)) if len(usual) else 0.0


def by_chance(null: pd.DataFrame, quantile: float, sources: Sequence[str]) -> float:
    """The share of images without a copy that are flagged, each by the thresholds of the others.

    `null` has the columns score and feature_score; `sources` names the source of each row. Images of one
    source share their region, so none of them counts towards the thresholds of another. NaN for fewer than
    four images, or only one source.

    By one criterion, thresholds from n such images flag a share of about (1 + (n - 1) quantile) / (n + 1) of
    new images without a copy: more than `quantile`, because the quantile of few scores lies above the lowest.
    The share here is the same, with n less the number of images of one source.
    """
    of = np.asarray(sources)
    if len(null) < 4 or len(set(sources)) < 2:
        return float("nan")
    scores, flagged = null[["score", "feature_score"]].to_numpy(dtype=float), np.zeros(len(null), bool)
    for source in dict.fromkeys(sources):
        mine = of == source
        limits = [threshold(column, quantile) for column in scores[~mine].T]
        flagged[mine] = (scores[mine] < limits).any(axis=1)
    return float(flagged.mean())


def near(audit: pd.DataFrame, thresholds: Thresholds) -> np.ndarray:
    """How each row of an audit is a near-copy: by "pixels", "features" or "both"; "" where it is not."""
    pixels, features = audit["score"] < thresholds.pixels, audit["feature_score"] < thresholds.features
    return np.select([pixels & features, pixels, features], ["both", "pixels", "features"], "").astype(object)


def summary(audit: pd.DataFrame, thresholds: Thresholds) -> dict[str, float | int]:
    """Counts of near-copies in an audit with the columns score, feature_score and own, and their share."""
    by = near(audit, thresholds)
    pixels, features = np.isin(by, ["pixels", "both"]), np.isin(by, ["features", "both"])
    return {"images": len(audit), "in pixels": int(pixels.sum()), "in features": int(features.sum()),
            "either": int((by != "").sum()),
            "share": float((by != "").mean()) if len(audit) else float("nan"),
            "of their source": int((pixels & audit["own"]).sum()),
            "nearest to source": float(audit["own"].mean()) if len(audit) else float("nan")}


def _nearest(distances: np.ndarray, own: np.ndarray | None) -> Found:
    """From distances (Q, 8 N) to the training images in all orientations."""
    each = distances.reshape(len(distances), len(ORIENTATIONS), -1)
    both = each.min(axis=1)
    known = ~np.isnan(both[:, 0])
    if own is not None:
        some = np.flatnonzero(own >= 0)
        both[some, own[some]] = np.inf
    index = np.where(known, np.nan_to_num(both, nan=np.inf).argmin(axis=1), 0)
    ordered = np.sort(both, axis=1)
    others = np.where(np.isfinite(ordered), ordered, np.nan)[:, 1:NEXT + 1]
    usual = np.full(len(both), np.nan)
    usable = np.isfinite(others).any(axis=1)
    usual[usable] = np.nanmean(others[usable], axis=1)
    way = each[np.arange(len(both)), :, index].argmin(axis=1)
    # Where even the next ones are exact copies, the distance itself is 0, and so is the score.
    return Found(index, way, np.where(known, ordered[:, 0], np.nan),
                 np.where(known, ordered[:, 0], np.nan) / np.maximum(usual, 1e-6))


def _looks(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Images (B, C, S, S) inside a region (S, S), as rows of length 1, or shorter if flatter than FLAT."""
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
    shown = np.where(inside, (smooth[0] - mean) / spread * SPREAD + MIDDLE, MIDDLE)
    enlarged = [cv2.resize(channel, (PATCH, PATCH), interpolation=cv2.INTER_LINEAR) for channel in shown]
    return np.clip(np.rint(np.stack(enlarged)), 0, 255).astype(np.uint8)


def _smoothed(images: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, C, S, S) in the box around a region (S, S), smoothed within it; the region in that box."""
    ys, xs = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    inside = inside[box]
    weight = gaussian_filter(inside.astype(np.float32), SMOOTH, mode="constant")
    blurred = gaussian_filter(images[(..., *box)] * inside, (0, 0, SMOOTH, SMOOTH), mode="constant")
    return blurred / np.maximum(weight, 1e-3), inside


def _inside(region: np.ndarray) -> np.ndarray:
    """A region (S, S) as booleans, at the size of the shrunk images; even the smallest does not vanish."""
    cover = _shrunk((region[None, None] > 0).astype(np.float32))[0, 0]
    return (cover > 0) & (cover >= min(0.5, cover.max()))


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Images (B, C, S, S) in float32, averaged down to SIDE where they are larger."""
    if images.shape[-1] <= SIDE:
        return images.astype(np.float32)
    flat = images.reshape(-1, *images.shape[2:])
    small = np.stack([cv2.resize(channel.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                      for channel in flat])
    return small.reshape(*images.shape[:2], SIDE, SIDE)
