"""TLS among scheduler, workers and clients: who is refused, what lies where, and for how long."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from test_workers import doubled

from diffusegen_core.config.errors import UserError
from diffusegen_core.parallel import fanout, machines, remote, tls
from diffusegen_core.store import lock

NOBODY = 65534  # a user who owns nothing
TOLD = "distributed.comm.tls.client.key"


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch) -> None:
    for name in (fanout.SCHEDULER, tls.INSECURE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a scheduler with a worker, as a run starts them, and the run's folder."""
    folder = tmp_path_factory.mktemp("run")
    # Workers within this process, of other tests, have left their folders where it imports from.
    sys.path[:] = [place for place in sys.path if "dask-scratch" not in place]
    with machines.hold(folder, workers=1):
        yield os.environ[fanout.SCHEDULER], folder


def places() -> tuple[list[str], str]:
    """Where a process imports from, and Dask's folder there."""
    return sys.path, dask.config.get("temporary-directory")


def test_nothing_is_imported_from_where_others_can_write(held: tuple[str, Path]) -> None:
    with remote.connect(held[0]) as client:
        told = [places(), *client.run(places).values(), client.run_on_scheduler(places)]
    assert len(told) == 3
    for path, scratch in told:
        assert Path(tempfile.gettempdir(), "dask-scratch-space") not in [Path(place) for place in path]
        for place in path:
            if "dask-scratch" in place:
                assert Path(place).is_relative_to(scratch)
        assert stat.S_IMODE(Path(scratch).stat().st_mode) == 0o700


def test_a_chapter_that_is_started_again_still_reaches_the_workers(held: tuple[str, Path]) -> None:
    """What is removed in the middle of a run leaves the certificate there, and half-written files not."""
    address, folder = held
    (folder / f"{lock.files.WRITING}half").touch()
    lock.clear(folder)
    assert len(secrets(folder)) == 2
    with remote.connect(address) as client:
        assert client.submit(abs, -2).result(60) == 2


@pytest.mark.parametrize(("mode", "reason"), [(0o770, "others can write in it"), (0o707, "others can write")])
def test_a_key_does_not_lie_where_others_can_exchange_it(tmp_path: Path, mode: int, reason: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(mode)
    with pytest.raises(UserError, match=f"{run} cannot hold the key.*{reason}"), \
            tls.temporary(run, shared=True):
        pass
    with tls.temporary(run, shared=False) as variables:
        assert secrets(run) == []
        place = Path(variables["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"]).parent
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    run.chmod(0o750)
    with tls.temporary(run, shared=True):
        assert len(secrets(run)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="a folder can only be given away by root")
def test_a_key_does_not_lie_in_another_users_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(UserError, match="it belongs to somebody else"), tls.temporary(tmp_path, shared=True):
        pass


def secrets(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def answer(address: str, certificate: Path | None = None, key: Path | None = None) -> str:
    """What a client gets to hear after the handshake, "" for nothing at all, or the kind of its error."""
    host, port = address.removeprefix("tls://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, key)
    try:
        with socket.create_connection((host, int(port)), 60) as plain, context.wrap_socket(plain) as spoken:
            return "heard" if spoken.recv(8) else ""
    except ssl.SSLError as error:
        return str(error.reason)


def test_who_has_no_certificate_is_refused(held: tuple[str, Path]) -> None:
    address, folder = held
    certificate, key = secrets(folder)
    assert answer(address, certificate, key) == "heard"
    assert "CERTIFICATE_REQUIRED" in answer(address)
    with pytest.raises(OSError, match=r"(?i)cert"):
        Client(address, security=Security.temporary(), timeout="5s", set_as_default=False)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 60) as plain:
        plain.sendall(bytes(64))
        with contextlib.suppress(ConnectionResetError):
            assert b"compression" not in plain.recv(10_000), "the first word of Dask's own"
    assert fanout.run(doubled, [fanout.Item("x", None, {"x": 2})], "Doubling") == [4]


def as_nobody(address: str, folder: Path, told: "multiprocessing.SimpleQueue[dict]") -> None:
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        reads = []
        with contextlib.suppress(PermissionError):
            os.chmod(folder, 0o777)
            reads.append("the folder is opened")
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                reads.append(str(path.read_bytes() and path))
        told.put({"answer": answer(address), "reads": reads})
    except Exception as error:  # else nobody would ever hear of it
        told.put({"answer": repr(error), "reads": []})


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be taken on by root")
def test_another_user_of_the_machine_is_refused(held: tuple[str, Path]) -> None:
    address, folder = held
    for parent in folder.parents:
        if parent in (Path(tempfile.gettempdir()), Path("/")) or parent.stat().st_uid != os.geteuid():
            break
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(0o755)  # what keeps the stranger out is the key's own folder
    folder.chmod(0o755)
    told: multiprocessing.SimpleQueue[dict] = multiprocessing.get_context("fork").SimpleQueue()
    stranger = multiprocessing.get_context("fork").Process(target=as_nobody, args=(address, folder, told))
    stranger.start()
    stranger.join(120)
    assert stranger.exitcode == 0
    found = told.get()
    assert "CERTIFICATE_REQUIRED" in found["answer"]
    assert found["reads"] == []


@pytest.fixture
def no_umask() -> Iterator[None]:
    mask = os.umask(0)
    yield
    os.umask(mask)


def test_keys_are_private_for_as_long_as_they_are_there(tmp_path: Path, no_umask: None) -> None:
    before, config = dict(os.environ), dask.config.get(TOLD)
    with tls.temporary(tmp_path, shared=True) as variables:
        place, = tmp_path.iterdir()
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in secrets(tmp_path)}
        assert set(modes.values()) == {0o600}
        assert {Path(os.environ[name]) for name in variables if name.endswith(("KEY", "CERT"))} == set(modes)
        code = ("from distributed.security import Security; s = Security(); "
                "print(s.require_encryption, s.tls_worker_key, s.tls_scheduler_cert)")
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True).stdout.split()
        assert told == ["True", *(str(path) for path in reversed(list(modes)))]
        assert dask.config.get(TOLD) in map(str, modes)
        assert "PRIVATE" not in json.dumps([*os.environ.values(), *variables.values()])
    assert list(tmp_path.iterdir()) == []
    assert (dict(os.environ), dask.config.get(TOLD)) == (before, config)


