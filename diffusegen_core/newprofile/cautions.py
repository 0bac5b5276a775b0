"""The limits of a run chosen by `diffusegen new`: what it will not be able to tell, a sentence each."""

from collections.abc import Iterator
from math import isfinite

from diffusegen_core.config.errors import printable, some
from diffusegen_core.config.params import Params, resolve
from diffusegen_core.config.text import counted, duration
from diffusegen_core.data import checkup, layouts, testsets
from diffusegen_core.measures import power
from diffusegen_core.newprofile.firstlook import SMALL, Folder, least_area
from diffusegen_core.newprofile.fitting import GENERATORS, Fit

MEASURED = 0.1  # the largest mean gain in Dice over real pairs of book/results_small.md, rounded


def cautions(p: Params, data: Folder, best: Fit, minutes: float, known: bool) -> Iterator[str]:
    """The limits of a run; `known` is whether its networks are pretrained."""
    side = best.rung.side
    if best.seconds > 60 * minutes:
        yield (f"It will not be done in {minutes:g} minutes: the smallest run is planned to take "
               f"{duration(best.seconds)}.")
    if best.plan.busy:
        yield f"Its time is uncertain. {best.plan.busy}"
    if side < 64:
        yield (f"At {side} pixels a side pictures do not look real: this shows that everything works, and "
               "little more.")
    yield from _of_tests(p, data, best)
    if not known:
        yield ("No pretrained weights are available here, so random ones are used: networks learn less, "
               "and distances say little. --weights FILE names a file of weights, see book/data.md.")
    yield from _of_masks(p, data, side)


def _of_tests(p: Params, data: Folder, best: Fit) -> Iterator[str]:
    images, seeds, side = _tested(p, data), min(p.segment.seeds, p.augment.seeds), best.rung.side
    if not images:
        yield "Nothing can be said about unseen images: no pairs are held out."
        return
    if images < power.LEAST_IMAGES:
        yield (f"There will be no verdict: it needs {power.LEAST_IMAGES} test images, and there are "
               f"{images}. {_more(data.enough(side))}")
    elif few := {name: count for name, count in data.shown(side).items() if count < power.LEAST_IMAGES}:
        yield (f"There will be no verdict on single classes that fewer than {power.LEAST_IMAGES} test images "
               f"show: {checkup.listed(few)}. {_more(data.enough(side, each_class=True))}")
    if seeds < power.LEAST_SEEDS:
        takes = f", and the run takes about {duration(best.repeated)}" if isfinite(best.repeated) else ""
        also = "" if images >= power.LEAST_IMAGES else " with enough test images"
        yield (f"There will be no verdict: it needs {power.LEAST_SEEDS} repetitions, and there is time for "
               f"{seeds}. With -p segment.seeds {power.LEAST_SEEDS} -p augment.seeds {power.LEAST_SEEDS} "
               f"there can be one{also}{takes}.")
    generators = power.generators_of(seeds, p.generators, p.augment.generator_sees)
    verdict = images >= power.LEAST_IMAGES and seeds >= power.LEAST_SEEDS
    several = bool(data.patients) and len({data.patients.get(name) for name in data.held}) < len(data.held)
    if limit := power.limit(seeds, images, generators, data.kind if several else ""):
        expect = (f" No mean gain on the page of small results is above about {MEASURED:g}: expect "
                  '"undecided".'
                  if verdict and power.visible(seeds, images, generators) > MEASURED else "")
        yield limit + expect
    if data.held and not data.patients:
        yield ("Test images may be of patients that were trained on: the names do not identify patients. "
               "Identify them with --patients, or use --patients each if every image is of a different "
               "one. If that is not known, treat all scores as too good.")
    elif data.held and (groups := len({data.patients[name] for name in data.held})) < power.FEW_GROUPS:
        yield f"The test images are of {counted(groups, data.kind)}: intervals for new patients will be wide."
    if p.augment.sizes and (largest := max(p.augment.sizes)) < (train := data.kept(side)[0]):
        yield (f"Synthetic pairs are tried beside {largest} of the {train} pairs to train on, not beside "
               f"all. -p inpaint.sources {train} -p augment.sizes '[{largest}, {train}]' tries both, and "
               "takes longer.")
    if verdict and p.generators < GENERATORS and p.augment.generator_sees != "subset":
        yield ("Verdicts will hold only for the pairs of one training; another training's may differ by more "
               f"than the gain. -p generators {GENERATORS} takes this into account, and up to {GENERATORS} "
               "times as long.")


def _tested(p: Params, data: Folder) -> int:
    """How many images test the networks: those held out, or those of another folder."""
    if data.held:
        return data.kept(p.data.image_size)[1]
    if (folder := testsets.folders(p.segment).get("held_out")) is None:
        return 0
    other = resolve(folder)
    return min(p.segment.test_count, len(layouts.scan(other, layouts.for_folder(p.data, other)).pairs))


def _more(enough: tuple[float, int] | None) -> str:
    """How to get enough test images, in words; `enough` as from `Folder.enough`."""
    test = "on another folder of labelled images: -p segment.held_out DIR -p data.holdout null."
    if enough is None:
        return f"Test {test}"
    share, left = enough
    return (f"`new` with -p data.holdout {share:g}, and another --out, holds out enough and leaves {left} to "
            f"train on; or test {test}")


def _of_masks(p: Params, data: Folder, side: int) -> Iterator[str]:
    if out := sorted(data.left_out(side)):
        yield (f"Left out: {counted(len(out), 'pair')} with a lesion below {SMALL} pixels "
               f"at {side} px a side, which networks hardly learn "
               f"({some([printable(name) for name in out])}).")
    elif p.data.min_area is None and (small := data.small(side)):
        closer = ("data.window, as given, helps" if p.data.window else "-p data.window 2 -p data.window_size "
                  "32 helps")
        total = len(data.seen.report.pairs)
        without = (f" -p data.min_area {least_area(side)} -p data.on_bad skip leaves these out, so that "
                   "no lesion as small is trained on or painted from: "
                   f"{total - len(small)} of {total} pairs are left." if 2 * len(small) <= total else "")
        yield (f"Segmentation networks may miss the smallest lesions: {counted(len(small), 'pair')} "
               f"with a {data.small_ones(side)} below {SMALL} pixels at {side} px a side. They see whole "
               f"pictures, so only larger images change that. {closer} the painting models alone, which then "
               f"look at squares around the lesions.{without}")
    if len(p.data.classes) > 1 and p.inpaint.classes is None:
        yield (f"All {len(p.data.classes)} classes are moved and repainted together. To paint one and "
               f"leave the others as they are: -p inpaint.classes '[{printable(p.data.classes[-1])}]'; "
               "-p inpaint.within CLASS keeps it inside another class.")
