"""Features: the right network, fed as it expects, the same whatever the batch."""

import time

import numpy as np
import pytest
import torch
import torchvision
from huggingface_hub import constants as hub
from pytorch_fid import inception as fid
from torch.nn.functional import interpolate

from diffusegen_core.config.errors import UserError
from diffusegen_core.networks import features

SMALL = "timm/test_resnet"  # timm's own network for tests: 96 features, 160 px


def noise(n: int, side: int = 24) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 3, side, side), dtype=np.uint8)


@pytest.mark.parametrize(("backbone", "width"), [
    ("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024), (SMALL, 96), ("timm/test_vit", 64),
    ("timm/vit_tiny_patch16_224.augreg_in21k", 192),
])
def test_a_backbone_by_name(backbone, width):
    rows = features.extract(noise(2), backbone, "random", "imagenet")
    assert rows.shape == (2, width)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert np.abs(rows[0] - rows[1]).max() > 0


def test_rows_depend_on_neither_batch_nor_order_nor_torch():
    images = noise(7)
    state = torch.get_rng_state()
    whole = features.extract(images, SMALL, "random", "imagenet", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(whole, features.extract(images, SMALL, "random", "imagenet", seed=3))
    for batch_size in (1, 2, 5):
        rows = features.extract(images[::-1], SMALL, "random", "imagenet", seed=3, batch_size=batch_size)
        np.testing.assert_allclose(rows[::-1], whole, rtol=1e-4, atol=1e-5)
    other = features.extract(images, SMALL, "random", "imagenet", seed=4)
    assert np.abs(other - whole).max() > 0.01


@pytest.mark.parametrize(("input_range", "mean", "deviation"), [
    ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("symmetric", (128 / 255,) * 3, (128 / 255,) * 3)])
def test_torchvision_features_are_what_the_classifier_sees(tmp_path, input_range, mean, deviation):
    net = torchvision.models.resnet18(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "resnet.pth")
    images = noise(2, side=224)
    rows = features.extract(images, "resnet18", str(tmp_path / "resnet.pth"), input_range)
    x = torch.from_numpy(images) / 255
    x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    with torch.inference_mode():
        expected = net(x)
        ours = net.fc(torch.from_numpy(rows))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_inception_is_the_one_of_the_fid(tmp_path, monkeypatch):
    """Against pytorch-fid's own network, which is handed our weights where it would download its own."""
    net = features.load(features.INCEPTION, "random", "imagenet")[-1]
    state = net.state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    # The usual initialisation fades out over so many layers: features would compare as zeros.
    state = {name: 4 * value if name.endswith("conv.weight") else value for name, value in state.items()}
    torch.save(state, tmp_path / "inception.pth")
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda url, progress: state)
    reference = fid.InceptionV3().eval()
    images = noise(1)
    rows = features.extract(images, features.INCEPTION, str(tmp_path / "inception.pth"), "imagenet")
    with torch.inference_mode():
        expected = reference(torch.from_numpy(images) / 255)[0].flatten(1).numpy()
    assert rows.shape == (1, 2048)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-4 * expected.std())


def test_small_images_are_resized_to_the_network_s_own_side():
    images = noise(2, side=32)
    large = interpolate(torch.from_numpy(images).float(), size=160, mode="bilinear").numpy()
    with torch.inference_mode():
        expected = features.load(SMALL, "random", "imagenet")(torch.from_numpy(large)).numpy()
    rows = features.extract(images, SMALL, "random", "imagenet")
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_the_map_has_gradients_for_pixels_and_none_for_weights():
    net = features.load(SMALL, "random", "imagenet")
    pixels = torch.full((1, 3, 24, 24), 100.0, requires_grad=True)
    net(pixels).square().sum().backward()
    assert pixels.grad.abs().max() > 0
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("name", "words"), [
    ("resnet81", "Did you mean resnet18"), ("timm/test_vt", "Did you mean timm/test_vit"),
    ("fasterrcnn_resnet50_fpn", "no backbone"), ("squeezenet1_1", "no linear layer")])
def test_an_unknown_backbone_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        features.extract(noise(1), name, "random", "imagenet")


@pytest.mark.parametrize(("backbone", "library", "file"), [
    ("resnet18", "torchvision", "resnet18-f37072fd.pth"),
    ("inception_v3_fid", "pytorch-fid", "pt_inception-2015-12-05-6726825d.pth"),
    ("timm/test_vit", "timm", "models--timm--test_vit")])
def test_pretrained_without_a_network_says_what_to_do(tmp_path, monkeypatch, backbone, library, file):
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", nowhere)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    # urllib's way of having no network but this machine.
    monkeypatch.setenv("https_proxy", nowhere)
    monkeypatch.setenv("no_proxy", "")
    start = time.monotonic()
    with pytest.raises(UserError) as refusal:
        features.extract(noise(1), backbone, "pretrained", "imagenet")
    assert time.monotonic() - start < 10
    for part in (library, file, str(tmp_path), "Without a network", "path of a weights file"):
        assert part in str(refusal.value)


def test_pretrained_is_read_from_torch_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), folder / "resnet18-f37072fd.pth")
    by_hand = features.extract(noise(1), "resnet18", str(folder / "resnet18-f37072fd.pth"), "imagenet")
    assert np.array_equal(features.extract(noise(1), "resnet18", "pretrained", "imagenet"), by_hand)


def test_labels_and_recipes():
    assert features.label("resnet18", "random") == "resnet18 (random weights)"
    assert features.label("inception_v3_fid", "pretrained") == "inception_v3_fid (pretrained)"
    assert features.label("mobilenet_v2", "w/imagenet.pth") == "mobilenet_v2 (imagenet.pth)"
    one, other = (features.recipe("resnet18", "random", r) for r in ("imagenet", "symmetric"))
    assert one != other
    one, other = (features.recipe("inception_v3_fid", "random", r) for r in ("imagenet", "symmetric"))
    assert one == other


def test_remembered_features_are_extracted_once(tmp_path):
    calls = []

    def extract(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return features.extract(images, SMALL, "random", "imagenet")

    images, recipe = noise(3), features.recipe(SMALL, "random", "imagenet")
    first = features.remembered(tmp_path, images, recipe, extract)
    assert np.array_equal(features.remembered(tmp_path, images[::-1], recipe, extract), first[::-1])
    assert calls == [3]
    more = np.concatenate([noise(2), images])
    assert np.array_equal(features.remembered(tmp_path, more, recipe, extract)[2:], first)
    assert calls == [3, 2], "only what is new"
    features.remembered(tmp_path, images, features.recipe(SMALL, "random", "imagenet", seed=1), extract)
    assert calls == [3, 2, 3]


def test_the_shared_weights_know_a_photograph_again(shared):
    """Two shifted crops of one photograph lie closer together than crops of two photographs."""
    files = sorted((shared / "data" / "kvasir-seg" / "images").iterdir())[:4]
    photos = [torchvision.io.decode_image(str(file), torchvision.io.ImageReadMode.RGB) for file in files]
    resize = torchvision.transforms.v2.Resize((240, 240), antialias=True)
    photos = [resize(photo).numpy() for photo in photos]
    one = np.stack([photo[:, :224, :224] for photo in photos])
    two = np.stack([photo[:, 16:, 16:] for photo in photos])
    file = str(shared / "weights" / "mobilenet_v2_imagenet.pth")
    a, b = (features.extract(crops, "mobilenet_v2", file, "symmetric") for crops in (one, two))
    assert a.shape == (4, 1280)
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert (distances.argmin(axis=1) == np.arange(4)).all()
