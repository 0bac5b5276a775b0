"""Work items in jobs of a real Slurm: its daemons on loopback, one node, in a folder of the test."""

import asyncio
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dask
import psutil
import pytest
from test_workers import hashes

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.parallel import fanout, machines, tls
from diffusegen_core.run import Run
from diffusegen_core.store.stamps import MAKING

SYSTEM = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # where Debian has daemons
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=SYSTEM)]
needs_slurm = pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)}")

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName=here NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=here Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[str]]]:
    """Slurm, running; a function that gives the numbers of the jobs in its queue."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    config = folder / "slurm.conf"
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    config.write_text(CONFIG.format(folder=folder, user=user, ports=free_ports(2),
                                    host=socket.gethostname().partition(".")[0]))
    daemons = []

    def start(*command: str) -> None:
        program = shutil.which(command[0], path=SYSTEM)
        with (folder / f"{command[0]}.log").open("w") as log:
            daemons.append(subprocess.Popen([program, *command[1:]], stdout=log, stderr=log, cwd=folder))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(config))
        tests = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(tests))
        patch.setenv("OMP_NUM_THREADS", "1")
        try:
            start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
                  f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid",
                  f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed")
            until(lambda: (folder / "munge.socket").exists(), 10)
            start("slurmctld", "-D", "-f", str(config))
            start("slurmd", "-D", "-f", str(config))
            until(lambda: "idle" in said("sinfo", "--noheader", "--format=%t"), 20)
            yield lambda: said("squeue", "--noheader", "--format=%i").split()
        finally:
            said("scancel", "--me")
            stop = time.monotonic() + 10
            while said("squeue", "--noheader") and time.monotonic() < stop:
                time.sleep(0.1)
            for daemon in daemons:
                daemon.kill()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout


def until(true: Callable[[], object], patience: float) -> None:
    stop = time.monotonic() + patience
    while not true():
        assert time.monotonic() < stop, f"not within {patience} s"
        time.sleep(0.1)


@pytest.fixture
def described(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Writes the file of --slurm, with other lines than the usual."""
    from diffusegen_core.parallel import slurm
    monkeypatch.setattr(slurm, "PAUSE", 0.5)
    monkeypatch.delenv(fanout.SCHEDULER, raising=False)

    def write(**changes: str) -> Path:
        values = {"gpus": "0", "cpus": "1", "memory": "null", "time": "'10'", "interface": "lo",
                  "log_folder": str(tmp_path / "logs"), **changes}
        file = tmp_path / "slurm.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return file

    return write


def job_and_threads(seconds: float = 0.0) -> tuple[str, str, int]:
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"], os.environ["MKL_NUM_THREADS"], os.getpid()


def items(count: int, **arguments: object) -> list[fanout.Item]:
    return [fanout.Item(f"item {i}", None, arguments) for i in range(count)]


def test_ctrl_c_stays_what_it_was() -> None:
    code = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from diffusegen_core.parallel import slurm\n"
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@needs_slurm
def test_jobs_do_what_one_process_does_though_one_is_cancelled(
        queue: Callable[[], list[str]], described: Callable[..., Path], nano: dict, tmp_path: Path,
        one_thread: None, caplog) -> None:
    alone, spread = (Run(params.validate({
        **nano, "run_dir": str(tmp_path / name),
        "train": {**nano["train"], "images": 200, "checkpoint_every": 10}})) for name in ("alone", "spread"))
    alone.make("train")
    with machines.hold(tmp_path, slurm=described()):
        found = fanout.run(job_and_threads, items(5), "Where")
        [(job, threads, _)] = set(found)
        assert (job, threads) == (queue()[0], "1")

        def disturb() -> None:
            folder = spread.folder / MAKING / "train" / "cluster-00"
            until(lambda: list(folder.glob("*/checkpoint.safetensors")), 120)
            said("scancel", job)

        hand = threading.Thread(target=disturb, daemon=True)
        hand.start()
        spread.make("train")
        hand.join()
        [other] = queue()
        assert other != job
    assert hashes(spread.folder) == hashes(alone.folder)
    assert "was lost during it" in caplog.text
    assert f"Job {job} of Slurm has ended" in caplog.text
    assert (tmp_path / "logs" / f"slurm-{job}.out").is_file()
    until(lambda: not queue(), 20)


@needs_slurm
def test_a_job_that_ends_before_its_worker_comes_is_replaced(
        queue: Callable[[], list[str]], described: Callable[..., Path], tmp_path: Path, caplog) -> None:
    mark = tmp_path / "mark"
    before = f"['test -e {mark} || {{ touch {mark}; exit 1; }}']"
    with machines.hold(tmp_path, slurm=described(before=before)):
        fanout.run(job_and_threads, items(1), "Where")
    assert caplog.text.count("of Slurm has ended") == 1


