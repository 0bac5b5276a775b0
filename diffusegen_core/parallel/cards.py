"""Which card a worker computes on: the one that the parameters name, or its share of the visible ones."""

import errno
import socket
import subprocess
from collections.abc import Sequence

import torch

from diffusegen_core.config import devices

SECONDS = 30.0  # how long the driver's own program (nvidia-smi) may take


_holds: dict[int, socket.socket] = {}  # this process's cards, with its hold on each


def choose(device: str, count: int = 1) -> None:
    """Choose this process's cards, `count` of them for a model trained on several; the first is torch's cuda.

    `device` is the parameter. If it names a card, that is taken; otherwise the cards with the most free
    memory per worker, this one included. The choice lasts until the process ends. Raises UserError if the
    device is absent.
    """
    on = devices.device(device)
    if on.type == "cuda":
        held = _hold(on.index, count)
        devices.own.set(held)
        torch.cuda.set_device(held[0])


def _hold(named: int | None, count: int) -> tuple[int, ...]:
    """Take the named card, or else `count` cards, or all visible ones if there are fewer."""
    if named is not None:
        if named not in _holds:
            _holds[named] = _taken([named])[1]
        return (named,)
    while len(_holds) < min(count, torch.cuda.device_count()):
        card, hold = _taken([number for number in range(torch.cuda.device_count()) if number not in _holds],
                            alone=count > 1)
        _holds[card] = hold
    return tuple(_holds)


def _taken(numbers: Sequence[int], alone: bool = False) -> tuple[int, socket.socket]:
    """One of these cards, and a hold on it that ends with the process; with `alone`, preferably a card that
    no other worker has.

    The hold is a socket without a file, named by the card's UUID, since its number may differ elsewhere.
    """
    hold, free = socket.socket(socket.AF_UNIX), _free()
    others = dict.fromkeys(numbers, 0)  # how many other workers have each card
    while True:
        card = max(numbers, key=lambda number: (alone and not others[number],
                                                free[number] / (others[number] + 1)))
        try:
            hold.bind(f"\0diffusegen {_uuid(card)} {others[card]}")
            return card, hold
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            others[card] += 1


def _free() -> list[float]:
    """The free memory of each visible card, in MiB, at least 1; 1 for all if it is unknown.

    The driver's program is asked, because asking torch would take some hundred MiB of every card.
    """
    query = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    numbers = range(torch.cuda.device_count())
    try:
        rows = [line.split(",") for line in _asked(query).splitlines()]
        known = {uuid.strip().removeprefix("GPU-"): max(1.0, float(free)) for uuid, free in rows}
        return [known[_uuid(number)] for number in numbers]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):  # no program, or MIG slices
        return [1.0 for _ in numbers]


def _asked(query: list[str]) -> str:
    """The output of a program. Raises OSError or SubprocessError if it fails or takes too long: it may hang
    in the driver, where no signal ends it, so it is not waited for."""
    program = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        told = program.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        program.kill()
        raise
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, query)
    return told


def _uuid(card: int) -> str:
    return str(torch.cuda.get_device_properties(card).uuid).removeprefix("GPU-")
