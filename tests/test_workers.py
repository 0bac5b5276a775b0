"""Work items on dask workers: a scheduler and three workers, each a process, on loopback."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from distributed import Client
from parameters import keep_params

from diffusegen_core.chapters import train
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.parallel import cards, fanout, machines, progress, ready, remote
from diffusegen_core.run import Run
from diffusegen_core.store import files, lock
from diffusegen_core.store.stamps import MAKING, contents, in_place
from diffusegen_core.store.workspace import Workspace

ANY_PORT = "127.0.0.1:0"
LITTLE = "diffusegen_core.parallel.remote"  # of the package, for workers that make nothing


@dataclass
class Machines:
    """A scheduler and its workers, as processes."""

    address: str
    scheduler: subprocess.Popen
    processes: dict[str, subprocess.Popen]  # of the workers, by name
    client: Client

    def doing(self, words: str, patience: float = 90) -> str:
        """The name of a worker that has begun an item with these words in its name; waits until one has."""
        stop = time.monotonic() + patience
        while time.monotonic() < stop:
            names = {where: w["name"] for where, w in self.client.scheduler_info(-1)["workers"].items()}
            doing = self.client.processing()
            for _, told in self.client.get_events(progress.TOPIC):
                key, where = told["item"], told["worker"]
                if "begun" in told and words in key and key in doing.get(where, ()):
                    return names[where]
            time.sleep(0.05)
        raise AssertionError(f"no worker did {words} within {patience} s")


@contextmanager
def start(folder: Path, names: str = "abc", silence: int = 60,
          preload: str = "diffusegen_core.run") -> Iterator[Machines]:
    """Workers of these names; one that says nothing for so many seconds is taken for lost."""
    contact = folder / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
                       [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
                   "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{silence}s"}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(contact)]
    started = [subprocess.Popen(dask, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    workers = {}
    try:
        for name in names:
            workers[name] = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(contact),
                 "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name,
                 "--memory-limit", "0", "--local-directory", str(folder / "dask"),
                 "--resources", f"{remote.DEVICE}=1",
                 # While it imports torch, a worker is silent for seconds.
                 "--preload", preload],
                env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started += workers.values()
        with Client(scheduler_file=str(contact), timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(len(names), timeout=400)
            yield Machines(client.scheduler.address, started[0], workers, client)
    finally:
        for process in started:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with start(tmp_path_factory.mktemp("machine")) as found:
        yield found


@pytest.fixture
def frail(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """A machine of a test's own, which may break it; the test may choose how it starts."""
    with start(tmp_path, **getattr(request, "param", {})) as found:
        yield found


def slow(nano: dict, folder: Path) -> Run:
    """A run whose models train for some seconds, so that there is a middle to disturb."""
    return Run(params.validate({
        **nano, "run_dir": str(folder), "data": {"count": 10, "image_size": 16},
        "train": {**nano["train"], "images": 320, "checkpoint_every": 20},
        "inpaint": {**nano["inpaint"], "samples": 3, "sources": 6, "respacing": 24, "resampling": 3}}))


def hashes(folder: Path) -> dict[str, str]:
    """The recorded hash of every finished artifact's files."""
    return {f"{place.relative_to(folder)}/{name}": sha256
            for place, stamp in in_place(folder) for name, sha256 in contents(stamp).items()}


@pytest.mark.parametrize("frail", [{"silence": 20}], indirect=True, ids=["20 s"])
def test_workers_make_what_one_process_makes_though_one_is_killed_and_one_falls_silent(
        frail: Machines, nano: dict, tmp_path: Path, one_thread: None, monkeypatch, caplog) -> None:
    alone, spread = slow(nano, tmp_path / "alone"), slow(nano, tmp_path / "spread")
    alone.make("inpaint")
    monkeypatch.setenv(fanout.SCHEDULER, frail.address)
    lost = []

    def disturb() -> None:
        folder = spread.folder / MAKING / "train" / "cluster-00"
        name = frail.doing("cluster-00")
        until(lambda: list(folder.glob(f"*/{train.CHECKPOINT}")), 90)
        frail.processes[name].kill()
        lost.append(name)
        name = frail.doing("phantom")
        frail.processes.pop(lost[0])
        frail.processes[name].send_signal(signal.SIGSTOP)
        lost.append(name)

    hand = threading.Thread(target=disturb, daemon=True)
    hand.start()
    made = spread.make("inpaint")
    hand.join()
    assert len(set(lost)) == 2
    assert hashes(spread.folder) == hashes(alone.folder)
    [pairs] = made.sets.values()
    assert not pairs.manifest["name"].duplicated().any()
    for name in lost:  # the log tells of both
        assert f"worker {name} on " in caplog.text
    assert caplog.text.count("was lost during it") >= 2, "on a busy machine others may seem to be silent"


