"""The baseline of chapters 5 to 7: pairs made by a GAN, SinGAN-Seg's published ones or a SinGAN of our own.

SinGAN-Seg (Thambawita et al. 2022) trains a GAN for each image. The published pairs tell which of its GANs
made each of them, but not which real image that GAN was trained on: whether they leak is not known.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffusegen_core.chapters.costs import Cost, Work
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, plain, resolve
from diffusegen_core.config.sections import Gan, Inpaint
from diffusegen_core.data import (
    dataset,
    decisive,
    fits,
    labels,
    layouts,
    pairsets,
    patients,
    planes,
    reading,
    sidecars,
)
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.pairsets import SINGAN_SEG, Job, PairSet
from diffusegen_core.data.reports import Report
from diffusegen_core.data.types import GAN
from diffusegen_core.networks import singan
from diffusegen_core.parallel import progress
from diffusegen_core.segmentation.trainsets import Amount
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Artifact
from diffusegen_core.store.stamps import Stamp, read_stamp
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other pairs
SINGAN = "singan"  # the source that is trained here
MANIFEST = [*pairsets.ORIGIN, "area"]
SOURCE = "source.json"  # sizes, times and hashes of the files that were read


@dataclass(frozen=True)
class Baseline:
    """The GAN's pairs.

    In the manifest an unknown `source` is "" and an unknown `seed` -1; `source_cluster` is always -1, because
    clusters play no part. Pairs with empty masks are left out.
    """

    pairs: PairSet
    made_by: str
    """Who or what made the pairs, in words."""
    trained: bool
    """Whether the GAN was trained here. If not, `seconds` covers only reading."""

    @property
    def seconds(self) -> float:
        return self.pairs.seconds

    @property
    def foreign(self) -> list[str]:
        """The names of the pairs whose real image is unknown."""
        manifest = self.pairs.manifest
        return [str(name) for name in manifest.loc[manifest["source"] == "", "name"]]


def run(ws: Workspace, pairs: Pairs, settings: Gan, inpaint: Inpaint,
        data: Data = PLAIN) -> Baseline | None:
    """Make or read every pair that is not there yet; None if `gan.source` is null.

    Sources and samples are as many as inpainting's where the GAN's own are null. `data`, the run's, says how
    a folder is read. Raises UserError if the folder is no dataset or has problems, or if no SinGAN of the
    given sizes can be trained.
    """
    if settings.source is None:
        return None
    settings = filled(settings, inpaint)
    trained = settings.source == SINGAN
    artifact = (_train(ws, pairs, settings, inpaint.draw_sources) if trained
                else _read(ws, pairs, settings, data))
    made = pairsets.read(artifact, GAN)
    return Baseline(made, made.stamp["made_by"], trained)


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    settings = filled(p.gan, p.inpaint)
    if settings.source == SINGAN:
        yield from refusals([lambda: refuse_impossible(settings, p.data.image_size)])
    elif settings.source and not _remembered(p.folder, settings):
        count = dataset.expected_count(p) or 1
        yield from refusals([lambda: chosen(scanned(settings, p.data), settings, count)])


def costs(settings: Gan, image_size: int, amount: Amount, work: Work) -> Iterator[Cost]:
    """The cost of training a SinGAN on each source, or of reading the pairs."""
    if settings.source is None:
        return
    sources, samples = amount.sources, amount.samples
    trained = settings.source == SINGAN
    each = work.pyramid + samples * work.drawn if trained else 0.0
    steps = 2 * settings.steps * len(singan.sides(image_size, settings)) if trained else 0
    yield Cost(chapter="evaluate",
               work="GAN, a SinGAN of each source" if trained else "GAN, pairs that are read", kind="GAN",
               items=sources, images=sources * steps, flop=sources * each, largest=each,
               disk=sources * samples * work.pair * image_size ** 2)


def filled(settings: Gan, inpaint: Inpaint) -> Gan:
    """The settings with inpainting's samples and sources in place of null; null sources still mean all."""
    return settings.model_copy(update={"samples": settings.samples or inpaint.samples,
                                       "sources": settings.sources or inpaint.sources})


def caveat(baseline: Baseline | None) -> str:
    """What a caption or a verdict must say of the GAN's pairs; "" where their sources are known."""
    names = baseline.foreign if baseline else []
    if not names:
        return ""
    text = ("The real images behind the GAN's pairs are not known and may include test images. The pairs are "
            "not copies of test images; nothing more can be checked.")
    if all(map(SINGAN_SEG.fullmatch, names)):
        text += (" SinGAN-Seg's published pairs were made from all 1000 pairs of HyperKvasir, including the "
                 "test images.")
    return text


