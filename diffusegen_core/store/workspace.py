"""Where a run makes its things, with which seed and on which device."""

from dataclasses import dataclass, replace
from pathlib import Path

from diffusegen_core.store import lock, moves, seeds
from diffusegen_core.store.artifacts import Artifact, Recipe
from diffusegen_core.store.stamps import GENERATORS


@dataclass(frozen=True)
class Workspace:
    """A run's folder as the chapters see it. In a read-only one nothing is made, and what is absent is an
    error."""

    folder: Path
    """The run folder, absolute."""
    seed: int = 0
    device: str = "auto"
    """As the parameter `device`."""
    writable: bool = True
    again: bool = False
    """As `Artifact.again`."""
    tracking: str | None = None
    """As the parameter `tracking`."""
    number: int = 0
    """The generator that this workspace belongs to; 0 also for what exists once in a run."""

    @property
    def whose(self) -> str:
        """The generator in words, for progress: " of generator 1"; "" for the first, 0."""
        return f" of generator {self.number}" if self.number else ""

    def artifact(self, name: str, recipe: Recipe) -> Artifact:
        """The artifact whose place is the folder `name` of the run."""
        return Artifact(self.folder, name, recipe, self.writable, self.again)

    def generator(self, number: int) -> "Workspace":
        """The workspace of one of the run's generators. The first, 0, has the run's folder and seed; each of
        the others has its own."""
        if number == 0:
            return self
        return replace(self, folder=self.folder / GENERATORS / str(number), number=number,
                       seed=seeds.derive(self.seed, "generator", number))

    def beside(self, generators: int) -> "list[Workspace]":
        """The workspaces of the other generators, of so many in all; none if this is not the first one's, or
        is read-only. Raises UserError if the folder of one is, or lies in, a symbolic link."""
        if self.number or not self.writable:
            return []
        others = [self.generator(number) for number in range(1, generators)]
        for one in others:
            moves.refuse_links(self.folder, [f"{GENERATORS}/{one.number}"])
            lock.claim(one.folder)  # so that what it sets aside is listed
        return others

    @property
    def read_only(self) -> "Workspace":
        return replace(self, writable=False, again=False)
