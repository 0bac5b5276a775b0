"""U-Net++: its weights, what a training draws, that it resumes bit for bit, and that it learns."""

import os
import re
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import constants as hub

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Segment
from diffusegen_core.data import dataset, phantom
from diffusegen_core.data.planes import RGB_AND_MASK
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.measures import overlap
from diffusegen_core.networks import weights
from diffusegen_core.segmentation import augmentation, segnet

CPU = torch.device("cpu")
# timm's own network for tests.
TINY = {"encoder": "tu-test_resnet", "decoder_channels": [8, 8, 8], "epochs": 4, "lr_epochs": 2,
        "epoch_images": None, "batch_size": 3, "checkpoint_every": 1}


def settings(**values: object) -> Segment:
    return Segment(**{**TINY, **values})


def pairs(start: int, stop: int, side: int = 16) -> dataset.Pairs:
    drawn = [phantom.draw(0, index, side) for index in range(start, stop)]
    return dataset.gather([f"p{index}" for index in range(start, stop)],
                       np.stack([image for image, _, _ in drawn]), np.stack([mask for _, mask, _ in drawn]))


@pytest.fixture(scope="module")
def few() -> tuple[dataset.Pairs, dataset.Pairs]:
    return pairs(0, 7), pairs(7, 10)


def train(few, s: Segment, folder, recipe=None, seed=0) -> segnet.Fitted:
    return segnet.fit(*few, s, seed, folder, recipe or {}, CPU, "a training")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_network_depends_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = segnet.build(settings(), 3, RGB_AND_MASK).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert same(one, segnet.build(settings(), 3, RGB_AND_MASK).state_dict())
    assert not same(one, segnet.build(settings(), 4, RGB_AND_MASK).state_dict())


@pytest.mark.parametrize("levels", [[8, 8, 8], [16, 8, 8, 8], [16, 8, 8, 8, 8]])
def test_any_number_of_levels_gives_probabilities_of_the_images_size(levels):
    s = settings(encoder="mobilenet_v2", decoder_channels=levels)
    found = segnet.predict(segnet.build(s, 0, RGB_AND_MASK), pairs(0, 2, 32).images, s, CPU)
    assert found.shape == (2, 2, 32, 32)
    assert found.dtype == np.float32
    assert np.allclose(found.sum(1), 1, atol=1e-6)


def test_the_encoder_takes_the_shared_weights(shared):
    path = shared / "weights" / "mobilenet_v2_imagenet.pth"
    s = settings(encoder="mobilenet_v2", weights=str(path), input_range="symmetric")
    stored, net = weights.read(path), segnet.build(s, 0, RGB_AND_MASK)
    encoder = net.encoder.state_dict()
    assert sum(name.startswith("classifier.") for name in stored) == 2
    assert all(torch.equal(encoder[name], value) for name, value in stored.items()
               if not name.startswith("classifier."))
    other = segnet.build(settings(encoder="mobilenet_v2"), 0, RGB_AND_MASK)
    assert same(net.decoder.state_dict(), other.decoder.state_dict())
    with pytest.raises(UserError, match=r"mobilenet_v2_imagenet\.pth does not fit"):
        segnet.build(settings(weights=str(path)), 0, RGB_AND_MASK)


def test_a_network_that_is_kept_predicts_the_same_without_the_weights_that_it_began_with(tmp_path):
    """Batch norm has counted by then, so that its running means are kept as well."""
    s = settings(weights=str(tmp_path / "gone.pth"))
    net = segnet.build(settings(), 3, RGB_AND_MASK)
    images = pairs(0, 4).images
    net.train()(torch.from_numpy(images).float())
    segnet.save(tmp_path / "model.safetensors", net)
    again = segnet.load(tmp_path / "model.safetensors", s, CPU)
    assert not again.training
    assert same(again.state_dict(), net.state_dict())
    assert (segnet.predict(again, images, s, CPU) == segnet.predict(net, images, s, CPU)).all()
    with pytest.raises(UserError, match=r"model\.safetensors does not fit tu-test_resnet.* Move the folder"):
        segnet.load(tmp_path / "model.safetensors", settings(decoder_channels=[16, 8, 8]), CPU)


def test_a_library_with_a_loader_of_its_own_is_no_matter(tmp_path):
    s = settings(encoder="densenet121")
    one = segnet.build(s, 1, RGB_AND_MASK).encoder.state_dict()
    path = checkpoints.save(tmp_path / "w.safetensors", one, {})
    net = segnet.build(s.model_copy(update={"weights": str(path)}), 2, RGB_AND_MASK)
    assert same(net.encoder.state_dict(), one)