# ---- trained here


def plan(seed: int, pairs: Pairs, settings: Gan, drawn: bool = False) -> list[Job]:
    """Every pair to make here: a model for each source, a seed for each pair. `settings` are as of `filled`,
    `drawn` is as inpaint.draw_sources."""
    used = [(index, pairs.names[index])
            for index in patients.sources(pairs.names, pairs.file, settings.sources, drawn)]
    return [Job(index, f"{name}_{sample}", name, -1, f"singan-{name}", sample,
                seeds.derive(seed, "gan", name, sample))
            for sample in range(1, (settings.samples or 1) + 1) for index, name in used]


def refuse_impossible(settings: Gan, image_size: int) -> None:
    """UserError where no SinGAN of these sizes can be trained."""
    scales = len(singan.sides(image_size, settings))
    if settings.start_scale >= scales:
        raise UserError(f"Parameters: gan.start_scale: {settings.start_scale} is not a scale; there "
                        f"are {scales}, 0 to {scales - 1}.")
    if image_size <= 2 * settings.layers:
        raise UserError(f"Parameters: gan.layers: images of {image_size} pixels are too small for "
                        f"{settings.layers} convolutions. Ask for fewer, or set gan.source to null.")


def _train(ws: Workspace, pairs: Pairs, settings: Gan, drawn: bool) -> Artifact:
    refuse_impossible(settings, pairs.image_size)
    jobs = plan(ws.seed, pairs, settings, drawn)
    deciding = {name: value for name, value in plain(settings).items()
                if name not in ("source", "sources", "samples")}
    artifact = ws.artifact(GAN.artifact, {
        "version": VERSION, "seed": ws.seed, "gan": deciding,
        "jobs": {job.name: job.seed for job in jobs},
        # A pyramid depends on its own image alone.
        "models": {job.model: pairs.take([job.index]).digest for job in jobs}})
    if not artifact.made():
        made_by = f"SinGAN trained here, noise from scale {settings.start_scale}"
        pairsets.make(ws, artifact, "SinGAN of each source", jobs, settings.samples or 1, make_source,
                      MANIFEST, facts={"made_by": made_by}, ws=ws, pairs=pairs.stored, settings=settings)
    return artifact


def make_source(jobs: list[Job], keys: list[str], folder: Path, ws: Workspace, pairs: Path,
                settings: Gan) -> None:
    """Train a pyramid on one source and draw its samples, each by itself; the pyramid is not kept."""
    began = time.monotonic()
    device = devices.device(ws.device)
    source = dataset.read(pairs).take([jobs[0].index])
    image, channels = dataset.to_tensor(source)[0], source.planes.channels
    steps = settings.steps * len(singan.sides(image.shape[-1], settings))
    with progress.bar(jobs[0].model, steps, "step") as bar, devices.exact():
        pyramid = singan.fit(image, settings, seeds.derive(ws.seed, "gan", jobs[0].source), device,
                             bar.update)
        drawn = [singan.draw(pyramid, settings.start_scale,
                             [seeds.generator(job.seed, "noise", device=device)]) for job in jobs]
    x = torch.cat(drawn).cpu().numpy()
    seconds = (time.monotonic() - began) / len(jobs)
    for job, key, sample in zip(jobs, keys, x, strict=True):
        # As in SinGAN-Seg, the mask is cut half-way between its values, and not cleaned up further.
        mask = planes.separate(planes.decided(sample[channels:], overlap=source.overlap),
                               source.planes.classes)
        _keep(job, key, folder, dataset.to_bytes(sample[:channels]), mask, seconds,
              device=devices.name(ws.device))


def _keep(job: Job, key: str, folder: Path, image: np.ndarray, mask: np.ndarray, seconds: float,
          **facts: str) -> None:
    row = {**job.origin, "area": round(float(planes.union(mask).mean()), 6)}
    pairsets.keep(folder, job.name, key, row, (image, mask) if mask.any() else None, seconds, **facts)


# ---- the published pairs, or another generator's


def _remembered(run: Path, settings: Gan) -> Stamp | None:
    """The stamp of the pairs that these settings chose, if their folder is gone, as in a copied run."""
    stamp = read_stamp(run / GAN.artifact)
    known = stamp is not None and "reader" in stamp["recipe"] and stamp.get("asked") == plain(settings)
    return stamp if known and not resolve(str(settings.source)).exists() else None


