"""Weights on disk: what is written comes back, and whatever does not fit is refused with the reason."""

import json
import pickle
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params, Train
from diffusegen_core.diffusion import checkpoints, origins
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
    return checkpoints.save(path, tensors, {"configuration": configuration(p), **changes})


def configuration(p: Params) -> dict:
    return checkpoints.configuration(p.model, p.process, p.data.image_size)


def loaded(path: Path, p: Params) -> UNet:
    """A file's network, ours or released, as chapter 2 takes it."""
    judged(path, p)
    if path.suffix == ".safetensors":
        return checkpoints.load(path, p.train.sample_weights).net
    return checkpoints.load_released(path, p.model, p.process, p.data.image_size).net


def judged(path: Path, p: Params) -> None:
    checkpoints.judge(path, p.model, p.process, p.data.image_size, p.train.sample_weights)


# How a sentence begins that says what to do.
WAY_OUT = re.compile(r"\. (Ask for|Copy it|Give the run|Leave|Name|Read|Save|Set|The same command|"
                     r"Weights are) .+\.$")


def refusal(path: Path, p: Params, act: Callable[[Path, Params], object] = judged) -> str:
    with pytest.raises(UserError) as caught:
        act(path, p)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert WAY_OUT.search(text), text
    return text


# ---- ours

@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_model_of_ours_comes_back_with_the_weights_asked_for(tmp_path: Path, weights: str):
    p = with_(("train.sample_weights", weights))
    net = loaded(ours(p, tmp_path / "model.safetensors"), p)
    wanted = random_net(p, ("raw", "ema").index(weights)).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_no_weights_are_drawn_for_those_of_a_file(tmp_path: Path):
    p, before = with_(), torch.get_rng_state()
    path = ours(p, tmp_path / "model.safetensors")
    torch.set_rng_state(before)
    net = loaded(path, p)
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
    assert f"(in the file -> in the parameters): {'; '.join(fields)}. Give the run the file's" in text


def test_the_same_model_is_the_same_bytes(tmp_path: Path):
    tensors, header = {"b": torch.ones(2), "a": torch.zeros(1)}, {"x": 1, "y": {"z": [2]}}
    files = [checkpoints.save(tmp_path / f"{i}.safetensors", tensors, header).read_bytes() for i in range(12)]
    assert len({*files}) == 1


def test_parameters_outside_network_and_process_do_not_matter(tmp_path: Path):
    path = ours(with_(), tmp_path / "model.safetensors")
    loaded(path, with_(("train.lr", "0.5"), ("seed", "3"), ("inpaint.samples", "9")))


def test_a_training_checkpoint_given_as_a_model_is_refused(tmp_path: Path):
    path = checkpoints.save(tmp_path / "checkpoint.safetensors", {"raw.x": torch.zeros(1)}, {"recipe": {}})
    assert "not a finished model" in refusal(path, with_())


def test_a_model_of_ours_that_lacks_weights_is_refused(tmp_path: Path):
    p = with_()
    tensors = {f"ema.{name}": value for name, value in random_net(p).state_dict().items()}
    del tensors["ema.out.2.bias"]
    path = tmp_path / "x.safetensors"
    checkpoints.save(path, tensors, {"configuration": configuration(p)})
    assert "out.2.bias: absent in the file, (8,) in its header" in refusal(path, p)


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


@pytest.mark.usefixtures("bf16")
def test_a_model_of_ours_needs_nothing_but_its_file(tmp_path: Path):
    p = with_(("process.variance", "learned"), ("process.steps", "500"))
    diffusion = checkpoints.load(str(ours(p, tmp_path / "model.safetensors")), "raw", "cpu", "bf16")
    assert (diffusion.image_size, diffusion.objective, diffusion.precision) == (32, "eps", "bf16")
    assert len(diffusion.schedule) == 500
    assert (diffusion.schedule.reverse_variance, diffusion.device) == ("learned", CPU)
    assert diffusion.net.out[2].weight.dtype == torch.bfloat16
    assert torch.equal(diffusion.net.out[0].weight, random_net(p).out[0].weight)
    with pytest.raises(UserError, match="load_released"):
        checkpoints.load(tmp_path / "model.pt")


