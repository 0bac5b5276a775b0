"""Chapter 5: every data type against Real, the audit of copies, and the paper's tables beside this run's."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from made_up import write_set

from diffusegen_core.chapters import audit, distances, evaluate, gan, members
from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, pairsets, phantom, regions
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.testsets import TestSet
from diffusegen_core.data.types import GAN, PASTE, DataType
from diffusegen_core.measures import manifolds, metrics, planted
from diffusegen_core.report import evaluate_figures, evaluate_tables
from diffusegen_core.store import seeds
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import STAMP
from diffusegen_core.store.workspace import Workspace

SIZE, REAL, SOURCES, SAMPLES = 32, 14, 6, 2
COPY, OF = "phantom_00002_1", 9  # a synthetic pair that holds the mirrored polyp of this training image
STOPPED = "phantom_00001_2"  # failed in chapter 4


def colours(images: np.ndarray, *_: object) -> np.ndarray:
    """Features that cost nothing: the colours of a coarse grid."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 3).flatten(1).numpy() / 50


DIFF, STYLED = DataType.parse("2-Diff"), DataType.parse("2-Styled-Diff")
Made = tuple[str, int, int, np.ndarray | None, np.ndarray | None]  # name, source, sample, image, mask


@dataclass
class Run:
    """Real pairs, and sets of synthetic ones that are made up, so that nothing is trained."""

    p: Params
    ws: Workspace
    real: dataset.Pairs
    sets: dict[DataType, PairSet]

    def write(self, data_type: DataType, pairs: list[Made]) -> None:
        """A set as chapters 3 and 4 leave it. A pair whose image is None failed, and has no row."""
        names = self.real.names
        kept = [(name, source, sample, image, mask) for name, source, sample, image, mask in pairs
                if image is not None and mask is not None]
        self.sets[data_type] = write_set(
            self.ws, data_type, [(name, names[source], sample) for name, source, sample, _, _ in kept],
            lambda name: next((image, mask) for other, _, _, image, mask in kept if other == name))

    def evaluate(self, writable: bool = True, test: TestSet = evaluate.NO_TEST,
                 **settings: object) -> Evaluated:
        return evaluate.run(replace(self.ws, writable=writable), self.real, self.sets,
                            self.p.evaluate.model_copy(update=settings), self.p.inpaint.dilate, test)


