"""The figures of a card in one call: correctness, then speed, the most valuable first.

Every row is written to the JSON file as soon as it is measured, so that an interrupted call loses only one.
"""

import os
import subprocess
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import authors
import bench
import common
import correctness
import reference
import sampling_speed
import stages
import torch
import training_speed
from bench import Bench

from diffusegen_core.config import devices
from diffusegen_core.store import files

MATMUL, COPY = 8192, 2**30  # side of the product; bytes of the copy


def run(call: stages.Call, device: torch.device, tiny: bool = False, rounds: int = 6,
        code: Path | None = None) -> None:
    """Run all stages while there is time, the most valuable first; `code` is the authors' checkout."""
    b = bench.made(call, device, tiny, rounds)
    call.stage("machine", partial(machine, b, 256 if tiny else MATMUL, 2**20 if tiny else COPY))
    b.facts["flop"] = call.record.stages.get("machine", {}).get("bf16_matmul_flop", float("nan"))
    call.stage("errors", partial(correctness.errors, b))
    call.stage("training errors", partial(correctness.training_errors, b))
    call.stage("independence of RePaint", partial(correctness.independence, b, correctness.repainted))
    call.stage("independence of styling", partial(correctness.independence, b, correctness.styled))
    call.stage("resume", partial(correctness.resume, b))
    call.section("training", partial(training_speed.training, b, training_speed.TRAINING))
    call.section("inpainting", partial(sampling_speed.inpainting, b))
    call.section("styling", partial(sampling_speed.styling, b))
    if code:
        call.section("authors' code", lambda: authors.run(b, reference.load(code)))
    call.stage("where a step's time goes", partial(training_speed.kernel_times, b), least=20)
    call.section("more training", partial(training_speed.training, b, training_speed.MORE))
    call.section("one_gpu", partial(training_speed.profile_training, b))
    if not tiny:
        call.stage("smoke of train", partial(smoke, b), least=30)
        call.stage("compiled", partial(compiled, b), least=45)


def machine(b: Bench, side: int, size: int) -> dict[str, Any]:
    """The device's name, the versions, and its two ceilings: a bf16 product and a copy."""
    rate = common.matmul_rate(b.device, side)
    block = torch.randint(256, (size,), dtype=torch.uint8, device=b.device)
    other = torch.empty_like(block)
    copied = min(common.seconds(lambda: other.copy_(block), b.device) for _ in range(6))
    found = {"device": devices.name(str(b.device)), "versions": files.versions(),
             "bf16_matmul_flop": rate, "copy_bytes_a_second": 2 * size / copied,
             "work_of_a_call_flop": b.facts["work"], "date": date.today().isoformat()}
    if b.device.type == "cuda":
        found |= {"cudnn": torch.backends.cudnn.version(), "cuda": torch.version.cuda,
                  "memory_gb": round(torch.cuda.get_device_properties(b.device).total_memory / 1e9, 1)}
    return found


def smoke(b: Bench) -> dict[str, Any]:
    """Run the other call, `train`, tiny, to see whether it works here."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, str(common.ROOT / "benchmarks" / "card.py"), "train", "--tiny", "--limit", "60",
             "--work", f"{home}/work", "--out", f"{home}/out"], capture_output=True, text=True,
            timeout=max(5.0, min(75.0, b.call.clock.left - 5)), env=own_clock())
        found = files.read_json(Path(home) / "out" / "train.json") or {}
        status = {name: stage.get("status") for name, stage in found.get("stages", {}).items()}
    return {"code": done.returncode, "output": (done.stdout + done.stderr)[-3000:], "stages": status}


def compiled(b: Bench) -> dict[str, Any]:
    """Measure train.compile in a process of its own, which is killed if the compiler takes too long."""
    limit, out = max(10.0, b.call.clock.left - 8), b.call.record.path.with_name("compiled.json")
    try:
        done = subprocess.run(
            [sys.executable, str(common.ROOT / "benchmarks" / "train.py"), "--ways", "compiled_channels_last",
             "--rounds", "3", "-p", "train.batch_size", "4", "-p", "train.micro_batch", "4",
             "--device", str(b.device), "--out", str(out)],
            capture_output=True, text=True, timeout=limit, env=own_clock())
    except subprocess.TimeoutExpired:
        return {"found": f"not done after {limit:.0f} s"}
    return {"code": done.returncode, "output": (done.stdout + done.stderr)[-2000:],
            "found": files.read_json(out)}


def own_clock() -> dict[str, str]:
    """The environment of a process whose clock begins when it starts."""
    return {name: value for name, value in os.environ.items() if name != "CARD_BEGAN"}
