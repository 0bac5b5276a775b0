"""The data card of an export: its content, how it was made, what is not known, and what it is not for."""

import re
from collections.abc import Collection, Iterator, Mapping
from math import isnan
from typing import Any

import yaml

from diffusegen_core import __version__
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.exports import remarks
from diffusegen_core.exports.cases import NOT_AUDITED, TEST, ExportSet
from diffusegen_core.report import answer, naming, nearcopies, opening, tables
from diffusegen_core.report.tables import escaped
from diffusegen_core.run import Run

REAL_SPLITS = """\
`validation` holds a share of {share:g} of the real pairs, drawn with the run's seed; `train` all others."""
SPLITS = """\
`validation` holds only real pairs, a share of {share:g} of them drawn with the run's seed; `held_back` the
synthetic pairs that were made from these, or that show one of their lesions; `train` all others. A network
that is trained on `held_back` is validated on near-copies of what it saw. The models that painted have seen
every real pair of `train` and `validation`."""
UNSEEN = "Test your networks on images that are not in this dataset."
TESTED = """\
`test` holds real pairs that no part of the run has seen, its models included{held}. Use `test` to test
networks, never to choose between them."""
NUMBERED = """\
Pairs, `source`, `lesion_of` and `group` are numbered, in an order that reveals nothing; pairs of a `group`,
such as a patient where this is known, belong together. Their names in the run are not in this dataset."""
NAMES_KEPT = """\
**Files, `pair`, `source` and `lesion_of` have the names of the run's images**, as `--keep-names` asks for.
Check that they name no patient before you pass this on. Pairs of a `group`, such as a patient where this is
known, belong together."""
CUT = " (what lies outside its middle square is black, and of no class)"
USE = """\
- For research on segmentation, such as training and comparing networks. **Never for clinical use**: not for
  diagnosis, not for treatment, and not to show the clinical value of a device.
"""
REAL_LIMITS = USE + """\
- The licence of the images, and what their patients have agreed to, binds whoever gets this dataset."""
LIMITS = USE + """\
- Synthetic pairs keep the surroundings of their sources or are styled from them: they are not anonymous. What
  the real images may be used for, and what their patients have agreed to, binds them as well.
- The mask of a synthetic pair says where a lesion was painted, or meant to be; no expert has confirmed it.
- What the real pairs lack, such as rare kinds, other hospitals or other devices, the synthetic ones lack too.
- Keep the field `origin` when you pass this on, and report no score on synthetic pairs as if on real ones."""


def text(chosen: ExportSet, title: str, layout: str) -> str:
    """The card as Markdown; `title` is the format's name, `layout` its writer's description of the files."""
    run = chosen.run
    parts = [
        f"# {escaped(run.folder.name)}: {chosen.described}", _summary(chosen, title),
        "## What is in it", _types(chosen), _classes(chosen), layout.strip(),
        f"`origins.csv` has one row per pair: {', '.join(f'`{name}`' for name in chosen.table)}. "
        f"{NAMES_KEPT if chosen.names_kept else NUMBERED}",
        *(["### Splits", _splits(chosen)] if chosen.see_splits else []),
        "## Source and licence", _source(chosen), "## How the pairs were made", _making(chosen),
        *(["## Do they help?", _worth(chosen)] if chosen.sets else []),
        "## Copies of training images", _copies(chosen),
        *(["## What the models remember", remembered(run)] if any(
            kind.is_painted for kind in chosen.sets) else []),
        "## Limits and intended use",
        "\n".join([*own_limits(run.params), LIMITS if chosen.sets else REAL_LIMITS]),
        "## How to cite", opening.cited()]
    return "\n\n".join(parts) + "\n"


def _splits(chosen: ExportSet) -> str:
    texts = SPLITS if chosen.sets else REAL_SPLITS
    known = texts.format(share=chosen.run.params.segment.validation) if chosen.real else ""
    held = "; what shows one of their lesions is in `held_back`" if chosen.sets else ""
    return " ".join(filter(None, [known, TESTED.format(held=held) if chosen.tested else UNSEEN]))


