"""The expert review kit (paper 2.5, B.1, Figure 4, Table B1): a form for the reviewer, its key, a score.

The form is one HTML file that works from disk, without a network. It must not give the data types away: all
pictures are resized to one square size and encoded anew as PNG without metadata, masks are two-valued, the
order is shuffled, and neither types nor file names are in it. Those are in the key file, which the reviewer
does not get.
"""

import base64
import hashlib
import io
import json
import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import binomtest

from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.plainfiles import MANY, plain_file
from diffusegen_core.data import dataset, layouts, planes, rasters
from diffusegen_core.data.types import REAL
from diffusegen_core.report.figures import class_colour
from diffusegen_core.run import Run
from diffusegen_core.store import files, seeds

# What is asked about each pair, in Table B1's words, and the keys that answer it.
Grade = Literal["Good", "Moderate", "Poor"]
Origin = Literal["Real", "Fake"]
QUESTIONS = {
    "quality": {"title": "Image Quality", "answers": get_args(Grade), "keys": ("1", "2", "3")},
    "segmentation": {"title": "Segmentation Quality", "answers": get_args(Grade), "keys": ("4", "5", "6")},
    "origin": {"title": "Real or Fake", "answers": get_args(Origin), "keys": ("R", "F")},
}

TEMPLATE = Path(__file__).with_name("review_form.html")
FORM, KEY = "form.html", "key.json"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Answer(_File):
    """The answer to each of QUESTIONS, null if not given: the form exports every question of every pair."""

    quality: Grade | None
    segmentation: Grade | None
    origin: Origin | None


class _Answers(_File):
    form: str
    answers: dict[str, _Answer]


class _Item(_File):
    type: str
    name: str


class _Key(_File):
    form: str
    items: dict[str, _Item] = Field(min_length=1)


AnyFile = TypeVar("AnyFile", bound=_File)


@dataclass(frozen=True)
class Score:
    """A reviewer's answers by data type.

    counts: Table B1, a row for each data type, columns (question, answer).
    answered: how many pairs have an answer, by question; `pairs` is how many the form has.
    agreement: rows Accuracy, Precision, Recall with "real" as the positive class; columns hits, of, value,
        low, high, the last two a Wilson 95 % interval. A rate of 0 out of 0 is NaN.
    fake: `always_fake` for the same pairs.
    """

    counts: pd.DataFrame
    answered: pd.Series
    pairs: int
    agreement: pd.DataFrame
    fake: list[float]


def folders_of(run: Run, real: Path) -> dict[str, Path]:
    """The dataset folders that an expert compares (paper B.1): Real, written into `real` here, and the run's.

    Raises UserError where the run has not made its synthetic pairs yet, made them with other parameters, or
    left all of them out.
    """
    inpainted, styled = (next(iter(result.sets.values())) for result in (run.inpainted, run.styled))
    for one in (inpainted, styled):
        if one.manifest.empty:
            raise UserError(f"{one.data_type} has no pair to review: all of them were left out.")
    pairs = run.pairs
    for name, image, mask in zip(pairs.names, pairs.images, pairs.masks, strict=True):
        dataset.write_pair(real, name, image, mask)
    return {REAL.name: real} | {one.data_type.name: one.folder for one in (inpainted, styled)}


