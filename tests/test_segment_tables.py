"""The pages of chapters 6 to 8: ours and the paper's each in its own cell, whatever a run has or lacks."""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from made_up import (
    SIZE,
    changed,
    forge,
    noise,
    real_pairs,
    sets_of,
    supply_of,
    values,
    workspace,
    write_all,
    write_set,
)

from diffusegen_core.chapters import gan
from diffusegen_core.chapters.gan import SINGAN, Baseline
from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.chapters.trained import Trained, TrainedModel
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, related, sequences, testsets
from diffusegen_core.data.types import DIFF, GAN, REAL, STYLED, cluster_model
from diffusegen_core.measures import intervals
from diffusegen_core.notebooks import NOTEBOOKS
from diffusegen_core.report import (
    claims,
    paperclaims,
    papers,
    published,
    rule,
    segment_details,
    segment_figures,
    segment_tables,
    verdict_tables,
)
from diffusegen_core.report.figures import nothing
from diffusegen_core.report.tables import Table
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trials
from diffusegen_core.segmentation.experiments import FIELDS, IMAGE
from diffusegen_core.segmentation.sharing import shares
from diffusegen_core.store import lock
from diffusegen_core.store.workspace import Workspace

TESTS = ("HyperKvasir", "CVC-ClinicDB", "PolypGen")
OURS = ["HyperKvasir, this run", "CVC-ClinicDB, this run", "PolypGen, this run"]
PAPERS = ["HyperKvasir, published", "CVC-ClinicDB, published", "PolypGen, published"]


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


class Models(Trained):
    """Models that have seen what they were given, and no files."""

    caveat = ""


def models_of(p: Params) -> Models:
    """Models that took 100 s each, the full set's 300 s and a base 50 s."""
    def model(name: str, seconds: float) -> TrainedModel:
        return TrainedModel(name, 9, 24, 6, 0.5, seconds, 1000, p.folder / "train" / name, "")
    return Models([model(cluster_model(k), 100.0) for k in range(p.cluster.k)],
                  model("full", 300.0) if p.train.full_images else None,
                  model("base", 50.0) if p.train.base_images else None)


class MadeUp(Run):
    """A run whose models and synthetic pairs are made up."""

    def _steps(self, ws: Workspace, get: Callable[[str], Any], watch: object) -> dict[str, Callable[[], Any]]:
        p = self.params

        def sets() -> dict:
            get("data")  # before there is that, nothing is made up
            return sets_of(p).sets

        def baseline() -> Baseline | None:
            trained = p.gan.source == SINGAN
            return Baseline(sets()[GAN], "made up", trained) if p.gan.source else None
        return {**super()._steps(ws, get, watch), "train": lambda: models_of(p), "gan": baseline,
                "inpaint": lambda: Inpainted({t: one for t, one in sets().items() if t.kind == DIFF}),
                "style": lambda: SimpleNamespace(sets={t: one for t, one in sets().items()
                                                       if t.kind == STYLED}),
                "sets": lambda: sets() and sets_of(p)}


def write_run(p: Params) -> MadeUp:
    """Such a run, with its pairs."""
    lock.claim(p.folder)
    write_all(p)
    return MadeUp(p)


def run_of(p: Params) -> SimpleNamespace:
    """What tables of planted results ask of a run."""
    models = SimpleNamespace(caveat="")
    return SimpleNamespace(params=p, models=models, gan=None,
                           finished=lambda name: {"train": models, "gan": None, "data": None}[name])


@pytest.fixture(scope="module")
def p(tmp_path_factory: pytest.TempPathFactory) -> Params:
    return values(tmp_path_factory.mktemp("tables"))


def as_the_paper(p: Params) -> Params:
    """The same, as if it were of the paper's image size, data and network."""
    return changed(p, data={"image_size": 256, "source": "kvasir", "subset": "paper348", "count": None},
                   segment={"encoder": "se_resnext50_32x4d", "weights": "pretrained"})


@pytest.fixture(scope="module")
def pairs(p: Params) -> dataset.Pairs:
    return real_pairs(p).take(range(3))


def dice(data_type: str, n: int | None, test: str, seed: int, image: int) -> float:
    """A planted value, of which the mean over images 0 to 2 and seeds 0 and 1 is a round number."""
    base = 0.2 + 0.1 * len(data_type) / 10 + 0.03 * (n or 0) + 0.2 * (test == "CVC-ClinicDB")
    return base + 0.01 * (image - 1) + 0.02 * (seed - 0.5)


def planted(kinds: list[dict], pairs: dataset.Pairs, tests: tuple[str, ...] = TESTS,
            seeds: int = 2) -> trials.Tested:
    rows = []
    for kind, seed, test, image in product(kinds, range(seeds), tests, range(3)):
        value = dice(kind["data_type"], kind.get("samples"), test, seed, image)
        rows.append({"chapter": "segment", "seed": seed, "test_set": test, "image": str(image), "dice": value,
                     "iou": value / 2, "dice_both": 0.75, "iou_both": 0.25, **kind})
    images = pd.DataFrame(rows, columns=[*FIELDS, *IMAGE])
    done = images.drop_duplicates(FIELDS)[FIELDS].assign(
        name="x", status="ok", train_pairs=10, real_pairs=4, valid_pairs=2, best_epoch=3, valid_iou=0.5,
        seconds=2.0)
    every = [testsets.TestSet(name, *((pairs, "3 of 9") if name in tests else (None, "not given")))
             for name in TESTS]
    integers = dict.fromkeys(["size", "samples", "ratio"], "Int64")
    return trials.Tested(images.astype(integers), done.astype(integers), every, "in words", Path())


