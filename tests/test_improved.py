"""Chapter 06: variances, the bound and its terms against mathematics and against diffusers."""

import math
import re

import mpmath
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from helpers import column, each_schedule, gap, generator, normal
from minidiff.ddpm import Denoiser, posterior, respace, trailing_timesteps
from minidiff.forward import NoiseSchedule, cosine_schedule, forward_diffusion, linear_schedule
from minidiff.improved import (
    VLB_WEIGHT,
    Bound,
    ImportanceSampler,
    bits_per_dimension,
    discretised_log_likelihood,
    hybrid_loss,
    learned_log_variance,
    learned_variance,
    normal_kl,
    posterior_log_variance,
    prior_term,
    vlb_term,
)
from minidiff.training import train_step
from minidiff.unet import UNet

LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)
quick = settings(max_examples=50, deadline=None)
each_type = pytest.mark.parametrize("prediction_type", ["eps", "x_0", "v"])


def images(*shape: int, seed: int = 0) -> Tensor:
    """Pixels of 256 levels, all equally likely."""
    return LEVELS[torch.randint(256, shape, generator=generator(seed))]


# --- the two ends of the range, and what lies between ---


@each_schedule
@pytest.mark.parametrize("n_steps", [25, 1000])
def test_the_log_of_beta_tilde_repeats_its_second_value_at_the_start(make, n_steps):
    schedule = make(n_steps)
    log_variance = posterior_log_variance(schedule)
    assert log_variance.dtype == torch.float64
    assert gap(log_variance[1:], schedule.posterior_variance[1:].log()) == 0
    assert log_variance[0] == log_variance[1]
    assert schedule.posterior_variance[0] == 0


def test_a_chain_of_one_step_has_beta_alone():
    schedule = respace(cosine_schedule(), torch.tensor([999]))
    assert torch.equal(posterior_log_variance(schedule), schedule.betas.log())


@each_schedule
@pytest.mark.parametrize("v", [-1.0, -0.3, 0.0, 0.7, 1.0, 1.5])
def test_the_learned_log_variance_is_that_of_diffusers(make, v):
    schedule = make(1000)
    oracle = DDPMScheduler(1000, variance_type="learned_range")
    oracle.betas, oracle.alphas = schedule.betas, schedule.alphas
    oracle.alphas_cumprod = schedule.alphas_cumprod
    oracle.one = torch.ones((), dtype=torch.float64)
    for t in (1, 2, 10, 100, 500, 900, 998, 999):
        x = torch.full((1, 1, 2, 2), v, dtype=torch.float64)
        expected = oracle._get_variance(t, predicted_variance=x)
        got = learned_log_variance((x + 1) / 2, torch.tensor([t]), schedule)
        assert gap(got, expected) < 1e-3
    # At t = 0 it takes log 1e-20 for log beta_tilde, and is no oracle.
    low = oracle._get_variance(0, predicted_variance=-torch.ones(1).double())
    assert abs(low.item() - math.log(1e-20)) < 1e-9
    assert posterior_log_variance(schedule)[0] > math.log(1e-20) + 30


@each_schedule
def test_the_ends_of_the_fraction_are_beta_tilde_and_beta_and_its_middle_their_geometric_mean(make):
    schedule, t = make(1000), torch.arange(1000)
    shape = (1000, 1, 2)
    low, middle, high = (
        learned_variance(torch.full(shape, f, dtype=torch.float64), t, schedule)
        for f in (0.0, 0.5, 1.0)
    )
    expected = torch.cat([schedule.posterior_variance[1:2], schedule.posterior_variance[1:]])
    assert gap(low, expected.view(-1, 1, 1).expand(shape)) < 1e-15
    assert gap(high, schedule.betas.view(-1, 1, 1).expand(shape)) < 1e-15
    assert gap(middle**2 / (low * high), torch.ones(shape).double()) < 1e-12


