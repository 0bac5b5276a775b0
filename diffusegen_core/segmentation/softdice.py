"""The loss of the segmentation networks: soft Dice over a batch (paper 2.6, B.3; method.md 7)."""

from torch import nn

from diffusegen_core.data.planes import Planes


def loss(kind: Planes) -> nn.Module:
    """Loss of logits (B, M + 1, S, S) against numbered masks (B, S, S), or where classes overlap of logits
    (B, M, S, S) against masks of the same shape.

    For one class it is the published one, of the lesion's channel alone, with a smoothing term of 1, which is
    0.5 in the library's halved formula. For several it is the mean over them, with background as one of them
    where they exclude each other. Where a batch's true masks lack a class, the library counts its loss as 0,
    and the formula, with the smoothing term, as nearly 1.
    """
    from segmentation_models_pytorch.losses import DiceLoss  # takes seconds

    if kind.overlap:
        return DiceLoss("multilabel", smooth=0.5)
    # Without background's own term, only the Dice of the class that is called there keeps a network from
    # calling the empty surroundings a lesion, and once it does, the gradient is next to nothing: of six
    # trainings on 60 drawn CT slices, three stayed at a lesion Dice of 0.03, and with the term none did.
    return DiceLoss("multiclass", classes=None if exclusive(kind) else [1], smooth=0.5)


def exclusive(kind: Planes) -> bool:
    """Whether there are several classes, of which a pixel has one at most."""
    return kind.classes > 1 and not kind.overlap
