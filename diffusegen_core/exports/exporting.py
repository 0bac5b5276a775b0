"""The command `diffusegen export`: a run's pairs for other programs, or its models; all or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusegen_core.chapters.trained import Trained
from diffusegen_core.exports import cases, datacard, to_coco, to_folder, to_hf, to_models, to_monai, to_nnunet
from diffusegen_core.exports.cases import Chosen
from diffusegen_core.painting import refuse_place
from diffusegen_core.run import Run
from diffusegen_core.store import files

CARD, ORIGINS = "README.md", "origins.csv"


@dataclass(frozen=True)
class Format:
    """How a format is written."""

    title: str
    write: Callable[[Path, Chosen, str], str]
    """Into a folder, which will be called so: what its card says of the layout."""
    head: Callable[[Chosen, str], str] = lambda chosen, called: ""
    """Of the card."""


FORMATS = {"nnunet": Format(to_nnunet.TITLE, to_nnunet.write), "coco": Format(to_coco.TITLE, to_coco.write),
           "hf": Format(to_hf.TITLE, to_hf.write, to_hf.head),
           "monai": Format(to_monai.TITLE, to_monai.write),
           "folder": Format(to_folder.TITLE, to_folder.write)}


def export(run: Run, to: str, out: Path | None = None, types: Sequence[str] | None = None,
           real: bool = True, native: bool = False) -> tuple[Path, Chosen]:
    """Write the finished pairs of a run in one of FORMATS into a new folder: where it is, and what it holds.

    By default the folder is called after the run and the format, and lies where one stands. `types`, `real`
    and `native` as in `cases.choose`. UserError where the run lacks the pairs, and where the folder holds
    anything, lies in a run or among its data, or is not called as nnU-Net asks for.
    """
    place = out or Path(to_nnunet.name(run.folder.name) if to == "nnunet" else f"{run.folder.name}-{to}")
    refuse_place(run, place)
    files.refuse_full(place)  # before the run is read, which takes seconds
    if to == "nnunet":
        to_nnunet.check(place)
    chosen, form = cases.choose(run, types, real, native), FORMATS[to]

    def fill(folder: Path) -> None:
        layout = form.write(folder, chosen, place.name)
        files.write_text(folder / ORIGINS, chosen.table.to_csv(index=False))
        files.write_text(folder / CARD, form.head(chosen, place.name)
                         + datacard.text(chosen, form.title, layout))

    return files.write_folder(place, fill), chosen


def models(run: Run, out: Path | None = None) -> tuple[Path, Trained]:
    """Write the finished models of a run and a card into a new folder: where it is, and the models.

    UserError where the run has none, and where the folder holds anything or lies in a run or among its data.
    """
    place = out or Path(f"{run.folder.name}-models")
    refuse_place(run, place)
    files.refuse_full(place)
    trained = run.models  # or nothing is begun
    return files.write_folder(place, lambda folder: to_models.write(run, folder)), trained
