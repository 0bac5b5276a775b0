"""Ours against diffusers, MONAI and denoising-diffusion-pytorch: training, sampling, inpainting.

Networks have equal counted FLOP, batches and network calls are equal, and libraries take turns within each
kind of work and precision. Every ratio is to ours, once of wall time and once of CPU time, which other work
on the machine disturbs less. The other libraries are not dependencies: they live in an environment of their
own (README.md, "Against other libraries").
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # read at import: progress bars are not part of the comparison

import common
import libraries
import torch
from libraries import OURS, PEERS, Library, RePaint

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.diffusion.unet import parameter_count
from diffusegen_core.planning import flops

TOLERANCE = 0.05  # how far a network's counted FLOP may be from ours
WORKS, PRECISIONS = ("training", "sampling", "inpainting"), ("fp32", "bf16")
NAMES = [peer.name for peer in PEERS]
Network = dict[str, Any]  # facts about a library's network, which is made from its `width`
Row = dict[str, Any]


@dataclass
class Tally:
    """What was counted of a way, its first call included."""

    network_calls: int = 0
    cpu_seconds: list[float] = field(default_factory=list)

    def called(self, *_: object) -> None:
        self.network_calls += 1

    def timed(self, call: Callable[[], object]) -> Callable[[], object]:
        """The same call, with its CPU time noted."""
        def noted() -> None:
            start = time.process_time()
            call()
            self.cpu_seconds.append(time.process_time() - start)

        return noted


def run(arguments: list[str] | None = None) -> dict:
    """Run the benchmark with command-line arguments; return what it wrote."""
    options = parser().parse_args(arguments)
    p, device = common.setup(options)
    if device.type != "cpu":
        raise UserError("peers.py measures on the CPU: --device cpu.")
    versions = {name: installed(name) for name in options.libraries}
    torch.set_num_threads(1)
    peers = [peer for peer in PEERS if peer.name in options.libraries]
    networks, left_out = matched_networks([OURS, *peers], p)
    load, rows, failed = [os.getloadavg()[0]], [], {}
    for work in options.works:
        chosen = able([OURS, *peers], networks, work, left_out)
        for precision in options.precisions:
            tallies = {name_of(work, precision, library): Tally() for library in chosen}
            ways = [way(library, networks[library.name], work, precision, p, options, tallies)
                    for library in chosen]
            found, not_done = common.measure(ways, options.rounds, device)
            found = told(found, work, precision, tallies)
            check_calls(found, expected(options))
            print(f"\n{table(found)}", flush=True)  # so that an interrupted run has shown what it had
            rows += found
            failed |= not_done
            load.append(os.getloadavg()[0])
    report = common.report(
        "peers", options, p, device, rows, failed, libraries=versions, networks=networks, left_out=left_out,
        batch_size=p.train.batch_size, repaint=vars(RePaint()), network_calls=expected(options),
        load_of_one_minute=[round(value, 2) for value in load], cores=os.cpu_count())
    print(f"\n{table(rows)}")
    return report


def parser() -> argparse.ArgumentParser:
    found = common.parser("peers", __doc__, "kvasir_cpu.yaml")
    found.add_argument("--libraries", nargs="+", choices=NAMES, default=NAMES, action=common.Different)
    found.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), action=common.Different)
    found.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS),
                       action=common.Different)
    found.add_argument("--batch", type=common.positive, default=2,
                       help="images sampled or inpainted at a time; a step of training has train.batch_size")
    found.add_argument("--calls", type=common.positive, default=10, help="network calls of a sampled image")
    return found


def installed(name: str) -> str:
    """The version of a library. UserError if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        raise UserError(f"{name} is not installed here. benchmarks/README.md (Against other libraries) says "
                        "how to make an environment that has it; --libraries names only some.") from None


def matched(cost: Callable[[int], float], target: float, step: int) -> int:
    """The multiple of `step` as width whose cost is nearest to the target. UserError beyond TOLERANCE."""
    width, costs = 0, {}
    while not costs or costs[width] < target:
        width += step
        costs[width] = cost(width)
    nearest = min(costs, key=lambda width: abs(costs[width] - target))
    if abs(costs[nearest] / target - 1) > TOLERANCE:
        raise UserError(f"no width is within {TOLERANCE:.0%} of our FLOP: the nearest, {nearest}, has "
                        f"{costs[nearest] / target:.2f} of it")
    return nearest


def forward_flop(library: Library, p: Params, width: int) -> float:
    """Counted operations of one network call for one image."""
    side = p.data.image_size
    with flops.META:
        net = library.network(p, width)
        x, t = torch.zeros(1, RGB_AND_MASK.all, side, side), torch.zeros(1, dtype=torch.int64)
    return flops.of(lambda: net(x, t))


