"""Which claims a run was not asked to judge, because its parameters make nothing that these compare."""

from collections.abc import Iterator

import pandas as pd

from diffusegen_core.chapters import augment, segment
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, testsets
from diffusegen_core.data.types import GAN
from diffusegen_core.report import claims, comparisons, paperclaims
from diffusegen_core.report.comparisons import PAPERS_OWN, Comparison, Net
from diffusegen_core.report.paperclaims import Claim
from diffusegen_core.report.rule import Verdict
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets

_GAN, _FULL = "a GAN: gan.source", "a model of all pairs: train.full_images"
_ELSEWHERE = "test sets of other hospitals: segment.cvc, segment.polypgen"
ASKED_BY: dict[Claim, str] = {
    paperclaims.SYNTHETIC: _GAN, paperclaims.TRANSFER: f"{_GAN}; {_ELSEWHERE}",
    paperclaims.STYLING: "inpainted and styled pairs in segment.types",
    paperclaims.STYLING_FULL: _FULL, paperclaims.CLUSTERING: _FULL,
    paperclaims.FEWER: "runs of several cluster.k, together: diffusegen compare",
    paperclaims.GROWS: "several numbers of pairs of each source: segment.samples",
    paperclaims.SMALL: f"at most {comparisons.SMALL_UP_TO} real pairs in augment.sizes",
    paperclaims.FADES: "two numbers of real pairs or more in augment.sizes",
    paperclaims.EKES: f"{comparisons.LARGEST} real pairs in augment.sizes; {_ELSEWHERE}",
    paperclaims.PARTLY: _GAN, paperclaims.NEARER: _GAN, paperclaims.COMPUTE: _GAN,
    paperclaims.PASTING: "pasted pairs: inpaint.baselines", paperclaims.FILTERING: "a filter: filter.folds"}
"""The parameters that would ask for a claim."""


def split(run: Run, verdicts: list[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """The verdicts on claims that a run was asked to judge, and on the others, which have no numbers."""
    pairs = run.finished("data")
    wanted = asked(run.params, len(pairs) if pairs else dataset.expected_count(run.params))
    wanted |= {one.claim for one in verdicts if not pd.isna(one.difference)}
    return ([one for one in verdicts if one.claim in wanted],
            [one for one in verdicts if one.claim not in wanted])


def asked(p: Params, pairs: int | None) -> set[Claim]:
    """The claims for which parameters ask for at least one comparison, with so many real pairs; all claims
    where that number is not known, or a chapter refuses the parameters."""
    try:
        return set(_asked(p, pairs)) if pairs else set(claims.ORDER)
    except UserError:  # chapter 6 or 7 refuses the parameters
        return set(claims.ORDER)


def _asked(p: Params, pairs: int) -> Iterator[Claim]:
    supply = trainsets.of_run(p, pairs)
    grid = [*segment.grid(supply, p.segment), *augment.grid(supply, p.augment, p.segment)]
    nets = list(dict.fromkeys(Net(one.chapter, one.data_type.name, one.samples, one.size, one.ratio)
                              for one in grid))
    tests = {PAPERS_OWN, *(name for key, name in testsets.TRANSFER.items() if getattr(p.segment, key))}

    def possible(one: Comparison) -> bool:
        return not one.lacking and one.test_set in tests and set(one.nets) <= set(nets)

    frame = pd.DataFrame([net._asdict() for net in nets]).assign(test_set=PAPERS_OWN)
    yield from (one.claim for one in [*comparisons.among(nets, PAPERS_OWN, tests),
                                      *claims.pasting(frame, nets, PAPERS_OWN)] if possible(one))
    yield paperclaims.VARIED
    if GAN in supply:
        yield from (paperclaims.NEARER, paperclaims.COMPUTE)
