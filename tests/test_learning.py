"""benchmarks/learning.py: ways that can be, with as many images each, and errors by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import learning

from diffusegen_core.config.sections import Process
from diffusegen_core.data import dataset
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion


def test_every_way_is_a_run_that_can_be_and_sees_as_many_images(tmp_path: Path):
    asked = SimpleNamespace(weights=Path("w.pth"), data=Path("kvasir"), sources=4, images=800,
                            folder=tmp_path)
    runs = [learning.run_of(asked, way) for way in learning.WAYS]
    assert len({run.folder for run in runs}) == len(runs)
    assert {run.params.train.images * run.params.cluster.k for run in runs} == {800}
    assert len({run.params.train.model_dump_json() + str(run.params.cluster.k) for run in runs}) == len(runs)


@pytest.fixture
def pairs() -> dataset.Pairs:
    rng, masks = np.random.default_rng(0), np.zeros((3, 1, 8, 8), np.uint8)
    masks[:, :, 2:5, 3:6] = 1
    return dataset.gather(["a", "b", "c"], rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8), masks)


def test_the_error_in_the_lesion_is_of_its_pixels_alone(pairs: dataset.Pairs):
    schedule = process.schedule(Process())
    wrong = torch.zeros(1, 4, 8, 8)

    def net(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Right but for `wrong`: v from x_t and the known image."""
        clean = dataset.to_tensor(pairs.take([net.row])).expand_as(x)
        a = schedule.alpha_bar[timestep.long()].float()[:, None, None, None]
        eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return torch.cat([a.sqrt() * eps - (1 - a).sqrt() * clean + wrong, x], dim=1)

    def errors(row: int) -> tuple[np.ndarray, np.ndarray]:
        net.row = row
        return learning.errors(Diffusion(net, schedule, "v"), pairs.take([row]), 0)

    whole, inside = errors(1)
    assert whole.shape == (1, 8, 3)
    assert inside.shape == (1, 8)
    assert max(whole.max(), inside.max()) < 1e-6
    wrong[:, :3, 2:5, 3:6] = 2.0
    whole, inside = errors(1)
    np.testing.assert_allclose(inside, 4.0, rtol=1e-3)
    np.testing.assert_allclose(whole, 4.0 * 9 / 64, rtol=1e-3)


def test_the_table_has_what_is_measured():
    first, second, third, *_, one_model = learning.WAYS
    values = dict(zip(learning.COLUMNS, (1.0, 2.0, 3.0, 0.5), strict=True))
    stages = {first: {**values, learning.EACH: {"a": 0.5, "b": 0.6, "c": 0.4}}, second: {"status": "failed"},
              third: {**values, learning.EACH: {"b": 0.7, "a": 0.5, "c": 0.7}},
              one_model: {**values, learning.EACH: {"a": 0.1}}}
    record = SimpleNamespace(stages=stages, done=lambda way: "status" not in stages.get(way, {"status": ""}))
    table = learning.table(record, list(learning.WAYS))
    told = table.pop(learning.DIFFERENCE).tolist()
    assert table.to_dict("records") == [{"way": way, **values} for way in (first, third, one_model)]
    assert told[0] == told[2] == "", "with other clusters other masks are painted"
    assert told[1].startswith("+0.133 ± 0.379 (3) over batch 2")
