"""Whether a run fits on the disk where its folder lies, before anything is written."""

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

import torch

from diffusegen_core.chapters.costs import Backbone, Cost, Learner, Work
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import size
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion.unet import UNet, parameter_count
from diffusegen_core.planning import flops, plan
from diffusegen_core.segmentation import segnet
from diffusegen_core.store import files, stamps

WIDTH = 2048  # assumed features of a backbone; few have more


def refuse_full(p: Params, chosen: Collection[str]) -> None:
    """UserError where the named chapters may need more disk than is free, beyond what the run already has."""
    wanted, there = needed(p, chosen), _taken(p.folder, chosen)
    place = next(folder for folder in (p.folder, *p.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if wanted - there > free:
        more = f", of which {size(there)} exist already" if there else ""
        raise UserError(f"The run may take {size(wanted)} on disk{more}, but only {size(free)} are free "
                        f"in {place}. Make room, name another disk with run_dir, or keep less: "
                        "segment.keep_weights false, train.keep_optimizer false.")


def needed(p: Params, chosen: Collection[str]) -> float:
    """The most bytes that the chosen chapters take, with the largest checkpoint; no network is run.

    What cannot be counted is taken as zero: the number of pairs is not known yet, or the parameters of a
    chapter that was not chosen would be refused.
    """
    rows: list[Cost] = []
    with contextlib.suppress(UserError):
        for row in plan.rows(p, plan.pairs(p)[0], _sizes(p)):
            rows += [row] if row.chapter in chosen else []
    return sum(row.disk for row in rows) + max((row.temporary for row in rows), default=0)


def _sizes(p: Params) -> Work:
    """The sizes of the networks' weights and of the pairs; all FLOP are zero."""
    kind, none = Planes.of(p.data), Backbone(0.0, WIDTH)
    with torch.device("meta"):
        net = UNet(p.model, p.model_size, planes=kind)
        network = segnet.build(flops.random(p).segment, p.seed, kind)
    unet, segment = (Learner(0.0, 0.0, parameter_count(one)) for one in (net, network))
    return Work(none, none, unet, [0.0] * (p.style.respacing - p.style.skip), 0.0, 0.0, segment, kind)


def _taken(folder: Path, chosen: Collection[str]) -> int:
    """The bytes of what the named chapters have finished there, or begun; not of what is set aside, which
    stays. Results of other parameters count as well."""
    own = [place for place, _ in stamps.in_place(folder)
           if stamps.made_by(place.relative_to(folder)) in chosen]
    begun = [folder / stamps.MAKING, *folder.glob(f"{stamps.GENERATORS}/*/{stamps.MAKING}")]
    return sum((place / name).lstat().st_size for place in (*own, *begun) for name in files.below(place))
