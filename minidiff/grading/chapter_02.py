"""Checks of chapter 02, the UNet: `from minidiff.grading import chapter_02 as check`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import unet
from minidiff.grading.check import Answer, Inputs, Malformed, task
from minidiff.grading.draw import Draw

# --- 1: the clock --------------------------------------------------------------------------------


def _readings(draw: Draw) -> Inputs:
    """Timesteps of 1,000, whole or not, and an even number of features; B is not half of it."""
    t = draw.timesteps(draw.integer(4, 9), 1000)
    t = t[draw.uniform(0, 1, len(t)).argsort()]  # the first is no longer 0
    if draw.case % 2:
        t = (t + draw.uniform(0, 1, len(t))).to(draw.dtype())
    half = draw.integer(4, 20)
    return {"t": t, "dim": 2 * (half + (half == len(t)))}


def _rounded_angles(inputs: Inputs) -> float:
    """A float32 angle is as exact as its size allows, and the size is that of t."""
    t: Tensor = inputs["t"]  # where t is not an integer, the engine has its size already
    return 8.0 if t.is_floating_point() else 8.0 * float(t.max())


@task(
    points=2,
    inputs=_readings,
    outputs=("the embedding",),
    roundings=_rounded_angles,
    package=[unet.get_timestep_embedding],
)
def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """The clock of many hands, (B,) -> (B, dim): cosines, then sines (Vaswani et al. 2017)."""
    half = dim // 2
    i = torch.arange(half)
    speeds = torch.exp(-math.log(10_000) * i / half)  # (half,), from 1 to nearly 1 / 10,000
    angles = t[:, None] * speeds  # (B, 1) * (half,) -> (B, half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, dim)


def _exponents(dim: int) -> Tensor:
    return torch.arange(dim // 2) / (dim // 2)


def _clock(t: Tensor, exponents: Tensor) -> Tensor:
    """Cosines, then sines, of hands with speeds 10,000 ** -exponents."""
    angles = t[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@timestep_embedding.misconception
def t_without_a_second_axis(t: Tensor, dim: int) -> Tensor:
    """Timestep by timestep and speed by speed cannot be multiplied: there are not as many of one as
    of the other. Every t meets every speed, so give t a second axis: t[:, None].
    """
    angles = t * torch.exp(-math.log(10_000) * _exponents(dim))
    return torch.cat([angles.cos(), angles.sin()])


@timestep_embedding.misconception
def sines_below_cosines(t: Tensor, dim: int) -> Tensor:
    """The sines stand below the cosines, where torch.cat puts them unless told otherwise. Each row
    belongs to one t: join them side by side, along dim=1.
    """
    return torch.cat(_clock(t, _exponents(dim)).chunk(2, dim=1))


@timestep_embedding.misconception
def sines_first(t: Tensor, dim: int) -> Tensor:
    """The sines stand in the first half. Here it is the cosines: at t = 0 a row begins with ones.
    Another order is as good for a new model and ruins a trained one.
    """
    return _clock(t, _exponents(dim)).roll(dim // 2, dims=1)


@timestep_embedding.misconception
def cosines_and_sines_in_turn(t: Tensor, dim: int) -> Tensor:
    """Each cosine is followed by its sine. Here all cosines come first, then all sines, as
    torch.cat joins them along dim=1.
    """
    cos, sin = _clock(t, _exponents(dim)).chunk(2, dim=1)
    return torch.stack([cos, sin], dim=2).flatten(1)


@timestep_embedding.misconception
def sines_and_cosines_in_turn(t: Tensor, dim: int) -> Tensor:
    """Sine, cosine, sine, cosine: that is the order of Vaswani et al. Here all cosines come first,
    then all sines.
    """
    cos, sin = _clock(t, _exponents(dim)).chunk(2, dim=1)
    return torch.stack([sin, cos], dim=2).flatten(1)


@timestep_embedding.misconception
def max_period_dropped(t: Tensor, dim: int) -> Tensor:
    """The 10,000 is missing: these speeds are exp(-i / half), and none falls below 1 / e. Slow
    hands tell the time of day, so the speeds must run down to nearly 1 / 10,000.
    """
    return _clock(t, _exponents(dim) / math.log(10_000))


@timestep_embedding.misconception
def minus_forgotten(t: Tensor, dim: int) -> Tensor:
    """The speeds rise from 1 to nearly 10,000: the exponent has lost its minus. Hands faster than
    one turn a step only blur.
    """
    angles = t[:, None] * 10_000 ** _exponents(dim)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@timestep_embedding.misconception
def minus_forgotten_in_exp(t: Tensor, dim: int) -> Tensor:
    """The speeds rise from 1 to nearly 10,000: a minus is missing in exp(-log(10,000) i / half).
    Hands faster than one turn a step only blur.
    """
    return _clock(t, -_exponents(dim))  # so fast that another rounding is another reading


@timestep_embedding.misconception
def divided_without_remainder(t: Tensor, dim: int) -> Tensor:
    """The exponent is -i // half, and // rounds down: only 0 and -1 are left, so all hands but the
    first do the same. Use / here.
    """
    angles = t[:, None] * 10_000 ** (-torch.arange(dim // 2) // (dim // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@timestep_embedding.misconception
def power_before_the_division(t: Tensor, dim: int) -> Tensor:
    """The power is divided by half, not the exponent: ** binds more tightly than /. Put the
    exponent in brackets.
    """
    speeds = 10_000.0 ** -torch.arange(dim // 2) / (dim // 2)
    angles = t[:, None] * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@timestep_embedding.misconception
def counted_from_1(t: Tensor, dim: int) -> Tensor:
    """i runs from 1 to half. It starts at 0, so the first hand turns at speed 1."""
    return _clock(t, _exponents(dim) + 1 / (dim // 2))


@timestep_embedding.misconception
def sines_negative(t: Tensor, dim: int) -> Tensor:
    """The cosines are right and the sines have the wrong sign: does a minus stand before the angles
    that belongs in the exponent?
    """
    cos, sin = _clock(t, _exponents(dim)).chunk(2, dim=1)
    return torch.cat([cos, -sin], dim=1)


@timestep_embedding.misconception
def divided_by_half_minus_1(t: Tensor, dim: int) -> Tensor:
    """The exponent is divided by half - 1, as in Ho et al.'s own code, so that the last speed is 1
    / 10,000 exactly. The formula here divides by half.
    """
    return _clock(t, torch.arange(dim // 2) / (dim // 2 - 1))


@timestep_embedding.misconception
def divided_by_dim(t: Tensor, dim: int) -> Tensor:
    """The exponent is i / dim, so the slowest hand comes out near 1 / 100. There are dim / 2 hands:
    divide i by that.
    """
    return _clock(t, _exponents(dim) / 2)


@timestep_embedding.misconception
def divided_by_a_quarter(t: Tensor, dim: int) -> Tensor:
    """The exponent is twice too large. In 2 i / d, as Vaswani et al. write it, d is all of dim;
    with half in the denominator the 2 goes.
    """
    return _clock(t, 2 * _exponents(dim))


@timestep_embedding.misconception
def t_over_1000(t: Tensor, dim: int) -> Tensor:
    """t is divided by 1,000 first, so even the fastest hand turns by 1 radian in the whole chain
    and neighbours look alike. The hands take t as it is.
    """
    return _clock(t / 1000, _exponents(dim))


@timestep_embedding.misconception
def full_turns(t: Tensor, dim: int) -> Tensor:
    """The angles are multiplied by 2 pi. Then the fastest hand makes one full turn a step and shows
    the same at every whole t; the speeds are in radians.
    """
    return _clock(2 * math.pi * t, _exponents(dim))


# --- 2: the residual block -----------------------------------------------------------------------


def _block_at_work(draw: Draw) -> Inputs:
    """A block with random weights, as wide as its input in every other case; H != W."""
    width, time_dim, dtype = draw.choice((8, 16)), draw.integer(5, 12), draw.dtype()
    out = width if draw.case % 2 else 24 - width
    block = draw.module(lambda: unet.ResBlock(width, out, time_dim)).to(dtype)
    n_items, height = draw.integer(2, 4), draw.integer(3, 6)
    return {
        "block": block,
        "x": draw.normal(n_items, width, height, height + draw.integer(1, 3), dtype=dtype),
        "time": draw.normal(n_items, time_dim, dtype=dtype),
    }


@task(
    points=3,
    inputs=_block_at_work,
    outputs=("the output",),
    package=[unet.ResBlock.forward],
    n_cases=2,
)
def residual_block(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """A residual block from its parts, x (B, in, H, W), time (B, time_dim) -> (B, out, H, W)."""
    h = block.conv_1(F.silu(block.norm_1(x)))  # (B, out, H, W)
    scale_shift = block.time(F.silu(time))[:, :, None, None]  # (B, 2 out, 1, 1)
    scale, shift = scale_shift.chunk(2, dim=1)  # 2 x (B, out, 1, 1)
    h = block.norm_2(h) * (1 + scale) + shift  # Dhariwal & Nichol 2021, section 3
    out: Tensor = block.skip(x) + block.conv_2(F.silu(h))
    return out


def _before_time(block: unet.ResBlock, x: Tensor) -> Tensor:
    h: Tensor = block.conv_1(F.silu(block.norm_1(x)))
    return h


def _scale_shift(block: unet.ResBlock, time: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = block.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
    return scale, shift


def _residue(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """All of the block but its skip."""
    scale, shift = _scale_shift(block, time)
    h = block.norm_2(_before_time(block, x)) * (1 + scale) + shift
    out: Tensor = block.conv_2(F.silu(h))
    return out


def _after_time(block: unet.ResBlock, x: Tensor, h: Tensor) -> Tensor:
    out: Tensor = block.skip(x) + block.conv_2(F.silu(h))
    return out


@residual_block.misconception
def time_not_used(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The time never enters: this block does the same at every timestep. block.time turns the
    embedding into the scale and shift that follow block.norm_2.
    """
    return _after_time(block, x, block.norm_2(_before_time(block, x)))


