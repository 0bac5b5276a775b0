"""Which card a worker computes on: the one that the parameters name, or its share of the visible ones."""

import errno
import socket
import subprocess
from collections.abc import Sequence

import torch

from diffusegen_core.config import devices

SECONDS = 30.0  # for which the driver's own program is waited for


_holds: dict[int, socket.socket] = {}  # this process's cards, with its hold on each


def choose(device: str, count: int = 1) -> None:
    """Make a card the one that torch, in this process, means by cuda, and have `count` for a model that is
    trained on several. `device` is the parameter.

    A named card is that card. Else they are those with the most free memory for each worker that has them,
    this one included; the choice holds until the process ends. UserError where the device is not there.
    """
    on = devices.device(device)
    if on.type == "cuda":
        held = _hold(on.index, count)
        devices.own.set(held)
        torch.cuda.set_device(held[0])


def _hold(named: int | None, count: int) -> tuple[int, ...]:
    """Have the named card; else so many, or all that are visible."""
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
    """One of these cards, and a hold on it, which ends with the process; if it is to be had `alone`, one that
    no other worker has, as long as there is one.

    The hold is a socket without a file: its name tells the card, whatever its number is to other processes.
    """
    hold, free = socket.socket(socket.AF_UNIX), _free()
    others = dict.fromkeys(numbers, 0)  # workers that have it
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
    """The memory of each visible card that nobody uses, in MiB, at least 1; all alike where nobody tells it.

    The driver's program is asked, since asking torch would take some hundred MiB of every card.
    """
    query = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    numbers = range(torch.cuda.device_count())
    try:
        rows = [line.split(",") for line in _asked(query).splitlines()]
        known = {uuid.strip().removeprefix("GPU-"): max(1.0, float(free)) for uuid, free in rows}
        return [known[_uuid(number)] for number in numbers]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):  # no program, or parts of cards
        return [1.0 for _ in numbers]


def _asked(query: list[str]) -> str:
    """What a program says. OSError or SubprocessError where it fails, or takes too long: it may hang in the
    driver, where no signal ends it, and is not waited for."""
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