def alone(name: str, *counts: int) -> list[dict]:
    return [{"data_type": name, "samples": n} for n in counts]


def small(name: str, size: int, ratio: int | None = None) -> dict:
    return {"chapter": "augment", "data_type": name, "size": size, "ratio": ratio}


ALL_REAL = {"data_type": "Real"}
BOTH = [ALL_REAL, *alone("20-Diff", 1, 2), *alone("20-Styled-Diff", 1, 2)]


def rows(table: Table, index: str = "data type") -> pd.DataFrame:
    assert table._repr_markdown_()
    assert table._repr_html_()
    return table.frame.set_index(index)


# ---- table 2


def test_table_2_has_the_papers_values_in_the_papers_rows(p: Params, pairs: dataset.Pairs) -> None:
    table = segment_tables.alone(run_of(as_the_paper(p)), planted(BOTH, pairs), "dice")
    frame, folded = rows(table), rows(table.folded)
    assert list(frame) == [name for both in zip(OURS, PAPERS, strict=True) for name in both]
    assert "Published: Tables 2, B3 and B4 of the paper." in table.caption
    assert frame.index.tolist() == ["Real", "20-Diff-1", "20-Diff-2", "20-Styled-Diff-1", "20-Styled-Diff-2"]
    assert folded.index.tolist() == [
        "GAN-1", "Full-Diff-1", "Full-Styled-Diff-1", "GAN-2", "Full-Diff-2", "Full-Styled-Diff-2", "GAN-3",
        "20-Diff-3", "20-Styled-Diff-3", "Full-Diff-3", "Full-Styled-Diff-3"]
    # As printed in the paper, read there by eye.
    assert frame.loc["Real", PAPERS].tolist() == ["0.8680", "0.7341", "0.6185"]
    assert frame.loc["20-Styled-Diff-2", PAPERS].tolist() == ["0.7728", "0.6414", "0.5444"]
    assert folded.loc["Full-Diff-2", PAPERS].tolist() == ["0.6597", "0.5880", "0.4894"]
    assert folded.loc["GAN-3", PAPERS].tolist() == ["0.6960", "0.4945", "0.4911"]
    iou = rows(segment_tables.alone(run_of(as_the_paper(p)), planted(BOTH, pairs), "iou"))
    assert iou.loc["20-Styled-Diff-1", PAPERS].tolist() == ["0.6840", "0.6027", "0.5871"]


def test_table_2_has_our_means_with_intervals_in_our_columns(p: Params, pairs: dataset.Pairs) -> None:
    result = planted(BOTH, pairs)
    frame, iou = (rows(segment_tables.alone(run_of(p), result, measure)) for measure in ("dice", "iou"))
    for name, n, test in product(("20-Diff", "20-Styled-Diff"), (1, 2), TESTS):
        mean = dice(name, n, test, 0, 1) + 0.01
        for table, value in ((frame, mean), (iou, mean / 2)):
            text, _, interval = table.loc[f"{name}-{n}", f"{test}, this run"].partition(" ")
            assert float(text) == pytest.approx(value, abs=6e-4)
            low, high = map(float, interval.strip("[]").split(", "))
            assert low < value < high
    assert frame.loc["Real", OURS[0]].startswith("0.240 [")


@pytest.mark.parametrize(("sections", "words"), [
    ({}, "256 px, 348 pairs of HyperKvasir and U-Net++ with an ImageNet-pretrained"),
    ({"data": {"image_size": 64}}, "because they were obtained with 256 px."),
    ({"data": {"count": 100}}, "were obtained with 348 pairs of HyperKvasir."),
    ({"data": {"subset": "all"}}, "were obtained with 348 pairs of HyperKvasir."),
    ({"segment": {"weights": "random"}}, "were obtained with U-Net++ with an ImageNet-pretrained")])
def test_what_does_not_compare_is_folded_with_the_reason(p: Params, pairs: dataset.Pairs, sections: dict,
                                                         words: str) -> None:
    run = run_of(changed(as_the_paper(p), **sections) if sections else p)
    result = planted(BOTH, pairs)
    for table, row in ((segment_tables.alone(run, result, "dice"), "Styled-Diff-2"),
                       (segment_tables.by_clusters(run, result, "dice"), "20-Styled-Diff-2"),
                       (segment_tables.small(run, planted(SMALL, pairs), "dice", 1), "20-Styled-Diff")):
        assert not [name for name in table.frame if "published" in name]
        assert "Published" not in table.caption
        assert table.folded is not None
        assert words in table.folded.caption
        assert set(table.folded.frame["data type"]) >= {row}
        assert table.folded.name == f"{table.name}-published"
        markdown, page = table._repr_markdown_(), table._repr_html_()
        assert "\n::::{dropdown} The paper's values\n:::{table} Published" in markdown
        assert "<details><summary>The paper's values</summary><table" in page


def test_the_reasons_for_folding_are_none_where_all_is_the_papers(p: Params) -> None:
    assert papers.differences(as_the_paper(p)) == []
    assert papers.why_not([]) == ""


def test_beside_a_cluster_count_stands_the_papers_own_of_the_same_or_nothing(
        p: Params, pairs: dataset.Pairs) -> None:
    kinds = [ALL_REAL, *alone("4-Diff", 1), *alone("10-Diff", 2, 4), *alone("10-Styled-Diff", 2)]
    frame = rows(segment_tables.alone(run_of(as_the_paper(p)), planted(kinds, pairs), "dice"))
    assert frame.loc["10-Diff-2", PAPERS[0]] == "0.7453"
    assert frame.loc["10-Styled-Diff-2", PAPERS[0]] == "0.7212"
    for name in ("4-Diff-1", "10-Diff-4"):
        assert frame.loc[name, PAPERS].tolist() == ["", "", ""], "the paper has no such row"
        assert frame.loc[name, OURS[0]]
    assert not [name for name in frame.index if name.startswith(("20-", "30-", "Diff"))]
    own = planted([*alone("2-Styled-Diff", 3)], pairs)
    assert list(rows(segment_tables.alone(run_of(as_the_paper(p)), own, "dice"))) == OURS


