"""What chapter 2's trainings, interrupted or finished, leave to resume from, and which of it is used."""

from pathlib import Path

from diffusegen_core.chapters.trained import WEIGHTS
from diffusegen_core.diffusion.training import State, resume
from diffusegen_core.store.artifacts import Artifact
from diffusegen_core.store.stamps import GENERATORS, MAKING, STAMP, altered, read_stamp

OPTIMIZER, CHECKPOINT = "optimizer.safetensors", "checkpoint.safetensors"
PLATEAU = "plateau.safetensors"  # a training's whole state before its learning rate fell


def take_up(state: State, artifact: Artifact, folder: Path, steps: int) -> None:
    """Resume the furthest training that differs from this one only in the number of images.

    An interrupted one left a checkpoint; a finished one, or one interrupted while it was being finished, the
    model and its optimizer's state; either may have left its state before the learning rate fell.
    """
    unfinished = [folder, *(other for other in sorted(folder.parent.iterdir()) if other != folder)]
    finished = [place for place in artifact.earlier() if _intact(place)]
    sources = [[place / CHECKPOINT] for place in unfinished]
    whole = [place for place in unfinished if not (place / STAMP).is_file() or _intact(place)]
    sources += [[place / WEIGHTS, place / OPTIMIZER] for place in (*whole, *finished)]
    sources += [[place / PLATEAU] for place in (*unfinished, *finished)]
    resume(state, sources, artifact.recipe, steps)


def last_kept(run: Path) -> float | None:
    """When the newest checkpoint of a run's unfinished trainings was written, in seconds since 1970; 0 if
    there is none yet, None if no training is under way."""
    begun = [*run.glob(f"{MAKING}/train/*/*"), *run.glob(f"{GENERATORS}/*/{MAKING}/train/*/*")]
    written = [path.stat().st_mtime for place in begun if (path := place / CHECKPOINT).is_file()]
    return max(written, default=0.0) if begun else None


def _intact(finished: Path) -> bool:
    """Whether the files of a finished model that a training resumes from are as written: it must not resume
    from any that were damaged, or changed by hand."""
    stamp = read_stamp(finished)
    return stamp is not None and not {WEIGHTS, OPTIMIZER, PLATEAU} & {
        *altered(finished, stamp), *altered(finished, stamp, "shown")}
