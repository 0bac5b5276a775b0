"""Chapter 4: the inpainted images, guided back towards the real image that they came from (paper 2.4, A.3).

An inpainted pair is noised part of the way and denoised again by the model that painted it, guided in each
step by the losses of `diffusion.losses`. The mask stays. As in chapter 3, a pair depends on its own seed
alone. With style.method sdedit there is no guidance by losses: only the model and the mask decide the result.

If masks were given, the new lesion lies elsewhere than the source's, whose pixels would undo it: so the pixel
loss compares with the inpainted image instead. [CLS] and colours are still those of the picture that was
painted into.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffusegen_core.chapters import spots
from diffusegen_core.chapters.costs import Cost, Work
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.scenes import Scenes, bare
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config import devices
from diffusegen_core.config.checks import refusals
from diffusegen_core.config.data import Data
from diffusegen_core.config.params import Params, plain
from diffusegen_core.config.sections import Inpaint, Model, Style
from diffusegen_core.data import dataset, pairsets, planes, regions, windows
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.layouts import PLAIN
from diffusegen_core.data.pairsets import Job, PairSet, PairSets, Row
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion import checkpoints, colour, guided, losses
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.samplers import Generators, Tick
from diffusegen_core.diffusion.sdedit import sdedit
from diffusegen_core.networks import features, vgg
from diffusegen_core.parallel import progress
from diffusegen_core.segmentation.trainsets import Supply
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Recipe
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same parameters would give other pairs
MANIFEST = [*pairsets.ORIGIN, "area", "mask_dice", "cls_before", "cls_after", "seam_before", "seam_after",
            "status"]
COLUMNS = {"name": str, **dict.fromkeys(["step", "level", *guided.MEASURED], float)}
IRRELEVANT = ("weights", "vgg_weights", "batch_size", "checkpointing")  # no effect, or in recipes by content
GUIDED, SDEDIT = "guided", "sdedit"  # what style.method may be
NOT_GUIDED = ("method", "guidance_scale")
OF_SDEDIT = ("guidance_scale", "respacing", "skip", "colour_transfer", "precision", "backbone_size")


@dataclass(frozen=True)
class Styled(PairSets):
    """The styled pairs by data type, those that they were made of, and the losses of every step.

    A manifest has one row per pair: Dice of its mask with the mask channels after guidance (not for SDEdit);
    [CLS] distance to the source, and contrast at the border of the filled region, before and after. A pair
    that was stopped has no files, but a row in `left_out` whose `status` says why.
    """

    origins: dict[DataType, PairSet]
    """The inpainted pairs behind each set."""
    steps: dict[DataType, pd.DataFrame]
    """Columns step, level and guided.MEASURED, the pair's name as index; losses are unweighted; pulls, shift
    and noise are RMS over an image."""
    backbone: str
    """In words, as `vgg`."""
    vgg: str

    @property
    def table(self) -> pd.DataFrame:
        """One row per data type: pairs, pairs that were stopped, and means over the pairs of [CLS] distances
        and contrasts, before and after, and of the masks' Dice."""
        return self.described(lambda one: {
            "stopped": len(one.left_out),
            **{f"{measure} {when}": one.manifest[f"{column}_{when}"].mean() for measure, column in
               (("[CLS] distance", "cls"), ("seam", "seam")) for when in ("before", "after")},
            "mask Dice": one.manifest["mask_dice"].mean() if "mask_dice" in one.manifest else math.nan})