def _summary(chosen: ExportSet, title: str) -> str:
    p = chosen.run.params
    counts = []
    for origin in dict.fromkeys(case.origin for case in chosen.cases):
        splits = [case.split for case in chosen.cases if case.origin == origin]
        held = f" ({splits.count(TEST)} of them held out)" if TEST in splits else ""
        counts.append(f"{len(splits)} {origin}{held}")
    kind = {1: "grey", 3: "RGB"}.get(p.data.channels) or f"{p.data.channels} channels"
    size = p.data.image_size
    sides = f"{size} × {size} pixels" if not chosen.native else (
        f"each as large as the files of its real pair, enlarged or reduced from {size} × {size} pixels, "
        f"with no more detail than these{CUT if p.data.fit == 'crop' else ''}")
    return (f"{' and '.join(counts)} image+mask pairs, {sides}, {kind}; what the masks mark: "
            f"{escaped(p.data.object_name)}. Written for {title} by DiffuseGen {__version__}.")


def _types(chosen: ExportSet) -> str:
    """How many pairs there are of each data type, in all and in each split."""
    kinds = [*([REAL] if chosen.real or chosen.tested else []), *chosen.sets]
    rows = []
    for kind in kinds:
        mine = [case.split for case in chosen.cases if case.data_type == kind]
        rows.append([kind.name, kind.described, str(len(mine)),
                     *(str(mine.count(split)) for split in chosen.splits)])
    told = table(["data type", "what it is", "pairs", *(f"`{split}`" for split in chosen.splits)], rows)
    notes = escaped(remarks.not_in_it(chosen)), remarks.of_generators(chosen)
    return "\n\n".join(filter(None, [told, *notes]))


def _classes(chosen: ExportSet) -> str:
    if chosen.planes:
        return table(["plane", "class"], [[str(place), escaped(name)]
                                          for place, name in enumerate(chosen.classes)])
    return table(["class number", "class"], [[str(number), escaped(name)]
                                             for name, number in chosen.numbers.items()])


def _source(chosen: ExportSet) -> str:
    p = chosen.run.params
    test = "" if chosen.tested is None or chosen.tested.same_source else (
        f"- Source of `test`: {escaped(chosen.tested.name)}, {escaped(chosen.tested.note)}. Its licence may "
        "be another one.\n")
    return (f"- Source: {escaped(tables.data(p))}.\n{test}"
            f"- Licence: {chosen.licence}. This program does not know it; write it here before you pass the "
            "data on.")


def _making(chosen: ExportSet) -> str:
    run, p = chosen.run, chosen.run.params
    lines = [f"- {kind}: {len(one)} pairs of {one.manifest['source'].nunique()} real ones, "
             f"{len(one.left_out)} left out; computed on {escaped(str(one.stamp['device']))}."
             for kind, one in chosen.sets.items()]
    if not lines:
        return "All pairs are real: read, checked and resized by the program."
    if chosen.further:
        lines.append(f"- They are of all {p.generators} generators, numbered from 0 in `origins.csv`.")
    if (models := run.finished("train")) is not None:
        lines += [f"- Diffusion model {model.name}: saw {model.images} images drawn from {model.pairs} real "
                  f"pairs; {model.parameters} parameters; SHA-256 of its weights {model.sha256[:16]}..."
                  for model in models.all]
    versions = {name: version for one in chosen.sets.values()
                for name, version in one.stamp.get("versions", {}).items()}
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines.append(f"- Seed {p.seed}. Versions: {escaped(known) or 'not recorded'}.")
    told = as_yaml(_told(p, chosen.sets))
    return "\n".join(lines) + f"\n\nThe parameters that decide them:\n\n{told}"


