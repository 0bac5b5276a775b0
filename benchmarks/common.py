"""What the benchmarks share: ways to do one thing, timed in turn in one process; a table and a JSON file."""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from a checkout that is not installed

from diffusegen_core import params, runs, seeds
from diffusegen_core.errors import UserError
from diffusegen_core.params import Params
from diffusegen_core.unet import IN_CHANNELS, UNet

ROOT = Path(__file__).parents[1]
CANDIDATES = ("channels_last", "compiled")  # to be measured on a GPU, and kept if they pay there


@dataclass(frozen=True)
class Way:
    """One way to make `images` images by a call of `run`."""

    name: str
    images: int
    run: Callable[[], object]


def parser(purpose: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    found = argparse.ArgumentParser(description=purpose)
    found.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    found.add_argument("--params", type=Path, help="a parameter file; default: paper.yaml on a GPU, and "
                                                   "kvasir_cpu.yaml on the CPU")
    found.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), dest="changes",
                       help="another value, as of diffusegen run")
    found.add_argument("--rounds", type=int, default=5, help="timings of each way, in turn")
    found.add_argument("--reference", type=Path, metavar="DIR",
                       help="a checkout of the authors' code (dsaragih/diffuse-gen), timed in the same run")
    found.add_argument("--out", type=Path, help="the JSON file; default: benchmarks/results/NAME.json")
    return found


def add_candidates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=[],
                        help="further ways, of which no chapter makes use yet")


def main(work: Callable[[list[str] | None], object], arguments: list[str] | None = None) -> None:
    """Run a benchmark as a command: an error that a user can mend is one sentence, not a traceback."""
    try:
        work(arguments)
    except UserError as error:
        sys.exit(f"Error: {error}")


def setup(options: argparse.Namespace) -> tuple[Params, torch.device]:
    """The parameters and the device that the options name."""
    device = runs.device(options.device)
    default = "kvasir_cpu.yaml" if device.type == "cpu" else "paper.yaml"
    profile = options.params or ROOT / "params" / default
    return params.validate(params.override(params.load(profile), options.changes)), device


def measure(ways: list[Way], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Each way once to warm up, compile and choose kernels; then `rounds` times each, in turn: A B A B.

    A ratio is taken round by round against the first way, so what slows the machine down for a while slows
    both. Rates are images a second.
    """
    first = {way.name: seconds(way, device) for way in ways}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            taken[way.name].append(seconds(way, device) / way.images)
    base = taken[ways[0].name]
    rows = []
    for way in ways:
        each = taken[way.name]
        rows.append({
            "way": way.name, "images": way.images, "first_seconds": first[way.name],
            "seconds": [value * way.images for value in each],
            "images_per_second": 1 / statistics.median(each), "slowest": 1 / max(each),
            "fastest": 1 / min(each),
            "ratio": statistics.median(a / b for a, b in zip(base, each, strict=True))})
    return rows


def seconds(way: Way, device: torch.device) -> float:
    """How long one call takes, until the device has done it."""
    synchronise(device)
    start = time.perf_counter()
    way.run()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pixels(p: Params, count: int, device: torch.device) -> torch.Tensor:
    """Random pairs (count, 4, S, S), uint8: what is in an image does not change how long it takes."""
    shape = (count, IN_CHANNELS, p.data.image_size, p.data.image_size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeds.generator(0, "pixels")).to(device)


def stir(net: torch.nn.Module) -> None:
    """Weights drawn anew: an untrained network's branches are zero, which equality would not notice."""
    g = seeds.generator(0, "weights")
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=g).to(weight.device))


def sampler(p: Params, device: torch.device, precision: str, candidate: str | None = None) -> UNet:
    """A network to sample with, its weights as a trained one's: not zero."""
    net = UNet(p.model, p.data.image_size).to(device).eval().requires_grad_(False)
    stir(net)
    return tried(net.fixed(precision), candidate)


def tried(net: UNet, candidate: str | None) -> UNet:
    """A network changed in a way that should pay on a GPU; what it computes stays."""
    if candidate == "channels_last":
        net.to(memory_format=torch.channels_last)
    elif candidate == "compiled":
        net.compile_steps()
    return net


def forward_flop(p: Params) -> int:
    """Counted operations of one network call for one image: 2 for each multiplication and its addition."""
    side = p.data.image_size
    with torch.device("meta"):
        net = UNet(p.model, side)
        x, t = torch.zeros(1, IN_CHANNELS, side, side), torch.zeros(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, t)
    return counter.get_total_flops()


def matmul_rate(device: torch.device, side: int) -> float:
    """Operations a second of a bf16 product of square matrices, the best of five: what the device can do."""
    a = torch.randn(side, side, device=device).bfloat16()
    way = Way("matmul", 1, lambda: a @ a)
    seconds(way, device)
    return 2 * side**3 / min(seconds(way, device) for _ in range(5))


def report(name: str, options: argparse.Namespace, p: Params, device: torch.device,
           rows: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """Print a small table and write everything as JSON; what was written."""
    found = {
        "benchmark": name, "date": date.today().isoformat(), "device": runs.device_name(str(device)),
        "versions": runs.versions(), "commit": commit(), "rounds": options.rounds,
        "image_size": p.data.image_size, "model": params.plain(p.model), **facts, "ways": rows}
    versions = ", ".join(f"{key} {found['versions'][key]}" for key in ("diffusegen", "python", "torch"))
    print(f"\n{name}: {found['device']}; {versions}; commit {found['commit']}; {found['date']}")
    for key, value in facts.items():
        print(f"  {key.replace('_', ' ')}: {value}")
    width = max(len(row["way"]) for row in rows)
    print(f"  {'':{width}}  images/s  (slowest to fastest)  first call   ratio")
    for row in rows:
        spread = f"({row['slowest']:.3g} to {row['fastest']:.3g})"
        print(f"  {row['way']:{width}}  {row['images_per_second']:8.3g}  {spread:20}  "
              f"{row['first_seconds']:8.1f} s  {row['ratio']:6.2f}")
    out = options.out or ROOT / "benchmarks" / "results" / f"{name}.json"
    runs.write_json(out, found)
    print(f"  written: {out}")
    return found


def doze(seconds: float) -> None:
    """Work that takes a known time; here, for a worker must be able to import it."""
    time.sleep(seconds)


def commit() -> str:
    """The checkout's commit, with a plus where files differ from it."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, text=True,
                               capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
