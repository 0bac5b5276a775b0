"""`diffusegen new`: look at the data, time the device, and fit a run into the available time."""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config import devices, params
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Cluster
from diffusegen_core.config.text import counted, duration
from diffusegen_core.data import checkup, patients
from diffusegen_core.data.sequences import SEQUENCE
from diffusegen_core.measures import power
from diffusegen_core.newprofile import cautions, firstlook, fitting, grouping, guesses, ladder, lines
from diffusegen_core.newprofile.firstlook import SMALL, Folder
from diffusegen_core.newprofile.fitting import Fit
from diffusegen_core.newprofile.grouping import Grouping
from diffusegen_core.newprofile.guesses import Weights
from diffusegen_core.newprofile.ladder import LADDER, Rung
from diffusegen_core.newprofile.lines import Line, Sections
from diffusegen_core.newprofile.wish import Wish, refuse_there
from diffusegen_core.planning import preflight
from diffusegen_core.store import files

LISTED = 1.0  # seconds from which on a chapter's time is listed
GIVEN = "as given by -p"
UPRIGHT = 20.0  # degrees by which lesions in grey images may be turned
# Guidance with which lesions in grey images stand out from their surroundings about as much as real ones; 2
# exaggerates them: benchmarks/README.md, "Guidance in grey images".
GREY_GUIDANCE = 1.25
BESIDE_GUIDANCE = 1.0  # the same where other classes stay as they are, and guidance is of the lesion alone


@dataclass(frozen=True)
class New:
    """A parameter file before it is written."""

    file: Path
    text: str
    data: Folder
    best: Fit
    params: Params
    limits: list[str]
    """What the run will not be able to tell, a sentence each."""

    def write(self) -> None:
        """Write the file, never over an existing one."""
        refuse_there(self.file)
        files.write_text(self.file, self.text)


