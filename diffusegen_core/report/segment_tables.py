"""Tables of chapters 6 and 7: this run's networks, test set by test set, beside the paper's."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import zip_longest

import pandas as pd

from diffusegen_core.chapters import gan
from diffusegen_core.config.params import Params
from diffusegen_core.config.text import counted
from diffusegen_core.data import related
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.sequences import PATIENT, Grouped
from diffusegen_core.data.types import GAN, REAL, DataType
from diffusegen_core.measures import intervals
from diffusegen_core.report import cost, papers, published
from diffusegen_core.report.comparisons import PAPERS_OWN, PRINTED, SMALL_SETS, TRANSFERS
from diffusegen_core.report.limits import POLYP
from diffusegen_core.report.naming import captioned
from diffusegen_core.report.tables import Table, escaped, show
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trials
from diffusegen_core.segmentation.experiments import OK, failed
from diffusegen_core.segmentation.trials import Tested

WORDS = {"dice": "Dice", "iou": "IoU"}
PAPER_TESTS = [PAPERS_OWN, *TRANSFERS]
FEWER = "†"  # marks a value of fewer seeds than were asked for


def tests(run: Run, result: Tested) -> Table:
    """The test sets, and why one is absent; absent transfer sets are listed only for data of polyps."""
    polyps = run.params.data.object_name == POLYP
    frame = pd.DataFrame([{"test set": test.name, "images": len(test.pairs) if test.pairs else 0,
                           "patients": _patients(run, test.groups, test.name) if test.pairs else "",
                           "note": test.note} for test in result.tests
                          if polyps or test.pairs or test.name not in TRANSFERS])
    own: Pairs | None = run.finished("data")
    trained = "" if own is None else (
        f" Trained on: the run's {counted(len(own), 'pair')}, or what is made from them; patients: "
        f"{_patients(run, related.of_pairs(own))}.")
    return show(frame, "segment-tests", "The images that the networks of this run are tested on; none of "
                "them is a training image, even re-encoded, resized, made lighter or darker, or mirrored."
                f"{trained}")


def _patients(run: Run, groups: Grouped | None, test_set: str = "") -> str:
    """The number of patients that images are of, as far as it is known: "12", "unknown", "unknown, of 29
    sequences"; "none" for phantoms."""
    if run.params.data.drawn and test_set not in TRANSFERS:
        return "none"
    if groups is None:
        return "unknown"
    many = counted(groups.count, groups.kind)
    return str(groups.count) if groups.kind == PATIENT else f"unknown, of {many}"


def alone(run: Run, result: Tested, measure: str) -> Table:
    """Table 2: trained on synthetic data alone."""
    p = run.params
    ours = _ours(result, ["data_type", "samples"], measure, p, p.segment.seeds)
    ours["key"] = ours["label"] = [_numbered(name, n) for name, n in zip(ours["data_type"], ours["samples"],
                                                                        strict=True)]
    paper, where = published.table("2"), "Table 2"
    if not papers.differences(p):
        paper = of_its_clusters(published.by_clusters("2"), ours["data_type"])
        where = "Tables 2, B3 and B4"
    return _beside(p, result, ours, paper.assign(key=paper["data_type"]), measure, f"segment-{measure}",
                   (f"Trained on one data type alone: {captioned(p, _word(measure))}, computed in this run, "
                    f"with 95 % intervals.{whole(result)} The best epoch is chosen on synthetic pairs for "
                    f"networks trained on them, on real pairs for Real. {effort(p)} {weights(result)}"
                    f"{unknown(run)}"), where)


def by_clusters(run: Run, result: Tested, measure: str) -> Table:
    """Tables B3 and B4: by cluster count, inpainted and styled."""
    p = run.params
    ours = _ours(result, ["data_type", "samples"], measure, p, p.segment.seeds)
    numbered = ours["data_type"].map(lambda name: DataType.parse(name).models.isdigit())
    ours = ours[numbered.astype(bool)].copy()  # cast, as an empty column has no boolean type
    ours["key"] = ours["label"] = [_numbered(name, n) for name, n in zip(ours["data_type"], ours["samples"],
                                                                        strict=True)]
    paper = pd.concat([published.table(name) for name in ("B3", "B4")])
    paper = paper[paper["data_type"] != REAL.name].assign(key=lambda t: t["data_type"])
    return _beside(p, result, ours, paper, measure, f"segment-clusters-{measure}",
                   (f"By cluster count: {captioned(p, _word(measure))}, computed in this run, with 95 % "
                    f"intervals.{whole(result)} {run.models.caveat}"), "Tables B3 and B4", order=_by_kind)


