"""The diffusion process against arithmetic done another way, and against the authors' implementation."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors import safe_open
from torch.distributions import Normal, kl_divergence

from diffusegen_core.config.params import Model, Process
from diffusegen_core.diffusion import checkpoints, process, samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.unet import UNet
from diffusegen_core.store import seeds

PAPER = Process(objective="eps", variance="learned")
SHAPE = (4, 3, 3)


def plain_alpha_bar(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """The product, one factor after the other."""
    product, found = 1.0, []
    for i in range(steps):
        product *= 1.0 - (start + (end - start) * i / (steps - 1))
        found.append(product)
    return np.array(found)


def images(count: int, *names: object) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=seeds.generator(0, *names))


def levels(s: process.Schedule) -> torch.Tensor:
    """Some levels, both ends among them."""
    n = len(s)
    return torch.tensor([0, 1, n // 3, n // 2, n - 2, n - 1])


def column(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values)[:, None, None, None]


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference over the largest wanted value."""
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


# ---- the schedule

def test_alpha_bar_is_the_product_of_one_minus_beta():
    s = process.schedule(PAPER)
    np.testing.assert_allclose(s.alpha_bar.numpy(), plain_alpha_bar(), rtol=1e-12)
    np.testing.assert_allclose(s.beta[[0, -1]].numpy(), [1e-4, 0.02], rtol=1e-12)
    assert s.timestep.tolist() == list(range(1000))
    assert s.alpha_bar.dtype == torch.float64


@pytest.mark.parametrize("count", [200, 100, 50, 25])
def test_respacing_keeps_alpha_bar_both_ends_and_an_even_stride(count: int):
    s = process.schedule(PAPER, count)
    kept = s.timestep.numpy()
    assert (kept[0], kept[-1], len(kept)) == (0, 999, count)
    gaps, stride = np.diff(kept), 999 / (count - 1)
    assert gaps.min() >= math.floor(stride)
    assert gaps.max() <= math.ceil(stride)
    np.testing.assert_allclose(s.alpha_bar.numpy(), plain_alpha_bar()[kept], rtol=1e-12)
    np.testing.assert_allclose(np.cumprod(1 - s.beta.numpy()), plain_alpha_bar()[kept], rtol=1e-10)