def test_the_pages_say_whether_networks_had_equal_steps_or_equal_passes(p: Params,
                                                                        pairs: dataset.Pairs) -> None:
    caption = segment_tables.alone(run_of(p), planted(BOTH, pairs), "dice").caption
    assert "chosen on synthetic pairs for networks trained on them, on real pairs for Real." in caption
    for images, words in ((64, "equal optimizer steps: 12 epochs of 64 images (segment.epoch_images)"),
                          (None, "equal passes: 12 over their own training sets, as in the paper")):
        run = run_of(changed(p, segment={"epoch_images": images}))
        for table in (segment_tables.alone(run, planted(BOTH, pairs), "dice"),
                      segment_tables.small(run, planted(SMALL, pairs), "dice", 1),
                      verdict_tables.overall(run, [])):
            assert words in table.caption


def test_an_absent_test_set_has_no_column(p: Params, pairs: dataset.Pairs) -> None:
    result, augmented = (planted(kinds, pairs, tests=("HyperKvasir",)) for kinds in (BOTH, SMALL))
    run = run_of(as_the_paper(p))
    for table in (segment_tables.alone(run, result, "dice"), segment_tables.by_clusters(run, result, "iou"),
                  segment_tables.small(run, augmented, "dice", 1)):
        assert [name for name in table.frame if "HyperKvasir" in name] == [OURS[0], PAPERS[0]]
        assert [name for name in table.frame if "CVC" in name or "PolypGen" in name] == []
    frame = rows(segment_tables.tests(run, result), "test set")
    assert frame["images"].tolist() == ["3", "0", "0"]
    assert frame["note"].tolist() == ["3 of 9", "not given", "not given"]
    assert frame["patients"].tolist() == ["unknown", "", ""]
    organs = run.params.data.model_copy(update={"object": "organ"})
    run = run_of(run.params.model_copy(update={"data": organs}))
    assert rows(segment_tables.tests(run, result), "test set")["images"].tolist() == ["3"]


