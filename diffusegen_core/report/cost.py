"""The time that the pairs of each data type took to make, training included."""

from collections.abc import Iterator
from typing import NamedTuple

from diffusegen_core.config.text import duration
from diffusegen_core.data.types import GAN, DataType
from diffusegen_core.run import Run


class Spent(NamedTuple):
    """Seconds for all pairs of a data type, added up over workers and GPUs. NaN where a part of them is not
    known."""

    data_type: DataType
    pairs: int
    learning: float
    """Training of the diffusion models, once for all pairs, and of the filter's networks for filtered types;
    0 for pasted types, and NaN for a GAN, whose training is part of `making`."""
    making: float

    @property
    def each(self) -> float:
        """Seconds per usable pair, training included; NaN without a pair."""
        whole = self.making + (0 if self.data_type == GAN else self.learning)
        return whole / self.pairs if self.pairs else float("nan")


def spent(run: Run) -> list[Spent]:
    """A row for every data type that the run has made so far; none for a GAN that was not trained here."""
    gan, pasted, models, inpainted, styled = map(run.finished, ("gan", "paste", "train", "inpaint", "style"))
    rows = [Spent(GAN, len(gan.pairs), float("nan"), gan.seconds)] if gan and gan.trained else []
    rows += [Spent(kind, len(one), 0.0, one.seconds) for kind, one in (pasted.sets.items() if pasted else ())]
    if inpainted is None or models is None:
        return rows
    for kind, one in inpainted.sets.items():
        base = [models.base] if models.base else []
        used = [models.full] if kind.full else base + models.models
        learning = sum(model.card_seconds for model in used if model)
        rows.append(Spent(kind, len(one), learning, one.seconds))
        if styled:
            twin = styled.sets[kind.styled]
            rows.append(Spent(twin.data_type, len(twin), learning, one.seconds + twin.seconds))
    return [*rows, *_filtered(run, rows)]


def _filtered(run: Run, rows: list[Spent]) -> Iterator[Spent]:
    """The rows of filtered types: the filter's networks count as training, its scores as making."""
    known, filtered = {row.data_type: row for row in rows}, run.finished("filter")
    networks = filtered.scorers.seconds if filtered and filtered.scorers else 0.0
    for kind, one in (filtered.judged if filtered else {}).items():
        if kind in known:
            yield Spent(one.kept.data_type, len(one.kept), known[kind].learning + networks,
                        known[kind].making + one.seconds)


def short(seconds: float) -> str:
    """Seconds in words, as "9.2 s" or "3 ms"."""
    return duration(seconds) if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
