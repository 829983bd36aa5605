"""Chapter 07: DDIM, its inversion and DPM-Solver++ against mathematics and against diffusers."""

import math
import re
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from hypothesis import given
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
from minidiff.data import load_fashion
from minidiff.ddim import (
    ddim_invert,
    ddim_step,
    ddim_steps,
    dpm_solver_steps,
    sample_ddim,
    sample_dpm_solver,
    slerp,
)
from minidiff.ddpm import Denoiser, posterior, respace, sample_ddpm, trailing_timesteps
from minidiff.forward import NoiseSchedule, cosine_schedule, linear_schedule
from minidiff.unet import UNet
from minidiff.zoo import load

each_eta = pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])


def oracle(schedule: NoiseSchedule, **config: object) -> DDIMScheduler:
    """The scheduler of diffusers with float64 in place of its float32."""
    scheduler = DDIMScheduler(schedule.n_steps, timestep_spacing="trailing", **config)
    in_float64(scheduler, schedule)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def best_for_a_normal(schedule: NoiseSchedule, mean: float = 0.0, std: float = 0.5):
    """The optimal eps for data N(mean, std^2)."""

    def model(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        a_bar = column(schedule.alphas_cumprod, t, x_t)
        return (1 - a_bar).sqrt() * (x_t - a_bar.sqrt() * mean) / (a_bar * std**2 + 1 - a_bar)

    return model


# --- one step ---


@each_type
@each_clip
@each_eta
@each_schedule
def test_one_step_equals_that_of_diffusers(prediction_type, clip, eta, make):
    schedule = make(1000)
    scheduler = oracle(
        schedule, prediction_type=ORACLE_NAMES[prediction_type], clip_sample=clip is not None
    )
    scheduler.set_timesteps(1000)
    for t in (0, 1, 2, 10, 100, 500, 900, 998, 999):
        x_t, noise = normal(2, 3, 2, 4, seed=t).unbind()
        batch_t = torch.full((3,), t)
        x_0, eps, _ = Denoiser(wave, schedule, prediction_type, clip=clip)(x_t, batch_t)
        expected = scheduler.step(
            wave(x_t, batch_t), t, x_t, eta, use_clipped_model_output=True, variance_noise=noise
        )
        assert gap(ddim_step(x_0, eps, batch_t, schedule, eta, noise), expected.prev_sample) < 1e-10


@each_eta
@each_schedule
@pytest.mark.parametrize("n_steps", [1, 10, 50])  # divisors of 1000
def test_every_step_of_a_shorter_chain_equals_that_of_diffusers(eta, make, n_steps):
    schedule = make(1000)
    scheduler = oracle(schedule)
    scheduler.set_timesteps(n_steps)
    x, theirs = normal(3, 2, 4), generator(1)
    steps = list(ddim_steps(Denoiser(wave, schedule), x.shape, n_steps, eta, x, generator(1)))
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    for step in steps:
        noise = torch.zeros_like(x)
        if eta > 0 and step is not steps[-1]:
            noise = torch.randn(x.shape, dtype=x.dtype, generator=theirs)
        output = wave(x, torch.full((3,), step.t))
        x = scheduler.step(
            output, step.t, x, eta, use_clipped_model_output=True, variance_noise=noise
        ).prev_sample
        assert gap(step.x, x) < 1e-10


def test_the_previous_timestep_is_the_one_kept_before_and_no_constant_away():
    """Where n does not divide T, diffusers subtracts T // n: wrong in 10 of 29 steps for n = 30."""
    schedule, x = linear_schedule(), normal(3, 2, 4)
    scheduler = oracle(schedule)
    scheduler.set_timesteps(30)
    wrong, given = 0, x
    for step in ddim_steps(Denoiser(wave, schedule), x.shape, 30, x_T=x):
        theirs = scheduler.step(
            wave(given, torch.full((3,), step.t)), step.t, given, use_clipped_model_output=True
        ).prev_sample
        wrong += step.t > 32 and gap(step.x, theirs) > 1e-6
        given = step.x
    assert wrong == 10


def test_eps_is_that_of_the_clipped_x_0():
    """With the model's own eps, one step may differ by more than a pixel's whole range of 2."""
    schedule, x = cosine_schedule(), 3 * normal(50, 2)
    scheduler = oracle(schedule)
    scheduler.set_timesteps(10)
    t, i = torch.full((50,), 999), torch.full((50,), 9)
    x_0, eps, _ = Denoiser(wave, schedule)(x, t)
    ours = ddim_step(x_0, eps, i, respace(schedule, trailing_timesteps(1000, 10)))
    theirs = scheduler.step(wave(x, t), 999, x, use_clipped_model_output=False).prev_sample
    assert gap(ours, theirs) > 2


@each_eta
@given(st.integers(21, 300), st.data())
@quick
def test_a_step_leads_from_one_marginal_to_the_one_before(eta, n_steps, data):
    """Given the true x_0 and noise, x_prev has the mean and the variance of q(x_prev | x_0)."""
    schedule = data.draw(st.sampled_from([linear_schedule, cosine_schedule]))(n_steps)
    i = torch.arange(n_steps)
    one, zero = torch.ones(n_steps, 1, dtype=torch.float64), torch.zeros(n_steps, 1).double()
    signal = ddim_step(one, zero, i, schedule, eta, zero)
    of_eps = ddim_step(zero, one, i, schedule, eta, zero)
    of_noise = ddim_step(zero, zero, i, schedule, eta, one)
    a_bar_prev = schedule.alphas_cumprod_prev[:, None]
    assert gap(signal, a_bar_prev.sqrt()) < 1e-12
    assert gap(of_eps**2 + of_noise**2, 1 - a_bar_prev) < 1e-12
    assert gap(of_noise, eta * schedule.posterior_variance.sqrt()[:, None]) < 1e-12


@each_schedule
def test_with_eta_1_a_step_is_one_of_the_posterior(make):
    schedule, i = make(200), torch.arange(200)
    x_0, noise, fresh = normal(3, 200, 2).unbind()
    a_bar = schedule.alphas_cumprod[:, None]
    x_t = a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise
    mean, variance = posterior(x_0, x_t, i, schedule)
    assert (
        gap(ddim_step(x_0, noise, i, schedule, 1.0, fresh), mean + variance.sqrt() * fresh) < 1e-10
    )


@each_eta
def test_the_last_step_ends_at_the_predicted_data(eta):
    x_0, eps, noise = normal(3, 4, 1, 3).unbind()
    i = torch.zeros(4, dtype=torch.int64)
    assert gap(ddim_step(x_0, eps, i, linear_schedule(50), eta, noise), x_0) < 1e-12


# --- the whole loop ---


@each_schedule
@each_type
@pytest.mark.parametrize("n_steps", [7, 200])
def test_with_eta_1_it_is_ddpm(make, prediction_type, n_steps):
    denoise, x_T = Denoiser(wave, make(200), prediction_type), normal(2, 1, 4)
    ddim = sample_ddim(denoise, x_T.shape, n_steps, 1.0, x_T, generator(3))
    ddpm = sample_ddpm(denoise, x_T.shape, n_steps, x_T, generator(3), variance="beta_tilde")
    assert gap(ddim, ddpm) < 1e-10


def test_with_eta_0_only_the_start_decides():
    denoise, x_T = Denoiser(wave, linear_schedule(50)), normal(2, 1, 4)
    one, same = (sample_ddim(denoise, x_T.shape, 7, 0.0, x_T, generator(i)) for i in (1, 2))
    assert torch.equal(one, same)
    noisy, other = (sample_ddim(denoise, x_T.shape, 7, 0.2, x_T, generator(i)) for i in (1, 2))
    assert gap(noisy, other) > 1e-3
    used = generator(4)
    sample_ddim(denoise, (2, 1, 4), 7, generator=used)
    expected = generator(4)
    torch.randn(2, 1, 4, generator=expected)  # x_T and nothing else
    assert torch.equal(used.get_state(), expected.get_state())


def test_noise_is_drawn_in_every_step_but_the_last():
    used, expected = generator(), generator()
    *_, final = ddim_steps(Denoiser(wave, linear_schedule(50)), (2, 1, 3), 7, 0.5, generator=used)
    assert gap(final.x, final.x_0) < 1e-6
    for _ in range(7):  # x_T, and six times on the way
        torch.randn(2, 1, 3, generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


@given(st.sets(st.integers(0, 99), min_size=1), st.floats(0, 1))
@quick
def test_any_sub_sequence_is_walked(kept, eta):
    schedule, x_T = cosine_schedule(100), normal(2, 1, 3)
    timesteps, noises = torch.tensor(sorted(kept)), generator(5)
    denoise, x = Denoiser(wave, schedule), x_T
    got = list(ddim_steps(denoise, x.shape, 3, eta, x_T, generator(5), timesteps=timesteps))
    assert [step.t for step in got] == sorted(kept, reverse=True)
    before = [*sorted(kept)[:-1]][::-1]
    for n, t in enumerate(sorted(kept, reverse=True)):
        a_bar = schedule.alphas_cumprod[t]
        a_bar_prev = schedule.alphas_cumprod[before[n]] if n < len(before) else torch.ones(())
        sigma = eta * ((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev)).sqrt()  # eq. 16
        x_0, eps, _ = denoise(x, torch.full((2,), t))
        x = a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev - sigma**2).clamp(min=0).sqrt() * eps
        if eta > 0 and n < len(before):
            x = x + sigma * torch.randn(x.shape, dtype=x.dtype, generator=noises)
        assert gap(got[n].x, x) < 1e-8  # the root of a difference near 0 amplifies rounding


def test_trailing_timesteps_are_the_default():
    denoise, x_T = Denoiser(wave, linear_schedule()), normal(2, 1, 3)
    timesteps = trailing_timesteps(1000, 30)
    given = sample_ddim(denoise, x_T.shape, x_T=x_T, timesteps=timesteps)
    assert torch.equal(given, sample_ddim(denoise, x_T.shape, 30, x_T=x_T))


SAMPLERS = {
    "ddim": (ddim_steps, sample_ddim),
    "dpm_solver": (dpm_solver_steps, sample_dpm_solver),
}
each_sampler = pytest.mark.parametrize(("steps", "sample"), SAMPLERS.values(), ids=SAMPLERS)


@each_sampler
def test_the_model_is_asked_once_a_step_at_the_timesteps_it_was_trained_on(steps, sample):
    seen = []

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        seen.append(t.tolist())
        return x_t

    left = [step.t for step in steps(Denoiser(model, linear_schedule()), (2, 1), n_steps=3)]
    assert left == [999, 666, 332]
    assert seen == [[t, t] for t in left]


@each_sampler
def test_the_plain_form_is_the_last_x_of_the_steps(steps, sample):
    denoise = Denoiser(wave, linear_schedule(50))
    *_, final = steps(denoise, (2, 1, 3), 5, generator=generator())
    assert torch.equal(sample(denoise, (2, 1, 3), 5, generator=generator()), final.x)


@each_sampler
@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=5),
    st.sampled_from(DTYPES),
    st.sampled_from([linear_schedule, cosine_schedule]),
    st.integers(21, 1000),
    st.integers(1, 6),
)
@quick
def test_samples_keep_shape_dtype_and_range(steps, sample, shape, dtype, make, n_train, n_steps):
    x_T = torch.randn(shape, generator=generator()).to(dtype)
    for step in steps(Denoiser(wave, make(n_train)), shape, n_steps, x_T=x_T):
        assert step.x.shape == step.x_0.shape == tuple(shape)
        assert step.x.dtype == step.x_0.dtype == dtype
    assert step.x.abs().max() <= 1 + 1e-6


