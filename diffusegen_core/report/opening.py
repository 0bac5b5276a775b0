"""The front page of the book, as MyST: what this run found, ahead of the text that all books share.

A part that cannot be shown, because the run has not made it or its files were changed, is replaced by a line
that says so.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import yaml
from matplotlib.figure import Figure

from diffusegen_core import __version__
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import counted
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import REAL
from diffusegen_core.measures import power
from diffusegen_core.report import (
    answer,
    byclass,
    claims,
    detectable,
    keynumbers,
    limits,
    realism,
    recommendation,
    showcase,
    style_tables,
    tables,
    unfinished,
)
from diffusegen_core.report.naming import named
from diffusegen_core.report.tables import escaped
from diffusegen_core.report.unfinished import Progress
from diffusegen_core.run import GRIDS, Run
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import files, moves
from diffusegen_core.store.stamps import in_place

CITATION = Path(__file__).parents[2] / "CITATION.cff"
ANSWERS, EXTREMES = "The answers", "Best and worst pairs"
SMOOTHEST = "The dashed line is that border, the solid one the mask's."  # where no measure calls pairs good
LOOK = ("Look at these pairs before you make the rest: {doc}`own_data` says what to look for, under *What is "
        "good enough* and *Symptoms and cures*.")
STRIP, ENDS = "strip", "best_and_worst"  # pictures in the figures folder of the run


def page(run: Run) -> str:
    """The front page; its pictures go to the figures folder of the run, which must not be a link."""
    moves.refuse_links(run.folder, ["figures"])
    progress = unfinished.of(run)
    made = {title: _part(run, make) for title, make in {
        ANSWERS: lambda: _answers(run), "Key numbers": lambda: _numbers(run),
        EXTREMES: lambda: _extremes(run)}.items()}
    nothing = "" if made[ANSWERS] else _nothing(run, progress)
    heads = {ANSWERS: "The pairs so far"} if answer.COST_ALONE in made[ANSWERS] else {}
    if heads and progress.todo:
        made[ANSWERS] = f"{LOOK}\n\n{made[ANSWERS]}"
    word = "has made" if heads or nothing else "found"
    if SMOOTHEST in made[EXTREMES]:
        heads[EXTREMES] = "Smoothest and roughest borders"
    lines = limits.of(run.params, progress.made, run.finished("data"), tests(run))
    said = {**made, "What this run cannot say": "\n".join(f"- {line}" for line in lines),
            "How to cite": cited()}
    return "\n\n".join(filter(None, [
        f"# What this run {word}", _what(run), nothing,
        _part(run, lambda: _strip(run, progress)),
        *(f"## {heads.get(title, title)}\n\n{text}" for title, text in said.items() if text)])) + "\n"


def tests(run: Run) -> limits.Tests | None:
    """The images of the run's own test set, where networks were tested on it."""
    for result in map(run.finished, GRIDS):
        if result is not None and recommendation.tested(result):
            own = claims.own_test(result.images)
            names = set(result.images.loc[result.images["test_set"] == own, "image"])
            groups = next((test.groups for test in result.tests if test.name == own), None)
            apart = len({groups.of[name] for name in names}) if groups else len(names)
            alike = groups is not None and apart < len(names)
            small = run.finished("augment")
            compared = small if small and recommendation.comparable(small) else None
            return limits.Tests(len(names), groups.kind if groups and alike else "", apart * alike,
                                detectable.own(compared) if compared else None,
                                _alone(run.params, small or result, own), _unseen(run),
                                tuple(_of_classes(run.params, compared)) if compared else ())
    return None


def _of_classes(p: Params, result: Tested) -> Iterator[tuple[str, int, power.Own]]:
    for called, column, shown in byclass.each_painted(result, p):
        if spread := detectable.own(result, shown, column):
            yield called, shown["image"].nunique(), spread


def _alone(p: Params, result: Tested, test_set: str) -> limits.Alone | None:
    """How well networks trained on the most real pairs alone do on a test set, of several classes in the
    painted one that they find worst; None where there are none."""
    rows, runs = (frame[frame["data_type"] == REAL.name] for frame in (result.images, result.runs))
    rows = rows[rows["test_set"] == test_set]
    if rows.empty:
        return None
    if pd.notna(most := rows["size"].max()):
        rows, runs = rows[rows["size"] == most], runs[runs["size"] == most]
    called, dice = (byclass.weakest(result, test_set, most, p) if len(p.data.classes) > 1 else
                    ("", float(rows["dice"].mean())))
    return limits.Alone(dice, float(runs["real_pairs"].mean()), called)


def _unseen(run: Run) -> float | None:
    """The mean agreement of the filter's networks with the masks of real pairs that they had not seen; None
    where it has none."""
    filtered = run.finished("filter")
    return float(filtered.scorers.real["agreement"].mean()) if filtered and filtered.scorers else None


def _nothing(run: Run, progress: Progress) -> str:
    """The text in place of the answers, where there are none."""
    why = " ".join(unfinished.told(run, progress)) or "No two kinds of pairs were compared."
    return f"Nothing to answer{' yet' if progress.todo else ''}: {why[0].lower()}{why[1:]}"


