"""FID and its kin through clean-fid, cached by content; the kernel distance; MS-SSIM at every size."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import downloads_helper, fid
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import make_resizer
from PIL import Image
from pytorch_msssim import ms_ssim
from torch import nn

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Evaluate
from diffusegen_core.data import phantom
from diffusegen_core.measures import metrics
from diffusegen_core.networks import features
from diffusegen_core.store import files

# clean-fid's own: TorchScript, and an argument of scipy's that 1.18 takes away.
pytestmark = [pytest.mark.filterwarnings("ignore:.*torch[.]jit.*is deprecated:DeprecationWarning"),
              pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning"),
              pytest.mark.filterwarnings("ignore:Matrix is singular")]

RESNET = Evaluate(backbone="resnet18", weights="random", batch_size=4)
INCEPTION = Evaluate(backbone="inception_v3_fid", weights="pretrained")


class Layers(nn.Module):
    """Stands in for Inception's: 2048 features, none of them learned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2048, 16, stride=48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu().mean(dim=(2, 3))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript file built as clean-fid's, under another name."""
    path = tmp_path_factory.mktemp("weights") / "stand-in.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.jit.save(torch.jit.script(Network().eval()), path)
    return path


@pytest.fixture(autouse=True)
def trusted(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the stand-in for clean-fid's own file."""
    monkeypatch.setattr(metrics, "NETWORK_SHA256", files.sha256(network))


def drawn(seed: int, count: int, size: int = 40) -> np.ndarray:
    return np.stack([phantom.draw(seed, i, size)[0] for i in range(count)])