def test_what_a_killed_command_leaves_is_replaced_and_goes_with_the_next_holder(tmp_path: Path) -> None:
    code = ("import sys, time; from pathlib import Path; from diffusegen_core.parallel import tls\n"
            "with tls.temporary(Path(sys.argv[1]), shared=True): print('there', flush=True); time.sleep(600)")
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "there\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    old = secrets(tmp_path)
    assert len(old) == 2
    note = old[0].parent / "notes.txt"
    note.write_text("the user's")
    with tls.temporary(tmp_path, shared=False):
        assert len(secrets(tmp_path)) == 3
        assert not set(old) & set(secrets(tmp_path))
    assert secrets(tmp_path) == [note], "nothing but the program's own is removed"
    note.unlink()
    for path in old:
        path.write_text("a key")
    with lock.hold(tmp_path):  # of a command without workers
        assert not set(old) & set(secrets(tmp_path))


def test_a_link_that_lies_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in (tls.CERTIFICATE, tls.KEY):
        (tmp_path / "mine" / name).write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / f"{tls.PLACE}x").symlink_to(tmp_path / "mine")
    with tls.temporary(run, shared=True):
        pass
    assert len(secrets(tmp_path / "mine")) == 2


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_system_without_modes_holds_no_key(tmp_path: Path, monkeypatch, shared: bool) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    real = tls.tempfile.mkdtemp

    def open_to_all(prefix: str, dir: Path | None = None) -> str:
        made = real(prefix=prefix, dir=dir or elsewhere)
        if dir:
            Path(made).chmod(0o777)
        return made

    monkeypatch.setattr(tls.tempfile, "mkdtemp", open_to_all)
    if shared:
        with pytest.raises(UserError, match=f"{run} cannot hold the key.*Choose a run_dir"), \
                tls.temporary(run, shared):
            pass
    else:
        with tls.temporary(run, shared):
            assert len(secrets(elsewhere)) == 2
    assert list(run.iterdir()) == list(elsewhere.iterdir()) == []


def test_a_folder_that_takes_no_key_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot hold the key of the workers' connections: "), \
            tls.temporary(tmp_path / "file", shared=True):
        pass


