"""Chapter 01: schedules, extract and q(x_t | x_0) against mathematics and against diffusers."""

import dataclasses
import math
import re

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import DTYPES, SCHEDULES, gap, generator
from minidiff.forward import (
    NoiseSchedule,
    cosine_schedule,
    extract,
    forward_diffusion,
    linear_schedule,
    noise_like,
)

quick = settings(max_examples=40, deadline=None)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5)  # (B,) to (B, C, frames, H, W)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def timesteps_for(shape: list[int], schedule: NoiseSchedule, seed: int = 0) -> Tensor:
    return torch.randint(schedule.n_steps, (shape[0],), generator=generator(seed))


def assert_normal(x: Tensor, mean: float, variance: float) -> None:
    """Mean and variance of the samples x lie within 4 standard errors of those of a normal."""
    assert abs(x.mean().item() - mean) < 4 * math.sqrt(variance / x.numel())
    assert abs(x.var().item() - variance) < 4 * variance * math.sqrt(2 / x.numel())


# --- a schedule ---


@given(st.lists(st.floats(1e-5, 0.999), min_size=1, max_size=40))
@quick
def test_a_schedule_equals_the_naive_loop_over_betas(betas):
    schedule = NoiseSchedule(float64(*betas))
    assert schedule.n_steps == len(betas)
    for t, beta in enumerate(betas):
        a_bar = math.prod(1 - b for b in betas[: t + 1])  # t counts from 0 and is included
        a_bar_prev = math.prod(1 - b for b in betas[:t])  # 1 at t = 0
        expected = {
            "alphas": 1 - beta,
            "alphas_cumprod": a_bar,
            "alphas_cumprod_prev": a_bar_prev,
            "posterior_variance": beta * (1 - a_bar_prev) / (1 - a_bar),
            "snr": a_bar / (1 - a_bar),
        }
        for name, value in expected.items():
            assert getattr(schedule, name)[t].item() == pytest.approx(value, rel=1e-9, abs=0), name


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
@given(n_steps=st.integers(21, 2000))
@quick
def test_noise_only_grows_and_the_posterior_is_surer_than_the_step(make, n_steps):
    schedule = make(n_steps)
    assert (schedule.snr.diff() < 0).all()
    assert schedule.posterior_variance[0] == 0
    assert (schedule.posterior_variance < schedule.betas).all()
    assert schedule.alphas_cumprod_prev[0] == 1
    assert torch.equal(schedule.alphas_cumprod_prev[1:], schedule.alphas_cumprod[:-1])
    for name in ("betas", "alphas", "alphas_cumprod", "alphas_cumprod_prev", "snr"):
        values = getattr(schedule, name)
        assert (values.shape, values.dtype) == ((n_steps,), torch.float64)


def test_a_schedule_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear_schedule().betas = torch.ones(3)


@pytest.mark.parametrize(
    ("betas", "error", "message"),
    [
        ([0.1, 0.2], TypeError, "betas must be a float64 tensor on the CPU, got <class 'list'>"),
        (torch.tensor([0.1]), TypeError, "got torch.float32 on cpu"),
        (torch.tensor([1]), TypeError, "got torch.int64 on cpu"),
        (float64(0.1).to("meta"), TypeError, "got torch.float64 on meta"),
        (float64(), ValueError, "betas must have shape (T,) with T >= 1, got (0,)"),
        (float64(0.1)[None], ValueError, "got (1, 1)"),
        (float64(0.1, 0.2)[0], ValueError, "got ()"),
        (float64(0.1, 0.0), ValueError, "betas must lie in (0, 1), got 0.0 at t = 1"),
        (float64(-0.1, 0.1), ValueError, "got -0.1 at t = 0"),
        (float64(0.1, 1.5), ValueError, "got 1.5 at t = 1"),
        (float64(1.0, 0.1), ValueError, "got 1.0 at t = 0"),
        (float64(0.1, math.nan, 0.1), ValueError, "got nan at t = 1"),
        (float64(0.1, math.nan), ValueError, "got nan at t = 1"),
        (float64(math.inf), ValueError, "got inf at t = 0"),
    ],
)
def test_betas_of_no_forward_process_are_refused(betas, error, message):
    with pytest.raises(error, match=re.escape(message)):
        NoiseSchedule(betas)


# --- linear ---


def test_linear_betas_equal_those_of_diffusers():
    assert gap(linear_schedule(1000).betas, DDPMScheduler(beta_schedule="linear").betas) < 1e-7