def test_the_table_of_test_sets_has_the_number_of_patients(p: Params, pairs: dataset.Pairs,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Where {doc}`citing` sends its readers for it."""
    held = pairs.named(pairs.names[:3])
    told = dict(zip(held.names, "aab", strict=True))
    frames = replace(held, names=["1", "30", "400"])
    result = SimpleNamespace(tests=[testsets.TestSet("Held out", held, "3 of 9", patients=told),
                                    testsets.TestSet("CVC-ClinicDB", frames, "3 of 612"),
                                    testsets.TestSet("PolypGen", None, "not given")])
    groups = iter([None, sequences.of_patients(told, held.names), None])
    monkeypatch.setattr(related, "of_pairs", lambda pairs: next(groups))
    run = SimpleNamespace(params=changed(p, data={"source": "mine"}), finished={"data": pairs}.get)
    table = segment_tables.tests(run, result)
    assert table.frame["patients"].tolist() == ["2", "unknown, of 3 sequences", ""]
    assert f"the run's {len(pairs)} pairs, or what is made from them; patients: unknown." in table.caption
    assert "; patients: 2." in segment_tables.tests(run, result).caption
    drawn = SimpleNamespace(params=changed(p, data={"source": "phantom"}), finished={"data": pairs}.get)
    assert segment_tables.tests(drawn, result).frame["patients"].tolist()[0] == "none"


# ---- tables B3 and B4


def test_tables_b3_and_b4_have_a_row_for_each_cluster_count(p: Params, pairs: dataset.Pairs) -> None:
    result = planted([*BOTH, *alone("4-Diff", 1), *alone("Full-Diff", 1), *alone("GAN", 1)], pairs)
    table = segment_tables.by_clusters(run_of(as_the_paper(p)), result, "dice")
    frame, folded = rows(table), rows(table.folded)
    assert frame.index.tolist() == ["4-Diff-1", "20-Diff-1", "20-Diff-2", "20-Styled-Diff-1",
                                    "20-Styled-Diff-2"]
    assert folded.index.tolist()[:4] == ["10-Diff-1", "30-Diff-1", "40-Diff-1", "10-Diff-2"]
    assert len(frame) + len(folded) == 1 + 2 * 4 * 3
    assert folded.loc["40-Styled-Diff-3", PAPERS].tolist() == ["0.6320", "0.6020", "0.4568"]
    assert folded.loc["10-Styled-Diff-3", PAPERS].tolist() == ["0.7894", "0.7396", "0.5413"]
    assert frame.loc["4-Diff-1", PAPERS].tolist() == ["", "", ""]
    assert frame.loc["20-Styled-Diff-2", OURS[0]]
    paper = published.table("B3").query("data_type == '30-Diff-2' and metric == 'IoU'")["printed"].tolist()
    iou = rows(segment_tables.by_clusters(run_of(as_the_paper(p)), result, "iou").folded)
    assert iou.loc["30-Diff-2", PAPERS].tolist() == paper
    assert iou.loc["10-Styled-Diff-1", PAPERS].tolist() == ["0.6991", "0.6231", "0.5544"]


# ---- tables B5 to B7


SMALL = [small("Real", 16), *(small("20-Styled-Diff", 16, r) for r in (1, 2, 3)),
         small("4-Styled-Diff", 24, 3), small("Real", 24)]


@pytest.mark.parametrize(("ratio", "table", "styled", "gan"), [
    (1, "B5", ["0.5162", "0.3587", "0.3694"], ["0.4835", "0.3778", "0.3727"]),
    (2, "B6", ["0.5114", "0.3277", "0.3610"], ["0.4997", "0.4002", None]),
    (3, "B7", ["0.4529", "0.3427", "0.3438"], ["0.4757", "0.3852", "0.3933"])])
def test_the_tables_of_small_sets_have_the_papers_values(p: Params, pairs: dataset.Pairs, ratio: int,
                                                         table: str, styled: list[str], gan: list) -> None:
    made = segment_tables.small(run_of(as_the_paper(p)), planted(SMALL, pairs), "dice", ratio)
    frame, folded = (rows(one, ["set size", "data type"]) for one in (made, made.folded))
    assert frame.loc[("16", "20-Styled-Diff"), PAPERS].tolist() == styled
    shown = folded.loc[("16", "GAN"), PAPERS].tolist()
    assert [value for value, known in zip(shown, gan, strict=True) if known] == [v for v in gan if v]
    assert frame.loc[("16", "Real"), PAPERS].tolist() == ["0.3944", "0.3078", "0.3395"]
    assert folded.loc[("128", "Real"), PAPERS[0]] == "0.8232"
    assert f"Table {table} of the paper" in made.caption
    assert made.name == f"tab-augment-dice-{ratio}"


def test_the_tables_of_small_sets_have_our_values_of_their_own_ratio(p: Params, pairs: dataset.Pairs) -> None:
    result = planted(SMALL, pairs)
    result.images.loc[result.images["ratio"] == 2, "dice"] += 0.4
    first, second, third = (rows(segment_tables.small(run_of(as_the_paper(p)), result, "dice", r),
                                 ["set size", "data type"]) for r in (1, 2, 3))
    styled = ("16", "20-Styled-Diff")
    assert first.loc[styled, OURS[0]] == third.loc[styled, OURS[0]]
    assert first.loc[styled, OURS[0]].startswith("0.340 [")
    assert second.loc[styled, OURS[0]].startswith("0.740 [")
    assert ("24", "4-Styled-Diff") in third.index
    assert ("24", "4-Styled-Diff") not in first.index
    for frame in (first, second, third):
        assert frame.loc[("16", "Real"), OURS[0]].startswith("0.240 [")
        assert frame.loc[("24", "Real"), PAPERS].tolist() == ["", "", ""]
    assert third.index.tolist() == [("16", "Real"), styled, ("24", "Real"), ("24", "4-Styled-Diff")]
    folded = segment_tables.small(run_of(as_the_paper(p)), result, "dice", 3).folded.frame
    assert folded["set size"].tolist() == ["16"] * 4 + ["32"] * 6 + ["64"] * 6 + ["128"] * 6
    assert folded["data type"].tolist()[4:10] == [
        "Real", "10-Styled-Diff", "20-Styled-Diff", "30-Styled-Diff", "40-Styled-Diff", "GAN"]


def test_a_ratio_that_the_paper_lacks_stands_alone(p: Params, pairs: dataset.Pairs) -> None:
    result = planted([small("Real", 16), small("4-Styled-Diff", 16, 5)], pairs)
    table = segment_tables.small(run_of(p), result, "iou", 5)
    frame = rows(table)
    assert frame.index.tolist() == ["Real", "4-Styled-Diff"]
    assert list(frame) == ["set size", *OURS]
    assert "Published" not in table.caption


@pytest.mark.parametrize(("change", "words"), [
    ({}, "With probability 0.5 a real pair is replaced by r synthetic ones; their diffusion models saw all"),
    ({"rule": "add", "alpha": 1.0}, "With probability 1 a real pair is joined by r synthetic ones"),
    ({"generator_sees": "subset"}, "their diffusion models saw the small set's training pairs.")])
def test_the_caption_states_the_rule(p: Params, pairs: dataset.Pairs, change: dict, words: str) -> None:
    run = run_of(changed(p, augment=change))
    assert words in segment_tables.small(run, planted(SMALL, pairs), "dice", 3).caption


# ---- the other tables


def test_what_failed_is_counted_and_not_averaged(p: Params, pairs: dataset.Pairs) -> None:
    result = planted([ALL_REAL, *alone("20-Diff", 1)], pairs)
    result.runs.loc[result.runs.index[-1], ["status", "train_pairs", "seconds"]] = ["failed: why", None, None]
    frame = rows(segment_tables.networks(result, ["data_type", "samples"], "networks"))
    assert frame[["networks", "failed"]].to_numpy().tolist() == [["2", "0"], ["2", "1"]]
    assert frame["N"].tolist() == ["", "1"]
    told = frame[["real pairs", "synthetic pairs", "seconds each"]].to_numpy().tolist()
    assert told == [["4.0", "6.0", "2.0"]] * 2
    assert segment_tables.failures(result, "failures").frame["status"].tolist() == ["failed: why"]
    none = segment_tables.failures(planted([ALL_REAL], pairs), "failures").frame
    assert none.to_numpy().tolist() == [["none", "every network was trained"]]


def without(result: trials.Tested, data_type: str, seeds: Iterable[int]) -> trials.Tested:
    """The result as it is where these seeds of a data type failed."""
    gone, failed = ((frame["data_type"] == data_type) & frame["seed"].isin(seeds)
                    for frame in (result.images, result.runs))
    return replace(result, images=result.images[~gone],
                   runs=result.runs.assign(status=result.runs["status"].mask(failed, "failed: why")))


def test_cells_of_fewer_seeds_than_asked_for_are_marked(p: Params, pairs: dataset.Pairs) -> None:
    p = changed(p, segment={"seeds": 2}, augment={"seeds": 2})
    result = planted([*BOTH, *alone("GAN", 4)], pairs, tests=TESTS[:1])
    for make in (segment_tables.alone, segment_tables.by_clusters):
        whole = make(run_of(p), result, "dice")
        assert "†" not in whole._repr_markdown_()
        table = make(run_of(p), without(without(result, "20-Diff", [1]), "20-Styled-Diff", [0, 1]), "dice")
        frame = rows(table)
        assert "† From fewer seeds" in table.caption
        assert frame.loc["20-Diff-1", OURS[0]].endswith("] †")
        assert frame.loc["20-Styled-Diff-2"].tolist() == ["†"]
        assert sum("†" in text for text in frame[OURS[0]]) == 4
    few = without(planted(SMALL, pairs), "4-Styled-Diff", [0, 1])
    marked = [rows(segment_tables.small(run_of(p), few, "iou", r), ["set size", "data type"])[OURS[0]]
              for r in (1, 3)]
    assert [[key for key, text in cells.items() if "†" in text] for cells in marked] == [
        [], [("24", "4-Styled-Diff")]]


def test_the_evaluators_measures_bear_names_of_their_own(pairs: dataset.Pairs) -> None:
    frame = segment_tables.evaluator(planted(BOTH, pairs), ["data_type", "samples"], "evaluator").frame
    assert list(frame) == ["data type", "N", "test set", "soft Dice", "IoU", "seeds"]
    assert len(frame) == 5 * 3
    assert set(frame["seeds"]) == {"2"}
    assert set(frame["soft Dice"]) == {"0.750"}
    assert set(frame["IoU"]) == {"0.250"}


def test_what_a_pair_costs(tmp_path: Path, pairs: dataset.Pairs) -> None:
    """7 s a folder, see made_up, and the models' seconds."""
    p = values(tmp_path / "run", inpaint={"samples": 2, "sources": 5}, train={"full_images": 9},
               augment={"sizes": [4]})
    run = write_run(p)
    result = planted([*alone("2-Diff", 2, 1), *alone("GAN", 2)], pairs)
    result.images.loc[result.images["data_type"] == "GAN", "dice"] = 0.0
    frame = rows(segment_tables.costs(run, result))
    assert frame.index.tolist() == ["GAN", "2-Diff", "2-Styled-Diff", "Full-Diff", "Full-Styled-Diff"]
    assert frame["usable pairs"].tolist() == ["10"] * 5
    assert frame["training, s"].tolist() == ["", "200", "200", "300", "300"]
    assert frame["making, s"].tolist() == ["7", "7", "14", "7", "14"]
    assert frame["s per pair"].tolist() == ["0.7", "20.7", "21.4", "30.7", "31.4"]
    assert frame["Dice, HyperKvasir"].tolist() == ["0.000", f"{dice('2-Diff', 2, '', 0, 1) + 0.01:.3f}",
                                                   "", "", ""]
    without = replace(result, tests=[testsets.TestSet("PolypGen", None, ""), *result.tests])
    assert rows(segment_tables.costs(run, without)).equals(frame), "a test set that is not given"
    bought = rows(segment_tables.costs(MadeUp(changed(p, gan={"source": "elsewhere"})), result))
    assert "GAN" not in bought.index, "nobody knows what it cost"
    based = rows(segment_tables.costs(MadeUp(changed(p, train={"base_images": 9})), result))
    assert based["training, s"].tolist() == ["", "250", "250", "300", "300"]
    elsewhere = [replace(model, seconds=float("nan")) for model in run.models.models]
    run._results["train"] = Models(elsewhere, run.models.full)
    adopted = rows(segment_tables.costs(run, result))
    assert adopted["training, s"].tolist() == ["", "", "", "300", "300"]
    assert adopted["s per pair"].tolist() == ["0.7", "", "", "30.7", "31.4"], "unknown, and not for nothing"


def test_a_caption_says_what_nobody_knows_of_the_generators(p: Params, monkeypatch: pytest.MonkeyPatch,
                                                            pairs: dataset.Pairs) -> None:
    result, run = planted(alone("2-Diff", 1), pairs), run_of(p)
    assert segment_tables.alone(run, result, "dice").caption.endswith("pairs there are.")
    monkeypatch.setattr(gan, "caveat", lambda baseline: "Who knows.")
    run.models.caveat = "Nobody."
    assert segment_tables.alone(run, result, "dice").caption.endswith("are. Who knows. Nobody.")
    assert segment_tables.by_clusters(run, result, "dice").caption.endswith("intervals. Nobody.")
    assert segment_tables.small(run, planted(SMALL, pairs), "dice", 1).caption.endswith("Who knows. Nobody.")
    assert verdict_tables.overall(run, []).caption.endswith("there are. Who knows. Nobody.")
    run.params = changed(p, augment={"generator_sees": "subset"})
    assert segment_tables.small(run, planted(SMALL, pairs), "dice", 1).caption.endswith("Who knows.")


# ---- claims


def test_the_verdicts_of_a_run_are_those_of_its_results(tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    p = values(tmp_path / "run", segment={"seeds": 2, "test_count": 25, "samples": [3]},
               augment={"sizes": [4], "seeds": 2, "ratios": [3]}, inpaint={"sources": 6}, data={"count": 9})
    run = write_run(p)
    forge(monkeypatch)
    run.make("segment")
    run.make("augment")
    found = claims.of(run)
    by_claim = {claim: [v for v in found if v.claim == claim] for claim in claims.ORDER}
    assert [v.claim for v in found] == [claim for claim, mine in by_claim.items() for _ in mine]
    assert [claim for claim, mine in by_claim.items() if not mine] == [
        paperclaims.FEWER, paperclaims.FILTERING]
    synthetic, styling, small = (by_claim[claim][0] for claim in (paperclaims.SYNTHETIC, paperclaims.STYLING,
                                                                 paperclaims.SMALL))
    assert [v.comparison for v in (synthetic, styling, small)] == [
        "2-Styled-Diff-3 against GAN-3", "2-Styled-Diff-3 against 2-Diff-3",
        "2-Styled-Diff (r = 3) against Real, 4 real pairs"]
    # The stand-in's networks depend on the seed alone, so that no type is better than another.
    assert [(v.difference, v.images, v.seeds, v.test_set) for v in (synthetic, styling, small)] == [
        (0.0, 25, 2, "Phantom")] * 3
    table = pd.read_csv(p.folder / "segment" / "results.csv")
    assert synthetic.means[0] == pytest.approx(table.loc[table["data_type"] == "GAN", "dice"].mean())
    compute, = by_claim[paperclaims.COMPUTE]
    # Two models of 100 s; 7 s for a GAN of each of 6 sources, of 9 pairs.
    assert (compute.verdict, compute.difference) == (rule.REFUTED, pytest.approx(200 - 7 / 6 * 9))
    assert {v.reason for claim in (paperclaims.NEARER, paperclaims.VARIED) for v in by_claim[claim]} == {
        "Run chapter 5."}
    table = verdict_tables.verdicts(run, found)
    frame = rows(table, "claim")
    assert list(frame) == ["compared", "test set", "difference, this run", "of", "verdict"]
    assert frame["of"].tolist()[0] == "25 images, 2 seeds, 1 generator"
    assert frame["difference, this run"].tolist()[-3:-1] == ["", ""], "of chapter 5"
    assert table.folded is None, "of 2 clusters the paper has nothing"
    folded = verdict_tables.overall(run, found).folded
    assert list(folded.frame) == ["", "the paper's own cells"]
    assert "are not comparable with these" in folded.caption
    run.params = as_the_paper(run.params)
    whole = verdict_tables.overall(run, found)
    overall = rows(whole, "claim")
    published = verdict_tables.verdicts(run, [replace(v, published=0.25) for v in found])
    assert set(published.frame["difference, published"]) == {"+0.2500"}
    assert published.folded is None
    # No full model, other test sets or pasting; one number of pairs of each source, and one small set.
    unasked = [paperclaims.TRANSFER, paperclaims.STYLING_FULL, paperclaims.CLUSTERING, paperclaims.GROWS,
               paperclaims.FADES, paperclaims.EKES, paperclaims.PASTING]
    assert rows(whole.others, "claim").index.tolist() == [claim.words for claim in unasked]
    assert overall.index.tolist() == [claim.words for claim in claims.ORDER
                                      if by_claim[claim] and claim not in unasked]
    assert [*overall[""], *whole.others.frame[""]] == [str(n + 1) for n in range(14)]
    nearer = overall.loc[paperclaims.NEARER.words]
    assert nearer["verdict on this run"] == nearer["comparisons"].removeprefix("1 ") == "not made yet"
    assert nearer["the paper's own cells"] == "12 of 12"
    full = rows(whole.others, "claim").loc[paperclaims.STYLING_FULL.words]
    assert full.tolist()[1:] == ["a model of all pairs: train.full_images", "1 of 9"]
    assert overall.loc[paperclaims.VARIED.words, "the paper's own cells"] == "14 of 15"
    better = [replace(v, verdict="supported", difference=0.1 + i / 10, scope="for these pairs")
              for i, v in enumerate(by_claim[paperclaims.TRANSFER])]
    told = rows(verdict_tables.overall(run, better), "claim").loc[paperclaims.TRANSFER.words]
    assert told["verdict on this run"] == "supported for these pairs"
    assert told["comparisons"] == "2 supported"
    assert told["differences, this run"] == "+0.100 to +0.200"
    assert verdict_tables.verdicts(run, better).frame["verdict"].tolist()[0].startswith(
        "Supported for these pairs. The results have no test set")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_verdict_makes_nothing_and_says_what_is_to_be_run(tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    p = values(tmp_path / "run", segment={"samples": [3]}, augment={"sizes": [4], "ratios": [3]},
               inpaint={"sources": 6}, data={"count": 9})
    forge(monkeypatch)

    def reasons(p: Params) -> list[str]:
        before = files(tmp_path)
        told = [v.reason for v in claims.of(MadeUp(p))]
        assert files(tmp_path) == before
        return told

    nothing_yet = reasons(p)
    assert {f"Run chapter {chapter}." for chapter in (5, 6, 7)} == set(nothing_yet[:-2])
    run = write_run(p)
    assert reasons(p)[:-2] == nothing_yet[:-2]
    run.make("segment")
    told = reasons(p)
    assert told[0].startswith("Test images in common: 5")
    assert "Run chapter 7." in told
    assert "Run chapter 6." not in told
    run.make("augment")
    assert {reason for reason in reasons(p) if "un chapter" in reason} == {"Run chapter 5."}
    more = [reason for reason in reasons(changed(p, augment={"seeds": 2})) if "run chapter 7" in reason]
    assert all(reason.endswith("Some results are not made yet: run chapter 7.") for reason in more)
    assert len(more) == 4


# ---- the pages, cell by cell


RUNS = {
    "whole": {},
    "full": {"train": {"full_images": 9}, "augment": {"types": ["Full-Styled-Diff", "GAN"], "ratios": [2]}},
    "no GAN": {"gan": {"source": None}},
    "unknown sources": {"gan": {"source": "elsewhere"}},
    "only Real": {"segment": {"types": ["Real"]}, "augment": {"types": []}},
    "no Real": {"segment": {"types": ["2-Diff"], "samples": [2, 1]}, "augment": {"ratios": [1]}},
    "an empty grid": {"segment": {"types": []}, "augment": {"types": []}},
    "no test set": {"segment": {"held_out": None}},
    "a seed fails": {"segment": {"samples": [2]}, "augment": {"ratios": [2]}},
    "only r = 2, 4": {"inpaint": {"samples": 4}, "segment": {"samples": [4]}, "augment": {"ratios": [2, 4]}},
}
FAILURES = {"all fail": lambda title: True, "Real fails": lambda title: title.startswith("Real"),
            "a seed fails": lambda title: title.endswith("seed1")}


def page(name: str, p: Params, patch: pytest.MonkeyPatch) -> dict[str, Table]:
    """Run a notebook's cells with a run's parameters; every table that it shows, by name."""
    tables = {}

    def display(shown: object) -> None:
        if isinstance(shown, Table):
            assert shown._repr_markdown_().startswith(":::{table} ")
            assert shown._repr_html_()
            assert shown.name not in tables
            assert all(list(shown.frame)[1:]), f"{shown.name} has values without a heading"
            tables[shown.name] = shown

    space = {"display": display}
    patch.setattr(Run, "from_notebook", lambda namespace: MadeUp(p))
    for cell in nbformat.read(next(NOTEBOOKS.glob(f"{name}*.ipynb")), as_version=4).cells:
        if cell.cell_type != "code":
            continue
        if "parameters" in cell.metadata.get("tags", []):
            continue
        body = ast.parse(cell.source)
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, name, "exec"), space)
        display(eval(compile(ast.Expression(last.value), name, "eval"), space) if last else None)
    return tables


@pytest.mark.parametrize("case", [case if case in ("a seed fails", "no pairs") else pytest.param(
    case, marks=pytest.mark.slow) for case in sorted({*RUNS, *FAILURES, "no pairs"})])
def test_every_cell_of_the_pages_runs_whatever_the_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           case: str) -> None:
    sections = {"segment": {}, "augment": {}, **RUNS.get(case, {})}
    seeds = 2 if case in ("whole", "a seed fails") else 1
    dataset.write_phantoms(tmp_path / "cvc", 5, SIZE, seed=5)
    p = values(tmp_path / "run", **{
        **sections, "inpaint": {"samples": 2, "sources": 6, **sections.get("inpaint", {})},
        "segment": {"cvc": str(tmp_path / "cvc"), "seeds": seeds, "resamples": 200, "test_count": 3,
                    **sections["segment"]},
        "augment": {"sizes": [3, 6] if case == "whole" else [6], "seeds": seeds, **sections["augment"]},
        "data": {"count": 9}})
    if case == "no test set":
        p = changed(p, segment={"cvc": None})
    write_run(p)
    networks = forge(monkeypatch)
    networks.fails = FAILURES.get(case, networks.fails)
    if case == "no pairs":
        for data_type in set(supply_of(p)) - {REAL}:
            write_set(workspace(p), data_type, [], noise(0))
    if case == "unknown sources":
        write_set(workspace(p), GAN, [(f"chk_id_{i}_gen_scale_0_{j}", "", j + 1)
                                      for i in range(6) for j in range(2)], noise(0))
    pages = [page(name, p, monkeypatch) for name in ("06", "07", "08")]
    if case == "whole":
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.close("all")
    alone = pages[0]["tab-segment-dice"].frame.set_index("data type")
    folded = pages[0]["tab-segment-dice"].folded.frame.set_index("data type")
    assert folded.loc["Real", "HyperKvasir, published"] == "0.8680"
    shown = {"no test set": [], "an empty grid": ["Phantom, this run", "CVC-ClinicDB, this run"]}.get(
        case, ["Phantom, this run", "CVC-ClinicDB, this run"])
    assert list(alone) == shown
    real = {"no test set": "", "all fail": "†", "Real fails": "†", "no Real": "", "an empty grid": ""}.get(
        case, "0.")
    assert ("Real" in alone.index) == (case not in ("no test set", "no Real", "an empty grid"))
    if real:
        assert alone.loc["Real", shown[0]].startswith(real)
    answers = pages[2]["tab-summary-answers"].frame
    assert ("Better than the GAN?" in answers["question"].tolist()) == (
        case in ("whole", "full", "unknown sources", "a seed fails", "only r = 2, 4", "Real fails",
                 "no Real"))
    assert ("This run has no GAN" in pages[2]["tab-summary-answers"].caption) == (case == "no GAN")
    ratios = {"full": [2], "a seed fails": [2], "only Real": [1], "no Real": [1], "an empty grid": [1],
              "only r = 2, 4": [2, 4]}.get(case, [1, 2])
    small = [name for name in pages[1] if name.startswith("tab-augment-dice")]
    assert small == [f"tab-augment-dice-{r}" for r in ratios]
    failed = pages[0]["tab-segment-failures"].frame
    assert (failed["network"].tolist() == ["none"]) == (case not in {*FAILURES, "no pairs"})
    assert pages[2]["tab-summary-rule"].frame["verdict"].tolist()[:5] == list(rule.RULE)
    told = pages[2]["tab-summary-claims"].frame["verdict"]
    words = "|".join(word.capitalize() for word in rule.WORST_FIRST)
    assert told.str.fullmatch(rf"({words})[.] [A-Z\d].{{9,}}[.]").all()


