"""`diffusegen new`: look at the data, time the device, and fit a run into the time that there is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusegen_core.config import devices, params
from diffusegen_core.config.data import Data
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Cluster
from diffusegen_core.config.text import duration
from diffusegen_core.data import checkup, patients
from diffusegen_core.data.checkup import Checkup
from diffusegen_core.measures import power
from diffusegen_core.newprofile import grouping, guesses, ladder, lines
from diffusegen_core.newprofile.grouping import Grouping
from diffusegen_core.newprofile.guesses import Weights
from diffusegen_core.newprofile.ladder import LADDER, Rung
from diffusegen_core.newprofile.lines import Line, Sections
from diffusegen_core.planning import plan, preflight
from diffusegen_core.planning.plan import Plan
from diffusegen_core.store import files, lock

HOLDOUT = 0.2
SMALL = 12  # pixels of a lesion at the run's size, below which it is hardly one
FEW = 0.1  # of the pairs, which may be left out for such lesions
BESIDE = 180.0  # seconds of a run that no plan counts: notebooks' starts, tables, figures, the book
PROBED = 12.0  # seconds of a probe
HOPELESS = 3.0  # times the time that there is; a larger run is not probed
GIVEN = "as given by -p"


@dataclass(frozen=True)
class Wish:
    """What a user asks for."""

    source: Path
    minutes: float = 60.0
    device: str = "auto"
    out: Path = Path("params/mine.yaml")
    images: str | None = None
    masks: str | None = None
    patients: str | None = None
    weights: str | None = None
    changes: Mapping[str, Any] | None = None
    """Other parameters, in sections."""


@dataclass(frozen=True)
class Folder:
    """The folder as it was looked at."""

    settings: Data
    seen: Checkup
    held: list[str]
    pairs: int
    """That are not held out."""


@dataclass(frozen=True)
class New:
    """A parameter file before it is written."""

    file: Path
    text: str
    seen: Checkup
    plan: Plan
    unpromised: list[str]
    """What the run will not be able to tell, a sentence each."""

    def write(self) -> None:
        """Write the file; never over another."""
        _refuse_there(self.file)
        files.write_text(self.file, self.text)


def make(wish: Wish) -> New:
    """Choose the parameters. UserError where the data have problems, or the file or its run is there already.

    Nothing is written; the device computes for some seconds a size of run.
    """
    file = params.resolve(wish.out)
    _refuse_there(file)
    devices.device(wish.device)
    data = _looked(wish)
    decoder = LADDER[0].decoder
    network = guesses.available(wish.weights, decoder)
    known = {name: line.value for name, line in network.sections["cluster"].items()}
    groups = (grouping.by_looks(data.settings, data.seen.report, data.held, Cluster(**known))
              if network.known else grouping.by_number(data.pairs))
    rung, chosen, planned = _fitting(wish, data, network, groups, file)
    name = params.resolve(wish.source).name
    head = (f"{data.pairs} pairs of {name}, in {wish.minutes:g} minutes on {planned.device}: written by "
            "`diffusegen new`, which looked at the data and timed the device. The plan takes "
            f"{duration(_seconds(planned))}, and notebooks and the book about {duration(BESIDE)} beside it. "
            "Every value may be changed; params/smoke.yaml lists them all.")
    text = lines.text(head, chosen)
    p = _validated(chosen, file)
    if wrong := preflight.problems(p):
        raise UserError("\n".join(wrong))
    untold = list(_unpromised(p, data, planned, wish.minutes, rung, network))
    return New(file, text, data.seen, planned, untold)


def _refuse_there(file: Path) -> None:
    if file.exists():
        raise UserError(f"{file} is there already, and nothing is written over it. Name another by --out.")
    if lock.is_run(folder := params.resolve(f"runs/{file.stem}")):
        raise UserError(f"{folder} is a run already, of the name {file.stem}. Name another file by --out.")


def _looked(wish: Wish) -> Folder:
    """Look twice where the first look suggests other channels or labels than the defaults."""
    given = dict((wish.changes or {}).get("data", {}))
    source = params.resolve(wish.source)
    globs = {name: glob for name, glob in (("images", wish.images), ("masks", wish.masks)) if glob}
    base = {"source": str(source), "count": None, "object": "lesion", "image_size": 64, "holdout": HOLDOUT,
            **globs, **({"patients": wish.patients} if wish.patients else {}), **given}
    settings = params.typed(Data, base, "Parameters: data")
    seen = checkup.checkup(source, None, settings)
    better: dict[str, Any] = {}
    if "channels" not in given and seen.seen.images and seen.seen.colourless:
        better["channels"] = 1
    if "labels" not in given and (told := guesses.labels(seen.seen, seen.report)):
        better["labels"] = told
    if (better | given).get("labels") and "object" not in given:
        del base["object"]  # the classes have names
    if better:
        settings = params.typed(Data, {**base, **better}, "Parameters: data")
        seen = checkup.checkup(source, None, settings)
    if seen.report.problems and settings.on_bad == "refuse":
        raise UserError(f"{seen.report.brief()}\nMend the folder, or leave these out by -p data.on_bad skip.")
    if len(seen.report.pairs) < 4:
        raise UserError(f"{source} holds {len(seen.report.pairs)} usable pairs, and a run takes 4 at least.")
    if settings.patients is None and "patients" not in given and (told_by := guesses.patients(seen.report)):
        settings = settings.model_copy(update={"patients": told_by})
    _, held = patients.split(seen.report, settings, 0)
    return Folder(settings, seen, held, len(seen.report.pairs) - len(held))


def _fitting(wish: Wish, data: Folder, network: Weights, groups: Grouping,
             file: Path) -> tuple[Rung, Sections, Plan]:
    """The largest size of run whose planned time is within the time, and its plan; else the smallest."""
    native = min(max(size) for size in data.seen.seen.sizes)
    fitting: tuple[Rung, Sections, Plan] | None = None
    for rung in [rung for rung in LADDER if rung.side <= native] or LADDER[:1]:
        chosen = _sections(wish, data, network, groups, rung)
        p = _validated(chosen, file)
        if fitting and _foreseen(fitting[2], plan.make(p, 0)) > HOPELESS * 60 * wish.minutes:
            break
        planned = plan.make(p, PROBED)
        if fitting and not _seconds(planned) + BESIDE <= 60 * wish.minutes:
            break
        fitting = rung, chosen, planned
    assert fitting is not None, "there is always a smallest"
    return fitting


def _foreseen(probed: Plan, other: Plan) -> float:
    """Seconds of another plan at the rates of one that was probed."""
    assert probed.rates is not None, "it was probed"
    rates = probed.rates.set_index("kind")["rate"]
    return float((other.table["flop"] / other.table["kind"].map(rates)).sum())


def _seconds(planned: Plan) -> float:
    """Of all work; nan where memory did not suffice for some of it."""
    return float(planned.table["seconds"].sum(skipna=False))


def _validated(chosen: Sections, file: Path) -> Params:
    return params.validate({"profile": file.stem, **lines.values(chosen)})


def _sections(wish: Wish, data: Folder, network: Weights, groups: Grouping, rung: Rung) -> Sections:
    rest = ladder.sections(rung, data.pairs, len(data.held), groups.k, groups.smallest)
    scan = [k for k in range(2, 9) if k < data.pairs // 2] or [2]
    cluster = {"k": Line(groups.k, groups.reason), "scan": Line(scan)}
    merged: Sections = {"": {"device": Line(wish.device)}, "data": _data_lines(data, rung),
                        "cluster": {**cluster, **network.sections["cluster"]}, **rest}
    for section in ("style", "evaluate", "segment"):
        merged[section] = {**rest[section], **network.sections[section]}
    return lines.changed(merged, wish.changes or {}, GIVEN)


def _data_lines(data: Folder, rung: Rung) -> dict[str, Line]:
    s, seen = data.settings, data.seen.seen
    slim = sum(count for one, count in seen.sizes.items() if max(one) > checkup.STRETCHED * min(one))
    told = {"source": Line(s.source, f"{data.seen.report.layout}: {len(data.seen.report.pairs)} pairs")}
    if s.images:
        told |= {"images": Line(s.images), "masks": Line(s.masks)}
    told |= {
        "count": Line(None, "all pairs that are not held out"),
        "image_size": Line(rung.side, f"as in {rung.like}: time grows with its square and more"),
        "fit": Line(s.fit, f"{slim} images are no squares" if slim else "all images are about square"),
        "channels": Line(s.channels, "all images are grey" if s.channels == 1 else "there are colours")}
    if s.labels:
        told["labels"] = Line(s.labels, "the values of the masks: give the classes their names here")
    called = {"object": Line(s.object, "what the masks mark, as pages call it")} if not s.labels else {}
    return told | _small_lines(data, rung.side) | called | {
        "holdout": Line(s.holdout, f"{len(data.held)} of {len(data.seen.report.pairs)} pairs, which nothing "
                                   "is trained on or painted from: they test the networks"),
        "patients": Line(s.patients, _patients_reason(data))}


def _small_lines(data: Folder, side: int) -> dict[str, Line]:
    """Leave out the pairs whose lesions are no lesions at the run's size, if they are few."""
    small = {name for area, name in data.seen.seen.areas if area * side**2 < SMALL}
    if data.settings.min_area is not None or data.settings.on_bad == "skip":
        return {"min_area": Line(data.settings.min_area, GIVEN), "on_bad": Line(data.settings.on_bad, GIVEN)}
    if not small:
        return {"min_area": Line(None, f"no lesion is below {SMALL} pixels at this size")}
    if len(small) > FEW * len(data.seen.report.pairs):
        return {"min_area": Line(None, f"{len(small)} pairs have a lesion below {SMALL} pixels at this size, "
                                       "too many to leave out")}
    why = f"{SMALL} pixels at this size: {len(small)} pairs have a smaller lesion, which no network learns"
    return {"min_area": Line(round(SMALL / side**2, 6), why),
            "on_bad": Line("skip", "so that these are left out, and listed in data/left_out.csv")}


