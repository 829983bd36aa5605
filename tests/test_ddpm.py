"""Chapter 04: denoiser, posterior and chain against mathematics and against diffusers."""

import math
import re

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import (
    DTYPES,
    ORACLE_NAMES,
    column,
    each_clip,
    each_schedule,
    each_type,
    gap,
    generator,
    in_float64,
    normal,
    quick,
    wave,
)
from minidiff.ddpm import (
    Denoiser,
    ddpm_steps,
    last,
    posterior,
    respace,
    sample_ddpm,
    start,
    trailing_timesteps,
)
from minidiff.forward import NoiseSchedule, cosine_schedule, forward_diffusion, linear_schedule
from minidiff.improved import learned_variance, posterior_log_variance
from minidiff.training import train_step, training_target
from minidiff.unet import UNet

ORACLE_VARIANCES = {"beta_tilde": "fixed_small", "beta": "fixed_large"}

each_variance = pytest.mark.parametrize("variance", ORACLE_VARIANCES)


def oracle(schedule: NoiseSchedule, **config: object) -> DDPMScheduler:
    """The scheduler of diffusers with float64 in place of its float32."""
    scheduler = DDPMScheduler(schedule.n_steps, timestep_spacing="trailing", **config)
    in_float64(scheduler, schedule)
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


# --- the denoiser ---


@each_type
@each_schedule
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(21, 1000), st.data())
@quick
def test_the_true_target_gives_back_x_0_and_noise(prediction_type, make, shape, n_steps, data):
    schedule = make(n_steps)
    t = torch.tensor([data.draw(st.integers(0, n_steps - 1)) for _ in range(shape[0])])
    x_0, noise = normal(2, *shape).unbind()
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    target = training_target(x_0, noise, t, schedule, prediction_type)
    denoise = Denoiser(lambda *_: target, schedule, prediction_type, clip=None)
    got = denoise(x_t, t)
    assert gap(got.x_0, x_0) < 1e-10  # 20,291 times 1e-16 at most
    assert gap(got.eps, noise) < 1e-10
    assert got.variance_fraction is None


@each_schedule
def test_v_is_that_of_diffusers(make):
    schedule, t = make(1000), torch.tensor([0, 1, 500, 998, 999])
    x_0, noise = normal(2, 5, 1, 4, 4).unbind()
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    v = oracle(schedule).get_velocity(x_0, noise, t)
    got = Denoiser(lambda *_: v, schedule, "v", clip=None)(x_t, t)
    assert gap(got.x_0, x_0) < 1e-12
    assert gap(got.eps, noise) < 1e-10


@each_type
@each_clip
@each_schedule
def test_x_0_and_eps_always_make_up_x_t(prediction_type, clip, make):
    schedule, t = make(1000), torch.arange(0, 1000, 37)
    x_t = 3 * normal(len(t), 2, 5)
    got = Denoiser(wave, schedule, prediction_type, clip=clip)(x_t, t)
    signal = column(schedule.alphas_cumprod.sqrt(), t, x_t)
    spread = column((1 - schedule.alphas_cumprod).sqrt(), t, x_t)
    assert gap(signal * got.x_0 + spread * got.eps, x_t) < 1e-12
    if clip is not None and prediction_type == "eps":  # derived again, it is not the model's
        assert gap(got.eps, wave(x_t, t)) > 0.5


@pytest.mark.parametrize("clip", [(-1, 1), (0.0, 0.25), (-0.1, 3.0)])
def test_x_0_is_clipped_to_the_range_of_the_data(clip):
    output = torch.linspace(-4, 4, 81)[:, None]
    denoise = Denoiser(lambda *_: output, linear_schedule(), "x_0", clip=clip)
    x_0 = denoise(torch.zeros(81, 1), torch.full((81,), 5)).x_0
    assert torch.equal(x_0, output.clamp(*clip))
    assert (x_0.min(), x_0.max()) == clip
    assert output.abs().max() == 4  # what the model returned is left alone


@pytest.mark.parametrize(
    ("make", "prediction_type", "clip", "error"),
    [
        (cosine_schedule, "eps", None, 20.291),  # of x_0, for an error of 0.001 in the output
        (linear_schedule, "eps", None, 0.157),
        (cosine_schedule, "v", None, 0.001),
        (cosine_schedule, "x_0", None, 0.001),
        (cosine_schedule, "eps", (-1, 1), 0.7),  # x_0 = 0.3 runs into the upper bound
    ],
)
def test_what_an_error_of_the_model_does_to_x_0_at_the_first_step(
    make, prediction_type, clip, error
):
    schedule, t = make(1000), torch.tensor([999])
    x_0, noise = torch.tensor([[[0.3]], [[0.8]]], dtype=torch.float64)
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    wrong = training_target(x_0, noise, t, schedule, prediction_type) - 0.001
    got = Denoiser(lambda *_: wrong, schedule, prediction_type, clip=clip)(x_t, t)
    assert abs(gap(got.x_0, x_0) - error) < 5e-4