def ratios(result: Tested) -> list[int]:
    """The r's of a run, for `small`; [1] where it has Real alone, which has no r."""
    return sorted(map(int, result.runs["ratio"].dropna().unique())) or [1]


def small(run: Run, result: Tested, measure: str, ratio: int) -> Table:
    """Tables B5 to B7 (B7 is Table 3): small real sets with r synthetic pairs per real one."""
    p = run.params
    ours = _ours(_at(result, ratio), ["size", "data_type"], measure, p, p.augment.seeds)
    ours["key"] = list(zip(ours["size"].astype(int), ours["data_type"], strict=True))
    ours["label"] = ours["data_type"]
    known = SMALL_SETS.get(ratio)
    paper = published.table(known) if known else published.table("B5").head(0)
    paper = paper.assign(key=list(zip(paper["n"], paper["data_type"], strict=True)))
    # Models of a small set are always trained here.
    told = unknown(run) if p.augment.generator_sees == "all" else gan.caveat(run.gan)
    return _beside(p, result, ours, paper, measure, f"augment-{measure}-{ratio}",
                   (f"Small real sets, r = {ratio}: {captioned(p, _word(measure))}, computed in this run, "
                    f"with 95 % intervals.{whole(result)} {_rule(p)} {effort(p)} {weights(result)}{told}"),
                   f"Table {known}", order=_by_size, heading=("set size", "data type"))


def evaluator(result: Tested, by: list[str], name: str) -> Table:
    """The published evaluator's two-channel measures, means over images and seeds."""
    groups = result.images.groupby([*by, "test_set"], sort=False, dropna=False)
    means = groups[["dice_both", "iou_both"]].mean().assign(seeds=groups["seed"].nunique())
    return show(plain(means.reset_index()), name, "What the published evaluator (DivergentNets) prints, over "
                "all channels including the background: computed in this run, means over images and seeds. "
                "Most of a picture is background, so these values are high and close together.",
                {"soft Dice": ".3f", "IoU": ".3f"})


def networks(result: Tested, by: list[str], name: str) -> Table:
    """A row for each kind of network: how many were trained, on what, and how long it took."""
    rows = []
    for key, group in result.runs.groupby(by, sort=False, dropna=False):
        done = group[group["status"] == OK]
        rows.append({**dict(zip(by, key, strict=True)), "networks": len(group),
                     "failed": int(failed(group["status"]).sum()),
                     **({"real pairs": done["real_pairs"].mean(),
                         "synthetic pairs": (done["train_pairs"] - done["real_pairs"]).mean(),
                         "best epoch": done["best_epoch"].mean(), "validation IoU": done["valid_iou"].mean(),
                         "seconds each": done["seconds"].mean()} if len(done) else {})})
    return show(plain(pd.DataFrame(rows)), name, "The networks of this run, U-Net++ with "
                f"{escaped(result.encoder)}: means over seeds. The pairs are those trained on, as they were "
                "drawn; the best epoch was chosen on the rest of each set, in chapter 7 on real pairs only.",
                {"real pairs": ".1f", "synthetic pairs": ".1f", "best epoch": ".0f", "validation IoU": ".3f",
                 "seconds each": ".1f"})


def failures(result: Tested, name: str) -> Table:
    """What failed, and why; one row that says so where nothing did."""
    lacking = result.runs[result.runs["status"] != OK][["name", "status"]]
    nothing = {"name": "none", "status": "every network was trained"}
    frame = lacking if len(lacking) else pd.DataFrame([nothing])
    return show(frame.rename(columns={"name": "network"}), name,
                "Experiments of this run that have no result.")


