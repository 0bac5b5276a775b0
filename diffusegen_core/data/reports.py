"""What lies in a folder of pairs: the pairs, the files, and everything that is wrong."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.text import counted
from diffusegen_core.store import files

WIDEST = 48  # characters that a column is padded to at most
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shape:
    """One outlined region of an image, as annotation tools store it."""

    category: str
    """Its key among the classes that a layout defines (see `labels.rule`)."""
    polygons: tuple[tuple[float, ...], ...] = ()
    """Corners of each part: x, y, x, y, ... in pixels."""
    runs: Any = None
    """COCO's run lengths instead, a mapping of size and counts."""
    patch: tuple[int, int, np.ndarray] | None = None
    """LabelMe's mask of a box instead: left, top, and (H, W) in {0, 1}."""


@dataclass(frozen=True)
class Pair:
    """One image and its mask on disk."""

    name: str
    image: Path
    mask: Path
    """Its mask, or the file with its outlines; the first if there are several."""
    more_images: tuple[Path, ...] = ()
    """The other files of an image whose channels lie in several."""
    more_masks: tuple[Path, ...] = ()
    shapes: tuple[Shape, ...] | None = None
    """The outlines, where `mask` is no picture."""
    outlined_on: tuple[int, int] | None = None
    """Width and height of the picture that was outlined, where the file gives them."""
    cut: tuple[int, int] | None = None
    """Axis and index, for a slice of a volume."""
    volume: str = ""
    """The name of that volume, whose slices belong together; "" for what is no slice."""

    @property
    def masks(self) -> tuple[Path, ...]:
        """All files of the mask."""
        return self.mask, *self.more_masks

    @property
    def images(self) -> tuple[Path, ...]:
        """All files of the image."""
        return self.image, *self.more_images


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file relative to the dataset's folder, the kind of problem, detail."""

    file: str
    problem: str
    detail: str
    pair: str = ""
    """The name of the pair whose mask it is about, where `reading` found it: a file can hold many masks."""


@dataclass
class Report:
    """What lies in a dataset's folder. `pairs` are the usable ones, in natural order of their names."""

    folder: Path
    layout: str
    pairs: list[Pair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    told: dict[str, list[int]] = field(default_factory=dict)
    """The values of each class, where the data name their classes."""
    condition: str | None = None
    """The condition for lesion in a mask, where the layout has one."""
    scale: str | tuple[float, float] | None = None
    """The rule by which images were read (see `intensities.of_set`); None before."""
    ignored: list[Path] = field(default_factory=list)
    """Pictures of the folder that are neither images nor masks."""

    def add(self, path: Path, problem: str, detail: str, pair: str = "") -> None:
        self.problems.append(Problem(self.named(path), problem, detail, pair))

    def named(self, path: Path) -> str:
        """A file as problems name it."""
        return printable(path.relative_to(self.folder).as_posix())

    def table(self) -> pd.DataFrame:
        """Every problem, one per row: file, problem, detail."""
        return pd.DataFrame(self.problems, columns=["file", "problem", "detail"], dtype=str)

    @property
    def text(self) -> str:
        """Every problem as text, for a terminal."""
        return self.brief(len(self.problems))

    def brief(self, rows: int = 40) -> str:
        """The same with at most `rows` rows, for an error."""
        more = len(self.problems) - rows
        rest = f"\n... and {more} more, which `diffusegen data check --all` shows." if more > 0 else ""
        return self._listed(self.problems[:rows]) + rest

    def folded(self, problem: str, few: int = 3) -> str:
        """`text` with only a `few` rows of a kind of problem that most rows are of, as where one parameter
        solves them all."""
        alike = [one for one in self.problems if one.problem == problem]
        if 2 * len(alike) <= len(self.problems) or len(alike) <= 2 * few:
            return self.text
        folded = set(alike[few:])
        return (self._listed([one for one in self.problems if one not in folded])
                + f"\n... and {len(alike) - few} more with {problem}, which --all shows.")

    def _listed(self, problems: Sequence[Problem]) -> str:
        if not self.problems:
            return f"{self.folder}: {len(self.pairs)} pairs ({self.layout}), no problems."
        table = "\n".join(_columns([("file", "problem", "detail"), *(
            (one.file, one.problem, one.detail) for one in problems)]))
        return (f"{self.folder}: {counted(len(self.pairs), 'usable pair')}, "
                f"{counted(len(self.problems), 'problem')}.\n{table}")

    def hashes(self, known: Mapping[str, Any]) -> dict[str, tuple[int, int, str]]:
        """Size, time (ns) and SHA-256 of every file, by its relative name.

        The hash is taken from `known`, the content of a stored file, where that has the same size and time
        for a file. Raises UserError where a file cannot be read: that is no change of the data.
        """
        described = {}
        for path in sorted(self.files):
            name = path.relative_to(self.folder).as_posix()
            try:
                status = path.stat()
                size, time = status.st_size, status.st_mtime_ns
                match known.get(name):
                    case [int(told_size), int(told_time), str(content)] if (
                            (told_size, told_time) == (size, time) and SHA256.fullmatch(content)):
                        pass
                    case _:
                        content = files.remembered_sha256(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
            described[name] = size, time, content
        return described


def _columns(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Rows in aligned columns; a cell that is far longer than others widens only its own row."""
    widths = [min(max(len(row[column]) for row in rows), WIDEST) for column in (0, 1)]
    return [f"{file:{widths[0]}} {problem:{widths[1]}} {detail}" for file, problem, detail in rows]


def identity(hashes: Mapping[str, Sequence[Any]]) -> str:
    """A SHA-256 over the names and the contents of files, from `Report.hashes`."""
    total = hashlib.sha256()
    for name in sorted(hashes):
        total.update(os.fsencode(name) + b"\0" + bytes.fromhex(hashes[name][2]))
    return total.hexdigest()