def test_workers_carry_every_chapter(machine: Machines, finished: Path, nano_params: Params, monkeypatch,
                                     capfd) -> None:
    alone, spread = Run.open(finished), Run(nano_params)
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    spread.make("evaluate")
    for grid in ("segment", "augment"):
        made = spread.make(grid)
        assert len(made.images)
        assert made.images.equals(alone.read(grid).images)
    assert hashes(spread.folder) == hashes(alone.folder)
    shown = capfd.readouterr().err
    assert shown.count(f"Scheduler {machine.address}, 3 workers so far") == 1
    for item in ("cluster-01", "singan-phantom_00000", "2-Styled-Diff", "Real, from image 1", "Real-seed0"):
        assert f"{item}" in shown
    assert "worker a on" in shown


def test_what_is_to_be_shown_reaches_the_client(machine: Machines, nano: dict, tmp_path: Path,
                                                monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    seen = []
    found = fanout.run(shown, [fanout.Item("a", None, {"folder": tmp_path})], "Showing",
                       watch=lambda name, folder: seen.append((name, folder)))
    assert found == [tmp_path]
    assert seen == [("cluster-00", tmp_path)]


def shown(folder: Path) -> Path:
    progress.show("cluster-00", folder)
    return folder


def refused(text: str) -> None:
    raise UserError(text)


def nested(items: int) -> list[int]:
    return fanout.run(doubled, [fanout.Item(str(i), None, {"x": i}) for i in range(items)], "Inside")


def doubled(x: int) -> int:
    return 2 * x


def deadly() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_errors_and_results_come_as_from_this_process(machine: Machines, monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    assert fanout.run(doubled, [fanout.Item("x", None, {"x": x}) for x in range(7)], "Doubling") == [
        0, 2, 4, 6, 8, 10, 12]  # in their order, though all have one name
    assert fanout.run(nested, [fanout.Item("n", None, {"items": 3})], "Nested") == [[0, 2, 4]]
    with pytest.raises(UserError, match="the mask is missing"):
        fanout.run(refused, [fanout.Item("r", None, {"text": "the mask is missing"})], "Refusing")
    with pytest.raises(ZeroDivisionError):
        fanout.run(broken, [fanout.Item("b", None)], "Broken")


@pytest.mark.parametrize("there", [True, False], ids=["there", "not made yet"])
def test_a_worker_is_refused_whose_folder_is_another_of_the_same_name(
        machine: Machines, nano_params: Params, tmp_path: Path, monkeypatch, there: bool) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    folder, shared = nano_params.folder, tmp_path / "shared"
    item = fanout.Item("a", Run(nano_params).workspace, {"folder": folder})
    if there:
        folder.mkdir()
    assert fanout.run(listed, [item] * 4, "Seeing") == [1] * 4
    assert list(folder.iterdir()) == []
    # To this process the run's folder is another than to the workers; those are asked before an item is sent,
    # and, as one that comes late has not been, again by each item.
    write = files.write_text
    blind = f"worker [abc] on .* does not see the folder {folder}, or sees"
    for wrong in (lambda path, text: write(shared / path.name, text), lambda path, text: write(path, "old")):
        with monkeypatch.context() as patch:
            patch.setattr(ready.files, "write_text", wrong)
            patch.setattr(ready, "_asked", set())
            patch.setattr(remote, "_follow", lambda *_: pytest.fail("an item was sent"))
            with pytest.raises(UserError, match=blind):
                fanout.run(listed, [item], "Blind")
    with monkeypatch.context() as patch:
        patch.setattr(ready.files, "write_text", wrong)
        patch.setattr(ready, "refuse", lambda *_: None)
        with pytest.raises(UserError, match=blind):
            fanout.run(listed, [item], "Blind")
    assert list(folder.iterdir()) == []


def test_a_folder_that_a_worker_may_not_write_into_is_told_of(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "token").write_text("token")
    ready._refuse_own(tmp_path, "worker a", "token")
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(UserError, match=f"worker a may not write into the folder {tmp_path}"):
        ready._refuse_own(tmp_path, "worker a", "token")


def test_a_worker_that_cannot_load_the_code_is_told_of_in_a_line() -> None:
    told = ready.explained(ModuleNotFoundError("No module named\n'diffusegen_core'"), "tls://10.0.0.1:1")
    assert str(told).startswith("The worker at tls://10.0.0.1:1 cannot load this run's code: "
                                "ModuleNotFoundError: No module named 'diffusegen_core'. Start the scheduler")
    assert ready.explained(error := UserError("as it is"), "") is error


def test_a_busy_worker_is_not_waited_for_and_asks_itself(tmp_path: Path, monkeypatch) -> None:
    from distributed import LocalCluster
    monkeypatch.setattr(ready, "LOOK", 90)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, resources={"device": 1},
                      dashboard_address=ANY_PORT) as cluster, Client(cluster, set_as_default=False) as other:
        monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)
        busy = other.submit(time.sleep, 8)
        until(lambda: any(other.processing().values()), 30)
        start = time.monotonic()
        with remote.connect(cluster.scheduler_address) as client, ready.needs([]) as wanted:
            ready.refuse(client, remote._fit(client), wanted)
        assert time.monotonic() - start < 7
        ws = Workspace(tmp_path, device="cuda:7")
        with pytest.raises(UserError, match=r"worker 0 on .*: Parameters: device: cuda:7 is asked for"):
            fanout.run(listed, [fanout.Item("x", ws, {"folder": tmp_path})], "Late")
        busy.release()


