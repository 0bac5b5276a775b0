"""Geometric changes of training images: what the vector says is done, to image and mask alike."""

import math

import pytest
import torch

from diffusegen_core.diffusion import warps

SIDE = 64


def picture(count: int = 1) -> torch.Tensor:
    """Images of an ellipse off the centre: the first channel is the lesion, the next two tell the place."""
    y, x = torch.meshgrid(*[(2 * torch.arange(SIDE) + 1) / SIDE - 1] * 2, indexing="ij")
    lesion = ((x - 0.2) / 0.4) ** 2 + ((y + 0.1) / 0.25) ** 2 < 1
    mask = torch.where(lesion, 1.0, -1.0)
    return torch.stack([mask, x, y, mask]).expand(count, -1, -1, -1).clone()


def change(**parts: float | tuple[float, ...]) -> torch.Tensor:
    """One vector: x, y, size, turn (an angle), stretch (2), shift (2)."""
    angle = float(parts.get("turn", 0.0))
    return torch.tensor([[parts.get("x", 0.0), parts.get("y", 0.0), parts.get("size", 0.0),
                          math.cos(angle) - 1, math.sin(angle),
                          *parts.get("stretch", (0.0, 0.0)), *parts.get("shift", (0.0, 0.0))]])


def centre(mask: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.nonzero(mask > 0, as_tuple=True)
    return tuple(float((2 * place.float() + 1).mean() / SIDE - 1) for place in (columns, rows))


def area(mask: torch.Tensor) -> float:
    return float((mask > 0).float().sum())


def test_a_vector_of_zeros_changes_no_bit():
    x0 = picture() + 0.013
    assert torch.equal(warps.apply(x0, torch.zeros(1, warps.WIDTH)), x0)


@pytest.mark.parametrize(("parts", "wanted"), [
    ({"x": 1.0}, lambda x0: x0.flip(-1)), ({"y": 1.0}, lambda x0: x0.flip(-2)),
    ({"x": 1.0, "y": 1.0}, lambda x0: x0.flip(-1, -2))])
def test_mirrored_alone_it_keeps_its_values(parts: dict, wanted):
    x0 = picture()
    assert torch.equal(warps.apply(x0, change(**parts)), wanted(x0))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turn_by_a_right_angle_is_that_of_the_pixels(quarters: int):
    x0 = picture()
    found = warps.apply(x0, change(turn=quarters * math.pi / 2))
    torch.testing.assert_close(found, x0.rot90(-quarters, (-2, -1)), rtol=0, atol=1e-4)


def test_a_shift_moves_by_an_eighth_of_the_side_for_each_unit():
    found = warps.apply(picture(), change(shift=(1.0, -0.5)))[0, 3]
    before = centre(picture()[0, 3])
    assert centre(found) == pytest.approx((before[0] + 0.25, before[1] - 0.125), abs=0.01)


def test_size_and_stretch_are_powers_of_two_to_a_fifth():
    x0 = picture()
    larger = warps.apply(x0, change(size=2.0))
    assert area(larger[0, 3]) / area(x0[0, 3]) == pytest.approx(2 ** (2 * 0.2 * 2), rel=0.08)
    longer = warps.apply(x0, change(stretch=(2.0, 0.0)))[0, 3] > 0
    assert area(longer) / area(x0[0, 3]) == pytest.approx(1, abs=0.08)
    for axis, power in ((0, 1), (1, -1)):  # widened along x, as the half angle of (2, 0) is 0
        extents = [int((mask > 0).any(dim=axis).sum()) for mask in (x0[0, 3], longer)]
        assert extents[1] / extents[0] == pytest.approx(2 ** (0.4 * power), abs=0.15)


def test_the_matrix_is_the_exponential_of_what_the_vector_says():
    g = torch.Generator().manual_seed(0)
    drawn = warps.draw(20, 0.9, g).double()
    k, (s, a, b) = 0.2 * math.log(2), (drawn[:, 2], drawn[:, 5], drawn[:, 6])
    exponent = k * torch.stack([torch.stack([s + a, b], 1), torch.stack([b, s - a], 1)], 1)
    cos, sin = drawn[:, 3] + 1, drawn[:, 4]
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    forward = turn @ torch.linalg.matrix_exp(exponent)
    found = warps.origins(drawn)
    torch.testing.assert_close(found[:, :, :2] @ forward, torch.eye(2).double().expand(20, 2, 2))
    place = forward @ torch.ones(20, 2, 1).double() + 0.25 * drawn[:, 7:, None]
    torch.testing.assert_close(found[:, :, :2] @ place + found[:, :, 2:], torch.ones(20, 2, 1).double())


def test_image_and_mask_stay_aligned_and_a_mask_a_mask():
    g = torch.Generator().manual_seed(1)
    drawn = warps.draw(200, 0.9, g)
    found = warps.apply(picture(200), drawn)
    assert ((found[:, 3] == 1) | (found[:, 3] == -1)).all()
    assert torch.equal(torch.where(found[:, 0] > 0, 1.0, -1.0), found[:, 3])
    assert found.abs().max() <= 1


def test_each_change_is_as_frequent_as_asked_and_mirroring_half():
    drawn = warps.draw(20_000, 0.12, torch.Generator().manual_seed(2))
    share = {name: float((drawn[:, part] != 0).any(dim=1).float().mean())
             for name, part in (("x", slice(0, 1)), ("y", slice(1, 2)), ("size", slice(2, 3)),
                                ("turn", slice(3, 5)), ("stretch", slice(5, 7)), ("shift", slice(7, 9)))}
    assert share == pytest.approx({"x": 0.06, "y": 0.06, "size": 0.12, "turn": 0.12, "stretch": 0.12,
                                   "shift": 0.12}, abs=0.01)
    assert drawn.shape == (20_000, warps.WIDTH)
    sizes = drawn[drawn[:, 2] != 0, 2]
    assert float(sizes.std()) == pytest.approx(1, abs=0.06)
