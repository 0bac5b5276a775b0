"""The commands `diffusegen data ...`: check, fetch or draw image+mask pairs."""

from pathlib import Path
from typing import Annotated

import typer

from diffusegen_core.config.data import PHANTOMS
from diffusegen_core.config.errors import UserError, printable

data_app = typer.Typer(no_args_is_help=True, help="Check, fetch or draw image+mask pairs.")


@data_app.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of image+mask pairs.")],
    clusters: Annotated[int | None, typer.Option(help="The number of clusters that is planned.")] = None,
) -> None:
    """Show every problem of a data folder in one table; exit 1 if there is any."""
    from diffusegen_core.config import params
    from diffusegen_core.data import layouts
    report = layouts.check(folder if folder.exists() else params.resolve(folder), clusters)
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
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(PHANTOMS)}.")] = "phantom",
) -> None:
    """Draw a dataset folder of phantoms: pairs with exact masks, like colonoscopy, ultrasound, or slices."""
    from diffusegen_core.data import dataset
    if kind not in PHANTOMS:
        raise UserError(f"There are no phantoms {printable(kind)}. There are {', '.join(PHANTOMS)}.")
    dataset.write_phantoms(folder, count, size, seed, kind)
    typer.echo(f"{count} pairs: {folder}")
