"""The baseline of chapters 5 to 7: pairs made by a GAN, SinGAN-Seg's published ones or a SinGAN of our own.

SinGAN-Seg (Thambawita et al. 2022) trains a GAN for each image. Of the published pairs one knows by which of
its GANs each was made, but not which real image that one was trained on: whether they leak is not known.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, plain, resolve
from diffusegen_core.data import dataset, layouts, pairsets, testsets
from diffusegen_core.data.pairsets import Job
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.networks import singan
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store import runs, seeds

VERSION = 1  # raised when the same parameters would give other pairs
GAN = "GAN"
MANIFEST = [*pairsets.ORIGIN, "area"]
# Source image, start scale, and sample from 0.
PUBLISHED = re.compile(r"chk_id_(\d+)_gen_scale_(\d+)_(\d+)(?:_img)?")
EMPTY = "empty mask"  # a generator's doing, and no fault of the folder: such a pair is left out


@dataclass(frozen=True)
class Made:
    """The dataset folder of the data type "GAN", and its manifest: a row a pair.

    In the manifest `source` is "" where it is not known, `seed` likewise -1; `source_cluster` is always -1,
    because no cluster has a part in it.
    """

    folders: dict[str, Path]
    manifest: pd.DataFrame
    left_out: pd.DataFrame  # pairs with empty masks
    made_by: str  # in words
    trained: bool
    """Whether the GAN was trained here. If not, `seconds` is for reading alone."""
    seconds: float

    @property
    def seconds_per_image(self) -> float | None:
        """What a usable pair cost, training included; None where the GAN was not trained here."""
        return self.seconds / len(self.manifest) if self.trained and len(self.manifest) else None


@fanout.alone
def run(p: Params) -> Made | None:
    """Make or read every pair that is not there yet; None where `gan.source` is null.

    Raises UserError where the folder is no dataset or has problems, or the start scale is none.
    """
    if p.gan.source is None:
        return None
    folder = p.folder / "gan" / GAN
    trained = p.gan.source == "singan"
    stamp = _train(p, folder) if trained else _read(p, folder)
    return Made({GAN: folder}, pairsets.manifest(folder), pairsets.left_out(folder), stamp["made_by"],
                trained, stamp["seconds"])


def refuse_leaks(p: Params, tests: Mapping[str, TestSet]) -> None:
    """UserError, naming the pairs, where one that was made elsewhere is a copy of a test image.

    Of those made here each source is a training pair, and `trainsets.make` sees to it.
    """
    names = _foreign(p)
    if not names:
        return
    pairs = pairsets.load(p.folder / "gan" / GAN, names)
    for test in tests.values():
        if test.pairs is not None and (found := testsets.copies(pairs, test.pairs)):
            raise UserError(f"Parameters: gan.source: {len(found)} of the {len(pairs)} pairs are images of "
                            f"the test set {test.name}: {testsets.listed(found)}. Choose other pairs, or "
                            "another test set.")


def caveat(p: Params) -> str:
    """What a caption or a verdict must say of the GAN's pairs; "" where their sources are known."""
    names = _foreign(p)
    if not names:
        return ""
    said = ("The real images behind the GAN's pairs are not known, so that test images may be among them: "
            "they are no copies of test images, and no more can be checked.")
    if all(map(PUBLISHED.fullmatch, names)):
        said += (" SinGAN-Seg's published pairs were made of all 1000 pairs of HyperKvasir, the test images "
                 "included.")
    return said


def _foreign(p: Params) -> list[str]:
    """The names of the pairs, made or read already, of which nobody knows the real image."""
    folder = p.folder / "gan" / GAN
    if p.gan.source is None or not (folder / runs.STAMP).is_file():
        return []
    manifest = pairsets.manifest(folder)
    return manifest.loc[manifest["source"] == "", "name"].tolist()


def samples(p: Params) -> int:
    """Pairs for each source."""
    return p.gan.samples or p.inpaint.samples


def sources(p: Params, count: int) -> int:
    """How many of `count` sources are used."""
    return min(p.gan.sources or p.inpaint.sources or count, count)


# ---- our own


def plan(p: Params, names: list[str]) -> list[Job]:
    """Every pair of our own: a model for each source, a seed for each pair."""
    used = names[:sources(p, len(names))]
    return [Job(index, f"{name}_{sample}", name, -1, f"singan-{name}", sample,
                seeds.derive(p.seed, "gan", name, sample))
            for sample in range(1, samples(p) + 1) for index, name in enumerate(used)]


def refuse_impossible(p: Params) -> None:
    """UserError where no SinGAN of these sizes can be trained."""
    scales = len(singan.sides(p.data.image_size, p.gan))
    if p.gan.start_scale >= scales:
        raise UserError(f"Parameters: gan.start_scale: there are {scales} scales, 0 to {scales - 1}, so that "
                        f"none is left to draw noise at {p.gan.start_scale}.")
    if p.data.image_size <= 2 * p.gan.layers:
        raise UserError(f"Parameters: gan.layers: {p.gan.layers} convolutions see nothing of images of "
                        f"{p.data.image_size} pixels. Ask for fewer, or for no GAN by gan.source: null.")


def _train(p: Params, folder: Path) -> dict[str, Any]:
    refuse_impossible(p)
    pairs = dataset.load(p)
    jobs = plan(p, pairs.names)
    recipe = {"version": VERSION, "seed": p.seed,
              "gan": {k: v for k, v in plain(p.gan).items() if k not in ("source", "sources", "samples")},
              "jobs": {job.name: job.seed for job in jobs},
              # A pyramid knows its own image alone.
              "models": {job.model: pairs.take([job.index]).digest for job in jobs}}
    if stamp := runs.current(folder, recipe):
        return stamp
    rows = pairsets.complete("SinGAN of each source", folder, jobs, recipe, samples(p), make_source, p=p)
    return pairsets.finish(folder, recipe, rows, MANIFEST,
                           made_by=f"SinGAN trained here, noise from scale {p.gan.start_scale}")


