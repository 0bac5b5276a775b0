"""Which pairs are of one patient, and which are held out, unseen by any part of a run.

Patients stay whole. They are ordered by a hash of the seed and their name, which depends on nothing else:
neither on the order of files nor on which other patients there are.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffusegen_core.config.data import EACH, PATIENT_TABLE, Data
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import resolve
from diffusegen_core.config.patterns import in_time
from diffusegen_core.config.plainfiles import MANY, plain_file
from diffusegen_core.config.text import counted
from diffusegen_core.data import sequences, sidecars
from diffusegen_core.data.reports import Pair, Report
from diffusegen_core.store import files, seeds

FILE = "held_out.json"  # in a folder of stored pairs, by `write`


def of_pairs(report: Report, settings: Data) -> dict[str, str]:
    """Pair -> patient, by data.patients; where that is not set, by sequence, if the layout is of a dataset of
    sequences. Otherwise, and for `each`, every file is a patient of its own, so that the slices of a volume
    stay together. UserError for a pair whose patient is not given."""
    if settings.patients is None and (frames := _sequences(report)):
        return frames
    if settings.patients is None or settings.patients == EACH:
        return {pair.name: pair.image.relative_to(report.folder).as_posix() for pair in report.pairs}
    if table := PATIENT_TABLE.fullmatch(settings.patients):
        return _by_table(report, _table(report.folder, table["file"]), table["column"], settings.patients)
    with in_time(f"Parameters: data.patients: {settings.patients!r}"):
        return _by_pattern(report, re.compile(settings.patients))


def _sequences(report: Report) -> dict[str, str]:
    """The sequence of each pair of a dataset of video frames; {} for other datasets, or where names do not
    give it. Centres are not patients: each has many."""
    known = sequences.of_layout(report.layout, [pair.name for pair in report.pairs])
    return known.of if known and known.kind == sequences.SEQUENCE else {}


def described(of_pairs: Mapping[str, str], kind: str = sequences.PATIENT) -> str:
    """How many patients there are, in words."""
    sizes = Counter(of_pairs.values())
    low, high = min(sizes.values()), max(sizes.values())
    each = f"{low} to {high} images" if low < high else counted(low, "image")
    return f"{counted(len(sizes), kind)}, {each} each, such as {printable(min(sizes))}"


def held_out(patients: Mapping[str, str], share: float, seed: int) -> list[str]:
    """The names of the pairs that are held out, sorted: those of whole patients, about this share of all.

    Patients are taken in the order of their hashes, skipping those that would exceed the share. If all would,
    the smallest is taken; at least one is left. UserError where all pairs are of one patient.
    """
    sizes = Counter(patients.values())
    if len(sizes) < 2:
        raise UserError(f"Parameters: data.holdout: all {len(patients)} pairs are of one patient or one "
                        "sequence, so none can be held out. Add pairs of others, or set data.holdout null.")
    order = sorted(sizes, key=lambda patient: seeds.derive(seed, "held out", patient))
    wanted, taken, count = max(1, round(share * len(patients))), set[str](), 0
    for patient in order:
        if count + sizes[patient] <= wanted and len(taken) + 1 < len(sizes):
            taken.add(patient)
            count += sizes[patient]
    chosen = taken or {min(order, key=lambda patient: sizes[patient])}
    return sorted(name for name, patient in patients.items() if patient in chosen)


def split(report: Report, settings: Data, seed: int) -> tuple[dict[str, str], list[str]]:
    """The patient of each pair as in `of_pairs`, {} where unknown, and the names that are held out."""
    share, told = settings.held_share, settings.patients is not None or bool(_sequences(report))
    if not report.pairs or not (share or told):
        return {}, []
    patients = of_pairs(report, settings)
    return (patients if told else {}), held_out(patients, share, seed) if share else []


def write(folder: Path, patients: Mapping[str, str], held: Sequence[str]) -> list[files.Written]:
    """Write both into a folder of stored pairs; no file where both are empty."""
    told = {"held_out": list(held), "patients": dict(patients)}
    return [files.write_json(folder / FILE, told)] if patients or held else []


def read(stored: Path | None) -> tuple[dict[str, str], list[str]]:
    """What `write` wrote beside the file of stored pairs: the patient of each pair of their folder, {} where
    neither data.patients nor the layout gives it, and the names that are held out."""
    told = files.read_json(stored.parent / FILE) if stored else None
    return (told["patients"], told["held_out"]) if isinstance(told, dict) else ({}, [])


def together(stored: Path | None) -> Mapping[str, str]:
    """Pair -> the group of stored pairs that must stay together: its patient where data.patients gives one,
    its sequence where the layout does, or the volume that it is a slice of; {} where none is known."""
    told, _ = read(stored)
    return told or sidecars.volumes(stored)


def sources(names: Sequence[str], stored: Path | None, count: int | None, drawn: bool = False) -> list[int]:
    """The sorted positions of the stored pairs that synthetic ones are made of: the first `count` (None: all)
    or, where patients or sequences are known, the first pair of each, then the second of each, and so on.
    A pair of an unknown patient is a patient of its own. `drawn`: the first by a hash of their names, so that
    other pairs, a count and a generator's seed change nothing."""
    told, _ = read(stored)
    ranks = [seeds.derive(0, "source", name) for name in names] if drawn else range(len(names))
    before = Counter[str]()  # earlier pairs of each patient
    turns = []
    for rank, place in sorted(zip(ranks, range(len(names)), strict=True)):
        patient = told.get(names[place], names[place])
        turns.append((before[patient], rank, place))
        before[patient] += 1
    return sorted(place for _, _, place in sorted(turns)[:count])


