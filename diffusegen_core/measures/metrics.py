"""How near a set of images is to another, and how much its images vary (paper 2.5): FID, KID, MS-SSIM.

FID and KID are clean-fid's (Parmar et al. 2022): its resizing, its Inception-v3, its distances. With another
backbone the numbers are on a different scale and bear its name: FD-MobileNetV2 is the same Fréchet distance
between MobileNetV2's features, KD-MobileNetV2 the kernel distance. Distances also depend on the number of
images: the Fréchet distance is biased upwards in small sets, and below 2048 images Inception's covariance is
not of full rank. The kernel distance has no such bias.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.hub import get_dir
from torch.utils.data import DataLoader, Dataset

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.sections import Evaluate
from diffusegen_core.data.planes import rgb
from diffusegen_core.networks import features, weights
from diffusegen_core.store import files, seeds
from diffusegen_core.store.artifacts import Recipe

if TYPE_CHECKING:
    from cleanfid.inception_torchscript import InceptionV3W

# clean-fid, torchvision and pytorch-msssim are imported where they are used: they take seconds, and a chapter
# whose numbers are already on disk needs none of them.

NETWORK = "inception-2015-12-05.pt"  # the name under which clean-fid looks for its network
NETWORK_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_SIDE = 299
WINDOW = 11  # MS-SSIM's, in pixels, where the image is large enough
HALVINGS = 4  # between the five scales of MS-SSIM


def is_fid(settings: Evaluate) -> bool:
    """Whether the distances are FID and KID themselves, not those of another network."""
    return settings.backbone == features.INCEPTION and settings.weights != weights.RANDOM


def names(settings: Evaluate) -> tuple[str, str]:
    """What the Fréchet and the kernel distance are called: FID and KID, or FD-NETWORK and KD-NETWORK."""
    if is_fid(settings):
        return "FID", "KID"
    import torchvision

    network = settings.backbone.removeprefix("timm/")
    if settings.backbone in torchvision.models.list_models(module=torchvision.models):
        # torchvision's enumerations bear the published spelling: MobileNet_V2_Weights.
        spelled = torchvision.models.get_model_weights(settings.backbone).__name__
        network = spelled.removesuffix("_Weights").replace("_", "")
    note = " (random weights)" if settings.weights == weights.RANDOM else ""
    return f"FD-{network}{note}", f"KD-{network}{note}"


def backbone(settings: Evaluate) -> str:
    """The network behind the distances, in words."""
    if is_fid(settings):
        return f"clean-fid's Inception-v3 ({weights.words(settings.weights)})"
    return features.label(settings.backbone, settings.weights)


def recipe(settings: Evaluate, seed: int = 0) -> Recipe:
    """Everything that determines the features of given pixels."""
    if is_fid(settings):
        made_by = {"backbone": "clean-fid", "weights": weights.identity(settings.weights, _cleanfid)}
    else:
        made_by = features.recipe(settings.backbone, settings.weights, settings.input_range, seed)
    return {**made_by, "resize": "clean-fid"}


class Resized(Dataset):
    """Images (N, C, H, W), uint8, as RGB, resized as by clean-fid: bicubic, antialiased, not rounded."""

    def __init__(self, images: np.ndarray, side: int) -> None:
        self.images, self.side = rgb(images), side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> np.ndarray:
        from cleanfid.resize import make_resizer

        # Made here because it cannot be pickled, which worker processes may require.
        resize = make_resizer("PIL", False, "bicubic", (self.side, self.side))
        return resize(self.images[i].transpose(1, 2, 0)).transpose(2, 0, 1)


def extract(images: np.ndarray, settings: Evaluate, device: torch.device | str = "cpu", seed: int = 0,
            title: str = "Features") -> np.ndarray:
    """Features (N, D), float32, of images (N, C, H, W), uint8, as RGB and resized as clean-fid does.

    Raises UserError for an unknown backbone and for weights that are unavailable or do not fit.
    """
    net, side = network(settings, device, seed)
    loader = DataLoader(Resized(images, side), batch_size=settings.batch_size, num_workers=settings.workers)
    return features.compute(net, loader, device, title, len(images))


def network(settings: Evaluate, device: torch.device | str = "cpu",
            seed: int = 0) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """The map from RGB pixels (B, 3, side, side), float in 0..255, to features (B, D), and that side."""
    if is_fid(settings):
        return _inception(weights.place(settings.weights, _cleanfid())).to(device).eval(), INCEPTION_SIDE
    net = features.load(settings.backbone, settings.weights, settings.input_range, device, seed)
    resize = next(net.children())  # does nothing to an image of that side
    return net, int(resize.size[0])  # type: ignore[index]


def remembered(store: Path, images: np.ndarray, settings: Evaluate, device: torch.device | str = "cpu",
               seed: int = 0, title: str = "Features") -> np.ndarray:
    """As `extract`, but only once per image: see `features.remembered`."""
    return features.remembered(store, images, recipe(settings, seed),
                               lambda missing: extract(missing, settings, device, seed, title))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """clean-fid's Fréchet distance of Gaussians fitted to features (N, D) and (M, D); 0 for equal sets.

    Where a set has no more images than features, the trace of the root of the covariances' product is the sum
    of the singular values of an (N, M) matrix. That takes milliseconds; clean-fid's root of a (D, D) matrix
    takes seconds, and differs by its rounding error, about 1e-4.
    """
    if min(len(a), len(b)) <= a.shape[1]:
        x, y = a.astype(np.float64), b.astype(np.float64)
        shift = x.mean(axis=0) - y.mean(axis=0)
        x, y = ((one - one.mean(axis=0)) / np.sqrt(len(one) - 1) for one in (x, y))
        root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
        return float(shift @ shift + (x**2).sum() + (y**2).sum() - 2 * root)
    from cleanfid import fid

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy's, about a deprecated argument and singular matrices
        return float(fid.fid_from_feats(a, b))


def kernel(a: np.ndarray, b: np.ndarray, seed: int, subsets: int, most: int) -> float:
    """clean-fid's kernel distance: MMD² with the kernel (x·y / D + 1)³, unbiased, so it may fall below 0.

    The mean over `subsets` random subsets of `most` rows of features, or as many as the smaller set has.
    """
    from cleanfid import fid

    if len(a) == len(b) <= most:
        subsets = 1  # every subset would be the whole
    with _numpy_seed(seeds.derive(seed, "kernel distance") % 2**32):
        return fid.kernel_distance(a.astype(np.float64), b.astype(np.float64), subsets, most)


def similarity(x: np.ndarray, y: np.ndarray, device: torch.device | str = "cpu",
               batch_size: int = 64) -> np.ndarray:
    """MS-SSIM (N,) of image pairs, x and y (N, C, S, S), uint8; data range 255, five scales as published."""
    from pytorch_msssim import ms_ssim

    window, scale = window_of(x.shape[-1])
    values = []
    for first in range(0, len(x), batch_size):
        pair = [torch.from_numpy(images[first:first + batch_size]).to(device).float() for images in (x, y)]
        pair = [images.repeat_interleave(scale, 2).repeat_interleave(scale, 3) for images in pair]
        values.append(ms_ssim(*pair, data_range=255, size_average=False, win_size=window).cpu().numpy())
    return np.concatenate(values)


def window_of(side: int) -> tuple[int, int]:
    """MS-SSIM's window for images of this side, in pixels, and how many times each pixel is repeated first.

    The window must fit into the image after four halvings, and be odd: 11, as published, above 160 px; 3 down
    to 33 px. Below, pixels are doubled until 3 fits, so the finest scales see the doubled image.
    """
    scale = 1
    while side * scale <= 2 * 2**HALVINGS:
        scale *= 2
    fitting = [window for window in range(3, WINDOW + 1, 2) if side * scale > (window - 1) * 2**HALVINGS]
    return max(fitting), scale


def partners(sources: np.ndarray, count: int, seed: int, number: int) -> np.ndarray:
    """For each source index (0 to count - 1) the index of the real image that its pair is compared with.

    The real images are shuffled into a circle and each source meets the one a random number of steps further.
    So no image (of two or more) meets its own source, where what inpainting leaves unchanged would count.
    """
    random = seeds.rng(seed, "shuffled pairs", number)
    circle = random.permutation(count)
    place = np.argsort(circle)
    steps = int(random.integers(1, count)) if count > 1 else 0
    return circle[(place[sources] + steps) % count]


def _cleanfid() -> weights.Published:
    from cleanfid import downloads_helper

    url = downloads_helper.inception_url
    return weights.Published(features.INCEPTION, "clean-fid", url, weights.by_hand(url), _download)


def _download() -> Path:
    """Where clean-fid's network lies in torch's cache, after clean-fid's own download if it was not there."""
    from cleanfid.downloads_helper import check_download_inception

    path = Path(get_dir()) / "checkpoints" / NETWORK
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as fresh:
            fetched = Path(check_download_inception(fresh))
            if files.sha256(fetched) != NETWORK_SHA256:
                raise ValueError(f"The downloaded file is not {NETWORK}: its SHA-256 differs.")
            os.replace(fetched, path)
    return path


def _inception(path: Path) -> "InceptionV3W":
    """clean-fid's wrapper around its TorchScript file, whatever its name. UserError for any other file.

    TorchScript is a program, with operators that write files, so no other file than this one is run.
    """
    if files.sha256(path) != NETWORK_SHA256:
        raise UserError(f"{path} is not the TorchScript network of clean-fid, {NETWORK}: its SHA-256 "
                        "differs, and no other program is run. Give that file, `pretrained`, or another "
                        "backbone.")
    from cleanfid.inception_torchscript import InceptionV3W

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NETWORK).symlink_to(path)
        return InceptionV3W(folder, download=False)


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """NumPy's global generator, the only one that clean-fid draws from, seeded and then put back."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
