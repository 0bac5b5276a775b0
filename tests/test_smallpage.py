"""The page "Results at small scale", from a finished run."""

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import smallpage
from PIL import Image

from diffusegen_core.config import params
from diffusegen_core.run import Run

WALL = {"chapters": {"01_cluster": 61.0, "02_train": 600.0}, "seconds": 700.0, "device": "a CPU",
        "generators": 1}


@pytest.fixture
def page(nano_run: Run) -> str:
    return smallpage.page(nano_run, nano_run, WALL, smallpage.sampled(nano_run))


def test_the_page_has_what_the_run_found(page: str):
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "Set-up", "Time", "Samples", "What was found", "Distances, copies and memory",
        "What the filter keeps", "Pairs alone", "Small sets with synthetic pairs",
        "Generators that saw a small set alone", "Verdicts",
        "What this run cannot say", "Earlier runs"]
    assert "Gains in polyp Dice over training on that many real pairs alone" in page
    assert "| everything, from the first chapter to the last | 11 min 40 s |" in page
    assert "10 pairs, 10 phantoms" in page
    labels = re.findall(r"^:name: (.*)", page, re.MULTILINE)
    assert len(set(labels)) == len(labels) > 10
    own = "tab-small-", "fig-small-", "tab-earlier-"
    assert all(label.startswith(own) for label in labels), "others are chapters'"


def test_the_command_names_what_differs_from_the_profile_and_no_place_of_this_machine(nano_run: Run):
    values = params.merged(params.plain(nano_run.params), {
        "segment.cvc": "/mnt/somebody/cvc", "segment.weights": "/mnt/somebody/net.pth"})
    text = smallpage.command(type("Other", (), {"params": params.validate(values)}))
    assert "    -p data.count 10 \\\n" in text
    assert "-p segment.cvc /path/to/CVC-ClinicDB" in text
    assert "-p segment.weights /path/to/mobilenet_v2.pth" in text
    assert "-p cluster.weights random" in text
    assert "somebody" not in text
    assert "run_dir" not in text


def test_the_page_says_in_which_values_the_run_is_not_the_profile():
    profile = params.load(params.profile_file(smallpage.PROFILE))
    own = params.merged(profile, {"generators": 3, "train.min_snr": None, "segment.weights": "net.pth",
                                  "segment.input_range": "symmetric"})
    runs = [type("Other", (), {"params": params.validate(values)}) for values in (own, profile)]
    assert list(map(smallpage.apart, runs)) == [
        ", with `generators: 3` and `train.min_snr: null` in place of its own values", ""]


def test_no_pixel_outside_what_was_filled_is_shown(nano_run: Run, tmp_path: Path):
    figure = smallpage.drawn(nano_run, smallpage.sampled(nano_run))
    figure.savefig(tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").width > 100
    one = next(iter(nano_run.inpainted.sets.values()))
    shown = np.asarray(figure.axes[0].images[0].get_array()).transpose(2, 0, 1)
    name = smallpage.drawn_names(nano_run, next(iter(nano_run.styled.sets.values())))[0]
    source = one.manifest.set_index("name").loc[name, "source"]
    lesion = nano_run.pairs.masks[nano_run.pairs.names.index(source), 0]
    far = cv2.dilate(lesion, np.ones((11, 11), np.uint8)) == 0  # farther than inpaint.dilate reaches
    assert far.any()
    assert (shown[:, far] == 255).all()
    assert (shown[:, lesion > 0] != 255).any()


def test_the_square_around_a_region_stays_inside_the_image():
    region = np.zeros((32, 32), bool)
    region[0:3, 20:32] = True
    top, bottom, left, right = smallpage.window(region)
    assert (top, left) == (0, 16)
    assert bottom - top == right - left == 16
    region[:] = True
    assert smallpage.window(region) == (0, 32, 0, 32)


def test_masks_from_noise_are_counted_and_drawn_as_they_are(nano_run: Run):
    noise = smallpage.sampled(nano_run)
    for pairs in noise:
        pairs.masks[:] = 0
    assert smallpage.masked(noise).startswith(f"None of the {len(noise) * smallpage.SHOWN} masks")
    noise[-1].masks[2, :, 4:8, 4:8] = 1
    assert smallpage.masked(noise).startswith("1 of the")
    noise[-1].masks[3, :, 4:8, 4:8] = 1
    assert smallpage.masked(noise).startswith("2 of the")
    drawn = smallpage.drawn(nano_run, noise).axes[-smallpage.SHOWN:]  # the masks of the last model
    images = [axes.images[0] for axes in drawn]
    assert [number for number, image in enumerate(images) if image.get_array().any()] == [2, 3]
    assert images[2].norm(1) == 1, "a mask of ones is white"