def test_a_learned_variance_is_told_from_the_prediction():
    x_t, t = normal(2, 3, 4, 4), torch.tensor([5, 6])
    output = normal(2, 6, 4, 4, seed=1)
    with_variance = Denoiser(lambda *_: output, linear_schedule())(x_t, t)
    without = Denoiser(lambda *_: output[:, :3], linear_schedule())(x_t, t)
    assert torch.equal(with_variance.x_0, without.x_0)
    assert torch.equal(with_variance.eps, without.eps)
    assert gap(2 * with_variance.variance_fraction - 1, output[:, 3:]) < 1e-15
    assert without.variance_fraction is None


def test_the_model_gets_x_t_t_and_the_very_context():
    seen = []
    context = {"labels": torch.tensor([3, 4])}
    x_t, t = torch.zeros(2, 1, 4, 4), torch.tensor([7, 8])

    def model(*arguments: object) -> Tensor:
        seen.extend(arguments)
        return torch.zeros(2, 1, 4, 4)

    Denoiser(model, linear_schedule(), context=context)(x_t, t)
    assert seen[0] is x_t
    assert torch.equal(seen[1], t)
    assert seen[2] is context


def test_the_labels_reach_the_model_and_change_the_samples():
    torch.manual_seed(0)
    model = UNet(channels=(8,), n_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    one, same, two, none = (
        sample_ddpm(
            Denoiser(model, linear_schedule(50), context=context),
            (2, 1, 4, 4),
            n_steps=3,
            generator=generator(),
        )
        for context in ({"labels": torch.tensor([i, i])} for i in (1, 1, 2, 3))
    )
    assert torch.equal(one, same)
    assert gap(one, two) > 1e-3
    without = Denoiser(model, linear_schedule(50))  # index 3 is "no label"
    assert torch.equal(none, sample_ddpm(without, (2, 1, 4, 4), 3, generator=generator()))


def test_what_a_model_returns_under_autocast_takes_on_the_dtype_of_x_t():
    denoise = Denoiser(lambda x_t, *_: x_t.to(torch.bfloat16), linear_schedule())
    got = denoise(torch.ones(1, 1), torch.tensor([500]))
    assert got.x_0.dtype == got.eps.dtype == torch.float32


def test_zero_terminal_snr_allows_v_and_x_0_only():
    schedule = cosine_schedule(50, max_beta=1.0)
    with pytest.raises(ValueError, match=r"must be 'v' or 'x_0' for a schedule .* 0, got 'eps'"):
        Denoiser(wave, schedule, "eps")
    x_T, t = normal(2, 1, 3), torch.tensor([49, 49])
    for prediction_type, x_0 in (("v", -wave(x_T, t)), ("x_0", wave(x_T, t))):
        denoise = Denoiser(wave, schedule, prediction_type, clip=None)
        assert gap(denoise(x_T, t).x_0, x_0) < 1e-15
        assert sample_ddpm(denoise, x_T.shape, 7, x_T, generator()).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction_type": "epsilon"}, "must be 'eps', 'x_0' or 'v', got 'epsilon'"),
        ({"prediction_type": None}, "must be 'eps', 'x_0' or 'v', got None"),
        ({"clip": (1, -1)}, "clip must be (low, high) with low < high, or None, got (1, -1)"),
        ({"clip": (1, 1)}, "clip must be (low, high) with low < high, or None, got (1, 1)"),
        ({"clip": (math.nan, 1)}, "clip must be (low, high) with low < high, or None, got (nan"),
    ],
)
def test_a_denoiser_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Denoiser(wave, linear_schedule(), **arguments)


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (1, 3, 4, 4), (2, 3, 4, 5), (2, 3), (2, 9, 4, 4)])
def test_a_model_whose_output_does_not_fit_is_refused(shape):
    denoise = Denoiser(lambda *_: torch.zeros(shape), linear_schedule())
    message = (
        "the model's output must be shaped like x_t, (2, 3, 4, 4), or have twice its channels, "
        f"got {shape}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        denoise(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))


BAD_BATCHES = [  # x_t, t, error, message
    (torch.ones(2, 1), [0.0, 1.0], TypeError, "t must be int64, got torch.float32"),
    (torch.ones(2, 1).int(), [0, 1], TypeError, "must be a floating-point tensor"),
    (torch.ones(2, 1), [0, 1000], ValueError, "t must be int64 in [0, 1000), got max 1000"),
    (torch.ones(2, 1), [-1, 0], ValueError, "t must be int64 in [0, 1000), got min -1"),
    (torch.ones(2, 1), [0], ValueError, "shape (2,), got (1,)"),
    (torch.ones(0, 1), [0], ValueError, "at least one item, got shape (0, 1)"),
]


@pytest.mark.parametrize(("x_t", "t", "error", "message"), BAD_BATCHES)
def test_a_batch_or_t_that_does_not_fit_is_refused(x_t, t, error, message):
    schedule, t = linear_schedule(), torch.tensor(t)
    with pytest.raises(error, match=re.escape(message)):
        Denoiser(wave, schedule)(x_t, t)
    with pytest.raises(error, match=re.escape(message)):
        posterior(x_t, x_t, t, schedule)


# --- the posterior ---


@each_schedule
@pytest.mark.parametrize("t", [1, 2, 10, 60, 98, 99])
def test_the_posterior_is_bayes_rule_on_a_grid(make, t):
    schedule = make(100)
    x_0, noise = torch.tensor([[[0.4]], [[-1.5]]], dtype=torch.float64)
    x_t, _ = forward_diffusion(x_0, torch.tensor([t]), schedule, noise)

    variance = 1 - schedule.alphas_cumprod_prev[t]  # of q(x_{t-1} | x_0)
    centre = (1 - variance).sqrt() * x_0[0]
    x = centre + 12 * variance.sqrt() * torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    log_prior = -((x - centre) ** 2) / (2 * variance)
    log_likelihood = -((x_t[0] - schedule.alphas[t].sqrt() * x) ** 2) / (2 * schedule.betas[t])
    weights = (log_prior + log_likelihood).softmax(0)
    expected_mean = (weights * x).sum()
    expected_variance = (weights * (x - expected_mean) ** 2).sum()

    mean, variance = posterior(x_0, x_t, torch.tensor([t]), schedule)
    assert abs(mean - expected_mean) < 1e-9
    assert abs(variance / expected_variance - 1) < 1e-9


@each_schedule
@given(n_steps=st.integers(21, 1000))
@quick
def test_the_posterior_leads_from_one_marginal_to_the_one_before(make, n_steps):
    # E over q(x_t | x_0) of the posterior is q(x_{t-1} | x_0): its mean and its variance.
    schedule, t = make(n_steps), torch.arange(n_steps)
    one, zero = torch.ones(n_steps, 1, dtype=torch.float64), torch.zeros(n_steps, 1).double()
    weight_0, variance = posterior(one, zero, t, schedule)
    weight_t, _ = posterior(zero, one, t, schedule)
    a_bar, a_bar_prev = schedule.alphas_cumprod[:, None], schedule.alphas_cumprod_prev[:, None]
    assert gap(weight_0 + weight_t * a_bar.sqrt(), a_bar_prev.sqrt()) < 1e-10
    assert gap(weight_t**2 * (1 - a_bar) + variance, 1 - a_bar_prev) < 1e-10


def test_before_the_first_step_stands_the_data():
    x_0, x_t = normal(2, 3, 1, 4, 4).unbind()
    mean, variance = posterior(x_0, x_t, torch.zeros(3, dtype=torch.int64), linear_schedule())
    assert gap(mean, x_0) < 1e-12
    assert torch.equal(variance, torch.zeros(3, 1, 1, 1, dtype=torch.float64))


@each_schedule
def test_the_mean_of_algorithm_2_is_the_posterior_mean_of_the_predicted_x_0(make):
    schedule, t = make(1000), torch.arange(0, 1000, 27)
    x_t = normal(len(t), 1, 4)
    x_0 = Denoiser(wave, schedule, "eps", clip=None)(x_t, t).x_0
    mean, _ = posterior(x_0, x_t, t, schedule)
    beta, alpha, a_bar = (
        column(values, t, x_t)
        for values in (schedule.betas, schedule.alphas, schedule.alphas_cumprod)
    )
    eps = wave(x_t, t)
    assert gap(mean, (x_t - beta / (1 - a_bar).sqrt() * eps) / alpha.sqrt()) < 1e-10


def test_a_posterior_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"x_0 must be shaped like x_t, \(2, 1\), got \(2, 3\)"):
        posterior(torch.ones(2, 3), torch.ones(2, 1), torch.tensor([0, 1]), linear_schedule())


