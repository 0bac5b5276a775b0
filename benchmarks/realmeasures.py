"""Measures of the pairs of a real run: distances to real images, and the contrast at the border."""

from typing import Any

import numpy as np
from realwork import Work

from diffusegen_core.data import regions
from diffusegen_core.measures import metrics
from diffusegen_core.store import seeds

EQUAL, DRAWS = 100, 3  # images in a set that is measured, and sets


def distances(w: Work) -> dict[str, Any]:
    """Chapter 5's distances to the test images for sets of equal size; the floor is other held-out images."""
    e, rng = w.p.evaluate, seeds.rng(w.p.seed, "distances")
    groups = {"held-out real (floor)": w.watch.images, "training real": w.train.images,
              **{name: made.images for name, made in w.sets.items()}}
    if (file := w.folder / "samples.npz").is_file():
        with np.load(file) as stored:
            groups["whole samples"] = stored["images"]
    equal = min(EQUAL, *(len(images) for images in groups.values()))
    frechet, kernel = metrics.names(e)
    real = metrics.extract(w.test.images, e, w.device, title="test")
    found = {}
    for name, images in groups.items():
        draws = [rng.permutation(len(images))[:equal] for _ in range(DRAWS)]
        chosen = np.unique(np.concatenate(draws))
        features = metrics.extract(images[chosen], e, w.device, title=name)
        rows = dict(zip(chosen.tolist(), features, strict=True))
        sets = [np.stack([rows[i] for i in draw.tolist()]) for draw in draws]
        found[name] = {frechet: [frechet_distance(one, real) for one in sets],
                       kernel: [metrics.kernel(one, real, w.p.seed, e.kernel_subsets, e.kernel_size)
                                for one in sets]}
    return {"images a set": equal, "against": len(real), "backbone": metrics.backbone(e), "distances": found}


# |mean - mean'|^2 + tr S + tr S' - 2 tr sqrt(S S'); the last trace is the nuclear norm of X X'^T, of the
# centred rows, over sqrt((n - 1) (n' - 1))
def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """metrics.frechet of features (N, D) and (M, D) without a D x D root, for fewer images than features."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    means = a.mean(axis=0), b.mean(axis=0)
    x, y = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((a, b), means, strict=True))
    return float(np.square(means[0] - means[1]).sum() + np.square(x).sum() + np.square(y).sum()
                 - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum())


def seams(w: Work) -> dict[str, Any]:
    """The contrast at the border of the painted regions, and that of the sources at the same places."""
    found = {}
    for name, made in w.sets.items():
        pairs = zip(made.images, w.train.images[made.sources], made.regions, strict=True)
        rows = np.array([[regions.seam(image, region), regions.seam(source, region)]
                         for image, source, region in pairs])
        found[name] = dict(zip(("made", "source"), rows.mean(axis=0).tolist(), strict=True))
    return {"grey levels": found}
