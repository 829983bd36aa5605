"""Right answers to the tasks of chapter 07 in other styles than the reference's."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch

from minidiff.forward import NoiseSchedule

# --- sigma ---------------------------------------------------------------------------------------


def one_root(a_bar, a_bar_prev, eta):
    return eta * ((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev)).sqrt()


def from_beta_tilde(a_bar, a_bar_prev, eta):
    return eta * NoiseSchedule(1 - a_bar / a_bar_prev).posterior_variance.sqrt()


def sigma_in_a_loop(a_bar, a_bar_prev, eta):
    found = []
    for a, prev in zip(a_bar.tolist(), a_bar_prev.tolist(), strict=True):
        found.append(eta * math.sqrt((1 - prev) / (1 - a)) * math.sqrt(1 - a / prev))
    return found


def sigma_through_numpy(a_bar, a_bar_prev, eta):
    a, prev = a_bar.numpy(), a_bar_prev.numpy()
    return np.sqrt(eta**2 * (1 - prev) * (prev - a) / ((1 - a) * prev))


# --- ddim_step -----------------------------------------------------------------------------------


def step_in_parts(x_t, eps, a_bar, a_bar_prev, sigma, noise):
    pred = torch.clip((x_t - torch.sqrt(1 - a_bar) * eps) / torch.sqrt(a_bar), -1, 1)
    eps = (x_t - torch.sqrt(a_bar) * pred) / torch.sqrt(1 - a_bar)
    direction = torch.sqrt(1 - a_bar_prev - sigma**2) * eps
    return torch.sqrt(a_bar_prev) * pred + direction + sigma * noise


def step_with_floats(x_t, eps, a_bar, a_bar_prev, sigma, noise):
    a, prev, s = float(a_bar), float(a_bar_prev), float(sigma)
    x_0 = ((x_t - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
    eps = (x_t - a**0.5 * x_0) / (1 - a) ** 0.5
    x = prev**0.5 * x_0 + max(1 - prev - s * s, 0.0) ** 0.5 * eps
    return x + s * noise if s > 0 else x


def step_from_x_t(x_t, eps, a_bar, a_bar_prev, sigma, noise):
    x_0 = (x_t / a_bar.sqrt() - (1 / a_bar - 1).sqrt() * eps).clamp(min=-1, max=1)
    ratio = ((1 - a_bar_prev - sigma**2) / (1 - a_bar)).sqrt()
    return (a_bar_prev.sqrt() - ratio * a_bar.sqrt()) * x_0 + ratio * x_t + sigma * noise


def step_item_by_item(x_t, eps, a_bar, a_bar_prev, sigma, noise):
    out = x_t.clone()
    for i in range(len(x_t)):
        x_0 = ((x_t[i] - (1 - a_bar).sqrt() * eps[i]) / a_bar.sqrt()).clamp(-1, 1)
        out[i] = (x_t[i] - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()
        out[i] *= (1 - a_bar_prev - sigma**2).sqrt()
        out[i] += a_bar_prev.sqrt() * x_0 + sigma * noise[i]
    return out


def step_through_numpy(x_t, eps, a_bar, a_bar_prev, sigma, noise):
    a, prev, s = (v.numpy() for v in (a_bar, a_bar_prev, sigma))
    x, e = x_t.numpy(), eps.numpy()
    x_0 = np.clip((x - np.sqrt(1 - a) * e) / np.sqrt(a), -1, 1)
    e = (x - np.sqrt(a) * x_0) / np.sqrt(1 - a)
    return np.sqrt(prev) * x_0 + np.sqrt(1 - prev - s**2) * e + s * noise.numpy()


# --- sample --------------------------------------------------------------------------------------


def with_padded_levels(model, a_bar, timesteps, step, x_T):
    levels = torch.nn.functional.pad(a_bar[timesteps], (1, 0), value=1.0)  # (n + 1,)
    x = x_T
    for i in range(len(timesteps) - 1, -1, -1):
        x = step(x, model(x, timesteps[i].repeat(len(x))), levels[i + 1], levels[i])
    return x


def in_pairs(model, a_bar, timesteps, step, x_T):
    down = timesteps.tolist()[::-1]
    x = x_T.clone()
    with torch.no_grad():
        for t, previous in zip(down, [*down[1:], -1], strict=True):
            batch = torch.full((x.shape[0],), t, dtype=torch.long)
            prev = a_bar[previous] if previous >= 0 else torch.tensor(1.0, dtype=a_bar.dtype)
            x = step(x, model(x, batch, None), a_bar[t], prev)
    return x


def popping(model, a_bar, timesteps, step, x_T):
    left, x = timesteps.tolist(), x_T
    while left:
        t = left.pop()
        here = a_bar[t]
        there = a_bar[left[-1]] if left else here.new_ones(())
        x = step(x, model(x, t * torch.ones(len(x), dtype=torch.int64)), here, there)
    return x


def without_the_step_given(model, a_bar, timesteps, step, x_T):
    x = x_T
    for i in reversed(range(len(timesteps))):
        a = float(a_bar[timesteps[i]])
        prev = float(a_bar[timesteps[i - 1]]) if i else 1.0
        eps = model(x, timesteps[i].expand(len(x)))
        x_0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = prev**0.5 * x_0 + (1 - prev) ** 0.5 * eps
    return x


def samples_one_by_one(model, a_bar, timesteps, step, x_T):
    done = []
    for x in x_T.split(1):
        for i in reversed(range(len(timesteps))):
            prev = a_bar[timesteps[i - 1]] if i > 0 else torch.ones(())
            x = step(x, model(x, timesteps[i : i + 1]), a_bar[timesteps[i]], prev)
        done.append(x)
    return torch.cat(done)


# --- slerp ---------------------------------------------------------------------------------------


def slerp_with_cosine_similarity(a, b, weight):
    cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1))
    theta = torch.acos(cosine).reshape(-1, *[1] * (a.ndim - 1))
    return torch.sin((1 - weight) * theta) / torch.sin(theta) * a + (
        torch.sin(weight * theta) / torch.sin(theta) * b
    )


def slerp_item_by_item(a, b, weight):
    items = []
    for x, y in zip(a, b, strict=True):
        theta = math.acos(float((x * y).sum() / (x.norm() * y.norm())))
        first = math.sin((1 - weight) * theta) / math.sin(theta)
        items.append(first * x + math.sin(weight * theta) / math.sin(theta) * y)
    return torch.stack(items)


def slerp_by_unit_vectors(a, b, weight):
    dims = tuple(range(1, a.ndim))
    unit_a = a / a.square().sum(dims, keepdim=True).sqrt()
    unit_b = b / b.square().sum(dims, keepdim=True).sqrt()
    theta = (unit_a * unit_b).sum(dims, keepdim=True).clamp(-1, 1).acos()
    return (((1 - weight) * theta).sin() * a + (weight * theta).sin() * b) / theta.sin()


def slerp_through_numpy(a, b, weight):
    x, y = (v.double().numpy().reshape(len(v), -1) for v in (a, b))
    cosine = np.einsum("bd,bd->b", x, y) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    theta = np.arccos(cosine)[:, None]
    mixed = np.sin((1 - weight) * theta) * x + np.sin(weight * theta) * y
    return (mixed / np.sin(theta)).reshape(a.shape)


# --- invert --------------------------------------------------------------------------------------


def by_eq_13(model, a_bar, timesteps, x_0):
    s = ((1 - a_bar) / a_bar).sqrt()
    y, here = x_0 / a_bar[0].sqrt(), 0
    for there in timesteps.tolist():
        eps = model(a_bar[here].sqrt() * y, torch.full((len(y),), here))
        y, here = y + (s[there] - s[here]) * eps, there
    return a_bar[here].sqrt() * y


def climbing_in_pairs(model, a_bar, timesteps, x_0):
    visited = torch.cat([timesteps.new_zeros(1), timesteps])
    x = x_0.clone()
    for here, there in pairwise(visited):
        eps = model(x, here.repeat(len(x)), None)
        clean = (x - (1 - a_bar[here]) ** 0.5 * eps) / a_bar[here] ** 0.5
        x = a_bar[there] ** 0.5 * clean + (1 - a_bar[there]) ** 0.5 * eps
    return x


def with_floats(model, a_bar, timesteps, x_0):
    levels, x = a_bar[torch.cat([torch.tensor([0]), timesteps])].tolist(), x_0
    asked = [0, *timesteps.tolist()]
    with torch.no_grad():
        for i in range(len(timesteps)):
            a, b = levels[i], levels[i + 1]
            eps = model(x, torch.full((x.shape[0],), asked[i], dtype=torch.int64))
            x = (b / a) ** 0.5 * x + ((1 - b) ** 0.5 - (b * (1 - a) / a) ** 0.5) * eps
    return x


def inverted_one_by_one(model, a_bar, timesteps, x_0):
    found = []
    for x in x_0.split(1):
        here = torch.tensor([0])
        for there in timesteps.split(1):
            eps = model(x, here)
            clean = (x - (1 - a_bar[here]).sqrt() * eps) / a_bar[here].sqrt()
            x = a_bar[there].sqrt() * clean + (1 - a_bar[there]).sqrt() * eps
            here = there
        found.append(x)
    return torch.cat(found)


VARIANTS = {
    "sigma": [one_root, from_beta_tilde, sigma_in_a_loop, sigma_through_numpy],
    "ddim_step": [
        step_in_parts,
        step_with_floats,
        step_from_x_t,
        step_item_by_item,
        step_through_numpy,
    ],
    "sample": [
        with_padded_levels,
        in_pairs,
        popping,
        without_the_step_given,
        samples_one_by_one,
    ],
    "slerp": [
        slerp_with_cosine_similarity,
        slerp_item_by_item,
        slerp_by_unit_vectors,
        slerp_through_numpy,
    ],
    "invert": [by_eq_13, climbing_in_pairs, with_floats, inverted_one_by_one],
}