# --- fewer steps ---


@given(st.integers(1, 1500), st.data())
@settings(max_examples=200, deadline=None)
def test_trailing_timesteps_are_even_and_start_from_noise(n_train_steps, data):
    n_steps = data.draw(st.integers(1, n_train_steps))
    timesteps = trailing_timesteps(n_train_steps, n_steps)
    assert timesteps.dtype == torch.int64
    assert timesteps.shape == (n_steps,)
    assert timesteps[0] >= 0
    assert timesteps[-1] == n_train_steps - 1
    strides = set(timesteps.diff().tolist())
    assert strides <= {n_train_steps // n_steps, math.ceil(n_train_steps / n_steps)}


@pytest.mark.parametrize("n_steps", [1, 3, 4, 10, 30, 50, 250, 400, 999, 1000])
def test_trailing_timesteps_are_those_of_diffusers(n_steps):
    scheduler = oracle(linear_schedule())
    scheduler.set_timesteps(n_steps)
    assert trailing_timesteps(1000, n_steps).tolist() == scheduler.timesteps.tolist()[::-1]


def test_the_previous_timestep_is_the_next_of_the_sequence_not_a_constant_away():
    strides = trailing_timesteps(1000, 30).diff()
    assert (strides != 1000 // 30).sum() == 10  # of 29
    assert (trailing_timesteps(1000, 50).diff() == 1000 // 50).all()


@pytest.mark.parametrize(("n_train_steps", "n_steps"), [(1000, 0), (1000, 1001), (5, -1)])
def test_n_steps_out_of_range_is_refused(n_train_steps, n_steps):
    message = rf"n_steps must lie in \[1, {n_train_steps}\], got {n_steps}"
    with pytest.raises(ValueError, match=message):
        trailing_timesteps(n_train_steps, n_steps)


@each_schedule
@given(st.sets(st.integers(0, 99), min_size=1), st.data())
@quick
def test_a_respaced_chain_visits_the_same_noise_levels(make, kept, data):
    schedule, timesteps = make(100), torch.tensor(sorted(kept))
    chain = respace(schedule, timesteps)
    a_bar = schedule.alphas_cumprod[timesteps]
    assert gap(chain.alphas_cumprod / a_bar, torch.ones_like(a_bar)) < 1e-9
    assert chain.alphas_cumprod_prev[0] == 1  # the last step goes all the way to the data
    # Kept in two goes or in one: the same chain.
    again = torch.tensor(sorted(data.draw(st.sets(st.integers(0, len(kept) - 1), min_size=1))))
    twice, once = respace(chain, again), respace(schedule, timesteps[again])
    assert gap(twice.betas, once.betas) < 1e-10


@each_schedule
def test_a_chain_that_keeps_all_timesteps_is_the_schedule(make):
    schedule = make(1000)
    assert gap(respace(schedule, torch.arange(1000)).betas, schedule.betas) < 1e-12


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        (torch.tensor([]), "must be int64 of shape (n,) with n >= 1, got torch.float32"),
        (torch.tensor([]).long(), "with n >= 1, got torch.int64 of shape (0,)"),
        (torch.tensor([[1, 2]]), "got torch.int64 of shape (1, 2)"),
        (torch.tensor([1, 1]), "must be strictly ascending in [0, 1000), got [1, 1]"),
        (torch.tensor([2, 1]), "must be strictly ascending in [0, 1000), got [2, 1]"),
        (torch.tensor([5, 1000]), "must be strictly ascending in [0, 1000), got [5, 1000]"),
        (torch.tensor([-1, 5]), "must be strictly ascending in [0, 1000), got [-1, 5]"),
    ],
)
def test_timesteps_that_make_no_chain_are_refused(timesteps, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        respace(linear_schedule(), timesteps)


# --- the chain ---


@each_type
@each_clip
@each_variance
@each_schedule
def test_one_step_equals_that_of_diffusers(prediction_type, clip, variance, make):
    schedule = make(1000)
    scheduler = oracle(
        schedule,
        prediction_type=ORACLE_NAMES[prediction_type],
        clip_sample=clip is not None,
        variance_type=ORACLE_VARIANCES[variance],
    )
    for t in (0, 1, 2, 10, 100, 500, 900, 998, 999):
        x_t = normal(3, 2, 4, seed=t)
        # The first step of the chain that ends at t.
        denoise = Denoiser(wave, respace(schedule, torch.arange(t + 1)), prediction_type, clip=clip)
        steps = ddpm_steps(denoise, x_t.shape, x_T=x_t, generator=generator(t), variance=variance)
        output = wave(x_t, torch.full((3,), t))
        expected = scheduler.step(output, t, x_t, generator(t))
        got = next(steps)
        assert got.t == t
        assert gap(got.x, expected.prev_sample) < 1e-10
        assert gap(got.x_0, expected.pred_original_sample) < 1e-10


@each_variance
@each_schedule
@pytest.mark.parametrize("n_steps", [1, 10, 30])  # 30 does not divide 1000
def test_every_step_of_a_shorter_chain_equals_that_of_diffusers(variance, make, n_steps):
    schedule = make(1000)
    scheduler = oracle(schedule, variance_type=ORACLE_VARIANCES[variance])
    scheduler.set_timesteps(n_steps)
    x, theirs = normal(3, 2, 4), generator(1)
    steps = list(
        ddpm_steps(Denoiser(wave, schedule), x.shape, n_steps, x, generator(1), variance=variance)
    )
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    for step in steps:
        expected = scheduler.step(wave(x, torch.full((3,), step.t)), step.t, x, theirs)
        assert gap(step.x_0, expected.pred_original_sample) < 1e-10
        x = step.x
        if step is not steps[-1]:
            assert gap(x, expected.prev_sample) < 1e-10
    # diffusers leaves out the noise only at t = 0, which trailing timesteps do not contain:
    # its last step is no oracle. Nothing may be added to x_0 there.
    assert gap(x, steps[-1].x_0) < 1e-12
    if variance == "beta":
        assert gap(expected.prev_sample, expected.pred_original_sample) > 0.1


@each_variance
def test_the_chain_is_the_naive_loop_of_algorithm_2(variance):
    schedule, draw = linear_schedule(50), generator(3)
    betas = schedule.betas.tolist()
    x = x_T = normal(2, 1, 4, 4)
    for t in reversed(range(50)):
        beta, alpha = betas[t], 1 - betas[t]
        a_bar = math.prod(1 - b for b in betas[: t + 1])
        a_bar_prev = math.prod(1 - b for b in betas[:t])
        eps = wave(x, torch.full((2,), t))
        x = (x - beta / math.sqrt(1 - a_bar) * eps) / math.sqrt(alpha)
        if t > 0:
            z = torch.randn(x.shape, dtype=x.dtype, generator=draw)
            beta_tilde = beta * (1 - a_bar_prev) / (1 - a_bar)
            x = x + math.sqrt(beta if variance == "beta" else beta_tilde) * z
    denoise = Denoiser(wave, schedule, clip=None)
    samples = sample_ddpm(denoise, x.shape, x_T=x_T, generator=generator(3), variance=variance)
    assert gap(samples, x) < 1e-10


def test_the_model_is_asked_at_the_timesteps_it_was_trained_on():
    seen = []

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        seen.append(t.tolist())
        return x_t

    steps = list(ddpm_steps(Denoiser(model, linear_schedule()), (2, 1), n_steps=3))
    assert [step.t for step in steps] == [999, 666, 332]
    assert seen == [[999, 999], [666, 666], [332, 332]]
    seen.clear()
    steps = list(ddpm_steps(Denoiser(model, linear_schedule(50)), (2, 1)))
    assert [step.t for step in steps] == list(reversed(range(50)))
    assert seen == [[t, t] for t in reversed(range(50))]


@each_variance
@pytest.mark.parametrize("n_steps", [1, 2, 7, None])
def test_no_noise_is_added_in_the_last_step(variance, n_steps):
    used, expected = generator(), generator()
    denoise = Denoiser(wave, linear_schedule(50))
    *_, final = ddpm_steps(denoise, (2, 1, 3), n_steps, generator=used, variance=variance)
    assert gap(final.x, final.x_0) < 1e-6  # x is the mean, and the mean is x_0
    for _ in range(n_steps or 50):  # x_T, and once for every step but the last
        torch.randn(2, 1, 3, generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


def test_the_plain_form_is_the_last_x_of_the_steps():
    denoise = Denoiser(wave, linear_schedule(50))
    steps = list(ddpm_steps(denoise, (2, 1, 3), 5, generator=generator(), variance="beta"))
    plain = sample_ddpm(denoise, (2, 1, 3), 5, generator=generator(), variance="beta")
    assert torch.equal(plain, steps[-1].x)
    assert torch.equal(last(iter(steps)), steps[-1].x)


def test_variance_channels_do_not_change_an_ancestral_sample():
    def learned(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        return torch.cat([wave(x_t, t), 5 * x_t], dim=1)

    plain, with_variance = (
        sample_ddpm(Denoiser(model, linear_schedule(50)), (2, 3, 4), generator=generator())
        for model in (wave, learned)
    )
    assert torch.equal(plain, with_variance)


@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=5),
    st.sampled_from(DTYPES),
    st.sampled_from([linear_schedule, cosine_schedule]),
    st.integers(21, 1000),
    st.integers(1, 6),
)
@quick
def test_samples_keep_shape_dtype_and_range_for_any_x_T(shape, dtype, make, n_train, n_steps):  # noqa: N802
    x_T = torch.randn(shape, generator=generator()).to(dtype)
    denoise = Denoiser(wave, make(n_train))
    for step in ddpm_steps(denoise, shape, n_steps, x_T, generator()):
        assert step.x.shape == step.x_0.shape == tuple(shape)
        assert step.x.dtype == step.x_0.dtype == dtype
        assert step.x_0.abs().max() <= 1
    assert step.x.abs().max() <= 1 + 1e-6


def test_randomness_comes_from_the_generator_alone():
    denoise = Denoiser(wave, linear_schedule(50))
    before = torch.get_rng_state()
    one, same, other = (
        sample_ddpm(denoise, (2, 1, 3), 5, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert gap(one, other) > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_inputs_are_left_as_they_were():
    schedule, x_T = linear_schedule(50), normal(2, 1, 3)
    before = [schedule.betas.clone(), x_T.clone()]
    steps = list(ddpm_steps(Denoiser(wave, schedule), x_T.shape, 5, x_T))
    assert gap(schedule.betas, before[0]) == gap(x_T, before[1]) == 0
    # Nor do two steps share memory: a list of steps is a trajectory.
    assert len({step.x.data_ptr() for step in steps} | {x_T.data_ptr()}) == len(steps) + 1


def test_no_gradient_is_kept_and_the_callers_mode_stays():
    model = UNet(channels=(8,))
    denoise = Denoiser(model, linear_schedule(50))
    x_T = torch.zeros(1, 1, 4, 4, requires_grad=True)
    prediction = denoise(x_T, torch.tensor([3]))
    assert not prediction.x_0.requires_grad
    assert not prediction.eps.requires_grad
    for step in ddpm_steps(denoise, x_T.shape, 3, x_T):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad
        assert not step.x_0.requires_grad
    assert not sample_ddpm(denoise, x_T.shape, 3, x_T).requires_grad


def test_start_is_the_generators_noise_or_what_is_given():
    x_T = start((2, 1, 3), generator=generator(4))
    assert torch.equal(x_T, torch.randn(2, 1, 3, generator=generator(4)))
    assert start((2, 1, 3), x_T) is x_T


# --- a variance that is a function ---


def with_fraction(fraction: float):
    """The model without meaning, and v for a fraction between beta_tilde (0) and beta (1)."""
    return lambda x_t, t, context: torch.cat(
        [wave(x_t, t), torch.full_like(x_t, 2 * fraction - 1)], dim=1
    )


@each_schedule
@pytest.mark.parametrize("n_steps", [2, 30, 1000])
@pytest.mark.parametrize(("fraction", "variance"), [(0.0, "beta_tilde"), (1.0, "beta")])
def test_the_ends_of_a_learned_variance_are_the_fixed_ones(make, n_steps, fraction, variance):
    """Of the shorter chain's betas, not of those that the model was trained with."""
    denoise, x_T = Denoiser(with_fraction(fraction), make(1000)), normal(2, 1, 3)
    learned = sample_ddpm(denoise, x_T.shape, n_steps, x_T, generator(), variance=learned_variance)
    fixed = sample_ddpm(denoise, x_T.shape, n_steps, x_T, generator(), variance=variance)
    assert gap(learned, fixed) < 1e-10


def test_a_variance_that_is_a_function_gets_the_fraction_and_the_step_of_the_shorter_chain():
    seen = []

    def variance(fraction: Tensor | None, index: Tensor, chain: NoiseSchedule) -> Tensor:
        assert torch.equal(index, torch.full((2,), 3 - len(seen)))
        assert chain.n_steps == 4
        assert gap(fraction, torch.full((2, 1, 3), 0.25).double()) < 1e-15
        seen.append(torch.full_like(fraction, 0.01 * (len(seen) + 1)))
        return seen[-1]

    schedule, x_T = cosine_schedule(), normal(2, 1, 3)
    denoise = Denoiser(with_fraction(0.25), schedule)
    steps = list(ddpm_steps(denoise, x_T.shape, 4, x_T, generator(), variance=variance))
    assert len(seen) == 3  # nothing is added in the last step, so nothing is asked
    chain, draw, x = respace(schedule, torch.tensor([249, 499, 749, 999])), generator(), x_T
    for i, (step, spread) in enumerate(zip(steps, seen, strict=False)):
        mean, _ = posterior(step.x_0, x, torch.full((2,), 3 - i), chain)
        noise = torch.randn(x.shape, dtype=x.dtype, generator=draw)
        assert gap(step.x, mean + spread.sqrt() * noise) < 1e-12
        x = step.x


@each_schedule
@pytest.mark.parametrize("n_steps", [2, 10, 50])
def test_with_the_true_variance_a_normal_is_drawn_exactly_in_any_number_of_steps(make, n_steps):
    """beta_tilde, and w_0^2 Var(x_0 | x_t) for what is not known of x_0.

    With it p is q(x_{t-1} | x_t), so that only the last step, which adds no noise, falls short of
    the variance of the data: by Var(x_0 | x_t) of the last t.
    """
    std, n_samples, schedule = 0.5, 40_000, make(1000)
    chain = respace(schedule, trailing_timesteps(1000, n_steps))
    a_bar = chain.alphas_cumprod
    unknown = std**2 * (1 - a_bar) / (a_bar * std**2 + 1 - a_bar)  # Var(x_0 | x_t)
    weight_0 = chain.alphas_cumprod_prev.sqrt() * chain.betas / (1 - a_bar)
    true = chain.posterior_variance + weight_0**2 * unknown
    low = posterior_log_variance(chain)
    fraction = (true.log() - low) / (chain.betas.log() - low)
    index_of = {int(t): i for i, t in enumerate(trailing_timesteps(1000, n_steps))}

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        i = torch.tensor([index_of[int(step)] for step in t[:1]]).expand(len(t))
        k = column(a_bar.sqrt() * std**2 / (a_bar * std**2 + 1 - a_bar), i, x_t)
        return torch.cat([k * x_t, (2 * column(fraction, i, x_t) - 1).expand_as(x_t)], dim=1)

    denoise = Denoiser(model, schedule, "x_0", clip=None)
    x_T = normal(n_samples, 1, seed=1) * (a_bar[-1] * std**2 + 1 - a_bar[-1]).sqrt()
    x = sample_ddpm(denoise, x_T.shape, n_steps, x_T, generator(), variance=learned_variance)
    expected = (std**2 - unknown[0]).sqrt().item()
    assert abs(x.std() / expected - 1) < 4 / math.sqrt(2 * n_samples)
    others = [
        sample_ddpm(denoise, x_T.shape, n_steps, x_T, generator(), variance=variance).std()
        for variance in ("beta_tilde", "beta")
    ]
    if n_steps == 10:
        assert others[0] < (1 - 8 / math.sqrt(2 * n_samples)) * x.std() < x.std() < others[1]


def test_a_learned_variance_of_a_model_that_learned_none_is_refused():
    denoise = Denoiser(wave, linear_schedule(50))
    message = "variance must be 'beta' or 'beta_tilde': this model learned none"
    with pytest.raises(ValueError, match=message):
        sample_ddpm(denoise, (2, 1), variance=learned_variance)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 1), {"n_steps": 0}, "n_steps must lie in [1, 50], got 0"),
        ((2, 1), {"n_steps": 51}, "n_steps must lie in [1, 50], got 51"),
        ((2, 1), {"n_steps": -3}, "n_steps must lie in [1, 50], got -3"),
        ((2, 1), {"variance": "learned"}, "must be 'beta_tilde' or 'beta', got 'learned'"),
        ((2, 1), {"variance": None}, "must be 'beta_tilde' or 'beta', got None"),
        ((2, 1), {"x_T": torch.ones(1, 2)}, "x_T must have the given shape (2, 1), got (1, 2)"),
        ((2, 1), {"x_T": torch.ones(2, 1, 1)}, "the given shape (2, 1), got (2, 1, 1)"),
        ((0, 1, 8), {}, "shape must be (B, C, *space), each at least 1, got (0, 1, 8)"),
        ((2, 1, 0), {}, "shape must be (B, C, *space), each at least 1, got (2, 1, 0)"),
        ((2,), {}, "shape must be (B, C, *space)"),
        ((), {}, "shape must be (B, C, *space)"),
        ((-2, 1, 8), {}, "shape must be (B, C, *space)"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(shape, arguments, message):
    denoise = Denoiser(wave, linear_schedule(50))
    with pytest.raises(ValueError, match=re.escape(message)):
        sample_ddpm(denoise, shape, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        next(ddpm_steps(denoise, shape, **arguments))


def test_noise_must_be_floating_point():
    with pytest.raises(TypeError, match=r"must be a floating-point tensor .*got torch.int64"):
        sample_ddpm(Denoiser(wave, linear_schedule(50)), (2, 1), x_T=torch.ones(2, 1).long())


def test_wrong_labels_are_refused_in_the_middle_of_a_chain():
    model = UNet(channels=(8,), n_classes=3)
    denoise = Denoiser(model, linear_schedule(50), context={"labels": torch.tensor([1])})
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(2,\)"):
        sample_ddpm(denoise, (2, 1, 4, 4), n_steps=2)


# --- data whose best denoiser is known ---

MEAN, STD = 0.3, 0.5


def best_for_a_normal(schedule: NoiseSchedule, prediction_type: str):
    """The optimal model for data N(0.3, 0.5^2), from eps = -sqrt(1 - a_bar) grad log q(x_t)."""

    def model(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        a_bar = column(schedule.alphas_cumprod, t, x_t)
        variance = a_bar * STD**2 + 1 - a_bar  # of x_t
        eps = (1 - a_bar).sqrt() * (x_t - a_bar.sqrt() * MEAN) / variance
        x_0 = (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()
        v = a_bar.sqrt() * eps - (1 - a_bar).sqrt() * x_0
        return {"eps": eps, "x_0": x_0, "v": v}[prediction_type]

    return model


def moments_of_the_chain(schedule: NoiseSchedule, variance: str) -> tuple[float, float]:
    """Mean and standard deviation that a chain of so many steps has with that model, exactly."""
    mean, spread = 0.0, 1.0  # of x_T
    for t in reversed(range(schedule.n_steps)):
        beta, a_bar = schedule.betas[t].item(), schedule.alphas_cumprod[t].item()
        slope = 1 - beta / (a_bar * STD**2 + 1 - a_bar)  # algorithm 2 with eps put in
        shift = beta * math.sqrt(a_bar) * MEAN / (a_bar * STD**2 + 1 - a_bar)
        noise = beta if variance == "beta" else schedule.posterior_variance[t].item()
        mean = (slope * mean + shift) / math.sqrt(1 - beta)
        spread = slope**2 * spread / (1 - beta) + (noise if t > 0 else 0)
    return mean, math.sqrt(spread)


@each_variance
@pytest.mark.parametrize("n_steps", [50, 500])
def test_samples_have_the_moments_of_the_data(variance, n_steps):
    schedule, n_samples = linear_schedule(n_steps), 10_000
    denoise = Denoiser(best_for_a_normal(schedule, "eps"), schedule, clip=None)
    x = sample_ddpm(denoise, (n_samples, 1), generator=generator(), variance=variance)
    mean, std = moments_of_the_chain(schedule, variance)
    assert abs(x.mean().item() - mean) < 4 * std / math.sqrt(n_samples)
    assert abs(x.std().item() - std) < 4 * std / math.sqrt(2 * n_samples)
    assert abs(mean - MEAN) < 1e-4
    assert abs(std - STD) < 5 / n_steps  # what the finite number of steps costs
    assert (std < STD) == (variance == "beta_tilde")  # the true variance lies between the two


@each_schedule
def test_all_prediction_types_draw_the_same_samples(make):
    schedule = make(50)
    eps, x_0, v = (
        sample_ddpm(
            Denoiser(best_for_a_normal(schedule, prediction_type), schedule, prediction_type),
            (100, 1),
            x_T=normal(100, 1),
            generator=generator(),
        )
        for prediction_type in ORACLE_NAMES
    )
    assert gap(eps, x_0) < 1e-9
    assert gap(eps, v) < 1e-9


POINTS = torch.tensor([[-0.8, -0.5], [-0.1, 0.9], [0.2, -0.7], [0.6, 0.3], [0.9, 0.8]]).double()


def best_for_points(x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """E[x_0 | x_t] when the data are five points: their mean, weighted by q(x_t | point)."""
    a_bar = schedule.alphas_cumprod[t][:, None]  # (B, 1)
    offset = x_t[:, None] - a_bar.sqrt()[..., None] * POINTS  # (B, 5, 2)
    weights = (-offset.square().sum(-1) / (2 * (1 - a_bar))).softmax(dim=1)  # (B, 5)
    return weights @ POINTS


@each_schedule
def test_a_perfect_model_of_a_finite_data_set_memorises_it(make):
    schedule, n_samples = make(100), 2000
    model = lambda x_t, t, context: best_for_points(x_t, t, schedule)  # noqa: E731
    x = sample_ddpm(
        Denoiser(model, schedule, "x_0"),
        (n_samples, 2),
        x_T=normal(n_samples, 2),
        generator=generator(),
    )
    distance, nearest = torch.cdist(x, POINTS).min(dim=1)
    assert distance.max() < 1e-6
    share = nearest.bincount(minlength=5) / n_samples
    assert (share - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / n_samples)


@pytest.mark.parametrize(
    ("scale", "shift", "time_scale"),
    [(0.9, 0, 1), (1.1, 0, 1), (1, 0.1, 1), (1, 0, 0.5), (1, 0, 2), (0, 0, 1)],
)
def test_no_model_has_a_lower_loss_than_the_best(scale, shift, time_scale):
    schedule, n_items, g = linear_schedule(100), 20_000, generator()
    x_0 = POINTS[torch.randint(5, (n_items,), generator=g)]
    t = torch.randint(100, (n_items,), generator=g)
    x_t, noise = forward_diffusion(x_0, t, schedule, generator=g)
    best = best_for_points(x_t, t, schedule)
    wrong_t = (t * time_scale).long().clamp(max=99)
    other = scale * best_for_points(x_t, wrong_t, schedule) + shift

    def loss(output: Tensor) -> float:
        model = lambda *_: output  # noqa: E731
        return train_step(model, x_0, t, schedule, noise=noise, prediction_type="x_0").item()

    # E |f - x_0|^2 = E |f - best|^2 + E |best - x_0|^2: the rest is orthogonal.
    cross = (2 * (other - best) * (best - x_0)).mean(dim=1)
    standard_error = cross.std().item() / math.sqrt(n_items)
    excess = (other - best).square().mean().item()
    assert excess > 8 * standard_error
    assert abs(loss(other) - loss(best) - excess) < 4 * standard_error