@pytest.mark.parametrize(("address", "refused"), [
    ("tcp://10.1.2.3:8786", True), ("10.1.2.3:8786", True), ("tcp://0.0.0.0:8786", True),
    ("ws://10.1.2.3:8786", True), ("ucx://10.1.2.3:8786", True), ("tcp://[2001:db8::1]:8786", True),
    ("tcp://no-such-host.invalid:8786", True), ("tcp://", True), ("tcp://host:port", True),
    ("tls://10.1.2.3:8786", False), ("wss://10.1.2.3:8786", False), ("inproc://10.1.2.3/1/1", False),
    ("tcp://127.0.0.1:8786", False), ("127.0.0.1:8786", False), ("tcp://localhost:8786", False),
    ("tcp://[::1]:8786", False)])
def test_plain_tcp_is_refused_where_others_can_reach_it(address: str, refused: bool, monkeypatch) -> None:
    with pytest.raises(UserError, match="--insecure") if refused else contextlib.nullcontext() as caught:
        tls.refuse_plain(address)
    if refused:
        assert str(caught.value).startswith(f"{address} is not encrypted: whoever can reach it can run code")
        assert "\n" not in str(caught.value)
        for word in ("0", "false", ""):
            monkeypatch.setenv(tls.INSECURE, word)
            with pytest.raises(UserError, match="--insecure"):
                tls.refuse_plain(address)
        monkeypatch.setenv(tls.INSECURE, "1")
        tls.refuse_plain(address)


def test_a_scheduler_in_the_environment_is_judged_at_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(fanout.SCHEDULER, "tcp://10.1.2.3:8786")
    with pytest.raises(UserError, match="is not encrypted"), machines.hold(tmp_path):
        pass
    with machines.hold(tmp_path, insecure=True):
        assert os.environ[tls.INSECURE] == "1", "the chapters' kernels must know as well"
    assert tls.INSECURE not in os.environ
    monkeypatch.delenv(fanout.SCHEDULER)
    for ways in ({}, {"workers": 1}):
        with pytest.raises(UserError, match="--insecure is only for a scheduler of your own"), \
                machines.hold(tmp_path, insecure=True, **ways):
            pass


def test_where_a_scheduler_listens_counts_whatever_it_was_called(monkeypatch) -> None:
    """`dask scheduler` on every interface, called by its loopback address."""
    with dask.config.set({"distributed.comm.require-encryption": None}), LocalCluster(
            n_workers=0, protocol="tcp://", dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        remote.connect(address).close()
        monkeypatch.setattr(Client, "scheduler_info", lambda *_, **__: {
            "address": "tcp://10.1.2.3:8786", "workers": {}})
        with pytest.raises(UserError, match=r"^tcp://10.1.2.3:8786 is not encrypted"):
            remote.connect(address)
        monkeypatch.setattr(Client, "scheduler_info", lambda *_, **__: {
            "address": address, "workers": {"tcp://10.1.2.4:4000": {}}})
        with pytest.raises(UserError, match=r"^tcp://10.1.2.4:4000 is not encrypted"):
            remote.connect(address)


def test_a_scheduler_of_ones_own_takes_dasks_settings(tmp_path: Path) -> None:
    """With the settings items are done; without them, or with others, that is told in a line."""
    with tls.temporary(tmp_path, shared=True), \
            LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tls://",
                         resources={"device": 1}, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with machines.hold(tmp_path / "run", scheduler=address):
            assert fanout.run(doubled, [fanout.Item("x", None, {"x": 2})], "Doubling") == [4]
        none = dict.fromkeys([f"{tls.SETTINGS}.{name}" for name in ("ca-file", "client.cert", "client.key")])
        with dask.config.set(none), \
                pytest.raises(UserError, match=f"^{address}: Dask's settings for TLS.*do not fit") as lacking:
            remote.connect(address)
        with dask.config.set({f"{tls.SETTINGS}.ca-file": str(tmp_path / "none.pem")}), \
                pytest.raises(UserError, match=r"do not fit: .*No such file") as absent:
            remote.connect(address)
        with pytest.raises(UserError, match="encryption") as plain:  # which the settings demand
            remote.connect(address.replace("tls://", "tcp://"))
    for caught in (lacking, absent, plain):
        assert "\n" not in str(caught.value)
        assert "PRIVATE" not in str(caught.value)


def test_what_is_written_and_logged_tells_no_secret(tmp_path: Path, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    with tls.temporary(tmp_path, shared=True) as variables:
        key = Path(variables["DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY"]).read_text()
        assert key.startswith("-----BEGIN PRIVATE KEY-----")
    shown = caplog.text + "".join(capfd.readouterr())
    assert not any(line in shown for line in key.splitlines())
