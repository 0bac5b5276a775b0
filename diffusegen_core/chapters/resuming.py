"""What a training of chapter 2 leaves to go on from, interrupted or finished, and which of it is taken up."""

from pathlib import Path

from diffusegen_core.chapters.trained import WEIGHTS
from diffusegen_core.diffusion.training import State, resume
from diffusegen_core.store.artifacts import GENERATORS, Artifact
from diffusegen_core.store.stamps import MAKING, STAMP, altered, read_stamp

OPTIMIZER, CHECKPOINT = "optimizer.safetensors", "checkpoint.safetensors"
PLATEAU = "plateau.safetensors"  # all of a training, as it was before its learning rate fell


def take_up(state: State, artifact: Artifact, folder: Path, steps: int) -> None:
    """Take up the furthest training that differs from this one in the number of images alone.

    An interrupted one left a checkpoint; a finished one, or one that was interrupted as it was finished, the
    model and its optimizer's state.
    """
    unfinished = [folder, *(other for other in sorted(folder.parent.iterdir()) if other != folder)]
    finished = [place for place in artifact.earlier() if _intact(place)]
    sources = [[place / CHECKPOINT] for place in unfinished]
    whole = [place for place in unfinished if not (place / STAMP).is_file() or _intact(place)]
    sources += [[place / WEIGHTS, place / OPTIMIZER] for place in (*whole, *finished)]
    sources += [[place / PLATEAU] for place in (*unfinished, *finished)]
    resume(state, sources, artifact.recipe, steps)


def last_kept(run: Path) -> float | None:
    """When the newest checkpoint of a model that a run has begun to train was written, in seconds since 1970:
    0 where there is none yet, None where no model is begun."""
    begun = [*run.glob(f"{MAKING}/train/*/*"), *run.glob(f"{GENERATORS}/*/{MAKING}/train/*/*")]
    written = [path.stat().st_mtime for place in begun if (path := place / CHECKPOINT).is_file()]
    return max(written, default=0.0) if begun else None


def _intact(finished: Path) -> bool:
    """Whether weights and optimizer of a finished model are what was written: nobody asks for the training
    to go on from what was damaged, or changed by hand."""
    stamp = read_stamp(finished)
    return stamp is not None and not {WEIGHTS, OPTIMIZER, PLATEAU} & {
        *altered(finished, stamp), *altered(finished, stamp, "shown")}
