"""A run: its parameters, its folder, and the chapters, each of which gets the results of earlier ones.

The one place where chapters are chained; notebooks, command, workers and a user's own script share it:

    run = Run.create("params/smoke.yaml", changes={"train.images": 20000})
    run.make("inpaint")         # makes the pairs, and what they need
    run.inpainted.table
    Run.open("runs/smoke").models.load("cluster-00").sample(4)

Reading never makes anything: a result that is not there raises NotMadeError, whose text says how to make it.
Making never loses anything: what no longer fits is set aside in the run folder (see store.artifacts).
"""

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusegen_core import outlets
from diffusegen_core.chapters import (
    augment,
    cluster,
    collected,
    evaluate,
    gan,
    inpaint,
    leaks,
    paint,
    paste,
    scenes,
    scorers,
    segment,
    sieve,
    standing,
    style,
    subruns,
    tracked,
    train,
)
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.chapters.gan import Baseline
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.paint import Painted, PaintRequest
from diffusegen_core.chapters.sieve import Filtered
from diffusegen_core.chapters.style import Styled
from diffusegen_core.chapters.trained import Trained
from diffusegen_core.config import params
from diffusegen_core.config.checks import refuse_own_parts
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, windows
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.masks import Like
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.parallel import progress
from diffusegen_core.parallel.progress import Watcher
from diffusegen_core.segmentation.torchsets import Labelled, Mixed, Transform
from diffusegen_core.segmentation.trainsets import Sets
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import lock, ownparams, stamps, tracking
from diffusegen_core.store.ownparams import PARAMS, Said, is_there
from diffusegen_core.store.workspace import Workspace

GRIDS = ("segment", "augment")  # results that can be read in part, as far as they are made
GENERATED = ("train", "inpaint", "style", "sets", "filter")  # of which each generator has its own


