"""What a soak finds wrong with an episode, and which writes its kills have hit."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soakrun
from soakrun import Identity, Place

from diffusegen_core.store import files

FOREIGN = ("mine.txt", "train/notes.txt", "inpaint/2-Paint/images/mine.txt")  # the user's own files
ENDINGS = (-9, -15, -2)  # exit statuses of a process that a signal of the soak's has ended
NUMBER = r"(?:[0-9a-f]{12,}|\d+)"  # in a path, where any stands for all
LINE = re.compile(r"^(?:diffusegen|Error): .*$", re.M)  # the form of a reported refusal


@dataclass
class Episode:
    """What was done to one run, and how it ended."""

    number: int
    mode: str
    struck: list[dict[str, Any]] = field(default_factory=list)
    """The faults, as the saboteur records them."""
    wrong: list[str] = field(default_factory=list)
    """Findings: differences, losses, tracebacks, hangs."""
    seconds: float = 0.0
    code: str = field(default_factory=soakrun.code_hash)
    """A hash of the program."""


def judged(place: Place, code: int | None, expected: bool, episode: Episode, what: str,
           second: bool = False) -> None:
    """Note a hang, a traceback, processes left behind, and a failure not reported in exactly one line; also
    any failure that was not expected."""
    said = (place.said_second if second else place.said).read_text(errors="replace")
    if code is None:
        episode.wrong.append(f"{what}: no end after {soakrun.LONGEST} s; it said: {said[-500:]}")
    elif "Traceback" in said:
        episode.wrong.append(f"{what}: a traceback: {said[said.index('Traceback'):][:1500]}")
    elif "The traceback is in" in said:
        episode.wrong.append(f"{what}: an error of the program's own: {said[-1500:]}")
    elif code > 0 and len(LINE.findall(said)) != 1:
        episode.wrong.append(f"{what}: exit status {code}, and {len(LINE.findall(said))} lines that tell "
                             f"why: {said[-500:]}")
    elif code < 0 and code not in ENDINGS:
        episode.wrong.append(f"{what}: ended by signal {-code}; it said: {said[-500:]}")
    elif code == 0 and not second and (left := soakrun.lingering(place)):
        episode.wrong.append(f"{what}: it has ended, and left {left}")
    elif code and not expected:
        episode.wrong.append(f"{what}: exit status {code}; it said: {said[-500:]}")


def compare(place: Place, whole: dict[str, str], finished: dict[Identity, str],
            foreign: dict[str, str], done: Episode) -> None:
    """Note the first difference from the undisturbed run, and what is gone: a finished file must be the very
    file that it was, and not one that was made again."""
    mine = soakrun.made(place.run)
    for name in sorted((whole.keys() | mine.keys()) - set(FOREIGN)):
        if whole.get(name) != mine.get(name) and not of_other_parameters(name, whole):
            done.wrong.append(f"different: {name} ({'there' if name in mine else 'not there'}, and "
                              f"{'there' if name in whole else 'not there'} undisturbed)")
            break
    there = soakrun.existing(place.run)
    if gone := finished.keys() - there.keys():
        done.wrong.append(f"{len(gone)} finished files are gone; made again were "
                          f"{again(gone, finished, there)}")
    hashes = {files.sha256(path) for path in there.values()}
    done.wrong += [f"gone: {name}" for name, sha256 in foreign.items() if sha256 not in hashes]


def of_other_parameters(name: str, whole: Iterable[str]) -> bool:
    """Whether a file belongs to a network of chapter 6 or 7 that other parameters have asked for. Such a
    network stays where it is, under a name of its own."""
    chapter, network, *_ = [*name.split("/"), ""]
    return (chapter in ("segment", "augment") and name.count("/") > 1
            and not any(one.startswith(f"{chapter}/{network}/") for one in whole))


def again(gone: Iterable[Identity], finished: dict[Identity, str],
          there: dict[Identity, Path]) -> list[str]:
    """The paths, a few, of files with the content of those that are gone."""
    wanted = {finished[one] for one in gone}
    return sorted(str(path) for path in there.values() if files.sha256(path) in wanted)[:5]


def kind(path: str) -> str:
    """The kind of a write: its path with numbers and keys replaced by #."""
    return re.sub(NUMBER, "#", path)


def like(one: str) -> str:
    """A regular expression for the paths of a kind."""
    return NUMBER.join(map(re.escape, one.split("#")))


def ahead(writes: Iterable[str], done: Iterable[str]) -> list[str]:
    """The kinds of an undisturbed run's writes that are still to come, in their order."""
    times, left = Counter(map(kind, done)), []
    for one in map(kind, writes):
        times[one] -= 1
        if times[one] < 0:
            left.append(one)
    return left


def missed(lines: list[dict[str, Any]], writes: list[str]) -> list[str]:
    """The kinds of writes of an undisturbed run that no kill has hit."""
    return sorted({kind(path) for path in writes} - {kind(str(one["path"])) for one in hits(lines)})


def kills(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for line in lines for one in line["struck"] if one["fault"] == "kill"]


def hits(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kills of the very process that was writing."""
    return [one for one in kills(lines) if one["writer"] in one["victims"]]
