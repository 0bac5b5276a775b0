"""What can be told of a run before it starts: the user's errors, and the networks of chapters 6 and 7.

Chapter 6 comes after hours of others, and what it would refuse is refused here first. Folders are listed,
files of weights are read, no image is opened, and nothing is written.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from diffusegen_core.chapters import augment, cluster, gan, segment, train
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, layouts, testsets
from diffusegen_core.measures import metrics
from diffusegen_core.networks import features, vgg, weights
from diffusegen_core.planning import plan
from diffusegen_core.segmentation import segnet, trainsets
from diffusegen_core.store import runs

GRIDS = {"segment": segment.planned, "augment": augment.planned}
# The chapters that come to a check; each makes first what it needs of chapters 1 to 4 and of the GAN.
ALL = ("cluster", "train", "inpaint", "style", "evaluate", "segment", "augment", "summary")
NETWORKS = ("segment", "augment", "summary")
ALONE, SMALL = ("segment", "summary"), ("augment", "summary")


def check(p: Params, chapters: Sequence[Path]) -> None:
    """UserError with a line for each error of the user that the chosen chapters would come to."""
    if found := problems(p, {_name(chapter) for chapter in chapters}):
        raise UserError("\n".join(found))


def problems(p: Params, chosen: Collection[str] = ALL) -> list[str]:
    """The same errors of chapters that are given by their names."""
    found = []
    for needed_by, where, attempt in _attempts(p):
        try:
            if set(needed_by).intersection(chosen):
                attempt()
        except UserError as error:
            found.append(f"Parameters: {where}: {error}" if where else str(error))
    return list(dict.fromkeys(found))


def dry_run(p: Params, chapters: Sequence[Path]) -> str:
    """The grids of the chosen chapters, what of them is finished, and the time that the rest will take.

    The run folder is read only; data that are not current are read into a temporary one.
    """
    grids = [GRIDS[_name(chapter)] for chapter in chapters if _name(chapter) in GRIDS]
    if not grids:
        return ("The chosen chapters train no segmentation networks, which are all that a dry run shows: "
                "those of chapters 6 and 7. `diffusegen plan` shows the work of every chapter.")
    with runs.shadow(p.folder) as folder:
        mine = p.model_copy(update={"run_dir": str(folder)})
        return "\n\n".join(planned(mine) for planned in grids)


def _name(chapter: Path) -> str:
    return chapter.stem.split("_")[1]


def _attempts(p: Params) -> Iterator[tuple[Sequence[str], str, Callable[[], object]]]:
    """What may fail: the chapters that need it, its parameter unless its own words name that, and a call."""
    c, y, s, a = p.cluster, p.style, p.segment, p.augment
    if p.data.source != "phantom":
        yield ALL, "data.source", partial(_readable, p, p.data.source, p.folder)
    if c.file:
        yield ALL, "cluster.file", partial(cluster.published, p)
    if cluster.looks(p):
        yield ALL, "cluster", partial(features.recipe, c.backbone, c.weights, c.input_range)
        yield ALL, "cluster", partial(_fitting, c.weights, features.load, c.backbone, c.weights,
                                      c.input_range)
    yield ALL[1:], "", partial(train.caveat, p)  # it asks for every finished checkpoint
    yield ALL[3:], "style", partial(features.recipe, y.backbone, y.weights, y.input_range)
    yield ALL[3:], "style", partial(_fitting, y.weights, features.load_cls, y.backbone, y.weights,
                                    y.input_range, size=y.backbone_size)
    if y.lambda_vgg:
        yield ALL[3:], "style.vgg_weights", partial(vgg.recipe, y.vgg, y.vgg_weights, p.seed)
        yield ALL[3:], "style.vgg_weights", partial(_fitting, y.vgg_weights, vgg.load, y.vgg, y.vgg_weights)
    if p.gan.source:
        yield ALL[4:], "", partial(_baseline, p)
    yield ("evaluate",), "evaluate", partial(metrics.recipe, p.evaluate, p.seed)
    yield ("evaluate",), "evaluate", partial(_fitting, p.evaluate.weights, metrics.network, p.evaluate)
    yield NETWORKS, "segment", partial(_encoder, p)
    for key, source in (("held_out", s.held_out), ("cvc", s.cvc), ("polypgen", s.polypgen)):
        if source not in (None, testsets.REST):
            # A test set has its own part of the run folder, see testsets.
            yield NETWORKS, f"segment.{key}", partial(_readable, p, source, p.folder / "tests" / key)
    yield NETWORKS, "", partial(testsets.refuse_twice, p)
    yield ALONE, "", partial(trainsets.wanted, p, s.types, "segment.types")
    if p.gan.source and (s.types is None or gan.GAN in s.types):
        yield ALONE, "", partial(trainsets.numbers, p, s.samples, gan.GAN, "segment.samples")
    yield SMALL, "", partial(augment.types, p)
    if p.gan.source and (a.types is None or gan.GAN in a.types):
        yield SMALL, "", partial(trainsets.numbers, p, a.ratios, gan.GAN, "augment.ratios")
    yield SMALL, "", partial(_sizes, p)


def _readable(p: Params, source: str, place: Path) -> None:
    """UserError where a folder of pairs cannot be read into `place`, as far as its listing tells."""
    part = p.data.model_copy(update={"source": source})
    report = layouts.scan(dataset.input_folder(p.model_copy(update={"run_dir": str(place), "data": part})))
    if report.problems and p.data.on_bad == "refuse":
        first = report.problems[0]
        raise UserError(f"{report.folder} has {len(report.problems)} problems, such as {first.file}: "
                        f"{first.problem}. `diffusegen data check` shows them all; mend the folder, or leave "
                        "such pairs out by data.on_bad: skip.")
    if not report.pairs:
        raise UserError(f"{report.folder} holds no pairs.")


def _count(p: Params) -> int | None:
    """How many pairs the run will have; None where that cannot be known, of which `_readable` tells."""
    try:
        return plan.pairs(p)[0]
    except UserError:
        return None


def _baseline(p: Params) -> None:
    if p.gan.source == "singan":
        gan.refuse_impossible(p)
    else:
        gan.found(p, gan.scanned(p), _count(p) or 1)


def _fitting(spec: str, load: Callable[..., object], *arguments: object, **options: object) -> None:
    """UserError where a file of weights is none of the network that `load` loads.

    What a library would download is left to it.
    """
    if spec not in (weights.PRETRAINED, weights.RANDOM):
        load(*arguments, **options)


def _encoder(p: Params) -> None:
    """UserError where there is no such network, or no file of its weights."""
    with torch.device("meta"):  # nothing is computed
        segnet.build(p.segment.model_copy(update={"weights": weights.RANDOM}), p.seed)
    segnet.decided_by(p.segment, p.seed)
    _fitting(p.segment.weights, segnet.build, p.segment, p.seed)


def _sizes(p: Params) -> None:
    if count := _count(p):
        augment.sizes(p, min(count, p.inpaint.sources or count))
