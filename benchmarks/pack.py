"""Everything that a card's offline machine needs besides the checkout, in the ignored folder .card.

Wheels that such a machine lacks, checked against the hashes of requirements.lock; copies of Kvasir-SEG pairs:
the paper's 348, the 200 test pairs that a run of `one_gpu` draws, and some others to monitor a training; the
folder of weights; and, for `figures`, the authors' code. None of it is ever committed.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset, testsets
from diffusegen_core.store import files, seeds

# What a machine with Python 3.12, torch, torchvision, timm, scikit-learn, pandas and OpenCV lacks.
MISSING = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "segmentation-models-pytorch",
           "albumentations", "albucore", "simsimd", "stringzilla", "clean-fid", "pytorch-fid",
           "pytorch-msssim")
PYTHON = "3.12"
PLATFORMS = [f"manylinux{kind}_x86_64" for kind in ("_2_28", "_2_27", "_2_17", "2014", "1")]
TESTS, OTHERS = 200, 100
MOST = 60 * 2**20  # bytes, with the checkout
IGNORED = (".git", ".venv", ".card", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache",
           ".hypothesis")
LOCAL = ("runs", "data", "lab")  # at the top of the checkout, and ignored by git as well


def run(source: Path, weights: Path, reference: Path | None, home: Path) -> dict[str, float]:
    """Fill `home` and return the MiB of its parts. UserError if the whole is too large to send."""
    home.mkdir(parents=True, exist_ok=True)
    fetch_wheels(home / "wheels")
    copy_pairs(source, home / "kvasir")
    copy_whole(weights, home / "weights")
    if reference:
        copy_whole(reference, home / "reference", "*.png", "*.jpg", "*.pkl")
    files.write_json(home / "packed.json", {"commit": common.commit()})
    sizes = {part.name: size(part) for part in sorted(home.iterdir()) if part.name not in ("work", "site")}
    sizes["the checkout"] = sum(size(part) for part in common.ROOT.iterdir()
                                if part.name not in (*IGNORED, *LOCAL))
    if sum(sizes.values()) > MOST:
        raise UserError(f"The package has {sum(sizes.values()) / 2**20:.0f} MB with the checkout, more than "
                        f"{MOST / 2**20:.0f}: {', '.join(f'{n} {s / 2**20:.1f}' for n, s in sizes.items())}.")
    return {name: round(value / 2**20, 2) for name, value in sizes.items()}


def locked(lock: str, names: tuple[str, ...]) -> str:
    """The lines for these packages in a requirements file with hashes."""
    blocks = re.split(r"\n(?=\S)", lock)
    found = {match[1].lower(): block for block in blocks if (match := re.match(r"([\w.-]+)==", block))}
    if absent := [name for name in names if name not in found]:
        raise UserError(f"requirements.lock has no {absent[0]}.")
    return "\n".join(found[name] for name in names) + "\n"


def fetch_wheels(folder: Path) -> None:
    """Download the wheels with pip, which checks their hashes; those already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(locked((common.ROOT / "requirements.lock").read_text(), MISSING))
        wanted.flush()
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes",
             "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms,
             "-d", str(folder), "-r", wanted.name], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"The wheels could not be fetched:\n{done.stderr[-2000:]}")


def copy_pairs(source: Path, folder: Path) -> None:
    """Copy the pairs and write `split.json`, which says what each is for: train, test or watch."""
    names = sorted(path.stem for path in (source / "images").iterdir())
    split = chosen(names, dataset.paper_names())
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for name in [name for part in split.values() for name in part]:
            shutil.copy(source / kind / f"{name}.jpg", folder / kind)
    (folder / "split.json").write_text(json.dumps(split))


def chosen(names: list[str], training: list[str]) -> dict[str, list[str]]:
    """The training pairs, the test pairs that chapter 6 draws from the rest, and some of what is left."""
    rest = [name for name in names if name not in set(training)]
    seed = params.load(common.ROOT / "params" / "one_gpu.yaml").get("seed", 0)
    rng = seeds.rng(seed, "test set", testsets.KVASIR)
    drawn = rng.choice(len(rest), size=min(TESTS, len(rest)), replace=False)
    test = [rest[i] for i in sorted(drawn)]
    left = [name for name in rest if name not in set(test)]
    return {"train": sorted(set(training) & set(names)), "test": test, "watch": left[:OTHERS]}


def copy_whole(source: Path, folder: Path, *without: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".git", "__pycache__", *without))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def size(path: Path) -> int:
    """Bytes of a file, or of a folder without links and what is not sent of a checkout."""
    if path.is_file():
        return path.stat().st_size
    return sum(size(part) for part in path.iterdir() if not part.is_symlink() and part.name not in IGNORED)
