"""Tables of chapter 5: distances at equal numbers and in the paper's sets, the audit, the membership test."""

import pandas as pd

from diffusegen_core.chapters.distances import MS_SSIM
from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.chapters.members import HELD_OUT
from diffusegen_core.chapters.membership import LEAST, LEVELS
from diffusegen_core.config.sections import FULL_SIZE
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import REAL, DataType
from diffusegen_core.measures import manifolds, memory
from diffusegen_core.measures.copies import Thresholds
from diffusegen_core.report import naming, papers, published
from diffusegen_core.report.tables import Table, escaped, number, show

# Formats of a value and of a deviation, for the Fréchet distance, the kernel distance and MS-SSIM.
DIGITS, SPREAD = (".4g", ".3g", ".4f"), (".2g", ".2g", ".4f")
PAPERS = ("FID", "", MS_SSIM)  # what the paper calls the three; it has no kernel distance
LARGER = ("an interval wholly below 0.5 means that the training pairs have the larger errors: they are "
          "harder to denoise than the held-out ones, so the area says nothing about memory")
SHARES = (".3f", ".2g")  # for precision, recall, density and coverage


def equal(result: Evaluated) -> Table:
    """Every measure of every data type at equal numbers, mean and deviation over the sets; held-out Real is
    the floor."""
    values, (frechet, kernel, _) = not_negative(result.equal, result), result.metrics
    formats = dict(zip(result.metrics, zip(DIGITS, SPREAD, strict=True), strict=True))
    formats |= dict.fromkeys(manifolds.NAMES, SHARES)
    shown = [frechet, kernel, *manifolds.NAMES, MS_SSIM]
    if _takes_all(result):  # all sets are of the same images, so distances have no deviation
        values = values[(values["data type"] != HELD_OUT.name) | (values["metric"] == MS_SSIM)
                        | (values["set"] == 1)]
    types = {name: values[values["data type"] == name] for name in (
        HELD_OUT.name, *(one.name for one in result.types)) if name in set(values["data type"])}
    rows = [{"data type": name, **{metric: _mean(mine.loc[mine["metric"] == metric, "value"],
                                                 *formats[metric]) for metric in shown}}
            for name, mine in types.items()]
    small = [escaped(one.name) for one in result.types if one.name not in types]
    lacking = f" Left out, because all their sets are smaller: {', '.join(small)}." if rows and small else ""
    return show(pd.DataFrame(rows, columns=["data type", *shown]), "evaluate-equal",
                f"Data types of this run at equal numbers{_number_of(result)}, against all real training "
                f"images: mean ± SD over sets. Features by {escaped(result.backbone)}. "
                f"{floor(result)}{lacking}")


def floor(result: Evaluated) -> str:
    """What the row of held-out real pairs means, or why there is none, in a sentence or two."""
    test = result.held_out
    if test.pairs is None:
        return f"There is no row of held-out real pairs, as this run holds none out ({escaped(test.note)})."
    return (f"The row {HELD_OUT.name} is what other real images score, {_origin(test)} "
            f"({escaped(test.note)}): no generator can be expected to score less, except that what is "
            "painted into training images keeps their surroundings.")


def _origin(test: TestSet) -> str:
    """Which test set it is: a set drawn from the run's own folder is not named after a published one."""
    return "of the held-out pairs" if test.same_source else f"of the test set {escaped(test.name)}"


def _number_of(result: Evaluated) -> str:
    """How many images of each data type are compared, and why so many, in words."""
    counts = result.equal["images"].unique()
    if not len(counts):
        return ""
    smallest = "the held-out pairs" if _takes_all(result) else "the smallest set"
    return f", {counts[0]} images a set, which is the size of {smallest}"


def _takes_all(result: Evaluated) -> bool:
    """Whether as many images are compared as there are held-out pairs."""
    pairs = result.held_out.pairs
    return pairs is not None and len(pairs) in set(result.equal["images"])