@given(st.integers(21, 3000))
@quick
def test_linear_betas_are_scaled_so_that_every_chain_adds_the_same_noise(n_steps):
    schedule = linear_schedule(n_steps)
    assert schedule.betas[0].item() == pytest.approx(1e-4 * 1000 / n_steps)
    assert schedule.betas[-1].item() == pytest.approx(0.02 * 1000 / n_steps)
    assert schedule.betas.sum().item() == pytest.approx(1000 * (1e-4 + 0.02) / 2)
    assert gap(schedule.betas.diff(), schedule.betas.diff().mean().expand(n_steps - 1)) < 1e-12
    assert schedule.alphas_cumprod[-1].sqrt() < 0.0066


@pytest.mark.parametrize(
    ("n_steps", "signal"), [(50, 0.776), (100, 0.603), (200, 0.364), (400, 0.132)]
)
def test_unscaled_linear_betas_never_reach_noise(n_steps, signal):
    betas = torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)
    assert round(NoiseSchedule(betas).alphas_cumprod[-1].sqrt().item(), 3) == signal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 20}, "n_steps must be greater than 20 for this linear schedule, got 20"),
        ({"n_steps": 1}, "got 1: its largest beta would be 20, not below 1"),
        ({"n_steps": 100, "beta_end": 0.1}, "n_steps must be greater than 100"),
        ({"n_steps": 100, "beta_start": 0.2}, "n_steps must be greater than 200"),
        ({"beta_start": 0.0}, "betas must lie in (0, 1), got 0.0 at t = 0"),
        ({"beta_end": -0.02}, "betas must lie in (0, 1), got -"),
        ({"beta_start": math.nan}, "betas must lie in (0, 1), got nan at t = 0"),
    ],
)
def test_a_linear_schedule_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        linear_schedule(**arguments)


def test_the_error_names_the_beta_that_is_too_large():
    with pytest.raises(ValueError, match="beta would be 2, not below 1"):
        linear_schedule(100, beta_start=0.2)


# --- cosine ---


@pytest.mark.parametrize("n_steps", [50, 100, 1000])
def test_cosine_betas_equal_those_of_diffusers_and_exactly_one_is_clipped(n_steps):
    oracle = DDPMScheduler(n_steps, beta_schedule="squaredcos_cap_v2")
    betas = cosine_schedule(n_steps).betas
    assert gap(betas, oracle.betas) < 1e-7
    assert (betas == 0.999).nonzero().tolist() == [[n_steps - 1]]


