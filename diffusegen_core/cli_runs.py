"""The commands that look at runs: `diffusegen plan`, `status`, `clean` and `compare`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from diffusegen_core.cli_params import Overrides, RunFolder, run_of, tell
from diffusegen_core.config.errors import printable, printable_lines


def status(
    folder: Annotated[Path | None, typer.Argument(
        metavar="[RUN]", help="A run folder, such as runs/smoke; without one, the runs in runs/ are listed."
    )] = None,
    verify: Annotated[bool, typer.Option(
        help="Compare the hash of every file, not only its size and time.")] = False,
    seconds: Annotated[float, typer.Option(
        help="Measure this device for about this many seconds to estimate the time left; 0 goes by what is "
             "finished in the run.")] = 0.0,
) -> None:
    """Show what in a run is made, stale, set aside or running, how long the rest takes, and what is next."""
    tell(f"Looking at {folder}" if folder else "Looking at the runs in runs/")
    from diffusegen_core.planning import status as run_status
    from diffusegen_core.run import Run
    lines = run_status.text(Run.open(folder), str(folder), verify, seconds) if folder else run_status.every()
    for line in lines:
        typer.echo(printable_lines(line))


def plan(
    profile: Annotated[Path, typer.Argument(help="A parameter file, such as params/paper.yaml.")],
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(
        help="About how many seconds to measure the device; at most 3600; 0 leaves out the times.")] = 20.0,
) -> None:
    """Show the work of each chapter (FLOP, images, disk), and the time that it takes on this device.

    While a command makes the run, the device is not measured: that would take the command's time for its own.
    """
    this = run_of(profile, overrides or [], f"Counting the work of {profile}")
    p = this.params
    # Imported only now, because they take seconds.
    from diffusegen_core.planning import plan as planning
    from diffusegen_core.planning import preflight
    from diffusegen_core.planning import status as run_status
    from diffusegen_core.store import lock
    held = lock.holder(this.folder)
    if seconds and not held:
        tell(f"Then measuring this device for {seconds:g} s")
    made = planning.make(p, 0 if held else seconds)
    typer.echo(made.text)
    for note in preflight.notes(p):
        typer.echo(printable_lines(f"\n{note}"))
    if problems := preflight.problems(p):
        typer.echo("\nAs things are, `diffusegen run` refuses these parameters:")
        typer.echo(printable_lines("\n".join(problems)))
    there, finished = run_status.beside_plan(this, made)
    if there:
        typer.echo(f"\n{printable_lines(there)}")
    if finished or held:
        return
    given = "".join(f" -p {key} {shlex.quote(value)}" for key, _, value in
                    (text.partition("=") for text in overrides or []))
    typer.echo(f"\nNext: {'fix that, then ' if problems else ''}`diffusegen run {profile}{given}`; "
               "`diffusegen status` shows how far it has got.")


def clean(
    folder: RunFolder,
    remove: Annotated[list[str] | None, typer.Option(
        metavar="NAME", help="Remove the listed item of this name, or `all`; may be repeated.")] = None,
) -> None:
    """List what is set aside in a run folder, or unfinished there; remove it only if asked to."""
    from diffusegen_core.config.text import counted, duration, size
    from diffusegen_core.run import Run
    from diffusegen_core.store import aside, lock
    this = Run.open(folder)
    if remove:
        with lock.hold(this.folder):
            typer.echo(f"Removed: {size(aside.remove(this.folder, remove))}.")
    items = aside.kept(this.folder)
    for one in items:
        took = ("unfinished" if one.seconds is None else
                f"{duration(one.seconds)} of work" if one.seconds else "")
        typer.echo(f"{size(one.bytes):>8}  {took:22} {printable(one.name)}")
    total = size(sum(one.bytes for one in items))
    typer.echo(f"{counted(len(items), 'item')} set aside or unfinished, {total}."
               if items else "Nothing is set aside.")


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Two or more run folders.")],
    csv: Annotated[Path | None, typer.Option(help="Also write the tables into this new folder.")] = None,
) -> None:
    """Join finished runs, such as of several cluster counts: Tables 3 and B2 to B7, and one list of verdicts.

    Nothing is made in the runs. They must have the same data, test sets, seed and segmentation networks.
    """
    tell(f"Reading {len(folders)} runs")
    from diffusegen_core.report import compare as comparing
    from diffusegen_core.run import Run
    joined = comparing.join([Run.open(folder) for folder in folders])
    if csv is not None:
        written = comparing.write(joined, csv)
        typer.echo(f"{len(written)} tables: {csv}", err=True)
    typer.echo(printable_lines(comparing.text(joined)))