@pytest.mark.parametrize("name", ["06", "07", "08"])
def test_a_page_with_intervals_says_what_is_not_in_them(name: str) -> None:
    cells = nbformat.read(next(NOTEBOOKS.glob(f"{name}*.ipynb")), as_version=4).cells
    text = " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())
    assert "one set of synthetic pairs, from one training of the generator" in text
    assert {"06": "Elsewhere images count as independent, and if they are not, the intervals are too narrow",
            "07": "whole ones are resampled", "08": "too narrow if they are not"}[name] in text


# ---- images that are not independent


def test_where_patients_are_told_every_interval_resamples_them_as_a_whole(p: Params,
                                                                          pairs: dataset.Pairs) -> None:
    """Of two patients, one with two images: the mean lies between theirs, and intervals are wider."""
    result = planted([small("Real", 16), small("20-Styled-Diff", 16, 1)], pairs)
    result.images["dice"] += np.where(result.images["data_type"] == "Real", 0.1, 0.2) * (
        result.images["image"] == "2")
    known = {"0": "a", "1": "a", "2": "b"}
    of_patients = replace(result, tests=[
        replace(test, pairs=test.pairs and replace(pairs, names=list(known)), patients=known)
        for test in result.tests])
    by = ["data_type"]
    apart, whole = (trials.summary(one, by, "dice", 500, 0).iloc[0] for one in (result, of_patients))
    assert apart["mean"] == pytest.approx(whole["mean"])
    assert whole["high"] - whole["low"] > 1.5 * (apart["high"] - apart["low"])
    real = result.images.query(f"data_type == 'Real' and test_set == '{TESTS[0]}'")
    expected = intervals.of_groups(intervals.matrix(real, "dice"), known, 500, 0).within(0, 1)
    assert (whole["low"], whole["high"]) == pytest.approx((expected.low, expected.high))
    told, untold = (segment_tables.small(run_of(p), one, "dice", 1).caption for one in (of_patients, result))
    assert f"Intervals resample whole patients of {TESTS[0]}" in told
    assert "resample" not in untold
    bars = [np.ptp(segment_figures.gains(one, p).axes[0].collections[0].get_segments()[0][:, 1])
            for one in (result, of_patients)]
    assert bars[1] > 1.5 * bars[0]


