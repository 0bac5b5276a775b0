"""The synthetic pairs of one generator, of all data types, in the order of the tables."""

from diffusegen_core.chapters.gan import Baseline
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.paste import Pasted
from diffusegen_core.chapters.style import Styled
from diffusegen_core.config.params import Params
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.segmentation import trainsets
from diffusegen_core.segmentation.trainsets import Sets


def run(p: Params, pairs: Pairs, inpainted: Inpainted, styled: Styled, baseline: Baseline | None,
        pasted: Pasted | None) -> Sets:
    """The sets of a run with these pairs; `baseline` or `pasted` is None if it has no such pairs.

    Raises UserError if a synthetic pair was made from an image that is not the run's.
    """
    twins = [one for data_type, before in inpainted.sets.items()
             for one in (before, styled.sets[data_type.styled])]
    plain = [*([baseline.pairs] if baseline else []), *(pasted.sets.values() if pasted else [])]
    supply = trainsets.supply(len(pairs), p.cluster.k, p.train.full_images is not None, p.inpaint, p.gan)
    return trainsets.collect(pairs, supply, [*plain, *twins])
