"""Checks of chapter 11, editing images: `from minidiff.grading import chapter_11 as check`.

Steps of a chain count from 0, as everywhere: step i leads from the noise level a_bar[i] to the
level a_bar[i - 1], and step 0 to clean data. All noise is given, so nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff import editing
from minidiff.grading.check import Inputs, task
from minidiff.grading.draw import Draw

PACKAGE = [
    editing.inpaint,
    editing.inpaint_steps,
    editing.project,
    editing.downsample,
    editing.upsample,
]


def _mask(draw: Draw, *shape: int) -> Tensor:
    """Draw a mask of which a good part is known and a good part is not."""
    mask = draw.uniform(0, 1, *shape) < 0.5
    mask.view(-1)[:2] = torch.tensor([True, False])
    return mask


# --- 1: two sources, one picture -----------------------------------------------------------------


def _two_sources(draw: Draw) -> Inputs:
    dtype = draw.dtype()
    known = draw.images(draw.integer(2, 5), dtype)
    return {
        "mask": _mask(draw, *known.shape),
        "known": known,
        "drawn": draw.normal(*known.shape, dtype=dtype),
    }


@task(points=1, inputs=_two_sources, package=PACKAGE)
def merge(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """Known values where mask is True, drawn ones elsewhere (Lugmayr et al. 2022, eq. 8c)."""
    return torch.where(mask, known, drawn)


@merge.misconception
def sources_exchanged(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """The two are exchanged: what is known is thrown away, and what is hidden taken from it. True
    in the mask stands for known.
    """
    return torch.where(mask, drawn, known)


@merge.misconception
def hidden_left_empty(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """The known part is right, but the hidden one is 0. The drawn values belong there."""
    return known * mask


@merge.misconception
def known_left_empty(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """The hidden part is right, but the known one is 0. Add known, where mask is True."""
    return drawn * ~mask


@merge.misconception
def drawn_added_everywhere(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """Where data is known, the drawn value is added to it. There it is to go: it counts only where
    the mask is False.
    """
    return known * mask + drawn


@merge.misconception
def known_added_everywhere(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """What stands in known where the mask is False is added to the drawn value. It is hidden:
    nobody may look at it.
    """
    return known + drawn * ~mask


@merge.misconception
def blended(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """Where data is known this is the mean of both. Known is known: no drawn value has a part in
    it.
    """
    return torch.where(mask, (known + drawn) / 2, drawn)


@merge.misconception
def mask_ignored(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """The two are added and the mask has no part in it. It chooses, value by value."""
    return known + drawn


@merge.misconception
def known_values_in_a_row(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """known[mask] picks the known values out and forgets where they stood. torch.where keeps the
    shape.
    """
    return known[mask]


@merge.misconception
def one_truth_for_many(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """`if` needs a single yes or no, and the mask holds one for each value. torch.where chooses
    value by value.
    """
    return known if mask else drawn


@merge.misconception
def one_minus_a_bool(mask: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
    """1 - mask is for numbers; this mask is of bools, and its opposite is ~mask. torch.where needs
    neither.
    """
    return mask * known + (1 - mask) * drawn


# --- 2: as noisy as the rest ---------------------------------------------------------------------


def _one_level(draw: Draw) -> Inputs:
    """Case 0 is the last step, which ends at clean data, and case 1 the one before."""
    dtype = draw.dtype()
    known = draw.images(draw.integer(2, 5), dtype)
    a_bar = (1 - draw.betas(12, 40)).cumprod(0)
    i = draw.case if draw.case < 2 else draw.integer(3, len(a_bar) - 1)
    return {
        "known": known,
        "noise": draw.normal(*known.shape, dtype=dtype),
        "i": i,
        "a_bar": a_bar,
    }


def _diffused(x_0: Tensor, noise: Tensor, a_bar: Tensor) -> Tensor:
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


@task(points=2, inputs=_one_level, roundings=256.0, package=PACKAGE)
def known_at(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """What is known, as noisy as the rest is after step i (Lugmayr et al. 2022, eq. 8a)."""
    if i == 0:
        return known
    return a_bar[i - 1].sqrt() * known + (1 - a_bar[i - 1]).sqrt() * noise


@known_at.misconception
def level_before_the_step(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is the level before step i. After it the rest is at a_bar[i - 1], and at clean data
    after step 0.
    """
    return _diffused(known, noise, a_bar[i])


