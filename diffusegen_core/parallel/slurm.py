"""Workers in jobs of Slurm, which are checked before they are submitted, and replaced when they end."""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
from distributed import Scheduler, SchedulerPlugin
from pydantic import Field, PositiveInt

from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.section import Section
from diffusegen_core.parallel import closed, progress
from diffusegen_core.parallel.ready import PROMISED

INTERRUPT = signal.getsignal(signal.SIGINT)
from dask_jobqueue.slurm import SLURMCluster, SLURMJob  # noqa: E402

# On import the library takes over Ctrl-C, after which a run would end as if all were well.
signal.signal(signal.SIGINT, INTERRUPT)

log = logging.getLogger(__name__)

WALLTIMES = 50  # jobs that may end while they do one and the same item
PAUSE = 10.0  # seconds between looks at the queue
LONGEST = 600.0  # most seconds between looks, while job after job ends at once
FRUITLESS = 6  # looks at jobs that have ended, with no worker meanwhile, until no more are submitted
NEVER = "3650 days"
ANSWERED = 300  # seconds after which no answer of Slurm is expected any more
ORPHANED = 60  # seconds until a worker that finds no scheduler ends
# Lines of a job, so that its workers import nothing from the folder that it was submitted in, nor from a
# scratch folder that somebody else has made.
OWN = ("export PYTHONSAFEPATH=1", 'DASK_TEMPORARY_DIRECTORY="$(mktemp -d)" || exit 1',
       "export DASK_TEMPORARY_DIRECTORY",
       """trap 'rm -rf "$DASK_TEMPORARY_DIRECTORY"' EXIT""")


class Slurm(Section):
    """A job of Slurm that holds workers, and how many such jobs."""

    jobs: PositiveInt = Field(1, le=1000, description="jobs that are kept running, each on a node")
    workers: PositiveInt = Field(
        1, le=256, description="workers of a job, each does one item at a time; they share out the job's "
                               "GPUs")
    partition: str | None = Field(None, description="null: Slurm's default")
    account: str | None = None
    time: str = Field("24:00:00", description="walltime of a job, in quotes; the next goes on where it ended")
    gpus: int = Field(1, ge=0, description="GPUs of a job")
    cpus: PositiveInt = Field(8, description="processor cores of a job")
    memory: str | None = Field("64GB", description="of a job; null if Slurm does not know its nodes' memory")
    options: list[str] = Field([], description="further options of sbatch, such as --constraint=a100")
    before: list[str] = Field([], description="lines of the job before its workers, such as module load cuda")
    interface: str | None = Field(
        None, description="network interface of scheduler and workers, such as ib0; null: the first")
    log_folder: str | None = Field(None, description="where Slurm's logs go; null: the working folder")


@contextlib.contextmanager
def hold(file: Path, variables: Mapping[str, str], cards: int = 1) -> Iterator[str]:
    """Keep a scheduler here, and jobs as the file describes them, while this lasts; gives its address.

    The jobs get the environment variables, by which their workers find the certificate. A job that ends, in
    whatever way, is replaced, unless one after another ends before its workers come: then whoever waits for
    workers gets a UserError. At the end the jobs are cancelled; if nobody is left to do so, they end by
    themselves. Raises UserError if Slurm is not here or refuses such a job, and if a job has too few GPUs for
    its workers with `cards` cards each.
    """
    settings = params.typed(Slurm, params.load(file), str(file))
    if elsewhere := next((one for one in settings.options if one.startswith(("-M", "--cluster"))), None):
        raise UserError(f"{file}: options: {elsewhere}: jobs of another cluster than Slurm's default cannot "
                        "be watched or cancelled. Submit the command itself there, with --workers.")
    needed = cards * settings.workers
    if cards > 1 and 0 < settings.gpus < needed:
        raise UserError(f"{file}: gpus: a job has {settings.gpus}, and {needed} are needed for workers: "
                        f"{settings.workers} and train.devices: {cards}. Set gpus: {needed}.")
    # Every job that ends at its walltime counts as a failure of the item that it was doing. And Dask must not
    # give up a job because its worker is away, as during a restart: `_keep` looks whether the job is there.
    patience = {"distributed.scheduler.allowed-failures": WALLTIMES,
                "distributed.deploy.lost-worker-timeout": NEVER}
    with dask.config.set(patience), _cluster(settings, file, variables, cards) as cluster:
        _refuse(cluster.job_script(), file)
        arrivals, stop = _Arrivals(), threading.Event()
        cluster.scheduler.add_plugin(arrivals)
        cluster.scale(jobs=settings.jobs)
        keeper = threading.Thread(target=_keep, daemon=True, args=(
            cluster, arrivals, Path(settings.log_folder or "").resolve(), stop))
        keeper.start()
        try:
            yield cluster.scheduler_address
        finally:
            stop.set()
            keeper.join(ANSWERED)  # and no longer, if Slurm does not answer


def _cluster(s: Slurm, file: Path, variables: Mapping[str, str], cards: int) -> SLURMCluster:
    """The scheduler, with the settings of its jobs. Raises UserError for impossible values in the file."""
    try:
        if s.log_folder:
            Path(s.log_folder).mkdir(parents=True, exist_ok=True)
        return _started(s, variables, cards)
    # Raised for the memory, the network interface and the folder, in this order.
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{file}: {_line(str(error))}") from None


