"""How objects stand out in their pictures: by their brightness, against that of a rim around them."""

import numpy as np
import pandas as pd

from diffusegen_core.data import planes, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Chosen

RIM = 32  # twice the width of the rim, in pixels of a 256 px image
COLUMNS = BRIGHTNESS, CONTRAST = ["brightness", "contrast"]


def of(pairs: Pairs, chosen: Chosen = None) -> pd.DataFrame:
    """One row of COLUMNS for each pair that shows an object of a `chosen` class, with something around it.

    `brightness` is the mean over the object's pixels and the image's channels, 0 to 255; `contrast` is this
    minus the mean over the rim: negative where the object is darker than its surroundings.
    """
    masks = planes.only(pairs.masks, chosen).max(axis=1).astype(bool)
    rows = [_of_pair(image, mask) for image, mask in zip(pairs.images, masks, strict=True)]
    return pd.DataFrame([row for row in rows if row], columns=COLUMNS)


def _of_pair(image: np.ndarray, mask: np.ndarray) -> tuple[float, float] | None:
    rim = regions.dilated(mask, RIM).astype(bool) & ~mask
    if not (mask.any() and rim.any()):
        return None
    light = image.mean(axis=0)
    return float(light[mask].mean()), float(light[mask].mean() - light[rim].mean())