def matched_networks(all_of_them: list[Library], p: Params) -> tuple[dict[str, Network], dict[str, str]]:
    """The network of each library that costs what ours does, and why a library has none."""
    target, networks, left_out = forward_flop(OURS, p, p.model.base_channels), {}, {}
    for library in all_of_them:
        try:
            width = (p.model.base_channels if library is OURS else
                     matched(partial(forward_flop, library, p), target, library.width_step))
        except UserError as error:
            left_out[library.name] = str(error)
            continue
        cost = forward_flop(library, p, width)
        with flops.META:
            parameters = parameter_count(library.network(p, width))
        networks[library.name] = {"width": width, "gflop_an_image": round(cost / 1e9, 3),
                                  "share_of_our_flop": round(cost / target, 3), "parameters": parameters}
    return networks, left_out


def able(all_of_them: list[Library], networks: dict[str, Network], work: str,
         left_out: dict[str, str]) -> list[Library]:
    """Those that have a network and can do this work; `left_out` gets the reasons of those that cannot."""
    left_out |= {f"{library.name}, {work}": library.lacks[work] for library in all_of_them
                 if work in library.lacks}
    return [library for library in all_of_them if library.name in networks and work not in library.lacks]


def name_of(work: str, precision: str, library: Library) -> str:
    """The name of a way."""
    return f"{work}, {precision}: {library.name}"


def way(library: Library, network: Network, work: str, precision: str, p: Params,
        options: argparse.Namespace, tallies: dict[str, Tally]) -> common.Way:
    """One kind of work of one library, counted in its tally."""
    name = name_of(work, precision, library)

    def prepare() -> Callable[[], object]:
        torch.manual_seed(0)
        net = library.network(p, network["width"])
        return tallies[name].timed(training(net) if work == "training" else making(net))

    def training(net: torch.nn.Module) -> Callable[[], object]:
        return library.training(net, p, common.pixels(p, 2 * p.train.batch_size, libraries.CPU), precision)

    def making(net: torch.nn.Module) -> Callable[[], object]:
        common.stir(net)
        net.register_forward_hook(tallies[name].called)
        if work == "sampling":
            return library.sampling(net, p, options.batch, options.calls, precision)
        x = common.images(p, options.batch, libraries.CPU)
        return library.inpainting(net, p, x, common.around_the_middle(x), RePaint(), precision)

    return common.Way(name, p.train.batch_size if work == "training" else options.batch, prepare)


def told(rows: list[Row], work: str, precision: str, tallies: dict[str, Tally]) -> list[Row]:
    """The rows of one kind of work and precision, ours first, with their labels and what was counted."""
    ours = tallies[rows[0]["way"]].cpu_seconds[1:]
    found = []
    for row in rows:
        tally = tallies[row["way"]]
        spent = tally.cpu_seconds[1:]
        ratio = statistics.median(a / b for a, b in zip(ours, spent, strict=True))
        found.append({**row, "work": work, "precision": precision, "library": row["way"].partition(": ")[2],
                      "cpu_seconds": spent, "cpu_ratio": ratio,
                      "network_calls": tally.network_calls / len(tally.cpu_seconds)})
    return found


def expected(options: argparse.Namespace) -> dict[str, int]:
    """Network calls for each image, by kind of work, for those that make images."""
    return {"sampling": options.calls, "inpainting": RePaint().calls}


def check_calls(rows: list[Row], calls: dict[str, int]) -> None:
    """UserError if a library's network was not called as often as it should have been."""
    for row in rows:
        if row["work"] in calls and row["network_calls"] != calls[row["work"]]:
            raise UserError(f"{row['way']} made {row['network_calls']:g} network calls, not "
                            f"{calls[row['work']]}: it cannot be compared.")


def table(rows: list[Row]) -> str:
    """The rows in Markdown, as README.md has them; the first of a work and a precision is ours."""
    lines, before = ["| work | library | images/s | ratio | of CPU time |", "|---|---|---|---|---|"], ""
    for row in rows:
        work = f"{row['work']}, {row['precision']}"
        spread = f"{row['slowest']:.3g} to {row['fastest']:.3g}"
        ratios = [f"{row[key]:.2f}" if work == before else "1" for key in ("ratio", "cpu_ratio")]
        lines.append(f"| {'' if work == before else work} | {row['library']} "
                     f"| {row['images_per_second']:.3g} ({spread}) | {' | '.join(ratios)} |")
        before = work
    return "\n".join(lines)


if __name__ == "__main__":
    common.main(run)
