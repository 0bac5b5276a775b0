"""Chapter 5's membership test: do the models' errors tell training pairs from held-out ones?

The models of a group denoise the same training pairs and the same held-out ones, at fixed noise levels and
with seeded noise. As a cluster's model may have seen its own cluster alone, an image's error under the
clusters' models is the smallest of theirs, for members and for others alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from diffusegen_core.chapters.costs import FLOAT, Cost, Work
from diffusegen_core.chapters.trained import Trained, TrainedModel
from diffusegen_core.config import devices
from diffusegen_core.config.data import Data
from diffusegen_core.data import dataset, windows
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Chosen
from diffusegen_core.diffusion import checkpoints, origins, process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.measures import memory
from diffusegen_core.parallel import fanout
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Artifact, Recipe
from diffusegen_core.store.workspace import Workspace

VERSION = 1  # raised when the same models would get other errors
LEVELS = 8  # noise levels at which each image is denoised
LEAST = 4  # images of each kind: with fewer there is no test
CLUSTERS, FULL = "the clusters' models", "the full set's model"
ERRORS = ["models", "model", "name", "member", *(f"level {number}" for number in range(1, LEVELS + 1))]


@dataclass(frozen=True)
class Suspect:
    """A model to test; it can be sent to a worker."""

    group: str
    """CLUSTERS or FULL."""
    model: TrainedModel
    weights: str
    """As train.sample_weights."""
    real: Path
    """The file of the training pairs."""
    held_out: Path
    window: tuple[float, int, Chosen] | None
    """Size and pixels of the windows that it was trained on, and the classes that they lie around."""
    members: tuple[str, ...]
    """The names of the training pairs that it is tested on."""
    others: tuple[str, ...]
    artifact: Artifact


@dataclass(frozen=True)
class Membership:
    """The result of the test."""

    errors: pd.DataFrame
    """One row per image and model, columns ERRORS: mean squared errors of what the network predicts."""
    seed: int
    seconds: float
    caveat: str
    """As `Trained.caveat`: of models that may have seen any image; "" if there are none."""

    def error(self, group: str, levels: Sequence[str] = ERRORS[4:]) -> tuple[np.ndarray, np.ndarray]:
        """The errors of members and of others under a group of models: means over `levels`, each relative to
        the level's mean; with several models, the smallest."""
        rows = self.errors[self.errors["models"] == group]
        each = rows[list(levels)]
        error = (each / each.mean()).mean(axis=1).groupby([rows["member"], rows["name"]]).min()
        return error.loc[True].to_numpy(), error.loc[False].to_numpy()

    @property
    def groups(self) -> list[str]:
        return list(self.errors["models"].unique())

    @property
    def table(self) -> pd.DataFrame:
        """One row per group of models: images of each kind, the area under the ROC curve and its interval,
        and the share of members recognised at few false alarms."""
        attacks = {group: memory.attack(*self.error(group), self.seed) for group in self.groups}
        return pd.DataFrame([{
            "models": group, "training pairs": one.members, "held-out pairs": one.others, "area": one.area,
            "low": one.low, "high": one.high, "recognised": one.recognised}
            for group, one in attacks.items()])


def ask(ws: Workspace, pairs: Pairs, held_out: Pairs | None, trained: Trained | None, data: Data,
        count: int | None, chosen: Chosen = None) -> Membership | None:
    """Test the models that are not tested yet, on `count` pairs of each kind, or as many as there are.

    None if there is no model to test, or there are too few pairs to test it on. `chosen` are the classes that
    windows lie around.
    """
    suspects = list(_suspects(ws, pairs, held_out, trained, data, count, chosen))
    if not suspects:
        return None
    missing = [suspect for suspect in suspects if not suspect.artifact.made()]
    for suspect in missing:
        suspect.artifact.begin()  # which refuses in a read-only workspace
    fanout.run(test, [fanout.Item(suspect.model.name, ws, {"ws": ws, "suspect": suspect})
                      for suspect in missing], "Membership test")
    tables = [pd.read_csv(suspect.artifact.file("errors.csv"), dtype={"name": str}, keep_default_na=False)
              for suspect in suspects]
    return Membership(pd.concat(tables, ignore_index=True), ws.seed,
                      sum(float(suspect.artifact.stamp["seconds"]) for suspect in suspects),
                      trained.caveat if trained is not None else "")


def costs(count: int | None, pairs: int, held_out: int, models: int, work: Work) -> Iterator[Cost]:
    """The cost of the test, as far as it can be told in advance."""
    kinds = [min(count or 0, size) for size in (pairs, held_out)]
    if min(kinds) >= LEAST:
        calls = LEVELS * sum(kinds)
        yield Cost(chapter="evaluate", work="membership test", kind="sampling", items=models,
                   images=models * calls, flop=models * calls * work.unet.call,
                   largest=calls * work.unet.call, disk=models * calls * FLOAT)