def test_each_item_has_its_own_t_and_each_pixel_its_own_fraction():
    schedule, t = cosine_schedule(), torch.tensor([900, 3])
    fraction = normal(2, 1, 3, 4)
    whole = learned_log_variance(fraction, t, schedule)
    low, high = posterior_log_variance(schedule), schedule.betas.log()
    for i, step in enumerate(t.tolist()):
        for row in range(3):
            for k in range(4):
                f = fraction[i, 0, row, k].item()
                expected = f * high[step] + (1 - f) * low[step]
                assert abs(whole[i, 0, row, k] - expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_keeps_the_dtype_of_the_fraction(dtype):
    schedule, t = cosine_schedule(), torch.tensor([0, 5])
    assert learned_log_variance(torch.ones(2, 1, dtype=dtype), t, schedule).dtype == dtype
    assert learned_variance(torch.ones(2, 1, dtype=dtype), t, schedule).dtype == dtype


def test_a_shorter_chain_interpolates_its_own_betas():
    schedule, n_steps = cosine_schedule(), 20
    chain = respace(schedule, trailing_timesteps(1000, n_steps))
    index, fraction = torch.arange(n_steps), torch.full((n_steps, 1), 0.25, dtype=torch.float64)
    got = learned_log_variance(fraction, index, chain)[:, 0]
    a_bar = schedule.alphas_cumprod[trailing_timesteps(1000, n_steps)].tolist()
    for i in range(1, n_steps):
        beta = 1 - a_bar[i] / a_bar[i - 1]
        beta_tilde = beta * (1 - a_bar[i - 1]) / (1 - a_bar[i])
        assert abs(got[i] - 0.25 * math.log(beta) - 0.75 * math.log(beta_tilde)) < 1e-9


def test_without_a_fraction_there_is_no_learned_variance():
    message = "variance must be 'beta' or 'beta_tilde': this model learned none"
    with pytest.raises(ValueError, match=message):
        learned_variance(None, torch.tensor([0]), linear_schedule())


# --- KL ---


def test_the_kl_of_two_normals_is_that_of_torch():
    mean_p, log_p, mean_q, log_q = 2 * normal(4, 50, 3)
    p, q = Normal(mean_p, (log_p / 2).exp()), Normal(mean_q, (log_q / 2).exp())
    expected = kl_divergence(p, q)
    relative = (normal_kl(mean_p, log_p, mean_q, log_q) / expected - 1).abs().max()
    assert relative < 1e-12
    assert expected.max() > 10  # and they do differ


def test_the_kl_is_zero_of_equals_positive_else_and_broadcasts():
    mean, log_variance = normal(2, 5, 1, 3).unbind()
    assert gap(normal_kl(mean, log_variance, mean, log_variance), torch.zeros_like(mean)) == 0
    shifted = normal_kl(mean, torch.zeros(5, 1, 1), mean + 2, torch.zeros(5, 1, 1))
    assert gap(shifted, torch.full_like(mean, 2.0)) < 1e-15  # 2^2 / 2
    other = normal_kl(mean, log_variance, mean, log_variance + normal(5, 1, 3, seed=1))
    assert other.min() > 0


# --- the discretised likelihood ---


@given(st.floats(-3, 3), st.floats(-14, 6))
@quick
def test_the_256_bins_sum_to_1(mean, log_variance):
    log_p = discretised_log_likelihood(
        LEVELS, torch.full_like(LEVELS, mean), torch.tensor(log_variance).double()
    )
    assert abs(log_p.exp().sum() - 1) < 1e-12
    assert log_p.max() <= 1e-12


@pytest.mark.parametrize("deviation", [0.002, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("mean", [-1.2, -1.0, -0.1, 0.003, 0.4, 1.0])
def test_a_bin_is_a_difference_of_two_cdfs(mean, deviation):
    p = Normal(*torch.tensor([mean, deviation], dtype=torch.float64))
    naive = p.cdf(LEVELS + 1 / 255) - p.cdf(LEVELS - 1 / 255)
    naive[0], naive[-1] = p.cdf(LEVELS[0] + 1 / 255), 1 - p.cdf(LEVELS[-1] - 1 / 255)
    got = discretised_log_likelihood(LEVELS, p.mean.expand(256), 2 * p.stddev.log())
    assert gap(got.exp(), naive) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_mean_the_logarithm_is_still_exact(dtype):
    """Where a difference of cdfs is 0: compared with arithmetic of 50 digits."""
    deviation = 0.01
    log_variance = torch.tensor(2 * math.log(deviation), dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    with mpmath.workdps(50):
        half, exact_deviation = mpmath.mpf(1) / 255, mpmath.exp(mpmath.mpf(float(log_variance)) / 2)
        for k in (0, 1, 3, 100, 254, 255):
            for mean in (-0.995, 0.1, 0.9):
                x, m = torch.tensor([2 * k / 255 - 1]).to(dtype), torch.tensor([mean]).to(dtype)
                distance = mpmath.mpf(float(x)) - mpmath.mpf(float(m))
                lower, upper = (
                    (distance - half) / exact_deviation,
                    (distance + half) / exact_deviation,
                )
                if k == 0:
                    p = mpmath.ncdf(upper)
                elif k == 255:
                    p = mpmath.ncdf(-lower)
                elif distance < 0:
                    p = mpmath.ncdf(upper) - mpmath.ncdf(lower)
                else:
                    p = mpmath.ncdf(-lower) - mpmath.ncdf(-upper)
                expected = float(mpmath.log(p))
                got = discretised_log_likelihood(x, m, log_variance).item()
                assert abs(got - expected) < tolerance * max(1, abs(expected))


def test_turning_black_into_white_changes_nothing():
    x_0, mean = images(1000), normal(1000)
    log_variance = normal(1000, seed=1) - 4
    there = discretised_log_likelihood(x_0, mean, log_variance)
    back = discretised_log_likelihood(-x_0, -mean, log_variance)
    assert ((there - back) / there).abs().max() < 1e-9


def test_a_wide_normal_has_its_density_times_the_width_of_a_bin():
    mean, deviation = 0.2, 3.0
    p = Normal(*torch.tensor([mean, deviation], dtype=torch.float64))
    got = discretised_log_likelihood(LEVELS, p.mean.expand(256), 2 * p.stddev.log())
    # the midpoint rule errs by (width^2 / 24) f'' / f, here below 1e-6
    assert gap(got[1:-1], (p.log_prob(LEVELS) + math.log(2 / 255))[1:-1]) < 1e-6


# --- one term of the bound ---


@each_schedule
def test_a_term_is_a_kl_and_at_t_0_a_likelihood(make):
    schedule, t = make(1000), torch.tensor([0, 1, 300, 999, 0])
    x_0, guess, fraction = images(5, 2, 3), normal(5, 2, 3), normal(5, 2, 3, seed=1)
    x_t, _ = forward_diffusion(x_0, t, schedule, generator=generator())
    log_variance = learned_log_variance(fraction, t, schedule)
    got = vlb_term(x_0, x_t, t, guess, log_variance, schedule)
    for i, step in enumerate(t.tolist()):
        one = slice(i, i + 1)
        mean, variance = posterior(x_0[one], x_t[one], t[one], schedule)
        predicted, _ = posterior(guess[one], x_t[one], t[one], schedule)
        p = Normal(predicted, (log_variance[one] / 2).exp())
        if step == 0:
            nats = -discretised_log_likelihood(x_0[one], predicted, log_variance[one])
        else:
            nats = kl_divergence(Normal(mean, variance.sqrt()), p)
        expected = nats.mean() / math.log(2)
        assert abs(got[i] / expected - 1) < 1e-10


@each_schedule
def test_with_beta_tilde_a_term_is_the_error_of_x_0_times_a_fall_in_snr(make):
    """Kingma et al. 2021, eq. 15: KL = (SNR(t-1) - SNR(t)) / 2 times the squared error."""
    schedule, t = make(1000), torch.arange(1, 1000)
    x_0, guess = images(999, 3), normal(999, 3)
    x_t, _ = forward_diffusion(x_0, t, schedule, generator=generator())
    log_variance = column(posterior_log_variance(schedule), t, x_0)
    got = vlb_term(x_0, x_t, t, guess, log_variance, schedule)
    fall = schedule.snr[:-1] - schedule.snr[1:]
    nats = fall / 2 * (x_0 - guess).square().mean(1)
    assert (got * math.log(2) / nats - 1).abs().max() < 1e-6  # rounding of the means, near t = 999


def test_the_right_x_0_with_beta_tilde_costs_nothing():
    schedule, t = cosine_schedule(), torch.arange(1, 1000)
    x_0 = images(999, 2)
    x_t, _ = forward_diffusion(x_0, t, schedule, generator=generator())
    log_variance = column(posterior_log_variance(schedule), t, x_0)
    assert gap(vlb_term(x_0, x_t, t, x_0, log_variance, schedule), torch.zeros(999).double()) == 0


def test_the_dimensions_are_averaged_and_nats_are_turned_into_bits():
    schedule, t = linear_schedule(), torch.tensor([500])
    x_0, guess = torch.zeros(1, 1, 2, 2).double(), torch.zeros(1, 1, 2, 2).double()
    guess[0, 0, 0, 0] = 1.0  # one pixel of four
    log_variance = column(posterior_log_variance(schedule), t, x_0)
    fall = schedule.snr[499] - schedule.snr[500]
    expected = fall / 2 / 4 / math.log(2)
    assert abs(vlb_term(x_0, x_0, t, guess, log_variance, schedule)[0] / expected - 1) < 1e-9


@pytest.mark.parametrize("schedule", [linear_schedule(), cosine_schedule()])
def test_1e_20_for_the_first_log_variance_ruins_the_first_term(schedule):
    """A guess of x_0 that is off by half a bin or more then has next to no likelihood."""
    x_0, t = images(200, 1, 4, 4), torch.zeros(200, dtype=torch.int64)
    x_t, _ = forward_diffusion(x_0, t, schedule, generator=generator())
    guess = x_0 + 0.005 * normal(200, 1, 4, 4, seed=2)  # about half a bin, 1 / 255
    log_low = torch.full((200, 1, 1, 1), math.log(1e-20), dtype=torch.float64)
    right = vlb_term(x_0, x_t, t, guess, column(posterior_log_variance(schedule), t, x_0), schedule)
    wrong = vlb_term(x_0, x_t, t, guess, log_low, schedule)
    assert right.max() < 3
    assert wrong.min() > 16 * right.max()


def test_two_shapes_or_a_bad_t_are_refused():
    schedule, x = linear_schedule(), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"x_0 must be shaped like x_t, \(2, 1\), got \(2, 3\)"):
        vlb_term(torch.zeros(2, 3), x, torch.tensor([0, 1]), x, x, schedule)
    with pytest.raises(ValueError, match=re.escape("t must be int64 in [0, 1000), got max 1000")):
        vlb_term(x, x, torch.tensor([0, 1000]), x, x, schedule)
    with pytest.raises(TypeError, match="t must be int64, got torch.float32"):
        vlb_term(x, x, torch.tensor([0.0, 1.0]), x, x, schedule)


# --- the hybrid loss ---


class Twofold(nn.Module):
    """The smallest model with a learned variance: prediction and v, each linear in x_t."""

    def __init__(self, n_channels: int = 1) -> None:
        super().__init__()
        self.prediction = nn.Parameter(torch.linspace(0.2, 0.8, n_channels, dtype=torch.float64))
        self.v = nn.Parameter(torch.linspace(-0.4, 0.3, n_channels, dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        shape = (1, -1, *[1] * (x_t.ndim - 2))
        wave = (x_t + 0.01 * t.view(-1, *[1] * (x_t.ndim - 1))).cos()
        return torch.cat([self.prediction.view(shape) * x_t, self.v.view(shape) * wave], dim=1)


class Once(nn.Module):
    """Its prediction alone."""

    def __init__(self, model: Twofold) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        return self.model(x_t, t).chunk(2, dim=1)[0]


@each_type
@pytest.mark.parametrize("n_steps", [50, 1000])
@pytest.mark.parametrize("space", [(5,), (4, 3)])
def test_the_hybrid_loss_is_the_simple_one_and_a_share_of_the_bound(
    prediction_type, n_steps, space
):
    schedule, model = linear_schedule(n_steps), Twofold(2)
    x_0, noise = images(6, 2, *space), normal(6, 2, *space)
    t = torch.tensor([0, 1, 2, 20, 40, 49])
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    denoise = Denoiser(model, schedule, prediction_type, clip=None)
    guess, _, fraction = denoise(x_t, t)
    log_variance = learned_log_variance(fraction, t, schedule)
    terms = vlb_term(x_0, x_t, t, guess, log_variance, schedule)
    simple = train_step(Once(model), x_0, t, schedule, noise=noise, prediction_type=prediction_type)
    got = hybrid_loss(model, x_0, t, schedule, noise=noise, prediction_type=prediction_type)
    assert abs(got - simple - n_steps / 1000 * terms.mean()) < 1e-9 * got
    assert terms.mean() > 1e-3


def test_with_every_timestep_once_the_weight_is_a_thousandth_of_the_sum():
    """L_vlb is a sum over T: with t uniform, one term stands for T of them."""
    schedule, model = cosine_schedule(200), Twofold()
    t = torch.arange(200)
    x_0, noise = images(200, 1, 3), normal(200, 1, 3)
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    guess, _, fraction = Denoiser(model, schedule, "v", clip=None)(x_t, t)
    bound = vlb_term(
        x_0, x_t, t, guess, learned_log_variance(fraction, t, schedule), schedule
    ).sum()
    simple = train_step(Once(model), x_0, t, schedule, noise=noise, prediction_type="v")
    got = hybrid_loss(model, x_0, t, schedule, noise=noise, prediction_type="v")
    assert VLB_WEIGHT == 0.001
    assert abs(got - simple - 0.001 * bound) < 1e-9 * got


@each_type
def test_the_bound_trains_the_variance_alone_and_the_simple_loss_the_mean_alone(prediction_type):
    schedule, model = linear_schedule(), Twofold(2)
    t = torch.tensor([0, 3, 400, 999])
    x_0, noise = images(4, 2, 3), normal(4, 2, 3)
    options = {"noise": noise, "prediction_type": prediction_type}
    hybrid_loss(model, x_0, t, schedule, **options).backward()
    of_mean, of_v = model.prediction.grad.clone(), model.v.grad.clone()
    model.zero_grad()
    train_step(Once(model), x_0, t, schedule, **options).backward()
    assert gap(of_mean, model.prediction.grad) < 1e-12 * of_mean.abs().max()
    assert model.v.grad.abs().max() == 0
    assert of_v.abs().min() > 0

    def bound(v: Tensor) -> Tensor:  # once more by hand, the guess a constant
        x_t, _ = forward_diffusion(x_0, t, schedule, noise)
        guess = Denoiser(model, schedule, prediction_type, clip=None)(x_t, t).x_0
        wave = (x_t + 0.01 * t.view(-1, 1, 1)).cos()
        log_variance = learned_log_variance((v.view(1, -1, 1) * wave + 1) / 2, t, schedule)
        return vlb_term(x_0, x_t, t, guess, log_variance, schedule).mean()

    (expected,) = torch.autograd.grad(bound(model.v), model.v)
    assert gap(of_v, expected) < 1e-12 * of_v.abs().max()


def best_fraction(schedule: NoiseSchedule, std: float) -> Tensor:
    """Fraction, (T,), at which p is the true q(x_{t-1} | x_t) of data N(0, std^2).

    What is unknown about x_0 adds its share to beta_tilde: w_0^2 Var(x_0 | x_t).
    """
    a_bar = schedule.alphas_cumprod
    unknown = std**2 * (1 - a_bar) / (a_bar * std**2 + 1 - a_bar)  # Var(x_0 | x_t)
    weight_0 = schedule.alphas_cumprod_prev.sqrt() * schedule.betas / (1 - a_bar)
    variance = schedule.posterior_variance + weight_0**2 * unknown
    low = posterior_log_variance(schedule)
    return (variance.log() - low) / (schedule.betas.log() - low)


def best_model(schedule: NoiseSchedule, std: float):
    """The optimal prediction of x_0, and of the variance, for data N(0, std^2)."""
    fraction = best_fraction(schedule, std)

    def model(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        a_bar = column(schedule.alphas_cumprod, t, x_t)
        x_0 = a_bar.sqrt() * std**2 / (a_bar * std**2 + 1 - a_bar) * x_t
        return torch.cat([x_0, (2 * column(fraction, t, x_t) - 1).expand_as(x_t)], dim=1)

    return model


@each_schedule
def test_the_fraction_of_a_normal_lies_between_0_and_1(make):
    for std in (0.05, 0.2, 0.5, 0.9):
        fraction = best_fraction(make(1000), std)[1:]
        assert fraction.min() > 0
        assert fraction.max() < 1
    assert gap(best_fraction(make(1000), 1.0)[1:], torch.ones(999).double()) < 1e-6  # it is beta


@pytest.mark.parametrize("t", [1, 30, 300, 900])
def test_the_bound_has_no_slope_at_the_true_variance(t):
    """The minimum of the L_vlb part is where beta_tilde + w_0^2 E|x_0 - guess|^2 says."""
    schedule, std, n_items = cosine_schedule(), 0.5, 100_000
    x_0 = std * normal(n_items, 1)
    steps = torch.full((n_items,), t)
    x_t, _ = forward_diffusion(x_0, steps, schedule, generator=generator(1))
    guess = best_model(schedule, std)(x_t, steps)[:, :1]
    fraction = best_fraction(schedule, std)[t].expand(n_items, 1).clone().requires_grad_()
    log_variance = learned_log_variance(fraction, steps, schedule)
    vlb_term(x_0, x_t, steps, guess, log_variance, schedule).sum().backward()
    slopes = fraction.grad
    assert abs(slopes.mean()) < 4 * slopes.std() / n_items**0.5
    assert slopes.std() > 0


def test_the_gradient_is_finite_at_every_timestep():
    """Also of the likelihood, which is computed at every t and used at t = 0 alone."""
    schedule, t = cosine_schedule(), torch.arange(1000)
    torch.manual_seed(0)
    model = UNet(out_channels=2, channels=(8,), attention_levels=())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x_0 = images(1000, 1, 4, 4).float()
    loss = hybrid_loss(model, x_0, t, schedule, generator=generator(), prediction_type="v")
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_noise_comes_from_the_generator_and_the_context_reaches_the_model():
    seen = []

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        seen.append(context)
        return torch.cat([x_t, 0 * x_t], dim=1)

    x_0, t, context = images(2, 1, 3), torch.tensor([5, 6]), {"labels": torch.tensor([1, 2])}
    arguments = (model, x_0, t, linear_schedule(), context)
    one, same, other = (hybrid_loss(*arguments, generator=generator(s)) for s in (1, 1, 2))
    assert one == same != other
    assert all(c is context for c in seen)


def test_what_comes_in_bfloat16_is_computed_in_the_precision_of_the_data():
    model = lambda x_t, t, context: torch.cat([x_t, x_t], 1).bfloat16()  # noqa: E731
    loss = hybrid_loss(
        model, images(2, 1, 3).float(), torch.tensor([0, 9]), linear_schedule(),
        generator=generator(),
    )  # fmt: skip
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 3, 3), (2, 2, 4), (1, 2, 3)])
def test_a_model_without_a_variance_is_refused(shape):
    message = f"the model's output must have twice the channels of x_0, (2, 1, 3), got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        hybrid_loss(
            lambda *_: torch.zeros(shape),
            torch.zeros(2, 1, 3),
            torch.tensor([0, 1]),
            linear_schedule(),
        )


# --- importance sampling ---


def full(losses: Tensor, **options: float) -> ImportanceSampler:
    """A sampler that has seen each of these losses once."""
    sampler = ImportanceSampler(len(losses), n_history=1, **options)
    sampler.update(torch.arange(len(losses)), losses)
    return sampler


def test_t_is_drawn_evenly_until_every_timestep_has_a_full_history():
    sampler = ImportanceSampler(3, n_history=2)
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    for t in (0, 0, 1, 1, 2, 0, 1):
        assert gap(sampler.probabilities, even) < 1e-15
        sampler.update(torch.tensor([t]), torch.tensor([float(1 + t)]))
    assert gap(sampler.probabilities, even) < 1e-15
    sampler.update(torch.tensor([2]), torch.tensor([3.0]))
    assert gap(sampler.probabilities, even) > 0.1


def test_the_probability_is_the_root_of_the_mean_square_of_the_last_losses():
    sampler = ImportanceSampler(2, n_history=3, uniform_share=0.1)
    for t, losses in ((0, [9.0, 1, 2, 3, 4]), (1, [1.0, 1, 1])):  # of t = 0 the last three count
        for loss in losses:
            sampler.update(torch.tensor([t]), torch.tensor([loss]))
    size = math.sqrt((4 + 9 + 16) / 3), 1.0
    expected = torch.tensor([0.9 * s / sum(size) + 0.05 for s in size]).double()
    assert gap(sampler.probabilities, expected) < 1e-7


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=50), st.sampled_from([0.0, 0.001, 0.3]))
@quick
def test_the_weights_undo_the_choice(losses, share):
    """The expectation of weight x loss is the mean over t, whatever the probabilities."""
    losses = torch.tensor(losses, dtype=torch.float64)
    sampler = full(losses, uniform_share=share)
    p = sampler.probabilities
    assert abs(p.sum() - 1) < 1e-12
    assert p.min() >= share / len(losses)
    t, weights = sampler.draw(200, generator())
    assert gap(weights * p[t] * len(p), torch.ones(200).double()) < 1e-12
    expectation = (p * (1 / (len(p) * p)) * losses).sum()
    assert abs(expectation / losses.mean() - 1) < 1e-12