def test_pretrained_asks_the_library_and_says_what_to_do_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_answers", lambda address: False)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    for encoder, where in (("mobilenet_v2", "smp-hub/mobilenet_v2.imagenet"),
                           ("tu-resnet18", "timm/resnet18")):
        with pytest.raises(UserError, match=rf"{where}[\s\S]*copy the folder {re.escape(str(tmp_path))}"):
            segnet.build(settings(encoder=encoder, weights="pretrained"), 0, RGB_AND_MASK)
        assert segnet.decided_by(settings(encoder=encoder, weights="pretrained"), 0, RGB_AND_MASK)["weights"][
            "pretrained"].startswith(where)


@pytest.mark.parametrize(("encoder", "words"), [
    ("mobilenet_v22", "Did you mean mobilenet_v2"), ("tu-no_such_net", "no segment.encoder tu-no_such_net"),
    ("mit_b0", "segment.encoder mit_b0")])
def test_an_encoder_that_cannot_be_had(encoder, words):
    with pytest.raises(UserError, match=words):
        segnet.build(settings(encoder=encoder), 0, RGB_AND_MASK)


def test_a_recipe_of_an_unknown_encoder_is_refused_in_words():
    with pytest.raises(UserError, match="Did you mean mobilenet_v2"):
        segnet.decided_by(settings(encoder="mobilenet_v22", weights="pretrained"), 0, RGB_AND_MASK)


def test_predictions_hang_on_no_other_image_and_the_input_range_matters(few):
    net, images = segnet.build(settings(), 0, RGB_AND_MASK), few[0].images
    whole = segnet.predict(net, images, settings(batch_size=7), CPU)
    for size in (2, 3):
        assert np.allclose(whole, segnet.predict(net, images, settings(batch_size=size), CPU), atol=1e-5)
    other = segnet.predict(net, images, settings(input_range="symmetric"), CPU)
    assert np.abs(whole - other).max() > 1e-3
    assert same(net.state_dict(), segnet.build(settings(), 0, RGB_AND_MASK).state_dict())


@pytest.mark.parametrize(("images", "size", "epoch_images"), [
    (1, 16, None), (2, 2, None), (3, 2, None), (17, 16, None), (9, 4, None), (5, 4, 23), (40, 16, 10)])
def test_batches_are_even_and_never_of_one_image(images, size, epoch_images):
    s = settings(batch_size=size, epoch_images=epoch_images)
    drawn = segnet.batches(images, s, 0, 0)
    order = np.concatenate(drawn)
    assert len(order) == max(2, epoch_images or images)
    assert min(map(len, drawn)) >= 2
    assert max(map(len, drawn)) <= max(size, 3)
    counts = np.bincount(order, minlength=images)
    assert counts.max() - counts.min() <= 1
    if images > 3:
        assert not np.array_equal(order, np.concatenate(segnet.batches(images, s, 0, 1)))


def test_albumentations_is_told_not_to_ask_the_network_before_it_is_imported(monkeypatch):
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE")
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ImportError, match="albumentations"):
        augmentation.transforms()
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_augmentation_has_seeds_of_its_own_and_wrong_arguments_are_errors(few, monkeypatch):
    import albumentations

    whole, transform, position = few[0], augmentation.transforms(), np.array([4, 4, 2])
    first = augmentation.drawn(whole, position, transform, [1, 2, 3])
    np.random.seed(0)
    again = augmentation.drawn(whole, position, augmentation.transforms(), [1, 2, 3])
    assert all(map(np.array_equal, first, again))
    alone = augmentation.drawn(whole, position[2:], transform, [3])
    assert np.array_equal(alone[0][0], first[0][2])
    assert np.array_equal(alone[1][0], first[1][2])
    assert not np.array_equal(first[0][0], first[0][1])
    assert first[0].dtype == first[1].dtype == np.uint8
    assert set(np.unique(first[1])) <= {0, 1}

    affine = albumentations.Affine
    monkeypatch.setattr(albumentations, "Affine", lambda **given: affine(shift_limit=0.1, **given))
    with pytest.raises(UserWarning, match="shift_limit"):
        augmentation.transforms()


def test_a_training_that_was_killed_ends_with_the_same_bits(few, tmp_path, monkeypatch):
    s = settings(epochs=3)
    whole = train(few, s, tmp_path / "whole")
    assert [file.name for file in (tmp_path / "whole").iterdir()] == [segnet.CHECKPOINT]
    monkeypatch.setattr(segnet, "_keep", kill_after(segnet._keep, 2))
    with pytest.raises(KeyboardInterrupt):
        train(few, s, tmp_path / "killed")
    monkeypatch.undo()
    torch.manual_seed(99)
    np.random.seed(99)
    again = train(few, s, tmp_path / "killed")
    assert again.history.equals(whole.history)
    assert same(again.net.state_dict(), whole.net.state_dict())
    assert list(whole.history["epoch"]) == [1, 2, 3]
    assert whole.best_epoch == 1 + int(whole.history["valid_iou"].argmax())