def run(ws: Workspace, pairs: Pairs, models: Trained, inpainted: Inpainted, settings: Style,
        inpaint: Inpaint, network: Model, window: float | None = None, data: Data = PLAIN) -> Styled:
    """Style every inpainted pair that is not styled yet; write the dataset folders with their manifests.

    `inpaint`, chapter 3's settings, says which pictures were painted into, and where. `network` says which
    blocks of the models ZeCon compares. With a `window`, which is data.window, only the filled part is
    styled. `data`, the run's, says how folders of masks and backgrounds are read.
    """
    scenes, sets, origins, steps = Scenes.of(ws, pairs, inpaint, window, data), {}, {}, {}
    for origin in inpainted.sets.values():
        one = _set(ws, pairs, models, origin, settings, scenes, network)
        sets[one.data_type], origins[one.data_type] = one, origin
        steps[one.data_type] = pd.read_csv(one.folder / "steps.csv", dtype=COLUMNS).set_index("name")
    return Styled(sets, origins, steps, features.label(settings.backbone, settings.weights),
                  features.label(settings.vgg, settings.vgg_weights))


def check(p: Params) -> Iterator[str]:
    """What the chapter would refuse, as far as can be told in advance."""
    c = p.style
    backbone = c.backbone, c.weights, c.input_range
    yield from refusals([
        lambda: features.recipe(*backbone),
        lambda: features.refuse_unfit(c.weights, features.load_cls, *backbone, size=c.backbone_size),
    ], "style")
    if judged(c).lambda_vgg:
        yield from refusals([lambda: vgg.recipe(c.vgg, c.vgg_weights, p.seed),
                             lambda: features.refuse_unfit(c.vgg_weights, vgg.load, c.vgg, c.vgg_weights)],
                            "style.vgg_weights")


def costs(settings: Style, supply: Supply, image_size: int, work: Work) -> Iterator[Cost]:
    """The chapter's work items, batches of pairs."""
    steps = calls = settings.respacing - settings.skip
    kind, each = "styling", sum(work.guided)
    if settings.method == SDEDIT:
        calls = edits(settings)
        kind, each = "sampling", calls * work.unet.call
    for data_type, amount in supply.items():
        if data_type.is_styled:
            pairs = amount.sources * amount.samples
            yield Cost(chapter="style", work=f"{data_type}, {steps} steps each", kind=kind, items=pairs,
                       images=pairs * calls, flop=pairs * each,
                       largest=min(pairs, settings.batch_size) * each,
                       disk=pairs * work.pair * image_size**2)


def edits(settings: Style) -> int:
    """Network calls for an image by SDEdit: one for each step, or two where the mask guides it."""
    return (settings.respacing - settings.skip) * (1 if settings.guidance_scale == 1 else 2)


def _set(ws: Workspace, pairs: Pairs, models: Trained, origin: PairSet, settings: Style, scenes: Scenes,
         network: Model) -> PairSet:
    data_type = origin.data_type.styled
    jobs = plan(ws.seed, data_type, origin.manifest, pairs.names)
    artifact = ws.artifact(data_type.artifact, recipe(ws, pairs, jobs, models, origin, settings, scenes))
    if not artifact.made():
        columns = [*MANIFEST, *(["picture"] if data_type.given_masks else [])]
        if settings.method == SDEDIT:
            columns.remove("mask_dice")
        pairsets.make(ws, artifact, f"Styling {data_type}", jobs, settings.batch_size, make_batch, columns,
                      extra=_write_steps, facts=pairsets.painted_anew(scenes.chosen), ws=ws, scenes=scenes,
                      origin=origin.folder, settings=settings,
                      network=network, weights=models.weights, given=data_type.given_masks,
                      models={name: models[name].path for name in artifact.recipe["models"]})
    return pairsets.read(artifact, data_type)


def plan(seed: int, data_type: DataType, inpainted: pd.DataFrame, names: list[str]) -> list[Job]:
    """Every inpainted pair of a manifest, to be styled by the model that painted it."""
    index = {name: i for i, name in enumerate(names)}
    return [Job(index[row.source], row.name, row.source, int(row.source_cluster), row.model, int(row.sample),
                seeds.derive(seed, "style", data_type.name, row.source, row.sample),
                getattr(row, "picture", ""))
            for row in inpainted.itertuples(index=False)]


