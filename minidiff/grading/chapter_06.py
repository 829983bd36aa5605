"""Checks of chapter 06, improved DDPM: `from minidiff.grading import chapter_06 as check`.

Numbers count from 0 as in all code. Lengths of chains are never 1000, so that T / 1000 shows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn import functional as F

from minidiff import improved
from minidiff.forward import NoiseSchedule, forward_diffusion
from minidiff.grading.check import Answer, Inputs, task
from minidiff.grading.draw import Draw

HALF = 1 / 255  # half of the distance between two grey levels


def _n_factors(inputs: Inputs) -> float:
    """A product of T factors rounds T times; what it is subtracted from may be nearly equal."""
    betas = inputs["betas"] if "betas" in inputs else inputs["schedule"].betas
    return len(betas) + 256.0


def _posterior_variance(betas: Tensor) -> Tensor:
    a_bar = (1 - betas).cumprod(0)
    return betas * (1 - torch.cat([a_bar.new_ones(1), a_bar[:-1]])) / (1 - a_bar)


def _clipped(values: Tensor) -> Tensor:
    """Let entry 1 stand in for entry 0."""
    return torch.cat([values[1:2], values[1:]])


def _at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Gather one coefficient for each item, (T,) -> (B, 1, ..., 1)."""
    return values[t].view(-1, *[1] * (like.ndim - 1)).to(like)


def _shape(draw: Draw) -> list[int]:
    """Images, sound and video; in the last case the width equals the batch."""
    n_items = draw.integer(5, 8)
    space = [draw.integer(3, 5) for _ in range((2, 1, 3, 2)[draw.case])]
    if draw.case == 3:
        space[-1] = n_items
    return [n_items, draw.integer(2, 4), *space]


def _timesteps(draw: Draw, n_items: int, n_steps: int) -> Tensor:
    """Draw t with 0 first, last, absent and inside."""
    t = draw.timesteps(n_items, n_steps)
    return (t, t.roll(-1), t.clamp(min=1), t.roll(2))[draw.case]


# --- 1: the logarithm of beta_tilde --------------------------------------------------------------


@task(
    points=2,
    inputs=lambda draw: {"betas": draw.betas(40, 200)},
    roundings=_n_factors,
    package=[improved.posterior_log_variance],
)
def log_beta_tilde(betas: Tensor) -> Tensor:
    """Log beta_tilde_t, (T,) -> (T,), with the value of t = 1 at t = 0 as well."""
    return _clipped(_posterior_variance(betas)).log()


@log_beta_tilde.misconception
def log_of_zero(betas: Tensor) -> Tensor:
    """At t = 0 this is the logarithm of 0, minus infinity. The value of t = 1 stands in for it."""
    return _posterior_variance(betas).log()


@log_beta_tilde.misconception
def tiny_at_the_start(betas: Tensor) -> Tensor:
    """At t = 0 a tiny constant, 1e-20, stands in for 0. That claims to know each pixel to ten
    digits, and ruins the likelihood: take the value of t = 1.
    """
    return _posterior_variance(betas).clamp(min=1e-20).log()


@log_beta_tilde.misconception
def less_tiny_at_the_start(betas: Tensor) -> Tensor:
    """At t = 0 a small constant, 1e-12, stands in for 0. It has nothing to do with this chain: take
    the value of t = 1.
    """
    return _posterior_variance(betas).clamp(min=1e-12).log()


@log_beta_tilde.misconception
def beta_at_the_start(betas: Tensor) -> Tensor:
    """At t = 0 stands log beta. Both ends of the range would then be one, and nothing be left to
    learn in the last step: take the value of t = 1.
    """
    return torch.cat([betas[:1], _posterior_variance(betas)[1:]]).log()


@log_beta_tilde.misconception
def log_beta(betas: Tensor) -> Tensor:
    """These are the logarithms of beta, the upper end of the range. beta_tilde is beta times (1 -
    alpha_bar_{t-1}) / (1 - alpha_bar_t).
    """
    return betas.log()


@log_beta_tilde.misconception
def log_beta_clipped(betas: Tensor) -> Tensor:
    """Entry 0 repeats entry 1, as it should, but these are logarithms of beta. beta_tilde is beta
    times (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), with products of the alphas, 1 - beta.
    """
    return _clipped(betas).log()


@log_beta_tilde.misconception
def first_left_out(betas: Tensor) -> Tensor:
    """There are only T - 1 entries: that of t = 0 is missing. There stands the value of t = 1."""
    return _posterior_variance(betas)[1:].log()


@log_beta_tilde.misconception
def no_logarithm(betas: Tensor) -> Tensor:
    """These are the variances; their logarithms are asked for."""
    return _clipped(_posterior_variance(betas))


