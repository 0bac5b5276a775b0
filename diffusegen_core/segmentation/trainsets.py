"""What segmentation networks are trained on: the run's real sources, and the synthetic pairs made of them.

Whatever is drawn goes by source, each by a number of its own: a pair is never validated on its twin, and the
same seed gives all data types the same sources, so that they can be compared pair by pair.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.chapters import gan, inpaint, style
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets
from diffusegen_core.data.dataset import REAL
from diffusegen_core.store import runs, seeds


@dataclass(frozen=True)
class Sets:
    """The real pairs that synthetic ones were made of, and a manifest of these for each data type."""

    real: dataset.Pairs
    folders: dict[str, Path]
    manifests: dict[str, pd.DataFrame]
    """Columns name, source and sample, and `group`: the source, or what stands for it where it is unknown."""


@dataclass(frozen=True)
class Choice:
    """Some pairs of a data type, real ones and synthetic ones, by name."""

    real: tuple[str, ...] = ()
    synthetic: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)


def types(p: Params) -> dict[str, Path]:
    """The synthetic data types that the parameters ask for, with their dataset folders, made or not."""
    models = [f"{p.cluster.k}", *(["Full"] if p.train.full_images else [])]
    found = {gan.GAN: p.folder / "gan" / gan.GAN} if p.gan.source else {}
    for model in models:
        found |= {f"{model}-Diff": p.folder / "inpaint" / f"{model}-Diff",
                  f"{model}-Styled-Diff": p.folder / "style" / f"{model}-Styled-Diff"}
    return found


def wanted(p: Params, asked: list[str] | None, key: str) -> list[str]:
    """The data types of a grid, Real among them; UserError for one that the run does not have."""
    have = [REAL, *types(p)]
    if unknown := [name for name in asked or [] if name not in have]:
        raise UserError(f"Parameters: {key}: this run has no data type {unknown[0]}; it has "
                        f"{', '.join(have)}.")
    return have if asked is None else [name for name in have if name in asked]


def numbers(p: Params, asked: list[int] | None, data_type: str, key: str) -> list[int]:
    """The numbers of pairs a source that a grid has of a synthetic data type.

    Null asks for 1 to inpaint.samples, as far as they are made; UserError where more is asked for than is.
    """
    source = "gan.samples" if data_type == gan.GAN and p.gan.samples else "inpaint.samples"
    most = gan.samples(p) if data_type == gan.GAN else p.inpaint.samples
    if asked is None:
        return list(range(1, min(most, p.inpaint.samples) + 1))
    if max(asked) > most:
        raise UserError(f"Parameters: {key}: {max(asked)} is more than the {most} pairs of each source that "
                        f"{data_type} has. Raise {source}, or leave {data_type} out of "
                        f"{key.partition('.')[0]}.types.")
    return asked


def make(p: Params) -> Sets:
    """The sets of a run, after making what chapters 3 and 4 and the GAN have not.

    Raises UserError where a synthetic pair was made of an image that is none of the run's.
    """
    inpaint.run(p)
    style.run(p)
    gan.run(p)
    sets = read(p)
    ours = set(dataset.load(p).names)  # the GAN may have more sources than inpainting
    for name, manifest in sets.manifests.items():
        foreign = manifest.loc[(manifest["source"] != "") & ~manifest["source"].isin(ours), "source"]
        if len(foreign):
            raise UserError(f"{name} holds pairs made of {foreign.iloc[0]}, which is no training pair of the "
                            "run.")
    return sets


def made(p: Params) -> Sets | None:
    """The sets of a run, if all that `make` would make is on the disk and current; nothing is made.

    None as well where they cannot be made, for which `make` has the words.
    """
    try:
        with runs.only_finished():
            return make(p)
    except (runs.NotMadeError, UserError):
        return None


def read(p: Params) -> Sets:
    """The sets of a run as they lie on the disk."""
    folders, manifests = types(p), {}
    for name, folder in folders.items():
        m = pairsets.manifest(folder)
        group = m["source"].where(m["source"] != "", m["name"].map(_group))
        manifests[name] = m[["name", "source", "sample"]].assign(group=group)
    pairs = dataset.load(p)
    return Sets(pairs.take(range(used(p, len(pairs)))), folders, manifests)


def _group(name: str) -> str:
    """What stands for the unknown source of a pair: SinGAN-Seg's number of it, or else the pair itself."""
    match = gan.PUBLISHED.fullmatch(name)
    return f"chk_id_{match[1]}" if match else name


def sources(p: Params) -> int:
    """How many of the run's pairs synthetic ones are made of."""
    return used(p, len(dataset.load(p)))


def used(p: Params, pairs: int) -> int:
    """How many of so many pairs synthetic ones are made of, other than by the GAN."""
    return min(pairs, p.inpaint.sources or pairs)


def load(sets: Sets, data_type: str, choice: Choice) -> dataset.Pairs:
    """The chosen pairs in memory, real ones first."""
    place = {name: i for i, name in enumerate(sets.real.names)}
    parts = [sets.real.take([place[name] for name in choice.real])] if choice.real else []
    if choice.synthetic:
        parts.append(pairsets.load(sets.folders[data_type], choice.synthetic))
    return dataset.gather([name for part in parts for name in part.names],
                       *(np.concatenate([getattr(part, kind) for part in parts]) for kind in pairsets.KINDS))


def content(sets: Sets, data_type: str, choice: Choice) -> str:
    """A hash of what the chosen pairs show, from the stamps; images are not read."""
    place = {name: i for i, name in enumerate(sets.real.names)}
    files = runs.read_json(sets.folders[data_type] / runs.STAMP)["outputs"] if choice.synthetic else {}
    real = sets.real.take([place[name] for name in choice.real]).digest if choice.real else ""
    return runs.key({"real": real,
                     "synthetic": [files[f"{kind}/{name}.png"]["sha256"]
                                   for name in choice.synthetic for kind in pairsets.KINDS]})


def shuffled(names: list[str], *seed: object) -> list[str]:
    """Names in the order of a number that each draws for itself: one more name moves no other."""
    return sorted(names, key=lambda name: seeds.derive(*seed, name))


def split(names: list[str], share: float, *seed: object) -> tuple[list[str], list[str]]:
    """Names to train on, and the share that chooses the best epoch: at least one, and not all."""
    count, order = held_back(len(names), share), shuffled(names, *seed)
    return sorted(order[count:]), sorted(order[:count])


def held_back(count: int, share: float) -> int:
    """How many of so many sources choose the best epoch."""
    return max(0, min(max(1, round(share * count)), count - 1))