def recipe(ws: Workspace, pairs: Pairs, jobs: list[Job], models: Trained, origin: PairSet, settings: Style,
           scenes: Scenes) -> Recipe:
    """The recipe of a styled set."""
    looks = judged(settings)
    return {
        "version": VERSION, "pairs": pairs.digest, "seed": ws.seed, "weights": models.weights,
        "ellipses": [scenes.settings.dilate, scenes.settings.opening],
        **({"scenes": scenes.recipe} if scenes.recipe else {}),
        **scenes.beside(True),  # guidance if any, and what a row's area is of
        "style": _decisive(settings),
        "backbone": features.recipe(settings.backbone, settings.weights, settings.input_range, ws.seed),
        "vgg": vgg.recipe(settings.vgg, settings.vgg_weights, ws.seed) if looks.lambda_vgg else None,
        "jobs": {job.name: [job.model, *(origin.hashes[file] for file in
                                         pairsets.names_of(origin.hashes, job.name))] for job in jobs},
        "models": {name: models[name].sha256 for name in sorted({job.model for job in jobs})}}


def judged(settings: Style) -> Style:
    """The settings for the networks that look at images: without guidance, VGG is not among them."""
    return settings if settings.method == GUIDED else settings.model_copy(update={"lambda_vgg": 0.0})


def _decisive(settings: Style) -> dict[str, Any]:
    """The settings that decide what a pair is like; `method` only if it is not the paper's, and `clip` only
    if it is off, so that pairs that were finished before there was such a parameter still hold."""
    chosen = plain(settings)
    if settings.clip:
        del chosen["clip"]
    if settings.method == SDEDIT:
        return {key: chosen[key] for key in ("method", *OF_SDEDIT, "clip") if key in chosen}
    return {key: value for key, value in chosen.items() if key not in (*IRRELEVANT, *NOT_GUIDED)}


def _write_steps(folder: Path, rows: list[Row]) -> list[Path]:
    """The losses of every step, of all pairs."""
    records = [{"name": row["row"]["name"], **record} for row in rows for record in row["steps"]]
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    return [files.write(folder / "steps.csv", lambda file: frame.to_csv(file, index=False))]


def make_batch(ws: Workspace, jobs: list[Job], keys: list[str], folder: Path, scenes: Scenes, origin: Path,
               models: dict[str, Path], weights: str, settings: Style, network: Model, given: bool) -> None:
    """Style one batch with one model and write its pairs."""
    began = time.monotonic()
    device = devices.device(ws.device)
    model = checkpoints.load(models[jobs[0].model], weights, device, settings.precision)
    diffusion = replace(model, clip=settings.clip).respaced(settings.respacing)
    diffusion.net.checkpointing = settings.checkpointing
    judge = guided.load_judge(judged(settings), network, ws.seed, device)
    real = scenes.pictures(jobs)
    painted = pairsets.load(origin, [job.name for job in jobs])
    parts = None if scenes.window is None else spots.windows(real, painted.masks if given else None,
                                                             scenes.window, scenes.settings, scenes.chosen)
    seen, behind = (windows.cut_all(pairs, parts, diffusion.image_size) for pairs in (painted, real))
    generators = [seeds.generator(job.seed, "noise", device=device) for job in jobs]
    steps = settings.respacing - settings.skip
    with progress.bar(jobs[0].model, steps * len(jobs), "step") as bar:
        x, records, status = _restyle(diffusion, judge, seen, behind, generators, settings, scenes, given,
                                      bar.update)
    styled = np.stack([finished(sample[:real.planes.channels], source, settings) for sample, source in
                       zip(x.float().cpu().numpy(), behind.images, strict=True)])
    old, new = (planes.only(one.masks, scenes.chosen) for one in (real, painted))
    filled = regions.filled(old, new if given else None, scenes.settings.dilate)
    styled = windows.all_laid_back(painted.images, styled, parts, filled, scenes.settings.dilate)
    styled = windows.bars_kept(styled, real)
    measures = measured(judge, styled, painted, real, filled)
    if settings.method == GUIDED:  # SDEdit draws no mask that could be compared
        measures["mask_dice"] = mask_dice(x, seen.masks, scenes.settings.opening, diffusion.planes.overlap)
    seconds = (time.monotonic() - began) / len(jobs)
    for i, (job, key) in enumerate(zip(jobs, keys, strict=True)):
        good, mask = status[i] == guided.OK, painted.masks[i]
        row = {**job.origin, "area": round(float(planes.union(planes.only(mask, scenes.chosen)).mean()), 6),
               **{name: guided.significant(column[i]) if good else None for name, column in measures.items()},
               "status": status[i], **({"picture": job.picture} if given else {})}
        pairsets.keep(folder, job.name, key, row, (styled[i], mask) if good else None, seconds,
                      steps=records[i], device=devices.name(ws.device, settings.precision))


