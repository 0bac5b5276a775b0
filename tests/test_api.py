"""The examples of the book's page on the Python API, run in their order on the smallest run there is."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from diffusegen_core.report import book

PAGE = Path(__file__).parents[1] / "book" / "api.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def blocks() -> list[str]:
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def test_the_page_is_in_the_book() -> None:
    assert PAGE.stem in book.FRONT
    assert len(blocks()) > 5


def test_every_example_runs(tmp_path: Path, nano_values: dict, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "smoke.yaml").write_text(yaml.safe_dump(nano_values | {"profile": "smoke"}))
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "my_image.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    side = nano_values["data"]["image_size"]
    assert (tmp_path / "runs" / "trial" / "train" / "cluster-00" / "model.safetensors").is_file()
    assert names["few"].image_size == side
    inside = names["region"] > 0
    for made in (names["filled"], names["placed"]):
        assert made.images.shape == (2, 3, side, side)
        assert (made.images[0].transpose(1, 2, 0)[~inside] == names["image"][~inside]).all()
        assert not made.masks[:, 0, ~inside].any()
    assert (names["placed"].masks[0, 0] == names["lesion"]).all()
    assert (tmp_path / "placed.png").is_file()
    given, healthy, mask = names["given"], names["healthy"], names["where"]
    assert given.image.shape == healthy.image.shape == picture.shape
    assert (given.mask == mask).all()
    assert (given.image[~given.region] == picture[~given.region]).all()
    assert not healthy.mask.any()
    assert names["longer"].params.train.images == 2 * names["run"].params.train.images
    printed = capsys.readouterr().out
    assert f"{nano_values['data']['count']} pairs in {nano_values['cluster']['k']} clusters" in printed
    assert "train.image: unknown key" in printed
    assert "What do they cost? " in printed
