"""What the benchmarks share: ways to do one thing, timed in turn in one process; a table and a JSON file."""

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from a checkout that is not installed

from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.training import Training
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.planning import flops
from diffusegen_core.store import files, seeds

ROOT = Path(__file__).parents[1]
# To be measured on a GPU, and kept if they are faster there.
CANDIDATES = ("channels_last", "compiled", "compiled_channels_last")


@dataclass(frozen=True)
class Way:
    """A way to do some work: what `prepare` returns handles `images` images per call."""

    name: str
    images: int
    prepare: Callable[[], Callable[[], object]]


def positive(text: str) -> int:
    """An option's type: an integer of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return int(text)


def target(text: str) -> Path:
    """An option's type: a file that can be written, which is checked before hours of measuring."""
    path = Path(text)
    try:
        if path.is_dir():
            raise ValueError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error}") from None
    return path


class Different(argparse.Action):
    """An option with several values, all different."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any,
                 option: str | None = None) -> None:
        if len(set(values)) < len(values):
            raise argparse.ArgumentError(self, "a value is given twice")
        setattr(options, self.dest, values)


def parser(name: str, purpose: str, profile: str = "") -> argparse.ArgumentParser:
    """The options of every benchmark; without `profile`, the default profile depends on the device."""
    found = argparse.ArgumentParser(description=purpose)
    found.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    found.add_argument("--params", type=Path, default=ROOT / "params" / profile if profile else None,
                       help="a parameter file; default: "
                            f"{profile or 'paper.yaml on a GPU, and kvasir_cpu.yaml on the CPU'}")
    found.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), dest="changes",
                       help="change a parameter, as in diffusegen run")
    found.add_argument("--rounds", type=positive, default=5, help="timings of each way, in turn")
    found.add_argument("--out", type=target, default=str(ROOT / "benchmarks" / "results" / f"{name}.json"),
                       help=f"the JSON file; default: benchmarks/results/{name}.json")
    return found


def add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", type=Path, metavar="DIR",
                        help="a checkout of the authors' code (dsaragih/diffuse-gen), timed in the same run")


def add_candidates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=[], action=Different,
                        help="further ways, not used by any chapter yet")


def main(work: Callable[[list[str] | None], object], arguments: list[str] | None = None) -> None:
    """Run a benchmark as a command: an error that the user can fix gives one sentence and exit code 2."""
    try:
        work(arguments)
    except UserError as error:
        message = str(error)
    except torch.OutOfMemoryError:
        message = "The device is out of memory. Lower the batch."
    else:
        return
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def setup(options: argparse.Namespace, own: dict[str, Any] | None = None) -> tuple[Params, torch.device]:
    """The parameters and the device that the options name.

    `own` has the values that the benchmark itself sets, by dotted key; -p may not set them too.
    """
    device = devices.device(params.validate({"device": options.device}).device)
    own = {"device": options.device} | (own or {})
    for key, _ in options.changes:
        if any(f"{name}.".startswith(f"{key}.") for name in own):
            raise UserError(f"-p {key}: this benchmark sets {', '.join(own)} itself, by options or always.")
    default = "kvasir_cpu.yaml" if device.type == "cpu" else "paper.yaml"
    values = params.load(options.params or ROOT / "params" / default)
    return params.validate(params.merged(params.override(values, options.changes), own)), device


def one_or_many(batch: int, candidates: list[str],
                prepare: Callable[[int, str, str], Callable[[], object]]) -> list[Way]:
    """One image at a time, in fp32 and bf16; and a batch at a time in bf16, without and with each candidate.

    `prepare` gets the number of images, the precision and the candidate ("" for none).
    """
    kinds = [("one at a time, fp32", 1, "fp32", ""), ("one at a time, bf16", 1, "bf16", ""),
             (f"{batch} at a time, bf16", batch, "bf16", ""),
             *((f"the same, {candidate}", batch, "bf16", candidate) for candidate in candidates)]
    return [Way(name, count, partial(prepare, count, *how)) for name, count, *how in kinds]


Failed = dict[str, str]  # a way -> why it has no figure


def measure(ways: list[Way], rounds: int, device: torch.device) -> tuple[list[dict[str, Any]], Failed]:
    """Run each way once to warm up, compile and choose kernels; then `rounds` times each, in turn: A B A B.

    A way that runs out of memory or cannot be compiled here is dropped, and the others go on; UserError if
    none is left. Ratios are taken round by round against the first row, so that whatever slows the machine
    down for a while slows both. Rates are images a second.
    """
    calls, taken, failed = {}, {way.name: [] for way in ways}, {}
    for turn in range(1 + rounds):
        for way in ways:
            if way.name in failed:
                continue
            gc.collect()  # reference cycles hold what a failed way leaves
            try:
                if turn == 0:
                    calls[way.name] = way.prepare()
                taken[way.name].append(seconds(calls[way.name], device))
            except (torch.OutOfMemoryError, torch._dynamo.exc.TorchDynamoException) as error:
                calls.pop(way.name, None)
                failed[way.name] = ("out of memory" if isinstance(error, torch.OutOfMemoryError) else
                                    f"not compiled: {type(error).__name__}")
        if turn == 0 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    done = [way for way in ways if way.name not in failed]
    if not done:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(f"No way could be measured ({reasons}). Where memory did not suffice, lower the "
                        "batch or, in training, the micro-batch.")
    return [_row(way, taken[way.name], taken[done[0].name], done[0].images) for way in done], failed


def _row(way: Way, taken: list[float], base: list[float], base_images: int) -> dict[str, Any]:
    first, *spent = taken
    each, base = [value / way.images for value in spent], [value / base_images for value in base[1:]]
    return {"way": way.name, "images": way.images, "first_seconds": first, "seconds": spent,
            "images_per_second": 1 / statistics.median(each), "slowest": 1 / max(each),
            "fastest": 1 / min(each),
            "ratio": statistics.median(a / b for a, b in zip(base, each, strict=True))}


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes until the device is done."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pixels(p: Params, count: int, device: torch.device) -> torch.Tensor:
    """Random pairs (count, 4, S, S), uint8: what is in an image does not change how long it takes."""
    shape = (count, RGB_AND_MASK.all, p.data.image_size, p.data.image_size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeds.generator(0, "pixels")).to(device)


def images(p: Params, count: int, device: torch.device) -> torch.Tensor:
    """The same as floats in [-1, 1]."""
    return pixels(p, count, device).float() / 127.5 - 1


def around_the_middle(x: torch.Tensor) -> torch.Tensor:
    """Which pixels of images (B, C, S, S) are known, (B, 1, S, S): 1, and 0 in a square in the middle."""
    known, middle = torch.ones_like(x[:, :1]), slice(x.shape[2] // 4, 3 * x.shape[2] // 4)
    known[:, :, middle, middle] = 0
    return known


def stir(net: torch.nn.Module) -> None:
    """Add noise to the weights: an untrained network's branches are zero, which would hide their errors."""
    g = seeds.generator(0, "weights", device=next(net.parameters()).device)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=g, device=g.device))


