"""The command `diffusegen`: run chapters, build the book, look after data."""

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from diffusegen_core import __version__
from diffusegen_core.cli_data import data_app
from diffusegen_core.cli_export import export
from diffusegen_core.cli_new import new
from diffusegen_core.cli_params import KeyValue, Overrides, RunFolder, changes_of, run_of, tell
from diffusegen_core.cli_review import review_app
from diffusegen_core.cli_runs import clean, compare, plan, status
from diffusegen_core.config.errors import UserError, printable_lines
from diffusegen_core.config.text import counted

if TYPE_CHECKING:
    from diffusegen_core.run import Run

INTERRUPTED = 130  # typer's exit code after Ctrl-C
RESUMING = ("run", "filter", "paint")  # commands that keep what they have done so far
RECENT = 30.0  # the greatest age, in seconds, of a checkpoint that an interruption caused
HANGUP = getattr(signal, "SIGHUP", None)


@dataclass
class _Call:
    """What is told of the command at work if it ends early."""

    resumes: bool = False
    """Whether the same command goes on from what it has done."""
    behind: str = ""
    """A note on what goes on from further back than where it was interrupted."""
    signals: list[int] = field(default_factory=list)
    """Those that asked this process to end."""

    def begin(self, command: str | None) -> None:
        """Forget the call before, where one process makes several; no signal is forgotten."""
        self.resumes, self.behind = command in RESUMING, ""


_call = _Call()
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")
app.command()(export)
for command in (status, clean, compare):
    app.command()(command)
