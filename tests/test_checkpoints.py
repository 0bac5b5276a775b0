"""Weights on disk: what is written comes back, and whatever does not fit is refused with the reason."""

import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds

CPU = torch.device("cpu")
# The configuration of the fixture adm_tiny.
TINY = {"data": {"image_size": 32}, "model": {"channel_mult": [1, 2, 2]}, "process": {"objective": "eps"}}


def with_(*overrides: tuple[str, str]) -> Params:
    return params.validate(params.override(TINY, list(overrides)))


def random_net(p: Params, seed: int = 0) -> UNet:
    net, g = UNet(p.model, p.data.image_size), seeds.generator(seed, "weights")
    for parameter in net.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=g)
    return net


def ours(p: Params, path: Path, **changes: object) -> Path:
    """A finished model of ours whose two sets of weights differ."""
    tensors = {f"{kind}.{name}": value for seed, kind in enumerate(("raw", "ema"))
               for name, value in random_net(p, seed).state_dict().items()}
    return checkpoints.save(path, tensors, {"configuration": checkpoints.configuration(p), **changes})


def refusal(path: Path, p: Params) -> str:
    with pytest.raises(UserError) as caught:
        checkpoints.load_net(path, p, CPU)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


# ---- ours

@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_model_of_ours_comes_back_with_the_weights_asked_for(tmp_path: Path, weights: str):
    p = with_(("train.sample_weights", weights))
    net = checkpoints.load_net(ours(p, tmp_path / "model.safetensors"), p, CPU)
    wanted = random_net(p, ("raw", "ema").index(weights)).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_no_weights_are_drawn_for_those_of_a_file(tmp_path: Path):
    p, before = with_(), torch.get_rng_state()
    path = ours(p, tmp_path / "model.safetensors")
    torch.set_rng_state(before)
    net = checkpoints.load_net(path, p, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert {w.device for w in net.parameters()} == {CPU}
    assert not any(w.requires_grad for w in net.parameters())


def test_tensors_that_share_memory_or_are_not_contiguous_survive(tmp_path: Path):
    x = torch.arange(6.0).view(2, 3)
    path = tmp_path / "x.safetensors"
    checkpoints.save(path, {"a": x, "b": x, "c": x.T}, {"nested": {"list": [1, 2.5]}})
    tensors, header = checkpoints.read(path)
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "a": x.tolist(), "b": x.tolist(), "c": x.T.tolist()}
    assert header == {"nested": {"list": [1, 2.5]}}


@pytest.mark.parametrize(("overrides", "fields"), [
    ([("process.objective", "v")], ["process.objective: eps -> v"]),
    ([("process.steps", "500"), ("process.beta_end", "0.03")],
     ["process.beta_end: 0.02 -> 0.03", "process.steps: 1000 -> 500"]),
    ([("data.image_size", "64")], ["image_size: 32 -> 64"]),
    ([("model.channel_mult", "[1, 2]"), ("model.res_blocks", "2")],
     ["model.channel_mult: [1, 2, 2] -> [1, 2]", "model.res_blocks: 1 -> 2"]),
])
def test_a_model_of_another_configuration_is_refused_naming_just_what_differs(
        tmp_path: Path, overrides: list, fields: list[str]):
    path = ours(with_(), tmp_path / "model.safetensors")
    text = refusal(path, with_(*overrides))
    assert text.split(": ", 1)[1] == "; ".join(fields) + "."


def test_the_same_model_is_the_same_bytes(tmp_path: Path):
    tensors, header = {"b": torch.ones(2), "a": torch.zeros(1)}, {"x": 1, "y": {"z": [2]}}
    files = [checkpoints.save(tmp_path / f"{i}.safetensors", tensors, header).read_bytes() for i in range(12)]
    assert len({*files}) == 1


def test_parameters_outside_network_and_process_do_not_matter(tmp_path: Path):
    path = ours(with_(), tmp_path / "model.safetensors")
    checkpoints.load_net(path, with_(("train.lr", "0.5"), ("seed", "3"), ("inpaint.samples", "9")), CPU)


def test_a_training_checkpoint_given_as_a_model_is_refused(tmp_path: Path):
    path = checkpoints.save(tmp_path / "checkpoint.safetensors", {"raw.x": torch.zeros(1)}, {"recipe": {}})
    assert "not a finished model" in refusal(path, with_())


def test_a_model_of_ours_that_lacks_weights_is_refused(tmp_path: Path):
    p = with_()
    tensors = {f"ema.{name}": value for name, value in random_net(p).state_dict().items()}
    del tensors["ema.out.2.bias"]
    path = tmp_path / "x.safetensors"
    checkpoints.save(path, tensors, {"configuration": checkpoints.configuration(p)})
    assert "out.2.bias: absent in the file, (8,) in the parameters" in refusal(path, p)