def test_the_length_of_the_header_changes_no_bit_of_what_is_computed(tmp_path: Path):
    x, outputs = torch.randn(2, 4, 32, 32, generator=seeds.generator(0)), []
    for length in range(0, 64, 8):
        path = ours(with_(), tmp_path / "model.safetensors", note="x" * length)
        net = checkpoints.load(path).net
        assert {weight.data_ptr() % 64 for weight in net.parameters()} == {0}
        outputs.append(net(x, torch.tensor([10.0, 900.0])))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def with_header(path: Path, change: Callable[[dict], object]) -> Path:
    """The file with another header of safetensors, whose tensors' bytes stay."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    head = json.loads(content[8:8 + size])
    change(head)
    told = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told + content[8 + size:])
    return path


WEIGHT = "ema.out.2.weight"


@pytest.mark.parametrize("harm", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(bytes(path.stat().st_size)),
    lambda path: path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:]),
    lambda path: path.write_bytes(path.read_bytes() + b"more"),
    lambda path: with_header(path, lambda head: head[WEIGHT]["data_offsets"].reverse()),
    lambda path: with_header(path, lambda head: head[WEIGHT]["shape"].append(2)),
    lambda path: with_header(path, lambda head: head[WEIGHT]["shape"].reverse()),
    lambda path: with_header(path, lambda head: head[WEIGHT].update(dtype="F16")),
    lambda path: with_header(path, lambda head: head[WEIGHT].update(dtype="I32")),
    lambda path: with_header(path, lambda head: head.update({"ema.out.2.weighs": head.pop(WEIGHT)})),
    lambda path: with_header(path, lambda head: head.pop("__metadata__")),
    lambda path: with_header(path, lambda head: head["__metadata__"].update(header="{")),
    lambda path: with_header(path, lambda head: head["__metadata__"].update(header='{"configuration": {}}')),
], ids=["empty", "zeros", "magic", "longer", "offsets", "dimension", "shape", "type", "no floats", "name",
        "no header", "no JSON", "no configuration"])
def test_a_damaged_model_is_refused_by_a_look(tmp_path: Path, harm: Callable[[Path], object]):
    path = ours(with_(), tmp_path / "model.safetensors")
    harm(path)
    before = path.read_bytes()
    refusal(path, with_())
    refusal(path, with_(), lambda path, _: checkpoints.load(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [
    {"model": {"res_blocks": 10**9}}, {"model": {"channel_mult": [1] * 10_000}},
    {"model": {"base_channels": 33}}, {"model": {"base_channels": 2**40}}, {"model": {"dropout": 2}},
    {"model": {"hidden": 1}},
    {"process": {"steps": 10**12}}, {"process": {"objective": "x0"}}, {"image_size": "32"}])
def test_a_header_that_tells_of_no_network_is_refused(tmp_path: Path, change: dict):
    told = configuration(with_())
    for key, value in change.items():
        told[key] = {**told[key], **value} if isinstance(value, dict) else value
    path = ours(with_(), tmp_path / "model.safetensors", configuration=told)
    refusal(path, with_(), lambda path, _: checkpoints.load(path))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float):
    tensors = {f"{kind}.{name}": weight for kind in ("raw", "ema")
               for name, weight in random_net(with_()).state_dict().items()}
    tensors["ema.out.2.bias"][3] = value
    path = checkpoints.save(tmp_path / "x.safetensors", tensors, {"configuration": configuration(with_())})
    with pytest.raises(UserError, match=r"out\.2\.bias holds values that are not finite numbers"):
        checkpoints.load(path)


def test_every_refusal_of_a_model_says_what_to_do(tmp_path: Path):
    path = ours(with_(), tmp_path / "model.safetensors")
    assert "has no weights best. Ask for ema or raw." in refusal(
        path, with_(), lambda path, _: checkpoints.load(path, "best"))
    assert refusal(path, with_(), lambda path, _: checkpoints.load(path, label=1)).endswith(
        "Leave the label out.")
    assert "checkpoints.load_released" in refusal(
        tmp_path / "model.pt", with_(), lambda path, _: checkpoints.load(path))


def test_a_look_at_a_large_model_reads_none_of_its_weights(tmp_path: Path):
    p = with_(("model.base_channels", "128"))
    for path in (ours(p, tmp_path / "model.safetensors"), tmp_path / "cluster_0_1.pt"):
        if path.suffix == ".pt":
            torch.save(UNet(p.model, 32).state_dict(), path)
        judged(path, p)
        before = Path("/proc/self/io").read_text()
        judged(path, p)
        after = Path("/proc/self/io").read_text()
        read = [int(text.split("rchar: ")[1].split()[0]) for text in (before, after)]
        assert read[1] - read[0] < path.stat().st_size / 50


# ---- what an interrupted training leaves

def test_the_header_of_what_is_left_or_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "checkpoint.safetensors"
    assert checkpoints.left(path) is None
    checkpoints.save(path, {"history": torch.zeros(3, 4)}, {"recipe": {"a": 1}, "seconds": 2.0})
    assert checkpoints.left(path) == {"recipe": {"a": 1}, "seconds": 2.0}
    assert caplog.text == ""
    path.write_bytes(path.read_bytes()[:-1])
    assert checkpoints.left(path) is None
    assert "Training starts again." in caplog.text


# ---- folders of finished checkpoints

@pytest.mark.parametrize(("files", "name", "wanted"), [
    (["cluster_3_model110000.pt", "cluster_3_ema_0.9999_110000.pt", "cluster_3_opt110000.pt",
      "cluster_13_model110000.pt", "cluster_30_model110000.pt"], "cluster-03", "cluster_3_model110000.pt"),
    (["cluster_3_110000.pt"], "cluster-03", "cluster_3_110000.pt"),
    (["model200000.pt", "ema_0.9999_200000.pt", "opt200000.pt", "cluster_0_model110000.pt"], "full",
     "model200000.pt"),
    (["full_200000.pt"], "full", "full_200000.pt"),
    (["full/model.safetensors", "full/optimizer.safetensors"], "full", "full/model.safetensors"),
    (["cluster-03/model.safetensors"], "cluster-03", "cluster-03/model.safetensors"),
    (["cluster-03.safetensors", "cluster-30.safetensors"], "cluster-03", "cluster-03.safetensors"),
])
def test_the_model_of_a_folder_as_trainings_leave_it(
        tmp_path: Path, files: list[str], name: str, wanted: str):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert origins.find_released(Train(checkpoints=str(tmp_path)), name) == tmp_path / wanted


def test_several_models_for_one_name_are_refused_by_their_names(tmp_path: Path):
    for step in (100_000, 110_000):
        (tmp_path / f"cluster_3_model{step}.pt").touch()
    with pytest.raises(UserError, match=r"2 checkpoints for cluster-03 \(cluster_3_model100000\.pt, "):
        origins.find_released(Train(checkpoints=str(tmp_path)), "cluster-03")
    assert origins.find_released(Train(), "cluster-03") is None


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
    net = loaded(path, with_())
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
    net = loaded(released, with_())
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
