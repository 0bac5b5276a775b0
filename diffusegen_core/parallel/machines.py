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

# Of what workers here log, the least: at the end one may tell of a scheduler that has gone. An error of the
# work itself is raised, and of a worker that is lost our own log tells.
QUIET = logging.CRITICAL
# A worker that is not heard of for so long is taken for lost; dask's own five minutes are long on a GPU node.
SILENCE = "120s"


@contextlib.contextmanager
def hold(folder: Path, workers: int | None = None, scheduler: str | None = None,
         slurm: Path | None = None, insecure: bool = False, cards: int = 1) -> Iterator[None]:
    """While it lasts, work items go to dask workers: so many here, those of a scheduler, or jobs of Slurm.

    With none of them nothing is started, and no port opened. What is started speaks TLS, with a certificate
    in `folder`, the run's. The chapters, processes of their own, find the scheduler by the environment
    variable DIFFUSEGEN_SCHEDULER, and the certificate by Dask's own. A worker here, or of a job, has as many
    `cards` as train a model together. UserError for more than one of the three, where no worker has so many,
    and, unless `insecure`, for a scheduler that others can reach without a certificate.
    """
    if sum(value is not None for value in (workers, scheduler, slurm)) > 1:
        raise UserError("--workers, --scheduler and --slurm exclude each other.")
    own = workers is not None or slurm is not None
    named = None if own else scheduler or os.environ.get(SCHEDULER)
    if insecure and not named:
        raise UserError("--insecure is about a scheduler of your own: --scheduler ADDRESS.")
    with contextlib.ExitStack() as held:
        if insecure:
            held.enter_context(environment({tls.INSECURE: "1"}))
        if own:
            held.enter_context(_scratch())
        if workers is not None:
            held.enter_context(tls.temporary(folder, shared=False))
            # Dask sets them for its workers in this process as well, and would not set them anew.
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
            yield
            return
        from diffusegen_core.parallel import remote
        with remote.connect(scheduler) as client:
            typer.echo(remote.described(client, scheduler), err=True)
            if cards > 1:
                remote.refuse_unfit(client, cards)
        with environment({SCHEDULER: scheduler, remote.OWN: "1" if workers is not None else ""}):
            yield


def _local(workers: int, cards: int) -> "Cluster":
    """Workers of this machine, each a process with its share of the processor's cores, and so many cards."""
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
    """While it lasts, Dask's files lie where nobody else can put any: Dask imports from there, and by itself
    takes a folder of the system's temporary one that whoever comes first may have made."""
    import dask
    with (tempfile.TemporaryDirectory(prefix="diffusegen-", ignore_cleanup_errors=True) as place,
          dask.config.set({"temporary-directory": place})):
        yield


@contextlib.contextmanager
def _started() -> Iterator[None]:
    """Dask's settings while a scheduler and its workers start: what the user has set stays."""
    import dask

    ttl = "distributed.scheduler.worker-ttl"
    chosen = any(name.upper().startswith("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL") for name in os.environ)
    preloads: dict[str, object] = {}
    for name in ("distributed.scheduler.preload", "distributed.worker.preload"):
        users = dask.config.get(name) or []
        preloads[name] = [*([users] if isinstance(users, str) else users), closed.__name__]
    with dask.config.set(preloads if chosen else {**preloads, ttl: SILENCE}):
        yield