app.command(cls=KeyValue)(plan)
app.command(cls=KeyValue)(new)
app.add_typer(review_app, name="review")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def diffusegen(
    context: typer.Context,
    version: Annotated[bool, typer.Option(  # acted on by its callback
        "--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Synthetic labelled images with diffusion models, run as the chapters of a book."""
    _call.begin(context.invoked_subcommand)


@app.command(cls=KeyValue)
def run(
    profile: Annotated[Path, typer.Argument(help="A parameter file, such as params/smoke.yaml.")],
    overrides: Overrides = None,
    first: Annotated[str | None, typer.Option("--from", help="First chapter, by number or name.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last chapter, by number or name.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Just this chapter; may be repeated.")] = None,
    remake: Annotated[list[str] | None, typer.Option(
        help="Make again what was changed by hand in this chapter, after setting it aside; may be "
             "repeated.")] = None,
    book: Annotated[bool, typer.Option(help="Build the book at the end.")] = True,
    dry_run: Annotated[bool, typer.Option(
        help="Only list the networks of chapters 6 and 7 (if chosen by --from, --to or --only), and how long "
             "they will take. Nothing is written into the run folder.")] = False,
    workers: Annotated[int | None, typer.Option(
        min=1, max=256, help="Do the work in this many processes on this machine.")] = None,
    scheduler: Annotated[str | None, typer.Option(
        metavar="ADDRESS", help="Do it on the workers of a dask scheduler: tls://HOST:8786.")] = None,
    slurm: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Do it in jobs of Slurm, as params/slurm.yaml describes them.")] = None,
    insecure: Annotated[bool, typer.Option(
        "--insecure", help="Accept an unencrypted --scheduler that others can reach.")] = False,
) -> None:
    """Execute the chapters of a run, reusing what is finished, and build the book.

    Chapters that are up to date are not executed again, unless --only names them.
    """
    if dry_run:
        _call.resumes = False
    this = run_of(profile, overrides or [], f"Looking at what is finished of {profile}; nothing is made"
                if dry_run else f"Checking {profile}, and what its chapters need")
    # Imported only now, because they take seconds, and a wrong key is answered at once.
    from diffusegen_core import notebooks
    from diffusegen_core.config import devices
    from diffusegen_core.parallel import fanout, machines
    from diffusegen_core.planning import pace, preflight
    from diffusegen_core.planning import status as run_status
    from diffusegen_core.planning.display import Display
    from diffusegen_core.store import lock, ownparams
    chosen = notebooks.choose(first, last, only or [])
    again = preflight.remakes(remake or [])
    chapters = [notebooks.chapter_of(path) for path in chosen]
    preflight.check(this, [*chapters, *again])
    for note in preflight.notes(this.params, chapters):
        typer.echo(printable_lines(f"diffusegen: {note}"), err=True)
    preflight.refuse_miscounted(this, chapters)
    if dry_run:
        typer.echo(preflight.dry_run(this, chapters))
        return
    if first or only:
        preflight.refuse_mixture(this, [*chapters, *again])
    elsewhere = scheduler or slurm or os.environ.get(fanout.SCHEDULER)
    shared = bool(elsewhere or workers or this.params.train.devices > 1)
    if not elsewhere:  # otherwise the workers' machines must have it
        devices.device(this.params.device)
        devices.refuse_few(this.params.device, this.params.train.devices, workers or 1)
    with (lock.hold(this.folder), ownparams.leaving_nothing(this.folder),
          machines.hold(this.folder, workers, scheduler, slurm, insecure,
                        this.params.train.devices) as at_once):
        with ownparams.kept(this.params, this.given):
            for name in again:
                this.make(name, again=True)
            if this.params.data.on_bad == "skip":  # only reading tells how many are left
                this.make("data")
                preflight.refuse_miscounted(this, chapters)
        rates = {} if elsewhere or this.params.train.devices > 1 else pace.known(this.params, at_once)
        complete = set() if only else notebooks.complete(this)
        with Display(this, chapters, rates, at_once) as display:
            for notebook, name in zip(chosen, chapters, strict=True):
                if name in complete and notebooks.kept(notebook, this):
                    display.up_to_date(notebook.stem, name)
                    continue
                with display.chapter(notebook.stem, name), _telling_how_far_back(this, name, shared):
                    notebooks.execute(notebook, this)
        if book:
            _build_book(this)
    preflight.refuse_failed(this, chapters)
    if len(chosen) < len(notebooks.every()) and (then := run_status.unfinished(this)):
        typer.echo(printable_lines(then))


@app.command()
def book(
    folder: RunFolder,
    pdf: Annotated[bool, typer.Option(
        "--pdf", help="Also as one PDF, printed by an installed browser.")] = False,
    trust: Annotated[bool, typer.Option(
        "--trust", help="Show pages as they are even if your own diffusegen did not write them: what is in "
                        "them can then run in your browser, and show your files.")] = False,
) -> None:
    """Build the book of a run from the chapters that were executed.

    Pages that your own diffusegen did not write, or that were changed since, are shown as text and pictures.
    """
    from diffusegen_core.run import Run
    from diffusegen_core.store import lock
    this = Run.open(folder)
    with lock.hold(this.folder):
        _build_book(this, pdf, trust)


@app.command("filter", cls=KeyValue)
def filter_pairs(folder: RunFolder, overrides: Overrides = None) -> None:
    """Reject painted pairs that a filter finds bad, and show how many it keeps; nothing is deleted.

    What the run still lacks for this is made. Chapters 6 and 7 then have filtered data types beside the
    others. In a run without a filter, filter.folds becomes 3.
    """
    from diffusegen_core.config import params
    from diffusegen_core.planning import preflight
    from diffusegen_core.report import filtering
    from diffusegen_core.run import Run
    usual = {} if Run.open(folder).params.filter.folds else {"filter": {"folds": filtering.FOLDS}}
    this = Run.open(folder, params.merged(usual, changes_of(overrides or [])))
    preflight.check(this, ["filter"])
    this.make("filter")
    typer.echo(printable_lines(filtering.text(this)))


@app.command()
def paint(
    folder: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures of your own.")],
    mask: Annotated[Path | None, typer.Option(
        help="The new lesion: a mask as large as the picture, white where the lesion is to be; "
             "with several classes, as the masks of the data are.")] = None,
    like: Annotated[str | None, typer.Option(
        metavar="SIZE,POSITION", help="Or its size and place: medium,top-left (small, medium, large among "
                                      "the run's lesions), or 0.05,0.4:0.6.")] = None,
    old: Annotated[Path | None, typer.Option(
        help="The mask of a lesion in the picture that is to be painted over.")] = None,
    keep: Annotated[Path | None, typer.Option(
        help="The mask of what the picture has and keeps, such as another lesion: it will be in the new mask "
             "too. If it shows the class that inpaint.within names, the new lesion is placed there.")] = None,
    remove: Annotated[bool, typer.Option(
        "--remove", help="Paint no lesion, but remove what --mask shows.")] = False,
    count: Annotated[int, typer.Option(min=1, help="Pictures to make from each.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="A new folder: images/, masks/, manifest.csv.")] = Path("painted"),
) -> None:
    """Paint lesions into pictures of your own, of any size, with the models of a run.

    Without --mask and --like a lesion of a typical size is placed somewhere in the field of view. Both keep
    off burnt-in text where it is found, never in grey pictures, and --like off the dark frame: the lesion is
    then at the nearest free place. The same command goes on where it was stopped.
    """
    tell(f"Painting into {len(images)} picture{'' if len(images) == 1 else 's'} with the models of {folder}")
    from diffusegen_core import painting
    from diffusegen_core.run import Run
    opened = Run.open(folder)
    made = painting.paint(opened, images, out, count, seed, mask, like, old, remove, keep)
    typer.echo(f"{counted(len(made), 'pair')}: {out}")
    settings, classes = opened.params.inpaint, opened.params.data.classes
    for line in () if remove else painting.reminders(settings, classes, mask, old, keep):
        typer.echo(line)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _build_book(this: "Run", pdf: bool = False, trust: bool = False) -> None:
    """Draw the pictures of the book's first pages, build it, and say where it lies, and which pages are shown
    as text because somebody else wrote them.

    A chapter that was made without leaving its page in the run, as by papermill, is executed for the page,
    which finds everything made. If that fails, the book is built without it.
    """
    from diffusegen_core import notebooks
    from diffusegen_core.report import book as book_module
    from diffusegen_core.report import front, opening, tables
    for notebook in notebooks.without_page(this):
        typer.echo(f"{notebook.stem}: made, but has no page in the run; its notebook is executed", err=True)
        try:
            notebooks.execute(notebook, this)
        except UserError as error:
            typer.echo(printable_lines(f"It is not in the book: {error}"), err=True)
    pages = notebooks.executed(this)
    for line in book_module.told_of_others([] if trust else pages, this.folder):
        typer.echo(printable_lines(line), err=True)
    typer.echo("Building the book", err=True)
    front.draw(this)
    path = book_module.build(this.folder, notebooks=pages, footer=tables.line(this),
                             opening=opening.page(this), as_pdf=pdf, trust=trust)
    typer.echo(f"The book: {path}")


@contextlib.contextmanager
def _telling_how_far_back(this: "Run", chapter: str, shared: bool) -> Iterator[None]:
    """If chapter 2 is interrupted and has not kept the step that it had reached, as may happen with workers
    or several processes of one training, the command's last line says so."""
    try:
        yield
    except KeyboardInterrupt:
        from diffusegen_core.chapters import resuming
        kept = resuming.last_kept(this.folder) if chapter == "train" else None
        if kept is not None and (shared or time.time() - kept > RECENT):
            _call.behind = (", a model in training from its last checkpoint, at most "
                            f"train.checkpoint_every = {this.params.train.checkpoint_every} steps back")
        raise


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """A UserError or a full disk becomes one message on stderr and exit code 2; an interruption, a line.

    Everything else keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        message = error.in_a_shell
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        then = "and the same command goes on" if _call.resumes else "and try again"
        message = f"{error.strerror}: make room, {then}."
    except SystemExit as end:
        if end.code == INTERRUPTED:
            how = "terminated" if _call.signals else "interrupted"
            then = f"; run the same command again to continue{_call.behind}" if _call.resumes else ""
            with contextlib.suppress(OSError):  # the terminal may be gone
                typer.echo(f"diffusegen: {how}{then}.", err=True)
            sys.exit(128 + _call.signals[0] if _call.signals else INTERRUPTED)
        raise
    else:
        return
    typer.echo(printable_lines(f"diffusegen: {message}"), err=True)
    sys.exit(2)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Treat SIGTERM, as a scheduler sends it at a job's end, and SIGHUP, from a closing terminal, as Ctrl-C.
    A closing terminal sends SIGHUP twice, and some systems send both signals: once is enough."""
    if _call.signals and HANGUP in (number, *_call.signals):
        return
    _call.signals.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    if HANGUP is not None and signal.getsignal(HANGUP) == signal.SIG_DFL:  # otherwise nohup has set it
        signal.signal(HANGUP, _terminate)
    with _readable_errors():
        app()
