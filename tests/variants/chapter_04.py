"""Right answers to the tasks of chapter 04 in other styles than the reference's."""

from __future__ import annotations

import copy

import numpy as np
import torch

from minidiff.ddpm import posterior
from minidiff.forward import NoiseSchedule, extract

# --- posterior_variance --------------------------------------------------------------------------


def padded(betas):
    a_bar = torch.nn.functional.pad((1 - betas).cumprod(0), (1, 0), value=1.0)  # (T + 1,)
    return (1 - a_bar[:-1]) / (1 - a_bar[1:]) * betas


def precisions_added(betas):
    a_bar_prev = torch.cat([torch.ones(1), (1 - betas).cumprod(0)[:-1]])
    return 1 / ((1 - betas) / betas + 1 / (1 - a_bar_prev))  # 1 / infinity is 0 at t = 0


def loop_with_an_if(betas):
    variances, a_bar = [], 1.0
    for t, beta in enumerate(betas.tolist()):
        previous, a_bar = a_bar, a_bar * (1 - beta)
        variances.append(0.0 if t == 0 else beta * (1 - previous) / (1 - a_bar))
    return variances


def variance_through_numpy(betas):
    b = betas.numpy()
    a_bar = np.cumprod(1 - b)
    return b * (1 - np.append(1, a_bar[:-1])) / (1 - a_bar)


def divided_by_alpha(betas):
    a_bar = torch.exp(torch.log1p(-betas).cumsum(0))
    return betas * (1 - a_bar / (1 - betas)) / (1 - a_bar)


def by_slices_of_the_schedule(betas):
    schedule, out = NoiseSchedule(betas), torch.zeros_like(betas)
    a_bar = schedule.alphas_cumprod
    out[1:] = betas[1:] * (1 - a_bar[:-1]) / (1 - a_bar[1:])
    return out


# --- posterior_mean ------------------------------------------------------------------------------


def mean_with_extract(x_0, x_t, t, betas):
    a_bar = (1 - betas).cumprod(0)
    prev = torch.cat([torch.ones(1), a_bar[:-1]])
    first = extract(prev.sqrt() * betas / (1 - a_bar), t, x_0)
    second = extract((1 - betas).sqrt() * (1 - prev) / (1 - a_bar), t, x_0)
    return first * x_0 + second * x_t


def mean_item_by_item(x_0, x_t, t, betas):
    means = torch.zeros_like(x_0)
    for i, step in enumerate(t.tolist()):
        a_bar = torch.prod(1 - betas[: step + 1])
        prev = torch.prod(1 - betas[:step])
        w_0 = prev.sqrt() * betas[step] / (1 - a_bar)
        w_t = (1 - betas[step]).sqrt() * (1 - prev) / (1 - a_bar)
        means[i] = w_0 * x_0[i] + w_t * x_t[i]
    return means


def mean_by_eq_11(x_0, x_t, t, betas):
    shape = (len(t),) + (1,) * (x_0.ndim - 1)
    a_bar = (1 - betas).cumprod(0)[t].reshape(shape)
    beta = betas[t].reshape(shape)
    eps = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()
    return (x_t - beta / (1 - a_bar).sqrt() * eps) / (1 - beta).sqrt()  # float64 throughout


def mean_with_einsum(x_0, x_t, t, betas):
    a_bar = torch.cumprod(1 - betas, 0)
    prev = torch.where(t > 0, a_bar[t - 1], 1.0)
    w_0 = (prev.sqrt() * betas[t] / (1 - a_bar[t])).to(x_0.dtype)
    w_t = ((1 - betas[t]).sqrt() * (1 - prev) / (1 - a_bar[t])).to(x_0.dtype)
    return torch.einsum("b,b...->b...", w_0, x_0) + torch.einsum("b,b...->b...", w_t, x_t)


def mean_through_numpy(x_0, x_t, t, betas):
    a_bar = np.cumprod(1 - betas.numpy())
    prev = np.concatenate([[1.0], a_bar])[t.numpy()]
    a_bar, beta = a_bar[t.numpy()], betas.numpy()[t.numpy()]
    w_0, w_t = np.sqrt(prev) * beta / (1 - a_bar), np.sqrt(1 - beta) * (1 - prev) / (1 - a_bar)
    return (w_0 * x_0.numpy().T + w_t * x_t.numpy().T).T


# --- predict_x_0 ---------------------------------------------------------------------------------


def x_0_with_extract(x_t, t, eps, betas):
    a_bar = NoiseSchedule(betas).alphas_cumprod
    x_0 = (x_t - extract((1 - a_bar).sqrt(), t, x_t) * eps) / extract(a_bar.sqrt(), t, x_t)
    return torch.clip(x_0, min=-1, max=1)


def x_0_of_algorithm_form(x_t, t, eps, betas):
    a_bar = torch.cumprod(1 - betas, 0)[t].view(-1, *[1] * (x_t.ndim - 1))
    x_0 = (1 / a_bar).sqrt() * x_t - (1 / a_bar - 1).sqrt() * eps  # diffusers' older form
    return x_0.to(x_t.dtype).clamp(-1, 1)