@residual_block.misconception
def scale_without_1(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The features are multiplied by scale alone. A time that says 0 should change nothing, and
    this would erase them: multiply by 1 + scale.
    """
    scale, shift = _scale_shift(block, time)
    return _after_time(block, x, block.norm_2(_before_time(block, x)) * scale + shift)


@residual_block.misconception
def scale_and_shift_exchanged(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Scale and shift are exchanged: the first half of block.time's output is the scale."""
    shift, scale = _scale_shift(block, time)
    return _after_time(block, x, block.norm_2(_before_time(block, x)) * (1 + scale) + shift)


@residual_block.misconception
def shifted_before_scaled(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The shift is added first and multiplied along with the rest. Scale first, then shift."""
    scale, shift = _scale_shift(block, time)
    return _after_time(block, x, (block.norm_2(_before_time(block, x)) + shift) * (1 + scale))


@residual_block.misconception
def only_shifted(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Time only shifts here; the scale is not used. Both halves of block.time's output count."""
    _, shift = _scale_shift(block, time)
    return _after_time(block, x, block.norm_2(_before_time(block, x)) + shift)


@residual_block.misconception
def time_before_the_norm(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Time speaks before block.norm_2, which subtracts and divides out much of what it said.
    Normalise first, then scale and shift.
    """
    scale, shift = _scale_shift(block, time)
    return _after_time(block, x, block.norm_2(_before_time(block, x) * (1 + scale) + shift))


@residual_block.misconception
def time_after_the_activation(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Scale and shift come after the second silu. They belong between block.norm_2 and the
    activation, so that time can decide what the activation lets through.
    """
    scale, shift = _scale_shift(block, time)
    h = F.silu(block.norm_2(_before_time(block, x))) * (1 + scale) + shift
    out: Tensor = block.skip(x) + block.conv_2(h)
    return out


@residual_block.misconception
def no_silu_on_time(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The embedding goes into block.time without its silu. It ends in a linear layer, and two
    linear layers in a row are only one.
    """
    scale, shift = block.time(time)[:, :, None, None].chunk(2, dim=1)
    return _after_time(block, x, block.norm_2(_before_time(block, x)) * (1 + scale) + shift)


@residual_block.misconception
def no_second_silu(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The activation before block.conv_2 is missing: each of the two convolutions is preceded by a
    normalisation and a silu.
    """
    scale, shift = _scale_shift(block, time)
    h = block.norm_2(_before_time(block, x)) * (1 + scale) + shift
    out: Tensor = block.skip(x) + block.conv_2(h)
    return out


@residual_block.misconception
def no_silu_before_the_convolutions(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Both activations are missing. Between two convolutions there is then nothing that bends, and
    each normalisation should be followed by a silu.
    """
    scale, shift = _scale_shift(block, time)
    h = block.norm_2(block.conv_1(block.norm_1(x))) * (1 + scale) + shift
    out: Tensor = block.skip(x) + block.conv_2(h)
    return out


@residual_block.misconception
def activated_before_normalised(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Each silu comes before its normalisation. The order is norm, silu, conv, and scale and shift
    of the second time stand between norm and silu.
    """
    scale, shift = _scale_shift(block, time)
    h = block.conv_1(block.norm_1(F.silu(x)))
    h = block.norm_2(F.silu(h)) * (1 + scale) + shift
    out: Tensor = block.skip(x) + block.conv_2(h)
    return out


@residual_block.misconception
def relu_for_silu(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The activation is a ReLU; here it is a silu, x * sigmoid(x). The weights of a trained model
    fit only the one that they were trained with.
    """
    scale, shift = _scale_shift(block, time)
    h = block.conv_1(F.relu(block.norm_1(x)))
    h = F.relu(block.norm_2(h) * (1 + scale) + shift)
    out: Tensor = block.skip(x) + block.conv_2(h)
    return out


@residual_block.misconception
def silu_after_the_linear_layer(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The silu comes after block.time, which lets neither scale nor shift fall below -0.28. It
    belongs on what goes into that layer.
    """
    scale, shift = F.silu(block.time(time))[:, :, None, None].chunk(2, dim=1)
    return _after_time(block, x, block.norm_2(_before_time(block, x)) * (1 + scale) + shift)


@residual_block.misconception
def scale_and_shift_in_turn(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Scale and shift are read in turn, [0::2] and [1::2]. They lie one after the other: all scales
    first, then all shifts.
    """
    both = block.time(F.silu(time))[:, :, None, None]
    scale, shift = both[:, 0::2], both[:, 1::2]
    return _after_time(block, x, block.norm_2(_before_time(block, x)) * (1 + scale) + shift)


@residual_block.misconception
def no_axes_for_height_and_width(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """Scale and shift are (B, out), the features (B, out, H, W), and broadcasting starts from the
    last axis: it takes channels for columns. Give scale and shift two more axes of length 1.
    """
    scale, shift = block.time(F.silu(time)).chunk(2, dim=1)
    return _after_time(block, x, block.norm_2(_before_time(block, x)) * (1 + scale) + shift)


@residual_block.misconception
def convolved_first(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """This convolves, then normalises and activates, as many classifiers do. In this block each
    convolution comes last: norm, silu, conv.
    """
    scale, shift = _scale_shift(block, time)
    h = F.silu(block.norm_1(block.conv_1(x)))
    h = F.silu(block.norm_2(block.conv_2(h)) * (1 + scale) + shift)
    out: Tensor = block.skip(x) + h
    return out


@residual_block.misconception
def skip_forgotten(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The input is not added at the end. It is the skip that makes the block residual: without it,
    a chain of fresh blocks lets nothing through.
    """
    return _residue(block, x, time)


@residual_block.misconception
def skip_not_projected(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """x itself is added. That fits only where the block keeps the number of channels; block.skip
    does what is needed in both cases.
    """
    return x + _residue(block, x, time)


@residual_block.misconception
def skip_from_the_activated(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """The skip starts after the first norm and silu. It must carry the input itself, untouched: did
    a variable get a new value before the skip read it?
    """
    out: Tensor = block.skip(F.silu(block.norm_1(x))) + _residue(block, x, time)
    return out


@residual_block.misconception
def activated_after_adding(block: unet.ResBlock, x: Tensor, time: Tensor) -> Tensor:
    """A silu follows the addition, as the ReLU does in the first ResNets. Here nothing does: what
    the skip brings must pass unchanged.
    """
    return F.silu(block.skip(x) + _residue(block, x, time))


# --- 3: attention --------------------------------------------------------------------------------


def _queries(draw: Draw) -> Inputs:
    """Queries, keys and values; no two of the numbers one might scale by are equal."""
    n_items, n_heads, d = draw.integer(2, 4), draw.choice((2, 4)), draw.choice((3, 5, 7))
    n_keys, dtype = draw.choice((8, 11, 13)), draw.dtype()
    n_queries = n_keys + 8 * (draw.case % 2)  # self- and cross-attention in turn
    size = 1.0
    if draw.case == 3:  # scores in the thousands: even in float64 exp(710) is infinite
        size, dtype = 1000.0, torch.float64
    return {
        "q": size * draw.normal(n_items, n_heads, n_queries, d, dtype=dtype),
        "k": draw.normal(n_items, n_heads, n_keys, d, dtype=dtype),
        "v": draw.normal(n_items, n_heads, n_keys, d, dtype=dtype),
    }


@task(
    points=3,
    inputs=_queries,
    outputs=("the output",),
    package=[F.scaled_dot_product_attention],
)
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query's weighted mean of the values, (B, heads, L, d) (Vaswani et al. 2017, eq. 1)."""
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])  # (B, heads, L, N)
    weights = scores.softmax(dim=3)  # each row adds up to 1
    return weights @ v  # (B, heads, L, N) @ (B, heads, N, d) -> (B, heads, L, d)


def _attend(q: Tensor, k: Tensor, v: Tensor, factor: float, dim: int = 3) -> Tensor:
    """Attention with scores multiplied by a factor and a softmax over an axis."""
    return (q @ k.transpose(2, 3) * factor).softmax(dim) @ v


@attention.misconception
def softmax_over_the_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The softmax runs over the queries (dim=2): each key shares itself out among those who ask. A
    query's weights on all keys must add up to 1.
    """
    return _attend(q, k, v, q.shape[3] ** -0.5, dim=2)


@attention.misconception
def softmax_over_the_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The softmax runs over the heads (dim=1), which know nothing of each other. It belongs on the
    axis of the keys, counted from the end to be safe.
    """
    return _attend(q, k, v, q.shape[3] ** -0.5, dim=1)


@attention.misconception
def not_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are not divided by sqrt(d). Their variance grows with d, and the softmax turns
    into a maximum.
    """
    return _attend(q, k, v, 1.0)


@attention.misconception
def scaled_by_d(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are divided by d. It is their variance that is d; their standard deviation, by
    which to divide, is its root.
    """
    return _attend(q, k, v, 1 / q.shape[3])


@attention.misconception
def multiplied_by_the_root(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are multiplied by sqrt(d). Divide: without scaling they are too large already."""
    return _attend(q, k, v, q.shape[3] ** 0.5)


@attention.misconception
def scaled_by_all_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are divided by the root of heads * d, the channels of all heads together. A score
    is a sum of d products, those of its own head.
    """
    return _attend(q, k, v, (q.shape[1] * q.shape[3]) ** -0.5)


@attention.misconception
def scaled_by_the_length(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are divided by the root of the number of keys. Divide by that of d, the last axis:
    a score is a sum over the entries of a query.
    """
    return _attend(q, k, v, k.shape[2] ** -0.5)


@attention.misconception
def scaled_by_the_number_of_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are divided by the root of the number of queries, q.shape[2]. Divide by that of d,
    the last axis: a score is a sum over the entries of a query.
    """
    return _attend(q, k, v, q.shape[2] ** -0.5)


@attention.misconception
def scaled_by_the_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores are divided by the root of the number of heads, q.shape[1]. Divide by that of d,
    the last axis: a score is a sum over the entries of a query.
    """
    return _attend(q, k, v, q.shape[1] ** -0.5)


@attention.misconception
def no_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scores themselves are the weights. A mean needs weights that are positive and add up to
    1: that is what the softmax makes of scores.
    """
    return q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) @ v


@attention.misconception
def exp_overflows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The softmax is right on paper, but exp of a large score is infinite, and infinite by infinite
    is NaN. Subtract from each query's scores the largest of them first: that changes no weight.
    """
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    return scores.exp() / scores.exp().sum(3, keepdim=True) @ v


@attention.misconception
def all_weights_together_are_1(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All weights of the whole batch together add up to 1. The sum runs over the keys alone, once
    for each query: sum along the last axis, and keep that axis.
    """
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    return scores.exp() / scores.exp().sum() @ v


@attention.misconception
def values_at_the_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The weights are right; then the second product sums over the queries. There is one value for
    each key: sum over the axis of the keys.
    """
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)  # (B, heads, L, N)
    return torch.einsum("bhqk, bhqd -> bhkd", weights, v)


@attention.misconception
def heads_merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The heads are merged, and by a reshape that mixes positions with heads. Each head attends by
    itself: leave the axis of the heads where it is, the products run over it as over the batch.
    """
    n_items, n_heads, _, d = q.shape
    rows = (x.reshape(n_items, x.shape[2], n_heads * d)[:, None] for x in (q, k, v))
    q_all, k_all, v_all = rows  # (B, 1, L or N, heads * d)
    return _attend(q_all, k_all, v_all, (n_heads * d) ** -0.5).reshape(q.shape)


@attention.misconception
def scaled_after_the_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The division by sqrt(d) comes after the softmax, so the weights no longer add up to 1. Divide
    the scores.
    """
    return _attend(q, k, v, 1.0) / math.sqrt(q.shape[3])


@attention.misconception
def queries_and_keys_exchanged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries and keys have changed places: here the keys ask. The scores are (L, N), one row for
    each query: q times k transposed.
    """
    return _attend(k, q, v, q.shape[3] ** -0.5)


@attention.misconception
def keys_for_values(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The mean is taken over the keys. They only decide on the weights; what is averaged are the
    values.
    """
    return _attend(q, k, k, q.shape[3] ** -0.5)


@attention.misconception
def heads_for_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """At each position the heads attend to one another: the axes of heads and positions are taken
    for each other. Here heads come second, positions third.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return _attend(q, k, v, q.shape[3] ** -0.5).transpose(1, 2)


# --- 4: one step up ------------------------------------------------------------------------------


def _from_below(draw: Draw) -> Inputs:
    """What comes from below, and three skips; the cases differ in what fits by accident."""
    n_items, dtype = draw.integer(2, 4), draw.dtype()
    height, width = draw.integer(2, 4), draw.integer(4, 7)  # of what comes from below
    rows, columns = [(2 * height - 1, 2 * width - 1), (2 * height, 2 * width), (height, width)][
        draw.case % 3
    ]
    n_channels = draw.integer(2, 5)
    below = n_channels + (draw.case > 1)  # as many channels as the skip in the first two
    sizes = [(4 * rows - 1, 4 * columns), (2 * rows, 2 * columns - 1), (rows, columns)]
    skips = [draw.normal(n_items, n_channels, *size, dtype=dtype) for size in sizes]
    return {"h": draw.normal(n_items, below, height, width, dtype=dtype), "skips": skips}


def _output_and_skips(answer: Answer, inputs: Inputs) -> Inputs:
    """What a step returns, and whether it leaves the list to the next step as it should."""
    skips: list[Tensor] = inputs["skips"]
    before = [skip.clone() for skip in skips]
    output = answer(inputs["h"], skips)
    same = len(before) - 1 <= len(skips) <= len(before) and all(map(torch.equal, skips, before))
    return {"the output": output, "the rest of skips": "as it was" if same else "changed"}


@task(points=2, inputs=_from_below, observe=_output_and_skips, changes=("skips",))
def up_step(h: Tensor, skips: list[Tensor]) -> Tensor:
    """Grow h to the last skip's size and lay that beside it, -> (B, C + C_skip, H, W)."""
    skip = skips[-1]  # (B, C_skip, H, W)
    h = F.interpolate(h, size=skip.shape[-2:], mode="nearest")  # (B, C, h, w) -> (B, C, H, W)
    return torch.cat([h, skip], dim=1)


def _grow(h: Tensor, skip: Tensor) -> Tensor:
    return F.interpolate(h, size=skip.shape[-2:], mode="nearest")


@up_step.misconception
def added(h: Tensor, skips: list[Tensor]) -> Tensor:
    """The skip is added. Then nobody can tell any more what came from where, and the channels must
    match; concatenate along them.
    """
    return _grow(h, skips[-1]) + skips[-1]


@up_step.misconception
def skip_before_h(h: Tensor, skips: list[Tensor]) -> Tensor:
    """The skip stands before h. To a trained model the order matters: first what comes from below,
    then the skip.
    """
    return torch.cat([skips[-1], _grow(h, skips[-1])], dim=1)


@up_step.misconception
def first_skip(h: Tensor, skips: list[Tensor]) -> Tensor:
    """This takes the first skip, which is that of the finest level. On the way up the levels come
    in reverse: the last skip made is the first one used.
    """
    return torch.cat([_grow(h, skips[0]), skips[0]], dim=1)


@up_step.misconception
def first_skip_popped(h: Tensor, skips: list[Tensor]) -> Tensor:
    """skips.pop(0) takes the first skip, which is that of the finest level. On the way up the
    levels come in reverse: the last skip made is the first one used, and pop() takes the last.
    """
    skip = skips.pop(0)
    return torch.cat([_grow(h, skip), skip], dim=1)


@up_step.misconception
def other_skips_changed(h: Tensor, skips: list[Tensor]) -> Tensor:
    """The output is right, but the list is not what the next steps need: they find their skips in
    it. Its last entry may go; the others stay, and nothing comes in.
    """
    skip = skips[-1]
    skips.clear()
    return torch.cat([_grow(h, skip), skip], dim=1)


@up_step.misconception
def not_grown(h: Tensor, skips: list[Tensor]) -> Tensor:
    """h is joined as it is. Most skips are larger: grow h to the skip's size first."""
    return torch.cat([h, skips[-1]], dim=1)


@up_step.misconception
def always_doubled(h: Tensor, skips: list[Tensor]) -> Tensor:
    """h is doubled, whatever waits for it. On the way down 7 became 4, and 4 doubled is 8: grow h
    to the size of the skip.
    """
    return torch.cat([F.interpolate(h, scale_factor=2, mode="nearest"), skips[-1]], dim=1)


@up_step.misconception
def doubled_and_cut_off(h: Tensor, skips: list[Tensor]) -> Tensor:
    """h is doubled and then cut to the skip's size. From 4 to 7 that works; but where h has the
    skip's size already, as at the lowest level, it keeps a corner and loses the rest.
    """
    rows, columns = skips[-1].shape[-2:]
    doubled = F.interpolate(h, scale_factor=2, mode="nearest")
    return torch.cat([doubled[..., :rows, :columns], skips[-1]], dim=1)


@up_step.misconception
def doubled_and_padded(h: Tensor, skips: list[Tensor]) -> Tensor:
    """h is doubled and padded by half the difference on each side, as several published UNets do.
    From 8 to 7 that "pads" by -1 and takes away the first row or column. Grow h to the skip's size
    instead.
    """
    doubled = F.interpolate(h, scale_factor=2, mode="nearest")
    rows, columns = (skips[-1].shape[i] - doubled.shape[i] for i in (2, 3))
    pads = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.cat([F.pad(doubled, pads), skips[-1]], dim=1)


@up_step.misconception
def height_from_the_width(h: Tensor, skips: list[Tensor]) -> Tensor:
    """h gets the skip's width for its height. Pictures need not be square: size takes (H, W), in
    this order, which are the skip's last two axes.
    """
    rows, columns = skips[-1].shape[-2:]
    grown = F.interpolate(h, size=(columns, rows), mode="nearest")
    return torch.cat([grown, skips[-1]], dim=1)


@up_step.misconception
def skip_resized(h: Tensor, skips: list[Tensor]) -> Tensor:
    """h is doubled, and the skip is made to fit it. The skip is as large as the output is to be:
    grow h to the size of the skip, and leave that as it is.
    """
    doubled = F.interpolate(h, scale_factor=2, mode="nearest")
    return torch.cat([doubled, F.interpolate(skips[-1], size=doubled.shape[-2:])], dim=1)


@up_step.misconception
def bilinear(h: Tensor, skips: list[Tensor]) -> Tensor:
    """The values in between are blended (bilinear). Asked for is the nearest one, repeated."""
    grown = F.interpolate(h, size=skips[-1].shape[-2:], mode="bilinear")
    return torch.cat([grown, skips[-1]], dim=1)


@up_step.misconception
def nearest_exact(h: Tensor, skips: list[Tensor]) -> Tensor:
    """This is mode="nearest-exact", which measures from the centres of the pixels and repeats
    others where 4 becomes 7. The formula asked for is that of mode="nearest".
    """
    grown = F.interpolate(h, size=skips[-1].shape[-2:], mode="nearest-exact")
    return torch.cat([grown, skips[-1]], dim=1)


@up_step.misconception
def tiled(h: Tensor, skips: list[Tensor]) -> Tensor:
    """The whole picture is laid out twice, like tiles: that is what Tensor.repeat does. Each pixel
    has to be repeated beside itself.
    """
    rows, columns = skips[-1].shape[-2:]
    return torch.cat([h.repeat(1, 1, 2, 2)[..., :rows, :columns], skips[-1]], dim=1)


@up_step.misconception
def skip_shrunk(h: Tensor, skips: list[Tensor]) -> Tensor:
    """The skip is shrunk to the size of h, and its fine detail, for which it is there, is lost.
    Grow h instead.
    """
    return torch.cat([h, F.interpolate(skips[-1], size=h.shape[-2:], mode="nearest")], dim=1)


@up_step.misconception
def joined_along_the_batch(h: Tensor, skips: list[Tensor]) -> Tensor:
    """They are joined along the batch, torch.cat's default: that makes twice as many images.
    Channels are dim=1.
    """
    return torch.cat([_grow(h, skips[-1]), skips[-1]])


@up_step.misconception
def joined_along_the_width(h: Tensor, skips: list[Tensor]) -> Tensor:
    """They are joined along the last axis, as if channels came last: that makes one picture twice
    as wide. In PyTorch channels are dim=1.
    """
    return torch.cat([_grow(h, skips[-1]), skips[-1]], dim=-1)


# --- 5: a small experiment: who has a say? -------------------------------------------------------

Model = Callable[[Tensor], Tensor]


class SmallModel(nn.Module):
    """Some layers, between two convolutions that bring channels in and make one channel of them.

    Curved (silu), so that a small step and a large one give different answers.
    """

    def __init__(self, in_channels: int, layers: nn.Module) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.layers = layers
        self.conv_out = nn.Conv2d(4, 1, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_channels, H, W) to (N, 1, H, W)."""
        h: Tensor = F.silu(self.layers(F.silu(self.conv_in(x))))
        out: Tensor = self.conv_out(h)
        return out


def _small_model(draw: Draw) -> Inputs:
    """A norm, attention, a way down and up; a place off the diagonal, where the output is < 0."""
    in_channels, height, width = draw.integer(2, 4), draw.integer(6, 9), draw.integer(9, 12)
    layers: Callable[[], nn.Module] = (
        lambda: nn.GroupNorm(2, 4),
        lambda: unet.Attention(4),
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Upsample((height, width))
        ),
    )[draw.case % 3]
    f = draw.module(lambda: SmallModel(in_channels, layers())).double()
    x, row = draw.normal(1, in_channels, height, width), draw.integer(1, 5)
    column = (row + draw.integer(1, 4)) % 6
    with torch.no_grad():
        if f(x)[0, 0, row, column] > 0:  # so that the slope of its absolute value differs
            for parameter in f.conv_out.parameters():
                parameter.neg_()
    return {"f": f, "x": x, "row": row, "column": column}


def _influence_beside_x(answer: Answer, inputs: Inputs) -> Inputs:
    """What an answer returns, unless it leaves something behind in x."""
    x: Tensor = inputs["x"]
    result = answer(*inputs.values())
    if x.grad is not None:
        raise Malformed("It leaves its gradients in x.grad.")
    if x.requires_grad:
        raise Malformed("After it, x.requires_grad is True.")
    return {"the influence": result}


@task(points=3, inputs=_small_model, observe=_influence_beside_x, n_cases=3)
def influence(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """How strongly each pixel of x bears on one pixel of f(x), (1, C, H, W) -> (H, W)."""
    x = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(f(x)[0, 0, row, column], x)  # (1, C, H, W)
    return slopes[0].abs().sum(0)  # (C, H, W) -> (H, W)


def _slopes(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x)[0, 0, row, column], x)[0][0]  # (C, H, W)


@influence.misconception
def gradients_left_in_x(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """backward() adds to x.grad, and x is the caller's: asked again with the same x, this returns
    the sum of both answers. Work on a copy, x.clone(), or use torch.autograd.grad, which keeps
    nothing.
    """
    x.requires_grad_()
    torch.autograd.backward(f(x)[0, 0, row, column])
    assert x.grad is not None
    return x.grad.abs().sum(1)[0]


@influence.misconception
def x_itself_requires_gradients(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """x is the caller's, and whatever is computed with it from now on is recorded for a gradient
    that nobody asks for. Call requires_grad_() on a copy, x.clone().
    """
    return torch.autograd.grad(f(x.requires_grad_())[0, 0, row, column], x)[0][0].abs().sum(0)


@influence.misconception
def tuple_taken_for_the_batch(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The channels are still there. torch.autograd.grad returns a tuple, whose [0] is the gradient,
    (1, C, H, W): the channels are dim=1 of it.
    """
    return _slopes(f, x, row, column).abs()


@influence.misconception
def slope_of_the_absolute_output(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The absolute value is taken of the output; asked for is that of each slope, channel by
    channel.
    """
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x)[0, 0, row, column].abs(), x)[0][0].sum(0)


@influence.misconception
def signs_kept(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The slopes are added with their signs, so channels that pull in opposite directions cancel.
    Take absolute values before the sum.
    """
    return _slopes(f, x, row, column).sum(0)


@influence.misconception
def absolute_after_the_sum(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The absolute value comes after the sum over channels, when they have cancelled already. Take
    it before.
    """
    return _slopes(f, x, row, column).sum(0).abs()


@influence.misconception
def only_what_pushes_up(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """Only positive slopes are counted. A pixel that pushes the answer down has as much of an
    influence: take absolute values.
    """
    return _slopes(f, x, row, column).clamp(min=0).sum(0)


@influence.misconception
def first_channel_only(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """Only the first channel is looked at; a pixel acts through all of them. Sum over channels."""
    return _slopes(f, x, row, column)[0].abs()


@influence.misconception
def averaged_over_channels(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """This is the mean over the channels; asked for is their sum."""
    return _slopes(f, x, row, column).abs().mean(0)


@influence.misconception
def largest_of_the_channels(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """This is the largest of the channels; asked for is their sum."""
    return _slopes(f, x, row, column).abs().amax(0)


@influence.misconception
def root_of_squares(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The channels are put together as the root of a sum of squares; asked for is the sum of
    absolute values.
    """
    return _slopes(f, x, row, column).square().sum(0).sqrt()


@influence.misconception
def squared(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The slopes are squared. That makes them positive, but the weak ones vanish: take absolute
    values.
    """
    return _slopes(f, x, row, column).square().sum(0)


@influence.misconception
def on_the_whole_picture(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """This is the influence on the sum of the whole output. Pick the one pixel, [0, 0, row,
    column], before you differentiate.
    """
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0][0].abs().sum(0)


@influence.misconception
def column_before_row(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """Row and column are exchanged. A picture is indexed [..., row, column]: downwards first."""
    return _slopes(f, x, column, row).abs().sum(0)


@influence.misconception
def seen_from_the_input(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """This is how one pixel of the input acts on every pixel of the output. The question goes the
    other way: which pixels of the input act on one of the output?
    """
    changes = torch.zeros_like(x[0, 0])
    with torch.no_grad():
        for channel in range(x.shape[1]):
            moved = x.clone()
            moved[0, channel, row, column] += 1e-6
            changes += (f(moved) - f(x))[0, 0].abs() / 1e-6  # (H, W)
    return changes


@influence.misconception
def times_the_input(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The slopes are multiplied by the pixels, as saliency maps of classifiers often are. A pixel
    of value 0 has an influence too, once it changes: the slope alone says how much.
    """
    return (_slopes(f, x, row, column) * x[0]).abs().sum(0)


@influence.misconception
def largest_is_1(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """The map is divided by its largest value. Then maps of different models cannot be compared any
    more; leave it as it is.
    """
    slopes = _slopes(f, x, row, column).abs().sum(0)
    return slopes / slopes.max()


def _changes(f: Model, x: Tensor, row: int, column: int, step: float) -> Tensor:
    """By how much the output moves when each number of x is raised by a step, (C, H, W)."""
    pokes = step * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])  # (C H W, C, H, W)
    with torch.no_grad():
        change = f(x + pokes)[:, 0, row, column] - f(x)[0, 0, row, column]  # (C H W,)
    return change.view(x.shape[1:]).abs()


@influence.misconception
def poked_by_1(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """Each pixel was raised by 1, and a curved function is not straight over such a distance. Use a
    tiny step and divide by it, or let PyTorch differentiate.
    """
    return _changes(f, x, row, column, 1.0).sum(0)


@influence.misconception
def poked_by_a_hundredth(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """A step of 0.01 is too large: a curved function is not straight over such a distance. Try a
    millionth, or let PyTorch differentiate.
    """
    return _changes(f, x, row, column, 1e-2).sum(0) / 1e-2


@influence.misconception
def not_divided_by_the_step(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """All of it is next to 0. If this is by how much the output moved: asked for is how fast, so
    divide by the step.
    """
    return _changes(f, x, row, column, 1e-6).sum(0)
