"""The membership test: it asks every model once, about the pairs that it saw and about others."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffusegen_core.chapters import membership
from diffusegen_core.chapters.membership import CLUSTERS, ERRORS, LEVELS, Membership
from diffusegen_core.config.data import Data
from diffusegen_core.data import windows
from diffusegen_core.report import evaluate_figures, evaluate_tables
from diffusegen_core.run import Run
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import STAMP


def made_up(models: dict[str, float]) -> Membership:
    """Errors of models of two clusters, each of which has seen the pairs whose names begin with it; `models`
    says by how much less is wrong with what a model has seen."""
    rng, rows = np.random.default_rng(0), []
    for model, less in models.items():
        for member in (True, False):
            for i in range(40):
                own = member and (i % 2 == 0) == (model == "cluster-00")
                errors = rng.normal(1 - less * own, 0.05) * np.linspace(1, 0.1, LEVELS)
                rows.append((CLUSTERS, model, f"{'seen' if member else 'new'}{i}", member, *errors))
    return Membership(pd.DataFrame(rows, columns=ERRORS), 0, 1.0, "")


def test_memory_is_found_and_its_absence_as_well() -> None:
    mine = made_up({"cluster-00": 0.3, "cluster-01": 0.3}).table.iloc[0]
    assert (mine["training pairs"], mine["held-out pairs"]) == (40, 40)
    assert mine["area"] > 0.95
    assert mine["recognised"] > 0.9
    none = made_up({"cluster-00": 0.0, "cluster-01": 0.0}).table.iloc[0]
    assert none["low"] < 0.5 < none["high"]


def test_every_level_counts_the_same_however_large_its_errors() -> None:
    told = made_up({"cluster-00": 0.3})
    large = replace(told, errors=told.errors.assign(**{"level 3": told.errors["level 3"] * 1000}))
    for one, other in zip(told.error(CLUSTERS), large.error(CLUSTERS), strict=True):
        np.testing.assert_allclose(one, other)


@pytest.fixture
def tested(nano_run: Run) -> tuple[Run, Membership]:
    told = nano_run.evaluated.membership
    assert told is not None
    return nano_run, told


def asked(run: Run, count: int | None = 64, writable: bool = True) -> Membership | None:
    held_out = next(iter(run.tests.values())).pairs
    return membership.ask(replace(run.workspace, writable=writable), run.pairs, held_out, run.models,
                          run.params.data, count)


def test_a_run_tests_all_its_models_on_equally_noisy_pairs(tested: tuple[Run, Membership]) -> None:
    run, told = tested
    assert list(told.errors.columns) == ERRORS
    assert set(told.errors["model"]) == {model.name for model in run.models.all}
    assert told.errors.groupby(["models", "member"])["name"].nunique().tolist()[:2] == [4, 10]
    assert np.isfinite(told.errors[ERRORS[4:]].to_numpy()).all()
    assert set(told.errors.loc[told.errors["member"], "name"]) <= set(run.pairs.names)
    assert not set(told.errors.loc[~told.errors["member"], "name"]) & set(run.pairs.names)


def test_an_error_depends_on_the_pair_and_the_seed_alone(tested: tuple[Run, Membership]) -> None:
    run, told = tested
    diffusion = run.models.load("cluster-00", "cpu")
    rows = told.errors[(told.errors["model"] == "cluster-00") & told.errors["member"]]
    one = rows.iloc[3]
    errors = membership.errors(diffusion, run.pairs.named([one["name"]]), run.params.seed)
    np.testing.assert_allclose(errors[0], one[ERRORS[4:]].to_numpy(dtype=float), rtol=1e-5)
    other = membership.errors(diffusion, run.pairs.named([one["name"]]), run.params.seed + 1)
    assert not np.allclose(other, errors)


def test_models_are_asked_once_and_only_where_something_may_be_made(tested: tuple[Run, Membership],
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    run, told = tested
    fewer = asked(run, 4)
    assert fewer is not None
    assert fewer.table["training pairs"].unique().tolist() == [4]
    with pytest.raises(NotMadeError):
        asked(run, 5, writable=False)
    place = run.folder / "evaluate/membership/cluster-01"
    place.rename(run.folder / "gone")
    asked(run, 4)
    assert (place / STAMP).is_file()
    monkeypatch.setattr(membership, "errors", None)
    again = asked(run, 4)
    assert again is not None
    pd.testing.assert_frame_equal(again.errors, fewer.errors)
    assert told.seconds > 0


def test_members_are_those_that_the_models_have_seen(tested: tuple[Run, Membership],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = tested
    known = dict.fromkeys(run.pairs.names[:6], "")
    looks = membership.origins.fingerprints(run.pairs)
    monkeypatch.setattr(membership.origins, "read_fingerprints",
                        lambda path: {name: looks[name] for name in known})
    told = asked(run)
    assert told is not None
    assert set(told.errors.loc[told.errors["member"], "name"]) == set(known)
    windowed = {f"{name}~{copy}": "" for name in known for copy in range(4)}
    monkeypatch.setattr(membership.origins, "read_fingerprints", lambda path: windowed)
    assert membership._seen(run.models.models, run.pairs, True) == list(known)


def test_where_nothing_can_be_tested_the_page_says_why(tested: tuple[Run, Membership]) -> None:
    run, _ = tested
    assert asked(run, None) is None
    assert asked(run, 3) is None
    ws, data = run.workspace.read_only, Data()
    assert membership.ask(ws, run.pairs, None, run.models, data, 64) is None
    assert membership.ask(ws, run.pairs, run.pairs, None, data, 64) is None
    untested = replace(run.evaluated, membership=None)
    assert "evaluate.membership is null" in evaluate_tables.membership(untested).caption
    nobody = replace(untested.held_out, pairs=None, note="not given: segment.held_out")
    none = replace(untested, held_out=nobody)
    assert "holds no pairs out (not given: segment.held\\_out)" in evaluate_tables.membership(none).caption
    plt.close(evaluate_figures.membership(untested))


def test_the_table_and_the_figure_tell_of_every_group(tested: tuple[Run, Membership]) -> None:
    run, told = tested
    frame = evaluate_tables.membership(run.evaluated).frame
    assert frame["models"].tolist() == told.groups
    assert frame["95 % interval"].str.contains(" to ").all()
    figure = evaluate_figures.membership(run.evaluated)
    curves, levels = figure.axes
    assert len(curves.lines) == len(told.groups) + 1
    assert len(levels.lines[0].get_xdata()) == LEVELS
    plt.close(figure)


def test_models_of_windows_are_shown_the_first_window_of_each_pair(nano_run: Run) -> None:
    everything = windows.training(nano_run.workspace, nano_run.pairs, 2.0, 8)
    shown = membership._shown(nano_run.params.seed, nano_run.pairs, (2.0, 8, None))
    assert shown.names == everything.names[::windows.COPIES]
    np.testing.assert_array_equal(shown.images, everything.images[::windows.COPIES])
