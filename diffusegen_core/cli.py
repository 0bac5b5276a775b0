"""The command `diffusegen`: run chapters, build the book, look after data."""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from diffusegen_core import __version__
from diffusegen_core.config.errors import UserError, printable

if TYPE_CHECKING:
    from diffusegen_core.config.params import Params

INTERRUPTED = 130  # typer's exit code after Ctrl-C
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Synthetic labelled images with diffusion models, run as the chapters of a book.")
data_app = typer.Typer(no_args_is_help=True, help="Check, fetch or draw image+mask pairs.")
app.add_typer(data_app, name="data")
review_app = typer.Typer(no_args_is_help=True, help="Ask an expert: make a form, score its answers.")
app.add_typer(review_app, name="review")

Overrides = Annotated[list[str] | None, typer.Option(
    "-p", metavar="KEY VALUE", help="A parameter, such as -p train.images 7000; may be repeated.")]


class _Run(TyperCommand):
    """Reads `-p KEY VALUE`, papermill's way, as `-p KEY=VALUE`: typer repeats options of one word only."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        words, joined = iter(args), []
        for word in words:
            joined.append(word)
            if word == "-p":
                key = next(words, "")
                joined.append(key if "=" in key else "=".join([key, *islice(words, 1)]))
        return super().parse_args(ctx, joined)


@app.command(cls=_Run)
def run(
    profile: Annotated[Path, typer.Argument(help="A parameter file, such as params/smoke.yaml.")],
    overrides: Overrides = None,
    first: Annotated[str | None, typer.Option("--from", help="First chapter, by number or name.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last chapter, by number or name.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Just this chapter; may be repeated.")] = None,
    book: Annotated[bool, typer.Option(help="Build the book at the end.")] = True,
    dry_run: Annotated[bool, typer.Option(
        help="Only show the networks of the chosen chapters among 6 and 7, and the time that they will "
             "take. Nothing is written into the run folder.")] = False,
    workers: Annotated[int | None, typer.Option(
        min=1, help="Do the work in so many processes of this machine.")] = None,
    scheduler: Annotated[str | None, typer.Option(
        metavar="ADDRESS", help="Do it on the workers of a dask scheduler: tcp://HOST:8786.")] = None,
    slurm: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Do it in jobs of Slurm, as params/slurm.yaml describes them.")] = None,
) -> None:
    """Execute the chapters of a run, each resuming what is there, and build the book."""
    p = _parameters(profile, overrides or [])
    # Imported only now, because they take seconds, and a wrong key is answered at once.
    from diffusegen_core import notebooks
    from diffusegen_core.config import devices
    from diffusegen_core.parallel import fanout, machines
    from diffusegen_core.planning import preflight
    from diffusegen_core.store import runs
    chosen = notebooks.choose(first, last, only or [])
    preflight.check(p, chosen)
    if dry_run:
        typer.echo(preflight.dry_run(p, chosen))
        return
    if not (scheduler or slurm or os.environ.get(fanout.SCHEDULER)):  # else other machines must have it
        devices.device(p.device)
    with runs.lock(p.folder), machines.hold(workers, scheduler, slurm):
        notebooks.keep(p)
        for chapter in chosen:
            typer.echo(f"{chapter.stem}: running", err=True)
            notebooks.execute(chapter, p)
        if book:
            _build_book(p)


@app.command(cls=_Run)
def plan(
    profile: Annotated[Path, typer.Argument(help="A parameter file, such as params/paper.yaml.")],
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(
        help="For how long the device is probed, about; at most 3600; 0 leaves the times out.")] = 20.0,
) -> None:
    """Show the work of each chapter (FLOP, images, disk), and the time that it takes on this device."""
    p = _parameters(profile, overrides or [])
    # Imported only now, because they take seconds.
    from diffusegen_core.planning import plan as planning
    from diffusegen_core.planning import preflight
    typer.echo(planning.make(p, seconds).text)
    if problems := preflight.problems(p):
        typer.echo("\nAs things are, `diffusegen run` refuses these parameters:")
        typer.echo(_printable("\n".join(problems)))


@app.command()
def book(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/smoke.")],
) -> None:
    """Build the book of a run from the chapters that were executed."""
    from diffusegen_core import notebooks
    from diffusegen_core.store import runs
    p = notebooks.kept(folder.resolve())
    with runs.lock(p.folder):
        _build_book(p)


@data_app.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of image+mask pairs.")],
    clusters: Annotated[int | None, typer.Option(help="The number of clusters that is planned.")] = None,
) -> None:
    """Show every problem of a data folder in one table; exit 1 if there is any."""
    from diffusegen_core.data import layouts
    report = layouts.check(folder, clusters)
    typer.echo(report.text)
    raise typer.Exit(1 if report.problems else 0)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="hyperkvasir")],
    to: Annotated[Path, typer.Option(help="Where the archive and its folder go.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="Another address of the same archive.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Refuse an archive with another SHA-256.")] = None,
) -> None:
    """Download a published archive, resuming where an earlier call stopped, and unpack it."""
    from diffusegen_core.data import fetch
    typer.echo(f"The pairs: {fetch.fetch(name, to, url=url, sha256=sha256)}")


@data_app.command("phantom")
def data_phantom(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    count: Annotated[int, typer.Option(min=1)] = 48,
    size: Annotated[int, typer.Option(min=8, help="Side in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw a dataset folder of phantoms: colonoscopy-like pairs with exact masks."""
    from diffusegen_core.data import dataset
    dataset.write_phantoms(folder, count, size, seed)
    typer.echo(f"{count} pairs: {folder}")


