"""What a chapter's work items cost, before anything runs: the rows of a plan.

The networks are counted elsewhere (see `planning.flops`); a chapter knows its items and how often each asks
which network. Every number is for a run from nothing, in which no pair is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusegen_core.config.sections import TESTS, Segment
from diffusegen_core.data.planes import Planes
from diffusegen_core.segmentation.trainsets import Choice

FLOAT = 4  # bytes of a number


@dataclass(frozen=True)
class Backbone:
    """A network that only looks: FLOP an image, and how many features it gives."""

    call: float
    width: int


@dataclass(frozen=True)
class Learner:
    """A network that is trained: FLOP an image of a call, and of a call and its gradient; its weights."""

    call: float
    learn: float
    parameters: int


@dataclass(frozen=True)
class Work:
    """FLOP of everything that a run does often, each for one image."""

    cluster: Backbone
    judge: Backbone
    """Of chapter 5."""
    unet: Learner
    guided: list[float]
    """Of styling, step by step, the first with what comes before and after the steps."""
    pyramid: float
    """Of a SinGAN's training on one image; 0 where the run trains none."""
    drawn: float
    """Of an image that it makes."""
    segment: Learner
    planes: Planes = field(default_factory=Planes)
    """The channels and classes of the pairs."""

    @property
    def pair(self) -> int:
        """Bytes of a pixel of a pair as it lies in a folder, were it not compressed: the channels of its
        image, and the number of its class."""
        return self.planes.channels + 1


@dataclass(frozen=True)
class Cost:
    """One kind of work of a chapter."""

    chapter: str
    """As in the book's order: "5 evaluate"."""
    work: str
    """In words."""
    kind: str
    """Of planning.probe.KINDS: what a probe measures a rate of."""
    items: int
    images: int
    """Passes of one image through a network; of a SinGAN, steps of its networks."""
    flop: float
    largest: float
    """FLOP of the largest item."""
    disk: float
    """Bytes that are kept, at most."""
    temporary: float = 0
    """Bytes of checkpoints while it runs."""
    cards: int = 1
    """How many an item takes at once; where there are none, processes."""


def of_networks(chapter: str, settings: Segment, choices: Sequence[tuple[Choice, Choice]],
                work: Work) -> Cost:
    """What a grid of segmentation networks takes: passes to train, to choose the best epoch, and tests.

    `choices` are the pairs of each, to train on and to choose its best epoch.
    """
    tests = settings.test_count * sum(getattr(settings, name) is not None for name in TESTS)
    images, each = 0, []
    for train, valid in choices:
        learnt = settings.epochs * max(2, settings.epoch_images or len(train))
        looked = settings.epochs * len(valid) + tests
        images += learnt + looked
        each.append(learnt * work.segment.learn + looked * work.segment.call)
    weights = FLOAT * work.segment.parameters
    # A checkpoint holds the weights, the best ones and two moments.
    return Cost(chapter, "segmentation networks", "segmentation", len(choices), images, sum(each),
                max(each, default=0.0), len(choices) * weights if settings.keep_weights else 0, 4 * weights)
