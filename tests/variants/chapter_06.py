"""Right answers to the tasks of chapter 06 in other styles than the reference's."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Normal

from minidiff.ddpm import Denoiser
from minidiff.forward import NoiseSchedule, extract
from minidiff.improved import (
    discretised_log_likelihood,
    learned_log_variance,
    posterior_log_variance,
    vlb_term,
)

# --- log_beta_tilde ------------------------------------------------------------------------------


def of_the_schedule(betas):
    variance = NoiseSchedule(betas).posterior_variance.clone()
    variance[0] = variance[1]
    return torch.log(variance)


def precisions_added_and_clipped(betas):
    a_bar_prev = torch.cat([torch.ones(1), (1 - betas).cumprod(0)[:-1]])
    log_variance = -torch.log((1 - betas) / betas + 1 / (1 - a_bar_prev))
    return torch.cat([log_variance[1:2], log_variance[1:]])


def through_numpy(betas):
    b = betas.numpy()
    a_bar = np.cumprod(1 - b)
    variance = b * (1 - np.append(1, a_bar[:-1])) / (1 - a_bar)
    return np.log(np.append(variance[1], variance[1:]))


def in_a_loop(betas):
    logs, a_bar = [], 1.0
    for beta in betas.tolist():
        previous, a_bar = a_bar, a_bar * (1 - beta)
        if previous < 1:
            logs.append(math.log(beta * (1 - previous) / (1 - a_bar)))
    return [logs[0], *logs]


def sum_of_logarithms(betas):
    a_bar = (1 - betas).cumprod(0)
    log = betas[1:].log() + (1 - a_bar[:-1]).log() - (1 - a_bar[1:]).log()
    return torch.nn.functional.pad(log[None, None], (1, 0), mode="replicate")[0, 0]


# --- learned_log_variance ------------------------------------------------------------------------


def with_extract(v, t, schedule):
    low = extract(posterior_log_variance(schedule), t, v)
    high = extract(schedule.betas.log(), t, v)
    return low + (v + 1) / 2 * (high - low)


def with_lerp(v, t, schedule):
    shape = (-1, *[1] * (v.ndim - 1))
    low = posterior_log_variance(schedule)[t].view(shape).to(v)
    high = schedule.betas.log()[t].view(shape).to(v)
    return torch.lerp(low.expand_as(v), high.expand_as(v), (v + 1) / 2)


def powers_of_variances(v, t, schedule):
    shape = (-1, *[1] * (v.ndim - 1))
    variance = schedule.posterior_variance[t.clamp(min=1)].view(shape)
    fraction = 0.5 * v.double() + 0.5
    return torch.log(schedule.betas[t].view(shape) ** fraction * variance ** (1 - fraction))


def item_by_item(v, t, schedule):
    low, high = posterior_log_variance(schedule).tolist(), schedule.betas.log().tolist()
    rows = [((x + 1) * high[s] + (1 - x) * low[s]) / 2 for x, s in zip(v, t.tolist(), strict=True)]
    return torch.stack(rows)


def middle_and_half_width(v, t, schedule):
    low, high = posterior_log_variance(schedule)[t], schedule.betas.log()[t]
    middle, half = ((high + low) / 2).numpy(), ((high - low) / 2).numpy()
    return (middle + half * v.numpy().T).T


# --- kl_in_bits ----------------------------------------------------------------------------------


def in_five_terms(mean_p, log_variance_p, mean_q, log_variance_q):
    kl = 0.5 * (
        -1.0
        + log_variance_q
        - log_variance_p
        + torch.exp(log_variance_p - log_variance_q)
        + ((mean_p - mean_q) ** 2) * torch.exp(-log_variance_q)
    )
    return kl.mean(dim=list(range(1, kl.ndim))) / np.log(2.0)


def with_deviations(mean_p, log_variance_p, mean_q, log_variance_q):
    p, q = torch.exp(log_variance_p / 2), torch.exp(log_variance_q / 2)
    nats = torch.log(q / p) + (p**2 + (mean_p - mean_q) ** 2) / (2 * q**2) - 0.5
    return nats.reshape(len(nats), -1).mean(-1) / math.log(2)


def with_log2(mean_p, log_variance_p, mean_q, log_variance_q):
    p, q = log_variance_p.exp(), log_variance_q.exp()
    bits = torch.log2(q / p) / 2 + ((p + (mean_p - mean_q) ** 2) / q - 1) * math.log2(math.e) / 2
    return torch.stack([item.mean() for item in bits])


def as_a_difference_of_entropies(mean_p, log_variance_p, mean_q, log_variance_q):
    q = Normal(mean_q, (log_variance_q / 2).exp())
    cross = -q.log_prob(mean_p) + (log_variance_p - log_variance_q).exp() / 2
    entropy = Normal(mean_p, (log_variance_p / 2).exp().expand_as(mean_p)).entropy()
    return (cross - entropy).flatten(1).mean(1) / math.log(2)


def kl_through_numpy(mean_p, log_variance_p, mean_q, log_variance_q):
    a, b, c, d = (x.numpy() for x in (mean_p, log_variance_p, mean_q, log_variance_q))
    nats = (d - b - 1 + np.exp(b - d) + (a - c) ** 2 * np.exp(-d)) / 2
    return nats.reshape(len(nats), -1).mean(axis=1) / np.log(2)


# --- bin_probability -----------------------------------------------------------------------------


def with_a_normal(x_0, mean, log_variance):
    p = Normal(mean, (log_variance / 2).exp().expand_as(mean))
    upper, lower = p.cdf(x_0 + 1 / 255), p.cdf(x_0 - 1 / 255)
    white, black = x_0 > 0.999, x_0 < -0.999
    return torch.where(black, upper, torch.where(white, 1 - lower, upper - lower))


def edges_at_infinity(x_0, mean, log_variance):
    upper, lower = x_0 + 1 / 255, x_0 - 1 / 255
    upper = upper.masked_fill(x_0 >= 1 - 1 / 255, math.inf)
    lower = lower.masked_fill(x_0 <= -1 + 1 / 255, -math.inf)
    scale = torch.exp(-0.5 * log_variance) / 2**0.5
    return (torch.erf((upper - mean) * scale) - torch.erf((lower - mean) * scale)) / 2


def from_the_grey_level(x_0, mean, log_variance):
    level = ((x_0.double() + 1) * 127.5).round()
    centre, deviation = (mean.double() + 1) * 127.5, (log_variance.double() / 2).exp() * 127.5
    upper = torch.special.ndtr((level + 0.5 - centre) / deviation)
    lower = torch.special.ndtr((level - 0.5 - centre) / deviation)
    upper[level == 255] = 1
    lower[level == 0] = 0
    return upper - lower


def by_survival(x_0, mean, log_variance):
    deviation, z = (log_variance / 2).exp(), x_0 - mean
    low = torch.special.erfc((z - 1 / 255) / deviation / math.sqrt(2)) / 2
    high = torch.special.erfc((z + 1 / 255) / deviation / math.sqrt(2)) / 2
    low = torch.where(x_0 < -0.999, torch.ones_like(low), low)
    return low - torch.where(x_0 > 0.999, torch.zeros_like(high), high)


def compared_exactly(x_0, mean, log_variance):
    deviation = torch.exp(log_variance) ** 0.5
    upper = torch.special.ndtr((x_0 + 1 / 255 - mean) / deviation)
    lower = torch.special.ndtr((x_0 - 1 / 255 - mean) / deviation)
    upper[x_0 == 1] = 1.0
    lower[x_0 == -1] = 0.0
    return upper - lower


# --- hybrid_loss ---------------------------------------------------------------------------------


def by_hand(model, x_0, t, noise, schedule):
    signal = extract(schedule.alphas_cumprod.sqrt(), t, x_0)
    spread = extract((1 - schedule.alphas_cumprod).sqrt(), t, x_0)
    x_t = signal * x_0 + spread * noise
    output = model(x_t, t)
    n_channels = x_0.shape[1]
    prediction, v = output[:, :n_channels], output[:, n_channels:]
    log_variance = learned_log_variance(0.5 * (1 + v), t, schedule)
    terms = vlb_term(x_0, x_t, t, prediction.detach(), log_variance, schedule)
    simple = ((prediction - x_0) ** 2).mean()
    return simple + 0.001 * len(schedule.betas) * torch.mean(terms)


def detached_by_no_grad(model, x_0, t, noise, schedule):
    signal = extract(schedule.alphas_cumprod.sqrt(), t, x_0)
    x_t = signal * x_0 + extract((1 - schedule.alphas_cumprod).sqrt(), t, x_0) * noise
    prediction, v = model(x_t, t).split(x_0.shape[1], dim=1)
    with torch.no_grad():
        guess = prediction.clone()
    low, high = (
        extract(x, t, x_0) for x in (posterior_log_variance(schedule), schedule.betas.log())
    )
    terms = vlb_term(x_0, x_t, t, guess, low + (v + 1) / 2 * (high - low), schedule)
    return torch.nn.functional.mse_loss(prediction, x_0) + terms.sum() / len(t) * (
        schedule.n_steps * 1e-3
    )


def with_a_denoiser(model, x_0, t, noise, schedule):
    signal = extract(schedule.alphas_cumprod.sqrt(), t, x_0)
    x_t = signal * x_0 + extract((1 - schedule.alphas_cumprod).sqrt(), t, x_0) * noise
    prediction, v = torch.tensor_split(model(x_t, t, None), 2, dim=1)
    fixed = Denoiser(lambda *_: prediction, schedule, "x_0", clip=(-99, 99))(x_t, t)
    log_variance = learned_log_variance((v + 1) / 2, t, schedule)
    terms = vlb_term(x_0, x_t, t, fixed.x_0, log_variance, schedule)
    return (prediction - x_0).square().mean() + terms.mean() * schedule.n_steps / 1000


def item_by_item_in_a_loop(model, x_0, t, noise, schedule):
    signal = extract(schedule.alphas_cumprod.sqrt(), t, x_0)
    x_t = signal * x_0 + extract((1 - schedule.alphas_cumprod).sqrt(), t, x_0) * noise
    losses = []
    for i in range(len(t)):
        one = slice(i, i + 1)
        prediction, v = model(x_t[one], t[one]).chunk(2, 1)
        log_variance = learned_log_variance((v + 1) / 2, t[one], schedule)
        term = vlb_term(x_0[one], x_t[one], t[one], prediction.detach(), log_variance, schedule)
        losses.append((prediction - x_0[one]).square().mean() + term[0] * schedule.n_steps / 1000)
    return torch.stack(losses).mean()


def with_terms_of_its_own(model, x_0, t, noise, schedule):
    a_bar, prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    x_t = extract(a_bar.sqrt(), t, x_0) * x_0 + extract((1 - a_bar).sqrt(), t, x_0) * noise
    prediction, v = model(x_t, t).chunk(2, dim=1)
    log_variance = learned_log_variance((v + 1) / 2, t, schedule)
    weight_0 = extract(prev.sqrt() * schedule.betas / (1 - a_bar), t, x_0)
    low = extract(posterior_log_variance(schedule), t, x_0)
    error = (weight_0 * (x_0 - prediction.detach())) ** 2
    kl = (log_variance - low - 1 + (low.exp() + error) / log_variance.exp()) / 2
    decoder = -discretised_log_likelihood(x_0, prediction.detach(), log_variance)
    first = (t == 0).view(-1, *[1] * (x_0.ndim - 1))
    terms = torch.where(first, decoder, kl).flatten(1).mean(1) / math.log(2)
    return (prediction - x_0).square().mean() + schedule.n_steps / 1000 * terms.mean()


VARIANTS = {
    "log_beta_tilde": [
        of_the_schedule,
        precisions_added_and_clipped,
        through_numpy,
        in_a_loop,
        sum_of_logarithms,
    ],
    "learned_log_variance": [
        with_extract,
        with_lerp,
        powers_of_variances,
        item_by_item,
        middle_and_half_width,
    ],
    "kl_in_bits": [
        in_five_terms,
        with_deviations,
        with_log2,
        as_a_difference_of_entropies,
        kl_through_numpy,
    ],
    "bin_probability": [
        with_a_normal,
        edges_at_infinity,
        from_the_grey_level,
        by_survival,
        compared_exactly,
    ],
    "hybrid_loss": [
        by_hand,
        detached_by_no_grad,
        with_a_denoiser,
        item_by_item_in_a_loop,
        with_terms_of_its_own,
    ],
}