@each_sampler
def test_inputs_modes_and_global_seeds_are_left_alone(steps, sample):
    model, before = UNet(channels=(8,)), torch.get_rng_state()
    denoise, x_T = Denoiser(model, linear_schedule(50)), torch.zeros(1, 1, 4, 4, requires_grad=True)
    taken = []
    for step in steps(denoise, x_T.shape, 3, x_T=x_T, generator=generator()):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad
        taken.append(step.x)
    assert len({x.data_ptr() for x in [x_T, *taken]}) == 4
    assert not sample(denoise, x_T.shape, 3, x_T=x_T).requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert x_T.abs().max() == 0


@each_sampler
def test_labels_and_learned_variances_pass_through(steps, sample):
    def learned(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        shift = context["labels"].view(-1, 1, 1)
        return torch.cat([wave(x_t, t) + shift, 5 * x_t], dim=1)

    def plain(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        return learned(x_t, t, context)[:, : x_t.shape[1]]

    one, same, other = (
        sample(
            Denoiser(model, linear_schedule(50), context={"labels": torch.tensor(labels)}),
            (2, 3, 4),
            5,
            generator=generator(),
        )
        for model, labels in ((learned, [0, 1]), (plain, [0, 1]), (plain, [0, 2]))
    )
    assert torch.equal(one, same)
    assert torch.equal(one[0], other[0])
    assert gap(one[1], other[1]) > 1e-3


# --- data whose best denoiser is known: N(0, 0.5^2) ---


def widths(n_steps: int, sampler=sample_ddim, **options) -> float:
    """Standard deviation of samples over that of the data, exactly: the map is linear in x_T."""
    schedule = linear_schedule()
    denoise = Denoiser(best_for_a_normal(schedule), schedule, clip=None)
    x_T = torch.ones(1, 1, dtype=torch.float64)
    return sampler(denoise, (1, 1), n_steps, x_T=x_T, **options).item() / 0.5


@pytest.mark.parametrize(("n_steps", "ratio"), [(10, 0.74), (50, 0.943), (1000, 0.997)])
def test_how_wide_samples_of_a_normal_are(n_steps, ratio):
    assert abs(widths(n_steps) - ratio) < (0.005 if n_steps == 10 else 0.0005)


def test_mean_and_width_of_many_samples_are_right():
    schedule, n = linear_schedule(), 20_000
    denoise = Denoiser(best_for_a_normal(schedule, mean=0.3), schedule, clip=None)
    for sampler, options in ((sample_ddim, {"eta": 0.5}), (sample_dpm_solver, {})):
        x = sampler(denoise, (n, 1), 200, generator=generator(), **options)
        assert abs(x.mean() - 0.3) < 4 * 0.5 / math.sqrt(n)
        assert abs(x.std() / 0.5 - 1) < 0.02 + 4 / math.sqrt(
            2 * n
        )  # 200 steps, not infinitely many


def errors_at(t: int, counts: list[int], steps, **options) -> list[float]:
    """|x_t - exact| after walking from T - 1 down to t, for N(0, 0.5^2) and x_T = 1.

    The path of one point keeps its quantile: x_t is proportional to the standard deviation of x_t.
    """
    schedule = linear_schedule(10_000)  # so fine that a step is a step of the continuous path
    denoise = Denoiser(best_for_a_normal(schedule), schedule, clip=None)
    x_T, errors = torch.ones(1, 1, dtype=torch.float64), []
    std = (schedule.alphas_cumprod * 0.25 + 1 - schedule.alphas_cumprod).sqrt()
    for n in counts:
        path = list(steps(denoise, (1, 1), n, x_T=x_T, **options))
        (here,) = (a for a, b in pairwise(path) if b.t == t)
        errors.append((here.x - std[t] / std[-1]).abs().item())
    return errors


@pytest.mark.parametrize(
    ("steps", "options", "order"),
    [
        (ddim_steps, {}, 1),
        (dpm_solver_steps, {"order": 1}, 1),
        (dpm_solver_steps, {"order": 2}, 2),
    ],
)
def test_the_order_of_convergence(steps, options, order):
    """Twice the steps, half the error in order 1, a quarter in order 2; measured to a fixed t."""
    errors = errors_at(1999, [100, 200, 400], steps, **options)
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.2


# --- DPM-Solver++ ---


@each_schedule
@each_type
@each_clip
def test_order_1_is_ddim(make, prediction_type, clip):
    denoise, x_T = Denoiser(wave, make(1000), prediction_type, clip=clip), normal(2, 1, 4)
    if clip is None:  # a wild model unclipped is amplified 20,291-fold; it must be a tame one
        denoise = Denoiser(lambda x_t, t, _: 0.01 * wave(x_t, t), make(1000), "x_0", clip=None)
    for n_steps in (1, 7, 30, 1000):
        solver = sample_dpm_solver(denoise, x_T.shape, n_steps, 1, x_T)
        assert gap(solver, sample_ddim(denoise, x_T.shape, n_steps, x_T=x_T)) < 1e-10


@pytest.mark.parametrize("n_steps", [5, 20, 30])
@pytest.mark.parametrize(
    ("make", "prediction_type"),
    # Not cosine and eps: the oracle's float32 errs by 2^-24, and 20,291 times that is over 1e-4.
    [(linear_schedule, "eps"), (linear_schedule, "v"), (cosine_schedule, "v")],
)
def test_2m_is_that_of_diffusers(n_steps, make, prediction_type):
    schedule = make(1000)
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=schedule.betas.numpy(),
        prediction_type=ORACLE_NAMES[prediction_type],
        timestep_spacing="trailing",
        solver_order=2,
    )
    scheduler.set_timesteps(n_steps)

    def model(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        """The noise in data N(0, 0.5^2), in the terms of the scheduler; float32 loses little."""
        eps, a_bar = best_for_a_normal(schedule)(x_t, t), column(schedule.alphas_cumprod, t, x_t)
        if prediction_type == "eps":
            return eps
        x_0 = a_bar.sqrt() * 0.25 * x_t / (a_bar * 0.25 + 1 - a_bar)
        return a_bar.sqrt() * eps - (1 - a_bar).sqrt() * x_0

    x_T = normal(3, 2, 4)
    denoise = Denoiser(model, schedule, prediction_type, clip=None)
    steps = list(dpm_solver_steps(denoise, x_T.shape, n_steps, x_T=x_T))
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    x = x_T
    for step in steps:
        x = scheduler.step(model(x, torch.full((3,), step.t)), step.t, x).prev_sample
        assert gap(step.x, x.double()) < 1e-4


def test_zero_terminal_snr_is_walked_with_v():
    schedule, x_T = cosine_schedule(50, max_beta=1.0), normal(2, 1, 3)
    denoise = Denoiser(wave, schedule, "v")
    solver = sample_dpm_solver(denoise, x_T.shape, 7, 1, x_T)
    assert gap(solver, sample_ddim(denoise, x_T.shape, 7, x_T=x_T)) < 1e-10
    assert sample_dpm_solver(denoise, x_T.shape, 7, 2, x_T).isfinite().all()


# --- inversion ---


def test_data_and_noise_are_found_again():
    """For N(0, 0.5^2) there and back is the identity up to a step's error, which halves."""
    schedule = linear_schedule()
    denoise, x_0 = Denoiser(best_for_a_normal(schedule), schedule, clip=None), normal(5, 1, 3)
    errors = []
    for n_steps in (100, 200, 400):
        x_T = ddim_invert(denoise, x_0, n_steps)
        errors.append(gap(sample_ddim(denoise, x_0.shape, n_steps, x_T=x_T), x_0))
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - 1) < 0.2


def test_the_noise_found_is_that_of_the_exact_path():
    """A point keeps its quantile: data of N(0, 0.5^2) divided by its width at the end."""
    schedule = linear_schedule()
    denoise, x_0 = Denoiser(best_for_a_normal(schedule), schedule, clip=None), normal(5, 1, 3)
    a_bar = schedule.alphas_cumprod[-1]
    expected = x_0 / 0.5 * (a_bar * 0.25 + 1 - a_bar).sqrt()
    assert gap(ddim_invert(denoise, x_0, 1000) / expected, torch.ones_like(x_0)) < 0.02
    assert gap(ddim_invert(denoise, x_0, 100) / expected, torch.ones_like(x_0)) < 0.1


def test_a_model_that_sees_no_noise_is_inverted_exactly():
    schedule, x_0 = cosine_schedule(), normal(2, 1, 3)
    denoise = Denoiser(lambda x_t, *_: torch.zeros_like(x_t), schedule, clip=None)
    x_T = ddim_invert(denoise, x_0, 7)
    assert (
        gap(x_T, schedule.alphas_cumprod[-1].sqrt() / schedule.alphas_cumprod[0].sqrt() * x_0)
        < 1e-10
    )


def test_the_inversion_asks_at_the_timestep_before_each_step():
    seen = []

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        seen.append(t.tolist())
        return x_t

    x_0 = torch.ones(2, 1, requires_grad=True)
    x_T = ddim_invert(Denoiser(model, linear_schedule(), clip=None), x_0, n_steps=3)
    assert seen == [[0, 0], [332, 332], [666, 666]]
    assert not x_T.requires_grad
    assert x_0.abs().max() == 1


def psnr(x: Tensor, x_0: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,); the range of the pixels is 2."""
    return 10 * torch.log10(4 / (x - x_0).square().flatten(1).mean(1))


def test_real_images_come_back_better_with_more_steps():
    x_0, labels = load_fashion("test")
    x_0, labels = x_0[:3], labels[:3]
    denoise = load("fashion").denoiser({"labels": labels}, clip=None)
    found = []
    for n_steps in (4, 8, 16):
        x_T = ddim_invert(denoise, x_0, n_steps)
        found.append(psnr(sample_ddim(denoise, x_0.shape, n_steps, x_T=x_T), x_0))
    assert (found[0] < found[1]).all()
    assert (found[1] < found[2]).all()


# --- slerp ---


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 99))
@quick
def test_slerp_is_an_arc(shape, weight, seed):
    a, b = normal(2, 3, *shape, 2, seed=seed).unbind()
    unit_a, unit_b = (x / x.flatten(1).norm(dim=1).view(3, *[1] * (x.ndim - 1)) for x in (a, b))
    c = slerp(unit_a, unit_b, weight)
    angle = torch.arccos((unit_a * unit_b).flatten(1).sum(1).clamp(-1, 1))
    walked = torch.arccos((unit_a * c).flatten(1).sum(1).clamp(-1, 1))
    assert gap(c.flatten(1).norm(dim=1), torch.ones(3).double()) < 1e-6
    assert gap(walked, weight * angle) < 1e-6
    assert gap(slerp(a, b, weight), slerp(b, a, 1 - weight)) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_slerp_begins_at_a_and_ends_at_b(dtype):
    a, b = (x.to(dtype) for x in normal(2, 3, 1, 4).unbind())
    assert slerp(a, b, 0.0).dtype == dtype
    assert gap(slerp(a, b, 0.0).double(), a.double()) < 1e-6
    assert gap(slerp(a, b, 1.0).double(), b.double()) < 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_slerp_of_one_direction_is_a_straight_line(weight):
    a = normal(3, 1, 4)
    assert gap(slerp(a, a, weight), a) < 1e-12
    assert gap(slerp(a, 2 * a, weight), (1 + weight) * a) < 1e-6


def test_slerp_keeps_the_length_of_noise_which_a_straight_line_does_not():
    a, b = normal(2, 4, 1, 64, 64).unbind()
    half = slerp(a, b, 0.5).flatten(1).norm(dim=1) / 64
    error = 5 / (2 * 64**2) ** 0.5  # of a standard deviation of 4,096 numbers, 5 times
    assert gap(half, torch.ones(4).double()) < error
    line = ((a + b) / 2).flatten(1).norm(dim=1) / 64
    assert gap(line, torch.full((4,), math.sqrt(0.5)).double()) < error


# --- bad input ---

DENOISE = Denoiser(wave, linear_schedule(50))

BAD_CHAINS = [
    ((2, 1), {"n_steps": 0}, "n_steps must lie in [1, 50], got 0"),
    ((2, 1), {"n_steps": 51}, "n_steps must lie in [1, 50], got 51"),
    ((2, 1), {"x_T": torch.ones(1, 2)}, "x_T must have the given shape (2, 1), got (1, 2)"),
    ((0, 1, 8), {}, "shape must be (B, C, *space), each at least 1, got (0, 1, 8)"),
    ((2,), {}, "shape must be (B, C, *space)"),
]


@each_sampler
@pytest.mark.parametrize(("shape", "arguments", "message"), BAD_CHAINS)
def test_a_chain_that_cannot_be_is_refused(steps, sample, shape, arguments, message):
    arguments = {"n_steps": 5} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(DENOISE, shape, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        next(steps(DENOISE, shape, **arguments))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_eta_out_of_range_is_refused(eta):
    message = re.escape(f"eta must lie in [0, 1], got {eta}")
    with pytest.raises(ValueError, match=message):
        sample_ddim(DENOISE, (2, 1), 5, eta)
    x, i = torch.ones(2, 1), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        ddim_step(x, x, i, DENOISE.schedule, eta, x)


@pytest.mark.parametrize("order", [0, 3, 1.5])
def test_an_order_that_there_is_not_is_refused(order):
    with pytest.raises(ValueError, match=f"order must be 1 or 2, got {order}"):
        sample_dpm_solver(DENOISE, (2, 1), 5, order)


def test_timesteps_that_make_no_chain_are_refused():
    with pytest.raises(ValueError, match=r"must be strictly ascending in \[0, 50\), got \[3, 2\]"):
        sample_ddim(DENOISE, (2, 1), timesteps=torch.tensor([3, 2]))


@pytest.mark.parametrize(
    ("x_0", "i", "error", "message"),
    [
        (torch.ones(2, 1), [0.0, 1.0], TypeError, "t must be int64, got torch.float32"),
        (torch.ones(2, 1).int(), [0, 1], TypeError, "must be a floating-point tensor"),
        (torch.ones(2, 1), [0, 50], ValueError, "t must be int64 in [0, 50), got max 50"),
        (torch.ones(2, 1), [-1, 0], ValueError, "t must be int64 in [0, 50), got min -1"),
        (torch.ones(2, 1), [0], ValueError, "shape (2,), got (1,)"),
    ],
)
def test_a_step_that_cannot_be_is_refused(x_0, i, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ddim_step(x_0, x_0, torch.tensor(i), DENOISE.schedule)


def test_a_random_step_without_noise_is_refused():
    x, i = torch.ones(2, 1), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"noise must be given .* got None with eta = 0.5"):
        ddim_step(x, x, i, DENOISE.schedule, 0.5)


def test_what_was_clipped_is_not_inverted():
    with pytest.raises(ValueError, match=r"must have clip=None .* got clip=\(-1.0, 1.0\)"):
        ddim_invert(DENOISE, torch.ones(2, 1), 5)
    with pytest.raises(ValueError, match=r"n_steps must lie in \[1, 50\], got 51"):
        ddim_invert(Denoiser(wave, linear_schedule(50), clip=None), torch.ones(2, 1), 51)


def test_slerp_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"b must be shaped like a, \(2, 1\), got \(1, 2\)"):
        slerp(torch.ones(2, 1), torch.ones(1, 2), 0.5)