def x_0_item_by_item(x_t, t, eps, betas):
    items = []
    for x, step, e in zip(x_t, t, eps, strict=True):
        a_bar = float(torch.prod(1 - betas[: step + 1]))
        items.append(((x - (1 - a_bar) ** 0.5 * e) / a_bar**0.5).clamp(-1, 1))
    return torch.stack(items)


def x_0_in_place_on_a_copy(x_t, t, eps, betas):
    a_bar = (1 - betas).cumprod(0)[t].reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype)
    x_0 = x_t.clone()
    x_0 -= (1 - a_bar).sqrt() * eps
    x_0 /= a_bar.sqrt()
    return x_0.clamp_(-1, 1)


def x_0_through_numpy(x_t, t, eps, betas):
    a_bar = np.cumprod(1 - betas.numpy())[t.numpy()]
    x_0 = (x_t.numpy().T - np.sqrt(1 - a_bar) * eps.numpy().T) / np.sqrt(a_bar)
    return np.clip(x_0.T, -1, 1)


# --- ddpm_step -----------------------------------------------------------------------------------


def step_with_the_package_s_posterior(x_t, t, eps, betas, noise):
    schedule = NoiseSchedule(betas)
    a_bar = schedule.alphas_cumprod
    x_0 = (x_t - extract((1 - a_bar).sqrt(), t, x_t) * eps) / extract(a_bar.sqrt(), t, x_t)
    mean, variance = posterior(x_0.clamp(-1, 1), x_t, t, schedule)
    return mean + variance.sqrt() * noise


