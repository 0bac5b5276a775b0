"""How fast this machine's devices were when they were last probed: it tells about how long a run takes, until
its own finished parts do.

`new`, `plan` and `status --seconds` measure it anyway. The file is the user's, and holds nothing of any run.
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

# Where nothing can be kept, or read: it is only of use.
UNKEPT = (OSError, RuntimeError, UserError)
FILE = "pace.json"  # beside the user's key: of each device and size, FLOP a second by kind


def remember(p: Params, rates: pd.DataFrame) -> None:
    """Keep the rates of a probe, a row a kind, of a run's device, for runs of such sizes; kinds that it has
    none of stay as they are."""
    fresh = {row.kind: float(row.rate) for row in rates.itertuples() if _usable(row.rate)}
    with contextlib.suppress(*UNKEPT):
        files.write_json(_file(), {**_every(), _of(p): {**known(p), **fresh}})


def known(p: Params) -> dict[str, float]:
    """FLOP a second by kind of work, as far as the run's device has been probed at its sizes; {} where it was
    not, or is not here."""
    told = None
    with contextlib.suppress(UserError):
        told = _every().get(_of(p))
    return {str(kind): float(rate) for kind, rate in told.items() if _usable(rate)} if isinstance(
        told, dict) else {}


def _of(p: Params) -> str:
    """What decides the rates, nearly: the device, and how large the networks and their images are. UserError
    where the device is not here."""
    return (f"{devices.name(p.device)}, images of {p.data.image_size} and {p.model_size} px, "
            f"{p.model.base_channels} channels, {p.train.precision}")


def _usable(rate: Any) -> bool:
    return isinstance(rate, float | int) and math.isfinite(rate) and rate > 0


def _every() -> dict[str, Any]:
    with contextlib.suppress(*UNKEPT):
        told = files.read_json(_file())
        return told if isinstance(told, dict) else {}
    return {}


def _file() -> Path:
    """RuntimeError where the user has no home."""
    return ownpages.key_file().with_name(FILE)
