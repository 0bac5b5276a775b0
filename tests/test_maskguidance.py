"""Guidance by a given mask: what the network is asked, what is made of its answers, and where it counts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusegen_core.chapters import inpaint, spots
from diffusegen_core.chapters.spots import Spot
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Inpaint, Process
from diffusegen_core.data import pairsets
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.run import Run
from diffusegen_core.segmentation.trainsets import Amount
from diffusegen_core.store import seeds

SIDE, B = 8, 3
PAINT = DataType("Paint", "2")


class Net:
    """A network that remembers what it was asked: half of its answer is the mask channel, seen by all."""

    image_size = SIDE

    def __init__(self) -> None:
        self.asked: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.asked.append(x)
        return torch.cat([x[:, 3:].expand(-1, 4, -1, -1), x], dim=1)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def diffusion(net: Net) -> Diffusion:
    return Diffusion(net, process.schedule(Process(), 10), "v")


@pytest.fixture
def x0() -> torch.Tensor:
    x = torch.rand(B, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[:, 3] = -1
    x[0, 3, 2:5, 3:6] = x[1, 3, 1:3, 1:8] = 1  # the third has no lesion
    return x


def test_the_second_question_is_the_same_image_without_a_lesion(net: Net, diffusion: Diffusion,
                                                                x0: torch.Tensor):
    t, eps = torch.tensor([9, 5, 0]), torch.randn(B, 4, SIDE, SIDE)
    diffusion.towards(x0[:, 3:], 2.0).call(diffusion.noised(x0, t, eps), t)
    first, second = net.asked
    without = x0.clone()
    without[:, 3] = -1
    torch.testing.assert_close(first, diffusion.noised(x0, t, eps))
    torch.testing.assert_close(second, diffusion.noised(without, t, eps))


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_colours_move_along_the_difference_and_the_rest_is_the_networks(diffusion: Diffusion,
                                                                        x0: torch.Tensor, scale: float):
    t = torch.tensor([9, 5, 0])
    x_t = diffusion.noised(x0, t, torch.randn(B, 4, SIDE, SIDE))
    plain, guided = diffusion.call(x_t, t), diffusion.towards(x0[:, 3:], scale).call(x_t, t)
    assert torch.equal(guided[:, 3:], plain[:, 3:])
    # This network's colours are the noised mask, so the difference is 2 alpha_t in the lesion.
    alpha = diffusion.schedule.alpha_bar.sqrt()[t].float()[:, None, None]
    for channel in range(3):
        expected = x_t[:, 3] + (scale - 1) * alpha * (x0[:, 3] + 1)
        torch.testing.assert_close(guided[:, channel], expected)
    torch.testing.assert_close(guided[2], plain[2])  # without a lesion there is nothing to follow


def test_a_scale_of_one_is_the_model_itself(net: Net, diffusion: Diffusion, x0: torch.Tensor):
    assert diffusion.towards(x0[:, 3:], 1.0) is diffusion
    assert diffusion.towards(x0[:, 3:], 3.0, x0[:, 3:].clone()) is diffusion, "nothing else is to follow"
    respaced = diffusion.towards(x0[:, 3:], 3.0).respaced(5)
    respaced.call(x0, torch.tensor([0, 1, 4]))
    assert len(net.asked) == 2, "the guidance stays with the model that is respaced"


# ---- where it counts

def with_inpaint(p: Params, **inpaint: object) -> Params:
    return params.validate(params.merged(params.plain(p), {"inpaint": inpaint}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nano_values: dict) -> Params:
    p = params.validate({**nano_values, "run_dir": str(tmp_path_factory.mktemp("guidance") / "run")})
    Run(p).make("train")
    return p


@pytest.fixture
def p(trained: Params, tmp_path: Path) -> Params:
    shutil.copytree(trained.folder, tmp_path / "run")
    return params.validate({**params.plain(trained), "run_dir": str(tmp_path / "run")})


def images(p: Params) -> dict[str, np.ndarray]:
    one, = (one for one in Run(p).make("inpaint").sets.values())
    return {name: pairsets.read_pair(one.folder, name)[0] for name in one.manifest["name"]}


@pytest.mark.usefixtures("image_by_image")
@pytest.mark.parametrize("window", [{}, {"window": 2.0, "window_size": 16}])
def test_pairs_with_given_masks_follow_it_and_do_not_depend_on_their_batch(nano_values: dict, tmp_path: Path,
                                                                           window: dict):
    values = params.merged(nano_values, {"data": window, "run_dir": str(tmp_path / "run"),
                                         "inpaint": {"masks": "varied", "samples": 2}})
    p = params.validate(values)
    plain = images(p)
    guided = images(with_inpaint(p, guidance_scale=3.0))
    assert plain.keys() == guided.keys()
    assert all(not np.array_equal(plain[name], guided[name]) for name in plain)
    shutil.rmtree(p.folder / "inpaint")
    alone = images(with_inpaint(p, guidance_scale=3.0, batch_size=1))
    assert all(np.array_equal(guided[name], alone[name]) for name in guided)


def test_where_the_model_draws_the_masks_nothing_is_made_again(p: Params):
    before = Run(p).make("inpaint").sets[DataType("Diff", "2")].stamp
    again = Run(with_inpaint(p, guidance_scale=3.0)).make("inpaint").sets[DataType("Diff", "2")].stamp
    assert before == again
    assert "guidance_scale" not in before["recipe"]["inpaint"]


def test_without_guidance_the_recipe_is_as_it_was(p: Params):
    recipe = Run(with_inpaint(p, masks="own")).make("inpaint").sets[PAINT].stamp["recipe"]
    assert "guidance_scale" not in recipe["inpaint"]
    recipe = Run(with_inpaint(p, masks="own", guidance_scale=2.0)).make("inpaint").sets[PAINT].stamp["recipe"]
    assert recipe["inpaint"]["guidance_scale"] == 2.0


def test_pictures_of_ones_own_follow_it_and_a_removal_has_nothing_to_follow(p: Params):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:25, 12:30] = 1
    plain, guided = Run(p), Run(with_inpaint(p, guidance_scale=3.0))
    assert not np.array_equal(plain.paint(picture, mask)[0].image, guided.paint(picture, mask)[0].image)
    gone = [run.paint(picture, mask, remove=True)[0].image for run in (plain, guided)]
    assert np.array_equal(*gone)


@pytest.mark.parametrize(("news", "calls"), [((0,), 1), ((1,), 2), ((0, 1), 2), ((None,), 1)])
def test_batches_without_a_given_lesion_take_one_call_a_step(monkeypatch: pytest.MonkeyPatch, p: Params,
                                                            news: tuple, calls: int):
    run, counted = Run(p), []
    diffusion = run.models.load("cluster-00", "cpu")
    original: Callable = process.call
    for place in ("model.process.call", "maskguidance.call"):
        monkeypatch.setattr(f"diffusegen_core.diffusion.{place}",
                            lambda *given: counted.append(1) or original(*given))
    side = diffusion.image_size
    blank, lesion = np.zeros((side, side), np.uint8), np.pad(np.ones((4, 4), np.uint8), (side - 4) // 2)
    batch = [Spot(np.full((3, side, side), 90, np.uint8), lesion,
                  None if new is None else lesion if new else blank) for new in news]
    settings = Inpaint(respacing=4, jump_length=2, resampling=1, guidance_scale=2.0)
    spots.paint(diffusion, batch, None, settings, [seeds.generator(0, i) for i in range(len(batch))])
    assert len(counted) == 4 * calls


@pytest.mark.parametrize(("kind", "scale", "calls"), [
    ("varied", 1.0, 5), ("varied", 2.0, 10), ("joint", 2.0, 5)])
def test_the_plan_counts_both_calls(kind: str, scale: float, calls: int):
    settings = Inpaint(masks=kind, guidance_scale=scale, respacing=5, jump_length=2, resampling=1)
    work = SimpleNamespace(unet=SimpleNamespace(call=7.0), pair=4)
    cost, = inpaint.costs(settings, {PAINT: Amount(4, 2)}, SIDE, work)
    assert (cost.work, cost.images, cost.flop) == (f"2-Paint, {calls} calls each", 8 * calls, 56.0 * calls)


@pytest.mark.parametrize("scale", [0.5, 0.0, -1.0, 21.0])
def test_a_scale_out_of_range_is_refused(nano_values: dict, scale: float):
    with pytest.raises(UserError, match=r"inpaint\.guidance_scale"):
        params.validate(params.merged(nano_values, {"inpaint": {"guidance_scale": scale}}))
