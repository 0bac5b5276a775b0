"""Networks that are to run in bf16, on devices that have instructions for it and on others."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusegen_core.chapters.trained import WEIGHTS
from diffusegen_core.config import devices, params
from diffusegen_core.config.params import Params
from diffusegen_core.diffusion import process
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.planning import pace, plan
from diffusegen_core.run import Run
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import STAMP

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["bf16", "none"])
def has(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(devices, "has_bf16", lambda on: request.param)
    return request.param


@pytest.mark.parametrize(("can", "has"), [
    ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True),
    ({"amx_bf16": True}, True), ({"neon": True, "bf16": True}, True), ({"neon": True}, False)])
def test_a_processor_has_bf16_if_its_instructions_do(monkeypatch, can: dict, has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    assert devices.has_bf16(CPU) is has
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # whose kernels would use them
    assert not devices.has_bf16(CPU)


@pytest.mark.parametrize(("major", "has"), [(7, False), (8, True), (9, True)])
def test_a_card_has_bf16_if_it_need_not_emulate_it(monkeypatch, major: int, has: bool) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda on: asked.append(on) or torch.no_grad())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(major=major))
    assert devices.has_bf16(torch.device("cuda:1")) is has
    assert asked == [torch.device("cuda:1")]


def test_networks_run_in_bf16_where_it_is_asked_for_and_there(has: bool) -> None:
    product = {}
    for precision in ("fp32", "bf16"):
        with devices.autocast(CPU, precision):
            product[precision] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert product == {"fp32": torch.float32, "bf16": torch.bfloat16 if has else torch.float32}


def test_without_bf16_pairs_have_the_bits_of_fp32(nano_params: Params, has: bool) -> None:
    torch.manual_seed(0)
    net = UNet(nano_params.model, 16).eval().requires_grad_(False)
    torch.nn.init.normal_(net.out[2].weight, std=0.1)
    schedule = process.schedule(nano_params.process)
    images = [Diffusion(copy.deepcopy(net).cast_weights(precision), schedule, "v", precision=precision)
              .sample(2, steps=4).images for precision in ("fp32", "bf16")]
    assert (images[0] == images[1]).all() is not has


def test_what_was_made_says_what_its_device_lacked(nano: dict, tmp_path: Path, has: bool) -> None:
    plain = Run(params.validate({**nano, "run_dir": str(tmp_path / "plain")}))
    asked = Run(params.validate(params.merged({**nano, "run_dir": str(tmp_path / "asked")},
                                              {"train.precision": "bf16"})))
    names = []
    for run in (plain, asked):
        run.make("train")
        stamp = next((run.folder / "train").glob(f"*/{WEIGHTS}")).with_name(STAMP)
        names.append(files.read_json(stamp)["device"])
    assert [devices.WITHOUT in name for name in names] == [False, not has]


def test_a_plan_and_the_measured_rates_tell_the_device_that_lacks_it(nano_params: Params, has: bool) -> None:
    training = nano_params.train.model_copy(update={"precision": "bf16"})
    asked = nano_params.model_copy(update={"train": training})
    assert (devices.WITHOUT in plan.at_hand(asked)[1]) is not has
    assert devices.WITHOUT not in plan.at_hand(nano_params)[1]
    assert (devices.WITHOUT in pace._of(asked)) is not has  # rates of emulated bf16 no longer count
