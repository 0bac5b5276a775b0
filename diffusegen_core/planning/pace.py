"""The speed of this machine's devices when last probed, to estimate a run's time before its own parts do.

`new`, `plan` and `status --seconds` measure it anyway. The file belongs to the user, and says nothing about
any run.
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import pandas as pd

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.store import files, ownpages

# Raised where the file cannot be written or read, which is tolerated: it is a convenience.
UNKEPT = (OSError, RuntimeError, UserError)
FILE = "pace.json"  # beside the user's key: by device and sizes, FLOP per second by kind of work


def remember(p: Params, rates: pd.DataFrame, busy: bool = False) -> None:
    """Keep the rates of a probe, one row per kind of work, for this device and runs of the same sizes; kinds
    that the probe has no rate for keep their old ones. Where the device was `busy` with something else, only
    if nothing is known."""
    if busy and known(p):
        return
    fresh = {row.kind: float(row.rate) for row in rates.itertuples() if _usable(row.rate)}
    with contextlib.suppress(*UNKEPT):
        files.write_json(_file(), {**_every(), _of(p): {**known(p), **fresh}})


def known(p: Params, workers: int = 1) -> dict[str, float]:
    """FLOP per second by kind of work, as far as the run's device was probed at the run's sizes; {} where it
    was not, or is not on this machine. With several `workers` of this machine, of each of them."""
    told, share = None, 1.0
    with contextlib.suppress(UserError):
        told = _every().get(_of(p))
        share = devices.share(p.device, workers) if workers > 1 else 1.0
    return {str(kind): float(rate) * share for kind, rate in told.items() if _usable(rate)} if isinstance(
        told, dict) else {}


def _of(p: Params) -> str:
    """A key of nearly all that decides the rates: the device, and the sizes of networks and images. UserError
    where the device is not on this machine."""
    return (f"{devices.name(p.device, p.train.precision)}, images of {p.data.image_size} and "
            f"{p.model_size} px, {p.model.base_channels} channels, {p.train.precision}")


def _usable(rate: Any) -> bool:
    return isinstance(rate, float | int) and math.isfinite(rate) and rate > 0


def _every() -> dict[str, Any]:
    with contextlib.suppress(*UNKEPT):
        told = files.read_json(_file())
        return told if isinstance(told, dict) else {}
    return {}


def _file() -> Path:
    """The path of the file. RuntimeError where the user has no home directory."""
    return ownpages.key_file().with_name(FILE)