@needs_slurm
def test_a_run_ends_whose_jobs_all_end_before_a_worker_comes(
        queue: Callable[[], list[str]], described: Callable[..., Path], tmp_path: Path, monkeypatch) -> None:
    from diffusegen_core.parallel import slurm
    monkeypatch.setattr(slurm, "FRUITLESS", 2)
    with pytest.raises(UserError, match=r"Job after job of Slurm ends .*: (\S+)\. Finished work") as caught, \
            machines.hold(tmp_path, slurm=described(before="[echo No such module., exit 1]")):
        fanout.run(job_and_threads, items(1), "Where")
    [log] = [word.rstrip(".") for word in str(caught.value).split() if word.startswith("/")]
    assert Path(log).read_text() == "No such module.\n"
    until(lambda: not queue(), 20)


def test_jobs_end_fruitlessly_only_while_there_is_no_worker(monkeypatch) -> None:
    from diffusegen_core.parallel import slurm
    monkeypatch.setattr(slurm, "PAUSE", 0.01)
    arrivals, stop, told = slurm._Arrivals(), threading.Event(), []
    # Of each look: whether a worker came and went before it, and how many are there.
    looks = iter([(False, 0)] * 5 + [(True, 0)] + [(False, 0)] * 5 + [(False, 1)] + [(False, 0)] * 6)

    class Cluster:
        def __init__(self) -> None:
            self.scheduler, self.looks = self, 0

        def sync(self, *arguments: object) -> tuple[bool, str]:
            self.looks += 1
            arrivals.seen, workers = next(looks)
            self.workers = dict.fromkeys(range(workers))
            return True, f"slurm-{self.looks}.out"

        def log_event(self, topic: str, message: dict[str, str]) -> None:
            told.append(message["hopeless"])
            if len(told) == 2:
                stop.set()

    monkeypatch.setattr(slurm, "LONGEST", 0.01)
    slurm._keep(Cluster(), arrivals, Path(), stop)
    assert next(looks, None) is None
    assert all("slurm-18.out" in each for each in told)


def test_a_checkout_below_a_folder_with_a_space_starts_its_workers(described: Callable[..., Path],
                                                                  tmp_path: Path, monkeypatch) -> None:
    from diffusegen_core.parallel import slurm
    monkeypatch.setattr(sys, "executable", "/opt/my work/.venv/bin/python")
    settings = params.typed(slurm.Slurm, params.load(described()), "")
    with tls.temporary(tmp_path, shared=False), slurm._cluster(settings, Path(), {}, 1) as cluster:
        assert "\n'/opt/my work/.venv/bin/python' -m distributed.cli.dask_worker " in cluster.job_script()
        assert cluster.job_cls is slurm._Job


@needs_slurm
def test_jobs_whose_run_was_killed_end_by_themselves(
        queue: Callable[[], list[str]], described: Callable[..., Path], tmp_path: Path) -> None:
    code = (f"import test_slurm as t; from pathlib import Path; folder = Path({str(tmp_path)!r})\n"
            "from diffusegen_core.parallel import fanout, machines\n"
            f"with machines.hold(folder, slurm=Path({str(described(workers='2', cpus='2'))!r})):\n"
            "    fanout.run(t.endless, t.items(2, folder=folder), 'Endless')\n")
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until(lambda: len(list(tmp_path.glob("worker-*"))) == 2, 400)  # of one job
    assert len(queue()) == 1
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not queue(), 120)  # 35 s where nothing else runs


def endless(folder: Path) -> None:
    (folder / f"worker-{os.getpid()}").touch()
    while True:
        time.sleep(0.1)


