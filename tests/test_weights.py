"""Weights: what fits is loaded, what does not is refused in words, and nothing else ever happens."""

import os
import pickle
import socket
import time
import tracemalloc
import urllib.error
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file
from torch import nn

from diffusegen_core.config.errors import UserError
from diffusegen_core.networks import weights

NOWHERE = "http://127.0.0.1:9"  # the discard port of this machine, where nothing listens


def net(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(OrderedDict(
        stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, classes)))


def never() -> weights.StateDict:
    raise AssertionError("the library was asked")


def published(load=never, **changes) -> weights.Published:
    values = {"network": "net", "library": "lib", "where": f"{NOWHERE}/net.pth", "by_hand": "Place it there.",
              "load": load}
    return weights.Published(**{**values, **changes})


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_random_depends_on_the_seed_and_leaves_torch_alone():
    before = torch.get_rng_state()
    first, again, other = (weights.seeded(net, seed, "net") for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)
    kept = {name: value.clone() for name, value in first.state_dict().items()}
    assert all(torch.equal(kept[name], value)
               for name, value in weights.fill(first, "random", published()).state_dict().items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_is_loaded(tmp_path, suffix):
    source, file = net(), tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), file)
    assert same(weights.fill(net(), str(file), published()), source)


def test_a_classifier_of_another_size_is_not_loaded(tmp_path):
    file = tmp_path / "net.pth"
    torch.save(net(classes=1001).state_dict(), file)
    body = nn.Sequential(OrderedDict(list(net().named_children())[:2], head=nn.Identity()))
    weights.fill(body, str(file), published(), unused=("head.",))
    assert torch.equal(body.stem.weight, weights.read(file)["stem.weight"])
    with pytest.raises(UserError, match=r"of another shape: head\.weight \[1001, 4\] instead of \[3, 4\]"):
        weights.fill(net(), str(file), published())