def intrinsic(result: Evaluated, which: int) -> Table:
    """Table 1 for one of the three metrics, 0 to 2: this run's whole sets, beside the paper's where image
    size and weights are the paper's."""
    metric = result.metrics[which]
    known = PAPERS[which] if comparable(result, which) else ""
    values = not_negative(result.values[result.values["metric"] == metric], result)
    paper = published.by_clusters("1").query("metric == @known") if known else published.table("1").head(0)
    clusters = {"", "Full", *(data_type.models for data_type in result.types)}
    paper = paper[paper["data_type"].map(lambda name: DataType.parse(name).models in clusters).astype(bool)]
    sets = sorted(values["set"].unique())
    rows, rows_of = [], list(dict.fromkeys(values["data type"]))
    for kind in rows_of:
        mine = values[values["data type"] == kind]
        rows.append({
            "data type": kind, "images": ", ".join(map(str, mine["images"].unique())),
            **{f"set {n}, this run": _single(mine.loc[mine["set"] == n, "value"]) for n in sets},
            "mean ± SD, this run": _mean(mine["value"], DIGITS[which], SPREAD[which]),
            **({f"{known}, published": _printed(paper, kind)} if known else {})})
    name, caption = (("frechet", f"Fréchet distance to Real, computed in this run: {escaped(metric)}."),
                     ("kernel", f"Kernel distance to Real, computed in this run: {escaped(metric)}."),
                     ("similarity", "MS-SSIM of shuffled pairs with Real, computed in this run."))[which]
    if which == 2:
        window, scale = result.window
        caption += f" Window: {window} pixels{f', each pixel repeated {scale} times' if scale > 1 else ''}."
    if known:
        caption += (" Published: Tables 1 and B2 of the paper, sets 1 to 3, for the cluster count of this "
                    "run where the paper has it, 348 images a set at 256 px.")
    others = paper if known else published.table("1")
    others = others[(others["metric"] == PAPERS[which]) & ~(others["data_type"].isin(rows_of) & bool(known))]
    columns = ["data type", "images", *(f"set {n}, this run" for n in sets), "mean ± SD, this run",
               *([f"{known}, published"] if known else [])]
    return show(pd.DataFrame(rows, columns=columns), f"evaluate-{name}", caption,
                {f"set {n}, this run": DIGITS[which] for n in sets},
                _folded(others, f"evaluate-{name}-published", "Table 1", _not_shown(result, which)))


def _folded(paper: pd.DataFrame, name: str, where: str, reason: str) -> Table | None:
    """The paper's rows that do not stand beside this run's, one per data type; None where there are none."""
    if paper.empty:
        return None
    frame = pd.DataFrame([{"data type": kind, **{f"{metric}, published": _printed(rows, str(kind))
                                                 for metric, rows in own.groupby("metric", sort=False)}}
                          for kind, own in paper.groupby("data_type", sort=False)])
    return show(frame, name, f"Published: {where} of the paper, sets 1 to 3. {reason}".strip())


def comparable(result: Evaluated, which: int) -> bool:
    """Whether the paper has this metric, 0 to 2, at this image size and with these weights."""
    return result.image_size == FULL_SIZE and (which == 2 or (which == 0 and result.fid))


def _not_shown(result: Evaluated, which: int) -> str:
    """Why the paper's values of a metric do not stand beside this run's."""
    return papers.why_not([*([f"{FULL_SIZE} px"] if result.image_size != FULL_SIZE else []),
                           *(["clean-fid's Inception-v3"] if which == 0 and not result.fid else [])])


def by_clusters(result: Evaluated) -> Table:
    """Table B2: this run's values for its cluster count, beside the paper's where they compare."""
    compared = [which for which in (0, 2) if comparable(result, which)]
    paper = published.table("B2")
    types = [data_type for data_type in result.sets if data_type.models.isdigit()]
    rows = []
    for data_type in sorted(types, key=lambda one: (one.is_styled, int(one.models), one.name)):
        name = data_type.name
        mine = not_negative(result.values[result.values["data type"] == name], result)
        rows.append({
            "data type": name,
            **{f"{metric}, this run": _mean(mine.loc[mine["metric"] == metric, "value"], DIGITS[which],
                                            SPREAD[which])
               for which, metric in ((0, result.metrics.frechet), (2, MS_SSIM))},
            **{f"{metric}, published": _printed(paper[paper["metric"] == metric], name)
               for which, metric in ((0, "FID"), (2, MS_SSIM)) if which in compared}})
    caption = "By cluster count: mean and standard deviation over the sets of this run"
    caption += ", beside sets 1 to 3 of the paper's Table B2." if compared else "."
    there = paper["data_type"].isin([one.name for one in types])
    alike = paper["metric"].map(lambda metric: PAPERS.index(metric) in compared).astype(bool)
    columns = ["data type", f"{result.metrics.frechet}, this run", f"{MS_SSIM}, this run",
               *(f"{PAPERS[which]}, published" for which in compared)]
    return show(pd.DataFrame(rows, columns=columns), "evaluate-clusters", caption, folded=_folded(
        paper[~(there & alike)], "evaluate-clusters-published", "Table B2", _not_shown(result, 0)))


def copies(result: Evaluated) -> Table:
    """One row per data type: how many near-copies the audit found, beside what it flags where none can be."""
    frame = result.copies.rename(index={REAL.name: "Real (others)"}, columns={
        "in pixels": "by pixels", "in features": "by features", "share": "flagged",
        "by chance": "by chance", "null": "fillings", "of their source": "of own source",
        "nearest to source": "source nearest"})
    return show(frame, "evaluate-copies", "Near-copies of training images, computed in this run; features by "
                f"{escaped(result.backbone)}. Real images are compared with each other. Fillings: images "
                "with the same regions, filled with objects that no model knows; by chance: the share of "
                "them that is flagged. If they are few, thresholds and shares are rough. "
                f"{_donors(result)} Of own source: near-copies, by pixels, of the image's own source.",
                {"flagged": ".1%", "by chance": ".1%", "source nearest": ".0%"})