def make_run(folder: Path, patch: pytest.MonkeyPatch, settings: dict | None = None) -> Run:
    p = params.validate({"run_dir": str(folder), "device": "cpu", "data": {"count": REAL, "image_size": SIZE},
                         "gan": settings or {"source": None}})
    ws = Workspace(p.folder, p.seed, p.device)
    run = Run(p, ws, dataset.load(ws, p.data), {})
    if made := gan.run(ws, run.real, p.gan, p.inpaint):
        run.sets[GAN] = made.pairs
    pairs: list[Made] = []
    for sample in range(1, SAMPLES + 1):
        for source in range(SOURCES):
            name = f"{run.real.names[source]}_{sample}"
            fresh, mask, _ = phantom.draw(5, 10 * sample + source, SIZE)
            region = regions.dilated(run.real.masks[source][0], p.inpaint.dilate)
            filling = run.real.images[OF][..., ::-1] if name == COPY else fresh
            pairs.append((name, source, sample, np.where(region, filling, run.real.images[source]), mask))
    run.write(DIFF, pairs)
    run.write(STYLED, [(name, source, sample, None if name == STOPPED else image // 2 + 60, mask)
                       for name, source, sample, image, mask in pairs])
    patch.setattr(metrics, "extract", colours)
    return run


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return make_run(tmp_path / "run", monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Evaluated]:
    """A run, and its evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        run = make_run(tmp_path_factory.mktemp("whole") / "run", patch)
        return run, run.evaluate()


# The metrics


def test_every_data_type_has_its_sets_and_metrics(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    frechet, kernel, similarity = result.metrics
    assert result.metrics == ("FD-test_resnet (random weights)", "KD-test_resnet (random weights)", "MS-SSIM")
    counts = result.values.pivot(index="data type", columns=["metric", "set"], values="images")
    assert set(counts.index) == {"Real", "2-Diff", "2-Styled-Diff"}
    assert counts.loc["2-Diff", frechet].dropna().tolist() == [SOURCES, SOURCES]
    assert counts.loc["2-Styled-Diff", kernel].dropna().tolist() == [SOURCES, SOURCES - 1]  # one was stopped
    assert counts.loc["Real", similarity].dropna().tolist() == [REAL] * 3  # shuffled three times
    assert counts.loc["Real", frechet].dropna().tolist() == [REAL]
    backbones = result.values.groupby("metric")["backbone"].unique()
    assert backbones[frechet].tolist() == backbones[kernel].tolist() == ["timm/test_resnet (random weights)"]
    assert backbones[similarity].tolist() == [""]


def test_real_is_at_no_distance_from_itself_and_the_others_are(whole: tuple[Run, Evaluated]) -> None:
    values = whole[1].values
    frechet = values[values["metric"] == whole[1].metrics[0]].set_index("data type")["value"]
    assert abs(frechet["Real"]) < 1e-3
    assert (frechet.drop("Real") > 0.05).all()
    assert frechet["2-Styled-Diff"].min() > frechet["2-Diff"].max()  # its colours were changed
    alike = values.loc[values["metric"] == "MS-SSIM", "value"]
    assert alike.between(0, 0.9).all()


def test_a_frechet_distance_is_never_shown_below_0_and_a_kernel_distance_may_be(
        whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    frechet, kernel, _ = result.metrics
    values = result.values.assign(value=result.values["value"].mask(
        result.values["metric"].isin([frechet, kernel]), -8.928e-5))
    shown = replace(result, values=values, equal=values)
    for table in (evaluate_tables.intrinsic(shown, 0), evaluate_tables.by_clusters(shown),
                  evaluate_tables.equal(shown)):
        assert "-8.9" not in table.frame.drop(columns=kernel, errors="ignore").to_string()
    assert "-8.9" in evaluate_tables.intrinsic(shown, 1).frame.to_string()
    positive = replace(result, values=values.assign(value=2.9e-5))
    real = evaluate_tables.intrinsic(positive, 0).frame.set_index("data type").loc["Real"]
    assert (real["set 1, this run"], real["mean ± SD, this run"]) == ("0", "0"), "the same images"


def test_the_row_of_held_out_pairs_tells_which_pairs_they_are(whole: tuple[Run, Evaluated]) -> None:
    test = TestSet("HyperKvasir", SimpleNamespace(), "20 of 20", same_source=True)
    assert "score, of the held-out pairs (20 of 20):" in evaluate_tables.floor(
        replace(whole[1], held_out=test))
    assert "score, of the test set HyperKvasir (20 of 20):" in evaluate_tables.floor(
        replace(whole[1], held_out=replace(test, same_source=False)))


def test_a_distance_is_the_one_of_its_set(whole: tuple[Run, Evaluated]) -> None:
    run, result = whole
    manifest = pairsets.manifest(run.sets[DIFF].folder)
    second = run.sets[DIFF].load(manifest.loc[manifest["sample"] == 2, "name"].tolist()).images
    expected = metrics.frechet(colours(second), colours(run.real.images))
    values = result.values.set_index(["data type", "set", "metric"])["value"]
    assert values["2-Diff", 2, result.metrics[0]] == pytest.approx(expected, abs=1e-6)


# The audit


def test_the_planted_copy_is_the_closest_pair(whole: tuple[Run, Evaluated]) -> None:
    run, result = whole
    first = result.closest.iloc[0]
    assert (first["name"], first["nearest"]) == (COPY, run.real.names[OF])
    assert (first["orientation"], first["own"]) == ("mirrored", False)
    assert first["score"] < 0.05 * result.thresholds[first["data type"]].pixels
    assert result.closest["name"].is_unique
    assert set(result.audit["data type"]) == {"Real", "2-Diff", "2-Styled-Diff"}
    assert len(result.audit) == REAL + 2 * SOURCES * SAMPLES - 1


def test_pasted_lesions_leave_the_likeliest_copies_their_room(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    pasted = result.audit[result.audit["data type"] == "2-Diff"]
    pasted = pasted.assign(**{"data type": "Paste", "score": 0.0})
    more = replace(result, types=[*result.types, PASTE],
                   audit=pd.concat([result.audit, pasted], ignore_index=True))
    assert more.closest.equals(result.closest)


def test_near_copies_are_counted_beside_what_chance_finds(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    assert result.copies.index.tolist() == ["Real", "2-Diff", "2-Styled-Diff"]
    assert result.copies.loc["Real", "in pixels"] == 1  # the quantile of so few lies just above the lowest
    for data_type in ("2-Diff", "2-Styled-Diff"):
        mine = result.audit[result.audit["data type"] == data_type]
        accused = mine.loc[mine["near_copy"].isin(["pixels", "both"]), "name"]
        assert COPY in set(accused)
        assert len(accused) == result.copies.loc[data_type, "in pixels"]
        assert result.copies.loc[data_type, "null"] == len(mine)
        assert result.copies.loc[data_type, "by chance"] <= 0.5


def test_the_pictures_of_the_closest_are_kept(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    for row, data_type in zip(result.closest.itertuples(), result.closest["data type"], strict=True):
        image, region = result.picture(data_type, row.name)
        written, _ = pairsets.read_pair(result.sets[DataType.parse(data_type)].folder, row.name)
        np.testing.assert_array_equal(image, written)
        assert region.shape == (SIZE, SIZE)
        assert 0 < region.mean() < 1


def test_near_copies_are_kept_by_name_for_a_filter(whole: tuple[Run, Evaluated]) -> None:
    run, result = whole
    kept = pd.read_csv(run.p.folder / "evaluate/copies/copies.csv", keep_default_na=False)
    assert list(kept.columns) == evaluate.COPIES
    assert len(kept) == 2 * SOURCES * SAMPLES - 1
    flagged = kept[kept["near_copy"] != ""]
    assert ("2-Diff", COPY) in set(zip(flagged["data type"], flagged["name"], strict=True))
    assert len(flagged) == result.copies["either"].drop("Real").sum()


def test_the_null_is_filled_where_the_images_are_with_what_is_left_out_of_the_comparison(
        whole: tuple[Run, Evaluated]) -> None:
    run, result = whole
    null = result.null[result.null["data type"] == "2-Diff"].set_index("name")
    audited = result.audit[result.audit["data type"] == "2-Diff"].set_index("name")
    assert set(null.index) == set(audited.index)
    assert not (null["lesion"] == audited["source"].reindex(null.index)).any()
    styled = result.null[result.null["data type"] == "2-Styled-Diff"].set_index("name")
    assert (styled["lesion"] == null["lesion"].reindex(styled.index)).all(), "a pair and its styled one"
    assert (null["score"] > 0.1).all(), "the donor is left out"
    everyone = members.members(subject_of(run))
    query = audit.null_of(subject_of(run), everyone, run.real)
    outside = np.broadcast_to(everyone.regions[:, None] == 0, everyone.images.shape)
    np.testing.assert_array_equal(query.images[outside], everyone.images[outside])
    assert [run.real.names[i] for i in query.own] == query.lesions


def test_a_donor_hangs_on_the_name_and_not_on_the_batch(whole: tuple[Run, Evaluated]) -> None:
    run, subject = whole[0], subject_of(whole[0])
    parts = [audit.null_of(subject, members.members(subject, rows), run.real)
             for rows in (slice(0, 5), slice(5, 12), slice(None))]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts[:2]]), parts[2].images)


def subject_of(run: Run) -> members.Subject:
    return next(one for one in evaluate._subjects(run.ws, run.real, run.sets, run.p.evaluate,
                                                  run.p.inpaint.dilate, None) if one.data_type == DIFF)


def test_planted_copies_are_counted_by_their_disguise(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    assert result.found.index.tolist() == list(planted.DISGUISES)
    assert result.found.columns.tolist() == ["2-Diff", "2-Styled-Diff"]
    assert (result.found.drop(index="zoomed by 10%") >= 0.9).all(axis=None)
    frame = evaluate_tables.planted(result).frame
    assert frame.columns.tolist() == ["planted copy", "2-Diff, of 12", "2-Styled-Diff, of 11"]
    assert frame.set_index("planted copy").loc["exact", "2-Diff, of 12"] == "100%"


# Floors


def held_out(run: Run, count: int) -> TestSet:
    kept = dataset.keep(run.ws, "tests/fresh", dataset.gather(
        [f"fresh_{i}" for i in range(count)], *(np.stack(part) for part in zip(*(
            (image, mask) for image, mask, _ in (phantom.draw(77, i, SIZE) for i in range(count))),
            strict=True))))
    return TestSet("Phantom", kept, f"{count} fresh ones")


def test_all_types_and_held_out_pairs_are_compared_at_equal_numbers(made: Run) -> None:
    result = made.evaluate(test=held_out(made, 4))
    assert set(result.equal["images"]) == {4}
    assert set(result.equal["data type"]) == {"Real", "2-Diff", "2-Styled-Diff", "held-out Real"}
    rows = result.equal[result.equal["data type"] == "held-out Real"]
    assert set(rows["metric"]) == {*result.metrics, *manifolds.NAMES}
    assert rows["set"].unique().tolist() == [1, 2, 3]
    table = evaluate_tables.equal(result)
    assert table.frame["data type"].tolist() == ["held-out Real", "Real", "2-Diff", "2-Styled-Diff"]
    assert "4 images a set, which is the size of the held-out pairs" in table.caption
    cells = table.frame.set_index("data type")
    assert (cells.loc["Real", list(manifolds.NAMES)] == "").all()
    # Each set has all four held-out pairs: the same, which no deviation of 0 is to hide.
    assert {name for name in cells if "±" in cells.loc["held-out Real", name]} == {result.metrics.similarity}
    assert "±" in cells.loc["2-Diff", result.metrics.frechet]
    more = evaluate_tables.equal(made.evaluate(test=held_out(made, 9))).frame.set_index("data type")
    assert "±" in more.loc["held-out Real", result.metrics.frechet]
    null = result.null[result.null["data type"] == "2-Diff"]
    assert null["lesion"].str.startswith("fresh_").all()
    assert "objects of held-out pairs" in evaluate_tables.copies(result).caption


def test_without_held_out_pairs_there_is_no_such_row_and_the_caption_says_why(made: Run) -> None:
    result = made.evaluate(test=TestSet("Held out", None, "not given: segment.held_out"))
    assert set(result.equal["images"]) == {SOURCES - 1}  # of the set from which one was stopped
    table = evaluate_tables.equal(result)
    assert "held-out Real" not in set(table.frame["data type"])
    assert "holds none out (not given: segment.held\\_out)" in table.caption
    assert "5 images a set, which is the size of the smallest set" in table.caption
    assert "other training pairs" in evaluate_tables.copies(result).caption


@pytest.mark.parametrize(("sizes", "held_out", "real", "count"), [
    ([6, 5, 2], 0, 14, 5), ([6, 5], 4, 14, 4), ([6, 5], 2, 14, 5), ([2, 1], 9, 14, 0), ([24, 4], 0, 2, 0),
    ([40, 40, 38, 5], 0, 99, 38), ([40, 40, 20], 0, 99, 20), ([40, 40], 7, 99, 7)])
def test_equal_numbers_are_those_of_the_smallest_set_but_for_a_tiny_one(sizes: list[int], held_out: int,
                                                                         real: int, count: int) -> None:
    assert distances.equal_size(sizes, held_out, real) == count


def test_a_single_real_pair_has_no_equal_numbers_and_no_failure(made: Run) -> None:
    few = dataset.keep(made.ws, "few", made.real.take([0]))
    made = replace(made, real=few, sets={})
    made.write(DIFF, [(f"{few.names[0]}_1", 0, 1, few.images[0], few.masks[0])])
    result = made.evaluate(test=held_out(made, 4))
    assert result.equal.empty
    assert evaluate_tables.equal(result).frame.empty


def test_a_subset_is_drawn_by_the_seed_and_its_values_are_its_own(whole: tuple[Run, Evaluated]) -> None:
    run, result = whole
    values = result.equal.set_index(["data type", "set", "metric"])["value"]
    everyone = members.members(subject_of(run))
    there = np.flatnonzero(everyone.numbers == 2)
    chosen = seeds.rng(run.p.seed, "equal numbers", DIFF, 2).choice(there, SOURCES - 1, replace=False)
    ours, real = colours(everyone.images[np.sort(chosen)]), colours(run.real.images)
    assert values["2-Diff", 2, result.metrics.frechet] == pytest.approx(metrics.frechet(ours, real), abs=1e-6)
    assert values["2-Diff", 2, "coverage"] == manifolds.of(ours, real)["coverage"]


def test_other_held_out_pairs_leave_real_alone(made: Run) -> None:
    made.evaluate(test=held_out(made, 5))
    before = (made.p.folder / "evaluate/Real" / STAMP).stat().st_mtime_ns
    again = made.evaluate(test=TestSet("Held out", None, "not given"))
    assert (made.p.folder / "evaluate/Real" / STAMP).stat().st_mtime_ns == before
    assert set(again.equal["data type"]) == {"Real", "2-Diff", "2-Styled-Diff"}


# Resuming, and what may be missing


def test_a_second_run_reads_what_the_first_one_wrote(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.evaluate()
    monkeypatch.setattr(metrics, "extract", None)
    again = made.evaluate()
    pd.testing.assert_frame_equal(again.values, first.values)
    pd.testing.assert_frame_equal(again.audit, first.audit)
    assert (again.thresholds, again.seconds) == (first.thresholds, first.seconds)


def test_a_read_only_workspace_reads_what_there_is_and_computes_nothing(made: Run) -> None:
    with pytest.raises(NotMadeError):
        made.evaluate(writable=False)
    assert not (made.p.folder / "features").exists()
    first = made.evaluate()
    pd.testing.assert_frame_equal(made.evaluate(writable=False).values, first.values)


def test_only_what_changed_is_judged_again_and_comes_back(made: Run,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.evaluate()
    stamps = {path: path.stat().st_mtime_ns for path in (made.p.folder / "evaluate").rglob(STAMP)}
    before, styled = made.sets[STYLED], made.sets[STYLED].load()
    styled.images[0] = 255 - styled.images[0]
    sources = map(made.real.names.index, before.manifest["source"])
    made.write(STYLED, list(zip(styled.names, sources, before.manifest["sample"], styled.images, styled.masks,
                                strict=True)))
    assert made.sets[STYLED].hashes != before.hashes
    made.evaluate()
    changed = [path.parent.name for path, time in stamps.items() if path.stat().st_mtime_ns != time]
    assert sorted(changed) == ["2-Styled-Diff", "2-Styled-Diff", "copies"]  # with those at equal numbers
    made.sets[STYLED] = before
    monkeypatch.setattr(metrics, "extract", None)
    pd.testing.assert_frame_equal(made.evaluate().values, first.values)


def test_batch_and_quantile_do_not_make_it_judge_again(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.evaluate()
    monkeypatch.setattr(metrics, "extract", None)
    again = made.evaluate(batch_size=3, copy_quantile=0.3)
    assert again.thresholds["2-Diff"].pixels > first.thresholds["2-Diff"].pixels
    assert again.copies.loc["Real", "in pixels"] > 1


def test_small_and_empty_sets_are_told_by_their_absence(made: Run) -> None:
    pairs = [(f"phantom_00000_{s}", 0, s, made.real.images[3], made.real.masks[3]) for s in (1, 2)]
    made.write(DIFF, pairs)
    made.write(STYLED, [(*pair[:3], None, None) for pair in pairs])
    result = made.evaluate()
    assert set(result.values["data type"]) == {"Real"}
    assert result.copies["images"].to_dict() == {"Real": REAL, "2-Diff": 2, "2-Styled-Diff": 0}
    for table in [*(evaluate_tables.intrinsic(result, i) for i in range(3)), *(make(result) for make in (
            evaluate_tables.equal, evaluate_tables.by_clusters, evaluate_tables.copies,
            evaluate_tables.thresholds, evaluate_tables.planted, evaluate_tables.closest,
            evaluate_tables.membership))]:
        assert table._repr_markdown_()
    for figure in (evaluate_figures.copies(made.real, result), evaluate_figures.copy_scores(result)):
        plt.close(figure)


def test_without_any_synthetic_pair_the_page_says_so(made: Run) -> None:
    for data_type in (DIFF, STYLED):
        made.write(data_type, [("phantom_00000_1", 0, 1, None, None)])
    result = made.evaluate()
    assert result.closest.empty
    assert len(evaluate_tables.closest(result).frame) == 0
    figure = evaluate_figures.copies(made.real, result)
    assert "no synthetic image" in figure.axes[0].texts[0].get_text()
    plt.close(figure)


# Another generator


def published(folder: Path) -> dict:
    """The settings for a folder of pairs with SinGAN-Seg's names, of two samples for each of five sources."""
    for source in range(5):
        for sample in range(2):
            image, mask, _ = phantom.draw(8, 100 * source + sample, 48)
            dataset.write_pair(folder, f"chk_id_{source}_gen_scale_0_{sample}", image, mask)
    return {"source": str(folder), "sources": None}


def test_a_gans_pairs_are_sets_by_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", monkeypatch, published(tmp_path / "gan"))
    result = run.evaluate()
    assert [data_type.name for data_type in result.types] == ["Real", "GAN", "2-Diff", "2-Styled-Diff"]
    mine = result.values[result.values["data type"] == "GAN"]
    assert mine.loc[mine["metric"] == result.metrics[0], "images"].tolist() == [5, 5]
    assert mine["set"].tolist() == [1, 1, 1, 2, 2, 2]
    audit = result.audit[result.audit["data type"] == "GAN"]
    assert set(audit["source"]) == {""}
    assert not audit["own"].any()
    assert audit["score"].notna().all()
    assert evaluate_tables.intrinsic(result, 0).frame["data type"].tolist()[:2] == ["Real", "GAN"]
    figure = evaluate_figures.copies(run.real, replace(result, audit=audit))
    plt.close(figure)


def test_the_sources_of_our_own_gan_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", monkeypatch, {"sources": 3, "steps": 2, "channels": 4, "layers": 3,
                                                   "min_side": 16})
    result = run.evaluate()
    audit = result.audit[result.audit["data type"] == "GAN"]
    assert set(audit["source"]) <= set(run.real.names[:3])
    assert len(audit) > 0
    _, region = result.picture("GAN", audit.sort_values("score")["name"].iloc[0])
    assert region.all(), "nothing of a GAN's image is the source's own"