def make(folders: dict[str, Path], out: Path, per_type: int = 10, seed: int = 0, max_side: int = 512,
         classes: Sequence[str] = ()) -> tuple[Path, Path]:
    """Write `out`/form.html and `out`/key.json with `per_type` pairs drawn from each dataset folder.

    `folders` maps data types, "Real" among them, to dataset folders. Pictures are made square, as for
    training, with the smallest side among them or `max_side` pixels, because a difference in sharpness would
    give a type away. Several `classes` are shown in their colours, with a legend; an image that does not have
    three channels is shown in grey. The same arguments write the same files. Raises UserError for a folder
    with too few pairs, a picture that cannot be read, and where `out` holds other files of these names.
    """
    if REAL.name not in folders:
        raise UserError(f"The review compares with real images: one of the data types must be named {REAL}.")
    several = len(classes) > 1
    drawn = [(kind, *pair) for kind, folder in folders.items()
             for pair in _draw(kind, Path(folder), per_type, seed, several)]
    drawn = [drawn[i] for i in seeds.rng(seed, "review", "order").permutation(len(drawn))]
    side = min(max_side, *(min(image.size) for _, _, image, _ in drawn))
    pictures = [{"image": _uri(_square(image, side)),
                 "mask": _uri(_coloured(mask, side) if several else _two_valued(_square(mask, side)))}
                for _, _, image, mask in drawn]
    form = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:12]
    _refuse_others(out, form)
    items = {str(i): {"type": kind, "name": name} for i, (kind, name, _, _) in enumerate(drawn, start=1)}
    told = {"classes": [[name, class_colour(number)] for number, name in enumerate(classes, 1)]}
    content = json.dumps({"form": form, "questions": QUESTIONS, "items": pictures,
                          **(told if several else {})}).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{form}}", content)
    # The key goes first: a form is recognised as this program's by its key.
    key = files.write_json(out / KEY, {"form": form, "items": items}, files.PRIVATE)
    return files.write_text(out / FORM, page), key


def score(answers: Path, key: Path) -> Score:
    """Table B1 and the agreement from a file that the form exported and its key file.

    Unanswered questions are left out. Raises UserError, naming the file, where one is not such a file, or the
    answers belong to another form, lack a pair, hold an unknown value, or are all missing.
    """
    given, made = _read(answers, _Answers, "exported answers"), _read(key, _Key, "a key file")
    if given.form != made.form:
        raise UserError(f"{answers} belongs to form {printable(given.form)}, but {key} is the key of form "
                        f"{printable(made.form)}.")
    if stray := sorted(given.answers.keys() ^ made.items.keys()):
        problem = "lacks pair" if stray[0] in made.items else "answers a pair that the form does not have,"
        raise UserError(f"{answers} {problem} {printable(stray[0])}: export them from the form again.")
    rows = pd.DataFrame([{"Data type": item.type} | given.answers[number].model_dump()
                         for number, item in made.items.items()])
    answered = rows[list(QUESTIONS)].notna().sum()
    if not answered.any():
        raise UserError(f"{answers} holds no answer yet.")
    titles = {name: question["title"] for name, question in QUESTIONS.items()}
    return Score(_counts(rows), answered.rename(titles), len(rows), agreement(rows), always_fake(rows))


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, precision and recall with "real" as the positive class, as `Score.agreement`. `rows` has a
    row per pair with its "Data type" and the answer, `origin`; those without an answer are left out."""
    judged = rows.dropna(subset="origin")
    real, said_real = judged["Data type"] == REAL.name, judged["origin"] == "Real"
    both = real & said_real
    return pd.DataFrame.from_dict({
        "Accuracy": _rate((real == said_real).sum(), len(judged)),
        "Precision": _rate(both.sum(), said_real.sum()),
        "Recall": _rate(both.sum(), real.sum()),
    }, orient="index")


def always_fake(rows: pd.DataFrame) -> list[float]:
    """Accuracy, precision and recall of answering "fake" to every pair that has an answer; NaN for a rate of
    0 out of 0."""
    real = rows.dropna(subset="origin")["Data type"] == REAL.name
    return [float((~real).mean()), float("nan"), 0.0 if real.any() else float("nan")]


def describe(result: Score) -> str:
    """The score as text for a terminal."""
    counts = result.counts.rename(index=printable)
    lines = [counts.to_string(), "", f"Answered, of {result.pairs} pairs: "
             + ", ".join(f"{title} {n}" for title, n in result.answered.items()) + "."]
    for name, rate in result.agreement.iterrows():
        value, low, high = (f"{100 * rate[column]:.1f}" for column in ("value", "low", "high"))
        lines.append(f"{name} {value} % ({rate.hits:.0f} of {rate.of:.0f}), 95 % interval {low} to {high} %."
                     if rate.of else f"{name}: nothing to count.")
    if not np.isnan(result.fake[0]):
        lines.append(f"Always answering fake would have an accuracy of {100 * result.fake[0]:.1f} %.")
    return "\n".join(lines)


def _refuse_others(out: Path, form: str) -> None:
    """Raise UserError if a form or a key would be replaced that is not this form's."""
    key = files.read_json(out / KEY)
    told = key.get("form") if isinstance(key, dict) else None
    if told is not None and told != form:
        raise UserError(f"{out} holds the key of another form, whose answers may be on their way. Move both "
                        "away, or choose another folder.")
    there = [out / name for name in (FORM, KEY) if told is None and os.path.lexists(out / name)]
    if there:
        raise UserError(f"{there[0]} already exists and was not written by DiffuseGen. Move it away, or "
                        "choose another folder.")