@log_beta_tilde.misconception
def unclipped_and_no_logarithm(betas: Tensor) -> Tensor:
    """These are the variances, 0 at t = 0. Let the value of t = 1 stand in for it, and take the
    logarithms.
    """
    return _posterior_variance(betas)


@log_beta_tilde.misconception
def logarithm_of_base_2(betas: Tensor) -> Tensor:
    """This is the logarithm of base 2. Bits come at the very end; here it is the natural one."""
    return _clipped(_posterior_variance(betas)).log2()


@log_beta_tilde.misconception
def logarithm_of_base_10(betas: Tensor) -> Tensor:
    """This is the logarithm of base 10; asked for is the natural one."""
    return _clipped(_posterior_variance(betas)).log10()


@log_beta_tilde.misconception
def logarithm_of_the_deviation(betas: Tensor) -> Tensor:
    """This is the logarithm of the standard deviation, half of that of the variance."""
    return _clipped(_posterior_variance(betas)).log() / 2


@log_beta_tilde.misconception
def fraction_upside_down(betas: Tensor) -> Tensor:
    """The fraction is upside down. Knowing x_0 makes x_{t-1} more certain, so beta_tilde is smaller
    than beta: the factor (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) is below 1.
    """
    variance = _posterior_variance(betas)
    return _clipped(betas**2 / variance).log()


@log_beta_tilde.misconception
def moved_by_one(betas: Tensor) -> Tensor:
    """All values are moved by one place, so that the one at t belongs to t - 1. Only entry 0 is
    replaced, the others stay.
    """
    variance = _posterior_variance(betas)
    return torch.cat([variance[1:2], variance[1:2], variance[1:-1]]).log()


@log_beta_tilde.misconception
def alpha_in_place_of_alpha_bar(betas: Tensor) -> Tensor:
    """The fraction is made of alphas, of single steps; then 1 - alpha_t cancels beta_t, and the
    betas are left, one place late. It takes the products, alpha_bar.
    """
    return _clipped(torch.cat([betas[:1], betas[:-1]])).log()


@log_beta_tilde.misconception
def moved_the_other_way(betas: Tensor) -> Tensor:
    """All values stand one place too early, and the last is repeated. Only entry 0 is replaced, by
    that of t = 1; the others stay.
    """
    variance = _posterior_variance(betas)
    return torch.cat([variance[1:], variance[-1:]]).log()


@log_beta_tilde.misconception
def rolled(betas: Tensor) -> Tensor:
    """At t = 0 the last alpha_bar stands for the one before the first, as roll puts it. That one is
    1, so that beta_tilde is 0 there; let the value of t = 1 stand in.
    """
    a_bar = (1 - betas).cumprod(0)
    return (betas * (1 - a_bar.roll(1)) / (1 - a_bar)).log()


@log_beta_tilde.misconception
def logarithm_0_at_the_start(betas: Tensor) -> Tensor:
    """At t = 0 the logarithm is set to 0, which means a variance of 1. The value of t = 1 stands
    there.
    """
    log_variance = _clipped(_posterior_variance(betas)).log()
    return torch.cat([torch.zeros_like(log_variance[:1]), log_variance[1:]])


@log_beta_tilde.misconception
def betas_one_place_late(betas: Tensor) -> Tensor:
    """The fraction at t is multiplied with the beta of t - 1. Both belong to the same t; only
    alpha_bar is needed one place earlier.
    """
    variance = _posterior_variance(betas)[1:] / betas[1:] * betas[:-1]
    return torch.cat([variance[:1], variance]).log()


# --- 2: between the logarithms -------------------------------------------------------------------


def _output_of_a_network(draw: Draw) -> Inputs:
    shape = _shape(draw)
    schedule = NoiseSchedule(draw.betas(40, 200))
    return {
        "v": draw.uniform(-1.3, 1.3, *shape, dtype=draw.dtype()),
        "t": _timesteps(draw, shape[0], schedule.n_steps),
        "schedule": schedule,
    }


def _ends(t: Tensor, schedule: NoiseSchedule, like: Tensor) -> tuple[Tensor, Tensor]:
    """The two logarithms at t, (B, 1, ..., 1) each."""
    low = _at(_clipped(_posterior_variance(schedule.betas)).log(), t, like)
    return low, _at(schedule.betas.log(), t, like)


