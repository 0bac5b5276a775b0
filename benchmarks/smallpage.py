"""The page "Results at small scale", written from a finished run of `kvasir_cpu`.

    python benchmarks/smallpage.py RUN --times benchmarks/results/kvasir_cpu.json

Its tables are the book's, made by the same code; its pictures show only synthetic pixels. `--times` names a
file with the wall times of the run made from scratch; if there is none, it is written from what papermill
recorded in the executed notebooks, which a later call of the run replaces. `--subset` names a second run of
the same data, with `augment.generator_sees: subset`. What earlier runs found is kept in
`results/small_earlier.md`, and goes below.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from diffusegen_core import __version__
from diffusegen_core.config import params
from diffusegen_core.config.text import duration
from diffusegen_core.data import regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet, read_pair
from diffusegen_core.report import (
    answer,
    detectable,
    evaluate_tables,
    filtering,
    keynumbers,
    limits,
    opening,
    segment_details,
    segment_tables,
    tables,
    trainings,
    verdict_tables,
)
from diffusegen_core.report.claims import of as verdicts_of
from diffusegen_core.report.figures import board, pair, picture
from diffusegen_core.report.showcase import outline
from diffusegen_core.report.tables import Table, show
from diffusegen_core.run import Run
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import files, seeds

PROFILE = "kvasir_cpu"
BOOK = Path(__file__).parents[1] / "book"
PAGE, PICTURE = "results_small.md", "results_small.png"
EARLIER = Path(__file__).parent / "results" / "small_earlier.md"
SHOWN, STEPS = 8, 50  # pairs in a row of the picture; network calls to make one from noise
MARGIN = 2  # pixels shown around a region
SMALL = ["size", "data_type", "ratio"]  # what tells the networks of chapter 7 apart
# Where these files lie is of no use to other readers: the page shows placeholders.
PLACES = {"data.source": "/path/to/pairs", "segment.cvc": "/path/to/CVC-ClinicDB",
          "segment.polypgen": "/path/to/PolypGen", "style.vgg_weights": "/path/to/vgg19.pth",
          **{f"{part}.weights": "/path/to/mobilenet_v2.pth"
             for part in ("cluster", "style", "evaluate", "segment")}}
UNSAID = {"profile", "run_dir"}
# The pretrained networks at hand, in place of the libraries' own downloads.
AT_HAND = (".weights", ".input_range", ".vgg", ".vgg_weights")

HEAD = """# Results at small scale

**Overview.** What the profile `kvasir_cpu` gives on the paper's 348 real pairs{apart}: how
long it takes, samples, and whether the pairs help a segmentation network. Every value on this page is
computed, none is published. A command wrote the page from a finished run, which is not the run that the other
pages show.

**Prerequisites.** {doc}`how_to_read`, and for what is measured {doc}`05_evaluate` to {doc}`08_summary`.

**Time needed.** Ten minutes."""

TIME = """From an empty folder to the last chapter, with two worker processes on two cores. Other work shared
the cores for a part of the time, so these are upper bounds."""

PICTURES = """The upper rows show the filled regions of pairs drawn by the run's seed, without their
surroundings, which come from a patient; the outline is the given mask. The last rows show whole pairs
sampled from noise, images above masks."""

FILTER = """Networks, none of which has seen the source of the pair that it scores, judge whether a
lesion is where the mask says; {doc}`05_evaluate` has the rule. Filtered types are compared below like any
other, but they are smaller sets as well: what a filter removes is not compared with as many pairs removed
at random."""

ALONE = """A network is trained on one data type alone and tested on real pairs that no model has seen. No
test image has chosen an epoch or a pair of this run. But some of them were also used to choose the
profile's values (`benchmarks/README.md`), so scores may be slightly too good."""

SUBSET = """In the tables above the diffusion models had seen all pairs of the run, more than a user with a
small set has. Here they saw the small set alone, and each seed has a set and models of its own. As above,
synthetic pairs replace real ones; adding them to all the real pairs is on {doc}`own_data`."""


def arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("run", type=Path, help="the folder of a finished run")
    asked.add_argument("--subset", type=Path, help="a run whose generators see a small set alone")
    asked.add_argument("--times", type=Path, required=True, help="JSON of the wall times")
    asked.add_argument("--book", type=Path, default=BOOK, help="where the page and its picture go")
    return asked.parse_args()


def main() -> None:
    asked = arguments()
    run = Run.open(asked.run)
    if not asked.times.is_file():
        files.write_json(asked.times, times(run))
    subset = Run.open(asked.subset) if asked.subset else None
    noise = sampled(run)
    files.write(asked.book / PICTURE, drawn(run, noise).savefig)
    files.write_text(asked.book / PAGE, page(run, subset, files.read_json(asked.times), noise))


def sampled(run: Run) -> list[Pairs]:
    """Pairs from noise, by each cluster's model."""
    models = [run.models.load(f"cluster-{number:02d}") for number in range(run.params.cluster.k)]
    return [model.sample(SHOWN, seed=run.params.seed, steps=STEPS) for model in models]