def _patients_reason(data: Folder) -> str:
    told, _ = patients.split(data.seen.report, data.settings, 0)
    if not told:
        return ("the names do not tell patients: if some have several images, say how, or test images will "
                "be of patients that were trained on")
    return f"{len(set(told.values()))} patients by the images' names: please look whether that is right"


def _unpromised(p: Params, data: Folder, planned: Plan, minutes: float, rung: Rung,
                network: Weights) -> Iterator[str]:
    if _seconds(planned) + BESIDE > 60 * minutes:
        yield (f"To be done in {minutes:g} minutes: the smallest run is planned to take "
               f"{duration(_seconds(planned) + BESIDE)}.")
    if planned.busy:
        yield "A time: others compute on this machine."
    images, seeds = len(data.held), min(p.segment.seeds, p.augment.seeds)
    if not images:
        yield "Anything about images that no part has seen: no pairs are held out."
    elif images < power.LEAST_IMAGES or seeds < power.LEAST_SEEDS:
        yield (f"A verdict: it needs {power.LEAST_IMAGES} held-out images and {power.LEAST_SEEDS} seeds, and "
               f"there are {images} and {seeds}.")
    if images:
        yield (f"To tell gains in Dice below about {power.visible(seeds, images):.2f} in chapters 6 and 7, "
               f"with {images} test images and {seeds} seed{'s' if seeds > 1 else ''}.")
    if not network.known:
        yield "Results as with pretrained weights: none can be had here, and random ones stand in for them."
    if rung.side < 64:
        yield (f"Pictures that look real: {rung.side} pixels a side show that everything works, and little "
               "more.")
    if data.settings.patients is None:
        yield "That test images are of other patients: the names do not tell, and data.patients is null."
    small = {name for area, name in data.seen.seen.areas if area * rung.side**2 < SMALL}
    if p.data.min_area is None and small:
        yield (f"To learn the smallest lesions: {len(small)} pairs have one below {SMALL} pixels at "
               f"{rung.side} px a side. -p data.window 2 -p data.window_size 32 lets models look closer.")


def text(new: New) -> str:
    """What was seen, chosen, planned, and what would not be promised, for a terminal."""
    rows = [f"{verdict:5} {subject:12} {words}" for verdict, subject, words in new.seen.lines]
    return "\n".join(["Looked at:", *map(printable, rows), "", new.plan.text, "",
                      "What this run would not promise:", *(f"- {one}" for one in new.unpromised)])
