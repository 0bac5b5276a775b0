"""The commands `diffusegen review ...`: ask an expert which pairs are real, and score the answers."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from diffusegen_core.cli_params import RunFolder

review_app = typer.Typer(no_args_is_help=True, help="Ask an expert: make a form, score its answers.")


@review_app.command("make")
def review_make(
    folder: RunFolder,
    per_type: Annotated[int, typer.Option(min=1, help="Pairs of each data type.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Where form and key go; by default RUN/review.")] = None,
) -> None:
    """Write a form of shuffled real, painted and styled pairs, and its key."""
    from diffusegen_core.report import review
    from diffusegen_core.run import Run
    from diffusegen_core.store import moves
    this = Run.open(folder)
    with tempfile.TemporaryDirectory() as real:
        folders = review.folders_of(this, Path(real))
        if out is None:
            moves.refuse_links(this.folder, ["review"])
        form, key = review.make(folders, out or this.folder / "review", per_type, this.params.seed,
                                classes=this.params.data.classes)
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
