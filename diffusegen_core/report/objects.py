"""Whether new objects stand out from their surroundings as real ones do: a table, and what follows."""

from collections.abc import Iterable, Iterator

import pandas as pd
from IPython.display import Markdown

from diffusegen_core.chapters import scenes
from diffusegen_core.config.params import Params
from diffusegen_core.data.excerpts import spread
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.measures import contrast
from diffusegen_core.measures.contrast import CONTRAST
from diffusegen_core.report.naming import named
from diffusegen_core.report.tables import Table, escaped, show
from diffusegen_core.run import Run

MOST = 200  # pairs of each type that are measured, evenly spread: reading more of them takes too long
FEWEST = 8  # of which less can be said
APART = 1.0  # standard deviations of real objects by which the mean contrast of new ones is called unlike


def table(run: Run, sets: Iterable[PairSet], name: str) -> Table:
    """One row for the real pairs and one for each of the sets."""
    rows = [{"data type": kind.name, "pairs": len(found), **{
        column: f"{found[column].mean():.1f} ± {found[column].std():.1f}" for column in contrast.COLUMNS}}
        for kind, found in _measured(run, sets) if len(found) > 1]
    return show(pd.DataFrame(rows, columns=["data type", "pairs", *contrast.COLUMNS]), name, (
        f"How {_what(run.params)} stands out, mean ± SD over pairs (at most {MOST} of each type, evenly "
        "spread): its brightness, in grey levels from 0 to 255, and its contrast, which is that minus the "
        "brightness of a rim around it. The masks of pasted pairs show the source's own objects, too."))


def told(run: Run, sets: Iterable[PairSet]) -> Markdown | None:
    """The sentences of `unlike` as a paragraph; None where there are none."""
    lines = list(unlike(run, sets))
    return Markdown(" ".join(lines)) if lines else None


def lines(run: Run) -> Iterator[str]:
    """The same of everything that the run has painted and styled, for the front page."""
    done = [run.finished(name) for name in ("inpaint", "style")]
    yield from unlike(run, [one for result in done if result for one in result.sets.values()])


def unlike(run: Run, sets: Iterable[PairSet]) -> Iterator[str]:
    """A sentence in MyST for each set whose objects stand out otherwise than those of real pairs: by more
    than APART standard deviations of these."""
    real, *others = (one for one in _measured(run, sets) if len(one[1]) >= FEWEST)
    if real[0] != REAL:
        return
    usual, spread_of = real[1][CONTRAST].mean(), real[1][CONTRAST].std()
    for kind, found in others:
        mine = found[CONTRAST].mean()
        if abs(mine - usual) > APART * spread_of:
            how = "otherwise" if mine * usual < 0 else "more" if abs(mine) > abs(usual) else "less"
            yield (f"In {escaped(named(kind))} {_what(run.params)} stands out {how} than in real ones: on "
                   f"average it is {_words(mine)} than its surroundings, and in real pairs {_words(usual)} "
                   f"(SD {spread_of:.0f}).{_advice(run.params, kind, how)}")


def _measured(run: Run, sets: Iterable[PairSet]) -> Iterator[tuple[DataType, pd.DataFrame]]:
    which = scenes.chosen(run.params.inpaint, run.params.data)
    pairs = run.pairs
    yield REAL, contrast.of(pairs.take(spread(len(pairs), MOST)), which)
    for one in sets:
        names = [str(one.manifest["name"].iloc[i]) for i in spread(len(one), MOST)]
        if names:
            yield one.data_type, contrast.of(one.load(names), which)


def _words(level: float) -> str:
    return f"{abs(level):.0f} grey levels {'darker' if level < 0 else 'brighter'}"


def _what(p: Params) -> str:
    """What is looked at, the objects that are painted: "the lesion"."""
    names = p.inpaint.classes or ([p.data.object_name] if len(p.data.classes) == 1 else p.data.classes)
    return f"the {escaped(names[0])}" if len(names) == 1 else f"what is painted ({escaped(', '.join(names))})"


def _advice(p: Params, kind: DataType, how: str) -> str:
    """What may help; "" where nothing is known to."""
    guidance = p.inpaint.guidance_scale
    if how == "more" and guidance > 1 and kind.is_painted:
        return f" A smaller `inpaint.guidance_scale` ({guidance:g} here, 1 is none) may mend that."
    if how == "less" and kind.is_painted:
        return " Longer training (`train.images`) or a larger `inpaint.guidance_scale` may help."
    return ""
