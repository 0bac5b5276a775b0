"""Checks that no test set holds an image that a generator or a network is trained on."""

from collections.abc import Mapping

from diffusegen_core.chapters.gan import Baseline
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import pictures, testsets
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.store.workspace import Workspace


def free(ws: Workspace, p: Params, training: Pairs, baseline: Baseline | None,
         tests: Mapping[str, TestSet]) -> dict[str, TestSet]:
    """The same test sets. UserError, naming the images, if a test image is a training image, a GAN's pair
    that was made elsewhere, or a background."""
    testsets.refuse_leaks(training, p.data, tests)
    refuse_copied(baseline, tests)
    pictures.refuse_leaks(ws, p.inpaint.backgrounds, training.image_size, tests, p.data)
    return dict(tests)


def tests(ws: Workspace, p: Params, training: Pairs, baseline: Baseline | None) -> dict[str, TestSet]:
    """The test sets of a run, free of leaks."""
    return free(ws, p, training, baseline, testsets.load(ws, training, p.data, p.segment))


def held_out(ws: Workspace, p: Params, training: Pairs, baseline: Baseline | None) -> TestSet:
    """The held-out test set alone, which chapter 5 uses as well."""
    test = testsets.held_out(ws, training, p.data, p.segment)
    return free(ws, p, training, baseline, {test.name: test})[test.name]


def refuse_copied(baseline: Baseline | None, tests: Mapping[str, TestSet]) -> None:
    """UserError, naming the pairs, if a GAN's pair that was made elsewhere is a copy of a test image.

    The sources of pairs made here are training pairs, which `trainsets.collect` checks.
    """
    if baseline is None or not baseline.foreign:
        return
    pairs = baseline.pairs.load(baseline.foreign)
    for test in tests.values():
        if test.pairs is not None and (copied := testsets.copies(pairs, test.pairs)):
            raise UserError(f"Parameters: gan.source: {len(copied)} of the {len(pairs)} pairs are images of "
                            f"the test set {test.name}: {testsets.listed(copied)}. Choose other pairs, or "
                            "another test set.")
