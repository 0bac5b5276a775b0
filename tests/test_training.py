"""An optimizer step: what it draws, what it learns, and that it goes on from a snapshot to the same bits."""

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Model, Process, Train
from diffusegen_core.data import dataset, phantom
from diffusegen_core.diffusion import process, training, warps
from diffusegen_core.diffusion.history import History
from diffusegen_core.diffusion.training import Batch, State, Training
from diffusegen_core.parallel.ranks import Share

CPU, SIDE = torch.device("cpu"), 16
# Parameters that are off by default, each on.
ON = [{"lesion_weight": 4.0}, {"min_snr": 5.0}, {"lr_decay": 0.5}, {"augment": 0.5}]


def of(process: dict | None = None, model: dict | None = None, steps: int = sys.maxsize,
       **settings: object) -> Training:
    """A training of a small network."""
    shape = {"channel_mult": [1, 1], "attention_resolutions": [], **(model or {})}
    return Training("test", Model(**shape), Process(**(process or {})),
                    Train(**{"batch_size": 4, **settings}), SIDE, 0, steps)


@pytest.fixture(scope="module")
def pairs() -> dataset.Pairs:
    images, masks = zip(*(phantom.draw(0, index, SIDE)[:2] for index in range(10)), strict=True)
    return dataset.gather([f"p{i}" for i in range(10)], np.stack(images), np.stack(masks))


def batches(asked: Training, pairs: dataset.Pairs) -> tuple[State, process.Schedule, torch.Tensor]:
    x = (dataset.to_tensor(pairs) * 127.5 + 127.5).round().to(torch.uint8)
    return training.start(asked, CPU), process.schedule(asked.process), x


@pytest.mark.parametrize(("objective", "share"), [("eps", 0.12), ("v", 0.35)])
def test_two_images_are_learned_by_heart(pairs: dataset.Pairs, objective: str, share: float):
    asked, two = of({"objective": objective}, lr=0.006, batch_size=8, flip=0), pairs.take([0, 1])
    state, s, x = batches(asked, two)
    x0 = dataset.to_tensor(two)[torch.arange(64) % 2]
    t = torch.arange(64) * 15 + 20
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))

    def error(net: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(process.losses(net, s, x0, t, eps, objective)["mse"].mean())
    untrained = error(state.net)
    for _ in range(50):
        training.optimize(asked, state, s, x)
    assert untrained > 0.5
    assert error(state.net) < share * untrained
    assert error(state.average) < share * untrained


def test_images_are_drawn_from_the_whole_cluster_and_flipped_as_asked(pairs: dataset.Pairs, monkeypatch):
    seen = []
    monkeypatch.setattr(process, "losses", lambda net, s, x0, t, *rest: _note(seen, net, x0, t))
    for flip in (0.0, 0.25, 1.0):
        seen.clear()
        asked = of(flip=flip, batch_size=50)
        state, s, x = batches(asked, pairs)
        for _ in range(8):
            training.optimize(asked, state, s, x)
        x0, t = (torch.cat(column) for column in zip(*seen, strict=True))
        straight = x.float() / 127.5 - 1
        upright = (x0[:, None] == straight[None]).flatten(2).all(2)
        mirrored = (x0[:, None] == straight.flip(-1)[None]).flatten(2).all(2)
        assert (upright | mirrored).any(1).all(), "only images of the cluster, with their masks"
        assert (upright | mirrored).any(0).all(), "every image of the cluster"
        # 400 draws: 0.08 is 3.7 standard deviations.
        assert float(mirrored.any(1).float().mean()) == pytest.approx(flip, abs=0.08)
        assert float(t.float().mean()) == pytest.approx(499.5, abs=60)
        assert (int(t.min()) < 30, int(t.max()) > 970) == (True, True)


def _note(seen: list, net: partial, x0: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
    seen.append((x0.clone(), t))
    zero = sum(p.sum() for p in net.func.parameters()) * 0 + torch.zeros(len(x0))
    return {"loss": zero, "mse": zero, "vb": zero}


@pytest.mark.parametrize(("micro", "on"), [(1, {}), (3, {}), (4, {}), *((3, on) for on in ON)], ids=str)
def test_micro_batches_sum_to_the_batch(pairs: dataset.Pairs, micro: int, on: dict):
    rows, gradients = [], []
    for asked in (of(batch_size=8, grad_clip=None, **on),
                  of(batch_size=8, grad_clip=None, micro_batch=micro, **on)):
        state, s, x = batches(asked, pairs)
        for parameter in state.net.parameters():  # the zeroed layers would hide most gradients
            parameter.data.add_(0.02)
        rows.append(training.optimize(asked, state, s, x))
        gradients.append(torch.cat([p.grad.flatten() for p in state.net.parameters()]))
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-5, atol=1e-6)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-5


def test_the_gradient_is_clipped_to_its_largest_norm(pairs: dataset.Pairs):
    asked = of(grad_clip=0.01)
    state, s, x = batches(asked, pairs)
    row = training.optimize(asked, state, s, x)
    clipped = torch.cat([p.grad.flatten() for p in state.net.parameters()]).norm()
    assert float(row[3]) > 0.1
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)