def test(ws: Workspace, suspect: Suspect) -> None:
    """A work item: the errors of one model on the pairs."""
    if suspect.artifact.made():
        return
    folder, start = suspect.artifact.begin(), perf_counter()
    diffusion = checkpoints.load(suspect.model.path, suspect.weights, devices.device(ws.device))
    frames = []
    for member, file, names in ((True, suspect.real, suspect.members),
                                (False, suspect.held_out, suspect.others)):
        chosen = _shown(ws.seed, dataset.read(file).named(names), suspect.window)
        frame = pd.DataFrame(errors(diffusion, chosen, ws.seed), columns=ERRORS[4:])
        frames.append(frame.assign(models=suspect.group, model=suspect.model.name, name=names, member=member))
    table = pd.concat(frames)[ERRORS]
    suspect.artifact.finish([files.write_text(folder / "errors.csv", table.to_csv(index=False))],
                            perf_counter() - start, device=devices.name(ws.device))


# error_t = mean (y - prediction(x_t))^2, y being eps or v
def errors(diffusion: Diffusion, pairs: Pairs, seed: int) -> np.ndarray:
    """The mean squared errors (N, LEVELS) of what the network predicts for each pair, noisiest last.

    An image's errors depend on it, on its name and on `seed` alone.
    """
    steps = len(diffusion.schedule)
    t = torch.tensor([int((number + 0.5) / LEVELS * steps) for number in range(LEVELS)],
                     device=diffusion.device)
    rows = []
    for name, x in zip(pairs.names, dataset.to_tensor(pairs), strict=True):
        x0 = x.to(diffusion.device).expand(LEVELS, -1, -1, -1)
        noise = seeds.normal_like([seeds.generator(seed, "membership", name, number)
                                   for number in range(LEVELS)], x0.cpu()).to(diffusion.device)
        with torch.inference_mode(), diffusion.autocast():
            told = process.losses(diffusion.net, diffusion.schedule, x0, t, noise, diffusion.objective)
        rows.append(told["mse"].float().cpu().numpy())
    return np.stack(rows)


def _suspects(ws: Workspace, pairs: Pairs, held_out: Pairs | None, trained: Trained | None, data: Data,
              count: int | None, around: Chosen) -> Iterator[Suspect]:
    if not count or held_out is None or trained is None:
        return
    window = (data.window, data.window_size, around) if data.window and data.window_size else None
    for group, models in ((CLUSTERS, trained.models), (FULL, [trained.full] if trained.full else [])):
        chosen = [_chosen(ws.seed, names, count) for names in
                  (_seen(models, pairs, window is not None), held_out.names)]
        if min(map(len, chosen)) < LEAST:
            continue
        members, others = chosen
        for model in models:
            recipe: Recipe = {"version": VERSION, "seed": ws.seed, "pairs": pairs.digest,
                              "window": window and (window if around else window[:2]),
                              "held_out": held_out.digest, "model": model.sha256, "weights": trained.weights,
                              "members": members, "others": others}
            yield Suspect(group, model, trained.weights, pairs.stored, held_out.stored, window,
                          tuple(members), tuple(others), ws.artifact(f"evaluate/membership/{model.name}",
                                                                     recipe))


def _seen(models: list[TrainedModel], pairs: Pairs, windowed: bool) -> list[str]:
    """The names of the pairs that these models have seen; all of the run's if one does not tell."""
    told = [origins.read_fingerprints(model.path) for model in models]
    if any(fingerprints is None for fingerprints in told):
        return pairs.names
    known = [fingerprints or {} for fingerprints in told]
    if windowed:  # a window's name tells its pair; drawing all windows again would take long
        names = {name.rsplit(windows.OF, 1)[0] for fingerprints in known for name in fingerprints}
        return [name for name in pairs.names if name in names]
    pixels = {look for fingerprints in known for look in fingerprints.values()}
    return [name for name, look in origins.fingerprints(pairs).items() if look in pixels]


def _shown(seed: int, pairs: Pairs, window: tuple[float, int, Chosen] | None) -> Pairs:
    """Pairs as a model sees them: the first training window of each, if it is trained on windows."""
    if window is None:
        return pairs
    times, size, around = window
    return windows.drawn(seed, pairs, times, size, copies=1, chosen=around)


def _chosen(seed: int, names: list[str], count: int) -> list[str]:
    """At most `count` of the names, drawn by the seed, in their order."""
    rows = seeds.rng(seed, "membership", "drawn").choice(len(names), min(count, len(names)), replace=False)
    return [names[i] for i in np.sort(rows)]