# Tables and figures


def as_the_paper(result: Evaluated) -> Evaluated:
    """The same numbers, as if they were of the paper's image size and of its network."""
    return replace(result, image_size=256, fid=True)


def test_table_1_keeps_this_run_and_the_paper_apart(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    table = evaluate_tables.intrinsic(as_the_paper(result), 0)
    frame, folded = (one.frame.set_index("data type") for one in (table, table.folded))
    assert list(frame.columns) == ["images", "set 1, this run", "set 2, this run", "mean ± SD, this run",
                                   "FID, published"]
    assert frame.loc["2-Diff", "FID, published"] == "", "the paper has no 2 clusters, and 20 are no 2"
    assert not [name for one in (frame, folded) for name in one.index if name.startswith(("10-", "20-"))]
    assert folded.loc["GAN", "FID, published"] == "118.73, 119.45, 116.92"
    assert "GAN" not in frame.index, "this run has none"
    assert frame.loc["Real", "FID, published"] == "-4.412 · 10⁻⁵"
    values = result.values[result.values["data type"] == "2-Diff"].query("metric == @result.metrics[0]")
    assert frame.loc["2-Diff", "set 1, this run"] == format(values["value"].iloc[0], ".4g")
    assert frame.loc["2-Diff", "mean ± SD, this run"].startswith(format(values["value"].mean(), ".4g"))
    assert "Published: Tables 1 and B2" in table.caption
    ten = replace(result, types=[DataType.parse(str(one).replace("2-", "10-")) for one in result.types],
                  values=result.values.replace({"data type": {"2-Diff": "10-Diff"}}))
    ten_frame = evaluate_tables.intrinsic(as_the_paper(ten), 0).frame.set_index("data type")
    assert ten_frame.loc["10-Diff", "FID, published"] == "35.86, 35.82, 35.90"
    assert "FID" not in " ".join(name for name in frame.columns if "this run" in name)


def test_table_1_tells_the_size_of_each_set_where_they_differ(whole: tuple[Run, Evaluated]) -> None:
    values = whole[1].values.copy()
    values.loc[(values["data type"] == "2-Diff") & (values["set"] == 2), "images"] = 77
    frame = evaluate_tables.intrinsic(replace(whole[1], values=values), 0).frame.set_index("data type")
    one, other = frame.loc["2-Diff", "images"].split(", ")
    assert (int(one) < 77, other) == (True, "77")
    assert frame.loc["Real", "images"].isdigit()


def test_the_kernel_distance_stands_alone_and_ms_ssim_beside_the_papers(whole: tuple[Run, Evaluated]) -> None:
    assert not [name for name in evaluate_tables.intrinsic(whole[1], 1).frame.columns if "published" in name]
    frame = evaluate_tables.intrinsic(as_the_paper(whole[1]), 2).frame.set_index("data type")
    assert frame.loc["Real", "MS-SSIM, published"] == "0.1813"
    assert frame.loc["Real", "set 3, this run"]


@pytest.mark.parametrize(("changes", "which", "words"), [
    ({}, 0, "obtained with 256 px and clean-fid's Inception-v3"), ({}, 2, "obtained with 256 px."),
    ({"image_size": 256}, 0, "obtained with clean-fid's Inception-v3"),
    ({"fid": True}, 0, "obtained with 256 px.")])
def test_a_published_value_is_shown_only_where_size_and_weights_are_the_papers(
        whole: tuple[Run, Evaluated], changes: dict, which: int, words: str) -> None:
    table = evaluate_tables.intrinsic(replace(whole[1], **changes), which)
    assert words in table.folded.caption
    assert "GAN" in table.folded.frame["data type"].tolist()
    assert not [name for name in table.frame.columns if "published" in name]
    assert table.frame["data type"].tolist() == ["Real", "2-Diff", "2-Styled-Diff"]


def test_table_b2_gives_each_cluster_count_its_own_row(whole: tuple[Run, Evaluated]) -> None:
    own = evaluate_tables.by_clusters(whole[1]).frame
    assert not [name for name in own.columns if "published" in name]
    assert own["data type"].tolist() == ["2-Diff", "2-Styled-Diff"]
    table = evaluate_tables.by_clusters(as_the_paper(whole[1]))
    assert all("this run" in name for name in table.frame.columns[1:]), "the paper has no 2 clusters"
    folded = table.folded.frame.set_index("data type")
    assert folded.index.tolist() == ["10-Diff", "20-Diff", "30-Diff", "40-Diff", "10-Styled-Diff",
                                     "20-Styled-Diff", "30-Styled-Diff", "40-Styled-Diff"]
    assert folded.loc["40-Styled-Diff", "MS-SSIM, published"] == "0.2743, 0.2670, 0.2609"
    names = {"2-Diff": "10-Diff", "2-Styled-Diff": "10-Styled-Diff"}
    ten = replace(whole[1], values=whole[1].values.replace({"data type": names}),
                  sets={DataType.parse(names[one.name]): pairs for one, pairs in whole[1].sets.items()})
    table = evaluate_tables.by_clusters(as_the_paper(ten))
    frame = table.frame.set_index("data type")
    assert frame.index.tolist() == list(names.values())
    assert all("published" in name for name in frame.columns[2:])
    paper = frame.loc["10-Diff", "FID, published"]
    assert (paper, len(table.folded.frame)) == ("35.86, 35.82, 35.90", 6)


def test_the_spread_is_the_papers(whole: tuple[Run, Evaluated]) -> None:
    spread = evaluate_tables._mean(pd.Series([66.17, 65.48, 66.32]), ".4g", ".2g")
    assert spread == "65.99 ± 0.37"  # section 3.2


def test_the_tables_of_the_audit_name_what_they_count(whole: tuple[Run, Evaluated]) -> None:
    frame = evaluate_tables.copies(whole[1]).frame
    assert frame["data type"].tolist()[0] == "Real (others)"
    assert evaluate_tables.closest(whole[1]).frame.iloc[0][["image", "turned"]].tolist() == [COPY, "mirrored"]


def test_the_figures_show_the_pairs_and_the_scores(whole: tuple[Run, Evaluated]) -> None:
    run, result = whole
    pairs, scores = evaluate_figures.copies(run.real, result), evaluate_figures.copy_scores(result)
    assert len(pairs.axes) == 2 * len(result.closest)
    assert "mirrored" in pairs.axes[len(result.closest)].get_title()
    shown = {text.get_text() for text in scores.legends[0].get_texts()}
    assert shown == {data_type.name for data_type in result.types}
    plt.close(pairs)
    plt.close(scores)


def test_a_type_whose_sets_are_too_small_is_named_below_the_table(whole: tuple[Run, Evaluated]) -> None:
    result = whole[1]
    assert "Left out" not in evaluate_tables.equal(result).caption
    without = replace(result, equal=result.equal[result.equal["data type"] != "2-Diff"])
    assert "Left out, because all their sets are smaller: 2-Diff." in evaluate_tables.equal(without).caption