def test_respacing_never_repeats_a_timestep():
    for steps in (2, 3, 10, 97, 1000):
        for count in range(2, steps + 1, max(1, steps // 50)):
            found = process.respaced(steps, count)
            assert sorted(set(found)) == found, (steps, count)
            assert (found[0], found[-1], len(found)) == (0, steps - 1, count)


def test_timesteps_are_those_of_the_public_code():
    """It adds up the stride; to multiply it gives other timesteps for 278 counts, by ties at one half."""
    others = []
    for count in range(2, 1001):
        place, added = 0.0, []
        for _ in range(count):
            added.append(round(place))
            place += 999 / (count - 1)
        assert process.respaced(1000, count) == added
        others += [count] if added != [round(999 / (count - 1) * i) for i in range(count)] else []
    assert len(others) == 278
    assert not {10, 25, 50, 100, 200, 250, 1000} & {*others}  # those of the profiles, and round ones


def test_one_step_starts_where_there_is_nothing_but_noise():
    assert process.respaced(1000, 1) == [999]


@pytest.mark.parametrize("count", [0, 1001])
def test_respacing_refuses_what_it_cannot_take(count: int):
    with pytest.raises(ValueError, match="1000 timesteps"):
        process.respaced(1000, count)


# ---- forward

@pytest.mark.parametrize("respacing", [None, 50])
def test_single_steps_forward_compose_to_one_jump_in_mean_and_variance(respacing: int | None):
    s = process.schedule(PAPER, respacing)
    t, one = torch.arange(len(s)), torch.ones(len(s), 1, 1, 1)

    def factors(step) -> tuple[np.ndarray, np.ndarray]:
        """What a step at each level makes of a mean of one, and of noise of one."""
        return tuple(step(s, x, t, 1 - x).flatten().double().numpy() for x in (one, 1 - one))
    mean, variance, found = 1.0, 0.0, []
    for kept, added in zip(*factors(process.noised_once), strict=True):
        mean, variance = kept * mean, kept**2 * variance + added**2
        found.append((mean, variance))
    jump_mean, jump_noise = factors(process.noised)
    np.testing.assert_allclose(found, np.stack([jump_mean, jump_noise**2], axis=1), rtol=5e-5)
    assert variance == pytest.approx(1 - plain_alpha_bar()[-1], rel=5e-5)


# ---- posterior

@pytest.mark.parametrize("respacing", [None, 200, 25])
def test_posterior_is_the_product_of_the_two_gaussians_of_bayes_rule(respacing: int | None):
    s = process.schedule(PAPER, respacing)
    t = levels(s)[1:]
    kept = s.timestep.numpy()
    alpha_bar, before = plain_alpha_bar()[kept][t], plain_alpha_bar()[kept][t - 1]
    alpha = alpha_bar / before
    x0, x_t = images(len(t), "x0"), images(len(t), "x_t")
    # In x_{t-1}: N(x_t; sqrt(alpha) x_{t-1}, 1 - alpha) times N(x_{t-1}; sqrt(before) x0, 1 - before).
    precision = alpha / (1 - alpha) + 1 / (1 - before)
    weighted = column(np.sqrt(alpha) / (1 - alpha)) * x_t + column(np.sqrt(before) / (1 - before)) * x0
    found = process.posterior_mean(s, x0, x_t, t).double()
    torch.testing.assert_close(found, weighted / column(precision), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(s.posterior_log_variance[t].exp().numpy(), 1 / precision, rtol=1e-9)


def test_level_zero_lands_on_x0_and_borrows_the_variance_of_level_one():
    s = process.schedule(PAPER, 50)
    t, x0 = torch.zeros(2, dtype=torch.long), images(2, "x0")
    torch.testing.assert_close(process.posterior_mean(s, x0, images(2, "x_t"), t), x0)
    assert s.posterior_log_variance[0] == s.posterior_log_variance[1]


# ---- predictions

@pytest.mark.parametrize("objective", ["eps", "v"])
def test_x0_comes_back_from_the_true_prediction(objective: str):
    s = process.schedule(PAPER)
    t = levels(s)[:-2]  # at the last levels float32 eps holds almost nothing of x0; v does
    if objective == "v":
        t = levels(s)
    x0, eps = images(len(t), "x0"), images(len(t), "eps")
    truth = eps if objective == "eps" else process.velocity(s, x0, t, eps)
    found = process.predicted_x0(s, process.noised(s, x0, t, eps), t, truth, objective)
    torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)


def test_velocity_and_x_t_are_a_rotation_of_x0_and_eps():
    s = process.schedule(PAPER)
    t = levels(s)
    x0, eps = images(len(t), "x0").double(), images(len(t), "eps").double()
    angle = column(np.arccos(np.sqrt(plain_alpha_bar()[t])))
    for found, wanted in ((process.noised(s, x0, t, eps), angle.cos() * x0 + angle.sin() * eps),
                          (process.velocity(s, x0, t, eps), angle.cos() * eps - angle.sin() * x0)):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("fraction", "expected"), [
    (-1.0, lambda low, high: low), (1.0, lambda low, high: high),
    (0.0, lambda low, high: np.sqrt(low * high)), (0.5, lambda low, high: low**0.25 * high**0.75)])
def test_learned_variance_interpolates_in_the_logarithm_between_posterior_and_beta(fraction: float, expected):
    s = process.schedule(PAPER, 100)
    t = levels(s)[1:]
    alpha_bar = plain_alpha_bar()[s.timestep]
    beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
    low = beta * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    output = torch.cat([images(len(t), "prediction"), torch.full((len(t), *SHAPE), fraction)], dim=1)
    r = process.interpret(s, images(len(t), "x_t"), t, output, "eps")
    wanted = column(expected(low, beta)).expand(-1, *SHAPE)
    torch.testing.assert_close(r.log_variance.exp().double(), wanted, rtol=1e-5, atol=0)


def test_the_posteriors_variance_is_used_whatever_the_network_says_where_it_is_asked_for():
    learned, s = process.schedule(PAPER, 100), process.schedule(Process(variance="posterior"), 100)
    t = levels(s)[1:]
    x_t, output = images(len(t), "x_t"), images(2 * len(t), "output").view(len(t), 8, 3, 3)
    r = process.interpret(s, x_t, t, output, "v")
    alpha_bar = plain_alpha_bar()[s.timestep]
    variance = (1 - alpha_bar[t] / alpha_bar[t - 1]) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    wanted = column(variance).expand(-1, *SHAPE)
    torch.testing.assert_close(r.log_variance.exp().double(), wanted, rtol=1e-5, atol=0)
    assert torch.equal(r.mean, process.interpret(learned, x_t, t, output, "v").mean)


def test_clipping_bounds_x0_and_moves_the_mean_with_it():
    s = process.schedule(PAPER)
    t = torch.tensor([10, 900])
    x_t, output = 5 * images(2, "x_t"), torch.cat([images(2, "prediction"), torch.zeros(2, *SHAPE)], dim=1)
    free = process.interpret(s, x_t, t, output, "v", clip=False)
    clipped = process.interpret(s, x_t, t, output, "v")
    assert free.x0.abs().max() > 1
    assert torch.equal(clipped.x0, free.x0.clamp(-1, 1))
    torch.testing.assert_close(clipped.mean, process.posterior_mean(s, clipped.x0, x_t, t))
    assert torch.equal(clipped.log_variance, free.log_variance)


# ---- losses

def noisy_guess(s: process.Schedule, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x0 = images(len(t), "x0").clamp(-1, 1)
    x_t = process.noised(s, x0, t, images(len(t), "eps"))
    return x0, x_t, 0.5 * images(2 * len(t), "output").view(len(t), 8, 3, 3)


@pytest.mark.parametrize("respacing", [None, 50])
def test_variational_bound_is_the_divergence_of_two_normals(respacing: int | None):
    s = process.schedule(PAPER, respacing)
    t = levels(s)[1:]
    x0, x_t, output = noisy_guess(s, t)
    r = process.interpret(s, x_t, t, output, "v")
    sigma = column((0.5 * s.posterior_log_variance[t]).exp())
    true = Normal(process.posterior_mean(s, x0, x_t, t).double(), sigma)
    wanted = kl_divergence(true, Normal(r.mean.double(), (0.5 * r.log_variance.double()).exp()))
    wanted = wanted.flatten(1).mean(1) / math.log(2)
    found = process.variational_bound(s, x0, x_t, t, r).double()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.05])
