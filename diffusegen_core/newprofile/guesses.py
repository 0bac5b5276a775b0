"""Guesses from a look at the user's data: labels and patients; and the weights that are available here."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import resolve
from diffusegen_core.config.sections import Segment
from diffusegen_core.data.checkup import Seen
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.data.reports import Pair, Report
from diffusegen_core.networks import features, vgg, weights
from diffusegen_core.newprofile.lines import Line
from diffusegen_core.segmentation import segnet

# Patterns of patients in the names of images, the surest first.
NAMES = (
    r"(?i)((?:patient|pat|subject|subj|sub|case|person|pid|p)[-_ ]?\d+)(?!\d)",
    r"^([^_]*\d)_",
    r"^(\d+)-",
)
FOLDERS = r"([^/]*\d[^/]*)/[^/]+$"
FEWEST = 4  # patients; fewer matches are more likely hospitals or organs
MOST_LABELS = 9
IMAGENET = "imagenet"  # the usual input_range
BACKBONES = ("mobilenet_v2", "resnet18", "resnet50", "efficientnet_b0", "mobilenet_v3_large")


class Weights(NamedTuple):
    """The third-party networks that a run uses, by section, and whether they are pretrained."""

    sections: dict[str, dict[str, Line]]
    known: bool


def labels(seen: Seen, report: Report) -> dict[str, str] | None:
    """data.labels as the masks suggest; None for black and white masks of one class, or other values."""
    if len(report.told) > 1:
        return {name: name for name in report.told}
    counts = seen.values
    numbers = sorted(int(value) for value in counts if re.fullmatch(r"\d+", value))
    if len(numbers) < len(counts) or not 1 < len(numbers) <= MOST_LABELS + 1 or numbers[0] != 0:
        return None
    if numbers == [0, 255]:
        return None
    if len(numbers) == 2:
        return {str(numbers[1]): "lesion"}
    return {str(value): f"class_{value}" for value in numbers[1:]}


def patients(report: Report) -> str | None:
    """data.patients as the names of images, or their folders, suggest; None where these show no groups."""
    for pattern in NAMES:
        if _groups([pair.image.name for pair in report.pairs], pattern):
            return pattern
    paths = [_path(pair, report.folder) for pair in report.pairs]
    return FOLDERS if _groups(paths, FOLDERS) else None


def _groups(names: Sequence[str], pattern: str) -> bool:
    """Whether a pattern finds patients: one in every name, at least FEWEST in all, some with several images,
    and none with more than half of them."""
    matches = [re.search(pattern, name) for name in names]
    sizes = Counter(match[1] for match in matches if match)
    return (sum(sizes.values()) == len(names) and len(sizes) >= FEWEST and max(sizes.values()) > 1
            and max(sizes.values()) <= len(names) / 2)


def _path(pair: Pair, folder: Path) -> str:
    return pair.image.relative_to(folder).as_posix()


def available(given: str | None, decoder: Sequence[int], input_range: str = IMAGENET) -> Weights:
    """The networks whose weights are available: a file's, which expect pixels of `input_range`, the
    libraries' own, or else small random ones.

    UserError where a given file fits none of BACKBONES.
    """
    if given is not None:
        network = _of_file(given, decoder)
        if input_range != IMAGENET:
            for section in network.sections.values():
                if section["weights"].value != weights.RANDOM:
                    section["input_range"] = Line(input_range, "as --input-range says")
        return network
    if _can(lambda: features.refuse_unfit(weights.PRETRAINED, features.load, BACKBONES[0],
                                          weights.PRETRAINED, "imagenet")):
        return _pretrained(decoder)
    return _random()


def _of_file(given: str, decoder: Sequence[int]) -> Weights:
    path = str(resolve(given))
    for name in BACKBONES:
        if _can(lambda name=name: features.load(name, path, "imagenet")):  # type: ignore[misc]
            sections = _network(name, path, "the file of --weights, which fits this network")
            own = Segment(encoder=name, weights=path, decoder_channels=list(decoder))
            fits = _can(lambda own=own: segnet.build(own, 0, RGB_AND_MASK))  # type: ignore[misc]
            sections["segment"] = _encoder(name, path, "as cluster.weights") if fits else _untrained()
            return Weights(sections, True)
    weights.read(given)  # raises if the file itself is bad
    raise UserError(f"--weights {given}: its weights fit none of the backbones {', '.join(BACKBONES)}. Leave "
                    "it out, and set cluster.backbone and cluster.weights in the file by hand.")


def _pretrained(decoder: Sequence[int]) -> Weights:
    why = "the library's own: in its cache, or to be downloaded when the run starts"
    sections = _network(BACKBONES[0], weights.PRETRAINED, why)
    own = Segment(encoder=BACKBONES[0], weights=weights.PRETRAINED, decoder_channels=list(decoder))
    can = _can(lambda: segnet.refuse_impossible(own, 0, 64, RGB_AND_MASK))
    sections["segment"] = _encoder(BACKBONES[0], weights.PRETRAINED, why) if can else _untrained()
    return Weights(sections, True)


def _random() -> Weights:
    why = ("no weights are available here: clusters follow coarse appearance, distances say little, and "
           "networks learn from scratch; --weights FILE takes e.g. torchvision's mobilenet_v2")
    return Weights({
        "cluster": {"backbone": Line("timm/test_nfnet"), "weights": Line("random", why)},
        "style": {"backbone": Line("timm/test_nfnet"), "weights": Line("random"), "backbone_size": Line(32),
                  "vgg_weights": Line("random")},
        "evaluate": {"backbone": Line("timm/test_resnet"), "weights": Line("random", "as cluster.weights")},
        "segment": _untrained()}, False)


def _network(name: str, spec: str, why: str) -> dict[str, dict[str, Line]]:
    maps = _can(lambda: features.refuse_unfit(weights.PRETRAINED, vgg.load, "vgg19", weights.PRETRAINED))
    return {
        "cluster": {"backbone": Line(name, "gives the features of clusters"), "weights": Line(spec, why)},
        "style": {"backbone": Line(name), "weights": Line(spec), "backbone_size": Line(None), "vgg_weights":
                  Line("pretrained" if maps else "random", "sdedit does not use it")},
        "evaluate": {"backbone": Line(name, "distances are named after it"), "weights": Line(spec)}}


def _encoder(name: str, spec: str, why: str) -> dict[str, Line]:
    return {"encoder": Line(name), "weights": Line(spec, why)}


def _untrained() -> dict[str, Line]:
    return {"encoder": Line("tu-test_resnet", "small, as it learns from scratch"), "weights": Line("random")}


def _can(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except UserError:
        return False
    return True