@needs_slurm
def test_an_interrupted_run_leaves_no_job(queue: Callable[[], list[str]], described: Callable[..., Path],
                                          tmp_path: Path) -> None:
    def interrupted() -> None:
        with machines.hold(tmp_path, slurm=described(jobs="2")):
            until(lambda: len(queue()) == 2, 20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    until(lambda: not queue(), 20)


@needs_slurm
@pytest.mark.parametrize(("changes", "message"), [
    ({"memory": "64GB"}, "Requested node configuration is not available"),
    ({"partition": "none"}, "invalid partition"),
    ({"time": "a while"}, "Invalid --time"),
])
def test_what_slurm_refuses_is_said_before_the_run(
        queue: Callable[[], list[str]], described: Callable[..., Path], changes: dict, message: str) -> None:
    file = described(**changes)
    with pytest.raises(UserError, match=f"{file}: Slurm refuses such a job: .*{message}"), \
            machines.hold(file.parent, slurm=file):
        pass
    assert fanout.SCHEDULER not in os.environ
    assert not queue()


@pytest.mark.parametrize("option", ["--clusters=far", "-Mfar"])
def test_jobs_of_another_cluster_which_nobody_could_watch_are_refused(described: Callable[..., Path],
                                                                      option: str) -> None:
    file = described(options=[option])
    with pytest.raises(UserError, match=f"{option}: jobs of another cluster"), \
            machines.hold(file.parent, slurm=file):
        pass


@pytest.mark.parametrize("name", ["workers", "jobs"])
def test_numbers_that_no_cluster_has_are_refused(described: Callable[..., Path], name: str) -> None:
    file = described(**{name: "1000000000000"})
    with pytest.raises(UserError, match=f"{name}: .*less than or equal to"), \
            machines.hold(file.parent, slurm=file):
        pass


@pytest.mark.parametrize("failed", [OSError("Cannot allocate memory"), ValueError("no job id")])
def test_a_command_of_slurm_that_fails_does_not_end_the_looking(monkeypatch, caplog,
                                                               failed: Exception) -> None:
    from diffusegen_core.parallel import slurm
    stop = threading.Event()

    class Cluster:
        scheduler = SimpleNamespace(workers={})

        def sync(self, *arguments: object) -> tuple[bool, str]:
            if not caplog.text:
                raise failed
            stop.set()
            return False, ""

    monkeypatch.setattr(slurm, "PAUSE", 0.01)
    slurm._keep(Cluster(), slurm._Arrivals(), Path(), stop)
    assert f"Slurm: {failed}" in caplog.text


@pytest.mark.parametrize(("changes", "message"), [
    ({"interface": "ib9"}, "'ib9' is not a valid network interface"), ({"memory": "lots"}, "'lots'"),
    ({"log_folder": "/dev/null/logs"}, "/dev/null/logs")])
def test_a_file_that_no_job_can_be_made_of_is_named(described: Callable[..., Path], changes: dict,
                                                    message: str) -> None:
    file = described(**changes)
    with pytest.raises(UserError, match=f"^{file}: .*{message}") as caught, \
            machines.hold(file.parent, slurm=file):
        pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch) -> None:
    """Commands of Slurm that never answer."""
    from diffusegen_core.parallel import slurm
    for name in ("sbatch", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "ANSWERED", 0.2)


def test_a_silent_sbatch_is_told_before_the_run(silent: None, described: Callable[..., Path],
                                                tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Slurm has not answered sbatch for 0\.2 seconds\. Run the same"), \
            machines.hold(tmp_path, slurm=described()):
        pass


def test_a_silent_squeue_is_not_waited_for(silent: None) -> None:
    from diffusegen_core.parallel import slurm
    with pytest.raises(RuntimeError, match=r"squeue has not answered for 0\.2 seconds"):
        asyncio.run(slurm._Job._call(["squeue", "--me"]))


def test_nothing_is_left_of_a_squeue_that_was_silent(tmp_path: Path, monkeypatch) -> None:
    """It may be a script with a child, which would keep the output of the first open."""
    from diffusegen_core.parallel import slurm
    children = tmp_path / "children"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > {children}\nwait\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "ANSWERED", 1)
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with pytest.raises(RuntimeError, match="squeue has not answered"):
        asyncio.run(slurm._Job._call(["squeue"]))
    gc.collect()  # what is still open complains now that its loop is closed
    assert not told
    started = children.read_text().split()
    assert len(started) == 2
    for _ in range(100):
        if not any(_runs(pid) for pid in started):
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def _runs(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE  # an orphan may wait for its reaper
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("ended", [0, 3])
def test_what_a_command_of_slurm_says(ended: int, tmp_path: Path, monkeypatch) -> None:
    from diffusegen_core.parallel import slurm
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho 17 $1\necho no route >&2\nexit {ended}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if ended:
        with pytest.raises(RuntimeError, match="squeue --me ended with code 3: no route"):
            asyncio.run(slurm._Job._call(["squeue", "--me"]))
    else:
        assert asyncio.run(slurm._Job._call(["squeue", "--me"])) == "17 --me\n"


def test_the_page_says_how_many_workers_one_item_may_kill() -> None:
    from diffusegen_core.parallel import slurm
    page = " ".join((Path(__file__).parents[1] / "book" / "on_a_server.md").read_text().split())
    usual = {3: "four"}[dask.config.get("distributed.scheduler.allowed-failures")]
    assert f"has killed {usual} workers (with `--slurm` {slurm.WALLTIMES + 1}, because" in page


def test_where_there_is_no_slurm_that_is_said(described: Callable[..., Path], monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no sbatch here"), machines.hold(Path(), slurm=described()):
        pass