def test_a_relative_run_folder_is_that_of_the_client(machine: Machines, nano: dict, tmp_path: Path,
                                                     monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    monkeypatch.chdir(tmp_path)  # the workers were started elsewhere, and have been nowhere else yet
    run = Run(params.validate({**nano, "run_dir": "relative"}))
    run.folder.mkdir()
    machine.client.run(os.chdir, "/")
    item = fanout.Item("w", run.workspace, {"run": run})
    assert fanout.run(where, [item], "Where") == [tmp_path.resolve() / "relative"]


def where(run: Run) -> Path:
    return run.folder


def test_workers_of_a_machine_take_the_card_that_fewest_others_have(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda card: SimpleNamespace(uuid=f"test {os.getpid()} {card}"))
    monkeypatch.setattr(cards, "_free", lambda: [1.0, 1.0])
    taken = [cards._taken([0, 1]) for _ in range(5)]
    assert [card for card, _ in taken] == [0, 1, 0, 1, 0]
    taken[1][1].close()  # as when a worker ends
    assert cards._taken([0, 1])[0] == 1
    named = [cards._taken([1]) for _ in range(3)]
    assert [card for card, _ in named] == [1, 1, 1], "a named card is that card, whoever has it"
    assert cards._taken([0, 1])[0] == 0


@pytest.mark.parametrize(("told", "chosen"), [
    ("GPU-c, 100\nGPU-b, 40000\nGPU-a, 0\nGPU-z, 90000\n", [1, 1, 1]),  # the last is not visible here
    ("GPU-c, 40000\nGPU-b, 40000\nGPU-a, 25000\n", [1, 2, 0]),
    ("GPU-c, 0\nGPU-b, 0\nGPU-a, 0\n", [0, 1, 2]),
    ("GPU-a, 9\n", [0, 1, 2]), ("GPU-a, [N/A]\nGPU-b, 9\nGPU-c, 9\n", [0, 1, 2]), ("", [0, 1, 2])])
def test_cards_are_shared_out_by_what_is_free(monkeypatch, told: str, chosen: list[int]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda card: SimpleNamespace(uuid=f"{os.getpid()}-{'abc'[card]}"))
    told = told.replace("GPU-", f"GPU-{os.getpid()}-")
    monkeypatch.setattr(cards, "_asked", lambda query: told)
    taken = [cards._taken(range(3)) for _ in chosen]
    assert [card for card, _ in taken] == chosen


def test_a_model_on_several_cards_takes_such_as_nobody_has(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda card: SimpleNamespace(uuid=f"apart {os.getpid()} {card}"))
    monkeypatch.setattr(cards, "_free", lambda: [100.0, 100.0, 25.0])
    taken = [cards._taken(range(3), alone=True) for _ in range(4)]
    assert [card for card, _ in taken] == [0, 1, 2, 0], "one that is nearly full before one that is taken"
    shared = [cards._taken(range(3)) for _ in range(1)]
    assert shared[0][0] == 1


def test_a_drivers_program_that_hangs_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(cards, "SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        cards._asked(["sleep", "60"])
    assert time.monotonic() - began < 30
    assert cards._asked(["echo", "GPU-a, 9"]) == "GPU-a, 9\n"
    with pytest.raises(subprocess.CalledProcessError):
        cards._asked(["false"])


def test_without_the_drivers_program_all_cards_are_alike(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("PATH", "")
    assert cards._free() == [1.0, 1.0]


@pytest.mark.parametrize(("device", "chosen"), [("auto", 7), ("cuda", 7), ("cuda:1", 1), ("cpu", None)])
def test_a_card_that_the_parameters_name_is_kept_and_a_warning_says_so_once(
        tmp_path: Path, monkeypatch, caplog, device: str, chosen: int | None) -> None:
    from distributed import LocalCluster
    ws, found = Workspace(tmp_path, device=device), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    monkeypatch.setattr(cards, "_hold", lambda named, count: (7 if named is None else named,))
    monkeypatch.setattr(remote, "_warned", set())
    for workers in (1, 2):
        with LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, resources={"device": 1},
                          dashboard_address=ANY_PORT) as cluster:
            monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)
            for _ in range(workers):
                fanout.run(listed, [fanout.Item("x", ws, {"folder": tmp_path})], "Card")
        warned = [line for line in caplog.messages if "cuda:1 is one GPU for all 2 workers" in line]
        assert len(warned) == (workers > 1 and chosen == 1)
    assert found == 3 * [chosen] * (chosen is not None)


def test_a_worker_with_other_code_is_refused(machine: Machines, monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    monkeypatch.setattr(ready, "CODE", "changed since the workers were started")
    monkeypatch.setattr(ready, "_asked", set())
    monkeypatch.setattr(remote, "_follow", lambda *_: pytest.fail("an item was sent"))
    with pytest.raises(UserError, match="another version of diffusegen"):
        fanout.run(doubled, [fanout.Item("x", None, {"x": 1})], "Other")


@pytest.mark.parametrize("frail", [{"names": "a", "preload": LITTLE}], indirect=True, ids=["one worker"])
def test_a_scheduler_that_is_lost_is_told_of(frail: Machines, monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, frail.address)

    def kill() -> None:
        frail.doing("slow")
        frail.scheduler.kill()

    hand = threading.Thread(target=kill, daemon=True)
    hand.start()
    with pytest.raises(UserError, match=r"scheduler was lost.*run the same command again"):
        fanout.run(own_pid, [fanout.Item("slow", None, {"seconds": 60})], "Slow")
    hand.join()


def test_workers_that_offer_nothing_are_told_of_though_they_come_late(monkeypatch, caplog) -> None:
    from distributed import LocalCluster
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False,
                      dashboard_address=ANY_PORT) as cluster:
        monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)

        def come() -> None:
            until(lambda: cluster.scheduler.tasks, 30)
            cluster.scale(1)
            until(lambda: cluster.scheduler.workers, 30)
            until(lambda: "No worker of the scheduler offers the resource device" in caplog.text, 30)
            cluster.new_spec["options"]["resources"] = {"device": 1}
            cluster.scale(2)

        hand = threading.Thread(target=come, daemon=True)
        hand.start()
        assert fanout.run(doubled, [fanout.Item("x", None, {"x": 1})], "Late") == [2]
        hand.join()


