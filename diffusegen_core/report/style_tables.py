"""Tables of chapter 4: how the images of a run were styled, and what that changed."""

from math import ceil, nan

import numpy as np
import pandas as pd

from diffusegen_core.chapters import members, style
from diffusegen_core.chapters.style import GUIDED, Styled
from diffusegen_core.config.params import Params
from diffusegen_core.data import planes, regions
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.diffusion import process
from diffusegen_core.report.tables import Table, escaped, show
from diffusegen_core.run import Run

MOST = 200  # pairs whose sources are measured: more change the mean little

# The losses of styling: what each compares, and the weight that the paper gives it (B.5).
LOSSES = {
    "zecon": ("content", "patches of the U-Net's encoder, with the inpainted image's", 500),
    "vgg": ("content", "maps of VGG-19 after conv1_1 and conv2_1, with the inpainted image's", 100),
    "mse": ("content", "pixels, with the inpainted image's", 5000),
    "sty": ("style", "[CLS], with the real source's", 10000),
    "l2": ("style", "pixels, with the real source's", 10000),
    "sem": ("style", "[CLS], with the previous step's, from which it should differ", 40000),
    "rng": ("style", "pixels, with the range from -1 to 1", 200),
}


def method(p: Params, result: Styled) -> Table:
    """What guided the images: losses, or for SDEdit the mask alone."""
    return _losses(p, result) if p.style.method == GUIDED else _sdedit(p)


def _losses(p: Params, result: Styled) -> Table:
    """The losses, their weights, and their means over all images in the first and last step."""
    steps = pd.concat(result.steps.values())
    ends = [steps[steps["step"] == step].mean(numeric_only=True) for step in (1, steps["step"].max())]
    frame = pd.DataFrame([{
        "loss": name, "part": part, "compares": text,
        "weight, this run": getattr(p.style, f"lambda_{name}"),
        "weight, published": float(published), "first step": ends[0][name], "last step": ends[1][name],
    } for name, (part, text, published) in LOSSES.items()])
    return show(frame, "style-method", "The losses that guide styling, and their unweighted means in this "
                f"run. [CLS] by {escaped(result.backbone)}, maps by {escaped(result.vgg)}.",
                {"weight, this run": ",g", "weight, published": ",g"})


def _sdedit(p: Params) -> Table:
    """How far an image is noised, and how it is denoised."""
    first = p.style.respacing - p.style.skip
    kept = process.schedule(p.process, p.style.respacing).alpha_bar[first - 1].item()
    matched = p.style.colour_transfer and p.data.channels == planes.RGB
    rows = {"respaced steps between image and pure noise": str(p.style.respacing),
            "steps taken": str(first), "noise at the first of them": f"{1 - kept:.0%} of the variance",
            "guidance by the mask, w": f"{p.style.guidance_scale:g}",
            "network calls an image": str(style.edits(p.style)),
            "colours matched to the source": "yes" if matched else "no"}
    return show(pd.DataFrame({"": rows.keys(), "this run": rows.values()}), "style-method", "How this run "
                "styled its images (`style.method: sdedit`). With w = 1 a step takes one network call, "
                "else two.")


def styled(run: Run) -> Table:
    """One row per data type: how much closer to the source, and how much less of a seam."""
    result = run.styled
    frame = result.table.copy()
    if len(frame):
        frame.insert(frame.columns.get_loc("seam after") + 1, "seam, sources",
                     [natural(run, one) for one in result.sets.values()])
    drew = "mask Dice" in result.table and result.table["mask Dice"].notna().any()
    drawn = ", and of Dice between the mask and its channel after styling"
    return show(frame, "style-types", "Styled pairs of this run: means of the squared distance to the "
                f"source in the features of {escaped(result.backbone)} ([CLS], or what stands in for it), of "
                "the contrast at the border of the filled region (grey levels), and of that of the real "
                f"sources at the same place{drawn if drew else ''}.",
                {"seam before": ".1f", "seam after": ".1f", "seam, sources": ".1f", "mask Dice": ".3f"})


def natural(run: Run, one: PairSet) -> float:
    """The mean contrast of the real pictures themselves, in grey levels, where pairs painted into them have
    the border of the filled region: of at most MOST pairs, evenly spread; NaN where no picture is known."""
    every = slice(None, None, ceil(len(one) / MOST) or None)
    filled = members.of_set(run.pairs, one.data_type, one.folder, run.params.inpaint.dilate, every)
    rows = one.manifest[every]
    own = (rows.get("picture", rows["source"]) == rows["source"]).to_numpy() & (filled.sources >= 0)
    seams = [regions.seam(run.pairs.images[filled.sources[i]], filled.regions[i]) for i in own.nonzero()[0]]
    return float(np.mean(seams)) if seams else nan
