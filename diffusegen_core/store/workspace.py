"""Where a run makes its things, with which seed and on which device."""

from dataclasses import dataclass, replace
from pathlib import Path

from diffusegen_core.store.artifacts import Artifact, Recipe


@dataclass(frozen=True)
class Workspace:
    """A run's folder as the chapters see it. In a read-only one nothing is made: what is absent is an
    error."""

    folder: Path
    """The run folder, absolute."""
    seed: int = 0
    device: str = "auto"
    """As the parameter `device`."""
    writable: bool = True
    again: bool = False
    """As `Artifact.again`."""

    def artifact(self, name: str, recipe: Recipe) -> Artifact:
        """What lies, or is going to lie, in the folder `name` of the run."""
        return Artifact(self.folder, name, recipe, self.writable, self.again)

    @property
    def read_only(self) -> "Workspace":
        return replace(self, writable=False, again=False)
