"""Random numbers are named by what they are for: none depends on order, batch or another's."""

import numpy as np
import pytest
import torch

from diffusegen_core.store import seeds


def test_seeds_differ_by_every_name_and_fit_63_bits():
    paths = [("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), (1, "a"), ("a", 1, 1)]
    found = {seeds.derive(s, *path) for s in (0, 1) for path in paths}
    assert len(found) == 2 * len(paths)
    assert all(0 <= value < 2**63 for value in found)
    assert seeds.derive(0, "a", 1) == seeds.derive(0, "a", "1")
    # The seeds of runs that were published must not change.
    assert seeds.derive(7, "inpaint", "20-Diff") == 7810904597906166595


def test_each_row_of_noise_comes_from_its_own_generator():
    def rows(*names: int) -> torch.Tensor:
        like = torch.empty(len(names), 3, 2, dtype=torch.half)
        return seeds.normal_like([seeds.generator(0, n) for n in names], like)
    alone = torch.cat([rows(n) for n in range(4)])
    assert torch.equal(rows(2, 0, 3), alone[[2, 0, 3]])
    assert rows(0).dtype == torch.float32
    assert len({tuple(row.flatten().tolist()) for row in alone}) == 4
    many = seeds.normal_like([seeds.generator(1)], torch.empty(1, 20_000))
    assert abs(float(many.mean())) < 0.03
    assert float(many.std()) == pytest.approx(1, abs=0.03)


def test_global_generators_are_seeded_for_a_while_and_no_gpu_that_is_not_named(monkeypatch):
    number = seeds.derive(5, "weights")
    expected = torch.rand(3, generator=torch.Generator().manual_seed(number))
    for name in ("manual_seed", "cuda.manual_seed_all", "cuda.manual_seed"):
        monkeypatch.setattr(f"torch.{name}", lambda _: pytest.fail("a GPU is seeded, and not put back"))
    before = torch.random.get_rng_state()
    with seeds.global_seed(5, "weights", device=torch.device("cpu")):
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="no GPU")
def test_of_the_gpus_the_named_one_is_seeded_and_put_back():
    card, number = torch.device("cuda"), seeds.derive(5, "dropout")
    expected = torch.rand(3, generator=torch.Generator(card).manual_seed(number), device=card)
    with torch.random.fork_rng(devices=[card]):
        torch.manual_seed(number)
        assert torch.equal(torch.rand(3, device=card), expected), "as torch.manual_seed would"
    before = torch.cuda.get_rng_state(card)
    with seeds.global_seed(5, "dropout", device=card):
        assert torch.equal(torch.rand(3, device=card), expected)
    with seeds.global_seed(5, "weights"):
        pass
    assert torch.equal(torch.cuda.get_rng_state(card), before)


def test_numpy_generators_are_named_as_well():
    draws = [seeds.rng(0, name).integers(2**40) for name in ("a", "b", "a")]
    assert draws[0] == draws[2] != draws[1]
    assert isinstance(seeds.rng(0), np.random.Generator)