@review_app.command("make")
def review_make(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/smoke.")],
    per_type: Annotated[int, typer.Option(min=1, help="Pairs of each data type.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Where form and key go; by default RUN/review.")] = None,
) -> None:
    """Write a form of shuffled pairs, Real, K-Diff and K-Styled-Diff, and its key."""
    from diffusegen_core import notebooks
    from diffusegen_core.report import review
    p = notebooks.kept(folder.resolve())
    with tempfile.TemporaryDirectory() as real:
        folders = review.folders_of(p, Path(real))
        form, key = review.make(folders, out or p.folder / "review", per_type, p.seed)
    typer.echo(f"The form: {form}\nIts key:  {key}")
    typer.echo("Send the reviewer the form alone: the key says which pairs are real. The form exports the "
               "answers as a file; `diffusegen review score ANSWERS KEY` reads it.")


@review_app.command("score")
def review_score(
    answers: Annotated[Path, typer.Argument(help="The file that the form exported.")],
    key: Annotated[Path, typer.Argument(help="The key of that form.")],
) -> None:
    """Show the answers by data type (Table B1), with accuracy, precision and recall."""
    from diffusegen_core.report import review
    typer.echo(review.describe(review.score(answers, key)))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _build_book(p: "Params") -> None:
    """Draw the pictures that open the book, build it, and say where it lies."""
    from diffusegen_core import notebooks
    from diffusegen_core.report import book as book_module
    from diffusegen_core.report import front, tables
    front.draw(p)
    path = book_module.build(p.folder, notebooks=notebooks.executed(p), footer=tables.line(p))
    typer.echo(f"The book: {path}")


def _parameters(profile: Path, overrides: list[str]) -> "Params":
    """A profile's parameters, of which some have other values, each as KEY=VALUE."""
    from diffusegen_core.config import params
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"-p {text}: write -p KEY VALUE, such as -p train.images 7000.")
        pairs.append((key, value))
    return params.validate(params.override({"profile": profile.stem, **params.load(profile)}, pairs))


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """A UserError, or a full disk, is one message on stderr and exit code 2; an interruption is a line.

    All else keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{error.strerror}: make room, and the same command goes on."
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("diffusegen: interrupted; the same command goes on from here.", err=True)
        raise
    else:
        return
    typer.echo(_printable(f"diffusegen: {message}"), err=True)
    sys.exit(2)


def _printable(lines: str) -> str:
    """Names from strangers may hold what moves a terminal."""
    return "\n".join(map(printable, lines.split("\n")))


def main() -> None:
    """The console script."""
    with _readable_errors():
        app()