def _between(fraction: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    low, high = _ends(t, schedule, fraction)
    return fraction * high + (1 - fraction) * low


@task(
    points=3,
    inputs=_output_of_a_network,
    outputs=("the log-variance",),
    roundings=_n_factors,
    package=[improved.learned_log_variance, improved.learned_variance],
)
def learned_log_variance(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """What v chooses between log beta_tilde (v = -1) and log beta (v = 1), shaped like v."""
    low, high = _ends(t, schedule, v)
    fraction = (v + 1) / 2
    return fraction * high + (1 - fraction) * low


@learned_log_variance.misconception
def v_taken_for_the_fraction(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """v itself is taken for the fraction. It runs from -1 to 1, the fraction from 0 to 1: (v + 1) /
    2. In eq. 15 of the paper, v stands for the fraction.
    """
    return _between(v, t, schedule)


@learned_log_variance.misconception
def ends_exchanged(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The ends are exchanged: v = 1 must give log beta, v = -1 log beta_tilde."""
    return _between((1 - v) / 2, t, schedule)


@learned_log_variance.misconception
def variances_interpolated(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The variances are interpolated and the logarithm taken afterwards. Interpolate the
    logarithms: then any v gives a positive variance, and v = 0 the geometric mean.
    """
    low, high = (end.exp() for end in _ends(t, schedule, v))
    fraction = (v + 1) / 2
    return (fraction * high + (1 - fraction) * low).log()


@learned_log_variance.misconception
def variance_returned(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """This is the variance. Its logarithm is asked for: leave out the exponential."""
    return _between((v + 1) / 2, t, schedule).exp()


@learned_log_variance.misconception
def v_clipped(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """v is clipped to [-1, 1]. Nothing in eq. 15 limits it, and where it is clipped it gets no
    gradient: a pixel that is either black or white may need more than beta.
    """
    return _between((v.clamp(-1, 1) + 1) / 2, t, schedule)


@learned_log_variance.misconception
def v_through_a_sigmoid(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The fraction is made by a sigmoid. It is linear in v: (v + 1) / 2."""
    return _between(v.sigmoid(), t, schedule)


@learned_log_variance.misconception
def not_halved(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The fraction is v + 1, which runs from 0 to 2. Halve it."""
    return _between(v + 1, t, schedule)


@learned_log_variance.misconception
def log_of_zero_at_the_start(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """At t = 0 the logarithm of beta_tilde is minus infinity. The value of t = 1 stands in for it:
    posterior_log_variance has it.
    """
    low = _at(_posterior_variance(schedule.betas).log(), t, v)
    fraction = (v + 1) / 2
    return fraction * _at(schedule.betas.log(), t, v) + (1 - fraction) * low


@learned_log_variance.misconception
def tiny_constant_at_the_start(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """At t = 0 beta_tilde is replaced by 1e-20. The network would have to spend its v on undoing
    that: let the value of t = 1 stand in, as posterior_log_variance does.
    """
    low = _at(_posterior_variance(schedule.betas).clamp(min=1e-20).log(), t, v)
    fraction = (v + 1) / 2
    return fraction * _at(schedule.betas.log(), t, v) + (1 - fraction) * low


@learned_log_variance.misconception
def no_logarithm_of_beta(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The upper end is beta, not its logarithm."""
    low, high = _ends(t, schedule, v)
    fraction = (v + 1) / 2
    return fraction * high.exp() + (1 - fraction) * low


@learned_log_variance.misconception
def one_t_for_the_batch(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """All items get the ends of the first item's t. Gather them for each item, and give them the
    shape (B, 1, ..., 1).
    """
    return _between((v + 1) / 2, t[:1].expand(len(t)), schedule)


@learned_log_variance.misconception
def ends_not_reshaped(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The ends, shape (B,), meet the last dimension of v, not its batch. Give them the shape (B, 1,
    ..., 1) first, with as many dimensions as v, or use extract.
    """
    low = _clipped(_posterior_variance(schedule.betas)).log()[t].to(v)
    fraction = (v + 1) / 2
    return fraction * schedule.betas.log()[t].to(v) + (1 - fraction) * low


@learned_log_variance.misconception
def ends_shaped_for_images(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The ends have the shape (B, 1, 1, 1), which suits images alone. Data may have one, two or
    three dimensions of space: as many ones as v has dimensions after the first.
    """
    low = _clipped(_posterior_variance(schedule.betas)).log()[t].view(-1, 1, 1, 1).to(v)
    fraction = (v + 1) / 2
    high = schedule.betas.log()[t].view(-1, 1, 1, 1).to(v)
    return fraction * high + (1 - fraction) * low


@learned_log_variance.misconception
def variances_interpolated_from_0(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The variances are interpolated, with a beta_tilde of 0 at t = 0, and the logarithm is taken
    afterwards. Interpolate the logarithms; posterior_log_variance has the lower ones.
    """
    low = _at(_posterior_variance(schedule.betas), t, v)
    fraction = (v + 1) / 2
    return (fraction * _at(schedule.betas, t, v) + (1 - fraction) * low).log()


@learned_log_variance.misconception
def one_not_halved(v: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The fraction is v / 2 + 1, which runs from 1/2 to 3/2. Halve the 1 as well: (v + 1) / 2."""
    return _between(v / 2 + 1, t, schedule)


# --- 3: a KL in bits -----------------------------------------------------------------------------


def _two_normals(draw: Draw) -> Inputs:
    shape, dtype = _shape(draw), draw.dtype()
    narrow = [shape[0], *[1] * (len(shape) - 1)]
    return {
        "mean_p": draw.uniform(-1, 1, *shape, dtype=dtype),
        "log_variance_p": draw.uniform(-1.5, -0.5, *narrow, dtype=dtype),
        "mean_q": draw.uniform(-1, 1, *shape, dtype=dtype),
        "log_variance_q": draw.uniform(-0.4, 1.0, *shape, dtype=dtype),
    }


def _nats(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    return (log_q - log_p - 1 + (log_p - log_q).exp() + (mean_p - mean_q) ** 2 / log_q.exp()) / 2


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)


@task(
    points=2,
    inputs=_two_normals,
    outputs=("the KL",),
    package=[improved.normal_kl, improved.vlb_term, kl_divergence],
)
def kl_in_bits(
    mean_p: Tensor, log_variance_p: Tensor, mean_q: Tensor, log_variance_q: Tensor
) -> Tensor:
    """KL(p || q) of normals, averaged over each item's pixels, in bits, (B,)."""
    return _bits(_nats(mean_p, log_variance_p, mean_q, log_variance_q))


@kl_in_bits.misconception
def in_nats(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """These are nats. One bit is log 2 nats: divide by log 2."""
    return _nats(mean_p, log_p, mean_q, log_q).flatten(1).mean(1)


@kl_in_bits.misconception
def multiplied_by_log_2(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """Multiplied by log 2, where nats are divided by it: a nat is more than a bit, so the number
    must become larger.
    """
    return _nats(mean_p, log_p, mean_q, log_q).flatten(1).mean(1) * math.log(2)


@kl_in_bits.misconception
def other_direction(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """This is KL(q || p). The expectation is taken over p: its variance stands above the line, that
    of q below.
    """
    return _bits(_nats(mean_q, log_q, mean_p, log_p))


@kl_in_bits.misconception
def half_forgotten(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """Twice as much as it should be: the factor 1/2 before the bracket is missing."""
    return _bits(2 * _nats(mean_p, log_p, mean_q, log_q))


@kl_in_bits.misconception
def one_forgotten(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """The -1 in the bracket is missing. A test: if p and q are equal, the KL is 0."""
    return _bits(_nats(mean_p, log_p, mean_q, log_q) + 0.5)


@kl_in_bits.misconception
def summed_over_pixels(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """Summed over an item's pixels. Bits *per dimension* are a mean over them."""
    return _nats(mean_p, log_p, mean_q, log_q).flatten(1).sum(1) / math.log(2)


@kl_in_bits.misconception
def averaged_over_the_batch_too(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """A single number: averaged over the batch as well. Each item has a t and a term of its own."""
    return _nats(mean_p, log_p, mean_q, log_q).mean() / math.log(2)


@kl_in_bits.misconception
def not_averaged(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """One number for each pixel. Average over all dimensions but the batch."""
    return _nats(mean_p, log_p, mean_q, log_q) / math.log(2)


@kl_in_bits.misconception
def averaged_over_channels_alone(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """Averaged over the channels alone. Average over everything but the batch: flatten(1) first."""
    return _nats(mean_p, log_p, mean_q, log_q).mean(1) / math.log(2)


@kl_in_bits.misconception
def averaged_over_the_batch_in_place_of_pixels(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """Averaged over the batch, with the pixels left. It is the other way round: one number for each
    item.
    """
    return _nats(mean_p, log_p, mean_q, log_q).mean(0) / math.log(2)


@kl_in_bits.misconception
def divided_by_the_variance_of_p(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """The squared distance of the means is divided by the variance of p. It is that of q: the
    measure is how improbable q makes what p gives.
    """
    extra = (mean_p - mean_q) ** 2 * ((-log_p).exp() - (-log_q).exp()) / 2
    return _bits(_nats(mean_p, log_p, mean_q, log_q) + extra)


@kl_in_bits.misconception
def distance_not_squared(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """The distance of the means is not squared."""
    distance = mean_p - mean_q
    return _bits(_nats(mean_p, log_p, mean_q, log_q) + (distance - distance**2) / log_q.exp() / 2)


@kl_in_bits.misconception
def sign_of_the_logarithms(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """The logarithms have the wrong sign: it is log of the variance of q minus that of p."""
    return _bits(_nats(mean_p, log_p, mean_q, log_q) - (log_q - log_p))


@kl_in_bits.misconception
def deviations_for_variances(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """It takes exp(log_variance / 2), the standard deviations, where the variances belong."""
    return _bits(_nats(mean_p, log_p / 2, mean_q, log_q / 2))


@kl_in_bits.misconception
def logarithms_taken_for_deviations(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """The arguments are taken for logarithms of standard deviations, and doubled or squared once
    too often. They are logarithms of variances.
    """
    return _bits(_nats(mean_p, 2 * log_p, mean_q, 2 * log_q))


@kl_in_bits.misconception
def ratio_forgotten(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """The ratio of the variances is missing in the bracket; without it two normals of equal means
    have a KL below 0.
    """
    return _bits(_nats(mean_p, log_p, mean_q, log_q) - (log_p - log_q).exp() / 2)


@kl_in_bits.misconception
def logarithms_taken_for_variances(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """The arguments are used as the variances. They are logarithms: ratios of variances are
    exponentials of their differences, and the squared distance is divided by exp(log_variance_q).
    """
    return _bits((log_q / log_p - 1 + log_p / log_q + (mean_p - mean_q) ** 2 / log_q) / 2)


@kl_in_bits.misconception
def absolute_distance(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor) -> Tensor:
    """The distance of the means is taken without its sign, but not squared."""
    distance = (mean_p - mean_q).abs()
    return _bits(_nats(mean_p, log_p, mean_q, log_q) + (distance - distance**2) / log_q.exp() / 2)


@kl_in_bits.misconception
def base_2_in_the_first_part_alone(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """Only the logarithm of the ratio has base 2; the other parts of the bracket are still in nats.
    Divide the whole by log 2.
    """
    more = (log_q - log_p) * (1 / math.log(2) - 1) / 2
    return (_nats(mean_p, log_p, mean_q, log_q) + more).flatten(1).mean(1)


@kl_in_bits.misconception
def divided_by_the_squared_variance(
    mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor
) -> Tensor:
    """The squared distance is divided by exp(2 log_variance_q), the square of the variance. A
    factor inside an exponential becomes a power: divide by exp(log_variance_q).
    """
    extra = (mean_p - mean_q) ** 2 * ((-2 * log_q).exp() - (-log_q).exp()) / 2
    return _bits(_nats(mean_p, log_p, mean_q, log_q) + extra)


# --- 4: the probability of a grey level ----------------------------------------------------------


def _grey_levels(draw: Draw) -> Inputs:
    """Pixels of 256 levels, some at the ends and next to them, and a normal close to each."""
    shape, dtype = _shape(draw), draw.dtype()
    level = draw.uniform(0, 256, *shape).floor().clamp(0, 255)
    flat = level.view(-1)
    flat[:8] = torch.tensor([0.0, 255, 1, 254, 0, 255, 2, 253], dtype=level.dtype)
    x_0 = 2 * level / 255 - 1
    narrow = [shape[0], *[1] * (len(shape) - 1)]
    deviation = draw.uniform(0.6, 1.6, *narrow) * 2 * HALF  # in steps between levels
    mean = x_0 + draw.uniform(-1.2, 1.2, *shape) * deviation
    return {
        "x_0": x_0.to(dtype),
        "mean": mean.to(dtype),
        "log_variance": (2 * deviation.log()).to(dtype),
    }


def _cut(
    x_0: Tensor,
    mean: Tensor,
    deviation: Tensor,
    half: float = HALF,
    edge: float = 0.999,
    open_low: bool = True,
    open_high: bool = True,
) -> Tensor:
    """The bins by a difference of cdfs."""
    upper = torch.special.ndtr((x_0 - mean + half) / deviation)
    lower = torch.special.ndtr((x_0 - mean - half) / deviation)
    if open_high:
        upper = torch.where(x_0 > edge, 1.0, upper)
    if open_low:
        lower = torch.where(x_0 < -edge, 0.0, lower)
    probability: Tensor = upper - lower
    return probability


@task(
    points=3,
    inputs=_grey_levels,
    outputs=("the probability",),
    package=[improved.discretised_log_likelihood, improved.vlb_term],
)
def bin_probability(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Probability of each pixel under a normal cut into 256 bins, shaped like x_0."""
    return _cut(x_0, mean, (log_variance / 2).exp())


@bin_probability.misconception
def density(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is the density, which may be larger than 1. A bin's probability is the integral of it,
    the difference of two cdfs.
    """
    z = (x_0 - mean) / (log_variance / 2).exp()
    value: Tensor = (-(z**2) / 2 - log_variance / 2).exp() / math.sqrt(2 * math.pi)
    return value


@bin_probability.misconception
def density_times_width(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is the density times the width of a bin. That is nearly right only where the normal is
    far wider than a bin; take the difference of two cdfs.
    """
    value: Tensor = density(x_0, mean, log_variance)
    return 2 * HALF * value


@bin_probability.misconception
def bins_of_double_width(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Each bin reaches a whole step, 2/255, to either side, so that neighbours overlap. It is half
    a step, 1/255.
    """
    return _cut(x_0, mean, (log_variance / 2).exp(), half=2 * HALF)


@bin_probability.misconception
def bins_for_0_to_1(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Each bin reaches 1/510 to either side, as for pixels in [0, 1]. Here they lie in [-1, 1]: the
    levels are 2/255 apart.
    """
    return _cut(x_0, mean, (log_variance / 2).exp(), half=HALF / 2)


@bin_probability.misconception
def bins_of_256(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Each bin reaches 1/256 to either side. Between 256 levels lie 255 steps: it is 1/255."""
    return _cut(x_0, mean, (log_variance / 2).exp(), half=1 / 256)


@bin_probability.misconception
def ends_closed(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The two outermost bins end like all others, and what lies beyond belongs to no pixel. They
    reach to infinity, or the 256 do not sum to 1.
    """
    return _cut(x_0, mean, (log_variance / 2).exp(), open_low=False, open_high=False)


@bin_probability.misconception
def only_black_open(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The bin of white, x_0 = 1, ends like all others. It reaches up to infinity."""
    return _cut(x_0, mean, (log_variance / 2).exp(), open_high=False)


@bin_probability.misconception
def only_white_open(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The bin of black, x_0 = -1, ends like all others. It reaches down to minus infinity."""
    return _cut(x_0, mean, (log_variance / 2).exp(), open_low=False)


@bin_probability.misconception
def ends_exchanged_at_infinity(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The open ends are exchanged: black, -1, reaches down to minus infinity, so that its
    probability is cdf(upper edge); white that above its lower edge.
    """
    deviation = (log_variance / 2).exp()
    upper = torch.special.ndtr((x_0 - mean + HALF) / deviation)
    lower = torch.special.ndtr((x_0 - mean - HALF) / deviation)
    return torch.where(x_0 > 0.999, upper, torch.where(x_0 < -0.999, 1 - lower, upper - lower))


@bin_probability.misconception
def next_to_the_ends_open_too(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The levels next to the ends, 1 and 254, are taken for the ends: they lie at 0.992 already.
    The limit must lie above that, 0.999 or 1 - 1/255.
    """
    return _cut(x_0, mean, (log_variance / 2).exp(), edge=0.99)


@bin_probability.misconception
def variance_for_deviation(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """It divides by exp(log_variance), the variance. What scales a distance is the standard
    deviation, exp(log_variance / 2).
    """
    return _cut(x_0, mean, log_variance.exp())


@bin_probability.misconception
def logarithm_returned(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is the logarithm; the probability itself is asked for."""
    return _cut(x_0, mean, (log_variance / 2).exp()).log()


@bin_probability.misconception
def cdf_alone(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is the cdf at the upper edge, the probability of this level or any darker one. Subtract
    that at the lower edge.
    """
    cdf: Tensor = torch.special.ndtr((x_0 - mean + HALF) / (log_variance / 2).exp())
    return cdf


@bin_probability.misconception
def values_at_the_ends_exchanged(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """At the open ends the cdf gets the wrong value, and the probabilities come out negative. Below
    plus infinity lies all of the probability, 1; below minus infinity none, 0.
    """
    inside = _cut(x_0, mean, (log_variance / 2).exp(), open_low=False, open_high=False)
    upper = torch.special.ndtr((x_0 - mean + HALF) / (log_variance / 2).exp())
    lower = torch.special.ndtr((x_0 - mean - HALF) / (log_variance / 2).exp())
    return torch.where(x_0 > 0.999, -lower, torch.where(x_0 < -0.999, upper - 1, inside))


@bin_probability.misconception
def outside_of_the_ends(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """At both ends this is the probability of everything outside the bin. White reaches from its
    lower edge up, black from its upper edge down.
    """
    inside = _cut(x_0, mean, (log_variance / 2).exp())
    return torch.where(x_0.abs() > 0.999, 1 - inside, inside)


@bin_probability.misconception
def cdf_at_the_outer_edges(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """At the ends stands the cdf at the outer edge, which is no edge there. Black is the cdf at its
    upper edge; white is 1 minus the cdf at its lower edge.
    """
    inside = _cut(x_0, mean, (log_variance / 2).exp())
    upper = torch.special.ndtr((x_0 - mean + HALF) / (log_variance / 2).exp())
    lower = torch.special.ndtr((x_0 - mean - HALF) / (log_variance / 2).exp())
    return torch.where(x_0 > 0.999, upper, torch.where(x_0 < -0.999, lower, inside))


@bin_probability.misconception
def ends_by_the_mean(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Whether a bin is open is decided by the mean. It depends on the pixel: x_0 says which of the
    256 bins is meant.
    """
    deviation = (log_variance / 2).exp()
    upper = torch.special.ndtr((x_0 - mean + HALF) / deviation)
    lower = torch.special.ndtr((x_0 - mean - HALF) / deviation)
    return torch.where(mean > 0.999, 1.0, upper) - torch.where(mean < -0.999, 0.0, lower)


@bin_probability.misconception
def mean_alone_divided(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Only the mean is divided by the standard deviation: brackets are missing around the distance
    between edge and mean.
    """
    deviation = (log_variance / 2).exp()
    upper = torch.special.ndtr(x_0 + HALF - mean / deviation)
    lower = torch.special.ndtr(x_0 - HALF - mean / deviation)
    return torch.where(x_0 > 0.999, 1.0, upper) - torch.where(x_0 < -0.999, 0.0, lower)


@bin_probability.misconception
def multiplied_by_the_deviation(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The distance from the mean is multiplied by the standard deviation. Divide by it: the same
    distance counts for more where the normal is narrow.
    """
    return _cut(x_0, mean, (-log_variance / 2).exp())


# --- 5: the hybrid loss --------------------------------------------------------------------------


class _Network(nn.Module):
    """A model of six weights with a prediction of x_0 and a v, for any number of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.prediction = nn.Parameter(torch.ones(3))
        self.v = nn.Parameter(torch.ones(3))

    def forward(self, x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        """Mix x_t, its square and a wave in t, twice: (B, C, *space) -> (B, 2C, *space)."""
        if not isinstance(t, Tensor) or t.shape != x_t.shape[:1]:
            raise ValueError(f"t must be a tensor of shape ({len(x_t)},)")
        wave = torch.cos(t.to(x_t)).view(-1, *[1] * (x_t.ndim - 1))  # (B,) -> (B, 1, ..., 1)
        parts = (x_t, x_t.tanh() ** 2, wave)
        halves = [
            sum(weight * part for weight, part in zip(weights, parts, strict=True))
            for weights in (self.prediction, self.v)
        ]
        return torch.cat([h for h in halves if isinstance(h, Tensor)], dim=1)


def _training_step(draw: Draw) -> Inputs:
    shape, dtype = _shape(draw), draw.dtype()
    betas = draw.betas(40, 200)
    betas[:1] = draw.uniform(0.02, 0.1, 1)  # a likelihood at t = 0 of ordinary size
    network = _Network().to(dtype)
    with torch.no_grad():
        network.prediction.copy_(draw.uniform(0.4, 0.7, 3))  # leaves [-1, 1]
        network.v.copy_(draw.uniform(0.2, 0.6, 3))
    return {
        "model": network,
        "x_0": draw.uniform(-1, 1, *shape, dtype=dtype),
        "t": _timesteps(draw, shape[0], len(betas)),
        "noise": draw.normal(*shape, dtype=dtype),
        "schedule": NoiseSchedule(betas),
    }


def _loss_and_gradients(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """The loss and its gradients, for what is detached shows in these alone."""
    model = inputs["model"]
    loss = answer(*inputs.values())
    seen: dict[str, Any] = {"the loss": loss}
    parts = {"the prediction": model.prediction, "the variance": model.v}
    for name, weights in parts.items():
        gradient: Any = "none"
        if weights.grad is not None:
            gradient = "computed already"
        elif isinstance(loss, Tensor) and loss.requires_grad:
            (of_weights,) = torch.autograd.grad(
                loss.sum(), weights, allow_unused=True, retain_graph=True
            )
            gradient = "none" if of_weights is None else of_weights
        seen[f"the gradient of {name}"] = gradient
    return seen


def _parts(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, the prediction and v."""
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    prediction, v = model(x_t, t).chunk(2, dim=1)
    return x_t, prediction, v


def _terms(
    x_0: Tensor, x_t: Tensor, t: Tensor, guess: Tensor, v: Tensor, schedule: NoiseSchedule
) -> Tensor:
    log_variance = improved.learned_log_variance((v + 1) / 2, t, schedule)
    return improved.vlb_term(x_0, x_t, t, guess, log_variance, schedule)


@task(
    points=4,
    inputs=_training_step,
    observe=_loss_and_gradients,
    roundings=_n_factors,
    package=[improved.hybrid_loss],
)
def hybrid_loss(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """L_simple + 0.001 L_vlb of a model that predicts x_0 (Nichol & Dhariwal 2021, eq. 16)."""
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)  # (B,)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def one_term_for_the_sum(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The terms have the weight 0.001. L_vlb is a sum over T of them, and with t uniform one term
    stands for T: its weight is 0.001 T.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + 0.001 * terms.mean()


@hybrid_loss.misconception
def not_detached(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The bound trains the prediction as well. Detach the prediction in it, so that L_simple alone
    decides the mean.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction, v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def neither_detached_nor_times_T(  # noqa: N802
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Two things: one term stands for T of them, so its weight is 0.001 T; and the prediction has
    to be detached in it, so that the bound trains the variance alone.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction, v, schedule)
    return F.mse_loss(prediction, x_0) + 0.001 * terms.mean()


@hybrid_loss.misconception
def all_detached(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The variance gets no gradient: v is detached too, or all of the bound. Detach the prediction
    alone; v is what the bound is there to train.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction, v, schedule).detach()
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def v_detached_in_place_of_the_prediction(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The wrong one is detached: the bound now trains the prediction and not the variance."""
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction, v.detach(), schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def detached_in_both(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The prediction is detached in L_simple too, and gets no gradient at all. Detach it in the
    bound alone.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction.detach(), x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def thousandth_forgotten(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The factor 0.001 is missing: the bound would rule the loss."""
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps * terms.mean()


@hybrid_loss.misconception
def no_weight_at_all(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The mean of the terms has the weight 1: none at all, or 0.001 times 1000. L_vlb counts a
    thousandth, and one term stands for T of them; T is schedule.n_steps, not always 1000.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + terms.mean()


@hybrid_loss.misconception
def summed_over_the_batch(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The terms are summed over the batch. The sum of L_vlb runs over the T timesteps; estimate it
    by T times the mean over the batch.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + 0.001 * terms.sum()


@hybrid_loss.misconception
def one_loss_for_each_item(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is one loss for each item; .backward() needs a single number. Average the terms over the
    batch.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms


@hybrid_loss.misconception
def v_is_no_fraction(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """v is handed on as the fraction. It runs from -1 to 1, the fraction from 0 to 1: (v + 1) /
    2, which is 1/2 where v is 0.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), 2 * v - 1, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def halves_exchanged(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The halves of the output are exchanged: the first C channels are the prediction, the last C
    are v.
    """
    x_t, v, prediction = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def every_other_channel(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Every other channel is taken for v. The first C channels are the prediction, the last C are
    v: chunk(2, dim=1).
    """
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    output = model(x_t, t)
    prediction, v = output[:, ::2], output[:, 1::2]
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def simple_alone(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is L_simple alone, or with next to nothing beside it. Add the terms of the bound, times
    T; divided by T they vanish.
    """
    _, prediction, _ = _parts(model, x_0, t, noise, schedule)
    return F.mse_loss(prediction, x_0)


@hybrid_loss.misconception
def bound_alone(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is the part of the bound alone; with the prediction detached, nothing trains the mean.
    Add L_simple.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def compared_with_the_noise(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """L_simple compares the prediction with the noise. This model predicts x_0."""
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, noise) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def x_0_and_x_t_exchanged(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """In vlb_term, x_0 and x_t have changed places: x_0 is the first argument."""
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_t, x_0, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def truth_for_the_prediction(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The bound is given the true x_0 in the prediction's place. Then beta_tilde is always right,
    and the network never learns what its own errors need.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, x_0, v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()


@hybrid_loss.misconception
def summed_over_the_batch_times_T(  # noqa: N802
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The terms are summed over the batch and multiplied by T besides. Each of them is an estimate
    of the whole: T times their mean.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach(), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.sum()


@hybrid_loss.misconception
def clipped_in_the_bound(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The bound is given a prediction clipped to [-1, 1]. Give it the prediction as it is: its
    errors are what the variance has to learn.
    """
    x_t, prediction, v = _parts(model, x_0, t, noise, schedule)
    terms = _terms(x_0, x_t, t, prediction.detach().clamp(-1, 1), v, schedule)
    return F.mse_loss(prediction, x_0) + schedule.n_steps / 1000 * terms.mean()
