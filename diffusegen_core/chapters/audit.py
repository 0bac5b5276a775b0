"""Chapter 5's audit: each image's nearest training image, judged by unseen images and planted copies.

Each image of a data type has a counterpart whose filled region holds another pair's lesion, so that it is no
copy of anything it is compared with (the null). Lesions come from held-out pairs; if there are none, from
other training pairs, each of which is then left out of its image's comparison. The thresholds are low
quantiles of the null's scores. Copies of training images, planted into the same regions, show what the audit
finds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from diffusegen_core.chapters import distances, members, unseen
from diffusegen_core.chapters.members import Members, Subject
from diffusegen_core.chapters.unseen import Query
from diffusegen_core.config import devices
from diffusegen_core.data import dataset, regions
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.types import GAN, REAL
from diffusegen_core.measures import copies, planted
from diffusegen_core.measures.copies import ORIENTATIONS, Found
from diffusegen_core.networks.features import CHUNK
from diffusegen_core.store import files, seeds
from diffusegen_core.store.workspace import Workspace

CLOSEST = 5  # images of each data type that are kept for the figure
PLANTED = 32  # images of each data type into which copies are planted
NEAREST = ["nearest", "orientation", "distance", "score"]
FOUND = [*NEAREST, *(f"feature_{name}" for name in NEAREST)]
AUDIT = ["data type", "name", "source", "own", *FOUND]
NULL = ["data type", "name", "lesion", "score", "feature_score"]
PLANTS = ["data type", "name", "disguise", "of", "nearest", "score", "feature_nearest", "feature_score"]
TEXT = ["data type", "name", "source", "lesion", "disguise", "of", "nearest", "feature_nearest",
        "orientation", "feature_orientation"]


def judge(ws: Workspace, subject: Subject) -> None:
    """A work item: the distances of one data type in whole sets, and the audit of its images."""
    if subject.artifact.made():
        return
    folder, start = subject.artifact.begin(), perf_counter()
    pairs, everyone = dataset.read(subject.real), members.members(subject)
    tables = {"values": distances.whole(subject, everyone, pairs), **audited(subject, everyone, pairs)}
    first = tables["audit"]["score"].to_numpy(dtype=float).argsort(kind="stable")[:CLOSEST]
    kept = {"names": np.array(everyone.names, dtype=str)[first], "images": everyone.images[first],
            "regions": everyone.regions[first]}
    outputs = [files.write_text(folder / f"{name}.csv", table.to_csv(index=False))
               for name, table in tables.items()]
    outputs.append(files.write(folder / "closest.npz", lambda file: np.savez(file, **kept)))
    subject.artifact.finish(outputs, perf_counter() - start, device=devices.name(ws.device))


def extract(subject: Subject, first: int) -> None:
    """A work item: store the features of a batch of images, both whole and of the box around the object."""
    pairs = dataset.read(subject.real)
    everyone = members.members(subject, slice(first, first + CHUNK))
    members.features(subject, everyone.images, f"Features of {subject.data_type}")
    if subject.data_type == members.HELD_OUT:  # compared as whole images only
        return
    members.object_features(subject, everyone.images, everyone.objects)
    if subject.data_type == REAL:
        members.turned_features(subject, everyone.images, everyone.objects)
    elif len(null := null_of(subject, everyone, pairs)):
        members.object_features(subject, null.images, null.objects)


def audited(subject: Subject, everyone: Members, pairs: Pairs) -> dict[str, pd.DataFrame]:
    """The tables `audit`, `null` and `planted` of a data type, columns AUDIT, NULL and PLANTS.

    Real images are compared with the other real ones, and these scores are their null as well.
    """
    queries = {"audit": _of(subject, everyone), "null": null_of(subject, everyone, pairs)}
    plants = dict(_plants(subject, everyone, pairs))
    tables = _found(subject, [*queries.values(), *plants.values()], pairs)
    name = subject.data_type.name
    table = tables[0].assign(**{"data type": name, "name": everyone.names, "source": [
        pairs.names[i] if i >= 0 else "" for i in everyone.sources]})
    table["own"] = (table["nearest"] == table["source"]) & (table["source"] != "")
    null = tables[1].assign(**{"data type": name, "name": queries["null"].names,
                              "lesion": queries["null"].lesions})
    rows = [one.assign(**{"data type": name, "name": plant.names, "disguise": disguise, "of": plant.lesions})
            for one, (disguise, plant) in zip(tables[2:], plants.items(), strict=True)]
    return {"audit": table[AUDIT], "null": (table if subject.data_type == REAL else null).reindex(
                columns=NULL, fill_value=""),
            "planted": pd.concat(rows)[PLANTS] if rows else pd.DataFrame(columns=PLANTS)}


def null_of(subject: Subject, everyone: Members, pairs: Pairs) -> Query:
    """Images that no model remembers, filled in the same regions as a data type's; none for Real.

    A GAN makes whole images, so its null is whole held-out images or, without these, the real images, each
    compared with the others.
    """
    held = dataset.read(subject.held_out) if subject.held_out is not None else None
    if subject.data_type == REAL or not len(everyone):
        return unseen.nothing(pairs)
    if subject.data_type == GAN:
        donors, own = (pairs, np.arange(len(pairs))) if held is None else (held, np.full(len(held), -1))
        around = regions.all_dilated(donors.masks, subject.dilate)
        return Query(donors.names, donors.images, np.ones_like(around), around, own, donors.names)
    return unseen.blended(subject.ws.seed, everyone, pairs if held is None else held, held is None)


def read(file: Path) -> pd.DataFrame:
    """Read a table of this chapter. Only numbers can be missing values: an image may be named NA."""
    numbers = [f"{prefix}{name}" for prefix in ("", "feature_") for name in ("distance", "score")]
    frame = pd.read_csv(file, dtype=dict.fromkeys(TEXT, str), keep_default_na=False,
                        na_values={name: [""] for name in numbers})
    return frame.astype({name: float for name in numbers if name in frame})


def _of(subject: Subject, everyone: Members) -> Query:
    own = everyone.sources if subject.data_type == REAL else np.full(len(everyone), -1)
    return Query(everyone.names, everyone.images, everyone.regions, everyone.objects, own, everyone.names)


def _plants(subject: Subject, everyone: Members, pairs: Pairs) -> Iterator[tuple[str, Query]]:
    """For each disguise, some images of a data type with a copy planted into each."""
    there = np.flatnonzero(everyone.regions.any(axis=(1, 2)))
    if subject.data_type == REAL or not len(there):
        return
    rng = seeds.rng(subject.ws.seed, "planted", subject.data_type)
    some = everyone.take(np.sort(rng.choice(there, min(PLANTED, len(there)), replace=False)))
    places = np.stack([unseen.place(some, i) for i in range(len(some))])
    around = regions.all_dilated(pairs.masks, subject.dilate)
    for disguise, change in planted.DISGUISES.items():
        plants = planted.plant(some.images, some.regions, pairs.images, around, some.sources, change)
        yield disguise, Query(some.names, plants.images, some.regions, places, np.full(len(some), -1),
                              [pairs.names[i] for i in plants.of])


def _found(subject: Subject, queries: list[Query], pairs: Pairs) -> list[pd.DataFrame]:
    """The nearest training images of each query, columns FOUND; searched together, as they share regions."""
    if not sum(map(len, queries)):
        return [pd.DataFrame(columns=FOUND) for _ in queries]
    images, filled, objects, own = (np.concatenate([getattr(query, part) for query in queries])
                                   for part in ("images", "regions", "objects", "own"))
    in_pixels = copies.in_pixels(images, filled, pairs.images, own)
    around = regions.all_dilated(pairs.masks, subject.dilate)
    in_features = copies.in_features(members.object_features(subject, images, objects),
                                     members.turned_features(subject, pairs.images, around), own)
    table = pd.DataFrame({**_columns("", in_pixels, pairs.names),
                          **_columns("feature_", in_features, pairs.names)})
    ends = np.cumsum([len(query) for query in queries])
    return [table.iloc[end - len(query):end].reset_index(drop=True)
            for query, end in zip(queries, ends, strict=True)]


def _columns(prefix: str, nearest: Found, names: list[str]) -> dict[str, Sequence[str] | np.ndarray]:
    there = np.isfinite(nearest.distance)
    shown = [names[i] if finite else "" for i, finite in zip(nearest.index, there, strict=True)]
    ways = [ORIENTATIONS[way] if finite else "" for way, finite in
            zip(nearest.orientation, there, strict=True)]
    columns: list[Sequence[str] | np.ndarray] = [shown, ways, nearest.distance, nearest.score]
    return {f"{prefix}{name}": column for name, column in zip(NEAREST, columns, strict=True)}
