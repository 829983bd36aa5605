"""Checks of chapter 04, DDPM: `from minidiff.grading import chapter_04 as check`.

Numbers count from 0 as in all code: alpha_bar[t] is the product through t, and what lies before
t = 0 is clean data, alpha_bar = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import ddpm, forward
from minidiff.grading.check import Answer, Inputs, task
from minidiff.grading.draw import Draw

StepBack = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _n_factors(inputs: Inputs) -> float:
    """A product of T factors rounds T times; what it is subtracted from may be nearly equal."""
    return len(inputs["betas"]) + 256.0


def _products(betas: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_bar_t and alpha_bar_{t-1}, (T,) each."""
    a_bar = (1 - betas).cumprod(0)
    return a_bar, torch.cat([a_bar.new_ones(1), a_bar[:-1]])


def _at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Gather one coefficient for each item, (T,) -> (B, 1, ..., 1)."""
    return values[t].view(-1, *[1] * (like.ndim - 1)).to(like)


# --- 1: the variance of the posterior ------------------------------------------------------------


@task(
    points=2,
    inputs=lambda draw: {"betas": draw.betas(40, 200)},
    roundings=_n_factors,
    package=[vars(forward.NoiseSchedule)["posterior_variance"].func, ddpm.posterior],
)
def posterior_variance(betas: Tensor) -> Tensor:
    """All beta_tilde_t of a schedule, (T,) -> (T,) (Ho et al. 2020, eq. 7)."""
    a_bar, a_bar_prev = _products(betas)
    return betas * (1 - a_bar_prev) / (1 - a_bar)


@posterior_variance.misconception
def beta_in_place_of_beta_tilde(betas: Tensor) -> Tensor:
    """These are the betas again. The fraction before them has alpha_bar_{t-1} above the line and
    alpha_bar_t below; with the same one in both places it is 1.
    """
    return betas.clone()


@posterior_variance.misconception
def last_for_first(betas: Tensor) -> Tensor:
    """At t = 0 the index t - 1 is -1, which Python reads as the last entry. Before the first step
    lies clean data: there alpha_bar is 1.
    """
    a_bar = (1 - betas).cumprod(0)
    return betas * (1 - a_bar.roll(1)) / (1 - a_bar)


@posterior_variance.misconception
def zero_before_the_first(betas: Tensor) -> Tensor:
    """alpha_bar before the first step is set to 0, as if there were pure noise. Clean data lies
    there, of which all is left: 1.
    """
    a_bar, a_bar_prev = _products(betas)
    return betas * (1 - a_bar_prev * (a_bar_prev < 1)) / (1 - a_bar)


@posterior_variance.misconception
def first_repeated(betas: Tensor) -> Tensor:
    """At t = 0 the previous alpha_bar is that of t = 0 itself. Before the first step it is 1, so
    that the variance there is 0: whoever knows x_0 knows it exactly.
    """
    a_bar = (1 - betas).cumprod(0)
    return betas * (1 - torch.cat([a_bar[:1], a_bar[:-1]])) / (1 - a_bar)


@posterior_variance.misconception
def clipped_as_for_the_logarithm(betas: Tensor) -> Tensor:
    """Entry 0 repeats entry 1. That is done where a logarithm is taken (chapter 06); the variance
    itself is 0 at t = 0.
    """
    a_bar, a_bar_prev = _products(betas)
    variance = betas * (1 - a_bar_prev) / (1 - a_bar)
    return torch.cat([variance[1:2], variance[1:]])


@posterior_variance.misconception
def first_left_out(betas: Tensor) -> Tensor:
    """There are only T - 1 entries: the one at t = 0 is missing. There alpha_bar_{t-1} is 1, clean
    data, and the variance 0.
    """
    a_bar = (1 - betas).cumprod(0)
    return betas[1:] * (1 - a_bar[:-1]) / (1 - a_bar[1:])


@posterior_variance.misconception
def fraction_upside_down(betas: Tensor) -> Tensor:
    """The fraction is upside down. Knowing x_0 makes x_{t-1} more certain, so beta_tilde is smaller
    than beta: the factor is below 1.
    """
    a_bar, a_bar_prev = _products(betas)
    return betas * (1 - a_bar) / (1 - a_bar_prev)


@posterior_variance.misconception
def deviation_in_place_of_variance(betas: Tensor) -> Tensor:
    """This is the standard deviation. Asked for is the variance, without the root."""
    a_bar, a_bar_prev = _products(betas)
    return (betas * (1 - a_bar_prev) / (1 - a_bar)).sqrt()


@posterior_variance.misconception
def alpha_in_place_of_alpha_bar(betas: Tensor) -> Tensor:
    """The fraction is made of alphas, of single steps; then 1 - alpha_t cancels beta_t, and the
    betas are left, one place late. It takes the products, alpha_bar.
    """
    return torch.cat([betas.new_zeros(1), betas[:-1]])


@posterior_variance.misconception
def factor_alone(betas: Tensor) -> Tensor:
    """This is the fraction alone, a number between 0 and 1 that says which share of beta_t is left.
    It still has to be multiplied with beta_t.
    """
    a_bar, a_bar_prev = _products(betas)
    return (1 - a_bar_prev) / (1 - a_bar)


@posterior_variance.misconception
def product_of_betas(betas: Tensor) -> Tensor:
    """The product is taken of the betas, of what each step adds. alpha_bar is the product of what
    each step keeps, 1 - beta.
    """
    a_bar = betas.cumprod(0)
    return betas * (1 - torch.cat([a_bar.new_ones(1), a_bar[:-1]])) / (1 - a_bar)


@posterior_variance.misconception
def next_in_place_of_previous(betas: Tensor) -> Tensor:
    """Above the line stands alpha_bar_{t+1}: the products are moved the wrong way. The 1 of clean
    data goes to the front, and the last product falls off the end.
    """
    a_bar = (1 - betas).cumprod(0)
    return betas * (1 - torch.cat([a_bar[1:], a_bar.new_ones(1)])) / (1 - a_bar)


@posterior_variance.misconception
def brackets_forgotten(betas: Tensor) -> Tensor:
    """Brackets are missing: 1 - a / 1 - b is read as (1 - a) - b. Both sides of the fraction need
    their own, (1 - a) / (1 - b).
    """
    a_bar, a_bar_prev = _products(betas)
    return (1 - a_bar_prev / 1 - a_bar) * betas


# --- 2: the mean of the posterior ----------------------------------------------------------------


def _noisy(draw: Draw) -> Inputs:
    """Images, sound and video, with t = 0 first, last, absent and inside.

    In the last case the width equals the batch, or some mistakes hide; otherwise no two dimensions
    that torch could take for one another are equal.
    """
    betas, dtype, n_items = draw.betas(20, 80), draw.dtype(), draw.integer(5, 8)
    space = [draw.integer(3, 5) for _ in range((2, 1, 3, 2)[draw.case])]
    if draw.case == 3:
        space[-1] = n_items
    x_0 = draw.uniform(-1, 1, n_items, draw.integer(2, 4), *space, dtype=dtype)
    t = draw.timesteps(n_items, len(betas))
    t = (t, t.roll(-1), t.clamp(min=1), t.roll(2))[draw.case]
    noise = draw.normal(*x_0.shape, dtype=dtype)
    a_bar = (1 - betas).cumprod(0)
    x_t = _at(a_bar.sqrt(), t, x_0) * x_0 + _at((1 - a_bar).sqrt(), t, x_0) * noise
    return {"x_0": x_0, "x_t": x_t, "t": t, "betas": betas, "noise": noise}


def _clean_and_noisy(draw: Draw) -> Inputs:
    drawn = _noisy(draw)
    return {name: drawn[name] for name in ("x_0", "x_t", "t", "betas")}


def _weigh(weight_0: Tensor, weight_t: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Add x_0 and x_t with weights (T,), gathered at t."""
    return _at(weight_0, t, x_0) * x_0 + _at(weight_t, t, x_0) * x_t


