"""The command `diffusegen paint`: pictures of one's own in, a dataset folder of painted ones out."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffusegen_core import outlets
from diffusegen_core.chapters import inpaint, scenes
from diffusegen_core.chapters import paint as painter
from diffusegen_core.chapters.paint import Painted, PaintRequest
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config.checks import sources
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, printable, some
from diffusegen_core.config.plainfiles import plain_file
from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import (
    dataset,
    labels,
    masks,
    pairsets,
    pictures,
    planes,
    rasters,
    sidecars,
    windows,
)
from diffusegen_core.data.masks import Like
from diffusegen_core.data.planes import Planes
from diffusegen_core.run import Run
from diffusegen_core.store import files, lock, moves, seeds
from diffusegen_core.store.artifacts import differences

log = logging.getLogger(__name__)

COARSE = 2.0  # times the side of the models' images: in pictures this large or larger, their pixels show
WIDE = 0.3  # share of a picture above which what is painted anew is warned of
FEW = 20  # pairs of a run that are looked at to tell whether it has learned colours
RECIPE, TABLE = "painted.json", "manifest.csv"
# What differs between two calls, where its value is a hash.
HASHED = {"pictures": "the pictures", "mask": "the new lesion's mask", "old": "the mask of --old",
          "keep": "the mask of --keep", "models": "the run's models", "pairs": "the run's pairs",
          "versions": "the program's version"}
MANIFEST = ["name", "picture", "model", "seed", *pairsets.GIVEN[1:], "area"]
TYPES = {**dict.fromkeys(MANIFEST, str), "seed": int, "area": float}


def paint(run: Run, paths: Sequence[Path], out: Path, count: int = 1, seed: int = 0,
          mask: Path | None = None, like: str | None = None, old: Path | None = None,
          remove: bool = False, keep: Path | None = None) -> pd.DataFrame:
    """Paint `count` pairs from each picture, write them to `out` with a manifest, and return its rows.

    `out` is new, empty, or of the same call before, which goes on. Each pair depends only on the seed, its
    picture, the picture's name and its own number. Raises UserError for whatever cannot be used, before
    anything is written; and if another command makes a model again meanwhile.
    """
    names = pictures.names(paths)
    refuse_place(run, out)
    wanted = Planes.of(run.params.data)
    brightness = sidecars.as_read(run.params.data, run.pairs.file)
    new, gone, stays = (_mask(path, run.params.data) for path in (mask, old, keep))
    wish = PaintRequest(new, Like.parse(like) if like is not None else None, gone, remove, stays)
    shown = dict(zip(names, _pictures(paths, brightness), strict=True))
    own = {name: seeds.derive(seed, "picture", name) for name in names}
    recipe = {**_recipe(run, shown, wish), "like": like, "count": count, "seed": seed}
    _refuse_other(out, recipe)
    looked = {name: _checked(run, path, shown[name], wish, count, own[name])
              for path, name in zip(paths, names, strict=True)}
    _warn_of_grey(run, shown)
    _warn_of_wide({name: share for name, (share, _) in looked.items()})
    for name, (_, told) in looked.items():
        for line in told:
            log.warning("In %s, %s", printable(name), line)
    _warn_of_detail(run, shown)
    _refuse_other(out, recipe)  # which another command may have filled meanwhile
    files.write_json(out / RECIPE, recipe)
    rows = _finished(out)
    for name, image in tqdm(shown.items(), desc="Painting", unit="picture", disable=None):
        if all(_pair(name, number) in rows for number in range(1, count + 1)):
            continue
        painted = run.paint(image, wish.mask, count, own[name], like=like, old=wish.old, remove=remove,
                            keep=wish.keep)
        _refuse_changed(run.models, out)
        for number, one in enumerate(painted, 1):
            dataset.write_pair(out, _pair(name, number), one.image.transpose(2, 0, 1),
                               planes.separate(one.mask, wanted.classes))
            rows[_pair(name, number)] = _row(name, number, one, wish.keep)
        files.write_text(out / TABLE, _table(rows, names, count).to_csv(index=False))
    return _table(rows, names, count)


def _warn_of_grey(run: Run, shown: dict[str, np.ndarray]) -> None:
    """Warn that what is painted into grey pictures will be in colour, if that is what the run has learned."""
    if run.pairs.planes.channels != planes.RGB or all(map(masks.is_grey, run.pairs.images[:FEW])):
        return
    if grey := [name for name, image in shown.items() if masks.is_grey(image.transpose(2, 0, 1))]:
        log.warning("This run was trained on RGB pictures of %s, and %s %s grey: what is painted will be in "
                    "colour.", printable(PurePath(run.params.data.source).name), printable(some(grey)),
                    "is" if len(grey) == 1 else "are")


def _warn_of_wide(shares: dict[str, float]) -> None:
    """Warn of pictures of which much is painted anew, as where a large lesion is removed."""
    for name, share in shares.items():
        if share > WIDE:
            log.warning("%s: %.0f%% of the picture (the mask and a rim around it, inpaint.dilate) is "
                        "repainted, and nothing of the original is left there.", printable(name), 100 * share)


def _warn_of_detail(run: Run, shown: dict[str, np.ndarray]) -> None:
    """Warn that what is painted is coarser than pictures far larger than the images that the models see.
    Models trained in windows around lesions see these larger, so there is no warning."""
    side, largest = run.pairs.image_size, max(max(image.shape[:2]) for image in shown.values())
    if run.params.data.window is None and largest >= COARSE * side:
        log.warning("The models of this run see images of %d pixels a side, and the largest picture has %d: "
                    "what is painted is %.1f times as coarse as the picture. Models of a run with a larger "
                    "data.image_size paint finer, or with data.window, in which they see lesions enlarged.",
                    side, largest, largest / side)


def _pictures(paths: Sequence[Path], data: Data) -> list[np.ndarray]:
    """The pictures (H, W, C) uint8 of files, scaled as data.intensities says; RGB by the full depth of each
    file if it says "full". Raises UserError if they do not have the channels of the data."""
    if Planes.of(data).channels == planes.RGB and data.intensities == "full":
        return [np.asarray(rasters.opened(path)) for path in paths]
    return pictures.images_of(paths, data)


def _mask(path: Path | None, data: Data) -> np.ndarray | None:
    """A mask (H, W) of class numbers, as in `planes.numbered`, from a file that is read as the masks of the
    data are (data.labels); without labels, lesion above 127. Raises UserError if a mask of one class is
    empty."""
    if path is None:
        return None
    if data.labels:
        mask, lacking = planes.numbered(pictures.mask_of(path, data).transpose(2, 0, 1)), "of a class"
    else:
        mask = (np.asarray(rasters.opened(path)).max(axis=2) > labels.HALF).astype(np.uint8)
        lacking = f"above {labels.HALF}"
    if len(data.classes) == 1 and not mask.any():
        raise UserError(f"{path} is an empty mask: no pixel is {lacking}.")
    return mask


def refuse_place(run: Run, out: Path) -> None:
    """Raise UserError if `out` is a file, or lies in a run or among the data of this one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Name a folder with --out.")
    places = out.resolve(), *out.resolve().parents
    for place in places:
        if lock.is_run(place):
            raise UserError(f"{out} lies in the run {place}, whose parts the run makes itself. Name another "
                            "folder with --out.")
    for name, path in sources(run.params).items():
        if path.resolve() in places:
            raise UserError(f"{out} lies in {name} {path}, which is never written to. Name another folder "
                            "with --out.")


