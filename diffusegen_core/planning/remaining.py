"""Estimate of the time that the rest of a run takes: its counted work, at the pace of the finished parts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.parallel.progress import Level
from diffusegen_core.planning import flops, plan
from diffusegen_core.planning.preflight import PAGES
from diffusegen_core.run import GENERATED, GRIDS, Run
from diffusegen_core.store import files, stamps
from diffusegen_core.store.artifacts import NotMadeError, OutdatedError, key

WORK = "work.json"  # in the run folder: the counted work, as counting takes seconds
COLUMNS = ["chapter", "work", "kind", "items", "flop", "largest"]
# Time per FLOP relative to that of training, by kind of work: from `diffusegen plan params/smoke.yaml` on one
# core of an AMD EPYC; segmentation is the geometric mean of five runs (1.2 to 6.2), judging lies between
# two runs on 18 and 40 pairs with MobileNetV2 (2.6 and 11, beside other work). It scales the pace of the
# run's own finished parts.
RELATIVE = {"features": 2.1, "sampling": 0.95, "training": 1.0, "styling": 1.7, "GAN": 7.8, "judging": 5.0,
            "segmentation": 2.1}
OPENING = 20.0  # approximate seconds of a chapter with nothing to make: imports, tables, figures
LEAST = 0.05  # share of a run's work above which its pace is known, where nothing tells it before
# Features of few pairs take longer to begin than to compute: their pace tells nothing of other chapters.
APART = ("cluster", "evaluate")
ALIKE = ("segment", "augment")  # they train the same networks: the pace of one is that of the other
WHOLE = ("train", *ALIKE)  # chapters whose outer bar is of all their work, unless its title has one of PARTS
PARTS = ("base", "model of all", "Generators", "Features", "details")
LONG = 300.0  # seconds after which a bar is believed however little of its work is done
PRIOR = 0.2  # weight of the pace known before, as a share of the run's work: a small part's own is uncertain


@dataclass(frozen=True)
class Ahead:
    """What is left of a run."""

    work: dict[str, float]
    """The work still to do of each chapter with a page: in seconds by a probe's rates, or in FLOP of
    training."""
    pace: float | None
    """Seconds per such unit, one item after the other: from the finished parts, else 1 by the rates of a
    probe, else None."""
    networks: float | None = None
    """The same of the chapters ALIKE, from finished parts of these; None where there are none."""
    at_once: Mapping[str, float] = field(default_factory=dict)
    """How many times faster the workers together make the work of each chapter than one of them; 1 for
    chapters not named."""

    def pace_of(self, page: str) -> float | None:
        """The pace of a chapter."""
        return self.pace if self.networks is None or page not in ALIKE else self.networks

    def lasting(self, page: str) -> float | None:
        """The seconds that the workers take together for a chapter; None where the pace is unknown."""
        work, pace = self.work.get(page, 0.0), self.pace_of(page)
        return work and (None if pace is None else work * pace / self.at_once.get(page, 1.0))

    @property
    def seconds(self) -> float | None:
        """Seconds of computation left, one item after the other; None where the pace is unknown."""
        each = [(work, self.pace_of(page)) for page, work in self.work.items() if work]
        known = [work * pace for work, pace in each if pace is not None]
        return sum(known) if len(known) == len(each) else None


def known(run: Run) -> pd.DataFrame | None:
    """The run's work from scratch as counted earlier, one row per chapter and kind, columns COLUMNS; None
    where it was not counted. UserError where the number of pairs cannot be known."""
    there = files.read_json(run.folder / WORK)
    return _table(there.get("rows")) if isinstance(there, dict) and there.get("of") == _asked(run) else None


def counted(run: Run, keep: bool = False) -> pd.DataFrame:
    """The same, counted in a few seconds where it is not known. `keep` writes it into the run folder, which
    only the holder of the run may do."""
    table = known(run)
    if table is not None:
        return table
    p, _ = plan.at_hand(run.params)
    table = pd.DataFrame(map(asdict, plan.rows(p, _pairs(run), flops.count(p))),
                         columns=plan.COLUMNS)[COLUMNS]
    if keep:
        files.write_json(run.folder / WORK, {"of": _asked(run), "rows": table.to_dict("split")["data"]})
    return table


def _pairs(run: Run) -> int:
    pairs = run.finished("data")
    return len(pairs) if pairs else plan.pairs(run.params)[0]


def _asked(run: Run) -> str:
    """A hash of what decides a run's work."""
    return key({**params.plain(run.params), "run_dir": None, "tracking": None, "count": _pairs(run)})


