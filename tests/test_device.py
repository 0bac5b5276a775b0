"""What happens on a GPU, as far as places go: on the pretended device of `pretended.py`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pretended import Pretence, pretended

from diffusegen_core.chapters.trained import WEIGHTS
from diffusegen_core.config import devices, params
from diffusegen_core.config.params import Params
from diffusegen_core.planning import flops, probe
from diffusegen_core.run import Run
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import STAMP

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretence]:
    with pretended(monkeypatch) as pretence:
        yield pretence


@pytest.fixture
def p(nano: dict) -> Params:
    """All that a step can do: attention, dropout, micro-batches, clipping, half precision, every loss."""
    nano |= {"device": "cuda"}
    nano["model"] |= {"channel_mult": [1, 2], "attention_resolutions": [8], "dropout": 0.1}
    nano["train"] |= {"images": 4, "micro_batch": 2, "grad_clip": 1.0, "precision": "bf16",
                      "preview_every": 1}
    return params.validate(nano)


def test_the_pretended_device_refuses_what_cuda_refuses(gpu: Pretence):
    there, here = torch.arange(3.0, device="cuda"), torch.ones(3)
    assert (there.device.type, (2 * there + torch.tensor(1.0)).device.type) == ("cuda", "cuda")
    assert (2 * there).cpu().tolist() == [0, 2, 4]
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.Linear(3, 1).to("cuda")(here)
    with pytest.raises(RuntimeError, match="same device"):
        here[there.long()]
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator("cuda"))


@pytest.mark.parametrize("wait", [
    float, bool, torch.nonzero, lambda x: x.cpu(), lambda x: x.to("cpu"), lambda x: x.tolist(),
    lambda x: x[x > 0], lambda x: x[torch.zeros(1).long()], lambda x: x + torch.ones(1).to(CUDA),
    lambda x: torch.tensor([1.0], device=x.device), lambda x: x.new_tensor([1.0]),
    lambda x: torch.cuda.synchronize(x.device)])
def test_it_counts_what_the_host_waits_for(gpu: Pretence, wait: Callable):
    x = torch.ones(1, device="cuda")
    wait(x)
    assert gpu.waits.total() == 1


def test_gradients_stay_on_the_pretended_device(gpu: Pretence):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(4, 8), torch.nn.SiLU())
    x = torch.randn(2, 4, 6, 6)

    def gradient(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b = net(x).chunk(2, dim=1)  # half of whose gradient nobody asks for
        (a.bfloat16().float().square().mean() + 0 * b.detach().sum()).backward()
        return net[0].weight.grad

    wanted = gradient(net, x)
    net.zero_grad()
    found = gradient(net.to("cuda"), x.to("cuda"))
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), wanted)


# The rule for speed: no host synchronisation inside a step.
@pytest.mark.parametrize("kind", ["training", "sampling", "styling"])
def test_no_step_waits_for_the_device(p: Params, gpu: Pretence, kind: str):
    work = flops.count(p)
    step = getattr(probe, f"_{kind}")(p, work, CUDA).run
    step()
    gpu.waits.clear()
    step()
    assert not gpu.waits


def test_every_kind_of_work_is_done_on_the_device(p: Params, gpu: Pretence):
    work = flops.count(p)
    found = probe.rates(p, work, list(probe.KINDS), seconds=0.01).set_index("kind")
    assert set(found.index) == set(probe.KINDS)
    assert (found["memory"] == 1e9).all()
    # An image travels once a batch; what is known beforehand does not travel in every call.
    gpu.waits.clear()
    probe._features(p, work, CUDA).run()
    assert gpu.waits["fetched"] == 1


@pytest.mark.usefixtures("bf16")
def test_chapters_make_there_what_they_make_here(nano: dict, p: Params, monkeypatch: pytest.MonkeyPatch):
    with pretended(monkeypatch):
        there = Run(p).make("style")
    Run(params.validate({**nano, "device": "cpu", "run_dir": f"{p.folder}-2"})).make("style")
    for kind in ("train", "inpaint", "style"):
        a, b = (tuple(sorted((str(f.relative_to(folder)), files.sha256(f)) for f in (folder / kind).rglob("*")
                             if f.suffix in (".png", ".csv") or f.name == WEIGHTS))
                for folder in (p.folder, Path(f"{p.folder}-2")))
        assert a == b
        assert a
    assert there.table["pairs"].sum() > 0
    for place, there in (("train/cluster-00", True), ("cluster", True), ("style/2-Styled-Diff", True),
                         ("data", False)):
        device = files.read_json(p.folder / place / STAMP)["device"]
        assert (device == "pretended GPU") == there, f"{place}: {device}"


def test_no_more_threads_are_used_than_the_process_may_use_cores(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(devices.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(devices.torch, "set_num_threads", asked.append)
    monkeypatch.setattr(devices.dask.system, "CPU_COUNT", 2)
    devices._within_quota()
    assert asked == [], "OMP_NUM_THREADS is set here, and is the user's word"
    for name in devices.THREADS:
        monkeypatch.delenv(name, raising=False)
    devices._within_quota()
    assert asked == [2]