def test_the_average_warms_up_and_then_keeps_its_decay():
    state = training.start(of(), CPU)
    weight, average = next(state.net.parameters()), next(state.average.parameters())
    start, expected = average.clone(), None
    values = [torch.full_like(weight, float(v)) for v in range(1, 13)]
    for number, value in enumerate(values):
        weight.data.copy_(value)
        training.average_weights(state, decay=0.5)
        state.history.append(torch.zeros(4))
        decay = min(0.5, (1 + number) / (10 + number))  # 1/10, 2/11, ... up to 1/2 at step 8
        expected = decay * (start if number == 0 else expected) + (1 - decay) * value
        torch.testing.assert_close(average, expected)
    assert not torch.equal(average, weight)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_it_goes_on_from_a_snapshot_to_the_same_bits(pairs: dataset.Pairs, dropout: float):
    asked = of(model={"dropout": dropout})
    whole, s, x = batches(asked, pairs)
    for _ in range(5):
        training.optimize(asked, whole, s, x)
    state = training.start(asked, CPU)
    for step in range(5):
        if step in (0, 3):
            kept = {name: value.clone() for name, value in training.snapshot(state).items()}
            state = training.start(asked, CPU)
            training.restore(state, kept, seconds=7.0)
            assert (state.step, state.seconds) == (step, 7.0)
        training.optimize(asked, state, s, x)
    assert torch.equal(state.history.rows(), whole.history.rows())
    for name, value in training.weights_of(whole).items():
        assert torch.equal(training.weights_of(state)[name], value), name


def test_a_base_gives_its_weights_and_nothing_else(pairs: dataset.Pairs):
    asked = of()
    base, s, x = batches(asked, pairs)
    training.optimize(asked, base, s, x)
    state = training.start(asked, CPU, base.average.state_dict())
    wanted = base.average.state_dict()
    for net in (state.net, state.average):
        assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())
    assert (state.step, len(state.optimizer.state)) == (0, 0)


def test_seeds_depend_on_the_name_and_the_step(pairs: dataset.Pairs):
    x = (dataset.to_tensor(pairs) * 127.5 + 127.5).round().to(torch.uint8)
    one, other = of(), Training("other", of().model, of().process, of().settings, SIDE, 0)
    noise = [training.draw(asked, step, x).eps for asked, step in ((one, 0), (one, 0), (one, 1), (other, 0))]
    assert torch.equal(noise[0], noise[1])
    assert not any(torch.equal(noise[0], another) for another in noise[2:])
    nets = [next(training.start(asked, CPU).net.parameters()) for asked in (one, one, other)]
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_the_history_copies_a_row_once(monkeypatch):
    history, stacked = History(), []
    real = torch.stack
    monkeypatch.setattr(torch, "stack", lambda rows: stacked.append(len(rows)) or real(rows))
    for count in (3, 2):
        for value in range(count):
            history.append(torch.full((4,), float(value)))
        history.rows(), history.rows()
    assert stacked == [3, 2]
    assert (len(history), history.rows()[:, 0].tolist()) == (5, [0, 1, 2, 0, 1])
    assert History(history.rows()).rows().shape == (5, 4)
    long = History(torch.arange(30.0)[:, None].expand(30, 4))
    assert long.final_loss() == 28  # of the last tenth: 27, 28, 29
    assert History(torch.ones(1, 4)).final_loss() == 1