def _worth(chosen: ExportSet) -> str:
    """Chapter 7's findings about these pairs, or why there are none."""
    run, result = chosen.run, chosen.run.finished("augment")
    if result is None or not result.complete:
        return ("Not known: chapter 7 tests whether networks that are trained on such pairs do better, and "
                "this run has not finished it.")
    gains = remarks.gains(chosen)
    if not gains:
        return "Not known: chapter 7 of the run has compared none of these pairs with real pairs alone."
    rows = [[kind.name, str(size), told] for kind, (size, text) in gains.items()
            for told in (text, *remarks.by_class(chosen, kind))]
    conclusion, another = remarks.conclusion(chosen), remarks.another(chosen)
    said = (table(["data type", "real pairs", "gain over the real pairs alone"], rows) +
            "\n\nThese are gains of networks that were trained on sets of so many real pairs, in which "
            f"{naming.mixing(run.params.augment)}, and tested on images that no part of the run has seen; "
            "with 95 % intervals and a verdict by a rule."
            f"{f' What the run concludes: {conclusion}' if conclusion else ''}")
    return "\n\n".join(filter(None, [said, another]))


def _told(p: Params, kinds: Collection[DataType]) -> dict[str, Any]:
    """The sections of the parameters that decide pairs of these types."""
    plain = params.plain(p)
    asked = {"data": True, **dict.fromkeys(("cluster", "model", "process", "train"),
                                           any(kind.is_painted for kind in kinds)),
             "inpaint": any(kind != GAN for kind in kinds), "style": any(kind.is_styled for kind in kinds),
             "gan": GAN in kinds, "filter": any(kind.is_filtered for kind in kinds)}
    return {section: params.shareable(plain[section]) for section, told in asked.items() if told}


def as_yaml(told: Mapping[str, Any]) -> str:
    """A fenced block of YAML in the given order; no backticks in it can close the fence."""
    text = yaml.safe_dump(dict(told), sort_keys=False, allow_unicode=True)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}yaml\n{text}{fence}"


def _copies(chosen: ExportSet) -> str:
    result = chosen.run.finished("evaluate")
    if not chosen.sets:
        return "All pairs are real."
    if result is None:
        return ("The audit of copies was not made: chapter 5 makes it (`diffusegen run` with the run's "
                "params.yaml and `--only evaluate`). Until then it is not known which pairs are near-copies.")
    rows = []
    for kind in chosen.sets:
        mine = chosen.table.loc[chosen.table["data_type"] == kind.name, "near_copy"]
        chance = result.copies["by chance"].get(kind.unfiltered.name, float("nan"))
        mine = mine[mine != NOT_AUDITED]
        rows.append([kind.name, str(int((mine != "no").sum())), str(len(mine)),
                     "not known" if isnan(chance) else f"{chance:.1%}"])
    unfound = (f" {naming.sentence(nearcopies.UNFOUND)}. Pasted pairs all show real objects."
               if nearcopies.hides_copies(chosen.run.params, chosen.sets) else "")
    return (table(["data type", "near-copies", "pairs audited", "flagged by chance"], rows) +
            "\n\nA near-copy is nearer to one training image than its distances to others explain, in pixels "
            "or in features. The last column is the share flagged among fillings that no model can "
            "remember. `near_copy` in `origins.csv` names the pairs."
            f"{unfound}")


def remembered(run: Run) -> str:
    """The result of chapter 5's membership test of the models, or why there is none."""
    result = run.finished("evaluate")
    if told := answer.remembered(result, run.params) if result else None:
        return f"{told.question} {told.sentence}"
    why = ("chapter 5 was not made (`diffusegen run` with the run's params.yaml and `--only evaluate`)"
           if result is None else "chapter 5 made no membership test, which needs held-out images")
    return f"Not known: {why}. It asks whether training images can be told from others by the models' errors."


def own_limits(p: Params) -> Iterator[str]:
    """The limits that are due to the run's own data, which come first in a card."""
    if p.data.drawn:
        yield "- The real pairs are phantoms drawn by code: nothing here is evidence about patients."


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