def file(folder: Path, patients: str | None) -> Path | None:
    """The table that data.patients names; None where it names none. One in the data folder comes first."""
    match = PATIENT_TABLE.fullmatch(patients or "")
    return None if match is None else _located(folder, match["file"])


def _located(folder: Path, name: str) -> Path:
    inside = folder / name
    return inside if inside.is_file() else resolve(name)


def _by_pattern(report: Report, pattern: re.Pattern[str]) -> dict[str, str]:
    patients = {}
    for pair in report.pairs:
        path = pair.image.relative_to(report.folder).as_posix()
        match = pattern.search(path if "/" in pattern.pattern else pair.image.name)
        if match is None or not match[1]:
            raise UserError(f"Parameters: data.patients: {pattern.pattern!r} finds no patient in "
                            f"{printable(path)}. Its one group must match in every image's name, or, if the "
                            "expression contains a /, in its path.")
        patients[pair.name] = match[1]
    return patients


def _table(folder: Path, name: str) -> pd.DataFrame:
    path = _located(folder, name)
    try:
        # A row that ends early has no text in its last columns.
        return pd.read_csv(plain_file(path, MANY), sep=None, engine="python", dtype=str,
                           keep_default_na=False).fillna("")
    except (OSError, ValueError, pd.errors.ParserError, csv.Error) as error:
        raise UserError(f"Parameters: data.patients: {path} cannot be read: "
                        f"{getattr(error, 'strerror', None) or printable(str(error))}.") from None


def _by_table(report: Report, table: pd.DataFrame, column: str, told: str) -> dict[str, str]:
    """The patient of each pair, from a `column`. Rows are found by the other column that names most images:
    by pair, file name or path."""
    if column not in table:
        raise UserError(f"Parameters: data.patients: {told}: there is no column {printable(column)}. There "
                        f"are {', '.join(printable(str(name)) for name in table.columns)}.")
    others = [name for name in table.columns if name != column]
    rows = max((dict(zip(table[name], table[column], strict=True)) for name in others),
               key=lambda rows: sum(_row(pair, rows, report.folder) != "" for pair in report.pairs),
               default={})
    patients = {pair.name: _row(pair, rows, report.folder) for pair in report.pairs}
    if lacking := [name for name, patient in patients.items() if not patient]:
        raise UserError(f"Parameters: data.patients: {told} gives no patient for {printable(lacking[0])}"
                        f"{f' and {len(lacking) - 1} more' if lacking[1:] else ''}. One of its columns must "
                        "hold the names of the images.")
    return patients


def _row(pair: Pair, rows: Mapping[str, str], folder: Path) -> str:
    path = pair.image
    keys: Sequence[str] = (pair.name, path.name, path.name.split(".")[0],
                           path.relative_to(folder).as_posix())
    return next((rows[key].strip() for key in keys if key in rows), "")