def page(run: Run, subset: Run | None, wall: dict[str, Any], noise: list[Pairs]) -> str:
    """The page as MyST."""
    verdicts = verdicts_of(run)
    segment, augment, evaluated = run.read("segment"), run.read("augment"), run.read("evaluate")
    several = [trainings.table(run)] if run.params.generators > 1 else []
    parts = [
        HEAD.replace("{apart}", apart(run)), "## Set-up", setup(run), command(run),
        "## Time", TIME, timed(wall), *elsewhere(run, wall),
        "## Samples", PICTURES, masked(noise), figure(),
        "## What was found", answer.table(run, verdicts=verdicts), keynumbers.table(run),
        "## Distances, copies and memory", evaluate_tables.equal(evaluated),
        evaluate_tables.copies(evaluated),
        evaluate_tables.membership(evaluated),
        "## What the filter keeps", FILTER, filtering.table(run),
        "## Pairs alone", ALONE, *several, segment_tables.alone(run, segment, "dice"),
        "## Small sets with synthetic pairs", *small(run, augment),
        *(["## Generators that saw a small set alone", SUBSET, *small_alone(subset)] if subset else []),
        "## Verdicts", verdict_tables.overall(run, verdicts),
        "## What this run cannot say",
        "\n".join(f"- {line}" for line in limits.of(run.params, pairs=run.pairs, tests=opening.tests(run))),
        EARLIER.read_text(encoding="utf-8").strip()]
    return "\n\n".join(labelled(parts)) + "\n"


def labelled(parts: list[str | Table]) -> Iterator[str]:
    """The parts as MyST. Tables get labels of their own, since each is on the page of its chapter too, and
    lose what is folded below them there: published values, and rows that the run was not asked for."""
    for number, part in enumerate(parts):
        if isinstance(part, Table):
            name = part.name.removeprefix("tab-")
            part = replace(part, name=f"tab-small-{number}-{name}", folded=None, others=None)
            part = part._repr_markdown_().strip()
        yield part


def setup(run: Run) -> str:
    """The data, sizes, seed, versions and device of the run."""
    p, pairs = run.params, run.pairs
    sizes = " and ".join(map(str, run.clusters.sizes))
    each = run.models.models[0].images
    side = p.data.image_size
    return (f"{len(pairs)} pairs, {tables.escaped(tables.data(p))}, at {side} × {side} pixels, in "
            f"{p.cluster.k} clusters of {sizes} pairs. A model of each cluster sees {each:,} images; from "
            f"each of {p.inpaint.sources or len(pairs)} sources {p.inpaint.samples} pairs are painted. Seed "
            f"{p.seed}, diffusegen {__version__}, torch {files.versions()['torch']}, "
            f"{tables.work(run)[1]}.")


def command(run: Run) -> str:
    """The command line of the run: what differs from the profile, with placeholders for paths."""
    given = {key: PLACES.get(key, value) if value != "random" else value
             for key, value in changed(run).items()}
    lines = [f"diffusegen run params/{PROFILE}.yaml --workers 2",
             *(f"    -p {key} {shell(value)}" for key, value in given.items())]
    return "```bash\n" + " \\\n".join(lines) + "\n```"


def apart(run: Run) -> str:
    """Which values of the run are not the profile's, data and pretrained networks aside: as ", with `seed: 1`
    in place of its own value", or ""."""
    own = {key: yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
           for key, value in changed(run).items() if key not in PLACES and not key.endswith(AT_HAND)}
    told = [f"`{key}: {value}`" for key, value in own.items()]
    named = " and ".join(filter(None, [", ".join(told[:-1]), *told[-1:]]))
    return f", with {named} in place of its own value{'s' if len(told) > 1 else ''}" if told else ""


def changed(run: Run) -> dict[str, Any]:
    """The parameters in which a run differs from the profile, by dotted keys."""
    written = params.validate(params.load(params.profile_file(PROFILE)))
    profile, mine = (flat(params.plain(p)) for p in (written, run.params))
    return {key: value for key, value in mine.items() if value != profile[key] and key not in UNSAID}


def flat(nested: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"train": {"images": 1}} as {"train.images": 1}."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def shell(value: Any) -> str:
    told = str(value).lower() if isinstance(value, bool) else str(value)
    return f'"{value}"' if isinstance(value, list) else "null" if value is None else told


def times(run: Run) -> dict[str, Any]:
    """The wall time of each notebook and of all, from the first start to the last end, and the device."""
    kept = {path.stem: nbformat.read(path, as_version=4).metadata["papermill"]
            for path in sorted((run.folder / "notebooks").glob("*.ipynb"))}
    began, ended = (pick(datetime.fromisoformat(one[key]) for one in kept.values())
                    for pick, key in ((min, "start_time"), (max, "end_time")))
    return {"chapters": {name: round(one["duration"], 1) for name, one in kept.items()},
            "seconds": round((ended - began).total_seconds(), 1), "device": tables.work(run)[1],
            "generators": run.params.generators, "versions": files.versions(), "date": f"{ended:%Y-%m-%d}"}


