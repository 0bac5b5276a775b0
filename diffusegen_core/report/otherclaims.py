"""Verdicts on the claims that compare no segmentation networks: distances, similarity and compute."""

from collections.abc import Iterator
from dataclasses import replace
from math import isnan

import pandas as pd

from diffusegen_core.chapters.distances import MS_SSIM
from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.data.types import GAN, REAL
from diffusegen_core.networks import weights
from diffusegen_core.report import published
from diffusegen_core.report.evaluate_tables import comparable
from diffusegen_core.report.paperclaims import COMPUTE, NEARER, VARIED, Claim
from diffusegen_core.report.rule import LEAST_IMAGES, NOT_MADE, REFUTED, SUPPORTED, UNDECIDED, Verdict
from diffusegen_core.run import Run

WITHIN = 0.05  # of Real's MS-SSIM, as in the paper
REALS = "training images"
TOLD = ("Distances and MS-SSIM are compared at equal numbers, set by set: supported if all sets agree with "
        "the claim, refuted if none does. They have no intervals, because the sets share their sources.")


def of(run: Run) -> Iterator[Verdict]:
    """The verdicts on these claims; where a chapter is not made, one per claim that says to run it."""
    result = run.finished("evaluate")
    if result is None:
        for claim, first, second in ((NEARER, "synthetic images", GAN), (VARIED, "synthetic images", REAL)):
            yield Verdict(claim, f"{first} against {second}", REALS, chapter="evaluate",
                          verdict=NOT_MADE, reason="Run chapter 5.")
    else:
        learned = run.params.evaluate.weights != weights.RANDOM
        yield from nearer(result, learned)
        yield from varied(result)
    yield compute(run)


def nearer(result: Evaluated, learned: bool) -> Iterator[Verdict]:
    """Each painted type's Fréchet distance against the GAN's; `learned`: if weights are not random."""
    metric = result.metrics.frechet
    gan, known = _sets(result, GAN.name, metric), comparable(result, 0)
    for data_type in [one for one in result.types if one.is_painted]:
        mine = _sets(result, data_type.name, metric)
        asked = Verdict(NEARER, f"{data_type} against {GAN}, {metric}", REALS, chapter="evaluate", published=(
            _published(data_type.name, "FID") - _published(GAN.name, "FID") if known else float("nan")))
        differences = (mine["value"] - gan["value"]).dropna()
        asked = replace(asked, difference=differences.mean(), images=_least(mine, gan))
        if not learned and not gan.empty:
            yield replace(asked, reason="The network's weights are random: its distances say nothing.")
        else:
            yield _by_sets(asked, differences < 0, f"The results have no {GAN}." if gan.empty else "")


def varied(result: Evaluated) -> Iterator[Verdict]:
    """How far each synthetic type's MS-SSIM is from that of Real."""
    real, known = _sets(result, REAL.name, MS_SSIM), comparable(result, 2)
    for data_type in [one for one in result.types if one != REAL and not one.is_pasted]:
        mine = _sets(result, data_type.name, MS_SSIM)
        differences = mine["value"] - real["value"].mean()
        asked = Verdict(VARIED, f"{data_type} against {REAL}", REALS, chapter="evaluate", published=(
            _published(data_type.name, MS_SSIM) - _published(REAL.name, MS_SSIM) if known else float("nan")),
            difference=differences.mean(), images=_least(mine, real))
        absent = [one.name for one, sets in ((data_type, mine), (REAL, real)) if sets.empty]
        lacking = f"The results have no {' and no '.join(absent)} to compare." if absent else ""
        yield _by_sets(asked, differences.abs() < WITHIN, lacking)


def compute(run: Run) -> Verdict:
    """The seconds to train the cluster models against those of a SinGAN for each training pair. For a model
    trained on several GPUs, the seconds of all are added up."""
    models, gan = run.finished("train"), run.finished("gan")
    asked = Verdict(COMPUTE, f"models of {run.params.cluster.k} clusters against {GAN}", REALS,
                    chapter="train")
    if models is None:
        return replace(asked, verdict=NOT_MADE, reason="Run chapter 2.")
    used = [*models.models, *([models.base] if models.base else [])]
    seconds, clock = (sum(getattr(model, name) for model in used) for name in ("card_seconds", "seconds"))
    if isnan(seconds):
        return replace(asked, reason="The models were not trained here.")
    if gan is None or not gan.trained:
        return replace(asked, reason=f"The results have no {GAN} that was trained here.")
    sources, pairs = gan.pairs.manifest["source"].nunique(), len(run.pairs)
    if not sources or not seconds:
        return replace(asked, reason=f"It is not known how long the models or the {GAN} took.")
    theirs = gan.seconds / sources * pairs
    together = f" of GPU time, {clock:,.0f} s by the clock" if seconds > clock else ""
    return replace(asked, difference=seconds - theirs, images=pairs, verdict=(
        SUPPORTED if seconds < theirs else REFUTED), reason=(
        f"{len(models.models)} models took {seconds:,.0f} s{together}; a {GAN} for each of the {pairs} pairs "
        f"would take {theirs:,.0f} s, judging by {sources} that were trained, sampling included. Both "
        "were trained for as long as this run's parameters say."))


def of_paper(claim: Claim) -> tuple[int, int]:
    """In how many cells of Table 1 a claim holds, and out of how many."""
    rows = published.table("1")
    values = rows.pivot(index="data_type", columns=["metric", "set"], values="value")
    kinds = [kind for kind in rows["data_type"].unique() if kind != REAL.name]
    if claim == NEARER:
        fid = values["FID"].loc[kinds, ["1", "2", "3"]]
        holds = fid.drop(GAN.name) < fid.loc[GAN.name]
    else:
        similar = values[MS_SSIM]
        holds = (similar.loc[kinds, ["1", "2", "3"]] - similar.loc[REAL.name, "all"]).abs() < WITHIN
    return int(holds.to_numpy().sum()), holds.size


def _by_sets(asked: Verdict, holds: pd.Series, lacking: str) -> Verdict:
    if lacking:
        return replace(asked, difference=float("nan"), images=0, reason=lacking)
    if len(holds) < 2 or asked.images < LEAST_IMAGES:
        return replace(asked, reason=f"Sets: {len(holds)}, of {asked.images} images; at least two "
                                     f"of {LEAST_IMAGES} are needed.")
    verdict = SUPPORTED if holds.all() else UNDECIDED if holds.any() else REFUTED
    return replace(asked, verdict=verdict, reason=f"In {holds.sum()} of {len(holds)} sets.")


def _sets(result: Evaluated, data_type: str, metric: str) -> pd.DataFrame:
    """Value and number of images by set, at equal numbers."""
    rows = result.equal[(result.equal["data type"] == data_type) & (result.equal["metric"] == metric)]
    return rows.set_index("set")[["value", "images"]]


def _least(*sets: pd.DataFrame) -> int:
    return min((int(one["images"].min()) for one in sets if len(one)), default=0)


def _published(data_type: str, metric: str) -> float:
    """The paper's mean over its sets; NaN where it has no such data type, or not at this cluster count."""
    rows = published.by_clusters("1")
    return float(rows.loc[(rows["data_type"] == data_type) & (rows["metric"] == metric), "value"].mean())
