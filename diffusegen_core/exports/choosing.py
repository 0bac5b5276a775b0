"""The choice of a run's pairs for an export, their names in it, and the split of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from diffusegen_core import outlets
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import patients, sidecars, testsets
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.exports.cases import HELD, NOT_AUDITED, TEST, TRAIN, VALID, Case, ExportSet, held_as
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets


def choose(run: Run, types: Sequence[str] | None = None, real: bool = True, native: bool = False,
           generators: bool = False, keep_names: bool = False, held_out: bool = False) -> ExportSet:
    """The pairs of these data types, or of the `usual` one if `types` is None, and the real ones if `real`.

    With `native` they get the size of their source's own files, with `generators` they are those of all
    generators and not only of the first, and with `held_out` the run's held-out pairs join them. Pairs and
    sources are numbered, in an order that reveals nothing, unless `keep_names`.

    UserError where the run does not have such pairs, has not made them (naming the chapter), none is left, or
    a native size is unknown.
    """
    asked = [usual(run)] if types is None else [outlets.named(run, name) for name in types]
    sets = {one: outlets.made(run, one) for one in dict.fromkeys(asked) if one != REAL}
    others = range(1, run.params.generators) if generators else ()
    further = [{one: outlets.made(run, one, number) for one in sets if one.is_painted} for number in others]
    if empty := next((one for one in sets if not len(sets[one])), None):
        raise UserError(f"{empty} has no pairs: all {len(sets[empty].left_out)} were left out. Name another "
                        "data type.")
    _, valid = trainsets.split(run.pairs.names if real else [], run.params.segment.validation,
                               run.params.seed, "export", "split",
                               groups=patients.together(run.pairs.file))
    audited = _audited(run)
    cases = [_case(REAL, {"name": name, "group": name}, valid, audited)
             for name in run.pairs.names] if real else []
    for number, made_by in enumerate((sets, *further)):
        for data_type, one in made_by.items():
            of = outlets.shown(run, data_type, number)
            rows = one.manifest.assign(group=trainsets.grouped(one.manifest)["group"],
                                       lesion_of=[of.get(name, "") for name in one.manifest["name"]])
            cases += [_case(data_type, row, valid, audited, number) for row in rows.to_dict("records")]
    if not cases:
        raise UserError("Nothing is left to export: name a synthetic data type, or leave out --no-real.")
    tested = _tested(run) if held_out else None
    if tested and tested.pairs:
        own = {held_as(tested, name): name for name in tested.pairs.names}
        cases = [replace(case, split=HELD) if case.lesion_of in own else case for case in cases]
        cases += [Case(f"Held-out__{name}", REAL, name, source, source, "none", 0, TEST, NOT_AUDITED)
                  for source, name in own.items()]
    numbers = {} if keep_names else _numbers(run, cases)
    return ExportSet(run, cases if keep_names else _numbered(cases, numbers), sets,
                     _native(run, cases, tested) if native else {}, further, tested=tested,
                     numbers_of=numbers)


def _tested(run: Run) -> TestSet:
    """The run's held-out pairs, without transfer sets. NotMadeError where they have not been read yet;
    UserError where there are none."""
    own = [one for name, one in run.tests.items() if name not in testsets.TRANSFER.values() and one.pairs]
    if not own:
        raise UserError("This run has no held-out pairs. Set data.holdout or segment.held_out.")
    return own[0]


def _numbers(run: Run, cases: Sequence[Case]) -> dict[str, int]:
    """A number for each source, from 1: the run's pairs first, then others. Their order is random, as that of
    the names may reveal dates."""
    sources = {name for case in cases for name in (case.source, case.lesion_of)}
    known, seed = set(run.pairs.names), run.params.seed
    return {name: number for number, name in enumerate(
        [*trainsets.shuffled(known, seed, "export", "names"),
         *trainsets.shuffled(sources - known, seed, "export", "names")], 1)}


def _numbered(cases: Sequence[Case], numbers: Mapping[str, int]) -> list[Case]:
    """The pairs, numbered within each data type and generator in the order of their sources' numbers."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(case.kind, []).append(case)
    return [replace(case, case=f"{kind}__{number:04d}") for kind, mine in kinds.items()
            for number, case in enumerate(sorted(mine, key=lambda one: (numbers[one.source], one.sample)), 1)]


def _native(run: Run, cases: Sequence[Case], tested: TestSet | None) -> dict[str, tuple[int, int]]:
    """Height and width of the files of each source, held-out ones by the names that cases have for them."""
    known = sidecars.native_sizes(run.pairs.file)
    if tested:
        sizes = testsets.native_sizes(run.folder, tested.name)
        known |= {held_as(tested, name): size for name, size in sizes.items()}
    if lacking := next((case for case in cases if case.source not in known), None):
        raise UserError(f"{lacking.data_type} {lacking.pair} has no native size: it is a phantom, from an "
                        "older run, or of an unknown source. Leave out --native, or name other types.")
    return known


def usual(run: Run) -> DataType:
    """The data type that a run is made for: its styled pairs, filtered where there is a filter; or the next
    best that is made.

    Where none is made, the last resort is returned all the same: reading it raises NotMadeError, which names
    the chapter.
    """
    painted = [one for one in outlets.types(run).values() if one.is_painted]
    order = sorted(painted, key=lambda one: (one.full, not one.is_styled, not one.is_filtered))
    return next((one for one in order if made(run, one)), order[-1])


def made(run: Run, data_type: DataType) -> PairSet | None:
    """The pairs of a synthetic type; None where none are made."""
    try:
        return outlets.made(run, data_type) or None
    except UserError:
        return None


def others(chosen: ExportSet) -> list[str]:
    """The names of the synthetic types that are made but not exported."""
    known = outlets.types(chosen.run).values()
    return [one.name for one in known if one != REAL and one not in chosen.sets and made(chosen.run, one)]


def _audited(run: Run) -> dict[tuple[str, str], str]:
    """`Case.near_copy` of the pairs that chapter 5 audited, by data type and name."""
    result = run.finished("evaluate")
    rows = result.audit[["data type", "name", "near_copy"]].itertuples(index=False) if result else ()
    return {(kind, name): near or "no" for kind, name, near in rows}


def _case(data_type: DataType, row: Mapping[str, object], valid: Collection[str],
          audited: Mapping[tuple[str, str], str], generator: int = 0) -> Case:
    name, source, real = str(row["name"]), str(row["group"]), data_type == REAL
    lesion = str(row.get("lesion_of") or source)
    split = TRAIN if not {source, lesion} & set(valid) else VALID if real else HELD
    # Chapter 5 audits the first generator's pairs; others may have the same names.
    near = NOT_AUDITED if generator else audited.get((data_type.unfiltered.name, name), NOT_AUDITED)
    case = Case("", data_type, name, source, lesion, str(row.get("model") or "none"),
                int(str(row.get("sample", 0))), split, near, generator)
    return replace(case, case=f"{case.kind}__{name}")