def _part(run: Run, make: Callable[[], str]) -> str:
    try:
        return make()
    except UserError as error:
        return f"This part is not here: {unfinished.plain(run, error)}"
    except Exception as error:  # files changed by hand fail in many ways; the book must still be built
        return f"This part is not here ({type(error).__name__}): {unfinished.plain(run, error)}"


def _answers(run: Run) -> str:
    """What to do, gains by class, and the table of answers; "" where there are none."""
    verdicts = claims.of(run)
    if not answer.questions(run, verdicts):
        return ""
    table = answer.table(run, "front-answers", verdicts)
    classes = byclass.table(run)
    looks = _part(run, lambda: "\n\n".join(realism.lines(run)))
    parts = [recommendation.of(run), *byclass.painted(run), *byclass.unlearned(run), looks,
             classes._repr_markdown_() if classes else "", table._repr_markdown_()]
    return "\n\n".join(filter(None, parts))


def _numbers(run: Run) -> str:
    numbers = keynumbers.table(run, "front-numbers")
    if numbers.frame.empty:
        return ""
    return (f"{numbers._repr_markdown_()}\n::::{{dropdown}} What the data types are\n"
            f"{keynumbers.glossary(numbers)}\n::::")


def _what(run: Run) -> str:
    """One line: data, number of pairs, size, profile, generators and date."""
    p = run.params
    pairs, told = run.finished("data"), tables.data(p)
    # For phantoms, and where some pairs are held out, `tables.data` gives the number.
    count = f"{len(pairs)} pairs of " if pairs and not p.data.drawn and not tables.held_out(p) else ""
    generators = counted(p.generators, "generator")
    written = [file for _, stamp in in_place(run.folder) for file in stamp["outputs"].values()]
    times = [file["mtime_ns"] for file in written if isinstance(file, dict) and "mtime_ns" in file]
    day = datetime.fromtimestamp(max(times, default=0) / 1e9, UTC)
    date = f", last made on {day.day} {day:%B %Y}" if times else ""
    return (f"{count}{escaped(told)}; {p.data.image_size} × {p.data.image_size} pixels; profile "
            f"{escaped(p.profile)}; {generators}{date}.")


def _strip(run: Run, progress: Progress) -> str:
    one = showcase.chosen(run)
    if one is None:
        return showcase.NONE if "inpaint" in progress.made else ""
    _draw(run, STRIP, showcase.strip)
    shown = len(showcase.drawn(run, one))
    return _figure(STRIP, (f"{shown} synthetic pairs: sources in the first row, new images in the second, "
                           "the same with the outline of their masks in the third, masks in the fourth"),
                   (f"{shown} of the {len(one)} {named(one.data_type)}, drawn by the seed of the run and not "
                    "chosen by hand: the picture that was painted into, the new image, the same with the "
                    "outline of its mask, and the mask."))


def _extremes(run: Run) -> str:
    ranking = showcase.ranked(run)
    if ranking is None:
        return ""
    _draw(run, ENDS, showcase.extremes)
    first, last = ranking.measure.ends
    what, of = escaped(run.params.data.object_name), f"{len(ranking.rows)} {named(ranking.of.data_type)}"
    better = "higher" if ranking.measure.higher_is_better else "lower"
    told = (f"The {first} and the {last} of {of}, by {ranking.measure.words} ({better} is better). The "
            "outline is the mask.") if ranking.judges else (
        f"Of {of}, those with the {first} and the {last} {ranking.measure.words}.{_natural(run, ranking.of)} "
        f"{SMOOTHEST} A low contrast means only that the filling meets the picture around it: one that shows "
        f"no {what} at all can have the lowest. Whether the {what} is where the mask says, a filter judges "
        "(chapter 5).")
    alt = (f"The {first} pairs above the {last} ones, with the outlines of their masks" if ranking.judges else
           f"Pairs with the {first} contrast above those with the {last}, with outlines of mask and region")
    return _figure(ENDS, alt, told)


def _natural(run: Run, one: PairSet) -> str:
    """How large that contrast is in real pictures, a sentence; "" where that is not known."""
    real = style_tables.natural(run, one)
    return "" if isnan(real) else f" The real pictures have {real:.1f} on average at the same places."


def _draw(run: Run, name: str, draw: Callable[[Run], Figure]) -> None:
    figure = draw(run)
    files.write(run.folder / "figures" / f"{name}.png", figure.savefig)
    plt.close(figure)


def _figure(name: str, alt: str, caption: str) -> str:
    return (f":::{{figure}} figures/{name}.png\n:name: fig-front-{name}\n:alt: {alt}\n:width: 100%\n\n"
            f"{caption}\n:::")


def cited() -> str:
    """How the paper and this program are cited, from CITATION.cff."""
    told: dict[str, Any] = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    paper = told["preferred-citation"]
    authors = ", ".join(f"{one['given-names']} {one['family-names']}" for one in paper["authors"])
    return (f"The paper: {authors}. {paper['title']}. *{paper['journal']}* {paper['volume']}:"
            f"{paper['start']}-{paper['end']}, {paper['year']}. "
            f"[doi:{paper['doi']}](https://doi.org/{paper['doi']}), {paper['notes']}.\n\n"
            f"This program: {told['title']} {__version__}, {told['license']}. State which parameters "
            "you used: every chapter of the book has them.")
