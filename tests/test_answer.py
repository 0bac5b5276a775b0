"""The front page: one verdict a question, from what a run has, and a line for what it lacks."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import changed, values
from PIL import Image
from scipy.stats import binomtest
from test_claims import results

from diffusegen_core import __version__
from diffusegen_core.config import params
from diffusegen_core.data import patients
from diffusegen_core.data.types import DataType
from diffusegen_core.measures import power, shares
from diffusegen_core.measures.intervals import Interval
from diffusegen_core.report import (
    answer,
    book,
    claims,
    cost,
    front,
    keynumbers,
    limits,
    nearcopies,
    opening,
    paperclaims,
    recommendation,
    rule,
    showcase,
    style_tables,
    tables,
    unfinished,
    verdict_tables,
)
from diffusegen_core.report.rule import NOT_MADE, TOO_LITTLE, UNDECIDED, Verdict
from diffusegen_core.run import Run
from diffusegen_core.segmentation import augmentation

PLAIN = params.validate({"inpaint": {"masks": "joint"}})  # one class, polyps
ASKED = ["Better than real pairs alone?", "Better than pasting?", "Better than the GAN?", "Are they copies?",
         "Do the models remember?", "What do they cost?"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def verdict(low: float, high: float, seeds: int = 5, generators: int = 1, images: int = 40,
            claim: paperclaims.Claim = paperclaims.SMALL) -> Verdict:
    """What the rule says of an interval, as `claims.judge` puts it."""
    gain = Interval((low + high) / 2, low, high, images, seeds, generators)
    word, reason = rule.decide(gain, 0.7)
    scope = rule.THESE_PAIRS if word != TOO_LITTLE and generators < rule.LEAST_GENERATORS else ""
    return Verdict(claim, "2-Styled-Paint (r = 3) against Real, 16 real pairs", "HyperKvasir",
                   in_words="16 real pairs with painted ones against the 16 alone",
                   difference=gain.mean, low=low, high=high, images=images, seeds=seeds,
                   generators=generators, verdict=word, reason=reason, scope=scope,
                   chapter="augment")


@pytest.mark.parametrize(("low", "high", "seeds", "generators", "told"), [
    (0.02, 0.06, 5, 1, "better than pasting, for these pairs"),
    (0.02, 0.06, 5, 2, "better than pasting, for these pairs"),
    (0.02, 0.06, 5, 3, "better than pasting"), (-0.06, -0.02, 5, 3, "worse than pasting"),
    (-0.06, -0.02, 5, 1, "worse than pasting, for these pairs"),
    (-0.004, 0.006, 5, 3, "no difference that matters"), (-0.03, 0.05, 5, 3, UNDECIDED),
    (0.02, 0.06, 2, 3, TOO_LITTLE)])
def test_each_verdict_is_told_with_its_interval_and_its_n(low: float, high: float, seeds: int,
                                                          generators: int, told: str) -> None:
    one = answer.compared("pasting", [verdict(low, high, seeds, generators)], PLAIN)
    assert one is not None
    assert (one.question, one.verdict) == ("Better than pasting?", told)
    numbers = f"{(low + high) / 2:+.3f} [{low:+.3f}, {high:+.3f}] in polyp Dice on HyperKvasir"
    of = f"(40 test images, {seeds} repetitions, pairs of {generators} generator{'s'[:generators - 1]})"
    needs = "; a verdict needs 3 repetitions (augment.seeds)" if told == TOO_LITTLE else ""
    assert one.basis == f"16 real pairs with painted ones against the 16 alone: {numbers} {of}{needs}"
    assert one.sentence == f"{told[0].upper()}{told[1:]}: {one.basis}."


def test_several_comparisons_are_told_by_the_one_that_decides() -> None:
    good, bad = verdict(0.02, 0.06), verdict(-0.06, -0.02)
    absent = Verdict(paperclaims.SMALL, "a against b", "PolypGen", reason="The results have no a.")
    mixed = answer.compared("pasting", [good, bad, good, absent], PLAIN)
    assert mixed.verdict == "worse than pasting in 1 of 3 comparisons, for these pairs"
    assert "-0.040 [-0.060, -0.020]" in mixed.basis
    assert mixed.basis.endswith("; the other comparisons: 2 better than pasting (differences from "
                                "-0.040 to +0.040); 1 more has no result")
    assert answer.compared("pasting", [good, good], PLAIN).basis.endswith(
        "; the same verdict on both comparisons (differences from +0.040 to +0.040)")
    assert answer.compared("pasting", [absent], PLAIN) is None, "nothing was compared, so nothing is asked"
    few = verdict(0.02, 0.06, images=5)
    assert answer.compared("pasting", [few], PLAIN).basis.endswith("; a verdict needs 20 images")
    alike = replace(good, verdict=TOO_LITTLE, scope="", low=float("nan"), high=float("nan"))
    assert answer.compared("pasting", [alike], PLAIN).basis.endswith(
        "; the test images are of one sequence, centre or patient")
    blind = replace(good, verdict=TOO_LITTLE, scope="")
    assert answer.compared("pasting", [blind], PLAIN).basis.endswith("; neither network segments")


@pytest.mark.parametrize(("hits", "chance", "of", "told"), [
    (30, 2, 100, answer.MORE), (0, 12, 60, answer.NO_MORE), (3, 2, 40, UNDECIDED), (5, 0, 10, TOO_LITTLE)])
def test_copies_are_judged_against_what_is_flagged_by_chance(hits: int, chance: int, of: int,
                                                             told: str) -> None:
    kind = DataType.parse("2-Styled-Diff")
    row = {"images": of, "either": hits, "by chance": chance / of, "null": of}
    audit = pd.DataFrame({"data type": kind.name, "source": [str(i) for i in range(of)]})
    found = SimpleNamespace(types=[DataType("Real"), kind, kind.inpainted], audit=audit, copies=pd.DataFrame(
        {"Real": row, kind.name: row, kind.inpainted.name: {**row, "images": 0}}).T)
    one = answer.copied(found, PLAIN)
    assert one.verdict == told
    assert ("the interval allows for chance alone, and for copies" in one.basis) == (told == UNDECIDED)
    assert one.basis.startswith(f"{hits} of {of} painted and styled pairs (2-Styled-Diff) are flagged")
    by_chance = f"{chance} of {of} images filled with an object that no model has seen ({chance / of:.1%})"
    assert by_chance.replace("%", " %") in one.basis
    low, high = shares.difference(hits, of, chance, of)
    assert "of 2 painted types" not in one.basis, "one of them has no pairs"
    assert f"[{low:+.1%}, {high:+.1%}]".replace("%", " %") in one.basis


def test_of_several_painted_types_the_one_that_shows_most_is_told_and_how_it_was_chosen() -> None:
    row = {"images": 100, "either": 30, "by chance": 0.02, "null": 100}
    kinds = [DataType.parse("2-Diff"), DataType.parse("2-Styled-Diff")]
    audit = pd.DataFrame([{"data type": kind.name, "source": str(i)} for kind in kinds for i in range(100)])
    found = SimpleNamespace(types=kinds, audit=audit, copies=pd.DataFrame(
        {kinds[0].name: {**row, "either": 2}, kinds[1].name: row}).T)
    told = answer.copied(found, PLAIN).basis
    assert told.startswith("30 of 100 painted and styled pairs (2-Styled-Diff)")
    assert told.endswith(" if the pairs of a source count as one; the most suspect of 2 painted types, so "
                         "the interval is wider")


def test_of_types_with_the_same_difference_the_one_with_more_flagged_pairs_is_the_most_suspect() -> None:
    kinds = [DataType.parse("1-Paint"), DataType.parse("1-Styled-Paint")]
    rows = {kind.name: {"images": 24, "either": hits, "by chance": chance / 24, "null": 24}
            for kind, hits, chance in zip(kinds, (0, 1), (2, 3), strict=True)}
    audit = pd.DataFrame([{"data type": kind.name, "source": str(i % 12)}
                          for kind in kinds for i in range(24)])
    found = SimpleNamespace(types=kinds, audit=audit, copies=pd.DataFrame(rows).T)
    assert answer.copied(found, PLAIN).basis.startswith("1 of 24 painted and styled pairs (1-Styled-Paint)")
    few = {**rows, "1-Paint": {"images": 4, "either": 2, "by chance": 0.0, "null": 24},
           "1-Styled-Paint": {"images": 24, "either": 8, "by chance": 0.0, "null": 24}}
    found = SimpleNamespace(types=kinds, copies=pd.DataFrame(few).T, audit=pd.concat([
        audit[:4].assign(source=list("0011")), audit[24:].assign(source=[str(i) for i in range(24)])]))
    told = answer.copied(found, PLAIN)
    assert told.basis.startswith("8 of 24"), "an interval above 0 counts more than a larger difference"
    assert shares.difference(8, 24, 0, 24, 1, 2)[0] > 0 > shares.difference(2, 4, 0, 24, 2, 2)[0]


def test_the_interval_of_two_shares_is_newcombes() -> None:
    # Newcombe 1998, Table II, example (a), method 10.
    assert shares.difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert shares.difference(112, 140, 96, 160, 2) == shares.difference(56, 70, 48, 80), "two of a source"
    several = shares.difference(56, 70, 48, 80, compared=3)
    assert several[0] < 0.0524 < 0.3339 < several[1]


def test_wilsons_interval_is_scipys() -> None:
    for hits, of in ((0, 12), (3, 20), (20, 20)):
        assert shares.wilson(hits / of, of) == pytest.approx(
            tuple(binomtest(hits, of).proportion_ci(0.95, method="wilson")), abs=1e-9)


def test_long_questions_break_into_lines() -> None:
    """Else the column of reasons is a few letters wide."""
    table = tables.show(pd.DataFrame([("And what?", "undecided", "x")], columns=[tables.QUESTION, "a", "b"]),
                        "x", "X.")
    assert ":class: in-words" in table._repr_markdown_()


def test_pairs_of_a_source_are_not_as_many_as_independent_ones() -> None:
    kind = DataType.parse("2-Styled-Diff")
    row = {"images": 60, "either": 9, "by chance": 1 / 60, "null": 60}

    def found(sources: int) -> answer.Answer:
        audit = pd.DataFrame({"data type": kind.name, "source": [str(i % sources) for i in range(60)]})
        return answer.copied(SimpleNamespace(types=[kind], audit=audit,
                                             copies=pd.DataFrame({kind.name: row}).T), PLAIN)
    assert [found(60).verdict, found(20).verdict] == ["more than by chance", "undecided"]
    assert "if the pairs of a source count as one" in found(20).basis


def test_memory_is_found_only_where_the_interval_lies_above_chance() -> None:
    def found(low: float, high: float = 0.8) -> answer.Answer:
        table = pd.DataFrame([
            {"models": "a", "training pairs": 9, "held-out pairs": 8, "area": 0.5, "low": 0.4, "high": 0.6},
            {"models": "b", "training pairs": 9, "held-out pairs": 8, "area": 0.7, "low": low, "high": high}])
        return answer.remembered(SimpleNamespace(membership=SimpleNamespace(table=table)), PLAIN)
    assert found(0.45).basis.endswith("; the highest of 2 groups of models")
    assert [found(0.55).verdict, found(0.45).verdict] == ["a sign of memory", UNDECIDED]
    assert found(0.55).basis.endswith('; read "Sharing" before you share models or pairs')
    assert "Sharing" not in found(0.45).basis
    assert found(0.51).verdict == UNDECIDED, "the higher of two areas may be so high by chance"
    assert found(0.45, 0.59).verdict == "hardly, if at all"
    assert found(0.14, 0.5).verdict == UNDECIDED, "a wide interval allows no conclusion"
    below = found(0.3, 0.497)
    assert below.verdict == "this test cannot tell", "the training pairs are the harder ones"
    assert "the training pairs have the larger errors" in below.basis
    assert "larger errors" not in found(0.45).basis
    table = pd.DataFrame([
        {"models": "a", "training pairs": 9, "held-out pairs": 8, "area": 0.4, "low": 0.3, "high": 0.47},
        {"models": "b", "training pairs": 9, "held-out pairs": 8, "area": 0.5, "low": 0.4, "high": 0.6}])
    other = answer.remembered(SimpleNamespace(membership=SimpleNamespace(table=table)), PLAIN).basis
    assert "0.500 [0.400, 0.600], where 0.5 is chance" in other
    assert "; for a it is 0.400 [0.300, 0.470], and an interval wholly below 0.5 means" in other
    assert answer.remembered(SimpleNamespace(membership=None), PLAIN) is None


def test_a_whole_run_answers_what_it_can_and_a_partial_one_says_how_to_go_on(nano_run: Run) -> None:
    told = {one.question: one for one in answer.questions(nano_run)}
    assert list(told) == [question for question in ASKED if question in told]
    assert {"Better than real pairs alone?", "Are they copies?", "What do they cost?"} <= set(told)
    assert told["Better than real pairs alone?"].verdict == TOO_LITTLE
    assert told["Better than real pairs alone?"].basis.endswith("; a verdict needs 20 images")
    assert "Better than pasting?" not in told, "the run pastes nothing"
    words = (r".* per pair: that is the mean of \d+ painted and styled pairs \(2-Styled-Diff\), training "
             r"included; everything made in this run took .* s of work, workers and GPUs added up, on .*[.]")
    assert re.fullmatch(words, told["What do they cost?"].sentence)
    assert list(answer.missing(nano_run, list(told))) == [
        "This run has no pasted pairs; `inpaint.baselines` adds them."]
    columns = keynumbers.table(nano_run).frame
    assert columns.columns[0] == "pairs"
    assert {"Dice, trained on them alone", "gain over 4 real pairs", "time per pair"} <= set(columns)
    first, *others = columns.to_dict("records")
    assert first["pairs"] == "real pairs (Real)"
    assert re.fullmatch(r"0[.]\d{3} \[0[.]\d{3},\xa00[.]\d{3}\] alone, trained anew",
                        first["gain over 4 real pairs"]), (
        "to which the gains add")
    assert all(re.match(r"[+-]\d|not tried$|$", one["gain over 4 real pairs"]) for one in others)
    assert "painted and styled pairs (2-Styled-Diff)" in columns["pairs"].tolist()
    assert "- **2-Styled-Diff**: painted into" in keynumbers.glossary(keynumbers.table(nano_run))
    for part in ("segment", "augment", "evaluate"):
        shutil.rmtree(nano_run.folder / part)
    partial = Run.open(nano_run.folder)
    assert [one.question for one in answer.questions(partial)] == ["What do they cost?"]
    page = opening.page(partial)
    assert page.startswith("# What this run has made\n")
    assert headings(page)[:2] == ["The pairs so far", "Key numbers"]
    assert "Look at these pairs before you make the rest: " in page
    assert not re.search("95 %|The answers|What this run found", page), "of which the page has none"
    lacking, *_ = answer.missing(partial, [])
    assert lacking == ("Chapters 5 to 8 are not made. Next: `diffusegen run params.yaml` in the folder run. "
                       "The command that began this run, without `--to`, does the same.")
    assert list(keynumbers.table(partial).frame) == ["pairs", "time per pair"]
    verdicts = claims.of(partial)
    caption = answer.table(partial, verdicts=verdicts).caption
    assert lacking in caption
    assert answer.told(partial).data == f"**This run is not finished.** {lacking}"
    chapters = {one.chapter: one.verdict for one in verdicts}
    assert (chapters["evaluate"], chapters["segment"], chapters["augment"]) == (NOT_MADE,) * 3
    overall = verdict_tables.overall(partial, [one for one in verdicts if one.chapter != "train"])
    assert set(overall.frame["verdict on this run"]) == {NOT_MADE}


def test_a_whole_run_has_no_such_line_and_one_that_has_made_nothing_says_so(nano_run: Run, tmp_path: Path,
                                                                            nano: dict) -> None:
    assert answer.told(nano_run) is None
    nothing = Run.create(folder=tmp_path / "empty", changes=nano | {"run_dir": None})
    assert "Chapters 1 to 8 are not made." in answer.told(nothing).data
    told = answer.table(nothing)
    assert told.frame.to_numpy().tolist() == [
        ["All questions", NOT_MADE, "The run has made nothing yet that answers any."]]
    assert set(verdict_tables.overall(nothing, claims.of(nothing)).frame["verdict on this run"]) == {NOT_MADE}


def test_the_book_opens_with_the_answer(nano_run: Run) -> None:
    front.draw(nano_run)
    page = opening.page(nano_run)
    assert "This part is not here" not in page
    index = book.build(nano_run.folder, [], opening=page).read_text(encoding="utf-8")
    order = ["What this run found", "10 phantoms", "fig-front-strip", "tab-front-answers",
             "Better than real pairs alone?", "tab-front-numbers", "What the data types are",
             "fig-front-best-and-worst", "What this run cannot say", "How to cite",
             "10.1007/s11548-024-03213-z", f"DiffuseGen {__version__}", "About this book",
             "This book is a program"]
    article = index[index.index("<article"):]
    places = [article.find(words) for words in order]
    assert -1 not in places, dict(zip(order, places, strict=True))
    assert places == sorted(places)
    assert 'alt="' in article
    assert not re.search(r'<img(?![^>]*alt="[^"]+")', article)
    about = (nano_run.folder / "site/_build/html/about.html").read_text(encoding="utf-8")
    assert "samples.png" in about
    assert "scheme.png" in about


def headings(page: str) -> list[str]:
    return re.findall(r"^## (.*)", page, re.MULTILINE)


def test_a_run_without_anything_has_a_front_page_too(nano_params: params.Params) -> None:
    page = opening.page(Run(nano_params))
    assert "\n\nNothing to answer yet: chapters 1 to 8 are not made. Next: `diffusegen run" in page
    assert headings(page) == ["What this run cannot say", "How to cite"], "no heading of what is not there"
    assert "{figure}" not in page


@pytest.mark.parametrize(("lost", "chapters", "told"), [
    ({"train", "inpaint", "style", "gan", "evaluate", "segment", "augment"}, "chapters 2 to 8 are",
     {"phantoms", "size", "weights", "use"}),
    ({"inpaint", "style", "gan", "evaluate", "segment", "augment"}, "chapters 3 to 8 are",
     {"phantoms", "size", "weights", "use"}),
    ({"augment"}, "chapters 7 and 8 are", {"phantoms", "size", "one", "seeds", "images", "data", "weights",
                                           "use", "weak"})])
def test_the_front_page_of_a_run_that_was_stopped(nano_run: Run, monkeypatch: pytest.MonkeyPatch,
                                                  lost: set[str], chapters: str, told: set) -> None:
    for part in lost:
        shutil.rmtree(nano_run.folder / part, ignore_errors=True)
    monkeypatch.chdir(nano_run.folder.parent)
    page = opening.page(Run.open("run"))
    next_one = f"{chapters} not made. Next: `diffusegen run run/params.yaml`. {unfinished.AGAIN}"
    assert "This part is not here" not in page
    section = page.partition("## What this run cannot say")[2].partition("## How to cite")[0]
    lines = section.strip().splitlines()
    assert {name for name, words in LIMITS.items() if any(words in line for line in lines)} == told
    assert len(lines) == len(told)
    if "inpaint" not in lost:
        assert next_one[1:] in page
        assert "their sources' surroundings" in section
        assert headings(page)[:2] == ["The answers", "Key numbers"]
    else:
        assert "surroundings" not in section, "nothing was painted"
        assert f"\n\nNothing to answer yet: {next_one}\n\n## What this run cannot say" in page


def test_the_command_that_goes_on_is_as_its_user_would_type_it(nano_params: params.Params, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, words in (("runs/ultrasound", "`diffusegen run runs/ultrasound/params.yaml`"),
                        ("runs/my data", "`diffusegen run 'runs/my data/params.yaml'`"),
                        ("runs/a`b<c", r"diffusegen run 'runs/a\`b&lt;c/params.yaml'")):
        run = Run(nano_params.model_copy(update={"run_dir": str(tmp_path / name)}))
        assert unfinished.command(run) == words
    for numbers, words in (([5], "5"), ([2, 3], "2 and 3"), ([1, 3, 5, 6, 7], "1, 3 and 5 to 7")):
        assert unfinished.spans(numbers) == words


def test_a_grid_that_was_stopped_is_not_finished(nano_run: Run) -> None:
    network = next(one for one in (nano_run.folder / "augment").iterdir() if one.is_dir())
    shutil.rmtree(network)
    told, = unfinished.told(nano_run, unfinished.of(Run.open(nano_run.folder)))
    assert told.startswith("Chapters 7 and 8 are not finished. Next: ")
    for place in ("running", "."):  # while it is executed, and afterwards
        (page := nano_run.folder / "notebooks" / place / unfinished.SUMMARY).parent.mkdir(parents=True)
        page.touch()
        told, = unfinished.told(nano_run, unfinished.of(Run.open(nano_run.folder)))
        assert told.startswith("Chapter 7 is not finished. Next: ")
        shutil.rmtree(nano_run.folder / "notebooks")


def test_broken_results_are_a_line_and_the_book_is_built(nano_run: Run) -> None:
    run = Run.open(nano_run.folder)
    run.read("style")  # before it is spoiled, so that what is drawn is no picture
    for image in (nano_run.folder / "style").glob("*/images/*.png"):
        image.write_bytes(b"no picture")
    page = opening.page(run)
    assert page.count("This part is not here (UnidentifiedImageError): ") == 3
    assert "tab-front-answers" in page
    assert str(nano_run.folder) not in page, "a page that is passed on does not carry a path of this machine"
    spoiled = opening.page(Run.open(nano_run.folder))
    assert "Chapter 4 cannot be read: " in spoiled
    assert str(nano_run.folder) not in spoiled
    assert book.build(nano_run.folder, [], opening=spoiled).is_file()


def test_the_strip_shows_what_the_seed_draws_and_the_ends_what_the_measure_orders(nano_run: Run) -> None:
    one = showcase.chosen(nano_run)
    assert one.data_type.name == "2-Styled-Diff"
    names = showcase.drawn(nano_run, one)["name"].tolist()
    assert names == showcase.drawn(nano_run, one)["name"].tolist()
    assert len(set(names)) == min(showcase.SHOWN, len(one))
    figure = showcase.strip(nano_run)
    assert len(figure.axes) == len(showcase.ROWS) * len(names)
    assert [ax.get_ylabel() for ax in figure.axes[::len(names)]] == list(showcase.ROWS)
    frame = pd.DataFrame({"name": list("abcd"), "seam_after": [3.0, 1.0, np.nan, 2.0],
                          "mask_dice": ["0.5", "", "0.9", "0.7"]})
    (_, drawn), (_, seam) = showcase.MEASURES, showcase.SEAMS
    assert showcase.ordered(frame, seam)["name"].tolist() == ["b", "d", "a"], "a smooth border first"
    assert showcase.ordered(frame, drawn)["name"].tolist() == ["c", "d", "a"], "and a high Dice"
    assert showcase.ordered(frame[["name"]], drawn) is None
    assert showcase.ranked(nano_run).measure == drawn
    assert len(showcase.extremes(nano_run).axes) >= 2
    assert "The best and the worst of" in opening._extremes(nano_run)


@pytest.mark.parametrize(("window", "column", "shown"), [
    (None, "seam_before", "2-Diff"), (2.0, "seam_after", "2-Styled-Diff")])
def test_a_smooth_border_is_called_no_good_pair_and_is_that_of_what_was_filled(
        nano_run: Run, window: float | None, column: str, shown: str) -> None:
    run, p = Run.open(nano_run.folder), nano_run.params
    styled = run.styled
    one = next(iter(styled.sets.values()))
    edited = replace(one, manifest=one.manifest.drop(columns="mask_dice"))  # SDEdit draws no mask
    run._results["style"] = replace(styled, sets={one.data_type: edited})
    run.params = p.model_copy(update={"style": p.style.model_copy(update={"method": "sdedit"}),
                                      "data": p.data.model_copy(update={"window": window})})
    found = showcase.ranked(run)
    assert (found.measure.column, found.of.data_type.name) == (column, shown)
    assert not found.judges
    assert opening.page(run).startswith("# What this run found\n"), "whatever its pictures are called"
    text = opening._extremes(run)
    assert "best" not in text.replace(opening.ENDS, "")
    assert "can have the lowest" in text
    real = style_tables.natural(run, found.of)
    assert f" The real pictures have {real:.1f} on average at the same places." in text
    assert "diffusegen filter" not in text, "which new may have found the run too small for"
    assert f"({shown})" in text
    axes = showcase.extremes(run).axes
    dashed = [ax for ax in axes if any(part.get_linestyle()[0][1] for part in ax.collections)]
    assert dashed, "the border that is measured is drawn"


def test_pairs_that_a_filter_has_judged_are_ranked_by_it(nano_run: Run) -> None:
    run = Run.open(nano_run.folder)
    one = showcase.chosen(run)
    scored = one.manifest.assign(agreement=np.linspace(0, 1, len(one)))
    kept = replace(one, manifest=scored.tail(1), left_out=scored.iloc[:-1])
    run._results["filter"] = SimpleNamespace(judged={one.data_type: SimpleNamespace(kept=kept)})
    found = showcase.ranked(run)
    assert (found.measure.column, found.judges) == ("agreement", True)
    assert found.rows["name"].tolist() == one.manifest["name"].tolist()[::-1], "those rejected as well"


def test_the_source_is_the_picture_that_was_painted_into(nano_run: Run) -> None:
    pairs = nano_run.pairs
    row = SimpleNamespace(source=pairs.names[0], picture=pairs.names[1])
    assert (showcase._source(pairs, row) == pairs.images[1]).all()
    assert (showcase._source(pairs, SimpleNamespace(source=pairs.names[2])) == pairs.images[2]).all()
    assert showcase._source(pairs, SimpleNamespace(source="a", picture="of elsewhere")) is None


def test_the_figures_folder_of_a_stranger_is_not_written_through(nano_run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(nano_run.folder / "figures", ignore_errors=True)
    (nano_run.folder / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(params.UserError):
        opening.page(nano_run)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_pictures_of_the_front_page_are_large(nano_run: Run) -> None:
    opening.page(nano_run)
    assert Image.open(nano_run.folder / "figures" / "strip.png").width >= 1000


LIMITS = {"phantoms": "phantoms drawn by code", "size": "16 pixels a side", "one": "One generator made",
          "two": "2 generators made", "seeds": "needs 3", "few": "3 seeds: too few", "data": "one data set",
          "frames": "Frames of one video", "saw": "drew on all pairs", "weights": "random weights",
          "use": "clinical use", "images": "images, and a verdict needs", "patients": "are of one patient",
          "pasted": "pasted once for all", "weak": "judge the pairs are weak",
          "turned": "turned by any angle"}


@pytest.mark.parametrize(("sections", "generators", "told"), [
    ({}, 1, {"phantoms", "size", "one", "seeds", "images", "data", "saw", "weights", "use"}),
    ({"data": {"source": "kvasir", "image_size": 256}, "segment": {"seeds": 3, "cvc": "somewhere"},
      "augment": {"seeds": 3, "generator_sees": "subset"}}, 2,
     {"two", "few", "images", "frames", "weights", "use", "patients"}),
    ({"data": {"source": "kvasir", "image_size": 256}, "cluster": {"weights": "a file"},
      "segment": {"seeds": 5, "cvc": "x", "weights": "a file", "test_count": 200},
      "augment": {"seeds": 5, "generator_sees": "subset"}, "evaluate": {"weights": "a file"},
      "style": {"weights": "a file"}}, 3, {"frames", "use", "patients"}),
    ({"data": {"source": "kvasir", "image_size": 256, "patients": "each"}, "cluster": {"weights": "a file"},
      "inpaint": {"masks": "varied", "baselines": ["Paste"]}, "filter": {"folds": 3},
      "segment": {"seeds": 5, "cvc": "x", "weights": "a file", "test_count": 200},
      "augment": {"seeds": 5}, "evaluate": {"weights": "a file"}, "style": {"weights": "a file"}}, 3,
     {"frames", "use", "pasted", "turned", "saw"})])
def test_the_limits_follow_from_the_parameters(tmp_path: Path, sections: dict, generators: int,
                                               told: set) -> None:
    p = changed(values(tmp_path / "run"), **sections).model_copy(update={"generators": generators})
    lines = list(limits.of(p))
    assert {name for name, words in LIMITS.items() if any(words in line for line in lines)} == told
    assert len(lines) == len(told)


@pytest.mark.parametrize(("made", "follows"), [
    ({"inpaint"}, "another training may give better ones, or worse"),
    ({"inpaint", "augment"}, "verdicts are for these pairs, and another training might reverse them")])
def test_a_run_without_networks_is_told_of_its_generator_without_verdicts(made: set, follows: str) -> None:
    p = params.validate({"segment": {"seeds": 5}, "augment": {"seeds": 5}})
    line, = [one for one in limits.of(p, made) if one.startswith("One generator made")]
    assert line == f"One generator made the pairs: {follows} (`generators`)."


def test_the_smallest_gain_that_can_be_told_is_a_limit_as_new_says_it() -> None:
    p = params.validate({"segment": {"seeds": 3}, "augment": {"seeds": 3}})
    line, = [one for one in limits.of(p, tests=limits.Tests(36, "")) if "from chance" in one]
    assert line == ("Gains in Dice below about 0.14 cannot be told from chance, with 36 test images and 3 "
                    "repetitions. A gain of 0.05 would take more of both: 124 test images and 12 "
                    "repetitions, for example (by the spread of an earlier run).")
    line, = [one for one in limits.of(p, tests=limits.Tests(
        36, "patient", 9, power.Own(0.07, 3, 1.0, 8))) if "from chance" in one]
    assert line.startswith("Gains in Dice below about 0.07 cannot"), "by the run's own spread"
    assert "so the limit is higher" not in line
    assert "would take 8 repetitions" in line
    own = limits.Tests(36, "", 0, power.Own(0.07, 3, 1.0, 8))
    assert not [one for one in limits.of(p, tests=own) if "too few to detect" in one], "said with numbers"
    five = params.validate({"segment": {"seeds": 3}, "augment": {"seeds": 5}})
    assert [one for one in limits.of(five, tests=own) if "5 repetitions" in one], "the spread is of chapter 7"
    few, = [one for one in limits.of(p, tests=limits.Tests(36, "patient", 9)) if " are of 9 " in one]
    assert few == "The 36 test images are of 9 patients: intervals for others are wide."
    assert not [one for one in limits.of(p, tests=limits.Tests(36, "patient", 12)) if " are of 12 " in one]
    line, = [one for one in limits.of(p, tests=limits.Tests(36, "patient", 12)) if "from chance" in one]
    assert line.endswith(" Several of these images are of one patient, so the limit is higher, and such a "
                         "gain takes more.")
    assert not [one for one in limits.of(p) if "from chance" in one]
    assert not [one for one in limits.of(p, {"train"}, tests=limits.Tests(36, "")) if "from chance" in one]


def test_weak_networks_are_a_limit_with_what_follows() -> None:
    def lines(alone: float, unseen: float | None) -> list[str]:
        found = limits.Tests(36, "", alone=limits.Alone(alone, 14.3), unseen=unseen)
        return [one for one in limits.of(params.validate({}), tests=found) if " are weak: " in one]
    assert not lines(0.8, 0.8)
    assert not lines(0.8, None)
    networks, judges = lines(0.486, 0.42)
    assert "on 14 real pairs alone (other ones chose the epoch), for 12 epochs, they reach 0.49 i" in networks
    assert "real pairs that they have not seen, they reach 0.42 in polyp Dice" in judges
    def room(dice: float) -> bool:
        found = limits.Tests(36, "", own=power.Own(0.09, 3, 1.0, 8), alone=limits.Alone(dice, 14.3))
        return any("there is little room" in one for one in limits.of(params.validate({}), tests=found))
    assert [room(dice) for dice in (0.75, 0.95)] == [False, True]
    organ, = [one for one in limits.of(params.validate({}), tests=limits.Tests(
        36, "", alone=limits.Alone(0.3, 14.3, "liver_lesion"))) if " are weak: " in one]
    assert r"they reach 0.30 in Dice of liver\_lesion on the test images that show it." in organ


def test_how_well_networks_find_real_objects_is_that_of_the_largest_set() -> None:
    run = sets_of(SIZES)
    small = run.finished("augment")
    small.runs = pd.DataFrame({"data_type": ["Real", "Real", "Paste"], "size": [16, 90, 90],
                               "real_pairs": [12, 71, 70]})
    dice, *others = opening._alone(run.params, small, "HyperKvasir")
    assert (round(dice, 1), *others) == (0.6, 71, "")
    assert opening._alone(run.params, small, "CVC-ClinicDB") is None
    real = pd.DataFrame({"agreement": [0.2, 0.6]})
    scorers = SimpleNamespace(scorers=SimpleNamespace(real=real))
    assert opening._unseen(SimpleNamespace(finished={"filter": scorers}.get)) == pytest.approx(0.4)
    assert opening._unseen(SimpleNamespace(finished={"filter": SimpleNamespace(scorers=None)}.get)) is None


@pytest.mark.parametrize(("sources", "told"), [
    (90, "alone, the real pairs are all 90 that models and"), (None, "alone, the real pairs are all 90 that"),
    (16, "they may do better than the sources.")])
def test_the_key_numbers_call_all_pairs_no_part_of_them(monkeypatch: pytest.MonkeyPatch, sources: int | None,
                                                        told: str) -> None:
    pairs = results({"Real-1": 0.5, "2-Paint-1": 0.3}, tests=("HyperKvasir",))
    small = SimpleNamespace(images=pairs, runs=pairs, complete=True, tests=[
        SimpleNamespace(name="HyperKvasir", groups=None, pairs=[])])
    monkeypatch.setattr(cost, "spent", lambda run: [])
    run = SimpleNamespace(params=params.validate({"inpaint": {"sources": sources}}),
                          finished={"segment": small, "data": range(90)}.get)
    alone, = [note for note in keynumbers.table(run).notes if "kind of pairs alone" in note]
    assert told in alone
    assert ("they may do better than the sources" in alone) == (sources == 16)


@pytest.mark.parametrize(("seeds", "told"), [
    ((3, 3), "The segmentation networks were trained with 3 seeds"),
    ((3, 5), "The segmentation networks of chapter 6 were trained with 3 seeds"),
    ((5, 2), "The segmentation networks of chapter 7 were trained with 2 seeds")])
def test_which_networks_have_few_seeds_is_said(seeds: tuple[int, int], told: str) -> None:
    line, = lines_with("were trained with", segment={"seeds": seeds[0]}, augment={"seeds": seeds[1]})
    assert line.startswith(told)


def lines_with(word: str, **sections: dict) -> list[str]:
    return [line for line in limits.of(params.validate(sections)) if word in line]


def test_what_saw_more_than_a_small_set_is_all_named() -> None:
    every, = lines_with("In small sets", inpaint={"baselines": ["Paste"]}, filter={"folds": 3})
    assert "(chapter 7) the generator, pasting and the filter drew on all pairs of the run, more" in every
    alone, = lines_with("In small sets", inpaint={"baselines": None})
    assert "(chapter 7) the generator drew on all pairs of the run, more" in alone
    assert not lines_with("In small sets", augment={"generator_sees": "subset"})


def test_pasting_once_for_all_is_a_limit_where_it_is_done_so() -> None:
    once, = lines_with("pasted once", inpaint={"baselines": ["Paste"]})
    assert "for all repetitions: verdicts on pasted pairs are for these pasted pairs." in once
    p = params.validate({"inpaint": {"baselines": ["Paste"]}, "augment": {"generator_sees": "subset"}})
    assert [line for line in limits.of(p) if "pasted once for all repetitions of chapter 6:" in line]
    assert not [line for line in limits.of(p, {"inpaint", "augment"}) if "pasted once" in line]


@pytest.mark.parametrize(("masks", "baselines", "told"), [
    ("varied", None, "Painted objects are"), ("joint", ["Paste"], "Pasted objects are"),
    ("varied", ["Paste"], "Painted and pasted objects are"), ("own", None, None)])
def test_objects_that_are_turned_are_no_fair_match_for_real_pairs(masks: str, baselines: list | None,
                                                                  told: str | None) -> None:
    lines = lines_with("turned by any angle", inpaint={"masks": masks, "baselines": baselines})
    assert [line.startswith(told or "") for line in lines] == ([True] if told else [])
    assert all("shifts and scale, without any rotation" in line for line in lines)
    plain = lines_with("turned by any angle", inpaint={"masks": "varied"}, segment={"augment": False})
    assert "real pairs are not augmented (`segment.augment: false`)" in plain[0]


    assert not lines_with("turned by any angle", inpaint={"masks": "varied"}, segment={"rotate": 180})


@pytest.mark.parametrize(("classes", "backgrounds", "told"), [
    (["stone"], None, True), (["stone", "*organ* <b>"], None, False), (["stone"], "a folder", False)])
def test_a_limit_names_only_what_could_be_set(classes: list[str], backgrounds: str | None,
                                              told: bool) -> None:
    lines = lines_with("inpaint.within",
                       data={"source": "mine", "labels": {"1": "*organ* <b>", "2": "stone"}},
                       inpaint={"masks": "varied", "classes": classes, "backgrounds": backgrounds})
    assert bool(lines) == told


def test_the_name_of_a_class_is_no_markup_in_a_limit() -> None:
    line, = lines_with("inpaint.within", data={"source": "mine", "labels": {"1": "organ", "2": "*a* <b>"}},
                       inpaint={"masks": "varied", "classes": ["*a* <b>"]})
    assert "*a*" not in line.replace("\\*", "")
    assert "<b>" not in line


@pytest.mark.parametrize("degrees", [0, 180])
def test_real_pairs_are_turned_where_the_parameter_says_so_and_not_else(degrees: float) -> None:
    import albumentations as A
    transform = augmentation.transforms(rotate=degrees)
    affine = next(one for one in transform.transforms if isinstance(one, A.Affine))
    assert affine.rotate == (-degrees, degrees), "else the limit above is wrong"


@pytest.mark.parametrize(("data", "layout", "names", "told"), [
    ({"source": "mine"}, "", "ab", True), ({"source": "mine", "patients": "^(.)"}, "", "ab", False),
    ({"source": "mine", "patients": "each"}, "", "ab", False), ({"source": "phantom"}, "", "ab", False),
    ({"source": "mine"}, "CVC-ClinicDB", ["1", "30"], False),
    ({"source": "mine"}, "CVC-ClinicDB", "ab", True),
    ({"source": "mine"}, "PolypGen", ["C1_a", "C2_a"], True)])
def test_that_nothing_tells_patients_is_said(data: dict, layout: str, names: list, told: bool,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    # As they are split: centres are no patients, each has many.
    pairs = [SimpleNamespace(name=name) for name in names]
    known = patients._sequences(SimpleNamespace(layout=layout, pairs=pairs))
    monkeypatch.setattr(patients, "together", lambda file: known)
    p = params.validate({"data": {**data, "holdout": None}})
    lines = list(limits.of(p, pairs=SimpleNamespace(file=None)))
    assert any("are of one patient" in line for line in lines) == told
    assert not any("are of one patient" in line for line in limits.of(p, {"train", "inpaint"}))
    held = params.validate({"data": {**data, "holdout": 0.3}})
    assert any("are of one patient" in line for line in limits.of(
        held, {"train", "inpaint"}, SimpleNamespace(file=None))) == told, "before any network was tested"
    untested = params.validate({"data": {**data, "holdout": None}, "segment": {"held_out": None}})
    assert not any("are of one patient" in line for line in limits.of(untested))


# ---- of several sizes, generators and kinds


def sets_of(means: dict[str, float], **sections: dict) -> SimpleNamespace:
    """A run of planted small sets, "TYPE/SIZE/RATIO", with nothing else but networks on pairs alone."""
    images = results(means, "augment", tests=("HyperKvasir",), seeds=5)
    tests = [SimpleNamespace(name="HyperKvasir", groups=None, pairs=[])]
    small = SimpleNamespace(images=images, runs=images, tests=tests, complete=True)
    made = {"augment": small, "data": range(90)}
    return SimpleNamespace(params=params.validate(sections), finished=made.get)


SIZES = {"Real/16/": 0.4, "Paste/16/3": 0.6, "2-Styled-Paint/16/3": 0.5,
         "Real/90/": 0.6, "Paste/90/3": 0.6, "2-Styled-Paint/90/3": 0.7}


def test_the_first_answers_are_of_the_largest_set_as_the_advice_above_them_is(
        monkeypatch: pytest.MonkeyPatch) -> None:
    run = sets_of(SIZES, augment={"rule": "add"})
    monkeypatch.setattr(answer, "spent", lambda run: None)
    images = run.finished("augment").images
    told = {one.question: one for one in answer.questions(run, claims.judge(images, 300, 0))}
    alone, pasting = told["Better than real pairs alone?"], told["Better than pasting?"]
    assert alone.verdict == "better than real pairs alone, for these pairs"
    assert alone.basis.startswith("training on 90 real pairs, with 3 painted and styled pairs "
                                  "(2-Styled-Paint) added for each of about half of them, against the 90 "
                                  "alone: +0.100")
    assert "; the same verdict on both comparisons (differences from +0.1" in alone.basis, "16 pairs as well"
    assert pasting.verdict == "better than pasting, for these pairs", "and not the worst of both sizes"
    assert pasting.basis.startswith("training on 90 real pairs, ")
    assert "; the other comparisons: 1 worse than pasting with fewer real pairs (" in pasting.basis
    assert recommendation.of(run).startswith(
        "**On these data (all 90 real training pairs): painted pairs help more")
    small = claims.overall(claims.judge(images, 300, 0))[paperclaims.PASTING]
    assert small == rule.REFUTED, "chapter 8 still asks for all comparisons"


def test_each_further_painted_type_that_was_tried_has_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    run = sets_of({**SIZES, "2-Paint/16/3": 0.6, "2-Paint/90/3": 0.5}, augment={"rule": "add"})
    monkeypatch.setattr(answer, "spent", lambda run: None)
    told = answer.questions(run, claims.judge(run.finished("augment").images, 300, 0))
    first, second = (one.question for one in told[:2])
    assert (first, second) == ("Better than real pairs alone?", "And painted pairs (2-Paint)?")
    assert told[1].verdict == "worse than real pairs alone, for these pairs"
    assert told[1].basis.startswith("training on 90 real pairs, with 3 painted pairs (2-Paint) added")
    assert told[2].question == "Does pasting help?"


@pytest.mark.parametrize(("at_90", "told"), [
    (0.7, "better than real pairs alone, for these pasted pairs"),
    (0.5, "worse than real pairs alone, for these pasted pairs"),
    (0.6, "no difference that matters, for these pasted pairs")])
@pytest.mark.parametrize("painted", [True, False])
def test_whether_pasting_helps_is_answered_of_the_largest_set(
        monkeypatch: pytest.MonkeyPatch, at_90: float, told: str, painted: bool) -> None:
    means = {name: mean for name, mean in SIZES.items() if painted or "Paint" not in name}
    run = sets_of({**means, "Paste/90/3": at_90}, augment={"rule": "add"})
    monkeypatch.setattr(answer, "spent", lambda run: None)
    monkeypatch.setattr(answer, "missing", lambda *told: ())
    one, = [one for one in answer.questions(run, []) if one.question == "Does pasting help?"]
    assert one.verdict == told
    assert one.basis.startswith("training on 90 real pairs, with 3 pasted pairs (Paste) added for each of ")
    assert " with fewer real pairs" in one.basis or "same verdict on both" in one.basis
    caption = answer.table(run, verdicts=[]).caption
    assert "paired 95 % intervals" in caption
    assert "choose the best epoch" in caption
    monkeypatch.setattr(run, "finished", {}.get)
    assert not answer.questions(run, []), "where nothing was tried"


def test_what_networks_on_pairs_alone_say_of_pasting_stands_beside_the_largest_set() -> None:
    sized = [verdict(0.02, 0.06)]
    alone = replace(verdict(-0.06, -0.02, claim=paperclaims.PASTING), chapter="segment")
    smaller = verdict(-0.06, -0.02, claim=paperclaims.PASTING)
    one = answer.compared("pasting", [alone, smaller], PLAIN, sized)
    assert one.verdict == "better than pasting, for these pairs"
    assert ("; the other comparisons: 1 worse than pasting when training on such pairs alone, without any "
            "real ones (" in one.basis), "the smaller one is in `sized`"
    same = answer.compared("pasting", [replace(alone, verdict=rule.SUPPORTED)], PLAIN, sized)
    assert ("; the same verdict on both comparisons, 1 of them when training on such pairs alone, without "
            "any real ones (" in same.basis)
    small = replace(alone, chapter="augment", claim=paperclaims.PARTLY)
    both = answer.compared("the GAN", [replace(small, verdict=UNDECIDED), alone, small], PLAIN)
    assert both.verdict == "worse than the GAN in 2 of 3 comparisons, for these pairs"
    assert "; the other comparisons: 1 undecided in small sets of real pairs" in both.basis


def test_the_gains_say_which_pairs_were_not_tried_and_why_real_pairs_have_two_values(
        monkeypatch: pytest.MonkeyPatch) -> None:
    run = sets_of({"Real/16/": 0.4, "2-Styled-Paint/16/3": 0.5})
    pairs = results({"Real-1": 0.5, "2-Paint-1": 0.3, "2-Styled-Paint-1": 0.4}, tests=("HyperKvasir",))
    made = {"augment": run.finished("augment"), "segment": SimpleNamespace(
        images=pairs, runs=pairs, tests=run.finished("augment").tests, complete=True)}
    monkeypatch.setattr(cost, "spent", lambda run: [])
    table = keynumbers.table(SimpleNamespace(params=run.params, finished=made.get))
    gains = table.frame.set_index("pairs")["gain over 16 real pairs"]
    assert gains["painted pairs (2-Paint)"] == keynumbers.NOT_TRIED
    assert gains["real pairs (Real)"].endswith("] alone, trained anew")
    assert gains["painted and styled pairs (2-Styled-Paint)"].startswith("+0.1")
    assert "Not tried: chapter 7 was not asked for these pairs (`augment.types`)." in table.notes
    assert keynumbers.ANEW in table.notes
    assert table.caption == ("Key numbers of this run; Dice and differences with 95 % intervals. Dice is "
                             "polyp Dice on HyperKvasir.")
    small = keynumbers.table(run)
    assert not [note for note in small.notes if note.startswith((keynumbers.ANEW, "Not tried"))]
    assert small.notes, "how gains are computed"
    assert small.frame["gain over 16 real pairs"][0].endswith("] alone")


@pytest.mark.parametrize(("alone", "why"), [
    (["2-Styled-Paint"], ["the generators"]), (["Paste"], ["chapter 7 was"]),
    (["2-Styled-Paint", "1-Paint"], ["the generators", "chapter 7 was"])])
def test_where_generators_see_small_sets_pairs_of_other_clusters_could_not_be_tried(
        alone: list[str], why: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = sets_of({"Real/16/": 0.4, "1-Styled-Paint/16/3": 0.5})
    subset = run.params.model_copy(update={"augment": run.params.augment.model_copy(
        update={"generator_sees": "subset", "subset_clusters": 1})})
    pairs = results({f"{kind}-1": 0.5 for kind in ("Real", *alone)}, tests=("HyperKvasir",))
    made = {"augment": run.finished("augment"), "segment": SimpleNamespace(
        images=pairs, runs=pairs, tests=run.finished("augment").tests, complete=True)}
    monkeypatch.setattr(cost, "spent", lambda run: [])
    notes = keynumbers.table(SimpleNamespace(params=subset, finished=made.get)).notes
    told = {"the generators": "the generators of chapter 7 see only small sets, in 1 cluster "
            "(`augment.subset_clusters`)", "chapter 7 was": "chapter 7 was not asked for these pairs "
            "(`augment.types`)"}
    assert f"Not tried: {', or '.join(told[one] for one in why)}." in notes


def test_more_real_pairs_have_a_row_of_their_own() -> None:
    table = keynumbers.table(sets_of({**SIZES, "Real/30/": 0.45}))
    rows = table.frame.set_index("pairs")
    more = rows.loc["more real pairs instead (More-Real)"]
    assert re.match(r"14 more: [+]0[.]049 \[[+]0[.]04", more["gain over 16 real pairs"])
    assert re.match(r"60 more: [+]0[.]1[45]\d \[[+]0[.]1", more["gain over 30 real pairs"])
    assert more["gain over 90 real pairs"] == "", "of which there are no more"
    assert list(rows.index)[:2] == ["real pairs (Real)", "more real pairs instead (More-Real)"]
    assert "- **More-Real**: what the next larger set of real pairs gains" in keynumbers.glossary(table)
    one_size = keynumbers.table(sets_of({"Real/16/": 0.4, "Paste/16/3": 0.6}))
    assert not one_size.frame["pairs"].str.contains("More-Real").any()


def audited(pasted: bool = True) -> SimpleNamespace:
    """An audit of painted pairs and, if so, of pasted ones, of which it flags few."""
    kinds = [DataType.parse("2-Styled-Paint"), *([DataType("Paste")] if pasted else [])]
    row = {"images": 100, "either": 3, "by chance": 0.02, "null": 100}
    audit = pd.DataFrame([{"data type": kind.name, "source": str(i)} for kind in kinds for i in range(100)])
    table = pd.DataFrame([{"models": "a", "training pairs": 9, "held-out pairs": 8, "area": 0.5, "low": 0.4,
                           "high": 0.6}])
    equal = pd.DataFrame({"metric": ["FD"], "data type": ["2-Styled-Paint"], "value": [1.0]})
    found = pd.DataFrame({kind.name: [0.97, 1.0, 0.5] for kind in kinds},
                         index=["exact", "mirrored", "zoomed by 10%"])
    return SimpleNamespace(types=kinds, audit=audit, found=found, membership=SimpleNamespace(table=table),
                           metrics=SimpleNamespace(frechet="FD"), equal=equal,
                           copies=pd.DataFrame({kind.name: {**row, "either": 30 if kind.is_pasted else 3}
                                                for kind in kinds}).T)


def test_of_several_generators_copies_and_memory_are_told_of_the_first() -> None:
    for generators, told in ((1, False), (3, True)):
        p = params.validate({"generators": generators, "inpaint": {"masks": "own"}})
        for one in (answer.copied(audited(False), p), answer.remembered(audited(False), p)):
            assert one.basis.endswith("; for the first of 3 generators") == told
        run = SimpleNamespace(params=p, finished={"evaluate": audited(False)}.get)
        notes = list(keynumbers._audited(run, ["2-Styled-Paint"]))
        assert notes == ["Near-copies and distances are for the first of 3 generators."] * told


def test_the_audit_says_which_copies_it_would_not_find_and_shows_what_it_finds_of_pasted_ones(
        monkeypatch: pytest.MonkeyPatch) -> None:
    def basis(masks: str, pasted: bool) -> str:
        return answer.copied(audited(pasted), params.validate({"inpaint": {"masks": masks}})).basis
    there = "; of copies planted at their own place the audit finds 97 % or more, but "
    assert basis("varied", True).endswith(f"{there}{nearcopies.UNFOUND} (of pasted objects, all copies, the "
                                          "audit flags 30 of 100 pasted pairs (Paste))")
    assert basis("varied", False).endswith(f"{there}{nearcopies.UNFOUND}")
    every = audited(False)
    every.found.loc["exact"] = 1.0
    p = params.validate({"inpaint": {"masks": "varied"}})
    assert "the audit finds all, but copies that were moved, turned or" in answer.copied(every, p).basis
    every.found = every.found.iloc[:0]
    assert answer.copied(every, p).basis.endswith(f"for copies; {nearcopies.UNFOUND}"), "none was planted"
    assert nearcopies.UNFOUND in basis("joint", True)
    blind = audited()
    blind.copies.loc["Paste", "either"] = 4
    told = answer.copied(blind, params.validate({"inpaint": {"masks": "varied"}}))
    assert told.verdict == answer.CANNOT_TELL, "what does not find pasted objects clears no painted ones"
    assert ("; the difference may be chance, as its interval does not lie above 0, but the audit could not "
            "clear the pairs anyway, as it may miss their copies; of copies planted") in told.basis
    assert told.basis.endswith("flags 4 of 100 pasted pairs (Paste), not shown to be more than by chance)")
    blind.copies.loc["2-Styled-Paint", "either"] = 30
    assert answer.copied(blind, params.validate({"inpaint": {"masks": "varied"}})).verdict == answer.MORE
    assert nearcopies.UNFOUND not in basis("own", False)
    monkeypatch.setattr(cost, "spent", lambda run: [])
    run = SimpleNamespace(params=params.validate({}), finished={"evaluate": audited()}.get)
    table = keynumbers.table(run)
    cells = dict(zip(table.frame["pairs"], table.frame["near-copies (by chance)"], strict=True))
    assert cells["pasted pairs (Paste)"] == "30.0 % (2.0 %)"
    assert "Pasted objects are all copies: their row shows how many of them the audit finds." in table.notes
    assert "Copies that were moved, turned or scaled may be missed." in table.notes
    folded = table._repr_markdown_().partition("::::{dropdown} How to read this table\n- ")[2]
    assert folded.count("\n- ") == len(table.notes) - 1
    assert table._repr_html_().count("<li>") == len(table.notes)