def _restyle(diffusion: Diffusion, judge: guided.Judge, painted: Pairs, sources: Pairs,
             generators: Generators, settings: Style, scenes: Scenes, given: bool,
             tick: Tick) -> tuple[Tensor, list[list[guided.Record]], list[str]]:
    """Painted pairs restyled by either method, (B, C + M, S, S) in [-1, 1]; for each, the losses of every
    step (none for SDEdit) and its status. `sources` are the pictures that were painted into."""
    channels = painted.planes.channels
    levels = list(reversed(range(settings.respacing - settings.skip)))
    x_painted, x_source = (dataset.to_tensor(pairs).to(diffusion.device) for pairs in (painted, sources))
    if settings.method != SDEDIT:
        return guided.guided(diffusion, judge, x_painted, x_source[:, :channels], levels, generators, tick,
                             pixels=x_painted[:, :channels] if given else None)
    masks = x_painted[:, channels:]
    towards = diffusion.towards(masks, settings.guidance_scale, bare(masks, scenes.chosen, scenes.within))
    x = sdedit(towards, x_painted, levels, generators, tick=tick)
    status = [guided.OK if whole else "stopped: not finite"
              for whole in x.isfinite().flatten(1).all(dim=1).tolist()]
    return x.nan_to_num(), [[] for _ in status], status  # stopped pairs are not kept


def finished(image: np.ndarray, source: np.ndarray, settings: Style) -> np.ndarray:
    """The styled image (C, S, S) as uint8, with the colours of its source (C, S, S) uint8 if asked for and
    if C is 3."""
    image = image.clip(-1, 1)
    if settings.colour_transfer and len(image) == planes.RGB:
        image = colour.transfer(image, source / 127.5 - 1)
    return dataset.to_bytes(image)


def mask_dice(x: Tensor, masks: np.ndarray, opening: int, overlap: bool = False) -> list[float]:
    """Dice of the mask channels of x (B, C + M, S, S), as the last step left them, with masks (B, M, S,
    S)."""
    classes = masks.shape[1]
    drawn = [planes.separate(regions.opened(sample, opening, overlap), classes)
             for sample in x[:, -classes:].float().cpu().numpy()]
    return [regions.mask_dice(a, b) for a, b in zip(drawn, masks, strict=True)]


@torch.no_grad()
def measured(judge: guided.Judge, styled: np.ndarray, painted: Pairs, real: Pairs,
             filled: np.ndarray) -> dict[str, list[float]]:
    """The manifest's measures before and after: styled (B, C, S, S) uint8, filled regions (B, S, S)."""
    def cls(images: np.ndarray) -> Tensor:
        return judge.cls(torch.from_numpy(images).float().to(device) / 127.5 - 1)

    device = next(judge.cls_net.parameters()).device
    source = cls(real.images)
    return {
        "cls_before": losses.sty_loss(cls(painted.images), source).tolist(),
        "cls_after": losses.sty_loss(cls(styled), source).tolist(),
        "seam_before": [regions.seam(a, b) for a, b in zip(painted.images, filled, strict=True)],
        "seam_after": [regions.seam(a, b) for a, b in zip(styled, filled, strict=True)],
    }
