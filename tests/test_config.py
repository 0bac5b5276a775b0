"""What a run is told besides parameters: devices, environment variables, numbers in words, complaints."""

import os

import pytest
import torch

from diffusegen_core.config import checks, devices, text
from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError, printable, some


def test_sampling_is_exact_with_the_usual_convolutions():
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    with devices.exact():
        cudnn = torch.backends.cudnn
        assert (cudnn.enabled, cudnn.deterministic) == (True, True)
        assert (cudnn.benchmark, cudnn.allow_tf32) == (False, False)
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before


def test_an_absent_gpu_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="device: cuda:1 is asked for"):
        devices.device("cuda:1")


def test_environment_variables_are_as_they_were_at_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIFFUSEGEN_SET", "before")
    monkeypatch.delenv("DIFFUSEGEN_UNSET", raising=False)
    monkeypatch.setenv("DIFFUSEGEN_LEFT", "before")
    names = "DIFFUSEGEN_SET", "DIFFUSEGEN_UNSET", "DIFFUSEGEN_LEFT"

    def change() -> None:
        with environment(dict(zip(names, ("now", "now", None), strict=True))):
            assert [os.environ[name] for name in names] == ["now", "now", "before"]
            os.environ["DIFFUSEGEN_LEFT"] = "by what ran within"
            raise RuntimeError
    with pytest.raises(RuntimeError):
        change()
    assert [os.environ.get(name) for name in names] == ["before", None, "before"]


@pytest.mark.parametrize(("seconds", "words"), [
    (0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (10, "10 s"), (59.4, "59 s"),
    (59.6, "1 min 0 s"), (60, "1 min 0 s"), (119.6, "2 min 0 s"),
    (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (2 * 3600 + 5 * 60, "2 h 5 min"),
    (47 * 3600 + 59 * 60, "47 h 59 min"), (48 * 3600, "2 d 0 h"), (79 * 3600, "3 d 7 h"),
    (97_543_440, "1128 d 23 h")])
def test_a_duration_is_told_in_words(seconds: float, words: str):
    assert text.duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [
    (0, "-"), (float("nan"), "-"), (1, "1.00 B"), (999.4, "999 B"), (999.6, "1.00 kB"), (812_000, "812 kB"),
    (4.21e9, "4.21 GB")])
def test_a_size_is_told_in_three_figures(count: float, words: str):
    assert text.size(count) == words


def test_all_that_is_refused_is_told_at_once_under_the_parameters_name():
    def refuse(words: str) -> None:
        raise UserError(words)
    attempts = [lambda: refuse("a is wrong."), lambda: None, lambda: refuse("b is wrong.")]
    assert list(checks.refusals(attempts)) == ["a is wrong.", "b is wrong."]
    assert list(checks.refusals(attempts[:2], "style.weights")) == [
        "Parameters: style.weights: a is wrong."]
    with pytest.raises(ZeroDivisionError):
        list(checks.refusals([lambda: 1 / 0]))


def test_long_lists_are_shortened_and_strangers_text_cannot_move_a_terminal():
    assert some(["a", "b"], 2) == "a, b"
    assert some(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert printable("é\x1b[2J\n\u202e\udcff") == r"é\x1b[2J\n\u202e\udcff"