def test_the_estimate_is_unbiased_and_its_variance_is_what_theory_says():
    losses, n_draws = torch.logspace(0, -3, 100, dtype=torch.float64), 40_000
    sampler = full(losses, uniform_share=0.2)
    p = sampler.probabilities
    t, weights = sampler.draw(n_draws, generator())
    estimates = weights * losses[t]
    variance = (losses**2 / (100**2 * p)).sum() - losses.mean() ** 2
    assert abs(estimates.mean() - losses.mean()) < 4 * (variance / n_draws).sqrt()
    even = losses.var(unbiased=False)
    assert estimates.var() < even / 4
    fourth = (p * (losses / (100 * p) - losses.mean()) ** 4).sum() - variance**2
    assert abs(estimates.var() - variance) < 5 * (fourth / n_draws).sqrt()


def test_no_other_choice_has_a_smaller_variance():
    """For losses that do not vary at a t, p proportional to them leaves no variance at all."""
    losses = torch.tensor([5.0, 1.0, 0.2]).double()
    _, weights = (sampler := full(losses, uniform_share=0.0)).draw(50, generator())
    t, weights = sampler.draw(50, generator())
    assert gap(weights * losses[t], losses.mean().expand(50)) < 1e-12

    # With losses that vary, E[L^2] decides: any step away from p raises the second moment.
    size = torch.tensor([2.0, 1.5, 0.3]).double()  # roots of E[L^2]
    best = size / size.sum()
    for seed in range(20):
        other = (best.log() + 0.3 * normal(3, seed=seed)).softmax(0)
        assert (size**2 / other).sum() > (size**2 / best).sum()