def test_likelihood_of_bytes_is_a_discretised_normal(sigma: float):
    x = torch.arange(256) / 127.5 - 1
    for mean in (-1.0, -0.3, 0.001, 1.0):
        edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
        wanted = np.diff(scipy.stats.norm.cdf(edges, mean, sigma))
        found = process.log_likelihood_of_bytes(x, torch.tensor(mean), torch.tensor(sigma)).exp().numpy()
        # The tanh approximation of the normal distribution is good to 1.8e-4, and a bin has two sides.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3.6e-4)
        assert found.sum() == pytest.approx(1, abs=1e-5)


def test_level_zero_counts_bits_of_the_discretised_normal():
    s = process.schedule(PAPER)
    t = torch.zeros(2, dtype=torch.long)
    x0, x_t, output = noisy_guess(s, t)
    x0[0, 0, 0] = torch.tensor([-1.0, 1.0, 0.0])
    first = plain_alpha_bar()[0]
    output[:, :4] = (x_t - first**0.5 * x0) / (1 - first) ** 0.5 + 0.3 * output[:, :4]  # about the true eps
    r = process.interpret(s, x_t, t, output, "eps")
    sigma = (0.5 * r.log_variance.double()).exp().numpy()
    mean, x = r.mean.double().numpy(), x0.double().numpy()
    above = np.where(x > 0.999, 1.0, scipy.stats.norm.cdf(x + 1 / 255, mean, sigma))
    below = np.where(x < -0.999, 0.0, scipy.stats.norm.cdf(x - 1 / 255, mean, sigma))
    wanted = -np.log2(above - below).reshape(2, -1).mean(1)
    np.testing.assert_allclose(process.variational_bound(s, x0, x_t, t, r).numpy(), wanted, atol=2e-3)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_loss_is_error_plus_bound_and_the_bound_trains_the_variance_alone(objective: str):
    s = process.schedule(PAPER)
    t = torch.tensor([0, 3, 400, 999])
    x0, eps = images(4, "x0").clamp(-1, 1), images(4, "eps")
    output = images(8, "output").view(4, 8, 3, 3).requires_grad_()
    found = process.losses(lambda x, timestep: output, s, x0, t, eps, objective)
    root, rest = column(np.sqrt(plain_alpha_bar()[t])), column(np.sqrt(1 - plain_alpha_bar()[t]))
    target = eps if objective == "eps" else root * eps - rest * x0
    wanted = ((output[:, :4] - target) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found["mse"].double(), wanted.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(found["loss"], found["mse"] + found["vb"])
    found["vb"].sum().backward()
    assert (output.grad[:, :4] == 0).all()
    assert (output.grad[:, 4:] != 0).any(dim=(1, 2, 3)).all()


# ---- sampling

def all_knowing(x0: torch.Tensor, objective: str):
    """A network that knows the answer; it looks its noise level up by the original timestep."""
    alpha_bar = torch.from_numpy(plain_alpha_bar())

    def net(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        root, rest = (column(a[timestep.long()].sqrt()).float() for a in (alpha_bar, 1 - alpha_bar))
        eps = (x_t - root * x0) / rest
        prediction = eps if objective == "eps" else root * eps - rest * x0
        return torch.cat([prediction, torch.zeros_like(prediction)], dim=1)
    return net


@pytest.mark.parametrize("objective", ["eps", "v"])
@pytest.mark.parametrize("respacing", [200, 25])
def test_sampling_with_a_network_that_knows_the_answer_finds_it(objective: str, respacing: int):
    x0 = images(3, "x0").clamp(-1, 1)
    s = process.schedule(PAPER, respacing)
    own = [seeds.generator(0, i) for i in range(3)]
    found = samplers.sample(Diffusion(all_knowing(x0, objective), s, objective), SHAPE, own)
    torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)


def test_sampling_keeps_the_spread_of_a_unit_normal():
    """Where the data are a unit normal, so is every x_t, the best eps is sqrt(1 - alpha_bar) x_t, and the
    reverse step's variance is beta."""
    alpha_bar = torch.from_numpy(plain_alpha_bar())

    def net(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        eps = column((1 - alpha_bar[timestep.long()]).sqrt()).float() * x_t
        return torch.cat([eps, torch.ones_like(eps)], dim=1)
    s = process.schedule(PAPER, 50)
    own = [seeds.generator(1, i) for i in range(50)]
    x = seeds.normal_like(own, torch.empty(50, 4, 8, 8))
    for level in range(49, -1, -1):
        t = torch.full((50,), level)
        r = Diffusion(net, s, "eps", clip=False).reverse(x, t)
        x = process.denoised_once(r, t, seeds.normal_like(own, x))
    assert float(x.std()) == pytest.approx(1, abs=0.03)  # 12,800 values: a standard error of 0.006
    assert float(x.mean()) == pytest.approx(0, abs=0.03)


# ---- what counts more in the loss

def with_lesions(*areas: int) -> torch.Tensor:
    """Images (B, 4, 4, 4) whose lesions have so many of the 16 pixels, the first ones."""
    x0 = torch.full((len(areas), 4, 16), -1.0)
    for image, area in zip(x0, areas, strict=True):
        image[3, :area] = 1
    return x0.view(-1, 4, 4, 4)


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_a_pixel_of_the_lesion_counts_one_plus_w_times_as_much_at_a_mean_of_one(weight: float):
    x0 = with_lesions(0, 4, 16)
    found = process.lesion_map(x0, weight)
    assert found.shape == (3, 1, 4, 4)
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), torch.ones(3))
    assert (found[[0, 2]] == 1).all()
    one = found[1].flatten()
    torch.testing.assert_close(one[:4], (1 + weight) * one[4:5].expand(4))
    assert float(one[-1]) == pytest.approx(1 / (1 + weight / 4))


