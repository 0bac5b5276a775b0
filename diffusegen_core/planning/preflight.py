"""Checks before a run starts: the user's errors, and the networks that chapters 6 and 7 will train.

Chapter 6 comes after hours of work, so what it would refuse is refused here first, through the `check` of
each chapter. Folders are listed and files of weights inspected; no image is opened, and nothing is written.
"""

from collections.abc import Callable, Collection, Iterator

from diffusegen_core.chapters import augment, cluster, evaluate, gan, inpaint, scorers, segment, style, train
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, testsets
from diffusegen_core.data.planes import Planes
from diffusegen_core.data.types import REAL
from diffusegen_core.planning import plan, space
from diffusegen_core.run import Run
from diffusegen_core.segmentation import experiments, trainsets
from diffusegen_core.store import tracking
from diffusegen_core.store.artifacts import OutdatedError

Check = Callable[[Params], Iterator[str]]
# The check of each chapter, and the chapters that it needs.
CHECKS: dict[str, tuple[Check | None, tuple[str, ...]]] = {
    "data": (dataset.check, ()),
    "cluster": (cluster.check, ("data",)),
    "windows": (None, ("data",)),
    "train": (train.check, ("cluster", "windows")),
    "inpaint": (inpaint.check, ("train",)),
    "paste": (None, ("data",)),
    "style": (style.check, ("inpaint",)),
    "gan": (gan.check, ("data",)),
    "evaluate": (evaluate.check, ("style", "gan", "paste")),
    "tests": (testsets.check, ("data", "gan")),
    "scorers": (scorers.check, ("data",)),
    "filter": (None, ("style", "gan", "paste", "scorers")),
    "segment": (segment.check, ("filter", "tests")),
    "augment": (augment.check, ("filter", "tests")),
    "summary": (None, ("segment", "augment")),
}
# Checks that depend on the number of pairs, which means nothing while the data have problems.
COUNTED = {"gan", "scorers", "augment"}
# Results without a page of their own, and the chapter whose page makes them.
PAGES = {"data": "cluster", "windows": "train", "paste": "inpaint", "gan": "evaluate", "tests": "segment",
         "scorers": "evaluate", "filter": "evaluate"}


def check(run: Run, chosen: Collection[str]) -> None:
    """UserError with one line for each user error that the chosen chapters would run into, or where the disk
    is too full."""
    if lines := problems(run.params, chosen):
        raise UserError("\n".join(lines))
    space.refuse_full(run.params, needed(chosen))


def refuse_miscounted(run: Run, chosen: Collection[str]) -> None:
    """UserError where the chosen chapters need more pairs than were stored: some may have been left out
    (data.on_bad: skip), which a listing of the folder does not show."""
    pairs = run.finished("data")
    if pairs is not None and "augment" in needed(chosen):
        p = run.params
        augment.sizes(trainsets.of_run(p, len(pairs))[REAL].sources, p.augment, p.segment)


def notes(p: Params, chosen: Collection[str] = tuple(CHECKS)) -> list[str]:
    """One line for each question that the chosen chapters cannot answer for lack of test pairs, or for pairs
    that are held out in vain."""
    asked = needed(chosen)
    if not {"evaluate", "tests"} & asked:
        return []
    if p.data.held_share and "held_out" in testsets.folders(p.segment):
        return [f"data.holdout {p.data.held_share:g} holds out pairs that nothing tests on, as "
                "segment.held_out names a folder. -p data.holdout null trains on them."]
    if not (lacking := testsets.lacking(p)):
        return []
    away = p.segment.cvc or p.segment.polypgen
    untold = [*([] if away or "tests" not in asked else
                ["how well networks do on unseen images (chapters 6 and 7)"]),
              *(["whether pairs are copies or models remember images (chapter 5)"]
                if "evaluate" in asked else [])]
    return [f"No pairs are held out ({lacking}): the run will not be able to tell {', nor '.join(untold)}. "
            "-p data.holdout 0.2 holds out a fifth."] if untold else []


def problems(p: Params, chosen: Collection[str] = tuple(CHECKS)) -> list[str]:
    """The user errors, a line each, of the chosen chapters, of the other results that their pages make, and
    of all that these need."""
    asked = needed({*chosen, *(name for name, page in PAGES.items() if page in chosen)})
    wrong_data, lines = False, list(refusals([lambda: tracking.check(p.tracking)]))
    for name in CHECKS:
        attempt = CHECKS[name][0]
        if attempt is not None and name in asked and not (wrong_data and name in COUNTED):
            refused = list(attempt(p))
            wrong_data = wrong_data or (name == "data" and bool(refused))
            lines += refused
    return list(dict.fromkeys(lines))


def needed(chosen: Collection[str]) -> set[str]:
    """The chosen chapters and all that they need."""
    names = set(chosen)
    while more := {need for name in names for need in CHECKS[name][1]} - names:
        names |= more
    return names


def in_order(names: Collection[str]) -> list[str]:
    """Names of chapters in the order of their dependencies."""
    return sorted(set(names), key=list(CHECKS).index)


def remakes(names: Collection[str]) -> list[str]:
    """The chapters named by `--remake`, in order. UserError for one that makes nothing or does not exist."""
    known = [name for name in CHECKS if name != "summary"]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--remake: there is no chapter {unknown[0]}. There are {', '.join(known)}.")
    return in_order(names)


def refuse_mixture(run: Run, chosen: Collection[str]) -> None:
    """UserError where a chapter that is needed but was not chosen was made with other parameters.

    It would be remade on the way, which nobody asked for. A result that was never made is fine. Choosing a
    page chooses everything that it makes (see PAGES).
    """
    made = {name for name, page in PAGES.items() if page in chosen}
    for name in in_order(needed(chosen) - {*chosen, *made}):
        try:
            for generator in range(run.params.generators):
                run.read(name, generator)
        except OutdatedError as error:
            raise UserError(f"{error} Chapters that were not chosen are not made again.") from None
        except UserError:
            pass  # not made yet, or the chosen chapters will report what is wrong


def refuse_failed(run: Run, chosen: Collection[str]) -> None:
    """UserError where all networks of a chosen chapter have failed."""
    for name in ("segment", "augment"):
        tested = run.finished(name) if name in chosen else None
        if tested is None or not len(tested.runs):
            continue
        status = tested.runs["status"]
        if experiments.failed(status).all():
            raise UserError(f"All {len(status)} networks of the chapter {name} have failed; the first error: "
                            f"{status.iloc[0].removeprefix(experiments.FAILURE)}")


def dry_run(run: Run, chosen: Collection[str]) -> str:
    """The grids of the chosen chapters in words: what is finished, and how long the rest will take."""
    if not {"segment", "augment"}.intersection(chosen):
        return ("A dry run shows only the segmentation networks of chapters 6 and 7, and the chosen chapters "
                "train none. `diffusegen plan` shows the work of every chapter.")
    p, ws = run.params, run.workspace.read_only
    pairs, tests = (run.finished(name) for name in ("data", "tests"))
    sets, *further = [run.offered(number) for number in range(p.generators)]
    count = len(pairs) if pairs else plan.pairs(p)[0]  # stored: some may be left out, or the folder gone
    supply, kind = trainsets.of_run(p, count), Planes.of(p.data)
    texts = []
    if "segment" in chosen:
        texts.append(segment.planned(ws, supply, p.data.image_size, kind, p.segment, sets, tests, further))
    if "augment" in chosen:
        texts.append(augment.planned(ws, supply, p.data.image_size, kind, p.augment, p.segment, sets, tests,
                                     run.generators() if sets else None, further))
    return "\n\n".join(texts)