def test_old_files_without_the_batch_counter_fit(tmp_path):
    state = {name: value for name, value in net().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    filled = weights.fill(net(), str(tmp_path / "old.pth"), published())
    assert torch.equal(filled.stem.weight, state["stem.weight"])


def test_a_misfit_names_some_fields_and_counts_the_rest():
    state = {f"block.{i}.weight": torch.zeros(1) for i in range(9)} | {"stem.weight": torch.zeros(4, 1, 3, 3)}
    untouched = net()
    before = untouched.stem.weight.clone()
    with pytest.raises(UserError) as refusal:
        weights.fit(untouched, state, "some.pth")
    text = str(refusal.value)
    assert text.startswith("some.pth does not fit")
    assert "missing: stem.bias, norm.weight, norm.bias and 4 more" in text
    assert "unexpected: block.0.weight, block.1.weight, block.2.weight and 6 more" in text
    assert "of another shape: stem.weight [4, 1, 3, 3] instead of [4, 3, 3, 3]" in text
    assert torch.equal(untouched.stem.weight, before)


class Trap:
    """A pickle of this creates a file, if anything executes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def plain_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("save", [torch.save, plain_pickle])
def test_a_pickle_is_refused_and_not_executed(tmp_path, save):
    sprung, file = tmp_path / "sprung", tmp_path / "net.pth"
    save({"stem.weight": Trap(sprung)}, file)
    with pytest.raises(UserError, match="refused"):
        weights.read(file)
    assert not sprung.exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(file.read_bytes())
    assert sprung.exists()  # so the trap was set


@pytest.mark.parametrize(("name", "content", "words"), [
    ("absent.pth", None, "no weights file"),
    ("noise.pth", b"not a weights file at all", "refused"),
    ("empty.pth", b"", "cannot be read"),
    ("noise.safetensors", b"not a weights file at all", "cannot be read"),
])
def test_files_that_are_no_weights_are_refused(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as refusal:
        weights.read(tmp_path / name)
    assert name in str(refusal.value)


def test_a_damaged_file_takes_no_more_memory_than_it_has_bytes(tmp_path):
    file = tmp_path / "net.pth"
    torch.save(net().state_dict(), file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    assert weights.read(file).keys() == net().state_dict().keys()
    word = b"X\x10\x00\x00\x00protocol_version"  # its length comes before the text
    assert word in content
    file.write_bytes(content.replace(word, b"X\x10\x00\x00\x7fprotocol_version"))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"net\.pth cannot be read"):
        weights.read(file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize("value", [{"state_dict": {"a": torch.zeros(1)}}, {"epoch": 3}, {0: torch.zeros(1)}])
def test_a_checkpoint_around_the_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=f"not a plain state dict: {next(iter(value))}"):
        weights.read(tmp_path / "checkpoint.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="it holds a list"):
        weights.read(tmp_path / "list.pth")


def settings() -> tuple:
    return socket.getdefaulttimeout(), hub.HF_HUB_OFFLINE, os.environ.get(weights.FORCE_TENSORS_ONLY)


def test_pretrained_asks_the_library_and_leaves_everything_as_it_was():
    source = net()

    def load() -> weights.StateDict:
        torch.rand(3)
        return source.state_dict()

    before, numbers = settings(), torch.get_rng_state()
    assert same(weights.fill(weights.seeded(net, 0), "pretrained", published(load)), source)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert settings() == before


@pytest.mark.parametrize("error", [urllib.error.HTTPError(NOWHERE, 404, "Not Found", {}, None),
                                   OSError("no route"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_had_say_what_was_tried_and_what_to_do(error):
    def load() -> weights.StateDict:
        raise error

    with pytest.raises(UserError) as refusal:
        weights.fill(net(), "pretrained", published(load))
    text = str(refusal.value)
    for part in ("weights of net", "lib was asked for", f"{NOWHERE}/net.pth", str(error), "Place it there."):
        assert part in text
    with pytest.raises(UserError, match="lib has no published weights for net"):
        weights.fill(net(), "pretrained", published(where=None))


def test_a_cached_file_with_a_pickle_is_not_executed(tmp_path):
    sprung, file = tmp_path / "sprung", tmp_path / "net.pth"
    torch.save({"a": Trap(sprung)}, file)
    with pytest.raises(UserError, match="could not be loaded"):
        # As torchvision's loader does.
        weights.fill(net(), "pretrained", published(lambda: torch.load(file, weights_only=False)))
    assert not sprung.exists()


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINT", NOWHERE)
    asked = []

    def load() -> weights.StateDict:
        asked.append(hub.HF_HUB_OFFLINE)
        raise OSError("not in the cache")

    start = time.monotonic()
    with pytest.raises(UserError, match=f"{NOWHERE} does not answer"):
        weights.fill(net(), "pretrained", published(load, from_hub=True))
    assert time.monotonic() - start < 5
    assert asked == [True]


def test_a_user_who_is_offline_asks_no_hub(monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights.requests, "head", lambda *_, **__: pytest.fail("the hub was asked"))
    source = net()
    assert same(weights.fill(net(), "pretrained", published(source.state_dict, from_hub=True)), source)


def test_words_and_identity(tmp_path):
    assert weights.words("random") == "random weights"
    assert weights.words("pretrained") == "pretrained"
    assert weights.words("some/where/net.pth") == "net.pth"
    a, b = tmp_path / "a.pth", tmp_path / "b.pth"
    for file in (a, b):
        torch.save({"x": torch.ones(2)}, file)
    assert weights.identity(str(a), published, 0) != weights.identity("random", published, 0)
    assert weights.identity(str(a), published, 0) == weights.identity(str(a), published, 1)
    assert weights.identity("random", published, 0) != weights.identity("random", published, 1)
    first = weights.identity(str(a), published)
    torch.save({"x": torch.zeros(2)}, a)
    os.utime(a, (1, 1))  # as later: a file of the same size and time counts as the same
    assert weights.identity(str(a), published) != first


def test_what_was_never_published_has_no_identity():
    """So that a recipe, which is cheap, tells it before hours of work."""
    with pytest.raises(UserError, match="lib has no published weights for net"):
        weights.identity("pretrained", lambda: published(where=None))