def _read(ws: Workspace, pairs: Pairs, settings: Gan, data: Data) -> Artifact:
    how = sidecars.as_read(layouts.of_others(data, resolve(str(settings.source))), pairs.file)
    fixed = {"version": VERSION, "reader": decisive.READER, "image_size": pairs.image_size,
             **layouts.told_of(how)}
    if known := _remembered(ws.folder, settings):
        return ws.artifact(GAN.artifact, {
            **{name: known["recipe"][name] for name in ("jobs", "models")}, **fixed})
    report = scanned(settings, data)
    jobs, made_by = chosen(report, settings, len(pairs))
    used = [report.pairs[job.index] for job in jobs]
    before = files.read_json(ws.folder / GAN.artifact / SOURCE)
    hashes = Report(report.folder, report.layout, files=[
        file for pair in used for file in (*pair.images, *pair.masks)]).hashes(
            before if isinstance(before, dict) else {})
    artifact = ws.artifact(GAN.artifact, {
        **fixed,
        "jobs": {pair.name: [hashes[file.relative_to(report.folder).as_posix()][2]
                             for file in (*pair.images, *pair.masks)] for pair in used},
        "models": {job.model: made_by for job in jobs}})
    if not artifact.made():
        files.write_json(artifact.begin() / SOURCE, hashes)
        # One batch, so that all problems are reported at once.
        pairsets.make(ws, artifact, "Pairs of the GAN", jobs, len(jobs), read_pairs, MANIFEST,
                      facts={"made_by": made_by, "asked": plain(settings)}, report=report,
                      image_size=pairs.image_size, how=how)
    return artifact


def scanned(settings: Gan, data: Data = PLAIN) -> Report:
    """List the folder that gan.source names without opening images; UserError if it has problems."""
    origin = resolve(str(settings.source))
    try:
        report = layouts.scan(origin, layouts.of_others(data, origin))
    except UserError as error:
        raise UserError(f"Parameters: gan.source: {error}") from None
    if report.problems:
        raise UserError(f"Parameters: gan.source: {report.brief()}")
    return report


def chosen(report: Report, settings: Gan, count: int) -> tuple[list[Job], str]:
    """The pairs of a folder that are used, from at most `count` sources, and who made them, in words.

    SinGAN-Seg's names tell source and sample; pairs with other names are one set, each its own source.
    `settings` are as of `filled`.
    """
    matches = [match for pair in report.pairs if (match := SINGAN_SEG.fullmatch(pair.name))]
    published = bool(matches) and len(matches) == len(report.pairs)
    scales = sorted({int(match[2]) for match in matches}) if published else []
    if len(scales) > 1:
        raise UserError(f"Parameters: gan.source: {report.folder} mixes pairs of the start scales {scales}. "
                        "Name a folder with pairs of only one.")
    numbers = ([(int(match[1]), int(match[3]) + 1) for match in matches] if published
               else [(index, 1) for index in range(len(report.pairs))])
    used = set(sorted({source for source, _ in numbers})[:min(settings.sources or count, count)])
    jobs = [Job(index, pair.name, "", -1, "SinGAN-Seg" if published else "other", sample, -1)
            for index, (pair, (source, sample)) in enumerate(zip(report.pairs, numbers, strict=True))
            if source in used and sample <= (settings.samples or 1)]
    if not jobs:
        raise UserError(f"Parameters: gan.source: {report.folder} holds no pairs.")
    return jobs, (f"SinGAN-Seg's published pairs, noise from scale {scales[0]}" if published
                  else "another generator's pairs")


def read_pairs(jobs: list[Job], keys: list[str], folder: Path, report: Report, image_size: int,
               how: Data = PLAIN) -> None:
    """Copy pairs into the dataset folder, at the run's size. UserError listing all that are not usable."""
    began = time.monotonic()
    wanted = {job.name: (job, key) for job, key in zip(jobs, keys, strict=True)}
    part = Report(report.folder, report.layout, [report.pairs[job.index] for job in jobs], told=report.told,
                  condition=report.condition)
    for pair, image, mask in reading.read(part, how):
        _keep(*wanted[pair.name], folder, *fits.fitted(image, mask, image_size, how.fit),
              time.monotonic() - began)
        began = time.monotonic()
    # An empty mask is the generator's fault, not the folder's: such a pair is left out.
    empty = [problem for problem in part.problems if problem.problem == labels.EMPTY]
    nothing = np.zeros((1, image_size, image_size), np.uint8)
    for problem in empty:
        _keep(*wanted[problem.pair], folder, nothing, nothing, 0.0)
    part.problems = [problem for problem in part.problems if problem not in empty]
    if part.problems:
        raise UserError(f"Parameters: gan.source: {part.brief()}")