def test_the_lesions_error_counts_more_in_the_loss_and_mse_tells_the_plain_one():
    s, t = process.schedule(PAPER), torch.tensor([500, 500])
    x0 = with_lesions(4, 4)
    eps = torch.zeros_like(x0)
    off = torch.zeros(2, 4, 16)
    off[0, :, :4], off[1, :, 4:8] = 1, 1  # of one image within the lesion, of the other as much outside
    output = torch.cat([off.view_as(x0), torch.zeros_like(x0)], dim=1)
    found = process.losses(lambda x, timestep: output, s, x0, t, eps, "eps", lesion_weight=4.0)
    torch.testing.assert_close(found["mse"], torch.tensor([0.25, 0.25]))
    # Of 16 pixels 4 count 5 and 12 count 1: in all 32.
    torch.testing.assert_close(found["loss"] - found["vb"], torch.tensor([20 / 32, 4 / 32]))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_one_weight_of_the_error_of_x0_told_for_eps_and_for_v(gamma: float):
    s, t = process.schedule(PAPER), torch.arange(1000)
    alpha_bar = plain_alpha_bar()
    snr = alpha_bar / (1 - alpha_bar)
    wanted = np.minimum(snr, gamma)
    eps, v = (process.level_weight(s, t, gamma, objective).numpy() for objective in ("eps", "v"))
    np.testing.assert_allclose(eps, wanted / snr, rtol=1e-6)
    np.testing.assert_allclose(v, wanted / (snr + 1), rtol=1e-6)
    assert (eps[snr < gamma] == 1).all(), "noisy levels count as before"
    x0, noise, guess = (images(1000, name) for name in ("x0", "eps", "guess"))
    x_t = process.noised(s, x0, t, noise)
    of_x0 = wanted * ((x0 - guess) ** 2).double().flatten(1).mean(1).numpy()
    eps_of = (x_t - process.at(s.alpha_bar.sqrt(), t) * guess) / process.at((1 - s.alpha_bar).sqrt(), t)
    v_of = process.velocity(s, guess, t, eps_of)
    for objective, prediction in (("eps", eps_of), ("v", v_of)):
        output = torch.cat([prediction, torch.zeros_like(prediction)], dim=1)
        found = process.losses(lambda x, timestep, output=output: output, s, x0, t, noise, objective,
                               min_snr=gamma)
        np.testing.assert_allclose((found["loss"] - found["vb"]).numpy()[50:], of_x0[50:], rtol=2e-3)


