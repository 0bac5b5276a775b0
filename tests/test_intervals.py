"""Intervals: they hold the truth as often as they say, over images and over seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtrit

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.measures import intervals


def simulated(rng: np.random.Generator, mean: float, seeds: int, images: int, of_seed: float, of_image: float,
              rest: float = 0.1) -> pd.DataFrame:
    """Values (seeds x images) around `mean`, with deviations of seeds, of images and of both together."""
    return pd.DataFrame(mean + rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_image, (1, images))
                        + rng.normal(0, rest, (seeds, images)))


def frame(x: np.ndarray) -> pd.DataFrame:
    """The same as rows with columns seed, image, dice."""
    names = [f"image_{i}" for i in range(x.shape[1])]
    return pd.DataFrame(x, columns=names).rename_axis("seed").reset_index().melt(
        "seed", var_name="image", value_name="dice")


@pytest.mark.parametrize(("seeds", "of_seed", "of_image"), [
    (1, 0.0, 0.2),    # images alone
    (3, 0.0, 0.2),
    (3, 0.05, 0.05),  # the chance of training outweighs that of the images
    (5, 0.02, 0.1)])
def test_the_truth_lies_within_about_95_of_100_intervals(seeds: int, of_seed: float, of_image: float):
    rng = np.random.default_rng(1)
    found = [intervals.of(simulated(rng, 0.7, seeds, 60, of_seed, of_image), 400, seed)
             for seed in range(200)]
    assert 0.88 <= np.mean([i.low <= 0.7 <= i.high for i in found]) <= 0.99
    assert {(i.images, i.seeds) for i in found} == {(60, seeds)}


def test_an_interval_ends_where_a_mean_can_be():
    one = intervals.Interval(0.2, -0.1, 1.3, 9, 2)
    assert one.within(0, 1) == intervals.Interval(0.2, 0.0, 1.0, 9, 2)
    assert np.isnan(intervals.Interval(0.2, np.nan, np.nan, 1, 2).within(0, 1).low)


def test_of_images_alone_it_is_the_textbooks():
    x = np.random.default_rng(2).normal(0.6, 0.2, (1, 400))
    found = intervals.interval(frame(x), "dice", 4000, 0)
    half = 1.96 * x.std() / np.sqrt(400)
    assert found.mean == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.05 * half)


def test_of_seeds_alone_it_is_students():
    x = np.tile([[0.5], [0.6], [0.8]], (1, 10))
    found = intervals.interval(frame(x), "dice", 4000, 0)
    half = 4.303 * np.std([0.5, 0.6, 0.8], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), rel=0.02)


def test_pairs_cancel_what_they_share():
    rng = np.random.default_rng(3)
    hard = rng.normal(0.6, 0.2, (1, 100)) + rng.normal(0, 0.05, (3, 1))
    better, worse = (frame(hard + gain + rng.normal(0, 0.02, (3, 100))) for gain in (0.03, 0.0))
    together = intervals.paired(better, worse, "dice", 1000, 0)
    alone = [intervals.interval(rows, "dice", 1000, 0) for rows in (better, worse)]
    assert together.mean == pytest.approx(alone[0].mean - alone[1].mean)
    assert 0 < together.low < 0.03 < together.high
    assert together.high - together.low < 0.2 * (alone[0].high - alone[0].low)


def test_only_what_both_have_is_compared():
    a, b = (frame(np.arange(12).reshape(3, 4) * step) for step in (2.0, 1.0))
    a, b = a[a["seed"] != 0], b[(b["seed"] != 2) & (b["image"] != "image_3")]
    found = intervals.paired(a, b, "dice", 200, 0)
    assert (found.mean, found.seeds, found.images) == (5.0, 1, 3)  # the second seed: 4, 5, 6
    nothing = intervals.paired(a[a["seed"] == 2], b, "dice", 200, 0)
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
    assert (nothing.images, nothing.seeds) == (0, 0)


def test_a_failed_seed_and_an_image_with_a_gap_are_left_out():
    x = np.array([[0.1, 0.2, 0.3], [np.nan] * 3, [0.3, np.nan, 0.5]])
    found = intervals.interval(frame(x), "dice", 200, 0)
    assert (found.seeds, found.images, found.mean) == (2, 2, pytest.approx(0.3))


def test_a_run_needs_enough_resamples_for_the_ends_of_an_interval():
    assert params.validate({"segment": {"resamples": 200}}).segment.resamples == 200
    with pytest.raises(UserError, match=r"segment\.resamples"):
        params.validate({"segment": {"resamples": 199}})


def test_the_same_image_twice_is_refused():
    rows = frame(np.ones((1, 3)))
    with pytest.raises(ValueError, match="duplicate"):
        intervals.interval(pd.concat([rows, rows]), "dice", 200, 0)


def test_where_nothing_varies_the_interval_is_a_point_and_one_image_has_none():
    same = intervals.interval(frame(np.full((2, 5), 0.25)), "dice", 200, 0)
    assert (same.mean, same.low, same.high) == pytest.approx((0.25, 0.25, 0.25))
    one = intervals.interval(frame(np.array([[0.2], [0.4]])), "dice", 200, 0)
    assert one.mean == pytest.approx(0.3)
    assert np.isnan([one.low, one.high]).all()


def test_it_hangs_on_its_seed_and_not_on_the_order_of_the_rows():
    rows = frame(simulated(np.random.default_rng(4), 0.5, 3, 40, 0.02, 0.1).to_numpy())
    first = intervals.interval(rows, "dice", 300, 7)
    assert intervals.interval(rows.sample(frac=1, random_state=0), "dice", 300, 7) == first
    assert intervals.interval(rows, "dice", 300, 8) != first


# ---- groups of images


def grouped(rng: np.random.Generator, seeds: int, groups: int, each: int,
            of_group: float) -> tuple[pd.DataFrame, dict[str, str]]:
    """Values around 0.7 whose groups, of 1 to 2 * each - 1 images, deviate; and the group of each image."""
    of = np.repeat(np.arange(groups), rng.integers(1, 2 * each, groups))
    x = (0.7 + rng.normal(0, of_group, groups)[of] + rng.normal(0, 0.1, len(of))
         + rng.normal(0, 0.05, (seeds, len(of))) + (rng.normal(0, 0.02, (seeds, 1)) if seeds > 1 else 0))
    return pd.DataFrame(x, columns=list(map(str, range(len(of))))), {
        str(image): str(group) for image, group in enumerate(of)}


@pytest.mark.parametrize(("seeds", "groups", "each"), [(1, 29, 7), (3, 29, 7), (3, 6, 33)])
def test_of_groups_the_intervals_hold_the_truth_and_of_images_they_do_not(seeds: int, groups: int, each: int):
    rng, held = np.random.default_rng(5), []
    for seed in range(200):
        x, of = grouped(rng, seeds, groups, each, 0.12)
        held.append([found.low <= 0.7 <= found.high for found in (
            intervals.of_groups(x, of, 400, seed), intervals.of(x, 400, seed))])
    by_group, by_image = np.mean(held, axis=0)
    assert 0.9 <= by_group <= 0.99
    assert by_image < 0.87


def test_groups_of_one_image_are_images_but_for_the_stretch():
    x = pd.DataFrame(np.random.default_rng(6).normal(0.6, 0.2, (1, 400)), columns=list(map(str, range(400))))
    found, plain = intervals.of_groups(x, {name: name for name in x}, 4000, 0), intervals.of(x, 4000, 0)
    assert (found.mean, found.images, found.seeds) == (plain.mean, 400, 1)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.003)


def test_one_group_has_no_interval_and_neither_has_nothing():
    x = pd.DataFrame(np.ones((2, 5)), columns=list("abcde"))
    one = intervals.of_groups(x, dict.fromkeys("abcde", "01"), 200, 0)
    assert (one.mean, one.images, one.seeds) == (1, 5, 2)
    assert np.isnan([one.low, one.high]).all()
    none = intervals.of_groups(x.iloc[:0, :0], {}, 200, 0)
    assert np.isnan([none.mean, none.low, none.high]).all()
    assert none.images == 0


def test_two_groups_by_hand():
    """Means 0 and 1 of one and of three images: resamples are 0, 0.75 or 1, stretched from 0.75."""
    x = pd.DataFrame([[0.0, 1.0, 1.0, 1.0]], columns=list("abcd"))
    found = intervals.of_groups(x, {"a": "1", "b": "2", "c": "2", "d": "2"}, 1000, 0)
    stretch = np.sqrt(2) * 12.706 / 1.96
    assert found.mean == 0.75
    assert (found.low, found.high) == pytest.approx((0.75 - 0.75 * stretch, 0.75 + 0.25 * stretch), rel=1e-3)


# ---- several generators


OWNERS = {0: 0, 1: 1, 2: 2, 3: 1, 4: 0}


def test_with_several_generators_it_is_students_of_their_means_each_counting_alike():
    x = pd.DataFrame(np.tile([[0.5], [0.6], [0.8], [0.7], [0.4]], (1, 10)))
    found, means = intervals.of(x, 4000, 0, OWNERS), [0.45, 0.65, 0.8]
    half = 4.303 * np.std(means, ddof=1) / np.sqrt(3)
    assert found.mean == pytest.approx(np.mean(means))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=0.02)
    assert (found.seeds, found.generators) == (5, 3)
    assert intervals.of_groups(x, {i: str(i) for i in range(10)} | {str(i): str(i) for i in range(10)},
                               4000, 0, OWNERS).high == pytest.approx(found.high, rel=0.02)


@pytest.mark.parametrize("owners", [None, {}, dict.fromkeys(range(3), 0), {0: 0, 1: 1}, {0: 0, 1: 1, 2: 2}])
def test_without_several_generators_or_with_one_a_seed_it_is_as_it_was(owners: dict | None):
    x = simulated(np.random.default_rng(6), 0.7, 3, 40, 0.05, 0.1)
    plain, found = intervals.of(x, 400, 0), intervals.of(x, 400, 0, owners)
    assert (found.mean, found.low, found.high, found.seeds) == pytest.approx(
        (plain.mean, plain.low, plain.high, plain.seeds))


def test_of_two_arms_the_one_with_generators_says_whose_pairs_a_seed_took():
    x = np.random.default_rng(7).normal(0.7, 0.1, (5, 30))
    painted = frame(x).assign(generator=lambda t: t["seed"].map(OWNERS).astype("Int64"))
    real = frame(x - 0.1).assign(generator=pd.array([pd.NA] * x.size, dtype="Int64"))
    for arms in ((painted, real), (real, painted)):
        gain = intervals.paired(*arms, "dice", 200, 0)
        assert (gain.seeds, gain.generators, abs(gain.mean)) == (5, 3, pytest.approx(0.1))
    assert intervals.interval(real, "dice", 200, 0).generators == 0
    groups = {f"image_{i}": str(i // 6) for i in range(30)}
    gain = intervals.paired(painted, real.assign(dice=0.0), "dice", 200, 0, groups)
    matrix = intervals.matrix(painted, "dice")
    assert gain == intervals.of_groups(matrix, groups, 200, 0, OWNERS)


def test_with_three_generators_a_false_effect_is_rare_and_with_one_it_is_not():
    rng, supported = np.random.default_rng(8), {1: 0, 3: 0}
    for number in range(150):
        for count in supported:
            owners = {seed: seed % count for seed in range(5)}
            of_generator = rng.normal(0, 0.03, count)
            x = simulated(rng, 0, 5, 40, 0.02, 0.05, 0.05)
            x = x.add([of_generator[owners[seed]] for seed in range(5)], axis=0)
            supported[count] += intervals.of(x, 200, number, owners).low > 0
    assert supported[3] <= 0.06 * 150 < supported[1]


def test_the_means_of_two_arms_are_weighed_as_their_difference_is():
    x = np.random.default_rng(9).normal(0.6, 0.1, (5, 12))
    painted = frame(x).assign(generator=lambda t: t["seed"].map(OWNERS).astype("Int64"))
    real = frame(np.random.default_rng(10).normal(0.5, 0.1, (6, 11)))  # another seed, and an image fewer
    for arms in ((painted, real), (real, painted), (frame(x), real)):
        first, second = intervals.means(*arms, "dice")
        assert first - second == pytest.approx(intervals.paired(*arms, "dice", 200, 0).mean)
    by_seed = x[:, :11].mean(axis=1)
    assert intervals.means(painted, real, "dice")[0] == pytest.approx(np.mean(
        [by_seed[[0, 4]].mean(), by_seed[[1, 3]].mean(), by_seed[2]]))
    assert np.isnan(intervals.means(painted[painted["seed"] == 0], real[real["seed"] == 1], "dice")).all()


def test_the_error_by_images_is_that_of_which_the_interval_is_drawn():
    rng = np.random.default_rng(3)
    values = pd.DataFrame(rng.normal(0, 0.2, (1, 80)), index=[0], columns=[str(i) for i in range(80)])
    found = intervals.of(values, 4000, 0)
    assert intervals.of_images(values) == (pytest.approx((found.high - found.low) / 2 / 1.96, rel=0.05), 1)
    groups = {str(i): str(i // 8) for i in range(80)}
    unlike = values + np.repeat(rng.normal(0, 0.2, 10), 8)
    grouped = intervals.of_groups(unlike, groups, 4000, 0)
    error, stretch = intervals.of_images(unlike, groups)
    assert stretch == pytest.approx(stdtrit(9, 0.975) / 1.96, rel=1e-3)
    assert error * stretch == pytest.approx((grouped.high - grouped.low) / 2 / 1.96, rel=0.06)
    assert np.isnan(intervals.of_images(values.iloc[:, :1])).all()
    assert np.isnan(intervals.of_images(values, dict.fromkeys(groups, "one"))).all()
    assert np.isnan(intervals.of_images(values.iloc[:0, :0])).all()
