"""Pairs in a training loop: what an item is, and real pairs mixed with synthetic ones by the paper's rule."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from made_up import SAMPLES, loaded_tests, sets_of, values
from torch.utils.data import DataLoader

from diffusegen_core import Run
from diffusegen_core.chapters import augment
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import DataType
from diffusegen_core.segmentation import torchsets, trainsets
from diffusegen_core.segmentation.experiments import Experiment
from diffusegen_core.store.artifacts import NotMadeError

STYLED = DataType.parse("2-Styled-Diff")


@pytest.fixture(scope="module")
def folder(made_up_run: Path) -> Path:
    loaded_tests(values(made_up_run))
    return made_up_run


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose pairs are made up: what its chapters would read is what lies there."""
    this = Run(values(folder))
    sets = sets_of(this.params)
    read = this.read

    class Result:
        def __init__(self, made: dict[DataType, PairSet]) -> None:
            self.sets = made

    monkeypatch.setattr(this, "read", lambda name, generator=0: (
        Result(sets.sets) if name in ("inpaint", "style") else read(name, generator)))
    return this


@pytest.fixture
def pairs() -> dataset.Pairs:
    """Four grey pairs with two classes."""
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 2, 8, 8), np.uint8)
    masks[:, 0, 1:4, 1:4] = masks[:, 1, 5:7, 5:7] = 1
    return dataset.gather(["a", "b", "c", "d"], rng.integers(0, 256, (4, 1, 8, 8), np.uint8), masks)


def epochs(mixed: torchsets.Mixed, count: int) -> Iterator[trainsets.Choice]:
    for epoch in range(count):
        mixed.set_epoch(epoch)
        yield mixed.choice


# ---- one data type


def test_an_item_is_an_image_and_a_map_of_class_numbers(run: Run):
    real = run.dataset("Real")
    assert real.names == run.pairs.names
    image, mask = real[3]
    assert (image.dtype, mask.dtype) == (torch.float32, torch.int64)
    assert np.array_equal(image.numpy(), run.pairs.images[3] / np.float32(255))
    assert np.array_equal(mask.numpy(), run.pairs.masks[3, 0])


def test_a_synthetic_type_is_read_from_its_folder(run: Run):
    made, one = run.dataset("2-Styled-Diff"), sets_of(run.params).sets[STYLED]
    assert made.names == list(one.manifest["name"])
    image, mask = made[5]
    there = one.load([made.names[5]])
    assert np.array_equal(image.numpy(), there.images[0] / np.float32(255))
    assert np.array_equal(mask.numpy(), there.masks[0, 0])


def test_a_split_by_real_pairs_keeps_twins_together(run: Run):
    some = run.pairs.names[:3]
    assert run.dataset("Real", names=some).names == some
    assert set(run.dataset("2-Styled-Diff", names=some).names) == {
        f"{name}_{sample}" for name in some for sample in range(1, SAMPLES + 1)}


def test_grey_images_and_several_classes_have_one_channel_and_numbers(pairs: dataset.Pairs):
    image, mask = torchsets.of_pairs(pairs, ["c"])[0]
    assert image.shape == (1, 8, 8)
    assert mask.unique().tolist() == [0, 1, 2]
    assert (mask[1:4, 1:4] == 1).all()
    assert (mask[5:7, 5:7] == 2).all()
    assert (mask == 0).sum() == 64 - 9 - 4