def write(images: np.ndarray, folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    return drawn(0, 10), drawn(1, 9)


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints" / metrics.NETWORK


# Names


@pytest.mark.parametrize(("e", "names"), [
    (INCEPTION, ("FID", "KID")),
    (INCEPTION.model_copy(update={"weights": "random"}),
     ("FD-inception_v3_fid (random weights)", "KD-inception_v3_fid (random weights)")),
    (Evaluate(backbone="mobilenet_v2", weights="pretrained"), ("FD-MobileNetV2", "KD-MobileNetV2")),
    (Evaluate(backbone="mobilenet_v2", weights="some/file.pth"), ("FD-MobileNetV2", "KD-MobileNetV2")),
    (Evaluate(backbone="resnet18", weights="random"),
     ("FD-ResNet18 (random weights)", "KD-ResNet18 (random weights)")),
    (Evaluate(backbone="timm/vit_small_patch16_224.dino", weights="pretrained"),
     ("FD-vit_small_patch16_224.dino", "KD-vit_small_patch16_224.dino")),
])
def test_only_clean_fids_inception_gives_fid(e: Evaluate, names: tuple[str, str]) -> None:
    assert metrics.names(e) == names


# Features


def test_inception_features_are_those_of_clean_fid(network: Path, sets: tuple, tmp_path: Path) -> None:
    e = Evaluate(backbone="inception_v3_fid", weights=str(network), batch_size=4)
    folder = write(sets[0], tmp_path / "images")
    os.symlink(network, tmp_path / metrics.NETWORK)
    theirs = fid.get_folder_features(str(folder), InceptionV3W(str(tmp_path), download=False), num_workers=0,
                                     batch_size=4, device=torch.device("cpu"), mode="clean", verbose=False)
    ours = metrics.remembered(tmp_path / "store", sets[0], e)
    assert theirs.shape == ours.shape == (10, 2048)
    assert theirs.std() > 0.01
    assert np.abs(theirs - ours).max() < 1e-6
    assert metrics.backbone(e) == "clean-fid's Inception-v3 (stand-in.pt)"


def test_the_whole_way_agrees_with_clean_fid(sets: tuple, tmp_path: Path) -> None:
    net = features.load("resnet18", "random", "imagenet")
    folders = [str(write(images, tmp_path / name)) for name, images in zip("ab", sets, strict=True)]
    theirs = fid.compare_folders(*folders, net, "clean", num_workers=0, batch_size=4, verbose=False,
                                 device=torch.device("cpu"),
                                 custom_fn_resize=make_resizer("PIL", False, "bicubic", (224, 224)))
    for _ in range(2):  # extracted, then read
        ours = metrics.frechet(*(metrics.remembered(tmp_path / "store", images, RESNET) for images in sets))
        assert ours == pytest.approx(theirs, abs=1e-3)  # clean-fid's rounding
    assert theirs > 0.1


def test_an_image_is_extracted_once(sets: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extracted = []

    def extract(images: np.ndarray, *_: object) -> np.ndarray:
        extracted.append(len(images))
        if sum(extracted) > 6:
            raise KeyboardInterrupt
        return images.reshape(len(images), -1)[:, :5].astype(np.float32)

    monkeypatch.setattr(metrics, "extract", extract)
    monkeypatch.setattr(features, "CHUNK", 3)
    twice = np.concatenate([sets[0][:5], sets[0][:5]])
    rows = metrics.remembered(tmp_path, twice, RESNET)
    assert extracted == [3, 2]
    np.testing.assert_array_equal(rows, twice.reshape(10, -1)[:, :5])
    with pytest.raises(KeyboardInterrupt):
        metrics.remembered(tmp_path, sets[0][:9], RESNET)
    extracted.clear()
    metrics.remembered(tmp_path, sets[0][:9], RESNET)  # what was interrupted, and only that
    assert extracted == [3, 1]
    extracted.clear()
    metrics.remembered(tmp_path, sets[0][:3], RESNET, seed=1)  # other random weights
    assert extracted == [3]


def test_what_another_worker_is_writing_is_not_read(sets: tuple, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "extract", lambda images, *_: np.zeros((len(images), 5), np.float32))
    metrics.remembered(tmp_path, sets[0][:2], RESNET)
    [file] = tmp_path.glob("*/*.npz")
    file.rename(file.with_name(f"{files.WRITING}x.npz"))
    read = []
    monkeypatch.setattr(features, "_rows", lambda file: read.append(file) or {})
    metrics.remembered(tmp_path, sets[0][:2], RESNET)
    assert read == []


def test_a_file_that_is_not_the_network_is_refused(tmp_path: Path, sets: tuple) -> None:
    plain = tmp_path / "state.pth"
    torch.save({"a": torch.zeros(1)}, plain)
    bare = tmp_path / "bare.pt"
    torch.jit.save(torch.jit.script(nn.ReLU()), bare)  # TorchScript, but of something else
    for path in (plain, bare):
        with pytest.raises(UserError, match=f"{path.name} is not the TorchScript .* {metrics.NETWORK}"):
            metrics.extract(sets[0], Evaluate(backbone="inception_v3_fid", weights=str(path)))
    with pytest.raises(UserError, match="There is no weights file"):
        metrics.extract(sets[0], Evaluate(backbone="inception_v3_fid", weights=str(tmp_path / "none.pt")))


class Writer(nn.Module):
    """TorchScript that writes a file when it is called."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target, self.layers = target, Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.target)
        return self.layers(x)


def test_torchscript_of_a_stranger_is_not_run(tmp_path: Path, sets: tuple) -> None:
    path, target = tmp_path / metrics.NETWORK, tmp_path / "written"
    torch.jit.save(torch.jit.script(Writer(str(target))), path)
    torch.jit.load(path)(torch.zeros(1, 3, 48, 48))
    target.unlink()  # it does write where it is run
    with pytest.raises(UserError, match="its SHA-256 differs, and no other program is run"):
        metrics.extract(sets[0], Evaluate(backbone="inception_v3_fid", weights=str(path)))
    assert not target.exists()


def test_clean_fids_download_is_asked_for_once(network: Path, torch_home: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads_helper, "inception_url", network.as_uri())
    assert metrics.network(INCEPTION)[1] == 299
    assert torch_home.read_bytes() == network.read_bytes()
    monkeypatch.setattr(downloads_helper, "inception_url", "http://127.0.0.1:9/")
    assert metrics.network(INCEPTION)[1] == 299


@pytest.mark.parametrize("broken", ["half a file", "no server"])
def test_a_download_that_fails_leaves_nothing(broken: str, network: Path, torch_home: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    half = tmp_path / metrics.NETWORK
    half.write_bytes(network.read_bytes()[:5000])
    url = half.as_uri() if broken == "half a file" else f"http://127.0.0.1:9/{metrics.NETWORK}"
    monkeypatch.setattr(downloads_helper, "inception_url", url)
    with pytest.raises(UserError) as error:
        metrics.network(INCEPTION)
    assert f"place that file as {torch_home}" in str(error.value)
    assert list(torch_home.parent.iterdir()) == []


# Distances


def frechet_of_rows(a: np.ndarray, b: np.ndarray) -> float:
    """The same by singular values: tr (C_a C_b)^(1/2) is the nuclear norm of the centred rows' product."""
    ca, cb = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return shift + (ca**2).sum() + (cb**2).sum() - 2 * np.linalg.svd(ca @ cb.T, compute_uv=False).sum()


@pytest.mark.parametrize(("rows", "more"), [(20, 7), (64, 7), (200, 7), (200, -160)])
def test_the_frechet_distance_by_a_second_way(rows: int, more: int) -> None:
    """With fewer rows than dimensions, as many, and more; in the last case of one set only."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rows, 64)), 1.3 * rng.normal(size=(rows + more, 64)) + 0.2
    found = metrics.frechet(a, b)
    assert found == pytest.approx(frechet_of_rows(a, b), abs=1e-3)
    assert found == pytest.approx(float(fid.fid_from_feats(a, b)), abs=1e-3) == metrics.frechet(b, a)
    assert metrics.frechet(a, a + 0.5) == pytest.approx(64 * 0.25, abs=1e-3)


def test_few_images_need_no_root_of_a_large_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such roots took most of chapter 5, and no plan counts them."""
    monkeypatch.setattr(fid, "fid_from_feats", None)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(rows, 2048)).astype(np.float32) for rows in (20, 9))
    assert metrics.frechet(a, b) == pytest.approx(frechet_of_rows(a.astype(float), b.astype(float)))
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_real_against_real_is_nothing(sets: tuple, tmp_path: Path) -> None:
    rows = metrics.remembered(tmp_path, sets[0], RESNET)
    assert abs(metrics.frechet(rows, rows)) < 1e-3
    assert metrics.frechet(rows, metrics.remembered(tmp_path, sets[1], RESNET)) > 1