def _donors(result: Evaluated) -> str:
    """Where the fillings of the null come from."""
    if result.held_out.pairs is None:
        return ("As this run holds no pairs out, they show objects of other training pairs, each of which is "
                "left out of the comparison.")
    return "They show objects of held-out pairs, blended into the same regions."


def thresholds(result: Evaluated) -> Table:
    """The scores below which an image is a near-copy, by data type."""
    frame = pd.DataFrame.from_dict(result.thresholds, orient="index", columns=list(Thresholds._fields))
    return show(frame.rename_axis("data type"), "evaluate-thresholds",
                f"Scores below which an image is a near-copy: the {result.quantile:.1%} quantile of "
                "fillings that no model knows. Each data type has its own, because its regions differ in "
                "size and place.", dict.fromkeys(Thresholds._fields, ".3f"))


def planted(result: Evaluated) -> Table:
    """What share of planted copies the audit finds, by how they were disguised."""
    shares = result.found
    counts = result.planted.groupby("data type").size() / max(1, len(shares))
    frame = shares.rename(columns={name: f"{name}, of {counts[name]:.0f}" for name in shares.columns})
    return show(frame.rename_axis("planted copy"), "evaluate-planted",
                "Copies of training pictures, planted into the filled regions of this run's images: the "
                "share that the audit finds, in pixels or in features.", dict.fromkeys(frame.columns, ".0%"))


def closest(result: Evaluated) -> Table:
    """The likeliest copies, with what they are likeliest copies of."""
    columns = {"data type": "data type", "name": "image", "nearest": "nearest training image",
               "orientation": "turned", "distance": "distance", "score": "score",
               "feature_score": "score in features", "near_copy": "near-copy"}
    frame = result.closest[list(columns)].rename(columns=columns).replace({"turned": {"": "no"},
                                                                          "near-copy": {"": "no"}})
    return show(frame, "evaluate-closest", "The lowest scores in pixels of this run's synthetic images.",
                dict.fromkeys(("distance", "score", "score in features"), ".3f"))


def membership(result: Evaluated) -> Table:
    """How well the models' errors tell training pairs from held-out ones."""
    recognised = f"recognised at {memory.ALARMS:.0%} false alarms"
    columns = ["models", "training pairs", "held-out pairs", "area under the ROC curve", "95 % interval",
               recognised]
    told = result.membership
    if told is None:
        why = (f"this run holds no pairs out ({result.held_out.note})" if result.held_out.pairs is None else
               f"evaluate.membership is null, or there are fewer than {LEAST} pairs of either kind")
        return show(pd.DataFrame(columns=columns), "evaluate-membership",
                    f"There is no membership test: {escaped(why)}.")
    table = told.table
    frame = table.rename(columns={"area": columns[3], "recognised": recognised})
    frame[columns[4]] = [f"{low:.2f} to {high:.2f}" for low, high in
                         zip(table["low"], table["high"], strict=True)]
    caption = (f"Which pairs the models have seen, judged by their error at {LEVELS} noise levels, computed "
               f"in this run: an area of 0.5 is chance, 1 perfect memory. "
               f"{f'{naming.sentence(LARGER)}. ' if differ(table) else ''}"
               f"{escaped(told.caveat)}")
    return show(frame[columns], "evaluate-membership", caption.strip(), {columns[3]: ".3f",
                                                                         recognised: ".0%"})


def differ(rows: pd.DataFrame) -> bool:
    """Whether, in a table of `Membership`, a whole interval lies below chance: training pairs and held-out
    ones then differ in how hard they are to denoise, which hides whatever the models remember."""
    return bool((rows["high"] < 0.5).any())


def not_negative(values: pd.DataFrame, result: Evaluated) -> pd.DataFrame:
    """Rows of `Evaluated.values` or `equal` to be shown: a Fréchet distance that rounding has put below 0,
    and that of Real from itself, as 0. The kernel distance is unbiased, and may be negative."""
    zero = (values["metric"] == result.metrics.frechet) & (
        (values["value"] < 0) | (values["data type"] == REAL.name))
    return values.assign(value=values["value"].mask(zero, 0.0))


def _single(values: pd.Series) -> float:
    return float(values.iloc[0]) if len(values) else float("nan")


def _mean(values: pd.Series, digits: str, spread: str) -> str:
    """Mean and standard deviation over the sets (their number divides, as in the paper's "65.99 ± 0.37")."""
    if not len(values):
        return ""
    mean = number(values.mean(), digits)
    return f"{mean} ± {number(values.std(ddof=0), spread)}" if len(values) > 1 else mean


def _printed(paper: pd.DataFrame, data_type: str) -> str:
    return ", ".join(paper.loc[paper["data_type"] == data_type, "printed"])
