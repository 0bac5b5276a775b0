"""The style of the figures: a data type looks the same in all of them, for colour-blind readers too."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from diffusegen_core.chapters.inpaint import Inpainted
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import DataType
from diffusegen_core.report import evaluate_figures, figures

TYPES = ["Real", "GAN", "Paste", "Paste-Poisson", "3-Paint", "3-Styled-Paint", "Full-Paint",
         "Full-Styled-Paint"]
# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as seen without red, green or blue cones.
SEEN = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                 [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                [0.004733, 0.691367, 0.303900]]}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def cielab(colour: str, cones: np.ndarray) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.asarray(cones) @ linear, 0, 1) / (0.95047, 1, 1.08883)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("cones", SEEN.values(), ids=SEEN)
def test_colour_blind_readers_tell_data_types_apart(cones: np.ndarray) -> None:
    seen = [cielab(figures.look(name)["color"], cones) for name in TYPES]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


def test_no_data_type_depends_on_its_colour_alone_and_a_filtered_one_is_like_what_it_was() -> None:
    assert len({figures.look(name)["marker"] for name in TYPES}) == len(TYPES)
    kept, origin = figures.look("3-Filtered-Styled-Paint"), figures.look("3-Styled-Paint")
    assert (kept["color"], kept["marker"]) == (origin["color"], origin["marker"])
    assert kept["markerfacecolor"] == "white"
    assert kept["linestyle"] not in {figures.look(name)["linestyle"] for name in TYPES}


@pytest.mark.parametrize("shown", [TYPES, TYPES[2:], ["Full-Styled-Paint", "Real"]])
def test_a_data_type_keeps_its_look_whatever_else_is_shown(shown: list[str]) -> None:
    types = [DataType.parse(name) for name in shown]
    audit = pd.DataFrame([{"data type": name, "score": score, "feature_score": score}
                          for name in shown for score in (0.1, 0.5)])
    scores = evaluate_figures.copy_scores(SimpleNamespace(  # type: ignore[arg-type]
        types=types, audit=audit, null=audit.head(0)))
    areas = figures.areas(Inpainted({one: made(one) for one in types}))
    for figure in (scores, areas):
        drawn = {line.get_label(): line for line in figure.axes[0].lines}
        assert {name: drawn[name].get_color() for name in shown} == {
            name: figures.look(name)["color"] for name in shown}
    legend, = areas.legends
    assert [text.get_text() for text in legend.get_texts()] == shown
    assert areas.axes[0].get_legend() is None, "a mark among the pairs would be taken for a pair"


def test_every_column_of_a_block_has_a_heading() -> None:
    """The second of two pairs made of a source had none."""
    manifest = pd.DataFrame([{"source": source, "name": f"{source}_{number}"}
                             for source, pairs in (("a", 2), ("b", 2), ("c", 1)) for number in range(pairs)])
    _, blocks = figures.in_blocks(manifest, "synthetic")
    headings = {name: [ax.get_title() for ax in axes[0]] for name, _, axes in blocks}
    assert headings == {"a": ["source", "synthetic", "synthetic"], "b": ["source", "synthetic", "synthetic"],
                        "c": ["source", "synthetic", ""]}


def test_a_mask_that_was_given_is_not_called_generated() -> None:
    ax, = figures.areas(Inpainted({one: made(one) for one in [DataType.parse("3-Paint")]})).axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("area of the source mask", "area of the new mask")


def made(data_type: DataType) -> PairSet:
    manifest = pd.DataFrame({"area_before": [0.1], "area_after": [0.2]})
    return PairSet(data_type, Path(), manifest, manifest.head(0), {}, {"seconds": 0})