@known_at.misconception
def level_before_but_clean_at_last(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """Clean after step 0, right; but after any other this is the level before the step. The rest
    has come down to a_bar[i - 1].
    """
    return known if i == 0 else _diffused(known, noise, a_bar[i])


@known_at.misconception
def around_the_end(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """At i = 0 the index i - 1 is -1, and a_bar[-1] is the last one: the known part ends as noise.
    Step 0 leads to clean data.
    """
    return _diffused(known, noise, a_bar[i - 1])


@known_at.misconception
def never_quite_clean(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """After step 0 a little noise is left in what is known, that of a_bar[0]. There the data is
    clean, and known must be exact.
    """
    return _diffused(known, noise, a_bar[max(i - 1, 0)])


@known_at.misconception
def always_clean(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The known part is clean after every step, and the rest is not: the network never met such a
    picture. Bring it to the same noise level.
    """
    return known.clone()


@known_at.misconception
def no_roots(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """Both roots are missing: a_bar and 1 - a_bar are variances, the weights their roots."""
    return known if i == 0 else a_bar[i - 1] * known + (1 - a_bar[i - 1]) * noise


@known_at.misconception
def no_root_of_the_noise(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The noise is multiplied by its variance, 1 - a_bar. Its deviation is the root of that."""
    return known if i == 0 else a_bar[i - 1].sqrt() * known + (1 - a_bar[i - 1]) * noise


@known_at.misconception
def no_root_of_the_signal(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The weight of what is known is the root of a_bar, not a_bar."""
    return known if i == 0 else a_bar[i - 1] * known + (1 - a_bar[i - 1]).sqrt() * noise


@known_at.misconception
def signal_not_scaled(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """Noise is added, but what is known keeps its full strength. It fades as noise comes in: its
    weight is the root of a_bar.
    """
    return known if i == 0 else known + (1 - a_bar[i - 1]).sqrt() * noise


@known_at.misconception
def no_noise(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """What is known is scaled down, but no noise is added to it."""
    return known if i == 0 else a_bar[i - 1].sqrt() * known


@known_at.misconception
def weights_exchanged(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The two weights are exchanged: the root of a_bar belongs to what is known."""
    return known if i == 0 else _diffused(noise, known, a_bar[i - 1])


@known_at.misconception
def noise_of_one_step(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is the noise of a single step, with alpha in place of a_bar. From clean data to a level
    one jumps with a_bar, the product of all alphas.
    """
    return known if i == 0 else _diffused(known, noise, a_bar[i] / a_bar[i - 1])


@known_at.misconception
def two_levels_down(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is one level too clean, a_bar[i - 2]. Step i ends at a_bar[i - 1]."""
    return known if i <= 1 else _diffused(known, noise, a_bar[i - 2])


@known_at.misconception
def root_and_its_complement(known: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The weight of what is known is right, but that of the noise is 1 minus it. The squares of the
    two add up to 1, not the weights: take the root of 1 - a_bar.
    """
    root = a_bar[i - 1].sqrt()
    return known if i == 0 else root * known + (1 - root) * noise


# --- 3: up again ---------------------------------------------------------------------------------


def _before_a_step(draw: Draw) -> Inputs:
    dtype = draw.dtype()
    x = 2 * draw.images(draw.integer(2, 5), dtype)
    a_bar = (1 - draw.betas(8, 20)).cumprod(0)
    i = draw.integer(2, len(a_bar) - 1) if draw.case else 1
    return {"x": x, "noise": draw.normal(*x.shape, dtype=dtype), "i": i, "a_bar": a_bar}


@task(points=2, inputs=_before_a_step, roundings=256.0, package=PACKAGE)
def up_again(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """One step of noise, from level i - 1 to level i (Lugmayr et al. 2022, algorithm 1)."""
    alpha = a_bar[i] / a_bar[i - 1]
    return alpha.sqrt() * x + (1 - alpha).sqrt() * noise


@up_again.misconception
def as_if_clean(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is the jump from clean data. x already has the noise of level i - 1: add that of one
    step, with alpha = a_bar[i] / a_bar[i - 1].
    """
    return _diffused(x, noise, a_bar[i])


@up_again.misconception
def as_if_clean_and_one_lower(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This jumps from clean data to level i - 1, where x already is. One step up takes alpha =
    a_bar[i] / a_bar[i - 1].
    """
    return _diffused(x, noise, a_bar[i - 1])


@up_again.misconception
def one_step_too_high(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is the alpha of the next step, a_bar[i + 1] / a_bar[i]. x comes from level i - 1 and
    goes to level i.
    """
    return _diffused(x, noise, a_bar[i + 1] / a_bar[i])


@up_again.misconception
def nothing_fades(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The right noise is added, but x keeps its full strength, and the variance grows from step to
    step. x is multiplied by the root of alpha.
    """
    return x + (1 - a_bar[i] / a_bar[i - 1]).sqrt() * noise


@up_again.misconception
def both_roots_missing(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """Both roots are missing: alpha and 1 - alpha are variances, the weights their roots."""
    alpha = a_bar[i] / a_bar[i - 1]
    return alpha * x + (1 - alpha) * noise


@up_again.misconception
def root_of_beta_missing(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The noise is multiplied by its variance, 1 - alpha. Its deviation is the root of that."""
    alpha = a_bar[i] / a_bar[i - 1]
    return alpha.sqrt() * x + (1 - alpha) * noise


@up_again.misconception
def root_of_alpha_missing(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """x is multiplied by alpha. It is the root of alpha that keeps the variance."""
    alpha = a_bar[i] / a_bar[i - 1]
    return alpha * x + (1 - alpha).sqrt() * noise


@up_again.misconception
def alpha_and_beta_exchanged(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The two weights are exchanged: nearly all of x is thrown away. It keeps the root of alpha,
    and the noise gets the root of beta = 1 - alpha.
    """
    alpha = a_bar[i] / a_bar[i - 1]
    return (1 - alpha).sqrt() * x + alpha.sqrt() * noise


@up_again.misconception
def difference_of_the_levels(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The variance added is the difference of the two levels, a_bar[i - 1] - a_bar[i]. That forgets
    that x fades on the way, and its noise with it: it is 1 - alpha.
    """
    alpha = a_bar[i] / a_bar[i - 1]
    return alpha.sqrt() * x + (a_bar[i - 1] - a_bar[i]).sqrt() * noise


@up_again.misconception
def variance_of_the_way_down(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is beta-tilde, the variance of the step down. The way up has beta itself, 1 - alpha."""
    alpha = a_bar[i] / a_bar[i - 1]
    variance = (1 - a_bar[i - 1]) / (1 - a_bar[i]) * (1 - alpha)
    return alpha.sqrt() * x + variance.sqrt() * noise


@up_again.misconception
def only_faded(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """x is scaled down, but no noise is added: the next step would expect some and take away what
    is there.
    """
    return (a_bar[i] / a_bar[i - 1]).sqrt() * x


@up_again.misconception
def difference_for_beta(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """The difference of the two levels is taken for beta. Levels are products: the alpha of a step
    is a_bar[i] divided by a_bar[i - 1], and beta is 1 minus that.
    """
    beta = a_bar[i - 1] - a_bar[i]
    return (1 - beta).sqrt() * x + beta.sqrt() * noise


@up_again.misconception
def step_before(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """This is the alpha of the step before, which leads to level i - 1, where x already is. Step i
    has a_bar[i] / a_bar[i - 1].
    """
    alpha = a_bar[i - 1] / a_bar[i - 2] if i > 1 else a_bar[0]
    return alpha.sqrt() * x + (1 - alpha).sqrt() * noise


@up_again.misconception
def one_minus_the_root(x: Tensor, noise: Tensor, i: int, a_bar: Tensor) -> Tensor:
    """x fades rightly, but the variance of the noise is 1 minus the root of alpha. It is 1 minus
    alpha itself.
    """
    root = (a_bar[i] / a_bar[i - 1]).sqrt()
    return root * x + (1 - root).sqrt() * noise


# --- 4: consistent at low resolution -------------------------------------------------------------


def _two_resolutions(draw: Draw) -> Inputs:
    dtype, factor = draw.dtype(), draw.integer(2, 5)
    n_items, n_channels = draw.integer(2, 4), draw.integer(1, 4)
    height = draw.integer(2, 5)
    width = height + draw.integer(1, 3)
    shape = (n_items, n_channels, factor * height, factor * width)
    return {
        "x_0": draw.uniform(-1, 1, *shape, dtype=dtype),
        "low": draw.uniform(-1, 1, n_items, n_channels, height, width, dtype=dtype),
        "factor": factor,
    }


def _repeated(low: Tensor, factor: int) -> Tensor:
    return low.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


@task(points=3, inputs=_two_resolutions, roundings=256.0, package=PACKAGE)
def project(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The nearest picture to x_0 that is low at low resolution (Wang et al. 2022, eq. 13)."""
    missing = low - F.avg_pool2d(x_0, factor)  # (B, C, h, w)
    return x_0 + missing.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


@project.misconception
def low_alone(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """This is low in large squares: consistent, but nothing is left of x_0. Keep its detail, which
    is what x_0 has beyond its own block means.
    """
    return _repeated(low, factor)


@project.misconception
def low_added(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """low is added to x_0 without taking off the block means that x_0 has already: the result's are
    the sum of both.
    """
    return x_0 + _repeated(low, factor)


@project.misconception
def detail_alone(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The block means of x_0 are taken off, but low is not put in their place."""
    return x_0 - _repeated(F.avg_pool2d(x_0, factor), factor)


@project.misconception
def away_from_low(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """A sign: the difference is added the wrong way round, and the result is twice as far from low
    as x_0 was. What is missing is low minus the block means.
    """
    return x_0 - _repeated(low - F.avg_pool2d(x_0, factor), factor)


@project.misconception
def every_nth_pixel(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """x_0 is brought to low resolution by taking one pixel of each block. A coarse camera averages:
    avg_pool2d.
    """
    return x_0 + _repeated(low - x_0[..., ::factor, ::factor], factor)


@project.misconception
def largest_pixel(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """max_pool2d takes the brightest pixel of each block. A coarse camera averages: avg_pool2d."""
    return x_0 + _repeated(low - F.max_pool2d(x_0, factor), factor)


@project.misconception
def smooth_correction(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """What is missing is spread smoothly, by bilinear interpolation. That looks better, but the
    block means are then not exactly low: repeat each value over its block.
    """
    missing = low - F.avg_pool2d(x_0, factor)
    return x_0 + F.interpolate(missing, scale_factor=factor, mode="bilinear")


@project.misconception
def tiled(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """`repeat` lays whole pictures side by side. Each value is to be repeated over its own block:
    repeat_interleave, once for rows and once for columns.
    """
    return x_0 + (low - F.avg_pool2d(x_0, factor)).repeat(1, 1, factor, factor)


@project.misconception
def mean_of_the_picture(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The mean of the whole picture is taken off, not that of each block. Only then is low free to
    take their place.
    """
    return x_0 - x_0.mean((2, 3), keepdim=True) + _repeated(low, factor)


@project.misconception
def transposed(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """What is missing is divided by the number of pixels of a block: that is A transposed. To raise
    a mean by 1, every pixel has to rise by 1, which is the pseudo-inverse.
    """
    return x_0 + _repeated(low - F.avg_pool2d(x_0, factor), factor) / factor**2


@project.misconception
def sum_for_mean(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The pixels of a block are added up, where their mean is wanted."""
    return x_0 + _repeated(low - F.avg_pool2d(x_0, factor, divisor_override=1), factor)


@project.misconception
def clipped(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The result is clipped to [-1, 1]. That moves the block means again: leave it as it is."""
    return (x_0 + _repeated(low - F.avg_pool2d(x_0, factor), factor)).clamp(-1, 1)


@project.misconception
def not_repeated(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """What is missing has the size of low and does not fit x_0. Repeat each value over its block
    first.
    """
    return x_0 + (low - F.avg_pool2d(x_0, factor))


@project.misconception
def halfway(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """This is the mean of x_0 and low in large squares: half of the detail is lost, and the block
    means lie halfway. Replace the means, and keep the detail whole.
    """
    return (x_0 + _repeated(low, factor)) / 2


@project.misconception
def as_many_times(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """What is missing is multiplied by the number of pixels of a block. If every pixel rises by 1,
    so does their mean: repeat it as it is.
    """
    return x_0 + _repeated(low - F.avg_pool2d(x_0, factor), factor) * factor**2


@project.misconception
def all_in_one_pixel(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The block means are right, but one pixel of each block makes up for all of them. That is
    a long way from x_0; the nearest picture moves every pixel alike.
    """
    x = x_0.clone()
    x[..., ::factor, ::factor] += (low - F.avg_pool2d(x_0, factor)) * factor**2
    return x


@project.misconception
def by_a_ratio(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """Each block is multiplied until its mean is right. That is consistent but not the nearest
    picture, and a mean near 0 blows it up: add the difference.
    """
    return x_0 * _repeated(low / F.avg_pool2d(x_0, factor), factor)


@project.misconception
def axes_exchanged(x_0: Tensor, low: Tensor, factor: int) -> Tensor:
    """The picture is cut into pieces with the two halves of each axis exchanged: the axis of blocks
    comes first, that within a block second, as in reshape(b, c, h, factor, w, factor).
    """
    b, c, h, w = low.shape
    pieces = x_0.reshape(b, c, factor, h, factor, w)
    missing = low - pieces.mean((2, 4))
    return (pieces + missing[:, :, None, :, None, :]).reshape(x_0.shape)


# --- 5: the loop ---------------------------------------------------------------------------------

StepDown = Callable[[Tensor, int], Tensor]


class _StepDown:
    """A step of no meaning, which depends on its number and mixes neighbours."""

    def __call__(self, x: Tensor, i: int) -> Tensor:
        return 0.8 * torch.sin(1.3 * x + 0.9 * i) + 0.6 * x.roll(1, -1) - 0.3 * x.flip(-1)


def _whole_chain(draw: Draw) -> Inputs:
    known = draw.images(draw.integer(2, 4), torch.float64)
    falls = draw.uniform(0.5, 1.5, draw.integer(4, 7)).cumsum(0)
    a_bar = 1 - 0.95 * falls / falls[-1]  # (n,), falls to 0.05
    return {
        "step": _StepDown(),
        "known": known,
        "mask": _mask(draw, *known.shape),
        "x_T": draw.normal(*known.shape),
        "noise": draw.normal(*known.shape),
        "a_bar": a_bar,
    }


@task(points=3, inputs=_whole_chain, roundings=2.0**12, package=PACKAGE)
def inpaint(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """The whole walk down, with what is known put in after each step."""
    x = x_T
    for i in reversed(range(len(a_bar))):
        x = step(x, i)
        level = known if i == 0 else _diffused(known, noise, a_bar[i - 1])
        x = torch.where(mask, level, x)
    return x


def _walk(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor,
    level: Callable[[int], Tensor], order: range | None = None,
) -> Tensor:  # fmt: skip
    """The loop with another level for what is known after step i, or other steps."""
    x = x_T
    for i in reversed(range(len(a_bar))) if order is None else order:
        x = torch.where(mask, level(i), step(x, i))
    return x


@inpaint.misconception
def upwards(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """The steps are made in the order 0, 1, 2, ... The walk starts at noise, with the last step,
    and ends with step 0.
    """
    level = lambda i: known if i == 0 else _diffused(known, noise, a_bar[i - 1])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level, range(len(a_bar)))


@inpaint.misconception
def clean_throughout(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """Clean data is put in after every step, beside a part that is still noisy. Bring it to the
    level a_bar[i - 1] first; only after step 0 it is clean.
    """
    return _walk(step, known, mask, x_T, noise, a_bar, lambda i: known)


@inpaint.misconception
def put_in_at_the_end_only(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known is put in only at the end, so that the rest was drawn without knowing it. Put
    it in after each step.
    """
    x = x_T
    for i in reversed(range(len(a_bar))):
        x = step(x, i)
    return torch.where(mask, known, x)


@inpaint.misconception
def put_in_at_the_start_only(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known is put in once, before the first step, and then forgotten. Put it in after each
    step.
    """
    x = torch.where(mask, _diffused(known, noise, a_bar[-1]), x_T)
    for i in reversed(range(len(a_bar))):
        x = step(x, i)
    return x


@inpaint.misconception
def never_put_in(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """The walk is right, but nothing of what is known is in it: it draws any picture."""
    x = x_T
    for i in reversed(range(len(a_bar))):
        x = step(x, i)
    return x


@inpaint.misconception
def put_in_before_each_step(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known is put in before each step and not after the last one, so that it does not end
    exact. Put it in after each step, at the level that the step has led to.
    """
    x = x_T
    for i in reversed(range(len(a_bar))):
        x = step(torch.where(mask, _diffused(known, noise, a_bar[i]), x), i)
    return x


@inpaint.misconception
def put_in_before_each_step_and_at_the_end(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """This puts what is known into x_T as well, before the first step. It would serve, but is not
    what is asked for: start from x_T as it is, and put it in after each step.
    """
    x = x_T
    for i in reversed(range(len(a_bar))):
        x = step(torch.where(mask, _diffused(known, noise, a_bar[i]), x), i)
    return torch.where(mask, known, x)


@inpaint.misconception
def one_level_too_noisy(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known comes in at the level before the step, a_bar[i]. After step i the rest is at
    a_bar[i - 1].
    """
    level = lambda i: known if i == 0 else _diffused(known, noise, a_bar[i])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level)


@inpaint.misconception
def never_clean(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """All is right but the end, where a little noise is left. After step 0, known is clean."""
    level = lambda i: _diffused(known, noise, a_bar[max(i - 1, 0)])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level)


@inpaint.misconception
def noise_at_the_end(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """At i = 0 the index i - 1 is -1, and a_bar[-1] is that of pure noise: what is known ends as
    noise. After step 0 it is clean.
    """
    level = lambda i: _diffused(known, noise, a_bar[i - 1])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level)


@inpaint.misconception
def level_before_the_step_throughout(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known comes in at the level before each step, a_bar[i], and ends with noise in it.
    After step i the rest is at a_bar[i - 1], and clean after step 0.
    """
    level = lambda i: _diffused(known, noise, a_bar[i])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level)


@inpaint.misconception
def the_wrong_part(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """The mask is used the wrong way round: what should be drawn is copied, and what is known is
    drawn. True stands for known.
    """
    level = lambda i: known if i == 0 else _diffused(known, noise, a_bar[i - 1])  # noqa: E731
    return _walk(step, known, ~mask, x_T, noise, a_bar, level)


@inpaint.misconception
def step_0_missing(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """The loop stops before step 0: `range(n - 1, 0, -1)` leaves out its end. reversed(range(n))
    has all of them.
    """
    level = lambda i: _diffused(known, noise, a_bar[i - 1])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level, range(len(a_bar) - 1, 0, -1))


@inpaint.misconception
def first_step_missing(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """The loop begins one step late, at n - 2. Steps count from 0, so the first one is n - 1, at
    a_bar[-1].
    """
    level = lambda i: known if i == 0 else _diffused(known, noise, a_bar[i - 1])  # noqa: E731
    return _walk(step, known, mask, x_T, noise, a_bar, level, range(len(a_bar) - 2, -1, -1))


@inpaint.misconception
def always_from_the_start(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """Each step is made from x_T again, so that only the last one counts. It is to start from where
    the step before has led.
    """
    return torch.where(mask, known, step(x_T, 0))


@inpaint.misconception
def returned_too_early(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """It returns after the first step: the `return` stands inside the loop."""
    return torch.where(mask, _diffused(known, noise, a_bar[-2]), step(x_T, len(a_bar) - 1))


@inpaint.misconception
def no_roots_in_the_level(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known comes in with the weights a_bar and 1 - a_bar. Those are variances: take their
    roots.
    """

    def level(i: int) -> Tensor:
        return known if i == 0 else a_bar[i - 1] * known + (1 - a_bar[i - 1]) * noise

    return _walk(step, known, mask, x_T, noise, a_bar, level)


@inpaint.misconception
def nothing_at_the_end(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """After step 0 nothing is put in, so that known values do not end exact. No noise is to be
    added then, but what is known still has to go in, clean.
    """
    x = x_T
    for i in reversed(range(len(a_bar))):
        x = step(x, i)
        if i > 0:
            x = torch.where(mask, _diffused(known, noise, a_bar[i - 1]), x)
    return x


@inpaint.misconception
def step_0_never_made(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """Known values end exact, but step 0 is never made: `range(n - 1, 0, -1)` leaves out its end,
    and what is drawn stays noisy.
    """
    x = x_T
    for i in range(len(a_bar) - 1, 0, -1):
        x = torch.where(mask, _diffused(known, noise, a_bar[i - 1]), step(x, i))
    return torch.where(mask, known, x)


@inpaint.misconception
def known_overwritten(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """In the loop, known itself is overwritten by its noisy version, and the next step makes that
    noisy again. Give the noisy version a name of its own.
    """
    x = x_T
    for i in reversed(range(len(a_bar))):
        if i > 0:
            known = _diffused(known, noise, a_bar[i - 1])
        x = torch.where(mask, known, step(x, i))
    return x


@inpaint.misconception
def noise_of_the_start(
    step: StepDown, known: Tensor, mask: Tensor, x_T: Tensor, noise: Tensor, a_bar: Tensor
) -> Tensor:
    """What is known gets x_T as its noise. x_T is where the walk starts; the noise of the known
    part is the argument `noise`.
    """
    return _walk(
        step, known, mask, x_T, noise, a_bar,
        lambda i: known if i == 0 else _diffused(known, x_T, a_bar[i - 1]),
    )  # fmt: skip
