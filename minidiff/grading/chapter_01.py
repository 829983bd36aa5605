"""Checks of chapter 01, forward diffusion: `from minidiff.grading import chapter_01 as check`.

Numbers count from 0 as in all code: alpha_bar[t] is the product through t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import forward
from minidiff.grading.check import Answer, Estimate, Inputs, Malformed, task
from minidiff.grading.diagnosis import describe
from minidiff.grading.draw import Draw


def _n_factors(inputs: Inputs) -> float:
    """A product of T factors rounds T times; some ten operations follow."""
    return len(inputs["betas"]) + 64.0


# --- 1: the product ------------------------------------------------------------------------------


def _rising_or_falling(draw: Draw) -> Inputs:
    """Where betas fall, the first is the largest, and leaving it out shows."""
    betas = draw.betas()
    return {"betas": betas.flip(0) if draw.case % 2 else betas}


@task(
    points=1,
    inputs=_rising_or_falling,
    roundings=_n_factors,
    package=[forward.NoiseSchedule],
)
def alpha_bar(betas: Tensor) -> Tensor:
    """All alpha_bar_t of a schedule, (T,) -> (T,): the products of 1 - beta through t."""
    return (1 - betas).cumprod(0)


@alpha_bar.misconception
def product_of_betas(betas: Tensor) -> Tensor:
    """This multiplies the betas. What a step keeps of the variance is alpha = 1 - beta."""
    return betas.cumprod(0)


@alpha_bar.misconception
def one_minus_product_of_betas(betas: Tensor) -> Tensor:
    """Two operations are exchanged: first 1 - beta for each step, then the product."""
    return 1 - betas.cumprod(0)


@alpha_bar.misconception
def no_product(betas: Tensor) -> Tensor:
    """This is alpha_t, what one step keeps. alpha_bar_t is what all steps through t keep."""
    return 1 - betas


@alpha_bar.misconception
def product_to_t_minus_1(betas: Tensor) -> Tensor:
    """The product stops one step early: at t = 0 there has been one step already, so entry 0 is 1 -
    betas[0], not 1. As a slice it is betas[:t + 1].
    """
    return torch.cat([torch.ones_like(betas[:1]), (1 - betas[:-1]).cumprod(0)])


@alpha_bar.misconception
def skips_beta_0(betas: Tensor) -> Tensor:
    """The first factor is missing: entry 0 is 1, but it must be 1 - betas[0]. Code counts from 0,
    so the product for t begins with betas[0] and ends with betas[t].
    """
    return torch.cat([torch.ones_like(betas[:1]), (1 - betas[1:]).cumprod(0)])


@alpha_bar.misconception
def one_in_front(betas: Tensor) -> Tensor:
    """The 1 in front, for no step at all, is one entry too many: entry 0 belongs to the first step
    and is 1 - betas[0].
    """
    return torch.cat([torch.ones_like(betas[:1]), (1 - betas).cumprod(0)])


@alpha_bar.misconception
def first_entry_cut_off(betas: Tensor) -> Tensor:
    """The products are right, but the first was cut off. s = 1 in the formula is entry 0 here."""
    return (1 - betas).cumprod(0)[1:]


@alpha_bar.misconception
def first_beta_cut_off(betas: Tensor) -> Tensor:
    """The first beta was cut off. s = 1 in the formula is betas[0] in code."""
    return (1 - betas[1:]).cumprod(0)


@alpha_bar.misconception
def sum_of_alphas(betas: Tensor) -> Tensor:
    """This adds the factors up, and grows without end. The big Pi multiplies: each step keeps a
    share of what the steps before it have left.
    """
    return (1 - betas).cumsum(0)


@alpha_bar.misconception
def power_of_one_alpha(betas: Tensor) -> Tensor:
    """A power multiplies the same factor again and again, as if all betas through t were betas[t].
    Each step has a beta of its own.
    """
    return (1 - betas) ** torch.arange(len(betas))


@alpha_bar.misconception
def one_number(betas: Tensor) -> Tensor:
    """This is one number, the product of all T factors, alpha_bar at the end of the chain. Asked
    for is a running product, with one entry for each t.
    """
    return (1 - betas).prod()


@alpha_bar.misconception
def product_of_all(betas: Tensor) -> Tensor:
    """This is the product of all T factors at every t; at t only those through t belong in it."""
    return (1 - betas).prod().expand(len(betas))


@alpha_bar.misconception
def sum_in_place_of_product(betas: Tensor) -> Tensor:
    """This subtracts the sum of the betas. Each step keeps a share of what is left, so the shares
    multiply; a sum runs below zero.
    """
    return 1 - betas.cumsum(0)


@alpha_bar.misconception
def exponential_of_the_sum(betas: Tensor) -> Tensor:
    """exp(-sum of the betas) comes close while the betas are small, but it is only close: log(1 -
    beta) is a little less than -beta. Multiply the factors themselves.
    """
    return (-betas.cumsum(0)).exp()


@alpha_bar.misconception
def root_too_early(betas: Tensor) -> Tensor:
    """This is sqrt(alpha_bar_t), the weight of x_0. alpha_bar_t itself has no root."""
    return (1 - betas).cumprod(0).sqrt()


# --- 2: betas for any T --------------------------------------------------------------------------


def _n_steps(draw: Draw) -> Inputs:
    """The usual T, a divisor of 1000, one that does not divide it, and one above it."""
    uneven = draw.choice([n_steps for n_steps in range(30, 66) if 1000 % n_steps])
    return {"n_steps": (1000, 100, uneven, draw.integer(1001, 2000))[draw.case]}


@task(points=2, inputs=_n_steps, package=[forward.linear_schedule])
def linear_betas(n_steps: int) -> Tensor:
    """The linear schedule for any T, () -> (T,): 1e-4 to 0.02, both scaled by 1000 / T."""
    scale = 1000 / n_steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, n_steps, dtype=torch.float64)


@linear_betas.misconception
def unscaled(n_steps: int) -> Tensor:
    """The two ends are made for T = 1000. With fewer steps each has to add more noise, or the chain
    never reaches pure noise: which factor on both ends keeps the sum of the betas?
    """
    return torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)


@linear_betas.misconception
def scaled_the_wrong_way(n_steps: int) -> Tensor:
    """The factor is upside down: fewer steps need larger betas, so it is 1000 / T."""
    scale = n_steps / 1000
    return torch.linspace(1e-4 * scale, 0.02 * scale, n_steps, dtype=torch.float64)


@linear_betas.misconception
def scale_rounded_down(n_steps: int) -> Tensor:
    """1000 // T drops what stands behind the point: T = 300 gets 3 in place of 3.33, and any T
    above 1000 gets 0. One slash divides without rounding.
    """
    scale = 1000 // n_steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, n_steps, dtype=torch.float64)


@linear_betas.misconception
def never_scaled_down(n_steps: int) -> Tensor:
    """Short chains are right, but a chain longer than 1000 has to add less in each step: the factor
    1000 / T holds below 1 as well.
    """
    scale = max(1.0, 1000 / n_steps)
    return torch.linspace(1e-4 * scale, 0.02 * scale, n_steps, dtype=torch.float64)


@linear_betas.misconception
def only_the_last_scaled(n_steps: int) -> Tensor:
    """Only the last beta is scaled; the first one is made for T = 1000 as well."""
    return torch.linspace(1e-4, 0.02 * 1000 / n_steps, n_steps, dtype=torch.float64)


@linear_betas.misconception
def last_never_reached(n_steps: int) -> Tensor:
    """The last beta is missing: the T values include both ends, so they lie (end - start) / (T - 1)
    apart, as torch.linspace places them.
    """
    scale, i = 1000 / n_steps, torch.arange(n_steps, dtype=torch.float64)
    return scale * (1e-4 + (0.02 - 1e-4) * i / n_steps)


@linear_betas.misconception
def first_left_out(n_steps: int) -> Tensor:
    """The values start one place too late: the first beta is the start itself, 1e-4 * 1000 / T.
    Code counts from 0, and the T values include both ends.
    """
    scale, i = 1000 / n_steps, torch.arange(1, n_steps + 1, dtype=torch.float64)
    return scale * (1e-4 + (0.02 - 1e-4) * i / n_steps)


@linear_betas.misconception
def rescaled_without_its_end(n_steps: int) -> Tensor:
    """The sum is right, but the line is not: arange(T) / T stops one place before 1, so the last
    beta falls short, and setting the sum right then lifts all the others.
    """
    betas = 1e-4 + (0.02 - 1e-4) * torch.arange(n_steps, dtype=torch.float64) / n_steps
    return betas * 10.05 / betas.sum()


@linear_betas.misconception
def constant_added(n_steps: int) -> Tensor:
    """The sum is right, but something was added to every beta to make it so. A factor keeps the
    last beta 200 times the first; an addition does not.
    """
    betas = torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)
    return betas + (10.05 - betas.sum()) / n_steps


@linear_betas.misconception
def first_of_1000(n_steps: int) -> Tensor:
    """These are the first T of 1000 betas, scaled to the right sum. They stop partway up the line;
    the last beta has to be 200 times the first for every T.
    """
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[:n_steps]
    return betas * 10.05 / betas.sum()


@linear_betas.misconception
def picked_from_1000(n_steps: int) -> Tensor:
    """These are T of the 1000 betas, picked at rounded places, so their distances are uneven. Draw
    the line with T points in the first place.
    """
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return betas[torch.linspace(0, 999, n_steps).long()] * 1000 / n_steps


@linear_betas.misconception
def always_1000(n_steps: int) -> Tensor:
    """There are 1000 betas whatever T is. Only the ends come from T = 1000; between them lie T
    values.
    """
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64) * 1000 / n_steps


@linear_betas.misconception
def sum_of_one(n_steps: int) -> Tensor:
    """These betas add up to 1. Their sum has to be 10.05, as it is for T = 1000."""
    betas = torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)
    return betas / betas.sum()


@linear_betas.misconception
def sum_taken_for_the_factor(n_steps: int) -> Tensor:
    """10.05 is the sum that has to come out, not the factor. Which sum do the unscaled betas have
    for your T?
    """
    return 10.05 * torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)


@linear_betas.misconception
def linear_in_the_root(n_steps: int) -> Tensor:
    """Here the square roots of the betas rise linearly (as in latent diffusion's "scaled linear"
    schedule); asked for are betas that rise linearly themselves.
    """
    scale = 1000 / n_steps
    roots = torch.linspace(1e-4**0.5, 0.02**0.5, n_steps, dtype=torch.float64)
    return scale * roots.square()


# --- 3: x_t in one step --------------------------------------------------------------------------


def _noisy(draw: Draw) -> Inputs:
    """Images, sound and video; in the last case the width equals the batch, or some mistakes hide.

    Otherwise no two dimensions that torch could take for one another are equal.
    """
    betas, dtype, n_items = draw.betas(), draw.dtype(), draw.integer(8, 12)
    space = [draw.integer(4, 8) for _ in range((2, 1, 3, 2)[draw.case])]
    if draw.case == 3:
        space[-1] = n_items
    x_0 = draw.uniform(-1, 1, n_items, draw.integer(2, 4), *space, dtype=dtype)
    t = draw.timesteps(len(x_0), len(betas))
    t = t[draw.uniform(0, 1, len(t)).argsort()]  # the first is no longer 0
    return {"x_0": x_0, "t": t, "betas": betas, "noise": draw.normal(*x_0.shape, dtype=dtype)}


def _mix(signal: Tensor, spread: Tensor, t: Tensor, x_0: Tensor, noise: Tensor) -> Tensor:
    """Weigh picture and noise with coefficients (T,), gathered at t."""
    shape = (-1, *[1] * (x_0.ndim - 1))
    return signal[t].view(shape).to(x_0) * x_0 + spread[t].view(shape).to(x_0) * noise


@task(
    points=3,
    inputs=_noisy,
    outputs=("x_t",),
    roundings=_n_factors,
    package=[forward.forward_diffusion],
)
def forward_diffusion(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """x_t of a batch, each item at its own t, from the noise given (Ho et al. 2020, eq. 4)."""
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def root_forgotten_on_alpha_bar(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The weight of x_0 is sqrt(alpha_bar_t): alpha_bar_t says what is left of the variance, and a
    factor counts squared in a variance.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar, (1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def variance_taken_for_deviation(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """1 - alpha_bar_t is the variance of the noise; what multiplies standard normal noise is its
    standard deviation, the square root.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), 1 - a_bar, t, x_0, noise)