def test_real_against_real_is_nothing_with_learned_features(shared: Path, tmp_path: Path) -> None:
    e = Evaluate(backbone="mobilenet_v2", weights=str(shared / "weights" / "mobilenet_v2_imagenet.pth"),
                 input_range="symmetric")
    files = sorted((shared / "data" / "kvasir-seg" / "images").iterdir())[:12]
    images = np.stack([np.asarray(Image.open(f).convert("RGB").resize((64, 64))) for f in files])
    rows = metrics.remembered(tmp_path, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), e)
    assert rows.shape == (12, 1280)
    assert abs(metrics.frechet(rows, rows)) < 1e-3


def mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased MMD² by its definition."""
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def within(x: np.ndarray) -> float:
        return np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    return within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_the_kernel_distance_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(9, 5)) + 0.4
    assert metrics.kernel(a, b, 0, subsets=100, most=1000) == pytest.approx(mmd(a, b), abs=1e-9)


def test_the_kernel_distance_has_no_bias_where_the_frechet_distance_has() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(12, 8)), rng.normal(size=(12, 8))) for _ in range(200)]
    values = np.array([metrics.kernel(a, b, 0, 1, 1000) for a, b in pairs])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert np.mean([metrics.frechet(a, b) for a, b in pairs[:20]]) > 1


def test_subsets_are_seeded_and_leave_numpys_generator_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    np.random.seed(7)
    first = np.random.random(2)
    np.random.seed(7)
    values = [np.random.random(), metrics.kernel(a, b, 0, 5, 10), np.random.random()]
    assert [values[0], values[2]] == first.tolist()
    assert metrics.kernel(a, b, 0, 5, 10) == values[1]
    assert metrics.kernel(a, b, 1, 5, 10) != values[1]


# MS-SSIM


@pytest.mark.parametrize(("side", "window", "scale"), [
    (16, 3, 4), (32, 3, 2), (33, 3, 1), (64, 3, 1), (65, 5, 1), (128, 7, 1), (160, 9, 1), (161, 11, 1),
    (256, 11, 1)])
def test_the_window_fits_every_size(side: int, window: int, scale: int) -> None:
    assert metrics.window_of(side) == (window, scale)
    a, b = (np.random.default_rng(i).integers(0, 256, (1, 3, side, side), np.uint8) for i in range(2))
    assert metrics.similarity(a, a) == pytest.approx(1)
    assert 0 <= metrics.similarity(a, b)[0] < 0.9


def test_above_160_pixels_ms_ssim_is_as_published() -> None:
    a, b = drawn(0, 3, 176), drawn(1, 3, 176)
    expected = ms_ssim(torch.from_numpy(a).float(), torch.from_numpy(b).float(), data_range=255,
                       size_average=False).numpy()
    np.testing.assert_allclose(metrics.similarity(a, b, batch_size=2), expected, atol=1e-6)
    assert 0.01 < expected.mean() < 0.9


def test_shuffled_pairs_never_meet_their_own_source() -> None:
    sources = np.arange(20)
    found = [metrics.partners(sources, 20, 0, number) for number in (1, 2, 3)]
    for others in found:
        assert sorted(others) == list(range(20))
        assert (others != sources).all()
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(metrics.partners(sources, 20, 0, 1), found[0])
    np.testing.assert_array_equal(metrics.partners(sources[:5], 20, 0, 1), found[0][:5])  # fewer sources
