"""The command `diffusegen export`: a run's pairs in the formats of other programs, or its models."""

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Target(StrEnum):
    """The formats, as `exports.exporting.FORMATS`, which takes seconds to import."""

    NNUNET = "nnunet"
    COCO = "coco"
    HF = "hf"
    MONAI = "monai"
    FOLDER = "folder"
    MODELS = "models"  # no format of pairs: `exporting.models`


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/smoke.")],
    to: Annotated[Target, typer.Option(
        help="Pairs for nnU-Net v2, COCO, Hugging Face datasets, MONAI, or a plain folder; or the models.")],
    out: Annotated[Path | None, typer.Option(
        metavar="DIR", help="A new folder; by default exports/RUN-FORMAT, for nnU-Net "
                            "exports/Dataset501_RUN; if that is there already, the next free number is "
                            "proposed.")] = None,
    types: Annotated[str | None, typer.Option(
        metavar="TYPE,...", help="Data types, such as 2-Styled-Paint,GAN, or Real for real pairs alone; by "
                                 "default the styled pairs, filtered where there is a filter.")] = None,
    real: Annotated[bool, typer.Option("--real/--no-real", help="Include the real pairs.")] = True,
    native: Annotated[bool, typer.Option(
        "--native", help="At the size of each pair's own files instead of the run's.")] = False,
    generators: Annotated[bool, typer.Option(
        "--all-generators", help="Include the pairs of the run's further generators.")] = False,
    by_class: Annotated[bool, typer.Option(
        "--by-class", help="A mask for each class, in one array; only for folder and monai.")] = False,
    held_out: Annotated[bool, typer.Option(
        "--held-out", help="Include the real pairs that the run is tested on, as their own split.")] = False,
    keep_names: Annotated[bool, typer.Option(
        "--keep-names", help="Name files after the images that they were made from, instead of "
                             "numbering them.")] = False,
) -> None:
    """Write the pairs of a run as a dataset for other programs, or its models, with a card.

    By default that is the real pairs and the styled ones, whatever chapter 7 found; the last lines say what
    that was. Pairs are numbered: a file beside the folder, which is not to be shared, lists their names in
    the run. What is not finished is not made, and no file is overwritten.
    """
    from diffusegen_core.config.errors import UserError, printable
    from diffusegen_core.exports import exporting, remarks
    from diffusegen_core.exports.cases import TEST
    from diffusegen_core.run import Run
    if to is Target.MODELS:
        if types is not None or not real or native or generators or by_class or keep_names or held_out:
            raise UserError("--types, --no-real, --native, --all-generators, --by-class, --held-out and "
                            "--keep-names apply to pairs; --to models writes only models.")
        place, trained = exporting.models(Run.open(folder), out)
        typer.echo(f"{len(trained.all)} models: {printable(str(place))}")
        typer.echo(f"State what the licence of the data permits, in {printable(str(place / exporting.CARD))}")
        return
    names = [name.strip() for name in types.split(",") if name.strip()] if types is not None else None
    if names == []:
        raise UserError(f"--types {types!r} names no data type; name some, or leave it out.")
    place, chosen = exporting.export(Run.open(folder), to.value, out, names, real, native, generators,
                                     by_class, keep_names, held_out)
    counts = Counter("held-out" if case.split == TEST else case.data_type.name for case in chosen.cases)
    typer.echo(f"{', '.join(f'{count} {kind}' for kind, count in counts.items())} pairs: "
               f"{printable(str(place))}")
    for line in remarks.lines(chosen):
        typer.echo(printable(line))
    typer.echo(f"Fill in the licence of the data: {printable(str(place / exporting.CARD))}")
    beside = printable(str(exporting.names_of(place)))
    typer.echo("File names and origins.csv have the names of the run's images (--keep-names): see that these "
               "name no patient." if keep_names else
               f"Pairs are numbered. Their names in the run are in {beside}; do not share that file.")