def kill_after(keep, calls: int):
    done = []

    def killing(*arguments):
        keep(*arguments)
        done.append(1)
        if len(done) == calls:
            raise KeyboardInterrupt
    return killing


@pytest.mark.parametrize("change", ["recipe", "lr", "torn"])
def test_a_checkpoint_of_another_training_is_not_used(few, tmp_path, monkeypatch, caplog, change):
    monkeypatch.setattr(segnet, "_keep", kill_after(segnet._keep, 1))
    with pytest.raises(KeyboardInterrupt):
        train(few, settings(epochs=2), tmp_path / "run", {"name": 1})
    monkeypatch.undo()
    if change == "torn":
        file = tmp_path / "run" / "checkpoint.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    recipe = {"name": 2 if change == "recipe" else 1}
    s = settings(epochs=2, lr=1e-2 if change == "lr" else 3e-3)
    found = train(few, s, tmp_path / "run", recipe)
    assert "Training starts again" in caplog.text
    assert found.history.equals(train(few, s, tmp_path / "fresh", recipe).history)


def test_the_best_epoch_is_the_first_of_equals_and_its_weights_are_kept(few, tmp_path, monkeypatch):
    nets, ious = [], iter([0.2, 0.5, 0.5, 0.1])
    real = overlap.scores

    def scores(*given):
        return real(*given).assign(iou=next(ious))

    def predict(net, images, s, device):
        nets.append({name: value.clone() for name, value in net.state_dict().items()})
        return np.full((len(images), 2, 16, 16), 0.5)

    monkeypatch.setattr(overlap, "scores", scores)
    monkeypatch.setattr(segnet, "predict", predict)
    found = train(few, settings(), tmp_path)
    assert found.best_epoch == 2
    assert same(found.net.state_dict(), nets[1])
    assert not same(nets[1], nets[3])


def test_the_learning_rate_steps_once(few, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]),
                                                                step(self))[1])
    train(few, settings(batch_size=7, lr=1e-3, lr_after=1e-4, augment=False), tmp_path)
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4]


def test_one_image_trains_and_no_image_is_refused(few, tmp_path):
    s = settings(epochs=1, precision="bf16")
    assert np.isfinite(train((few[0].take([0]), few[1]), s, tmp_path).history["loss"]).all()
    with pytest.raises(UserError, match="0 to choose the best epoch"):
        train((few[0], few[1].take([])), s, tmp_path)


def test_a_diverged_training_is_refused_in_words(few, tmp_path):
    with pytest.raises(UserError, match=r"diverged: in epoch \d .* Lower segment\.lr"):
        train(few, settings(lr=1e30, lr_after=1e30, precision="bf16", epochs=10), tmp_path)


def test_the_loss_is_the_published_one():
    from segmentation_models_pytorch.losses import DiceLoss

    logits = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    masks = (torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.3).long()
    p = logits.softmax(1)[:, 1]
    published = 1 - (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
    loss = DiceLoss("multiclass", classes=[1], smooth=0.5)(logits, masks)
    assert float(loss) == pytest.approx(float(published), rel=1e-6)


def test_chance_before_and_skill_after(tmp_path):
    s = settings(decoder_channels=[32, 16, 16], epochs=16, lr_epochs=12, batch_size=16, augment=False)
    few, fresh = (pairs(0, 64, 32), pairs(64, 80, 32)), pairs(1000, 1040, 32)

    def dice(net) -> float:
        return overlap.scores(segnet.predict(net, fresh.images, s, CPU), fresh.masks)["dice"].mean()

    # Chance: the polyp covers a twelfth, so a net that calls it everywhere scores about 0.15.
    assert dice(segnet.build(s, 0, RGB_AND_MASK)) < 0.25
    assert dice(train(few, s, tmp_path).net) > 0.5


def test_turned_training_images_are_of_another_network_and_their_masks_turn_with_them(few):
    whole = few[0]
    turned = augmentation.transforms(rotate=180)
    image, mask = augmentation.drawn(whole, np.array([4] * 8), turned, list(range(8)))
    upright = augmentation.drawn(whole, np.array([4] * 8), augmentation.transforms(), list(range(8)))[1]
    assert not np.array_equal(mask, upright)
    assert image.shape == (8, 3, *mask.shape[1:])
    assert "rotate" not in segnet.decided_by(settings(), 0, RGB_AND_MASK), "networks from before it stay"
    assert segnet.decided_by(settings(rotate=90), 0, RGB_AND_MASK)["rotate"] == 90
    upright = segnet.decided_by(settings(rotate=90, augment=False), 0, RGB_AND_MASK)
    assert "rotate" not in upright, "it does nothing there"
