"""Whether a worker can do a run's items: it has the same code, the same folders, and the device.

Workers that are there and free are checked before the first item is sent; every worker checks itself again at
the start of each item, since it may have come later.
"""

import contextlib
import hashlib
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from distributed import Client, default_client, get_worker, wait

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import home
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

# A hash of the code that this process has loaded: a worker started before a change would still run the old.
SOURCES = sorted(Path(__file__).parents[1].rglob("*.py"))
CODE = hashlib.sha256(b"\0".join(path.read_bytes() for path in SOURCES)).hexdigest()
PROMISED = "DIFFUSEGEN_GPUS"  # the environment variable that says how many GPUs a job of Slurm has
LOOK = 30.0  # how long to wait for a worker's answer, in seconds
_asked: set[tuple[str, Path]] = set()  # a worker's address, and a folder that it has found


@dataclass(frozen=True)
class Needs:
    """What a worker must have."""

    start: Path
    """The folder that relative paths start from."""
    folders: frozenset[Path]
    """The run folders."""
    token: str
    """The name, and the text, of a file that lies in each of them while the client waits."""
    devices: frozenset[str]
    """As the parameter `device`."""
    code: str

    @property
    def sign(self) -> Path | None:
        """A file that is there as long as the client waits; None if the items belong to no run."""
        return min(self.folders) / self.token if self.folders else None


@contextlib.contextmanager
def needs(spaces: Collection[Workspace]) -> Iterator[Needs]:
    """What items of these runs need; while this lasts, a file lies in each run folder.

    A folder of the same path may be on a disk of the worker's own, where the file is missing.
    """
    name = f"{files.WRITING}{uuid4().hex}"
    made = Needs(home(), frozenset(space.folder for space in spaces), name,
                 frozenset(space.device for space in spaces), CODE)
    try:
        for folder in made.folders:
            files.write_text(folder / name, name)
        yield made
    finally:
        for folder in made.folders:
            (folder / name).unlink(missing_ok=True)


def worker() -> str:
    """The name of the worker that calls this."""
    return f"worker {get_worker().name} on {socket.gethostname()}"


def shares_its_process() -> bool:
    """Whether the worker that calls this shares its process with a client, as in somebody's notebook."""
    try:
        return bool(default_client())
    except ValueError:
        return False


def check(wanted: Needs) -> None:
    """Raise UserError if the worker that calls this lacks something."""
    name = worker()
    if wanted.code != CODE:
        raise UserError(f"{name} runs another version of diffusegen. Restart the workers from this run's "
                        "checkout.")
    if (threads := get_worker().state.nthreads) > 1:
        raise UserError(f"{name} has {threads} threads; items draw from torch's random generator for the "
                        "whole process, so a worker may have only one: --nthreads 1.")
    if not wanted.start.is_dir():
        raise _blind(wanted.start, name)
    for folder in wanted.folders:
        _refuse_own(folder, name, wanted.token)
    for device in wanted.devices:
        try:
            on = devices.device(device)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if device == "auto" and on.type == "cpu" and os.environ.get(PROMISED, "0") != "0":
            raise UserError(f"{name}: its job has {os.environ[PROMISED]} GPUs, and torch finds none there. "
                            "Keep jobs away from that machine (options: [--exclude=NODE]).")


def refuse(client: Client, addresses: Iterable[str], wanted: Needs) -> None:
    """Raise UserError if one of these workers lacks something. Busy and silent ones are passed over."""
    busy = {address for address, keys in client.processing().items() if keys}
    places = (wanted.start, *wanted.folders)
    asked = {address: {(address, place) for place in places} for address in addresses}
    sent = {client.submit(check, wanted, key=f"ready {uuid4().hex}", pure=False, workers=[address],
                          allow_other_workers=False): address
            for address, pairs in asked.items() if address not in busy and not pairs <= _asked}
    if not sent:
        return
    with contextlib.suppress(TimeoutError):
        wait(list(sent), timeout=LOOK)
    try:
        for future, address in sent.items():
            if future.status == "error":
                raise explained(future.exception(), address)
            if future.status == "finished":
                _asked.update(asked[address])
    finally:
        client.cancel([future for future in sent if not future.done()])


def explained(error: BaseException, where: str) -> UserError:
    """The error of a check as a UserError: one of another kind means that the worker cannot load the code."""
    if isinstance(error, UserError):
        return error
    return UserError(f"The worker at {where} cannot load this run's code: {type(error).__name__}: "
                     f"{' '.join(str(error).split())}. Start the scheduler and the workers from the run's "
                     "checkout and its .venv, which all machines must see at the same path.")


def _refuse_own(folder: Path, name: str, token: str) -> None:
    """Raise UserError if the worker cannot read in a folder what the client wrote there, or cannot write."""
    try:
        same = (folder / token).read_text() == token
    except (OSError, ValueError):
        same = False
    if not same:
        raise _blind(folder, name)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{name} may not write into the folder {folder}. Start it as the user who owns the "
                        "run, and give its machine write access there.")


def _blind(folder: Path, name: str) -> UserError:
    return UserError(f"{name} does not see the folder {folder}, or sees a different one there. All machines "
                     "must see the checkout and the run's folder at the same path: -p run_dir DIR.")
