"""The losses of styling against independent arithmetic, their gradients, and the shift that they make."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy.linalg import sqrtm
from torch import Tensor
from torch.autograd import gradcheck

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.diffusion import colour, losses
from diffusegen_core.diffusion.guided import (
    GuidedStep,
    Judge,
    LossInputs,
    Targets,
    default_blocks,
    load_judge,
    pulls,
    total,
)
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.networks import features, vgg, weights
from diffusegen_core.store import seeds

MODEL = params.Model(channel_mult=[1, 1], attention_resolutions=[], head_channels=32)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def zecon_by_hand(queries: list[Tensor], keys: list[Tensor], temperature: float) -> list[float]:
    """Image by image and patch by patch: minus the log of the patch's own share among all patches."""
    found = []
    for image in range(len(queries[0])):
        total = 0.0
        for query, key in zip(queries, keys, strict=True):
            q, k = query[image].numpy(), key[image].numpy()
            terms = []
            for s in range(len(q)):
                alike = [np.exp(q[s] @ k[j] / np.linalg.norm(q[s]) / np.linalg.norm(k[j]) / temperature)
                         for j in range(len(k))]
                terms.append(-np.log(alike[s] / sum(alike)))
            total += sum(terms) / len(terms)
        found.append(total)
    return found


def test_zecon_equals_the_sum_by_hand() -> None:
    queries = [doubles(2, 5, 3), doubles(2, 4, 7)]
    keys = [doubles(2, 5, 3, seed=1), doubles(2, 4, 7, seed=1)]
    for temperature in (0.07, 0.5):
        found = losses.zecon_loss(queries, keys, temperature)
        np.testing.assert_allclose(found, zecon_by_hand(queries, keys, temperature), rtol=1e-10)


def test_zecon_gives_its_keys_no_gradient() -> None:
    query, key = doubles(2, 5, 3).requires_grad_(), doubles(2, 5, 3, seed=1).requires_grad_()
    query_gradient, key_gradient = torch.autograd.grad(losses.zecon_loss([query], [key], 0.07).sum(),
                                                       [query, key], allow_unused=True)
    assert key_gradient is None
    assert query_gradient.abs().max() > 0.1


def test_zecon_is_lowest_where_query_equals_key() -> None:
    keys = torch.eye(6, dtype=torch.float64)[None] - 1 / 6  # a simplex: all patches are equally unlike
    query = keys.clone().requires_grad_()
    lowest = losses.zecon_loss([query], [keys], 0.5)
    gradient, = torch.autograd.grad(lowest.sum(), query)
    assert gradient.abs().max() < 1e-12
    for seed in range(20):
        other = losses.zecon_loss([keys + 0.3 * doubles(1, 6, 6, seed=seed)], [keys], 0.5)
        assert other > lowest + 0.01
    features = doubles(1, 30, 16)  # and of any features: lower than for other patches, in any order
    own = losses.zecon_loss([features], [features], 0.07)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(30)
        assert losses.zecon_loss([features[:, order]], [features], 0.07) > own + 1


def test_mean_squared_losses_equal_numpy() -> None:
    x, y = doubles(3, 3, 4, 4), doubles(3, 3, 4, 4, seed=1)
    expected = [np.mean((a.numpy() - b.numpy()) ** 2) for a, b in zip(x, y, strict=True)]
    for loss in (losses.mse_loss, losses.l2_loss):
        np.testing.assert_allclose(loss(x, y), expected, rtol=1e-12)
    cls, other = doubles(3, 9), doubles(3, 9, seed=1)
    distance = np.linalg.norm(cls.numpy() - other.numpy(), axis=1) ** 2 / 9
    np.testing.assert_allclose(losses.sty_loss(cls, other), distance, rtol=1e-12)
    np.testing.assert_allclose(losses.sem_loss(cls, other), -distance, rtol=1e-12)
    maps, reference = [x, doubles(3, 2, 2, 2)], [y, doubles(3, 2, 2, 2, seed=1)]
    both = [sum(np.mean((m[i].numpy() - r[i].numpy()) ** 2) for m, r in zip(maps, reference, strict=True))
            for i in range(3)]
    np.testing.assert_allclose(losses.vgg_loss(maps, reference), both, rtol=1e-12)


def test_range_counts_only_what_lies_outside() -> None:
    x = torch.tensor([[0.5, -1.0, 1.0, 0.0], [1.5, -3.0, 0.2, 1.0]], dtype=torch.float64).reshape(2, 1, 2, 2)
    np.testing.assert_allclose(losses.rng_loss(x), [0, (0.5**2 + 2**2) / 4], rtol=1e-12)