def sampler(p: Params, device: torch.device, precision: str, candidate: str = "") -> Diffusion:
    """A model to sample with; as in a trained one, none of its branches is zero."""
    net = UNet(p.model, p.data.image_size).to(device).eval().requires_grad_(False)
    stir(net)
    return Diffusion(tried(net.cast_weights(precision), candidate), process.schedule(p.process).to(device),
                     p.process.objective, precision=precision)


def changed(p: Params, section: str, **changes: Any) -> Params:
    """The parameters with other values in one section."""
    return p.model_copy(update={section: getattr(p, section).model_copy(update=changes)})


def training_of(p: Params) -> Training:
    """The training of a model by the run's parameters."""
    return Training("benchmark", p.model, p.process, p.train, p.data.image_size, p.seed)


def tried(net: UNet, candidate: str) -> UNet:
    """Change a network in a way that should be faster on a GPU; what it computes stays the same."""
    if "channels_last" in candidate:
        net.to(memory_format=torch.channels_last)
    if "compiled" in candidate:
        net.compile_blocks()
    return net


def forward_flop(p: Params) -> float:
    """Counted operations of one network call for one image: 2 for each multiply-add."""
    side = p.data.image_size
    with flops.META:
        net, x, t = UNet(p.model, side), torch.zeros(1, RGB_AND_MASK.all, side, side), torch.zeros(1)
    return flops.of(lambda: net(x, t))


def matmul_rate(device: torch.device, side: int) -> float:
    """Operations a second of a bf16 product of square matrices, the best of five: what the device can do."""
    a = torch.randn(side, side, device=device).bfloat16()
    seconds(lambda: a @ a, device)
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(5))


def report(name: str, options: argparse.Namespace, p: Params, device: torch.device,
           rows: list[dict[str, Any]], failed: Failed, **facts: Any) -> dict[str, Any]:
    """Print a small table of what `measure` gave, and write everything as JSON; return that."""
    found = {
        "benchmark": name, "date": date.today().isoformat(), "device": devices.name(str(device), "bf16"),
        "versions": files.versions(), "commit": commit(), "rounds": options.rounds,
        "params": params.plain(p), "options": told(options), **facts, "ways": rows, "failed": failed}
    versions = ", ".join(f"{key} {found['versions'][key]}" for key in ("diffusegen", "python", "torch"))
    print(f"\n{name}: {found['device']}; {versions}; commit {found['commit']}; {found['date']}")
    for key, value in facts.items():
        print(f"  {key.replace('_', ' ')}: {value}")
    width = max(map(len, [*(row["way"] for row in rows), *failed]))
    print(f"  {'':{width}}  images/s  (slowest to fastest)  first call   ratio")
    for row in rows:
        spread = f"({row['slowest']:.3g} to {row['fastest']:.3g})"
        print(f"  {row['way']:{width}}  {row['images_per_second']:8.3g}  {spread:20}  "
              f"{row['first_seconds']:8.1f} s  {row['ratio']:6.2f}")
    for name, reason in failed.items():
        print(f"  {name:{width}}  {reason}")
    write(options, found)
    return found


def told(options: argparse.Namespace) -> dict[str, Any]:
    """The options other than parameters, as JSON; for the authors' code only whether it was given."""
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
             if name not in ("device", "params", "changes", "rounds", "out")}
    return asked | ({"reference": bool(options.reference)} if "reference" in asked else {})


def write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    files.write_json(options.out, found)
    print(f"  written: {options.out}")


def doze(seconds: float) -> None:
    """Work that takes a known time; defined in this module so that a worker can import it."""
    time.sleep(seconds)


def commit() -> str:
    """The checkout's commit, with a plus if files differ from it."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, text=True,
                               capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