@task(
    points=2,
    inputs=_clean_and_noisy,
    outputs=("the mean",),
    roundings=_n_factors,
    package=[ddpm.posterior],
)
def posterior_mean(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0), each item at its own t (Ho et al. 2020, eq. 7)."""
    a_bar, a_bar_prev = _products(betas)
    weight_0 = a_bar_prev.sqrt() * betas / (1 - a_bar)  # (T,)
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)  # (T,)
    return _weigh(weight_0, weight_t, x_0, x_t, t)


@posterior_mean.misconception
def weights_exchanged(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The two weights are exchanged. A test: at t = 0 x_0 must have the weight 1, x_t none."""
    a_bar, a_bar_prev = _products(betas)
    weight_0 = a_bar_prev.sqrt() * betas / (1 - a_bar)
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh(weight_t, weight_0, x_0, x_t, t)


@posterior_mean.misconception
def alpha_bar_in_place_of_alpha(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The weight of x_t has sqrt(alpha_bar_t), where only one step is to be undone: sqrt(alpha_t),
    without a bar.
    """
    a_bar, a_bar_prev = _products(betas)
    weight_0 = a_bar_prev.sqrt() * betas / (1 - a_bar)
    return _weigh(weight_0, a_bar.sqrt() * (1 - a_bar_prev) / (1 - a_bar), x_0, x_t, t)


@posterior_mean.misconception
def alpha_in_place_of_previous_product(
    x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor
) -> Tensor:
    """The weight of x_0 has sqrt(alpha_t), a single step. From x_0 to x_{t-1} it is all steps
    through t - 1: sqrt(alpha_bar_{t-1}).
    """
    a_bar, a_bar_prev = _products(betas)
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh((1 - betas).sqrt() * betas / (1 - a_bar), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def alpha_bar_t_in_place_of_previous(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """alpha_bar_t stands where alpha_bar_{t-1} belongs. The mean is that of x_{t-1}, so what x_0
    says about it is measured at t - 1; only below the line it is alpha_bar_t.
    """
    a_bar = (1 - betas).cumprod(0)
    return _weigh(a_bar.sqrt() * betas / (1 - a_bar), (1 - betas).sqrt(), x_0, x_t, t)


@posterior_mean.misconception
def last_alpha_bar_before_the_first(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """At t = 0 the index t - 1 is -1, which Python reads as the last entry. Before the first step
    alpha_bar is 1, and the mean is x_0 itself.
    """
    a_bar = (1 - betas).cumprod(0)
    a_bar_prev = a_bar.roll(1)
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh(a_bar_prev.sqrt() * betas / (1 - a_bar), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def roots_forgotten(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The square roots on alpha_bar_{t-1} and alpha_t are missing. They scale a picture, not a
    variance.
    """
    a_bar, a_bar_prev = _products(betas)
    weight_t = (1 - betas) * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh(a_bar_prev * betas / (1 - a_bar), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def divided_by_beta(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """Both weights are divided by 1 - alpha_t, the noise of one step. Below the line belongs all
    noise through t, 1 - alpha_bar_t.
    """
    a_bar_prev = _products(betas)[1]
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / betas
    return _weigh(a_bar_prev.sqrt(), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def x_0_in_place_of_the_mean(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """This is x_0 itself. A step goes only from t to t - 1: its mean lies between x_t and x_0, and
    for a late t near x_t.
    """
    return x_0.clone()


@posterior_mean.misconception
def x_0_taken_for_eps(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """This is the mean of algorithm 2 (eq. 11), which takes off predicted noise, with x_0 in the
    noise's place. Given x_0, add both with the weights of eq. 7.
    """
    a_bar = (1 - betas).cumprod(0)
    root = (1 - betas).sqrt()
    return _weigh(-betas / (1 - a_bar).sqrt() / root, 1 / root, x_0, x_t, t)


@posterior_mean.misconception
def one_t_for_the_batch(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """All items get the first item's t. Gather one weight for each item, weight[t], and give it the
    shape (B, 1, ..., 1).
    """
    a_bar, a_bar_prev = _products(betas)
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    first = t[:1].expand(len(t))
    return _weigh(a_bar_prev.sqrt() * betas / (1 - a_bar), weight_t, x_0, x_t, first)


@posterior_mean.misconception
def weights_not_reshaped(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The weights, shape (B,), meet the last dimension of x_0, not its batch. Give them the shape
    (B, 1, ..., 1) first, with as many dimensions as x_0.
    """
    a_bar, a_bar_prev = _products(betas)
    weight_0 = (a_bar_prev.sqrt() * betas / (1 - a_bar))[t].to(x_0)
    weight_t = ((1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar))[t].to(x_0)
    return weight_0 * x_0 + weight_t * x_t


@posterior_mean.misconception
def previous_only_in_one_weight(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The weight of x_0 has sqrt(alpha_bar_t). It tells how much of x_0 is in x_{t-1}, so it is the
    root of alpha_bar_{t-1}; only below the line it is alpha_bar_t.
    """
    a_bar, a_bar_prev = _products(betas)
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh(a_bar.sqrt() * betas / (1 - a_bar), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def beta_in_place_of_alpha(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The weight of x_t has sqrt(beta_t). There belongs sqrt(alpha_t), with alpha = 1 - beta."""
    a_bar, a_bar_prev = _products(betas)
    weight_0 = a_bar_prev.sqrt() * betas / (1 - a_bar)
    return _weigh(weight_0, betas.sqrt() * (1 - a_bar_prev) / (1 - a_bar), x_0, x_t, t)


@posterior_mean.misconception
def first_alpha_bar_repeated(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """At t = 0 the previous alpha_bar is that of t = 0 itself. Before the first step lies clean
    data, where it is 1; then the mean at t = 0 is x_0.
    """
    a_bar = (1 - betas).cumprod(0)
    a_bar_prev = torch.cat([a_bar[:1], a_bar[:-1]])
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh(a_bar_prev.sqrt() * betas / (1 - a_bar), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def zero_alpha_bar_before_the_first(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """alpha_bar before the first step is set to 0, as if there were pure noise. Clean data lies
    there, of which all is left: 1.
    """
    a_bar = (1 - betas).cumprod(0)
    a_bar_prev = torch.cat([a_bar.new_zeros(1), a_bar[:-1]])
    weight_t = (1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return _weigh(a_bar_prev.sqrt() * betas / (1 - a_bar), weight_t, x_0, x_t, t)


@posterior_mean.misconception
def previous_asked_of_extract(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """At t = 0 the timestep t - 1 is -1, which extract refuses. Before the first step alpha_bar is
    1: move all products back by one place, with a 1 in front, and extract from those at t.
    """
    a_bar = (1 - betas).cumprod(0)
    a_bar_prev = forward.extract(a_bar, t - 1, like=x_0)
    beta, total = _at(betas, t, x_0), _at(1 - a_bar, t, x_0)
    weight_t = (1 - beta).sqrt() * (1 - a_bar_prev) / total
    return a_bar_prev.sqrt() * beta / total * x_0 + weight_t * x_t


@posterior_mean.misconception
def last_before_the_first_and_not_reshaped(
    x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor
) -> Tensor:
    """The weights, shape (B,), meet the last dimension of x_0, not its batch: give them the shape
    (B, 1, ..., 1). And at t = 0 a_bar[t - 1] is the last entry; before the first step it is 1.
    """
    a_bar = (1 - betas).cumprod(0)
    previous, beta, total = a_bar[t - 1], betas[t], 1 - a_bar[t]
    weight_0 = (previous.sqrt() * beta / total).to(x_0)
    weight_t = ((1 - beta).sqrt() * (1 - previous) / total).to(x_0)
    return weight_0 * x_0 + weight_t * x_t


@posterior_mean.misconception
def weights_shaped_for_images(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The weights have the shape (B, 1, 1, 1), which suits images alone. Data may have one, two or
    three dimensions of space: as many ones as x_0 has dimensions after the first.
    """
    a_bar, a_bar_prev = _products(betas)
    weight_0 = (a_bar_prev.sqrt() * betas / (1 - a_bar))[t].view(-1, 1, 1, 1).to(x_0)
    weight_t = ((1 - betas).sqrt() * (1 - a_bar_prev) / (1 - a_bar))[t].view(-1, 1, 1, 1)
    return weight_0 * x_0 + weight_t.to(x_0) * x_t


# --- 3: from the predicted noise to the data -----------------------------------------------------


def _predicted(draw: Draw) -> Inputs:
    """A model's answer: the noise with an error, so that some of x_0 leaves its range."""
    drawn = _noisy(draw)
    error = draw.normal(*drawn["x_t"].shape, dtype=drawn["x_t"].dtype)
    eps = drawn["noise"] + error
    return {"x_t": drawn["x_t"], "t": drawn["t"], "eps": eps, "betas": drawn["betas"]}


def _invert(signal: Tensor, spread: Tensor, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Take the noise off and divide, with coefficients (T,), gathered at t; no clipping."""
    return (x_t - _at(spread, t, x_t) * eps) / _at(signal, t, x_t)


@task(
    points=2,
    inputs=_predicted,
    outputs=("x_0",),
    roundings=_n_factors,
    package=[ddpm.Denoiser],
)
def predict_x_0(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The x_0 that belongs to a predicted noise, clipped to [-1, 1] (Ho et al. 2020, eq. 15)."""
    a_bar = (1 - betas).cumprod(0)
    x_0 = (x_t - _at((1 - a_bar).sqrt(), t, x_t) * eps) / _at(a_bar.sqrt(), t, x_t)
    return x_0.clamp(-1, 1)


@predict_x_0.misconception
def not_clipped(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The formula is right; clip its result. Pixels lie in [-1, 1], and dividing by a small
    sqrt(alpha_bar_t) carries what is wrong with eps far out of it.
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps)


@predict_x_0.misconception
def eps_clipped_instead(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The noise is clipped in place of the data. Normal noise often lies outside [-1, 1], as it
    should; pixels never do: clip x_0.
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps.clamp(-1, 1))


@predict_x_0.misconception
def clipped_to_0_and_1(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The result is clipped to [0, 1]. This data lies in [-1, 1], black is -1: the darker half of
    all greys would become medium grey.
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps).clamp(0, 1)


@predict_x_0.misconception
def multiplied_in_place_of_divided(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """It multiplies by sqrt(alpha_bar_t). Adding noise shrank x_0 by that factor; on the way back
    it is divided by it.
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert(1 / a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def not_divided(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The noise is taken off, and sqrt(alpha_bar_t) x_0 is left: still to be divided by
    sqrt(alpha_bar_t).
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert(torch.ones_like(a_bar), (1 - a_bar).sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def noise_taken_off_whole(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """This is x_t - eps. In x_t both parts have weights (eq. 4): solve x_t = sqrt(alpha_bar_t) x_0
    + sqrt(1 - alpha_bar_t) eps for x_0.
    """
    return (x_t - eps).clamp(-1, 1)


@predict_x_0.misconception
def noise_added(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """A sign: the noise is added once more in place of being taken off."""
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, -eps).clamp(-1, 1)


@predict_x_0.misconception
def root_forgotten_on_alpha_bar(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """It divides by alpha_bar_t. The weight of x_0 in x_t is the square root, sqrt(alpha_bar_t)."""
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar, (1 - a_bar).sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def root_forgotten_on_the_noise(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The noise has the weight 1 - alpha_bar_t, its variance. In x_t it stands with its standard
    deviation, the square root.
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar.sqrt(), 1 - a_bar, x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def both_roots_forgotten(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """Both square roots are missing: on alpha_bar_t and on 1 - alpha_bar_t."""
    a_bar = (1 - betas).cumprod(0)
    return _invert(a_bar, 1 - a_bar, x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def alpha_below_the_root(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The noise has the weight sqrt(1 - alpha_t), the noise of one step. eps stands for all noise
    in x_t: sqrt(1 - alpha_bar_t), with a bar.
    """
    return _invert((1 - betas).cumprod(0).sqrt(), betas.sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def one_step_only(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """Both weights are those of one step, with alpha_t. Between x_0 and x_t lie all steps through
    t: alpha_bar_t.
    """
    return _invert((1 - betas).sqrt(), betas.sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def coefficients_exchanged(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The two coefficients are exchanged: sqrt(alpha_bar_t) belongs to x_0 and sqrt(1 -
    alpha_bar_t) to the noise.
    """
    a_bar = (1 - betas).cumprod(0)
    return _invert((1 - a_bar).sqrt(), a_bar.sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def one_t_for_all(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """All items get the first item's t. Gather one coefficient for each item, a_bar[t], and give it
    the shape (B, 1, ..., 1).
    """
    a_bar, first = (1 - betas).cumprod(0), t[:1].expand(len(t))
    return _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, first, eps).clamp(-1, 1)


@predict_x_0.misconception
def coefficients_not_reshaped(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The coefficients, shape (B,), meet the last dimension of x_t, not its batch. Give them the
    shape (B, 1, ..., 1) first, with as many dimensions as x_t.
    """
    a_bar = (1 - betas).cumprod(0)[t].to(x_t)
    return ((x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()).clamp(-1, 1)


@predict_x_0.misconception
def only_the_noise_divided(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """Only the term with eps is divided by sqrt(alpha_bar_t): a question of brackets. The whole
    difference is divided.
    """
    a_bar = (1 - betas).cumprod(0)
    return (x_t - _at((1 / a_bar - 1).sqrt(), t, x_t) * eps).clamp(-1, 1)


@predict_x_0.misconception
def clipped_before_the_division(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """It clips first and divides afterwards, so the result leaves [-1, 1] all the same. Divide
    first, then clip.
    """
    a_bar = (1 - betas).cumprod(0)
    signal = (x_t - _at((1 - a_bar).sqrt(), t, x_t) * eps).clamp(-1, 1)
    return signal / _at(a_bar.sqrt(), t, x_t)


@predict_x_0.misconception
def previous_alpha_bar(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """These are the coefficients of t - 1. x_t holds the noise of all steps through t: alpha_bar_t,
    the product through betas[t].
    """
    a_bar_prev = _products(betas)[1]
    return _invert(a_bar_prev.sqrt(), (1 - a_bar_prev).sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def asked_of_extract_at_t_1(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """It asks for the coefficients of t - 1, which is -1 at t = 0. Code counts from 0 already: what
    belongs to x_t stands at t.
    """
    a_bar = forward.extract((1 - betas).cumprod(0), t - 1, like=x_t)
    return ((x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()).clamp(-1, 1)


@predict_x_0.misconception
def betas_multiplied(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """The product is taken of the betas, of what each step adds. alpha_bar is the product of what
    each step keeps, 1 - beta.
    """
    a_bar = betas.cumprod(0)
    return _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps).clamp(-1, 1)


@predict_x_0.misconception
def formula_of_v(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    """This is the formula for a network that predicts v. Here it predicts the noise eps: solve
    eq. 4 for x_0, which ends in a division by sqrt(alpha_bar_t).
    """
    a_bar = (1 - betas).cumprod(0)
    x_0 = _at(a_bar.sqrt(), t, x_t) * x_t - _at((1 - a_bar).sqrt(), t, x_t) * eps
    return x_0.clamp(-1, 1)


# --- 4: one step back ----------------------------------------------------------------------------


def _predicted_with_noise(draw: Draw) -> Inputs:
    inputs = _predicted(draw)
    x_t = inputs["x_t"]
    return inputs | {"noise": draw.normal(*x_t.shape, dtype=x_t.dtype)}


def _clipped_mean(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
    x_0: Tensor = predict_x_0.reference(x_t, t, eps, betas)
    mean: Tensor = posterior_mean.reference(x_0, x_t, t, betas)
    return mean


def _deviation(t: Tensor, betas: Tensor, like: Tensor) -> Tensor:
    return _at(posterior_variance.reference(betas).sqrt(), t, like)


@task(
    points=3,
    inputs=_predicted_with_noise,
    outputs=("x_{t-1}",),
    roundings=_n_factors,
    package=[ddpm.Denoiser, ddpm.ddpm_steps],
)
def ddpm_step(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """x_{t-1} from x_t, the predicted noise and fresh noise, with x_0 clipped and beta_tilde."""
    x_0 = predict_x_0.reference(x_t, t, eps, betas)  # eq. 15, clipped
    mean: Tensor = posterior_mean.reference(x_0, x_t, t, betas)  # eq. 7
    variance = posterior_variance.reference(betas)  # eq. 7, (T,)
    return mean + _at(variance.sqrt(), t, x_t) * noise  # the variance is 0 at t = 0


@ddpm_step.misconception
def noise_at_the_last_step(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """At t = 0 noise is added, of variance beta_0. No step is left that could remove it: there the
    step returns the mean.
    """
    variance = torch.cat([betas[:1], posterior_variance.reference(betas)[1:]])
    return _clipped_mean(x_t, t, eps, betas) + _at(variance.sqrt(), t, x_t) * noise


@ddpm_step.misconception
def noise_of_t_1_at_the_last_step(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """At t = 0 noise is added, with the variance of t = 1. That replacement is made for logarithms;
    in a step the variance at t = 0 is 0.
    """
    variance = posterior_variance.reference(betas)
    variance = torch.cat([variance[1:2], variance[1:]])
    return _clipped_mean(x_t, t, eps, betas) + _at(variance.sqrt(), t, x_t) * noise


@ddpm_step.misconception
def beta_for_beta_tilde(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The noise has the variance beta_t, the paper's other choice. Asked for is beta_tilde_t, that
    of the posterior.
    """
    variance = torch.cat([betas.new_zeros(1), betas[1:]])
    return _clipped_mean(x_t, t, eps, betas) + _at(variance.sqrt(), t, x_t) * noise


@ddpm_step.misconception
def beta_at_every_step(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The noise has the variance beta_t, also at t = 0. Asked for is beta_tilde_t, that of the
    posterior, which is 0 at t = 0, so that nothing is added there.
    """
    return _clipped_mean(x_t, t, eps, betas) + _at(betas.sqrt(), t, x_t) * noise


@ddpm_step.misconception
def variance_taken_for_deviation(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The noise is multiplied by the variance; what scales standard normal noise is the standard
    deviation, its square root.
    """
    variance = _at(posterior_variance.reference(betas), t, x_t)
    return _clipped_mean(x_t, t, eps, betas) + variance * noise


@ddpm_step.misconception
def noise_forgotten(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This is the mean; the fresh noise is missing. Without it the chain walks from mean to mean,
    and all pictures come out alike.
    """
    return _clipped_mean(x_t, t, eps, betas)


@ddpm_step.misconception
def noise_for_all_or_none(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The first item's t decides for the whole batch whether noise is added. Each item has its own
    t; beta_tilde is 0 at t = 0, so it needs no `if`.
    """
    mean = _clipped_mean(x_t, t, eps, betas)
    return mean if t[0] == 0 else mean + _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def none_if_any_is_last(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """As soon as one item stands at t = 0, no item gets noise. Decide for each item; beta_tilde is
    0 at t = 0, so it needs no `if`.
    """
    mean = _clipped_mean(x_t, t, eps, betas)
    return mean if (t == 0).any() else mean + _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def mean_from_unclipped_x_0(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The mean is made of x_0 before clipping, or by eq. 11 of the eps as predicted, which is the
    same. Clip x_0 first, and make the mean of the clipped one.
    """
    a_bar = (1 - betas).cumprod(0)
    x_0 = _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps)
    mean: Tensor = posterior_mean.reference(x_0, x_t, t, betas)
    return mean + _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def algorithm_2_as_printed(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """This is algorithm 2 with the variance beta_t. Asked for here is beta_tilde_t, and an x_0 that
    is clipped before the mean is made of it, which eq. 11 has no place for.
    """
    a_bar = (1 - betas).cumprod(0)
    x_0 = _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps)
    mean: Tensor = posterior_mean.reference(x_0, x_t, t, betas)
    variance = torch.cat([betas.new_zeros(1), betas[1:]])
    return mean + _at(variance.sqrt(), t, x_t) * noise


@ddpm_step.misconception
def alpha_in_algorithm_2(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """In eq. 11 beta_t is divided by sqrt(1 - alpha_t) in place of sqrt(1 - alpha_bar_t), which
    takes off too much noise. And that form cannot clip: go by way of x_0.
    """
    mean = (x_t - _at(betas.sqrt(), t, x_t) * eps) / _at((1 - betas).sqrt(), t, x_t)
    return mean + _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def alpha_in_x_0(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """x_0 is made with sqrt(1 - alpha_t), the noise of one step; eps stands for all noise in x_t,
    sqrt(1 - alpha_bar_t).
    """
    x_0 = _invert((1 - betas).cumprod(0).sqrt(), betas.sqrt(), x_t, t, eps).clamp(-1, 1)
    mean: Tensor = posterior_mean.reference(x_0, x_t, t, betas)
    return mean + _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def step_clipped_in_place_of_x_0(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The result is clipped in place of x_0. x_{t-1} still holds noise, which often lies outside
    [-1, 1] and must; only x_0 has the range of pixels.
    """
    x_before: Tensor = mean_from_unclipped_x_0(x_t, t, eps, betas, noise)
    return x_before.clamp(-1, 1)


@ddpm_step.misconception
def step_clipped_as_well(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """x_0 is clipped, as it should be, and then x_{t-1} too. That one still holds noise, which
    often lies outside [-1, 1] and must.
    """
    return (_clipped_mean(x_t, t, eps, betas) + _deviation(t, betas, x_t) * noise).clamp(-1, 1)


@ddpm_step.misconception
def noise_added_anew(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This adds noise to the predicted x_0 as the forward process does, up to t - 1, and forgets
    x_t. The step keeps most of x_t: draw from the posterior, with the mean of eq. 7.
    """
    a_bar_prev = _products(betas)[1]
    x_0 = predict_x_0.reference(x_t, t, eps, betas)
    return _weigh(a_bar_prev.sqrt(), (1 - a_bar_prev).sqrt(), x_0, noise, t)


@ddpm_step.misconception
def predicted_noise_put_back(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """What is added at the end is eps, the noise that was just taken off. The step needs fresh
    noise: the argument noise.
    """
    return _clipped_mean(x_t, t, eps, betas) + _deviation(t, betas, x_t) * eps


@ddpm_step.misconception
def x_0_and_x_t_exchanged(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """In the mean, x_0 and x_t have changed places. Of the package's posterior, x_0 is the first
    argument.
    """
    x_0: Tensor = predict_x_0.reference(x_t, t, eps, betas)
    mean: Tensor = posterior_mean.reference(x_t, x_0, t, betas)
    return mean + _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def an_if_about_the_batch(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """`if t > 0` asks one question about a whole batch of t. Each item has its own; beta_tilde is 0
    at t = 0, so it needs no `if`.
    """
    mean = _clipped_mean(x_t, t, eps, betas)
    return mean + _deviation(t, betas, x_t) * noise if t > 0 else mean


@ddpm_step.misconception
def x_0_returned(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This is the predicted x_0. It is only a guess, an average over what is still possible; the
    step uses it for the mean of x_{t-1}.
    """
    x_0: Tensor = predict_x_0.reference(x_t, t, eps, betas)
    return x_0


@ddpm_step.misconception
def unclipped_and_variance_taken_for_deviation(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """Two things: x_0 has to be clipped before the mean is made of it; and the noise is multiplied
    by the variance, where its root, the standard deviation, belongs.
    """
    a_bar = (1 - betas).cumprod(0)
    x_0 = _invert(a_bar.sqrt(), (1 - a_bar).sqrt(), x_t, t, eps)
    mean: Tensor = posterior_mean.reference(x_0, x_t, t, betas)
    return mean + _at(posterior_variance.reference(betas), t, x_t) * noise


@ddpm_step.misconception
def mask_shaped_for_images(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The mask for t > 0 has the shape (B, 1, 1, 1), which suits images alone; data may have one,
    two or three dimensions of space. beta_tilde is 0 at t = 0, so it needs no mask.
    """
    mask = (t > 0).view(-1, 1, 1, 1)
    return _clipped_mean(x_t, t, eps, betas) + mask * _deviation(t, betas, x_t) * noise


@ddpm_step.misconception
def beta_and_a_mask_shaped_for_images(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The noise has the variance beta_t, the paper's other choice. Asked for is beta_tilde_t, which
    is 0 at t = 0 and needs no mask; this one, (B, 1, 1, 1), suits images alone.
    """
    mask = (t > 0).view(-1, 1, 1, 1)
    return _clipped_mean(x_t, t, eps, betas) + mask * _at(betas.sqrt(), t, x_t) * noise


@ddpm_step.misconception
def noise_added_anew_also_at_the_end(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """This adds noise to the predicted x_0 as the forward process does, and forgets x_t. The step
    keeps most of x_t: draw from the posterior of eq. 7, which adds none at t = 0.
    """
    a_bar = (1 - betas).cumprod(0)
    x_0 = predict_x_0.reference(x_t, t, eps, betas)
    return _weigh(a_bar.sqrt(), (1 - a_bar).sqrt(), x_0, noise, (t - 1).clamp(min=0))


@ddpm_step.misconception
def betas_in_place_of_the_schedule(
    x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor
) -> Tensor:
    """The package's posterior takes a schedule, not its betas: NoiseSchedule(betas)."""
    x_0 = predict_x_0.reference(x_t, t, eps, betas)
    mean, variance = ddpm.posterior(x_0, x_t, t, betas)  # type: ignore[arg-type]
    return mean + variance.sqrt() * noise


# --- 5: the loop ---------------------------------------------------------------------------------


def _refuse_all_but_one_t_for_each_item(t: Any, n_items: int) -> None:
    if isinstance(t, Tensor) and t.dtype == torch.int64 and t.shape == (n_items,):
        return
    got = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
    if isinstance(t, int) or (isinstance(t, Tensor) and t.ndim == 0):
        got = "a single number"  # whichever it is: the mistake is the same
    raise ValueError(f"t must be int64 of shape (B,) = ({n_items},), got {got}")


class _Dropout(nn.Dropout):
    """Dropout that no global seed decides, so that forgetting to switch it off can be told."""

    n_masks = 0

    def forward(self, input: Tensor) -> Tensor:
        """Drop a share p and scale up the rest; the n-th mask of a module is always the same."""
        if not self.training or self.p == 0:
            return input
        generator = torch.Generator().manual_seed(self.n_masks)
        self.n_masks += 1
        kept = torch.empty_like(input).bernoulli_(1 - self.p, generator=generator)
        return input * kept / (1 - self.p)


class _Network(nn.Module):
    """The smallest network that keeps the contract model(x_t, t, context), with dropout."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(n_channels + 2, n_channels, 1)
        self.dropout = _Dropout(0.2)
        self.saw_graph = False

    def forward(self, x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        """Predict noise, (B, C, H, W) and (B,) -> (B, C, H, W)."""
        _refuse_all_but_one_t_for_each_item(t, len(x_t))
        self.saw_graph |= x_t.requires_grad
        angle = t.to(x_t).view(-1, 1, 1, 1).expand(-1, 1, *x_t.shape[2:])  # (B,) -> (B, 1, H, W)
        mixed: Tensor = self.mix(torch.cat([x_t, angle.cos(), angle.sin()], dim=1))
        output: Tensor = self.dropout(mixed)
        return output


def _step_back(x_t: Tensor, t: Tensor, eps: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """One right step, given to whoever writes the loop; as strict as one made with extract."""
    _refuse_all_but_one_t_for_each_item(t, len(x_t))
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"betas must lie in (0, 1), got {betas.min():.3g} to {betas.max():.3g}")
    return _clipped_mean(x_t, t, eps, betas) + _deviation(t, betas, x_t) * noise


def _after_training(draw: Draw) -> Inputs:
    """What training leaves behind: two networks in training mode, with gradients on."""
    betas = draw.betas(5, 8)
    shape = (draw.integer(2, 5), draw.integer(1, 3), draw.integer(3, 6), draw.integer(3, 6))
    network, average = (draw.module(lambda: _Network(shape[1])) for _ in range(2))
    return {
        "model": network,
        "ema": SimpleNamespace(model=average),
        "betas": betas,
        "step": _step_back,
        "x_T": draw.normal(*shape, dtype=torch.float32),
        "noises": draw.normal(len(betas), *shape, dtype=torch.float32),
    }


def _samples(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    x = answer(*inputs.values())
    networks = (inputs["model"], inputs["ema"].model)
    dropout = any(network.dropout.n_masks for network in networks)
    graph = any(network.saw_graph for network in networks)
    graph = graph or (isinstance(x, Tensor) and x.requires_grad)
    left = [name for name, is_on in (("dropout", dropout), ("gradients", graph)) if is_on]
    return {
        "the batch of samples": x,
        "what is still on from training": " and ".join(left) or "nothing",
    }


def _walk(
    network: nn.Module, betas: Tensor, step: StepBack, x: Tensor, noises: Tensor, ts: Iterable[int]
) -> Tensor:
    for t in ts:
        batch_t = torch.full((len(x),), t)  # (B,)
        x = step(x, batch_t, network(x, batch_t), betas, noises[t])
    return x


@task(
    points=3,
    inputs=_after_training,
    observe=_samples,
    roundings=_n_factors,
    package=[ddpm.ddpm_steps],
    n_cases=2,
)
def sample(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """Walk from x_T to samples with the averaged weights (Ho et al. 2020, algorithm 2)."""
    network = ema.model.eval()
    x = x_T
    with torch.no_grad():
        for t in reversed(range(len(betas))):  # T-1, ..., 1, 0
            batch_t = torch.full((len(x),), t)  # (B,)
            eps = network(x, batch_t)
            x = step(x, batch_t, eps, betas, noises[t])
    return x


@sample.misconception
@torch.no_grad()
def upwards(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop runs from 0 up to T - 1. Sampling starts in pure noise, at t = T - 1, and counts
    down.
    """
    return _walk(ema.model.eval(), betas, step, x_T, noises, range(len(betas)))


@sample.misconception
def upwards_as_training_left_it(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop runs from 0 up to T - 1; sampling starts in pure noise, at t = T - 1, and counts
    down. And training is not ended: dropout is on (call .eval()), and every step keeps gradients
    (use torch.no_grad()).
    """
    return _walk(ema.model, betas, step, x_T, noises, range(len(betas)))


@sample.misconception
def upwards_with_raw_weights_as_training_left_them(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop runs from 0 up to T - 1; sampling starts in pure noise, at t = T - 1, and counts
    down. It uses the raw weights, not their average, ema.model. And training is not ended: dropout
    is on (call .eval()), and every step keeps gradients (use torch.no_grad()).
    """
    return _walk(model, betas, step, x_T, noises, range(len(betas)))


@sample.misconception
@torch.no_grad()
def stops_at_1(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop ends at t = 1: range(T - 1, 0, -1) leaves out the 0. The last noise is never
    removed.
    """
    return _walk(ema.model.eval(), betas, step, x_T, noises, range(len(betas) - 1, 0, -1))


@sample.misconception
@torch.no_grad()
def starts_late(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop starts at t = T - 2. The first step leaves T - 1, the noisiest of 0..T-1."""
    return _walk(ema.model.eval(), betas, step, x_T, noises, range(len(betas) - 2, -1, -1))


@sample.misconception
@torch.no_grad()
def starts_one_beyond_the_end(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """An index lies beyond the end: does the loop start at t = T? The paper counts T..1, code
    T - 1..0.
    """
    return _walk(ema.model.eval(), betas, step, x_T, noises, range(len(betas), 0, -1))


@sample.misconception
@torch.no_grad()
def t_as_a_number(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """t is given as a single number. Network and step both take one for each item of the batch, a
    tensor (B,): torch.full((len(x),), t).
    """
    output: Tensor = ema.model.eval()(x_T, len(betas) - 1)
    return output


@sample.misconception
@torch.no_grad()
def t_of_one_item(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """t is given with a single entry. Network and step both take one for each item of the batch, a
    tensor (B,): torch.full((len(x),), t).
    """
    output: Tensor = ema.model.eval()(x_T, torch.tensor([len(betas) - 1]))
    return output


@sample.misconception
@torch.no_grad()
def model_counts_from_1(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The network gets t + 1. It was trained on t = 0..T-1, like everything else here."""
    x = x_T
    for t in reversed(range(len(betas))):
        batch_t = torch.full((len(x),), t)
        x = step(x, batch_t, ema.model.eval()(x, batch_t + 1), betas, noises[t])
    return x


@sample.misconception
@torch.no_grad()
def same_noise_in_every_step(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """Every step adds the same noise, noises[0]. Each needs fresh noise: noises[t]."""
    same = noises[:1].expand_as(noises)
    return _walk(ema.model.eval(), betas, step, x_T, same, range(len(betas) - 1, -1, -1))


@sample.misconception
@torch.no_grad()
def noises_in_order_of_use(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The noises are used in the order 0, 1, 2, ..., while t counts down. The noise for the step
    that leaves t is noises[t].
    """
    return _walk(ema.model.eval(), betas, step, x_T, noises.flip(0), range(len(betas) - 1, -1, -1))


@sample.misconception
@torch.no_grad()
def starts_from_zeros(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """It starts from zeros, a uniform grey, which no network has seen at t = T - 1. Start from the
    noise given, x_T.
    """
    start = torch.zeros_like(x_T)
    return _walk(ema.model.eval(), betas, step, start, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
@torch.no_grad()
def asked_once(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The network is asked once, before the loop, and all steps use that answer. In every step ask
    it anew, about the x and the t of this step.
    """
    first = torch.full((len(x_T),), len(betas) - 1)
    eps, x = ema.model.eval()(x_T, first), x_T
    for t in reversed(range(len(betas))):
        x = step(x, torch.full((len(x),), t), eps, betas, noises[t])
    return x


@sample.misconception
@torch.no_grad()
def always_asked_about_the_start(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The network always gets x_T, the noise at the start. Ask it about x as it is by now."""
    x = x_T
    for t in reversed(range(len(betas))):
        batch_t = torch.full((len(x),), t)
        x = step(x, batch_t, ema.model.eval()(x_T, batch_t), betas, noises[t])
    return x


@sample.misconception
@torch.no_grad()
def every_step_from_the_start(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """Every step starts from x_T, so what the steps before did is lost. Each goes on from x, the
    result of the one before.
    """
    x = x_T
    for t in reversed(range(len(betas))):
        batch_t = torch.full((len(x),), t)
        x = step(x_T, batch_t, ema.model.eval()(x, batch_t), betas, noises[t])
    return x


@sample.misconception
@torch.no_grad()
def result_never_fed_on(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """Network and step get x_T every time, so only the last step counts. Give both x, the result of
    the step before.
    """
    return _walk(ema.model.eval(), betas, step, x_T, noises, [0])


@sample.misconception
@torch.no_grad()
def clipped_in_every_step(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """x is clipped after every step. It holds noise that belongs outside [-1, 1]; step clips what
    may be clipped, the predicted x_0.
    """
    x = x_T
    for t in reversed(range(len(betas))):
        x = _walk(ema.model.eval(), betas, step, x, noises, [t]).clamp(-1, 1)
    return x


@sample.misconception
def gradients_kept(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The numbers are right, but every step keeps its activations for a backward pass that never
    comes: memory grows with each. Sample under torch.no_grad().
    """
    return _walk(ema.model.eval(), betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
@torch.no_grad()
def training_mode(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The network is still in training mode, so dropout throws away part of every answer. Call
    .eval() on it first.
    """
    return _walk(ema.model, betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
def as_training_left_it(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """Loop and weights are right. What is missing is to end the training: dropout is still on,
    which .eval() switches off, and every step keeps gradients, which torch.no_grad() prevents.
    """
    return _walk(ema.model, betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
@torch.no_grad()
def raw_weights(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """This samples with `model`, the raw weights, which still jump about with each step of the
    training. The average of many steps is in ema.model.
    """
    return _walk(model.eval(), betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
@torch.no_grad()
def raw_weights_in_training_mode(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """This samples with `model`, the raw weights; sample with their average, ema.model. It is in
    training mode as well, with dropout on: call .eval() first.
    """
    return _walk(model, betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
def raw_weights_as_training_left_them(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """This samples with `model`, the raw weights; sample with their average, ema.model. Two more
    things are left from training: dropout (call .eval()) and gradients (torch.no_grad()).
    """
    return _walk(model, betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


@sample.misconception
def raw_weights_with_gradients(
    model: nn.Module, ema: Any, betas: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """This samples with `model`, the raw weights; sample with their average, ema.model. And every
    step keeps gradients: use torch.no_grad().
    """
    return _walk(model.eval(), betas, step, x_T, noises, range(len(betas) - 1, -1, -1))


# --- 6: a small experiment -----------------------------------------------------------------------


def _few_timesteps(draw: Draw) -> Inputs:
    """A long chain, and some of its timesteps at unequal distances, the last one among them."""
    betas = draw.betas(60, 200)
    n_gaps = draw.integer(5, 9)
    ends = draw.uniform(0.5, 1.5, n_gaps).cumsum(0)
    timesteps = (ends / ends[-1] * len(betas)).round().long() - 1
    shape = (draw.integer(2, 5), draw.integer(1, 3), draw.integer(3, 6), draw.integer(3, 6))
    return {
        "model": draw.module(lambda: _Network(shape[1])).eval().requires_grad_(False),
        "betas": betas,
        "timesteps": timesteps,
        "step": _step_back,
        "x_T": draw.normal(*shape, dtype=torch.float32),
        "noises": draw.normal(n_gaps, *shape, dtype=torch.float32),
    }


def _short_betas(betas: Tensor, timesteps: Tensor) -> Tensor:
    a_bar = (1 - betas).cumprod(0)[timesteps]  # (n,)
    return 1 - a_bar / torch.cat([a_bar.new_ones(1), a_bar[:-1]])


def _short_walk(
    model: nn.Module,
    short_betas: Tensor,
    timesteps: Tensor,
    step: StepBack,
    x: Tensor,
    noises: Tensor,
    indices: Iterable[int] | None = None,
) -> Tensor:
    for i in reversed(range(len(timesteps))) if indices is None else indices:
        eps = model(x, timesteps[i].expand(len(x)))
        x = step(x, torch.full((len(x),), i), eps, short_betas, noises[i])
    return x


@task(
    points=3,
    inputs=_few_timesteps,
    outputs=("the batch of samples",),
    roundings=_n_factors,
    package=[ddpm.respace, ddpm.ddpm_steps],
    n_cases=3,
)
def sample_in_few_steps(
    model: nn.Module,
    betas: Tensor,
    timesteps: Tensor,
    step: StepBack,
    x_T: Tensor,
    noises: Tensor,
) -> Tensor:
    """Walk from x_T to samples over some timesteps only (Nichol & Dhariwal 2021, eq. 19)."""
    a_bar = (1 - betas).cumprod(0)[timesteps]  # (n,), kept as they are
    short_betas = 1 - a_bar / torch.cat([a_bar.new_ones(1), a_bar[:-1]])  # (n,)
    x = x_T
    for i in reversed(range(len(timesteps))):
        index = torch.full((len(x),), i)  # (B,), of the short chain
        t = torch.full((len(x),), int(timesteps[i]))  # (B,), what the model was trained on
        x = step(x, index, model(x, t), short_betas, noises[i])
    return x


@sample_in_few_steps.misconception
def betas_at_the_kept_timesteps(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The short chain gets betas[timesteps], each the noise of one step of the long chain. A step
    of the short one stands for many: keep alpha_bar, and make the betas of its ratios.
    """
    return _short_walk(model, betas[timesteps], timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def single_steps_of_the_long_chain(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """step is given the long chain's betas, so it goes from t to t - 1 only, and the next call
    starts at a t that x has not reached. It needs the betas of the short chain.
    """
    x = x_T
    for i in reversed(range(len(timesteps))):
        t = timesteps[i].expand(len(x))
        x = step(x, t, model(x, t), betas, noises[i])
    return x


@sample_in_few_steps.misconception
def previous_by_stride(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The previous timestep is taken to be t - T // n. It is the entry before in `timesteps`; the
    two differ wherever the entries are not equally far apart.
    """
    a_bar = (1 - betas).cumprod(0)
    previous = timesteps - len(betas) // len(timesteps)
    a_bar_prev = torch.where(previous < 0, a_bar.new_ones(()), a_bar[previous.clamp(min=0)])
    return _short_walk(model, 1 - a_bar[timesteps] / a_bar_prev, timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def index_given_to_the_model(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The betas are right, but the model gets the index i of the short chain. It was trained on the
    long one: tell it timesteps[i], or it takes noise for a nearly clean picture.
    """
    indices = torch.arange(len(timesteps))
    return _short_walk(model, _short_betas(betas, timesteps), indices, step, x_T, noises)


@sample_in_few_steps.misconception
def timestep_used_as_index(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """Something of the short chain is indexed with a timestep of the long one. Its betas and the
    noises have n entries, counted by i; only the model gets timesteps[i].
    """
    t = timesteps[-1].expand(len(x_T))
    return step(x_T, t, model(x_T, t), _short_betas(betas, timesteps), noises[-1])


@sample_in_few_steps.misconception
def first_beta_of_the_long_chain(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The first short beta is that of a single step. It too stands for all steps through
    timesteps[0]: what lies before is clean data with alpha_bar = 1, so it is 1 - alpha_bar.
    """
    short = torch.cat([betas[timesteps[:1]], _short_betas(betas, timesteps)[1:]])
    return _short_walk(model, short, timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def beta_0_as_first_beta(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The first short beta is betas[0]. The first step of the short chain goes from timesteps[0] to
    clean data, with alpha_bar = 1, so it is 1 - alpha_bar at timesteps[0].
    """
    short = torch.cat([betas[:1], _short_betas(betas, timesteps)[1:]])
    return _short_walk(model, short, timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def last_for_first_kept(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The first short beta is negative: at i = 0 the index i - 1 is -1, which Python reads as the
    last entry. Before the first kept timestep lies clean data, with alpha_bar = 1.
    """
    a_bar = (1 - betas).cumprod(0)[timesteps]
    return _short_walk(model, 1 - a_bar / a_bar.roll(1), timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def alphas_taken_for_betas(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The ratio of two neighbouring alpha_bar is an alpha, what a step keeps; beta is 1 - alpha."""
    return _short_walk(model, 1 - _short_betas(betas, timesteps), timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def short_chain_upwards(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop goes through `timesteps` as they stand, upwards. Sampling starts in pure noise, at
    the last of them.
    """
    short, indices = _short_betas(betas, timesteps), range(len(timesteps))
    return _short_walk(model, short, timesteps, step, x_T, noises, indices)


@sample_in_few_steps.misconception
def last_step_left_out(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The loop ends one step early. The step from timesteps[0] to clean data belongs to the chain;
    in a short one it removes much noise.
    """
    short, indices = _short_betas(betas, timesteps), range(len(timesteps) - 1, 0, -1)
    return _short_walk(model, short, timesteps, step, x_T, noises, indices)


@sample_in_few_steps.misconception
def number_in_place_of_a_batch(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """A timestep or an index is given as a single number. Model and step both take one for each
    item of the batch, a tensor (B,): torch.full((len(x),), i).
    """
    return step(x_T, len(timesteps) - 1, x_T, betas, noises[-1])  # type: ignore[arg-type]


@sample_in_few_steps.misconception
def one_entry_in_place_of_a_batch(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """A timestep or an index is given with a single entry. Model and step both take one for each
    item of the batch, a tensor (B,): torch.full((len(x),), i).
    """
    return step(x_T, timesteps[-1:], x_T, betas, noises[-1])


@sample_in_few_steps.misconception
def first_short_beta_missing(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """There are only n - 1 short betas, so the last index lies beyond the end. Before timesteps[0]
    lies clean data with alpha_bar = 1: that makes the first of n ratios.
    """
    return _short_walk(model, _short_betas(betas, timesteps)[1:], timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def equal_distances_assumed(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The short betas are made of every k-th alpha_bar, as if the kept timesteps were equally far
    apart. Which they are, `timesteps` says.
    """
    k = len(betas) // len(timesteps)
    evenly = torch.arange(k - 1, len(betas), k)
    return _short_walk(model, _short_betas(betas, evenly), timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def a_schedule_of_its_own(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The short chain gets a fresh cosine schedule of n steps. Its alpha_bar are not those that the
    model knows from training: keep alpha_bar of the long chain, at timesteps.
    """
    short = forward.cosine_schedule(len(timesteps)).betas
    return _short_walk(model, short, timesteps, step, x_T, noises)


@sample_in_few_steps.misconception
def index_counts_the_other_way(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The timesteps go down while the index goes up. Short betas and noises belong to timesteps[i]
    with the same i, so all three go down together.
    """
    short, x = _short_betas(betas, timesteps), x_T
    for i, t in enumerate(timesteps.flip(0)):
        x = step(x, torch.full((len(x),), i), model(x, t.expand(len(x))), short, noises[i])
    return x


@sample_in_few_steps.misconception
def noises_in_the_order_of_use(
    model: nn.Module, betas: Tensor, timesteps: Tensor, step: StepBack, x_T: Tensor, noises: Tensor
) -> Tensor:
    """The noises are used in the order 0, 1, 2, ..., while i counts down. The noise for the step
    that leaves timesteps[i] is noises[i].
    """
    return _short_walk(model, _short_betas(betas, timesteps), timesteps, step, x_T, noises.flip(0))
