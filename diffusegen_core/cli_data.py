"""The commands `diffusegen data ...`: check, fetch or draw image+mask pairs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusegen_core.cli_params import KeyValue, Overrides, changes_of
from diffusegen_core.config.data import PHANTOMS
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.text import counted

if TYPE_CHECKING:
    from diffusegen_core.config.data import Data
    from diffusegen_core.data.checkup import Checkup

data_app = typer.Typer(no_args_is_help=True, help="Check, fetch or draw image+mask pairs.")


@data_app.command("check", cls=KeyValue)
def data_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of image+mask pairs.")],
    overrides: Overrides = None,
    images: Annotated[str | None, typer.Option(
        metavar="GLOB", help="Which files are images: data.images, as 'train/*.png'.")] = None,
    masks: Annotated[str | None, typer.Option(
        metavar="GLOB", help="Which are their masks: data.masks, as 'labels/*_seg.png'.")] = None,
    patients: Annotated[str | None, typer.Option(
        metavar="REGEX|CSV:COLUMN|each", help="How to tell patients apart: data.patients, as '^(P[0-9]+)', "
                                              "or who.csv:patient.")] = None,
    profile: Annotated[Path | None, typer.Option(
        help="A parameter file: check the folder as its section `data` would read it.")] = None,
    clusters: Annotated[int | None, typer.Option(help="The planned number of clusters.")] = None,
    whole: Annotated[bool, typer.Option(
        "--all", help="List every mask that has values of no class, even if most masks have them."
    )] = False,
) -> None:
    """Show what a data folder holds, one verdict per line, and all problems in one table; exit 1 if any.

    `look` marks what may be in order, but often is not. -p data.KEY VALUE works as in `run`.
    """
    from diffusegen_core.config import params
    from diffusegen_core.config.data import Data
    from diffusegen_core.data import checkup, layouts
    changes = changes_of(overrides or [])
    if other := [name for name in changes if name != "data"]:
        raise UserError(f"-p {other[0]}: only parameters of data can be given here, such as -p "
                        "data.labels '{1: lesion}'.")
    told = params.section(params.load(params.profile_file(profile)), "data") if profile else {}
    globs = {name: glob for name, glob in (("images", images), ("masks", masks)) if glob}
    there = folder if folder.exists() else params.resolve(folder)
    given: dict[str, Any] = {**told, **changes.get("data", {}), **globs,
                             **({"patients": patients} if patients else {})}
    read_by = {} if "images" in given else layouts.only_patterns(there)
    given = {"object": "lesion", **read_by, **given}
    settings = params.typed(Data, given, "Parameters: data")
    made = checkup.checkup(there, clusters, settings)
    if profile is None and "labels" not in given and (classes := _classes(made)):
        if "object" not in changes.get("data", {}):
            del given["object"]  # these have names
        settings = params.typed(Data, {**given, "labels": classes}, "Parameters: data")
        of_files = set(made.report.told) == set(classes)
        made = checkup.checkup(there, clusters, settings)
        names = ", ".join(f"{value}: NAME" for value in classes)
        made = replace(made, lines=[*made.lines, (checkup.LOOK, "labels", (
            "classes named as in the files, as `new` does; -p data.labels chooses among them or joins them"
            if of_files else "classes guessed from the values of the masks, as `new` does; give them names: "
                             f"-p data.labels '{{{names}}}'"))])
    if read_by:
        typer.echo(printable(f"Read by --images '{read_by['images']}' --masks '{read_by['masks']}', as `new` "
                             "does; in a parameter file of your own, set data.images and data.masks."))
    made = _with_prospects(made, settings)
    typer.echo("\n".join(map(printable, (made.text if whole else made.brief).split("\n"))))
    raise typer.Exit(1 if made.report.problems else 0)


def _classes(made: "Checkup") -> dict[str, str]:
    """The classes that `new` would read from masks which have more than two values; {} where it would not."""
    from diffusegen_core.newprofile import guesses
    classes = guesses.labels(made.seen, made.report) or {}
    return classes if len(classes) > 1 else {}


def _with_prospects(made: "Checkup", settings: "Data") -> "Checkup":
    """The same with a line on patients where these are unknown, and one on whether the pairs are enough for a
    verdict."""
    from diffusegen_core.data.checkup import LOOK, OK, showing
    from diffusegen_core.data.checkup import listed as told
    from diffusegen_core.measures.power import LEAST_IMAGES
    from diffusegen_core.newprofile import firstlook, guesses
    lines: list[tuple[str, str, str]] = []
    if not any(subject == "patients" for _, subject, _ in made.lines):
        guess = guesses.patients(replace(made.report, pairs=made.seen.listed))
        if guess:
            settings = settings.model_copy(update={"patients": guess})
            by_names = made.told_patients(settings)
            lines = [(LOOK, subject, words.replace("by data.patients", "guessed from the images' names, as "
                      "`new` does; --patients says otherwise")) for _, subject, words in by_names.lines
                     if subject == "patients"]
            made = replace(by_names, lines=[line for line in by_names.lines if line[1] != "patients"])
        else:
            lines = [(LOOK, "patients", "unknown: if several images are of one patient, say how to tell "
                                        "patients apart (--patients), or scores will be too good")]
    if count := len(made.report.pairs):
        listed = replace(made.report, pairs=made.seen.listed)
        own = settings.model_copy(update={"source": str(listed.folder), "count": None})  # as `new` takes them
        usable = {pair.name for pair in made.report.pairs}
        given = None if settings.holdout == type(settings)().holdout else settings.holdout or 0.0
        names = (firstlook.share(listed, usable, own, made.seen)[1] if given is None else
                 usable.intersection(firstlook.held_out(listed, own, given)))
        held, few = len(names), {name: shown for name, shown in showing(made.seen, own, names).items()
                                 if shown < LEAST_IMAGES and len(own.classes) > 1}
        of = f"{counted(count, 'pair')}, of which `new` holds out {held}"
        rare = f", but not on single classes with fewer than {LEAST_IMAGES}: {told(few)}" if few else ""
        lines.append((LOOK if few else OK, "number", f"{of}: enough for a verdict{rare}")
                     if held >= LEAST_IMAGES else
                     (LOOK, "number", f"{of}: too few for a verdict, which needs {LEAST_IMAGES} test images"
                                      f"{_enough(firstlook.least(listed, usable, own), firstlook.MOST)}"))
    return replace(made, lines=[*made.lines, *lines])


def _enough(least: tuple[float, int] | None, most: float) -> str:
    """With which share there are enough test images, in words; None: with none up to `most`."""
    if least is None:
        return (f"; no share up to {most:g} holds out so many, so let `new` test on another folder: -p "
                "segment.held_out DIR -p data.holdout null")
    share, left = least
    return f" (with -p data.holdout {share:g} `new` holds out enough, and {left} are left to train on)"


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="The data set to download: hyperkvasir.")],
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
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(PHANTOMS)}.")] = "phantom",
) -> None:
    """Draw a dataset folder of phantoms: pairs with exact masks, like colonoscopy, ultrasound, or slices."""
    from diffusegen_core.data import dataset
    if kind not in PHANTOMS:
        raise UserError(f"There are no phantoms called {printable(kind)}. Choose from {', '.join(PHANTOMS)}.")
    dataset.write_phantoms(folder, count, size, seed, kind)
    typer.echo(f"{count} pairs: {folder}")