def costs(run: Run, result: Tested) -> Table:
    """What a usable pair of each data type costs, training included, beside the Dice that it leads to."""
    first = next((test.name for test in result.tests if test.pairs is not None), result.tests[0].name)
    means = trials.summary(result, ["data_type", "samples"], "dice", run.params.segment.resamples,
                           run.params.seed).query("test_set == @first")
    best = means.sort_values("samples").groupby("data_type")["mean"].last()  # of the most samples
    frame = pd.DataFrame([{
        "data type": one.data_type.name, "usable pairs": one.pairs, "training, s": one.learning,
        "making, s": one.making, "s per pair": one.each,
        f"Dice, {first}": best.get(one.data_type.name, float("nan")),
    } for one in cost.spent(run)])
    return show(frame, "segment-costs", "The time that the pairs of each generator took in this run, and "
                "the Dice of the network trained on the most of them. A SinGAN is trained for each source: "
                "its training is part of making. Pasting needs none; a filtered type also needs the filter's "
                "networks.",
                {"training, s": ".0f", "making, s": ".0f", "s per pair": ".1f", f"Dice, {first}": ".3f"})


def _beside(p: Params, result: Tested, ours: pd.DataFrame, paper: pd.DataFrame, measure: str, name: str,
            caption: str, where: str, order: Callable | None = None,
            heading: tuple[str, ...] = ("data type",)) -> Table:
    """A row for each key of `ours`; for each test set the run's interval and, where it compares, the paper's.

    The paper's other rows, or all of them, are folded. `ours` has the columns key, label, test_set and text;
    `where` names the paper's tables.
    """
    reasons = papers.differences(p)
    paper = paper[paper["metric"] == PRINTED.get(measure)]
    mine = {(row.key, row.test_set): row.text for row in ours.itertuples(index=False)}
    theirs = {(row.key, row.test_set): row.printed for row in paper.itertuples(index=False)}
    labels = dict(zip(ours["key"], ours["label"], strict=True))
    cells: dict[str, tuple[dict, str]] = {}  # by column: its texts by key and test set, its test set
    for test, printed in zip_longest(result.tests, PAPER_TESTS[:len(result.tests)]):
        if test.pairs:
            cells[f"{test.name}, this run"] = mine, test.name
            if printed and not reasons:
                cells[f"{printed}, published"] = theirs, printed

    def table(keys: Iterable, columns: dict[str, tuple[dict, str]]) -> pd.DataFrame:
        unique = list(dict.fromkeys(keys))
        rows = []
        for key in sorted(unique, key=order) if order else unique:
            parts = (*key[:-1], labels.get(key, key[-1])) if isinstance(key, tuple) else (
                labels.get(key, key),)
            rows.append({**dict(zip(heading, map(str, parts), strict=True)),
                         **{column: texts.get((key, test), "") for column, (texts, test) in columns.items()}})
        return pd.DataFrame(rows, columns=[*heading, *columns])

    if any(FEWER in text for text in mine.values()):
        caption = f"{caption.strip()} {FEWER} From fewer seeds than asked for, or none: the others failed."
    others = [key for key in paper["key"] if reasons or key not in labels]
    if len(others) < len(paper["key"]):
        caption = f"{caption.strip()} Published: {where} of the paper."
    known = "Published" if reasons else "Published, and not in this run"
    printed_only = {f"{test}, published": (theirs, test) for test in PAPER_TESTS}
    folded = show(table(others, printed_only), f"{name}-published", f"{known}: {where} of the paper, polyp "
                  f"{_word(measure)}. {papers.why_not(reasons)}".strip()) if others else None
    return show(table(ours["key"], cells), name, caption.strip(), folded=folded)


def _word(measure: str) -> str:
    return WORDS.get(measure, measure)


def of_its_clusters(paper: pd.DataFrame, data_types: Iterable[str]) -> pd.DataFrame:
    """The paper's rows, without those of cluster counts that a run does not have: a value of 20 clusters is
    no yardstick for 2."""
    mine = {DataType.parse(name).models for name in data_types}
    counts = paper["data_type"].str.extract(r"^(\d+)-", expand=False)
    return paper[counts.isna() | counts.isin(mine)]


def whole(result: Tested) -> str:
    """A sentence for captions on what the intervals resample, where images are not independent; else ""."""
    kinds = {test.name: test.groups.kind for test in result.tests if test.pairs and test.groups}
    of_sets = " and ".join(f"{kind}s of {escaped(name)}" for name, kind in kinds.items())
    return f" Intervals resample whole {of_sets}, not single images." if kinds else ""


