"""Chapter 11: what is known stays exact, in law and to the last bit; closed forms for the rest."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import gap, generator, normal, quick, wave
from minidiff.ddpm import Denoiser, posterior, respace, sample_ddpm, trailing_timesteps
from minidiff.editing import (
    ImageConditioned,
    downsample,
    image_to_image,
    image_to_image_steps,
    inpaint,
    inpaint_steps,
    project,
    super_resolve,
    super_resolve_steps,
    upsample,
)
from minidiff.forward import cosine_schedule, extract, linear_schedule
from minidiff.training import train, train_step
from minidiff.unet import UNet

SCHEDULE = linear_schedule(1000)
each_resample = pytest.mark.parametrize("n_resample", [1, 2, 5])


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed)) * 2 - 1


class Spy:
    """A model that notes what it is called with."""

    def __init__(self, model=wave) -> None:
        self.model, self.x, self.t = model, [], []

    def __call__(self, x_t, t, context=None):
        self.x.append(x_t.clone())
        self.t.append(int(t[0]))
        return self.model(x_t, t, context)


def gaussian(covariance: Tensor, mean: float = 0.0):
    """The optimal eps for normal data (B, 1, D) with this covariance (D, D)."""

    def model(x_t, t, context=None):
        a_bar = extract(SCHEDULE.alphas_cumprod, t, like=x_t)  # (B, 1, 1)
        total = a_bar * covariance + (1 - a_bar) * torch.eye(len(covariance), dtype=x_t.dtype)
        centred = x_t - a_bar.sqrt() * mean
        return (1 - a_bar).sqrt() * torch.linalg.solve(total, centred.mT).mT

    return model


def points(data: Tensor):
    """The optimal x_0 for a finite set of data (N, ...): a softmax over its points."""

    def model(x_t, t, context=None):
        a_bar = extract(SCHEDULE.alphas_cumprod, t, like=x_t).flatten(1)  # (B, 1)
        far = torch.cdist(x_t.flatten(1), a_bar.sqrt()[:1] * data.flatten(1))  # (B, N)
        weights = (-far.square() / (2 * (1 - a_bar))).softmax(1)
        return (weights @ data.flatten(1)).view_as(x_t)

    return model


# --- inpainting: what is known ---


@given(
    st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000), st.booleans(),
)  # fmt: skip
@quick
def test_what_is_known_is_exact_for_data_of_any_shape(
    n_items, n_channels, space, n_steps, n_resample, seed, shared
):
    known = normal(n_items, n_channels, *space, seed=seed)  # beyond [-1, 1], too
    mask = uniform(*([1, 1] if shared else [n_items, n_channels]), *space, seed=seed + 1) > 0
    denoise = Denoiser(wave, SCHEDULE, "v")
    x = inpaint(denoise, known, mask, n_steps, n_resample, generator(seed))
    where = mask.expand_as(known)
    assert x.shape == known.shape
    assert x.dtype == known.dtype
    assert torch.equal(x[where], known[where])
    assert x.isfinite().all()
    again = inpaint(denoise, known, mask, n_steps, n_resample, generator(seed))
    assert torch.equal(x, again)


@each_resample
def test_what_is_hidden_is_never_looked_at(n_resample):
    known, mask = uniform(2, 1, 4, 4), torch.eye(4, dtype=torch.bool)
    hidden = torch.where(mask, known, torch.nan)
    denoise = Denoiser(wave, SCHEDULE, "v")
    a, b = (inpaint(denoise, x, mask, 5, n_resample, generator()) for x in (known, hidden))
    assert torch.equal(a, b)
    assert torch.equal(torch.where(mask, known, torch.nan).isnan(), hidden.isnan())
    assert hidden.isnan().any()  # the argument stays as it was


def test_all_known_and_nothing_known():
    known = uniform(3, 1, 5)
    denoise = Denoiser(wave, SCHEDULE, "v")
    everything = torch.ones(1, dtype=torch.bool)
    assert torch.equal(inpaint(denoise, known, everything, 4, 2, generator()), known)
    nothing = inpaint(denoise, known, ~everything, 4, generator=generator())
    assert gap(nothing, inpaint(denoise, -known, ~everything, 4, generator=generator())) == 0


@each_resample
def test_the_model_is_called_as_often_as_it_is_said_and_at_its_own_timesteps(n_resample):
    model, known = Spy(), uniform(2, 1, 3)
    mask = torch.tensor([True, False, False])
    steps = list(inpaint_steps(Denoiser(model, SCHEDULE, "v"), known, mask, 7, n_resample))
    timesteps = trailing_timesteps(1000, 7).tolist()[::-1]
    assert [step.t for step in steps] == timesteps
    assert model.t == [t for t in timesteps[:-1] for _ in range(n_resample)] + timesteps[-1:]
    assert len(model.t) == n_resample * 6 + 1


@each_resample
def test_the_model_sees_the_known_part_as_noisy_as_its_timestep_says(n_resample):
    """At each call, resampled or not: mean sqrt(a_bar) x_0, deviation sqrt(1 - a_bar)."""
    model, n = Spy(), 40_000
    known = torch.full((1, 2, n), 0.8, dtype=torch.float64)
    mask = torch.tensor([True, False]).view(1, 2, 1)
    for step in inpaint_steps(Denoiser(model, SCHEDULE, "v"), known, mask, 6, n_resample):
        last_x = step.x
    assert gap(last_x[:, 0], known[:, 0]) == 0
    first = True
    for x_t, t in zip(model.x, model.t, strict=True):
        a_bar = float(SCHEDULE.alphas_cumprod[t])
        mean, std = x_t[0, 0].mean().item(), x_t[0, 0].std().item()
        expected = 0.0 if first else math.sqrt(a_bar) * 0.8  # pure noise at the start
        spread = 1.0 if first else math.sqrt(1 - a_bar)
        assert abs(mean - expected) < 5 * spread / math.sqrt(n)
        assert abs(std - spread) < 5 * spread / math.sqrt(2 * n)
        first = False


@each_resample
def test_it_is_the_loop_of_the_paper(n_resample):
    """Algorithm 1, written out for one item with the same draws in the same order."""
    known, mask = uniform(1, 1, 3, 3), uniform(1, 1, 3, 3, seed=1) > 0
    denoise, draws = Denoiser(wave, cosine_schedule(50), "v"), generator(4)
    timesteps = trailing_timesteps(50, 5)
    chain = respace(cosine_schedule(50), timesteps)
    a_bar = torch.cat([torch.ones(1, dtype=torch.float64), chain.alphas_cumprod])  # from "t = 0"

    def z() -> Tensor:
        return torch.randn(known.shape, dtype=torch.float64, generator=draws)

    x = z()
    for t in range(5, 0, -1):  # as the paper counts
        for u in range(1, n_resample + 1):
            if t == 1 and u > 1:
                break
            index = torch.tensor([t - 1])
            x_0 = denoise(x, timesteps[index]).x_0
            mean, variance = posterior(x_0, x, index, chain)
            unknown = mean + variance.sqrt() * z() if t > 1 else mean
            noise = z() if t > 1 else 0.0
            diffused = a_bar[t - 1].sqrt() * known + (1 - a_bar[t - 1]).sqrt() * noise
            x = mask * diffused + ~mask * unknown
            if u < n_resample and t > 1:
                beta = chain.betas[t - 1]
                x = (1 - beta).sqrt() * x + beta.sqrt() * z()
    assert gap(inpaint(denoise, known, mask, 5, n_resample, generator(4)), x) < 1e-12


# --- inpainting: what is drawn ---


def test_replacement_ignores_half_of_what_it_knows_and_resampling_learns_it():
    """Two pixels with correlation 0.9 and an exact model: x_2 given x_1 is known in closed form."""
    n, value, rho = 4000, 1.5, 0.9
    covariance = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)
    denoise = Denoiser(gaussian(covariance), SCHEDULE, clip=None)
    known = torch.full((n, 1, 2), value, dtype=torch.float64)
    mask = torch.tensor([True, False])
    means = [
        inpaint(denoise, known, mask, 40, n_resample, generator())[:, 0, 1].mean().item()
        for n_resample in (1, 3, 10)
    ]
    error = math.sqrt(1 - rho**2) / math.sqrt(n)
    assert means[0] < rho * value - 20 * error  # the model has to be told more than once
    assert means[0] + 5 * error < means[1] < means[2] - 3 * error
    assert abs(means[2] - rho * value) < 0.3 * abs(means[0] - rho * value)


def test_what_is_independent_of_the_known_part_is_drawn_as_if_nothing_were_known():
    n = 20_000
    denoise = Denoiser(gaussian(0.25 * torch.eye(2, dtype=torch.float64), 0.5), SCHEDULE, clip=None)
    known = torch.full((n, 1, 2), 1.5, dtype=torch.float64)
    for n_resample in (1, 3):
        x = inpaint(denoise, known, torch.tensor([True, False]), 25, n_resample, generator(1))
        free = sample_ddpm(
            denoise, (n, 1, 2), 25, x_T=normal(n, 1, 2, seed=2), generator=generator(3)
        )
        for moment in (torch.mean, torch.std):
            got, expected = moment(x[:, 0, 1]), moment(free[:, 0, 1])
            assert abs(got - expected) < 5 * 0.5 * math.sqrt(2 / n)


def test_of_a_finite_set_the_points_are_drawn_that_agree_with_what_is_known():
    """Four points; the first value tells apart two pairs, and within a pair chance decides."""
    data = torch.tensor(
        [[1, 1, 1], [1, 1, -1], [-1, -1, 1], [-1, -1, -1]], dtype=torch.float64
    ).view(4, 1, 3)
    denoise = Denoiser(points(data), SCHEDULE, "x_0")
    known, mask = torch.ones(2000, 1, 3, dtype=torch.float64), torch.tensor([True, False, False])
    right = []
    for n_resample in (1, 10):
        x = inpaint(denoise, known, mask, 25, n_resample, generator(5))[:, 0]
        between = ((x.abs() - 1).abs() > 1e-3).double().mean().item()  # at no point of the set
        assert between < (0.01, 1e-9)[len(right)]
        right.append((x[:, 1] > 0).double().mean().item())
        up = (x[:, 2] > 0).double().mean().item()
        assert abs(up - 0.5) < 5 * 0.5 / math.sqrt(2000)
    assert right[0] < 0.995  # one in a hundred denies what is known
    assert right[1] > 0.9995


# --- resolution ---


def matrix_of_downsample(size: int, factor: int) -> Tensor:
    """A of a picture size x size: one row for each value at low resolution."""
    unit = torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size)
    return downsample(unit, factor).flatten(1).T  # (d, D)


def test_upsample_is_the_pseudo_inverse_and_project_the_nearest_consistent_point():
    a = matrix_of_downsample(6, 3)
    low = normal(5, 1, 2, 2)
    plus = torch.linalg.pinv(a)
    assert gap(upsample(low, 3).flatten(1), low.flatten(1) @ plus.T) < 1e-12
    x_0 = normal(5, 1, 6, 6, seed=1)
    flat = x_0.flatten(1)
    expected = low.flatten(1) @ plus.T + flat @ (torch.eye(36, dtype=torch.float64) - plus @ a).T
    assert gap(project(x_0, low, 3).flatten(1), expected) < 1e-12


@given(
    st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 4), st.integers(0, 1000),
)  # fmt: skip
@quick
def test_downsample_upsample_and_project_agree_with_torch_and_each_other(
    n_items, n_channels, space, factor, seed
):
    low = normal(n_items, n_channels, *space, seed=seed)
    x_0 = normal(n_items, n_channels, *[factor * size for size in space], seed=seed + 1)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(space) - 1]
    assert gap(downsample(x_0, factor), pool(x_0, factor)) < 1e-12
    assert gap(upsample(low, factor), F.interpolate(low, scale_factor=factor)) == 0
    assert gap(downsample(upsample(low, factor), factor), low) < 1e-12  # A A^+ = I
    x = project(x_0, low, factor)
    assert gap(downsample(x, factor), low) < 1e-12
    assert gap(project(x, low, factor), x) < 1e-12
    other = project(normal(*x_0.shape, seed=seed + 2), low, factor)  # any other consistent point
    across = ((x - x_0) * (other - x)).flatten(1).sum(1)
    assert across.abs().max() < 1e-10  # a right angle: none is nearer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_super_resolution_by_projection_is_consistent_to_rounding(dtype):
    low, roundings = uniform(3, 1, 3, 3).to(dtype), 64 * torch.finfo(dtype).eps
    denoise = Denoiser(wave, SCHEDULE, "v")
    steps = list(super_resolve_steps(denoise, low, 2, 6, generator()))
    assert [step.t for step in steps] == trailing_timesteps(1000, 6).tolist()[::-1]
    for step in steps:
        assert step.x.dtype == dtype
        assert gap(downsample(step.x_0, 2), low) < roundings
    assert gap(downsample(steps[-1].x, 2), low) < roundings
    assert torch.equal(super_resolve(denoise, low, 2, 6, generator()), steps[-1].x)


@pytest.mark.parametrize("shape", [(2, 1, 4), (2, 3, 2, 3), (1, 2, 2, 2, 2)])
def test_super_resolution_takes_data_of_any_shape(shape):
    low = uniform(*shape)
    x = super_resolve(Denoiser(wave, SCHEDULE, "v"), low, 3, 4, generator())
    assert x.shape == (*shape[:2], *[3 * size for size in shape[2:]])
    assert gap(downsample(x, 3), low) < 1e-12


def test_what_the_low_resolution_leaves_open_is_drawn_from_the_model():
    """Independent values of deviation 0.5: around the known mean they keep their own spread."""
    n = 20_000
    denoise = Denoiser(gaussian(0.25 * torch.eye(2, dtype=torch.float64)), SCHEDULE, clip=None)
    low = torch.full((n, 1, 1), 0.7, dtype=torch.float64)
    x = super_resolve(denoise, low, 2, 25, generator())
    free = sample_ddpm(denoise, (n, 1, 2), 25, x_T=normal(n, 1, 2), generator=generator(1))
    difference, expected = (y[:, 0, 0] - y[:, 0, 1] for y in (x, free))
    error = 0.5 * math.sqrt(2) / math.sqrt(2 * n)
    assert abs(difference.std() - expected.std()) < 5 * math.sqrt(2) * error
    assert abs(difference.mean()) < 5 * 0.5 * math.sqrt(2 / n)


# --- a model that sees an image ---


def test_the_image_is_a_channel_of_its_own():
    model = ImageConditioned(SumOfChannels())
    x_t, image = normal(2, 1, 6, 6), normal(2, 1, 3, 3, seed=1)
    t = torch.tensor([0, 9])
    expected = x_t + 10 * upsample(image, 2)
    assert gap(model(x_t, t, {"image": image}), expected) == 0
    assert gap(model(x_t, t, {"image": upsample(image, 2)}), expected) == 0
    with_labels = {"image": image, "labels": torch.tensor([1, 2])}
    shifted = expected + with_labels["labels"].view(-1, 1, 1, 1)
    assert gap(model(x_t, t, with_labels), shifted) == 0
    assert with_labels.keys() == {"image", "labels"}  # the context stays as it was
    sound = normal(2, 1, 8), normal(2, 1, 2, seed=1)
    assert gap(model(sound[0], t, {"image": sound[1]}), sound[0] + 10 * upsample(sound[1])) == 0


class SumOfChannels(nn.Module):
    def forward(self, x_t, t, context=None):
        x = x_t[:, :1] + 10 * x_t[:, 1:]
        if context is None:
            return x
        assert context.keys() == {"labels"}
        return x + context["labels"].view(-1, 1, 1, 1)


def test_train_and_the_samplers_take_it_as_they_are():
    torch.manual_seed(0)
    x_0 = uniform(8, 1, 8, 8).float()
    low = downsample(x_0, 4)
    model = ImageConditioned(UNet(2, 1, channels=(8,), attention_levels=()))
    steps = train(
        model, x_0, SCHEDULE, n_steps=3, batch_size=4, prediction_type="v", context={"image": low}
    )
    assert len(list(steps)) == 3
    denoise = Denoiser(model, SCHEDULE, "v", {"image": low})
    a, b = (sample_ddpm(d, x_0.shape, 2, x_T=x_0, generator=generator()) for d in (
        denoise, Denoiser(model, SCHEDULE, "v", {"image": low.flip(0)})
    ))  # fmt: skip
    assert a.shape == x_0.shape
    assert gap(a, b) > 1e-3  # it does look at the image
    train_step(model, x_0, torch.full((8,), 5), SCHEDULE, {"image": low}).backward()
    weight = model.model.conv_in.weight
    assert weight.shape[1] == 2
    assert weight.grad[:, 1].abs().max() > 0


# --- image to image ---


@pytest.mark.parametrize(
    ("strength", "n_calls"), [(1.0, 10), (0.5, 5), (0.25, 2), (0.34, 3), (0.01, 1)]
)
def test_the_strength_says_where_the_walk_begins(strength, n_calls):
    model, n = Spy(), 40_000
    x_0 = torch.full((1, 1, n), -0.6, dtype=torch.float64)
    steps = list(
        image_to_image_steps(Denoiser(model, SCHEDULE, "v"), x_0, strength, 10, generator())
    )
    timesteps = trailing_timesteps(1000, 10)[:n_calls].tolist()[::-1]
    assert [step.t for step in steps] == model.t == timesteps
    a_bar = float(SCHEDULE.alphas_cumprod[timesteps[0]])
    spread = math.sqrt(1 - a_bar)
    assert abs(model.x[0].mean().item() + math.sqrt(a_bar) * 0.6) < 5 * spread / math.sqrt(n)
    assert abs(model.x[0].std().item() - spread) < 5 * spread / math.sqrt(2 * n)
    got = image_to_image(Denoiser(wave, SCHEDULE, "v"), x_0, strength, 10, generator())
    assert torch.equal(got, steps[-1].x)


def test_the_stronger_the_less_is_left_of_the_image():
    """Normal data of deviation 0.5 and a start 2 off: from nearly all that is left to nothing."""
    denoise = Denoiser(gaussian(0.25 * torch.eye(2, dtype=torch.float64)), SCHEDULE, clip=None)
    x_0 = torch.full((2000, 1, 2), 2.0, dtype=torch.float64)
    left = [
        image_to_image(denoise, x_0, strength, 50, generator()).mean().item()
        for strength in (0.02, 0.2, 0.5, 1.0)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > 1.8
    assert abs(left[-1]) < 5 * 0.5 / math.sqrt(4000)


def test_of_a_finite_set_a_damaged_point_is_mended():
    data = uniform(6, 1, 12).sign()
    denoise = Denoiser(points(data), SCHEDULE, "x_0")
    damaged = data + 0.3 * normal(6, 1, 12, seed=1)
    x = image_to_image(denoise, damaged, 0.2, 50, generator())
    assert gap(x, data) < 1e-3


# --- bad input ---

DENOISE, KNOWN = Denoiser(wave, SCHEDULE, "v"), torch.zeros(2, 1, 4)
MASK = torch.tensor([True, False, True, False])
BROKEN = torch.tensor([0, torch.inf, 0, 0]).expand(2, 1, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inpaint(DENOISE, KNOWN, MASK.float()), TypeError,
         "mask must be bool, True where data is known, got torch.float32"),
        (lambda: inpaint(DENOISE, KNOWN, MASK[:3]), ValueError,
         r"mask must broadcast to the shape of known, \(2, 1, 4\), got \(3,\)"),
        (lambda: inpaint(DENOISE, KNOWN, MASK.expand(1, 2, 1, 4)), ValueError, "must broadcast"),
        (lambda: inpaint(DENOISE, KNOWN, MASK.expand(2, 3, 4)), ValueError, "must broadcast"),
        (lambda: inpaint(DENOISE, KNOWN, MASK, n_resample=0), ValueError,
         "n_resample must be at least 1, got 0"),
        (lambda: inpaint(DENOISE, KNOWN, MASK, n_steps=0), ValueError, r"n_steps must lie in \[1,"),
        (lambda: inpaint(DENOISE, KNOWN, MASK, n_steps=1001), ValueError, "got 1001"),
        (lambda: inpaint(DENOISE, KNOWN[:0], MASK), ValueError, "at least one item"),
        (lambda: inpaint(DENOISE, BROKEN, ~MASK, 4), ValueError, "x_0 must be finite"),
        (lambda: inpaint(DENOISE, KNOWN.long(), MASK, 4), TypeError,
         "known must be floating point, got torch.int64"),
        (lambda: downsample(torch.zeros(1, 1, 7, 8), 4), ValueError,
         r"factor must divide each dimension of space \(7, 8\), got 4"),
        (lambda: downsample(torch.zeros(1, 1), 1), ValueError, "factor must divide"),
        (lambda: downsample(torch.zeros(1, 1, 4), 0), ValueError, "got 0"),
        (lambda: upsample(torch.zeros(1, 1), 2), ValueError,
         r"low \(B, C, \*space\), got 2, \(1, 1\)"),
        (lambda: upsample(torch.zeros(1, 1, 2), 0), ValueError, "factor must be at least 1"),
        (lambda: project(torch.zeros(1, 1, 8), torch.zeros(1, 1, 3), 4), ValueError,
         r"low must have shape \(1, 1, 2\), got \(1, 1, 3\)"),
        (lambda: super_resolve(DENOISE, torch.zeros(1, 1), 2), ValueError, "low"),
        (lambda: super_resolve(DENOISE, torch.zeros(1, 1, 2), 2, 0), ValueError, "n_steps"),
        (lambda: image_to_image(DENOISE, KNOWN, 0.0), ValueError,
         r"strength must lie in \(0, 1\], got 0.0"),
        (lambda: image_to_image(DENOISE, KNOWN, 1.1), ValueError, "got 1.1"),
        (lambda: image_to_image(DENOISE, BROKEN, 0.5), ValueError, "x_0 must be finite"),
        (lambda: image_to_image(DENOISE, KNOWN.long(), 0.5), TypeError, "floating-point"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (None, "got none"),
        ({"labels": torch.zeros(2)}, "got none"),
        ({"image": torch.zeros(3, 1, 2)}, r"got shape \(3, 1, 2\)"),
        ({"image": torch.zeros(2, 1, 2, 2)}, r"got shape \(2, 1, 2, 2\)"),
    ],
)
def test_a_model_that_sees_an_image_needs_one_that_fits(context, found):
    message = f"context must have an image of 3 dimensions for each of 2 items, {found}"
    with pytest.raises(ValueError, match=message):
        ImageConditioned(SumOfChannels())(KNOWN, torch.tensor([0, 0]), context)
