"""What a chapter's work items cost, before anything runs: the rows of a plan.

The FLOP of the networks are counted in `planning.flops`; a chapter knows its items and how often each calls
which network. All numbers are for a run from scratch in which no pair is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusegen_core.config.sections import TESTS, Segment
from diffusegen_core.data.planes import Planes
from diffusegen_core.segmentation.trainsets import Choice

FLOAT = 4  # bytes of a number


@dataclass(frozen=True)
class Backbone:
    """A frozen network: FLOP per image, and how many features it gives."""

    call: float
    width: int


@dataclass(frozen=True)
class Learner:
    """A trained network: FLOP per image of a call, and of a call with its gradient; number of weights."""

    call: float
    learn: float
    parameters: int


@dataclass(frozen=True)
class Work:
    """FLOP per image of everything that a run does often."""

    cluster: Backbone
    judge: Backbone
    """Chapter 5's backbone."""
    unet: Learner
    guided: list[float]
    """Styling, step by step; the first step includes what comes before and after the steps."""
    pyramid: float
    """Training a SinGAN on one image; 0 if the run trains none."""
    drawn: float
    """Drawing one image from it."""
    segment: Learner
    planes: Planes
    """The channels and classes of the pairs."""

    @property
    def pair(self) -> int:
        """Bytes per pixel of a pair in its folder, if uncompressed: the image's channels, and one class
        number."""
        return self.planes.channels + 1


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One kind of work of a chapter."""

    chapter: str
    """The one whose page makes it, such as "evaluate"; a key of `standing.NUMBERS`."""
    work: str
    """In words."""
    kind: str
    """One of planning.probe.KINDS; a probe measures a rate for each."""
    items: int
    images: int
    """Passes of one image through a network; for a SinGAN, training steps of its networks."""
    flop: float
    largest: float
    """FLOP of the largest item."""
    disk: float
    """Bytes that stay on disk, at most."""
    temporary: float = 0
    """Bytes of checkpoints that exist only while it runs."""
    cards: int = 1
    """How many GPUs an item uses at once; on a machine without any, how many processes."""


def without_network(chapter: str, work: str, kind: str, items: int, disk: float) -> Cost:
    """The cost of items in which no network is called."""
    return Cost(chapter=chapter, work=work, kind=kind, items=items, images=0, flop=0.0, largest=0.0,
                disk=disk)


def of_networks(chapter: str, settings: Segment, choices: Sequence[tuple[Choice, Choice]],
                work: Work) -> Cost:
    """The cost of a grid of segmentation networks: training, choosing the best epoch, and testing.

    `choices` holds the pairs of each network: those to train on, and those that choose its best epoch.
    """
    tests = settings.test_count * sum(getattr(settings, name) is not None for name in TESTS)
    images, each = 0, []
    for train, valid in choices:
        learnt = settings.epochs * max(2, settings.epoch_images or len(train))
        looked = settings.epochs * len(valid) + tests
        images += learnt + looked
        each.append(learnt * work.segment.learn + looked * work.segment.call)
    weights = FLOAT * work.segment.parameters
    # A checkpoint holds the weights, the best weights, and the optimizer's two moments. Weights that are not
    # kept lie beside it for a moment, until the network is tested.
    kept, temporary = (len(choices), 4) if settings.keep_weights else (0, 5)
    return Cost(chapter=chapter, work="segmentation networks", kind="segmentation", items=len(choices),
                images=images, flop=sum(each), largest=max(each, default=0.0),
                disk=kept * weights, temporary=temporary * weights)