def _table(rows: Any) -> pd.DataFrame | None:
    """The rows of a file as a table; None where they are not such rows."""
    try:
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"items": int, "flop": float, "largest": float})
    except (ValueError, TypeError, AssertionError):
        return None
    return table if table["chapter"].isin(list(NUMBERS)).all() else None


def ahead(run: Run, table: pd.DataFrame, rates: Mapping[str, float] | None = None, workers: int = 1) -> Ahead:
    """The work left. The `rates` of a probe, FLOP per second of a worker by kind, give the pace while too
    little is finished. The work is divided among so many `workers`, as far as it consists of several items.
    """
    cost = _costs(rates) if rates else RELATIVE
    weights: dict[str, float] = {}
    at_once = run.params.train.devices if devices.on_cards(run.params.device) else 1
    parts: list[tuple[str, float, float]] = []  # of each row: its result, weight and number of items
    for row in table.itertuples():
        name = _result(row)
        cards = at_once if row.kind == "training" else 1
        weight = row.flop / cards * cost[row.kind]
        parts.append((name, weight, row.flop / row.largest if row.largest else 1.0))
        weights[name] = weights.get(name, 0.0) + weight
    missing = {name: _missing(run, name) for name in weights}
    spent = took(run.folder)
    there = [name for name in weights if missing[name] < 1 and spent.get(name, 0.0) > 0]

    def pace_by(names: Collection[str], before: float | None) -> float | None:
        mine = [name for name in there if name in names]
        done = sum(weights[name] * (1 - missing[name]) for name in mine)
        total = sum(weight for name, weight in weights.items() if name in names)
        return _pace(sum(spent[name] for name in mine), done, total, before, LEAST)

    work: dict[str, float] = {}
    divided: dict[str, float] = {}
    for name, weight, items in parts:
        page, here = PAGES.get(name, name), weight * missing[name]
        work[page] = work.get(page, 0.0) + here
        divided[page] = divided.get(page, 0.0) + here / max(1.0, min(workers, items * missing[name]))
    return Ahead(work, pace_by(set(weights) - {*APART}, 1.0 if rates else None), pace_by(ALIKE, None),
                 {page: work[page] / least for page, least in divided.items() if least})


def _costs(rates: Mapping[str, float]) -> dict[str, float]:
    """Seconds per FLOP by kind of work; for a kind without a rate, estimated from those that have one."""
    each = {kind: 1 / rate for kind, rate in rates.items() if kind in RELATIVE and rate > 0}
    unit = median(seconds / RELATIVE[kind] for kind, seconds in each.items()) if each else 1.0
    return {kind: each.get(kind, unit * relative) for kind, relative in RELATIVE.items()}


