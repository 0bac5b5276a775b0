"""A worker that has hung at an item ends itself; one that computes, reads or waits for a process does not."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster

from diffusegen_core.parallel import ready, silence, stuck

LINUX = pytest.mark.skipif(stuck._work(os.getpid()) is None, reason="this system tells nothing of a thread")
PROGRAM = """
import os, subprocess, sys, threading, time
from pathlib import Path
from diffusegen_core.parallel import ready, silence, stuck
silence.SILENCE, silence.LOOK = 1.0, 0.1
with stuck.ended("cluster-00", Path(sys.argv[1])):
    {work}
time.sleep(2)  # now nobody watches
"""
# Each for twice as long as silence may last.
WORK = {"computing": "end = time.monotonic() + 2\n    while time.monotonic() < end: pass",
        "reading": "for _ in range(20):\n        open('/dev/zero', 'rb').read(2**20); time.sleep(0.1)",
        "a process computes": "subprocess.run([sys.executable, '-c', 'import time; t = time.monotonic()\\n'"
                              " 'while time.monotonic() < t + 2: pass'])"}
HANG = {"a lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "beside a busy thread": "threading.Thread(target=lambda: [time.sleep(1e-4) for _ in iter(int, 1)], "
                                "daemon=True).start(); threading.Event().wait()",
        "a process that hangs": "subprocess.run(['sleep', '61'], stdout=-3, stderr=-3)"}


def run(work: str, stacks: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM.format(work=work), str(stacks)], text=True,
                          capture_output=True, timeout=120)


@LINUX
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_who_works_is_left_alone(work: str, tmp_path: Path):
    assert run(work, tmp_path / "stacks.txt").returncode == 0
    assert not (tmp_path / "stacks.txt").exists()


@LINUX
@pytest.mark.parametrize("work", HANG.values(), ids=HANG)
def test_who_hangs_is_ended_and_where_it_stood_is_told(work: str, tmp_path: Path):
    done = run(work, tmp_path / "failed" / "cluster-00.stacks.txt")
    assert done.returncode == 1
    assert "cluster-00 has done nothing for 1 s" in done.stderr
    told = (tmp_path / "failed" / "cluster-00.stacks.txt").read_text()
    assert "cluster-00, worker " in told
    assert 'File "<string>", line ' in told
    assert not [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "61"]]


@LINUX
def test_stacks_are_not_written_through_a_link(tmp_path: Path):
    (tmp_path / "stacks.txt").symlink_to(tmp_path / "profile")
    assert run(HANG["a lock"], tmp_path / "stacks.txt").returncode == 1
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(("wchan", "waits"), [
    ("request_wait_answer", True), ("fuse_simple_request", True), ("futex_wait_queue", False), ("0", False),
    (None, False)])
def test_a_file_system_that_is_a_program_is_waited_for(wchan: str | None, waits: bool, tmp_path: Path):
    if wchan is not None:
        (tmp_path / "wchan").write_text(wchan)
    assert silence.waits_for_files(tmp_path) == waits


def shares() -> bool:
    return ready.shares_its_process()


@pytest.mark.parametrize("processes", [True, False])
def test_a_process_that_is_not_the_workers_alone_is_not_ended(processes: bool):
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=processes, dashboard_address="127.0.0.1:0",
                      host="127.0.0.1" if processes else None) as cluster, Client(cluster) as client:
        assert client.submit(shares, pure=False).result(120) is not processes
