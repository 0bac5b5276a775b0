"""A run of a soak: where it lies, how it is started and ended, and what it has made."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from common import ROOT
from soakscript import Started, Starter

from diffusegen_core.data import dataset
from diffusegen_core.store import files, lock, stamps

NANO: dict[str, Any] = {
    "profile": "nano", "device": "cpu",
    "data": {"count": None, "image_size": 16, "holdout": 0.3},
    "cluster": {"k": 2, "scan": [2, 3]},
    "model": {"base_channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "attention_resolutions": [],
              "head_channels": 32},
    "train": {"images": 24, "batch_size": 4, "checkpoint_every": 2, "preview_every": 3, "preview_images": 2,
              "preview_steps": 4},
    "inpaint": {"masks": "varied", "guidance_scale": 1.0, "samples": 1, "sources": 4, "respacing": 4,
                "jump_length": 2, "resampling": 2, "baselines": ["Paste"], "batch_size": 3},
    # Styled one by one: in other batches the last digits of the recorded losses differ.
    "style": {"respacing": 4, "skip": 1, "batch_size": 1},
    # A network needs two pairs with a mask; which of the sources give one differs between processors.
    "gan": {"sources": 3, "min_side": 8, "layers": 3, "steps": 120},
    "filter": {"folds": 2, "agreement_quantile": 1e-6, "seam_quantile": None},
    "segment": {"decoder_channels": [8, 8, 8], "epochs": 2, "epoch_images": 4, "batch_size": 4,
                "checkpoint_every": 1, "test_count": 4, "resamples": 200},
    "augment": {"sizes": [4]},
}
PAIRS = 14  # four of which are held out for testing
DISK_BYTES = 256 << 20  # of the disk of an episode, in memory
AGE = 1_700_000_000  # modification time of their files, in seconds
CLOCKS = {"spent.json"}  # files that hold nothing but seconds
# A folder counts as the user's if a kill came before its mark; only commands are started with a file.
UNCOMPARED = {"seconds", "given", "file"}
HEADED = {"optimizer.safetensors", "checkpoint.safetensors"}  # whose headers hold seconds
# Not compared as artifacts: work in progress, what is set aside, and caches, which fill in any order.
PASSING = {stamps.MAKING, stamps.ASIDE, "features", "notebooks", "site", lock.LOCK, "params.yaml",
           "work.json"}
LONGEST = 1800  # seconds after which a start counts as hung
LINGER = 20  # seconds after success by which all that a command started must be gone


Process = subprocess.Popen[str] | Started


@dataclass
class Place:
    """Where an episode happens."""

    folder: Path
    starter: Starter | None = field(default=None, compare=False)
    """Starts the run as a script, from the first such start on."""

    @property
    def disk(self) -> Path:
        """A small disk of the run's own, where the soak may mount one."""
        return self.folder / "disk"

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def signs(self) -> Path:
        """Files by which saboteur and soak communicate."""
        return self.folder / "signs"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def said(self) -> Path:
        """What the last start has written to the terminal."""
        return self.folder / "said.txt"

    @property
    def said_second(self) -> Path:
        return self.folder / "second.txt"

    @property
    def profile(self) -> Path:
        return self.folder / "nano.yaml"

    def close(self) -> None:
        """End the process that starts scripts."""
        if self.starter:
            self.starter.close()
            self.starter = None

    def writes(self) -> list[str]:
        """The paths renamed into the run's folder so far, in order."""
        path = self.signs / "writes"
        return path.read_text().splitlines() if path.exists() else []

    def count(self) -> int:
        """The number of renames so far."""
        path = self.signs / "count"
        return path.stat().st_size if path.exists() else 0


def prepared(folder: Path) -> Place:
    """A new place: data, profile and signs. What an interrupted episode left there is ended and removed."""
    place = Place(folder)
    remove(place)
    place.signs.mkdir(parents=True)
    place.disk.mkdir()
    if os.geteuid() == 0:  # where that is refused, a full disk is only played
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "soak", place.disk],
                       check=False)
    dataset.write_phantoms(place.data, PAIRS, 32, seed=1)
    for path in place.data.rglob("*.png"):  # a run records the modification times of what it reads
        os.utime(path, (AGE, AGE))
    values = {**NANO, "run_dir": str(place.run), "data": {**NANO["data"], "source": str(place.data)}}
    place.profile.write_text(yaml.safe_dump(values))
    return place


def remove(place: Place) -> None:
    """End and remove an episode."""
    place.close()
    end_all(place)
    if place.disk.is_mount():
        subprocess.run(["umount", "--lazy", place.disk], check=True)
    if place.folder.exists():
        shutil.rmtree(place.folder)


def keep(place: Place) -> None:
    """Keep an episode for inspection, without its disk."""
    if place.disk.is_mount():
        shutil.copytree(place.disk, place.folder / "kept", symlinks=True)
        subprocess.run(["umount", "--lazy", place.disk], check=True)


