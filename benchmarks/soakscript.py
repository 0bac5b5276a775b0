"""Starts of a run as a script, each in a fork of a process that has imported everything and computed nothing.

Importing takes several times as long as looking at a finished run; a fork is as easily killed as a process
that has imported everything by itself.
"""

import errno
import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.run import Run

FULL = (errno.ENOSPC, errno.EDQUOT)
CHAPTERS = ("evaluate", "filter", "segment", "augment")  # each makes what it needs
IMPORTED = ("sklearn.cluster", "sklearn.metrics", "torchvision.models", "torchvision.transforms.v2",
            "segmentation_models_pytorch", "albumentations", "cleanfid.fid", "pytorch_msssim")


class Starter:
    """The process whose forks make the run of a profile; what they say goes to the file `said`."""

    def __init__(self, profile: Path, said: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, str(profile), str(said)], env=environment,
                                        cwd=profile.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, start_new_session=True)

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self, changes: list[str]) -> "Started":
        """Make the chapters in a fork, with changed parameters (-p KEY VALUE)."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(changes) + "\n")
        self.process.stdin.flush()
        return Started(self)

    def line(self) -> int:
        """The next number that the process tells."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


class Started:
    """A fork at work, with the methods of `subprocess.Popen` that a soak uses."""

    def __init__(self, starter: Starter) -> None:
        self.pid = starter.line()
        self.code: int | None = None
        self.waiting = threading.Thread(target=self._await, args=(starter,), daemon=True)
        self.waiting.start()

    def _await(self, starter: Starter) -> None:
        self.code = starter.line()

    def poll(self) -> int | None:
        return self.code

    def wait(self) -> int | None:
        self.waiting.join()
        return self.code


def serve(profile: str, said: str) -> int:
    """For each line of changes: fork, tell the fork's id, wait for its end, and tell its exit status."""
    for name in IMPORTED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        sys.stdout.flush()
        if not (pid := os.fork()):
            os.setsid()
            nothing, written = os.open(os.devnull, os.O_RDONLY), os.open(
                said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for here, there in ((nothing, 0), (written, 1), (written, 2)):
                os.dup2(here, there)
            return make(profile, json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return 0


def make(profile: str, changes: list[str]) -> int:
    """Make the chapters in this process, as a script does; a failure is reported in one line."""
    try:
        pairs = list(zip(changes[1::3], changes[2::3], strict=True))  # after each -p
        run = Run(params.validate(params.override(params.load(profile), pairs)))
        for chapter in CHAPTERS:
            run.make(chapter)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Error: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
