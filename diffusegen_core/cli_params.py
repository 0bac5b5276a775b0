"""What the commands share: parameters as `-p KEY VALUE`, run folders, and a first line for whoever waits."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from diffusegen_core.config.errors import UserError

if TYPE_CHECKING:
    from diffusegen_core.run import Run

Overrides = Annotated[list[str] | None, typer.Option(
    "-p", metavar="KEY VALUE", help="A parameter, such as -p train.images 7000; may be repeated.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/smoke.")]


class KeyValue(TyperCommand):
    """Reads `-p KEY VALUE`, papermill's way, as `-p KEY=VALUE`: typer repeats options of one word only."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's own context, which is private
        words, joined = iter(args), []
        for word in words:
            joined.append(word)
            if word == "-p":
                key = next(words, "")
                joined.append(key if "=" in key else "=".join([key, *islice(words, 1)]))
        return super().parse_args(ctx, joined)


def changes_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The values that were given, each as KEY=VALUE, in their sections. Raises UserError for another form."""
    from diffusegen_core.config import params  # which takes a while to import
    pairs = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"-p {text}: write -p KEY VALUE, such as -p train.images 7000.")
        pairs.append((name, value))
    return params.override({}, pairs)


def tell(text: str) -> None:
    """Say what a command is about to do, before it imports what takes seconds."""
    typer.echo(f"{text} ...", err=True)


def run_of(profile: Path, overrides: list[str], doing: str) -> "Run":
    """The run of a profile, with some parameters overridden as KEY=VALUE; it prints `doing` first."""
    from diffusegen_core.config import params
    changes = changes_of(overrides)
    path = params.profile_file(profile)
    params.validate(params.merged({**params.load(path), "profile": path.stem}, changes))
    tell(doing)
    from diffusegen_core.run import Run  # it takes seconds, and a wrong key is answered at once
    return Run.create(profile, changes)
