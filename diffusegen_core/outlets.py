"""The pairs of a run for other code: real ones, and those of a synthetic data type, as far as they are made.

Nothing is made here. If a run has several generators, the pairs are the first one's unless another is named.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from diffusegen_core.chapters import scenes
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.data import pairsets
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.segmentation import torchsets, trainsets
from diffusegen_core.segmentation.torchsets import Labelled, Mixed, Transform

if TYPE_CHECKING:
    from diffusegen_core.run import Run


def lesions(run: "Run") -> Pairs:
    """The pairs whose masks new lesions are drawn from: all, or those that have a class of inpaint.classes,
    with only these classes in their masks."""
    return scenes.with_chosen(run.pairs, run.params.inpaint, run.params.data)


def types(run: "Run") -> dict[str, DataType]:
    """The data types that a run has by its parameters, made or not, by name: Real first."""
    return {one.name: one for one in trainsets.of_run(run.params, len(run.pairs))}


def named(run: "Run", name: str) -> DataType:
    """The data type of this name. Raises UserError if the run has none."""
    known = types(run)
    if name not in known:
        raise UserError(f"This run has no data type {name}; it has {', '.join(known)}.")
    return known[name]


def made(run: "Run", data_type: DataType, generator: int = 0) -> PairSet:
    """The pairs of a synthetic data type, by one of the run's generators, from 0. Raises NotMadeError, which
    names the chapter, if they are not made."""
    result = run.read(data_type.artifact.partition("/")[0], generator)
    if data_type == GAN:
        pairs: PairSet = result.pairs
        return pairs
    sets = result.sets.sets if data_type.is_filtered else result.sets
    one: PairSet = sets[data_type]
    return one


def shown(run: "Run", data_type: DataType, generator: int = 0) -> Mapping[str, str]:
    """Whose mask or pasted lesion each pair of a synthetic type shows, by the pair's name: a real pair's, or
    that of a file of inpaint.masks. {} if every pair shows what was made of its own source.

    Only the set that was painted records it; styling and the filter keep the names of pairs.
    """
    first = made(run, data_type.unfiltered.inpainted, generator).manifest
    told = next((name for name in pairsets.DONORS if name in first), None)
    return dict(zip(first["name"], first[told], strict=True)) if told else {}


def dataset(run: "Run", data_type: str, transform: Transform | None = None,
            names: Collection[str] | None = None) -> Labelled:
    """The pairs of a data type for a training loop.

    With `names` only these real pairs, or pairs made of these alone, which show no mask or pasted lesion of
    another real pair. Raises UserError if the run has no such data type, or no such real pair.
    """
    kind, real = named(run, data_type), _real(run, names)
    if kind == REAL:
        return torchsets.of_pairs(run.pairs, real, transform)
    one = made(run, kind)
    rows = trainsets.grouped(one.manifest)
    chosen = rows if names is None else _made_of(run, kind, rows, real)
    return torchsets.of_folder(one.folder, list(chosen["name"]), transform, run.pairs.overlap)


def mixed(run: "Run", data_type: str, alpha: float = 0.5, ratio: int = 3, transform: Transform | None = None,
          seed: int = 0, names: Collection[str] | None = None) -> Mixed:
    """Real pairs, all or those of `names`, each replaced with probability `alpha` by `ratio` synthetic ones
    made of it.

    `seed` is the number of the repetition, as in chapter 7. With `names` no item shows a mask or pasted
    lesion of another real pair, whereas chapter 7 takes whatever its generator has made. Raises UserError for
    impossible numbers, and if nothing was made of any of these pairs.
    """
    kind, real = named(run, data_type), _real(run, names)
    if kind == REAL:
        raise UserError("Real pairs are mixed with those of a synthetic data type; name one instead of Real.")
    torchsets.refuse_no_number(ratio=ratio, seed=seed)
    try:
        is_share = 0 <= alpha <= 1
    except TypeError:
        is_share = False
    if not is_share:
        raise UserError(f"alpha is a probability, from 0 to 1, and not {alpha!r}.")
    most = trainsets.of_run(run.params, len(run.pairs))[kind].samples
    if not 1 <= ratio <= most:
        raise UserError(f"ratio {ratio} is not possible: this run makes {most} pairs of {kind} from a real "
                        f"one. Choose 1 to {most}, or raise {'gan' if kind == GAN else 'inpaint'}.samples.")
    one = made(run, kind)
    rows = trainsets.grouped(one.manifest)
    mine = _made_of(run, kind, rows, real).groupby("group")["name"].agg(list).to_dict()
    if not mine:
        raise UserError(f"No pair of {kind} is known to be made from any of these {len(real)} real pairs.")
    return torchsets.mix(torchsets.of_pairs(run.pairs, real, transform),
                         torchsets.of_folder(one.folder, list(rows["name"]), transform, run.pairs.overlap),
                         mine, alpha, ratio, run.params.seed, seed)


def _made_of(run: "Run", data_type: DataType, rows: pd.DataFrame, real: Sequence[str]) -> pd.DataFrame:
    """Those rows (columns trainsets.GROUPED) whose pairs were made of these real pairs alone."""
    of, others = shown(run, data_type), set(run.pairs.names).difference(real)
    return rows[rows["group"].isin(real) & ~rows["name"].map(lambda name: of.get(name) in others)]


def _real(run: "Run", names: Collection[str] | None) -> Sequence[str]:
    """The names of all real pairs, or of those asked for, in order. Raises UserError for unknown ones."""
    known = run.pairs.names
    if names is None:
        return known
    if unknown := sorted(set(names) - set(known)):
        raise UserError(f"names: this run has no real pair {some(unknown)}.")
    return [name for name in known if name in set(names)]
