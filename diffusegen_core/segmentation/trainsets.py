"""Training sets of segmentation networks: the run's real sources, and the synthetic pairs made of them.

All random choices are made per source, each by a number of its own: no pair is validated on its twin, and the
same seed gives all data types the same sources, so that they can be compared pair by pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Filter, Gan, Inpaint
from diffusegen_core.data import dataset, pairsets, patients
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.pairsets import SINGAN_SEG, PairSet
from diffusegen_core.data.types import GAN, REAL, DataType, painted, pasted
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import key

GROUPED = ["name", "source", "sample", "group"]


@dataclass(frozen=True)
class Amount:
    """How many pairs of a data type a run has, if none is left out."""

    sources: int
    samples: int
    """Pairs per source."""
    drawn: bool = False
    """Whether the sources are drawn at random, as by inpaint.draw_sources."""


Supply = Mapping[DataType, Amount]
"""The data types of a run, made or not, in the order of the tables: Real (its sources), GAN, Paste,
Paste-Poisson, K-Diff, ..."""


def supply(pairs: int, clusters: int, full: bool, inpaint: Inpaint, gan: Gan) -> Supply:
    """The data types of a run with so many real pairs and clusters; `full` adds a model of the full set."""
    sources = min(pairs, inpaint.sources or pairs)
    drawn = inpaint.draw_sources
    types = {REAL: Amount(sources, 1, drawn)}
    if gan.source:
        own = min(pairs, gan.sources or inpaint.sources or pairs)
        types[GAN] = Amount(own, gan.samples or inpaint.samples, drawn)
    each = Amount(sources, inpaint.samples, drawn)
    types |= dict.fromkeys(pasted(inpaint.baselines), each)
    for data_type in painted(clusters, full, inpaint.masks):
        types |= dict.fromkeys((data_type, data_type.styled), each)
    return types


def with_filtered(supply: Supply, settings: Filter) -> Supply:
    """The same supply with a filtered type after each painted one, which has at most as many pairs."""
    if not settings.folds:
        return supply
    return {one: amount for data_type, amount in supply.items()
            for one in dict.fromkeys((data_type, data_type.filtered))}


def expected(p: Params) -> Supply:
    """What chapters 6 and 7 choose from, before it is made; an unknown number of real pairs counts as one."""
    return of_run(p, dataset.expected_count(p) or 1)


def of_run(p: Params, pairs: int) -> Supply:
    """What chapters 6 and 7 of a run with so many real pairs choose from, if none is left out."""
    made = supply(pairs, p.cluster.k, p.train.full_images is not None, p.inpaint, p.gan)
    return with_filtered(made, p.filter)


@dataclass(frozen=True)
class Sets:
    """The real pairs that synthetic ones were made of, and the synthetic ones by data type."""

    real: Pairs
    sets: dict[DataType, PairSet]
    supply: Supply
    file: Path
    """The file with the real pairs, which may hold others too."""

    @cached_property
    def together(self) -> Mapping[str, str]:
        """The patient or other inseparable group of each real pair: see `patients.together`."""
        return patients.together(self.file)

    @cached_property
    def manifests(self) -> dict[DataType, pd.DataFrame]:
        """Columns GROUPED of each set: `group` is the source, or a stand-in where the source is unknown."""
        return {data_type: grouped(made.manifest) for data_type, made in self.sets.items()}

    def emptied(self, data_type: DataType) -> str:
        """A sentence if the filter kept nothing of a type, so no network can be trained on it; else ""."""
        empty = data_type.is_filtered and data_type in self.sets and not len(self.sets[data_type])
        return f"the filter kept no pair of {data_type.unfiltered}." if empty else ""


def collect(pairs: Pairs, supply: Supply, sets: Iterable[PairSet]) -> Sets:
    """The sets of a run with these pairs.

    Raises UserError where a synthetic pair was made of an image that is not one of the run's.
    """
    made = {one.data_type: one for one in sets}
    ours = set(pairs.names)  # all of them, for the GAN may have more sources than inpainting
    for data_type, one in made.items():
        source = one.manifest["source"]
        foreign = source[(source != "") & ~source.isin(ours)]
        if len(foreign):
            raise UserError(f"{data_type} holds pairs made from {foreign.iloc[0]}, which is not a "
                            "training pair of the run.")
    sources = patients.sources(pairs.names, pairs.file, supply[REAL].sources, supply[REAL].drawn)
    return Sets(pairs.take(sources), made, supply, pairs.stored)


def grouped(manifest: pd.DataFrame) -> pd.DataFrame:
    """Columns GROUPED of a manifest."""
    group = manifest["source"].where(manifest["source"] != "", manifest["name"].map(_group))
    return manifest[["name", "source", "sample"]].assign(group=group)


def _group(name: str) -> str:
    """The stand-in for a pair's unknown source: its number in SinGAN-Seg, or else the pair itself."""
    match = SINGAN_SEG.fullmatch(name)
    return f"chk_id_{match[1]}" if match else name