def _draw(kind: str, folder: Path, count: int, seed: int,
          several: bool) -> list[tuple[str, Image.Image, Image.Image]]:
    """`count` pairs of a dataset: name, image, mask. For `several` classes the mask is one that this program
    wrote, shown in their colours."""
    report = layouts.scan(folder)
    if len(report.pairs) < count:
        raise UserError(f"{folder} has {len(report.pairs)} pairs; the review needs {count} of {kind}.")
    chosen = seeds.rng(seed, "review", kind).choice(len(report.pairs), count, replace=False)
    pairs = [report.pairs[i] for i in chosen]
    return [(pair.name, _picture(pair.image), _classes(pair.mask) if several else _picture(pair.mask))
            for pair in pairs]


def _picture(path: Path) -> Image.Image:
    # Not reading.read: it rejects an empty mask as unusable for training, but a reviewer should see it.
    if path.suffix == planes.ARRAY:
        return Image.fromarray(planes.rgb(planes.read_image(path)[None])[0].transpose(1, 2, 0))
    try:
        return rasters.rgb(path)
    except Exception as error:  # Decoders fail in many ways.
        raise UserError(f"{path} cannot be read as a picture: {error}.") from None


def _classes(path: Path) -> Image.Image:
    shown = planes.coloured(255 * planes.read_mask(path)[None])[0]
    return Image.fromarray(np.ascontiguousarray(shown.transpose(1, 2, 0)))


def _coloured(mask: Image.Image, side: int) -> Image.Image:
    # Nearest neighbour: only colours of the legend may appear.
    return mask.resize((side, side), Image.Resampling.NEAREST)


def _square(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def _two_valued(mask: Image.Image) -> Image.Image:
    return Image.fromarray(np.where(np.asarray(mask).max(axis=2) > 127, np.uint8(255), np.uint8(0)))


def _uri(picture: Image.Image) -> str:
    """The picture as a data URI: a PNG that holds nothing but pixels."""
    picture.info.clear()  # the encoder would write some of it
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _read(path: Path, model: type[AnyFile], what: str) -> AnyFile:
    try:
        return model.model_validate_json(plain_file(Path(path), MANY).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(printable(str(part)) for part in first["loc"])
        known = first["type"] in ("missing", "json_invalid")
        value = "" if known else f", not {reprlib.repr(first['input'])}"
        raise UserError(f"{path} is not {what}: {place and place + ': '}{first['msg']}{value}.") from None


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    types = sorted(rows["Data type"].unique(), key=lambda kind: (kind != REAL.name, kind))
    tables = {question["title"]: pd.crosstab(rows["Data type"], rows[name])
              .reindex(index=types, columns=list(question["answers"]), fill_value=0)
              for name, question in QUESTIONS.items()}
    return pd.concat(tables, axis=1).rename_axis(index="Data type", columns=(None, None))


def _rate(hits: int, of: int) -> dict[str, float]:
    if of == 0:
        return {"hits": 0, "of": 0, "value": float("nan"), "low": 0.0, "high": 1.0}
    interval = binomtest(int(hits), int(of)).proportion_ci(0.95, method="wilson")
    return {"hits": int(hits), "of": int(of), "value": hits / of, "low": interval.low, "high": interval.high}
