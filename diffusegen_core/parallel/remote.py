"""Work items on dask workers: sent, watched, and done again if a worker is lost.

A worker has one unit of the resource `device` and one thread, so it does one item at a time; or, to train a
model on several cards, a unit for each of its cards. Items read and write the run's folder, which all
machines share; through the scheduler go names, parameters and progress.
"""

import contextlib
import logging
import os
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from distributed import Client, Future, wait
from distributed.scheduler import KilledWorker

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.text import duration
from diffusegen_core.parallel import cards, progress, ready, stuck, tls

if TYPE_CHECKING:
    from diffusegen_core.parallel.fanout import Item

log = logging.getLogger(__name__)

DEVICE = "device"  # the resource
_described: set[str] = set()  # addresses of schedulers that this process has described
_warned: set[str] = set()  # cards that it has warned of
PATIENCE = 30.0  # seconds between looks for workers
OWN = "DIFFUSEGEN_WORKERS"  # the environment variable that is set if all workers are the command's own
LOST = 300.0  # seconds after which such workers are not expected back
TELLING = 1.0  # seconds within which a worker's message arrives
Result = TypeVar("Result")


def connect(address: str) -> Client:
    """A client of the scheduler at an address such as tls://10.0.0.1:8786.

    Raises UserError if there is none, if Dask's settings for TLS do not fit, and if others can reach the
    scheduler or a worker without a certificate.
    """
    tls.refuse_plain(address)
    try:
        client = Client(address, timeout="20s", name="diffusegen")
    # What Dask raises for certificates that are absent, invalid, or not configured at all.
    except (FileNotFoundError, PermissionError, ssl.SSLError, TypeError, RuntimeError) as error:
        raise UserError(f"{address}: Dask's settings for TLS ({tls.SETTINGS}) do not fit: "
                        f"{_line(error)}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"There is no dask scheduler at {address} that accepts the certificate in Dask's "
                        f"settings: {_line(error)}. Start one with `dask scheduler`, or leave --scheduler "
                        "out.") from None
    try:
        info = client.scheduler_info(n_workers=-1)
        for known in (info["address"], *info["workers"]):  # where it listens, whatever address was given
            tls.refuse_plain(known)
    except UserError:
        client.close()
        raise
    return client


def described(client: Client, address: str) -> str:
    """Where the scheduler is, how many workers it has so far, and its dashboard if there is one."""
    info = client.scheduler_info(n_workers=-1)
    # Without bokeh there is a port, but nothing to see.
    there = info.get("services", {}).get("dashboard") and find_spec("bokeh")
    dashboard = f", dashboard {client.dashboard_link}" if there else ""
    return f"Scheduler {address}, {len(info['workers'])} workers so far{dashboard}"


def run(address: str, work: Callable[..., Result], items: "Sequence[Item]", title: str,
        done: float) -> list[Result]:
    """Call work(**item.arguments) on the workers of a scheduler; results come in the order of the items.

    The first error ends it, and is raised here as it was raised there. Raises UserError if the workers cannot
    do such items, and if several workers have died of one item.
    """
    spaces = [item.workspace for item in items if item.workspace is not None]
    with connect(address) as client, ready.needs(spaces) as wanted:
        units = max(item.devices for item in items)
        refuse_unfit(client, units)
        if address not in _described:  # once per process, as in a notebook
            _described.add(address)
            if progress.POSTED not in os.environ:  # else the command has said so
                print(described(client, address), file=sys.stderr)
        ready.refuse(client, _fit(client), wanted)
        _warn_of_one_card(client, {device for device in wanted.devices if ":" in device})
        heard: SimpleQueue[dict[str, Any]] = SimpleQueue()
        client.subscribe_topic(progress.TOPIC, lambda event: heard.put(event[1]))
        sent = {f"{item.name} {uuid4().hex[:8]}": item for item in items}
        futures = [client.submit(_do, key, work, item.arguments, wanted, item.devices, key=key, pure=False,
                                 priority=item.cost, resources={DEVICE: item.devices})
                   for key, item in sent.items()]
        total = done + sum(item.cost for item in items)
        with progress.bar(title, total, "item", done, shares=True) as bar:
            board = _Board(sent, bar, heard)
            try:
                _follow(client, futures, board, units)
            finally:
                _cancel(client, futures, board)
        return [future.result() for future in futures]