def left(rest: Ahead, chosen: Sequence[str], finished: Mapping[str, float], elapsed: float,
         levels: Sequence[Level]) -> float | None:
    """Seconds until the chosen chapters are made; None where the pace is not known yet.

    `rest` is what was left at the start. `finished` has the seconds that chapters took since then; the next
    chosen one has been under way for `elapsed` seconds, and `levels` is its own progress. A bar of all of its
    work is believed the more, the further or the longer it is under way: its first items take longer, or
    run beside something else.
    """
    later = [name for name in chosen if name not in finished]
    if not later:
        return 0.0
    now, told = later[0], levels[0] if levels else None
    whole = told if told and is_whole(now, told) else None
    telling = {name: (max(0.0, seconds - OPENING) * rest.at_once.get(name, 1.0), rest.work[name])
               for name, seconds in finished.items() if rest.work.get(name) and name not in APART}
    begun = whole or (told if rest.pace is None and not telling and now not in APART else None)

    def paces(least: float = LEAST) -> Ahead:
        def pace_by(names: Collection[str], before: float | None) -> float | None:
            spent, done = (sum(one[i] for name, one in telling.items() if name in names) for i in (0, 1))
            total = sum(rest.work.get(name, 0.0) for name in chosen if name in names)
            return _pace(spent, done, total, before, least)
        return replace(rest, pace=pace_by(set(chosen) - {*APART}, rest.pace),
                       networks=pace_by(ALIKE, rest.networks))

    known, bar = paces(), None
    if begun and begun["left"] is not None and begun["elapsed"] > 0:
        spent = begun["elapsed"]
        share = spent / (spent + begun["left"])
        expected = known.lasting(now)
        sure = 1.0 if expected is None else min(1.0, max(share / PRIOR, spent / LONG) ** 2)
        bar = sure * begun["left"] + (1 - sure) * (1 - share) * (expected or 0.0)
        telling[now] = spent * rest.at_once.get(now, 1.0), rest.work.get(now, 0.0) * spent / (spent + bar)
        known = paces(least=0.0)  # a bar tells a time only once it is far enough
    lasting = {name: known.lasting(name) for name in later}
    if any(seconds is None for seconds in lasting.values()):
        return None
    each = {name: OPENING + (seconds or 0.0) for name, seconds in lasting.items()}
    here = each[now] - elapsed
    if told and told["left"] is not None:
        here = max(here, told["left"]) if not whole else told["left"] if bar is None else bar
    return max(0.0, here) + sum(each[name] for name in later[1:])


def is_whole(chapter: str, told: Level) -> bool:
    """Whether a chapter's outermost bar is that of all its work."""
    return chapter in WHOLE and not any(word in told["title"] for word in PARTS)


def _pace(spent: float, done: float, total: float, before: float | None, least: float) -> float | None:
    """Seconds per unit of work, where `done` units of `total` took so many seconds, and `before` is the pace
    that was known or expected; None where neither tells, as `done` is at most the share `least`."""
    if before is None:
        return spent / done if done > least * total else None
    prior = PRIOR * total
    return (spent + prior * before) / (done + prior) if total else before


def _result(row: Any) -> str:
    """The name of the result that a row of the plan belongs to."""
    if row.kind == "GAN":
        return "gan"
    return "scorers" if row.work == "networks of the filter" else str(row.chapter)


def models(p: Params) -> int:
    """How many models chapter 2 trains, over all generators."""
    base = p.train.one_model or p.train.base_images is not None
    return p.generators * (p.cluster.k + (p.train.full_images is not None) + base)


def models_made(run: Run) -> int:
    """How many of these models are finished and in place, whatever their parameters."""
    places = [run.workspace.generator(number).folder for number in range(run.params.generators)]
    return sum(1 for place in places for _ in (place / "train").glob(f"*/{stamps.STAMP}"))


def _missing(run: Run, name: str) -> float:
    """The share of a result that is still to make, 0 to 1."""
    numbers = range(run.params.generators) if name in GENERATED else [0]
    shares = []
    for number in numbers:
        try:
            result = run.read(name, number)
            shares.append(result.unfinished / max(1, len(result.runs)) if name in GRIDS else 0.0)
        except OutdatedError:
            shares.append(1.0)
        except NotMadeError:  # models are finished one by one
            if name == "train":
                return max(0.0, 1 - models_made(run) / models(run.params))
            shares.append(1.0)
        except UserError:
            shares.append(1.0)
    return sum(shares) / len(shares)


def took(folder: Path) -> dict[str, float]:
    """Seconds that the artifacts in place in a run folder took to make, by the folder of their chapter."""
    spent: dict[str, float] = {}
    for place, stamp in stamps.in_place(folder):
        name = stamps.made_by(place.relative_to(folder))
        spent[name] = spent.get(name, 0.0) + float(stamp["seconds"])
    return spent