def _checked(run: Run, path: Path, image: np.ndarray, wish: PaintRequest, count: int,
             seed: int) -> tuple[float, list[str]]:
    """The share of a picture that is painted anew, and what to say of where. Raises UserError, naming the
    picture, if it cannot be painted into as wished."""
    try:
        return painter.check(outlets.lesions(run), run.params.inpaint, run.params.data, image, wish, count,
                             seed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _recipe(run: Run, shown: dict[str, np.ndarray], wish: PaintRequest) -> dict[str, Any]:
    """What decides the painted pairs, apart from `like`, `count` and `seed`."""
    p = run.params
    # A removal has the same mask on both sides of guidance, which then does nothing.
    guided = p.inpaint.guidance_scale != 1 and not wish.remove
    guidance = {"guidance_scale": p.inpaint.guidance_scale} if guided else {}
    is_oblong = any(image.shape[0] != image.shape[1] for image in shown.values())
    fit = {"fit": p.data.fit} if is_oblong and p.data.fit != "squeeze" else {}
    places = {"places": painter.PLACES} if wish.mask is None and not wish.remove else {}
    made_by = {**places, "paint": painter.version(p.data, (image.shape for image in shown.values())),
               "masks": masks.VERSION, "windows": windows.version(run.pairs.planes.classes)}
    stays: dict[str, Any] = {} if wish.keep is None else {"keep": files.pixel_hash(wish.keep)}
    if stays and (guided or p.inpaint.seamless or p.inpaint.within):
        stays = {"keep": [scenes.BESIDE, stays["keep"]]}
    return {
        **guidance, **fit, **stays,
        "pictures": {name: [*image.shape, files.pixel_hash(image)] for name, image in shown.items()},
        "mask": None if wish.mask is None else files.pixel_hash(wish.mask),
        "old": None if wish.old is None else files.pixel_hash(wish.old), "remove": wish.remove,
        "models": {model.name: model.sha256 for model in run.models.models}, "weights": run.models.weights,
        "pairs": run.pairs.digest, "window": p.data.window,
        "inpaint": _decisive(p.inpaint, wish),
        "versions": {**files.versions(), **made_by}}


def reminders(settings: Inpaint, classes: Sequence[str], mask: Path | None, old: Path | None,
              keep: Path | None) -> Iterator[str]:
    """What the masks do not show of the `classes`, data.classes, and where lesions may lie wrong, if these
    masks were given or not."""
    if settings.within and not (mask or keep):
        yield (f"The run paints inside {settings.within} (inpaint.within), but no mask says where that is in "
               "these pictures: give one with --keep.")
    stay = [name for name in classes if name not in (settings.classes or classes)]
    if stay and not keep:
        yield (f"The masks show only the painted lesions: what these pictures show of {some(stay)} counts as "
               "background there. To keep that in the masks, give the picture's own label map with --keep "
               "LABELS.")
    elif not (old or keep):
        yield ("The masks show only the painted lesions. If a picture already has a lesion, give its mask "
               "with --keep, or with --old to have it painted over.")


def _decisive(settings: Inpaint, wish: PaintRequest) -> dict[str, Any]:
    """The parameters of chapter 3 that decide what is painted. Those of its masks do so only where one is
    drawn here, and `within` only where a mask of what stays may show that class."""
    is_drawn = wish.mask is None and not wish.remove
    turn = {"turn": settings.turn} if is_drawn and settings.turn != masks.ANY else {}
    return {name: value for name, value in inpaint.decisive(settings).items()
            if name != "turn" and (name != "within" or wish.keep is not None)} | turn


def _refuse_changed(models: Trained, out: Path) -> None:
    """Raise UserError if a model's file is not the one that the recipe in `out` names. To be called after
    painting: a model that was replaced does not come back."""
    for model in models.models:
        try:
            same = files.remembered_sha256(model.path) == model.sha256
        except FileNotFoundError:  # it is just being replaced
            same = False
        if not same:
            raise UserError(f"{model.path} is no longer the model that {out} was begun with: another command "
                            "has made it again meanwhile. Run this command again with a new folder (--out).")


def _refuse_other(out: Path, recipe: dict[str, Any]) -> None:
    """Raise UserError if `out` holds anything but what the same call made."""
    there = files.read_json(out / RECIPE)
    if there == recipe:
        return
    if isinstance(there, dict):
        raise UserError(f"{out} was painted by another command ({some(list(_changed(there, recipe)))}), and "
                        f"nothing there is replaced. {_elsewhere(out)}")
    # What a kill leaves before the recipe is written does not count.
    if out.is_dir() and any(not path.name.startswith(files.WRITING) for path in out.iterdir()):
        raise UserError(f"{out} holds other files, and nothing there is replaced. {_elsewhere(out)}")


def _changed(there: dict[str, Any], recipe: dict[str, Any]) -> Iterator[str]:
    """What differs between two recipes, without hashes."""
    for name in sorted({*there, *recipe}):
        told = differences({name: there.get(name)}, {name: recipe.get(name)})
        yield from [HASHED[name]] if told and name in HASHED else told


def _elsewhere(out: Path) -> str:
    return f"Name another folder, such as --out {shlex.quote(str(moves.free(out)))}."


def _finished(out: Path) -> dict[str, pairsets.Row]:
    """The rows of the manifest so far whose files are there, by name."""
    try:
        table = pd.read_csv(plain_file(out / TABLE), dtype=TYPES, keep_default_na=False)
    except (OSError, ValueError):  # it is not there, or not the one that was written
        return {}
    rows = table.to_dict("records") if list(table) == MANIFEST else []
    return {row["name"]: row for row in rows
            if all(path.is_file() for path in pairsets.files_of(out, row["name"]))}


def _pair(picture: str, number: int) -> str:
    return f"{picture}_{number}"


def _row(picture: str, number: int, one: Painted, keep: np.ndarray | None) -> pairsets.Row:
    """A row of the manifest. Its `area` is the new lesion's, without what stays around it."""
    new = (one.mask > 0) & one.region & (one.mask != (0 if keep is None else keep))
    return {"name": _pair(picture, number), "picture": picture, "model": one.model, "seed": one.seed,
            "mask_of": one.mask_of, "mask_change": one.mask_change,
            "area": round(float(new.mean()), 6)}


def _table(rows: dict[str, pairsets.Row], names: Sequence[str], count: int) -> pd.DataFrame:
    """The rows made so far, in the order of the pictures."""
    order = [_pair(name, number) for name in names for number in range(1, count + 1)]
    return pd.DataFrame([rows[name] for name in order if name in rows], columns=MANIFEST)