def _follow(client: Client, futures: list[Future], board: "_Board", units: int) -> None:
    """Wait for all futures, show their progress, and raise the first error."""
    pending, presence = set(futures), _Presence(client, units)
    while pending:
        try:
            ended, pending = wait(pending, timeout=1, return_when="FIRST_COMPLETED")
        except TimeoutError:
            ended = set()
        except CancelledError:
            raise UserError("The scheduler was lost, or gave up the work; its log may say why. "
                            "Finished work is on disk; run the same command again to continue.") from None
        progress.alive()  # workers may be in a queue for days
        board.listen()
        for future in ended:
            if future.status != "finished":
                raise _explained(future, board.sent[future.key].name)
            board.finish(future.key)
        presence.check()


class _Presence:
    """Whether there are workers that can take items of so many units."""

    def __init__(self, client: Client, units: int) -> None:
        self.client, self.units = client, units
        self.lacking = False  # whether there were none at the last look
        self.looked = time.monotonic()  # when that was
        self.there = self.looked  # when there last was one

    def check(self) -> None:
        """Look again if the last look is long ago. Warns when workers begin to be lacking. UserError if they
        were the command's own, and have been lacking for LOST."""
        if time.monotonic() - self.looked <= PATIENCE:
            return
        last, lacked = self.looked, self.lacking
        self.lacking = not _fit(self.client, self.units)
        self.looked = time.monotonic()
        asleep = self.looked - last > 4 * PATIENCE  # this machine was, or this process was stopped
        if asleep or not self.lacking:
            self.there = self.looked
        if self.lacking and not lacked:
            log.warning("No worker of the scheduler offers the resource %s; waiting for one.",
                        f"{DEVICE}={self.units}" if self.units > 1 else DEVICE)
        if os.environ.get(OWN) and self.looked - self.there > LOST:
            raise UserError("All worker processes of this command have ended, and could not be restarted: "
                            "check whether the temporary folder is full. Finished work is on disk; run "
                            "the same command again to continue.")


def _cancel(client: Client, futures: list[Future], board: "_Board") -> None:
    """Cancel what has not begun, and say what workers are still at: they stop once the sign file is gone."""
    left = [future for future in futures if not future.done()]
    client.cancel(left)
    if left:
        time.sleep(TELLING)
        board.listen()
        if begun := [board.sent[f.key].name for f in left if f.key in board.at]:
            log.warning("What had not begun is cancelled. Workers are still at %s; each stops at its next "
                        "step.", ", ".join(begun))


class _Board:
    """What is known of the items under way: shown behind the bar, and in a line for each at its end."""

    def __init__(self, sent: "dict[str, Item]", bar: Any, heard: "SimpleQueue[dict[str, Any]]") -> None:
        self.sent, self.bar, self.heard = sent, bar, heard
        self.at: dict[str, str] = {}  # the worker of an item
        self.shares: dict[str, float] = {}
        self.before: dict[str, float] = {}  # by item, the part of its cost done before the bar's time
        self.fresh: set[str] = set()  # begun, and not heard of since
        self.stages: dict[str, str] = {}  # by item that has had several bars, the title of its last one
        self.ended = bar.n  # the cost of finished items
        self.since: dict[str, float] = {}

    def listen(self) -> None:
        """Take in the messages that workers have sent meanwhile."""
        with contextlib.suppress(Empty):
            while True:
                self._hear(self.heard.get_nowait())

    def _hear(self, message: dict[str, Any]) -> None:
        if "hopeless" in message:  # of the keeper of Slurm's jobs
            raise UserError(message["hopeless"])
        key = message.get("item")
        if key not in self.sent:  # of another client, or of what has been cancelled
            return
        if "begun" in message:
            self._begin(key, message["begun"])
        elif "look" in message:
            if watch := progress.watcher.get():
                name, folder = message["look"]
                watch(name, Path(folder))
        else:
            share, title = message["share"], message.get("title", "")
            if key in self.fresh:
                self.fresh.remove(key)
                self._go_on(key, (message["began"] - self._share(key)) * self.sent[key].cost)
            elif share < self.shares[key] or key in self.stages:  # another bar: none stands for the whole
                self._go_on(key, -self.before.get(key, 0.0))
                self.stages[key] = title
            self.shares[key] = share
        self._show()

    def _share(self, key: str) -> float:
        """The part of an item that is done, as far as its only bar tells."""
        return 0.0 if key in self.stages else self.shares[key]

    def _begin(self, key: str, worker: str) -> None:
        if key in self.at:
            log.warning("%s: %s was lost during it; %s goes on from what is on the disk.",
                        self.sent[key].name, self.at[key], worker)
        self.at[key], self.since[key] = worker, time.monotonic()
        self.shares.setdefault(key, 0.0)
        self.stages.pop(key, None)
        self.fresh.add(key)

    def _go_on(self, key: str, cost: float) -> None:
        """Count this much of an item's cost as done before the bar's time; a negative cost undoes it."""
        self.before[key] = self.before.get(key, 0.0) + cost
        self.bar.initial += cost

    def finish(self, key: str) -> None:
        worker = self.at.pop(key, "a worker")
        took = duration(time.monotonic() - self.since.get(key, time.monotonic()))
        progress.say(f"{self.sent[key].name}: {took}, {worker}")
        self.ended += self.sent[key].cost
        self._show()

    def _show(self) -> None:
        under_way = [" ".join(filter(None, [self.sent[key].name, self.stages.get(key),
                                            f"{self.shares[key]:.0%}"])) for key in self.at]
        self.bar.n = self.ended + sum(self._share(key) * self.sent[key].cost for key in self.at)
        self.bar.set_postfix_str(", ".join(under_way))