@dataclass(frozen=True)
class Choice:
    """A selection of pairs of a data type, real and synthetic, by name."""

    real: tuple[str, ...] = ()
    synthetic: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)


def wanted(supply: Supply, asked: Sequence[str] | None, parameter: str) -> list[DataType]:
    """The data types of a grid, Real among them; UserError for one that the run does not have."""
    names = [data_type.name for data_type in supply]
    if unknown := [name for name in asked or [] if name not in names]:
        raise UserError(f"Parameters: {parameter}: this run has no data type {unknown[0]}; it has "
                        f"{', '.join(names)}.")
    return [data_type for data_type in supply if asked is None or data_type.name in asked]


def numbers(supply: Supply, asked: Sequence[int] | None, data_type: DataType, parameter: str) -> list[int]:
    """The numbers of pairs per source that a grid tries for a synthetic data type, each once.

    Null asks for 1 to inpaint.samples, as far as the type has them; UserError where more are asked for.
    """
    most = supply[data_type].samples
    if asked is None:
        usual = max(amount.samples for other, amount in supply.items() if other not in (REAL, GAN))
        return list(range(1, min(most, usual) + 1))
    if max(asked) > most:
        source = "gan.samples" if data_type == GAN else "inpaint.samples"
        raise UserError(f"Parameters: {parameter}: {max(asked)} is more than the {most} pairs of each source "
                        f"that {data_type} has. Raise {source}, or leave {data_type} out of "
                        f"{parameter.partition('.')[0]}.types.")
    return list(dict.fromkeys(asked))


def mixed(names: Sequence[str], made: Mapping[str, Sequence[str]], alpha: float, ratio: int | None, seed: int,
          number: int, rule: str = "replace", epoch: int = 0) -> Choice:
    """The paper's rule (2.6.2): each real pair is, with probability `alpha`, replaced by `ratio` of the
    synthetic pairs made of it, or by all if `ratio` is None. Under the rule "add" the real pair stays too.

    `made` has the names of synthetic pairs by that of the real one; a real pair without any stays. `seed` is
    the run's, `number` the repetition's. Each epoch draws anew; chapter 7 trains on epoch 0.
    """
    own = f"{number}, epoch {epoch}" if epoch else number
    real, synthetic = [], []
    for name in names:
        drawn = seeds.rng(seed, "augment", "drawn", own, name).random() < alpha
        mine = shuffled(made.get(name, []), seed, "augment", "samples", own) if drawn else []
        synthetic += mine[:ratio]
        if not mine or rule == "add":
            real.append(name)
    return Choice(tuple(real), tuple(synthetic))


def load(file: Path, folder: Path | None, choice: Choice) -> Pairs:
    """Load the chosen pairs, real ones first: from the file of real pairs, and from a dataset folder.

    At least one must be chosen; `folder` is None where none is synthetic.
    """
    parts = [dataset.read(file).named(choice.real)] if choice.real else []
    if choice.synthetic:
        assert folder is not None, "synthetic pairs lie in a folder"
        parts.append(pairsets.load(folder, choice.synthetic))
    return dataset.gather([name for part in parts for name in part.names],
                          np.concatenate([part.images for part in parts]),
                          np.concatenate([part.masks for part in parts]), dataset.read(file).overlap)


def content(sets: Sets, data_type: DataType, choice: Choice) -> str:
    """A hash of the chosen pairs' content; synthetic ones are not read, as their hashes are known."""
    hashes = sets.sets[data_type].hashes if choice.synthetic else {}
    return key({"real": sets.real.named(choice.real).digest if choice.real else "",
                "synthetic": [hashes[file] for name in choice.synthetic
                              for file in pairsets.names_of(hashes, name)]})


def shuffled(names: Iterable[str], seed: int, *purpose: object) -> list[str]:
    """Names ordered by a random number derived from each alone, so a further name does not reorder others."""
    return sorted(names, key=lambda name: seeds.derive(seed, *purpose, name))


def split(names: Sequence[str], share: float, seed: int, *purpose: object,
          groups: Mapping[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Names to train on, and the share that chooses the best epoch: at least one, and not all.

    `groups` has the group of each name that belongs to one, such as the volume of a slice. Groups stay whole,
    unless there is only one.
    """
    members = in_groups(names, groups or {})
    count, held = held_back(len(names), share), list[str]()
    for group in shuffled(members, seed, *purpose)[:-1] if len(names) > 1 else ():
        if len(held) >= count:
            break
        held += members[group]
    return sorted(set(names).difference(held)), sorted(held)


def in_groups(names: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of each group. A name without one is its own group, and so is each if all are of one."""
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(groups.get(name, name), []).append(name)
    alone = len(members) == 1 and groups
    return {name: [name] for names in members.values() for name in names} if alone else members


def held_back(count: int, share: float) -> int:
    """How many of `count` sources choose the best epoch."""
    return max(0, min(max(1, round(share * count)), count - 1))
