"""The pairs of a real run, painted with known masks, by chapter 3 or pasted, and how they are stored."""

import csv
import io
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import painting
from PIL import Image
from realwork import JOINED, OTHERS, PASTED, Made, Work

from diffusegen_core.chapters import paste as chapter
from diffusegen_core.data import lesions, regions
from diffusegen_core.data.types import PASTE
from diffusegen_core.store import files, seeds

JOINT_SOURCES = 120
JOINT = {"respacing": 50, "jump_length": 10, "resampling": 3}  # one_gpu's
QUALITY = 92  # of JPEG files


def jobs(w: Work) -> list[tuple[int, int]]:
    """Source and sample number of every pair: sample 1 of all sources, then sample 2, and so on."""
    return [(source, sample) for sample in range(1, w.p.inpaint.samples + 1) for source in range(w.sources)]


def placements(w: Work) -> list[painting.Placed]:
    return [painting.placed(w.train, source, w.p.inpaint, w.p.seed, "varied", w.train.names[source], sample)
            for source, sample in jobs(w)]


def known_masks(w: Work, varied: bool) -> Made:
    """Painted pairs with masks of other training pairs, or with the source's own."""
    every = jobs(w)
    new = placements(w) if varied else []
    sources = np.array([source for source, _ in every])
    old = w.train.masks[sources, 0]
    masks = np.stack([lesion.mask for lesion in new]) if varied else old
    filled = regions.filled(old[:, None], masks[:, None], w.p.inpaint.dilate)
    images = np.empty((len(every), *w.train.images.shape[1:]), np.uint8)
    own = [seeds.derive(w.p.seed, "paint", varied, w.train.names[source], sample) for source, sample in every]

    def make(part: slice) -> None:
        images[part] = painting.paint(w.diffusion, w.p.inpaint, w.train.images[sources[part]], filled[part],
                                      masks[part], own[part])

    painting.batched(len(every), w.p.inpaint.batch_size, make)
    donors = np.array([lesion.donor for lesion in new]) if varied else sources
    return Made(images, masks, filled, sources, np.array([sample for _, sample in every]), donors)


def paste(w: Work) -> Made:
    """The program's own baseline without a model: real lesions of other pairs. Pictures that are dark all
    over are left out."""
    made = [(job, lesions.cut(w.train, job.index, seeds.rng(job.seed, "lesion")))
            for job in chapter.plan(w.p.seed, w.train, w.p.inpaint)]
    made = [(job, lesion) for job, lesion in made if lesion.mask.any()]
    images, masks = (np.stack(part) for part in zip(*(
        lesions.pasted(w.train, job.index, lesion, PASTE) for job, lesion in made), strict=True))
    return Made(images, masks[:, 0], np.stack([lesion.mask for _, lesion in made]),
                np.array([job.index for job, _ in made]), np.array([job.sample for job, _ in made]),
                np.array([lesion.donor for _, lesion in made]))


def joined(w: Work) -> Made:
    """Chapter 3's pairs, mask and lesion painted together, one for each source; empty ones are left out."""
    settings = w.p.inpaint if w.tiny else w.p.inpaint.model_copy(update=JOINT)
    sources = np.arange(min(JOINT_SOURCES, w.sources))
    images = np.empty((len(sources), *w.train.images.shape[1:]), np.uint8)
    masks = np.empty((len(sources), *images.shape[2:]), np.uint8)
    own = [seeds.derive(w.p.seed, "joint", w.train.names[source]) for source in sources]

    def make(part: slice) -> None:
        images[part], masks[part] = painting.joint(w.diffusion, settings, w.train.images[sources[part]],
                                                   w.train.masks[sources[part], 0], own[part])

    painting.batched(len(sources), w.p.inpaint.batch_size, make)
    filled = regions.all_dilated(w.train.masks[sources], settings.dilate)
    there = masks.any(axis=(1, 2))
    return Made(images[there], masks[there], filled[there], sources[there],
                np.ones(there.sum(), int), np.full(there.sum(), -1))


def pairs_of(w: Work, name: str, make: Any) -> dict[str, Any]:
    """Make the pairs of a data type; store them as arrays for later stages and in an archive to return."""
    began = time.monotonic()
    made = make()
    seconds = time.monotonic() - began
    names = [f"{w.train.names[source]}_{sample}"
             for source, sample in zip(made.sources, made.samples, strict=True)]
    rows = [["name", "source", "sample", "mask_of", "area", "area_before", "painted"]] + [
        [name, w.train.names[source], sample, w.train.names[donor] if donor >= 0 else "",
         round(float(mask.mean()), 6), round(float(w.train.masks[source].mean()), 6),
         round(float(region.mean()), 6)]
        for name, source, sample, donor, mask, region in zip(
            names, made.sources, made.samples, made.donors, made.masks, made.regions, strict=True)]
    if name != PASTED:  # those can be made again from the real pairs
        archive(w.out / (OTHERS if name == JOINED else f"{name}.tar"), name, names, made.images, made.masks,
                rows)
    np.savez(w.folder / f"{name}.npz", **vars(made))
    return {"pairs": len(names), "make_seconds": round(seconds, 2),
            "pairs_per_second": len(names) / seconds, "mean area": float(made.masks.mean()),
            "mean area of the sources": float(w.train.masks[made.sources].mean()),
            "of": min(JOINT_SOURCES, w.sources) if name == JOINED else len(jobs(w)),
            "own masks kept": int((made.donors == made.sources).sum())}


def pairs_back(w: Work, name: str) -> None:
    """Load the pairs of a data type, if they are there."""
    file = w.folder / f"{name}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            w.sets[name] = Made(**{key: stored[key] for key in stored.files})


def archive(path: Path, folder: str, names: list[str], images: np.ndarray, masks: np.ndarray,
            rows: list[list[Any]], lossless: bool = False) -> None:
    """Add pairs to a tar file: FOLDER/images/NAME.jpg (or .png), masks/NAME.png, the rows as manifest.csv."""
    ending, options = ("png", {}) if lossless else ("jpg", {"quality": QUALITY})
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    contents = {"manifest.csv": text.getvalue().encode()} if rows else {}
    for name, image, mask in zip(names, images, masks, strict=True):
        contents[f"images/{name}.{ending}"] = encoded(image.transpose(1, 2, 0), ending, **options)
        contents[f"masks/{name}.png"] = encoded(mask * 255, "png")

    def save(file: Path) -> None:
        if path.exists():
            shutil.copy(path, file)
        with tarfile.open(file, "a" if path.exists() else "w") as tar:
            for name, content in contents.items():
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    files.write(path, save)


def encoded(pixels: np.ndarray, ending: str, **options: Any) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(held, "JPEG" if ending == "jpg" else "PNG", **options)
    return held.getvalue()
