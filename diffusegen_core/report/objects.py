"""Whether new objects stand out from their surroundings as real ones do: a table, and what follows."""

from collections.abc import Iterable, Iterator

import pandas as pd
from IPython.display import Markdown

from diffusegen_core.chapters import scenes
from diffusegen_core.chapters.style import SDEDIT
from diffusegen_core.config.params import Params
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.measures import contrast
from diffusegen_core.measures.contrast import CONTRAST
from diffusegen_core.report.naming import named
from diffusegen_core.report.tables import Table, escaped, show
from diffusegen_core.run import Run

MOST = 200  # pairs of each type that are measured, evenly spread: reading more of them takes too long
FEWEST = 8  # pairs; fewer say nothing
APART = 1.0  # standard deviations of real objects from which on a difference of the mean contrast is told


def table(run: Run, sets: Iterable[PairSet], name: str) -> Table:
    """One row for the real pairs and one for each of the sets, which are of the first generator."""
    measured = [(kind, rows) for kind, rows in _measured(run.params, run.pairs, sets) if len(rows) > 1]
    frame = pd.DataFrame([{"data type": kind.name, "pairs": len(rows), **{
        column: f"{rows[column].mean():.1f} ± {rows[column].std():.1f}" for column in contrast.COLUMNS}}
        for kind, rows in measured], columns=["data type", "pairs", *contrast.COLUMNS])
    pasted = (" The masks of pasted pairs show the source's own objects, too."
              if any(kind.is_pasted for kind, _ in measured) else "")
    return show(frame, name, (
        f"How {_object(run.params)} stands out, mean ± SD over pairs (at most {MOST} of each type, evenly "
        "spread): its brightness, in grey levels from 0 to 255, and its contrast, which is that minus the "
        f"brightness of a rim around it.{pasted}{_first(run.params)}"))


def paragraph(run: Run, sets: Iterable[PairSet]) -> Markdown | None:
    """The sentences of `differing` as a paragraph; None where there are none."""
    sentences = [words for _, words in differing(run.params, run.pairs, sets)]
    return Markdown(" ".join([*sentences, _first(run.params).strip()]).strip()) if sentences else None


def found(run: Run) -> list[tuple[DataType, str]]:
    """The sentences on everything that the run has painted and styled, with the data type of each."""
    pairs, done = run.finished("data"), [run.finished(name) for name in ("inpaint", "style")]
    sets = [one for result in done if result for one in result.sets.values()]
    every = list(differing(run.params, pairs, sets)) if sets and pairs is not None else []
    return [(kind, f"{words}{_first(run.params) if words is every[-1][1] else ''}") for kind, words in every]


def differing(p: Params, pairs: Pairs, sets: Iterable[PairSet]) -> Iterator[tuple[DataType, str]]:
    """The data type and a sentence in MyST for each set whose objects differ from those of real pairs in
    their contrast to the surroundings: by more than APART standard deviations of these."""
    measured = [one for one in _measured(p, pairs, sets) if len(one[1]) >= FEWEST]
    if not measured or measured[0][0] != REAL:
        return
    (_, real), *others = measured
    usual, deviation = real[CONTRAST].mean(), real[CONTRAST].std()
    for kind, rows in others:
        mine = rows[CONTRAST].mean()
        if abs(mine - usual) > APART * deviation:
            how = "the other way" if mine * usual < 0 else "more" if abs(mine) > abs(usual) else "less"
            than = "" if mine * usual < 0 else " than in real ones"
            yield kind, (
                   f"In {escaped(named(kind))} {_object(p)} stands out {how}{than}: on average it is "
                   f"{_level(mine)} than its surroundings, and in real pairs {_level(usual)} (SD "
                   f"{deviation:.0f}).{_advice(p, kind, how)}")


def _measured(p: Params, pairs: Pairs, sets: Iterable[PairSet]) -> Iterator[tuple[DataType, pd.DataFrame]]:
    which = scenes.chosen(p.inpaint, p.data)
    yield REAL, contrast.of(pairs.take(spread(len(pairs), MOST)), which)
    for one in sets:
        names = [str(one.manifest["name"].iloc[i]) for i in spread(len(one), MOST)]
        if names:
            yield one.data_type, contrast.of(one.load(names), which)


def _level(contrast_to_rim: float) -> str:
    return f"{abs(contrast_to_rim):.0f} grey levels {'darker' if contrast_to_rim < 0 else 'brighter'}"


def _object(p: Params) -> str:
    """What is looked at, the objects that are painted: "the lesion"."""
    names = p.inpaint.classes or ([p.data.object_name] if len(p.data.classes) == 1 else p.data.classes)
    return f"the {escaped(names[0])}" if len(names) == 1 else f"what is painted ({escaped(', '.join(names))})"


def _first(p: Params) -> str:
    return f" Synthetic pairs are of the first of {p.generators} generators." if p.generators > 1 else ""


def _advice(p: Params, kind: DataType, how: str) -> str:
    """What may help; "" where nothing is known to. Only given masks guide."""
    guides = {"inpaint.guidance_scale": p.inpaint.guidance_scale} if kind.given_masks else {}
    if kind.is_styled and p.style.method == SDEDIT:
        guides["style.guidance_scale"] = p.style.guidance_scale
    strong = {name: scale for name, scale in guides.items() if scale > 1}
    if how == "more" and strong:
        names = " or ".join(f"`{name}` ({scale:g} here)" for name, scale in strong.items())
        return f" A smaller {names} may mend that; 1 is none."
    if how == "less" and kind.is_painted:
        larger = f", or a larger {' or '.join(f'`{name}`' for name in guides)}," if guides else ""
        return f" Longer training (`train.images`){larger} may help."
    return ""
