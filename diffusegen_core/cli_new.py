"""The command `diffusegen new`: a parameter file for data of one's own."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from diffusegen_core.cli_params import Overrides, changes_of
from diffusegen_core.config.errors import UserError, printable

LEAST, MOST = 1.0, 10_000.0  # minutes; MOST as newprofile.fitting.MOST_MINUTES


def new(
    folder: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of image+mask pairs.")],
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option(help="How long the run may take, on this machine.")] = 60.0,
    device: Annotated[str, typer.Option(help="auto (cuda where there is one), cpu, cuda, cuda:1")] = "auto",
    out: Annotated[Path, typer.Option(help="The file to write; the run takes its name.")] = Path(
        "params/mine.yaml"),
    images: Annotated[str | None, typer.Option(
        metavar="GLOB", help="Which files are images: data.images, as 'train/*.png'.")] = None,
    masks: Annotated[str | None, typer.Option(
        metavar="GLOB", help="Which are their masks: data.masks, as 'labels/*_seg.png'.")] = None,
    patients: Annotated[str | None, typer.Option(
        metavar="REGEX|CSV:COLUMN|each", help="How to tell patients apart, who are held out whole: "
                                              "'^(P[0-9]+)', or who.csv:patient; each: no two images share a "
                                              "patient.")] = None,
    weights: Annotated[str | None, typer.Option(
        metavar="FILE", help="Weights of torchvision's mobilenet_v2 or the like, where none can be "
                             "downloaded; book/data.md has their addresses.")] = None,
    input_range: Annotated[Literal["imagenet", "symmetric"], typer.Option(
        help="The pixels that a file of --weights expects: by ImageNet's mean and deviation, or from -1 to "
             "1.")] = "imagenet",
) -> None:
    """Look at data of your own, time this device, and write a parameter file that fits, with reasons.

    A share of 0.2 to 0.35 of the pairs is held out for tests. -p KEY VALUE as in `run` sets what you know
    better.
    """
    if not LEAST <= minutes <= MOST:
        raise UserError(f"--minutes {minutes:g}: a run takes from {LEAST:g} to {MOST:g} minutes.")
    if (images is None) != (masks is None):
        raise UserError("--images and --masks are given together or not at all.")
    if input_range != "imagenet" and weights is None:
        raise UserError("--input-range is about the file of --weights: give that too.")
    changes = changes_of(overrides or [])
    from diffusegen_core.config import params
    from diffusegen_core.newprofile.wish import Wish, refuse_there
    refuse_there(params.resolve(out))
    from diffusegen_core.newprofile import making  # this takes seconds
    there = folder if folder.exists() else params.resolve(folder)
    file = str(Path(weights).absolute()) if weights and Path(weights).exists() else weights
    typer.echo("Looking at the data, then timing this device; that takes some minutes.", err=True)
    made = making.make(Wish(there.absolute(), minutes, device, out, images, masks, patients, file,
                            input_range, changes))
    made.write()
    typer.echo("\n".join(map(printable, making.text(made).split("\n"))))
    typer.echo(f"\nWritten: {made.file}. Look at data.object, data.patients and augment.sizes in it; "
               "`diffusegen plan` says more about the time. Then:\n"
               f"  diffusegen run {shlex.quote(str(out))} --to 3  # trains and paints: look at the pairs\n"
               f"  diffusegen run {shlex.quote(str(out))}         # makes the rest\n"
               f"{_workers(device)}".rstrip())


def _workers(device: str) -> str:
    """What --workers does on this machine, a line; "" where it has one core, or one GPU is used."""
    from diffusegen_core.config import devices
    count, what = devices.units(device)
    most = "" if what == devices.CARDS else ", if the memory is enough"
    return "" if count == 1 else (
        f"This machine has {count} {what}: --workers N, up to {count}{most}, computes N items (models, sets "
        "of pairs, networks) at once, which is faster where there are several.")