class Run:
    """Everything that belongs to one set of parameters. Results are loaded once, and made only by `make`."""

    def __init__(self, values: Params, given: Said | None = None) -> None:
        self.params, self.given = values, given  # what the parameter file says, or None
        self._results: dict[str, Any] = {}

    @classmethod
    def create(cls, profile: str | Path = "smoke", changes: Mapping[str, Any] | None = None,
               folder: str | Path | None = None) -> "Run":
        """The run of a parameter file, or of a profile of params/ by its name; nothing is written yet.

        `changes` are other values, by dotted keys ("train.images") or in sections. The run is named after
        the file and lies in runs/NAME, or in `folder`; the params.yaml of a run means that run. Raises
        UserError for unknown keys and invalid values, and if the folder holds anything but a run.
        """
        path = params.profile_file(profile)
        own = path.name == PARAMS and lock.is_run(path.absolute().parent)
        if folder is None and own:
            return cls.open(path.absolute().parent, changes)
        given = ownparams.load(path.parent) if own else params.load(path)
        values = params.merged({**given, "profile": path.stem}, changes or {})
        values |= {"run_dir": str(folder)} if folder is not None else {}
        return cls._checked(params.validate(values), None if own else ownparams.said(path))

    @classmethod
    def open(cls, folder: str | Path, changes: Mapping[str, Any] | None = None) -> "Run":
        """The run in a folder, with the parameters that lie there, or some of them changed."""
        path = params.resolve(folder)
        if not is_there(path):
            lacking = f"valid {lock.MARK}" if (path / PARAMS).is_file() else PARAMS
            raise UserError(f"{path} is not a run yet: it has no {lacking}. `diffusegen run` makes one.")
        values = params.merged(ownparams.load(path), changes or {})
        return cls._checked(params.validate({**values, "run_dir": str(path)}))

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> "Run":
        """The run of a notebook's parameters: `Run.from_notebook(globals())`, after papermill's injection.

        `profile` is a profile, a parameter file or a run folder. If its run exists already, the parameters in
        the run folder hold, except for what was edited in a parameter file since the run took it (see
        `ownparams.edits`) and for `changes`. Sections that papermill was given are changes as well.
        """
        given = ownparams.told(namespace)
        profile, run_dir = given.pop("profile", "smoke"), given.pop("run_dir", None)
        changes = params.merged(given, namespace.get("changes") or {})
        profile, folder = ownparams.meant(profile, run_dir)
        if not is_there(folder):
            return cls.create(profile, changes, run_dir)
        taken, edited = ownparams.edits(profile, folder)
        run = cls.open(folder, params.merged(edited, changes))
        run.given = taken
        return run

    @classmethod
    def _checked(cls, values: Params, given: Said | None = None) -> "Run":
        lock.refuse_foreign(values.folder)
        lock.refuse_nested(values.folder)
        refuse_own_parts(values)
        return cls(values, given)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_results": {}}  # another process loads the results itself

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return self.params.folder

    @property
    def workspace(self) -> Workspace:
        """Where the chapters make their things."""
        return Workspace(self.folder, self.params.seed, self.params.device, tracking=self.params.tracking)

    @property
    def pairs(self) -> Pairs:
        """The real pairs, at the size of the run."""
        return self.read("data")

    @property
    def windows(self) -> Pairs:
        """What the models are trained on: squares around the lesions of `pairs`, or these themselves."""
        return self.read("windows")

    @property
    def clusters(self) -> Clusters:
        """Which pairs lie in which cluster: `run.clusters.labels`, one a pair."""
        return self.read("cluster")

    @property
    def models(self) -> Trained:
        """The diffusion models: `run.models.load("cluster-00")`."""
        return self.read("train")

    @property
    def inpainted(self) -> Inpainted:
        """The painted pairs, by data type in `.sets`, and a row of each type in `.table`."""
        return self.read("inpaint")

    @property
    def pasted(self) -> paste.Pasted | None:
        """The pairs with pasted lesions; None where the parameters ask for none."""
        return self.read("paste")

    @property
    def styled(self) -> Styled:
        """The painted pairs with the look of their sources, likewise, and the losses of every step."""
        return self.read("style")

    @property
    def gan(self) -> Baseline | None:
        """The baseline's pairs; None where the parameters ask for none."""
        return self.read("gan")

    @property
    def synthetic(self) -> Sets:
        """The sources of the synthetic pairs, and these pairs by data type."""
        return self.read("sets")

    @property
    def filtered(self) -> Filtered:
        """What the filter keeps and rejects; without a filter the pairs as they are."""
        return self.read("filter")

    @property
    def further(self) -> list[Sets] | None:
        """The pairs of each generator after the first, for chapters 6 and 7; None if there is only one."""
        return self.read("further")

    @property
    def evaluated(self) -> Evaluated:
        """Distances, similarity and near-copies, by data type."""
        return self.read("evaluate")

    @property
    def tests(self) -> dict[str, TestSet]:
        """The test sets by name."""
        return self.read("tests")

    @property
    def segmented(self) -> Tested:
        """Chapter 6's networks, as far as they are trained."""
        return self.read("segment")

    @property
    def augmented(self) -> Tested:
        """Chapter 7's networks, as far as they are trained."""
        return self.read("augment")

    def paint(self, image: np.ndarray, mask: np.ndarray | None = None, n: int = 1, seed: int = 0, *,
              like: str | None = None, old: np.ndarray | None = None, remove: bool = False,
              keep: np.ndarray | None = None) -> list[Painted]:
        """`n` new lesions, each in a copy of a picture (H, W, C) uint8. See `PaintRequest`; `like` is such as
        "medium,left"."""
        wish = PaintRequest(mask, Like.parse(like) if like is not None else None, old, remove, keep)
        return paint.paint(outlets.lesions(self), self.models, self.params.inpaint, self.params.data, image,
                           wish, n, seed, self.params.device)

    def dataset(self, data_type: str, transform: Transform | None = None,
                names: Collection[str] | None = None) -> Labelled:
        """The pairs of a data type, "Real" or as "20-Styled-Diff", for a training loop: see `Labelled`."""
        return outlets.dataset(self, data_type, transform, names)

    def mixed(self, data_type: str, alpha: float = 0.5, ratio: int = 3, transform: Transform | None = None,
              seed: int = 0, names: Collection[str] | None = None) -> Mixed:
        """Real pairs of which some are replaced by synthetic ones, by the paper's rule: see `Mixed`."""
        return outlets.mixed(self, data_type, alpha, ratio, transform, seed, names)

    def read(self, name: str, generator: int = 0) -> Any:
        """A finished result by its chapter ("train") or its own name ("models"), and, in chapters 2 to 4, by
        its generator. Raises NotMadeError if it is not made."""
        name = standing.chapter(name)
        with standing.readable(self.folder, name):
            return self._result(name, self.workspace.read_only, None, generator)

    def make(self, name: str, again: bool = False, watch: Watcher | None = None) -> Any:
        """Make a chapter's result and whatever it needs, as far as it is not there, and return it.

        Chapters 2 to 4 are made for all generators, and the first one's result is returned. `again` makes
        anew what was changed by hand in this chapter, after setting it aside; `watch` sees models in
        training. If a UserError is raised before anything was made, params.yaml is as before.
        """
        name = standing.chapter(name)
        # A worker does not hold the folder: if it stopped, nobody could go on in its place.
        shared = progress.worker()
        with (lock.claimed(self.folder) if shared else lock.hold(self.folder),
              contextlib.nullcontext() if shared else ownparams.leaving_nothing(self.folder),
              ownparams.kept(self.params, self.given)):
            tracking.check(self.params.tracking)
            self._results.clear()  # grids may hold only what was finished so far
            made = self._result(name, replace(self.workspace, again=again), watch)
            return tracked.scores(self.workspace, name, made)

    def _result(self, name: str, ws: Workspace, watch: Watcher | None, generator: int = 0) -> Any:
        own = generator if name in GENERATED else 0
        place = f"{name} {own}" if own else name
        if place in self._results:
            return self._results[place]
        result = self._steps(ws.generator(own), lambda need: self._result(
            need, replace(ws, again=False), watch, own), watch)[name]()
        if ws.writable or name not in GRIDS:  # a grid that is only read may still grow
            self._results[place] = result
        if ws.writable and name in GENERATED and own == 0:
            for other in range(1, self.params.generators):
                self._result(name, ws, watch, other)
        return result

    def _steps(self, ws: Workspace, get: Callable[[str], Any],
               watch: Watcher | None) -> dict[str, Callable[[], Any]]:
        """The pipeline: how each result follows from earlier ones and from its own parameters."""
        p = self.params
        return {
            "data": lambda: dataset.load(ws, p.data, p.cluster.k),
            "cluster": lambda: cluster.run(ws, get("data"), p.cluster),
            "windows": lambda: windows.training(ws, get("data"), p.data.window, p.data.window_size,
                                                scenes.chosen(p.inpaint, p.data)),
            "train": lambda: train.run(ws, get("data"), get("cluster"), p.train, p.model, p.process, watch,
                                       get("windows") if p.data.window else None, ws.beside(p.generators)),
            "inpaint": lambda: inpaint.run(ws, get("data"), get("cluster"), get("train"), p.inpaint,
                                           p.data.window, p.data),
            "paste": lambda: paste.run(ws, get("data"), p.inpaint, p.data),
            "style": lambda: style.run(ws, get("data"), get("train"), get("inpaint"), p.style, p.inpaint,
                                       p.model, p.data.window, p.data),
            "gan": lambda: gan.run(ws, get("data"), p.gan, p.inpaint, p.data),
            "sets": lambda: collected.run(p, get("data"), get("inpaint"), get("style"), get("gan"),
                                          get("paste")),
            "evaluate": lambda: evaluate.run(ws, get("data"), get("sets").sets, p.evaluate, p.inpaint.dilate,
                                             leaks.held_out(replace(ws, again=False), p, get("data"),
                                                            get("gan")), get("train"), p.data,
                                             scenes.chosen(p.inpaint, p.data)),
            "tests": lambda: leaks.tests(ws, p, get("data"), get("gan")),
            "scorers": lambda: scorers.run(ws, get("data"), p.filter, p.segment),
            "filter": lambda: sieve.run(ws, get("data"), get("sets"), get("scorers"), p.filter,
                                        p.inpaint.dilate, p.evaluate.copy_quantile),
            "further": lambda: [self._result("filter", replace(ws, again=False), watch, number).sets
                                for number in range(1, p.generators)] or None,
            "segment": lambda: segment.run(ws, get("filter").sets, get("tests"), p.segment,
                                           get("further") or ()),
            "augment": lambda: augment.run(ws, get("filter").sets, get("tests"), p.augment, p.segment,
                                           self._generators(ws, get("sets")), get("further") or ()),
        }

    def _generators(self, ws: Workspace, sets: Sets) -> subruns.GeneratorSets:
        """The pairs of the generators that see only a small set, each a run of its own within this one."""
        p = self.params
        small = augment.subsets(p.seed, sets.real.names, p.augment, p.segment, sets.together)
        return subruns.generators(ws, small, self._within, p.train.devices)

    def generators(self) -> subruns.GeneratorSets:
        """The pairs of the generators that see only a small set, as far as they are made."""
        return self._generators(self.workspace.read_only, self.synthetic)

    def _within(self, small: subruns.Subset) -> "Run":
        """The run (chapters 1 to 4 and the filter) that knows only the training pairs of a small set."""
        values = params.merged(params.plain(self.params), augment.own(self.params.augment, small.train))
        return Run(params.validate({**values, "run_dir": str(self.folder / small.folder)}))

    def finished(self, name: str, generator: int = 0) -> Any | None:
        """A chapter's result, as `read`, or None if it is not made, or cannot be."""
        with contextlib.suppress(UserError):
            return self.read(name, generator)
        return None

    def offered(self, generator: int = 0) -> Sets | None:
        """The pairs of a generator that chapters 6 and 7 choose from, or None if they are not made."""
        return getattr(self.finished("filter", generator), "sets", None)

    def status(self) -> pd.DataFrame:
        """A row per chapter: its status ("made", "none", "to make", "stale", "refused"), and the reason."""
        return standing.table(self.params, self.read)[["status", "reason"]]

    def changed_by_hand(self, thorough: bool = False) -> list[str]:
        """A line for each file of the run that is missing or has changed. A file with the recorded size and
        time counts as unchanged, unless `thorough`."""
        return list(stamps.changes(self.folder, thorough))