def test_lesions_of_one_image_or_patient_are_resampled_together(p: Params, pairs: dataset.Pairs) -> None:
    result = planted([ALL_REAL], pairs)
    lesions = pd.DataFrame([{**row, "lesion": number, "area": 0.1 * number, "iou": 0.5 * number}
                            for row in result.images[[*FIELDS, "test_set", "image"]].to_dict("records")
                            for number in (1, 2)])
    found = replace(result, details=replace(result.details, lesions=lesions))
    assert segment_details._resampled(found, lesions) == lesions["image"].tolist()
    known = {"0": "a", "1": "a", "2": "b"}
    first = replace(found, tests=[replace(found.tests[0], pairs=replace(pairs, names=list(known)),
                                          patients=known), *found.tests[1:]])
    here = lesions[lesions["test_set"] == TESTS[0]]
    assert segment_details._resampled(first, here) == [known[image] for image in here["image"]]


# ---- figures


def test_the_figures_say_why_they_are_empty(p: Params, pairs: dataset.Pairs) -> None:
    empty = planted([], pairs)
    for figure in (segment_figures.alone(empty, p), segment_figures.gains(empty, p),
                   segment_figures.examples(empty)):
        assert len(figure.axes) == 1
        assert figure.axes[0].texts[0].get_text().endswith(".")
        assert not figure.axes[0].axison
        plt.close(figure)
    assert type(nothing("")) is type(figure)


