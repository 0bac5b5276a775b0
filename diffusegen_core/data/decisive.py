"""What determines the pairs that are read from a folder, for their recipe."""

from functools import lru_cache
from pathlib import Path

from diffusegen_core.config.data import Data
from diffusegen_core.config.params import plain
from diffusegen_core.data import intensities, rasters
from diffusegen_core.data.reports import Report
from diffusegen_core.store.artifacts import Recipe

READER = 2  # raised when the same files would give other pixels
DEEP = 1  # the same, for files of more than 8 bits a channel only
WINDOWS = ("window", "window_size")  # parameters that change no pair (see data.windows)
# Parameters that were added later, with the values that leave pairs as they were before.
BEFORE = {"images": None, "masks": None, "fit": "squeeze", "channels": 3, "intensities": "full",
          "slices": None, "labels": None, "overlap": False, "min_area": None, "patients": None}


def asked(settings: Data) -> Recipe:
    """The parameters that determine pairs, without those that leave them as they were before (BEFORE)."""
    ignored = {*WINDOWS, "object", *([] if settings.names else ["names"]),
               *([] if settings.held_share else ["holdout"])}
    told: Recipe = {name: value for name, value in plain(settings).items()
                    if name not in ignored and (name not in BEFORE or value != BEFORE[name])}
    if len(settings.classes) > 1:  # their order is that of the masks' planes; recipes ignore that of labels
        told["classes"] = list(settings.classes)
    if settings.intensities == "percentile":
        told["percentiles"] = intensities.VERSION
    return {**told, "version": READER}


def is_deep(report: Report, hashes: Recipe) -> bool:
    """Whether any file of a report has more than eight bits a channel, by its header; `hashes` are those of
    the report, with each file's size and time."""
    return any(_is_deep(path, *hashes[path.relative_to(report.folder).as_posix()][:2])
               for path in report.files)


@lru_cache(maxsize=1 << 16)
def _is_deep(path: Path, _size: int, _time_ns: int) -> bool:
    return rasters.is_deep(path)