@pytest.mark.parametrize(("loss", "shape"), [
    (lambda x: losses.zecon_loss([x], [doubles(2, 5, 3, seed=1)], 0.07), (2, 5, 3)),
    (lambda x: losses.vgg_loss([x, x**2], [doubles(2, 3, 4, 4, seed=1)] * 2), (2, 3, 4, 4)),
    (lambda x: losses.mse_loss(x, doubles(2, 3, 4, 4, seed=1)), (2, 3, 4, 4)),
    (lambda x: losses.sty_loss(x, doubles(2, 7, seed=1)), (2, 7)),
    (lambda x: losses.l2_loss(x, doubles(2, 3, 4, 4, seed=1)), (2, 3, 4, 4)),
    (lambda x: losses.sem_loss(x, doubles(2, 7, seed=1)), (2, 7)),
    (lambda x: losses.rng_loss(2 * x), (2, 4, 4, 4)),
], ids=losses.TERMS)
def test_a_gradient_equals_finite_differences(loss, shape) -> None:
    assert gradcheck(loss, doubles(*shape).requires_grad_(), eps=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def judge() -> Judge:
    """All seven losses over tiny random networks, at 16 px."""
    settings = params.Style(backbone="timm/test_resnet", backbone_size=32, zecon_patches=40)
    return load_judge(settings, MODEL, 0, torch.device("cpu"))


def test_a_judge_looks_through_what_lies_in_the_files_of_weights_by_now(tmp_path: Path) -> None:
    """A notebook goes on while its user puts another file in the place of the first."""
    layers, backbone = tmp_path / "vgg.pth", tmp_path / "backbone.pth"
    settings = params.Style(backbone="timm/test_resnet", backbone_size=32, weights=str(backbone),
                            vgg_weights=str(layers))
    x, looks = doubles(1, 3, 16, 16).float().clamp(-1, 1), []
    for seed in (1, 2):
        plain = torchvision.models.vgg.make_layers([64, 64, "M", 128])
        torch.save({f"features.{name}": value for name, value in plain.state_dict().items()}, layers)
        torch.save(features.load("timm/test_resnet", "random", "imagenet", seed=seed)[-1].state_dict(),
                   backbone)
        judge = load_judge(settings, MODEL, 0, torch.device("cpu"))
        assert load_judge(settings, MODEL, 0, torch.device("cpu")).vgg_net is judge.vgg_net, "read once"
        assert torch.equal(judge.maps(x)[1], vgg.load("vgg19", str(layers))(x)[1])
        looks.append((judge.cls(x), judge.maps(x)[1]))
    assert not any(torch.equal(first, second) for first, second in zip(*looks, strict=True))


def gradient_of_all(judge: Judge, rows: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of these of four images, and the gradient of their weighted sum."""
    x, reference = (doubles(4, 4, 16, 16, seed=seed)[rows].float() for seed in (0, 1))
    source, previous = doubles(4, 3, 16, 16)[rows].float(), doubles(4, 3, 16, 16, seed=2)[rows].float()
    step = GuidedStep(judge, Targets.of(judge, reference, source))
    step.previous_cls = judge.cls(previous)
    net = weights.seeded(lambda: UNet(MODEL, 16), 0).eval().requires_grad_(False)
    generators = [seeds.generator(0, row) for row in rows]
    x.requires_grad_()
    wanted = losses.weights(judge.settings, 0)
    found = step.values(net, LossInputs(x, x, reference, judge.cls(x[:, :3])), wanted, generators)
    return found, torch.autograd.grad(total(found, wanted).sum(), x)[0]


def test_an_images_losses_and_gradient_are_its_own(judge: Judge) -> None:
    found, gradient = gradient_of_all(judge, [0, 1, 2, 3])
    assert tuple(found) == losses.TERMS
    for rows in ([2], [3, 1], [1, 2, 0]):
        part, of_part = gradient_of_all(judge, rows)
        for name in losses.TERMS:
            torch.testing.assert_close(part[name], found[name][rows], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(of_part, gradient[rows], rtol=1e-3,
                                   atol=1e-5 * float(gradient.abs().max()))


def test_the_total_is_the_weighted_sum(judge: Judge) -> None:
    found, _ = gradient_of_all(judge, [0, 1])
    by_hand = (500 * found["zecon"] + 100 * found["vgg"] + 5000 * found["mse"] + 10000 * found["sty"]
               + 10000 * found["l2"] + 40000 * found["sem"] + 200 * found["rng"])
    torch.testing.assert_close(total(found, losses.weights(params.Style(), 0)), by_hand)


def test_weights_of_zero_and_later_steps_drop_out() -> None:
    settings = params.Style(semantic_steps=19, lambda_vgg=0.0)
    assert set(losses.weights(settings, 18)) == set(losses.TERMS) - {"vgg"}
    assert set(losses.weights(settings, 19)) == set(losses.TERMS) - {"vgg", "sem"}


def test_all_weights_at_zero_are_refused() -> None:
    off = {f"lambda_{name}": 0 for name in losses.TERMS if name != "sem"}
    with pytest.raises(UserError, match="besides lambda_sem must be above 0"):
        params.validate({"style": off})
    params.validate({"style": {**off, "method": "sdedit"}})  # which has no losses


def test_the_encoders_blocks() -> None:
    paper = params.Model(base_channels=256, channel_mult=[1, 1, 2, 2, 4, 4], res_blocks=2, head_channels=64)
    assert default_blocks(paper) == [0, 2, 5, 8, 11]
    for mult, res_blocks in (([1], 1), ([1, 2], 1), ([1, 1, 2, 2], 1), ([1, 2, 2], 3)):
        model = params.Model(channel_mult=mult, res_blocks=res_blocks, attention_resolutions=[])
        sides = [f.shape[-1] for f in UNet(model, 16).encode(torch.zeros(1, 4, 16, 16), torch.zeros(1))]
        last_of_each = [max(i for i, side in enumerate(sides) if side == 16 // 2**level and (
            level == 0 or sides[i - 1] == side)) for level in range(len(mult))]
        assert default_blocks(model) == [0, *last_of_each]
    with pytest.raises(UserError, match="zecon_blocks 4 exceeds the network's last input block 3"):
        params.validate({"style": {"zecon_blocks": [0, 4]}})


def test_patches_are_distinct_and_each_images_own() -> None:
    def drawn(rows: list[int]) -> list[Tensor]:
        return losses.patches([seeds.generator(0, row) for row in rows], [64, 16], 20)

    first, second = drawn([0, 1])
    assert first.shape == (2, 20)
    assert second.shape == (2, 16)
    assert all(len(set(row.tolist())) == 20 and max(row) < 64 for row in first)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(drawn([1])[0][0], first[1])
    layer = doubles(2, 64, 3)
    torch.testing.assert_close(losses.chosen([layer], [first])[0][1, 4], layer[1, first[1, 4]])


def test_a_weight_means_the_same_at_every_size() -> None:
    moved = {}
    for side in (256, 32):
        x = torch.ones(1, 4, side, side, dtype=torch.float64, requires_grad=True)
        found = {"mse": losses.mse_loss(x, 0 * x.detach())}
        moved[side] = pulls(found, {"mse": 5000.0}, LossInputs(x, x, x, x))["mse"].unique()
    torch.testing.assert_close(moved[32], moved[256])
    assert moved[256].tolist() == pytest.approx([5000 * 2 / (4 * 256 * 256)])


def test_the_range_pulls_at_the_clean_image_and_the_others_at_the_mix() -> None:
    x0, x = (doubles(1, 4, 8, 8, seed=seed).requires_grad_() for seed in (0, 1))
    found = {"rng": losses.rng_loss(x0), "l2": losses.l2_loss(x, 0 * x.detach())}
    gradients = pulls(found, {"rng": 200.0, "l2": 10000.0}, LossInputs(x0, x, x, x))
    outside = (x0 - x0.clamp(-1, 1)).detach()
    torch.testing.assert_close(gradients["rng"], 200 * 2 * outside / 256 * (8 / 256) ** 2)
    torch.testing.assert_close(gradients["l2"], 10000 * 2 * x.detach() / 256 * (8 / 256) ** 2)


def test_an_image_is_scaled_down_to_the_limit_and_never_up() -> None:
    x = doubles(3, 4, 8, 8) * torch.tensor([1e-6, 1e12, 0])[:, None, None, None]
    most = torch.full((3,), 0.2, dtype=torch.float64)
    limited = losses.limited(x, most)
    torch.testing.assert_close(limited[[0, 2]], x[[0, 2]])
    assert float(losses.rms(limited)[1]) == pytest.approx(0.2)
    torch.testing.assert_close(limited[1] / 0.2, x[1] / losses.rms(x)[1])


def test_vgg19_is_torchvisions(tmp_path: Path) -> None:
    whole = torchvision.models.VGG(torchvision.models.vgg.make_layers([64, 64, "M", 128, 128]), num_classes=1)
    whole.classifier = torch.nn.Linear(1, 1)
    torch.save(whole.state_dict(), tmp_path / "vgg.pth")
    x = doubles(2, 3, 16, 16).float().clamp(-1, 1)
    first, second = vgg.load("vgg19", str(tmp_path / "vgg.pth"))(x)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    prepared = ((x + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(first, whole.features[:2](prepared))
    torch.testing.assert_close(second, whole.features[:7](prepared))
    assert second.shape == (2, 128, 8, 8)


def test_vgg_maps_are_differentiable_and_frozen() -> None:
    for name in ("vgg19", "vgg19_normalised"):
        net = vgg.load(name, "random", seed=3)
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
        x = doubles(1, 3, 8, 8).float().requires_grad_()
        gradient, = torch.autograd.grad(sum(m.sum() for m in net(x)), x)
        assert gradient.abs().max() > 0
        assert torch.equal(net(x)[1], vgg.load(name, "random", seed=3)(x)[1])
    with pytest.raises(UserError, match="no published weights for vgg19_normalised"):
        vgg.load("vgg19_normalised", "pretrained")


def test_the_normalised_vgg_of_the_shared_folder(shared: Path) -> None:
    file = shared / "weights" / "vgg19_normalised_to_conv3_1.pth"
    state = torch.load(file, weights_only=True)
    x = doubles(1, 3, 12, 12).float().clamp(-1, 1)
    h = torch.nn.functional.conv2d((x + 1) / 2, state["0.weight"], state["0.bias"])
    maps = []
    for name in ("2", "5", "9"):
        h = torch.nn.functional.max_pool2d(h, 2) if name == "9" else h
        h = torch.nn.functional.pad(h, (1, 1, 1, 1), mode="reflect")
        h = torch.nn.functional.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"]).relu()
        maps.append(h)
    first, second = vgg.load("vgg19_normalised", str(file))(x)
    torch.testing.assert_close(first, maps[0])
    torch.testing.assert_close(second, maps[2])
    with pytest.raises(UserError, match="does not fit"):
        vgg.load("vgg19", str(file))


def test_cls_is_the_token_as_the_last_block_leaves_it() -> None:
    images = torch.rand(2, 3, 24, 24) * 255
    for backbone in ("timm/test_vit", "timm/vit_small_patch16_224.dino"):
        net = features.load_cls(backbone, "random", "imagenet")
        seen = []
        net[-1].blocks[-1].register_forward_hook(lambda module, given, out, seen=seen: seen.append(out))
        cls = net(images)
        torch.testing.assert_close(cls, seen[0][:, 0])
        assert (cls - features.load(backbone, "random", "imagenet")(images)).abs().max() > 0.01
        with pytest.raises(UserError, match="pixels only"):
            features.load_cls(backbone, "random", "imagenet", size=96)


def test_a_network_without_cls_gives_its_features_at_the_size_asked() -> None:
    images = (torch.rand(2, 3, 24, 24) * 255).requires_grad_()
    net = features.load_cls("mobilenet_v3_small", "random", "imagenet", size=48)
    found = net(images)
    plain = features.load("mobilenet_v3_small", "random", "imagenet", size=48)
    torch.testing.assert_close(found, plain(images))
    assert found.shape == (2, 1024)
    gradient, = torch.autograd.grad(found.square().sum(), images)
    assert gradient.abs().max() > 0


def pixels(seed: int, spread: float = 0.2) -> np.ndarray:
    mixing = np.random.default_rng(seed).standard_normal((3, 3))
    return 0.1 * seed + spread * np.einsum("ij,jhw->ihw", mixing, doubles(3, 20, 20, seed=seed).numpy())


def test_colours_take_the_mean_and_covariance_of_the_reference() -> None:
    image, reference = pixels(1), pixels(2)
    moved = colour.transfer(image, reference).reshape(3, -1)
    np.testing.assert_allclose(moved.mean(axis=1), reference.reshape(3, -1).mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(np.cov(moved), np.cov(reference.reshape(3, -1)), rtol=1e-6, atol=1e-9)


def test_the_colour_map_is_the_optimal_one() -> None:
    image, reference = pixels(1), pixels(2)
    a, b = (np.cov(x.reshape(3, -1)) for x in (image, reference))
    root = sqrtm(a).real
    t = np.linalg.inv(root) @ sqrtm(root @ b @ root).real @ np.linalg.inv(root)
    np.testing.assert_allclose(t, t.T, atol=1e-9)
    centred = image.reshape(3, -1) - image.reshape(3, -1).mean(axis=1, keepdims=True)
    expected = t @ centred + reference.reshape(3, -1).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(colour.transfer(image, reference).reshape(3, -1), expected, atol=1e-9)


def test_an_image_keeps_its_own_colours_and_a_flat_one_is_not_stretched() -> None:
    image = pixels(3)
    np.testing.assert_allclose(colour.transfer(image, image), image, atol=1e-9)
    flat = np.full((3, 20, 20), 0.3)
    moved = colour.transfer(flat, image)
    np.testing.assert_allclose(moved, np.broadcast_to(image.mean(axis=(1, 2), keepdims=True), moved.shape))