def test_the_figure_of_chapter_6_has_a_mark_for_each_row(p: Params, pairs: dataset.Pairs) -> None:
    figure = segment_figures.alone(planted(BOTH, pairs), p)
    assert [ax.get_title() for ax in figure.axes] == list(TESTS)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        "20-Styled-Diff-2", "20-Styled-Diff-1", "20-Diff-2", "20-Diff-1", "Real"]
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert marks == pytest.approx([dice(n, k, TESTS[0], 0, 1) + 0.01 for n, k in (
        ("20-Styled-Diff", 2), ("20-Styled-Diff", 1), ("20-Diff", 2), ("20-Diff", 1), ("Real", None))])
    plt.close(figure)


def test_the_gains_are_differences_from_real_of_the_same_size(p: Params, pairs: dataset.Pairs) -> None:
    result = planted([small("Real", 16), small("Real", 32), small("20-Styled-Diff", 16, 1),
                      small("20-Styled-Diff", 32, 1), small("GAN", 32, 1)], pairs)
    images = result.images
    images.loc[(images["size"] == 32) & (images["data_type"] == "20-Styled-Diff"), "dice"] += 0.2
    figure = segment_figures.gains(result, p)
    curves = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert curves["20-Styled-Diff, r = 1"] == pytest.approx([0.1, 0.3])
    assert curves["GAN, r = 1"] == pytest.approx([float("nan"), -0.01], nan_ok=True)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["16", "32"]
    plt.close(figure)


@pytest.mark.parametrize(("seeds", "told"), [(3, False), (5, True)])
def test_a_caption_says_where_generators_of_unequal_seeds_count_alike(p: Params, pairs: dataset.Pairs,
                                                                      seeds: int, told: bool) -> None:
    sets = [small("Real", 64), small("20-Styled-Diff", 64, 1)]
    result = planted(sets, pairs, seeds=seeds)
    owners = result.images["seed"].map(dict(enumerate(shares(seeds, 3))))
    painted = result.images["data_type"] != "Real"
    result = replace(result, images=result.images.assign(generator=owners.where(painted).astype("Int64")))
    for table in (segment_tables.small(run_of(p), result, "dice", 1),
                  segment_tables.alone(run_of(p), result, "dice")):
        assert ("each generator counts equally" in table.caption) == told
