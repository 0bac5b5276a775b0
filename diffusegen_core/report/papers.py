"""Whether the paper's scores compare with a run's: what would have to be the same, but is not.

A score depends on the size of the images, on the data and on the network that was trained. Where one of these
differs, the paper's values do not stand in a run's table, but folded below it. Distances have conditions of
their own, in `evaluate_tables`.
"""

from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import FULL_SIZE
from diffusegen_core.networks import weights

ENCODER, PAIRS = "se_resnext50_32x4d", "paper348"


def differences(p: Params) -> list[str]:
    """The conditions of the paper's scores that this run's do not share, in words; [] where they compare."""
    own_data = p.data.drawn or p.data.subset != PAIRS or p.data.count is not None
    own_network = p.segment.encoder != ENCODER or p.segment.weights == weights.RANDOM
    turned = p.segment.augment and p.segment.rotate
    return [*([f"{FULL_SIZE} px"] if p.data.image_size != FULL_SIZE else []),
            *(["348 pairs of HyperKvasir"] if own_data else []),
            *(["U-Net++ with an ImageNet-pretrained SE-ResNeXt50"] if own_network else []),
            *(["training images that are not turned"] if turned else [])]


def why_not(reasons: list[str]) -> str:
    """A sentence that gives these reasons; "" where there are none."""
    if not reasons:
        return ""
    listed = " and ".join([", ".join(reasons[:-1]), reasons[-1]] if len(reasons) > 1 else reasons)
    return f"The paper's values are not comparable with these, because they were obtained with {listed}."