def make(wish: Wish) -> New:
    """Choose the parameters. UserError where the data have problems, or the file or its run already exists.

    The file is not written yet; the device is probed for some seconds for each size of run.
    """
    file = params.resolve(wish.out)
    refuse_there(file)
    devices.device(wish.device)
    globs = {name: glob for name, glob in (("images", wish.images), ("masks", wish.masks)) if glob}
    changes = wish.changes or {}
    seed = params.validate({"seed": changes["seed"]} if "seed" in changes else {}).seed
    data = firstlook.look(params.resolve(wish.source), globs, wish.patients, changes.get("data", {}), seed)
    decoder = LADDER[0].decoder
    network = guesses.available(wish.weights, decoder, wish.input_range)
    known = {name: line.value for name, line in network.sections["cluster"].items()}
    size, k = changes.get("data", {}).get("image_size"), changes.get("cluster", {}).get("k")

    @cache
    def groups(side: int) -> Grouping:
        if isinstance(k, int) and k > 0:
            return Grouping(k, max(1, data.pairs // (2 * k)), GIVEN)
        if not network.known:
            return grouping.by_number(data.pairs)
        settings = data.settings.model_copy(update={"image_size": size or side})
        return grouping.by_looks(settings, data.seen.report, {*data.held, *data.left_out(side)},
                                 Cluster(**known), seed)

    best = fitting.fit(_rungs(data), 60 * wish.minutes,
                       lambda rung: _sections(wish, data, network, groups(rung.side), rung),
                       partial(_validated, file), lambda rung: ladder.PASSES * groups(rung.side).smallest)
    name = params.resolve(wish.source).name
    train, test = data.kept(best.rung.side)
    head = (f"{train} pairs of {name}, and {test} to test on, in {wish.minutes:g} minutes on "
            f"{best.plan.device}: written by `diffusegen new`, which looked at the data and timed the "
            f"device. The plan takes {duration(fitting.seconds(best.plan))}, and notebooks and the book "
            f"about {duration(fitting.BESIDE)} more. Every value may be changed; params/smoke.yaml "
            "lists them all.")
    p = _validated(file, best.chosen)
    if wrong := preflight.problems(p):
        raise UserError("\n".join(wrong))
    return New(file, lines.text(head, best.chosen), data, best, p,
               list(cautions.cautions(p, data, best, wish.minutes, network.known)))


def _rungs(data: Folder) -> list[Rung]:
    """The sizes of run whose images are no larger than the smallest of the data; at least one size."""
    native = min(max(size) for size in data.seen.seen.sizes)
    return [rung for rung in LADDER if rung.side <= native] or list(LADDER[:1])


def _validated(file: Path, chosen: Sections) -> Params:
    return params.validate({"profile": file.stem, **lines.values(chosen)})


def _sections(wish: Wish, data: Folder, network: Weights, groups: Grouping, rung: Rung) -> Sections:
    pairs, test = data.kept(rung.side)
    if size := data.settings.window_size:  # the models' own: attention stays at the same level
        rung = replace(rung, attention=max(1, size * rung.attention // rung.side))
    rest = ladder.sections(rung, pairs, test, groups.k, min(groups.smallest, pairs))
    scan = [k for k in range(2, 9) if k < pairs // 2] or [2]
    cluster = {"k": Line(groups.k, groups.reason), "scan": Line(scan)}
    merged: Sections = {"": {"device": Line(wish.device), **rest.pop("")}, "data": _data_lines(data, rung),
                        "cluster": {**cluster, **network.sections["cluster"]}, **rest}
    if data.settings.channels == 1:
        is_beside = bool((wish.changes or {}).get("inpaint", {}).get("classes"))
        guidance = (Line(BESIDE_GUIDANCE, "above 1, lesions beside classes that stay came out too dark")
                    if is_beside else
                    Line(GREY_GUIDANCE, "at 2, lesions in grey images came out much darker than real ones"))
        merged["inpaint"] = {**rest["inpaint"], "guidance_scale": guidance, "turn": Line(
            UPRIGHT, "degrees: grey images, as of ultrasound or CT, usually have an up and a down; 180: any")}
        merged["style"] = {**rest["style"], "guidance_scale": Line(guidance.value, "as for painting")}
    for section in ("style", "evaluate", "segment"):
        merged[section] = {**merged[section], **network.sections[section]}
    return _together(lines.changed(merged, wish.changes or {}, GIVEN))


def _together(chosen: Sections) -> Sections:
    """The sections, with one network for all clusters where that was measured to be better.

    A single network keeps only one worker busy, so this is done only where there are several generators.
    """
    k, generators, side = (chosen[section][name].value for section, name in (
        ("cluster", "k"), ("", "generators"), ("data", "image_size")))
    train = chosen["train"]
    if k < 2 or generators < 2 or side != ladder.MEASURED or {"one_model", "base_images"} & train.keys():
        return chosen
    why = "one network that is told the cluster: for equal work it was better than one per cluster"
    return {**chosen, "train": {**train, "one_model": Line(True, why)}}


def _data_lines(data: Folder, rung: Rung) -> dict[str, Line]:
    s, seen, (train, test) = data.settings, data.seen.seen, data.kept(rung.side)
    slim = sum(count for one, count in seen.sizes.items() if max(one) > checkup.STRETCHED * min(one))
    told = {"source": Line(s.source, f"{data.seen.report.layout}: {len(data.seen.report.pairs)} pairs")}
    if s.images:
        told |= {"images": Line(s.images), "masks": Line(s.masks)}
    told |= {
        "count": Line(None, "all pairs that are not held out"),
        "image_size": Line(rung.side, f"{rung.origin}: time grows with its square or faster"),
        "fit": Line(s.fit, f"{slim} images are clearly not square" if slim else "all are square, or nearly"),
        "channels": Line(s.channels, "all images are grey" if s.channels == 1 else "the images have colours")}
    if s.labels:
        told["labels"] = Line(s.labels, "the values of the masks: give the classes their names here")
    called = {"object": Line(s.object_name, "what the masks mark, as pages call it")}
    return told | _small_lines(data, rung.side) | called | {
        "holdout": Line(s.holdout, f"{test} of {train + test} pairs, which nothing is trained on or painted "
                                   "from: they test the networks, and a verdict needs "
                                   f"{power.LEAST_IMAGES}"),
        "patients": Line(s.patients, _patients_reason(data))}


def _small_lines(data: Folder, side: int) -> dict[str, Line]:
    if data.settings.min_area is not None or data.settings.on_bad == "skip":
        return {"min_area": Line(data.settings.min_area, GIVEN), "on_bad": Line(data.settings.on_bad, GIVEN)}
    if not (small := data.small(side)):
        return {"min_area": Line(None, f"no lesion is below {SMALL} pixels at this size")}
    if not data.left_out(side):
        return {"min_area": Line(None, f"{counted(len(small), 'pair')} with a {data.small_ones(side)} below "
                                       f"{SMALL} pixels at this size, too many to leave out: trained on, and "
                                       f"painted as small; {firstlook.least_area(side)} with on_bad: "
                                       "skip would leave them out")}
    why = (f"{SMALL} pixels at this size: {counted(len(small), 'pair')} with a smaller "
           f"{data.small_ones(side)}, which networks hardly learn")
    return {"min_area": Line(firstlook.least_area(side), why),
            "on_bad": Line("skip", "leaves these out, and lists them in data/left_out.csv")}


def _patients_reason(data: Folder) -> str:
    if not data.patients:
        return ("the names do not identify patients: if some have several images, set a rule, or test images "
                "will be of patients that were trained on; if each image is of a different one, `each`")
    by = ("guessed from the images' names" if data.guessed else "by the layout" if data.kind == SEQUENCE else
          "as given")
    return f"{by}: {patients.described(data.patients, data.kind)}. Check this"


def text(new: New) -> str:
    """What was found, chosen and planned, and what the run will not tell, as text for a terminal."""
    best, p = new.best, new.params
    rows = [f"{verdict:5} {subject:12} {words}" for verdict, subject, words in new.data.lines(best.rung.side)]
    each = best.plan.chapters["seconds"]
    listed = each[each >= LISTED]
    busy = " (other programs are computing here)" if best.plan.busy else ""
    train, test = new.data.kept(best.rung.side)
    return "\n".join([
        "What was found:", *map(printable, rows), "",
        f"The run: images of {best.rung.side} px a side; {train} pairs to train on and "
        f"{test} to test; {p.train.images} images in training per "
        f"{'cluster' if p.train.one_model else 'model'}, "
        f"{counted(p.generators, 'generator')}; sets of "
        f"{', '.join(map(str, p.augment.sizes or []))} real pairs; {counted(p.augment.seeds, 'repetition')}.",
        f"Time, on {best.plan.device}: {duration(best.seconds)}{busy}, of which "
        f"{', '.join(f'{NUMBERS[name]} {name} {duration(value)}' for name, value in listed.items())}. "
        "Each kind of work was timed for a second or two, without --workers: programs that compute beside "
        "the run make it longer.",
        *([best.larger] if best.larger else []), "",
        "Limits of this run:", *(f"- {one}" for one in new.limits)])
