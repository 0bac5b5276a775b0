"""Runs side by side: tables in the paper's shape, one list of verdicts, and what cannot be compared."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up import forge, values
from test_segment_tables import MadeUp, write_run
from typer.testing import CliRunner

from diffusegen_core.cli import app
from diffusegen_core.config.errors import UserError
from diffusegen_core.data.sequences import Grouped
from diffusegen_core.report import compare, paperclaims, published
from diffusegen_core.report.compare import Joined, join
from diffusegen_core.report.rule import UNDECIDED, Verdict
from diffusegen_core.run import Run
from diffusegen_core.segmentation.experiments import FIELDS

Make = Callable[..., MadeUp]
SETTINGS: dict[str, dict] = {
    "segment": {"seeds": 2, "test_count": 25, "samples": [1, 2]}, "inpaint": {"sources": 6, "samples": 2},
    "augment": {"sizes": [4, 6], "seeds": 2, "ratios": [2]}, "data": {"count": 9}}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Finished runs with made-up pairs, by their cluster count."""
    with pytest.MonkeyPatch.context() as patch:
        networks = forge(patch)

        def made(k: int, name: str = "", **sections: dict) -> MadeUp:
            networks.given.clear()
            folder = tmp_path_factory.mktemp("compare") / (name or f"k{k}")
            run = write_run(values(folder, **{
                name: {**SETTINGS.get(name, {}), **sections.get(name, {})} for name in {*SETTINGS, *sections}
            }, cluster={"k": k}))
            run.make("segment")
            run.make("augment")
            return run
        yield made


@pytest.fixture(scope="module")
def pair(make: Make) -> list[MadeUp]:
    return [make(3), make(2)]


def stamps(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}


def test_runs_of_two_cluster_counts_fill_the_papers_tables(pair: list[MadeUp]):
    before = [stamps(run) for run in pair]
    joined = join(pair)
    tables = compare.scores(joined)
    assert list(tables) == ["B3", "B4", "B6"]
    for name, kind in (("B3", "Diff"), ("B4", "Styled-Diff")):
        rows = tables[name].drop_duplicates(["n", "data_type"])
        assert rows["data_type"].tolist() == ["Real", f"2-{kind}", f"3-{kind}", f"2-{kind}", f"3-{kind}"]
        assert rows["n"].fillna(0).tolist() == [0, 1, 1, 2, 2]
    small = tables["B6"].drop_duplicates(["n", "data_type"])
    assert list(zip(small["n"], small["data_type"], strict=True)) == [
        (n, name) for n in (4, 6) for name in ("Real", "2-Styled-Diff", "3-Styled-Diff", "GAN")]
    assert set(tables["B6"]["metric"]) == {"Dice Score", "IoU"} == set(published.table("B6")["metric"])
    two = pd.read_csv(pair[1].folder / "segment" / "results.csv")
    two = two[(two["data_type"] == "2-Diff") & (two["samples"] == 2)]
    shown = tables["B3"].query("data_type == '2-Diff' and n == 2 and metric == 'IoU'").iloc[0]
    assert shown["value"] == pytest.approx(two["iou"].mean())
    assert (shown["images"], shown["seeds"]) == (25, 2)
    assert shown["low"] < shown["value"] < shown["high"]
    assert [stamps(run) for run in pair] == before, "nothing is made"


def test_what_both_runs_have_is_counted_once_and_every_cluster_count_is_judged(pair: list[MadeUp]):
    joined = join(pair)
    assert joined.notes == []
    assert not joined.images.duplicated([*FIELDS, "test_set", "image"]).any()
    found = joined.verdicts
    fewer = [v for v in found if v.claim == paperclaims.FEWER]
    assert {v.comparison for v in fewer} == {f"2-{kind}-{n} against 3-{kind}-{n}"
                                             for kind in ("Diff", "Styled-Diff") for n in (1, 2)}
    gan = [v.comparison for v in found if v.claim == paperclaims.SYNTHETIC]
    assert gan == [f"{k}-Styled-Diff-{n} against GAN-{n}" for k in (2, 3) for n in (1, 2)]
    compute = [v.comparison for v in found if v.claim == paperclaims.COMPUTE]
    assert compute == [f"models of {k} clusters against GAN" for k in (3, 2)]
    assert len({(v.claim, v.comparison, v.test_set) for v in found}) == len(found)


@pytest.mark.parametrize(("sections", "says"), [
    ({"data": {"count": 10}}, "data (names, images or image size of the real pairs)."),
    ({"segment": {"test_count": 24}}, "test sets (Phantom)."),
    ({"segment": {"epochs": 3}}, "segmentation networks (segment.epochs)."),
    ({"segment": {"rotate": 90}}, "segmentation networks (segment.rotate)."),
    ({"augment": {"rule": "add"}}, "segmentation networks (augment.rule).")])