def effort(p: Params) -> str:
    """Whether this run's networks have equal optimizer steps, or equal passes."""
    if p.segment.epoch_images:
        return (f"All networks have equal optimizer steps: {p.segment.epochs} epochs of "
                f"{p.segment.epoch_images} images (segment.epoch_images), however many pairs there are.")
    return (f"All networks have equal passes: {p.segment.epochs} over their own training sets, as in the "
            "paper, so that a larger set gets more optimizer steps (segment.epoch_images is null).")


def weights(result: Tested) -> str:
    """A sentence where generators made the pairs for unequal numbers of seeds; "" elsewhere."""
    counts = Counter(intervals.generators(result.images).values())
    if len(set(counts.values())) < 2:
        return ""
    return ("Where several generators made the pairs, each generator counts equally; elsewhere, each "
            "seed. A gain weighs both sides by generators, so it may differ a little from the difference of "
            "two values here. ")


def unknown(run: Run) -> str:
    """What is not known about the generators' training images; "" where all of it is known."""
    models = run.finished("train")
    return f"{gan.caveat(run.finished('gan'))} {models.caveat if models else ''}".strip()


def _numbered(name: str, n: float) -> str:
    return name if pd.isna(n) else f"{name}-{int(n)}"


def _by_kind(name: str) -> tuple[str, bool, int, int]:
    """The sort key of names such as 20-Styled-Diff-3."""
    data_type, _, samples = name.rpartition("-")
    parsed = DataType.parse(data_type)
    return parsed.kind, parsed.is_filtered, int(samples), int(parsed.models)


def _by_size(key: tuple[int, str]) -> tuple[int, bool, bool, int]:
    """The sort key of a table of small sets: Real first, then the pasted types, the GAN last."""
    size, data_type = key[0], DataType.parse(key[1])
    return (size, data_type != REAL, data_type == GAN,
            int(data_type.models) if data_type.models.isdigit() else 0)


def _rule(p: Params) -> str:
    verb = "is replaced by" if p.augment.rule == "replace" else "is joined by"
    saw = "all pairs of the run" if p.augment.generator_sees == "all" else "the small set's training pairs"
    pasted = ", and pasted objects are taken from these too" if p.inpaint.baselines else ""
    return (f"With probability {p.augment.alpha:g} a real pair {verb} r synthetic ones; their diffusion "
            f"models saw {saw}{pasted}.")


def _ours(result: Tested, by: list[str], measure: str, p: Params, seeds: int) -> pd.DataFrame:
    """A row for each combination of `by` and test set: its interval as `text`, marked if it lacks seeds."""
    means = trials.summary(result, by, measure, p.segment.resamples, p.seed)
    means["text"] = [with_interval(row.mean, row.low, row.high) + (f" {FEWER}" if row.seeds < seeds else "")
                     for row in means.itertuples(index=False)]
    none = result.runs.groupby(by, sort=False, dropna=False).filter(lambda runs: (runs["status"] != OK).all())
    tests = pd.DataFrame({"test_set": [test.name for test in result.tests if test.pairs], "text": FEWER})
    return pd.concat([means, none[by].drop_duplicates().merge(tests, how="cross")])


def _at(result: Tested, ratio: int) -> Tested:
    """The results with this r, and those of Real, which has none."""
    images, networks = (frame[frame["ratio"].isna() | (frame["ratio"] == ratio)]
                        for frame in (result.images, result.runs))
    return replace(result, images=images, runs=networks)


def with_interval(mean: float, low: float, high: float, digits: str = ".3f") -> str:
    """As "0.812 [0.790, 0.833]"; the mean alone without an interval, and nothing without a mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:{digits}}" if pd.isna(low) else f"{mean:{digits}} [{low:{digits}}, {high:{digits}}]"


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Headings in words, and counts that do not apply as empty text."""
    frame = frame.rename(columns={"data_type": "data type", "samples": "N", "size": "set size", "ratio": "r",
                                  "test_set": "test set", "dice_both": "soft Dice", "iou_both": "IoU"})
    return frame.assign(**{name: ["" if pd.isna(v) else str(int(v)) for v in frame[name]]
                           for name in ("N", "set size", "r") if name in frame})
