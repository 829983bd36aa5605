"""Checks of chapter 07, DDIM: `from minidiff.grading import chapter_07 as check`.

What the paper calls alpha_t is alpha_bar_t here, counted from 0; before the first timestep lies
clean data, alpha_bar = 1. "Previous" is the timestep visited next: the entry before in a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import ddim, ddpm
from minidiff.grading.check import Inputs, task
from minidiff.grading.draw import Draw

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# --- 1: how much noise is drawn afresh -----------------------------------------------------------


def _levels(draw: Draw) -> Inputs:
    """alpha_bar at some timesteps of a chain and at those before them; eta between 0 and 1."""
    a_bar = (1 - draw.betas(60, 200)).cumprod(0)
    kept = a_bar[:: draw.integer(3, 8)]  # (n,)
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    return {"a_bar": kept, "a_bar_prev": before, "eta": draw.integer(3, 9) / 10}


@task(points=2, inputs=_levels, roundings=1024.0, package=[ddim.ddim_step])
def sigma(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """Deviation of the noise that each step draws afresh, (n,) (Song et al. 2021, eq. 16)."""
    return eta * ((1 - a_bar_prev) / (1 - a_bar)).sqrt() * (1 - a_bar / a_bar_prev).sqrt()


def _sigma(a_bar: Tensor, a_bar_prev: Tensor) -> Tensor:
    """sigma for eta = 1."""
    return ((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev)).sqrt()


@sigma.misconception
def eta_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """This is sigma for eta = 1, that of DDPM. The whole has still to be multiplied by eta."""
    return _sigma(a_bar, a_bar_prev)


@sigma.misconception
def eta_below_the_root(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """eta stands below the square root. It multiplies sigma itself: put it before the root."""
    return math.sqrt(eta) * _sigma(a_bar, a_bar_prev)


@sigma.misconception
def eta_squared(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """eta is squared, which is right for the variance sigma^2. sigma itself has eta once."""
    return eta**2 * _sigma(a_bar, a_bar_prev)


@sigma.misconception
def variance_returned(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """This is sigma^2, the variance. Asked for is sigma, the standard deviation: its root."""
    return (eta * _sigma(a_bar, a_bar_prev)) ** 2


@sigma.misconception
def both_roots_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """Both square roots of eq. 16 are missing."""
    return eta * _sigma(a_bar, a_bar_prev) ** 2


@sigma.misconception
def first_root_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """The root over the first fraction, (1 - alpha_bar_prev) / (1 - alpha_bar), is missing."""
    return eta * (1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev).sqrt()


@sigma.misconception
def second_root_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """The root over the second factor, 1 - alpha_bar / alpha_bar_prev, is missing."""
    return eta * ((1 - a_bar_prev) / (1 - a_bar)).sqrt() * (1 - a_bar / a_bar_prev)


@sigma.misconception
def first_fraction_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """The first fraction is missing, so with eta = 1 this would be the root of beta. Of beta_tilde,
    which eq. 16 gives, nothing is left in the last step, where alpha_bar_prev is 1.
    """
    return eta * (1 - a_bar / a_bar_prev).sqrt()


@sigma.misconception
def second_factor_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """The second factor, the root of 1 - alpha_bar / alpha_bar_prev, is missing. It is the root of
    the step's beta: a small step draws little afresh.
    """
    return eta * ((1 - a_bar_prev) / (1 - a_bar)).sqrt()


@sigma.misconception
def all_of_the_noise(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """This is the share eta of all noise at the previous timestep. Eq. 16 also weighs it with how
    large the step is: the ratio of alpha_bar to alpha_bar_prev is missing.
    """
    return eta * (1 - a_bar_prev).sqrt()


@sigma.misconception
def first_fraction_upside_down(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """The first fraction is upside down; where alpha_bar_prev is 1 it divides by 0. The noise
    before the step, 1 - alpha_bar, belongs below the line.
    """
    return eta * ((1 - a_bar) / (1 - a_bar_prev) * (1 - a_bar / a_bar_prev)).sqrt()


@sigma.misconception
def second_ratio_upside_down(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """In the second factor the ratio is upside down. alpha_bar_prev is the larger one, so it
    belongs below the line; otherwise the root is that of a negative number.
    """
    return eta * ((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar_prev / a_bar)).sqrt()


@sigma.misconception
def difference_in_place_of_ratio(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """The second factor has alpha_bar_prev - alpha_bar, a difference. It is 1 minus their ratio."""
    return eta * ((1 - a_bar_prev) / (1 - a_bar) * (a_bar_prev - a_bar)).sqrt()


@sigma.misconception
def brackets_forgotten(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """Brackets are missing: 1 - a / 1 - b is read as (1 - a) - b. Both sides of the fraction need
    their own, (1 - a) / (1 - b).
    """
    return eta * (1 - a_bar_prev / 1 - a_bar).sqrt() * (1 - a_bar / a_bar_prev).sqrt()


@sigma.misconception
def second_ratio_upside_down_below_its_own_root(
    a_bar: Tensor, a_bar_prev: Tensor, eta: float
) -> Tensor:
    """In the second root the ratio is upside down, and the root is that of a negative number.
    alpha_bar_prev is the larger one: it belongs below the line.
    """
    return eta * ((1 - a_bar_prev) / (1 - a_bar)).sqrt() * (1 - a_bar_prev / a_bar).sqrt()


@sigma.misconception
def root_of_the_ratio_alone(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """In the second factor the root is that of the ratio alone, 1 - sqrt(...). It has to be drawn
    over all of 1 - alpha_bar / alpha_bar_prev.
    """
    return eta * ((1 - a_bar_prev) / (1 - a_bar)).sqrt() * (1 - (a_bar / a_bar_prev).sqrt())


@sigma.misconception
def brackets_forgotten_around_a_difference(a_bar: Tensor, a_bar_prev: Tensor, eta: float) -> Tensor:
    """Brackets are missing around 1 - alpha_bar_prev above the line, or around the second factor
    (both come to the same). Each difference needs its own before it is divided or multiplied.
    """
    return eta * ((1 - a_bar_prev) / (1 - a_bar) - a_bar / a_bar_prev).sqrt()


# --- 2: one step ---------------------------------------------------------------------------------


def _before_a_step(draw: Draw) -> Inputs:
    """Sound, images and video with a predicted eps that errs; in case 1 the step is the last."""
    dtype = draw.dtype()
    space = [draw.integer(3, 6) for _ in range((2, 1, 3, 2)[draw.case])]
    x_0 = draw.uniform(-1, 1, draw.integer(3, 6), draw.integer(1, 4), *space, dtype=dtype)
    noise, error, fresh = (draw.normal(*x_0.shape, dtype=dtype) for _ in range(3))
    a_bar = draw.uniform(0.1, 0.4, 1)[0]  # ()
    a_bar_prev = draw.uniform(0.5, 0.8, 1)[0]  # ()
    deviation = draw.uniform(0.3, 0.9, 1)[0] * _sigma(a_bar, a_bar_prev)
    if draw.case == 1:
        a_bar_prev, deviation = torch.ones_like(a_bar), torch.zeros_like(a_bar)
    return {
        "x_t": a_bar.sqrt().to(dtype) * x_0 + (1 - a_bar).sqrt().to(dtype) * noise,
        "eps": noise + error / 2,
        "a_bar": a_bar,
        "a_bar_prev": a_bar_prev,
        "sigma": deviation,
        "noise": fresh,
    }


def _x_0(x_t: Tensor, eps: Tensor, a_bar: Tensor) -> Tensor:
    """The clean data that a predicted noise stands for, not clipped."""
    return (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()


def _eps(x_t: Tensor, x_0: Tensor, a_bar: Tensor) -> Tensor:
    return (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()


def _both(x_t: Tensor, eps: Tensor, a_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Clipped x_0, and the noise that belongs to it."""
    x_0 = _x_0(x_t, eps, a_bar).clamp(-1, 1)
    return x_0, _eps(x_t, x_0, a_bar)