def test_weights_multiply_and_leave_the_bound_alone():
    s, t = process.schedule(PAPER), torch.tensor([3, 400])
    x0, eps = with_lesions(2, 6), torch.randn(2, 4, 4, 4, generator=seeds.generator(0, "eps"))
    output = torch.randn(2, 8, 4, 4, generator=seeds.generator(0, "output"))
    plain, lesion, level, both = (process.losses(lambda x, timestep: output, s, x0, t, eps, "v", *weights)
                                  for weights in ((), (4.0,), (0.0, 5.0), (4.0, 5.0)))
    for found in (lesion, level, both):
        assert torch.equal(found["vb"], plain["vb"])
        assert torch.equal(found["mse"], plain["mse"])
    torch.testing.assert_close(
        both["loss"] - both["vb"],
        process.level_weight(s, t, 5.0, "v") * (lesion["loss"] - lesion["vb"]), rtol=1e-4, atol=1e-6)
    assert not torch.equal(level["loss"], plain["loss"])


# ---- the authors' implementation (shared/fixtures)

@pytest.fixture(scope="module")
def reference(shared) -> dict[str, torch.Tensor]:
    with safe_open(shared / "fixtures" / "adm_tiny.safetensors", framework="pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def adm_tiny(reference: dict[str, torch.Tensor]) -> UNet:
    model = Model(base_channels=32, channel_mult=[1, 2, 2], attention_resolutions=[16], head_channels=32)
    net = UNet(model, 32).eval().requires_grad_(False)
    net.load_state_dict(checkpoints.part(reference, "state_dict."))
    return net


def test_network_gives_the_outputs_and_features_of_the_authors_code(adm_tiny: UNet, reference: dict):
    x = reference["input.x"]
    assert apart(adm_tiny(x, reference["input.t"]), reference["output"]) < 1e-4
    features = adm_tiny.encode(x, torch.zeros(3))
    for block in (0, 2, 4):
        assert apart(features[block], reference[f"encoder_feature_t0.{block}"]) < 1e-4


def test_respaced_process_is_that_of_the_authors_code(adm_tiny: UNet, reference: dict):
    s, t = process.schedule(PAPER, 200), reference["process.t_index"]
    assert torch.equal(s.timestep, reference["process.timestep_map"])
    assert apart(s.alpha_bar, reference["process.alpha_bar"]) < 1e-9
    r = Diffusion(adm_tiny, s, "eps", clip=False).reverse(reference["input.x"], t)
    parts = {"mean": r.mean, "log_variance": r.log_variance, "variance": r.log_variance.exp(),
             "pred_xstart": r.x0}
    for name, found in parts.items():
        for image, wanted in zip(found, reference[f"process.{name}"], strict=True):
            assert apart(image, wanted) < 1e-4, name


def test_losses_are_those_of_the_authors_code(adm_tiny: UNet, reference: dict):
    s = process.schedule(PAPER)
    x0, t, eps = (reference[f"loss.{name}"] for name in ("x0", "t", "noise"))
    found = process.losses(adm_tiny, s, x0, t, eps, "eps")
    for name in ("mse", "vb", "loss"):
        torch.testing.assert_close(found[name], reference[f"loss.{name}"], rtol=1e-4, atol=0)