def test_where_no_worker_of_ones_own_comes_back_the_run_ends_and_says_so(monkeypatch) -> None:
    from distributed import LocalCluster
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    monkeypatch.setattr(remote, "LOST", 1.5)
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False,
                      dashboard_address=ANY_PORT) as cluster:
        monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)
        monkeypatch.setenv(remote.OWN, "1")
        with pytest.raises(UserError, match="All worker processes of this command have ended"):
            fanout.run(doubled, [fanout.Item("x", None, {"x": 1})], "Lost")


@pytest.mark.parametrize(("threads", "promised", "says"), [
    (4, "0", "has 4 threads; items draw"), (1, "2", "its job has 2 GPUs, and torch finds none"),
    (1, "0", "")])
def test_a_worker_that_came_late_asks_itself_what_the_command_would_have(
        monkeypatch, tmp_path: Path, threads: int, promised: str, says: str) -> None:
    mine = SimpleNamespace(name="w", state=SimpleNamespace(nthreads=threads))
    monkeypatch.setattr(ready, "get_worker", lambda: mine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(ready.PROMISED, promised)
    wanted = ready.Needs(tmp_path, frozenset(), "", frozenset({"auto"}), ready.CODE)
    with pytest.raises(UserError, match=says) if says else nullcontext():
        ready.check(wanted)


def until(true: Callable[[], object], patience: float) -> None:
    stop = time.monotonic() + patience
    while not true():
        assert time.monotonic() < stop, f"not within {patience} s"
        time.sleep(0.05)


def test_after_an_error_nothing_begins_and_what_goes_on_is_told(machine: Machines, tmp_path: Path,
                                                                monkeypatch, caplog) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    items = [fanout.Item("bad", None, {"folder": tmp_path}, cost=9)]
    items += [fanout.Item(f"item {i}", None, {"folder": tmp_path, "name": f"item {i}"}) for i in range(12)]
    with pytest.raises(UserError, match="no more"):
        fanout.run(until_stopped, items, "Stopping")
    told = set(caplog.text.partition("Workers are still at ")[2].partition("; each")[0].split(", "))
    (tmp_path / "stop").touch()
    assert fanout.run(doubled, [fanout.Item("x", None, {"x": 1})] * 6, "After") == [2] * 6
    until(lambda: told <= {path.name for path in tmp_path.iterdir()}, 30)
    # The worker that failed may have taken another before it was told.
    assert 2 <= len(told) <= len(list(tmp_path.glob("item *"))) <= 3


def until_stopped(folder: Path, name: str | None = None) -> None:
    """Note its name and go on until a file says stop; without a name, fail once two others are at it."""
    if name is None:
        until(lambda: len(list(folder.iterdir())) == 2, 30)
        raise UserError("no more")
    (folder / name).touch()
    until((folder / "stop").exists, 60)


def test_after_an_error_what_goes_on_stops_at_its_next_step(machine: Machines, nano_params: Params,
                                                            tmp_path: Path, monkeypatch) -> None:
    """On a scheduler of the user's own, whose workers nobody ends."""
    monkeypatch.setenv(fanout.SCHEDULER, machine.address)
    ws = Run(nano_params).workspace
    items = [fanout.Item(name, ws, {"folder": tmp_path, "name": name}) for name in ("", "x", "y")]
    with pytest.raises(UserError, match="no more"):
        fanout.run(stepping, items, "Stepping")
    until(lambda: {path.name for path in tmp_path.glob("*-given-up")} == {"x-given-up", "y-given-up"}, 60)
    assert fanout.run(doubled, [fanout.Item("x", None, {"x": 1})] * 6, "After") == [2] * 6


def stepping(folder: Path, name: str) -> None:
    """Do steps that never end, as a training has them; without a name, fail once two others are at it."""
    if not name:
        until(lambda: len(list(folder.glob("?"))) == 2, 60)
        raise UserError("no more")
    (folder / name).touch()
    try:
        with progress.bar(name, 10**9, "step") as bar:
            while True:
                time.sleep(0.05)
                bar.update()
    except Exception:  # as a grid keeps the traceback of an experiment that failed
        (folder / f"{name}-failed").touch()
    except progress.GivenUp:
        (folder / f"{name}-given-up").touch()
        raise


def broken() -> float:
    return 1 / 0


def listed(folder: Path) -> int:
    return len(list(folder.iterdir()))


@pytest.mark.parametrize("frail", [{"names": "ab", "preload": LITTLE}], indirect=True, ids=["two workers"])
def test_an_item_that_kills_its_workers_is_given_up(frail: Machines, monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, frail.address)
    frail.client.run_on_scheduler(set_allowed_failures, 1)
    with pytest.raises(UserError, match="glutton: several workers died while working on it"):
        fanout.run(deadly, [fanout.Item("glutton", None)], "Dying")


def set_allowed_failures(count: int, dask_scheduler: object) -> None:
    dask_scheduler.allowed_failures = count


def test_without_a_scheduler_nothing_of_dask_is_touched() -> None:
    code = ("import sys; from diffusegen_core.parallel import fanout; "
            "print(fanout.run(abs, [], 'x'), 'distributed' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={k: v for k, v in os.environ.items() if k != fanout.SCHEDULER})
    assert done.stdout.split() == ["[]", "False"]


@pytest.mark.parametrize(("ways", "message"), [
    ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "exclude each other"),
    ({"slurm": "jobs: 0"}, r"jobs: Input should be greater than 0"),
    ({"slurm": "job: 2"}, r"unknown key \(did you mean jobs\?\)"),
])
def test_machines_that_cannot_be_had_are_told_of(ways: dict, message: str, tmp_path: Path) -> None:
    if "slurm" in ways:
        file = tmp_path / "slurm.yaml"
        file.write_text(ways["slurm"])
        ways = {"slurm": file}
    with pytest.raises(UserError, match=message), machines.hold(tmp_path, **ways):
        pass


def test_workers_that_could_never_take_an_item_are_refused(monkeypatch) -> None:
    from distributed import LocalCluster
    for options, message in (({}, "offers the resource device"),
                             ({"resources": {"device": 1}, "threads_per_worker": 2}, "has 2 threads")):
        with LocalCluster(n_workers=1, processes=False, dashboard_address=ANY_PORT,
                          **{"threads_per_worker": 1, **options}) as cluster:
            monkeypatch.setenv(fanout.SCHEDULER, cluster.scheduler_address)
            with pytest.raises(UserError, match=message):
                fanout.run(doubled, [fanout.Item("x", None, {"x": 1})], "Refused")


def test_workers_of_this_machine_are_held_while_it_lasts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(fanout.SCHEDULER, raising=False)
    names = [*devices.THREADS, *devices.ALLOCATOR]
    before, ports = [os.environ.get(name) for name in names], listening()
    monkeypatch.setattr("dask.system.CPU_COUNT", 6)  # of a larger machine
    with machines.hold(tmp_path, workers=2) as held:
        assert held == 2
        found = fanout.run(own_pid, [fanout.Item(str(i), None, {"seconds": 0.5}) for i in range(4)], "Pids")
        pids, threads = zip(*found, strict=True)
        assert fanout.SCHEDULER in os.environ
        opened = listening() - ports
        assert {ip for ip, _ in opened} == {"127.0.0.1"}
        assert len(opened) == 1 + 2 * 2, "a scheduler, workers and their nannies; no HTTP server"
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert set(threads) == {"3"}
    assert fanout.SCHEDULER not in os.environ
    assert [os.environ.get(name) for name in names] == before


def own_pid(seconds: float) -> tuple[int, str]:
    time.sleep(seconds)
    return os.getpid(), os.environ["MKL_NUM_THREADS"]


def listening() -> set[tuple[str, int]]:
    """Addresses and ports at which this process and those that it started can be reached."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {(at.laddr.ip, at.laddr.port) for process in processes for at in process.net_connections()
            if at.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_the_benchmark_of_the_fan_out_measures_and_simulates(
        finished: Path, nano_params: Params, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv(fanout.SCHEDULER, raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    bench = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "fanout.py"))
    p, run = nano_params, Run(nano_params)
    with lock.hold(run.folder):
        keep_params(run)
    with pytest.raises(UserError, match="has no finished item"):
        bench["run"](["--run", str(p.folder), "--out", str(tmp_path / "out.json")])
    for part in ("data", "cluster", "train", "inpaint", "gan"):
        shutil.copytree(finished / part, p.folder / part)
    files.write_text(p.folder / "augment" / "generators.csv", "size,seed,seconds\n4,0,1.5\n4,1,2\n")
    every = list(bench["measured"](p.folder))
    assert [name for name, _ in every] == ["cluster", "train", "inpaint", "gan", "evaluate", "augment"]
    assert len(dict(every)["gan"]) == p.gan.sources
    assert dict(every)["augment"] == [1.5, 2]
    options = ["--items", "4", "--seconds", "0.01", "--rounds", "1", "--workers", "1", "--device", "cpu",
               "--params", str(p.folder / "params.yaml"), "--times", "3"]
    found = bench["run"]([*options, "--run", str(p.folder), "--out", str(tmp_path / "out.json")])
    assert (found["params"]["profile"], found["options"]["times"]) == ("nano", 3)
    assert files.read_json(tmp_path / "out.json")["options"] == found["options"]
    assert [row["workers"] for row in found["overhead"]] == [0, 1]
    assert all(0 < row["share_of_a_minute"] < 0.02 for row in found["overhead"])
    assert [row["models"] for row in found["scaling"]] == [2]
    first, *_, last = found["plan"]["rows"]
    assert (first["workers"], last["workers"]) == (1, 64)
    assert first["seconds"] == pytest.approx(sum(
        sum(seconds) * (3 if len(seconds) > 1 else 1) for _, seconds in bench["measured"](p.folder)))
    assert 1 < last["speed_up"] < 64
    assert "A simulation, not a measurement" in capsys.readouterr().out
    assert bench["makespan"]([5, 4, 3, 3, 3], 2) == 10  # longest first, which is not the best: 9
