"""Export of a run's models: self-describing files of weights, and a model card.

A file has the weights that the run samples with, and no optimizer state. Its header identifies the images the
model has seen by hashes of their pixels, so that a run can refuse to test on them, but not by their names.
"""

from collections.abc import Iterator
from pathlib import Path

from diffusegen_core import __version__
from diffusegen_core.chapters.trained import Trained, TrainedModel
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import duration
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.exports import datacard
from diffusegen_core.report import answer, opening, tables
from diffusegen_core.report.tables import escaped
from diffusegen_core.run import Run
from diffusegen_core.store import files
from diffusegen_core.store.stamps import read_stamp

CARD = "README.md"
SHARED = ("model", "process", "train")  # the sections of parameters that decide a model, besides data
LICENCE = "TO BE FILLED IN: the licence of the images, which binds the models as well"
LIMITS = """\
- For research on segmentation. **Never for clinical use**: not for diagnosis, not for treatment, and not to
  show the clinical value of a device.
- A diffusion model can reproduce images that it was trained on. The figures above say how far this was found;
  they do not prove that it cannot happen. Whoever may decide on sharing the images decides on sharing the
  models as well: ask your ethics board or data protection officer, and show them this card.
- What the training images lack, such as rare kinds, other hospitals or other devices, the models lack too.
- A mask says where something was meant to be painted; no expert has confirmed it."""


def write(run: Run, folder: Path) -> Trained:
    """Write every model and the card into a folder; returns the models. NotMadeError where there are none."""
    models = run.models
    for model in models.all:
        tensors, header = checkpoints.read(model.path)
        kept = {name: value for name, value in tensors.items() if name.startswith(f"{models.weights}.")}
        checkpoints.save(folder / file_name(model), kept, _unnamed(header))
    files.write_text(folder / CARD, card(run, models, folder))
    return models


def file_name(model: TrainedModel) -> str:
    """The file name by which `train.checkpoints` finds a model."""
    return f"{model.name}{checkpoints.OURS}"


def _unnamed(header: checkpoints.Header) -> checkpoints.Header:
    """A header without the names of images, which may be those of patients."""
    seen = header.get("seen")
    if seen is None:
        return header
    return {**header, "seen": {f"image {number}": pixels for number, pixels in
                               enumerate(sorted(seen.values()), 1)}}


def card(run: Run, models: Trained, folder: Path) -> str:
    """The card as Markdown; the models must already be in `folder`."""
    p = run.params
    parts = [
        f"# {escaped(run.folder.name)}: diffusion models", _summary(p, models),
        "## Use", _use(p, models), "## What is in it", _files(models, folder),
        "## Data and licence", f"- Trained on {escaped(tables.data(p))}.\n- Licence: {LICENCE}.",
        "## Training", _training(p, models),
        "## What they remember", "\n".join(f"- {line}" for line in _memory(run)),
        "## Limits and intended use", "\n".join([*datacard.own_limits(p), LIMITS]),
        "## How to cite", opening.cited()]
    return "\n\n".join(parts) + "\n"


def _summary(p: Params, models: Trained) -> str:
    count, data = len(models.all), p.data
    return (f"{count} diffusion {'models' if count > 1 else 'model'} of {data.channels + len(data.classes)} "
            f"channels, {data.channels} of the image and {len(data.classes)} of the mask "
            f"({escaped(', '.join(data.classes))}), at {p.model_size} × {p.model_size} pixels. Each draws "
            "image+mask pairs from noise, and paints into a given image, for a given mask or with one of its "
            f"own. Made by DiffuseGen {__version__}.")


def _use(p: Params, models: Trained) -> str:
    first = models.all[0]
    label = ", label=0" if p.train.one_model else ""
    return f"""\
```python
from diffusegen_core.diffusion import checkpoints

model = checkpoints.load("{file_name(first)}", weights="{models.weights}"{label})
pairs = model.sample(4, seed=0)  # pairs.images, pairs.masks
```

In a run, `-p train.checkpoints FOLDER` takes them instead of training, with the parameters below."""


def _files(models: Trained, folder: Path) -> str:
    rows = [[f"`{file_name(model)}`", f"{model.pairs:,}", f"{model.images:,}", f"{model.steps:,}",
             f"{model.loss:.4f}", f"{model.parameters:,}",
             f"`{files.sha256(folder / file_name(model))[:16]}…`"] for model in models.all]
    return datacard.table(["file", "real pairs seen", "images drawn from them", "steps", "final loss",
                           "parameters", "SHA-256"], rows)


def _training(p: Params, models: Trained) -> str:
    stamps = [stamp for model in models.all if (stamp := read_stamp(model.folder))]
    devices = sorted({str(stamp["device"]) for stamp in stamps if "device" in stamp})
    where = f" on {', '.join(map(escaped, devices))}" if devices else ""
    plain = params.plain(p)
    told = {"data": {"image_size": p.data.image_size, "channels": p.data.channels,
                     "classes": list(p.data.classes)},
            **{section: params.shareable(plain[section]) for section in SHARED}, "seed": p.seed}
    return (f"Trained{where}, in {duration(models.card_seconds)} of work. The parameters that decide the "
            f"models:\n\n{datacard.as_yaml(told)}")


def _memory(run: Run) -> Iterator[str]:
    """The results of chapter 5's membership test and audit of copies, or why there are none."""
    yield datacard.remembered(run)
    result = run.finished("evaluate")
    if copied := answer.copied(result, run.params) if result else None:
        yield f"{copied.question} {copied.sentence}"
    if caveat := run.models.caveat:
        yield caveat