def timed(wall: dict[str, Any]) -> Table:
    rows = [*wall["chapters"].items(), ("everything, from the first chapter to the last", wall["seconds"])]
    frame = pd.DataFrame([(name, duration(seconds)) for name, seconds in rows],
                         columns=["chapter", "wall time"])
    one = "one generator" if wall["generators"] == 1 else f"{wall['generators']} generators"
    return show(frame, "times", f"Wall times of the profile with {one}, computed on {wall['device']}.")


def elsewhere(run: Run, wall: dict[str, Any]) -> Iterator[str]:
    """A sentence where the times are not those of this run."""
    if wall["device"] != (device := tables.work(run)[1]):
        yield (f"These times are from another run of this profile. What follows was computed on {device}, "
               "in part beside other programs, and took longer: the table of answers has the sum of the work "
               "of all its processes.")


def masked(noise: list[Pairs]) -> str:
    """A sentence on how many masks of pairs from noise show an object."""
    there = [mask.any() for pairs in noise for mask in pairs.masks]
    some = str(sum(there)) if any(there) else "None"
    return (f"{some} of the {len(there)} masks from noise {'show' if sum(there) > 1 else 'shows'} an object. "
            "In the upper rows the masks are given (`inpaint.masks: varied`), so that none is empty.")


def figure() -> str:
    return (f":::{{figure}} {PICTURE}\n:name: fig-small-samples\n:alt: Rows of filled regions without their "
            "surroundings, and rows of whole synthetic images above their masks\n:width: 100%\n\n"
            "Synthetic pixels of this run, drawn by its seed and not chosen by hand. No pixel of a real "
            "image is shown.\n:::")


def drawn(run: Run, noise: list[Pairs]) -> Figure:
    """Filled regions of the same pairs, as inpainted and as styled; then pairs from noise, by each model."""
    rows = [one for result in (run.inpainted, run.styled) for one in result.sets.values()]
    chosen = drawn_names(run, rows[-1])
    board_, axes = board(len(rows) + 2 * len(noise), SHOWN)
    for line, one in zip(axes, rows, strict=False):
        manifest = one.manifest.set_index("name")
        for ax, name in zip(line, chosen, strict=False):
            image, mask = read_pair(one.folder, name)
            source = run.pairs.masks[run.pairs.names.index(manifest.loc[name, "source"])]
            region = regions.filled(source[None], mask[None], run.params.inpaint.dilate)[0].astype(bool)
            rest = ~region & (mask[0] == 0)  # styling may move a border by a pixel
            picture(ax, np.where(rest[None], 255, image).astype(np.uint8))
            outline(ax, mask)
            top, bottom, left, right = window(region)
            ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
        named(line[0], one.data_type.name)
    for number, pairs in enumerate(noise):
        lines = axes[len(rows) + 2 * number:][:2]
        for column, image, mask in zip(lines.T, pairs.images, pairs.masks, strict=False):
            pair(column, image, mask)
        for line, row in zip(lines, ("image", "mask"), strict=True):
            named(line[0], f"model {number + 1},\n{row}")
    return board_


def drawn_names(run: Run, one: PairSet) -> list[str]:
    """Names of pairs drawn by the seed, in the manifest's order."""
    rng = seeds.rng(run.params.seed, "results at small scale")
    rows = np.sort(rng.choice(len(one), min(SHOWN, len(one)), replace=False))
    return one.manifest["name"].iloc[rows].tolist()


def window(region: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the square around a region (S, S), with a margin, inside the image."""
    side = min(len(region), 2 * MARGIN + max(np.ptp(axis) + 1 for axis in np.nonzero(region)))
    starts = [int(np.clip((axis.min() + axis.max() + 1 - side) // 2, 0, len(region) - side))
              for axis in np.nonzero(region)]
    return starts[0], starts[0] + side, starts[1], starts[1] + side


def named(ax: Any, name: str) -> None:
    ax.axis("on")
    ax.set_ylabel(name)


def small(run: Run, result: Tested) -> Iterator[Table]:
    """Chapter 7's tables of Dice, of detection, and of the seeds that a gain would need."""
    for ratio in segment_tables.ratios(result):
        yield segment_tables.small(run, result, "dice", ratio)
    yield segment_details.detection(run, result, SMALL, "augment-detection")
    yield detectable.seeds_needed(result, "augment-seeds")


def small_alone(run: Run) -> Iterator[Table]:
    """The same tables of a run whose generators see a small set alone, and its gains, which the key numbers
    have for the other run."""
    result = run.read("augment")
    yield keynumbers.gains(run, result, "augment-gains")
    yield from small(run, result)


if __name__ == "__main__":
    main()