@pytest.mark.parametrize("place", [0, 3])
def test_a_row_that_is_no_number_is_refused(place: int):
    row = torch.ones(4)
    training.refuse_divergence(row, "cluster-00", 3)
    row[place] = torch.nan
    with pytest.raises(UserError, match=r"cluster-00: the training diverged: at step 3"):
        training.refuse_divergence(row, "cluster-00", 3)


def test_no_generator_of_others_is_touched(pairs: dataset.Pairs):
    asked, before = of(model={"dropout": 0.2}), torch.get_rng_state()
    state, s, x = batches(asked, pairs)
    training.optimize(asked, state, s, x)
    assert torch.equal(torch.get_rng_state(), before)


# ---- parameters that are off by default

def test_the_seconds_of_several_cards_count_for_each_of_them():
    def on(place: str, of: int, **before: float) -> State:
        weight = SimpleNamespace(device=torch.device(place))
        state = State(SimpleNamespace(parameters=lambda: [weight]), None, None, share=Share(0, of))
        state.seconds, state.cards = before.get("seconds", 0.0), before.get("cards", 1.0)
        return state
    four = on("cuda:0", 4)
    for seconds in (10.0, 30.0):
        training.spend(four, seconds)
    assert training.took(four) == {"seconds": 30, "cards": 4}
    alone = on("cuda", 1, **training.took(four))
    training.spend(alone, 60.0)
    assert alone.seconds * alone.cards == pytest.approx(30 * 4 + 30)
    processor = on("cpu", 4)
    training.spend(processor, 0.0)
    training.spend(processor, 8.0)
    assert training.took(processor) == {"seconds": 8}, "there processes share the cores"


OFF = {"lr_decay": 0.0, "augment": 0.0, "lesion_weight": 0.0, "min_snr": None}


def plain_step(asked: Training, state: State, s: process.Schedule, x: torch.Tensor) -> None:
    """An optimizer step as it was before there were such parameters."""
    x0, t, eps, _ = training.draw(asked, state.step, x)
    state.optimizer.zero_grad(set_to_none=True)
    x_t = process.noised(s, x0, t, eps)
    prediction, fraction = state.net(x_t, s.timestep[t].float()).float().chunk(2, dim=1)
    mse = ((process.velocity(s, x0, t, eps) - prediction) ** 2).flatten(1).mean(dim=1)
    r = process.interpret(s, x_t, t, torch.cat([prediction.detach(), fraction], dim=1), "v", clip=False)
    loss = mse + process.variational_bound(s, x0, x_t, t, r)
    (loss.sum() / len(x0)).backward()
    torch.nn.utils.clip_grad_norm_(state.weights, asked.settings.grad_clip)
    state.optimizer.step()
    training.average_weights(state, asked.settings.ema)
    state.history.append(torch.zeros(4))


def test_where_they_are_off_a_training_is_the_same_bits_as_before_there_were_any(pairs: dataset.Pairs):
    asked = of(**OFF)
    assert asked == of()
    (old, s, x), (new, _, _) = batches(asked, pairs), batches(asked, pairs)
    for _ in range(3):
        plain_step(asked, old, s, x)
        training.optimize(asked, new, s, x)
    for name, value in training.weights_of(old).items():
        assert torch.equal(training.weights_of(new)[name], value), name


@pytest.mark.parametrize("on", ON, ids=str)
def test_each_changes_what_is_learned(pairs: dataset.Pairs, on: dict):
    found = []
    for asked in (of(steps=4), of(steps=4, **on)):
        state, s, x = batches(asked, pairs)
        for _ in range(4):
            training.optimize(asked, state, s, x)
        found.append(state.net.state_dict()["out.2.weight"])
    assert not torch.equal(*found)