def test_runs_that_cannot_be_compared_are_refused_in_a_sentence_in_either_order(
        pair: list[MadeUp], make: Make, sections: dict, says: str):
    other = make(4, **sections)
    for one, another in ((pair[0], other), (other, pair[0])):
        with pytest.raises(UserError) as refusal:
            join([one, another])
        told = f"{one.folder} and {another.folder} cannot be compared: they differ in {says}"
        assert str(refusal.value) == told


def test_intervals_of_joined_runs_resample_what_those_of_each_do(pair: list[MadeUp],
                                                                monkeypatch: pytest.MonkeyPatch):
    joined = join(pair)
    apart = compare.scores(joined)["B3"]
    names = joined.images["image"].unique()
    halves = Grouped("patient", {name: str(number % 2) for number, name in enumerate(names)})
    tests = joined.images["test_set"].unique()
    monkeypatch.setattr(compare.Joined, "groups", dict.fromkeys(tests, halves))
    whole = compare.scores(joined)["B3"]
    assert apart["value"].tolist() == whole["value"].tolist()
    assert not np.allclose(apart["low"], whole["low"])


def test_two_runs_of_one_cluster_count_and_other_pairs_are_refused(pair: list[MadeUp], make: Make):
    again = make(2, "again", gan={"source": None})  # without a GAN the made-up pairs are drawn otherwise
    with pytest.raises(UserError, match=r"both have 2-Diff, but trained on different pairs\.$"):
        join([pair[1], again])


def test_a_run_without_networks_and_one_run_alone_are_refused(pair: list[MadeUp], tmp_path: Path):
    bare = write_run(pair[0].params.model_copy(update={"run_dir": str(tmp_path / "bare")}))
    for runs in ([pair[0]], [pair[0], pair[0]]):
        with pytest.raises(UserError, match="needs two or more runs"):
            join(runs)
    bare.make("data")
    bare.make("tests")
    with pytest.raises(UserError, match="has no networks of chapters 6 and 7: make them with"):
        join([pair[0], bare])


def test_the_command_prints_tables_and_verdicts_and_writes_them(pair: list[MadeUp], tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch):
    runs = {str(run.folder): run for run in pair}
    monkeypatch.setattr(Run, "open", lambda folder: runs[str(folder)])
    out = tmp_path / "tables"
    done = CliRunner().invoke(app, ["compare", *runs, "--csv", str(out)])
    assert done.exit_code == 0, done.output
    for words in ("Runs: k3, k2. All networks have equal optimizer steps", "Phantom Dice Score",
                  "Table B3: Segmentation trained on", "Table B6: Small training sets, r = 2",
                  "consistent improvements (section 3.3.1; K = 20; N = 1, 2, 3): too little data",
                  "; in the paper: 9 of 9", "   2-Styled-Diff-1 against GAN-1, Phantom: +0.000 ["):
        assert words in done.output
    # N is the pairs of each source, and n the real pairs of a small set.
    assert re.search(r"^Table B3: .*\n *N +data type", done.output, re.MULTILINE)
    assert re.search(r"^Table B6: .*\n *n +data type", done.output, re.MULTILINE)
    assert {path.name for path in out.iterdir()} == {"table_B3.csv", "table_B4.csv", "table_B6.csv",
                                                     "claims.csv", "comparisons.csv"}
    table = pd.read_csv(out / "table_B3.csv")
    assert table.columns.tolist() == compare.SCORES
    with pytest.raises(UserError, match=r"nothing in it is replaced\. Name a new or empty folder"):
        compare.write(join(pair), out)


def test_table_b2_has_the_sets_of_every_run():
    def of(name: str, base: float) -> SimpleNamespace:
        rows = [(kind, number, metric, base + number, 30, "") for kind in (name, "GAN") for number in (1, 2)
                for metric in ("FID", "KID", "MS-SSIM")]
        frame = pd.DataFrame(rows, columns=["data type", "set", "metric", "value", "images", "backbone"])
        result = SimpleNamespace(values=frame, metrics=SimpleNamespace(frechet="FID"))
        return SimpleNamespace(finished=lambda chapter: result)
    nothing = SimpleNamespace(finished=lambda chapter: None)
    joined = Joined([of("10-Diff", 30), nothing, of("20-Diff", 40)], pd.DataFrame(), [])
    frame = compare.images(joined)
    assert frame[["data_type", "metric", "set"]].to_numpy().tolist() == [
        [name, metric, number] for name in ("10-Diff", "20-Diff") for number in (1, 2)
        for metric in ("FID", "MS-SSIM")]
    assert frame["value"].tolist() == [31, 31, 32, 32, 41, 41, 42, 42]


def test_a_verdict_of_a_run_alone_is_a_line():
    one = Verdict(paperclaims.STYLING, "a against b", "here", 0.1, difference=0.02, low=-0.1, high=0.2,
                  verdict=UNDECIDED, reason="Why.", scope="for these pairs")
    lines = compare._claims([one]).splitlines()
    assert lines[1].endswith(": undecided for these pairs; in the paper: 9 of 9")
    assert lines[2] == ("   a against b, here: +0.020 [-0.100, +0.200] (published +0.1000). Undecided for "
                        "these pairs. Why.")