def test_foreign_truncated_and_absent_safetensors_are_refused(tmp_path: Path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(3)}, foreign)
    assert "not a diffusegen checkpoint" in refusal(foreign, with_())
    whole = ours(with_(), tmp_path / "whole.safetensors").read_bytes()
    for size in (0, 5, 1000, len(whole) - 1):
        cut = tmp_path / f"cut{size}.safetensors"
        cut.write_bytes(whole[:size])
        assert "cannot be read as a checkpoint" in refusal(cut, with_())
    assert "cannot be read as a checkpoint" in refusal(tmp_path / "absent.safetensors", with_())


def test_a_full_disk_is_one_readable_error_and_leaves_the_old_file(tmp_path: Path):
    path = ours(with_(), tmp_path / "model.safetensors")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # no file may grow beyond this
    try:
        with pytest.raises(UserError, match=r"model\.safetensors could not be written") as caught:
            ours(with_(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- released ones

def test_the_released_format_loads_by_name(shared: Path):
    path = shared / "fixtures" / "adm_tiny_released_format.pt"
    net = checkpoints.load_net(path, with_(), CPU)
    wanted = torch.load(path, weights_only=True)
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "cluster_0_100.pt"
    torch.save(random_net(with_()).state_dict(), path)
    return path


@pytest.mark.parametrize(("overrides", "fields"), [
    ([("model.base_channels", "64")], ["model.base_channels: 32 in the file, 64 in the parameters"]),
    ([("model.channel_mult", "[1, 2]")], ["input blocks: 6 in the file, 4 in the parameters"]),
    ([("model.channel_mult", "[1, 2, 3]")], ["input_blocks.5.0", "(64,", "(96,"]),
    ([("model.res_blocks", "2")], ["input blocks: 6 in the file, 9 in the parameters"]),
    ([("model.attention_resolutions", "[16, 8]")],
     ["attention in input blocks: 3 in the file, 3 5 in the parameters"]),
    ([("model.attention_resolutions", "[]")],
     ["attention in input blocks: 3 in the file, none in the parameters"]),
    ([("process.objective", "v")], ["predicts eps, but process.objective is v"]),
])
def test_a_released_file_of_another_network_is_refused_naming_what_differs(
        released: Path, overrides: list, fields: list[str]):
    text = refusal(released, with_(*overrides))
    assert all(field in text for field in fields), text
    assert len(text) < 1000


def test_half_precision_weights_are_widened(released: Path):
    state = {name: value.half() for name, value in random_net(with_()).state_dict().items()}
    torch.save(state, released)
    net = checkpoints.load_net(released, with_(), CPU)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert torch.equal(net.out[2].weight, state["out.2.weight"].float())


class Bomb:
    """What a hostile pickle does when it is opened."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_never_executed(tmp_path: Path):
    target = tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the bomb is a dud, so the test would prove nothing"
    target.unlink()
    as_torch, as_pickle = tmp_path / "bomb.pt", tmp_path / "raw.pt"
    torch.save({"x": Bomb(target)}, as_torch)
    as_pickle.write_bytes(pickle.dumps({"x": Bomb(target)}))
    for path in (as_torch, as_pickle):
        assert "nothing else in a pickle is ever executed" in refusal(path, with_())
    assert not target.exists()


@pytest.mark.parametrize(("content", "reason"), [
    (lambda net: {"model": net.state_dict()}, "not a plain state dict: model"),
    (lambda net: [1, 2], "not a state dict: it holds a list"),
    (lambda net: {1: torch.zeros(1)}, "not a plain state dict: 1"),
    (lambda net: {}, "does not fit"),
    (lambda net: {"out.2.weight": torch.zeros(8)}, "does not fit"),
    (lambda net: {"input_blocks.0.0.weight": torch.tensor(1.0)}, "does not fit"),
    (lambda net: {"input_blocks.first.qkv.weight": torch.zeros(8)}, "does not fit"),
])
def test_files_of_another_kind_are_refused(tmp_path: Path, content, reason: str):
    path = tmp_path / "other.pt"
    torch.save(content(random_net(with_())), path)
    assert reason in refusal(path, with_())


def test_text_directories_and_truncated_files_are_refused(tmp_path: Path, released: Path):
    text = tmp_path / "text.pt"
    text.write_text("Not found\n")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(released.read_bytes()[:-1000])
    empty = tmp_path / "empty.pt"
    empty.touch()
    folder = tmp_path / "folder.pt"
    folder.mkdir()
    for path in (text, cut, empty, folder, tmp_path / "absent.pt"):
        assert str(path) in refusal(path, with_())
