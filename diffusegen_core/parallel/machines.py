"""The machines of a run: this process alone, workers here, those of a dask scheduler, or jobs of Slurm."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diffusegen_core.config import devices
from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError
from diffusegen_core.parallel import closed, tls
from diffusegen_core.parallel.fanout import SCHEDULER

if TYPE_CHECKING:
    from distributed.deploy.cluster import Cluster

# Local workers log almost nothing: at the end one may complain of a scheduler that is gone. An error of the
# work itself is raised, and a lost worker is reported in the program's own log.
QUIET = logging.CRITICAL
# A worker that is silent for this long counts as lost; dask's default of five minutes is long on a GPU node.
SILENCE = "120s"


@contextlib.contextmanager
def hold(folder: Path, workers: int | None = None, scheduler: str | None = None,
         slurm: Path | None = None, insecure: bool = False, cards: int = 1) -> Iterator[int]:
    """Send work items to dask workers while this lasts: local ones, those of a scheduler, or jobs of Slurm.
    Gives their number so far, at least 1.

    With none of them nothing is started, and no port opened. What is started speaks TLS, with a certificate
    in `folder`, the run's. The chapters, processes of their own, find the scheduler by the environment
    variable DIFFUSEGEN_SCHEDULER, and the certificate by Dask's own. A worker that is started has `cards`
    cards, as many as train a model together. Raises UserError for more than one of the three, if no worker
    has that many cards, and, unless `insecure`, for a scheduler that others can reach without a certificate.
    """
    if sum(value is not None for value in (workers, scheduler, slurm)) > 1:
        raise UserError("--workers, --scheduler and --slurm exclude each other.")
    own = workers is not None or slurm is not None
    named = None if own else scheduler or os.environ.get(SCHEDULER)
    if insecure and not named:
        raise UserError("--insecure is only for a scheduler of your own: --scheduler ADDRESS.")
    with contextlib.ExitStack() as held:
        if insecure:
            held.enter_context(environment({tls.INSECURE: "1"}))
        if own:
            held.enter_context(_scratch())
        if workers is not None:
            held.enter_context(tls.temporary(folder, shared=False))
            # Dask sets these in this process too, and would not set them anew: they are restored at the end.
            held.enter_context(environment(dict.fromkeys([*devices.THREADS, *devices.ALLOCATOR])))
            scheduler = held.enter_context(_local(workers, cards)).scheduler_address
        elif slurm is not None:
            from diffusegen_core.parallel import slurm as jobs
            variables = held.enter_context(tls.temporary(folder, shared=True))
            with _started():
                scheduler = held.enter_context(jobs.hold(slurm, variables, cards))
        if scheduler is None:
            if named:
                tls.refuse_plain(named)
            yield 1
            return
        from diffusegen_core.parallel import remote
        with remote.connect(scheduler) as client:
            typer.echo(remote.described(client, scheduler), err=True)
            there = workers or len(client.scheduler_info(n_workers=-1)["workers"])
            if cards > 1:
                remote.refuse_unfit(client, cards)
        with environment({SCHEDULER: scheduler, remote.OWN: "1" if workers is not None else ""}):
            yield max(1, there)


def _local(workers: int, cards: int) -> "Cluster":
    """Workers on this machine, each a process with its share of the processor's cores and `cards` cards."""
    import dask
    from dask.system import CPU_COUNT  # those that this process may use
    from distributed import LocalCluster

    threads = str(max(1, CPU_COUNT // workers))
    share = dict.fromkeys(devices.THREADS, threads)
    usual = dask.config.get("distributed.nanny.pre-spawn-environ")
    spawned = {**usual, **share, **devices.ALLOCATOR}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": spawned}), _started():
        return LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                            resources={"device": cards}, host="127.0.0.1", silence_logs=QUIET,
                            dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False})


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """Keep Dask's files in a private folder while this lasts: Dask imports from there, and its default is a
    folder in the system's temporary one, which anybody may have created first."""
    import dask
    with (tempfile.TemporaryDirectory(prefix="diffusegen-", ignore_cleanup_errors=True) as place,
          dask.config.set({"temporary-directory": place})):
        yield


@contextlib.contextmanager
def _started() -> Iterator[None]:
    """Dask's settings while a scheduler and its workers start; those that the user has set are kept."""
    import dask

    ttl = "distributed.scheduler.worker-ttl"
    chosen = any(name.upper().startswith("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL") for name in os.environ)
    preloads: dict[str, object] = {}
    for name in ("distributed.scheduler.preload", "distributed.worker.preload"):
        users = dask.config.get(name) or []
        preloads[name] = [*([users] if isinstance(users, str) else users), closed.__name__]
    with dask.config.set(preloads if chosen else {**preloads, ttl: SILENCE}):
        yield