@forward_diffusion.misconception
def both_roots_forgotten(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Both square roots are missing. alpha_bar_t and 1 - alpha_bar_t are shares of the variance;
    the weights are their roots, so that the squares of the weights add up to 1.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar, 1 - a_bar, t, x_0, noise)


@forward_diffusion.misconception
def weights_add_up_to_one(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """These two weights add up to 1, as for an average. What must add up to 1 is their squares, for
    variances add: the noise has the weight sqrt(1 - alpha_bar_t), one root over the difference.
    """
    root = (1 - betas).cumprod(0).sqrt()
    return _mix(root, 1 - root, t, x_0, noise)


@forward_diffusion.misconception
def one_root_too_many(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The noise's weight has a root inside the root, sqrt(1 - sqrt(alpha_bar_t)). Under the root
    stands the variance 1 - alpha_bar_t itself.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar.sqrt()).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def noise_subtracted(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The noise is subtracted. It would look the same, for -noise is as likely as noise, but the
    noise given would no longer be the noise in x_t. The minus of eq. 4 stands under the root only.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), -(1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def alpha_bar_taken_for_the_weight(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This is another notation: where alpha is the weight of x_0 itself, that of the noise is
    sqrt(1 - alpha^2). Here alpha_bar_t is that weight squared already.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar, (1 - a_bar**2).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def alpha_in_place_of_alpha_bar(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This takes alpha_t = 1 - beta_t, a single step from x_0. All steps through t lie between x_0
    and x_t: the weights need their product alpha_bar_t.
    """
    alphas = 1 - betas
    return _mix(alphas.sqrt(), (1 - alphas).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def stops_at_t_minus_1(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The product stops one step early. Code counts from 0, and t = 0 has had one step: there
    alpha_bar is 1 - betas[0], not 1.
    """
    a_bar = torch.cat([betas.new_ones(1), (1 - betas[:-1]).cumprod(0)])
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def counts_from_1(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This looks t - 1 up, as if t counted from 1. Here it counts from 0, and a_bar[-1], which t =
    0 then gets, is the last entry: nothing but noise.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t - 1, x_0, noise)


@forward_diffusion.misconception
def looks_up_t_plus_1(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This looks t + 1 up. t counts from 0 already and is the index: a_bar[t] is the product
    through t, and the last t, T - 1, is the last entry.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t + 1, x_0, noise)


@forward_diffusion.misconception
def gathered_before_the_product(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The betas are looked up at t first and multiplied afterwards, so that the product runs over
    the items of the batch. First the product over all steps, then look it up at t.
    """
    a_bar = (1 - betas[t]).cumprod(0)  # (B,)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), torch.arange(len(t)), x_0, noise)


@forward_diffusion.misconception
def t_not_used(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """These are T coefficients for B items: t was never used. Look up the one of each item,
    a_bar[t], before you shape them.
    """
    a_bar = (1 - betas).cumprod(0).to(x_0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), torch.arange(len(betas)), x_0, noise)


@forward_diffusion.misconception
def betas_taken_as_linear(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This makes betas of its own, those of the linear schedule, and takes from the betas given
    only how many there are. Use the ones given: there are other schedules.
    """
    a_bar = (1 - linear_betas.reference(len(betas))).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def same_noise_in_each_step(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This walks through the chain and adds the same noise in every step. Then it is the weights
    that add up, not the variances, and far too much noise results. Eq. 4 is all steps in one.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), a_bar.sqrt() * (betas / a_bar).sqrt().cumsum(0), t, x_0, noise)


@forward_diffusion.misconception
def product_to_the_end(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Every item gets the product of all T factors, as if it stood at the end of the chain. At t
    only the factors through t count.
    """
    a_bar = (1 - betas).prod().expand(len(betas))
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def noise_of_one_step(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The picture fades as it should, but the noise is that of step t alone, sqrt(beta_t). All
    steps have added noise: together its variance is 1 - alpha_bar_t.
    """
    return _mix((1 - betas).cumprod(0).sqrt(), betas.sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def noise_scaled_by_beta(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The noise is multiplied by beta_t. That is the variance of one step's noise; asked for is the
    standard deviation of all the noise through t, sqrt(1 - alpha_bar_t).
    """
    return _mix((1 - betas).cumprod(0).sqrt(), betas, t, x_0, noise)


@forward_diffusion.misconception
def weights_exchanged(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The two weights are exchanged: at t = 0 nearly all must be picture, at T - 1 nearly all
    noise.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix((1 - a_bar).sqrt(), a_bar.sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def never_shrinks(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The noise is right, but x_0 keeps its full weight. Each step shrinks as well: x_0 is
    multiplied by sqrt(alpha_bar_t).
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(torch.ones_like(a_bar), (1 - a_bar).sqrt(), t, x_0, noise)


@forward_diffusion.misconception
def one_t_for_the_batch(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """All items get the first item's t. Gather one coefficient for each item, a_bar[t], and give it
    the shape (B, 1, ..., 1).
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t[:1].expand(len(t)), x_0, noise)


@forward_diffusion.misconception
def coefficients_along_the_width(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """a_bar[t] has the shape (B,), and torch lines that up with the last dimension of x_0, not with
    the batch. Give it the shape (B, 1, ..., 1) before you multiply.
    """
    a_bar = (1 - betas).cumprod(0)[t].to(x_0)  # (B,)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


@forward_diffusion.misconception
def coefficients_along_the_height(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """One dimension was added, which makes (B, 1), and torch lines that up with the last two
    dimensions of x_0. It takes as many ones as x_0 has dimensions after the first.
    """
    a_bar = (1 - betas).cumprod(0)[t].to(x_0)[:, None]  # (B, 1)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


@forward_diffusion.misconception
def whole_batch_for_each_t(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """For each t the whole batch is noised, B times B items. Each t belongs to one item: in the
    loop, take that item of x_0 and of noise too.
    """
    a_bar = (1 - betas).cumprod(0)[t].to(x_0).view(-1, *[1] * x_0.ndim)  # (B, 1, 1, ..., 1)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise  # (B, B, ...)


@forward_diffusion.misconception
def images_only(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This is right for images (B, C, H, W) alone. Sound has one dimension less and video one more:
    add as many ones to the shape as x_0 has dimensions after the first.
    """
    a_bar = (1 - betas).cumprod(0)[t].to(x_0).view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


@forward_diffusion.misconception
def four_dimensions_unpacked(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """B, C, H, W = x_0.shape goes well for images alone: sound has three dimensions and video five.
    Ask x_0.ndim how many there are.
    """
    n_items, _, _, _ = x_0.shape
    a_bar = (1 - betas).cumprod(0)[t].to(x_0).view(n_items, 1, 1, 1)  # (B, 1, 1, 1)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


@forward_diffusion.misconception
def noise_of_its_own(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """This draws noise of its own and never uses the noise that it was given. Take that one: then
    the caller knows what is in x_t.
    """
    a_bar = (1 - betas).cumprod(0)
    return _mix(a_bar.sqrt(), (1 - a_bar).sqrt(), t, x_0, torch.randn_like(noise))


# --- 4: a training batch, with its own random numbers --------------------------------------------


def _clean(draw: Draw) -> Inputs:
    """Many small items and few timesteps, so that statistics are sharp."""
    betas = draw.betas(4, 6)
    x_0 = draw.uniform(-1, 1, 12_000, draw.integer(2, 4), 2, 2, dtype=draw.dtype())
    return {"x_0": x_0, "betas": betas, "generator": draw.generator}


_SHAPES = "the tuple of the shapes of x_t, t and noise"
_EQ_4 = "the claim that eq. 4 makes x_t of x_0, t and noise"
_REST = "what eq. 4 leaves unexplained, in units of the noise,"
_SAME_T = "the claim that all items have the same t"
_NEIGHBOURS = "the share of items with the same t as the next,"  # what it should be follows
_OTHER_SEED = "what a generator with another seed changes"
_SECOND_CALL = "what a second call with the same generator changes"
_SAME_NOISE = "the claim that all items have the same noise"
_SAME_VALUE = "the claim that all values of an item have the same noise"
_MOMENTS = (  # name, and the variance of what is averaged
    ("the noise's mean, 0 in theory,", 1),
    ("the noise's variance, 1 in theory,", 2),
    ("the noise's fourth moment, 3 in theory,", 96),
)
_DIMENSIONS = ("items", "channels", "rows", "columns")


def _statistics(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """Is x_t made of the t and noise returned, and are these distributed as they should be?

    Nothing here depends on the order in which an answer draws.
    """
    x_0, betas, generator = inputs.values()
    x_t, t, noise = _batch(answer, x_0, betas, generator)
    seen: dict[str, Any] = {
        _SHAPES: (tuple(x_t.shape), tuple(t.shape), tuple(noise.shape)),
        "the dtype of t": str(t.dtype),
    }
    if seen[_SHAPES] != (tuple(x_0.shape), (len(x_0),), tuple(x_0.shape)):
        return seen
    a_bar = (1 - betas).cumprod(0)
    signal, spread = a_bar.sqrt(), (1 - a_bar).sqrt()
    inside = t.long().clamp(0, len(betas) - 1)
    seen[f"the claim that every t lies in 0..{len(betas) - 1}"] = torch.equal(inside, t.long())
    rest = (x_t - _mix(signal, spread, inside, x_0, noise)).double()
    in_units = (rest.square().flatten(1).mean(1) / spread[inside] ** 2).mean().sqrt()
    seen[_EQ_4] = bool(rest.abs().max() < 1e-4)
    seen[_REST] = Estimate(in_units, (2 / rest.numel()) ** 0.5)
    seen |= _about_the_generator(answer, x_0[:500], betas, generator.initial_seed())
    return seen | _about_t(t.long(), len(betas)) | _about_noise(noise.double())


def _batch(answer: Answer, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    result = answer(*inputs)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise Malformed(f"It should return x_t, t and noise, but it returns {describe(result)}.")
    for name, value in zip(("x_t", "t", "noise"), result, strict=True):
        if isinstance(value, tuple):
            raise Malformed(f"It returns {describe(value)} for {name}; expected a tensor.")
    x_t, t, noise = map(torch.as_tensor, result)
    return x_t, t, noise


def _about_the_generator(answer: Answer, x_0: Tensor, betas: Tensor, seed: int) -> dict[str, Any]:
    """What is drawn anew by a second call with a generator, and what with another generator?"""
    generator, another = (torch.Generator().manual_seed(seed + i) for i in (1, 2))
    _, *first = _batch(answer, x_0, betas, generator)
    _, *second = _batch(answer, x_0, betas, generator)
    _, *third = _batch(answer, x_0, betas, another)

    def changed(other: list[Tensor]) -> tuple[str, ...]:
        pairs = zip(("t", "noise"), first, other, strict=True)
        return tuple(name for name, a, b in pairs if not torch.equal(a, b))

    return {_OTHER_SEED: changed(third), _SECOND_CALL: changed(second)}


def _about_t(t: Tensor, n_steps: int) -> dict[str, Any]:
    """How often does each timestep occur, and how often twice in a row, (B,)?"""
    same = bool((t == t[0]).all())
    seen: dict[str, Any] = {_SAME_T: same}
    if same:
        return seen
    p = 1 / n_steps
    standard_error = (p * (1 - p) / len(t)) ** 0.5
    for step in range(n_steps):
        share = (t == step).double().mean()
        seen[f"the share of t = {step}, 1/{n_steps} in theory,"] = Estimate(share, standard_error)
    repeated = (t[1:] == t[:-1]).double().mean()
    return seen | {f"{_NEIGHBOURS} 1/{n_steps} in theory,": Estimate(repeated, standard_error)}


def _about_noise(noise: Tensor) -> dict[str, Any]:
    """Is it standard normal, and independent along each dimension, (B, C, H, W)?"""
    same_noise = bool((noise == noise[0]).all())
    same_value = bool((noise == noise[:, :1, :1, :1]).all())
    seen: dict[str, Any] = {_SAME_NOISE: same_noise, _SAME_VALUE: same_value}
    if same_noise or same_value:
        return seen
    moments = noise.mean(), noise.var(), noise.square().square().mean()
    for (name, variance), value in zip(_MOMENTS, moments, strict=True):
        seen[name] = Estimate(value, (variance / noise.numel()) ** 0.5)
    for dim, name in enumerate(_DIMENSIONS):
        n = noise.shape[dim] - 1
        product = noise.narrow(dim, 0, n) * noise.narrow(dim, 1, n)
        correlation = f"the correlation of neighbouring {name}' noise, 0 in theory,"
        seen[correlation] = Estimate(product.mean(), product.numel() ** -0.5)
    return seen


def _draw_batch(
    x_0: Tensor, betas: Tensor, generator: torch.Generator, low: int = 0, high: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw t from low..T-1+high and noise, and make x_t of them."""
    t = torch.randint(low, len(betas) + high, (len(x_0),), generator=generator)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t.clamp(0, len(betas) - 1), betas, noise), t, noise


def _with_the_package(
    x_0: Tensor, t: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Make x_t as most do: the package refuses a t that will not do, and its words are compared."""
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    x_t, _ = forward.forward_diffusion(x_0, t, forward.NoiseSchedule(betas), noise)
    return x_t, t, noise


@task(points=3, inputs=_clean, observe=_statistics, n_cases=1)
def noisy_batch(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch to train on: x_t, with the t and the noise drawn for it from the generator."""
    return _draw_batch(x_0, betas, generator)


@noisy_batch.misconception
def same_t_for_all(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One t is drawn for the whole batch. Then a training step learns about a single noise level;
    draw one for each item. torch.randint is told by its size how many to draw.
    """
    t = torch.randint(len(betas), (1,), generator=generator).expand(len(x_0))
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def one_t_in_a_list(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One t of shape (1,) is drawn for the whole batch. Then a training step learns about a single
    noise level; draw as many as there are items.
    """
    t = torch.randint(len(betas), (1,), generator=generator)
    return _with_the_package(x_0, t, betas, generator)


@noisy_batch.misconception
def same_noise_for_all(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One noise is drawn and used for every item of the batch; each needs its own, so draw it with
    the shape of x_0, batch included.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    noise = torch.randn(x_0.shape[1:], generator=generator, dtype=x_0.dtype).expand_as(x_0)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def one_number_per_item(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Each item gets one random number for all its values, which only makes it brighter or darker.
    Every value needs its own: draw the noise with the whole shape of x_0.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    shape = (-1, *[1] * (x_0.ndim - 1))
    noise = torch.randn(len(x_0), generator=generator, dtype=x_0.dtype).view(shape).expand_as(x_0)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def same_noise_in_all_channels(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """All channels of an item get the same noise. Every value needs its own: draw the noise with
    the whole shape of x_0.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    noise = torch.randn(x_0[:, :1].shape, generator=generator, dtype=x_0.dtype).expand_as(x_0)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def last_t_never_drawn(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t = T - 1 is hardly ever drawn, or never, and the model would not know the very noise that
    sampling starts from. If you use torch.randint: its upper end is exclusive, so it must be T.
    """
    return _draw_batch(x_0, betas, generator, high=-1)


@noisy_batch.misconception
def first_t_never_drawn(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t = 0 is never drawn. The papers count from 1, code from 0: t runs over 0..T-1."""
    return _draw_batch(x_0, betas, generator, low=1)


@noisy_batch.misconception
def t_up_to_n_steps(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t = T is drawn too. Code counts from 0, so the last timestep is T - 1. torch.randint leaves
    its upper end out by itself; a fraction has to be rounded down.
    """
    t = torch.randint(1, len(betas) + 1, (len(x_0),), generator=generator)
    return _with_the_package(x_0, t, betas, generator)


@noisy_batch.misconception
def t_up_to_1000(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """T is not always 1000: this schedule has as many steps as there are betas."""
    t = torch.randint(1000, (len(x_0),), generator=generator)
    return _with_the_package(x_0, t, betas, generator)


@noisy_batch.misconception
def t_rounded_to_the_nearest(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounding to the nearest gives t = 0 and t = T - 1 half the share of the others, for half of
    what would round to them lies outside. Stretch to [0, T) and round down, or draw integers.
    """
    t = (torch.rand(len(x_0), generator=generator) * (len(betas) - 1)).round().long()
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def t_in_turn(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t runs through 0, 1, 2, ... in turn; nothing about it is random. An item keeps its t whenever
    it stands at the same place of a batch.
    """
    t = torch.arange(len(x_0)) % len(betas)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def t_sorted(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t is sorted, so that the first items of a batch always get little noise and the last ones
    much. Leave it in the order in which it was drawn.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator).sort().values
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def t_counted_from_1(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t is right, but the t returned counts from 1 as in the papers. In code it counts from 0 and
    is the index into the schedule: return the number with which a_bar was looked up.
    """
    x_t, t, noise = _draw_batch(x_0, betas, generator)
    return x_t, t + 1, noise


@noisy_batch.misconception
def uniform_noise(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise is uniform between 0 and 1 (torch.rand). Eq. 4 needs standard normal noise:
    torch.randn, with an n.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    noise = torch.rand(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def uniform_noise_around_zero(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise is uniform between -1 and 1, with a variance of 1/3. Eq. 4 needs standard normal
    noise: torch.randn, with an n.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    noise = torch.rand(x_0.shape, generator=generator, dtype=x_0.dtype) * 2 - 1
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def noise_from_a_fixed_seed(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise is the same whatever generator comes in: it has a seed or a generator of its own.
    Every training step would add the same noise; draw it from the generator given, as it comes.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    fixed = torch.Generator().manual_seed(0)
    noise = torch.randn(x_0.shape, generator=fixed, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def t_from_a_fixed_seed(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t is the same whatever generator comes in: it has a seed or a generator of its own. Every
    training step would see the same timesteps; draw them from the generator given, as it comes.
    """
    fixed = torch.Generator().manual_seed(0)
    t = torch.randint(len(betas), (len(x_0),), generator=fixed)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def reseeds(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t and noise are the same whatever generator comes in: a seed is set inside, or a generator
    made there. Then every training step sees the same batch; the seed is the caller's business.
    """
    return _draw_batch(x_0, betas, torch.Generator().manual_seed(0))


@noisy_batch.misconception
def starts_over(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The generator is set back to its seed before the noise is drawn, so that every training step
    gets the same noise. Let it go on from where it stands.
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    generator.manual_seed(generator.initial_seed())
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    return forward_diffusion.reference(x_0, t, betas, noise), t, noise


@noisy_batch.misconception
def noise_before_t(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """t and noise are exchanged: the order is x_t, t, noise."""
    x_t, t, noise = _draw_batch(x_0, betas, generator)
    return x_t, noise, t


@noisy_batch.misconception
def tuple_not_unpacked(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """forward.forward_diffusion returns two things, x_t and the noise, and here both have gone into
    one name. Unpack them: x_t, noise = ...
    """
    t = torch.randint(len(betas), (len(x_0),), generator=generator)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    x_t: Any = forward.forward_diffusion(x_0, t, forward.NoiseSchedule(betas), noise)
    return x_t, t, noise


@noisy_batch.misconception
def other_noise_returned(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise returned is not the noise in x_t: it is drawn a second time. The model is going to
    be asked for the noise that it sees, so keep the one you used.
    """
    x_t, t, noise = _draw_batch(x_0, betas, generator)
    return x_t, t, torch.randn(noise.shape, generator=generator, dtype=noise.dtype)


@noisy_batch.misconception
def scaled_noise_returned(
    x_0: Tensor, betas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise returned carries its weight sqrt(1 - alpha_bar_t) already. Return the standard
    normal noise itself, as it was drawn: that is what a model is asked for, at every t on the same
    scale.
    """
    x_t, t, noise = _draw_batch(x_0, betas, generator)
    return x_t, t, _mix(0 * betas, (1 - (1 - betas).cumprod(0)).sqrt(), t, noise, noise)


# --- 5: a small experiment -----------------------------------------------------------------------


def _two_schedules(draw: Draw) -> Inputs:
    """A long schedule and a short one, where neighbours lie far apart, or the other way round.

    In one case the other schedule leaps across SNR = 1, and a yardstick other than the log SNR
    halves this leap elsewhere. No t lies halfway between two neighbours, where rounding would
    choose.
    """
    betas = draw.betas(150, 400)
    if draw.case == 2:
        levels = torch.tensor([5.0, -5.0, -8.0], dtype=torch.float64) + draw.uniform(-1, 1, 3)
        a_bar = levels.sigmoid()  # the SNR is exp(level)
        other_betas = 1 - a_bar / torch.cat([a_bar.new_ones(1), a_bar[:-1]])
        t = draw.uniform(0, 1, len(betas)).argsort()  # every one, in some order
    else:
        u = torch.arange(draw.integer(8, 17) + 1, dtype=torch.float64)
        f = torch.cos((u / u[-1] + 0.008) / 1.008 * torch.pi / 2) ** 2
        other_betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        if draw.case % 2:
            betas, other_betas = other_betas, betas
        t = draw.timesteps(300, len(betas))
    distance = (_log_snr(betas)[t, None] - _log_snr(other_betas)).abs()  # (B, T')
    nearest, second = distance.topk(2, largest=False).values.T  # 2 x (B,)
    return {"t": t[second - nearest > 0.005], "betas": betas, "other_betas": other_betas}


def _log_snr(betas: Tensor) -> Tensor:
    a_bar = (1 - betas).cumprod(0)
    return a_bar.log() - (1 - a_bar).log()


def _nearest(wanted: Tensor, offered: Tensor) -> Tensor:
    return (wanted[:, None] - offered[None, :]).abs().argmin(1)  # (B, 1) - (1, T') -> (B,)


@task(points=3, inputs=_two_schedules, outputs=("t_other",))
def same_noise_level(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """For each t of one schedule, the t of another with the nearest log SNR, (B,) int64."""
    return _nearest(_log_snr(betas)[t], _log_snr(other_betas))


@same_noise_level.misconception
def compares_snr(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This compares the SNR itself, which runs from thousands to thousandths: late timesteps, all
    near 0, become one. Compare its logarithm.
    """
    return _nearest(_log_snr(betas).exp()[t], _log_snr(other_betas).exp())


@same_noise_level.misconception
def compares_alpha_bar(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This compares alpha_bar, which hardly moves at either end, where the SNR changes most."""
    return _nearest((1 - betas).cumprod(0)[t], (1 - other_betas).cumprod(0))


@same_noise_level.misconception
def roots_in_the_snr(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """There is a root where the SNR has none: this is sqrt(alpha_bar) / (1 - sqrt(alpha_bar)). The
    SNR compares variances, alpha_bar and 1 - alpha_bar.
    """
    root, other_root = ((1 - b).cumprod(0).sqrt() for b in (betas, other_betas))
    return _nearest((root / (1 - root)).log()[t], (other_root / (1 - other_root)).log())


@same_noise_level.misconception
def root_above_alone(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """There is a root where the SNR has none: this is sqrt(alpha_bar) / (1 - alpha_bar), a weight
    over a variance. The SNR compares variances, both without a root.
    """
    a_bar, other = ((1 - b).cumprod(0) for b in (betas, other_betas))
    return _nearest((a_bar.sqrt() / (1 - a_bar)).log()[t], (other.sqrt() / (1 - other)).log())


@same_noise_level.misconception
def root_below_alone(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """There is a root where the SNR has none: this is alpha_bar / sqrt(1 - alpha_bar), a variance
    over a weight. The SNR compares variances, both without a root.
    """
    a_bar, other = ((1 - b).cumprod(0) for b in (betas, other_betas))
    return _nearest((a_bar / (1 - a_bar).sqrt()).log()[t], (other / (1 - other).sqrt()).log())


@same_noise_level.misconception
def logarithm_ends_too_early(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The logarithm is taken of alpha_bar alone and divided by 1 - alpha_bar afterwards: a bracket
    closes too early. Asked for is the logarithm of the whole ratio.
    """
    a_bar, other = ((1 - b).cumprod(0) for b in (betas, other_betas))
    return _nearest((a_bar.log() / (1 - a_bar))[t], other.log() / (1 - other))


@same_noise_level.misconception
def relative_difference(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This compares the relative difference |SNR / SNR' - 1|. It never passes 1 downwards, however
    far it is, but has no bound upwards: half and double are not equally far. Their logarithms are.
    """
    snr, other_snr = _log_snr(betas).exp()[t], _log_snr(other_betas).exp()
    return (snr[:, None] / other_snr - 1).abs().argmin(1)


@same_noise_level.misconception
def pairs_not_formed(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """B numbers minus T' numbers: torch tries to pair them one to one. Each of the B has to meet
    each of the T': give one of them a dimension of its own, (B, 1) and (T',) make (B, T').
    """
    return (_log_snr(betas)[t] - _log_snr(other_betas)).abs().argmin(0)


@same_noise_level.misconception
def first_that_is_noisier(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This takes the first timestep of the other schedule that is at least as noisy. The one before
    it may be nearer: compare both.
    """
    offered = -_log_snr(other_betas)  # rising
    return torch.searchsorted(offered, -_log_snr(betas)[t]).clamp(max=len(offered) - 1)


@same_noise_level.misconception
def past_the_end(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """torch.searchsorted finds the first timestep of the other schedule that is at least as noisy.
    Where there is none it returns T', which is no timestep; and the one before may be nearer.
    """
    return torch.searchsorted(-_log_snr(other_betas), -_log_snr(betas)[t])


@same_noise_level.misconception
def searches_what_falls(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """torch.searchsorted needs numbers that rise, and the log SNR falls with t: what it finds there
    is arbitrary. It does not look for the nearest either, but for a place between two.
    """
    return torch.searchsorted(_log_snr(other_betas), _log_snr(betas)[t])


@same_noise_level.misconception
def sign_kept(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The smallest difference is the most negative one, at one end of the schedule; wanted is the
    difference nearest to 0. Take the absolute value first.
    """
    return (_log_snr(betas)[t, None] - _log_snr(other_betas)).argmin(1)


@same_noise_level.misconception
def argmin_over_the_batch(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The argmin runs over the batch, and so finds for each timestep of the other schedule an item
    of t. For each t it has to run over the other schedule's timesteps.
    """
    return (_log_snr(betas)[t, None] - _log_snr(other_betas)).abs().argmin(0)


@same_noise_level.misconception
def smallest_difference_itself(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This is how small the smallest difference is. Asked for is where it is: argmin in place of
    min.
    """
    return (_log_snr(betas)[t, None] - _log_snr(other_betas)).abs().min(1).values


@same_noise_level.misconception
def looks_up_t_minus_1(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This looks t - 1 up, as if t counted from 1. Here it counts from 0, and t = 0 gets the last
    entry.
    """
    return _nearest(_log_snr(betas)[t - 1], _log_snr(other_betas))


@same_noise_level.misconception
def schedules_exchanged(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The two schedules are exchanged: t belongs to betas, and the answer is a timestep of
    other_betas.
    """
    return _nearest(_log_snr(other_betas)[t], _log_snr(betas))


@same_noise_level.misconception
def product_over_the_entries_of_t(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The betas are looked up at t first and multiplied afterwards, so that the product runs over
    the entries of t. First the product over all steps, then look it up at t.
    """
    return _nearest(_log_snr(betas[t]), _log_snr(other_betas))


@same_noise_level.misconception
def for_all_timesteps(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This answers for every timestep of the schedule. Asked for are those in t: index with t."""
    return _nearest(_log_snr(betas), _log_snr(other_betas))


@same_noise_level.misconception
def compares_betas(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This compares the betas, the noise of one step. How noisy x_t is depends on all steps so far:
    compare the SNR, alpha_bar / (1 - alpha_bar), on a logarithmic scale.
    """
    return _nearest(betas[t], other_betas)


@same_noise_level.misconception
def same_fraction_of_the_chain(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This takes the same fraction of the way through the chain. Two schedules are equally noisy at
    different fractions: look the SNR up.
    """
    return (t * (len(other_betas) - 1) / (len(betas) - 1)).round().long()


@same_noise_level.misconception
def same_share_of_the_length(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """This takes the same share of the length, t * T' / T. Two schedules are equally noisy at
    different shares of their lengths: look the SNR up.
    """
    return t * len(other_betas) // len(betas)