@pytest.mark.parametrize("on", ON, ids=str)
def test_each_goes_on_from_a_snapshot_to_the_same_bits(pairs: dataset.Pairs, on: dict):
    asked = of(steps=6, **on)
    whole, s, x = batches(asked, pairs)
    for _ in range(6):
        training.optimize(asked, whole, s, x)
    state = training.start(asked, CPU)
    for step in range(6):
        if step in (2, 4):
            kept = {name: value.clone() for name, value in training.snapshot(state).items()}
            state = training.start(asked, CPU)
            training.restore(state, kept)
        training.optimize(asked, state, s, x)
    for name, value in training.weights_of(whole).items():
        assert torch.equal(training.weights_of(state)[name], value), name


def test_the_learning_rate_falls_linearly_at_the_end(pairs: dataset.Pairs):
    asked = of(steps=10, lr=0.1, lr_decay=0.4)
    assert asked.plateau == 6
    rates = [training.rate(asked, step) for step in range(10)]
    assert rates == pytest.approx([0.1] * 6 + [0.08, 0.06, 0.04, 0.02])
    state, s, x = batches(asked, pairs)
    used = []
    for _ in range(10):
        training.optimize(asked, state, s, x)
        used.append(state.optimizer.param_groups[0]["lr"])
    assert used == rates
    for decay, first, last in ((0.0, 0.1, 0.1), (1.0, 0.1 * 10 / 11, 0.1 / 11)):
        asked = of(steps=10, lr=0.1, lr_decay=decay)
        assert [training.rate(asked, step) for step in (0, 9)] == pytest.approx([first, last])
    endless = of(lr=0.1, lr_decay=0.4)  # as it is tried for its speed
    assert training.rate(endless, 1000) == 0.1


def test_the_network_is_told_what_was_done_to_its_images_and_no_more_changes(
        pairs: dataset.Pairs, monkeypatch):
    """Images that are not changed are told as zeros; levels and noise are those of a training without it."""
    seen, real = [], process.losses

    def noted(net: partial, s: process.Schedule, *rest: object) -> dict[str, torch.Tensor]:
        seen.append((net.keywords, *rest[:3]))
        return real(net, s, *rest)
    monkeypatch.setattr(process, "losses", noted)
    for asked in (of(batch_size=16), of(batch_size=16, augment=0.3)):
        state, s, x = batches(asked, pairs)
        training.optimize(asked, state, s, x)
    (nothing, x0, t, eps), (told, changed, *levels) = seen
    assert nothing == {}
    assert torch.equal(t, levels[0])
    assert torch.equal(eps, levels[1])
    same = (told["change"] == 0).all(dim=1)
    assert 0 < int(same.sum()) < 16
    assert torch.equal(changed[same], x0[same])
    assert all(not torch.equal(a, b) for a, b in zip(changed[~same], x0[~same], strict=True))
    drawn = Batch(x0, t, eps, torch.zeros(16, dtype=torch.long))
    again, _ = training.conditioned(asked, 0, drawn)
    assert torch.equal(again, changed)
    assert not torch.equal(training.conditioned(asked, 1, drawn)[0], changed)


def test_in_sampling_no_change_is_told_as_zeros(pairs: dataset.Pairs):
    asked = of(augment=0.5)
    state, s, x = batches(asked, pairs)
    for _ in range(3):
        training.optimize(asked, state, s, x)
    net, t = state.average, torch.tensor([10.0, 900.0])
    x_t = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    zeros, change = torch.zeros(2, warps.WIDTH), torch.ones(2, warps.WIDTH)
    with torch.no_grad():
        told, silent, other = net(x_t, t, zeros), net(x_t, t), net(x_t, t, change)
        assert torch.equal(told, silent)
        assert not torch.equal(told, other), "the layer has learned"
        assert torch.equal(net.fold_conditions()(x_t, t), told)
    assert net.state_dict().keys() == training.start(of(), CPU).net.state_dict().keys()


def test_a_network_that_is_told_more_starts_as_the_one_that_is_not():
    plain, more = (training.start(asked, CPU).net for asked in (of(), of(augment=0.1)))
    extra = more.state_dict().keys() - plain.state_dict().keys()
    assert extra == {"augment_emb.weight"}
    assert all(torch.equal(more.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert (more.augment_emb.weight == 0).all()