def _do(key: str, work: Callable[..., Result], arguments: dict[str, Any], wanted: ready.Needs,
        units: int) -> Result:
    """Do one item in a worker, on `units` cards; relative paths start from `wanted.start`, as in the
    client."""
    progress.item.set(key)
    progress.sign.set(wanted.sign)
    progress.tell(begun=ready.worker())
    name = key.rpartition(" ")[0]
    stacks = re.sub(r"[^\w.-]+", "-", name) + ".stacks.txt"
    failed = wanted.sign.parent / "notebooks" / "failed" / stacks if wanted.sign else None
    # A process that is shared with a client must not be ended.
    with contextlib.nullcontext() if ready.shares_its_process() else stuck.ended(name, failed):
        ready.check(wanted)
        for device in wanted.devices or ("auto",):
            cards.choose(device, units)
        os.chdir(wanted.start)  # a relative run_dir is found from here
        return work(**arguments)


def _warn_of_one_card(client: Client, named: set[str]) -> None:
    """Warn, once per process, that all workers of a machine share a card because the parameters name it."""
    most = max(Counter(worker["host"] for worker in _fit(client).values()).values(), default=0)
    for card in named - _warned if most > 1 else ():
        _warned.add(card)
        log.warning("Parameters: device: %s is one GPU for all %d workers of a machine; with device: cuda "
                    "they divide its GPUs among them.", card, most)


def refuse_unfit(client: Client, units: int) -> None:
    """Raise UserError if there are workers, but none could ever take an item of so many units, or one that
    could has several threads."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        return
    fit = _fit(client, units)
    if not fit:
        what = DEVICE if units == 1 else f"{DEVICE}={units}, a unit for each GPU of a model (train.devices)"
        each = "GPU" if units == 1 else f"{units} GPUs"
        raise UserError(f"None of the {len(workers)} workers offers the resource {what}. Start each as `dask "
                        f"worker ADDRESS --nthreads 1 --resources {DEVICE}={units}`, one for each {each}.")
    if (threads := max(w["nthreads"] for w in fit.values())) > 1:
        raise UserError(f"A worker has {threads} threads; items draw from torch's random generator for the "
                        "whole process, so a worker may have only one: --nthreads 1.")


def _fit(client: Client, units: int = 1) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker that can take an item of so many units, by address."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {where: w for where, w in workers.items() if w["resources"].get(DEVICE, 0) >= units}


def _explained(future: Future, name: str) -> BaseException:
    """The error to raise for a future that failed."""
    error = future.exception()
    if isinstance(error, KilledWorker):
        return UserError(f"{name}: several workers died while working on it, perhaps for lack of memory; the "
                         "same command tries it again.")
    if isinstance(error, ImportError) and (error.name or "").startswith(__package__.partition(".")[0]):
        return ready.explained(error, "another machine")
    return error.with_traceback(future.traceback())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