def started(place: Place, mode: str, changes: list[str], second: bool = False) -> Process:
    """Start the run in a session of its own, with the saboteur in it and in all that it starts. A `second`
    command beside another has its own file of what it says."""
    paths = [str(ROOT / "benchmarks" / "saboteur"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "SOAK": str(place.signs), "SOAK_RUN": str(place.run), "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                   **({"SOAK_DISK": str(place.disk)} if place.disk.is_mount() else {})}
    if mode == "script":
        place.starter = place.starter or Starter(place.profile, place.said, environment)
        process: Process = place.starter.start(changes)
        (place.signs / "command").write_text(str(process.pid))
        return process
    command = [sys.executable, "-m", "diffusegen_core", "run", str(place.profile), "--no-book", *changes,
               *(["--workers", "2"] if mode == "workers" else [])]
    with (place.said_second if second else place.said).open("w") as said:
        process = subprocess.Popen(command, cwd=place.folder, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=said, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    if not second:
        (place.signs / "command").write_text(str(process.pid))
    return process


def ended(place: Place, process: Process, pause: float, alone: bool = True) -> int | None:
    """Wait for the end: the exit status, or None if there was none in time. What was stopped resumes after
    `pause` seconds. Kernels and workers that outlive a command are killed after a hang, and if `alone` after
    any failure; else they are left to end by themselves, which `lingering` watches after a success."""
    since, stopped = time.monotonic(), None
    while process.poll() is None and time.monotonic() - since < LONGEST:
        time.sleep(0.05)
        told = files.read_json(place.signs / "struck.json") or {}
        if told.get("fault") == "stop" and stopped is None:
            stopped = time.monotonic()
        if stopped and time.monotonic() - stopped > pause:
            for pid in told["victims"]:
                signalled(pid, signal.SIGCONT)
            stopped = float("inf")
    code = process.poll()
    if code is None or (alone and code != 0):
        end_all(place)
    process.wait()
    return code


def lingering(place: Place) -> list[str]:
    """The command lines of what a successful command has left running, after some time to end."""
    end = time.monotonic() + LINGER
    while (left := processes(place)) and time.monotonic() < end:
        time.sleep(0.2)
    return list(left.values())


def signalled(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sign)


def end_all(place: Place) -> None:
    """Kill what is left of a run's processes."""
    for pid in processes(place):
        signalled(pid, signal.SIGKILL)


def processes(place: Place) -> dict[int, str]:
    """The command lines of a run's processes in any session, found by the folder of signs in their
    environment."""
    sign, there = os.fsencode(f"SOAK={place.signs}") + b"\0", {}
    ours = {os.getpid(), place.starter.pid if place.starter else 0}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if sign in (path / "environ").read_bytes() and int(path.name) not in ours:
                there[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return there


def made(run: Path) -> dict[str, str]:
    """A hash of each file of each result as it is, leaving out seconds. A file that a stamp lists but that is
    missing or different has a message in place of its hash."""
    found = {}
    for path in sorted(run.rglob("*")):
        parts = path.relative_to(run).parts
        if path.is_file() and not path.is_symlink() and path.name not in CLOCKS and not PASSING & set(parts):
            found["/".join(parts)] = content_hash(path)
    for folder, stamp in stamps.in_place(run):
        for name, sha256 in stamps.contents(stamp).items():
            path = folder / name
            if not path.is_file() or files.sha256(path) != sha256:
                found[str(path.relative_to(run))] = "is not as its stamp tells"
    return found


def content_hash(path: Path) -> str:
    """The hash of a file without the seconds in it."""
    content = path.read_bytes()
    if path.name in HEADED:
        content = content[8 + int.from_bytes(content[:8], "little"):]
    elif path.name == stamps.STAMP:
        told = json.loads(content)
        content = json.dumps([told["recipe"], stamps.contents(told), sorted(told["shown"])],
                             sort_keys=True).encode()
    elif path.suffix == ".json":
        told = json.loads(content)
        content = json.dumps({key: value for key, value in told.items() if key not in UNCOMPARED}
                             if isinstance(told, dict) else told, sort_keys=True).encode()
    elif path.name in ("runs.csv", "generators.csv"):
        content = pd.read_csv(path).drop(columns="seconds").to_csv().encode()
    return hashlib.sha256(content).hexdigest()


Identity = tuple[int, int]
"""Inode and modification time: a file that was deleted and made again with the same content has another."""


def identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def stamped(run: Path) -> dict[Path, str]:
    """The recorded hash of each output that a stamp lists, wherever the stamp is."""
    found = {}
    for path in sorted(run.rglob(stamps.STAMP)):
        if stamp := stamps.read_stamp(path.parent):
            for name, sha256 in stamps.contents(stamp).items():
                if (path.parent / name).is_file():
                    found[path.parent / name] = sha256
    return found


def finished(run: Path) -> dict[Identity, str]:
    """The hashes of these outputs."""
    return {identity(path): sha256 for path, sha256 in stamped(run).items()}


def failed(run: Path) -> list[str]:
    """The networks of chapters 6 and 7 that were not trained and tested."""
    tables = [pd.read_csv(run / chapter / "runs.csv") for chapter in ("segment", "augment")]
    return [name for table in tables for name in table.loc[table["status"] != "ok", "name"]]


def existing(run: Path) -> dict[Identity, Path]:
    """All files."""
    return {identity(path): path for path in run.rglob("*") if path.is_file() and not path.is_symlink()}


def code_hash() -> str:
    """A hash of the program under test, its libraries and the run's parameters."""
    parts = [*sorted((ROOT / "diffusegen_core").rglob("*.py")), *sorted((ROOT / "notebooks").glob("*.ipynb")),
             ROOT / "requirements.lock"]
    return hashlib.sha256(b"\0".join([repr((NANO, PAIRS)).encode(),
                                      *(path.read_bytes() for path in parts)])).hexdigest()[:16]
