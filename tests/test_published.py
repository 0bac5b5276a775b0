"""The transcription of the paper's tables, against the paper's text and against itself."""

import re
from collections import Counter
from pathlib import Path

import pytest
from pybtex.database import parse_file

from diffusegen_core.config.errors import UserError
from diffusegen_core.report import published

ROWS = {"1": 32, "2": 96, "3": 144, "B1": 24, "B2": 48, "B3": 78, "B4": 78, "B5": 144, "B6": 144, "B7": 144}


@pytest.fixture(scope="module")
def printed_rows(shared: Path) -> list[str]:
    """The table rows of the paper's text: its lines that hold tabs."""
    text = (shared / "paper" / "paper.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if "\t" in line]


def transcribed_rows(name: str) -> list[tuple[str, ...]]:
    """Each row of a table of scores as the paper prints it: data type, then six values."""
    rows = published.table(name)
    groups = rows.groupby([c for c in ("n", "data_type") if c in rows], sort=False)
    return [(group["data_type"].iloc[0], *group["printed"]) for _, group in groups]


@pytest.mark.parametrize(("name", "count"), ROWS.items())
def test_a_table_has_all_its_values_and_names_itself(name: str, count: int) -> None:
    rows = published.table(name)
    assert len(rows) == count
    assert set(rows["table"]) == {name}
    assert not rows.isna().any(axis=None)
    assert not rows.drop(columns=["printed", "value"]).duplicated().any()


def test_every_table_of_the_paper_is_there() -> None:
    assert list(published.TABLES) == list(ROWS)


def test_every_value_occurs_as_often_as_the_paper_prints_it(printed_rows: list[str]) -> None:
    in_paper = Counter(re.findall(r"\d+\.\d+", " ".join(printed_rows)))
    written = " ".join(" ".join(published.table(name)["printed"]) for name in ROWS)
    assert Counter(re.findall(r"\d+\.\d+", written)) == in_paper
    assert in_paper.total() == sum(ROWS.values()) - ROWS["B1"]


def test_rows_of_six_values_come_in_the_order_of_the_paper(printed_rows: list[str]) -> None:
    six = re.compile(r"([A-Za-z0-9-]+):?((?:\t\d+\.\d+){6})\t?$")
    in_paper = [(m[1], *m[2].split()) for m in map(six.search, printed_rows) if m]
    # Real in Table 1 and all of B1 and B2 are laid out otherwise in the text.
    ours = [row for name in ROWS if name not in ("B1", "B2") for row in transcribed_rows(name)]
    assert in_paper == [row for row in ours if len(row) == 7]


def test_the_review_and_the_scores_by_cluster_count_come_in_the_order_of_the_paper(
    printed_rows: list[str],
) -> None:
    review = [tuple(line.split("\t")) for line in printed_rows if re.fullmatch(r"[\w-]+(\t\d+){8}", line)]
    assert review == transcribed_rows("B1")
    # Four data types share a line of B2, which goes through the columns.
    lines = [line for line in printed_rows if re.match("10-(Styled-)?Diff 20-", line)]
    rows = transcribed_rows("B2")
    assert [re.findall(r"\d+\.\d+", line) for line in lines] == [
        [row[column] for column in range(1, 7) for row in four] for four in (rows[:4], rows[4:])]


def test_powers_of_ten_are_read() -> None:
    real = published.table("1").query("data_type == 'Real'").set_index("metric")
    assert real.loc["FID", "value"] == -4.412e-5
    assert real.loc["FID", "printed"] == "-4.412 · 10⁻⁵"
    assert set(real["set"]) == {"all"}


def test_trailing_zeros_stay() -> None:
    styled = published.table("1").query("data_type == 'Styled-Diff' and metric == 'MS-SSIM'")
    assert list(styled["printed"]) == ["0.2304", "0.2300", "0.2433"]


def test_table_3_is_table_b7() -> None:
    columns = ["n", "data_type", "r", "test_set", "metric", "printed"]
    assert published.table("3")[columns].equals(published.table("B7")[columns])


@pytest.mark.parametrize(("name", "r"), [("3", 3), ("B5", 1), ("B6", 2), ("B7", 3)])
def test_small_training_sets_are_of_four_sizes(name: str, r: int) -> None:
    rows = published.table(name)
    assert rows.groupby("n", sort=False)["data_type"].nunique().to_dict() == {16: 6, 32: 6, 64: 6, 128: 6}
    assert set(rows["r"]) == {r}


def test_real_does_not_depend_on_r() -> None:
    columns = ["n", "test_set", "metric", "printed"]
    b5, b6, b7 = (published.table(name).query("data_type == 'Real'")[columns] for name in ("B5", "B6", "B7"))
    assert len(b5) == 24
    assert b5.equals(b6)
    assert b6.equals(b7)


@pytest.mark.parametrize(("name", "kind"), [("B3", "Diff"), ("B4", "Styled-Diff")])
def test_the_rows_of_20_clusters_are_those_of_table_2(name: str, kind: str) -> None:
    table_2 = {row[0]: row[1:] for row in transcribed_rows("2")}
    other = {row[0]: row[1:] for row in transcribed_rows(name)}
    assert other["Real"] == table_2["Real"]
    for n in (1, 2, 3):
        assert other[f"20-{kind}-{n}"] == table_2[f"{kind}-{n}"]


def test_the_rows_of_20_clusters_are_those_of_table_1() -> None:
    table_1, table_b2 = ({row[0]: row[1:] for row in transcribed_rows(name)} for name in ("1", "B2"))
    for kind in ("Diff", "Styled-Diff"):
        assert table_b2[f"20-{kind}"] == table_1[kind]


def test_each_question_of_the_review_has_ten_answers_a_type() -> None:
    sums = published.table("B1").groupby(["data_type", "question"])["value"].sum()
    assert len(sums) == 9
    assert (sums == 10).all()


def test_published_clusters_hold_the_348_images() -> None:
    sizes = published.table("cluster_sizes")
    assert sizes.groupby("k")["value"].agg(["count", "sum"]).to_dict("index") == {
        10: {"count": 10, "sum": 348}, 20: {"count": 20, "sum": 348}}
    assert set(sizes["source"]) == {"dsaragih/diffuse-gen"}


def test_an_unknown_table_and_a_missing_folder_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no table B8: there are 1, 2, 3, B1"):
        published.table("B8")
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"table_B2\.csv: work from a checkout"):
        published.table("B2")


def test_every_reference_has_its_link_and_the_paper_its_journal() -> None:
    entries = parse_file(str(published.FOLDER.parent / "references.bib")).entries
    assert len(entries) > 30
    for name, entry in entries.items():
        doi, eprint = entry.fields.get("doi", ""), entry.fields.get("eprint", "")
        assert re.fullmatch(r"10\.\d{4,}/\S+", doi) or re.fullmatch(r"\d{4}\.\d{4,5}", eprint), name
        assert doi or entry.fields["archiveprefix"] == "arXiv", name
    paper = entries["saragih2024"].fields
    assert (paper["doi"], paper["volume"], paper["pages"]) == ("10.1007/s11548-024-03213-z", "19",
                                                              "1615--1625")