def test_timesteps_are_drawn_with_their_probabilities_from_the_generator():
    sampler = full(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    before = torch.get_rng_state()
    t, weights = sampler.draw(10_000, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert (t.dtype, weights.dtype) == (torch.int64, torch.float64)
    again, _ = sampler.draw(10_000, generator(3))
    assert torch.equal(t, again)
    counts, expected = t.bincount(minlength=4), 10_000 * sampler.probabilities
    assert ((counts - expected) ** 2 / expected).sum() < 3 + 5 * 6**0.5  # 3 degrees of freedom


def test_losses_that_are_all_zero_leave_the_draw_even():
    sampler = full(torch.zeros(4), uniform_share=0.0)
    assert torch.equal(sampler.probabilities, torch.full((4,), 0.25).double())


def test_losses_keep_no_graph():
    weight = torch.ones(2, requires_grad=True)
    sampler = ImportanceSampler(2, n_history=1)
    sampler.update(torch.tensor([0, 1]), 2 * weight)
    assert not sampler.history.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps and n_history must be at least 1, got 0 and 10"),
        ({"n_steps": 5, "n_history": 0}, "must be at least 1, got 5 and 0"),
        ({"n_steps": 5, "uniform_share": -0.1}, "uniform_share must lie in [0, 1], got -0.1"),
        ({"n_steps": 5, "uniform_share": 2}, "uniform_share must lie in [0, 1], got 2"),
        ({"n_steps": 5, "uniform_share": math.nan}, "uniform_share must lie in [0, 1], got nan"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImportanceSampler(**arguments)


def test_losses_without_a_t_are_refused():
    with pytest.raises(ValueError, match="argument 2 is"):
        ImportanceSampler(5).update(torch.tensor([0, 1]), torch.tensor([1.0]))


# --- bits per dimension ---


@each_schedule
def test_the_prior_term_is_the_kl_to_a_standard_normal(make):
    schedule, x_0 = make(1000), images(4, 1, 3, 3)
    a_bar = schedule.alphas_cumprod[-1]
    q = Normal(a_bar.sqrt() * x_0, (1 - a_bar).sqrt())
    expected = kl_divergence(q, Normal(0.0, 1.0)).flatten(1).mean(1) / math.log(2)
    assert gap(prior_term(x_0, schedule), expected) < 1e-12
    assert prior_term(x_0, schedule).max() < 1e-4
    assert prior_term(x_0, make(25)).min() > 0


def quantised_normal(n_items: int, std: float, seed: int = 0) -> Tensor:
    """Data N(0, std^2), rounded to the 256 levels."""
    return (((std * normal(n_items, 1, seed=seed) + 1) * 127.5).round() / 127.5 - 1).clamp(-1, 1)


@each_schedule
@pytest.mark.parametrize("std", [0.1, 0.25])
def test_the_bound_of_a_perfect_model_is_the_likelihood_of_the_data(make, std):
    """With the true means and variances the bound is tight, image by image.

    The data are rounded to levels; the variance of that rounding, (2 / 255)^2 / 12, is less than
    0.001 std^2 and unknown to the model: it may cost 0.001 bits.
    """
    schedule, n_items = make(500), 1500
    x_0 = quantised_normal(n_items, std)
    denoise = Denoiser(best_model(schedule, std), schedule, "x_0", clip=None)
    bounds = bits_per_dimension(denoise, x_0, generator(1), ("learned", "beta_tilde", "beta"))
    log_variance = torch.tensor(2 * math.log(std), dtype=torch.float64)
    log_p = discretised_log_likelihood(x_0, torch.zeros_like(x_0), log_variance)[:, 0]
    learned = bounds["learned"].total
    gap_to_truth = learned + log_p / math.log(2)  # bits too many
    standard_error = gap_to_truth.std().item() / n_items**0.5
    assert standard_error < 0.05
    assert abs(gap_to_truth.mean()) < 4 * standard_error + 0.001
    for fixed in ("beta_tilde", "beta"):  # the same noise, so the difference is known far better
        extra = bounds[fixed].total - learned
        assert extra.mean() > 4 * extra.std() / n_items**0.5


@pytest.mark.parametrize("name", ["learned", "beta_tilde", "beta"])
@pytest.mark.parametrize("n_steps", [10, 1000])
def test_each_term_of_a_normal_is_its_expected_kl(name, n_steps):
    """(log(s^2 / b) + (b + w_0^2 Var(x_0 | x_t)) / s^2 - 1) / 2 with b = beta_tilde."""
    std, n_items = 0.5, 20_000
    chain = respace(cosine_schedule(), trailing_timesteps(1000, n_steps))
    t = torch.tensor([1, n_steps // 2, n_steps - 1])
    denoise = Denoiser(best_model(chain, std), chain, "x_0", clip=None)
    got = bits_per_dimension(denoise, std * normal(n_items, 1), generator(2), (name,), t)[name]
    fraction = {"learned": best_fraction(chain, std), "beta_tilde": 0.0, "beta": 1.0}[name]
    low, high = posterior_log_variance(chain), chain.betas.log()
    variance = (fraction * high + (1 - fraction) * low).exp()
    true = (best_fraction(chain, std) * (high - low) + low).exp()
    kl = ((variance / low.exp()).log() + true / variance - 1) / 2 / math.log(2)
    error = got.terms.std(0) / n_items**0.5
    assert got.terms.shape == (n_items, 3)
    assert ((got.terms.mean(0) - kl[t]).abs() < 4 * error + 1e-12).all()


def wave(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
    """A model of no meaning, with a variance."""
    shift = 0.03 * t.view(-1, *[1] * (x_t.ndim - 1))
    return torch.cat([(1.7 * x_t + shift).sin(), (0.4 * x_t - shift).cos()], dim=1)


def with_v(value: float):
    return lambda x_t, t, context: torch.cat([wave(x_t, t)[:, :1], torch.full_like(x_t, value)], 1)


def test_v_of_minus_1_and_1_are_the_fixed_variances():
    schedule, x_0 = cosine_schedule(50), images(3, 1, 4)
    for v, name in ((-1.0, "beta_tilde"), (1.0, "beta")):
        denoise = Denoiser(with_v(v), schedule, "v")
        bounds = bits_per_dimension(denoise, x_0, generator(), ("learned", name))
        assert gap(bounds["learned"].terms, bounds[name].terms) < 1e-10


def test_the_bound_is_its_terms_and_the_prior():
    schedule, x_0 = cosine_schedule(30), images(3, 1, 4, 4)
    denoise = Denoiser(wave, schedule, "v")
    bound = bits_per_dimension(denoise, x_0, generator())["learned"]
    assert isinstance(bound, Bound)
    assert bound.terms.shape == (3, 30)
    assert gap(bound.prior, prior_term(x_0, schedule)) == 0
    assert gap(bound.total, bound.terms.sum(1) + prior_term(x_0, schedule)) < 1e-12
    draw = generator()  # one draw of noise a term, in the order of t
    for step in range(30):
        t = torch.full((3,), step)
        x_t, _ = forward_diffusion(x_0, t, schedule, generator=draw)
        guess, _, fraction = denoise(x_t, t)
        log_variance = learned_log_variance(fraction, t, schedule)
        expected = vlb_term(x_0, x_t, t, guess, log_variance, schedule)
        assert gap(bound.terms[:, step], expected) < 1e-12


def test_some_terms_are_those_of_the_timesteps_asked_for():
    schedule, x_0 = cosine_schedule(50), images(3, 1, 4)
    asked, timesteps = [], torch.tensor([0, 7, 49])

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        asked.append(t.tolist())
        return wave(x_t, t)

    denoise = Denoiser(model, schedule, "v")
    names = ("learned", "beta", "beta_tilde")
    bounds = bits_per_dimension(denoise, x_0, generator(), names, timesteps)
    assert asked == [[0, 0, 0], [7, 7, 7], [49, 49, 49]]  # the variances share the model's calls
    draw = generator()
    for i, step in enumerate(timesteps.tolist()):
        t = torch.full((3,), step)
        x_t, _ = forward_diffusion(x_0, t, schedule, generator=draw)
        guess = Denoiser(wave, schedule, "v")(x_t, t).x_0
        log_variance = column(schedule.betas.log(), t, x_0)
        expected = vlb_term(x_0, x_t, t, guess, log_variance, schedule)
        assert gap(bounds["beta"].terms[:, i], expected) < 1e-12


def test_the_bound_keeps_no_gradient_and_is_decided_by_its_generator():
    torch.manual_seed(0)
    model = UNet(out_channels=2, channels=(8,), attention_levels=())
    denoise = Denoiser(model, cosine_schedule(5), "v")
    x_0 = images(2, 1, 4, 4).float().requires_grad_()
    one, same, other = (
        bits_per_dimension(denoise, x_0, generator(s))["learned"].total for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not one.requires_grad


def test_float32_is_enough():
    schedule, x_0 = cosine_schedule(200), images(4, 1, 6, 6)
    exact = bits_per_dimension(Denoiser(with_v(0.2), schedule, "v"), x_0, generator())["learned"]
    # Draws of float32 and float64 noise differ: go through the terms with the same noise.
    for step in range(0, 200, 11):
        t = torch.full((4,), step)
        x_t, _ = forward_diffusion(x_0, t, schedule, normal(4, 1, 6, 6, seed=step))
        terms = []
        for x, y in ((x_0, x_t), (x_0.float(), x_t.float())):
            guess, _, fraction = Denoiser(with_v(0.2), schedule, "v")(y, t)
            log_variance = learned_log_variance(fraction, t, schedule)
            terms.append(vlb_term(x, y, t, guess, log_variance, schedule).double())
        assert ((terms[0] - terms[1]) / terms[0]).abs().max() < 1e-3
    assert exact.total.isfinite().all()


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            wave,
            {"variances": ("fixed",)},
            "'beta_tilde' or 'beta', got ['fixed']",
        ),
        (Once(Twofold()), {}, "variances must leave out 'learned': this model learned none"),
        (wave, {"timesteps": torch.tensor([50])}, "t must be int64 in [0, 50), got max 50"),
        (wave, {"timesteps": torch.tensor([-1])}, "t must be int64 in [0, 50), got min -1"),
    ],
)
def test_a_bound_that_cannot_be_is_refused(model, arguments, message):
    denoise = Denoiser(model, linear_schedule(50))
    with pytest.raises(ValueError, match=re.escape(message)):
        bits_per_dimension(denoise, images(2, 1, 3), **arguments)