def test_classes_that_overlap_come_as_a_plane_each(pairs: dataset.Pairs):
    both = pairs.masks.copy()
    both[:, 1] |= both[:, 0]
    overlapping = dataset.gather(pairs.names, pairs.images, both, True)
    mask = torchsets.of_pairs(overlapping, ["b"])[0][1]
    assert (mask.dtype, mask.shape) == (torch.int64, (2, 8, 8))
    assert np.array_equal(mask.numpy(), both[pairs.names.index("b")])
    shapes = []

    def flip(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        shapes.append(mask.shape)
        return {"image": image[:, ::-1], "mask": mask[:, ::-1]}
    flipped = torchsets.of_pairs(overlapping, ["b"], flip)[0][1]
    assert shapes == [(8, 8, 2)]
    assert np.array_equal(flipped.numpy(), mask.numpy()[..., ::-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_albumentations_transform_image_and_mask_alike(channels: int, pairs: dataset.Pairs):
    several = dataset.gather(pairs.names, pairs.images.repeat(channels, axis=1), pairs.masks)
    flipped = torchsets.of_pairs(several, pairs.names, A.Compose([A.HorizontalFlip(p=1)]))
    for (image, mask), (as_is, numbers) in zip(flipped, torchsets.of_pairs(several, pairs.names),
                                               strict=True):
        assert image.shape == (channels, 8, 8)
        assert torch.equal(image, as_is.flip(2))
        assert torch.equal(mask, numbers.flip(1))
        assert mask.dtype == torch.int64


def test_what_a_transform_normalised_or_made_a_tensor_of_is_taken_as_it_is(pairs: dataset.Pairs):
    of = pairs.images.repeat(3, axis=1)
    three = dataset.gather(pairs.names, of, pairs.masks)
    normal = A.Normalize(mean=(0.5,) * 3, std=(0.5,) * 3, max_pixel_value=255)
    image, _ = torchsets.of_pairs(three, ["a"], A.Compose([normal]))[0]
    assert np.allclose(image.numpy(), of[0] / 127.5 - 1, atol=1e-5)
    image, mask = torchsets.of_pairs(three, ["a"], A.Compose([ToTensorV2()]))[0]
    assert np.array_equal(image.numpy(), of[0] / np.float32(255))
    assert mask.dtype == torch.int64


def test_a_data_type_that_the_run_does_not_have_is_refused(run: Run):
    with pytest.raises(UserError, match="no data type 3-Diff; it has Real, GAN, 2-Diff, 2-Styled-Diff"):
        run.dataset("3-Diff")
    with pytest.raises(UserError, match="this run has no real pair nobody"):
        run.dataset("Real", names=["nobody"])


def test_what_is_not_made_names_its_chapter_and_makes_nothing(nano: dict):
    run = Run.create(folder=nano["run_dir"], changes={"data": nano["data"]})
    run.make("data")
    for read in (run.dataset, lambda name: run.mixed(name, ratio=1)):
        with pytest.raises(NotMadeError, match=r"run\.make\("):
            read("2-Styled-Paint")
    assert not (run.folder / "train").exists()


# ---- mixed


def test_a_real_pair_is_replaced_by_so_many_made_of_it(run: Run):
    mixed = run.mixed("2-Styled-Diff", ratio=2)
    for choice in epochs(mixed, 5):
        replaced = [name.rsplit("_", 1)[0] for name in choice.synthetic]
        assert all(replaced.count(name) == 2 for name in replaced)
        assert sorted({*replaced, *choice.real}) == sorted(run.pairs.names)
        assert not set(replaced) & set(choice.real)
        assert len(mixed) == len(choice) == len(choice.real) + len(choice.synthetic)


def test_the_share_is_alpha_and_each_epoch_draws_anew(run: Run):
    mixed = run.mixed("2-Styled-Diff", ratio=1)
    drawn = [set(choice.synthetic) for choice in epochs(mixed, 200)]
    sources = run.params.inpaint.sources or 0
    assert abs(np.mean([len(one) for one in drawn]) / sources - 0.5) < 0.03
    assert len({frozenset(one) for one in drawn}) > 190
    assert set().union(*drawn) == set(run.dataset("2-Styled-Diff").names), "of each pair each is drawn once"
    assert not run.mixed("2-Styled-Diff", alpha=0).choice.synthetic
    assert set(run.mixed("2-Styled-Diff", alpha=1).choice.real) == set(run.pairs.names[sources:])


def test_the_same_seed_draws_the_same_and_another_does_not(run: Run):
    first, again, other = (list(epochs(run.mixed("2-Styled-Diff", seed=seed), 3)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_first_epoch_is_what_chapter_7_trains_on(run: Run):
    p, sets = run.params, sets_of(run.params)
    experiment = Experiment("augment", STYLED, size=10, ratio=3, seed=2)
    wanted, _ = augment.chosen(p.seed, sets, p.augment, p.segment, experiment)
    train, _ = augment.subset(p.seed, sets.real.names, 10, 2, p.segment)
    mixed = run.mixed("2-Styled-Diff", p.augment.alpha, 3, seed=2, names=train)
    assert sorted(mixed.choice.real) == sorted(wanted.real)
    assert sorted(mixed.choice.synthetic) == sorted(wanted.synthetic)


def test_items_are_those_of_the_choice_in_its_order(run: Run):
    mixed = run.mixed("2-Styled-Diff", transform=A.Compose([A.VerticalFlip(p=1)]))
    mixed.set_epoch(3)
    choice = mixed.choice
    for place in (0, len(choice.real) - 1, len(choice.real), len(mixed) - 1):
        if place < len(choice.real):
            image, mask = run.dataset("Real").named(choice.real[place])
        else:
            image, mask = run.dataset("2-Styled-Diff").named(choice.synthetic[place - len(choice.real)])
        assert torch.equal(mixed[place][0], image.flip(1))
        assert torch.equal(mixed[place][1], mask.flip(0))
    assert torch.equal(mixed[-1][0], mixed[len(mixed) - 1][0])
    with pytest.raises(IndexError):
        mixed[len(mixed)]


def test_workers_that_persist_see_each_epoch(run: Run):
    mixed = run.mixed("2-Styled-Diff", ratio=2)
    loader = DataLoader(mixed, batch_size=4, num_workers=2, persistent_workers=True)
    for epoch in range(3):
        mixed.set_epoch(epoch)
        images = torch.cat([images for images, _ in loader])
        assert torch.equal(images, torch.stack([mixed[i][0] for i in range(len(mixed))]))


def test_both_kinds_can_be_sent_to_another_process(run: Run):
    mixed = run.mixed("2-Styled-Diff", transform=A.Compose([A.HorizontalFlip(p=1)]))
    mixed.set_epoch(4)
    assert pickle.loads(pickle.dumps(mixed)).choice == mixed.choice
    assert torch.equal(pickle.loads(pickle.dumps(run.dataset("Real")))[1][0], run.dataset("Real")[1][0])


@pytest.mark.parametrize(("words", "how"), [
    ("name one instead of Real", {"data_type": "Real"}), ("from 0 to 1, and not 1.5", {"alpha": 1.5}),
    ("ratio 4 is not possible: this run makes 3 pairs .* Choose 1 to 3", {"ratio": 4}),
    ("ratio 0 is not possible", {"ratio": 0}), ("ratio must be a whole number, not 1.5", {"ratio": 1.5}),
    ("from 0 to 1, and not 'x'", {"alpha": "x"}), ("seed must be a whole number, not 'x'", {"seed": "x"}),
    ("No pair of 2-Styled-Diff is known to be made", {"names": ["phantom_00025"]})])
def test_what_cannot_be_mixed_is_refused_in_a_line(words: str, how: dict, run: Run):
    with pytest.raises(UserError, match=words):
        run.mixed(**{"data_type": "2-Styled-Diff", **how})


def test_an_epoch_is_a_whole_number(run: Run):
    with pytest.raises(UserError, match="epoch must be a whole number, not 'x'"):
        run.mixed("2-Styled-Diff").set_epoch("x")
