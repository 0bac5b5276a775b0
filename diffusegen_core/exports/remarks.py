"""What to know of an export at once, a line each, and what chapter 7 found about its pairs."""

from collections.abc import Iterator

from diffusegen_core.data import patients, sidecars
from diffusegen_core.data.types import DataType
from diffusegen_core.exports import choosing
from diffusegen_core.exports.cases import ExportSet
from diffusegen_core.report import byclass, recommendation
from diffusegen_core.report.tables import unescaped


def lines(chosen: ExportSet) -> Iterator[str]:
    """The lines that the command prints."""
    if others := choosing.others(chosen):
        yield f"Not exported: {', '.join(others)}; choose with --types."
    if told := not_in_it(chosen):
        yield told
    if told := of_generators(chosen):
        yield f"{told} --all-generators exports those of all."
    side = chosen.run.params.data.image_size
    own = {} if chosen.native else sidecars.native_sizes(chosen.run.pairs.file)
    if own and max(map(max, own.values())) > side:
        yield (f"Images are {side} x {side} pixels, as in the run, and your files are larger: --native "
               "exports their size, without more detail.")
    if not chosen.sets:
        return
    yield f"What chapter 7 found: {unescaped(_found(chosen).replace('**', ''))}"
    if told := another(chosen):
        yield told
    if chosen.real:
        yield "To export the real pairs alone: --types Real."


def not_in_it(chosen: ExportSet) -> str:
    """A sentence on the real pairs that are not in an export with real pairs, and why; "" where all are."""
    stored = chosen.run.pairs.file
    if stored is None or not chosen.real:
        return ""
    _, held = ({}, []) if chosen.tested else patients.read(stored)
    lost = sidecars.left_out(stored.parent).removeprefix("; ")
    reasons = [*([f"held out for the run's own tests: {len(held)}"] if held else []), *filter(None, [lost])]
    return f"Real pairs that are not in it: {'; '.join(reasons)}." if reasons else ""


def of_generators(chosen: ExportSet) -> str:
    """A sentence on the generators whose pairs are left out; "" where none are."""
    count = chosen.run.params.generators
    if chosen.further or count < 2 or not any(kind.is_painted for kind in chosen.sets):
        return ""
    return f"Painted pairs are those of the first of {count} generators."


def gains(chosen: ExportSet) -> dict[DataType, tuple[int, str]]:
    """For each exported type that chapter 7 has compared with real pairs alone: how many real pairs there
    were, and the gain in words, as MyST."""
    result = chosen.run.finished("augment")
    told = {kind: recommendation.gain(chosen.run, result, kind) for kind in chosen.sets} if result else {}
    return {kind: one for kind, one in told.items() if one}


def by_class(chosen: ExportSet, kind: DataType) -> Iterator[str]:
    """The gain of an exported type in each painted class of several, in words, as MyST."""
    run, result = chosen.run, chosen.run.finished("augment")
    if result is None:
        return
    for _, column, shown in byclass.each_painted(result, run.params):
        if one := recommendation.gain(run, result, kind, shown, column):
            yield f"{one[1]} (over the {shown['image'].nunique()} test images that show it)"


def another(chosen: ExportSet) -> str:
    """How the exported mix differs from the one that chapter 7 compared; "" where it does not, or where it
    compared none of its pairs."""
    p, pairs, known = chosen.run.params, len(chosen.run.pairs), gains(chosen)
    most = max(p.augment.ratios or [p.inpaint.samples])
    if not known or (p.augment.rule == "add" and p.augment.alpha == 1 and most >= p.inpaint.samples
                     and max(size for size, _ in known.values()) >= pairs and chosen.real
                     and len(chosen.sets) == 1 and not chosen.further):
        return ""
    real = f"all {pairs} real pairs" if chosen.real else "no real pairs"
    return (f"This dataset is a different mix from those of chapter 7: {real}, and all synthetic ones of the "
            "data types in it. Training on exactly this mix was not tested.")


def conclusion(chosen: ExportSet) -> str:
    """What the run concludes, as MyST, if that is about one of the exported types; else ""."""
    known, result = gains(chosen), chosen.run.finished("augment")
    if not known or not result:
        return ""
    asked = recommendation.asked(result, max(size for size, _ in known.values()))
    about = {one.first.data_type for one in (asked.pasting, asked.painting) if one}
    if not about & {kind.name for kind in known}:
        return ""
    return " ".join(filter(None, [recommendation.of(chosen.run), *byclass.painted(chosen.run)]))


def _found(chosen: ExportSet) -> str:
    """The end of a line on what chapter 7 found about the exported types, as MyST."""
    result = chosen.run.finished("augment")
    if result is None or not result.complete:
        return "nothing yet, as it is not finished."
    each = [f"{kind.name} with {size} real pairs, {told}" for kind, (size, told) in gains(chosen).items()]
    return conclusion(chosen) or (f"{'; '.join(each)}." if each else
                                  "nothing about these pairs, as it has compared none with real pairs alone.")