def _add(x_0: Tensor, eps: Tensor, a_bar: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Eq. 12."""
    return a_bar.sqrt() * x_0 + (1 - a_bar - sigma**2).sqrt() * eps + sigma * noise


@task(
    points=3,
    inputs=_before_a_step,
    outputs=("x_{t-1}",),
    roundings=512.0,
    package=[ddim.ddim_step, ddim.ddim_steps, ddpm.Denoiser],
)
def ddim_step(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """One step of DDIM with x_0 clipped and eps derived again (Song et al. 2021, eq. 12)."""
    x_0 = ((x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()).clamp(-1, 1)
    eps = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()  # belongs to the clipped x_0
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev - sigma**2).sqrt() * eps + sigma * noise


@ddim_step.misconception
def eps_not_derived_again(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """x_0 is clipped, but eps is still the one that belonged to it before. Derive it again from x_t
    and the clipped x_0, or the two contradict each other.
    """
    return _add(_both(x_t, eps, a_bar)[0], eps, a_bar_prev, sigma, noise)


@ddim_step.misconception
def nothing_clipped(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The step is right but for clipping: x_0 has to be brought into [-1, 1] before it is used."""
    return _add(_x_0(x_t, eps, a_bar), eps, a_bar_prev, sigma, noise)


@ddim_step.misconception
def step_clipped_in_place_of_x_0(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The result is clipped in place of x_0. It still holds noise, which may leave [-1, 1]."""
    return _add(_x_0(x_t, eps, a_bar), eps, a_bar_prev, sigma, noise).clamp(-1, 1)


@ddim_step.misconception
def step_clipped_as_well(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """x_0 is clipped, as it should be, and then the result too. That one still holds noise, which
    may lie outside [-1, 1].
    """
    return _add(*_both(x_t, eps, a_bar), a_bar_prev, sigma, noise).clamp(-1, 1)


@ddim_step.misconception
def clipped_to_0_and_1(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """x_0 is clipped to [0, 1]. This data lies in [-1, 1], black is -1."""
    x_0 = _x_0(x_t, eps, a_bar).clamp(0, 1)
    return _add(x_0, _eps(x_t, x_0, a_bar), a_bar_prev, sigma, noise)


@ddim_step.misconception
def fresh_noise_forgotten(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Room is made for fresh noise, but sigma * noise is never added: too little noise is left."""
    x_0, eps = _both(x_t, eps, a_bar)
    return _add(x_0, eps, a_bar_prev, sigma, torch.zeros_like(noise))


@ddim_step.misconception
def sigma_taken_for_0(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """This is the step for eta = 0, whatever sigma is. Take sigma^2 off below the root, and add
    sigma * noise.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return _add(x_0, eps, a_bar_prev, torch.zeros_like(sigma), noise)


@ddim_step.misconception
def no_room_made(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """sigma * noise is added on top of all the old noise. Together they may have the variance
    1 - alpha_bar_prev only: take sigma^2 off below the root.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev).sqrt() * eps + sigma * noise


@ddim_step.misconception
def sigma_not_squared(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Below the root sigma is taken off, not sigma^2. There stand variances."""
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev - sigma).sqrt() * eps + sigma * noise


@ddim_step.misconception
def noise_scaled_by_the_variance(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The fresh noise is multiplied by sigma^2. What scales standard normal noise is its standard
    deviation, sigma.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return _add(x_0, eps, a_bar_prev, sigma, sigma * noise)


@ddim_step.misconception
def old_and_fresh_exchanged(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Old and fresh noise have changed places: sigma belongs to noise, the root to eps."""
    x_0, eps = _both(x_t, eps, a_bar)
    return _add(x_0, noise, a_bar_prev, sigma, eps)


@ddim_step.misconception
def root_forgotten_on_the_signal(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """x_0 is multiplied by alpha_bar_prev; its weight is the square root."""
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar_prev * x_0 + (1 - a_bar_prev - sigma**2).sqrt() * eps + sigma * noise


@ddim_step.misconception
def root_forgotten_on_the_noise(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The old noise is multiplied by a variance, 1 - alpha_bar_prev - sigma^2; its weight is the
    square root of that.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev - sigma**2) * eps + sigma * noise


@ddim_step.misconception
def noise_level_kept(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """x_0 and eps are put together again with alpha_bar, the level that the step leaves. It goes to
    alpha_bar_prev.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return _add(x_0, eps, a_bar, sigma, noise)


@ddim_step.misconception
def x_0_at_the_level_before(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The noise is taken off x_t with the weights of alpha_bar_prev. x_t has those of alpha_bar."""
    x_0 = _x_0(x_t, eps, a_bar_prev).clamp(-1, 1)
    return _add(x_0, _eps(x_t, x_0, a_bar), a_bar_prev, sigma, noise)


@ddim_step.misconception
def x_t_in_place_of_x_0(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """What is multiplied by the root of alpha_bar_prev is x_t, noise and all. It is to be x_0."""
    return _add(x_t, _both(x_t, eps, a_bar)[1], a_bar_prev, sigma, noise)


@ddim_step.misconception
def x_0_returned(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """This is the predicted x_0. Unless the step is the last one, noise of variance
    1 - alpha_bar_prev has to be on it.
    """
    return _both(x_t, eps, a_bar)[0]


@ddim_step.misconception
def eps_derived_with_the_noise_of_the_level_after(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """eps is derived again with 1 - alpha_bar_prev below the line. It is the noise in x_t, whose
    variance there is 1 - alpha_bar.
    """
    x_0 = _both(x_t, eps, a_bar)[0]
    eps = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar_prev).sqrt()
    return _add(x_0, eps, a_bar_prev, sigma, noise)


@ddim_step.misconception
def eps_derived_with_the_signal_of_the_level_after(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """eps is derived again with the root of alpha_bar_prev before x_0. What is taken off x_t is its
    own signal, that of alpha_bar.
    """
    x_0 = _both(x_t, eps, a_bar)[0]
    eps = (x_t - a_bar_prev.sqrt() * x_0) / (1 - a_bar).sqrt()
    return _add(x_0, eps, a_bar_prev, sigma, noise)


@ddim_step.misconception
def eps_not_divided(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """eps is derived again as x_t less its signal. That is the noise in x_t, still multiplied by
    its weight, the root of 1 - alpha_bar: divide by it.
    """
    x_0 = _both(x_t, eps, a_bar)[0]
    return _add(x_0, x_t - a_bar.sqrt() * x_0, a_bar_prev, sigma, noise)


@ddim_step.misconception
def eps_clipped_in_place_of_derived(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """eps is clipped, as x_0 is. Noise is not bounded by [-1, 1]: derive eps again from x_t and the
    clipped x_0.
    """
    return _add(_both(x_t, eps, a_bar)[0], eps.clamp(-1, 1), a_bar_prev, sigma, noise)


@ddim_step.misconception
def signal_level_kept(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """x_0 is multiplied by the root of alpha_bar, the level that the step leaves. The noise has the
    right weight; the signal, too, has to be that of alpha_bar_prev.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar.sqrt() * x_0 + (1 - a_bar_prev - sigma**2).sqrt() * eps + sigma * noise


@ddim_step.misconception
def old_noise_kept(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Below the root stands 1 - alpha_bar - sigma^2, all the noise of the level that the step
    leaves. After the step only 1 - alpha_bar_prev may be left.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar - sigma**2).sqrt() * eps + sigma * noise


@ddim_step.misconception
def deviations_subtracted(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The weight of the old noise is sqrt(1 - alpha_bar_prev) - sigma. Of independent noises the
    variances add, not the deviations: take sigma^2 off below the root.
    """
    x_0, eps = _both(x_t, eps, a_bar)
    return a_bar_prev.sqrt() * x_0 + ((1 - a_bar_prev).sqrt() - sigma) * eps + sigma * noise


@ddim_step.misconception
def no_roots_at_all(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The square roots are missing throughout. The weights of signal and noise are the roots of
    alpha_bar and 1 - alpha_bar, in x_0, in eps and in the step.
    """
    x_0 = ((x_t - (1 - a_bar) * eps) / a_bar).clamp(-1, 1)
    eps = (x_t - a_bar * x_0) / (1 - a_bar)
    return a_bar_prev * x_0 + (1 - a_bar_prev - sigma**2) * eps + sigma * noise


@ddim_step.misconception
def brackets_forgotten_in_x_0(
    x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Brackets are missing in x_0: only the noise is divided by the root of alpha_bar. Take it off
    x_t first, then divide what is left.
    """
    x_0 = (x_t - (1 - a_bar).sqrt() * eps / a_bar.sqrt()).clamp(-1, 1)
    return _add(x_0, _eps(x_t, x_0, a_bar), a_bar_prev, sigma, noise)


# --- 3: the loop ---------------------------------------------------------------------------------


class _Network(nn.Module):
    """The smallest network that keeps the contract model(x_t, t, context); strict about t."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(n_channels + 2, n_channels, 1)

    def forward(self, x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        """Predict noise, (B, C, H, W) and (B,) -> (B, C, H, W)."""
        if not isinstance(t, Tensor) or t.shape != x_t.shape[:1] or t.dtype != torch.int64:
            many = isinstance(t, Tensor) and t.ndim
            got = f"{t.dtype} of shape {tuple(t.shape)}" if many else "a number"
            raise ValueError(f"t must be int64 of shape (B,) = ({len(x_t)},), got {got}")
        angle = (t.to(x_t) / 7).view(-1, 1, 1, 1).expand(-1, 1, *x_t.shape[2:])  # (B, 1, H, W)
        mixed = torch.cat([x_t, angle.cos(), angle.sin()], dim=1).float()
        output: Tensor = self.mix(mixed).tanh()
        return output


def _step(x_t: Tensor, eps: Tensor, a_bar: Tensor, a_bar_prev: Tensor) -> Tensor:
    """A right step with eta = 0 and without clipping, given to whoever writes the loop."""
    x_0 = (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev).sqrt() * eps


def _chain(draw: Draw) -> Inputs:
    """A network, the alpha_bar of its chain, and some timesteps at unequal distances."""
    betas = draw.betas(60, 200)
    ends = draw.uniform(0.5, 1.5, draw.integer(5, 9)).cumsum(0)
    timesteps = (ends / ends[-1] * len(betas)).round().long() - 1
    shape = (draw.integer(2, 5), draw.integer(1, 3), draw.integer(3, 6), draw.integer(3, 6))
    return {
        "model": draw.module(lambda: _Network(shape[1])).eval().requires_grad_(False),
        "a_bar": (1 - betas).cumprod(0),
        "timesteps": timesteps,
        "shape": shape,
    }


def _before_sampling(draw: Draw) -> Inputs:
    inputs = _chain(draw)
    shape = inputs.pop("shape")
    return inputs | {"step": _step, "x_T": draw.normal(*shape, dtype=torch.float32)}


def _walk(
    model: nn.Module,
    step: Step,
    x: Tensor,
    asked: Iterable[int],
    here: Iterable[Tensor],
    there: Iterable[Tensor],
) -> Tensor:
    """Walk from one alpha_bar to the next, the model being asked at those timesteps."""
    for t, a_bar, a_bar_prev in zip(asked, here, there, strict=True):
        x = step(x, model(x, torch.full((len(x),), t)), a_bar, a_bar_prev)
    return x


def _down(a_bar: Tensor, timesteps: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """Timesteps downwards, alpha_bar at each, and alpha_bar at the one visited next."""
    kept = a_bar[timesteps]
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    return timesteps.tolist()[::-1], kept.flip(0), before.flip(0)


@task(
    points=3,
    inputs=_before_sampling,
    outputs=("the batch of samples",),
    roundings=256.0,
    package=[ddim.ddim_steps, ddim.dpm_solver_steps, ddpm.respace],
    n_cases=3,
)
def sample(model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor) -> Tensor:
    """Walk from x_T to samples over any sub-sequence of the timesteps, eta = 0."""
    x = x_T
    for i in reversed(range(len(timesteps))):
        t = torch.full((len(x),), int(timesteps[i]))  # (B,)
        before = a_bar[timesteps[i - 1]] if i > 0 else torch.ones_like(a_bar[0])
        x = step(x, model(x, t), a_bar[timesteps[i]], before)
    return x


@sample.misconception
def previous_by_stride(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The previous timestep is taken to be t - T // n. It is the entry before in `timesteps`; the
    two differ wherever the entries are not equally far apart.
    """
    asked, here, _ = _down(a_bar, timesteps)
    stride = len(a_bar) // len(timesteps)
    one = torch.ones_like(a_bar[0])
    there = [a_bar[t - stride] if t >= stride else one for t in asked]
    return _walk(model, step, x_T, asked, here, there)


@sample.misconception
def previous_is_t_minus_1(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """Each step goes to t - 1 only, and the next one starts at a t that x has not reached. It has
    to go to the entry before in `timesteps`.
    """
    asked, here, _ = _down(a_bar, timesteps)
    one = torch.ones_like(a_bar[0])
    there = [a_bar[t - 1] if t > 0 else one for t in asked]
    return _walk(model, step, x_T, asked, here, there)


@sample.misconception
def index_given_to_the_model(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The model gets the index i of the list. It was trained on the timesteps: timesteps[i]."""
    _, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, range(len(timesteps) - 1, -1, -1), here, there)


@sample.misconception
def indices_for_timesteps_throughout(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The indices 0..n-1 of the list are taken for timesteps, in the model and in a_bar. What is
    meant stands in the list: timesteps[i].
    """
    return _walk(model, step, x_T, *_down(a_bar, torch.arange(len(timesteps))))


@sample.misconception
def upwards(model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor) -> Tensor:
    """The loop goes through `timesteps` as they stand, upwards. Sampling starts in pure noise, at
    the last of them.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked[::-1], here.flip(0), there.flip(0))


@sample.misconception
def last_step_left_out(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The loop ends one step early, at the noise level of timesteps[0]. One more step leads from
    there to clean data, where alpha_bar is 1.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked[:-1], here[:-1], there[:-1])


@sample.misconception
def first_step_left_out(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The loop starts one step late. x_T is pure noise: it belongs to the last entry."""
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked[1:], here[1:], there[1:])


@sample.misconception
def ends_at_alpha_bar_0(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The last step goes to a_bar[0], where some noise is left. Clean data has alpha_bar = 1."""
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked, here, [*there[:-1], a_bar[0]])


@sample.misconception
def last_entry_before_the_first(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """At i = 0 the index i - 1 is -1, which Python reads as the last entry: the last step goes back
    into noise. Before the first entry lies clean data, with alpha_bar = 1.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked, here, [*there[:-1], a_bar[timesteps[-1]]])


@sample.misconception
def ends_at_alpha_bar_zero(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """For the last step alpha_bar is set to 0, as if it went to pure noise. Of clean data all is
    left: 1.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked, here, [*there[:-1], torch.zeros_like(a_bar[0])])


@sample.misconception
def levels_exchanged(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The two alpha_bar have changed places: step takes first the level that it leaves, then the
    one it goes to.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked, there, here)


@sample.misconception
def model_asked_at_the_previous_timestep(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The model is asked at the timestep that the step goes to. x has the noise of the one it
    leaves, timesteps[i].
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, [*asked[1:], 0], here, there)


@sample.misconception
def asked_once(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The model is asked once, before the loop. Ask it anew in every step, about the x and the t of
    this step.
    """
    asked, here, there = _down(a_bar, timesteps)
    eps, x = model(x_T, torch.full((len(x_T),), asked[0])), x_T
    for a, b in zip(here, there, strict=True):
        x = step(x, eps, a, b)
    return x


@sample.misconception
def always_asked_about_the_start(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The model always gets x_T, the noise at the start. Ask it about x as it is by now."""
    return _walk(lambda _, t: model(x_T, t), step, x_T, *_down(a_bar, timesteps))  # type: ignore[arg-type]


@sample.misconception
def result_never_fed_on(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """Model and step get x_T every time, so only the last step counts. Give both x, the result of
    the step before.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked[-1:], here[-1:], there[-1:])


@sample.misconception
def t_as_a_number(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """t is given as a single number. The model takes one for each item of the batch, a tensor (B,):
    torch.full((len(x),), t).
    """
    output: Tensor = model(x_T, int(timesteps[-1]))
    return output


@sample.misconception
def clipped_in_every_step(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """x is clipped after every step. It holds noise that belongs outside [-1, 1]."""
    x = x_T
    for t, a, b in zip(*_down(a_bar, timesteps), strict=True):
        x = _walk(model, step, x, [t], [a], [b]).clamp(-1, 1)
    return x


@sample.misconception
def result_clipped(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The walk is right, and then its result is clipped. Asked for is where the walk ends; clipping
    belongs to x_0 inside a step, and this step decides that itself.
    """
    return _walk(model, step, x_T, *_down(a_bar, timesteps)).clamp(-1, 1)


@sample.misconception
def previous_is_t_minus_1_until_clean_data(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The last step goes to clean data, as it should, but all others go to t - 1 only. They have to
    go to the entry before in `timesteps`, where the next step starts.
    """
    asked, here, _ = _down(a_bar, timesteps)
    there = [*(a_bar[t - 1] for t in asked[:-1]), torch.ones_like(a_bar[0])]
    return _walk(model, step, x_T, asked, here, there)


@sample.misconception
def all_timesteps_visited(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """All timesteps of the chain are visited. Visit those of the list `timesteps` only: that saves
    calls of the model.
    """
    return _walk(model, step, x_T, *_down(a_bar, torch.arange(len(a_bar))))


@sample.misconception
def levels_not_reversed(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The timesteps run downwards, but the two alpha_bar still upwards, so they belong to other
    timesteps than the one the model is asked at. Reverse all three.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, asked, here.flip(0), there.flip(0))


@sample.misconception
def last_step_from_t_0(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, step: Step, x_T: Tensor
) -> Tensor:
    """The last step leaves t = 0. x has the noise of timesteps[0] by then: ask the model there, and
    step from its alpha_bar to clean data.
    """
    asked, here, there = _down(a_bar, timesteps)
    return _walk(model, step, x_T, [*asked[:-1], 0], [*here[:-1], a_bar[0]], there)


# --- 4: from one noise to another ----------------------------------------------------------------


def _two_noises(draw: Draw) -> Inputs:
    """Two noises with an angle of its own for each item; the lengths differ, too."""
    dtype, n_items = draw.dtype(), draw.integer(3, 6)
    space = [draw.integer(3, 6) for _ in range((2, 1, 3, 2)[draw.case])]
    shape = (n_items, draw.integer(2, 4), *space)
    a, b = (draw.normal(*shape, dtype=dtype) for _ in range(2))
    share = draw.uniform(0.1, 0.7, n_items, dtype=dtype).view(-1, *[1] * (a.ndim - 1))
    return {"a": a, "b": share * a + b, "weight": draw.choice((0.2, 0.3, 0.6, 0.7, 0.8))}


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between each two items, (B, 1, ..., 1)."""
    cosine = torch.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), dim=1)
    return cosine.arccos().view(-1, *[1] * (a.ndim - 1))


def _arc(a: Tensor, b: Tensor, weight: float, angle: Tensor) -> Tensor:
    first, second = ((1 - weight) * angle).sin(), (weight * angle).sin()
    x: Tensor = first / angle.sin() * a + second / angle.sin() * b
    return x


@task(points=3, inputs=_two_noises, outputs=("the noise between",), package=[ddim.slerp])
def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Walk on an arc from a to b, each item on its own (Song et al. 2021, appendix D.5)."""
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()  # (B, D)
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))  # (B,)
    angle = cosine.arccos().view(-1, *[1] * (a.ndim - 1))  # (B, 1, ..., 1)
    x = ((1 - weight) * angle).sin() / angle.sin() * a + (weight * angle).sin() / angle.sin() * b
    result: Tensor = x.to(a.dtype)
    return result


@slerp.misconception
def straight_line(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """This is the straight line. Half-way it is too short to be noise; walk on the arc, with sines
    of the angle.
    """
    return (1 - weight) * a + weight * b


@slerp.misconception
def ends_exchanged(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """It walks from b to a: weight 0 must give a, weight 1 b."""
    return _arc(b, a, weight, _angle(a, b))


@slerp.misconception
def one_angle_for_the_batch(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """There is one angle for the whole batch. Each item has its own: flatten from dimension 1 on,
    and sum over that.
    """
    return _arc(a, b, weight, _angle(a.flatten()[None], b.flatten()[None]).view(()))


@slerp.misconception
def angle_along_the_channels(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The angle is taken along dimension 1, the channels, at each place alone: the default of
    cosine_similarity. An item is one vector: flatten it first.
    """
    angle = torch.cosine_similarity(a.double(), b.double(), dim=1).arccos()[:, None]
    return _arc(a, b, weight, angle)


@slerp.misconception
def angle_along_the_last_dimension(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The angle is taken along the last dimension, for each row alone. An item is one vector:
    flatten it first.
    """
    angle = torch.cosine_similarity(a.double(), b.double(), dim=-1).arccos()[..., None]
    return _arc(a, b, weight, angle)


@slerp.misconception
def lengths_not_divided_by(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The product a . b is taken for the cosine, which must lie in [-1, 1]: divide it by both
    lengths.
    """
    dot = (a.double() * b.double()).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))
    return _arc(a, b, weight, dot.arccos())


@slerp.misconception
def mean_product_for_the_cosine(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The mean of a * b is taken for the cosine, as if each pixel had exactly the variance 1.
    Divide the sum by both lengths.
    """
    mean = (a.double() * b.double()).flatten(1).mean(1).view(-1, *[1] * (a.ndim - 1))
    return _arc(a, b, weight, mean.clamp(-1, 1).arccos())


@slerp.misconception
def cosine_taken_for_the_angle(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The sines are taken of the cosine itself. The angle is its arccos."""
    return _arc(a, b, weight, _angle(a, b).cos())


@slerp.misconception
def cosines_in_place_of_sines(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The weights are made with cosines. For weight 0 that of b must vanish: take sines."""
    angle = _angle(a, b)
    first, second = ((1 - weight) * angle).cos(), (weight * angle).cos()
    return first / angle.cos() * a + second / angle.cos() * b


@slerp.misconception
def not_divided_by_the_sine(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The division by sin(theta) is missing: for weight 0 the weight of a must be 1."""
    angle = _angle(a, b)
    return ((1 - weight) * angle).sin() * a + (weight * angle).sin() * b


@slerp.misconception
def roots_of_the_weights(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The weights are sqrt(1 - w) and sqrt(w). They keep the length where a and b are at right
    angles, but do not move evenly on the arc, and these two are not at right angles.
    """
    first, second = math.sqrt(1 - weight), math.sqrt(weight)
    return first * a + second * b


@slerp.misconception
def as_if_at_right_angles(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The angle is taken to be a right one. For independent noise that is nearly so, but not for
    noise that was found by inversion: compute it.
    """
    return _arc(a, b, weight, torch.full_like(_angle(a, b), torch.pi / 2))


@slerp.misconception
def directions_alone(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The result has length 1: a and b were divided by their lengths for the angle, and not put
    back for the sum.
    """
    shape = (-1, *[1] * (a.ndim - 1))
    unit_a, unit_b = (x / x.flatten(1).norm(dim=1).view(shape) for x in (a, b))
    return _arc(unit_a, unit_b, weight, _angle(a, b))


@slerp.misconception
def line_stretched(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """This is the straight line, stretched to a right length. It is on the arc, but not evenly:
    take the weights from the angle.
    """
    shape = (-1, *[1] * (a.ndim - 1))
    line = (1 - weight) * a + weight * b
    long_a, long_b, now = (x.flatten(1).norm(dim=1).view(shape) for x in (a, b, line))
    x: Tensor = line * ((1 - weight) * long_a + weight * long_b) / now
    return x


@slerp.misconception
def angle_not_reshaped(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The angles are right, but have the shape (B,), so they meet the last dimension of a and b and
    not the first. Give them as many dimensions of size 1 as an item has: (B, 1, ..., 1).
    """
    return _arc(a, b, weight, _angle(a, b).flatten())


@slerp.misconception
def one_angle_for_each_channel(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """There is an angle for each channel. An item, all its channels together, is one vector:
    flatten from dimension 1 on, not 2.
    """
    cosine = torch.cosine_similarity(a.flatten(2).double(), b.flatten(2).double(), dim=2)
    return _arc(a, b, weight, cosine.arccos().view(*a.shape[:2], *[1] * (a.ndim - 2)))


@slerp.misconception
def lengths_of_the_whole_batch(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The products a . b are those of items, but they are divided by the lengths of the whole
    batch, so all angles come near a right one. norm() needs dim=1 after flattening.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm() * flat_b.norm())
    return _arc(a, b, weight, cosine.arccos().view(-1, *[1] * (a.ndim - 1)))


@slerp.misconception
def norm_over_many_dimensions(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """norm takes one dimension, or two for that of a matrix, and not all of an item at once. Make
    each item one vector first, with flatten(1), and take the norm along dim=1.
    """
    dims = tuple(range(1, a.ndim))
    lengths = a.norm(dim=dims, keepdim=True) * b.norm(dim=dims, keepdim=True)
    return _arc(a, b, weight, ((a * b).sum(dims, keepdim=True) / lengths).arccos())


@slerp.misconception
def norm_over_three_dimensions(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """norm takes one dimension, or two for that of a matrix, and not three; and only images have
    three of them. Make each item one vector first, with flatten(1), and take the norm along dim=1.
    """
    dims = (1, 2, 3)
    dot = (a * b).sum(dims, keepdim=True)
    lengths = a.norm(dim=dims, keepdim=True) * b.norm(dim=dims, keepdim=True)
    return _arc(a, b, weight, (dot / lengths).arccos())


@slerp.misconception
def items_taken_for_images(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """This works for images alone: it sums over the dimensions 1, 2 and 3. Sound has fewer, video
    has more; flatten(1) makes one vector of any item.
    """
    dims = (1, 2, 3)
    dot = (a * b).sum(dims, keepdim=True)
    lengths = (a.square().sum(dims, keepdim=True) * b.square().sum(dims, keepdim=True)).sqrt()
    return _arc(a, b, weight, (dot / lengths).arccos())


# --- 5: the way back -----------------------------------------------------------------------------


def _before_inversion(draw: Draw) -> Inputs:
    inputs = _chain(draw)
    shape = inputs.pop("shape")
    return inputs | {"x_0": draw.uniform(-1, 1, *shape, dtype=torch.float32)}


def _climb(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    asked: Iterable[int],
    here: Iterable[Tensor],
    there: Iterable[Tensor],
) -> Tensor:
    """Walk from one alpha_bar to the next, noisier one, the model asked at those timesteps."""
    for t, a, b in zip(asked, here, there, strict=True):
        x = _step(x, model(x, torch.full((len(x),), t)), a, b)
    return x


def _up(a_bar: Tensor, timesteps: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """The timesteps that steps leave, the first 0, alpha_bar at each, and where the steps go."""
    left = [0, *timesteps.tolist()[:-1]]
    return left, a_bar[torch.tensor(left)], a_bar[timesteps]


@task(
    points=3,
    inputs=_before_inversion,
    outputs=("the noise found",),
    roundings=256.0,
    package=[ddim.ddim_invert, ddim.ddim_step, ddim.ddim_steps],
    n_cases=3,
)
def invert(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """Walk from data to the noise that DDIM draws it from (Song et al. 2021, section 4.3)."""
    x, here = x_0, 0  # clean data counts as data at t = 0
    for there in timesteps.tolist():
        eps = model(x, torch.full((len(x),), here))
        predicted = (x - (1 - a_bar[here]).sqrt() * eps) / a_bar[here].sqrt()
        x = a_bar[there].sqrt() * predicted + (1 - a_bar[there]).sqrt() * eps
        here = there
    return x


@invert.misconception
def asked_at_the_timestep_after(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The model is asked at the timestep that the step goes to. Asked for is the one it leaves: x
    has the noise of that, and at the first step next to none, t = 0.
    """
    _, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, timesteps.tolist(), here, there)


@invert.misconception
def asked_after_and_from_clean_data(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The model is asked at the timestep that the step goes to; asked for is the one it leaves. And
    clean data counts as data at t = 0 here: its alpha_bar is a_bar[0], not 1.
    """
    _, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, timesteps.tolist(), [torch.ones_like(a_bar[0]), *here[1:]], there)


@invert.misconception
def clean_data_with_alpha_bar_1(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """In the first step the data has alpha_bar = 1, and the model is asked at t = 0. Those two do
    not belong together: here clean data counts as data at t = 0, with a_bar[0].
    """
    asked, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, asked, [torch.ones_like(a_bar[0]), *here[1:]], there)


@invert.misconception
def starts_at_the_first_entry(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The step from clean data to timesteps[0] is missing: the image is taken for one that has the
    noise of timesteps[0] already.
    """
    asked, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, asked[1:], here[1:], there[1:])


@invert.misconception
def ends_one_step_early(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The last step is missing: the walk ends at the last entry but one. It has to reach
    timesteps[-1], where decoding starts.
    """
    asked, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, asked[:-1], here[:-1], there[:-1])


@invert.misconception
def downwards(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The loop runs downwards, as in sampling. An inversion starts at clean data and climbs."""
    return _walk(model, _step, x_0, *_down(a_bar, timesteps))


@invert.misconception
def predicted_x_0_clipped(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The predicted x_0 is clipped. What is cut off cannot be recovered in decoding: invert without
    clipping.
    """
    x = x_0
    for t, a, b in zip(*_up(a_bar, timesteps), strict=True):
        eps = model(x, torch.full((len(x),), t))
        x = b.sqrt() * _x_0(x, eps, a).clamp(-1, 1) + (1 - b).sqrt() * eps
    return x


@invert.misconception
def the_image_in_place_of_the_prediction(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """Each step puts the noise on the image itself, x_0. Put it on the x_0 that belongs to x and
    eps: only then does the step, walked back, end where it began.
    """
    x = x_0
    for t, _, b in zip(*_up(a_bar, timesteps), strict=True):
        x = b.sqrt() * x_0 + (1 - b).sqrt() * model(x, torch.full((len(x),), t))
    return x


@invert.misconception
def noise_put_on_x(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """Each step puts the noise of alpha_bar on x, which has noise already. First take off what is
    there: that gives the predicted x_0.
    """
    x = x_0
    for t, _, b in zip(*_up(a_bar, timesteps), strict=True):
        x = b.sqrt() * x + (1 - b).sqrt() * model(x, torch.full((len(x),), t))
    return x


@invert.misconception
def noise_taken_off_at_the_level_after(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """Both sides of the step have the alpha_bar that it goes to, so that x stays what it is. Before
    the step x has the noise of the timestep it leaves: make the predicted x_0 with that.
    """
    asked, _, there = _up(a_bar, timesteps)
    return _climb(model, x_0, asked, there, there)


@invert.misconception
def timestep_never_moved_on(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """Each step takes x for data at t = 0. After the first one it has the noise of timesteps[0]:
    remember where the step before led.
    """
    asked, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, [0] * len(asked), [here[0]] * len(asked), there)


@invert.misconception
def always_asked_at_t_0(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The alpha_bar are right, but the model is asked at t = 0 in each step. That holds for the
    first one only.
    """
    asked, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, [0] * len(asked), here, there)


@invert.misconception
def index_given_to_the_network(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The model gets the index of the step. It was trained on timesteps: 0, timesteps[0], ..."""
    _, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, range(len(timesteps)), here, there)


@invert.misconception
def network_always_asked_about_the_image(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The model is always asked about the clean image. Ask it about x, as it is by now."""
    return _climb(lambda _, t: model(x_0, t), x_0, *_up(a_bar, timesteps))


@invert.misconception
def network_asked_once(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The model is asked once, about the image, and all steps use that answer. In every step ask it
    anew.
    """
    eps = model(x_0, torch.zeros(len(x_0), dtype=torch.int64))
    return _climb(lambda x, t: eps, x_0, *_up(a_bar, timesteps))


@invert.misconception
def variance_for_deviation(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """The noise is put on with the weight 1 - alpha_bar, its variance. Its weight is the square
    root.
    """
    x = x_0
    for t, a, b in zip(*_up(a_bar, timesteps), strict=True):
        eps = model(x, torch.full((len(x),), t))
        x = b.sqrt() * _x_0(x, eps, a) + (1 - b) * eps
    return x


@invert.misconception
def number_in_place_of_a_batch(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """t is given as a single number. The model takes one for each item of the batch, a tensor (B,):
    torch.full((len(x),), t).
    """
    output: Tensor = model(x_0, 0)
    return output


@invert.misconception
def starts_at_the_last_entry(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """At i = 0 the index i - 1 is -1, which Python reads as the last entry: the first step takes
    the image for pure noise. It leaves t = 0.
    """
    left = timesteps.roll(1)
    return _climb(model, x_0, left.tolist(), a_bar[left], a_bar[timesteps])


@invert.misconception
def steps_in_reversed_order(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """Each step goes up by itself, but the highest comes first. Start with the step that leaves
    clean data, and go through the list as it stands.
    """
    asked, here, there = _up(a_bar, timesteps)
    return _climb(model, x_0, asked[::-1], here.flip(0), there.flip(0))


@invert.misconception
def left_by_stride(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The timestep that a step leaves is taken to be t - T // n. It is the entry before in
    `timesteps`; the two differ wherever the entries are not equally far apart.
    """
    stride = len(a_bar) // len(timesteps)
    left = (timesteps - stride).clamp(min=0)
    return _climb(model, x_0, left.tolist(), a_bar[left], a_bar[timesteps])


@invert.misconception
def left_is_t_minus_1(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """Each step is taken to leave t - 1. x has the noise of the entry before in `timesteps`, where
    the step before led.
    """
    left = (timesteps - 1).clamp(min=0)
    return _climb(model, x_0, left.tolist(), a_bar[left], a_bar[timesteps])


@invert.misconception
def each_timestep_visited(
    model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor
) -> Tensor:
    """All timesteps of the chain are visited. Climb along those of the list `timesteps` only, as
    decoding does.
    """
    return _climb(model, x_0, *_up(a_bar, torch.arange(1, len(a_bar))))


@invert.misconception
def signal_not_faded(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The predicted x_0 is multiplied by the root of the alpha_bar that the step leaves. After the
    step it is that of the timestep it goes to, as for the noise.
    """
    x = x_0
    for t, a, b in zip(*_up(a_bar, timesteps), strict=True):
        eps = model(x, torch.full((len(x),), t))
        x = a.sqrt() * _x_0(x, eps, a) + (1 - b).sqrt() * eps
    return x


@invert.misconception
def noise_not_raised(model: nn.Module, a_bar: Tensor, timesteps: Tensor, x_0: Tensor) -> Tensor:
    """The noise is put on with the weight that it had before the step. After the step it is that of
    the timestep it goes to, as for the signal.
    """
    x = x_0
    for t, a, b in zip(*_up(a_bar, timesteps), strict=True):
        eps = model(x, torch.full((len(x),), t))
        x = b.sqrt() * _x_0(x, eps, a) + (1 - a).sqrt() * eps
    return x