def make_source(p: Params, jobs: list[Job], keys: list[str], folder: Path) -> None:
    """Train a pyramid on one source and draw its samples, each by itself; the pyramid is not kept."""
    began = time.monotonic()
    device = devices.device(p.device)
    image = dataset.to_tensor(dataset.load(p).take([jobs[0].index]))[0]
    steps = p.gan.steps * len(singan.sides(p.data.image_size, p.gan))
    with progress.bar(jobs[0].model, steps, "step") as bar, devices.exact():
        pyramid = singan.fit(image, p.gan, seeds.derive(p.seed, "gan", jobs[0].source), device, bar.update)
        made = [singan.draw(pyramid, p.gan.start_scale, [seeds.generator(job.seed, "noise", device=device)])
                for job in jobs]
    x = torch.cat(made).cpu().numpy()
    seconds = (time.monotonic() - began) / len(jobs)
    for job, key, sample in zip(jobs, keys, x, strict=True):
        # As SinGAN-Seg's: half-way between its values the mask begins, and nothing else is done to it.
        _keep(job, key, folder, dataset.to_bytes(sample[:3]), (sample[3:] > 0).astype(np.uint8), seconds,
              device=devices.name(p.device))


def _keep(job: Job, key: str, folder: Path, image: np.ndarray, mask: np.ndarray, seconds: float,
          **facts: str) -> None:
    row = {**job.origin, "area": round(float(mask.mean()), 6)}
    pairsets.keep(folder, job.name, key, row, (image, mask) if mask.any() else None, seconds, **facts)


# ---- the published pairs, or another generator's


def _read(p: Params, folder: Path) -> dict[str, Any]:
    report = scanned(p)
    jobs, made_by = found(p, report, len(dataset.load(p)))
    used = [report.pairs[job.index] for job in jobs]
    recipe = {"version": VERSION, "reader": dataset.READER, "image_size": p.data.image_size,
              "jobs": {pair.name: [runs.sha256(pair.image), runs.sha256(pair.mask)] for pair in used},
              "models": {job.model: made_by for job in jobs}}
    if stamp := runs.current(folder, recipe):
        return stamp
    # One batch, so that all problems are told at once.
    rows = pairsets.complete("Pairs of the GAN", folder, jobs, recipe, len(jobs), read_pairs, p=p,
                             report=report)
    return pairsets.finish(folder, recipe, rows, MANIFEST, made_by=made_by)


def scanned(p: Params) -> layouts.Report:
    """What lies in the folder that gan.source names, its images unopened; UserError with its problems."""
    origin = resolve(p.gan.source)
    if p.folder in (origin, *origin.parents):
        raise UserError(f"Parameters: gan.source: {origin} lies in run_dir {p.folder}, whose parts are "
                        "replaced. Choose another run_dir.")
    try:
        report = layouts.scan(origin)
    except UserError as error:
        raise UserError(f"Parameters: gan.source: {error}") from None
    if report.problems:
        raise UserError(f"Parameters: gan.source: {report.brief()}")
    return report


def found(p: Params, report: layouts.Report, count: int) -> tuple[list[Job], str]:
    """The pairs of a folder that are used, at most `count` sources, and whose they are, in words.

    SinGAN-Seg's names tell source and sample; pairs with other names are one set, each its own source.
    """
    matches = [PUBLISHED.fullmatch(pair.name) for pair in report.pairs]
    known = bool(matches) and all(matches)
    scales = sorted({int(match[2]) for match in matches}) if known else []
    if len(scales) > 1:
        raise UserError(f"Parameters: gan.source: {report.folder} mixes pairs of the start scales {scales}. "
                        "Name a folder that holds those of one.")
    number = [(int(match[1]), int(match[3]) + 1) if known else (index, 1)
              for index, match in enumerate(matches)]
    used = set(sorted({source for source, _ in number})[:sources(p, count)])
    jobs = [Job(index, pair.name, "", -1, "SinGAN-Seg" if known else "other", sample, -1)
            for index, (pair, (source, sample)) in enumerate(zip(report.pairs, number, strict=True))
            if source in used and sample <= samples(p)]
    if not jobs:
        raise UserError(f"Parameters: gan.source: {report.folder} holds no pairs.")
    return jobs, (f"SinGAN-Seg's published pairs, noise from scale {scales[0]}" if known
                  else "another generator's pairs")


def read_pairs(p: Params, jobs: list[Job], keys: list[str], folder: Path, report: layouts.Report) -> None:
    """Copy pairs into the dataset folder, at the run's size. UserError with all that are not usable."""
    began = time.monotonic()
    wanted = {job.name: (job, key) for job, key in zip(jobs, keys, strict=True)}
    report = layouts.Report(report.folder, report.layout, [report.pairs[job.index] for job in jobs])
    masks = {pair.mask.relative_to(report.folder).as_posix(): pair.name for pair in report.pairs}
    for pair, image, mask in layouts.read(report):
        _keep(*wanted[pair.name], folder, *dataset.resized(image, mask, p.data.image_size),
              time.monotonic() - began)
        began = time.monotonic()
    nothing = np.zeros((1, p.data.image_size, p.data.image_size), np.uint8)
    for problem in report.problems:
        if problem.problem == EMPTY:
            _keep(*wanted[masks[problem.file]], folder, nothing, nothing, 0.0)
    report.problems = [problem for problem in report.problems if problem.problem != EMPTY]
    if report.problems:
        raise UserError(f"Parameters: gan.source: {report.brief()}")