def step_by_eq_11_with_eps_derived_anew(x_t, t, eps, betas, noise):
    shape = (-1, *[1] * (x_t.ndim - 1))
    a_bar = (1 - betas).cumprod(0)
    prev = torch.where(t > 0, a_bar[t - 1], 1.0).view(shape)
    a_bar, beta = a_bar[t].view(shape), betas[t].view(shape)
    x_0 = ((x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()).clamp(-1, 1)
    eps = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()
    mean = (x_t - beta / (1 - a_bar).sqrt() * eps) / (1 - beta).sqrt()
    sigma = (beta * (1 - prev) / (1 - a_bar)).sqrt()
    return (mean + sigma * noise).to(x_t.dtype)


def step_item_by_item_with_an_if(x_t, t, eps, betas, noise):
    out = x_t.clone()
    for i, step in enumerate(t.tolist()):
        a_bar, prev = torch.prod(1 - betas[: step + 1]), torch.prod(1 - betas[:step])
        x_0 = ((x_t[i] - (1 - a_bar).sqrt() * eps[i]) / a_bar.sqrt()).clamp(-1, 1)
        mean = prev.sqrt() * betas[step] * x_0 + (1 - betas[step]).sqrt() * (1 - prev) * x_t[i]
        out[i] = mean / (1 - a_bar)
        if step > 0:
            out[i] += (betas[step] * (1 - prev) / (1 - a_bar)).sqrt() * noise[i]
    return out


def step_with_a_mask(x_t, t, eps, betas, noise):
    expand = (..., *[None] * (x_t.ndim - 1))
    a_bar = torch.cumprod(1 - betas, 0)
    prev = torch.cat([a_bar.new_ones(1), a_bar[:-1]])
    log_variance = (betas * (1 - prev) / (1 - a_bar))[1:].log()
    log_variance = torch.cat([log_variance[:1], log_variance])  # as OpenAI's code does
    x_0 = (x_t - (1 - a_bar)[t].sqrt()[expand] * eps) / a_bar[t].sqrt()[expand]
    x_0 = torch.maximum(torch.minimum(x_0, torch.ones(())), -torch.ones(()))
    mean = (prev.sqrt() * betas / (1 - a_bar))[t][expand] * x_0
    mean = mean + ((1 - betas).sqrt() * (1 - prev) / (1 - a_bar))[t][expand] * x_t
    mask = (t != 0).double()[expand]
    return mean + mask * torch.exp(0.5 * log_variance[t])[expand] * noise


# --- sample --------------------------------------------------------------------------------------


@torch.inference_mode()
def under_inference_mode(model, ema, betas, step, x_T, noises):
    ema.model.eval()
    x = x_T
    for t in range(len(betas) - 1, -1, -1):
        t_batch = torch.full((x.shape[0],), t, dtype=torch.long)
        x = step(x, t_batch, ema.model(x, t_batch, None), betas, noises[t])
    return x


def on_a_copy_without_gradients(model, ema, betas, step, x_T, noises):
    network = copy.deepcopy(ema.model).requires_grad_(False).eval()
    x, t = x_T.clone(), len(betas)
    while t > 0:
        t -= 1
        steps = t * torch.ones(len(x), dtype=torch.int64)
        x = step(x_t=x, t=steps, eps=network(x, steps), betas=betas, noise=noises[t])
    return x


def answer_detached_in_every_step(model, ema, betas, step, x_T, noises):
    network = ema.model.train(False)
    for t in torch.arange(len(betas)).flip(0):
        eps = network(x_T, t.expand(len(x_T))).detach()
        x_T = step(x_T, t.repeat(len(x_T)), eps, betas, noises[t])
    return x_T


@torch.no_grad()
def with_zipped_noises(model, ema, betas, step, x_T, noises):
    x, n_items = x_T.double(), len(x_T)
    ema.model.eval()
    for t, noise in reversed(list(enumerate(noises))):
        index = torch.tensor([t] * n_items)
        x = step(x, index, ema.model(x.float(), index), betas, noise)
    return x


def with_dropout_alone_switched_off(model, ema, betas, step, x_T, noises):
    for layer in ema.model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    ema.model.requires_grad_(False)
    x = x_T
    for t in reversed(range(len(betas))):
        index = torch.full(x.shape[:1], t)
        x = step(x, index, ema.model(x, index), betas, noises[t])
    return x


def sample_item_by_item(model, ema, betas, step, x_T, noises):
    network, samples = ema.model.eval(), []
    with torch.no_grad():
        for x, own in zip(x_T.split(1), noises.split(1, dim=1), strict=True):
            for t in reversed(range(len(betas))):
                index = torch.tensor([t])
                x = step(x, index, network(x, index), betas, own[t])
            samples.append(x)
    return torch.cat(samples)


# --- sample_in_few_steps -------------------------------------------------------------------------


def with_a_schedule(model, betas, timesteps, step, x_T, noises):
    a_bar = NoiseSchedule(betas).alphas_cumprod[timesteps]
    short = 1 - torch.exp(torch.diff(a_bar.log(), prepend=torch.zeros(1)))
    for i in range(len(timesteps) - 1, -1, -1):
        index = torch.full((len(x_T),), i)
        x_T = step(x_T, index, model(x_T, timesteps[index]), short, noises[i])
    return x_T


def products_of_the_skipped_alphas(model, betas, timesteps, step, x_T, noises):
    kept, short, start = timesteps.tolist(), [], 0
    for t in kept:
        short.append(1 - torch.prod(1 - betas[start : t + 1]))
        start = t + 1
    short, x = torch.stack(short), x_T
    with torch.no_grad():
        for i, t in reversed([*enumerate(kept)]):
            eps = model(x, torch.full((len(x),), t))
            x = step(x, torch.full((len(x),), i), eps, short, noises[i])
    return x


def short_betas_in_a_loop(model, betas, timesteps, step, x_T, noises):
    a_bar = torch.cumprod(1 - betas, dim=0)
    short = torch.zeros(len(timesteps), dtype=betas.dtype)
    for i in range(len(timesteps)):
        previous = a_bar[timesteps[i - 1]] if i > 0 else 1.0
        short[i] = 1 - a_bar[timesteps[i]] / previous
    x = x_T
    for i in torch.arange(len(timesteps)).flip(0):
        x = step(x, i.repeat(len(x)), model(x, timesteps[i].repeat(len(x))), short, noises[i])
    return x


def through_numpy_in_float32(model, betas, timesteps, step, x_T, noises):
    a_bar = np.append(1.0, np.cumprod(1 - betas.numpy())[timesteps.numpy()])
    short = torch.from_numpy((1 - a_bar[1:] / a_bar[:-1]).astype(np.float32))
    x, n_items = x_T, len(x_T)
    for i in reversed(range(len(short))):
        t = torch.full((n_items,), int(timesteps[i]), dtype=torch.int64)
        x = step(x, torch.full((n_items,), i), model(x, t), short, noises[i])
    return x


VARIANTS = {
    "posterior_variance": [
        padded,
        precisions_added,
        loop_with_an_if,
        variance_through_numpy,
        divided_by_alpha,
        by_slices_of_the_schedule,
    ],
    "posterior_mean": [
        mean_with_extract,
        mean_item_by_item,
        mean_by_eq_11,
        mean_with_einsum,
        mean_through_numpy,
    ],
    "predict_x_0": [
        x_0_with_extract,
        x_0_of_algorithm_form,
        x_0_item_by_item,
        x_0_in_place_on_a_copy,
        x_0_through_numpy,
    ],
    "ddpm_step": [
        step_with_the_package_s_posterior,
        step_by_eq_11_with_eps_derived_anew,
        step_item_by_item_with_an_if,
        step_with_a_mask,
    ],
    "sample": [
        under_inference_mode,
        on_a_copy_without_gradients,
        answer_detached_in_every_step,
        with_zipped_noises,
        with_dropout_alone_switched_off,
        sample_item_by_item,
    ],
    "sample_in_few_steps": [
        with_a_schedule,
        products_of_the_skipped_alphas,
        short_betas_in_a_loop,
        through_numpy_in_float32,
    ],
}