@given(st.integers(2, 2000))
@quick
def test_cosine_a_bar_is_a_squared_cosine_up_to_the_clipped_end(n_steps):
    a_bar = cosine_schedule(n_steps).alphas_cumprod
    f = [math.cos((i / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n_steps + 1)]
    assert gap(a_bar[:-1], float64(*f[1:-1]) / f[0]) < 1e-12
    assert a_bar[-1].item() == pytest.approx((1 - 0.999) * f[-2] / f[0], rel=1e-9)


@pytest.mark.parametrize(("make", "factor"), [(cosine_schedule, 20_291), (linear_schedule, 157)])
def test_the_last_step_amplifies_an_error_in_eps(make, factor):
    assert round(1 / make(1000).alphas_cumprod[-1].sqrt().item()) == factor


def test_an_unclipped_cosine_has_zero_terminal_snr():
    schedule = cosine_schedule(50, max_beta=1.0)
    assert schedule.snr[-1] == 0
    x_0, noise = torch.randn(2, 3, 8, generator=generator()).unbind()
    assert torch.equal(
        forward_diffusion(x_0, torch.full((3,), 49), schedule, noise)[0], noise
    )  # nothing of x_0 is left


@pytest.mark.parametrize("max_beta", [0.0, -0.5, math.nan])
def test_a_cosine_schedule_that_cannot_be_is_refused(max_beta):
    with pytest.raises(ValueError, match=re.escape(f"max_beta must lie in (0, 1], got {max_beta}")):
        cosine_schedule(10, max_beta=max_beta)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("n_steps", [0, -1, 1000.0, True, None, "1000", torch.tensor(1000)])
def test_n_steps_must_be_a_positive_integer(make, n_steps):
    message = f"n_steps must be a positive integer, got {n_steps!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(n_steps)


# --- extract ---


@given(shapes, st.sampled_from(DTYPES), st.integers(1, 1000))
@quick
def test_extract_gives_each_item_its_own_coefficient(shape, dtype, n_steps):
    schedule = cosine_schedule(n_steps)
    t = timesteps_for(shape, schedule)
    got = extract(schedule.betas, t, like=torch.zeros(shape, dtype=dtype))
    assert got.dtype == dtype
    assert got.shape == (shape[0], *[1] * (len(shape) - 1))
    assert got.flatten().tolist() == [schedule.betas[s].to(dtype).item() for s in t.tolist()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_coefficients_keep_every_digit_of_the_dtype(dtype):
    spread = (1 - linear_schedule(1000).alphas_cumprod).sqrt()
    spread = extract(spread, torch.tensor([0]), like=torch.ones(1, dtype=dtype))
    assert abs(spread.item() / 0.01 - 1) <= torch.finfo(dtype).eps + 1e-12  # sqrt(beta_0) = 0.01


BAD_BATCHES = [  # x of shape and dtype, t, error, message; T = 1000
    ((2, 1, 4), torch.int64, [0, 1], TypeError, r"x\w* must be a floating-point .*torch.int64"),
    ((2, 1, 4), torch.uint8, [0, 1], TypeError, r"x\w* must be a floating-point .*torch.uint8"),
    ((2, 1, 4), torch.bool, [0, 1], TypeError, r"x\w* must be a floating-point .*torch.bool"),
    ((2, 1, 4), torch.float32, [0.0, 1.0], TypeError, "t must be int64, got torch.float32"),
    ((2, 1, 4), torch.float32, [True, False], TypeError, "t must be int64, got torch.bool"),
    ((0, 1, 4), torch.float32, [0], ValueError, r"at least one item, got shape \(0, 1, 4\)"),
    ((), torch.float32, 0, ValueError, r"at least one item, got shape \(\)"),
    ((2, 1, 4), torch.float32, 0, ValueError, r"t must have .* shape \(2,\), got \(\)"),
    ((2, 1, 4), torch.float32, [0], ValueError, r"t must have .* shape \(2,\), got \(1,\)"),
    ((2, 1, 4), torch.float32, [0, 1, 2], ValueError, r"t must have .*, got \(3,\)"),
    ((2, 1, 4), torch.float32, [[0], [1]], ValueError, r"t must have .*, got \(2, 1\)"),
    ((2, 1, 4), torch.float32, [0, 1000], ValueError, r"int64 in \[0, 1000\), got max 1000"),
    ((2, 1, 4), torch.float32, [-1, 5], ValueError, r"int64 in \[0, 1000\), got min -1"),
]


@pytest.mark.parametrize(("shape", "dtype", "t", "error", "message"), BAD_BATCHES)
def test_a_batch_or_t_that_does_not_fit_is_refused(shape, dtype, t, error, message):
    schedule, x, t = linear_schedule(1000), torch.ones(shape, dtype=dtype), torch.tensor(t)
    with pytest.raises(error, match=message):
        extract(schedule.betas, t, like=x)
    with pytest.raises(error, match=message):
        forward_diffusion(x, t, schedule)


def test_int32_is_no_int64():
    with pytest.raises(TypeError, match=r"t must be int64, got torch.int32"):
        extract(linear_schedule().betas, torch.zeros(2, dtype=torch.int32), torch.ones(2, 1))


@pytest.mark.parametrize("t", [5, [5, 6]])
def test_t_that_is_no_tensor_is_refused(t):
    with pytest.raises(TypeError, match=r"t must be int64, got <class '(int|list)'>"):
        forward_diffusion(torch.ones(2, 1), t, linear_schedule())


# --- noise ---


@given(shapes, st.sampled_from(DTYPES))
@quick
def test_noise_is_shaped_like_x_and_is_the_generators_own(shape, dtype):
    x = torch.zeros(shape, dtype=dtype)
    noise = noise_like(x, generator(3))
    assert (noise.shape, noise.dtype, noise.device) == (x.shape, dtype, x.device)
    assert torch.equal(noise, torch.randn(shape, generator=generator(3), dtype=dtype))


def test_noise_is_standard_normal():
    noise = noise_like(torch.zeros(100, 1000, dtype=torch.float64), generator())
    assert_normal(noise, 0, 1)
    assert abs((noise**4).mean().item() - 3) < 4 * math.sqrt(96 / noise.numel())  # var(z^4) = 96


# --- the forward process ---


@pytest.mark.parametrize(
    ("name", "oracle_name"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_forward_diffusion_equals_add_noise_of_diffusers(name, oracle_name):
    schedule = SCHEDULES[name](1000)
    oracle = DDPMScheduler(1000, beta_schedule=oracle_name)
    oracle.alphas_cumprod = schedule.alphas_cumprod  # float64 in place of its float32
    t = torch.tensor([0, 1, 10, 250, 500, 998, 999])
    x_0, noise = torch.randn(2, 7, 3, 8, 8, dtype=torch.float64, generator=generator()).unbind()
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    assert gap(x_t, oracle.add_noise(x_0, noise, t)) < 1e-12


@given(
    shapes,
    st.sampled_from(DTYPES),
    st.sampled_from([cosine_schedule, linear_schedule]),
    st.integers(21, 1000),
    st.integers(0, 99),
)
@quick
def test_forward_diffusion_equals_the_naive_loop_for_any_batch(shape, dtype, make, n_steps, seed):
    schedule = make(n_steps)
    t = timesteps_for(shape, schedule, seed)
    x_0 = (2 * torch.rand(shape, generator=generator(seed), dtype=torch.float64) - 1).to(dtype)
    x_t, noise = forward_diffusion(x_0, t, schedule, generator=generator(seed))
    assert x_t.shape == noise.shape == x_0.shape
    assert x_t.dtype == noise.dtype == dtype
    for i, s in enumerate(t.tolist()):
        a_bar = math.prod(1 - beta for beta in schedule.betas[: s + 1].tolist())
        expected = math.sqrt(a_bar) * x_0[i].double() + math.sqrt(1 - a_bar) * noise[i].double()
        # three roundings of numbers below 1 + |noise|, each by at most eps / 2
        assert gap(x_t[i].double(), expected) < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_the_closed_form_is_the_iterated_chain(make):
    # x_t = sqrt(alpha_t) x_{t-1} + sqrt(beta_t) z maps mean and variance exactly so.
    schedule, mean, variance = make(1000), 0.7, 0.0
    x_0 = torch.full((1, 1), 0.7, dtype=torch.float64)
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        at_zero, at_one = (
            forward_diffusion(x_0, torch.tensor([t]), schedule, noise.expand(1, 1))[0].item()
            for noise in float64(0, 1)
        )
        assert abs(at_zero - mean) < 1e-12
        assert abs((at_one - at_zero) ** 2 - variance) < 1e-12


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_samples_of_chain_and_closed_form_have_the_same_moments(make):
    schedule, x_0, g = make(50), 0.7, generator()
    chain = torch.full((20_000, 1), x_0, dtype=torch.float64)
    for t, beta in enumerate(schedule.betas.tolist()):
        chain = math.sqrt(1 - beta) * chain + math.sqrt(beta) * noise_like(chain, g)
        if t in (0, 5, 25, 49):
            start = torch.full_like(chain, x_0)
            jump, _ = forward_diffusion(start, torch.full((20_000,), t), schedule, generator=g)
            a_bar = schedule.alphas_cumprod[t].item()
            for x_t in (chain, jump):
                assert_normal(x_t, math.sqrt(a_bar) * x_0, 1 - a_bar)


def test_data_of_unit_variance_keep_it():
    x_0 = torch.randn(50_000, 1, dtype=torch.float64, generator=generator(1))
    for t in (0, 250, 500, 999):
        t = torch.full((50_000,), t)
        x_t, _ = forward_diffusion(x_0, t, linear_schedule(), generator=generator(2))
        assert_normal(x_t, 0, 1)


def test_each_item_has_its_own_timestep():
    schedule, t = linear_schedule(), torch.tensor([999, 0, 500])
    x_0, noise = torch.randn(2, 3, 1, 4, 4, generator=generator()).unbind()
    together, _ = forward_diffusion(x_0, t, schedule, noise)
    for i in range(3):
        alone, _ = forward_diffusion(x_0[i : i + 1], t[i : i + 1], schedule, noise[i : i + 1])
        assert torch.equal(together[i], alone[0])


def test_the_noise_given_or_drawn_is_the_noise_returned():
    x_0, t, schedule = torch.zeros(2, 1, 4, 4), torch.tensor([0, 999]), linear_schedule()
    drawn, noise = forward_diffusion(x_0, t, schedule, generator=generator(5))
    assert torch.equal(noise, noise_like(x_0, generator(5)))
    given_x_t, given_noise = forward_diffusion(x_0, t, schedule, noise, generator(6))
    assert given_noise is noise
    assert torch.equal(given_x_t, drawn)


def test_randomness_comes_from_the_generator_alone():
    x_0, t, schedule = torch.zeros(2, 1, 4, 4), torch.tensor([0, 999]), linear_schedule()
    before = torch.get_rng_state()
    first, again, other = (
        forward_diffusion(x_0, t, schedule, generator=generator(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_are_left_as_they_were():
    schedule, t = linear_schedule(), torch.tensor([0, 999])
    x_0, noise = torch.randn(2, 2, 1, 4, 4, generator=generator()).unbind()
    inputs = [schedule.betas, schedule.alphas_cumprod, t, x_0, noise]
    before = [x.clone() for x in inputs]
    forward_diffusion(x_0, t, schedule, noise)
    assert all(map(torch.equal, inputs, before))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_data_that_are_not_finite_are_refused(value):
    x_0 = torch.zeros(2, 1, 4, 4)
    x_0[1, 0, 2, 3] = value
    with pytest.raises(ValueError, match="x_0 must be finite, got NaN or infinity"):
        forward_diffusion(x_0, torch.tensor([0, 1]), linear_schedule())


@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 1, 4, 4), (2, 1, 4, 5), (1,), ()])
def test_noise_of_another_shape_is_refused_even_if_it_would_broadcast(shape):
    message = f"noise must have the shape of x_0, (2, 1, 4, 4), got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        forward_diffusion(
            torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), linear_schedule(), torch.zeros(shape)
        )