def _started(s: Slurm, variables: Mapping[str, str], cards: int) -> SLURMCluster:
    asked = [f"--gres=gpu:{s.gpus}"] if s.gpus else []
    if s.log_folder:
        asked.append(f'--output="{s.log_folder}/slurm-%j.out"')
    threads = str(max(1, s.cpus // s.workers))
    exported = {**dict.fromkeys(devices.THREADS, threads), **devices.ALLOCATOR, **variables,
                PROMISED: str(s.gpus)}
    return _Jobs(
        python=shlex.quote(sys.executable),  # which goes into the job's script as it is
        queue=s.partition, account=s.account, walltime=s.time, cores=s.workers, processes=s.workers,
        job_cpu=s.cpus, memory=s.memory or "1GB", job_directives_skip=[] if s.memory else ["--mem="],
        # Slurm itself enforces the memory limit.
        worker_extra_args=["--resources", f"device={cards}", "--no-dashboard", "--memory-limit", "0",
                           "--preload", closed.__name__],
        death_timeout=ORPHANED, job_name="diffusegen", job_extra_directives=[*asked, *s.options],
        job_script_prologue=[*s.before, *(f"export {k}={shlex.quote(v)}" for k, v in exported.items()), *OWN],
        # The certificate is in Dask's settings, here and in the job.
        interface=s.interface, protocol="tls://",
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"})


def _refuse(script: str, file: Path) -> None:
    """Raise UserError if Slurm would not take such a job."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as job:
        job.write(script)
        job.flush()
        try:
            subprocess.run(["sbatch", "--test-only", job.name], check=True, capture_output=True, text=True,
                           timeout=ANSWERED)
        except FileNotFoundError:
            raise UserError("There is no sbatch here: --slurm needs a machine that can submit jobs to "
                            "Slurm.") from None
        except subprocess.TimeoutExpired:
            raise UserError(f"Slurm has not answered sbatch for {ANSWERED} seconds. Run the same command "
                            "again when Slurm is back.") from None
        except subprocess.CalledProcessError as error:
            raise UserError(f"{file}: Slurm refuses such a job: {_line(error.stderr)}") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a command that leads a session, and what it started: a wrapper's child would hold its output."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):  # not even a kill ends what waits for a dead file system
        await asyncio.wait_for(process.communicate(), 5)


class _Job(SLURMJob):
    """A job of Slurm whose commands do not wait for an answer for ever."""

    @staticmethod
    async def _call(cmd: list[str], **options: Any) -> str:
        """The output of a command. Raises RuntimeError if it fails, or is silent, and leaves nothing."""
        process = await asyncio.create_subprocess_exec(*cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                                       start_new_session=True, **options)
        try:
            out, err = await asyncio.wait_for(process.communicate(), ANSWERED)
        except TimeoutError:
            raise RuntimeError(f"{cmd[0]} has not answered for {ANSWERED} seconds") from None
        finally:
            if process.returncode is None:
                await _end(process)
        if process.returncode:
            raise RuntimeError(f"{shlex.join(cmd)} ended with code {process.returncode}: {err.decode()}")
        return out.decode()


class _Jobs(SLURMCluster):
    """A scheduler with such jobs."""

    job_cls = _Job


class _Arrivals(SchedulerPlugin):
    """Whether workers have come, also those that were lost between two looks."""

    def __init__(self) -> None:
        self.seen = False

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self.seen = True


def _keep(cluster: SLURMCluster, arrivals: _Arrivals, logs: Path, stop: threading.Event) -> None:
    """Look at the queue until told to stop, ever more rarely while each look finds something to mend. If
    FRUITLESS looks find ended jobs and no worker, tell those that wait for one instead."""
    pause, fruitless, last = PAUSE, 0, ""
    scheduler = cluster.scheduler
    assert scheduler is not None, "it is in this process"
    while fruitless < FRUITLESS and not stop.wait(pause):
        mended = True
        try:
            mended, ended = cluster.sync(_replace, cluster, logs)
            last = ended or last
            if arrivals.seen or scheduler.workers:
                fruitless, arrivals.seen = 0, False
            elif ended:
                fruitless += 1
        except Exception as error:  # a command of Slurm failed, or its output was not understood
            log.warning("Slurm: %s", _line(str(error)))
        pause = min(2 * pause, LONGEST) if mended else PAUSE
    while not stop.wait(PAUSE):  # again and again, as a chapter that begins later has not heard it
        scheduler.log_event(progress.TOPIC, {"hopeless": (
            "Job after job of Slurm ends before its workers come; the log of the last one may say why: "
            f"{last}. Finished work is on disk; run the same command again to continue.")})


async def _replace(cluster: SLURMCluster, logs: Path) -> tuple[bool, str]:
    """Submit another job for each that is no longer in the queue. Returns whether there was one, and the log
    of the last that had been in the queue, or ""."""
    jobs = dict(cluster.workers)  # before the queue is asked: a job that comes later is not in the answer
    queue = (await cluster.job_cls._call(["squeue", "--me", "--noheader", "--format=%i"])).split()
    ended = [name for name, job in jobs.items() if job.job_id not in queue and name in cluster.workers]
    last = ""
    for name in ended:
        job = cluster.workers.pop(name)
        if job.job_id:
            last = str(logs / f"slurm-{job.job_id}.out")
            log.warning("Job %s of Slurm has ended; its log is %s. Another takes its place.", job.job_id,
                        last)
    await cluster
    return bool(ended), last


def _line(text: str) -> str:
    return " ".join(text.split())
