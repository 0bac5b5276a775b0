"""Stamps: what `Artifact.finish` writes beside an artifact's files, and whether those files have changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusegen_core.store import files

STAMP = "made.json"
MAKING, ASIDE = "making", "aside"  # folders of a run
GENERATORS = "generators"  # another, with a subfolder for each further generator
Stamp = dict[str, Any]
LONGEST = 1e10  # seconds of work that a stamp may state: about three centuries
CARDS = "cards"  # in a stamp: how many graphics cards worked together, on average, if more than one
MOST_CARDS = 1e5


def read_stamp(folder: Path) -> Stamp | None:
    """What `finish` wrote into a folder, or None if nothing of that shape is there.

    A stranger's stamp that names files outside its folder, or impossible seconds, does not count.
    """
    stamp = files.read_json(folder / STAMP)
    shape: dict[str, type | tuple[type, ...]] = {
        "recipe": dict, "outputs": dict, "shown": dict, "seconds": (int, float), "device": str}
    if not isinstance(stamp, dict) or not all(isinstance(stamp.get(k), kind) for k, kind in shape.items()):
        return None
    told = 0 <= stamp["seconds"] < LONGEST and all(map(files.plain, (*stamp["outputs"], *stamp["shown"])))
    return stamp if told else None


def made_by(place: Path) -> str:
    """The chapter that an artifact belongs to, by its place relative to the run folder."""
    parts = place.parts
    return parts[2] if parts[0] == GENERATORS and len(parts) > 2 else parts[0]


def cards(stamp: Stamp) -> float:
    """How many graphics cards worked at a time, on average over a stamp's seconds; 1 if it does not say, or
    states an impossible number."""
    told = stamp.get(CARDS)
    return float(told) if isinstance(told, (int, float)) and 1 <= told <= MOST_CARDS else 1.0


def in_place(run: Path) -> Iterator[tuple[Path, Stamp]]:
    """The folder and the stamp of each artifact of a run that is finished and in place.

    Runs within this one, such as a small set's generator, are included; they set aside in their own folders.
    """
    for path in sorted(run / name for name in files.below(run) if Path(name).name == STAMP):
        stamp = read_stamp(path.parent)
        if stamp and {MAKING, ASIDE}.isdisjoint(path.relative_to(run).parts):
            yield path.parent, stamp


def changes(run: Path, thorough: bool = False) -> Iterator[str]:
    """A line for each file of a run that is missing or has changed; `thorough` as in `altered`."""
    for folder, stamp in in_place(run):
        for part, note in (("outputs", ""), ("shown", " (it is only shown)")):
            for name, reason in altered(folder, stamp, part, thorough).items():
                yield f"{(folder / name).relative_to(run)} {reason}{note}"


def contents(stamp: Stamp) -> dict[str, str]:
    """The SHA-256 of each output of a stamp."""
    return {name: str(described["sha256"]) for name, described in stamp["outputs"].items()}


def altered(folder: Path, stamp: Stamp, part: str = "outputs", thorough: bool = False) -> dict[str, str]:
    """The files of a stamp that are missing or not what was written, and which of the two.

    A file with the recorded size and time counts as unchanged, unless `thorough`; otherwise the hash decides.
    `part` is "outputs" or "shown".
    """
    reasons = {}
    for name, described in stamp[part].items():
        path = folder / name
        if not path.is_file():
            reasons[name] = "is missing"
        elif not _same(path, described, thorough):
            reasons[name] = "is not the file that was written"
    return reasons


def _same(path: Path, described: Any, thorough: bool) -> bool:
    if not isinstance(described, dict):
        return False
    status = path.stat()
    if status.st_size != described.get("bytes"):
        return False
    if not thorough and status.st_mtime_ns == described.get("mtime_ns"):
        return True
    computed = files.sha256(path) if thorough else files.remembered_sha256(path)
    return computed == described.get("sha256")


def described(path: Path) -> dict[str, Any]:
    """What a stamp records of a file. For a `Written` path that is what its own writer wrote, so that a
    mixture of two writers' files never counts as whole."""
    status, own = path.stat(), getattr(path, "sha256", "")
    if own and (identity := getattr(path, "identity", None)):
        size, time_ns = identity
        return {"bytes": size, "mtime_ns": time_ns, "sha256": own}
    sha256 = files.sha256(path)
    # If the hash shows that another writer replaced the file, its time must not make it pass as unchanged.
    same = not own or own == sha256
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns if same else 0, "sha256": own or sha256}
