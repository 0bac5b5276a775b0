"""Few of many, from all over them."""

import pytest

from diffusegen_core.data.excerpts import spread


@pytest.mark.parametrize(("total", "count", "places"), [
    (100, 4, [0, 33, 66, 99]), (3, 4, [0, 1, 2]), (2, 4, [0, 1]), (1, 4, [0]), (5, 1, [0]), (0, 4, []),
    (5, 0, []), (4, 4, [0, 1, 2, 3])])
def test_places_lie_evenly_over_the_whole(total: int, count: int, places: list[int]) -> None:
    assert spread(total, count) == places
